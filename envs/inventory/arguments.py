"""From the arguments of `InventoryNet-v0` to a network, a demand source and the rules of the
game."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np

from .demand import DemandSource, Trace, make_demand
from .network import SupplyNetwork
from .settings import SETTINGS, Preset
from .topologies import build

# What a topology, or a network of one's own, is taken to be when no setting is named.
DEFAULTS = {
    "one_store": "one_store_lost",
    "serial": "serial_system",
    "transshipment": "transshipment",
    "one_warehouse": "one_warehouse_lost",
    "many_warehouses": "many_warehouses_lost",
}
CUSTOM_DEMAND = {"law": "normal", "mean": 5.0, "cv": 0.32, "clip": True}
OF_DEMAND = ("on_negative", "split", "calendar", "calendar_columns")


@dataclass(frozen=True)
class Task:
    """What `InventoryNet` is made of.

    Attributes:
        network, demand, lost_sales, objective, observe, initial_stock: as its arguments.
        preset: the setting that the rest was taken from.
    """

    network: SupplyNetwork
    demand: DemandSource
    lost_sales: bool
    objective: str
    observe: tuple[str, ...]
    initial_stock: tuple[float, float]
    preset: Preset

    def horizon(self, past: int) -> tuple[int, int]:
        """Periods of an episode and periods to ignore: all that a trace's window holds, or the
        preset's."""
        if isinstance(self.demand, Trace):
            start, stop = self.demand.window(self.demand.split)
            periods = stop - start - past
            if periods < 1:
                raise ValueError(
                    f"{self.demand.origin}: split {self.demand.split!r} has {stop - start} weeks, "
                    f"allowed: more than the past={past} that are observed before an episode"
                )
            return periods, min(self.preset.ignore, max(periods - 1, 0))
        return self.preset.periods, self.preset.ignore


def resolve(
    setting: str | None,
    topology: str | None,
    network: SupplyNetwork | nx.DiGraph | str | Path | None,
    rng: np.random.Generator,
    *,
    stores: int | None = None,
    demand: Any = None,
    **parameters: Any,
) -> Task:
    """Read the arguments of the environment.

    Args:
        setting, topology, network: at most one of `topology` and `network`; a `setting` may be
            overridden.
        rng: draws what belongs to the task.
        stores: number of stores; a demand trace brings its own.
        demand: what `make_demand` takes; default: the setting's.
        parameters: of the demand (`on_negative`, `split`, `calendar`, `calendar_columns`) and of
            the topology's builder (`warehouses`, `lead`, `underage`, ...).

    Raises:
        ValueError: an unknown setting, or arguments that do not go together.
    """
    if topology is not None and network is not None:
        raise ValueError(f"give topology={topology!r} or a network, not both")
    if setting is not None and setting not in SETTINGS:
        raise ValueError(f"setting={setting!r}, allowed are {', '.join(SETTINGS)}")
    if topology is not None and topology not in DEFAULTS:
        raise ValueError(f"topology={topology!r}, allowed are {', '.join(DEFAULTS)}")
    about_demand = {name: parameters.pop(name) for name in OF_DEMAND if name in parameters}
    recorded = demand is not None and not isinstance(demand, Mapping)
    source = make_demand(demand, None, rng, **about_demand) if recorded else None
    if setting is None and topology is None and network is None:
        topology = "one_store" if source is not None and source.stores == 1 else "one_warehouse"
    preset = SETTINGS[setting or DEFAULTS[topology or "one_warehouse"]]
    if network is not None:
        net = own_network(network, stores, parameters)
        law = CUSTOM_DEMAND if setting is None else preset.demand
    else:
        net = preset_network(preset, topology, stores, source, parameters, rng)
        law = preset.demand
    if source is None:
        if demand is None and law is None:
            raise ValueError(
                f"setting={setting!r} needs demand=..., a trace of {net.stores} stores"
            )
        source = make_demand(demand or law, net.stores, rng, **about_demand)
    if source.stores != net.stores:
        raise ValueError(f"the demand has {source.stores} stores, the network {net.stores}")
    observe = preset.observe
    if source.series:
        observe = ("inventory", "past_demands", "season")
        if getattr(source, "calendar", None) is not None:
            observe += ("calendar",)
    return Task(
        net, source, preset.lost_sales, preset.objective, observe, preset.initial_stock, preset
    )


def own_network(
    network: SupplyNetwork | nx.DiGraph | str | Path,
    stores: int | None,
    parameters: Mapping[str, Any],
) -> SupplyNetwork:
    """A user's network; what it says cannot be said again."""
    if parameters:
        raise ValueError(f"a network of one's own says {sorted(parameters)} itself")
    if isinstance(network, str | Path):
        found = SupplyNetwork.from_yaml(network)
    elif isinstance(network, SupplyNetwork):
        found = network
    else:
        found = SupplyNetwork.from_graph(network)
    if stores is not None and stores != found.stores:
        raise ValueError(f"stores={stores}, but the network has {found.stores}")
    return found


def preset_network(
    preset: Preset,
    topology: str | None,
    stores: int | None,
    source: DemandSource | None,
    parameters: Mapping[str, Any],
    rng: np.random.Generator,
) -> SupplyNetwork:
    """The network of a topology, with the setting's parameters where none are given."""
    kind = topology or preset.topology
    if stores is None and source is not None and kind not in ("one_store", "serial"):
        stores = source.stores
    if kind == preset.topology:
        stores = preset.stores if stores is None else stores
        parameters = {"warehouses": preset.warehouses, **preset.network, **parameters}
    return build(kind, stores=stores, rng=rng, **parameters)
