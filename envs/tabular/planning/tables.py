"""The tables that planners read: their forms, their checks, and the operations planners consist of.

S states, A actions, and any number of leading batch axes, written `...` and broadcast against each
other, so that one dynamics may serve many rewards or many policies:

    P            transition probabilities [..., S, A, S]
    R            mean rewards [..., S, A]
    continues    bool [..., S], False in the states in which the task has ended: nothing is paid
                 from there on, whatever the tables say; None: it goes on in all of them

Without `continues` a task ends by absorbing states that pay nothing. Where tables may change with
the step (`finite_horizon`) they have one more axis, P [..., T, S, A, S] and R [..., T, S, A].

The arrays are NumPy's or torch tensors (in double precision, on any device). P may also be sparse,
one for the whole batch: a matrix of scipy [S * A, S], row s * A + a, or a list over the actions of
matrices [S, S].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod
from typing import Any, NamedTuple, TypeVar

import numpy as np
from array_api_compat import array_namespace, device, is_numpy_array, is_torch_array
from array_api_compat import numpy as numpy_namespace

from ..probabilities import TOLERANCE, check_probabilities, check_sums

TIE = 1e-9  # relative difference below which two actions count as equally good
ROUNDING = 1e-14  # relative difference that may be due to rounding alone
CACHED = 2**19  # entries of P that are worked on at once: 4 MiB, near a processor's second cache
FEW = 16  # actions up to which a maximum over them is taken action by action
MANY = 256  # states from which on so is the search for it


Found = TypeVar("Found", bound=tuple[Any, ...])


class Tables(NamedTuple):
    """Checked tables of n processes, n the product of the batch axes.

    Attributes:
        P: [n, S * A, S]; [S * A, S] where all share it, dense or sparse. With steps
            [n, T, S * A, S] or [T, S * A, S].
        R: [n, S, A]; with steps [n, T, S, A].
        continues: bool [n, S], or None.
        batch: the batch axes.
    """

    P: Any
    R: Any
    continues: Any
    batch: tuple[int, ...]


# -- checks ----------------------------------------------------------------------------------------


def check_tables(
    P: Any, R: Any, continues: Any = None, batch: tuple[int, ...] = (), steps: bool = False
) -> Tables:
    """Bring tables into the form that planners work on.

    Args:
        P, R, continues: as above.
        batch: batch axes of what else is given (policies, starts), broadcast against the others.
        steps: whether P and R have an axis of steps, which may be missing without batch axes.

    Raises:
        ValueError: shapes do not fit, P holds no probabilities, or R is not finite.
    """
    sparse = is_sparse(P) or (isinstance(P, list | tuple) and any(map(is_sparse, P)))
    if sparse and steps:
        raise ValueError("sparse tables cannot change with the step, give P dense")
    P = one_matrix(P) if sparse else as_floats(P)
    if steps and P.ndim == 3:
        P = P[None]
    R = nothing(P) if R is None else as_floats(R)
    if steps and R.ndim == 2:
        R = R[None]
    axes, layer = (3, "T, ") if steps else (2, "")
    if not sparse and (P.ndim <= axes or P.shape[-3] != P.shape[-1] or 0 in P.shape):
        raise ValueError(f"P has shape {tuple(P.shape)}, allowed is [..., {layer}S, A, S]")
    states = P.shape[-1]
    actions = P.shape[0] // states if sparse else P.shape[-2]
    if R.ndim < axes or tuple(R.shape[-2:]) != (states, actions) or 0 in R.shape:
        raise ValueError(
            f"R has shape {tuple(R.shape)}, with this P it must be [..., {layer}{states}, "
            f"{actions}]"
        )
    xp = array_namespace(R) if sparse else array_namespace(P, R)
    check_rows(P)
    if not bool(xp.all(xp.isfinite(R))):
        raise ValueError("R holds values that are not finite")
    own = () if sparse else tuple(P.shape[: -axes - 1])
    shapes = {"P": own, "R": tuple(R.shape[:-axes])}
    if continues is not None:
        continues = as_array(continues, R)
        if continues.dtype != xp.bool or not continues.ndim or continues.shape[-1] != states:
            raise ValueError(
                f"continues is {continues.dtype} of shape {tuple(continues.shape)}, it must be "
                f"bool [..., {states}]"
            )
        shapes["continues"] = tuple(continues.shape[:-1])
    batch = broadcast({**shapes, "the rest": batch})
    R = flat(R, batch, axes)
    if continues is not None:
        continues = flat(continues, batch, 1)
    if not sparse:
        shared = prod(own) == 1
        P = xp.reshape(P, P.shape[-axes - 1 :]) if shared else flat(P, batch, axes + 1)
        P = xp.reshape(P, (*P.shape[:-3], states * actions, states))
    return Tables(P, R, continues, batch)


def check_rows(P: Any) -> None:
    """ValueError unless P >= 0 and its rows sum to 1."""
    if is_sparse(P):
        check_probabilities("P", P.data)
        return check_sums("P", np.asarray(P.sum(axis=1)).reshape(-1, 1))
    xp = array_namespace(P)
    states, actions = P.shape[-1], P.shape[-2]
    large = xp.reshape(P, (-1, states * actions, states))  # few products, not one for each state
    sums = large @ xp.ones_like(large[0, 0])
    # Also false with a NaN. Where it is false the slower checks say where.
    if not bool((xp.min(P) >= 0) & (xp.max(xp.abs(sums - 1)) <= TOLERANCE)):
        check_probabilities("P", to_numpy(P))
        check_sums("P", to_numpy(P))


def check_start(d0: Any, states: int) -> Any:
    """Probabilities of the first state [..., S]."""
    d0 = as_floats(d0)
    if not d0.ndim or d0.shape[-1] != states:
        raise ValueError(f"d0 has shape {tuple(d0.shape)}, it must be [..., {states}]")
    check_probabilities("d0", to_numpy(d0))
    check_sums("d0", to_numpy(d0))
    return d0


def of_policy(
    P: Any, R: Any, policy: Any, continues: Any, batch: tuple[int, ...] = (), steps: bool = False
) -> tuple[Tables, Any]:
    """Checked tables, and a policy [n, S] or [n, S, A] for them; with R None it is 0.

    Args:
        P, R, continues, batch, steps: as in `check_tables`; with `steps` the policy has an axis of
            steps, too.
        policy: actions, integers [..., S], or probabilities, floats [..., S, A].

    Raises:
        ValueError: as `check_tables`; the policy has another shape, or holds what is no action or
            no probability.
    """
    policy = as_array(policy, R if R is not None else P)
    xp = array_namespace(policy)
    chosen = xp.isdtype(policy.dtype, "integral")
    axes = 1 + steps + (not chosen)
    batch = broadcast({"policy": tuple(policy.shape[:-axes]), "the rest": batch})
    tables = check_tables(P, R, continues, batch, steps)
    states, actions = tables.R.shape[-2:]
    expected_shape = (states,) if chosen else (states, actions)
    if policy.ndim < axes or tuple(policy.shape[policy.ndim - axes + steps :]) != expected_shape:
        layer = "H, " if steps else ""
        raise ValueError(
            f"policy is {policy.dtype} of shape {tuple(policy.shape)}, allowed are actions "
            f"[..., {layer}{states}] and probabilities [..., {layer}{states}, {actions}]"
        )
    if not chosen:
        policy = as_floats(policy)
        check_probabilities("policy", to_numpy(policy))
        check_sums("policy", to_numpy(policy))
    elif bool(xp.any((policy < 0) | (policy >= actions))):
        raise ValueError(f"policy holds actions outside 0 .. {actions - 1}")
    return tables, flat(policy, tables.batch, axes)


def check_gamma(gamma: float, one: bool = False) -> None:
    """ValueError unless gamma is in [0, 1), or in [0, 1] where `one` is allowed."""
    if not (0 <= gamma < 1 or (one and gamma == 1)):
        raise ValueError(f"gamma={gamma} is outside [0, 1{']' if one else ')'}")


# -- forms -----------------------------------------------------------------------------------------


def is_sparse(P: Any) -> bool:
    """Whether P is a sparse matrix of scipy."""
    return hasattr(P, "tocsr")


def one_matrix(P: Any) -> Any:
    """The sparse matrix [S * A, S], compressed by rows, from it or from one [S, S] per action."""
    from scipy import sparse

    if is_sparse(P):
        P = sparse.csr_array(P, dtype=np.float64)
        if not P.shape[1] or not P.shape[0] or P.shape[0] % P.shape[1]:
            raise ValueError(f"P has shape {P.shape}, allowed is [S * A, S] where it is sparse")
        return P
    shapes = sorted({tuple(part.shape) for part in P})
    states = shapes[0][0]
    if shapes != [(states, states)]:
        raise ValueError(f"P has parts of shapes {shapes}, all must be [S, S] of the same S")
    stacked = sparse.vstack([sparse.csr_array(part, dtype=np.float64) for part in P], "csr")
    rows = np.arange(len(P) * states).reshape(len(P), states).T.reshape(-1)
    return sparse.csr_array(stacked[rows])


def nothing(P: Any) -> Any:
    """Rewards of 0 for P, [S, A]."""
    if is_sparse(P):
        return np.zeros((P.shape[1], P.shape[0] // P.shape[1]))
    return 0 * P[(0,) * (P.ndim - 3) + (...,)][..., 0]


def as_array(values: Any, like: Any) -> Any:
    """As an array: of the kind and on the device of `like`, where it is none yet."""
    if is_numpy_array(values) or is_torch_array(values):
        return values
    if is_torch_array(like):
        return array_namespace(like).asarray(values, device=device(like))
    return np.asarray(values)


def as_floats(values: Any) -> Any:
    """As an array in double precision."""
    if is_torch_array(values):
        return values.double()
    return np.asarray(values, dtype=np.float64)


def to_numpy(values: Any) -> Any:
    """As an array of NumPy."""
    return values.detach().cpu().numpy() if is_torch_array(values) else values


def broadcast(shapes: dict[str, tuple[int, ...]]) -> tuple[int, ...]:
    """The batch axes that all have in common after broadcasting."""
    try:
        return np.broadcast_shapes(*shapes.values())
    except ValueError:
        raise ValueError(f"batch axes do not fit together: {shapes}") from None


def flat(values: Any, batch: tuple[int, ...], axes: int) -> Any:
    """Batch axes as one: [n, ...] with the last `axes` axes as they are."""
    xp, own = array_namespace(values), tuple(values.shape[values.ndim - axes :])
    if tuple(values.shape[: values.ndim - axes]) != batch:
        values = xp.broadcast_to(values, (*batch, *own))
    return xp.reshape(values, (prod(batch), *own))


def unflat(values: Any, batch: tuple[int, ...]) -> Any:
    """The batch axes of [n, ...] again."""
    return array_namespace(values).reshape(values, (*batch, *values.shape[1:]))


def blocks(tables: Tables) -> Iterator[Tables]:
    """The processes in groups whose transitions stay in a processor's cache, or not far from it.

    Sweeps over one group are faster than over all of them. Tensors are not
    split, accelerators want them whole; nor is a P that all share, unless it is sparse.
    """
    P, R, continues, _ = tables
    size = max(1, len(R))
    if is_sparse(P):
        size = 1
    elif is_numpy_array(P) and P.ndim > 2:
        size = max(1, CACHED // P[0].size)
    for i in range(0, len(R), size):
        part = slice(i, i + size)
        mask = None if continues is None else continues[part]
        yield Tables(P if P.ndim == 2 else P[part], R[part], mask, ())


def by_blocks(tables: Tables, solve: Callable[[Tables], Found]) -> Found:
    """What `solve` finds for the blocks, put together under the batch axes of the tables.

    Args:
        solve: returns a named tuple of arrays [n, ...].
    """
    xp = array_namespace(tables.R)
    found = [solve(part) for part in blocks(tables)]
    whole = (unflat(xp.concat(parts), tables.batch) for parts in zip(*found, strict=True))
    return type(found[0])(*whole)


# -- operations ------------------------------------------------------------------------------------


def namespace(values: Any) -> Any:
    """`array_namespace` of one array, without its cost for NumPy's, which sweeps would feel."""
    return numpy_namespace if type(values) is np.ndarray else array_namespace(values)


