"""The benchmarks run, and their page says what they measured."""

from __future__ import annotations

import pytest

from palaestra.lab import bench


def test_sides_of_a_ratio_run_in_turn_and_give_medians():
    order = []

    def side(name, values):
        def measure():
            order.append(name)
            return values.pop(0)

        return measure

    medians = bench.in_turn([side("a", [3.0, 1.0, 2.0]), side("b", [9.0, 7.0, 8.0])], 3)
    assert order == ["a", "b"] * 3
    assert medians == [2.0, 8.0]


@pytest.mark.parametrize("name", sorted(bench.BENCHMARKS))
def test_every_benchmark_runs_quickly_and_is_on_the_page(name, tmp_path):
    page = tmp_path / "benchmarks.md"
    (measures,) = bench.main([name], quick=True, out=page).values()
    text = page.read_text(encoding="utf-8")
    for measure in measures:
        assert measure.what in text
        assert measure.value in text
        assert (measure.met is None) == (measure.target == "")


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="inventory_vector"):
        bench.main(["no such benchmark"])
