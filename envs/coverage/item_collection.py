"""`ItemCollection-v0`: collect items of several kinds, each up to a quota."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..base import Arrays
from ..faces import ArrayEnv, ArrayVectorEnv
from .fields import check_instance
from .grid import Grid, GridCore, make_grid
from .set_functions import ItemQuota


class ItemCollection(GridCore):
    """A walk that picks up items of several kinds, each kind wanted up to a quota.

    ## Description
    Kind i lies on the cells G_i, one item each; d_i of them are wanted. A visit picks up what lies
    on the cell. Which item is worth fetching depends on what was fetched before: a policy that
    remembers does better than one that only knows where it is and how late.

    ## Observation
    `Box(0, 1, (C + 1,))`, float32, for C = rows x cols: the unit vector of the position (cell row *
    cols + column) and t / H. With `observation="history"` `Box(0, 1, (2 C + 1,))`: then one number
    per cell, 1 where the agent has been.

    ## Action
    `Discrete(5)`: 0 stay, 1 right (column + 1), 2 down (row + 1), 3 left, 4 up.

    ## Dynamics
    Motion, slip and tape are those of `SubmodularCoverage`. The visited set S starts as {s_0}.

        F(S) = sum over i of min(|S & G_i|, d_i)

    ## Reward
    The marginal gain F(S + s') - F(S). With `reward="additive"` F({s'}), which pays for an item at
    every visit. `info["set_value"]` is F(S), `info["additive_reward"]` is F({s'}).

    ## Episode end
    Terminated after H steps.

    ## Arguments
    - `rows`, `cols`, `layout`, `start`, `horizon`, `slip`, `observation`, `reward`: as in
      `SubmodularCoverage`.
    - `quotas`: d, numbers >= 0, one per kind.
    - `items`: how many cells of each kind are drawn, |G_i|; from `default_rng(instance)`, kind by
      kind, without replacement among the free cells. A cell may carry several kinds.
    - `groups`: G itself, a list of cells for each kind; then `items` must not be given.
    - `instance`: integer >= 0.
    - `reset(options={"state": s})` starts in cell s; the tape is drawn all the same.

    ## Data files
    None.

    ## Sources
    M. Prajapat, M. Mutný, M. N. Zeilinger, A. Krause, Submodular Reinforcement Learning, ICLR 2024,
    arXiv 2307.13372 (task; six kinds on 30 x 30 cells, H 40).

    ## Version
    v0.
    """

    set_function: ItemQuota

    def __init__(
        self,
        rows: int | None = None,
        cols: int | None = None,
        horizon: int = 40,
        *,
        quotas: Sequence[float] = (3, 2, 3, 4, 6, 3),
        items: Sequence[int] | None = None,
        groups: Sequence[ArrayLike] | None = None,
        start: int | tuple[int, int] = 0,
        layout: str | Sequence[str] = "open",
        slip: float = 0.0,
        observation: str = "markov",
        reward: str = "gain",
        instance: int = 0,
    ) -> None:
        grid = make_grid(rows, cols, layout, default=(30, 30))
        if groups is None:
            groups = draw_groups(
                grid, (18, 14, 13, 16, 18, 14) if items is None else items, instance
            )
        elif items is not None:
            raise ValueError("items and groups are two ways to say the same: give one of them")
        self.groups = [np.asarray(cells, dtype=np.int64).reshape(-1) for cells in groups]
        super().__init__(
            grid,
            ItemQuota(groups, quotas, grid.cells),
            start=start,
            horizon=horizon,
            slip=slip,
            observation=observation,
            reward=reward,
        )

    def picture(self, state: Arrays, index: int) -> dict[str, Any]:
        """As of any grid, with the items that were not picked up."""
        left = ~state["visited"][index]
        items = [
            np.column_stack(np.divmod(cells[left[cells]], self.grid.cols)) for cells in self.groups
        ]
        return {**super().picture(state, index), "items": items}


def draw_groups(grid: Grid, items: Sequence[int], instance: int) -> list[NDArray[np.int64]]:
    """Cells of each kind, drawn without replacement among the free ones.

    Raises:
        ValueError: a kind has no or more items than there are free cells.
    """
    rng, free = np.random.default_rng(check_instance(instance)), np.flatnonzero(grid.free)
    groups = []
    for kind, count in enumerate(items):
        if isinstance(count, bool) or not isinstance(count, int | np.integer):
            raise ValueError(f"items[{kind}]={count!r} must be an integer")
        if not 1 <= count <= len(free):
            raise ValueError(f"items[{kind}]={count} is outside 1 .. {len(free)}, the free cells")
        groups.append(np.sort(rng.choice(free, size=count, replace=False)))
    return groups


class ItemCollectionEnv(ArrayEnv):
    """Face 1 of `ItemCollection`: `gymnasium.make("ItemCollection-v0")`."""

    core_class: ClassVar[type[ItemCollection]] = ItemCollection


class ItemCollectionVectorEnv(ArrayVectorEnv):
    """Face 2 of `ItemCollection`: `gymnasium.make_vec("ItemCollection-v0", num_envs=1024)`."""

    core_class: ClassVar[type[ItemCollection]] = ItemCollection
