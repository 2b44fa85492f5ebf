"""VM2RL on small clusters beside its ablations, rules and the integer program, with the time that a
plan takes counted."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np

from ..agents.combinatorial.vm2rl import CLAIM_STEPS, claim_clusters, learned
from ..agents.heuristics.cluster import (
    BeamMigration,
    FilterBestFit,
    GreedyMigration,
    SwapMigration,
)
from ..agents.heuristics.cluster_mip import MIPMigration
from .bench import TIMES, Result, Say

Planner = Callable[[Any], list[tuple[int, int]]]
CHURN = 2.0  # VMs that arrive or leave per second while a plan is made
ARRIVALS = 40  # rows for those that arrive
LONGEST = 60.0  # seconds that an environment lets pass


@dataclass
class Side:
    """What makes plans, and what came of them.

    Attributes:
        rates: fragment rates after the plans, in clusters that stand still.
        late: the same in clusters that changed while the plan was made.
        seconds: per plan.
    """

    name: str
    plan: Planner
    rates: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def results(self) -> list[Result]:
        """Means over the clusters."""
        return [
            Result(f"{self.name}: fragment rate", float(np.mean(self.rates)), "{:.4f}"),
            Result(
                f"{self.name}: fragment rate, time counted", float(np.mean(self.late)), "{:.4f}"
            ),
            Result(f"{self.name}: per plan", float(np.mean(self.seconds)), "{:.3f} s"),
        ]


def carried_out(env: Any, moves: list[tuple[int, int]]) -> float:
    """Fragment rate after the moves; in a cluster with churn those that have become impossible are
    skipped."""
    for action in moves:
        env.step(np.array(action))
    face = env.unwrapped
    return float(face.core.info(face.state)["fragment_rate"][0])


def try_side(side: Side, still: Any, churning: Any, mapping: int) -> None:
    """One plan from one of the mappings, carried out at once and after the time that it took."""
    still.reset(options={"mapping": mapping})
    start = time.perf_counter()
    moves = side.plan(still)
    side.seconds.append(time.perf_counter() - start)
    side.rates.append(carried_out(still, moves))
    churning.reset(seed=mapping, options={"mapping": mapping})
    churning.unwrapped.advance(min(side.seconds[-1], LONGEST))
    side.late.append(carried_out(churning, moves))


def cluster_rescheduling(quick: bool, say: Say) -> list[Result]:
    """Fragment rates and seconds per plan of all sides on the same test clusters."""
    clusters = claim_clusters(seed=0)
    steps, count, effort = (256, 2, 0.2) if quick else (CLAIM_STEPS, 32, 10.0)
    say(f"learning {steps:,} steps three times")
    agent = learned("MultiInputPolicy", clusters, 0, steps)
    dense = learned("MultiInputPolicy", clusters, 0, steps, policy_kwargs={"sparse": False})
    flat = learned("FlatPolicy", clusters, 0, steps)
    test = clusters["test"]
    # Rows for the VMs that arrive meanwhile.
    roomy = {**test, "vms": test["vms"] + ARRIVALS, "churn": CHURN}
    environments = {}
    for mode in (False, True):
        still, churning = (
            gym.make("VMRescheduling-v0", **arguments, penalty_mode=mode)
            for arguments in (test, roomy)
        )
        environments[mode] = still, churning

    def rule(cls: Any, **arguments: Any) -> Planner:
        planner: Planner = cls("HeuristicPolicy", environments[False][0], **arguments).plan
        return planner

    sides = [
        Side("no move", lambda env: []),
        Side("greedy", rule(GreedyMigration)),
        Side("filtering and best fit", rule(FilterBestFit)),
        Side("swap", rule(SwapMigration)),
        Side("beam search, width 16", rule(BeamMigration)),
        Side("integer program", rule(MIPMigration, effort=effort)),
        Side("VM2RL, 1 plan", lambda env: agent.plan(env, k=1)),
        Side("VM2RL, 8 plans", lambda env: agent.plan(env, k=8)),
        Side("VM2RL without sparse attention, 8 plans", lambda env: dense.plan(env, k=8)),
        Side("VM2RL with a flat head, 8 plans", lambda env: flat.plan(env, k=8)),
    ]
    say(f"plans for {count} clusters: {', '.join(side.name for side in sides)}")
    for mapping in range(count):
        for side in sides:
            try_side(side, *environments[side is sides[-1]], mapping)
    found = {side.name: float(np.mean(side.rates)) for side in sides}
    best = found["VM2RL, 8 plans"]
    ratios = [
        Result(
            f"fragment rate: VM2RL, 8 plans / {name}",
            best / found[name] if found[name] else None,
            TIMES,
            target,
            at_most=True,
            note="" if found[name] else f"{name}: nothing is left in fragments.",
        )
        for name, target in (("greedy", 1.0), ("integer program", None))
    ]
    return [result for side in sides for result in side.results()] + ratios
