"""Laws of returns: against all trajectories, and what projections keep."""

from __future__ import annotations

import itertools
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palaestra.envs.tabular.finite_mdp import FiniteMDP
from palaestra.envs.tabular.planning.discounted import evaluate
from palaestra.envs.tabular.planning.distributional import (
    distributional_backup,
    distributional_evaluation,
    follow,
    merge,
    nothing,
    outcomes_of,
    project_categorical,
    project_quantiles,
)
from palaestra.envs.tabular.planning.laws import (
    Law,
    closeness,
    cvar,
    expected_utility,
    mean,
    quantile,
    ranks_alike,
    shift,
    shortfall,
    squared_closeness,
    surplus,
)


def process(states=3, actions=2, seed=0):
    """A process whose rewards are one of two small integers; state 2 ends it."""
    rng = np.random.default_rng(seed)
    P = rng.dirichlet(np.full(states, 0.7), (states, actions))
    low, high = rng.integers(-2, 3, (2, states, actions, states)).astype(float)
    return FiniteMDP(P, low, high, rng.random((states, actions, states)), terminal=[states - 1])


def read(core):
    tables = core.tables()
    return outcomes_of(*(tables[name] for name in ("P", "low", "high", "q", "terminal")))


def trajectories(outcomes, policy, state, horizon, gamma):
    """Every return and its probability, one by one; policy [horizon, S] of actions."""
    if not horizon:
        yield 0.0, 1.0
        return
    action = policy[0][state]
    for chance, after, reward in zip(*(part[state, action] for part in outcomes), strict=True):
        for rest, p in trajectories(outcomes, policy[1:], after, horizon - 1, gamma):
            yield reward + gamma * rest, chance * p


def same(law, pairs):
    """Whether one law [K] has the distribution function of the pairs (value, probability)."""
    values, chances = np.array(list(pairs)).T
    points = np.r_[values, law.values] + 1e-9
    at = [((v <= points[:, None]) * p).sum(axis=1) for v, p in ((values, chances), law)]
    return at[0] == pytest.approx(at[1], abs=1e-10)


# -- outcomes --------------------------------------------------------------------------------------


def test_outcomes_have_the_transitions_and_mean_rewards_of_the_tables():
    core = process()
    outcomes = read(core)
    np.testing.assert_allclose(outcomes.probability.sum(axis=-1), 1)
    reached = np.zeros((3, 2, 3))
    for s, a in itertools.product(range(3), range(2)):
        np.add.at(reached[s, a], outcomes.next_state[s, a], outcomes.probability[s, a])
    np.testing.assert_allclose(reached[:2], core.P[0, :2])
    rewards = (outcomes.probability * outcomes.reward).sum(axis=-1)
    np.testing.assert_allclose(rewards[:2], core.R[0, :2])
    np.testing.assert_allclose(reached[2], [[0, 0, 1]] * 2)
    np.testing.assert_allclose(rewards[2], 0)


def test_outcomes_are_as_many_as_are_possible():
    chain = np.zeros((2, 1, 2))
    chain[0, 0, 1] = chain[1, 0, 0] = 1
    outcomes = outcomes_of(chain, 3.0)
    assert outcomes.next_state.tolist() == [[[1]], [[0]]]
    assert outcomes.reward.tolist() == [[[3.0]], [[3.0]]]
    assert outcomes_of(chain, 0.0, 1.0, 0.5).reward.shape == (2, 1, 2)
    before = chain.copy()
    outcomes_of(chain, 3.0, terminal=[0])
    np.testing.assert_array_equal(chain, before)


# -- exact -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("gamma", [1.0, 0.5])
def test_exact_laws_are_those_of_all_trajectories(gamma):
    outcomes, horizon = read(process()), 3
    for seed in range(4):
        policy = np.random.default_rng(seed).integers(2, size=(horizon, 3))
        laws = distributional_evaluation([outcomes] * horizon, list(policy), nothing(3), gamma)
        for state in range(3):
            law = Law(laws[0].values[state], laws[0].probabilities[state])
            assert same(law, trajectories(outcomes, policy, state, horizon, gamma))


