import gymnasium as gym
import numpy as np
import pytest

from palaestra.envs.routing.distances import edge_lengths
from palaestra.envs.routing.instance import RoutingInstance
from palaestra.envs.routing.tsp import TSP

FIVE = np.array([(0, 0), (1, 0), (1, 1), (0, 1), (0.5, 1.5)])
# TSPLIB's burma14: latitudes and longitudes in degrees and minutes; the optimum is 3323.
BURMA = [
    *((16.47, 96.10), (16.47, 94.44), (20.09, 92.54), (22.39, 93.37), (25.23, 97.24)),
    *((22.00, 96.05), (20.47, 97.02), (17.20, 96.29), (16.30, 97.38), (14.05, 98.12)),
    *((16.53, 97.38), (21.52, 95.59), (19.41, 97.13), (20.09, 94.55)),
]
BURMA_BEST = [2, 14, 3, 4, 5, 6, 12, 7, 13, 8, 11, 9, 10]


def make(**arguments):
    return gym.make("TSP-v0", disable_env_checker=True, **arguments).unwrapped


def five(mdp="bq"):
    return make(mdp=mdp, instance=RoutingInstance("five", "tsp", coordinates=FIVE))


@pytest.mark.parametrize("mdp", ["bq", "direct"])
def test_worked_example(mdp):
    env = five(mdp)
    env.reset()
    rewards = [env.step(j)[1] for j in (1, 2)]
    assert rewards == [-1.0, -1.0]
    quotient = env.core.quotient(env.state)
    assert (quotient["origin"][0], quotient["destination"][0]) == (2, 0)
    assert np.flatnonzero(quotient["remaining"][0]).tolist() == [3, 4]
    rewards += [env.step(j)[1] for j in (4, 3)]
    assert sum(rewards[2:]) == pytest.approx(-2.414214, abs=1e-6)
    solution = env.solution()
    assert solution.tour.tolist() == [0, 1, 2, 4, 3]
    assert solution.objective == pytest.approx(4.414214, abs=1e-6)


def test_two_orders_of_the_same_nodes_leave_the_same_instance():
    core = TSP(6, mdp="direct")
    tape = core.tapes(1, 0)
    quotients = []
    for prefix in ((1, 3, 2), (3, 1, 2)):
        state = core.initial(tape)
        for node in prefix:
            state = core.transition(state, np.array([node]), tape)
        quotients.append(core.quotient(state))
    for name, value in quotients[0].items():
        np.testing.assert_array_equal(quotients[1][name], value)


def test_observation_of_the_instance_left_and_of_the_partial_tour():
    env, direct = five(), five("direct")
    points = FIVE / 1.5  # the unit square, one factor for both axes
    for face in (env, direct):
        face.reset()
        face.step(1)
    seen, _, _, _, info = env.step(2)
    expected = np.column_stack([points, np.zeros((5, 3))])
    expected[[3, 4], 2] = 1  # remaining
    expected[2, 3] = expected[0, 4] = 1  # origin, destination
    expected[1] = 0  # gone
    np.testing.assert_allclose(seen.reshape(5, 5), expected, atol=1e-7)
    assert seen.dtype == np.float32
    assert info["action_mask"].tolist() == [False, False, False, True, True]
    seen, _, _, _, info = direct.step(2)
    expected = np.column_stack([points, np.zeros((5, 3))])
    expected[:3, 2] = 1  # visited
    expected[2, 3] = expected[0, 4] = 1  # current, start
    np.testing.assert_allclose(seen.reshape(5, 5), expected, atol=1e-7)
    assert info["action_mask"].tolist() == [False, False, False, True, True]


def test_infeasible_nodes_are_refused():
    env = five()
    env.reset()
    env.step(3)
    with pytest.raises(ValueError, match="action 3 of sub-environment 0.*has been visited"):
        env.step(3)
    with pytest.raises(ValueError, match="action 0 of sub-environment 0.*starts and ends"):
        env.step(0)
    with pytest.raises(ValueError, match="outside"):
        env.step(5)
    with pytest.raises(ValueError, match="not complete: 2 of 5 nodes"):
        env.solution()


