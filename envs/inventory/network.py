"""Supply networks: an acyclic graph of stores, warehouses and echelons, turned into arrays.

A network is given as a `networkx.DiGraph` or as a YAML file; the environment computes on the arrays
of `SupplyNetwork`. Every edge is a supply arc (supplier -> customer); a location without a supplier
buys from the outside supply, which is unlimited, over an arc whose source is -1. Source of the
model: Alvo et al., "Deep Reinforcement Learning for Inventory Networks", arXiv 2306.11246.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
from numpy.typing import NDArray

KINDS = ("echelon", "warehouse", "store")
OUTSIDE = -1  # the source of an arc that buys from the outside supply

_BUYING = ("lead", "unit_cost", "fixed_cost")
_NODE_ATTRIBUTES = ("kind", "holding", *_BUYING, "inventory_periods", "holds_stock")

Attributes = Mapping[str, Any]
# Where an attribute was written: (node or edge, attribute or None) -> "network.yaml, line 7".
Places = Mapping[tuple[Any, str | None], str]


@dataclass(frozen=True, eq=False)
class SupplyNetwork:
    """An acyclic supply network of N locations, K of them stores, and A supply arcs.

    Locations are in topological order with the K stores last; arcs are sorted by (source, target).
    The arrays are read-only. Build one with `from_graph`, `from_yaml` or a builder of
    `topologies.py`.

    Attributes:
        names: N distinct names.
        kinds: "echelon", "warehouse" or "store" for each location.
        stores: K; the stores are the locations N-K..N-1.
        holding: float64 [N], cost per unit on hand at the end of a period.
        underage: float64 [K], cost per unit short (the price, when profit is maximised).
        slots: int64 [N], length of a location's inventory vector (slot 0 is on hand, slot l arrives
            in l periods): its `inventory_periods` or the longest lead into it, if that is larger.
        holds_stock: bool [N]; False for a transshipment point, which ships all it has each period.
        source: int64 [A], index of the supplier, -1 for the outside supply.
        target: int64 [A], index of the customer.
        lead: int64 [A], periods from order to arrival, at least 1.
        unit_cost: float64 [A], cost per unit ordered.
        fixed_cost: float64 [A], cost per positive order.
    """

    names: tuple[str, ...]
    kinds: tuple[str, ...]
    stores: int
    holding: NDArray[np.float64]
    underage: NDArray[np.float64]
    slots: NDArray[np.int64]
    holds_stock: NDArray[np.bool_]
    source: NDArray[np.int64]
    target: NDArray[np.int64]
    lead: NDArray[np.int64]
    unit_cost: NDArray[np.float64]
    fixed_cost: NDArray[np.float64]

    def __post_init__(self) -> None:
        types: dict[str, Any] = {"holding": np.float64, "underage": np.float64, "slots": np.int64}
        types |= {"holds_stock": np.bool_, "source": np.int64, "target": np.int64, "lead": np.int64}
        types |= {"unit_cost": np.float64, "fixed_cost": np.float64}
        arcs = np.size(self.source)
        for name, dtype in types.items():
            array = np.array(getattr(self, name), dtype=dtype)
            nodes = name in ("holding", "slots", "holds_stock")
            length = self.stores if name == "underage" else len(self.names) if nodes else arcs
            if array.shape != (length,):
                raise ValueError(f"{name} has shape {array.shape}, allowed: ({length},)")
            array.setflags(write=False)
            object.__setattr__(self, name, array)

    @property
    def locations(self) -> int:
        """N, the number of locations."""
        return len(self.names)

    @property
    def arcs(self) -> int:
        """A, the number of supply arcs, those from outside included."""
        return len(self.source)

    @cached_property
    def reach(self) -> NDArray[np.int64]:
        """int64 [A]: lead of the arc plus the longest path of leads from its target to a store."""
        below = np.zeros(self.locations, dtype=np.int64)
        for node, out in self._suppliers_upwards():
            below[node] = (self.lead[out] + below[self.target[out]]).max()
        return self.lead + below[self.target]

    @cached_property
    def serves(self) -> NDArray[np.bool_]:
        """bool [A, K]: whether the store is the arc's target or lies below it."""
        return self._stores_below[self.target]

    @cached_property
    def _stores_below(self) -> NDArray[np.bool_]:
        """bool [N, K]; a store is below itself."""
        below = np.zeros((self.locations, self.stores), dtype=bool)
        below[self.locations - self.stores :] = np.eye(self.stores, dtype=bool)
        for node, out in self._suppliers_upwards():
            below[node] = below[self.target[out]].any(axis=0)
        return below

    def _suppliers_upwards(self) -> list[tuple[int, slice]]:
        """(location, slice of its outgoing arcs), customers before their suppliers."""
        nodes = range(self.locations - self.stores)
        starts = np.searchsorted(self.source, nodes, side="left").tolist()
        stops = np.searchsorted(self.source, nodes, side="right").tolist()
        return [(i, slice(starts[i], stops[i])) for i in reversed(nodes) if stops[i] > starts[i]]

    @classmethod
    def from_graph(
        cls,
        graph: nx.DiGraph,
        *,
        holding: float | None = None,
        underage: float | None = None,
        lead: int = 1,
        unit_cost: float = 0.0,
        fixed_cost: float = 0.0,
        inventory_periods: int = 1,
    ) -> SupplyNetwork:
        """Read a network from a directed graph; the keywords stand in for missing attributes.

        Node attributes: `kind` ("store", "warehouse" or "echelon"), `holding`, `underage` (stores
        only), `inventory_periods` (least number of inventory slots), `holds_stock` (False for a
        transshipment point), and `lead`, `unit_cost`, `fixed_cost` for what the node buys: from
        outside when it has no supplier, otherwise on each edge into it that does not give its own.
        Edge attributes: `lead`, `unit_cost`, `fixed_cost`. Stores keep the graph's order.

        Raises:
            ValueError: an attribute is missing, unknown or out of range; the graph is empty, not a
                simple directed graph or has a cycle; a store supplies another location, or has no
                supplier in a network with warehouses; no store lies below a warehouse or echelon;
                a location that holds no stock has no customer.
        """
        defaults = {"holding": holding, "underage": underage, "lead": lead, "unit_cost": unit_cost}
        defaults |= {"fixed_cost": fixed_cost, "inventory_periods": inventory_periods}
        return _network(graph, defaults, {})

    @classmethod
    def from_yaml(cls, path: str | Path) -> SupplyNetwork:
        """Read a network from a YAML file; `from_graph`'s attributes and errors, with file and
        line.

        The file has two keys: `nodes`, a mapping from name to attributes, and `edges`, a list of
        mappings with `from`, `to` and the edge attributes (left out when there is no edge).
        """
        from .network_yaml import read_graph

        graph, places = read_graph(path)
        return _network(graph, {}, places, file=str(path))

    def to_graph(self) -> nx.DiGraph:
        """The network as a graph that `from_graph` reads back into the same arrays."""
        graph = nx.DiGraph()
        for i, (name, kind) in enumerate(zip(self.names, self.kinds, strict=True)):
            graph.add_node(name, kind=kind, holding=float(self.holding[i]))
            if kind == "store":
                graph.nodes[name]["underage"] = float(self.underage[i - self.locations])
            else:
                graph.nodes[name]["holds_stock"] = bool(self.holds_stock[i])
            graph.nodes[name]["inventory_periods"] = int(self.slots[i])
        for arc in range(self.arcs):
            bought = {"lead": int(self.lead[arc]), "unit_cost": float(self.unit_cost[arc])}
            bought["fixed_cost"] = float(self.fixed_cost[arc])
            target = self.names[self.target[arc]]
            if self.source[arc] == OUTSIDE:
                graph.nodes[target].update(bought)
            else:
                graph.add_edge(self.names[self.source[arc]], target, **bought)
        return graph

    def to_yaml(self, path: str | Path) -> None:
        """Write the network as a YAML file that `from_yaml` reads back into the same arrays."""
        from .network_yaml import write_graph

        write_graph(self.to_graph(), path)


