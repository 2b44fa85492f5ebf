"""What is remembered of prompts: rows by task, grown as they are met."""

from __future__ import annotations

import pytest
import torch

from palaestra.agents.base.text.prompt_table import PromptTable


def test_rows_are_written_read_and_restored():
    table = PromptTable({"mean": 0.5, "visits": 0.0})
    assert len(table) == 0 and 7 not in table
    found = table.read(torch.tensor([7, 7]))
    assert found["mean"].tolist() == [0.5, 0.5] and found["visits"].tolist() == [0, 0]
    table.write(torch.tensor([7, 3]), mean=torch.tensor([0.1, 0.2]))
    table.write(torch.tensor([3, 9]), visits=torch.tensor([2, 1]))
    assert len(table) == 3 and 9 in table
    again = PromptTable(table.defaults)
    again.restore(table.state())
    for each in (table, again):
        found = each.read(torch.tensor([9, 3, 7, 1, 3]))
        torch.testing.assert_close(
            found["mean"], torch.tensor([0.5, 0.2, 0.1, 0.5, 0.2]).double(), rtol=0, atol=1e-7
        )
        assert found["visits"].tolist() == [1, 2, 0, 0, 2]


def test_what_cannot_be_written_is_refused():
    table = PromptTable({"mean": 0.5})
    with pytest.raises(ValueError, match=r"each task is written once, got \[1, 1\]"):
        table.write(torch.tensor([1, 1]), mean=torch.tensor([0.0, 1.0]))
    with pytest.raises(ValueError, match=r"columns are \['mean'\], got \['std'\]"):
        table.write(torch.tensor([1]), std=torch.tensor([0.0]))
    assert len(table) == 0
