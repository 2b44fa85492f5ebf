"""`InventoryNet-v0`: orders in a supply network under demand that does not depend on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from array_api_compat import array_namespace

from ..base import ArrayCore, Arrays, Groups, check_in_space
from ..faces import ArrayEnv, ArrayVectorEnv
from .arguments import resolve
from .demand import DemandSource
from .description import arguments_of, describe
from .flows import flows, order_levels
from .network import SupplyNetwork

if TYPE_CHECKING:
    import networkx as nx

OBSERVABLE = ("inventory", "past_demands", "season", "calendar")
OBJECTIVES = ("cost", "profit")
ACTIONS = ("normalized", "orders")
LARGEST = 1e9  # bound of the observation space, in units of stock
TOLERANCE = 1e-5  # relative: how far rounding may carry an order above the stock it is taken from


class InventoryNet(ArrayCore):
    """Order stock for every location of a supply network, period by period, before demand is known.

    ## Description
    K stores face random demand. They are supplied by warehouses, which are supplied by echelons or
    by an unlimited outside supply; any acyclic network is allowed. Goods ordered on an arc arrive
    after its lead time. Unmet demand is lost or backlogged. The aim is the lowest mean cost per
    period.

    ## Observation
    `Box(float32)`, the parts named in `observe`, flattened and joined in this order:

    | part | length | meaning |
    |---|---|---|
    | inventory | sum of slots | pipelines: slot 0 on hand (< 0: backlog), slot l due in l periods |
    | past_demands | past x K | demands of the last `past` periods, oldest first |
    | season | 2 | sine and cosine of the period's phase in a cycle of `season` periods |
    | calendar | C | known-in-advance features of the period, from the demand trace |

    ## Action
    One order for each of the A supply arcs, outside supply first, then by supplier and customer.

    - `action="normalized"`: `Box(-1, 1, (A,))`. -1 orders nothing, 0 the mean demand that the arc
      serves, 1 the cap (`reach + 4` periods of that demand; out of a location that holds no stock
      at least what can reach it), linear in between. If the orders on a supplier exceed its stock
      they are scaled down in proportion (a location that holds no stock ships all of it, in these
      proportions).
    - `action="orders"`: `Box(0, cap, (A,))` in units. Orders above the supplier's stock are an
      error.

    ## Dynamics
    With I the inventory, on hand I[0], in each period, in this order: orders a are placed; demand d
    arrives and is met from what is on hand only, y = I[0] - d at a store and y = I[0] - shipped at
    a supplier; the cost is counted; with lost sales y = max(y, 0) at stores; then

        I'[0] = y + I[1],   I'[l] = I[l+1],   I'[lead - 1] += a

    ## Reward
    Minus the cost of the period, summed over locations and arcs:

        stores     underage max(-y, 0) + holding max(y, 0)
                   objective="profit":  -underage min(I[0], d) + holding max(y, 0), underage being
                   the price
        suppliers  holding max(y, 0)
        arcs       unit_cost a + fixed_cost 1[a > 0]

    ## Episode end
    Truncated after `periods` periods; never terminated.

    ## Arguments
    - `setting`: a preset of the source's experiments by name (see `envs/inventory/settings.py`):
      one_store_backlogged, one_store_lost, serial_system, transshipment, one_warehouse_lost,
      many_warehouses_lost, favorita. All other arguments override it.
    - `topology`: one_store | serial | transshipment | one_warehouse | many_warehouses.
    - `network`: instead of a topology: a `networkx.DiGraph`, the path of a YAML file, or a
      `SupplyNetwork`.
    - `stores`, `warehouses`: numbers of locations, >= 1.
    - `lost_sales`: whether unmet demand is lost (True) or backlogged (False).
    - `lead`, `warehouse_lead`: lead times in periods, integers >= 1; a number, one per store, or
      ("uniform", low, high).
    - `underage`, `holding`: cost per unit and period, finite, >= 0; same forms.
    - `demand`: a law, a trace (array, frame, .npz, .csv), see `envs/inventory/demand.py`; with
      `on_negative`, `split`, `calendar`, `calendar_columns` for traces.
    - `periods`: length T of an episode; `ignore`: warm-up periods that reports leave out, < T.
    - `objective`: "cost" or "profit" (needs lost sales).
    - `initial_stock`: (low, high): every store slot starts at mean demand x U(low, high); suppliers
      at 0.
    - `observe`, `past`, `season`, `action`: as above. `instance`: seed of what belongs to the task
      (random costs, lead times, demand parameters), drawn once at construction.
    - `reset(options=...)`: `series` chooses the series of a demand trace.

    ## Data files
    None; demand traces are the user's.

    ## Sources
    Alvo et al., Deep Reinforcement Learning for Inventory Networks, arXiv 2306.11246 (dynamics,
    settings).

    ## Version
    v0.
    """

    arrays = (
        "holding",
        "underage",
        "holds_stock",
        "unit_cost",
        "fixed_cost",
        "mean_order",
        "order_cap",
        "inner_source",
        "slot_index",
        "slot_gather",
        "on_hand_index",
        "calendar",
        "equal_share",
        "_shipments",
        "_arrivals",
    )
    network: SupplyNetwork
    demand: DemandSource

    def __init__(
        self,
        setting: str | None = None,
        *,
        topology: str | None = None,
        network: SupplyNetwork | nx.DiGraph | str | None = None,
        periods: int | None = None,
        ignore: int | None = None,
        objective: str | None = None,
        lost_sales: bool | None = None,
        initial_stock: tuple[float, float] | None = None,
        observe: Sequence[str] | None = None,
        past: int = 16,
        season: float = 52.0,
        action: str = "normalized",
        instance: int = 0,
        **arguments: Any,
    ) -> None:
        self.given = {
            name: value
            for name, value in locals().items()
            if name not in ("self", "arguments", "__class__")
        } | arguments
        task = resolve(setting, topology, network, np.random.default_rng(instance), **arguments)
        self.network, self.demand = task.network, task.demand
        self.lost_sales = task.lost_sales if lost_sales is None else bool(lost_sales)
        self.objective = one_of("objective", objective or task.objective, OBJECTIVES)
        self.initial_stock = task.initial_stock if initial_stock is None else tuple(initial_stock)
        self.observe = tuple(task.observe if observe is None else observe)
        self.action = one_of("action", action, ACTIONS)
        self.past = past if "past_demands" in self.observe else 0
        self.season = float(season)
        self.periods, warm_up = task.horizon(self.past)
        self.periods = self.periods if periods is None else periods
        self.horizon = self.periods
        self.ignore = min(warm_up, self.periods - 1) if ignore is None else ignore
        self._check_arguments()

        net = self.network
        self.stores, self.suppliers, self.slots = (
            net.stores,
            net.locations - net.stores,
            int(net.slots.max()),
        )
        self.reward_scale = float(net.stores)
        self.holding, self.underage, self.holds_stock = net.holding, net.underage, net.holds_stock
        self.unit_cost, self.fixed_cost = net.unit_cost, net.fixed_cost
        self.has_unit_cost = bool(net.unit_cost.any())
        self.has_fixed_cost = bool(net.fixed_cost.any())
        self.all_hold_stock = bool(net.holds_stock.all())
        # Arcs are sorted by source, so those from outside (source -1) come first.
        self.outside_arcs = int((net.source < 0).sum())
        self.inner_source = net.source[self.outside_arcs :]
        arrival_slot = net.target * self.slots + net.lead - 1
        self._shipments = Groups(self.inner_source, net.locations)
        on_hand_slot = np.arange(net.locations) * self.slots
        self._arrivals = Groups(
            np.concatenate([arrival_slot, on_hand_slot]), net.locations * self.slots
        )
        self.customers = np.bincount(self.inner_source, minlength=net.locations)
        self.equal_share = 1.0 / np.maximum(self.customers, 1)
        # Columns of the flat inventory that can be non-zero, and the way back (-1: always zero).
        used = np.arange(self.slots)[None, :] < net.slots[:, None]
        self.slot_index = np.flatnonzero(used)
        self.on_hand_index = np.searchsorted(self.slot_index, on_hand_slot)
        self.slot_gather = np.where(used.ravel(), np.cumsum(used.ravel()) - 1, len(self.slot_index))
        self.mean_order, self.order_cap = order_levels(self.network, self.demand)
        calendar = getattr(self.demand, "calendar", None) if "calendar" in self.observe else None
        self.calendar = (
            np.zeros((1, 0)) if calendar is None else np.asarray(calendar, dtype=np.float64)
        )

        size = len(self.slot_index) + self.past * self.stores + self.calendar.shape[1]
        size += 2 * ("season" in self.observe)
        self.observation_space = gym.spaces.Box(-LARGEST, LARGEST, (size,), np.float32)
        self.action_space = (
            gym.spaces.Box(-1.0, 1.0, (net.arcs,), np.float32)
            if self.action == "normalized"
            else gym.spaces.Box(np.zeros(net.arcs, np.float32), self.order_cap.astype(np.float32))
        )

    def _check_arguments(self) -> None:
        if unknown := set(self.observe) - set(OBSERVABLE):
            raise ValueError(f"observe names {sorted(unknown)}, allowed are {OBSERVABLE}")
        if "inventory" not in self.observe:
            raise ValueError(f"observe={self.observe} must hold 'inventory'")
        if "calendar" in self.observe and getattr(self.demand, "calendar", None) is None:
            raise ValueError("observe holds 'calendar', but the demand has none: give calendar=...")
        if not 0 <= self.ignore < self.periods:
            raise ValueError(
                f"ignore={self.ignore} must be at least 0 and below periods={self.periods}"
            )
        if "past_demands" in self.observe and self.past < 1:
            raise ValueError(f"past={self.past} must be at least 1 when past demands are observed")
        if self.season <= 0:
            raise ValueError(f"season={self.season} must be above 0 periods")
        if self.objective == "profit" and not self.lost_sales:
            raise ValueError("objective='profit' counts sales and needs lost_sales=True")
        low, high = self.initial_stock
        if not 0 <= low <= high:
            raise ValueError(
                f"initial_stock={self.initial_stock} must be (low, high), 0 <= low <= high"
            )

    def flows(self) -> tuple[np.ndarray, np.ndarray]:
        """How demand spreads over the network, see `flows.flows`: [K, N] and [K, A]."""
        return flows(self.network)

    # -- dynamics ---------------------------------------------------------------------------------

    def draw_tape(self, rng: np.random.Generator, options: Mapping[str, Any]) -> Arrays:
        """Initial stock [K, slots], demand [past + T, K] (the first `past` rows lie before the
        start)."""
        low, high = self.initial_stock
        stock = rng.uniform(low, high, (self.stores, self.slots)) * self.demand.mean[:, None]
        demand, start = self.demand.draw(rng, self.past + self.periods, options.get("series"))
        own = np.arange(self.slots) < self.network.slots[self.suppliers :, None]
        return {"stock": stock * own, "demand": demand, "start": np.int64(start + self.past)}

    def initial(self, tape: Arrays) -> Arrays:
        """Stores hold the stock of the tape, suppliers nothing."""
        xp = array_namespace(tape["stock"])
        stock = tape["stock"]
        upstream = xp.broadcast_to(0 * stock[:, :1], (len(stock), self.suppliers, self.slots))
        inventory = xp.concat([upstream, stock], axis=1)
        return {
            "inventory": inventory,
            "t": xp.zeros_like(tape["start"]),
            "start": tape["start"],
            "past": tape["demand"][:, : self.past],
            "demand": xp.zeros_like(tape["demand"][:, 0]),
            "orders": xp.zeros_like(inventory[:, :1, 0]) + xp.zeros_like(self.mean_order),
            "rest": inventory[..., 0],
        }

    def transition(self, state: Arrays, action: Any, tape: Arrays) -> Arrays:
        """One period; `action` [n, A] is normalized, or in units, as the argument `action` says."""
        return self.advance(state, self.decode(action, state["inventory"]), tape)

    def advance(self, state: Arrays, orders: Any, tape: Arrays) -> Arrays:
        """One period in which feasible `orders` [n, A] (units) are placed."""
        inventory, t = state["inventory"], state["t"]
        xp = array_namespace(inventory)
        n = len(inventory)
        demand = tape["demand"][xp.arange(n), t + self.past]
        rest = inventory[:, self.suppliers :, 0] - demand
        if self.suppliers:
            left = positive((inventory[..., 0] - self.shipped(orders))[:, : self.suppliers])
            rest = xp.concat([left, rest], axis=1)
        carried = positive(rest) if self.lost_sales else rest
        moved = self._arrivals.sum(xp.concat([orders, carried], axis=1))
        later = xp.concat([inventory[..., 1:], xp.zeros_like(inventory[..., :1])], axis=-1)
        past = state["past"]
        if self.past:
            past = xp.concat([past[:, 1:], demand[:, None]], axis=1)
        return {
            "inventory": later + xp.reshape(moved, inventory.shape),
            "t": t + 1,
            "start": state["start"],
            "past": past,
            "demand": demand,
            "orders": orders,
            "rest": rest,
        }

    def reward(self, state: Arrays, action: Any, next_state: Arrays) -> Any:
        """Minus the cost of the period, [n]."""
        on_hand = state["inventory"][..., 0]
        return -self.cost(on_hand, next_state["orders"], next_state["demand"], next_state["rest"])

    def cost(self, on_hand: Any, orders: Any, demand: Any, rest: Any) -> Any:
        """Cost of a period, [n].

        Args:
            on_hand: stock at its start, [n, N].
            orders: [n, A]; demand: [n, K].
            rest: on hand after shipments and demand, below zero at stores that fell short, [n, N].
        """
        xp = array_namespace(on_hand)
        held = positive(rest)
        stores = slice(self.suppliers, None)
        total = weighted_sum(held, self.holding)
        if self.objective == "cost":
            # held - rest is max(-rest, 0), with sub-gradient 0 where nothing is left and nothing is
            # short.
            total = total + weighted_sum((held - rest)[:, stores], self.underage)
        else:
            sales = xp.where(rest[:, stores] < 0, on_hand[:, stores], demand)
            total = total - weighted_sum(sales, self.underage)
        if self.has_unit_cost:
            total = total + weighted_sum(orders, self.unit_cost)
        if self.has_fixed_cost:
            placed = xp.where(orders > 0, self.fixed_cost, xp.zeros_like(self.fixed_cost))
            total = total + xp.sum(placed, axis=-1)
        return total

    def shipped(self, orders: Any) -> Any:
        """Units that leave each location, [n, N]."""
        return self._shipments.sum(orders[:, self.outside_arcs :])

    def truncated(self, state: Arrays) -> Any:
        """The episode is cut after `periods`."""
        return state["t"] >= self.periods

    def info(self, state: Arrays) -> Arrays:
        """Demand [n, K] and orders [n, A] of the last period, in units."""
        return {"demand": state["demand"], "orders": state["orders"]}

    # -- observations -----------------------------------------------------------------------------

    def observation(self, state: Arrays) -> Any:
        """The parts of `observe`, joined, [n, D]."""
        inventory = state["inventory"]
        xp = array_namespace(inventory)
        n = len(inventory)
        parts = [xp.reshape(inventory, (n, -1))[:, self.slot_index]]
        if self.past:
            parts.append(xp.reshape(state["past"], (n, -1)))
        if "season" in self.observe:
            phase = (state["start"] + state["t"]) * (2 * np.pi / self.season)
            parts.append(
                xp.astype(xp.stack([xp.sin(phase), xp.cos(phase)], axis=1), inventory.dtype)
            )
        if "calendar" in self.observe:
            week = xp.clip(state["start"] + state["t"], 0, len(self.calendar) - 1)
            parts.append(self.calendar[week])
        joined = parts[0] if len(parts) == 1 else xp.concat(parts, axis=1)
        # Row by row in memory: the last bits of a network's output depend on its input's layout.
        return joined.astype(np.float32, order="C") if isinstance(joined, np.ndarray) else joined

    def split_observation(self, observation: Any) -> dict[str, Any]:
        """Parts of a batched observation [n, D]: inventory [n, N, slots], past_demands [n, past,
        K], season [n, 2], calendar [n, C]; those that `observe` names."""
        xp = array_namespace(observation)
        n = len(observation)
        sizes = {
            "inventory": len(self.slot_index),
            "past_demands": self.past * self.stores,
            "season": 2 * ("season" in self.observe),
            "calendar": self.calendar.shape[1],
        }
        parts, start = {}, 0
        for name, size in sizes.items():
            if name in self.observe:
                parts[name] = observation[:, start : start + size]
            start += size
        padded = xp.concat([parts["inventory"], xp.zeros_like(observation[:, :1])], axis=1)
        parts["inventory"] = xp.reshape(
            padded[:, self.slot_gather], (n, self.network.locations, self.slots)
        )
        if "past_demands" in parts:
            parts["past_demands"] = xp.reshape(parts["past_demands"], (n, self.past, self.stores))
        return parts

    # -- actions ----------------------------------------------------------------------------------

    def decode(self, action: Any, inventory: Any) -> Any:
        """Feasible orders [n, A] in units from an action [n, A]."""
        if self.action == "normalized":
            xp = array_namespace(action)
            above = self.mean_order + action * (self.order_cap - self.mean_order)
            action = xp.where(action > 0, above, self.mean_order * (1 + action))
        return self.feasible(action, inventory[..., 0])

    def encode(self, orders: Any) -> Any:
        """The action whose orders are nearest to `orders` [n, A]; orders above the cap become the
        cap."""
        xp = array_namespace(orders)
        orders = xp.minimum(orders, xp.zeros_like(orders) + self.order_cap)
        if self.action == "orders":
            return orders
        above = (orders - self.mean_order) / (self.order_cap - self.mean_order)
        below = orders / (self.mean_order + 1e-30) - 1
        return xp.where(orders > self.mean_order, above, below)

    def feasible(self, orders: Any, on_hand: Any) -> Any:
        """Scale orders [n, A] so that no location ships more than its stock on hand [n, N].

        A location that holds no stock ships everything: its orders are scaled up as well, and
        shared equally where none was placed.
        """
        if not len(self.inner_source):
            return orders
        xp = array_namespace(orders)
        shipped = self.shipped(orders)
        stock = positive(on_hand)
        ratio = xp.where(shipped > stock, stock / (shipped + 1e-10), xp.ones_like(stock))
        inner = orders[:, self.outside_arcs :]
        if not self.all_hold_stock:
            ships_all = ~self.holds_stock
            full = stock / xp.where(shipped > 1e-10, shipped, xp.ones_like(shipped))
            ratio = xp.where(ships_all, full, ratio)
            none_placed = (ships_all & (shipped <= 1e-10))[:, self.inner_source]
            inner = xp.where(none_placed, self.equal_share[self.inner_source], inner)
        return xp.concat(
            [orders[:, : self.outside_arcs], inner * ratio[:, self.inner_source]], axis=1
        )

    def check_action(self, action: Any, state: Arrays) -> Any:
        """Also refuses orders above the stock of the location that they are taken from."""
        batch = check_in_space(self.action_space, action)
        if self.action == "normalized" or not len(self.inner_source):
            return batch
        stock, shipped = state["inventory"][..., 0], self.shipped(batch)
        slack = TOLERANCE * (1 + np.abs(stock))
        wrong = shipped > stock + slack
        wrong |= ~self.holds_stock & (shipped < stock - slack)
        wrong &= self.customers > 0
        if wrong.any():
            row, node = (int(i) for i in np.argwhere(wrong)[0])
            allowed = "at most" if self.holds_stock[node] else "exactly"
            raise ValueError(
                f"orders on {self.network.names[node]!r} add up to {shipped[row, node]:.6g} in "
                f"sub-environment {row}; allowed: {allowed} its stock on hand, "
                f"{stock[row, node]:.6g}"
            )
        return batch

    # -- the task, seen from a learner ------------------------------------------------------------

    def variant(self, **changes: Any) -> InventoryNet:
        """The same environment with other arguments."""
        return InventoryNet(**{**self.given, **changes})

    def with_orders(self) -> InventoryNet:
        """The same core with `action="orders"`."""
        return self if self.action == "orders" else self.variant(action="orders")

    def describe(self) -> dict[str, Any]:
        """Network, moments of the demand and rules, as JSON."""
        return describe(self)

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> InventoryNet:
        """Inverse of `describe`; the core can compute everything but draw no tapes."""
        return cls(**arguments_of(description))

    def scenarios(self, n: int, seed: int) -> Arrays:
        """`n` episodes; of a recorded trace every series once, or `n` windows spread over the
        series where an episode is shorter than the split."""
        trace: Any = self.demand
        if not trace.series:
            return self.tapes(n, seed)
        start, stop = trace.window(trace.split)
        windows = n // trace.series if stop - start > self.past + self.periods else 1
        choices = [{"series": index} for index in range(trace.series)] * max(windows, 1)
        return self.tapes(len(choices), seed, choices)

    def validation(self) -> InventoryNet:
        """The validation window of a trace; a law is the same there."""
        if not self.demand.series:
            return self
        return self.variant(split="validation", periods=None, ignore=None)

    def render_frame(self, state: Arrays, index: int) -> np.ndarray:
        """The network with its stocks, the last orders on the arcs and the last demand at the
        stores."""
        from .render import draw_network

        return draw_network(
            self.network,
            np.asarray(state["inventory"][index]),
            np.asarray(state["orders"][index]),
            np.asarray(state["demand"][index]),
            title=f"period {int(state['t'][index])} of {self.periods}",
        )


def positive(x: Any) -> Any:
    """max(x, 0) with sub-gradient 1 at 0: an empty stock counts as holding."""
    return x.clip(min=0)


def weighted_sum(values: Any, weights: Any) -> Any:
    """Sum over columns [n, columns] -> [n]; in NumPy bit-identical for every batch size."""
    if isinstance(values, np.ndarray):
        return np.sum(values * weights, axis=-1)
    return values @ weights


def one_of(name: str, value: str, allowed: Sequence[str]) -> str:
    """Return `value`.

    Raises:
        ValueError: it is not among `allowed`.
    """
    if value not in allowed:
        raise ValueError(f"{name}={value!r}, allowed are {tuple(allowed)}")
    return value


class InventoryNetEnv(ArrayEnv):
    """Face 1 of `InventoryNet`: `gymnasium.make("InventoryNet-v0")`."""

    core_class = InventoryNet


class InventoryNetVectorEnv(ArrayVectorEnv):
    """Face 2 of `InventoryNet`: `gymnasium.make_vec("InventoryNet-v0", num_envs=1024)`."""

    core_class = InventoryNet
