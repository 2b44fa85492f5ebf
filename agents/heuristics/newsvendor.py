"""Newsvendor rules: base stock at a quantile of the forecast demand over the time that an order has
to cover.

A store orders over an arc of lead l up to the quantile tau of its demand over l + 1 periods, a
supplier up to the sum over the stores below it of the quantiles over its own lead, the longest lead
from it to the store, and 1. Stores look at their own inventory position, suppliers at their
echelon's. The rules differ in tau:

    quantile      tau = p / (p + h), as in the newsvendor problem
    fixed         one tau for all stores, tuned on the cost
    transformed   logit tau = a logit(p / (p + h)) + b with a > 0, tuned on the cost

with, for the last two, separate parameters for what suppliers keep. The generalised newsvendor
rules of Alvo et al. (arXiv 2306.11246) are of these three kinds. See `forecast.py` for the
forecast.
"""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.type_aliases import Schedule
from torch import nn
from torch.nn import functional

from ...envs.inventory.inventory_net import InventoryNet
from ..base.declare import Example
from .base_stock import base_stock_order
from .forecast import QuantileForecast, fit_forecast, forecast_features
from .order_up_to import Heuristic, OrderUpToPolicy, critical_fractile, inverse_softplus


def served_pairs(core: InventoryNet) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pairs (arc, store below it) and the periods that an order on the arc has to cover, three int
    [P].

    The periods are the lead of the arc, the longest lead from its target down to the store, and 1.
    """
    net = core.network
    below = np.full((net.locations, core.stores), -1, dtype=np.int64)
    below[core.suppliers :][np.eye(core.stores, dtype=bool)] = 0
    for arc in reversed(range(net.arcs)):  # arcs are sorted by source, and sources topologically
        if net.source[arc] >= 0:
            through = np.where(
                below[net.target[arc]] >= 0, below[net.target[arc]] + net.lead[arc], -1
            )
            below[net.source[arc]] = np.maximum(below[net.source[arc]], through)
    arcs, stores = np.nonzero(below[net.target] >= 0)
    periods = net.lead[arcs] + below[net.target[arcs], stores] + 1
    return torch.as_tensor(arcs), torch.as_tensor(stores), torch.as_tensor(periods)


class NewsvendorPolicy(OrderUpToPolicy):
    """Orders up to forecast quantiles; a subclass says which in `quantile_levels`.

    Args:
        forecast_steps: gradient steps of the forecaster of recorded sales.
    """

    def __init__(
        self,
        observation_space: gym.Space,
        action_space: gym.Space,
        lr_schedule: Schedule,
        core: InventoryNet,
        forecast_steps: int = 800,
    ) -> None:
        super().__init__(observation_space, action_space, lr_schedule, core)
        if forecast_steps < 0:
            raise ValueError(f"forecast_steps={forecast_steps} must be at least 0")
        self.forecast_steps = forecast_steps
        arcs, stores, periods = served_pairs(core)
        horizons = torch.unique(periods)
        self.register("pair_arc", arcs)
        self.register("pair_store", stores)
        self.register("pair_target", torch.as_tensor(core.network.target.copy())[arcs])
        self.register("pair_horizon", torch.searchsorted(horizons, periods))
        self.register("pair_upstream", (self.pair_target < core.suppliers).long())
        self.register("fractile", torch.as_tensor(critical_fractile(core)).float())
        self.register("is_store", torch.arange(core.network.locations) >= core.suppliers)
        # Of a checkpoint's core one cannot tell whether its demand was recorded, but past demands
        # tell.
        self.forecast = QuantileForecast(core, horizons.numpy(), recorded=core.past > 0)
        self.forecast.requires_grad_(False)
        self.add_parameters()
        self.optimizer = torch.optim.Adam(
            [value for value in self.parameters() if value.requires_grad], lr=lr_schedule(1)
        )

    def add_parameters(self) -> None:
        """Create the parameters of the rule itself."""

    def quantile_levels(self) -> torch.Tensor:
        """tau of each pair (arc, store), [P]."""
        raise NotImplementedError

    def start(self, core: InventoryNet) -> None:
        """Forecast as the law, or as all train weeks together, have it."""
        self.forecast.start(core)

    def features(self, observation: torch.Tensor) -> torch.Tensor | None:
        """What the forecaster reads, [n, K, F]; None for a law."""
        if not self.recorded:
            return None
        parts = self.task.split_observation(observation)
        time_of_year = [parts[name] for name in ("season", "calendar") if name in parts]
        return forecast_features(
            parts["past_demands"].transpose(1, 2),
            self.demand_level(observation),
            self.mean_demand,
            *time_of_year,
        )

    def wanted(self, observation: torch.Tensor) -> torch.Tensor:
        """max(forecast quantiles - position, 0), [n, N]."""
        # Sales do not depend on the orders: no gradient has to go through the forecast.
        with torch.no_grad():
            quantiles = self.forecast(self.features(observation))
        units = self.forecast.at(
            quantiles, self.pair_store, self.pair_horizon, self.quantile_levels()
        )
        units = units * self.demand_level(observation)[:, self.pair_store] * self.pair_weights()
        levels = units.new_zeros(len(units), self.core.network.locations)
        levels = levels.index_add(1, self.pair_target, units)
        position = self.position(observation)
        if self.core.suppliers:
            position = torch.where(self.is_store, position, self.collected(position))
        return base_stock_order(levels, position)

    def pair_weights(self) -> torch.Tensor:
        """Share of the arc in what its target buys, times that of the target in what the store
        buys, [P]."""
        shares = self.shares()
        reached = torch.zeros(self.core.stores, self.core.network.locations, device=shares.device)
        reached[:, self.core.suppliers :] = torch.eye(self.core.stores, device=shares.device)
        through = self.collected(reached) if self.core.suppliers else reached
        return shares[self.pair_arc] * through[self.pair_store, self.pair_target]


class QuantilePolicy(NewsvendorPolicy):
    """tau = p / (p + h)."""

    def quantile_levels(self) -> torch.Tensor:
        """The critical fractile of the pair's store, [P]."""
        return self.fractile[self.pair_store]


