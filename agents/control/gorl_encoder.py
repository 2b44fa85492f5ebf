"""The half of `gorl.py` that PPO trains: a Gaussian over latents, which tanh squashes."""

from __future__ import annotations

import warnings
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import DiagGaussianDistribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import get_action_dim, preprocess_obs
from stable_baselines3.common.type_aliases import RolloutBufferSamples, Schedule
from torch import nn
from torch.distributions import Normal
from torch.nn import functional as F

from ...envs.checks import check_number
from ..base.ppo import Evaluation, ProximalAlgorithm

SMALLEST, LARGEST = 1e-3, 10.0  # scales of a latent

# -- the paper's computation ----------------------------------------------------------------------


def encoder_scale(raw: torch.Tensor) -> torch.Tensor:
    """Standard deviations of a latent, clip(softplus(raw) + 1e-3, 1e-3, 10), [...]."""
    return (F.softplus(raw) + SMALLEST).clamp(SMALLEST, LARGEST)


def raw_scale(scale: float) -> float:
    """The output whose `encoder_scale` is `scale`.

    Raises:
        ValueError: no output has that scale.
    """
    if not SMALLEST < scale < LARGEST:
        raise ValueError(
            f"a scale of {scale:g} at the start (exp of log_std_init) must be between "
            f"{SMALLEST:g} and {LARGEST:g}"
        )
    return float(np.log(np.expm1(scale - SMALLEST)))


def centred_and_scaled(advantages: torch.Tensor) -> torch.Tensor:
    """Advantages [B] with mean 0 and (population) deviation 1."""
    centred = advantages - advantages.mean()
    return centred / (centred.square().mean().sqrt() + 1e-8)


