"""`LineWorld`: worked numbers, the best action, recorded data and its laws, errors."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from palaestra.envs.base import to_torch
from palaestra.envs.control.line_world import LineWorld
from palaestra.envs.control.line_world_data import (
    alternating_steps,
    far_half_steps,
    half_good_steps,
    mostly_bad_steps,
)

ID = "LineWorld-v0"
BUILDERS = [alternating_steps, mostly_bad_steps, half_good_steps, far_half_steps]
every_builder = pytest.mark.parametrize("build", BUILDERS)


def one_step(core, s, a):
    """(next place, reward)."""
    state, action = core.initial({"start": np.array([float(s)])}), np.array([[a]])
    after = core.transition(state, action, {})
    return after["s"][0], core.reward(state, action, after)[0]


@pytest.mark.parametrize(
    ("reversed_part", "s", "a", "expected", "reward"),
    [
        (None, 9.7, 0.5, 10.0, 0.3),
        (None, 0.2, -1.0, 0.0, -0.2),
        ((0, 5), 4.9, -1.0, 5.9, 1.0),
        ((0, 5), 5.0, -1.0, 4.0, -1.0),
        ((0, np.inf), 7.0, 0.4, 6.6, -0.4),
    ],
)
def test_worked_example_steps(reversed_part, s, a, expected, reward):
    found = one_step(LineWorld(reversed_part), s, a)
    np.testing.assert_allclose(found, (expected, reward), atol=1e-12)


@pytest.mark.parametrize("reversed_part", [None, (0, 5), (0, np.inf), (2.5, 3.0)])
def test_worked_example_the_best_action_reaches_the_end_within_ten_steps(reversed_part):
    core = LineWorld(reversed_part)
    starts = np.linspace(0, 10, 41)
    state, total = core.initial({"start": starts}), 0.0
    for _ in range(10):
        action = core.direction(state["s"])[:, None]
        after = core.transition(state, action, {})
        total = total + core.reward(state, action, after)
        state = after
    np.testing.assert_array_equal(state["s"], 10.0)
    np.testing.assert_allclose(total, 10.0 - starts, atol=1e-12)


places = st.floats(0, 10)
intervals = st.tuples(places, st.floats(0.1, 10)).map(lambda pair: (pair[0], sum(pair)))


@given(intervals, places, st.floats(-1, 1))
def test_reversal_is_the_opposite_action(interval, s, a):
    low, high = interval
    found = one_step(LineWorld(interval), s, a)
    assert found == one_step(LineWorld(), s, -a if low <= s < high else a)
    assert 0 <= found[0] <= 10 and abs(found[1]) <= 1


def test_rewards_add_up_to_the_way():
    env = gym.make(ID, reversed=(3, 6))
    env.action_space.seed(0)
    first, _ = env.reset(seed=5)
    start, total = env.unwrapped.state["s"][0], 0.0
    for step in range(20):
        _, reward, terminated, truncated, _ = env.step(env.action_space.sample())
        total += reward
        assert not terminated and truncated == (step == 19)
    np.testing.assert_allclose(total, env.unwrapped.state["s"][0] - start, atol=1e-12)
    assert first[0] == np.float32(np.random.default_rng(5).uniform(0, 10)) == np.float32(start)


def test_a_chosen_start_leaves_the_following_episodes_alone():
    env, other = gym.make(ID), gym.make(ID)
    for state in (7.25, [7.25]):
        seen, _ = env.reset(seed=2, options={"state": state})
        np.testing.assert_array_equal(seen, [7.25])
    other.reset(seed=2)
    np.testing.assert_array_equal(env.reset()[0], other.reset()[0])


@pytest.mark.parametrize("state", [-0.1, 10.5, np.nan, (1.0, 2.0)])
def test_an_impossible_start_is_refused(state):
    with pytest.raises(ValueError, match=r"options\['state'\].* must be a number in \[0, 10\]"):
        gym.make(ID).reset(options={"state": state})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"reversed": (5, 0)}, r"reversed=\(5, 0\) must be \(lo, hi\) with lo < hi"),
        ({"reversed": (0, np.nan)}, "must be"),
        ({"reversed": (1, 2, 3)}, "must be"),
        ({"max_steps": 0}, "max_steps=0"),
    ],
)
def test_impossible_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        LineWorld(**arguments)


# -- recorded data ---------------------------------------------------------------------------------


@every_builder
def test_recorded_steps_are_steps_of_the_environment(build):
    data = build(seed=3)
    core = LineWorld((0, 5) if build is far_half_steps else None)
    assert {len(value) for value in data.values()} == {500 if build is far_half_steps else 4_000}
    assert not data["terminations"].any() and data["truncations"].all()
    for name, space in (
        *((f"{kind}observations", core.observation_space) for kind in ("", "next_")),
        ("actions", core.action_space),
    ):
        assert data[name].dtype == np.float32
        assert ((data[name] >= space.low) & (data[name] <= space.high)).all()
    for row in range(0, 500, 50):
        found, reward = one_step(core, data["observations"][row, 0], data["actions"][row, 0])
        np.testing.assert_allclose(data["next_observations"][row, 0], found, atol=1e-5)
        np.testing.assert_allclose(data["rewards"][row], reward, atol=1e-6)


@every_builder
def test_a_seed_is_a_data_set(build):
    one, same, other = build(300, 1), build(300, 1), build(300, 2)
    for name, value in one.items():
        np.testing.assert_array_equal(value, same[name])
    assert (one["actions"] != other["actions"]).mean() > 0.99
    with pytest.raises(ValueError, match="rows=0"):
        build(0)


def pairs(data):
    return data["observations"][:, 0].astype(float), data["actions"][:, 0].astype(float)


def test_alternating_steps_follow_their_law():
    s, a = pairs(alternating_steps())
    odd = np.floor(s) % 2 == 1
    np.testing.assert_array_equal(a < 0, odd)
    assert abs(odd.mean() - 0.5) < 0.03
    assert 0.2 <= np.abs(a).min() < 0.21 and 0.99 < np.abs(a).max() <= 1
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(s, rng.uniform(0, 10, 4_000).astype(np.float32))
    np.testing.assert_array_equal(np.abs(a), rng.uniform(0.2, 1, 4_000).astype(np.float32))


def test_mostly_bad_steps_follow_their_law():
    s, a = pairs(mostly_bad_steps())
    good = a > 0
    assert abs(good.mean() - 0.2) < 0.03 and abs(s.mean() - 5) < 0.2
    assert 0.5 <= a[good].min() < 0.51
    assert -0.21 < a[~good].max() <= -0.2 + 1e-7 and -1 <= a[~good].min() < -0.99
    rng = np.random.default_rng(0)
    rng.uniform(0, 10, 4_000)
    np.testing.assert_array_equal(good, rng.random(4_000) < 0.2)


def test_half_good_steps_follow_their_law():
    s, a = pairs(half_good_steps())
    left, good = s < 5, a > 0
    assert good[left].all() and 0.6 <= a[left].min() < 0.61
    assert abs(good[~left].mean() - 0.15) < 0.03
    assert 0.5 <= a[~left & good].min() < 0.52
    assert -0.21 < a[~good].max() <= -0.2 + 1e-7 and a[~good].min() < -0.99


def test_far_half_steps_follow_their_law():
    data = far_half_steps()
    s, a = pairs(data)
    assert s.min() >= 5 and s.max() > 9.9 and a.min() < -0.98 and a.max() > 0.98
    # The controls are not reversed where the data is, so it looks like the simple line.
    simple = LineWorld()
    for row in range(0, 500, 25):
        np.testing.assert_allclose(
            data["next_observations"][row, 0], one_step(simple, s[row], a[row])[0], atol=1e-5
        )


# -- the torch face and the picture ----------------------------------------------------------------


def test_torch_face_has_the_gradient_of_the_direction():
    core = LineWorld((0, 5))
    face = core.torch(dtype=torch.float64)
    tape = to_torch({"start": np.array([2.0, 7.0, 9.9])}, dtype=torch.float64)
    action = torch.full((3, 1), 0.5, dtype=torch.float64, requires_grad=True)
    state = face.initial(tape)
    face.reward(state, action, face.transition(state, action, tape)).sum().backward()
    np.testing.assert_array_equal(action.grad[:, 0], [-1.0, 1.0, 0.0])


def test_the_picture_shows_place_and_reversal():
    frames = []
    for reversed_part, s in ((None, 3.0), (None, 8.0), ((0, 5), 3.0), (None, 3.0)):
        env = gym.make(ID, reversed=reversed_part, render_mode="rgb_array")
        env.reset(seed=0, options={"state": s})
        env.step(np.array([0.25], np.float32))
        frames.append(env.render())
    np.testing.assert_array_equal(frames[0], frames[3])
    for other in frames[1:3]:
        assert (frames[0] != other).any(axis=-1).sum() > 200
