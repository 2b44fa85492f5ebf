"""What is known of a finite environment from its tables alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..envs.tabular.finite_mdp import FiniteMDP
from ..envs.tabular.planning.effective_horizon import effective_horizon
from .evaluation import make_environment


def effective_horizon_of(
    env_id: str,
    arguments: Mapping[str, Any],
    horizon: int | None = None,
    depth: int | None = None,
    scale: float | None = None,
) -> dict[str, Any]:
    """The effective horizon of an environment that `FiniteMDP.from_env` can enumerate.

    Args:
        env_id, arguments: of the environment.
        horizon: steps of an episode; None: where the environment ends or cuts its own.
        depth, scale: as in `effective_horizon`.

    Returns:
        environment, states, actions, horizon, effective_horizon and its k (None where no k solves
        it); steps: k, solvable, gap and bound (None where they are infinite) of each k up to the
        one from where on neither the gap nor solvability change; and a summary in words.

    Raises:
        ValueError: an unknown environment, one that cannot be enumerated or has no horizon, or an
            argument out of range.
    """
    mdp = FiniteMDP.from_env(make_environment(env_id, arguments))
    steps = horizon or mdp.horizon or mdp.max_steps
    if steps is None:
        raise ValueError(f"{env_id} has no horizon of its own: give one with --horizon")
    continues = ~np.isin(np.arange(mdp.states), mdp.terminal_states)
    found = effective_horizon(
        mdp.P, mdp.R, mdp.d0, steps, depth=depth, scale=scale, continues=continues
    )
    largest, k = len(found.gaps), int(found.k)
    changes = (found.gaps[1:] != found.gaps[:-1]) | (found.solvable[1:] != found.solvable[:-1])
    shown = int(np.flatnonzero(changes).max(initial=-1)) + 2
    result = {
        "environment": env_id,
        "states": mdp.states,
        "actions": mdp.actions,
        "horizon": steps,
        "effective_horizon": finite(found.horizon),
        "k": k or None,
        "steps": [
            {
                "k": i + 1,
                "solvable": bool(found.solvable[i]),
                "gap": finite(found.gaps[i]),
                "bound": finite(found.bounds[i]),
            }
            for i in range(shown)
        ],
    }
    said = f"{env_id}: {mdp.states} states, {mdp.actions} actions, {steps} steps; "
    if k:
        said += f"effective horizon {float(found.horizon):.6g}, at k = {k}"
    else:
        said += f"not k-QVI-solvable for any k up to {largest}"
    return {**result, "summary": said}


def finite(value: Any) -> float | None:
    """A number for JSON, which knows no infinity."""
    return float(value) if np.isfinite(value) else None
