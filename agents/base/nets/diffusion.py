"""Conditional diffusion of vectors: schedule, noise predictor, its loss, and sampling.

J. Ho, A. Jain, P. Abbeel: Denoising Diffusion Probabilistic Models (NeurIPS 2020, arXiv
2006.11239). A vector x becomes noise in T steps,

    x_t = sqrt(ahat_t) x + sqrt(1 - ahat_t) eps,   ahat_t = prod_{s <= t} (1 - beta_s),

with eps normal, and a network that predicts eps leads back. Steps are counted from 0 here: row
t - 1 of `betas` is beta_t.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional


def variance_preserving_betas(steps: int, low: float = 0.1, high: float = 10.0) -> torch.Tensor:
    """beta_t = 1 - exp(-low / T - (high - low) (2 t - 1) / (2 T^2)), t = 1 .. T, float64 [T].

    The continuous schedule of Y. Song et al. (ICLR 2021, arXiv 2011.13456) in T steps.
    """
    t = torch.arange(1, steps + 1, dtype=torch.float64)
    return 1 - torch.exp(-low / steps - 0.5 * (high - low) * (2 * t - 1) / steps**2)


def noised(x: torch.Tensor, noise: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """sqrt(ahat) x + sqrt(1 - ahat) eps.

    Args:
        x, noise: [..., d].
        kept: ahat, of a shape that broadcasts.
    """
    return kept.sqrt() * x + (1 - kept).sqrt() * noise


def noise_loss(predicted: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Squared error of the predicted noise, the sum over d and the mean over B; both [B, d]."""
    return (predicted - noise).square().sum(dim=-1).mean()


def denoised(
    x: torch.Tensor,
    predicted: torch.Tensor,
    beta: torch.Tensor,
    kept: torch.Tensor,
    noise: torch.Tensor | None,
) -> torch.Tensor:
    """One step back: (x - beta / sqrt(1 - ahat) eps) / sqrt(1 - beta) + sqrt(beta) z.

    Args:
        x: [..., d], at step t.
        predicted: eps at x, [..., d].
        beta, kept: beta_t and ahat_t.
        noise: z, [..., d]; None in the last step.
    """
    mean = (x - beta / (1 - kept).sqrt() * predicted) / (1 - beta).sqrt()
    return mean if noise is None else mean + beta.sqrt() * noise


def generate(
    predict: Callable[[torch.Tensor, int], torch.Tensor],
    betas: torch.Tensor,
    noise: torch.Tensor,
    clip: float | None = None,
) -> torch.Tensor:
    """From noise to a sample, [..., d].

    Args:
        predict: (x [..., d], step from 0) -> eps [..., d].
        betas: [T].
        noise: [T, ..., d]; the first is where it starts, the others are z of the steps that follow.
        clip: bound of every coordinate after every step; None: none.
    """
    kept = (1 - betas).cumprod(0)
    x, *fresh = noise.unbind()
    for step, z in zip(reversed(range(len(betas))), [*fresh, None], strict=True):
        x = denoised(x, predict(x, step), betas[step], kept[step], z)
        if clip is not None:
            x = x.clamp(-clip, clip)
    return x


class FourierFeatures(nn.Module):
    """cos and sin of learned frequencies times a number.

    Args:
        width: of the features, even.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.frequencies = nn.Parameter(0.2 * torch.randn(width // 2))

    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        """Features [..., width] of numbers [...]."""
        angles = 2 * math.pi * numbers[..., None] * self.frequencies
        return torch.cat([angles.cos(), angles.sin()], dim=-1)


class ResidualBlock(nn.Module):
    """x + two linear layers of the normalized x.

    Args:
        width: of x.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., width]."""
        found: torch.Tensor = x + self.second(functional.silu(self.first(self.norm(x))))
        return found


class NoisePredictor(nn.Module):
    """eps of a noisy vector, a step and a condition: a residual network of vectors.

    What depends on the step and the condition alone is a part of its own, `context`, which sampling
    computes once for all steps and for all samples under the same condition.

    Args:
        size: d of the vectors.
        condition: width of the condition.
        width: of the residual blocks.
        blocks: how many.
        time_features: width of the features of a step, even.
    """

    def __init__(
        self,
        size: int,
        condition: int,
        width: int = 256,
        blocks: int = 3,
        time_features: int = 128,
    ) -> None:
        super().__init__()
        self.times = nn.Sequential(
            FourierFeatures(time_features),
            nn.Linear(time_features, width),
            nn.SiLU(),
            nn.Linear(width, width),
        )
        self.of_condition = nn.Linear(condition, width, bias=False)
        self.of_vector = nn.Linear(size, width, bias=False)
        self.blocks = nn.Sequential(*(ResidualBlock(width) for _ in range(blocks)))
        self.out = nn.Linear(width, size)

    def context(self, steps: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """What `denoise` needs, [..., width].

        Args:
            steps: from 0, [...].
            condition: [..., condition], of a shape that broadcasts.
        """
        found: torch.Tensor = self.times(steps.to(condition.dtype)) + self.of_condition(condition)
        return found

    def denoise(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """eps [..., d] of vectors [..., d]; the context broadcasts."""
        found: torch.Tensor = self.out(functional.silu(self.blocks(self.of_vector(x) + context)))
        return found

    def forward(
        self, x: torch.Tensor, steps: torch.Tensor, condition: torch.Tensor
    ) -> torch.Tensor:
        """eps [..., d] of vectors [..., d] at steps [...] under conditions [..., condition]."""
        return self.denoise(x, self.context(steps, condition))

    def loss(
        self,
        x: torch.Tensor,
        condition: torch.Tensor,
        betas: torch.Tensor,
        steps: torch.Tensor,
        noise: torch.Tensor,
    ) -> torch.Tensor:
        """How badly it predicts the noise in vectors of the data, a scalar.

        Args:
            x, noise: [B, d].
            condition: [B, condition].
            betas: [T].
            steps: from 0, int [B].
        """
        kept = (1 - betas).cumprod(0)[steps, None]
        return noise_loss(self(noised(x, noise, kept), steps, condition), noise)

    def sample(
        self,
        condition: torch.Tensor,
        betas: torch.Tensor,
        noise: torch.Tensor,
        clip: float | None = None,
    ) -> torch.Tensor:
        """Samples [..., d]; as `generate`, under conditions [..., condition] that broadcast."""
        steps = torch.arange(len(betas), device=betas.device)
        contexts = self.context(steps.reshape(-1, *[1] * (condition.ndim - 1)), condition)
        return generate(lambda x, step: self.denoise(x, contexts[step]), betas, noise, clip)
