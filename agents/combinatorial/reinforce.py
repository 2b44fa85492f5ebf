"""REINFORCE in a simulator: the score-function counterpart of pathwise gradients, as a baseline.

R. J. Williams, Simple statistical gradient-following algorithms for connectionist reinforcement
learning (1992). The policy, the recorded scenarios and the loop are those of the pathwise learner;
only the gradient differs.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from ...envs.base import ArrayCore, Arrays
from ..base.declare import Example
from ..base.episodic import policy_gradient_loss, returns_to_go, step_means
from ..base.inventory import InventoryAlgorithm
from .hdpo import HDPO


def score_function_loss(log_probs: torch.Tensor, rewards: torch.Tensor) -> torch.Tensor:
    """Minus the surrogate whose gradient is that of the mean reward per step.

    The baseline of a period is the batch's mean reward-to-go in it.

    Args:
        log_probs: of the actions taken, [T, n].
        rewards: [T, n].
    """
    to_go, weights = returns_to_go(rewards), torch.ones_like(rewards)
    return policy_gradient_loss(log_probs, to_go - step_means(to_go, weights), weights)


class Reinforce(InventoryAlgorithm):
    """Gaussian noise on the orders of a deterministic policy, and the score function instead of the
    path.

    `predict` returns the orders without noise. Noisy orders below zero count as zero, and are
    scaled into what the suppliers have, as any feasibility layer does; the probability is that of
    the order before both.

    Args:
        noise: standard deviation of an order, in units of the mean demand that its arc serves.
        arguments: of `SimulatorGradientAlgorithm`.
    """

    policy_aliases: ClassVar[dict[str, Any]] = HDPO.policy_aliases
    example = Example(
        "InventoryNet-v0",
        {"setting": "one_store_backlogged", "periods": 10, "ignore": 2},
        kwargs={"scenarios": 16, "batch_size": 8, "validation_scenarios": 16},
        steps=400,
    )

    def __init__(self, policy: Any, env: Any, *, noise: float = 0.1, **arguments: Any) -> None:
        if noise <= 0:
            raise ValueError(f"noise must be above 0, got {noise}")
        self.noise = noise
        super().__init__(policy, env, **arguments)

    def loss(self, core: ArrayCore, tape: Arrays) -> torch.Tensor:
        """The score-function surrogate on one minibatch."""
        observations, actions, rewards = self._rollout(core, tape)
        steps, n = rewards.shape
        means = self.policy(observations.flatten(0, 1)).unflatten(0, (steps, n))
        log_probs = -0.5 * ((actions - means) / self._deviation(core)).square().sum(-1)
        return score_function_loss(log_probs, rewards / core.reward_scale)

    def _deviation(self, core: Any) -> torch.Tensor:
        return self.noise * core.mean_order

    @torch.no_grad()
    def _rollout(self, core: Any, tape: Arrays) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Observations [T, n, D], noisy actions [T, n, A] and rewards [T, n] of a batch of
        episodes."""
        state, found = core.initial(tape), []
        for _ in range(core.horizon):
            observation = core.observation(state)
            mean = self.policy(observation)
            action = mean + self._deviation(core) * torch.randn_like(mean)
            following = core.transition(state, action.clamp(min=0), tape)
            found.append((observation, action, core.reward(state, action, following)))
            state = following
        observations, actions, rewards = (
            torch.stack(entries) for entries in zip(*found, strict=True)
        )
        return observations, actions, rewards
