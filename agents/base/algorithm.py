"""The learning loop of the agents for which Stable-Baselines3 has no base.

A subclass of `Algorithm` writes `update`, one unit of learning, and keeps SB3's contract for the
rest.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    ConvertCallback,
    ProgressBarCallback,
)
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import safe_mean

from .resumable import Checkpoints, check_request


class Algorithm(Checkpoints):
    """Base of the agents for which Stable-Baselines3 has none.

    A subclass creates its networks in `_setup_model` and writes `update`. It may extend `begin` and
    `finish`, and names what it keeps in `extra_state` and `learning_state`.

    Args:
        policy: alias in `policy_aliases`, or a policy class.
        env: Gymnasium id, environment, vector environment or SB3 `VecEnv`; None for a loaded agent.
        learning_rate: number or SB3 schedule.
        policy_kwargs: arguments of the policy.
        seed: of everything that the agent draws.
        device: "auto", "cpu", "cuda" ...
        verbose: 0 nothing, 1 progress in the log.
        tensorboard_log: folder for TensorBoard.
    """

    def __init__(
        self,
        policy: Any,
        env: GymEnv | str | None,
        *,
        learning_rate: float | Schedule = 3e-4,
        policy_kwargs: dict[str, Any] | None = None,
        seed: int | None = None,
        device: torch.device | str = "auto",
        verbose: int = 0,
        tensorboard_log: str | None = None,
        _init_setup_model: bool = True,
    ) -> None:
        super().__init__(
            policy,
            env,
            learning_rate,
            policy_kwargs=policy_kwargs,
            seed=seed,
            device=device,
            verbose=verbose,
            tensorboard_log=tensorboard_log,
            support_multi_env=True,
        )
        self._metrics: dict[str, float] = {}
        if _init_setup_model:
            self._setup_model()

    def update(self) -> dict[str, float]:
        """One unit of learning: advances `num_timesteps` and returns what to log."""
        raise NotImplementedError

    def begin(self) -> None:
        """Called once before the first update of a `learn` (not when it resumes)."""

    def finish(self) -> None:
        """Called once after the last update of a `learn`."""

    def exhausted(self) -> bool:
        """Whether learning has come to its own end before `total_timesteps`."""
        return False

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 10,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
        *,
        checkpoint: str | Path | None = None,
        resume: bool = False,
        checkpoint_seconds: float = 30.0,
    ) -> Self:
        """Learn for at least `total_timesteps`.

        Args:
            total_timesteps: in the unit of the agent's base (steps, rounds, gradient steps ...).
            callback: SB3 callbacks; `on_step` is called after every update.
            log_interval: updates between two dumps of the log; None: never.
            tb_log_name: name of the run, by default the class's.
            reset_num_timesteps: start counting from zero.
            progress_bar: show one (tqdm and rich).
            checkpoint: folder to which the state of learning is written.
            resume: go on from that folder if it holds a state; on CPU with native environments the
                result is that of a run that was never interrupted.
            checkpoint_seconds: least time between two writes.

        Raises:
            ValueError: `total_timesteps` is negative, or `resume` is asked without `checkpoint`.
        """
        check_request(total_timesteps, checkpoint, resume)
        total_timesteps, callback = self._setup_learn(
            total_timesteps,
            callback,
            reset_num_timesteps,
            tb_log_name or type(self).__name__,
            progress_bar,
        )
        self._written = -np.inf  # also what an earlier run left in the folder is replaced at once
        if not (resume and checkpoint is not None and self.resume_learning(checkpoint)):
            self.begin()
        self._total_timesteps = total_timesteps
        callback.on_training_start(locals(), globals())
        going = True
        while going and self.num_timesteps < total_timesteps and not self.exhausted():
            if checkpoint is not None:
                self.save_learning_if_due(checkpoint, checkpoint_seconds)
            callback.on_rollout_start()
            self._update_current_progress_remaining(self.num_timesteps, total_timesteps)
            self._metrics = self.update()
            callback.update_locals(locals())
            going = callback.on_step()
            callback.on_rollout_end()
            self._n_updates += 1
            if log_interval is not None and self._n_updates % log_interval == 0:
                self._log()
        if checkpoint is not None:
            self.save_learning(checkpoint)
        self.finish()
        callback.on_training_end()
        return self

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        """As SB3's; `_n_updates` starts anew with the timesteps."""
        if self.env is None:
            raise ValueError("there is no environment to learn in: give one to load or to set_env")
        if reset_num_timesteps:
            self._n_updates = 0
        return super()._setup_learn(
            total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
        )

    def _init_callback(self, callback: MaybeCallback, progress_bar: bool = False) -> BaseCallback:
        """As SB3's, with a bar for steps that do not advance by one per environment."""
        if progress_bar:
            if isinstance(callback, list):
                callback = CallbackList(callback)
            elif not isinstance(callback, BaseCallback):
                callback = ConvertCallback(callback)
            callback = CallbackList([callback, ProgressBar()])
        return super()._init_callback(callback)

    def _log(self) -> None:
        seconds = max((time.time_ns() - self.start_time) / 1e9, 1e-9)
        done = self.num_timesteps - self._num_timesteps_at_start
        if self.ep_info_buffer:
            for name, key in (("ep_rew_mean", "r"), ("ep_len_mean", "l")):
                mean = safe_mean([episode[key] for episode in self.ep_info_buffer])
                self.logger.record(f"rollout/{name}", mean)
        self.logger.record("time/fps", int(done / seconds))
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        for name, value in self._metrics.items():
            self.logger.record(name, value)
        self.logger.dump(self.num_timesteps)


class ProgressBar(ProgressBarCallback):
    """SB3's bar, advanced by the agent's own count of timesteps."""

    def _on_training_start(self) -> None:
        super()._on_training_start()
        self.start = self.model.num_timesteps

    def _on_step(self) -> bool:
        self.pbar.update(self.model.num_timesteps - self.start - self.pbar.n)
        return True
