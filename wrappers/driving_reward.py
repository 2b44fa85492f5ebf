"""Wrappers that replace the reward of a driving environment, single or vector, by a rule's.

A rule reads what it needs from `info` and may remember something of an episode, its clocks. They
lie in the wrapper: a row per sub-environment of a vector, which starts anew with its episode,
whatever the autoreset mode.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from numpy.typing import NDArray

Arrays = dict[str, Any]

OFF_ROAD = 0.95
COSTLY = ("collision", "red_light")
ENDING = (*COSTLY, "route_deviation", "stop_sign", "blocked", "timeout", "off_road")


class Rule(Protocol):
    """A reward with what it needs to know of a step, and what it remembers."""

    needed: tuple[str, ...]
    optional: tuple[str, ...]

    def begin(self, completion: NDArray[np.float64]) -> Arrays:
        """Clocks at the start of an episode."""

    def score(
        self, metrics: Arrays, clocks: Arrays, terminated: Any, costly: Any
    ) -> tuple[Any, Arrays]:
        """Rewards [n] and the clocks after them."""


def endings(
    events: NDArray[np.object_],
    metrics: Mapping[str, NDArray[Any]],
    terminated: NDArray[np.bool_],
    truncated: NDArray[np.bool_],
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
    """How a step ends its episode; each bool [n].

    Any event of `ENDING`, or more than 95% of the car off the road, terminates; those of `COSTLY`
    cost. The end of the route (`rc` = 100) without any of them truncates: driving would go on.

    Args:
        events: of each row "" or None, one event, or a collection of several, [n].
        metrics: `rc` and `off_road_share` (NaN: unknown), [n].
        terminated: what the environment says, [n].
        truncated: likewise.

    Returns:
        costly, terminated, truncated.

    Raises:
        ValueError: there is no such event.
    """
    costly, faulty = np.zeros_like(terminated), metrics["off_road_share"] > OFF_ROAD
    for row in np.flatnonzero(events.astype(bool)):
        given = events[row]
        for event in (given,) if isinstance(given, str) else given:
            if event not in ENDING:
                raise ValueError(f"info['event']={given!r}, allowed are '' and {ENDING}")
            costly[row] |= event in COSTLY
            faulty[row] = True
    finished = metrics["rc"] >= 100.0
    ends = terminated | truncated | finished
    terminated = faulty | (terminated & ~finished)
    return costly, terminated, ends & ~terminated


def read_metrics(
    rule: Rule, info: Mapping[str, Any], rows: NDArray[np.bool_], *, first: bool = False
) -> Arrays:
    """What the rule needs of a batched info, arrays [n]; NaN where an optional metric is missing.

    Args:
        rule: which names.
        info: arrays [n], each with a mask `_name` of the rows that have it, or none.
        rows: those that matter, bool [n]; the others may lack anything.
        first: of a reset, when only `rc` is needed.

    Raises:
        ValueError: a metric is missing, or `rc` is outside [0, 100].
    """
    metrics: Arrays = {}
    for name in ("rc",) if first else (*rule.needed, *rule.optional):
        present = np.asarray(info.get(f"_{name}", np.full(len(rows), name in info)))
        if name in rule.needed and not present[rows].all():
            raise ValueError(
                f"info has no {name!r}, which {type(rule).__name__} needs: it holds {sorted(info)}"
            )
        given = np.asarray(info[name]) if name in info else np.full(len(rows), np.nan)
        metrics[name] = given if given.dtype == bool else np.where(present, given, np.nan)
    completion = metrics["rc"][rows]
    if not ((completion >= 0) & (completion <= 100)).all():  # also of a NaN, as of an empty route
        raise ValueError(f"info['rc']={completion.tolist()} must be percentages from 0 to 100")
    return metrics


class SingleReward(gym.Wrapper[Any, Any, Any, Any], gym.utils.RecordConstructorArgs):
    """A rule around one environment."""

    def __init__(self, env: gym.Env[Any, Any], rule: Rule, **recorded: Any) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, **recorded)
        super().__init__(env)
        self._rule = rule
        self._clocks: Arrays = {}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """A new episode, all clocks at rest."""
        seen, info = self.env.reset(seed=seed, options=options)
        metrics = read_metrics(self._rule, _batch_of_one(info), np.array([True]), first=True)
        self._clocks = self._rule.begin(metrics["rc"])
        return seen, info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """One step of the environment, with the rule's reward and endings.

        Raises:
            ValueError: the info lacks what the rule needs.
        """
        seen, _, terminated, truncated, info = self.env.step(action)
        batch = _batch_of_one(info)
        metrics = read_metrics(self._rule, batch, np.array([True]))
        ends = np.array([terminated]), np.array([truncated])
        costly, terminal, cut = endings(_events(batch, 1), metrics, *ends)
        rewards, self._clocks = self._rule.score(metrics, self._clocks, terminal, costly)
        return seen, float(rewards[0]), bool(terminal[0]), bool(cut[0]), info

    def get_state(self) -> tuple[dict[str, NDArray[Any]], list[dict[str, Any]]]:
        """The clocks; there are no generators."""
        return dict(self._clocks), []

    def set_state(
        self, arrays: Mapping[str, NDArray[Any]], generators: Sequence[Mapping[str, Any]]
    ) -> None:
        """Go on from what `get_state` returned."""
        self._clocks = dict(arrays)


class VectorReward(VectorWrapper[Any, Any, Any, Any, Any], gym.utils.RecordConstructorArgs):
    """A rule around a vector: a row of clocks per sub-environment."""

    def __init__(self, env: VectorEnv[Any, Any, Any], rule: Rule, **recorded: Any) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, **recorded)
        super().__init__(env)
        self._rule = rule
        self._mode = AutoresetMode(env.metadata["autoreset_mode"])
        self._clocks: Arrays = rule.begin(np.zeros(env.num_envs))
        self._over = np.zeros(env.num_envs, dtype=bool)  # whose next step is a reset

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """New episodes, all or those of `options["reset_mask"]`, their clocks at rest."""
        rows = np.full(self.num_envs, True)
        if options and "reset_mask" in options:
            rows = np.array(options["reset_mask"], dtype=bool)
        seen, infos = self.env.reset(seed=seed, options=options)  # type: ignore[arg-type]
        self._begin(infos, rows)
        self._over = self._over & ~rows
        return seen, infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """One step of every sub-environment, with the rule's rewards and endings.

        Raises:
            ValueError: the infos lack what the rule needs, or the rule ends an episode that its
                environment continues.
        """
        seen, _, terminated, truncated, infos = self.env.step(actions)
        ended, restarted = terminated | truncated, self._over
        swapped = ended & (self._mode is AutoresetMode.SAME_STEP)
        metrics = read_metrics(self._rule, infos, ~restarted & ~swapped)
        events = _events(infos, self.num_envs)
        if swapped.any():  # what the last step was like lies beside the info of the new episode
            final = infos["final_info"]
            last = read_metrics(self._rule, final, swapped)
            metrics = {name: np.where(swapped, last[name], metrics[name]) for name in metrics}
            events = np.where(swapped, _events(final, self.num_envs), events)
        events = np.where(restarted, "", events)
        costly, terminal, cut = endings(events, metrics, terminated, truncated)
        if (rows := np.flatnonzero(((terminal | cut) & ~restarted) != ended)).size:
            raise ValueError(
                f"sub-environments {rows.tolist()} go on where an episode has to end, with "
                f"rc={metrics['rc'][rows].tolist()} and event={events[rows].tolist()}: wrap each "
                "environment instead of the vector (make_vec with wrappers=[...])"
            )
        rewards, self._clocks = self._rule.score(metrics, self._clocks, terminal, costly)
        rewards = np.where(restarted, 0.0, rewards)
        if (restarted | swapped).any():
            self._begin(infos, restarted | swapped)
        if self._mode is AutoresetMode.NEXT_STEP:
            self._over = ended.copy()
        return seen, rewards, terminal, cut, infos

    def get_state(self) -> tuple[dict[str, NDArray[Any]], list[dict[str, Any]]]:
        """The clocks, and whose next step is a reset; there are no generators."""
        return {**self._clocks, "over": self._over}, []

    def set_state(
        self, arrays: Mapping[str, NDArray[Any]], generators: Sequence[Mapping[str, Any]]
    ) -> None:
        """Go on from what `get_state` returned."""
        self._clocks = {name: value for name, value in arrays.items() if name != "over"}
        self._over = arrays["over"]

    def _begin(self, infos: Mapping[str, Any], rows: NDArray[np.bool_]) -> None:
        fresh = self._rule.begin(read_metrics(self._rule, infos, rows, first=True)["rc"])
        self._clocks = {
            name: np.where(rows, fresh[name], value) for name, value in self._clocks.items()
        }


def _batch_of_one(info: Mapping[str, Any]) -> Arrays:
    """The entries of a single info, each [1]."""
    batch: Arrays = {}
    for name, value in info.items():
        batch[name] = np.array([value]) if np.ndim(value) == 0 else _cell(value)
    return batch


def _cell(value: Any) -> NDArray[np.object_]:
    cell = np.empty(1, dtype=object)
    cell[0] = value
    return cell


def _events(info: Mapping[str, Any], rows: int) -> NDArray[np.object_]:
    """The events of a batched info, [n]."""
    events = info.get("event")
    return np.full(rows, "", dtype=object) if events is None else np.asarray(events, dtype=object)
