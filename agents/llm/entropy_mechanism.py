"""Clip-Cov and KL-Cov: keep a policy's entropy by holding back the few tokens that use it up.

G. Cui et al.: The Entropy Mechanism of Reinforcement Learning for Reasoning Language Models
(arXiv 2505.22617).

Without a brake the accuracy R of a policy is bought with its entropy H, and there is a ceiling:

    R = -a exp(H) + b,  at most b - a

In a softmax state, logits that move by dz change the entropy by

    dH ~ -Cov_{a ~ pi}(log pi(a), dz_a)

so that, over the n tokens of a minibatch, entropy falls with the mean of

    cov_t = (log pi_t - mean log pi) (A_t - mean A)

A small share of the tokens carries most of it. Both agents are GRPO with the mean over tokens,
and change its loss l_t on a share of the tokens only:

    Clip-Cov  l_t = 0                             for tokens drawn among low < cov_t < high
    KL-Cov    l_t = -r_t A_t + |log r_t| * beta   for those with the largest cov_t

GRPO's own clip hardly acts in Clip-Cov (ratios from 0 to 2) and not at all in KL-Cov. The first
step on a batch has log r_t = 0, hence no penalty: KL-Cov needs several steps on a batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ..base.declare import Claim, Outcome, Paper, Superior
from ..base.group import GroupAlgorithm
from ..base.text.losses import clipped, token_mean
from ..base.text.token_batch import TokenBatch, permutation
from ..base.text.trial import Trial, trial
from .baselines import GRPO, example

# Log-probabilities of a policy that has not moved since it sampled differ by rounding, some 1e-6.
ROUNDING = 1e-4

# -- what the paper computes: covariances and losses -----------------------------------------------


def token_covariances(
    log_probs: torch.Tensor, advantages: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """(log pi_t - mean) (A_t - mean) of tokens [n, t], constants; their mean is Cov(log pi, A).

    Means are over all tokens under the mask. 0 elsewhere, and where all advantages are equal.

    Args:
        log_probs: [n, t].
        advantages: [n, t] or [n, 1].
        mask: bool [n, t].
    """
    log_probs, advantages = log_probs.detach(), advantages.expand_as(log_probs)
    chosen = advantages[mask]
    if bool((chosen == chosen[0]).all()):  # their mean may differ from them by rounding
        return torch.zeros_like(log_probs)
    away = (log_probs - token_mean(log_probs, mask)) * (advantages - token_mean(advantages, mask))
    return away * mask


def check_choice(share: float, low: float = -math.inf, high: float = math.inf) -> None:
    """ValueError unless a share of tokens is in (0, 1] and a window of covariances is one."""
    if not 0 < share <= 1:
        raise ValueError(f"share must be above 0 and at most 1, got {share}")
    if not low < high:
        raise ValueError(f"cov_low must be below cov_high, got {low} and {high}")


def number_of_tokens(share: float, mask: torch.Tensor) -> int:
    """A share of the tokens under a mask, rounded down, but at least one."""
    return max(int(share * int(mask.sum())), 1)


def clip_cov_tokens(
    covariances: torch.Tensor,
    mask: torch.Tensor,
    cut: torch.Tensor,
    *,
    share: float,
    low: float,
    high: float,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Tokens that Clip-Cov holds back, bool [n, t]: a share of all, or as many as there are,
    uniformly among those with low < covariance < high.

    Args:
        covariances: [n, t].
        mask: bool [n, t].
        cut: bool [n, t], tokens that the ordinary clip leaves without gradient: never drawn.
        share: of the tokens under the mask, in (0, 1].
        low, high: the window of covariances.
        generator: draws them, on the CPU. None: the first ones, row by row.

    Raises:
        ValueError: the share is not in (0, 1], or low is not below high.
    """
    check_choice(share, low, high)
    within = mask & ~cut & (covariances > low) & (covariances < high)
    candidates = within.flatten().nonzero()[:, 0]
    drawn = permutation(len(candidates), generator)[: number_of_tokens(share, mask)]
    chosen = candidates[drawn.to(mask.device)]
    return torch.zeros_like(mask).flatten().index_fill(0, chosen, True).view_as(mask)


