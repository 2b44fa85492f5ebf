"""`GambleChain`: its features, robust values worked by hand, and what a shift does."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

import palaestra  # noqa: F401  (registers the environments)
from palaestra.envs.tabular.gamble_chain import GambleChain


def worst_mean(mu, values, rho):
    """Lowest mean of `values` when the share `rho` of `mu` may move, from the best to the worst."""
    moved, total = min(rho, 1.0), 0.0
    for value, mass in sorted(zip(values, mu, strict=True), reverse=True):
        leaves = min(mass, moved)
        total, moved = total + (mass - leaves) * value, moved - leaves
    return total + min(rho, 1.0) * min(values)


def soft_robust_policy(core, eta, rho):
    """Values [S] at the first step and the policy [H, S, A] with a uniform reference policy."""
    values, policy = np.zeros(core.states), []
    for _ in range(core.horizon):
        nu = np.array([worst_mean(mu, values, rho) for mu in core.mu])
        weights = np.exp(eta * core.phi @ (core.theta + nu)) / core.actions
        values = np.log(weights.sum(axis=1)) / eta
        policy.append(weights / weights.sum(axis=1, keepdims=True))
    return values, np.array(policy[::-1])


def exact_value(core, policy):
    """Expected return from the start of a policy [H, S, A]."""
    values = np.zeros(core.states)
    for probabilities in policy[::-1]:
        values = (probabilities * (core.R[0] + core.P[0] @ values)).sum(axis=1)
    return float(values[0])


@pytest.mark.parametrize(("rho", "value"), [(0.0, 1.122837), (0.2, 0.738492)])
def test_worked_example_of_robust_values(rho, value):
    core = GambleChain(safe=0.3, jackpot=0.4)
    assert soft_robust_policy(core, 20.0, rho)[0][0] == pytest.approx(value, abs=1e-6)


def test_worked_example_of_the_worst_mean():
    mu, values = (0.5, 0.3, 0.2), (0.0, 1.0, 3.0)
    for rho, expected in ((0.0, 0.9), (0.1, 0.6), (0.3, 0.2)):
        assert worst_mean(mu, values, rho) == pytest.approx(expected)


@pytest.mark.parametrize("horizon", [4, 6, 8])
def test_robust_policies_pay_off_where_the_odds_got_worse(horizon):
    core = GambleChain(horizon=horizon)
    robust, plain = (soft_robust_policy(core, 60.0, rho)[1] for rho in (0.3, 0.0))
    gain = {
        shift: exact_value(world, robust) / exact_value(world, plain)
        for shift in (0.0, 0.1, 0.2, 0.3, 0.4)
        for world in [GambleChain(horizon=horizon, shift=shift)]
    }
    assert 0.85 < gain[0.0] < 1
    assert gain[0.3] > 1.2 and gain[0.4] > 1.2
    assert list(gain.values()) == sorted(gain.values())
    if horizon == 4:
        assert gain[0.1] == pytest.approx(1.0, abs=0.05)  # the two cross near this shift


def test_optimal_returns_of_the_documentation():
    values, policy = gym.make("GambleChain-v0").unwrapped.plan(1.0)
    assert values[0, 0] == pytest.approx(1.6875) and policy[:, 0].tolist() == [0, 0, 0, 3]
    values, policy = GambleChain(shift=0.3).plan(1.0)
    assert values[0, 0] == pytest.approx(1.44) and policy[:, 0].tolist() == [3] * 4


def test_the_tables_are_those_of_the_features():
    env = gym.make("GambleChain-v0", shift=0.2).unwrapped
    np.testing.assert_allclose(env.phi.sum(axis=-1), 1)
    np.testing.assert_allclose(env.P[0], env.phi @ env.mu)
    np.testing.assert_allclose(env.R[0], env.phi @ env.theta)
    np.testing.assert_allclose(env.P[0, 0, 0], [0.25, 0.55, 0.2])  # all gambled
    np.testing.assert_allclose(env.P[0, 0, 3], [1, 0, 0])  # all safe
    np.testing.assert_allclose(env.P[0, 0, 1], [0.5, 11 / 30, 2 / 15])
    np.testing.assert_allclose(env.R[0, 0], [0, 0.12, 0.24, 0.36])
    assert env.P[0, 1, :, 0].tolist() == [1] * 4 and env.R[0, 1].tolist() == [1] * 4
    assert env.P[0, 2, :, 2].tolist() == [1] * 4 and env.R[0, 2].tolist() == [0] * 4
    assert env.gamma == 1.0


def test_failure_lasts_until_the_end():
    env = gym.make("GambleChain-v0", shift=0.75, jackpot=0.75)
    env.reset(seed=0, options={"state": 2})
    results = [env.step(0) for _ in range(4)]
    assert [int(result[0]) for result in results] == [2] * 4
    assert [result[1] for result in results] == [0.0] * 4
    assert [result[2] for result in results] == [False, False, False, True]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"safe": 1.5}, "safe=1.5 must be a number from 0 to 1"),
        ({"jackpot": -0.1}, "jackpot=-0.1 must be a number from 0 to 1"),
        ({"shift": 0.8}, "shift=0.8 must be a number from 0 to 0.75"),
        ({"horizon": None}, "horizon=None must be an integer of at least 1"),
    ],
)
def test_impossible_chains_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        GambleChain(**arguments)