def test_many_policies_at_once():
    outcomes, horizon = read(process()), 3
    policies = np.random.default_rng(0).integers(2, size=(horizon, 7, 3))
    together = distributional_evaluation([outcomes] * horizon, list(policies), nothing(3), 0.9)[0]
    for i in range(7):
        steps = list(policies[:, i])
        alone = distributional_evaluation([outcomes] * horizon, steps, nothing(3), 0.9)[0]
        for level in (0.3, 1.0):
            assert cvar(alone, level) == pytest.approx(cvar(together, level)[i])


def test_a_random_policy_mixes_the_laws_of_actions():
    outcomes = read(process())
    share = np.array([[0.25, 0.75]] * 3)
    laws = distributional_backup(outcomes, nothing(3), 1.0, merge)
    mixed = follow(laws, share, merge)
    assert mean(mixed) == pytest.approx((share * mean(laws)).sum(axis=1))
    pairs = [
        (v, share[0, a] * p)
        for a in range(2)
        for v, p in zip(laws.values[0, a], laws.probabilities[0, a], strict=True)
    ]
    assert same(Law(mixed.values[0], mixed.probabilities[0]), pairs)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 4)), min_size=1, max_size=8).filter(
        lambda pairs: any(weight for _, weight in pairs)
    )
)
def test_merging_keeps_the_law(pairs):
    values, weights = np.array(pairs, dtype=float).T
    # Noise of rounding size is what merging is for.
    law = Law((values + 1e-15 * np.arange(len(values)))[None], (weights / weights.sum())[None])
    merged = merge(law)
    alive = merged.probabilities[0] > 0
    assert merged.values[0, alive] == pytest.approx(np.unique(values[weights > 0]))
    assert (np.diff(merged.values[0]) >= 0).all()
    pairs = zip(law.values[0], law.probabilities[0], strict=True)
    assert same(Law(merged.values[0], merged.probabilities[0]), pairs)


def test_merging_with_a_width_keeps_means():
    rng = np.random.default_rng(0)
    law = Law(rng.normal(size=(5, 200)), rng.dirichlet(np.ones(200), 5))
    coarse = merge(law, 0.1)
    assert coarse.values.shape[1] < 80
    assert mean(coarse) == pytest.approx(mean(law), abs=1e-12)
    assert cvar(coarse, 0.3) == pytest.approx(cvar(law, 0.3), abs=0.1)


# -- projections -----------------------------------------------------------------------------------


def test_categorical_projection_shares_out_linearly():
    law = Law(np.array([[-5.0, 0.25, 1.0, 9.0]]), np.array([[0.1, 0.4, 0.3, 0.2]]))
    projected = project_categorical(law, [0.0, 1.0, 3.0])
    assert projected.probabilities == pytest.approx(np.array([[0.1 + 0.3, 0.1 + 0.3, 0.2]]))


def test_categorical_evaluation_has_the_right_means():
    core = process()
    outcomes, gamma, grid = read(core), 0.8, np.linspace(-12, 12, 241)
    policy = np.array([1, 0, 0])
    law = nothing(3)
    for _ in range(150):
        laws = distributional_backup(outcomes, law, gamma, partial(project_categorical, grid=grid))
        law = follow(laws, policy, merge)
    expected = evaluate(core.P[0], core.R[0], policy, gamma, continues=[True, True, False])
    assert mean(law) == pytest.approx(expected, abs=1e-9)
    # The law itself: against exact returns over a horizon beyond which nearly nothing is left.
    exact = distributional_evaluation(
        [outcomes] * 12, [policy] * 12, nothing(3), gamma, partial(merge, width=1e-3)
    )[0]
    assert cvar(law, 0.25) == pytest.approx(cvar(exact, 0.25), abs=0.5)


def test_quantile_projection_is_nearest_in_wasserstein_distance():
    rng = np.random.default_rng(0)
    law = Law(rng.normal(size=(1, 9)), rng.dirichlet(np.ones(9), 1))
    levels = (np.arange(4000) + 0.5) / 4000
    fine = quantile(law, levels)[0]

    def distance(values):
        return np.abs(fine - np.repeat(np.sort(values), 1000)).mean()

    best = project_quantiles(law, 4)
    assert best.probabilities == pytest.approx(np.full((1, 4), 0.25))
    for _ in range(200):
        other = best.values[0] + rng.normal(size=4) * 10 ** rng.uniform(-3, 0)
        assert distance(best.values[0]) <= distance(other) + 1e-3