def kl_cov_tokens(covariances: torch.Tensor, mask: torch.Tensor, share: float) -> torch.Tensor:
    """Tokens that KL-Cov holds back, bool [n, t]: a share of all, those with the largest
    covariances [n, t]; of equal ones the first.

    Raises:
        ValueError: the share is not in (0, 1].
    """
    check_choice(share)
    valid = covariances.masked_fill(~mask, -torch.inf).flatten()
    largest = valid.argsort(descending=True, stable=True)
    chosen = largest[: number_of_tokens(share, mask)]
    return torch.zeros_like(mask).flatten().index_fill(0, chosen, True).view_as(mask)


def clip_cov_loss(losses: torch.Tensor, held_back: torch.Tensor) -> torch.Tensor:
    """Losses [n, t] without those of the tokens held back, bool [n, t]: 0, and no gradient."""
    return losses.masked_fill(held_back, 0.0)


def kl_cov_loss(
    losses: torch.Tensor,
    log_probs: torch.Tensor,
    old_log_probs: torch.Tensor,
    held_back: torch.Tensor,
    coef: float = 1.0,
) -> torch.Tensor:
    """Losses [n, t] with a penalty coef |log_probs - old_log_probs| on the tokens held back.

    Its gradient is the sign of the difference, and 0 where there is none but rounding.

    Args:
        losses, log_probs, old_log_probs: [n, t].
        held_back: bool [n, t].
        coef: the paper's beta.
    """
    moved = log_probs - old_log_probs
    counts = held_back & (moved.detach().abs() > ROUNDING)
    return losses + coef * torch.where(counts, moved, 0.0).abs()


# -- what the paper computes: the analysis ---------------------------------------------------------


