"""The use of YAY Robot's high level while a person watches, who may overrule it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from .yay_robot_policies import CommandPolicy

Indices = NDArray[np.int64]
# Somebody who watches: (observations [n, ...], commands [n]) -> what they say [n], -1 for nothing.
User = Callable[[NDArray[Any], Indices], Indices]
SILENCE = -1


class CorrectionLoop:
    """Which command is carried out: the person's, as long as a correction lasts, or else the
    policy's.

    Args:
        envs: n.
        duration: decisions that a correction lasts; None: until the next one. A new one replaces an
            old one at once.
    """

    def __init__(self, envs: int, duration: int | None = 1) -> None:
        self.duration = duration
        self.active = np.full(envs, SILENCE, dtype=np.int64)
        self.left = np.zeros(envs, dtype=np.int64)

    def step(self, commands: Indices, spoken: Indices) -> tuple[Indices, NDArray[np.bool_]]:
        """One decision.

        Args:
            commands: of the policy, [n].
            spoken: what the person says, -1 for nothing, [n].

        Returns:
            The commands to carry out [n], and which of them are the person's, bool [n].
        """
        heard = spoken != SILENCE
        self.active[heard] = spoken[heard]
        self.left[heard] = 1 if self.duration is None else self.duration
        corrected = self.left > 0
        executed = np.where(corrected, self.active, commands)
        if self.duration is not None:
            self.left = np.maximum(self.left - 1, 0)
        return executed, corrected


class Deployment(NamedTuple):
    """What happened when a policy was used.

    Attributes:
        returns: of every episode, [episodes].
        frames: what the policy saw where a correction was active, [M, history + 1, ...].
        commands: what it should have commanded there, [M].
    """

    returns: NDArray[np.float64]
    frames: torch.Tensor
    commands: torch.Tensor


def play(
    policy: CommandPolicy, env: VecEnv, user: User | None = None, duration: int | None = 1
) -> Deployment:
    """One episode in each environment, with the likeliest commands.

    Args:
        policy: chooses commands.
        env: where; environments that are done wait for the longest episode.
        user: who watches; None: nobody.
        duration: as in `CorrectionLoop`.

    Raises:
        ValueError: `user` says what is no command.
    """
    policy.set_training_mode(False)
    observed, memory = env.reset(), None
    loop = CorrectionLoop(env.num_envs, duration)
    returns, alive = np.zeros(env.num_envs), np.ones(env.num_envs, dtype=bool)
    kept_frames: list[torch.Tensor] = []
    kept_commands: list[torch.Tensor] = []
    while alive.any():
        assert isinstance(observed, np.ndarray)
        observations, _ = policy.obs_to_tensor(observed.copy())
        assert isinstance(observations, torch.Tensor)
        frames, memory = policy.remember(observations, memory)
        commands = policy.choose(frames, deterministic=True).cpu().numpy()
        spoken = np.full_like(commands, SILENCE) if user is None else user(observed, commands)
        executed, corrected = loop.step(commands, check_spoken(spoken, commands, policy))
        rows = torch.from_numpy(np.flatnonzero(corrected & alive))
        kept_frames.append(frames.cpu()[rows])
        kept_commands.append(torch.from_numpy(executed)[rows])
        observed, rewards, dones, _ = env.step(executed)
        returns += np.where(alive, rewards, 0.0)
        alive &= ~dones
    return Deployment(returns, torch.cat(kept_frames), torch.cat(kept_commands))


def check_spoken(spoken: Any, commands: Indices, policy: CommandPolicy) -> Indices:
    """What a person says, [n].

    Raises:
        ValueError: it is not an integer for each of the commands [n], or there is no such command.
    """
    found, number = np.asarray(spoken), len(policy.commands)
    if found.shape != commands.shape or not np.issubdtype(found.dtype, np.integer):
        raise ValueError(
            f"the user said {spoken!r}, it must be an integer for each of {len(commands)} commands"
        )
    if wrong := found[(found < SILENCE) | (found >= number)].tolist():
        raise ValueError(
            f"the user said {wrong[0]}, allowed are the commands 0 .. {number - 1}, and -1"
        )
    return found.astype(np.int64)
