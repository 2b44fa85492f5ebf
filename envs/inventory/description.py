"""What a saved policy must know of an inventory network, as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .demand import Statistics
from .network import SupplyNetwork

FIELDS = (
    *("holding", "underage", "slots", "holds_stock"),
    *("source", "target", "lead", "unit_cost", "fixed_cost"),
)
RULES = ("lost_sales", "objective", "observe", "season", "action", "periods", "ignore")


def describe(core: Any) -> dict[str, Any]:
    """Network, moments of the demand and rules of an `InventoryNet`."""
    network = {name: np.asarray(getattr(core.network, name)).tolist() for name in FIELDS}
    network |= {"names": list(core.network.names), "kinds": list(core.network.kinds)}
    demand = {name: getattr(core.demand, name).tolist() for name in ("mean", "std", "peak")}
    if "calendar" in core.observe:
        demand["calendar"] = core.calendar.tolist()
    return {
        "id": "InventoryNet-v0",
        "network": {**network, "stores": core.stores},
        "demand": demand,
        "past": max(core.past, 1),
        **{name: getattr(core, name) for name in RULES},
    }


def arguments_of(description: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the `InventoryNet` that `describe` described; its demand cannot be drawn."""
    given = {name: value for name, value in description.items() if name != "id"}
    network = dict(given.pop("network"))
    network |= {name: tuple(network[name]) for name in ("names", "kinds")}
    demand = Statistics(**given.pop("demand"))
    return {**given, "network": SupplyNetwork(**network), "demand": demand}
