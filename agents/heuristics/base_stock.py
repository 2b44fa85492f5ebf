"""Base stock: order up to a level.

    order = max(S - IP, 0),   IP = on hand + pipeline (backlog counted negative)

It is optimal for one store with backlogged demand. For independent normal demand (mean, std per
period), lead l, underage cost p, holding cost h, and z = Phi^{-1}(p / (p + h)):

    S* = (l + 1) mean + z sqrt(l + 1) std,    optimal cost per period = (p + h) sqrt(l + 1) std
    phi(z)

and for any law S* is the quantile p / (p + h) of the demand over l + 1 periods. Elsewhere (lost
sales, networks) the levels are tuned by gradients through the simulator.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import gymnasium as gym
import torch
from scipy.stats import norm
from stable_baselines3.common.type_aliases import Schedule
from torch import nn
from torch.nn import functional

from ...envs.inventory.inventory_net import InventoryNet
from ..base.declare import Example
from .order_up_to import Heuristic, OrderUpToPolicy, inverse_softplus, newsvendor_levels


def base_stock_order(level: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    """max(level - position, 0); any shapes that broadcast."""
    return (level - position).clamp(min=0)


def optimal_base_stock(
    mean: float, std: float, lead: int, underage: float, holding: float
) -> tuple[float, float]:
    """Optimal level and cost per period of one store with backlog and independent normal demand.

    Args:
        mean, std: of the demand of a period.
        lead: periods from order to arrival.
        underage, holding: cost per unit short, and per unit left, at the end of a period.

    Raises:
        ValueError: underage or holding is not above 0 (the level would be minus or plus infinity),
            std is negative, or lead is below 1.
    """
    if not (underage > 0 and holding > 0):
        raise ValueError(f"underage={underage} and holding={holding} must both be above 0")
    if std < 0 or lead < 1:
        raise ValueError(f"std={std} must be at least 0, lead={lead} at least 1")
    z, spread = float(norm.ppf(underage / (underage + holding))), math.sqrt(lead + 1) * std
    return (lead + 1) * mean + z * spread, (underage + holding) * spread * float(norm.pdf(z))


class BaseStockPolicy(OrderUpToPolicy):
    """Every location orders up to its own level; levels are softplus(parameter) periods of its
    demand.

    A location that holds no stock looks at the stock of all locations below it as well: it has none
    of its own by which it could tell how much is needed.

    Args:
        start_level: level in periods of demand from which tuning starts; None: see
            `newsvendor_levels`.
    """

    def __init__(
        self,
        observation_space: gym.Space,
        action_space: gym.Space,
        lr_schedule: Schedule,
        core: InventoryNet,
        start_level: float | None = None,
    ) -> None:
        super().__init__(observation_space, action_space, lr_schedule, core)
        if start_level is not None and start_level <= 0:
            raise ValueError(f"start_level={start_level} must be above 0 periods of demand")
        self.start_level = start_level
        self.levels = nn.Parameter(torch.zeros(core.network.locations))
        self.build_optimizer(lr_schedule)

    def start(self, core: InventoryNet) -> None:
        """Newsvendor levels, or `start_level` everywhere."""
        levels = newsvendor_levels(core) if self.start_level is None else self.start_level
        with torch.no_grad():
            self.levels.copy_(inverse_softplus(torch.zeros_like(self.levels) + levels))
            if self.start_level is None and not core.all_hold_stock:
                flow = (self.mean_demand @ self.through_nodes).clamp(min=1e-6)
                units = functional.softplus(self.levels) * flow
                held = torch.as_tensor(core.holds_stock.copy())
                pooled = torch.where(held, units, self.collected(units)) / flow
                self.levels.copy_(inverse_softplus(pooled[0]))

    def level(self, observation: torch.Tensor) -> torch.Tensor:
        """Units up to which each location orders, [n or 1, N]."""
        return functional.softplus(self.levels) * self.scale(observation).nodes

    def wanted(self, observation: torch.Tensor) -> torch.Tensor:
        """max(level - position, 0), [n, N]."""
        position = self.position(observation)
        if not self.core.all_hold_stock:
            position = torch.where(self.task.holds_stock, position, self.collected(position))
        return base_stock_order(self.level(observation), position)


class BaseStock(Heuristic):
    """Base stock for `InventoryNet-v0`, one level per location.

    Args:
        policy: "HeuristicPolicy".
        env, learning_rate, evaluate_every, ...: as in `Heuristic`.
        policy_kwargs: `start_level`.
    """

    policy_aliases: ClassVar[dict[str, Any]] = {"HeuristicPolicy": BaseStockPolicy}
    example = Example(
        env="InventoryNet-v0",
        env_kwargs={"setting": "one_store_backlogged"},
        policy="HeuristicPolicy",
        kwargs={"scenarios": 64, "batch_size": 32, "validation_scenarios": 32},
        steps=8_000,
    )
