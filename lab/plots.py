"""The plots of reports, as inline SVG: learning curves, comparisons, episodes of a supply network.

Every plot takes the width in pixels for which it is laid out: text has its true size there. Pages
show one for wide and one for narrow screens (`WIDE`, `NARROW`). Lines differ in colour and in dash.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator
from numpy.typing import ArrayLike, NDArray

from ..envs.inventory.canvas import shortened, text_width
from ..envs.inventory.network import SupplyNetwork
from ..envs.inventory.render import network_figure
from .statistics import mean_interval
from .svg import colour, network_theme, series, to_svg

WIDE, NARROW = 840, 360
POINTS = 200  # most points of a learning curve that are drawn
LOG_FROM = 6.0  # a cost axis is logarithmic when its largest value is this many times its smallest
LOG_STEPS_FROM = 20.0  # and an x axis when one curve ends this many times beyond another
_TEXT = 12.5
_STEPS = [1, 2, 5, 10]  # between ticks
_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
_STYLE: Any = {
    "font.size": _TEXT,
    "axes.labelsize": _TEXT,
    "axes.titlesize": _TEXT,
    "legend.fontsize": _TEXT,
    "xtick.labelsize": 12,
    "ytick.labelsize": 12,
    "text.parse_math": False,  # names are never read as formulas
    "text.color": colour("ink"),
    "axes.labelcolor": colour("muted"),
    "axes.titlecolor": colour("ink"),
    "axes.titlelocation": "left",
    "axes.edgecolor": colour("plain"),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": colour("grid"),
    "grid.linewidth": 1.0,
    "xtick.color": colour("plain"),
    "xtick.labelcolor": colour("muted"),
    "ytick.color": colour("plain"),
    "ytick.labelcolor": colour("muted"),
    "lines.linewidth": 2.0,
    "legend.frameon": False,
    "legend.labelcolor": colour("ink"),
}


class Bar(NamedTuple):
    """A line of a comparison: point estimate, its interval, and the group that has a colour."""

    label: str
    estimate: float
    low: float
    high: float
    group: str = ""


@matplotlib.rc_context(_STYLE)
def learning_curves(
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]],
    *,
    name: str,
    x_label: str = "environment steps",
    y_label: str = "return",
    levels: Mapping[str, float] | None = None,
    width: int = WIDE,
) -> str:
    """Mean over seeds of each method, with its 95% interval as a band.

    Args:
        curves: method -> (x [points], y [seeds, points]).
        name: begins the ids in the SVG.
        x_label, y_label: of the axes.
        levels: name -> value, drawn as grey horizontal lines.
        width: in pixels.
    """
    figure, axes = _figure(width, 0.5 if width < 500 else 0.3, rows=1)
    handles, values, ends, first = {}, [], [], []
    for number, (method, (x, y)) in enumerate(curves.items()):
        steps, every = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
        keep = np.unique(np.linspace(0, len(steps) - 1, POINTS).round().astype(np.int64))
        steps, every = steps[keep], every[:, keep]
        mean, low, high = mean_interval(every)
        style: dict[str, Any] = {"color": series(number), "linestyle": _dash(number)}
        if len(steps) == 1:
            style["marker"] = "o"
        (handles[method],) = axes[0].plot(steps, mean, zorder=4, **style)
        axes[0].fill_between(steps, low, high, color=series(number), alpha=0.18, lw=0, zorder=3)
        values += [*low, *high]
        ends.append(steps[-1])
        first += steps[steps > 0][:1].tolist()
    for number, (level, value) in enumerate((levels or {}).items()):
        style = {"color": colour("muted"), "linestyle": _DASHES[1 + number % 3], "lw": 1.4}
        handles[level] = axes[0].axhline(value, zorder=2, **style)
        values.append(value)
    _cost_scale(axes[0], "y", values)
    if ends and min(ends) > 0 and max(ends) > LOG_STEPS_FROM * min(ends):
        axes[0].set_xscale("log")
        axes[0].set_xlim(min(first), max(ends) * 1.05)
        axes[0].xaxis.set_major_locator(LogLocator(numticks=5 if width < 500 else 9))
        axes[0].xaxis.set_minor_formatter(NullFormatter())
    else:
        axes[0].xaxis.set_major_locator(MaxNLocator(steps=_STEPS, nbins=4 if width < 500 else 8))
    axes[0].xaxis.set_major_formatter(FuncFormatter(_short))
    axes[0].set_xlabel(x_label)
    _y_title(axes[0], y_label, width)
    _legend(figure, handles, width)
    text = f"Learning curves, {y_label} against {x_label}: {', '.join(handles)}"
    return to_svg(figure, name, text)


@matplotlib.rc_context(_STYLE)
def comparison(
    bars: Sequence[Bar],
    *,
    name: str,
    x_label: str,
    groups: Sequence[str] = (),
    width: int = WIDE,
) -> str:
    """A point and its interval per line, as rliable draws them.

    Args:
        bars: from top to bottom.
        name: begins the ids in the SVG.
        x_label: what is compared.
        groups: their order, which decides their colours; default: as the bars have them.
        width: in pixels.
    """
    narrow = width < 500
    pitch = 42 if narrow else 30
    figure, (axes,) = _figure(width, (pitch * len(bars) + 74) / width, rows=1)
    groups = list(dict.fromkeys([*groups, *(bar.group for bar in bars)]))
    handles: dict[str, Any] = {}
    for y, bar in enumerate(bars):
        shade = series(groups.index(bar.group))
        axes.plot([bar.low, bar.high], [y, y], color=shade, lw=6, alpha=0.4, zorder=3)
        style: dict[str, Any] = {"color": shade, "marker": "osD^v"[groups.index(bar.group) % 5]}
        (handles[bar.group],) = axes.plot(
            [bar.estimate], [y], linestyle="none", markersize=7, zorder=4, **style
        )
    values = [value for bar in bars for value in bar[1:4]]
    _cost_scale(axes, "x", values)
    if axes.get_xscale() == "linear":
        axes.xaxis.set_major_locator(MaxNLocator(steps=_STEPS, nbins=4 if narrow else 8))
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(bars) - 0.5, -0.8 if narrow else -0.5)
    axes.set_xlabel(x_label)
    labels = [shortened(bar.label, _TEXT, width - 40 if narrow else 0.4 * width) for bar in bars]
    if narrow:
        axes.set_yticks([])
        for y, label in enumerate(labels):
            place = {"xy": (0, y - 0.38), "xycoords": ("axes fraction", "data")}
            axes.annotate(label, **place, va="center", zorder=5)  # type: ignore[arg-type]
    else:
        axes.set_yticks(range(len(bars)), labels)
        axes.tick_params(axis="y", labelcolor=colour("ink"))
    if any(handles):
        _legend(figure, {group: handles[group] for group in groups if group in handles}, width)
    text = "; ".join(f"{b.label} {b.estimate:.4g} [{b.low:.4g}, {b.high:.4g}]" for b in bars)
    return to_svg(figure, name, f"{x_label}, with 95% intervals: {text}")


@matplotlib.rc_context(_STYLE)
def orders_and_demand(
    panels: Mapping[str, tuple[ArrayLike, ArrayLike]], *, name: str, width: int = WIDE
) -> str:
    """What was asked of a location and what it ordered, period by period; one panel per location.

    Args:
        panels: location -> (demand [T], orders [T]).
        name: begins the ids in the SVG.
        width: in pixels.
    """
    shape = (0.5 if width < 500 else 0.22) * len(panels)
    figure, axes = _figure(width, shape, rows=len(panels))
    handles: dict[str, Any] = {}
    for panel, (location, (demand, orders)) in zip(axes, panels.items(), strict=True):
        asked, ordered = np.asarray(demand), np.asarray(orders)
        edges = np.arange(len(asked) + 1) + 0.5
        shade = colour("network-demand")
        handles["demand"] = panel.stairs(asked, edges, fill=True, color=shade, alpha=0.55, zorder=2)
        handles["orders"] = panel.stairs(
            ordered, edges, baseline=None, color=colour("network-order"), lw=2, zorder=3
        )
        panel.set_title(shortened(location, _TEXT, 0.8 * width))
        panel.set_ylim(0, 1.06 * max(asked.max(), ordered.max(), 1e-9))
        _periods(panel, len(asked), width)
    axes[-1].set_xlabel("period")
    axes[0].set_ylabel("units")
    _legend(figure, handles, width)
    return to_svg(figure, name, f"Orders against demand over time at {', '.join(panels)}")


@matplotlib.rc_context(_STYLE)
def stocks_over_time(stocks: Mapping[str, ArrayLike], *, name: str, width: int = WIDE) -> str:
    """Stock on hand after each period [T], one line per location or group of locations."""
    figure, (axes,) = _figure(width, 0.6 if width < 500 else 0.3, rows=1)
    handles, lowest, periods = {}, 0.0, 1
    for number, (location, units) in enumerate(stocks.items()):
        held = np.asarray(units, dtype=np.float64)
        periods, lowest = len(held), min(lowest, held.min())
        style: dict[str, Any] = {"color": series(number), "linestyle": _dash(number)}
        (handles[location],) = axes.plot(np.arange(1, periods + 1), held, **style)
    if lowest < 0:
        axes.axhline(0.0, color=colour("muted"), lw=1.2, zorder=1)
    else:
        axes.set_ylim(bottom=0)
    _periods(axes, periods, width)
    axes.set_xlabel("period")
    owed = "; below zero: backlog" if lowest < 0 else ""
    axes.set_ylabel("units")
    _legend(figure, handles, width)
    return to_svg(figure, name, f"Stock on hand over time{owed}: {', '.join(stocks)}")


def network_picture(
    network: SupplyNetwork,
    inventory: ArrayLike,
    orders: ArrayLike,
    demand: ArrayLike,
    *,
    name: str,
    title: str = "",
    size: tuple[int, int] = (960, 600),
) -> str:
    """The picture of `envs.inventory.render.network_figure`, in the colours of the page."""
    figure = network_figure(
        network, inventory, orders, demand, title=title, theme=network_theme(), size=size
    )
    return to_svg(figure, name, f"Supply network of {network.locations} locations. {title}")


@matplotlib.rc_context(_STYLE)
def quality_and_coverage(
    points: Mapping[str, tuple[float, float]], *, name: str, width: int = WIDE
) -> str:
    """Data sets by trajectory quality and state-action coverage.

    Args:
        points: data set -> (TQ, SACo).
        name: begins the ids in the SVG.
        width: in pixels.
    """
    figure, (axes,) = _figure(width, 0.7 if width < 500 else 0.4, rows=1)
    handles: dict[str, Any] = {}
    for number, (label, (quality, coverage)) in enumerate(points.items()):
        style: dict[str, Any] = {"color": series(number), "marker": "osD^v"[number % 5]}
        (handles[label],) = axes.plot(
            [quality], [coverage], linestyle="none", markersize=9, zorder=4, **style
        )
    edge = {"color": colour("muted"), "linestyle": _DASHES[1], "lw": 1.2, "zorder": 2}
    axes.axvline(1.0, **edge)
    axes.axhline(1.0, **edge)
    for which, place in ((axes.set_xlim, 0), (axes.set_ylim, 1)):
        values = [point[place] for point in points.values()]
        low, high = min(0.0, *values), max(1.0, *values)
        which(low - 0.06 * (high - low), high + 0.06 * (high - low))
    axes.grid(visible=True, axis="x")
    axes.set_xlabel("TQ: 0 random play, 1 an expert")
    _y_title(axes, "SACo: pairs of state and action, 1 as many as the reference", width)
    _legend(figure, handles, width)
    text = "; ".join(f"{label}: TQ {x:.3g}, SACo {y:.3g}" for label, (x, y) in points.items())
    return to_svg(figure, name, f"Trajectory quality against state-action coverage. {text}")


@matplotlib.rc_context(_STYLE)
def returns_histogram(
    returns: Mapping[str, ArrayLike],
    *,
    name: str,
    levels: Mapping[str, float] | None = None,
    width: int = WIDE,
) -> str:
    """Share of the episodes of each data set by their return.

    Args:
        returns: data set -> [episodes].
        name: begins the ids in the SVG.
        levels: name -> return, drawn as grey vertical lines.
        width: in pixels.
    """
    figure, (axes,) = _figure(width, 0.5 if width < 500 else 0.3, rows=1)
    every = {label: np.asarray(values, dtype=np.float64) for label, values in returns.items()}
    edges = np.histogram_bin_edges(np.concatenate(list(every.values())), bins=30)
    handles: dict[str, Any] = {}
    for number, (label, values) in enumerate(every.items()):
        shares = np.histogram(values, edges)[0] / len(values)
        shade = series(number)
        axes.stairs(shares, edges, fill=True, color=shade, alpha=0.18, zorder=2)
        handles[label] = axes.stairs(
            shares, edges, baseline=None, color=shade, lw=2, ls=_dash(number), zorder=3
        )
    for number, (level, value) in enumerate((levels or {}).items()):
        style = {"color": colour("muted"), "linestyle": _DASHES[1 + number % 3], "lw": 1.4}
        handles[level] = axes.axvline(value, zorder=1, **style)
    axes.xaxis.set_major_locator(MaxNLocator(steps=_STEPS, nbins=4 if width < 500 else 8))
    axes.xaxis.set_major_formatter(FuncFormatter(_short))
    axes.set_ylim(bottom=0)
    axes.set_xlabel("return of an episode")
    _y_title(axes, "share of the episodes", width)
    _legend(figure, handles, width)
    text = "; ".join(f"{label}: mean {values.mean():.4g}" for label, values in every.items())
    return to_svg(figure, name, f"Returns of the episodes. {text}")


def aligned(
    curves: Sequence[tuple[ArrayLike, ArrayLike]],
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Curves of several seeds on common x: (x [points], y [seeds, points]).

    Points without a finite value are left out. The x are all that occur where every seed has
    values on both sides; a seed is interpolated linearly between its own. None where they have no
    x in common.
    """
    clean = []
    for x, y in curves:
        steps, values = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
        known = np.isfinite(steps) & np.isfinite(values)
        order = np.argsort(steps[known], kind="stable")
        clean.append((steps[known][order], values[known][order]))
    if not clean or any(len(steps) == 0 for steps, _ in clean):
        return None
    first, last = max(x[0] for x, _ in clean), min(x[-1] for x, _ in clean)
    common = np.unique(np.concatenate([x for x, _ in clean]))
    common = common[(common >= first) & (common <= last)]
    if not len(common):
        return None
    return common, np.stack([np.interp(common, x, y) for x, y in clean])


