"""Linear layers that grow by low-rank adapters, one stage of training after the other.

    y = W x + b + sum over i < stage of s_i (alpha / r) B_i A_i x,      s_i = 1 + 0.2 tanh(l_i)

In stage 0 the layer itself is trained. From stage 1 on it is frozen, and in stage s the adapter
s - 1 is trained; what earlier adapters add is a constant for the gradient, also for that of x.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

SPREAD = 0.01  # standard deviation of A at the start; B is 0, so an adapter starts as nothing
SWING = 0.2  # how far the scale of an adapter may go from 1


def adapted_linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    downs: Sequence[torch.Tensor],
    ups: Sequence[torch.Tensor],
    logits: Sequence[torch.Tensor],
    stage: int,
    alpha: float,
) -> torch.Tensor:
    """The formula above, [..., outputs].

    Args:
        x: [..., inputs].
        weight, bias: W [outputs, inputs] and b [outputs] or None.
        downs, ups, logits: A_i [r, inputs], B_i [outputs, r] and l_i [] of every adapter.
        stage: how many adapters count; the last of these alone passes a gradient on.
        alpha: scale of all adapters.
    """
    found = functional.linear(x, weight, bias)
    for number in range(stage):
        down, up = downs[number], ups[number]
        added = functional.linear(functional.linear(x, down), up)
        if number < stage - 1:
            added = added.detach()
        scale = 1 + SWING * torch.tanh(logits[number])
        found = found + alpha / len(down) * scale * added
    return found


class AdaptedLinear(nn.Module):
    """A linear layer with one adapter for every stage after the first.

    Args:
        linear: the layer, whose parameters are taken over.
        stages: S, at least 1; there are S - 1 adapters.
        rank: r of an adapter; with 0 there is none.
        alpha: scale of all adapters.
        learn_scale: train the scales of the adapters of earlier stages on.

    Raises:
        ValueError: `stages` or `rank` is out of range.
    """

    def __init__(
        self,
        linear: nn.Linear,
        stages: int,
        rank: int,
        alpha: float = 1.0,
        learn_scale: bool = False,
    ) -> None:
        super().__init__()
        if stages < 1 or rank < 0:
            raise ValueError(f"stages={stages} must be at least 1 and rank={rank} at least 0")
        self.weight, self.bias = linear.weight, linear.bias
        self.stages, self.alpha, self.learn_scale, self.stage = stages, alpha, learn_scale, 0
        adapters, like = (stages - 1 if rank else 0), linear.weight
        outputs, inputs = like.shape
        self.downs = nn.ParameterList(
            SPREAD * torch.randn(rank, inputs, device=like.device) for _ in range(adapters)
        )
        self.ups = nn.ParameterList(like.new_zeros(outputs, rank) for _ in range(adapters))
        self.logits = nn.ParameterList(like.new_zeros(()) for _ in range(adapters))
        self.set_stage(0)

    def set_stage(self, stage: int) -> None:
        """Use the adapters of the stages up to this one, and make its own trainable.

        Raises:
            ValueError: there is no such stage.
        """
        if not 0 <= stage < self.stages:
            raise ValueError(f"stage={stage}, allowed are 0 .. {self.stages - 1}")
        self.stage = stage
        self.weight.requires_grad_(stage == 0)
        if self.bias is not None:
            self.bias.requires_grad_(stage == 0)
        for number, parts in enumerate(zip(self.downs, self.ups, self.logits, strict=True)):
            down, up, logit = parts
            down.requires_grad_(number == stage - 1)
            up.requires_grad_(number == stage - 1)
            logit.requires_grad_(self.learn_scale and number < stage - 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., inputs] -> [..., outputs]."""
        adapters = (list(self.downs), list(self.ups), list(self.logits))
        used = min(self.stage, len(self.downs))
        return adapted_linear(x, self.weight, self.bias, *adapters, used, self.alpha)


def adapt(
    module: nn.Module, stages: int, rank: int, alpha: float = 1.0, learn_scale: bool = False
) -> nn.Module:
    """Put an `AdaptedLinear` in the place of every `nn.Linear` within a module; the module.

    Args:
        module: what is not itself a linear layer.
        stages, rank, alpha, learn_scale: of `AdaptedLinear`.
    """
    for name, part in module.named_children():
        if isinstance(part, nn.Linear):
            setattr(module, name, AdaptedLinear(part, stages, rank, alpha, learn_scale))
        else:
            adapt(part, stages, rank, alpha, learn_scale)
    return module


def set_stage(module: nn.Module, stage: int) -> None:
    """Bring every `AdaptedLinear` within a module to a stage, and freeze all else from stage 1 on.

    Raises:
        ValueError: there is no such stage.
    """
    module.requires_grad_(stage == 0)
    for part in module.modules():
        if isinstance(part, AdaptedLinear):
            part.set_stage(stage)
