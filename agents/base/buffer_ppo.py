"""PPO that keeps a short buffer of recent batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import obs_as_tensor

from ...envs.checks import check_integer
from .declare import Example
from .ppo import ProximalAlgorithm

Rows = dict[str, NDArray[Any]]
RECORDED = ("observations", "actions", "rewards", "episode_starts")


class BufferPPO(ProximalAlgorithm):
    """PPO that learns from the last few batches instead of the last one.

    What the present policy and value function say of older steps takes the place of what was said
    when they were taken. (A reward that bootstraps a truncated episode keeps its value of then.)
    With one batch it is `ProximalAlgorithm`, bit for bit. A `learn` that resets the environment
    starts with an empty buffer.

    Args:
        policy, env, arguments: as in `stable_baselines3.PPO`, without `Dict` observations.
        batches: b, how many batches of `n_steps` there are at most, at least 1.

    Raises:
        ValueError: `batches` is below 1, or observations are dictionaries.
    """

    example = Example(
        "Garnet-v0",
        {"states": 4, "branching": 2, "max_steps": 10},
        kwargs={"n_steps": 64, "batch_size": 32, "n_epochs": 2, "batches": 2},
        steps=256,
    )

    def __init__(
        self,
        policy: Any,
        env: Any,
        *,
        batches: int = 2,
        **arguments: Any,
    ) -> None:
        self.batches = check_integer("batches", batches, 1)
        self.older: Rows = {}  # name -> rows [steps, environments, ...], the latest last
        super().__init__(policy, env, **arguments)

    def _setup_model(self) -> None:
        if isinstance(self.observation_space, spaces.Dict):
            raise ValueError(f"{type(self).__name__} takes no Dict observations: flatten them")
        super()._setup_model()

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: Any = None,
        reset_num_timesteps: bool = True,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[int, BaseCallback]:
        # Only steps that follow each other in time may stand in a row.
        if reset_num_timesteps or self._last_obs is None:
            self.older = {}
        return super()._setup_learn(total_timesteps, callback, reset_num_timesteps, *args, **kwargs)

    def collect_rollouts(self, *args: Any, **kwargs: Any) -> bool:
        """As the base's; a rollout that a callback stops leaves a gap, so it empties the buffer."""
        finished = super().collect_rollouts(*args, **kwargs)
        if not finished:
            self.older = {}
        return finished

    def train(self) -> None:
        """Learn from all batches that are kept, then let the oldest go."""
        latest, rows = self.rollout_buffer, self.rows()
        if self.older:
            self.rollout_buffer = self.joined(rows)
        super().train()
        self.rollout_buffer = latest
        kept = (self.batches - 1) * self.n_steps
        self.older = {name: value[-kept:] for name, value in rows.items()} if kept else {}

    def rows(self) -> Rows:
        """All that is kept and collected, [steps, environments, ...], oldest first; copies."""
        latest = {
            name: getattr(self.rollout_buffer, name)[: self.rollout_buffer.pos] for name in RECORDED
        }
        if not self.older:
            return {name: value.copy() for name, value in latest.items()}
        return {name: np.concatenate([self.older[name], latest[name]]) for name in RECORDED}

    def joined(self, rows: Rows) -> Any:
        """A rollout of all rows, as if the present policy and value function had collected it."""
        size = len(rows["rewards"])
        buffer = type(self.rollout_buffer)(
            size,
            self.observation_space,
            self.action_space,
            device=self.device,
            gae_lambda=self.gae_lambda,
            gamma=self.gamma,
            n_envs=self.n_envs,
        )
        for name, value in rows.items():
            setattr(buffer, name, value)
        with torch.no_grad():
            values, log_probs, _ = self.policy.evaluate_actions(*self.pairs(rows))
            assert self._last_obs is not None
            last = self.policy.predict_values(obs_as_tensor(self._last_obs, self.device))
        buffer.values, buffer.log_probs = (
            found.reshape(size, self.n_envs).cpu().numpy() for found in (values, log_probs)
        )
        buffer.pos, buffer.full = size, True
        assert self._last_episode_starts is not None
        buffer.compute_returns_and_advantage(last, self._last_episode_starts)
        return buffer

    def pairs(self, rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
        """Observations and actions of all rows, [N, ...] each, as the policy takes them."""
        observations, actions = (
            torch.as_tensor(rows[name].reshape(-1, *rows[name].shape[2:]), device=self.device)
            for name in ("observations", "actions")
        )
        if isinstance(self.action_space, spaces.Discrete):
            actions = actions.long().flatten()
        return observations, actions

    def learning_state(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """The older batches."""
        values, tensors = super().learning_state()
        older = {f"older.{name}": torch.as_tensor(value) for name, value in self.older.items()}
        return values, tensors | older

    def restore_learning_state(
        self, values: dict[str, Any], tensors: dict[str, torch.Tensor]
    ) -> None:
        """Inverse of `learning_state`."""
        super().restore_learning_state(values, tensors)
        found = {name: tensors.get(f"older.{name}") for name in RECORDED}
        self.older = {k: each.numpy().copy() for k, each in found.items() if each is not None}
