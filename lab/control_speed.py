"""How fast agents of control learn, beside the first one of the comparison that they are in."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from .bench import TIMES, Result, Say, alternate, ratio
from .compare import Comparison
from .comparisons import COMPARISONS

PARTS, ROUNDS = 20, 7  # a round is a part of the comparison's steps


def learner(agent: Any, steps: int) -> Callable[[], float]:
    """Steps per second of `steps` more steps (or of the rollouts that hold them)."""

    def learn() -> float:
        before, began = agent.num_timesteps, time.perf_counter()
        agent.learn(steps, reset_num_timesteps=False)
        return float((agent.num_timesteps - before) / (time.perf_counter() - began))

    return learn


def speeds(comparison: Comparison, quick: bool) -> list[Result]:
    """Steps per second of the first side, and how many times that the others make.

    They take turns; two parts at the beginning, in which buffers fill, do not count.
    """
    steps = max(comparison.steps // (100 if quick else PARTS), 1)
    sides = {
        name: learner(comparison.agent(side, 0), steps) for name, side in comparison.sides.items()
    }
    alternate(sides, 1 if quick else 2)
    found = alternate(sides, 1 if quick else ROUNDS)
    first = next(iter(sides))
    where = comparison.env.removesuffix("-v0")
    label = f"{where}, {first}, steps per second"
    return [Result(label, sorted(found[first])[len(found[first]) // 2])] + [
        Result(f"{where}, {name} / {first}", ratio(found[name], found[first]), TIMES)
        for name in sides
        if name != first
    ]


def control_speed(quick: bool, say: Say) -> list[Result]:
    """All comparisons."""
    results = []
    for comparison in COMPARISONS:
        say(comparison.name)
        results += speeds(comparison, quick)
    return results
