"""Scripted controllers of `PointMaze-v0`, and data sets that are recorded with them.

The data are dictionaries of arrays under the names that data sets have elsewhere:
`observations`, `actions`, `rewards`, `next_observations`, `terminations`, `truncations`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .point_maze import STEP, PointMaze
from .recording import record_episodes, record_steps

UMAZE = np.array([[1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])


def straight(place: ArrayLike, goal: ArrayLike) -> NDArray[np.float64]:
    """Velocity that leads to the goal as fast as possible along each axis, [..., 2].

    Without walls and noise it is optimal for every reward that falls with |dx| and with |dy|.
    """
    return np.clip((np.asarray(goal) - np.asarray(place, dtype=np.float64)) / STEP, -1.0, 1.0)


def next_waypoint(
    place: NDArray[Any], waypoints: NDArray[np.float64], reached: Any, within: float
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Where to go now, and how many waypoints lie behind.

    Args:
        place: [n, 2].
        waypoints: of every point the same, [W, 2], or its own, [n, W, 2].
        reached: waypoints behind, int [n]; None: none.
        within: a waypoint but the last is passed when both coordinates are less than this away.

    Returns:
        The waypoint ahead [n, 2], and `reached` [n].
    """
    rows = np.arange(len(place))
    lists = np.broadcast_to(waypoints, (len(place), *waypoints.shape[-2:]))
    behind = np.zeros(len(place), dtype=np.int64) if reached is None else reached
    near = (np.abs(lists[rows, behind] - place) < within).all(axis=1)
    behind = np.minimum(behind + near, lists.shape[1] - 1)
    return lists[rows, behind], behind


def umaze_controller(
    observations: NDArray[Any], reached: Any = None
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Around the wall of the layout "umaze" by a damped pull towards three waypoints.

    Args:
        observations: position and velocity, [n, 4].
        reached: waypoints behind, [n]; None at the start.

    Returns:
        Forces [n, 2], and `reached` for the next step.
    """
    place, velocity = np.split(observations.astype(np.float64), 2, axis=1)
    ahead, reached = next_waypoint(place, UMAZE, reached, 0.3)
    return np.clip(3.0 * (ahead - place) - 1.5 * velocity, -1.0, 1.0), reached


def two_routes_controller(
    observations: NDArray[Any], sides: ArrayLike, reached: Any = None
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Around the block of the layout "two_routes".

    Args:
        observations: position, [n, 2].
        sides: +1 above the block, -1 below, one for all or [n].
        reached: waypoints behind, [n]; None at the start.

    Returns:
        Velocities [n, 2], and `reached` for the next step.
    """
    way = np.array([[-0.6, 1.0], [0.6, 1.0], [1.0, 0.0]])
    side = np.broadcast_to(np.asarray(sides, dtype=np.float64), len(observations))
    flipped = np.stack([np.ones(len(observations)), side], axis=1)
    place = observations.astype(np.float64)
    ahead, reached = next_waypoint(place, way * flipped[:, None], reached, 0.15)
    return straight(place, ahead), reached


def two_routes_demonstrations(
    episodes: int = 200, seed: int = 0, noise: float = 1.05
) -> dict[str, NDArray[Any]]:
    """Noisy demonstrations of "two_routes": even episodes pass above the block, odd ones below.

    With the default noise 59 % of the episodes succeed.

    Args:
        episodes: how many.
        seed: of the generator that draws starts and noise.
        noise: standard deviation of what is added to the velocities before they are clipped.

    Raises:
        ValueError: episodes is below 1, noise below 0.
    """
    sides = 1.0 - 2.0 * (np.arange(episodes) % 2)

    def act(observations: NDArray[Any], reached: Any) -> tuple[NDArray[np.float64], Any]:
        return two_routes_controller(observations, sides, reached)

    core, rng = PointMaze("two_routes"), np.random.default_rng(seed)
    return record_episodes(core, act, episodes, rng, noise)


def umaze_steps(steps: int = 20_000, seed: int = 0, noise: float = 0.5) -> dict[str, NDArray[Any]]:
    """Steps of the noisy controller of "umaze", episode after episode; the last one is cut.

    Args:
        steps: how many.
        seed: of the generator that draws starts and noise.
        noise: standard deviation of what is added to the forces before they are clipped.

    Raises:
        ValueError: steps is below 1, noise below 0.
    """
    rng = np.random.default_rng(seed)
    return record_steps(PointMaze("umaze"), umaze_controller, steps, rng, noise)
