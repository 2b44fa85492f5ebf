"""What the ordering rules share: positions, sourcing, the demand level they measure in, and their
learning.

A rule says how much every location wants. Wishes become feasible orders in one way for all of them:
a location splits what it wants among its suppliers in fixed shares, and a supplier that is asked
for more than it has on hand rations in proportion to the orders (`InventoryNet.feasible`). The
shares are a softmax per location, equal at first and tuned on the cost together with the rule's own
parameters; they do not depend on the state.

Rules measure in periods of demand: a level of 6 means six times the demand per period that flows
through the location. For a demand law that is the law's mean. For a recorded trace it is the mean
of the observed past demands, so that one rule serves products that sell 1 unit a week and products
that sell 500.
"""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.type_aliases import Schedule
from torch import nn

from ...envs.base import ArrayCore, Arrays, take
from ...envs.inventory.inventory_net import InventoryNet
from ..base.inventory import InventoryAlgorithm, InventoryPolicy, longest_chain
from ..base.unrolling import unroll

Floats = NDArray[np.float64]

# Of a store's mean demand: the lowest demand level of a product, also of one that has not sold at
# all.
LOWEST_LEVEL = 0.005


def inverse_softplus(y: torch.Tensor) -> torch.Tensor:
    """x with softplus(x) = y, for y > 0."""
    return y + torch.log(-torch.expm1(-y))


def critical_fractile(core: InventoryNet) -> Floats:
    """p / (p + h) of every store, [K].

    Raises:
        ValueError: a store has no underage or no holding cost, so that its best stock is 0 or
            unbounded.
    """
    underage, holding = core.network.underage, core.network.holding[core.suppliers :]
    for name, costs in (("underage", underage), ("holding", holding)):
        if (costs <= 0).any():
            store = core.network.names[core.suppliers + int(np.argmax(costs <= 0))]
            raise ValueError(
                f"{name} cost of {store!r} is {costs.min():g}, "
                "a critical fractile needs one above 0"
            )
    return np.asarray(underage / (underage + holding))


def follows_sales(core: InventoryNet) -> bool:
    """Whether the demand level is that of the observed past demands: a trace whose past is
    observed."""
    return bool(core.demand.series) and core.past > 0


def relative_quantiles(core: InventoryNet, levels: Floats, periods: int) -> Floats:
    """Quantiles of the demand over `periods`, in units of the demand level, [K, len(levels)].

    Of a law they are its own. Of a trace whose past demands are observed: of all stretches of train
    weeks, each divided by the demand level before it.
    """
    demand: Any = core.demand
    if not follows_sales(core):
        found = np.stack([demand.quantile(float(level), periods) for level in levels], axis=1)
        return np.asarray(found / np.maximum(demand.mean, 1e-9)[:, None])
    start, stop = demand.window("train")
    train = demand.values[:, start:stop]
    sums = np.cumsum(np.pad(train, ((0, 0), (1, 0), (0, 0))), axis=1)
    past, count = core.past, train.shape[1] - core.past - periods + 1
    if count < 1:
        raise ValueError(
            f"{demand.origin}: {stop - start} train weeks are too few for {past} past weeks and a "
            f"reach of {periods}"
        )
    before = (sums[:, past : past + count] - sums[:, :count]) / past
    after = sums[:, past + periods : past + periods + count] - sums[:, past : past + count]
    ratio = after / np.maximum(before + LOWEST_LEVEL * demand.mean, 1e-9)
    return np.quantile(ratio.reshape(-1, core.stores), levels, axis=0).T


