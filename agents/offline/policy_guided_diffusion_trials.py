"""What policy-guided diffusion's claim compares by: a linear plant, whose noise is known, and a
maze."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ...envs.control.lqr import LQR
from ...envs.control.maze_controllers import umaze_steps
from ...envs.control.point_maze import PointMaze
from ...envs.control.recording import record_episodes
from ..base.declare import Outcome
from ..base.nets.edm import preconditioning
from ..base.offline_actor_critic import OfflineActorCritic
from ..base.offline_data import OfflineDataset
from .policy_guided_diffusion_data import SyntheticData
from .policy_guided_diffusion_guidance import Guidance

PLANT, EPISODES, SPREAD = "scalar", 4_000, 0.3  # of the recorded actions around -s / 2
TARGET = 0.3  # standard deviation of the target policy, whose mean is 0
SAMPLES, SAMPLING_STEPS = 500, 64
FIT: dict[str, Any] = {"batch_size": 128, "learning_rate": 2e-3}
FIT_STEPS = 10_000
LEARNING_STEPS, POINTS = 2_500, 5
MAZE_EPISODES, EVALUATION_SEED = 100, 1_000_000
TUNING: dict[str, Any] = {
    "alpha": 1.0,
    "batch_size": 128,
    "learning_rate": 1e-3,
    "policy_kwargs": {"net_arch": [64, 64]},
    "device": "cpu",
}
MODEL: dict[str, Any] = {
    "length": 8,
    "stride": 2,
    "denoiser": "MLP",
    "denoiser_kwargs": {"hidden": [256, 256]},
    "denoiser_steps": 4_000,
    "denoiser_batch_size": 128,
    "sampling_steps": 32,
    "trajectories": 500,
    "synthetic_batch": 120,
    "lifetime": 500,
}

# -- the plant ------------------------------------------------------------------------------------


def recorded(seed: int, episodes: int) -> OfflineDataset:
    """Episodes of the plant with a = -s / 2 + 0.3 N(0, 1)."""

    def act(observations: NDArray[Any], memory: Any) -> tuple[NDArray[np.float64], Any]:
        return -0.5 * observations.astype(np.float64), memory

    columns: dict[str, Any] = dict(
        record_episodes(LQR(PLANT), act, episodes, np.random.default_rng(seed), SPREAD)
    )
    return OfflineDataset(**columns, env=gym.make("LQR-v0", plant=PLANT))


class ExactNet(nn.Module):
    """In the place of the network: with it D(x; s) is the exact mean behind x if the data are
    Gaussian.

    Args:
        windows: standardised, [W, L, F].
    """

    def __init__(self, windows: torch.Tensor) -> None:
        super().__init__()
        flat = windows.flatten(1).double()
        self.mean = flat.mean(dim=0)
        self.variances, self.axes = torch.linalg.eigh(torch.cov(flat.T, correction=0))

    def forward(self, x: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """[B, L, F] of c_in x [B, L, F] and one c_noise."""
        level = (4 * noise.double()).exp()
        scale = preconditioning(level)
        noisy = x.flatten(1).double() / scale.inside
        kept = self.variances.clamp_min(0) / (self.variances.clamp_min(0) + level**2)
        clean = self.mean + ((noisy - self.mean) @ self.axes * kept) @ self.axes.T
        return ((clean - scale.skip * noisy) / scale.out).to(x.dtype).view_as(x)


def in_the_target(data: OfflineDataset) -> float:
    """Mean log-likelihood of the actions under the target policy."""
    scaled = data.actions.astype(np.float64) / TARGET
    return float(np.mean(-0.5 * scaled**2) - math.log(TARGET * math.sqrt(2 * math.pi)))


def dynamics_error(data: OfflineDataset) -> float:
    """Root mean square of s' - s - a / 2; 0.02 in the plant."""
    assert data.next_observations is not None
    missed = data.next_observations - data.observations - 0.5 * data.actions
    return float(np.sqrt(np.mean(missed.astype(np.float64) ** 2)))


