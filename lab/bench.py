"""Speed and cost, measured: each benchmark is a small declared object, and every ratio is of two
sides that ran in turn in the same process or minute.

    palaestra bench                          print the table
    palaestra bench --out docs/benchmarks.md write it as a page as well

The paper's own HDPO implementation is timed beside ours when PALAESTRA_OFFICIAL_HDPO names a
checkout of it; none of its code belongs to this project.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from ..agents.base.simulator_gradient import SimulatorGradientAlgorithm
from ..agents.combinatorial.hdpo import HDPO
from ..envs.base import to_torch
from .official_hdpo import OFFICIAL, seconds_per_update
from .runner import versions

ROUNDS = 5


@dataclass(frozen=True)
class Case:
    """A setting and network in which HDPO's update is timed.

    Attributes:
        name: for the table.
        task: arguments of `InventoryNet-v0`.
        official: setting, network and stores of the paper's implementation.
        policy, network: ours, of the same size.
        compile_periods: for the compiled variant.
    """

    name: str
    task: dict[str, Any]
    official: tuple[str, str, int]
    policy: str
    network: dict[str, Any]
    compile_periods: int


CASES = (
    Case(
        "one store, MLP 32-32-32",
        {"setting": "one_store_backlogged", "lead": 4},
        ("one_store_backlogged", "vanilla_one_store", 0),
        "MlpPolicy",
        {"net_arch": (32, 32, 32), "normalize": False},
        10,
    ),
    Case(
        "1 warehouse, 10 stores, GNN",
        {"setting": "one_warehouse_lost", "stores": 10},
        ("one_warehouse_lost_demand", "gnn", 10),
        "GraphPolicy",
        {"normalize": False},
        1,
    ),
    Case(
        "2 warehouses, 10 stores, GNN",
        {"setting": "many_warehouses_lost"},
        ("many_warehouses_lost_demand", "gnn", 10),
        "GraphPolicy",
        {"normalize": False},
        1,
    ),
)


@dataclass(frozen=True)
class Measure:
    """One line of the table.

    Attributes:
        what: what was measured, and how.
        value: the figure as text.
        target: what it should reach, "" for a line without target.
        met: whether it does; None without target.
    """

    what: str
    value: str
    target: str = ""
    met: bool | None = None


@dataclass(frozen=True)
class Benchmark:
    """A named benchmark: `run(quick)` returns its lines."""

    name: str
    text: str
    run: Callable[[bool], list[Measure]]


def in_turn(sides: Sequence[Callable[[], float]], rounds: int) -> list[float]:
    """Median figure of each side; the sides run A B A B, so that drift of the machine hits both."""
    found: list[list[float]] = [[] for _ in sides]
    for _ in range(rounds):
        for index, side in enumerate(sides):
            found[index].append(side())
    return [statistics.median(values) for values in found]


# -- simulation -----------------------------------------------------------------------------------


def whole_episodes(env: Any, stores: int, episodes: int) -> Callable[[], float]:
    """Store-steps per second of a vector over whole episodes, resets included."""
    actions = np.zeros(env.action_space.shape, dtype=np.float32)
    env.reset(seed=0)

    def measure() -> float:
        steps = episodes * 51  # 50 periods and the step that resets
        start = time.perf_counter()
        for _ in range(steps):
            env.step(actions)
        return steps * env.num_envs * stores / (time.perf_counter() - start)

    return measure


def inventory_vector(quick: bool) -> list[Measure]:
    """The native vector beside Gymnasium's."""
    task: dict[str, Any] = {"topology": "one_warehouse", "stores": 10}
    native = gym.make_vec("InventoryNet-v0", 1024, vectorization_mode="vector_entry_point", **task)
    sync = gym.make_vec("InventoryNet-v0", 64, vectorization_mode="sync", **task)
    episodes = 1 if quick else 4
    ours, theirs = in_turn(
        [whole_episodes(native, 10, episodes), whole_episodes(sync, 10, 1)], 1 if quick else ROUNDS
    )
    return [
        Measure(
            "InventoryNet, 1 warehouse, 10 stores, 1,024 native environments, one thread",
            f"{ours / 1e6:.2f} million store-steps/s",
            "at least 1 million",
            ours >= 1e6,
        ),
        Measure(
            "the same beside Gymnasium's sync vector of 64",
            f"{ours / theirs:.0f} times",
            "at least 30 times",
            ours / theirs >= 30,
        ),
    ]


