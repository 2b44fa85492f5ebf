"""Imitation by a network whose Lipschitz constant is at most alpha.

The network form of the paper of `lipschitz_policy.py`. With activations that are 1-Lipschitz, the
product of the layers' spectral norms bounds the constant of the network; where it is above alpha,
every one of the L layers is multiplied by (alpha / product)^(1/L), within the forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from torch import nn
from torch.nn import functional

from ...envs.checks import check_number
from ..base.declare import Example
from ..base.nets.mlp import mlp
from ..base.offline import OfflineAlgorithm
from ..base.offline_data import OfflineDataset
from .lipschitz_graph import check_spaces, proportional_control


def layer_factor(norms: torch.Tensor, alpha: float) -> torch.Tensor:
    """What L layers are multiplied by to keep the product of their norms [L] within alpha."""
    bound = norms.prod()
    shrunk = alpha ** (1 / len(norms)) * bound.clamp(min=1e-30) ** (-1 / len(norms))
    return torch.where(bound > alpha, shrunk, torch.ones_like(bound))


class LipschitzMlpPolicy(BasePolicy):
    """A ReLU network whose Lipschitz constant is at most `alpha`, whatever its parameters.

    The spectral norms are exact, not those of a power iteration, which would be too small.

    Args:
        observation_space, action_space: `Box`.
        lr_schedule: learning rate as a function of the progress remaining.
        net_arch: hidden layers.
    """

    alpha = 1.0

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        lr_schedule: Schedule,
        net_arch: Sequence[int] = (64, 64),
    ) -> None:
        super().__init__(observation_space, action_space)
        check_spaces(observation_space, action_space)
        inputs, outputs = (int(np.prod(s.shape)) for s in (observation_space, action_space))  # type: ignore[arg-type]
        self.layers = mlp(inputs, net_arch, outputs, nn.ReLU)
        self.optimizer = torch.optim.Adam(self.parameters(), lr=lr_schedule(1))

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """Controls [B, m] at observations [B, ...]."""
        linear = [each for each in self.layers if isinstance(each, nn.Linear)]
        norms = torch.stack([torch.linalg.matrix_norm(each.weight, ord=2) for each in linear])
        factor, hidden = layer_factor(norms, self.alpha), observations.float().flatten(1)
        for each in self.layers:
            if isinstance(each, nn.Linear):
                hidden = functional.linear(hidden, factor * each.weight, each.bias)
            else:
                hidden = each(hidden)
        return hidden

    def _predict(self, observation: Any, deterministic: bool = False) -> torch.Tensor:
        return self.forward(observation)


class LipschitzNetwork(OfflineAlgorithm):
    """Imitation by a network whose Lipschitz constant is at most alpha.

    Minimises the mean of |pi(x_i) - u_i|^2 over minibatches.

    Args:
        policy: "MlpPolicy".
        env, batch_size, learning_rate, ...: as in `OfflineAlgorithm`.
        alpha: the Lipschitz constant, at least 0.

    Raises:
        ValueError: `alpha` is out of range; observations or actions are not in a `Box`.
    """

    example = Example(
        "LQR-v0",
        {"plant": "contracting"},
        kwargs={"alpha": 1.5, "batch_size": 16},
        steps=30,
        data=proportional_control,
    )
    policy_aliases: ClassVar[dict[str, Any]] = {"MlpPolicy": LipschitzMlpPolicy}
    policy: LipschitzMlpPolicy

    def __init__(
        self,
        policy: Any,
        env: OfflineDataset | GymEnv | str | None,
        *,
        alpha: float = 1.0,
        **common: Any,
    ) -> None:
        self.alpha = check_number("alpha", alpha, 0.0)
        super().__init__(policy, env, **common)

    def _setup_model(self) -> None:
        super()._setup_model()
        self.policy.alpha = self.alpha

    def learn_from(self, batch: dict[str, torch.Tensor]) -> dict[str, float]:
        """One step of Adam towards the recorded controls."""
        controls = self.policy(batch["observations"])
        loss = (controls - batch["actions"].flatten(1)).square().sum(1).mean()
        self._update_learning_rate(self.policy.optimizer)
        self.policy.optimizer.zero_grad()
        loss.backward()
        self.policy.optimizer.step()
        return {"train/error": float(loss.detach())}

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "policy.optimizer"], []
