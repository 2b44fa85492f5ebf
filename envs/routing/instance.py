"""A routing problem as a file gives it, and the solution of any routing problem."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .distances import COORDINATE_TYPES, edge_lengths

KINDS = ("tsp", "atsp", "cvrp")


@dataclass(frozen=True, eq=False)
class RoutingInstance:
    """One instance of a routing problem, in the units and the rounding of its file.

    Node 0 is the start of a tour, and the depot of a CVRP. Distances are those of `matrix` where
    there is one, else they follow from `coordinates` and `edge_weight_type`; a large instance
    therefore needs no matrix.

    Attributes:
        name: what the instance is called.
        kind: "tsp", "atsp" or "cvrp".
        coordinates: float64 [n, 2] in the file's units; None where it gives none.
        matrix: float64 [n, n] of non-negative distances; the diagonal is never read. None: computed
            from the coordinates.
        demands: float64 [n] (CVRP), 0 at the depot.
        capacity: of each vehicle (CVRP), at least the largest demand.
        edge_weight_type: TSPLIB's name of the distance: "EUC_2D", "CEIL_2D", "ATT", "GEO" or
            "EXPLICIT"; None: Euclidean without rounding.
        comment: the file's own.

    Raises:
        ValueError: something is missing, of the wrong shape, not finite or negative; the matrix is
            not symmetric though the kind is not "atsp"; a demand is above the capacity.
    """

    name: str
    kind: str
    coordinates: NDArray[np.float64] | None = None
    matrix: NDArray[np.float64] | None = None
    demands: NDArray[np.float64] | None = None
    capacity: float | None = None
    edge_weight_type: str | None = None
    comment: str = ""

    def __post_init__(self) -> None:
        where = f"instance {self.name!r}"
        if self.kind not in KINDS:
            raise ValueError(f"{where}: kind={self.kind!r}, allowed are {KINDS}")
        for field in ("coordinates", "matrix", "demands"):
            if (given := getattr(self, field)) is not None:
                object.__setattr__(self, field, _finite(where, field, given))
        if self.coordinates is None and self.matrix is None:
            raise ValueError(f"{where}: needs coordinates or a matrix of distances")
        self._check_shapes(where)
        if self.matrix is None:
            if self.edge_weight_type not in COORDINATE_TYPES:
                raise ValueError(
                    f"{where}: edge_weight_type={self.edge_weight_type!r} needs a matrix; without "
                    f"one, allowed are {COORDINATE_TYPES}"
                )
        else:
            check_matrix(where, self.matrix, symmetric=self.kind != "atsp")
        self._check_demands(where)

    @property
    def nodes(self) -> int:
        """Number of nodes, depot included."""
        given = self.coordinates if self.matrix is None else self.matrix
        assert given is not None  # __post_init__ has seen to it
        return len(given)

    def distances(self, start: Any, end: Any) -> NDArray[np.float64]:
        """Lengths of the edges from nodes `start` to nodes `end`, int arrays that broadcast."""
        if self.matrix is not None:
            return self.matrix[start, end]
        assert self.coordinates is not None
        lengths = edge_lengths(
            self.coordinates[start], self.coordinates[end], self.edge_weight_type
        )
        # TSPLIB's GEO formula gives 1 between a point and itself.
        return np.where(np.equal(start, end), 0.0, lengths)

    def distance_matrix(self) -> NDArray[np.float64]:
        """All distances, [n, n], with zeros on the diagonal (8 n^2 bytes)."""
        every = np.arange(self.nodes)
        matrix = np.array(self.distances(every[:, None], every[None, :]))
        np.fill_diagonal(matrix, 0.0)
        return matrix

    def _check_shapes(self, where: str) -> None:
        n = self.nodes
        if n < 2:
            raise ValueError(f"{where}: has {n} node, allowed are at least 2")
        for field, shape in (("coordinates", (n, 2)), ("matrix", (n, n)), ("demands", (n,))):
            given = getattr(self, field)
            if given is not None and given.shape != shape:
                raise ValueError(
                    f"{where}: {field} has shape {given.shape}, with {n} nodes it must be {shape}"
                )

    def _check_demands(self, where: str) -> None:
        given = [field for field in ("demands", "capacity") if getattr(self, field) is not None]
        if self.kind != "cvrp":
            if given:
                raise ValueError(f"{where}: {given[0]} belongs to kind 'cvrp', not {self.kind!r}")
            return
        if self.demands is None or self.capacity is None:
            raise ValueError(f"{where}: kind 'cvrp' needs demands and capacity, got {given}")
        object.__setattr__(self, "capacity", float(self.capacity))
        check_demands(where, self.demands, self.capacity)


@dataclass(frozen=True, eq=False)
class Solution:
    """What an episode has built.

    Attributes:
        kind: "tsp", "atsp", "cvrp", "orienteering" or "knapsack".
        objective: length of the tour or the routes (to be small) in the instance's own rounding, or
            value of what was collected (to be large).
        tour: int64, nodes in the order of visit, from node 0, which is not repeated at the end
            (TSP, ATSP, orienteering).
        routes: one int64 array per vehicle, customers in the order of visit without the depot
            (CVRP).
        items: int64, items in the order in which they were taken (knapsack).
    """

    kind: str
    objective: float
    tour: NDArray[np.int64] | None = None
    routes: list[NDArray[np.int64]] | None = None
    items: NDArray[np.int64] | None = None


def check_matrix(where: str, matrix: NDArray[np.float64], symmetric: bool) -> None:
    """Raise a ValueError unless the distances are good ones.

    Args:
        where: whose they are, for the message.
        matrix: [n, n], finite; the diagonal is not looked at.
        symmetric: whether both directions must be equally long.
    """
    off = ~np.eye(len(matrix), dtype=bool)
    if (bad := np.argwhere((matrix < 0) & off)).size:
        i, j = (int(k) for k in bad[0])
        raise ValueError(f"{where}: the distance {matrix[i, j]:g} of {i} to {j} is negative")
    if symmetric and (bad := np.argwhere(matrix != matrix.T)).size:
        i, j = (int(k) for k in bad[0])
        raise ValueError(
            f"{where}: the matrix is asymmetric ({matrix[i, j]:g} from {i} to {j}, "
            f"{matrix[j, i]:g} back): only ATSP takes such a one"
        )


def check_demands(where: str, demands: NDArray[np.float64], capacity: float) -> None:
    """Raise a ValueError unless demands [n] and a vehicle's capacity are good ones."""
    if not (np.isfinite(capacity) and capacity > 0):
        raise ValueError(f"{where}: capacity={capacity:g}, it must be a positive number")
    if demands[0] != 0:
        raise ValueError(f"{where}: the depot (node 0) has demand {demands[0]:g}, it must be 0")
    outside = (demands < 0) | (demands > capacity)
    if outside.any():
        node = int(np.flatnonzero(outside)[0])
        raise ValueError(
            f"{where}: node {node} has demand {demands[node]:g}, outside 0 .. capacity {capacity:g}"
        )


def _finite(where: str, field: str, given: Any) -> NDArray[np.float64]:
    values = np.array(given, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f"{where}: {field} holds values that are not finite")
    return values
