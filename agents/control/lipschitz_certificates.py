"""What can be promised about a Lipschitz policy, and about the loop that it closes."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial.distance import cdist


def realised_constant(points: ArrayLike, values: ArrayLike) -> float:
    """Greatest |v_i - v_j| / |x_i - x_j| of points [N, n] and values [N, m].

    Infinite where two values differ at one point, 0 of a single point.
    """
    distances, gaps = (cdist(x, x) for x in (np.asarray(points), np.asarray(values)))
    slopes = np.divide(gaps, distances, out=np.zeros_like(gaps), where=distances > 0)
    return float(np.where((distances == 0) & (gaps > 0), np.inf, slopes).max())


def covering_radius(points: ArrayLike, domain: ArrayLike) -> float:
    """Greatest distance from a point of the domain [M, n] to the nearest data point [N, n]."""
    return float(cdist(np.asarray(domain), np.asarray(points)).min(axis=1).max())


def approximation_bound(error: float, alpha: float, expert: float, radius: float) -> float:
    """sup |pi - pi*| over the domain, at most.

    Args:
        error: greatest |pi(x_i) - u_i| at the data.
        alpha, expert: Lipschitz constants of the policy and of the expert.
        radius: covering radius of the data.
    """
    return error + (alpha + expert) * radius


def deviation_bound(
    steps: int | None, rate: float, gain: float, alpha: float, noise: float, error: float
) -> float:
    """Distance from the expert's trajectory after `steps` steps, at most; None: for ever.

        e_{t+1} = rate e_t + gain (error + alpha noise),    e_0 = 0

    Args:
        steps: at least 0.
        rate: contraction of the expert's closed loop, in [0, 1).
        gain: Lipschitz constant of the plant in the control.
        alpha: Lipschitz constant of the policy.
        noise: greatest error of a measurement.
        error: sup |pi - pi*|.

    Raises:
        ValueError: the closed loop does not contract.
    """
    if not 0 <= rate < 1:
        raise ValueError(f"rate={rate} must be in [0, 1): the expert's loop must contract")
    share = 1.0 if steps is None else 1.0 - rate**steps
    return share * gain * (error + alpha * noise) / (1 - rate)


def scalar_loop(
    a: float, b: float, q: float, r: float, gain: float, noise: float
) -> tuple[float, float]:
    """x' = a x + b u under u = -gain x: what q x^2 + r u^2 sums to from x = 1 on, and the greatest
    |x| that measurement errors of up to `noise` can hold.

    Raises:
        ValueError: the loop is not stable.
    """
    pole = a - b * gain
    if abs(pole) >= 1:
        raise ValueError(f"gain={gain} leaves |a - b gain| = {abs(pole):g}, it must be below 1")
    return (q + r * gain**2) / (1 - pole**2), abs(b * gain) * noise / (1 - abs(pole))
