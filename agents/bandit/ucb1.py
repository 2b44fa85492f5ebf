"""UCB1: optimism in the face of uncertainty.

P. Auer, N. Cesa-Bianchi, P. Fischer: Finite-time Analysis of the Multiarmed Bandit Problem (Machine
Learning 47, 2002). Every arm is pulled once; from then on, in round t, with n_a pulls of arm a and
their mean payoff m_a, the arm with the highest

    m_a + sqrt(c ln t / n_a),    c = 2 for rewards in [0, 1]

Its regret grows like ln t.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.type_aliases import GymEnv

from ..base.bandit import ArmsPolicy, BanditAlgorithm, count
from ..base.declare import Example
from ..base.stepping import Mask, Transitions


def upper_bounds(
    payoffs: NDArray[np.float64],
    paid: NDArray[np.int64],
    pulls: NDArray[np.int64],
    confidence: float,
) -> NDArray[np.float64]:
    """Upper confidence bound of each arm, [A]; infinite before its first pull.

    Args:
        payoffs: summed rewards, [A].
        paid: pulls that have been paid, [A].
        pulls: all pulls, [A]; more than `paid` while other environments of the same round are
            waiting.
        confidence: c.
    """
    means = payoffs / np.maximum(paid, 1)
    width = np.sqrt(confidence * np.log(max(pulls.sum(), 1)) / np.maximum(pulls, 1))
    return np.where(pulls > 0, means + width, np.inf)


class UCB1(BanditAlgorithm):
    """UCB1 for any environment with `Discrete` actions; contexts are not looked at.

    `predict` returns the arm with the best mean payoff so far, whatever the observation.

    Args:
        policy, env, seed, ...: as in `BanditAlgorithm`.
        confidence: c above; rewards that span another range than 1 need it times the range squared.
    """

    example = Example("BernoulliBandit-v0", {"p": 0.3}, policy="ArmsPolicy", steps=400)
    policy: ArmsPolicy

    def __init__(
        self, policy: Any, env: GymEnv | str | None, *, confidence: float = 2.0, **common: Any
    ) -> None:
        if not 0 <= confidence < np.inf:
            raise ValueError(f"confidence={confidence} must be a finite number of at least 0")
        self.confidence = confidence
        super().__init__(policy, env, **common)

    def act(self, observations: NDArray[Any], masks: Mask | None) -> NDArray[np.int64]:
        """The arm with the highest bound for each environment in turn, [n]."""
        payoffs, paid = self.policy.payoffs.numpy(), self.policy.pulls.numpy()
        pulls, arms = paid.copy(), []
        for row in range(len(observations)):
            bounds = upper_bounds(payoffs, paid, pulls, self.confidence)
            arms.append(
                int((bounds if masks is None else np.where(masks[row], bounds, -np.inf)).argmax())
            )
            pulls[arms[-1]] += 1
        return np.array(arms)

    def learn_from(self, transitions: Transitions) -> dict[str, float]:
        """Add what was paid."""
        arms, rewards = transitions.actions, transitions.rewards
        pulls, payoffs = count(arms, rewards, len(self.policy.pulls))
        self.policy.pulls += torch.as_tensor(pulls)
        self.policy.payoffs += torch.as_tensor(payoffs)
        return {"rollout/mean_reward": float(rewards.mean())}
