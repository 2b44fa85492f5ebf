"""Physics as the models of an agent: episodes in many of them at once, and learning in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from ...wrappers.physics_family import PhysicsFamily
from ...wrappers.physics_shift import physics_of
from ...wrappers.sb3 import SB3VecEnv
from .snapshot import bottom

LONGEST = 10_000  # steps after which an episode is left, where nothing ends it


class Episodes(NamedTuple):
    """Whole episodes of an agent in members of a family.

    Attributes:
        returns: [members, episodes].
        discounted: the same with a discount, and where an episode was cut with what the agent
            expects beyond.
        starts: first observations [members, episodes, D].
        steps: taken altogether.
    """

    returns: NDArray[np.float64]
    discounted: NDArray[np.float64]
    starts: NDArray[np.float32]
    steps: int


def play(
    agent: Any,
    family: PhysicsFamily,
    members: Sequence[Mapping[str, float]],
    seeds: Sequence[int],
    gamma: float = 1.0,
) -> Episodes:
    """Play an episode for every member and seed, all at once, without exploring.

    Args:
        agent: with `predict`; what it expects beyond a cut episode is its `policy.expected`, or 0.
        family, members: the physics.
        seeds: of the episodes of every member.
        gamma: discount factor.
    """
    vector = family.make_vec([member for member in members for _ in seeds])
    rows = vector.num_envs
    each: Any = [int(seed) for _ in members for seed in seeds]
    seen, _ = vector.reset(seed=each)
    starts, memory, steps = seen.copy(), None, 0
    returns, discounted, running = np.zeros(rows), np.zeros(rows), np.full(rows, True)
    for step in range(LONGEST):
        first = np.full(rows, step == 0)
        actions, memory = agent.predict(seen, state=memory, episode_start=first, deterministic=True)
        seen, rewards, terminated, truncated, _ = vector.step(actions)
        returns[running] += rewards[running]
        discounted[running] += gamma**step * rewards[running]
        steps += int(running.sum())
        cut = running & truncated & ~terminated
        if gamma < 1 and cut.any():
            beyond = agent.policy.expected(seen[cut])
            if beyond is not None:
                discounted[cut] += gamma ** (step + 1) * beyond
        running = running & ~(terminated | truncated)
        if not running.any():
            break
    vector.close()
    shape = (len(members), len(seeds))
    return Episodes(
        returns.reshape(shape), discounted.reshape(shape), starts.reshape(*shape, -1), steps
    )


class RowPhysics:
    """The physics of the environments that an agent learns in, a row each.

    Raises:
        ValueError: they are in other processes, or have no physics that could be changed.
    """

    def __init__(self, env: VecEnv) -> None:
        inner: Any = bottom(env)
        if isinstance(inner, SB3VecEnv):
            inner = inner.vector.unwrapped
        tasks = getattr(inner, "envs", None)
        if tasks is None and not isinstance(bottom(env), SB3VecEnv):
            raise ValueError(f"the physics of {inner} is out of reach, use DummyVecEnv")
        self.spec = (inner if tasks is None else tasks[0].unwrapped).spec
        self._native = tasks is None
        self._physics: list[Any] = [physics_of(task) for task in tasks or [inner]]

    def put(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Set the physics of every row."""
        if self._native:
            table = {name: np.array([row[name] for row in rows]) for name in rows[0]}
            self._physics[0].apply(table)
            return
        for physics, row in zip(self._physics, rows, strict=True):
            physics.apply({**physics.nominal, **row})
