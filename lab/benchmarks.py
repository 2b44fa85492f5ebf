"""What `palaestra bench` measures."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np

from .bench import TIMES, Benchmark, Result, Say, alternate, ratio
from .bq_nco_gaps import RECIPES, benchmark
from .cluster_benchmark import cluster_rescheduling
from .control_speed import control_speed
from .coverage_benchmark import ant_coverage, coverage
from .hdpo_speed import hdpo_throughput
from .llm_speed import llm_arithmetic, llm_overhead, llm_speed
from .neighbour_speed import offline_neighbours
from .offline_speed import offline_data
from .planner_benchmark import planning
from .routing_speed import routing_steps

WAREHOUSE: dict[str, Any] = {"setting": "one_warehouse_lost", "stores": 10}
STORES, PERIODS = 10, 50


# -- environments ---------------------------------------------------------------------------------


def store_steps(vector: Any, episodes: int) -> Callable[[], float]:
    """Store-steps per second of whole episodes with random actions, resets included."""
    vector.reset(seed=0)
    vector.action_space.seed(0)
    actions = vector.action_space.sample()

    def measure() -> float:
        start = time.perf_counter()
        for _ in range(episodes * PERIODS):
            vector.step(actions)
        return episodes * PERIODS * vector.num_envs * STORES / (time.perf_counter() - start)

    return measure


def inventory_vector(quick: bool, say: Say) -> list[Result]:
    """Native vector against Gymnasium's `sync` vector."""
    same_step = gym.vector.AutoresetMode.SAME_STEP
    native = gym.make_vec(
        "InventoryNet-v0",
        1024,
        vectorization_mode="vector_entry_point",
        autoreset_mode=same_step,
        **WAREHOUSE,
    )
    sync = gym.make_vec(
        "InventoryNet-v0",
        64,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": same_step},
        **WAREHOUSE,
    )
    rounds = 1 if quick else 7
    say(f"{rounds} rounds of native 1,024 and sync 64")
    sides = {"native": store_steps(native, 1 if quick else 4), "sync": store_steps(sync, 1)}
    found = alternate(sides, rounds)
    return [
        Result(
            "native vector, 1,024 environments, store-steps/s",
            statistics.median(found["native"]),
            target=1e6,
        ),
        Result("sync vector, 64 environments, store-steps/s", statistics.median(found["sync"])),
        Result("native / sync", ratio(found["native"], found["sync"]), TIMES, target=30.0),
    ]


# -- PPO ------------------------------------------------------------------------------------------


def ppo_steps(environments: Any, rollout: int) -> Callable[[], float]:
    """Steps per second of Stable-Baselines3's PPO, one rollout and its epochs at a time."""
    from stable_baselines3 import PPO

    model = PPO(
        "MlpPolicy",
        environments,
        n_steps=rollout // environments.num_envs,
        batch_size=rollout // 8,
        n_epochs=5,
        seed=0,
        device="cpu",
    )

    def measure() -> float:
        start = time.perf_counter()
        model.learn(rollout, reset_num_timesteps=False)
        return rollout / (time.perf_counter() - start)

    return measure


def ppo_sb3(quick: bool, say: Say) -> list[Result]:
    """PPO on native environments against PPO on SB3's own vector."""
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import DummyVecEnv

    from ..wrappers.sb3 import make_sb3

    rollout, rounds = (2_048, 1) if quick else (12_800, 5)
    native = make_sb3("InventoryNet-v0", 256, seed=0, **WAREHOUSE)
    dummy = make_vec_env(
        "InventoryNet-v0", 8, seed=0, vec_env_cls=DummyVecEnv, env_kwargs=WAREHOUSE
    )
    sides = {"native": ppo_steps(native, rollout), "dummy": ppo_steps(dummy, rollout)}
    if not quick:
        alternate(sides, 1)
    say(f"{rounds} rounds of {rollout:,} steps")
    found = alternate(sides, rounds)
    return [
        Result("SB3VecEnv, 256 native environments, steps/s", statistics.median(found["native"])),
        Result("DummyVecEnv, 8 environments, steps/s", statistics.median(found["dummy"])),
        Result(
            "SB3VecEnv / DummyVecEnv", ratio(found["native"], found["dummy"]), TIMES, target=4.0
        ),
    ]


# -- HDPO's cost ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class CostRun:
    """Training and test of `hdpo_cost`."""

    updates: int
    periods: int = 2000
    ignore: int = 100
    episodes: int = 256
    arguments: Mapping[str, Any] = field(default_factory=dict)


