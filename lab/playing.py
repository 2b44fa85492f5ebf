"""Playing, with every step kept: the steps of an agent, or of its training, as a data set."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper

from ..agents.base.offline_data import OfflineDataset
from .evaluation import make_environment

# (observations [n, ...], starts of episodes bool [n], masks of actions bool [n, A] or None)
# -> actions [n, ...]
Act = Callable[[NDArray[Any], NDArray[np.bool_], Any], NDArray[Any]]


class StepRecorder(VecEnvWrapper):
    """Keeps every step of n environments."""

    def __init__(self, venv: VecEnv) -> None:
        super().__init__(venv)
        self._columns: dict[str, list[NDArray[Any]]] = {}
        self._shown: Any = None
        self._taken: Any = None

    def __len__(self) -> int:
        return len(self._columns.get("rewards", ()))

    def reset(self) -> Any:
        """As usual; an episode that is under way is cut."""
        if len(self):
            self._columns["truncations"][-1] |= ~self._columns["terminations"][-1]
        self._shown = np.array(self.venv.reset())
        return self._shown.copy()

    def step_async(self, actions: NDArray[Any]) -> None:
        """As usual."""
        self._taken = np.array(actions)
        self.venv.step_async(actions)

    def step_wait(self) -> Any:
        """As usual."""
        observations, rewards, dones, infos = self.venv.step_wait()
        following = np.array(observations)
        truncated = np.zeros(self.num_envs, dtype=bool)
        for row in np.flatnonzero(dones):
            # The environment already shows a new episode.
            following[row] = infos[row]["terminal_observation"]
            truncated[row] = infos[row].get("TimeLimit.truncated", False)
        step = {
            "observations": self._shown,
            "actions": self._taken,
            "rewards": np.array(rewards),
            "next_observations": following,
            "terminations": np.array(dones, dtype=bool) & ~truncated,
            "truncations": truncated,
        }
        for name, array in step.items():
            self._columns.setdefault(name, []).append(array)
        self._shown = np.array(observations)
        return observations, rewards, dones, infos

    def dataset(self, env: Any, rounds: int, steps: int) -> OfflineDataset:
        """The first `steps` steps, one environment after the other; the last of each are cut.

        Args:
            env: that of the data set.
            rounds: steps of every environment that count.
            steps: at most `rounds` times the number of environments.
        """
        stacked = {name: np.stack(x[:rounds], axis=1) for name, x in self._columns.items()}
        stacked["truncations"][:, -1] |= ~stacked["terminations"][:, -1]
        columns: dict[str, Any] = {
            name: np.concatenate(array)[:steps] for name, array in stacked.items()
        }
        columns["truncations"][-1] |= ~columns["terminations"][-1]
        return OfflineDataset(**columns, env=env)


def play(
    act: Act, environments: VecEnv, world: gym.Env[Any, Any], steps: int, seed: int
) -> OfflineDataset:
    """Steps under `act`.

    Args:
        environments: where they are played; they are closed afterwards.
        world: the environment of the data set; it is not played in.
        steps: how many in all; the last episode of each environment is cut there.
        seed: environment i begins with seed + i.
    """
    recorder = StepRecorder(environments)
    recorder.seed(seed)
    observations = recorder.reset()
    starts = np.ones(recorder.num_envs, dtype=bool)
    rounds = -(-steps // recorder.num_envs)
    masked = recorder.has_attr("action_masks")
    for _ in range(rounds):
        masks = np.stack(recorder.env_method("action_masks")) if masked else None
        observations, _, starts, _ = recorder.step(act(observations, starts, masks))
    recorder.close()
    return recorder.dataset(world, rounds, steps)


def vector(env_id: str, arguments: Mapping[str, Any], num_envs: int) -> VecEnv:
    """Environments as Stable-Baselines3 takes them, also where it is only one.

    Raises:
        ValueError: an unknown id, an argument that is refused, or observations that are no arrays.
    """
    made = make_environment(env_id, arguments, num_envs)
    if made.observation_space.shape is None:
        raise ValueError(
            f"{env_id} shows {made.observation_space}: data sets hold arrays, not dictionaries"
        )
    return made if isinstance(made, VecEnv) else DummyVecEnv([lambda: made])


def uniformly(space: gym.Space[Any], seed: int) -> Act:
    """Uniform actions, of those that are allowed."""
    space.seed(seed)

    def act(observations: NDArray[Any], starts: NDArray[np.bool_], masks: Any) -> NDArray[Any]:
        if masks is None:
            return np.stack([space.sample() for _ in observations])
        return np.stack([space.sample(mask=np.asarray(mask, np.int8)) for mask in masks])

    return act


def as_agent(agent: Any, seed: int, deterministic: bool) -> Act:
    """What an agent does; its memory, if it has one, goes from step to step."""
    agent.set_random_seed(seed)
    takes_masks = "action_masks" in inspect.signature(agent.predict).parameters
    memory: list[Any] = [None]

    def act(observations: NDArray[Any], starts: NDArray[np.bool_], masks: Any) -> NDArray[Any]:
        extra = {"action_masks": masks} if takes_masks else {}
        actions, memory[0] = agent.predict(
            observations,
            state=memory[0],
            episode_start=starts,
            deterministic=deterministic,
            **extra,
        )
        return actions

    return act


class Uniform:
    """Uniform actions in the form of an agent, to evaluate."""

    def __init__(self, space: gym.Space[Any], seed: int) -> None:
        self.act = uniformly(space, seed)

    def predict(
        self, observation: Any, action_masks: Any = None, **unused: Any
    ) -> tuple[Any, None]:
        """An action for one observation."""
        masks = None if action_masks is None else [action_masks]
        return self.act(np.zeros((1, 1)), np.ones(1, dtype=bool), masks)[0], None