def predicted_entropy_change(logits: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
    """-Cov_{a ~ pi}(log pi(a), delta_a), [...]: the entropy that softmax policies win, to first
    order, when their logits [..., actions] move by delta [..., actions].

    A policy gradient moves them by eta pi (A - E A), a natural one by eta A.
    """
    log_pi = logits.log_softmax(dim=-1)
    pi = log_pi.exp()
    away = delta - (pi * delta).sum(dim=-1, keepdim=True)
    return -(pi * log_pi * away).sum(dim=-1)


class EntropyLaw(NamedTuple):
    """R = -a exp(H) + b, with the ceiling b - a, the accuracy at which no entropy is left."""

    a: float
    b: float
    ceiling: float

    def accuracy(self, entropy: float) -> float:
        """What the law says at an entropy."""
        return self.b - self.a * math.exp(entropy)


def fit_entropy_law(entropies: Sequence[float], accuracies: Sequence[float]) -> EntropyLaw:
    """Least squares of accuracies on exp(entropies), in nats.

    Raises:
        ValueError: their numbers differ, or there are not two different entropies.
    """
    x, y = np.exp(np.asarray(entropies, float)), np.asarray(accuracies, float)
    if x.shape != y.shape or len(np.unique(x)) < 2:
        raise ValueError(
            "the law is fitted to as many accuracies as entropies, two of which differ, got "
            f"accuracies {list(accuracies)} and entropies {list(entropies)}"
        )
    away = x - x.mean()
    a = -float(away @ y / (away @ away))
    b = float(y.mean()) + a * float(x.mean())
    return EntropyLaw(a, b, b - a)


# -- the agents ------------------------------------------------------------------------------------


class CovarianceGRPO(GRPO):
    """GRPO with the mean over tokens, which watches their covariances: what both agents build on,
    and are compared with.

    Args:
        arguments: of `GRPO`.

    Logged also: `train/covariance`, of log-probability and advantage over the tokens, and, where
    there are several epochs, `train/entropy_change` from the first to the last of them, on the same
    tokens: it is expected to follow minus the covariance.
    """

    aggregate = GroupAlgorithm.aggregate  # the mean over all tokens

    def token_losses(self, batch: TokenBatch) -> torch.Tensor:
        """GRPO's; `extra["covariances"]` are those of the tokens."""
        assert batch.advantages is not None and batch.log_probs is not None
        found = token_covariances(batch.log_probs, batch.advantages, batch.mask)
        self.note(covariance=token_mean(found, batch.mask))
        batch.extra["covariances"] = found
        return super().token_losses(batch)

    def track(self, batch: TokenBatch) -> None:
        """After the updates the change of entropy is known."""
        entropies = self._notes.get("entropy")
        if self.epochs > 1 and entropies:
            by_epoch = torch.stack(entropies).reshape(self.epochs, -1).mean(dim=1)
            self.note(entropy_change=by_epoch[-1] - by_epoch[0])


class KLCov(CovarianceGRPO):
    """GRPO without a clip, with a penalty where a token's covariance is among the largest.

    Args:
        share: of the tokens of a minibatch that are held back. The paper has 2e-3 for its 7B model
            and 2e-4 for 32B.
        cov_coef: weight of |log r| on them.
        clip_low, clip_high, ...: of `GRPO`; by default no ratio is cut.

    Logged also: `train/moved`, mean |log r| of the tokens held back.
    """

    paper = Paper(
        slug="entropy_mechanism",
        title="The Entropy Mechanism of Reinforcement Learning for Reasoning Language Models",
        authors="Ganqu Cui et al.",
        year=2025,
        arxiv="2505.22617",
        code="github.com/PRIME-RL/Entropy-Mechanism-of-RL",
    )
    example = example(epochs=2, share=0.1)

    def __init__(
        self,
        policy: Any,
        env: Any,
        *,
        share: float = 2e-3,
        cov_coef: float = 1.0,
        clip_low: float = 1.0,
        clip_high: float = math.inf,
        **common: Any,
    ) -> None:
        check_choice(share)
        if cov_coef < 0:
            raise ValueError(f"cov_coef must be at least 0, got {cov_coef}")
        self.share, self.cov_coef = share, cov_coef
        super().__init__(policy, env, clip_low=clip_low, clip_high=clip_high, **common)

    def token_losses(self, batch: TokenBatch) -> torch.Tensor:
        """-r A, and the penalty on a share of the tokens."""
        losses = super().token_losses(batch)
        assert batch.log_probs is not None and batch.old_log_probs is not None
        held_back = kl_cov_tokens(batch.extra["covariances"], batch.mask, self.share)
        moved = (batch.log_probs - batch.old_log_probs).abs()
        self.note(moved=token_mean(moved.detach(), held_back))
        return kl_cov_loss(losses, batch.log_probs, batch.old_log_probs, held_back, self.cov_coef)


class ClipCov(CovarianceGRPO):
    """GRPO that leaves out some tokens of high covariance, drawn anew for every step.

    Args:
        share: of the tokens of a minibatch that are held back at most.
        cov_low, cov_high: those are drawn whose covariance is in between.
        clip_low, clip_high, ...: of `GRPO`; the paper's are wide.

    Logged also: `train/held_back`, the share of tokens left out.
    """

    paper = KLCov.paper
    example = example(epochs=2, share=0.1, cov_low=0.1)

    def __init__(
        self,
        policy: Any,
        env: Any,
        *,
        share: float = 2e-4,
        cov_low: float = 1.0,
        cov_high: float = 5.0,
        clip_low: float = 1.0,
        clip_high: float = 1.0,
        **common: Any,
    ) -> None:
        check_choice(share, cov_low, cov_high)
        self.share, self.cov_low, self.cov_high = share, cov_low, cov_high
        super().__init__(policy, env, clip_low=clip_low, clip_high=clip_high, **common)

    def token_losses(self, batch: TokenBatch) -> torch.Tensor:
        """GRPO's, but for the tokens drawn."""
        losses = super().token_losses(batch)
        assert batch.advantages is not None
        ratio = self.token_ratios(batch).detach()
        held_back = clip_cov_tokens(
            *(batch.extra["covariances"], batch.mask),
            clipped(ratio, batch.advantages, self.clip_low, self.clip_high),
            share=self.share,
            low=self.cov_low,
            high=self.cov_high,
            generator=self.shuffle,
        )
        self.note(held_back=token_mean(held_back.float(), batch.mask))
        return clip_cov_loss(losses, held_back)


# -- the claim in miniature ------------------------------------------------------------------------

CLAIM_BATCHES, LAST = 120, 20
# With 3e-4, four steps on a batch cost GRPO accuracy, and there is no trade of entropy to look at.
SETTING: dict[str, Any] = {"prompts": 16, "group_size": 8, "epochs": 4, "learning_rate": 1e-4}


def outcome_of(cls: type[CovarianceGRPO], seed: int, scale: float, **agent: Any) -> Outcome:
    """Entropy at the end, accuracy, and how well the paper's two laws describe the run."""
    size = SETTING["prompts"] * SETTING["group_size"]
    batches = max(round(scale * CLAIM_BATCHES), 6)
    found = trial(cls, seed, replies=batches * size, **SETTING, **agent)
    entropies, predicted = found.log["train/entropy"], -found.log["train/covariance"]
    final = found.mean("train/entropy", -LAST)
    return found.outcome(
        **{
            "entropy": final,
            "rank correlation": rank_correlation(predicted, found.log["train/entropy_change"]),
            "rank correlation across batches": rank_correlation(predicted[:-1], np.diff(entropies)),
            "law error": early_law(found, batches, size).accuracy(final) - found.after,
        }
    )


def early_law(found: Trial, batches: int, size: int) -> EntropyLaw:
    """The law of the first third of a run: held-out accuracy where it was looked at, against the
    entropy of the batches around."""
    entropies, around = found.log["train/entropy"], max(batches // 24, 1)
    looks = (int(replies) // size for replies in found.curve[0])
    means = [float(np.nanmean(entropies[max(k - around, 0) : k + around])) for k in looks]
    third = -(-len(means) // 3)
    return fit_entropy_law(means[:third], found.curve[1][:third])


def rank_correlation(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Spearman's, of pairs in which neither is NaN."""
    from scipy.stats import spearmanr

    both = np.isfinite(x) & np.isfinite(y)
    return float(spearmanr(x[both], y[both]).statistic)


def grpo_arm(seed: int, scale: float) -> Outcome:
    """GRPO with the mean over tokens."""
    return outcome_of(CovarianceGRPO, seed, scale)


def kl_cov_arm(seed: int, scale: float) -> Outcome:
    """KL-Cov."""
    return outcome_of(KLCov, seed, scale, share=0.02)


def clip_cov_arm(seed: int, scale: float) -> Outcome:
    """Clip-Cov."""
    return outcome_of(ClipCov, seed, scale, share=0.02)


KLCov.claim = Claim(
    text="On sums of two-digit numbers, after 120 batches of 16 x 8 replies with 4 steps on each, "
    "KL-Cov, which holds back 2 % of the tokens, has a higher entropy per token (mean of the last "
    "20 batches) than GRPO with the same mean over tokens. Reported beside it: Clip-Cov, held-out "
    "accuracy, the rank correlation of minus the covariance with the change of entropy (on the "
    "same tokens, and from batch to batch), and by how much the law R = b - a exp(H), fitted to "
    "the first third of a run, misses the accuracy at its end.",
    arms={"GRPO": grpo_arm, "KL-Cov": kl_cov_arm, "Clip-Cov": clip_cov_arm},
    criteria=(Superior("entropy", "KL-Cov", "GRPO"),),
    seeds=8,
    core_minutes=12.0,
)
