"""`GraphCoverage` and `ContinuousCoverage`: other motion, the same books."""

from __future__ import annotations

import gymnasium as gym
import networkx as nx
import numpy as np
import pytest

from palaestra.envs.coverage.continuous_coverage import ContinuousCoverage
from palaestra.envs.coverage.graph_coverage import GraphCoverage
from palaestra.envs.coverage.submodular_coverage import SubmodularCoverage


def walk(core, actions, seed=0):
    """Rewards and the last state of one episode."""
    tape = core.tapes(1, seed)
    state, rewards = core.initial(tape), []
    for action in actions:
        batch = core.check_action(np.asarray(action)[None], state)
        following = core.transition(state, batch, tape)
        rewards.append(float(core.reward(state, batch, following)[0]))
        state = following
    return rewards, state


# -- graphs ----------------------------------------------------------------------------------------


def test_actions_go_to_the_neighbours_in_order():
    graph = nx.DiGraph([("a", "b"), ("b", "c"), ("b", "a"), ("c", "c")])
    core = GraphCoverage(graph, horizon=3, start="b", radius=0)
    assert core.moves.tolist() == [[0, 1, 1 - 1], [1, 0, 2], [2, 2, 2]]
    rewards, state = walk(core, (2, 1, 0))
    assert state["path"].tolist() == [[1, 2, 2, 2]]
    assert rewards == [1, 0, 0]


def test_what_is_seen_lies_within_the_radius():
    graph = nx.path_graph(6)
    nx.set_node_attributes(graph, {5: 10.0}, "weight")
    core = GraphCoverage(graph, horizon=4, start=2, radius=2)
    assert core.singles.tolist() == [3, 4, 5, 4 + 10, 3 + 10, 2 + 10]
    rewards, _ = walk(core, (2, 1))
    assert rewards == [10, 0]


def test_a_grid_as_a_graph_is_the_grid():
    graph = nx.grid_2d_graph(3, 4)
    core = GraphCoverage(graph, horizon=8, radius=0)
    cells = SubmodularCoverage(3, 4, 8)
    assert (core.lengths == cells.lengths).all()


def test_the_drawn_graph_is_connected_and_belongs_to_the_instance():
    for instance in range(5):
        core = GraphCoverage(nodes=25, instance=instance)
        assert nx.is_connected(core.graph)
        assert core.weights.min() >= 0.5 and core.weights.max() <= 1.5
        again = GraphCoverage(nodes=25, instance=instance)
        np.testing.assert_array_equal(core.moves, again.moves)


def test_bad_graphs_are_refused():
    graph = nx.Graph()
    with pytest.raises(ValueError, match="at least one node"):
        GraphCoverage(graph)
    graph.add_node("a", weight="heavy")
    with pytest.raises(ValueError, match="node 'a': weight='heavy' must be a finite number"):
        GraphCoverage(graph)
    with pytest.raises(ValueError, match="start='z' is no node"):
        GraphCoverage(nx.path_graph(3), start="z")
    with pytest.raises(ValueError, match="nodes is the size of a drawn graph"):
        GraphCoverage(nx.path_graph(3), nodes=4)
    with pytest.raises(ValueError, match="radius=-1"):
        GraphCoverage(nx.path_graph(3), radius=-1)


# -- continuous motion -----------------------------------------------------------------------------


def test_flight_by_hand():
    core = ContinuousCoverage(3, 4, 5, start=(0.5, 0.5), speed=1.0, radius=0.0)
    rewards, state = walk(core, ([1, 0], [0.25, 0.25], [0, 1], [1, 1], [-1, -1]))
    # (1.5, .5), (1.75, .75) in the same cell, (1.75, 1.75), (2.75, 2.75), (1.75, 1.75) again
    assert state["path"].tolist() == [[0, 1, 1, 5, 10, 5]]
    assert rewards == [1, 0, 1, 1, 0]
    assert state["place"] == pytest.approx(np.array([[1.75, 1.75]]))


def test_the_border_stops_and_belongs_to_the_last_cell():
    core = ContinuousCoverage(3, 4, 4, start=(3.5, 2.5), speed=2.0)
    _, state = walk(core, ([1, 1],))
    assert state["place"].tolist() == [[4.0, 3.0]] and state["position"].tolist() == [11]
    assert core.observation_space.contains(core.observation(state)[0])
    _, state = walk(core, ([-1, -1],) * 3)
    assert state["place"].tolist() == [[0.0, 0.0]] and state["position"].tolist() == [0]


def test_sight_is_a_disc():
    core = ContinuousCoverage(5, 5, 3, radius=1.5)
    assert core.singles.reshape(5, 5)[[0, 0, 2], [0, 2, 2]].tolist() == [4, 6, 9]
    assert ContinuousCoverage(5, 5, 3, radius=1.0).singles[12] == 5


def test_wind_has_the_given_deviation():
    core = ContinuousCoverage(50, 50, 3, noise=0.5, speed=1.0)
    tape = core.tapes(2000, 0)
    state = core.initial(tape)
    moved = core.transition(state, np.zeros((2000, 2)), tape)["place"] - state["place"]
    assert moved.std(axis=0) == pytest.approx([0.5, 0.5], rel=0.05)
    assert moved.mean(axis=0) == pytest.approx([0, 0], abs=0.04)


def test_planning_helpers_say_where_steps_lead():
    core = ContinuousCoverage(6, 6, 4, start=(0.5, 0.5), speed=2.0)
    tape = core.tapes(1, 0)
    state = core.initial(tape)
    actions, cells = core.options(state)
    for action, cell in zip(actions, cells[0], strict=True):
        after = core.transition(state, core.check_action(action[None], state), tape)
        assert after["position"][0] == cell
    assert core.distances(state)[0, [0, 1, 2, 3, 35]].tolist() == [0, 1, 1, 2, 3]
    for _ in range(3):
        action = core.check_action(core.toward(state, np.array([35])), state)
        state = core.transition(state, action, tape)
    assert state["position"].tolist() == [35]


def test_an_episode_can_start_anywhere():
    env = gym.make("ContinuousCoverage-v0", rows=4, cols=8, horizon=4)
    observation, _ = env.reset(seed=0, options={"state": (6.0, 1.0)})
    assert observation.tolist() == [0.75, 0.25, 0.0]
    with pytest.raises(ValueError, match=r"options\['state'\]=\[9.0, 1.0\] must be \(x, y\)"):
        env.reset(options={"state": (9.0, 1.0)})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"speed": 0.0}, "speed=0.0 must be a finite number"),
        ({"noise": -1.0}, "noise=-1.0"),
        ({"radius": np.inf}, "radius=inf"),
        ({"rows": 0}, "rows=0"),
        ({"start": (1.0, 99.0)}, r"start=\[1.0, 99.0\] must be \(x, y\) in \[0, 16\] x \[0, 16\]"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ContinuousCoverage(**arguments)
