"""`mode="table"` of `EquitableSampling-v0`: the groups of a user's own table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..base import Arrays
from ..checks import check_choice, check_number
from .groups import Counts, SampledGroups, Samples
from .models import LEAST_R2, Logistic, Ridge
from .tables import read_columns


class TableGroups(SampledGroups):
    """The rows of each group are split at random into what can be bought, validation and test.

    Args:
        data: path of a CSV file with a header, data frame, structured array or mapping of columns.
        group: column with the label of a row's group; groups have the order of their first row.
        target: column to predict.
        features: columns of numbers to predict from; None: all others. They are standardised over
            the whole table.
        model: "ridge" (a number is predicted; R^2, floored at 0.01) or "logistic" (one of two
            values; accuracy), one model per group, with an intercept.
        penalty: of squared coefficients, above 0.
        validation, test: shares of a group's rows, in (0, 1), together below 1.
    """

    def __init__(
        self,
        data: Any,
        group: str,
        target: str,
        features: Sequence[str] | None = None,
        model: str = "ridge",
        penalty: float = 1.0,
        validation: float = 0.2,
        test: float = 0.3,
    ) -> None:
        check_choice("model", model, ("ridge", "logistic"))
        if check_number("penalty", penalty, 0.0) == 0:
            raise ValueError(f"penalty={penalty} must be above 0")
        for name, share in (("validation", validation), ("test", test)):
            if not 0 < check_number(name, share) < 1:
                raise ValueError(f"{name}={share} is no share in (0, 1)")
        if validation + test >= 1:
            raise ValueError(
                f"validation={validation} and test={test} leave nothing to buy: together they must "
                "be below 1"
            )
        table = read_columns(data)
        codes, self.names = table.codes(group)
        others = [name for name in table.values if name not in (group, target)]
        chosen = others if features is None else list(features)
        if not chosen or {group, target} & set(chosen):
            raise ValueError(
                f"{table.origin}: features are {chosen}, allowed: at least one of {others}"
            )
        columns = np.stack([table.numbers(name) for name in chosen], axis=1)
        spread = columns.std(axis=0)
        columns = (columns - columns.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
        self.features = np.column_stack([columns, np.ones(len(table))])
        penalties = np.append(np.full(len(chosen), float(penalty)), 0.0)
        if model == "ridge":
            self.bounds = (LEAST_R2, 1.0)
            self.targets = table.numbers(target)
            self.models = [Ridge(penalties, centred=True) for _ in self.names]
        else:
            self.bounds = (0.0, 1.0)
            classes, labels = table.codes(target)
            if len(labels) != 2:
                raise ValueError(
                    f"{table.origin}: column {target!r} has {len(labels)} values, "
                    'model="logistic" predicts one of two'
                )
            self.targets = classes.astype(np.float64)
            self.models = [Logistic(penalties) for _ in self.names]
        # Rows of one group after the other; `first` is where each of them begins.
        self.order = np.argsort(codes, kind="stable")
        rows = np.bincount(codes)
        self.shares = rows / rows.sum()
        self.first = np.append(0, np.cumsum(rows))
        self.held = [np.rint(share * rows).astype(np.int64) for share in (validation, test)]
        self.pools = rows - sum(self.held)

    def open(self, sizes: Counts) -> Counts:
        """As `GroupSource.open`; a group has the batches that fit into its rows."""
        super().open(sizes)
        for name, pool, start, *held in zip(
            self.names, self.pools, sizes[:, 0], *self.held, strict=True
        ):
            if min(held) < 1 or pool < start:
                raise ValueError(
                    f"group {name!r} has {pool + sum(held)} rows: {held[0]} for validation, "
                    f"{held[1]} for test and {pool} to buy, needed are 1, 1 and start={start}"
                )
        return np.asarray((sizes <= self.pools[:, None]).sum(axis=1) - 1)

    def draw_tape(self, rng: np.random.Generator) -> Arrays:
        """A random order of each group's rows, the seed of subsets, and what models can do."""
        order = [
            rng.permutation(self.order[start:end])
            for start, end in zip(self.first[:-1], self.first[1:], strict=True)
        ]
        tape = {"order": np.concatenate(order), "seed": rng.integers(2**62)}
        return tape | self.tables(tape)

    def samples(self, tape: Arrays, group: int) -> Samples:
        """The rows of a group in the order of the tape."""
        rows = tape["order"][self.first[group] : self.first[group + 1]]
        pool, validation = int(self.pools[group]), int(self.held[0][group])
        return Samples(self.features[rows], self.targets[rows], pool, validation)
