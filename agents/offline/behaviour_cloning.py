"""Behaviour cloning: do what the data does.

D. A. Pomerleau: Efficient Training of Artificial Neural Networks for Autonomous Navigation (Neural
Computation 3, 1991). The policy that gives the recorded actions the highest likelihood:

    loss = -1/B sum_b log pi(a_b | s_b) - entropy_coefficient 1/B sum_b H(pi(. | s_b))
"""

from __future__ import annotations

from typing import Any

import torch
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import GymEnv

from ..base.declare import Example
from ..base.offline import OfflineAlgorithm
from ..base.offline_data import OfflineDataset


def cloning_loss(
    log_probs: torch.Tensor, entropy: torch.Tensor, entropy_coefficient: float
) -> torch.Tensor:
    """Minus the mean log-likelihood of the recorded actions, minus the weighted mean entropy.

    Args:
        log_probs, entropy: [B].
        entropy_coefficient: at least 0.
    """
    return -log_probs.mean() - entropy_coefficient * entropy.mean()


def random_play(env: Any) -> OfflineDataset:
    """256 steps of random actions."""
    return OfflineDataset.record(env, steps=256)


class BehaviourCloning(OfflineAlgorithm):
    """Maximum likelihood of recorded actions, for all action spaces of Stable-Baselines3's
    policies.

    Args:
        policy, env, batch_size, learning_rate, ...: as in `OfflineAlgorithm`.
        entropy_coefficient: weight of the entropy, at least 0.
        max_grad_norm: gradients are scaled down to this norm; None: never.
    """

    example = Example("FiniteMDP-v0", kwargs={"batch_size": 32}, steps=40, data=random_play)
    policy: ActorCriticPolicy

    def __init__(
        self,
        policy: Any,
        env: OfflineDataset | GymEnv | str | None,
        *,
        entropy_coefficient: float = 0.0,
        max_grad_norm: float | None = None,
        **common: Any,
    ) -> None:
        if entropy_coefficient < 0:
            raise ValueError(f"entropy_coefficient={entropy_coefficient} must be at least 0")
        self.entropy_coefficient, self.max_grad_norm = entropy_coefficient, max_grad_norm
        super().__init__(policy, env, **common)

    def learn_from(self, batch: dict[str, torch.Tensor]) -> dict[str, float]:
        """One step towards the recorded actions."""
        _, log_probs, entropy = self.policy.evaluate_actions(
            batch["observations"], batch["actions"]
        )
        entropy = -log_probs if entropy is None else entropy
        loss = cloning_loss(log_probs, entropy, self.entropy_coefficient)
        self._update_learning_rate(self.policy.optimizer)
        self.policy.optimizer.zero_grad()
        loss.backward()
        if self.max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
        self.policy.optimizer.step()
        return {"train/loss": float(loss.detach())}

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "policy.optimizer"], []
