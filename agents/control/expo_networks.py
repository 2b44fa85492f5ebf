"""The networks of `expo.py`: a base policy by diffusion, an edit actor, and what both choose."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from stable_baselines3.common.policies import BaseModel
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, create_mlp
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.sac.policies import LOG_STD_MAX, LOG_STD_MIN, CnnPolicy, MultiInputPolicy
from torch import nn
from torch.nn import functional

from ..base.nets.diffusion import NoisePredictor, variance_preserving_betas
from ..base.rlpd import EnsemblePolicy, subset_of

# Arguments of the agent that are its policy's, too.
OWN = ("n_base", "n_edits", "edit_scale", "denoising_steps", "base_blocks", "subset")
SEED = 0  # of deterministic predictions


def squashed(
    mean: torch.Tensor, log_std: torch.Tensor, noise: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """e = tanh(mean + exp(log_std) z) in [-1, 1], and log pi(e), the sum over d.

    Args:
        mean, log_std, noise: [..., d]; the noise z is standard normal.

    Returns:
        [..., d] and [...].
    """
    before = mean + log_std.exp() * noise
    normal = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)
    # log(1 - tanh^2 x), without the loss of digits where tanh is near 1.
    slope = 2 * (math.log(2) - before - functional.softplus(-2 * before))
    return before.tanh(), (normal - slope).sum(dim=-1)


def edited(actions: torch.Tensor, edits: torch.Tensor, scale: float) -> torch.Tensor:
    """a + beta e, clipped to [-1, 1]; all [..., d]."""
    return (actions + scale * edits).clamp(-1, 1)


def best_candidate(values: torch.Tensor) -> torch.Tensor:
    """The candidate of the highest value in every row, the first of equal ones.

    Args:
        values: [..., B, C].

    Returns:
        Numbers of candidates, [..., B].

    Raises:
        ValueError: a value is NaN.
    """
    highest, found = values.max(dim=-1)
    if highest.isnan().any():
        where = torch.nonzero(values.isnan())[0].tolist()
        raise ValueError(
            f"the value of candidate {where[-1]} in row {where[-2]} is NaN: learning has diverged"
        )
    return found


class BasePolicyNetwork(BaseModel):
    """pi_base(a|s) by diffusion of the action.

    Args:
        net_arch: of which the last is the width of the residual blocks.
        features_dim: width of the features.
        base_blocks: residual blocks.
        denoising_steps: T.
        others: of SB3's `BaseModel`.
    """

    features_extractor: BaseFeaturesExtractor
    betas: torch.Tensor

    def __init__(
        self,
        *,
        net_arch: list[int],
        features_dim: int,
        base_blocks: int,
        denoising_steps: int,
        **others: Any,
    ) -> None:
        super().__init__(**others)
        self.size = get_action_dim(self.action_space)
        width = net_arch[-1] if net_arch else features_dim
        self.network = NoisePredictor(self.size, features_dim, width, base_blocks)
        betas = variance_preserving_betas(denoising_steps)
        self.register_buffer("betas", betas.to(torch.float32))

    def sample(
        self, obs: PyTorchObs, number: int, generator: torch.Generator | None = None
    ) -> torch.Tensor:
        """Actions in [-1, 1], [B, number, d].

        Args:
            obs: B observations.
            number: of actions for each of them.
            generator: gives all observations the same noise; None: each its own, from torch.
        """
        features = self.extract_features(obs, self.features_extractor)[:, None]
        rows = len(features) if generator is None else 1
        shape = len(self.betas), rows, number, self.size
        noise = torch.randn(shape, generator=generator, device=self.device)
        return self.network.sample(features, self.betas, noise, clip=1.0)

    def loss(self, obs: PyTorchObs, actions: torch.Tensor) -> torch.Tensor:
        """Loss of imitating the actions [B, d], a scalar."""
        steps = torch.randint(len(self.betas), (len(actions),), device=actions.device)
        features = self.extract_features(obs, self.features_extractor)
        return self.network.loss(actions, features, self.betas, steps, torch.randn_like(actions))


class EditActor(BaseModel):
    """pi_e(e|s, a), a tanh Gaussian on [-1, 1]^d.

    Args:
        net_arch, features_dim, activation_fn: as in SB3's `Actor`.
        others: of SB3's `BaseModel`.
    """

    features_extractor: BaseFeaturesExtractor

    def __init__(
        self,
        *,
        net_arch: list[int],
        features_dim: int,
        activation_fn: type[nn.Module] = nn.ReLU,
        **others: Any,
    ) -> None:
        super().__init__(**others)
        size = get_action_dim(self.action_space)
        inputs = features_dim + size
        self.latent = nn.Sequential(*create_mlp(inputs, -1, net_arch, activation_fn))
        self.outputs = nn.Linear(net_arch[-1] if net_arch else inputs, 2 * size)

    def sample(
        self, obs: PyTorchObs, actions: torch.Tensor, generator: torch.Generator | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Edits of actions, with a path for the gradient, and log pi_e of them.

        Args:
            obs: B observations.
            actions: [B, d], or M for each observation, [B, M, d].
            generator: as in `BasePolicyNetwork.sample`.

        Returns:
            Edits, of the shape of the actions, and [B] or [B, M].
        """
        features = self.extract_features(obs, self.features_extractor)
        if actions.ndim == 3:
            features = features[:, None].expand(-1, actions.shape[1], -1)
        inputs = torch.cat([features, actions], dim=-1)
        mean, log_std = self.outputs(self.latent(inputs)).chunk(2, dim=-1)
        shape = actions.shape if generator is None else (1, *actions.shape[1:])
        noise = torch.randn(shape, generator=generator, device=actions.device)
        return squashed(mean, log_std.clamp(LOG_STD_MIN, LOG_STD_MAX), noise.expand_as(mean))


