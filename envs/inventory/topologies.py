"""The supply networks of the HDPO benchmark (Alvo et al., arXiv 2306.11246).

A parameter of a builder is a number, one per location, or `("uniform", low, high)`, drawn for each
location from `rng` (for leads: integers, both ends included). A builder draws the same amount from
`rng` whatever is overridden: fixing one parameter leaves the others of an instance as they were.
"""

from __future__ import annotations

from typing import Any

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from .network import SupplyNetwork
from .parameters import Parameter, count, integers, is_range, numbers, uniforms

STORE_HOLDING = ("uniform", 0.7, 1.3)
STORE_UNDERAGE = ("uniform", 6.3, 11.7)


def one_store(
    *,
    lead: Parameter = 4,
    holding: Parameter = 1.0,
    underage: Parameter = 9.0,
    inventory_periods: int = 4,
    rng: np.random.Generator | None = None,
) -> SupplyNetwork:
    """One store that buys outside."""
    draws = uniforms(rng, 3, 1)
    graph = nx.DiGraph()
    attributes = _stores(graph, 1, holding, underage, inventory_periods, draws[:2])
    attributes[0]["lead"] = _leads("lead", lead, draws[2])[0]
    return SupplyNetwork.from_graph(graph)


def serial(
    *,
    lead: Parameter = 4,
    holding: Parameter = 1.0,
    underage: Parameter = 9.0,
    warehouse_lead: Parameter = 3,
    warehouse_holding: Parameter = 0.5,
    echelon_lead: Parameter = (2, 4),
    echelon_holding: Parameter = (0.1, 0.2),
    inventory_periods: int = 4,
    rng: np.random.Generator | None = None,
) -> SupplyNetwork:
    """Echelons in series above a warehouse above a store; `echelon_lead` sets how many echelons."""
    echelons = 2 if is_range(echelon_lead) else np.size(echelon_lead)
    draws, upstream = uniforms(rng, 5, 1), uniforms(rng, 2, echelons)
    graph = nx.DiGraph()
    leads = _leads("echelon_lead", echelon_lead, upstream[0])
    holdings = _values("echelon_holding", echelon_holding, upstream[1])
    chain = [f"echelon {i + 1}" for i in range(echelons)]
    for name, its_lead, its_holding in zip(chain, leads, holdings, strict=True):
        graph.add_node(name, kind="echelon", holding=its_holding, lead=its_lead)
    graph.add_node(
        "warehouse 1",
        kind="warehouse",
        holding=_values("warehouse_holding", warehouse_holding, draws[3])[0],
        lead=_leads("warehouse_lead", warehouse_lead, draws[4])[0],
    )
    attributes = _stores(graph, 1, holding, underage, inventory_periods, draws[:2])
    attributes[0]["lead"] = _leads("lead", lead, draws[2])[0]
    nx.add_path(graph, [*chain, "warehouse 1", "store 1"])
    return SupplyNetwork.from_graph(graph)


def transshipment(
    stores: int = 5,
    *,
    lead: Parameter = 2,
    holding: Parameter = 1.0,
    underage: Parameter = 4.0,
    warehouse_lead: Parameter = 3,
    warehouse_holding: Parameter = 0.5,
    inventory_periods: int = 2,
    rng: np.random.Generator | None = None,
) -> SupplyNetwork:
    """One warehouse that may hold no stock: what reaches it is shipped to the stores at once."""
    return many_warehouses(
        stores,
        1,
        lead=lead,
        holding=holding,
        underage=underage,
        warehouse_lead=warehouse_lead,
        warehouse_holding=warehouse_holding,
        warehouse_unit_cost=0.0,
        inventory_periods=inventory_periods,
        holds_stock=False,
        rng=rng,
    )


def one_warehouse(
    stores: int = 10,
    *,
    lead: Parameter = ("uniform", 2, 3),
    holding: Parameter = STORE_HOLDING,
    underage: Parameter = STORE_UNDERAGE,
    warehouse_lead: Parameter = 3,
    warehouse_holding: Parameter = 0.3,
    warehouse_unit_cost: Parameter = 0.0,
    inventory_periods: int = 3,
    rng: np.random.Generator | None = None,
) -> SupplyNetwork:
    """One warehouse that supplies every store."""
    return many_warehouses(
        stores,
        1,
        lead=lead,
        holding=holding,
        underage=underage,
        warehouse_lead=warehouse_lead,
        warehouse_holding=warehouse_holding,
        warehouse_unit_cost=warehouse_unit_cost,
        inventory_periods=inventory_periods,
        rng=rng,
    )


