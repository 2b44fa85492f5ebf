"""Claims on recorded steps of `LineWorld-v0`: learn from them, and see who gets to the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

from ...envs.control.line_world import END, LineWorld
from ..base.declare import Outcome
from ..base.offline import OfflineAlgorithm
from ..base.offline_data import OfflineDataset

STARTS = np.linspace(0.0, 9.0, 50)
ARRIVED = END - 0.1


def line_data(columns: dict[str, Any]) -> OfflineDataset:
    """Recorded steps of the line with the environment to evaluate in."""
    return OfflineDataset(**columns, env=gym.make("LineWorld-v0"))


def share_at_the_end(agent: OfflineAlgorithm) -> float:
    """Share of 50 starts, equally spaced from 0 to 9, from which an agent ends an episode of 20
    steps at 9.9 or beyond."""
    core = LineWorld()
    assert core.horizon is not None
    state = core.initial({"start": STARTS})
    for _ in range(core.horizon):
        actions, _ = agent.predict(core.observation(state), deterministic=True)
        state = core.transition(state, core.check_action(actions, state), {})
    return float((state["s"] >= ARRIVED).mean())


def learned_on_the_line(
    agent: OfflineAlgorithm,
    steps: int,
    points: int = 10,
    further: Callable[[], dict[str, float]] = dict,
) -> Outcome:
    """Learn, and look at every tenth of the way.

    Args:
        agent: with its data.
        steps: gradient steps in all, rounded down to a multiple of `points`, at least 1 each.
        points: how often to look.
        further: more metrics, asked for at the end.

    Returns:
        The metric "reached", `share_at_the_end`, with its curve.
    """
    taken, reached = list[float](), list[float]()
    for _ in range(points):
        agent.learn(max(steps // points, 1), reset_num_timesteps=False)
        taken.append(float(agent.num_timesteps))
        reached.append(share_at_the_end(agent))
    return Outcome({"reached": reached[-1], **further()}, {"reached": (taken, reached)})
