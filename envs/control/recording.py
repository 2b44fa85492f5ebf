"""Recorded steps of a scripted controller, as arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from ..base import ArrayCore, stack
from ..checks import check_integer, check_number

# (observations [n, ...], memory) -> actions [n, ...], memory; the memory of the first step is None.
Controller = Callable[[NDArray[Any], Any], tuple[NDArray[np.float64], Any]]


def record_episodes(
    core: ArrayCore,
    controller: Controller,
    episodes: int,
    rng: np.random.Generator,
    noise: float = 0.0,
) -> dict[str, NDArray[Any]]:
    """Play whole episodes and keep every step, one episode after the other.

    The generator draws the tape of an episode and then its action noise, episode by episode: the
    first k episodes do not depend on how many there are.

    Args:
        core: with a horizon and actions in a box.
        controller: chooses the actions of all episodes at once.
        episodes: how many, at least 1.
        rng: draws tapes and noise.
        noise: standard deviation of what is added to the actions, which are then clipped to the
            action space.

    Returns:
        `observations`, `actions`, `rewards`, `next_observations`, `terminations`, `truncations`,
        each [steps, ...].

    Raises:
        ValueError: the core has no horizon or no box of actions; episodes is below 1, noise below
            0.
    """
    check_integer("episodes", episodes, 1)
    check_number("noise", noise, 0.0)
    space, horizon = core.action_space, core.horizon
    if not isinstance(space, gym.spaces.Box) or horizon is None:
        raise ValueError(f"episodes of {type(core).__name__} have no horizon, or no box of actions")
    tapes, noises = [], []
    for _ in range(episodes):
        tapes.append(core.draw_tape(rng, {}))
        noises.append(rng.standard_normal((horizon, *space.shape)))
    tape, added = stack(tapes), noise * np.stack(noises)
    state, memory = core.initial(tape), None
    alive = np.ones(episodes, dtype=bool)
    columns: list[dict[str, NDArray[Any]]] = []
    taken = []
    for step in range(horizon):
        observations = core.observation(state)
        wish, memory = controller(observations, memory)
        actions = np.clip(wish + added[:, step], space.low, space.high).astype(space.dtype)
        played = core.check_action(actions, state)
        following = core.transition(state, played, tape)
        ended = core.terminal(following)
        cut = core.truncated(following) & ~ended
        columns.append(
            {
                "observations": observations,
                "actions": actions,
                "rewards": np.asarray(core.reward(state, played, following), dtype=np.float64),
                "next_observations": core.observation(following),
                "terminations": ended,
                "truncations": cut,
            }
        )
        taken.append(alive)
        alive = alive & ~(ended | cut)
        state = following
        if not alive.any():
            break
    kept = np.stack(taken, axis=1)  # [episodes, steps]
    return {
        name: np.stack([column[name] for column in columns], axis=1)[kept] for name in columns[0]
    }


def record_steps(
    core: ArrayCore,
    controller: Controller,
    steps: int,
    rng: np.random.Generator,
    noise: float = 0.0,
    block: int = 100,
) -> dict[str, NDArray[Any]]:
    """As `record_episodes`, but a number of steps; the last episode is cut (truncated) there.

    Args:
        core, controller, rng, noise: as there.
        steps: how many, at least 1.
        block: episodes that are played at once.

    Raises:
        ValueError: as there; steps is below 1.
    """
    check_integer("steps", steps, 1)
    blocks: list[dict[str, NDArray[Any]]] = []
    while sum(len(found["actions"]) for found in blocks) < steps:
        blocks.append(record_episodes(core, controller, block, rng, noise))
    data = {name: np.concatenate([found[name] for found in blocks])[:steps] for name in blocks[0]}
    data["truncations"][-1] |= not data["terminations"][-1]
    return data
