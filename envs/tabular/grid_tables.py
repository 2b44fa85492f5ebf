"""The tables of a grid world: where a move leads, with which probability, and how far it is."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .grid_layouts import STEPS, GridMap


def possible_states(grid: GridMap) -> NDArray[np.bool_]:
    """States that can be: no cell of a wall, no key lying where the agent stands, no agent in a
    closed door; bool [S]. State = cell, plus the number of cells when the key is in hand."""
    free = ~grid.walls.reshape(-1)
    if grid.key is None:
        return free
    without = free.copy()
    without[grid.number(grid.key)] = False
    if grid.door is not None:
        without[grid.number(grid.door)] = False
    return np.concatenate([without, free])


def moves(grid: GridMap) -> NDArray[np.int64]:
    """State that each of the four moves leads to, [S, 4]; off the grid, into a wall or into the
    closed door: stay."""
    cells = grid.walls.size
    row, col = np.indices(grid.walls.shape).reshape(2, -1)
    here = np.arange(cells)
    free = ~grid.walls.reshape(-1)
    layers = []
    for has_key in (False, True) if grid.key is not None else (False,):
        passable = free.copy()
        if grid.door is not None and not has_key:
            passable[grid.number(grid.door)] = False
        targets = []
        for down, right in STEPS:
            to_row, to_col = row + down, col + right
            inside = (0 <= to_row) & (to_row < grid.rows) & (0 <= to_col) & (to_col < grid.cols)
            target = np.where(inside, to_row * grid.cols + to_col, here)
            # Nobody is inside a wall; its row of the table stays where it is.
            targets.append(np.where(passable[target] & free, target, here))
        layer = np.stack(targets, axis=1)
        takes_key = grid.key is not None and layer == grid.number(grid.key)
        layers.append(layer + cells * (has_key | np.asarray(takes_key)))
    return np.concatenate(layers).astype(np.int64)


def transitions(grid: GridMap, slip: float, targets: NDArray[np.int64]) -> NDArray[np.float64]:
    """P [S, 4, S]: first the slip, then the wind.

    Args:
        grid: the map.
        slip: probability that one of the four directions is taken at random instead.
        targets: what `moves` returns.
    """
    states, cells = len(targets), grid.walls.size
    executed = (1 - slip) * np.eye(4) + slip / 4
    blown = np.zeros((cells, 4))
    for cell, winds in grid.gust.items():
        for chance, direction in winds:
            blown[grid.number(cell), direction] += chance
    calm = np.maximum(1 - blown.sum(axis=1), 0.0)  # rounding must not make it negative
    # [cell, action, direction in which it goes]
    law = calm[:, None, None] * executed[None] + blown[:, None, :]
    law = np.tile(law, (states // cells, 1, 1))
    P = np.zeros((states, 4, states))
    for direction in range(4):
        rows = np.arange(states)
        P[rows, :, targets[:, direction]] += law[:, :, direction]
    return np.minimum(P, 1.0)  # four moves that all stay may sum to a little more


def starts(grid: GridMap, possible: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Probabilities of the first state, [S]."""
    allowed = np.zeros(len(possible), dtype=bool)
    if isinstance(grid.start, str):  # "free"
        allowed[: grid.walls.size] = possible[: grid.walls.size]
        allowed[[grid.number(cell) for cell in grid.goals]] = False
    else:
        allowed[grid.number(grid.start)] = True
    return allowed / allowed.sum()


def distances(targets: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """Steps of the shortest way to one of the states `ends` when no move fails, [S]; -1: none."""
    far = len(targets) + 1
    steps = np.full(len(targets), far)
    steps[ends] = 0
    while True:
        closer = np.minimum(steps, 1 + steps[targets].min(axis=1))
        if (closer == steps).all():
            return np.where(steps >= far, -1, steps)
        steps = closer


def coordinates(grid: GridMap, states: int) -> NDArray[np.float32]:
    """Row and column of each state, both in [0, 1], and 1 when the key is in hand, [S, 3]."""
    key, cell = np.divmod(np.arange(states), grid.walls.size)
    row, col = np.divmod(cell, grid.cols)
    scaled = (row / max(grid.rows - 1, 1), col / max(grid.cols - 1, 1), key)
    return np.stack(scaled, axis=1).astype(np.float32)


def planes(grid: GridMap, states: int, pad: int) -> NDArray[np.float32]:
    """Five maps of each state, [S, 5, pad, pad]: agent, walls, values of the goals, key lying
    there, closed door; zero outside the grid."""
    pictures = np.zeros((states, 5, pad, pad), dtype=np.float32)
    key, cell = np.divmod(np.arange(states), grid.walls.size)
    row, col = np.divmod(cell, grid.cols)
    pictures[np.arange(states), 0, row, col] = 1
    pictures[:, 1, : grid.rows, : grid.cols] = grid.walls
    for (r, c), (value, _) in grid.goals.items():
        pictures[:, 2, r, c] = value
    for plane, place in ((3, grid.key), (4, grid.door)):
        if place is not None:
            pictures[:, plane, place[0], place[1]] = key == 0
    return pictures
