"""Base of the language models that learn from recorded texts: a timestep is a record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from .dataset import DatasetAlgorithm
from .text_algorithm import TextAlgorithm
from .text_data import TextData


class TextDatasetAlgorithm(DatasetAlgorithm, TextAlgorithm):
    """Gradient steps on minibatches of texts, in passes over a data set.

    Where there is a text environment and no data set, one is drawn from the environment before the
    first update, and anew in an environment that is set later. Every pass over the data is in a new
    order; it ends with the last whole minibatch. A subclass names its `dataset_class` and writes
    `draw`, `select` and `loss`.

    Args:
        policy: "TextPolicy".
        env: a data set, whose `env` (if any) is for demonstrations and held-out tasks; or a text
            environment.
        batch_size: records of a gradient step; all where there are fewer.
        demonstrations: as in `TextAlgorithm`; without an environment it is replies of the data that
            the embedded model imitates first.
        learning_rate, weight_decay, max_grad_norm, ...: as in `TextAlgorithm`.

    Logged: `train/loss`, `train/grad_norm`, and what a stage says in `note`.
    """

    dataset_class: ClassVar[type[TextData]]
    dataset: Any

    def __init__(self, policy: Any, env: Any, *, batch_size: int = 64, **common: Any) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.batch_size = batch_size
        super().__init__(policy, env, **common)

    def _setup_model(self) -> None:
        super()._setup_model()
        self.drawn: Any = None
        self._left = torch.zeros(0, dtype=torch.int64)  # rows of this pass that are still to come

    # -- data and environment ----------------------------------------------------------------------

    @property
    def records(self) -> Any:
        """What is learned from: the data set that was given, or the one that was drawn."""
        return self.drawn if self.dataset is None else self.dataset

    def language(self) -> dict[str, str]:
        """Alphabet and stop of the embedded model: those of the data."""
        return super().language() if self.dataset is None else self.dataset.language

    def lessons(self, n: int) -> list[tuple[str, str]]:
        """Demonstrations of the environment or, without one, the first n replies of the data."""
        return super().lessons(n) if self.env is not None else self.records.lessons[:n]

    def imitates_enough(self) -> bool:
        """As the base's; never where there is no environment with tasks to try."""
        return self.env is not None and super().imitates_enough()

    def set_env(self, env: Any, force_reset: bool = True) -> None:
        """Change the data set and its environment, or only the environment; what was drawn from an
        earlier one is forgotten.

        Raises:
            ValueError: the spaces are not those of the agent, or the environment is none of texts.
        """
        super().set_env(env, force_reset)
        self.drawn = None

    def _check_spaces(self, dataset: TextData) -> None:
        # Texts without an environment have spaces only of the length that they happen to need.
        if dataset.env is not None:
            super()._check_spaces(dataset)

    # -- learning ----------------------------------------------------------------------------------

    def begin(self) -> None:
        """Warm start; then the data are drawn, where there are none, and a pass begins."""
        super().begin()
        if self.records is None:
            self.drawn = self.draw()
        self._left = self._left[:0]

    def draw(self) -> Any:
        """A `dataset_class` from the environment."""
        raise NotImplementedError

    def select(self, rows: Sequence[int]) -> Any:
        """A minibatch of the records at the given rows."""
        raise NotImplementedError

    def loss(self, batch: Any) -> torch.Tensor:
        """Loss of a minibatch, a scalar with a gradient."""
        raise NotImplementedError

    def track(self, batch: Any) -> None:
        """Remember what later updates need of this minibatch; the policy has learned from it."""

    def next_rows(self) -> list[int]:
        """Rows of the next minibatch."""
        size = min(self.batch_size, len(self.records))
        if len(self._left) < size:
            self._left = torch.from_numpy(self.generator.permutation(len(self.records)))
        rows, self._left = self._left[:size], self._left[size:]
        return rows.tolist()

    def update(self) -> dict[str, float]:
        """One gradient step on a minibatch."""
        self._notes.clear()
        rows = self.next_rows()
        batch = self.select(rows)
        loss = self.loss(batch)
        self.note(loss=loss, grad_norm=self.step(loss))
        self.num_timesteps += len(rows)
        self.track(batch)
        return self.noted()

    # -- checkpoints -------------------------------------------------------------------------------

    def extra_state(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """As the base's, with the data that were drawn."""
        values, tensors = super().extra_state()
        return values | {"drawn": None if self.drawn is None else self.drawn.columns()}, tensors

    def restore_extra_state(self, values: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        """Inverse of `extra_state`."""
        super().restore_extra_state(values, tensors)
        columns = values["drawn"]
        self.drawn = None if columns is None else self.dataset_class(**columns)

    def learning_state(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """As the base's, with what is left of this pass."""
        values, tensors = super().learning_state()
        return values, tensors | {"left": self._left}

    def restore_learning_state(
        self, values: dict[str, Any], tensors: dict[str, torch.Tensor]
    ) -> None:
        """Inverse of `learning_state`."""
        super().restore_learning_state(values, tensors)
        self._left = tensors["left"]
