"""The diffusion of trajectories: their form, the windows that it learns from, fitting, generating.

A trajectory is L rows [s, arctanh a, r, done] of successive steps, each number standardised over
the data. Actions lie in [-1, 1] and done is whether the task ended with the step.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import nn

from ...envs.checks import check_choice, check_integer
from ..base.nets.edm import Churn, Guide, denoised, denoising_loss, generate, noise_levels
from ..base.offline_tensors import OfflineTensors
from .policy_guided_diffusion_networks import TrajectoryMLP, TrajectoryUNet

NETS: dict[str, Callable[..., nn.Module]] = {"UNet": TrajectoryUNet, "MLP": TrajectoryMLP}
LARGEST_ACTION = 1 - 1e-5  # beyond it arctanh is cut off
LEVEL_MEAN, LEVEL_DEVIATION = -1.2, 1.2  # of the logarithm of the noise in training
AVERAGE_DECAY, AVERAGE_EVERY = 0.995, 10
AT_ONCE = 1_024  # trajectories that are generated together

# -- functions ------------------------------------------------------------------------------------


def window_starts(ends: NDArray[np.int64], length: int, stride: int) -> NDArray[np.int64]:
    """First rows of the windows, ascending: every `stride`-th row of an episode from which `length`
    rows follow in it, and the last such row, so that ends of tasks are seen.

    Args:
        ends: the row after the last one of each episode, [episodes].
        length: L, at least 2; shorter episodes have no window.
        stride: at least 1.

    Raises:
        ValueError: an argument is out of range, or no episode is as long as a window.
    """
    check_integer("length", length, 2)
    check_integer("stride", stride, 1)
    begins = np.concatenate([[0], ends[:-1]])
    found = [
        np.unique(np.append(np.arange(begin, last, stride), last))
        for begin, last in zip(begins, ends - length, strict=True)
        if last >= begin
    ]
    if not found:
        longest = int((ends - begins).max())
        raise ValueError(f"length={length}: the longest episode has {longest} steps, fewer")
    return np.concatenate(found).astype(np.int64)


def rows_of(
    observations: torch.Tensor,
    actions: torch.Tensor,
    rewards: torch.Tensor,
    terminations: torch.Tensor,
) -> torch.Tensor:
    """Rows [N, ds + da + 2] of steps.

    Args:
        observations, actions: [N, ds], [N, da]; actions in [-1, 1].
        rewards, terminations: [N].
    """
    stored = actions.clamp(-LARGEST_ACTION, LARGEST_ACTION).atanh()
    return torch.cat([observations, stored, rewards[:, None], terminations[:, None]], dim=1)


def transitions(rows: torch.Tensor, observations: int, actions: int) -> dict[str, torch.Tensor]:
    """The steps that trajectories consist of, one trajectory after the other.

    L rows give L - 1 steps; where the last row ends the task it is one more, whose next
    observation, which counts for nothing, is its own.

    Args:
        rows: [B, L, ds + da + 2], not standardised.
        observations, actions: ds and da.

    Returns:
        "observations", "actions" (in [-1, 1]), "rewards", "next_observations", "terminations" and
        "truncations" (where a trajectory ends and the task does not; both 0 or 1), each [N, ...].
    """
    seen, stored, rewards, done = rows.split([observations, actions, 1, 1], dim=2)
    ended = done[..., 0] > 0.5
    kept = torch.ones_like(ended)
    kept[:, -1] = ended[:, -1]
    cut = torch.zeros_like(ended)
    cut[:, -2] = ~(ended[:, -2] | ended[:, -1])
    return {
        "observations": seen[kept],
        "actions": stored[kept].tanh(),
        "rewards": rewards[..., 0][kept],
        "next_observations": torch.cat([seen[:, 1:], seen[:, -1:]], dim=1)[kept],
        "terminations": ended[kept].to(rows.dtype),
        "truncations": cut[kept].to(rows.dtype),
    }


def warm_cosine(step: int, steps: int, peak: float) -> float:
    """Learning rate at a step from 0: from a tenth of the peak up to it in the first tenth of the
    steps, then half a cosine to 0."""
    warm = steps // 10
    if step < warm:
        return peak * (0.1 + 0.9 * step / warm)
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm)))


def check_spaces(
    name: str, observations: spaces.Space[Any] | None, actions: spaces.Space[Any] | None
) -> None:
    """ValueError unless observations are vectors and actions lie in a bounded vector space."""
    for what, space in (("observations", observations), ("actions", actions)):
        if not isinstance(space, spaces.Box) or len(space.shape) != 1:
            raise ValueError(f"{name} needs {what} in a flat Box, got {space}")
    if not actions.is_bounded():  # type: ignore[union-attr]
        raise ValueError(f"{name} needs actions in a bounded Box, got {actions}")


# -- the model -------------------------------------------------------------------------------------


class Windows:
    """Pieces of L rows of recorded episodes.

    Args:
        table: standardised rows [N, F].
        starts: first rows of the pieces, int64 [W].
        length: L.
    """

    def __init__(self, table: torch.Tensor, starts: NDArray[np.int64], length: int) -> None:
        self.table, self.starts = table, starts
        self.offsets = np.arange(length)

    def __len__(self) -> int:
        return len(self.starts)

    def sample(self, batch_size: int, generator: np.random.Generator) -> torch.Tensor:
        """[B, L, F], drawn uniformly with replacement."""
        first = self.starts[generator.integers(len(self), size=batch_size)]
        places = torch.from_numpy(first[:, None] + self.offsets).to(self.table.device)
        return self.table[places]


class TrajectoryDiffusion(nn.Module):
    """Generates trajectories like those of the data.

    Args:
        observations, actions: ds and da, numbers of an observation and an action.
        length: L, rows of a trajectory, at least 2.
        net: "UNet" or "MLP", see the networks.
        net_kwargs: further arguments of the network.

    Attributes:
        net, average: the network, and the average of its weights over the fit, which generates.
        mean, deviation: of the rows of the data, [F].
        measured: bool, whether they were set.

    Raises:
        ValueError: an argument is out of range.
    """

    mean: torch.Tensor
    deviation: torch.Tensor
    measured: torch.Tensor

    def __init__(
        self,
        observations: int,
        actions: int,
        length: int,
        net: str = "UNet",
        net_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_choice("denoiser", net, NETS)
        self.observations, self.actions = observations, actions
        self.length, self.width = check_integer("length", length, 2), observations + actions + 2
        self.net = NETS[net](self.length, self.width, **(net_kwargs or {}))
        self.average = copy.deepcopy(self.net).requires_grad_(False)
        self.register_buffer("mean", torch.zeros(self.width))
        self.register_buffer("deviation", torch.ones(self.width))
        self.register_buffer("measured", torch.tensor(False))

    def measure(self, rows: torch.Tensor) -> None:
        """Take the scale of rows [N, F]; what is constant has deviation 1."""
        self.mean.copy_(rows.mean(dim=0))
        constant = (rows == rows[0]).all(dim=0)
        self.deviation.copy_(rows.std(dim=0, correction=0).masked_fill(constant, 1.0))
        self.measured.fill_(True)

    def standardised(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows [..., F] in the scale of the network."""
        return (rows - self.mean) / self.deviation

    def restored(self, rows: torch.Tensor) -> torch.Tensor:
        """Inverse of `standardised`."""
        return rows * self.deviation + self.mean

    # -- fitting -----------------------------------------------------------------------------------

    def optimizer(self) -> torch.optim.Adam:
        """Adam for the network; whoever fits sets the learning rate."""
        return torch.optim.Adam(self.net.parameters(), fused=True)

    def fit_step(
        self,
        optimizer: torch.optim.Optimizer,
        windows: torch.Tensor,
        step: int,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """One step of the fit; the loss, a scalar.

        Args:
            optimizer: as `optimizer` gives it.
            windows: standardised, [B, L, F].
            step: its number, from 0.
            generator: draws the noise; None: torch's own.
        """

        def normals(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=generator, device=windows.device)

        levels = (LEVEL_MEAN + LEVEL_DEVIATION * normals(len(windows), 1, 1)).exp()
        loss = denoising_loss(
            lambda x, level: denoised(self.net, x, level), windows, normals(*windows.shape), levels
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % AVERAGE_EVERY == 0:
            self.follow((step + 1) // AVERAGE_EVERY)
        return loss.detach()

    @torch.no_grad()
    def follow(self, times: int) -> None:
        """Move the average for the `times`-th time; early on it forgets faster, so that a short fit
        is not held back by where it began."""
        decay = min(AVERAGE_DECAY, (1 + times) / (10 + times))
        torch._foreach_lerp_(
            list(self.average.parameters()), list(self.net.parameters()), 1 - decay
        )

    # -- generating --------------------------------------------------------------------------------

    def denoise(self, x: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        """D(x; s) by the average, standardised; x is [B, L, F], s of a shape that broadcasts."""
        return denoised(self.average, x, level)

    def generate(
        self,
        count: int,
        steps: int,
        churn: Churn | None = None,
        *,
        guide: Guide | None = None,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """Trajectories [count, L, F], not standardised any more.

        Args:
            count: how many, at least 1.
            steps: of the sampler, at least 2.
            churn, guide, generator: as in `edm.generate`; what is guided is standardised.

        Raises:
            ValueError: an argument is out of range, or the model generates what is not finite.
        """
        check_integer("count", count, 1)
        levels, parts = noise_levels(steps), []
        for start in range(0, count, AT_ONCE):
            shape = (min(AT_ONCE, count - start), self.length, self.width)
            noise = torch.randn(shape, generator=generator, device=self.mean.device)
            parts.append(
                generate(self.denoise, noise, levels, churn, guide=guide, generator=generator)
            )
        found = self.restored(torch.cat(parts))
        if not torch.isfinite(found).all():
            raise ValueError("generated trajectories are not finite: guide less, or fit longer")
        return found


def windows_of(tensors: OfflineTensors, diffusion: TrajectoryDiffusion, stride: int) -> Windows:
    """What a model learns from; its scale is taken from the first data that it meets.

    Args:
        tensors: of the data, whose actions are in [-1, 1].
        diffusion: the model.
        stride: see `window_starts`.

    Raises:
        ValueError: no episode is as long as a window, or the data do not say where episodes end.
    """
    starts = window_starts(tensors.ends, diffusion.length, stride)
    names = ("observations", "actions", "rewards", "terminations")
    rows = rows_of(*(tensors.column(name) for name in names))
    if not diffusion.measured:
        diffusion.measure(rows)
    return Windows(diffusion.standardised(rows), starts, diffusion.length)
