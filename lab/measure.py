"""What `palaestra measure` finds in recorded data: TQ, SACo, and what they are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..agents.base.minari_files import read_minari
from ..agents.base.normalised_scores import Reference, d4rl_reference, reference_of
from ..agents.base.offline_files import SUFFIXES, FileDataset, read_d4rl
from ..agents.offline.dataset_measures import DatasetReport, analyse, ends_of
from ..extras import require
from . import page, plots


@dataclass(frozen=True)
class Measured:
    """A data set and what was found in it.

    Attributes:
        name: as it was given.
        report: the measures.
        notes: what a reader should know of them, one sentence each.
    """

    name: str
    report: DatasetReport
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """The numbers, ready for JSON; what is not known is None."""
        found = self.report
        return {
            "name": self.name,
            "steps": found.steps,
            "episodes": len(found.returns),
            "mean_return": found.mean_return,
            "least_return": float(found.returns.min()),
            "largest_return": float(found.returns.max()),
            "mean_length": float(found.lengths.mean()),
            "zero_rewards": found.zero_rewards,
            "action_entropy": found.action_entropy,
            "pairs": found.pairs,
            "reference_steps": found.reference_steps,
            "reference_pairs": found.reference_pairs,
            "return_of_random_play": found.lowest,
            "return_of_expert": found.highest,
            "tq": found.tq,
            "saco": found.saco,
            "notes": list(self.notes),
        }


def read_whole(source: str, max_episode_steps: int | None = None) -> FileDataset:
    """Every step of a data set, in its order.

    Unlike `load_dataset`, which drops the last step of an episode of D4RL that was cut: its reward
    is part of the return. An episode with which a file of D4RL breaks off is not called cut here.

    Args:
        source: as in `load_dataset`.
        max_episode_steps: as in `read_d4rl`.

    Raises:
        FileNotFoundError, ValueError, ImportError: as in `load_dataset`.
    """
    if Path(source).suffix not in SUFFIXES:
        return read_minari(source)
    found = read_d4rl(source, max_episode_steps=max_episode_steps)
    assert found.truncations is not None
    truncations = found.truncations.copy()
    with require("h5py", "offline").File(source, "r") as file:
        if "timeouts" in file:
            truncations[-1] = bool(np.any(file["timeouts"][-1]))
        elif max_episode_steps is not None:
            ends = np.flatnonzero(ends_of(found)[:-1]) + 1
            begin = int(ends[-1]) if len(ends) else 0
            truncations[-1] = len(found) - begin == max_episode_steps
    return replace(found, truncations=truncations)


def known_reference(source: str, dataset: FileDataset) -> Reference | None:
    """Returns of random play and of an expert: the data set's own, or those of D4RL's task."""
    if {"ref_min_score", "ref_max_score"} <= set(dataset.metadata):
        return reference_of(dataset)
    try:
        return d4rl_reference(Path(source).stem.replace("_", "-"))
    except ValueError:
        return None


def measure(
    sources: Sequence[str],
    reference: str | None = None,
    lowest: float | None = None,
    highest: float | None = None,
    max_episode_steps: int | None = None,
) -> list[Measured]:
    """Measure data sets.

    Args:
        sources: names, folders or files, as in `load_dataset`.
        reference: what an online agent saw in as many steps; None: there is no SACo.
        lowest, highest: returns of random play and of an expert; None: those that are known.
        max_episode_steps: for files of D4RL without `timeouts`.

    Raises:
        FileNotFoundError, ValueError, ImportError: as in `load_dataset` and `analyse`.
    """
    shown = None if reference is None else read_whole(reference, max_episode_steps)
    found = []
    for source in sources:
        dataset, notes = read_whole(source, max_episode_steps), []
        known = known_reference(source, dataset)
        low = known.lowest if lowest is None and known else lowest
        high = known.highest if highest is None and known else highest
        if low is None or high is None:
            notes.append("no TQ: give the returns of random play (--min) and an expert (--expert)")
        if shown is None:
            notes.append("no SACo: give what an online agent saw in as many steps (--reference)")
        elif len(shown) != len(dataset):
            notes.append(
                f"the reference has {len(shown):,} steps and the data {len(dataset):,}: SACo is "
                "made for as many"
            )
        try:
            report = analyse(dataset, shown, lowest=low, highest=high)
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from error
        found.append(Measured(source, report, tuple(notes)))
    return found


def render_measures(out: Path, found: Sequence[Measured]) -> Path:
    """Write a page with the numbers and pictures; returns the file, out/report.html."""
    points = {
        each.name: (each.report.tq, each.report.saco)
        for each in found
        if each.report.tq is not None and each.report.saco is not None
    }
    returns: dict[str, NDArray[np.float64]] = {each.name: each.report.returns for each in found}
    ends = {(each.report.lowest, each.report.highest) for each in found}
    low, high = ends.pop() if len(ends) == 1 else (None, None)  # lines hold for all, or for none
    levels = {"random play": low, "expert": high}
    plane = page.drawn(plots.quality_and_coverage, points, name="plane") if points else None
    return page.write(
        out,
        "measures.html",
        rows=[each.as_dict() for each in found],
        plane=plane,
        returns=page.drawn(
            plots.returns_histogram,
            returns,
            name="returns",
            levels={name: value for name, value in levels.items() if value is not None},
        ),
    )
