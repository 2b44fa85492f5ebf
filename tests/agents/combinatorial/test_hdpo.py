"""HDPO: its maps and networks against numbers, and learning on networks of several shapes."""

from __future__ import annotations

import gymnasium as gym
import networkx as nx
import numpy as np
import pytest
import torch

import palaestra
from palaestra.agents.base.inventory import longest_chain
from palaestra.agents.base.unrolling import unroll
from palaestra.agents.combinatorial.hdpo import (
    HDPO,
    outside_order,
    proportional_allocation,
    softmax_split,
)
from palaestra.agents.combinatorial.reinforce import Reinforce, score_function_loss
from palaestra.envs.base import to_torch

SMALL = {"scenarios": 8, "batch_size": 4, "validation_scenarios": 8}


def make(**arguments):
    return gym.make("InventoryNet-v0", **{"periods": 8, "ignore": 2, **arguments})


def test_worked_example_softmax_split():
    orders = softmax_split(
        torch.tensor([[1.0, 2.0]], dtype=torch.float64),
        torch.tensor([[10.0, 0.0, 0.0]], dtype=torch.float64),
        torch.tensor([0, 0]),
        torch.tensor([1.0, 1.0, 1.0], dtype=torch.float64),
    )
    assert orders[0].tolist() == pytest.approx([2.119416, 5.761169], abs=1e-6)


def test_worked_example_base_stock_gradient():
    """Base stock 11 on demands 5, 6, 2, 4: the derivative of the total cost in the level is -18."""
    env = make(
        topology="one_store",
        lost_sales=False,
        lead=2,
        underage=9.0,
        holding=1.0,
        periods=4,
        ignore=0,
        action="orders",
        demand={"law": "poisson", "mean": 5.0},
    )
    core = env.unwrapped.core.torch(dtype=torch.float64)
    level = torch.tensor(11.0, dtype=torch.float64, requires_grad=True)
    stock = torch.zeros(1, 1, core.slots, dtype=torch.float64)
    stock[0, 0, :2] = torch.tensor([4.0, 3.0])
    tape = {
        "stock": stock,
        "demand": torch.tensor([[[5.0], [6.0], [2.0], [4.0]]], dtype=torch.float64),
        "start": torch.tensor([0]),
    }
    placed = []

    def policy(observation: torch.Tensor) -> torch.Tensor:
        placed.append((level - observation.sum(1, keepdim=True)).clamp(min=0))
        return placed[-1]

    mean_reward, _ = unroll(core, policy, tape, 4)
    total = -4 * mean_reward.sum()
    total.backward()
    assert [float(order.detach()) for order in placed] == pytest.approx([4, 5, 6, 2])
    assert float(total.detach()) == pytest.approx(72, abs=1e-9)
    assert float(level.grad) == pytest.approx(-18, abs=1e-9)


def test_softmax_split_keeps_nothing_where_the_keep_logit_is_minus_infinity():
    orders = softmax_split(
        torch.randn(5, 3),
        torch.full((5, 4), 7.0),
        torch.tensor([0, 0, 0]),
        torch.tensor([-torch.inf, 1.0, 1.0, 1.0]),
    )
    assert orders.sum(1).tolist() == pytest.approx([7.0] * 5, rel=1e-5)


def test_softmax_split_survives_huge_logits():
    orders = softmax_split(
        torch.tensor([[1e4, -1e4]]),
        torch.tensor([[3.0]]),
        torch.tensor([0, 0]),
        torch.tensor([1.0]),
    )
    assert orders.tolist() == [[3.0, 0.0]]


def test_proportional_allocation_scales_down_but_never_up_unless_all_must_be_shipped():
    orders, stock = torch.tensor([[6.0, 2.0, 1.0]]), torch.tensor([[4.0, 10.0]])
    source = torch.tensor([0, 0, 1])
    kept = proportional_allocation(orders, stock, source, torch.tensor([False, False]))
    assert kept[0].tolist() == pytest.approx([3.0, 1.0, 1.0])
    shipped = proportional_allocation(orders, stock, source, torch.tensor([False, True]))
    assert shipped[0].tolist() == pytest.approx([3.0, 1.0, 10.0])


def test_outside_order_is_half_the_limit_at_zero():
    assert float(outside_order(torch.tensor(0.0), torch.tensor(40.0))) == 20.0


@pytest.mark.parametrize(
    ("arcs", "length"),
    [
        ([(-1, 0)], 0),
        ([(-1, 0), (0, 1), (0, 2)], 1),
        ([(-1, 0), (0, 1), (1, 2), (2, 3)], 3),
    ],
)
def test_longest_chain_counts_the_arcs_between_locations(arcs, length):
    source, target = np.array(arcs).T
    assert longest_chain(source, target) == length


