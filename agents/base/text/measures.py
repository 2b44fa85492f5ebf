"""Measures of replies and of what ranks them, exact where a sample allows it."""

from __future__ import annotations

from math import log

import torch


def expected_best_of_n(
    scores: torch.Tensor, n: int, values: torch.Tensor | None = None
) -> torch.Tensor:
    """Expected value of the best of n replies drawn from N without replacement, float64 [...].

    Sorted by score, s_(1) <= ... <= s_(N): sum_k C(k - 1, n - 1) v_(k) / C(N, n). It is unbiased
    for n fresh replies. J. Hilton, L. Gao: Measuring Goodhart's Law (2022).

    Args:
        scores: [..., N], by which the best is chosen; of equal ones the first counts as better.
        n: from 1 to N.
        values: [..., N], of the same replies, such as what another judge says of them; None: the
            scores.

    Raises:
        ValueError: n is not from 1 to N.
    """
    of = scores.shape[-1]
    if not 1 <= n <= of:
        raise ValueError(f"n must be from 1 to the {of} scores, got {n}")
    order = scores.sort(dim=-1, descending=True, stable=True).indices
    ordered = (scores if values is None else values).gather(-1, order)
    # C(N - 1, n - 1) / C(N, n) = n / N for the best, and C(k - 2, n - 1) / C(k - 1, n - 1) from one
    # to the next.
    k = torch.arange(of, 1, -1, dtype=torch.float64, device=scores.device)
    steps = (k - n).clamp(min=0) / (k - 1)
    weights = torch.cat([steps.new_ones(1), steps.cumprod(0)])
    return (ordered * (n / of * weights)).sum(dim=-1)


def best_of_n_kl(n: int) -> float:
    """log n - (n - 1) / n nats: an upper bound of KL(best of n || one reply).

    It is reached in the limit in which every reply is unlikely and no two score the same.
    A. Beirami et al.: Theoretical guarantees on the best-of-n alignment policy (arXiv 2401.01879).

    Raises:
        ValueError: n is less than 1.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    return log(n) - (n - 1) / n


def pass_at_k(correct: torch.Tensor, k: int) -> torch.Tensor:
    """Probability that of k replies drawn from N one at least is right, float64 [...].

    1 - C(N - c, k) / C(N, k) with c right ones; 1 where fewer than k are wrong. M. Chen et al.:
    Evaluating Large Language Models Trained on Code (arXiv 2107.03374).

    Args:
        correct: [..., N], 1 or True where a reply is right, else 0.
        k: from 1 to N.

    Raises:
        ValueError: k is not from 1 to N.
    """
    of = correct.shape[-1]
    if not 1 <= k <= of:
        raise ValueError(f"k must be from 1 to the {of} replies, got {k}")
    # C(N - c, k) / C(N, k) for c = 0, 1, ... N, each from the one before.
    left = torch.arange(of, 0, -1, dtype=torch.float64, device=correct.device)
    steps = (left - k).clamp(min=0) / left
    failures = torch.cat([steps.new_ones(1), steps.cumprod(0)])
    return 1 - failures[(correct != 0).sum(dim=-1)]


def pair_accuracy(differences: torch.Tensor) -> torch.Tensor:
    """Share of comparisons in which the preferred reply scores higher, a scalar; ties count 1/2.

    Args:
        differences: [n], score of the preferred reply less that of the other.
    """
    return (differences.sign() + 1).mean() / 2
