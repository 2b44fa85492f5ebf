"""The group-based learners that papers compare with: REINFORCE, RLOO, GRPO, Dr.GRPO and GSPO.

R [N] are the rewards of N replies in groups of G to one prompt, logp [N, T] the log-probabilities
of their tokens, T_i the tokens of reply i, r = exp(logp - old logp):

    REINFORCE  A = R - mean of the batch               -mean_i A_i sum_t logp_it
    RLOO       A = R - mean of the others of the group -mean_i A_i sum_t logp_it
    GRPO       A = (R - mean) / (std + 1e-6)            mean_i mean_t max(-r A, -clip(r) A)
    Dr.GRPO    A = R - mean of the group                mean_i sum_t max(-r A, -clip(r) A) / budget
    GSPO       as GRPO                                  mean_i max(-s A, -clip(s) A)

with s = exp(mean_t log r), the ratio of a whole reply.

What a paper says of its baseline "GRPO" is this GRPO with the paper's own clip and without KL.
"""

from __future__ import annotations

from typing import Any

import torch

from ..base.declare import Example
from ..base.group import GroupAlgorithm
from ..base.text.advantages import centred, leave_one_out, standardised
from ..base.text.losses import (
    clipped,
    clipped_surrogate,
    ratios,
    reply_means,
    reply_sums,
    token_mean,
)
from ..base.text.token_batch import TokenBatch

SMALL: dict[str, Any] = {
    **{"prompts": 4, "group_size": 4, "demonstrations": 64, "imitate_until": 0.0},
    "policy_kwargs": {"model_kwargs": {"layers": 1, "width": 16, "heads": 2}},
}


def example(**kwargs: Any) -> Example:
    """An example of a group-based learner that takes a second, with changed arguments."""
    return Example("Arithmetic-v0", {"digits": 1}, "TextPolicy", {**SMALL, **kwargs}, steps=96)


# -- what the papers compute -----------------------------------------------------------------------


