"""Dynamic programming on laws of returns over states with a stock.

The stock c accounts for what was earned: after a reward r it is (c + r) / gamma, so that
c + r + gamma G' = gamma (c' + G'). A greedy step in (s, c) then weighs the law of the whole return,
stock + G, and optimises what ordinary dynamic programming cannot: the conditional value at risk,
staying near a set point. With gamma < 1 the objective must rank laws alike when they are multiplied
by gamma (`ranks_alike`).

Here for a finite horizon and exactly, over all (state, stock) pairs that can be reached; for the
discounted task on a grid of stocks see `stock_grid.py`. An objective is a score of laws, such as
`partial(expected_utility, utility=closeness)` of `laws.py`.

Source: B. Avila Pires et al., Optimizing return distributions with distributional dynamic
programming (JMLR 2025, arXiv 2501.13028).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .distributional import (
    WIDTH,
    Outcomes,
    Reduce,
    distributional_backup,
    distributional_evaluation,
    follow,
    merge,
    nothing,
)
from .laws import Floats, Law, Score, increasing, shift

TIE = 1e-12  # relative difference of scores below which the lower action is taken
SAME_STOCK = 1e-9  # relative difference below which a running stock is one of a layer's
MOST_PAIRS = 5_000_000


class Layer(NamedTuple):
    """The (state, stock) pairs of one step.

    Attributes:
        states: states [n].
        stocks: stocks [n].
        outcomes: what can follow [n, A, N]; `next_state` is a pair of the next layer (0 in
            the last one).
    """

    states: NDArray[np.int64]
    stocks: Floats
    outcomes: Outcomes


class StockPlan(NamedTuple):
    """A policy over (state, stock) pairs, one entry per step in each list.

    Attributes:
        layers: the pairs.
        policy: actions, int64 [n].
        laws: laws of the return from there on [n, K].
        scores: score of stock + return [n].
    """

    layers: Sequence[Layer]
    policy: list[NDArray[np.int64]]
    laws: list[Law]
    scores: list[Floats]


def next_stock(stock: ArrayLike, reward: ArrayLike, gamma: float) -> Floats:
    """(stock + reward) / gamma; ValueError unless 0 < gamma <= 1."""
    if not 0 < gamma <= 1:
        raise ValueError(f"gamma={gamma} is outside (0, 1], where the stock is defined")
    return (np.asarray(stock, dtype=np.float64) + np.asarray(reward, dtype=np.float64)) / gamma


def stock_layers(
    outcomes: Outcomes | Sequence[Outcomes],
    start: int,
    stocks: ArrayLike,
    gamma: float,
    horizon: int,
    width: float = WIDTH,
) -> list[Layer]:
    """All (state, stock) pairs that can be reached, step by step.

    Args:
        outcomes: those of every step, or one per step.
        start: the first state.
        stocks: stocks to start with [n]; the first layer holds them in this order.
        gamma: discount factor in (0, 1].
        horizon: number of steps, at least 1.
        width: stocks that round to the same multiple of it are one, the least of them.

    Raises:
        ValueError: an argument is out of range, or there are more pairs than memory is for.
    """
    if horizon < 1:
        raise ValueError(f"horizon={horizon} must be at least 1")
    steps = [outcomes] * horizon if isinstance(outcomes, Outcomes) else list(outcomes)
    if len(steps) != horizon:
        raise ValueError(f"outcomes of {len(steps)} steps given, horizon={horizon} needs as many")
    if not 0 <= start < len(steps[0].probability):
        raise ValueError(f"start={start} is outside 0 .. {len(steps[0].probability) - 1}")
    present = np.atleast_1d(np.asarray(stocks, dtype=np.float64))
    if present.ndim != 1 or not present.size or not np.isfinite(present).all():
        raise ValueError("stocks must be one or more finite numbers")
    states, layers = np.full(len(present), start), []
    for step in steps:
        chances, following, rewards = (part[states] for part in step)
        after = next_stock(present[:, None, None], rewards, gamma)
        # What cannot follow is sent to the pair of the first outcome, which can or is there.
        possible = chances > 0
        pick = np.where(possible, np.arange(chances.shape[-1]), possible.argmax(-1)[..., None])
        following = np.take_along_axis(following, pick, axis=-1)
        after = np.take_along_axis(after, pick, axis=-1)
        pairs = _distinct(following.ravel(), after.ravel(), width)
        if len(pairs[0]) > MOST_PAIRS:
            raise ValueError(
                f"{len(pairs[0])} pairs of state and stock in one step, allowed are {MOST_PAIRS}: "
                "give a larger width"
            )
        into = pairs[2].reshape(following.shape)
        layers.append(Layer(states, present, Outcomes(chances, into, rewards)))
        states, present = pairs[:2]
    last = layers[-1]
    into = np.zeros_like(last.outcomes.next_state)  # beyond the horizon there is one law: nothing
    layers[-1] = last._replace(outcomes=last.outcomes._replace(next_state=into))
    return layers


def improve(
    layer: Layer, law: Law, score: Score, gamma: float, reduce: Reduce
) -> tuple[NDArray[np.int64], Law, Floats]:
    """Greedy actions [n], their laws and scores, given the laws of the next layer; of equals the
    lowest action."""
    laws = distributional_backup(layer.outcomes, law, gamma, reduce)
    scores = score(shift(laws, layer.stocks[:, None]))
    best = scores.max(axis=1)
    policy = (scores >= (best - TIE * (1 + np.abs(best)))[:, None]).argmax(axis=1)
    chosen = np.take_along_axis(scores, policy[:, None], axis=1)[:, 0]
    return policy, follow(laws, policy, reduce), chosen


def stock_value_iteration(
    layers: Sequence[Layer], score: Score, gamma: float, reduce: Reduce = merge
) -> StockPlan:
    """Backward induction: in every pair the action whose law of stock + return scores best.

    Args:
        layers: what `stock_layers` returns.
        score: from laws [..., K] to scores [...], such as
            `partial(expected_utility, utility=shortfall)`.
        gamma: discount factor, the layers' own.
        reduce: `merge`, or `partial(merge, width=...)` where laws grow too long.
    """
    law, steps = nothing(1), []
    for layer in reversed(layers):
        policy, law, scores = improve(layer, law, score, gamma, reduce)
        steps.append((policy, law, scores))
    policies, laws, values = zip(*reversed(steps), strict=True)
    return StockPlan(layers, list(policies), list(laws), list(values))


def stock_policy_evaluation(
    layers: Sequence[Layer],
    policy: Sequence[ArrayLike],
    gamma: float,
    reduce: Reduce = merge,
) -> list[Law]:
    """Laws of the return [n, K] per step under a policy: actions [n] or probabilities [n, A]."""
    return distributional_evaluation(
        [layer.outcomes for layer in layers], policy, nothing(1), gamma, reduce
    )


def stock_policy_iteration(
    layers: Sequence[Layer],
    score: Score,
    gamma: float,
    policy: Sequence[ArrayLike] | None = None,
    reduce: Reduce = merge,
) -> StockPlan:
    """Evaluation and greedy improvement in turn until the policy stays; at most horizon + 1 times.

    Args:
        layers, score, gamma, reduce: as in `stock_value_iteration`.
        policy: actions to start from; None: action 0 everywhere.
    """
    present = [np.zeros(len(layer.states), np.int64) for layer in layers]
    if policy is not None:
        present = [np.asarray(part) for part in policy]
    for _ in range(len(layers) + 1):
        laws = stock_policy_evaluation(layers, present, gamma, reduce)
        after = [*laws[1:], nothing(1)]
        improved = [
            improve(layer, law, score, gamma, reduce)[0]
            for layer, law in zip(layers, after, strict=True)
        ]
        if all(map(np.array_equal, improved, present)):
            break
        present = improved
    scores = [score(shift(law, layer.stocks)) for law, layer in zip(laws, layers, strict=True)]
    return StockPlan(layers, present, laws, scores)


def stock_actions(
    plan: StockPlan,
    step: int,
    states: ArrayLike,
    stocks: ArrayLike,
    within: float = SAME_STOCK,
) -> NDArray[np.int64]:
    """The plan's actions in the pairs nearest to states and running stocks.

    Args:
        plan: a plan for a horizon.
        step: steps taken so far.
        states, stocks: where each of n episodes is [n].
        within: how far, times 1 + |stock|, a pair may be; more than rounding only where stocks were
            merged by a width.

    Returns:
        Actions, int64 [n].

    Raises:
        ValueError: the step is beyond the horizon, or no pair is near enough.
    """
    if not 0 <= step < len(plan.layers):
        raise ValueError(f"step={step} is outside 0 .. {len(plan.layers) - 1}")
    layer = plan.layers[step]
    asked, held = np.atleast_1d(states), np.atleast_1d(np.asarray(stocks, dtype=np.float64))
    # Pairs in order of state, then of stock, as one number: the stock takes up half a unit.
    least, span = layer.stocks.min(), max(float(np.ptp(layer.stocks)), 1e-300)
    keys = layer.states + (layer.stocks - least) / (2 * span)
    order = np.argsort(keys, kind="stable")
    wanted = asked + np.clip((held - least) / (2 * span), -0.25, 0.75)
    right = np.searchsorted(keys[order], wanted)
    both = order[np.clip(np.stack([right - 1, right]), 0, len(order) - 1)]
    apart = np.where(layer.states[both] == asked, np.abs(layer.stocks[both] - held), np.inf)
    nearest = apart.argmin(axis=0)[None]
    missed = np.take_along_axis(apart, nearest, axis=0)[0]
    wrong = missed > within * (1 + np.abs(held))
    if wrong.any():
        first = int(wrong.argmax())
        raise ValueError(
            f"state {asked[first]} with stock {held[first]} cannot be reached at step {step}"
        )
    return plan.policy[step][np.take_along_axis(both, nearest, axis=0)[0]]


def best_start_stock(stocks: ArrayLike, shortfalls: ArrayLike, level: float) -> tuple[int, float]:
    """Where to start for the conditional value at risk at `level`.

    CVaR = max over stocks c of -c + E min(c + G, 0) / level, for the policy that starts from c.

    Args:
        stocks: start stocks in increasing order [n].
        shortfalls: the best E min(c + G, 0) from each [n].
        level: in (0, 1].

    Returns:
        Index of the best stock (the lowest of equally good ones) and the maximum.

    Raises:
        ValueError: level is out of range, or the stocks are not increasing.
    """
    if not 0 < level <= 1:
        raise ValueError(f"level={level} is outside (0, 1]")
    points = increasing("stocks", stocks)
    duals = -points + np.asarray(shortfalls, dtype=np.float64) / level
    best = int((duals >= duals.max() - TIE * (1 + abs(duals.max()))).argmax())
    # At level 1 every stock below minus all returns is as good as the next.
    if best == len(points) - 1 or (best == 0 and level < 1):
        warnings.warn(
            f"the best start stock, {points[best]}, is at the edge of the grid: give a wider one",
            stacklevel=2,
        )
    return best, float(duals[best])


def _distinct(
    states: NDArray[np.int64], stocks: Floats, width: float
) -> tuple[NDArray[np.int64], Floats, NDArray[np.int64]]:
    """The different pairs in order of state and stock, and which of them each given one is."""
    if not width > 0:
        raise ValueError(f"width={width} must be positive")
    keys = np.rint(stocks / width)
    order = np.lexsort((stocks, keys, states))
    new = np.ones(len(order), dtype=bool)
    new[1:] = np.diff(states[order]).astype(bool) | np.diff(keys[order]).astype(bool)
    which = np.empty(len(order), np.int64)
    which[order] = np.cumsum(new) - 1
    kept = order[new]
    return states[kept], stocks[kept], which
