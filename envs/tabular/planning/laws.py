"""Laws with finite support: what is asked of them, and the utilities f of E f(X).

A law is a table of values and probabilities [..., K]; entries of probability 0 are padding. Leading
axes are whatever the laws belong to: states, actions, policies.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Score = Callable[["Law"], Floats]  # from laws [..., K] to numbers [...]
ROUNDING = 1e-12  # by which cumulated probabilities may miss a level


class Law(NamedTuple):
    """Distributions with finite support.

    Attributes:
        values: outcomes [..., K]; finite, also where the probability is 0.
        probabilities: their probabilities [..., K], with sum 1.
    """

    values: Floats
    probabilities: Floats


def shift(law: Law, amount: ArrayLike) -> Law:
    """Laws of X + amount, amount broadcastable to [...]."""
    return Law(law.values + np.asarray(amount)[..., None], law.probabilities)


def mean(law: Law) -> Floats:
    """Expectations [...]."""
    return (law.values * law.probabilities).sum(axis=-1)


def quantile(law: Law, levels: ArrayLike) -> Floats:
    """The least value that X stays at or below with probability >= level.

    Args:
        law: laws [..., K].
        levels: levels in (0, 1] [M].

    Returns:
        Quantiles [..., M].
    """
    wanted = np.atleast_1d(np.asarray(levels, dtype=np.float64))
    if not ((wanted > 0) & (wanted <= 1)).all():
        raise ValueError(f"levels={levels!r} must lie in (0, 1]")
    order = np.argsort(np.where(law.probabilities > 0, law.values, np.inf), axis=-1)
    values = np.take_along_axis(law.values, order, axis=-1)
    chances = np.take_along_axis(law.probabilities, order, axis=-1)
    reached = np.cumsum(chances, axis=-1)
    last = (chances > 0).sum(axis=-1, keepdims=True) - 1  # where rounding leaves 1 unreached
    short = reached[..., None, :] < wanted[:, None] - ROUNDING
    return np.take_along_axis(values, np.minimum(short.sum(axis=-1), last), axis=-1)


def cvar(law: Law, level: float) -> Floats:
    """Conditional value at risk [...]: the mean of the worst `level` of the outcomes.

    Raises:
        ValueError: `level` is outside (0, 1].
    """
    if not 0 < level <= 1:
        raise ValueError(f"level={level} is outside (0, 1]")
    order = np.argsort(law.values, axis=-1, kind="stable")
    values = np.take_along_axis(law.values, order, axis=-1)
    chances = np.take_along_axis(law.probabilities, order, axis=-1)
    taken = np.clip(level - (np.cumsum(chances, axis=-1) - chances), 0.0, chances)
    return (taken * values).sum(axis=-1) / level


def expected_utility(law: Law, utility: Callable[[Floats], Floats]) -> Floats:
    """E f(X) [...] for a function f of arrays."""
    return (utility(law.values) * law.probabilities).sum(axis=-1)


# -- utilities f, for the score E f(stock + return) ------------------------------------------------


def shortfall(x: Floats) -> Floats:
    """min(x, 0), the utility behind the conditional value at risk."""
    return np.minimum(x, 0.0)


def surplus(x: Floats) -> Floats:
    """max(x, 0)."""
    return np.maximum(x, 0.0)


def closeness(x: Floats) -> Floats:
    """-|x|, for a set point: start from minus the set point."""
    return -np.abs(x)


def squared_closeness(x: Floats) -> Floats:
    """-x^2, for a set point."""
    return -(x**2)


def ranks_alike(utility: Callable[[Floats], Floats], gamma: float) -> bool:
    """Whether E f(gamma X) ranks laws as E f(X) does: f(gamma x) = a f(x) + b with a > 0.

    Judged at 64 values of x up to 10 in size.
    """
    x = np.concatenate([-np.geomspace(10, 1e-3, 32), np.geomspace(1e-3, 10, 32)])
    before, after = utility(x), utility(gamma * x)
    spread, moved = before - before.mean(), after - after.mean()
    if not spread.any():
        return not moved.any()
    slope = (spread * moved).sum() / (spread**2).sum()
    misfit = np.abs(moved - slope * spread).max()
    return bool(slope > 0 and misfit <= 1e-9 * np.abs(moved).max())


# -- checks ----------------------------------------------------------------------------------------


def increasing(name: str, values: ArrayLike) -> Floats:
    """Floats [M]; ValueError unless there are two or more, finite and increasing."""
    points = np.asarray(values, dtype=np.float64)
    if points.ndim != 1 or len(points) < 2 or not np.isfinite(points).all():
        raise ValueError(f"{name} must hold two or more finite values")
    if (np.diff(points) <= 0).any():
        raise ValueError(f"{name} must be increasing")
    return points
