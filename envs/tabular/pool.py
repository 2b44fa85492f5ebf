"""A pool of small worlds on which planners and learners are compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import VectorEnv

from .finite_mdp import FiniteMDP


@dataclass(frozen=True)
class PooledTask:
    """A world with a horizon, rewards divided by the best expected return.

    Attributes:
        id: of the environment.
        arguments: with which it is made.
    """

    id: str
    arguments: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Id and arguments, as one would write them."""
        given = ", ".join(f"{name}={value!r}" for name, value in self.arguments.items())
        return f"{self.id}({given})"

    @cached_property
    def optimum(self) -> float:
        """Best expected return of the environment, without discount."""
        core = self._core
        return float(core.d0 @ core.plan(1.0).values[0])

    @cached_property
    def mdp(self) -> FiniteMDP:
        """The tables with rewards divided by the optimum, so that the best expected return is 1."""
        return FiniteMDP(**self._tables)

    def make(self, **options: Any) -> gym.Env[Any, Any]:
        """`mdp` as an environment.

        Args:
            options: of `gymnasium.make` and of `FiniteMDP` (`observation`, `render_mode`, ...).
        """
        return gym.make("FiniteMDP-v0", **{**self._tables, **options})

    def make_vec(self, num_envs: int, **options: Any) -> VectorEnv[Any, Any, Any]:
        """`mdp` as a native vector."""
        arguments = {**self._tables, **options}
        mode = "vector_entry_point"
        return gym.make_vec("FiniteMDP-v0", num_envs=num_envs, vectorization_mode=mode, **arguments)

    @cached_property
    def _core(self) -> FiniteMDP:
        core: FiniteMDP = gym.make(self.id, **self.arguments).unwrapped.core  # type: ignore[attr-defined]
        return core

    @cached_property
    def _tables(self) -> dict[str, Any]:
        tables = self._core.tables()
        for name in ("low", "high"):
            if tables[name] is not None:
                tables[name] = np.asarray(tables[name]) / self.optimum
        return tables


def pool() -> list[PooledTask]:
    """19 small worlds with horizons from 3 to 12: five random ones, three rivers, eight chains of
    doors and three grids.

    In all of them some number of greedy steps on the values of the random policy finds the optimum;
    how many, and how clearly, differs much. They stand for a wide range of difficulty.

    C. Laidlaw, B. Zhu, S. Russell, A. Dragan: The Effective Horizon Explains Deep RL Performance in
    Stochastic Environments (ICLR 2024, arXiv 2312.08369), whose collection of 150 games they
    replace in miniature.
    """
    garnet = {"states": 10, "actions": 3, "branching": 2, "horizon": 8, "start": 0}
    river = {"forward": 0.6, "back": 0.05, "horizon": 12}
    grid = {"rows": 4, "cols": 4, "goals": {(3, 3): (1.0, True)}, "horizon": 10}
    return [
        *(PooledTask("Garnet-v0", {**garnet, "instance": instance}) for instance in range(5)),
        *(PooledTask("RiverSwim-v0", {"states": states, **river}) for states in (3, 4, 5)),
        *(
            PooledTask("DoorChain-v0", {"depth": depth, "slip": slip})
            for depth in (3, 4, 5, 6)
            for slip in (0.0, 0.1)
        ),
        *(PooledTask("GridWorld-v0", {**grid, "slip": slip}) for slip in (0.0, 0.1, 0.2)),
    ]
