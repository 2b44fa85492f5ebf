"""What a drive is worth: how much of the route was covered, and which rules were broken."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from array_api_compat import is_array_api_obj

# Infractions (the first three: collisions) and the factor that each of them puts on the score.
PENALTIES = {
    "pedestrian": 0.5,
    "vehicle": 0.6,
    "static": 0.65,
    "red_light": 0.7,
    "stop_sign": 0.8,
}


def route_completion(distance: Any, length: float) -> Any:
    """Covered part of a route in percent, clipped to [0, 100].

    Args:
        distance: along the route, m; a number or an array, NumPy or torch.
        length: of the route, m.

    Raises:
        ValueError: the route has no length.
    """
    if not length > 0:
        raise ValueError(f"a route of length {length} m has nothing to cover, it must exceed 0")
    if not is_array_api_obj(distance):
        return 100.0 * min(max(distance / length, 0.0), 1.0)
    return 100.0 * (distance / length).clip(0.0, 1.0)


def driving_score(completion: float, infractions: Iterable[str] = ()) -> float:
    """Route completion times the factors of all infractions; the score of CARLA's leaderboard.

    Args:
        completion: in percent.
        infractions: names, each as often as it happened.

    Raises:
        ValueError: there is no such infraction.
    """
    score = float(completion)
    for name in infractions:
        if name not in PENALTIES:
            raise ValueError(f"infraction {name!r}, allowed are {tuple(PENALTIES)}")
        score *= PENALTIES[name]
    return score
