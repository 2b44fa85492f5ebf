"""The picture of a point in a maze: walls, goals, what a place pays, and the last steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..base import Arrays
from ..coverage.render import HERE, MARGIN, MUTED, SIDE, WALL, blank, draw_way, pixels, ramp

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .point_maze import PointMaze

PAPER, BORDER, ARROW = "#f6f8fa", "#c9d1d9", "#e39b26"
GOAL, FAINT_GOAL = "#2e8b57", "#b9d8c2"
WORTH = ("#f6f8fa", "#cfe6dc", "#7fbf9b")
FOOT = 40  # pixels below the map
CELLS = 120  # across the picture of the reward


def draw_maze(
    core: PointMaze,
    state: Arrays,
    trail: NDArray[np.float64],
    *,
    title: str,
    subtitle: str,
) -> NDArray[np.uint8]:
    """The map of one episode, y upwards.

    Green is the reward of a place where it is not sparse; goals are rings of the radius of success,
    the faint ones do not count in this episode. The disc is the point, its arrow the velocity.

    Args:
        core: the maze.
        state: of one episode, arrays [1, ...].
        trail: the last places, the present one at the end, [k, 2].
        title, subtitle: written above, left and right.

    Returns:
        RGB picture, uint8 [height, width, 3].
    """
    figure, axes = blank(SIDE, SIDE, title, subtitle, FOOT)
    edge = core.half * 1.02
    axes.set(xlim=(-edge, edge), ylim=(-edge, edge))
    low, high = _draw_worth(axes, core, state)
    _draw_walls(axes, core)
    _draw_goals(axes, core, state)
    draw_way(axes, trail, 24.0, jumps=False, disc=13.0)
    _draw_velocity(axes, core, state)
    wide, tall = figure.get_size_inches() * figure.dpi
    style: dict[str, Any] = {"va": "center", "fontsize": 9, "color": MUTED, "parse_math": False}
    kind = "reward 1 inside the ring" if low == high else f"reward {low:.2f} to {high:.2f}, green"
    figure.text(MARGIN / wide, 0.5 * FOOT / tall, kind, ha="left", **style)
    touched = "   hit" if state["hit"][0] else ""
    x, y = state["place"][0]
    place = f"x {x:.2f}   y {y:.2f}{touched}"
    figure.text(1 - MARGIN / wide, 0.5 * FOOT / tall, place, ha="right", **style)
    return pixels(figure)


def _draw_worth(axes: Axes, core: PointMaze, state: Arrays) -> tuple[float, float]:
    """The reward of every place as a shade of green; its least and its greatest value."""
    half = core.half
    if core.kind == "sparse":
        shades = ramp(WORTH)(np.zeros((1, 1)))
        low = high = 0.0
    else:
        ticks = (np.arange(CELLS) + 0.5) / CELLS * 2 * half - half
        grid = np.stack(np.meshgrid(ticks, ticks), axis=-1).reshape(-1, 2)
        seen = {**{name: value.repeat(len(grid), axis=0) for name, value in state.items()}}
        seen["place"] = grid
        worth = core.reward(seen, None, seen).reshape(CELLS, CELLS)
        low, high = float(worth.min()), float(worth.max())
        shades = ramp(WORTH)((worth - low) / max(high - low, 1e-12))
    extent = (-half, half, -half, half)
    axes.imshow(shades, extent=extent, origin="lower", interpolation="bilinear", zorder=0)
    return low, high


def _draw_walls(axes: Axes, core: PointMaze) -> None:
    from matplotlib.patches import Rectangle

    half = core.half
    for x0, x1, y0, y1 in np.clip(core.walls, -half, half):
        # A thin edge of the same colour closes the hair between walls that touch.
        box = Rectangle((x0, y0), x1 - x0, y1 - y0, facecolor=WALL, edgecolor=WALL, linewidth=0.8)
        axes.add_patch(box)
    border: dict[str, Any] = {"fill": False, "edgecolor": BORDER, "linewidth": 1.5}
    axes.add_patch(Rectangle((-half, -half), 2 * half, 2 * half, **border))


def _draw_goals(axes: Axes, core: PointMaze, state: Arrays) -> None:
    from matplotlib.patches import Circle

    for number, (x, y) in enumerate(core.goals):
        counts = not core.sampled or number == int(state["goal"][0])
        colour = GOAL if counts else FAINT_GOAL
        ring = Circle((x, y), core.radius, facecolor=colour, edgecolor=colour, alpha=0.35)
        axes.add_patch(ring)
        axes.add_patch(Circle((x, y), core.radius, fill=False, edgecolor=colour, linewidth=1.5))
        axes.plot(x, y, "+", color=colour, markersize=9, markeredgewidth=2)


def _draw_velocity(axes: Axes, core: PointMaze, state: Arrays) -> None:
    """An arrow to where the point would be 3 steps later."""
    start = state["place"][0]
    ahead = 0.3 * state["velocity"][0]
    if np.abs(ahead).max() < 0.02 * core.half:
        return
    style = {"arrowstyle": "-|>", "color": ARROW, "linewidth": 2.5, "shrinkA": 7, "shrinkB": 0}
    axes.annotate("", xy=start + ahead, xytext=start, arrowprops=style, zorder=8)
    axes.plot(*start, "o", color=HERE, markersize=9, zorder=9)
