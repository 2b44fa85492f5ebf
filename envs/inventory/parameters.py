"""Parameters given as a number, one number per location, or a range to draw from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Parameter = float | Sequence[float] | tuple[str, float, float] | NDArray[Any]


def uniforms(rng: np.random.Generator | None, *shape: int) -> NDArray[np.float64]:
    """Uniform numbers on [0, 1); NaN without a generator, so that a range can tell and refuse."""
    return np.full(shape, np.nan) if rng is None else rng.random(shape)


def is_range(given: Any) -> bool:
    """Whether a parameter is ("uniform", low, high), as a tuple or a list."""
    return isinstance(given, list | tuple) and len(given) == 3 and given[0] == "uniform"


def numbers(name: str, given: Any, draws: NDArray[np.float64]) -> NDArray[Any]:
    """A parameter's values [n], where a range is spread by the n uniform `draws`.

    Raises:
        ValueError: not a number, n numbers or a range with low <= high; or a range and no
            generator.
    """
    if is_range(given):
        low, high = _range(name, given, draws)
        return low + (high - low) * draws
    try:
        found = np.asarray(given)
    except ValueError:  # lists of unequal lengths
        found = np.asarray(None)
    if found.dtype.kind not in "iuf" or found.shape not in ((), (1,), draws.shape):
        allowed = f"a number, {len(draws)} numbers or ('uniform', low, high)"
        raise ValueError(f"{name} is {given!r}, allowed: {allowed}")
    return np.broadcast_to(found, draws.shape)


def integers(name: str, given: Any, draws: NDArray[np.float64]) -> NDArray[Any]:
    """As `numbers`, but a range holds the integers from low to high, both included."""
    if not is_range(given):
        return numbers(name, given, draws)
    low, high = _range(name, given, draws)
    if not (low.is_integer() and high.is_integer()):
        raise ValueError(f"{name} is {given!r}, allowed: a range with integer ends")
    return np.int64(low) + np.floor(draws * (high - low + 1)).astype(np.int64)


def count(name: str, given: Any) -> int:
    """An integer that is at least 1, or a ValueError."""
    if isinstance(given, bool) or not isinstance(given, int | np.integer) or given < 1:
        raise ValueError(f"{name} is {given!r}, allowed: an integer >= 1")
    return int(given)


def _range(name: str, given: Any, draws: NDArray[np.float64]) -> tuple[float, float]:
    try:
        low, high = float(given[1]), float(given[2])
    except (TypeError, ValueError):
        low, high = np.nan, np.nan
    if not -np.inf < low <= high < np.inf:
        raise ValueError(f"{name} is {given!r}, allowed: ('uniform', low, high), low <= high")
    if np.isnan(draws).any():
        raise ValueError(f"{name} is {given!r}: drawing from a range needs rng, given: None")
    return low, high
