"""Gymnasium's vector environments as Stable-Baselines3's `VecEnv`.

    env = make_sb3("InventoryNet-v0", num_envs=1024, seed=0)
    PPO("MlpPolicy", env).learn(1_000_000)

One process, one call per step for all sub-environments: the batch stays a batch from the
environment to the policy. What SB3 reads per sub-environment (terminal observation, time limit,
episode return) is filled in only where an episode has just ended.

Sources: Gymnasium's vector API (`gymnasium.vector.AutoresetMode`) and SB3's `DummyVecEnv` and
`Monitor`, whose outputs this adapter reproduces.
"""

from __future__ import annotations

import importlib
import inspect
import time
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import load_env_creator
from gymnasium.vector import AutoresetMode, VectorEnv
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import (
    VecEnvIndices,
    VecEnvObs,
    VecEnvStepReturn,
)

from .infos import unpack_infos
from .sub_environments import Separate, sub_environments

ARRAY_SPACES = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
FINAL_KEYS = ("final_obs", "_final_obs", "final_info", "_final_info")


class SB3VecEnv(VecEnv):
    """A `gymnasium.vector.VectorEnv` as an SB3 `VecEnv`.

    Every step gives what `DummyVecEnv` over the same environments, each in a `Monitor`, would give:
    rewards float32 [n], dones bool [n], observations copied and in the dtype of their space, and n
    info dicts, new at every step, with

    - `TimeLimit.truncated` (always): the episode was truncated and has not terminated;
    - `terminal_observation` (finished rows): the observation that the reset replaced;
    - `episode` (finished rows, with `monitor`): `{"r": return, "l": length, "t": seconds}`;
    - the environment's own info: of finished rows always, of all rows with `keep_infos`.

    The info of a row's latest reset is in `reset_infos`.

    Autoreset modes: SAME_STEP is used as it is. For DISABLED the adapter resets finished rows
    itself, with `options={"reset_mask": mask}`. NEXT_STEP is refused: there a row's reset takes up
    a step whose action is ignored, and SB3 would learn from that step as if it were a transition.

    Sub-environments of a `SyncVectorEnv` are reached one by one (`get_attr`, `set_attr`,
    `env_method`, `env_is_wrapped`); those of an `AsyncVectorEnv` all together. The rows of a native
    vector share its attributes: `get_attr` repeats the vector's (or its core's), `set_attr` sets it
    for all, and `env_method` offers `action_masks` (sb3-contrib's convention) and `render`.

    Args:
        vector: the environments, observations of `Box`, `Discrete`, `MultiDiscrete`, `MultiBinary`
            or a flat `Dict` of these.
        keep_infos: unpack the info of every row at every step. This loops over all
            sub-environments; without it the info of a row whose episode goes on holds
            `TimeLimit.truncated` only.
        monitor: record episode returns and lengths. `env_is_wrapped(Monitor)` is then True, which
            SB3's `evaluate_policy` asks for. Has no effect on a `SyncVectorEnv` whose environments
            are already in a `Monitor`.

    Raises:
        ValueError: `vector` is not a vector environment, or has an unsupported observation space or
            autoreset mode.
    """

    def __init__(
        self, vector: VectorEnv, *, keep_infos: bool = False, monitor: bool = True
    ) -> None:
        if not isinstance(vector, VectorEnv):
            raise ValueError(
                f"SB3VecEnv takes a gymnasium.vector.VectorEnv, got {vector!r}; "
                "SB3's agents take a single gymnasium.Env as it is"
            )
        self.vector = vector
        self.keep_infos = keep_infos
        self._same_step = _autoreset_mode(vector) is AutoresetMode.SAME_STEP
        self._space = vector.single_observation_space
        _check_observation_space(self._space)
        self._sub_environments = sub_environments(vector)
        super().__init__(vector.num_envs, self._space, vector.single_action_space)
        self.metadata = dict(vector.metadata)
        all_rows = range(self.num_envs)
        self._monitor = monitor and not (
            isinstance(self._sub_environments, Separate)
            and all(self._sub_environments.is_wrapped(Monitor, all_rows))
        )
        self._returns = np.zeros(self.num_envs, dtype=np.float64)
        self._lengths = np.zeros(self.num_envs, dtype=np.int64)
        self._start = time.time()
        self._actions: np.ndarray | None = None

    def reset(self) -> VecEnvObs:
        """Reset all sub-environments, with the seeds and options set before, which are used once.

        Returns:
            Observations [n, ...], or a dict of them.
        """
        seed = self._seeds[0]  # `seed` gives sub-environment i the seed of the first plus i
        options = self._options[0] or None
        observations, infos = self.vector.reset(
            seed=None if seed is None else int(seed), options=options
        )
        self._reset_seeds()
        self._reset_options()
        self._returns[:] = 0.0
        self._lengths[:] = 0
        self._actions = None
        self.reset_infos = unpack_infos(infos, range(self.num_envs))
        return self._own(observations)

    def step_async(self, actions: np.ndarray) -> None:
        """Take the actions [n, ...] for the step that `step_wait` makes."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Step all sub-environments.

        Returns:
            Observations (of new episodes where one has ended), rewards float32 [n], dones bool [n]
            and n info dicts.
        """
        if self._actions is None:
            raise RuntimeError("step_wait without step_async")
        batch, rewards, terminated, truncated, infos = self.vector.step(self._actions)
        self._actions = None
        observations = self._own(batch)
        terminated = np.asarray(terminated, dtype=bool)
        dones = terminated | np.asarray(truncated, dtype=bool)
        self._returns += rewards
        self._lengths += 1

        step_infos = {key: value for key, value in infos.items() if key not in FINAL_KEYS}
        rows: list[dict[str, Any]]
        if self.keep_infos:
            rows = unpack_infos(step_infos, range(self.num_envs))
        else:
            rows = [{} for _ in range(self.num_envs)]
        for row in rows:
            row["TimeLimit.truncated"] = False

        finished = np.flatnonzero(dones).tolist()
        if finished:
            if self._same_step:
                terminal_observations = infos["final_obs"]
                terminal_infos = unpack_infos(infos.get("final_info", {}), finished)
                reset_infos = unpack_infos(step_infos, finished)
            else:
                # A copy: the masked reset writes the new episodes' rows into `observations`.
                terminal_observations = self._own(observations)
                terminal_infos = unpack_infos(step_infos, finished)
                reset_infos = self._reset_rows(observations, dones, finished)
            for k, i in enumerate(finished):
                info = terminal_infos[k]
                info["terminal_observation"] = self._row(terminal_observations, i)
                info["TimeLimit.truncated"] = not terminated[i]
                rows[i] = info
                self.reset_infos[i] = reset_infos[k]
            if self._monitor:
                self._report_episodes(rows, finished)
            self._returns[finished] = 0.0
            self._lengths[finished] = 0
        return observations, np.array(rewards, dtype=np.float32), dones, rows

    def _reset_rows(
        self, observations: Any, dones: np.ndarray, finished: Sequence[int]
    ) -> list[dict[str, Any]]:
        """Reset the finished rows, in place; their reset infos."""
        batch, infos = self.vector.reset(options={"reset_mask": dones.copy()})
        if isinstance(observations, dict):
            for key, array in observations.items():
                array[dones] = batch[key][dones]
        else:
            observations[dones] = batch[dones]
        return unpack_infos(infos, finished)

    def _report_episodes(self, rows: list[dict[str, Any]], finished: Sequence[int]) -> None:
        """Put return, length and end of finished episodes into their infos, as `Monitor` does."""
        seconds = round(time.time() - self._start, 6)
        for i in finished:
            rows[i]["episode"] = {
                "r": round(float(self._returns[i]), 6),
                "l": int(self._lengths[i]),
                "t": seconds,
            }

    def _own(self, batch: Any) -> Any:
        """A copy of batched observations in the dtype of their space.

        SB3 keeps an observation past the next step; a vector may write the next one into the same
        array. In memory the copy goes row by row, as the layout of an input shows in the last bits
        of a network's output.
        """
        if isinstance(self._space, spaces.Dict):
            return {
                key: np.array(batch[key], dtype=space.dtype, order="C")
                for key, space in self._space.items()
            }
        return np.array(batch, dtype=self._space.dtype, order="C")

    def _row(self, batch: Any, i: int) -> Any:
        """A copy of the observation of sub-environment i.

        A batch is an array [n, ...], a dict of them, or an object array of n observations.
        """
        if isinstance(self._space, spaces.Dict):
            row = (
                {key: values[i] for key, values in batch.items()}
                if isinstance(batch, Mapping)
                else batch[i]
            )
            return {
                key: np.array(row[key], dtype=space.dtype)[()] for key, space in self._space.items()
            }
        # [()] turns an array without axes (a Discrete observation) into a scalar.
        return np.array(batch[i], dtype=self._space.dtype)[()]

    def set_options(self, options: list[dict] | dict | None = None) -> None:
        """Set the options of the next reset: one dict for all, or a list of n equal dicts.

        Raises:
            ValueError: the dicts differ (a vector is reset with one set of options), the list has
                another length, or there is a "reset_mask", which would leave rows out of the reset.
        """
        listed = [options] if isinstance(options, dict) else list(options or [{}])
        if isinstance(options, list) and len(options) != self.num_envs:
            raise ValueError(f"{len(options)} options for {self.num_envs} sub-environments")
        if any(other is not listed[0] and other != listed[0] for other in listed):
            raise ValueError(
                f"a vector environment is reset with one set of options for all, got {listed}"
            )
        if "reset_mask" in listed[0]:
            raise ValueError('VecEnv.reset resets all sub-environments: options has a "reset_mask"')
        super().set_options(listed[0])

    def has_attr(self, attr_name: str) -> bool:
        """Whether the sub-environments have an attribute or method of this name."""
        return self._sub_environments.has(attr_name)

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """An attribute of each chosen sub-environment; AttributeError where there is none."""
        rows = self._indices(indices)
        # The vector's own wrappers may have changed the spaces.
        if attr_name in ("observation_space", "action_space"):
            return [getattr(self, attr_name) for _ in rows]
        return self._sub_environments.get(attr_name, rows)

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of each chosen sub-environment.

        Raises:
            ValueError: only some are chosen, and the sub-environments cannot differ.
        """
        self._sub_environments.set(attr_name, value, self._indices(indices))

    def env_method(
        self,
        method_name: str,
        *method_args: Any,
        indices: VecEnvIndices = None,
        **method_kwargs: Any,
    ) -> list[Any]:
        """What a method of each chosen sub-environment returns.

        Raises:
            AttributeError: there is no such method, or it does not work row by row.
            ValueError: only some are chosen, and the vector calls a method on all.
        """
        rows = self._indices(indices)
        return self._sub_environments.call(method_name, rows, method_args, method_kwargs)

    def env_is_wrapped(self, wrapper_class: type, indices: VecEnvIndices = None) -> list[bool]:
        """Whether each chosen sub-environment is wrapped; `Monitor` counts when `monitor` is on.

        The wrappers of an `AsyncVectorEnv` are in other processes and are not seen.
        """
        rows = self._indices(indices)
        if self._monitor and wrapper_class is Monitor:
            return [True for _ in rows]
        return self._sub_environments.is_wrapped(wrapper_class, rows)

    def get_images(self) -> Sequence[np.ndarray | None]:
        """One RGB image per sub-environment, uint8 [height, width, 3]."""
        frames = self.vector.render() if self.render_mode == "rgb_array" else None
        if frames is None:
            warnings.warn(
                f"no images: render_mode is {self.render_mode!r}, and images need 'rgb_array'",
                stacklevel=2,
            )
            return [None for _ in range(self.num_envs)]
        return [np.asarray(frame) for frame in frames]

    def close(self) -> None:
        """Close the vector environment."""
        self.vector.close()

    def _indices(self, indices: VecEnvIndices) -> list[int]:
        """Indices in [0, n); negative ones count from the end."""
        if isinstance(indices, np.integer):
            indices = int(indices)
        return [range(self.num_envs)[i] for i in self._get_indices(indices)]


def make_sb3(
    id: str,
    num_envs: int,
    seed: int | None = None,
    *,
    keep_infos: bool = False,
    monitor: bool = True,
    **kwargs: Any,
) -> SB3VecEnv:
    """Make `num_envs` environments of a registered id as one SB3 `VecEnv`.

    A native vector is used where the id has one that resets in the same step (it takes an
    `autoreset_mode` argument), and Gymnasium's `SyncVectorEnv` where it has none.

    Args:
        id: a registered id, or "module:id" to import the module that registers it.
        num_envs: number of sub-environments.
        seed: sub-environment i is first reset with seed + i; None for a random seed.
        keep_infos: see `SB3VecEnv`.
        monitor: see `SB3VecEnv`.
        kwargs: arguments of the environment.

    Raises:
        gymnasium.error.Error: no environment is registered under this id.
        ValueError: `num_envs` is not positive.
    """
    if num_envs < 1:
        raise ValueError(f"num_envs must be at least 1, got {num_envs}")
    module, _, name = id.rpartition(":")
    if module:
        importlib.import_module(module)
    entry_point: Any = gym.spec(name).vector_entry_point
    if isinstance(entry_point, str):
        entry_point = load_env_creator(entry_point)
    if entry_point is not None and "autoreset_mode" in inspect.signature(entry_point).parameters:
        # A native vector takes its mode as an argument: make_vec refuses vector_kwargs for it.
        vectorization: dict[str, Any] = {
            "vectorization_mode": "vector_entry_point",
            "autoreset_mode": AutoresetMode.SAME_STEP,
        }
    else:
        vectorization = {
            "vectorization_mode": "sync",
            "vector_kwargs": {"autoreset_mode": AutoresetMode.SAME_STEP},
        }
    vector = gym.make_vec(name, num_envs=num_envs, **vectorization, **kwargs)
    environments = SB3VecEnv(vector, keep_infos=keep_infos, monitor=monitor)
    if seed is not None:
        environments.seed(seed)
    return environments


def _autoreset_mode(vector: VectorEnv) -> AutoresetMode:
    """The vector's autoreset mode; ValueError if it is missing or NEXT_STEP."""
    # The attribute first: in Gymnasium 1.2 all vectors of one environment class share the metadata.
    declared = getattr(vector.unwrapped, "autoreset_mode", None)
    if declared is None:
        declared = vector.metadata.get("autoreset_mode")
    if declared is None:
        raise ValueError(f'{vector} does not say how it resets: metadata["autoreset_mode"]')
    mode = AutoresetMode(declared)
    if mode is AutoresetMode.NEXT_STEP:
        raise ValueError(
            f"{vector} resets in the next step (AutoresetMode.NEXT_STEP), a step that SB3 would "
            "take for a transition; build it with palaestra.wrappers.sb3.make_sb3(id, num_envs), "
            "with "
            'gym.make_vec(id, num_envs, vectorization_mode="sync", '
            'vector_kwargs={"autoreset_mode": "SameStep"}) or, where the native vector has this '
            'argument, with gym.make_vec(id, num_envs, autoreset_mode="SameStep")'
        )
    return mode


def _check_observation_space(space: spaces.Space) -> None:
    """ValueError unless SB3's policies take observations of this space."""
    parts = space.spaces if isinstance(space, spaces.Dict) else {"": space}
    for key, part in parts.items():
        if not isinstance(part, ARRAY_SPACES):
            where = f" at key {key!r}" if key else ""
            raise ValueError(
                f"observations must be of Box, Discrete, MultiDiscrete, MultiBinary or a flat Dict "
                f"of these, got {part}{where}"
            )
