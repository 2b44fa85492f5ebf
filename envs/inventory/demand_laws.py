"""Demand laws: what the demand of every period is drawn from."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .parameters import count, numbers

Floats = NDArray[np.float64]


class DemandSource(ABC):
    """Demand of K stores.

    Attributes:
        stores: K.
        mean: float64 [K], mean demand per period.
        std: float64 [K], standard deviation of the demand of a period.
        peak: float64 [K], the largest mean that a store can see: the mean itself for a law, the
            largest mean of a series for a trace.
        series: number of recorded series, 0 for a law.
    """

    mean: Floats
    std: Floats
    peak: Floats
    series: int = 0

    @property
    def stores(self) -> int:
        """K, the number of stores."""
        return len(self.mean)

    @abstractmethod
    def draw(
        self, rng: np.random.Generator, length: int, series: int | None = None
    ) -> tuple[Floats, int]:
        """Demand [length, K] of consecutive periods, and the calendar index of the first (0 for
        laws).

        Raises:
            ValueError: `series` is not one of a trace's, or the trace is too short.
        """

    @abstractmethod
    def quantile(self, level: float, periods: int) -> Floats:
        """float64 [K]: the smallest y such that demand over `periods` is at most y with P >=
        `level`.

        Raises:
            ValueError: `level` is not between 0 and 1 (both excluded), or `periods` < 1.
        """


class _Law(DemandSource):
    """Demand that is independent from period to period."""

    def draw(
        self, rng: np.random.Generator, length: int, series: int | None = None
    ) -> tuple[Floats, int]:
        if series is not None:
            raise ValueError(f"series is {series!r}, but the demand is a law: allowed: None")
        return self._sample(rng, count("length", length)), 0

    @abstractmethod
    def _sample(self, rng: np.random.Generator, length: int) -> Floats: ...


class Normal(_Law):
    """Normal demand, by default with negative draws set to 0.

    Args:
        mean, std: a number or one per store, before negative draws are set to 0; `mean` and `std`
            of the source are these, and `quantile` is that of the normal law itself.
        correlation: between stores. A number from 0 to 1: each store's noise is sqrt(correlation)
            times one common factor plus sqrt(1 - correlation) times its own. Or a matrix [K, K].
        clip: whether negative draws are set to 0.
        stores: K, when no argument is given per store.
    """

    def __init__(
        self,
        mean: ArrayLike,
        std: ArrayLike,
        correlation: float | ArrayLike = 0.0,
        clip: bool = True,
        *,
        stores: int | None = None,
    ) -> None:
        self.mean, self.std = _per_store({"mean": mean, "std": std}, stores)
        self.peak = self.mean
        self.clip = bool(clip)
        self.correlation, self._factor = _correlation(correlation, self.stores)

    def _sample(self, rng: np.random.Generator, length: int) -> Floats:
        if self._factor is not None:
            noise = rng.standard_normal((length, self.stores)) @ self._factor.T
        else:
            rho = float(self.correlation)
            common = math.sqrt(rho) * rng.standard_normal((length, 1)) if rho > 0.0 else 0.0
            noise = common + math.sqrt(1.0 - rho) * rng.standard_normal((length, self.stores))
        demand = self.mean + self.std * noise
        return np.maximum(demand, 0.0) if self.clip else demand

    def quantile(self, level: float, periods: int) -> Floats:
        from scipy.special import ndtri

        check_quantile(level, periods)
        return periods * self.mean + float(ndtri(level)) * math.sqrt(periods) * self.std


class Poisson(_Law):
    """Poisson demand, independent between stores; `mean` is a number or one per store."""

    def __init__(self, mean: ArrayLike, *, stores: int | None = None) -> None:
        (self.mean,) = _per_store({"mean": mean}, stores)
        self.std, self.peak = np.sqrt(self.mean), self.mean

    def _sample(self, rng: np.random.Generator, length: int) -> Floats:
        return rng.poisson(self.mean, (length, self.stores)).astype(np.float64)

    def quantile(self, level: float, periods: int) -> Floats:
        from scipy.stats import poisson

        check_quantile(level, periods)
        return np.asarray(poisson.ppf(level, periods * self.mean), dtype=np.float64)


class Discrete(_Law):
    """Demand from a finite law, the same for every store and independent between them.

    Args:
        values: finite numbers >= 0, distinct.
        probabilities: of the values, >= 0 with sum 1.
        stores: K.
    """

    def __init__(self, values: ArrayLike, probabilities: ArrayLike, *, stores: int = 1) -> None:
        found, weights = np.array(values, dtype=np.float64), np.array(probabilities, np.float64)
        if found.ndim != 1 or found.shape != weights.shape or not len(found):
            shapes = f"{found.shape} and {weights.shape}"
            raise ValueError(f"values and probabilities have shapes {shapes}, allowed: one length")
        if not (np.isfinite(found).all() and (found >= 0).all()):
            raise ValueError(f"values are {values!r}, allowed: finite numbers >= 0")
        if len(np.unique(found)) < len(found):
            raise ValueError(f"values are {values!r}, allowed: distinct numbers")
        if not ((weights >= 0).all() and abs(weights.sum() - 1.0) < 1e-9):
            raise ValueError(f"probabilities are {probabilities!r}, allowed: >= 0 with sum 1")
        order = np.argsort(found)
        self.values, self.probabilities = found[order], weights[order] / weights.sum()
        mean = self.values @ self.probabilities
        variance = (self.values - mean) ** 2 @ self.probabilities
        self.mean = np.full(count("stores", stores), mean)
        self.std, self.peak = np.full(stores, math.sqrt(variance)), self.mean

    def _sample(self, rng: np.random.Generator, length: int) -> Floats:
        return rng.choice(self.values, (length, self.stores), p=self.probabilities)

    def quantile(self, level: float, periods: int) -> Floats:
        check_quantile(level, periods)
        totals, weights = self.values, self.probabilities
        for _ in range(periods - 1):
            sums = np.round(totals[:, None] + self.values, 9)
            totals, where = np.unique(sums, return_inverse=True)
            products = weights[:, None] * self.probabilities
            weights = np.bincount(where.ravel(), products.ravel(), len(totals))
        # A cumulated probability that falls short of `level` by rounding alone still counts.
        first = int(np.argmax(np.cumsum(weights) >= level - 1e-12))
        return np.full(self.stores, totals[first])


def check_quantile(level: float, periods: int) -> None:
    """Refuse a level outside (0, 1) and less than one period."""
    if not 0.0 < level < 1.0:
        raise ValueError(f"level is {level!r}, allowed: a number between 0 and 1, both excluded")
    count("periods", periods)


def _per_store(given: Mapping[str, Any], stores: int | None) -> list[Floats]:
    """Each parameter as finite numbers >= 0 [K], with K from `stores` or the longest parameter."""
    size = max(np.size(value) for value in given.values()) if stores is None else stores
    found = []
    for name, value in given.items():
        array = np.array(numbers(name, value, np.full(count("stores", size), np.nan)), np.float64)
        if not (np.isfinite(array).all() and (array >= 0).all()):
            raise ValueError(f"{name} is {value!r}, allowed: finite numbers >= 0")
        found.append(array)
    return found


def _correlation(given: Any, stores: int) -> tuple[Any, Floats | None]:
    """The correlation, and the Cholesky factor of a matrix (None for a number)."""
    found = np.array(given, dtype=np.float64)
    if found.ndim == 0:
        if not 0.0 <= found <= 1.0:
            allowed = "a number from 0 to 1, or a matrix"
            raise ValueError(f"correlation is {given!r}, allowed: {allowed}")
        return float(found), None
    if found.shape != (stores, stores):
        raise ValueError(f"correlation has shape {found.shape}, allowed: ({stores}, {stores})")
    if not (np.allclose(found, found.T) and np.allclose(np.diag(found), 1.0)):
        raise ValueError("correlation is not a symmetric matrix with 1 on its diagonal")
    try:
        factor = np.asarray(np.linalg.cholesky(found), dtype=np.float64)
    except np.linalg.LinAlgError:
        raise ValueError("correlation is not a positive definite matrix") from None
    return found, factor


class Statistics(DemandSource):
    """What a saved policy remembers of a demand: its moments. Nothing can be drawn from it."""

    def __init__(
        self, mean: ArrayLike, std: ArrayLike, peak: ArrayLike, calendar: ArrayLike | None = None
    ) -> None:
        self.mean, self.std, self.peak = (
            np.asarray(x, dtype=np.float64) for x in (mean, std, peak)
        )
        self.calendar = None if calendar is None else np.asarray(calendar, dtype=np.float64)

    def draw(
        self, rng: np.random.Generator, length: int, series: int | None = None
    ) -> tuple[Floats, int]:
        raise ValueError(
            "a loaded agent knows the moments of its demand only: give it an environment"
        )

    def quantile(self, level: float, periods: int) -> Floats:
        raise ValueError(
            "a loaded agent knows the moments of its demand only: give it an environment"
        )
