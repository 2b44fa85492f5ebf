"""What a grid world looks like: cells, what lies on them, and the layouts that have a name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..checks import check_choice, check_flag, check_integer, check_number, check_share

NORTH, SOUTH, EAST, WEST = range(4)
DIRECTIONS = ("north", "south", "east", "west")
STEPS = ((-1, 0), (1, 0), (0, 1), (0, -1))  # (rows, columns) of the four directions
FREE = "free"  # a start anywhere

Cell = tuple[int, int]


class Layout(NamedTuple):
    """A layout with a name.

    Attributes:
        build: what it fixes, as arguments of `GridWorld`, from its own arguments.
        own: names of its own arguments.
    """

    build: Callable[..., dict[str, Any]]
    own: tuple[str, ...] = ()


@dataclass(frozen=True)
class GridMap:
    """Cells (row, column), rows downwards, numbered row * cols + column, and what lies on them.

    Attributes:
        walls: bool [rows, cols].
        start: a cell or "free".
        goals: value of entering a goal, and whether the task ends there.
        gust: for a cell the probabilities with which the wind blows, and where to.
        rewards: of entering each cell, [rows, cols].
        key, door, fountain: cells, None where there is none.
    """

    walls: NDArray[np.bool_]
    start: Cell | str
    goals: dict[Cell, tuple[float, bool]]
    gust: dict[Cell, list[tuple[float, int]]]
    rewards: NDArray[np.float64]
    key: Cell | None
    door: Cell | None
    fountain: Cell | None

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.walls.shape[0]

    @property
    def cols(self) -> int:
        """Number of columns."""
        return self.walls.shape[1]

    def number(self, cell: Cell) -> int:
        """The number of a cell."""
        return cell[0] * self.cols + cell[1]


# -- layouts -----------------------------------------------------------------------------------


def empty() -> dict[str, Any]:
    """Nothing is fixed."""
    return {}


def two_rooms(size: int = 7) -> dict[str, Any]:
    """A wall in the middle column with a gap in the middle row."""
    n = check_integer("size", size, 3)
    middle = n // 2
    return {
        "rows": n,
        "cols": n,
        "walls": [(row, middle) for row in range(n) if row != middle],
        "start": (0, 0),
        "goals": {(n - 1, n - 1): (1.0, True)},
    }


def key_door(size: int = 7) -> dict[str, Any]:
    """The same wall with a door in the gap; the key lies in the lower left corner."""
    n = check_integer("size", size, 3)
    return {**two_rooms(n), "door": (n // 2, n // 2), "key": (n - 1, 0)}


def corridor(half_width: int = 10, length: int = 20, gust: float | None = None) -> dict[str, Any]:
    """A path along which nothing changes; beside it the wind blows outward."""
    w = check_integer("half_width", half_width, 1)
    if isinstance(gust, Mapping):
        raise ValueError(f"gust={gust!r}: in the layout 'corridor' it is one probability")
    g = check_share("gust", 0.0 if gust is None else gust)
    outward = {(row, 0): [(g, NORTH if row < w else SOUTH)] for row in range(2 * w + 1) if row != w}
    return {
        "rows": 2 * w + 1,
        "cols": 1,
        "walls": (),
        "start": (w, 0),
        "goals": {},
        "gust": outward,
        "cell_rewards": -(np.arange(2 * w + 1) != w).astype(np.float64)[:, None],
        "horizon": check_integer("length", length, 1),
    }


def windy_walk(alpha: float = 0.5) -> dict[str, Any]:
    """Three ways from west to east, the shortest in the strongest headwind."""
    alpha = check_share("alpha", alpha)
    inner = range(1, 6)
    return {
        "rows": 5,
        "cols": 7,
        "walls": [(row, col) for row in (1, 3) for col in inner],
        "start": (0, 0),
        "goals": {(0, 6): (-1.0, True)},
        "step_reward": -1.0,
        "gust": {
            (row, col): [(alpha**power, WEST)]
            for row, power in ((0, 1), (2, 3), (4, 6))
            for col in inner
        },
        "max_steps": 200,
    }


LAYOUTS = {
    "empty": Layout(empty),
    "two_rooms": Layout(two_rooms, ("size",)),
    "key_door": Layout(key_door, ("size",)),
    "corridor": Layout(corridor, ("half_width", "length", "gust")),
    "windy_walk": Layout(windy_walk, ("alpha",)),
}


def settle(layout: str, given: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Put what a layout fixes and what was given together.

    Args:
        layout: a key of `LAYOUTS`.
        given: arguments of `GridWorld`, None where nothing was given.
        own: arguments that belong to some layout, None where nothing was given.

    Returns:
        `given` with what the layout fixes.

    Raises:
        ValueError: an unknown layout, an argument of another layout, or one that is fixed.
    """
    chosen, given = LAYOUTS[check_choice("layout", layout, LAYOUTS)], dict(given)
    taken = {}
    for name, value in own.items():
        if value is None:
            continue
        if name not in chosen.own:
            owners = [other for other, entry in LAYOUTS.items() if name in entry.own]
            raise ValueError(f"{name}={value!r} belongs to the layouts {owners}, not to {layout!r}")
        taken[name] = value
    if "gust" in chosen.own:  # here a number, elsewhere a table
        taken["gust"] = given.pop("gust")
    fixed = chosen.build(**taken)
    for name, value in fixed.items():
        # A limit of steps may be set anew: it is no part of the map.
        if given.get(name) is None:
            given[name] = value
        elif name != "max_steps":
            raise ValueError(
                f"{name}={given[name]!r}: the layout {layout!r} fixes it; only 'empty' takes all"
            )
    return given


