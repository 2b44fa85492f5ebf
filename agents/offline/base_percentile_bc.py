"""Percentile behaviour cloning: do what the best recorded episodes do.

The baseline "%BC" of L. Chen et al.: Decision Transformer: Reinforcement Learning via Sequence
Modeling (NeurIPS 2021, arXiv 2106.01345): behaviour cloning on the share of the data with the
highest returns. The share is counted in episodes here; where they are equally long it is the
paper's share of the steps.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from stable_baselines3.common.type_aliases import GymEnv

from ..base.declare import Example
from ..base.offline_data import OfflineDataset
from ..base.offline_files import FileDataset
from ..base.offline_tensors import episode_ends, episode_returns
from .behaviour_cloning import BehaviourCloning


def best_episodes(dataset: OfflineDataset, percent: float) -> OfflineDataset:
    """The episodes with the highest undiscounted returns, in their order.

    Args:
        dataset: with rewards, and terminations or truncations.
        percent: how many of all episodes, in (0, 100]; at least one is kept, and of equal returns
            the earlier ones. A part of an episode is not counted.

    Raises:
        ValueError: `percent` is out of range, the data have no rewards, or no ends of episodes.
    """
    if not 0 < percent <= 100:
        raise ValueError(f"percent={percent} lies outside (0, 100]")
    returns, ends = episode_returns(dataset), episode_ends(dataset)
    kept = max(int(percent * len(ends) / 100), 1)
    chosen = np.zeros(len(ends), dtype=bool)
    chosen[np.argsort(-returns, kind="stable")[:kept]] = True
    rows = np.flatnonzero(np.repeat(chosen, np.diff(ends, prepend=0)))
    if isinstance(dataset, FileDataset):
        return dataset.select(rows)
    arrays: dict[str, Any] = {name: array[rows] for name, array in dataset.arrays().items()}
    return replace(dataset, **arrays)


def short_episodes(env: Any) -> OfflineDataset:
    """300 steps of random actions."""
    return OfflineDataset.record(env, steps=300)


class PercentileBC(BehaviourCloning):
    """Behaviour cloning of the best episodes.

    Args:
        policy, env, others: as in `BehaviourCloning`; the data need rewards and ends of episodes.
        percent: how many of the episodes, see `best_episodes`.

    Attributes:
        dataset: the steps of the best episodes only.

    Raises:
        ValueError: as in `best_episodes`.
    """

    example = Example(
        "FiniteMDP-v0", {"max_steps": 10}, kwargs={"batch_size": 32}, steps=40, data=short_episodes
    )

    def __init__(
        self,
        policy: Any,
        env: OfflineDataset | GymEnv | str | None,
        *,
        percent: float = 10.0,
        **others: Any,
    ) -> None:
        if not 0 < percent <= 100:
            raise ValueError(f"percent={percent} lies outside (0, 100]")
        self.percent = percent
        super().__init__(policy, self.reduced(env), **others)

    def reduced(self, env: Any) -> Any:
        """Data without their worse episodes; an environment as it is."""
        return best_episodes(env, self.percent) if isinstance(env, OfflineDataset) else env

    def set_env(self, env: Any, force_reset: bool = True) -> None:
        """As the base's; of data, the best episodes are kept."""
        super().set_env(self.reduced(env), force_reset)
