"""Robust dynamic programming: worked numbers, brute force, linear programmes, saddle points."""

from __future__ import annotations

import itertools
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize

from palaestra.envs.tabular.gamble_chain import GambleChain
from palaestra.envs.tabular.grid_world import GridWorld
from palaestra.envs.tabular.planning.discounted import evaluate, policy_iteration
from palaestra.envs.tabular.planning.robust import (
    robust_backward_evaluation,
    robust_backward_induction,
    robust_policy_evaluation,
    robust_policy_iteration,
    robust_value_iteration,
    static_worst_model,
)
from palaestra.envs.tabular.planning.robust_balls import chi_square_ball, kl_ball, tv_ball
from palaestra.envs.tabular.planning.robust_sets import FactorRectangular, Family, Rectangular, soft
from palaestra.envs.tabular.planning.robust_state_sets import (
    StateRectangularFamily,
    StateRectangularL1,
)

GAMMA = 0.9


def process(states=4, actions=3, seed=0, batch=()):
    rng = np.random.default_rng(seed)
    P = rng.dirichlet(np.full(states, 0.5), (*batch, states, actions))
    return P, rng.normal(size=(*batch, states, actions))


def sets(states=4, actions=3, seed=0, batch=(), size=1.0):
    """One set of every kind around the same random process; `size` scales all of them."""
    P, _ = process(states, actions, seed, batch)
    rng = np.random.default_rng(seed + 1)
    family = rng.dirichlet(np.full(states, 0.5), (3, *batch, states, actions))
    family = np.concatenate([P[None], P + size * (family - P)])
    features = rng.dirichlet(np.ones(2), (*batch, states, actions))
    factors = rng.dirichlet(np.ones(states), (*batch, 2))
    radii = size * rng.uniform(0, 0.6, (*batch, states, actions))
    return {
        "l1": Rectangular(P, radii),
        "tv": Rectangular(P, radii, tv_ball),
        "kl": Rectangular(P, radii, kl_ball),
        "chi_square": Rectangular(P, radii, chi_square_ball),
        "factors": FactorRectangular(features, factors, size * 0.3, tv_ball),
        "family": Family(family),
        "l1 per state": StateRectangularL1(P, radii.sum(axis=-1)),
        "family per state": StateRectangularFamily(family),
    }


every_set = pytest.mark.parametrize("name", sets())


def one_hot(policy, actions):
    return np.eye(actions)[list(policy)]


# -- worked examples -------------------------------------------------------------------------------


def good_or_bad():
    """State 0 moves to 1 (reward 1 for ever) with a probability, else to 2; two such models."""
    models = np.zeros((2, 3, 2, 3))
    for model, chances in zip(models, [(0.9, 0.6), (0.2, 0.5)], strict=True):
        model[0, :, 1], model[0, :, 2] = chances, 1 - np.array(chances)
        model[1, :, 1] = model[2, :, 2] = 1
    return models, np.array([[0, 0], [1, 1], [0, 0]]), np.eye(3)[0]


def test_worked_example_two_models():
    models, R, start = good_or_bad()
    first = policy_iteration(models[0], R, GAMMA)
    action_values = GAMMA * models[:, 0] @ first.values
    assert action_values == pytest.approx(np.array([[8.1, 5.4], [1.8, 4.5]]), abs=1e-9)
    worst = static_worst_model(models, R, first.policy, GAMMA, start)
    assert (int(worst.model), float(worst.value)) == (1, pytest.approx(1.8, abs=1e-9))
    robust = robust_policy_iteration(Family(models), R, GAMMA)
    assert robust.policy[0] == pytest.approx([0, 1])
    assert robust.values[0] == pytest.approx(4.5, abs=1e-9)
    again = static_worst_model(models, R, robust.policy, GAMMA, start)
    assert (int(again.model), float(again.value)) == (1, pytest.approx(4.5, abs=1e-9))