def ppo_sb3(quick: bool) -> list[Measure]:
    """PPO through SB3VecEnv beside DummyVecEnv: the same rollout of 4,096 steps per update."""
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env

    from ..wrappers.sb3 import make_sb3

    task: dict[str, Any] = {"topology": "one_warehouse", "stores": 10}
    rollout = 4096
    native = make_sb3("InventoryNet-v0", 256, seed=0, **task)
    dummy = make_vec_env("InventoryNet-v0", 8, seed=0, env_kwargs=task)

    def steps_per_second(env: Any) -> Callable[[], float]:
        model = PPO(
            "MlpPolicy", env, n_steps=rollout // env.num_envs, batch_size=512, n_epochs=4, seed=0
        )

        def measure() -> float:
            start = time.perf_counter()
            model.learn(rollout if quick else 4 * rollout)
            return model.num_timesteps / (time.perf_counter() - start)

        return measure

    ours, theirs = in_turn(
        [steps_per_second(native), steps_per_second(dummy)], 1 if quick else ROUNDS
    )
    return [
        Measure(
            "PPO, 256 native environments through SB3VecEnv beside 8 in DummyVecEnv (same rollout, "
            "4 epochs of minibatches of 512)",
            f"{ours:,.0f} against {theirs:,.0f} steps/s: {ours / theirs:.1f} times",
            "at least 4 times",
            ours / theirs >= 4,
        )
    ]


# -- HDPO -----------------------------------------------------------------------------------------


def update_seconds(agent: SimulatorGradientAlgorithm) -> Callable[[], float]:
    """Seconds of one gradient step: forward, backward and Adam."""
    agent._record()
    agent._setup_learn(1)
    for _ in range(2):  # what is prepared, or compiled, on first use
        agent.update()

    def measure() -> float:
        start = time.perf_counter()
        agent.update()
        return time.perf_counter() - start

    return measure


def hdpo_throughput(quick: bool) -> list[Measure]:
    """Store-periods per second of HDPO's update, beside the paper's implementation."""
    batch, rounds = 128, 1 if quick else 2 * ROUNDS
    lines = []
    for case in CASES:
        env = gym.make("InventoryNet-v0", periods=50, ignore=30, **case.task)
        ways = {"": 0} if quick else {"": 0, f", {case.compile_periods} periods compiled": 1}
        agents = [
            HDPO(
                case.policy,
                env,
                seed=0,
                batch_size=batch,
                scenarios=batch,
                policy_kwargs=case.network,
                evaluate_every=0,
                compile_periods=case.compile_periods * compiled,
                device="cpu",
            )
            for compiled in ways.values()
        ]
        sides = [update_seconds(agent) for agent in agents]
        if OFFICIAL:
            sides.append(seconds_per_update(*case.official, batch))
        found = in_turn(sides, rounds)
        work = batch * 50 * agents[0].core.reward_scale
        for way, seconds in zip(ways, found, strict=False):
            what = f"HDPO update{way}: {case.name}, batch {batch}, one thread"
            speed = f"{work / seconds:,.0f} store-periods/s"
            if not OFFICIAL:
                lines.append(Measure(what, f"{speed} (the paper's code was not at hand)"))
                continue
            ratio = found[-1] / seconds
            value = f"{speed} against {work / found[-1]:,.0f}: {ratio:.1f} times"
            lines.append(Measure(what, value, "at least 5 times the paper's code", ratio >= 5))
    return lines


def trained(agent_class: Any, policy: str, rate: float, updates: int, **task: Any) -> float:
    """Test cost per period of an agent trained with one seed: 256 scenarios of 2,000 periods."""
    env = gym.make("InventoryNet-v0", periods=50, ignore=20, **task)
    agent = agent_class(policy, env, seed=0, learning_rate=rate, device="cpu")
    agent.learn(updates * 128 * 50)
    test = agent.core.variant(periods=2000, ignore=100)
    tape = to_torch(test.tapes(256, 0))
    return -float(agent.evaluate_tapes(agent.simulator(test), tape).mean())


