"""The picture of `LaneDriving`: the road around the ego from above, and the whole route."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from . import traffic
from .traffic import CENTRES, EDGE, LANE_WIDTH, LANES, LENGTH, NOSE, ROAD, WIDTH

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DPI = 100
PICTURE = (1000, 350)  # px
BEHIND, BEFORE = 20.0, 60.0  # m of the road that are shown
SIDE = 8.0  # m to either side of the middle of the road
TEXT, MUTED, RULE = "#1f2933", "#6b7785", "#b0453a"
GRASS, ASPHALT, PAINT = "#cfe0c6", "#59636e", "#f4f6f7"
OTHERS, EGO, GLASS = "#a9b7c6", "#e39b26", "#2c3a47"
RED, GREEN = "#d6453d", "#2f9e56"


def draw_road(state: dict[str, Any], info: dict[str, Any]) -> NDArray[np.uint8]:
    """The road from above, driven from left to right; below it the route with what is ahead.

    The ego is orange, a wheel track ahead of it shows the steering. A bar across the road is the
    stop line in the colour of the light. On the route below, every third has its limit, ticks are
    vehicles, and what has been covered is filled.

    Args:
        state: of one `LaneDriving` episode, arrays [1, ...].
        info: that `LaneDriving.info` has of it.

    Returns:
        RGB picture, uint8 [350, 1000, 3].
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    row = {name: np.asarray(value)[0] for name, value in state.items()}
    said = {name: np.asarray(value)[0] for name, value in info.items()}
    light = RED if traffic.is_red(np.asarray(row["t"]), np.asarray(row["phase"])) else GREEN
    width, height = PICTURE
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    road = width * 2 * SIDE / (BEHIND + BEFORE) / height
    _draw_near(figure.add_axes((0, 0.88 - road, 1, road)), row, light)
    _draw_route(figure.add_axes((0.04, 0.03, 0.92, 0.23)), row, float(said["rc"]), light)
    style: dict[str, Any] = {"va": "center", "parse_math": False}
    event = str(said["event"]).replace("_", " ")
    figure.text(
        *(0.04, 0.94, f"step {row['t']}   {said['rc']:.1f}% of the route"),
        **{"color": TEXT, "fontsize": 11, "weight": "bold", **style},
    )
    figure.text(
        *(0.38, 0.94, event.upper()),
        **{"color": RULE, "fontsize": 12, "weight": "bold", "ha": "center", **style},
    )
    fast = row["v"] > said["limit"] + 0.05
    figure.text(
        *(0.64, 0.94, f"{row['v']:.1f} m/s (limit {said['limit']:.0f})"),
        **{"color": RULE if fast else TEXT, "fontsize": 11, "ha": "right", **style},
    )
    figure.text(
        *(0.96, 0.94, f"accelerates {row['acc']:+.1f} m/s²   steers {row['steer']:+.2f}"),
        **{"color": MUTED, "fontsize": 11, "ha": "right", **style},
    )
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _draw_near(axes: Axes, row: dict[str, Any], light: str) -> None:
    """The road around the ego. Left of the car is up, as positive y."""
    from matplotlib.patches import Rectangle

    s, first = float(row["s"]), float(row["s"]) - BEHIND
    axes.set(xlim=(first, first + BEHIND + BEFORE), ylim=(-SIDE, SIDE))
    axes.set_facecolor(GRASS)
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.add_patch(Rectangle((first, -EDGE), BEHIND + BEFORE, 2 * EDGE, color=ASPHALT, zorder=1))
    for edge in (-EDGE, EDGE):
        axes.plot([first, first + BEHIND + BEFORE], [edge, edge], color=PAINT, lw=2.5, zorder=2)
    dashes = np.arange(6.0 * np.floor(first / 6.0), first + BEHIND + BEFORE, 6.0)
    for lane in range(LANES - 1):
        y = CENTRES[lane] + LANE_WIDTH / 2
        axes.hlines([y] * len(dashes), dashes, dashes + 3.0, color=PAINT, lw=1.5, zorder=2)
    for metres in range(0, int(ROAD) + 1, 10):
        if first < metres < first + BEHIND + BEFORE:
            axes.text(metres, -6.7, f"{metres} m", color=MUTED, fontsize=8, ha="center")
    _draw_end(axes)
    stop = float(row["stop"])
    axes.plot([stop, stop], [-EDGE, EDGE], color=light, lw=4, solid_capstyle="butt", zorder=3)
    for y in (-6.4, 6.4):
        axes.plot([stop], [y], "o", color=light, markersize=11, markeredgecolor=GLASS, zorder=3)
    for lane, places in enumerate(np.asarray(row["traffic"])):
        for x in places[(places > first - NOSE) & (places < first + BEHIND + BEFORE + NOSE)]:
            _draw_car(axes, x, CENTRES[lane], 0.0, OTHERS)
    _draw_car(axes, s, float(row["y"]), float(row["heading"]), EGO)
    _draw_track(axes, row)


