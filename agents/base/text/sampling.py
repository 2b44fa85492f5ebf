"""Sampling of replies, token by token, with what a learner needs of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch

from .tokenizer import Tokenizer


class LanguageModel(Protocol):
    """What `TinyTransformer` and `HuggingFaceModel` have in common.

    Attributes:
        width: of a hidden state.
        outputs: tokens that it may write.
    """

    width: int
    outputs: int

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        """Hidden states [n, w, width] of ids [n, w]."""

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits [..., outputs] of the next token."""

    def start(
        self, ids: torch.Tensor, mask: torch.Tensor, repeats: int, budget: int
    ) -> tuple[torch.Tensor, Any]:
        """Hidden states [b * repeats, width] of the last tokens of left-padded prompts, cache."""

    def step(self, ids: torch.Tensor, cache: Any) -> torch.Tensor:
        """Read one more token per row: hidden states [n, width]."""


class Sampled(NamedTuple):
    """Replies as tokens.

    Attributes:
        tokens: int [n, t], padded on the right.
        mask: bool [n, t], what is not padding; the end token counts.
        log_probs: float [n, t] of the tokens, 0 at padding.
        ended: bool [n], whether an end token or a stop string came before the budget ran out.
    """

    tokens: torch.Tensor
    mask: torch.Tensor
    log_probs: torch.Tensor
    ended: torch.Tensor


def at_least_single(logits: torch.Tensor) -> torch.Tensor:
    """Logits of a model in half precision in float32: sums over a vocabulary need it."""
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


def nucleus(probs: torch.Tensor, top_p: float) -> torch.Tensor:
    """Probabilities [n, v] outside the nucleus set to 0; what is left is not renormalised.

    The nucleus is the smallest set of most likely tokens whose probabilities sum to at least
    `top_p`; of equally likely ones the first. A. Holtzman et al.: The Curious Case of Neural Text
    Degeneration (ICLR 2020). (.5, .3, .15, .05) at 0.8 becomes (.5, .3, 0, 0).
    """
    ordered, index = probs.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(dim=-1) - ordered
    # 0.5 + 0.3 in float32 may fall short of 0.8: what is missing by rounding alone is not missing.
    kept = torch.where(before < top_p - 1e-6, ordered, 0.0)
    return torch.zeros_like(probs).scatter_(-1, index, kept)


def draw(weights: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Indices [n] drawn in proportion to weights [n, v] (not all 0), by uniforms [n] in [0, 1)."""
    sums = weights.cumsum(dim=-1)
    # A uniform is at most 1 - 2^-24, so no rounding carries its share of the total to the total.
    return torch.searchsorted(sums, uniforms[:, None] * sums[:, -1:], right=True)[:, 0]


def sample(
    model: LanguageModel,
    tokenizer: Tokenizer,
    ids: torch.Tensor,
    mask: torch.Tensor,
    *,
    repeats: int,
    budgets: torch.Tensor,
    temperature: float,
    top_p: float,
    stops: Sequence[str],
    generator: torch.Generator,
) -> Sampled:
    """Replies to prompts, `repeats` to each; replies to one prompt are neighbours.

    All uniforms are drawn at once, one for each token that any reply may have. So a reply does not
    depend on when the others end; rows that have ended leave the batch when they are its half.

    Args:
        model, tokenizer: of the policy.
        ids, mask: [b, p] prompts, left-padded.
        repeats: n / b.
        budgets: int [n], at least 1: the most tokens of each reply.
        temperature: of the logits; 0 takes the most likely token.
        top_p: of `nucleus`, in (0, 1].
        stops: strings that end a reply.
        generator: on the device of `ids`.

    Returns:
        The log-probabilities are those of the model at this temperature (at 1 for temperature 0),
        whatever `top_p`, so that a loss that knows nothing of `top_p` starts with ratios of 1.
    """
    rows, budget = len(ids) * repeats, int(budgets.max())
    tokens = ids.new_full((rows, budget), tokenizer.pad)
    log_probs = torch.zeros(rows, budget, device=ids.device)
    lengths = budgets.clone()
    ended = torch.zeros(rows, dtype=torch.bool, device=ids.device)
    uniforms = torch.rand(budget, rows, generator=generator, device=ids.device)
    ends = ids.new_tensor(tokenizer.ends)
    varied = bool((budgets < budget).any())
    active: torch.Tensor | None = None  # rows of the result that the batch holds; None: all
    going = torch.ones(rows, dtype=torch.bool, device=ids.device)  # of the batch
    hidden, cache = model.start(ids, mask, repeats, budget)
    for t in range(budget):
        logits = at_least_single(model.logits(hidden))
        if temperature > 0:
            logits = logits if temperature == 1 else logits / temperature
            scores = logits.log_softmax(dim=-1)
            probs = scores.exp()
            if top_p < 1:
                probs = nucleus(probs, top_p)
            chosen = draw(probs, uniforms[t] if active is None else uniforms[t][active])
        else:
            scores = logits.log_softmax(dim=-1)
            chosen = logits.argmax(dim=-1)
        # Rows that have ended but are still in the batch write on; it is cut off below.
        place = slice(None) if active is None else active
        tokens[place, t] = chosen
        log_probs[place, t] = scores.gather(1, chosen[:, None])[:, 0]
        stopping = chosen == ends[0] if len(ends) == 1 else torch.isin(chosen, ends)
        if stops:
            stopping |= tokenizer.holds(tokens[place, : t + 1], stops)
        stopping &= going
        fewer = bool(stopping.any())
        if fewer:
            stopped = stopping.nonzero()[:, 0] if active is None else active[stopping]
            ended[stopped], lengths[stopped] = True, t + 1
            going = going & ~stopping
        if varied:
            going, fewer = going & (budgets[place] > t + 1), True
        if t + 1 == budget:
            break
        if fewer:
            left = int(going.sum())
            if left == 0:
                break
            if 2 * left <= len(going):
                kept = going.nonzero()[:, 0]
                active = kept if active is None else active[kept]
                chosen, cache, going = chosen[kept], cache.select(kept), going[kept]
        hidden = model.step(chosen, cache)
    width = int(lengths.max())
    valid = torch.arange(width, device=ids.device) < lengths[:, None]
    return Sampled(
        tokens[:, :width].masked_fill(~valid, tokenizer.pad),
        valid,
        log_probs[:, :width].masked_fill(~valid, 0.0),
        ended,
    )
