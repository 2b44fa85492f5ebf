"""The main job: HDPO, PPO and the classic heuristics on inventory networks, a table and a page.

Without data it runs on two synthetic tasks: one warehouse with five stores and lost sales, and one
store with backlog, whose optimum is known in closed form. With a demand trace it runs on that:
train, validation and test weeks of every series.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from stable_baselines3.common.utils import LinearSchedule

from ..envs.base import to_torch
from ..envs.inventory.inventory_net import InventoryNet
from .demo_data import Curve, DemoData, DemoRow, Episode, best_policy, ranked

TEST_SEED = 500_000  # the test episodes are those of env.reset(seed=TEST_SEED + i)
# A graph network smaller than the paper's learns as much in the minutes that a demo has.
GRAPH = {"policy": "GraphPolicy", "policy_kwargs": {"width": 16, "layers": 1}, "max_grad_norm": 1.0}
TRACE_EPOCHS = 90


def falling(rate: float) -> LinearSchedule:
    """A learning rate that falls to a hundredth of its start."""
    return LinearSchedule(rate, rate / 100, 1.0)


PPO: Mapping[str, Any] = {
    "envs": 64,
    "n_steps": 50,
    "batch_size": 800,
    "n_epochs": 5,
    "learning_rate": 1e-3,
    "gamma": 0.98,
    "policy_kwargs": {"log_std_init": -1.0},
}


@dataclass(frozen=True)
class Method:
    """One line of the table.

    Attributes:
        agent: class name in `palaestra.agents`.
        steps: environment steps to learn for.
        arguments: of its constructor; `policy` among them.
        kind: as in `DemoRow`.
        seeds: at most this many; a rule without chance needs one.
    """

    agent: str
    steps: int
    arguments: Mapping[str, Any] = field(default_factory=dict)
    kind: str = "heuristic"
    seeds: int = 100


@dataclass(frozen=True)
class Task:
    """A network with its demand, the test on it, and the methods that compete.

    Attributes:
        environment: arguments of `InventoryNet-v0`.
        test: what is different in the test: periods, warm-up, split.
        episodes: test episodes (a trace brings its own number).
        optimum: least cost per period and store, where it is known.
    """

    title: str
    environment: Mapping[str, Any]
    test: Mapping[str, Any]
    methods: Mapping[str, Method]
    episodes: int = 256
    optimum: float | None = None


@dataclass(frozen=True)
class Run:
    """Outcome of one method with one seed."""

    task: str
    method: str
    seed: int
    cost: float
    seconds: float
    curve: list[tuple[int, float]]
    states: list[dict[str, np.ndarray]]


def synthetic_tasks() -> list[Task]:
    """The tasks of the demo without data; the first one is drawn on the page."""
    from ..agents.heuristics.base_stock import optimal_base_stock

    _, optimum = optimal_base_stock(mean=5.0, std=1.6, lead=4, underage=9.0, holding=1.0)
    tuned, rate = {"batch_size": 128, "scenarios": 512}, {"learning_rate": falling(1e-2)}
    fine = {"batch_size": 64, "scenarios": 512, "learning_rate": falling(2e-2)}
    epoch = 512 * 50
    warehouse = Task(
        title="One warehouse, 5 stores, lost sales",
        environment={"setting": "one_warehouse_lost", "stores": 5, "ignore": 20},
        test={"periods": 500, "ignore": 100},
        methods={
            "HDPO": Method("HDPO", 32 * epoch, {**fine, **GRAPH}, "learned"),
            "PPO": Method("PPO", 400_000, PPO, "learned"),
            "base stock": Method("BaseStock", 20 * epoch, tuned),
            "capped base stock": Method("CappedBaseStock", 20 * epoch, tuned),
            "echelon stock": Method("EchelonStock", 20 * epoch, tuned),
            "newsvendor": Method("QuantileNewsvendor", 0, seeds=1),
        },
    )
    store = Task(
        title="One store, backlog, lead 4",
        environment={"setting": "one_store_backlogged", "ignore": 20},
        test={"periods": 2000, "ignore": 100},
        methods={
            "HDPO": Method("HDPO", 100 * epoch, {**tuned, **rate}, "learned"),
            "PPO": Method("PPO", 400_000, PPO, "learned"),
            "base stock (closed form)": Method("BaseStock", 0, seeds=1),
            "capped base stock": Method("CappedBaseStock", 20 * epoch, tuned),
        },
        optimum=float(optimum),
    )
    return [warehouse, store]


def trace_task(demand: Path, calendar: Path | None, network: Path | None) -> Task:
    """The task on recorded demand: the benchmark's network for 21 stores, else one warehouse (or
    the given network)."""
    environment: dict[str, Any] = {"demand": str(demand), "on_negative": "clip"}
    if calendar is not None:
        environment["calendar"] = str(calendar)
    if network is not None:
        environment["network"] = str(network)
        found = InventoryNet(**environment)
    else:
        found = InventoryNet(**environment)
        if found.stores == 21:
            environment["setting"] = "favorita"
            found = InventoryNet(**environment)
    trace: Any = found.demand
    if trace.clipped:
        share = 100 * trace.clipped / trace.values_total
        Console().print(
            f"{demand}: {trace.clipped} of {trace.values_total} values were negative "
            f"({share:.4f}%) and count as 0"
        )
    epoch = trace.series * found.periods
    tuned = {"batch_size": min(72, trace.series), "evaluate_every": 4}
    return Task(
        title=f"{demand.name}: {found.stores} stores, {found.suppliers} warehouses, "
        f"{trace.series} products, {trace.weeks} weeks",
        environment=environment,
        test={"split": "test", "periods": None, "ignore": None},
        methods={
            "HDPO": Method(
                "HDPO",
                TRACE_EPOCHS * epoch,
                {**tuned, **GRAPH, "learning_rate": falling(5e-3)},
                "learned",
            ),
            "PPO": Method(
                "PPO",
                600_000,
                {**PPO, "n_steps": found.periods, "batch_size": 8 * found.periods},
                "learned",
            ),
            "base stock": Method("BaseStock", 40 * epoch, tuned),
            "capped base stock": Method("CappedBaseStock", 40 * epoch, tuned),
            "echelon stock": Method("EchelonStock", 40 * epoch, tuned),
            "newsvendor, p/(p+h)": Method("QuantileNewsvendor", 0),
            "newsvendor, one quantile": Method("FixedQuantileNewsvendor", 20 * epoch, tuned),
            "newsvendor, transformed": Method("TransformedNewsvendor", 20 * epoch, tuned),
            "just in time (hindsight)": Method("JustInTime", 0, kind="bound", seeds=1),
        },
    )


# -- one run ---------------------------------------------------------------------------------------


def roll_out(core: InventoryNet, agent: Any, tape: Any, record: int = 0) -> tuple[float, list[Any]]:
    """Cost per period and store of an agent on recorded episodes, after the warm-up.

    Args:
        core: the test environment.
        agent: anything with SB3's `predict`.
        tape: batched episodes.
        record: keep the state of the first episode for this many periods.
    """
    state, total, states = core.initial(tape), 0.0, []
    for period in range(core.periods):
        action, _ = agent.predict(core.observation(state), deterministic=True)
        batch = core.check_action(action, state)
        following = core.transition(state, batch, tape)
        if period >= core.ignore:
            total -= float(core.reward(state, batch, following).mean())
        state = following
        if period < record:
            states.append(
                {name: state[name][:1].copy() for name in ("inventory", "orders", "demand")}
            )
    return total / (core.periods - core.ignore) / core.reward_scale, states


class Normalized:
    """An SB3 agent that was trained behind `VecNormalize`, with its normalization."""

    def __init__(self, model: Any, env: Any) -> None:
        self.model, self.env = model, env

    def predict(self, observation: np.ndarray, deterministic: bool = True) -> tuple[Any, Any]:
        """As SB3's, on observations as the environment gives them."""
        return self.model.predict(self.env.normalize_obs(observation), deterministic=deterministic)


