"""`InventoryNet-v0`: worked example, the paper's settings, actions, sub-gradients and size."""

from __future__ import annotations

import statistics
import time

import gymnasium as gym
import networkx as nx
import numpy as np
import pytest
import torch

import palaestra  # noqa: F401  (registers the environment)
from palaestra.envs.base import to_torch
from palaestra.envs.inventory.inventory_net import InventoryNet
from palaestra.envs.inventory.settings import SETTINGS

THREE = {"law": "poisson", "mean": 3}


def two_routes():
    """factory -> depot and hub, both -> north, hub -> south; the hub holds no stock."""
    routes = ["factory depot", "factory hub", "depot north", "hub north", "hub south"]
    graph = nx.DiGraph([route.split() for route in routes])
    graph.add_node("factory", kind="echelon", holding=0.1, lead=2)
    graph.add_node("depot", kind="warehouse", holding=0.2, lead=3)
    graph.add_node("hub", kind="warehouse", holding=0.0, holds_stock=False)
    graph.add_node("north", kind="store", holding=1.0, underage=9.0, lead=2)
    graph.add_node("south", kind="store", holding=0.9, underage=8.0)
    return graph


def tape_of(core, stock, demand):
    """A tape of one episode: stock [K, up to slots] and demand [T, K]."""
    padded = np.zeros((1, core.stores, core.slots))
    padded[0, :, : np.shape(stock)[1]] = stock
    return {
        "stock": padded,
        "demand": np.asarray(demand, dtype=np.float64)[None],
        "start": np.zeros(1, dtype=np.int64),
    }


# -- the worked example --------------------------------------------------------------------------


def worked_example(core, tape, level):
    """Orders and costs of the base-stock policy `max(level - inventory position, 0)`."""
    state, orders, costs = core.initial(tape), [], []
    for _ in range(4):
        gap = level - state["inventory"].sum(-1)
        action = gap.clip(min=0)
        after = core.transition(state, action, tape)
        costs.append(-core.reward(state, action, after)[0])
        orders.append(action[0, 0].item())
        state = after
    assert bool(core.truncated(state)[0])
    return orders, costs


def example_core():
    return InventoryNet(
        "one_store_backlogged", lead=2, underage=9, holding=1, action="orders", periods=4, ignore=0
    )


def test_worked_example_base_stock_orders_and_cost():
    core = example_core()
    tape = tape_of(core, [[4, 3]], [[5], [6], [2], [4]])
    orders, costs = worked_example(core, tape, 11.0)
    assert orders == [4, 5, 6, 2]
    assert costs == [9, 36, 18, 9]
    assert sum(costs) == 72


def test_worked_example_base_stock_pathwise_gradient():
    core = example_core()
    tape = to_torch(tape_of(core, [[4, 3]], [[5], [6], [2], [4]]), dtype=torch.float64)
    level = torch.tensor(11.0, dtype=torch.float64, requires_grad=True)
    orders, costs = worked_example(core.torch(dtype=torch.float64), tape, level)
    assert orders == [4, 5, 6, 2]
    (slope,) = torch.autograd.grad(sum(costs), level)
    assert sum(costs).item() == 72
    assert slope.item() == -18


def test_worked_example_base_stock_through_the_environment():
    env = gym.make(
        "InventoryNet-v0",
        setting="one_store_backlogged",
        lead=2,
        action="orders",
        periods=4,
        ignore=0,
    )
    env.reset(seed=0)
    core = env.unwrapped.core
    tape = tape_of(core, [[4, 3]], [[5], [6], [2], [4]])
    env.unwrapped.tape, env.unwrapped.state = tape, core.initial(tape)
    rewards, truncations = [], []
    for order in (4, 5, 6, 2):
        observation, reward, terminated, truncated, info = env.step([order])
        assert info["orders"].tolist() == [order]
        rewards.append(reward)
        truncations.append(truncated)
        assert not terminated
    assert rewards == [-9, -36, -18, -9]
    assert truncations == [False, False, False, True]
    assert observation.tolist() == [5, 2, 0, 0]  # -1 left, 6 arrive; 2 arrive next period


# -- the paper's settings ------------------------------------------------------------------------


