"""Losses of tokens and how they are summed: what the group-based learners of language models share.

Arrays are [n, t] with a mask, bool [n, t]; what stands where the mask is False never counts.
Advantages and the log-probabilities of the policy that sampled are constants.
"""

from __future__ import annotations

import torch

# The logarithm of a ratio is cut here, so that no ratio is infinite.
MOST_LOG_RATIO = 20.0


def ratios(log_probs: torch.Tensor, old_log_probs: torch.Tensor) -> torch.Tensor:
    """Importance ratios exp(log_probs - old_log_probs), the exponent cut to [-20, 20]."""
    return (log_probs - old_log_probs).clamp(-MOST_LOG_RATIO, MOST_LOG_RATIO).exp()


# -- sums over tokens and replies ------------------------------------------------------------------


def token_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """sum(m l) / sum(m), a scalar: every token weighs the same (DAPO)."""
    return (values * mask).sum() / mask.sum()


def reply_means(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean over the tokens of each reply, [n]."""
    return (values * mask).sum(dim=1) / mask.sum(dim=1)


def reply_sums(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Sum over the tokens of each reply, [n]. Of log-probabilities: that of the reply."""
    return (values * mask).sum(dim=1)


# -- the clipped surrogate -------------------------------------------------------------------------


def clipped_surrogate(
    ratio: torch.Tensor,
    advantages: torch.Tensor,
    low: float | torch.Tensor = 0.2,
    high: float | torch.Tensor = 0.2,
    dual: float | None = None,
) -> torch.Tensor:
    """PPO's loss max(-r A, -clip(r, 1 - low, 1 + high) A), in the shape of the ratios.

    J. Schulman et al.: Proximal Policy Optimization Algorithms (arXiv 1707.06347). The gradient is
    -r A, and 0 where A > 0 and r > 1 + high, or A < 0 and r < 1 - low.

    Args:
        ratio: [n, t] of tokens, or [n] of replies.
        advantages: broadcast against the ratios.
        low, high: how far a ratio may go below and above 1; numbers, or one for each ratio.
        dual: where A < 0, the loss is at most dual |A| (D. Ye et al., arXiv 1912.09729); None: no
            such bound.
    """
    bounded = torch.clamp(ratio, torch.as_tensor(1.0 - low), torch.as_tensor(1.0 + high))
    loss = torch.maximum(-ratio * advantages, -bounded * advantages)
    if dual is None:
        return loss
    return torch.where(advantages < 0, torch.minimum(loss, -dual * advantages), loss)


def clipped(
    ratio: torch.Tensor,
    advantages: torch.Tensor,
    low: float | torch.Tensor = 0.2,
    high: float | torch.Tensor = 0.2,
) -> torch.Tensor:
    """Where `clipped_surrogate` has no gradient, bool in the shape of the ratios."""
    above = (advantages > 0) & (ratio > 1 + high)
    return above | ((advantages < 0) & (ratio < 1 - low))


# -- Kullback-Leibler divergence from a reference --------------------------------------------------


def kl_k1(log_probs: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """log pi - log ref of sampled tokens: unbiased for KL(pi || ref), of any sign.

    J. Schulman: Approximating KL Divergence (2020), as are k2 and k3. In a reward use k1; as a loss
    it is useless: its gradient does not know the reference.
    """
    return log_probs - reference


def kl_k2(log_probs: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """(log pi - log ref)^2 / 2: biased, at least 0; its gradient is unbiased for the KL's."""
    return (log_probs - reference).square() / 2


def kl_k3(log_probs: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """exp(d) - 1 - d, d = log ref - log pi: unbiased and at least 0; the loss term of GRPO."""
    difference = reference - log_probs
    return torch.expm1(difference) - difference
