import gymnasium as gym
import numpy as np
import pytest

from palaestra.envs.routing.atsp import ATSP
from palaestra.envs.routing.generators import asymmetric_matrix
from palaestra.envs.routing.instance import RoutingInstance

MATRIX = np.array([[9999.0, 2, 9, 4], [1, 9999, 6, 3], [7, 5, 9999, 8], [2, 6, 4, 9999]])


def make(**arguments):
    return gym.make("ATSP-v0", disable_env_checker=True, **arguments).unwrapped


def test_rewards_follow_the_direction_of_travel():
    env = make(instance=RoutingInstance("four", "atsp", matrix=MATRIX))
    env.reset()
    assert [env.step(j)[1] for j in (1, 3, 2)] == [-2.0, -3.0, -4.0 - 7.0]
    assert env.solution().objective == 16.0
    env.reset()
    assert [env.step(j)[1] for j in (2, 3, 1)] == [-9.0, -8.0, -6.0 - 1.0]
    assert env.solution().objective == 24.0
    assert env.solution().kind == "atsp"


def test_rows_and_columns_of_nodes_that_are_gone_are_zero():
    env = make(instance=RoutingInstance("four", "atsp", matrix=MATRIX))
    first, _ = env.reset()
    off = np.where(np.eye(4, dtype=bool), 0.0, MATRIX) / 9.0  # the largest distance is the scale
    np.testing.assert_allclose(first.reshape(4, 7)[:, :4], off, rtol=1e-6)
    env.step(1)
    seen = env.step(3)[0].reshape(4, 7)
    present = [0, 2, 3]
    expected = np.zeros((4, 7))
    expected[np.ix_(present, present)] = off[np.ix_(present, present)]
    expected[2, 4] = expected[3, 5] = expected[0, 6] = 1  # remaining, origin, destination
    np.testing.assert_allclose(seen, expected, rtol=1e-6)


def test_the_direct_view_keeps_the_whole_matrix():
    env = make(instance=RoutingInstance("four", "atsp", matrix=MATRIX), mdp="direct")
    first, _ = env.reset()
    seen = env.step(1)[0].reshape(4, 7)
    np.testing.assert_array_equal(seen[:, :4], first.reshape(4, 7)[:, :4])
    assert seen[:, 4:].tolist() == [[1, 0, 1], [1, 1, 0], [0, 0, 0], [0, 0, 0]]


def test_generated_distances_are_integers_closed_under_detours():
    matrix = asymmetric_matrix(np.random.default_rng(0), 12)
    units = matrix * 1e6
    np.testing.assert_allclose(units, np.rint(units), atol=1e-6)
    assert not matrix.diagonal().any()
    off = matrix[~np.eye(12, dtype=bool)]
    assert (off > 0).all() and (off <= 1).all()
    assert (matrix != matrix.T).any()
    detours = (matrix[:, :, None] + matrix[None, :, :]).min(axis=1)
    assert (matrix <= detours + 1e-12).all()


def test_a_symmetric_instance_with_coordinates_is_taken_in_its_rounding():
    instance = RoutingInstance(
        "triangle", "tsp", coordinates=[[0, 0], [3, 4], [1, 1]], edge_weight_type="EUC_2D"
    )
    env = make(instance=instance)
    env.reset()
    assert sum(env.step(j)[1] for j in (1, 2)) == -(5 + 4 + 1)


def test_a_data_set_of_matrices_gives_its_rows():
    matrices = np.stack([MATRIX, 2 * MATRIX])
    core = ATSP(instances={"matrix": matrices})
    assert core.scale == 18.0  # the diagonal counts for nothing
    state = core.initial(core.tapes(1, 0, [{"row": 1}]))
    assert core.distance_matrix(state)[0].tolist() == [0.0, 4.0, 18.0, 8.0]
    with pytest.raises(ValueError, match="negative"):
        ATSP(instances={"matrix": -matrices})
