"""Solved instances to imitate: read, checked, and brought into the order of their solutions."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

ROUNDING = 1e-6  # what a budget may be exceeded by, as in the environment; a capacity by that share

# Arrays of the instances (as the environments' `instances` have them) and of the solutions.
NAMES = {
    "tsp": ("coordinates", "tour"),
    "atsp": ("matrix", "tour"),
    "cvrp": ("coordinates", "demands", "capacity", "tour", "via"),
    "orienteering": ("coordinates", "prizes", "budget", "tour"),
    "knapsack": ("values", "weights", "capacity", "taken"),
}


class SolvedInstances:
    """m instances of n nodes or items with one solution each.

    Args:
        kind: "tsp", "atsp", "cvrp", "orienteering" or "knapsack".
        source: arrays, or the path of an `.npz` file of them:

            coordinates [m, n, 2], matrix [m, n, n], demands, prizes, values, weights [m, n],
            capacity, budget [m] or one number: the instances, node 0 the start or depot;
            tour int [m, n]: nodes in order from node 0 (orienteering: then -1); for a CVRP the
            customers int [m, n - 1], and via bool [m, n - 1], whether each is reached through
            the depot;
            taken bool [m, n]: what a knapsack takes.

            Other arrays (such as objective) are not looked at.

    Raises:
        ValueError: an array is missing or of the wrong shape, or a solution is not feasible.
    """

    def __init__(self, kind: str, source: Mapping[str, Any] | str | Path) -> None:
        self.kind = kind
        self.where = "demonstrations"
        if not isinstance(source, Mapping):
            self.where = str(source)
            with np.load(source, allow_pickle=False) as file:
                source = {name: file[name] for name in file.files}
        if missing := sorted(set(NAMES[kind]) - set(source)):
            raise ValueError(
                f"{self.where}: {missing} missing; a {kind} needs {list(NAMES[kind])}, "
                f"got {sorted(source)}"
            )
        self.arrays = {name: np.asarray(source[name]) for name in NAMES[kind]}
        first = self.arrays[NAMES[kind][0]]
        if first.ndim < 2 or not len(first):
            raise ValueError(f"{self.where}: {NAMES[kind][0]} has shape {first.shape}")
        self.m, self.n = first.shape[:2]
        for name in {"capacity", "budget"} & set(self.arrays):
            self.arrays[name] = np.array(np.broadcast_to(self.arrays[name], (self.m,)))
        self._check_shapes()
        self.columns: dict[str, NDArray[Any]] = ORDER[kind](self)

    def __len__(self) -> int:
        return self.m

    def tensors(self, device: torch.device | str) -> dict[str, torch.Tensor]:
        """Rows in the order of the solution, as float32 or bool and int64:

        - `nodes` [m, n, f]: x, y; ATSP: the matrix, rows and columns in order; CVRP: x, y,
          demand / capacity; orienteering: x, y, prize / 100; knapsack: value / 1000, weight / 1000;
        - `left` [m, n]: capacity / capacity of a full vehicle (CVRP) or budget (orienteering) left
          at each place;
        - `via` bool [m, n] (CVRP); `length` int [m], places that a solution visits (orienteering);
          `taken` bool [m, n] and `capacity` [m] / 1000 (knapsack).
        """
        found = {}
        for name, value in self.columns.items():
            tensor = torch.as_tensor(value, device=device)
            found[name] = tensor.float() if tensor.is_floating_point() else tensor
        return found

    def digest(self) -> str:
        """SHA-256 of the arrays: what tells one data set from another."""
        found = hashlib.sha256()
        for name, array in sorted(self.arrays.items()):
            found.update(f"{name} {array.shape} {array.dtype}".encode())
            found.update(np.ascontiguousarray(array).tobytes())
        return found.hexdigest()

    # -- checks ------------------------------------------------------------------------------------

    def _check_shapes(self) -> None:
        m, n = self.m, self.n
        customers = n - 1 if self.kind == "cvrp" else n
        shapes = {
            **{"coordinates": (m, n, 2), "matrix": (m, n, n), "capacity": (m,), "budget": (m,)},
            **{"tour": (m, customers), "via": (m, customers)},
        }
        for name, array in self.arrays.items():
            shape = shapes.get(name, (m, n))
            if array.shape != shape:
                raise ValueError(f"{self.where}: {name} has shape {array.shape}, expected {shape}")
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise ValueError(f"{self.where}: {name} holds numbers that are not finite")
        for name, kinds in {"tour": "iu", "via": "b", "taken": "b"}.items():
            if name in self.arrays and self.arrays[name].dtype.kind not in kinds:
                raise ValueError(f"{self.where}: {name} has type {self.arrays[name].dtype}")

    def _refuse(self, wrong: Any, what: str) -> None:
        """ValueError where any row, bool [m], is wrong."""
        if wrong.any():
            raise ValueError(f"{self.where}: solution {int(wrong.argmax())} {what}")

    # -- order -------------------------------------------------------------------------------------

    def _order(self, tour: NDArray[Any]) -> NDArray[np.int64]:
        """A whole tour as an index [m, n], checked."""
        order = tour.astype(np.int64)
        self._refuse(order[:, 0] != 0, "does not start at node 0")
        complete = (np.sort(order, axis=1) == np.arange(self.n)).all(axis=1)
        self._refuse(~complete, f"does not visit each of the nodes 0 .. {self.n - 1} once")
        return order

    def _in_order(self, name: str, order: NDArray[np.int64]) -> NDArray[np.float64]:
        array = self.arrays[name].astype(np.float64)
        return np.take_along_axis(array, order.reshape(*order.shape, *[1] * (array.ndim - 2)), 1)

    def _tsp(self) -> dict[str, NDArray[Any]]:
        return {"nodes": self._in_order("coordinates", self._order(self.arrays["tour"]))}

    def _atsp(self) -> dict[str, NDArray[Any]]:
        order = self._order(self.arrays["tour"])
        matrix = np.take_along_axis(self._in_order("matrix", order), order[:, None], 2)
        matrix[:, np.arange(self.n), np.arange(self.n)] = 0.0
        return {"nodes": matrix}

    def _cvrp(self) -> dict[str, NDArray[Any]]:
        order = self._order(np.pad(self.arrays["tour"], ((0, 0), (1, 0))))
        via = np.pad(self.arrays["via"], ((0, 0), (1, 0)))
        demands = self._in_order("demands", order)
        capacity = self.arrays["capacity"].astype(np.float64)[:, None]
        left = capacity_left(demands, via, capacity)
        self._refuse(
            (left < -ROUNDING * capacity).any(axis=1), "loads a vehicle with more than its capacity"
        )
        points = self._in_order("coordinates", order)
        nodes = np.concatenate([points, (demands / capacity)[..., None]], axis=2)
        return {"nodes": nodes, "left": left / capacity, "via": via}

    def _orienteering(self) -> dict[str, NDArray[Any]]:
        tour = self.arrays["tour"].astype(np.int64)
        visited = tour >= 0
        length = visited.sum(axis=1)
        gaps = (visited != (np.arange(self.n) < length[:, None])).any(axis=1)
        self._refuse(gaps, "has -1 before its end")
        seen = np.zeros((self.m, self.n + 1), dtype=bool)
        np.put_along_axis(seen, tour, True, axis=1)  # -1 is the place behind the last
        # The nodes that are left out come after those that are visited.
        rest = np.argsort(seen[:, :-1], axis=1, kind="stable")
        place = np.maximum(np.arange(self.n) - length[:, None], 0)
        order = self._order(np.where(visited, tour, np.take_along_axis(rest, place, axis=1)))
        points = self._in_order("coordinates", order)
        budget = self.arrays["budget"].astype(np.float64)[:, None]
        left = budget_left(points, budget)
        last = np.arange(self.m), np.maximum(length - 1, 0)
        home = np.linalg.norm(points[last] - points[:, 0], axis=1)
        self._refuse(left[last] - home < -ROUNDING, "is longer than its budget")
        prizes = self._in_order("prizes", order) / 100
        nodes = np.concatenate([points, prizes[..., None]], axis=2)
        return {"nodes": nodes, "left": left, "length": length}

    def _knapsack(self) -> dict[str, NDArray[Any]]:
        value, weight, capacity = (
            self.arrays[name].astype(np.float64) / 1000 for name in NAMES["knapsack"][:3]
        )
        taken = self.arrays["taken"]
        load = (self.arrays["weights"] * taken).sum(axis=1)
        self._refuse(load > self.arrays["capacity"], "weighs more than its capacity")
        return {"nodes": np.stack([value, weight], 2), "capacity": capacity, "taken": taken}


ORDER: dict[str, Callable[[SolvedInstances], dict[str, NDArray[Any]]]] = {
    "tsp": SolvedInstances._tsp,
    "atsp": SolvedInstances._atsp,
    "cvrp": SolvedInstances._cvrp,
    "orienteering": SolvedInstances._orienteering,
    "knapsack": SolvedInstances._knapsack,
}


def capacity_left(
    demands: NDArray[np.float64], via: NDArray[np.bool_], capacity: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Capacity left in the vehicle after each customer, [m, n].

    Args:
        demands: [m, n] in the order of the visits, the depot (0) first.
        via: bool [m, n], whether the vehicle came through the depot.
        capacity: [m, 1].
    """
    total = demands.cumsum(axis=1)
    # The load at the last visit of the depot: loads only grow, so it is the largest one so far.
    unloaded = np.maximum.accumulate((total - demands) * via, axis=1)
    return capacity - (total - unloaded)


def budget_left(points: NDArray[np.float64], budget: NDArray[np.float64]) -> NDArray[np.float64]:
    """Budget left at each place of a walk through points [m, n, 2] in order, [m, n].

    Args:
        budget: [m, 1].
    """
    steps = np.linalg.norm(np.diff(points, axis=1), axis=2).cumsum(axis=1)
    return budget - np.pad(steps, ((0, 0), (1, 0)))
