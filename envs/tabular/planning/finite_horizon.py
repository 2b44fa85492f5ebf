"""Exact planning over a horizon of H steps, with tables that may change with the step.

Backward induction, the values of a policy, what it visits, and what it loses. All functions work on
many processes at once; the forms are those of `tables` with an axis of T steps, where T is 1 (the
same tables at every step) or H:

    P [..., T, S, A, S]    R [..., T, S, A]    policy [..., H, S], or [..., H, S, A] if random

Without batch axes that of the steps may be left out, too. Nothing is paid after the last step.

Source: M. L. Puterman, Markov Decision Processes (Wiley, 1994), chapter 4.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from array_api_compat import array_namespace

from ...checks import check_integer
from .tables import (
    Tables,
    alive_only,
    as_array,
    as_probabilities,
    check_gamma,
    check_start,
    check_tables,
    expected,
    flat,
    greedy,
    maximum,
    of_policy,
    unflat,
)


class Plan(NamedTuple):
    """Optimal values and a policy that attains them.

    Attributes:
        values: optimal values of the steps that are left [..., H, S].
        policy: greedy actions [..., H, S], int64, the lowest of equally good ones
            (`tables.greedy`).
    """

    values: Any
    policy: Any


def backward_induction(
    P: Any, R: Any, horizon: int | None = None, *, gamma: float = 1.0, continues: Any = None
) -> Plan:
    """Optimal values and actions of every step, from the last to the first.

    Args:
        P, R, continues: tables.
        horizon: H; None: the T of the tables.
        gamma: discount factor in [0, 1].

    Raises:
        ValueError: the tables are none, or T is neither 1 nor H.
    """
    check_gamma(gamma, one=True)
    tables = check_tables(P, R, continues, steps=True)
    steps = horizon_of(tables, horizon)
    xp = array_namespace(tables.R)
    values = xp.zeros_like(tables.R[:, 0, :, 0])
    all_action_values = []
    for step in reversed(range(steps)):
        action_values = _backup(tables, step, values, gamma)
        values = maximum(action_values)
        all_action_values.append(action_values)
    action_values = _in_order(all_action_values, tables.batch)
    return Plan(maximum(action_values), greedy(action_values))


def evaluate(
    P: Any,
    R: Any,
    policy: Any,
    *,
    gamma: float = 1.0,
    continues: Any = None,
) -> Any:
    """Values of a policy at every step [..., H, S].

    Args:
        P, R, continues: tables.
        policy: actions [..., H, S] or probabilities [..., H, S, A].
        gamma: discount factor in [0, 1].

    Raises:
        ValueError: the tables or the policy are none, or T is neither 1 nor H.
    """
    check_gamma(gamma, one=True)
    tables, policy = of_policy(P, R, policy, continues, steps=True)
    chances = as_probabilities(policy, tables.R.shape[-1])
    steps = horizon_of(tables, chances.shape[1])
    xp = array_namespace(tables.R)
    values = xp.zeros_like(tables.R[:, 0, :, 0])
    all_values = []
    for step in reversed(range(steps)):
        values = xp.sum(chances[:, step] * _backup(tables, step, values, gamma), axis=-1)
        all_values.append(values)
    return _in_order(all_values, tables.batch)


def occupancy(P: Any, policy: Any, d0: Any, *, continues: Any = None) -> Any:
    """Probabilities of being in s and choosing a at each step [..., H, S, A].

    The inner product with R is the value of the policy from `d0` without discount. A step sums to
    the probability that the task has not ended before it.

    Args:
        P, continues: tables.
        policy: actions [..., H, S] or probabilities [..., H, S, A].
        d0: probabilities of the first state [..., S].

    Raises:
        ValueError: as `evaluate`, or `d0` holds no probabilities.
    """
    d0 = as_array(d0, P)
    tables, policy = of_policy(P, None, policy, continues, tuple(d0.shape[:-1]), steps=True)
    chances = as_probabilities(policy, tables.R.shape[-1])
    steps = horizon_of(tables, chances.shape[1])
    xp = array_namespace(chances)
    present = flat(check_start(d0, tables.R.shape[-2]), tables.batch, 1)
    visits = []
    for step in range(steps):
        present = alive_only(present, tables.continues)
        visits.append(present[..., None] * chances[:, step])
        pairs = xp.reshape(visits[-1], (len(present), 1, -1))
        present = (pairs @ _layer(tables.P, step))[:, 0]
    return unflat(xp.stack(visits, axis=1), tables.batch)


def suboptimality(
    P: Any,
    R: Any,
    policy: Any,
    *,
    gamma: float = 1.0,
    continues: Any = None,
) -> Any:
    """What a policy loses against the best one from every step and state on, [..., H, S], >= 0.

    Arguments and errors are those of `evaluate`.
    """
    values = evaluate(P, R, policy, gamma=gamma, continues=continues)
    steps = values.shape[-2]
    return backward_induction(P, R, steps, gamma=gamma, continues=continues).values - values


def horizon_of(tables: Tables, horizon: int | None) -> int:
    """H; ValueError unless the tables have 1 or H steps."""
    given = {"P": tables.P.shape[-3], "R": tables.R.shape[1]}
    steps = max(given.values()) if horizon is None else check_integer("horizon", horizon, 1)
    for name, count in given.items():
        if count not in (1, steps):
            raise ValueError(
                f"{name} has tables for {count} steps, allowed are 1 and the horizon, {steps}"
            )
    return steps


def _layer(values: Any, step: int) -> Any:
    """The tables of a step, of [..., T, x, y]."""
    return values[..., step if values.shape[-3] > 1 else 0, :, :]


def _backup(tables: Tables, step: int, values: Any, gamma: float) -> Any:
    """Action values [n, S, A] of a step from the values [n, S] of the next one."""
    R = _layer(tables.R, step)
    action_values = R + expected(_layer(tables.P, step), gamma * values, R.shape)
    mask = tables.continues
    return alive_only(action_values, None if mask is None else mask[..., None])


def _in_order(parts: list[Any], batch: tuple[int, ...]) -> Any:
    """Steps that were found last to first, [..., H, S]."""
    return unflat(array_namespace(parts[0]).stack(parts[::-1], axis=1), batch)
