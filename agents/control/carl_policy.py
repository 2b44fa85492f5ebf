"""The policy of `carl.py`: a Beta distribution for every action, where the range is bounded."""

from __future__ import annotations

from functools import partial
from typing import Any, Self

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.policies import (
    ActorCriticCnnPolicy,
    ActorCriticPolicy,
    MultiInputActorCriticPolicy,
)
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.type_aliases import Schedule
from torch import nn
from torch.distributions import Beta
from torch.nn import functional as F

# How near u comes to 0 and 1 where its density is taken, since float32 rounds it to them.
EDGE = 1e-6


def concentrations(outputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """alpha and beta = 1 + softplus(output), both above 1, [B, d] each, of outputs [B, 2d]: those
    for alpha, then those for beta."""
    alpha, beta = (1.0 + F.softplus(outputs)).chunk(2, dim=-1)
    return alpha, beta


def log_density(law: Beta, actions: torch.Tensor) -> torch.Tensor:
    """Logarithm of the density of actions a = 2u - 1, [B]; of u within 1e-6 of 0 or 1, there.

    Args:
        law: of u, [B, d].
        actions: in [-1, 1], [B, d].
    """
    u = ((actions + 1.0) / 2.0).clamp(EDGE, 1.0 - EDGE)
    return law.log_prob(u).sum(-1) - actions.shape[-1] * np.log(2.0)


def mean_action(law: Beta) -> torch.Tensor:
    """2 alpha / (alpha + beta) - 1, [B, d]."""
    return 2.0 * law.mean - 1.0


class BetaDistribution(Distribution):
    """Independent actions a = 2u - 1 in [-1, 1] with u ~ Beta(alpha, beta).

    Args:
        action_dim: d.
    """

    distribution: Beta

    def __init__(self, action_dim: int) -> None:
        super().__init__()
        self.action_dim = action_dim

    def proba_distribution_net(self, latent_dim: int) -> nn.Linear:
        """The layer whose outputs [B, 2d] `proba_distribution` takes."""
        return nn.Linear(latent_dim, 2 * self.action_dim)

    def proba_distribution(self, outputs: torch.Tensor) -> Self:
        """Take the parameters from outputs [B, 2d]."""
        self.distribution = Beta(*concentrations(outputs), validate_args=False)
        return self

    def log_prob(self, actions: torch.Tensor) -> torch.Tensor:
        """`log_density`."""
        return log_density(self.distribution, actions)

    def entropy(self) -> torch.Tensor:
        """Of the actions, [B]; at most d log 2."""
        return self.distribution.entropy().sum(-1) + self.action_dim * np.log(2.0)

    def sample(self) -> torch.Tensor:
        """Actions [B, d]."""
        return 2.0 * self.distribution.sample() - 1.0

    def mode(self) -> torch.Tensor:
        """What a deterministic policy does: `mean_action`, [B, d]."""
        return mean_action(self.distribution)

    def actions_from_params(
        self, outputs: torch.Tensor, deterministic: bool = False
    ) -> torch.Tensor:
        """Actions [B, d] for outputs [B, 2d]."""
        return self.proba_distribution(outputs).get_actions(deterministic)

    def log_prob_from_params(self, outputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Actions [B, d] and the logarithms of their densities [B], for outputs [B, 2d]."""
        actions = self.actions_from_params(outputs)
        return actions, self.log_prob(actions)


class BetaPolicy(ActorCriticPolicy):
    """SB3's policy, with its arguments, whose actions have a `BetaDistribution`.

    Actions in [-1, 1] are stretched to the bounds of the action space.

    Raises:
        ValueError: actions are not in a bounded `Box`, or `use_sde`.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        *others: Any,
        **named: Any,
    ) -> None:
        if not (isinstance(action_space, spaces.Box) and action_space.is_bounded()):
            raise ValueError(f"a Beta policy takes actions in a bounded Box, got {action_space}")
        super().__init__(observation_space, action_space, *others, **named)

    def _build(self, lr_schedule: Schedule) -> None:
        if self.use_sde:
            raise ValueError("use_sde=True: a Beta policy has noise of its own, it must be False")
        super()._build(lr_schedule)
        del self.log_std
        self._squash_output = True  # so that SB3 stretches actions
        self.action_dist = BetaDistribution(get_action_dim(self.action_space))
        self.action_net = self.action_dist.proba_distribution_net(self.mlp_extractor.latent_dim_pi)
        if self.ortho_init:
            self.action_net.apply(partial(self.init_weights, gain=0.01))
        self.optimizer = self.optimizer_class(
            self.parameters(),
            lr=lr_schedule(1),  # type: ignore[call-arg]
            **self.optimizer_kwargs,
        )

    def _get_action_dist_from_latent(self, latent_pi: torch.Tensor) -> BetaDistribution:
        assert isinstance(self.action_dist, BetaDistribution)
        return self.action_dist.proba_distribution(self.action_net(latent_pi))


class BetaCnnPolicy(BetaPolicy, ActorCriticCnnPolicy):
    """Of images."""


class BetaMultiInputPolicy(BetaPolicy, MultiInputActorCriticPolicy):
    """Of observations in a `Dict`."""