def test_worked_example_windy_walk():
    cores = [GridWorld(layout="windy_walk", alpha=a) for a in np.linspace(0, 0.5, 25)]
    models, R = np.stack([core.P[0] for core in cores]), cores[0].R[0]
    alive = ~np.isin(np.arange(len(R)), cores[0].terminal_states)
    nominal = policy_iteration(models[0], R, 0.95, continues=alive)
    worst = static_worst_model(models, R, nominal.policy, 0.95, cores[0].d0, continues=alive)
    assert int(worst.model) == 24
    assert float(worst.value) == pytest.approx(-14.358511, abs=1e-6)
    for solve in (robust_value_iteration, robust_policy_iteration):
        robust = solve(Family(models), R, 0.95, continues=alive)
        assert cores[0].d0 @ robust.values == pytest.approx(-8.911116, abs=1e-6)
    # Wind never helps, so one model is the worst everywhere: choosing anew gains nothing.
    static = static_worst_model(models, R, robust.policy, 0.95, cores[0].d0, continues=alive)
    assert float(static.value) == pytest.approx(-8.911116, abs=1e-6)
    undiscounted = robust_value_iteration(Family(models), R, 1.0, continues=alive)
    last = static_worst_model(models, R, undiscounted.policy, 1.0, cores[0].d0, continues=alive)
    assert float(last.value) == pytest.approx(cores[0].d0 @ undiscounted.values, abs=1e-6)


def test_worked_example_soft_value():
    value, policy = soft(np.array([1, 0.5, 0]), [0.2, 0.3, 0.5], 2.0)
    assert float(value) == pytest.approx(0.513611, abs=1e-6)
    assert policy == pytest.approx([0.529056, 0.291944, 0.179000], abs=1e-6)


@pytest.mark.parametrize(("radius", "value"), [(0.0, 1.122837), (0.2, 0.738492)])
def test_worked_example_gamble_chain(radius, value):
    core = GambleChain(safe=0.3, jackpot=0.4)
    choose = partial(soft, reference=np.full(4, 1 / 4), eta=20.0)
    chain = FactorRectangular(core.phi, core.mu, radius, tv_ball)
    plan = robust_backward_induction(chain, core.R[0], 4, choose=choose)
    assert plan.values[0, 0] == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("horizon", [4, 6, 8])
def test_gamble_chain_the_robust_plan_loses_a_little_and_saves_much(horizon):
    core = GambleChain(horizon=horizon)
    choose = partial(soft, reference=np.full(4, 1 / 4), eta=60.0)
    policies = [
        robust_backward_induction(
            FactorRectangular(core.phi, core.mu, radius, tv_ball), core.R[0], horizon, choose=choose
        ).policy
        for radius in (0.3, 0.0)
    ]
    value = {}
    for shift in (0.0, 0.3, 0.4):
        shifted = Rectangular(GambleChain(horizon=horizon, shift=shift).P[0], 0.0)
        value[shift] = [
            robust_backward_evaluation(shifted, core.R[0], policy).values[0, 0]
            for policy in policies
        ]
    assert value[0.3][0] > 1.2 * value[0.3][1] and value[0.4][0] > 1.2 * value[0.4][1]
    assert 0.85 * value[0.0][1] < value[0.0][0] < value[0.0][1]


# -- brute force -----------------------------------------------------------------------------------


def test_a_family_equals_trying_all_policies_and_all_closures():
    rng = np.random.default_rng(3)
    models, R = rng.dirichlet(np.ones(3), (2, 3, 2)), rng.normal(size=(3, 2))
    rows = list(itertools.product(range(2), repeat=6))  # which model, for each (s, a)
    closure = np.stack(
        [models[np.reshape(row, (3, 2)), np.arange(3)[:, None], np.arange(2)] for row in rows]
    )
    best = np.full(3, -np.inf)
    for policy in itertools.product(range(2), repeat=3):
        worst = evaluate(closure, R, np.array(policy), GAMMA).min(axis=0)
        found = robust_policy_evaluation(Family(models), R, one_hot(policy, 2), GAMMA)
        assert found.values == pytest.approx(worst, abs=1e-8)
        best = np.maximum(best, worst)
    assert robust_value_iteration(Family(models), R, GAMMA).values == pytest.approx(best, abs=1e-8)


