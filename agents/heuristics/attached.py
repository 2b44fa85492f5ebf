"""What rules that look into the attached environment share: finding it, and its present state."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from ...envs.base import ArrayCore, Arrays
from ..base.snapshot import bottom, native_faces


def attached_faces(
    env: VecEnv | None, core_class: type[ArrayCore], why: str, what: str
) -> list[Any]:
    """The array environments that an agent has, after a reset.

    Args:
        env: of the agent.
        core_class: of which their core must be.
        why, what: what they are needed for, and what to attach, for the message.

    Raises:
        ValueError: there are none, they are others, or they have not been reset.
    """
    faces = native_faces(bottom(env)) if env is not None else []
    if not faces or any(
        not isinstance(getattr(face, "core", None), core_class) or not hasattr(face, "state")
        for face in faces
    ):
        raise ValueError(f"{why} the attached environment: attach {what} with set_env and reset it")
    return faces


def joined(faces: list[Any], part: str) -> dict[str, NDArray[Any]]:
    """The `state` or the `tape` of environments, one row each."""
    parts: list[Arrays] = [getattr(face, part) for face in faces]
    return {name: np.concatenate([np.asarray(one[name]) for one in parts]) for name in parts[0]}


def check_shown(core: ArrayCore, state: Arrays, observations: Any) -> None:
    """Raise a ValueError unless a state is what batched observations show."""
    shown = core.observation(state)
    pairs = (
        [(observations[name], shown[name]) for name in shown]
        if isinstance(shown, dict)
        else [(observations, shown)]
    )
    if not all(np.array_equal(given, own) for given, own in pairs):
        raise ValueError(
            f"the observation, of shape {np.shape(pairs[0][0])}, is not that of the "
            f"{len(state['t'])} attached environments at their current state: attach the one "
            "that it comes from with set_env"
        )
