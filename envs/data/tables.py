"""A user's table: CSV, data frame, structured array or mapping, as columns that know their rows."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Columns:
    """Columns of equal length, and where their rows were written.

    Attributes:
        origin: file, or what the table is.
        values: name -> [N].
        places: of each row, in words.
    """

    origin: str
    values: Mapping[str, NDArray[Any]]
    places: Sequence[str]

    def __len__(self) -> int:
        return len(self.places)

    def column(self, name: str) -> NDArray[Any]:
        """A column.

        Raises:
            ValueError: there is none of this name.
        """
        if name not in self.values:
            raise ValueError(f"{self.origin}: no column {name!r}, allowed: {sorted(self.values)}")
        return self.values[name]

    def numbers(self, name: str) -> NDArray[np.float64]:
        """A column of finite numbers.

        Raises:
            ValueError: a cell is empty, no number or not finite.
        """
        cells = self.column(name)
        found = np.full(len(cells), np.nan)
        for row, cell in enumerate(cells):
            if not isinstance(cell, bool | np.bool_):
                try:
                    found[row] = float(cell)
                except (TypeError, ValueError):
                    pass
            if not np.isfinite(found[row]):
                raise ValueError(
                    f"{self.places[row]}: column {name!r} is {_shown(cell)}, allowed: finite "
                    "numbers (encode categories as numbers, or leave the column out)"
                )
        return found

    def codes(self, name: str) -> tuple[NDArray[np.int64], list[str]]:
        """A column of labels as numbers in the order of their first row, and the labels.

        Raises:
            ValueError: a cell is empty.
        """
        cells = self.column(name)
        known: dict[str, int] = {}
        found = np.zeros(len(cells), dtype=np.int64)
        for row, cell in enumerate(cells):
            if _empty(cell):
                raise ValueError(f"{self.places[row]}: column {name!r} is empty, allowed: a label")
            found[row] = known.setdefault(str(cell).strip(), len(known))
        return found, list(known)


def read_columns(data: Any) -> Columns:
    """The columns of a table.

    Args:
        data: path of a CSV file with a header, pandas data frame, structured NumPy array, or
            mapping of names to columns.

    Raises:
        ValueError: it is none of these, has no rows, or its columns differ in length.
        OSError: the file cannot be read.
    """
    if isinstance(data, str | Path):
        return _read_csv(Path(data))
    if isinstance(data, np.ndarray) and data.dtype.names:
        origin, columns = "structured array", {name: data[name] for name in data.dtype.names}
    elif isinstance(data, Mapping):
        origin, columns = "table", {str(name): np.asarray(data[name]) for name in data}
    elif hasattr(data, "columns") and hasattr(data, "iloc"):
        origin = "data frame"
        columns = {str(name): data[name].to_numpy() for name in data.columns}
    else:
        raise ValueError(
            f"data is {type(data).__name__}, allowed: the path of a .csv file, a data frame, a "
            "structured array or a mapping of columns"
        )
    shapes = {name: np.shape(column) for name, column in columns.items()}
    if len(set(shapes.values())) != 1 or len(next(iter(shapes.values()))) != 1:
        raise ValueError(f"{origin}: columns of the shapes {shapes}, allowed: [N], one N for all")
    length = next(iter(shapes.values()))[0]
    if not length:
        raise ValueError(f"{origin}: no rows, allowed: 1 or more")
    return Columns(origin, columns, [f"{origin}, row {row}" for row in range(length)])


def _read_csv(path: Path) -> Columns:
    rows: list[list[str]] = []
    places: list[str] = []
    with path.open(newline="", encoding="utf-8-sig") as stream:
        reader = csv.reader(stream)
        try:
            header = [name.strip() for name in next(reader, [])]
            for fields in reader:
                if not fields:
                    continue
                place = f"{path}, line {reader.line_num}"
                if len(fields) != len(header):
                    raise ValueError(f"{place}: {len(fields)} fields, the header has {len(header)}")
                rows.append([field.strip() for field in fields])
                places.append(place)
        except (UnicodeDecodeError, csv.Error) as error:
            raise ValueError(f"{path}: not a .csv file: {error}") from None
    if not header or "" in header or len(set(header)) < len(header):
        raise ValueError(f"{path}, line 1: the header is {header}, allowed: distinct names")
    if not rows:
        raise ValueError(f"{path}: no rows, allowed: 1 or more")
    cells = np.array(rows)
    columns = {name: cells[:, place] for place, name in enumerate(header)}
    return Columns(str(path), columns, places)


def _empty(cell: Any) -> bool:
    missing = isinstance(cell, float | np.floating) and np.isnan(cell)
    return cell is None or bool(missing) or str(cell).strip() in ("", "<NA>", "NaT")


def _shown(cell: Any) -> str:
    return "empty" if _empty(cell) else repr(cell.item() if isinstance(cell, np.generic) else cell)
