"""Bradley and Terry's model of comparisons as a reward model.

R. A. Bradley, M. E. Terry: Rank Analysis of Incomplete Block Designs (Biometrika 39, 1952), with a
language model as N. Stiennon et al.: Learning to summarize from human feedback (arXiv 2009.01325).

A reply has a score s; the one with the higher score is preferred with probability
sigmoid(s_w - s_l). The scores that make the comparisons most likely:

    L = mean( -log sigmoid(s_w - s_l - margin) + c (s_w + s_l)^2 )

Only differences of scores are determined, so c > 0 may centre them on 0; a margin asks for more
where one reply is said to be much better (H. Touvron et al.: Llama 2, arXiv 2307.09288).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from ..base.preference import PairBatch, PreferenceAlgorithm
from ..llm.dpo import example

# -- what the papers compute -----------------------------------------------------------------------


def bradley_terry_losses(
    chosen: torch.Tensor,
    rejected: torch.Tensor,
    margin: torch.Tensor | float = 0.0,
    centre: float = 0.0,
) -> torch.Tensor:
    """-log sigmoid(s_w - s_l - margin) + centre (s_w + s_l)^2 of each comparison, [n].

    Args:
        chosen, rejected: scores s_w and s_l, float [n].
        margin: a number, or [n].
        centre: c.
    """
    losses = -functional.logsigmoid(chosen - rejected - margin)
    return losses + centre * (chosen + rejected).square()


# -- the reward model ------------------------------------------------------------------------------


class BradleyTerry(PreferenceAlgorithm):
    """A language model with one more output at the end of a reply: its score.

    `scores` is the reward model. `predict` replies as the language model under it, which nothing
    keeps good at that.

    Args:
        margin: what is asked of a difference of scores, times the margins of the data (1 each where
            it has none); at least 0.
        centre: weight of the squared sum of both scores, at least 0.
        arguments: of `PreferenceAlgorithm`.
    """

    example = example(centre=0.01)
    uses_reference = False

    def __init__(
        self, policy: Any, env: Any, *, margin: float = 0.0, centre: float = 0.0, **common: Any
    ) -> None:
        if margin < 0 or centre < 0:
            raise ValueError(
                f"margin and centre are at least 0, got margin={margin}, centre={centre}"
            )
        self.margin, self.centre = margin, centre
        super().__init__(policy, env, **common)

    def fixed_policy_arguments(self) -> dict[str, Any]:
        """A classification head with one output."""
        return {"labels": 1}

    def score(self, pairs: PairBatch) -> torch.Tensor:
        """What the model thinks of the replies, [2 n], with gradients."""
        return self.policy.classify(pairs.replies)[:, 0]

    def pair_losses(self, pairs: PairBatch) -> torch.Tensor:
        """Minus the log-likelihoods of the comparisons."""
        chosen, rejected = pairs.halves(pairs.scores)
        return bradley_terry_losses(chosen, rejected, self.margin * pairs.margins, self.centre)

    @torch.no_grad()
    def scores(self, prompts: Sequence[str], replies: Sequence[str]) -> NDArray[np.float64]:
        """Scores [n] of replies to prompts, one each.

        Raises:
            ValueError: their numbers differ, or a text cannot be encoded.
        """
        if len(prompts) != len(replies):
            raise ValueError(f"got {len(prompts)} prompts and {len(replies)} replies")
        found = np.zeros(len(prompts))
        for row in range(0, len(prompts), self.batch_size):
            part = slice(row, row + self.batch_size)
            outputs = self.policy.classify(self.policy.batch(prompts[part], replies[part]))
            found[part] = outputs[:, 0].double().cpu().numpy()
        return found