def sequence_ratios(
    log_probs: torch.Tensor, old_log_probs: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """Ratios of whole replies, length-normalised: exp(mean_t (log_probs - old_log_probs)), [n]."""
    return ratios(reply_means(log_probs, mask), reply_means(old_log_probs, mask))


# -- the agents ------------------------------------------------------------------------------------


class TextReinforce(GroupAlgorithm):
    """REINFORCE with the mean reward of the batch as its baseline.

    R. J. Williams: Simple statistical gradient-following algorithms for connectionist reinforcement
    learning (1992). A batch is learned from once: there are no ratios.

    Args:
        arguments: of `GroupAlgorithm`.
    """

    example = example()

    def advantage(self, batch: TokenBatch) -> torch.Tensor:
        """R - mean(R)."""
        assert batch.rewards is not None
        return batch.rewards - batch.rewards.mean()

    def token_losses(self, batch: TokenBatch) -> torch.Tensor:
        """-A log pi."""
        assert batch.advantages is not None and batch.log_probs is not None
        return -batch.advantages * batch.log_probs

    def aggregate(self, losses: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Sums over tokens, mean over replies."""
        return reply_sums(losses, mask).mean()


class RLOO(TextReinforce):
    """REINFORCE leave-one-out: the baseline of a reply is the mean reward of the others.

    A. Ahmadian et al.: Back to Basics: Revisiting REINFORCE Style Optimization (arXiv 2402.14740).

    Args:
        arguments: of `GroupAlgorithm`.
    """

    example = example()

    def advantage(self, batch: TokenBatch) -> torch.Tensor:
        """R - mean of the other replies to the prompt."""
        assert batch.rewards is not None and batch.groups is not None
        return leave_one_out(batch.rewards, batch.groups)


class GRPO(GroupAlgorithm):
    """Group relative policy optimisation.

    Z. Shao et al.: DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open Language
    Models (arXiv 2402.03300). The paper has kl_coef=0.04; most later work has none.

    Args:
        clip_low, clip_high: ratios count between 1 - clip_low and 1 + clip_high.
        dual_clip: where an advantage is negative, the loss of a token is at most this times its
            size; None: no such bound.
        arguments: of `GroupAlgorithm`.

    Logged also: `train/clip_fraction` of the tokens.
    """

    example = example(epochs=2, minibatch_size=8)

    def __init__(
        self,
        policy: Any,
        env: Any,
        *,
        clip_low: float = 0.2,
        clip_high: float = 0.2,
        dual_clip: float | None = None,
        **common: Any,
    ) -> None:
        if not 0 <= clip_low <= 1 or clip_high < 0 or (dual_clip or 2.0) <= 1:
            raise ValueError(
                "clip_low is from 0 to 1, clip_high at least 0 and dual_clip above 1 or None, got "
                f"clip_low={clip_low}, clip_high={clip_high}, dual_clip={dual_clip}"
            )
        self.clip_low, self.clip_high, self.dual_clip = clip_low, clip_high, dual_clip
        super().__init__(policy, env, **common)

    def advantage(self, batch: TokenBatch) -> torch.Tensor:
        """Rewards standardised in their group."""
        assert batch.rewards is not None and batch.groups is not None
        return standardised(batch.rewards, batch.groups)

    def token_ratios(self, batch: TokenBatch) -> torch.Tensor:
        """Importance ratios of the tokens [N, T]."""
        assert batch.log_probs is not None and batch.old_log_probs is not None
        return ratios(batch.log_probs, batch.old_log_probs)

    def clip_bounds(self, batch: TokenBatch) -> tuple[float | torch.Tensor, float | torch.Tensor]:
        """How far ratios may go below and above 1: numbers, or one for each token [N, T]."""
        return self.clip_low, self.clip_high

    def token_losses(self, batch: TokenBatch) -> torch.Tensor:
        """The clipped surrogate."""
        assert batch.advantages is not None
        ratio, bounds = self.token_ratios(batch), self.clip_bounds(batch)
        cut = clipped(ratio.detach(), batch.advantages, *bounds)
        self.note(clip_fraction=token_mean(cut.float(), batch.mask))
        return clipped_surrogate(ratio, batch.advantages, *bounds, self.dual_clip)

    def aggregate(self, losses: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Mean over the tokens of a reply, then over replies."""
        return reply_means(losses, mask).mean()


class TokenMeanGRPO(GRPO):
    """GRPO with two of DAPO's changes: the higher upper clip, and the mean over all tokens.

    Q. Yu et al.: DAPO: An Open-Source LLM Reinforcement Learning System at Scale (arXiv
    2503.14476). This is what later work means by "GRPO with DAPO's loss".

    Args:
        arguments: of `GRPO`.
    """

    example = example()

    def __init__(self, policy: Any, env: Any, *, clip_high: float = 0.28, **common: Any) -> None:
        super().__init__(policy, env, clip_high=clip_high, **common)

    aggregate = GroupAlgorithm.aggregate  # the mean over all tokens


class DrGRPO(GRPO):
    """GRPO done right: no division by the standard deviation, nor by a reply's own length.

    Z. Liu et al.: Understanding R1-Zero-Like Training: A Critical Perspective (arXiv 2503.20783).

    Args:
        arguments: of `GRPO`.
    """

    example = example()

    def advantage(self, batch: TokenBatch) -> torch.Tensor:
        """R - mean of the group."""
        assert batch.rewards is not None and batch.groups is not None
        return centred(batch.rewards, batch.groups)

    def aggregate(self, losses: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Sums over tokens, divided by the budget of tokens, mean over replies."""
        return reply_sums(losses, mask).mean() / self.policy.max_tokens


class GSPO(GRPO):
    """Group sequence policy optimisation: one ratio per reply.

    C. Zheng et al.: Group Sequence Policy Optimization (arXiv 2507.18071). The mean log-ratio of a
    reply is small, so the bounds are, too.

    Args:
        arguments: of `GRPO`.
    """

    example = example()

    def __init__(
        self,
        policy: Any,
        env: Any,
        *,
        clip_low: float = 3e-4,
        clip_high: float = 4e-4,
        **common: Any,
    ) -> None:
        super().__init__(policy, env, clip_low=clip_low, clip_high=clip_high, **common)

    def token_ratios(self, batch: TokenBatch) -> torch.Tensor:
        """The ratio of its reply for every token: the mean over the tokens is that of the reply."""
        assert batch.log_probs is not None and batch.old_log_probs is not None
        found = sequence_ratios(batch.log_probs, batch.old_log_probs, batch.mask)
        return found[:, None].expand_as(batch.log_probs)
