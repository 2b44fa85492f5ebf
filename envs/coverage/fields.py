"""Weights of the cells of a map: laws by name, or a user's own array."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..checks import check_integer
from .kernels import kernel_matrix

SPACING = 0.1  # side of a cell in the coordinate units of the Gaussian process
SHIFT = 3.0  # added to the Gaussian process
DENSITY = 0.3  # share of cells of a sparse map that weigh something
JITTER = 1e-8  # on the diagonal, so that the covariance of a smooth field can be factorised


def weight_field(
    weights: str | ArrayLike, rows: int, cols: int, instance: int
) -> NDArray[np.float64]:
    """Weights of a map, float64 [rows, cols].

    Args:
        weights: "constant" (1), "bimodal" (1 / (1 + exp(-x y)) with x and y from -1 to 1),
            "gaussian_process" (Matern 5/2 of length 1 and variance 1, cells 0.1 apart, plus 3, or
            plus what makes the lowest weight 0 where 3 does not do), "sparse" (each cell weighs
            U(0.5, 1.5) with probability 0.3, else 0), or an array [rows, cols].
        rows, cols: size of the map.
        instance: integer of at least 0; the random laws draw from `default_rng(instance)`.

    Raises:
        ValueError: an unknown law, an array of another shape, or weights that are not finite.
    """
    if not isinstance(weights, str):
        given = np.asarray(weights, dtype=np.float64)
        if given.shape != (rows, cols) or not np.isfinite(given).all():
            raise ValueError(
                f"weights must be finite numbers of shape {(rows, cols)}, got shape {given.shape}"
            )
        return given.copy()
    rng = np.random.default_rng(check_instance(instance))
    if weights == "constant":
        return np.ones((rows, cols))
    if weights == "bimodal":
        y, x = np.linspace(-1, 1, rows)[:, None], np.linspace(-1, 1, cols)[None, :]
        return 1.0 / (1.0 + np.exp(-x * y))
    if weights == "gaussian_process":
        places = SPACING * np.indices((rows, cols)).reshape(2, -1).T
        covariance = kernel_matrix(places, "matern", 1.0) + JITTER * np.eye(rows * cols)
        field = np.linalg.cholesky(covariance) @ rng.standard_normal(rows * cols)
        return (field + max(SHIFT, -float(field.min()))).reshape(rows, cols)
    if weights == "sparse":
        chosen = rng.random((rows, cols)) < DENSITY
        return np.where(chosen, rng.uniform(0.5, 1.5, (rows, cols)), 0.0)
    allowed = ("constant", "bimodal", "gaussian_process", "sparse")
    raise ValueError(f"weights={weights!r}, allowed are {allowed} or an array {(rows, cols)}")


def check_instance(instance: int) -> int:
    """Return `instance`; ValueError unless it is an integer of at least 0."""
    return check_integer("instance", instance, 0)
