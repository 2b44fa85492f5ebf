"""Base of the agents for finite worlds: a table is the policy."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from torch import nn

from .masked import MaskedPolicy, MaskedPrediction
from .stepping import Mask, SteppingAlgorithm, check_discrete, on_cpu


class DiscretePolicy(BasePolicy):
    """A policy that looks its observation up in a table.

    Args:
        observation_space, action_space: `Discrete`.
    """

    def __init__(self, observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> None:
        super().__init__(observation_space, action_space)
        check_discrete(observation_space, "observations", "a table")
        check_discrete(action_space, "actions", "a table")
        self.states, self.actions = int(observation_space.n), int(action_space.n)  # type: ignore[attr-defined]

    def obs_to_tensor(self, observation: Any) -> tuple[Any, bool]:
        """As SB3's.

        Raises:
            ValueError: an observation outside the table.
        """
        observations, batched = super().obs_to_tensor(observation)
        assert isinstance(observations, torch.Tensor)
        outside = (observations < 0) | (observations >= self.states)
        if outside.any():
            raise ValueError(
                f"observation {observations[outside][0].item()} is outside {self.observation_space}"
            )
        return observations, batched


class TablePolicy(MaskedPolicy, DiscretePolicy):
    """Action values in a table, played greedily; of equally good actions the lowest.

    Without `deterministic`, each action is with probability `exploration_rate` a uniform one.

    Args:
        observation_space, action_space: `Discrete`.
        lr_schedule: not used; SB3 hands it to every policy.
        initial: value with which the table starts; above what can be earned it explores (optimism).
    """

    exploration_rate: torch.Tensor

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        lr_schedule: Schedule | None = None,
        initial: float = 0.0,
    ) -> None:
        super().__init__(observation_space, action_space)
        shape = (self.states, self.actions)
        values = torch.full(shape, float(initial), dtype=torch.float64)
        self.values = nn.Parameter(values, requires_grad=False)
        self.register_buffer("exploration_rate", torch.zeros((), dtype=torch.float64))

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        """Action values [n, A] of observations [n]."""
        return self.values[observation.long()]

    def choose(
        self, observations: torch.Tensor, deterministic: bool, masks: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Actions [n] for observations [n]; `masks` bool [n, A] says which are allowed."""
        values = self.forward(observations)
        allowed = torch.ones_like(values, dtype=torch.bool) if masks is None else masks.bool()
        greedy = values.masked_fill(~allowed, -torch.inf).argmax(dim=1)
        if deterministic or not self.exploration_rate:
            return greedy
        explores = torch.rand(len(values)) < self.exploration_rate
        uniform = torch.multinomial(allowed.double(), 1)[:, 0]
        return torch.where(explores, uniform, greedy)


class TabularAlgorithm(MaskedPrediction, SteppingAlgorithm):
    """Learning action values in a finite world. A subclass writes `act` and `learn_from`.

    A timestep is an environment step; an agent that plans overrides `update` and counts a sweep.

    Args:
        policy: "TablePolicy".
        env: with `Discrete` observations and actions, native or not.
        gamma: discount factor in [0, 1].
        learning_rate, policy_kwargs, seed, device, verbose, tensorboard_log: as in `Algorithm`; a
            table lives on the CPU.
    """

    policy_aliases: ClassVar[dict[str, Any]] = {"TablePolicy": TablePolicy}
    policy: TablePolicy

    def __init__(
        self,
        policy: Any,
        env: GymEnv | str | None,
        *,
        gamma: float = 0.99,
        learning_rate: float | Schedule = 0.1,
        device: torch.device | str = "auto",
        **common: Any,
    ) -> None:
        if not 0 <= gamma <= 1:
            raise ValueError(f"gamma={gamma} is outside [0, 1]")
        self.gamma = gamma
        super().__init__(policy, env, learning_rate=learning_rate, device=on_cpu(device), **common)

    @property
    def table(self) -> NDArray[np.float64]:
        """The action values [S, A]; writing here changes the policy."""
        return self.policy.values.numpy()


def epsilon_greedy(
    values: NDArray[np.float64],
    masks: Mask | None,
    epsilon: float,
    generator: np.random.Generator,
) -> NDArray[np.int64]:
    """With probability epsilon any allowed action, else a best one; ties are broken at random.

    Args:
        values: [n, A].
        masks: allowed actions, bool [n, A]; None: all.
        epsilon: in [0, 1].
        generator: draws n + n A uniforms.

    Returns:
        Actions [n].
    """
    allowed = np.ones(values.shape, dtype=bool) if masks is None else masks
    values = np.where(allowed, values, -np.inf)
    best = allowed & (values == values.max(axis=1, keepdims=True))
    explores = generator.random(len(values)) < epsilon
    candidates = np.where(explores[:, None], allowed, best)
    return np.where(candidates, generator.random(values.shape), -1.0).argmax(axis=1)
