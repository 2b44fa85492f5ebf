"""Stock-augmented planning: worked numbers, and every policy that remembers its history."""

from __future__ import annotations

import itertools
import warnings
from functools import lru_cache, partial

import numpy as np
import pytest

from palaestra.envs.tabular.finite_mdp import FiniteMDP
from palaestra.envs.tabular.income_gamble import IncomeGamble
from palaestra.envs.tabular.planning.distributional import (
    distributional_evaluation,
    merge,
    nothing,
    outcomes_of,
    project_categorical,
)
from palaestra.envs.tabular.planning.laws import (
    Law,
    closeness,
    cvar,
    expected_utility,
    mean,
    shift,
    shortfall,
)
from palaestra.envs.tabular.planning.stock import (
    best_start_stock,
    next_stock,
    stock_actions,
    stock_layers,
    stock_policy_evaluation,
    stock_policy_iteration,
    stock_value_iteration,
)
from palaestra.envs.tabular.planning.stock_grid import (
    grid_policy_evaluation,
    grid_value_iteration,
    stock_grid,
)

short = partial(expected_utility, utility=shortfall)
close = partial(expected_utility, utility=closeness)


def read(core):
    tables = core.tables()
    return outcomes_of(*(tables[name] for name in ("P", "low", "high", "q", "terminal")))


def income_then_choice():
    """0 or 4, then 1 for sure or a gamble between 4 and -1."""
    P = np.zeros((2, 2, 2))
    P[0, :, 1] = P[1, :, 0] = 1
    high = [[4, 4], [1, 4]]
    low, high, q = (
        np.array(x, float)[..., None] for x in ([[0, 0], [1, -1]], high, [[0.5] * 2] * 2)
    )
    return outcomes_of(P, low, high, q)


def small_process(seed):
    rng = np.random.default_rng(seed)
    P = rng.dirichlet(np.full(2, 0.7), (2, 2))
    low, high = rng.integers(-2, 3, (2, 2, 2, 1)).astype(float)
    return read(FiniteMDP(P, low, high, np.full((2, 2, 1), 0.5), horizon=2))


# -- worked example --------------------------------------------------------------------------------


