"""Demonstrations of `ItemPacking-v0`, and somebody who watches a robot that packs."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...envs.tabular.item_packing import DONE, STUCK, STUCK_LEFT, TODO, ItemPacking
from ..base.offline_data import OfflineDataset
from .yay_robot_loop import SILENCE, Indices


def demonstrations(count: int, seed: int, env: Any) -> OfflineDataset:
    """Episodes of `ItemPacking-v0` in which an expert picks any item to do, and none gets stuck."""
    core, generator = ItemPacking(), np.random.default_rng((seed, 1))
    episodes: list[dict[str, NDArray[Any]]] = []
    while len(episodes) < count:
        tape = core.tapes(8 * count, seed)
        state, seen, picked = core.initial(tape), [], []
        for _ in range(core.items):
            seen.append(core.observation(state))
            to_do = core.conditions[state["s"]] == TODO
            picked.append((generator.random(to_do.shape) * to_do).argmax(axis=1))
            state = core.transition(state, picked[-1], tape)
        ends = np.arange(core.items) == core.items - 1
        episodes += [
            {
                "observations": np.stack([step[row] for step in seen]),
                "actions": np.array([step[row] for step in picked]),
                "terminations": ends,
            }
            for row in np.flatnonzero((core.conditions[state["s"]] == DONE).all(axis=1))
        ]
        seed += 8 * count
    return OfflineDataset.from_episodes(episodes[:count], env=env)


class PackingUser:
    """Somebody who knows how to pack, and says so in the given share of the cases in which the
    command is wrong; reads observations with features."""

    def __init__(self, attention: float, seed: int) -> None:
        self.attention, self.generator = attention, np.random.default_rng((seed, 2))

    def __call__(self, observations: NDArray[Any], commands: Indices) -> Indices:
        """The right command or silence, [n]."""
        conditions = observations[:, :-1].reshape(len(commands), -1, 4).argmax(axis=-1)
        items, rows = conditions.shape[1], np.arange(len(commands))
        stuck = np.isin(conditions, STUCK)
        freed_by = items + (conditions[rows, stuck.argmax(axis=1)] == STUCK_LEFT)
        pickable = np.pad(conditions == TODO, ((0, 0), (0, 2)))  # of all commands
        wanted = np.where(stuck.any(axis=1), freed_by, pickable.argmax(axis=1))
        right = np.where(stuck.any(axis=1), commands == wanted, pickable[rows, commands])
        speaks = ~right & (self.generator.random(len(rows)) < self.attention)
        return np.where(speaks, wanted, SILENCE)


def clean_picks(env: Any) -> OfflineDataset:
    """Eight demonstrations of `ItemPacking-v0`."""
    return demonstrations(8, seed=100, env=env)
