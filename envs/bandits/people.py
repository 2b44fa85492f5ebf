"""People to accept or reject: data of one's own, probabilities of acceptance, and errors."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .rounds import LARGEST


def check_data(
    contexts: ArrayLike | None, labels: ArrayLike | None
) -> tuple[NDArray[np.float64] | None, NDArray[np.int64] | None]:
    """Contexts [T, k, d] and labels [T, k] as arrays, or None for both.

    Raises:
        ValueError: one of them is missing or has another shape, a context is not finite, or a label
            is neither 0 nor 1.
    """
    if (contexts is None) != (labels is None):
        raise ValueError("contexts and labels belong together: give both or neither")
    if contexts is None:
        return None, None
    people, known = np.array(contexts, dtype=np.float64), np.asarray(labels)
    if people.ndim != 3 or 0 in people.shape or known.shape != people.shape[:2]:
        raise ValueError(
            f"contexts must have shape [T, k, d] and labels [T, k], got {list(people.shape)} "
            f"and {list(known.shape)}"
        )
    if not (np.abs(people) <= LARGEST).all():
        raise ValueError("contexts holds numbers that are not finite")
    if not np.isin(known, (0, 1)).all():
        raise ValueError(f"labels must be 0 or 1, got {np.unique(known).tolist()}")
    return people, known.astype(np.int64)


def check_acceptance(pi: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """A copy of `pi`; ValueError unless it holds probabilities of that shape."""
    acceptance = np.array(pi, dtype=np.float64)
    if acceptance.shape != shape:
        raise ValueError(f"pi has shape {list(acceptance.shape)}, it must be {list(shape)}")
    wrong = ~((acceptance >= 0) & (acceptance <= 1))  # also true for NaN
    if wrong.any():
        place = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise ValueError(f"pi{list(place)} = {acceptance[place]} is outside [0, 1]")
    return acceptance


def mean(values: Any) -> Any:
    """Mean over people, [n, k] -> [n], added up in their order: equal bits for every n."""
    total = values[:, 0]
    for column in range(1, values.shape[1]):
        total = total + values[:, column]
    return total / values.shape[1]


def expected_error(acceptance: Any, chance: Any) -> Any:
    """Share that is misclassified on average, [n]: who is accepted and has label 0, or is rejected
    and has label 1.

    Args:
        acceptance: probabilities of acceptance, [n, k].
        chance: probabilities of label 1, [n, k].
    """
    return mean(acceptance * (1 - chance) + (1 - acceptance) * chance)
