"""`GridWorld`: moves, slip, wind, key and door, layouts, observations, events and pictures."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import palaestra  # noqa: F401  (registers the environments)
from palaestra.envs.base import to_torch
from palaestra.envs.tabular.grid_world import GridWorld

NORTH, SOUTH, EAST, WEST = range(4)
TWO_GOALS = {"goals": {(0, 0): (0.5, True), (4, 4): (1.0, True)}}
CORRIDOR = {"layout": "corridor", "half_width": 10, "slip": 0.05, "gust": 0.2}


def episode(actions, state=None, seed=0, **arguments):
    """(state, reward, terminated, truncated, event) of each step."""
    env = gym.make("GridWorld-v0", **arguments)
    env.reset(seed=seed, options=None if state is None else {"state": state})
    steps = [env.step(action) for action in actions]
    return [(*step[:4], step[4]["event"]) for step in steps]


def evaluate(core, policy, gamma=1.0):
    """Values [S] of a policy [S, A] at the first step of a horizon, or for ever."""
    rewards = (policy * core.R[0]).sum(1)
    P = np.einsum("sa,sat->st", policy, core.P[0])
    going = ~np.isin(np.arange(core.states), core.terminal_states)
    if core.horizon is None:
        return np.linalg.solve(np.eye(core.states) - gamma * P * going[:, None], rewards * going)
    values = np.zeros(core.states)
    for _ in range(core.horizon):
        values = rewards + gamma * P @ values
    return values


# -- worked examples -----------------------------------------------------------------------------


def test_worked_example_moves_of_the_empty_grid():
    targets = [episode([action], state=12)[0][0] for action in (NORTH, SOUTH, EAST, WEST)]
    assert targets == [7, 17, 13, 11]
    assert episode([NORTH], state=4)[0] == (4, 0.0, False, False, "bump")


def test_worked_example_values_of_two_grids():
    core = GridWorld(start=(2, 2), step_reward=-0.01, max_steps=30, **TWO_GOALS)
    assert core.d0[12] == 1
    assert core.plan(1.0).values[12] == pytest.approx(0.97, abs=1e-12)
    core = GridWorld(8, 8, start="free", goals={(7, 7): (0.0, True)}, step_reward=-1.0)
    assert core.d0[:63] == pytest.approx(1 / 63) and core.d0[63] == 0
    assert core.d0 @ core.plan(1.0).values == pytest.approx(-6.111111, abs=1e-6)


def test_worked_example_corridor():
    core = GridWorld(length=80, **CORRIDOR)
    assert core.P[0, 10, EAST, 9:12] == pytest.approx([0.0125, 0.975, 0.0125])
    assert core.P[0, 11, NORTH, 10:13] == pytest.approx([0.77, 0.02, 0.21])
    assert core.plan(1.0).values[0, 10] == pytest.approx(-3.361089, abs=1e-6)
    assert core.horizon == 80 and core.d0[10] == 1
    assert core.R[0, 10, WEST] == pytest.approx(-0.025)


def test_worked_example_cost_of_walking_without_correction_grows_faster_than_the_horizon():
    """A policy that is right on the path and random beside it, exactly."""
    lengths, costs = (10, 20, 40, 80), []
    for length in lengths:
        policy = np.full((21, 4), 0.25)
        policy[10] = [0, 0, 1, 0]
        costs.append(-evaluate(GridWorld(length=length, **CORRIDOR), policy)[10])
    assert costs == pytest.approx([0.951024, 3.084218, 10.009217, 31.614841], abs=1e-6)
    exponent = np.polyfit(np.log(lengths), np.log(costs), 1)[0]
    assert exponent == pytest.approx(1.69, abs=0.005)


def test_worked_example_windy_walk():
    calm, windy = (GridWorld(layout="windy_walk", alpha=alpha) for alpha in (0.0, 0.5))
    assert windy.P[0, 1, EAST, [2, 0]] == pytest.approx([0.5, 0.5])
    assert windy.P[0, 15, EAST, [16, 14]] == pytest.approx([0.875, 0.125])
    assert windy.P[0, 29, EAST, [30, 28]] == pytest.approx([1 - 0.5**6, 0.5**6])
    nominal = np.eye(4)[calm.plan(0.95).policy]
    assert evaluate(windy, nominal, 0.95)[0] == pytest.approx(-14.358511, abs=1e-6)
    assert windy.plan(0.95).values[0] == pytest.approx(-8.911116, abs=1e-6)
    assert calm.plan(1.0).values[0] == -6
    assert windy.max_steps == 200 and GridWorld(layout="windy_walk", max_steps=9).max_steps == 9


@pytest.mark.parametrize(("size", "length"), [(7, 18), (11, 30), (12, 32)])
def test_worked_example_shortest_way_over_key_and_door(size, length):
    env = gym.make("GridWorld-v0", layout="key_door", size=size)
    _, info = env.reset(seed=0)
    policy = env.unwrapped.plan(0.99).policy
    seen, state, steps = [info["remaining"]], 0, 0
    terminated = False
    while not terminated:
        state, reward, terminated, _, info = env.step(policy[state])
        seen.append(info["remaining"])
        assert reward == float(terminated)
        steps += 1
    assert steps == length
    assert seen == list(range(length, -1, -1))
    assert info["event"] == "goal"


def test_worked_example_events_of_key_and_door():
    world = {"layout": "key_door", "size": 7}
    assert episode([SOUTH], state=35, **world) == [(91, 0.0, False, False, "key")]
    assert episode([EAST], state=72, **world) == [(73, 0.0, False, False, "door")]
    assert episode([EAST], state=23, **world) == [(23, 0.0, False, False, "bump")]


# -- tables --------------------------------------------------------------------------------------


def expected_outcomes(core, state, action):
    """{next state: probability}, one chance after the other."""
    grid, cells = core.grid, core.grid.walls.size
    has_key, cell = divmod(state, cells)
    place = divmod(cell, grid.cols)
    found = {}
    for executed in range(4):
        chance = core.slip / 4 + (1 - core.slip) * (executed == action)
        winds = grid.gust.get(place, [])
        calm = 1 - sum(x for x, _ in winds)
        for x, direction in [(calm, executed), *winds]:
            down, right = ((-1, 0), (1, 0), (0, 1), (0, -1))[direction]
            row, col = place[0] + down, place[1] + right
            blocked = not (0 <= row < grid.rows and 0 <= col < grid.cols)
            blocked = blocked or grid.walls[row, col] or ((row, col) == grid.door and not has_key)
            row, col = place if blocked else (row, col)
            key = has_key or (row, col) == grid.key
            target = row * grid.cols + col + cells * key
            found[target] = found.get(target, 0) + chance * x
    return {target: chance for target, chance in found.items() if chance > 0}


@st.composite
def worlds(draw):
    """Arguments of a random world in which every special cell is another one."""
    rows, cols = draw(st.integers(2, 4)), draw(st.integers(2, 4))
    cells = draw(st.permutations([(r, c) for r in range(rows) for c in range(cols)]))
    start, goal, key, *rest = cells
    door = rest.pop() if len(rest) > 2 and draw(st.booleans()) else None
    walls = rest[: draw(st.integers(0, len(rest) // 2))]
    shares = st.tuples(st.floats(0, 0.5), st.integers(0, 3))
    gust = {cell: draw(st.lists(shares, max_size=2)) for cell in cells[:3]}
    return {
        **{"rows": rows, "cols": cols, "start": start, "walls": walls, "key": key, "door": door},
        **{"goals": {goal: (2.0, True)}, "gust": gust, "slip": draw(st.floats(0, 1))},
        **{"step_reward": draw(st.sampled_from([0.0, -1.0])), "max_steps": 20},
    }


@settings(max_examples=40, deadline=None)
@given(worlds())
def test_tables_are_the_chances_of_slip_wind_and_walls(arguments):
    core = GridWorld(**arguments)
    cells = core.grid.walls.size
    assert core.states == 2 * cells
    goal = next(iter(arguments["goals"]))
    worth = np.full(cells, arguments["step_reward"])
    worth[core.grid.number(goal)] = 2.0
    assert core.terminal_states == (core.grid.number(goal), cells + core.grid.number(goal))
    for state in np.flatnonzero(core._possible):
        for action in range(4):
            expected = expected_outcomes(core, state, action)
            row = np.zeros(core.states)
            row[list(expected)] = list(expected.values())
            np.testing.assert_allclose(core.P[0, state, action], row, atol=1e-12)
            reward = sum(chance * worth[target % cells] for target, chance in expected.items())
            assert core.R[0, state, action] == pytest.approx(reward, abs=1e-12)


def test_nothing_is_paid_where_nobody_can_be():
    core = GridWorld(layout="two_rooms", size=5, step_reward=-1.0)
    values = core.plan(1.0).values.reshape(5, 5)
    assert (values[core.grid.walls] == 0).all()
    assert values[0, 0] == -7 + 1  # the goal's step pays 1 instead of -1: 7 steps cost 1 each
    np.testing.assert_array_equal(core.remaining.reshape(5, 5)[core.grid.walls], -1)


def test_a_failed_move_enters_the_cell_again():
    """On a goal that goes on, bumping into the wall pays its value once more."""
    world = {"rows": 2, "cols": 2, "goals": {(0, 1): (0.25, False)}, "max_steps": 4}
    assert episode([EAST, EAST, NORTH, WEST], **world) == [
        (1, 0.25, False, False, "goal"),
        (1, 0.25, False, False, "bump"),
        (1, 0.25, False, False, "bump"),
        (0, 0.0, False, True, ""),
    ]
    values = np.arange(4.0).reshape(2, 2)
    world = {"rows": 2, "cols": 2, "cell_rewards": values, "horizon": 3}
    rewards = [step[1:3] for step in episode([EAST, SOUTH, SOUTH], **world)]
    assert rewards == [(1.0, False), (3.0, False), (3.0, True)]


def test_cell_rewards_take_the_place_of_the_last_cells_goal():
    assert GridWorld(3, 3, cell_rewards=np.ones((3, 3)), horizon=4).terminal_states == ()
    core = GridWorld(3, 3, cell_rewards=np.ones((3, 3)), goals={(0, 1): (7.0, True)})
    assert core.terminal_states == (1,)
    assert core.grid.rewards.tolist() == [[1, 7, 1], [1, 1, 1], [1, 1, 1]]


def test_the_way_to_key_fountain_and_door_is_told_in_events():
    steps = [SOUTH, EAST, WEST, *[SOUTH] * 3, NORTH, NORTH, EAST, EAST, EAST, WEST, SOUTH]
    found = episode(steps, layout="key_door", size=5, fountain=(1, 1))
    assert [step[-1] for step in found] == [
        *("", "fountain", "", "", "", "key", "", "", "", "door", "", "door", "bump")
    ]
    assert episode([NORTH], state=2 * 25 - 6, layout="key_door", size=5)[0][-1] == ""
    assert episode([SOUTH], state=2 * 25 - 6, layout="key_door", size=5)[0] == (
        *(49, 1.0, True, False),
        "goal",
    )


def test_events_of_a_vector_are_strings_and_none_where_a_row_says_nothing():
    vector = gym.make_vec("GridWorld-v0", num_envs=2, vectorization_mode="vector_entry_point")
    _, infos = vector.reset(seed=0)
    assert infos["event"].tolist() == ["", ""]
    infos = vector.step(np.array([NORTH, EAST]))[-1]
    assert infos["event"].tolist() == ["bump", ""]
    _, infos = vector.reset(options={"reset_mask": np.array([False, True])})
    assert infos["event"].tolist() == [None, ""] and infos["_event"].tolist() == [False, True]


@pytest.mark.parametrize("slip", [0.0, 0.4])
def test_episodes_follow_the_table(slip):
    core, n = GridWorld(3, 3, slip=slip, goals={}, horizon=1), 4000
    tape = core.tapes(n, 0, [{"state": 4}] * n)
    after = core.transition(core.initial(tape), np.full(n, EAST), tape)
    found = np.bincount(after["s"], minlength=9) / n
    np.testing.assert_allclose(found, core.P[0, 4, EAST], atol=0.03)


# -- observations --------------------------------------------------------------------------------


def test_coordinates_and_planes_show_the_same_state():
    world = {"layout": "key_door", "size": 5}
    env = gym.make("GridWorld-v0", observation="coords", **world)
    assert env.reset(options={"state": 25 + 8})[0].tolist() == [0.25, 0.75, 1.0]
    env = gym.make("GridWorld-v0", observation="planes", pad=6, **world)
    without, _ = env.reset(options={"state": 16})
    holding, _ = env.reset(options={"state": 25 + 16})
    assert without.shape == (5, 6, 6) and without.dtype == np.float32
    agent, walls, goals, key, door = without
    assert np.argwhere(agent).tolist() == [[3, 1]]
    assert np.argwhere(walls).tolist() == [[0, 2], [1, 2], [3, 2], [4, 2]]
    assert np.argwhere(goals).tolist() == [[4, 4]]
    assert np.argwhere(key).tolist() == [[4, 0]] and np.argwhere(door).tolist() == [[2, 2]]
    np.testing.assert_array_equal(holding[:3], without[:3])
    assert not holding[3:].any()


def test_bounds_of_planes_hold_the_values_of_the_goals():
    space = GridWorld(observation="planes").observation_space
    assert (space.low.min(), space.high.max(), space.shape) == (0, 1, (5, 5, 5))
    goals = {(0, 1): (-3.0, False), (1, 1): (4.0, True)}
    space = GridWorld(2, 3, goals=goals, observation="planes").observation_space
    assert (space.low.min(), space.high.max(), space.shape) == (-3, 4, (5, 3, 3))
    line = GridWorld(layout="corridor", half_width=1, observation="coords")
    state = line.initial(line.tapes(1, 0))
    assert line.observation(state).tolist() == [[0.5, 0.0, 0.0]]


def test_index_and_onehot_are_those_of_the_engine():
    assert GridWorld(layout="key_door").observation_space == gym.spaces.Discrete(98)
    assert GridWorld(2, 3, observation="onehot").observation_space.shape == (6,)


def test_the_torch_face_knows_remaining_and_events():
    face = GridWorld(layout="key_door", size=5).torch(dtype=torch.float64)
    core = GridWorld(layout="key_door", size=5)
    tape = core.tapes(1, 0, [{"state": 15}])
    tensors = to_torch(tape, dtype=torch.float64)
    state = face.transition(face.initial(tensors), torch.tensor([SOUTH]), tensors)
    info = face.info(state)
    assert info["event"].tolist() == ["key"] and info["remaining"].tolist() == [8]


# -- arguments -----------------------------------------------------------------------------------


def test_free_starts_avoid_walls_goals_key_and_door():
    core = GridWorld(
        *(3, 3),
        walls=[(1, 1)],
        start="free",
        goals={(2, 2): (1.0, True), (0, 2): (0.0, False)},
        key=(2, 0),
        door=(1, 2),
    )
    assert np.flatnonzero(core.d0).tolist() == [0, 1, 3, 7]
    assert core.d0[[0, 1, 3, 7]] == pytest.approx(0.25)


def test_layouts_fix_what_they_say():
    rooms = GridWorld(layout="two_rooms", size=7).grid
    assert np.argwhere(rooms.walls).tolist() == [[row, 3] for row in (0, 1, 2, 4, 5, 6)]
    assert rooms.goals == {(6, 6): (1.0, True)} and rooms.start == (0, 0)
    doors = GridWorld(layout="key_door", size=6).grid
    assert (doors.key, doors.door) == ((5, 0), (3, 3))
    empty = GridWorld(3, 4).grid
    assert empty.goals == {(2, 3): (1.0, True)} and not empty.walls.any()
    walk = GridWorld(layout="windy_walk", alpha=0.5).grid
    assert walk.gust[0, 1] == [(0.5, WEST)] and walk.gust[4, 5] == [(0.5**6, WEST)]
    assert len(walk.gust) == 15 and walk.walls.sum() == 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layout": "maze"}, "layout='maze', allowed are"),
        ({"size": 5}, r"size=5 belongs to the layouts \['two_rooms', 'key_door'\], not to 'empty'"),
        ({"layout": "key_door", "alpha": 0.5}, "alpha=0.5 belongs to"),
        ({"layout": "key_door", "size": 2}, "size=2 must be an integer of at least 3"),
        ({"layout": "key_door", "door": (1, 1)}, "the layout 'key_door' fixes it"),
        ({"layout": "windy_walk", "step_reward": 0.0}, "the layout 'windy_walk' fixes it"),
        ({"layout": "windy_walk", "alpha": 1.5}, "alpha=1.5"),
        ({"layout": "corridor", "gust": {(0, 0): []}}, "it is one probability"),
        ({"layout": "corridor", "gust": 1.1}, "gust=1.1"),
        ({"layout": "corridor", "length": 0}, "length=0 must be an integer of at least 1"),
        ({"gust": 0.5}, "gust=0.5, allowed is"),
        ({"gust": {(0, 0): [(0.5, 4)]}}, "direction 4, allowed are"),
        ({"gust": {(0, 0): [(0.7, 0), (0.7, 1)]}}, "sum to 1.4, above 1"),
        ({"gust": {(9, 0): []}}, r"gust: cell \(9, 0\) is outside a grid of 5 rows and 5 columns"),
        ({"rows": 0}, "rows=0 must be an integer of at least 1"),
        ({"walls": [(5, 0)]}, r"walls: cell \(5, 0\) is outside"),
        ({"walls": [3]}, "a cell is .row, column., two integers, got 3"),
        ({"walls": [(0, 0)]}, r"start=\(0, 0\) is inside a wall"),
        ({"walls": [(4, 4)]}, r"goals=\(4, 4\) is inside a wall"),
        ({"key": (4, 4)}, r"key=\(4, 4\): goals is there already"),
        ({"door": (1, 1)}, "a door needs a key"),
        ({"key": (0, 0)}, r"start=\(0, 0\): the key is there"),
        ({"start": (4, 4)}, "a goal ends the task there"),
        ({"start": "anywhere"}, "start='anywhere', allowed are"),
        ({"rows": 1, "cols": 1, "start": "free"}, "the grid has no free cell"),
        ({"goals": {(1, 1): 1.0}}, "allowed is .value, whether the task ends."),
        ({"goals": {(1, 1): (1.0, 1)}}, "must be True or False"),
        ({"goals": {(1, 1): (np.nan, True)}}, "must be a finite number"),
        ({"cell_rewards": np.zeros((2, 2))}, r"shape \(2, 2\), allowed is \(5, 5\)"),
        ({"cell_rewards": np.full((5, 5), np.inf)}, "not finite"),
        ({"step_reward": np.inf}, "step_reward=inf"),
        ({"slip": -0.1}, "slip=-0.1"),
        ({"observation": "pixels"}, "observation='pixels', allowed are"),
        ({"pad": 9}, "pad=9 belongs to observation='planes'"),
        ({"observation": "planes", "pad": 4}, "pad=4 must be an integer of at least 5"),
        ({"max_steps": 0}, "max_steps=0"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        GridWorld(**arguments)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (3, r"cell \(0, 3\), is a wall"),
        (42, r"cell \(6, 0\), is a key or a closed door"),
        (24, "is a key or a closed door"),
        (97, "an episode cannot start in 97"),
        (98, "outside 0 .. 97"),
    ],
)
def test_impossible_starts_are_refused(state, message):
    env = gym.make("GridWorld-v0", layout="key_door", size=7)
    with pytest.raises(ValueError, match=message):
        env.reset(options={"state": state})
    assert env.reset(options={"state": 49 + 24})[0] == 73  # in the door, with the key


# -- pictures ------------------------------------------------------------------------------------


def red_middle(frame):
    """Middle (x, y) of the agent's disc."""
    return np.argwhere((frame == (209, 53, 43)).all(-1)).mean(0)[::-1]


