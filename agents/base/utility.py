"""Utilities f, whose expected value is optimised in place of the mean."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ...envs.checks import check_number
from ...envs.tabular.planning.laws import Floats, Score, expected_utility


class Utility(NamedTuple):
    """f(x) = above x^power for x > 0, below |x|^power for x < 0, and f(0) = 0.

    These are all functions with f(gamma x) = gamma^power f(x) for every gamma > 0: those that rank
    laws alike when they are multiplied by gamma, as a discounted greedy step must.

    Attributes:
        above, below: f(1) and f(-1).
        power: > 0.
    """

    above: float
    below: float
    power: float = 1.0

    def __call__(self, x: Any) -> Any:
        """f of an array or tensor, entry by entry."""
        return self.above * x.clip(0) ** self.power + self.below * (-x).clip(0) ** self.power


IDENTITY = Utility(1.0, -1.0)
SHORTFALL = Utility(0.0, -1.0)  # min(x, 0), for the conditional value at risk
SURPLUS = Utility(1.0, 0.0)
CLOSENESS = Utility(-1.0, -1.0)  # -|x|, for a set point: start from minus the set point
SQUARED_CLOSENESS = Utility(-1.0, -1.0, 2.0)


def expected(utility: Utility | Callable[[Floats], Floats]) -> Score:
    """E f(X), from laws [..., K] to numbers [...]."""
    function: Any = utility  # mypy does not call tuples
    return partial(expected_utility, utility=function)


def check_utility(utility: Any) -> Utility:
    """A `Utility` of (above, below) or (above, below, power).

    Raises:
        ValueError: these are no finite numbers, or the power is not positive.
    """
    if np.ndim(utility) != 1 or len(utility) not in (2, 3):
        raise ValueError(f"utility={utility!r} must be (above, below) or (above, below, power)")
    numbers = (check_number("utility", number) for number in utility)
    found = Utility(*numbers)
    if found.power <= 0:
        raise ValueError(f"utility: power={found.power} must be above 0")
    return found
