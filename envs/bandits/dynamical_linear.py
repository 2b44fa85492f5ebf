"""`DynamicalLinearBandit-v0`: actions drive a hidden linear state, and pay over time."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations
from typing import Any, ClassVar, NamedTuple

import gymnasium as gym
import numpy as np
from array_api_compat import array_namespace
from numpy.typing import ArrayLike, NDArray

from ..base import ArrayCore, Arrays
from ..checks import check_choice, check_number
from ..faces import ArrayEnv, ArrayVectorEnv
from .rounds import LARGEST, RoundsCore, product

ACTIONS = ("arm", "vector")


class LinearSystem(NamedTuple):
    """A system by name: A [n, n], B [n, d], omega and theta (rows are outputs), arms [K, d]."""

    A: ArrayLike
    B: ArrayLike
    omega: ArrayLike
    theta: ArrayLike
    arms: ArrayLike


SYSTEMS = {
    "two_speeds": LinearSystem(
        np.diag([0.9, 0.1]),
        np.eye(2),
        [0.1, 0.0],
        [0.0, 0.7],
        [[1.0, 0.0], [0.0, 1.0], [0.7, 0.7], [0.3, 0.9], [0.9, 0.3]],
    ),
    "synthetic": LinearSystem(
        np.diag([0.2, 0.0, 0.1]),
        np.diag([0.45, 0.0, 0.1]),
        np.diag([1.0, 0.0, 0.1]),
        np.diag([0.0, 0.5, 0.1]),
        sorted(permutations((0.0, 0.5, 1.0))),
    ),
}


class DynamicalLinearBandit(RoundsCore):
    """A bandit whose rewards depend on a hidden linear system that the actions drive.

    ## Description
    Advertising is the model: money spent today also pays tomorrow. What an action pays at once
    tells little of what it pays when it is held; which arm is best shows only after the transient.

    ## Observation
    `Box(-m, m, (1,))`, float32, m the largest of its type: the last reward, 0 before the first
    round. The state x is hidden.

    ## Action
    `Discrete(K)`: the row of `arms` that is played. With `action="vector"` `Box(low, high, (d,))`:
    u itself.

    ## Dynamics
    With u_t the vector played in round t, x_0 = 0 (counting rounds from 0), and noises that are
    `sigma` times normal:

        y_t     = omega . x_t + theta . u_t + eta_t
        x_{t+1} = A x_t + B u_t + eps_t

    The tape is `sigma * rng.standard_normal((T, n + 1))`: row t holds eps_t, then eta_t.

    ## Reward
    y_t. Playing u for ever pays h . u on average, h = theta + B' (I - A')^-1 omega. The regret of a
    round is h . u* - h . u_t, u* the best action (of a box, a corner): `info["regret"]`,
    `info["cumulative_regret"]`; `info["h"]` is h, for scoring.

    ## Episode end
    Terminated after T rounds.

    ## Arguments
    - `system`: "two_speeds" (A = diag(0.9, 0.1), B = I, omega = (0.1, 0), theta = (0, 0.7), 5 arms)
      or "synthetic" (the paper's, 3 channels; the arms spend a budget of 1.5 in every order of the
      channels, at most 1 on each).
    - `A` [n, n], `B` [n, d], `omega` [n], `theta` [d]: another system, all four together, with
      `arms` unless `action="vector"`. The spectral radius of A is below 1. `omega` and `theta` may
      be matrices whose rows are outputs; these are summed.
    - `arms`: [K, d], in place of the system's.
    - `action`: "arm" or "vector"; `low`, `high`: of the vector, numbers or [d], low <= high.
    - `sigma`: >= 0.
    - `T`: rounds, integer >= 1.
    - `reset(options={"state": x})` starts from x [n]; the tape is drawn all the same.

    ## Data files
    None.

    ## Sources
    M. Mussi, A. M. Metelli, M. Restelli, Dynamical Linear Bandits, ICML 2023, arXiv 2211.08997;
    system "synthetic": the authors' code, github.com/marcomussi/DLB (MIT).

    ## Version
    v0.
    """

    arrays = ("A", "B", "omega", "theta", "h", "arms", "values", "_gaps")
    observation_space: gym.spaces.Box

    def __init__(
        self,
        *,
        system: str = "two_speeds",
        A: ArrayLike | None = None,
        B: ArrayLike | None = None,
        omega: ArrayLike | None = None,
        theta: ArrayLike | None = None,
        arms: ArrayLike | None = None,
        action: str = "arm",
        low: ArrayLike = 0.0,
        high: ArrayLike = 1.0,
        sigma: float = 0.1,
        T: int = 200,
    ) -> None:
        super().__init__(T)
        named = SYSTEMS[check_choice("system", system, SYSTEMS)]
        own = {"A": A, "B": B, "omega": omega, "theta": theta}
        missing = [name for name, value in own.items() if value is None]
        if 0 < len(missing) < len(own):
            raise ValueError(f"A, B, omega and theta belong together: {missing} missing")
        if missing:
            own = dict(zip(own, named[:4], strict=True))
        self.by_arm = check_choice("action", action, ACTIONS) == "arm"
        if self.by_arm and arms is None:
            if not missing:
                raise ValueError("a system of your own needs arms, or action='vector'")
            arms = named.arms
        self._set_system(own)
        self.sigma = check_number("sigma", sigma, 0.0)
        self.observation_space = gym.spaces.Box(-LARGEST, LARGEST, (1,), np.float32)
        self.arms = np.zeros((0, self.d))
        if self.by_arm:
            self.arms = shaped("arms", arms, (None, self.d))
            self.action_space: gym.Space[Any] = gym.spaces.Discrete(len(self.arms))
            self.values = product(self.h[None], self.arms)[:, 0]
            self.best = float(self.values.max())  # h . u*
        else:
            self.action_space = box = self._box(low, high)
            self.values = np.zeros(0)
            corner = np.where(self.h > 0, box.high, box.low).astype(np.float64)
            self.best = float(product(self.h[None], corner[None])[0, 0])
        self._gaps = self.best - self.values

    def _set_system(self, own: Mapping[str, Any]) -> None:
        self.A = shaped("A", own["A"], (None, None))
        self.n = len(self.A)
        self.A = shaped("A", self.A, (self.n, self.n))
        self.rho = float(np.abs(np.linalg.eigvals(self.A)).max())
        if self.rho >= 1:
            raise ValueError(f"the spectral radius of A is {self.rho:g}, it must be below 1")
        self.B = shaped("B", own["B"], (self.n, None))
        self.d = self.B.shape[1]
        self.omega = shaped("omega", summed(own["omega"]), (self.n,))
        self.theta = shaped("theta", summed(own["theta"]), (self.d,))
        settled = np.linalg.solve((np.eye(self.n) - self.A).T, self.omega)
        self.h = self.theta + product(self.B.T, settled[None])[0]

    def _box(self, low: ArrayLike, high: ArrayLike) -> gym.spaces.Box:
        try:
            bounds = [
                np.broadcast_to(np.asarray(value, np.float32), (self.d,)) for value in (low, high)
            ]
        except ValueError:
            raise ValueError(f"low and high must be numbers, or have shape {(self.d,)}") from None
        if not (np.isfinite(bounds).all() and (bounds[0] <= bounds[1]).all()):
            raise ValueError(f"low={low!r} and high={high!r} must be finite, with low <= high")
        return gym.spaces.Box(bounds[0], bounds[1], dtype=np.float32)

    # -- dynamics ----------------------------------------------------------------------------------

    def draw_tape(self, rng: np.random.Generator, options: Mapping[str, Any]) -> Arrays:
        """The start, and the noises of the state and of the reward in each round."""
        noise = self.sigma * rng.standard_normal((self.T, self.n + 1))
        start = shaped("options['state']", options.get("state", np.zeros(self.n)), (self.n,))
        return {"x": start, "state_noise": noise[:, :-1], "reward_noise": noise[:, -1]}

    def initial(self, tape: Arrays) -> Arrays:
        """The hidden state at the start; `u` is the vector played last, `y` what was paid last."""
        x = tape["x"] + 0
        xp = array_namespace(x)
        played = xp.zeros((len(x), self.d), dtype=x.dtype, device=x.device)
        state = {"x": x, "u": played, "y": 0 * x[:, 0], **self.open_books(x)}
        return {**state, **self.open_arms(x, len(self.arms))} if self.by_arm else state

    def transition(self, state: Arrays, action: Any, tape: Arrays) -> Arrays:
        """One round; `action` int64 [n], or float [n, d] with `action="vector"`."""
        x, t = state["x"], state["t"]
        rows = array_namespace(x).arange(len(t))
        u = self.arms[action] if self.by_arm else action
        y = product(self.omega[None], x)[:, 0] + product(self.theta[None], u)[:, 0]
        y = y + tape["reward_noise"][rows, t]
        if self.by_arm:
            regret = self._gaps[action]
        else:
            regret = self.best - product(self.h[None], u)[:, 0]
        return {
            "x": product(self.A, x) + product(self.B, u) + tape["state_noise"][rows, t],
            "u": u + 0,
            "y": y,
            **self.close_round(state, regret=regret),
            **(self.pull(state, action, y) if self.by_arm else {}),
        }

    def reward(self, state: Arrays, action: Any, next_state: Arrays) -> Any:
        """y, [n]."""
        return next_state["y"] + 0

    def observation(self, state: Arrays) -> Any:
        """The last reward, float32 [n, 1]."""
        xp = array_namespace(state["y"])
        return xp.astype(state["y"], xp.float32)[:, None]

    def info(self, state: Arrays) -> Arrays:
        """`t`, `regret`, `cumulative_regret` [n], and `h` [n, d]."""
        return {**super().info(state), "h": 0 * state["y"][:, None] + self.h}

    # -- picture -----------------------------------------------------------------------------------

    def render_frame(self, state: Arrays, index: int) -> np.ndarray:
        """What the arms paid so far beside what they pay when held, and the regret."""
        from .render import Bars, draw_rounds

        t, u = int(state["t"][index]), state["u"][index]
        if self.by_arm:
            played = np.flatnonzero((self.arms == u).all(axis=1) & (t > 0))
            bars = Bars(
                title="mean reward so far (bar) and when held (tick)",
                names=["(" + ", ".join(f"{v:g}" for v in arm) + ")" for arm in self.arms],
                sums=state["paid"][index],
                counts=state["pulls"][index],
                marks=self.values,
                chosen=int(played[0]) if len(played) else None,
            )
        else:
            bars = Bars(
                title="vector played (bar) and h (tick)",
                names=[f"u{i}" for i in range(self.d)],
                sums=u,
                counts=None,
                marks=self.h,
            )
        hidden = ", ".join(f"{value:.2f}" for value in state["x"][index])
        note = f"hidden state ({hidden})"
        return draw_rounds(bars, self.curves(state, index), t, self.T, note)


def shaped(name: str, value: Any, shape: tuple[int | None, ...]) -> NDArray[np.float64]:
    """`value` as an array of the given shape; None: any length of at least 1.

    Raises:
        ValueError: another shape, or numbers that are not finite.
    """
    array = np.array(value, dtype=np.float64)
    fits = array.ndim == len(shape) and all(
        size > 0 and size == (wanted or size)
        for size, wanted in zip(array.shape, shape, strict=True)
    )
    if not fits:
        allowed = "[" + ", ".join("any" if size is None else str(size) for size in shape) + "]"
        raise ValueError(f"{name} has shape {list(array.shape)}, it must be {allowed}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds numbers that are not finite")
    return array


def summed(outputs: ArrayLike) -> NDArray[np.float64]:
    """A vector as it is; of a matrix the sum of its rows."""
    given = np.asarray(outputs, dtype=np.float64)
    return given.sum(axis=0) if given.ndim == 2 else given


class DynamicalLinearBanditEnv(ArrayEnv):
    """Face 1 of `DynamicalLinearBandit`: `gymnasium.make("DynamicalLinearBandit-v0")`."""

    core_class: ClassVar[type[ArrayCore]] = DynamicalLinearBandit


class DynamicalLinearBanditVectorEnv(ArrayVectorEnv):
    """Face 2 of `DynamicalLinearBandit`: `gymnasium.make_vec("DynamicalLinearBandit-v0",
    num_envs=1024)`."""

    core_class: ClassVar[type[ArrayCore]] = DynamicalLinearBandit
