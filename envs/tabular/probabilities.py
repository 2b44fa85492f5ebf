"""Probabilities in tables: choosing by a uniform, and what is checked of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import NDArray

TOLERANCE = 1e-9  # by which probabilities may miss a sum of 1


def pick(cumulated: Any, u: Any) -> Any:
    """Choose from distributions by uniforms.

    Args:
        cumulated: what `cumulative` returns, [..., S].
        u: uniforms in [0, 1), [...].

    Returns:
        The smallest j with u < p[0] + ... + p[j], int64 [...].
    """
    xp = array_namespace(cumulated)
    return xp.sum(xp.astype(u[..., None] >= cumulated, xp.int64), axis=-1)


def cumulative(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cumulated probabilities along the last axis, for `pick`.

    From the last outcome with p > 0 on they are 2, so that it is picked where rounding leaves u
    above the sum.
    """
    sums = np.cumsum(p, axis=-1)
    from_here = np.flip(np.cumsum(np.flip(p > 0, axis=-1), axis=-1), axis=-1)
    return np.where(from_here - (p > 0) > 0, sums, 2.0)


def draw(laws: NDArray[np.float64], generator: np.random.Generator) -> NDArray[np.int64]:
    """An outcome from each of the laws [n, S], int64 [n]."""
    return np.asarray(pick(cumulative(laws), generator.random(len(laws))), dtype=np.int64)


def check_probabilities(name: str, values: NDArray[np.float64]) -> None:
    """ValueError unless all values lie in [0, 1]."""
    wrong = ~((values >= 0) & (values <= 1))  # also true for NaN
    if wrong.any():
        place = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise ValueError(f"{name}{list(place)} = {values[place]} is outside [0, 1]")


def check_sums(name: str, values: NDArray[np.float64]) -> None:
    """ValueError unless the rows along the last axis sum to 1."""
    sums = values.sum(axis=-1)
    wrong = np.abs(sums - 1) > TOLERANCE
    if wrong.any():
        place = tuple(int(i) for i in np.argwhere(wrong)[0])
        where = f"{name}{list(place)}" if place else name
        raise ValueError(f"{where} sums to {sums[place]}, probabilities must sum to 1")
