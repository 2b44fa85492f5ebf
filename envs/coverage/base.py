"""What coverage environments share: a set of visited elements, paid by what a set function says.

`CoverageCore` keeps the books, whatever moves. `TableCore` moves on a finite ground set by a table.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import gymnasium as gym
import numpy as np
from array_api_compat import array_namespace
from numpy.typing import ArrayLike, NDArray

from ..base import ArrayCore, Arrays
from .set_functions import SetFunction

if TYPE_CHECKING:
    import torch

OBSERVATIONS = ("markov", "history")
REWARDS = ("gain", "additive")


class CoverageCore(ArrayCore):
    """Books of the elements visited: F, marginal gains, path, observation, end.

    A subclass writes the motion: `_start`, `_move` and `_show`. The state holds `position` int64
    [n] (the element where the agent is), `visited` bool [n, E], `path` int64 [n, H + 1] (the
    elements in order, -1 for what is to come), `value` F(visited) and `gain`, what the last step
    added to it.

    Args:
        set_function: F over the E elements.
        horizon: H, steps of an episode.
        features: numbers that tell the place in an observation.
        observation: "markov" (the place, and t / H) or "history" (also the visited elements).
        reward: "gain" (F(S + s') - F(S)) or "additive" (F({s'})).
    """

    arrays: ClassVar[tuple[str, ...]] = ("_singles",)
    observation_space: gym.spaces.Box
    horizon: int

    def __init__(
        self,
        set_function: SetFunction,
        horizon: int,
        features: int,
        observation: str,
        reward: str,
    ) -> None:
        if isinstance(horizon, bool) or not isinstance(horizon, int | np.integer) or horizon < 1:
            raise ValueError(f"horizon={horizon!r} must be an integer of at least 1")
        if observation not in OBSERVATIONS:
            raise ValueError(f"observation={observation!r}, allowed are {OBSERVATIONS}")
        if reward not in REWARDS:
            raise ValueError(f"reward={reward!r}, allowed are {REWARDS}")
        if not set_function.monotone:
            warnings.warn(
                "the set function is not monotone: gains may be negative, and no guarantee holds",
                stacklevel=2,
            )
        self.set_function = set_function
        self.elements = set_function.elements
        self.horizon = int(horizon)
        self.observe_history = observation == "history"
        self.additive = reward == "additive"
        self._singles = set_function.singles()
        self.features = features
        size = features + 1 + self.elements * self.observe_history
        self.observation_space = gym.spaces.Box(0.0, 1.0, (size,), np.float32)

    # -- the motion, written by a subclass ---------------------------------------------------------

    def _start(self, tape: Arrays) -> Arrays:
        """State of the motion at the start, with `position` int64 [n]."""
        raise NotImplementedError

    def _move(self, state: Arrays, action: Any, tape: Arrays) -> Arrays:
        """State of the motion after a step, with `position`."""
        raise NotImplementedError

    def _show(self, state: Arrays, into: Any) -> None:
        """Write where the agent is, in [0, 1], into zeros float32 [n, features]."""
        raise NotImplementedError

    def options(self, state: Arrays) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """What a step may lead to when nothing goes wrong: actions [m, ...], and the elements that
        they lead to, [n, m]. NumPy only."""
        raise NotImplementedError

    def distances(self, state: Arrays) -> NDArray[np.float64]:
        """Steps to every element when nothing goes wrong, [n, E]; infinite where there is no way.
        NumPy only."""
        raise NotImplementedError

    def toward(self, state: Arrays, element: NDArray[np.int64]) -> NDArray[Any]:
        """First action of a shortest way to an element other than the present one, [n, ...]; of
        several the first in the order of `options`. NumPy only."""
        raise NotImplementedError

    def calm(self) -> CoverageCore:
        """The same task in which nothing goes wrong: no slip, no noise."""
        raise NotImplementedError

    # -- the books ---------------------------------------------------------------------------------

    def initial(self, tape: Arrays) -> Arrays:
        """The start counts as visited."""
        motion = self._start(tape)
        position = motion["position"]
        xp, n = array_namespace(position), len(position)
        nothing = xp.zeros((n, self.elements), dtype=xp.bool, device=position.device)
        path = xp.zeros((n, self.horizon + 1), dtype=xp.int64, device=position.device) - 1
        path[:, 0] = position
        visited = marked(nothing, position)
        value = self.set_function.gain(nothing, position)
        return {
            **motion,
            "t": xp.zeros_like(position),
            "visited": visited,
            "path": path,
            "value": value,
            "gain": 0 * value,
        }

    def transition(self, state: Arrays, action: Any, tape: Arrays) -> Arrays:
        """One step, and what it adds to F."""
        motion = self._move(state, action, tape)
        position, t = motion["position"], state["t"] + 1
        xp = array_namespace(position)
        gain = self.set_function.gain(state["visited"], position)
        path = xp.asarray(state["path"], copy=True)
        path[xp.arange(len(t)), t] = position
        return {
            **motion,
            "t": t,
            "visited": marked(state["visited"], position),
            "path": path,
            "value": state["value"] + gain,
            "gain": gain,
        }

    def reward(self, state: Arrays, action: Any, next_state: Arrays) -> Any:
        """The marginal gain of the element reached, or its F alone, [n]."""
        return self._singles[next_state["position"]] if self.additive else next_state["gain"] + 0

    def observation(self, state: Arrays) -> Any:
        """Place, t / H and, with history, the visited elements, float32 [n, D]."""
        xp, t = array_namespace(state["t"]), state["t"]
        size, features = self.observation_space.shape[0], self.features
        found = xp.zeros((len(t), size), dtype=xp.float32, device=t.device)
        self._show(state, found[:, :features])
        found[:, features] = xp.astype(t, xp.float32) / self.horizon
        if self.observe_history:
            found[:, features + 1 :] = xp.astype(state["visited"], xp.float32)
        return found

    def terminal(self, state: Arrays) -> Any:
        """The horizon is reached."""
        return state["t"] >= self.horizon

    def truncated(self, state: Arrays) -> Any:
        """Never."""
        return state["t"] < 0

    def info(self, state: Arrays) -> Arrays:
        """`set_value`, F of what was visited, and `additive_reward`, F of the present element
        alone."""
        return {
            "set_value": state["value"] + 0,
            "additive_reward": self._singles[state["position"]],
        }

    def torch(
        self, device: str | torch.device = "cpu", dtype: torch.dtype | None = None
    ) -> CoverageCore:
        """As `ArrayCore.torch`, with the set function."""
        core = super().torch(device, dtype)
        assert isinstance(core, CoverageCore)
        core.set_function = self.set_function.torch(device, dtype)
        return core

    @property
    def singles(self) -> NDArray[np.float64]:
        """F({e}) of every element, [E]."""
        return self._singles


class TableCore(CoverageCore):
    """Motion on a finite ground set: action a leads from element s to `moves[s, a]`.

    With probability `slip` the action is replaced by a uniform one. The tape holds the start and,
    where slip > 0, for each of the H steps the action that replaces the chosen one, or -1; they
    come from `rng.random(2 H)` = u, v: the action floor(v A) where u < slip.

    Args:
        set_function, horizon, observation, reward: as in `CoverageCore`.
        moves: int [E, A].
        start: element at which episodes start.
        slip: in [0, 1].
        possible: elements on which an agent may be, bool [E]; all by default.
    """

    arrays = ("_singles", "moves")

    def __init__(
        self,
        set_function: SetFunction,
        moves: ArrayLike,
        *,
        start: int,
        horizon: int,
        slip: float = 0.0,
        observation: str = "markov",
        reward: str = "gain",
        possible: NDArray[np.bool_] | None = None,
    ) -> None:
        self.moves = np.asarray(moves, dtype=np.int64)
        if not 0 <= slip <= 1:
            raise ValueError(f"slip={slip} is outside [0, 1]")
        super().__init__(set_function, horizon, len(self.moves), observation, reward)
        self.slip, self.actions = float(slip), self.moves.shape[1]
        self.possible = np.ones(self.elements, dtype=bool) if possible is None else possible
        self.start = self._check_start("start", start)
        self.action_space = gym.spaces.Discrete(self.actions)

    def _check_start(self, name: str, start: Any) -> int:
        if isinstance(start, bool) or not isinstance(start, int | np.integer):
            raise ValueError(f"{name}={start!r} must be an integer, the index of an element")
        if not 0 <= start < self.elements:
            raise ValueError(f"{name}={start} is outside 0 .. {self.elements - 1}")
        if not self.possible[start]:
            raise ValueError(f"{name}={start} is inside a wall")
        return int(start)

    def draw_tape(self, rng: np.random.Generator, options: Mapping[str, Any]) -> Arrays:
        """Start (`options["state"]` or the argument) and the replaced actions."""
        start = self.start
        if "state" in options:
            start = self._check_start("options['state']", options["state"])
        tape: Arrays = {"start": np.int64(start)}
        if self.slip > 0:
            u, v = np.split(rng.random(2 * self.horizon), 2)
            uniform = np.minimum((v * self.actions).astype(np.int64), self.actions - 1)
            tape["replaced"] = np.where(u < self.slip, uniform, -1)
        return tape

    def _start(self, tape: Arrays) -> Arrays:
        return {"position": tape["start"] + 0}

    def _move(self, state: Arrays, action: Any, tape: Arrays) -> Arrays:
        if self.slip > 0:
            xp = array_namespace(state["t"])
            replaced = tape["replaced"][xp.arange(len(state["t"])), state["t"]]
            action = xp.where(replaced >= 0, replaced, action)
        return {"position": self.moves[state["position"], action]}

    def _show(self, state: Arrays, into: Any) -> None:
        into[array_namespace(into).arange(len(into)), state["position"]] = 1.0

    def calm(self) -> TableCore:
        """The same task without slip."""
        core = copy.copy(self)
        core.slip = 0.0
        return core

    def options(self, state: Arrays) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """All actions, and where they lead."""
        return np.arange(self.actions), self.moves[state["position"]]

    def distances(self, state: Arrays) -> NDArray[np.float64]:
        """Shortest ways in the table, [n, E]."""
        return self.lengths[state["position"]]

    def toward(self, state: Arrays, element: NDArray[np.int64]) -> NDArray[Any]:
        """The smallest action on a shortest way, [n]."""
        following = self.moves[state["position"]]
        return self.lengths[following, element[:, None]].argmin(axis=1)

    @cached_property
    def lengths(self) -> NDArray[np.float64]:
        """Steps from each element to each other, [E, E]; infinite where there is no way."""
        from scipy.sparse import csr_array
        from scipy.sparse.csgraph import shortest_path

        source = np.repeat(np.arange(self.elements), self.actions)
        ones = np.ones(self.moves.size)
        graph = csr_array((ones, (source, self.moves.reshape(-1))), shape=(self.elements,) * 2)
        return np.asarray(shortest_path(graph, unweighted=True))

    def reachable(self) -> NDArray[np.bool_]:
        """Elements that can be visited from the start within the horizon, bool [E]."""
        return np.asarray(self.lengths[self.start] <= self.horizon)


def marked(visited: Any, position: Any) -> Any:
    """The sets [n, E] with one more element each."""
    xp = array_namespace(visited)
    result = xp.asarray(visited, copy=True)
    result[xp.arange(len(position)), position] = True
    return result
