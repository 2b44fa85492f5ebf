"""The networks of conservative Q-learning: SAC's actor, critics of many actions at once, and
numbers that are learned."""

from __future__ import annotations

import math

import torch
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.sac.policies import Actor
from torch import nn

from ..base.twin_critic_policy import StackedCritic, TwinCriticPolicy, in_place


class ManyActionsCritic(StackedCritic):
    """A `StackedCritic` that may be asked about several actions at each observation."""

    def values(self, obs: PyTorchObs, actions: torch.Tensor) -> torch.Tensor:
        """Q_k(s, a) of B observations, [K, B]; of actions [B, N, d], [K, B, N]."""
        if actions.ndim < 3:
            return super().values(obs, actions)
        assert isinstance(obs, torch.Tensor)
        count = actions.shape[1]
        found = super().values(obs.repeat_interleave(count, dim=0), actions.flatten(0, 1))
        return found.unflatten(1, (-1, count))


class CQLPolicy(TwinCriticPolicy):
    """SAC's actor, and critics with targets; arguments as in `TwinCriticPolicy`."""

    actor: Actor  # type: ignore[assignment]
    critic: ManyActionsCritic
    critic_target: ManyActionsCritic

    def make_actor(  # type: ignore[override]
        self, features_extractor: BaseFeaturesExtractor | None = None
    ) -> Actor:
        """The actor."""
        named = self._update_features_extractor(self.actor_kwargs, features_extractor)
        found = Actor(**named).to(self.device)
        for layer in found.latent_pi:
            in_place(layer)
        return found

    def make_critic(
        self, features_extractor: BaseFeaturesExtractor | None = None
    ) -> ManyActionsCritic:
        """The critics."""
        named = self._update_features_extractor(self.critic_kwargs, features_extractor)
        return ManyActionsCritic(**named).to(self.device)

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        del self.actor_target  # the actor has none


class Multiplier(nn.Module):
    """A positive number that is learned as its logarithm, with an optimizer of its own.

    Args:
        start: the number at first, > 0.
        learning_rate: of Adam.
    """

    def __init__(self, start: float, learning_rate: float) -> None:
        super().__init__()
        self.log = nn.Parameter(torch.tensor([math.log(start)]))
        self.optimizer = torch.optim.Adam([self.log], lr=learning_rate)

    @property
    def value(self) -> torch.Tensor:
        """The number, [1], without gradient."""
        return self.log.detach().exp()
