from __future__ import annotations

import json

import pytest

from palaestra.lab import catalog


def test_there_is_one_row_per_surveyed_system():
    rows = catalog.rows()
    assert len(rows) == 181
    assert [row.row for row in rows] == list(range(1, 182))
    assert len({row.slug for row in rows}) == 181


def test_rows_and_summary_agree_on_every_state():
    rows, summary = catalog.rows(), catalog.summary()
    assert sum(count["total"] for count in summary.values()) == 181
    for family, count in summary.items():
        for state in catalog.STATES:
            found = [row for row in rows if (row.family, row.state) == (family, state)]
            assert len(found) == count[state]


def test_a_row_is_ready_for_json():
    row = catalog.rows()[0].as_dict()
    assert json.loads(json.dumps(row)) == row
    assert set(row) == {
        "row",
        "slug",
        "family",
        "title",
        "state",
        "stale",
        "class",
        "environments",
        "claim",
        "evidence",
    }


def test_a_system_without_a_file_is_missing(tree):
    row = tree.row()
    assert (row.state, row.class_path, row.environments) == ("missing", None, ())


def test_a_class_with_a_worked_example_is_implemented(tree):
    tree.plant()
    row = tree.row()
    assert row.state == "implemented"
    module = f"palaestra.agents.{tree.system.family}.{tree.system.slug}"
    assert row.class_path == f"{module}.Probe"
    assert row.environments == ("InventoryNet-v0",)
    assert row.evidence is None and not row.stale
    assert catalog.find_class(tree.system.slug).__name__ == "Probe"


@pytest.mark.parametrize("test", [None, "test_something_else"])
def test_a_class_without_a_worked_example_is_missing(tree, test):
    tree.plant(test=test)
    assert tree.row().state == "missing"


def test_without_a_tests_folder_the_class_alone_counts(tree):
    tree.plant(test=None)
    (tree.root / "tests").rmdir()
    assert tree.row().state == "implemented"


def test_a_paper_of_another_slug_does_not_count(tree):
    tree.plant()
    tree.file.write_text(tree.file.read_text().replace(f'"{tree.system.slug}"', '"other"'))
    assert tree.row().state == "missing"
    with pytest.raises(ValueError, match="is not implemented"):
        catalog.find_class(tree.system.slug)


def test_a_result_with_another_hash_is_stale_and_keeps_its_state(tree):
    tree.plant()
    tree.result.parent.mkdir(parents=True)
    tree.result.write_text(json.dumps({"state": "reproduced", "hash": "of another source"}))
    row = tree.row()
    assert (row.state, row.stale) == ("reproduced", True)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"state": "trial"}', '{"state": "splendid"}'])
def test_a_damaged_result_is_an_error_that_names_the_file(tree, text):
    tree.plant()
    tree.result.parent.mkdir(parents=True)
    tree.result.write_text(text)
    with pytest.raises(ValueError, match=f"{tree.system.slug}.json is not a result"):
        catalog.rows()


def test_environments_are_those_of_the_registry():
    found = {entry["id"]: entry for entry in catalog.environments()}
    assert found["InventoryNet-v0"] == {
        "id": "InventoryNet-v0",
        "domain": "inventory",
        "faces": ["single", "vector", "torch", "pettingzoo"],
        "class": "palaestra.envs.inventory.inventory_net.InventoryNet",
    }
