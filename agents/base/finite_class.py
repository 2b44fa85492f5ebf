"""Finite classes of action values: which of them the data of a finite world do not contradict.

C. Jin, Q. Liu, S. Miryoosefi: Bellman Eluder Dimension (NeurIPS 2021, arXiv 2102.00815), GOLF. A
class F = F_1 x ... x F_H has K members for each step. On the data D_h of step h

    L_h(g, f') = sum over (s, a, r, s') in D_h of ( g(s, a) - r - max f'(s', .) )^2
    e_h(f)     = L_h(f_h, f_{h+1}) - min over g in F_h of L_h(g, f_{h+1}),    f_{H+1} = 0

and the confidence set holds the f with e_h(f) <= threshold at every step. It is never empty, even
where F does not hold the truth: members that fit best, chosen from the last step to the first, have
no excess.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def bellman_loss(values: Array, rewards: Array, following: Array, weights: Array) -> Array:
    """Weighted sum of ( value - reward - following )^2 over the last axis, [...].

    Args:
        values, rewards, following, weights: broadcast against each other, [..., N]: of N steps
            with weights 1; or of N pairs (s, a) with the number of their visits, their mean reward
            and the mean value after them, which is less by what does not depend on `values`.
    """
    squares: Array = weights * (values - rewards - following) ** 2
    return squares.sum(axis=-1)


def excesses(
    functions: Array,
    members: Array,
    visits: NDArray[np.int64],
    rewards: Array,
    transitions: Array,
) -> Array:
    """How much worse functions explain what was seen than the best member of the class does.

    Args:
        functions: f, [J, H, S, A].
        members: the class, [K, H, S, A].
        visits, rewards: numbers and means of what was seen, [H, S, A].
        transitions: shares of the next states, [H, S, A, S].

    Returns:
        e_h of function i at step h when function j is what follows, [H, J, J].
    """
    steps = members.shape[1]
    best = np.concatenate([functions[:, 1:].max(axis=-1), np.zeros_like(functions[:, :1, :, 0])], 1)
    following = np.einsum("hsat,jht->hjsa", transitions, best).reshape(steps, 1, len(best), -1)
    paid = rewards.reshape(steps, 1, 1, -1)
    weights = visits.astype(np.float64).reshape(paid.shape)

    def losses(tables: Array) -> Array:
        own = tables.swapaxes(0, 1).reshape(steps, len(tables), 1, -1)
        return bellman_loss(own, paid, following, weights)

    return losses(functions) - losses(members).min(axis=1, keepdims=True)


def worst_excesses(found: Array) -> Array:
    """The largest excess of the best f that has a given member at a given step.

    Args:
        found: `excesses` of the class itself, [H, K, K].

    Returns:
        [H, K]; member i of step h is in the confidence set where this is at most the threshold.
    """
    steps, members, _ = found.shape
    onwards, until = np.empty((steps, members)), np.full((steps, members), -np.inf)
    onwards[-1] = found[-1].min(axis=1)  # nothing follows the last step: all columns are equal
    for step in reversed(range(steps - 1)):
        onwards[step] = np.maximum(found[step], onwards[step + 1]).min(axis=1)
    for step in range(1, steps):
        until[step] = np.maximum(found[step - 1], until[step - 1][:, None]).min(axis=0)
    return np.maximum(onwards, until)


def optimistic(members: Array, worst: Array, threshold: float) -> Array:
    """The largest value of each step, state and action over the confidence set, [H, S, A].

    Args:
        members: [K, H, S, A].
        worst: `worst_excesses`, [H, K].
        threshold: of the excess, at least 0.
    """
    inside = (worst <= threshold).T[:, :, None, None]
    found: Array = np.where(inside, members, -np.inf).max(axis=0)
    return found
