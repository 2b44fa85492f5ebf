"""Optional libraries, imported where they are used."""

from __future__ import annotations

import importlib
from types import ModuleType


def require(module: str, extra: str) -> ModuleType:
    """Import `module`, or say in one line which extra of palaestra brings it.

    Raises:
        ImportError: `module` (or something that it needs) is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f'this needs the package {module} ({error}): pip install "palaestra[{extra}]"'
        ) from error
