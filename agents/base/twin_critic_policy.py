"""Policy of actor-critics that learn from data: critics in one batched network, own input scale."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.preprocessing import get_flattened_obs_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.td3.policies import Actor, TD3Policy
from torch import nn
from torch.nn import functional as F


class StackedLinear(nn.Module):
    """K linear layers, with the initial weights of `nn.Linear`.

    Args:
        members: K.
        inputs, outputs: widths.
    """

    def __init__(self, members: int, inputs: int, outputs: int) -> None:
        super().__init__()
        bound = inputs**-0.5
        self.weight = nn.Parameter(torch.empty(members, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(members, 1, outputs).uniform_(-bound, bound))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Outputs [K, B, outputs] of x [K, B, inputs]."""
        return torch.baddbmm(self.bias, x, self.weight)

    def first(self, x: torch.Tensor) -> torch.Tensor:
        """Outputs [B, outputs] of the first layer, of x [B, inputs]."""
        return torch.addmm(self.bias[0], x, self.weight[0])


class StackedCritic(ContinuousCritic):
    """SB3's critics as one batched network; also of discrete actions, which go in as one-hot rows.

    Args:
        net_arch, features_dim, activation_fn, n_critics, others: as in SB3's `ContinuousCritic`.
    """

    def __init__(
        self,
        *,
        net_arch: list[int],
        features_dim: int,
        activation_fn: type[nn.Module] = nn.ReLU,
        n_critics: int = 2,
        **others: Any,
    ) -> None:
        super().__init__(net_arch=net_arch, features_dim=features_dim, n_critics=0, **others)
        self.n_critics = n_critics
        # The length of an action as a row: that of a one-hot one where actions are discrete.
        self.action_width = get_flattened_obs_dim(self.action_space)
        sizes = [features_dim + self.action_width, *net_arch, 1]
        self.layers = nn.ModuleList(
            StackedLinear(n_critics, *pair) for pair in zip(sizes[:-1], sizes[1:], strict=True)
        )
        self.activation = activation_fn()
        in_place(self.activation)

    def rows(self, obs: PyTorchObs, actions: torch.Tensor) -> torch.Tensor:
        """What goes into the networks, [B, inputs]; actions are [B, d], or int [B]."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.share_features_extractor):
            features = self.extract_features(obs, self.features_extractor)
        if isinstance(self.action_space, spaces.Discrete):
            actions = F.one_hot(actions, self.action_width).to(features.dtype)
        return torch.cat([features, actions], dim=1)

    def values(self, obs: PyTorchObs, actions: torch.Tensor) -> torch.Tensor:
        """Q_k(s, a) of B observations and actions ([B, d], or int [B]), [K, B]."""
        hidden = self.rows(obs, actions).expand(self.n_critics, -1, -1)
        for layer in self.layers[:-1]:
            hidden = self.activation(layer(hidden))
        found: torch.Tensor = self.layers[-1](hidden).squeeze(2)
        return found

    def first(self, obs: PyTorchObs, actions: torch.Tensor) -> torch.Tensor:
        """Q_1(s, a), [B]; arguments as in `values`."""
        hidden = self.rows(obs, actions)
        for layer in self.layers[:-1]:
            hidden = self.activation(layer.first(hidden))  # type: ignore[operator]
        found: torch.Tensor = self.layers[-1].first(hidden).squeeze(1)  # type: ignore[operator]
        return found

    def forward(self, obs: PyTorchObs, actions: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """As SB3's: a tuple of K values, each [B, 1]."""
        return self.values(obs, actions)[..., None].unbind()

    def q1_forward(self, obs: PyTorchObs, actions: torch.Tensor) -> torch.Tensor:
        """As SB3's: of the first critic, [B, 1]."""
        return self.first(obs, actions)[:, None]


class TwinCriticPolicy(TD3Policy):
    """SB3's policy of TD3 that learns from standardised observations and is asked raw ones.

    `actor`, `critic` and their targets take observations in their own scale (`standardized`);
    `predict` and `forward` bring what they are given into it. The scale is part of the state of the
    policy: it is saved with the parameters. It changes nothing until it is set.

    Args:
        observation_space, action_space, lr_schedule: as in SB3.
        net_arch: hidden layers, 256 and 256 by default.
        activation_fn, n_critics, others: as in SB3's `TD3Policy`.
        optimizer_class, optimizer_kwargs: Adam in its fused form by default.

    Attributes:
        observation_mean, observation_deviation: float32, of the shape of an observation in a `Box`,
            of shape () in other spaces, which have no scale.
        scaled: bool, whether the scale was set.
    """

    critic: StackedCritic
    critic_target: StackedCritic
    observation_mean: torch.Tensor
    observation_deviation: torch.Tensor
    scaled: torch.Tensor

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        net_arch: list[int] | dict[str, list[int]] | None = None,
        *,
        optimizer_class: type[torch.optim.Optimizer] = torch.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
        **others: Any,
    ) -> None:
        if optimizer_kwargs is None and optimizer_class is torch.optim.Adam:
            optimizer_kwargs = {"fused": True}
        super().__init__(
            observation_space,
            action_space,  # type: ignore[arg-type]
            lr_schedule,
            [256, 256] if net_arch is None else net_arch,
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
            **others,
        )
        shape = observation_space.shape if isinstance(observation_space, spaces.Box) else ()
        self.register_buffer("observation_mean", torch.zeros(shape))
        self.register_buffer("observation_deviation", torch.ones(shape))
        self.register_buffer("scaled", torch.tensor(False))

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> Actor:
        """The actor."""
        found = super().make_actor(features_extractor)
        found.mu.apply(in_place)
        return found

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> StackedCritic:
        """The critics."""
        named = self._update_features_extractor(self.critic_kwargs, features_extractor)
        return StackedCritic(**named).to(self.device)

    def set_scale(self, mean: torch.Tensor, deviation: torch.Tensor) -> None:
        """Let `standardized` give (s - mean) / deviation; both of the shape of an observation."""
        self.observation_mean.copy_(mean)
        self.observation_deviation.copy_(deviation)
        self.scaled.fill_(True)

    def standardized(self, observations: PyTorchObs) -> PyTorchObs:
        """Observations [B, ...] as actor and critics take them."""
        if not isinstance(self.observation_space, spaces.Box):
            return observations
        assert isinstance(observations, torch.Tensor)
        return (observations - self.observation_mean) / self.observation_deviation

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> torch.Tensor:
        return self.actor._predict(self.standardized(observation), deterministic)


def in_place(module: nn.Module) -> None:
    """Let a ReLU write its output over its input, which nothing else reads; for `nn.Module.apply`
    to a network, too."""
    if isinstance(module, nn.ReLU):
        module.inplace = True