def hdpo_cost(quick: bool) -> list[Measure]:
    """HDPO's cost beside the closed-form optimum, and beside the best capped base stock."""
    from ..agents.heuristics.base_stock import optimal_base_stock
    from ..agents.heuristics.capped_base_stock import CappedBaseStock

    updates = 5 if quick else 1200
    known = {"setting": "one_store_backlogged", "lead": 4, "underage": 9.0}
    lost = {"setting": "one_store_lost", "lead": 4, "underage": 9.0}
    _, optimum = optimal_base_stock(mean=5.0, std=1.6, lead=4, underage=9.0, holding=1.0)
    gap = trained(HDPO, "MlpPolicy", 1e-2, updates, **known) / optimum - 1
    rules = [
        trained(CappedBaseStock, "HeuristicPolicy", rate, updates, **lost) for rate in (0.03, 0.1)
    ]
    ours = trained(HDPO, "MlpPolicy", 1e-2, updates, **lost)
    above = ours / min(rules) - 1
    return [
        Measure(
            "HDPO on one_store_backlogged (lead 4, p 9): test cost above the closed-form optimum",
            f"{100 * gap:+.2f}%",
            "at most +1%",
            gap <= 0.01,
        ),
        Measure(
            "HDPO on one_store_lost (lead 4, p 9): test cost beside the best capped base stock",
            f"{ours:.3f} against {min(rules):.3f}: {100 * above:+.2f}%",
            "at most +1%",
            above <= 0.01,
        ),
    ]


BENCHMARKS = {
    "inventory_vector": Benchmark("inventory_vector", "simulation speed", inventory_vector),
    "ppo_sb3": Benchmark("ppo_sb3", "PPO on native environments", ppo_sb3),
    "hdpo_throughput": Benchmark("hdpo_throughput", "HDPO's training speed", hdpo_throughput),
    "hdpo_cost": Benchmark("hdpo_cost", "HDPO's cost", hdpo_cost),
}


def main(
    names: Sequence[str] = (), quick: bool = False, out: Path | None = None
) -> dict[str, list[Measure]]:
    """Run benchmarks, print their table, and write it as a page where `out` is given.

    Raises:
        ValueError: there is no benchmark of a name.
    """
    if unknown := sorted(set(names) - set(BENCHMARKS)):
        raise ValueError(f"no benchmark is called {unknown}, allowed are {', '.join(BENCHMARKS)}")
    console = Console()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    results = {}
    try:
        for name in names or BENCHMARKS:
            console.print(f"{name}: {BENCHMARKS[name].text} ...")
            results[name] = BENCHMARKS[name].run(quick)
    finally:
        torch.set_num_threads(threads)
    console.print(as_table(results))
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(as_page(results), encoding="utf-8")
        console.print(f"written: {out}")
    return results


def verdict(measure: Measure) -> str:
    """ "met", "not met", or nothing."""
    return "" if measure.met is None else "met" if measure.met else "not met"


def as_table(results: dict[str, list[Measure]]) -> Table:
    """The results for the terminal."""
    table = Table("measured", "value", "target", "")
    for measures in results.values():
        for m in measures:
            table.add_row(m.what, m.value, m.target, verdict(m))
    return table


def as_page(results: dict[str, list[Measure]]) -> str:
    """The results as a Markdown page."""
    known = ", ".join(f"{name} {version}" for name, version in versions().items() if version)
    lines = [
        "# Benchmarks",
        "",
        "This page is written by `palaestra bench --out docs/benchmarks.md`. The two sides of a",
        "ratio ran in turn, A B A B, and their medians are compared; absolute figures belong to",
        "the machine.",
        "",
        f"{date.today().isoformat()}, {platform.machine()}, {os.cpu_count()} cores, one thread.",
        f"{known}.",
        "",
        "| measured | value | target | |",
        "|---|---|---|---|",
    ]
    for measures in results.values():
        lines += [f"| {m.what} | {m.value} | {m.target} | {verdict(m)} |" for m in measures]
    lines += [
        "",
        "HDPO is timed beside the paper's implementation where the environment variable",
        "`PALAESTRA_OFFICIAL_HDPO` names a checkout of it",
        "(github.com/MatiasAlvo/Neural_inventory_control).",
        "",
    ]
    return "\n".join(lines)
