"""Pictures of finite worlds: a tile per state."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

SIDE = 480  # of the drawing in pixels, without the title
DPI = 100
LABELLED = 144  # states that still get a number and a value written on their tile


def draw_states(
    values: NDArray[np.float64],
    state: int,
    title: str,
    columns: int | None = None,
    labels: Sequence[str] | None = None,
) -> NDArray[np.uint8]:
    """A grid of tiles, coloured from the lowest to the highest value; the present state is framed.

    Args:
        values: one per state, [S].
        state: index of the present one.
        title: written above.
        columns: tiles in a row, by default as many as make the grid nearly square.
        labels: names of the states, by default their numbers.

    Returns:
        RGB picture, uint8 [height, width, 3].
    """
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = columns or int(np.ceil(np.sqrt(len(values))))
    rows = -(-len(values) // columns)
    tile = SIDE / max(columns, 2)
    width, height = round(tile * max(columns, 2)), round(tile * rows) + 40
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, rows * tile / height))
    axes.set(xlim=(0, max(columns, 2)), ylim=(rows, 0))
    axes.axis("off")
    spread = float(np.ptp(values))
    level = (values - values.min()) / spread if spread > 0 else np.full(len(values), 0.5)
    colours = colormaps["YlGnBu"](0.05 + 0.7 * level)[:, :3]
    picture = np.ones((rows * columns, 3))
    picture[: len(values)] = colours
    extent = (0, columns, rows, 0)
    axes.imshow(
        picture.reshape(rows, columns, 3), extent=extent, aspect="auto", interpolation="nearest"
    )
    axes.hlines(range(rows + 1), 0, columns, colors="white", linewidth=1.5)
    axes.vlines(range(columns + 1), 0, rows, colors="white", linewidth=1.5)
    if len(values) <= LABELLED:
        longest = 1 if labels is None else max(len(label) for label in labels)
        size = min(16.0, 0.2 * tile)
        for index, (value, shade) in enumerate(zip(values, level, strict=True)):
            x, y = index % columns + 0.5, index // columns + 0.5
            colour = "white" if shade > 0.7 else "#1f2933"
            axes.text(
                x,
                y - 0.12,
                str(index) if labels is None else labels[index],
                fontsize=min(size, 0.85 * tile / longest),
                color=colour,
                ha="center",
                va="center",
                weight="bold",
            )
            axes.text(
                x,
                y + 0.2,
                f"{value:.3g}",
                fontsize=0.7 * size,
                color=colour,
                ha="center",
                va="center",
            )
    x, y = state % columns, state // columns
    inset = 0.04
    axes.plot(
        x + np.array([inset, 1 - inset, 1 - inset, inset, inset]),
        y + np.array([inset, inset, 1 - inset, 1 - inset, inset]),
        color="#d1352b",
        linewidth=3,
        solid_joinstyle="miter",
    )
    figure.text(
        0.5,
        1 - 20 / height,
        f"{title}, state {state}" if labels is None else f"{title}, {labels[state]}",
        ha="center",
        va="center",
        fontsize=11,
        color="#1f2933",
    )
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
