"""How far solutions are from reference solutions, in percent."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def gaps(
    objectives: ArrayLike, references: ArrayLike, maximise: bool = False
) -> NDArray[np.float64]:
    """100 (objective - reference) / reference of each instance; where values are maximised
    100 (reference - objective) / reference.

    A gap of 0 is as good as the reference, a negative one is better. Where both are 0 it is 0.

    Args:
        objectives: lengths, or values where `maximise`, [m].
        references: the same of the reference solutions, [m].
        maximise: whether more is better (orienteering, knapsack).

    Raises:
        ValueError: the shapes differ, there are none, a reference is negative or not finite, or it
            is 0 and the objective is not.
    """
    found = np.asarray(objectives, dtype=np.float64)
    reference = np.asarray(references, dtype=np.float64)
    if found.shape != reference.shape or not found.size:
        raise ValueError(
            f"objectives of shape {found.shape} and references of shape {reference.shape}: "
            "there must be as many of both, and at least one"
        )
    if not (np.isfinite(reference).all() and (reference >= 0).all()):
        raise ValueError("references must be finite and at least 0")
    none = reference == 0
    if (found[none] != 0).any():
        raise ValueError("there is no gap to a reference of 0")
    excess = reference - found if maximise else found - reference
    return 100.0 * excess / np.where(none, 1.0, reference)


def mean_gap(objectives: ArrayLike, references: ArrayLike, maximise: bool = False) -> float:
    """Mean of `gaps`, in percent."""
    return float(gaps(objectives, references, maximise).mean())
