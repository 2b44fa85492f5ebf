"""How to spend a budget over groups whose learning curves M(n) = A - B n^-p are known."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...envs.data.learning_curves import FLOOR, power_curve
from .equitable_sampling import index

Array = NDArray[np.float64]


def greedy_allocation(
    curves: Array,
    start: ArrayLike,
    budget: float,
    spend: float,
    costs: ArrayLike = 1.0,
    weights: ArrayLike = 1.0,
    eta: float = 1.0,
    transfer: Array | None = None,
) -> tuple[list[int], Array]:
    """Batch by batch for the largest index, ties to the lowest group.

    Args:
        curves: (A, B, p), [G, 3].
        start: samples to begin with, a number or [G].
        budget: on new samples.
        spend, costs, weights, eta, transfer: as in `index`.

    Returns:
        The groups in order, and the samples at the end [G].

    Raises:
        ValueError: a cost, the budget or the batch is not above 0, or a weight or eta is negative.
    """
    check_task(budget, costs, weights, eta)
    if not 0 < spend < np.inf:
        raise ValueError(f"spend={spend} must be a finite number above 0")
    n = np.broadcast_to(np.asarray(start, np.float64), (len(curves),)).copy()
    step = np.broadcast_to(spend / np.asarray(costs, np.float64), n.shape)
    order = []
    for _ in range(int(budget / spend + 1e-9)):
        order.append(int(index(n, curves, spend, costs, weights, eta, transfer).argmax()))
        n[order[-1]] += step[order[-1]]
    return order, n


def optimal_allocation(
    curves: Array,
    start: ArrayLike,
    budget: float,
    costs: ArrayLike = 1.0,
    weights: ArrayLike = 1.0,
    eta: float = 1.0,
) -> Array:
    """Samples [G], not whole ones, of equal marginal utility per cost among the groups that buy.

    By bisection on the marginal utility, and for each on the samples. Where no group gains from
    more samples nothing is bought. Arguments and errors are those of `greedy_allocation`.
    """
    check_task(budget, costs, weights, eta)
    shape = (len(curves),)
    first, cost, weight = (
        np.broadcast_to(np.asarray(each, np.float64), shape) for each in (start, costs, weights)
    )
    asymptotes, scales, exponents = curves.T

    def marginal(n: Array) -> Array:
        performance = np.maximum(power_curve(n, asymptotes, scales, exponents), FLOOR)
        slope = scales * exponents * n ** (-exponents - 1)
        return np.asarray(weight * performance**-eta * slope / cost)

    def bought(price: float) -> Array:
        low, high = first.copy(), first + budget / cost
        for _ in range(60):
            middle = (low + high) / 2
            worth_it = marginal(middle) > price
            low, high = np.where(worth_it, middle, low), np.where(worth_it, high, middle)
        return np.where(marginal(first) > price, low, first)

    highest = float(marginal(first).max())
    if highest == 0:
        return first.copy()
    # At this price some group takes the whole budget.
    lowest = float(marginal(first + budget / cost).max()) / 2
    for _ in range(60):
        price = float(np.sqrt(lowest * highest))
        if cost @ (bought(price) - first) > budget:
            lowest = price
        else:
            highest = price
    return bought(highest)


def check_task(budget: float, costs: ArrayLike, weights: ArrayLike, eta: float) -> None:
    """ValueError unless budget and costs are above 0, and weights and eta at least 0."""
    if not 0 < budget < np.inf:
        raise ValueError(f"budget={budget} must be a finite number above 0")
    if not (np.asarray(costs) > 0).all():
        raise ValueError(f"costs={costs!r} must be above 0")
    if not (np.asarray(weights) >= 0).all():
        raise ValueError(f"weights={weights!r} must be at least 0")
    if not 0 <= eta < np.inf:
        raise ValueError(f"eta={eta} must be a finite number of at least 0")
