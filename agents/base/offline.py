"""Base of the agents that learn from a fixed data set: a timestep is a gradient step."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import (
    ActorCriticCnnPolicy,
    ActorCriticPolicy,
    MultiInputActorCriticPolicy,
)
from stable_baselines3.common.type_aliases import GymEnv, Schedule

from .dataset import DatasetAlgorithm
from .offline_data import OfflineDataset


class OfflineAlgorithm(DatasetAlgorithm):
    """Gradient steps on minibatches of recorded steps. A subclass writes `learn_from`.

    Args:
        policy: alias in `policy_aliases`, or a policy class.
        env: an `OfflineDataset`, whose `env` (if any) is the one to evaluate in; or only an
            environment, for an agent that is loaded to predict and gets its data later, from
            `set_env`.
        batch_size: steps per minibatch, drawn with replacement.
        learning_rate, policy_kwargs, seed, device, verbose, tensorboard_log: as in `Algorithm`.
    """

    policy_aliases: ClassVar[dict[str, Any]] = {
        "MlpPolicy": ActorCriticPolicy,
        "CnnPolicy": ActorCriticCnnPolicy,
        "MultiInputPolicy": MultiInputActorCriticPolicy,
    }
    dataset_class = OfflineDataset
    dataset: OfflineDataset | None
    generator: np.random.Generator

    def __init__(
        self,
        policy: Any,
        env: OfflineDataset | GymEnv | str | None,
        *,
        learning_rate: float | Schedule = 1e-3,
        batch_size: int = 64,
        **common: Any,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.batch_size = batch_size
        super().__init__(policy, env, learning_rate=learning_rate, **common)

    def _setup_model(self) -> None:
        self._setup_lr_schedule()
        self.set_random_seed(self.seed)
        self.generator = np.random.default_rng(self.seed)
        self.policy = self.policy_class(
            self.observation_space, self.action_space, self.lr_schedule, **self.policy_kwargs
        ).to(self.device)

    def learn_from(self, batch: dict[str, torch.Tensor]) -> dict[str, float]:
        """One gradient step on a minibatch; returns what to log.

        Args:
            batch: tensors [batch_size, ...] on the agent's device, named as in `OfflineDataset`;
                those that the data has.
        """
        raise NotImplementedError

    def update(self) -> dict[str, float]:
        """Draw a minibatch and learn from it."""
        assert self.dataset is not None
        rows = self.generator.integers(len(self.dataset), size=self.batch_size)
        self.policy.set_training_mode(True)
        batch = {
            name: self._tensor(name, array[rows]) for name, array in self.dataset.arrays().items()
        }
        metrics = self.learn_from(batch)
        self.num_timesteps += 1
        return metrics

    def _tensor(self, name: str, array: NDArray[Any]) -> torch.Tensor:
        if name in ("observations", "next_observations"):
            return self.policy.obs_to_tensor(array)[0]  # type: ignore[return-value]
        tensor = torch.as_tensor(array, device=self.device)
        return tensor.float() if tensor.dtype == torch.float64 else tensor

    def _setup_learn(self, *args: Any, **kwargs: Any) -> tuple[int, BaseCallback]:
        """As the base's.

        Raises:
            ValueError: there is no data set.
        """
        if self.dataset is None:
            raise ValueError(
                "there is no data to learn from: give an OfflineDataset as env, or to set_env"
            )
        return super()._setup_learn(*args, **kwargs)

    def learning_state(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """The generator that draws minibatches."""
        return {"generator": self.generator.bit_generator.state}, {}

    def restore_learning_state(
        self, values: dict[str, Any], tensors: dict[str, torch.Tensor]
    ) -> None:
        """Inverse of `learning_state`."""
        self.generator.bit_generator.state = values["generator"]
