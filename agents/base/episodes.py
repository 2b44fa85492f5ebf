"""Whole episodes of a policy, played many at once: through a core, or in any `VecEnv`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.vec_env import VecEnv
from torch.nn.utils.rnn import pad_sequence

from ...envs.base import ArrayCore, stack
from .episodic_policies import EpisodicPolicy
from .snapshot import bottom


@dataclass(frozen=True)
class Episodes:
    """n whole episodes, as tensors padded to the longest of T steps.

    Attributes:
        observations: before each step, [T, n, ...].
        actions: as the policy chose them, [T, n, ...].
        rewards: float64 [T, n], 0 after the end.
        taken: bool [T, n], false after the end.
        info: name -> float64 [T + 1, n], what `info` said at the start and after each step; without
            meaning after the end.
        steps: environment steps that were made.
    """

    observations: torch.Tensor
    actions: torch.Tensor
    rewards: torch.Tensor
    taken: torch.Tensor
    info: dict[str, torch.Tensor]
    steps: int

    def final(self, name: str) -> torch.Tensor:
        """What `info` said of each episode at its end, [n]."""
        ends = self.taken.sum(0, keepdim=True)
        return self.info[name].gather(0, ends)[0]


def play_core(
    core: ArrayCore,
    policy: EpisodicPolicy,
    episodes: int,
    generator: np.random.Generator,
    reads: tuple[str, ...] = (),
    deterministic: bool = False,
) -> Episodes:
    """Play episodes of an array environment, all at once.

    Args:
        core: with a horizon.
        policy: chooses the actions.
        episodes: how many.
        generator: draws their tapes.
        reads: names of `info` to record.
        deterministic: play the likeliest actions.
    """
    tape = stack([core.draw_tape(generator, {}) for _ in range(episodes)])
    state, memory = core.initial(tape), None
    alive = np.ones(episodes, dtype=bool)
    record = Record(reads, policy.device, core.info(state))
    for _ in range(core.horizon or 0):
        observations = torch.as_tensor(core.observation(state), device=policy.device)
        with torch.no_grad():
            actions, memory = policy.act(observations, memory, deterministic)
        played = core.check_action(policy.playable(actions), state)
        following = core.transition(state, played, tape)
        rewards = core.reward(state, played, following)
        record.add(observations, actions, rewards, alive, core.info(following))
        alive = alive & ~(core.terminal(following) | core.truncated(following))
        state = following
        if not alive.any():
            break
    return record.episodes(sum(int(taken.sum()) for taken in record.taken))


def play_env(
    env: VecEnv,
    policy: EpisodicPolicy,
    episodes: int,
    reads: tuple[str, ...] = (),
    deterministic: bool = False,
) -> Episodes:
    """Play at least so many episodes of any `VecEnv`, equally many in each of its environments.

    Arguments are those of `play_core`. Where episodes differ in length, environments that are done
    wait for the longest.

    Raises:
        ValueError: an info lacks one of `reads`.
    """
    rounds = [
        play_round(env, policy, reads, deterministic) for _ in range(-(-episodes // env.num_envs))
    ]

    def join(name: str) -> torch.Tensor:
        return side_by_side([getattr(one, name) for one in rounds])

    return Episodes(
        join("observations"),
        join("actions"),
        join("rewards"),
        join("taken"),
        {name: side_by_side([one.info[name] for one in rounds]) for name in reads},
        sum(one.steps for one in rounds),
    )


def play_round(
    env: VecEnv, policy: EpisodicPolicy, reads: tuple[str, ...], deterministic: bool
) -> Episodes:
    """One episode in each environment of a `VecEnv`."""
    observed, memory = env.reset(), None
    alive = np.ones(env.num_envs, dtype=bool)
    # A wrapper has reset infos of its own, and they are empty.
    record = Record(reads, policy.device, from_infos(bottom(env).reset_infos, reads))
    while alive.any():
        assert isinstance(observed, np.ndarray)
        observations = torch.as_tensor(observed.copy(), device=policy.device)
        with torch.no_grad():
            actions, memory = policy.act(observations, memory, deterministic)
        observed, rewards, dones, infos = env.step(policy.playable(actions))
        record.add(observations, actions, rewards, alive, from_infos(infos, reads))
        alive = alive & ~dones
    return record.episodes(env.num_envs * len(record.taken))


class Record:
    """Collects the steps of n episodes that are played together.

    Args:
        reads: names of `info` to keep.
        device: where the tensors are put.
        info: name -> [n], at the start.
    """

    def __init__(
        self, reads: tuple[str, ...], device: torch.device, info: Mapping[str, Any]
    ) -> None:
        self.device = device
        self.info: dict[str, list[Any]] = {name: [info[name]] for name in reads}
        self.observations: list[torch.Tensor] = []
        self.actions: list[torch.Tensor] = []
        self.rewards: list[Any] = []
        self.taken: list[Any] = []

    def add(
        self,
        observations: torch.Tensor,
        actions: torch.Tensor,
        rewards: Any,
        alive: Any,
        info: Mapping[str, Any],
    ) -> None:
        """One step, everything [n, ...]; `alive` says which episodes were not over before it."""
        self.observations.append(observations)
        self.actions.append(actions)
        self.rewards.append(np.where(alive, rewards, 0.0))
        self.taken.append(alive)
        for name, values in self.info.items():
            values.append(info[name])

    def episodes(self, steps: int) -> Episodes:
        """What was collected in `steps` environment steps."""

        def floats(rows: list[Any]) -> torch.Tensor:
            return torch.as_tensor(np.stack(rows).astype(np.float64), device=self.device)

        return Episodes(
            torch.stack(self.observations),
            torch.stack(self.actions),
            floats(self.rewards),
            torch.as_tensor(np.stack(self.taken), device=self.device),
            {name: floats(values) for name, values in self.info.items()},
            steps,
        )


def from_infos(infos: Sequence[Mapping[str, Any]], reads: tuple[str, ...]) -> dict[str, Any]:
    """Entries [n] of n info dictionaries.

    Raises:
        ValueError: one lacks an entry.
    """
    for info in infos:
        if missing := [name for name in reads if name not in info]:
            raise ValueError(
                f"the environment's info lacks {missing}, which this agent reads after every reset "
                f"and step; it has {sorted(info)} (an SB3VecEnv hands infos on with "
                "keep_infos=True)"
            )
    return {name: np.array([info[name] for info in infos], dtype=np.float64) for name in reads}


def side_by_side(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Tensors [T_k, n, ...] as one [max T_k, sum n, ...], zeros after the end of the shorter."""
    return pad_sequence(list(parts)).flatten(1, 2)
