"""The deep arms of IWOCS's claim: a pendulum of uncertain mass and length."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from ...wrappers.physics_family import PhysicsFamily
from ..base.declare import Outcome
from ..base.off_policy import SAC
from ..base.physics import play
from .iwocs_sac import IWOCSSAC

PENDULUM, BOX = "TorquePendulum-v0", {"mass": (0.5, 2.0), "length": (0.5, 2.0)}
AGENTS, STEPS, POINTS, ROLLOUTS, EPISODE = 3, 8_000, 5, 2, 200
TEST_SEEDS = range(1_000_000, 1_000_010)
TUNING: dict[str, Any] = {
    "learning_rate": 1e-3,
    "learning_starts": 500,
    "buffer_size": 60_000,
    "batch_size": 128,
    "train_freq": 8,
    "gradient_steps": 4,
    "policy_kwargs": {"net_arch": [64, 64], "optimizer_kwargs": {"fused": True}},
    "device": "cpu",
}


def budget(scale: float) -> tuple[int, int, int]:
    """Steps of an episode, of every agent of IWOCS, and of all of it, its searches included."""
    episode, each = max(int(EPISODE * scale), 5), max(int(STEPS * scale), 100)
    searches = (AGENTS - 1) * POINTS ** len(BOX) * ROLLOUTS * episode
    return episode, each, AGENTS * each + searches


def tested(agent: Any, family: PhysicsFamily) -> dict[str, float]:
    """Mean returns over ten episodes in every point of the grid: the worst, nominal and mean."""
    returns = play(agent, family, family.grid(POINTS), TEST_SEEDS).returns.mean(axis=1)
    nominal = play(agent, family, [family.nominal], TEST_SEEDS).returns.mean()
    return {
        "worst return": float(returns.min()),
        "mean return": float(returns.mean()),
        "nominal return": float(nominal),
    }


def iwocs_outcome(seed: int, scale: float) -> Outcome:
    """IWOCS with SAC in the pendulum; the search may end early, then the last agent goes on."""
    episode, each, steps = budget(scale)
    agent = IWOCSSAC(
        *("MlpPolicy", gym.make(PENDULUM, max_steps=episode)),
        param_box=BOX,
        n_models=AGENTS,
        steps_per_model=each,
        points=POINTS,
        rollouts=ROLLOUTS,
        seed=seed,
        **TUNING,
    )
    agent.learn(steps)
    return Outcome({**tested(agent, agent.family), "agents": len(agent.models_) + 1.0})


def sac_outcome(seed: int, scale: float) -> Outcome:
    """SAC in the nominal pendulum, with as many steps."""
    episode, _, steps = budget(scale)
    agent = SAC("MlpPolicy", gym.make(PENDULUM, max_steps=episode), seed=seed, **TUNING)
    agent.learn(steps)
    return Outcome(tested(agent, PhysicsFamily(PENDULUM, BOX, max_steps=episode)))
