import builtins
import importlib
import sys
import warnings

import networkx as nx
import numpy as np
import pytest

pytest.importorskip("pettingzoo")

from pettingzoo.test import parallel_api_test, parallel_seed_test
from pettingzoo.utils import parallel_to_aec

from palaestra.envs.inventory.inventory_net import InventoryNetEnv
from palaestra.wrappers.pettingzoo import InventoryParallelEnv

SETTINGS = [
    "one_store_backlogged",
    "one_store_lost",
    "serial_system",
    "transshipment",
    "one_warehouse_lost",
    "many_warehouses_lost",
]


def diamond():
    """An echelon above two warehouses that share the second of three stores; every cost is used."""
    graph = nx.DiGraph()
    graph.add_node("plant", kind="echelon", holding=0.1, lead=2, unit_cost=0.7, fixed_cost=3.0)
    for name in ("north", "south"):
        graph.add_node(name, kind="warehouse", holding=0.3)
        graph.add_edge("plant", name, lead=1, unit_cost=0.2)
    for name, underage in (("a", 4.0), ("b", 9.0), ("c", 6.0)):
        graph.add_node(name, kind="store", holding=1.0, underage=underage)
    for supplier, store, lead in [("north", "a", 1), ("north", "b", 2), ("south", "b", 1)]:
        graph.add_edge(supplier, store, lead=lead, fixed_cost=1.5)
    graph.add_edge("south", "c", lead=3)
    return graph


def play(env, seed, periods, rng):
    """Random actions in the parallel environment; yields them with what step returns."""
    env.reset(seed=seed)
    for _ in range(periods):
        actions = {
            agent: rng.uniform(-1, 0.6, env.action_space(agent).shape) for agent in env.agents
        }
        yield actions, env.step(actions)


def joined(env, actions):
    """The single agent's action from the agents' actions."""
    network = env.core.network
    action = np.zeros(network.arcs)
    for node, name in enumerate(network.names):
        action[network.target == node] = actions[name]
    return action


