"""(s, S): order up to S as soon as the inventory position is s or below, because every order costs
F.

For one store with backlog and independent discrete demand with probabilities q, a renewal-reward
argument gives the mean cost per period in closed form. With m_j the expected number of periods at
the position S - j between two orders,

    m_0 = 1 / (1 - q_0),   m_j = m_0 sum_{i=1..j} q_i m_{j-i},
    cost(s, S) = (F + sum_{j<S-s} m_j G(S - j)) / sum_{j<S-s} m_j,
    G(y) = E[h (y - D)^+ + p (D - y)^+],   D = demand over lead + 1 periods,

and the search of Zheng and Federgruen (1991) finds the best pair. With lost sales the pair is an
approximation.
"""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from stable_baselines3.common.type_aliases import Schedule

from ...envs.inventory.demand import Discrete, Poisson
from ...envs.inventory.inventory_net import InventoryNet
from ..base.declare import Example
from .order_up_to import (
    FixedHeuristic,
    OrderUpToPolicy,
    critical_fractile,
    follows_sales,
    relative_quantiles,
)

Floats = NDArray[np.float64]

BINS_PER_PERIOD = (
    20  # resolution of demand that is not whole numbers: bins per period of mean demand
)
DEMAND_LEVELS = 9  # of a trace, at which the pair is computed; it is interpolated between them
TAIL = 1e-10


class RenewalCost:
    """cost(s, S) of one store, for many pairs.

    Args:
        pmf: probabilities of a demand of 0, 1, 2, ... units in a period.
        lead: periods from order to arrival, >= 1.
        fixed_cost: F >= 0, per order.
        holding, underage: cost per unit left, and per unit short, at the end of a period; > 0.

    Raises:
        ValueError: an argument is out of range, or demand is always 0.
    """

    def __init__(
        self, pmf: ArrayLike, lead: int, fixed_cost: float, holding: float, underage: float
    ) -> None:
        found = np.asarray(pmf, dtype=np.float64)
        if found.ndim != 1 or (found < 0).any() or abs(found.sum() - 1) > 1e-6:
            raise ValueError(f"pmf of shape {found.shape} must hold probabilities with sum 1")
        if found[0] >= 1:
            raise ValueError("demand is always 0, so there is no time between two orders")
        if not (underage > 0 and holding > 0):
            raise ValueError(f"underage={underage} and holding={holding} must both be above 0")
        if fixed_cost < 0 or lead < 1:
            raise ValueError(f"fixed_cost={fixed_cost} must be at least 0, lead={lead} at least 1")
        self.pmf, self.fixed_cost = found / found.sum(), float(fixed_cost)
        self.holding, self.underage = float(holding), float(underage)
        reach = self.pmf
        for _ in range(lead):
            reach = np.convolve(reach, self.pmf)
        self.cdf = np.cumsum(reach)
        self.mean = float(reach @ np.arange(len(reach)))
        self._left = np.concatenate([[0.0], np.cumsum(self.cdf)])  # E[(y - D)^+] for y = 0, 1, ...
        self._visits = np.array([1 / (1 - self.pmf[0])])

    def one_period(self, y: ArrayLike) -> Floats:
        """G(y), for whole numbers y of any sign."""
        y = np.asarray(y)
        last = len(self._left) - 1
        left = self._left[np.clip(y, 0, last)] + np.maximum(y - last, 0)
        return np.asarray(self.holding * left + self.underage * (left - (y - self.mean)))

    def visits(self, count: int) -> Floats:
        """m_0 .. m_{count-1}."""
        known = len(self._visits)
        if count > known:
            grown = np.concatenate([self._visits, np.zeros(max(count, 2 * known) - known)])
            for j in range(known, len(grown)):
                i = np.arange(1, min(j, len(self.pmf) - 1) + 1)
                grown[j] = grown[0] * (self.pmf[i] @ grown[j - i])
            self._visits = grown
        return self._visits[:count]

    def cost(self, s: int, S: int) -> float:
        """cost(s, S), s < S."""
        if s >= S:
            raise ValueError(f"s={s} must be below S={S}")
        visits = self.visits(S - s)
        held = visits @ self.one_period(S - np.arange(S - s))
        return float((self.fixed_cost + held) / visits.sum())

    def best(self) -> tuple[int, int]:
        """The pair (s, S) with the lowest cost (Zheng and Federgruen, 1991)."""
        fractile = self.underage / (self.underage + self.holding)
        lowest = int(np.argmax(self.cdf >= fractile - 1e-12))  # where G is smallest
        s, best = lowest - 1, lowest
        while self.cost(s, best) > self.one_period(s):
            s -= 1
        cost, S = self.cost(s, best), lowest + 1
        while self.one_period(S) <= cost:
            if self.cost(s, S) < cost:
                best = S
                while s + 1 < best and self.cost(s, best) <= self.one_period(s + 1):
                    s += 1
                cost = self.cost(s, best)
            S += 1
        return s, best


def ss_cost(
    s: int,
    S: int,
    pmf: ArrayLike,
    lead: int,
    fixed_cost: float,
    holding: float,
    underage: float,
) -> float:
    """Mean cost per period of the pair (s, S), s < S; arguments and errors as in `RenewalCost`."""
    return RenewalCost(pmf, lead, fixed_cost, holding, underage).cost(s, S)


def optimal_ss(
    pmf: ArrayLike, lead: int, fixed_cost: float, holding: float, underage: float
) -> tuple[int, int, float]:
    """Best s and S and their cost; arguments and errors as in `RenewalCost`."""
    costs = RenewalCost(pmf, lead, fixed_cost, holding, underage)
    s, S = costs.best()
    return s, S, costs.cost(s, S)


