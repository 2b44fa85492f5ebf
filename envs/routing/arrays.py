"""Operations on arrays that are NumPy's or torch's, made to cost little for small batches."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from array_api_compat import array_namespace
from array_api_compat import numpy as numpy_api
from numpy.typing import NDArray


def namespace(array: Any) -> Any:
    """The array API of a NumPy array or a torch tensor, found in a hurry."""
    return numpy_api if isinstance(array, np.ndarray) else array_namespace(array)


def rows_of(array: Any) -> Any:
    """0 .. len(array) - 1, on the device of `array`."""
    if isinstance(array, np.ndarray):
        return np.arange(len(array))
    return namespace(array).arange(len(array), device=array.device)


def base_of(array: Any, size: int) -> Any:
    """Flat index of the first of the `size` entries of each row, int [len(array)]."""
    if isinstance(array, np.ndarray):
        return _numpy_base(len(array), size)
    return rows_of(array) * size


@lru_cache(maxsize=16)
def _numpy_base(rows: int, size: int) -> NDArray[np.int64]:
    base = np.arange(rows, dtype=np.int64) * size
    base.setflags(write=False)
    return base


def duplicate(array: Any) -> Any:
    """A copy."""
    return array.copy() if isinstance(array, np.ndarray) else array.clone()


def filled(like: Any, shape: tuple[int, ...], value: Any, dtype: str) -> Any:
    """An array of one value, of the kind and on the device of `like`; `dtype` as xp names it."""
    xp = namespace(like)
    return xp.full(shape, value, dtype=getattr(xp, dtype), device=like.device)


def written(array: Any, places: Any, values: Any) -> Any:
    """A copy of `array` [b, n] with `values` at flat places int [k]."""
    result = duplicate(array)
    if not isinstance(values, bool):
        values = namespace(values).astype(values, result.dtype)
    result.reshape(-1)[places] = values
    return result


def show_points(table: Any, points: Any, present: Any | None) -> None:
    """Write points [b, n, 2] into the first two columns of a table, in place; where `present`
    [b, n] says so, if it is given."""
    for axis in range(2):
        column = points[..., axis]
        table[..., axis] = column if present is None else column * present


def as_float32(array: Any) -> Any:
    """Numbers as tables hold them."""
    xp = namespace(array)
    return xp.astype(array, xp.float32)
