"""The just-in-time oracle."""

from __future__ import annotations

import gymnasium as gym
import networkx as nx
import numpy as np
import pytest
import torch

import palaestra
from palaestra.agents.heuristics.just_in_time import cheapest_arcs, just_in_time_orders
from palaestra.envs.base import to_torch
from palaestra.envs.inventory.inventory_net import InventoryNet


def play(env, agent, seed, on):
    """Call `on(info, state)` after every period of an episode."""
    observation, _ = env.reset(seed=seed)
    done = False
    while not done:
        action, _ = agent.predict(observation)
        observation, _, terminated, truncated, info = env.step(action)
        on(info, env.unwrapped.state)
        done = terminated or truncated


@pytest.mark.parametrize(
    "setting",
    [
        "one_store_lost",
        "one_store_backlogged",
        "serial_system",
        "one_warehouse_lost",
        "many_warehouses_lost",
    ],
)
def test_nothing_is_short_and_nothing_is_held_once_goods_can_arrive(setting):
    env = gym.make("InventoryNet-v0", setting=setting, action="orders")
    agent = palaestra.agents.JustInTime("HeuristicPolicy", env, seed=0)
    left = []
    play(env, agent, 3, lambda info, state: left.append(state["rest"][0].copy()))
    warm_up = (
        int(cheapest_arcs(env.unwrapped.core.network)[1].max()) + 4
    )  # and what was there at first is sold
    assert np.abs(np.array(left[warm_up:])).max() < 1e-3
    assert np.abs(np.array(left[:warm_up])).max() > 1


def test_one_store_orders_the_demand_of_the_period_in_which_the_order_arrives():
    core = InventoryNet(topology="one_store", lead=3, lost_sales=True, periods=20, ignore=0)
    tape = to_torch(core.tapes(2, 0))
    orders = just_in_time_orders(core, {**tape, "stock": 0 * tape["stock"]})
    assert torch.equal(orders[:, :17, 0], tape["demand"][:, 3:, 0])
    assert (orders[:, 17:] == 0).all()


def test_goods_come_over_the_cheapest_way_then_the_fastest():
    graph = nx.DiGraph()
    for name, unit_cost in (("dear", 2.0), ("cheap", 1.0), ("cheap and slow", 1.0)):
        lead = 5 if "slow" in name else 2
        graph.add_node(name, kind="warehouse", holding=0.1, unit_cost=unit_cost, lead=lead)
        graph.add_edge(name, "store", lead=1)
    graph.nodes["store"].update(kind="store", holding=1.0, underage=9.0)
    network = InventoryNet(network=graph).network
    arcs, leads = cheapest_arcs(network)
    assert network.names[network.source[arcs[-1]]] == "cheap"
    assert leads.tolist() == [2, 2, 5, 3]


def test_its_cost_is_below_that_of_a_tuned_rule():
    env = gym.make("InventoryNet-v0", setting="many_warehouses_lost")
    core = env.unwrapped.core
    tape = to_torch(core.tapes(32, 0))
    found = []
    for name in ("JustInTime", "EchelonStock"):
        agent = getattr(palaestra.agents, name)("HeuristicPolicy", env, seed=0, scenarios=64)
        agent.learn(20 * 64 * core.horizon)
        assert agent.num_timesteps >= 20 * 64 * core.horizon
        found.append(-float(agent.evaluate_tapes(agent.simulator(core), tape).mean()))
    assert found[0] < found[1]


def test_predict_says_what_it_misses(tmp_path):
    env = gym.make("InventoryNet-v0", setting="one_store_lost")
    agent = palaestra.agents.JustInTime("HeuristicPolicy", env, seed=0)
    with pytest.raises(ValueError, match="reset it"):
        agent.predict(np.zeros(env.observation_space.shape, np.float32))
    observation, _ = env.reset(seed=0)
    action, _ = agent.predict(observation)
    env.step(action)
    with pytest.raises(ValueError, match="not that of"):
        agent.predict(observation)
    agent.save(tmp_path / "oracle")
    alone = palaestra.agents.JustInTime.load(tmp_path / "oracle")
    with pytest.raises(ValueError, match="set_env"):
        alone.predict(observation)


def test_a_vector_of_environments_is_read_row_by_row():
    env = gym.make_vec(
        "InventoryNet-v0",
        num_envs=4,
        vectorization_mode="vector_entry_point",
        autoreset_mode="SameStep",
        setting="one_store_lost",
        action="orders",
    )
    agent = palaestra.agents.JustInTime("HeuristicPolicy", env, seed=0)
    observation, _ = env.reset(seed=3)
    single = gym.make("InventoryNet-v0", setting="one_store_lost", action="orders")
    other = palaestra.agents.JustInTime("HeuristicPolicy", single, seed=0)
    alone, _ = single.reset(seed=5)
    for _ in range(60):  # past the end of the first episode
        actions = agent.predict(observation)[0]
        if single.unwrapped._ended:
            break
        action = other.predict(alone)[0]
        assert actions[2] == pytest.approx(action)
        observation, *_ = env.step(actions)
        alone, *_ = single.step(action)
