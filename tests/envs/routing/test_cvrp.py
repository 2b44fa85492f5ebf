import gymnasium as gym
import numpy as np
import pytest

from palaestra.envs.routing.cvrp import CVRP
from palaestra.envs.routing.instance import RoutingInstance

FIVE = np.array([(0, 0), (1, 0), (1, 1), (0, 1), (0.5, 1.5)])
DEMANDS = np.array([0, 4, 3, 5, 2])


def instance(**changes):
    arguments = {"coordinates": FIVE, "demands": DEMANDS, "capacity": 8, **changes}
    return RoutingInstance("five", "cvrp", **arguments)


def make(**arguments):
    return gym.make("CVRP-v0", disable_env_checker=True, **arguments).unwrapped


def test_worked_example():
    core = CVRP(instance=instance())
    start = core.initial(core.tapes(1, 0))
    state = core.transition(start, np.array([2 * 4]), {})
    state["capacity_left"] = np.array([3], dtype=np.int32)
    feasible = np.flatnonzero(core.action_masks(state)[0])
    # (2, direct) and every customer by way of the depot
    assert sorted(divmod(a, 2) for a in feasible) == [(1, 1), (2, 0), (2, 1), (3, 1)]
    action = np.array([2 * 1 + 1])
    after = core.transition(state, action, {})
    assert core.reward(state, action, after)[0] == pytest.approx(-2.581139, abs=1e-6)
    assert (after["origin"][0], after["capacity_left"][0]) == (1, 4)
    assert np.flatnonzero(after["remaining"][0]).tolist() == [2, 3]


@pytest.mark.parametrize("mdp", ["bq", "direct"])
def test_routes_and_their_length(mdp):
    env = make(instance=instance(), mdp=mdp)
    env.reset()
    rewards = [env.step(a)[1] for a in (2 * 1, 2 * 2, 2 * 4 + 1, 2 * 3)]
    sides, top = np.sqrt(2), np.hypot(0.5, 1.5)
    expected = [-1.0, -1.0, -sides - top, -np.hypot(0.5, 0.5) - 1.0]  # the last one also returns
    np.testing.assert_allclose(rewards, expected, atol=1e-12)
    solution = env.solution()
    assert [route.tolist() for route in solution.routes] == [[1, 2], [4, 3]]
    assert solution.objective == pytest.approx(-sum(rewards))


def test_the_depot_is_on_the_way_to_the_first_customer_anyway():
    env = make(instance=instance())
    rewards, routes = [], []
    for via in (0, 1):
        env.reset()
        rewards.append([env.step(a)[1] for a in (2 * 1 + via, 2 * 3 + 1, 2 * 2, 2 * 4 + 1)])
        routes.append([route.tolist() for route in env.solution().routes])
    assert rewards[0] == rewards[1]
    assert routes[0] == routes[1] == [[1], [3, 2], [4]]


def test_observation_of_the_instance_left():
    env = make(instance=instance())
    env.reset()
    seen = env.step(2 * 3)[0].reshape(5, 7)
    expected = np.column_stack([FIVE / 1.5, DEMANDS / 8, np.full(5, 3 / 8), np.zeros((5, 3))])
    expected[[1, 2, 4], 4] = expected[3, 5] = expected[0, 6] = 1
    np.testing.assert_allclose(seen, expected, rtol=1e-6)
    seen = env.step(2 * 2)[0].reshape(5, 7)
    assert not seen[3].any()  # gone
    assert seen[[0, 1, 2, 4], 3].tolist() == [0.0] * 4  # nothing is left in the vehicle


def test_lengths_of_a_file_are_in_its_rounding():
    env = make(instance=instance(edge_weight_type="EUC_2D"))
    env.reset()
    assert [env.step(a)[1] for a in (2 * 1, 2 * 2, 2 * 4 + 1, 2 * 3)] == [-1, -1, -3, -2]
    assert env.solution().objective == 7.0


def test_a_matrix_without_coordinates_is_enough():
    matrix = np.abs(np.subtract.outer(np.arange(4.0), np.arange(4.0)))
    given = RoutingInstance("line", "cvrp", matrix=matrix, demands=[0, 1, 1, 1], capacity=2)
    env = make(instance=given)
    observation, _ = env.reset()
    assert env.observation_space.contains(observation)
    assert [env.step(a)[1] for a in (2 * 2, 2 * 1, 2 * 3 + 1)] == [-2, -1, -1 - 3 - 3]


def test_infeasible_actions_are_refused_with_the_way_out():
    env = make(instance=instance())
    env.reset()
    env.step(2 * 3)
    with pytest.raises(ValueError, match="demand 4 of node 1 is above.*left, 3;.*action 3"):
        env.step(2 * 1)
    with pytest.raises(ValueError, match="action 7 .*node 3 has been visited"):
        env.step(2 * 3 + 1)
    with pytest.raises(ValueError, match="node 0 is where"):
        env.step(1)


def test_demands_that_are_no_integers_are_kept_as_they_are():
    env = make(instance=instance(demands=DEMANDS / 8, capacity=1.0))
    env.reset()
    assert env.state["demands"].dtype == np.float64
    assert env.step(2 * 3)[4]["action_mask"].tolist() == [
        *(False, False, False, True, True, True, False, False, True, True)
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"capacity": 8}, "capacity=8, it must be at least 9"),
        ({"capacity": np.nan}, "capacity=nan"),
        ({"capacity": 9, "instance": instance()}, "has its own"),
        (
            {
                "instances": {
                    "coordinates": np.zeros((2, 3, 2)),
                    "demands": [[0, 1, 2], [0, 1, 5]],
                    "capacity": [4, 4],
                }
            },
            "row 1: node 2 has demand 5, outside 0 .. capacity 4",
        ),
        ({"instances": {"coordinates": np.zeros((1, 3, 2))}}, r"missing ones \['demands'\]"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        CVRP(**arguments)


def test_an_asymmetric_matrix_is_refused():
    matrix = np.array([[0.0, 1.0], [2.0, 0.0]])
    with pytest.raises(ValueError, match="asymmetric"):
        RoutingInstance("x", "cvrp", matrix=matrix, demands=[0, 1], capacity=1)


def test_generated_instances_follow_the_law():
    core = CVRP(101)
    tape = core.tapes(60, 0)
    assert set(tape["capacity"]) == {50}
    demands = tape["demands"]
    assert not demands[:, 0].any()
    assert set(np.unique(demands[:, 1:])) == set(range(1, 10))
    assert demands[:, 1:].mean() == pytest.approx(5.0, abs=0.1)


def test_the_path_of_a_file_is_an_instance(tmp_path):
    pytest.importorskip("vrplib")
    path = tmp_path / "corner.vrp"
    path.write_text(
        "NAME: corner\nTYPE: CVRP\nDIMENSION: 3\nEDGE_WEIGHT_TYPE: EUC_2D\nCAPACITY: 10\n"
        "NODE_COORD_SECTION\n1 0 0\n2 0 3\n3 4 0\nDEMAND_SECTION\n1 0\n2 7\n3 6\n"
        "DEPOT_SECTION\n1\n-1\nEOF\n"
    )
    env = make(instance=path)
    env.reset()
    assert env.step(2 * 1)[4]["action_mask"].tolist() == [False] * 5 + [True]
    assert env.step(2 * 2 + 1)[1] == -(3 + 4 + 4)
    assert env.solution().objective == 14.0
