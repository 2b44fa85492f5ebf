"""`DoorChain`: the tables, slipping, and what is refused."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

import palaestra  # noqa: F401  (registers the environments)
from palaestra.envs.tabular.door_chain import DoorChain


def episode(actions, **arguments):
    env = gym.make("DoorChain-v0", **arguments)
    env.reset(seed=0)
    return [env.step(action)[:4] for action in actions]


def test_the_chain_pays_behind_the_last_door():
    assert episode([1, 1, 1], depth=3, safe=0.4) == [
        (1, 0.0, False, False),
        (2, 0.0, False, False),
        (3, 1.0, True, False),
    ]
    assert episode([0], depth=3, safe=0.4) == [(3, 0.4, True, False)]
    assert episode([1, 0], depth=3, safe=0.4)[-1] == (3, 0.0, True, False)


@pytest.mark.parametrize("depth", [1, 2, 5])
@pytest.mark.parametrize("slip", [0.0, 0.1, 1.0])
def test_the_value_of_always_opening(depth, slip):
    """Each door opens with probability 1 - slip; slipping before the first one is not in vain."""
    core = DoorChain(depth=depth, safe=0.3, slip=slip)
    values = np.zeros(depth + 1)
    for _ in range(depth):
        values = core.R[0, :, 1] + core.P[0, :, 1] @ values
    assert values[0] == pytest.approx((1 - slip) ** depth + 0.3 * slip)
    assert core.horizon == depth and core.terminal_states == (depth,)


@pytest.mark.parametrize("door", [0, 1, 2])
def test_steps_are_as_often_the_other_action_as_slip_says(door):
    core, n = DoorChain(depth=3, safe=0.5, slip=0.25), 4000
    tape = core.tapes(n, 0, [{"state": door}] * n)
    before = core.initial(tape)
    for action in (0, 1):
        actions = np.full(n, action)
        after = core.transition(before, actions, tape)
        rewards = core.reward(before, actions, after)
        assert after["s"].mean() == pytest.approx(core.P[0, door, action] @ np.arange(4), abs=0.06)
        assert rewards.mean() == pytest.approx(core.R[0, door, action], abs=0.03)
        if door < 2:  # there the next state tells which action was executed
            np.testing.assert_array_equal(rewards, 0.5 * (door == 0) * (after["s"] == 3))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 0}, "depth=0 must be an integer of at least 1"),
        ({"safe": 1.5}, "safe=1.5 must be a number from 0 to 1"),
        ({"slip": -0.1}, "slip=-0.1 must be a number from 0 to 1"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        DoorChain(**arguments)


def test_the_picture_frames_the_present_door():
    core = DoorChain(depth=4)
    frames = [
        core.render_frame(core.initial(core.tapes(1, 0, [{"state": door}])), 0) for door in (0, 2)
    ]
    red = [np.argwhere((frame == (209, 53, 43)).all(-1)).mean(0)[1] for frame in frames]
    assert red[1] - red[0] == pytest.approx(2 * 480 / 5, abs=3)
