"""The picture of a linear plant: where its state is, and what it did lately."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..coverage.render import DPI, HEAD, MARGIN, MUTED, blank, draw_way, pixels, ramp

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .lqr import LQR

SIDE, STRIPS = 400, 360  # pixels: the plane, and the width of the curves beside it
GAP, FOOT = 70, 46
WORTH = ("#f6f8fa", "#d5e9df", "#7fbf9b")
CURVES = ("#1f6f8b", "#d98e1f", "#7b3fa0", "#2e8b57", "#c2185b", "#3949ab")
CONTROLS = ("#8a2f12", "#e39b26", "#5d4037")
QUIET, AXIS = "#b4bcc4", "#c9d1d9"
STATE = "state x"


def draw_plant(core: LQR, trail: NDArray[np.float64], step: int) -> NDArray[np.uint8]:
    """On the left the first two components of x (or x and u, if x has one); on the right curves.

    Green is the reward of a state, without control.

    Args:
        core: the plant.
        trail: x, u and z of the last steps, the latest at the end, [k, n + m + distractors].
        step: number of the latest one.

    Returns:
        RGB picture, uint8 [height, width, 3].
    """
    n, m = core.n, core.m
    x, u, z = trail[:, :n], trail[:, n : n + m], trail[:, n + m :]
    title = f"step {step} of {core.horizon}"
    figure, _ = blank(SIDE + GAP + STRIPS, SIDE, title, f"|x| {np.linalg.norm(x[-1]):.3f}", FOOT)
    wide, tall = figure.get_size_inches() * DPI
    left = figure.add_axes(_box(MARGIN, FOOT, SIDE, SIDE, wide, tall))
    _draw_plane(left, core, np.column_stack([x, u])[:, :2])
    # A control holds from the step before to the step whose state it made.
    curves = [(x, STATE, CURVES), (np.concatenate([u[1:2], u[1:]]), "control u", CONTROLS)]
    if z.shape[1]:
        curves.append((z, "distractors z", (QUIET,)))
    between = HEAD // 2
    height = (SIDE - between * len(curves)) / len(curves)
    steps = np.arange(step + 1 - len(trail), step + 1)
    for place, (values, name, colours) in enumerate(curves):
        low = FOOT + SIDE - (place + 1) * (height + between) + between * 0.6
        axes = figure.add_axes(_box(MARGIN + SIDE + GAP, low, STRIPS, height, wide, tall))
        _draw_curves(axes, steps[: len(values)], values, name, colours)
        axes.tick_params(labelbottom=place == len(curves) - 1)
    style: dict[str, Any] = {"va": "center", "fontsize": 9, "color": MUTED, "parse_math": False}
    names = "x₁ across, x₂ up" if n > 1 else "x across, u up"
    worth = f"reward: {core.kind}, green is high"
    figure.text(MARGIN / wide, 0.35 * FOOT / tall, f"{names}   {worth}", ha="left", **style)
    right = 1 - MARGIN / wide
    figure.text(right, 0.35 * FOOT / tall, f"{core.plant}, last {len(steps) - 1} steps", **style)
    figure.texts[-1].set_ha("right")
    return pixels(figure)


def _box(
    x: float, y: float, width: float, height: float, wide: float, tall: float
) -> tuple[float, float, float, float]:
    """A box in pixels as parts of the figure."""
    return x / wide, y / tall, width / wide, height / tall


def _draw_plane(axes: Axes, core: LQR, points: NDArray[np.float64]) -> None:
    """The way through the plane, on a map of the reward that zooms with it."""
    reach = 1.15 * max(float(np.abs(points[np.isfinite(points)]).max(initial=0.0)), 0.1)
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), xticks=[], yticks=[])
    ticks = np.linspace(-reach, reach, 101)
    grid = np.stack(np.meshgrid(ticks, ticks), axis=-1).reshape(-1, 2)
    x = np.zeros((len(grid), core.n))
    x[:, : min(core.n, 2)] = grid[:, : core.n]
    u = np.zeros((len(grid), core.m))
    if core.n == 1:
        u[:, 0] = grid[:, 1]
    worth = core.worth(x, u).reshape(101, 101)
    extent = (-reach, reach, -reach, reach)
    level = (worth - worth.min()) / max(float(np.ptp(worth)), 1e-12)
    axes.imshow(ramp(WORTH)(level), extent=extent, origin="lower", interpolation="bilinear")
    axes.contour(ticks, ticks, level, levels=6, colors="white", linewidths=0.8)
    axes.axhline(0, color=AXIS, linewidth=1)
    axes.axvline(0, color=AXIS, linewidth=1)
    for spine in axes.spines.values():
        spine.set_color(AXIS)
    style: dict[str, Any] = {"fontsize": 8, "color": MUTED, "va": "bottom", "parse_math": False}
    axes.text(0.985 * reach, 0.01 * reach, f"{reach:.2g}", ha="right", **style)
    axes.text(0.01 * reach, 0.93 * reach, f"{reach:.2g}", ha="left", **style)
    draw_way(axes, points, 24.0, jumps=False, disc=12.0)


def _draw_curves(
    axes: Axes,
    steps: NDArray[np.int64],
    values: NDArray[np.float64],
    name: str,
    colours: tuple[str, ...],
) -> None:
    """Curves over the last steps, of controls in stairs; components of x carry their number."""
    from matplotlib.ticker import MaxNLocator

    axes.axhline(0, color=AXIS, linewidth=1)
    for column in range(values.shape[1]):
        style: dict[str, Any] = {"color": colours[column % len(colours)], "linewidth": 1.8}
        drawn = "steps-pre" if colours is CONTROLS else "default"
        axes.plot(steps, values[:, column], drawstyle=drawn, **style)
        if len(steps):
            axes.plot(steps[-1], values[-1, column], "o", markersize=4, color=style["color"])
            if name == STATE and values.shape[1] > 1:
                up = 5 if column == values[-1].argmax() else -5  # so that two numbers stay apart
                end: dict[str, Any] = {"fontsize": 8, "color": style["color"], "va": "center"}
                place = (steps[-1], values[-1, column])
                axes.annotate(f"{column + 1}", place, (7, up), textcoords="offset points", **end)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.set_title(name, fontsize=9, color=MUTED, loc="left", pad=3)
    axes.tick_params(labelsize=7, colors=MUTED, length=2)
    for side, spine in axes.spines.items():
        spine.set_color(AXIS)
        spine.set_visible(side in ("left", "bottom"))
