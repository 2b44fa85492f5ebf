"""A plain multilayer perceptron."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn


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