def train_ppo(task: Task, method: Method, seed: int) -> tuple[Any, list[tuple[int, float]]]:
    """SB3's own PPO on native environments; its curve is the cost on validation episodes."""
    from stable_baselines3 import PPO as StablePPO
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.vec_env import VecNormalize

    from ..wrappers.sb3 import make_sb3

    arguments = dict(method.arguments)
    envs = arguments.pop("envs")
    env = VecNormalize(make_sb3("InventoryNet-v0", envs, seed=seed, **task.environment))
    model = StablePPO("MlpPolicy", env, seed=seed, device="cpu", **arguments)
    validation = InventoryNet(**task.environment).validation()
    tape = validation.scenarios(64, 10**6)
    curve: list[tuple[int, float]] = []

    class Validate(BaseCallback):
        rollouts = 0

        def _on_step(self) -> bool:
            return True

        def _on_rollout_start(self) -> None:
            if self.rollouts % 20 == 0:
                cost, _ = roll_out(validation, Normalized(model, env), tape)
                curve.append((self.num_timesteps, cost))
            self.rollouts += 1

    model.learn(method.steps, callback=Validate())
    return Normalized(model, env), curve


def run(task: Task, name: str, seed: int) -> Run:
    """Train or tune one method with one seed, and test it."""
    from .. import agents

    method = task.methods[name]
    start = time.perf_counter()
    if method.agent == "PPO":
        agent, curve = train_ppo(task, method, seed)
    else:
        env = gym.make("InventoryNet-v0", **task.environment)
        arguments = dict(method.arguments)
        agent_class = getattr(agents, method.agent)
        policy = arguments.pop("policy", agent_class.example.policy)
        agent = agent_class(policy, env, seed=seed, device="cpu", **arguments)
        agent.learn(method.steps)
        curve = [(steps, -reward) for steps, reward in agent.curve]
    seconds = time.perf_counter() - start
    core = InventoryNet(**{**task.environment, **task.test})
    tape = core.scenarios(task.episodes, TEST_SEED)
    if method.kind == "bound":  # hindsight needs the tape, not only observations
        rewards = agent.evaluate_tapes(agent.simulator(core), to_torch(tape))
        return Run(task.title, name, seed, -float(rewards.mean()), seconds, curve, [])
    cost, states = roll_out(core, agent, tape, record=60)
    return Run(task.title, name, seed, cost, seconds, curve, states)


