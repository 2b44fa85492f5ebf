"""`CarCoverage-v0`: race a model car round a track, paid for the ground that it sees first."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import gymnasium as gym
import numpy as np
from array_api_compat import array_namespace
from numpy.typing import ArrayLike, NDArray

from ..base import Arrays
from ..checks import check_number
from ..faces import ArrayEnv, ArrayVectorEnv
from .base import CoverageCore
from .car import BASE, drive
from .set_functions import Coverage
from .track import Track, wrapped

if TYPE_CHECKING:
    import torch

LOCK = 0.35  # rad, of the front wheels at full steering
FASTEST = 5.0  # m/s, at a start
# Units of an observation: m/s along and across the car, and rad/s.
SPEED, ASIDE, YAW = 4.0, 1.0, 10.0
# Of the driver who plans: m/s, m/s^2 across in a bend, metres to the point steered for and looked
# ahead for bends.
CRUISE, GRIP, AIM, SIGHT = 2.2, 6.0, 0.3, 0.9
CONTROLS = np.array(
    [(throttle, steer) for throttle in (0.3, 1.0, -1.0) for steer in (0.0, 0.5, -0.5, 1.0, -1.0)]
)


class CarCoverage(CoverageCore):
    """A race car on a track that is paid for the ground that it covers, and so for being fast.

    ## Description
    A radio-controlled car in scale 1:43 drives on a closed track. A camera sees the track around
    the car; the return is the area seen. Nothing is paid for standing still or for seeing the same
    bend again, and in a given time a fast car sees more. A car that leaves the track is out.

    ## Observation
    `Box(-1, 1, (7 + b,))`, float32, every number limited to [-1, 1]: place along the track 2 s /
    length - 1, offset d / half_width, direction mu / pi, v_x / (4 m/s), v_y / (1 m/s), yaw rate /
    (10 rad/s), then for each of the b distances in `preview` the curvature of the centre line so
    far ahead times half_width (left positive), then t / H in [0, 1]. With `observation="history"`
    follow C + 1 numbers: one per cell, row by row from the lowest y on, 1 where a step has ended,
    and a last one, 1 when the car has left the track.

    ## Action
    `Box(-1, 1, (2,))`: throttle D (below 0 the car brakes), and steering, which turns the front
    wheels by delta = 0.35 rad times the number, to the left.

    ## Dynamics
    State (x, y, phi, v_x, v_y, r): place in m, heading, speed along and across the car, yaw rate.
    With F_x = (0.287 - 0.0545 v_x) D - 0.0518 - 0.00035 v_x^2 (in N), mass m = 0.041 kg, moment of
    inertia I = 27.8e-6 kg m^2, axles l_f = 0.029 m before and l_r = 0.033 m behind the centre:

        x' = v_x cos phi - v_y sin phi      y' = v_x sin phi + v_y cos phi      phi' = r
        m v_x' = F_x - F_f sin delta + m v_y r      m v_y' = F_r + F_f cos delta - m v_x r
        I r' = F_f l_f cos delta - F_r l_r
        F_f = 0.2016 sin(1.2 atan(2.579 (delta - atan((v_y + l_f r) / v_x))))
        F_r = 0.20844 sin(1.2691 atan(2.821 atan((l_r r - v_y) / v_x)))

    where v_x in the two quotients is at least 0.4. Slow cars do not slide: x', y', phi' and m v_x'
    = F_x, with r = v_x tan(delta) / (l_f + l_r) and v_y = l_r r, v_x never below 0. A step of
    `seconds` consists of equal steps of at most 0.03 s; in each, both models make a Runge-Kutta
    step of fourth order, and the results are mixed with the weight min(max((v_x - 0.4) / 0.2, 0),
    1) of the sliding one.

    The track is the band |d| <= half_width around a closed line; (s, d) is the distance along and
    from the line (left positive), mu the heading relative to it. The car starts at s = 0, at rest
    and straight, `offset` to the left where `rng.random()` < 0.5, else as far to the right: the
    tape is that state. The ground is cut into square cells, from one cell beyond the lowest x and y
    of the track on. S is the set of cells in which a step has ended and of that of the start, V(c)
    are the cells of the track (by their centres) whose centres are within `radius` of the centre of
    c. A step that ends off the track leads to an element that sees nothing.

        F(S) = cell^2 |union of V(c), c in S|   in square metres

    ## Reward
    The marginal gain F(S + c') - F(S), 0 off the track. With `reward="additive"` F({c'}).
    `info["set_value"]` is F(S), `info["additive_reward"]` is F({c'}).

    ## Episode end
    Terminated after H steps, and when the centre of the car is off the track.

    ## Arguments
    - `horizon`: H >= 1 (the paper's: 700).
    - `track`: "circuit" (15.8 m, nine bends), "oval" (7.8 m) or points (x, y) in metres, [k, 2]
      with k >= 4, of a closed centre line, in the direction of travel; a spline joins them. The
      radius of its bends must exceed `half_width`, and its parts must not overlap.
    - `half_width`: of the track in m, > 0. `cell`: side of a cell in m, in [0.01, half_width].
      `radius`: of sight in m, >= 0.
    - `seconds`: per step, in [0.001, 0.2]. `offset`: at the start in m, in [0, half_width].
    - `preview`: distances ahead in m, each >= 0; with `()` an observation shows where the car is
      and no bends, as the paper's.
    - `observation`: "markov" or "history"; `reward`: "gain" or "additive".
    - `reset(options={"state": (s, d, mu, v_x, v_y, r)})` starts there, with |d| <= half_width, |mu|
      <= pi and 0 <= v_x <= 5; the tape is drawn all the same.

    ## Data files
    None.

    ## Sources
    M. Prajapat, M. Mutný, M. N. Zeilinger, A. Krause, Submodular Reinforcement Learning, ICLR 2024,
    arXiv 2307.13372 (task; tyres, step and start as in their program, which mixes the models from
    0.3 to 0.5 m/s, pays progress, charges time and leaving the track, and turns the wheels up to 1
    rad). A. Liniger, A. Domahidi, M. Morari, Optimization-based autonomous racing of 1:43 scale RC
    cars, 2015, arXiv 1711.07300 (car, model and numbers). Tracks, camera, preview: this library.

    ## Version
    v0.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 30}
    set_function: Coverage

    def __init__(
        self,
        horizon: int = 100,
        *,
        track: str | ArrayLike = "circuit",
        half_width: float = 0.2,
        cell: float = 0.1,
        radius: float = 0.25,
        seconds: float = 0.03,
        offset: float = 0.1,
        preview: Sequence[float] = (0.2, 0.4, 0.6, 0.8, 1.0),
        observation: str = "markov",
        reward: str = "gain",
    ) -> None:
        self.track = Track(track, half_width)
        self.side = check_number("cell", cell, 0.01, half_width)
        self.radius = check_number("radius", radius, 0.0)
        self.seconds = check_number("seconds", seconds, 0.001, 0.2)
        self.offset = check_number("offset", offset, 0.0, half_width)
        self.preview = tuple(check_number("preview", ahead, 0.0) for ahead in preview)
        self._low = self.track.samples.min(axis=0) - half_width - self.side
        room = self.track.samples.max(axis=0) + half_width + self.side - self._low
        self.cols, self.rows = np.ceil(room / self.side).astype(int).tolist()
        self.off = self.rows * self.cols  # the element of a car that has left the track
        row, col = np.indices((self.rows, self.cols)).reshape(2, -1)
        self.centres = (np.column_stack([col, row]) + 0.5) * self.side + self._low
        self._places = self.track.locate(*self.centres.T.copy())[:2]
        self.ground = np.abs(self._places[1]) <= half_width
        area = np.full(self.off, self.side**2)
        super().__init__(
            Coverage([*self._views(), []], area),
            horizon,
            6 + len(self.preview),
            observation,
            reward,
        )
        size = self.observation_space.shape[0]
        low = np.where(np.arange(size) < self.features, -1.0, 0.0).astype(np.float32)
        self.observation_space = gym.spaces.Box(low, np.ones(size, np.float32))
        self.action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def _views(self) -> list[NDArray[np.int64]]:
        """The cells of the track that are seen from each cell."""
        found, ground = [], np.flatnonzero(self.ground)
        for centre in self.centres:
            squares = ((self.centres[ground] - centre) ** 2).sum(axis=1)
            found.append(ground[squares <= self.radius**2 + 1e-9])
        return found

    def _check_state(self, given: Any) -> NDArray[np.float64]:
        found, width = np.asarray(given, dtype=np.float64), self.track.half_width
        if found.shape != (6,) or not (
            np.isfinite(found).all()
            and abs(found[1]) <= width
            and abs(found[2]) <= np.pi
            and 0 <= found[3] <= FASTEST
        ):
            raise ValueError(
                f"options['state']={found.tolist()} must be finite numbers (s, d, mu, v_x, v_y, r) "
                f"with |d| <= {width:g}, |mu| <= pi and 0 <= v_x <= {FASTEST:g}"
            )
        return found

    # -- the motion --------------------------------------------------------------------------------

    def draw_tape(self, rng: np.random.Generator, options: Mapping[str, Any]) -> Arrays:
        """The start (s, d, mu, v_x, v_y, r): left or right of the line, or `options["state"]`."""
        start = np.zeros(6)
        start[1] = self.offset if rng.random() < 0.5 else -self.offset
        return {"start": self._check_state(options["state"]) if "state" in options else start}

    def _start(self, tape: Arrays) -> Arrays:
        start = tape["start"]
        xp = array_namespace(start)
        s, d, mu, v_x, v_y, yaw = (start[:, column] + 0 for column in range(6))
        x, y, along = self.track.at(s)
        x, y = x - d * xp.sin(along), y + d * xp.cos(along)
        return self._placed(xp.stack([x, y, along + mu, v_x, v_y, yaw]))

    def _move(self, state: Arrays, action: Any, tape: Arrays) -> Arrays:
        xp, car = array_namespace(state["car"]), state["car"]
        now = xp.stack([car[:, column] for column in range(6)])
        throttle, steer = action[:, 0] + 0, action[:, 1] + 0
        return self._placed(drive(now, throttle, LOCK * steer, self.seconds))

    def _placed(self, car: Any) -> Arrays:
        """State of the motion from that of the cars [6, n]: `car` [n, 6], `road` (s, d, mu) [n, 3]
        and `position`."""
        xp = array_namespace(car)
        s, d, along = self.track.locate(car[0], car[1])
        col = xp.astype(xp.floor((car[0] - float(self._low[0])) / self.side), xp.int64)
        row = xp.astype(xp.floor((car[1] - float(self._low[1])) / self.side), xp.int64)
        on = xp.abs(d) <= self.track.half_width
        return {
            "car": xp.stack([car[number] for number in range(6)], axis=1),
            "road": xp.stack([s, d, wrapped(car[2] - along)], axis=1),
            "position": xp.where(on, row * self.cols + col, self.off),
        }

    def _show(self, state: Arrays, into: Any) -> None:
        xp, car, road = array_namespace(into), state["car"], state["road"]
        s = road[:, 0] + 0
        numbers = [
            2.0 * s / self.track.length - 1.0,
            road[:, 1] / self.track.half_width,
            road[:, 2] / np.pi,
            car[:, 3] / SPEED,
            car[:, 4] / ASIDE,
            car[:, 5] / YAW,
            *(self.track.curvature(s + ahead) * self.track.half_width for ahead in self.preview),
        ]
        into[:, :] = xp.astype(xp.clip(xp.stack(numbers, axis=1), -1.0, 1.0), into.dtype)

    def terminal(self, state: Arrays) -> Any:
        """The horizon is reached, or the car is off the track."""
        return (state["t"] >= self.horizon) | (state["position"] == self.off)

    def torch(
        self, device: str | torch.device = "cpu", dtype: torch.dtype | None = None
    ) -> CarCoverage:
        """As `CoverageCore.torch`, with the track."""
        core = super().torch(device, dtype)
        assert isinstance(core, CarCoverage)
        core.track = self.track.torch(device, dtype)
        return core

    # -- planning ----------------------------------------------------------------------------------

    def calm(self) -> CarCoverage:
        """The same task: nothing goes wrong here but by driving."""
        return copy.copy(self)

    def options(self, state: Arrays) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Three pedals (rolling on, full throttle, brakes) by five angles of the wheels."""
        many = {"car": np.repeat(state["car"], len(CONTROLS), axis=0)}
        found = self._move(many, np.tile(CONTROLS, (len(state["car"]), 1)), {})
        return CONTROLS.astype(np.float32), found["position"].reshape(-1, len(CONTROLS))

    def distances(self, state: Arrays) -> NDArray[np.float64]:
        """Steps along the track, forwards at 2.2 m/s, to every cell of it, 0 to the present one,
        [n, E]; infinite to what lies off the track."""
        s, _ = self._places
        ahead = (s - state["road"][:, :1]) % self.track.length
        steps = np.full((len(ahead), self.elements), np.inf)
        steps[:, : self.off] = np.where(
            self.ground, np.ceil(ahead / (CRUISE * self.seconds)), np.inf
        )
        steps[np.arange(len(steps)), state["position"]] = 0.0
        return steps

    def toward(self, state: Arrays, element: NDArray[np.int64]) -> NDArray[Any]:
        """Throttle and steering of a driver who follows the centre line, [n, 2].

        There is one way to every element, round the track: the driver steers for a point of the
        line 0.3 m ahead and is as fast as the bends before him allow, up to 2.2 m/s.
        """
        car, s = state["car"], state["road"][:, 0]
        x, y, _ = self.track.at(s + AIM)
        right, up = x - car[:, 0], y - car[:, 1]
        aside = np.cos(car[:, 2]) * up - np.sin(car[:, 2]) * right
        steer = np.arctan(2.0 * BASE * aside / (right**2 + up**2)) / LOCK
        ahead = s[:, None] + np.linspace(0.0, SIGHT, 7)
        bend = np.abs(self.track.curvature(ahead)).max(axis=1)
        wish = np.minimum(CRUISE, np.sqrt(GRIP / np.maximum(bend, 1e-9)))
        throttle = 0.3 + 2.0 * (wish - car[:, 3])
        return np.clip(np.column_stack([throttle, steer]), -1.0, 1.0).astype(np.float32)

    # -- picture -----------------------------------------------------------------------------------

    def render_frame(self, state: Arrays, index: int) -> NDArray[np.uint8]:
        """The track from above: what was seen, the way and the car."""
        from scipy.ndimage import distance_transform_edt

        from .render_car import draw_track

        path = state["path"][index]
        path = path[(path >= 0) & (path < self.off)]
        car = state["car"][index]
        seen = self.set_function.covered(state["visited"][index : index + 1])[0]
        # Of a cell on the border whose centre is off the track, show what its neighbour says.
        beyond = ~self.ground.reshape(self.rows, self.cols)
        near = distance_transform_edt(beyond, return_distances=False, return_indices=True)
        share = float(state["value"][index]) / (self.ground.sum() * self.side**2)
        out = " · off the track" if state["position"][index] == self.off else ""
        return draw_track(
            self.track,
            seen=seen.reshape(beyond.shape)[tuple(near)],
            corner=self._low,
            side=self.side,
            path=np.concatenate([self.centres[path], car[None, :2]]),
            heading=float(car[2]),
            title=f"step {int(state['t'][index])} of {self.horizon}{out}",
            subtitle=f"F = {float(state['value'][index]):.2f} m²",
            footer=f"{float(np.hypot(car[3], car[4])):.2f} m/s   {share:.0%} of the track seen",
        )


class CarCoverageEnv(ArrayEnv):
    """Face 1 of `CarCoverage`: `gymnasium.make("CarCoverage-v0")`."""

    core_class: ClassVar[type[CarCoverage]] = CarCoverage


class CarCoverageVectorEnv(ArrayVectorEnv):
    """Face 2 of `CarCoverage`: `gymnasium.make_vec("CarCoverage-v0", num_envs=1024)`."""

    core_class: ClassVar[type[CarCoverage]] = CarCoverage
