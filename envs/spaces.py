"""Spaces that say more than Gymnasium's: what is feasible now, and how texts go into arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray


class FeasibleDiscrete(spaces.Discrete):
    """`Discrete`, of which an environment says after every step what is feasible.

    `sample()` without a mask draws from `feasible`, so that a loop that knows nothing of masks acts
    legally too. Equal to a `Discrete` of the same size.
    """

    feasible: NDArray[np.bool_] | None = None

    def sample(self, mask: Any = None, probability: Any = None) -> np.int64:
        """One action: of `mask` or by `probability` as in `Discrete`, else of `feasible`."""
        if mask is None and probability is None and self.feasible is not None:
            mask = self.feasible.astype(np.int8)
        return super().sample(mask, probability)


class FeasiblePairs(spaces.MultiDiscrete):
    """`MultiDiscrete([rows, columns])` with a joint mask: which pairs are feasible.

    A mask is a boolean array [rows, columns]: whether a column is feasible depends on the row.
    """

    feasible: NDArray[np.bool_] | None = None

    def sample(self, mask: Any = None, probability: Any = None) -> NDArray[Any]:
        """One pair: of a joint mask [rows, columns], or as in `MultiDiscrete`, else of
        `feasible`."""
        if mask is None and probability is None:
            mask = self.feasible
        if not isinstance(mask, np.ndarray):
            return super().sample(mask, probability)
        if mask.shape != tuple(self.nvec):
            raise ValueError(f"a joint mask has shape {(*self.nvec.tolist(),)}, got {mask.shape}")
        places = np.flatnonzero(mask)
        if not len(places):
            return np.zeros(2, dtype=self.dtype)
        place = places[self.np_random.integers(len(places))]
        return np.array(np.divmod(place, mask.shape[1]), dtype=self.dtype)


class Texts(spaces.Text):
    """`Text` whose values go into object arrays of shape [n], as SB3's `DummyVecEnv` keeps them.

    Gymnasium's own has no shape, of which SB3 can make no array. Equal to a `Text` of the same
    lengths and characters.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._shape = ()
        self.dtype = np.dtype(object)
