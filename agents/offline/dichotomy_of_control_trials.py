"""What the claim of dichotomy of control compares by: a bandit, and what counting finds there."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from ..base.offline_data import OfflineDataset

CHANCES = (0.1, 0.3)  # p
EPISODES = 1_000
MARGIN = 0.15  # by which the decision transformer must be beaten


def record(p: float, seed: int) -> OfflineDataset:
    """Choices in `BernoulliBandit-v0` of who takes arm 0 with probability p and arm 1 else.

    Arm 0 pays with probability 1 - p, arm 1 with p.
    """
    generator = np.random.default_rng([seed, 1])
    env = gym.make("BernoulliBandit-v0", p=p)
    return OfflineDataset.record(
        env, EPISODES, act=lambda _: int(generator.random() >= p), seed=seed
    )


def expected(p: float, law: NDArray[np.float64]) -> float:
    """Expected reward of taking arms with these probabilities [2]."""
    return float(law @ [1 - p, p])


def conditioned(dataset: OfflineDataset, level: float | None) -> NDArray[np.float64]:
    """Shares of the actions among the steps that paid `level` (None: among all), [A].

    Raises:
        ValueError: no step paid that.
    """
    assert dataset.rewards is not None and dataset.action_space is not None
    chosen = dataset.actions if level is None else dataset.actions[dataset.rewards == level]
    if not len(chosen):
        raise ValueError(f"no step of the data paid {level}")
    counts = np.bincount(chosen, minlength=int(dataset.action_space.n))  # type: ignore[attr-defined]
    return counts / counts.sum()
