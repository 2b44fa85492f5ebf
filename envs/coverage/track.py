"""Closed tracks: a centre line through given points, and where on it a place lies."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import ArrayLike, NDArray

from ..base import to_torch

if TYPE_CHECKING:
    import torch

# Points of the centre line in metres, in the direction of travel.
TRACKS: Mapping[str, tuple[tuple[float, float], ...]] = {
    "circuit": (
        *((0.0, 0.0), (0.6, 0.0), (1.2, 0.0), (1.75, 0.1), (2.05, 0.5), (1.85, 0.92)),
        *((1.35, 1.05), (1.1, 1.4), (1.4, 1.75), (1.95, 1.75), (2.5, 1.55), (2.75, 1.05)),
        *((2.72, 0.5), (2.85, 0.1), (3.25, 0.0), (3.55, 0.35), (3.55, 1.0), (3.5, 1.65)),
        *((3.3, 2.2), (2.75, 2.4), (2.0, 2.35), (1.3, 2.4), (0.65, 2.3), (0.4, 1.85)),
        *((0.5, 1.3), (0.3, 0.85), (-0.25, 0.75), (-0.5, 0.35), (-0.35, 0.06)),
    ),
    "oval": (
        *((0.0, 0.0), (0.5, 0.0), (1.0, 0.0), (1.424, 0.176), (1.6, 0.6), (1.424, 1.024)),
        *((1.0, 1.2), (0.5, 1.2), (0.0, 1.2), (-0.5, 1.2), (-1.0, 1.2), (-1.424, 1.024)),
        *((-1.6, 0.6), (-1.424, 0.176), (-1.0, 0.0), (-0.5, 0.0)),
    ),
}
SPACING = 0.04  # metres between two samples of the centre line, at most
STRIDE = 4  # samples between two of those among which the search for the nearest begins
FINE = 200  # steps between two given points when the length is measured


class Track:
    """A band of constant width along a closed line.

    The line is the periodic cubic spline through the points, with chord lengths as its parameter,
    sampled at K equal steps of its length and straight between two samples. A place is given by
    (s, d): the distance along the line from the first point in [0, length), and the distance from
    the line, positive to the left.

    Args:
        points: a name in `TRACKS`, or [k, 2] with k >= 4 in metres; the last one is joined to the
            first.
        half_width: from the line to either border, in metres, above 0.

    Attributes:
        length: of the line, in metres.
        samples: points of the line, [K, 2].
        headings: direction of the line at the samples, [K], continuous (not wrapped).
        curvatures: 1 / radius at the samples, [K], positive where the line turns left.

    Raises:
        ValueError: an unknown name, points that are too few, repeated or not finite, a bend that is
            too narrow for the width, or parts of the track that overlap.
    """

    arrays: ClassVar[tuple[str, ...]] = (
        *("_x", "_y", "_along_x", "_along_y", "_headings", "_turns", "_curvatures", "_around"),
    )

    def __init__(self, points: str | ArrayLike, half_width: float) -> None:
        if not 0 < half_width < np.inf:
            raise ValueError(f"half_width={half_width} must be a finite number above 0")
        self.half_width = float(half_width)
        line, speed, bend, self.length = sampled(check_points(points))
        self.samples, self.spacing = line, self.length / len(line)
        headings = np.unwrap(np.arctan2(speed[:, 1], speed[:, 0]))
        across = speed[:, 0] * bend[:, 1] - speed[:, 1] * bend[:, 0]
        self.headings, self.curvatures = headings, across / (speed**2).sum(axis=1) ** 1.5
        step = np.roll(line, -1, axis=0) - line
        unit = step / np.sqrt((step**2).sum(axis=1, keepdims=True))
        turns = np.roll(headings, -1) - headings
        # Columns of their own, so that arithmetic on them is the same for every batch size.
        self._x, self._y = line[:, 0].copy(), line[:, 1].copy()
        self._around = np.arange(-STRIDE, STRIDE + 1)
        self._along_x, self._along_y = unit[:, 0].copy(), unit[:, 1].copy()
        self._headings, self._turns = headings, wrapped(turns)
        self._curvatures = self.curvatures
        self._check_room()

    def _check_room(self) -> None:
        width, tightest = self.half_width, int(np.abs(self.curvatures).argmax())
        radius = 1.0 / max(abs(float(self.curvatures[tightest])), 1e-12)
        if radius <= width:
            place = self.samples[tightest].round(3).tolist()
            raise ValueError(
                f"track: at {place} the centre line has a radius of {radius:.3g} m, which must "
                f"exceed half_width={width:g}"
            )
        # In a bend of a radius above the half width, two points of the line that are more than a
        # half circle of that radius apart along it are further apart than the width of the track.
        # A little more keeps the search for the nearest sample from starting on another part.
        least = width + np.sqrt(width**2 + 0.5 * (STRIDE * self.spacing) ** 2)
        number = np.arange(len(self.samples))
        ahead = np.abs(number[:, None] - number) * self.spacing
        ahead = np.minimum(ahead, self.length - ahead)
        apart = np.sqrt(((self.samples[:, None] - self.samples) ** 2).sum(axis=-1))
        near = (ahead > np.pi * width + 2 * self.spacing) & (apart < least)
        if near.any():
            first, second = self.samples[np.argwhere(near)[0]].round(3).tolist()
            raise ValueError(
                f"track: the centre line passes {first} and {second}, which must be at least "
                f"{least:.3g} m apart"
            )

    def locate(self, x: Any, y: Any) -> tuple[Any, Any, Any]:
        """s and d of places and the heading of the line there, each [n].

        Args:
            x, y: places in metres, float [n].
        """
        xp, count = array_namespace(x), len(self.samples)
        # On the track the nearest of every fourth sample is a neighbour of the nearest of all.
        right, up = x[:, None] - self._x[::STRIDE], y[:, None] - self._y[::STRIDE]
        first = STRIDE * xp.argmin(right * right + up * up, axis=1)
        around = (first[:, None] + self._around) % count
        right, up = x[:, None] - self._x[around], y[:, None] - self._y[around]
        best = xp.argmin(right * right + up * up, axis=1)
        nearest = around[xp.arange(len(x)), best]
        right, up = x - self._x[nearest], y - self._y[nearest]
        behind = right * self._along_x[nearest] + up * self._along_y[nearest] < 0
        piece = (nearest - xp.astype(behind, nearest.dtype)) % count
        right, up = x - self._x[piece], y - self._y[piece]
        along_x, along_y = self._along_x[piece], self._along_y[piece]
        share = xp.clip((right * along_x + up * along_y) / self.spacing, 0.0, 1.0)
        d = along_x * up - along_y * right
        s = (xp.astype(piece, x.dtype) + share) * self.spacing
        s = xp.where(s >= self.length, 0.0 * s, s)
        return s, d, self._headings[piece] + share * self._turns[piece]

    def at(self, s: Any) -> tuple[Any, Any, Any]:
        """x, y of the line and its heading at s, each [n]; s may be any number."""
        piece, share = self._piece(s)
        x = self._x[piece] + share * self.spacing * self._along_x[piece]
        y = self._y[piece] + share * self.spacing * self._along_y[piece]
        return x, y, self._headings[piece] + share * self._turns[piece]

    def curvature(self, s: Any) -> Any:
        """1 / radius of the line at s, [n], in 1/m, positive where it turns left."""
        piece, share = self._piece(s)
        following = (piece + 1) % len(self.samples)
        return (1.0 - share) * self._curvatures[piece] + share * self._curvatures[following]

    def _piece(self, s: Any) -> tuple[Any, Any]:
        """Number of the straight piece at s, and the share of it that lies behind."""
        xp = array_namespace(s)
        whole = xp.floor(s / self.spacing)
        return xp.astype(whole, xp.int64) % len(self.samples), s / self.spacing - whole

    def torch(self, device: str | torch.device = "cpu", dtype: torch.dtype | None = None) -> Track:
        """The same track for tensors."""
        track = copy.copy(self)
        for name in self.arrays:
            setattr(track, name, to_torch(getattr(self, name), device, dtype))
        return track


def check_points(points: str | ArrayLike) -> NDArray[np.float64]:
    """Points of a centre line, float64 [k, 2]; ValueError for an unknown name or bad points."""
    if isinstance(points, str):
        if points not in TRACKS:
            raise ValueError(
                f"track={points!r}, allowed are {tuple(TRACKS)} or points [k, 2] in metres"
            )
        points = TRACKS[points]
    found = np.asarray(points, dtype=np.float64)
    if found.ndim != 2 or found.shape[1] != 2 or len(found) < 4 or not np.isfinite(found).all():
        raise ValueError(
            f"track must be at least 4 finite points (x, y), got an array of shape {found.shape}"
        )
    same = (found == np.roll(found, -1, axis=0)).all(axis=1)
    if same.any():
        number = int(np.flatnonzero(same)[0])
        raise ValueError(
            f"track: point {number} and the one after it are both {found[number].tolist()}; the "
            "last point is joined to the first without repeating it"
        )
    return found


def sampled(
    points: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], float]:
    """Samples of the spline at equal steps of its length.

    Returns:
        The samples and the spline's first and second derivatives there, each [K, 2], and its
        length.
    """
    from scipy.interpolate import CubicSpline

    closed = np.concatenate([points, points[:1]])
    chords = np.sqrt((np.diff(closed, axis=0) ** 2).sum(axis=1))
    spline = CubicSpline(np.append(0.0, chords.cumsum()), closed, bc_type="periodic")
    knots = np.linspace(0.0, spline.x[-1], FINE * len(points) + 1)
    steps = np.sqrt((np.diff(spline(knots), axis=0) ** 2).sum(axis=1))
    lengths = np.append(0.0, steps.cumsum())
    length = float(lengths[-1])
    count = int(np.ceil(length / SPACING))
    where = np.interp(np.arange(count) * length / count, lengths, knots)
    return spline(where), spline(where, 1), spline(where, 2), length


def wrapped(angles: Any) -> Any:
    """Angles in [-pi, pi)."""
    xp = array_namespace(angles)
    return angles - 2 * np.pi * xp.floor((angles + np.pi) / (2 * np.pi))
