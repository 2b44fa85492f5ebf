"""The documentation's own examples run, and its links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


FILE = """NAME : small
TYPE : CVRP
DIMENSION : 4
EDGE_WEIGHT_TYPE : EUC_2D
CAPACITY : 10
NODE_COORD_SECTION
1 0 0
2 3 4
3 6 8
4 0 5
DEMAND_SECTION
1 0
2 4
3 5
4 6
DEPOT_SECTION
1
-1
EOF
"""


def test_use_your_own_data_runs_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (ROOT / "docs" / "use_your_own_data.md").read_text(encoding="utf-8")
    found = re.findall(r"^```(csv|yaml|json|python)\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    files = {"csv": ["sales.csv", "log.csv"], "yaml": ["network.yaml"], "json": ["cluster.json"]}
    for kind, names_of_kind in files.items():
        texts = [text for one, text in found if one == kind]
        for name, text in zip(names_of_kind, texts, strict=True):
            (tmp_path / name).write_text(text)
    (tmp_path / "X-n101-k25.vrp").write_text(FILE)
    monkeypatch.chdir(tmp_path)
    inventory, *others = [text for kind, text in found if kind == "python"]
    names: dict = {}
    exec(compile(inventory, "use_your_own_data.md", "exec"), names)
    assert names["reward"] < 0
    assert names["info"]["demand"].shape == (2,)
    assert names["info"]["orders"].shape == (3,)
    for text in others:  # training is cut short
        text = text.replace("nodes=20)).learn(2_000)", "nodes=20), instances=64).learn(20)")
        exec(compile(text, "use_your_own_data.md", "exec"), names)
    assert sorted(names["tour"].tour) == [0, 1, 2, 3]
    assert isinstance(names["plan"], list)
    assert len(names["data"]) == 3


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_lead_to_files(page: Path) -> None:
    generated = ("environments/", "systems/", "agents/", "reference/")
    for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        if "://" not in target and not target.startswith(generated):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
