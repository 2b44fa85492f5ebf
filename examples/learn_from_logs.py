"""Learn from logs: a policy from a table of what was seen, done and earned; nothing is tried.

    python examples/learn_from_logs.py
    python examples/learn_from_logs.py log.csv --observations a b --actions c --reward d --episode e

A row is a step. Without a file, a winter of heating a house by rule of thumb is written and used:
only for that log there is a house in which policies can be compared.
"""

import argparse
from pathlib import Path

import numpy as np

import palaestra
from palaestra.agents.base.logged_steps import read_logs
from palaestra.agents.base.offline_tensors import episode_returns

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("log", nargs="?", type=Path)
parser.add_argument("--observations", nargs="+", default=["inside", "outside", "price"])
parser.add_argument("--actions", nargs="+", default=["heater"])
parser.add_argument("--reward", default="comfort_minus_cost")
parser.add_argument("--episode", default="day")
parser.add_argument("--step", help="column that orders the rows of an episode")
parser.add_argument("--terminated", help="column that is 1 where a task ended")
parser.add_argument("--discrete", action="store_true", help="actions are labels")
parser.add_argument("--steps", type=int, default=3_000, help="of the gradient")
parser.add_argument("--out", type=Path, default=Path("policy.zip"))
arguments = parser.parse_args()

PRICE = np.where((np.arange(24) >= 7) & (np.arange(24) < 22), 0.4, 0.1)  # of an hour of heat


def days_in_the_house(act, days, seed):
    """Hourly steps [days, 24, 7]; `act` gets (inside, outside, price) of all days at once."""
    rng, rows = np.random.default_rng(seed), []
    inside, winter = rng.uniform(16, 20, days), rng.uniform(-8, 8, days)
    for hour in range(24):
        outside = winter + 4 * np.sin((hour - 9) * np.pi / 12)
        seen = np.column_stack([inside, outside, np.full(days, PRICE[hour])])
        heater = np.clip(act(seen), 0, 1)
        cold, paid = np.maximum(19 - inside, 0), PRICE[hour] * heater
        rows.append([np.arange(days), np.full(days, hour), *seen.T, heater, -cold - 3 * paid])
        inside = inside + 0.1 * (outside - inside) + 4 * heater
    return np.stack(rows).transpose(2, 0, 1)


def rule_of_thumb(seen):
    """Heat when it is cold, with whims."""
    return (seen[:, 0] < 19) + whims.normal(0, 0.35, len(seen))


if arguments.log is None:
    whims = np.random.default_rng(0)
    table = days_in_the_house(rule_of_thumb, days=300, seed=0).reshape(-1, 7)
    names = ["day", "hour", "inside", "outside", "price", "heater", "comfort_minus_cost"]
    arguments.log, house = Path("log.csv"), True
    np.savetxt(arguments.log, table, delimiter=",", fmt="%.4f", header=",".join(names), comments="")
else:
    house = False

data = read_logs(
    arguments.log,
    observations=arguments.observations,
    actions=arguments.actions,
    reward=arguments.reward,
    episode=arguments.episode,
    step=arguments.step,
    terminated=arguments.terminated,
    discrete=arguments.discrete,
)
print(f"{len(data)} steps; an episode of the log earns {episode_returns(data).mean():.3g}")

# Both learn values from the log, and stay near what it did, where they know the values.
learner = palaestra.agents.DiscreteCQL if arguments.discrete else palaestra.agents.TD3BC
agent = learner("MlpPolicy", data, gamma=0.95, policy_kwargs={"net_arch": [64, 64]}, seed=0)
agent.learn(arguments.steps, progress_bar=True)
agent.save(arguments.out)
print(f"policy: {arguments.out}")

for row in np.linspace(0, len(data) - 1, 5).astype(int):
    done = np.atleast_1d(data.actions[row])
    better = np.atleast_1d(agent.predict(data.observations[row], deterministic=True)[0])
    print(f"at {np.round(data.observations[row], 2)} the log has {done}, the policy {better}")

if house:

    def learned(seen):
        """The policy."""
        return agent.predict(seen.astype(np.float32), deterministic=True)[0][:, 0]

    for name, act in (("the rule of thumb", rule_of_thumb), ("the policy", learned)):
        earned = days_in_the_house(act, days=200, seed=1)[..., -1].sum(axis=1).mean()
        print(f"a day in the house earns {earned:.3g} with {name}")
