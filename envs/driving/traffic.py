"""The road of `LaneDriving`: its lanes, the other vehicles, and the traffic light.

Arrays are NumPy's or torch's; n is the batch, 3 the lanes, 5 the vehicles of a lane, nearest first.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from array_api_compat import array_namespace

ROAD = 300.0  # m
LANES, PER_LANE = 3, 5
LANE_WIDTH = 3.5
CENTRES = (-3.5, 0.0, 3.5)
EDGE = 5.25  # |y| where the road ends
LENGTH, WIDTH = 4.5, 2.0  # of a vehicle
NOSE = LENGTH / 2
SECONDS = 0.1  # per step
CYCLE, GREEN = 20.0, 12.0  # s
KEPT = 8.0  # m between the centres of two vehicles, the least that traffic keeps
BESIDE = 2.0  # m off a lane's centre from which on one is in nobody's way there


class Neighbours(NamedTuple):
    """The next vehicles of every lane, as seen from the ego; each [n, 3].

    Attributes:
        ahead: free distance to the next one that is not behind, m; infinite where there is none.
        ahead_speed: its speed, m/s; 0 where there is none.
        behind: free distance to the next one behind.
        behind_speed: its speed.
    """

    ahead: Any
    ahead_speed: Any
    behind: Any
    behind_speed: Any


def nearest_lane(y: Any) -> Any:
    """Index 0, 1 or 2 of the lane whose centre is nearest to y [n]; floats."""
    return array_namespace(y).floor(y / LANE_WIDTH + 1.5).clip(0.0, LANES - 1.0)


def lane_offset(y: Any) -> Any:
    """Signed distance of y [n] from the centre of the nearest lane, m."""
    return y - LANE_WIDTH * (nearest_lane(y) - 1.0)


def of_lane(values: Any, lane: Any) -> Any:
    """Column `lane` [n] of values [n, 3]."""
    xp = array_namespace(values)
    first = xp.where(lane == 0, values[:, 0], values[:, 1])
    return xp.where(lane == 2, values[:, 2], first)


def is_red(t: Any, phase: Any) -> Any:
    """Whether the light is red after t steps: 12 s green and 8 s red, shifted by `phase` s."""
    return light_clock(t, phase) >= GREEN


def light_clock(t: Any, phase: Any) -> Any:
    """Seconds since the light last turned green."""
    xp = array_namespace(phase)
    return xp.remainder(SECONDS * xp.astype(t, phase.dtype) + phase, CYCLE)


def move(positions: Any, speeds: Any, stop: Any, red: Any, s: Any, y: Any) -> Any:
    """Positions of the other vehicles after a step, [n, 3, 5].

    Each drives at the speed of its lane, never backwards, stays 8 m behind the one in front of it
    and behind the ego, and waits at a red light that it has not reached yet.

    Args:
        positions: along the road, [n, 3, 5].
        speeds: of the lanes, [n, 3].
        stop: stop line, [n].
        red: bool [n].
        s: where the ego is along the road, [n].
        y: and across it, [n].
    """
    xp = array_namespace(positions)
    distances = xp.stack([xp.abs(y - centre) for centre in CENTRES], axis=1)
    moved: list[Any] = []
    for k in range(PER_LANE - 1, -1, -1):  # from the front: each must know where the next one went
        x = positions[:, :, k]
        target = x + SECONDS * speeds
        if moved:
            target = xp.minimum(target, moved[-1] - KEPT)
        line = stop[:, None]
        waits = red[:, None] & (x + NOSE <= line)
        target = xp.where(waits, xp.minimum(target, line - NOSE), target)
        follows = (distances < BESIDE) & (x < s[:, None])
        target = xp.where(follows, xp.minimum(target, s[:, None] - KEPT), target)
        moved.append(xp.maximum(x, target))
    return xp.stack(moved[::-1], axis=2)


def neighbours(positions: Any, speeds: Any, s: Any) -> Neighbours:
    """The next vehicles before and behind the ego, lane by lane.

    Args:
        positions: [n, 3, 5].
        speeds: of the vehicles, [n, 3, 5].
        s: of the ego, [n].
    """
    xp = array_namespace(positions)
    ahead = positions >= s[:, None, None]
    distance = xp.abs(positions - s[:, None, None])
    found = []
    for among in (ahead, ~ahead):
        masked = xp.where(among, distance, xp.inf)
        nearest = xp.min(masked, axis=2)
        chosen = among & (masked == nearest[:, :, None])
        found += [nearest - LENGTH, xp.sum(xp.where(chosen, speeds, 0.0), axis=2)]
    return Neighbours(*found)


def touches(positions: Any, s: Any, y: Any) -> Any:
    """Whether the ego collides with one of the vehicles, bool [n]."""
    xp = array_namespace(positions)
    along = xp.any(xp.abs(positions - s[:, None, None]) < LENGTH, axis=2)
    across = xp.stack([xp.abs(y - centre) < WIDTH for centre in CENTRES], axis=1)
    return xp.any(along & across, axis=1)
