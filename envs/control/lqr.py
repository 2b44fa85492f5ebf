"""`LQR-v0`: linear plants with noise and quadratic costs, whose best controller is known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from array_api_compat import array_namespace, is_torch_array
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import LinAlgError, solve_discrete_are

from ..base import ArrayCore, Arrays
from ..checks import check_choice, check_integer, check_number, check_share
from ..faces import ArrayEnv, ArrayVectorEnv
from .distractors import next_distractors

COMMON: dict[str, Any] = {"Q": 1.0, "R": 0.0, "clip": np.inf, "reward": "quadratic"}
PLANTS: dict[str, dict[str, Any]] = {
    "double_integrator": {
        **{"A": ((1.0, 0.1), (0.0, 1.0)), "B": ((0.0,), (0.1,)), "R": 0.1, "noise": 0.01},
        **{"start": "normal", "horizon": 100},
    },
    "contracting": {
        **{"A": ((0.9, 0.2), (0.0, 0.8)), "B": ((0.02,), (0.3,)), "R": 0.02, "noise": 0.0},
        **{"start": "uniform", "horizon": 60},
    },
    "integrator": {
        **{"A": ((1.0, 0.2), (0.0, 1.0)), "B": ((0.1,), (0.3,)), "noise": 0.05},
        **{"start": "uniform", "horizon": 10, "clip": 5.0, "reward": "bump"},
    },
    "scalar": {
        **{"A": ((1.0,),), "B": ((0.5,),), "noise": 0.02, "start": "normal", "horizon": 8},
    },
}
TRAIL = 25  # last steps that a picture shows


class LQR(ArrayCore):
    """A linear plant to be held at the origin, with a known best controller.

    ## Description
    Linear dynamics, Gaussian noise and a quadratic cost: the Riccati equation gives the best gain
    and what it costs (`solution()`), so that regret is known exactly. Distractors, which no action
    moves and which cost nothing, may be appended to what is observed.

    ## Observation
    `Box(-inf, inf, (n + k,))`, float32: the state x, then the k distractors z.

    ## Action
    `Box(-u_max, u_max, (m,))`: the control u.

    ## Dynamics
    w_t and e_t standard normal; the clip is per component.

        x' = clip(A x + B u + noise w_t, -clip, clip)
        z' = decay z + spread sqrt(1 - decay^2) e_{t+1},   z_0 = spread e_0

        plant                 A               B          R    noise  start      horizon
        "double_integrator"   (1 .1; 0 1)     (0; .1)    .1   .01    N(0, I)    100
        "contracting"         (.9 .2; 0 .8)   (.02; .3)  .02  0      U[-1,1]^2  60
        "integrator"          (1 .2; 0 1)     (.1; .3)   0    .05    U[-1,1]^2  10    clip 5, bump
        "scalar"              1               .5         0    .02    N(0, 1)    8

    The tape is x_0 (`rng.standard_normal(n)` or `rng.uniform(-1, 1, n)`), w =
    `rng.standard_normal((horizon, n))` and, with distractors, e = `rng.standard_normal((1 +
    horizon, k))`.

    ## Reward
    Of the state before the step and the control.

        "quadratic"   -(Q |x|^2 + R |u|^2)
        "bump"        exp(-2 |x|^2)

    ## Episode end
    Truncated after `horizon` steps; never terminated.

    ## Arguments
    - `plant`: "double_integrator", "contracting", "integrator" or "scalar".
    - `distractors`: k >= 0; `decay` in [0, 1]; `spread` >= 0, the standard deviation of each.
    - `u_max`: > 0.
    - These override the plant: `A` [n, n], `B` [n, m] or [n], numbers `Q`, `R`, `noise` >= 0,
      `clip` > 0 (inf: none), `reward`: "quadratic" or "bump", `horizon`: integer >= 1.
    - `reset(options={"state": x})` starts there, in [-clip, clip]^n; the tape is drawn all the
      same.

    ## Data files
    None.

    ## Sources
    R. E. Kalman, Contributions to the Theory of Optimal Control, 1960 (the task). Plants and
    numbers: this library.

    ## Version
    v0.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 10}
    arrays = ("A", "B")

    def __init__(
        self,
        plant: str = "double_integrator",
        *,
        distractors: int = 0,
        decay: float = 0.9,
        spread: float = 5.0,
        u_max: float = 50.0,
        A: ArrayLike | None = None,
        B: ArrayLike | None = None,
        Q: float | None = None,
        R: float | None = None,
        noise: float | None = None,
        clip: float | None = None,
        reward: str | None = None,
        horizon: int | None = None,
    ) -> None:
        chosen = {**COMMON, **PLANTS[check_choice("plant", plant, PLANTS)]}
        given = {
            **{"A": A, "B": B, "Q": Q, "R": R, "noise": noise},
            **{"clip": clip, "reward": reward, "horizon": horizon},
        }
        chosen |= {name: value for name, value in given.items() if value is not None}
        self.plant = plant
        self.A, self.B = check_plant(chosen["A"], chosen["B"])
        self.Q, self.R, self.noise = (
            check_number(name, chosen[name], 0.0) for name in ("Q", "R", "noise")
        )
        self.clip = _check_clip(chosen["clip"])
        self.kind = check_choice("reward", chosen["reward"], ("quadratic", "bump"))
        self.normal = chosen["start"] == "normal"
        self.horizon: int = check_integer("horizon", chosen["horizon"], 1)
        self.distractors = check_integer("distractors", distractors, 0)
        self.decay = check_share("decay", decay)
        self.spread = check_number("spread", spread, 0.0)
        self.u_max = check_number("u_max", u_max, 1e-9)
        self.n, self.m = self.B.shape
        size = self.n + self.distractors
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (size,), np.float32)
        self.action_space = gym.spaces.Box(-self.u_max, self.u_max, (self.m,), np.float32)

    def solution(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(P, K) of the quadratic cost over infinite time; see `riccati`.

        Without noise, clip and u_max the best cost from x is x^T P x, by u = -K x; with noise
        every step costs noise^2 trace P more.

        Raises:
            ValueError: the reward is a bump, or no stabilising gain is found.
        """
        if self.kind != "quadratic":
            raise ValueError(f"reward={self.kind!r} has no Riccati solution, 'quadratic' has")
        return riccati(self.A, self.B, self.Q, self.R)

    # -- the functions of the core -----------------------------------------------------------------

    def draw_tape(self, rng: np.random.Generator, options: Mapping[str, Any]) -> Arrays:
        """Start, noise of every step and, if there are any, that of the distractors."""
        start = rng.standard_normal(self.n) if self.normal else rng.uniform(-1.0, 1.0, self.n)
        tape = {"start": start, "noise": rng.standard_normal((self.horizon, self.n))}
        if self.distractors:
            tape["drift"] = rng.standard_normal((1 + self.horizon, self.distractors))
        if "state" in options:
            tape["start"] = self._check_start(options["state"])
        return tape

    def _check_start(self, given: Any) -> NDArray[np.float64]:
        start = np.asarray(given, dtype=np.float64)
        inside = np.isfinite(start) & (np.abs(start) <= self.clip)
        if start.shape != (self.n,) or not inside.all():
            allowed = "" if np.isinf(self.clip) else f" in [-{self.clip:g}, {self.clip:g}]"
            raise ValueError(
                f"options['state']={start.tolist()} must be {self.n} finite numbers{allowed}"
            )
        return start

    def initial(self, tape: Arrays) -> Arrays:
        """The start, before any control."""
        x = tape["start"] + 0
        xp = array_namespace(x)
        nothing = xp.stack([xp.zeros_like(x[:, 0])] * self.m, axis=1)
        state = {"t": xp.zeros_like(x[:, 0], dtype=xp.int64), "x": x}
        if self.distractors:
            state["z"] = self.spread * tape["drift"][:, 0]
        state["trail"] = xp.stack([self._row(state, nothing)] * TRAIL, axis=1)
        return state

    def _row(self, state: Arrays, control: Any) -> Any:
        """What a picture keeps of a step: x, the control that led there, z."""
        parts = [state["x"], control]
        if self.distractors:
            parts.append(state["z"])
        return array_namespace(control).concat(parts, axis=1)

    def transition(self, state: Arrays, action: Any, tape: Arrays) -> Arrays:
        """One step of the plant, and of the distractors."""
        t, x = state["t"], state["x"]
        xp = array_namespace(x)
        rows = xp.arange(len(t))
        # Column by column: a matrix product may round differently for one row and for many.
        moved = self.noise * tape["noise"][rows, t]
        for values, matrix in ((x, self.A), (action, self.B)):
            for column in range(matrix.shape[1]):
                moved = moved + values[:, column, None] * matrix[:, column]
        if self.clip < np.inf:
            moved = xp.clip(moved, -self.clip, self.clip)
        after = {"t": t + 1, "x": moved}
        if self.distractors:
            drift = tape["drift"][rows, t + 1]
            after["z"] = next_distractors(state["z"], drift, self.decay, self.spread)
        latest = self._row(after, action + 0)
        after["trail"] = xp.concat([state["trail"][:, 1:], latest[:, None]], axis=1)
        return after

    def observation(self, state: Arrays) -> Any:
        """x, then z, [n, n + k]; float32, of tensors their own type."""
        seen = state["x"] + 0
        if self.distractors:
            seen = array_namespace(seen).concat([seen, state["z"]], axis=1)
        return seen if is_torch_array(seen) else seen.astype(np.float32)

    def reward(self, state: Arrays, action: Any, next_state: Arrays) -> Any:
        """Of the state before the step and the control, [n]."""
        return self.worth(state["x"], action)

    def worth(self, x: Any, control: Any) -> Any:
        """Reward of states [n, n] and controls [n, m]."""
        if self.kind == "bump":
            return array_namespace(x).exp(-2.0 * _squares(x))
        return -(self.Q * _squares(x) + self.R * _squares(control))

    def terminal(self, state: Arrays) -> Any:
        """Never."""
        return state["t"] < 0

    def truncated(self, state: Arrays) -> Any:
        """`horizon` steps were taken."""
        return state["t"] >= self.horizon

    # -- picture -----------------------------------------------------------------------------------

    def render_frame(self, state: Arrays, index: int) -> NDArray[np.uint8]:
        """The plane of the state, and what x, u and z did in the last steps."""
        from .render_lqr import draw_plant

        step = int(state["t"][index])
        shown = state["trail"][index][-min(step + 1, TRAIL) :]
        return draw_plant(self, shown, step)


class LQREnv(ArrayEnv):
    """Face 1 of `LQR`: `gymnasium.make("LQR-v0")`."""

    core_class: ClassVar[type[LQR]] = LQR


class LQRVectorEnv(ArrayVectorEnv):
    """Face 2 of `LQR`: `gymnasium.make_vec("LQR-v0", num_envs=1024)`."""

    core_class: ClassVar[type[LQR]] = LQR


def riccati(
    A: ArrayLike, B: ArrayLike, Q: float | ArrayLike = 1.0, R: float | ArrayLike = 1.0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Best cost and gain of x' = A x + B u with the cost sum of x^T Q x + u^T R u over all time.

    Args:
        A: [n, n]. B: [n, m].
        Q: [n, n], or a multiple of I. R: [m, m], or a multiple of I.

    Returns:
        P [n, n], the cost from x is x^T P x; and K [m, n] of the best control u = -K x.

    Raises:
        ValueError: shapes do not fit, or no stabilising solution is found.
    """
    a, b = check_plant(A, B)
    q, r = (
        np.asarray(weight) * np.eye(size) if np.ndim(weight) == 0 else np.asarray(weight)
        for weight, size in ((Q, len(a)), (R, b.shape[1]))
    )
    try:
        p = solve_discrete_are(a, b, q, r)
        gain = np.linalg.solve(r + b.T @ p @ b, b.T @ p @ a)
    except LinAlgError as error:
        raise ValueError(
            f"no stabilising gain is found for A={a.tolist()}, B={b.tolist()}"
        ) from error
    return p, gain


def check_plant(A: ArrayLike, B: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A [n, n] and B [n, m] (or [n]: one control) as arrays.

    Raises:
        ValueError: their shapes do not fit, or an entry is not finite.
    """
    a, b = np.array(A, dtype=np.float64), np.array(B, dtype=np.float64)
    b = b[:, None] if b.ndim == 1 else b
    if a.ndim != 2 or a.shape[0] != a.shape[1] or b.ndim != 2 or len(b) != len(a) or not b.size:
        raise ValueError(f"A has shape {a.shape} and B {b.shape}, they must be (n, n) and (n, m)")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError(f"A={a.tolist()}, B={b.tolist()} must be finite")
    return a, b


def _check_clip(clip: Any) -> float:
    if isinstance(clip, float) and clip == np.inf:
        return np.inf
    return check_number("clip", clip, 1e-9)


def _squares(values: Any) -> Any:
    """Squared length of each row."""
    total = values[:, 0] ** 2
    for column in range(1, values.shape[1]):
        total = total + values[:, column] ** 2
    return total