@dataclass(frozen=True)
class _Reader:
    """Checks the attributes of nodes and edges; its errors say where they were written."""

    defaults: Mapping[str, Any]
    places: Places
    file: str = ""

    def error(self, item: Any, attribute: str | None, message: str) -> ValueError:
        place = self.places.get((item, attribute)) or self.places.get((item, None)) or self.file
        name = f"edge {item[0]!r} -> {item[1]!r}" if isinstance(item, Edge) else f"node {item!r}"
        subject = f"{name}: {message}" if item is not None else message
        return ValueError(f"{place}: {subject}" if place else subject)

    def value(self, item: Any, attributes: Attributes, name: str, default: Any = None) -> Any:
        if name in attributes:
            return attributes[name]
        value = self.defaults.get(name) if default is None else default
        if value is None:
            raise self.error(item, None, f"{name} is missing, allowed: {_ALLOWED[name]}")
        return value

    def cost(self, item: Any, attributes: Attributes, name: str, default: Any = None) -> float:
        value = self.value(item, attributes, name, default)
        try:
            number = math.nan if isinstance(value, bool | str) else float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not 0.0 <= number < math.inf:
            raise self.error(item, name, f"{name} is {value!r}, allowed: {_ALLOWED[name]}")
        return number

    def periods(self, item: Any, attributes: Attributes, name: str, default: Any = None) -> int:
        value = self.value(item, attributes, name, default)
        try:
            number = 0 if isinstance(value, bool) else operator.index(value)
        except TypeError:
            number = 0
        if number < 1:
            raise self.error(item, name, f"{name} is {value!r}, allowed: {_ALLOWED[name]}")
        return number

    def known(self, item: Any, attributes: Attributes, allowed: tuple[str, ...]) -> None:
        for name in attributes:
            if name not in allowed:
                text = f"unknown attribute {name!r}, allowed: {', '.join(allowed)}"
                raise self.error(item, name, text)


