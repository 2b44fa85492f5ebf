"""What bandit environments share: T rounds, and the books of what they cost and paid."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import NDArray

from ..base import ArrayCore, Arrays
from ..checks import check_integer

POINTS = 120  # of the curves in a picture
LARGEST = float(np.finfo(np.float32).max)  # bound of what has none: checkers warn of infinity


class RoundsCore(ArrayCore):
    """An episode of T rounds that keeps books: what regret and costs came to, what arms paid.

    A subclass starts its state with `open_books`, and every transition adds what `close_round`
    returns. The state then holds `t` int64 [n] (rounds played), for each of the C names in `kept`
    `last_...` and `total_...` [n] (of the last round, and of all), and `curve` [n, P, C] (totals
    along the episode, NaN for what is to come). Where there are arms, `open_arms` and `pull` add
    `pulls` int64 [n, K] and `paid` [n, K].

    Args:
        T: rounds of an episode.
    """

    kept: ClassVar[tuple[str, ...]] = ("regret",)
    horizon: int

    def __init__(self, T: int) -> None:
        self.T = self.horizon = check_integer("T", T, 1)
        self._points = min(self.T, POINTS)

    def open_books(self, like: Any) -> Arrays:
        """Books before the first round; `like` [n, ...] has the floating point type of the
        state."""
        xp, where = array_namespace(like), {"device": like.device}
        nothing = xp.zeros(len(like), dtype=like.dtype, **where)
        shape = (len(like), self._points, len(self.kept))
        return {
            "t": xp.zeros(len(like), dtype=xp.int64, **where),
            "curve": xp.full(shape, float("nan"), dtype=like.dtype, **where),
            **{f"{book}_{name}": nothing + 0 for name in self.kept for book in ("last", "total")},
        }

    def close_round(self, state: Arrays, **amounts: Any) -> Arrays:
        """Books after a round that came to `amounts`, [n] for each name in `kept`."""
        xp, t = array_namespace(state["t"]), state["t"]
        rows, point = xp.arange(len(t)), t * self._points // self.T
        curve = state["curve"] + 0
        books = {"t": t + 1, "curve": curve}
        for column, name in enumerate(self.kept):
            total = state[f"total_{name}"] + amounts[name]
            curve[rows, point, column] = total
            books[f"last_{name}"], books[f"total_{name}"] = amounts[name] + 0, total
        return books

    def open_arms(self, like: Any, arms: int) -> Arrays:
        """`pulls` and `paid` before the first round."""
        xp, shape = array_namespace(like), (len(like), arms)
        return {
            "pulls": xp.zeros(shape, dtype=xp.int64, device=like.device),
            "paid": xp.zeros(shape, dtype=like.dtype, device=like.device),
        }

    def pull(self, state: Arrays, arm: Any, payoff: Any) -> Arrays:
        """`pulls` and `paid` after `arm` int64 [n] was pulled and paid `payoff` [n]."""
        xp = array_namespace(arm)
        rows = xp.arange(len(arm))
        pulls, paid = state["pulls"] + 0, state["paid"] + 0
        pulls[rows, arm] += 1
        paid[rows, arm] += payoff
        return {"pulls": pulls, "paid": paid}

    def terminal(self, state: Arrays) -> Any:
        """All T rounds are played."""
        return state["t"] >= self.T

    def truncated(self, state: Arrays) -> Any:
        """Never."""
        return state["t"] < 0

    def info(self, state: Arrays) -> Arrays:
        """`t`, rounds played, and for each name in `kept` what the last round came to and, as
        `cumulative_...`, all rounds of the episode, [n] each."""
        found: Arrays = {"t": state["t"] + 0}
        for name in self.kept:
            found[name] = state[f"last_{name}"] + 0
            found[f"cumulative_{name}"] = state[f"total_{name}"] + 0
        return found

    def curves(self, state: Arrays, index: int) -> dict[str, NDArray[np.float64]]:
        """The books of episode `index` along its rounds, [P] for each name in `kept`."""
        return {name: state["curve"][index, :, column] for column, name in enumerate(self.kept)}


def product(matrix: Any, vectors: Any) -> Any:
    """`matrix` [m, k] times each of `vectors` [n, k], [n, m].

    Column by column: a library's matrix product may round differently for other n.
    """
    result = vectors[:, :1] * matrix[:, 0]
    for column in range(1, matrix.shape[1]):
        result = result + vectors[:, column : column + 1] * matrix[:, column]
    return result
