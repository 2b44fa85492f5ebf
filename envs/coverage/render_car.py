"""The picture of `CarCoverage`: the track from above, what was seen, the way and the car."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .render import DPI, FOOT, MARGIN, MUTED, SEEN, blank, draw_way, pixels, ramp
from .track import Track

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDE = 760  # of the longer side of the map in pixels
GRASS, ROAD, LINE, KERB, GLASS = "#dfe8d8", "#5b646e", "#ffffff", "#c8402f", "#2b3640"
BODY = "#d1352b"
CAR = 0.2  # metres from nose to tail as drawn, three times the real car, so that it is seen
SMOOTH = 7  # cells over which the way is averaged


def draw_track(
    track: Track,
    *,
    seen: ArrayLike,
    corner: ArrayLike,
    side: float,
    path: ArrayLike,
    heading: float,
    title: str,
    subtitle: str,
    footer: str,
) -> NDArray[np.uint8]:
    """A grey road on grass; what was seen of it is amber.

    Args:
        track: the road.
        seen: cells of the track that were seen, bool [rows, cols], from the lowest y on.
        corner: lower left corner of the first cell, in metres.
        side: of a cell, in metres.
        path: places of the way so far, [k, 2], the last one that of the car.
        heading: of the car, in rad.
        title, subtitle: written above, left and right.
        footer: written below.

    Returns:
        RGB picture, uint8 [height, width, 3].
    """
    from matplotlib.patches import PathPatch, Rectangle
    from matplotlib.path import Path

    cells = np.asarray(seen)
    left, low = np.asarray(corner, dtype=np.float64)
    right, high = left + cells.shape[1] * side, low + cells.shape[0] * side
    scale = WIDE / max(right - left, high - low)
    figure, axes = blank((right - left) * scale, (high - low) * scale, title, subtitle)
    axes.set(xlim=(left, right), ylim=(low, high))
    borders = [border(track, sign) for sign in (1.0, -1.0)]
    rings = Path.make_compound_path(*(Path(line, closed=True) for line in closed(borders)))
    road = PathPatch(rings, facecolor=ROAD, edgecolor="none", zorder=1)
    axes.add_patch(Rectangle((left, low), right - left, high - low, facecolor=GRASS, zorder=0))
    axes.add_patch(road)
    amber = np.zeros((*cells.shape, 4))
    amber[cells] = (*ramp(SEEN)(0.6)[:3], 0.9)
    image = axes.imshow(amber, extent=(left, right, low, high), origin="lower", zorder=2)
    image.set_clip_path(road)
    axes.set_aspect("auto")
    draw_borders(axes, track, borders, scale)
    draw_start(axes, track)
    places = np.asarray(path, dtype=np.float64)
    if len(places) > 2:
        draw_way(axes, smoothed(places), 0.0, jumps=False, disc=0.0)
    draw_car(axes, places[-1], heading)
    wide, tall = figure.get_size_inches() * DPI
    figure.text(
        1 - MARGIN / wide, 0.5 * FOOT / tall, footer, ha="right", va="center", color=MUTED,
        fontsize=10, parse_math=False,
    )  # fmt: skip
    return pixels(figure)


def border(track: Track, sign: float) -> NDArray[np.float64]:
    """Left (1) or right (-1) border at the samples of the line, [K, 2]."""
    across = np.column_stack([-np.sin(track.headings), np.cos(track.headings)])
    return track.samples + sign * track.half_width * across


def closed(borders: list[NDArray[np.float64]]) -> list[NDArray[np.float64]]:
    """Both borders as rings, the second one backwards, so that the road between them is filled."""
    rings = [np.concatenate([line, line[:1]]) for line in borders]
    return [rings[0], rings[1][::-1]]


def draw_borders(
    axes: Axes, track: Track, borders: list[NDArray[np.float64]], scale: float
) -> None:
    """White lines, and red and white kerbs inside the bends."""
    from matplotlib.collections import LineCollection

    width = max(1.5, 0.02 * scale)
    for line, sign in zip(borders, (1.0, -1.0), strict=True):
        pieces = np.stack([line, np.roll(line, -1, axis=0)], axis=1)
        inside = sign * track.curvatures * track.half_width > 0.25
        red = inside & (np.arange(len(pieces)) // 2 % 2 == 0)
        axes.add_collection(
            LineCollection(
                list(pieces),
                colors=[KERB if here else LINE for here in red],
                linewidths=np.where(inside, 2 * width, width) * 72 / DPI,
                zorder=3,
            ),
            autolim=False,
        )


def draw_start(axes: Axes, track: Track) -> None:
    """Two rows of squares across the road."""
    from matplotlib.patches import Polygon

    along = np.array([np.cos(track.headings[0]), np.sin(track.headings[0])])
    across = np.array([-along[1], along[0]])
    side = 2 * track.half_width / 8
    for row in range(2):
        for column in range(8):
            corner = track.samples[0] + (row - 1) * side * along
            corner = corner + (column * side - track.half_width) * across
            colour = LINE if (row + column) % 2 else GLASS
            corners = [corner, corner + side * along, corner + side * (along + across)]
            axes.add_patch(
                Polygon([*corners, corner + side * across], color=colour, zorder=2.5, lw=0)
            )


def draw_car(axes: Axes, place: NDArray[np.float64], heading: float) -> None:
    """Wheels, body and window of a car seen from above."""
    from matplotlib.patches import Polygon

    turn = np.array([[np.cos(heading), np.sin(heading)], [-np.sin(heading), np.cos(heading)]])
    boxes = [
        *((x, y, 0.09, 0.05, GLASS) for x in (-0.3, 0.3) for y in (-0.24, 0.24)),
        (0.0, 0.0, 0.5, 0.22, BODY),
        (-0.08, 0.0, 0.14, 0.15, GLASS),
    ]
    for layer, (x, y, long, wide, colour) in enumerate(boxes):
        nose = 0.12 if colour == BODY else 0.0  # the body is narrower in front
        corners = np.array(
            [(x - long, y - wide), (x + long, y - wide + nose), (x + long, y + wide - nose),
             (x - long, y + wide)]
        )  # fmt: skip
        axes.add_patch(
            Polygon(
                corners * CAR @ turn + place,
                facecolor=colour,
                edgecolor=LINE if colour == BODY else "none",
                linewidth=0.8,
                zorder=8 + 0.1 * layer,
            )
        )


def smoothed(path: NDArray[np.float64]) -> NDArray[np.float64]:
    """A way through the centres of cells as the line that a car may have driven, [k, 2]."""
    window = np.convolve(np.full(SMOOTH, 1.0 / SMOOTH), np.full(SMOOTH, 1.0 / SMOOTH))
    padded = np.pad(path, ((SMOOTH - 1, SMOOTH - 1), (0, 0)), mode="edge")
    return np.column_stack([np.convolve(column, window, mode="valid") for column in padded.T])
