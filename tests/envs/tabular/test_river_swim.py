"""`RiverSwim`: the current, what the banks pay, and the reference values."""

from __future__ import annotations

from itertools import product

import gymnasium as gym
import numpy as np
import pytest

import palaestra  # noqa: F401  (registers the environments)
from palaestra.envs.tabular.river_swim import RiverSwim

CONTINUING = {"states": 6, "forward": 0.35, "back": 0.15, "large": 0.5, "rewards": "bernoulli"}
EIGHT_STEPS = {
    "states": 4,
    "horizon": 8,
    "forward": 0.6,
    "back": 0.05,
    "forward_first": 0.7,
    "back_last": 0.1,
}


def average_reward(core, policy):
    """Mean reward per step in the long run of a policy with one recurrent class."""
    s = np.arange(core.states)
    P = core.P[0, s, policy]
    equations = np.vstack([P.T - np.eye(core.states), np.ones(core.states)])
    law = np.linalg.lstsq(equations, np.append(np.zeros(core.states), 1.0), rcond=None)[0]
    return float(law @ core.R[0, s, policy])


def test_worked_example_of_eight_steps():
    env = gym.make("RiverSwim-v0", **EIGHT_STEPS).unwrapped
    assert env.plan(1.0).values[0, 0] == pytest.approx(2.865666, abs=1e-6)
    assert env.gamma == 1.0


def test_worked_example_of_the_average_reward():
    core = RiverSwim(**CONTINUING)
    rewards = {policy: average_reward(core, policy) for policy in product((0, 1), repeat=6)}
    best = max(rewards, key=rewards.__getitem__)
    assert best == (1,) * 6
    assert rewards[best] == pytest.approx(0.287496, abs=1e-6)
    assert core.plan(core.gamma).policy.tolist() == [1] * 6


def test_worked_example_of_steps_at_the_right_bank():
    core = RiverSwim(**CONTINUING)
    tape = {
        "start": np.array([5, 5]),
        "u": np.array([[0.1], [0.2]]),
        "v": np.array([[0.49], [0.51]]),
    }
    state, right = core.initial(tape), np.array([1, 1])
    after = core.transition(state, right, tape)
    assert after["s"].tolist() == [4, 5]
    assert core.reward(state, right, after).tolist() == [1.0, 0.0]


def test_the_current_and_the_banks():
    core = RiverSwim(**EIGHT_STEPS)
    np.testing.assert_array_equal(core.P[0, :, 0], np.eye(4)[[0, 0, 1, 2]])
    expected = [[0.3, 0.7, 0, 0], [0.05, 0.35, 0.6, 0], [0, 0.05, 0.35, 0.6], [0, 0, 0.1, 0.9]]
    np.testing.assert_allclose(core.P[0, :, 1], expected, atol=1e-15)
    rewards = np.zeros((4, 2))
    rewards[0, 0], rewards[3, 1] = 0.05, 1.0
    np.testing.assert_allclose(core.R[0], rewards)
    plain = RiverSwim(states=2)
    np.testing.assert_allclose(plain.P[0, :, 1], [[0.65, 0.35], [0.05, 0.95]])


def test_mean_rewards_are_certain_and_bernoulli_ones_are_not():
    for arguments, allowed in (({}, {0.05}), ({"rewards": "bernoulli"}, {0.0, 1.0})):
        env = gym.make("RiverSwim-v0", **arguments)
        env.reset(seed=0)
        paid = [env.step(0)[1] for _ in range(300)]
        assert set(paid) == allowed
        assert np.mean(paid) == pytest.approx(0.05, abs=0.03)


def test_without_a_horizon_it_goes_on_and_with_one_it_ends():
    env = gym.make("RiverSwim-v0", start=2)
    assert env.reset(seed=0)[0] == 2
    assert not any(np.any(env.step(1)[2:4]) for _ in range(1100))
    env = gym.make("RiverSwim-v0", horizon=1)
    env.reset(seed=0)
    assert env.step(1)[2:4] == (True, False)


def test_the_picture_shows_the_river_or_the_tiles_of_a_long_one():
    def red(states, place):
        core = RiverSwim(states=states)
        frame = core.render_frame(core.initial(core.tapes(1, 0, [{"state": place}])), 0)
        return frame.shape, np.argwhere((frame == (209, 53, 43)).all(-1)).mean(0)

    (shape, first), (_, last) = red(6, 0), red(6, 5)
    assert first[0] == pytest.approx(last[0], abs=1) and last[1] > first[1] + 400
    assert shape[1] > 2 * shape[0]
    assert red(30, 0)[0][0] > 400


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"states": 1}, "states=1 must be an integer of at least 2"),
        ({"forward": 1.2}, "forward=1.2 must be a number from 0 to 1"),
        ({"forward": 0.7, "back": 0.4}, "forward=0.7 and back=0.4 sum to more than 1"),
        ({"back_last": -0.1}, "back_last=-0.1 must be a number from 0 to 1"),
        ({"forward_first": 2}, "forward_first=2 must be a number from 0 to 1"),
        ({"large": 2.0, "rewards": "bernoulli"}, "large=2.0 must be a number from 0 to 1"),
        ({"small": np.inf}, "small=inf must be a finite number"),
        ({"rewards": "sure"}, "rewards='sure', allowed are"),
        ({"start": 6}, "start=6 must be an integer from 0 to 5"),
        ({"horizon": 0}, "horizon=0 must be an integer of at least 1"),
    ],
)
def test_impossible_rivers_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        RiverSwim(**arguments)
