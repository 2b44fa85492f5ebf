"""The effective horizon: how far one has to look ahead from the values of the random policy.

Over a horizon of H steps, Q^1 are the action values of the uniformly random policy, and each step
of value iteration on them looks one step further ahead:

    Q^{k+1}_t(s, a) = R(s, a) + E max_b Q^k_{t+1}(s', b),    nothing after the last step

A process is k-QVI-solvable if every action that is greedy for Q^k is optimal, wherever one may
come. Then about A^k / gap_k^2 episodes of random play show it, gap_k being the least lead of a best
action in Q^k over the best of those that are not. As a power of A that is A to the stochastic
effective horizon,

    min over k with which it is solvable of  k + log_A(1 / gap_k^2)

for rewards with which episodes earn between 0 and 1. C. Laidlaw, B. Zhu, S. Russell, A. Dragan: The
Effective Horizon Explains Deep RL Performance in Stochastic Environments (ICLR 2024, arXiv
2312.08369), up to constants and factors polynomial in H.

The forms are those of `finite_horizon`: P [..., T, S, A, S], R [..., T, S, A], where T is 1 or H.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import log
from typing import Any, NamedTuple

from array_api_compat import array_namespace

from ...checks import check_integer, check_number
from .finite_horizon import backward_induction, evaluate, horizon_of
from .tables import (
    TIE,
    Tables,
    alive_only,
    as_array,
    check_start,
    check_tables,
    flat,
    maximum,
    unflat,
)


class EffectiveHorizon(NamedTuple):
    """How far one has to look ahead, by the number of steps k = 1 .. K.

    Attributes:
        solvable: whether being greedy for Q^k is optimal, bool [..., K].
        gaps: in Q^k, after the division by `scale`, [..., K]; infinite where no action ever leads.
        bounds: k + log_A(1 / gap^2), k where the gap is infinite, [..., K]; infinite where the
            process is not solvable.
        k: of the least bound, int64 [...]; 0 where no k up to K solves the process.
        horizon: the least bound, the stochastic effective horizon, [...].
    """

    solvable: Any
    gaps: Any
    bounds: Any
    k: Any
    horizon: Any


def effective_horizon(
    P: Any,
    R: Any,
    d0: Any,
    horizon: int | None = None,
    *,
    depth: int | None = None,
    scale: float | None = None,
    continues: Any = None,
) -> EffectiveHorizon:
    """The stochastic effective horizon.

    Args:
        P, R, continues: tables.
        d0: probabilities of the first state [..., S]; what cannot be reached from it by any policy
            does not count.
        horizon: H; None: the T of the tables.
        depth: K, at least 1; None, or above H: H, from where on nothing changes.
        scale: what gaps are divided by, above 0; None: the range of what policies earn from d0, or
            1 where all earn the same.

    Raises:
        ValueError: the tables or `d0` are none, T is neither 1 nor H, or an argument is out of
            range.
    """
    d0 = as_array(d0, P)
    tables = check_tables(P, R, continues, tuple(d0.shape[:-1]), steps=True)
    steps, actions = horizon_of(tables, horizon), tables.R.shape[-1]
    depth = steps if depth is None else min(check_integer("depth", depth, 1), steps)
    if scale is not None and not check_number("scale", scale) > 0:
        raise ValueError(f"scale={scale} must be above 0")
    xp = array_namespace(tables.R)
    start = flat(check_start(d0, tables.R.shape[-2]), tables.batch, 1)
    where = _reached(tables, start, steps)
    own = _unbatched(tables)
    optimal = backward_induction(*own, steps, continues=tables.continues).values
    best = _backup(tables, optimal)
    if scale is None:
        lowest = -backward_induction(own[0], -own[1], steps, continues=tables.continues).values
        scales = xp.sum(start * (optimal - lowest)[:, 0], axis=-1)
        scales = xp.where(scales > TIE, scales, xp.ones_like(scales))
    else:
        scales = xp.full_like(tables.R[:, 0, 0, 0], scale)
    solvable, gaps = [], []
    for action_values in _looking_ahead(tables, steps, depth):
        solvable.append(is_solved(action_values, best, where))
        gaps.append(gap(action_values, where) / scales)
    solved, found = xp.stack(solvable, axis=-1), xp.stack(gaps, axis=-1)
    k = xp.astype(xp.arange(1, depth + 1, device=found.device), found.dtype)
    tied = xp.isinf(found) | (actions == 1)
    exponents = -2 * xp.log(xp.where(tied, xp.ones_like(found), found)) / log(max(actions, 2))
    bounds = xp.where(solved, k + exponents, xp.full_like(found, float("inf")))
    least = xp.min(bounds, axis=-1)
    chosen = xp.where(xp.any(solved, axis=-1), xp.argmin(bounds, axis=-1) + 1, 0)
    return EffectiveHorizon(
        *(unflat(x, tables.batch) for x in (solved, found, bounds, chosen, least))
    )


def looking_ahead(
    P: Any, R: Any, horizon: int | None = None, *, depth: int | None = None, continues: Any = None
) -> Any:
    """Q^1 .. Q^K, [..., K, H, S, A].

    Args:
        P, R, continues: tables.
        horizon: H; None: the T of the tables.
        depth: K, at least 1; None: H.

    Raises:
        ValueError: the tables are none, T is neither 1 nor H, or `depth` is below 1.
    """
    tables = check_tables(P, R, continues, steps=True)
    steps = horizon_of(tables, horizon)
    depth = steps if depth is None else check_integer("depth", depth, 1)
    found = array_namespace(tables.R).stack(list(_looking_ahead(tables, steps, depth)), axis=1)
    return unflat(found, tables.batch)


def is_solved(action_values: Any, best: Any, where: Any) -> Any:
    """Whether all greedy actions are optimal, bool [...].

    Args:
        action_values: Q^k [..., H, S, A].
        best: optimal action values [..., H, S, A].
        where: steps and states that count, bool [..., H, S].
    """
    xp = array_namespace(action_values)
    wrong = _greedy(action_values) & ~_greedy(best) & where[..., None]
    return ~xp.any(wrong, axis=(-3, -2, -1))


def gap(action_values: Any, where: Any) -> Any:
    """The least lead of the best actions over the best of the others, [...].

    States in which all actions tie are passed over; infinite where that are all.

    Args:
        action_values: Q [..., H, S, A].
        where: steps and states that count, bool [..., H, S].
    """
    xp = array_namespace(action_values)
    infinite = xp.full_like(action_values, float("inf"))
    # An action that ties leads the others by more than any: it is not one of them.
    leads = xp.where(
        ~_greedy(action_values) & where[..., None],
        maximum(action_values)[..., None] - action_values,
        infinite,
    )
    return xp.min(leads, axis=(-3, -2, -1))


def reachable(P: Any, d0: Any, horizon: int | None = None, *, continues: Any = None) -> Any:
    """In which states one may have to act at each step, bool [..., H, S].

    Args:
        P, continues: tables.
        d0: probabilities of the first state [..., S].
        horizon: H; None: the T of the tables.

    Raises:
        ValueError: as `effective_horizon`.
    """
    d0 = as_array(d0, P)
    tables = check_tables(P, None, continues, tuple(d0.shape[:-1]), steps=True)
    start = flat(check_start(d0, tables.R.shape[-2]), tables.batch, 1)
    return unflat(_reached(tables, start, horizon_of(tables, horizon)), tables.batch)


def _reached(tables: Tables, start: Any, steps: int) -> Any:
    """`reachable` of checked tables, [n, H, S]."""
    xp = array_namespace(tables.R)
    states, actions = tables.R.shape[-2:]
    now, found = start > 0, []
    for step in range(steps):
        now = now if tables.continues is None else now & tables.continues
        found.append(now)
        layer = tables.P[..., step if tables.P.shape[-3] > 1 else 0, :, :]
        leads = xp.any(xp.reshape(layer > 0, (*layer.shape[:-2], states, actions, states)), axis=-2)
        now = xp.any(leads & now[..., None], axis=-2)
    return xp.stack(found, axis=1)


def _looking_ahead(tables: Tables, steps: int, depth: int) -> Iterator[Any]:
    """Q^1 .. Q^depth of checked tables, each [n, H, S, A]."""
    xp = array_namespace(tables.R)
    states, actions = tables.R.shape[-2:]
    uniform = xp.full_like(tables.R[:, :1], 1 / actions)
    uniform = xp.broadcast_to(uniform, (len(tables.R), steps, states, actions))
    values = evaluate(*_unbatched(tables), uniform, continues=tables.continues)
    action_values = _backup(tables, values)
    for _ in range(depth - 1):
        yield action_values
        action_values = _backup(tables, maximum(action_values))
    yield action_values


def _unbatched(tables: Tables) -> tuple[Any, Any]:
    """P and R of checked tables in the form that planners take, with one batch axis."""
    shape = (*tables.P.shape[:-2], *tables.R.shape[-2:], tables.P.shape[-1])
    return array_namespace(tables.R).reshape(tables.P, shape), tables.R


def _backup(tables: Tables, values: Any) -> Any:
    """Action values [n, H, S, A] of all steps from the values [n, H, S] of the same steps."""
    xp = array_namespace(values)
    following = xp.concat([values[:, 1:], xp.zeros_like(values[:, :1])], axis=1)
    if tables.P.shape[-3] == 1:
        means = following @ xp.matrix_transpose(tables.P[..., 0, :, :])
    else:
        means = (tables.P @ following[..., None])[..., 0]
    action_values = tables.R + xp.reshape(means, (*values.shape, tables.R.shape[-1]))
    mask = tables.continues
    return alive_only(action_values, None if mask is None else mask[:, None, :, None])


def _greedy(action_values: Any) -> Any:
    """Which actions are as good as the best one up to rounding, bool [..., A]."""
    best = maximum(action_values)
    enough = best - TIE * (1 + array_namespace(best).abs(best))
    return action_values >= enough[..., None]
