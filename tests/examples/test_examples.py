"""Every script of `examples/` runs, in a few steps, in an empty folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
ARGUMENTS = {
    "cover_a_map.py": ["--updates", "3", "--horizon", "10"],
    "defragment_cluster.py": ["--steps", "500", "--moves", "4"],
    "hdpo_on_one_warehouse.py": ["--steps", "6400", "--stores", "3"],
    "improve_a_language_model.py": ["--replies", "256"],
    "learn_from_logs.py": ["--steps", "50"],
    "own_demand_and_network.py": ["--steps", "6400"],
    "risk_sensitive_walk.py": ["--cols", "4"],
    "route_my_cities.py": ["--steps", "20", "--instances", "64"],
    "sb3_on_native_environments.py": ["--steps", "3200", "--envs", "16"],
    "worst_case_control.py": ["--steps", "100", "--points", "2", "--episode", "20"],
}
SAYS = {
    "cover_a_map.py": "SubPO: ",
    "defragment_cluster.py": "before and after: ",
    "hdpo_on_one_warehouse.py": "cost of one episode",
    "improve_a_language_model.py": "right on 256 sums that it has not seen: ",
    "learn_from_logs.py": "with the policy",
    "own_demand_and_network.py": "HDPO: ",
    "risk_sensitive_walk.py": "paths and laws: risk_sensitive_walk.png",
    "route_my_cities.py": "length of the route: ",
    "sb3_on_native_environments.py": "return per episode",
    "worst_case_control.py": "IWOCS: worst return ",
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
