"""Base of the language models that learn from comparisons of replies: a timestep is one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from .text.losses import reply_sums
from .text.measures import pair_accuracy
from .text.token_batch import TokenBatch
from .text_data import Preferences
from .text_dataset import TextDatasetAlgorithm


@dataclass
class PairBatch:
    """n comparisons.

    Attributes:
        replies: the 2 n replies, the preferred ones first; `groups` number the comparisons.
        margins: float [n], by how much the preferred reply is better; 1 where the data does not
            say.
        scores: float [2 n], what the agent thinks of the replies, with gradients; None before that
            stage.
    """

    replies: TokenBatch
    margins: torch.Tensor
    scores: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.margins)

    @property
    def differences(self) -> torch.Tensor:
        """Scores of the preferred replies less those of the others, [n].

        Raises:
            ValueError: there are no scores yet.
        """
        chosen, rejected = self.halves(self.scores)
        return chosen - rejected

    def halves(self, values: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Values [2 n, ...] of all replies as those of the preferred ones and of the others.

        Raises:
            ValueError: there are none yet.
        """
        if values is None:
            raise ValueError("this stage of learning has not been reached: there are no values yet")
        return values[: len(self)], values[len(self) :]


class PreferenceAlgorithm(TextDatasetAlgorithm):
    """Comparisons of two replies to a prompt, and a loss of what the policy thinks of them.

    An update is a pipeline of stages, each a method that a paper may change:

        select -> score -> loss -> track

    The base scores a reply by log pi - log ref, summed over its tokens: an implicit reward, up to a
    factor. A subclass writes at least `pair_losses`, or `loss`. A timestep is a comparison.

    Args:
        policy: "TextPolicy".
        env: `Preferences`, whose `env` (if any) is for demonstrations and held-out tasks; or a text
            environment: then pairs are drawn from the policy after its warm start, and judged by
            the environment.
        pairs: how many are drawn from an environment.
        batch_size: comparisons of a gradient step; all where there are fewer.
        temperature, demonstrations, imitate_until, ...: as in `TextAlgorithm`; the temperature is
            that of the replies that are drawn.

    Logged: `train/accuracy` (share of comparisons in which the preferred reply scores higher, ties
    1/2), `train/difference` of the scores, `train/chosen` and `train/rejected` scores, and what
    `TextDatasetAlgorithm` logs; all before the gradient step.
    """

    dataset_class = Preferences
    uses_reference: ClassVar[bool] = True  # whether the policy before the first update is kept

    def __init__(self, policy: Any, env: Any, *, pairs: int = 1_000, **common: Any) -> None:
        if pairs < 1:
            raise ValueError(f"pairs must be at least 1, got {pairs}")
        self.pairs = pairs
        super().__init__(policy, env, **common)

    def begin(self) -> None:
        """Warm start and data; then the policy as it is becomes the reference."""
        super().begin()
        if self.uses_reference:
            self.keep_reference()

    # -- stages ------------------------------------------------------------------------------------

    def draw(self) -> Preferences:
        """Pairs of the policy's replies that the environment tells apart."""
        return Preferences.sampled(
            self.tasks,
            self.policy,
            self.pairs,
            seed=self.generator,
            temperature=self.temperature,
        )

    def select(self, rows: Sequence[int]) -> PairBatch:
        """The comparisons at the given rows of the data."""
        data: Preferences = self.records
        prompts, chosen, rejected = (
            [column[row] for row in rows] for column in (data.prompts, data.chosen, data.rejected)
        )
        replies = self.policy.batch(prompts * 2, chosen + rejected)
        replies.groups = torch.arange(len(rows), device=self.device).repeat(2)
        margins = [1.0] * len(rows) if data.margins is None else [data.margins[row] for row in rows]
        return PairBatch(replies, self.tensor(margins))

    def score(self, pairs: PairBatch) -> torch.Tensor:
        """Scores [2 n] of the replies with gradients: log pi - log ref.

        Their tokens' log-probabilities stay in `pairs.replies`.
        """
        replies = pairs.replies
        assert self.reference is not None
        with torch.no_grad():
            replies.reference_log_probs = self.reference.log_probs(replies)
        replies.log_probs = self.policy.log_probs(replies)
        return reply_sums(replies.log_probs - replies.reference_log_probs, replies.mask)

    def pair_losses(self, pairs: PairBatch) -> torch.Tensor:
        """Losses [n] of scored comparisons."""
        raise NotImplementedError

    def loss(self, pairs: PairBatch) -> torch.Tensor:
        """The mean over the comparisons, after they have been scored."""
        pairs.scores = self.score(pairs)
        chosen, rejected = pairs.halves(pairs.scores.detach())
        self.note(
            accuracy=pair_accuracy(chosen - rejected),
            difference=(chosen - rejected).mean(),
            chosen=chosen.mean(),
            rejected=rejected.mean(),
        )
        return self.pair_losses(pairs).mean()
