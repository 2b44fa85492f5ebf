"""Pictures of what was collected: samples of each group, and what they brought."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bandits.render import MUTED, TEXT, panels, pixels

COLOURS = ("#1f6f8b", "#d98e1f", "#7b3fa0", "#2e8b57", "#d1352b", "#3949ab", "#8d6e63", "#00838f")
MOST_LABELS = 12  # groups that still get a name


def draw_sampling(
    names: Sequence[str],
    start: NDArray[np.int64],
    samples: NDArray[np.int64],
    history: NDArray[np.float64],
    t: int,
    rounds: int,
    note: str,
) -> NDArray[np.uint8]:
    """A bar for the samples of each group, pale what it started with, and its performance along
    the budget.

    Args:
        names: of the groups, [G].
        start, samples: at the beginning and now, [G].
        history: test performance, [P + 1, G], NaN for what is to come; the first is at the start.
        t, rounds: batches bought, and batches that the budget allows.
        note: written above on the right.

    Returns:
        RGB picture, uint8 [380, 860, 3].
    """
    figure, left, right = panels("samples of each group (pale: at the start)", t, rounds, note)
    place = np.arange(len(names))
    colours = [COLOURS[group % len(COLOURS)] for group in place]
    left.bar(place, start, width=0.7, color=colours, alpha=0.4, zorder=3)
    left.bar(place, samples - start, bottom=start, width=0.7, color=colours, zorder=3)
    highest = max(float(samples.max()), 1.0)
    left.set(xlim=(-0.6, len(names) - 0.4), ylim=(0, 1.14 * highest))
    labelled = len(names) <= MOST_LABELS
    if labelled:
        shown = [name if len(name) <= 14 else name[:13] + "…" for name in names]
        left.set_xticks(place, shown, fontsize=9 if len(names) <= 6 else 7)
        above: dict[str, Any] = {"ha": "center", "va": "bottom", "fontsize": 9, "color": TEXT}
        for group in place:
            left.text(
                float(group), samples[group] + 0.015 * highest, f"{samples[group]:,}", **above
            )
    else:
        left.set_xticks([])
    known = np.flatnonzero(np.isfinite(history[:, 0]))
    # A point holds the last performance of its stretch of batches.
    bought = np.minimum(-(-known * rounds // max(len(history) - 1, 1)), t)
    now = history[known[-1]]
    for group in place:
        style: dict[str, Any] = {"color": colours[group], "linewidth": 2, "zorder": 3}
        right.plot(bought, history[known, group], **style)
        right.plot(bought[-1:], now[group : group + 1], marker="o", clip_on=False, **style)
    if labelled:
        bottom, top = right.get_ylim()
        heights = apart(now, 0.055 * (top - bottom))
        for group in place:
            text = f"{now[group]:.3f}"
            style = {"fontsize": 8, "color": colours[group], "va": "center"}
            right.text(bought[-1] + 0.03 * rounds, heights[group], text, **style)
    right.set_xlim(0, 1.16 * rounds)
    right.set_xlabel("batches bought", fontsize=9, color=MUTED)
    right.set_title("performance on test samples", fontsize=9.5, color=MUTED, loc="left")
    return pixels(figure)


def apart(heights: NDArray[np.float64], gap: float) -> NDArray[np.float64]:
    """Heights of labels, as near as an upward sweep leaves them, at least `gap` apart, [G]."""
    found, order = heights.copy(), np.argsort(heights, kind="stable")
    for lower, upper in zip(order[:-1], order[1:], strict=True):
        found[upper] = max(found[upper], found[lower] + gap)
    return found
