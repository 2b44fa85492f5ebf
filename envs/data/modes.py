"""The modes of `EquitableSampling-v0`: what its groups are."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from ..checks import check_choice
from .groups import CurveGroups, GroupSource
from .polygenic_groups import PolygenicGroups
from .table_groups import TableGroups

MODES: dict[str, type[GroupSource]] = {
    "curve": CurveGroups,
    "prs": PolygenicGroups,
    "table": TableGroups,
}


def make_source(mode: str, arguments: Mapping[str, Any]) -> GroupSource:
    """The groups of a mode.

    Raises:
        ValueError: there is no such mode, or an argument is missing or means nothing in it.
    """
    source = MODES[check_choice("mode", mode, MODES)]
    known = inspect.signature(source).parameters
    if unknown := sorted(set(arguments) - set(known)):
        raise ValueError(f"mode={mode!r} has no arguments {unknown}, it has {sorted(known)}")
    needed = [name for name, one in known.items() if one.default is one.empty]
    if missing := [name for name in needed if name not in arguments]:
        raise ValueError(f"mode={mode!r} needs the arguments {missing}")
    return source(**arguments)
