"""`ATSP-v0`: the travelling salesman problem with distances that depend on the direction."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..base import Arrays
from .arrays import filled, rows_of
from .base import RoutingEnv, RoutingVectorEnv, chosen_row
from .generators import asymmetric_matrix
from .instance import RoutingInstance
from .sources import check_data_set, load_instance, one_source, size_of
from .tsp import ClosedTour


class ATSP(ClosedTour):
    """The asymmetric travelling salesman problem: the shortest closed tour, given a matrix.

    ## Description
    As `TSP`, but the distance from i to j may differ from the one from j to i, and nodes have no
    coordinates: what is observed is the matrix of distances.

    ## Observation
    `Box`, float32 [nodes * (nodes + 3)], a table [nodes, nodes + 3] row by row; row i is node i.

        mdp="bq":      D[i, :] / scale, remaining, is_origin, is_destination
        mdp="direct":  D[i, :] / scale, visited, is_current, is_start

    With "bq" the rows and the columns of nodes that are gone are zero. `scale` (attribute of the
    core) is 1 for generated instances, and the largest distance of a given instance or data set.

    ## Action
    `Discrete(nodes)`: the next node, one of those not visited yet (`info["action_mask"]`). Node 0
    is never feasible.

    ## Dynamics
    The tape is the matrix: integers uniform on 1 .. 10^6 off the diagonal, closed under D_ij <-
    min(D_ij, D_ik + D_kj) and divided by 10^6 (`instances`: one `rng.integers`, the row). From
    (origin o, destination z, remaining R) with action j in R the next state is (j, z, R without j).
    At the start o = z = 0 and R holds all other nodes.

    ## Reward
    -D[o, j]; for the last node also -D[j, z]. The rewards of an episode sum to minus the length of
    the tour.

    ## Episode end
    Terminated when no node remains, after nodes - 1 steps.

    ## Arguments
    - `nodes`: at least 2, 20 by default.
    - `mdp`: "bq" or "direct".
    - `instance`: a `RoutingInstance` of kind "atsp" or "tsp", or the path of a TSPLIB file: every
      episode has this instance.
    - `instances`: a data set {"matrix": [rows, nodes, nodes]} of non-negative distances, of which
      each reset draws a row, or takes row i with `reset(options={"row": i})`.

    Every episode carries its own matrix: 1,024 environments of 100 nodes take 0.2 GB.

    ## Data files
    TSPLIB's asymmetric (and symmetric) instances.

    ## Sources
    D. Drakulic et al., BQ-NCO, NeurIPS 2023, arXiv 2301.03313. G. Reinelt, TSPLIB 95 (1995).

    ## Version
    v0.
    """

    kind = "atsp"
    data = ("matrix",)

    def __init__(
        self,
        nodes: int | None = None,
        mdp: str = "bq",
        instance: RoutingInstance | str | Path | None = None,
        instances: Mapping[str, Any] | None = None,
    ) -> None:
        one_source(instance, instances)
        self.given: RoutingInstance | None = None
        self._data_set: np.ndarray | None = None
        if instance is not None:
            self.given = load_instance(instance, ("atsp", "tsp"))
            self._data_set = self.given.distance_matrix()[None]
        elif instances is not None:
            self._data_set = check_data_set(instances, {"matrix": ("n", "n")}, {})["matrix"]
            self._data_set *= ~np.eye(self._data_set.shape[1], dtype=bool)
        fixed = None if self._data_set is None else self._data_set.shape[1]
        size = size_of("nodes", nodes, 20, fixed)
        self.scale = 1.0 if self._data_set is None else float(self._data_set.max() or 1.0)
        self.flags = size
        super().__init__(mdp, size, size, size + 3)

    def draw_tape(self, rng: np.random.Generator, options: Mapping[str, Any]) -> Arrays:
        """The matrix of one instance."""
        rows = 0 if self._data_set is None or self.given is not None else len(self._data_set)
        row = chosen_row(options, rng, rows)
        if self._data_set is not None:
            return {"matrix": self._data_set[row]}
        return {"matrix": asymmetric_matrix(rng, self.size)}

    def repaint(self, table: Any, before: Arrays, after: Arrays) -> bool:
        """As in the base; with the node that is left a column vanishes, too."""
        done = super().repaint(table, before, after)
        if done and "origin" in before:
            rows, old = rows_of(before["t"]), before["origin"]
            leaves = old != before["destination"]
            table[rows[leaves], :, old[leaves]] = 0.0
        return done

    def distances(self, state: Arrays, start: Any, end: Any) -> Any:
        """Length of one edge per row, float [b], from nodes `start` to nodes `end`, int [b]."""
        return state["matrix"][rows_of(start), start, end]

    def distance_matrix(self, state: Arrays, row: int = 0) -> np.ndarray:
        """All distances of episode `row`, float64 [n, n], with zeros on the diagonal."""
        return np.asarray(state["matrix"][row], dtype=np.float64)

    def length(self, state: Arrays, row: int, walk: np.ndarray) -> float:
        """Length of a walk through the nodes `walk` int [k] of episode `row`, not closed."""
        return float(self.distance_matrix(state, row)[walk[:-1], walk[1:]].sum())

    def table(self, state: Arrays, mdp: str) -> Any:
        """[b, n, n + 3]: the matrix and the three flags."""
        matrix = self.present_part(state) if mdp == "bq" else state["matrix"]
        table = filled(matrix, (*matrix.shape[:2], self.features), 0.0, "float32")
        table[..., : self.size] = matrix / self.scale
        return self.mark(table, state, mdp)

    def present_part(self, state: Arrays) -> Any:
        """The matrix without the rows and columns of nodes that are gone."""
        matrix = state["matrix"]
        present = self.left(state)[1]
        return matrix * (present[:, :, None] & present[:, None, :])

    def quotient(self, state: Arrays) -> Arrays:
        """Matrix, origin, destination and remaining nodes of the path that is left."""
        return {**self.left(state)[0], "matrix": self.present_part(state)}


class ATSPEnv(RoutingEnv):
    """Face 1 of `ATSP`: `gymnasium.make("ATSP-v0", nodes=20)`."""

    core_class = ATSP


class ATSPVectorEnv(RoutingVectorEnv):
    """Face 2 of `ATSP`: `gymnasium.make_vec("ATSP-v0", num_envs=1024, nodes=20)`."""

    core_class = ATSP
