"""Several networks of one shape, computed in one pass."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional


class EnsembleLinear(nn.Module):
    """K linear layers, with the initial weights of `nn.Linear`.

    Args:
        members: K.
        inputs, outputs: widths.
    """

    def __init__(self, members: int, inputs: int, outputs: int) -> None:
        super().__init__()
        bound = inputs**-0.5
        self.weight = nn.Parameter(torch.empty(members, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(members, 1, outputs).uniform_(-bound, bound))

    def forward(self, x: torch.Tensor, members: torch.Tensor | None = None) -> torch.Tensor:
        """Outputs [k, B, outputs] of x [k, B, inputs]; `members` as in `EnsembleMLP`."""
        return torch.baddbmm(chosen(self.bias, members), x, chosen(self.weight, members))


class EnsembleLayerNorm(nn.Module):
    """K layer normalizations, each with a scale and a shift of its own.

    Args:
        members: K.
        width: of what is normalized.
    """

    def __init__(self, members: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.weight = nn.Parameter(torch.ones(members, 1, width))
        self.bias = nn.Parameter(torch.zeros(members, 1, width))

    def forward(self, x: torch.Tensor, members: torch.Tensor | None = None) -> torch.Tensor:
        """Outputs [k, B, width] of x [k, B, width]; `members` as in `EnsembleMLP`."""
        scaled = functional.layer_norm(x, (self.width,))
        return torch.addcmul(chosen(self.bias, members), scaled, chosen(self.weight, members))


class EnsembleMLP(nn.Module):
    """K multilayer perceptrons, each with weights of its own.

    Args:
        members: K.
        inputs, hidden, outputs: widths; `hidden` may be empty.
        activation: after every hidden layer.
        layer_norm: whether hidden layers are normalized, before the activation.
    """

    def __init__(
        self,
        members: int,
        inputs: int,
        hidden: Sequence[int],
        outputs: int,
        activation: type[nn.Module] = nn.ReLU,
        layer_norm: bool = True,
    ) -> None:
        super().__init__()
        self.members = members
        sizes = [inputs, *hidden, outputs]
        self.layers = nn.ModuleList(
            EnsembleLinear(members, *pair) for pair in zip(sizes[:-1], sizes[1:], strict=True)
        )
        self.norms = nn.ModuleList(
            EnsembleLayerNorm(members, width) if layer_norm else AsItIs() for width in hidden
        )
        self.activation = activation()

    def forward(self, x: torch.Tensor, members: torch.Tensor | None = None) -> torch.Tensor:
        """Outputs [k, B, outputs].

        Args:
            x: [B, inputs], the same for all members.
            members: numbers of those that are asked, int [k]; None: all K.
        """
        count = self.members if members is None else len(members)
        hidden = x.expand(count, *x.shape)
        for layer, norm in zip(self.layers[:-1], self.norms, strict=True):
            hidden = self.activation(norm(layer(hidden, members), members))
        output: torch.Tensor = self.layers[-1](hidden, members)
        return output


class AsItIs(nn.Module):
    """In the place of a normalization where there is none."""

    def forward(self, x: torch.Tensor, members: torch.Tensor | None = None) -> torch.Tensor:
        """x itself."""
        return x


def chosen(parameter: torch.Tensor, members: torch.Tensor | None) -> torch.Tensor:
    """The rows `members` of a parameter [K, ...]; None: all of it."""
    return parameter if members is None else parameter[members]
