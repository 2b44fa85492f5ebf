"""The action space of a cluster: moves of virtual machines."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..spaces import FeasiblePairs


class Moves(FeasiblePairs):
    """`FeasiblePairs` for episodes that do not all start with the same feasible pairs.

    Between `seed` and the next reset or step it is not known for which cluster an action is wanted:
    Gymnasium's checker seeds the space, samples, and only then resets. A sample is then drawn from
    the pairs that are feasible now and at every start, if there are any.

    Args:
        nvec: number of VMs, and of entries for the machine.
        at_start: which pairs are feasible in the first state of every episode, bool [nvec].
    """

    _unsure: NDArray[np.bool_] | None = None  # `feasible` when the space was seeded

    def __init__(self, nvec: list[int], at_start: NDArray[np.bool_]) -> None:
        super().__init__(nvec)
        self.at_start = at_start

    def seed(self, seed: Any = None) -> Any:
        """As `MultiDiscrete.seed`."""
        self._unsure = self.feasible
        return super().seed(seed)

    def sample(self, mask: Any = None, probability: Any = None) -> NDArray[Any]:
        """One pair, as `FeasiblePairs.sample`."""
        if mask is None and probability is None and self.feasible is not None:
            always = self.feasible & self.at_start
            if self.feasible is self._unsure and always.any():
                mask = always
        self._unsure = None
        return super().sample(mask, probability)
