"""Times steps of RL4CO's environments, which are no part of this package.

A program that `palaestra bench` runs in a process of its own, with a Python that has `rl4co`:

    python -P rl4co_steps.py TASK

TASK is JSON: `problem` ("tsp" or "cvrp"), `nodes` (customers), `environments`, `threads` and
`drawing`, whether the time to draw random feasible actions counts (as RL4CO's own random policy
draws them). The program answers "ready" and then, for every number n on its standard input, the
seconds that n steps of all environments took. Resets are not counted.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any


def main() -> None:
    """Answer requests until the input ends."""
    import torch
    from rl4co import envs  # type: ignore[import-not-found]

    task: dict[str, Any] = json.loads(sys.argv[1])
    torch.set_num_threads(task["threads"])
    torch.manual_seed(0)
    kind = {"tsp": envs.TSPEnv, "cvrp": envs.CVRPEnv}[task["problem"]]
    env = kind(generator_params={"num_loc": task["nodes"]}, check_solution=False)
    state = env.reset(batch_size=[task["environments"]])

    def steps(count: int) -> float:
        nonlocal state
        seconds = 0.0
        for _ in range(count):
            if bool(state["done"].all()):
                state = env.reset(batch_size=[task["environments"]])
            begun = time.perf_counter()
            action = torch.multinomial(state["action_mask"].float(), 1).squeeze(-1)
            state.set("action", action)
            drawn = time.perf_counter()
            state = env.step(state)["next"]
            seconds += time.perf_counter() - (begun if task["drawing"] else drawn)
        return seconds

    steps(5)
    print("ready", flush=True)
    for line in sys.stdin:
        print(steps(int(line)), flush=True)


if __name__ == "__main__":
    main()
