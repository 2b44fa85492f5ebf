"""What is left of one routing or packing problem, wherever it comes from, and plans for it.

A *plan* is the actions that finish the problem, int array, as the environments of `envs/routing`
number them: nodes (TSP, ATSP, orienteering), 2 * node + via (CVRP), items (knapsack).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from ....envs.routing.distances import edge_lengths
from ....envs.routing.files import LARGEST_MATRIX
from ....envs.routing.instance import RoutingInstance, Solution
from ...base.routing.problems import PROBLEMS, read_observation
from .construct import Distances, Nodes, path_length

# Of an instance, besides coordinates [n, 2] or matrix [n, n].
DATA = {
    "tsp": (),
    "atsp": (),
    "cvrp": ("demands", "capacity"),
    "orienteering": ("prizes", "budget"),
    "knapsack": ("values", "weights", "capacity"),
}


def _nothing() -> NDArray[np.float64]:
    return np.zeros(0)


class EveryDistance:
    """Distances of an instance that are computed when they are indexed, for large ones.

    Args:
        instance: with coordinates.
    """

    def __init__(self, instance: RoutingInstance) -> None:
        self.instance = instance

    def __getitem__(self, nodes: tuple[Any, Any]) -> Any:
        return self.instance.distances(*nodes)


@dataclass(frozen=True)
class Part:
    """A problem of n nodes or items of which some remain.

    Attributes:
        kind: "tsp", "atsp", "cvrp", "orienteering" or "knapsack".
        remaining: nodes or items that may still be chosen, int64 [r].
        distances: of n nodes; nothing for a knapsack.
        origin, destination: where one is, and where the walk ends (the depot).
        demands: [n] (CVRP), and `capacity` of a vehicle.
        capacity_left: of the vehicle on its way, or of the knapsack.
        prizes: [n], and `budget`, the length that is left (orienteering).
        values, weights: [n] (knapsack).
    """

    kind: str
    remaining: Nodes
    distances: Distances = field(default_factory=lambda: np.zeros((0, 0)))
    origin: int = 0
    destination: int = 0
    demands: NDArray[np.float64] = field(default_factory=_nothing)
    capacity: float = 0.0
    capacity_left: float = 0.0
    prizes: NDArray[np.float64] = field(default_factory=_nothing)
    budget: float = 0.0
    values: NDArray[np.float64] = field(default_factory=_nothing)
    weights: NDArray[np.float64] = field(default_factory=_nothing)

    @property
    def current(self) -> int:
        """Where the first vehicle stands (CVRP); 0 at the depot."""
        return self.origin

    def path(self, between: ArrayLike) -> Nodes:
        """From the origin through the nodes `between` to the destination."""
        nodes = np.asarray(between, dtype=np.int64)
        return np.concatenate([[self.origin], nodes, [self.destination]]).astype(np.int64)

    def objective(self, plan: ArrayLike) -> float:
        """Length of what a plan adds (TSP, ATSP, CVRP), or what it collects."""
        actions = np.asarray(plan, dtype=np.int64)
        if self.kind == "orienteering":
            return float(self.prizes[actions].sum())
        if self.kind == "knapsack":
            return float(self.values[actions].sum())
        if self.kind != "cvrp":
            return path_length(self.distances, self.path(actions))
        nodes, via = actions // 2, actions % 2 == 1
        stops = np.insert(nodes, np.flatnonzero(via), 0)
        return path_length(self.distances, self.path(stops))

    def solution(self, plan: ArrayLike) -> Solution:
        """A plan as the environments report solutions; it starts where the part does."""
        actions = np.asarray(plan, dtype=np.int64)
        objective = self.objective(actions)
        if self.kind == "knapsack":
            return Solution(self.kind, objective, items=actions)
        if self.kind == "cvrp":
            return Solution(self.kind, objective, routes=routes_of(actions))
        tour = np.concatenate([[self.origin], actions]).astype(np.int64)
        return Solution(self.kind, objective, tour=tour)


def routes_of(plan: ArrayLike) -> list[Nodes]:
    """Routes of a CVRP's plan; the first is that of the vehicle on its way."""
    actions = np.asarray(plan, dtype=np.int64)
    nodes, via = actions // 2, actions % 2 == 1
    return [route for route in np.split(nodes, np.flatnonzero(via)) if len(route)]


def plan_of(routes: Iterable[Nodes]) -> Nodes:
    """Actions 2 * node + via of routes in this order. The first route is driven from where one is,
    and where it is empty the vehicle goes back to the depot at once."""
    actions: list[int] = []
    for index, route in enumerate(routes):
        new = [2 * int(node) for node in route]
        if index and new:
            new[0] += 1
        actions += new
    return np.array(actions, dtype=np.int64)


