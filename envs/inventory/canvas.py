"""What pictures of supply networks are made of: text, boxes and arrows, in pixels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DPI = 100
POINTS = 72 / DPI  # points per pixel
CURVE = [1, 4, 4, 4]  # a cubic Bezier in matplotlib's path codes


@dataclass(frozen=True)
class Theme:
    """Colours of a picture, in any form that matplotlib reads."""

    background: str = "#ffffff"
    card: str = "#f6f8fa"
    border: str = "#c9d1d9"
    text: str = "#1f2933"
    muted: str = "#6b7785"
    idle: str = "#d5dbe1"
    stock: str = "#1f6f8b"
    arriving: str = "#9cc9d8"
    backlog: str = "#d1352b"
    order: str = "#5b8def"
    demand: str = "#e39b26"


LIGHT = Theme()
DARK = Theme(
    background="#12171d",
    card="#1c242d",
    border="#3a4653",
    text="#e6ebf0",
    muted="#94a1ae",
    idle="#323c47",
    stock="#5fc0de",
    arriving="#2f6377",
    backlog="#ff6b5e",
    order="#6f9cf5",
    demand="#f0b250",
)


@dataclass(frozen=True)
class Canvas:
    """Axes whose units are pixels, the y axis pointing down, with the primitives of a picture."""

    axes: Axes
    theme: Theme
    width: int
    height: int

    def write(self, x: float, y: float, text: str, size: float, room: float, **style: Any) -> None:
        """Text of `size` pixels, cut to `room` pixels; names are never read as formulas."""
        style = {"color": self.theme.text, "va": "center", "ha": "left", "zorder": 5, **style}
        text = shortened(text, size, room, bold=style.get("weight") == "bold")
        self.axes.text(x, y, text, fontsize=size * POINTS, parse_math=False, **style)

    def rectangles(self, boxes: Any, colour: str, edge: str = "none", zorder: float = 4) -> None:
        """Boxes (x, y, width, height) in one colour."""
        from matplotlib.collections import PolyCollection

        x, y, wide, high = np.reshape(np.asarray(boxes, dtype=np.float64), (-1, 4)).T
        corners = [(x, y), (x + wide, y), (x + wide, y + high), (x, y + high)]
        polygons = np.stack([np.stack(corner, axis=1) for corner in corners], axis=1)
        collection = PolyCollection(
            list(polygons),
            facecolors=colour,
            edgecolors=edge,
            linewidths=0.8 * POINTS,
            zorder=zorder,
        )
        self.axes.add_collection(collection, autolim=False)

    def arrows(
        self,
        starts: NDArray[np.float64],
        ends: NDArray[np.float64],
        units: NDArray[np.float64],
        most: float,
        colour: str,
        scale: float = 1.0,
        alpha: float = 0.85,
    ) -> None:
        """A curved arrow for each pair of points [A, 2]; idle ones in grey, below the others.

        Args:
            starts, ends: the points.
            units: [A], what flows; the width grows with its square root.
            most: units at which an arrow has its full width.
            colour: of the arrows on which something flows.
            scale: factor on the widths and heads.
            alpha: opacity.
        """
        from matplotlib.collections import PathCollection, PolyCollection
        from matplotlib.path import Path

        busy = units > 0
        widths = 0.9 + busy * (6.0 * scale - 0.9) * np.sqrt(units.clip(0) / (most or 1.0))
        head = (3.5 + 1.1 * widths) * scale
        flat = np.zeros(len(units))
        tails = ends - np.column_stack([head, flat])
        bend = np.column_stack([0.5 * (tails[:, 0] - starts[:, 0]), flat])
        knots = np.stack([starts, starts + bend, tails - bend, tails], axis=1)
        wing = np.column_stack([flat, 0.55 * head])
        heads = np.stack([ends, tails - wing, tails + wing], axis=1)
        for rows, shade, zorder in ((~busy, self.theme.idle, 1), (busy, colour, 2)):
            style: dict[str, Any] = {"alpha": alpha, "zorder": zorder}
            paths = [Path(points, CURVE) for points in knots[rows]]
            lines = PathCollection(
                paths,
                linewidths=widths[rows] * POINTS,
                edgecolors=shade,
                facecolors="none",
                **style,
            )
            tips = PolyCollection(list(heads[rows]), facecolors=shade, edgecolors="none", **style)
            self.axes.add_collection(lines, autolim=False)
            self.axes.add_collection(tips, autolim=False)


def kinds_of(kinds: Sequence[str]) -> str:
    """Say what a layer consists of: "warehouse", "21 stores" or "2 echelons, 1 warehouse"."""
    if len(kinds) == 1:
        return kinds[0]
    return ", ".join(f"{n} {kind}{'s' * (n > 1)}" for kind, n in Counter(kinds).items())


def short(units: float) -> str:
    """A number in at most five characters: 0, 3.4, 120, 1.2k, −35, 4e12."""
    size, sign = abs(float(units)), "−" if units < 0 else ""
    for limit, divisor, suffix in ((999.5, 1, ""), (999.5e3, 1e3, "k"), (999.5e6, 1e6, "M")):
        if size < limit:
            scaled = size / divisor
            text = f"{scaled:.1f}" if scaled < 9.95 else f"{scaled:.0f}"
            text = text.removesuffix(".0")
            return text if text == "0" else f"{sign}{text}{suffix}"
    return f"{sign}{size:.0e}".replace("e+0", "e").replace("e+", "e")


def round_up(units: float) -> float:
    """The next number of 1, 1.5, 2, 3, 4, 6, 8 and their tenfolds: a scale that changes rarely."""
    if not units > 0:
        return 1.0
    power = 10.0 ** np.floor(np.log10(units))
    steps = (1, 1.5, 2, 3, 4, 6, 8, 10)
    return float(next(step * power for step in steps if step * power >= units * (1 - 1e-9)))


@lru_cache(maxsize=4096)
def text_width(text: str, size: float, bold: bool = False) -> float:
    """Width in pixels of a text whose size is given in pixels."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(weight="bold" if bold else "normal", size=size)
    return float(text_to_path.get_text_width_height_descent(text, font, ismath=False)[0])


def shortened(text: str, size: float, room: float, bold: bool = False) -> str:
    """The text on one line, cut with an ellipsis where it is wider than `room` pixels."""
    text = " ".join(text.split())
    if text_width(text, size, bold) <= room:
        return text
    while text and text_width(text + "…", size, bold) > room:
        text = text[:-1]
    return text.rstrip() + "…"


def first_that_fits(texts: Sequence[str], size: float, room: float) -> str:
    """The first text that is at most `room` pixels wide, else the last one, cut."""
    fitting = (text for text in texts if text_width(text, size) <= room)
    return next(fitting, shortened(texts[-1], size, room))
