"""Set functions over a ground set 0 .. E-1, as objects that answer for a batch of sets at once.

A batch of sets is a boolean array [n, E]. Every function here is submodular: what an element adds
never grows with the set. The same object works on NumPy arrays and, after `torch()`, on tensors. In
NumPy a row's numbers do not depend, to the last bit, on the other rows: sums run column by column.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import ArrayLike, NDArray

from ..base import to_torch
from .kernels import kernel_matrix

if TYPE_CHECKING:
    import torch


class SetFunction:
    """A submodular function F of subsets of 0 .. E-1 with F(empty set) = 0.

    Attributes:
        elements: E, size of the ground set.
        monotone: whether no element ever lowers F.
        arrays: names of the attributes that `torch()` turns into tensors.
    """

    arrays: ClassVar[tuple[str, ...]] = ()
    elements: int
    monotone: bool = True

    def value(self, visited: Any) -> Any:
        """F of each set, float [n].

        Args:
            visited: sets, bool [n, E].
        """
        raise NotImplementedError

    def gain(self, visited: Any, element: Any) -> Any:
        """F(S + e) - F(S) for one element per set, float [n]; exactly 0 where e is in S.

        Args:
            visited: sets S, bool [n, E].
            element: e, int [n].
        """
        raise NotImplementedError

    def gains(self, visited: Any) -> Any:
        """F(S + e) - F(S) for every element, float [n, E]; the same bits as `gain`."""
        raise NotImplementedError

    def singles(self) -> NDArray[np.float64]:
        """F({e}) of every element, [E]. NumPy only."""
        nothing = np.zeros((1, self.elements), dtype=bool)
        return np.asarray(self.gains(nothing)[0])

    def torch(self, device: str | torch.device = "cpu", dtype: torch.dtype | None = None) -> Self:
        """The same function of tensors."""
        function = copy.copy(self)
        for name in self.arrays:
            setattr(function, name, to_torch(getattr(self, name), device, dtype))
        return function


class Coverage(SetFunction):
    """Weighted coverage: the sum of the weights of all targets that some element of S covers.

    Args:
        footprints: for each element the targets that it covers, without repetition.
        weights: of the targets, [T]; with a negative one F is not monotone.

    Raises:
        ValueError: a footprint names a target twice or one that does not exist; a weight is not
            finite.
    """

    arrays = ("_targets", "_shares", "_coverers", "_weights", "_coverable")

    def __init__(self, footprints: Sequence[ArrayLike], weights: ArrayLike) -> None:
        self.weights = np.asarray(weights, dtype=np.float64)
        if self.weights.ndim != 1 or not np.isfinite(self.weights).all():
            raise ValueError(
                f"weights must be finite numbers [targets], got shape {self.weights.shape}"
            )
        lists = index_lists("footprints", footprints, len(self.weights), "targets")
        self.elements, self.monotone = len(lists), bool((self.weights >= 0).all())
        coverers: list[list[int]] = [[] for _ in self.weights]
        for element, targets in enumerate(lists):
            for target in targets:
                coverers[target].append(element)
        # Tables [E, f] and [T, g], padded: a padded target weighs nothing, a padded coverer repeats
        # another one.
        self._targets, present = padded(lists)
        self._shares = np.where(present, self.weights[self._targets], 0.0)
        self._coverers, covered = padded(coverers)
        self._coverers = np.where(covered, self._coverers, self._coverers[:, :1])
        self._coverable = covered[:, 0]
        self._weights = np.where(self._coverable, self.weights, 0.0)

    def covered(self, visited: Any) -> Any:
        """Targets that some element of S covers, bool [n, T]."""
        found = visited[:, self._coverers[:, 0]]
        for column in range(1, self._coverers.shape[1]):
            found = found | visited[:, self._coverers[:, column]]
        return found & self._coverable

    def value(self, visited: Any) -> Any:
        """F of each set, float [n]."""
        xp = array_namespace(visited)
        return xp.sum(xp.where(self.covered(visited), self._weights, 0.0), axis=1)

    def gain(self, visited: Any, element: Any) -> Any:
        """Weight of the targets that only e would cover, float [n]."""
        xp = array_namespace(visited)
        rows = xp.arange(len(element))[:, None, None]
        before = xp.any(visited[rows, self._coverers[self._targets[element]]], axis=-1)
        return added(xp.where(before, 0.0, self._shares[element]))

    def gains(self, visited: Any) -> Any:
        """As `gain`, for every element, float [n, E]."""
        xp = array_namespace(visited)
        before = self.covered(visited)[:, self._targets]
        return added(xp.where(before, 0.0, self._shares))


class ItemQuota(SetFunction):
    """Items of several kinds, each wanted up to a quota: F(S) = sum_i min(|S & G_i|, d_i).

    Args:
        groups: G_i, for each kind the elements that carry it, without repetition.
        quotas: d_i, numbers of at least 0, [kinds].
        elements: E.

    Raises:
        ValueError: a group names an element twice or one that does not exist; a quota is negative.
    """

    arrays = ("_members", "_present", "_kinds", "_carries", "quotas")

    def __init__(self, groups: Sequence[ArrayLike], quotas: ArrayLike, elements: int) -> None:
        lists = index_lists("groups", groups, elements, "elements")
        self.elements, self.monotone = elements, True
        self.quotas = np.asarray(quotas, dtype=np.float64)
        if self.quotas.shape != (len(lists),):
            raise ValueError(
                f"quotas has shape {self.quotas.shape}, allowed for {len(lists)} groups: "
                f"({len(lists)},)"
            )
        if not (np.isfinite(self.quotas) & (self.quotas >= 0)).all():
            raise ValueError(f"quotas={self.quotas.tolist()} must be finite and at least 0")
        kinds: list[list[int]] = [[] for _ in range(elements)]
        for kind, members in enumerate(lists):
            for element in members:
                kinds[element].append(kind)
        self._members, self._present = padded(lists)
        self._kinds, self._carries = padded(kinds)

    def _missing(self, visited: Any) -> Any:
        """What one more item of each kind would add, float [n, kinds]."""
        xp = array_namespace(visited)
        found = visited[:, self._members] & self._present
        held = xp.astype(xp.sum(xp.astype(found, xp.int64), axis=-1), self.quotas.dtype)
        return xp.clip(self.quotas - held, 0.0, 1.0)

    def value(self, visited: Any) -> Any:
        """F of each set, float [n]."""
        xp = array_namespace(visited)
        found = visited[:, self._members] & self._present
        held = xp.astype(xp.sum(xp.astype(found, xp.int64), axis=-1), self.quotas.dtype)
        return added(xp.minimum(held, self.quotas))

    def gain(self, visited: Any, element: Any) -> Any:
        """What the items on e add, float [n]."""
        xp = array_namespace(visited)
        rows = xp.arange(len(element))
        worth = self._missing(visited)[rows[:, None], self._kinds[element]]
        total = added(xp.where(self._carries[element], worth, 0.0))
        return xp.where(visited[rows, element], 0.0, total)

    def gains(self, visited: Any) -> Any:
        """As `gain`, for every element, float [n, E]."""
        xp = array_namespace(visited)
        worth = xp.where(self._carries, self._missing(visited)[:, self._kinds], 0.0)
        return xp.where(visited, 0.0, added(worth))


class InformationGain(SetFunction):
    """What measuring f ~ GP(0, k) at the places S with noise tells: F(S) = 0.5 log det(I + K_SS /
    sigma2), in nats.

    Sets are distinct places: a second measurement of the same place counts nothing. Determinants
    and posterior variances come from one elimination of K_SS + sigma2 I, its members in ascending
    order.

    Args:
        coordinates: of the elements, [E, d].
        kernel: "squared_exponential" or "matern" (5/2), of variance 1.
        length: length scale in the unit of the coordinates, above 0.
        sigma2: variance of the noise, above 0.

    Raises:
        ValueError: an argument is outside its range.
    """

    arrays = ("covariances",)

    def __init__(
        self,
        coordinates: ArrayLike,
        kernel: str = "squared_exponential",
        length: float = 1.0,
        sigma2: float = 0.1,
    ) -> None:
        if not 0 < sigma2 < np.inf:
            raise ValueError(f"sigma2={sigma2} must be a finite number above 0")
        self.covariances = kernel_matrix(coordinates, kernel, length)
        self.elements, self.monotone, self.sigma2 = len(self.covariances), True, float(sigma2)

    def value(self, visited: Any) -> Any:
        """F of each set, float [n]."""
        xp = array_namespace(visited)
        nobody = xp.zeros((len(visited), 0), dtype=xp.int64, device=visited.device)
        return self._eliminate(visited, nobody)[0]

    def gain(self, visited: Any, element: Any) -> Any:
        """0.5 log(1 + var(e | S) / sigma2), float [n]."""
        xp = array_namespace(visited)
        informative = self._eliminate(visited, element[:, None])[1][:, 0]
        return xp.where(visited[xp.arange(len(element)), element], 0.0, informative)

    def gains(self, visited: Any) -> Any:
        """As `gain`, for every element, float [n, E]."""
        xp = array_namespace(visited)
        everybody = xp.broadcast_to(xp.arange(self.elements, device=visited.device), visited.shape)
        return xp.where(visited, 0.0, self._eliminate(visited, everybody)[1])

    def _eliminate(self, visited: Any, candidates: Any) -> tuple[Any, Any]:
        """F(S), [n], and what each candidate not in S would add, [n, m], for candidates int [n,
        m]."""
        xp = array_namespace(visited)
        sizes = xp.sum(xp.astype(visited, xp.int64), axis=1)
        size = int(xp.max(sizes)) if len(visited) else 0
        order = xp.argsort(xp.astype(~visited, xp.int8), axis=1, stable=True)[:, :size]
        present = xp.arange(size, device=visited.device)[None, :] < sizes[:, None]
        columns = xp.concat([order, candidates], axis=1)
        known = xp.concat([present, candidates >= 0], axis=1)
        # Absent members are rows and columns of zeros with 1 on the diagonal: they change nothing.
        block = self.covariances[order[:, :, None], columns[:, None, :]]
        block = xp.where(present[:, :, None] & known[:, None, :], block, 0.0)
        variances = self.covariances[candidates, candidates]
        total = xp.zeros(len(visited), dtype=variances.dtype, device=visited.device)
        for step in range(size):
            pivot = xp.where(present[:, step], block[:, step, step] + self.sigma2, 1.0)
            row = block[:, step, step + 1 :]
            factor = row / pivot[:, None]
            rest = size - step - 1
            below = block[:, step + 1 :, step + 1 :]
            block[:, step + 1 :, step + 1 :] = below - factor[:, :rest, None] * row[:, None, :]
            variances = variances - factor[:, rest:] * row[:, rest:]
            total = total + xp.where(present[:, step], 0.5 * xp.log(pivot / self.sigma2), 0.0)
        # Rounding may leave a variance a hair below the 0 that it cannot fall under.
        return total, 0.5 * xp.log1p(xp.where(variances > 0, variances, 0.0) / self.sigma2)


def added(values: Any) -> Any:
    """Sum over the last axis, column by column, so that no library chooses the order."""
    total = values[..., 0]
    for column in range(1, values.shape[-1]):
        total = total + values[..., column]
    return total


def index_lists(name: str, lists: Sequence[ArrayLike], size: int, what: str) -> list[list[int]]:
    """The lists as integers.

    Raises:
        ValueError: an index is no integer, outside 0 .. size-1 or named twice in a list.
    """
    if len(lists) == 0:
        raise ValueError(f"{name} is empty")
    found = []
    for place, entries in enumerate(lists):
        indices = np.asarray(entries)
        if indices.size and indices.dtype.kind not in "iu":
            raise ValueError(f"{name}[{place}] holds {indices.dtype}, allowed are integers")
        listed = [int(index) for index in indices.reshape(-1)]
        if outside := [index for index in listed if not 0 <= index < size]:
            raise ValueError(f"{name}[{place}] names {outside[0]}, the {what} are 0 .. {size - 1}")
        if len(set(listed)) < len(listed):
            raise ValueError(f"{name}[{place}] names one of the {what} twice: {listed}")
        found.append(listed)
    return found


def padded(lists: Sequence[Sequence[int]]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Lists of different lengths as a table padded with 0, at least one column wide, and a mask of
    the entries that are not padding."""
    width = max(1, max(len(entries) for entries in lists))
    table = np.zeros((len(lists), width), dtype=np.int64)
    present = np.zeros(table.shape, dtype=bool)
    for row, entries in enumerate(lists):
        table[row, : len(entries)] = entries
        present[row, : len(entries)] = True
    return table, present
