"""The picture of a point on a line: where controls are reversed, and the last places."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..coverage.render import MARGIN, MUTED, blank, draw_way, pixels

LENGTH = 10.0
WIDTH, HEIGHT, FOOT = 600, 270, 40
ROWS = 21  # steps that fit below the line
PAPER, BORDER, REVERSED, LINE = "#f6f8fa", "#dde3e8", "#f2dcc0", "#1f2933"
GOAL, CHOSEN = "#2e8b57", "#e39b26"


def draw_line(
    trail: NDArray[np.float64],
    reversed_part: tuple[float, float] | None,
    action: float,
    step: int,
    horizon: int,
) -> NDArray[np.uint8]:
    """The line on top, amber where controls are reversed, and below it older places.

    The arrow above the line is the last action; where it led is the last piece of the way.

    Args:
        trail: the last places, the present one at the end, [k].
        reversed_part: (lo, hi), or None.
        action: the last one, in [-1, 1].
        step: number of steps taken.
        horizon: steps of an episode.

    Returns:
        RGB picture, uint8 [height, width, 3].
    """
    from matplotlib.patches import Rectangle

    place = float(trail[-1])
    figure, axes = blank(WIDTH, HEIGHT, f"step {step} of {horizon}", f"s = {place:.2f}", FOOT)
    axes.set(xlim=(-0.35, LENGTH + 0.35), ylim=(-ROWS + 0.4, 3.2))
    sheet: dict[str, Any] = {"facecolor": PAPER, "edgecolor": BORDER, "zorder": 0}
    axes.add_patch(Rectangle((0, -ROWS + 0.6), LENGTH, ROWS - 0.6, **sheet))
    if reversed_part is not None:
        low, high = np.clip(reversed_part, 0.0, LENGTH)
        box: dict[str, Any] = {"facecolor": REVERSED, "edgecolor": "none", "zorder": 0.5}
        axes.add_patch(Rectangle((low, -ROWS + 0.6), high - low, ROWS - 0.6, **box))
    axes.vlines(range(11), -ROWS + 0.6, 0, colors="white", linewidth=1.2, zorder=0.7)
    axes.plot([0, LENGTH], [0, 0], color=LINE, linewidth=2.5, solid_capstyle="round", zorder=1)
    axes.plot(LENGTH, 0, "s", color=GOAL, markersize=11, zorder=1.5)
    draw_way(axes, np.column_stack([trail, -np.arange(len(trail))[::-1]]), 22.0, False, disc=12.0)
    if step and abs(action) > 0.02:
        style = {"arrowstyle": "-|>", "color": CHOSEN, "linewidth": 2.5, "shrinkA": 0, "shrinkB": 0}
        before = float(trail[-2]) if len(trail) > 1 else place
        axes.annotate("", (before + action, 1.8), (before, 1.8), arrowprops=style, zorder=6)
    wide, tall = figure.get_size_inches() * figure.dpi
    text: dict[str, Any] = {"fontsize": 8, "color": MUTED, "ha": "center", "parse_math": False}
    for tick in range(11):
        axes.text(tick, -ROWS + 0.2, str(tick), va="top", **text)
    text |= {"fontsize": 9, "ha": "left", "va": "center"}
    amber = "" if reversed_part is None else "   amber: controls are reversed"
    figure.text(MARGIN / wide, 0.35 * FOOT / tall, f"action {action:+.2f}{amber}", **text)
    text["ha"] = "right"
    goal = "reward: the way to the right"
    figure.text(1 - MARGIN / wide, 0.35 * FOOT / tall, goal, **text)
    return pixels(figure)
