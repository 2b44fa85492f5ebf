"""Supply networks: what the presets hold, what a graph or a file may say, and how errors read."""

from __future__ import annotations

import time
from dataclasses import fields

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palaestra.envs.inventory import topologies
from palaestra.envs.inventory.network import SupplyNetwork
from palaestra.envs.inventory.settings import SETTINGS


def rng(seed=0):
    return np.random.default_rng(seed)


def assert_same(left, right):
    for field in fields(SupplyNetwork):
        a, b = getattr(left, field.name), getattr(right, field.name)
        assert np.array_equal(a, b), field.name


def pair(**edge):
    """One warehouse above one store."""
    graph = nx.DiGraph()
    graph.add_node("w", kind="warehouse", holding=0.3, lead=3)
    graph.add_node("s", kind="store", holding=1.0, underage=9.0)
    graph.add_edge("w", "s", **edge)
    return graph


def lead_table(network, warehouses):
    table = np.zeros((network.stores, warehouses), dtype=int)
    inner = network.source >= 0
    table[network.target[inner] - warehouses, network.source[inner]] = network.lead[inner]
    return table


# -- presets -------------------------------------------------------------------------------------


def test_one_store_buys_outside():
    network = topologies.one_store(lead=2, underage=19.0)
    assert network.names == ("store 1",)
    assert (network.source.tolist(), network.target.tolist()) == ([-1], [0])
    assert (network.lead.tolist(), network.slots.tolist()) == ([2], [4])
    assert (network.holding.tolist(), network.underage.tolist()) == ([1.0], [19.0])
    assert topologies.one_store(lead=20).slots.tolist() == [20]


def test_serial_system_of_the_paper():
    network = topologies.serial()
    assert network.names == ("echelon 1", "echelon 2", "warehouse 1", "store 1")
    assert network.holding.tolist() == [0.1, 0.2, 0.5, 1.0]
    assert network.lead.tolist() == [2, 4, 3, 4]
    assert network.source.tolist() == [-1, 0, 1, 2]
    assert network.reach.tolist() == [13, 11, 7, 4]


def test_transshipment_point_holds_no_stock():
    network = topologies.transshipment(3)
    assert network.holds_stock.tolist() == [False, True, True, True]
    assert network.lead.tolist() == [3, 2, 2, 2]
    assert network.underage.tolist() == [4.0] * 3
    assert network.unit_cost.tolist() == [0.0] * 4


def test_one_warehouse_draws_costs_and_leads_in_the_ranges_of_the_paper():
    network = topologies.one_warehouse(50, rng=rng())
    assert network.arcs == 51
    assert network.holding[0] == 0.3
    assert network.lead[0] == 3
    assert set(network.lead[1:].tolist()) == {2, 3}
    assert network.holding[1:].min() >= 0.7
    assert network.holding[1:].max() <= 1.3
    assert network.underage.min() >= 6.3
    assert network.underage.max() <= 11.7
    assert np.ptp(network.underage) > 4.0
    assert_same(network, topologies.one_warehouse(50, rng=rng()))


def test_overriding_one_parameter_leaves_the_others_of_the_instance():
    drawn = topologies.one_warehouse(6, rng=rng())
    fixed = topologies.one_warehouse(6, lead=5, underage=range(1, 7), rng=rng())
    assert np.array_equal(drawn.holding, fixed.holding)
    assert fixed.lead.tolist() == [3, 5, 5, 5, 5, 5, 5]
    assert fixed.underage.tolist() == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]


def test_many_warehouses_has_the_published_table():
    network = topologies.many_warehouses(rng=rng())
    table = lead_table(network, 2)
    assert table[:, 0].tolist() == [0, 0, 6, 6, 6, 0, 6, 5, 6, 0]
    assert table[:, 1].tolist() == [2, 1, 2, 2, 1, 2, 0, 2, 2, 2]
    assert network.holding[:2].tolist() == [0.3, 0.4]
    assert network.unit_cost[:2].tolist() == [0.5, 1.5]
    assert network.unit_cost[2:].tolist() == [0.0] * 15
    assert network.serves[0].tolist() == (table[:, 0] > 0).tolist()


