"""Every script of `examples/` runs, in a few steps, in an empty folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
ARGUMENTS = {
    "hdpo_on_one_warehouse.py": ["--steps", "6400", "--stores", "3"],
    "own_demand_and_network.py": ["--steps", "6400"],
    "sb3_on_native_environments.py": ["--steps", "3200", "--envs", "16"],
}
SAYS = {
    "hdpo_on_one_warehouse.py": "cost of one episode",
    "own_demand_and_network.py": "HDPO: ",
    "sb3_on_native_environments.py": "return per episode",
}


def test_every_example_is_tested():
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(ARGUMENTS)


@pytest.mark.parametrize("name", sorted(ARGUMENTS))
def test_example_runs(name, tmp_path):
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *ARGUMENTS[name]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert SAYS[name] in done.stdout
