"""SubPO on every environment of coverage, beside an additive policy gradient and greedy walks."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np

from ..agents.base.on_policy import PPO
from ..agents.combinatorial.modpo import MODPO
from ..agents.combinatorial.sub_po import SubPO
from ..agents.heuristics.coverage import GreedyCoverage, GreedyTour, path_upper_bound
from ..envs.coverage.base import CoverageCore, TableCore
from ..wrappers.sb3 import make_sb3
from .bench import TIMES, Result, Say, ratio


@dataclass(frozen=True)
class World:
    """A task of coverage, and what learns it.

    Attributes:
        environment: id and arguments.
        drawn: whether the environment draws its task from the argument `instance`.
        policy, learning_rate: of SubPO and MODPO; None: the policy's own rate.
    """

    name: str
    environment: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    drawn: bool = True
    policy: str = "TabularPolicy"
    learning_rate: float | None = None

    def task(self, seed: int) -> dict[str, Any]:
        """Arguments of the environment; a seed has a task of its own where tasks are drawn."""
        return {**self.arguments, "instance": seed} if self.drawn else dict(self.arguments)


SPARSE = {"rows": 8, "cols": 8, "weights": "sparse", "horizon": 20}
ITEMS = {"rows": 10, "cols": 10, "items": (6, 5, 4, 5, 6, 5), "horizon": 20}
WORLDS = (
    World("sparse map", "SubmodularCoverage-v0", SPARSE),
    World("sparse map, slip 0.1", "SubmodularCoverage-v0", {**SPARSE, "slip": 0.1}),
    World("items", "ItemCollection-v0", ITEMS),
    World(
        *("items, policy of the history", "ItemCollection-v0", ITEMS),
        policy="HistoryPolicy",
        learning_rate=0.01,
    ),
    World("graph", "GraphCoverage-v0", {"nodes": 30, "horizon": 15}),
    World("path", "InformativePath-v0", {"rows": 8, "cols": 8, "horizon": 20}, drawn=False),
    World("design", "ExperimentDesign-v0", {"rows": 8, "cols": 8, "horizon": 10}, drawn=False),
    World(
        "flight",
        "ContinuousCoverage-v0",
        {"rows": 12, "cols": 12, "weights": "sparse", "horizon": 20},
        policy="MlpPolicy",
    ),
    World(
        *("race", "CarCoverage-v0", {"horizon": 40, "seconds": 0.06}),
        drawn=False,
        policy="MlpPolicy",
        learning_rate=0.01,
    ),
)


@dataclass(frozen=True)
class Budget:
    """How much is learned and played. Episodes are per update, and of the test."""

    seeds: int = 3
    episodes: int = 200
    updates: int = 150


def learned(agent_class: Any, world: World, seed: int, budget: Budget) -> float:
    """Mean set value of an agent's episodes after training."""
    agent = agent_class(
        world.policy,
        gym.make(world.environment, **world.task(seed)),
        seed=seed,
        device="cpu",
        episodes=budget.episodes,
        learning_rate=world.learning_rate,
    )
    agent.learn(budget.updates * budget.episodes * agent.horizon)
    return float(agent.play(budget.episodes).final("set_value").mean())


def walked(agent_class: Any, world: World, seed: int, budget: Budget) -> float:
    """Mean set value of the walks of an agent that looks into the environment."""
    vector = make_sb3(world.environment, budget.episodes, seed=seed, **world.task(seed))
    agent = agent_class("HeuristicPolicy", vector, device="cpu")
    observations, values = vector.reset(), np.full(budget.episodes, np.nan)
    while np.isnan(values).any():  # of every environment the first episode counts
        observations, _, dones, infos = vector.step(agent.predict(observations)[0])
        for row in np.flatnonzero(dones & np.isnan(values)):
            values[row] = infos[row]["set_value"]
    return float(values.mean())


def bound(world: World, seed: int) -> float:
    """What no walk can exceed."""
    env: Any = gym.make(world.environment, **world.task(seed)).unwrapped
    core: CoverageCore = env.core
    everywhere = np.ones(core.elements, dtype=bool)
    reachable = core.reachable() if isinstance(core, TableCore) else everywhere
    return path_upper_bound(core.set_function, reachable, core.horizon)


def compare(world: World, budget: Budget) -> list[Result]:
    """Everybody in one world, means over the seeds, ratios as medians over them."""
    seeds = range(budget.seeds)
    found = {
        "SubPO": [learned(SubPO, world, seed, budget) for seed in seeds],
        "MODPO": [learned(MODPO, world, seed, budget) for seed in seeds],
        "greedy": [walked(GreedyCoverage, world, seed, budget) for seed in seeds],
        "greedy tour": [walked(GreedyTour, world, seed, budget) for seed in seeds],
        "upper bound": [bound(world, seed) for seed in seeds],
    }
    best = [max(walks) for walks in zip(found["greedy"], found["greedy tour"], strict=True)]
    results = [
        Result(f"{world.name}: {who}, F", statistics.fmean(values), "{:.2f}")
        for who, values in found.items()
    ]
    return [
        *results,
        Result(f"{world.name}: SubPO / MODPO", ratio(found["SubPO"], found["MODPO"]), TIMES, 1.0),
        Result(f"{world.name}: SubPO / better greedy", ratio(found["SubPO"], best), TIMES),
    ]


def coverage(quick: bool, say: Say) -> list[Result]:
    """SubPO against MODPO with the same budget, and against greedy walks, in every world."""
    budget = Budget(seeds=1, episodes=8, updates=2) if quick else Budget()
    results = []
    for world in WORLDS:
        say(f"{world.name}: {budget.seeds} x {budget.updates} updates of SubPO and of MODPO")
        results += compare(world, budget)
    return results


# -- the robot ------------------------------------------------------------------------------------

GROUND: dict[str, Any] = {"horizon": 100, "extent": 5.0, "cells": 50, "fall": False}


def robot(reward: str, steps: int, episodes: int) -> float:
    """Mean set value of a robot that PPO has trained on gains (SubPO's actor-critic) or on additive
    rewards."""
    agent = PPO(
        "MlpPolicy",
        gym.make("AntCoverage-v0", **GROUND, reward=reward),
        seed=0,
        device="cpu",
        gamma=1.0,
        n_steps=min(steps, 1_000),
        batch_size=min(steps, 250),
    ).learn(steps)
    env, values = gym.make("AntCoverage-v0", **GROUND), []
    for episode in range(episodes):
        observation, info = env.reset(seed=1_000 + episode)
        over = False
        while not over:
            observation, _, over, _, info = env.step(agent.predict(observation)[0])
        values.append(info["set_value"])
    return statistics.fmean(values)


def ant_coverage(quick: bool, say: Say) -> list[Result]:
    """Actor-critic on marginal gains against actor-critic on additive rewards, MuJoCo's Ant."""
    steps, episodes = (200, 1) if quick else (200_000, 20)
    found = {}
    for reward in ("gain", "additive"):
        say(f"{steps:,} steps of PPO, reward {reward}")
        found[reward] = robot(reward, steps, episodes)
    return [
        Result("PPO on marginal gains, square metres", found["gain"], "{:.2f}"),
        Result("PPO on additive rewards, square metres", found["additive"], "{:.2f}"),
        Result("gains / additive", found["gain"] / found["additive"], TIMES, 1.0),
    ]
