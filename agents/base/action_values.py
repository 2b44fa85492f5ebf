"""Optimal action values of finite worlds, hard and soft, and the policies that play them.

Without entropy Q = R + gamma P max Q. With entropy at temperature alpha

    Q = R + gamma P [alpha log sum exp(Q / alpha)],    pi = softmax(Q / alpha)
"""

from __future__ import annotations

from math import inf
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import logsumexp, softmax
from stable_baselines3.common.type_aliases import Schedule

from ...envs.tabular.planning.discounted import backup, policy_iteration
from ...envs.tabular.planning.tables import check_gamma
from .tabular import TablePolicy

Array = NDArray[np.float64]

TIES = 1e-8  # difference of values up to which actions tie: floats are hardly ever equal
EXACT = 1e-10  # error of soft values


def q_star(P: Array, R: Array, gamma: float) -> Array:
    """Optimal action values [S, A] of a world P [S, A, S], R [S, A], exact up to rounding.

    Raises:
        ValueError: the tables are none, or gamma is outside [0, 1).
    """
    return np.asarray(backup(P, R, policy_iteration(P, R, gamma).values, gamma))


def q_soft(P: Array, R: Array, gamma: float, alpha: float) -> Array:
    """Action values [S, A] with entropy at temperature alpha > 0, within 1e-10.

    Raises:
        ValueError: gamma is outside [0, 1), or alpha not above 0.
    """
    check_gamma(gamma)
    if not alpha > 0:
        raise ValueError(f"alpha={alpha} must be above 0; q_star has the values without entropy")
    found, error = np.asarray(R, dtype=np.float64), inf
    while error > EXACT:
        before, found = found, sweep(P, R, found, gamma, alpha)
        error = gamma / (1 - gamma) * float(np.abs(found - before).max())
    return found


def sweep(P: Array, R: Array, action_values: Array, gamma: float, alpha: float) -> Array:
    """R + gamma P V, where V is the maximum of Q, or with alpha > 0 the soft one, [S, A].

    Rows of P may sum to less than 1: the rest leads to where the task has ended.
    """
    values = action_values.max(axis=-1)
    if alpha > 0:
        values = alpha * logsumexp(action_values / alpha, axis=-1)
    return np.asarray(R + gamma * P @ values)


def optimal_sets(action_values: Array, tolerance: float = TIES) -> NDArray[np.bool_]:
    """Which actions are as good as the best one, bool [..., A]."""
    return np.asarray(action_values >= action_values.max(axis=-1, keepdims=True) - tolerance)


def margins(action_values: Array) -> Array:
    """Lead of the best action over the second best, [...]; infinite where there is only one."""
    if action_values.shape[-1] == 1:
        return np.full(action_values.shape[:-1], inf)
    two = np.sort(action_values, axis=-1)[..., -2:]
    return np.asarray(two[..., 1] - two[..., 0])


def greedy_law(action_values: Array, tolerance: float = TIES) -> Array:
    """The lowest of the best actions, as probabilities [..., A]."""
    best = optimal_sets(action_values, tolerance).argmax(axis=-1)
    return np.asarray(np.eye(action_values.shape[-1])[best])


def law(action_values: Array, alpha: float, tolerance: float = TIES) -> Array:
    """softmax(Q / alpha); with alpha = 0 the uniform law of the best actions, [..., A]."""
    if alpha > 0:
        return np.asarray(softmax(action_values / alpha, axis=-1))
    best = optimal_sets(action_values, tolerance)
    return np.asarray(best / best.sum(axis=-1, keepdims=True))


def total_variation(left: Array, right: Array) -> Array:
    """Half the sum of absolute differences of laws [..., A], [...]."""
    return np.asarray(0.5 * np.abs(left - right).sum(axis=-1))


class LawPolicy(TablePolicy):
    """Action values in a table and `law` of them: soft, or uniform over the best.

    With `deterministic` it plays the lowest of the best actions.

    Args:
        observation_space, action_space, lr_schedule: as in `TablePolicy`.
        alpha, tolerance: as in `law`.
    """

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        lr_schedule: Schedule | None = None,
        alpha: float = 0.0,
        tolerance: float = TIES,
    ) -> None:
        super().__init__(observation_space, action_space, lr_schedule)
        self.alpha, self.tolerance = alpha, tolerance

    def choose(
        self, observations: torch.Tensor, deterministic: bool, masks: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Actions [n] for observations [n]; `masks` bool [n, A] says which are allowed."""
        values = self.forward(observations)
        if masks is not None:
            values = values.masked_fill(~masks.bool(), -torch.inf)
        if deterministic:
            return torch.from_numpy(optimal_sets(values.numpy(), self.tolerance).argmax(axis=1))
        laws = law(values.numpy(), self.alpha, self.tolerance)
        return torch.multinomial(torch.from_numpy(laws), 1)[:, 0]
