"""How fast planning is: many small decision processes at once, and a large sparse one.

Beside both runs what one writes down first, and what pymdptoolbox does: one matrix per action and
a loop over sweeps.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..envs.tabular.planning.discounted import (
    modified_policy_iteration,
    policy_iteration,
    value_iteration,
)
from ..envs.tabular.planning.iterations import Solution
from .bench import TIMES, Result, Say, alternate, ratio

Floats = NDArray[np.float64]
PROCESSES, STATES, ACTIONS, SUCCESSORS = 1_000, 20, 4, 4
GAMMA, TOLERANCE = 0.95, 1e-8
SIDE, SLIP = 316, 0.1  # of the grid, which has nearly 100,000 cells
SECONDS = "{:.2f}"


def random_processes(count: int, states: int, generator: np.random.Generator) -> tuple[Any, Any]:
    """P [count, S, A, S] with four successors each and R [count, S, A]."""
    shape = (count, states, ACTIONS)
    order = generator.random((*shape, states)).argsort(axis=-1)[..., :SUCCESSORS]
    P = np.zeros((*shape, states))
    np.put_along_axis(P, order, generator.dirichlet(np.ones(SUCCESSORS), shape), axis=-1)
    return P, generator.random(shape)


def sparse_process(states: int, generator: np.random.Generator) -> tuple[list[Any], Floats]:
    """Like `random_processes`, one with a sparse matrix [S, S] per action."""
    from scipy import sparse

    start = np.arange(0, states * SUCCESSORS + 1, SUCCESSORS)
    parts = []
    for _ in range(ACTIONS):
        chances = generator.dirichlet(np.ones(SUCCESSORS), states).reshape(-1)
        to = generator.integers(states, size=states * SUCCESSORS)
        parts.append(sparse.csr_array((chances, to, start), shape=(states, states)))
    return parts, generator.random((states, ACTIONS))


def sparse_grid(side: int) -> tuple[list[Any], Floats]:
    """The way to a corner: each step costs 1, and one in ten goes in a random direction."""
    from scipy import sparse

    row, column = np.divmod(np.arange(side * side), side)
    moves = [(-1, 0), (1, 0), (0, 1), (0, -1)]
    to = [
        np.clip(row + down, 0, side - 1) * side + np.clip(column + right, 0, side - 1)
        for down, right in moves
    ]
    for neighbours in to:
        neighbours[-1] = side * side - 1  # the corner is never left
    R = np.full((side * side, len(moves)), -1.0)
    R[-1] = 0.0
    straight = [
        sparse.csr_array((np.ones(side * side), neighbours, np.arange(side * side + 1)))
        for neighbours in to
    ]
    anywhere = sum(straight[1:], straight[0]) / len(moves)
    return [(1 - SLIP) * way + SLIP * anywhere for way in straight], R


def plain_value_iteration(
    transitions: Sequence[Any], R: Floats, gamma: float, tolerance: float
) -> tuple[Floats, NDArray[np.int64]]:
    """Value iteration of one process, matrix by matrix, until its policy loses at most `tolerance`.

    Args:
        transitions: a matrix [S, S], dense or sparse, for each action.
        R: [S, A].
    """
    values = np.zeros(len(R))
    action_values = np.empty_like(R)
    while True:
        for action, matrix in enumerate(transitions):
            action_values[:, action] = R[:, action] + gamma * (matrix @ values)
        best = action_values.max(axis=1)
        change = best - values
        values = best
        if change.max() - change.min() <= tolerance * (1 - gamma) / gamma:
            return values, action_values.argmax(axis=1)


PLAIN = functools.partial(plain_value_iteration, gamma=GAMMA, tolerance=TOLERANCE)
OURS: dict[str, Callable[..., Solution]] = {
    "value iteration": functools.partial(value_iteration, gamma=GAMMA, tolerance=TOLERANCE),
    "modified policy iteration": functools.partial(
        modified_policy_iteration, gamma=GAMMA, tolerance=TOLERANCE
    ),
    "policy iteration": functools.partial(policy_iteration, gamma=GAMMA),
}


def one_by_one(solve: Callable[..., Any], tables: Any, R: Any) -> list[Any]:
    """What `solve` finds for each process of a batch."""
    return [solve(matrices, rewards) for matrices, rewards in zip(tables, R, strict=True)]


def seconds_of(solve: Callable[..., Any], *arguments: Any) -> Callable[[], float]:
    """A function: the seconds that `solve(*arguments)` takes."""

    def measure() -> float:
        start = time.perf_counter()
        solve(*arguments)
        return time.perf_counter() - start

    return measure


def many_processes(quick: bool, say: Say) -> list[Result]:
    """Together, one after another by the same function, and one after another plainly."""
    count, rounds = (20, 1) if quick else (PROCESSES, 7)
    P, R = random_processes(count, STATES, np.random.default_rng(0))
    sides = {"plain value iteration": seconds_of(one_by_one, PLAIN, P.swapaxes(1, 2).copy(), R)}
    for name, solve in OURS.items():
        sides[f"{name}, together"] = seconds_of(solve, P, R)
        sides[f"{name}, one by one"] = seconds_of(one_by_one, solve, P, R)
    say(f"{rounds} rounds of {count:,} processes of {STATES} states: {', '.join(sides)}")
    found = alternate(sides, rounds)
    results = [
        Result(f"{name}, processes/s", count / statistics.median(seconds))
        for name, seconds in found.items()
    ]
    for name in OURS:
        together, alone = found[f"{name}, together"], found[f"{name}, one by one"]
        results += [
            Result(f"{name}, together / one by one", ratio(alone, together), TIMES, 20.0),
            Result(
                f"{name}, together / plain", ratio(found["plain value iteration"], together), TIMES
            ),
        ]
    return results


def large_processes(quick: bool, say: Say) -> list[Result]:
    """A random process and a grid, both sparse, and plainly the same."""
    side, rounds = (20, 1) if quick else (SIDE, 3)
    results = []
    for title, (P, R) in {
        "random": sparse_process(side * side, np.random.default_rng(0)),
        "grid": sparse_grid(side),
    }.items():
        what = f"{title}, {len(R):,} sparse states"
        sides = {
            "value iteration": seconds_of(OURS["value iteration"], P, R),
            "modified policy iteration": seconds_of(OURS["modified policy iteration"], P, R),
            "plain value iteration": seconds_of(PLAIN, P, R),
        }
        say(f"{rounds} rounds of {what}: {', '.join(sides)}")
        found = alternate(sides, rounds)
        for name, seconds in found.items():
            target = None if name.startswith("plain") else 10.0
            results.append(
                Result(f"{what}: {name}, s", statistics.median(seconds), SECONDS, target, True)
            )
        value = ratio(found["plain value iteration"], found["modified policy iteration"])
        results.append(Result(f"{what}: modified policy iteration / plain", value, TIMES))
    return results


def planning(quick: bool, say: Say) -> list[Result]:
    """Many small processes, and large ones."""
    return [*many_processes(quick, say), *large_processes(quick, say)]
