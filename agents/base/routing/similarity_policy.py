"""A policy on instances up to similarity: moved, turned, mirrored or scaled, they are the same."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from ..nets.attention import NearAttention
from ..nets.muon import Muon
from .attention_policy import AttentionPolicy
from .problems import Situation


class SimilarityPolicy(AttentionPolicy):
    """`AttentionPolicy` on the instance left in a frame of its own, with attention to what is near.

    Not the paper's: it takes the idea of the quotient one step further. A similarity of the plane
    (with the budget scaled along) changes no optimal solution, so instances are looked at with the
    origin at 0, the destination on the positive first axis, and the farthest node at distance 1. To
    the network go, beside the coordinates, the distances from both ends, as they are and relative
    to that of the nearest node; its layers are normalised first, and their heads have slopes by
    which distant nodes weigh less (`NearAttention`), and learn by `Muon`.

    Args:
        observation_space, action_space, lr_schedule, problem, dim, layers, heads, feedforward: as
            in `AttentionPolicy`.

    Raises:
        ValueError: the problem has no coordinates.
    """

    measures = 4  # of `distances_from_ends`
    body_class = NearAttention

    def __init__(self, *args: Any, links: float = 0.5, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not self.problem.euclidean:
            raise ValueError("SimilarityPolicy needs a problem with coordinates")
        if links < 0:
            raise ValueError(f"links must be at least 0, got {links}")
        self.links = links if self.problem.closed and self.problem.choices == 1 else 0.0
        if self.links:
            dim = self.head.in_features
            self.leaving, self.entering = nn.Linear(dim, dim), nn.Linear(dim, dim)
            self.optimizer = self.make_optimizer(self.optimizer.param_groups[0]["lr"])

    def make_optimizer(self, learning_rate: float) -> torch.optim.Optimizer:
        """Muon for the matrices of the layers, Adam for the rest."""
        matrices = [p for p in self.body.parameters() if p.ndim == 2]
        chosen = {id(p) for p in matrices}
        others = [p for p in self.parameters() if id(p) not in chosen]
        return Muon(matrices, others, learning_rate)

    def lesson(
        self, situation: Situation, feasible: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """As the base's; of a TSP also the loss of links."""
        if not self.links:
            return super().lesson(situation, feasible)
        index, present = self.rows(situation, feasible)
        nodes = self.attend(situation, index, present)
        scores = self.placed(self.head(nodes), index, feasible)
        loss = self.links * link_loss(self.leaving(nodes), self.entering(nodes))
        return scores.masked_fill(~feasible, -torch.inf), loss

    def attend(
        self, situation: Situation, index: torch.Tensor, present: torch.Tensor | None
    ) -> torch.Tensor:
        """Nodes [b, k, dim] behind the layers."""
        data = self.data_of(situation, index)
        points, size = in_own_frame(data[..., :2], present)
        others = data[..., 2:]
        if others.shape[2] == 2 and self.problem.choices == 1:  # prize, and a budget of lengths
            others = torch.cat([others[..., :1], others[..., 1:] / size[:, None, None]], dim=2)
        features = torch.cat([points, others, distances_from_ends(points, present)], dim=2)
        nodes = self.embedding(features)
        nodes = nodes + functional.pad(self.ends, (0, 0, 0, index.shape[1] - 2))
        found: torch.Tensor = self.body(nodes, distances_in_steps(points, present), present)
        return found


def link_loss(leaving: torch.Tensor, entering: torch.Tensor) -> torch.Tensor:
    """Mean of -log p(i, j) over the links of paths, each in both directions.

    p(i, .) is the softmax of leaving_i . entering_j / sqrt(dim) over all j but i, so that a node
    with two neighbours gives each of them 1/2 at best.

    Args:
        leaving, entering: [b, k, dim]: origin, destination and the nodes between them in the order
            of the path.
    """
    k = leaving.shape[1]
    scores = leaving @ entering.mT * leaving.shape[2] ** -0.5
    itself = torch.eye(k, dtype=torch.bool, device=scores.device)
    log_probs = scores.masked_fill(itself, -torch.inf).log_softmax(dim=2)
    path = torch.arange(k, device=scores.device).roll(-1)  # 1, 2 .. k - 1, 0
    path[0], path[-1] = 0, 1
    there, back = log_probs[:, path[:-1], path[1:]], log_probs[:, path[1:], path[:-1]]
    return -(there + back).mean() / 2


def in_own_frame(
    points: torch.Tensor, present: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Points [b, k, 2] moved, turned, mirrored and scaled, and the lengths [b] that are now 1.

    The first point comes to 0, the second to the positive first axis (where both are one, the
    points are not turned), the mean of the others to the upper half plane, and the farthest point
    to distance 1.

    Args:
        points: origin, destination and the rest.
        present: bool [b, k], rows that are there; None: all.
    """
    moved = points - points[:, :1]
    if present is not None:
        moved = moved * present[..., None]
    towards = moved[:, 1]
    length = towards.norm(dim=1, keepdim=True)
    unit = torch.where(length > 1e-6, towards / length.clamp(min=1e-6), towards.new_tensor([1, 0]))
    along, across = unit.unbind(dim=1)
    turn = torch.stack([along, -across, across, along], dim=1).view(-1, 2, 2)
    turned = moved @ turn
    side = torch.where(turned[..., 1].sum(dim=1) < 0, -1.0, 1.0)
    size = moved.norm(dim=2).amax(dim=1).clamp(min=1e-9)
    scale = torch.stack([1 / size, side / size], dim=1)
    return turned * scale[:, None], size


def distances_from_ends(points: torch.Tensor, present: torch.Tensor | None) -> torch.Tensor:
    """Distances from origin and destination, then log(1 + distance / distance of the nearest) of
    both, [b, k, 4]; arguments as in `in_own_frame`, at least three points."""
    ends = (points[:, :, None] - points[:, None, :2]).norm(dim=3)
    others = ends[:, 2:]
    if present is not None:
        others = others.masked_fill(~present[:, 2:, None], torch.inf)
    nearest = others.amin(dim=1, keepdim=True).clamp(min=1e-6)
    return torch.cat([ends, torch.log1p(ends / nearest)], dim=2)


def distances_in_steps(points: torch.Tensor, present: torch.Tensor | None) -> torch.Tensor:
    """Distances [b, k, k] in units of the mean distance over sqrt(k), about a step of a tour.

    Args:
        points, present: as in `in_own_frame`.
    """
    distances = torch.cdist(points, points)
    if present is None:
        return distances * (math.sqrt(points.shape[1]) / distances.mean(dim=(1, 2), keepdim=True))
    there = present.to(points.dtype)
    number = there.sum(dim=1)[:, None, None]
    total = (distances * there[:, :, None] * there[:, None]).sum(dim=(1, 2), keepdim=True)
    return distances * (number.square() * number.sqrt() / total)
