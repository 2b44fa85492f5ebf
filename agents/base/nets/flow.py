"""Velocity fields that depend on time, how a flow follows them, and how they are fitted.

A flow takes noise at t = 1 to data at t = 0. Flow matching fits its velocity to straight lines
between the two,

    x_t = t e + (1 - t) a,    e ~ N(0, I),    target: e - a,

Y. Lipman, R. T. Q. Chen, H. Ben-Hamu, M. Nickel, M. Le: Flow Matching for Generative Modeling
(ICLR 2023, arXiv 2210.02747).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from .mlp import mlp

# Velocity [..., d] at points [..., d] and times [...].
Velocity = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def time_features(times: torch.Tensor, frequencies: int = 4) -> torch.Tensor:
    """cos(2^k t) and sin(2^k t), k = 0 .. frequencies - 1, of times [...]: [..., 2 frequencies]."""
    angles = times[..., None] * 2.0 ** torch.arange(frequencies, device=times.device)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class TimeField(nn.Module):
    """A perceptron of a condition, a point and features of a time, such as a velocity v(c, x, t).

    Args:
        condition: numbers in a condition, C.
        dimension: of the points, and of what the field gives for them, d.
        hidden: widths of the hidden layers.
        frequencies: of the features of time, see `time_features`.
        activation: between the layers.
    """

    def __init__(
        self,
        condition: int,
        dimension: int,
        hidden: Sequence[int],
        frequencies: int = 4,
        activation: type[nn.Module] = nn.SiLU,
    ) -> None:
        super().__init__()
        self.frequencies = frequencies
        inputs = condition + dimension + 2 * frequencies
        self.layers = mlp(inputs, hidden, dimension, activation)

    def forward(
        self, condition: torch.Tensor, points: torch.Tensor, times: torch.Tensor
    ) -> torch.Tensor:
        """[..., d] of conditions [..., C], points [..., d] and times [...], which broadcast."""
        features = time_features(times, self.frequencies)
        shape = torch.broadcast_shapes(condition.shape[:-1], points.shape[:-1], features.shape[:-1])
        parts = [each.expand(*shape, -1) for each in (condition, points, features)]
        found: torch.Tensor = self.layers(torch.cat(parts, dim=-1))
        return found


def flow_matching_loss(
    velocity: Velocity, targets: torch.Tensor, noise: torch.Tensor, times: torch.Tensor
) -> torch.Tensor:
    """Mean of (v(x_t, t) - (e - a))^2, a scalar.

    Args:
        velocity: v.
        targets: a, of a shape that broadcasts to that of the noise: [B, 1, d], say.
        noise: e, [..., d].
        times: t, from 0 to 1, [...].
    """
    weight = times[..., None]
    error = velocity(weight * noise + (1 - weight) * targets, times) - (noise - targets)
    return error.square().mean()


def follow(velocity: Velocity, start: torch.Tensor, steps: int) -> torch.Tensor:
    """Where points [..., d] at t = 1 are at t = 0, after so many equal steps of Euler, [..., d]."""
    points = start
    for step in range(steps):
        times = points.new_full(points.shape[:-1], 1 - step / steps)
        points = points - velocity(points, times) / steps
    return points
