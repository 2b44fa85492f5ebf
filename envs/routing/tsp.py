"""`TSP-v0`: the travelling salesman problem, city by city."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..base import Arrays
from .arrays import filled, namespace, rows_of, show_points
from .base import NodeCore, RoutingEnv, RoutingVectorEnv, chosen_row
from .generators import law_of
from .instance import RoutingInstance, Solution, check_matrix
from .sources import (
    check_data_set,
    check_in_unit_square,
    load_instance,
    observed_coordinates,
    one_source,
    size_of,
)

FEATURES = 5


class ClosedTour(NodeCore):
    """What TSP and ATSP share: every node once, paid by length, and home at the end.

    The last five columns of the table of either are [..., remaining or visited, is_origin or
    is_current, is_destination or is_start].
    """

    def initial(self, tape: Arrays) -> Arrays:
        """At node 0, all other nodes remaining."""
        return self.start({name: tape[name] for name in self.data})

    def transition(self, state: Arrays, action: Any, tape: Arrays) -> Arrays:
        """Go to node `action` int [b]."""
        return self.visit(state, action)

    def reward(self, state: Arrays, action: Any, next_state: Arrays) -> Any:
        """Minus the length of the edge, at the last node also of the one back home, [b]."""
        xp = namespace(action)
        lengths = self.distances(state, self.place(state), action)
        last = next_state["t"] >= self.size - 1
        if last.any():
            back = self.distances(state, action, self.home(state))
            lengths = lengths + xp.where(last, back, 0.0 * back)
        return -lengths

    def mark(self, table: Any, state: Arrays, mdp: str) -> Any:
        """Write the three flags of a state into its table, in place; returns the table."""
        rows, place, home = rows_of(state["t"]), self.place(state), self.home(state)
        unvisited = self.unvisited(state)
        table[..., self.flags] = unvisited if mdp == "bq" else ~unvisited
        table[rows, place, self.flags + 1] = 1.0
        table[rows, home, self.flags + 2] = 1.0
        return table

    def solution(self, state: Arrays, row: int = 0) -> Solution:
        """The tour and its length.

        Raises:
            ValueError: nodes are missing.
        """
        tour = self.finished_tour(state, row)
        return Solution(self.kind, self.length(state, row, np.append(tour, 0)), tour=tour)

    def render_frame(self, state: Arrays, index: int) -> np.ndarray:
        """The tour so far."""
        from .render import draw_tour

        return draw_tour(self, state, index)


class TSP(ClosedTour):
    """The travelling salesman problem: the shortest closed tour through all nodes.

    ## Description
    From node 0, choose the next node until all have been visited; the tour then closes. With
    `mdp="bq"` the state is the instance that is left: the shortest path from the last node
    (origin) through the remaining nodes to node 0 (destination). With `mdp="direct"` it is the
    partial tour.

    ## Observation
    `Box`, float32 [nodes * 5], a table [nodes, 5] row by row; row i is node i.

        mdp="bq":      x, y, remaining, is_origin, is_destination    (all 0 for nodes that are gone)
        mdp="direct":  x, y, visited, is_current, is_start

    x and y lie in [0, 1]; those of an instance in other units are scaled, by one factor for both
    axes.

    ## Action
    `Discrete(nodes)`: the next node, one of those not visited yet (`info["action_mask"]`). Node 0
    is never feasible.

    ## Dynamics
    The tape is the instance: coordinates [nodes, 2] drawn from `law` (`instances`: one
    `rng.integers`, the row). From (origin o, destination z, remaining R) with action j in R the
    next state is (j, z, R without j). At the start o = z = 0 and R holds all other nodes.

    ## Reward
    -D[o, j]; for the last node also -D[j, z]. The rewards of an episode sum to minus the length of
    the tour. D is the Euclidean distance; for a file its own, in its own units and rounding.

    ## Episode end
    Terminated when no node remains, after nodes - 1 steps.

    ## Arguments
    - `nodes`: at least 2, 20 by default.
    - `mdp`: "bq" or "direct".
    - `law`: of generated coordinates: "uniform", "gaussian_mixture" or "clustered"
      (`generators.py`).
    - `instance`: a `RoutingInstance`, or the path of a TSPLIB file, the same in every episode.
    - `instances`: a data set {"coordinates": [rows, nodes, 2] in [0, 1]}, of which each reset draws
      a row, or takes row i with `reset(options={"row": i})`.

    `env.unwrapped.solution()` is the finished tour. `core.quotient(state)` is the instance left.

    ## Data files
    TSPLIB: EUC_2D, CEIL_2D, ATT, GEO, EXPLICIT. Without coordinates in the file, those observed are
    found by classical multidimensional scaling.

    ## Sources
    D. Drakulic et al., BQ-NCO, NeurIPS 2023, arXiv 2301.03313. G. Reinelt, TSPLIB 95 (1995).

    ## Version
    v0.
    """

    kind = "tsp"
    data = ("coordinates",)
    flags = 2

    def __init__(
        self,
        nodes: int | None = None,
        mdp: str = "bq",
        law: str = "uniform",
        instance: RoutingInstance | str | Path | None = None,
        instances: Mapping[str, Any] | None = None,
    ) -> None:
        one_source(instance, instances)
        self.law = law_of(law)
        given, fixed = None, None
        self._data_set: np.ndarray | None = None
        if instance is not None:
            given = load_instance(instance, ("tsp", "atsp"))
            if given.kind == "atsp" and given.matrix is not None:
                check_matrix(f"instance {given.name!r}", given.matrix, symmetric=True)
            self._coordinates, fixed = observed_coordinates(given), given.nodes
        elif instances is not None:
            arrays = check_data_set(instances, {"coordinates": ("n", 2)}, {})
            self._data_set = arrays["coordinates"]
            check_in_unit_square(self._data_set)
            fixed = self._data_set.shape[1]
        size = size_of("nodes", nodes, 20, fixed)
        super().__init__(mdp, size, size, FEATURES, instance=given)

    def draw_tape(self, rng: np.random.Generator, options: Mapping[str, Any]) -> Arrays:
        """The coordinates of one instance."""
        row = chosen_row(options, rng, 0 if self._data_set is None else len(self._data_set))
        if self.instance is not None:
            return {"coordinates": self._coordinates}
        if self._data_set is not None:
            return {"coordinates": self._data_set[row]}
        return {"coordinates": self.law(rng, self.size)}

    def table(self, state: Arrays, mdp: str) -> Any:
        """[b, n, 5]: x, y and the three flags."""
        points = state["coordinates"]
        table = filled(points, (*points.shape[:2], FEATURES), 0.0, "float32")
        show_points(table, points, self.left(state)[1] if mdp == "bq" else None)
        return self.mark(table, state, mdp)

    def quotient(self, state: Arrays) -> Arrays:
        """Coordinates, origin, destination and remaining nodes of the path that is left."""
        part, present = self.left(state)
        return {**part, "coordinates": state["coordinates"] * present[..., None]}


class TSPEnv(RoutingEnv):
    """Face 1 of `TSP`: `gymnasium.make("TSP-v0", nodes=20)`."""

    core_class = TSP


class TSPVectorEnv(RoutingVectorEnv):
    """Face 2 of `TSP`: `gymnasium.make_vec("TSP-v0", num_envs=1024, nodes=20)`."""

    core_class = TSP
