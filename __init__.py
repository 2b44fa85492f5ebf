"""Palaestra: Gymnasium environments and Stable-Baselines3-style agents for surveyed papers."""

from __future__ import annotations

import importlib
from typing import Any

from .envs.registry import register_all

__version__ = "0.1.0"

register_all()


def __getattr__(name: str) -> Any:
    """Load the parts of the package on first use, so that `import palaestra` stays quick."""
    if name in {"agents", "envs", "lab", "wrappers"}:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