def guided_and_not(source: SyntheticData, seed: int, suffix: str = "") -> dict[str, float]:
    """How guided trajectories differ from unguided ones that begin with the same noise."""
    largest = float(source.high[0])

    def log_prob(observations: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        return -0.5 * (largest / TARGET * actions).square().sum(dim=-1)

    plain, guided = (
        source.generate(SAMPLES, Guidance(log_prob, c), steps=SAMPLING_STEPS, seed=seed)
        for c in (0.0, 1.0)
    )
    likelihoods = in_the_target(plain), in_the_target(guided)
    errors = dynamics_error(plain), dynamics_error(guided)
    found = {
        "unguided log-likelihood": likelihoods[0],
        "guided log-likelihood": likelihoods[1],
        "gain": likelihoods[1] - likelihoods[0],
        "unguided dynamics error": errors[0],
        "guided dynamics error": errors[1],
        "error ratio": errors[1] / errors[0],
    }
    return {name + suffix: value for name, value in found.items()}


def on_the_plant(seed: int, scale: float) -> Outcome:
    """A model that is fitted, and one that knows the moments of the data."""
    data = recorded(seed, max(int(EPISODES * scale), 100))
    source = SyntheticData(
        data, length=8, denoiser="MLP", denoiser_kwargs={"hidden": [128, 128]}, seed=seed
    )
    source.fit(max(int(FIT_STEPS * scale), 1), **FIT)
    metrics = guided_and_not(source, seed)
    source.diffusion.average = ExactNet(source.windows.table.view(-1, 8, source.diffusion.width))
    return Outcome(metrics | guided_and_not(source, seed, ", exact denoiser"))


# -- the maze -------------------------------------------------------------------------------------


def in_the_maze(
    agent_class: type[OfflineActorCritic], seed: int, scale: float, **own: Any
) -> Outcome:
    """Learn from 20,000 noisy recorded steps, and play 100 episodes at every fifth of the way.

    Args:
        agent_class: with arguments `own` beside those that all arms have.
        seed, scale: of the arm.
    """
    columns: dict[str, Any] = dict(umaze_steps(seed=seed))
    data = OfflineDataset(**columns, env=gym.make("PointMaze-v0", layout="umaze"))
    pretraining = 0
    if "denoiser_steps" in own:
        own["denoiser_steps"] = pretraining = max(int(own["denoiser_steps"] * scale), 1)
    agent = agent_class("MlpPolicy", data, seed=seed, **{**TUNING, **own})
    budget = max(int(LEARNING_STEPS * scale) // POINTS, 1)
    steps, success, taken = list[float](), list[float](), np.zeros(0)
    for point in range(1, POINTS + 1):
        agent.learn(pretraining + point * budget - agent.num_timesteps, reset_num_timesteps=False)
        taken = arrival_steps(agent)
        steps.append(float(point * budget))
        success.append(float(np.isfinite(taken).mean()))
    return Outcome(
        {
            "success in the maze": success[-1],
            "mean success in the maze": float(np.mean(success)),
            "steps in the maze": float(np.minimum(taken, PointMaze("umaze").horizon).mean()),
        },
        {"success in the maze": (steps, success)},
    )


def arrival_steps(agent: OfflineActorCritic) -> NDArray[np.float64]:
    """Steps until each of 100 episodes arrives, always from the same starts; infinite: never."""
    core = PointMaze("umaze")
    tape = core.tapes(MAZE_EPISODES, EVALUATION_SEED)
    state, taken = core.initial(tape), np.full(MAZE_EPISODES, np.inf)
    for step in range(1, core.horizon + 1):
        actions, _ = agent.predict(core.observation(state), deterministic=True)
        state = core.transition(state, actions, tape)
        taken = np.where(core.terminal(state), np.minimum(taken, step), taken)
    return taken
