"""Agents and environments by name, saved agents by path, and the returns of evaluation episodes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from .. import agents
from ..agents.base import checkpoint
from .catalog import PACKAGE

SB3_NAMES = ("A2C", "DDPG", "DQN", "PPO", "SAC", "TD3")


def agent_class(name: str) -> type[Any]:
    """The class called `name`: one of this package's agents, or of Stable-Baselines3's own."""
    if name in agents.names():
        return getattr(agents, name)
    if name in SB3_NAMES:
        import stable_baselines3

        return getattr(stable_baselines3, name)
    allowed = ", ".join((*agents.names(), *SB3_NAMES))
    raise ValueError(f"no agent is called {name!r}; there are {allowed}")


def is_heuristic(cls: type[Any]) -> bool:
    """Whether an agent acts sensibly before it has learned anything."""
    return cls.__module__.startswith(f"{PACKAGE}.agents.heuristics.")


def make_environment(env_id: str, arguments: Mapping[str, Any], num_envs: int = 1) -> Any:
    """One Gymnasium environment, or `num_envs` native ones as a Stable-Baselines3 `VecEnv`.

    Raises:
        ValueError: an unknown id, an argument that the environment refuses, or num_envs < 1.
    """
    if num_envs < 1:
        raise ValueError(f"the number of environments must be at least 1, got {num_envs}")
    try:
        if num_envs == 1:
            return gym.make(env_id, **arguments)
        from ..wrappers.sb3 import make_sb3

        return make_sb3(env_id, num_envs=num_envs, **arguments)
    except (gym.error.Error, TypeError) as error:
        raise ValueError(f"{env_id}: {error}") from error


def load_agent(path: str | Path, env: gym.Env[Any, Any]) -> Any:
    """The agent saved at `path`, ready to act in `env`.

    The file names its class; only a class that `palaestra.agents` lists is ever imported.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no checkpoint of this package, or one of an unknown class.
    """
    named = checkpoint.read_config(path).get("class")
    name = str(named).rpartition(".")[2]
    cls = getattr(agents, name) if name in agents.names() else None
    if cls is None or named != f"{cls.__module__}.{cls.__qualname__}":
        raise ValueError(f"{path}: names the class {named!r}, which is no agent of this package")
    return cls.load(path, env=env)


def episode_returns(
    agent: Any, env: gym.Env[Any, Any], episodes: int, seed: int
) -> NDArray[np.float64]:
    """Undiscounted returns [episodes] under deterministic actions.

    Episode i is reset with seed + i, so that two agents meet the same episodes.
    """
    if episodes < 1:
        raise ValueError(f"the number of episodes must be at least 1, got {episodes}")
    takes_masks = "action_masks" in inspect.signature(agent.predict).parameters
    returns = np.zeros(episodes)
    for episode in range(episodes):
        observation, _ = env.reset(seed=seed + episode)
        state, start, done = None, np.array([True]), False
        while not done:
            masks = {"action_masks": _masks(env)} if takes_masks else {}
            action, state = agent.predict(
                observation, state=state, episode_start=start, deterministic=True, **masks
            )
            observation, reward, terminated, truncated, _ = env.step(action)
            returns[episode] += float(reward)
            start, done = np.array([False]), terminated or truncated
    return returns


def _masks(env: gym.Env[Any, Any]) -> Any:
    return env.get_wrapper_attr("action_masks")() if env.has_wrapper_attr("action_masks") else None
