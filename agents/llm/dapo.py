"""DAPO: GRPO by tokens, with a higher upper clip, groups that teach, and soft limits of length.

Q. Yu et al.: DAPO: An Open-Source LLM Reinforcement Learning System at Scale (arXiv 2503.14476).

    clip-higher        ratios count in (1 - 0.2, 1 + 0.28)
    dynamic sampling   groups that are all right or all wrong are dropped, and others drawn
    token mean         the loss is the mean over all tokens of the batch
    overlong shaping   R += clip((L - C - T_i) / C, -1, 0): L the budget, C the last part of it
"""

from __future__ import annotations

from typing import Any

import torch

from ..base.group import Rollouts
from ..base.text.advantages import group_statistics
from .baselines import TokenMeanGRPO, example

# -- what the paper computes -----------------------------------------------------------------------


def overlong_penalty(lengths: torch.Tensor, budget: int, buffer: int) -> torch.Tensor:
    """clip((budget - buffer - T) / buffer, -1, 0) of lengths int [n]: 0 up to budget - buffer
    tokens, -1 from the budget on."""
    return ((budget - buffer - lengths) / buffer).clamp(-1.0, 0.0)


def teaches(correct: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """Whether the group of a reply has right and wrong ones, bool [n]; correct float [n]."""
    return ~group_statistics(correct, groups).equal


# -- the agent -------------------------------------------------------------------------------------


class DAPO(TokenMeanGRPO):
    """GRPO with the four tricks; the clip and the mean over tokens are `TokenMeanGRPO`'s.

    Args:
        max_rounds: batches that are sampled at most to fill one with groups that teach; then
            learning goes on with fewer.
        overlong_buffer: tokens before the budget in which a penalty grows; 0: there is none.
        arguments: of `GRPO`.

    Logged also: `train/rounds`, batches sampled for this one.
    """

    example = example(max_rounds=2, overlong_buffer=2, prompts=2)

    def __init__(
        self,
        policy: Any,
        env: Any,
        *,
        max_rounds: int = 4,
        overlong_buffer: int = 0,
        **common: Any,
    ) -> None:
        if max_rounds < 1 or overlong_buffer < 0:
            raise ValueError(
                "max_rounds is at least 1 and overlong_buffer at least 0, got "
                f"max_rounds={max_rounds}, overlong_buffer={overlong_buffer}"
            )
        self.max_rounds, self.overlong_buffer = max_rounds, overlong_buffer
        super().__init__(policy, env, **common)

    def reward(self, rollouts: Rollouts) -> torch.Tensor:
        """The environment's, and the penalty of length."""
        rewards = super().reward(rollouts)
        if not self.overlong_buffer:
            return rewards
        lengths = rollouts.batch.lengths
        return rewards + overlong_penalty(lengths, self.policy.max_tokens, self.overlong_buffer)

    def collect(self) -> Rollouts:
        """Batches until there are `prompts` groups that teach; if there are none at all, the last
        batch as it is."""
        found: list[Rollouts] = []
        groups = rounds = 0
        while groups < self.prompts and rounds < self.max_rounds:
            rounds += 1
            sampled = self.sample()
            batch = sampled.batch
            assert batch.groups is not None
            useful = teaches(batch.extra["correct"], batch.groups)
            if bool(useful.any()):
                found.append(sampled.keep(useful))
                groups += len(batch.groups[useful].unique())
        self.note(rounds=rounds)
        if not found:
            return sampled
        joined = Rollouts.join(found)
        assert joined.batch.groups is not None
        first = joined.batch.groups.unique()[: self.prompts]
        return joined.keep(torch.isin(joined.batch.groups, first))
