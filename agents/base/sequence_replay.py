"""A store of what happened, from which stretches of an episode are drawn."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

ON, TERMINATED, CUT = range(3)  # what becomes of an episode at a frame


class Stretches(NamedTuple):
    """B stretches of at most S steps.

    Attributes:
        observations: [B, S + 1, ...]; beyond the end, that of the end.
        actions: int64 [B, S]; beyond the end, drawn.
        rewards: [B, S], 0 beyond the end.
        policies: of a search, [B, S, A]; of no meaning beyond the end.
        lengths: steps until the end, 1 .. S, [B].
        terminated: whether the task ended there, bool [B]; else it was cut, or goes on.
    """

    observations: NDArray[Any]
    actions: NDArray[np.int64]
    rewards: NDArray[np.float32]
    policies: NDArray[np.float32]
    lengths: NDArray[np.int64]
    terminated: NDArray[np.bool_]


class SequenceReplay:
    """The newest frames of n environments, of which each has a ring of its own.

    The last observation of an episode is a frame without an action. Where the newest frame is met,
    a stretch is cut.

    Args:
        rows: n.
        frames: how many are kept of every environment, at least 2.
        observation: an example, for shape and dtype.
        actions: A.
    """

    def __init__(self, rows: int, frames: int, observation: NDArray[Any], actions: int) -> None:
        shape = (rows, frames)
        self.observations = np.zeros((*shape, *observation.shape), dtype=observation.dtype)
        self.actions = np.zeros(shape, dtype=np.int64)
        self.rewards = np.zeros(shape, dtype=np.float32)
        self.policies = np.zeros((*shape, actions), dtype=np.float32)
        self.kinds = np.full(shape, CUT, dtype=np.int8)
        self.starts = np.zeros(shape, dtype=np.bool_)  # frames with an action and a next frame
        self.next = np.zeros(rows, dtype=np.int64)

    def _write(self, rows: NDArray[np.int64], kinds: Any, observations: NDArray[Any]) -> Any:
        """Put a frame of each of some rows into its place, which is returned."""
        frames = self.kinds.shape[1]
        place = (rows, self.next[rows])
        before = (rows, (self.next[rows] - 1) % frames)
        self.starts[before] = self.kinds[before] == ON
        self.starts[place] = False
        self.kinds[place], self.observations[place] = kinds, observations
        self.next[rows] = (self.next[rows] + 1) % frames
        return place

    def add(
        self,
        observations: NDArray[Any],
        actions: NDArray[np.int64],
        rewards: NDArray[Any],
        policies: NDArray[Any],
        following: NDArray[Any],
        terminated: NDArray[np.bool_],
        dones: NDArray[np.bool_],
    ) -> None:
        """One step of every environment.

        Args:
            observations, following: before and after it, [n, ...].
            actions, rewards: [n].
            policies: [n, A].
            terminated, dones: whether the task, or the episode, is over, bool [n].
        """
        place = self._write(np.arange(len(actions)), ON, observations)
        self.actions[place], self.rewards[place] = actions, rewards
        self.policies[place] = policies
        if dones.any():
            rows = np.flatnonzero(dones)
            kinds = np.where(terminated[rows], TERMINATED, CUT)
            self._write(rows, kinds, following[rows])

    def cut(self) -> None:
        """Say that the episodes do not go on from the newest frames."""
        rows = np.arange(len(self.next))
        newest = (rows, self.next - 1)
        self.kinds[newest] = np.where(self.kinds[newest] == ON, CUT, self.kinds[newest])

    @property
    def steps(self) -> int:
        """How many steps there are to begin with."""
        return int(self.starts.sum())

    def sample(self, size: int, steps: int, generator: np.random.Generator) -> Stretches:
        """Stretches that begin at any step, each as likely.

        Args:
            size: B.
            steps: S, at least 1.
            generator: draws B numbers, and B x S actions.

        Raises:
            ValueError: nothing is stored yet.
        """
        possible = np.flatnonzero(self.starts)
        if not len(possible):
            raise ValueError("there is no step in the store to begin with")
        frames = self.kinds.shape[1]
        rows, first = np.divmod(generator.choice(possible, size), frames)
        rows, places = rows[:, None], (first[:, None] + np.arange(steps + 1)) % frames
        kinds = self.kinds[rows, places]
        ends = (kinds != ON) | (places == (self.next[rows] - 1) % frames)
        ends[:, -1] = True
        lengths = ends.argmax(axis=1)
        here = np.arange(steps)[None, :] < lengths[:, None]
        clamped = np.minimum(np.arange(steps + 1), lengths[:, None])
        seen = np.take_along_axis(places, clamped, axis=1)
        drawn = generator.integers(self.policies.shape[-1], size=(size, steps))
        return Stretches(
            self.observations[rows, seen],
            np.where(here, self.actions[rows, places[:, :-1]], drawn),
            np.where(here, self.rewards[rows, places[:, :-1]], np.float32(0)),
            self.policies[rows, places[:, :-1]],
            lengths,
            np.take_along_axis(kinds, lengths[:, None], axis=1)[:, 0] == TERMINATED,
        )

    # -- for checkpoints ---------------------------------------------------------------------------

    ARRAYS = ("observations", "actions", "rewards", "policies", "kinds", "starts", "next")

    def get_state(self) -> dict[str, torch.Tensor]:
        """All of it."""
        return {name: torch.from_numpy(getattr(self, name).copy()) for name in self.ARRAYS}

    def set_state(self, tensors: dict[str, torch.Tensor]) -> None:
        """Inverse of `get_state`."""
        for name in self.ARRAYS:
            setattr(self, name, tensors[name].numpy().copy())