@pytest.mark.parametrize("policy", ["MlpPolicy", "GraphPolicy"])
@pytest.mark.parametrize(
    "setting",
    [
        "one_store_backlogged",
        "one_store_lost",
        "serial_system",
        "transshipment",
        "one_warehouse_lost",
        "many_warehouses_lost",
    ],
)
def test_orders_are_feasible_on_every_setting(setting, policy):
    env = make(setting=setting, action="orders")
    agent = HDPO(policy, env, seed=1, **SMALL)
    observation, _ = env.reset(seed=0)
    for _ in range(8):  # an order above the supplier's stock would raise
        action, _ = agent.predict(observation)
        assert env.action_space.contains(action)
        observation, *_ = env.step(action)


@pytest.mark.parametrize("policy", ["MlpPolicy", "GraphPolicy"])
def test_gradient_through_the_simulator_equals_finite_differences(policy):
    env = make(setting="one_warehouse_lost", stores=2, periods=5, ignore=0)
    agent = HDPO(policy, env, seed=0, **SMALL)
    agent.policy.double()
    agent.policy._task = None
    core = agent.core.with_orders().torch(dtype=torch.float64)
    agent.policy._task = core
    tape = to_torch(core.tapes(3, 0), dtype=torch.float64)
    loss = agent.loss(core, tape)
    loss.backward()
    parameter = next(agent.policy.parameters())
    for index in [(0, 0), (1, 2)]:
        with torch.no_grad():
            parameter[index] += 1e-6
            above = float(agent.loss(core, tape))
            parameter[index] -= 2e-6
            below = float(agent.loss(core, tape))
            parameter[index] += 1e-6
        assert (above - below) / 2e-6 == pytest.approx(
            float(parameter.grad[index]), rel=1e-3, abs=1e-7
        )


def test_a_graph_policy_trained_on_10_stores_runs_on_30():
    small, large = (
        make(setting="one_warehouse_lost", stores=10),
        make(setting="one_warehouse_lost", stores=30),
    )
    agent = HDPO("GraphPolicy", small, seed=0, **SMALL).learn(200)
    moved = agent.transfer(large)
    observation, _ = large.reset(seed=3)
    action, _ = moved.predict(observation)
    assert action.shape == (31,)
    assert large.action_space.contains(action)
    for name, value in agent.policy.state_dict().items():
        assert torch.equal(value, moved.policy.state_dict()[name])


def test_a_plain_policy_cannot_be_transferred():
    agent = HDPO("MlpPolicy", make(setting="one_warehouse_lost", stores=3), seed=0, **SMALL)
    with pytest.raises(ValueError, match="GraphPolicy"):
        agent.transfer(make(setting="one_warehouse_lost", stores=4))


def test_transfer_refuses_longer_pipelines_than_the_policy_was_made_for():
    agent = HDPO("GraphPolicy", make(setting="one_warehouse_lost", stores=3), seed=0, **SMALL)
    with pytest.raises(ValueError, match="slots"):
        agent.transfer(make(setting="one_warehouse_lost", stores=3, lead=6))


@pytest.mark.parametrize("policy", ["MlpPolicy", "GraphPolicy"])
def test_learns_on_a_graph_of_a_shape_never_seen(policy):
    graph = nx.DiGraph()
    graph.add_node("plant", kind="echelon", holding=0.1, lead=2)
    graph.add_node("north", kind="warehouse", holding=0.3)
    graph.add_node("south", kind="warehouse", holding=0.4)
    for name, suppliers in {
        "a": ["north"],
        "b": ["north", "south"],
        "c": ["south"],
        "d": ["plant"],
    }.items():
        graph.add_node(name, kind="store", holding=1.0, underage=9.0)
        for supplier in suppliers:
            graph.add_edge(supplier, name, lead=2)
    graph.add_edge("plant", "north", lead=1)
    graph.add_edge("plant", "south", lead=2)
    env = make(network=graph, periods=12, ignore=4)
    agent = HDPO(
        policy,
        env,
        seed=0,
        learning_rate=1e-2,
        scenarios=32,
        batch_size=16,
        validation_scenarios=32,
        evaluate_every=5,
    )
    agent.learn(32 * 12 * 20)
    assert agent.best_validation > agent.curve[0][1]
    observation, _ = env.reset(seed=0)
    assert env.action_space.contains(agent.predict(observation)[0])


def test_a_normalized_policy_orders_in_proportion_to_the_level_of_demand():
    """Twice the stock and twice the past demand: twice the orders."""
    demand = np.random.default_rng(0).gamma(4.0, 5.0, (6, 3, 60))
    env = make(
        topology="one_warehouse", demand=demand, observe=("inventory", "past_demands"), periods=10
    )
    agent = HDPO("MlpPolicy", env, seed=0, policy_kwargs={"normalize": True}, **SMALL)
    agent.policy.mean_demand.zero_()  # the floor of the level is not in proportion
    observation = torch.rand(4, env.observation_space.shape[0]) * 50 + 1
    with torch.no_grad():
        once, twice = agent.policy(observation), agent.policy(2 * observation)
    assert torch.allclose(2 * once, twice, rtol=1e-4)


