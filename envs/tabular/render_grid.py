"""Pictures of grid worlds: walls, wind, goals, key, door, fountain and the agent on their cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..coverage.render import DPI, HERE, MARGIN, MUTED, SIDE, TEXT, WALL, blank, pixels
from .grid_layouts import STEPS, Cell, GridMap

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BRICK = "#5a6875"
LOW, HIGH = (0.96, 0.975, 0.98), (0.50, 0.74, 0.72)  # colours of the lowest and highest value
GOLD, WOOD, WATER = "#d99a1c", "#8a5a34", "#3a86c8"
GOOD, BAD = "#2e8b57", "#7b3fa0"


def draw_grid(
    grid: GridMap,
    values: NDArray[np.float64],
    *,
    agent: Cell,
    has_key: bool,
    title: str,
    event: str = "",
) -> NDArray[np.uint8]:
    """The map of a grid world and the agent in it.

    Cells are the greener the more they are worth; walls are slate. A flag is a goal, whole where
    the task ends and hollow where it goes on; arrows show the wind, the thicker the likelier it
    blows; a ring marks the start.

    Args:
        grid: the map.
        values: of the cells, [rows, cols].
        agent: its cell.
        has_key: whether it carries the key; then the door is open.
        title: written above, on the left.
        event: what has just happened, written above, on the right.

    Returns:
        RGB picture, uint8 [height, width, 3].
    """
    tile = SIDE / max(grid.rows, grid.cols, 3)
    said = ", ".join(filter(None, (event, "key in hand" if has_key else "")))
    figure, axes = blank(tile * grid.cols, tile * grid.rows, title, said, foot=MARGIN)
    axes.set(xlim=(0, grid.cols), ylim=(grid.rows, 0))
    draw_ground(axes, grid, values)
    for cell, winds in grid.gust.items():
        for chance, direction in winds:
            draw_wind(axes, cell, chance, direction, tile)
    if not isinstance(grid.start, str):
        row, col = grid.start
        draw_ring(axes, col + 0.5, row + 0.5, 0.33, MUTED, tile)
    for cell, (value, ends) in grid.goals.items():
        draw_flag(axes, cell, value, ends, tile)
    if grid.fountain is not None:
        draw_fountain(axes, grid.fountain, tile)
    if grid.door is not None:
        draw_door(axes, grid.door, is_open=has_key)
    if grid.key is not None and not has_key:
        draw_key(axes, grid.key[1] + 0.5, grid.key[0] + 0.5, 1.0, tile)
    draw_agent(axes, agent, has_key, tile)
    return pixels(figure)


def draw_ground(axes: Axes, grid: GridMap, values: NDArray[np.float64]) -> None:
    """Cells coloured by their value, walls as bricks."""
    from matplotlib.colors import to_rgb

    coloured = ~grid.walls
    for cell, (_, ends) in grid.goals.items():
        coloured[cell] &= not ends  # nothing is to be had beyond: that is no low value
    level = np.zeros_like(values)
    if coloured.any():
        low, spread = values[coloured].min(), np.ptp(values[coloured])
        level = np.where(coloured & (spread > 0), (values - low) / (spread or 1.0), 0.0)
    picture = (1 - level[..., None]) * np.array(LOW) + level[..., None] * np.array(HIGH)
    picture[grid.walls] = to_rgb(WALL)
    axes.imshow(
        picture,
        extent=(0, grid.cols, grid.rows, 0),
        aspect="auto",
        interpolation="nearest",
    )
    axes.hlines(range(1, grid.rows), 0, grid.cols, colors="white", linewidth=1.2)
    axes.vlines(range(1, grid.cols), 0, grid.rows, colors="white", linewidth=1.2)
    bricks = []
    for row, col in np.argwhere(grid.walls):
        axes.add_patch(rectangle(col, row, 1, 1, WALL))
        for course, joints in enumerate(((0.5,), (0.25, 0.75), (0.5,))):
            top = row + course / 3
            bricks.append(((col, top), (col + 1, top)))
            bricks += [((col + x, top), (col + x, top + 1 / 3)) for x in joints]
    if bricks:
        from matplotlib.collections import LineCollection

        axes.add_collection(LineCollection(bricks, colors=BRICK, linewidths=1.2), autolim=False)
    axes.add_patch(rectangle(0, 0, grid.cols, grid.rows, "none", edgecolor=WALL, linewidth=2.5))


def draw_wind(axes: Axes, cell: Cell, chance: float, direction: int, tile: float) -> None:
    """An arrow at the side of a cell, wider and darker the likelier the wind blows."""
    if chance == 0:
        return
    row, col = cell
    down, right = STEPS[direction]
    # Beside the middle, where the agent goes.
    x, y = col + 0.5 + 0.33 * abs(down), row + 0.5 + 0.33 * abs(right)
    half = 0.28
    axes.annotate(
        "",
        xy=(x + half * right, y + half * down),
        xytext=(x - half * right, y - half * down),
        arrowprops={
            "arrowstyle": "-|>",
            "color": WATER,
            "alpha": 0.35 + 0.65 * chance,
            "linewidth": float(np.clip(tile / 60, 0.4, 1.2) * (0.8 + 3 * chance)),
            "mutation_scale": float(np.clip(0.2 * tile, 4, 16)),
            "shrinkA": 0,
            "shrinkB": 0,
        },
        zorder=2,
    )


def draw_flag(axes: Axes, cell: Cell, value: float, ends: bool, tile: float) -> None:
    """A flag, green or, where the value is negative, purple; the value beneath."""
    from matplotlib.patches import Polygon

    row, col = cell
    colour = GOOD if value >= 0 else BAD
    width = float(np.clip(tile / 30, 1, 3))
    axes.plot(
        *((col + 0.36, col + 0.36), (row + 0.18, row + 0.74)),
        color=TEXT,
        linewidth=width,
        solid_capstyle="round",
        zorder=3,
    )
    cloth = np.array([(0.36, 0.18), (0.76, 0.32), (0.36, 0.46)]) + (col, row)
    axes.add_patch(
        Polygon(
            cloth,
            facecolor=colour if ends else "white",
            edgecolor=colour,
            linewidth=width,
            joinstyle="round",
            zorder=3,
        )
    )
    if tile >= 40:
        axes.text(
            *(col + 0.5, row + 0.88, f"{value:g}"),
            fontsize=min(11.0, 0.16 * tile),
            color=TEXT,
            ha="center",
            va="center",
            zorder=3,
        )


def draw_key(axes: Axes, x: float, y: float, size: float, tile: float) -> None:
    """A golden key, its middle at (x, y)."""
    width = float(np.clip(0.07 * tile * size, 1.2, 6)) * 72 / DPI
    draw_ring(axes, x - 0.16 * size, y, 0.1 * size, GOLD, tile, width=width, zorder=7)
    shaft = np.array([(-0.05, 0), (0.27, 0), (0.27, 0.13)])
    tooth = np.array([(0.15, 0), (0.15, 0.11)])
    for line in (shaft, tooth):
        axes.plot(
            x + size * line[:, 0],
            y + size * line[:, 1],
            color=GOLD,
            linewidth=width,
            solid_capstyle="butt",
            solid_joinstyle="miter",
            zorder=7,
        )


def draw_door(axes: Axes, cell: Cell, is_open: bool) -> None:
    """A door in its frame; open, only the frame and the leaf at its side are seen."""
    from matplotlib.patches import Circle

    row, col = cell
    frame: dict[str, Any] = {"edgecolor": WOOD, "linewidth": 2.5, "zorder": 3}
    axes.add_patch(rectangle(col + 0.12, row + 0.06, 0.76, 0.88, "none", **frame))
    if is_open:
        axes.add_patch(rectangle(col + 0.12, row + 0.06, 0.14, 0.88, WOOD, zorder=3))
        return
    axes.add_patch(rectangle(col + 0.12, row + 0.06, 0.76, 0.88, WOOD, zorder=3))
    for top in (0.14, 0.54):
        panel = {"edgecolor": "#6d4526", "linewidth": 1.2, "zorder": 3}
        axes.add_patch(rectangle(col + 0.22, row + top, 0.56, 0.32, "#9c6a40", **panel))
    axes.add_patch(Circle((col + 0.79, row + 0.5), 0.045, color=GOLD, zorder=4))


def draw_fountain(axes: Axes, cell: Cell, tile: float) -> None:
    """Rings of water around a jet."""
    from matplotlib.patches import Circle

    row, col = cell
    axes.add_patch(Circle((col + 0.5, row + 0.5), 0.36, facecolor="#cfe5f5", zorder=2))
    for radius in (0.36, 0.22):
        draw_ring(axes, col + 0.5, row + 0.5, radius, WATER, tile)
    axes.add_patch(Circle((col + 0.5, row + 0.5), 0.08, color=WATER, zorder=3))


def draw_agent(axes: Axes, cell: Cell, has_key: bool, tile: float) -> None:
    """A red disc with a white rim; the key lies on it when it is in hand."""
    from matplotlib.patches import Circle

    x, y = cell[1] + 0.5, cell[0] + 0.5
    rim = {"edgecolor": "white", "linewidth": float(np.clip(tile / 25, 1, 3))}
    axes.add_patch(Circle((x, y), 0.27, facecolor=HERE, zorder=6, **rim))
    if has_key:
        draw_key(axes, x - 0.03, y, 0.62, tile)


def draw_ring(
    axes: Axes,
    x: float,
    y: float,
    radius: float,
    colour: str,
    tile: float,
    width: float | None = None,
    zorder: float = 2.5,
) -> None:
    """A circle without a face."""
    from matplotlib.patches import Circle

    width = float(np.clip(tile / 40, 0.8, 2)) if width is None else width
    style: dict[str, Any] = {"facecolor": "none", "edgecolor": colour, "linewidth": width}
    axes.add_patch(Circle((x, y), radius, zorder=zorder, **style))


def rectangle(x: float, y: float, width: float, height: float, colour: str, **style: Any) -> Any:
    """A rectangle from its upper left corner."""
    from matplotlib.patches import Rectangle

    style = {"edgecolor": "none", "zorder": 1, **style}
    return Rectangle((x, y), width, height, facecolor=colour, **style)