def demand_pmf(core: InventoryNet, store: int) -> tuple[Floats, float]:
    """Probabilities of a demand of 0, 1, 2, ... steps in a period, and the step in periods of
    demand.

    A step is one unit where demand is in whole numbers and those are few, and else 1/20 of the mean
    demand; probabilities then come from the quantiles of the law, or of the trace.
    """
    demand: Any = core.demand
    mean = float(demand.mean[store])
    if isinstance(demand, Discrete):
        steps = np.rint(demand.values).astype(int)
        if np.allclose(steps, demand.values) and steps.max() <= 100 * BINS_PER_PERIOD:
            masses: Floats = np.bincount(steps, demand.probabilities).astype(np.float64)
            return masses, 1 / mean
    if isinstance(demand, Poisson) and mean <= BINS_PER_PERIOD:
        from scipy.stats import poisson

        return poisson.pmf(np.arange(int(poisson.isf(TAIL, mean)) + 2), mean), 1 / mean
    levels = (np.arange(2000) + 0.5) / 2000
    if follows_sales(core):
        relative = relative_quantiles(core, levels, 1)[store]
    else:
        relative = np.array([demand.quantile(float(level), 1)[store] for level in levels]) / mean
    steps = np.rint(np.maximum(relative, 0) * BINS_PER_PERIOD).astype(int)
    pmf: Floats = np.bincount(steps) / len(steps)
    return pmf, 1 / BINS_PER_PERIOD


class SsPolicyTable(OrderUpToPolicy):
    """s and S of every store, in periods of demand, at a few demand levels between which they are
    interpolated.

    A fixed cost weighs less for a product that sells more, so the pair in periods of demand depends
    on the demand level; for a law there is one level only.
    """

    points: torch.Tensor
    pairs: torch.Tensor

    def __init__(
        self,
        observation_space: gym.Space,
        action_space: gym.Space,
        lr_schedule: Schedule,
        core: InventoryNet,
    ) -> None:
        super().__init__(observation_space, action_space, lr_schedule, core)
        if core.suppliers:
            raise ValueError(
                f"an (s, S) policy needs stores that all buy outside; this network has "
                f"{core.suppliers} locations that supply others"
            )
        count = DEMAND_LEVELS if core.past else 1
        self.register_buffer("points", torch.zeros(core.stores, count))
        self.register_buffer("pairs", torch.zeros(core.stores, count, 2))
        self.requires_grad_(False)

    def start(self, core: InventoryNet) -> None:
        """Compute the best pairs."""
        critical_fractile(core)
        for store in range(core.stores):
            pmf, step = demand_pmf(core, store)
            points = self._demand_levels(core, store)
            for index, level in enumerate(points):
                s, S, _ = optimal_ss(
                    pmf,
                    int(core.network.lead[store]),
                    float(core.network.fixed_cost[store]) / (step * level),
                    float(core.network.holding[store]),
                    float(core.network.underage[store]),
                )
                self.pairs[store, index] = torch.tensor([s * step, S * step])
            self.points[store, : len(points)] = torch.as_tensor(points).float()

    def _demand_levels(self, core: InventoryNet, store: int) -> Floats:
        demand: Any = core.demand
        if not self.recorded:
            return demand.mean[[store]]
        start, stop = demand.window("train")
        means = demand.values[:, start:stop, store].mean(axis=1) + 1e-6
        return np.geomspace(means.min(), max(means.max(), 1.001 * means.min()), DEMAND_LEVELS)

    def wanted(self, observation: torch.Tensor) -> torch.Tensor:
        """S - position where the position is at most s, else 0, [n, K]."""
        level = self.demand_level(observation)
        pairs = self._interpolated(level) if self.recorded else self.pairs[None, :, 0]
        units = pairs * level[..., None]
        position = self.position(observation)
        # A position that rounding has put above s must still count as s.
        low = position <= units[..., 0] + 1e-4 * units[..., 1].abs()
        return torch.where(low, (units[..., 1] - position).clamp(min=0), 0.0)

    def _interpolated(self, level: torch.Tensor) -> torch.Tensor:
        """Pairs [n, K, 2] at demand levels [n, K]; beyond the first and last point they stay."""
        points, count = self.points.log(), self.points.shape[1]
        wanted = level.clamp(min=1e-9).log().T.contiguous()  # [K, n], as searchsorted wants it
        upper = torch.searchsorted(points.contiguous(), wanted).clamp(1, count - 1)
        below, above = points.gather(1, upper - 1), points.gather(1, upper)
        weight = ((wanted - below) / (above - below)).clamp(0, 1)[..., None]
        index = upper[..., None].expand(-1, -1, 2)
        found = (
            self.pairs.gather(1, index - 1) * (1 - weight) + self.pairs.gather(1, index) * weight
        )
        return found.transpose(0, 1)


class SsPolicy(FixedHeuristic):
    """The (s, S) policy for `InventoryNet-v0` without suppliers: every store has its best pair.

    Args:
        policy: "HeuristicPolicy".
        env, evaluate_every, ...: as in `Heuristic`.
    """

    policy_aliases: ClassVar[dict[str, Any]] = {"HeuristicPolicy": SsPolicyTable}
    example = Example(
        env="InventoryNet-v0",
        env_kwargs={"setting": "one_store_lost"},
        policy="HeuristicPolicy",
        kwargs={"scenarios": 64, "batch_size": 32, "validation_scenarios": 32},
        steps=4_000,
    )