def latent_penalty(mean: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """mean m^2 + mean sd^2, a scalar, of the latents' means and standard deviations [B, d]."""
    return mean.square().mean() + scale.square().mean()


# -- the policy -----------------------------------------------------------------------------------


class LatentGaussian(DiagGaussianDistribution):
    """A Gaussian with mean and scale from one layer."""

    def proba_distribution_net(self, latent_dim: int, log_std_init: float = 0.0) -> Any:
        """The layer, and nothing beside it."""
        return nn.Linear(latent_dim, 2 * self.action_dim), None

    def proba_distribution(
        self, mean_actions: torch.Tensor, log_std: torch.Tensor | None = None
    ) -> LatentGaussian:
        """Of what the layer gives, [B, 2 d]: first the means, then what the scales come from."""
        mean, raw = mean_actions.chunk(2, dim=-1)
        self.distribution = Normal(mean, encoder_scale(raw))
        return self


class SquashedGaussianPolicy(ActorCriticPolicy):
    """A policy that draws a latent from a Gaussian; its tanh is the action.

    To PPO the latent is the action: it is what the rollouts hold and what has a probability.
    `unscale_action` makes the environment's action of it. The scale is 1 at the start, or
    exp(log_std_init). Actor 32-32, critic 64-64, SiLU, unless arguments say otherwise.

    Args:
        observation_space, action_space, lr_schedule, net_arch, activation_fn, others: as in SB3,
            without `use_sde`.

    Raises:
        ValueError: `use_sde` is given.
    """

    action_dist: LatentGaussian

    def __init__(
        self,
        observation_space: Any,
        action_space: Any,
        lr_schedule: Schedule,
        net_arch: Any = None,
        activation_fn: type[nn.Module] = nn.SiLU,
        **others: Any,
    ) -> None:
        if others.get("use_sde"):
            raise ValueError("use_sde=True: latents have noise of their own, it must be False")
        if net_arch is None:
            net_arch = {"pi": [32, 32], "vf": [64, 64]}
        super().__init__(
            observation_space, action_space, lr_schedule, net_arch, activation_fn, **others
        )
        # Only with use_sde does the base take this as an argument.
        self._squash_output = True

    def _build(self, lr_schedule: Schedule) -> None:
        self.action_dist = LatentGaussian(get_action_dim(self.action_space))
        super()._build(lr_schedule)
        del self.log_std
        bias = self.action_net.bias
        assert isinstance(bias, torch.Tensor)
        bias.data.chunk(2)[1].fill_(raw_scale(float(np.exp(self.log_std_init))))

    def _get_action_dist_from_latent(self, latent_pi: torch.Tensor) -> LatentGaussian:
        return self.action_dist.proba_distribution(self.action_net(latent_pi))

    def forward(
        self, obs: torch.Tensor, deterministic: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Latents [B, ...], values [B, 1] and logarithms of the latents' densities [B]."""
        self.seen = obs
        return super().forward(obs, deterministic)

    def _predict(self, observation: Any, deterministic: bool = False) -> torch.Tensor:
        self.seen = observation
        return super()._predict(observation, deterministic)

    def features(self, observations: torch.Tensor) -> torch.Tensor:
        """Observations as rows of numbers, [B, O]."""
        rows = preprocess_obs(observations, self.observation_space, self.normalize_images)
        assert isinstance(rows, torch.Tensor)
        return rows.flatten(1)

    def decode(self, features: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        """Actions before the tanh, [B, d], of features [B, O] and latents [B, d]."""
        return latents

    def unscale_action(self, scaled_action: np.ndarray) -> np.ndarray:
        """Actions of the environment, of the latents drawn for the last observations."""
        latents = torch.as_tensor(scaled_action, device=self.device)
        with torch.no_grad():
            found = torch.tanh(self.decode(self.features(self.seen), latents.flatten(1)))
        return super().unscale_action(found.reshape(latents.shape).cpu().numpy())


# -- the algorithm --------------------------------------------------------------------------------


class TanhGaussianPPO(ProximalAlgorithm):
    """PPO with a Gaussian whose draws are squashed by tanh after their likelihood is taken.

    It is GoRL without a decoder.

    Args:
        policy: "MlpPolicy".
        env: with actions in a bounded `Box`, and observations that are no dictionary.
        latent_coef: c_z, at least 0.
        clip_range, vf_coef, max_grad_norm, arguments: as in SB3's PPO, without `use_sde`.

    Raises:
        ValueError: an argument is out of range, or the spaces are others.
    """

    policy_aliases: ClassVar[dict[str, Any]] = {"MlpPolicy": SquashedGaussianPolicy}

    def __init__(
        self,
        policy: Any,
        env: Any,
        *,
        latent_coef: float = 5e-4,
        clip_range: Any = 0.15,
        vf_coef: float = 0.25,
        max_grad_norm: float = 0.5,
        **arguments: Any,
    ) -> None:
        self.latent_coef = check_number("latent_coef", latent_coef, 0.0)
        super().__init__(
            policy,
            env,
            clip_range=clip_range,
            vf_coef=vf_coef,
            max_grad_norm=max_grad_norm,
            **arguments,
        )

    def _setup_model(self) -> None:
        if not isinstance(self.action_space, spaces.Box):
            raise ValueError(
                f"{type(self).__name__} needs actions in a Box, got {self.action_space}"
            )
        super()._setup_model()

    def prepare(self, batch: RolloutBufferSamples) -> RolloutBufferSamples:
        """As the base's, with the population's deviation."""
        if not self.normalize_advantage:
            return batch
        return batch._replace(advantages=centred_and_scaled(batch.advantages))

    def loss(self, now: Evaluation, batch: RolloutBufferSamples) -> torch.Tensor:
        """As the base's, with the penalty on the latents."""
        mean, scale = now.distribution.mean, now.distribution.stddev
        limited = (scale <= SMALLEST) | (scale >= LARGEST)
        penalty = latent_penalty(mean, scale)
        self.note(
            latent_penalty=penalty, scale=scale.mean(), scales_at_limit=limited.float().mean()
        )
        return super().loss(now, batch) + self.penalty_weight * penalty

    @property
    def penalty_weight(self) -> float:
        """c_z of now."""
        return self.latent_coef

    def record(self) -> None:
        """As the base's; warns where all scales of a minibatch are at a limit."""
        super().record()
        if any(share.item() == 1 for share in self.metrics["scales_at_limit"]):
            warnings.warn(
                f"all latents of a minibatch have a scale at its limit, {SMALLEST:g} or "
                f"{LARGEST:g}: change latent_coef or ent_coef",
                stacklevel=2,
            )
