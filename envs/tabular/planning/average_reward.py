"""Exact planning for the average reward per step of tasks that never end.

All functions work on many processes at once; P [..., S, A, S] and R [..., S, A] are those of
`tables`, dense. The optimal gain J* and a bias h solve

    J* + h(s) = max_a ( R(s, a) + sum_s' P(s' | s, a) h(s') )

in every state, if the gain is the same from everywhere; h is fixed up to a constant. Its span,
max h - min h, is what one more visit to the best state instead of the worst is worth.

    relative value iteration    h <- (1 - tau) h + tau T h, less its value in state 0
    Howard's policy iteration   gain and bias of a policy, then its improvement by T

The damping tau < 1 makes every chain aperiodic and changes neither gain nor bias. For any h,
min (T h - h) <= J* <= max (T h - h) where the gain is the same from everywhere.

Sources: M. L. Puterman, Markov Decision Processes (Wiley, 1994), chapters 8 and 9; R. Howard,
Dynamic Programming and Markov Processes (MIT Press, 1960); P. Schweitzer (Journal of Mathematical
Analysis and Applications 34, 1971) on the damping.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from array_api_compat import array_namespace, device

from .chains import check_one_closed_class, stationary_solution
from .tables import (
    ROUNDING,
    Tables,
    by_blocks,
    check_tables,
    expected,
    greedy,
    is_sparse,
    maximum,
    of_policy,
    under_policy,
    unflat,
)

TOLERANCE = 1e-10
SWEEPS = 200_000
UNCHECKED = 3  # sweeps between two looks at the bounds
SOLUTIONS = 1_000  # policies that policy iteration solves for at most; it needs fewer than 20
SOLVED = 1e-12  # of the largest bias: gain below which a policy is not improved


class Solution(NamedTuple):
    """The optimal gain, and a bias and a policy that attain it.

    Attributes:
        gain: J*, reward per step [...], within `error`.
        bias: h [..., S], 0 in state 0.
        policy: greedy actions [..., S], int64, the lowest of equally good ones (`tables.greedy`).
        error: half the width of the bounds on J* [...].
        iterations: sweeps, or policies solved for, int64 [...].
    """

    gain: Any
    bias: Any
    policy: Any
    error: Any
    iterations: Any


class Evaluation(NamedTuple):
    """What a policy earns in the long run.

    Attributes:
        gain: reward per step [...].
        bias: what a start earns more than the gain, in sum over all time [..., S]; its mean under
            `stationary` is 0.
        stationary: shares of time spent in the states [..., S].
    """

    gain: Any
    bias: Any
    stationary: Any


def relative_value_iteration(
    P: Any,
    R: Any,
    *,
    damping: float = 0.5,
    tolerance: float = TOLERANCE,
    max_sweeps: int = SWEEPS,
) -> Solution:
    """Relative value iteration from h = 0.

    A process stops when the bounds on its gain are at most `tolerance` apart, so that the greedy
    policy loses at most that per step, or when they are down to rounding (1e-14 of the largest
    bias).

    Args:
        P, R: dense tables.
        damping: tau, above 0 and below 1.
        tolerance: above 0, in the unit of the rewards.
        max_sweeps: after which to give up.

    Raises:
        ValueError: the tables are none; the gain depends on where one starts, because several sets
            of states cannot be left (found before the first sweep); or the bounds have not met
            after `max_sweeps`, for which that may be the reason, too: it can happen where staying
            in states that can be left earns more than leaving them.
    """
    if not 0 < damping < 1:
        raise ValueError(f"damping={damping} must be above 0 and below 1")
    if not tolerance > 0:
        raise ValueError(f"tolerance={tolerance} must be above 0")
    tables = _dense(check_tables(P, R))
    _, states, actions = tables.R.shape
    ways = array_namespace(tables.P).reshape(tables.P, (-1, states, actions, states))
    check_one_closed_class(array_namespace(ways).max(ways, axis=-2), "whatever is done")
    return by_blocks(tables, lambda part: _sweep(part, damping, tolerance, max_sweeps))


def policy_iteration(P: Any, R: Any) -> Solution:
    """Howard's policy iteration, from the actions of largest reward.

    An action is changed only if that improves it. Exact up to rounding.

    Args:
        P, R: dense tables in which every policy has one closed class of states (unichain).

    Raises:
        ValueError: the tables are none, or a policy on the way has several closed classes.
    """
    return by_blocks(_dense(check_tables(P, R)), _improve)


def evaluate(P: Any, R: Any, policy: Any) -> Evaluation:
    """Gain, bias and stationary law of a policy.

    The law, spread over the actions of the policy, is its occupancy: its inner product with R is
    the gain.

    Args:
        P, R: dense tables.
        policy: actions [..., S] or probabilities [..., S, A].

    Raises:
        ValueError: the tables or the policy are none, or it has several closed classes of states,
            so that the gain depends on the start.
    """
    tables, policy = of_policy(P, R, policy, None)
    transitions, rewards = under_policy(_dense(tables).P, tables.R, policy)
    check_one_closed_class(transitions, "under the policy")
    gain, bias, law = stationary_solution(transitions, rewards)
    xp = array_namespace(bias)
    bias = bias - xp.sum(law * bias, axis=-1, keepdims=True)
    return Evaluation(*(unflat(part, tables.batch) for part in (gain, bias, law)))


def span(values: Any) -> Any:
    """max - min over the states [...] of values [..., S]."""
    xp = array_namespace(values)
    return xp.max(values, axis=-1) - xp.min(values, axis=-1)


def _dense(tables: Tables) -> Tables:
    if is_sparse(tables.P):
        raise ValueError("P is sparse, planning for the average reward needs dense tables")
    return tables


def _sweep(tables: Tables, damping: float, tolerance: float, max_sweeps: int) -> Solution:
    """Relative value iteration."""
    P, R, _, _ = tables
    xp = array_namespace(R)
    bias = xp.zeros_like(R[..., 0])
    whole = xp.astype(bias, xp.int64)
    found = Solution(bias[:, 0] + 0, bias + 0, whole, bias[:, 0] + 0, whole[:, 0] + 0)
    waiting = whole[:, 0] == 0
    for sweep in range(1, max_sweeps + 1, 1 + UNCHECKED):
        action_values = R + expected(P, bias, R.shape)
        best = maximum(action_values)
        low, high = xp.min(best - bias, axis=-1), xp.max(best - bias, axis=-1)
        rounding = ROUNDING * xp.max(xp.abs(best), axis=-1)
        converged = waiting & ((high - low <= tolerance) | (high - low <= rounding))
        if bool(xp.any(converged)):
            found.gain[converged] = ((low + high) / 2)[converged]
            found.bias[converged] = (bias - bias[:, :1])[converged]
            found.policy[converged] = greedy(action_values[converged])
            found.error[converged] = ((high - low) / 2)[converged]
            found.iterations[converged] = sweep
            waiting = waiting & ~converged
            if not bool(xp.any(waiting)):
                return found
        for _ in range(UNCHECKED):
            bias = (1 - damping) * bias + damping * best
            best = maximum(R + expected(P, bias, R.shape))
        bias = (1 - damping) * bias + damping * best
        bias = bias - bias[:, :1]
    raise ValueError(
        f"after {max_sweeps} sweeps of relative value iteration the bounds on the gain are still "
        f"{float(xp.max((high - low)[waiting])):.3g} apart: the gain depends on the start, or "
        f"max_sweeps is too small"
    )


def _improve(tables: Tables) -> Solution:
    """Howard's policy iteration."""
    P, R, _, _ = tables
    xp = array_namespace(R)
    policy = xp.argmax(R, axis=-1)
    gain, bias = xp.zeros_like(R[:, 0, 0]), xp.zeros_like(R[..., 0])
    solved = xp.zeros_like(policy[:, 0])
    active = xp.arange(len(R), device=device(R))  # the processes whose policy still improves
    for _ in range(SOLUTIONS):
        transitions, rewards = under_policy(P, R, policy)
        check_one_closed_class(transitions[active], "under a policy on the way")
        gain[active], bias[active], _ = stationary_solution(transitions[active], rewards[active])
        solved[active] += 1
        action_values = R + expected(P, bias, R.shape)
        loss = maximum(action_values) - bias - gain[:, None]
        better = loss > SOLVED * (1 + xp.max(xp.abs(bias), axis=-1))[:, None]
        policy = xp.where(better, xp.argmax(action_values, axis=-1), policy)
        active = xp.nonzero(xp.any(better, axis=-1))[0]
        if not len(active):
            break
    error = xp.max(xp.abs(loss), axis=-1)
    return Solution(gain, bias - bias[:, :1], greedy(action_values), error, solved)
