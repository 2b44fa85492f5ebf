"""Attention among the nodes that are left, or among all of them: policies for `envs/routing`."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium as gym
import torch
from stable_baselines3.common.type_aliases import Schedule
from torch.nn import functional

from ..nets.attention import EdgeEmbedding, NearAttention, ReZeroAttention
from .node_policy import NodePolicy
from .problems import Situation, keep_nearest

IDENTIFIERS = 8  # random numbers by which the nodes of a matrix are told apart


class AttentionPolicy(NodePolicy):
    """The policy on the instance left: attention among origin, destination and remaining nodes.

    Args:
        observation_space, action_space: of the environment; other sizes are accepted too.
        lr_schedule: learning rate as a function of the progress remaining.
        problem: a name in `routing.PROBLEMS`.
        dim, layers, heads, feedforward: of `ReZeroAttention`; the paper has 192, 9, 12 and 512.
    """

    flags: ClassVar[int] = 0  # features of a node beside its data, instead of marks of the ends
    measures: ClassVar[int] = 0  # features of a node beside its data and flags
    body_class: ClassVar[type[ReZeroAttention | NearAttention]] = ReZeroAttention

    def __init__(
        self,
        observation_space: gym.Space,
        action_space: gym.Space,
        lr_schedule: Schedule,
        problem: str,
        dim: int = 48,
        layers: int = 3,
        heads: int = 4,
        feedforward: int = 96,
    ) -> None:
        super().__init__(observation_space, action_space, problem)
        # Of a matrix, a node's features are its distances from the origin and to the destination.
        features = (self.problem.columns or 2) + self.flags + self.measures
        if self.problem.columns is None:
            self.matrix_embedding = EdgeEmbedding(features, IDENTIFIERS, dim)
        else:
            self.embedding = torch.nn.Linear(features, dim)
        if self.problem.ends and not self.flags:
            self.ends = torch.nn.Parameter(torch.randn(2, dim))
        self.body: Any = self.body_class(dim, layers, heads, feedforward)
        self.head = torch.nn.Linear(dim, self.problem.choices)
        self.optimizer = self.make_optimizer(lr_schedule(1))

    def make_optimizer(self, learning_rate: float) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.parameters(), lr=learning_rate)

    def forward(
        self, situation: Situation, feasible: torch.Tensor, neighbours: int | None = None
    ) -> torch.Tensor:
        """Scores [b, n] or [b, n, 2]; see `NodePolicy`."""
        view = feasible.any(dim=2) if feasible.ndim == 3 else feasible
        if neighbours is not None:
            view = keep_nearest(situation, self.problem, view, neighbours)
        index, present = self.rows(situation, view)
        return self.placed(self.head(self.attend(situation, index, present)), index, feasible)

    def placed(
        self, scores: torch.Tensor, index: torch.Tensor, feasible: torch.Tensor
    ) -> torch.Tensor:
        """Scores [b, k, choices] of the nodes that the network sees, int [b, k], in the shape of
        `feasible`; -inf of all others."""
        nodes = feasible.shape[1]
        everywhere = scores.new_full((len(scores), nodes, scores.shape[2]), -torch.inf)
        everywhere = everywhere.scatter(1, index[..., None].expand_as(scores), scores)
        return everywhere.view(feasible.shape)

    def attend(
        self, situation: Situation, index: torch.Tensor, present: torch.Tensor | None
    ) -> torch.Tensor:
        """Nodes [b, k, dim] behind the layers; arguments as `rows` gives them."""
        found: torch.Tensor = self.body(self.embed(situation, index, present), present)
        return found

    def rows(
        self, situation: Situation, view: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Nodes that the network sees, int [b, k], origin and destination first, and which of these
        rows are there, bool [b, k]; None: all.

        Args:
            situation: b states.
            view: bool [b, n], nodes in view beside origin and destination.
        """
        numbers = view.sum(dim=1)
        most = int(numbers.max())
        # Sorting is stable: the nodes in view come first, in their order.
        index = view.int().argsort(dim=1, descending=True, stable=True)[:, :most]
        present = torch.arange(most, device=view.device) < numbers[:, None]
        if situation.origin is not None and situation.destination is not None:
            ends = torch.stack([situation.origin, situation.destination], dim=1)
            index = torch.cat([ends, index], dim=1)
            present = functional.pad(present, (2, 0), value=True)
        return index, None if bool(present.all()) else present

    def embed(
        self, situation: Situation, index: torch.Tensor, present: torch.Tensor | None
    ) -> torch.Tensor:
        """What the layers start with, [b, k, dim]; arguments as `rows` gives them."""
        if self.problem.columns is None:
            batch = torch.arange(len(index), device=index.device)[:, None, None]
            matrix = situation.data[batch, index[:, :, None], index[:, None, :]]
            matrix = in_mean_distances(matrix, present)
            features = torch.stack([matrix[:, 0], matrix[:, :, 1]], dim=2)
            nodes = self.embed_matrix(matrix, features, present)
        else:
            nodes = self.embedding(self.data_of(situation, index))
        if self.problem.ends:
            nodes = nodes + functional.pad(self.ends, (0, 0, 0, index.shape[1] - 2))
        return nodes

    def data_of(self, situation: Situation, index: torch.Tensor) -> torch.Tensor:
        """Data [b, k, f] of the nodes that the network sees, int [b, k]."""
        columns = situation.data.shape[2]
        data = situation.data.gather(1, index[..., None].expand(-1, -1, columns))
        if columns == 4:  # a demand or prize of the ends is not to be served any more
            kept = torch.arange(index.shape[1], device=index.device)[:, None] > 1
            served = torch.arange(columns, device=index.device) == 2
            data = data * (kept | ~served)
        return data

    def embed_matrix(
        self, matrix: torch.Tensor, features: torch.Tensor, present: torch.Tensor | None
    ) -> torch.Tensor:
        """Embeddings [b, k, dim] of the nodes of matrices [b, k, k] with features [b, k, f].

        The numbers that tell nodes apart are drawn anew for every minibatch in training, and
        always the same else.
        """
        rows = matrix.shape[1]
        if self.training:
            names = torch.rand(rows, IDENTIFIERS, device=matrix.device)
        else:
            roots = torch.tensor([2, 3, 5, 7, 11, 13, 17, 19], device=matrix.device).sqrt()
            names = torch.arange(1, rows + 1, device=matrix.device)[:, None] * roots % 1
        names = names.expand(len(matrix), -1, -1)
        embedded: torch.Tensor = self.matrix_embedding(matrix, features, names, present)
        return embedded