def test_known_length_of_a_geographic_file_in_its_own_rounding():
    instance = RoutingInstance("burma14", "tsp", coordinates=BURMA, edge_weight_type="GEO")
    env = make(instance=instance)
    observation, _ = env.reset()
    assert env.observation_space.contains(observation)
    rewards = [env.step(j - 1)[1] for j in BURMA_BEST]
    assert sum(rewards) == -3323.0
    assert env.solution().objective == 3323.0
    assert env.core.distance_matrix(env.state)[0, 0] == 0.0


@pytest.mark.parametrize(
    ("kind", "expected"),
    [(None, 5.3851648), ("EUC_2D", 5.0), ("CEIL_2D", 6.0), ("ATT", 2.0)],
)
def test_roundings_of_edge_lengths(kind, expected):
    # The length is sqrt(29); ATT rounds sqrt(29 / 10) = 1.70 up.
    points = np.array([[1.0, 2.0], [3.0, 7.0]])
    assert edge_lengths(points[0], points[1], kind) == pytest.approx(expected, abs=1e-6)
    instance = RoutingInstance("pair", "tsp", coordinates=points, edge_weight_type=kind)
    env = make(instance=instance)
    env.reset()
    assert env.step(1)[1] == pytest.approx(-2 * expected, abs=1e-6)


def test_a_matrix_without_coordinates_is_drawn_by_multidimensional_scaling():
    distances = edge_lengths(FIVE[:, None], FIVE[None, :])
    env = make(instance=RoutingInstance("matrix", "tsp", matrix=distances))
    observation, _ = env.reset()
    assert env.observation_space.contains(observation)
    points = observation.reshape(5, 5)[:, :2].astype(np.float64)
    found = edge_lengths(points[:, None], points[None, :])
    off = ~np.eye(5, dtype=bool)
    ratios = found[off] / distances[off]
    np.testing.assert_allclose(ratios, ratios[0], rtol=1e-5)  # the plane is found up to a scale
    for j in (1, 2, 4, 3):
        env.step(j)
    assert env.solution().objective == pytest.approx(4.414214, abs=1e-6)


def test_asymmetric_and_negative_matrices_are_refused():
    matrix = np.array([[0.0, 1.0, 2.0], [3.0, 0.0, 1.0], [2.0, 1.0, 0.0]])
    with pytest.raises(ValueError, match=r"asymmetric \(1 from 0 to 1, 3 back\)"):
        RoutingInstance("lopsided", "tsp", matrix=matrix)
    with pytest.raises(ValueError, match=r"asymmetric \(1 from 0 to 1, 3 back\)"):
        TSP(instance=RoutingInstance("lopsided", "atsp", matrix=matrix))
    with pytest.raises(ValueError, match="distance -3 of 1 to 0 is negative"):
        RoutingInstance("negative", "atsp", matrix=matrix * [[1, 1, 1], [-1, 1, 1], [1, 1, 1]])


def test_duplicate_places_are_fine():
    env = make(instance=RoutingInstance("twins", "tsp", coordinates=FIVE[[0, 0, 1, 1]]))
    env.reset()
    assert sum(env.step(j)[1] for j in (1, 2, 3)) == pytest.approx(-2.0)


