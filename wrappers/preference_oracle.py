"""An environment that says which of two episodes was better, instead of what each step pays.

env = PreferenceOracle(make_sb3("RiverSwim-v0", num_envs=4, horizon=8))
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

KEY = zlib.crc32(b"PreferenceOracle")  # its draws are not those of the environment


class PreferenceOracle(VecEnvWrapper):
    """Compares the last two finished episodes of a sub-environment; all rewards it shows are 0.

        P(the earlier one is preferred) = sigmoid(return of the earlier - return of the later)

    (Bradley and Terry). The uniform that decides belongs to the later episode: it is drawn when
    that ends, whether or not anybody asks, so that an answer does not depend on earlier questions,
    and two agents that are compared meet the same noise. Sub-environment i of a vector with seed s
    has the noise of a single one with seed s + i.

    What an episode paid stays readable where it is measured: in `info["episode"]`, if the
    environments below are in a `Monitor`.

    Args:
        venv: SB3's `VecEnv`; wrap a single environment in `DummyVecEnv`, a native vector in
            `SB3VecEnv`.

    Attributes:
        asked: questions answered so far.
    """

    def __init__(self, venv: VecEnv) -> None:
        super().__init__(venv)
        self.asked = 0
        self._noise = [np.random.default_rng() for _ in range(venv.num_envs)]
        self._begin()

    def _begin(self) -> None:
        self._running: NDArray[np.float64] = np.zeros(self.num_envs)
        # Returns of the last two finished episodes, the later one last, and its uniform.
        self._finished: NDArray[np.float64] = np.full((2, self.num_envs), np.nan)
        self._uniforms: NDArray[np.float64] = np.zeros(self.num_envs)

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """As SB3's; also of the noise of the answers."""
        seeds = self.venv.seed(seed)
        self._noise = [
            np.random.default_rng(np.random.SeedSequence(each, spawn_key=(KEY,))) for each in seeds
        ]
        return seeds

    def reset(self) -> VecEnvObs:
        """Reset all sub-environments and forget what was played."""
        self._begin()
        return self.venv.reset()

    def step_wait(self) -> VecEnvStepReturn:
        """A step, with rewards 0."""
        observations, rewards, dones, infos = self.venv.step_wait()
        self._running += rewards
        if dones.any():
            ended = np.flatnonzero(dones)
            self._finished[:, ended] = self._finished[1, ended], self._running[ended]
            self._running[ended] = 0.0
            self._uniforms[ended] = [self._noise[row].random() for row in ended]
        return observations, np.zeros_like(rewards), dones, infos

    def prefers_earlier(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Whether the earlier of the last two episodes is preferred: 1 or 0, of each of `rows`.

        Raises:
            ValueError: one of them has not finished two episodes since the reset.
        """
        earlier, later = self._finished[:, rows]
        if np.isnan(earlier).any():
            row = int(rows[np.isnan(earlier)][0])
            raise ValueError(
                f"sub-environment {row} has not finished two episodes since it was reset"
            )
        self.asked += len(rows)
        return np.asarray(self._uniforms[rows] < expit(earlier - later), dtype=np.int64)

    def get_state(self) -> tuple[dict[str, NDArray[Any]], list[dict[str, Any]]]:
        """All that decides later answers: arrays, and the states of the generators."""
        arrays = {
            "running": self._running.copy(),
            "finished": self._finished.copy(),
            "uniforms": self._uniforms.copy(),
            "asked": np.array(self.asked),
        }
        return arrays, [dict(generator.bit_generator.state) for generator in self._noise]

    def set_state(
        self, arrays: dict[str, NDArray[Any]], generators: Sequence[dict[str, Any]]
    ) -> None:
        """Go on from what `get_state` returned."""
        self._running, self._finished = arrays["running"], arrays["finished"]
        self._uniforms, self.asked = arrays["uniforms"], int(arrays["asked"])
        for generator, state in zip(self._noise, generators, strict=True):
            generator.bit_generator.state = state
