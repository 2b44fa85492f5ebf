"""From templates to a page: one file, no scripts, nothing loaded from elsewhere."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup

from .plots import NARROW, WIDE
from .svg import stylesheet

PAGE = "report.html"


class Drawn(NamedTuple):
    """A plot as SVG, laid out for wide and for narrow screens."""

    wide: Markup
    narrow: Markup


def drawn(plot: Callable[..., str], *given: Any, name: str, **options: Any) -> Drawn:
    """Draw with one of the functions of `plots.py`, in both widths."""
    return Drawn(
        Markup(plot(*given, name=name, width=WIDE, **options)),
        Markup(plot(*given, name=f"{name}-narrow", width=NARROW, **options)),
    )


def write(out: Path, template: str, **values: Any) -> Path:
    """Fill the template and write it to out/report.html; returns the file."""
    folder = Path(__file__).with_name("templates")
    engine = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    engine.filters |= {
        "capitalize_first": lambda text: text[:1].upper() + text[1:],
        "duration": duration,
        "fixed": fixed,
        "shown": shown,
        "significant": significant,
        "signed": lambda value, decimals: fixed(value, decimals, "+"),
    }
    text = engine.get_template(template).render(stylesheet=Markup(stylesheet()), **values)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    path = out / PAGE
    unfinished = out / f".{PAGE}.{os.getpid()}"
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, path)
    return path


def duration(seconds: float) -> str:
    """A time in the two units that matter: 0.04 s, 12 s, 3 min 5 s, 2 h 10 min."""
    whole = round(seconds)
    if seconds < 0.01:
        parts = ["< 0.01 s"]
    elif seconds < 9.95:
        parts = [f"{seconds:.2g} s"]
    elif whole < 60:
        parts = [f"{whole} s"]
    elif whole < 3600:
        parts = [f"{whole // 60} min", f"{whole % 60} s"]
    else:
        parts = [f"{whole // 3600} h", f"{whole % 3600 // 60} min"]
    # A number and its unit stay on one line.
    return " ".join(part.replace(" ", "\u00a0") for part in parts)


def fixed(value: float, decimals: int, sign: str = "-") -> str:
    """A number with that many decimals, grouped by thousands, with a true minus sign."""
    text = f"{value:{sign},.{decimals}f}"
    if float(text.replace(",", "")) == 0:
        text = text.lstrip("+-")  # neither +0.00 nor -0.00
    return text.replace("-", "−")


def significant(value: float) -> str:
    """A number with four significant digits, with a true minus sign."""
    return f"{value:.4g}".replace("-", "−")


def decimals_for(values: Sequence[float]) -> int:
    """Decimals that show the number nearest to zero with four digits: from none to six."""
    sizes = [abs(value) for value in values if value]
    decimals = 3
    smallest = min(sizes, default=1.0)
    while smallest >= 10 and decimals:
        smallest, decimals = smallest / 10, decimals - 1
    while smallest < 1 and decimals < 6:
        smallest, decimals = smallest * 10, decimals + 1
    return decimals


def shown(value: Any) -> str:
    """A setting as text; what is empty or missing is said so."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {shown(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(shown, value)) or "none"
    if value is None:
        return "none"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
