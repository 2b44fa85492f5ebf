"""Echelon stock: every location keeps the stock at and below it at a level.

    order_i = max(Sbar_i - E_i, 0),   E_i = IP_i + sum over customers j of share_ij E_j,
                                      Sbar_i = s_i + sum over customers j of share_ij Sbar_j,   s_i
                                      >= 0

E is the echelon inventory position: a location's own stock and pipeline and everything below it. In
a chain, where the rule is optimal under backlog (Clark and Scarf), the levels are reverse
cumulative sums of the s_i. A location with several suppliers counts towards each by the share of
its orders that it places there.
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
from .base_stock import base_stock_order
from .order_up_to import Heuristic, OrderUpToPolicy, inverse_softplus, newsvendor_levels


class EchelonStockPolicy(OrderUpToPolicy):
    """One s_i per location, softplus(parameter) periods of its demand."""

    def __init__(
        self,
        observation_space: gym.Space,
        action_space: gym.Space,
        lr_schedule: Schedule,
        core: InventoryNet,
    ) -> None:
        super().__init__(observation_space, action_space, lr_schedule, core)
        self.levels = nn.Parameter(torch.zeros(core.network.locations))
        self.build_optimizer(lr_schedule)

    def start(self, core: InventoryNet) -> None:
        """Newsvendor levels at the stores, what is demanded during the lead above them."""
        levels = newsvendor_levels(core)
        levels[: core.suppliers] -= 1.0  # the period's own demand is covered at the stores
        with torch.no_grad():
            self.levels.copy_(inverse_softplus(levels))

    def wanted(self, observation: torch.Tensor) -> torch.Tensor:
        """max(Sbar - E, 0), [n, N]."""
        own = functional.softplus(self.levels) * self.scale(observation).nodes
        return base_stock_order(self.collected(own), self.collected(self.position(observation)))


class EchelonStock(Heuristic):
    """Echelon stock for `InventoryNet-v0`, on any network.

    Args:
        policy: "HeuristicPolicy".
        env, learning_rate, evaluate_every, ...: as in `Heuristic`.
    """

    policy_aliases: ClassVar[dict[str, Any]] = {"HeuristicPolicy": EchelonStockPolicy}
    example = Example(
        env="InventoryNet-v0",
        env_kwargs={"setting": "serial_system"},
        policy="HeuristicPolicy",
        kwargs={"scenarios": 64, "batch_size": 32, "validation_scenarios": 32},
        steps=8_000,
    )