def _figure(width: int, ratio: float, rows: int) -> tuple[Figure, Sequence[Axes]]:
    figure = Figure(figsize=(width / 72, (width * ratio + 44) / 72), dpi=72, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, 1, sharex=True, squeeze=False)
    for axes in grid[:, 0]:
        axes.grid(visible=False, axis="x")
    return figure, list(grid[:, 0])


def _legend(figure: Figure, handles: Mapping[str, Any], width: int) -> None:
    """Above the axes, in as many columns as fit."""
    # Matplotlib leaves out names that begin with an underscore; a space of no width prevents that.
    names = ["\u200b" * key.startswith("_") + shortened(key, _TEXT, width - 70) for key in handles]
    if not names:
        return
    columns = max(1, min(len(names), int((width - 20) / (max(map(_width, names)) + 56))))
    lines = -(-len(names) // columns)
    figure.set_figheight(figure.get_figheight() + 19 * lines / 72)  # the axes keep their height
    figure.legend(
        list(handles.values()),
        names,
        loc="outside upper left",
        ncols=columns,
        borderaxespad=0.2,
        handlelength=2.2,
        columnspacing=1.4,
        handletextpad=0.6,
    )


def _y_title(axes: Axes, label: str, width: int) -> None:
    """The name of the y axis, above it: it reads without turning the head, and takes no width."""
    axes.set_title(shortened(label, _TEXT, width - 60), color=colour("muted"))


def _cost_scale(axes: Axes, which: str, values: Sequence[float]) -> None:
    """A logarithmic axis for numbers of different magnitudes, with ticks that can be read."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    if values and min(values) > 0 and max(values) > LOG_FROM * min(values):
        set_scale = axes.set_xscale if which == "x" else axes.set_yscale
        set_scale("log")
        wide = max(values) > 100 * min(values)
        axis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
        axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(_short))


def _periods(axes: Axes, periods: int, width: int) -> None:
    axes.set_xlim(0.5, periods + 0.5)
    most = 5 if width < 500 else 10
    axes.xaxis.set_major_locator(MaxNLocator(steps=_STEPS, nbins=most, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4, steps=_STEPS))
    axes.yaxis.set_major_formatter(FuncFormatter(_short))


def _short(value: float, position: int | None = None) -> str:
    """A tick label: 0.25, 40, 20k, 1.5M."""
    for divisor, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 10 * divisor or (abs(value) >= divisor and value % (divisor / 10) == 0):
            return f"{value / divisor:.4g}{suffix}".replace("-", "−")
    return f"{value:.6g}".replace("-", "−")


def _width(text: str) -> float:
    return text_width(text, _TEXT)


def _dash(number: int) -> Any:
    return _DASHES[number % len(_DASHES)]
