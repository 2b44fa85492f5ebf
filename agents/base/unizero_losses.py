"""What UniZero's world model is trained on: targets of values, and the sums of cross-entropies."""

from __future__ import annotations

import torch
from torch.nn import functional

from .nets.world_model import Predictions


def value_targets(
    rewards: torch.Tensor,
    bootstraps: torch.Tensor,
    lengths: torch.Tensor,
    terminated: torch.Tensor,
    unroll: int,
    gamma: float,
) -> torch.Tensor:
    """r_k + ... + gamma^{m-k-1} r_{m-1} + gamma^{m-k} v_m with m = min(k + n, length).

    v_m is 0 where the task has ended, and so is what lies beyond the end.

    Args:
        rewards: [B, K + n], 0 beyond the end.
        bootstraps: values of the K + n + 1 observations, [B, K + n + 1].
        lengths: steps until the end, at least 1, [B].
        terminated: whether the task has ended there, bool [B].
        unroll: K.
        gamma: discount factor.

    Returns:
        Of the steps 0 .. K, [B, K + 1].
    """
    ahead = rewards.shape[1] - unroll
    steps = torch.arange(unroll + 1, device=rewards.device)
    last = torch.minimum(steps + ahead, lengths[:, None])
    ended = (terminated[:, None] & (last == lengths[:, None])) | (steps > lengths[:, None])
    away = (last - steps).clamp(min=0)
    found = torch.where(ended, 0.0, gamma**away * bootstraps.gather(1, last))
    padded = functional.pad(rewards, (0, 1))
    for n in range(ahead):
        found = found + gamma**n * padded[:, n : n + unroll + 1]
    return found


def unrolled_losses(
    predictions: Predictions,
    policies: torch.Tensor,
    values: torch.Tensor,
    rewards: torch.Tensor,
    latents: torch.Tensor,
    lengths: torch.Tensor,
    terminated: torch.Tensor,
) -> dict[str, torch.Tensor]:
    """The four sums of cross-entropies, means over B stretches: policy, value, reward, latent.

    A task that has ended stays where it is and pays nothing: all but the policy is learned there,
    too. After the end of an episode that was cut nothing is.

    Args:
        predictions: of K steps.
        policies: visits, [B, K + 1, A], of sum 1.
        values, rewards: distributions over the support, [B, K + 1, atoms] and [B, K, atoms].
        latents: of the next observations, [B, K, dim]; the mean over groups of 1 is what counts.
        lengths, terminated: as in `value_targets`.
    """
    steps = torch.arange(policies.shape[1], device=policies.device)
    before = steps < lengths[:, None]
    known = before | terminated[:, None]
    groups = latents.sum(dim=-1)  # each group of probabilities sums to 1
    terms = {
        "policy": -(policies * predictions.logits.log_softmax(-1)).sum(-1) * before,
        "value": -(values * predictions.values.log_softmax(-1)).sum(-1) * known,
        "reward": -(rewards * predictions.rewards.log_softmax(-1)).sum(-1) * known[:, :-1],
        "latent": -(latents * predictions.latents).sum(-1) / groups * known[:, :-1],
    }
    return {name: term.sum(dim=1).mean() for name, term in terms.items()}
