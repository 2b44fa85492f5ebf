"""Covariance functions of distance, for Gaussian processes over places."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def squared_exponential(distance: NDArray[np.float64], length: float) -> NDArray[np.float64]:
    """exp(-(d / length)^2 / 2), elementwise."""
    return np.exp(-0.5 * (distance / length) ** 2)


def matern(distance: NDArray[np.float64], length: float) -> NDArray[np.float64]:
    """Matern of smoothness 5/2: (1 + z + z^2 / 3) exp(-z) with z = sqrt(5) d / length."""
    z = np.sqrt(5.0) * distance / length
    return (1.0 + z + z**2 / 3.0) * np.exp(-z)


KERNELS = {"squared_exponential": squared_exponential, "matern": matern}


def kernel_matrix(coordinates: ArrayLike, kernel: str, length: float) -> NDArray[np.float64]:
    """Covariances of all pairs of places, [E, E], with variance 1.

    Args:
        coordinates: [E, d], in the unit of `length`.
        kernel: "squared_exponential" or "matern".
        length: length scale, above 0.

    Raises:
        ValueError: an unknown kernel, a length that is not above 0, or coordinates that are not a
            finite table.
    """
    points = np.asarray(coordinates, dtype=np.float64)
    if points.ndim != 2 or not np.isfinite(points).all():
        raise ValueError(
            f"coordinates must be finite numbers [elements, d], got shape {points.shape}"
        )
    if kernel not in KERNELS:
        raise ValueError(f"kernel={kernel!r}, allowed are {tuple(KERNELS)}")
    if not 0 < length < np.inf:
        raise ValueError(f"length={length} must be a finite number above 0")
    differences = points[:, None, :] - points[None, :, :]
    return KERNELS[kernel](np.sqrt((differences**2).sum(axis=-1)), length)
