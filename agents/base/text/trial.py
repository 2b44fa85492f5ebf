"""Runs of claims about language models: one agent from its warm start on, and what was logged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback

from ..declare import Outcome
from ..group import GroupAlgorithm

TESTS = 256  # held-out tasks of the final accuracy
CURVE = 12  # points of a learning curve


@dataclass
class Trial:
    """A finished run.

    Attributes:
        agent: what has learned.
        log: name -> what was logged at each update; NaN where it was not.
        before: accuracy of the warm start on held-out tasks, greedy.
        after: the same after learning.
        curve: (replies learned from, held-out accuracy), the first at the warm start.
    """

    agent: GroupAlgorithm
    log: dict[str, NDArray[np.float64]]
    before: float
    after: float
    curve: tuple[list[float], list[float]]

    def outcome(self, **metrics: float) -> Outcome:
        """What an arm returns: metrics, the curve, and samples of replies; `before` and `after` are
        metrics always."""
        found = {**metrics, "accuracy": self.after, "accuracy of the warm start": self.before}
        return Outcome(found, {"held-out accuracy": self.curve}, self.agent.samples)

    def mean(self, name: str, start: int = 0, stop: int | None = None) -> float:
        """Mean of what was logged under a name, from update `start` to `stop`."""
        return float(np.nanmean(self.log[name][start:stop]))


class _Watch(BaseCallback):
    """Keeps the metrics of every update, and looks at held-out accuracy `CURVE` times."""

    model: GroupAlgorithm

    def __init__(self, updates: int, tests: list[int]) -> None:
        super().__init__()
        self.rows: list[dict[str, float]] = []
        self.every, self.tests = max(updates // CURVE, 1), tests
        self.x: list[float] = []
        self.y: list[float] = []

    def look(self) -> None:
        """One point of the curve."""
        self.x.append(float(self.model.num_timesteps))
        self.y.append(self.model.accuracy(self.tests))

    def _on_training_start(self) -> None:
        self.look()

    def _on_step(self) -> bool:
        self.rows.append(dict(self.model._metrics))
        if len(self.rows) % self.every == 0:
            self.look()
        return True


def trial(
    cls: type[GroupAlgorithm],
    seed: int,
    *,
    replies: int,
    environment: str = "Arithmetic-v0",
    arguments: Mapping[str, Any] | None = None,
    tests: int = TESTS,
    **agent: Any,
) -> Trial:
    """Learn from `replies` replies after a warm start; the same seed gives all agents the same one.

    Args:
        cls: class of the agent.
        seed: of the agent, and of the parameters of its model.
        replies: timesteps.
        environment, arguments: id and arguments of the text environment.
        tests: held-out tasks, the first ids of the test split.
        agent: arguments of the agent.
    """
    env = gym.make(environment, **dict(arguments or {}))
    made = cls("TextPolicy", env, seed=seed, device="cpu", **agent)
    ids = made.tasks.task_ids(tests, "test")
    watch = _Watch(max(replies // (made.prompts * made.group_size), 1), ids)
    made.learn(replies, callback=watch, log_interval=None)
    names = sorted({name for row in watch.rows for name in row})
    log = {name: np.array([row.get(name, np.nan) for row in watch.rows]) for name in names}
    if watch.x[-1] != made.num_timesteps:
        watch.look()
    return Trial(made, log, watch.y[0], watch.y[-1], (watch.x, watch.y))
