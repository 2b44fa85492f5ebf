"""Normalised scores: 0 is what random play earns, 1 what an expert does.

    normalised_score(returns, "hopper-medium-v2")       # D4RL's published reference returns
    normalised_score(returns, dataset)                  # those that a data set brings

    score = (return - lowest) / (highest - lowest)

J. Fu, A. Kumar, O. Nachum, G. Tucker, S. Levine: D4RL: Datasets for Deep Data-Driven Reinforcement
Learning (2020, arXiv 2004.07219). The numbers are those of the project's own tables
(github.com/Farama-Foundation/D4RL, `d4rl/infos.py` and, for old versions of the mazes, the
registrations of its environments). Papers print 100 times the score. The reference returns belong
to the environments of those tasks: in a later version of an environment they are a convention.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .offline_data import OfflineDataset


@dataclass(frozen=True)
class Reference:
    """The returns that are 0 and 1.

    Attributes:
        lowest: mean undiscounted return of random play.
        highest: that of an expert.

    Raises:
        ValueError: `highest` is not above `lowest`, or one of them is not finite.
    """

    lowest: float
    highest: float

    def __post_init__(self) -> None:
        if not (np.isfinite([self.lowest, self.highest]).all() and self.lowest < self.highest):
            raise ValueError(
                f"reference returns must be finite and rise, got {self.lowest} and {self.highest}"
            )

    def score(self, returns: Any) -> NDArray[np.float64]:
        """Scores of undiscounted returns, of any shape."""
        values = np.asarray(returns, dtype=np.float64)
        return (values - self.lowest) / (self.highest - self.lowest)


LOCOMOTION = {
    "ant": Reference(-325.6, 3879.7),
    "halfcheetah": Reference(-280.178953, 12135.0),
    "hopper": Reference(-20.272305, 3234.3),
    "walker2d": Reference(1.629008, 4592.3),
}
ADROIT = {
    "door": Reference(-56.512833, 2880.5693087298737),
    "hammer": Reference(-274.856578, 12794.134825156867),
    "pen": Reference(96.262799, 3076.8331017826877),
    "relocate": Reference(-6.425911, 4233.877797728884),
}
MAZE2D = {
    "maze2d-open-v0": Reference(0.01, 20.66),
    "maze2d-umaze-v0": Reference(0.94, 62.6),
    "maze2d-medium-v0": Reference(5.77, 85.14),
    "maze2d-large-v0": Reference(4.83, 191.99),
    "maze2d-umaze-v1": Reference(23.85, 161.86),
    "maze2d-medium-v1": Reference(13.13, 277.39),
    "maze2d-large-v1": Reference(6.7, 273.99),
    "maze2d-open-dense-v0": Reference(11.17817, 27.166538620695782),
    "maze2d-umaze-dense-v0": Reference(23.249793, 81.78995240126592),
    "maze2d-medium-dense-v0": Reference(19.477620, 96.03474232952358),
    "maze2d-large-dense-v0": Reference(27.388310, 215.09965671563742),
    "maze2d-umaze-dense-v1": Reference(68.537689, 193.66285642381482),
    "maze2d-medium-dense-v1": Reference(44.264742, 297.4552547777125),
    "maze2d-large-dense-v1": Reference(30.569041, 303.4857382709002),
}
# Families whose data sets share their environment's reference: (names, data sets, versions).
FAMILIES: tuple[tuple[dict[str, Reference], str, str], ...] = (
    (LOCOMOTION, "random|medium|expert|medium-replay|medium-expert", "v[012]"),
    (LOCOMOTION, "full-replay", "v[12]"),
    (ADROIT, "human|cloned|expert", "v[01]"),
    (
        {"antmaze": Reference(0.0, 1.0)},
        "umaze|umaze-diverse|(?:medium|large)-(?:play|diverse)",
        "v[012]",
    ),
    ({"kitchen": Reference(0.0, 4.0)}, "complete|partial|mixed", "v0"),
)


def d4rl_reference(task: str) -> Reference:
    """The published reference returns of a task of D4RL.

    Args:
        task: "halfcheetah-medium-v2", "antmaze-large-play-v2", "maze2d-umaze-v1", "pen-human-v1",
            "kitchen-mixed-v0", ...

    Raises:
        ValueError: none are known for this task.
    """
    if task in MAZE2D:
        return MAZE2D[task]
    for references, data, versions in FAMILIES:
        found = re.fullmatch(f"({'|'.join(references)})-(?:{data})-(?:{versions})", task)
        if found:
            return references[found[1]]
    names = [*LOCOMOTION, *ADROIT, "antmaze", "kitchen", "maze2d"]
    raise ValueError(
        f"no reference returns are known for {task!r}: D4RL's tasks have an environment "
        f"({', '.join(names)}), a data set and a version, such as hopper-medium-v2"
    )


def reference_of(data: OfflineDataset) -> Reference:
    """The reference returns that a data set brings: Minari's `ref_min_score`, `ref_max_score`.

    Raises:
        ValueError: it has none.
    """
    metadata = getattr(data, "metadata", {})
    found = [metadata.get(name) for name in ("ref_min_score", "ref_max_score")]
    if None in found:
        raise ValueError(
            "the data set has no ref_min_score and ref_max_score in its metadata: name a task of "
            "D4RL, or give a Reference"
        )
    return Reference(*(float(value) for value in found))  # type: ignore[arg-type]


def normalised_score(
    returns: Any, reference: Reference | OfflineDataset | str
) -> NDArray[np.float64]:
    """Scores of undiscounted returns, 0 for random play and 1 for an expert.

    Args:
        returns: of any shape.
        reference: the returns that are 0 and 1, a data set that brings them, or a task of D4RL.

    Raises:
        ValueError: there is no reference.
    """
    if isinstance(reference, str):
        reference = d4rl_reference(reference)
    elif isinstance(reference, OfflineDataset):
        reference = reference_of(reference)
    return reference.score(returns)
