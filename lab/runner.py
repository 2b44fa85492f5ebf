"""Runs claims: all arms x seeds, in parallel processes or on a Ray cluster, with the same numbers.

A run sees only its arm, its seed and its scale, in a process whose numerical libraries use one
thread; where it ran and what ran beside it cannot change its result.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import pickle
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ..agents.base.declare import Arm, Claim
from ..extras import require
from . import catalog
from .catalog import source_hash
from .statistics import judge

__all__ = ["ArmError", "run", "run_arms", "run_claim", "source_hash", "store", "versions"]

_PACKAGES = ("palaestra", "torch", "numpy", "gymnasium", "stable_baselines3")
_ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}

Job = tuple[str, int]  # arm, seed


class ArmError(RuntimeError):
    """A run failed. The message is one line; `traceback` is the worker's."""

    def __init__(self, message: str, traceback: str = "") -> None:
        super().__init__(message)
        self.traceback = traceback


@dataclass(frozen=True)
class _Run:
    """What comes back from a worker: plain values only, so that it always travels."""

    metrics: dict[str, float]
    curves: dict[str, tuple[list[float], list[float]]]
    seconds: float
    error: str = ""
    traceback: str = ""
    samples: dict[str, list[list[Any]]] = field(default_factory=dict)


def run_claim(
    slug: str,
    *,
    seeds: int | None = None,
    scale: float = 1.0,
    workers: int | None = None,
    ray_address: str | None = None,
    progress: bool = True,
    store: bool = True,
) -> dict[str, Any]:
    """Run the claim of the system `slug`, and store its result where the run was a full one.

    Args:
        slug: the system's name in `lab/systems.csv`.
        seeds: number of paired seeds, None for the claim's own number.
        scale: share of the full budget.
        workers: processes at once, None for one per core.
        ray_address: address of a Ray cluster; "local" starts one here; None uses processes.
        progress: draw a progress bar on stderr.
        store: write lab/results/SLUG.json, which happens only at scale 1 with the claim's own
            number of seeds; any other run is a trial.

    Returns:
        the result, as the JSON file has it.

    Raises:
        ValueError: an unknown slug, no claim, a bad argument, or a metric missing or not finite.
        ArmError: an arm failed.
    """
    cls = catalog.find_class(slug)
    claim = getattr(cls, "claim", None)
    if claim is None:
        raise ValueError(f"{slug} ({cls.__name__}) declares no claim")
    fingerprint = source_hash(cls)  # before the run: it is this source that the runs import
    outcome = run(
        claim,
        seeds=seeds,
        scale=scale,
        workers=workers,
        ray_address=ray_address,
        progress=progress,
    )
    result = {"slug": slug, "title": catalog.system(slug).title, **outcome, "hash": fingerprint}
    if store and not result["trial"]:
        _store(result, catalog.RESULTS)
    return result


