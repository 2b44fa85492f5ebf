"""The layouts of `PointMaze-v0`, and checks of what a user puts in their place."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

# What a layout says no more about.
COMMON: dict[str, Any] = {
    "half": 1.5,
    "walls": (),
    "spread": 0.0,
    "goal_mode": "any",
    "reward": "sparse",
    "radius": 0.1,
    "sharp": 2.0,
    "flat": 0.0,
    "ridge": 0.0,
    "dynamics": "velocity",
    "horizon": 50,
}

# Walls that leave four rooms with a door of width 0.6 between neighbours, in one direction.
_ROOMS = ((-0.2, 0.2, -2.0, -1.3), (-0.2, 0.2, -0.7, 0.7), (-0.2, 0.2, 1.3, 2.0))

LAYOUTS: dict[str, dict[str, Any]] = {
    "open": {
        **{"half": 1.0, "start": (0.0, 0.0), "spread": 0.8, "goals": ((0.0, 0.0),)},
        **{"reward": "distance"},
    },
    "two_goals": {
        **{"start": (0.0, 0.0), "goals": ((1.0, 0.0), (-1.0, 0.0))},
        **{"reward": "bump", "sharp": 8.0, "flat": 0.2, "horizon": 30},
    },
    "wall_goals": {
        "walls": ((-0.3, 0.3, -0.3, 1.5),),
        **{"start": (0.0, -1.0), "goals": ((-0.8, 0.6), (0.8, 0.6))},
        **{"reward": "bump", "sharp": 2.0, "ridge": 0.5},
    },
    "two_routes": {
        "walls": ((-0.4, 0.4, -0.8, 0.8),),
        **{"start": (-1.0, 0.0), "spread": 0.05, "goals": ((1.0, 0.0),), "radius": 0.15},
    },
    "umaze": {
        "walls": ((-1.5, 0.5, -0.5, 0.5),),
        **{"start": (-1.0, -1.0), "spread": 0.2, "goals": ((-1.0, 1.0),), "radius": 0.2},
        **{"dynamics": "force", "horizon": 150},
    },
    "rooms": {
        **{"half": 2.0, "start": "free"},
        "walls": (*_ROOMS, *((low, high, left, right) for left, right, low, high in _ROOMS)),
        "goals": ((-1.5, -1.5), (1.5, -1.5), (-1.5, 1.5), (1.5, 1.5)),
        **{"goal_mode": "sampled", "radius": 0.25, "dynamics": "force", "horizon": 200},
    },
}


def blocked(place: Any, walls: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether each place [n, 2] lies strictly inside a wall, [n]."""
    return np.asarray(inside(place[:, 0], place[:, 1], walls))


def inside(x: Any, y: Any, walls: Any) -> Any:
    """Whether the points (x, y), each [n], lie strictly inside one of the walls [W, 4], [n]."""
    x, y = x[:, None], y[:, None]
    across = (x > walls[:, 0]) & (x < walls[:, 1])
    return (across & (y > walls[:, 2]) & (y < walls[:, 3])).any(1)


def check_walls(walls: ArrayLike) -> NDArray[np.float64]:
    """The walls as an array, [W, 4].

    Raises:
        ValueError: they are no rectangles (x0, x1, y0, y1) with x0 < x1 and y0 < y1.
    """
    found = np.asarray(walls, dtype=np.float64)
    if found.size == 0:
        return np.zeros((0, 4))
    if found.ndim != 2 or found.shape[1] != 4:
        raise ValueError(f"walls have shape {found.shape}, they must be (x0, x1, y0, y1) each")
    wrong = ~((found[:, 0] < found[:, 1]) & (found[:, 2] < found[:, 3]))  # also true for NaN
    if wrong.any():
        raise ValueError(f"wall {found[wrong][0].tolist()} must have x0 < x1 and y0 < y1")
    return found


def check_place(
    name: str, given: ArrayLike, half: float, walls: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The place as an array, [2].

    Raises:
        ValueError: it is no point of the square [-half, half]^2, or it lies inside a wall.
    """
    place = np.asarray(given, dtype=np.float64)
    if place.shape != (2,) or not (np.abs(place) <= half).all():
        raise ValueError(f"{name}={place.tolist()} must be (x, y) in [-{half:g}, {half:g}]^2")
    if blocked(place[None], walls)[0]:
        raise ValueError(f"{name}={place.tolist()} lies inside a wall, walls are {walls.tolist()}")
    return place


def check_start(
    start: ArrayLike, spread: float, half: float, walls: NDArray[np.float64]
) -> NDArray[np.float64] | None:
    """The middle of the starts, [2]; None for "free".

    Raises:
        ValueError: it is neither "free" nor a point, or starts might lie outside the square or
            inside a wall.
    """
    if isinstance(start, str):
        if start != "free":
            raise ValueError(f"start={start!r} must be 'free' or (x, y)")
        return None
    middle = check_place("start", start, half, walls)
    if (np.abs(middle) + spread > half).any():
        raise ValueError(
            f"start={middle.tolist()} with spread={spread:g} leaves [-{half:g}, {half:g}]^2"
        )
    low, high = middle - spread, middle + spread
    across = (low[0] < walls[:, 1]) & (high[0] > walls[:, 0])
    touched = across & (low[1] < walls[:, 3]) & (high[1] > walls[:, 2])
    if touched.any():
        raise ValueError(
            f"start={middle.tolist()} with spread={spread:g} reaches into the wall "
            f"{walls[touched][0].tolist()}"
        )
    return middle
