"""`PointMaze`: worked numbers, returns of straight ways, walls, rewards and starts."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from palaestra.envs.base import to_torch
from palaestra.envs.control.maze_controllers import straight
from palaestra.envs.control.maze_layouts import LAYOUTS, blocked
from palaestra.envs.control.point_maze import PointMaze

ID = "PointMaze-v0"


def one_step(core, place, action, velocity=(0.0, 0.0), noise=(0.0, 0.0)):
    """(place, velocity, hit, reward, terminal) after one step."""
    tape = {
        "start": np.array([place], dtype=np.float64),
        "goal": np.zeros(1),
        "noise": np.array(noise, dtype=np.float64)[None, None],
    }
    state = {**core.initial(tape), "velocity": np.array([velocity], dtype=np.float64)}
    given_action = np.array([action], dtype=np.float64)
    after = core.transition(state, given_action, tape)
    reward = core.reward(state, given_action, after)[0]
    info = core.info(after)
    assert info["success"][0] == (core.distance(after)[0] <= core.radius)
    return (*(after[name][0] for name in ("place", "velocity")), info["hit"][0], reward) + (
        core.terminal(after)[0],
    )


def total(core, tape, act, steps=None):
    """Return of each episode, for actions act(state)."""
    state, returns = core.initial(tape), 0.0
    for _ in range(steps or core.horizon):
        action = act(state)
        after = core.transition(state, action, tape)
        returns = returns + core.reward(state, action, after)
        state = after
    return returns


@pytest.mark.parametrize(
    ("layout", "place", "action", "expected", "hit", "reward", "done"),
    [
        ("two_goals", (0, 0), (1, 0.5), (0.1, 0.05, 1, 0.5), False, 0.005858, False),
        ("two_goals", (0.3, 0), (1, 0), (0.4, 0, 1, 0), False, 0.056135, False),
        ("two_goals", (1.45, 0), (1, 0.2), (1.45, 0.02, 0, 0.2), True, 0.197266, False),
        ("wall_goals", (0, -0.35), (0.5, 1), (0.05, -0.35, 0.5, 0), True, -0.416309, False),
        ("wall_goals", (0.25, -0.35), (1, 1), (0.35, -0.25, 1, 1), False, 0.133852, False),
        ("two_routes", (0.9, 0.05), (0, -0.5), (0.9, 0, 0, -0.5), False, 1, True),
        ("two_routes", (-0.45, 0), (1, 1), (-0.45, 0.1, 0, 1), True, 0, False),
    ],
)
def test_worked_example_velocities(layout, place, action, expected, hit, reward, done):
    found, velocity, touched, paid, ended = one_step(PointMaze(layout), place, action)
    np.testing.assert_allclose([*found, *velocity], expected, atol=1e-12)
    np.testing.assert_allclose(paid, reward, atol=1e-6)
    assert (touched, ended) == (hit, done)


@pytest.mark.parametrize(
    ("place", "velocity", "action", "expected", "hit", "reward"),
    [
        ((0.3, -0.55), (1, 0.5), (1, 1), (0.41, -0.55, 1.1, 0), True, 0),
        ((-0.85, 0.9), (-1, 0), (-0.5, 0), (-0.95, 0.9, -1, 0), False, 1),
    ],
)
def test_worked_example_forces(place, velocity, action, expected, hit, reward):
    found, speed, touched, paid, ended = one_step(PointMaze(), place, action, velocity)
    np.testing.assert_allclose([*found, *speed], expected, atol=1e-12)
    assert (touched, paid, ended) == (hit, reward, bool(reward))


# -- controllers with known returns ----------------------------------------------------------------


def test_worked_example_returns_of_two_goals():
    core = PointMaze("two_goals")
    tape = core.tapes(2, 0)
    goals = np.array([[1.0, 0.0], [-1.0, 0.0]])
    returns = total(core, tape, lambda state: straight(state["place"], goals))
    np.testing.assert_allclose(returns, 23.637318, atol=1e-6)
    staying = total(core, tape, lambda state: np.zeros((2, 2)))
    np.testing.assert_allclose(staying, 0.179281, atol=1e-6)


def test_worked_example_mean_return_of_the_best_controller_in_open():
    core = PointMaze("open")
    returns = total(core, core.tapes(2000, 0), lambda s: straight(s["place"], (0.0, 0.0)))
    np.testing.assert_allclose(returns.mean(), -1.462416, atol=1e-6)


def test_worked_example_returns_of_wall_goals():
    core = PointMaze("wall_goals")
    tape = core.tapes(1, 0)
    returns = total(core, tape, lambda state: straight(state["place"], (0.8, 0.6)))
    np.testing.assert_allclose(returns, 40.043560, atol=1e-6)
    up = total(core, tape, lambda state: np.array([[0.0, 1.0]]))
    np.testing.assert_allclose(up, -22.482947, atol=1e-6)


# -- walls, rewards and starts ---------------------------------------------------------------------


@given(st.sampled_from(sorted(LAYOUTS)), st.integers(0, 10**6), st.floats(0, 2))
def test_the_point_never_enters_a_wall_and_says_when_it_was_kept(layout, seed, noise):
    core = PointMaze(layout, noise=noise, start="free", horizon=20)
    tape = core.tapes(4, seed)
    state, rng = core.initial(tape), np.random.default_rng(seed)
    for step in range(20):
        action = rng.uniform(-1, 1, (4, 2))
        after = core.transition(state, action, tape)
        place = after["place"]
        assert (np.abs(place) <= core.half).all() and not blocked(place, core.walls).any()
        wish = action + noise * tape["noise"][:, step]
        wish = 0.9 * state["velocity"] + 0.2 * wish if core.inertia else wish
        kept = (place == state["place"]) & (wish != 0)
        np.testing.assert_array_equal(after["hit"], kept.any(axis=1))
        np.testing.assert_array_equal(after["velocity"], np.where(kept, 0.0, wish))
        state = after


def test_a_wall_may_be_touched():
    core = PointMaze(walls=[(0.5, 1.0, -1.0, 1.0)], start=(0, 0), spread=0, dynamics="velocity")
    place, *_, hit, _, _ = one_step(core, (0.375, 0.0), (1.0, 0.0))
    assert place[0] == 0.475 and not hit
    on_the_edge = PointMaze(walls=[(0.5, 1, -1, 1)], start=(0.5, 0.0), spread=0, goals=[(1, 0)])
    assert on_the_edge.start[0] == 0.5


def test_the_bump_is_flat_in_the_middle_and_alike_on_both_sides():
    core = PointMaze("two_goals")
    values = []
    for x in (-0.19, -0.1, 0.0, 0.1, 0.19, -0.3, 0.3):
        *_, reward, _ = one_step(core, (x, 0.1), (0.0, 0.0))
        values.append(reward)
    np.testing.assert_array_equal(values[:5], values[0])
    assert values[5] == values[6] > values[0]


def test_rooms_sample_goals_and_starts_uniformly():
    core = PointMaze("rooms")
    tape = core.tapes(400, 0)
    state = core.initial(tape)
    counts = np.bincount(state["goal"], minlength=4)
    assert (np.abs(counts - 100) < 35).all()
    quarters = (tape["start"] > 0) @ [1, 2]
    assert (np.abs(np.bincount(quarters, minlength=4) - 100) < 35).all()
    assert not blocked(tape["start"], core.walls).any()
    seen = core.observation(state)
    np.testing.assert_allclose(seen[:, :2], tape["start"].astype(np.float32))
    np.testing.assert_array_equal(seen[:, 4:], core.goals[state["goal"]])
    np.testing.assert_allclose(
        core.distance(state), np.hypot(*(tape["start"] - core.goals[state["goal"]]).T)
    )


def test_a_free_start_is_the_first_free_place_of_the_tape():
    core = PointMaze("rooms", walls=[(-2.0, 1.0, -2.0, 2.0)], goals=[(1.5, 0.0), (1.5, 1.0)])
    rng = np.random.default_rng(8)
    places = rng.uniform(-2, 2, (64, 2))
    tape = core.draw_tape(np.random.default_rng(8), {})
    np.testing.assert_array_equal(tape["start"], places[np.argmax(places[:, 0] > 1.0)])
    assert tape["goal"] == rng.random()
    np.testing.assert_array_equal(tape["noise"], rng.standard_normal((200, 2)))


def test_a_free_start_needs_room():
    env = gym.make(
        ID, layout="rooms", walls=[(-2, 2, -2, 1.999999)], goals=[(0, 2)], goal_mode="any"
    )
    with pytest.raises(ValueError, match="none of 64 places .* is free"):
        env.reset(seed=0)


@pytest.mark.parametrize(
    ("arguments", "size"),
    [
        ({"layout": "open"}, 2),
        ({"layout": "umaze"}, 4),
        ({"layout": "umaze", "mask_velocity": True}, 2),
        ({"layout": "rooms"}, 6),
        ({"layout": "rooms", "mask_velocity": True}, 4),
        ({"layout": "umaze", "noise": 1.0}, 4),
    ],
)
def test_what_is_observed(arguments, size):
    env = gym.make(ID, **arguments)
    assert env.observation_space.shape == (size,)
    bounded = env.observation_space.is_bounded()
    assert bounded == ("noise" not in arguments)
    seen, info = env.reset(seed=0)
    assert seen in env.observation_space and info.keys() == {"success", "hit"}


def test_a_chosen_start_leaves_the_following_episodes_alone():
    env, other = gym.make(ID), gym.make(ID)
    seen, _ = env.reset(seed=2, options={"state": (1.0, -1.25)})
    np.testing.assert_array_equal(seen, np.array([1.0, -1.25, 0, 0], np.float32))
    other.reset(seed=2)
    np.testing.assert_array_equal(env.reset()[0], other.reset()[0])


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ((0.0, 0.0), r"options\['state'\]=\[0.0, 0.0\] lies inside a wall"),
        ((1.6, 0.0), r"\[1.6, 0.0\] must be \(x, y\) in \[-1.5, 1.5\]"),
        ((np.nan, 0.0), "must be"),
        ((1.0, 1.0, 0.0), "must be"),
    ],
)
def test_an_impossible_start_is_refused(state, message):
    env = gym.make(ID)
    with pytest.raises(ValueError, match=message):
        env.reset(options={"state": state})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layout": "spiral"}, "layout='spiral', allowed are .*umaze"),
        ({"half": 0.0}, "half=0.0 must be"),
        ({"walls": [(0.5, 0.1, 0, 1)]}, r"wall \[0.5, 0.1, 0.0, 1.0\] must have x0 < x1"),
        ({"walls": [(0.5, 0.1, 0)]}, r"walls have shape \(1, 3\)"),
        ({"start": (0.0, 0.0)}, "start=.* lies inside a wall"),
        ({"start": (0.0, 0.7), "spread": 0.3}, "with spread=0.3 reaches into the wall"),
        ({"start": (1.4, 0.0)}, "with spread=0.2 leaves"),
        ({"start": "anywhere"}, "start='anywhere' must be 'free'"),
        ({"goals": [(0.0, 0.0)]}, r"goals\[0\]=\[0.0, 0.0\] lies inside a wall"),
        ({"goals": []}, "goals have shape"),
        ({"goal_mode": "all"}, "goal_mode='all'"),
        ({"reward": "dense"}, "reward='dense'"),
        ({"dynamics": "jump"}, "dynamics='jump'"),
        ({"radius": -0.1}, "radius=-0.1"),
        ({"noise": -1}, "noise=-1"),
        ({"horizon": 0}, "horizon=0"),
        ({"mask_velocity": 1}, "mask_velocity=1 must be True or False"),
    ],
)
def test_impossible_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        PointMaze(**arguments)


# -- the torch face and the picture ----------------------------------------------------------------


def test_torch_face_has_the_gradients_of_finite_differences():
    core = PointMaze("wall_goals")
    face = core.torch(dtype=torch.float64)
    tape = to_torch(core.tapes(2, 0), dtype=torch.float64)
    actions = torch.linspace(-0.3, 0.4, 12, dtype=torch.float64).reshape(3, 2, 2)

    def returns(given_actions):
        state, paid = face.initial(tape), 0.0
        for action in given_actions:
            after = face.transition(state, action, tape)
            paid = paid + face.reward(state, action, after)
            state = after
        return paid

    assert torch.autograd.gradcheck(returns, (actions.requires_grad_(),))


def test_the_gradient_at_a_goal_is_a_number():
    face = PointMaze("open").torch(dtype=torch.float64)
    tape = to_torch(PointMaze("open").draw_tape(np.random.default_rng(0), {"state": (0.0, 0.0)}))
    tape = {name: value[None].double() for name, value in tape.items()}
    action = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    state = face.initial(tape)
    face.reward(state, action, face.transition(state, action, tape)).sum().backward()
    np.testing.assert_array_equal(action.grad, 0.0)


@pytest.mark.parametrize("layout", ["wall_goals", "rooms"])
def test_the_picture_shows_where_the_point_is(layout):
    env = gym.make(ID, layout=layout, render_mode="rgb_array")
    frames = []
    for place in ((0.0, -1.0), (0.5, -1.0), (0.0, -1.0)):
        env.reset(seed=0, options={"state": place})
        frames.append(env.render())
    np.testing.assert_array_equal(frames[0], frames[2])
    assert (frames[0] != frames[1]).any(axis=-1).sum() > 200