def expected(P: Any, values: Any, shape: tuple[int, ...]) -> Any:
    """Mean of the next state's value after each state and action.

    Args:
        P: [n, S * A, S], or [S * A, S], dense or sparse.
        values: [n, S].
        shape: of the result, (n, S, A).
    """
    xp = namespace(values)
    if P.ndim == 3:
        return xp.reshape((P @ values[..., None])[..., 0], shape)
    if is_sparse(P):
        return np.stack([P @ row for row in values]).reshape(shape)
    return xp.reshape(values @ P.T, shape)


def maximum(action_values: Any) -> Any:
    """Maximum over the last axis. Action by action where they are few: ten times as fast."""
    xp = namespace(action_values)
    actions = action_values.shape[-1]
    if actions > FEW:
        return xp.max(action_values, axis=-1)
    best = action_values[..., 0]
    for action in range(1, actions):
        best = xp.maximum(best, action_values[..., action])
    return best


def greedy(action_values: Any) -> Any:
    """The lowest of the best actions, int64 [...], from action values [..., A].

    Actions whose values differ by less than 1e-9 of (1 + the best value) count as equally good:
    rounding, of the tables and of the values, must not decide between them.
    """
    xp = namespace(action_values)
    best = maximum(action_values)
    return first(action_values, best - TIE * (1 + xp.abs(best)))