def test_a_data_set_gives_its_rows():
    places = np.random.default_rng(0).random((3, 4, 2))
    core = TSP(instances={"coordinates": places})
    tape = core.tapes(3, 0, [{"row": row} for row in (2, 0, 1)])
    np.testing.assert_array_equal(tape["coordinates"], places[[2, 0, 1]])
    drawn = core.tapes(40, 0)["coordinates"][:, 0, 0]
    assert set(drawn) == set(places[:, 0, 0])
    env = make(instances={"coordinates": places})
    first, _ = env.reset(seed=1, options={"row": 2})
    np.testing.assert_allclose(first.reshape(4, 5)[:, :2], places[2], rtol=1e-6)
    with pytest.raises(ValueError, match=r"row'\] is 3, allowed are the integers 0 .. 2"):
        env.reset(options={"row": 3})
    with pytest.raises(ValueError, match="give `instances`"):
        make().reset(options={"row": 0})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"nodes": 1}, "nodes=1, allowed are the integers from 2"),
        ({"nodes": 2.5}, "nodes=2.5"),
        ({"law": "spiral"}, "law='spiral', allowed are"),
        ({"instance": 3}, "RoutingInstance or a path"),
        ({"instances": {"points": np.zeros((1, 3, 2))}}, r"unknown arrays \['points'\]"),
        ({"instances": {"coordinates": np.zeros((2, 3))}}, "has shape"),
        ({"instances": {"coordinates": np.zeros((0, 3, 2))}}, "no row"),
        ({"instances": {"coordinates": np.full((1, 3, 2), 2.0)}}, "unit square"),
        ({"instances": {"coordinates": np.full((1, 3, 2), np.nan)}}, "not finite"),
        ({"nodes": 4, "instances": {"coordinates": np.zeros((1, 3, 2))}}, "nodes=4.*have 3"),
        (
            {
                "instance": RoutingInstance("x", "tsp", coordinates=FIVE),
                "instances": {"coordinates": np.zeros((1, 3, 2))},
            },
            "not both",
        ),
        (
            {
                "instance": RoutingInstance(
                    "x", "cvrp", coordinates=FIVE, demands=np.zeros(5), capacity=1
                )
            },
            "kind 'cvrp'",
        ),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        TSP(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "vrptw"}, "kind='vrptw', allowed"),
        ({"kind": "tsp"}, "coordinates or a matrix"),
        ({"kind": "tsp", "coordinates": [[0, 0]]}, "1 node"),
        ({"kind": "tsp", "coordinates": [[0, 0, 1], [1, 1, 1]]}, r"shape \(2, 3\)"),
        ({"kind": "tsp", "coordinates": [[0, 0], [1, np.inf]]}, "not finite"),
        ({"kind": "tsp", "coordinates": FIVE, "edge_weight_type": "XRAY1"}, "XRAY1"),
        ({"kind": "tsp", "coordinates": FIVE, "capacity": 3}, "belongs to kind 'cvrp'"),
        ({"kind": "cvrp", "coordinates": FIVE, "capacity": 3}, "needs demands and capacity"),
        (
            {"kind": "cvrp", "coordinates": FIVE, "capacity": 3, "demands": [0, 1, 4, 1, 1]},
            "node 2 has demand 4, outside 0 .. capacity 3",
        ),
        (
            {"kind": "cvrp", "coordinates": FIVE, "capacity": 3, "demands": [1, 1, 1, 1, 1]},
            "the depot .* must be 0",
        ),
    ],
)
def test_wrong_instances_are_named(arguments, message):
    with pytest.raises(ValueError, match=f"instance 'x'.*{message}"):
        RoutingInstance("x", **arguments)


def test_the_path_of_a_file_is_an_instance(tmp_path):
    pytest.importorskip("vrplib")
    path = tmp_path / "square.tsp"
    path.write_text(
        "NAME: square\nTYPE: TSP\nDIMENSION: 4\nEDGE_WEIGHT_TYPE: CEIL_2D\nNODE_COORD_SECTION\n"
        "1 0 0\n2 0 1.5\n3 2 1.5\n4 2 0\nEOF\n"
    )
    env = make(instance=str(path))
    env.reset()
    assert [env.step(j)[1] for j in (1, 2, 3)] == [-2.0, -2.0, -2.0 - 2.0]
    assert env.core.instance.name == "square"
