"""`TorquePendulum-v0`: swing up a rod with a weak motor; its physics can be set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from array_api_compat import array_namespace, is_torch_array
from numpy.typing import NDArray

from ..base import ArrayCore, Arrays
from ..checks import check_integer
from ..faces import ArrayEnv, ArrayVectorEnv

PHYSICS = ("gravity", "mass", "length")
LARGEST = 20.0  # of each of them
FASTEST = 8.0  # rad/s
STRONGEST = 2.0  # N m
SECONDS = 0.05  # per step


class TorquePendulum(ArrayCore):
    """A rod on a motor that is too weak to lift it at once, to be swung up and held upright.

    ## Description
    Gymnasium's `Pendulum-v1` as arrays: with the default physics and equal seeds it has the same
    starts and, up to rounding, the same trajectories. Gravity, mass and length can be set, at the
    beginning or between two steps, so that an agent can be tested on physics that it has not seen.

    ## Observation
    `Box((-1, -1, -8), (1, 1, 8), (3,))`, float32: cos th, sin th, w. The physics is not observed.

    ## Action
    `Box(-2, 2, (1,))`: the torque u in N m.

    ## Dynamics
    Angle th in rad, 0 upright; angular velocity w in rad/s; gravity g, mass m, length l.

        w'  = clip(w + 0.05 (3 g / (2 l) sin th + 3 / (m l^2) u), -8, 8)
        th' = th + 0.05 w'

    The tape is the start (th, w) = `rng.uniform(-high, high)` with high = (pi, 1); the dynamics are
    deterministic. The physics of an episode is part of its state, which holds `gravity`, `mass` and
    `length` [n]: the torch face differentiates through them as through the torques.

    ## Reward
    -(wrap(th)^2 + 0.1 w^2 + 0.001 u^2) of the state before the action; wrap maps to [-pi, pi).

    ## Episode end
    Truncated after `max_steps`; never terminated.

    ## Arguments
    - `gravity` (m/s^2), `mass` (kg), `length` (m): in (0, 20].
    - `max_steps`: integer >= 1.
    - `set_params(gravity=..., mass=..., length=...)` of the environment changes those named for the
      following steps and episodes; a vector takes one value, or one per sub-environment.
    - `reset(options={"state": (th, w)})` starts there, w in [-8, 8]; the tape is drawn all the
      same.

    ## Data files
    None.

    ## Sources
    Gymnasium, `gymnasium.envs.classic_control.pendulum` (task and numbers).

    ## Version
    v0.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 20}

    def __init__(
        self,
        gravity: float = 10.0,
        mass: float = 1.0,
        length: float = 1.0,
        *,
        max_steps: int = 200,
    ) -> None:
        self.horizon: int = check_integer("max_steps", max_steps, 1)
        self.set_params(gravity=gravity, mass=mass, length=length)
        high = np.array([1.0, 1.0, FASTEST], dtype=np.float32)
        self.observation_space = gym.spaces.Box(-high, high, dtype=np.float32)
        self.action_space = gym.spaces.Box(-STRONGEST, STRONGEST, (1,), np.float32)

    # -- the physics -------------------------------------------------------------------------------

    @property
    def physics(self) -> dict[str, float]:
        """Gravity, mass and length of the episodes that begin from now on."""
        return {name: getattr(self, name) for name in PHYSICS}

    def set_params(self, **physics: float) -> None:
        """Change gravity, mass or length of the episodes that begin from now on.

        A state that exists already carries its own; the environments' `set_params` changes both.

        Raises:
            ValueError: there is no such parameter, or its value is not in (0, 20].
        """
        for name, value in check_physics(physics).items():
            setattr(self, name, float(value))

    # -- the functions of the core -----------------------------------------------------------------

    def draw_tape(self, rng: np.random.Generator, options: Mapping[str, Any]) -> Arrays:
        """The start, (angle, velocity)."""
        high = np.array([np.pi, 1.0])
        start = rng.uniform(-high, high)
        return {"start": _check_start(options["state"]) if "state" in options else start}

    def initial(self, tape: Arrays) -> Arrays:
        """The start, under the physics that is set."""
        start = tape["start"]
        xp = array_namespace(start)
        angle, velocity = start[:, 0] + 0, start[:, 1] + 0
        return {
            "t": xp.zeros_like(angle, dtype=xp.int64),
            "angle": angle,
            "velocity": velocity,
            "torque": xp.zeros_like(angle),
            **{name: xp.zeros_like(angle) + value for name, value in self.physics.items()},
        }

    def transition(self, state: Arrays, action: Any, tape: Arrays) -> Arrays:
        """One step of 0.05 s."""
        angle, torque = state["angle"], action[:, 0] + 0
        xp = array_namespace(angle)
        gravity, mass, length = (state[name] for name in PHYSICS)
        pull = 3 * gravity / (2 * length) * xp.sin(angle)
        push = 3.0 / (mass * length**2) * torque
        velocity = xp.clip(state["velocity"] + (pull + push) * SECONDS, -FASTEST, FASTEST)
        return {
            "t": state["t"] + 1,
            "angle": angle + velocity * SECONDS,
            "velocity": velocity,
            "torque": torque,
            **{name: state[name] for name in PHYSICS},
        }

    def observation(self, state: Arrays) -> Any:
        """(cos th, sin th, w), [n, 3]; float32, of tensors their own type."""
        angle = state["angle"]
        xp = array_namespace(angle)
        seen = xp.stack([xp.cos(angle), xp.sin(angle), state["velocity"]], axis=1)
        return seen if is_torch_array(seen) else seen.astype(np.float32)

    def reward(self, state: Arrays, action: Any, next_state: Arrays) -> Any:
        """Minus the cost of the state before the action and of the torque, [n]."""
        angle, torque = wrap(state["angle"]), action[:, 0]
        return -(angle**2 + 0.1 * state["velocity"] ** 2 + 0.001 * torque**2)

    def terminal(self, state: Arrays) -> Any:
        """Never."""
        return state["t"] < 0

    def truncated(self, state: Arrays) -> Any:
        """`max_steps` were taken."""
        return state["t"] >= self.horizon

    # -- picture -----------------------------------------------------------------------------------

    def render_frame(self, state: Arrays, index: int) -> NDArray[np.uint8]:
        """The rod, the torque that was last applied, and the numbers of the state."""
        from .render_pendulum import draw_pendulum

        row = {name: float(value[index]) for name, value in state.items()}
        return draw_pendulum(
            row["angle"],
            row["torque"] / STRONGEST,
            thickness=row["mass"],
            title=f"step {int(row['t'])} of {self.horizon}",
            lines=(
                f"angle {np.degrees(wrap(np.array(row['angle']))):.0f}°",
                f"velocity {row['velocity']:.2f} rad/s",
                f"torque {row['torque']:.2f} N m",
            ),
            footer=f"g = {row['gravity']:.3g} m/s²   m = {row['mass']:.3g} kg   "
            f"l = {row['length']:.3g} m",
        )


