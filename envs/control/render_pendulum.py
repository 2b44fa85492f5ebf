"""The picture of a pendulum: rod, axle, torque and a few numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

DPI = 100
WIDTH, HEIGHT = 480, 520
TEXT, MUTED, PAPER = "#1f2933", "#6b7785", "#f6f8fa"
ROD, EDGE, TORQUE, GOAL = "#1f6f8b", "#0f4a60", "#e39b26", "#b9d8c2"


def draw_pendulum(
    angle: float,
    torque: float,
    *,
    thickness: float = 1.0,
    title: str = "",
    lines: Sequence[str] = (),
    footer: str = "",
) -> NDArray[np.uint8]:
    """A rod on an axle; the line above it is where it should stand.

    Args:
        angle: rad, 0 upright, positive to the left (counter-clockwise).
        torque: part of the largest one, in [-1, 1], drawn as a curved arrow.
        thickness: of the rod; its area grows with it.
        title: written above on the left.
        lines: written below each other on the right.
        footer: written below.

    Returns:
        RGB picture, uint8 [520, 480, 3].
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Circle, FancyBboxPatch
    from matplotlib.transforms import Affine2D

    figure = Figure(figsize=(WIDTH / DPI, HEIGHT / DPI), dpi=DPI, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0.05, 1, 0.95 * WIDTH / HEIGHT))
    axes.set(xlim=(-1.3, 1.3), ylim=(-1.24, 1.24))
    axes.set_aspect("equal")
    axes.axis("off")
    axes.add_patch(Circle((0, 0), 1.12, facecolor=PAPER, edgecolor="#dde3e8", linewidth=1.2))
    axes.plot([0, 0], [0, 1.12], color=GOAL, linewidth=5, solid_capstyle="round", zorder=1)
    half = 0.075 * float(np.clip(thickness, 0.1, 6.0)) ** 0.5
    turn = Affine2D().rotate(angle) + axes.transData
    rod = FancyBboxPatch(
        (0.0, 0.0),
        0.0,
        1.0 - half,
        boxstyle=f"round,pad={half},rounding_size={half}",
        facecolor=ROD,
        edgecolor=EDGE,
        linewidth=1.5,
        transform=turn,
        zorder=3,
    )
    axes.add_patch(rod)
    if abs(torque) > 1e-3:
        _draw_torque(axes, torque)
    axes.add_patch(Circle((0, 0), 0.045, facecolor="white", edgecolor=EDGE, zorder=5))
    style: dict[str, Any] = {"color": TEXT, "va": "center", "parse_math": False}
    figure.text(0.04, 0.96, title, ha="left", fontsize=11, weight="bold", **style)
    for place, line in enumerate(lines):
        figure.text(0.96, 0.96 - 0.038 * place, line, ha="right", fontsize=10, **style)
    style["color"] = MUTED
    figure.text(0.5, 0.03, footer, ha="center", fontsize=10, **style)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _draw_torque(axes: Any, torque: float) -> None:
    """An arc around the axle in the direction of the torque, the longer the stronger."""
    way = np.linspace(0.0, 1.0, 40) * torque * 1.5 * np.pi + 0.5 * np.pi
    arc = 0.3 * np.stack([np.cos(way), np.sin(way)], axis=1)
    axes.plot(*arc.T, color=TORQUE, linewidth=3.5, solid_capstyle="round", zorder=4)
    out, ahead = arc[-1] / 0.3, np.sign(torque) * np.array([-np.sin(way[-1]), np.cos(way[-1])])
    head = np.stack([arc[-1] + 0.07 * out, arc[-1] - 0.07 * out, arc[-1] + 0.12 * ahead])
    axes.fill(*head.T, color=TORQUE, zorder=4)
