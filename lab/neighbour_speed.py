"""How fast the nearest recorded steps are found, and in how much memory."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Callable
from multiprocessing import get_context
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from ..agents.offline.prdc_neighbours import NearestRows
from .bench import TIMES, Result, Say, alternate, ratio

BATCH = 256
SIZES = ((11, 3), (17, 6))  # numbers of observation and of action, as of Hopper and HalfCheetah
ROWS = 1_000_000
BETA = 2.0


def recorded(rows: int, observation: int, action: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Steps of 100 trajectories of a stable system that a noisy controller drives; float32.

    Observations [rows, observation] have mean 0 and deviation 1, actions [rows, action] lie in
    [-1, 1]. As those of a body, columns of observations depend on each other.
    """
    rng = np.random.default_rng(0)
    inner = rng.standard_normal((observation, observation)) / np.sqrt(observation)
    driven = rng.standard_normal((action, observation)) / np.sqrt(action)
    control = rng.standard_normal((observation, action)) / np.sqrt(observation)
    state = rng.standard_normal((100, observation))
    states, actions = [], []
    for _ in range(-(-rows // 100)):
        noise = 0.3 * rng.standard_normal((100, action))
        played = np.clip(np.tanh(state @ control) + noise, -1, 1)
        states.append(state.astype(np.float32))
        actions.append(played.astype(np.float32))
        state = 0.9 * state + 0.3 * np.tanh(state @ inner + played @ driven)
    seen = np.stack(states, axis=1).reshape(-1, observation)[:rows]
    seen = (seen - seen.mean(axis=0)) / (seen.std(axis=0) + 1e-3)
    return seen, np.stack(actions, axis=1).reshape(-1, action)[:rows]


def keys_of(observations: NDArray[Any], actions: NDArray[Any]) -> NDArray[Any]:
    """[beta s, pi(s)] of 256 steps, where pi(s) is about 0.3 from the recorded action."""
    rng = np.random.default_rng(1)
    drawn = rng.integers(len(actions), size=BATCH)
    noise = 0.3 * rng.standard_normal((BATCH, actions.shape[1]))
    chosen = np.clip(actions[drawn] + noise, -1, 1)
    return np.hstack([BETA * observations[drawn], chosen.astype(np.float32)])


def queries(search: Callable[[], Any], batches: int) -> Callable[[], float]:
    """Queries per second."""

    def measure() -> float:
        start = time.perf_counter()
        for _ in range(batches):
            search()
        return BATCH * batches / (time.perf_counter() - start)

    return measure


def peak_memory(rows: int, observation: int, action: int) -> float:
    """GiB that a new process has held after it built the search, with its libraries and the data;
    to be called in a process of its own."""
    observations, actions = recorded(rows, observation, action)
    index = NearestRows(np.hstack([BETA * observations, actions]))
    index.query(keys_of(observations, actions))
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def in_a_process(function: Callable[..., float], *arguments: Any) -> float:
    """What a function of a module returns in a new process."""
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def offline_neighbours(quick: bool, say: Say) -> list[Result]:
    """Our search against a plain tree, and its memory."""
    rows, rounds, batches = (20_000, 1, 1) if quick else (ROWS, 5, 4)
    results = []
    for size in SIZES:
        label = f"{size[0]} + {size[1]} numbers"
        observations, actions = recorded(rows, *size)
        table = np.hstack([BETA * observations, actions])
        keys = keys_of(observations, actions)
        say(f"building for {rows:,} steps of {label}")
        start = time.perf_counter()
        index = NearestRows(table)
        built = time.perf_counter() - start
        tree = KDTree(table)

        def plain(tree: KDTree = tree, keys: NDArray[Any] = keys) -> NDArray[Any]:
            return np.asarray(tree.query(keys, k=[1])[1])[:, 0]

        def ours(index: NearestRows = index, keys: NDArray[Any] = keys) -> NDArray[Any]:
            return index.query(keys)

        same = float((table[plain()] == table[ours()]).all(axis=1).mean())
        say(f"{rounds} rounds of {batches * BATCH:,} queries")
        found = alternate(
            {"ours": queries(ours, batches), "plain": queries(plain, batches)}, rounds
        )
        results += [
            Result(f"{label}, queries/s", statistics.median(found["ours"])),
            Result(f"{label}, plain KDTree, queries/s", statistics.median(found["plain"])),
            Result(
                f"{label}, ours / plain", ratio(found["ours"], found["plain"]), TIMES, target=1.0
            ),
            Result(f"{label}, share of equal answers", same, "{:.3f}", target=1.0),
            Result(f"{label}, seconds to build", built, "{:.1f}"),
            Result(
                f"{label}, peak memory of a process, GiB",
                in_a_process(peak_memory, rows, *size),
                "{:.2f}",
                target=4.0,
                at_most=True,
            ),
        ]
    return results
