"""Grids with walls: layouts, footprints, moves, and the core that walks on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..base import Arrays
from .base import TableCore
from .set_functions import SetFunction

# Stay, right, down, left, up, as (rows, columns).
STEPS = ((0, 0), (0, 1), (1, 0), (0, -1), (-1, 0))


@dataclass(frozen=True)
class Grid:
    """Cells (row, column), numbered row * cols + column.

    Attributes:
        walls: bool [rows, cols].
    """

    walls: NDArray[np.bool_]

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.walls.shape[0]

    @property
    def cols(self) -> int:
        """Number of columns."""
        return self.walls.shape[1]

    @property
    def cells(self) -> int:
        """Number of cells, walls included."""
        return self.walls.size

    @property
    def free(self) -> NDArray[np.bool_]:
        """Cells that are no walls, bool [cells]."""
        return ~self.walls.reshape(-1)

    def coordinates(self) -> NDArray[np.float64]:
        """Row and column of every cell, [cells, 2]."""
        return np.indices(self.walls.shape).reshape(2, -1).T.astype(np.float64)

    def moves(self) -> NDArray[np.int64]:
        """Cell that each action leads to, int64 [cells, 5]; into a wall or off the grid: stay."""
        numbers = np.arange(self.cells).reshape(self.walls.shape)
        table = np.tile(numbers.reshape(-1, 1), (1, len(STEPS)))
        row, col = np.indices(self.walls.shape).reshape(2, -1)
        for action, (down, right) in enumerate(STEPS):
            to_row, to_col = row + down, col + right
            inside = (0 <= to_row) & (to_row < self.rows) & (0 <= to_col) & (to_col < self.cols)
            target = np.where(inside, to_row * self.cols + to_col, 0)
            table[:, action] = np.where(inside & self.free[target], target, table[:, action])
        return table

    def footprints(self, shape: Sequence[tuple[int, int]]) -> list[list[int]]:
        """For every cell the free cells at the offsets `shape` (rows, columns) inside the grid."""
        found = []
        for row, col in np.ndindex(self.walls.shape):
            cells = [(row + down, col + right) for down, right in shape]
            inside = [(r, c) for r, c in cells if 0 <= r < self.rows and 0 <= c < self.cols]
            found.append([r * self.cols + c for r, c in inside if not self.walls[r, c]])
        return found


def make_grid(
    rows: int | None,
    cols: int | None,
    layout: str | Sequence[str],
    default: tuple[int, int],
) -> Grid:
    """A grid from the arguments of an environment.

    Args:
        rows, cols: size; None: that of the layout, or `default`.
        layout: "open"; "two_rooms": 7 x 14 unless a size is given, rooms of 2/7 of the columns at
            either side, joined by one corridor in the middle row; or lines of text, "#" a wall and
            "." free.
        default: size of an open grid.

    Raises:
        ValueError: an unknown layout, lines of different lengths or with other characters, no free
            cell, or a size that is too small or is not that of the lines.
    """
    if layout in ("open", "two_rooms"):
        default = (7, 14) if layout == "two_rooms" else default
        least = (3, 5) if layout == "two_rooms" else (1, 1)
        size = []
        for name, value, usual, low in zip(
            ("rows", "cols"), (rows, cols), default, least, strict=True
        ):
            value = usual if value is None else value
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < low:
                raise ValueError(f"{name}={value!r} must be an integer of at least {low}")
            size.append(int(value))
        walls = np.zeros(size, dtype=bool)
        if layout == "two_rooms":
            room = 2 * size[1] // 7
            walls[:, room : size[1] - room] = True
            walls[size[0] // 2] = False
        return Grid(walls)
    if isinstance(layout, str) or not all(isinstance(line, str) for line in layout):
        raise ValueError(
            f"layout={layout!r}, allowed are 'open', 'two_rooms' or lines of '#' and '.'"
        )
    for number, line in enumerate(layout, start=1):
        if len(line) != len(layout[0]) or set(line) - set("#."):
            raise ValueError(
                f"layout, line {number}: {line!r}, allowed are {len(layout[0])} characters "
                "'#' (wall) and '.' (free)"
            )
    walls = np.array([[character == "#" for character in line] for line in layout], dtype=bool)
    if walls.ndim != 2 or walls.all():
        raise ValueError(f"layout={list(layout)!r} has no free cell")
    for name, value, found in zip(("rows", "cols"), (rows, cols), walls.shape, strict=True):
        if value is not None and value != found:
            raise ValueError(f"{name}={value}, but the layout has {found}")
    return Grid(walls)


class GridCore(TableCore):
    """`TableCore` on a grid: actions 0 stay, 1 right, 2 down, 3 left, 4 up.

    Args:
        grid: cells and walls.
        set_function: over the cells, walls included (nobody visits them).
        start: index of a cell, or (row, column).
        arguments: `horizon`, `slip`, `observation` and `reward` of `TableCore`.
    """

    def __init__(
        self,
        grid: Grid,
        set_function: SetFunction,
        *,
        start: int | tuple[int, int],
        **arguments: Any,
    ) -> None:
        self.grid = grid
        super().__init__(
            set_function,
            grid.moves(),
            start=start,  # type: ignore[arg-type]  # `_check_start` takes both
            possible=grid.free,
            **arguments,
        )

    def _check_start(self, name: str, start: Any) -> int:
        if isinstance(start, tuple | list | np.ndarray):
            place = np.asarray(start)
            size = np.array(self.grid.walls.shape)
            if place.shape != (2,) or place.dtype.kind not in "iu":
                raise ValueError(f"{name}={start!r} must be a cell's index or (row, column)")
            if not ((place >= 0) & (place < size)).all():
                raise ValueError(
                    f"{name}={start} is outside a grid of {size[0]} rows and {size[1]} columns"
                )
            start = int(place[0]) * self.grid.cols + int(place[1])
        return super()._check_start(name, start)

    def picture(self, state: Arrays, index: int) -> dict[str, Any]:
        """What `draw_map` colours the cells by: `heat` and `seen` [rows, cols], and `legend`."""
        shape = self.grid.walls.shape
        visited = state["visited"][index : index + 1]
        return {
            "heat": self.set_function.gains(visited)[0].reshape(shape),
            "seen": visited[0].reshape(shape),
            "legend": "what a visit would add now",
        }

    def render_frame(self, state: Arrays, index: int) -> NDArray[np.uint8]:
        """The map: colours, walls, what was visited, the way and where the agent is."""
        from .render import draw_map

        path = state["path"][index]
        rows, cols = np.divmod(path[path >= 0], self.grid.cols)
        return draw_map(
            walls=self.grid.walls,
            path=np.column_stack([cols, rows]) + 0.5,
            title=f"step {int(state['t'][index])} of {self.horizon}",
            subtitle=f"F = {float(state['value'][index]):.4g}",
            **self.picture(state, index),
        )
