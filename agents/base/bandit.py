"""Base of the agents for bandits: a timestep is a round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule

from .stepping import SteppingAlgorithm, check_discrete, on_cpu


class ContextFreePolicy(BasePolicy):
    """One action whatever the observation: what a subclass's `action` says."""

    def action(self) -> torch.Tensor:
        """The action to predict, of the shape of the action space."""
        raise NotImplementedError

    def _predict(self, observation: Any, deterministic: bool = False) -> torch.Tensor:
        if isinstance(observation, dict):
            observation = next(iter(observation.values()))
        action = self.action()
        return action.expand(len(observation), *action.shape)


class ArmsPolicy(ContextFreePolicy):
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

    def action(self) -> torch.Tensor:
        """The arm with the best mean."""
        return self.means().argmax()


class HeldArmPolicy(ContextFreePolicy):
    """The arm that a learner holds at present, and predicts, in `held`.

    Args:
        observation_space: any; not looked at.
        action_space: `Discrete`, or what a subclass makes of an arm.
        lr_schedule: not used; SB3 hands it to every policy.
    """

    held: torch.Tensor

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        lr_schedule: Schedule | None = None,
    ) -> None:
        super().__init__(observation_space, action_space)
        self.register_buffer("held", torch.zeros((), dtype=torch.int64))

    def action(self) -> torch.Tensor:
        """The arm that is held."""
        return self.held


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


def told(infos: Sequence[Mapping[str, Any]], *names: str) -> dict[str, float]:
    """Means over the environments of what all their infos tell under some names, to log."""
    return {
        f"rollout/{name}": float(np.mean([info[name] for info in infos]))
        for name in names
        if infos and all(name in info for info in infos)
    }


def summed(amounts: NDArray[np.float64], points: int = 20) -> tuple[list[float], list[float]]:
    """A curve: rounds played, and what the amounts [rounds] came to until then, at about `points`
    places."""
    places = np.unique(np.linspace(0, len(amounts), points + 1).round().astype(np.int64)[1:])
    return places.astype(float).tolist(), np.cumsum(amounts)[places - 1].tolist()


def count(
    arms: NDArray[np.int64], rewards: NDArray[np.float64], number: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Pulls and summed rewards of `number` arms, from the arms pulled and what they paid [n]."""
    pulls = np.bincount(arms, minlength=number).astype(np.int64)
    return pulls, np.bincount(arms, weights=rewards, minlength=number).astype(np.float64)


class Diary(BaseCallback):
    """Keeps what an agent tells of its rounds: a row for every update."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[dict[str, float]] = []

    def _on_step(self) -> bool:
        self.rows.append(dict(self.model._metrics))  # type: ignore[attr-defined]
        return True

    def column(self, name: str) -> NDArray[np.float64]:
        """What was told of `name`, [updates]; NaN where nothing was."""
        return np.array([row.get(name, np.nan) for row in self.rows])
