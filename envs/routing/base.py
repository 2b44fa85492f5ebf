"""What the routing environments share: two views of one problem, and walks from node to node.

A constructive solver builds a solution step by step. `mdp="direct"` takes the partial solution
itself as the state. `mdp="bq"` takes the instance that is left (the bisimulation quotient of the
former: partial solutions with the same future are one state). The same actions are feasible and pay
the same in both; `quotient` maps a state of either to the instance left, in one canonical form.

Source: D. Drakulic, S. Michel, F. Mai, A. Sors, J.-M. Andreoli, BQ-NCO: Bisimulation Quotienting
for Efficient Neural Combinatorial Optimization, NeurIPS 2023, arXiv 2301.03313.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces

from ..base import ArrayCore, Arrays, check_in_space
from ..faces import ArrayEnv, ArrayVectorEnv
from ..spaces import FeasibleDiscrete
from .arrays import base_of, duplicate, filled, namespace, rows_of, written
from .distances import edge_lengths
from .instance import RoutingInstance, Solution

MDPS = ("bq", "direct")


class RoutingCore(ArrayCore):
    """A problem whose solution is built one element (node or item) at a time.

    State, besides what a problem adds: `t` [b], steps taken; `tour` [b, n] int32, elements in the
    order in which they were chosen, -1 where there is none yet. The tour is a record for
    `solution` and pictures; nothing that happens depends on it, and a quotient has none.

    Args:
        mdp: "bq" or "direct".
        size: number of elements.
        actions: number of actions.
        features: columns of the observed table.
        high: largest value of each column, float [features].

    Attributes:
        kind: "tsp", "atsp", "cvrp", "orienteering" or "knapsack".
    """

    kind: ClassVar[str]

    def __init__(self, mdp: str, size: int, actions: int, features: int, high: Any = 1.0) -> None:
        if mdp not in MDPS:
            raise ValueError(f"mdp={mdp!r}, allowed are {MDPS}")
        self.mdp = mdp
        self.size = size
        self.features = features
        bound = np.broadcast_to(np.asarray(high, dtype=np.float32), (size, features))
        self.observation_space = spaces.Box(np.zeros_like(bound).ravel(), bound.flatten())
        self.action_space = FeasibleDiscrete(actions)

    # -- what a problem writes ---------------------------------------------------------------------

    def table(self, state: Arrays, mdp: str) -> Any:
        """What is observed of a state in the form `mdp`, float32 [b, n, features]."""
        raise NotImplementedError

    def repaint(self, table: Any, before: Arrays, after: Arrays) -> bool:
        """Turn the table of the state `before`, in place, into the one of `after`.

        One step of every row has led from one to the other. This is much faster than `table`.

        Returns:
            False, and the table as it was, where the problem has no such short cut.
        """
        return False

    def quotient(self, state: Arrays) -> Arrays:
        """The instance that a state of either MDP leaves to be solved: a state of mdp="bq".

        Its form is canonical: the data of elements that are gone are zero, and `t` counts them; it
        has no `tour`. Partial solutions of one instance with the same future therefore give equal
        arrays, and the functions of a core with mdp="bq" run on them.
        """
        raise NotImplementedError

    def solution(self, state: Arrays, row: int = 0) -> Solution:
        """The solution that episode `row` of a batch has built.

        Raises:
            ValueError: it is not complete yet (TSP, ATSP and CVRP).
        """
        raise NotImplementedError

    def why_infeasible(self, state: Arrays, row: int, action: int) -> str:
        """What speaks against an action that is infeasible."""
        raise NotImplementedError

    def feasible(self, state: Arrays, action: Any) -> Any:
        """Whether the action of each row is feasible, bool [b]."""
        masks = self.action_masks(state)
        assert masks is not None
        return masks[rows_of(action), action]

    # -- what every problem gets -------------------------------------------------------------------

    def observation(self, state: Arrays) -> Any:
        """The table row by row, float32 [b, n * features]."""
        return self.table(state, self.mdp).reshape(len(state["t"]), -1)

    def check_action(self, action: Any, state: Arrays) -> Any:
        """The batched action, int64 [b].

        Raises:
            ValueError: wrong shape or type, outside the space, or infeasible where it is taken.
        """
        actions = check_in_space(self.action_space, action)
        feasible = self.feasible(state, actions)
        if not feasible.all():
            row = int(np.flatnonzero(~feasible)[0])
            reason = self.why_infeasible(state, row, int(actions[row]))
            raise ValueError(
                f"action {actions[row]} of sub-environment {row} is infeasible: {reason}"
            )
        return actions


class NodeCore(RoutingCore):
    """A problem in which one walks from node to node, from node 0 and back to it.

    State besides `t`, `tour` and the arrays of the instance:

    - mdp="bq": `origin` [b], where one is; `destination` [b], where the walk ends (node 0);
      `remaining` bool [b, n], the nodes that can still be visited;
    - mdp="direct": `current` [b], where one is; `visited` bool [b, n].

    `coordinates` float64 [b, n, 2] are in the unit square, as observed. Distances are those between
    them, unless the core was given an instance of a file: then they are the file's.

    Attributes:
        data: names of the arrays of the instance, in tape and state.
        flags: the column of the table that says `remaining` or `visited`; the next one says
            whether one is there.
    """

    arrays: ClassVar[tuple[str, ...]] = ("_points", "_matrix")
    data: ClassVar[tuple[str, ...]]
    flags: int

    def __init__(
        self,
        mdp: str,
        size: int,
        actions: int,
        features: int,
        high: Any = 1.0,
        instance: RoutingInstance | None = None,
    ) -> None:
        super().__init__(mdp, size, actions, features, high)
        self.horizon = size - 1
        self.instance = instance
        self._points, self._matrix = np.zeros((0, 2)), np.zeros((0, 0))
        if instance is not None and instance.matrix is not None:
            self._matrix = instance.distance_matrix()
        elif instance is not None:
            assert instance.coordinates is not None
            self._points = instance.coordinates

    # -- distances ---------------------------------------------------------------------------------

    def distances(self, state: Arrays, start: Any, end: Any) -> Any:
        """Length of one edge per row, float [b], from nodes `start` to nodes `end`, int [b]."""
        if len(self._matrix):
            return self._matrix[start, end]
        xp = namespace(start)
        if self.instance is None:
            points, first = state["coordinates"].reshape(-1, 2), base_of(start, self.size)
            return edge_lengths(
                xp.take(points, first + start, axis=0), xp.take(points, first + end, axis=0)
            )
        kind = self.instance.edge_weight_type
        points = self._points
        lengths = edge_lengths(xp.take(points, start, axis=0), xp.take(points, end, axis=0), kind)
        # TSPLIB's GEO formula gives 1 between a point and itself.
        return lengths * (start != end) if kind == "GEO" else lengths

    def distance_matrix(self, state: Arrays, row: int = 0) -> np.ndarray:
        """All distances of episode `row`, float64 [n, n], with zeros on the diagonal."""
        if self.instance is not None:
            return self.instance.distance_matrix()
        points = np.asarray(state["coordinates"][row], dtype=np.float64)
        return edge_lengths(points[:, None], points[None, :])

    def length(self, state: Arrays, row: int, walk: np.ndarray) -> float:
        """Length of a walk through the nodes `walk` int [k] of episode `row`, not closed."""
        if len(walk) < 2:
            return 0.0
        if self.instance is not None:
            return float(self.instance.distances(walk[:-1], walk[1:]).sum())
        points = np.asarray(state["coordinates"][row], dtype=np.float64)[walk]
        return float(edge_lengths(points[:-1], points[1:]).sum())

    # -- walking -----------------------------------------------------------------------------------

    def start(self, data: Arrays) -> Arrays:
        """The state at node 0 before the first step.

        Args:
            data: arrays of the instance [b, n, ...]; the state refers to them.
        """
        like = next(iter(data.values()))
        shape = (len(like), self.size)
        state = {"t": filled(like, shape[:1], 0, "int64"), **data}
        state["tour"] = filled(like, shape, -1, "int32")
        state["tour"][:, 0] = 0
        seen = filled(like, shape, False, "bool")
        seen[:, 0] = True
        if self.mdp == "direct":
            return {**state, "current": state["t"] + 0, "visited": seen}
        return {
            **state,
            "origin": state["t"] + 0,
            "destination": state["t"] + 0,
            "remaining": ~seen,
        }

    def place(self, state: Arrays) -> Any:
        """Where one is, int [b]."""
        return state["origin" if "origin" in state else "current"]

    def home(self, state: Arrays) -> Any:
        """Where the walk ends, int [b]."""
        return state["destination"] if "destination" in state else 0 * state["current"]

    def unvisited(self, state: Arrays) -> Any:
        """Nodes that can still be visited, bool [b, n]; a new array."""
        return duplicate(state["remaining"]) if "remaining" in state else ~state["visited"]

    def visit(self, state: Arrays, node: Any) -> Arrays:
        """The state after going to `node` int [b]."""
        after = {**state, "t": state["t"] + 1}
        base = base_of(node, self.size)
        if "tour" in state:
            after["tour"] = written(state["tour"], base + after["t"], node)
        if "origin" in state:
            after["origin"] = node
            after["remaining"] = written(state["remaining"], base + node, False)
        else:
            after["current"] = node
            after["visited"] = written(state["visited"], base + node, True)
        return after

    def repaint(self, table: Any, before: Arrays, after: Arrays) -> bool:
        """As in the base: only the rows of the node that is left and of the new one change."""
        base = base_of(after["t"], self.size)
        old, new = base + self.place(before), base + self.place(after)
        flat = table.reshape(-1, self.features)
        if "origin" in after:
            # The row of the node that is left vanishes, unless one comes back to it at the end.
            leaves = before["origin"] != before["destination"]
            flat[old if leaves.all() else old[leaves]] = 0.0
        # One column after the other: that is several times faster than flat[new, column].
        flat[:, self.flags][new] = 0.0 if "origin" in after else 1.0
        flat[:, self.flags + 1][old] = 0.0
        flat[:, self.flags + 1][new] = 1.0
        return True

    def left(self, state: Arrays) -> tuple[Arrays, Any]:
        """The part of a quotient that every walk has, and which nodes it still has, bool [b, n]."""
        remaining, origin = self.unvisited(state), self.place(state)
        destination, rows = self.home(state), rows_of(origin)
        present = duplicate(remaining)
        present[rows, origin] = True
        present[rows, destination] = True
        xp = namespace(origin)
        part = {
            "t": self.size - 1 - xp.sum(xp.astype(remaining, xp.int64), axis=1),
            "origin": origin,
            "destination": destination,
            "remaining": remaining,
        }
        return part, present

    def action_masks(self, state: Arrays) -> Any:
        """Nodes that can be visited now, bool [b, n]."""
        return self.unvisited(state)

    def feasible(self, state: Arrays, action: Any) -> Any:
        """Whether the node of each row can be visited now, bool [b]."""
        place = base_of(action, self.size) + action
        if "remaining" in state:
            return state["remaining"].reshape(-1)[place]
        return ~state["visited"].reshape(-1)[place]

    def terminal(self, state: Arrays) -> Any:
        """Every node has been visited."""
        return state["t"] >= self.size - 1

    def why_infeasible(self, state: Arrays, row: int, action: int) -> str:
        """A node can be visited only once, and node 0 not at all."""
        if action == 0:
            return "node 0 is where the walk starts and ends"
        return f"node {action} has been visited"

    def finished_tour(self, state: Arrays, row: int) -> np.ndarray:
        """Nodes in the order of visit, int64 [n].

        Raises:
            ValueError: nodes are missing.
        """
        tour = self.walked(state, row)
        if len(tour) < self.size:
            raise ValueError(
                f"the solution of sub-environment {row} is not complete: {len(tour)} of "
                f"{self.size} nodes have been visited"
            )
        return tour

    def walked(self, state: Arrays, row: int) -> np.ndarray:
        """Nodes visited so far in the order of visit, int64 [k], node 0 first."""
        return np.asarray(state["tour"][row][: int(state["t"][row]) + 1]).astype(np.int64)


class _Solving:
    """What the faces of a routing problem add."""

    core: Any
    state: Arrays

    def solution(self, row: int = 0) -> Solution:
        """What the episode (of sub-environment `row`) has built, with its length or value.

        It can be read until the next reset, also after the last step, unless a vector with
        autoreset_mode SAME_STEP has begun another episode.

        Raises:
            ValueError: the solution is not complete yet (TSP, ATSP and CVRP).
        """
        return self.core.solution(self.state, row)


class RoutingEnv(_Solving, ArrayEnv):
    """Face 1 of a routing problem."""


class RoutingVectorEnv(_Solving, ArrayVectorEnv):
    """Face 2 of a routing problem. It keeps the table that it showed last, to repaint it."""

    _table: Any = None
    _shown: Arrays | None = None  # the state whose table it is
    _stepped: tuple[Arrays, Arrays] | None = None  # states before and after a step of every row

    def _step_rows(self, rows: Any, actions: np.ndarray) -> Any:
        before = self.state
        result = super()._step_rows(rows, actions)
        self._stepped = (before, self.state) if isinstance(rows, slice) else None
        return result

    def _observe(self) -> Any:
        # States are never written into: the same dictionary is the same state.
        before, after = self._stepped or (None, None)
        follows = before is not None and before is self._shown and after is self.state
        if not (follows and self.core.repaint(self._table, before, after)):
            self._table = self.core.table(self.state, self.core.mdp)
        self._shown, self._stepped = self.state, None
        return self._table.reshape(self.num_envs, -1).copy()


def chosen_row(options: Mapping[str, Any], rng: np.random.Generator, rows: int) -> int:
    """Which row of a data set the next episode takes: `options["row"]`, else one drawn.

    The draw is made in both cases, so that what follows does not depend on the option.

    Raises:
        ValueError: there is no such row, or no data set.
    """
    drawn = int(rng.integers(rows)) if rows else 0
    if "row" not in options:
        return drawn
    row = options["row"]
    if not rows:
        raise ValueError("options['row'] chooses a row of a data set: give `instances`")
    if isinstance(row, bool) or not isinstance(row, int | np.integer) or not 0 <= row < rows:
        raise ValueError(f"options['row'] is {row!r}, allowed are the integers 0 .. {rows - 1}")
    return int(row)
