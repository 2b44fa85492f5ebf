"""Exact nearest neighbours among the rows of a table, a million of them and more."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

# By how much the squared distance of every row exceeds that of the one before, all else equal: more
# than rounding does, and over a million rows as little as float32 leaves of observations anyway.
STEP = 2e-13


class NearestRows:
    """The k-th nearest row of a table to a key, in Euclidean distance.

    The table is turned so that its axes are its principal ones, in order: distances stay, and a
    tree that splits along axes has less to look at where columns depend on each other. One more
    column grows slightly from row to row, away from that of the keys: it makes the first one of
    equally near rows the nearest.

    Args:
        rows: [N, d], numbers.

    Raises:
        ValueError: there are no rows or columns, or a number is not finite.
    """

    def __init__(self, rows: NDArray[Any]) -> None:
        table = np.asarray(rows, dtype=np.float64)
        if table.ndim != 2 or not table.size:
            raise ValueError(f"rows have shape {table.shape}, allowed is [N, d] with N, d >= 1")
        if not (finite := np.isfinite(table).all(axis=1)).all():
            row = int(np.argmin(finite))
            raise ValueError(f"rows[{row}] = {table[row].tolist()} is not finite")
        self.mean: NDArray[np.float64] = table.mean(axis=0)
        table = table - self.mean
        # eigh sorts the axes from the least to the most variance.
        self.axes: NDArray[np.float64] = np.linalg.eigh(table.T @ table)[1][:, ::-1]
        turned = np.empty((len(table), table.shape[1] + 1))
        np.matmul(table, self.axes, out=turned[:, :-1])
        # With the keys at -1 there, squared distances grow by 1 + STEP * (number of rows before).
        turned[:, -1] = STEP / 2 * np.arange(len(table))
        self.tree = cKDTree(turned, leafsize=16, copy_data=False)

    def __len__(self) -> int:
        return int(self.tree.n)

    def query(self, keys: NDArray[Any], k: int = 1, workers: int = 1) -> NDArray[np.int64]:
        """Numbers of the k-th nearest rows, [B]; of equally near ones the lower comes first.

        Args:
            keys: [B, d].
            k: in 1 .. N; with 1 the nearest.
            workers: threads, -1 for all cores.

        Raises:
            ValueError: the keys have another width or are not finite, or k is out of range.
        """
        asked = np.asarray(keys, dtype=np.float64)
        width = len(self.mean)
        if asked.ndim != 2 or asked.shape[1] != width:
            raise ValueError(f"keys have shape {asked.shape}, allowed is [B, {width}]")
        if not 1 <= k <= len(self):
            raise ValueError(f"k={k} of {len(self)} rows, allowed are 1 .. {len(self)}")
        turned = np.empty((len(asked), width + 1))
        np.matmul(asked - self.mean, self.axes, out=turned[:, :-1])
        turned[:, -1] = -1.0
        if not np.isfinite(turned).all():
            raise ValueError("keys are not finite")
        _, found = self.tree.query(turned, k=[k], workers=workers)
        numbers: NDArray[np.int64] = found[:, 0]
        return numbers
