"""What `InventoryNet-v0` may be made of: edge cases, networks of one's own, demand traces."""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import networkx as nx
import numpy as np
import pytest

import palaestra  # noqa: F401  (registers the environment)
from palaestra.envs.inventory.inventory_net import InventoryNet

FAVORITA = Path(__file__).parents[4] / "shared" / "data" / "inventory"
NEEDS_FAVORITA = pytest.mark.skipif(not FAVORITA.exists(), reason=f"no data in {FAVORITA}")

WIDE = """\
nodes:
  factory: {kind: echelon, holding: 0.1, lead: 2, unit_cost: 0.5}
  depot: {kind: warehouse, holding: 0.2, lead: 3}
  hub: {kind: warehouse, holding: 0.0, holds_stock: false}
  north: {kind: store, holding: 1.0, underage: 9.0}
  south: {kind: store, holding: 0.9, underage: 8.0, inventory_periods: 5}
edges:
  - {from: factory, to: depot}
  - {from: factory, to: hub, lead: 1}
  - {from: depot, to: north, lead: 2, fixed_cost: 4.0}
  - {from: hub, to: north, lead: 1}
  - {from: hub, to: south, lead: 2}
"""


def wide_graph():
    """The network of WIDE as a graph."""
    graph = nx.DiGraph()
    graph.add_node("factory", kind="echelon", holding=0.1, lead=2, unit_cost=0.5)
    graph.add_node("depot", kind="warehouse", holding=0.2, lead=3)
    graph.add_node("hub", kind="warehouse", holding=0.0, holds_stock=False)
    graph.add_node("north", kind="store", holding=1.0, underage=9.0)
    graph.add_node("south", kind="store", holding=0.9, underage=8.0, inventory_periods=5)
    graph.add_edge("factory", "depot")
    graph.add_edge("factory", "hub", lead=1)
    graph.add_edge("depot", "north", lead=2, fixed_cost=4.0)
    graph.add_edge("hub", "north", lead=1)
    graph.add_edge("hub", "south", lead=2)
    return graph


def sales(series=2, stores=3, weeks=60):
    return np.random.default_rng(3).poisson(6.0, (series, stores, weeks)).astype(np.float64)


# -- edge cases ----------------------------------------------------------------------------------


@pytest.mark.parametrize("lead", [0, -1, 1.5])
def test_lead_below_one_or_fractional_is_refused(lead):
    with pytest.raises(ValueError, match=rf"lead is {lead}, allowed: an integer >= 1"):
        gym.make("InventoryNet-v0", setting="one_store_lost", lead=lead)
    with pytest.raises(ValueError, match=rf"lead is {lead}, allowed: an integer >= 1"):
        gym.make("InventoryNet-v0", setting="one_warehouse_lost", warehouse_lead=lead)


def test_a_store_without_supplier_is_refused():
    graph = wide_graph()
    graph.add_node("lonely", kind="store", holding=1.0, underage=9.0)
    with pytest.raises(ValueError, match="'lonely': a store without a supplier"):
        gym.make("InventoryNet-v0", network=graph)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"periods": 30, "ignore": 30}, "ignore=30 .* below periods=30"),
        ({"periods": 20, "ignore": 30}, "ignore=30 .* below periods=20"),
        ({"ignore": -1}, "ignore=-1 must be at least 0"),
        ({"periods": 0}, "periods"),
        ({"setting": "two_stores"}, "setting='two_stores', allowed are one_store_backlogged"),
        ({"topology": "ring"}, "topology='ring', allowed are one_store"),
        ({"topology": "serial", "network": wide_graph()}, "topology='serial' or a network"),
        ({"network": wide_graph(), "stores": 5}, "stores=5, but the network has 2"),
        ({"network": wide_graph(), "lead": 3}, r"says \['lead'\] itself"),
        ({"network": wide_graph(), "demand": sales(stores=3)}, "3 stores, .*network.* 2"),
        ({"objective": "loss"}, "objective='loss', allowed are"),
        ({"objective": "profit", "lost_sales": False}, "needs lost_sales=True"),
        ({"action": "boxes"}, "action='boxes', allowed are"),
        ({"observe": ("inventory", "weather")}, "weather"),
        ({"observe": ("season",)}, "must hold 'inventory'"),
        ({"observe": ("inventory", "calendar")}, "the demand has none"),
        ({"observe": ("inventory", "past_demands"), "past": 0}, "past=0 must be at least 1"),
        ({"observe": ("inventory", "season"), "season": 0}, "season=0"),
        ({"initial_stock": (1.0, 0.5)}, r"initial_stock=\(1.0, 0.5\)"),
        ({"setting": "favorita"}, "needs demand="),
        ({"stores": 4, "storage": 3}, "takes no storage"),
        ({"underage": -1.0}, "underage is -1.0, allowed: a finite number >= 0"),
    ],
)
def test_arguments_that_make_no_task_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        gym.make("InventoryNet-v0", **arguments)


def test_a_trace_shorter_than_the_episode_is_refused():
    with pytest.raises(ValueError, match="weeks"):
        gym.make("InventoryNet-v0", demand=sales(weeks=60), periods=61, past=4).reset(seed=0)
    with pytest.raises(ValueError, match="train.* has 6 weeks.*past=16"):
        gym.make("InventoryNet-v0", demand=sales(weeks=10), past=16).reset(seed=0)


# -- networks of one's own -----------------------------------------------------------------------


