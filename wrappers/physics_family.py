"""Environments that differ in their physics alone, and adversaries that choose it.

family = PhysicsFamily("TorquePendulum-v0", {"mass": (0.5, 2.0), "length": (0.5, 2.0)})
env = family.make({"mass": 2.0})              # one of them
envs = family.make_vec(family.grid(5))        # 25 of them, a row each
env = family.make_random()                    # another one in every episode
env = family.make_adversary(agent)            # to learn the worst physics for an agent
env = family.make_against(adversary)          # to learn against it
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from numpy.typing import ArrayLike, NDArray

from ..envs.base import check_in_space
from ..envs.checks import check_integer, check_number
from ..extras import require
from .physics_shift import NOISE, NativePhysics, PhysicsShift, check_range, physics_of


class PhysicsFamily:
    """All environments whose parameters of `PhysicsShift` lie in a box.

    Args:
        env: an id, or a function that makes a single environment.
        ranges: (low, high) of each parameter of `PhysicsShift` that may change; the order of the
            names is that of the vectors below. low = high keeps a parameter at that value.
        arguments: of the environment.

    Attributes:
        names: of the parameters, k of them.
        ranges: (low, high) of each.
        nominal: what a member has where nothing is said: the original physics, or where that is
            outside the range its nearest end.
        space: `Box(-1, 1, (k,))`, the box in the units of an adversary's action; -1 is the low end.
        observation_space, action_space: of the members.

    Raises:
        ValueError: there is no such parameter, or a range is no range or not possible.
    """

    def __init__(
        self,
        env: str | Callable[..., gym.Env[Any, Any]],
        ranges: Mapping[str, tuple[float, float]],
        **arguments: Any,
    ) -> None:
        self.env, self.arguments = env, arguments
        if not ranges:
            raise ValueError("ranges is empty: name at least one parameter and its (low, high)")
        self.ranges = {name: check_range(name, bounds) for name, bounds in ranges.items()}
        self.names = tuple(self.ranges)
        self.space = spaces.Box(-1.0, 1.0, (len(self.names),), np.float32)
        probe = PhysicsShift(self._make_original({}), randomize=self.ranges)
        self.observation_space, self.action_space = probe.observation_space, probe.action_space
        self.nominal = {
            name: min(max(probe.nominal[name], low), high)
            for name, (low, high) in self.ranges.items()
        }
        spec = probe.unwrapped.spec if isinstance(env, str) else None
        self._native = (
            spec is not None
            and spec.vector_entry_point is not None
            and isinstance(physics_of(probe), NativePhysics)
            and NOISE not in self.names
        )
        probe.close()

    # -- points of the box -------------------------------------------------------------------------

    def check(self, params: Mapping[str, Any]) -> dict[str, float]:
        """All parameters of a member, in order; `nominal` where `params` names none.

        Raises:
            ValueError: there is no such parameter, or its value is outside its range.
        """
        for name in params:
            if name not in self.ranges:
                raise ValueError(
                    f"the family has no parameter {name!r}, its parameters are {self.names}"
                )
        return {
            name: check_number(name, params.get(name, self.nominal[name]), *bounds)
            for name, bounds in self.ranges.items()
        }

    def grid(self, points: int | Mapping[str, int]) -> list[dict[str, float]]:
        """Equally spaced members, both ends included; the last parameter changes fastest.

        Args:
            points: along every parameter, at least 2, or of each by name. A parameter whose range
                has no width has one.
        """
        given = points if isinstance(points, Mapping) else dict.fromkeys(self.names, points)
        if set(given) != set(self.names):
            raise ValueError(f"points={points!r} must name the parameters {self.names}")
        axes = []
        for name, (low, high) in self.ranges.items():
            count = check_integer(f"points of {name}", given[name], 2)
            axes.append(np.linspace(low, high, count if low < high else 1).tolist())
        return [dict(zip(self.names, values, strict=True)) for values in product(*axes)]

    def sample(self, rng: np.random.Generator) -> dict[str, float]:
        """A member drawn uniformly from the box."""
        return self.from_unit(rng.uniform(-1.0, 1.0, len(self.names)))

    def from_unit(self, vector: ArrayLike) -> dict[str, float]:
        """The member at a point of `space`.

        Raises:
            ValueError: it is no vector [k] in [-1, 1].
        """
        [unit] = check_in_space(self.space, np.asarray(vector)[None])
        low, high = np.array(list(self.ranges.values())).T
        values = np.clip(0.5 * (low * (1.0 - unit) + high * (1.0 + unit)), low, high)
        return dict(zip(self.names, values.tolist(), strict=True))

    def to_unit(self, params: Mapping[str, float]) -> NDArray[np.float32]:
        """The point of `space` of a member; 0 for a parameter whose range has no width."""
        values = np.array(list(self.check(params).values()))
        low, high = np.array(list(self.ranges.values())).T
        wide = high > low
        unit = (2.0 * values - low - high) / np.where(wide, high - low, 1.0)
        return np.where(wide, np.clip(unit, -1.0, 1.0), 0.0).astype(np.float32)

    # -- members -----------------------------------------------------------------------------------

    def make(self, params: Mapping[str, float] | None = None, **arguments: Any) -> PhysicsShift:
        """The member with these parameters; `arguments` (a render mode, say) go to the environment.

        Raises:
            ValueError: there is no such parameter, or its value is outside its range.
        """
        checked: dict[str, Any] = self.check(params or {})
        return PhysicsShift(self._make_original(arguments), **checked)

    def make_random(self, **arguments: Any) -> PhysicsShift:
        """A member drawn uniformly for every episode (domain randomisation)."""
        return PhysicsShift(self._make_original(arguments), randomize=self.ranges)

    def make_vec(
        self,
        members: Sequence[Mapping[str, float]],
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        **arguments: Any,
    ) -> VectorEnv:
        """A vector whose sub-environment i is `make(members[i])`, bit for bit.

        Native where the task has a native vector (then without `info["physics"]`, and without
        `action_noise` among the parameters), else Gymnasium's `SyncVectorEnv`.

        Raises:
            ValueError: no members, or one that is not in the family.
        """
        if not members:
            raise ValueError("members is empty: a vector needs at least one")
        points = [self.check(params) for params in members]
        mode = AutoresetMode(autoreset_mode)
        if isinstance(self.env, str) and self._native:
            given: dict[str, Any] = {**self.arguments, **arguments, "autoreset_mode": mode}
            vector = gym.make_vec(
                self.env, len(points), vectorization_mode="vector_entry_point", **given
            )
            task: Any = vector.unwrapped
            factors = {name: np.array([point[name] for point in points]) for name in self.names}
            task.set_params(**{name: task.physics[name] * factors[name] for name in self.names})
            return vector
        makers = [partial(self.make, point, **arguments) for point in points]
        return SyncVectorEnv(makers, autoreset_mode=mode)

    def make_adversary(self, protagonist: Any, **arguments: Any) -> AdversaryEnv:
        """The adversary's face: an action is the physics of the next step, the reward is lost.

        Args:
            protagonist: who acts: a function from an observation to an action, or an agent with
                `predict`.
            arguments: of the environment.
        """
        return AdversaryEnv(self, self.make(**arguments), protagonist)

    def make_against(self, adversary: Any, **arguments: Any) -> AgainstAdversary:
        """The protagonist's face: before every step `adversary` chooses its physics.

        Args:
            adversary: a function from an observation to a point of `space`, or an agent with
                `predict`, such as one that learned in `make_adversary`.
            arguments: of the environment.
        """
        return AgainstAdversary(self, self.make(**arguments), adversary)

    def _make_original(self, arguments: Mapping[str, Any]) -> gym.Env[Any, Any]:
        given = {**self.arguments, **arguments}
        if not isinstance(self.env, str):
            return self.env(**given)
        try:
            return gym.make(self.env, **given)
        except gym.error.DependencyNotInstalled:
            require("mujoco", extra="mujoco")  # says which extra brings it
            raise


class AdversaryEnv(gym.Env[Any, NDArray[Any]]):
    """A game against an agent, seen by the one who chooses the physics of every step.

    Observation: the protagonist's. Action: `family.space`, the physics of the next step. Reward:
    minus the protagonist's. Episodes begin with the physics of `shifted`, and end when the
    protagonist's do.

    Args:
        family: the physics that may be chosen.
        shifted: the protagonist's environment.
        protagonist: a function from an observation to an action, or an agent with `predict`.
    """

    def __init__(self, family: PhysicsFamily, shifted: PhysicsShift, protagonist: Any) -> None:
        self.family, self.shifted = family, shifted
        self.player = Player(protagonist)
        self.metadata, self.render_mode = shifted.metadata, shifted.render_mode
        self.observation_space, self.action_space = shifted.observation_space, family.space
        self._seen: Any = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """A new episode of the protagonist's environment."""
        super().reset(seed=seed)
        self._seen, info = self.shifted.reset(seed=seed, options=options)
        self.player.begin()
        return self._seen, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """The protagonist's next step, under the physics that is chosen.

        Raises:
            ValueError: the action is outside the box.
        """
        self.shifted.perturb(**self.family.from_unit(action))
        chosen = self.player.act(self._seen)
        self._seen, reward, terminated, truncated, info = self.shifted.step(chosen)
        return self._seen, -float(reward), terminated, truncated, info

    def render(self) -> Any:
        """Picture of the protagonist's environment."""
        return self.shifted.render()

    def close(self) -> None:
        """Close the protagonist's environment."""
        self.shifted.close()