def test_hdpo_is_near_the_optimum_of_a_newsvendor():
    """Lead 1 with backlog: the optimum has a closed form, (p + h) sqrt(2) sigma phi(z)."""
    from statistics import NormalDist

    z = NormalDist().inv_cdf(0.9)
    optimum = 10 * np.sqrt(2) * 1.6 * NormalDist().pdf(z)
    env = make(setting="one_store_backlogged", lead=1, periods=30, ignore=10)
    agent = HDPO(
        "MlpPolicy",
        env,
        seed=0,
        learning_rate=1e-2,
        scenarios=256,
        batch_size=64,
        validation_scenarios=256,
        evaluate_every=10,
    ).learn(256 * 30 * 100)
    test = agent.core.variant(periods=500, ignore=50)
    reward = agent.evaluate_tapes(agent.simulator(test), to_torch(test.tapes(128, 0)))
    assert -float(reward.mean()) == pytest.approx(optimum, rel=0.03)


def test_learning_stops_early_and_keeps_the_best_parameters():
    env = make(setting="one_store_backlogged")
    agent = HDPO("MlpPolicy", env, seed=0, learning_rate=0.0, evaluate_every=1, patience=3, **SMALL)
    agent.learn(10**9)
    assert agent._epoch == 4  # the first validation is the best one; then three without improvement
    assert agent.best_validation == max(reward for _, reward in agent.curve)


def test_score_function_gradient_is_that_of_the_mean_reward():
    """One step, Gaussian action, reward -a^2: the gradient of E[-(m + s e)^2] is -2 m."""
    torch.manual_seed(0)
    mean = torch.tensor(1.5, requires_grad=True)
    noise = 0.5 * torch.randn(200_000)
    action = (mean + noise).detach()
    log_probs = -0.5 * ((action - mean) / 0.5) ** 2
    score_function_loss(log_probs[None], -(action**2)[None]).backward()
    assert float(mean.grad) == pytest.approx(3.0, rel=0.03)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("policy", "setting"), [("MlpPolicy", "one_store_lost"), ("GraphPolicy", "one_warehouse_lost")]
)
def test_compiled_and_plain_updates_agree(policy, setting):
    """Stretches of 3 of the 8 periods: two compiled, the rest plain."""
    losses = []
    for compile_periods in (0, 3):
        env = make(setting=setting)
        arguments = {**SMALL, "evaluate_every": 0, "compile_periods": compile_periods}
        agent = HDPO(policy, env, seed=0, **arguments).learn(1)
        losses.append([agent.update()["train/loss"] for _ in range(5)])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_compiling_without_a_compiler_is_refused(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ValueError, match=r"needs a C\+\+ compiler.*g\+\+, clang\+\+"):
        HDPO("MlpPolicy", make(setting="one_store_lost"), compile_periods=5)


def test_reinforce_improves_with_the_same_policy():
    env = make(setting="one_store_backlogged", lead=1)
    agent = Reinforce(
        "MlpPolicy",
        env,
        seed=0,
        learning_rate=1e-2,
        noise=0.5,
        scenarios=128,
        batch_size=64,
        validation_scenarios=128,
        evaluate_every=5,
    ).learn(128 * 8 * 60)
    assert agent.best_validation > agent.curve[0][1] + 1.0


@pytest.mark.parametrize(
    "arguments", [{"scenarios": 0}, {"batch_size": 0}, {"compile_periods": -1}]
)
def test_wrong_arguments_are_refused(arguments):
    with pytest.raises(ValueError, match="at least"):
        HDPO("MlpPolicy", make(setting="one_store_lost"), **arguments)


def test_hdpo_needs_a_simulator():
    agent_class = palaestra.agents.HDPO
    with pytest.raises(ValueError, match="array environment"):
        agent_class("MlpPolicy", gym.make("CartPole-v1"))


def test_set_env_moves_learning_to_the_new_task_and_keeps_the_weights():
    cheap, dear = (make(setting="one_store_lost", underage=p) for p in (4.0, 39.0))
    agent = HDPO("MlpPolicy", cheap, seed=0, **SMALL).learn(64)
    before = {name: value.clone() for name, value in agent.policy.state_dict().items()}
    agent.set_env(dear)
    assert agent.core.network.underage.tolist() == [39.0]
    assert agent.policy.core is agent.core
    for name, value in agent.policy.state_dict().items():
        assert torch.equal(value, before[name])
    agent.learn(64, reset_num_timesteps=False)
    assert agent._training.underage.tolist() == [39.0]