def test_worked_example_conditional_value_at_risk():
    outcomes, stocks = income_then_choice(), np.arange(-8.0, 3.0)
    layers = stock_layers(outcomes, 0, stocks, 1.0, 2)
    plan = stock_value_iteration(layers, short, 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        best, dual = best_start_stock(stocks, plan.scores[0], 0.75)
    assert stocks[best] == -5
    assert dual == pytest.approx(2.666667, abs=1e-6)
    assert plan.scores[0][best] == pytest.approx(-1.75)
    law = Law(plan.laws[0].values[best], plan.laws[0].probabilities[best])
    alive = law.probabilities > 0
    assert law.values[alive].tolist() == [-1, 4, 5]
    assert law.probabilities[alive].tolist() == [0.25, 0.25, 0.5]
    assert float(cvar(law, 0.75)) == pytest.approx(2.666667, abs=1e-6)
    # At state 1: gamble with nothing earned, safe with 4 earned.
    assert stock_actions(plan, 1, [1, 1], [-5, -1]).tolist() == [1, 0]


def test_worked_example_policies_without_a_stock():
    outcomes = income_then_choice()
    law = distributional_evaluation(
        [outcomes] * 2, [np.array([[0], [1]]) + [0, 0]] * 2, nothing(2), 1.0
    )
    assert cvar(law[0], 0.75)[:, 0] == pytest.approx([2.333333, 2.0], abs=1e-6)


def test_worked_example_set_point():
    outcomes = income_then_choice()
    layers = stock_layers(outcomes, 0, [-5.0], 1.0, 2)
    plan = stock_value_iteration(layers, close, 1.0)
    assert plan.scores[0] == pytest.approx([-1.75])
    assert stock_actions(plan, 1, [1, 1], [-5, -1]).tolist() == [1, 0]


def test_worked_example_next_stock():
    assert float(next_stock(-5, 4, 0.5)) == -2


def test_income_gamble_stock_policies_against_all_markov_policies():
    """Never worse, and strictly better on 25%, 20% and 40% of the instances."""
    policies = np.zeros((6, 8, 2), int)
    policies[1::2, :, 1] = np.array(list(itertools.product([0, 1], repeat=3))).T
    stocks, gains = np.arange(-30.0, 10.0), []
    for instance in range(20):
        core = IncomeGamble(horizon=6, instance=instance)
        outcomes = read(core)
        plan = stock_value_iteration(stock_layers(outcomes, 0, stocks, 1.0, 6), short, 1.0)
        markov = distributional_evaluation([outcomes] * 6, list(policies), nothing(2), 1.0)[0]
        gain = []
        for level in (0.5, 0.75):
            best, dual = best_start_stock(stocks, plan.scores[0], level)
            value = cvar(plan.laws[0], level)[best]
            assert value >= dual - 1e-9
            gain.append(value - cvar(markov, level)[:, 0].max())
        set_point = float(core.set_point)
        held = stock_value_iteration(stock_layers(outcomes, 0, [-set_point], 1.0, 6), close, 1.0)
        gain.append(held.scores[0][0] - close(shift(markov, -set_point))[:, 0].max())
        gains.append(gain)
    gains = np.array(gains)
    assert gains.min() >= -1e-9
    assert (gains > 1e-9).mean(axis=0).tolist() == [0.25, 0.2, 0.4]


# -- exhaustive ------------------------------------------------------------------------------------


def all_laws(outcomes, horizon, gamma):
    """The law of the return from state 0 under every policy that remembers its whole history.

    A law is a tuple of (return, probability), one per trajectory.
    """

    @lru_cache(None)
    def laws(state, left):
        if not left:
            return (((0.0, 1.0),),)
        found = []
        for action in range(outcomes.probability.shape[1]):
            branches = [
                (p, r, laws(int(after), left - 1))
                for p, after, r in zip(*(part[state, action] for part in outcomes), strict=True)
                if p > 0
            ]
            # Every outcome has its own history, and so its own choice of how to go on.
            for chosen in itertools.product(*(rest for _, _, rest in branches)):
                found.append(
                    tuple(
                        (r + gamma * value, p * chance)
                        for (p, r, _), law in zip(branches, chosen, strict=True)
                        for value, chance in law
                    )
                )
        return tuple(found)

    return [np.array(law).T for law in laws(0, horizon)]


@pytest.mark.parametrize("gamma", [1.0, 0.5])
@pytest.mark.parametrize("seed", range(3))
def test_no_policy_that_remembers_everything_is_better(seed, gamma):
    outcomes, horizon = small_process(seed), 2
    laws = all_laws(outcomes, horizon, gamma)
    assert len(laws) > 20
    returns = np.unique(np.concatenate([values for values, _ in laws]))
    stocks = -returns[::-1] if len(returns) > 1 else np.array([-1.0, 0.0])
    layers = stock_layers(outcomes, 0, stocks, gamma, horizon)
    plan = stock_value_iteration(layers, short, gamma)
    for level in (0.2, 0.6, 1.0):
        exhaustive = max(float(cvar(Law(v, p), level)) for v, p in laws)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the best stock may be that of the least return
            best, dual = best_start_stock(stocks, plan.scores[0], level)
        assert dual == pytest.approx(exhaustive, abs=1e-9)
        assert cvar(plan.laws[0], level)[best] == pytest.approx(exhaustive, abs=1e-9)
    for point in (-1.0, 0.5, 2.0):
        held = stock_value_iteration(stock_layers(outcomes, 0, [-point], gamma, 2), close, gamma)
        exhaustive = max(float(close(Law(v - point, p))) for v, p in laws)
        assert held.scores[0][0] == pytest.approx(exhaustive, abs=1e-9)


def test_the_mean_needs_no_stock():
    core = IncomeGamble(horizon=6, instance=1)
    layers = stock_layers(read(core), 0, [0.0], 1.0, 6)
    plan = stock_value_iteration(layers, mean, 1.0)
    assert plan.scores[0][0] == pytest.approx(core.plan(1.0).values[0, 0])


# -- consistency -----------------------------------------------------------------------------------


@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_policy_iteration_finds_what_value_iteration_finds(gamma):
    outcomes = read(IncomeGamble(horizon=4, instance=3))
    layers = stock_layers(outcomes, 0, np.arange(-12.0, 0.0), gamma, 4)
    one = stock_value_iteration(layers, short, gamma)
    start = [np.ones(len(layer.states), int) for layer in layers]
    for other in (
        stock_policy_iteration(layers, short, gamma),
        stock_policy_iteration(layers, short, gamma, start),
    ):
        for step in range(4):
            assert other.scores[step] == pytest.approx(one.scores[step], abs=1e-12)
            np.testing.assert_array_equal(other.policy[step], one.policy[step])


def test_the_laws_of_a_plan_are_those_of_its_policy():
    outcomes = read(IncomeGamble(horizon=5, instance=2))
    layers = stock_layers(outcomes, 0, [-9.0, -4.0], 1.0, 5)
    plan = stock_value_iteration(layers, close, 1.0)
    laws = stock_policy_evaluation(layers, plan.policy, 1.0)
    for law, layer, scores in zip(laws, layers, plan.scores, strict=True):
        assert close(shift(law, layer.stocks)) == pytest.approx(scores, abs=1e-12)
    uniform = [np.full((len(layer.states), 2), 0.5) for layer in layers]
    worse = close(shift(stock_policy_evaluation(layers, uniform, 1.0)[0], layers[0].stocks))
    assert (worse < plan.scores[0]).all()


def test_rolled_out_the_policy_has_the_law_that_was_planned():
    """Many episodes at once, each with its own running stock."""
    core = IncomeGamble(horizon=6, instance=0)
    stock = -float(core.set_point)
    plan = stock_value_iteration(stock_layers(read(core), 0, [stock], 1.0, 6), close, 1.0)
    n = 5_000
    tape = core.tapes(n, 0)
    state, held, total = core.initial(tape), np.full(n, stock), np.zeros(n)
    for step in range(6):
        action = stock_actions(plan, step, core.observation(state), held)
        after = core.transition(state, action, tape)
        reward = core.reward(state, action, after)
        held, total, state = next_stock(held, reward, 1.0), total + reward, after
    assert -np.abs(total + stock).mean() == pytest.approx(plan.scores[0][0], abs=0.1)


def test_pairs_are_those_that_can_be_reached():
    layers = stock_layers(income_then_choice(), 0, [-5.0, -4.0], 1.0, 2)
    assert layers[0].stocks.tolist() == [-5, -4]
    assert layers[1].states.tolist() == [1, 1, 1, 1]
    assert layers[1].stocks.tolist() == [-5, -4, -1, 0]


def test_a_width_merges_stocks_and_laws():
    outcomes = read(IncomeGamble(horizon=6, instance=0))
    exact = stock_layers(outcomes, 0, [-8.0], 0.9, 6)
    coarse = stock_layers(outcomes, 0, [-8.0], 0.9, 6, width=0.2)
    assert len(coarse[5].stocks) < len(exact[5].stocks)
    fine = stock_value_iteration(exact, close, 0.9)
    rough = stock_value_iteration(coarse, close, 0.9, partial(merge, width=0.5))
    assert rough.scores[0] == pytest.approx(fine.scores[0], abs=0.3)
    gambles = [np.ones(len(layer.states), int) for layer in exact]
    laws = [
        stock_policy_evaluation(exact, gambles, 0.9, partial(merge, width=width))[0]
        for width in (1e-12, 0.5)
    ]
    assert laws[1].values.shape[1] < laws[0].values.shape[1]
    assert mean(laws[1]) == pytest.approx(mean(laws[0]))
    # Running stocks are now near those that were planned for.
    stock = exact[4].stocks
    with pytest.raises(ValueError, match="cannot be reached"):
        stock_actions(rough, 4, exact[4].states, stock)
    found = stock_actions(rough, 4, exact[4].states, stock, within=0.5)
    assert found.shape == stock.shape


def test_a_grid_of_stocks_comes_near_the_exact_plan():
    """gamma 0.5: after 8 steps a 256th is left, and the same steps are planned exactly."""
    outcomes, gamma, sweeps = read(IncomeGamble(instance=1)), 0.5, 8
    stocks = np.linspace(-12, 6, 73)
    layer = stock_grid(outcomes, stocks, gamma)
    reduce = partial(project_categorical, grid=np.linspace(-6, 12, 145))
    for score in (short, close):
        exact = stock_value_iteration(
            stock_layers(outcomes, 0, stocks[::6], gamma, sweeps, width=1e-3),
            score,
            gamma,
            partial(merge, width=1e-3),
        )
        plan = grid_value_iteration(layer, score, gamma, sweeps, reduce)
        assert plan.scores[0][: len(stocks) : 6] == pytest.approx(exact.scores[0], abs=0.06)
        law = grid_policy_evaluation(layer, plan.policy[0], gamma, 12, reduce)
        again = score(shift(law, layer.stocks))[: len(stocks)]
        assert again[::6] == pytest.approx(exact.scores[0], abs=0.1)


# -- what is refused -------------------------------------------------------------------------------


def test_what_is_refused():
    outcomes = income_then_choice()
    with pytest.raises(ValueError, match="gamma=0"):
        next_stock(1.0, 1.0, 0)
    with pytest.raises(ValueError, match="gamma=0"):
        stock_layers(outcomes, 0, [0.0], 0, 2)
    with pytest.raises(ValueError, match="horizon"):
        stock_layers(outcomes, 0, [0.0], 1.0, 0)
    with pytest.raises(ValueError, match="3 steps given"):
        stock_layers([outcomes] * 3, 0, [0.0], 1.0, 2)
    with pytest.raises(ValueError, match="start=2"):
        stock_layers(outcomes, 2, [0.0], 1.0, 2)
    with pytest.raises(ValueError, match="stocks"):
        stock_layers(outcomes, 0, [np.inf], 1.0, 2)
    plan = stock_value_iteration(stock_layers(outcomes, 0, [-5.0], 1.0, 2), short, 1.0)
    with pytest.raises(ValueError, match="state 1 with stock -4.9 cannot be reached at step 1"):
        stock_actions(plan, 1, [1], [-4.9])
    with pytest.raises(ValueError, match="state 0 with stock -5.0 cannot be reached at step 1"):
        stock_actions(plan, 1, [0], [-5.0])
    with pytest.raises(ValueError, match="step=2"):
        stock_actions(plan, 2, [0], [-5.0])
    with pytest.raises(ValueError, match="level"):
        best_start_stock([0.0, 1.0], [0.0, 0.0], 0.0)
    with pytest.raises(ValueError, match="increasing"):
        best_start_stock([1.0, 0.0], [0.0, 0.0], 0.5)
    with pytest.raises(ValueError, match="sweeps"):
        grid_value_iteration(stock_grid(outcomes, [0.0, 1.0], 0.5), short, 0.5, 0, merge)
    with pytest.warns(UserWarning, match="wider"):
        best_start_stock([0.0, 1.0, 2.0], [0.0, 0.0, 0.0], 0.5)
