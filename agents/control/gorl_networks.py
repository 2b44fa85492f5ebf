"""Decoders of `gorl.py`, which make actions of latents, and the policies that hold them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from stable_baselines3.common.preprocessing import get_action_dim, get_flattened_obs_dim
from stable_baselines3.common.type_aliases import Schedule
from torch import nn
from torch.nn import functional as F

from ..base.nets.flow import TimeField, flow_matching_loss, follow
from .gorl_encoder import SquashedGaussianPolicy

FEWEST = 32  # samples that a decoder is fitted to
NOISES = 8  # of every sample in a step of a fit
PATIENCE = 20  # epochs without a better decoder

# -- decoders -------------------------------------------------------------------------------------


class FlowDecoder(nn.Module):
    """Takes a latent along a flow to an action, in the light of an observation.

    It is the identity until it has been fitted.

    Args:
        features: numbers in an observation, O.
        dimension: of latents and actions, d.
        hidden: widths of the field's hidden layers.
        steps: of the flow.
    """

    mean: torch.Tensor
    deviation: torch.Tensor
    fitted: torch.Tensor

    def __init__(self, features: int, dimension: int, hidden: Sequence[int], steps: int) -> None:
        super().__init__()
        self.dimension, self.steps = dimension, steps
        self.field = TimeField(features, dimension, hidden)
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("deviation", torch.ones(features))
        self.register_buffer("fitted", torch.tensor(False))

    def forward(self, features: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        """Actions before the tanh, [B, d], of observations [B, O] and latents [B, d].

        Raises:
            ValueError: the latents have another dimension than the actions.
        """
        if latents.shape[-1] != self.dimension:
            raise ValueError(
                f"latents have dimension {latents.shape[-1]} and actions {self.dimension}: "
                "a decoder keeps the dimension"
            )
        if not self.fitted:
            return latents
        return self.transport(self.normalized(features), latents)

    def normalized(self, features: torch.Tensor) -> torch.Tensor:
        """Observations [..., O] by the statistics of those that the decoder was fitted to."""
        return (features - self.mean) / self.deviation

    def measure(self, features: torch.Tensor) -> None:
        """Keep the statistics of observations [N, O]; a number that never changes is not scaled."""
        self.mean.copy_(features.mean(dim=0))
        spread = features.std(dim=0, correction=0)
        self.deviation.copy_(torch.where(spread > 1e-6, spread, torch.ones_like(spread)))

    def draws(self, actions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Noise [B, 8, d] and times [B, 8] for actions [B, d]."""
        shape = len(actions), NOISES
        noise = torch.randn(*shape, actions.shape[1], device=actions.device)
        return noise, torch.rand(shape, device=actions.device)

    def error(
        self,
        features: torch.Tensor,
        actions: torch.Tensor,
        noise: torch.Tensor,
        times: torch.Tensor,
    ) -> torch.Tensor:
        """What a fit makes smaller, a scalar: of observations [B, O], actions [B, d] and draws."""
        known = self.normalized(features)[:, None]
        return flow_matching_loss(
            lambda points, when: self.field(known, points, when), actions[:, None], noise, times
        )

    def transport(self, known: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        """Actions before the tanh, [B, d], of normalized observations [B, O] and latents [B, d]."""
        return follow(lambda points, when: self.field(known, points, when), latents, self.steps)


def noise_levels(steps: int) -> torch.Tensor:
    """Share of the data in the variance at the ends of the sampler's steps, [steps + 1].

    Of the cosine schedule (A. Nichol, P. Dhariwal: Improved Denoising Diffusion Probabilistic
    Models, ICML 2021, arXiv 2102.09672) with steps + 1 levels; but the first is exactly 1.
    """
    place = torch.arange(steps + 1, dtype=torch.float64) / (steps + 1)
    levels = torch.cos((place + 0.008) / 1.008 * torch.pi / 2) ** 2
    levels /= levels[0].clone()
    return levels.float()


def denoised(
    points: torch.Tensor, predicted: torch.Tensor, level: torch.Tensor, following: torch.Tensor
) -> torch.Tensor:
    """A step of the deterministic sampler: points [..., d] at one level are taken to a following,
    cleaner one, with the noise [..., d] that is predicted in them."""
    clean = (points - (1 - level).sqrt() * predicted) / level.sqrt()
    return following.sqrt() * clean + (1 - following).sqrt() * predicted


class DiffusionDecoder(FlowDecoder):
    """Predicts the noise; the latent is what a deterministic sampler starts from.

    Arguments are those of `FlowDecoder`, with `steps` of the sampler. A time is the number of a
    noise level over `steps` + 1.
    """

    levels: torch.Tensor

    def __init__(self, features: int, dimension: int, hidden: Sequence[int], steps: int) -> None:
        super().__init__(features, dimension, hidden, steps)
        self.register_buffer("levels", noise_levels(steps), persistent=False)

    def draws(self, actions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As the base's; times are those of the levels at which the sampler asks."""
        noise, times = super().draws(actions)
        return noise, (1 + (times * self.steps).floor()) / (self.steps + 1)

    def error(
        self,
        features: torch.Tensor,
        actions: torch.Tensor,
        noise: torch.Tensor,
        times: torch.Tensor,
    ) -> torch.Tensor:
        """Mean squared error of the noise that is predicted, a scalar."""
        level = self.levels[(times * (self.steps + 1)).round().long()][..., None]
        points = level.sqrt() * actions[:, None] + (1 - level).sqrt() * noise
        known = self.normalized(features)[:, None]
        return F.mse_loss(self.field(known, points, times), noise)

    def transport(self, known: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        """As the base's."""
        points = latents
        for place in range(self.steps, 0, -1):
            times = points.new_full(points.shape[:-1], place / (self.steps + 1))
            predicted = self.field(known, points, times)
            points = denoised(points, predicted, self.levels[place], self.levels[place - 1])
        return points


def fit_decoder(
    decoder: FlowDecoder,
    features: torch.Tensor,
    actions: torch.Tensor,
    *,
    rate: float,
    epochs: int,
    batch_size: int,
) -> float:
    """Fit a decoder to nine of ten samples, and keep what does best on the tenth.

    Args:
        decoder: changed in place, and fitted afterwards.
        features: of observations, [N, O].
        actions: taken there, before the tanh, [N, d].
        rate: of Adam.
        epochs: at most; a fit ends after 20 that are no better.
        batch_size: samples in a step, or all that there are where that is less.

    Returns:
        The least error on the tenth, over epochs. Where an epoch ends with one that is not finite,
        so does the fit, and this is it.

    Raises:
        ValueError: there are fewer than 32 samples.
    """
    if len(actions) < FEWEST:
        raise ValueError(f"{len(actions)} samples for a decoder, it needs at least {FEWEST}")
    order = torch.randperm(len(actions), device=actions.device)
    held, used = order[: len(order) // 10], order[len(order) // 10 :]
    decoder.measure(features[used])
    decoder.fitted.fill_(True)
    optimizer = torch.optim.Adam(decoder.parameters(), rate)
    draws = decoder.draws(actions[held])  # the same for all epochs, so that they compare
    least, kept, waited = np.inf, decoder.state_dict(), 0
    for _ in range(epochs):
        for rows in used[torch.randperm(len(used), device=used.device)].split(batch_size):
            optimizer.zero_grad()
            decoder.error(features[rows], actions[rows], *decoder.draws(actions[rows])).backward()
            optimizer.step()
        with torch.no_grad():
            error = decoder.error(features[held], actions[held], *draws).item()
        if not np.isfinite(error):
            return error
        waited += 1
        if error < least:
            least, waited = error, 0
            kept = {name: value.clone() for name, value in decoder.state_dict().items()}
        elif waited == PATIENCE:
            break
    decoder.load_state_dict(kept)
    return least


# -- the two together -----------------------------------------------------------------------------


class FlowPolicy(SquashedGaussianPolicy):
    """A Gaussian over latents, and a decoder that makes actions of them; only the first is what the
    optimizer of the policy changes.

    Args:
        decoder_arch: widths of the decoder's hidden layers.
        decoder_steps: of the decoder.
        others: as in `SquashedGaussianPolicy`.
    """

    decoder_class: ClassVar[type[FlowDecoder]] = FlowDecoder
    decoder: FlowDecoder

    def __init__(
        self,
        *others: Any,
        decoder_arch: Sequence[int] = (64, 64),
        decoder_steps: int = 5,
        **named: Any,
    ) -> None:
        self.decoder_arch, self.decoder_steps = list(decoder_arch), decoder_steps
        super().__init__(*others, **named)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        own = {"decoder_arch": self.decoder_arch, "decoder_steps": self.decoder_steps}
        return super()._get_constructor_parameters() | own

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        # Its weights are of no use before a fit; what is drawn after them is as without a decoder.
        with torch.random.fork_rng(devices=[]):
            self.decoder = self.new_decoder()
        for parameter in self.decoder.parameters():
            parameter.data.zero_()

    def new_decoder(self) -> FlowDecoder:
        """A decoder with random weights."""
        sizes = get_flattened_obs_dim(self.observation_space), get_action_dim(self.action_space)
        return self.decoder_class(*sizes, self.decoder_arch, self.decoder_steps)

    def decode(self, features: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        """As the base's, by the decoder."""
        found: torch.Tensor = self.decoder(features, latents)
        return found


class DiffusionPolicy(FlowPolicy):
    """With a decoder that predicts noise."""

    decoder_class: ClassVar[type[FlowDecoder]] = DiffusionDecoder
