"""Reference drivers for `LaneDriving`: rules that read the state, the timing of the light included.

env = gymnasium.make_vec("LaneDriving-v0", num_envs=50)
env.reset(seed=10_000)
env.step(scripted_driver(env.unwrapped.state))
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..base import Arrays
from . import traffic
from .lane_driving import BRAKE, PULL, limit_at, seen_neighbours, to_stop
from .traffic import CENTRES, GREEN, LANES

GAIN = 8.0  # m of free distance that make a change of lanes worth while
ROOM = 2.0  # m that a lane must offer on either side to be changed into
BRAKING, DELAY = 5.0, 0.6  # m/s^2 and s, with which the driver plans to stop
EAGER = 5.0  # 1/s, how fast it wants to reach another speed
AIR = 2.0  # m between standing vehicles
SLOW = 4.0  # m/s, which the car soon reaches when it starts
LOOK = 4.0  # m that it takes to drive straight again
SIDE = 0.2  # m beside another vehicle
MARGIN = 1.0  # s of green to spare


def full_throttle(state: Arrays) -> NDArray[np.float64]:
    """Forwards, whatever there is; actions [n, 2]."""
    return np.tile([1.0, 0.0], (len(state["s"]), 1))


def constant_speed(state: Arrays) -> NDArray[np.float64]:
    """Neither pedal nor wheel; actions [n, 2]."""
    return np.zeros((len(state["s"]), 2))


def scripted_driver(state: Arrays, overtake: bool = True) -> NDArray[np.float64]:
    """Keeps the limit, brakes for vehicles and for a light that it cannot pass in time.

    Args:
        state: of a `LaneDriving`, NumPy.
        overtake: change into a neighbouring lane that offers 8 m more free distance.

    Returns:
        Actions [n, 2].
    """
    v, y = state["v"], state["y"]
    lane = traffic.nearest_lane(y).astype(np.int64)
    near = seen_neighbours(state)
    target = choose_lane(near, lane) if overtake else lane
    # Every lane that the car is in the way of, or will be.
    across = np.arange(LANES) == target[:, None]
    for place in (y, y + LOOK * np.sin(state["heading"])):
        across |= np.abs(place[:, None] - np.array(CENTRES)) < traffic.BESIDE + SIDE
    free = np.where(across, near.ahead, np.inf).min(axis=1)
    slowest = np.where(across & (near.ahead < np.inf), near.ahead_speed, np.inf).min(axis=1)
    # Whoever is in front may stand still at once, as the traffic does at a red light.
    wanted = np.minimum(limit_at(state), stoppable_speed(free - AIR))
    wanted = np.minimum(wanted, speed_for_light(state, np.minimum(np.maximum(v, SLOW), slowest)))
    acc = EAGER * (wanted - v)
    pedal = np.clip(np.where(acc >= 0, acc / PULL, acc / BRAKE), -1.0, 1.0)
    return np.stack([pedal, steer_towards(state, target)], axis=1)


def choose_lane(near: traffic.Neighbours, lane: NDArray[np.int64]) -> NDArray[np.int64]:
    """The present lane, or the neighbouring one that has the most to offer, int [n]."""
    rows = np.arange(len(lane))
    free = np.minimum(near.ahead, 100.0)
    lanes = np.arange(LANES)
    open_ = (np.abs(lanes - lane[:, None]) == 1) & (near.behind > ROOM) & (near.ahead > ROOM)
    open_ &= free > free[rows, lane][:, None] + GAIN
    open_[rows, lane] = True
    return np.where(open_, free, -np.inf).argmax(axis=1)


def stoppable_speed(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """The highest speed from which the car comes to rest within a distance in m, [n]."""
    delay = BRAKING * DELAY
    return np.sqrt(delay**2 + 2 * BRAKING * np.maximum(distance, 0.0)) - delay


def speed_for_light(state: Arrays, v: NDArray[np.float64]) -> NDArray[np.float64]:
    """The speed at which the car can still stop at the line; infinite if it may pass, [n].

    Args:
        state: of a `LaneDriving`.
        v: at which it expects to drive on.
    """
    line = to_stop(state)
    clock = traffic.light_clock(state["t"], state["phase"])
    in_time = line < v * (GREEN - clock - MARGIN)
    return np.where((line < 0) | in_time, np.inf, stoppable_speed(line - 0.5))


def steer_towards(state: Arrays, target: NDArray[np.int64]) -> NDArray[np.float64]:
    """Steering to the centre of the target lane, in [-1, 1], [n]."""
    error = np.array(CENTRES)[target] - state["y"]
    heading = np.clip(0.12 * error, -0.25, 0.25)
    return np.clip(8.0 * (heading - state["heading"]), -1.0, 1.0)
