"""`Orienteering-v0`: collect prizes on a tour whose length is limited."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..base import Arrays
from .arrays import base_of, duplicate, filled, namespace, rows_of, show_points, written
from .base import NodeCore, RoutingEnv, RoutingVectorEnv, chosen_row
from .distances import edge_lengths
from .generators import law_of, prizes_by_distance, tour_budget, uniform_prizes
from .instance import Solution
from .sources import check_data_set, check_in_unit_square, one_number, size_of

FEATURES = 7
TOLERANCE = 1e-6  # by which a tour may exceed its budget, so that rounding forbids no node
PRIZES = ("dist", "unif")
UNIT = 100.0  # prizes are observed in hundreds


class Orienteering(NodeCore):
    """The orienteering problem: the prizes of a tour from the depot of limited length.

    ## Description
    Node 0 is the depot, every other node has a prize. Go from node to node and be back at the depot
    before the budget of length is used up. With `mdp="bq"` the state is the instance that is left:
    where one is, the budget left, and the nodes still within reach. With `mdp="direct"` it is the
    partial tour.

    ## Observation
    `Box`, float32 [nodes * 7], a table [nodes, 7] row by row; row i is node i.

        mdp="bq":      x, y, prize/100, budget, remaining, is_origin, is_depot
        mdp="direct":  x, y, prize/100, budget, visited, is_current, is_depot

    `budget` is what is left of it. With "bq" the remaining nodes are exactly the feasible ones, and
    the rows of nodes that are gone or out of reach are zero.

    ## Action
    `Discrete(nodes)`: the next node, feasible (`info["action_mask"]`) where it has not been visited
    and D[o, j] + D[j, 0] - budget <= 1e-6. Nodes out of reach stay so (triangle inequality).
    Where no node is feasible at the start, action 0 is: it stays at the depot and ends the episode.

    ## Dynamics
    The tape is the instance: coordinates [nodes, 2] drawn from `law`, then with "unif" the prizes
    (`rng.integers(1, 100, nodes)`, entry 0 set to 0); of `instances` one `rng.integers`, the row.
    From (origin o, remaining R, budget b) with action j in R the next state is (j, the nodes of R
    other than j that are still within reach, b - D[o, j]). D is the Euclidean distance.

    ## Reward
    The prize of j. The rewards of an episode sum to the prizes of the tour.

    ## Episode end
    Terminated when no node is feasible (one returns to the depot), after nodes - 1 steps at the
    latest.

    ## Arguments
    - `nodes`: depot included, at least 2, 21 by default.
    - `mdp`: "bq" or "direct".
    - `law`: of generated coordinates: "uniform", "gaussian_mixture" or "clustered"
      (`generators.py`).
    - `prizes`: "dist" (default): 1 + floor(99 d_j / max d), d_j the distance to the depot; "unif":
      uniform integers 1 .. 99.
    - `budget`: largest length of a tour, >= 0. Default: 2, 3, 4 with 20, 50, 100 nodes besides the
      depot, on the straight line between these and the nearest of them outside.
    - `instances`: a data set {"coordinates": [rows, nodes, 2] in [0, 1]} and optionally "prizes"
      [rows, nodes] (0 at the depot) and "budget" [rows], of which each reset draws a row, or takes
      row i with `reset(options={"row": i})`. What is missing follows from the arguments.

    ## Data files
    None.

    ## Sources
    D. Drakulic et al., BQ-NCO, NeurIPS 2023, arXiv 2301.03313. M. Fischetti,
    J. J. Salazar González, P. Toth, Solving the orienteering problem through branch-and-cut,
    INFORMS Journal on Computing 10 (1998) (prizes).

    ## Version
    v0.
    """

    kind = "orienteering"
    data = ("coordinates", "prizes", "budget")

    def __init__(
        self,
        nodes: int | None = None,
        mdp: str = "bq",
        law: str = "uniform",
        prizes: str = "dist",
        budget: float | None = None,
        instances: Mapping[str, Any] | None = None,
    ) -> None:
        if prizes not in PRIZES:
            raise ValueError(f"prizes={prizes!r}, allowed are {PRIZES}")
        self.law, self.prizes = law_of(law), prizes
        self._data_set: dict[str, np.ndarray] = {}
        if instances is not None:
            optional = {"prizes": ("n",), "budget": ()}
            self._data_set = check_data_set(instances, {"coordinates": ("n", 2)}, optional)
            check_in_unit_square(self._data_set["coordinates"])
            if budget is not None and "budget" in self._data_set:
                raise ValueError(f"budget={budget}, but the data set has its own")
            if "prizes" in self._data_set and self._data_set["prizes"][:, 0].any():
                raise ValueError("instances: the depot (node 0) must have prize 0 in every row")
        given = self._data_set.get("coordinates")
        size = size_of("nodes", nodes, 21, None if given is None else given.shape[1])
        self.budget = tour_budget(size - 1) if budget is None else one_number("budget", budget)
        most = self._data_set.get("prizes", np.array(UNIT)).max() / UNIT
        longest = self._data_set.get("budget", np.array(self.budget)).max()
        super().__init__(mdp, size, size, FEATURES, high=(1, 1, most, longest, 1, 1, 1))

    # -- dynamics ----------------------------------------------------------------------------------

    def draw_tape(self, rng: np.random.Generator, options: Mapping[str, Any]) -> Arrays:
        """Coordinates, prizes and budget of one instance."""
        row = chosen_row(options, rng, len(self._data_set.get("coordinates", ())))
        tape = {name: array[row] for name, array in self._data_set.items()}
        tape.setdefault("budget", np.float64(self.budget))
        if "coordinates" not in tape:
            tape["coordinates"] = self.law(rng, self.size)
        if "prizes" not in tape:
            by_distance = self.prizes == "dist"
            tape["prizes"] = (
                prizes_by_distance(tape["coordinates"])
                if by_distance
                else uniform_prizes(rng, self.size)
            )
        return tape

    def initial(self, tape: Arrays) -> Arrays:
        """At the depot; `depot_distances` [b, n] are the ways home."""
        points = tape["coordinates"]
        home = edge_lengths(points, points[:, :1])
        data = {"coordinates": points, "prizes": tape["prizes"], "depot_distances": home}
        state = {**self.start(data), "budget": tape["budget"] + 0.0}
        if self.mdp == "direct":
            state["feasible"] = ~state["visited"]
        return self._in_reach(state)

    def _in_reach(self, state: Arrays) -> Arrays:
        """The state without the nodes from which one could not be home within the budget."""
        xp = namespace(state["t"])
        points, place = state["coordinates"], base_of(state["t"], self.size) + self.place(state)
        here = xp.take(points.reshape(-1, 2), place, axis=0)[:, None]
        needed = edge_lengths(here, points) + state["depot_distances"]
        name = "remaining" if "remaining" in state else "feasible"
        return {**state, name: state[name] & (needed - state["budget"][:, None] <= TOLERANCE)}

    def transition(self, state: Arrays, action: Any, tape: Arrays) -> Arrays:
        """Go to node `action` int [b]."""
        after = self.visit(state, action)
        after["budget"] = state["budget"] - self.distances(state, self.place(state), action)
        if "feasible" in state:
            place = base_of(action, self.size) + action
            after["feasible"] = written(state["feasible"], place, False)
        return self._in_reach(after)

    def repaint(self, table: Any, before: Arrays, after: Arrays) -> bool:
        """No short cut: any number of nodes falls out of reach in a step."""
        return False

    def reward(self, state: Arrays, action: Any, next_state: Arrays) -> Any:
        """The prize of the node, [b]."""
        xp = namespace(action)
        return xp.take(state["prizes"].reshape(-1), base_of(action, self.size) + action, axis=0)

    def terminal(self, state: Arrays) -> Any:
        """No node is within reach, and a step has been taken."""
        return ~self._any_left(state) & (state["t"] > 0)

    def _any_left(self, state: Arrays) -> Any:
        name = "remaining" if "remaining" in state else "feasible"
        return namespace(state["t"]).any(state[name], axis=1)

    def unvisited(self, state: Arrays) -> Any:
        """Nodes that can still be visited, bool [b, n]; a new array."""
        return duplicate(state["remaining" if "remaining" in state else "feasible"])

    def action_masks(self, state: Arrays) -> Any:
        """Nodes that can be visited now; the depot where there has never been one, bool [b, n]."""
        masks = self.unvisited(state)
        masks[:, 0] = ~self._any_left(state) & (state["t"] == 0)
        return masks

    def feasible(self, state: Arrays, action: Any) -> Any:
        """Whether the node of each row can be visited now, bool [b]."""
        return self.action_masks(state)[rows_of(action), action]

    def why_infeasible(self, state: Arrays, row: int, action: int) -> str:
        """The node has been visited, or is out of reach."""
        if action == 0 or action in self.walked(state, row):
            return super().why_infeasible(state, row, action)
        return (
            f"by way of node {action} one cannot be back at the depot within the budget left, "
            f"{float(state['budget'][row]):g}"
        )

    # -- views -------------------------------------------------------------------------------------

    def table(self, state: Arrays, mdp: str) -> Any:
        """[b, n, 7], see Observation."""
        points, rows = state["coordinates"], rows_of(state["t"])
        table = filled(points, (*points.shape[:2], FEATURES), 0.0, "float32")
        prizes, budget, present = state["prizes"] / UNIT, state["budget"][:, None], None
        if mdp == "bq":
            part, present = self.left(state)
            prizes, budget = prizes * present, budget * present
            table[..., 4] = part["remaining"]
        else:
            table[..., 4] = state["visited"]
        show_points(table, points, present)
        table[..., 2] = prizes
        table[..., 3] = budget
        table[rows, self.place(state), 5] = 1.0
        table[:, 0, 6] = 1.0
        return table

    def quotient(self, state: Arrays) -> Arrays:
        """The instance left: place, budget, and the nodes within reach with their prizes."""
        xp = namespace(state["t"])
        part, present = self.left(state)
        # A first state without any node within reach is told from an end by its t.
        part["t"] = xp.where(state["t"] == 0, state["t"], part["t"])
        return {
            **part,
            "coordinates": state["coordinates"] * present[..., None],
            "prizes": state["prizes"] * present,
            "depot_distances": state["depot_distances"] * present,
            "budget": state["budget"],
        }

    def walked(self, state: Arrays, row: int) -> np.ndarray:
        """Nodes visited so far in the order of visit, int64 [k], node 0 first."""
        walk = super().walked(state, row)
        return walk[: 1 + np.count_nonzero(walk)]  # who stays at the depot visits nothing

    def solution(self, state: Arrays, row: int = 0) -> Solution:
        """The tour so far, to be closed at the depot, and its prizes."""
        tour = self.walked(state, row)
        return Solution(self.kind, float(np.asarray(state["prizes"][row])[tour].sum()), tour=tour)

    def render_frame(self, state: Arrays, index: int) -> np.ndarray:
        """The tour so far, and the prizes."""
        from .render import draw_orienteering

        return draw_orienteering(self, state, index)


class OrienteeringEnv(RoutingEnv):
    """Face 1 of `Orienteering`: `gymnasium.make("Orienteering-v0", nodes=21)`."""

    core_class = Orienteering


class OrienteeringVectorEnv(RoutingVectorEnv):
    """Face 2 of `Orienteering`: `gymnasium.make_vec("Orienteering-v0", num_envs=1024)`."""

    core_class = Orienteering
