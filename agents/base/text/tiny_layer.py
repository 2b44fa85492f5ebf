"""A layer of the embedded language model: pre-norm attention and a feed-forward net."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional


class Weights(NamedTuple):
    """The matrices of a layer, and what is done with them: pre-norm attention and a feed-forward
    net, without biases.

    Rows are as short here that to call a module, or even to look one up, takes as long as its work.

    Attributes:
        before, joint, joined, between, hidden, back: as in `Block`.
    """

    before: torch.Tensor
    joint: torch.Tensor
    joined: torch.Tensor
    between: torch.Tensor
    hidden: torch.Tensor
    back: torch.Tensor

    def for_steps(self, heads: int) -> Weights:
        """The same for many steps of few rows, without gradients.

        The scale of attention is in the queries already, and the matrices of `finish` lie as their
        products read them.
        """
        joint = self.joint.clone()
        joint[: len(joint) // 3] *= (len(joint) // (3 * heads)) ** -0.5
        turned = (each.t().contiguous().t() for each in (self.joined, self.hidden, self.back))
        joined, hidden, back = turned
        return Weights(self.before, joint, joined, self.between, hidden, back)

    def project(self, x: torch.Tensor) -> torch.Tensor:
        """Queries, keys and values [m, 3 width] of tokens [m, width]."""
        return functional.linear(normed(x, self.before), self.joint)

    def project_columns(self, x: torch.Tensor) -> torch.Tensor:
        """The same with tokens as columns, [3 width, m]."""
        return functional.linear(self.joint, normed(x, self.before))

    def finish(self, x: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        """Tokens [m, width] after the layer, `seen` [m, width] being what they saw."""
        x = torch.addmm(x, seen, self.joined.t())
        inner = functional.linear(normed(x, self.between), self.hidden)
        return torch.addmm(x, functional.relu(inner, inplace=True), self.back.t())


def normed(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Layer normalisation of [..., width] with weights [width]."""
    return torch.layer_norm(x, weight.shape, weight)


class Block(nn.Module):
    """The parameters of a layer.

    Args:
        width: of a token.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.before = nn.LayerNorm(width, bias=False)
        self.joint = nn.Linear(width, 3 * width, bias=False)
        self.joined = nn.Linear(width, width, bias=False)
        self.between = nn.LayerNorm(width, bias=False)
        self.hidden = nn.Linear(width, 4 * width, bias=False)
        self.back = nn.Linear(4 * width, width, bias=False)

    def weights(self) -> Weights:
        """The parameters without their modules."""
        return Weights(*(getattr(self, name).weight for name in Weights._fields))
