"""A slippery walk along a cliff, for those who mind the mean and for those who mind bad days.

    python examples/risk_sensitive_walk.py [--cols 7] [--slip 0.1] [--out risk_sensitive_walk.png]

Planning over states with a stock gives the best policy for each level of the conditional value at
risk, the mean of the worst so many percent of the returns; a picture shows where each walks and
what it earns. `palaestra.agents.DetaN` is the deep form, for worlds too large for tables.
"""

import argparse
from pathlib import Path

import gymnasium as gym
import matplotlib.pyplot as plt
import numpy as np

import palaestra
from palaestra.envs.tabular.planning.laws import cvar
from palaestra.wrappers.stock import StockWrapper

LEVELS, PIT = (1.0, 0.25, 0.05), 30.0

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--cols", type=int, default=7, help="width of the grid, at least 3")
parser.add_argument("--slip", type=float, default=0.1, help="how often a step goes anywhere")
parser.add_argument("--out", type=Path, default=Path("risk_sensitive_walk.png"))
arguments = parser.parse_args()

cols, horizon = arguments.cols, 4 * arguments.cols
world = {
    "rows": 4,
    "cols": cols,
    "start": (3, 0),
    "goals": {(3, c): (-PIT, True) for c in range(1, cols - 1)} | {(3, cols - 1): (0.0, True)},
    "step_reward": -1.0,
    "horizon": horizon,
}
stocks = np.arange(0.0, horizon + PIT + 1)  # minus the returns that are possible


def make(slip=arguments.slip):
    env = gym.make("GridWorld-v0", slip=slip, **world)
    return StockWrapper(env, stock=lambda rng: rng.choice(stocks))


def walk(agent, env, stock):
    """The states of an episode that starts with a stock."""
    seen, _ = env.reset(options={"stock": stock})
    states, ended, memory = [int(seen["observation"])], False, None
    while not ended:
        action, memory = agent.predict(seen, state=memory, deterministic=True)
        seen, _, terminated, truncated, _ = env.step(int(action))
        states.append(int(seen["observation"]))
        ended = terminated or truncated
    return states


planner = palaestra.agents.DistributionalVI("StockTablePolicy", make(), stocks=stocks, seed=0)
planner.learn(1)
figure, (plan, returns) = plt.subplots(1, 2, figsize=(11, 3.6), layout="constrained")
for number, level in enumerate(LEVELS):
    stock, _ = planner.start_stock(level)
    law = planner.return_law(stock)
    print(
        f"best {level:4.0%}: start with a stock of {stock:g}; mean "
        f"{law.values @ law.probabilities:6.2f}, worst 25% {cvar(law, 0.25):6.2f}, "
        f"worst 5% {cvar(law, 0.05):6.2f}"
    )
    states = walk(planner, make(slip=0.0), stock)  # where it goes when nothing slips
    rows, columns = np.divmod(states, cols)
    shift = 0.12 * (number - 1)
    plan.plot(columns + shift, rows + shift, "o-", label=f"worst {level:.0%}")
    returns.step(law.values, law.probabilities.cumsum(), where="post", label=f"worst {level:.0%}")
plan.add_patch(plt.Rectangle((0.5, 2.5), cols - 2, 1, color="firebrick", alpha=0.35))
plan.set(xlim=(-0.5, cols - 0.5), ylim=(3.5, -0.5), aspect="equal", title="when nothing slips")
plan.set(xticks=[], yticks=[])
plan.text((cols - 1) / 2, 3, f"cliff, -{PIT:g}", ha="center", va="center")
returns.set(xlabel="return", ylabel="probability of at most that", title="what it earns")
returns.legend()
figure.savefig(arguments.out, dpi=120)
print(f"paths and laws: {arguments.out}")