class OrderUpToPolicy(InventoryPolicy):
    """Base of the ordering rules. A subclass writes `wanted` and, if it tunes something, its
    parameters.

    Args:
        observation_space, action_space, lr_schedule, core: as in `SimulatorPolicy`.
    """

    recorded: torch.Tensor

    def __init__(
        self,
        observation_space: gym.Space,
        action_space: gym.Space,
        lr_schedule: Schedule,
        core: InventoryNet,
    ) -> None:
        super().__init__(observation_space, action_space, lr_schedule, core)
        net = core.network
        self.register("arc_source", torch.as_tensor(net.source[core.outside_arcs :].copy()))
        self.register("arc_target", torch.as_tensor(net.target.copy()))
        # Part of the state of the policy: a checkpoint does not hold the trace itself.
        self.register_buffer("recorded", torch.tensor(follows_sales(core)))
        self.share_logits = nn.Parameter(torch.zeros(net.arcs))
        self.depth = longest_chain(net.source, net.target)

    def start(self, core: InventoryNet) -> None:
        """Set the parameters from the demand of the task, before anything is tuned."""

    def wanted(self, observation: torch.Tensor) -> torch.Tensor:
        """What every location would order if its suppliers had it, units [n, N]."""
        raise NotImplementedError

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        """Observations [n, D] -> feasible orders [n, A] in units."""
        orders = self.wanted(observation)[:, self.arc_target] * self.shares()
        return self.task.feasible(orders, observation[:, self.task.on_hand_index])

    def shares(self) -> torch.Tensor:
        """Part of a location's order that goes over each arc into it (sum 1 per location), [A]."""
        weights = torch.exp(self.share_logits)
        total = weights.new_zeros(self.core.network.locations).index_add(
            0, self.arc_target, weights
        )
        return weights / total[self.arc_target]

    def demand_level(self, observation: torch.Tensor) -> torch.Tensor:
        """Demand per period and store: of a trace the mean of the past demands, [n or 1, K]."""
        if not self.recorded:
            return self.mean_demand
        # Sales do not depend on the orders: no gradient has to go through the level.
        past = self.task.split_observation(observation.detach())["past_demands"]
        return past.mean(dim=1).clamp(min=0) + LOWEST_LEVEL * self.mean_demand

    def position(self, observation: torch.Tensor) -> torch.Tensor:
        """Inventory position: on hand (backlog negative) plus pipeline, [n, N]."""
        return self.task.split_observation(observation)["inventory"].sum(dim=-1)

    def collected(self, values: torch.Tensor) -> torch.Tensor:
        """Own value plus that of all locations below, each split among its suppliers by the shares.

        Args:
            values: one per location, [n, N].
        """
        if not len(self.arc_source):
            return values
        outside = self.core.outside_arcs
        shares, target = self.shares()[outside:], self.arc_target[outside:]
        total = values
        for _ in range(self.depth):
            total = values.index_add(1, self.arc_source, total[:, target] * shares)
        return total


def lead_into(core: InventoryNet) -> NDArray[np.int64]:
    """Longest lead over which each location buys, int [N]."""
    leads = np.zeros(core.network.locations, dtype=np.int64)
    np.maximum.at(leads, core.network.target, core.network.lead)
    return leads


def newsvendor_levels(core: InventoryNet) -> torch.Tensor:
    """Levels from which tuning starts, in periods of demand [N].

    Stores: the quantile p / (p + h) of the demand over lead + 1 periods, the optimum of a
    store alone.
    Suppliers: lead + 2 periods of the demand that flows through them. With lead + 1 they could just
    pass on the mean demand, and would never work off a backlog.
    """
    leads, fractile = lead_into(core), critical_fractile(core)
    levels = leads + 2.0
    stores = leads[core.suppliers :]
    for lead in np.unique(stores):
        quantiles = relative_quantiles(core, np.unique(fractile), int(lead) + 1)
        own = quantiles[np.arange(core.stores), np.searchsorted(np.unique(fractile), fractile)]
        levels[core.suppliers :] = np.where(stores == lead, own, levels[core.suppliers :])
    return torch.as_tensor(levels).float()


class Heuristic(InventoryAlgorithm):
    """An ordering rule whose parameters are tuned by gradients through the simulator.

    Before `learn`, and after `learn(0)`, the rule stands at the start that inventory theory gives
    it.
    """

    policy: Any
    paper: ClassVar[None] = None
    claim: ClassVar[None] = None

    def __init__(
        self,
        policy: Any,
        env: Any,
        *,
        learning_rate: float | Schedule = 0.1,
        evaluate_every: int = 5,
        **common: Any,
    ) -> None:
        super().__init__(
            policy, env, learning_rate=learning_rate, evaluate_every=evaluate_every, **common
        )

    def _setup_model(self) -> None:
        super()._setup_model()
        if (
            self.env is not None
        ):  # an agent without one is being loaded, and gets its parameters next
            self.policy.start(self.core)

    def loss(self, core: ArrayCore, tape: Arrays) -> torch.Tensor:
        """Minus the mean reward per step after the warm-up: the cost that a rule is judged by."""
        _, scored = unroll(core, self.policy, tape, core.horizon or 0, core.ignore, self.compiled)
        return -scored.mean() / core.reward_scale


class FixedHeuristic(Heuristic):
    """A rule with nothing to tune: `learn` simulates it, so that callbacks and curves work as for
    the others."""

    def update(self) -> dict[str, float]:
        """Simulate a minibatch of recorded episodes."""
        batch = self._next_batch()
        with torch.no_grad():
            rewards, _ = unroll(
                self._training, self.policy, take(self._tape, batch), self.core.horizon or 0
            )
        self.num_timesteps += len(batch) * (self.core.horizon or 0)
        return {"train/loss": -float(rewards.mean()) / self.core.reward_scale}

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy"], []
