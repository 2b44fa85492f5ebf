"""PPO on tokens with a learned value: the reinforcement learner of RLHF.

J. Schulman et al.: Proximal Policy Optimization Algorithms (arXiv 1707.06347), as L. Ouyang et al.:
Training language models to follow instructions with human feedback (arXiv 2203.02155) use it.

    token rewards   rho_t = -beta (log pi_old - log ref) + 1[t is the last token] R
    advantages      A_t = delta_t + gamma lambda A_{t+1},  delta_t = rho_t + gamma V_{t+1} - V_t
    returns         A_t + V_t, before the advantages are whitened over the tokens of the batch
    loss            mean_t max(-r A, -clip(r) A) + c/2 mean_t max((V - ret)^2, (clip(V) - ret)^2)

V_t is the value of the text before token t; behind the last token it is 0. A group-based learner
has the mean of its group for a baseline instead, and so needs groups; here one reply to a prompt is
enough. The KL to the reference stands in the reward, where its gradient reaches every token.
"""

from __future__ import annotations

from typing import Any

import torch

from ..base.group import GroupAlgorithm
from ..base.text.advantages import at_the_end, generalised_advantages, whitened
from ..base.text.losses import kl_k1, kl_k3, token_mean
from ..base.text.token_batch import TokenBatch
from .baselines import GRPO, example

# -- what the papers compute -----------------------------------------------------------------------


def token_rewards(
    rewards: torch.Tensor,
    mask: torch.Tensor,
    log_probs: torch.Tensor | None = None,
    reference: torch.Tensor | None = None,
    kl_coef: float = 0.0,
) -> torch.Tensor:
    """Rewards [n] of replies at their last tokens, less kl_coef times k1 at every token: [n, t].

    Args:
        rewards: float [n].
        mask: bool [n, t].
        log_probs, reference: float [n, t] of the policy that sampled and of the frozen reference;
            None: there is no such term.
        kl_coef: beta.
    """
    found = at_the_end(rewards, mask)
    if log_probs is None or reference is None:
        return found
    return found - kl_coef * kl_k1(log_probs, reference) * mask


def value_loss(
    values: torch.Tensor,
    old_values: torch.Tensor,
    returns: torch.Tensor,
    mask: torch.Tensor,
    clip: float | None = 0.2,
) -> torch.Tensor:
    """Half the token mean of max((V - ret)^2, (clip(V, V_old -+ clip) - ret)^2), a scalar.

    A value that has moved by more than `clip` gets no gradient from where that would only bring it
    farther.

    Args:
        values: float [n, t], with gradients.
        old_values, returns: float [n, t], constants.
        mask: bool [n, t].
        clip: None: the plain squared error.
    """
    errors = (values - returns).square()
    if clip is not None:
        bounded = torch.clamp(values, old_values - clip, old_values + clip)
        errors = torch.maximum(errors, (bounded - returns).square())
    return 0.5 * token_mean(errors, mask)


# -- the agent -------------------------------------------------------------------------------------


class TokenPPO(GRPO):
    """Proximal policy optimisation with one action per token, and a value head on the policy.

    Args:
        prompts, group_size: by default many prompts with one reply each.
        gamma, gae_lambda: discount and trace of the advantages, above 0 (gae_lambda: at least 0)
            and at most 1.
        value_coef: weight of the value loss, at least 0.
        clip_value: how far a value may move from the one at sampling before its loss stops falling;
            None: as far as it likes.
        kl_coef: weight of the KL to the policy before the first update in the rewards of tokens.
        clip_low, clip_high, dual_clip, ...: of `GRPO`.

    Logged also: `train/value_loss`, `train/explained_variance` (share of the returns' variance that
    the values at sampling knew), and with a reference `train/kl_reference` (k3, of the batch).
    """

    example = example(
        prompts=16, group_size=1, epochs=2, minibatch_size=8, kl_coef=0.05, value_coef=0.1
    )
    uses_values = True
    kl_in_reward = True

    def __init__(
        self,
        policy: Any,
        env: Any,
        *,
        prompts: int = 128,
        group_size: int = 1,
        gamma: float = 1.0,
        gae_lambda: float = 0.95,
        value_coef: float = 0.5,
        clip_value: float | None = 0.2,
        **common: Any,
    ) -> None:
        if not (0 < gamma <= 1 and 0 <= gae_lambda <= 1):
            raise ValueError(
                "gamma is above 0 and at most 1 and gae_lambda from 0 to 1, got "
                f"gamma={gamma}, gae_lambda={gae_lambda}"
            )
        if value_coef < 0 or (clip_value is not None and clip_value <= 0):
            raise ValueError(
                "value_coef is at least 0 and clip_value above 0 or None, got "
                f"value_coef={value_coef}, clip_value={clip_value}"
            )
        self.gamma, self.gae_lambda = gamma, gae_lambda
        self.value_coef, self.clip_value = value_coef, clip_value
        super().__init__(policy, env, prompts=prompts, group_size=group_size, **common)

    aggregate = GroupAlgorithm.aggregate  # the mean over all tokens

    def token_rewards(self, batch: TokenBatch) -> torch.Tensor:
        """Rewards [N, T] of the tokens of the whole batch."""
        assert batch.rewards is not None and batch.old_log_probs is not None
        old, reference = batch.old_log_probs, batch.reference_log_probs
        if reference is not None:
            self.note(kl_reference=token_mean(kl_k3(old, reference), batch.mask))
        return token_rewards(batch.rewards, batch.mask, old, reference, self.kl_coef)

    def advantage(self, batch: TokenBatch) -> torch.Tensor:
        """Generalised advantages, whitened; `extra` keeps the old values and the returns."""
        with torch.no_grad():
            values = self.policy.values(batch)
        rewards = self.token_rewards(batch)
        advantages = generalised_advantages(
            rewards, values, batch.mask, self.gamma, self.gae_lambda
        )
        returns = advantages + values
        batch.extra |= {"old_values": values, "returns": returns}
        if int(batch.mask.sum()) > 1:
            unknown, all_of_it = advantages[batch.mask].var(), returns[batch.mask].var()
            self.note(explained_variance=1 - unknown / (all_of_it + 1e-8))
        return whitened(advantages, batch.mask)

    def nothing_to_learn(self, batch: TokenBatch) -> bool:
        """Whether neither the policy nor the values have a gradient."""
        assert batch.advantages is not None
        known = torch.equal(batch.extra["returns"], batch.extra["old_values"])
        return known and not bool(batch.advantages.any())

    def loss(self, batch: TokenBatch) -> torch.Tensor:
        """The clipped surrogate and the loss of the values."""
        assert batch.values is not None
        old, returns = batch.extra["old_values"], batch.extra["returns"]
        of_values = value_loss(batch.values, old, returns, batch.mask, self.clip_value)
        self.note(value_loss=of_values.detach())
        return super().loss(batch) + self.value_coef * of_values
