"""Making a solution better: 2-opt and Or-opt, on one path or on many at once.

A path is an int array of nodes whose ends stay where they are; a tour is a path that ends where it
starts (see `construct.py`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .construct import Distances, Nodes

GAIN = 1e-9  # what counts as shorter, per unit of the path's mean step: less is rounding


def two_opt(distances: Distances, path: ArrayLike) -> Nodes:
    """2-opt with first improvement, for symmetric distances.

    Positions i are tried in order, for each of them k > i in order; where

        D[p_i, p_k] + D[p_i+1, p_k+1] < D[p_i, p_i+1] + D[p_k, p_k+1]

    the stretch i+1 .. k is reversed. It ends when no reversal makes the path shorter.

    Args:
        distances: of n nodes, symmetric.
        path: int [m].

    Returns:
        int64 [m], with the same ends.
    """
    found = np.array(path, dtype=np.int64)
    step = _steps(distances, found)
    least = _least(step)
    last = len(found) - 3  # i + 1 < k <= m - 2
    quiet, i = 0, 0  # positions in a row that had nothing to offer
    while last >= 0 and quiet <= last:
        k = np.arange(i + 2, len(found) - 1)
        change = distances[found[i], found[k]] + distances[found[i + 1], found[k + 1]]
        better = np.flatnonzero(change < step[i] + step[k] - least)
        if len(better):
            end = int(k[better[0]])
            found[i + 1 : end + 1] = found[i + 1 : end + 1][::-1]
            step[i : end + 1] = distances[found[i : end + 1], found[i + 1 : end + 2]]
            quiet = 0
        else:
            quiet, i = quiet + 1, (i + 1) % (last + 1)
    return found


def or_opt(distances: Distances, path: ArrayLike, longest: int = 3, reverse: bool = True) -> Nodes:
    """Or-opt: move stretches of 1 .. `longest` nodes to their best other place until none gains.

    Args:
        distances: of n nodes.
        path: int [m].
        longest: most nodes that are moved together.
        reverse: whether a stretch may also be put in backwards, which needs symmetric distances.

    Returns:
        int64 [m], with the same ends.
    """
    found = np.array(path, dtype=np.int64)
    step = _steps(distances, found)
    least = _least(step)
    starts = len(found) - 2
    quiet, i = 0, 1
    while starts > 0 and quiet < starts:
        best, move = -least, None
        for length in range(1, min(longest, len(found) - 1 - i) + 1):
            change, place, backwards = _best_place(distances, found, step, i, length, reverse)
            if change < best:
                best, move = change, (length, place, backwards)
        if move is None:
            quiet, i = quiet + 1, i % starts + 1
        else:
            found = _moved(found, i, *move)
            step = _steps(distances, found)
            quiet = 0
    return found


def _best_place(
    distances: Distances, path: Nodes, step: NDArray[Any], i: int, length: int, reverse: bool
) -> tuple[float, int, bool]:
    """Change in length, the position behind which, and whether backwards, for one stretch."""
    first, last = path[i], path[i + length - 1]
    before, behind = path[i - 1], path[i + length]
    closed = distances[before, behind] - step[i - 1] - step[i + length - 1]
    places = np.concatenate([np.arange(i - 1), np.arange(i + length, len(path) - 1)])
    if not len(places):
        return np.inf, 0, False
    left, right = path[places], path[places + 1]
    forwards = distances[left, first] + distances[last, right] - step[places]
    best = int(forwards.argmin())
    change, place, backwards = forwards[best], places[best], False
    if reverse and length > 1:
        turned = distances[left, last] + distances[first, right] - step[places]
        other = int(turned.argmin())
        if turned[other] < change:
            change, place, backwards = turned[other], places[other], True
    return float(change + closed), int(place), backwards


def _moved(path: Nodes, i: int, length: int, place: int, backwards: bool) -> Nodes:
    stretch = path[i : i + length]
    stretch = stretch[::-1] if backwards else stretch
    if place < i:
        parts = path[: place + 1], stretch, path[place + 1 : i], path[i + length :]
    else:
        parts = path[:i], path[i + length : place + 1], stretch, path[place + 1 :]
    return np.concatenate(parts)


def local_search(distances: Distances, path: ArrayLike, symmetric: bool = True) -> Nodes:
    """2-opt and Or-opt in turns until neither finds anything; only Or-opt where asymmetric.

    Args and result are those of `or_opt`.
    """
    found = np.array(path, dtype=np.int64)
    while True:
        before = found
        if symmetric:
            found = two_opt(distances, found)
        found = or_opt(distances, found, reverse=symmetric)
        if not symmetric or np.array_equal(before, found):
            return found


def improve_routes(distances: Distances, routes: list[Nodes], current: int = 0) -> list[Nodes]:
    """2-opt and Or-opt inside each route of a CVRP, for symmetric distances.

    Args:
        distances: of n nodes, the depot is node 0.
        routes: customers of each route.
        current: where the first route starts; the others start at the depot.
    """
    starts = [current, *[0] * (len(routes) - 1)]
    return [
        local_search(distances, np.concatenate([[start], route, [0]]))[1:-1]
        for start, route in zip(starts, routes, strict=True)
    ]


def two_opt_many(matrix: NDArray[Any], paths: ArrayLike) -> NDArray[np.int64]:
    """2-opt with best improvement, for many paths at once.

    Args:
        matrix: symmetric distances, [b, n, n].
        paths: int [b, m].

    Returns:
        int64 [b, m], with the same ends.
    """
    matrix = np.asarray(matrix, dtype=np.float64)  # float32 rounds off more than GAIN
    found = np.array(paths, dtype=np.int64)
    m = found.shape[1]
    if m < 4:
        return found
    # Entry (i, k) stands for the reversal of i+1 .. k.
    i, k = np.triu_indices(m - 1, 2)
    k, i = k[k < m - 1], i[k < m - 1]
    active = np.arange(len(found))
    position = np.arange(m)
    while len(active):
        path = found[active]
        step = matrix[active[:, None], path[:, :-1], path[:, 1:]]
        change = (
            matrix[active[:, None], path[:, i], path[:, k]]
            + matrix[active[:, None], path[:, i + 1], path[:, k + 1]]
            - step[:, i]
            - step[:, k]
        )
        best = change.argmin(axis=1)
        least = GAIN * step.mean(axis=1)
        better = change[np.arange(len(active)), best] < -least
        active, best = active[better], best[better]
        start, end = i[best, None], k[best, None]
        inside = (position > start) & (position <= end)
        source = np.where(inside, start + 1 + end - position, position)
        found[active] = np.take_along_axis(found[active], source, axis=1)
    return found


def _steps(distances: Distances, path: Nodes) -> NDArray[np.float64]:
    return np.asarray(distances[path[:-1], path[1:]], dtype=np.float64)


def _least(step: NDArray[np.float64]) -> float:
    return GAIN * float(step.mean()) if len(step) else 0.0