def part_of_instance(instance: RoutingInstance) -> Part:
    """The whole of an instance, in its own units and rounding."""
    large = instance.matrix is None and instance.nodes > LARGEST_MATRIX
    distances = EveryDistance(instance) if large else instance.distance_matrix()
    rest = np.arange(1, instance.nodes)
    if instance.kind != "cvrp":
        return Part(instance.kind, rest, distances)
    assert instance.demands is not None and instance.capacity is not None
    capacity = instance.capacity
    return Part(
        "cvrp",
        rest,
        distances,
        demands=instance.demands,
        capacity=capacity,
        capacity_left=capacity,
    )


def part_of_arrays(kind: str, arrays: Mapping[str, Any], row: int) -> Part:
    """The whole of one row of a data set, as the environments' `instances` have them.

    Raises:
        ValueError: the kind is unknown, or an array is missing.
    """
    if kind not in DATA:
        raise ValueError(f"problem {kind!r}, allowed are {tuple(DATA)}")
    first = {"atsp": "matrix", "knapsack": "values"}.get(kind, "coordinates")
    if missing := sorted({first, *DATA[kind]} - set(arrays)):
        raise ValueError(f"instances of {kind}: {missing} missing, got {sorted(arrays)}")
    data = {name: np.asarray(arrays[name][row], dtype=np.float64) for name in DATA[kind]}
    given = np.asarray(arrays[first][row], dtype=np.float64)
    if kind == "knapsack":
        return Part(
            kind,
            np.arange(len(given)),
            values=data["values"],
            weights=data["weights"],
            capacity_left=float(data["capacity"]),
        )
    matrix = given if kind == "atsp" else np.asarray(edge_lengths(given[:, None], given[None]))
    rest = np.arange(1, len(given))
    if kind == "cvrp":
        capacity = float(data["capacity"])
        return Part(
            kind,
            rest,
            matrix,
            demands=data["demands"],
            capacity=capacity,
            capacity_left=capacity,
        )
    if kind == "orienteering":
        budget = float(data["budget"])
        reach = matrix[0, rest] + matrix[rest, 0] <= budget + 1e-6
        return Part(kind, rest[reach], matrix, prizes=data["prizes"], budget=budget)
    return Part(kind, rest, matrix)


def parts_of_observation(kind: str, observations: ArrayLike, direct: bool) -> list[Part]:
    """What flat observations [b, D] of an environment of `envs/routing` leave to be done.

    Args:
        kind: of the problem.
        observations: of any number of nodes; lengths are in observed units.
        direct: whether the environment has mdp="direct".

    Raises:
        ValueError: the size of the observations fits no number of nodes.
    """
    given = torch.as_tensor(np.array(observations, dtype=np.float32, ndmin=2))
    seen = read_observation(given, PROBLEMS[kind], direct)
    data = seen.data.double().numpy()
    remaining = seen.remaining.numpy()
    parts = []
    for row in range(len(data)):
        rest, columns = np.flatnonzero(remaining[row]), data[row].T
        if kind == "knapsack":
            values, weights = whole(columns[0] * 1_000), whole(columns[1] * 1_000)
            capacity = float(whole(columns[2, rest[:1]] * 1_000).sum())  # 0 where nothing is left
            parts.append(Part(kind, rest, values=values, weights=weights, capacity_left=capacity))
            continue
        assert seen.origin is not None and seen.destination is not None
        origin, destination = int(seen.origin[row]), int(seen.destination[row])
        if kind == "atsp":
            parts.append(Part(kind, rest, data[row], origin, destination))
            continue
        points = data[row, :, :2]
        matrix = np.asarray(edge_lengths(points[:, None], points[None]))
        ends = (origin, destination)
        if kind == "cvrp":
            left = float(columns[3, origin])
            parts.append(Part(kind, rest, matrix, *ends, columns[2], 1.0, left))
        elif kind == "orienteering":
            budget = float(columns[3, origin])
            parts.append(Part(kind, rest, matrix, *ends, prizes=columns[2] * 100, budget=budget))
        else:
            parts.append(Part(kind, rest, matrix, *ends))
    return parts


def whole(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """The integers from which numbers differ by the rounding of float32 only, else the numbers."""
    nearest = np.rint(numbers)
    return nearest if (np.abs(numbers - nearest) <= 1e-6 * (1_000 + nearest)).all() else numbers
