"""`SubmodularCoverage-v0`: walk over a map and be paid for what you see for the first time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from ..base import Arrays
from ..faces import ArrayEnv, ArrayVectorEnv
from .fields import weight_field
from .grid import GridCore, make_grid
from .set_functions import Coverage

FOOTPRINT = ((0, 0), (1, 0), (0, 1), (1, 1))


class SubmodularCoverage(GridCore):
    """A walk over a weighted map that is paid, once, for every cell that comes into view.

    ## Description
    Cells of a grid carry weights rho. In a cell the agent sees the cell itself, the one below, the
    one to the right and the one below that: the footprint D(s), as far as it lies inside the grid
    and outside walls. The return of an episode is the weight of all that was seen, a monotone
    submodular set function, so that the same cell pays only once and rewards depend on the past.

    ## Observation
    `Box(0, 1, (C + 1,))`, float32, for C = rows x cols: the unit vector of the position (cell row *
    cols + column) and t / H. With `observation="history"` `Box(0, 1, (2 C + 1,))`: then one number
    per cell, 1 where the agent has been.

    ## Action
    `Discrete(5)`: 0 stay, 1 right (column + 1), 2 down (row + 1), 3 left, 4 up.

    ## Dynamics
    A move off the grid or into a wall stays. With probability `slip` the action is replaced by a
    uniform one. Where slip > 0 the tape is `rng.random(2 H)` = u [H], v [H]: step t is replaced
    where u[t] < slip, by action floor(5 v[t]). The visited set S starts as {s_0}.

        F(S) = sum of rho over the union of D(s), s in S

    ## Reward
    The marginal gain F(S + s') - F(S), so that the return is F(S_H) - F({s_0}). With
    `reward="additive"` F({s'}), which forgets what was seen. `info["set_value"]` is F(S),
    `info["additive_reward"]` is F({s'}).

    ## Episode end
    Terminated after H steps.

    ## Arguments
    - `rows`, `cols`: integers >= 1; 30 x 30, and 7 x 14 for two rooms, where they are not given.
    - `horizon`: H >= 1.
    - `start`: cell, as an index or (row, column).
    - `weights`: "constant", "bimodal", "gaussian_process", "sparse" (see `fields.weight_field`), or
      an array [rows, cols]. Walls weigh nothing. With a negative weight F is not monotone: a
      warning says so once.
    - `layout`: "open", "two_rooms" (joined by one corridor row), or lines of "#" (wall) and ".".
    - `slip`: probability in [0, 1].
    - `observation`: "markov" or "history"; `reward`: "gain" or "additive".
    - `instance`: integer >= 0, draws the weights from `default_rng(instance)`.
    - `reset(options={"state": s})` starts in cell s; the tape is drawn all the same.

    ## Data files
    None.

    ## Sources
    M. Prajapat, M. Mutný, M. N. Zeilinger, A. Krause, Submodular Reinforcement Learning, ICLR 2024,
    arXiv 2307.13372 (task, footprint, sizes, weights). There: 30 x 30, H 40, start 34.

    ## Version
    v0.
    """

    set_function: Coverage

    def __init__(
        self,
        rows: int | None = None,
        cols: int | None = None,
        horizon: int = 40,
        *,
        start: int | tuple[int, int] = 0,
        weights: str | ArrayLike = "constant",
        layout: str | Sequence[str] = "open",
        slip: float = 0.0,
        observation: str = "markov",
        reward: str = "gain",
        instance: int = 0,
    ) -> None:
        grid = make_grid(rows, cols, layout, default=(30, 30))
        field = weight_field(weights, grid.rows, grid.cols, instance)
        self.weights = np.where(grid.walls, 0.0, field)
        super().__init__(
            grid,
            Coverage(grid.footprints(FOOTPRINT), self.weights.reshape(-1)),
            start=start,
            horizon=horizon,
            slip=slip,
            observation=observation,
            reward=reward,
        )

    def picture(self, state: Arrays, index: int) -> dict[str, Any]:
        """The weights, and which of them were seen."""
        seen = self.set_function.covered(state["visited"][index : index + 1])[0]
        return {
            "heat": self.weights,
            "seen": seen.reshape(self.weights.shape),
            "legend": "weight of a cell",
        }


class SubmodularCoverageEnv(ArrayEnv):
    """Face 1 of `SubmodularCoverage`: `gymnasium.make("SubmodularCoverage-v0", rows=8, cols=8)`."""

    core_class: ClassVar[type[SubmodularCoverage]] = SubmodularCoverage


class SubmodularCoverageVectorEnv(ArrayVectorEnv):
    """Face 2 of `SubmodularCoverage`: `gymnasium.make_vec("SubmodularCoverage-v0",
    num_envs=1024)`."""

    core_class: ClassVar[type[SubmodularCoverage]] = SubmodularCoverage
