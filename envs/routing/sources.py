"""Where instances come from other than from a law: files, objects and data sets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .generators import into_unit_square
from .instance import RoutingInstance


def load_instance(source: RoutingInstance | str | Path, kinds: tuple[str, ...]) -> RoutingInstance:
    """The instance itself, or the one that a file holds.

    Args:
        source: an instance, or the path of a TSPLIB or (kind "cvrp") CVRPLIB file.
        kinds: which kinds of instances are wanted.

    Raises:
        ValueError: neither an instance nor a path, a broken file, or an instance of another kind.
    """
    if isinstance(source, str | Path):
        from .files import read_cvrplib, read_tsplib

        source = read_cvrplib(source) if kinds == ("cvrp",) else read_tsplib(source)
    if not isinstance(source, RoutingInstance):
        raise ValueError(f"instance must be a RoutingInstance or a path, got {type(source)}")
    if source.kind not in kinds:
        raise ValueError(f"instance {source.name!r} is of kind {source.kind!r}, allowed: {kinds}")
    return source


def observed_coordinates(instance: RoutingInstance) -> NDArray[np.float64]:
    """Coordinates in the unit square, [n, 2], scaled by one factor for both axes.

    A symmetric matrix without coordinates is drawn by classical multidimensional scaling.
    """
    points = instance.coordinates
    return into_unit_square(
        classical_scaling(instance.distance_matrix()) if points is None else points
    )


def classical_scaling(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points [n, 2] whose distances are as close to a symmetric matrix [n, n] as a plane allows.

    Source: W. S. Torgerson, Multidimensional scaling: I. Theory and method, Psychometrika 17
    (1952).
    """
    squared = matrix**2
    inner = squared - squared.mean(axis=0) - squared.mean(axis=1)[:, None] + squared.mean()
    values, vectors = np.linalg.eigh(-0.5 * inner)
    values, vectors = values[-1:-3:-1], vectors[:, -1:-3:-1]
    # An eigenvector is unique up to its sign: the entry of the largest size is made positive.
    signs = np.sign(np.take_along_axis(vectors, np.abs(vectors).argmax(axis=0)[None], axis=0))
    return vectors * signs * np.sqrt(values.clip(0.0))


def check_data_set(
    instances: Mapping[str, Any],
    required: Mapping[str, tuple[Any, ...]],
    optional: Mapping[str, tuple[Any, ...]],
) -> dict[str, NDArray[np.float64]]:
    """A data set as float64 arrays with a leading axis over its rows.

    Args:
        instances: name -> array [rows, ...].
        required: name -> shape of one row; "n" stands for a size that all arrays share.
        optional: the same, of arrays that may be missing.

    Raises:
        ValueError: a name is missing or unknown, shapes do not fit together, or a number is
            negative or not finite.
    """
    allowed = {**required, **optional}
    unknown, missing = sorted(set(instances) - set(allowed)), sorted(set(required) - set(instances))
    if unknown or missing:
        raise ValueError(
            f"instances: unknown arrays {unknown}, missing ones {missing}; needed are "
            f"{sorted(required)}, allowed besides {sorted(optional)}"
        )
    arrays = {name: np.array(given, dtype=np.float64) for name, given in instances.items()}
    first = arrays[next(iter(required))]
    rows, n = first.shape[:2] if first.ndim >= 2 else (0, 0)
    if not rows:
        raise ValueError("instances: there is no row in the data set")
    for name, array in arrays.items():
        shape = (rows, *(n if size == "n" else size for size in allowed[name]))
        if array.shape != shape:
            raise ValueError(f"instances: {name} has shape {array.shape}, it must be {shape}")
        if not (np.isfinite(array).all() and (array >= 0).all()):
            raise ValueError(f"instances: {name} holds numbers that are negative or not finite")
    return arrays


def check_in_unit_square(coordinates: NDArray[np.float64]) -> None:
    """Raise a ValueError unless the coordinates [rows, n, 2] of a data set lie in [0, 1]."""
    if (outside := np.argwhere(coordinates > 1)).size:
        row, node, _ = (int(i) for i in outside[0])
        raise ValueError(
            f"instances: node {node} of row {row} lies at {coordinates[row, node].tolist()}, "
            "coordinates must be in the unit square; an instance in other units is a "
            "RoutingInstance"
        )


def size_of(name: str, given: int | None, default: int, fixed: int | None, least: int = 2) -> int:
    """Number of nodes or items: of the instances where there are some, else as given.

    Raises:
        ValueError: too few, or another number than the instances have.
    """
    if given is not None and (
        isinstance(given, bool) or not isinstance(given, int | np.integer) or given < least
    ):
        raise ValueError(f"{name}={given!r}, allowed are the integers from {least} on")
    if fixed is None:
        return default if given is None else int(given)
    if given is not None and given != fixed:
        raise ValueError(f"{name}={given}, but the given instances have {fixed}")
    return fixed


def one_source(instance: Any, instances: Any) -> None:
    """Raise a ValueError where both an instance and a data set were given."""
    if instance is not None and instances is not None:
        raise ValueError("give either instance (one) or instances (a data set), not both")


def one_number(name: str, given: Any) -> float:
    """A non-negative number.

    Raises:
        ValueError: it is something else.
    """
    number = float(given)
    if not (np.isfinite(number) and number >= 0):
        raise ValueError(f"{name}={given}, allowed are numbers from 0 on")
    return number