def test_a_yaml_file_and_a_graph_make_the_same_environment(tmp_path):
    path = tmp_path / "wide.yaml"
    path.write_text(WIDE)
    results = []
    for network in (wide_graph(), str(path), path, InventoryNet(network=path).network):
        env = gym.make("InventoryNet-v0", network=network, periods=9, ignore=0)
        env.action_space.seed(0)
        observation, _ = env.reset(seed=5)
        steps = [env.step(env.action_space.sample()) for _ in range(9)]
        results.append(([observation, *(s[0] for s in steps)], [s[1] for s in steps]))
    for observations, rewards in results[1:]:
        np.testing.assert_array_equal(observations, results[0][0])
        assert rewards == results[0][1]
    core = env.unwrapped.core
    assert core.network.names == ("factory", "depot", "hub", "north", "south")
    # Slots: 2 + 2 + 1 above the stores (the depot's edge takes the depot's lead, 3), then 2 and 5.
    assert core.network.slots.tolist() == [2, 3, 1, 2, 5]
    assert env.observation_space.shape == (13,)
    assert env.action_space.shape == (6,)


def test_errors_in_a_yaml_file_name_the_line(tmp_path):
    path = tmp_path / "wide.yaml"
    path.write_text(WIDE.replace("lead: 2, fixed_cost", "lead: 0, fixed_cost"))
    with pytest.raises(ValueError, match=r"wide\.yaml, line 10: .*lead is 0"):
        gym.make("InventoryNet-v0", network=str(path))


# -- observations and traces ---------------------------------------------------------------------


def test_observation_holds_its_parts_in_the_documented_order():
    values = sales()
    calendar = np.stack([np.arange(60.0), np.arange(60.0) ** 2], axis=1)
    env = gym.make(
        "InventoryNet-v0",
        demand=values,
        calendar=calendar,
        stores=3,
        past=4,
        season=13.0,
        periods=6,
        ignore=0,
        split=(20, 30),
    )
    observation, _ = env.reset(seed=0, options={"series": 1})
    core = env.unwrapped.core
    slots = int(core.network.slots.sum())
    for t in range(6):
        week = 20 + 4 + t
        inventory, past, season, row = np.split(observation, [slots, slots + 12, slots + 14])
        on_hand = env.unwrapped.state["inventory"][0]
        pipeline = [on_hand[i, : core.network.slots[i]] for i in range(core.network.locations)]
        np.testing.assert_array_equal(inventory, np.concatenate(pipeline).astype(np.float32))
        np.testing.assert_array_equal(past.reshape(4, 3), values[1, :, week - 4 : week].T)
        phase = 2 * np.pi * week / 13
        np.testing.assert_allclose(season, [np.sin(phase), np.cos(phase)], atol=1e-6)
        np.testing.assert_array_equal(row, calendar[week])
        parts = core.split_observation(observation[None])
        np.testing.assert_array_equal(parts["inventory"][0], on_hand.astype(np.float32))
        np.testing.assert_array_equal(parts["past_demands"][0], past.reshape(4, 3))
        np.testing.assert_array_equal(parts["calendar"][0], row)
        observation, _, _, truncated, info = env.step(env.action_space.sample())
        np.testing.assert_array_equal(info["demand"], values[1, :, week])
    assert truncated


def test_series_option_chooses_the_series_and_an_unknown_one_is_refused():
    values = sales(series=4)
    vector = gym.make_vec(
        "InventoryNet-v0",
        num_envs=3,
        vectorization_mode="vector_entry_point",
        demand=values,
        past=2,
        periods=5,
    )
    for series in range(4):
        vector.reset(seed=0, options={"series": series})
        for row, start in enumerate(vector.unwrapped.state["start"]):
            demand = vector.unwrapped.tape["demand"][row, 2:]
            np.testing.assert_array_equal(demand, values[series, :, start : start + 5].T)
    with pytest.raises(ValueError, match="series is 4, allowed: 0 to 3"):
        vector.reset(options={"series": 4})
    with pytest.raises(ValueError, match="series is 0, but the demand is a law"):
        gym.make("InventoryNet-v0").reset(options={"series": 0})
    assert InventoryNet(demand=values, past=2).scenarios(100, 0)["demand"].shape[0] == 4


@pytest.mark.real_data
@NEEDS_FAVORITA
def test_favorita_sales_in_their_three_windows():
    path = FAVORITA / "favorita_weekly_sales.npz"
    with pytest.raises(ValueError, match="10 of 1034208 values are negative.*on_negative"):
        gym.make("InventoryNet-v0", setting="favorita", demand=path)
    recorded = np.load(path)["sales"]
    windows = {"train": (16, 95), "validation": (104, 37), "test": (134, 37)}
    for split, (start, periods) in windows.items():
        env = gym.make(
            "InventoryNet-v0", setting="favorita", demand=str(path), on_negative="clip", split=split
        )
        core = env.unwrapped.core
        assert (core.stores, core.suppliers, core.demand.series) == (21, 3, 288)
        assert (core.periods, core.ignore, core.objective) == (periods, 16, "profit")
        assert core.demand.clipped == 10
        env.reset(seed=1, options={"series": 7})
        assert env.unwrapped.state["start"].tolist() == [start]
        assert env.unwrapped.state["inventory"].sum() == 0
        env.action_space.seed(0)
        steps, truncated = 0, False
        while not truncated:
            observation, _, _, truncated, info = env.step(env.action_space.sample())
            week = np.maximum(recorded[7, :, start + steps], 0)
            np.testing.assert_array_equal(info["demand"], week)
            steps += 1
        assert steps == periods
        assert observation in env.observation_space
    first = env.reset(seed=1)[0]
    assert not np.array_equal(first, env.reset(seed=2)[0])  # another of the 288 products
