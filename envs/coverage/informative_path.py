"""`InformativePath-v0`: walk where measurements tell most about an unknown field."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from ..faces import ArrayEnv, ArrayVectorEnv
from .grid import GridCore, make_grid
from .set_functions import InformationGain


class InformativePath(GridCore):
    """A walk that measures an unknown field and is paid for what it learns.

    ## Description
    A field f over the cells of a grid is drawn from a Gaussian process. Every visited cell is
    measured with noise. The return is the mutual information between the measurements and the
    field: a cell near a measured one tells little.

    ## Observation
    `Box(0, 1, (C + 1,))`, float32, for C = rows x cols: the unit vector of the position (cell row *
    cols + column) and t / H. With `observation="history"` `Box(0, 1, (2 C + 1,))`: then one number
    per cell, 1 where the agent has been.

    ## Action
    `Discrete(5)`: 0 stay, 1 right (column + 1), 2 down (row + 1), 3 left, 4 up.

    ## Dynamics
    Motion, slip and tape are those of `SubmodularCoverage`. S is the set of distinct cells visited,
    K_SS the kernel between them (unit spacing, variance 1).

        F(S) = 0.5 log det(I + K_SS / sigma2)   in nats

    ## Reward
    The marginal gain F(S + s') - F(S) = 0.5 log(1 + var(f(s') | S) / sigma2), 0 for a cell of S.
    With `reward="additive"` F({s'}), the same for every cell. `info["set_value"]` is F(S),
    `info["additive_reward"]` is F({s'}).

    ## Episode end
    Terminated after H steps.

    ## Arguments
    - `rows`, `cols`, `layout`, `start`, `horizon`, `slip`, `observation`, `reward`: as in
      `SubmodularCoverage`; 10 x 10 cells unless a size or a layout says otherwise.
    - `kernel`: "squared_exponential" or "matern" (5/2).
    - `length`: length scale in cells, > 0.
    - `sigma2`: variance of the noise, > 0, for a field of variance 1.
    - `reset(options={"state": s})` starts in cell s; the tape is drawn all the same.

    ## Data files
    None.

    ## Sources
    M. Prajapat, M. Mutný, M. N. Zeilinger, A. Krause, Submodular Reinforcement Learning, ICLR 2024,
    arXiv 2307.13372 (task). A. Krause, A. Singh, C. Guestrin, Near-Optimal Sensor Placements in
    Gaussian Processes, JMLR 9, 2008 (the set function).

    ## Version
    v0.
    """

    set_function: InformationGain

    def __init__(
        self,
        rows: int | None = None,
        cols: int | None = None,
        horizon: int = 20,
        *,
        start: int | tuple[int, int] = 0,
        kernel: str = "squared_exponential",
        length: float = 2.0,
        sigma2: float = 0.1,
        layout: str | Sequence[str] = "open",
        slip: float = 0.0,
        observation: str = "markov",
        reward: str = "gain",
    ) -> None:
        grid = make_grid(rows, cols, layout, default=(10, 10))
        super().__init__(
            grid,
            InformationGain(grid.coordinates(), kernel, length, sigma2),
            start=start,
            horizon=horizon,
            slip=slip,
            observation=observation,
            reward=reward,
        )


class InformativePathEnv(ArrayEnv):
    """Face 1 of `InformativePath`: `gymnasium.make("InformativePath-v0")`."""

    core_class: ClassVar[type[InformativePath]] = InformativePath


class InformativePathVectorEnv(ArrayVectorEnv):
    """Face 2 of `InformativePath`: `gymnasium.make_vec("InformativePath-v0", num_envs=1024)`."""

    core_class: ClassVar[type[InformativePath]] = InformativePath
