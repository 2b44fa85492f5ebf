"""Steps per second of the routing environments, beside those of RL4CO."""

from __future__ import annotations

import functools
import json
import os
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from .bench import TIMES, Result, Say, alternate, ratio
from .peer import Peer

CUSTOMERS, ENVIRONMENTS, THREADS = 50, 1024, 2
RL4CO = "PALAESTRA_RL4CO"
NO_RL4CO = (
    f"RL4CO was not measured here: set {RL4CO} to a Python interpreter that has the package rl4co."
)


def random_actions(masks: NDArray[np.bool_], generator: np.random.Generator) -> NDArray[np.int64]:
    """One uniform action per row of masks [n, A], among those that it allows."""
    counts = masks.sum(axis=1)
    places = np.flatnonzero(masks)
    first = counts.cumsum() - counts
    return places[first + (generator.random(len(masks)) * counts).astype(np.int64)] % masks.shape[1]


def native_steps(
    environment: str, nodes: int, environments: int, drawing: bool
) -> Callable[[int], float]:
    """A function: the seconds that a number of steps of the native vector take.

    As in `rl4co_steps.py`: resets are not counted, and drawing random actions where `drawing`.
    """
    vector = gym.make_vec(
        environment,
        environments,
        vectorization_mode="vector_entry_point",
        autoreset_mode=gym.vector.AutoresetMode.DISABLED,
        nodes=nodes,
    )
    generator = np.random.default_rng(0)
    masks, over = vector.reset(seed=0)[1]["action_mask"], np.zeros(environments, dtype=bool)

    def steps(count: int) -> float:
        nonlocal masks, over
        seconds = 0.0
        for _ in range(count):
            if over.any():  # all at once: every episode has the same number of steps
                masks = vector.reset()[1]["action_mask"]
            begun = time.perf_counter()
            actions = random_actions(masks, generator)
            drawn = time.perf_counter()
            _, _, terminated, truncated, infos = vector.step(actions)
            seconds += time.perf_counter() - (begun if drawing else drawn)
            masks, over = infos["action_mask"], terminated | truncated
        return seconds

    return steps


def compare(
    name: str, problem: str, nodes: int, drawing: bool, quick: bool, say: Say
) -> list[Result]:
    """One problem against RL4CO's, both in turns."""
    environments, rounds, steps = (16, 1, 20) if quick else (ENVIRONMENTS, 7, 98)
    interpreter = os.environ.get(RL4CO)
    sides = {"ours": native_steps(f"{name}-v0", nodes, environments, drawing)}
    what = f"{name}, drawing actions and stepping" if drawing else f"{name}, stepping alone"
    with ExitStack() as stack:
        if interpreter:
            task = {"problem": problem, "nodes": CUSTOMERS, "environments": environments}
            task |= {"threads": THREADS, "drawing": drawing}
            driver = str(Path(__file__).with_name("rl4co_steps.py"))
            command = [interpreter, "-P", driver, json.dumps(task)]
            peer = Peer(command, f"RL4CO in {RL4CO}", THREADS)
            sides["rl4co"] = stack.enter_context(peer).seconds
        say(f"{rounds} rounds of {what}: {', '.join(sides)}")
        seconds = alternate(
            {side: functools.partial(clock, steps) for side, clock in sides.items()}, rounds
        )
    work = steps * environments
    found = {side: [work / taken for taken in values] for side, values in seconds.items()}
    results = [
        Result(f"{what}: {title}, steps/s", statistics.median(found[side]))
        for side, title in (("ours", "ours"), ("rl4co", "RL4CO"))
        if side in found
    ]
    value = ratio(found["ours"], found["rl4co"]) if interpreter else None
    note = "" if interpreter else NO_RL4CO
    return [*results, Result(f"{what}: ours / RL4CO", value, TIMES, 2.0, note=note)]


def routing_steps(quick: bool, say: Say) -> list[Result]:
    """TSP and CVRP against RL4CO's."""
    # A tour of 50 nodes starts at one of them; the depot comes on top of 50 customers.
    return [
        result
        for name, problem, nodes in (("TSP", "tsp", CUSTOMERS), ("CVRP", "cvrp", CUSTOMERS + 1))
        for drawing in (True, False)
        for result in compare(name, problem, nodes, drawing, quick, say)
    ]
