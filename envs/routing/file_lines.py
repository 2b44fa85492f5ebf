"""The lines of TSPLIB and CVRPLIB files, sorted and numbered: an error can then name its line."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import numpy as np

# Numbers in each line of a section; None: numbers run on over the lines.
SECTIONS = {
    "NODE_COORD_SECTION": 3,
    "DISPLAY_DATA_SECTION": 3,
    "DEMAND_SECTION": 2,
    "DEPOT_SECTION": None,
    "EDGE_WEIGHT_SECTION": None,
    "FIXED_EDGES_SECTION": None,
}


@dataclass
class Lines:
    """A file, sorted into specifications and sections.

    Attributes:
        path: of the file.
        specifications: name -> (line number, text).
        sections: name -> rows (line number, words).
        headings: name -> line number of a section's heading.
        end: number of the last line.
        comments: texts of all COMMENT lines.
    """

    path: Path
    specifications: dict[str, tuple[int, str]] = field(default_factory=dict)
    sections: dict[str, list[tuple[int, list[str]]]] = field(default_factory=dict)
    headings: dict[str, int] = field(default_factory=dict)
    end: int = 1
    comments: list[str] = field(default_factory=list)

    def fail(self, line: int, reason: str) -> NoReturn:
        """Raise the ValueError of one line."""
        raise ValueError(f"{self.path}, line {line}: {reason}")

    def specification(self, name: str) -> tuple[int, str]:
        """Line and text of a specification that must be there."""
        if name not in self.specifications:
            self.fail(self.end, f"the file ends without {name}")
        return self.specifications[name]

    def number(self, line: int, word: str) -> float:
        """A finite number."""
        try:
            number = float(word)
        except ValueError:
            self.fail(line, f"{word!r} is not a number")
        if not np.isfinite(number):
            self.fail(line, f"{word!r} is not a finite number")
        return number

    def integer(self, line: int, word: str, name: str, least: int) -> int:
        """An integer from `least` on."""
        number = self.number(line, word)
        if number != int(number) or number < least:
            self.fail(line, f"{name} is {word}, it must be an integer of at least {least}")
        return int(number)

    def section(self, name: str) -> list[tuple[int, list[str]]]:
        """Rows of a section that must be there."""
        if name not in self.sections:
            self.fail(self.end, f"the file ends without {name}")
        return self.sections[name]

    def after(self, name: str) -> int:
        """The last line of a section, where something is missing."""
        rows = self.sections[name]
        return rows[-1][0] if rows else self.headings[name]


def scan(path: str | Path) -> Lines:
    """Sort the lines of a file.

    Raises:
        ValueError: a line is neither specification, heading nor part of a section, or something is
            there twice.
        FileNotFoundError: there is no such file.
    """
    found = Lines(Path(path))
    section: str | None = None
    try:
        text = found.path.read_text(encoding="utf-8", errors="strict")
    except UnicodeDecodeError as error:
        before = found.path.read_bytes()[: error.start]
        found.fail(before.count(b"\n") + 1, "this is not text")
    for number, raw in enumerate(text.splitlines(), start=1):
        found.end = number
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        if line == "EOF":
            break
        name = line.rstrip(" :")
        if name.endswith("_SECTION"):
            if name not in SECTIONS:
                found.fail(number, f"unknown section {name}, known are {', '.join(SECTIONS)}")
            if name in found.sections:
                found.fail(number, f"{name} is there twice, first in line {found.headings[name]}")
            section = name
            found.sections[name], found.headings[name] = [], number
        elif re.match(r"[A-Za-z_]+\s*:", line):
            _specify(found, number, line)
            section = None
        elif section is not None:
            found.sections[section].append((number, line.split()))
        else:
            found.fail(number, f"{line[:40]!r} is neither KEYWORD : value nor a section")
    return found


def _specify(found: Lines, number: int, line: str) -> None:
    name, value = (part.strip() for part in line.split(":", 1))
    if name == "COMMENT":
        found.comments.append(value.strip('"'))
    elif name in found.specifications:
        first = found.specifications[name][0]
        found.fail(number, f"{name} is there twice, first in line {first}")
    else:
        found.specifications[name] = (number, value)