def cost_in_test(agent_class: Any, environment: Mapping[str, Any], run: CostRun) -> float:
    """Cost per period of an agent after training, on long test episodes."""
    from ..envs.base import to_torch

    env = gym.make("InventoryNet-v0", **environment, periods=PERIODS, ignore=20)
    agent = agent_class(
        agent_class.example.policy, env, seed=0, device="cpu", **run.arguments
    ).learn(run.updates * 128 * PERIODS)
    test = agent.core.variant(periods=run.periods, ignore=run.ignore)
    tapes = to_torch(test.tapes(run.episodes, seed=0))
    return -float(np.mean(agent.evaluate_tapes(agent.simulator(test), tapes).numpy()))


def hdpo_cost(quick: bool, say: Say) -> list[Result]:
    """HDPO against the closed form, and against the best tuned capped base stock."""
    from ..agents.combinatorial.hdpo import HDPO
    from ..agents.heuristics.base_stock import optimal_base_stock
    from ..agents.heuristics.capped_base_stock import CappedBaseStock

    backlogged = {"setting": "one_store_backlogged", "lead": 4, "underage": 9.0}
    lost = {"setting": "one_store_lost", "lead": 4, "underage": 9.0}
    small = {"periods": 60, "ignore": 20, "episodes": 16} if quick else {}

    def run(updates: int, **arguments: Any) -> CostRun:
        return CostRun(4 if quick else updates, **small, arguments=arguments)

    say("training HDPO, backlog")
    found = cost_in_test(HDPO, backlogged, run(1500, learning_rate=1e-2))
    _, optimum = optimal_base_stock(mean=5.0, std=1.6, lead=4, underage=9.0, holding=1.0)
    say("training HDPO, lost sales")
    learned = cost_in_test(HDPO, lost, run(1500, learning_rate=1e-2))
    say("tuning the capped base stock")
    rates = (0.1,) if quick else (0.03, 0.1)
    capped = min(
        cost_in_test(CappedBaseStock, lost, run(1000, learning_rate=rate)) for rate in rates
    )
    return [
        Result("backlog: HDPO, cost per period", found, "{:.3f}"),
        Result("backlog: optimum in closed form", float(optimum), "{:.3f}"),
        Result("backlog: gap", 100 * (found / optimum - 1), "{:.2f}%", 1.0, at_most=True),
        Result("lost sales: HDPO, cost per period", learned, "{:.3f}"),
        Result("lost sales: best capped base stock", capped, "{:.3f}"),
        Result("lost sales: HDPO / capped", learned / capped, "{:.4f}", 1.01, at_most=True),
    ]


