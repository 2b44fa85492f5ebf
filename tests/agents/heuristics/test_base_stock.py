"""Base stock, capped base stock and echelon stock: closed forms, worked examples, tuning."""

from __future__ import annotations

import gymnasium as gym
import networkx as nx
import numpy as np
import pytest
import torch

import palaestra
from palaestra.agents.base.unrolling import unroll
from palaestra.agents.heuristics.base_stock import base_stock_order, optimal_base_stock
from palaestra.agents.heuristics.capped_base_stock import capped_base_stock_order
from palaestra.agents.heuristics.order_up_to import newsvendor_levels
from palaestra.envs.base import to_torch
from palaestra.envs.inventory.inventory_net import InventoryNet

QUICK = {"scenarios": 128, "batch_size": 64, "validation_scenarios": 64, "evaluate_every": 5}


def cost(agent, core, tape):
    """Mean cost per period and store on given tapes."""
    return -float(agent.evaluate_tapes(agent.simulator(core), tape).mean())


def updates(agent, count):
    return count * agent.batch_size * agent.core.horizon


def test_closed_form_of_normal_demand():
    level, best = optimal_base_stock(5, 1.6, lead=4, underage=9, holding=1)
    assert level == pytest.approx(29.585018, abs=1e-6)
    assert best == pytest.approx(6.278819, abs=1e-6)


@pytest.mark.parametrize("costs", [{"underage": 0}, {"underage": -1}, {"holding": 0}])
def test_closed_form_refuses_costs_without_a_finite_optimum(costs):
    with pytest.raises(ValueError, match="above 0"):
        optimal_base_stock(5, 1.6, **{"lead": 4, "underage": 9, "holding": 1, **costs})


def test_closed_form_refuses_a_lead_below_one():
    with pytest.raises(ValueError, match="lead=0"):
        optimal_base_stock(5, 1.6, lead=0, underage=9, holding=1)


def test_orders_fill_up_to_the_level_and_never_exceed_the_cap():
    position = torch.tensor([3.0, 11.0, 14.0])
    level = torch.tensor(11.0)
    assert base_stock_order(level, position).tolist() == [8, 0, 0]
    assert capped_base_stock_order(level, torch.tensor(5.0), position).tolist() == [5, 0, 0]


def test_worked_example_orders_cost_and_pathwise_gradient():
    core = InventoryNet(
        topology="one_store", lead=2, underage=9, holding=1, lost_sales=False, inventory_periods=2,
        demand={"law": "normal", "mean": 5, "std": 1}, periods=4, ignore=0, action="orders",
    )  # fmt: skip
    tape = to_torch(
        {
            "stock": np.array([[[4.0, 3.0]]]),
            "demand": np.array([[[5.0], [6.0], [2.0], [4.0]]]),
            "start": np.zeros(1, dtype=np.int64),
        }
    )
    level, orders = torch.tensor(11.0, requires_grad=True), []

    def policy(observation):
        orders.append(base_stock_order(level, observation.sum(dim=1, keepdim=True)))
        return orders[-1]

    reward, _ = unroll(core.torch(), policy, tape, 4)
    total = -4 * reward.sum()
    total.backward()
    assert [order.item() for order in orders] == [4, 5, 6, 2]
    assert total.item() == pytest.approx(72)
    assert float(level.grad) == pytest.approx(-18)


def test_untuned_base_stock_is_the_closed_form_and_tuning_finds_it_from_afar():
    env = gym.make("InventoryNet-v0", setting="one_store_backlogged")
    core = env.unwrapped.core.variant(periods=400, ignore=50)
    tape = to_torch(core.tapes(128, seed=5))
    agent = palaestra.agents.BaseStock("HeuristicPolicy", env, seed=0, **QUICK).learn(0)
    levels = agent.policy.level(torch.zeros(1, 4))
    assert float(levels) == pytest.approx(29.585018, abs=1e-3)
    best = cost(agent, core, tape)
    assert best == pytest.approx(6.278819, rel=0.01)
    more = {"batch_size": 128, "evaluate_every": 1}
    far = palaestra.agents.BaseStock(
        "HeuristicPolicy", env, seed=0, policy_kwargs={"start_level": 2.0}, **more
    )
    assert cost(far, core, tape) > 3 * best
    far.learn(updates(far, 60))
    assert cost(far, core, tape) < 1.01 * best


