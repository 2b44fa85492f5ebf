"""(s, S): the renewal-reward cost, the search, and the agent."""

from __future__ import annotations

import gymnasium as gym
import networkx as nx
import numpy as np
import pytest
from scipy.stats import poisson

import palaestra
from palaestra.agents.heuristics.ss_policy import RenewalCost, optimal_ss, ss_cost
from palaestra.envs.base import to_torch

PMF = poisson.pmf(np.arange(40), 3)
CARD = {"lead": 1, "fixed_cost": 5.0, "holding": 1.0, "underage": 9.0}


def one_store(demand, fixed_cost, **given):
    graph = nx.DiGraph()
    graph.add_node("store", kind="store", holding=1.0, underage=9.0, lead=1, fixed_cost=fixed_cost)
    return gym.make("InventoryNet-v0", network=graph, demand=demand, lost_sales=False, **given)


def test_worked_example():
    assert ss_cost(8, 14, PMF, **CARD) == pytest.approx(8.495170, abs=1e-5)


def test_formula_agrees_with_a_simulation():
    rng, runs, periods = np.random.default_rng(0), 2_000, 600
    on_hand, arriving = np.full(runs, 14.0), np.zeros(runs)
    total = 0.0
    for period in range(periods):
        position = on_hand + arriving
        order = np.where(position <= 8, 14 - position, 0)
        left = on_hand - rng.poisson(3, runs)
        if period >= 100:
            total += (5 * (order > 0) + np.maximum(left, 0) + 9 * np.maximum(-left, 0)).mean()
        on_hand, arriving = left + arriving, order
        on_hand, arriving = on_hand + arriving, np.zeros(runs)  # lead 1: usable in the next period
    assert total / (periods - 100) == pytest.approx(ss_cost(8, 14, PMF, **CARD), rel=0.005)


@pytest.mark.parametrize("fixed_cost", [0.0, 1.0, 5.0, 64.0])
@pytest.mark.parametrize("lead", [1, 4])
def test_search_finds_the_best_pair_of_all(fixed_cost, lead):
    arguments = {**CARD, "lead": lead, "fixed_cost": fixed_cost}
    costs = RenewalCost(PMF, **arguments)
    everywhere = min(costs.cost(s, S) for s in range(-10, 40) for S in range(s + 1, 70))
    s, S, best = optimal_ss(PMF, **arguments)
    assert best == pytest.approx(everywhere, abs=1e-12)
    assert costs.cost(s, S) == best


@pytest.mark.parametrize(
    "wrong",
    [
        {"underage": 0.0},
        {"holding": 0.0},
        {"fixed_cost": -1.0},
        {"lead": 0},
        {"pmf": [1.0]},
        {"pmf": [0.5]},
    ],
)
def test_impossible_arguments_are_refused(wrong):
    with pytest.raises(ValueError):
        optimal_ss(**{"pmf": PMF, **CARD, **wrong})


def test_agent_orders_up_to_the_best_level_at_the_order_point_and_costs_what_the_formula_says():
    env = one_store({"law": "poisson", "mean": 3}, 5.0)
    agent = palaestra.agents.SsPolicy(
        "HeuristicPolicy", env, seed=0, scenarios=8, validation_scenarios=8
    )
    s, S, best = optimal_ss(PMF, **CARD)
    core = env.unwrapped.core.with_orders()
    agent = palaestra.agents.SsPolicy(
        "HeuristicPolicy", gym.make("InventoryNet-v0", **core.given), seed=0
    )
    at, above = (agent.predict(np.full(1, stock, np.float32))[0][0] for stock in (s, s + 1))
    assert (at, above) == (pytest.approx(S - s, abs=1e-4), 0)
    long = env.unwrapped.core.variant(periods=400, ignore=50)
    simulated = -float(
        agent.evaluate_tapes(agent.simulator(long), to_torch(long.tapes(256, 3))).mean()
    )
    assert simulated == pytest.approx(best, rel=0.01)


def test_continuous_demand_is_discretised_finely_enough():
    env = one_store({"law": "normal", "mean": 5, "std": 1.6}, 20.0)
    agent = palaestra.agents.SsPolicy("HeuristicPolicy", env, seed=0)
    long = env.unwrapped.core.variant(periods=200, ignore=50)
    tape = to_torch(long.tapes(128, 3))

    def cost(pairs):
        agent.policy.pairs.copy_(pairs)
        return -float(agent.evaluate_tapes(agent.simulator(long), tape).mean())

    best = agent.policy.pairs.clone()
    shifted = [
        cost(best + best.new_tensor(shift))
        for shift in ([0.3, 0.3], [-0.3, -0.3], [0, 0.5], [0, -0.5])
    ]
    assert cost(best) < min(shifted)


def test_larger_products_order_more_often_for_the_same_fixed_cost():
    rng = np.random.default_rng(0)
    sizes = np.array([2.0, 20.0, 200.0])
    sales = rng.poisson(sizes[:, None, None], (3, 1, 171)).astype(float)
    env = one_store(sales, 50.0)
    agent = palaestra.agents.SsPolicy("HeuristicPolicy", env, seed=0)
    s, S = agent.policy.pairs[0].T
    gaps = (S - s).tolist()
    assert all(small > large for small, large in zip(gaps[:-1], gaps[1:], strict=True))


def test_networks_with_suppliers_are_refused():
    with pytest.raises(ValueError, match="buy outside"):
        palaestra.agents.SsPolicy(
            "HeuristicPolicy", gym.make("InventoryNet-v0", setting="serial_system")
        )
