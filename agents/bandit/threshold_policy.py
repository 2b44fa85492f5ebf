"""Mixtures of policies that accept people, and the class of thresholds by group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import Schedule

Array = NDArray[np.float64]
GRID = tuple(np.linspace(0.1, 0.9, 9).round(1).tolist())  # thresholds of the default class


def acceptance(decisions: NDArray[Any], weights: Array, mix: float) -> Array:
    """pi, the probability with which each person is accepted, [..., k].

    Args:
        decisions: of each policy of the class, 0 or 1, [..., k, H].
        weights: q, [H].
        mix: probability of the common coin.
    """
    # Rounding must not carry a probability beyond 1.
    found: Array = (1 - mix) * np.minimum(decisions @ weights, 1.0) + mix / 2
    return found


def sampled(decisions: NDArray[Any], weights: Array, mix: float, draws: Array) -> NDArray[np.int8]:
    """Decisions [n, k] of the common coin or of one policy h ~ q.

    Args:
        decisions, weights, mix: as in `acceptance`, of n rounds, [n, k, H].
        draws: uniform in [0, 1), [n, 3].
    """
    sums = weights.cumsum()
    member = np.minimum((sums <= draws[:, 2:] * sums[-1]).sum(axis=1), len(weights) - 1)
    ours = np.take_along_axis(decisions, member[:, None, None], axis=2)[..., 0]
    coin = (draws[:, 1:2] < 0.5) & np.ones_like(ours, dtype=bool)
    return np.where(draws[:, :1] < mix, coin, ours).astype(np.int8)


class ThresholdPolicy(BasePolicy):
    """A mixture of policies that accept from a threshold of the score on, one for each group.

    A person is a score, or a score and a group, 0 or 1; the class has a policy for each choice of
    the groups' thresholds. With `deterministic` those are accepted that the mixture accepts with
    more than 1/2, else one policy is drawn, or the common coin.

    Args:
        observation_space: `Box`, k people with one or two numbers each, one after the other.
        action_space: `MultiBinary(k)`.
        lr_schedule: not used; SB3 hands it to every policy.
        thresholds: to choose from.
        mix: probability of the common coin.
    """

    log_weights: torch.Tensor
    thresholds: torch.Tensor

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        lr_schedule: Schedule | None = None,
        thresholds: Sequence[float] = GRID,
        mix: float = 0.05,
    ) -> None:
        super().__init__(observation_space, action_space)
        if not isinstance(action_space, gym.spaces.MultiBinary):
            raise ValueError(f"accepting and rejecting needs MultiBinary(k), got {action_space}")
        self.k, self.mix = int(np.prod(action_space.shape)), mix
        size = int(np.prod(observation_space.shape or (0,)))
        if size not in (self.k, 2 * self.k):
            raise ValueError(
                f"{self.k} people with a score and perhaps a group are {self.k} or {2 * self.k} "
                f"numbers, got {observation_space}"
            )
        choices = torch.tensor(list(thresholds), dtype=torch.float64)
        if not len(choices):
            raise ValueError("thresholds must hold at least one number")
        class_ = torch.cartesian_prod(*[choices] * (size // self.k)).reshape(-1, size // self.k)
        self.register_buffer("thresholds", class_)
        uniform = torch.full((len(class_),), -np.log(len(class_)), dtype=torch.float64)
        self.register_buffer("log_weights", uniform)

    @property
    def weights(self) -> Array:
        """q, [H]."""
        found: Array = self.log_weights.exp().numpy()
        return found

    def decisions(self, observations: NDArray[Any]) -> NDArray[np.int8]:
        """Of each policy of the class about observations [n, ...], 0 or 1, [n, k, H].

        Raises:
            ValueError: a group is neither 0 nor 1.
        """
        people = np.asarray(observations, dtype=np.float64).reshape(len(observations), self.k, -1)
        groups = np.zeros((1, 1), dtype=np.int64)
        if people.shape[-1] > 1:
            groups = people[..., 1].astype(np.int64)
            if ((groups != people[..., 1]) | (groups < 0) | (groups > 1)).any():
                raise ValueError(f"a group is 0 or 1, got {np.unique(people[..., 1]).tolist()}")
        accepted: NDArray[np.int8] = (people[..., :1] >= self.thresholds.numpy().T[groups]).astype(
            np.int8
        )
        return accepted

    def acceptance(self, observations: NDArray[Any]) -> Array:
        """pi for people [n, ...], [n, k]."""
        return acceptance(self.decisions(observations), self.weights, self.mix)

    def _predict(self, observation: Any, deterministic: bool = False) -> torch.Tensor:
        shown = observation.numpy()
        if deterministic:
            return torch.from_numpy((self.acceptance(shown) > 0.5).astype(np.int8))
        draws = torch.rand(len(shown), 3, dtype=torch.float64).numpy()
        return torch.from_numpy(sampled(self.decisions(shown), self.weights, self.mix, draws))
