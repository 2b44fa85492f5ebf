"""Supervised fine-tuning of a policy on prompts with replies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from .token_batch import TokenBatch, permutation

if TYPE_CHECKING:
    from .policy import TextPolicy


def sft_loss(log_probs: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """-sum(mask * log_probs) / sum(mask): the mean over the tokens of all replies, a scalar.

    Args:
        log_probs: float [n, t].
        mask: bool [n, t], tokens of the replies, end tokens included, prompts not.
    """
    return -(log_probs * mask).sum() / mask.sum()


def warm_start(
    policy: TextPolicy,
    pairs: Sequence[tuple[str, str]],
    steps: int,
    *,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.0,
    max_grad_norm: float = 1.0,
    seed: int = 0,
    until: Callable[[int], bool] | None = None,
    every: int = 50,
) -> list[float]:
    """Fine-tune on pairs (prompt, reply) with AdamW; the loss of each step is returned.

    Every pass over the pairs is in a new order. A pass ends with the last whole batch.

    Args:
        policy: trained in place.
        pairs: replies end with the policy's stop, if it has one, where they are complete.
        steps: gradient steps, at most.
        batch_size: pairs of a step; all pairs where there are fewer.
        learning_rate, weight_decay, max_grad_norm: of the optimizer and its gradient clipping.
        seed: of the order.
        until: called with the number of steps done, every `every` steps; True ends the training.
        every: see `until`.

    Raises:
        ValueError: there are no pairs, or a text cannot be encoded, or a number is not positive.
    """
    if not pairs:
        raise ValueError("a warm start needs at least one pair (prompt, reply)")
    if batch_size < 1 or every < 1 or steps < 0:
        raise ValueError(
            "a warm start needs batch_size >= 1, every >= 1 and steps >= 0, got "
            f"batch_size={batch_size}, every={every}, steps={steps}"
        )
    data: TokenBatch = policy.batch([pair[0] for pair in pairs], [pair[1] for pair in pairs])
    optimizer = policy.make_optimizer(learning_rate, weight_decay)
    parameters = optimizer.param_groups[0]["params"]
    generator = torch.Generator().manual_seed(seed)
    size = min(batch_size, len(pairs))
    rows: list[torch.Tensor] = []
    losses: list[torch.Tensor] = []
    policy.set_training_mode(True)
    for step in range(1, steps + 1):
        if not rows:
            order = permutation(len(pairs), generator).to(policy.device)
            rows = list(order[: len(order) // size * size].split(size))
        part = data.select(rows.pop())
        loss = sft_loss(policy.log_probs(part), part.mask)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, max_grad_norm)
        optimizer.step()
        losses.append(loss.detach())
        if until is not None and step % every == 0:
            found = until(step)
            policy.set_training_mode(True)
            if found:
                break
    policy.set_training_mode(False)
    return torch.stack(losses).tolist() if losses else []
