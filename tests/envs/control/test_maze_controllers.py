"""Controllers of `PointMaze` that follow waypoints, and the data recorded with them."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from palaestra.envs.control.maze_controllers import (
    two_routes_controller,
    two_routes_demonstrations,
    umaze_controller,
    umaze_steps,
)
from palaestra.envs.control.point_maze import PointMaze
from palaestra.envs.control.recording import record_episodes, record_steps
from palaestra.envs.tabular.finite_mdp import FiniteMDP

ID = "PointMaze-v0"


@pytest.mark.parametrize(("layout", "steps"), [("umaze", 55), ("two_routes", 29)])
def test_worked_example_waypoints_always_succeed_and_chance_never(layout, steps):
    core = PointMaze(layout)
    sides = 1.0 - 2.0 * (np.arange(200) % 2)

    def act(seen, reached):
        if layout == "umaze":
            return umaze_controller(seen, reached)
        return two_routes_controller(seen, sides, reached)

    data = record_episodes(core, act, 200, np.random.default_rng(0))
    assert data["terminations"].sum() == data["rewards"].sum() == 200
    assert not data["truncations"].any()
    assert round(len(data["actions"]) / 200) == steps
    chance = np.random.default_rng(1)
    data = record_episodes(
        core,
        lambda seen, memory: (chance.uniform(-1, 1, (len(seen), 2)), None),
        200,
        np.random.default_rng(0),
    )
    assert data["rewards"].sum() == 0 and data["truncations"].sum() == 200


def test_a_controller_serves_a_single_environment():
    env = gym.make(ID)
    seen, _ = env.reset(seed=4)
    reached, steps = None, 0
    while True:
        action, reached = umaze_controller(seen[None], reached)
        seen, reward, terminated, truncated, info = env.step(action[0].astype(np.float32))
        steps += 1
        if terminated or truncated:
            break
    assert terminated and reward == 1 and info["success"] and 50 <= steps <= 60


# -- recorded data ---------------------------------------------------------------------------------


def test_worked_example_share_of_demonstrations_that_succeed():
    data = two_routes_demonstrations(4000, seed=1)
    # 0.594 in 4,000 episodes, so the standard error of the difference is 0.011.
    assert abs(data["terminations"].sum() / 4000 - 0.594) < 0.035
    assert data["terminations"].sum() + data["truncations"].sum() == 4000


def test_demonstrations_take_both_routes_and_begin_alike_however_many_there_are():
    few, many = two_routes_demonstrations(6, 3), two_routes_demonstrations(40, 3)
    for name, value in few.items():
        np.testing.assert_array_equal(value, many[name][: len(value)])
    ends = np.flatnonzero(many["terminations"] | many["truncations"])
    assert len(ends) == 40
    places = np.split(many["observations"], ends[:-1] + 1)
    middles = [place[np.abs(place[:, 0]) < 0.4, 1] for place in places]
    signs = [np.sign(middle.mean()) for middle in middles if len(middle)]
    expected = [(-1.0) ** i for i, middle in enumerate(middles) if len(middle)]
    assert signs == expected and len(signs) > 30


def test_recorded_steps_are_steps_of_the_environment():
    data = umaze_steps(2_000, seed=5)
    assert {len(value) for value in data.values()} == {2_000}
    assert data["truncations"][-1] and not data["terminations"][-1]
    core = PointMaze()
    state = core.initial({"start": data["observations"][:, :2].astype(np.float64)})
    state["velocity"] = data["observations"][:, 2:].astype(np.float64)
    action = data["actions"].astype(np.float64)
    after = core.transition(state, action, {"noise": np.zeros((2_000, 1, 2))})
    # An observation is rounded to float32; a step may hit a wall only before or after that.
    seen = core.observation(after)
    same = np.abs(seen - data["next_observations"]).max(axis=1) < 1e-5
    assert same.mean() > 0.995
    np.testing.assert_array_equal(core.reward(state, action, after)[same], data["rewards"][same])
    going = ~(data["terminations"] | data["truncations"])[:-1]
    np.testing.assert_array_equal(
        data["next_observations"][:-1][going], data["observations"][1:][going]
    )


def test_recorded_steps_do_not_depend_on_the_size_of_a_block():
    core = PointMaze()
    one, other = (
        record_steps(core, umaze_controller, 500, np.random.default_rng(2), 0.5, block)
        for block in (1, 30)
    )
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])


def test_what_cannot_be_recorded_is_refused():
    for arguments, message in (
        ({"episodes": 0}, "episodes=0"),
        ({"noise": -1.0}, "noise=-1.0"),
    ):
        with pytest.raises(ValueError, match=message):
            two_routes_demonstrations(**arguments)
    with pytest.raises(ValueError, match="steps=0"):
        umaze_steps(0)
    with pytest.raises(ValueError, match="FiniteMDP have no horizon, or no box of actions"):
        record_episodes(FiniteMDP(), umaze_controller, 1, np.random.default_rng(0))