def argmax(action_values: Any, best: Any) -> Any:
    """The lowest action that is worth `best`, its maximum [...], int64 [...]."""
    if prod(best.shape) < MANY:
        return namespace(action_values).argmax(action_values, axis=-1)
    return first(action_values, best)


def first(action_values: Any, enough: Any) -> Any:
    """The lowest action worth at least `enough` [...], int64 [...]; any where none is."""
    xp = namespace(action_values)
    actions = action_values.shape[-1]
    if actions > FEW or prod(enough.shape) < MANY:
        return xp.argmax(xp.astype(action_values >= enough[..., None], xp.int8), axis=-1)
    below = action_values[..., 0] < enough
    found = xp.astype(below, xp.int64)
    for action in range(1, actions - 1):
        below = below & (action_values[..., action] < enough)
        found = found + below
    return found


def as_probabilities(policy: Any, actions: int) -> Any:
    """A policy [..., A] of probabilities; of actions [...] it makes certain ones."""
    xp = namespace(policy)
    if not xp.isdtype(policy.dtype, "integral"):
        return policy
    return xp.astype(policy[..., None] == xp.arange(actions, device=device(policy)), xp.float64)


def under_policy(P: Any, R: Any, policy: Any) -> tuple[Any, Any]:
    """Transitions [n, S, S] (sparse: [S, S]) and rewards [n, S] under a policy.

    Args:
        P: [n, S * A, S], or [S * A, S], dense or sparse.
        R: [n, S, A].
        policy: actions [n, S] or probabilities [n, S, A].

    Where P is sparse n must be 1.
    """
    xp = namespace(R)
    count, states, actions = R.shape
    if policy.ndim == 2:
        rows = xp.arange(count * states, device=device(R)) * actions + xp.reshape(policy, (-1,))
        rewards = xp.reshape(xp.take(xp.reshape(R, (-1,)), rows), (count, states))
        if is_sparse(P):
            return P[rows], rewards
        if P.ndim == 2:
            rows = rows % (states * actions)
        chosen = xp.take(xp.reshape(P, (-1, states)), rows, axis=0)
        return xp.reshape(chosen, (count, states, states)), rewards
    rewards = xp.sum(policy * R, axis=-1)
    if is_sparse(P):
        from scipy import sparse

        place = np.arange(0, states * actions + 1, actions)
        weights = (policy.reshape(-1), np.arange(states * actions), place)
        return sparse.csr_array(weights, shape=(states, states * actions)) @ P, rewards
    by_state = xp.reshape(P, (-1, states, actions, states))
    return (policy[..., None, :] @ by_state)[..., 0, :], rewards


def alive_only(values: Any, continues: Any) -> Any:
    """Values, 0 where the task has ended."""
    if continues is None:
        return values
    return namespace(values).where(continues, values, 0.0)
