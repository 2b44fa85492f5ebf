"""Recorded steps of `LineWorld-v0`, each on its own: laws under which good actions are rare.

All functions return `observations`, `actions`, `rewards`, `next_observations`, `terminations`
(never) and `truncations` (always, since the next row is another step), [rows, ...]. One generator
draws the places, then what decides between two laws, then the actions of each law in the order
stated.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..checks import check_integer
from .line_world import END, LineWorld


def alternating_steps(rows: int = 4_000, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Good actions on every second unit of the line, bad ones on the others.

    s uniform on [0, 10); a uniform on [0.2, 1), times -1 where floor(s) is odd.

    Raises:
        ValueError: rows is below 1.
    """
    rng, rows = np.random.default_rng(seed), check_integer("rows", rows, 1)
    s = rng.uniform(0.0, END, rows)
    a = rng.uniform(0.2, 1.0, rows)
    return _steps(LineWorld(), s, np.where(np.floor(s) % 2 == 1, -a, a))


def mostly_bad_steps(rows: int = 4_000, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Bad actions everywhere, good ones in a fifth of the steps.

    s uniform on [0, 10); with probability 0.2 a is uniform on [0.5, 1), otherwise on [-1, -0.2).

    Raises:
        ValueError: rows is below 1.
    """
    rng, rows = np.random.default_rng(seed), check_integer("rows", rows, 1)
    s, flag = rng.uniform(0.0, END, rows), rng.random(rows)
    good, bad = rng.uniform(0.5, 1.0, rows), rng.uniform(-1.0, -0.2, rows)
    return _steps(LineWorld(), s, np.where(flag < 0.2, good, bad))


def half_good_steps(rows: int = 4_000, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Good actions on the left half; on the right half bad ones but for 15 %.

    s uniform on [0, 10). On s < 5 a is uniform on [0.6, 1); beyond with probability 0.15 on
    [0.5, 1), otherwise on [-1, -0.2).

    Raises:
        ValueError: rows is below 1.
    """
    rng, rows = np.random.default_rng(seed), check_integer("rows", rows, 1)
    s, flag = rng.uniform(0.0, END, rows), rng.random(rows)
    left = rng.uniform(0.6, 1.0, rows)
    good, bad = rng.uniform(0.5, 1.0, rows), rng.uniform(-1.0, -0.2, rows)
    return _steps(LineWorld(), s, np.where(s < 5, left, np.where(flag < 0.15, good, bad)))


def far_half_steps(rows: int = 500, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Any actions, on the right half only, of the line whose left half is reversed.

    s uniform on [5, 10), a on [-1, 1); the next place is that of `reversed=(0, 5)`.

    Raises:
        ValueError: rows is below 1.
    """
    rng, rows = np.random.default_rng(seed), check_integer("rows", rows, 1)
    s = rng.uniform(5.0, END, rows)
    return _steps(LineWorld((0.0, 5.0)), s, rng.uniform(-1.0, 1.0, rows))


def _steps(core: LineWorld, s: Any, a: Any) -> dict[str, NDArray[Any]]:
    """The steps that the actions make; what is observed and done is what the arrays hold."""
    observations, actions = (value[:, None].astype(np.float32) for value in (s, a))
    state = core.initial({"start": observations[:, 0].astype(np.float64)})
    played = core.check_action(actions, state)
    after = core.transition(state, played, {})
    return {
        "observations": observations,
        "actions": actions,
        "rewards": core.reward(state, played, after),
        "next_observations": core.observation(after),
        "terminations": np.zeros(len(s), dtype=bool),
        "truncations": np.ones(len(s), dtype=bool),
    }
