"""Pictures of bandits: what the arms paid, or who was accepted, beside what it cost so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 100
WIDTH, HEIGHT = 860, 380
TEXT, MUTED, LINE, PAPER = "#1f2933", "#6b7785", "#dde3e8", "#f6f8fa"
BAR, CHOSEN, DIM, MARK = "#1f6f8b", "#d98e1f", "#c3ccd4", "#8a2f12"
CURVES = {"regret": "#d1352b", "cost": "#e39b26"}
GROUPS = ("#1f6f8b", "#7b3fa0")
MOST_LABELS = 24  # arms that still get a name
MOST_PEOPLE = 40  # whose index is written


@dataclass(frozen=True)
class Bars:
    """What a picture shows of the arms.

    Attributes:
        title: what the bars are.
        names: one per arm, [K].
        sums: what each arm paid, [K].
        counts: how often it was pulled, [K]; None: `sums` are shown as they are.
        marks: a tick beside each bar, [K], NaN for none; None: no ticks.
        chosen: the arm pulled last.
        dimmed: arms that cannot be pulled now, bool [K].
    """

    title: str
    names: Sequence[str]
    sums: NDArray[np.float64]
    counts: NDArray[np.int64] | None
    marks: NDArray[np.float64] | None = None
    chosen: int | None = None
    dimmed: NDArray[np.bool_] | None = None


def draw_rounds(
    bars: Bars, curves: Mapping[str, NDArray[np.float64]], t: int, T: int, note: str = ""
) -> NDArray[np.uint8]:
    """A bar for each arm, and the books along the episode.

    Args:
        bars: the arms.
        curves: running totals by name, [P] each, NaN for what is to come.
        t, T: rounds played, and rounds of the episode.
        note: written above on the right.

    Returns:
        RGB picture, uint8 [380, 860, 3].
    """
    figure, left, right = panels(bars.title, t, T, note)
    K = len(bars.names)
    heights = np.asarray(bars.sums, dtype=np.float64)
    pulled = np.ones(K, dtype=bool)
    if bars.counts is not None:
        pulled = bars.counts > 0
        heights = np.where(pulled, heights / np.maximum(bars.counts, 1), 0.0)
    colours = [BAR] * K
    for dim in np.flatnonzero(bars.dimmed) if bars.dimmed is not None else ():
        colours[dim] = DIM
    if bars.chosen is not None:
        colours[bars.chosen] = CHOSEN
    place = list(range(K))
    left.bar(place, heights, width=0.7, color=colours, zorder=3)
    if bars.marks is not None:
        left.hlines(
            bars.marks,
            np.subtract(place, 0.42),
            np.add(place, 0.42),
            color=MARK,
            linewidth=2.2,
            zorder=4,
        )
    left.axhline(0, color=MUTED, linewidth=0.8, zorder=2)
    marks = np.zeros(0) if bars.marks is None else np.asarray(bars.marks)
    shown = np.concatenate([heights, marks[np.isfinite(marks)], [0.0]])
    low, high = float(shown.min()), float(shown.max())
    room = (high - low) or 1.0
    left.set(xlim=(-0.6, K - 0.4), ylim=(low - 0.06 * room * (low < 0), high + 0.16 * room))
    if K <= MOST_LABELS:
        small = 9 if K <= 8 else 7
        tall = K > 4 and max(map(len, bars.names)) > 7
        left.set_xticks(place, bars.names, fontsize=small, rotation=20 if tall else 0)
        for arm in place:
            label = "" if pulled[arm] else "never"
            if pulled[arm]:
                label = f"{heights[arm]:.3g}"
                if bars.counts is not None:
                    label += f"\n{bars.counts[arm]}×"
            tick = marks[arm] if len(marks) and np.isfinite(marks[arm]) else 0.0
            peak = max(heights[arm], tick, 0.0)
            left.text(arm, peak + 0.015 * room, label, ha="center", va="bottom", fontsize=small - 1)
    else:
        left.set_xticks([])
    draw_curves(right, curves, t, T)
    return pixels(figure)


def draw_people(
    scores: NDArray[np.float64],
    acceptance: NDArray[np.float64],
    groups: NDArray[np.float64],
    accepted: NDArray[np.bool_],
    pair: NDArray[np.int64],
    curves: Mapping[str, NDArray[np.float64]],
    t: int,
    T: int,
) -> NDArray[np.uint8]:
    """The people of a round by score and probability of acceptance, and the books.

    Filled circles were accepted; a red line joins the pair that the panel reported.

    Args:
        scores: [k].
        acceptance: probabilities, [k]; NaN before the first round.
        groups: [k], the colours.
        accepted: bool [k].
        pair: [2], -1 for none.
        curves, t, T: as in `draw_rounds`.

    Returns:
        RGB picture, uint8 [380, 860, 3].
    """
    title = "probability of acceptance by score (filled: accepted)"
    note = f"reported: {pair[0]} before {pair[1]}" if pair[0] >= 0 else "no report"
    figure, left, right = panels(title, t, T, note if t else "")
    heights = np.nan_to_num(acceptance, nan=0.5)
    if pair[0] >= 0:
        left.plot(scores[pair], heights[pair], color=CURVES["regret"], linewidth=2.5, zorder=2)
    kinds = np.unique(groups)
    colours = [GROUPS[kind % len(GROUPS)] for kind in np.searchsorted(kinds, groups)]
    faces = [ink if yes else "white" for ink, yes in zip(colours, accepted, strict=True)]
    style: dict[str, Any] = {"facecolors": faces, "edgecolors": colours, "linewidths": 2}
    left.scatter(scores, heights, s=150, zorder=3, **style)
    if len(scores) <= MOST_PEOPLE:
        for person, (x, y) in enumerate(zip(scores, heights, strict=True)):
            ink = "white" if accepted[person] else TEXT
            left.text(x, y, str(person), ha="center", va="center", fontsize=8, color=ink, zorder=4)
    margin = 0.08 * ((float(np.ptp(scores))) or 1.0)
    left.set(xlim=(scores.min() - margin, scores.max() + margin), ylim=(-0.1, 1.1))
    if scores.min() >= 0 and scores.max() <= 1:
        left.set_xlim(-0.05, 1.05)
    left.tick_params(labelsize=9)
    draw_curves(right, curves, t, T)
    return pixels(figure)


def panels(title: str, t: int, T: int, note: str) -> tuple[Figure, Axes, Axes]:
    """A figure with room for the arms on the left and the books on the right."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH / DPI, HEIGHT / DPI), dpi=DPI, facecolor="white")
    left = figure.add_axes((0.055, 0.15, 0.50, 0.65))
    right = figure.add_axes((0.635, 0.15, 0.34, 0.65))
    for axes in (left, right):
        axes.set_facecolor(PAPER)
        axes.grid(axis="y", color=LINE, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(length=0, colors=MUTED, labelsize=9)
        for spine in axes.spines.values():
            spine.set_visible(False)
    figure.text(0.055, 0.93, f"round {t} of {T}", fontsize=12, weight="bold", color=TEXT)
    figure.text(0.975, 0.93, note, fontsize=10, color=MUTED, ha="right")
    figure.text(0.055, 0.84, title, fontsize=9.5, color=MUTED)
    return figure, left, right


def draw_curves(axes: Axes, curves: Mapping[str, NDArray[np.float64]], t: int, T: int) -> None:
    """Running totals along the rounds; the last values are written into the legend."""
    for name, curve in curves.items():
        known = np.flatnonzero(np.isfinite(curve))
        # A point holds the total at the end of its stretch of rounds, the last one that of now.
        rounds = np.minimum(-(-(known + 1) * T // len(curve)), t)
        x, y = np.concatenate([[0], rounds]), np.concatenate([[0.0], curve[known]])
        style: dict[str, Any] = {"color": CURVES[name], "linewidth": 2}
        axes.plot(x, y, label=f"{name} {y[-1]:.4g}", **style)
    axes.set_xlim(0, T)
    if not any(np.nan_to_num(curve).any() for curve in curves.values()):
        axes.set_ylim(-0.05, 1)
    axes.set_xlabel("round", fontsize=9, color=MUTED)
    axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), frameon=False, fontsize=9.5, ncols=2)


def pixels(figure: Figure) -> NDArray[np.uint8]:
    """The drawn figure, uint8 [height, width, 3]."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
