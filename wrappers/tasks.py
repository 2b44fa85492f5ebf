"""Several tasks side by side, of which some may rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn


class TaskVecEnv(DummyVecEnv):
    """Environments of several tasks, with the same spaces, as one SB3 `VecEnv`.

    A row whose task rests is not stepped: it shows what it showed, pays 0, does not end, and its
    info is {"resting": True}.

    Args:
        makers: functions that make the environments; those without a `Monitor` get one.
        tasks: number of the task of each, from 0, without gaps; None: each is a task of its own.

    Attributes:
        tasks: int64 [n].
        active: which rows are stepped, bool [n]; at first all.

    Raises:
        ValueError: spaces differ, or tasks are not numbered from 0 without gaps.
    """

    def __init__(
        self,
        makers: Sequence[Callable[[], gym.Env[Any, Any]]],
        tasks: Sequence[int] | None = None,
    ) -> None:
        super().__init__([partial(monitored, maker) for maker in makers])
        numbers = np.arange(len(makers)) if tasks is None else np.asarray(tasks, dtype=np.int64)
        if numbers.shape != (len(makers),):
            raise ValueError(f"tasks={tasks!r}: {len(makers)} environments need a number each")
        if sorted(set(numbers.tolist())) != list(range(int(numbers.max()) + 1)):
            raise ValueError(f"tasks={tasks!r}: tasks are numbered from 0 without gaps")
        for row, env in enumerate(self.envs):
            for name in ("observation_space", "action_space"):
                if getattr(env, name) != getattr(self, name):
                    raise ValueError(
                        f"environment {row} has the {name} {getattr(env, name)}, the first "
                        f"{getattr(self, name)}; all tasks need the same"
                    )
        self.tasks, self.active = numbers, np.ones(len(makers), dtype=np.bool_)

    def rest(self, resting: Sequence[bool] | np.ndarray) -> None:
        """Say which tasks rest, bool [number of tasks]."""
        self.active = ~np.asarray(resting, dtype=np.bool_)[self.tasks]

    def step_wait(self) -> VecEnvStepReturn:
        """As `DummyVecEnv`'s, of the rows that do not rest."""
        self.buf_rews[:], self.buf_dones[:] = 0, False
        self.buf_infos = [{"resting": True} for _ in range(self.num_envs)]
        for row in np.flatnonzero(self.active).tolist():
            env, action = self.envs[row], self.actions[row]
            seen, reward, terminated, truncated, info = env.step(action)
            done = terminated or truncated
            info = {**info, "TimeLimit.truncated": truncated and not terminated}
            if done:
                info["terminal_observation"] = seen
                seen, self.reset_infos[row] = env.reset()
            self.buf_rews[row], self.buf_dones[row], self.buf_infos[row] = reward, done, info
            self._save_obs(row, seen)
        rows = (self._obs_from_buf(), self.buf_rews.copy(), self.buf_dones.copy())
        return *rows, self.buf_infos.copy()


def monitored(maker: Callable[[], gym.Env[Any, Any]]) -> gym.Env[Any, Any]:
    """A new environment in a `Monitor`, unless it is in one."""
    env = maker()
    layer: Any = env
    while isinstance(layer, gym.Wrapper):
        if isinstance(layer, Monitor):
            return env
        layer = layer.env
    return Monitor(env)


def task_env(env: VecEnv | None) -> TaskVecEnv | None:
    """The tasks below SB3's wrappers; None where there is only one."""
    while isinstance(env, VecEnvWrapper):
        env = env.venv
    return env if isinstance(env, TaskVecEnv) else None
