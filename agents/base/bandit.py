"""Base of the agents for bandits: a timestep is a round."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule

from .stepping import SteppingAlgorithm, check_discrete, on_cpu


class ArmsPolicy(BasePolicy):
    """What each arm has paid, whatever the context. Predicts the arm with the best mean (ties: the
    lowest).

    Args:
        observation_space: any; not looked at.
        action_space: `Discrete`.
        lr_schedule: not used; SB3 hands it to every policy.
    """

    pulls: torch.Tensor
    payoffs: torch.Tensor

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        lr_schedule: Schedule | None = None,
    ) -> None:
        super().__init__(observation_space, action_space)
        check_discrete(action_space, "arms", "a bandit")
        arms = int(action_space.n)  # type: ignore[attr-defined]
        self.register_buffer("pulls", torch.zeros(arms, dtype=torch.int64))
        self.register_buffer("payoffs", torch.zeros(arms, dtype=torch.float64))

    def means(self) -> torch.Tensor:
        """Mean payoff of each arm, -inf before its first pull, [A]."""
        return torch.where(self.pulls > 0, self.payoffs / self.pulls.clamp(min=1), -torch.inf)

    def _predict(self, observation: Any, deterministic: bool = False) -> torch.Tensor:
        if isinstance(observation, dict):
            observation = next(iter(observation.values()))
        return self.means().argmax().expand(len(observation))


class BanditAlgorithm(SteppingAlgorithm):
    """Learning by rounds: see a context, choose an arm, be paid. A subclass writes `act` and
    `learn_from`.

    The arms that parallel environments pull in one round are chosen before any of them pays.

    Args:
        policy: "ArmsPolicy", or a subclass's policy with features of the context.
        env: with `Discrete` actions; what its state becomes after a round does not matter.
        learning_rate, policy_kwargs, seed, device, verbose, tensorboard_log: as in `Algorithm`.
    """

    policy_aliases: ClassVar[dict[str, Any]] = {"ArmsPolicy": ArmsPolicy}

    def __init__(
        self,
        policy: Any,
        env: GymEnv | str | None,
        *,
        device: torch.device | str = "auto",
        **common: Any,
    ) -> None:
        super().__init__(policy, env, device=on_cpu(device), **common)


def count(
    arms: NDArray[np.int64], rewards: NDArray[np.float64], number: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Pulls and summed rewards of `number` arms, from the arms pulled and what they paid [n]."""
    pulls = np.bincount(arms, minlength=number).astype(np.int64)
    return pulls, np.bincount(arms, weights=rewards, minlength=number).astype(np.float64)
