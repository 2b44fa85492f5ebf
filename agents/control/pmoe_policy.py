"""The policy of `pmoe.py`: a mixture of Gaussians, squashed by tanh, with a router."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from stable_baselines3.common.distributions import SquashedDiagGaussianDistribution
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.sac.policies import (
    LOG_STD_MAX,
    LOG_STD_MIN,
    Actor,
    CnnPolicy,
    MultiInputPolicy,
    SACPolicy,
)
from torch import nn


def drawn(weights: torch.Tensor) -> torch.Tensor:
    """A primitive for every state, [B], with the probabilities [B, k]."""
    return torch.multinomial(weights, 1)[:, 0]


def picked(table: torch.Tensor, primitive: torch.Tensor) -> torch.Tensor:
    """Entries [B, ...] of a table [B, k, ...], of one primitive [B] in every state."""
    return table[torch.arange(len(table), device=table.device), primitive]


@dataclass(frozen=True)
class Proposals:
    """What k primitives propose in B states.

    Attributes:
        actions: [B, k, d], each in [-1, 1].
        log_prob: logarithms of their densities under the primitive that proposes, [B, k].
        weights: of the router, [B, k].
    """

    actions: torch.Tensor
    log_prob: torch.Tensor
    weights: torch.Tensor


class MixtureActor(Actor):
    """SB3's actor with k heads and a router; it acts with the primitive that the router draws.

    Args:
        n_primitives: k, at least 1.
        greedy_router: whether deterministic actions are those of the likeliest primitive; otherwise
            the primitive is drawn and acts with its mean.
        others: arguments of SB3's `Actor`.
    """

    action_dist: SquashedDiagGaussianDistribution  # type: ignore[assignment]

    def __init__(self, *others: Any, n_primitives: int, greedy_router: bool, **named: Any) -> None:
        super().__init__(*others, **named)
        if self.use_sde:
            raise ValueError("use_sde=True: primitives have noise of their own, it must be False")
        self.n_primitives, self.greedy_router = n_primitives, greedy_router
        latent = self.net_arch[-1] if self.net_arch else self.features_dim
        outputs = get_action_dim(self.action_space)
        self.mu = nn.Linear(latent, n_primitives * outputs)
        self.log_std = nn.Linear(latent, n_primitives * outputs)  # type: ignore[assignment]
        self.router = nn.Linear(latent, n_primitives)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        own = {"n_primitives": self.n_primitives, "greedy_router": self.greedy_router}
        return super()._get_constructor_parameters() | own

    def get_action_dist_params(
        self, obs: PyTorchObs
    ) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
        """Means and logarithms of standard deviations, [B, k, d], and "weights" [B, k]."""
        latent = self.latent_pi(self.extract_features(obs, self.features_extractor))
        shape = len(latent), self.n_primitives, -1
        log_std = torch.clamp(self.log_std(latent), LOG_STD_MIN, LOG_STD_MAX)  # type: ignore[operator]
        weights = torch.softmax(self.router(latent.detach()), dim=1)
        return self.mu(latent).reshape(shape), log_std.reshape(shape), {"weights": weights}

    def proposals(self, obs: PyTorchObs) -> Proposals:
        """An action of every primitive."""
        mean, log_std, others = self.get_action_dist_params(obs)
        rows = mean.flatten(0, 1), log_std.flatten(0, 1)
        actions, log_prob = self.action_dist.log_prob_from_params(*rows)
        return Proposals(actions.reshape(mean.shape), log_prob.reshape(mean.shape[:2]), **others)

    def action_log_prob(self, obs: PyTorchObs) -> tuple[torch.Tensor, torch.Tensor]:
        """Actions [B, d] of primitives that the router draws, and their own log densities [B]."""
        found = self.proposals(obs)
        primitive = drawn(found.weights)
        return picked(found.actions, primitive), picked(found.log_prob, primitive)

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> torch.Tensor:
        """Actions [B, d]: of a primitive that is drawn, or the mean of one."""
        mean, log_std, others = self.get_action_dist_params(obs)
        weights = others["weights"]
        greedy = deterministic and self.greedy_router
        primitive = weights.argmax(dim=1) if greedy else drawn(weights)
        chosen = picked(mean, primitive), picked(log_std, primitive)
        return self.action_dist.actions_from_params(*chosen, deterministic=deterministic)


class MixturePolicy(SACPolicy):
    """SB3's policy of SAC with a `MixtureActor`, whose arguments it takes beside its own."""

    def __init__(
        self, *others: Any, n_primitives: int = 4, greedy_router: bool = True, **named: Any
    ) -> None:
        self.own: dict[str, Any] = {"n_primitives": n_primitives, "greedy_router": greedy_router}
        super().__init__(*others, **named)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return super()._get_constructor_parameters() | self.own

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> MixtureActor:
        """The mixture."""
        named = self._update_features_extractor(self.actor_kwargs, features_extractor)
        return MixtureActor(**named, **self.own).to(self.device)


class MixtureCnnPolicy(MixturePolicy, CnnPolicy):
    """Of images."""


class MixtureMultiInputPolicy(MixturePolicy, MultiInputPolicy):
    """Of observations in a `Dict`."""
