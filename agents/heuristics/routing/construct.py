"""Building a solution from nothing: nearest neighbour, insertion, savings, greedy choices.

Pure functions on arrays. A *path* is an int array of nodes whose first entry is where it starts and
whose last is where it ends; a tour is a path that ends where it starts. So every function also
solves what is left of a problem that has been started. `distances` is a matrix [n, n] or anything
that can be indexed like one, `distances[i, j]`; it may be asymmetric where nothing else is said.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

Nodes = NDArray[np.int64]
Floats = NDArray[np.float64]
InsertionRule = Literal["nearest", "farthest", "cheapest"]
SLACK = 1e-6  # of a length, by which a budget may be exceeded: rounding


class Distances(Protocol):
    """A matrix [n, n], or what computes its entries when it is indexed with int arrays."""

    def __getitem__(self, nodes: tuple[Any, Any], /) -> Any:
        """Distances from nodes [...] to nodes [...]."""


def path_length(distances: Distances, path: ArrayLike) -> float:
    """Sum of the distances along a path, int [m]."""
    nodes = np.asarray(path, dtype=np.int64)
    return float(np.sum(distances[nodes[:-1], nodes[1:]]))


def nearest_neighbour(
    distances: Distances, origin: int, destination: int, remaining: ArrayLike
) -> Nodes:
    """The path of the nearest neighbour rule, int64 [r + 2].

    Args:
        distances: of n nodes.
        origin, destination: where the path starts and ends.
        remaining: the r nodes between them.
    """
    left = np.array(remaining, dtype=np.int64)
    path = np.empty(len(left) + 2, dtype=np.int64)
    path[0], path[-1] = origin, destination
    for step in range(1, len(path) - 1):
        nearest = int(np.argmin(distances[path[step - 1], left]))
        path[step] = left[nearest]
        left[nearest] = left[-1]  # the order of what is left does not matter
        left = left[:-1]
    return path


def insertion(
    distances: Distances,
    origin: int,
    destination: int,
    remaining: ArrayLike,
    rule: InsertionRule = "farthest",
) -> Nodes:
    """Put one node after the other where it lengthens the path least, int64 [r + 2].

    Args:
        distances: of n nodes.
        origin, destination: where the path starts and ends.
        remaining: the r nodes between them.
        rule: which node is next: the one nearest to the path, the one farthest from it, or the one
            whose insertion is cheapest.

    Raises:
        ValueError: another rule.
    """
    if rule not in ("nearest", "farthest", "cheapest"):
        raise ValueError(f"rule={rule!r}, allowed are 'nearest', 'farthest' and 'cheapest'")
    left = np.array(remaining, dtype=np.int64)
    after = {int(origin): int(destination)}
    # Of every node left: its distance from the path, and its cheapest place (behind which node).
    away = np.minimum(distances[origin, left], distances[left, destination])
    cost = _detour(distances, origin, left, destination)
    place = np.full(len(left), origin, dtype=np.int64)
    while len(left):
        keys = {"nearest": away, "farthest": -away, "cheapest": cost}[rule]
        chosen = int(np.argmin(keys))
        node, before = int(left[chosen]), int(place[chosen])
        behind = after[before]
        after[before], after[node] = node, behind
        keep = np.arange(len(left)) != chosen
        left, away, cost, place = left[keep], away[keep], cost[keep], place[keep]
        away = np.minimum(away, np.minimum(distances[node, left], distances[left, node]))
        lost = np.flatnonzero(place == before)  # their cheapest place is no more
        if len(lost):
            starts = np.fromiter(after.keys(), dtype=np.int64)
            ends = np.fromiter(after.values(), dtype=np.int64)
            every = _detour(distances, starts[:, None], left[lost][None, :], ends[:, None])
            place[lost] = starts[every.argmin(axis=0)]
            cost[lost] = every.min(axis=0)
        for start, end in ((before, node), (node, behind)):
            detour = _detour(distances, start, left, end)
            better = detour < cost
            cost, place = np.where(better, detour, cost), np.where(better, start, place)
    path = [int(origin)]
    while len(path) < len(after) + 1:
        path.append(after[path[-1]])
    return np.array(path, dtype=np.int64)


def _detour(distances: Distances, start: Any, node: Any, end: Any) -> Any:
    """How much longer the way from `start` to `end` is by way of `node`."""
    return distances[start, node] + distances[node, end] - distances[start, end]


def savings(
    distances: Distances,
    demands: ArrayLike,
    capacity: float,
    *,
    current: int = 0,
    capacity_left: float | None = None,
    remaining: ArrayLike | None = None,
) -> list[Nodes]:
    """Parallel savings of Clarke and Wright (1964), for symmetric distances.

    Every customer starts with a route of its own; pairs (i, j) are taken by falling saving
    s_ij = D[0, i] + D[0, j] - D[i, j], and the two routes are joined where i and j are ends of
    different routes that fit into one vehicle together.

    Args:
        distances: of n nodes, the depot is node 0.
        demands: [n]; of the depot 0.
        capacity: of a vehicle.
        current: the customer where a vehicle stands that has already left; 0: none has.
        capacity_left: what that vehicle can still take.
        remaining: customers to serve; None: all.

    Returns:
        Customers of each route, int64. The first route is that of the vehicle on its way, without
        `current`, and may be empty; it is left out where `current` is 0.

    Raises:
        ValueError: a demand is above the capacity.
    """
    load = np.array(demands, dtype=np.float64)
    customers = np.arange(1, len(load)) if remaining is None else np.asarray(remaining, np.int64)
    if (load[customers] > capacity).any():
        node = int(customers[np.argmax(load[customers] > capacity)])
        raise ValueError(f"node {node} has demand {load[node]:g}, above the capacity {capacity:g}")
    if current:
        load[current] = capacity - (capacity if capacity_left is None else capacity_left)
        customers = np.append(customers, current)
    first, second = (customers[side] for side in np.triu_indices(len(customers), 1))
    saved = distances[0, first] + distances[0, second] - distances[first, second]
    worth = np.flatnonzero(saved > 0)
    worth = worth[np.argsort(-saved[worth], kind="stable")]
    routes = {int(node): [int(node)] for node in customers}  # of each customer: its route
    loads = {int(node): float(load[node]) for node in customers}  # by a route's first customer
    for i, j in zip(first[worth].tolist(), second[worth].tolist(), strict=True):
        one, other = routes[i], routes[j]
        if one is other or i not in (one[0], one[-1]) or j not in (other[0], other[-1]):
            continue
        total = loads[one[0]] + loads[other[0]]
        if total > capacity + SLACK:
            continue
        if current in (one[0], other[0]):  # what comes before the current node is over
            if current == other[0]:
                one, other, i, j = other, one, j, i
            if one[-1] != i:
                continue
            joined = one + (other if other[0] == j else other[::-1])
        else:
            joined = (one if one[-1] == i else one[::-1]) + (
                other if other[0] == j else other[::-1]
            )
        loads[joined[0]] = total
        for node in joined:
            routes[node] = joined
    found = {id(route): route for route in routes.values()}
    started = [np.array(routes[current][1:], dtype=np.int64)] if current else []
    return started + [
        np.array(route, dtype=np.int64) for route in found.values() if route[0] != current
    ]


def greedy_prizes(
    distances: Distances,
    prizes: ArrayLike,
    budget: float,
    path: ArrayLike = (0, 0),
    allowed: ArrayLike | None = None,
) -> Nodes:
    """Orienteering: insert the node with the highest prize per length that it adds, while one fits.

    Args:
        distances: of n nodes.
        prizes: [n].
        budget: length that the path may have; it may be exceeded by 1e-6 (rounding).
        path: that it starts with, int [m].
        allowed: nodes that may be visited; None: all. Those on the path are left out.

    Returns:
        The path, int64, with the same ends.
    """
    prize = np.asarray(prizes, dtype=np.float64)
    found = np.array(path, dtype=np.int64)
    left = np.setdiff1d(np.arange(len(prize)) if allowed is None else allowed, found)
    budget -= path_length(distances, found)
    while len(left):
        detour = _detour(distances, found[:-1, None], left[None, :], found[1:, None])
        place, added = detour.argmin(axis=0), detour.min(axis=0)
        fits = added <= budget + SLACK
        if not fits.any():
            break
        rate = np.where(fits, prize[left] / np.maximum(added, 1e-12), -np.inf)
        chosen = int(rate.argmax())
        found = np.insert(found, place[chosen] + 1, left[chosen])
        budget -= float(added[chosen])
        left = np.delete(left, chosen)
    return found


def greedy_items(
    values: ArrayLike, weights: ArrayLike, capacity: ArrayLike, remaining: ArrayLike | None = None
) -> NDArray[np.bool_]:
    """Knapsack: take items by falling value per weight, each that still fits.

    Args:
        values, weights: [..., n]; leading axes are instances.
        capacity: [...].
        remaining: bool [..., n], items that may be taken; None: all.

    Returns:
        Whether each item is taken, bool [..., n].
    """
    value, weight = np.asarray(values, np.float64), np.asarray(weights, np.float64)
    allowed = np.ones(value.shape, bool) if remaining is None else np.asarray(remaining, bool)
    rate = np.where(allowed, value / np.maximum(weight, 1e-12), -np.inf)
    order = np.argsort(-rate, axis=-1, kind="stable")
    left = np.array(capacity, dtype=np.float64)
    taken = np.zeros(value.shape, dtype=bool)
    for step in range(value.shape[-1]):
        item = order[..., step, None]
        fits = np.take_along_axis(allowed, item, -1)[..., 0]
        heavy = np.take_along_axis(weight, item, -1)[..., 0]
        fits &= heavy <= left + SLACK
        left = left - np.where(fits, heavy, 0.0)
        np.put_along_axis(taken, item, fits[..., None], -1)
    return taken
