"""Transitions of many states, of which only the successors are kept."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .planning.tables import check_rows, one_matrix
from .probabilities import cumulative


class SparseRows(NamedTuple):
    """Successors of each pair of a state and an action, K at most, in a table.

    Attributes:
        matrix: P [S * A, S], compressed by rows; row s * A + a.
        successors: int64 [1, S, A, K], ascending; what lies behind the last one does not count.
        cumulative: their probabilities for `pick`, [1, S, A, K].
    """

    matrix: Any
    successors: NDArray[np.int64]
    cumulative: NDArray[np.float64]


def sparse_rows(P: Any) -> SparseRows:
    """Tables of a sparse matrix [S * A, S], or of one [S, S] for each action.

    Raises:
        ValueError: another shape, or rows that are no probabilities.
    """
    matrix = one_matrix(P).copy()  # what was given stays as it is
    check_rows(matrix)
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    states, counts = matrix.shape[1], np.diff(matrix.indptr)
    held = np.arange(counts.max()) < counts[:, None]
    successors, probabilities = np.zeros(held.shape, np.int64), np.zeros(held.shape)
    successors[held], probabilities[held] = matrix.indices, matrix.data
    shape = (1, states, -1, held.shape[1])
    return SparseRows(matrix, successors.reshape(shape), cumulative(probabilities.reshape(shape)))
