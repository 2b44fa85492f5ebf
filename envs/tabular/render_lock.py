"""Pictures of combination locks: a column per step, a row per latent."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..coverage.render import HERE, MUTED, TEXT, blank, pixels

WIDTH = 640.0  # of the lock in pixels, without the margins
ROW = 44.0  # height of a row in pixels
NAMES = 44.0  # width of the names of the rows in pixels


def draw_lock(
    keys: NDArray[np.int64], values: NDArray[np.float64], step: int, latent: int
) -> NDArray[np.uint8]:
    """The right keys of the good latents, coloured by what can still be won; a disc is the attempt.

    Args:
        keys: right keys [H, m].
        values: optimal values [H, m + 1].
        step: steps taken, 0 .. H.
        latent: the present one, 0 .. m; m is bad.

    Returns:
        RGB picture, uint8 [height, width, 3].
    """
    from matplotlib import colormaps

    steps, good = keys.shape
    side = float(np.clip((WIDTH - NAMES) / (steps + 1), 12, 60))
    size = (NAMES + side * (steps + 1), ROW * (good + 1))
    subtitle = f"step {step} of {steps}"
    figure, axes = blank(*size, "CombinationLock", subtitle, foot=16)
    axes.set(xlim=(-NAMES / side, steps + 1), ylim=(good + 1, 0))
    low, high = float(values.min()), float(values.max())
    level = (values.T - low) / (high - low) if high > low else np.full(values.T.shape, 0.5)
    picture = colormaps["YlGnBu"](0.05 + 0.7 * level)
    axes.imshow(picture, extent=(0, steps, good + 1, 0), aspect="auto", interpolation="nearest")
    axes.hlines(range(good + 2), 0, steps, colors="white", linewidth=2)
    axes.vlines(range(steps + 1), 0, good + 1, colors="white", linewidth=min(2.0, side / 12))
    style: dict[str, Any] = {"va": "center", "parse_math": False, "zorder": 6}
    for row in range(good + 1):
        name = "bad" if row == good else f"good {row}" if good > 1 else "good"
        axes.text(-8 / side, row + 0.5, name, ha="right", fontsize=9, color=MUTED, **style)
    here: dict[str, Any] = {"markeredgecolor": HERE, "markeredgewidth": 2.5, "linestyle": ""}
    disc = min(0.5 * side, 22.0)
    axes.plot(step + 0.5, latent + 0.5, "o", ms=disc, markerfacecolor="white", **here, zorder=5)
    for place in np.argwhere(keys >= 0):
        column, row = int(place[0]), int(place[1])
        bright = level[row, column] > 0.7 and (column, row) != (step, latent)
        ink, label = "white" if bright else TEXT, str(keys[column, row])
        axes.text(
            column + 0.5,
            row + 0.5,
            label,
            ha="center",
            fontsize=min(11.0, 0.34 * side),
            color=ink,
            **style,
        )
    return pixels(figure)
