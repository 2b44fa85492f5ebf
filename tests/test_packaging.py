"""What is installed is what is in the tree."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

import palaestra

ROOT = Path(__file__).resolve().parents[1]
NOT_THE_PACKAGE = {"build", "dist", "docs", "examples", "runs", "site", "tests"}


@pytest.fixture(scope="module")
def pyproject() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_every_folder_with_an_init_file_is_listed_in_pyproject(pyproject: dict) -> None:
    folders = [file.parent.relative_to(ROOT).parts for file in ROOT.rglob("__init__.py")]
    in_tree = {
        ".".join(("palaestra", *parts))
        for parts in folders
        if not parts or not (parts[0] in NOT_THE_PACKAGE or parts[0].startswith("."))
    }
    assert set(pyproject["tool"]["setuptools"]["packages"]) == in_tree


def test_every_folder_with_modules_has_an_init_file() -> None:
    for folder in ("agents", "envs", "lab", "wrappers"):
        for file in (ROOT / folder).rglob("*.py"):
            assert (file.parent / "__init__.py").exists(), f"{file.parent} holds modules"


def test_data_files_of_the_package_exist(pyproject: dict) -> None:
    assert (ROOT / "py.typed").exists()
    assert (ROOT / "lab" / "systems.csv").exists()
    assert set(pyproject["tool"]["setuptools"]["package-data"]["palaestra.lab"]) >= {
        "systems.csv",
        "results/*.json",
        "templates/*",
    }


def test_one_version_everywhere() -> None:
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^version: (.+)$", citation, re.MULTILINE)[1] == palaestra.__version__
    assert f"## [{palaestra.__version__}]" in changelog
    assert metadata.version("palaestra") == palaestra.__version__


def test_constraints_pin_every_dependency(pyproject: dict) -> None:
    """Extras that the tests do not need (llm, mujoco, solvers) are not pinned."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", pin) for pin in pins)
    pinned = {_normal(pin.split("==")[0]) for pin in pins}
    extras = pyproject["project"]["optional-dependencies"]
    needed = [*pyproject["project"]["dependencies"], *extras["dev"], *extras["docs"]]
    names = {_normal(re.match(r"[\w.-]+", item)[0]) for item in needed} - {"palaestra"}
    assert names <= pinned


def test_importing_the_package_loads_no_heavy_library() -> None:
    heavy = "{'torch', 'stable_baselines3', 'pandas', 'matplotlib', 'ray', 'scipy'}"
    code = f"import palaestra, sys; print(sorted({heavy} & set(sys.modules)))"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent
    )
    assert run.stdout.strip() == "[]"


def test_the_package_is_imported_once() -> None:
    """A second import under the name of the checkout's folder would register everything twice."""
    copies = [
        name
        for name, module in sys.modules.items()
        if getattr(module, "__file__", None) == str(ROOT / "__init__.py")
    ]
    assert copies == ["palaestra"]


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