BENCHMARKS = (
    Benchmark(
        "inventory_vector",
        "`InventoryNet-v0`, one warehouse and 10 stores, random actions, whole episodes of 50 "
        "periods with their resets, on one thread. A store-step is one store in one period.",
        inventory_vector,
    ),
    Benchmark(
        "ppo_sb3",
        "Stable-Baselines3's PPO, rollouts and epochs, on one warehouse and 10 stores. Both sides "
        "have the same network (64-64) and learn the same amount per step: rollouts of 12,800 "
        "steps (256 x 50 and 8 x 1,600), 8 minibatches, 5 epochs.",
        ppo_sb3,
    ),
    Benchmark(
        "hdpo_throughput",
        "HDPO's update (simulation of 50 periods, backward pass, step of Adam) in simulated "
        "store-periods per second, 128 episodes per update (72 on Favorita's network), one thread. "
        "The official code has the same supply network, network sizes and batch. Compiled means "
        "`compile_periods`; the time to compile does not count.",
        hdpo_throughput,
    ),
    Benchmark(
        "hdpo_cost",
        "One store, lead 4, underage 9: cost per period in a test of 256 episodes of 2,000 "
        "periods, the first 100 of each not counted. HDPO with learning rate 0.01 and seed 0, "
        "1,500 updates; the capped base stock is the better of two learning rates, 1,000 updates "
        "each.",
        hdpo_cost,
    ),
    Benchmark(
        "routing_steps",
        "`TSP-v0` and `CVRP-v0` (50 cities; 50 customers and a depot), 1,024 environments in one "
        "native vector, against the environments of RL4CO 0.7.0, which may use two threads. Random "
        "feasible actions, drawn by each side's own means (RL4CO's random policy is "
        "`torch.multinomial`), counted and not counted; resets are not counted. Our step returns a "
        "new observation of all nodes, RL4CO's refers to the coordinates.",
        routing_steps,
    ),
    *(benchmark(problem) for problem in RECIPES),
    Benchmark(
        "coverage",
        "SubPO and MODPO, the same policy gradient with additive rewards, after 150 updates of 200 "
        "episodes, and greedy walks. F is the value of the set of visited states, a mean over 3 "
        "seeds, of which each has a task of its own where tasks are drawn. The upper bound holds "
        "for any walk of the same length.",
        coverage,
    ),
    Benchmark(
        "ant_coverage",
        "`AntCoverage-v0`, square metres that MuJoCo's Ant sees in 100 steps, after 200,000 steps "
        "of PPO on marginal gains (SubPO's actor-critic) and on additive rewards. One seed, mean "
        "of 20 episodes.",
        ant_coverage,
    ),
    Benchmark(
        "planning",
        "Exact planning, discount 0.95, to a policy that loses at most 1e-8 (policy iteration: up "
        "to rounding). 1,000 random processes of 20 states, 4 actions and 4 successors each, all "
        "in one call, and in a loop of calls of the same function. Two sparse processes of nearly "
        "100,000 states and 4 actions: one with 4 random successors, and a grid with slips. Plain "
        "value iteration has one matrix per action, a loop over the sweeps and the same rule to "
        "stop.",
        planning,
    ),
    Benchmark(
        "cluster_rescheduling",
        "`VMRescheduling-v0`, the clusters of VM2RL's claim (6 machines, about 27 virtual "
        "machines, 6 moves), 32 test clusters: the fragment rate that a plan leaves, the seconds "
        "that it took to make, and the rate where virtual machines came and went meanwhile, so "
        "that the plan comes late.",
        cluster_rescheduling,
    ),
    Benchmark(
        "control_speed",
        "Steps per second of learning (environment steps; of agents that learn from data, gradient "
        "steps), beside the first agent of each comparison of `palaestra curves --list`: on and "
        "off policy that is Stable-Baselines3's own algorithm. Same environment; there also "
        "networks of two layers of 64 and minibatches of one size. What else an agent does is its "
        "own: EXPO draws and values candidates for every action, model-based agents fit and ask "
        "their model.",
        control_speed,
    ),
    Benchmark(
        "offline_data",
        "A data set of a million transitions (11 numbers of observation, 6 of action, float32, "
        "episodes of 1,000 steps): from its file to the tensor of which minibatches are drawn, "
        "every number checked, the file in the cache of the system. Minibatches are drawn with "
        "replacement, by one gather of whole rows, and by one per column.",
        offline_data,
    ),
    Benchmark(
        "offline_neighbours",
        "The exact search of `PRDC`: the recorded step that is nearest to a state and another "
        "action, among a million steps of trajectories (observations that depend on each other, "
        "standardised and doubled, and actions), 256 keys at a time, whose states are recorded "
        "and whose actions are about 0.3 from the recorded ones. The plain side is SciPy's "
        "`KDTree` over the same rows, as in the authors' code. Both on one thread.",
        offline_neighbours,
    ),
    Benchmark(
        "llm_speed",
        "One step of GRPO (8 prompts, 8 replies of 16 tokens each, no reply ends early) with a "
        "model of 2 layers, width 64 and one token per character: our embedded one, and one of "
        "Llama's form with as many parameters, trained by us and by TRL's `GRPOTrainer` (float32, "
        "without gradient checkpointing). Same prompts, same verifier; each side in a process of "
        "its own, on one thread. Peak memory is that of the process, with its libraries.",
        llm_speed,
    ),
    Benchmark(
        "llm_overhead",
        "What a step of other systems takes more than one of GRPO with the embedded model: 64 "
        "replies of 16 tokens, to 8 prompts of a pool of 64; `SingleStreamPO` replies to 64 "
        "prompts once, and reads each reply twice more for what it remembers.",
        llm_overhead,
    ),
    Benchmark(
        "llm_arithmetic",
        "GRPO with the embedded model on sums of two digits with written-out columns "
        "(`Arithmetic-v0`), from a model that has imitated until it is right on about 40% of "
        "held-out tasks, to more than 90% greedy accuracy on 1,000 of them, which is looked at "
        "every 25 updates of 512 replies (64 prompts, learning rate 3e-4). Three seeds, one "
        "thread.",
        llm_arithmetic,
    ),
)
