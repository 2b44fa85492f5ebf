"""`ExperimentDesign-v0`: choose experiments one by one, any of them at any time."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..base import Arrays
from ..faces import ArrayEnv, ArrayVectorEnv
from .base import TableCore
from .grid import make_grid
from .set_functions import InformationGain


class ExperimentDesign(TableCore):
    """D-optimal design: which sites to measure, when every site can be measured next.

    ## Description
    The task of `InformativePath` without the walk. It is a bandit in the sense of the paper: from
    every site each other one can be reached at once (with probability 1 - slip), and a policy
    gradient on marginal gains is close to the greedy design, which is a factor of 1 - 1/e from the
    best.

    ## Observation
    `Box(0, 1, (E + 1,))`, float32, for E sites: the unit vector of the site measured last and t /
    H. With `observation="history"` `Box(0, 1, (2 E + 1,))`: then one number per site, 1 where it
    was measured.

    ## Action
    `Discrete(E)`: the site to measure next.

    ## Dynamics
    With probability `slip` the action is replaced by a uniform one. Where slip > 0 the tape is
    `rng.random(2 H)` = u [H], v [H]: step t is replaced where u[t] < slip, by site floor(E v[t]). S
    is the set of distinct sites measured; it starts as {s_0}.

        F(S) = 0.5 log det(I + K_SS / sigma2)   in nats

    ## Reward
    The marginal gain F(S + s') - F(S) = 0.5 log(1 + var(f(s') | S) / sigma2), 0 for a site of S.
    With `reward="additive"` F({s'}), the same for every site. `info["set_value"]` is F(S),
    `info["additive_reward"]` is F({s'}).

    ## Episode end
    Terminated after H steps.

    ## Arguments
    - `rows`, `cols`: the sites are the cells of a grid with unit spacing, 10 x 10 by default, site
      row * cols + column.
    - `sites`: any sites instead, coordinates [E, d]; then rows and cols must not be given.
    - `horizon`: H >= 1. `start`: the site measured at the start.
    - `kernel`: "squared_exponential" or "matern" (5/2). `length`: in the unit of the coordinates,
      > 0. `sigma2`: variance of the noise, > 0, for a field of variance 1.
    - `slip`: probability in [0, 1].
    - `observation`: "markov" or "history"; `reward`: "gain" or "additive".
    - `reset(options={"state": s})` starts with site s; the tape is drawn all the same.

    ## Data files
    None.

    ## Sources
    M. Prajapat, M. Mutný, M. N. Zeilinger, A. Krause, Submodular Reinforcement Learning, ICLR 2024,
    arXiv 2307.13372 (task). K. Chaloner, I. Verdinelli, Bayesian Experimental Design: A Review,
    Statistical Science 10, 1995 (D-optimality).

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
        sites: ArrayLike | None = None,
        start: int = 0,
        kernel: str = "squared_exponential",
        length: float = 2.0,
        sigma2: float = 0.1,
        slip: float = 0.0,
        observation: str = "markov",
        reward: str = "gain",
    ) -> None:
        self.grid = make_grid(rows, cols, "open", default=(10, 10)) if sites is None else None
        if self.grid is not None:
            sites = self.grid.coordinates()
        elif rows is not None or cols is not None:
            raise ValueError("rows and cols are those of a grid of sites: give them or sites")
        self.sites = np.asarray(sites, dtype=np.float64)
        function = InformationGain(self.sites, kernel, length, sigma2)
        every = np.arange(function.elements)
        super().__init__(
            function,
            np.tile(every, (len(every), 1)),
            start=start,
            horizon=horizon,
            slip=slip,
            observation=observation,
            reward=reward,
        )

    def render_frame(self, state: Arrays, index: int) -> NDArray[np.uint8]:
        """The sites, coloured by what measuring them would tell now."""
        from .render import draw_graph, draw_map

        visited, path = state["visited"][index], state["path"][index]
        path, worth = path[path >= 0], self.set_function.gains(visited[None])[0]
        about: dict[str, Any] = {
            "title": f"measurement {int(state['t'][index])} of {self.horizon}",
            "subtitle": f"F = {float(state['value'][index]):.4g}",
            "legend": "what a measurement would tell now",
        }
        if self.grid is None:
            # Of more than two coordinates the first two are shown, of one a line of sites.
            places = np.pad(self.sites, ((0, 0), (0, 1)))[:, :2]
            edges = np.zeros((0, 2), dtype=np.int64)
            labels = [str(site) for site in range(len(places))]
            return draw_graph(
                places, edges, worth, seen=visited, path=path, labels=labels, jumps=True, **about
            )
        shape = self.grid.walls.shape
        points = np.column_stack(np.divmod(path, self.grid.cols)[::-1]) + 0.5
        return draw_map(
            worth.reshape(shape), seen=visited.reshape(shape), path=points, jumps=True, **about
        )


class ExperimentDesignEnv(ArrayEnv):
    """Face 1 of `ExperimentDesign`: `gymnasium.make("ExperimentDesign-v0")`."""

    core_class: ClassVar[type[ExperimentDesign]] = ExperimentDesign


class ExperimentDesignVectorEnv(ArrayVectorEnv):
    """Face 2 of `ExperimentDesign`: `gymnasium.make_vec("ExperimentDesign-v0", num_envs=1024)`."""

    core_class: ClassVar[type[ExperimentDesign]] = ExperimentDesign
