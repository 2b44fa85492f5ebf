"""Environments load without torch, and every agent under its name."""

from __future__ import annotations

import subprocess
import sys


def loaded(code: str) -> set[str]:
    """Modules in memory after running `code` in a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; import sys; print(' '.join(sys.modules))"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


def test_an_environment_needs_no_torch():
    code = "import gymnasium as gym, palaestra; gym.make('InventoryNet-v0').reset(seed=0)"
    assert "torch" not in loaded(code)


def test_every_agent_loads_by_name():
    import palaestra

    for name in palaestra.agents.names():
        assert getattr(palaestra.agents, name).__name__ == name
