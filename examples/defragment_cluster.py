"""Gather the free cores of a cluster with a few migrations: the plan as a table, and a picture of
before and after.

    python examples/defragment_cluster.py [cluster.json | folder of CSV files] [--moves 8]
        [--steps 10000]

`palaestra/envs/cluster/snapshot.py` describes the files. Without one, a data centre is drawn and
written to cluster.json.
"""

import argparse
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
from matplotlib.image import imsave

import palaestra
from palaestra.envs.cluster.generator import data_centre
from palaestra.envs.cluster.snapshot import read_snapshot, write_snapshot

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("snapshot", nargs="?", type=Path)
parser.add_argument("--machines", type=int, default=8, help="of a cluster that is drawn")
parser.add_argument("--moves", type=int, default=8, help="migrations at most")
parser.add_argument("--steps", type=int, default=10_000, help="environment steps of VM2RL")
arguments = parser.parse_args()

if arguments.snapshot is None:
    arguments.snapshot = Path("cluster.json")
    drawn = data_centre(np.random.default_rng(2), pms=arguments.machines)
    write_snapshot(drawn, arguments.snapshot)
mapping = read_snapshot(arguments.snapshot)
env = gym.make(
    "VMRescheduling-v0", mappings=mapping, migrations=arguments.moves, render_mode="rgb_array"
)

# The policy learns on drawn clusters and plans for any other.
training = gym.make("VMRescheduling-v0", pms=6, migrations=arguments.moves)
vm2rl = palaestra.agents.VM2RL("MultiInputPolicy", training, seed=0, device="cpu")
vm2rl.learn(arguments.steps, progress_bar=True)
planners = {
    "greedy": palaestra.agents.GreedyMigration("HeuristicPolicy", env),
    "swaps": palaestra.agents.SwapMigration("HeuristicPolicy", env),
    "beam search": palaestra.agents.BeamMigration("HeuristicPolicy", env),
    "VM2RL": vm2rl,
}

print(f"{len(mapping.cores)} VMs on {len(mapping.capacity_cores)} machines")
print(f"fragment rate now {mapping.fragment_rate:.3f}\n")
best = (mapping.fragment_rate, "nothing", [])
for name, planner in planners.items():
    env.reset(seed=0)
    started = time.perf_counter()
    plan = planner.plan(env)
    seconds = time.perf_counter() - started
    rate = mapping.fragment_rate
    for move in plan:
        rate = env.step(np.array(move))[4]["fragment_rate"]
    print(f"{name:12} {rate:.3f} after {len(plan)} moves, planned in {seconds:.2f} s")
    best = min(best, (rate, name, plan), key=lambda found: (found[0], len(found[2])))

_, name, plan = best
env.reset(seed=0)
before = env.render()
print(f"\nplan of {name}:\n{'VM':12} {'cores':>5}  {'from':12} {'to':12} fragment rate")
for vm, machine in plan:
    source = mapping.machine_names[env.unwrapped.state["owner"][0, vm]]
    rate = env.step(np.array([vm, machine]))[4]["fragment_rate"]
    target = mapping.machine_names[machine]
    print(f"{mapping.vm_names[vm]:12} {mapping.cores[vm]:5}  {source:12} {target:12} {rate:.3f}")
imsave("defragmented.png", np.concatenate([before, env.render()]))
print("before and after: defragmented.png")
