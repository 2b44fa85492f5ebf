"""Losses of the arms, round by round: by a law, or a user's own."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

LAWS = ("stochastic", "adversarial")


def stochastic_losses(
    rng: np.random.Generator, T: int, K: int, mean: float, gap: float
) -> NDArray[np.float64]:
    """Losses of 0 or 1, 1 with probability `mean`, for one arm `mean - gap`; float64 [T, K].

    Draws the good arm, `rng.integers(K)`, then uniforms, `rng.random((T, K))`.
    """
    means = np.full(K, mean)
    means[rng.integers(K)] -= gap
    return (rng.random((T, K)) < means).astype(np.float64)


def adversarial_losses(rng: np.random.Generator, T: int, K: int) -> NDArray[np.float64]:
    """A random walk that all arms share, with one arm a little better; float64 [T, K] in [0, 1].

    The walk of round t = 1, 2, ... goes on from round t without its lowest binary digit 1: in few
    places does the present tell of the past, so that the good arm shows only to a learner that
    compares arms in one round, or that switches often.

        W_t = W_{t - lowest(t)} + sigma xi_t,  W_0 = 0,  xi_t normal,  sigma = 1 / (9 log2 T)
        loss_t(k) = clip(1/2 + W_t - eps [k is good], 0, 1),  eps = (K / T)^(1/3) / (9 log2 T)

    Draws the good arm, `rng.integers(K)`, then `rng.standard_normal(T)`.

    Source: O. Dekel, J. Ding, T. Koren, Y. Peres, Bandits with Switching Costs: T^(2/3) Regret,
    STOC 2014, arXiv 1310.2997.
    """
    good, steps = int(rng.integers(K)), rng.standard_normal(T)
    scale = 1.0 / (9.0 * np.log2(max(T, 2)))
    t, walk = np.arange(1, T + 1), np.zeros(T)
    for digit in range(T.bit_length()):
        # Round t without its digits below this one is an ancestor of t, if it has this one.
        ancestor = (t >> digit) << digit
        walk += np.where(t >> digit & 1 == 1, scale * steps[np.maximum(ancestor, 1) - 1], 0.0)
    losses = np.repeat(0.5 + walk[:, None], K, axis=1)
    losses[:, good] -= scale * (K / T) ** (1 / 3)
    return np.clip(losses, 0.0, 1.0)


def own_losses(losses: ArrayLike, T: int | None, K: int | None) -> NDArray[np.float64]:
    """A user's losses, float64 [T, K].

    Raises:
        ValueError: another shape, or numbers outside [0, 1].
    """
    array = np.array(losses, dtype=np.float64)
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"losses has shape {list(array.shape)}, it must be [T, K]")
    for name, given, found in (("T", T, array.shape[0]), ("K", K, array.shape[1])):
        if given is not None and given != found:
            raise ValueError(f"{name}={given}, but losses has shape {list(array.shape)} = [T, K]")
    wrong = ~((array >= 0) & (array <= 1))  # also true for NaN
    if wrong.any():
        row, arm = (int(i) for i in np.argwhere(wrong)[0])
        raise ValueError(f"losses[{row}, {arm}] = {array[row, arm]} is outside [0, 1]")
    return array