def run(
    claim: Claim,
    *,
    seeds: int | None = None,
    scale: float = 1.0,
    workers: int | None = None,
    ray_address: str | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Run a claim that need not belong to a system. Arguments and errors as `run_claim`."""
    seeds = claim.seeds if seeds is None else seeds
    found = run_arms(
        claim.arms,
        seeds=seeds,
        scale=scale,
        workers=workers,
        ray_address=ray_address,
        progress=progress,
    )
    values = {arm: runs["metrics"] for arm, runs in found["arms"].items()}
    verdicts = [judge(criterion, values) for criterion in claim.criteria]
    holds = all(verdict.holds for verdict in verdicts)
    trial = scale != 1.0 or seeds != claim.seeds
    return {
        "claim": claim.text,
        "state": "trial" if trial else "reproduced" if holds else "not reproduced",
        "holds": holds,
        "trial": trial,
        "criteria": [
            {"kind": type(criterion).__name__, **asdict(criterion), **asdict(verdict)}
            for criterion, verdict in zip(claim.criteria, verdicts, strict=True)
        ],
        **found,
    }


def run_arms(
    arms: Mapping[str, Arm],
    *,
    seeds: int,
    scale: float = 1.0,
    workers: int | None = None,
    ray_address: str | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Run each of the arms with each of the seeds.

    Returns:
        what came out of each arm, and how, when and where it was run; for JSON. Arguments and
        errors as `run_claim`.
    """
    workers = (os.cpu_count() or 1) if workers is None else workers
    if seeds < 2:
        raise ValueError(f"seeds must be at least 2 for an interval, got {seeds}")
    if not 0 < scale <= 1:
        raise ValueError(f"scale must be above 0 and at most 1, got {scale}")
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    for name, arm in arms.items():
        _check_travels(name, arm)
    jobs = [(name, seed) for seed in range(seeds) for name in arms]
    began = time.perf_counter()
    finished = (
        _on_processes(arms, jobs, scale, workers)
        if ray_address is None
        else _on_ray(arms, jobs, scale, workers, ray_address)
    )
    runs: dict[Job, _Run] = {}
    with contextlib.closing(finished), _progress(len(jobs), shown=progress) as advance:
        for job, outcome in finished:
            if outcome.error:
                raise ArmError(f"arm {job[0]!r}, seed {job[1]}: {outcome.error}", outcome.traceback)
            runs[job] = outcome
            advance(job)
    return {
        "seeds": list(range(seeds)),
        "scale": scale,
        "arms": {arm: _of_arm(arm, [runs[arm, seed] for seed in range(seeds)]) for arm in arms},
        "wall_seconds": round(time.perf_counter() - began, 3),
        "versions": versions(),
        "platform": {
            "system": platform.system(),
            "machine": platform.machine(),
            "cpu_count": os.cpu_count(),
        },
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "engine": "processes" if ray_address is None else "ray",
        "workers": workers,
    }


def store(result: Mapping[str, Any], folder: Path) -> Path:
    """Write a full result to folder/SLUG.json in one atomic step; ValueError for a trial."""
    if result["trial"]:
        raise ValueError(f"{result['slug']}: a trial run is not evidence and is not stored")
    text = json.dumps(result, indent=1, allow_nan=False) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{result['slug']}.json"
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


_store = store  # `run_claim` has an argument of the same name


def _of_arm(arm: str, runs: Sequence[_Run]) -> dict[str, Any]:
    return {
        "metrics": _by_metric(arm, runs),
        "seconds": [round(one.seconds, 3) for one in runs],
        "curves": [_json_curves(one.curves) for one in runs],
        "samples": runs[0].samples,  # of one seed: they are there to be looked at
    }


def _by_metric(arm: str, runs: Sequence[_Run]) -> dict[str, list[float]]:
    names = set(runs[0].metrics)
    for seed, one in enumerate(runs):
        if set(one.metrics) != names:
            raise ValueError(
                f"arm {arm!r} returned metrics {sorted(one.metrics)} for seed {seed} "
                f"and {sorted(names)} for seed 0"
            )
        for name, value in one.metrics.items():
            if not math.isfinite(value):
                raise ValueError(
                    f"arm {arm!r}, seed {seed}: metric {name!r} is {value}, not finite"
                )
    return {name: [one.metrics[name] for one in runs] for name in runs[0].metrics}


def _json_curves(
    curves: Mapping[str, tuple[list[float], list[float]]],
) -> dict[str, list[list[float | None]]]:
    # JSON has no NaN: a point that was not measured becomes null.
    return {
        name: [[v if math.isfinite(v) else None for v in axis] for axis in curve]
        for name, curve in curves.items()
    }


def versions() -> dict[str, str | None]:
    """Versions of Python and of the packages that results depend on; None for a missing one."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def _check_travels(name: str, arm: Arm) -> None:
    try:
        pickle.dumps(arm)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ValueError(
            f"arm {name!r} must be a function at module level, to run in another process: {error}"
        ) from error


def _run_once(arm: Arm, seed: int, scale: float) -> _Run:
    """One run, in the worker. An error comes back as text: an exception might not be picklable."""
    began = time.perf_counter()
    try:
        outcome = arm(seed, scale)
        metrics = {str(name): float(value) for name, value in outcome.metrics.items()}
        curves = {
            str(name): ([float(v) for v in x], [float(v) for v in y])
            for name, (x, y) in outcome.curves.items()
        }
        samples = {
            str(when): [[str(prompt), str(reply), float(reward)] for prompt, reply, reward in rows]
            for when, rows in outcome.samples.items()
        }
    except Exception as error:
        line = " ".join(f"{type(error).__name__}: {error}".split())
        return _Run({}, {}, time.perf_counter() - began, line, traceback.format_exc())
    return _Run(metrics, curves, time.perf_counter() - began, samples=samples)


@contextlib.contextmanager
def _one_thread_per_process() -> Iterator[None]:
    """Children read these variables when they load their libraries, so they must inherit them."""
    before = {name: os.environ.get(name) for name in _ONE_THREAD}
    os.environ.update(_ONE_THREAD)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _on_processes(
    arms: Mapping[str, Arm], jobs: Sequence[Job], scale: float, workers: int
) -> Generator[tuple[Job, _Run], None, None]:
    # spawn: a forked child of a process that has threads (torch, a test runner) can deadlock.
    pool = ProcessPoolExecutor(min(workers, len(jobs)), mp_context=get_context("spawn"))
    with _one_thread_per_process():
        pending: dict[Future[_Run], Job] = {
            pool.submit(_run_once, arms[arm], seed, scale): (arm, seed) for arm, seed in jobs
        }
    try:
        for future in as_completed(pending):
            yield pending[future], future.result()
    except BrokenProcessPool as error:
        waiting = [pending[f] for f in pending if not f.done() or f.exception() is not None]
        raise ArmError(
            f"a worker process died (out of memory, or killed) with {len(waiting)} runs to go, "
            f"among them arm {waiting[0][0]!r}, seed {waiting[0][1]}"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _on_ray(
    arms: Mapping[str, Arm], jobs: Sequence[Job], scale: float, workers: int, address: str
) -> Generator[tuple[Job, _Run], None, None]:
    ray = require("ray", extra="ray")
    mine = not ray.is_initialized()
    if mine:
        options: dict[str, Any] = {}
        variables = dict(_ONE_THREAD)
        if address == "local":
            options = {"num_cpus": workers, "include_dashboard": False}
            # The same machine: what this process can import, its workers can, as spawned ones do.
            variables["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        ray.init(
            address=address,
            runtime_env={"env_vars": variables},
            log_to_driver=False,
            configure_logging=False,
            **options,
        )
    try:
        task = ray.remote(num_cpus=1, max_retries=0)(_run_once)
        pending = {task.remote(arms[arm], seed, scale): (arm, seed) for arm, seed in jobs}
        while pending:
            done, _ = ray.wait(list(pending), num_returns=1)
            job = pending.pop(done[0])
            try:
                yield job, ray.get(done[0])
            except ray.exceptions.RayError as error:
                line = " ".join(str(error).split())
                raise ArmError(f"arm {job[0]!r}, seed {job[1]}: {line}") from error
    finally:
        if mine:
            ray.shutdown()


@contextlib.contextmanager
def _progress(total: int, *, shown: bool) -> Iterator[Any]:
    # On stderr: stdout belongs to the result.
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        disable=not shown,
    )
    with bar:
        task = bar.add_task("running", total=total)
        yield lambda job: bar.update(task, advance=1, description=f"{job[0]}, seed {job[1]}")