def test_a_family_per_state_equals_a_fine_grid_of_policies():
    rng = np.random.default_rng(8)
    models, R = rng.dirichlet(np.full(2, 0.3), (3, 2, 2)), rng.normal(size=(2, 2))
    closure = np.stack(
        [models[list(pair), [0, 1]] for pair in itertools.product(range(3), repeat=2)]
    )
    shares = np.linspace(0, 1, 101)
    first, second = (part.ravel() for part in np.meshgrid(shares, shares))
    policies = np.stack([np.stack([x, 1 - x], axis=-1) for x in (first, second)], axis=1)
    worst = evaluate(closure[:, None], R, policies, GAMMA).min(axis=0)
    robust = robust_value_iteration(StateRectangularFamily(models), R, GAMMA)
    assert (worst <= robust.values + 1e-8).all(), "no policy is better"
    assert worst.max(axis=0) == pytest.approx(robust.values, abs=0.02)
    assert 0.01 < robust.policy[1, 0] < 0.99, "the best policy randomises"
    deterministic = robust_value_iteration(Family(models), R, GAMMA)
    assert (deterministic.values <= robust.values + 1e-9).all()
    assert deterministic.values.sum() < robust.values.sum() - 1


@pytest.mark.parametrize("seed", range(12))
def test_l1_per_state_equals_a_linear_programme(seed):
    """One state's backup: min u with u >= r_a + gamma p_a . v, the L1 distances within a budget."""
    rng = np.random.default_rng(seed)
    S, A = 5, 3
    P, R = rng.dirichlet(np.full(S, 0.4), (S, A)), rng.normal(size=(S, A))
    values, budgets = rng.normal(size=S) * 3, rng.uniform(0, 3, S) * (rng.random(S) > 0.2)
    if seed % 3 == 0:
        values = np.round(values)
    found = StateRectangularL1(P, budgets).optimal(R, values, GAMMA)
    for s in range(S):
        size = S * A
        eye = np.eye(size)
        level = np.hstack([np.kron(np.eye(A), GAMMA * values), np.zeros((A, size))])
        limits = np.vstack(
            [
                np.c_[level, -np.ones(A)],
                np.c_[eye, -eye, np.zeros(size)],
                np.c_[-eye, -eye, np.zeros(size)],
                np.r_[np.zeros(size), np.ones(size), 0],
            ]
        )
        programme = linprog(
            np.r_[np.zeros(2 * size), 1],
            A_ub=limits,
            b_ub=np.r_[-R[s], P[s].ravel(), -P[s].ravel(), budgets[s]],
            A_eq=np.hstack([np.kron(np.eye(A), np.ones(S)), np.zeros((A, size + 1))]),
            b_eq=np.ones(A),
            bounds=[(0, None)] * (2 * size) + [(None, None)],
        )
        assert found.values[s] == pytest.approx(programme.fun, abs=1e-7)


@every_set
def test_a_saddle_point_is_found(name):
    """The policy guarantees the values, and the model allows no policy more."""
    _, R = process()
    uncertainty = sets()[name]
    robust = robust_policy_iteration(uncertainty, R, GAMMA)
    guaranteed = robust_policy_evaluation(uncertainty, R, robust.policy, GAMMA)
    assert guaranteed.values == pytest.approx(robust.values, abs=1e-8)
    allowed = policy_iteration(robust.P, R, GAMMA)
    assert allowed.values == pytest.approx(robust.values, abs=1e-8)


def test_an_adversary_per_action_is_stronger():
    P, R = process()
    per_state = sets()["l1 per state"]
    weaker = robust_policy_iteration(per_state, R, GAMMA).values
    # Every action may use the whole budget of its state.
    stronger = robust_policy_iteration(Rectangular(P, per_state.radius[:, None]), R, GAMMA).values
    assert (stronger < weaker - 1e-3).all()


@st.composite
def degenerate_backups(draw):
    """Transitions, rewards, values and budgets with ties and zeros."""
    S, A = draw(st.integers(2, 4)), draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    P = rng.integers(0, 3, (S, A, S)) + np.eye(S)[:, None]
    values = rng.integers(-2, 3, S) * draw(st.sampled_from([1.0, 1e-9]))
    values = values + draw(st.sampled_from([0, 1e-6, 1e-13])) * rng.normal(size=S)
    budgets = rng.integers(0, 5, S) / 2
    return P / P.sum(axis=-1, keepdims=True), rng.integers(-1, 2, (S, A)) / 2, values, budgets


