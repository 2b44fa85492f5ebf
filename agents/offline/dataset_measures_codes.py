"""Numbers for what is seen and done, equal where two steps are the same or in the same bin."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

EDGES = 100
WIDEST = 2**62  # codes of pairs stay below


def count_pairs(states: Any, actions: Any, reference: tuple[Any, Any] | None = None) -> int:
    """u: distinct pairs of a state and an action; where there is a reference, in its bins."""
    reference = (states, actions) if reference is None else reference
    both = join(codes("states", states, reference[0]), codes("actions", actions, reference[1]))
    return int(both.max()) + 1


def codes(name: str, values: Any, reference: Any) -> NDArray[np.int64]:
    """Numbers 0, 1, ... that are the same where two of N values are, or fall into the same bins.

    Args:
        name: of the values, for messages.
        values, reference: [N, ...] and [M, ...], or dictionaries of these.

    Raises:
        ValueError: there are no values, their shape is not the reference's, or one is not finite.
    """
    if isinstance(values, Mapping):
        if not isinstance(reference, Mapping) or set(values) != set(reference):
            raise ValueError(f"{name} are dictionaries with {sorted(values)}, the reference's not")
        parts = [np.asarray(values[key]) for key in sorted(values)]
        return hashed([check_finite(name, part) for part in parts])
    array, limits = np.asarray(values), np.asarray(reference)
    if not len(array) or not len(limits):
        raise ValueError(f"{name}: {len(array)} values and {len(limits)} of the reference")
    if array.shape[1:] != limits.shape[1:]:
        raise ValueError(
            f"{name} have entries of shape {array.shape[1:]}, the reference's {limits.shape[1:]}"
        )
    check_finite(name, array)
    if array.ndim > 2:
        return hashed([array])
    array, limits = array.reshape(len(array), -1), limits.reshape(len(limits), -1)
    if np.issubdtype(array.dtype, np.floating):
        check_finite(f"{name} of the reference", limits)
        low, high = limits.min(axis=0), limits.max(axis=0)
        columns = (bins(array[:, k], low[k], high[k]) for k in range(array.shape[1]))
    else:
        columns = (array[:, k].astype(np.int64) for k in range(array.shape[1]))
    found = np.zeros(len(array), dtype=np.int64)
    for column in columns:
        found = join(found, column, packed=False)
    return np.unique(found, return_inverse=True)[1].reshape(-1)


def bins(values: ArrayLike, low: float, high: float, edges: int = EDGES) -> NDArray[np.int64]:
    """The bin of each value, [N]: 0 below the first edge, `edges` at or above the last.

    Args:
        values: [N].
        low, high: first and last edge; where they are equal there is one bin for all.
        edges: how many there are, equally far from each other.
    """
    found = np.asarray(values)
    if low == high:
        return np.zeros(len(found), dtype=np.int64)
    return np.digitize(found, np.linspace(low, high, edges)).astype(np.int64)


def join(
    left: NDArray[np.int64], right: NDArray[np.int64], packed: bool = True
) -> NDArray[np.int64]:
    """Numbers that are the same where two pairs are, [N]: 0, 1, ... if `packed`."""
    right = right - right.min()
    many = int(right.max()) + 1
    if (int(left.max()) + 1) * many > WIDEST:
        left = np.unique(left, return_inverse=True)[1].reshape(-1)
        right = np.unique(right, return_inverse=True)[1].reshape(-1)
        many = int(right.max()) + 1
    found = left * many + right
    return np.unique(found, return_inverse=True)[1].reshape(-1) if packed else found


def hashed(parts: list[NDArray[Any]]) -> NDArray[np.int64]:
    """Numbers that are the same where the bytes of all parts are, [N]."""
    numbers: dict[bytes, int] = {}
    found = np.empty(len(parts[0]), dtype=np.int64)
    for row in range(len(found)):
        digest = hashlib.blake2b(b"".join(part[row].tobytes() for part in parts), digest_size=16)
        found[row] = numbers.setdefault(digest.digest(), len(numbers))
    return found


def check_finite(name: str, array: NDArray[Any]) -> NDArray[Any]:
    """The array; ValueError where a number of it is not finite."""
    if np.issubdtype(array.dtype, np.floating) and not (finite := np.isfinite(array)).all():
        row = int(np.argwhere(~finite)[0][0])
        raise ValueError(f"{name}[{row}] = {array[row]} is not finite")
    return array


def conditional_entropy(given: NDArray[np.int64], pairs: NDArray[np.int64]) -> float:
    """Mean entropy in nats of what comes with `given`, by numbers [N] of both and of the pairs."""
    alone, together = np.bincount(given), np.bincount(pairs)
    return float(np.log(alone[given]).mean() - np.log(together[pairs]).mean())
