"""Tables of a user's own, and what is said where they are dirty."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from palaestra.envs.data.tables import read_columns

CSV = "\ufeffgroup, x ,y\nb,1,2.5\n\na,-3e2,4\nb,5,6\n"


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "people.csv"
    file.write_text(CSV, encoding="utf-8")
    return file


def test_every_form_gives_the_same_columns(path):
    columns = {"group": ["b", "a", "b"], "x": [1, -300, 5], "y": [2.5, 4.0, 6.0]}
    rows = list(zip(*columns.values(), strict=True))
    types = [("group", "U3"), ("x", int), ("y", float)]
    tables = (path, str(path), columns, pd.DataFrame(columns), np.array(rows, dtype=types))
    for data in tables:
        table = read_columns(data)
        assert len(table) == 3
        assert_allclose(table.numbers("x"), columns["x"])
        assert_allclose(table.numbers("y"), columns["y"])
        codes, labels = table.codes("group")
        assert_array_equal(codes, [0, 1, 0])
        assert labels == ["b", "a"]
    assert read_columns({"year": [2020, 1999, 2020]}).codes("year")[1] == ["2020", "1999"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"line 1: the header is \[\], allowed: distinct names"),
        ("a,a\n1,2\n", r"line 1: the header is \['a', 'a'\]"),
        ("a,\n1,2\n", "line 1: the header is"),
        ("a,b\n", "no rows, allowed: 1 or more"),
        ("a,b\n1,2\n1,2,3\n", "line 3: 3 fields, the header has 2"),
    ],
)
def test_a_file_of_another_form_is_refused_with_its_line(tmp_path, text, message):
    file = tmp_path / "bad.csv"
    file.write_text(text)
    with pytest.raises(ValueError, match=f"bad.csv.*{message}"):
        read_columns(file)
    file.write_bytes(b"a,b\n\xff\xfe,1\n")
    with pytest.raises(ValueError, match="bad.csv: not a .csv file"):
        read_columns(file)
    with pytest.raises(FileNotFoundError):
        read_columns(tmp_path / "none.csv")


@pytest.mark.parametrize(
    ("cell", "shown"),
    [("north", "'north'"), ("", "empty"), ("nan", "'nan'"), ("inf", "'inf'")],
)
def test_a_cell_that_is_no_number_is_refused_with_its_place(path, cell, shown):
    path.write_text(f"group,x\na,1\n\nb,{cell}\n")
    with pytest.raises(ValueError, match=f"people.csv, line 4: column 'x' is {shown}"):
        read_columns(path).numbers("x")


def test_cells_of_frames_and_mappings_are_refused_with_their_row():
    frame = pd.DataFrame({"x": [1.0, np.nan], "g": ["a", None], "b": [True, False]})
    table = read_columns(frame)
    with pytest.raises(ValueError, match="data frame, row 1: column 'x' is empty, allowed: finite"):
        table.numbers("x")
    with pytest.raises(ValueError, match="data frame, row 1: column 'g' is empty, allowed: a lab"):
        table.codes("g")
    with pytest.raises(ValueError, match="data frame, row 0: column 'b' is True"):
        table.numbers("b")
    with pytest.raises(ValueError, match=r"no column 'z', allowed: \['b', 'g', 'x'\]"):
        table.numbers("z")
    for data in (3, [1, 2], np.zeros((2, 2))):
        with pytest.raises(ValueError, match=f"data is {type(data).__name__}, allowed: the path"):
            read_columns(data)
    for data in ({"x": [1], "y": [1, 2]}, {"x": [[1, 2]]}, {"x": 3.0}, {}):
        with pytest.raises(ValueError, match="columns of the shapes"):
            read_columns(data)
    with pytest.raises(ValueError, match="no rows, allowed: 1 or more"):
        read_columns({"x": []})
