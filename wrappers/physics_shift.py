"""Environments whose physics is not the one that an agent was trained with.

    env = PhysicsShift(gym.make("Walker2d-v5"), friction=0.3)    # every episode
    env.reset(options={"physics": {"mass": 2.0}})                # this episode
    env.perturb(gravity=1.5)                                     # from now to the end of it
    env.close()                                                  # the model is as it was made

A family of such environments, and the faces of an adversary, are in `physics_family`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from ..envs.base import check_in_space
from ..envs.checks import check_number
from ..extras import require
from .episode_noise import EpisodeNoise

NOISE = "action_noise"
LEAST = {"mass": 1e-3, "wind": -np.inf}  # of the others 0
# What is remembered of an environment's physics lies beside it, so that a second wrapper, too,
# finds the original.
ORIGINAL = "original_physics"


class PhysicsShift(gym.Wrapper[Any, Any, Any, Any], gym.utils.RecordConstructorArgs):
    """Changes the physics of an environment, always relative to what it was made with.

    Parameters of a MuJoCo environment (Gymnasium's, or any with `model` and `data`):

    - `gravity`, `friction`, `mass`, `damping`: factors >= 0 (mass: >= 0.001) on `opt.gravity`; on
      `geom_friction` and `pair_friction`, all columns; on `body_mass` and `body_inertia`, with what
      MuJoCo derives from them; on `dof_damping`.
    - `wind`: m/s^2, added to the acceleration along x of all bodies: a push in proportion to mass.

    Parameters of a native task with `physics` and `set_params`, such as `TorquePendulum`: its own,
    as factors > 0.

    Of both: `action_noise`, the standard deviation of normal noise on the action, which is then cut
    to the action space. Its draws come from a generator of the wrapper's own, seeded with the
    reset, so that starts are those without the wrapper.

    A parameter has the value that was set for it last by one of

    1. the arguments and `set_params`: for all episodes;
    2. `randomize`: drawn anew for every episode, in the order of the names;
    3. `reset(options={"physics": {...}})` and `perturb`: until the episode is over.

    What an episode does not name is as in 1. `info["physics"]` holds the values in force.
    `close` puts the original physics back.

    Args:
        env: a single environment. A vector of shifted ones: `gymnasium.make_vec(id, n,
            vectorization_mode="sync", wrappers=[partial(PhysicsShift, friction=0.3)])`.
        randomize: range (low, high) of each parameter that is drawn uniformly.
        params: values of the parameters; of those not named 1 (`wind` and `action_noise`: 0).

    Raises:
        ValueError: the environment has no physics that could be changed; there is no such
            parameter, or its value is out of range.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        *,
        randomize: Mapping[str, tuple[float, float]] | None = None,
        **params: float,
    ) -> None:
        recorded: dict[str, Any] = {"randomize": randomize, **params}
        gym.utils.RecordConstructorArgs.__init__(self, **recorded)
        super().__init__(env)
        self._physics = physics_of(env)
        self.nominal: dict[str, float] = {**self._physics.nominal, NOISE: 0.0}
        self._noise = EpisodeNoise(self)
        self._generator = self._noise.begin(None)
        self._lasting = {**self.nominal, **self._check(params)}
        self._randomize = {n: check_range(n, bounds) for n, bounds in (randomize or {}).items()}
        for name, bounds in self._randomize.items():
            for value in bounds:  # both ends must be possible
                self._apply({**self._lasting, **self._check({name: value})})
        self._apply(self._lasting)

    @property
    def params(self) -> dict[str, float]:
        """The values in force."""
        return dict(self._params)

    def set_params(self, **params: float) -> None:
        """Change parameters for the following steps and all episodes to come.

        Raises:
            ValueError: there is no such parameter, or its value is out of range.
        """
        checked = self._check(params)
        self._apply({**self._params, **checked})
        self._lasting = {**self._lasting, **checked}

    def perturb(self, **params: float) -> None:
        """Change parameters for the following steps of this episode.

        Raises:
            ValueError: there is no such parameter, or its value is out of range.
        """
        self._apply({**self._params, **self._check(params)})

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """A new episode; `options["physics"]` holds parameters of it alone."""
        rest = dict(options or {})
        wanted = rest.pop("physics", {})
        if not isinstance(wanted, Mapping):
            raise ValueError(f"options['physics']={wanted!r} must map names to values")
        wanted = self._check(wanted)
        self._generator = self._noise.begin(seed)
        drawn = {
            name: float(self._generator.uniform(*bounds))
            for name, bounds in self._randomize.items()
        }
        self._apply({**self._lasting, **drawn, **wanted})
        seen, info = self.env.reset(seed=seed, options=rest or None)
        return seen, {**info, "physics": self.params}

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """One step under the physics in force.

        Raises:
            ValueError: with action noise, the action is outside the action space.
        """
        if self._params[NOISE] > 0:
            action = self._disturbed(action)
        seen, reward, terminated, truncated, info = self.env.step(action)
        return seen, reward, terminated, truncated, {**info, "physics": self.params}

    def close(self) -> None:
        """Put the original physics back and close the environment."""
        self._apply(self.nominal)
        super().close()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_physics"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # A copy of an environment may have been made anew, with the physics of its file.
        vars(self).update(state)
        self._physics = physics_of(self.env)
        self._apply(self._params)

    def _check(self, params: Mapping[str, Any]) -> dict[str, float]:
        for name in params:
            if name not in self.nominal:
                raise ValueError(
                    f"{self.env.unwrapped} has no parameter {name!r}, allowed are "
                    f"{tuple(self.nominal)}"
                )
        if params.get(NOISE) and not isinstance(self.action_space, spaces.Box):
            raise ValueError(f"{NOISE} needs actions in a Box, not {self.action_space}")
        return {
            name: check_number(name, value, LEAST.get(name, 0.0)) for name, value in params.items()
        }

    def _apply(self, params: Mapping[str, float]) -> None:
        self._physics.apply({name: value for name, value in params.items() if name != NOISE})
        self._params = dict(params)

    def _disturbed(self, action: Any) -> NDArray[Any]:
        space = self.action_space
        assert isinstance(space, spaces.Box)
        exact = check_in_space(space, np.asarray(action)[None])[0]
        noise = self._generator.standard_normal(space.shape)
        noisy = np.clip(exact + self._params[NOISE] * noise, space.low, space.high)
        return noisy.astype(space.dtype)


