from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

import palaestra.agents
from palaestra.lab import catalog

# Worker processes inherit the parent's path, so they find numeric_arms too.
sys.path.insert(0, str(Path(__file__).parent))

PROBE = '''
from numeric_arms import {claim}
from palaestra.agents.base.declare import Example, Paper


class Helper:
    """Not the system: it declares no paper."""


class Probe:
    paper = Paper(slug="{slug}", title="A probe", authors="Nobody", year=2024)
    claim = {claim}
    example = Example("InventoryNet-v0")


class Variant(Probe):
    paper = Paper(slug="{slug}", title="A variant", authors="Nobody", year=2024)
'''


class Tree:
    """A package folder in which systems can be planted: catalogue and imports both see it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.system = next(s for s in catalog.systems() if s.family == "data")
        self.file = root / "agents" / self.system.family / f"{self.system.slug}.py"
        self.test = root / "tests" / "agents" / self.system.family / f"test_{self.system.slug}.py"
        self.result = root / "lab" / "results" / f"{self.system.slug}.json"

    def plant(self, claim: str = "HOLDS", test: str | None = "test_worked_example") -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        # A folder without it would lose against the real package of the family.
        (self.file.parent / "__init__.py").touch()
        self.file.write_text(PROBE.format(slug=self.system.slug, claim=claim))
        importlib.invalidate_caches()
        (self.root / "tests").mkdir(exist_ok=True)
        if test is not None:
            self.test.parent.mkdir(parents=True, exist_ok=True)
            self.test.write_text(f"def {test}():\n    assert True\n")

    def row(self) -> catalog.Row:
        return next(row for row in catalog.rows() if row.slug == self.system.slug)


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    planted = Tree(tmp_path)
    monkeypatch.setattr(catalog, "ROOT", tmp_path)
    monkeypatch.setattr(catalog, "RESULTS", tmp_path / "lab" / "results")
    family = f"palaestra.agents.{planted.system.family}"
    for name in (family, f"{family}.{planted.system.slug}"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    paths = [str(tmp_path / "agents"), *palaestra.agents.__path__]
    monkeypatch.setattr(palaestra.agents, "__path__", paths)
    yield planted
    for name in (family, f"{family}.{planted.system.slug}"):
        sys.modules.pop(name, None)
