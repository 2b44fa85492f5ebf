"""Data sets that policy-guided diffusion makes of others."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import torch
from gymnasium import spaces

from ...envs.checks import check_integer, check_number
from ..base.nets.edm import Churn
from ..base.offline_actor_critic import check_columns, check_finite
from ..base.offline_data import OfflineDataset
from ..base.offline_tensors import OfflineTensors
from .policy_guided_diffusion_guidance import Guidance
from .policy_guided_diffusion_model import (
    TrajectoryDiffusion,
    check_spaces,
    transitions,
    warm_cosine,
    windows_of,
)


class SyntheticData:
    """Fits the diffusion to a data set and makes others of it.

        source = SyntheticData(dataset, length=8, denoiser="MLP").fit(20_000)
        plain = source.generate(500)
        guided = source.generate(500, Guidance(log_prob))

    Args:
        dataset: of observations in a flat `Box` and actions in a bounded one, with rewards,
            terminations, and episodes of at least `length` steps.
        length: L, rows of a trajectory.
        stride: steps between the beginnings of the windows that are learned from.
        denoiser, denoiser_kwargs: "UNet" or "MLP", and arguments of the network.
        seed: of all that is drawn.
        device: "cpu", "cuda" ...

    Attributes:
        diffusion: the model.
        loss: of the last step of the fit.

    Raises:
        ValueError: an argument is out of range, or the data are others.
    """

    def __init__(
        self,
        dataset: OfflineDataset,
        *,
        length: int = 32,
        stride: int = 8,
        denoiser: str = "UNet",
        denoiser_kwargs: Mapping[str, Any] | None = None,
        seed: int | None = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        check_spaces(type(self).__name__, dataset.observation_space, dataset.action_space)
        check_columns(dataset, ("rewards", "terminations"))
        self.dataset, self.device = dataset, torch.device(device)
        self.generator = np.random.default_rng(seed)
        self.draws = torch.Generator(self.device)
        self.draws.manual_seed(int(self.generator.integers(2**62)))
        tensors = OfflineTensors(dataset, device)
        check_finite(tensors)
        box = dataset.action_space
        assert isinstance(box, spaces.Box)
        self.low, self.high = (torch.as_tensor(each, device=device) for each in (box.low, box.high))
        actions = tensors.column("actions")
        actions.copy_(2 * (actions - self.low) / (self.high - self.low) - 1)
        sizes = tensors.column("observations").shape[1], actions.shape[1]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(self.generator.integers(2**62)))
            self.diffusion = TrajectoryDiffusion(*sizes, length, denoiser, denoiser_kwargs)
        self.diffusion.to(self.device)
        self.windows = windows_of(tensors, self.diffusion, stride)
        self.loss = math.nan

    def fit(self, steps: int, *, batch_size: int = 32, learning_rate: float = 2e-3) -> Self:
        """Fit the model, from where it is, with a learning rate that rises and falls to 0.

        Args:
            steps: at least 1.
            batch_size: windows in a minibatch, at least 1.
            learning_rate: the largest.

        Raises:
            ValueError: an argument is out of range.
        """
        check_integer("steps", steps, 1)
        check_integer("batch_size", batch_size, 1)
        check_number("learning_rate", learning_rate, 0.0)
        optimizer, loss = self.diffusion.optimizer(), torch.tensor(math.nan)
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = warm_cosine(step, steps, learning_rate)
            windows = self.windows.sample(batch_size, self.generator)
            loss = self.diffusion.fit_step(optimizer, windows, step, self.draws)
        self.loss = float(loss)
        return self

    def generate(
        self,
        count: int,
        guidance: Guidance | None = None,
        *,
        steps: int = 256,
        churn: float = 80.0,
        seed: int | None = None,
    ) -> OfflineDataset:
        """A data set of trajectories, each of which ends, or is cut, with its last step.

        Observations that leave the space by a little, as what is generated may, are set to its
        bounds.

        Args:
            count: trajectories, at least 1.
            guidance: towards which policy; None: none. Its observations are those of the data.
            steps: of the sampler, at least 2.
            churn: see `edm.Churn`.
            seed: of the noise; None: goes on from where the last call ended.

        Raises:
            ValueError: an argument is out of range, or what is generated is not finite.
        """
        draws = self.draws
        if seed is not None:
            draws = torch.Generator(self.device).manual_seed(seed)
        guide = None if guidance is None else guidance.along(self.diffusion, steps)
        rows = self.diffusion.generate(
            count, steps, Churn(check_number("churn", churn, 0.0)), guide=guide, generator=draws
        )
        found = transitions(rows, self.diffusion.observations, self.diffusion.actions)
        found["actions"] = self.low + (found["actions"] + 1) / 2 * (self.high - self.low)
        arrays: dict[str, Any] = {name: part.cpu().numpy() for name, part in found.items()}
        for name in ("terminations", "truncations"):
            arrays[name] = arrays[name].astype(bool)
        spaces_of = {
            "observations": self.dataset.observation_space,
            "next_observations": self.dataset.observation_space,
            "actions": self.dataset.action_space,
        }
        for name, space in spaces_of.items():
            assert isinstance(space, spaces.Box)
            arrays[name] = arrays[name].clip(space.low, space.high).astype(space.dtype)
        return OfflineDataset(
            **arrays,
            env=self.dataset.env,
            observation_space=self.dataset.observation_space,
            action_space=self.dataset.action_space,
        )
