"""What EXPO's claim compares by: a block with two ways around it, and bandits with known values."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ...envs.control.maze_controllers import two_routes_demonstrations
from ...envs.control.point_maze import PointMaze
from ..base.declare import Outcome
from ..base.offline_data import OfflineDataset
from ..base.rlpd import RLPD
from .expo_networks import EditPolicy

LAYOUT = "two_routes"
QUICK = 34  # steps; the fastest way takes 29, an episode has 50
DEMONSTRATIONS = 200
STEPS, POINTS = 2_500, 10
EPISODES, EVALUATION_SEED = 100, 1_000_000
TUNING: dict[str, Any] = {
    "n_critics": 4,
    "gradient_steps": 4,
    "batch_size": 128,
    "learning_starts": 300,
    "learning_rate": 1e-3,
    "tau": 0.02,
    # At most 1 is earned, 30 steps later: a larger temperature drowns the values.
    "ent_coef": "auto_0.01",
    "buffer_size": 20_000,
    "policy_kwargs": {"net_arch": [64, 64], "optimizer_kwargs": {"fused": True}},
    "device": "cpu",
}
BASE: dict[str, Any] = {
    **{"n_base": 4, "denoising_steps": 5, "base_blocks": 1, "base_tau": 0.01},
}
SCALE = 0.3  # of the edits
EDITS: dict[str, Any] = {"edit_scale": SCALE, "target_entropy": -1.0 + 2 * math.log(SCALE)}
BANDITS, ROWS = 100, 200


def demonstrations(seed: int) -> OfflineDataset:
    """200 noisy demonstrations, half on each side of the block, 59 % of which arrive."""
    columns: dict[str, Any] = dict(two_routes_demonstrations(DEMONSTRATIONS, seed))
    return OfflineDataset(**columns, env=gym.make("PointMaze-v0", layout=LAYOUT))


def arrival_steps(agent: RLPD, deterministic: bool) -> NDArray[np.float64]:
    """Steps until each of 100 episodes arrives, always from the same starts; infinite: never."""
    core = PointMaze(LAYOUT)
    tape = core.tapes(EPISODES, EVALUATION_SEED)
    state, taken = core.initial(tape), np.full(EPISODES, np.inf)
    for step in range(1, core.horizon + 1):
        actions, _ = agent.predict(core.observation(state), deterministic=deterministic)
        state = core.transition(state, actions, tape)
        taken = np.where(core.terminal(state), np.minimum(taken, step), taken)
    return taken


def around_the_block(
    agent_class: type[RLPD], seed: int, scale: float, *, deterministic: bool, **own: Any
) -> Outcome:
    """Learn with the demonstrations, and play 100 episodes at every tenth of the way.

    Args:
        agent_class: with arguments `own` beside those that all arms have.
        seed, scale: of the arm.
        deterministic: whether episodes that are counted are played without the noise with which the
            agent explores.
    """
    agent = agent_class("MlpPolicy", demonstrations(seed), seed=seed, **{**TUNING, **own})
    budget = max(int(STEPS * scale) // POINTS, 1)
    steps, success, quick = list[float](), list[float](), list[float]()
    for point in range(1, POINTS + 1):
        agent.learn(point * budget - agent.num_timesteps, reset_num_timesteps=False)
        steps.append(float(agent.num_timesteps))
        taken = arrival_steps(agent, deterministic)
        success.append(float(np.isfinite(taken).mean()))
        quick.append(float((taken <= QUICK).mean()))
    return Outcome(
        {
            "area": float(np.mean(success)),
            "last success": success[-1],
            "area in 34 steps": float(np.mean(quick)),
        },
        {"success": (steps, success), "success in 34 steps": (steps, quick)},
    )


class Bandit(nn.Module):
    """In the place of the critics: Q(s, a) = -|a - best|^2.

    Args:
        best: the best action, [d].
    """

    n_critics = 1

    def __init__(self, best: torch.Tensor) -> None:
        super().__init__()
        self.best = best

    def values(
        self, obs: Any, actions: torch.Tensor, members: torch.Tensor | None = None
    ) -> torch.Tensor:
        """[1, ...] of actions [..., d]."""
        return -(actions - self.best).square().sum(dim=-1)[None]


@torch.no_grad()
def on_bandits(policy: EditPolicy, seed: int, bandits: int) -> dict[str, float]:
    """How far the on-the-fly action ever falls short of the best base sample, and in which share of
    cases it is better. The critics of the policy are gone afterwards."""
    rng = np.random.default_rng(seed)
    places = torch.as_tensor(rng.uniform(-1, 1, (ROWS, 2)), dtype=torch.float32)
    short, better = 0.0, 0.0
    for best in rng.uniform(-1, 1, (bandits, 2)):
        bandit = Bandit(torch.as_tensor(best, dtype=torch.float32))
        policy.critic_target = bandit  # type: ignore[assignment]
        found = policy.candidates(places, policy.slow_base)
        of_base = bandit.values(places, found[:, : policy.n_base])[0].max(dim=1).values
        gain = bandit.values(places, policy.choose(places, found))[0] - of_base
        short = max(short, float(-gain.min()))
        better += float((gain > 0).float().mean()) / bandits
    return {"shortfall": short, "better": better}
