"""What the claim of zero-shot RL compares by: a grid without rewards, and walkers that left much of
it unseen."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from ..base.declare import Outcome
from ..base.offline_data import OfflineDataset
from .base_forward_backward import FB

SIDE = 6
CELLS, CORNERS = SIDE * SIDE, ((0, 0), (0, SIDE - 1), (SIDE - 1, 0), (SIDE - 1, SIDE - 1))
LIMIT = 15  # steps in which a corner counts as reached
WALKED = 600
STEPS, POINTS = 4_000, 8
TUNING: dict[str, Any] = {
    **{"learning_rate": 1e-3, "batch_size": 128, "gamma": 0.9, "device": "cpu"},
    "policy_kwargs": {
        **{"dimension": 16, "preprocessed": 128},
        **{"forward_arch": [128], "backward_arch": [64]},
    },
}


def grid() -> gym.Env[Any, Any]:
    """6 x 6 cells without goals, seen as unit vectors."""
    arguments: dict[str, Any] = {"rows": SIDE, "cols": SIDE, "start": "free", "goals": {}}
    return gym.make("GridWorld-v0", **arguments, max_steps=LIMIT, observation="onehot")


def walks(seed: int) -> OfflineDataset:
    """600 steps of walkers that go to random corners, along the column first and then the row."""
    env, rng = grid(), np.random.default_rng(seed)
    table = env.unwrapped.core.P[0].argmax(-1)  # type: ignore[attr-defined]
    cell = corner = 0
    rows: list[tuple[int, int, int]] = []
    while len(rows) < WALKED:
        if cell == corner:
            cell = int(rng.integers(CELLS))
            row, col = CORNERS[rng.integers(len(CORNERS))]
            corner = row * SIDE + col
            continue
        down, right = corner // SIDE - cell // SIDE, corner % SIDE - cell % SIDE
        action = (1 if down > 0 else 0) if down else (2 if right > 0 else 3)
        rows.append((cell, action, int(table[cell, action])))
        cell = rows[-1][-1]
    cells, actions, following = np.array(rows).T
    units = np.eye(CELLS, dtype=np.float32)
    return OfflineDataset(units[cells], actions, next_observations=units[following], env=env)


def reaches(agent: FB, table: NDArray[np.int64]) -> float:
    """Share of the corners that are reached in time, over all cells to start from."""
    units, arrived = np.eye(CELLS, dtype=np.float32), list[NDArray[np.bool_]]()
    for row, col in CORNERS:
        corner = row * SIDE + col
        agent.set_goal(units[corner])
        actions, _ = agent.predict(units, deterministic=True)
        cells = np.arange(CELLS)
        for _ in range(LIMIT):
            cells = np.where(cells == corner, corner, table[cells, actions[cells]])
        arrived.append(cells == corner)
    return float(np.mean(arrived))


def shown(data: OfflineDataset) -> NDArray[np.bool_]:
    """Which pairs of cell and action the data show, [S, A]."""
    seen = np.zeros((CELLS, 4), dtype=bool)
    seen[data.observations.argmax(1), data.actions] = True
    return seen


def overestimate(agent: FB, data: OfflineDataset) -> float:
    """Mean value of actions that the data do not show, less that of those that they show, over the
    four tasks."""
    seen = shown(data)
    gaps = []
    for row, col in CORNERS:
        agent.set_goal(np.eye(CELLS, dtype=np.float32)[row * SIDE + col])
        found = agent.policy.action_values(np.eye(CELLS, dtype=np.float32)).numpy()
        gaps.append(found[~seen].mean() - found[seen].mean())
    return float(np.mean(gaps))


def corners(agent_class: type[FB], seed: int, scale: float, **own: Any) -> Outcome:
    """Learn from the walks without rewards, and then go to each corner.

    Success and gap swing while the maps are learned: what counts is their mean over the second half
    of the way.

    Args:
        agent_class: with arguments `own` beside those that all arms have.
        seed, scale: of the arm.
    """
    data = walks(seed)
    table = data.env.unwrapped.core.P[0].argmax(-1)
    agent = agent_class("MlpPolicy", data, seed=seed, **TUNING, **own)
    budget = max(int(STEPS * scale) // POINTS, 1)
    steps, success, gaps = list[float](), list[float](), list[float]()
    for point in range(1, POINTS + 1):
        agent.learn(point * budget - agent.num_timesteps, reset_num_timesteps=False)
        steps.append(float(agent.num_timesteps))
        success.append(reaches(agent, table))
        gaps.append(overestimate(agent, data))
    return Outcome(
        {
            "success": float(np.mean(success[POINTS // 2 :])),
            "gap": float(np.mean(gaps[POINTS // 2 :])),
            "last success": success[-1],
            "unseen": float(1 - shown(data).mean()),
        },
        {"success": (steps, success), "gap": (steps, gaps)},
    )
