"""What the groups of `EquitableSampling-v0` are: curves that are known, or models that are trained.

Both put into the tape of an episode all that its outcome depends on. `seed` in the tape says how
the samples and the subsets of learning points are drawn, so that they need not be kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device
from numpy.typing import ArrayLike, NDArray

from ..base import Arrays
from ..checks import check_number
from .learning_curves import effective_samples, power_curve
from .models import Model

Array = NDArray[np.float64]
Counts = NDArray[np.int64]

SHARES = (0.3, 0.5, 0.7, 0.85)  # of the samples in hand, at which a learning point is taken
REPEATS = 6  # of each share, with another random subset
LARGEST = float(np.finfo(np.float32).max)  # bound of what has none: checkers warn of infinity


class GroupSource:
    """How the groups learn from the samples that are bought for them.

    Attributes:
        names: of the groups, [G].
        bounds: lowest and highest performance.
        shares: of the groups in the population, where the data tell, [G].
        transfer: what a sample of group j is worth to group g, [G, G].
    """

    names: list[str]
    bounds: tuple[float, float]
    shares: Array | None = None

    @property
    def transfer(self) -> Array:
        """No group learns from another's samples."""
        return np.eye(len(self.names))

    def open(self, sizes: Counts) -> Counts:
        """Take notice of what may be bought; returns how many batches each group has, [G].

        Args:
            sizes: samples of each group after 0 .. K batches, [G, K + 1].

        Raises:
            ValueError: there are not enough samples to start with.
        """
        self.sizes = sizes
        return np.full(len(sizes), sizes.shape[1] - 1, dtype=np.int64)

    def draw_tape(self, rng: np.random.Generator) -> Arrays:
        """The tape of one episode."""
        raise NotImplementedError

    def scores(self, samples: Any, batches: Any, tape: Arrays) -> tuple[Any, Any]:
        """Validation and test performance [n, G] with `samples` [n, G] after `batches` [n, G]."""
        raise NotImplementedError

    def points(self, tape: Arrays, group: int, samples: Array, batches: Counts) -> Array:
        """Performance on validation of the models that learn from parts of what is in hand.

        Args:
            tape: of one episode, without a batch axis.
            group: whose model.
            samples, batches: in hand, of each group, [G].

        Returns:
            (samples, performance) of each learning point, [25, 2].
        """
        raise NotImplementedError

    def test_table(self, tape: Arrays) -> Array:
        """Test performance of each group after 0 .. K batches, [G, K + 1].

        Raises:
            ValueError: it is no matter of the group's own batches alone.
        """
        raise NotImplementedError


class CurveGroups(GroupSource):
    """`mode="curve"`: M_g(n) = A_g - B_g n^-p_g, observed with Gaussian noise.

    Args:
        asymptotes, scales, exponents: A, B >= 0 and p > 0, a number or [G].
        noise: standard deviation of what is observed, >= 0.
        transfer: kappa [G, G], >= 0 with a diagonal of 1; None: no group helps another.
    """

    bounds = (-LARGEST, LARGEST)

    def __init__(
        self,
        asymptotes: ArrayLike = (0.9, 0.8),
        scales: ArrayLike = (2.0, 3.0),
        exponents: ArrayLike = 0.5,
        noise: float = 0.02,
        transfer: ArrayLike | None = None,
    ) -> None:
        groups = max(np.size(asymptotes), np.size(scales), np.size(exponents))
        self.names = [f"group {group}" for group in range(groups)]
        self.asymptotes = per_group("asymptotes", asymptotes, groups)
        self.scales = per_group("scales", scales, groups, least=0.0)
        self.exponents = per_group("exponents", exponents, groups, above=0.0)
        self.noise = check_number("noise", noise, 0.0)
        self._transfer = np.eye(groups)
        if transfer is not None:
            self._transfer = np.array(transfer, dtype=np.float64)
            kappa = self._transfer
            if kappa.shape != (groups, groups) or not (
                np.isfinite(kappa).all() and (kappa >= 0).all() and (kappa.diagonal() == 1).all()
            ):
                raise ValueError(
                    f"transfer={transfer!r} must be [{groups}, {groups}], at least 0, with a "
                    "diagonal of 1"
                )

    @property
    def transfer(self) -> Array:
        """kappa."""
        return self._transfer

    def draw_tape(self, rng: np.random.Generator) -> Arrays:
        """The noise of every observation, and the seed of that of learning points."""
        return {
            "noise": self.noise * rng.standard_normal(self.sizes.shape),
            "seed": rng.integers(2**62),
            "transfer": self._transfer,
            "asymptotes": self.asymptotes,
            "scales": self.scales,
            "exponents": self.exponents,
        }

    def scores(self, samples: Any, batches: Any, tape: Arrays) -> tuple[Any, Any]:
        """The curve with noise, and the curve."""
        xp = array_namespace(samples)
        floats = xp.astype(samples, tape["scales"].dtype)
        worth = effective_samples(floats, tape["transfer"])
        test = power_curve(worth, tape["asymptotes"], tape["scales"], tape["exponents"])
        return test + pick(tape["noise"], batches), test

    def points(self, tape: Arrays, group: int, samples: Array, batches: Counts) -> Array:
        """Curve and noise at the shares, and what was observed with all samples."""
        whole = effective_samples(samples, self._transfer)[group]
        n = np.append(np.repeat(SHARES, REPEATS) * whole, whole)
        draws = np.random.default_rng((int(tape["seed"]), group, int(batches[group])))
        noise = np.append(
            self.noise * draws.standard_normal(len(n) - 1), tape["noise"][group, batches[group]]
        )
        curve = (self.asymptotes[group], self.scales[group], self.exponents[group])
        return np.stack([n, power_curve(n, *curve) + noise], axis=1)

    def test_table(self, tape: Arrays) -> Array:
        """The true curves."""
        if not np.array_equal(self._transfer, np.eye(len(self.names))):
            raise ValueError(
                "groups help each other (transfer): there is no performance of a group by its own "
                "batches"
            )
        columns = (self.asymptotes[:, None], self.scales[:, None], self.exponents[:, None])
        return np.asarray(power_curve(self.sizes.astype(np.float64), *columns))


