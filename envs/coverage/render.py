"""Pictures of coverage: a heat map of what a place is worth, what was seen, and the way taken."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DPI = 100
SIDE = 520  # of the longer side of the map in pixels
MARGIN, HEAD, FOOT = 20, 58, 56  # pixels around the map
LEAST = 360  # width of a picture, so that its texts have room
TEXT, MUTED, WALL = "#1f2933", "#6b7785", "#46535f"
OLD_WAY, WAY, HERE = "#d0a08c", "#8a2f12", "#d1352b"
UNSEEN = ("#f3f8fa", "#9cc9d8", "#1f6f8b")
SEEN = ("#fdf3e0", "#f2c887", "#d98e1f")
KINDS = ("#7b3fa0", "#2e8b57", "#c2185b", "#3949ab", "#8d6e63", "#00838f", "#ad1457", "#558b2f")


def draw_map(
    heat: ArrayLike,
    *,
    seen: ArrayLike,
    path: ArrayLike,
    title: str,
    subtitle: str = "",
    legend: str = "",
    walls: ArrayLike | None = None,
    items: Sequence[ArrayLike] = (),
    jumps: bool = False,
) -> NDArray[np.uint8]:
    """A map of cells, unit squares from the upper left corner.

    Cells that were not seen are blue, seen ones amber, the darker the more they are worth; walls
    are slate. The way is a line from a ring (start) to a red disc (now).

    Args:
        heat: what each cell is worth, [rows, cols].
        seen: bool [rows, cols].
        path: points (x, y) of the way so far, [k, 2], x in columns and y in rows.
        title, subtitle: written above, left and right.
        legend: what the colours mean, written below.
        walls: bool [rows, cols].
        items: for each kind of item the cells (row, column) that carry one, [m, 2].
        jumps: draw the way as thin straight jumps.

    Returns:
        RGB picture, uint8 [height, width, 3].
    """
    values = np.asarray(heat, dtype=np.float64)
    rows, cols = values.shape
    blocked = np.zeros((rows, cols), bool) if walls is None else np.asarray(walls)
    scale = SIDE / max(rows, cols)
    figure, axes = blank(cols * scale, rows * scale, title, subtitle)
    axes.set(xlim=(0, cols), ylim=(rows, 0))
    low, high = bounds(values[~blocked])
    level = (values - low) / (high - low)
    shades = [ramp(colours)(level)[..., :3] for colours in (UNSEEN, SEEN)]
    picture = np.where(np.asarray(seen)[..., None], shades[1], shades[0])
    picture[blocked] = ramp((WALL, WALL))(0.0)[:3]
    axes.imshow(picture, extent=(0, cols, rows, 0), aspect="auto", interpolation="nearest")
    if scale >= 9:
        style: dict[str, Any] = {"colors": "white", "linewidth": min(1.2, scale / 20)}
        axes.hlines(range(rows + 1), 0, cols, **style)
        axes.vlines(range(cols + 1), 0, rows, **style)
    for kind, cells in enumerate(items):
        draw_items(axes, kind, len(items), np.asarray(cells), scale)
    draw_way(axes, np.asarray(path, dtype=np.float64), scale, jumps)
    draw_legend(figure, low, high, legend)
    return pixels(figure)


def draw_graph(
    places: ArrayLike,
    edges: ArrayLike,
    worth: ArrayLike,
    *,
    seen: ArrayLike,
    path: ArrayLike,
    labels: Sequence[str],
    title: str,
    subtitle: str = "",
    legend: str = "",
    jumps: bool = False,
) -> NDArray[np.uint8]:
    """A graph: nodes as discs, coloured as the cells of `draw_map`, edges and the way along them.

    Args:
        places: of the nodes, [E, 2] in any unit.
        edges: pairs of nodes, int [m, 2].
        worth: of each node, [E].
        seen: bool [E].
        path: nodes in the order of the visits, int [k].
        labels: written on the nodes where there is room.
        title, subtitle, legend, jumps: as in `draw_map`.

    Returns:
        RGB picture, uint8 [height, width, 3].
    """
    points, values = np.asarray(places, dtype=np.float64), np.asarray(worth, dtype=np.float64)
    spread = np.ptp(points, axis=0)
    points = (points - points.min(axis=0)) / np.where(spread > 0, spread, 1.0)
    points = np.where(spread > 0, points, 0.5) * 0.92 + 0.04
    figure, axes = blank(SIDE, 0.75 * SIDE, title, subtitle)
    axes.set(xlim=(0, 1), ylim=(1, 0))
    for a, b in np.asarray(edges).reshape(-1, 2):
        axes.plot(*points[[a, b]].T, color="#c9d1d9", linewidth=1.5, zorder=1)
    low, high = bounds(values)
    level = (values - low) / (high - low)
    shades = np.where(np.asarray(seen)[:, None], ramp(SEEN)(level), ramp(UNSEEN)(level))
    apart = neighbour_distance(points * (SIDE, 0.75 * SIDE))
    size = float(np.clip(0.8 * np.quantile(apart, 0.25), 12, 40))  # diameter in pixels
    axes.scatter(
        points[:, 0],
        points[:, 1],
        s=(size * 72 / DPI) ** 2,
        c=shades,
        edgecolors=MUTED,
        linewidths=1.0,
        zorder=3,
        clip_on=False,
    )
    draw_way(axes, points[np.asarray(path)], size, jumps, disc=0.5 * size * 72 / DPI)
    above = (0.5 * size + 9) / (0.75 * SIDE)
    for (x, y), label, room in zip(points, labels, apart, strict=True):
        if room > size + 20:  # a label must not cover a neighbour
            style: dict[str, Any] = {"ha": "center", "va": "center", "zorder": 7}
            axes.text(x, y - above, label, fontsize=8, color=TEXT, parse_math=False, **style)
    draw_legend(figure, low, high, legend)
    return pixels(figure)


def neighbour_distance(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance of each point [E, 2] to the nearest other one, [E]; 100 where there is none."""
    if len(points) == 1:
        return np.full(1, 100.0)
    apart = np.sqrt(((points[:, None] - points[None]) ** 2).sum(axis=-1))
    np.fill_diagonal(apart, np.inf)
    return np.asarray(apart.min(axis=1))


