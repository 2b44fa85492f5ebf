"""Log-probabilities, entropies and hidden states of given tokens, without the logits of all of
them at once."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from .sampling import LanguageModel, at_least_single
from .tiny import TinyTransformer
from .token_batch import TokenBatch, reach


class Scores(NamedTuple):
    """What a policy says of the tokens of a batch, [N, T] each, 0 where `mask` is False.

    Attributes:
        log_probs: of the tokens.
        entropies: of the distributions that they are drawn from, in nats; None if not asked for.
        values: of the states before the tokens; None if not asked for.
    """

    log_probs: torch.Tensor
    entropies: torch.Tensor | None
    values: torch.Tensor | None


def aligned(
    prompts: torch.Tensor, prompt_mask: torch.Tensor, tokens: torch.Tensor, width: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts [n, p], left-padded, and replies [n, t] as rows without a gap, padded on the right.

    In a causal model nothing looks to the right, so these rows need no mask at all.

    Returns:
        Ids [n, at most p + width] and lengths of the prompts [n]. Of the replies, the first `width`
        columns are there.
    """
    p = prompts.shape[1]
    joint = torch.cat([prompts, tokens[:, :width]], dim=1)
    lengths = prompt_mask.sum(dim=1)
    shortest, longest = (int(length) for length in torch.aminmax(lengths))
    if shortest == longest:
        return joint[:, p - longest :], lengths
    places = torch.arange(longest + width, device=joint.device) + (p - lengths)[:, None]
    # Beyond a row's end the last column is repeated, which nobody looks at.
    return joint.gather(1, places.clamp(max=joint.shape[1] - 1)), lengths


def states(model: LanguageModel, batch: TokenBatch, last: bool = False) -> torch.Tensor:
    """Hidden states [m, width] from which the m tokens under the mask are predicted, row by row.

    The embedded model reads a prompt once where prompts have two replies or more on average.

    Args:
        model: causal.
        batch: N replies.
        last: instead the states [N, width] at the last token of each row that is under the mask.
    """
    wide = reach(batch.mask)
    if last:
        row = torch.arange(len(batch), device=batch.mask.device)
        column = wide - batch.mask[:, :wide].flip(1).int().argmax(dim=1)
    else:
        row, column = batch.mask[:, :wide].nonzero(as_tuple=True)
    width = wide if last else wide - 1  # what the last token says of the next is not asked
    if isinstance(model, TinyTransformer):
        given = torch.where(batch.prompt_mask, batch.prompts, -1)
        own, owner = distinct(given)
        if 2 * len(own) <= len(batch):
            mask = own >= 0
            hidden = model.continued(own.clamp(min=0), mask, owner, batch.tokens[:, :width])
            hidden = hidden.flatten(0, 1)
            if len(row) == len(hidden):  # replies of one length, and all of their tokens
                return hidden
            return hidden.index_select(0, row * (1 + width) + column)
    ids, lengths = aligned(batch.prompts, batch.prompt_mask, batch.tokens, width)
    index = row * ids.shape[1] + lengths[row] - 1 + column
    return model(ids).flatten(0, 1).index_select(0, index)


def distinct(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The different ones of rows int [n, w], in the order in which they come, and which of them
    each row is, int [n]; `torch.unique` would sort."""
    number: dict[bytes, int] = {}
    places = [number.setdefault(row.tobytes(), len(number)) for row in rows.cpu().numpy()]
    owner = torch.tensor(places, device=rows.device)
    own = rows.new_empty(len(number), rows.shape[1])
    own[owner] = rows
    return own, owner


def token_scores(
    model: LanguageModel,
    hidden: torch.Tensor,
    targets: torch.Tensor,
    *,
    temperature: float,
    entropy: bool,
    most_logits: int,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Log-probabilities [m] of targets [m] and entropies [m], from hidden states [m, width].

    Where m times the vocabulary is more than `most_logits`, it is done in chunks whose logits are
    forgotten and computed again in the backward pass.
    """

    def score(part: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, ...]:
        logits = at_least_single(model.logits(part))
        if temperature != 1:
            logits = logits / temperature
        if not entropy:
            return (-functional.cross_entropy(logits, target, reduction="none"),)
        log_probs = logits.log_softmax(dim=-1)
        chosen = log_probs.gather(1, target[:, None])[:, 0]
        return chosen, -(log_probs.exp() * log_probs).sum(dim=-1)

    if len(hidden) * model.outputs <= most_logits:
        found = score(hidden, targets)
    else:
        rows = max(1, most_logits // model.outputs)
        chunks = [
            checkpoint(score, part, target, use_reentrant=False, preserve_rng_state=False)
            for part, target in zip(hidden.split(rows), targets.split(rows), strict=True)
        ]
        found = tuple(torch.cat(parts) for parts in zip(*chunks, strict=True))
    return found[0], found[1] if entropy else None


def spread(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Values [m] put where mask [n, t] is True, 0 elsewhere: [n, t]."""
    if len(values) == mask.numel():  # a mask without gaps
        return values.view(mask.shape)
    return values.new_zeros(mask.shape).masked_scatter(mask, values)
