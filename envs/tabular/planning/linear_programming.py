"""Planning by linear programming: slow, exact, and independent of the other planners.

One process at a time, P [S, A, S] and R [S, A], dense or sparse (`tables`). Each pair of programmes
is solved for itself by HiGHS' dual simplex method; their optima agree:

    discounted   primal  min sum V         V >= R + gamma P V
                 dual    max <nu, R>       nu >= 0, sum_a nu(s, a) = d0 + gamma P' nu
    horizon      the same over the states (step, state), by `unrolled`
    average      primal  min g             g + h >= R + P h
                 dual    max <mu, R>       mu >= 0, sum_a mu(s, a) = P' mu, sum mu = 1

Source: M. L. Puterman, Markov Decision Processes (Wiley, 1994), sections 6.9 and 8.8.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .finite_horizon import horizon_of
from .tables import check_gamma, check_start, check_tables, is_sparse

Floats = NDArray[np.float64]
FEASIBLE = 1e-10  # the finest tolerance that HiGHS accepts


def discounted_values(P: Any, R: Any, gamma: float, *, continues: Any = None) -> Floats:
    """Optimal values [S], by the primal programme.

    Args:
        P, R, continues: tables of one process.
        gamma: in [0, 1]; with 1 an end must be reached whatever is done.

    Raises:
        ValueError: the tables are none, or of several processes.
        ArithmeticError: there is no solution.
    """
    check_gamma(gamma, one=True)
    P, R, alive = _one_process(P, R, continues)
    return _primal(P, R, gamma, alive)


def discounted_occupancy(
    P: Any, R: Any, d0: ArrayLike, gamma: float, *, continues: Any = None
) -> Floats:
    """Discounted visits [S, A] of an optimal policy from `d0` [S], by the dual programme.

    Other arguments and errors are those of `discounted_values`.
    """
    check_gamma(gamma, one=True)
    P, R, alive = _one_process(P, R, continues)
    return _dual(P, R, check_start(d0, len(R)), gamma, alive)


def finite_horizon_values(
    P: Any, R: Any, horizon: int | None = None, *, gamma: float = 1.0, continues: Any = None
) -> Floats:
    """Optimal values [H, S]; P [T, S, A, S] and R [T, S, A] as in `finite_horizon`.

    Raises:
        ValueError, ArithmeticError: as `discounted_values`; or T is neither 1 nor H.
    """
    check_gamma(gamma, one=True)
    P, R, alive, steps = unrolled(P, R, horizon, continues)
    return _primal(P, R, gamma, alive).reshape(steps, -1)


def finite_horizon_occupancy(
    P: Any, R: Any, d0: ArrayLike, horizon: int | None = None, *, continues: Any = None
) -> Floats:
    """Visits [H, S, A] of an optimal policy from `d0` [S], without discount.

    Other arguments and errors are those of `finite_horizon_values`.
    """
    P, R, alive, steps = unrolled(P, R, horizon, continues)
    states = len(R) // steps
    start = np.zeros(len(R))
    start[:states] = check_start(d0, states)
    return _dual(P, R, start, 1.0, alive).reshape(steps, states, -1)


def average_gain(P: Any, R: Any) -> tuple[float, Floats]:
    """Optimal gain and a bias [S] that is 0 in state 0, by the primal programme.

    The bias solves the optimality equation in the states that an optimal policy visits for ever.

    Args:
        P, R: tables of one process whose optimal gain does not depend on the start.

    Raises:
        ValueError, ArithmeticError: as `discounted_values`.
    """
    from scipy import sparse

    P, R, _ = _one_process(P, R, None)
    states, actions = R.shape
    gain = sparse.csr_array(np.ones((states * actions, 1)))
    constraints = sparse.hstack([_stay(states, actions) - P, gain])
    bounds = np.tile([-np.inf, np.inf], (states + 1, 1))
    bounds[0] = 0
    x = _solve(np.eye(states + 1)[-1], bounds, A_ub=-constraints, b_ub=-R.reshape(-1))
    return float(x[-1]), x[:-1]


def average_occupancy(P: Any, R: Any) -> Floats:
    """Shares of time [S, A] that an optimal policy spends, by the dual programme.

    Arguments and errors are those of `average_gain`.
    """
    from scipy import sparse

    P, R, _ = _one_process(P, R, None)
    states, actions = R.shape
    flow = (_stay(states, actions) - P).T
    total = sparse.csr_array(np.ones((1, states * actions)))
    x = _solve(
        -R.reshape(-1),
        np.tile([0.0, np.inf], (states * actions, 1)),
        A_eq=sparse.vstack([flow, total]),
        b_eq=np.append(np.zeros(states), 1.0),
    )
    return x.reshape(states, actions)


def unrolled(
    P: Any, R: Any, horizon: int | None, continues: Any = None
) -> tuple[Any, Floats, NDArray[np.bool_], int]:
    """A process over H steps as one without steps, whose states are (step, state).

    Returns:
        Sparse transitions [H * S * A, H * S], which sum to 0 in the last step, rewards [H * S, A],
        bool [H * S] as `continues`, and H.
    """
    from scipy import sparse

    tables = check_tables(P, R, continues, steps=True)
    steps = horizon_of(tables, horizon)
    if tables.batch or tables.P.ndim > 3:
        raise ValueError(f"linear programmes are for one process, got batch axes {tables.batch}")
    _, states, actions = tables.R.shape[1:]
    transitions = np.broadcast_to(tables.P, (steps, states * actions, states))
    # A block per step, moved to the columns of the step after it.
    move = sparse.eye(steps * states, k=states)
    whole = sparse.csr_array(sparse.block_diag(transitions) @ move)
    rewards = np.broadcast_to(tables.R[0], (steps, states, actions)).reshape(-1, actions)
    alive = np.ones(states, dtype=bool) if tables.continues is None else tables.continues[0]
    return whole, rewards, np.tile(alive, steps), steps


def _one_process(P: Any, R: Any, continues: Any) -> tuple[Any, Floats, NDArray[np.bool_]]:
    """Sparse transitions [S * A, S], rewards [S, A], and where the task goes on [S]."""
    from scipy import sparse

    tables = check_tables(P, R, continues)
    if tables.batch:
        raise ValueError(f"linear programmes are for one process, got batch axes {tables.batch}")
    P = tables.P if is_sparse(tables.P) else sparse.csr_array(tables.P)
    R = tables.R[0]
    return P, R, np.ones(len(R), bool) if tables.continues is None else tables.continues[0]


def _stay(states: int, actions: int) -> Any:
    """The matrix [S * A, S] that gives every state and action the value of the state."""
    from scipy import sparse

    rows = np.arange(states * actions + 1)
    return sparse.csr_array((np.ones(states * actions), rows[:-1] // actions, rows))


def _primal(P: Any, R: Floats, gamma: float, alive: NDArray[np.bool_]) -> Floats:
    """min sum V subject to V >= R + gamma P V, V = 0 where the task has ended."""
    states, actions = R.shape
    bounds = np.where(alive[:, None], [-np.inf, np.inf], 0.0)
    rows = np.repeat(alive, actions)
    constraints = (_stay(states, actions) - gamma * P)[rows]
    return _solve(np.ones(states), bounds, A_ub=-constraints, b_ub=-R.reshape(-1)[rows])


def _dual(P: Any, R: Floats, start: Floats, gamma: float, alive: NDArray[np.bool_]) -> Floats:
    """max <nu, R> subject to sum_a nu(s, a) = start + gamma P' nu where the task goes on."""
    states, actions = R.shape
    rows = np.repeat(alive, actions)
    flow = (_stay(states, actions) - gamma * P).T.tocsr()[alive]
    bounds = np.where(rows[:, None], [0.0, np.inf], 0.0)
    x = _solve(-R.reshape(-1), bounds, A_eq=flow, b_eq=start[alive])
    return x.reshape(states, actions)


def _solve(objective: Floats, bounds: Floats, **constraints: Any) -> Floats:
    """The minimiser of a linear programme."""
    from scipy.optimize import linprog

    found = linprog(
        objective,
        bounds=bounds,
        method="highs-ds",
        options={
            "primal_feasibility_tolerance": FEASIBLE,
            "dual_feasibility_tolerance": FEASIBLE,
        },
        **constraints,
    )
    if found.status != 0:
        raise ArithmeticError(f"the linear programme is not solved: {found.message}")
    return found.x
