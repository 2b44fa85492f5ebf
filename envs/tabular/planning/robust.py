"""Robust dynamic programming: value iteration, policy iteration, evaluation, backward induction.

Every function takes one of the sets of `robust_sets.py` or `robust_state_sets.py`, whose adversary
may choose anew in every step (the dynamic adversary), and rewards R [..., S, A]. Leading axes are a
batch of decision processes, all solved at once. The last function evaluates a policy against
finitely many models of which one holds for ever (the static adversary).

Without `continues` (bool [..., S], False in the states in which the task has ended) a task ends in
states that no model leaves and that pay nothing.

Sources: G. Iyengar, Robust dynamic programming (Mathematics of Operations Research, 2005);
W. Wiesemann, D. Kuhn, B. Rustem, Robust Markov decision processes (Mathematics of Operations
Research, 2013); the bounds by which sweeps stop: J. MacQueen (1966), E. Porteus (1971).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..probabilities import check_probabilities, check_sums
from .discounted import evaluate
from .robust_balls import Floats
from .robust_sets import Backup, Choice, UncertaintySet, check_models, hard
from .tables import check_gamma, check_start

TOLERANCE = 1e-10  # of values, relative to the largest where that exceeds 1
ROUNDING = 1e-13  # relative change of values that may be due to rounding alone
SWEEPS = 1_000_000
ROUNDS = 1_000


class StaticWorst(NamedTuple):
    """A policy against models of which one holds for ever.

    Attributes:
        values: values of the states in every model [M, ..., S].
        value: expected value from the start in the worst model [...].
        model: index of the worst model, the first of equally bad ones, int64 [...].
    """

    values: Floats
    value: Floats
    model: NDArray[np.int64]


def robust_value_iteration(
    uncertainty: UncertaintySet,
    R: ArrayLike,
    gamma: float,
    *,
    choose: Choice = hard,
    continues: ArrayLike | None = None,
    tolerance: float = TOLERANCE,
    max_sweeps: int = SWEEPS,
) -> Backup:
    """The best policy against the worst model, by sweeps.

    Args:
        uncertainty: the set of models.
        R: rewards, broadcastable to [..., S, A].
        gamma: discount factor in [0, 1]; 1 needs an end that every model reaches.
        choose: the maximisation; `partial(soft, reference=..., eta=...)` regularises it.
        continues: where the task goes on, broadcastable to [..., S]; None: everywhere.
        tolerance: largest error of the values where gamma < 1, relative to the largest value where
            that exceeds 1; for gamma = 1 the largest change in the last sweep.
        max_sweeps: sweeps after which the search is given up.

    Returns:
        Values, policy and worst model of the last backup.

    Raises:
        ValueError: gamma is outside [0, 1], shapes do not fit, or the values do not converge.
    """
    rewards, alive = _rewards(uncertainty, R, continues)
    check_gamma(gamma, one=True)
    values = np.zeros(rewards.shape[:-1])
    for _ in range(max_sweeps):
        backup = _ended(uncertainty.optimal(rewards, values, gamma, choose), alive)
        found = _bounded(backup, values, gamma, tolerance, alive)
        if found is not None:
            return found
        values = backup.values
    raise ValueError(f"robust values do not converge in {max_sweeps} sweeps with gamma={gamma}")


def robust_policy_iteration(
    uncertainty: UncertaintySet,
    R: ArrayLike,
    gamma: float,
    *,
    continues: ArrayLike | None = None,
    tolerance: float = TOLERANCE,
) -> Backup:
    """As `robust_value_iteration` for gamma < 1, with an evaluation after every improvement.

    A handful of evaluations does what takes thousands of sweeps where gamma is near 1. The values
    decide when to stop: that policies equally good take turns does not matter.
    """
    rewards, alive = _rewards(uncertainty, R, continues)
    check_gamma(gamma)
    values = np.zeros(rewards.shape[:-1])
    for _ in range(ROUNDS):
        backup = _ended(uncertainty.optimal(rewards, values, gamma), alive)
        found = _bounded(backup, values, gamma, tolerance, alive)
        if found is not None:
            return found
        values = robust_policy_evaluation(
            uncertainty, rewards, backup.policy, gamma, continues=alive, tolerance=tolerance / 10
        ).values
    raise ValueError(f"robust values do not converge in {ROUNDS} rounds with gamma={gamma}")


def robust_policy_evaluation(
    uncertainty: UncertaintySet,
    R: ArrayLike,
    policy: ArrayLike,
    gamma: float,
    *,
    continues: ArrayLike | None = None,
    tolerance: float = TOLERANCE,
    max_sweeps: int = SWEEPS,
) -> Backup:
    """Values of a given policy against the worst model.

    The adversary's own decision problem, solved by its policy iteration (each round the values in
    the model that was worst so far, from a linear system); by sweeps where gamma = 1.

    Args:
        policy: actions [..., S] or probabilities of the actions [..., S, A].
        uncertainty, R, gamma, tolerance, max_sweeps, continues: as in `robust_value_iteration`.

    Raises:
        ValueError: as `robust_value_iteration`, or `policy` holds no distributions.
    """
    rewards, alive = _rewards(uncertainty, R, continues)
    check_gamma(gamma, one=True)
    given = _policy(policy, rewards.shape)
    values = np.zeros(rewards.shape[:-1])
    for _ in range(max_sweeps):
        backup = _ended(uncertainty.under(given, rewards, values, gamma), alive)
        found = _bounded(backup, values, gamma, tolerance, alive)
        if found is not None:
            return found
        values = backup.values
        if gamma < 1:
            values = evaluate(backup.P, rewards, given, gamma, continues=alive)
    raise ValueError(f"robust values do not converge in {max_sweeps} sweeps with gamma={gamma}")


def robust_backward_induction(
    uncertainty: UncertaintySet | Sequence[UncertaintySet],
    R: ArrayLike,
    horizon: int,
    *,
    choose: Choice = hard,
    continues: ArrayLike | None = None,
    gamma: float = 1.0,
) -> Backup:
    """The best policy against the worst models over `horizon` steps; nothing is paid beyond.

    Args:
        uncertainty: one set for all steps, or one per step.
        R: rewards, broadcastable to [..., S, A]; the same in all steps.
        horizon: number of steps, at least 1.
        choose, continues: as in `robust_value_iteration`.
        gamma: discount factor in [0, 1].

    Returns:
        Values [horizon, ..., S], policy [horizon, ..., S, A] and models [horizon, ..., S, A, S].

    Raises:
        ValueError: horizon or gamma is out of range, or shapes do not fit.
    """
    sets = _per_step(uncertainty, horizon)
    rewards, alive = _rewards(sets[0], R, continues)
    check_gamma(gamma, one=True)
    values, layers = np.zeros(rewards.shape[:-1]), []
    for step in reversed(range(horizon)):
        layers.append(_ended(sets[step].optimal(rewards, values, gamma, choose), alive))
        values = layers[-1].values
    return _stack(layers)


def robust_backward_evaluation(
    uncertainty: UncertaintySet | Sequence[UncertaintySet],
    R: ArrayLike,
    policy: ArrayLike,
    *,
    continues: ArrayLike | None = None,
    gamma: float = 1.0,
) -> Backup:
    """Values of a given policy against the worst models over a horizon.

    Args:
        policy: actions [horizon, ..., S] or probabilities of the actions [horizon, ..., S, A].
        uncertainty, R, gamma, continues: as in `robust_backward_induction`, which says what is
            returned.

    Raises:
        ValueError: as `robust_backward_induction`, or `policy` holds no distributions.
    """
    horizon = np.asarray(policy).shape[0] if np.ndim(policy) else 0
    sets = _per_step(uncertainty, horizon)
    rewards, alive = _rewards(sets[0], R, continues)
    check_gamma(gamma, one=True)
    given = _policy(policy, (horizon, *rewards.shape))
    values, layers = np.zeros(rewards.shape[:-1]), []
    for step in reversed(range(horizon)):
        layers.append(_ended(sets[step].under(given[step], rewards, values, gamma), alive))
        values = layers[-1].values
    return _stack(layers)


def static_worst_model(
    models: ArrayLike,
    R: ArrayLike,
    policy: ArrayLike,
    gamma: float,
    start: ArrayLike,
    *,
    continues: ArrayLike | None = None,
) -> StaticWorst:
    """The worst of finitely many models for a policy, when the model never changes.

    Args:
        models: transitions [M, ..., S, A, S].
        R: rewards, broadcastable to [M, ..., S, A]: common to the models or one table each.
        policy: actions [..., S] or probabilities of the actions [..., S, A].
        gamma: discount factor in [0, 1]; 1 needs an end that is reached in every model.
        start: probabilities of the first state, broadcastable to [..., S].
        continues: as in `robust_value_iteration`.

    Raises:
        ValueError: gamma is outside [0, 1], shapes do not fit, or probabilities are none.
    """
    table = check_models(models)
    values = evaluate(table, R, policy, gamma, continues=continues)
    totals = (values * check_start(start, table.shape[-1])).sum(axis=-1)
    worst = totals.argmin(axis=0)
    return StaticWorst(values, np.take_along_axis(totals, worst[None], axis=0)[0], worst)


# -- helpers ---------------------------------------------------------------------------------------


def _bounded(
    backup: Backup,
    before: Floats,
    gamma: float,
    tolerance: float,
    continues: NDArray[np.bool_] | None,
) -> Backup | None:
    """The backup at its best estimate of the fixed point, if that is within `tolerance` of it.

    A robust backup T is monotone, and T (V + c) = T V + gamma c where nothing ends, as for the
    ordinary one. So the bounds of MacQueen and Porteus hold: with the change d = T V - V the fixed
    point lies between T V + gamma / (1 - gamma) times min d and max d (0 counts as a change where a
    task may end), which narrow as fast as the process forgets.
    """
    change = backup.values - before
    low, high = change.min(axis=-1), change.max(axis=-1)
    size = np.maximum(1.0, np.abs(backup.values).max(axis=-1))
    if gamma == 1:
        return backup if (np.abs(change).max(axis=-1) <= tolerance * size).all() else None
    if continues is not None:
        low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
    scale = gamma / (1 - gamma)
    error = scale * (high - low) / 2
    if (np.minimum(error - tolerance * size, high - low - ROUNDING * size) > 0).any():
        return None
    return _ended(
        backup._replace(values=backup.values + (scale * (low + high) / 2)[..., None]), continues
    )


def _ended(backup: Backup, continues: NDArray[np.bool_] | None) -> Backup:
    """The backup with value 0 in the states in which the task has ended."""
    if continues is None:
        return backup
    return backup._replace(values=np.where(continues, backup.values, 0.0))


def _rewards(
    uncertainty: UncertaintySet, R: ArrayLike, continues: ArrayLike | None
) -> tuple[Floats, NDArray[np.bool_] | None]:
    """Rewards [..., S, A] with the batch axes of all three, and where the task goes on [..., S]."""
    rewards = np.asarray(R, dtype=np.float64)
    if not np.isfinite(rewards).all():
        raise ValueError("R holds values that are not finite")
    shapes = [uncertainty.shape, rewards.shape]
    alive = None if continues is None else np.asarray(continues)
    if alive is not None:
        if alive.dtype != np.bool_:
            raise ValueError(f"continues is {alive.dtype}, it must be bool")
        shapes.append((*alive.shape, 1))
    try:
        shape = np.broadcast_shapes(*shapes)
    except ValueError:
        shape = ()
    if shape[-2:] != uncertainty.shape[-2:]:
        raise ValueError(
            f"R{'' if alive is None else ' and continues'} of shapes "
            f"{[*shapes[1:2], *(each[:-1] for each in shapes[2:])]} must be broadcastable to "
            f"[..., S, A]{'' if alive is None else ' and [..., S]'} with S, A = "
            f"{uncertainty.shape[-2:]}"
        )
    rewards = np.broadcast_to(rewards, shape)
    return rewards, None if alive is None else np.broadcast_to(alive, shape[:-1])


def _policy(policy: ArrayLike, shape: tuple[int, ...]) -> Floats:
    """Probabilities of the actions, of `shape` [..., S, A], from them or from actions."""
    given, actions = np.asarray(policy), shape[-1]
    if np.issubdtype(given.dtype, np.integer):
        if ((given < 0) | (given >= actions)).any():
            raise ValueError(f"policy holds actions outside 0 .. {actions - 1}")
        given = np.eye(actions)[given]
    check_probabilities("policy", given)
    check_sums("policy", given)
    try:
        return np.broadcast_to(given, shape)
    except ValueError:
        raise ValueError(
            f"policy has shape {np.shape(policy)}, it must be broadcastable to {shape[:-1]} as "
            f"actions or {shape} as probabilities"
        ) from None


def _per_step(
    uncertainty: UncertaintySet | Sequence[UncertaintySet], horizon: int
) -> Sequence[UncertaintySet]:
    if isinstance(horizon, bool) or not isinstance(horizon, int | np.integer) or horizon < 1:
        raise ValueError(f"horizon={horizon!r} must be an integer of at least 1")
    if isinstance(uncertainty, UncertaintySet):
        return [uncertainty] * int(horizon)
    if len(uncertainty) != horizon or len({each.shape for each in uncertainty}) != 1:
        raise ValueError(f"{len(uncertainty)} sets given, {horizon} of one shape are needed")
    return uncertainty


def _stack(layers: list[Backup]) -> Backup:
    """Backups in the order of time, from one per step in the order of induction."""
    return Backup(*(np.stack(part) for part in zip(*reversed(layers), strict=True)))