# -- checks ------------------------------------------------------------------------------------


def make_map(settings: Mapping[str, Any]) -> GridMap:
    """The map that settled arguments describe.

    Raises:
        ValueError: a cell outside the grid, inside a wall or used twice, a door without a key, no
            free cell to start in, or a value that is no number.
    """
    rows = check_integer("rows", 5 if settings["rows"] is None else settings["rows"], 1)
    cols = check_integer("cols", 5 if settings["cols"] is None else settings["cols"], 1)
    walls = np.zeros((rows, cols), dtype=bool)
    for cell in settings["walls"] or ():
        walls[check_cell("walls", cell, walls.shape)] = True
    goals = settings["goals"]
    if goals is None:
        # Where every cell has a value of its own, no corner is special.
        plain = settings["cell_rewards"] is None
        goals = {(rows - 1, cols - 1): (1.0, True)} if plain else {}
    lying: dict[Cell, str] = {}

    def place(name: str, given: Any) -> Cell:
        cell = check_cell(name, given, walls.shape)
        if walls[cell]:
            raise ValueError(f"{name}={cell} is inside a wall")
        if cell in lying:
            raise ValueError(f"{name}={cell}: {lying[cell]} is there already")
        lying[cell] = name
        return cell

    ends = {place("goals", cell): check_goal(cell, value) for cell, value in goals.items()}
    things = {
        name: None if settings[name] is None else place(name, settings[name])
        for name in ("key", "door", "fountain")
    }
    if things["door"] is not None and things["key"] is None:
        raise ValueError(f"door={things['door']}: a door needs a key")
    start = (0, 0) if settings["start"] is None else settings["start"]
    return GridMap(
        walls,
        check_start(start, walls, ends, things),
        ends,
        check_gust(settings["gust"], walls.shape),
        check_rewards(settings, ends, walls.shape),
        **things,
    )


def check_cell(name: str, cell: Any, shape: tuple[int, ...]) -> Cell:
    """A cell (row, column) of the grid."""
    place = np.asarray(cell)
    if place.shape != (2,) or place.dtype.kind not in "iu":
        raise ValueError(f"{name}: a cell is (row, column), two integers, got {cell!r}")
    if not ((place >= 0) & (place < shape)).all():
        raise ValueError(
            f"{name}: cell {cell} is outside a grid of {shape[0]} rows and {shape[1]} columns"
        )
    return int(place[0]), int(place[1])


def check_goal(cell: Cell, value: Any) -> tuple[float, bool]:
    """(value, whether the task ends there) of a goal."""
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise ValueError(f"goals[{cell}]={value!r}, allowed is (value, whether the task ends)")
    return check_number(f"goals[{cell}][0]", value[0]), check_flag(f"goals[{cell}][1]", value[1])


def check_start(
    start: Any,
    walls: NDArray[np.bool_],
    goals: Mapping[Cell, tuple[float, bool]],
    things: Mapping[str, Cell | None],
) -> Cell | str:
    """A cell that an episode may start in, or "free"."""
    if isinstance(start, str):
        if start != FREE:
            raise ValueError(f"start={start!r}, allowed are a cell (row, column) and {FREE!r}")
        closed = {cell for cell in (things["key"], things["door"]) if cell is not None}
        if walls.size == walls.sum() + len(closed | set(goals)):
            raise ValueError(f"start={start!r}: the grid has no free cell")
        return start
    cell = check_cell("start", start, walls.shape)
    if walls[cell]:
        raise ValueError(f"start={cell} is inside a wall")
    if goals.get(cell, (0.0, False))[1]:
        raise ValueError(f"start={cell}: a goal ends the task there")
    for name in ("key", "door"):
        if things[name] == cell:
            raise ValueError(f"start={cell}: the {name} is there")
    return cell


def check_gust(gust: Any, shape: tuple[int, ...]) -> dict[Cell, list[tuple[float, int]]]:
    """For each cell a list of (probability, direction) that sums to at most 1."""
    if gust is None:
        return {}
    if not isinstance(gust, Mapping):
        raise ValueError(f"gust={gust!r}, allowed is {{cell: [(probability, direction), ...]}}")
    winds: dict[Cell, list[tuple[float, int]]] = {}
    for given, blows in gust.items():
        cell = check_cell("gust", given, shape)
        winds[cell] = []
        for blow in blows:
            chance, direction = blow
            if isinstance(direction, bool) or direction not in range(4):
                raise ValueError(
                    f"gust[{cell}]: direction {direction!r}, allowed are 0 north, 1 south, 2 east, "
                    "3 west"
                )
            winds[cell].append((check_share(f"gust[{cell}]", chance), int(direction)))
        if (total := sum(chance for chance, _ in winds[cell])) > 1 + 1e-9:
            raise ValueError(f"gust[{cell}]: the probabilities sum to {total}, above 1")
    return winds


def check_rewards(
    settings: Mapping[str, Any],
    goals: Mapping[Cell, tuple[float, bool]],
    shape: tuple[int, ...],
) -> NDArray[np.float64]:
    """Reward of entering each cell: its goal's, else the cell's own, else the step's."""
    step = settings["step_reward"]
    step = 0.0 if step is None else check_number("step_reward", step)
    own = settings["cell_rewards"]
    rewards = np.array(np.full(shape, step) if own is None else own, dtype=np.float64)
    if rewards.shape != shape:
        raise ValueError(f"cell_rewards has shape {rewards.shape}, allowed is {shape}")
    if not np.isfinite(rewards).all():
        raise ValueError("cell_rewards holds values that are not finite")
    for cell, (value, _) in goals.items():
        rewards[cell] = value
    return rewards
