"""Recorded whole episodes of a finite world: to imitate, or to know something before the first
one."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback

from ...envs.base import ArrayCore
from ...envs.tabular.probabilities import draw
from .dataset import DatasetAlgorithm
from .finite_horizon import FiniteHorizonAlgorithm, Trajectories
from .offline_data import OfflineDataset

Array = NDArray[np.float64]


def roll_out(core: ArrayCore, laws: Array, episodes: int, seed: int) -> Trajectories:
    """Episodes that a policy plays.

    Args:
        core: of a finite world with a horizon.
        laws: of actions [H, S, A].
        episodes: how many.
        seed: episode i is that of `env.reset(seed=seed + i)`; actions are drawn from a stream of
            their own.
    """
    generator = np.random.default_rng((seed, 1))
    tape = core.tapes(episodes, seed)
    state = core.initial(tape)
    states, actions, rewards = [core.observation(state)], [], []
    for law in laws:
        actions.append(draw(law[states[-1]], generator))
        following = core.transition(state, actions[-1], tape)
        rewards.append(core.reward(state, actions[-1], following))
        state = following
        states.append(core.observation(state))
    return Trajectories(*(np.stack(each, axis=1) for each in (states, actions, rewards)))


def to_dataset(trajectories: Trajectories, env: Any) -> OfflineDataset:
    """The same episodes as a data set, whose environment is `env`."""
    last = np.zeros(trajectories.actions.shape, dtype=bool)
    last[:, -1] = True
    return OfflineDataset(
        observations=trajectories.states[:, :-1].ravel(),
        actions=trajectories.actions.ravel(),
        rewards=trajectories.rewards.ravel(),
        next_observations=trajectories.states[:, 1:].ravel(),
        terminations=last.ravel(),
        env=env,
    )


def to_trajectories(dataset: OfflineDataset, horizon: int) -> Trajectories:
    """The episodes of a data set, one after the other.

    Rewards that were not recorded are NaN. A last state that was not is the one before it: nothing
    is worth anything there.

    Args:
        dataset: of a finite world; ends are where it says, every `horizon` steps if it does not.
        horizon: steps of an episode.

    Raises:
        ValueError: an episode has another length.
    """
    episodes, rest = divmod(len(dataset), horizon)
    known = [x for x in (dataset.terminations, dataset.truncations) if x is not None]
    if known:
        ends = np.flatnonzero(np.any(known, axis=0)) + 1
        lengths = np.diff(ends, prepend=0)
        if (lengths != horizon).any():
            wrong = int(np.argmax(lengths != horizon))
            raise ValueError(
                f"recorded episodes must have {horizon} steps (horizon), number {wrong} has "
                f"{lengths[wrong]}"
            )
        rest = len(dataset) - (int(ends[-1]) if len(ends) else 0)
    if rest:
        raise ValueError(
            f"recorded episodes must have {horizon} steps (horizon), of {len(dataset)} steps the "
            f"last {rest} make no whole one"
        )
    shape = (episodes, horizon)
    states = dataset.observations.reshape(shape)
    following = dataset.next_observations
    last = states[:, -1] if following is None else following.reshape(shape)[:, -1]
    rewards = dataset.rewards
    return Trajectories(
        np.column_stack([states, last]).astype(np.int64),
        dataset.actions.reshape(shape).astype(np.int64),
        np.full(shape, np.nan) if rewards is None else rewards.reshape(shape).astype(np.float64),
    )


class RecordedEpisodesAlgorithm(DatasetAlgorithm, FiniteHorizonAlgorithm):
    """An agent of a finite world that may be given recorded episodes before it plays its own.

    Args:
        policy: "TimePolicy".
        env: an `OfflineDataset` of whole episodes, whose `env` is the world to learn in; or only
            that world.
        horizon, seed, ...: as in `FiniteHorizonAlgorithm`.

    Raises:
        ValueError: a recorded episode has not `horizon` steps.
    """

    dataset_class = OfflineDataset
    learns_in_env = True
    dataset: OfflineDataset | None

    def recorded(self) -> Trajectories | None:
        """The recorded episodes; None where there is only an environment."""
        return None if self.dataset is None else to_trajectories(self.dataset, self.shape[0])

    def _setup_learn(self, *args: Any, **kwargs: Any) -> tuple[int, BaseCallback]:
        """As the base's.

        Raises:
            ValueError: there is no environment.
        """
        if self.learns_in_env and self.env is None:
            raise ValueError(
                "there is no environment to learn in: give one, or data with one, to load or to "
                "set_env"
            )
        return super()._setup_learn(*args, **kwargs)
