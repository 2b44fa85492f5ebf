"""Solved instances to imitate: near-optimal solutions of thousands of instances in minutes.

How they are found was chosen by measurement, in milliseconds of one core and percent above PyVRP
with 2 s for each (of 20 nodes: above the best that was found), on 64 uniform TSP instances (16 of
100 nodes):

    nodes                                    20              50              100
    2-opt, best from 10 random tours     0.9 ms 0.11 %   25 ms 1.6 %    192 ms 3.6 %
    2-opt, then PyVRP, n iterations      3.1 ms 0.01 %   17 ms 0.24 %    41 ms 1.2 %
    OR-Tools, descent from 2-opt                         15 ms 3.9 %

(OR-Tools on 12 instances; its guided local search, with 0.4 s, came to 1.3 %.) Up to 12 nodes Held
and Karp's algorithm is exact and faster, as dynamic programming is for the knapsack.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...base.routing.solved import NAMES, SolvedInstances
from .construct import Nodes
from .exact import LARGEST as EXACT_NODES
from .heuristic_plans import held_karp_plan, knapsack_plan
from .improve import two_opt_many
from .part import DATA, part_of_arrays
from .solvers import first_plan, pyvrp_plan

# Iterations of PyVRP per node.
EFFORT = {"tsp": 1, "atsp": 2, "cvrp": 2, "orienteering": 4}
STARTS = 10  # random tours from which 2-opt descends where no solver is used
AT_ONCE = 2_000_000  # pairs of edges that 2-opt looks at together

Solved = dict[str, NDArray[Any]]


def demonstrations(
    problem: str,
    instances: Mapping[str, Any],
    *,
    solver: bool = True,
    iterations: int | None = None,
    seed: int = 0,
    processes: int = 1,
) -> Solved:
    """Solve every instance of a data set.

    Args:
        problem: "tsp", "atsp", "cvrp", "orienteering" or "knapsack".
        instances: arrays with a leading axis [m, ...], as the environments' `instances` have them,
            and complete: coordinates [m, n, 2] (ATSP: matrix [m, n, n]); CVRP: demands [m, n] and
            capacity [m]; orienteering: prizes [m, n] and budget [m]; knapsack: values and weights
            [m, n] (whole) and capacity [m]. Capacity and budget may be one number.
        solver: use PyVRP (extra "solvers"). Without it: TSP by 2-opt, the best from 10 random
            tours; ATSP, CVRP and orienteering by the rules of `heuristic_plans`. Knapsacks, and
            tours of at most 12 nodes, are optimal in both cases.
        iterations: of PyVRP; None: as many as nodes (TSP), twice (ATSP, CVRP) or four times
            (orienteering).
        seed: row i is solved with seed + i, in however many processes.
        processes: that solve at the same time.

    Returns:
        The arrays of the instances, and

        - "tour" int64 [m, n]: nodes in the order of visit from node 0, orienteering then -1; CVRP
          [m, n - 1]: customers in the order of visit, routes by ascending capacity left, and "via"
          bool [m, n - 1], whether a customer is reached by way of the depot (the first is not);
        - "taken" bool [m, n] (knapsack);
        - "objective" float64 [m]: length, or what is collected.

    Raises:
        ValueError: the problem is unknown, an array is missing or does not fit, or `iterations` or
            `processes` is below 1.
        ImportError: PyVRP is not installed.
    """
    if min(1 if iterations is None else iterations, processes) < 1:
        raise ValueError(f"iterations={iterations}, processes={processes}: both must be above 0")
    arrays = _complete(problem, instances)
    m, n = next(iter(arrays.values())).shape[:2]
    many = problem == "tsp" and not solver and n > EXACT_NODES
    if many:
        plans = _two_opt_plans(arrays["coordinates"], seed)
    else:
        if iterations is None:
            iterations = EFFORT.get(problem, 0) * n
        solve = partial(_plan_of_row, problem, arrays, solver, iterations, seed)
        plans = _every(solve, m, processes)
    parts = (part_of_arrays(problem, arrays, row) for row in range(m))
    objective = [part.objective(plan) for part, plan in zip(parts, plans, strict=True)]
    return {**arrays, **_solutions(problem, plans, n), "objective": np.array(objective)}


def _complete(problem: str, instances: Mapping[str, Any]) -> Solved:
    if problem not in NAMES:
        raise ValueError(f"problem {problem!r}, allowed are {tuple(NAMES)}")
    first = next(name for name in NAMES[problem] if name not in ("tour", "taken"))
    names = dict.fromkeys([first, *DATA[problem]])
    if missing := sorted(set(names) - set(instances)):
        raise ValueError(f"instances of {problem}: {missing} missing, got {sorted(instances)}")
    arrays = {name: np.asarray(instances[name], dtype=np.float64) for name in names}
    m = len(arrays[first]) if arrays[first].ndim else 0
    if not m:
        raise ValueError(f"there is no instance: {first} has shape {arrays[first].shape}")
    for name in {"capacity", "budget"} & set(arrays):
        arrays[name] = np.array(np.broadcast_to(arrays[name], (m,)))
    return arrays


def _plan_of_row(
    problem: str, arrays: Solved, solver: bool, iterations: int, seed: int, row: int
) -> Nodes:
    part = part_of_arrays(problem, arrays, row)
    if problem == "knapsack":
        return knapsack_plan(part)
    if problem in ("tsp", "atsp") and len(part.remaining) < EXACT_NODES:
        return held_karp_plan(part)
    return pyvrp_plan(part, iterations, seed=seed + row) if solver else first_plan(part)


def _every(solve: Any, rows: int, processes: int) -> list[Nodes]:
    if processes == 1:
        return [solve(row) for row in range(rows)]
    # A fresh interpreter each: a fork of a process that has used torch's threads may hang.
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        return list(pool.map(solve, range(rows), chunksize=max(rows // (8 * processes), 1)))


def _two_opt_plans(coordinates: NDArray[np.float64], seed: int) -> list[Nodes]:
    """2-opt from `STARTS` random tours, the best of each instance."""
    m, n = coordinates.shape[:2]
    plans: list[Nodes] = []
    together = max(AT_ONCE // (STARTS * n * n), 1)
    for begin in range(0, m, together):
        rows = range(begin, min(begin + together, m))
        parts = [part_of_arrays("tsp", {"coordinates": coordinates}, row) for row in rows]
        matrix = np.repeat(np.stack([np.asarray(part.distances) for part in parts]), STARTS, axis=0)
        paths = np.zeros((len(matrix), n + 1), dtype=np.int64)
        for place, row in enumerate(rows):
            generator = np.random.default_rng(seed + row)
            for start in range(STARTS):
                paths[place * STARTS + start, 1:n] = 1 + generator.permutation(n - 1)
        found = two_opt_many(matrix, paths)
        each = np.arange(len(found))[:, None]
        lengths = matrix[each, found[:, :-1], found[:, 1:]].sum(axis=1).reshape(-1, STARTS)
        best = lengths.argmin(axis=1)
        plans += list(found.reshape(len(rows), STARTS, -1)[np.arange(len(rows)), best, 1:-1])
    return plans


def _solutions(problem: str, plans: list[Nodes], n: int) -> Solved:
    if problem == "knapsack":
        taken = np.zeros((len(plans), n), dtype=bool)
        for row, plan in enumerate(plans):
            taken[row, plan] = True
        return {"taken": taken}
    if problem == "cvrp":
        actions = np.array(plans, dtype=np.int64).reshape(len(plans), n - 1)
        return {"tour": actions // 2, "via": actions % 2 == 1}
    tour = np.full((len(plans), n), -1, dtype=np.int64)
    tour[:, 0] = 0
    for row, plan in enumerate(plans):
        tour[row, 1 : len(plan) + 1] = plan
    return {"tour": tour}


def save_demonstrations(path: str | Path, problem: str, solved: Mapping[str, Any]) -> Path:
    """Write demonstrations as an `.npz` file, atomically.

    Args:
        path: of the file; ".npz" is appended where it is missing.
        problem: which one they solve.
        solved: what `demonstrations` returns.

    Returns:
        The path that was written.

    Raises:
        ValueError: an array is missing or of the wrong shape, or a solution is not feasible.
    """
    _check(problem, solved, "demonstrations")
    target = Path(path)
    target = target if target.suffix == ".npz" else target.with_name(target.name + ".npz")
    unfinished = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with unfinished.open("wb") as file:
            arrays: dict[str, Any] = {name: np.asarray(solved[name]) for name in solved}
            np.savez_compressed(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)
    return target


def load_demonstrations(path: str | Path, problem: str) -> Solved:
    """Read what `save_demonstrations` wrote, or a user's own file of the same form.

    Raises:
        ValueError: the file is no `.npz` file, an array is missing or of the wrong shape, or a
            solution is not feasible.
        FileNotFoundError: there is no such file.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            solved = {name: file[name] for name in file.files}
    except (zipfile.BadZipFile, EOFError, AttributeError, ValueError) as error:
        raise ValueError(f"{path}: no .npz file of arrays ({error})") from error
    _check(problem, solved, str(path))
    return solved


def _check(problem: str, solved: Mapping[str, Any], where: str) -> None:
    """Instances and solutions as the agents that imitate them read them."""
    if problem not in NAMES:
        raise ValueError(f"problem {problem!r}, allowed are {tuple(NAMES)}")
    try:
        m = len(SolvedInstances(problem, solved))
    except ValueError as error:
        raise ValueError(f"{where}: {str(error).removeprefix('demonstrations: ')}") from error
    if "objective" in solved and np.shape(solved["objective"]) != (m,):
        shape = np.shape(solved["objective"])
        raise ValueError(f"{where}: objective has shape {shape}, expected ({m},)")
