"""`ItemPacking`: picks, nudges, losses, observations, and how far simple policies come."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

import palaestra  # noqa: F401  (registers the environments)
from palaestra.envs.tabular.item_packing import ItemPacking

NUDGE_LEFT, NUDGE_RIGHT = 3, 4


def state_of(core, *conditions):
    return int(np.flatnonzero((core.conditions == conditions).all(1))[0])


def outcomes(core, state, action):
    """{conditions: probability} of a step."""
    row = core.P[0, state, action]
    return {tuple(core.conditions[s].tolist()): row[s] for s in np.flatnonzero(row)}


def success(core, policy):
    """Probability that a policy [S, A] packs all items."""
    values = np.zeros(core.states)
    for _ in range(core.horizon):
        action_values = core.R[0] + core.P[0] @ values
        action_values[list(core.terminal_states)] = 0
        values = (policy * action_values).sum(1)
    return values[0]


def commands(core, stuck_action):
    """Pick the first item to do; where one is stuck, what `stuck_action` says of its side."""
    choices = np.zeros((core.states, core.actions))
    for state, conditions in enumerate(core.conditions.tolist()):
        sides = [c for c in conditions if c in (1, 2)]
        to_do = [i for i, c in enumerate(conditions) if c == 0]
        choices[state, stuck_action(sides[0]) if sides else (to_do or [0])[0]] = 1
    return choices


def test_states_hold_at_most_one_stuck_item():
    core = ItemPacking()
    assert core.states == 8 + 3 * 2 * 4 + 1
    assert core.commands == ("pick 0", "pick 1", "pick 2", "nudge left", "nudge right")
    assert ((core.conditions == 1) | (core.conditions == 2)).sum(1).max() == 1
    assert core.conditions[0].tolist() == [0, 0, 0] and core.d0[0] == 1


def test_every_command_does_what_is_specified():
    core = ItemPacking()
    start, lost = state_of(core, 0, 3, 0), (-1, -1, -1)
    assert outcomes(core, start, 0) == pytest.approx(
        {(3, 3, 0): 0.6, (1, 3, 0): 0.2, (2, 3, 0): 0.2}
    )
    for idle in (1, NUDGE_LEFT, NUDGE_RIGHT):
        assert outcomes(core, start, idle) == {(0, 3, 0): 1.0}
    for side, right, wrong in ((1, NUDGE_RIGHT, NUDGE_LEFT), (2, NUDGE_LEFT, NUDGE_RIGHT)):
        stuck = state_of(core, 0, side, 3)
        done = {(0, 3, 3): 0.8, (0, side, 3): 0.2}
        assert outcomes(core, stuck, right) == pytest.approx(done)
        for command in (0, 1, 2, wrong):
            expected = {(0, side, 3): 0.6, lost: 0.4}
            assert outcomes(core, stuck, command) == pytest.approx(expected)


def test_success_of_simple_policies():
    core = ItemPacking()
    best = core.plan(1.0).values[0, 0]
    assert best == pytest.approx(0.999999, abs=1e-6)
    right = commands(core, lambda side: NUDGE_RIGHT if side == 1 else NUDGE_LEFT)
    again = commands(core, lambda side: 0)
    assert success(core, right) == pytest.approx(best, abs=1e-9)
    assert success(core, again) == pytest.approx(0.6**3)
    corrected = np.where(right > again, 0.8, 0.0) + np.where(right < again, 0.2, 0.0)
    corrected += np.where(right == again, right, 0.0)
    assert success(core, corrected) == pytest.approx(0.872484, abs=1e-6)


def test_an_episode_pays_when_all_is_packed_and_ends_when_an_item_is_lost():
    sure = gym.make("ItemPacking-v0", pick=1.0)
    sure.reset(seed=0)
    assert [sure.step(item)[1:3] for item in range(3)] == [(0.0, False), (0.0, False), (1.0, True)]
    clumsy = gym.make("ItemPacking-v0", pick=0.0, lose=1.0)
    clumsy.reset(seed=0)
    clumsy.step(0)
    observation, reward, terminated, truncated, _ = clumsy.step(0)
    assert (reward, terminated, truncated) == (0.0, True, False)
    assert observation.tolist() == [0.0] * 12 + [1.0]
    idle = gym.make("ItemPacking-v0")
    idle.reset(seed=0)
    ends = [idle.step(NUDGE_LEFT)[2:4] for _ in range(14)]
    assert ends == [(False, False)] * 13 + [(True, False)]


def test_features_are_conditions_and_a_constant():
    env = gym.make("ItemPacking-v0")
    core = env.unwrapped.core
    observation, _ = env.reset(options={"state": state_of(core, 0, 2, 3)})
    assert observation.dtype == np.float32
    assert observation.tolist() == [*(1, 0, 0, 0), *(0, 0, 1, 0), *(0, 0, 0, 1), 1]
    assert ItemPacking(observation="index").observation_space == gym.spaces.Discrete(33)
    assert ItemPacking(items=2).observation_space.shape == (9,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"items": 7}, "items=7 must be an integer from 1 to 6"),
        ({"pick": 1.1}, "pick=1.1"),
        ({"nudge": -1}, "nudge=-1"),
        ({"lose": "often"}, "lose='often'"),
        ({"horizon": None}, "horizon=None must be an integer of at least 1"),
        ({"horizon": 0}, "horizon=0"),
        ({"observation": "pixels"}, "observation='pixels', allowed are"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ItemPacking(**arguments)


def test_the_picture_tells_the_conditions_apart():
    core = ItemPacking()
    frames = []
    for conditions in ((0, 0, 0), (1, 0, 0), (2, 0, 0), (3, 0, 0), (3, 3, 3), (-1, -1, -1)):
        state = core.initial(core.tapes(1, 0))
        state["s"][:] = state_of(core, *conditions)
        frames.append(core.render_frame(state, 0))
    blue = [np.argwhere((frame == (58, 134, 200)).all(-1)) for frame in frames]
    middles = [places.mean(0) for places in blue[:4]]
    assert middles[0][0] < middles[1][0] < middles[3][0]  # table, edge, bag: lower and lower
    assert middles[1][1] < middles[0][1] < middles[2][1]  # left, middle, right
    assert len(blue[4]) and not len(blue[5])
