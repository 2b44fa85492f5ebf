"""Control that holds up in the worst case: swing up a pendulum of unknown mass and length.

    python examples/worst_case_control.py [--steps 8000] [--points 5] [--out worst_case.png]

IWOCS learns one agent after another, each with the mass and length that are worst for those before,
and lets the most fearful possible one decide. SAC learns with as many steps, but with the nominal
pendulum. The picture shows what both earn with every mass and length.
"""

import argparse
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
from matplotlib import pyplot as plt

import palaestra
from palaestra.agents.base.physics import play

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=8_000, help="environment steps of every agent")
parser.add_argument("--points", type=int, default=5, help="masses, and lengths, that are tried")
parser.add_argument("--episode", type=int, default=200, help="steps of an episode")
parser.add_argument("--out", type=Path, default=Path("worst_case.png"))
arguments = parser.parse_args()

torch.set_num_threads(1)  # the networks are too small to share
BOX = {"mass": (0.5, 2.0), "length": (0.5, 2.0)}  # as factors
tuning = {
    **{"learning_rate": 1e-3, "learning_starts": min(500, arguments.steps // 2)},
    **{"train_freq": 8, "gradient_steps": 4, "batch_size": 128, "buffer_size": 100_000},
    **{"policy_kwargs": {"net_arch": [64, 64]}, "seed": 0, "device": "cpu"},
}

search = {"param_box": BOX, "n_models": 3, "points": arguments.points, "rollouts": 2}
env = gym.make("TorquePendulum-v0", max_steps=arguments.episode)
iwocs = palaestra.agents.IWOCSSAC(
    "MlpPolicy", env, steps_per_model=arguments.steps, **search, **tuning
)
searches = (
    2 * arguments.points**2 * search["rollouts"] * arguments.episode
)  # they count as steps, too
steps = 3 * arguments.steps + searches
iwocs.learn(steps, progress_bar=True)
for number, model in enumerate(iwocs.models_):
    factors = ", ".join(f"{name} x {factor:g}" for name, factor in model.items())
    worst = iwocs.worst_returns[number]
    print(f"agent {number + 2} learned with {factors}, where the others earned {worst:.0f}")

nominal = gym.make("TorquePendulum-v0", max_steps=arguments.episode)
sac = palaestra.agents.SAC("MlpPolicy", nominal, **tuning)
sac.learn(steps, progress_bar=True)

family = iwocs.family
grid, seeds = family.grid(arguments.points), range(1_000, 1_010)
figure, panels = plt.subplots(1, 2, figsize=(9, 4), layout="constrained", sharey=True)
found = {
    name: play(agent, family, grid, seeds).returns.mean(axis=1)
    for name, agent in {"SAC, nominal": sac, "IWOCS": iwocs}.items()
}
low = min(returns.min() for returns in found.values())
for panel, (name, returns) in zip(panels, found.items(), strict=True):
    print(f"{name}: worst return {returns.min():.0f}, mean {returns.mean():.0f}")
    table = returns.reshape(arguments.points, arguments.points)  # masses in rows
    image = panel.imshow(table, origin="lower", vmin=low, vmax=0, cmap="viridis")
    for (row, column), value in np.ndenumerate(table):
        colour = "black" if value > low / 2 else "white"
        panel.text(column, row, f"{value:.0f}", ha="center", va="center", color=colour, fontsize=8)
    ticks = [f"{factor:.3g}" for factor in np.linspace(*BOX["mass"], arguments.points)]
    panel.set_xticks(range(arguments.points), ticks)
    panel.set_yticks(range(arguments.points), ticks)
    panel.set(title=f"{name}: worst {returns.min():.0f}", xlabel="length (m)")
panels[0].set_ylabel("mass (kg)")
figure.colorbar(image, ax=panels, label="return per episode")
figure.savefig(arguments.out, dpi=120, bbox_inches="tight")
print(f"returns of both are drawn in {arguments.out}")
