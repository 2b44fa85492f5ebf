"""Recorded demand with its train, validation and test weeks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .demand_laws import DemandSource, Floats, check_quantile
from .parameters import count

Split = str | tuple[int, int] | None


class Trace(DemandSource):
    """Recorded demand: every episode replays consecutive weeks of one series.

    The T weeks are split by time in the proportions of the Favorita benchmark (arXiv 2306.11246),
    where T = 171: train [0, 111), validation [88, 141), test [118, 171). Validation and test weeks
    reach back into earlier ones by what an episode uses as history and warm-up. `mean`, `std` and
    `peak` come from the train weeks, whatever `split` is.

    Args:
        values: float [series, weeks, K], finite.
        split: "train", "validation", "test", a window (start, stop) of weeks, or None for all
            weeks.
        on_negative: what to do with values below 0: None raises, "clip" sets them to 0 and counts
            them.
        calendar: float [weeks or more, C], features of each week that are known in advance; row 0
            belongs to the first week of demand, rows beyond the last week are not used.
        origin: where the values come from, for messages.
        place: describes where the value [series, week, store] was read, for messages.

    Attributes:
        values, split: as above.
        calendar: float [weeks, C], or None.
        clipped: how many values were set to 0.
        values_total: how many values there are.
    """

    def __init__(
        self,
        values: ArrayLike,
        split: Split = "train",
        *,
        on_negative: str | None = None,
        calendar: ArrayLike | None = None,
        origin: str = "demand",
        place: Any = None,
    ) -> None:
        check_on_negative(on_negative)
        found = np.array(values, dtype=np.float64)
        if found.ndim != 3 or not found.size:
            allowed = "(series, weeks, stores), none of them 0"
            raise ValueError(f"{origin} has shape {found.shape}, allowed: {allowed}")
        place = place or (lambda s, t, k: f"{origin}, series {s}, store {k}, week {t} (from 0)")
        missing = ~np.isfinite(found)
        if missing.any():
            first = place(*np.argwhere(missing)[0].tolist())
            raise ValueError(f"{first}: {missing.sum()} values are not finite, this is the first")
        negative = found < 0
        self.clipped, self.values_total = int(negative.sum()), found.size
        if self.clipped and on_negative is None:
            first = place(*np.argwhere(negative)[0].tolist())
            raise ValueError(
                f"{first}: {self.clipped} of {found.size} values are negative, this is the first, "
                f'the lowest is {found.min():g}; on_negative="clip" sets them to 0'
            )
        self.values = np.maximum(found, 0.0)
        self.values.setflags(write=False)
        self.origin = origin
        self.series, self.weeks = found.shape[:2]
        self.calendar = self.check_calendar(calendar)
        self.split = split
        self.window(split)
        start, stop = self.window("train")
        train = self.values[:, start:stop]
        self.mean, self.std = train.mean(axis=(0, 1)), train.std(axis=(0, 1))
        self.peak = train.mean(axis=1).max(axis=0)

    def check_calendar(self, calendar: ArrayLike | None) -> Floats | None:
        """The rows of a calendar for the weeks of demand, or a ValueError."""
        if calendar is None:
            return None
        found = np.array(calendar, dtype=np.float64)
        if found.ndim != 2 or len(found) < self.weeks or not found.shape[1]:
            allowed = f"({self.weeks} or more, 1 or more), a row for every week of demand"
            raise ValueError(f"calendar has shape {found.shape}, allowed: {allowed}")
        if not np.isfinite(found).all():
            row, column = np.argwhere(~np.isfinite(found))[0].tolist()
            raise ValueError(f"calendar, row {row}, column {column}: not a finite number")
        found = found[: self.weeks]
        found.setflags(write=False)
        return found

    def window(self, split: Split) -> tuple[int, int]:
        """First week of a split, and the one after its last.

        Raises:
            ValueError: the name is unknown, or the window is not inside the trace.
        """
        weeks = self.weeks
        named = {"train": (0, 111), "validation": (88, 141), "test": (118, 171)}
        if split is None:
            return 0, weeks
        if isinstance(split, str) and split in named:
            start, stop = named[split]
            return round(weeks * start / 171), round(weeks * stop / 171)
        if not isinstance(split, str) and len(split) == 2:
            start, stop = split
            if (
                all(isinstance(end, int | np.integer) for end in split)
                and 0 <= start < stop <= weeks
            ):
                return int(start), int(stop)
        allowed = (
            f"train, validation, test, None or (start, stop) with 0 <= start < stop <= {weeks}"
        )
        raise ValueError(f"split is {split!r}, allowed: {allowed}")

    def at(self, split: Split) -> Trace:
        """The same trace, drawing from another split; the data is shared."""
        other: Trace = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other.window(split)
        other.split = split
        return other

    def draw(
        self, rng: np.random.Generator, length: int, series: int | None = None
    ) -> tuple[Floats, int]:
        start, stop = self.window(self.split)
        if count("length", length) > stop - start:
            raise ValueError(
                f"{self.origin}: an episode needs {length} weeks, split {self.split!r} has "
                f"{stop - start} of the T = {self.weeks} weeks; split=None uses all"
            )
        drawn = int(rng.integers(self.series))
        if series is not None:
            if not 0 <= series < self.series:
                raise ValueError(f"series is {series!r}, allowed: 0 to {self.series - 1}")
            drawn = int(series)
        first = start + int(rng.integers(stop - start - length + 1))
        return self.values[drawn, first : first + length].copy(), first

    def quantile(self, level: float, periods: int) -> Floats:
        """As `DemandSource.quantile`, over all stretches of `periods` train weeks of all series."""
        check_quantile(level, periods)
        start, stop = self.window("train")
        if periods > stop - start:
            given = f"periods is {periods}"
            raise ValueError(f"{given}, allowed: at most the {stop - start} train weeks")
        train = self.values[:, start:stop]
        sums = np.lib.stride_tricks.sliding_window_view(train, periods, axis=1).sum(axis=-1)
        ordered = np.sort(sums.reshape(-1, self.stores), axis=0)
        rank = math.ceil(level * len(ordered) - 1e-9) - 1
        return ordered[max(rank, 0)]


def check_on_negative(given: str | None) -> None:
    """Refuse what is neither None nor "clip"."""
    if given not in (None, "clip"):
        raise ValueError(f'on_negative is {given!r}, allowed: None | "clip"')
