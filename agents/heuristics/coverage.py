"""Greedy choices for monotone submodular set functions, as functions on sets and as agents that
walk.

Greedy adds, k times, the element with the largest marginal gain. For a monotone submodular F

    F(greedy_k) >= (1 - (1 - 1/k)^k) max_{|S| <= k} F(S) >= (1 - 1/e) max_{|S| <= k} F(S)

(G. L. Nemhauser, L. A. Wolsey, M. L. Fisher, Mathematical Programming 14, 1978). Lazy greedy (M.
Minoux, 1978) finds the same set with far fewer evaluations: gains only shrink, so that a gain that
was computed earlier is an upper bound, and only the element on top of the queue has to be looked at
again. Where elements cannot be chosen freely because somebody has to walk to them, neither has a
guarantee; but greedy then gives an upper bound on what any walk can reach.
"""

from __future__ import annotations

import heapq
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import Schedule

from ...envs.base import Arrays, take
from ...envs.coverage.base import CoverageCore
from ...envs.coverage.set_functions import SetFunction
from ..base.declare import Example
from ..base.stepping import Mask, SteppingAlgorithm, Transitions
from .attached import attached_faces, check_shown, joined

DIGITS = 10  # gains that agree to so many decimals, as parts of the largest F({e}), are equal


def rounded(gains: NDArray[np.float64], function: SetFunction) -> NDArray[np.float64]:
    """Gains as parts of the largest F({e}), without the digits in which rounding errors lie."""
    scale = float(np.abs(function.singles()).max()) or 1.0
    return np.round(gains / scale, DIGITS)


def greedy_set(
    function: SetFunction, k: int, among: NDArray[np.bool_] | None = None
) -> NDArray[np.int64]:
    """Elements in the order in which greedy takes them, at most k; ties to the smaller index.

    Args:
        function: F.
        k: how many, at least 0; all where there are fewer.
        among: elements that may be taken, bool [E]; all by default.

    Raises:
        ValueError: k is negative.
    """
    open_ = allowed(function, k, among)
    chosen: list[int] = []
    visited = np.zeros((1, function.elements), dtype=bool)
    while len(chosen) < k and open_.any():
        gains = rounded(function.gains(visited)[0], function)
        best = int(np.where(open_, gains, -np.inf).argmax())
        chosen.append(best)
        visited[0, best], open_[best] = True, False
    return np.array(chosen, dtype=np.int64)


def lazy_greedy_set(
    function: SetFunction, k: int, among: NDArray[np.bool_] | None = None
) -> NDArray[np.int64]:
    """As `greedy_set`, from a queue of gains that are looked at again only when they come up."""
    open_ = allowed(function, k, among)
    chosen: list[int] = []
    visited = np.zeros((1, function.elements), dtype=bool)
    gains = rounded(function.gains(visited)[0], function)
    # Of equal gains the smaller index comes up first, with the size of the set it was computed for.
    queue = [(-gains[element], int(element), 0) for element in np.flatnonzero(open_)]
    heapq.heapify(queue)
    scale = float(np.abs(function.singles()).max()) or 1.0
    while len(chosen) < k and queue:
        _, element, size = heapq.heappop(queue)
        if size == len(chosen):
            chosen.append(element)
            visited[0, element] = True
        else:
            gain = float(function.gain(visited, np.array([element]))[0])
            heapq.heappush(queue, (-float(np.round(gain / scale, DIGITS)), element, len(chosen)))
    return np.array(chosen, dtype=np.int64)


