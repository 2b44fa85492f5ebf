"""Arms of a claim made of simple numbers, in a module that worker processes can import."""

from __future__ import annotations

import os

import numpy as np

from palaestra.agents.base.declare import Claim, Exact, Outcome, Superior


def steady(seed: int, scale: float) -> Outcome:
    noise = float(np.random.default_rng(seed).normal())
    curve = ([0.0, 10.0], [0.0, 10.0 + noise])
    samples = {"before": [["1+1=", f"<{seed}>", 0]], "after": [["1+2=", "3", np.float32(1)]]}
    return Outcome({"return": 10.0 + noise, "budget": 100 * scale}, {"return": curve}, samples)


def better(seed: int, scale: float) -> Outcome:
    outcome = steady(seed, scale)
    return Outcome({**outcome.metrics, "return": outcome.metrics["return"] + 1.0}, outcome.curves)


def fails_at_seed_3(seed: int, scale: float) -> Outcome:
    if seed == 3:
        raise RuntimeError("the shelf\nis empty")
    return steady(seed, scale)


def not_a_number(seed: int, scale: float) -> Outcome:
    return Outcome({"return": float("nan") if seed == 2 else 1.0})


def other_metric(seed: int, scale: float) -> Outcome:
    return Outcome({"return" if seed else "reward": 1.0})


def dies(seed: int, scale: float) -> Outcome:
    os._exit(9)


def threads(seed: int, scale: float) -> Outcome:
    return Outcome({"threads": float(os.environ["OMP_NUM_THREADS"])})


PAIR = {"better": better, "steady": steady}
HOLDS = Claim("better earns 1 more than steady", PAIR, (Superior("return", "better", "steady"),))
FAILS = Claim("steady earns more", PAIR, (Superior("return", "steady", "better"),))


def alone(arm: object, metric: str = "return") -> Claim:
    return Claim("one arm", {"arm": arm}, (Exact(metric, "arm", 1.0, 0.0),))


BREAKS = alone(fails_at_seed_3)
