"""The worst distribution in a ball around a nominal one: min over p in the ball of p . v, exactly.

One problem per row, all rows at once: nominal [..., S], values [..., S] and radius [...] are
broadcast against each other, S the number of outcomes. Every function returns the minimum and a
distribution of the ball that attains it.

    l1_ball          sum |p - nominal| <= radius          sorting and moving mass greedily
    tv_ball          half of that sum <= radius           the same
    kl_ball          sum p log(p / nominal) <= radius     one multiplier, safeguarded Newton
    chi_square_ball  sum (p - nominal)^2 / nominal <= radius   sorting and a closed form

L1 and total variation may move mass to outcomes that are impossible under the nominal distribution
(unless `allowed` forbids it), the two divergences cannot.

Sources: G. Iyengar, Robust dynamic programming (Mathematics of Operations Research, 2005; the
balls and their duals); C. Ho, M. Petrik, W. Wiesemann, Fast Bellman updates for robust MDPs
(ICML 2018; the greedy transfer).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..probabilities import check_probabilities, check_sums

Floats = NDArray[np.float64]
NEWTON_STEPS = 400  # a Newton step, or where that leaves the bracket a bisection, each
KL_PRECISION = 1e-14  # relative, of the divergence that the multiplier attains
TINY = 1e-300
TIED = 1e-100  # values that differ by less, relative to all on the support, are equal
LARGEST_RADIUS = 1e100  # chi-square: beyond it only the least value keeps mass
LARGEST_MULTIPLIER = 2.0**60  # beyond it all mass is where the values differ by rounding only


class WorstCase(NamedTuple):
    """What the adversary does.

    Attributes:
        value: the minimum of p . v [...].
        distribution: a p that attains it [..., S].
    """

    value: Floats
    distribution: Floats


Ball = Callable[[ArrayLike, ArrayLike, ArrayLike], WorstCase]


def l1_ball(
    nominal: ArrayLike, values: ArrayLike, radius: ArrayLike, allowed: ArrayLike | None = None
) -> WorstCase:
    """Minimise p . v over distributions within L1 distance `radius`.

    Mass of radius / 2 moves from the outcomes of largest value to the one of least value.

    Args:
        nominal: distributions [..., S].
        values: values of the outcomes [..., S].
        radius: L1 distances >= 0 [...]; from 2 on every distribution is in the ball.
        allowed: outcomes to which mass may move, bool [..., S]; None: all.

    Raises:
        ValueError: `nominal` holds no distributions or has mass where it is not allowed, a radius
            is negative or not a number, values are not finite.
    """
    nominal, values, radius = check_ball(nominal, values, radius)
    lowest, least = _least(nominal, values, allowed)
    order = np.argsort(-values, axis=-1, kind="stable")
    gain = np.take_along_axis(values, order, axis=-1) - least
    movable = np.where(gain > 0, np.take_along_axis(nominal, order, axis=-1), 0.0)
    before = np.cumsum(movable, axis=-1) - movable
    moved = np.clip(radius[..., None] / 2 - before, 0.0, movable)
    back = np.argsort(order, axis=-1, kind="stable")
    distribution = nominal - np.take_along_axis(moved, back, axis=-1)
    add_at(distribution, lowest, moved.sum(axis=-1))
    return WorstCase((distribution * values).sum(axis=-1), distribution)


def tv_ball(
    nominal: ArrayLike, values: ArrayLike, radius: ArrayLike, allowed: ArrayLike | None = None
) -> WorstCase:
    """As `l1_ball` with the total variation distance, half the L1 distance."""
    nominal, values, radius = check_ball(nominal, values, radius)
    return l1_ball(nominal, values, 2 * radius, allowed)


def kl_ball(nominal: ArrayLike, values: ArrayLike, radius: ArrayLike) -> WorstCase:
    """Minimise p . v over distributions with KL(p || nominal) <= radius.

    The minimiser is p proportional to nominal * exp(-b v); b is the root of KL = radius, found by
    Newton's method on the square root of KL, which is nearly linear in b. From the radius
    -log(nominal mass of the least value) on it is the nominal one given the least value.

    Args:
        nominal: distributions [..., S].
        values: values of the outcomes [..., S].
        radius: divergences >= 0 in nats [...].

    Raises:
        ValueError: as `l1_ball`.
    """
    nominal, values, radius = check_ball(nominal, values, radius)
    shape = np.broadcast_shapes(nominal.shape, values.shape, (*radius.shape, 1))
    rows = np.broadcast_to(nominal, shape).reshape(-1, shape[-1])
    radii = np.broadcast_to(radius, shape[:-1]).reshape(-1)
    scaled, at_least = _scaled(rows, np.broadcast_to(values, shape).reshape(rows.shape))
    mass_at_least = np.where(at_least, rows, 0.0).sum(axis=1)
    distribution = np.where(at_least, rows / mass_at_least[:, None], 0.0)
    inner = radii < -np.log(mass_at_least)
    distribution[inner] = _tilt(rows[inner], scaled[inner], radii[inner])
    distribution = distribution.reshape(shape)
    return WorstCase((distribution * values).sum(axis=-1), distribution)


def chi_square_ball(nominal: ArrayLike, values: ArrayLike, radius: ArrayLike) -> WorstCase:
    """Minimise p . v over distributions with sum (p - nominal)^2 / nominal <= radius.

    The minimiser is p proportional to nominal * max(a - v, 0). Which outcomes keep mass follows
    from the sorted values, `a` then from the mean m and the variance of the values given them:
    (a - m)^2 = variance / (mass (1 + radius) - 1).

    Args:
        nominal: distributions [..., S].
        values: values of the outcomes [..., S].
        radius: divergences >= 0 [...].

    Raises:
        ValueError: as `l1_ball`.
    """
    nominal, values, radius = check_ball(nominal, values, radius)
    shape = np.broadcast_shapes(nominal.shape, values.shape, (*radius.shape, 1))
    nominal, radius = np.broadcast_to(nominal, shape), radius[..., None]
    scaled, _ = _scaled(nominal, np.broadcast_to(values, shape))
    order = np.argsort(scaled, axis=-1, kind="stable")
    x, p = (np.take_along_axis(part, order, axis=-1) for part in (scaled, nominal))
    mass, first, second = (np.cumsum(p * x**power, axis=-1) for power in range(3))
    # E[(a - v)+^2] / E[(a - v)+]^2 falls in a, from 1 / (mass of the least value) to 1. An outcome
    # keeps mass if at a = its value the ratio is still above 1 + radius.
    radius = np.minimum(radius, LARGEST_RADIUS)
    slope = mass * x - first
    kept = (slope <= 0) | (mass * x**2 - 2 * first * x + second > (1 + radius) * slope**2)
    kept = np.logical_and.accumulate(kept, axis=-1)
    inside = np.where(kept, p, 0.0)
    total = inside.sum(axis=-1, keepdims=True)
    mean = (inside * x).sum(axis=-1, keepdims=True) / total
    variance = (inside * (x - mean) ** 2).sum(axis=-1, keepdims=True) / total
    surplus = np.maximum(total * radius - np.where(kept, 0.0, p).sum(axis=-1, keepdims=True), 0.0)
    steepness = np.where(variance > 0, np.sqrt(surplus) / np.sqrt(np.maximum(variance, TINY)), 0.0)
    weights = inside * np.maximum(1 + steepness * (mean - x), 0.0)
    weights /= weights.sum(axis=-1, keepdims=True)
    divergence = np.where(p > 0, (weights - p) ** 2 / np.where(p > 0, p, 1.0), 0.0).sum(
        axis=-1, keepdims=True
    )
    worst = _towards(p, weights, np.sqrt(radius / np.where(divergence > 0, divergence, 1.0)))
    back = np.argsort(order, axis=-1, kind="stable")
    distribution = np.take_along_axis(worst, back, axis=-1)
    return WorstCase((distribution * values).sum(axis=-1), distribution)


def l1_ball_joint(
    nominal: ArrayLike, values: ArrayLike, radius: ArrayLike, weights: ArrayLike
) -> WorstCase:
    """Minimise sum_a w_a (p_a . v) over distributions whose L1 distances add up to <= radius.

    What an adversary of an s-rectangular set does to a given policy, the weights: mass is moved
    where weight times loss of value is largest.

    Args:
        nominal: distributions [..., A, S].
        values: values of the outcomes [..., S].
        radius: sums of the L1 distances, >= 0 [...].
        weights: nonnegative weights [..., A].

    Returns:
        The minimum [...] and the distributions [..., A, S].

    Raises:
        ValueError: as `l1_ball`, or a weight is negative.
    """
    values = np.asarray(values, dtype=np.float64)[..., None, :]
    nominal, values, radius = check_ball(nominal, values, radius)
    weights = np.asarray(weights, dtype=np.float64)
    if not (weights >= 0).all():
        raise ValueError("weights must be nonnegative numbers")
    lowest, least = _least(nominal, values, None)
    full, gain, _ = np.broadcast_arrays(
        nominal, weights[..., None] * (values - least), radius[..., None, None]
    )
    flat = (*gain.shape[:-2], gain.shape[-2] * gain.shape[-1])
    order = np.argsort(-gain.reshape(flat), axis=-1, kind="stable")
    movable = np.take_along_axis(np.where(gain > 0, full, 0.0).reshape(flat), order, axis=-1)
    before = np.cumsum(movable, axis=-1) - movable
    moved = np.clip(radius[..., None] / 2 - before, 0.0, movable)
    back = np.argsort(order, axis=-1, kind="stable")
    moved = np.take_along_axis(moved, back, axis=-1).reshape(gain.shape)
    distribution = full - moved
    add_at(distribution, lowest, moved.sum(axis=-1))
    return WorstCase((weights[..., None] * distribution * values).sum(axis=(-1, -2)), distribution)


def check_ball(
    nominal: ArrayLike, values: ArrayLike, radius: ArrayLike
) -> tuple[Floats, Floats, Floats]:
    """Float arrays, the first two of equal rank; ValueError where they are no ball or no values."""
    nominal, values, radius = (np.asarray(x, dtype=np.float64) for x in (nominal, values, radius))
    check_probabilities("nominal", nominal)
    check_sums("nominal", nominal)
    if not (radius >= 0).all():
        raise ValueError(f"radius {radius[~(radius >= 0)].flat[0]} is not a number >= 0")
    if not np.isfinite(values).all():
        raise ValueError("values must be finite")
    rank = max(nominal.ndim, values.ndim, radius.ndim + 1)
    nominal, values = (x[(None,) * (rank - x.ndim)] for x in (nominal, values))
    return nominal, values, radius


def add_at(table: Floats, index: NDArray[np.int64], amount: Floats) -> None:
    """Add `amount` [...] to the entry `index` (broadcast to [..., 1]) of each row of `table`
    [..., S]."""
    index = np.broadcast_to(index, (*table.shape[:-1], 1))
    present = np.take_along_axis(table, index, axis=-1)
    np.put_along_axis(table, index, present + amount[..., None], axis=-1)


def _least(nominal: Floats, values: Floats, allowed: ArrayLike | None) -> tuple[Any, Floats]:
    """Index and value of the allowed outcome of least value, [..., 1] each."""
    if allowed is not None:
        permitted = np.asarray(allowed, dtype=bool)
        if ((nominal > 0) & ~permitted).any():
            raise ValueError("nominal has mass on outcomes that are not allowed")
        values = np.where(permitted, values, np.inf)
    lowest = values.argmin(axis=-1)[..., None]
    return lowest, np.take_along_axis(values, lowest, axis=-1)


def _scaled(nominal: Floats, values: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Values on the support, moved and scaled to [0, 1] (1 off it), and where they are least."""
    support = nominal > 0
    least = np.where(support, values, np.inf).min(axis=-1, keepdims=True)
    span = np.where(support, values, -np.inf).max(axis=-1, keepdims=True) - least
    scaled = np.where(support, (values - least) / np.where(span > 0, span, 1.0), 1.0)
    scaled = np.where(scaled < TIED, 0.0, scaled)
    return scaled, scaled == 0


