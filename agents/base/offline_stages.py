"""Learning from recorded steps in stages, for what is no actor-critic.

    update -> draw -> learn_from, which a subclass writes as a sequence of stages

What actor-critics share is in `offline_actor_critic.py`.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.type_aliases import MaybeCallback

from .offline_actor_critic import Batch, check_columns, check_finite
from .offline_data import OfflineDataset
from .offline_tensors import OfflineTensors, TensorOfflineAlgorithm


class OfflineStages(TensorOfflineAlgorithm):
    """`TensorOfflineAlgorithm` whose `learn_from` is a sequence of stages.

    Continuous actions of a minibatch are in [-1, 1], as SB3's squashed policies have them.

    Attributes:
        needed: columns that the data must have beside observations and actions.
        noted: what stages have noted last, by name.

    Raises:
        ValueError: the agent cannot choose such actions, or the data lack a column.
    """

    needed: ClassVar[tuple[str, ...]] = ("rewards", "next_observations", "terminations")
    noted: dict[str, torch.Tensor]

    def _setup_model(self) -> None:
        self.noted = {}
        self.check_actions(self.action_space)
        if self.dataset is not None:
            self.check_data(self.dataset)
        super()._setup_model()

    # -- data --------------------------------------------------------------------------------------

    def check_actions(self, space: spaces.Space[Any]) -> None:
        """ValueError unless the agent can choose actions of this space; by default of any."""

    def check_data(self, dataset: OfflineDataset) -> None:
        """ValueError where the data lack something."""
        check_columns(dataset, self.needed)

    def _check_spaces(self, dataset: OfflineDataset) -> None:
        super()._check_spaces(dataset)
        self.check_data(dataset)

    def further_columns(self, dataset: OfflineDataset) -> dict[str, NDArray[Any]]:
        """Columns beside those of the data, each [N, ...]: returns to go, weights, ..."""
        return {}

    def pack(self, dataset: OfflineDataset) -> OfflineTensors:
        """As the base's, with further columns, and continuous actions in [-1, 1]."""
        tensors = OfflineTensors(dataset, self.device, self.further_columns(dataset))
        check_finite(tensors)
        if isinstance(self.action_space, spaces.Box):
            scaled = self.policy.scale_action(dataset.actions).astype(np.float32)
            tensors.column("actions").copy_(torch.from_numpy(scaled))
        return tensors

    # -- learning ----------------------------------------------------------------------------------

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 1_000,
        *args: Any,
        **kwargs: Any,
    ) -> Self:
        """As `Algorithm.learn`; a step is quick, so the log is dumped after 1,000."""
        return super().learn(total_timesteps, callback, log_interval, *args, **kwargs)

    def update(self) -> dict[str, float]:
        """Draw a minibatch and learn from it."""
        self._update_learning_rate(self.optimizers())
        self.policy.set_training_mode(True)
        metrics = self.learn_from(self.draw())
        self.num_timesteps += 1
        return metrics

    def draw(self) -> Batch:
        """A minibatch, as `OfflineTensors.sample` gives it."""
        assert self.tensors is not None
        return self.tensors.sample(self.batch_size, self.generator)

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Those that follow the schedule of the learning rate."""
        return [self.policy.optimizer]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "policy.optimizer"], []

    def note(self, **scalars: torch.Tensor) -> None:
        """Keep tensors of one number for the log, as "train/NAME"; they are read when it is dumped,
        so that an accelerator need not wait."""
        for name, scalar in scalars.items():
            self.noted[name] = scalar.detach()

    def _log(self) -> None:
        self._metrics = {f"train/{name}": float(value) for name, value in self.noted.items()}
        super()._log()
