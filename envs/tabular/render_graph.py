"""Pictures of worlds of a few states: discs and the arrows between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..coverage.render import DPI, FOOT, HERE, MARGIN, TEXT, blank, pixels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RADIUS = 30.0  # of a disc in pixels
POINTS = 72 / DPI  # points per pixel
CURVE = [1, 4, 4, 4]  # a cubic Bezier in matplotlib's path codes
# One colour per kind of arrow.
TEAL, AMBER, PURPLE, SLATE = "#1f6f8b", "#c77d12", "#7b3fa0", "#6b7785"


@dataclass(frozen=True)
class Arrow:
    """A move from one state to another, or back to the same one.

    Attributes:
        start, end: states.
        label: written beside it.
        colour: of line and label.
        bend: how far it swings out to its left, as a share of its length. Of a loop (start = end):
            the direction from the disc in which it lies, in degrees against the clock from the
            right.
    """

    start: int
    end: int
    label: str = ""
    colour: str = TEAL
    bend: float = 0.0


def draw_graph(
    places: ArrayLike,
    names: Sequence[str],
    values: NDArray[np.float64],
    arrows: Sequence[Arrow],
    *,
    state: int,
    size: tuple[float, float],
    title: str,
    subtitle: str = "",
    legend: Sequence[tuple[str, str]] = (),
    ground: str = "#ffffff",
) -> NDArray[np.uint8]:
    """Discs for states, coloured from the lowest to the highest value, the present one ringed.

    Args:
        places: middle of each disc in pixels from the upper left corner, [S, 2].
        names: written in the discs, above the values.
        values: one per state, [S].
        arrows: between the discs.
        state: index of the present one.
        size: width and height in pixels, without title and legend.
        title, subtitle: written above, left and right.
        legend: (colour, text) written below, side by side.
        ground: colour behind the discs.

    Returns:
        RGB picture, uint8 [height, width, 3].
    """
    from matplotlib import colormaps
    from matplotlib.patches import Circle, FancyBboxPatch

    points = np.asarray(places, dtype=np.float64)
    figure, axes = blank(*size, title, subtitle)
    axes.set(xlim=(0, size[0]), ylim=(size[1], 0))
    box = FancyBboxPatch((6, 6), size[0] - 12, size[1] - 12, boxstyle="round,pad=0,rounding_size=6")
    box.set(facecolor=ground, edgecolor="none", zorder=0)
    axes.add_patch(box)
    for arrow in arrows:
        draw_arrow(axes, points, arrow)
    spread = float(np.ptp(values))
    level = (values - values.min()) / spread if spread > 0 else np.full(len(values), 0.5)
    text: dict[str, Any] = {"ha": "center", "va": "center", "zorder": 6, "parse_math": False}
    for index, ((x, y), shade) in enumerate(zip(points, level, strict=True)):
        edge, width = (HERE, 3.5) if index == state else ("#ffffff", 1.5)
        colour = colormaps["YlGnBu"](0.05 + 0.7 * shade)
        disc = Circle((x, y), RADIUS, facecolor=colour, edgecolor=edge, linewidth=width, zorder=5)
        axes.add_patch(disc)
        ink = "#ffffff" if shade > 0.7 else TEXT
        axes.text(x, y - 6, names[index], fontsize=8.5, weight="bold", color=ink, **text)
        axes.text(x, y + 9, f"{values[index]:.3g}", fontsize=7.5, color=ink, **text)
    wide, high = figure.get_size_inches() * DPI
    left = MARGIN
    for colour, words in legend:
        style: dict[str, Any] = {"va": "center", "fontsize": 9, "parse_math": False}
        figure.text(left / wide, 0.5 * FOOT / high, words, color=colour, **style)
        left += 8 * len(words) + 18
    return pixels(figure)


def draw_arrow(axes: Axes, points: NDArray[np.float64], arrow: Arrow) -> None:
    """One arrow from edge to edge of its discs, with its label on the outer side of the bend."""
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path

    tail, head = points[arrow.start], points[arrow.end]
    room = RADIUS + 4
    if arrow.start == arrow.end:
        angle = np.deg2rad(arrow.bend)
        out, side = direction(angle), direction(angle + np.pi / 2)
        corners = [
            tail + room * direction(angle + 0.45),
            tail + 2.5 * room * out + 0.9 * room * side,
            tail + 2.5 * room * out - 0.9 * room * side,
            tail + room * direction(angle - 0.45),
        ]
        place = tail + (2.1 * room + 9 + 9 * abs(out[0])) * out
    else:
        along = head - tail
        swing = arrow.bend * np.array([along[1], -along[0]])  # to the left, as y points down
        middle = (tail + head) / 2
        leave, arrive = unit(along / 2 + swing), unit(along / 2 - swing)
        corners = [
            tail + room * leave,
            tail + along / 4 + swing,
            head - along / 4 + swing,
            head - room * arrive,
        ]
        outwards = unit(swing) if arrow.bend else unit(np.array([along[1], -along[0]]))
        place = middle + 0.78 * swing + 12 * outwards
    line = FancyArrowPatch(
        path=Path(corners, CURVE),
        arrowstyle="-|>",
        mutation_scale=11,
        color=arrow.colour,
        linewidth=1.6,
        zorder=3,
    )
    axes.add_patch(line)
    style: dict[str, Any] = {"ha": "center", "va": "center", "zorder": 7, "parse_math": False}
    axes.text(place[0], place[1], arrow.label, fontsize=8, color=arrow.colour, **style)


def direction(angle: float) -> NDArray[np.float64]:
    """Unit vector, with y pointing down."""
    return np.array([np.cos(angle), -np.sin(angle)])


def unit(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    """A vector of length 1 in the same direction."""
    return vector / np.hypot(*vector)