def test_favorita_has_the_published_network():
    network = topologies.favorita(rng=rng())
    table = lead_table(network, 3)
    assert (network.locations, network.stores, network.arcs) == (24, 21, 58)
    assert (table > 0).sum(axis=0).tolist() == [19, 16, 20]
    assert table.max(axis=0).tolist() == [6, 2, 6]
    assert table[11].tolist() == [5, 0, 0]
    assert network.slots.tolist() == [3] * 3 + [6] * 21
    assert network.holding[:3].tolist() == [0.3, 0.4, 0.2]
    assert network.unit_cost[:3].tolist() == [0.5, 1.5, 0.7]


@given(stores=st.integers(1, 12), warehouses=st.integers(1, 8), seed=st.integers(0, 2**32 - 1))
def test_a_generated_network_is_connected(stores, warehouses, seed):
    network = topologies.many_warehouses(stores, warehouses, rng=rng(seed))
    graph = network.to_graph()
    assert nx.is_weakly_connected(graph)
    assert network.locations == stores + warehouses
    assert set(network.target[network.source < 0].tolist()) == set(range(warehouses))


def test_a_lead_table_says_who_supplies_whom():
    table = [[1, 0], [4, 2], [0, 3]]
    network = topologies.many_warehouses(3, 2, lead=table, rng=rng())
    assert lead_table(network, 2).tolist() == table


def test_build_by_name_takes_what_the_topology_takes():
    network = topologies.build("one_warehouse", stores=4, warehouses=None, lead=2, rng=rng())
    assert_same(network, topologies.one_warehouse(4, lead=2, rng=rng()))
    with pytest.raises(ValueError, match="one_store has stores=1, given: 3"):
        topologies.build("one_store", stores=3)
    with pytest.raises(ValueError, match="one_store takes no warehouse_lead, allowed: holding"):
        topologies.build("one_store", warehouse_lead=3)
    with pytest.raises(ValueError, match="topology is 'ring', allowed: one_store, serial"):
        topologies.build("ring")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lead": 0}, "lead is 0, allowed: an integer >= 1"),
        ({"lead": 1.5}, "lead is 1.5, allowed: an integer >= 1"),
        ({"lead": ("uniform", 1.5, 3)}, "a range with integer ends"),
        ({"holding": ("uniform", 2, 1)}, "low <= high"),
        ({"holding": [1, 2]}, "a number, 3 numbers or"),
        ({"underage": "high"}, "underage is 'high'"),
        ({"stores": 0}, "stores is 0, allowed: an integer >= 1"),
        ({"rng": None}, "needs rng"),
    ],
)
def test_presets_refuse_bad_parameters(arguments, message):
    with pytest.raises(ValueError, match=message):
        topologies.one_warehouse(**{"stores": 3, "rng": rng(), **arguments})


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_builds_its_network(name):
    preset = SETTINGS[name]
    network = topologies.build(
        preset.topology,
        stores=preset.stores,
        warehouses=preset.warehouses,
        rng=rng(),
        **preset.network,
    )
    assert network.stores == preset.stores
    assert network.kinds.count("warehouse") == preset.warehouses
    assert 0 <= preset.ignore < preset.periods


def test_settings_of_the_paper():
    assert len(SETTINGS) == 7
    plain = [preset for name, preset in SETTINGS.items() if name != "favorita"]
    assert {(preset.periods, preset.ignore) for preset in plain} == {(50, 30)}
    assert {n for n, p in SETTINGS.items() if p.lost_sales} == {
        "one_store_lost",
        "one_warehouse_lost",
        "many_warehouses_lost",
        "favorita",
    }
    favorita = SETTINGS["favorita"]
    assert (favorita.objective, favorita.past, favorita.ignore) == ("profit", 16, 16)
    assert favorita.network["inventory_periods"] == 6


