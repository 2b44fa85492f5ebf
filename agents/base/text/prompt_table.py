"""What an agent remembers of each prompt: numbers by the id of its task."""

from __future__ import annotations

from collections.abc import Mapping

import torch


class PromptTable:
    """Rows of numbers, one for each task that has been met; on the CPU.

    Args:
        defaults: name of each column -> its value for a task that has not been met.
    """

    def __init__(self, defaults: Mapping[str, float]) -> None:
        self.defaults = dict(defaults)
        self._row: dict[int, int] = {}
        self._columns = {name: torch.empty(0, dtype=torch.float64) for name in self.defaults}

    def __len__(self) -> int:
        return len(self._row)

    def __contains__(self, task: int) -> bool:
        return task in self._row

    def read(self, tasks: torch.Tensor) -> dict[str, torch.Tensor]:
        """Columns of tasks int [n], float64 [n] each; defaults where a task has not been met."""
        rows = torch.tensor([self._row.get(task, -1) for task in tasks.tolist()])
        return {
            name: torch.where(
                rows >= 0,
                torch.cat([column, column.new_tensor([self.defaults[name]])])[rows],
                self.defaults[name],
            )
            for name, column in self._columns.items()
        }

    def write(self, tasks: torch.Tensor, **values: torch.Tensor) -> None:
        """Set columns of tasks int [n], all different, to values [n]; new tasks get the defaults in
        the others.

        Raises:
            ValueError: a task occurs twice, or a column is unknown.
        """
        ids = tasks.tolist()
        if len(set(ids)) != len(ids):
            raise ValueError(f"each task is written once, got {ids}")
        if unknown := sorted(set(values) - set(self.defaults)):
            raise ValueError(f"columns are {sorted(self.defaults)}, got {unknown}")
        for task in ids:
            self._row.setdefault(task, len(self._row))
        missing = len(self._row) - len(next(iter(self._columns.values())))
        rows = torch.tensor([self._row[task] for task in ids], dtype=torch.int64)
        for name, column in self._columns.items():
            grown = torch.cat([column, column.new_full((missing,), self.defaults[name])])
            if name in values:
                grown[rows] = values[name].to(grown)
            self._columns[name] = grown

    def state(self) -> dict[str, torch.Tensor]:
        """All rows as tensors, to be saved."""
        return {"task": torch.tensor(list(self._row), dtype=torch.int64), **self._columns}

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Inverse of `state`."""
        self._row = {task: row for row, task in enumerate(state["task"].tolist())}
        self._columns = {name: state[name].cpu().double() for name in self.defaults}
