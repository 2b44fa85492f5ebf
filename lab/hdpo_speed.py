"""HDPO's training throughput, beside that of the official code of its paper."""

from __future__ import annotations

import functools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from ..envs.inventory.inventory_net import InventoryNet
from .bench import TIMES, Result, Say, alternate, ratio
from .peer import Peer

PERIODS = 50


@dataclass(frozen=True)
class Case:
    """A task and a network for which the paper's official code has both as well.

    Attributes:
        environment: arguments of `InventoryNet-v0`.
        policy, policy_kwargs: of HDPO.
        compile_periods: of HDPO, for the compiled side.
        official: names of the official code's files of the setting and of the policy.
        batch: episodes per update.
        updates: per round.
    """

    name: str
    environment: Mapping[str, Any]
    policy: str
    policy_kwargs: Mapping[str, Any]
    compile_periods: int
    official: tuple[str, str]
    batch: int = 128
    updates: int = 2


# The paper's networks on raw units: what the official code computes.
GRAPH = {"width": 32, "layers": 2, "normalize": False}
DEMAND = {
    **{"law": "normal", "mean": ("uniform", 2.5, 7.5), "cv": ("uniform", 0.25, 0.5)},
    **{"correlation": 0.5, "clip": True},
}
CASES = (
    Case(
        "one store, 32-32-32",
        {"setting": "one_store_backlogged", "lead": 4},
        "MlpPolicy",
        {"net_arch": (32, 32, 32), "normalize": False},
        10,
        ("one_store_backlogged", "vanilla_one_store"),
        updates=20,
    ),
    Case(
        "1 warehouse, 10 stores, graph network",
        {"setting": "one_warehouse_lost", "stores": 10},
        "GraphPolicy",
        GRAPH,
        1,
        ("one_warehouse_lost_demand", "gnn"),
    ),
    Case(
        "2 warehouses, 10 stores, graph network",
        {"setting": "many_warehouses_lost"},
        "GraphPolicy",
        GRAPH,
        1,
        ("many_warehouses_lost_demand", "gnn"),
    ),
    # The network and the batch of the paper's experiment on real data, with demand from a law.
    Case(
        "Favorita's 3 warehouses and 21 stores, graph network",
        {
            **{"setting": "favorita", "demand": DEMAND, "observe": ("inventory",)},
            "objective": "cost",
        },
        "GraphPolicy",
        GRAPH,
        1,
        ("many_warehouses_lost_demand", "gnn"),
        batch=72,
        updates=1,
    ),
)
OFFICIAL = "PALAESTRA_OFFICIAL_HDPO"
NO_CHECKOUT = (
    "The official code is not part of this package and was not measured here: set "
    f"{OFFICIAL} to the folder of a checkout of github.com/MatiasAlvo/Neural_inventory_control."
)


def official_changes(core: InventoryNet) -> dict[str, dict[str, Any]]:
    """What to change in a setting of the official code so that its network is that of `core`."""
    net, warehouses = core.network, core.suppliers
    if not warehouses:
        return {}
    problem: dict[str, Any] = {"n_stores": core.stores, "n_warehouses": warehouses}
    if warehouses == 1:
        return {"problem_params": problem}
    leads = np.zeros((core.stores, warehouses), dtype=int)
    source = net.source[core.outside_arcs :]
    leads[net.target[core.outside_arcs :] - warehouses, source] = net.lead[core.outside_arcs :]
    problem["warehouse_store_adjacency"] = (leads.T > 0).astype(int).tolist()
    store_lead = {
        **{"sample_across_stores": False, "vary_across_samples": False, "expand": True},
        "value": leads.tolist(),
    }
    warehouse = {
        "holding_cost": net.holding[:warehouses].tolist(),
        "edge_cost": net.unit_cost[: core.outside_arcs].tolist(),
    }
    return {
        "problem_params": problem,
        "store_params": {"lead_time": store_lead},
        "warehouse_params": warehouse,
    }


def official_code(checkout: str, task: Mapping[str, Any]) -> Peer:
    """The official code at work.

    Args:
        checkout: its folder.
        task: what `official_hdpo.py` takes.

    Raises:
        ValueError: the folder is not such a checkout.
    """
    if not (Path(checkout) / "neural_networks.py").is_file():
        raise ValueError(f"{OFFICIAL}={checkout} has no neural_networks.py: not a checkout")
    driver = Path(__file__).with_name("official_hdpo.py")
    # -P: the modules of this folder must not stand in for those of the standard library.
    command = [sys.executable, "-P", str(driver), str(Path(checkout).resolve())]
    return Peer([*command, json.dumps(task)], f"the code in {OFFICIAL}")


def hdpo_updates(case: Case, batch: int, compile_periods: int) -> Callable[[int], float]:
    """A function: the seconds that a number of HDPO's updates take."""
    from ..agents.combinatorial.hdpo import HDPO

    env = gym.make("InventoryNet-v0", **case.environment, periods=PERIODS, ignore=20)
    agent = HDPO(
        case.policy,
        env,
        seed=0,
        policy_kwargs=dict(case.policy_kwargs),
        scenarios=batch,
        batch_size=batch,
        validation_scenarios=1,
        evaluate_every=0,
        compile_periods=compile_periods,
        device="cpu",
    ).learn(2 * batch * PERIODS)  # records the scenarios, and compiles

    def seconds(updates: int) -> float:
        start = time.perf_counter()
        for _ in range(updates):
            agent.update()
        return time.perf_counter() - start

    return seconds


def throughput_of(case: Case, quick: bool, say: Say) -> list[Result]:
    """Store-periods per second of one case, our sides and the official one in turns."""
    batch, rounds, updates = (16, 1, 1) if quick else (case.batch, 7, case.updates)
    core = InventoryNet(**case.environment)
    clocks: dict[str, Callable[[int], float]] = {"plain": hdpo_updates(case, batch, 0)}
    if not quick:
        say(f"compiling {case.name}")
        clocks["compiled"] = hdpo_updates(case, batch, case.compile_periods)
    checkout = os.environ.get(OFFICIAL)
    with ExitStack() as stack:
        if checkout:
            setting, policy = case.official
            task = {"setting": setting, "policy": policy, "changes": official_changes(core)}
            official = official_code(checkout, {**task, "batch": batch})
            clocks["official"] = stack.enter_context(official).seconds
        say(f"{rounds} rounds of {case.name}: {', '.join(clocks)}")
        seconds = alternate(
            {name: functools.partial(clock, updates) for name, clock in clocks.items()}, rounds
        )
    work = updates * batch * PERIODS * core.stores
    found = {name: [work / taken for taken in values] for name, values in seconds.items()}
    titles = {"plain": "HDPO", "compiled": "HDPO, compiled", "official": "official code"}
    results = [
        Result(f"{case.name}: {titles[name]}, store-periods/s", statistics.median(values))
        for name, values in found.items()
    ]
    best = "compiled" if "compiled" in found else "plain"
    for name in dict.fromkeys(("plain", best)):
        target = 5.0 if name == best else None
        quantity = f"{case.name}: {titles[name]} / official code"
        if checkout:
            value = ratio(found[name], found["official"])
            results.append(Result(quantity, value, TIMES, target))
        elif target is not None:
            results.append(Result(quantity, None, TIMES, target, note=NO_CHECKOUT))
    return results


def hdpo_throughput(quick: bool, say: Say) -> list[Result]:
    """HDPO's updates against those of the official code."""
    return [result for case in CASES for result in throughput_of(case, quick, say)]