def many_warehouses(
    stores: int = 10,
    warehouses: int = 2,
    *,
    lead: Parameter | None = None,
    holding: Parameter = STORE_HOLDING,
    underage: Parameter = STORE_UNDERAGE,
    warehouse_lead: Parameter = 3,
    warehouse_holding: Parameter | None = None,
    warehouse_unit_cost: Parameter | None = None,
    inventory_periods: int = 3,
    holds_stock: bool = True,
    rng: np.random.Generator | None = None,
) -> SupplyNetwork:
    """Warehouses that each supply some of the stores.

    Who supplies whom: the benchmark's tables for 10 stores and 2 warehouses, and for 21 stores and
    3 warehouses. Otherwise it is drawn: warehouses w and w + 1 share the store w (modulo the number
    of stores), so that the network is connected; every store has one warehouse, all equally likely,
    and each other pair is joined with probability 1/2. A single warehouse supplies all stores.

    Args:
        lead: leads into the stores: a number, one per store, a range drawn for each arc, or an
            array [stores, warehouses] that also says who supplies whom (0: not supplied). Default:
            the benchmark's table, or else ("uniform", 1, 6).
        warehouse_holding: default (0.3, 0.4) and (0.3, 0.4, 0.2) in the benchmark's two networks,
            otherwise ("uniform", 0.2, 0.4).
        warehouse_unit_cost: cost per unit bought outside; default (0.5, 1.5) and (0.5, 1.5, 0.7),
            otherwise ("uniform", 0.5, 1.5).
    """
    stores, warehouses = count("stores", stores), count("warehouses", warehouses)
    draws, above = uniforms(rng, 3, stores), uniforms(rng, 3, warehouses)
    pairs = uniforms(rng, 2, stores * warehouses).reshape(2, stores, warehouses)
    table, default_holding, default_unit_cost = _PUBLISHED.get(
        (stores, warehouses), (None, ("uniform", 0.2, 0.4), ("uniform", 0.5, 1.5))
    )
    joined = _joined(draws[2], pairs[0]) if table is None else np.array(table) > 0
    if lead is None:
        lead = ("uniform", 1, 6) if table is None else np.array(table)
    if not is_range(lead) and np.ndim(np.asarray(lead)) == 2:
        leads = np.asarray(lead)
        if leads.shape != (stores, warehouses):
            raise ValueError(f"lead has shape {leads.shape}, allowed: ({stores}, {warehouses})")
        joined = leads != 0
    elif is_range(lead):
        leads = np.reshape(_leads("lead", lead, pairs[1].ravel()), (stores, warehouses))
    else:
        leads = np.repeat(np.array(_leads("lead", lead, draws[2]))[:, None], warehouses, axis=1)

    graph = nx.DiGraph()
    holding_above = default_holding if warehouse_holding is None else warehouse_holding
    unit_cost = default_unit_cost if warehouse_unit_cost is None else warehouse_unit_cost
    columns = zip(
        _values("warehouse_holding", holding_above, above[0]),
        _values("warehouse_unit_cost", unit_cost, above[1]),
        _leads("warehouse_lead", warehouse_lead, above[2]),
        strict=True,
    )
    for w, (its_holding, its_cost, its_lead) in enumerate(columns):
        graph.add_node(f"warehouse {w + 1}", kind="warehouse", holding=its_holding)
        bought = {"lead": its_lead, "unit_cost": its_cost, "holds_stock": holds_stock}
        graph.nodes[f"warehouse {w + 1}"].update(bought)
    _stores(graph, stores, holding, underage, inventory_periods, draws[:2])
    for k, w in np.argwhere(joined).tolist():
        graph.add_edge(f"warehouse {w + 1}", f"store {k + 1}", lead=leads[k, w].item())
    return SupplyNetwork.from_graph(graph)


def favorita(
    *,
    lead: Parameter | None = None,
    holding: Parameter = STORE_HOLDING,
    underage: Parameter = STORE_UNDERAGE,
    warehouse_lead: Parameter = 3,
    inventory_periods: int = 6,
    rng: np.random.Generator | None = None,
) -> SupplyNetwork:
    """The benchmark's 21 stores and 3 warehouses for the sales of Corporacion Favorita."""
    return many_warehouses(
        21,
        3,
        lead=lead,
        holding=holding,
        underage=underage,
        warehouse_lead=warehouse_lead,
        inventory_periods=inventory_periods,
        rng=rng,
    )


TOPOLOGIES = {
    "one_store": one_store,
    "serial": serial,
    "transshipment": transshipment,
    "one_warehouse": one_warehouse,
    "many_warehouses": many_warehouses,
}

