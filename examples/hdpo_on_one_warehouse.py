"""Train HDPO on one warehouse with stores, look at what it orders, save it and load it again.

python examples/hdpo_on_one_warehouse.py [--steps 2000000]
"""

import argparse

import gymnasium as gym

import palaestra

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=2_000_000, help="environment steps")
parser.add_argument("--stores", type=int, default=5)
arguments = parser.parse_args()

env = gym.make("InventoryNet-v0", topology="one_warehouse", stores=arguments.stores)
agent = palaestra.agents.HDPO("GraphPolicy", env, seed=0, learning_rate=1e-2, max_grad_norm=1.0)
agent.learn(arguments.steps, progress_bar=True)

observation, _ = env.reset(seed=1)
total, ended = 0.0, False
while not ended:
    action, _ = agent.predict(observation, deterministic=True)
    observation, reward, terminated, truncated, info = env.step(action)
    total += reward
    ended = terminated or truncated
print(f"cost of one episode: {-total:.1f}; last orders: {info['orders'].round(1)}")

agent.save("hdpo")
again = palaestra.agents.HDPO.load("hdpo", env)
assert (again.predict(observation)[0] == agent.predict(observation)[0]).all()

larger = gym.make("InventoryNet-v0", topology="one_warehouse", stores=3 * arguments.stores)
print("the same policy on three times as many stores:", agent.transfer(larger).policy_name())
