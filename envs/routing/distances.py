"""Lengths of edges between points, in the rounding that a file asks for."""

from __future__ import annotations

from typing import Any

from .arrays import namespace

PI = 3.141592  # TSPLIB's own value: GEO distances are defined with it
EARTH_RADIUS = 6378.388  # kilometres, TSPLIB's
# None is the Euclidean distance without any rounding.
COORDINATE_TYPES = (None, "EUC_2D", "CEIL_2D", "ATT", "GEO")


def edge_lengths(start: Any, end: Any, edge_weight_type: str | None = None) -> Any:
    """Length of the edge between each pair of points.

    Args:
        start: float [..., 2].
        end: float [..., 2], broadcastable with `start`; NumPy arrays or torch tensors.
        edge_weight_type: None (Euclidean, exact), or TSPLIB's "EUC_2D" (rounded to the nearest
            integer), "CEIL_2D" (rounded up), "ATT" (pseudo-Euclidean, rounded up) or "GEO" (great
            circle in kilometres between latitudes and longitudes in degrees and minutes DDD.MM).

    Returns:
        Lengths, float [...].

    Raises:
        ValueError: an edge weight type that is not computed from coordinates.

    Source: G. Reinelt, TSPLIB 95 (1995), section 2.
    """
    xp = namespace(start)
    if edge_weight_type == "GEO":
        return _great_circle(xp, start, end)
    dx, dy = start[..., 0] - end[..., 0], start[..., 1] - end[..., 1]
    squared = dx * dx + dy * dy
    if edge_weight_type is None:
        return xp.sqrt(squared)
    if edge_weight_type == "EUC_2D":
        return xp.floor(xp.sqrt(squared) + 0.5)
    if edge_weight_type == "CEIL_2D":
        return xp.ceil(xp.sqrt(squared))
    if edge_weight_type == "ATT":
        return xp.ceil(xp.sqrt(squared / 10.0))
    raise ValueError(
        f"edge_weight_type={edge_weight_type!r} is not computed from coordinates, allowed are "
        f"{COORDINATE_TYPES}"
    )


def _great_circle(xp: Any, start: Any, end: Any) -> Any:
    """TSPLIB's GEO distance."""
    (from_lat, from_lon), (to_lat, to_lon) = _radians(xp, start), _radians(xp, end)
    q1, q2, q3 = (xp.cos(x) for x in (from_lon - to_lon, from_lat - to_lat, from_lat + to_lat))
    cosine = 0.5 * ((1.0 + q1) * q2 - (1.0 - q1) * q3)
    # Rounding may carry the cosine of equal points beyond 1, where acos is not defined.
    return xp.floor(EARTH_RADIUS * xp.acos(xp.clip(cosine, -1.0, 1.0)) + 1.0)


def _radians(xp: Any, points: Any) -> tuple[Any, Any]:
    """Latitude and longitude of DDD.MM in radians."""
    degrees = xp.trunc(points)
    radians = PI * (degrees + 5.0 * (points - degrees) / 3.0) / 180.0
    return radians[..., 0], radians[..., 1]