# Numbers that a topology has by its nature.
_FIXED: dict[str, dict[str, int]] = {
    "one_store": {"stores": 1, "warehouses": 0},
    "serial": {"stores": 1, "warehouses": 1},
    "transshipment": {"warehouses": 1},
    "one_warehouse": {"warehouses": 1},
}


def build(
    topology: str,
    *,
    stores: int | None = None,
    warehouses: int | None = None,
    rng: np.random.Generator | None = None,
    **parameters: Any,
) -> SupplyNetwork:
    """The network of a topology by name; a parameter that is None keeps the builder's default.

    Raises:
        ValueError: an unknown topology, a parameter that it does not take, or numbers of stores or
            warehouses that it cannot have.
    """
    if topology not in TOPOLOGIES:
        raise ValueError(f"topology is {topology!r}, allowed: {', '.join(TOPOLOGIES)}")
    counts = {"stores": stores, "warehouses": warehouses}
    for name, only in _FIXED.get(topology, {}).items():
        given = counts.pop(name)
        if given is not None and given != only:
            raise ValueError(f"{topology} has {name}={only}, given: {given!r}")
    chosen = {name: value for name, value in {**counts, **parameters}.items() if value is not None}
    builder: Any = TOPOLOGIES[topology]
    allowed = {*builder.__kwdefaults__, *counts} - {"rng"}
    for name in chosen:
        if name not in allowed:
            text = ", ".join(sorted(allowed))
            raise ValueError(f"{topology} takes no {name}, allowed: {text}")
    network: SupplyNetwork = builder(rng=rng, **chosen)
    return network


def _values(name: str, given: Any, draws: NDArray[np.float64]) -> list[float]:
    return [float(value) for value in numbers(name, given, draws)]


def _leads(name: str, given: Any, draws: NDArray[np.float64]) -> list[Any]:
    """One lead per location; that it is an integer >= 1 is checked with the network."""
    return list(integers(name, given, draws).tolist())


def _stores(
    graph: nx.DiGraph,
    stores: int,
    holding: Any,
    underage: Any,
    inventory_periods: int,
    draws: NDArray[np.float64],
) -> list[dict[str, Any]]:
    """Add the stores to the graph; returns the attributes of each, to be completed."""
    holdings = _values("holding", holding, draws[0])
    underages = _values("underage", underage, draws[1])
    for k in range(stores):
        graph.add_node(f"store {k + 1}", kind="store", holding=holdings[k], underage=underages[k])
        graph.nodes[f"store {k + 1}"]["inventory_periods"] = inventory_periods
    return [graph.nodes[f"store {k + 1}"] for k in range(stores)]


def _joined(draws: NDArray[np.float64], pairs: NDArray[np.float64]) -> NDArray[np.bool_]:
    """bool [stores, warehouses]: a connected adjacency, as `many_warehouses` describes it."""
    stores, warehouses = pairs.shape
    if warehouses == 1:
        return np.ones((stores, 1), dtype=bool)
    if np.isnan(pairs).any():
        raise ValueError("rng is None: drawing who supplies whom needs a generator")
    joined = pairs < 0.5
    joined[np.arange(stores), (draws * warehouses).astype(np.int64)] = True
    for w in range(warehouses - 1):
        joined[w % stores, w : w + 2] = True
    return joined


# Leads [store][warehouse] of the benchmark's two networks (0: not supplied), then the warehouses'
# holding costs and outside unit costs.
_TEN_STORES = (
    *((0, 2), (0, 1), (6, 2), (6, 2), (6, 1)),
    *((0, 2), (6, 0), (5, 2), (6, 2), (0, 2)),
)
_FAVORITA = (
    *((6, 1, 5), (6, 1, 5), (6, 1, 5), (0, 1, 5), (6, 1, 4), (5, 0, 6), (5, 2, 5)),
    *((5, 2, 5), (5, 1, 5), (5, 2, 5), (5, 0, 5), (5, 0, 0), (5, 0, 5), (5, 0, 6)),
    *((0, 1, 5), (6, 1, 5), (6, 1, 5), (6, 1, 5), (6, 1, 5), (5, 1, 4), (5, 2, 5)),
)
_PUBLISHED: dict[tuple[int, int], tuple[Any, Any, Any]] = {
    (10, 2): (_TEN_STORES, (0.3, 0.4), (0.5, 1.5)),
    (21, 3): (_FAVORITA, (0.3, 0.4, 0.2), (0.5, 1.5, 0.7)),
}
