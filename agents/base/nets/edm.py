"""Diffusion by denoisers with preconditioning: noise levels, the loss, a stochastic sampler.

T. Karras, M. Aittala, T. Aila, S. Laine: Elucidating the Design Space of Diffusion-Based Generative
Models (NeurIPS 2022, arXiv 2206.00364). A denoiser D(x; s) is the mean of the data behind x = y +
s n with n normal, and is made of a network F whose inputs and targets have variance 1,

    D(x; s) = c_skip x + c_out F(c_in x, c_noise),
    c_skip = d^2 / (s^2 + d^2), c_out = s d / sqrt(s^2 + d^2), c_in = 1 / sqrt(s^2 + d^2),
    c_noise = log(s) / 4,

where d is the standard deviation of the data. Levels s_0 > s_1 > ... > s_T = 0 lead from noise to a
sample in steps of Heun's method, each of which may add some noise first.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch

from ....envs.checks import check_integer, check_number

# (x, noise level of a shape that broadcasts) -> of the shape of x.
Denoiser = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
# (x before a step, its noise level [], number of the step from 0) -> what the step starts from.
Guide = Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]


class Preconditioning(NamedTuple):
    """What scales the network at a noise level; each of the shape of the level."""

    skip: torch.Tensor
    out: torch.Tensor
    inside: torch.Tensor
    noise: torch.Tensor


def preconditioning(level: torch.Tensor, deviation: float = 1.0) -> Preconditioning:
    """c_skip, c_out, c_in and c_noise.

    Args:
        level: s, above 0.
        deviation: d, of the data.
    """
    total = level.square() + deviation**2
    return Preconditioning(
        deviation**2 / total, level * deviation / total.sqrt(), total.rsqrt(), level.log() / 4
    )


def denoised(
    net: Denoiser, x: torch.Tensor, level: torch.Tensor, deviation: float = 1.0
) -> torch.Tensor:
    """D(x; s), of the shape of x.

    Args:
        net: F, takes c_in x and c_noise.
        x: noisy data.
        level: s, above 0, of a shape that broadcasts.
        deviation: d, of the data.
    """
    scale = preconditioning(level, deviation)
    return scale.skip * x + scale.out * net(scale.inside * x, scale.noise)


def denoising_loss(
    denoise: Denoiser,
    x: torch.Tensor,
    noise: torch.Tensor,
    level: torch.Tensor,
    deviation: float = 1.0,
) -> torch.Tensor:
    """mean of (s^2 + d^2) / (s d)^2 (D(x + s n; s) - x)^2 over all entries, a scalar.

    Args:
        denoise: D.
        x, noise: data and n, of one shape.
        level: s, above 0, of a shape that broadcasts.
        deviation: d, of the data.
    """
    weight = (level.square() + deviation**2) / (level * deviation).square()
    return (weight * (denoise(x + level * noise, level) - x).square()).mean()


def noise_levels(
    steps: int, low: float = 0.002, high: float = 80.0, power: float = 7.0
) -> list[float]:
    """s_i = (high^(1/p) + i / (T - 1) (low^(1/p) - high^(1/p)))^p for i < T, and s_T = 0.

    Args:
        steps: T, at least 2.
        low, high: the least level above 0, and the first one.
        power: p; the larger, the more of the levels are small.

    Raises:
        ValueError: an argument is out of range.
    """
    check_integer("steps", steps, 2)
    check_number("low", low, 1e-12)
    check_number("high", high, low)
    check_number("power", power, 1e-12)
    first, last = high ** (1 / power), low ** (1 / power)
    return [(first + i / (steps - 1) * (last - first)) ** power for i in range(steps)] + [0.0]


@dataclass(frozen=True)
class Churn:
    """Noise that is added on the way.

    Attributes:
        amount: over all steps; 0 makes the sampler deterministic.
        low, high: levels between which it is added.
        scale: standard deviation of the added noise; a little above 1 makes up for the detail that
            a network loses.
    """

    amount: float = 80.0
    low: float = 0.05
    high: float = 50.0
    scale: float = 1.003

    def factor(self, level: float, steps: int) -> float:
        """gamma = min(amount / T, sqrt(2) - 1) between `low` and `high`, otherwise 0."""
        if not self.low <= level <= self.high:
            return 0.0
        return min(self.amount / steps, math.sqrt(2) - 1)


def heun_step(denoise: Denoiser, x: torch.Tensor, level: float, following: float) -> torch.Tensor:
    """One step of Heun's method from a noise level to the next; of Euler's where that is 0.

    Args:
        denoise: D.
        x: noisy data.
        level: s, above 0.
        following: the next level, at least 0.
    """
    slope = (x - denoise(x, x.new_full((), level))) / level
    moved = x + (following - level) * slope
    if following <= 0:
        return moved
    ahead = (moved - denoise(moved, x.new_full((), following))) / following
    return x + 0.5 * (following - level) * (slope + ahead)


@torch.no_grad()
def generate(
    denoise: Denoiser,
    noise: torch.Tensor,
    levels: list[float],
    churn: Churn | None = None,
    *,
    guide: Guide | None = None,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """From noise to samples, of the shape of the noise.

    Args:
        denoise: D.
        noise: standard normal numbers; they are scaled to the first level here.
        levels: s_0 .. s_T, as `noise_levels` gives them.
        churn: noise that is added on the way; None: none.
        guide: changes x before every step; None: nothing does.
        generator: draws the added noise; None: torch's own.
    """
    churn = Churn(amount=0.0) if churn is None else churn
    x, steps = levels[0] * noise, len(levels) - 1
    for step, (level, following) in enumerate(zip(levels[:-1], levels[1:], strict=True)):
        if guide is not None:
            x = guide(x, x.new_full((), level), step)
        if (factor := churn.factor(level, steps)) > 0:
            added = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
            raised = (1 + factor) * level
            x = x + math.sqrt(raised**2 - level**2) * churn.scale * added
            level = raised
        x = heun_step(denoise, x, level, following)
    return x
