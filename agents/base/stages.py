"""What algorithms whose `train` is made of stages share."""

from __future__ import annotations

from collections import defaultdict

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import nn


class Stages(BaseAlgorithm):
    """Numbers that any stage notes, for the log.

    Nothing is read from the device before the end of `train`, so a stage may note what it likes
    without making an accelerator wait.

    Attributes:
        metrics: what `note` has kept since the beginning of the present `train`, by name.
    """

    metrics: defaultdict[str, list[torch.Tensor]]

    def note(self, **scalars: torch.Tensor) -> None:
        """Keep tensors of one number, whose means go to the log as "train/NAME"."""
        for name, scalar in scalars.items():
            self.metrics[name].append(scalar.detach())

    def record(self) -> None:
        """Hand the means of what was noted, and the number of updates, to the logger."""
        for name, scalars in self.metrics.items():
            numbers = [scalar.item() for scalar in scalars]
            self.logger.record(f"train/{name}", sum(numbers) / len(numbers))
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")


def gradient_step(
    optimizer: torch.optim.Optimizer, loss: torch.Tensor, max_norm: float | None = None
) -> None:
    """One step of an optimizer, with a gradient whose norm is at most `max_norm` (None: any)."""
    optimizer.zero_grad()
    loss.backward()
    if max_norm is not None:
        parameters = [each for group in optimizer.param_groups for each in group["params"]]
        nn.utils.clip_grad_norm_(parameters, max_norm)
    optimizer.step()