@pytest.mark.parametrize("arguments", [{}, {"cost": "local"}, {"observe_all": True}])
def test_api_test_of_pettingzoo_passes_without_a_warning(arguments, capsys):
    env = InventoryParallelEnv("many_warehouses_lost", periods=12, **arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parallel_api_test(env, num_cycles=50)
    assert "Passed" in capsys.readouterr().out


def test_seed_test_of_pettingzoo_passes():
    parallel_seed_test(lambda: InventoryParallelEnv("one_warehouse_lost", periods=10), num_cycles=3)


def test_converts_to_an_environment_of_alternating_agents():
    env = parallel_to_aec(InventoryParallelEnv("serial_system", periods=5, ignore=0))
    env.reset(seed=0)
    turns = 0
    for agent in env.agent_iter():
        ended = env.terminations[agent] or env.truncations[agent]
        turns += not ended
        env.step(None if ended else env.action_space(agent).sample())
    assert turns == 4 * 5


def test_every_location_is_an_agent_that_orders_on_the_arcs_into_it():
    env = InventoryParallelEnv("one_warehouse_lost", stores=3)
    assert env.possible_agents == ["warehouse 1", "store 1", "store 2", "store 3"]
    assert [env.action_space(agent).shape for agent in env.possible_agents] == [(1,)] * 4
    env = InventoryParallelEnv(network=diamond())
    shapes = {agent: env.action_space(agent).shape[0] for agent in env.possible_agents}
    assert shapes == {"plant": 1, "north": 1, "south": 1, "a": 1, "b": 2, "c": 1}


@pytest.mark.parametrize("cost", ["shared", "local"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_same_actions_give_the_states_and_the_total_reward_of_the_single_agent(setting, cost):
    parallel = InventoryParallelEnv(setting, cost=cost)
    single = InventoryNetEnv(setting=setting)
    single.reset(seed=7)
    for actions, (_, rewards, *_) in play(parallel, 7, 30, np.random.default_rng(0)):
        observation, reward, _, truncated, _ = single.step(joined(parallel, actions))
        assert not truncated
        assert sum(rewards.values()) == pytest.approx(reward, rel=1e-12, abs=1e-9)
        np.testing.assert_array_equal(parallel.state(), observation)
        for name, value in single.state.items():
            np.testing.assert_array_equal(parallel.env.state[name], value)


@pytest.mark.parametrize("arguments", [{"lost_sales": False}, {"objective": "profit"}])
def test_local_costs_add_up_with_unit_and_fixed_costs_and_with_profit(arguments):
    env = InventoryParallelEnv(network=diamond(), cost="local", instance=3, **arguments)
    single = InventoryNetEnv(network=diamond(), instance=3, **arguments)
    single.reset(seed=1)
    spread = set()
    for actions, (_, rewards, *_) in play(env, 1, 40, np.random.default_rng(2)):
        reward = single.step(joined(env, actions))[1]
        assert sum(rewards.values()) == pytest.approx(reward, rel=1e-12, abs=1e-9)
        spread.update(rewards.values())
    assert len(spread) > 40 * 5


def test_a_location_pays_for_its_stock_its_shortage_and_the_arcs_into_it():
    env = InventoryParallelEnv(
        network=diamond(),
        cost="local",
        lost_sales=False,
        action="orders",
        initial_stock=(0, 0),
        demand=np.full((1, 3, 40), 5.0),
        observe=("inventory",),
    )
    env.reset(seed=0)
    nothing = {agent: np.zeros(env.action_space(agent).shape) for agent in env.agents}
    rewards = env.step({**nothing, "plant": np.array([10.0])})[1]
    assert rewards == {
        "plant": -(0.7 * 10 + 3),
        "north": 0,
        "south": 0,
        "a": -20,
        "b": -45,
        "c": -30,
    }
    env.step(nothing)
    rewards = env.step({**nothing, "north": np.array([4.0])})[1]
    # The plant holds 10 - 4; the warehouse pays for the units that are on their way to it.
    assert rewards["plant"] == pytest.approx(-0.1 * 6)
    assert rewards["north"] == pytest.approx(-0.2 * 4)
    assert rewards["a"] == pytest.approx(-4.0 * 15)


def test_shared_cost_is_the_same_for_all():
    env = InventoryParallelEnv("one_warehouse_lost")
    for _, (_, rewards, *_) in play(env, 0, 3, np.random.default_rng(0)):
        assert len(set(rewards.values())) == 1


def test_an_agent_sees_its_pipeline_its_suppliers_stock_and_its_own_past_demands():
    env = InventoryParallelEnv(
        network=diamond(),
        observe=("inventory", "past_demands", "season"),
        past=4,
        action="normalized",
    )
    for _, (observations, *_) in play(env, 5, 6, np.random.default_rng(1)):
        state = env.env.state
        inventory = state["inventory"][0].astype(np.float32)
        season = env.state()[-2:]
        names = env.core.network.names
        north, south, plant, b = (names.index(n) for n in ("north", "south", "plant", "b"))
        expected = [*inventory[b], inventory[north, 0], inventory[south, 0]]
        np.testing.assert_array_equal(observations["b"][:5], np.array(expected))
        np.testing.assert_array_equal(observations["b"][-2:], season)
        assert observations["b"][-3] == np.float32(state["demand"][0, 1])
        assert len(observations["b"]) == 3 + 2 + 4 + 2
        np.testing.assert_array_equal(observations["plant"], [*inventory[plant], *season])
        for agent, seen in observations.items():
            assert seen in env.observation_space(agent)


def test_observe_all_shows_the_whole_network_to_every_agent():
    env = InventoryParallelEnv("many_warehouses_lost", observe_all=True)
    observations, _ = env.reset(seed=3)
    whole, _ = InventoryNetEnv(setting="many_warehouses_lost").reset(seed=3)
    for seen in observations.values():
        np.testing.assert_array_equal(seen, whole)


def test_infos_hold_the_agents_own_orders_and_demand():
    env = InventoryParallelEnv(network=diamond())
    for _, (*_, infos) in play(env, 0, 5, np.random.default_rng(0)):
        orders, demand = env.env.state["orders"][0], env.env.state["demand"][0]
        assert sum(info["orders"].sum() for info in infos.values()) == pytest.approx(orders.sum())
        assert [infos[store]["demand"] for store in "abc"] == demand.tolist()
        assert "demand" not in infos["plant"]


def test_all_agents_leave_when_the_episode_is_truncated():
    env = InventoryParallelEnv("one_warehouse_lost", periods=3, ignore=0)
    *_, (_, (observations, _, terminations, truncations, infos)) = play(
        env, 0, 3, np.random.default_rng(0)
    )
    assert env.agents == [] and set(observations) == set(infos) == set(env.possible_agents)
    assert all(truncations.values()) and not any(terminations.values())
    with pytest.raises(ValueError, match="call reset before step"):
        env.step({})
    env.reset()
    assert env.agents == env.possible_agents


def test_wrong_actions_are_refused_by_name():
    env = InventoryParallelEnv("one_warehouse_lost", stores=2)
    env.reset(seed=0)
    good = {agent: np.zeros(1) for agent in env.agents}
    with pytest.raises(ValueError, match=r"missing for \['store 2'\]"):
        env.step({agent: good[agent] for agent in ("warehouse 1", "store 1")})
    with pytest.raises(ValueError, match=r"unknown agents \['store 9'\]"):
        env.step({**good, "store 9": np.zeros(1)})
    with pytest.raises(ValueError, match=r"agent 'store 1': action 1.5 "):
        env.step({**good, "store 1": np.array([1.5])})
    with pytest.raises(ValueError, match=r"agent 'store 2': action has shape \(3,\)"):
        env.step({**good, "store 2": np.zeros(3)})
    with pytest.raises(ValueError, match="cost='mine'"):
        InventoryParallelEnv("one_warehouse_lost", cost="mine")


def test_render_gives_a_picture():
    env = InventoryParallelEnv("one_store_lost", render_mode="rgb_array")
    env.reset(seed=0)
    picture = env.render()
    assert picture.dtype == np.uint8 and picture.shape == (600, 960, 3)


def test_without_pettingzoo_one_line_names_the_extra(monkeypatch):
    import_ = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "pettingzoo" or name.startswith("pettingzoo."):
            raise ModuleNotFoundError("No module named 'pettingzoo'", name="pettingzoo")
        return import_(name, *args, **kwargs)

    name = "palaestra.wrappers.pettingzoo"
    kept = sys.modules[name]
    monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pettingzoo", None)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r'pip install "palaestra\[pettingzoo\]"') as error:
        importlib.import_module(name)
    assert "\n" not in str(error.value)
    sys.modules[name] = kept
