"""Sweeps and solutions until the best policy is known: what `discounted.py` is made of.

Its docstring has the equations. Here tables have one batch axis, and processes leave the batch when
they are done.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from array_api_compat import array_namespace, device

from .chains import discounted_values
from .tables import (
    ROUNDING,
    TIE,
    Tables,
    alive_only,
    argmax,
    by_blocks,
    check_gamma,
    check_tables,
    expected,
    greedy,
    maximum,
    namespace,
    under_policy,
)

TOLERANCE = 1e-10  # so fine that actions which are equally good are found to be
SWEEPS = 1_000_000
SOLUTIONS = 1_000  # policies that policy iteration solves for at most; it needs fewer than 20
EVALUATION_SWEEPS = 20
IMPROVEMENTS = 2  # sweeps of policy iteration between two looks at the greedy policy
WAITING = 4  # of so many processes one may wait for the others to be solved, to improve further
UNCHECKED = 3  # sweeps of value iteration between two looks at the bounds
SMALL = 256  # states up to which solving a linear system costs less than many sweeps
SOLVED = 1e-13  # of the largest value: loss down to which policies are improved


class Solution(NamedTuple):
    """Optimal values and a policy that attains them.

    Attributes:
        values: [..., S], within `error` of the optimal ones.
        policy: greedy actions [..., S], int64, the lowest of equally good ones (`tables.greedy`).
        error: bound on the error of the values in any state [...]; infinite where gamma is 1. The
            policy loses at most twice as much (and what `greedy` takes for equal).
        iterations: sweeps over all actions, or policies solved for, int64 [...].
    """

    values: Any
    policy: Any
    error: Any
    iterations: Any


def iterate(
    P: Any,
    R: Any,
    gamma: float,
    continues: Any,
    tolerance: float,
    max_sweeps: int,
    evaluation_sweeps: int,
) -> Solution:
    """Check, and iterate block by block."""
    check_gamma(gamma, one=not evaluation_sweeps)
    if not tolerance > 0:
        raise ValueError(f"tolerance={tolerance} must be above 0")
    tables = check_tables(P, R, continues)
    own = tables.P.ndim == 3 and tables.P.shape[-1] <= SMALL
    limits = (gamma, tolerance, max_sweeps, evaluation_sweeps)
    if not own or gamma == 1 or evaluation_sweeps:
        return by_blocks(tables, lambda part: converge(part, *limits))
    return by_blocks(tables, lambda part: _decide(part, converge(part, *limits, True), gamma))


def converge(
    tables: Tables,
    gamma: float,
    tolerance: float,
    max_sweeps: int,
    evaluation_sweeps: int,
    decide: bool = False,
) -> Solution:
    """Value iteration, with sweeps of the greedy policy after every one but the first.

    With `decide` it also stops, with an infinite error, where every other policy is known to be
    worse: with V* an action comes nearer to the best one by no more than the width of the bounds.
    """
    P, R, continues, _ = tables
    xp = array_namespace(R)
    values, found = xp.zeros_like(R[..., 0]), _nothing_found(R)
    scale = gamma / (1 - gamma) if gamma < 1 else np.inf
    narrow = tolerance / scale if scale else np.inf
    index = xp.arange(len(R), device=device(R))  # of the processes that are still worked on
    waiting = index >= 0  # which of these are not done
    sweep = 1
    while sweep <= max_sweeps:
        action_values = R + expected(P, gamma * values, R.shape)
        best = alive_only(maximum(action_values), continues)
        change = best - values
        low, high = xp.min(change, axis=-1), xp.max(change, axis=-1)
        if continues is not None or gamma == 1:
            low, high = xp.minimum(low, 0 * low), xp.maximum(high, 0 * high)
        size = xp.max(xp.abs(best), axis=-1)
        width = high - low
        converged = (width <= narrow) | (width <= ROUNDING * size)
        done = converged
        if decide:
            largest = size + scale * xp.maximum(xp.abs(low), xp.abs(high))  # that V* can be
            margin = scale * width + TIE * (1 + largest)
            done = done | _alone(action_values, best - margin[:, None], continues)
        done = done & waiting
        place = xp.nonzero(done)[0]
        if len(place):
            rows, mask = index[place], continues
            if continues is not None:
                mask = continues[place]
            ends, width = best[place], width[place]
            found.error[rows] = scale * width / 2 if gamma < 1 else width + np.inf
            if decide:
                found.error[index[done & ~converged]] = np.inf
            if gamma < 1:
                ends = ends + (scale * (low + high)[place] / 2)[:, None]
            found.values[rows] = alive_only(ends, mask)
            found.policy[rows] = _first(action_values[place], mask)
            found.iterations[rows] = sweep
            waiting = waiting & ~done
            left = len(xp.nonzero(waiting)[0])
            if not left:
                return found
            if 4 * left <= 3 * len(index):
                index, R, best = index[waiting], R[waiting], best[waiting]
                action_values = action_values[waiting]
                P = P if P.ndim == 2 else P[waiting]
                continues = None if continues is None else continues[waiting]
                waiting = waiting[waiting]
        values = best
        if evaluation_sweeps and sweep > UNCHECKED:
            transitions, rewards = under_policy(P, R, argmax(action_values, best))
            for _ in range(evaluation_sweeps):
                following = expected(transitions, gamma * values, values.shape)
                values = alive_only(rewards + following, continues)
            sweep += 1
            continue
        for _ in range(UNCHECKED):
            values = alive_only(maximum(R + expected(P, gamma * values, R.shape)), continues)
        sweep += 1 + UNCHECKED
    raise ValueError(
        f"value iteration does not converge with gamma={gamma} within {max_sweeps} sweeps: the "
        f"values still change by {float(xp.max(xp.abs(change))):.3g}"
    )


def _alone(action_values: Any, enough: Any, continues: Any) -> Any:
    """Whether only one action is worth `enough` [n, S] in each state of a process, bool [n]."""
    xp = namespace(enough)
    near = action_values >= enough[..., None]
    states = enough.shape[-1]
    if continues is not None:
        near = near & continues[..., None]
        states = xp.sum(xp.astype(continues, xp.int64), axis=-1)
    count = xp.sum(xp.astype(xp.reshape(near, (len(near), -1)), xp.int64), axis=-1)
    return count == states


def _decide(tables: Tables, found: Solution, gamma: float) -> Solution:
    """Solve for the values where the policy alone is found, which infinite errors say."""
    P, R, continues, _ = tables
    xp = array_namespace(R)
    rows = xp.nonzero(found.error == np.inf)[0]
    if len(rows):
        transitions, rewards = (part[rows] for part in under_policy(P, R, found.policy))
        mask = None if continues is None else continues[rows]
        values = discounted_values(transitions, rewards, gamma, mask)
        again = alive_only(rewards + expected(transitions, gamma * values, values.shape), mask)
        found.values[rows] = values
        found.error[rows] = xp.max(xp.abs(again - values), axis=-1) / (1 - gamma)
    return found


def improve(tables: Tables, gamma: float) -> Solution:
    """Policy iteration, which improves before it solves."""
    P, R, continues, _ = tables
    xp = array_namespace(R)
    found = _nothing_found(R)
    index = xp.arange(len(R), device=device(R))  # of the processes whose policy still improves
    best = alive_only(maximum(R), continues)
    policy = argmax(R, best)
    for solved in range(1, SOLUTIONS + 1):
        for _ in range(0, R.shape[1], IMPROVEMENTS):
            for _ in range(IMPROVEMENTS):
                following = R + expected(P, gamma * best, R.shape)
                best = alive_only(maximum(following), continues)
            before, policy = policy, argmax(following, best)
            changed = xp.nonzero(xp.any(policy != before, axis=-1))[0]
            if WAITING * len(changed) < len(R):
                break
        values = discounted_values(*under_policy(P, R, policy), gamma, continues)
        action_values = R + expected(P, gamma * values, R.shape)
        best = alive_only(maximum(action_values), continues)
        loss = xp.max(xp.abs(best - values), axis=-1)
        found.values[index] = values
        found.policy[index] = _first(action_values, continues)
        found.error[index] = loss / (1 - gamma)
        found.iterations[index] = solved
        improves = loss > SOLVED * xp.max(xp.abs(best), axis=-1)
        if not bool(xp.any(improves)):
            break
        index, R, best = index[improves], R[improves], best[improves]
        P = P if P.ndim == 2 else P[improves]
        continues = None if continues is None else continues[improves]
        policy = argmax(action_values[improves], best)
    return found


def _nothing_found(R: Any) -> Solution:
    """A solution to be filled in."""
    xp = array_namespace(R)
    values = xp.zeros_like(R[..., 0])
    whole = xp.astype(values, xp.int64)
    return Solution(values, whole, values[:, 0] + np.inf, whole[:, 0] + 0)


def _first(action_values: Any, continues: Any) -> Any:
    """The greedy policy; action 0 where the task has ended."""
    policy = greedy(action_values)
    return policy if continues is None else policy * continues