@dataclass(frozen=True)
class Samples:
    """Features [N, d] and targets [N] of one group: what can be bought first, then validation and
    test rows."""

    features: Array
    targets: Array
    pool: int
    validation: int

    @property
    def bought(self) -> slice:
        """Rows that can be bought, in the order in which they are."""
        return slice(0, self.pool)

    @property
    def scored(self) -> slice:
        """Rows on which performance is observed."""
        return slice(self.pool, self.pool + self.validation)

    @property
    def tested(self) -> slice:
        """Rows on which the reward is computed."""
        return slice(self.pool + self.validation, len(self.targets))


class SampledGroups(GroupSource):
    """Groups whose models are trained on samples. A subclass writes `samples` and draws its tape.

    A tape holds the performances after 0 .. K batches, [G, K + 1] each, since training on the first
    n samples gives the same model whenever it happens.
    """

    models: list[Model]

    def samples(self, tape: Arrays, group: int) -> Samples:
        """The samples of a group in the episode of a tape."""
        raise NotImplementedError

    def tables(self, tape: Arrays) -> Arrays:
        """`validation` and `test` performance after 0 .. K batches, [G, K + 1] each."""
        found: dict[str, list[Array]] = {"validation": [], "test": []}
        for group, model in enumerate(self.models):
            data = self.samples(tape, group)
            # What cannot be bought any more is never asked for: it repeats the last model.
            sizes = np.minimum(self.sizes[group], data.pool)
            fits = model.path(data.features[data.bought], data.targets[data.bought], sizes)
            for name, rows in (("validation", data.scored), ("test", data.tested)):
                found[name].append(model.performance(fits, data.features[rows], data.targets[rows]))
        return {name: np.stack(table) for name, table in found.items()}

    def scores(self, samples: Any, batches: Any, tape: Arrays) -> tuple[Any, Any]:
        """From the tables of the tape."""
        return pick(tape["validation"], batches), pick(tape["test"], batches)

    def points(self, tape: Arrays, group: int, samples: Array, batches: Counts) -> Array:
        """Models of random subsets, each trained anew, and the model of all samples."""
        data, model, whole = self.samples(tape, group), self.models[group], int(samples[group])
        draws = np.random.default_rng((int(tape["seed"]), group, int(batches[group])))
        held = data.features[data.scored], data.targets[data.scored]
        found = []
        for share in SHARES:
            size = max(round(share * whole), 1)
            for _ in range(REPEATS):
                rows = draws.choice(whole, size, replace=False)
                fit = model.path(data.features[rows], data.targets[rows], [size])
                found.append((float(size), float(model.performance(fit, *held)[0])))
        found.append((float(whole), float(tape["validation"][group, batches[group]])))
        return np.array(found)

    def test_table(self, tape: Arrays) -> Array:
        """From the tape."""
        return np.asarray(tape["test"])


def pick(table: Any, batches: Any) -> Any:
    """The entry of each group's number of batches, [n, G], of `table` [n, G, K + 1]."""
    xp = array_namespace(batches)
    n, groups = (xp.arange(size, device=device(batches)) for size in batches.shape)
    return table[n[:, None], groups, batches]


def per_group(
    name: str, value: ArrayLike, groups: int, *, least: float = -np.inf, above: float = -np.inf
) -> Array:
    """Return a number, or one per group, as [groups].

    Raises:
        ValueError: another length, not finite, below `least` or not above `above`.
    """
    try:
        given = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{name}={value!r} must be numbers") from None
    allowed = f"at least {least:g}" if least > -np.inf else f"above {above:g}"
    allowed = "" if max(least, above) == -np.inf else f" {allowed}"
    if given.shape not in ((), (1,), (groups,)):
        raise ValueError(f"{name}={value!r} must be one number or one for each of {groups} groups")
    if not (np.isfinite(given).all() and (given >= least).all() and (given > above).all()):
        raise ValueError(f"{name}={value!r} must be finite numbers{allowed}")
    return np.broadcast_to(given, (groups,)).copy()
