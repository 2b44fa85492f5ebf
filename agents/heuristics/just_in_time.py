"""Just in time: order with the recorded future in hand, so that every unit arrives when it is
needed.

    order of store k at time t = d_k[t + l_k],   of a supplier = what its customers order at t + its
    own lead

Every location buys where a unit is cheapest all the way from outside (then where it is fastest).
After the time that goods need to come from outside nothing is short and nothing is held. It knows
the future and is therefore no policy: its cost bounds that of every policy from below where fixed
costs are 0 and a sale is worth more than its purchase.
"""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.type_aliases import Schedule

from ...envs.base import ArrayCore, Arrays, to_torch
from ...envs.inventory.inventory_net import InventoryNet
from ...envs.inventory.network import SupplyNetwork
from ..base.declare import Example
from ..base.inventory import InventoryPolicy
from .attached import attached_faces, check_shown, joined
from .order_up_to import FixedHeuristic


def cheapest_arcs(network: SupplyNetwork) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The arc over which each location buys, and the lead from outside to it, both int [N].

    The arc is the last one of the path from outside with the lowest sum of unit costs; of equal
    ones, of the path with the shortest lead.
    """
    best = [(np.inf, 0, -1)] * network.locations
    # Arcs are sorted by source and locations topologically: what reaches a source is known before
    # it is used.
    for arc in range(network.arcs):
        source, target = int(network.source[arc]), int(network.target[arc])
        cost, lead, _ = (0.0, 0, -1) if source < 0 else best[source]
        found = (cost + float(network.unit_cost[arc]), lead + int(network.lead[arc]), arc)
        best[target] = min(best[target], found)
    _, leads, arcs = zip(*best, strict=True)
    return np.array(arcs, dtype=np.int64), np.array(leads, dtype=np.int64)


def net_requirements(
    demand: torch.Tensor,
    stock: torch.Tensor,
    first: NDArray[np.int64],
    largest: NDArray[np.float64],
    lost_sales: bool,
) -> torch.Tensor:
    """Units that must reach each store in each period, [n, T, K].

    Args:
        demand: [n, T, K].
        stock: first pipelines, [n, K, slots].
        first: int [K], the first period that goods from outside can reach; nothing is required
            before it.
        largest: [K], most that is delivered at once to work off a backlog.
        lost_sales: whether what was short before that is lost, or still has to come.
    """
    needs = torch.zeros_like(demand)
    on_hand = torch.zeros_like(demand[:, 0])
    reached = torch.as_tensor(first, device=demand.device)
    most = torch.as_tensor(largest, device=demand.device).to(demand.dtype)
    for t in range(demand.shape[1]):
        if t < stock.shape[2]:
            on_hand = on_hand + stock[:, :, t]
        short = torch.minimum((demand[:, t] - on_hand).clamp(min=0), demand[:, t].maximum(most))
        needs[:, t] = torch.where(t >= reached, short, 0.0)
        on_hand = on_hand + needs[:, t] - demand[:, t]
        if lost_sales:
            on_hand = on_hand.clamp(min=0)
    return needs


def just_in_time_orders(core: InventoryNet, tape: Arrays) -> torch.Tensor:
    """Orders of every period of recorded episodes, units [n, T, A]; deliveries after the end are
    left out.

    Args:
        core: the environment; only its network and its rules are used.
        tape: batched tape, tensors.
    """
    net = core.network
    demand = tape["demand"][:, core.past :]
    arcs, first = cheapest_arcs(net)
    # The caps of a supplier's arcs are never below the sum of those of the stores that it serves.
    caps = np.asarray(torch.as_tensor(core.order_cap).cpu())
    orders = demand.new_zeros(*demand.shape[:2], net.arcs)
    needs = demand.new_zeros(*demand.shape[:2], net.locations)
    needs[..., core.suppliers :] = net_requirements(
        demand,
        tape["stock"],
        first[core.suppliers :],
        caps[arcs[core.suppliers :]],
        core.lost_sales,
    )
    for node in reversed(range(net.locations)):  # customers come after their suppliers
        arc = int(arcs[node])
        lead, source = int(net.lead[arc]), int(net.source[arc])
        orders[:, : max(demand.shape[1] - lead, 0), arc] = needs[:, lead:, node]
        if source >= 0:
            needs[..., source] += orders[..., arc]
    return orders


class JustInTimePolicy(InventoryPolicy):
    """Looks its orders up in the plan of the recorded episodes."""

    def __init__(
        self,
        observation_space: gym.Space,
        action_space: gym.Space,
        lr_schedule: Schedule,
        core: InventoryNet,
    ) -> None:
        super().__init__(observation_space, action_space, lr_schedule, core)
        self._planned: Arrays | None = None
        self._plan = torch.zeros(0)

    def start(self, core: InventoryNet) -> None:
        """There is nothing to set."""

    def hindsight(self, core: ArrayCore, state: Arrays, tape: Arrays) -> torch.Tensor:
        """Orders [n, A] in units at the current state of the episodes of `tape`."""
        assert isinstance(core, InventoryNet)
        if self._planned is not tape:
            self._planned, self._plan = tape, just_in_time_orders(core, tape)
        t = state["t"]
        last = self._plan.shape[1] - 1
        orders = self._plan[torch.arange(len(t), device=t.device), t.clamp(max=last)]
        return torch.where((t <= last)[:, None], orders, 0.0)

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        """Refused: an observation does not tell the future."""
        raise ValueError(
            "just-in-time orders need the recorded future: use JustInTime.predict with the "
            "environment attached, or evaluate_tapes"
        )


class JustInTime(FixedHeuristic):
    """The hindsight oracle for `InventoryNet-v0`: a bound, not a policy.

    `predict` reads the recorded demand of the attached environment (`set_env`), which must be in
    the state that the observation shows.

    Args:
        policy: "HeuristicPolicy".
        env, evaluate_every, ...: as in `Heuristic`.
    """

    policy_aliases: ClassVar[dict[str, Any]] = {"HeuristicPolicy": JustInTimePolicy}
    oracle = True
    example = Example(
        env="InventoryNet-v0",
        env_kwargs={"setting": "one_warehouse_lost", "stores": 3},
        policy="HeuristicPolicy",
        kwargs={"scenarios": 64, "batch_size": 32, "validation_scenarios": 32},
        steps=4_000,
    )
    _read: tuple[list[Any], Arrays] | None = None  # tapes of the faces as they were read last

    def predict(
        self,
        observation: Any,
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """Action for the current state of the attached environment.

        Raises:
            ValueError: no environment is attached, it has not been reset, or it is not in the state
                that `observation` shows.
        """
        faces = attached_faces(
            self.env,
            InventoryNet,
            "just-in-time orders are read from the recorded demand of",
            "an InventoryNet-v0",
        )
        core, now = faces[0].core, joined(faces, "state")
        given = np.asarray(observation)
        single = given.ndim == len(self.observation_space.shape or ())
        check_shown(core, now, given[None] if single else given)
        tapes = [face.tape for face in faces]
        if self._read is None or any(a is not b for a, b in zip(self._read[0], tapes, strict=True)):
            self._read = tapes, to_torch(joined(faces, "tape"), self.device)
        with torch.no_grad():
            now_on_device = {"t": torch.as_tensor(now["t"], device=self.device)}
            orders = self.policy.hindsight(core, now_on_device, self._read[1])
            action = self.policy.outside(orders).cpu().numpy()
        space = self.action_space
        assert isinstance(space, gym.spaces.Box)
        action = np.clip(action, space.low, space.high)  # rounding to float32
        return action[0] if single else action, state