@pytest.mark.parametrize("setting", [name for name in SETTINGS if name != "favorita"])
def test_a_setting_has_the_horizons_and_initial_stock_of_the_paper(setting):
    core = InventoryNet(setting)
    assert (core.periods, core.ignore, core.objective) == (50, 30, "cost")
    preset = SETTINGS[setting]
    assert preset.horizons["validation"] == (100, 60)
    assert preset.horizons["test"] == (5000, 3000)
    assert core.lost_sales == (setting.endswith("_lost"))
    assert core.observe == ("inventory",)
    inventory = core.initial(core.tapes(200, 0))["inventory"]
    stores = inventory[:, core.suppliers :]
    share = stores / core.demand.mean[:, None]
    used = np.arange(core.slots) < core.network.slots[core.suppliers :, None]
    assert share[:, used].min() >= 0
    assert share[:, used].max() <= 1
    assert share[:, used].mean() == pytest.approx(0.5, abs=0.05)
    assert not stores[:, ~used].any()
    assert not inventory[:, : core.suppliers].any()


@pytest.mark.parametrize("lead", [1, 4, 7, 10, 15, 20])
@pytest.mark.parametrize("underage", [4, 9, 19, 39])
def test_one_store_backlogged_is_normal_demand_with_any_lead(lead, underage):
    core = InventoryNet("one_store_backlogged", lead=lead, underage=underage)
    assert core.network.lead.tolist() == [lead]
    assert (core.underage.tolist(), core.holding.tolist()) == ([underage], [1.0])
    assert core.slots == max(lead, 4)
    demand = core.tapes(400, 0)["demand"]
    assert demand.mean() == pytest.approx(5, abs=0.05)
    assert demand.std() == pytest.approx(1.6, abs=0.05)
    assert demand.min() >= 0


def test_one_store_lost_is_poisson_demand_with_four_slots():
    core = InventoryNet("one_store_lost", lead=2)
    demand = core.tapes(400, 0)["demand"]
    assert core.slots == 4
    assert np.array_equal(demand, np.round(demand))
    assert demand.mean() == pytest.approx(5, abs=0.1)
    assert demand.var() == pytest.approx(5, abs=0.2)


def test_serial_system_has_four_locations_in_a_row():
    core = InventoryNet("serial_system", lead=1, underage=39)
    assert core.network.source.tolist() == [-1, 0, 1, 2]
    assert core.network.lead.tolist() == [2, 4, 3, 1]
    assert core.holding.tolist() == [0.1, 0.2, 0.5, 1.0]
    assert core.underage.tolist() == [39]
    assert core.demand.std.tolist() == [2.0]


def test_transshipment_demand_is_correlated_and_not_clipped():
    core = InventoryNet("transshipment", stores=10, lead=6)
    demand = core.tapes(200, 0)["demand"].reshape(-1, 10)
    correlation = np.corrcoef(demand.T)[~np.eye(10, dtype=bool)]
    assert correlation.mean() == pytest.approx(0.5, abs=0.03)
    assert demand.min() < 0
    assert (2.5 <= core.demand.mean).all()
    assert (core.demand.mean <= 7.5).all()
    cv = core.demand.std / core.demand.mean
    assert (0.25 <= cv).all()
    assert (cv <= 0.5).all()
    assert core.network.lead.tolist() == [3] + [6] * 10


def test_one_warehouse_lost_and_many_warehouses_lost_have_the_card_s_costs():
    one = InventoryNet("one_warehouse_lost", stores=50)
    assert (one.stores, one.suppliers, one.network.arcs) == (50, 1, 51)
    assert (one.holding[0], one.network.lead[0]) == (0.3, 3)
    assert one.tapes(20, 0)["demand"].min() == 0  # clipped
    many = InventoryNet("many_warehouses_lost")
    assert (many.stores, many.suppliers) == (10, 2)
    assert many.holding[:2].tolist() == [0.3, 0.4]
    assert many.unit_cost[:2].tolist() == [0.5, 1.5]
    assert sorted(set(many.network.lead[2:].tolist())) == [1, 2, 5, 6]


