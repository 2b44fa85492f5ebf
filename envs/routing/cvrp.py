"""`CVRP-v0`: capacitated vehicle routing, customer by customer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..base import Arrays
from .arrays import as_float32, base_of, duplicate, filled, namespace, rows_of, show_points, written
from .base import NodeCore, RoutingEnv, RoutingVectorEnv, chosen_row
from .distances import edge_lengths
from .generators import law_of, vehicle_capacity
from .instance import RoutingInstance, Solution, check_demands
from .sources import (
    check_data_set,
    check_in_unit_square,
    load_instance,
    observed_coordinates,
    one_source,
    size_of,
)

FEATURES = 7
MOST = 9  # largest demand that is generated


class CVRP(NodeCore):
    """The capacitated vehicle routing problem: shortest routes from a depot that serve everyone.

    ## Description
    Node 0 is the depot, the others are customers. Vehicles of one capacity Q start and end at the
    depot; each customer is served by one of them. The routes are built one after the other: the
    next customer is reached directly, or by way of the depot with a new vehicle. With `mdp="bq"`
    the state is the instance that is left: where the vehicle is, the capacity left in it, and the
    remaining customers. With `mdp="direct"` it is the partial solution.

    ## Observation
    `Box`, float32 [nodes * 7], a table [nodes, 7] row by row; row i is node i.

        mdp="bq":      x, y, demand/Q, capacity_left/Q, remaining, is_origin, is_depot
        mdp="direct":  x, y, demand/Q, capacity_left/Q, visited, is_current, is_depot

    With "bq" the rows of nodes that are gone are zero. x and y lie in [0, 1]; those of an instance
    in other units are scaled, by one factor for both axes.

    ## Action
    `Discrete(2 * nodes)`: 2 * node + via. The customer must not have been visited; with via = 0 its
    demand must not exceed the capacity left, via = 1 (by way of the depot) is always feasible
    (`info["action_mask"]`).

    ## Dynamics
    The tape is the instance: coordinates [nodes, 2] drawn from `law`, then demands, uniform
    integers 1 .. 9 (`rng.integers(1, 10, nodes)`, entry 0 set to 0); of `instances` one
    `rng.integers`, the row. From (origin o, remaining R, capacity left c) with action (j, via) the
    next state is (j, R without j, c - demand_j), with via = 1 (j, R without j, Q - demand_j). At
    the start o = 0, c = Q and R holds all customers.

    ## Reward
    -D[o, j], or -(D[o, 0] + D[0, j]) by way of the depot; for the last customer also -D[j, 0]. The
    rewards of an episode sum to minus the length of the routes. D is the Euclidean distance; for a
    file its own, in its own units and rounding.

    ## Episode end
    Terminated when no customer remains, after nodes - 1 steps.

    ## Arguments
    - `nodes`: depot included, at least 2, 21 by default.
    - `mdp`: "bq" or "direct".
    - `law`: of generated coordinates: "uniform", "gaussian_mixture" or "clustered"
      (`generators.py`).
    - `capacity`: Q of generated instances, at least 9, and of data sets without it. Default: 30,
      40, 50, 80, 100, 250 with 20, 50, 100, 200, 500, 1,000 customers; between these the nearest
      integer on the straight line, outside of them the nearest of them.
    - `instance`: a `RoutingInstance` of kind "cvrp", or the path of a CVRPLIB file: every episode
      has this instance.
    - `instances`: a data set {"coordinates": [rows, nodes, 2] in [0, 1], "demands": [rows, nodes]}
      and optionally "capacity" [rows], of which each reset draws a row, or takes row i with
      `reset(options={"row": i})`.

    A demand above the capacity is refused. `env.unwrapped.solution()` holds the finished routes.

    ## Data files
    CVRPLIB (`pip install "palaestra[routing]"`).

    ## Sources
    D. Drakulic et al., BQ-NCO, NeurIPS 2023, arXiv 2301.03313. W. Kool, H. van Hoof, M. Welling,
    Attention, Learn to Solve Routing Problems!, ICLR 2019 (demands and capacities).

    ## Version
    v0.
    """

    kind = "cvrp"
    arrays = (*NodeCore.arrays, "_depot_row")
    data = ("coordinates", "demands", "capacity")
    flags = 4

    def __init__(
        self,
        nodes: int | None = None,
        mdp: str = "bq",
        law: str = "uniform",
        capacity: float | None = None,
        instance: RoutingInstance | str | Path | None = None,
        instances: Mapping[str, Any] | None = None,
    ) -> None:
        one_source(instance, instances)
        self.law = law_of(law)
        given, fixed = None, None
        self._data_set: dict[str, np.ndarray] | None = None
        if instance is not None:
            given = load_instance(instance, ("cvrp",))
            if capacity is not None:
                raise ValueError(f"capacity={capacity}: instance {given.name!r} has its own")
            self._coordinates, fixed = observed_coordinates(given), given.nodes
        elif instances is not None:
            shapes = {"coordinates": ("n", 2), "demands": ("n",)}
            self._data_set = check_data_set(instances, shapes, {"capacity": ()})
            check_in_unit_square(self._data_set["coordinates"])
            fixed = self._data_set["coordinates"].shape[1]
        size = size_of("nodes", nodes, 21, fixed)
        self.capacity = vehicle_capacity(size - 1) if capacity is None else float(capacity)
        used: list[Any] = [self.capacity]
        if self._data_set is not None:
            self._check_data_set(capacity)
            used = [self._data_set["demands"], self._data_set["capacity"]]
        elif given is not None:
            used = [given.demands, given.capacity]
        elif not MOST <= self.capacity < np.inf:
            raise ValueError(f"capacity={capacity}, it must be at least {MOST}, the largest demand")
        # Integers are added exactly, and compared fast.
        whole = all((np.rint(values) == values).all() and np.max(values) < 2**31 for values in used)
        self._number = np.int32 if whole else np.float64
        super().__init__(mdp, size, 2 * size, FEATURES, instance=given)
        self._depot_row = (
            np.zeros(0) if given is None else given.distances(0, np.arange(size)).astype(np.float64)
        )

    def _check_data_set(self, capacity: float | None) -> None:
        assert self._data_set is not None
        demands = self._data_set["demands"]
        if capacity is not None and "capacity" in self._data_set:
            raise ValueError(f"capacity={capacity}, but the data set has its own")
        capacities = self._data_set.setdefault("capacity", np.full(len(demands), self.capacity))
        for row in range(len(demands)):
            check_demands(f"instances: row {row}", demands[row], capacities[row])

    # -- dynamics ----------------------------------------------------------------------------------

    def draw_tape(self, rng: np.random.Generator, options: Mapping[str, Any]) -> Arrays:
        """Coordinates, demands and capacity of one instance."""
        rows = 0 if self._data_set is None else len(self._data_set["demands"])
        row = chosen_row(options, rng, rows)
        coordinates: Any
        demands: Any
        capacity: Any
        if self.instance is not None:
            coordinates = self._coordinates
            demands, capacity = self.instance.demands, self.instance.capacity
        elif self._data_set is not None:
            coordinates, demands, capacity = (self._data_set[name][row] for name in self.data)
        else:
            coordinates, capacity = self.law(rng, self.size), self.capacity
            demands = rng.integers(1, MOST + 1, self.size)
            demands[0] = 0
        return {
            "coordinates": coordinates,
            "demands": np.asarray(demands, dtype=self._number),
            "capacity": self._number(capacity),
        }

    def initial(self, tape: Arrays) -> Arrays:
        """At the depot with a full vehicle; `via` bool [b, n] records the visits by way of the
        depot, `depot_distances` [b, n] are the ways from and to it."""
        state = self.start({name: tape[name] for name in self.data})
        points, row = tape["coordinates"], self._depot_row
        state["depot_distances"] = (
            0.0 * points[..., 0] + row if len(row) else edge_lengths(points, points[:, :1])
        )
        state["capacity_left"] = duplicate(tape["capacity"])
        state["via"] = filled(tape["demands"], tape["demands"].shape, False, "bool")
        return state

    def transition(self, state: Arrays, action: Any, tape: Arrays) -> Arrays:
        """Serve customer `action // 2`, by way of the depot where `action % 2` is 1."""
        node, via = parts(action)
        base = base_of(node, self.size)
        after = self.visit(state, node)
        left = namespace(action).where(via, state["capacity"], state["capacity_left"])
        after["capacity_left"] = left - state["demands"].reshape(-1)[base + node]
        if "via" in state:
            after["via"] = written(state["via"], base + after["t"], via)
        return after

    def reward(self, state: Arrays, action: Any, next_state: Arrays) -> Any:
        """Minus the length of the way to the customer, from the last one also back, [b]."""
        node, via = parts(action)
        place, base = self.place(state), base_of(node, self.size)
        depot = state["depot_distances"].reshape(-1)
        out = depot[base + node]
        direct = self.distances(state, place, node)
        lengths = namespace(action).where(via, depot[base + place] + out, direct)
        last = next_state["t"] >= self.size - 1
        if last.any():
            lengths = lengths + last * out
        return -lengths

    def action_masks(self, state: Arrays) -> Any:
        """[b, 2 * n]: 2 * node where the demand fits, 2 * node + 1 for every unvisited customer."""
        remaining = self.unvisited(state)
        direct = state["demands"] <= state["capacity_left"][:, None]
        direct &= remaining
        return namespace(remaining).stack([direct, remaining], axis=-1).reshape(len(remaining), -1)

    def feasible(self, state: Arrays, action: Any) -> Any:
        """Whether the customer of each row is unvisited and, directly, fits, bool [b]."""
        node, via = parts(action)
        demands = state["demands"].reshape(-1)[base_of(node, self.size) + node]
        fits = demands <= state["capacity_left"]
        return super().feasible(state, node) & (fits | via)

    def why_infeasible(self, state: Arrays, row: int, action: int) -> str:
        """The customer has been visited, or its demand does not fit."""
        node = action // 2
        if not self.unvisited(state)[row, node]:
            return super().why_infeasible(state, row, node)
        return (
            f"demand {float(state['demands'][row, node]):g} of node {node} is above the capacity "
            f"left, {float(state['capacity_left'][row]):g}; by way of the depot it is action "
            f"{action + 1}"
        )

    # -- views -------------------------------------------------------------------------------------

    def table(self, state: Arrays, mdp: str) -> Any:
        """[b, n, 7], see Observation."""
        points, rows = state["coordinates"], rows_of(state["t"])
        table = filled(points, (*points.shape[:2], FEATURES), 0.0, "float32")
        unvisited, present = self.unvisited(state), None
        demands = state["demands"] / state["capacity"][:, None]
        if mdp == "bq":
            present = self.left(state)[1]
            demands = demands * present
        show_points(table, points, present)
        table[..., 2] = demands
        table[..., 4] = unvisited if mdp == "bq" else ~unvisited
        table[rows, self.place(state), 5] = 1.0
        table[:, 0, 6] = 1.0
        self._show_capacity(table, state, mdp)
        return table

    def repaint(self, table: Any, before: Arrays, after: Arrays) -> bool:
        """As in the base; the capacity left changes for all nodes."""
        done = super().repaint(table, before, after)
        if done:
            self._show_capacity(table, after, self.mdp)
        return done

    def _show_capacity(self, table: Any, state: Arrays, mdp: str) -> None:
        """Write the share of the capacity that is left into a table, in place."""
        share = as_float32(state["capacity_left"] / state["capacity"])
        if mdp == "direct":
            table[..., 3] = share[:, None]
            return
        table[..., 3] = table[..., 4] * share[:, None]  # column 4: which customers remain
        base, column = base_of(share, self.size), table.reshape(-1, FEATURES)[:, 3]
        column[base + self.place(state)] = share
        column[base + self.home(state)] = share

    def quotient(self, state: Arrays) -> Arrays:
        """The path-CVRP that is left: where the vehicle is, its capacity, remaining customers."""
        part, present = self.left(state)
        return {
            **part,
            "coordinates": state["coordinates"] * present[..., None],
            "demands": state["demands"] * present,
            "depot_distances": state["depot_distances"] * present,
            "capacity": state["capacity"],
            "capacity_left": state["capacity_left"],
        }

    def routes(self, state: Arrays, row: int) -> list[np.ndarray]:
        """Customers of each route so far, in the order of visit, without the depot."""
        walk = self.walked(state, row)[1:]
        via = np.asarray(state["via"][row][1 : len(walk) + 1]).copy()
        via[:1] = False  # the first vehicle starts at the depot, whichever action sent it
        return np.split(walk, np.flatnonzero(via)) if len(walk) else []

    def solution(self, state: Arrays, row: int = 0) -> Solution:
        """The routes and their length.

        Raises:
            ValueError: customers are missing.
        """
        self.finished_tour(state, row)
        routes = self.routes(state, row)
        closed = [np.concatenate([[0], route, [0]]) for route in routes]
        objective = sum(self.length(state, row, walk) for walk in closed)
        return Solution(self.kind, objective, routes=routes)

    def render_frame(self, state: Arrays, index: int) -> np.ndarray:
        """The routes so far."""
        from .render import draw_routes

        return draw_routes(self, state, index)


def parts(action: Any) -> tuple[Any, Any]:
    """Customer int [b] and whether by way of the depot, bool [b]."""
    return action >> 1, (action & 1) == 1


class CVRPEnv(RoutingEnv):
    """Face 1 of `CVRP`: `gymnasium.make("CVRP-v0", nodes=21)`."""

    core_class = CVRP


class CVRPVectorEnv(RoutingVectorEnv):
    """Face 2 of `CVRP`: `gymnasium.make_vec("CVRP-v0", num_envs=1024, nodes=21)`."""

    core_class = CVRP