def test_start_is_the_quantile_of_any_law():
    core = InventoryNet(
        topology="one_store", lead=1, underage=4, holding=1,
        demand={"law": "discrete", "values": [0, 10], "probabilities": [0.5, 0.5]},
    )  # fmt: skip
    # Demand over two periods is 0, 10, 20 with 1/4, 1/2, 1/4: the 0.8 quantile is 20,
    # that is 4 means.
    assert float(newsvendor_levels(core)[0]) == pytest.approx(4)


def test_tuned_caps_come_close_to_the_best_of_a_grid_and_beat_base_stock_under_lost_sales():
    env = gym.make("InventoryNet-v0", setting="one_store_lost")
    core = env.unwrapped.core.variant(periods=200, ignore=50)
    tape = to_torch(core.tapes(128, seed=5))
    simulator = core.with_orders().torch()

    def simulated(level, cap):
        def policy(observation):
            position = observation.sum(dim=1, keepdim=True)
            return capped_base_stock_order(torch.tensor(level), torch.tensor(cap), position)

        return -float(unroll(simulator, policy, tape, 200, 50)[1].mean())

    grid = min(
        simulated(level, cap) for level in (24.0, 26.0, 28.0, 30.0) for cap in (5.0, 5.5, 6.0, 7.0)
    )
    found = {}
    for name in ("BaseStock", "CappedBaseStock"):
        agent = getattr(palaestra.agents, name)("HeuristicPolicy", env, seed=0, **QUICK)
        found[name] = cost(agent.learn(updates(agent, 60)), core, tape)
    assert found["CappedBaseStock"] < 1.01 * grid
    assert found["CappedBaseStock"] < 0.97 * found["BaseStock"]


def test_echelon_stock_improves_on_a_serial_system_and_beats_local_levels():
    env = gym.make("InventoryNet-v0", setting="serial_system")
    core = env.unwrapped.core
    tape = to_torch(core.tapes(128, seed=5))
    agent = palaestra.agents.EchelonStock("HeuristicPolicy", env, seed=0, **QUICK)
    before = cost(agent, core, tape)
    after = cost(agent.learn(updates(agent, 30)), core, tape)
    assert after < 0.95 * before
    local = palaestra.agents.BaseStock("HeuristicPolicy", env, seed=0, **QUICK)
    assert after < cost(local.learn(updates(local, 30)), core, tape)


def test_echelon_positions_and_levels_are_reverse_cumulative_sums_on_a_chain():
    env = gym.make("InventoryNet-v0", setting="serial_system")
    policy = palaestra.agents.EchelonStock("HeuristicPolicy", env, seed=0).policy
    own = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    assert policy.collected(own).tolist() == [[10, 9, 7, 4]]


def test_a_shared_store_counts_towards_its_suppliers_by_their_shares():
    graph = nx.DiGraph()
    for name in ("a", "b"):
        graph.add_node(name, kind="warehouse", holding=0.5)
    graph.add_node("store", kind="store", holding=1.0, underage=9.0)
    graph.add_edges_from([("a", "store"), ("b", "store")])
    env = gym.make("InventoryNet-v0", network=graph, lost_sales=True)
    policy = palaestra.agents.EchelonStock("HeuristicPolicy", env, seed=0).policy
    with torch.no_grad():
        policy.share_logits[-1] = np.log(3.0)
    assert policy.shares().tolist() == pytest.approx([1, 1, 0.25, 0.75])
    assert policy.collected(torch.tensor([[0.0, 0.0, 8.0]]))[0].tolist() == pytest.approx([2, 6, 8])


@pytest.mark.parametrize("name", ["BaseStock", "EchelonStock"])
def test_orders_are_feasible_where_goods_must_be_shipped_on(name):
    env = gym.make_vec(
        "InventoryNet-v0",
        num_envs=8,
        vectorization_mode="vector_entry_point",
        autoreset_mode="SameStep",
        setting="transshipment",
        action="orders",
    )
    agent = getattr(palaestra.agents, name)("HeuristicPolicy", env, seed=0)
    observation, _ = env.reset(seed=3)
    total = np.zeros(8)
    for _ in range(40):  # an infeasible order would raise
        observation, reward, *_ = env.step(agent.predict(observation)[0])
        total += reward
    assert (total < 0).all()


def test_underage_of_zero_is_refused_by_name():
    env = gym.make("InventoryNet-v0", topology="one_store", underage=0)
    with pytest.raises(ValueError, match="'store 1' is 0"):
        palaestra.agents.BaseStock("HeuristicPolicy", env)
