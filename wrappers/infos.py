"""Gymnasium's vector infos, one dict of arrays, as one dict per sub-environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def unpack_infos(infos: Mapping[str, Any], rows: Sequence[int]) -> list[dict[str, Any]]:
    """One info dict per row out of a vector's info.

    Args:
        infos: Gymnasium's vector info. An entry `key` holds one value per sub-environment and a
            mask `_key` (bool [n]) tells which of them have it; without a mask, all have it. Dicts
            nest. A value that is no array, list or tuple belongs to all sub-environments alike.
        rows: indices of the sub-environments wanted, in the order of the result.

    Returns:
        New dicts; arrays in them are copies, which later steps do not change.
    """
    unpacked: list[dict[str, Any]] = [{} for _ in rows]
    for key, values in infos.items():
        if key.startswith("_") and key[1:] in infos:
            continue
        mask = infos.get(f"_{key}")
        present = [k for k, row in enumerate(rows) if mask is None or mask[row]]
        if isinstance(values, Mapping):
            nested = unpack_infos(values, [rows[k] for k in present])
            for k, info in zip(present, nested, strict=True):
                unpacked[k][key] = info
        elif isinstance(values, (list, tuple)) or (isinstance(values, np.ndarray) and values.ndim):
            for k in present:
                value = values[rows[k]]
                unpacked[k][key] = value.copy() if isinstance(value, np.ndarray) else value
        else:
            for k in present:
                unpacked[k][key] = values
    return unpacked
