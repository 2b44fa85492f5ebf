"""Exact solutions by dynamic programming: short tours and paths, and the knapsack."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

LARGEST = 12  # nodes of a tour: 2^11 * 11^2 steps
LARGEST_TABLE = 2 * 10**9  # bytes of the table of a knapsack


def held_karp(matrix: NDArray[Any]) -> NDArray[np.int64]:
    """Shortest paths from the first node to the last through all others, of many instances at once.

    With C(S, j) the length of the shortest path from node 0 through all of S that ends in j of S,

        C({j}, j) = D[0, j],   C(S, j) = min over i in S without j of C(S without j, i) + D[i, j].

    Args:
        matrix: distances [b, m, m]. For a tour, the last node is the first one again.

    Returns:
        The inner nodes in the order of visit, int64 [b, m - 2].

    Raises:
        ValueError: more than 11 inner nodes.

    Source: M. Held, R. M. Karp, A Dynamic Programming Approach to Sequencing Problems (1962).
    """
    matrix = np.asarray(matrix, dtype=np.float64)
    inner = matrix.shape[1] - 2
    if inner > LARGEST - 1:
        raise ValueError(
            f"{inner + 1} nodes are too many for Held and Karp's algorithm, allowed are {LARGEST}"
        )
    batch = np.arange(len(matrix))
    between = matrix[:, 1:-1, 1:-1]
    sets = np.arange(1 << inner)
    contains = (sets[:, None] >> np.arange(inner)) & 1 == 1
    sizes = contains.sum(axis=1)
    cost = np.full((len(matrix), len(sets), inner), np.inf)
    previous = np.zeros(cost.shape, dtype=np.int8)
    for j in range(inner):
        cost[:, 1 << j, j] = matrix[:, 0, 1 + j]
    for size in range(2, inner + 1):
        for j in range(inner):
            chosen = sets[(sizes == size) & contains[:, j]]
            found = cost[:, chosen ^ (1 << j)] + between[:, None, :, j]
            previous[:, chosen, j] = found.argmin(axis=2)
            cost[:, chosen, j] = found.min(axis=2)
    order = np.zeros((len(matrix), inner), dtype=np.int64)
    if inner:
        last = (cost[:, -1] + matrix[:, 1:-1, -1]).argmin(axis=1)
        left = np.full(len(matrix), len(sets) - 1)
        for place in range(inner - 1, -1, -1):
            order[:, place] = last + 1
            left, last = left ^ (1 << last), previous[batch, left, last].astype(np.int64)
    return order


def knapsack(values: ArrayLike, weights: ArrayLike, capacity: float) -> NDArray[np.bool_]:
    """The most valuable items that fit, by dynamic programming over the capacity.

    Args:
        values: [n], not negative.
        weights: [n], whole numbers, not negative.
        capacity: not negative.

    Returns:
        Whether each item is taken, bool [n].

    Raises:
        ValueError: a weight is no whole number, something is negative, or n * capacity is above
            2 * 10^9.
    """
    value, given = np.asarray(values, np.float64), np.asarray(weights, np.float64)
    weight = np.rint(given).astype(np.int64)
    if (weight != given).any():
        raise ValueError(f"weights must be whole numbers, got {given[weight != given][0]:g}")
    if (value < 0).any() or (weight < 0).any() or capacity < 0:
        raise ValueError("values, weights and capacity must not be negative")
    room = min(int(np.floor(capacity)), int(weight.sum()))  # more than everything is of no use
    if len(value) * (room + 1) > LARGEST_TABLE:
        raise ValueError(
            f"{len(value)} items and a capacity of {room} need a table of more than "
            f"{LARGEST_TABLE:,} entries"
        )
    best = np.zeros(room + 1)
    takes = np.zeros((len(value), room + 1), dtype=bool)
    for item in range(len(value)):
        heavy = int(weight[item])
        if heavy > room:
            continue
        with_it = best[: room + 1 - heavy] + value[item]
        better = with_it > best[heavy:]
        takes[item, heavy:] = better
        best[heavy:] = np.where(better, with_it, best[heavy:])
    taken = np.zeros(len(value), dtype=bool)
    for item in range(len(value) - 1, -1, -1):
        if takes[item, room]:
            taken[item] = True
            room -= int(weight[item])
    return taken
