import numpy as np
import pytest

from palaestra.envs.routing.generators import (
    LAWS,
    into_unit_square,
    tour_budget,
    vehicle_capacity,
)


def nearest(points):
    """Mean distance to the nearest other point."""
    distances = np.hypot(*(points[:, None] - points[None]).transpose(2, 0, 1))
    return (distances + 9 * np.eye(len(points))).min(axis=1).mean()


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("nodes", [2, 3, 50])
def test_points_lie_in_the_unit_square_and_follow_the_generator(law, nodes):
    for seed in range(20):
        points = LAWS[law](np.random.default_rng(seed), nodes)
        assert points.shape == (nodes, 2)
        assert points.min() >= 0 and points.max() <= 1
        np.testing.assert_array_equal(points, LAWS[law](np.random.default_rng(seed), nodes))
        assert len(np.unique(points, axis=0)) == nodes


def test_uniform_points_are_uniform():
    points = LAWS["uniform"](np.random.default_rng(0), 20_000)
    counts = np.histogram2d(*points.T, bins=4, range=[[0, 1], [0, 1]])[0]
    assert counts.min() > 1_150 and counts.max() < 1_350  # 1,250 in each of 16 cells


@pytest.mark.parametrize("law", ["gaussian_mixture", "clustered"])
def test_clusters_are_closer_together_than_uniform_points(law):
    means = {
        name: np.mean([nearest(LAWS[name](np.random.default_rng(s), 200)) for s in range(8)])
        for name in ("uniform", law)
    }
    assert means[law] < 0.8 * means["uniform"]


def test_a_mixture_fills_the_square_along_its_longer_side():
    points = LAWS["gaussian_mixture"](np.random.default_rng(4), 300)
    np.testing.assert_allclose(points.min(axis=0), 0.0)
    assert points.max() == 1.0


def test_scaling_keeps_the_shape():
    points = into_unit_square(np.array([[2.0, 5.0], [6.0, 5.0], [2.0, 7.0]]))
    np.testing.assert_allclose(points, [[0, 0], [1, 0], [0, 0.5]])
    assert not into_unit_square(np.full((3, 2), 7.0)).any()


@pytest.mark.parametrize(
    ("customers", "capacity"),
    [(5, 30), (20, 30), (35, 35), (50, 40), (100, 50), (200, 80), (350, 90), (1000, 250)]
    + [(5000, 250)],
)
def test_customary_capacities_and_what_lies_between(customers, capacity):
    assert vehicle_capacity(customers) == capacity


@pytest.mark.parametrize(
    ("nodes", "budget"), [(7, 2), (20, 2), (35, 2.5), (50, 3), (100, 4), (500, 4)]
)
def test_customary_budgets_and_what_lies_between(nodes, budget):
    assert tour_budget(nodes) == budget
