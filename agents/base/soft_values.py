"""Values and policies with a KL penalty towards a reference, in tables."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def soft_maximum(action_values: Array, reference: Array, kl_coefficient: float) -> Array:
    """lambda log sum_a reference exp(Q / lambda), [...].

    Args:
        action_values: Q [..., A].
        reference: laws [..., A]; an action of probability 0 counts for nothing.
        kl_coefficient: lambda, above 0.
    """
    top, weights = _weights(action_values, reference, kl_coefficient)
    found: Array = top + kl_coefficient * np.log(weights.sum(axis=-1))
    return found


def soft_laws(action_values: Array, reference: Array, kl_coefficient: float) -> Array:
    """reference exp(Q / lambda) / normaliser, [..., A]; arguments as of `soft_maximum`."""
    _, weights = _weights(action_values, reference, kl_coefficient)
    return weights / weights.sum(axis=-1, keepdims=True)


def _weights(action_values: Array, reference: Array, kl_coefficient: float) -> tuple[Array, Array]:
    """The largest Q [...] of an action that the reference plays, and reference exp((Q - that) /
    lambda) [..., A]."""
    possible = np.where(reference > 0, action_values, -np.inf)
    top = possible.max(axis=-1)
    with np.errstate(over="ignore"):  # a tiny lambda: exp(-inf) = 0 is meant
        return top, reference * np.exp((possible - top[..., None]) / kl_coefficient)


def checked_reference(reference: Array, shape: tuple[int, int, int]) -> Array:
    """Laws to stay close to, with a warning where they exclude an action.

    Args:
        reference: [H, S, A].
        shape: H, S, A.

    Raises:
        ValueError: another shape, or no probabilities.
    """
    if reference.shape != shape:
        raise ValueError(f"reference has shape {reference.shape}, it must be {shape}")
    if not ((reference >= 0).all() and np.allclose(reference.sum(axis=-1), 1, atol=1e-9)):
        raise ValueError("reference must hold probabilities of actions that sum to 1")
    if (reference == 0).any():
        step, state, action = np.argwhere(reference == 0)[0]
        warnings.warn(
            f"the reference never plays {int((reference == 0).sum())} actions, such as {action} in "
            f"state {state} at step {step}: nor will the agent",
            stacklevel=3,
        )
    return reference
