"""Exact planning with a discount factor: value iteration, policy iteration and what is between.

All functions work on many processes at once; the forms of P, R and `continues` are those of
`tables`. With T V = max_a (R + gamma P V), value 0 where the task has ended,

    value iteration             V <- T V
    modified policy iteration   V <- (T_pi)^m T V for the greedy policy pi, from T^4 0
    policy iteration            V <- (I - gamma P_pi)^-1 R_pi for the greedy policy pi

The first two stop by bounds that hold for any V, whatever it came from: with the change
d = T V - V and c = gamma / (1 - gamma),

    T V + c min d  <=  V*  <=  T V + c max d

(0 counts as a change where a task may end). Half the width of these bounds is the error of the
midpoint, which is returned. It is at most c max |d|, the bound of the sup norm, and far less in
processes that mix: there it does not shrink by gamma per sweep, but as fast as the chain forgets.

Sources: M. L. Puterman, Markov Decision Processes (Wiley, 1994), chapter 6; the bounds: J. MacQueen
(Journal of Mathematical Analysis and Applications 14, 1966), E. Porteus (Management Science 18,
1971), for actions: J. MacQueen (Operations Research 15, 1967); modified policy iteration: M. L.
Puterman, M. C. Shin (Management Science 24, 1978).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...checks import check_integer
from .chains import before_the_end, discounted_values, discounted_visits, sparse_visits
from .iterations import (
    EVALUATION_SWEEPS,
    SWEEPS,
    TOLERANCE,
    Solution,
    converge,
    improve,
    iterate,
)
from .tables import (
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
    is_sparse,
    of_policy,
    under_policy,
    unflat,
)


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

    Many small processes with dense tables of their own (at most 256 states) stop earlier: as soon
    as the same bounds prove one action to be the best in every state (MacQueen's test), the values
    of this policy are solved for.

    Args:
        P, R, continues: tables, dense or sparse.
        gamma: in [0, 1]. With 1 there are no bounds: it stops when the changes are down to
            rounding, which they are at some time if an end is always reached.
        tolerance: above 0, in the unit of the values.
        max_sweeps: after which to give up.

    Raises:
        ValueError: the tables are none, or it has not converged after `max_sweeps`.
    """
    return iterate(P, R, gamma, continues, tolerance, max_sweeps, 0)


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
    """Value iteration in which, from the fifth on, sweeps of the greedy policy follow every sweep.

    Those cost the A-th part each; the first greedy policies are not worth it. Worthwhile where
    mixing is slow; the choice for large sparse processes, whose linear systems cannot be solved.

    Args:
        gamma: in [0, 1).
        evaluation_sweeps: m, at least 1.
        P, R, continues, tolerance, max_sweeps: as in `value_iteration`; sweeps of a policy alone do
            not count.

    Raises:
        ValueError: as `value_iteration`.
    """
    check_integer("evaluation_sweeps", evaluation_sweeps, 1)
    return iterate(P, R, gamma, continues, tolerance, max_sweeps, evaluation_sweeps)


def policy_iteration(P: Any, R: Any, gamma: float, *, continues: Any = None) -> Solution:
    """Policy iteration with exact linear solutions.

    The step that improves a policy is repeated, V <- T V from the values of the last policy (at
    first from V = 0), as long as that changes the greedy policy (about S times at most), or where
    there are many processes that of a quarter of them. The new policy is worth at least T V, so
    every round improves at least as Howard's does; and a chain along which news travels one state
    per improvement is solved for once, not once per state.

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
    return by_blocks(tables, lambda part: improve(part, gamma))


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
            rows.append(converge(alone, gamma, tolerance, SWEEPS, 0).values)
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
