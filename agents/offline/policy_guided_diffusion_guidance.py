"""The guidance of policy-guided diffusion: where a policy's likelihood pulls generated actions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ...envs.checks import check_number
from ..base.nets.edm import Guide
from .policy_guided_diffusion_model import TrajectoryDiffusion

# (observations [..., ds], actions [..., da] in [-1, 1]) -> log pi(a | s), [...].
LogProb = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def guidance_weights(steps: int, coefficient: float, cosine: float = 0.3) -> list[float]:
    """lambda_i of T steps.

    Args:
        steps: T, at least 2.
        coefficient: c.
        cosine: c_cos.
    """
    weights = [
        coefficient * (1 - i / steps + cosine * math.sin(math.pi * (i + 1) / steps))
        for i in range(steps - 1)
    ]
    return [*weights, 0.0]


def action_gradients(
    log_prob: LogProb,
    observations: torch.Tensor,
    actions: torch.Tensor,
    mean: torch.Tensor,
    deviation: torch.Tensor,
) -> torch.Tensor:
    """g, [B, L, da].

    Args:
        log_prob: of the target policy.
        observations: not standardised, [B, L, ds].
        actions: stored ones, standardised, [B, L, da].
        mean, deviation: of stored actions, [da].
    """
    with torch.enable_grad():
        moving = actions.detach().requires_grad_()
        likelihood = log_prob(observations.detach(), (moving * deviation + mean).tanh()).sum()
        (found,) = torch.autograd.grad(likelihood, moving)
    return found


def unit_length(gradients: torch.Tensor) -> torch.Tensor:
    """g / (|g| + 1e-8) with the Frobenius norm over all actions of a trajectory, [B, L, da]."""
    return gradients / (gradients.flatten(1).norm(dim=1)[:, None, None] + 1e-8)


def unit_gaussian_log_prob(means: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
    """log N(a; mean, 1) up to a constant, [...]; both [..., da]."""
    return -0.5 * (actions - means).square().sum(dim=-1)


@dataclass(frozen=True)
class Guidance:
    """Where generated actions are moved, and how far.

    Attributes:
        log_prob: of the target policy, for observations in the scale of the data.
        coefficient: c, at least 0; with 0 nothing is guided and the policy not asked.
        cosine: c_cos, at least 0.
        normalize: whether the gradient of a trajectory is scaled to length 1.
        denoised: whether it is taken at the denoised trajectory.

    Raises:
        ValueError: a number is out of range.
    """

    log_prob: LogProb
    coefficient: float = 1.0
    cosine: float = 0.3
    normalize: bool = True
    denoised: bool = True

    def __post_init__(self) -> None:
        check_number("coefficient", self.coefficient, 0.0)
        check_number("cosine", self.cosine, 0.0)

    def along(self, diffusion: TrajectoryDiffusion, steps: int) -> Guide | None:
        """What `TrajectoryDiffusion.generate` takes as `guide`."""
        if self.coefficient == 0:
            return None
        weights = guidance_weights(steps, self.coefficient, self.cosine)
        seen, acted = diffusion.observations, diffusion.observations + diffusion.actions
        mean, deviation = diffusion.mean[seen:acted], diffusion.deviation[seen:acted]

        def guide(x: torch.Tensor, level: torch.Tensor, step: int) -> torch.Tensor:
            if weights[step] == 0:
                return x
            at = diffusion.denoise(x, level) if self.denoised else x
            states = diffusion.restored(at)[..., :seen]
            g = action_gradients(self.log_prob, states, at[..., seen:acted], mean, deviation)
            moved = x.clone()
            moved[..., seen:acted] += weights[step] * (unit_length(g) if self.normalize else g)
            return moved

        return guide