def test_the_picture_shows_where_the_agent_is_and_what_has_changed():
    world = {"layout": "key_door", "size": 7, "render_mode": "rgb_array"}
    env = gym.make("GridWorld-v0", **world)
    frames = []
    for state in (0, 8, 49 + 8):
        env.reset(seed=0, options={"state": state})
        frames.append(env.render())
    tile = red_middle(frames[1]) - red_middle(frames[0])
    assert tile == pytest.approx([520 / 7] * 2, abs=1)
    gold, wood = (217, 154, 28), (138, 90, 52)
    counts = [[(frame == colour).all(-1).sum() for colour in (gold, wood)] for frame in frames[1:]]
    assert counts[0][0] > 50  # the key lies there, then on the agent, and the door opens
    assert counts[1][0] > 50 and counts[1][1] < 0.8 * counts[0][1]


@pytest.mark.parametrize(
    "arguments",
    [
        {"layout": "corridor", "gust": 0.3},
        {"layout": "windy_walk"},
        {"rows": 2, "cols": 2, "start": "free", "goals": {}, "fountain": (1, 1), "horizon": 2},
        {"rows": 1, "cols": 2, "goals": {(0, 1): (-2.0, False)}},
    ],
)
def test_pictures_of_all_kinds(arguments):
    env = gym.make("GridWorld-v0", render_mode="rgb_array", **arguments)
    env.reset(seed=1)
    before = env.render()
    for action in (SOUTH, EAST):
        env.step(action)
    assert before.dtype == np.uint8 and before.std() > 0
    assert (env.render() != before).any()