# -- graphs --------------------------------------------------------------------------------------


def test_locations_are_in_topological_order_with_the_stores_last():
    graph = nx.DiGraph()
    graph.add_node("shop b", kind="store", holding=1, underage=2)
    graph.add_node("hub", kind="warehouse", holding=0.5)
    graph.add_node("shop a", kind="store", holding=1, underage=3)
    graph.add_node("port", kind="echelon", holding=0.1, lead=7)
    graph.add_edge("port", "hub", lead=2, unit_cost=0.25)
    graph.add_edge("port", "shop a", lead=9)
    graph.add_edge("hub", "shop a", fixed_cost=5)
    graph.add_edge("hub", "shop b", lead=4)
    network = SupplyNetwork.from_graph(graph)
    assert network.names == ("port", "hub", "shop b", "shop a")
    arcs = list(zip(network.source.tolist(), network.target.tolist(), strict=True))
    assert arcs == [(-1, 0), (0, 1), (0, 3), (1, 2), (1, 3)]
    assert network.lead.tolist() == [7, 2, 9, 4, 1]
    assert network.unit_cost.tolist() == [0, 0.25, 0, 0, 0]
    assert network.fixed_cost.tolist() == [0, 0, 0, 0, 5]
    assert network.reach.tolist() == [16, 6, 9, 4, 1]
    assert network.slots.tolist() == [7, 2, 4, 9]
    expected = [[1, 1], [1, 1], [0, 1], [1, 0], [0, 1]]
    assert network.serves.tolist() == np.array(expected, bool).tolist()
    assert network.underage.tolist() == [2, 3]


def test_what_a_node_says_of_its_purchases_holds_for_edges_that_do_not():
    graph = pair(lead=2)
    graph.nodes["s"].update(lead=6, unit_cost=1.5)
    network = SupplyNetwork.from_graph(graph)
    assert network.lead.tolist() == [3, 2]
    assert network.unit_cost.tolist() == [0.0, 1.5]


def test_keywords_stand_in_for_missing_attributes():
    graph = nx.DiGraph()
    graph.add_node(1, kind="store")
    network = SupplyNetwork.from_graph(graph, holding=2.0, underage=5.0, lead=3)
    assert network.names == ("1",)
    assert (network.holding[0], network.underage[0], network.lead[0]) == (2.0, 5.0, 3)


def test_arrays_are_read_only():
    network = topologies.one_store()
    with pytest.raises(ValueError, match="read-only"):
        network.holding[0] = 2.0


@given(seed=st.integers(0, 2**32 - 1), stores=st.integers(1, 6), warehouses=st.integers(1, 4))
def test_graph_round_trip(seed, stores, warehouses):
    network = topologies.many_warehouses(stores, warehouses, rng=rng(seed))
    assert_same(network, SupplyNetwork.from_graph(network.to_graph()))


def set_node(node, **attributes):
    def change(graph):
        graph.nodes[node].update(attributes)

    return change


def drop(node, attribute):
    def change(graph):
        del graph.nodes[node][attribute]

    return change