class Physics(Protocol):
    """How the physics of one kind of environment is changed."""

    nominal: dict[str, float]

    def apply(self, params: Mapping[str, float]) -> None:
        """Put all parameters in force, or raise ValueError and change nothing."""


class NativePhysics:
    """Factors on the `physics` of a task that has `set_params`."""

    def __init__(self, task: Any) -> None:
        self.task = task
        self.original: dict[str, float] = vars(task).setdefault(ORIGINAL, dict(task.physics))
        self.nominal = dict.fromkeys(self.original, 1.0)

    def apply(self, params: Mapping[str, float]) -> None:
        """Set each parameter to its factor times the original value."""
        values = {name: self.original[name] * factor for name, factor in params.items()}
        try:
            self.task.set_params(**values)
        except ValueError as error:
            raise ValueError(f"the factors {dict(params)} are impossible: {error}") from None


class MuJoCoPhysics:
    """Factors on a MuJoCo model."""

    nominal = {"gravity": 1.0, "friction": 1.0, "mass": 1.0, "damping": 1.0, "wind": 0.0}
    arrays = {
        "friction": ("geom_friction", "pair_friction"),
        "mass": ("body_mass", "body_inertia"),
        "damping": ("dof_damping",),
    }

    def __init__(self, task: Any) -> None:
        self.model = task.model
        self._scratch: Any = None
        names = [name for group in self.arrays.values() for name in group]
        found = {name: getattr(self.model, name).copy() for name in names}
        found["gravity"] = self.model.opt.gravity.copy()
        self.original: dict[str, NDArray[np.float64]] = vars(task).setdefault(ORIGINAL, found)

    def apply(self, params: Mapping[str, float]) -> None:
        """Write the arrays of the model; what follows from its masses is computed anew."""
        model = self.model
        masses = model.body_mass.copy()
        for kind, names in self.arrays.items():
            for name in names:
                getattr(model, name)[...] = params[kind] * self.original[name]
        model.opt.gravity[:] = params["gravity"] * self.original["gravity"]
        model.opt.gravity[0] += params["wind"]
        if not np.array_equal(masses, model.body_mass):
            mujoco = require("mujoco", extra="mujoco")
            if self._scratch is None:  # megabytes: made once, where masses change at all
                self._scratch = mujoco.MjData(model)
            mujoco.mj_setConst(model, self._scratch)


def physics_of(env: gym.Env[Any, Any]) -> Physics:
    """The way to change the physics of `env`.

    Raises:
        ValueError: there is none.
    """
    task: Any = env.unwrapped
    if hasattr(task, "set_params") and hasattr(task, "physics"):
        return NativePhysics(task)
    if type(getattr(task, "model", None)).__name__ == "MjModel":
        return MuJoCoPhysics(task)
    raise ValueError(
        f"{task} has no physics that could be changed: it is neither a MuJoCo environment nor a "
        "task with `physics` and `set_params`, such as TorquePendulum-v0"
    )


def check_range(name: str, bounds: Any) -> tuple[float, float]:
    """The range (low, high) of a parameter.

    Raises:
        ValueError: it is no pair of numbers with low <= high.
    """
    ends = np.asarray(bounds)
    if ends.shape != (2,) or ends.dtype.kind not in "iuf" or not ends[0] <= ends[1]:
        raise ValueError(f"range {bounds!r} of {name!r} must be (low, high) with low <= high")
    return float(ends[0]), float(ends[1])