class Edge(tuple[Any, Any]):
    """A (supplier, customer) pair; a class of its own because a node may be a tuple as well."""


_COST, _PERIODS = "a finite number >= 0", "an integer >= 1"
_ALLOWED = {"kind": " | ".join(KINDS), "holding": _COST, "underage": _COST, "unit_cost": _COST}
_ALLOWED |= {"fixed_cost": _COST, "lead": _PERIODS, "inventory_periods": _PERIODS}
_LAST_RESORT = {"lead": 1, "unit_cost": 0.0, "fixed_cost": 0.0, "inventory_periods": 1}


def _network(
    graph: nx.DiGraph, defaults: Mapping[str, Any], places: Places, file: str = ""
) -> SupplyNetwork:
    reader = _Reader({**_LAST_RESORT, **defaults}, places, file)
    if not isinstance(graph, nx.DiGraph) or graph.is_multigraph():
        given = type(graph).__name__
        raise ValueError(f"a supply network is a networkx.DiGraph, given: {given}")
    kinds = _read_kinds(graph, reader)
    order = _order(graph, kinds, reader)
    index = {node: i for i, node in enumerate(order)}
    names = tuple(str(node) for node in order)
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise reader.error(None, None, f"two nodes are named {twice!r}, allowed: distinct names")

    arcs = sorted(_read_arcs(graph, index, reader))
    source, target, lead, unit_cost, fixed_cost = map(np.array, zip(*arcs, strict=True))
    slots = np.array([reader.periods(n, graph.nodes[n], "inventory_periods") for n in order])
    np.maximum.at(slots, target, lead)
    stores = [node for node in order if kinds[node] == "store"]
    network = SupplyNetwork(
        names=names,
        kinds=tuple(kinds[node] for node in order),
        stores=len(stores),
        holding=np.array([reader.cost(n, graph.nodes[n], "holding") for n in order]),
        underage=np.array([reader.cost(n, graph.nodes[n], "underage") for n in stores]),
        slots=slots,
        holds_stock=np.array([_read_holds_stock(n, graph, reader) for n in order]),
        source=source,
        target=target,
        lead=lead,
        unit_cost=unit_cost,
        fixed_cost=fixed_cost,
    )
    for node, below in zip(order, np.any(network._stores_below, axis=1).tolist(), strict=True):
        if not below:
            raise reader.error(node, None, f"no store lies below this {kinds[node]}")
    return network