def add(*edges, **nodes):
    def change(graph):
        for name, kind in nodes.items():
            graph.add_node(name, kind=kind, holding=1.0)
            if kind == "store":
                graph.nodes[name]["underage"] = 1.0
        graph.add_edges_from(edges)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_node("s", kind="shop"), "node 's': kind is 'shop', allowed: echelon | warehouse"),
        (set_node("s", holding=-1), "node 's': holding is -1, allowed: a finite number >= 0"),
        (set_node("s", holding=float("nan")), "node 's': holding is nan"),
        (set_node("s", underage=float("inf")), "node 's': underage is inf"),
        (set_node("s", underage="9"), "node 's': underage is '9'"),
        (set_node("w", lead=0), "node 'w': lead is 0, allowed: an integer >= 1"),
        (set_node("w", lead=2.0), "node 'w': lead is 2.0"),
        (set_node("w", lead=True), "node 'w': lead is True"),
        (set_node("w", unit_cost=-0.5), "node 'w': unit_cost is -0.5"),
        (set_node("w", underage=1), "node 'w': unknown attribute 'underage'"),
        (set_node("s", holdng=1), "node 's': unknown attribute 'holdng', allowed: kind, holding"),
        (set_node("s", inventory_periods=0), "node 's': inventory_periods is 0"),
        (set_node("s", holds_stock=False), "node 's': a location that holds no stock needs a"),
        (set_node("w", holds_stock=0), "node 'w': holds_stock is 0, allowed: True | False"),
        (drop("s", "underage"), "node 's': underage is missing"),
        (drop("w", "holding"), "node 'w': holding is missing"),
        (drop("w", "kind"), "node 'w': kind is missing"),
        (add(("s", "t"), t="store"), "edge 's' -> 't': a store supplies no other location"),
        (add(t="store"), "node 't': a store without a supplier"),
        (add(("w", "x"), x="warehouse"), "node 'x': no store lies below this warehouse"),
        (add(("w", "x"), ("x", "w"), x="echelon"), "the cycle 'w' -> 'x' -> 'w'"),
        (add(("w", "w")), "the cycle 'w' -> 'w'"),
    ],
)
def test_graph_errors_name_the_node_or_edge(change, message):
    graph = pair()
    change(graph)
    with pytest.raises(ValueError) as caught:
        SupplyNetwork.from_graph(graph)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("edge", "message"),
    [
        ({"lead": -1}, "edge 'w' -> 's': lead is -1, allowed: an integer >= 1"),
        ({"unit_cost": float("inf")}, "edge 'w' -> 's': unit_cost is inf"),
        ({"fixed_cost": -2}, "edge 'w' -> 's': fixed_cost is -2"),
        ({"weight": 1}, "edge 'w' -> 's': unknown attribute 'weight', allowed: lead, unit_cost"),
    ],
)
def test_edge_errors_name_the_edge(edge, message):
    with pytest.raises(ValueError) as caught:
        SupplyNetwork.from_graph(pair(**edge))
    assert message in str(caught.value)


def test_a_network_is_a_simple_directed_graph_with_a_store():
    with pytest.raises(ValueError, match="0 nodes, no store"):
        SupplyNetwork.from_graph(nx.DiGraph())
    for graph in (nx.Graph(), nx.MultiDiGraph()):
        with pytest.raises(ValueError, match=f"given: {type(graph).__name__}"):
            SupplyNetwork.from_graph(graph)
    graph = nx.DiGraph()
    graph.add_node(1, kind="store", holding=1, underage=1)
    graph.add_node("1", kind="store", holding=1, underage=1)
    with pytest.raises(ValueError, match="two nodes are named '1'"):
        SupplyNetwork.from_graph(graph)


def test_a_thousand_nodes_take_well_under_a_second():
    graph = nx.DiGraph()
    for i in range(100):
        graph.add_node(f"w{i}", kind="warehouse", holding=0.5)
        if i:
            graph.add_edge(f"w{i - 1}", f"w{i}", lead=2)
    for k in range(900):
        graph.add_node(f"s{k}", kind="store", holding=1.0, underage=9.0)
        for w in range(k % 100, 100, 10):
            graph.add_edge(f"w{w}", f"s{k}", lead=1 + w % 3)
    start = time.perf_counter()
    network = SupplyNetwork.from_graph(graph)
    reach, serves = network.reach, network.serves
    assert time.perf_counter() - start < 1.0
    below = nx.descendants(graph, "w50")
    arc = int(np.flatnonzero((network.source == 49) & (network.target == 50))[0])
    assert {network.names[100 + k] for k in np.flatnonzero(serves[arc])} == {
        name for name in below if name.startswith("s")
    }
    assert serves[0].all()
    assert reach[0] == 1 + 99 * 2 + 1 + 99 % 3


