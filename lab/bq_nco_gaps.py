"""BQNCO trained on two cores for some minutes: its gaps beside those of the classical rules."""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from ..agents.heuristics.routing.gaps import gaps
from ..envs.routing.files import read_lengths, read_tsplib
from .bench import Benchmark, Result, Say

FILES = "PALAESTRA_TSPLIB"
# A folder: what was solved and who was trained is kept there, and taken from there if it is.
KEEP = "PALAESTRA_KEEP"
LARGEST = 200  # nodes of the TSPLIB files that are solved
NO_FILES = f"No TSPLIB files were solved here: set {FILES} to a folder of .tsp and solutions.txt."
TRAIN, TEST = 4_000_000_000, 5_000_000_000  # seeds of the instances
PERCENT = "{:.2f}%"
Solve = Callable[[Any], Sequence[Any]]


@dataclass(frozen=True)
class Recipe:
    """A problem, how BQNCO learns it, and what it is compared with.

    Attributes:
        environment, size: id, and the name of the argument that says how large it is.
        learned: size of the instances to learn from.
        solved: how many of them a solver solves first.
        steps: of training.
        tests: sizes of the test instances, with the largest mean gap that is wanted, or None.
        instances: to test, of each size.
        rules: names of the agents to compare with.
        policy, network: that learns, and its arguments.
        effort: iterations per node of the solver of what is learned from; None: its usual ones.
        iterations: of the solver of references, per node or item.
    """

    environment: str
    size: str
    learned: int
    solved: int
    steps: int
    tests: Mapping[int, float | None]
    instances: int
    rules: tuple[str, ...]
    policy: str = "AttentionPolicy"
    network: Mapping[str, int] = field(
        default_factory=lambda: {"dim": 64, "layers": 5, "heads": 4, "feedforward": 128}
    )
    effort: int | None = None
    iterations: int = 10

    @property
    def problem(self) -> str:
        """As the demonstrations name it."""
        return self.environment.removesuffix("-v0").lower()


RECIPES = {
    "tsp": Recipe(
        *("TSP-v0", "nodes", 75, 6_000, 42_000, {50: 3.0, 100: 5.0}, 1_000),
        rules=("NearestNeighbour", "TwoOpt"),
        policy="SimilarityPolicy",
        effort=6,
    ),
    "cvrp": Recipe(
        *("CVRP-v0", "nodes", 51, 5_000, 24_000, {51: None, 101: None}, 200),
        rules=("NearestNeighbour", "Savings"),
    ),
    "atsp": Recipe(
        *("ATSP-v0", "nodes", 30, 3_000, 8_000, {30: None, 50: None}, 200),
        rules=("NearestNeighbour", "Insertion"),
        network={"dim": 48, "layers": 4, "heads": 4, "feedforward": 96},
    ),
    "orienteering": Recipe(
        *("Orienteering-v0", "nodes", 51, 2_500, 8_000, {51: None, 101: None}, 200),
        rules=("GreedyPrize",),
    ),
    "knapsack": Recipe(
        *("Knapsack-v0", "items", 100, 3_000, 4_000, {100: None, 200: None}, 200),
        rules=("GreedyValue",),
    ),
}


def make(recipe: Recipe, size: int) -> Any:
    """The environment with instances of a size."""
    arguments: dict[str, Any] = {recipe.size: size}
    return gym.make(recipe.environment, **arguments)


def solved_instances(recipe: Recipe, core: Any, count: int, size: int) -> tuple[Any, float]:
    """Instances to learn from with their solutions, and the seconds of processor time that it took;
    from the folder of `KEEP` where they are there, and else kept in it."""
    from ..agents.heuristics.routing.demonstrations import (
        demonstrations,
        load_demonstrations,
        save_demonstrations,
    )

    folder, effort = os.environ.get(KEEP), recipe.effort
    name = f"{recipe.problem}_{size}_{count}_{effort}.npz"
    if folder and (Path(folder) / name).exists():
        found = load_demonstrations(Path(folder) / name, recipe.problem)
        return found, float(found.pop("seconds"))
    begun = time.process_time()
    iterations = None if effort is None else effort * size
    found = demonstrations(recipe.problem, core.tapes(count, TRAIN), iterations=iterations)
    seconds = time.process_time() - begun
    if folder:
        kept = {**found, "seconds": np.array(seconds)}
        save_demonstrations(Path(folder) / name, recipe.problem, kept)
    return found, seconds


