"""Behaviour cloning of whole episodes of a finite world, step by step.

The policy that gives the recorded actions the highest likelihood, with the log barrier sum_a log
pi(a) at every step and state, which keeps it off 0 (as in arXiv 2310.17303):

    pi_h(a | s) = (N_h(s, a) + 1) / (N_h(s) + A)
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback

from ..base.declare import Example
from ..base.finite_horizon import Trajectories
from ..base.offline_data import OfflineDataset
from ..base.recorded_episodes import RecordedEpisodesAlgorithm

Array = NDArray[np.float64]
Actions = NDArray[np.int64]


def count_actions(trajectories: Trajectories, states: int, actions: int) -> Actions:
    """N: how often each action was played, [H, S, A]."""
    steps = trajectories.actions.shape[1]
    found = np.zeros((steps, states, actions), dtype=np.int64)
    np.add.at(found, (np.arange(steps), trajectories.states[:, :-1], trajectories.actions), 1)
    return found


def cloned(visits: Actions) -> Array:
    """(N + 1) / (sum of N + A) for counts of actions [..., A]."""
    raised = visits.astype(np.float64) + 1
    return raised / raised.sum(axis=-1, keepdims=True)


WORLD: dict[str, Any] = {
    **{"states": 6, "actions": 3, "branching": None, "concentration": 0.15},
    **{"rewards": "two_targets", "horizon": 8, "start": 0},
}


def random_episodes(env: Any) -> OfflineDataset:
    """20 episodes of random actions."""
    return OfflineDataset.record(env, steps=20 * WORLD["horizon"])


class TrajectoryCloning(RecordedEpisodesAlgorithm):
    """Behaviour cloning of whole episodes: a law of actions for each step and state.

    An update reads one recorded episode, in random order, and a timestep is one of its steps;
    once all are read, reading on changes nothing. Logged: `train/log_likelihood`, per step, of the
    episode before it was read.

    Args:
        policy: "TimePolicy".
        env: an `OfflineDataset` of whole episodes.
        horizon, seed, ...: as in `FiniteHorizonAlgorithm`.
    """

    example = Example("Garnet-v0", WORLD, policy="TimePolicy", steps=80, data=random_episodes)
    learns_in_env = False

    def _setup_model(self) -> None:
        super()._setup_model()
        self.visits = np.zeros(self.shape, dtype=np.int64)
        self.read = np.zeros(0, dtype=bool)

    def set_env(self, env: Any, force_reset: bool = True) -> None:
        """As the base's; the episodes of a data set will be read, too."""
        super().set_env(env, force_reset)
        if isinstance(env, OfflineDataset):
            self.read = np.zeros(0, dtype=bool)

    def _setup_learn(self, *args: Any, **kwargs: Any) -> tuple[int, BaseCallback]:
        """As the base's.

        Raises:
            ValueError: there is no data set.
        """
        recorded = self.recorded()
        if recorded is None:
            raise ValueError(
                "there is no data to learn from: give an OfflineDataset as env, or to set_env"
            )
        self._recorded = recorded
        if len(self.read) != len(recorded.actions):
            self.read = np.zeros(len(recorded.actions), dtype=bool)
        return super()._setup_learn(*args, **kwargs)

    def update(self) -> dict[str, float]:
        """Read an episode."""
        unread = np.flatnonzero(~self.read)
        row = self.generator.choice(unread if len(unread) else len(self.read))
        steps = np.arange(self.shape[0])
        place = (steps, self._recorded.states[row, :-1], self._recorded.actions[row])
        likelihoods = self.probabilities[place]
        if len(unread):
            self.visits[place] += 1
            self.read[row] = True
            self.probabilities[:] = cloned(self.visits)
        self.num_timesteps += self.shape[0]
        return {"train/log_likelihood": float(np.log(likelihoods).mean())}

    def extra_state(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """As the base's, with what was read."""
        values, tensors = super().extra_state()
        own = {"visits": self.visits, "read": self.read}
        return values, tensors | {k: torch.from_numpy(x.copy()) for k, x in own.items()}

    def restore_extra_state(self, values: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        """Inverse of `extra_state`."""
        super().restore_extra_state(values, tensors)
        self.visits, self.read = (tensors[name].numpy().copy() for name in ("visits", "read"))
