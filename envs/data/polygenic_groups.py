"""`mode="prs"` of `EquitableSampling-v0`: polygenic scores of synthetic genomes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..base import Arrays
from ..checks import check_flag, check_integer
from .groups import SampledGroups, Samples, per_group
from .models import LEAST_R2, Ridge


class PolygenicGroups(SampledGroups):
    """Synthetic genomes: a trait is a sum of small effects of d_g markers and noise.

    Args:
        markers: d, integers >= 1, [G].
        heritability: h2 in (0, 1), a number or [G].
        genotypes: markers are standardised counts of alleles instead of normal numbers.
        validation, test: samples on which performance is observed, and on which it counts, >= 1.
    """

    bounds = (LEAST_R2, 1.0)
    kept = 4  # episodes whose samples are remembered: they are large, and drawn in no time

    def __init__(
        self,
        markers: ArrayLike = (60, 15, 200, 400),
        heritability: ArrayLike = 0.6,
        genotypes: bool = False,
        validation: int = 600,
        test: int = 1_500,
    ) -> None:
        listed = np.atleast_1d(np.asarray(markers))
        if listed.ndim != 1 or not listed.size:
            raise ValueError(f"markers={markers!r} must be integers of at least 1, one per group")
        self.markers = [check_integer(f"markers[{g}]", d, 1) for g, d in enumerate(listed)]
        self.names = [f"{count} markers" for count in self.markers]
        h2 = per_group("heritability", heritability, len(self.markers), above=0.0)
        if (h2 >= 1).any():
            raise ValueError(f"heritability={heritability!r} must lie in (0, 1)")
        self.heritability = h2
        self.genotypes = check_flag("genotypes", genotypes)
        self.validation = check_integer("validation", validation, 1)
        self.test = check_integer("test", test, 1)
        self.models = [
            Ridge(np.full(d, d * (1 - h) / h), centred=False)
            for d, h in zip(self.markers, h2, strict=True)
        ]
        self._remembered: dict[int, list[Samples]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Without the samples remembered, which other processes draw again."""
        return {**vars(self), "_remembered": {}}

    def draw_tape(self, rng: np.random.Generator) -> Arrays:
        """The seed of all samples, and what their models can do."""
        tape = {"seed": rng.integers(2**62)}
        return tape | self.tables(tape)

    def samples(self, tape: Arrays, group: int) -> Samples:
        """The samples of a group, drawn from the seed of the tape with those of all others."""
        seed = int(tape["seed"])
        if seed not in self._remembered:
            if len(self._remembered) >= self.kept:
                del self._remembered[next(iter(self._remembered))]
            rng = np.random.default_rng(seed)
            self._remembered[seed] = [self._draw(rng, g) for g in range(len(self.markers))]
        return self._remembered[seed][group]

    def _draw(self, rng: np.random.Generator, group: int) -> Samples:
        d, h2, pool = self.markers[group], self.heritability[group], int(self.sizes[group, -1])
        shape = (pool + self.validation + self.test, d)
        effects = rng.standard_normal(d)
        effects *= np.sqrt(h2 / (effects @ effects))
        if self.genotypes:
            frequency = rng.uniform(0.05, 0.5, d)
            counts = rng.binomial(2, frequency, shape)
            features = (counts - 2 * frequency) / np.sqrt(2 * frequency * (1 - frequency))
        else:
            features = rng.standard_normal(shape)
        noise = np.sqrt(1 - h2) * rng.standard_normal(len(features))
        return Samples(features, features @ effects + noise, pool, self.validation)
