"""What H2O's claim compares by: a line whose left half is reversed, steps that were recorded on its
right half only, and a simulator that is reversed everywhere."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm

from ...envs.control.line_world import END, LineWorld
from ...envs.control.line_world_data import far_half_steps
from ..base.declare import Outcome
from ..base.offline_data import OfflineDataset
from ..base.prior_data import PriorData
from ..base.sac import SoftActorCritic
from .base_cql import CQL

WRONG_FROM = 5.0  # on the left of it the simulator is right
UPDATES, POINTS = 3_000, 10
RANDOM = 500  # steps in the simulator before the first update
STARTS, ARRIVED = np.linspace(0.5, 9.0, 50), 9.5
IN_SIMULATOR: dict[str, Any] = {
    **{"learning_starts": RANDOM, "buffer_size": 5_000, "train_freq": 1, "gradient_steps": 1},
}
OWN: dict[str, Any] = {"conservatism": 0.1, "discriminator_arch": [64, 64]}


def tuning() -> dict[str, Any]:
    """Arguments of all agents; new at every call, since SB3 writes into those of the policy."""
    return {
        **{"learning_rate": 1e-3, "batch_size": 128, "gamma": 0.9, "device": "cpu"},
        # At most 1 is paid for a step: a temperature of 1 is what is earned for most of the time.
        "ent_coef": "auto_0.1",
        "policy_kwargs": {"net_arch": [64, 64], "optimizer_kwargs": {"fused": True}},
    }


def simulator() -> gym.Env[Any, Any]:
    """The line, reversed everywhere."""
    return gym.make("LineWorld-v0", reversed=(0.0, math.inf))


def real_steps(seed: int) -> OfflineDataset:
    """500 real steps on the right half, and the simulator to learn in."""
    columns: dict[str, Any] = dict(far_half_steps(seed=seed))
    return OfflineDataset(**columns, env=simulator())


def arrivals(agent: BaseAlgorithm) -> float:
    """Share of 50 starts from which the agent is at the end of the real line after an episode."""
    core = LineWorld((0.0, WRONG_FROM))
    places = STARTS
    for _ in range(core.horizon):
        actions, _ = agent.predict(places[:, None].astype(np.float32), deterministic=True)
        places = np.clip(places + core.direction(places) * actions[:, 0], 0.0, END)
    return float((places >= ARRIVED).mean())


def learn_and_arrive(
    agent: BaseAlgorithm, scale: float, first: int = RANDOM
) -> tuple[dict[str, float], dict[str, tuple[list[float], list[float]]]]:
    """Learn with 3,000 updates; success at the end, and its curve over the updates.

    Args:
        agent: that makes one update for every timestep after the first ones.
        scale: of the arm.
        first: timesteps before the first update.
    """
    budget = max(int(UPDATES * scale) // POINTS, 1)
    updates, success = list[float](), list[float]()
    for point in range(1, POINTS + 1):
        goal = first + point * budget
        agent.learn(goal - agent.num_timesteps, reset_num_timesteps=False)
        updates.append(float(point * budget))
        success.append(arrivals(agent))
    return {"success": success[-1]}, {"success": (updates, success)}


# -- other arms -----------------------------------------------------------------------------------


class Mixed(PriorData, SoftActorCritic):  # type: ignore[misc]
    """SAC that believes both kinds of steps alike."""


def simulator_arm(seed: int, scale: float) -> Outcome:
    """SAC in the simulator."""
    agent = SoftActorCritic("MlpPolicy", simulator(), seed=seed, **tuning(), **IN_SIMULATOR)
    return Outcome(*learn_and_arrive(agent, scale))


def data_arm(seed: int, scale: float) -> Outcome:
    """CQL on the real steps; actor and critics learn at the same rate, as in the other arms."""
    agent = CQL("MlpPolicy", real_steps(seed), seed=seed, actor_share=1.0, **tuning())
    return Outcome(*learn_and_arrive(agent, scale, first=0))


def mixed_arm(seed: int, scale: float) -> Outcome:
    """SAC on as many real steps as simulated ones, of which all are trusted (rho is 1)."""
    agent = Mixed("MlpPolicy", real_steps(seed), seed=seed, **tuning(), **IN_SIMULATOR)
    metrics, curves = learn_and_arrive(agent, scale)
    return Outcome({**metrics, "lost trust": 0.0}, curves)
