"""What GoRL's claim compares by: a point before a wall, with a goal on either side of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...envs.base import Arrays
from ...envs.control.point_maze import PointMaze
from ...wrappers.sb3 import make_sb3
from ..base.declare import Outcome
from ..base.ppo import ProximalAlgorithm

LAYOUT, ENVIRONMENTS, EPISODES, DRAWS, POINTS = "wall_goals", 16, 100, 2_000, 10
TAPES = 1_000_000  # far from the seeds with which agents learn
BETWEEN, RARER = 0.2, 0.1  # shares of draws that make two modes: at most, at least


def world() -> Any:
    """What an agent learns in."""
    return make_sb3("PointMaze-v0", ENVIRONMENTS, layout=LAYOUT)


def episodes(
    act: Callable[[NDArray[Any]], NDArray[Any]], core: PointMaze, tape: Arrays
) -> dict[str, float]:
    """Mean return of n episodes, and the share that are at a goal when they end."""
    state, total = core.initial(tape), 0.0
    for _ in range(core.horizon):
        actions = act(core.observation(state))
        following = core.transition(state, actions, tape)
        total += float(core.reward(state, actions, following).mean())
        state = following
    return {"return": total, "success": float((core.distance(state) <= core.radius).mean())}


def modes(across: NDArray[Any]) -> dict[str, float]:
    """Whether actions have two modes: of what they do across the axis of symmetry, [n] in [-1, 1],
    less than a fifth lies in the middle third, and at least a tenth in each of the others."""
    third = 1 / 3
    between = float((np.abs(across) <= third).mean())
    rarer = min(float((across < -third).mean()), float((across > third).mean()))
    return {
        "two modes": float(between < BETWEEN and rarer >= RARER),
        "between the modes": between,
        "rarer side": rarer,
    }


def outcome_of(agent: ProximalAlgorithm, steps: int) -> Outcome:
    """Learn, and play at every tenth of the way; at its end, look at the actions at the start."""
    core = PointMaze(LAYOUT)
    tape = core.tapes(EPISODES, TAPES)

    def act(deterministic: bool) -> dict[str, float]:
        return episodes(
            lambda seen: agent.predict(seen, deterministic=deterministic)[0], core, tape
        )

    x, y, found = [], [], {}
    for point in range(1, POINTS + 1):
        missing = point * steps // POINTS - agent.num_timesteps
        if missing > 0:
            agent.learn(missing, reset_num_timesteps=False)
        found = act(deterministic=False)
        x.append(float(agent.num_timesteps))
        y.append(found["return"])
    start = np.repeat(core.observation(core.initial(tape))[:1], DRAWS, axis=0)
    found |= modes(agent.predict(start, deterministic=False)[0][:, 0])
    found["return of the means"] = act(deterministic=True)["return"]
    return Outcome({**found, "area": float(np.mean(y))}, {"return": (x, y)})


def difference(left: ProximalAlgorithm, right: ProximalAlgorithm) -> float:
    """The largest one between parameters that both policies have, and between their actions."""
    ours, theirs = left.policy.state_dict(), right.policy.state_dict()
    gaps = [float((ours[name].float() - each.float()).abs().max()) for name, each in theirs.items()]
    places = np.random.default_rng(0).uniform(-1.5, 1.5, (100, 2)).astype(np.float32)
    actions = []
    for agent in (left, right):
        torch.manual_seed(0)
        actions.append(agent.predict(places, deterministic=False)[0])
    return max(*gaps, float(np.abs(actions[0] - actions[1]).max()))
