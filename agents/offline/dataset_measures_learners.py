"""Offline learners in tables: what they make of recorded steps is a law of actions [S, A]."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..base.action_values import greedy_law
from ..base.offline_data import OfflineDataset

Array = NDArray[np.float64]

THRESHOLD = 0.3  # of the most frequent action's frequency, from which on BCQ allows an action
SWEEPS = 200


def counts(dataset: OfflineDataset, states: int, actions: int) -> NDArray[np.int64]:
    """How often each action was taken in each state, [S, A]."""
    found = np.zeros((states, actions), dtype=np.int64)
    np.add.at(found, (dataset.observations, dataset.actions), 1)
    return found


def cloned_law(visits: NDArray[np.int64]) -> Array:
    """Behaviour cloning: actions as often as in the data; uniform where there are none."""
    total = visits.sum(axis=1, keepdims=True)
    return np.where(total > 0, visits / np.maximum(total, 1), 1 / visits.shape[1])


def often(visits: NDArray[np.int64], threshold: float = THRESHOLD) -> NDArray[np.bool_]:
    """Actions that BCQ allows, bool [S, A]; all of a state that was not seen."""
    return np.asarray(visits >= threshold * visits.max(axis=1, keepdims=True))


def q_values(
    dataset: OfflineDataset,
    visits: NDArray[np.int64],
    gamma: float,
    allowed: NDArray[np.bool_] | None = None,
    sweeps: int = SWEEPS,
) -> Array:
    """Sweeps of Q(s, a) <- mean of r + gamma max_b Q(s', b) over recorded steps, from 0, [S, A].

    Args:
        dataset: with rewards, next observations and terminations.
        visits: its `counts`; pairs without any keep 0.
        gamma: discount factor.
        allowed: actions b that count, bool [S, A]; None: all.
        sweeps: how many.
    """
    assert dataset.rewards is not None and dataset.next_observations is not None
    assert dataset.terminations is not None
    values = np.zeros(visits.shape)
    pairs = dataset.observations * visits.shape[1] + dataset.actions
    ways = gamma * ~dataset.terminations
    for _ in range(sweeps):
        best = values if allowed is None else np.where(allowed, values, -np.inf)
        targets = dataset.rewards + ways * best.max(axis=1)[dataset.next_observations]
        summed = np.bincount(pairs, targets, minlength=visits.size).reshape(visits.shape)
        values = np.where(visits > 0, summed / np.maximum(visits, 1), 0.0)
    return values


def learned_laws(
    dataset: OfflineDataset, states: int, actions: int, gamma: float
) -> dict[str, Array]:
    """What behaviour cloning, Q-learning and BCQ would play after this data set, by name."""
    visits = counts(dataset, states, actions)
    allowed = often(visits)
    constrained = np.where(allowed, q_values(dataset, visits, gamma, allowed), -np.inf)
    return {
        "BC": cloned_law(visits),
        "offline Q": greedy_law(q_values(dataset, visits, gamma)),
        "BCQ": greedy_law(constrained),
    }
