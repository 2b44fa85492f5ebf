"""Matplotlib figures as inline SVG whose colours are CSS variables, so that one picture serves
light and dark pages.

Matplotlib draws with stand-in colours; `to_svg` replaces each by `var(--name, fallback)`. The page
sets the variables (`stylesheet`); without a page the fallback, which suits a light ground, is used.
"""

from __future__ import annotations

import dataclasses
import html
import io
import re
from typing import TYPE_CHECKING

from ..envs.inventory.canvas import DARK, LIGHT, Theme

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# name -> (on a light ground, on a dark ground). The series are Okabe and Ito's colours, which
# colour-blind readers can tell apart, darkened or lightened to a contrast of 3:1 with the ground.
COLOURS: dict[str, tuple[str, str]] = {
    "ink": ("#1f2933", "#e6ebf0"),
    "muted": ("#5b6773", "#9aa7b4"),
    "grid": ("#dfe4e9", "#2c3641"),
    "plain": ("#aab4be", "#5d6976"),
    "series-0": ("#0072b2", "#56b4e9"),
    "series-1": ("#c65102", "#ff9152"),
    "series-2": ("#00815e", "#3ed0a3"),
    "series-3": ("#a8478a", "#e79bc8"),
    "series-4": ("#9a6a00", "#f0c040"),
    "series-5": ("#3f4fb8", "#a3aeff"),
    "series-6": ("#7a4a2b", "#d3a586"),
    "series-7": ("#5f6b76", "#b4bfca"),
} | {
    f"network-{field.name}": (getattr(LIGHT, field.name), getattr(DARK, field.name))
    for field in dataclasses.fields(Theme)
}
SERIES = 8
_STAND_INS = {name: f"#0a0b{number:02x}" for number, name in enumerate(COLOURS)}


def colour(name: str) -> str:
    """The stand-in colour for the CSS variable `--name`, to draw with."""
    return _STAND_INS[name]


def series(number: int) -> str:
    """Stand-in colour of the number-th line of a plot; they repeat after `SERIES`."""
    return colour(f"series-{number % SERIES}")


def network_theme() -> Theme:
    """A theme for pictures of supply networks, in stand-in colours."""
    fields = (field.name for field in dataclasses.fields(Theme))
    return Theme(**{name: colour(f"network-{name}") for name in fields})


def stylesheet() -> str:
    """CSS that sets every variable, for light pages and for dark ones."""
    light, dark = (
        "".join(f"--{name}:{pair[side]};" for name, pair in COLOURS.items()) for side in (0, 1)
    )
    return f":root{{{light}}}\n@media (prefers-color-scheme:dark){{:root{{{dark}}}}}"


def to_svg(figure: Figure, name: str, description: str) -> str:
    """The figure as an `<svg>` element that fills the width it is given.

    The same figure gives the same text. Text stays text, in the font of the page.

    Args:
        figure: drawn with stand-in colours at 72 dots per inch, so that its units are pixels.
        name: letters, digits and hyphens; begins every id, so that plots of one page do not clash.
        description: what the picture shows, for readers who do not see it.
    """
    import matplotlib

    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9-]*", name):
        raise ValueError(f"name={name!r}, allowed: a letter, then letters, digits and hyphens")
    file = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        figure.savefig(file, format="svg", metadata=nothing, transparent=True)
    text = file.getvalue()
    text = text[text.index("<svg") :]
    head, body = text.split(">", 1)
    view = re.search(r'viewBox="([^"]+)"', head)
    assert view is not None  # every SVG of matplotlib has one
    label = html.escape(description, quote=True)
    opening = f'<svg class="plot" viewBox="{view[1]}" role="img" aria-label="{label}">'
    body = re.sub(r"<style.*?</style>", "", body, flags=re.DOTALL)  # it would hold for the page
    # Only inside tags: names that people chose stay as they are.
    return opening + re.sub(r"<[^>]*>", lambda tag: _restyled(tag[0], name), body).strip()


def _restyled(tag: str, name: str) -> str:
    tag = re.sub(r'(\bid="|url\(#|xlink:href="#)', rf"\g<1>{name}-", tag)
    tag = re.sub(r"font-family:[^;\"]*;? ?", "", tag)
    tag = re.sub(r"-?\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}", tag)
    for variable, stand_in in _STAND_INS.items():
        tag = tag.replace(stand_in, f"var(--{variable}, {COLOURS[variable][0]})")
    return tag