def test_instance_draws_the_task_and_the_seed_the_episode():
    first, again = (InventoryNet("one_warehouse_lost", instance=1) for _ in range(2))
    other = InventoryNet("one_warehouse_lost", instance=2)
    assert np.array_equal(first.underage, again.underage)
    assert np.array_equal(first.demand.mean, again.demand.mean)
    assert not np.array_equal(first.underage, other.underage)
    assert not np.array_equal(first.tapes(1, 0)["demand"], first.tapes(1, 1)["demand"])


# -- actions -------------------------------------------------------------------------------------


def test_normalized_actions_are_nothing_the_mean_and_the_cap():
    core = InventoryNet(
        "one_warehouse_lost", stores=4, lead=2, demand={"law": "poisson", "mean": 3}
    )
    plenty = np.full((1, core.network.locations, core.slots), 1e6)
    arcs = np.ones((1, 5))
    assert core.decode(-arcs, plenty).tolist() == [[0] * 5]
    np.testing.assert_allclose(core.decode(0 * arcs, plenty), [[12, 3, 3, 3, 3]])
    np.testing.assert_allclose(core.decode(arcs, plenty), [[9 * 12, *[6 * 3] * 4]])
    np.testing.assert_allclose(core.decode(-0.5 * arcs, plenty), [[6, 1.5, 1.5, 1.5, 1.5]])
    np.testing.assert_allclose(core.decode(0.5 * arcs, plenty)[0, 1], (3 + 18) / 2)


def test_suppliers_of_one_store_share_its_mean_demand():
    core = InventoryNet(network=two_routes(), demand={"law": "poisson", "mean": [4.0, 6.0]})
    names = [*core.network.names, "outside"]
    arcs = zip(core.network.source, core.network.target, strict=True)
    mean = {(names[s], names[t]): v for (s, t), v in zip(arcs, core.mean_order, strict=True)}
    assert mean["depot", "north"] == mean["hub", "north"] == 2
    assert mean["hub", "south"] == 6
    assert mean["factory", "hub"] == 8
    assert mean["outside", "factory"] == 10


def test_normalized_orders_are_scaled_down_to_the_stock_in_proportion():
    core = InventoryNet(
        "one_warehouse_lost", stores=2, lead=2, demand={"law": "poisson", "mean": 3}
    )
    inventory = np.zeros((1, 3, core.slots))
    inventory[0, 0, 0] = 10.0
    orders = core.decode(np.array([[-1.0, 1.0, 0.0]]), inventory)
    np.testing.assert_allclose(orders, [[0, 10 * 18 / 21, 10 * 3 / 21]], rtol=1e-9)


def test_orders_above_the_stock_name_the_location_and_the_amounts():
    env = gym.make("InventoryNet-v0", setting="one_warehouse_lost", stores=3, action="orders")
    env.reset(seed=0)
    message = r"orders on 'warehouse 1' add up to 3 .*at most its stock on hand, 0"
    with pytest.raises(ValueError, match=message):
        env.step(np.array([5.0, 1.0, 2.0, 0.0]))
    for _ in range(3):
        env.step(np.array([5.0, 0.0, 0.0, 0.0]))
    with pytest.raises(ValueError, match="add up to 6 .*at most its stock on hand, 5"):
        env.step(np.array([0.0, 1.0, 2.0, 3.0]))
    _, _, _, _, info = env.step(np.array([0.0, 1.0, 2.0, 2.0]))
    assert info["orders"].tolist() == [0, 1, 2, 2]
    assert env.unwrapped.state["inventory"][0, 0, 0] == 5  # the second delivery


def test_a_transshipment_point_must_ship_exactly_its_stock():
    env = gym.make("InventoryNet-v0", setting="transshipment", stores=2, action="orders")
    env.reset(seed=0)
    for order in (6.0, 0.0, 0.0):
        env.step(np.array([order, 0.0, 0.0]))
    with pytest.raises(ValueError, match="add up to 5 .*exactly its stock on hand, 6"):
        env.step(np.array([0.0, 3.0, 2.0]))
    _, _, _, _, info = env.step(np.array([0.0, 4.0, 2.0]))
    assert info["orders"].tolist() == [0, 4, 2]
    assert env.unwrapped.state["inventory"][0, 0].tolist() == [0, 0, 0]