class TorquePendulumEnv(ArrayEnv):
    """Face 1 of `TorquePendulum`: `gymnasium.make("TorquePendulum-v0")`."""

    core_class: ClassVar[type[TorquePendulum]] = TorquePendulum
    core: TorquePendulum

    @property
    def physics(self) -> dict[str, float]:
        """Gravity, mass and length."""
        return self.core.physics

    def set_params(self, **physics: float) -> None:
        """Change gravity, mass or length for the following steps and episodes.

        Raises:
            ValueError: there is no such parameter, or its value is not in (0, 20].
        """
        self.core.set_params(**physics)
        if hasattr(self, "state"):
            changed = {name: np.array([float(value)]) for name, value in physics.items()}
            self.state = {**self.state, **changed}

    def _restored(self) -> None:
        super()._restored()
        self.core.set_params(**{name: float(self.state[name][0]) for name in PHYSICS})


class TorquePendulumVectorEnv(ArrayVectorEnv):
    """Face 2 of `TorquePendulum`: `gymnasium.make_vec("TorquePendulum-v0", num_envs=1024)`."""

    core_class: ClassVar[type[TorquePendulum]] = TorquePendulum
    core: TorquePendulum

    def __init__(self, num_envs: int = 1, **arguments: Any) -> None:
        super().__init__(num_envs, **arguments)
        self._physics = {name: np.full(num_envs, x) for name, x in self.core.physics.items()}

    @property
    def physics(self) -> dict[str, NDArray[np.float64]]:
        """Gravity, mass and length of every sub-environment, each [num_envs]."""
        return {name: value.copy() for name, value in self._physics.items()}

    def set_params(self, **physics: Any) -> None:
        """Change gravity, mass or length for the following steps and episodes.

        Args:
            physics: one value for all sub-environments, or one for each, [num_envs].

        Raises:
            ValueError: there is no such parameter, a value is not in (0, 20], or their number is
                wrong.
        """
        for name, value in check_physics(physics, self.num_envs).items():
            self._physics[name] = np.full(self.num_envs, value)
            if value.ndim == 0:
                self.core.set_params(**{name: float(value)})
            if hasattr(self, "state"):
                self.state = {**self.state, name: self._physics[name].copy()}

    def _reset_rows(self, rows: NDArray[np.int64], options: Mapping[str, Any]) -> None:
        super()._reset_rows(rows, options)
        for name, value in self._physics.items():
            self.state[name][rows] = value[rows]

    def _restored(self) -> None:
        super()._restored()
        self._physics = {name: np.array(self.state[name]) for name in PHYSICS}


def wrap(angle: Any) -> Any:
    """The same angle in [-pi, pi)."""
    xp = array_namespace(angle)
    return xp.remainder(angle + np.pi, 2 * np.pi) - np.pi


def check_physics(
    physics: Mapping[str, Any], rows: int | None = None
) -> dict[str, NDArray[np.float64]]:
    """The given parameters as arrays: a number each, or one per row, [rows].

    Raises:
        ValueError: there is no such parameter, or a value is not in (0, 20].
    """
    checked = {}
    for name, given in physics.items():
        if name not in PHYSICS:
            raise ValueError(f"TorquePendulum has no parameter {name!r}, allowed are {PHYSICS}")
        value = np.asarray(given)
        if value.dtype.kind not in "iuf":
            raise ValueError(f"{name}={given!r} is no number")
        if value.shape != () and value.shape != (rows,):
            allowed = "one number" if rows is None else f"one number or {rows} of them"
            raise ValueError(f"{name} has shape {value.shape}, it must be {allowed}")
        outside = ~((value > 0) & (value <= LARGEST))  # also true for NaN
        if outside.any():
            raise ValueError(f"{name}={value[outside].flat[0]} is outside (0, {LARGEST:g}]")
        checked[name] = value.astype(np.float64)
    return checked


def _check_start(given: Any) -> NDArray[np.float64]:
    start = np.asarray(given, dtype=np.float64)
    if start.shape != (2,) or not np.isfinite(start).all() or abs(start[1]) > FASTEST:
        raise ValueError(
            f"options['state']={np.asarray(given).tolist()} must be (angle, velocity) with a "
            f"velocity in [-{FASTEST:g}, {FASTEST:g}]"
        )
    return start
