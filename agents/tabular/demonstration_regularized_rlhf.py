"""Demonstration-regularised reinforcement learning from human feedback.

Daniil Tiapkin, Denis Belomestny, Daniele Calandriello, Eric Moulines, Alexey Naumov, Pierre
Perrault, Michal Valko, Pierre Menard: Demonstration-Regularized RL (ICLR 2024, arXiv 2310.17303).

Rewards are never seen; of two episodes tau0 and tau1 of the clone somebody says which is better,

    P(tau1 preferred to tau0) = sigmoid( r(tau1) - r(tau0) ).

The rewards of maximum likelihood then take the place of the true ones in
`demonstration_regularized.py`. The penalty for leaving the clone keeps the policy where the
comparisons say something: no pessimism is needed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, log_expit
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.vec_env import VecEnv

from ...envs.checks import check_integer
from ...envs.tabular.probabilities import draw
from ...wrappers.preference_oracle import PreferenceOracle
from ..base.declare import Example
from ..base.finite_horizon import Trajectories
from ..base.offline_data import OfflineDataset
from ..base.pairwise import oracle_of, pair_features
from .demonstration_regularized import DemoRegularizedRL
from .trajectory_cloning import WORLD, random_episodes

Array = NDArray[np.float64]
Actions = NDArray[np.int64]

RIDGE = 1e-6  # makes the rewards 0 about which no comparison says anything


def preference_loss(theta: Array, differences: Array, wins: Array) -> tuple[float, Array]:
    """Mean negative log-likelihood of comparisons, and its gradient [d].

    Args:
        theta: rewards of the features [d].
        differences: features of one episode less those of the other [m, d].
        wins: 1 where that one was preferred, 0 where the other, 1/2 for a tie [m].
    """
    scores = differences @ theta
    losses = -(wins * log_expit(scores) + (1 - wins) * log_expit(-scores))
    return float(losses.mean()), (expit(scores) - wins) @ differences / len(wins)


def preferred_rewards(differences: Array, wins: Array, largest: float) -> Array:
    """Rewards [d] in 0 .. `largest` with the smallest `preference_loss` (and least squares among
    those that explain the comparisons alike)."""

    def objective(theta: Array) -> tuple[float, Array]:
        loss, gradient = preference_loss(theta, differences, wins)
        return loss + RIDGE / 2 * float(theta @ theta), gradient + RIDGE * theta

    size = differences.shape[1]
    found = minimize(
        objective, np.zeros(size), jac=True, method="L-BFGS-B", bounds=[(0.0, largest)] * size
    )
    return np.asarray(found.x)


class DemoRegularizedRLHF(DemoRegularizedRL):
    """`DemoRegularizedRL` whose rewards come from comparisons of episodes of the clone.

    First, an update is two episodes of the clone in every environment, compared by a
    `PreferenceOracle`, into which the environment is put unless it is in one; their transitions are
    counted, too. After enough comparisons the rewards are fixed, and learning goes on as
    `DemoRegularizedRL`'s. `add_comparisons` takes those of people.

    Args:
        policy: "TimePolicy".
        env: an `OfflineDataset` of demonstrations whose `env` is the world to learn in, or only
            that world.
        comparisons: how many come before everything else, at least 1.
        kl_coefficient, reference, deviates, target, ...: as in `DemoRegularizedRL`, without
            `rewards`; the estimates lie in 0 .. `largest_reward`.

    Attributes:
        reward_estimates: [H, S, A]; None as long as comparisons are missing.
    """

    example = Example(
        "Garnet-v0",
        WORLD,
        policy="TimePolicy",
        kwargs={"bonus": 0.1, "comparisons": 10},
        steps=512,
        data=random_episodes,
    )

    def __init__(
        self,
        policy: Any,
        env: OfflineDataset | GymEnv | str | None,
        *,
        comparisons: int = 200,
        **common: Any,
    ) -> None:
        self.comparisons = check_integer("comparisons", comparisons, 1)
        if common.get("rewards") is not None:
            raise ValueError("rewards are learned from comparisons here, leave them out")
        super().__init__(policy, env, **common)

    @staticmethod
    def _wrap_env(env: GymEnv, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        vector = DemoRegularizedRL._wrap_env(env, verbose, monitor_wrapper)
        return vector if oracle_of(vector) else PreferenceOracle(vector)

    def _setup_model(self) -> None:
        super()._setup_model()
        self.reward_estimates: Array | None = None
        self.differences: Array = np.zeros((0, self.probabilities.size))
        self.wins: Array = np.zeros(0)

    def add_comparisons(self, first: Trajectories, second: Trajectories, wins: Array) -> None:
        """Learn from m comparisons, and estimate the rewards where they are enough.

        Args:
            first, second: m episodes each.
            wins: 1 where the first was preferred, 0 where the second, 1/2 for a tie [m].

        Raises:
            ValueError: the numbers differ, or a win is outside [0, 1].
        """
        wins = np.asarray(wins, dtype=np.float64)
        if not wins.shape == (len(first.actions),) == (len(second.actions),):
            raise ValueError(
                f"{len(first.actions)} and {len(second.actions)} episodes were compared, wins has "
                f"shape {wins.shape}"
            )
        if not ((wins >= 0) & (wins <= 1)).all():
            raise ValueError(f"wins lie in [0, 1], got {wins}")
        new = pair_features(first, second, self.shape)
        self.differences = np.concatenate([self.differences, new])
        self.wins = np.concatenate([self.wins, wins])
        if len(self.wins) >= self.comparisons:
            found = preferred_rewards(self.differences, self.wins, self.largest_reward)
            self.reward_estimates = found.reshape(self.shape)

    def mean_rewards(self) -> Array:
        """The estimates; 0 as long as there are none."""
        none = self.reward_estimates is None
        return np.zeros(self.shape) if none else np.asarray(self.reward_estimates)

    def choose(self, states: Actions, step: int) -> Actions:
        """As the clone does, as long as comparisons are missing."""
        if self.reward_estimates is None:
            return draw(self.expert[step, states], self.generator)
        return super().choose(states, step)

    def update(self) -> dict[str, float]:
        """A comparison in every environment, or an episode."""
        if self.reward_estimates is not None:
            return super().update()
        assert self.env is not None
        first, second = self.play(), self.play()
        oracle = oracle_of(self.env)
        assert oracle is not None
        wins = oracle.prefers_earlier(np.arange(self.env.num_envs))
        for episodes in (first, second):
            self.counts.add(episodes)
        self.add_comparisons(first, second, wins.astype(np.float64))
        self.plan(self.bonuses())
        loss, _ = preference_loss(self.mean_rewards().ravel(), self.differences, self.wins)
        return {"train/comparisons": float(len(self.wins)), "train/preference_loss": loss}

    def extra_state(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """As the base's, with the comparisons."""
        values, tensors = super().extra_state()
        own = {"differences": self.differences, "wins": self.wins}
        if self.reward_estimates is not None:
            own["reward_estimates"] = self.reward_estimates
        return values, tensors | {k: torch.from_numpy(x.copy()) for k, x in own.items()}

    def restore_extra_state(self, values: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        """Inverse of `extra_state`."""
        super().restore_extra_state(values, tensors)
        self.differences, self.wins = (tensors[k].numpy().copy() for k in ("differences", "wins"))
        found = tensors.get("reward_estimates")
        self.reward_estimates = None if found is None else found.numpy().copy()
