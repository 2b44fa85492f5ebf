"""What A2PR adds to TD3+BC's networks: a state value, and an autoencoder that proposes actions."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from gymnasium import spaces
from stable_baselines3.common.policies import BaseModel
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, create_mlp
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import nn

from ...envs.checks import check_integer
from ..base.twin_critic_policy import TwinCriticPolicy, in_place
from .base_iql import StateValue

LEAST_LOG_STD, MOST_LOG_STD = -4.0, 15.0


class Reconstruction(NamedTuple):
    """What the autoencoder makes of B actions: actions [B, d], and the Gaussian from which it drew
    their codes, mean and log_std, each [B, z]."""

    actions: torch.Tensor
    mean: torch.Tensor
    log_std: torch.Tensor


class ActionAutoencoder(BaseModel):
    """A variational autoencoder of actions in [-1, 1]^d, given observations.

        mean, log std = encoder(s, a);   code = mean + std N(0, 1);   decoder(s, code) in [-1, 1]^d

    Args:
        hidden: widths between, of encoder and decoder each.
        features_extractor, features_dim, activation_fn, others: as in SB3's critics.
    """

    features_extractor: BaseFeaturesExtractor

    def __init__(
        self,
        *,
        hidden: list[int],
        features_extractor: BaseFeaturesExtractor,
        features_dim: int,
        activation_fn: type[nn.Module] = nn.ReLU,
        **others: Any,
    ) -> None:
        super().__init__(features_extractor=features_extractor, **others)
        actions = get_action_dim(self.action_space)
        self.code_width = 2 * actions
        sizes = features_dim + actions, 2 * self.code_width
        self.encoder = nn.Sequential(*create_mlp(*sizes, hidden, activation_fn)).apply(in_place)
        sizes = features_dim + self.code_width, actions
        layers = create_mlp(*sizes, hidden, activation_fn, squash_output=True)
        self.decoder = nn.Sequential(*layers).apply(in_place)

    def forward(
        self, obs: PyTorchObs, actions: torch.Tensor, normals: torch.Tensor
    ) -> Reconstruction:
        """Actions [B, d] as they come back.

        Args:
            obs: B observations.
            actions: [B, d].
            normals: [B, z], standard normal numbers that draw the codes.
        """
        features = self.extract_features(obs, self.features_extractor)
        mean, log_std = self.encoder(torch.cat([features, actions], dim=1)).chunk(2, dim=1)
        log_std = log_std.clamp(LEAST_LOG_STD, MOST_LOG_STD)
        codes = mean + log_std.exp() * normals
        decoded = self.decoder(torch.cat([features, codes], dim=1))
        return Reconstruction(decoded, mean, log_std)


class A2PRPolicy(TwinCriticPolicy):
    """An actor, twin critics, a state value and an autoencoder of actions.

    Args:
        observation_space, action_space, lr_schedule, others: as in `TwinCriticPolicy`; a `net_arch`
            that names those of the actor ("pi") and the critics ("qf") gives the state value the
            latter.
        autoencoder_arch: hidden layers of encoder and decoder each, 750 and 750 by default.

    Raises:
        ValueError: a width is no integer of at least 1.
    """

    value: StateValue
    autoencoder: ActionAutoencoder

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        *args: Any,
        autoencoder_arch: list[int] | None = None,
        **others: Any,
    ) -> None:
        widths = [750, 750] if autoencoder_arch is None else autoencoder_arch
        self.autoencoder_arch = [check_integer("autoencoder_arch", each, 1) for each in widths]
        super().__init__(observation_space, action_space, lr_schedule, *args, **others)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        own = {"autoencoder_arch": self.autoencoder_arch}
        return super()._get_constructor_parameters() | own

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        self.value = StateValue(**self._network_arguments()).to(self.device)
        self.value.optimizer = self.optimizer_class(
            self.value.parameters(),
            lr=lr_schedule(1),  # type: ignore[call-arg]
            **self.optimizer_kwargs,
        )
        named = self._network_arguments()
        del named["net_arch"]
        self.autoencoder = ActionAutoencoder(hidden=self.autoencoder_arch, **named).to(self.device)

    def _network_arguments(self) -> dict[str, Any]:
        """Those of the critics that any network has, with a features extractor of its own."""
        named = self._update_features_extractor(self.critic_kwargs)
        for name in ("n_critics", "share_features_extractor"):
            del named[name]
        return named

    def set_training_mode(self, mode: bool) -> None:
        """As SB3's, of all networks but the targets."""
        super().set_training_mode(mode)
        self.value.set_training_mode(mode)
        self.autoencoder.set_training_mode(mode)