def allowed(function: SetFunction, k: int, among: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
    """A copy of `among`; ValueError for a bad k or mask."""
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 0:
        raise ValueError(f"k={k!r} must be an integer of at least 0")
    if among is None:
        return np.ones(function.elements, dtype=bool)
    mask = np.asarray(among)
    if mask.shape != (function.elements,) or mask.dtype != bool:
        raise ValueError(
            f"among must be bool [{function.elements}], got {mask.dtype} of shape {mask.shape}"
        )
    return mask.copy()


def members(chosen: NDArray[np.int64], elements: int) -> NDArray[np.bool_]:
    """Indices as a batch of one set, bool [1, elements]."""
    found = np.zeros((1, elements), dtype=bool)
    found[0, chosen] = True
    return found


def path_upper_bound(function: SetFunction, reachable: NDArray[np.bool_], horizon: int) -> float:
    """No walk of `horizon` steps has a larger F: min(F(reachable), F(greedy_{H+1}) / (1 - 1/e)).

    Args:
        function: F, monotone.
        reachable: elements that a walk can visit, bool [E].
        horizon: steps; a walk visits at most one element more.

    Raises:
        ValueError: F is not monotone, so that neither bound holds.
    """
    if not function.monotone:
        raise ValueError("the set function is not monotone: greedy bounds nothing")
    greedy = lazy_greedy_set(function, horizon + 1, reachable)
    everything = float(function.value(reachable[None])[0])
    chosen = float(function.value(members(greedy, function.elements))[0])
    return min(everything, chosen / (1 - np.exp(-1.0)))


def current_gains(core: CoverageCore, state: Arrays) -> NDArray[np.float64]:
    """What each element would add now, [n, E], without rounding errors."""
    return rounded(core.set_function.gains(state["visited"]), core.set_function)


def greedy_step(core: CoverageCore, state: Arrays) -> NDArray[Any]:
    """Action that leads to the largest gain, [n, ...]; ties to the first of `core.options`.

    Where no action gains anything: the first step to the nearest element that does.
    """
    actions, elements = core.options(state)
    gains = current_gains(core, state)
    worth = np.take_along_axis(gains, elements, axis=1)
    chosen = actions[worth.argmax(axis=1)]
    stuck = worth.max(axis=1) <= 0
    if stuck.any():
        walk_step(core, state, (gains > 0) & stuck[:, None], chosen)
    return chosen


def walk_step(
    core: CoverageCore, state: Arrays, targets: NDArray[np.bool_], chosen: NDArray[Any]
) -> None:
    """Write the first step to the nearest target into `chosen`; ties to the smaller index.

    Args:
        core: the task.
        state: of n episodes.
        targets: bool [n, E], without the present elements.
        chosen: actions [n, ...]; they stay where no target is within reach.
    """
    distance = np.where(targets, core.distances(state), np.inf)
    nearest = distance.argmin(axis=1)
    found = np.isfinite(distance[np.arange(len(nearest)), nearest])
    if found.any():
        chosen[found] = core.toward(take(state, found), nearest[found])


def tour_targets(core: CoverageCore, start: NDArray[Any]) -> NDArray[np.bool_]:
    """The greedy set to walk to, bool [E]: of the greedy sets of 1 .. H + 1 elements the one whose
    tour, nearest first, sees most within the horizon when nothing goes wrong.

    Args:
        core: the task.
        start: of the tape, without a batch axis.
    """
    calm = core.calm()
    at_start = calm.initial({"start": np.asarray(start)[None]})
    within = calm.distances(at_start)[0] <= core.horizon
    order = lazy_greedy_set(core.set_function, core.horizon + 1, within)
    sets = np.zeros((len(order), core.elements), dtype=bool)
    for size, element in enumerate(order):
        sets[size:, element] = True
    state = take(at_start, np.zeros(len(order), dtype=np.int64))
    for _ in range(core.horizon):
        action = tour_step(calm, state, sets)
        state = calm.transition(state, action, {})
    return np.asarray(sets[rounded(state["value"], core.set_function).argmax()])


def tour_step(core: CoverageCore, state: Arrays, targets: NDArray[np.bool_]) -> NDArray[Any]:
    """First step to the nearest target that would still add something, else a greedy step, [n,
    ...].

    Args:
        core: the task.
        state: of n episodes.
        targets: bool [n, E].
    """
    chosen = greedy_step(core, state)
    walk_step(core, state, targets & (current_gains(core, state) > 0), chosen)
    return chosen


class LookingPolicy(BasePolicy):
    """A policy without parameters: the agent looks into the environment instead."""

    def __init__(self, observation_space: Any, action_space: Any, lr_schedule: Schedule) -> None:
        super().__init__(observation_space, action_space)

    def _predict(self, observation: Any, deterministic: bool = False) -> torch.Tensor:
        raise ValueError(
            "greedy needs the visited set, which an observation may not show: use the agent's "
            "predict with the environment attached"
        )


class CoverageHeuristic(SteppingAlgorithm):
    """Base of the agents that know the set function and the visited set. A subclass writes
    `choose`.

    `predict` reads both from the attached environment (`set_env`), which must be in the state that
    the observation shows. There is nothing to learn: `learn` plays, so that callbacks and logs work
    as for others.

    Args:
        policy: "HeuristicPolicy".
        env: a coverage environment of arrays.
        seed, verbose, ...: as in `Algorithm`.
    """

    policy_aliases: ClassVar[dict[str, Any]] = {"HeuristicPolicy": LookingPolicy}
    oracle = True
    example = Example(
        "SubmodularCoverage-v0",
        {"rows": 5, "cols": 5, "horizon": 8, "weights": "sparse", "slip": 0.3},
        policy="HeuristicPolicy",
        steps=96,
    )

    def choose(self, core: CoverageCore, state: Arrays, tape: Arrays) -> NDArray[Any]:
        """Actions [n, ...] for a batch of episodes; of the tape only `start` may be read."""
        raise NotImplementedError

    def _setup_model(self) -> None:
        super()._setup_model()
        self.steps, self.paid = 0, 0.0

    def begin(self) -> None:
        """Forget what an earlier `learn` was paid."""
        self.steps, self.paid = 0, 0.0

    def act(self, observations: NDArray[Any], masks: Mask | None) -> NDArray[Any]:
        """What `choose` says of the attached environments, [n, ...]."""
        core, state, tape = self._look(observations)
        return self.choose(core, state, tape)

    def learn_from(self, transitions: Transitions) -> dict[str, float]:
        """Nothing is learned; the mean reward is logged."""
        self.steps += len(transitions.rewards)
        self.paid += float(transitions.rewards.sum())
        return {"rollout/mean_reward": self.paid / self.steps}

    def predict(
        self,
        observation: Any,
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """Action for the current state of the attached environment.

        Raises:
            ValueError: no coverage environment is attached, it has not been reset, or it is not in
                the state that `observation` shows.
        """
        given = np.asarray(observation)
        single = given.ndim == len(self.observation_space.shape or ())
        actions = self.choose(*self._look(given[None] if single else given))
        return (actions[0] if single else actions), state

    def extra_state(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """What was paid so far."""
        return {"steps": self.steps, "paid": self.paid}, {}

    def restore_extra_state(self, values: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        """Inverse of `extra_state`."""
        self.steps, self.paid = values["steps"], values["paid"]

    def _look(self, observations: NDArray[Any]) -> tuple[CoverageCore, Arrays, Arrays]:
        """Core, state and tape of the attached environments, one row each."""
        faces = attached_faces(
            self.env,
            CoverageCore,
            f"{type(self).__name__} reads the visited set from",
            "a coverage environment of arrays",
        )
        core, state = faces[0].core, joined(faces, "state")
        check_shown(core, state, observations)
        return core, state, joined(faces, "tape")


class GreedyCoverage(CoverageHeuristic):
    """Step by step to where the gain is largest; where no step gains anything, towards the nearest
    place that does.

    Args:
        policy, env, seed, ...: as in `CoverageHeuristic`.
    """

    def choose(self, core: CoverageCore, state: Arrays, tape: Arrays) -> NDArray[Any]:
        """`greedy_step`."""
        return greedy_step(core, state)


class GreedyTour(CoverageHeuristic):
    """Plans the greedy set and walks to its members by shortest ways, the nearest first.

    Of the greedy sets of 1 to H + 1 elements it takes the one whose tour sees most within the
    horizon; after the tour it goes on step by step like `GreedyCoverage`.

    Args:
        policy, env, seed, ...: as in `CoverageHeuristic`.
    """

    _plans: tuple[CoverageCore, dict[bytes, NDArray[np.bool_]]] | None = None

    def choose(self, core: CoverageCore, state: Arrays, tape: Arrays) -> NDArray[Any]:
        """`tour_step` to the targets of each episode's start."""
        if self._plans is None or self._plans[0] is not core:
            self._plans = core, {}
        plans = self._plans[1]
        targets = []
        for start in tape["start"]:
            key = np.asarray(start).tobytes()
            if key not in plans:
                plans[key] = tour_targets(core, start)
            targets.append(plans[key])
        return tour_step(core, state, np.stack(targets))
