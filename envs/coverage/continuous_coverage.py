"""`ContinuousCoverage-v0`: fly over a map, choosing a velocity, and see as much as possible."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from array_api_compat import array_namespace
from numpy.typing import ArrayLike, NDArray

from ..base import Arrays
from ..faces import ArrayEnv, ArrayVectorEnv
from .base import CoverageCore
from .fields import weight_field
from .set_functions import Coverage

COMPASS = np.array([(x, y) for y in (0, -1, 1) for x in (0, 1, -1)], dtype=np.float64)


class ContinuousCoverage(CoverageCore):
    """A flight over a weighted map, with a velocity as the action, paid for what is seen first.

    ## Description
    A point moves over a rectangle of rows x cols unit cells. At the end of every step it sees the
    cells whose centres are within `radius` of the centre of its own cell. The return is the weight
    of all that was seen.

    ## Observation
    `Box(0, 1, (3,))`, float32: x / cols, y / rows, t / H. With `observation="history"` `Box(0, 1,
    (3 + C,))` for C = rows x cols: then one number per cell (row * cols + column), 1 where a step
    has ended.

    ## Action
    `Box(-1, 1, (2,))`: velocity (x to the right, y down) as a part of `speed`.

    ## Dynamics
    p = (x, y) in [0, cols] x [0, rows]; it stops at the border.

        p' = min(max(p + speed a + noise n_t, 0), (cols, rows))
        s' = row floor(y') (at most rows - 1), column floor(x') (at most cols - 1)

    The tape is n = `rng.standard_normal((H, 2))` where noise > 0. The set S of cells in which a
    step has ended starts as {s_0}; V(s) are the cells seen from s.

        F(S) = sum of rho over the union of V(s), s in S

    ## Reward
    The marginal gain F(S + s') - F(S). With `reward="additive"` F({s'}). `info["set_value"]` is
    F(S), `info["additive_reward"]` is F({s'}).

    ## Episode end
    Terminated after H steps.

    ## Arguments
    - `rows`, `cols`: integers >= 1. `horizon`: H >= 1.
    - `start`: (x, y) in [0, cols] x [0, rows]; by default the middle.
    - `speed`: cells per step, > 0. `noise`: its standard deviation per step and axis, in cells, >=
      0. `radius`: of sight, in cells, >= 0.
    - `weights`: rho, as in `SubmodularCoverage`. `instance`: integer >= 0.
    - `observation`: "markov" or "history"; `reward`: "gain" or "additive".
    - `reset(options={"state": (x, y)})` starts there; the tape is drawn all the same.

    ## Data files
    None.

    ## Sources
    M. Prajapat, M. Mutný, M. N. Zeilinger, A. Krause, Submodular Reinforcement Learning, ICLR 2024,
    arXiv 2307.13372 (coverage of a discretised area with continuous control). Motion and numbers:
    this library.

    ## Version
    v0.
    """

    arrays = ("_singles", "_size")
    set_function: Coverage

    def __init__(
        self,
        rows: int = 16,
        cols: int = 16,
        horizon: int = 30,
        *,
        start: tuple[float, float] | None = None,
        speed: float = 2.0,
        noise: float = 0.0,
        radius: float = 1.0,
        weights: str | ArrayLike = "constant",
        observation: str = "markov",
        reward: str = "gain",
        instance: int = 0,
    ) -> None:
        for name, count in (("rows", rows), ("cols", cols)):
            if isinstance(count, bool) or not isinstance(count, int | np.integer) or count < 1:
                raise ValueError(f"{name}={count!r} must be an integer of at least 1")
        for name, value, low in (
            ("speed", speed, 1e-9),
            ("noise", noise, 0),
            ("radius", radius, 0),
        ):
            if not low <= value < np.inf:
                raise ValueError(f"{name}={value} must be a finite number of at least {low}")
        self.rows, self.cols = int(rows), int(cols)
        self.speed, self.noise = float(speed), float(noise)
        self._size = np.array([cols, rows], dtype=np.float64)
        self.weights = weight_field(weights, self.rows, self.cols, instance)
        row, col = np.indices((self.rows, self.cols)).reshape(2, -1)
        self.centres = np.column_stack([col, row]) + 0.5
        between = ((self.centres[:, None] - self.centres[None]) ** 2).sum(axis=-1)
        views = [np.flatnonzero(squares <= radius**2 + 1e-9) for squares in between]
        super().__init__(Coverage(views, self.weights.reshape(-1)), horizon, 2, observation, reward)
        self.start = self._check_place("start", 0.5 * self._size if start is None else start)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def _check_place(self, name: str, place: Any) -> NDArray[np.float64]:
        found = np.asarray(place, dtype=np.float64)
        if found.shape != (2,) or not ((found >= 0) & (found <= self._size)).all():
            raise ValueError(
                f"{name}={np.asarray(place).tolist()} must be (x, y) in [0, {self.cols}] x "
                f"[0, {self.rows}]"
            )
        return found

    def draw_tape(self, rng: np.random.Generator, options: Mapping[str, Any]) -> Arrays:
        """Start (`options["state"]` or the argument) and the noise of every step."""
        tape: Arrays = {"start": self.start.copy()}
        if "state" in options:
            tape["start"] = self._check_place("options['state']", options["state"])
        if self.noise > 0:
            tape["noise"] = rng.standard_normal((self.horizon, 2))
        return tape

    def _start(self, tape: Arrays) -> Arrays:
        place = tape["start"] + 0
        return {"place": place, "position": self._cell(place)}

    def _move(self, state: Arrays, action: Any, tape: Arrays) -> Arrays:
        xp, t = array_namespace(state["place"]), state["t"]
        place = state["place"] + self.speed * action
        if self.noise > 0:
            place = place + self.noise * tape["noise"][xp.arange(len(t)), t]
        place = xp.minimum(xp.where(place > 0, place, 0.0), self._size)
        return {"place": place, "position": self._cell(place)}

    def _cell(self, place: Any) -> Any:
        """Number of the cell of each place [n, 2]."""
        xp = array_namespace(place)
        inside = xp.astype(xp.floor(xp.minimum(place, self._size - 1.0)), xp.int64)
        return inside[:, 1] * self.cols + inside[:, 0]

    def _show(self, state: Arrays, into: Any) -> None:
        into[:, :] = array_namespace(into).astype(state["place"] / self._size, into.dtype)

    # -- planning ----------------------------------------------------------------------------------

    def calm(self) -> ContinuousCoverage:
        """The same task without noise."""
        core = copy.copy(self)
        core.noise = 0.0
        return core

    def options(self, state: Arrays) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Staying, and full speed in the eight directions of the compass."""
        places = state["place"][:, None] + self.speed * COMPASS
        places = np.clip(places, 0.0, self._size)
        cells = self._cell(places.reshape(-1, 2)).reshape(len(places), len(COMPASS))
        return COMPASS.astype(np.float32), cells

    def distances(self, state: Arrays) -> NDArray[np.float64]:
        """Steps to the centre of every cell, 0 to the present one, [n, E]."""
        apart = np.abs(self.centres - state["place"][:, None]).max(axis=-1)
        steps = np.ceil(apart / self.speed - 1e-9)
        steps[np.arange(len(steps)), state["position"]] = 0.0
        return steps

    def toward(self, state: Arrays, element: NDArray[np.int64]) -> NDArray[Any]:
        """Velocity that leads straight to the centre of a cell, as fast as possible, [n, 2]."""
        wish = (self.centres[element] - state["place"]) / self.speed
        return np.clip(wish, -1.0, 1.0).astype(np.float32)

    # -- picture -----------------------------------------------------------------------------------

    def render_frame(self, state: Arrays, index: int) -> NDArray[np.uint8]:
        """The map: weights, what was seen, the cells of the way and where the agent is."""
        from .render import draw_map

        path = state["path"][index]
        points = self.centres[path[path >= 0]]
        points[-1] = state["place"][index]
        seen = self.set_function.covered(state["visited"][index : index + 1])[0]
        return draw_map(
            self.weights,
            seen=seen.reshape(self.weights.shape),
            path=points,
            title=f"step {int(state['t'][index])} of {self.horizon}",
            subtitle=f"F = {float(state['value'][index]):.4g}",
            legend="weight of a cell",
        )


class ContinuousCoverageEnv(ArrayEnv):
    """Face 1 of `ContinuousCoverage`: `gymnasium.make("ContinuousCoverage-v0")`."""

    core_class: ClassVar[type[ContinuousCoverage]] = ContinuousCoverage


class ContinuousCoverageVectorEnv(ArrayVectorEnv):
    """Face 2 of `ContinuousCoverage`: `gymnasium.make_vec("ContinuousCoverage-v0",
    num_envs=1024)`."""

    core_class: ClassVar[type[ContinuousCoverage]] = ContinuousCoverage
