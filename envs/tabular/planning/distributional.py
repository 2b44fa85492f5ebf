"""Laws of returns: distributional Bellman operators, exact and on grids.

One backup turns the laws of the returns from the next states into those from every state and
action. What keeps the tables small is an argument of it:

    merge                 nothing is lost but what lies within a stated width (exact laws)
    project_categorical   onto a fixed grid of values (C51)
    project_quantiles     onto equally likely quantiles (QR-DQN)

Everything is vectorised over states, actions and leading axes, such as one law per policy.

Sources: M. G. Bellemare, W. Dabney, R. Munos, A distributional perspective on reinforcement
learning (ICML 2017); W. Dabney et al., Distributional reinforcement learning with quantile
regression (AAAI 2018).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..probabilities import check_probabilities, check_sums
from .laws import Floats, Law, increasing, quantile
from .robust_sets import check_model

WIDTH = 1e-12  # values that round to the same multiple of it are one
Reduce = Callable[[Law], Law]


class Outcomes(NamedTuple):
    """What can follow each state and action: N next states and rewards.

    Attributes:
        probability: [S, A, N], with sum 1; 0 where there are fewer than N.
        next_state: index of the next state [S, A, N].
        reward: [S, A, N].
    """

    probability: Floats
    next_state: NDArray[np.int64]
    reward: Floats


def outcomes_of(
    P: ArrayLike,
    low: ArrayLike,
    high: ArrayLike | None = None,
    q: ArrayLike | None = None,
    terminal: Sequence[int] = (),
) -> Outcomes:
    """The outcomes of a decision process given as `FiniteMDP.tables` gives it.

    Args:
        P: transitions [S, A, S] or [1, S, A, S]; of one step, where they change.
        low: rewards, broadcastable to P.
        high, q: other rewards and their probability, broadcastable to P; None: none.
        terminal: states that are left no more and pay nothing.

    Raises:
        ValueError: shapes do not fit, or probabilities are none.
    """
    table = check_model("P", P)
    if table.shape[:-3] not in ((), (1,)):
        raise ValueError(f"P has shape {table.shape}, allowed are [S, A, S] and [1, S, A, S]")
    if (high is None) != (q is None):
        raise ValueError("high and q belong together: give both or neither")
    low, high, chance = (
        np.broadcast_to(np.asarray(0.0 if part is None else part, np.float64), table.shape)
        for part in (low, low if high is None else high, q)
    )
    check_probabilities("q", chance)
    table, low, high, chance = (
        part.reshape(table.shape[-3:]).copy() for part in (table, low, high, chance)
    )
    ended = list(terminal)
    table[ended] = np.eye(len(table))[ended][:, None, :]
    low[ended] = chance[ended] = 0.0
    probability = np.concatenate([table * (1 - chance), table * chance], axis=-1)
    reward = np.concatenate([low, high], axis=-1)
    following = np.broadcast_to(np.tile(np.arange(len(table)), 2), reward.shape)
    # The possible ones to the front, as many columns as any (s, a) needs.
    order = np.argsort(probability <= 0, axis=-1, kind="stable")
    order = order[..., : int((probability > 0).sum(axis=-1).max())]
    probability, following, reward = (
        np.take_along_axis(part, order, axis=-1) for part in (probability, following, reward)
    )
    return Outcomes(probability, following.astype(np.int64), reward)


# -- operators -------------------------------------------------------------------------------------


def nothing(*shape: int) -> Law:
    """Laws [*shape, 1] of a return that is 0."""
    return Law(np.zeros((*shape, 1)), np.ones((*shape, 1)))


def distributional_backup(outcomes: Outcomes, law: Law, gamma: float, reduce: Reduce) -> Law:
    """Laws of R + gamma G(S') for every state and action.

    Args:
        outcomes: [S, A, N].
        law: laws of the returns from the next states [..., S', K].
        gamma: discount factor.
        reduce: what makes of the N K outcomes a table that is kept.

    Returns:
        Laws [..., S, A, K'].
    """
    after = np.take(law.values, outcomes.next_state, axis=-2)
    values = outcomes.reward[..., None] + gamma * after
    chances = outcomes.probability[..., None] * np.take(
        law.probabilities, outcomes.next_state, axis=-2
    )
    shape = (*values.shape[:-2], values.shape[-2] * values.shape[-1])
    return reduce(Law(values.reshape(shape), chances.reshape(shape)))


def follow(law: Law, policy: ArrayLike, reduce: Reduce) -> Law:
    """Laws [..., S, K'] under a policy, from those of every action [..., S, A, K].

    Args:
        policy: actions, integers [..., S], or probabilities of the actions [..., S, A].
    """
    policy = np.asarray(policy)
    if np.issubdtype(policy.dtype, np.integer):
        actions = law.values.shape[-2]
        if ((policy < 0) | (policy >= actions)).any():
            raise ValueError(f"policy holds actions outside 0 .. {actions - 1}")
        rank = max(policy.ndim + 2, law.values.ndim)
        index = policy[(None,) * (rank - policy.ndim - 2)][..., None, None]
        aligned = (part[(None,) * (rank - part.ndim)] for part in law)
        return Law(*(np.take_along_axis(part, index, axis=-2)[..., 0, :] for part in aligned))
    check_probabilities("policy", policy)
    check_sums("policy", policy)
    chances = policy[..., None] * law.probabilities
    shape = (*chances.shape[:-2], chances.shape[-2] * chances.shape[-1])
    values = np.broadcast_to(law.values, chances.shape)
    return reduce(Law(values.reshape(shape), chances.reshape(shape)))


def distributional_evaluation(
    layers: Sequence[Outcomes],
    policies: Sequence[ArrayLike],
    law: Law,
    gamma: float,
    reduce: Reduce | None = None,
) -> list[Law]:
    """Laws of the returns under a policy, from every step on.

    Args:
        layers: the outcomes of each step; those of step t lead into the states of step t + 1.
        policies: the policy of each step, as in `follow`.
        law: laws of what comes after the last step [..., S, K], such as `nothing(S)`.
        gamma: discount factor.
        reduce: as in `distributional_backup`; None: `merge`.

    Returns:
        One law [..., S, K] per step, first step first.
    """
    reduce = merge if reduce is None else reduce
    laws = []
    for outcomes, policy in zip(reversed(layers), reversed(policies), strict=True):
        law = follow(distributional_backup(outcomes, law, gamma, reduce), policy, reduce)
        laws.append(law)
    return laws[::-1]


# -- what keeps tables small -----------------------------------------------------------------------


def merge(law: Law, width: float = WIDTH) -> Law:
    """The same laws sorted, with values that round to the same multiple of `width` made one.

    The merged value is the mean of what it replaces, so that expectations stay what they are.
    """
    if not width > 0:
        raise ValueError(f"width={width} must be positive")
    shape = law.values.shape
    values, chances = (part.reshape(-1, shape[-1]) for part in law)
    order = np.argsort(np.where(chances > 0, values, np.inf), axis=1, kind="stable")
    values, chances = (np.take_along_axis(part, order, axis=1) for part in (values, chances))
    alive, keys = chances > 0, np.rint(values / width)
    first = alive.copy()
    first[:, 1:] &= keys[:, 1:] != keys[:, :-1]
    group = np.cumsum(first, axis=1) - 1
    size = int(group[:, -1].max()) + 1
    flat = (np.arange(len(values))[:, None] * size + group).ravel()
    # Padding takes the largest value.
    largest = np.where(alive, values, -np.inf).max(axis=1, keepdims=True)
    merged = np.repeat(largest, size, axis=1)
    merged.ravel()[flat[first.ravel()]] = values[first]
    excess = (values - np.take_along_axis(merged, group, axis=1)) * chances
    total = _sums(flat, chances, merged.size).reshape(merged.shape)
    moved = _sums(flat, excess, merged.size).reshape(merged.shape)
    merged += moved / np.where(total > 0, total, 1.0)
    return Law(merged.reshape(*shape[:-1], size), total.reshape(*shape[:-1], size))


def project_categorical(law: Law, grid: ArrayLike) -> Law:
    """The laws on fixed values: what falls between two of them is shared out linearly.

    Means are kept, except of values beyond the grid, which count as its ends.

    Args:
        law: laws [..., K].
        grid: increasing values [M], M >= 2.

    Returns:
        Laws [..., M] on the grid.
    """
    points = increasing("grid", grid)
    shape, size = law.values.shape, len(points)
    values = np.clip(law.values, points[0], points[-1])
    below = np.clip(np.searchsorted(points, values, side="right") - 1, 0, size - 2)
    share = (values - points[below]) / (points[below + 1] - points[below])
    rows = np.arange(int(np.prod(shape[:-1])))[:, None] * size
    flat = (rows + below.reshape(-1, shape[-1])).ravel()
    count = len(rows) * size
    projected = _sums(flat, law.probabilities * (1 - share), count)
    projected += _sums(flat + 1, law.probabilities * share, count)
    projected = projected.reshape(*shape[:-1], size)
    return Law(np.broadcast_to(points, projected.shape), projected)


def project_quantiles(law: Law, count: int) -> Law:
    """The laws as `count` equally likely values, the quantiles at (i + 1/2) / count.

    Of all such laws the nearest in the 1-Wasserstein distance.
    """
    if count < 1:
        raise ValueError(f"count={count} must be at least 1")
    values = quantile(law, (np.arange(count) + 0.5) / count)
    return Law(values, np.full(values.shape, 1 / count))


def _sums(index: NDArray[np.int64], amounts: Floats, size: int) -> Floats:
    """Amounts added up by index [size]."""
    return np.bincount(index, amounts.ravel(), size).astype(np.float64, copy=False)