@settings(max_examples=150, deadline=None)
@given(problem=degenerate_backups())
def test_per_state_a_backup_is_a_saddle_point_where_much_is_equal(problem):
    P, R, values, budgets = problem
    models = np.stack([P, np.roll(P, 1, axis=-1), np.roll(P, 1, axis=0)])
    for uncertainty in (StateRectangularL1(P, budgets), StateRectangularFamily(models)):
        found = uncertainty.optimal(R, values, GAMMA)
        guaranteed = uncertainty.under(found.policy, R, values, GAMMA).values
        assert guaranteed == pytest.approx(found.values, abs=1e-9)
        allowed = (R + GAMMA * found.P @ values).max(axis=-1)
        assert allowed == pytest.approx(found.values, abs=1e-9)
        assert found.policy.sum(axis=-1) == pytest.approx(np.ones(len(P)))
    worst = StateRectangularL1(P, budgets).optimal(R, values, GAMMA).P
    assert (np.abs(worst - P).sum(axis=(1, 2)) <= budgets + 1e-9).all(), "inside the set"


# -- what always holds -----------------------------------------------------------------------------


@every_set
def test_value_iteration_and_policy_iteration_agree(name):
    _, R = process(batch=(3,))
    uncertainty = sets(batch=(3,))[name]
    one = robust_value_iteration(uncertainty, R, GAMMA, tolerance=1e-9)
    other = robust_policy_iteration(uncertainty, R, GAMMA)
    assert one.values == pytest.approx(other.values, rel=2e-9, abs=2e-9)


@every_set
def test_a_batch_is_its_processes(name):
    _, R = process(batch=(3,))
    uncertainty = sets(batch=(3,))[name]
    together = robust_policy_iteration(uncertainty, R, GAMMA)
    assert together.P.shape == (3, 4, 3, 4) and together.policy.shape == (3, 4, 3)
    alone = robust_policy_iteration(uncertainty, R[1], GAMMA)
    assert alone.values[1] == pytest.approx(together.values[1], abs=1e-9), "one table of rewards"
    one_set = sets()[name]
    many = robust_policy_iteration(one_set, R, GAMMA)
    assert many.P.shape == (3, 4, 3, 4)
    for i in range(3):
        alone = robust_policy_iteration(one_set, R[i], GAMMA)
        assert alone.values == pytest.approx(many.values[i], abs=1e-9), "one set"


@every_set
def test_without_uncertainty_it_is_ordinary_planning(name):
    P, R = process()
    uncertainty = sets(size=0.0)[name]
    if name == "factors":
        P = uncertainty.features @ uncertainty.factors
    expected = policy_iteration(P, R, GAMMA)
    robust = robust_policy_iteration(uncertainty, R, GAMMA)
    assert robust.values == pytest.approx(expected.values, abs=1e-8)
    np.testing.assert_array_equal(robust.policy.argmax(axis=-1), expected.policy)
    np.testing.assert_allclose(robust.P, P, atol=1e-12)


@every_set
def test_more_uncertainty_never_helps(name):
    _, R = process()
    ladder = [
        robust_policy_iteration(sets(size=x)[name], R, GAMMA).values for x in (0, 0.3, 0.6, 1)
    ]
    assert (np.diff(ladder, axis=0) <= 1e-9).all()
    assert ladder[-1].sum() < ladder[0].sum() - 0.01


@every_set
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_backups_are_contractions_and_monotone(name, data):
    numbers = st.lists(st.floats(-5, 5), min_size=4, max_size=4)
    one, other = (np.array(data.draw(numbers)) for _ in range(2))
    _, R = process()
    uncertainty = sets()[name]
    policy = np.random.default_rng(0).dirichlet(np.ones(3), 4)
    for step in (uncertainty.optimal, partial(uncertainty.under, policy)):
        first, second = step(R, one, GAMMA).values, step(R, other, GAMMA).values
        assert np.abs(first - second).max() <= GAMMA * np.abs(one - other).max() + 1e-9
        above = step(R, np.maximum(one, other), GAMMA).values
        assert (above >= np.maximum(first, second) - 1e-9).all()


