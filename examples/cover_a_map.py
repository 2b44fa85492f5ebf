"""Cover a map: learn a walk that sees as much of it as possible, and draw it.

    python examples/cover_a_map.py [map.csv | map.npy | map.npz | map.png] [--out walk.png]

A map says how much every cell is worth: a table of numbers, or a picture, the darker the more. A
cell that is not a number (nan) is a wall. Without a file, a map of hills is written and used.
"""

import argparse
from pathlib import Path

import gymnasium as gym
import numpy as np
from matplotlib import image

import palaestra
from palaestra.agents.heuristics.coverage import path_upper_bound

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("map", nargs="?", type=Path)
parser.add_argument("--horizon", type=int, default=40, help="steps of the walk")
parser.add_argument("--start", type=int, nargs=2, default=(0, 0), help="row and column")
parser.add_argument("--updates", type=int, default=300, help="of SubPO, 200 walks each")
parser.add_argument("--out", type=Path, default=Path("walk.png"))
arguments = parser.parse_args()

if arguments.map is None:
    y, x = np.mgrid[0:12, 0:16]
    hills = [(2, 12, 3.0), (9, 3, 4.0), (9, 13, 2.0)]
    weights = sum(height * np.exp(-((y - r) ** 2 + (x - c) ** 2) / 6) for r, c, height in hills)
    weights[5, 3:11] = np.nan
    arguments.map = Path("map.csv")
    np.savetxt(arguments.map, weights, delimiter=",", fmt="%.3f")


def read_map(path):
    """Weights [rows, cols] of a table, an array or a picture."""
    if path.suffix in (".csv", ".txt"):
        return np.loadtxt(path, delimiter=",", ndmin=2)
    if path.suffix == ".npy":
        return np.load(path)
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return arrays[arrays.files[0]]
    picture = image.imread(path).astype(float)
    grey = picture if picture.ndim == 2 else picture[..., :3].mean(axis=2)
    return 1 - grey / (255 if grey.max() > 1 else 1)


weights = read_map(arguments.map)
walls = np.isnan(weights)
env = gym.make(
    "SubmodularCoverage-v0",
    weights=np.nan_to_num(weights),
    layout=["".join("#" if wall else "." for wall in row) for row in walls],
    start=tuple(arguments.start),
    horizon=arguments.horizon,
    render_mode="rgb_array",
)
core = env.unwrapped.core
total = core.weights.sum()
bound = path_upper_bound(core.set_function, core.reachable(), core.horizon)

learner = palaestra.agents.SubPO("MlpPolicy", env, episodes=200, learning_rate=3e-3, seed=0)
learner.learn(arguments.updates * 200 * arguments.horizon, progress_bar=True)
agents = {
    "greedy steps": palaestra.agents.GreedyCoverage("HeuristicPolicy", env),
    "greedy tour": palaestra.agents.GreedyTour("HeuristicPolicy", env),
    "SubPO": learner,
}
for name, agent in agents.items():
    observation, info = env.reset(seed=0)
    ended = False
    while not ended:
        action, _ = agent.predict(observation, deterministic=True)
        observation, _, terminated, truncated, info = env.step(action)
        ended = terminated or truncated
    print(
        f"{name}: {info['set_value']:.1f} of {total:.1f} seen (no walk sees more than {bound:.1f})"
    )

image.imsave(arguments.out, env.render())  # the last walk is SubPO's
print(f"the walk is drawn in {arguments.out}")
