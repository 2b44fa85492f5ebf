"""What the demo page shows. `demo.py` fills a `DemoData`; `report.render_demo` draws it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..envs.inventory.network import SupplyNetwork
from .runner import versions
from .statistics import mean_interval

KINDS = ("learned", "heuristic", "bound")


@dataclass(frozen=True)
class DemoRow:
    """One line of the headline table.

    Attributes:
        method: its name, unique in the table.
        mean, low, high: the metric, lower is better, with its 95% interval over seeds.
        seconds: wall time of training or tuning, mean over seeds.
        kind: "learned", "heuristic", or "bound" for what no policy can go below (an oracle).
        gap: (mean - optimum) / |optimum| as a fraction, None where the optimum is not known.
        seeds: number of seeds behind the interval.
    """

    method: str
    mean: float
    low: float
    high: float
    seconds: float
    kind: str = "learned"
    gap: float | None = None
    seeds: int = 1

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind of {self.method!r} is {self.kind!r}, allowed are {KINDS}")
        numbers = (self.mean, self.low, self.high, self.seconds, self.gap or 0.0)
        if not all(map(math.isfinite, numbers)):
            raise ValueError(f"{self.method!r} has a number that is not finite: {numbers}")

    @classmethod
    def over_seeds(
        cls,
        method: str,
        values: ArrayLike,
        seconds: float,
        kind: str = "learned",
        optimum: float | None = None,
    ) -> DemoRow:
        """A line from the metric of each seed [seeds], and the optimum where it is known."""
        estimate = mean_interval(values)
        gap = None if optimum is None else (estimate.estimate - optimum) / abs(optimum)
        return cls(method, *estimate, seconds, kind, gap, len(np.asarray(values)))


class Curve(NamedTuple):
    """A learning curve: x [points], increasing; y [seeds, points], the metric."""

    x: Sequence[float]
    y: Sequence[Sequence[float]]


@dataclass(frozen=True)
class Episode:
    """What happened in a network over T periods; some tens of them read best.

    Attributes:
        network: N locations, K of them stores, A arcs.
        inventory: [T, N, slots], after each period; slot 0 on hand (negative: backlog).
        orders: [T, A], placed in each period.
        demand: [T, K], in each period.
        method: whose orders these are.
    """

    network: SupplyNetwork
    inventory: NDArray[np.float64]
    orders: NDArray[np.float64]
    demand: NDArray[np.float64]
    method: str = ""

    def __post_init__(self) -> None:
        net, periods = self.network, len(self.demand)
        shapes = {
            "inventory": (periods, net.locations, int(net.slots.max())),
            "orders": (periods, net.arcs),
            "demand": (periods, net.stores),
        }
        for name, shape in shapes.items():
            array = np.asarray(getattr(self, name), dtype=np.float64)
            if array.shape != shape or periods == 0:
                raise ValueError(f"{name} has shape {array.shape}, allowed: {shape}, T at least 1")
            object.__setattr__(self, name, array)

    @classmethod
    def from_states(
        cls,
        network: SupplyNetwork,
        states: Sequence[Mapping[str, Any]],
        method: str = "",
        index: int = 0,
    ) -> Episode:
        """From the state after each step of `InventoryNet`, batched: row `index` of each."""
        parts = {
            name: np.stack([np.asarray(state[name][index], dtype=np.float64) for state in states])
            for name in ("inventory", "orders", "demand")
        }
        return cls(network=network, method=method, **parts)

    @property
    def periods(self) -> int:
        """T."""
        return len(self.demand)

    def ordered_by(self, location: int) -> NDArray[np.float64]:
        """[T]: units that the location ordered, from all of its suppliers."""
        return self.orders[:, self.network.target == location].sum(axis=1)

    def asked_of(self, location: int) -> NDArray[np.float64]:
        """[T]: demand of a store; of a supplier, what its customers ordered from it."""
        first_store = self.network.locations - self.network.stores
        if location >= first_store:
            return self.demand[:, location - first_store]
        return self.orders[:, self.network.source == location].sum(axis=1)


@dataclass(frozen=True)
class DemoData:
    """Everything on the demo page. All text is shown as it is: HTML in it is escaped.

    Attributes:
        title: heading of the page.
        rows: the headline table, in any order; the page sorts them by mean.
        curves: method -> learning curve, drawn with the 95% interval over its seeds.
        episode: one episode of the best method, or None to leave its pictures out.
        subtitle: a sentence or two below the title: the task, the data.
        metric: what `mean` counts, for the table and the axes; lower is better.
        x_label: what the x of the curves counts.
        others: title -> rows of further tables, for tasks that the page does not draw.
        notes: one paragraph each, below the table.
        settings: name -> value, for "How to reproduce": network, demand, periods, budgets, ...
        seeds: of the runs.
        command: the command line that makes this page.
        versions: package -> version.
    """

    title: str
    rows: Sequence[DemoRow]
    curves: Mapping[str, Curve] = field(default_factory=dict)
    episode: Episode | None = None
    subtitle: str = ""
    metric: str = "cost per period and store"
    x_label: str = "environment steps"
    others: Mapping[str, Sequence[DemoRow]] = field(default_factory=dict)
    notes: Sequence[str] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    seeds: Sequence[int] = ()
    command: str = "make demo"
    versions: Mapping[str, str | None] = field(default_factory=versions)

    def __post_init__(self) -> None:
        names = [row.method for row in self.rows]
        if not names:
            raise ValueError("the demo page needs at least one row")
        if len(set(names)) < len(names):
            raise ValueError(f"every method has one row, given: {names}")
        for name, curve in self.curves.items():
            x, y = np.asarray(curve[0], dtype=float), np.asarray(curve[1], dtype=float)
            if x.ndim != 1 or y.ndim != 2 or y.shape[1] != len(x) or not y.size:
                raise ValueError(
                    f"curve {name!r} has x {x.shape} and y {y.shape}, "
                    "allowed: [points] and [seeds, points]"
                )

    @property
    def ranked(self) -> list[DemoRow]:
        """The rows, best first."""
        return ranked(self.rows)

    @property
    def best(self) -> str | None:
        """The method with the lowest mean among those that are no bound."""
        return best_policy(self.rows)


def ranked(rows: Sequence[DemoRow]) -> list[DemoRow]:
    """Rows of a table, best first."""
    return sorted(rows, key=lambda row: row.mean)


def best_policy(rows: Sequence[DemoRow]) -> str | None:
    """The method with the lowest mean among those that are no bound."""
    return next((row.method for row in ranked(rows) if row.kind != "bound"), None)