class FixedQuantilePolicy(NewsvendorPolicy):
    """One tau for the stores and one for their suppliers; both start at the mean fractile."""

    def add_parameters(self) -> None:
        """The log-odds of the two."""
        self.log_odds = nn.Parameter(torch.logit(self.fractile.mean()).repeat(2))

    def quantile_levels(self) -> torch.Tensor:
        """The same for every store, [P]."""
        return torch.sigmoid(self.log_odds)[self.pair_upstream]


class TransformedQuantilePolicy(NewsvendorPolicy):
    """A monotone map of the fractile for the stores and one for their suppliers; both start as the
    identity."""

    def add_parameters(self) -> None:
        """Slopes (before softplus) and offsets."""
        self.slopes = nn.Parameter(inverse_softplus(torch.ones(2)))
        self.offsets = nn.Parameter(torch.zeros(2))

    def quantile_levels(self) -> torch.Tensor:
        """sigmoid(a logit(fractile) + b), [P]."""
        slope, offset = functional.softplus(self.slopes), self.offsets
        odds = torch.logit(self.fractile)[self.pair_store]
        return torch.sigmoid(slope[self.pair_upstream] * odds + offset[self.pair_upstream])


class Newsvendor(Heuristic):
    """Base of the newsvendor rules for `InventoryNet-v0`.

    `learn` first trains the forecaster (recorded sales with observed past demands), then tunes the
    shares of parallel suppliers and the parameters of the rule by gradients through the simulator.

    Args:
        policy: "HeuristicPolicy".
        env, learning_rate, evaluate_every, ...: as in `Heuristic`.
        policy_kwargs: `forecast_steps`.
    """

    example = Example(
        env="InventoryNet-v0",
        env_kwargs={"setting": "one_store_lost"},
        policy="HeuristicPolicy",
        kwargs={"scenarios": 64, "batch_size": 32, "validation_scenarios": 32},
        steps=4_000,
    )

    def begin(self) -> None:
        """Train the forecaster, once."""
        super().begin()
        forecast = self.policy.forecast
        if self.policy.recorded and not forecast.fitted:
            forecast.requires_grad_(True)
            steps = self.policy.forecast_steps
            self.forecast_curve = fit_forecast(forecast, self.core, self.seed or 0, steps)  # type: ignore[arg-type]
            forecast.requires_grad_(False)


class QuantileNewsvendor(Newsvendor):
    """Newsvendor rule at the exact quantile p / (p + h)."""

    policy_aliases: ClassVar[dict[str, Any]] = {"HeuristicPolicy": QuantilePolicy}


class FixedQuantileNewsvendor(Newsvendor):
    """Newsvendor rule at one quantile, tuned on the cost."""

    policy_aliases: ClassVar[dict[str, Any]] = {"HeuristicPolicy": FixedQuantilePolicy}


class TransformedNewsvendor(Newsvendor):
    """Newsvendor rule at a monotone map of p / (p + h), tuned on the cost."""

    policy_aliases: ClassVar[dict[str, Any]] = {"HeuristicPolicy": TransformedQuantilePolicy}
