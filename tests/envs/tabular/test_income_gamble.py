"""`IncomeGamble`: the drawn amounts, and what remembering the stock is worth, exactly."""

from __future__ import annotations

from functools import cache
from itertools import product

import gymnasium as gym
import numpy as np
import pytest

import palaestra  # noqa: F401  (registers the environments)
from palaestra.envs.tabular.income_gamble import IncomeGamble

STOCKS = range(-30, 10)


@cache
def outcomes(core, state, action):
    """The two equally likely rewards of a pair, read from the tables of the engine."""
    tape = {"start": np.array([state] * 2), "u": np.zeros((2, 1)), "v": np.array([[0.2], [0.7]])}
    before, actions = core.initial(tape), np.array([action] * 2)
    after = core.transition(before, actions, tape)
    assert after["s"].tolist() == [1 - state] * 2
    return core.reward(before, actions, after).tolist()


def best_with_stock(core, utility, stock):
    """Highest E utility(stock + return) of a policy that sees the stock, and its gambles."""
    pays = {(s, a): outcomes(core, s, a) for s, a in product((0, 1), repeat=2)}

    @cache
    def best(step, total):
        if step == core.horizon:
            return utility(total), 0
        values = [
            np.mean([best(step + 1, total + reward)[0] for reward in pays[step % 2, action]])
            for action in (0, 1)
        ]
        return max(values), int(values[1] > values[0])

    return best(0, stock)[0], best


def law_of_returns(core, gambles):
    """Returns and probabilities of a policy that gambles at given visits of state 1."""
    law = {0.0: 1.0}
    for step in range(core.horizon):
        action = gambles[step // 2] if step % 2 else 0
        after: dict[float, float] = {}
        for total, p in law.items():
            for reward in outcomes(core, step % 2, action):
                after[total + reward] = after.get(total + reward, 0.0) + p / 2
        law = after
    return np.array(sorted(law)), np.array([law[total] for total in sorted(law)])


def markov_laws(core):
    return [law_of_returns(core, g) for g in product((0, 1), repeat=core.horizon // 2)]


def cvar(returns, probabilities, level):
    """Mean of the worst share `level`."""
    taken = np.clip(level - (np.cumsum(probabilities) - probabilities), 0, probabilities)
    return float(returns @ taken) / level


def shortfall(total):
    return min(total, 0.0)


def test_worked_example_of_two_steps():
    core = IncomeGamble(horizon=2, instance=95)
    assert (core.income, core.gain, core.loss) == (4, 4, 1)
    found = {c: best_with_stock(core, shortfall, c) for c in range(-8, 3)}
    dual = {c: -c + found[c][0] / 0.75 for c in found}
    assert max(dual, key=dual.__getitem__) == -5
    assert dual[-5] == pytest.approx(2.666667, abs=1e-6)
    assert found[-5][0] == pytest.approx(-1.75)
    best = found[-5][1]
    assert best(1, -5)[1] == 1 and best(1, -1)[1] == 0  # gamble without the income, else safe
    law = {-1: 0.25, 4: 0.25, 5: 0.5}
    assert cvar(np.array(list(law)), np.array(list(law.values())), 0.75) == pytest.approx(8 / 3)
    safe, gamble = (law_of_returns(core, (action,)) for action in (0, 1))
    assert cvar(*safe, 0.75) == pytest.approx(2.333333, abs=1e-6)
    assert cvar(*gamble, 0.75) == pytest.approx(2.0)
    distance, best = best_with_stock(core, lambda total: -abs(total), -5)
    assert distance == pytest.approx(-1.75)
    assert best(1, -5)[1] == 1 and best(1, -1)[1] == 0


def test_remembering_the_stock_helps_as_often_as_published():
    better = {"0.5": 0, "0.75": 0, "set point": 0}
    for instance in range(20):
        core = IncomeGamble(instance=instance)
        laws = markov_laws(core)
        worth = {c: best_with_stock(core, shortfall, c)[0] for c in STOCKS}
        for level in (0.5, 0.75):
            ours = max(-c + value / level for c, value in worth.items())
            theirs = max(cvar(*law, level) for law in laws)
            assert ours >= theirs - 1e-9
            better[str(level)] += ours > theirs + 1e-9
        ours, _ = best_with_stock(core, lambda total: -abs(total), -core.set_point)
        theirs = max(-float(np.abs(x - core.set_point) @ p) for x, p in laws)
        assert ours >= theirs - 1e-9
        better["set point"] += ours > theirs + 1e-9
    assert better == {"0.5": 5, "0.75": 4, "set point": 8}


def test_amounts_are_drawn_in_their_order_and_range():
    drawn = []
    for instance in range(60):
        core, rng = IncomeGamble(instance=instance), np.random.default_rng(instance)
        amounts = (core.income, core.gain, core.loss, core.set_point)
        assert amounts == tuple(rng.integers(a, b) for a, b in ((3, 7), (3, 6), (1, 4), (6, 13)))
        drawn.append(amounts)
        assert core.R[0] == pytest.approx(
            np.array([[core.income / 2] * 2, [1, (core.gain - core.loss) / 2]])
        )
    assert [sorted(set(column)) for column in zip(*drawn, strict=True)] == [
        [3, 4, 5, 6],
        [3, 4, 5],
        [1, 2, 3],
        [6, 7, 8, 9, 10, 11, 12],
    ]


def test_an_episode_alternates_and_ends_with_the_horizon():
    env = gym.make("IncomeGamble-v0", horizon=4, instance=1)
    core = env.unwrapped.core
    assert env.reset(seed=3)[0] == 0
    v = np.random.default_rng(3).random(9)[5:]
    expected = [core.income, 1, core.income, core.gain]
    otherwise = [0, 1, 0, -core.loss]
    for step, action in enumerate((0, 0, 1, 1)):
        observation, reward, terminated, truncated, _ = env.step(action)
        assert observation == (step + 1) % 2
        assert reward == (expected[step] if v[step] < 0.5 else otherwise[step])
        assert (terminated, truncated) == (step == 3, False)


def test_a_horizon_or_an_instance_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="horizon=0 must be an integer of at least 1"):
        IncomeGamble(horizon=0)
    with pytest.raises(ValueError, match="instance=-1 must be an integer of at least 0"):
        IncomeGamble(instance=-1)
