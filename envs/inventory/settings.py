"""The settings of the HDPO benchmark (Alvo et al., arXiv 2306.11246): data, looked up by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Preset:
    """A setting of the benchmark.

    Attributes:
        topology, stores, warehouses: the network; `network` overrides the builder's defaults.
        lost_sales: whether unmet demand is lost (else backlogged).
        demand: what `make_demand` takes; None when a trace has to be given.
        horizons: split -> (periods of an episode, periods at its start that reports leave out).
        objective: "cost" or "profit".
        observe: parts of the observation.
        past: how many past demands are kept before an episode.
        initial_stock: (low, high) of the factor, drawn per slot, on the mean demand of a store.
    """

    topology: str
    lost_sales: bool
    demand: Mapping[str, Any] | None
    stores: int = 1
    warehouses: int = 0
    network: Mapping[str, Any] = field(default_factory=dict)
    horizons: Mapping[str, tuple[int, int]] = field(
        default_factory=lambda: {"train": (50, 30), "validation": (100, 60), "test": (5000, 3000)}
    )
    objective: str = "cost"
    observe: tuple[str, ...] = ("inventory",)
    past: int = 0
    initial_stock: tuple[float, float] = (0.0, 1.0)

    @property
    def periods(self) -> int:
        """Periods of a training episode."""
        return self.horizons["train"][0]

    @property
    def ignore(self) -> int:
        """Periods at the start of a training episode that reports leave out."""
        return self.horizons["train"][1]


_VARIED = {"law": "normal", "mean": ("uniform", 2.5, 7.5), "cv": ("uniform", 0.25, 0.5)}

SETTINGS: dict[str, Preset] = {
    "one_store_backlogged": Preset(
        topology="one_store",
        lost_sales=False,
        demand={"law": "normal", "mean": 5.0, "std": 1.6, "clip": True},
    ),
    "one_store_lost": Preset(
        topology="one_store", lost_sales=True, demand={"law": "poisson", "mean": 5.0}
    ),
    "serial_system": Preset(
        topology="serial",
        lost_sales=False,
        demand={"law": "normal", "mean": 5.0, "std": 2.0, "clip": True},
        warehouses=1,
    ),
    "transshipment": Preset(
        topology="transshipment",
        lost_sales=False,
        demand={**_VARIED, "correlation": 0.5, "clip": False},
        stores=5,
        warehouses=1,
    ),
    "one_warehouse_lost": Preset(
        topology="one_warehouse",
        lost_sales=True,
        demand={**_VARIED, "correlation": 0.5, "clip": True},
        stores=10,
        warehouses=1,
    ),
    "many_warehouses_lost": Preset(
        topology="many_warehouses",
        lost_sales=True,
        demand={**_VARIED, "correlation": 0.5, "clip": True},
        stores=10,
        warehouses=2,
    ),
    "favorita": Preset(
        topology="many_warehouses",
        lost_sales=True,
        demand=None,
        stores=21,
        warehouses=3,
        network={"inventory_periods": 6},
        horizons={"train": (95, 16), "validation": (37, 16), "test": (37, 16)},
        objective="profit",
        observe=("inventory", "past_demands"),
        past=16,
        initial_stock=(0.0, 0.0),
    ),
}
