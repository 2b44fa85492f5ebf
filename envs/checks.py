"""Checks of arguments: each returns what it was given, or says what is allowed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np


def check_integer(name: str, value: Any, low: int, high: int | None = None) -> int:
    """Return `value` as an int.

    Raises:
        ValueError: it is no integer in [low, high]; without `high`, of at least `low`.
    """
    allowed = f"of at least {low}" if high is None else f"from {low} to {high}"
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise ValueError(f"{name}={value!r} must be an integer {allowed}")
    if value < low or (high is not None and value > high):
        raise ValueError(f"{name}={value} must be an integer {allowed}")
    return int(value)


def check_number(name: str, value: Any, low: float = -np.inf, high: float = np.inf) -> float:
    """Return `value` as a float.

    Raises:
        ValueError: it is no finite number in [low, high].
    """
    allowed = "a finite number"
    if high < np.inf:
        allowed = f"a number from {low:g} to {high:g}"
    elif low > -np.inf:
        allowed += f" of at least {low:g}"
    number = isinstance(value, int | float | np.integer | np.floating)
    if isinstance(value, bool) or not number or not (low <= value <= high and np.isfinite(value)):
        raise ValueError(f"{name}={value!r} must be {allowed}")
    return float(value)


def check_share(name: str, value: Any, high: float = 1.0) -> float:
    """Return `value` as a float.

    Raises:
        ValueError: it is no number in [0, high].
    """
    return check_number(name, value, 0.0, high)


def check_choice(name: str, value: Any, allowed: Iterable[str]) -> str:
    """Return `value`.

    Raises:
        ValueError: it is none of the allowed strings.
    """
    choices = tuple(allowed)
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name}={value!r}, allowed are {choices}")
    return value


def check_flag(name: str, value: Any) -> bool:
    """Return `value`.

    Raises:
        ValueError: it is neither True nor False.
    """
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{name}={value!r} must be True or False")
    return bool(value)
