"""Agents that learn side by side: learning curves over the same seeds, and their intervals.

A comparison is a small declared object. Each of its sides learns for the same number of steps in
environments of its own; every so often its deterministic policy plays the same episodes as that of
the others. `lab/comparisons.py` declares those that the report shows.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback

from ..agents.base.declare import Outcome
from . import catalog, runner
from .evaluation import agent_class, episode_returns, make_environment
from .options import construct

EVALUATION_SEED = 1_000_000  # far from those that the agents learn with
FOLDER = catalog.RESULTS / "comparisons"


@dataclass(frozen=True)
class Side:
    """An agent of a comparison: the name of its class, its constructor's arguments, its policy.

    Without `policy` it has that of its example. `data` makes of the environment what the agent
    takes in its place, for one that learns from data.
    """

    agent: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    policy: str | None = None
    data: Callable[[Any], Any] | None = None


@dataclass(frozen=True)
class Comparison:
    """Agents that learn in the same environment.

    Attributes:
        name: of the stored result.
        env, env_kwargs: the environment, for `gymnasium.make`.
        sides: name -> agent; speeds of the others are measured beside the first's.
        steps: timesteps that each agent learns for.
        num_envs: environments at once.
        evaluations: points of the curve after the one at the beginning.
        episodes: of one evaluation.
        seeds: 0 .. seeds-1.
    """

    name: str
    env: str
    sides: Mapping[str, Side]
    steps: int
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    num_envs: int = 1
    evaluations: int = 10
    episodes: int = 10
    seeds: int = 5

    def __post_init__(self) -> None:
        if not self.sides:
            raise ValueError(f"comparison {self.name!r} names no agent")
        for name in ("steps", "num_envs", "evaluations", "episodes"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(
                    f"comparison {self.name!r}: {name} must be at least 1, got {value}"
                )
        if self.evaluations > self.steps:
            raise ValueError(
                f"comparison {self.name!r}: {self.evaluations} evaluations in {self.steps} steps"
            )

    def environment(self, *, scored: bool = False) -> Any:
        """What an agent learns in, or (`scored`) the single one in which it is evaluated."""
        return make_environment(self.env, self.env_kwargs, 1 if scored else self.num_envs)

    def agent(self, side: Side, seed: int) -> Any:
        """A new agent in a new environment."""
        env = self.environment()
        env = env if side.data is None else side.data(env)
        # A copy, as Stable-Baselines3 writes into `policy_kwargs`.
        kwargs = copy.deepcopy(dict(side.kwargs))
        return construct(agent_class(side.agent), side.policy, env, seed, kwargs)


class Watch(BaseCallback):
    """Evaluates an agent `evaluations` times while it learns.

    Attributes:
        x: steps at which it was evaluated: those that were planned.
        y: mean undiscounted returns.
        seconds: that evaluating took.
    """

    def __init__(self, env: Any, steps: int, evaluations: int, episodes: int) -> None:
        super().__init__()
        self.env, self.episodes = env, episodes
        self.points = [round(steps * k / evaluations) for k in range(evaluations + 1)]
        self.x: list[float] = []
        self.y: list[float] = []
        self.seconds = 0.0

    def _on_training_start(self) -> None:
        self.look(0)

    def _on_step(self) -> bool:
        # The last point is looked at after learning.
        while len(self.x) < len(self.points) - 1 and self.num_timesteps >= self.next:
            self.look(self.next)
        return True

    @property
    def next(self) -> int:
        """Steps at which the next evaluation is due."""
        return self.points[len(self.x)]

    def finish(self) -> None:
        """The evaluations that are missing, of the agent as it is now."""
        while len(self.x) < len(self.points):
            self.look(self.next)

    def look(self, steps: int) -> None:
        """Evaluate; what the agent draws to act is not missing where it learns."""
        began = time.process_time()
        with torch.random.fork_rng(devices=[]):
            returns = episode_returns(self.model, self.env, self.episodes, EVALUATION_SEED)
        self.x.append(float(steps))
        self.y.append(float(returns.mean()))
        self.seconds += time.process_time() - began


@dataclass(frozen=True)
class Learner:
    """The arm of a side: learns with a seed, and is evaluated on the way."""

    comparison: Comparison
    side: Side

    def __call__(self, seed: int, scale: float) -> Outcome:
        """Metrics: the last evaluation, the mean of the curve, steps per CPU second of learning."""
        torch.set_num_threads(1)
        comparison = self.comparison
        steps = max(comparison.evaluations, math.ceil(comparison.steps * scale))
        agent = comparison.agent(self.side, seed)
        watch = Watch(
            comparison.environment(scored=True), steps, comparison.evaluations, comparison.episodes
        )
        began = time.process_time()
        agent.learn(steps, callback=watch)
        seconds = time.process_time() - began - watch.seconds
        watch.finish()
        metrics = {
            "last": watch.y[-1],
            "mean": float(np.trapezoid(watch.y, watch.x) / watch.x[-1]),
            "steps per CPU second": agent.num_timesteps / seconds,
        }
        return Outcome(metrics, {"return": (watch.x, watch.y)})


def run_comparison(
    comparison: Comparison,
    *,
    seeds: int | None = None,
    scale: float = 1.0,
    workers: int | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Run all sides with all seeds, in parallel processes.

    Args:
        seeds: None for the comparison's own number.
        scale: share of the steps.
        workers: processes at once, None for one per core.
        progress: draw a progress bar on stderr.

    Returns:
        for JSON: name, env, steps, agents, and what `runner.run_arms` returns.

    Raises:
        ValueError: a bad argument, or a return that is not finite.
        runner.ArmError: an agent failed.
    """
    seeds = comparison.seeds if seeds is None else seeds
    hashes = {name: fingerprint(side) for name, side in comparison.sides.items()}
    found = runner.run_arms(
        {name: Learner(comparison, side) for name, side in comparison.sides.items()},
        seeds=seeds,
        scale=scale,
        workers=workers,
        progress=progress,
    )
    return {
        "slug": comparison.name,
        "env": comparison.env,
        "steps": comparison.steps,
        "episodes": comparison.episodes,
        "agents": {name: side.agent for name, side in comparison.sides.items()},
        "hashes": hashes,
        "trial": scale != 1.0 or seeds != comparison.seeds,
        **found,
    }


def fingerprint(side: Side) -> str:
    """Hash of the source of an agent and its bases: another one, and its curve is of old."""
    return catalog.source_hash(agent_class(side.agent))


def stored() -> list[dict[str, Any]]:
    """The stored results of the declared comparisons that were run, in their order.

    Each has a further entry `stale`: the sides that have changed since.

    Raises:
        ValueError: a damaged file.
    """
    from .comparisons import COMPARISONS

    found = []
    for comparison in COMPARISONS:
        path = FOLDER / f"{comparison.name}.json"
        if not path.exists():
            continue
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
            hashes = result["hashes"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is not a result of a comparison: {error!r}") from error
        sides = comparison.sides.items()
        stale = [name for name, side in sides if hashes.get(name) != fingerprint(side)]
        found.append({**result, "stale": stale})
    return found