@every_set
def test_the_model_that_is_returned_explains_the_values(name):
    _, R = process()
    uncertainty = sets()[name]
    policy = np.random.default_rng(0).dirichlet(np.ones(3), 4)
    robust = robust_policy_evaluation(uncertainty, R, policy, GAMMA)
    assert robust.P.sum(axis=-1) == pytest.approx(np.ones((4, 3)))
    assert evaluate(robust.P, R, policy, GAMMA) == pytest.approx(robust.values, abs=1e-8)


def test_models_inside_a_set_are_no_worse_than_its_worst():
    P, R = process()
    policy = np.random.default_rng(0).dirichlet(np.ones(3), 4)
    radius = 0.4
    others = np.random.default_rng(1).dirichlet(np.full(4, 0.3), (200, 4, 3))
    share = np.minimum(radius / np.abs(others - P).sum(axis=-1, keepdims=True), 1)
    models = P + share * (others - P)
    static = static_worst_model(models, R, policy, GAMMA, np.full(4, 1 / 4))
    robust = robust_policy_evaluation(Rectangular(P, radius), R, policy, GAMMA)
    assert (robust.values <= static.values + 1e-9).all()
    assert float(static.value) == static.values.mean(axis=-1).min()
    per_state = robust_policy_evaluation(StateRectangularL1(P, radius), R, policy, GAMMA)
    assert (robust.values <= per_state.values + 1e-9).all(), "one budget for three actions"


def test_discount_factors_near_one():
    P, R = process(6, 3)
    for uncertainty in (Rectangular(P, 0.2), Rectangular(P, 0.1, kl_ball)):
        robust = robust_policy_iteration(uncertainty, R, 0.9999)
        assert policy_iteration(robust.P, R, 0.9999).values == pytest.approx(
            robust.values, rel=1e-7
        )


# -- a horizon -------------------------------------------------------------------------------------


@every_set
def test_over_a_horizon_the_policy_is_worth_what_the_induction_says(name):
    _, R = process()
    uncertainty = sets()[name]
    plan = robust_backward_induction(uncertainty, R, 5, gamma=0.97)
    assert plan.values.shape == (5, 4) and plan.P.shape == (5, 4, 3, 4)
    value = robust_backward_evaluation(uncertainty, R, plan.policy, gamma=0.97)
    assert value.values == pytest.approx(plan.values, abs=1e-9)
    assert plan.values[-1] == pytest.approx(R.max(axis=1))


def test_sets_may_change_with_the_step():
    P, R = process()
    steps = [Rectangular(P, radius) for radius in (0.0, 0.5)]
    plan = robust_backward_induction(steps, R, 2)
    expected = (R + P @ R.max(axis=1)).max(axis=1)
    assert plan.values[0] == pytest.approx(expected), "the last step has no next state to move"
    swapped = robust_backward_induction(steps[::-1], R, 2)
    assert (swapped.values[0] < expected).all()


def test_actions_and_probabilities_are_the_same_policy():
    P, R = process()
    actions = np.array([2, 0, 1, 1])
    for uncertainty in (Rectangular(P, 0.3), StateRectangularL1(P, 0.3)):
        one = robust_policy_evaluation(uncertainty, R, actions, GAMMA).values
        other = robust_policy_evaluation(uncertainty, R, one_hot(actions, 3), GAMMA).values
        np.testing.assert_array_equal(one, other)


# -- regularised -----------------------------------------------------------------------------------


def test_soft_is_the_maximum_that_it_says_it_is():
    rng = np.random.default_rng(0)
    for eta in (0.1, 3.0):
        Q, reference = rng.normal(size=4), rng.dirichlet(np.ones(4))
        value, policy = soft(Q, reference, eta)

        def loss(p, Q=Q, reference=reference, eta=eta):
            return -(p @ Q - (p * np.log(p / reference)).sum() / eta)

        best = minimize(
            loss,
            reference,
            method="SLSQP",
            bounds=[(1e-9, 1)] * 4,
            constraints={"type": "eq", "fun": lambda p: p.sum() - 1},
            options={"ftol": 1e-13},
        )
        assert float(value) == pytest.approx(-best.fun, abs=1e-7)
        assert -loss(policy) == pytest.approx(float(value), abs=1e-12)


