"""Capped base stock: order up to a level, but never more than a cap in one period.

    order = min(max(S - IP, 0), r)

The cap keeps lost sales from being ordered again all at once; with it the rule is close to optimal
for one store with lost sales and long leads. Both numbers are tuned by gradients through the
simulator.
"""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium as gym
import torch
from stable_baselines3.common.type_aliases import Schedule
from torch import nn
from torch.nn import functional

from ...envs.inventory.inventory_net import InventoryNet
from ..base.declare import Example
from .base_stock import BaseStockPolicy, base_stock_order
from .order_up_to import Heuristic, inverse_softplus


def capped_base_stock_order(
    level: torch.Tensor, cap: torch.Tensor, position: torch.Tensor
) -> torch.Tensor:
    """min(max(level - position, 0), cap); any shapes that broadcast."""
    return torch.minimum(base_stock_order(level, position), cap)


class CappedBaseStockPolicy(BaseStockPolicy):
    """`BaseStockPolicy` with a cap per location, softplus(parameter) periods of its demand.

    Args:
        start_level: as in `BaseStockPolicy`.
        start_cap: cap from which tuning starts, in periods of demand.
    """

    def __init__(
        self,
        observation_space: gym.Space,
        action_space: gym.Space,
        lr_schedule: Schedule,
        core: InventoryNet,
        start_level: float | None = None,
        start_cap: float = 2.0,
    ) -> None:
        super().__init__(observation_space, action_space, lr_schedule, core, start_level)
        if start_cap <= 0:
            raise ValueError(f"start_cap={start_cap} must be above 0 periods of demand")
        start = torch.full((core.network.locations,), float(start_cap))
        self.caps = nn.Parameter(inverse_softplus(start))
        self.build_optimizer(lr_schedule)

    def wanted(self, observation: torch.Tensor) -> torch.Tensor:
        """min(max(level - position, 0), cap), [n, N]."""
        caps = functional.softplus(self.caps) * self.scale(observation).nodes
        return torch.minimum(super().wanted(observation), caps)


class CappedBaseStock(Heuristic):
    """Capped base stock for `InventoryNet-v0`, one level and one cap per location.

    Args:
        policy: "HeuristicPolicy".
        env, learning_rate, evaluate_every, ...: as in `Heuristic`.
        policy_kwargs: `start_level`, `start_cap`.
    """

    policy_aliases: ClassVar[dict[str, Any]] = {"HeuristicPolicy": CappedBaseStockPolicy}
    example = Example(
        env="InventoryNet-v0",
        env_kwargs={"setting": "one_store_lost"},
        policy="HeuristicPolicy",
        kwargs={"scenarios": 64, "batch_size": 32, "validation_scenarios": 32},
        steps=8_000,
    )
