"""How fast recorded steps are loaded from files, and how fast minibatches are drawn from them."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
from gymnasium import spaces

from ..agents.base.minari_files import read_minari, write_minari
from ..agents.base.offline_data import OfflineDataset
from ..agents.base.offline_files import load_dataset, write_d4rl
from ..agents.base.offline_tensors import OfflineTensors
from .bench import TIMES, Result, Say, alternate, ratio

OBSERVATION, ACTION, EPISODE = 11, 6, 1_000  # numbers of each, steps of an episode
STEPS = 1_000_000
NAME = "benchmark/steps-v0"


def recorded(steps: int) -> OfflineDataset:
    """Steps of random numbers, float32, in episodes that are cut."""
    rng = np.random.default_rng(0)
    seen = rng.standard_normal((steps + 1, OBSERVATION), dtype=np.float32)
    following = seen[1:].copy()
    return OfflineDataset(
        observations=seen[:-1],
        actions=rng.uniform(-1, 1, (steps, ACTION)).astype(np.float32),
        rewards=rng.standard_normal(steps, dtype=np.float32),
        next_observations=following,
        terminations=np.zeros(steps, dtype=bool),
        truncations=np.arange(steps) % EPISODE == EPISODE - 1,
        observation_space=spaces.Box(-np.inf, np.inf, (OBSERVATION,)),
        action_space=spaces.Box(-1, 1, (ACTION,)),
    )


@contextmanager
def local_data_sets(folder: Path) -> Iterator[None]:
    """Minari's local data sets are in this folder."""
    before = os.environ.get("MINARI_DATASETS_PATH")
    os.environ["MINARI_DATASETS_PATH"] = str(folder)
    try:
        yield
    finally:
        del os.environ["MINARI_DATASETS_PATH"]
        if before is not None:
            os.environ["MINARI_DATASETS_PATH"] = before


def seconds(load: Callable[[], object]) -> Callable[[], float]:
    """How long it takes."""

    def measure() -> float:
        start = time.perf_counter()
        load()
        return time.perf_counter() - start

    return measure


def gathered(draw: Callable[[], object], batch: int, batches: int) -> Callable[[], float]:
    """Transitions per second of so many minibatches."""

    def measure() -> float:
        start = time.perf_counter()
        for _ in range(batches):
            draw()
        return batch * batches / (time.perf_counter() - start)

    return measure


def separately(tensors: OfflineTensors) -> Callable[[int, np.random.Generator], list[torch.Tensor]]:
    """Minibatches from one tensor per column."""
    columns = [tensors.column(name).contiguous() for name in tensors.columns]

    def draw(batch: int, generator: np.random.Generator) -> list[torch.Tensor]:
        rows = torch.from_numpy(generator.integers(len(tensors), size=batch))
        return [column.index_select(0, rows) for column in columns]

    return draw


def offline_data(quick: bool, say: Say) -> list[Result]:
    """Loading, and drawing minibatches."""
    steps, rounds = (20_000, 1) if quick else (STEPS, 5)
    data = recorded(steps)
    with tempfile.TemporaryDirectory() as folder, local_data_sets(Path(folder)):
        say(f"writing {steps:,} transitions")
        path = write_d4rl(Path(folder) / "steps.hdf5", data)
        write_minari(NAME, data)
        say(f"{rounds} rounds of loading")
        loading = alternate(
            {
                "d4rl": seconds(lambda: OfflineTensors(load_dataset(path))),
                "minari": seconds(lambda: OfflineTensors(read_minari(NAME))),
            },
            rounds,
        )
    tensors, rng = OfflineTensors(data), np.random.default_rng(0)
    apart = separately(tensors)
    results = [
        Result(
            f"{label}, seconds to load, check and pack {steps:,} transitions",
            statistics.median(loading[side]),
            "{:.2f}",
            target=2.0,
            at_most=True,
        )
        for side, label in (("d4rl", "D4RL's layout"), ("minari", "Minari"))
    ]
    for batch in (256, 4096):
        batches = 20 if quick else 400_000 // batch
        say(f"{rounds} rounds of minibatches of {batch}")
        found = alternate(
            {
                "packed": gathered(partial(tensors.sample, batch, rng), batch, batches),
                "apart": gathered(partial(apart, batch, rng), batch, batches),
            },
            rounds,
        )
        speed = statistics.median(found["packed"])
        results += [
            Result(f"minibatches of {batch}, transitions/s", speed),
            Result(
                f"minibatches of {batch}, one gather / one per column",
                ratio(found["packed"], found["apart"]),
                TIMES,
            ),
        ]
    row = tensors.rows.element_size() * tensors.rows.shape[1]
    copied = alternate({"copy": seconds(tensors.rows.clone)}, rounds)["copy"]
    share = speed * row / (tensors.rows.numel() * tensors.rows.element_size()) * min(copied)
    results.append(
        Result("minibatches of 4096, share of the speed of copying the table", share, "{:.2f}")
    )
    return results