def test_soft_between_the_reference_and_the_best_action():
    Q, reference = np.array([1.0, 0.5, 7.0]), np.array([0.25, 0.75, 0.0])
    value, policy = soft(Q, reference, 1e-9)
    assert float(value) == pytest.approx(0.625, abs=1e-8)
    assert policy == pytest.approx(reference, abs=1e-8)
    value, policy = soft(Q, reference, 1e5)
    assert float(value) == pytest.approx(1.0, abs=1e-4)
    assert policy == pytest.approx([1, 0, 0]), "an action the reference never takes stays untaken"


def test_soft_robust_values_of_a_discounted_process():
    P, R = process()
    uncertainty = Rectangular(P, 0.3, kl_ball)
    choose = partial(soft, reference=np.full(3, 1 / 3), eta=5.0)
    plan = robust_value_iteration(uncertainty, R, GAMMA, choose=choose)
    hard_values = robust_value_iteration(uncertainty, R, GAMMA).values
    assert (plan.values < hard_values).all()
    assert (plan.values > hard_values - np.log(3) / 5 / (1 - GAMMA)).all()
    cost = (plan.policy * np.log(plan.policy * 3)).sum(axis=1) / 5
    value = robust_policy_evaluation(uncertainty, R - cost[:, None], plan.policy, GAMMA)
    assert value.values == pytest.approx(plan.values, abs=1e-8)


# -- what is refused -------------------------------------------------------------------------------


def test_what_is_refused():
    P, R = process()
    ball = Rectangular(P, 0.1)
    for wrong in (-0.1, 1.1):
        with pytest.raises(ValueError, match="gamma"):
            robust_value_iteration(ball, R, wrong)
    with pytest.raises(ValueError, match="gamma"):
        robust_policy_iteration(ball, R, 1.0)
    with pytest.raises(ValueError, match="converge"):
        robust_value_iteration(ball, R, 1.0, max_sweeps=200)
    with pytest.raises(ValueError, match="R"):
        robust_value_iteration(ball, R[:3], GAMMA)
    with pytest.raises(ValueError, match="finite"):
        robust_value_iteration(ball, R * np.nan, GAMMA)
    with pytest.raises(ValueError, match="bool"):
        robust_value_iteration(ball, R, GAMMA, continues=np.ones(4))
    with pytest.raises(ValueError, match="policy sums|sums to"):
        robust_policy_evaluation(ball, R, np.full((4, 3), 0.5), GAMMA)
    with pytest.raises(ValueError, match="actions outside"):
        robust_policy_evaluation(ball, R, np.full(4, 3), GAMMA)
    with pytest.raises(ValueError, match="horizon"):
        robust_backward_induction(ball, R, 0)
    with pytest.raises(ValueError, match="2 sets given"):
        robust_backward_induction([ball, ball], R, 3)
    with pytest.raises(ValueError, match="hard"):
        choose = partial(soft, reference=np.full(3, 1 / 3), eta=1.0)
        robust_value_iteration(StateRectangularL1(P, 0.1), R, GAMMA, choose=choose)
    with pytest.raises(ValueError, match="eta"):
        soft(R, np.full(3, 1 / 3), 0.0)
    with pytest.raises(ValueError, match="models"):
        Family(P)
    with pytest.raises(ValueError, match="sums to"):
        Rectangular(P * 0.9, 0.1)
    with pytest.raises(ValueError, match="features"):
        FactorRectangular(np.ones((4, 3, 2)) / 2, np.ones((3, 4)) / 4, 0.1)
    with pytest.raises(ValueError, match="features.* is outside"):
        FactorRectangular(np.full((4, 3, 2), [1.5, -0.5]), np.ones((2, 4)) / 4, 0.1)
    with pytest.raises(ValueError, match="radius"):
        StateRectangularL1(P, -0.1)
