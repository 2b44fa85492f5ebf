"""Markov chains, which is what a policy makes of a decision process: their linear systems.

n chains at once: transitions [n, S, S], rewards [n, S], and `continues`, bool [n, S] or None.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from array_api_compat import array_namespace, device
from numpy.typing import NDArray

from .tables import alive_only, to_numpy


def discounted_values(transitions: Any, rewards: Any, gamma: float, continues: Any) -> Any:
    """Discounted sums of rewards [n, S] from each state: (I - gamma P)^-1 R."""
    xp = array_namespace(rewards)
    system = _discounted_system(transitions, gamma, continues)
    return xp.linalg.solve(system, alive_only(rewards, continues)[..., None])[..., 0]


def discounted_visits(transitions: Any, start: Any, gamma: float, continues: Any) -> Any:
    """Discounted numbers of visits [n, S] from `start` [n, S]."""
    xp = array_namespace(start)
    system = xp.matrix_transpose(_discounted_system(transitions, gamma, continues))
    return xp.linalg.solve(system, alive_only(start, continues)[..., None])[..., 0]


def _discounted_system(transitions: Any, gamma: float, continues: Any) -> Any:
    """I - gamma P over the states in which the task goes on, [n, S, S]."""
    xp = array_namespace(transitions)
    if continues is not None:
        both = continues[:, None, :] & continues[:, :, None]
        transitions = xp.where(both, transitions, 0.0)
    eye = xp.eye(transitions.shape[-1], dtype=xp.float64, device=device(transitions))
    return eye - gamma * transitions


def sparse_visits(
    transitions: Any, start: NDArray[np.float64], gamma: float, continues: Any, tolerance: float
) -> NDArray[np.float64]:
    """As `discounted_visits` for one sparse chain [S, S], as a series, gamma below 1.

    With the law y of the state after t steps, what is still to come sums to at most
    gamma^t |y| / (1 - gamma); and replacing all later laws by y errs by at most
    gamma^(t+1) |P'y - y| / (1 - gamma)^2, because differences of laws never grow.

    Args:
        tolerance: bound on the sum of absolute errors.
    """
    forward = transitions.T.tocsr()
    law, visits, weight = alive_only(start, continues), np.zeros_like(start), 1.0
    while True:
        following = alive_only(forward @ law, continues)
        change = gamma * np.abs(following - law).sum() / (1 - gamma)
        if weight * min(change, law.sum()) <= tolerance * (1 - gamma):
            return visits + weight / (1 - gamma) * (law if change < law.sum() else 0.0)
        visits += weight * law
        law, weight = following, weight * gamma


def before_the_end(transitions: Any, continues: Any, rewards: Any) -> Any:
    """The states from which a task without discount goes on, bool [n, S].

    It ends where `continues` says so, and in states that are never left and pay nothing.

    Raises:
        ValueError: an end cannot be reached from some state.
    """
    xp = array_namespace(transitions)
    ended = (xp.linalg.diagonal(transitions) == 1) & (rewards == 0)
    if continues is not None:
        ended = ended | ~continues
    lost = ~xp.any(reachable(transitions) & ended[:, None, :], axis=-1)
    if bool(xp.any(lost)):
        process, state = (int(i) for i in np.argwhere(to_numpy(lost))[0])
        which = f" of process {process}" if len(lost) > 1 else ""
        raise ValueError(
            f"with gamma=1 an end must always be reached: the policy reaches none from state "
            f"{state}{which}"
        )
    return ~ended


def reachable(transitions: Any) -> Any:
    """Which states [.., j] can be reached from which [.., i] in any number of steps, bool
    [n, S, S].

    Args:
        transitions: [n, S, S], positive where there is a way.
    """
    xp = array_namespace(transitions)
    here = xp.eye(transitions.shape[-1], dtype=xp.bool, device=device(transitions))
    ways = xp.astype((transitions > 0) | here, xp.float32)
    while True:
        longer = xp.astype(ways @ ways > 0, xp.float32)
        if bool(xp.all(longer == ways)):
            return ways > 0
        ways = longer


def check_one_closed_class(transitions: Any, when: str) -> None:
    """ValueError if a chain has several sets of states that are never left.

    Args:
        transitions: [n, S, S], positive where there is a way.
        when: for the message.
    """
    xp = array_namespace(transitions)
    ways = reachable(transitions)
    # One class is closed if and only if some state can be reached from everywhere.
    wrong = ~xp.any(xp.all(ways, axis=-2), axis=-1)
    if bool(xp.any(wrong)):
        process = int(np.flatnonzero(to_numpy(wrong))[0])
        there = to_numpy(ways[process])
        closed = np.flatnonzero((there <= there.T).all(axis=1))  # who is reached comes back
        first = closed[0]
        other = closed[~there[first, closed]][0]
        which = f" of process {process}" if len(wrong) > 1 else ""
        raise ValueError(
            f"the gain depends on the start: {when}, states {first} and {other}{which} lie in "
            f"different sets of states that are never left (multichain)"
        )


def stationary_solution(transitions: Any, rewards: Any) -> tuple[Any, Any, Any]:
    """Gain [n], a bias up to a constant [n, S], and stationary law [n, S].

    With u = 1 / S and the matrix A = I - P + 1 u', which one closed class makes regular, A h = R
    says that h solves h + g = R + P h with g = u . h, and the law mu solves A' mu = u.
    """
    xp = array_namespace(rewards)
    states = transitions.shape[-1]
    eye = xp.eye(states, dtype=xp.float64, device=device(transitions))
    system = eye - transitions + 1 / states
    bias = xp.linalg.solve(system, rewards[..., None])[..., 0]
    uniform = xp.full_like(rewards, 1 / states)
    law = xp.linalg.solve(xp.matrix_transpose(system), uniform[..., None])[..., 0]
    return xp.mean(bias, axis=-1), bias, law
