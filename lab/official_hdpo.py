"""Times one update of the official code of the HDPO paper, which is no part of this package.

A program that `palaestra bench` runs in a process of its own:

    python -P official_hdpo.py CHECKOUT TASK

CHECKOUT is a copy of github.com/MatiasAlvo/Neural_inventory_control, TASK is JSON, see `load`. The
program answers "ready" and then, for every number n on its standard input, the seconds that n
updates took. An update is one minibatch of episodes of 50 periods: simulation, backward pass and a
step of Adam.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

PERIODS = 50


def load(checkout: str, task: dict[str, Any]) -> Callable[[], None]:
    """One update of the official trainer as a function.

    Args:
        checkout: folder of the official code.
        task: names of its files of a setting and a policy; `changes` (section -> name -> value)
            replace values of the setting; `batch` episodes per update.
    """
    import torch
    import yaml

    torch.set_num_threads(1)
    os.chdir(checkout)
    sys.path.insert(0, checkout)
    import data_handling  # type: ignore[import-not-found]
    import environment  # type: ignore[import-not-found]
    import loss_functions  # type: ignore[import-not-found]
    import neural_networks  # type: ignore[import-not-found]
    import trainer  # type: ignore[import-not-found]

    with open(f"config_files/settings/{task['setting']}.yml") as file:
        setting = yaml.safe_load(file)
    with open(f"config_files/policies_and_hyperparams/{task['policy']}.yml") as file:
        policy = yaml.safe_load(file)
    for section, values in task["changes"].items():
        setting[section].update(values)
    problem, observation = setting["problem_params"], setting["observation_params"]
    observation = defaultdict(lambda: None, observation)
    scenario = data_handling.Scenario(
        PERIODS,
        problem,
        *(setting[f"{part}_params"] for part in ("store", "warehouse", "echelon")),
        task["batch"],
        observation,
        setting["seeds"],
    )
    data = data_handling.DatasetCreator().create_datasets(scenario, split=False)
    batch = next(iter(torch.utils.data.DataLoader(data, batch_size=task["batch"])))
    network = neural_networks.NeuralNetworkCreator().create_neural_network(
        scenario, policy["nn_params"], device="cpu"
    )
    simulator = environment.Simulator(device="cpu")
    teacher, loss = trainer.Trainer(device="cpu"), loss_functions.PolicyLoss()

    def simulate() -> Any:
        total, _ = teacher.simulate_batch(
            loss, simulator, network, PERIODS, problem, dict(batch), observation
        )
        return total / (task["batch"] * PERIODS * problem["n_stores"])

    with torch.no_grad():  # creates the layers whose input sizes it does not know before
        simulate()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)

    def update() -> None:
        optimizer.zero_grad()
        simulate().backward()
        optimizer.step()

    return update


def main() -> None:
    """Answer requests until the input ends."""
    update = load(sys.argv[1], json.loads(sys.argv[2]))
    update()
    print("ready", flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        for _ in range(int(line)):
            update()
        print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    main()