def blank(
    width: float, height: float, title: str, subtitle: str, foot: int = FOOT
) -> tuple[Any, Axes]:
    """A figure with a title line, axes of this size in pixels in the middle, and `foot` pixels
    below them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    wide, high = max(round(width) + 2 * MARGIN, LEAST), round(height) + HEAD + foot
    figure = Figure(figsize=(wide / DPI, high / DPI), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    left = (wide - width) / 2 / wide
    axes = figure.add_axes((left, foot / high, width / wide, height / high))
    axes.axis("off")
    line = 1 - 0.5 * HEAD / high
    left_edge, right_edge = MARGIN / wide, 1 - MARGIN / wide
    style: dict[str, Any] = {"va": "center", "color": TEXT, "parse_math": False}
    figure.text(left_edge, line, title, ha="left", fontsize=11, weight="bold", **style)
    figure.text(right_edge, line, subtitle, ha="right", fontsize=11, **style)
    return figure, axes


def draw_way(
    axes: Axes, points: NDArray[np.float64], scale: float, jumps: bool, disc: float | None = None
) -> None:
    """The way so far: older parts fainter, a ring where it began, a disc where it is.

    Args:
        points: [k, 2] in data units.
        scale: size of a cell in pixels, for the width of the line.
        jumps: thin lines.
        disc: diameter of the disc in points; None: half a cell.
    """
    from matplotlib.collections import LineCollection

    size = float(np.clip(0.5 * scale * 72 / DPI, 5, 20)) if disc is None else disc
    width = 1.0 if jumps else float(np.clip(0.12 * scale, 1.5, 4.0))
    pieces = np.stack([points[:-1], points[1:]], axis=1)
    if len(pieces):
        colours = ramp((OLD_WAY, WAY))(np.linspace(0, 1, len(pieces)))
        lines = LineCollection(
            list(pieces), colors=colours, linewidths=width, capstyle="round", zorder=4
        )
        axes.add_collection(lines, autolim=False)
    ring: dict[str, Any] = {"markerfacecolor": "white", "markeredgecolor": WAY, "linestyle": ""}
    axes.plot(*points[0], "o", markersize=0.8 * size, markeredgewidth=2, zorder=5, **ring)
    here: dict[str, Any] = {"markerfacecolor": HERE, "markeredgecolor": "white", "linestyle": ""}
    axes.plot(*points[-1], "o", markersize=size, markeredgewidth=1.5, zorder=6, **here)


def draw_items(axes: Axes, kind: int, kinds: int, cells: NDArray[np.int64], scale: float) -> None:
    """Items of one kind as small squares, each kind at its own place in a cell."""
    across = int(np.ceil(np.sqrt(kinds)))
    down = -(-kinds // across)
    size = 0.6 * scale * 72 / DPI / across
    x = cells[:, 1] + (kind % across + 0.5) / across
    y = cells[:, 0] + (kind // across + 0.5) / down
    colour = KINDS[kind % len(KINDS)]
    axes.plot(x, y, "s", color=colour, markersize=size, markeredgewidth=0, zorder=3)


def draw_legend(figure: Any, low: float, high: float, legend: str) -> None:
    """Two colour scales below the picture, with the lowest and highest value."""
    wide, high_pixels = figure.get_size_inches() * DPI
    middle = 0.5 * FOOT / high_pixels
    x = MARGIN / wide
    style: dict[str, Any] = {"va": "center", "fontsize": 8, "color": MUTED, "parse_math": False}
    length = 70
    for colours, name in ((UNSEEN, "unseen"), (SEEN, "seen")):
        box = (x, middle - 5 / high_pixels, length / wide, 10 / high_pixels)
        axes = figure.add_axes(box)
        axes.imshow(ramp(colours)(np.linspace(0, 1, 64))[None], aspect="auto")
        axes.axis("off")
        figure.text(x, middle + 14 / high_pixels, name, ha="left", **style)
        figure.text(x, middle - 14 / high_pixels, f"{low:.3g}", ha="left", **style)
        right = x + length / wide
        figure.text(right, middle - 14 / high_pixels, f"{high:.3g}", ha="right", **style)
        x += (length + 16) / wide
    figure.text(1 - MARGIN / wide, middle, legend, ha="right", **style)


def ramp(colours: Sequence[str]) -> Any:
    """Colour map through the given colours."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("coverage", list(colours))


def bounds(values: NDArray[np.float64]) -> tuple[float, float]:
    """Range of the colours: from 0, or the lowest value if that is below, to the highest."""
    low, high = min(0.0, float(values.min())), float(values.max())
    return low, high if high > low else low + 1.0


def pixels(figure: Any) -> NDArray[np.uint8]:
    """The drawn figure, uint8 [height, width, 3]."""
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()