@pytest.mark.parametrize("network", [{"setting": "transshipment"}, {"network": two_routes()}])
def test_whatever_reaches_a_transshipment_point_can_be_shipped_in_units(network):
    core = InventoryNet(**network, action="orders")
    net = core.network
    for node in np.flatnonzero(~net.holds_stock):
        into, out = net.target == node, net.source == node
        assert core.order_cap[out].sum() >= core.order_cap[into].sum() * (1 - 1e-6)


@pytest.mark.parametrize(
    "setting", ["one_store_lost", "one_warehouse_lost", "many_warehouses_lost"]
)
def test_the_encoding_of_too_large_an_order_is_the_cap_and_is_accepted(setting):
    for core in (
        InventoryNet(setting, instance=3),
        InventoryNet(setting, instance=3, action="orders"),
    ):
        actions = core.encode(2 * core.order_cap[None])
        inventory = np.full((1, core.network.locations, core.slots), 1e5)
        checked = core.check_action(actions, {"inventory": inventory})
        np.testing.assert_allclose(core.decode(checked, inventory)[0], core.order_cap, rtol=1e-12)


# -- sub-gradients and fixed costs ---------------------------------------------------------------


@pytest.mark.parametrize("objective", ["cost", "profit"])
def test_sub_gradients_where_the_stock_just_meets_demand(objective):
    core = InventoryNet(
        "one_store_lost",
        objective=objective,
        lead=1,
        holding=0.75,
        underage=9,
        action="orders",
        periods=2,
        ignore=0,
    )
    face = core.torch(dtype=torch.float64)
    for on_hand, slope in ((5.0, 0.75), (5.5, 0.75), (4.5, -9.0)):
        tape = to_torch(tape_of(core, [[on_hand]], [[5.0], [0.0]]), dtype=torch.float64)
        tape["stock"].requires_grad_()
        state = face.initial(tape)
        order = torch.zeros(1, 1, dtype=torch.float64)
        after = face.transition(state, order, tape)
        cost = -face.reward(state, order, after).sum()
        (gradient,) = torch.autograd.grad(cost, tape["stock"], retain_graph=True)
        assert gradient[0, 0].tolist() == [slope, 0, 0, 0]
        (carried,) = torch.autograd.grad(after["inventory"].sum(), tape["stock"])
        # What is carried over: y >= 0 counts as stock, a lost sale does not.
        assert carried[0, 0].tolist() == [float(on_hand >= 5), 1, 1, 1]


def test_fixed_cost_is_paid_per_positive_order():
    graph = nx.DiGraph()
    graph.add_node("s", kind="store", holding=0, underage=0, fixed_cost=7.0, unit_cost=2.0)
    env = gym.make("InventoryNet-v0", network=graph, action="orders", periods=3, ignore=0)
    env.reset(seed=0)
    assert [env.step(np.array([order]))[1] for order in (0.0, 3.0, 0.0)] == [0, -13, 0]


# -- size ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        {"setting": "one_warehouse_lost", "stores": 999},
        {"setting": "many_warehouses_lost", "stores": 980, "warehouses": 20, "objective": "profit"},
    ],
    ids=["one_warehouse", "many_warehouses"],
)
def test_a_thousand_locations_step_quickly_and_alike_in_every_face(arguments):
    arguments = {**arguments, "observe": ("inventory", "past_demands", "season"), "past": 3}
    vector = gym.make_vec(
        "InventoryNet-v0", num_envs=3, vectorization_mode="vector_entry_point", **arguments
    )
    singles = [gym.make("InventoryNet-v0", **arguments) for _ in range(3)]
    assert vector.unwrapped.core.network.locations == 1000
    observations, _ = vector.reset(seed=11)
    for i, env in enumerate(singles):
        np.testing.assert_array_equal(env.reset(seed=11 + i)[0], observations[i])
    vector.action_space.seed(0)
    seconds = []
    for _ in range(12):
        actions = vector.action_space.sample()
        observations, rewards, _, _, infos = vector.step(actions)
        for i, env in enumerate(singles):
            started = time.perf_counter()
            observation, reward, _, _, info = env.step(actions[i])
            seconds.append(time.perf_counter() - started)
            np.testing.assert_array_equal(observation, observations[i])
            np.testing.assert_array_equal(info["orders"], infos["orders"][i])
            assert reward == rewards[i]
    assert statistics.median(seconds) < 0.05
