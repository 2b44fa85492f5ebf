"""UCBVI: optimistic value iteration, the baseline of exploration in episodes.

M. G. Azar, I. Osband, R. Munos: Minimax Regret Bounds for Reinforcement Learning (ICML 2017). After
every episode, from the counts n, the means r^ and the shares P^ of what was seen,

    Q_h(s, a) = min( cap_h, r^_h(s, a) + P^_h max Q_{h+1} + c sqrt(L / n_h(s, a)) )

and Q = cap where n = 0; the greedy policy plays the next episode. L = log(T S A H) for T episodes.
The paper's constant is c = 7 H, with L = log(5 S A T / delta); smaller ones explore less.
"""

from __future__ import annotations

from math import log
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from stable_baselines3.common.type_aliases import GymEnv

from ..base.declare import Example
from ..base.finite_horizon import Counts, FiniteHorizonAlgorithm, Trajectories, backward, greedy
from ..base.resumable import prefixed

Array = NDArray[np.float64]


def confidence_bonus(
    visits: NDArray[np.int64], scale: float, log_term: float, unseen: float = np.inf
) -> Array:
    """scale sqrt(L / n) for visits n, `unseen` where n = 0; any shape."""
    return np.where(visits > 0, scale * np.sqrt(log_term / np.maximum(visits, 1)), unseen)


class UCBVI(FiniteHorizonAlgorithm):
    """UCBVI for finite worlds with a horizon.

    Its policy is the optimistic one while it learns, and that of the same estimates without a bonus
    when it has learned.

    Args:
        policy, env, horizon, seed, ...: as in `FiniteHorizonAlgorithm`.
        bonus: c above, at least 0.
        unseen_bonus: that of an action that was never played, at least 0; None: as large as the cap
            allows.
        largest_reward: of a step: the cap is that times the steps left.
        largest_return: of an episode, which the cap does not exceed; None: what `largest_reward`
            says.
        rewards: [H, S, A] where they are known and not to be learned.
    """

    example = Example(
        "FiniteMDP-v0", {"horizon": 6}, policy="TimePolicy", kwargs={"bonus": 0.1}, steps=600
    )

    def __init__(
        self,
        policy: Any,
        env: GymEnv | str | None,
        *,
        bonus: float = 1.0,
        unseen_bonus: float | None = None,
        largest_reward: float = 1.0,
        largest_return: float | None = None,
        rewards: ArrayLike | None = None,
        **common: Any,
    ) -> None:
        if not (bonus >= 0 and largest_reward > 0):
            raise ValueError(
                f"bonus is at least 0 and largest_reward above 0, got bonus={bonus}, "
                f"largest_reward={largest_reward}"
            )
        if unseen_bonus is not None and not unseen_bonus >= 0:
            raise ValueError(f"unseen_bonus is at least 0, got {unseen_bonus}")
        if largest_return is not None and not largest_return > 0:
            raise ValueError(f"largest_return is above 0, got {largest_return}")
        self.bonus, self.unseen_bonus = bonus, unseen_bonus
        self.largest_reward, self.largest_return = largest_reward, largest_return
        self.rewards = None if rewards is None else np.asarray(rewards, dtype=np.float64)
        super().__init__(policy, env, **common)

    def _setup_model(self) -> None:
        super()._setup_model()
        self.counts = Counts(*self.shape)
        if self.rewards is not None and self.rewards.shape != self.shape:
            raise ValueError(
                f"rewards have shape {self.rewards.shape}, the world's are {self.shape}"
            )

    @property
    def caps(self) -> Array:
        """The largest value possible from each step on, [H]."""
        left = np.arange(self.shape[0], 0.0, -1.0) * self.largest_reward
        return left if self.largest_return is None else np.minimum(left, self.largest_return)

    @property
    def log_term(self) -> float:
        """L."""
        steps, states, actions = self.shape
        return log(max(self._total_timesteps / steps, 2) * states * actions * steps)

    @property
    def bonus_scale(self) -> float:
        """What sqrt(L / n) is multiplied with."""
        return self.bonus

    def bonuses(self) -> Array:
        """Of what was seen so far, [H, S, A]."""
        unseen = np.inf if self.unseen_bonus is None else self.unseen_bonus
        return confidence_bonus(self.counts.visits, self.bonus_scale, self.log_term, unseen)

    def mean_rewards(self) -> Array:
        """Those that are known, or that were seen so far, [H, S, A]."""
        return self.counts.mean_rewards() if self.rewards is None else self.rewards

    def study(self, trajectories: Trajectories) -> dict[str, float]:
        """Count, and plan anew."""
        self.counts.add(trajectories)
        values = self.plan(self.bonuses())
        start = values[trajectories.states[:, 0]].mean()
        return {
            "rollout/return": float(trajectories.rewards.sum(axis=1).mean()),
            "train/optimistic_value": float(start),
        }

    def plan(self, bonus: Array | float) -> Array:
        """Play by `laws` for the estimates with a bonus [H, S, A] from now on; the values [S] of
        the first step."""
        action_values, values = self.estimate(bonus)
        self.probabilities[:] = self.laws(action_values)
        return values[0]

    def estimate(self, bonus: Array | float) -> tuple[Array, Array]:
        """Q [H, S, A] and V [H, S] of what was seen, with a bonus [H, S, A]."""
        gains = self.mean_rewards() + bonus
        return backward(self.counts.transitions(), gains, self.caps, self.state_values)

    def state_values(self, step: int, action_values: Array) -> Array:
        """Values [S] of a step (from 0), of its action values [S, A]."""
        values: Array = action_values.max(axis=-1)
        return values

    def laws(self, action_values: Array) -> Array:
        """The policy [H, S, A] of action values [H, S, A]."""
        return greedy(action_values)

    def finish(self) -> None:
        """From optimism to what was seen."""
        self.plan(0.0)

    def extra_state(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """As the base's, with the counts."""
        values, tensors = super().extra_state()
        return values, tensors | {f"counts.{name}": x for name, x in self.counts.state().items()}

    def restore_extra_state(self, values: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        """Inverse of `extra_state`."""
        super().restore_extra_state(values, tensors)
        self.counts.restore(prefixed(tensors, "counts"))
