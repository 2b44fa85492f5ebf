"""Stable-Baselines3's on-policy algorithms with this suite's checkpoints and exact resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import stable_baselines3
from stable_baselines3.common.type_aliases import MaybeCallback

from .declare import Example
from .resumable import Checkpoints, check_request


class ResumableSB3(Checkpoints):
    """Exact resume for an on-policy algorithm: `class PPO(ResumableSB3, stable_baselines3.PPO)`.

    The state of learning is written between a gradient update and the next rollout, when nothing is
    half done.
    """

    _folder: Path | None = None
    _seconds = 0.0

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        *args: Any,
        reset_num_timesteps: bool = True,
        checkpoint: str | Path | None = None,
        resume: bool = False,
        checkpoint_seconds: float = 30.0,
        **kwargs: Any,
    ) -> Self:
        """SB3's `learn`, which can write its state to a folder and go on from there.

        Args:
            total_timesteps, callback, args, reset_num_timesteps, kwargs: as in SB3.
            checkpoint: folder to which the state of learning is written.
            resume: go on from that folder if it holds a state; on CPU with native environments the
                result is that of a run that was never interrupted.
            checkpoint_seconds: least time between two writes.

        Raises:
            ValueError: `total_timesteps` is negative, or `resume` is asked without `checkpoint`.
        """
        check_request(total_timesteps, checkpoint, resume)
        if self.env is None:
            raise ValueError("there is no environment to learn in: give one to load or to set_env")
        goal = total_timesteps + (0 if reset_num_timesteps else self.num_timesteps)
        if resume and checkpoint is not None and self.resume_learning(checkpoint):
            total_timesteps, reset_num_timesteps = goal - self.num_timesteps, False
        self._folder = None if checkpoint is None else Path(checkpoint)
        self._seconds, self._written = checkpoint_seconds, -np.inf
        kwargs["reset_num_timesteps"] = reset_num_timesteps
        super().learn(total_timesteps, callback, *args, **kwargs)  # type: ignore[safe-super]
        # A callback that stops learning leaves a rollout half done; then the last state written
        # stands.
        if self._folder is not None and self.num_timesteps >= goal:
            self.save_learning(self._folder)
        return self

    def collect_rollouts(self, *args: Any, **kwargs: Any) -> bool:
        """As SB3's; writes the state of learning first, where that is due."""
        if self._folder is not None:
            self.save_learning_if_due(self._folder, self._seconds)
        return super().collect_rollouts(*args, **kwargs)  # type: ignore[misc]


class PPO(ResumableSB3, stable_baselines3.PPO):
    """Proximal policy optimization, Stable-Baselines3's own, with checkpoints that hold no pickle.

    J. Schulman, F. Wolski, P. Dhariwal, A. Radford, O. Klimov: Proximal Policy Optimization
        Algorithms (2017,
    arXiv 1707.06347). Arguments are those of `stable_baselines3.PPO`.
    """

    example = Example(
        "InventoryNet-v0",
        {"setting": "one_store_backlogged", "periods": 20, "ignore": 0},
        kwargs={"n_steps": 64, "batch_size": 32, "n_epochs": 2},
        steps=320,
    )


class A2C(ResumableSB3, stable_baselines3.A2C):
    """Advantage actor-critic, Stable-Baselines3's own, with checkpoints that hold no pickle.

    V. Mnih et al.: Asynchronous Methods for Deep Reinforcement Learning (2016, arXiv 1602.01783).
        Arguments are
    those of `stable_baselines3.A2C`.
    """

    # The constructor has moved both into policy_kwargs by the time that they are saved.
    rms_prop_eps: ClassVar[float] = 1e-5
    use_rms_prop: ClassVar[bool] = False
    example = Example(
        "InventoryNet-v0",
        {"setting": "one_store_backlogged", "periods": 20, "ignore": 0},
        kwargs={"n_steps": 16},
        steps=320,
    )
