"""Pictures of tours, routes and knapsacks, finished or half-way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..base import Arrays
from ..inventory.canvas import DPI, LIGHT, POINTS, short
from .generators import into_unit_square
from .sources import classical_scaling

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .base import NodeCore
    from .cvrp import CVRP
    from .knapsack import Knapsack
    from .orienteering import Orienteering
    from .tsp import ClosedTour

SIZE = (640, 660)  # pixels
DEPOT = "#1f2933"
# Distinct, of similar weight, and readable for most forms of colour blindness side by side.
ROUTES = (
    *("#1f6f8b", "#e39b26", "#5b8def", "#c8553d", "#4c9f70", "#8e5ea2", "#b08900", "#d96c9f"),
    *("#2f4b7c", "#7a9e3b", "#a05d3b", "#3aa6a0"),
)


def draw_tour(core: ClosedTour, state: Arrays, row: int) -> NDArray[np.uint8]:
    """The tour so far of episode `row`, closed when it is finished; an arrow where it goes on.

    Nodes of a matrix without coordinates are placed by multidimensional scaling.
    """
    points = places(core, state, row)
    walk = core.walked(state, row)
    complete = len(walk) == core.size
    if complete:
        walk = np.append(walk, 0)
    length = core.length(state, row, walk)
    count = f"{min(len(walk), core.size)} of {core.size} nodes"
    page = Page(f"{count}, length {number(length)}")
    axes = page.map(points)
    _path(axes, points, walk, LIGHT.stock, core.size, arrows=core.kind == "atsp")
    _nodes(axes, points, walk, core.size, LIGHT.stock)
    if not complete:
        _place(axes, points, int(walk[-1]), LIGHT.demand)
    _home(axes, points)
    return page.pixels()


def draw_routes(core: CVRP, state: Arrays, row: int) -> NDArray[np.uint8]:
    """The routes so far of episode `row`, each in its colour; the ways to the depot are thin."""
    points = places(core, state, row)
    routes = core.routes(state, row)
    walk = core.walked(state, row)
    complete = len(walk) == core.size
    closed = [np.concatenate([[0], route, [0]]) for route in routes]
    if routes and not complete:
        closed[-1] = closed[-1][:-1]
    length = sum(core.length(state, row, part) for part in closed)
    left, capacity = (float(state[name][row]) for name in ("capacity_left", "capacity"))
    vehicles = f"{len(routes)} route{'s' * (len(routes) != 1)}"
    page = Page(
        f"{len(walk) - 1} of {core.size - 1} customers, {vehicles}, length {number(length)}",
        "" if complete else f"capacity {short(left)} of {short(capacity)} left",
    )
    axes = page.map(points)
    demands = np.asarray(state["demands"][row], dtype=np.float64)
    sizes = 0.6 + 0.8 * demands / (demands.max() or 1.0)
    _nodes(axes, points, walk[:0], core.size, LIGHT.muted, sizes)
    for k, (part, route) in enumerate(zip(closed, routes, strict=True)):
        colour = ROUTES[k % len(ROUTES)]
        _path(axes, points, route, colour, core.size)
        _path(axes, points, part[:2], colour, core.size, faint=True)
        if part[-1] == 0:
            _path(axes, points, part[-2:], colour, core.size, faint=True)
        _dots(axes, points[route], colour, dot_size(core.size) * sizes[route], edge="white")
    if not complete:
        _place(axes, points, int(walk[-1]), LIGHT.demand)
    _home(axes, points)
    return page.pixels()


def draw_orienteering(core: Orienteering, state: Arrays, row: int) -> NDArray[np.uint8]:
    """The tour so far of episode `row`, nodes as large as their prizes, and the budget left."""
    points = places(core, state, row)
    walk = core.walked(state, row)
    open_ = np.asarray(core.unvisited(state)[row])
    complete = bool(core.terminal(state)[row])
    if complete and len(walk) > 1:
        walk = np.append(walk, 0)
    length = core.length(state, row, walk)
    prizes = np.asarray(state["prizes"][row], dtype=np.float64)
    budget = float(state["budget"][row]) + core.length(state, row, core.walked(state, row))
    page = Page(
        f"prizes {number(prizes[np.unique(walk)].sum())} of {number(prizes.sum())}, "
        f"length {number(length)}",
        f"budget {number(budget)}",
    )
    axes = page.map(points)
    sizes = 0.35 + 1.5 * prizes / (prizes.max() or 1.0)
    size = dot_size(core.size) * sizes
    out = ~open_ & ~np.isin(np.arange(core.size), walk)
    _path(axes, points, walk, LIGHT.stock, core.size)
    _dots(axes, points[out], LIGHT.idle, size[out], edge="none")
    _dots(axes, points[open_], LIGHT.background, size[open_], edge=LIGHT.stock)
    seen = np.unique(walk)
    _dots(axes, points[seen], LIGHT.stock, size[seen], edge="white")
    if not complete:
        _place(axes, points, int(walk[-1]), LIGHT.demand)
    _home(axes, points)
    return page.pixels()


def draw_knapsack(core: Knapsack, state: Arrays, row: int) -> NDArray[np.uint8]:
    """Items of episode `row` as bars as wide as their weights, and how far the knapsack is filled.

    The height of a bar is value per weight, its area therefore the value; the best come first.
    """
    values, weights = (
        np.asarray(state[name][row], dtype=np.float64) for name in ("values", "weights")
    )
    taken = core.taken(state, row)
    capacity = float(state["capacity_left"][row]) + weights[taken].sum()
    density = values / np.maximum(weights, 1e-9)
    order = np.argsort(-density, kind="stable")
    is_taken = np.isin(order, taken)
    fits = np.asarray(core.open(state)[row])[order]
    colours = np.where(is_taken, LIGHT.stock, np.where(fits, LIGHT.arriving, LIGHT.idle))
    page = Page(
        f"{len(taken)} of {core.size} items, value {number(values[taken].sum())}",
        f"{number(weights[taken].sum())} of {number(capacity)} filled",
    )
    axes = page.axes(0.09, 0.30, 0.87, 0.56)
    ends = np.cumsum(weights[order])
    # A few items of hardly any weight would be needles above all others.
    top = float(np.quantile(density, 0.9)) * 1.25 or 1.0
    axes.bar(
        ends - weights[order],
        density[order].clip(None, top),
        width=weights[order],
        align="edge",
        color=list(colours),
        edgecolor="white",
        linewidth=0.4,
    )
    axes.set_xlim(0, ends[-1] or 1.0)
    axes.set_ylim(0, top)
    _plain_axes(axes, "weight", "value per weight")
    gauge = page.axes(0.09, 0.10, 0.87, 0.07)
    filled = np.concatenate([[0.0], np.cumsum(weights[taken])])
    gauge.barh(0, capacity or 1.0, color=LIGHT.card, edgecolor=LIGHT.border, height=1.0)
    gauge.barh(
        np.zeros(len(taken)),
        weights[taken],
        left=filled[:-1],
        color=LIGHT.stock,
        edgecolor="white",
        linewidth=0.4,
        height=1.0,
    )
    gauge.set_xlim(0, capacity or 1.0)
    gauge.set_ylim(-0.52, 0.52)
    _plain_axes(gauge, "capacity filled, in the order taken", "")
    gauge.set_yticks([])
    entries = ((LIGHT.stock, "taken"), (LIGHT.arriving, "fits"), (LIGHT.idle, "too heavy now"))
    for k, (colour, text) in enumerate(entries):
        page.figure.text(0.62 + 0.10 * k, 0.885, "■", color=colour, fontsize=9)
        page.figure.text(0.642 + 0.10 * k, 0.886, text, color=LIGHT.muted, fontsize=8)
    return page.pixels()


# -- the page --------------------------------------------------------------------------------------


class Page:
    """A figure of its own (pyplot does not know it) with a title and a remark on its right."""

    def __init__(self, title: str, remark: str = "") -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        width, height = SIZE
        self.figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
        self.canvas = FigureCanvasAgg(self.figure)
        self.figure.patch.set_facecolor(LIGHT.background)
        style: dict[str, Any] = {"va": "center", "parse_math": False}
        self.figure.text(
            0.04, 0.955, title, fontsize=15 * POINTS, color=LIGHT.text, weight="bold", **style
        )
        self.figure.text(
            0.96, 0.955, remark, fontsize=13 * POINTS, color=LIGHT.muted, ha="right", **style
        )

    def axes(self, left: float, bottom: float, width: float, height: float) -> Axes:
        """Axes at this place, in shares of the page."""
        return self.figure.add_axes((left, bottom, width, height))

    def map(self, points: NDArray[np.float64]) -> Axes:
        """Square axes in which equal distances look equal, around all points [n, 2]."""
        axes = self.axes(0.03, 0.02, 0.94, 0.91)
        axes.set_facecolor(LIGHT.background)
        low, high = points.min(axis=0), points.max(axis=0)
        reach = 0.54 * float((high - low).max() or 1.0)
        x, y = (low + high) / 2
        axes.set_xlim(x - reach, x + reach)
        axes.set_ylim(y - reach, y + reach)
        axes.set_aspect("equal")
        axes.set_axis_off()
        return axes

    def pixels(self) -> NDArray[np.uint8]:
        """The page as an image, uint8 [height, width, 3]."""
        self.canvas.draw()
        return np.array(self.canvas.buffer_rgba())[..., :3]


def places(core: NodeCore, state: Arrays, row: int) -> NDArray[np.float64]:
    """Where to draw the nodes of episode `row`, [n, 2]."""
    if "coordinates" in state:
        return np.asarray(state["coordinates"][row], dtype=np.float64)
    given = getattr(core, "given", None)
    if given is not None and given.coordinates is not None:
        return into_unit_square(given.coordinates)
    matrix = core.distance_matrix(state, row)
    return into_unit_square(classical_scaling((matrix + matrix.T) / 2))


def number(value: float) -> str:
    """A length or value with as many digits as one reads."""
    value = float(value)
    if value.is_integer() or abs(value) >= 1e4:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 1e3 else f"{value:.3f}"


# -- marks -----------------------------------------------------------------------------------------


def dot_size(nodes: int) -> float:
    """Area of a node in square points: smaller the more there are."""
    return float(np.clip(4000.0 / nodes, 1.2, 60.0))


def _dots(axes: Axes, points: NDArray[np.float64], colour: str, size: Any, edge: str) -> None:
    if len(points):
        axes.scatter(
            points[:, 0], points[:, 1], s=size, c=colour, edgecolors=edge, linewidths=0.9, zorder=4
        )


def _nodes(
    axes: Axes,
    points: NDArray[np.float64],
    walk: NDArray[np.int64],
    nodes: int,
    colour: str,
    sizes: NDArray[np.float64] | None = None,
) -> None:
    """Visited nodes filled, the others as rings."""
    size = dot_size(nodes) * (np.ones(nodes) if sizes is None else sizes)
    seen = np.isin(np.arange(nodes), walk)
    _dots(axes, points[~seen], LIGHT.background, size[~seen], edge=LIGHT.muted)
    _dots(axes, points[seen], colour, size[seen], edge="white")


def _path(
    axes: Axes,
    points: NDArray[np.float64],
    walk: NDArray[np.int64],
    colour: str,
    nodes: int,
    arrows: bool = False,
    faint: bool = False,
) -> None:
    """Lines along a walk; arrows where the direction matters and there is room."""
    if len(walk) < 2:
        return
    ways = points[walk]
    width = float(np.clip(2.6 - 0.35 * np.log10(nodes) ** 2, 0.5, 2.2))
    if arrows and nodes <= 60:
        arrow = {"arrowstyle": "-|>", "color": colour, "lw": width, "shrinkA": 4, "shrinkB": 4}
        for start, end in zip(ways[:-1], ways[1:], strict=True):
            axes.annotate("", xy=end, xytext=start, arrowprops=arrow, zorder=2)
        return
    if faint:
        axes.plot(ways[:, 0], ways[:, 1], color=colour, lw=0.5 * width, alpha=0.55, zorder=1)
    else:
        style: dict[str, Any] = {"color": colour, "lw": width, "zorder": 2}
        axes.plot(ways[:, 0], ways[:, 1], solid_joinstyle="round", **style)


def _home(axes: Axes, points: NDArray[np.float64]) -> None:
    """Node 0, a square."""
    axes.scatter(
        points[0, 0], points[0, 1], s=70, c=DEPOT, marker="s", edgecolors="white", zorder=6
    )


def _place(axes: Axes, points: NDArray[np.float64], node: int, colour: str) -> None:
    """A ring around where one is."""
    x, y = points[node]
    axes.scatter(x, y, s=170, facecolors="none", edgecolors=colour, linewidths=2.2, zorder=7)


def _plain_axes(axes: Axes, x: str, y: str) -> None:
    """Axes of the house: no box, small grey numbers."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(LIGHT.border)
    axes.tick_params(colors=LIGHT.muted, labelsize=10 * POINTS, width=0.8)
    axes.set_xlabel(x, color=LIGHT.muted, fontsize=11 * POINTS)
    axes.set_ylabel(y, color=LIGHT.muted, fontsize=11 * POINTS)