class AgainstAdversary(gym.Wrapper[Any, Any, Any, Any]):
    """An environment in which an adversary chooses the physics of every step.

    Args:
        family: the physics that may be chosen.
        shifted: the environment.
        adversary: a function from an observation to a point of `family.space`, or an agent with
            `predict`.
    """

    def __init__(self, family: PhysicsFamily, shifted: PhysicsShift, adversary: Any) -> None:
        super().__init__(shifted)
        self.family, self.shifted = family, shifted
        self.player = Player(adversary)
        self._seen: Any = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """A new episode; its first physics is chosen before its first step."""
        self._seen, info = self.shifted.reset(seed=seed, options=options)
        self.player.begin()
        return self._seen, info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """One step under the physics that the adversary chooses for what was last seen.

        Raises:
            ValueError: the adversary's choice is outside the box.
        """
        self.shifted.perturb(**self.family.from_unit(self.player.act(self._seen)))
        self._seen, reward, terminated, truncated, info = self.shifted.step(action)
        return self._seen, reward, terminated, truncated, info


class Player:
    """A policy as a function: `policy(observation)`, or `policy.predict` with its memory.

    Raises:
        ValueError: it is neither.
    """

    def __init__(self, policy: Any) -> None:
        if not callable(policy) and not hasattr(policy, "predict"):
            raise ValueError(f"{policy!r} is no policy: it is no function and has no `predict`")
        self.policy = policy
        self.begin()

    def begin(self) -> None:
        """A new episode."""
        self._memory: Any = None
        self._first = True

    def act(self, observation: Any) -> Any:
        """The action of the policy."""
        if not hasattr(self.policy, "predict"):
            return self.policy(observation)
        action, self._memory = self.policy.predict(
            observation,
            state=self._memory,
            episode_start=np.array([self._first]),
            deterministic=True,
        )
        self._first = False
        return action
