"""Demand of the stores: `make_demand` builds a source from a law, a file, a data frame or an array.

A source serves K stores and draws the demand of one episode from the generator it is given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from .demand_laws import DemandSource, Discrete, Normal, Poisson, Statistics
from .demand_trace import Split, Trace, check_on_negative
from .parameters import is_range, numbers, uniforms

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["DemandSource", "Discrete", "Normal", "Poisson", "Statistics", "Trace", "make_demand"]


def make_demand(
    spec: Any,
    stores: int | None = None,
    rng: np.random.Generator | None = None,
    *,
    on_negative: str | None = None,
    split: Split = "default",
    calendar: str | Path | DataFrame | ArrayLike | None = None,
    calendar_columns: Sequence[str] | None = None,
) -> DemandSource:
    """A demand source from what a user has.

    Args:
        spec: a `DemandSource`; a law such as {"law": "normal", "mean": 5, "std": 1.6, "clip": True,
            "correlation": 0.5}, {"law": "poisson", "mean": 5} or {"law": "discrete", "values": [0,
            1], "probabilities": [0.3, 0.7]}, where "cv" (std / mean) may stand for "std", and mean,
            std and cv are numbers, one per store, or ("uniform", low, high), drawn for each store;
            or a trace: a path to .npz (key sales, demand or values) or .csv, a data frame, or an
            array [series, stores, weeks] or [stores, weeks]. Tables: see `read_demand`.
        stores: how many stores there have to be; None takes what `spec` has.
        rng: draws the parameters that are ranges.
        on_negative: None or "clip", see `Trace`.
        split: see `Trace`; "default" is "train" for data, and what a given `Trace` has already.
            Laws are the same in every split.
        calendar: for a trace: path to .csv, data frame or array [weeks, C]; see `read_calendar`.
        calendar_columns: which columns of a calendar table to use.

    Raises:
        ValueError: an unknown law or parameter, dirty or badly shaped data, a wrong number of
            stores.
    """
    from .demand_files import read_calendar, read_demand

    check_on_negative(on_negative)
    if calendar is None and calendar_columns is not None:
        raise ValueError(f"calendar_columns is {calendar_columns!r}, but no calendar is given")
    features = None if calendar is None else read_calendar(calendar, calendar_columns)
    source: DemandSource
    if isinstance(spec, DemandSource):
        source = spec
        if isinstance(source, Trace) and split != "default":
            source = source.at(split)
        if isinstance(source, Trace) and features is not None:
            source = source.at(source.split)
            source.calendar = source.check_calendar(features)
    elif isinstance(spec, Mapping):
        source = _law(spec, stores, rng)
    else:
        recorded = read_demand(spec)
        source = Trace(
            recorded.values,
            "train" if split == "default" else split,
            on_negative=on_negative,
            calendar=features,
            origin=recorded.origin,
            place=recorded.place,
        )
    if features is not None and not isinstance(source, Trace):
        raise ValueError("a calendar belongs to a trace, but the demand is a law")
    if stores is not None and source.stores != stores:
        origin = source.origin if isinstance(source, Trace) else "demand"
        raise ValueError(f"{origin} has {source.stores} stores, allowed: the network's {stores}")
    return source


_PARAMETERS = {
    "normal": ("mean", "std", "cv", "correlation", "clip"),
    "poisson": ("mean",),
    "discrete": ("values", "probabilities"),
}


def _law(
    spec: Mapping[str, Any], stores: int | None, rng: np.random.Generator | None
) -> DemandSource:
    law = spec.get("law")
    if law not in _PARAMETERS:
        raise ValueError(f"law is {law!r}, allowed: {', '.join(_PARAMETERS)}")
    given = {name: value for name, value in spec.items() if name != "law"}
    for name in given:
        if name not in _PARAMETERS[law]:
            allowed = ", ".join(_PARAMETERS[law])
            raise ValueError(f"unknown parameter {name!r} of {law} demand, allowed: {allowed}")
    needed = [name for name in _PARAMETERS[law] if name not in ("std", "cv", "correlation", "clip")]
    if missing := [name for name in needed if name not in given]:
        raise ValueError(f"{law} demand needs {missing[0]}, given: {dict(spec)!r}")
    if law == "discrete":
        return Discrete(given["values"], given["probabilities"], stores=stores or 1)
    if law == "normal" and ("std" in given) == ("cv" in given):
        raise ValueError(f"normal demand needs std or cv, one of them, given: {dict(spec)!r}")
    varied = {name: given[name] for name in ("mean", "std", "cv") if name in given}
    size = stores or max([np.size(v) for v in varied.values() if not is_range(v)], default=1)
    draws = uniforms(rng, 2, size)
    mean = numbers("mean", given["mean"], draws[0])
    if law == "poisson":
        return Poisson(mean)
    if "cv" in given:
        std = mean * numbers("cv", given["cv"], draws[1])
    else:
        std = numbers("std", given["std"], draws[1])
    clip = given.get("clip", True)
    if not isinstance(clip, bool):
        raise ValueError(f"clip is {clip!r}, allowed: True | False")
    return Normal(mean, std, given.get("correlation", 0.0), clip)
