"""Learning step by step in an environment: what tabular agents and bandits share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import MaybeCallback

from .algorithm import Algorithm

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Transitions:
    """One step of each of n environments.

    Attributes:
        observations, next_observations: [n, ...]; of an episode that ended, the last one it showed.
        actions: [n, ...].
        rewards: float64 [n].
        terminated: bool [n], whether the value beyond is 0.
        dones: bool [n], whether the episode is over, terminated or cut.
        next_masks: actions allowed after the step, bool [n, A]; None where the environment masks
            none.
        infos: what the environments said beside, n dictionaries.
    """

    observations: NDArray[Any]
    actions: NDArray[Any]
    rewards: NDArray[np.float64]
    next_observations: NDArray[Any]
    terminated: Mask
    dones: Mask
    next_masks: Mask | None
    infos: Sequence[Mapping[str, Any]] = ()


class SteppingAlgorithm(Algorithm):
    """An update is one step of every environment. A subclass writes `act` and `learn_from`.

    Arguments are those of `Algorithm`. `generator` draws what `act` needs.
    """

    generator: np.random.Generator
    _masked = False

    def _setup_model(self) -> None:
        self._setup_lr_schedule()
        self.set_random_seed(self.seed)
        # A child: the environment has the same seed, and from one stream an agent would draw what
        # the world draws.
        self.generator = np.random.default_rng(self.seed).spawn(1)[0]
        self.policy = self.policy_class(
            self.observation_space, self.action_space, self.lr_schedule, **self.policy_kwargs
        ).to(self.device)

    def act(self, observations: NDArray[Any], masks: Mask | None) -> NDArray[Any]:
        """Actions to learn with, [n, ...]; allowed are those of `masks` bool [n, A], or all."""
        raise NotImplementedError

    def learn_from(self, transitions: Transitions) -> dict[str, float]:
        """Learn from one step of every environment; returns what to log."""
        raise NotImplementedError

    def update(self) -> dict[str, float]:
        """One step of every environment."""
        assert self.env is not None and isinstance(self._last_obs, np.ndarray)
        observations = self._last_obs
        actions = self.act(observations, self._masks())
        following, rewards, dones, infos = self.env.step(actions)
        assert isinstance(following, np.ndarray)
        self.num_timesteps += self.env.num_envs
        self._update_info_buffer(infos, dones)
        self._last_obs, self._last_episode_starts = following, dones
        following, next_masks, terminated = following.copy(), self._masks(), dones.copy()
        for row in np.flatnonzero(dones):
            # The environment already shows a new episode; what the old one ended with is in its
            # info.
            following[row] = infos[row]["terminal_observation"]
            terminated[row] = not infos[row].get("TimeLimit.truncated", False)
            if next_masks is not None:
                next_masks[row] = infos[row]["action_mask"]
        paid = rewards.astype(np.float64)
        return self.learn_from(
            Transitions(
                observations, actions, paid, following, terminated, dones, next_masks, infos
            )
        )

    def _masks(self) -> Mask | None:
        if not self._masked or self.env is None:
            return None
        return np.stack(self.env.env_method("action_masks")).astype(bool)

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 1_000,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """As `Algorithm.learn`; an update is quick, so the log is dumped after 1,000."""
        return super().learn(total_timesteps, callback, log_interval, *args, **kwargs)

    def _setup_learn(self, *args: Any, **kwargs: Any) -> tuple[int, BaseCallback]:
        """As `Algorithm`'s; also asks whether the environment masks actions."""
        result = super()._setup_learn(*args, **kwargs)
        self._masked = self.env is not None and self.env.has_attr("action_masks")
        return result

    def learning_state(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """The generator."""
        return {"generator": self.generator.bit_generator.state}, {}

    def restore_learning_state(
        self, values: dict[str, Any], tensors: dict[str, torch.Tensor]
    ) -> None:
        """Inverse of `learning_state`."""
        self.generator.bit_generator.state = values["generator"]


def on_cpu(device: torch.device | str) -> str:
    """The device of a table, which is read and written entry by entry.

    Raises:
        ValueError: another device than the CPU is asked for.
    """
    if str(device) not in ("auto", "cpu"):
        raise ValueError(
            f"device={str(device)!r}: a table lives on the CPU (device='auto' or 'cpu')"
        )
    return "cpu"


def check_discrete(space: Any, what: str, agent: str) -> None:
    """ValueError unless a space is `Discrete` and starts at 0."""
    from gymnasium.spaces import Discrete

    if not (isinstance(space, Discrete) and space.start == 0):
        raise ValueError(f"{agent} needs {what} in Discrete(n) from 0, got {space}")