# -- YAML ----------------------------------------------------------------------------------------

TEXT = """\
# two shops behind one hub
nodes:
  hub: {kind: warehouse, holding: 0.3, lead: 3}
  north:
    kind: store
    holding: 1
    underage: 9
  south: {kind: store, holding: 1, underage: 19}
edges:
  - {from: hub, to: north, lead: 2}
  - from: hub
    to: south
    unit_cost: 0.5
"""


def read(tmp_path, text):
    path = tmp_path / "network.yaml"
    path.write_text(text, encoding="utf-8")
    return SupplyNetwork.from_yaml(path)


def test_yaml_is_read(tmp_path):
    network = read(tmp_path, TEXT)
    assert network.names == ("hub", "north", "south")
    assert network.underage.tolist() == [9, 19]
    assert network.lead.tolist() == [3, 2, 1]
    assert network.unit_cost.tolist() == [0, 0, 0.5]


@pytest.mark.parametrize("name", ["one_store", "serial", "transshipment", "many_warehouses"])
def test_yaml_round_trip(tmp_path, name):
    network = topologies.build(name, rng=rng())
    network.to_yaml(tmp_path / "n.yaml")
    assert_same(network, SupplyNetwork.from_yaml(tmp_path / "n.yaml"))


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("lead: 3", "lead: 0", 3, "node 'hub': lead is 0"),
        ("    holding: 1\n", "    holding: cheap\n", 6, "node 'north': holding is 'cheap'"),
        ("    underage: 9\n", "", 4, "node 'north': underage is missing"),
        ("underage: 19", "underrage: 19", 8, "node 'south': unknown attribute 'underrage'"),
        ("kind: store\n", "kind: shop\n", 5, "node 'north': kind is 'shop'"),
        ("to: north, lead: 2", "to: nort", 10, "to names 'nort', allowed: a name under nodes"),
        ("to: north, lead: 2", "to: north, lead: 1.5", 10, "edge 'hub' -> 'north': lead is 1.5"),
        ("unit_cost: 0.5", "unit_cost: -1", 13, "edge 'hub' -> 'south': unit_cost is -1"),
        ("to: south", "to: north", 11, "the edge 'hub' -> 'north' is given twice"),
        ("- from: hub\n    to", "- to", 11, "an edge without 'from'"),
        ("  south:", "  north:", 8, "'north' is given twice in nodes"),
        ("edges:", "arcs:", 9, "unknown key 'arcs', allowed: nodes, edges"),
        ("from: hub, to: north", "from: north, to: south", 10, "a store supplies no other"),
        ("{from: hub, to: north, lead: 2}", "hub", 10, "an edge is a scalar, allowed: a mapping"),
        ("lead: 3}", "lead: [3]}", 3, "lead of node 'hub' is a sequence, allowed: one value"),
        ("lead: 3}", "lead: 3", 4, "not YAML"),
    ],
)
def test_yaml_errors_name_file_and_line(tmp_path, old, new, line, message):
    assert TEXT.count(old) == 1
    with pytest.raises(ValueError) as caught:
        read(tmp_path, TEXT.replace(old, new))
    assert str(caught.value).startswith(f"{tmp_path / 'network.yaml'}, line {line}: ")
    assert message in str(caught.value)


def test_a_yaml_file_without_nodes_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"network\.yaml: the file is empty"):
        read(tmp_path, "# nothing\n")
    with pytest.raises(ValueError, match=r"line 1: the key nodes is missing"):
        read(tmp_path, "edges: []\n")
    with pytest.raises(ValueError, match=r"network\.yaml: 0 nodes, no store"):
        read(tmp_path, "nodes: {}\n")


def test_a_yaml_file_cannot_run_code(tmp_path):
    text = "nodes:\n  a: {kind: store, holding: !!python/object/apply:os.getcwd [], underage: 1}\n"
    with pytest.raises(ValueError, match="line 2"):
        read(tmp_path, text)
