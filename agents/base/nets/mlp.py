"""Multilayer perceptrons."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional


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
