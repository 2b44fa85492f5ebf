"""The arms of ScaleZero's claim: tasks that pull in opposite directions, and six grids."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import nn

from ...wrappers.tasks import TaskVecEnv
from ..base.declare import Outcome
from ..base.nets.mixture import Mixture
from ..base.nets.mlp import mlp
from ..base.stages import gradient_step
from .scalezero_networks import gradient_conflict

# -- six conflicting regressions ------------------------------------------------------------------

TASKS, WIDTH, ACTIVE, EXPERTS = 6, 8, 8, 8
EMBEDDED = 2.0  # scale of the tasks' embeddings
STEPS, BATCH, RATE, TEST = 1_500, 32, 0.02, 2_000
EVERY = 10  # updates between two looks at the conflict
LEAST_CALMER, LEAST_BETTER, AT_MOST = 0.6, 0.5, 0.85


def dense(hidden: int) -> nn.Module:
    """A ReLU network of one hidden layer."""
    return mlp(2 * WIDTH, [hidden], WIDTH, nn.ReLU)


class TaskGated(nn.Module):
    """A mixture whose gate reads the task's embedding alone."""

    def __init__(self) -> None:
        super().__init__()
        gate = nn.Linear(WIDTH, EXPERTS, bias=False)
        self.mixture = Mixture(gate, (dense(ACTIVE) for _ in range(EXPERTS)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., 2 WIDTH] -> [..., WIDTH]."""
        found: torch.Tensor = self.mixture(x, x[..., WIDTH:])
        return found


def input_gated() -> nn.Module:
    """A mixture whose gate reads the whole input."""
    gate = nn.Linear(2 * WIDTH, EXPERTS, bias=False)
    return Mixture(gate, (dense(ACTIVE) for _ in range(EXPERTS)))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "dense": lambda: dense(ACTIVE),
    "input gate": input_gated,
    "task gate": TaskGated,
    "equal total width": lambda: dense(ACTIVE * EXPERTS),
}


def task_gradients(network: nn.Module, losses: torch.Tensor) -> torch.Tensor:
    """The gradient of each task's loss on all parameters, [T, P]; 0 where it does not reach."""
    parameters = list(network.parameters())
    rows = []
    for loss in losses:
        found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        parts = zip(found, parameters, strict=True)
        rows.append(
            torch.cat([(torch.zeros_like(p) if g is None else g).reshape(-1) for g, p in parts])
        )
    return torch.stack(rows)


def regression(kind: str, seed: int, scale: float) -> dict[str, float]:
    """Train a network on all tasks at once: its `conflict`, the mean over the run, and its
    `error`, the mean squared one on new inputs.

    Tasks, inputs and their order are the seed's, the same for every network.
    """
    draw = torch.Generator().manual_seed(seed)
    maps = torch.randn(TASKS, WIDTH, WIDTH, generator=draw) / WIDTH**0.5
    embeddings = EMBEDDED * torch.randn(TASKS, 1, WIDTH, generator=draw)

    def inputs(count: int) -> torch.Tensor:
        x = torch.randn(TASKS, count, WIDTH, generator=draw)
        return torch.cat([x, embeddings.expand(-1, count, -1)], dim=2)

    def losses(x: torch.Tensor) -> torch.Tensor:
        errors: torch.Tensor = network(x) - x[..., :WIDTH] @ maps
        return errors.square().mean(dim=(1, 2))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = NETWORKS[kind]()
    optimizer = torch.optim.SGD(network.parameters(), lr=RATE)
    conflicts = []
    for step in range(max(int(STEPS * scale), 1)):
        found = losses(inputs(BATCH))
        if step % EVERY == 0:
            conflicts.append(gradient_conflict(task_gradients(network, found)))
        gradient_step(optimizer, found.sum())
    with torch.no_grad():
        error = losses(inputs(TEST)).mean()
    return {"conflict": float(torch.stack(conflicts).mean()), "error": float(error)}


def dense_arm(seed: int, scale: float) -> Outcome:
    """The dense network."""
    return Outcome(regression("dense", seed, scale))


def input_gate_arm(seed: int, scale: float) -> Outcome:
    """The mixture whose gate reads the whole input."""
    return Outcome(regression("input gate", seed, scale))


def task_gate_arm(seed: int, scale: float) -> Outcome:
    """The mixture whose gate reads the task."""
    return Outcome(regression("task gate", seed, scale))


def wide_arm(seed: int, scale: float) -> Outcome:
    """A dense network as wide as all experts together."""
    return Outcome(regression("equal total width", seed, scale))


def bounds_arm(seed: int, scale: float) -> Outcome:
    """What must be undercut: shares of the dense network's numbers, and of the interactions."""
    found = regression("dense", seed, scale)
    return Outcome(
        {
            "conflict": LEAST_CALMER * found["conflict"],
            "error": LEAST_BETTER * found["error"],
            "interactions": AT_MOST,
        }
    )


# -- six grids ------------------------------------------------------------------------------------

SEEN: dict[str, Any] = {"observation": "planes", "pad": 9}
GRIDS: dict[str, dict[str, Any]] = {
    "empty 4x4": {"rows": 4, "cols": 4, "max_steps": 20},
    "empty 6x6": {"rows": 6, "cols": 6, "max_steps": 40},
    "empty 6x6, slip 0.2": {"rows": 6, "cols": 6, "slip": 0.2, "max_steps": 40},
    "two rooms 7": {"layout": "two_rooms", "size": 7, "max_steps": 60},
    "key and door 7": {"layout": "key_door", "size": 7, "max_steps": 100},
    "key and door 9, slip 0.1": {"layout": "key_door", "size": 9, "slip": 0.1, "max_steps": 200},
}
COPIES, ROUNDS, SOLVED = 8, 1_000, 0.8
TUNING: dict[str, Any] = {
    "simulations": 8,
    "gamma": 0.9,
    "batch_size": 16,
    "learning_rate": 3e-3,
    "learning_starts": 1_000,
    "train_freq": 1,
    "policy_kwargs": {"support": 1.0, "atoms": 21},
    "device": "cpu",
}


def grids(copies: int) -> TaskVecEnv:
    """All six tasks, with some environments of each."""
    makers = [
        partial(gym.make, "GridWorld-v0", **grid, **SEEN)
        for grid in GRIDS.values()
        for _ in range(copies)
    ]
    return TaskVecEnv(makers, [task for task in range(len(GRIDS)) for _ in range(copies)])


def play_grids(agent: Any, scale: float) -> Outcome:
    """Learn for a number of rounds, in each of which every environment that does not rest takes
    one step; when each task was solved, and how many interactions it took.

    Solved is a task whose evaluation has reached 0.8 once. "held" are those whose last one has.
    """
    rounds, done = max(int(ROUNDS * scale), 10), 0
    reached = np.zeros(len(GRIDS), dtype=np.bool_)
    at, solved = [0.0], [0.0]

    def watch(*_: Any) -> bool:
        nonlocal done
        done += 1
        reached[agent.evaluations >= SOLVED] = True
        if reached.sum() > solved[-1]:
            at.append(float(done * agent.env.num_envs))
            solved.append(float(reached.sum()))
        return done < rounds

    agent.learn(rounds * agent.env.num_envs, callback=watch, log_interval=None)
    last = np.maximum(agent.evaluations, 0.0)
    metrics = {
        "interactions": agent.num_timesteps / (rounds * agent.env.num_envs),
        "solved tasks": float(reached.sum()),
        "held tasks": float((last >= SOLVED).sum()),
        "updates": float(agent.gradient_updates),
    }
    metrics |= {f"success, {name}": float(x) for name, x in zip(GRIDS, last, strict=True)}
    at.append(float(rounds * agent.env.num_envs))
    solved.append(solved[-1])
    return Outcome(metrics, {"solved tasks": (at, solved)})
