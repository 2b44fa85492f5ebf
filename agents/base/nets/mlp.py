"""Multilayer perceptrons."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional


class EluOfOutput(torch.autograd.Function):
    """`elu` whose backward pass reads its output, which the next layer keeps anyway."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        """Any shape."""
        output = functional.elu(x)
        ctx.save_for_backward(output)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        """The derivative is 1, or the output + 1 where that is less."""
        (output,) = ctx.saved_tensors
        found: torch.Tensor = torch.ops.aten.elu_backward(gradient, 1, 1, 1, True, output)
        return found


class LeanELU(nn.Module):
    """`nn.ELU` for large batches: less memory, and no exponentials in the backward pass.

    Worth it where the network is compiled; on small tensors `nn.ELU` is faster.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Any shape."""
        output: torch.Tensor = EluOfOutput.apply(x)
        return output


def mlp(
    inputs: int,
    hidden: Sequence[int],
    outputs: int,
    activation: type[nn.Module] = nn.ELU,
    activate_output: bool = False,
) -> nn.Sequential:
    """Linear layers with `activation` between them, and after the last one if `activate_output`."""
    sizes = [inputs, *hidden, outputs]
    layers: list[nn.Module] = []
    for size, following in zip(sizes[:-1], sizes[1:], strict=True):
        layers += [nn.Linear(size, following), activation()]
    return nn.Sequential(*layers if activate_output else layers[:-1])


class JoinedMLP(nn.Module):
    """`mlp` on the concatenation of several inputs, without building the concatenation.

    The first layer is a sum of one matrix product per input. An input that is gathered (the
    embedding of an edge's end, say) is multiplied before, once per node and not once per edge.

    Args:
        inputs: width of each input.
        hidden, outputs, activation, activate_output: as in `mlp`; at least one hidden layer.
    """

    def __init__(
        self,
        inputs: Sequence[int],
        hidden: Sequence[int],
        outputs: int,
        activation: type[nn.Module] = nn.ELU,
        activate_output: bool = False,
    ) -> None:
        super().__init__()
        self.sizes = list(inputs)
        self.first = nn.Linear(sum(inputs), hidden[0])
        self.rest = nn.Sequential(
            activation(), *mlp(hidden[0], hidden[1:], outputs, activation, activate_output)
        )

    def forward(self, *parts: torch.Tensor | tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """Outputs [E, ..., outputs].

        Args:
            parts: one tensor [E, ..., size] per input, or a pair (nodes [N, ..., size], int [E]);
                all after the first may also be of a shape that broadcasts.
        """
        total: torch.Tensor | None = None
        for part, weight in zip(parts, self.first.weight.split(self.sizes, dim=1), strict=True):
            if isinstance(part, tuple):
                nodes, index = part
                term = functional.linear(nodes, weight).index_select(0, index)
            else:
                term = functional.linear(part, weight)
            total = term if total is None else total.add_(term)
        assert total is not None
        output: torch.Tensor = self.rest(total.add_(self.first.bias))
        return output