class DirectPolicy(AttentionPolicy):
    """The same network on the direct state: all nodes, with flags for those that are closed
    (visited, taken or out of reach), the current one and the start.

    Args:
        observation_space, action_space, lr_schedule, problem, ...: as in `AttentionPolicy`.
    """

    direct = True
    looks_near = False
    flags = 3

    def rows(
        self, situation: Situation, view: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """All nodes, whatever is in view."""
        everything = torch.arange(view.shape[1], device=view.device)
        return everything.expand(view.shape), None

    def embed(
        self, situation: Situation, index: torch.Tensor, present: torch.Tensor | None
    ) -> torch.Tensor:
        """What the layers start with, [b, n, dim]."""
        closed = ~situation.remaining
        marks = [closed]
        for end in (situation.origin, situation.destination):
            marks.append(closed & False if end is None else index == end[:, None])
        flags = torch.stack(marks, dim=2).float()
        if self.problem.columns is not None:
            embedded: torch.Tensor = self.embedding(torch.cat([situation.data, flags], dim=2))
            return embedded
        assert situation.destination is not None
        batch = torch.arange(len(index), device=index.device)
        matrix = in_mean_distances(situation.data, present)
        ways = [matrix[batch, situation.origin], matrix[batch, :, situation.destination]]
        features = torch.cat([torch.stack(ways, dim=2), flags], dim=2)
        return self.embed_matrix(matrix, features, present)


def in_mean_distances(matrix: torch.Tensor, present: torch.Tensor | None) -> torch.Tensor:
    """Matrices [b, k, k] in units of their mean entry: a change of units changes no solution.

    Args:
        matrix: distances.
        present: bool [b, k], rows and columns that are there; None: all.
    """
    there = matrix.new_ones(matrix.shape[:2]) if present is None else present.to(matrix.dtype)
    pairs = there[:, :, None] * there[:, None, :]
    total = (matrix * pairs).sum(dim=(1, 2), keepdim=True)
    return matrix * (pairs.sum(dim=(1, 2), keepdim=True) / total.clamp(min=1e-12))
