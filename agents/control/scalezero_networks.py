"""The networks of ScaleZero, and how much its tasks disagree about them."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import torch
from stable_baselines3.common.type_aliases import Schedule
from torch import nn

from ..base.nets.adapters import adapt, set_stage
from ..base.nets.mixture import Mixture, SwiGLU
from ..base.nets.mlp import mlp
from ..base.unizero_policy import UniZeroPolicy


def gradient_conflict(gradients: torch.Tensor) -> torch.Tensor:
    """Mean over the pairs of tasks of max(0, -cos(g_t, g_u)), a number; 0 for a single task.

    Args:
        gradients: of every task on the parameters that they share, [T, P]. One that is zero is in
            conflict with none.
    """
    units = nn.functional.normalize(gradients, dim=1)
    rows, columns = torch.triu_indices(len(units), len(units), offset=1)
    conflicts = (-(units @ units.T)[rows, columns]).clamp(min=0)
    return conflicts.sum() / max(len(conflicts), 1)


def mixture_block(dim: int, experts: int, top: int, shared: int) -> Mixture:
    """A mixture of SwiGLU experts with hidden layers of 4 dim, whose gate reads the token.

    Args:
        dim: width of a token.
        experts: E.
        top: k, how many of them a token uses.
        shared: a GELU network of hidden width 4 dim x shared is always on; 0: none.
    """
    return Mixture(
        nn.Linear(dim, experts, bias=False),
        (SwiGLU(dim, 4 * dim) for _ in range(experts)),
        top,
        mlp(dim, [4 * dim * shared], dim, nn.GELU) if shared else None,
    )


class ScaleZeroPolicy(UniZeroPolicy):
    """UniZero's policy with mixtures of experts, and with adapters of the transformer's layers.

    Args:
        observation_space, action_space, lr_schedule: as in `UniZeroPolicy`.
        experts, top, shared: of `mixture_block`.
        stages, rank, alpha, learn_scale: of `AdaptedLinear`.
        others: arguments of `UniZeroPolicy`.

    Attributes:
        stage: number of the stage, an integer tensor.
    """

    stage: torch.Tensor

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        lr_schedule: Schedule,
        experts: int = 8,
        top: int = 1,
        shared: int = 0,
        stages: int = 5,
        rank: int = 4,
        alpha: float = 4.0,
        learn_scale: bool = False,
        **others: Any,
    ) -> None:
        def block(dim: int) -> nn.Module:
            return mixture_block(dim, experts, top, shared)

        spaces = (observation_space, action_space)
        super().__init__(*spaces, lr_schedule, feed_forward=block, **others)
        adapt(self.model.blocks, stages, rank, alpha, learn_scale)
        self.register_buffer("stage", torch.zeros((), dtype=torch.int64))
        self.prepare_learning(lr_schedule)

    def enter(self, stage: int) -> None:
        """Freeze and unfreeze for a stage; the optimizer begins anew.

        The optimizer holds all parameters and passes over those that have no gradient.

        Raises:
            ValueError: there is no such stage.
        """
        self._place(stage)
        self.stage.fill_(stage)
        self.optimizer.zero_grad(set_to_none=True)
        self.optimizer.state.clear()

    def _place(self, stage: int) -> None:
        set_stage(self.model.blocks, stage)
        set_stage(self.target.blocks, stage)
        self.target.requires_grad_(False)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As `nn.Module`'s; the stage is that of the parameters."""
        found = super().load_state_dict(*args, **kwargs)
        self._place(int(self.stage))
        return found