def one_thread() -> None:
    """Each worker is one thread: two workers fill two cores."""
    import torch

    torch.set_num_threads(1)


def run_all(tasks: Sequence[Task], seeds: int, console: Console) -> list[Run]:
    """All methods of all tasks in parallel processes, longest first, with a progress bar."""
    jobs = [
        (task, name, seed)
        for task in tasks
        for name, method in task.methods.items()
        for seed in range(min(seeds, method.seeds))
    ]
    jobs.sort(key=lambda job: -job[0].methods[job[1]].steps)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    workers = min(os.cpu_count() or 1, len(jobs))
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    context = multiprocessing.get_context("spawn")
    found = []
    with (
        Progress(*columns, console=console) as progress,
        ProcessPoolExecutor(workers, mp_context=context, initializer=one_thread) as pool,
    ):
        bar = progress.add_task("training", total=len(jobs))
        futures = {pool.submit(run, *job): job for job in jobs}
        for future in as_completed(futures):
            task, name, seed = futures[future]
            found.append(future.result())
            progress.update(bar, advance=1, description=f"{name} (seed {seed})".ljust(34))
    return found


# -- tables and page -------------------------------------------------------------------------------


def rows_of(task: Task, runs: Sequence[Run]) -> list[DemoRow]:
    """Lines of a task's table, best first."""
    rows = []
    for name, method in task.methods.items():
        own = [run for run in runs if run.task == task.title and run.method == name]
        rows.append(
            DemoRow.over_seeds(
                name,
                [run.cost for run in own],
                float(np.mean([run.seconds for run in own])),
                method.kind,
                task.optimum,
            )
        )
    return ranked(rows)


