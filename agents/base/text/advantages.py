"""Advantages from rewards: within groups of replies to one prompt, and along tokens.

`groups` are int [n]: replies with one number are replies to one prompt. Groups need not be of one
size, nor neighbours.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

EPSILON = 1e-6  # beside a standard deviation of rewards


class GroupStatistics(NamedTuple):
    """Of the group that each of n replies belongs to, [n] each.

    Attributes:
        mean: of its rewards.
        std: standard deviation of its rewards (with n - 1); 1 in a group of one.
        size: replies, int.
        equal: whether all its rewards are equal, bool: the group says nothing of its replies.
    """

    mean: torch.Tensor
    std: torch.Tensor
    size: torch.Tensor
    equal: torch.Tensor


def group_statistics(rewards: torch.Tensor, groups: torch.Tensor) -> GroupStatistics:
    """Statistics of the group of each reply; rewards float [n], groups int [n]."""
    _, member, sizes = groups.unique(return_inverse=True, return_counts=True)
    nothing = rewards.new_zeros(len(sizes))
    means = nothing.index_add(0, member, rewards) / sizes
    squares = (rewards - means[member]).square()
    variances = nothing.index_add(0, member, squares) / (sizes - 1).clamp(min=1)
    stds = torch.where(sizes > 1, variances.sqrt(), 1.0)
    first = nothing.scatter(0, member, rewards)[member]  # one reward of each group
    others = nothing.index_add(0, member, (rewards != first).to(rewards.dtype))
    found = (means, stds, sizes, others == 0)
    return GroupStatistics(*(values[member] for values in found))


def centred(rewards: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """R - mean of the group, [n]; exactly 0 where all rewards are equal. In a group of one: R."""
    return _away(rewards, group_statistics(rewards, groups))


def _away(rewards: torch.Tensor, found: GroupStatistics) -> torch.Tensor:
    away = (rewards - found.mean).masked_fill(found.equal, 0.0)
    return torch.where(found.size == 1, rewards, away)


def standardised(
    rewards: torch.Tensor, groups: torch.Tensor, epsilon: float = EPSILON
) -> torch.Tensor:
    """(R - mean) / (std + epsilon) of the group, [n]: the advantages of GRPO.

    Z. Shao et al.: DeepSeekMath (arXiv 2402.03300). Exactly 0 where all rewards of a group are
    equal; R / (1 + epsilon) in a group of one.
    """
    found = group_statistics(rewards, groups)
    return _away(rewards, found) / (found.std + epsilon)


def leave_one_out(rewards: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """R - mean of the others of the group, [n]: G / (G - 1) (R - mean).

    A. Ahmadian et al.: Back to Basics (arXiv 2402.14740).

    Raises:
        ValueError: a reply is alone in its group.
    """
    found = group_statistics(rewards, groups)
    if bool((found.size < 2).any()):
        alone = int(groups[int((found.size < 2).int().argmax())])
        raise ValueError(f"leaving one out needs groups of at least 2, group {alone} has 1")
    return _away(rewards, found) * found.size / (found.size - 1)


def no_signal(rewards: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """Share of groups in which all rewards are equal, a scalar."""
    found = group_statistics(rewards, groups)
    shares = 1.0 / found.size  # of a group, by reply
    return (shares * found.equal).sum() / shares.sum()


# -- along tokens ----------------------------------------------------------------------------------


def at_the_end(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Values [n] put at the last token under the mask of each row, 0 elsewhere: [n, t]."""
    last = mask.shape[1] - 1 - mask.flip(1).int().argmax(dim=1)
    zeros = values.new_zeros(mask.shape)
    return zeros.scatter(1, last[:, None], values[:, None])


def generalised_advantages(
    rewards: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor,
    gamma: float = 1.0,
    trace: float = 0.95,
) -> torch.Tensor:
    """A_t = delta_t + gamma * trace * A_{t+1}, delta_t = r_t + gamma V_{t+1} - V_t: [n, t].

    J. Schulman et al.: High-Dimensional Continuous Control Using Generalized Advantage Estimation
    (arXiv 1506.02438). Behind the last token of a row the value is 0.

    Args:
        rewards: [n, t] of tokens.
        values: [n, t], of the state before each token.
        mask: bool [n, t]; rows are padded on the right.
        gamma: discount.
        trace: the lambda of GAE.
    """
    values, rewards = values * mask, rewards * mask
    after = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], dim=1)
    delta = rewards + gamma * after - values
    advantages = torch.zeros_like(delta)
    running = torch.zeros_like(delta[:, 0])
    for t in range(delta.shape[1] - 1, -1, -1):
        running = (delta[:, t] + gamma * trace * running) * mask[:, t]
        advantages[:, t] = running
    return advantages


def whitened(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(v - mean) / sqrt(var + 1e-8) over the tokens under the mask, 0 elsewhere; var with n - 1."""
    chosen = values[mask]
    scale = (chosen.var() + 1e-8).sqrt() if len(chosen) > 1 else torch.ones_like(chosen[0])
    return ((values - chosen.mean()) / scale) * mask
