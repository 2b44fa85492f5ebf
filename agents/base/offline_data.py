"""Recorded data to learn from, in the place where other agents have their environment."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

STEPS = ("actions", "rewards", "terminations", "truncations")


@dataclass(frozen=True, eq=False)
class OfflineDataset:
    """N recorded steps, and the environment to evaluate in where there is one.

    Attributes:
        observations, actions: [N, ...].
        rewards: [N]; None where the data has none.
        next_observations: [N, ...]; None where the data has none.
        terminations, truncations: bool [N], whether the task ended with this step, or the episode
            was cut; None where the data does not say.
        env: environment to evaluate in; also gives the spaces.
        observation_space, action_space: needed where there is no `env`.

    Raises:
        ValueError: arrays of different lengths, no steps, no spaces, or an entry outside its space.
    """

    observations: NDArray[Any]
    actions: NDArray[Any]
    rewards: NDArray[Any] | None = None
    next_observations: NDArray[Any] | None = None
    terminations: NDArray[Any] | None = None
    truncations: NDArray[Any] | None = None
    env: Any = None
    observation_space: gym.Space[Any] | None = None
    action_space: gym.Space[Any] | None = None

    def __post_init__(self) -> None:
        for name in ("observation_space", "action_space"):
            if getattr(self, name) is None:
                if self.env is None:
                    raise ValueError(f"a data set without env needs {name}")
                single = getattr(self.env, f"single_{name}", None) or getattr(self.env, name)
                object.__setattr__(self, name, single)
        for name in ("observations", "next_observations", *STEPS):
            if (value := getattr(self, name)) is None:
                continue
            array = np.asarray(value)
            if array.ndim == 0 or len(array) != len(self.observations):
                raise ValueError(
                    f"{name} has shape {array.shape}, observations {np.shape(self.observations)}"
                )
            object.__setattr__(self, name, array)
        if not len(self):
            raise ValueError("the data set holds no steps")
        for name, space in (
            ("observations", self.observation_space),
            ("next_observations", self.observation_space),
            ("actions", self.action_space),
        ):
            if (array := getattr(self, name)) is not None:
                assert space is not None
                check_inside(name, array, space)
        if self.rewards is not None and not np.isfinite(self.rewards).all():
            row = int(np.argmin(np.isfinite(self.rewards)))
            raise ValueError(f"rewards[{row}] = {self.rewards[row]} is not finite")

    def __len__(self) -> int:
        return len(self.observations)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays that the data has, by name."""
        names = ("observations", "next_observations", *STEPS)
        found = {name: getattr(self, name) for name in names}
        return {name: array for name, array in found.items() if array is not None}

    @classmethod
    def from_episodes(
        cls, episodes: Iterable[Mapping[str, Any]], **arguments: Any
    ) -> OfflineDataset:
        """Join episodes that are given one by one, in the form of Minari and D4RL.

        Args:
            episodes: each with `observations` [T + 1 or T, ...], `actions` [T, ...] and, if known,
                `rewards`, `terminations`, `truncations` [T]. With T + 1 observations the next ones
                are known too.
            arguments: `env`, or the spaces.

        Raises:
            ValueError: an episode lacks arrays that the others have, or its lengths do not fit.
        """
        parts: dict[str, list[NDArray[Any]]] = {}
        total = 0
        for number, episode in enumerate(episodes):
            total += 1
            actions, observations = (np.asarray(episode[k]) for k in ("actions", "observations"))
            if len(observations) - len(actions) not in (0, 1):
                raise ValueError(
                    f"episode {number} has {len(observations)} observations and {len(actions)} "
                    "actions; allowed are as many, or one observation more"
                )
            found = {k: np.asarray(episode[k]) for k in STEPS if episode.get(k) is not None}
            found["observations"] = observations[: len(actions)]
            if len(observations) > len(actions):
                found["next_observations"] = observations[1:]
            for name, array in found.items():
                if len(array) != len(actions):
                    raise ValueError(
                        f"episode {number} has {len(array)} {name} and {len(actions)} actions"
                    )
                parts.setdefault(name, []).append(array)
        for name, arrays in parts.items():
            if len(arrays) != total:
                raise ValueError(f"{name} is given for {len(arrays)} of {total} episodes")
        if not total:
            raise ValueError("the data set holds no episodes")
        return cls(**{name: np.concatenate(arrays) for name, arrays in parts.items()} | arguments)

    @classmethod
    def record(
        cls,
        env: gym.Env[Any, Any],
        steps: int,
        act: Callable[[Any], Any] | None = None,
        seed: int | None = 0,
    ) -> OfflineDataset:
        """Play `steps` steps in an environment and keep them.

        Args:
            env: where; it also becomes the environment to evaluate in.
            steps: at least 1; the last episode is cut there.
            act: observation -> action; random actions by default.
            seed: of the first episode and of the random actions.

        Raises:
            ValueError: steps is below 1.
        """
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        env.action_space.seed(seed)
        observation, info = env.reset(seed=seed)
        names = ("observations", "actions", "rewards", "next_observations", *STEPS[2:])
        rows: list[tuple[Any, ...]] = []
        for step in range(steps):
            if act is not None:
                action = act(observation)
            elif "action_mask" in info:
                action = env.action_space.sample(mask=np.asarray(info["action_mask"], np.int8))
            else:
                action = env.action_space.sample()
            following, reward, terminated, truncated, info = env.step(action)
            cut = truncated or (step == steps - 1 and not terminated)
            rows.append((observation, action, reward, following, terminated, cut))
            observation = following
            if terminated or truncated:
                observation, info = env.reset()
        columns: dict[str, Any] = dict(
            zip(names, map(np.array, zip(*rows, strict=True)), strict=True)
        )
        return cls(**columns, env=env)


def check_inside(name: str, array: NDArray[Any], space: gym.Space[Any]) -> None:
    """ValueError unless every entry of an array [N, ...] lies in a space of arrays."""
    if not isinstance(
        space,
        gym.spaces.Box | gym.spaces.Discrete | gym.spaces.MultiDiscrete | gym.spaces.MultiBinary,
    ):
        raise ValueError(f"{name}: data sets hold arrays, the space {space} is none of arrays")
    if array.shape[1:] != space.shape:
        raise ValueError(f"{name} has entries of shape {array.shape[1:]}, the space is {space}")
    if isinstance(space, gym.spaces.Box):
        low, high = space.low, space.high
    else:
        if not np.issubdtype(array.dtype, np.integer):
            raise ValueError(f"{name} has type {array.dtype}, the space {space} holds integers")
        low = np.asarray(getattr(space, "start", 0))
        sizes = getattr(space, "nvec", None)
        number = 2 if isinstance(space, gym.spaces.MultiBinary) else getattr(space, "n", sizes)
        high = low + np.asarray(number) - 1
    wrong = ~((array >= low) & (array <= high))  # also true for NaN
    if wrong.any():
        row = int(np.argwhere(wrong)[0][0])
        raise ValueError(f"{name}[{row}] = {array[row]} lies outside {space}")
