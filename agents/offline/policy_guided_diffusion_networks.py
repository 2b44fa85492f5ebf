"""Networks of policy-guided diffusion: what denoises trajectories, a U-Net along time or an MLP."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from ...envs.checks import check_integer
from ..base.nets.diffusion import FourierFeatures
from ..base.nets.mlp import mlp


class TrajectoryMLP(nn.Module):
    """A multilayer perceptron of whole trajectories; for short ones.

    Args:
        length: L, rows of a trajectory.
        width: F, numbers of a row.
        hidden: widths of the hidden layers.
        level_features: width of the features of a noise level, even.
    """

    def __init__(
        self, length: int, width: int, hidden: Sequence[int] = (128, 128), level_features: int = 32
    ) -> None:
        super().__init__()
        self.levels = FourierFeatures(level_features)
        size = length * width
        self.net = mlp(size + level_features, hidden, size, nn.SiLU)

    def forward(self, x: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """[B, L, F] of trajectories [B, L, F] and c_noise of B or one numbers."""
        levels = self.levels(noise.reshape(-1)).expand(len(x), -1)
        found: torch.Tensor = self.net(torch.cat([x.flatten(1), levels], dim=1))
        return found.view_as(x)


class ConvolutionBlock(nn.Module):
    """Two convolutions along time with group normalization; the level is added in between.

    Args:
        inputs, outputs: channels; outputs a multiple of `groups`.
        levels: width of the embedding of a noise level.
        groups: of the normalizations.
    """

    def __init__(self, inputs: int, outputs: int, levels: int, groups: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(inputs, outputs, 3, padding=1)
        self.second = nn.Conv1d(outputs, outputs, 3, padding=1)
        self.norms = nn.ModuleList(nn.GroupNorm(groups, outputs) for _ in range(2))
        self.of_level = nn.Linear(levels, outputs)

    def forward(self, x: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
        """[B, outputs, L] of x [B, inputs, L] and embeddings [B or 1, levels]."""
        # After the norm: before it, what is added to a whole group would be taken off again.
        hidden = self.norms[0](self.first(x)) + self.of_level(levels)[:, :, None]
        return functional.relu(self.norms[1](self.second(functional.relu(hidden))))


class TrajectoryUNet(nn.Module):
    """A U-Net along time, whose block i has `features` 2^i channels at a 2^i-th of the length.

    Args:
        length: L, rows of a trajectory, at least 2^(blocks - 1).
        width: F, numbers of a row.
        features: of the first block, a multiple of 8; 1024 in the paper.
        blocks: at least 1.

    Raises:
        ValueError: an argument is out of range.
    """

    groups = 8

    def __init__(self, length: int, width: int, features: int = 64, blocks: int = 3) -> None:
        super().__init__()
        check_integer("blocks", blocks, 1)
        check_integer("length", length, 2 ** (blocks - 1))
        if check_integer("features", features, self.groups) % self.groups:
            raise ValueError(f"features={features} must be a multiple of {self.groups}")
        sizes = [features * 2**i for i in range(blocks)]
        self.levels = nn.Sequential(
            FourierFeatures(features), nn.Linear(features, features), nn.SiLU(),
            nn.Linear(features, features), nn.SiLU(),
        )  # fmt: skip
        self.down = nn.ModuleList(
            ConvolutionBlock(before, size, features, self.groups)
            for before, size in zip([width, *sizes[:-1]], sizes, strict=True)
        )
        self.up = nn.ModuleList(
            ConvolutionBlock(size + below, size, features, self.groups)
            for size, below in zip(sizes[:-1], sizes[1:], strict=True)
        )
        self.out = nn.Conv1d(sizes[0], width, 1)

    def forward(self, x: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """[B, L, F] of trajectories [B, L, F] and c_noise of B or one numbers."""
        levels, hidden = self.levels(noise.reshape(-1)), x.transpose(1, 2)
        kept: list[torch.Tensor] = []
        for number, block in enumerate(self.down):
            hidden = block(functional.max_pool1d(hidden, 2) if number else hidden, levels)
            kept.append(hidden)
        for block, beside in zip(reversed(self.up), reversed(kept[:-1]), strict=True):
            above = functional.interpolate(hidden, size=beside.shape[2])
            hidden = block(torch.cat([above, beside], dim=1), levels)
        found: torch.Tensor = self.out(hidden)
        return found.transpose(1, 2)
