"""What agents share whose `env` may be a data set."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.utils import check_for_correct_spaces

from .algorithm import Algorithm


class DatasetAlgorithm(Algorithm):
    """An agent that takes a data set in the place of an environment, and goes on without one.

    A data set has the attributes `env` (an environment to evaluate in, or None),
    `observation_space` and `action_space`.

    Args:
        policy: alias in `policy_aliases`, or a policy class.
        env: a `dataset_class`, or an environment.
        learning_rate, policy_kwargs, seed, ...: as in `Algorithm`.
    """

    dataset_class: ClassVar[type]
    learns_in_env = False
    dataset: Any  # a `dataset_class`, or None

    def __init__(
        self,
        policy: Any,
        env: Any,
        *,
        _init_setup_model: bool = True,
        **common: Any,
    ) -> None:
        self.dataset = env if isinstance(env, self.dataset_class) else None
        inner = env if self.dataset is None else self.dataset.env
        super().__init__(policy, inner, _init_setup_model=False, **common)
        if self.dataset is not None and self.env is None:
            self.observation_space = self.dataset.observation_space
            self.action_space = self.dataset.action_space
            self.n_envs = 1
        if _init_setup_model:
            self._setup_model()

    def set_env(self, env: Any, force_reset: bool = True) -> None:
        """Change the data set and its environment, or only the environment.

        Raises:
            ValueError: the spaces are not those of the agent.
        """
        inner: GymEnv | None = env
        if isinstance(env, self.dataset_class):
            self._check_spaces(env)
            self.dataset = env
            inner = self.dataset.env
            if inner is None:
                self.env = None
                return
        assert inner is not None
        wrapped = self._wrap_env(inner, self.verbose)
        self.n_envs = wrapped.num_envs  # evaluation may run in any number of environments
        super().set_env(wrapped, force_reset)

    def _fit_spaces(self, config: dict[str, Any]) -> None:
        super()._fit_spaces(config)
        if self.dataset is not None:
            self._check_spaces(self.dataset)

    def _check_spaces(self, dataset: Any) -> None:
        # A data set has the two attributes that SB3's check of an environment reads.
        check_for_correct_spaces(dataset, self.observation_space, self.action_space)

    def _setup_learn(
        self, total_timesteps: int, *args: Any, **kwargs: Any
    ) -> tuple[int, BaseCallback]:
        """As `Algorithm`'s, also where there is a data set and no environment."""
        if self.env is not None or self.dataset is None:
            return super()._setup_learn(total_timesteps, *args, **kwargs)
        # SB3 resets the environment together with the counters: here there is nothing to reset.
        nothing = SimpleNamespace(
            num_envs=1, reset=lambda: np.zeros(1), has_attr=lambda name: False
        )
        self.env = nothing  # type: ignore[assignment]
        try:
            return super()._setup_learn(total_timesteps, *args, **kwargs)
        finally:
            self.env = None
