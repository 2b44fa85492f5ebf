"""Times the paper's own HDPO implementation, from a checkout that the user names.

The checkout is imported in a process of its own; nothing of it is part of this project.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

OFFICIAL = os.environ.get("PALAESTRA_OFFICIAL_HDPO", "")

# Builds the checkout's simulator and network for a setting, then takes one gradient step for every
# line on its standard input and answers with the seconds that it took.
DRIVER = """
import sys, time
root, setting, network, stores, batch = sys.argv[1], *sys.argv[2:4], *map(int, sys.argv[4:6])
sys.path.insert(0, root)
import torch, yaml
torch.set_num_threads(1)
from collections import defaultdict
from data_handling import Scenario, DatasetCreator
from environment import Simulator
from loss_functions import PolicyLoss
from neural_networks import NeuralNetworkCreator
from trainer import Trainer
from torch.utils.data import DataLoader

def read(kind, name):
    with open(f"{root}/config_files/{kind}/{name}.yml") as file:
        return yaml.safe_load(file)

config = read("settings", setting)
networks = read("policies_and_hyperparams", network)
problem, seen = config["problem_params"], defaultdict(lambda: None, config["observation_params"])
if stores:
    problem["n_stores"] = stores
if setting == "one_store_backlogged":
    config["store_params"]["lead_time"]["value"] = 4
parts = [config[k] for k in ("store_params", "warehouse_params", "echelon_params")]
scenario = Scenario(50, problem, *parts, batch, seen, config["seeds"])
data = DatasetCreator().create_datasets(scenario, split=False)
(minibatch,) = DataLoader(data, batch_size=batch)
model = NeuralNetworkCreator().create_neural_network(scenario, networks["nn_params"], device="cpu")
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
trainer, simulator, loss = Trainer(device="cpu"), Simulator(device="cpu"), PolicyLoss()
def step():
    optimizer.zero_grad()
    total, _ = trainer.simulate_batch(
        loss, simulator, model, 50, problem, dict(minibatch), seen, 0, False)
    (total / (batch * 50 * problem["n_stores"])).backward()
    optimizer.step()
step()
step()
print("ready", flush=True)
for _ in sys.stdin:
    start = time.perf_counter()
    step()
    print(time.perf_counter() - start, flush=True)
"""


def seconds_per_update(setting: str, network: str, stores: int, batch: int) -> Callable[[], float]:
    """A function that lets the checkout take one gradient step and returns its seconds.

    Args:
        setting, network: names of its configuration files.
        stores: number of stores, 0 for the setting's own.
        batch: scenarios per minibatch.

    Raises:
        ValueError: the checkout cannot be run.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, OFFICIAL, setting, network, str(stores), str(batch)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    to, answers, errors = process.stdin, process.stdout, process.stderr
    while (line := answers.readline()).strip() != "ready":
        if not line:
            last = errors.read().strip().splitlines()[-1:]
            raise ValueError(f"PALAESTRA_OFFICIAL_HDPO={OFFICIAL}: {setting} does not run: {last}")

    def measure() -> float:
        to.write("step\n")
        to.flush()
        return float(answers.readline())

    return measure
