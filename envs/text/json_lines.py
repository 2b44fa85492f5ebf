"""Files of one JSON object per line, with errors that say where."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def read_json_lines(path: str | os.PathLike[str]) -> dict[int, Mapping[str, Any]]:
    """The objects of a file by their line, from 1; lines without text do not count.

    Args:
        path: a UTF-8 file.

    Raises:
        ValueError: there is no such file, it is empty or not UTF-8, or a line is no JSON object.
    """
    if not Path(path).is_file():
        raise ValueError(f"{path}: there is no such file")
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: the file is not UTF-8 ({error})") from error
    rows = {number: line for number, line in enumerate(lines, start=1) if line.strip()}
    if not rows:
        raise ValueError(f"{path}: the file is empty")
    return {number: _parse(line, f"{path}, line {number}") for number, line in rows.items()}


def _parse(line: str, where: str) -> Mapping[str, Any]:
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{where}: no JSON ({error})") from error
    if not isinstance(entry, Mapping):
        raise ValueError(f"{where}: must be a JSON object, got {type(entry).__name__}")
    return entry
