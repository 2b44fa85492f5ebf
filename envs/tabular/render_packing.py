"""Pictures of items on their way from a table into a bag."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..coverage.render import HERE, MUTED, blank, pixels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SCALE = 100  # pixels of a unit; an item is half a unit wide
BAG, INSIDE, TABLE = "#8a5a34", "#f6efe6", "#eceff2"
COLOURS = ("#3a86c8", "#2e8b57", "#d99a1c", "#7b3fa0", "#c2185b", "#00838f")
STATUS = ("to do", "stuck left", "stuck right", "packed")


def draw_packing(conditions: NDArray[np.int64], title: str) -> NDArray[np.uint8]:
    """Items above the openings of a bag: on the table, caught on an edge, or in the bag.

    Args:
        conditions: of each item, [items]: 0 to do, 1 stuck left, 2 stuck right, 3 done; -1
            throughout: an item is lost.
        title: written above.

    Returns:
        RGB picture, uint8 [height, width, 3].
    """
    items = len(conditions)
    wide, high = 1.4 * max(items, 3) + 0.1, 3.2
    figure, axes = blank(wide * SCALE, high * SCALE, title, "", foot=0)
    axes.set(xlim=(0, wide), ylim=(high, 0))
    lost = bool((conditions < 0).any())
    first = 0.5 * (wide - 1.4 * items) + 0.7
    centres = first + 1.4 * np.arange(items)
    box(axes, 0, 0.0, wide, 0.95, TABLE)  # the table
    box(axes, centres[0] - 0.66, 1.5, 1.4 * items - 0.08, 1.2, INSIDE)
    for wall in (*(centres - 0.7), centres[-1] + 0.7):
        box(axes, wall - 0.05, 1.35, 0.1, 1.4, BAG)
    box(axes, centres[0] - 0.75, 2.65, 1.4 * items + 0.1, 0.1, BAG)
    style: dict[str, Any] = {"ha": "center", "va": "center", "parse_math": False}
    for item, (x, condition) in enumerate(zip(centres, conditions, strict=True)):
        if lost:
            continue
        # A stuck item hangs askew on one edge of its opening.
        lean = {1: -1.0, 2: 1.0}.get(int(condition), 0.0)
        y = 0.5 if condition == 0 else 2.25 if condition == 3 else 1.2
        draw_item(axes, x + 0.33 * lean, y, 25 * lean, COLOURS[item % len(COLOURS)])
        axes.text(x + 0.33 * lean, y, str(item), color="white", fontsize=15, weight="bold", **style)
        colour = HERE if lean else MUTED
        axes.text(x, 2.97, STATUS[condition], color=colour, fontsize=9, **style)
    if lost:
        axes.text(wide / 2, 0.5, "an item is lost", color=HERE, fontsize=14, **style)
    packed = bool((conditions == 3).all())
    if packed:
        axes.text(wide / 2, 0.5, "all packed", color="#2e8b57", fontsize=14, **style)
    return pixels(figure)


def box(axes: Axes, x: float, y: float, width: float, height: float, colour: str) -> None:
    """A filled rectangle from its upper left corner."""
    from matplotlib.patches import Rectangle

    axes.add_patch(Rectangle((x, y), width, height, facecolor=colour, edgecolor="none", zorder=1))


def draw_item(axes: Axes, x: float, y: float, angle: float, colour: str) -> None:
    """A square with round corners, turned by `angle` degrees about its middle."""
    from matplotlib.patches import FancyBboxPatch
    from matplotlib.transforms import Affine2D

    side = 0.5
    shape = FancyBboxPatch(
        (x - side / 2, y - side / 2),
        *(side, side),
        boxstyle="round,pad=0.04,rounding_size=0.1",
        facecolor=colour,
        edgecolor="white",
        linewidth=2,
        zorder=3,
    )
    shape.set_transform(Affine2D().rotate_deg_around(x, y, angle) + axes.transData)
    axes.add_patch(shape)