def _read_kinds(graph: nx.DiGraph, reader: _Reader) -> dict[Any, str]:
    kinds: dict[Any, str] = {}
    for node, attributes in graph.nodes(data=True):
        kind = reader.value(node, attributes, "kind")
        if kind not in KINDS:
            raise reader.error(node, "kind", f"kind is {kind!r}, allowed: {_ALLOWED['kind']}")
        of_kind = (*_NODE_ATTRIBUTES, "underage") if kind == "store" else _NODE_ATTRIBUTES
        reader.known(node, attributes, of_kind)
        kinds[node] = kind
    if "store" not in kinds.values():
        raise reader.error(None, None, f"{len(kinds)} nodes, no store, allowed: 1 or more stores")
    return kinds


def _order(graph: nx.DiGraph, kinds: Mapping[Any, str], reader: _Reader) -> list[Any]:
    """Topological order in which ties keep the graph's own order and the stores come last."""
    alone = all(kind == "store" for kind in kinds.values())
    for node, kind in kinds.items():
        if kind == "store" and graph.out_degree(node):
            customer = next(iter(graph.successors(node)))
            edge = Edge((node, customer))
            raise reader.error(edge, None, "a store supplies no other location")
        if kind == "store" and not alone and not graph.in_degree(node):
            raise reader.error(node, None, "a store without a supplier beside warehouses")
    place = {node: i for i, node in enumerate(graph)}
    try:
        sort = list(nx.lexicographical_topological_sort(graph, key=place.__getitem__))
    except nx.NetworkXUnfeasible:
        cycle = [edge[0] for edge in nx.find_cycle(graph)]
        path = " -> ".join(repr(node) for node in [*cycle, cycle[0]])
        edge = Edge((cycle[-1], cycle[0]))
        raise reader.error(edge, None, f"the cycle {path}, allowed: an acyclic graph") from None
    return [n for n in sort if kinds[n] != "store"] + [n for n in graph if kinds[n] == "store"]


def _read_arcs(
    graph: nx.DiGraph, index: Mapping[Any, int], reader: _Reader
) -> list[tuple[int, int, int, float, float]]:
    """(source, target, lead, unit_cost, fixed_cost) of every arc."""
    arcs = []
    for node, attributes in graph.nodes(data=True):
        lead = reader.periods(node, attributes, "lead")
        unit_cost = reader.cost(node, attributes, "unit_cost")
        fixed_cost = reader.cost(node, attributes, "fixed_cost")
        if not graph.in_degree(node):
            arcs.append((OUTSIDE, index[node], lead, unit_cost, fixed_cost))
        for supplier, _, given in graph.in_edges(node, data=True):
            edge = Edge((supplier, node))
            reader.known(edge, given, _BUYING)
            edge_lead = reader.periods(edge, given, "lead", lead)
            edge_unit = reader.cost(edge, given, "unit_cost", unit_cost)
            edge_fixed = reader.cost(edge, given, "fixed_cost", fixed_cost)
            arcs.append((index[supplier], index[node], edge_lead, edge_unit, edge_fixed))
    return arcs


def _read_holds_stock(node: Any, graph: nx.DiGraph, reader: _Reader) -> bool:
    given = graph.nodes[node].get("holds_stock", True)
    if not isinstance(given, bool | np.bool_):
        raise reader.error(node, "holds_stock", f"holds_stock is {given!r}, allowed: True | False")
    if not given and not graph.out_degree(node):
        raise reader.error(node, "holds_stock", "a location that holds no stock needs a customer")
    return bool(given)
