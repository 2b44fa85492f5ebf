"""Laws from which routing instances are drawn."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
Law = Callable[[np.random.Generator, int], Points]

GREATEST = 10**6  # of the integers that ATSP distances are drawn from


def uniform(rng: np.random.Generator, nodes: int) -> Points:
    """Points [nodes, 2], uniform in the unit square."""
    return rng.random((nodes, 2))


def gaussian_mixture(rng: np.random.Generator, nodes: int) -> Points:
    """Points [nodes, 2] of 2 to 8 equally likely round Gaussians, enlarged to fill the unit square.

    The number of Gaussians is uniform, their centres are uniform in a square whose side is 15
    standard deviations; one factor for both axes keeps them round.

    Source: the mixtures of J. Zhou, Y. Wu, W. Song, Z. Cao, J. Zhang, Towards Omni-generalizable
    Neural Methods for Vehicle Routing Problems, ICML 2023, section 5, there with a fixed number.
    """
    modes = int(rng.integers(2, 9))
    centres = rng.uniform(0.0, 15.0, (modes, 2))
    points = centres[rng.integers(modes, size=nodes)] + rng.standard_normal((nodes, 2))
    return into_unit_square(points)


def clustered(rng: np.random.Generator, nodes: int) -> Points:
    """Points [nodes, 2] around 3 to 8 seeds, which are themselves points of the instance.

    Node 0 is uniform in the unit square. The seeds are uniform, too; any other point p is a uniform
    one that was accepted with probability min(1, sum over the seeds of exp(-25 |p - seed|)).

    Source: E. Uchoa et al., New benchmark instances for the Capacitated Vehicle Routing Problem,
    EJOR 257 (2017), section 4.1 (there on a grid of 1,000, with a decay of 40 units).
    """
    seeds = min(int(rng.integers(3, 9)), nodes - 1)
    points = rng.random((1 + seeds, 2))
    centres = points[1:]
    while len(points) < nodes:
        drawn = rng.random((16 * nodes, 2))
        offsets = drawn[:, None, :] - centres[None, :, :]
        attraction = np.exp(-25.0 * np.hypot(offsets[..., 0], offsets[..., 1])).sum(axis=1)
        points = np.concatenate([points, drawn[rng.random(len(drawn)) < attraction]])
    return points[:nodes]


LAWS: dict[str, Law] = {
    "uniform": uniform,
    "gaussian_mixture": gaussian_mixture,
    "clustered": clustered,
}


def law_of(name: str) -> Law:
    """The law of coordinates called `name`.

    Raises:
        ValueError: there is none.
    """
    if name not in LAWS:
        raise ValueError(f"law={name!r}, allowed are {tuple(LAWS)}")
    return LAWS[name]


def into_unit_square(points: Points) -> Points:
    """Move the points to the axes and scale them to [0, 1], by one factor for both axes."""
    moved = points - points.min(axis=0)
    return moved / (moved.max() or 1.0)


def asymmetric_matrix(rng: np.random.Generator, nodes: int) -> NDArray[np.float64]:
    """Distances [nodes, nodes]: integers 1 .. 10^6, closed under the triangle inequality, / 10^6.

    No distance is longer than a detour: D_ij = min(D_ij, D_ik + D_kj) for all k. Zeros on the
    diagonal.
    """
    drawn = rng.integers(1, GREATEST + 1, (nodes, nodes))
    np.fill_diagonal(drawn, 0)
    for k in range(nodes):  # Floyd and Warshall: stable after one pass over k
        np.minimum(drawn, drawn[:, k, None] + drawn[None, k, :], out=drawn)
    return drawn / GREATEST


def vehicle_capacity(customers: int) -> float:
    """Customary capacity: 30, 40, 50, 80, 100, 250 for 20, 50, 100, 200, 500, 1,000 customers.

    Between these the nearest integer on the straight line, outside of them the nearest of them.
    """
    sizes, capacities = (20, 50, 100, 200, 500, 1000), (30, 40, 50, 80, 100, 250)
    return float(np.rint(np.interp(customers, sizes, capacities)))


def tour_budget(customers: int) -> float:
    """Customary budget: 2, 3, 4 for 20, 50, 100 nodes besides the depot.

    On the straight line between these, and the nearest of them outside.
    """
    return float(np.interp(customers, (20, 50, 100), (2.0, 3.0, 4.0)))


def prizes_by_distance(points: Points) -> NDArray[np.float64]:
    """Prizes [nodes] 1 + floor(99 d / max d), d the distance to node 0, which has no prize."""
    distances = np.hypot(*(points - points[0]).T)
    prizes = 1.0 + np.floor(99.0 * distances / (distances.max() or 1.0))
    prizes[0] = 0.0
    return prizes


def uniform_prizes(rng: np.random.Generator, nodes: int) -> NDArray[np.float64]:
    """Prizes [nodes], uniform integers 1 .. 99; node 0 has none."""
    prizes = rng.integers(1, 100, nodes).astype(np.float64)
    prizes[0] = 0.0
    return prizes
