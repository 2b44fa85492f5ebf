"""Exact planning with a discount factor: value iteration, policy iteration and what is between.

All functions work on many processes at once; the forms of P, R and `continues` are those of
`tables`. With T V = max_a (R + gamma P V), value 0 where the task has ended,

    value iteration             V <- T V
    modified policy iteration   V <- (T_pi)^m T V for the greedy policy pi
    policy iteration            V <- (I - gamma P_pi)^-1 R_pi for the greedy policy pi

The first two stop by bounds that hold for any V, whatever it came from: with the change
d = T V - V and c = gamma / (1 - gamma),

    T V + c min d  <=  V*  <=  T V + c max d

(0 counts as a change where a task may end). Half the width of these bounds is the error of the
midpoint, which is returned. It is at most c max |d|, the bound of the sup norm, and far less in
processes that mix: there it does not shrink by gamma per sweep, but as fast as the chain forgets.

Sources: M. L. Puterman, Markov Decision Processes (Wiley, 1994), chapter 6; the bounds: J. MacQueen
(Journal of Mathematical Analysis and Applications 14, 1966), E. Porteus (Management Science 18,
1971); modified policy iteration: M. L. Puterman, M. C. Shin (Management Science 24, 1978).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from array_api_compat import array_namespace, device

from ...checks import check_integer
from .chains import before_the_end, discounted_values, discounted_visits, sparse_visits
from .tables import (
    ROUNDING,
    Tables,
    alive_only,
    as_array,
    as_floats,
    as_probabilities,
    by_blocks,
    check_gamma,
    check_start,
    check_tables,
    expected,
    flat,
    greedy,
    is_sparse,
    maximum,
    of_policy,
    under_policy,
    unflat,
)

TOLERANCE = 1e-10  # so fine that actions which are equally good are found to be
SWEEPS = 1_000_000
SOLUTIONS = 1_000  # policies that policy iteration solves for at most; it needs fewer than 20
EVALUATION_SWEEPS = 20
UNCHECKED = 3  # sweeps of value iteration between two looks at the bounds
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


def backup(P: Any, R: Any, values: Any, gamma: float, continues: Any = None) -> Any:
    """Action values R + gamma P V, [..., S, A], of values V [..., S]; 0 where the task has ended.

    Their maximum over the actions is T V.
    """
    check_gamma(gamma, one=True)
    values = as_floats(values)
    tables = check_tables(P, R, continues, tuple(values.shape[:-1]))
    P, R, continues, batch = tables
    values = alive_only(flat(values, batch, 1), continues)
    found = R + expected(P, gamma * values, R.shape)
    return unflat(alive_only(found, None if continues is None else continues[..., None]), batch)


def value_iteration(
    P: Any,
    R: Any,
    gamma: float,
    *,
    continues: Any = None,
    tolerance: float = TOLERANCE,
    max_sweeps: int = SWEEPS,
) -> Solution:
    """Value iteration from V = 0.

    A process stops as soon as the bounds show its values to be within tolerance / 2 of the optimal
    ones in every state, and therefore its greedy policy to lose at most `tolerance`; or when
    changes differ between states by rounding only (1e-14 of the largest value), so that nothing can
    show more. `error` says what was reached.

    Args:
        P, R, continues: tables, dense or sparse.
        gamma: in [0, 1]. With 1 there are no bounds: it stops when the changes are down to
            rounding, which they are at some time if an end is always reached.
        tolerance: above 0, in the unit of the values.
        max_sweeps: after which to give up.

    Raises:
        ValueError: the tables are none, or it has not converged after `max_sweeps`.
    """
    return _iterate(P, R, gamma, continues, tolerance, max_sweeps, 0)


def modified_policy_iteration(
    P: Any,
    R: Any,
    gamma: float,
    *,
    continues: Any = None,
    tolerance: float = TOLERANCE,
    max_sweeps: int = SWEEPS,
    evaluation_sweeps: int = EVALUATION_SWEEPS,
) -> Solution:
    """Value iteration in which sweeps of the greedy policy alone follow every sweep.

    Those cost the A-th part each. Worthwhile where mixing is slow; the choice for large sparse
    processes, whose linear systems cannot be solved.

    Args:
        gamma: in [0, 1).
        evaluation_sweeps: m, at least 1.
        P, R, continues, tolerance, max_sweeps: as in `value_iteration`; sweeps of a policy alone do
            not count.

    Raises:
        ValueError: as `value_iteration`.
    """
    check_integer("evaluation_sweeps", evaluation_sweeps, 1)
    return _iterate(P, R, gamma, continues, tolerance, max_sweeps, evaluation_sweeps)


def policy_iteration(P: Any, R: Any, gamma: float, *, continues: Any = None) -> Solution:
    """Policy iteration with exact linear solutions.

    The step that improves a policy is repeated, V <- T V from the values of the last policy, as
    long as that changes the greedy policy (at most S times). The new policy is worth at least T V,
    so every round improves at least as Howard's does; and a chain along which news travels one
    state per improvement is solved for once, not once per state.

    Args:
        P, R, continues: dense tables.
        gamma: in [0, 1).

    Returns:
        Values exact up to rounding; `error` is max |T V - V| / (1 - gamma).

    Raises:
        ValueError: the tables are none, or sparse.
    """
    check_gamma(gamma)
    tables = check_tables(P, R, continues)
    if is_sparse(tables.P):
        raise ValueError("P is sparse, solve it by modified_policy_iteration")
    return by_blocks(tables, lambda part: _improve(part, gamma))


def evaluate(
    P: Any,
    R: Any,
    policy: Any,
    gamma: float,
    *,
    continues: Any = None,
    tolerance: float = TOLERANCE,
) -> Any:
    """Values of a policy [..., S].

    Args:
        P, R, continues: tables, dense or sparse.
        policy: actions [..., S] or probabilities [..., S, A].
        gamma: in [0, 1]; with 1 the policy must reach an end from everywhere: a state in which the
            task has ended, or one that it never leaves and that pays nothing.
        tolerance: of the error where P is sparse; dense systems are solved exactly.

    Raises:
        ValueError: the tables or the policy are none, or with gamma 1 it may go on for ever.
    """
    check_gamma(gamma, one=True)
    tables, policy = of_policy(P, R, policy, continues)
    if is_sparse(tables.P):
        rows = []
        for i in range(len(tables.R)):
            transitions, rewards = under_policy(tables.P, tables.R[i : i + 1], policy[i : i + 1])
            alive = None if tables.continues is None else tables.continues[i : i + 1]
            alone = Tables(transitions, rewards[..., None], alive, ())
            rows.append(_sweep(alone, gamma, tolerance, SWEEPS, 0).values)
        return unflat(np.concatenate(rows), tables.batch)
    transitions, rewards = under_policy(tables.P, tables.R, policy)
    alive = tables.continues
    if gamma == 1:
        alive = before_the_end(transitions, alive, rewards)
    return unflat(discounted_values(transitions, rewards, gamma, alive), tables.batch)


def occupancy(
    P: Any,
    policy: Any,
    d0: Any,
    gamma: float,
    *,
    continues: Any = None,
    tolerance: float = TOLERANCE,
) -> Any:
    """How often a policy visits states and actions, discounted, [..., S, A].

    The sum over t of gamma^t Pr(s_t = s, a_t = a, the task has not ended). Its inner product with R
    is the value of the policy from `d0`; without an end it sums to 1 / (1 - gamma).

    Args:
        P, continues: tables, dense or sparse.
        policy: actions [..., S] or probabilities [..., S, A].
        d0: probabilities of the first state [..., S].
        gamma: in [0, 1]; with 1 the policy must reach an end from everywhere, a state in which the
            task has ended or one that it never leaves, in which visits do not count.
        tolerance: bound on the error of the sum where P is sparse.

    Raises:
        ValueError: as `evaluate`, or `d0` holds no probabilities.
    """
    check_gamma(gamma, one=True)
    d0 = as_array(d0, P)
    tables, policy = of_policy(P, None, policy, continues, tuple(d0.shape[:-1]))
    start = flat(check_start(d0, tables.P.shape[-1]), tables.batch, 1)
    alive = tables.continues
    if is_sparse(tables.P):
        check_gamma(gamma)
        rows = []
        for i in range(len(start)):
            transitions, _ = under_policy(tables.P, tables.R[i : i + 1], policy[i : i + 1])
            mask = None if alive is None else alive[i]
            rows.append(sparse_visits(transitions, start[i], gamma, mask, tolerance))
        visits = np.stack(rows)
    else:
        transitions, rewards = under_policy(tables.P, tables.R, policy)
        if gamma == 1:
            alive = before_the_end(transitions, alive, rewards)
        visits = discounted_visits(transitions, start, gamma, alive)
    return unflat(visits[..., None] * as_probabilities(policy, tables.R.shape[-1]), tables.batch)


def suboptimality(P: Any, R: Any, policy: Any, gamma: float, *, continues: Any = None) -> Any:
    """What a policy loses against the best one from every state on [..., S], >= 0 but for rounding.

    Args:
        P, R, continues: dense tables.
        policy: actions [..., S] or probabilities [..., S, A].
        gamma: in [0, 1).

    Raises:
        ValueError: the tables or the policy are none.
    """
    best = policy_iteration(P, R, gamma, continues=continues).values
    return best - evaluate(P, R, policy, gamma, continues=continues)


# -- what the planners do to n processes -----------------------------------------------------------


def _iterate(
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
    return by_blocks(
        tables, lambda part: _sweep(part, gamma, tolerance, max_sweeps, evaluation_sweeps)
    )


def _sweep(
    tables: Tables, gamma: float, tolerance: float, max_sweeps: int, evaluation_sweeps: int
) -> Solution:
    """Value iteration, with sweeps of the greedy policy after every one."""
    P, R, continues, _ = tables
    xp = array_namespace(R)
    values = xp.zeros_like(R[..., 0])
    whole = xp.astype(values, xp.int64)
    found = Solution(values + 0, whole, values[:, 0] + np.inf, whole[:, 0] + 0)
    scale = gamma / (1 - gamma) if gamma < 1 else np.inf
    narrow = tolerance / scale if scale else np.inf
    index = xp.arange(len(R), device=device(R))  # of the processes that are still worked on
    waiting = index >= 0  # which of these have not converged
    for sweep in range(1, max_sweeps + 1, 1 if evaluation_sweeps else 1 + UNCHECKED):
        action_values = R + expected(P, gamma * values, R.shape)
        best = alive_only(maximum(action_values), continues)
        change = best - values
        low, high = xp.min(change, axis=-1), xp.max(change, axis=-1)
        if continues is not None or gamma == 1:
            low, high = xp.minimum(low, 0 * low), xp.maximum(high, 0 * high)
        rounding = ROUNDING * xp.max(xp.abs(best), axis=-1)
        width = high - low
        converged = ((width <= narrow) | (width <= rounding)) & waiting
        if bool(xp.any(converged)):
            rows, mask = index[converged], continues
            if continues is not None:
                mask = continues[converged]
            ends, width = best[converged], width[converged]
            found.error[rows] = scale * width / 2 if gamma < 1 else width + np.inf
            if gamma < 1:
                ends = ends + (scale * (low + high)[converged] / 2)[:, None]
            found.values[rows] = alive_only(ends, mask)
            found.policy[rows] = _first(action_values[converged], mask)
            found.iterations[rows] = sweep
            waiting = waiting & ~converged
            left = int(xp.sum(xp.astype(waiting, xp.int64)))
            if not left:
                return found
            if 4 * left <= 3 * len(index):
                index, R, best = index[waiting], R[waiting], best[waiting]
                action_values = action_values[waiting]
                P = P if P.ndim == 2 else P[waiting]
                continues = None if continues is None else continues[waiting]
                waiting = waiting[waiting]
        values = best
        if evaluation_sweeps:
            transitions, rewards = under_policy(P, R, xp.argmax(action_values, axis=-1))
            for _ in range(evaluation_sweeps):
                following = expected(transitions, gamma * values, values.shape)
                values = alive_only(rewards + following, continues)
            continue
        for _ in range(UNCHECKED):
            values = alive_only(maximum(R + expected(P, gamma * values, R.shape)), continues)
    raise ValueError(
        f"value iteration does not converge with gamma={gamma} within {max_sweeps} sweeps: the "
        f"values still change by {float(xp.max(xp.abs(change))):.3g}"
    )


def _improve(tables: Tables, gamma: float) -> Solution:
    """Policy iteration from the actions of largest reward."""
    P, R, continues, _ = tables
    xp = array_namespace(R)
    policy = xp.argmax(R, axis=-1)
    values = xp.zeros_like(R[..., 0])
    solved = xp.zeros_like(policy[:, 0])
    active = xp.arange(len(R), device=device(R))  # the processes whose policy still improves
    for _ in range(SOLUTIONS):
        transitions, rewards = under_policy(P, R, policy)
        alive = None if continues is None else continues[active]
        values[active] = discounted_values(transitions[active], rewards[active], gamma, alive)
        solved[active] += 1
        action_values = R + expected(P, gamma * values, R.shape)
        best = alive_only(maximum(action_values), continues)
        loss = xp.max(xp.abs(best - values), axis=-1)
        active = xp.nonzero(loss > SOLVED * xp.max(xp.abs(best), axis=-1))[0]
        if not len(active):
            break
        better = xp.argmax(action_values, axis=-1)
        for _ in range(R.shape[1]):
            following = R + expected(P, gamma * best, R.shape)
            best = alive_only(maximum(following), continues)
            before, better = better, xp.argmax(following, axis=-1)
            if bool(xp.all(better[active] == before[active])):
                break
        policy[active] = better[active]
    return Solution(values, _first(action_values, continues), loss / (1 - gamma), solved)


def _first(action_values: Any, continues: Any) -> Any:
    """The greedy policy; action 0 where the task has ended."""
    policy = greedy(action_values)
    return policy if continues is None else policy * continues
