"""The documentation's own examples run, and its links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_use_your_own_data_runs_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (ROOT / "docs" / "use_your_own_data.md").read_text(encoding="utf-8")
    block = dict(re.findall(r"^```(csv|yaml|python)\n(.*?)^```", page, re.MULTILINE | re.DOTALL))
    (tmp_path / "sales.csv").write_text(block["csv"])
    (tmp_path / "network.yaml").write_text(block["yaml"])
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(block["python"], "use_your_own_data.md", "exec"), names)
    assert names["reward"] < 0
    assert names["info"]["demand"].shape == (2,)
    assert names["info"]["orders"].shape == (3,)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_lead_to_files(page: Path) -> None:
    generated = ("environments/", "systems/", "agents/", "reference/")
    for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        if "://" not in target and not target.startswith(generated):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