def print_table(task: Task, rows: Sequence[DemoRow], console: Console) -> None:
    """The table on the terminal."""
    table = Table(title=task.title)
    for heading in (
        "method",
        "cost per period and store",
        "95% interval",
        "gap to optimum",
        "seconds",
    ):
        table.add_column(heading, justify="left" if heading == "method" else "right")
    for row in rows:
        interval = f"[{row.low:.3f}, {row.high:.3f}]" if row.seeds > 1 else "one run"
        distance = "" if row.gap is None else f"{100 * row.gap:+.2f}%"
        table.add_row(row.method, f"{row.mean:.3f}", interval, distance, f"{row.seconds:.1f}")
    console.print(table)


def curves_of(task: Task, runs: Sequence[Run]) -> dict[str, Curve]:
    """Validation cost against environment steps of the methods that learn step by step."""
    curves = {}
    for name in task.methods:
        own = [r.curve for r in runs if r.task == task.title and r.method == name]
        points = min(len(curve) for curve in own)
        if points > 1:
            x = [steps for steps, _ in own[0][:points]]
            curves[name] = Curve(x, [[cost for _, cost in curve[:points]] for curve in own])
    return curves


def run_demo(
    demand: Path | None = None,
    calendar: Path | None = None,
    network: Path | None = None,
    out: Path = Path("runs/demo"),
    seeds: int = 3,
    tasks: Callable[[], list[Task]] = synthetic_tasks,
) -> Path:
    """Run the demo and write `report.html`.

    Args:
        demand: trace to use instead of synthetic demand, .npz or .csv.
        calendar: known-in-advance features of the trace's weeks, .csv.
        network: YAML file of the supply network; default: see `trace_task`.
        out: folder of the results.
        seeds: training seeds of each method.
        tasks: what to run without data.

    Returns:
        Path of the page.
    """
    from .report import render_demo

    console = Console()
    if demand is None and (calendar is not None or network is not None):
        raise ValueError("a calendar or a network goes with a demand trace: give demand as well")
    chosen = tasks() if demand is None else [trace_task(Path(demand), calendar, network)]
    runs = run_all(chosen, seeds, console)
    tables = {task.title: rows_of(task, runs) for task in chosen}
    for task in chosen:
        print_table(task, tables[task.title], console)
    main = chosen[0]
    best = best_policy(tables[main.title])
    assert best is not None  # every task has a method that is no bound
    states = next(r.states for r in runs if r.task == main.title and r.method == best)
    core = InventoryNet(**main.environment)
    notes = []
    if core.objective == "profit":
        notes.append("The objective is profit, so costs are negative: minus the profit.")
    command = "make demo" + "".join(
        f" {name}={value}"
        for name, value in (("DEMAND", demand), ("CALENDAR", calendar), ("NETWORK", network))
        if value is not None
    )
    data = DemoData(
        title=main.title,
        rows=tables[main.title],
        curves=curves_of(main, runs),
        episode=Episode.from_states(core.network, states, best),
        subtitle="HDPO, PPO and classic heuristics, tested on demand that none of them has seen.",
        others={title: rows for title, rows in tables.items() if title != main.title},
        notes=notes,
        settings={**main.environment, **{f"test {k}": v for k, v in main.test.items()}},
        seeds=range(seeds),
        command=command,
    )
    page = render_demo(Path(out), data)
    console.print(f"report: {page}")
    return page
