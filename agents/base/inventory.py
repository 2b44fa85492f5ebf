"""What policies for `InventoryNet-v0` share: reading the observation, scales, and the way back to
its actions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.type_aliases import Schedule

from ...envs.inventory.inventory_net import InventoryNet
from .simulator_gradient import SimulatorGradientAlgorithm, SimulatorPolicy


@dataclass
class Scale:
    """Demand per period that flows through the network: the unit in which a policy measures.

    Attributes:
        nodes: through each location, [n or 1, N].
        arcs: over each arc, [n or 1, A].
    """

    nodes: torch.Tensor
    arcs: torch.Tensor

    def edges(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Through the customer of each edge, or its source where that is the demand, [n or 1,
        E]."""
        last = self.nodes.shape[1]
        return self.nodes[:, torch.where(target == last, source, target)]


class InventoryPolicy(SimulatorPolicy):
    """A policy from observations of `InventoryNet` to feasible orders in units.

    Args:
        normalize: divide stocks and past demands by the demand per period that flows through a
            location, and multiply orders by it, so that the policy is the same for products that
            sell much and little. The demand is the mean of the observed past demands, or the law's
            where none are observed.
    """

    core: InventoryNet

    def __init__(
        self,
        observation_space: gym.Space,
        action_space: gym.Space,
        lr_schedule: Schedule,
        core: InventoryNet,
        normalize: bool = True,
    ) -> None:
        super().__init__(observation_space, action_space, lr_schedule, core)
        self.normalize = normalize
        self._task: Any = None
        through_nodes, through_arcs = core.flows()
        self.register("through_nodes", torch.tensor(through_nodes).float())
        self.register("through_arcs", torch.tensor(through_arcs).float())
        self.register("mean_demand", torch.tensor(core.demand.mean).float()[None])
        self.register("mean_orders", self.mean_demand @ self.through_arcs)

    def register(self, name: str, values: torch.Tensor) -> None:
        """A buffer that belongs to the task, not to the weights: it is not saved with them."""
        self.register_buffer(name, values, persistent=False)

    @property
    def task(self) -> Any:
        """The core (`InventoryNet`) with its arrays as tensors, on the policy's device."""
        if self._task is None or self._task.holding.device != self.mean_demand.device:
            self._task = self.core.torch(self.mean_demand.device)
        return self._task

    def demand_level(self, observation: torch.Tensor) -> torch.Tensor:
        """Demand per period and store, [n or 1, K]: the mean of the past demands where observed."""
        if not self.core.past:
            return self.mean_demand
        past = self.task.split_observation(observation)["past_demands"]
        # The floor keeps the level of a product that did not sell at all away from zero.
        return past.mean(dim=1).clamp(min=0) + 0.05 * self.mean_demand

    def scale(self, observation: torch.Tensor) -> Scale:
        """The demand level, spread over locations and arcs."""
        level = self.demand_level(observation)
        return Scale(level @ self.through_nodes, level @ self.through_arcs)

    def stock(self, observation: torch.Tensor) -> torch.Tensor:
        """What each location has on hand, backlog counted 0, [n, N]."""
        return observation[:, self.task.on_hand_index].clamp(min=0)

    def in_scale(self, observation: torch.Tensor, scale: Scale) -> torch.Tensor:
        """The observation with stocks and demands divided by the demand level, [n, D]."""
        parts, n, task = self.task.split_observation(observation), len(observation), self.task
        inventory = (parts["inventory"] / scale.nodes[..., None]).reshape(n, -1)[:, task.slot_index]
        found = [inventory]
        if "past_demands" in parts:
            stores = scale.nodes[:, None, task.suppliers :]
            found.append((parts["past_demands"] / stores).reshape(n, -1))
        found += [parts[name] for name in ("season", "calendar") if name in parts]
        return torch.cat(found, dim=1)

    @staticmethod
    def season_size(core: InventoryNet) -> int:
        """Number of features that tell the time of year."""
        return 2 * ("season" in core.observe) + core.calendar.shape[1]

    @staticmethod
    def static_features(core: InventoryNet) -> torch.Tensor:
        """Features of a location that do not change: holding, underage, kind, demand mean and std,
        [N, 6]."""
        network, demand = core.network, core.demand
        features = np.zeros((network.locations, 6))
        features[:, 0] = network.holding
        stores = slice(core.suppliers, None)
        features[stores, 1], features[stores, 2] = network.underage, 1.0
        features[:, 3] = network.holds_stock
        if "past_demands" not in core.observe:
            features[stores, 4], features[stores, 5] = demand.mean, demand.std
        return torch.as_tensor(features).float()

    def node_features(
        self, observation: torch.Tensor, scale: Scale | None, static: torch.Tensor, slots: int
    ) -> torch.Tensor:
        """Features of every location, zero padded: pipeline, static features, past demands, time of
        year, [n, N, slots + 6 + past + season]."""
        parts = self.task.split_observation(observation)
        inventory = parts["inventory"]
        if scale is not None:
            inventory = inventory / scale.nodes[..., None]
        n, locations, own = inventory.shape
        found = [torch.nn.functional.pad(inventory, (0, slots - own)), static.expand(n, -1, -1)]
        if "past_demands" in parts:
            past, suppliers = parts["past_demands"].transpose(1, 2), self.core.suppliers
            if scale is not None:
                past = past / scale.nodes[:, suppliers:, None]
            found.append(torch.nn.functional.pad(past, (0, 0, suppliers, 0)))
        found += [
            parts[name][:, None].expand(-1, locations, -1)
            for name in ("season", "calendar")
            if name in parts
        ]
        return torch.cat(found, dim=-1)

    def outside(self, action: torch.Tensor) -> torch.Tensor:
        """Orders as actions of the environment."""
        return self.task.encode(action)


class InventoryAlgorithm(SimulatorGradientAlgorithm):
    """`SimulatorGradientAlgorithm` for policies whose actions are orders in units."""

    def simulator(self, core: Any) -> Any:
        """Face 3 of the environment that takes orders in units."""
        return core.with_orders().torch(self.device)


def longest_chain(source: np.ndarray, target: np.ndarray) -> int:
    """Arcs on the longest path between two locations, 0 where there is none.

    Args:
        source, target: locations in topological order, int [A], arcs sorted by source; source -1:
            outside.
    """
    depth = np.zeros(target.max() + 1, dtype=np.int64)
    for supplier, customer in zip(source, target, strict=True):
        if supplier >= 0:
            depth[customer] = max(depth[customer], depth[supplier] + 1)
    return int(depth.max())
