"""Newsvendor rules and the forecast they order by."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch

import palaestra
from palaestra.agents.heuristics.forecast import QuantileForecast, Sales, fit_forecast, pinball_loss
from palaestra.agents.heuristics.newsvendor import served_pairs
from palaestra.envs.base import to_torch
from palaestra.envs.inventory.inventory_net import InventoryNet

RULES = ("QuantileNewsvendor", "FixedQuantileNewsvendor", "TransformedNewsvendor")
QUICK = {"scenarios": 128, "batch_size": 64, "validation_scenarios": 64, "evaluate_every": 5}


def sales(series=24, stores=2, seed=0):
    """Products that sell 3 to 300 a week, with a season of 52 weeks."""
    rng = np.random.default_rng(seed)
    size = np.geomspace(3, 300, series)[:, None, None]
    season = 1 + 0.5 * np.sin(2 * np.pi * np.arange(171) / 52)
    return rng.poisson(size * season, (series, stores, 171)).astype(float)


@pytest.fixture(scope="module")
def core():
    return InventoryNet(topology="one_warehouse", demand=sales(), lead=2)


def test_pinball_loss_weighs_shortage_by_the_level_and_excess_by_the_rest():
    found = pinball_loss(torch.tensor([8.0, 12.0]), torch.tensor(10.0), torch.tensor(0.9))
    assert found.tolist() == pytest.approx([1.8, 0.2])


def test_every_arc_serves_the_stores_below_it_over_the_longest_way():
    core = InventoryNet(setting="serial_system")  # leads 2, 4, 3 and the store's 4
    arcs, stores, periods = served_pairs(core)
    assert arcs.tolist() == [0, 1, 2, 3] and stores.tolist() == [0] * 4
    assert periods.tolist() == [14, 12, 8, 5]


def test_forecast_learns_the_season_and_covers_held_out_sales_as_often_as_it_says(core):
    horizons = np.array([1, 3])
    forecast = QuantileForecast(core, horizons, recorded=True)
    forecast.start(core)
    losses = fit_forecast(forecast, core, seed=0, steps=600)
    assert min(losses) < 0.75 * losses[0]
    features, demand, _ = Sales(core, horizons, "test", "cpu").draw(2_000, np.random.default_rng(1))
    with torch.no_grad():
        quantiles = forecast(features)
    assert (quantiles.diff(dim=-1) > 0).all()
    covered = (demand[..., None] <= quantiles).float().mean(dim=(0, 1, 2))
    for level in (0.5, 0.75, 0.92):
        at = int((forecast.levels - level).abs().argmin())
        assert float(covered[at]) == pytest.approx(level, abs=0.06)


def test_quantiles_between_the_knots_increase_with_the_level_and_carry_its_gradient(core):
    forecast = QuantileForecast(core, np.array([2]), recorded=True)
    forecast.start(core)
    levels = torch.tensor([0.7, 0.8, 0.9, 0.997], requires_grad=True)
    first = torch.zeros(4, dtype=torch.long)
    found = forecast.at(forecast(None), first, first, levels)
    assert (found.diff() > 0).all()
    found.sum().backward()
    assert (levels.grad > 0).all()


def test_exact_quantile_of_a_law_is_the_optimal_base_stock():
    env = gym.make("InventoryNet-v0", setting="one_store_lost", action="orders")
    agent = palaestra.agents.QuantileNewsvendor("HeuristicPolicy", env, seed=0)
    order, _ = agent.predict(np.zeros(env.observation_space.shape, np.float32))
    optimum = env.unwrapped.core.demand.quantile(0.9, 5)
    assert order == pytest.approx(optimum, rel=1e-5)


@pytest.mark.parametrize("name", RULES[1:])
def test_tuning_the_quantile_pays_where_the_exact_one_is_wrong(name):
    env = gym.make("InventoryNet-v0", setting="one_warehouse_lost", stores=4)
    core = env.unwrapped.core
    tape = to_torch(core.tapes(128, 5))
    agent = getattr(palaestra.agents, name)("HeuristicPolicy", env, seed=0, **QUICK)
    before = -float(agent.evaluate_tapes(agent.simulator(core), tape).mean())
    agent.learn(25 * agent.batch_size * core.horizon)
    after = -float(agent.evaluate_tapes(agent.simulator(core), tape).mean())
    assert after < 0.96 * before


@pytest.mark.parametrize("name", [*RULES, "BaseStock", "CappedBaseStock", "EchelonStock"])
def test_products_of_any_size_get_the_same_orders_in_units_of_their_demand(name, core):
    env = gym.make("InventoryNet-v0", **{**core.given, "demand": core.demand, "action": "orders"})
    agent = getattr(palaestra.agents, name)("HeuristicPolicy", env, seed=0)
    state = core.initial(
        {k: v[None] for k, v in core.draw_tape(np.random.default_rng(0), {"series": 12}).items()}
    )
    observation = to_torch(core.observation(state))
    parts = len(core.slot_index) + core.past * core.stores
    larger = torch.cat([10 * observation[:, :parts], observation[:, parts:]], dim=1)
    with torch.no_grad():
        orders, more = agent.policy(observation), agent.policy(larger)
    assert orders[:, : core.outside_arcs].min() > 0
    # The lowest demand level and the size that the forecaster reads make it not quite exact.
    assert torch.allclose(10 * orders, more, rtol=0.06)


@pytest.mark.slow
def test_every_rule_learns_on_a_trace_and_stays_below_hindsight(core):
    given = {**core.given, "demand": sales(), "objective": "profit"}
    env = gym.make("InventoryNet-v0", **given)
    test = env.unwrapped.core.variant(split="test", periods=None, ignore=None)
    tape = to_torch(test.scenarios(1, 3))
    profit = {}
    for name in (*RULES, "BaseStock", "EchelonStock", "JustInTime"):
        agent = getattr(palaestra.agents, name)("HeuristicPolicy", env, seed=0)
        agent.learn(40 * 24 * env.unwrapped.core.horizon)
        profit[name] = float(agent.evaluate_tapes(agent.simulator(test), tape).mean())
    assert max(profit, key=profit.get) == "JustInTime"
    assert min(profit.values()) > 0.8 * profit["JustInTime"]
