"""Logged decisions of a user's own, a table with a row per step, as a data set to learn from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from ...envs.data.tables import Columns, read_columns
from .offline_files import FileDataset, as_environment, checked


def read_logs(
    table: Any,
    *,
    observations: Sequence[str],
    actions: Sequence[str],
    reward: str,
    episode: str,
    step: str | None = None,
    terminated: str | None = None,
    bounds: tuple[float | Sequence[float], float | Sequence[float]] | None = None,
    discrete: bool = False,
    env: Any = None,
) -> FileDataset:
    """Steps of a table, each with the observation that followed.

    What followed the last step of an episode is not in the table. Where the task ended there,
    nothing that follows counts; otherwise that step is left out, and the one before is the last.

    Args:
        table: path of a CSV file with a header, data frame, structured array or mapping of columns.
        observations: columns of an observation, in their order.
        actions: columns of an action; of a `discrete` one a single column of labels, which become
            0, 1, ... in the order of their first row (`metadata["actions"]` keeps the labels).
        reward: column of what a step earned.
        episode: column that says which episode a row belongs to, any label.
        step: column by which the rows of an episode are ordered; None: as they come.
        terminated: column that is 1 (or true) where the task ended with the step, otherwise 0 (or
            false); None: it never does, episodes are cut.
        bounds: lowest and highest action, a number each or one per column; None: those of `env`,
            or what the table has. Learners look for the best action within them.
        discrete: whether an action is one of a few.
        env: environment to evaluate in, or its Gymnasium id, which also gives the spaces; its
            actions, if `discrete`, are the numbers of the table.

    Raises:
        ValueError: a column is missing or has a cell that is no number, an action lies outside its
            bounds, or no step is left; the message names the file and the line.
    """
    columns, env = read_columns(table), as_environment(env)
    if not observations or not actions:
        raise ValueError(
            f"observations={list(observations)} and actions={list(actions)} must name columns"
        )
    if discrete and len(actions) != 1:
        raise ValueError(f"a discrete action is in one column, got actions={list(actions)}")
    order, ends = _episodes(columns, episode, step)
    seen = np.column_stack([columns.numbers(name) for name in observations])[order]
    ended = _flags(columns, terminated)[order]
    last = np.zeros(len(columns), dtype=np.bool_)
    last[ends - 1] = True
    if (early := np.flatnonzero(ended & ~last)).size:
        raise ValueError(
            f"{columns.places[order[early[0]]]}: {terminated} is 1, but the episode goes on"
        )
    taken, space, labels = _actions(columns, actions, discrete, bounds, env)
    kept = np.flatnonzero(~last | ended)
    if not len(kept):
        raise ValueError(f"{columns.origin}: no step has one that follows it, or ends its task")
    # Of the step that ends a task, nothing that follows counts: its own observation stands there.
    following = seen[np.minimum(kept + ~last[kept], len(seen) - 1)]
    cut = np.append(np.diff(kept) > 1, True) | last[kept]
    arrays = {
        "observations": seen[kept].astype(np.float32),
        "actions": taken[order][kept],
        "rewards": columns.numbers(reward)[order][kept],
        "next_observations": following.astype(np.float32),
        "terminations": ended[kept],
        "truncations": cut & ~ended[kept],
    }
    box = spaces.Box(-np.inf, np.inf, (len(observations),), np.float32)
    named = {"actions": labels} if discrete else {}
    return checked(columns.origin, arrays, env, box, space, metadata=named)


def _episodes(
    columns: Columns, episode: str, step: str | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows, episode by episode, and where each ends among them."""
    codes, _ = columns.codes(episode)
    keys = (codes,) if step is None else (columns.numbers(step), codes)
    order = np.lexsort(keys)
    if step is not None:
        sorted_steps, sorted_codes = keys[0][order], codes[order]
        twice = (np.diff(sorted_steps) == 0) & (np.diff(sorted_codes) == 0)
        if twice.any():
            row = int(order[np.flatnonzero(twice)[0] + 1])
            raise ValueError(f"{columns.places[row]}: a second row of this {episode} and {step}")
    return order, np.flatnonzero(np.append(np.diff(codes[order]) != 0, True)) + 1


def _flags(columns: Columns, name: str | None) -> NDArray[np.bool_]:
    if name is None:
        return np.zeros(len(columns), dtype=np.bool_)
    known = {"1": True, "true": True, "1.0": True, "0": False, "false": False, "0.0": False}
    found = np.zeros(len(columns), dtype=np.bool_)
    for row, cell in enumerate(columns.column(name)):
        text = str(cell).strip().lower()
        if text not in known:
            raise ValueError(
                f"{columns.places[row]}: column {name!r} is {str(cell)!r}, allowed: 0, 1, true, "
                "false"
            )
        found[row] = known[text]
    return found


def _actions(
    columns: Columns, names: Sequence[str], discrete: bool, bounds: Any, env: Any
) -> tuple[NDArray[Any], gym.Space[Any], list[str]]:
    """Actions in the order of the rows, their space, and the labels of discrete ones."""
    if discrete:
        if env is not None:
            numbers = columns.numbers(names[0])
            return numbers.astype(np.int64), env.action_space, []
        codes, labels = columns.codes(names[0])
        return codes, spaces.Discrete(len(labels)), labels
    taken = np.column_stack([columns.numbers(name) for name in names])
    if bounds is None:
        bounds = (taken.min(axis=0), taken.max(axis=0))
        if env is not None and isinstance(env.action_space, spaces.Box):
            bounds = (env.action_space.low, env.action_space.high)
    low, high = (np.broadcast_to(np.asarray(each, np.float64), len(names)) for each in bounds)
    if not (np.isfinite(low) & np.isfinite(high) & (low < high)).all():
        raise ValueError(
            f"actions {list(names)} have the bounds {low.tolist()} and {high.tolist()}: each low "
            "one must be below the high one, and finite (give them as `bounds`)"
        )
    wrong = np.argwhere((taken < low) | (taken > high))
    if len(wrong):
        row, place = wrong[0]
        raise ValueError(
            f"{columns.places[row]}: column {names[place]!r} is {taken[row, place]:g}, allowed: "
            f"{low[place]:g} to {high[place]:g}"
        )
    box = spaces.Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)
    # Rounding to float32 must not carry an action beyond its bound.
    return np.clip(taken.astype(np.float32), box.low, box.high), box, []
