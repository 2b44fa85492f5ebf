"""Dynamic programming over states with a stock in the discounted task, on a grid of stocks.

The pairs of state and stock are one larger decision process: a stock that falls between two of the
grid leads to both of them. Laws are kept short by a projection of `distributional.py`.

Source: B. Avila Pires et al., Optimizing return distributions with distributional dynamic
programming (JMLR 2025, arXiv 2501.13028).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from .distributional import Outcomes, Reduce, distributional_evaluation, nothing
from .laws import Law, Score, increasing
from .stock import Layer, StockPlan, improve, next_stock


def stock_grid(outcomes: Outcomes, stocks: ArrayLike, gamma: float) -> Layer:
    """Pairs of every state and a grid of stocks, which follow on themselves.

    A stock between two of the grid leads to both, with probabilities that interpolate. One beyond
    the grid counts as its end: for utilities that are linear on either side of 0 nothing is lost
    if the grid reaches beyond minus every possible return, since the sign of stock + return is
    then settled.

    Args:
        outcomes: those of every step [S, A, N].
        stocks: increasing stocks [C], C >= 2.
        gamma: discount factor in (0, 1].

    Returns:
        A layer of S C pairs, pair s C + j with stock j, and 2 N outcomes.
    """
    points = increasing("stocks", stocks)
    states, size = len(outcomes.probability), len(points)
    after = next_stock(points[:, None, None], outcomes.reward[:, None], gamma)
    after = np.clip(after, points[0], points[-1])
    below = np.clip(np.searchsorted(points, after, side="right") - 1, 0, size - 2)
    share = (after - points[below]) / (points[below + 1] - points[below])
    first = outcomes.next_state[:, None] * size + below
    chances = outcomes.probability[:, None]
    rewards = np.broadcast_to(outcomes.reward[:, None], after.shape)
    shape = (states * size, outcomes.reward.shape[1], -1)
    paired = Outcomes(
        np.concatenate([chances * (1 - share), chances * share], axis=-1).reshape(shape),
        np.concatenate([first, first + 1], axis=-1).reshape(shape),
        np.concatenate([rewards, rewards], axis=-1).reshape(shape),
    )
    return Layer(np.repeat(np.arange(states), size), np.tile(points, states), paired)


def grid_value_iteration(
    layer: Layer, score: Score, gamma: float, sweeps: int, reduce: Reduce
) -> StockPlan:
    """Value iteration on laws over the pairs of `stock_grid`, from the return 0.

    Args:
        layer: what `stock_grid` returns.
        score: as in `stock_value_iteration`.
        gamma: discount factor; the error falls as gamma^sweeps.
        sweeps: number of sweeps, at least 1.
        reduce: `partial(project_categorical, grid=...)` or `partial(project_quantiles, count=...)`.

    Returns:
        The result of the last sweep, in lists of one entry.
    """
    if sweeps < 1:
        raise ValueError(f"sweeps={sweeps} must be at least 1")
    law = nothing(len(layer.states))
    for _ in range(sweeps):
        policy, law, scores = improve(layer, law, score, gamma, reduce)
    return StockPlan([layer], [policy], [law], [scores])


def grid_policy_evaluation(
    layer: Layer, policy: ArrayLike, gamma: float, sweeps: int, reduce: Reduce
) -> Law:
    """Laws [S C, K] of the return under a policy, actions [S C] or probabilities [S C, A]."""
    if sweeps < 1:
        raise ValueError(f"sweeps={sweeps} must be at least 1")
    law = nothing(len(layer.states))
    return distributional_evaluation(
        [layer.outcomes] * sweeps, [policy] * sweeps, law, gamma, reduce
    )[0]
