"""How performance grows with data, and what the performances of groups are worth together.

For NumPy arrays and torch tensors; the last axis is the group where there are groups.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from array_api_compat import array_namespace, is_array_api_obj

FLOOR = 1e-6  # performances below count as this much: the logarithm of nothing is no utility


def power_curve(n: Any, asymptotes: Any, scales: Any, exponents: Any) -> Any:
    """M(n) = A - B n^-p, the performance of a model that has learned from n > 0 samples.

    Args:
        n: samples, any shape.
        asymptotes: A, performance with endless data.
        scales: B, how much is lost with one sample; 0: nothing is learned.
        exponents: p, how fast the loss shrinks.
    """
    return asymptotes - scales * n ** (-exponents)


def polygenic_curve(n: Any, heritability: Any, markers: Any) -> Any:
    """R^2(n) = h2 n h2 / (n h2 + M), what theory expects of a polygenic score.

    H. D. Daetwyler, B. Villanueva, J. A. Woolliams, PLoS ONE 3(10), 2008. Effects are estimated one
    by one; a regression on all markers at once does somewhat better.

    Args:
        n: samples.
        heritability: h2, share of the variance that the markers explain.
        markers: M, independent markers.
    """
    return heritability * (n * heritability) / (n * heritability + markers)


def effective_samples(n: Any, transfer: Any) -> Any:
    """What the samples of all groups are worth to each group, [..., G].

    Args:
        n: samples of each group, [..., G].
        transfer: kappa [..., G, G]: one sample of group j is worth kappa[g, j] of group g.
    """
    # Column by column: a library's matrix product may round differently for other batches.
    total = n[..., :1] * transfer[..., :, 0]
    for column in range(1, transfer.shape[-1]):
        total = total + n[..., column : column + 1] * transfer[..., :, column]
    return total


def isoelastic(performance: Any, eta: float) -> Any:
    """u(M) = M for eta 0, ln M for eta 1, else (M^(1 - eta) - 1) / (1 - eta); any shape.

    M is floored at 1e-6; a warning says so where eta >= 1 and a performance is not above 0.

    Args:
        performance: M.
        eta: aversion to inequality, at least 0: the larger, the more the worse-off count.

    Raises:
        ValueError: eta is negative or not finite.
    """
    if not 0 <= eta < np.inf:
        raise ValueError(f"eta={eta} must be a finite number of at least 0")
    given = performance if is_array_api_obj(performance) else np.asarray(performance, np.float64)
    if eta >= 1 and (given <= 0).any():
        warnings.warn(
            f"a performance is not above 0, where a utility with eta={eta:g} is not defined: it "
            f"counts as {FLOOR:g}",
            stacklevel=2,
        )
    floored = given.clip(FLOOR, None)
    if eta == 0:
        return floored
    if eta == 1:
        return array_namespace(floored).log(floored)
    return (floored ** (1 - eta) - 1) / (1 - eta)


def utility(performances: Any, weights: Any, eta: float) -> Any:
    """U = sum over groups of w u(M), [...], for performances [..., G]."""
    worth = weights * isoelastic(performances, eta)
    return array_namespace(worth).sum(worth, axis=-1)
