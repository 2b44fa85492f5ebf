"""The two Gymnasium faces of a batched core: a single environment and a native vector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from .base import ArrayCore, Arrays, put, stack, take


class _Face:
    """What both Gymnasium faces share: masks, as sb3-contrib expects them, and exact snapshots."""

    core_class: ClassVar[type[ArrayCore]]
    core: ArrayCore
    tape: Arrays
    state: Arrays
    metadata: dict[str, Any]
    _ended: Any  # whether a reset has to come next; bool [num_envs] of a vector

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        if "core_class" in vars(cls):
            # gym.make looks the render modes up in the class, before there is an environment.
            cls.metadata = cls.core_class.metadata

    def get_state(self) -> tuple[dict[str, np.ndarray], list[dict[str, Any]]]:
        """Everything that decides how the episodes go on: arrays, and the states of the
        generators."""
        arrays = {
            f"{part}.{name}": np.asarray(value)
            for part in ("tape", "state")
            for name, value in getattr(self, part).items()
        }
        arrays["ended"] = np.array(self._ended)
        states = [dict(generator.bit_generator.state) for generator in self._all_generators()]
        return arrays, states

    def set_state(
        self, arrays: Mapping[str, np.ndarray], generators: Sequence[Mapping[str, Any]]
    ) -> None:
        """Go on from what `get_state` returned."""
        for part in ("tape", "state"):
            values = {
                name.removeprefix(f"{part}."): value
                for name, value in arrays.items()
                if name.startswith(f"{part}.")
            }
            setattr(self, part, values)
        self._ended = np.array(arrays["ended"])
        for generator, state in zip(self._all_generators(), generators, strict=True):
            generator.bit_generator.state = state
        self._restored()

    def _restored(self) -> None:
        """Called when the state was set from outside."""

    def _all_generators(self) -> Sequence[np.random.Generator]:
        raise NotImplementedError

    def _all_masks(self) -> Any:
        return self.core.action_masks(self.state)

    @property
    def action_masks(self) -> Any:
        if type(self.core).action_masks is ArrayCore.action_masks:
            raise AttributeError(f"{type(self.core).__name__} masks no actions")
        return self._all_masks


class ArrayEnv(_Face, gym.Env):
    """Face 1: one environment. A subclass names its core class in `core_class`."""

    def __init__(self, render_mode: str | None = None, **arguments: Any) -> None:
        self.core = self.core_class(**arguments)
        self.metadata = self.core.metadata
        self.observation_space = self.core.observation_space
        self.action_space = self.core.action_space
        self.render_mode = check_render_mode(render_mode, self.metadata)
        self._ended = True

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Draw a new tape and return its first observation."""
        super().reset(seed=seed)
        self.tape = stack([self.core.draw_tape(self.np_random, options or {})])
        self.state = self.core.initial(self.tape)
        self._ended = False
        return self._observe(), self._info()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One step.

        Raises:
            ValueError: the action is outside the action space or infeasible; the episode has ended.
        """
        if self._ended:
            raise ValueError(
                "the episode has ended, or none has begun: reset the environment first"
            )
        core = self.core
        batch = core.check_action(np.asarray(action)[None], self.state)
        state = core.transition(self.state, batch, self.tape)
        reward = float(core.reward(self.state, batch, state)[0])
        self.state = state
        terminated = bool(core.terminal(state)[0])
        truncated = bool(core.truncated(state)[0]) and not terminated
        self._ended = terminated or truncated
        if core.block is not None and state["t"][0] >= core.block:
            self.tape = stack([core.draw_tape(self.np_random, {})])
            self.state = {**state, "t": np.zeros_like(state["t"])}
        return self._observe(), reward, terminated, truncated, self._info()

    def render(self) -> Any:
        """Picture of the current state, uint8 [height, width, 3]."""
        if self.render_mode is None:
            gym.logger.warn(
                f"no render_mode was given; make the environment with one of "
                f"{self.metadata['render_modes']}"
            )
            return None
        return self.core.render_frame(self.state, 0)

    def _observe(self) -> Any:
        return unbatch(self.core.observation(self.state))

    def _info(self) -> dict[str, Any]:
        info = {name: unbatch(value) for name, value in batched_info(self.core, self.state).items()}
        # Gymnasium's vectors collect Python's truth values in an array, NumPy's as objects.
        info |= {name: bool(value) for name, value in info.items() if isinstance(value, np.bool_)}
        if "action_mask" in info and hasattr(self.action_space, "feasible"):
            self.action_space.feasible = info["action_mask"].copy()
        return info

    def _restored(self) -> None:
        self._info()  # what is feasible now goes into the action space

    def _all_masks(self) -> Any:
        return super()._all_masks()[0]

    def _all_generators(self) -> Sequence[np.random.Generator]:
        return [self.np_random]


class ArrayVectorEnv(_Face, VectorEnv):
    """Face 2: `num_envs` environments stepped together, without a Python loop over them.

    Args:
        num_envs: number of sub-environments.
        autoreset_mode: Gymnasium's NEXT_STEP (default), SAME_STEP or DISABLED.
        render_mode: None or "rgb_array".
        arguments: arguments of the environment.
    """

    def __init__(
        self,
        num_envs: int = 1,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
        **arguments: Any,
    ) -> None:
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, got {num_envs}")
        self.core = self.core_class(**arguments)
        self.num_envs = num_envs
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {**self.core.metadata, "autoreset_mode": self.autoreset_mode}
        self.render_mode = check_render_mode(render_mode, self.metadata)
        self.single_observation_space = self.core.observation_space
        self.single_action_space = self.core.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._generators: list[np.random.Generator] | None = None
        self._ended = np.zeros(num_envs, dtype=bool)

    @property  # type: ignore[misc]
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """The generators of the sub-environments."""
        if self._generators is None:
            self._generators = [np.random.default_rng() for _ in range(self.num_envs)]
        return tuple(self._generators)

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Reset all sub-environments, or those of `options["reset_mask"]` (bool [num_envs]).

        Args:
            seed: sub-environment i gets seed + i, or its entry of a sequence (None: goes on).
            options: passed to `draw_tape` of every sub-environment that is reset.
        """
        options = dict(options or {})
        mask = options.pop("reset_mask", None)
        rows = np.arange(self.num_envs) if mask is None else np.flatnonzero(self._check_mask(mask))
        if seed is None:
            seeds: list[int | None] = [None] * self.num_envs
        elif isinstance(seed, int | np.integer):
            seeds = [int(seed) + i for i in range(self.num_envs)]
        else:
            seeds = list(seed)
        if len(seeds) != self.num_envs:
            raise ValueError(f"got {len(seeds)} seeds for {self.num_envs} sub-environments")
        generators = list(self.np_random)
        for row in rows:
            if seeds[row] is not None:
                generators[row] = np.random.default_rng(seeds[row])
        self._generators = generators
        self._reset_rows(rows, options)
        self._ended[rows] = False
        return self._observe(), self._infos(rows)

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """One step of every sub-environment.

        Raises:
            ValueError: an action is outside the action space or infeasible.
        """
        restart = self._ended if self.autoreset_mode is AutoresetMode.NEXT_STEP else None
        if self.autoreset_mode is AutoresetMode.DISABLED and self._ended.any():
            raise ValueError(
                f"sub-environments {np.flatnonzero(self._ended).tolist()} have ended: reset them "
                'with reset(options={"reset_mask": ...}) before the next step'
            )
        actions = np.asarray(actions)
        if actions.shape[:1] != (self.num_envs,):
            raise ValueError(
                f"got actions of shape {actions.shape} for {self.num_envs} sub-environments"
            )
        if restart is None or not restart.any():
            rewards, terminations, truncations = self._step_rows(slice(None), actions)
        else:
            rewards = np.zeros(self.num_envs)
            terminations = np.zeros(self.num_envs, dtype=bool)
            truncations = np.zeros(self.num_envs, dtype=bool)
            going = np.flatnonzero(~restart)
            if len(going):
                rewards[going], terminations[going], truncations[going] = self._step_rows(
                    going, actions[going]
                )
            self._reset_rows(np.flatnonzero(restart), {})
        self._ended = terminations | truncations
        extra: dict[str, Any] = {}
        if self.autoreset_mode is AutoresetMode.SAME_STEP and self._ended.any():
            extra = self._final_infos(np.flatnonzero(self._ended))
            self._reset_rows(np.flatnonzero(self._ended), {})
            self._ended = np.zeros(self.num_envs, dtype=bool)
        infos = self._infos(np.arange(self.num_envs))
        return (
            self._observe(),
            rewards,
            terminations,
            truncations,
            {**extra, **infos},
        )

    def render(self) -> tuple[np.ndarray, ...] | None:
        """A picture of every sub-environment."""
        if self.render_mode is None:
            return None
        return tuple(self.core.render_frame(self.state, i) for i in range(self.num_envs))

    def _observe(self) -> Any:
        """Observation of every sub-environment."""
        return self.core.observation(self.state)

    def _all_generators(self) -> Sequence[np.random.Generator]:
        return self.np_random

    def _step_rows(
        self, rows: Any, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        core, whole = self.core, isinstance(rows, slice)
        before = self.state if whole else take(self.state, rows)
        tape = self.tape if whole else take(self.tape, rows)
        batch = core.check_action(actions, before)
        after = core.transition(before, batch, tape)
        rewards = np.asarray(core.reward(before, batch, after), dtype=np.float64)
        terminations = core.terminal(after)
        truncations = core.truncated(after) & ~terminations
        self.state = after if whole else put(self.state, rows, after)
        if core.block is not None:
            self._next_block()
        return rewards, terminations, truncations

    def _next_block(self) -> None:
        """A continuing task has used up its tape: draw the next block from the same generator."""
        rows = np.flatnonzero(self.state["t"] >= self.core.block)
        if len(rows):
            self.tape = put(self.tape, rows, self._draw(rows, {}))
            self.state = {
                **self.state,
                "t": np.where(self.state["t"] >= self.core.block, 0, self.state["t"]),
            }

    def _draw(self, rows: np.ndarray, options: Mapping[str, Any]) -> Arrays:
        generators = self.np_random
        return stack([self.core.draw_tape(generators[row], options) for row in rows])

    def _reset_rows(self, rows: np.ndarray, options: Mapping[str, Any]) -> None:
        drawn = self._draw(rows, options)
        if len(rows) == self.num_envs:
            self.tape, self.state = drawn, self.core.initial(drawn)
        else:
            self.tape = put(self.tape, rows, drawn)
            self.state = put(self.state, rows, self.core.initial(drawn))

    def _infos(self, rows: np.ndarray) -> dict[str, Any]:
        """Gymnasium's form: every key has a mask `_key` of the sub-environments that have it."""
        return masked_info(batched_info(self.core, self.state), rows, self.num_envs)

    def _final_infos(self, rows: np.ndarray) -> dict[str, Any]:
        observation = self._observe()
        final_obs = np.full(self.num_envs, None, dtype=object)
        for row in rows:
            final_obs[row] = unbatch(observation, row)
        mask = np.zeros(self.num_envs, dtype=bool)
        mask[rows] = True
        return {
            "final_obs": final_obs,
            "_final_obs": mask,
            "final_info": self._infos(rows),
            "_final_info": mask.copy(),
        }

    def _check_mask(self, mask: Any) -> np.ndarray:
        mask = np.asarray(mask)
        if mask.shape != (self.num_envs,) or mask.dtype != bool or not mask.any():
            raise ValueError(
                f"reset_mask must be a boolean array of shape ({self.num_envs},) with at least "
                f"one True, got {mask.dtype} of shape {mask.shape}"
            )
        return mask


def batched_info(core: ArrayCore, state: Arrays) -> Arrays:
    """`core.info` and, where actions are masked, `action_mask`."""
    info = core.info(state)
    masks = core.action_masks(state)
    return info if masks is None else {**info, "action_mask": masks}


def masked_info(info: Arrays, rows: np.ndarray, num_envs: int) -> dict[str, Any]:
    """Batched info in the form of Gymnasium's vectors, nothing outside `rows`."""
    mask = np.zeros(num_envs, dtype=bool)
    mask[rows] = True
    result: dict[str, Any] = {}
    for name, value in info.items():
        if len(rows) < num_envs:
            # As Gymnasium: None where an info holds strings, zero where it holds numbers.
            nothing = None if value.dtype == object else np.zeros_like(value)
            value = np.where(mask.reshape(-1, *[1] * (value.ndim - 1)), value, nothing)
        result[name], result[f"_{name}"] = value, mask.copy()
    return result


def unbatch(value: Any, row: int = 0) -> Any:
    """Row of a batched array, or of a dictionary of them; a NumPy scalar (as Gymnasium's spaces
    want it) where it has no more axes."""
    if isinstance(value, dict):
        return {name: entry[row] for name, entry in value.items()}
    return value[row]


def check_render_mode(render_mode: str | None, metadata: Mapping[str, Any]) -> str | None:
    """Return `render_mode`.

    Raises:
        ValueError: the environment has no such mode.
    """
    if render_mode is not None and render_mode not in metadata["render_modes"]:
        raise ValueError(
            f"render_mode={render_mode!r}, allowed are None and {metadata['render_modes']}"
        )
    return render_mode
