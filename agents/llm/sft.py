"""SFT: imitate demonstrated replies, the first stage of nearly every recipe.

L. Ouyang et al.: Training language models to follow instructions with human feedback (arXiv
2203.02155), stage 1:

    L = -sum_t m_t log pi(y_t | x, y_<t) / sum_t m_t

over all tokens of a minibatch; the mask m covers the reply with its end, and not the prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from stable_baselines3.common.type_aliases import Schedule

from ..base.declare import Example
from ..base.text.supervised import sft_loss
from ..base.text.token_batch import TokenBatch
from ..base.text_algorithm import DEMONSTRATIONS, held_out
from ..base.text_data import Demonstrations
from ..base.text_dataset import TextDatasetAlgorithm
from .baselines import SMALL

EVERY = 50  # updates between two looks at held-out tasks


class SFT(TextDatasetAlgorithm):
    """Supervised fine-tuning: a timestep is a demonstration.

    There is no warm start: this is one.

    Args:
        policy: "TextPolicy".
        env: `Demonstrations`, or a text environment that gives them.
        demonstrations: how many an environment is asked for; None: 2,000.
        imitate_until: learning ends when this share of held-out tasks is solved greedily, which is
            looked at every 50 updates; 1: never before its time.
        batch_size, learning_rate, weight_decay, ...: as in `TextDatasetAlgorithm`.

    Logged also: `train/held_out`, greedy accuracy when it was last looked at, where it is.
    """

    example = Example(
        "Arithmetic-v0",
        {"digits": 1},
        "TextPolicy",
        {"demonstrations": 64, "batch_size": 8, "policy_kwargs": SMALL["policy_kwargs"]},
        steps=96,
    )
    dataset_class = Demonstrations

    def __init__(
        self,
        policy: Any,
        env: Any,
        *,
        learning_rate: float | Schedule = 1e-3,
        imitate_until: float = 1.0,
        **common: Any,
    ) -> None:
        super().__init__(
            policy, env, learning_rate=learning_rate, imitate_until=imitate_until, **common
        )

    def _setup_model(self) -> None:
        super()._setup_model()
        self.solved = -1.0  # share of held-out tasks when it was last looked at; -1: not yet

    def warm_start(self) -> list[float]:
        """None."""
        return []

    def begin(self) -> None:
        """Draw the demonstrations, where none were given.

        Raises:
            ValueError: learning shall end early, and there are no tasks to try.
        """
        if self.imitate_until < 1 and self.env is None:
            raise ValueError(
                f"imitate_until={self.imitate_until} needs held-out tasks: give the data an env"
            )
        super().begin()
        self.solved = -1.0

    def exhausted(self) -> bool:
        """Whether enough held-out tasks were solved."""
        return self.imitate_until < 1 and self.solved >= self.imitate_until

    def draw(self) -> Demonstrations:
        """Demonstrations of the environment."""
        wanted = DEMONSTRATIONS if self.demonstrations is None else self.demonstrations
        return Demonstrations.drawn(self.tasks, wanted, int(self.generator.integers(2**31)))

    def select(self, rows: Sequence[int]) -> TokenBatch:
        """The demonstrations at the given rows of the data."""
        prompts, replies = (
            [column[row] for row in rows] for column in (self.records.prompts, self.records.replies)
        )
        return self.policy.batch(prompts, replies)

    def loss(self, batch: TokenBatch) -> torch.Tensor:
        """Minus the mean log-likelihood of the tokens."""
        return sft_loss(self.policy.log_probs(batch), batch.mask)

    def track(self, batch: TokenBatch) -> None:
        """Look at held-out tasks when it is time."""
        if self.imitate_until < 1 and (self._n_updates + 1) % EVERY == 0:
            self.solved = self.accuracy(held_out(self.tasks))
            self.note(held_out=self.solved)

    def learning_state(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """As the base's, with what was last seen of held-out tasks."""
        values, tensors = super().learning_state()
        return values | {"solved": self.solved}, tensors

    def restore_learning_state(
        self, values: dict[str, Any], tensors: dict[str, torch.Tensor]
    ) -> None:
        """Inverse of `learning_state`."""
        super().restore_learning_state(values, tensors)
        self.solved = values["solved"]
