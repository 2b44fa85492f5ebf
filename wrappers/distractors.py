"""Distractors: further dimensions of an observation that the agent had better ignore.

env = Distractors(gym.make("TorquePendulum-v0"), n=10)
"""

from __future__ import annotations

from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from ..envs.checks import check_integer, check_number, check_share
from ..envs.control.distractors import next_distractors
from .episode_noise import EpisodeNoise


class Distractors(gym.Wrapper[Any, Any, Any, Any], gym.utils.RecordConstructorArgs):
    """Appends `n` numbers to the observation that move on their own and have no effect.

        z_0 = spread e_0,   z' = decay z + spread sqrt(1 - decay^2) e,   e ~ N(0, I)

    z moves once per step. Its standard deviation is `spread` at every step, so that a model which
    weighs all dimensions alike spends itself on them. The draws come from a generator of the
    wrapper's own, seeded with the reset: starts and steps of the environment are those that it has
    without the wrapper.

    Observation: `Box` of the environment's numbers, then z, in the environment's type; z has no
    bounds.

    Args:
        env: its observations are a flat `Box` of floats.
        n: how many; an integer >= 0.
        decay: in [0, 1]; 0: white noise, 1: constant within an episode.
        spread: standard deviation, >= 0, in the units of the observation.

    Raises:
        ValueError: the observations are no flat `Box` of floats, or a number is out of range.
    """

    def __init__(
        self, env: gym.Env[Any, Any], n: int, decay: float = 0.9, spread: float = 5.0
    ) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, n=n, decay=decay, spread=spread)
        super().__init__(env)
        seen = env.observation_space
        if not isinstance(seen, spaces.Box) or len(seen.shape) != 1 or seen.dtype.kind != "f":
            raise ValueError(f"Distractors needs observations that are a flat Box, got {seen}")
        self.n = check_integer("n", n, 0)
        self.decay = check_share("decay", decay)
        self.spread = check_number("spread", spread, 0.0)
        free = np.full(self.n, np.inf, dtype=seen.dtype)
        low, high = np.concatenate([seen.low, -free]), np.concatenate([seen.high, free])
        self.observation_space = spaces.Box(low, high, dtype=seen.dtype.type)
        self._noise = EpisodeNoise(self)
        self._generator = self._noise.begin(None)
        self.z: NDArray[np.float64] = np.zeros(self.n)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[Any], dict[str, Any]]:
        """A new episode and a new z_0."""
        seen, info = self.env.reset(seed=seed, options=options)
        self._generator = self._noise.begin(seed)
        self.z = self.spread * self._generator.standard_normal(self.n)
        return self._append(seen), info

    def step(self, action: Any) -> tuple[NDArray[Any], SupportsFloat, bool, bool, dict[str, Any]]:
        """One step of the environment, and one of z."""
        seen, reward, terminated, truncated, info = self.env.step(action)
        noise = self._generator.standard_normal(self.n)
        self.z = next_distractors(self.z, noise, self.decay, self.spread)
        return self._append(seen), reward, terminated, truncated, info

    def _append(self, seen: NDArray[Any]) -> NDArray[Any]:
        return np.concatenate([seen, self.z.astype(self.observation_space.dtype)])