def _towards(nominal: Floats, other: Floats, share: Floats) -> Floats:
    """The point at min(share, 1) of the way from `nominal` to `other`; rounding stays inside."""
    return nominal + np.minimum(share, 1.0) * (other - nominal)


def _tilt(nominal: Floats, x: Floats, radius: Floats) -> Floats:
    """nominal * exp(-b x) / Z with divergence `radius`, which some b attains; all [n, S]."""
    mean = (nominal * x).sum(axis=1, keepdims=True)
    variance = (nominal * (x - mean) ** 2).sum(axis=1)
    # Exact in the limit of small radii.
    b = np.minimum(np.sqrt(2 * radius / np.maximum(variance, TINY)), LARGEST_MULTIPLIER)
    low, high = np.zeros(len(b)), np.full(len(b), np.inf)
    result = nominal.copy()
    rows = np.flatnonzero(radius > 0)
    for _ in range(NEWTON_STEPS):
        if not rows.size:
            return result
        p, here, goal = nominal[rows], b[rows], radius[rows]
        tilted, divergence, slope = _tilted(p, x[rows], here)
        low[rows] = np.where(divergence < goal, here, low[rows])
        high[rows] = np.where(divergence >= goal, here, high[rows])
        below, above = low[rows], high[rows]
        root = np.sqrt(divergence)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            newton = here - (root - np.sqrt(goal)) * 2 * root / slope
            middle = np.where(np.isinf(above), 4 * here, (below + above) / 2)
        good = (newton > below) & (newton < above)
        b[rows] = np.minimum(np.where(good, newton, middle), LARGEST_MULTIPLIER)
        done = np.abs(divergence - goal) <= KL_PRECISION * goal
        done |= (below >= (1 - 4e-16) * above) | (below >= LARGEST_MULTIPLIER)
        if done.any():
            share = goal / np.where(divergence > 0, divergence, 1.0)
            result[rows[done]] = _towards(p, tilted, share[:, None])[done]
            rows = rows[~done]
    raise ArithmeticError(f"no multiplier found for {rows.size} of {len(b)} KL balls")


