"""Symmetries of routing problems: the same solved instance, seen otherwise."""

from __future__ import annotations

import numpy as np
import torch

from .problems import Problem


def turn(nodes: int, start: torch.Tensor, backwards: torch.Tensor) -> torch.Tensor:
    """Order in which a closed tour of `nodes` nodes is read from another start, perhaps backwards,
    int [b, nodes].

    Args:
        start: int [b].
        backwards: bool [b].
    """
    step = torch.where(backwards, -1, 1)[:, None] * torch.arange(nodes, device=start.device)
    return (start[:, None] + step) % nodes


def reflect(points: torch.Tensor, symmetry: torch.Tensor) -> torch.Tensor:
    """Points [b, n, 2] of the unit square under one of its 8 symmetries, int [b]."""
    swapped = torch.where((symmetry >= 4)[:, None, None], points.flip(2), points)
    flipped = torch.stack([symmetry % 2, symmetry // 2 % 2], dim=1)[:, None].bool()
    return torch.where(flipped, 1 - swapped, swapped)


def random_symmetry(
    batch: dict[str, torch.Tensor], problem: Problem, generator: np.random.Generator
) -> dict[str, torch.Tensor]:
    """The same solved instances seen otherwise: points under a symmetry of the square, closed tours
    from another start and (where distances are symmetric) perhaps backwards.

    Args:
        batch: b solved instances in the order of their solutions, see `SolvedInstances.tensors`.
        problem: which one.
        generator: draws the symmetries.
    """
    nodes, device = batch["nodes"], batch["nodes"].device
    b, n = nodes.shape[:2]
    if problem.closed:
        start = torch.as_tensor(generator.integers(n, size=b), device=device)
        backwards = torch.as_tensor(generator.random(b) < 0.5, device=device)
        order = turn(n, start, backwards & problem.euclidean)
        rows = torch.arange(b, device=device)
        nodes = nodes[rows[:, None], order]
        if not problem.euclidean:
            nodes = nodes[
                rows[:, None, None], torch.arange(n, device=device)[:, None], order[:, None]
            ]
    if problem.euclidean:
        symmetry = torch.as_tensor(generator.integers(8, size=b), device=device)
        nodes = torch.cat([reflect(nodes[..., :2], symmetry), nodes[..., 2:]], dim=2)
    return {**batch, "nodes": nodes}