def _draw_end(axes: Axes) -> None:
    """Where the route ends: a chequered strip."""
    from matplotlib.patches import Rectangle

    side = 2 * EDGE / 12
    for i in range(12):
        for j in range(2):
            colour = GLASS if (i + j) % 2 else PAINT
            corner = (ROAD + side * j, -EDGE + side * i)
            axes.add_patch(Rectangle(corner, side, side, color=colour, lw=0, zorder=2))


def _draw_car(axes: Axes, x: float, y: float, heading: float, colour: str) -> None:
    from matplotlib.patches import FancyBboxPatch, Polygon, Rectangle
    from matplotlib.transforms import Affine2D

    turn = Affine2D().rotate(heading).translate(x, y) + axes.transData
    round_, half = 0.45, WIDTH / 2
    body = FancyBboxPatch(
        (round_ - NOSE, round_ - half),
        LENGTH - 2 * round_,
        WIDTH - 2 * round_,
        boxstyle=f"round,pad={round_}",
        facecolor=colour,
        edgecolor=GLASS,
        transform=turn,
        zorder=5,
    )
    axes.add_patch(body)
    glass: dict[str, Any] = {"color": GLASS, "lw": 0, "transform": turn, "zorder": 6}
    axes.add_patch(Polygon([(0.4, -0.62), (0.4, 0.62), (1.1, 0.78), (1.1, -0.78)], **glass))
    axes.add_patch(Rectangle((-1.75, -0.62), 0.45, 1.24, **glass))


def _draw_track(axes: Axes, row: dict[str, Any]) -> None:
    """Where the car goes within a second, if speed and steering stay as they are."""
    v, turn = float(row["v"]), float(row["yaw_rate"])
    headings = float(row["heading"]) + turn * np.linspace(0.0, 1.0, 11)
    ahead = 0.1 * v * np.stack([np.cos(headings[:-1]), np.sin(headings[:-1])], axis=1)
    way = np.cumsum(np.concatenate([[[float(row["s"]), float(row["y"])]], ahead]), axis=0)
    axes.plot(*way.T, color=EGO, lw=2.5, alpha=0.75, zorder=4)


def _draw_route(axes: Axes, row: dict[str, Any], covered: float, light: str) -> None:
    """All of the road, not to scale across."""
    from matplotlib.patches import Rectangle

    axes.set(xlim=(0, ROAD), ylim=(-0.9, 1.25))
    axes.axis("off")
    axes.add_patch(Rectangle((0, 0), ROAD, 1, color="#e3e8ec", lw=0))
    axes.add_patch(Rectangle((0, 0), covered / 100 * ROAD, 1, color="#f0cd94", lw=0))
    style: dict[str, Any] = {"fontsize": 9, "ha": "center", "va": "center"}
    for third, limit in enumerate(np.asarray(row["limits"])):
        axes.text(ROAD * (third + 0.5) / 3, -0.5, f"limit {limit:.0f} m/s", color=MUTED, **style)
        axes.plot([ROAD * third / 3] * 2, [-0.25, 0], color=MUTED, lw=1)
    for lane, places in enumerate(np.asarray(row["traffic"])):
        inside = places[(places >= 0) & (places <= ROAD)]
        level = np.full(len(inside), (lane + 0.5) / LANES)
        axes.plot(inside, level, "s", color="#7d8b9a", markersize=4, clip_on=False)
    axes.plot([float(row["stop"])] * 2, [-0.1, 1.1], color=light, lw=3)
    level = np.clip((float(row["y"]) + EDGE) / (2 * EDGE), 0.0, 1.0)
    axes.plot([float(row["s"])], [level], ">", color=EGO, markersize=9, mec=GLASS, clip_on=False)
