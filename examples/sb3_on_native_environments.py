"""Stable-Baselines3's own PPO on native environments, all in one process.

python examples/sb3_on_native_environments.py [--steps 500000] [--envs 256]
"""

import argparse

from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

from palaestra.wrappers.sb3 import make_sb3

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=500_000, help="environment steps")
parser.add_argument("--envs", type=int, default=256, help="environments in the vector")
arguments = parser.parse_args()

train = VecNormalize(
    make_sb3("InventoryNet-v0", arguments.envs, seed=0, setting="one_store_backlogged")
)
model = PPO("MlpPolicy", train, n_steps=50, batch_size=50 * arguments.envs // 8, seed=0)
model.learn(arguments.steps)

test = make_sb3("InventoryNet-v0", 16, seed=10_000, setting="one_store_backlogged")
test = VecNormalize(test, training=False, norm_reward=False)
test.obs_rms = train.obs_rms
mean, deviation = evaluate_policy(model, test, n_eval_episodes=64)
print(f"return per episode: {mean:.1f} +- {deviation:.1f}")
