"""Recorded steps as one tensor: a minibatch is a single gather, on the device where it is needed.

    tensors = OfflineTensors(dataset, device="cpu")
    batch = tensors.sample(256, np.random.default_rng(0))     # {"observations": [256, d], ...}

Rows of all columns lie side by side, so a random step costs the cache lines of one row instead of
those of five arrays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.signal import lfilter
from stable_baselines3.common.callbacks import BaseCallback

from .offline import OfflineAlgorithm
from .offline_data import OfflineDataset

EXACT = 2**24  # integers up to here are float32 numbers


@dataclass(frozen=True)
class Column:
    """A column of the table.

    Attributes:
        start, stop: numbers that belong to it, of a row.
        shape: of one entry.
        whole: whether entries are integers.
    """

    start: int
    stop: int
    shape: tuple[int, ...]
    whole: bool


class OfflineTensors:
    """The N steps of a data set as one float32 tensor [N, width], contiguous.

    Args:
        dataset: what `offline_files` reads, or any other of arrays.
        device: where the tensor is put; minibatches are gathered and stay there.
        extra: further columns by name, each [N, ...]: weights, returns to go, ...

    Attributes:
        dataset: as given.
        rows: the tensor; columns may be changed in place (`column`).
        columns: name -> where its numbers are. The names are those of `OfflineDataset`, as far as
            the data have them, then those of `extra`.

    Raises:
        ValueError: images of bytes (which would take four times their memory), integers that no
            float32 holds, a name that exists, or an extra column of another length.
    """

    def __init__(
        self,
        dataset: OfflineDataset,
        device: torch.device | str = "cpu",
        extra: Mapping[str, NDArray[Any]] | None = None,
    ) -> None:
        arrays = dataset.arrays()
        if np.ndim(dataset.observations) > 2 and dataset.observations.dtype == np.uint8:
            raise ValueError(
                f"observations are images of bytes, {dataset.observations.shape}; a tensor of "
                "float32 is for vectors: take minibatches from the arrays of the data set"
            )
        for name, array in (extra or {}).items():
            if name in arrays:
                raise ValueError(f"the data set has {name} already")
            if np.ndim(array) == 0 or len(array) != len(dataset):
                raise ValueError(f"{name} has shape {np.shape(array)}, there are {len(dataset)}")
            arrays[name] = np.asarray(array)
        self.dataset, self.columns = dataset, self._arrange(arrays)
        width = max(column.stop for column in self.columns.values())
        table = np.empty((len(dataset), width), dtype=np.float32)
        for name, column in self.columns.items():
            array = arrays[name]
            if column.whole and array.size and np.abs(array).max() > EXACT:
                raise ValueError(f"{name} holds integers beyond {EXACT}, which no float32 holds")
            table[:, column.start : column.stop] = array.reshape(len(dataset), -1)
        self.rows = torch.from_numpy(table).to(device)
        self._ends: NDArray[np.int64] | None = None

    def _arrange(self, arrays: Mapping[str, NDArray[Any]]) -> dict[str, Column]:
        # Numbers come last, side by side: all of them are taken apart by one `unbind`.
        self._vectors = [name for name, array in arrays.items() if array.ndim > 1]
        self._numbers = [name for name, array in arrays.items() if array.ndim == 1]
        columns, start = {}, 0
        for name in (*self._vectors, *self._numbers):
            array = arrays[name]
            stop = start + int(np.prod(array.shape[1:]))
            whole = bool(np.issubdtype(array.dtype, np.integer))
            columns[name] = Column(start, stop, array.shape[1:], whole)
            start = stop
        self._widths = [columns[name].stop - columns[name].start for name in self._vectors]
        self._widths.append(len(self._numbers))
        self._matrices = [name for name in self._vectors if len(columns[name].shape) > 1]
        self._whole = [name for name, column in columns.items() if column.whole]
        return columns

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def device(self) -> torch.device:
        """Where the tensor is."""
        return self.rows.device

    def column(self, name: str) -> torch.Tensor:
        """All entries of a column as float32 [N, ...], a view: what is written there is sampled.

        Raises:
            ValueError: there is no such column.
        """
        if name not in self.columns:
            raise ValueError(f"the data have no {name!r}; there are {', '.join(self.columns)}")
        column = self.columns[name]
        return self.rows[:, column.start : column.stop].view(len(self), *column.shape)

    def sample(self, batch_size: int, generator: np.random.Generator) -> dict[str, torch.Tensor]:
        """A minibatch of steps, drawn uniformly with replacement.

        Args:
            batch_size: B, at least 1.
            generator: draws the steps, the same ones whatever the device.

        Returns:
            Tensors [B, ...] by name, on the tensor's device: float32 (terminations and truncations
            too, 0 or 1), int64 where the data are integers.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        return self.batch(torch.from_numpy(generator.integers(len(self), size=batch_size)))

    def batch(self, indices: torch.Tensor) -> dict[str, torch.Tensor]:
        """The steps int64 [B], or [B, K], as tensors [B, ...] or [B, K, ...] by name."""
        indices = indices.to(self.rows.device, non_blocking=True)
        *parts, numbers = self.rows.index_select(0, indices.reshape(-1)).split(self._widths, dim=1)
        found = dict(zip(self._vectors, parts, strict=True))
        found |= zip(self._numbers, numbers.unbind(1), strict=True)
        for name in self._matrices:
            found[name] = found[name].unflatten(1, self.columns[name].shape)
        for name in self._whole:
            found[name] = found[name].long()
        if indices.ndim > 1:
            found = {name: part.unflatten(0, indices.shape) for name, part in found.items()}
        return found

    # -- whole episodes ----------------------------------------------------------------------------

    @property
    def ends(self) -> NDArray[np.int64]:
        """The row after the last step of each episode, [episodes]; see `episode_ends`."""
        if self._ends is None:
            self._ends = episode_ends(self.dataset)
        return self._ends

    def sample_windows(
        self, batch_size: int, length: int, generator: np.random.Generator
    ) -> dict[str, torch.Tensor]:
        """Successive steps of one episode each, from a first one that is drawn uniformly.

        Args:
            batch_size: B, at least 1.
            length: K, at least 1; where the episode ends sooner, the rest repeats its last step.
            generator: draws the first steps.

        Returns:
            As `sample`, [B, K, ...]; beside them `mask`, bool [B, K], false for what repeats, and
            `timesteps`, int64 [B, K], the place in the episode, from 0.
        """
        if batch_size < 1 or length < 1:
            raise ValueError(f"batch_size={batch_size} and length={length} must be at least 1")
        first = generator.integers(len(self), size=batch_size)
        episode = np.searchsorted(self.ends, first, side="right")
        last = self.ends[episode] - 1
        rows = first[:, None] + np.arange(length)
        mask = rows <= last[:, None]
        rows = np.minimum(rows, last[:, None])
        begins = np.concatenate([[0], self.ends[:-1]])[episode]
        found = self.batch(torch.from_numpy(rows))
        found["mask"] = torch.from_numpy(mask).to(self.device)
        found["timesteps"] = torch.from_numpy(rows - begins[:, None]).to(self.device)
        return found

    # -- scales ------------------------------------------------------------------------------------

    def observation_scale(self, least: float = 1e-3) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of the observations, each of the shape of one.

        Args:
            least: is added to the deviation (what never changes would be divided by zero).
        """
        seen = self.column("observations")
        return seen.mean(0), seen.std(0, correction=0) + least

    def standardize(self, mean: torch.Tensor, deviation: torch.Tensor) -> None:
        """Observations, and next ones, become (x - mean) / deviation, in place."""
        for name in ("observations", "next_observations"):
            if name in self.columns:
                self.column(name).sub_(mean).div_(deviation)


def episode_ends(dataset: OfflineDataset) -> NDArray[np.int64]:
    """The row after the last step of each episode, [episodes]; the last one is N.

    Raises:
        ValueError: the data say neither where the task ended nor where an episode was cut.
    """
    known = [x for x in (dataset.terminations, dataset.truncations) if x is not None]
    if not known:
        raise ValueError("the data have no terminations and no truncations: no episodes are known")
    ends = np.flatnonzero(np.any(known, axis=0)) + 1
    if not len(ends) or ends[-1] != len(dataset):
        ends = np.append(ends, len(dataset))
    return ends.astype(np.int64)


def returns_to_go(dataset: OfflineDataset, discount: float = 1.0) -> NDArray[np.float32]:
    """What each episode still pays from a step on, G_t = r_t + discount * G_(t+1), [N].

    Raises:
        ValueError: the data have no rewards, no ends of episodes, or discount is not in [0, 1].
    """
    if not 0 <= discount <= 1:
        raise ValueError(f"discount={discount} lies outside [0, 1]")
    if dataset.rewards is None:
        raise ValueError("the data have no rewards")
    found = np.empty(len(dataset), dtype=np.float32)
    start = 0
    for end in episode_ends(dataset):
        backwards = np.asarray(dataset.rewards[start:end], dtype=np.float64)[::-1]
        found[start:end] = lfilter([1.0], [1.0, -discount], backwards)[::-1]
        start = end
    return found


def episode_returns(dataset: OfflineDataset) -> NDArray[np.float64]:
    """Undiscounted returns [episodes]; errors as in `returns_to_go`."""
    if dataset.rewards is None:
        raise ValueError("the data have no rewards")
    starts = np.concatenate([[0], episode_ends(dataset)[:-1]])
    return np.add.reduceat(np.asarray(dataset.rewards, dtype=np.float64), starts)


class TensorOfflineAlgorithm(OfflineAlgorithm):
    """`OfflineAlgorithm` whose minibatches are gathered from one tensor on the agent's device.

    A subclass writes `learn_from`. Terminations and truncations of a minibatch are float32.
    Arguments are those of `OfflineAlgorithm`.

    Attributes:
        tensors: of the data that it learns from; None until `learn` is called.
    """

    tensors: OfflineTensors | None = None

    def pack(self, dataset: OfflineDataset) -> OfflineTensors:
        """The tensor of a data set; to extend where an agent needs further columns or scales."""
        return OfflineTensors(dataset, self.device)

    def _setup_learn(self, *args: Any, **kwargs: Any) -> tuple[int, BaseCallback]:
        """As the base's."""
        found = super()._setup_learn(*args, **kwargs)
        assert self.dataset is not None
        if self.tensors is None or self.tensors.dataset is not self.dataset:
            self.tensors = self.pack(self.dataset)
        return found

    def update(self) -> dict[str, float]:
        """Draw a minibatch and learn from it."""
        assert self.tensors is not None
        self.policy.set_training_mode(True)
        metrics = self.learn_from(self.tensors.sample(self.batch_size, self.generator))
        self.num_timesteps += 1
        return metrics