def train(recipe: Recipe, quick: bool, say: Say) -> tuple[Any, dict[str, float]]:
    """The agent, and the seconds of processor time for its demonstrations and its training."""
    from stable_baselines3.common.utils import LinearSchedule

    from ..agents.combinatorial.bq_nco import BQNCO

    solved, steps = (32, 20) if quick else (recipe.solved, recipe.steps)
    size = 8 if quick else recipe.learned
    env: Any = make(recipe, size)
    kept = Path(os.environ.get(KEEP, "")) / f"bq_nco_{recipe.problem}_{steps}.zip"
    if KEEP in os.environ and kept.exists():
        return BQNCO.load(kept, env=env), json.loads(kept.with_suffix(".json").read_text())
    say(f"{solved:,} {recipe.problem} solutions to learn from")
    given, spent = solved_instances(recipe, env.unwrapped.core, solved, size)
    begun = time.process_time()
    say(f"{steps:,} steps of training")
    agent = BQNCO(
        recipe.policy,
        env,
        demonstrations=given,
        batch_size=32,
        learning_rate=LinearSchedule(1e-3, 0.0, 1.0),
        epoch=max(steps // 20, 1),
        validation_instances=8 if quick else 64,
        policy_kwargs=dict(recipe.network),
        seed=0,
        device="cpu",
    ).learn(steps)
    seconds = {"demonstrations": spent, "training": time.process_time() - begun}
    if KEEP in os.environ:
        agent.save(kept)
        kept.with_suffix(".json").write_text(json.dumps(seconds))
    return agent, seconds


def solvers(recipe: Recipe, agent: Any) -> dict[str, Solve]:
    """BQNCO greedily and with a beam, and the rules."""
    from .. import agents

    found: dict[str, Solve] = {"BQNCO": agent.solve}
    if recipe.problem == "tsp":
        found["BQNCO, from both ends"] = functools.partial(agent.solve, both_ends=True)
    found["BQNCO, beam 16"] = functools.partial(agent.solve, beam=16)
    for name in recipe.rules:
        rule = getattr(agents, name)("RulePolicy", agent.get_env())
        found[name] = rule.solve
    return found


def generated(recipe: Recipe, sides: Mapping[str, Solve], quick: bool, say: Say) -> list[Result]:
    """Mean gaps on instances of the environment's own law."""
    from ..agents.heuristics.routing.demonstrations import demonstrations

    maximise = recipe.problem in ("orienteering", "knapsack")
    results = []
    count = 4 if quick else recipe.instances
    for size, target in ({8: None} if quick else recipe.tests).items():
        tests = make(recipe, size).unwrapped.core.tapes(count, TEST)
        say(f"references of {count:,} instances of size {size}")
        effort = None if recipe.problem == "knapsack" else recipe.iterations * size
        references = demonstrations(recipe.problem, tests, iterations=effort)["objective"]
        for name, solve in sides.items():
            # What looks twice or sixteen times as often: fewer instances tell as much of it.
            part = slice(0, count // 5 if name.startswith("BQNCO,") and not quick else count)
            some = {key: array[part] for key, array in tests.items()}
            say(f"{name} on {len(next(iter(some.values()))):,} of size {size}")
            objectives = [abs(solution.objective) for solution in solve(some)]
            value = float(gaps(objectives, references[part], maximise).mean())
            wanted = target if name == "BQNCO" else None
            title = f"{recipe.environment}, {recipe.size} {size}: {name}, mean gap"
            results.append(Result(title, value, PERCENT, wanted, at_most=True))
    return results


def files(sides: Mapping[str, Solve], folder: Path, say: Say) -> list[Result]:
    """Gaps to the optimal lengths of the Euclidean TSPLIB files of up to 200 nodes."""
    optima = read_lengths(folder / "solutions.txt")
    found: dict[str, list[float]] = {name: [] for name in sides}
    results = []
    for path in sorted(folder.glob("*.tsp")):
        instance = read_tsplib(path)
        if instance.nodes > LARGEST or instance.edge_weight_type != "EUC_2D":
            continue
        say(path.name)
        for name, solve in sides.items():
            objective = solve(instance)[0].objective
            found[name].append(float(gaps([objective], [optima[instance.name]])[0]))
        shown = ", ".join(f"{name} {PERCENT.format(found[name][-1])}" for name in list(sides)[1:])
        results.append(Result(f"{instance.name}: BQNCO ({shown})", found["BQNCO"][-1], PERCENT))
    return results + [
        Result(
            f"{len(values)} TSPLIB files: {name}, mean gap",
            float(np.mean(values)),
            PERCENT,
            8.0 if name == "BQNCO" else None,
            at_most=True,
        )
        for name, values in found.items()
    ]


def bq_nco(problem: str, quick: bool, say: Say) -> list[Result]:
    """BQNCO on one problem."""
    recipe = RECIPES[problem]
    agent, seconds = train(recipe, quick, say)
    results = [
        Result(f"processor time of the {part}, minutes", spent / 60, "{:.1f}", target, at_most=True)
        for part, spent, target in (
            ("demonstrations", seconds["demonstrations"], None),
            ("training", seconds["training"], None if quick else 40.0),
        )
    ]
    sides = solvers(recipe, agent)
    results += generated(recipe, sides, quick, say)
    if problem == "tsp" and not quick:
        folder = os.environ.get(FILES)
        if folder:
            results += files(sides, Path(folder), say)
        else:
            results.append(
                Result("TSPLIB files: BQNCO, mean gap", None, PERCENT, 8.0, True, note=NO_FILES)
            )
    return results


def benchmark(problem: str) -> Benchmark:
    """The benchmark of one problem."""
    recipe = RECIPES[problem]
    network = ", ".join(f"{name} {value}" for name, value in recipe.network.items())
    return Benchmark(
        f"bq_nco_{problem}",
        f"`{recipe.environment}`: BQNCO ({recipe.policy}, {network}) after {recipe.steps:,} steps "
        f"of 32 subproblems from {recipe.solved:,} solved instances of {recipe.learned} "
        f"{recipe.size}, one thread (two cores for 20 minutes are 40 minutes of processor time). "
        f"Gaps to "
        f"{_reference(recipe)}; all but the greedy BQNCO and the rules on a fifth of them.",
        functools.partial(bq_nco, problem),
    )


def _reference(recipe: Recipe) -> str:
    if recipe.problem == "knapsack":
        return f"the optimum of {recipe.instances:,} instances of each size"
    return (
        f"PyVRP's solution ({recipe.iterations} iterations per node) of {recipe.instances:,} "
        "instances of each size"
    )
