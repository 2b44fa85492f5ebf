"""Demand and calendars from files, data frames and arrays; dirty data is refused with its place."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

PERIOD = ("period", "week", "date")
DEMAND = ("demand", "sales", "quantity", "units")
SERIES = ("series", "product", "item", "sku")
KEYS = ("sales", "demand", "values")

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Recorded:
    """Values [series, weeks, K], their origin, and the place of the value [s, t, k] in words."""

    values: Floats
    origin: str
    place: Callable[[int, int, int], str]


@dataclass(frozen=True)
class Table:
    """A data frame whose rows know where they were written."""

    frame: pd.DataFrame
    origin: str
    unit: str  # "line" of a file or "row" of a frame
    first: int  # the number of the first row in that unit

    def row(self, index: int) -> str:
        return f"{self.origin}, {self.unit} {index + self.first}"

    def column(self, names: Sequence[str]) -> str | None:
        """The column that has one of the names, whatever its case.

        Raises:
            ValueError: several columns do.
        """
        found = [c for c in self.frame.columns if str(c).strip().lower() in names]
        if len(found) > 1:
            raise ValueError(f"{self.origin}: the columns {found} mean the same, allowed: one")
        return found[0] if found else None

    def numbers(self, column: Any) -> Floats:
        """A column of finite numbers.

        Raises:
            ValueError: a cell is empty, no number or not finite.
        """
        cells = self.frame[column]
        found = np.asarray(pd.to_numeric(cells, errors="coerce"), dtype=np.float64)
        bad = ~np.isfinite(found) | np.array([isinstance(cell, bool) for cell in cells])
        if bad.any():
            at = int(np.argmax(bad))
            cell = cells.iloc[at]
            given = "empty" if pd.isna(cell) or str(cell).strip() == "" else repr(cell)
            place = self.row(at)
            raise ValueError(f"{place}: column {str(column)!r} is {given}, allowed: finite numbers")
        return found


def read_demand(spec: Any) -> Recorded:
    """Demand from a path to .npz or .csv, a data frame, or an array.

    Arrays, and the array `sales`, `demand` or `values` of an .npz, are [series, stores, weeks], or
    [stores, weeks] for one series. Tables are wide (one column per store, and optionally a column
    period, week or date) or long (columns period, week or date; store; demand, sales, quantity or
    units; optionally series, product, item or sku; others are ignored). Stores and series keep the
    order of their first row; periods are equally spaced numbers or dates.

    Raises:
        ValueError: the data is not of such a form, has gaps, duplicates or cells that are no
            numbers.
        OSError: the file cannot be read.
    """
    if isinstance(spec, str | Path):
        path = Path(spec)
        if path.suffix.lower() == ".npz":
            return _from_array(_read_npz(path), str(path))
        if path.suffix.lower() == ".csv":
            return _from_table(_read_csv(path))
        raise ValueError(f"{path}: the ending is {path.suffix!r}, allowed: .npz, .csv")
    if isinstance(spec, pd.DataFrame):
        return _from_table(Table(spec, "data frame", "row", 0))
    if isinstance(spec, np.ndarray):
        return _from_array(spec, "array")
    allowed = "a demand source, a law (dict), a path, a data frame or an array"
    raise ValueError(f"demand is {spec!r}, allowed: {allowed}")


def read_calendar(calendar: Any, columns: Sequence[str] | None = None) -> Floats:
    """Features [weeks, C]: an array, or the numeric columns of a .csv or a data frame.

    Columns without any number (dates, names) are left out, unless `columns` asks for them.

    Raises:
        ValueError: a cell of a numeric column is no number, or there is no such column.
        OSError: the file cannot be read.
    """
    if isinstance(calendar, str | Path):
        table = _read_csv(Path(calendar))
    elif isinstance(calendar, pd.DataFrame):
        table = Table(calendar, "calendar", "row", 0)
    elif columns is not None:
        raise ValueError(f"calendar_columns is {columns!r}, but the calendar is an array")
    else:
        return _floats(calendar, "calendar")
    if columns is None:
        chosen = [
            name
            for name in table.frame.columns
            if pd.to_numeric(table.frame[name], errors="coerce").notna().any()
        ]
    else:
        chosen = list(columns)
    for name in chosen:
        if name not in table.frame.columns:
            allowed = ", ".join(map(str, table.frame.columns))
            raise ValueError(f"{table.origin}: no column {name!r}, allowed: {allowed}")
    if not chosen:
        raise ValueError(f"{table.origin}: no numeric column, allowed: 1 or more")
    return np.stack([table.numbers(name) for name in chosen], axis=1)


def _floats(given: Any, origin: str) -> Floats:
    try:
        return np.array(given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{origin} is no array of numbers: {error}") from None


def _read_npz(path: Path) -> NDArray[Any]:
    try:
        with np.load(path, allow_pickle=False) as file:
            found = [key for key in KEYS if key in file]
            if len(found) != 1:
                text = f"holds {sorted(file)}, allowed: one of {', '.join(KEYS)}"
                raise ValueError(f"{path}: the file {text}")
            array: NDArray[Any] = file[found[0]]
            return array
    except (zipfile.BadZipFile, EOFError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not an .npz file: {error}") from None
    except ValueError as error:
        if str(error).startswith(str(path)):
            raise
        raise ValueError(f"{path}: not an .npz file of numbers: {error}") from None


def _from_array(array: NDArray[Any], origin: str) -> Recorded:
    values = _floats(array, origin)
    if values.ndim not in (2, 3) or not values.size:
        allowed = "(series, stores, weeks) or (stores, weeks), none of them 0"
        raise ValueError(f"{origin} has shape {values.shape}, allowed: {allowed}")
    single = values.ndim == 2
    values = np.swapaxes(values[None] if single else values, 1, 2)

    def place(s: int, t: int, k: int) -> str:
        series = "" if single else f"series {s}, "
        return f"{origin}, {series}store {k}, week {t} (counted from 0)"

    return Recorded(values, origin, place)


def _read_csv(path: Path) -> Table:
    try:
        # The header is read as a row, so that a row with more cells than it is an error.
        cells = pd.read_csv(
            path,
            header=None,
            dtype=str,
            skip_blank_lines=False,
            keep_default_na=False,
            na_values=[""],
            encoding="utf-8-sig",
        )
    except pd.errors.EmptyDataError:
        raise ValueError(
            f"{path}: the file is empty, allowed: a header and 1 or more rows"
        ) from None
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a .csv file: {str(error).strip()}") from None
    names = cells.iloc[0]
    if names.isna().any() or names.duplicated().any():
        given = list(names.fillna(""))
        raise ValueError(f"{path}, line 1: the header is {given}, allowed: distinct column names")
    filled = np.flatnonzero(cells.notna().any(axis=1).to_numpy())
    # Empty lines at the end are no data; one between rows stays, and is refused as a gap.
    frame = cells.iloc[1 : filled[-1] + 1].reset_index(drop=True).set_axis(list(names), axis=1)
    table = Table(frame, str(path), "line", 2)
    for column in frame.columns:
        broken = np.array(["\n" in str(cell) for cell in frame[column]], dtype=bool)
        if broken.any():
            place = table.row(int(np.argmax(broken)))
            raise ValueError(f"{place}: column {column!r} has a cell of several lines")
    return table


def _from_table(table: Table) -> Recorded:
    if not len(table.frame):
        raise ValueError(f"{table.origin}: no rows, allowed: 1 or more")
    if table.column(["store"]) is not None:
        return _from_long(table)
    return _from_wide(table)


def _from_wide(table: Table) -> Recorded:
    period, series = table.column(PERIOD), table.column(SERIES)
    if series is not None:
        text = f"column {series!r} without a column 'store'"
        raise ValueError(f"{table.origin}: {text}, allowed: several series in a long table only")
    if period is not None:
        _check_spacing(table, period, _times(table, period), np.arange(len(table.frame)))
    columns = [column for column in table.frame.columns if column != period]
    if not columns:
        raise ValueError(f"{table.origin}: no column of a store, allowed: 1 or more")
    values = np.stack([table.numbers(column) for column in columns], axis=1)
    return Recorded(
        values[None],
        table.origin,
        lambda s, t, k: f"{table.row(t)}, column {str(columns[k])!r}",
    )


def _from_long(table: Table) -> Recorded:
    store = table.column(["store"])
    period, demand, series = (table.column(names) for names in (PERIOD, DEMAND, SERIES))
    for name, names in ((period, PERIOD), (demand, DEMAND)):
        if name is None:
            raise ValueError(f"{table.origin}: a long table needs a column {' | '.join(names)}")
    frame = table.frame
    sales = table.numbers(demand)
    k, stores = _codes(table, store)
    s, products = _codes(table, series) if series is not None else (np.zeros_like(k), ["all"])
    times, t = np.unique(_times(table, period), return_inverse=True)
    first_rows = np.full(len(times), len(frame))
    np.minimum.at(first_rows, t, np.arange(len(frame)))
    _check_spacing(table, period, times, first_rows)

    def what(s: int, t: int, k: int) -> str:
        given = frame[period].iloc[first_rows[t]]
        product = "" if series is None else f"{series} {products[s]!r}, "
        return f"{product}store {stores[k]!r}, {period} {str(given)!r}"

    rows = np.full((len(products), len(times), len(stores)), -1)
    cells = pd.MultiIndex.from_arrays([s, t, k])
    twice = cells.duplicated()
    if twice.any():
        at = int(np.argmax(twice))
        earlier = int(np.flatnonzero((s == s[at]) & (t == t[at]) & (k == k[at]))[0])
        text = f"{what(s[at], t[at], k[at])} was given in {table.unit} {earlier + table.first}"
        raise ValueError(f"{table.row(at)}: {text} already")
    rows[s, t, k] = np.arange(len(frame))
    if (rows < 0).any():
        at_s, at_t, at_k = np.argwhere(rows < 0)[0].tolist()
        present = np.flatnonzero(rows[at_s, :, at_k] >= 0)
        text = f"{(rows < 0).sum()} rows are missing, the first is {what(at_s, at_t, at_k)}"
        if not len(present):
            raise ValueError(f"{table.origin}: {text}, which has no row at all")
        near = present[present < at_t][-1] if present[0] < at_t else present[0]
        side = "after" if near < at_t else "before"
        raise ValueError(f"{table.row(int(rows[at_s, near, at_k]))}: {text}, {side} this row")
    return Recorded(sales[rows], table.origin, lambda s, t, k: table.row(int(rows[s, t, k])))


def _codes(table: Table, column: Any) -> tuple[NDArray[Any], list[Any]]:
    """The labels of a column as numbers in the order of their first row, and the labels."""
    codes, labels = pd.factorize(table.frame[column])
    if (codes < 0).any():
        place = table.row(int(np.argmax(codes < 0)))
        raise ValueError(f"{place}: column {str(column)!r} is empty, allowed: a name")
    return codes, list(labels)


def _times(table: Table, column: Any) -> Floats:
    """Periods as numbers; dates count in days."""
    cells = table.frame[column]
    is_date = pd.api.types.is_datetime64_any_dtype(cells)
    if not is_date and pd.to_numeric(cells, errors="coerce").notna().any():
        return table.numbers(column)
    dates = cells if is_date else pd.to_datetime(cells, errors="coerce", format="ISO8601")
    if dates.isna().any():
        at = int(np.argmax(dates.isna().to_numpy()))
        given = "empty" if pd.isna(cells.iloc[at]) else repr(cells.iloc[at])
        place = table.row(at)
        allowed = "numbers or dates (2013-01-31)"
        raise ValueError(f"{place}: column {str(column)!r} is {given}, allowed: {allowed}")
    stamps = pd.DatetimeIndex(dates)
    return np.asarray((stamps - stamps[0]) / pd.Timedelta(days=1), dtype=np.float64)


def _check_spacing(table: Table, column: Any, times: Floats, rows: NDArray[Any]) -> None:
    """Refuse periods that do not go up in equal steps; `rows` says where each was first written."""
    steps = np.diff(times)
    if not len(steps):
        return
    forward = steps[steps > 0] if (steps > 0).any() else np.ones(1)
    sizes, counts = np.unique(np.round(forward, 6), return_counts=True)
    usual = sizes[np.argmax(counts)]  # of equally common ones the smallest
    bad = (steps <= 0) | ~np.isclose(steps, usual, rtol=1e-6)
    if bad.any():
        at = int(np.argmax(bad)) + 1
        here, before = (table.frame[column].iloc[int(rows[i])] for i in (at, at - 1))
        step = f"most steps are {usual:g}, this one is {steps[at - 1]:g}"
        text = f"{column} {str(here)!r} follows {str(before)!r}: {step}"
        allowed = "equally spaced periods (number them 1, 2, ... where the calendar is uneven)"
        raise ValueError(f"{table.row(int(rows[at]))}: {text}, allowed: {allowed}")