def test_quantile_evaluation_comes_near_the_exact_law():
    outcomes, gamma = read(process()), 0.8
    steps, policy = 12, np.array([1, 0, 0])
    arguments = [outcomes] * steps, [policy] * steps, nothing(3), gamma
    exact = distributional_evaluation(*arguments, partial(merge, width=1e-3))[0]
    near = distributional_evaluation(*arguments, partial(project_quantiles, count=200))[0]
    assert near.values.shape == (3, 200)
    assert mean(near) == pytest.approx(mean(exact), abs=0.05)
    assert cvar(near, 0.25) == pytest.approx(cvar(exact, 0.25), abs=0.15)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-4, 4), min_size=4, max_size=8), st.floats(0, 0.99))
def test_backups_contract_the_wasserstein_distance(values, gamma):
    """Of two returns that differ by at most d everywhere the backups differ by at most gamma d."""
    outcomes = read(process())
    half = len(values) // 2
    one, other = (np.sort(part) for part in (values[:half], values[half : 2 * half]))
    chance = np.full((3, half), 1 / half)
    laws = [
        distributional_backup(outcomes, Law(np.tile(x, (3, 1)), chance), gamma, merge)
        for x in (one, other)
    ]
    levels = (np.arange(500) + 0.5) / 500
    apart = np.abs(quantile(laws[0], levels) - quantile(laws[1], levels)).max()
    assert apart <= gamma * np.abs(one - other).max() + 1e-9


# -- functionals -----------------------------------------------------------------------------------


def test_conditional_value_at_risk_of_a_small_law():
    law = Law(np.array([4.0, -1.0, 5.0]), np.array([0.25, 0.25, 0.5]))
    assert float(cvar(law, 0.75)) == pytest.approx(8 / 3)
    assert [float(cvar(law, level)) for level in (0.1, 0.25, 0.5, 1.0)] == pytest.approx(
        [-1, -1, 1.5, 3.25]
    )
    assert quantile(law, [0.2, 0.25, 0.26, 0.5, 0.51, 1.0]).tolist() == [-1, -1, 4, 4, 5, 5]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-9, 9), min_size=1, max_size=6), st.floats(0.01, 1))
def test_conditional_value_at_risk_is_its_dual(values, level):
    """max over b of b + E min(X - b, 0) / level, attained at a value of X."""
    law = Law(np.array(values), np.full(len(values), 1 / len(values)))
    duals = [b + float(expected_utility(shift(law, -b), shortfall)) / level for b in values]
    assert float(cvar(law, level)) == pytest.approx(max(duals), abs=1e-9)


def test_which_utilities_rank_laws_alike_under_discounting():
    for utility in (shortfall, surplus, closeness, squared_closeness, lambda x: x, np.ones_like):
        assert ranks_alike(utility, 0.9)
    assert ranks_alike(lambda x: 3 * x + 1, 0.9), "affine"
    for utility in (np.exp, np.tanh, lambda x: np.minimum(x, 1.0), lambda x: -np.abs(x - 2)):
        assert not ranks_alike(utility, 0.9)
        assert ranks_alike(utility, 1.0)


def test_what_is_refused():
    law, core = nothing(3), process()
    with pytest.raises(ValueError, match="level"):
        cvar(law, 0.0)
    with pytest.raises(ValueError, match="levels"):
        quantile(law, [1.2])
    with pytest.raises(ValueError, match="width"):
        merge(law, 0.0)
    with pytest.raises(ValueError, match="count"):
        project_quantiles(law, 0)
    with pytest.raises(ValueError, match="grid must be increasing"):
        project_categorical(law, [1.0, 0.0])
    with pytest.raises(ValueError, match="actions outside"):
        follow(distributional_backup(read(core), law, 1.0, merge), [0, 2, 0], merge)
    with pytest.raises(ValueError, match="sums to"):
        follow(distributional_backup(read(core), law, 1.0, merge), np.ones((3, 2)), merge)
    with pytest.raises(ValueError, match="belong together"):
        outcomes_of(core.P, 0.0, high=1.0)
    with pytest.raises(ValueError, match="P has shape"):
        outcomes_of(np.ones((2, 3, 1, 3)) / 3, 0.0)
