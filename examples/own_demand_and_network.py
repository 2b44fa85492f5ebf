"""Your own demand table and supply network: compare an ordering rule with HDPO on weeks that
neither has seen.

    python examples/own_demand_and_network.py [sales.csv] [network.yaml] [--steps 2000000]

Without files, a table of weekly sales and a network of two warehouses are written and used.
"""

import argparse
from pathlib import Path

import gymnasium as gym
import numpy as np
import pandas as pd

import palaestra
from palaestra.envs.base import to_torch

NETWORK = """
nodes:
  north: {kind: warehouse, holding: 0.3, lead: 3}
  south: {kind: warehouse, holding: 0.4, lead: 2}
  old town: {kind: store, holding: 1, underage: 9}
  harbour: {kind: store, holding: 1, underage: 9}
  airport: {kind: store, holding: 1.2, underage: 14}
edges:
  - {from: north, to: old town, lead: 2}
  - {from: north, to: harbour, lead: 1}
  - {from: south, to: harbour, lead: 2}
  - {from: south, to: airport, lead: 1}
"""

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("sales", nargs="?", type=Path)
parser.add_argument("network", nargs="?", type=Path)
parser.add_argument("--steps", type=int, default=2_000_000, help="environment steps of HDPO")
arguments = parser.parse_args()

if arguments.sales is None:
    weeks = pd.date_range("2022-01-03", periods=171, freq="7D")
    season = 20 + 10 * np.sin(np.arange(171) * 2 * np.pi / 52)[:, None]
    units = np.random.default_rng(0).poisson(season * np.array([1.0, 2.0, 0.5]))
    table = pd.DataFrame(units, columns=["old town", "harbour", "airport"]).assign(date=weeks)
    arguments.sales = Path("sales.csv")
    table[["date", "old town", "harbour", "airport"]].to_csv(arguments.sales, index=False)
if arguments.network is None:
    arguments.network = Path("network.yaml")
    arguments.network.write_text(NETWORK, encoding="utf-8")

env = gym.make(
    "InventoryNet-v0", network=str(arguments.network), demand=str(arguments.sales), periods=50
)
core = env.unwrapped.core
test = core.variant(split="test", periods=None, ignore=None)
tape = to_torch(test.scenarios(1, seed=0))

rule = palaestra.agents.EchelonStock("HeuristicPolicy", env, seed=0, device="cpu")
hdpo = palaestra.agents.HDPO("GraphPolicy", env, seed=0, max_grad_norm=1.0, device="cpu")
rule.learn(arguments.steps // 20)
hdpo.learn(arguments.steps)
for name, agent in {"echelon stock": rule, "HDPO": hdpo}.items():
    cost = -float(agent.evaluate_tapes(agent.simulator(test), tape).mean())
    print(f"{name}: {cost:.2f} per week and store on the test weeks")