class EditPolicy(EnsemblePolicy):
    """The on-the-fly policy: of base samples and their edits, the one of the highest value.

    Args:
        others, named: of SB3's `SACPolicy`.
        n_base, n_edits, edit_scale, denoising_steps, base_blocks, subset: N, M, beta, T, residual
            blocks of the base policy, and the size of the subset of critics.

    Attributes:
        actor: the edit actor.
        base: the base policy.
        slow_base: its slow copy, which acts.
    """

    actor: EditActor  # type: ignore[assignment]

    def __init__(
        self,
        *others: Any,
        n_base: int = 32,
        n_edits: int = 32,
        edit_scale: float = 0.15,
        denoising_steps: int = 10,
        base_blocks: int = 3,
        subset: int = 2,
        **named: Any,
    ) -> None:
        self.n_base, self.n_edits, self.edit_scale = n_base, n_edits, edit_scale
        self.denoising_steps, self.base_blocks, self.subset = denoising_steps, base_blocks, subset
        super().__init__(*others, **named)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in OWN}
        return super()._get_constructor_parameters() | own

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        kept = ("observation_space", "action_space", "net_arch", "normalize_images")
        kwargs = {name: self.actor_kwargs[name] for name in kept}
        named = self._update_features_extractor(kwargs, None)
        named |= {"denoising_steps": self.denoising_steps, "base_blocks": self.base_blocks}
        self.base = BasePolicyNetwork(**named)
        self.base.to(self.device)
        self.slow_base = copy.deepcopy(self.base).requires_grad_(False)
        self.slow_base.set_training_mode(False)
        self.base.optimizer = self.optimizer_class(
            self.base.parameters(),
            lr=lr_schedule(1),  # type: ignore[call-arg]
            **self.optimizer_kwargs,
        )

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> EditActor:  # type: ignore[override]
        """The edit actor."""
        kept = ("observation_space", "action_space", "net_arch", "activation_fn")
        kwargs = {name: self.actor_kwargs[name] for name in (*kept, "normalize_images")}
        return EditActor(**self._update_features_extractor(kwargs, features_extractor)).to(
            self.device
        )

    def candidates(
        self,
        observations: PyTorchObs,
        base: BasePolicyNetwork,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """N samples of `base`, then the first M of them edited, [B, N + M, d].

        With a generator all observations get the same noise.
        """
        actions = base.sample(observations, self.n_base, generator)
        if not self.n_edits:
            return actions
        first = actions[:, : self.n_edits]
        edits, _ = self.actor.sample(observations, first, generator)
        return torch.cat([actions, edited(first, edits, self.edit_scale)], dim=1)

    def choose(
        self,
        observations: PyTorchObs,
        candidates: torch.Tensor,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """Of candidates [B, C, d] those of the highest value, [B, d]: the minimum over a subset of
        the target critics. A single candidate is not judged.

        Raises:
            ValueError: a value is NaN.
        """
        if candidates.shape[1] == 1:
            return candidates[:, 0]
        members = None
        if self.subset < self.critic_target.n_critics:
            members = subset_of(self.critic_target.n_critics, self.subset, generator)
        values = self.critic_target.values(observations, candidates, members)
        best = best_candidate(values.min(dim=0).values)
        return candidates[torch.arange(len(best), device=best.device), best]

    def on_the_fly(
        self,
        observations: PyTorchObs,
        base: BasePolicyNetwork,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """a*(s) in [-1, 1], [B, d]: the best of the candidates."""
        return self.choose(observations, self.candidates(observations, base, generator), generator)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> torch.Tensor:
        generator = None
        if deterministic:  # the same noise and the same critics at every call
            generator = torch.Generator(self.device).manual_seed(SEED)
        return self.on_the_fly(observation, self.slow_base, generator)

    def set_training_mode(self, mode: bool) -> None:
        """As SB3's, with the base policy."""
        super().set_training_mode(mode)
        self.base.set_training_mode(mode)


class EditCnnPolicy(EditPolicy, CnnPolicy):
    """Of images."""


class EditMultiInputPolicy(EditPolicy, MultiInputPolicy):
    """Of observations in a `Dict`."""