def _tilted(p: Floats, x: Floats, b: Floats) -> tuple[Floats, Floats, Floats]:
    """The tilted distributions [n, S], their divergences from p and the derivatives in b [n]."""
    exponent = -b[:, None] * x
    excess = (p * np.expm1(exponent)).sum(axis=1, keepdims=True)
    weights = p * np.exp(exponent)
    total = weights.sum(axis=1, keepdims=True)
    # log Z without cancellation, whether Z is near 1 (small b) or near 0 (large b).
    log_total = np.where(excess > -0.5, np.log1p(np.maximum(excess, -0.5)), np.log(total))
    log_ratio = exponent - log_total
    tilted = weights / total
    # A sum of p phi(log ratio) with phi(l) = l exp(l) - exp(l) + 1 >= 0: no cancellation between
    # terms, and by its series none in those near 0.
    series = log_ratio**2 * (1 / 2 + log_ratio * (1 / 3 + log_ratio * (1 / 8 + log_ratio / 30)))
    terms = tilted * log_ratio - p * np.expm1(log_ratio)
    divergence = np.where(np.abs(log_ratio) < 1e-3, p * series, terms).sum(axis=1)
    mean = (tilted * x).sum(axis=1, keepdims=True)
    return tilted, divergence, b * (tilted * (x - mean) ** 2).sum(axis=1)
