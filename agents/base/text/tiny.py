"""The embedded language model: a causal transformer small and lean enough for one CPU core."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional


@dataclass
class Cache:
    """Keys and values of all tokens so far, in memory that was reserved for the whole reply.

    Attributes:
        layers: per layer the keys and values, [n, 2, heads, places, width / heads].
        bias: float [n, 1, 1, places], -inf at left padding; None where there is none.
        padding: int [n], left padding of each row; None where there is none.
        length: places that are filled.
    """

    layers: list[torch.Tensor]
    bias: torch.Tensor | None
    padding: torch.Tensor | None
    length: int

    def select(self, rows: torch.Tensor) -> Cache:
        """The cache of the given rows, int [m]."""
        return Cache(
            [entry.index_select(0, rows) for entry in self.layers],
            None if self.bias is None else self.bias.index_select(0, rows),
            None if self.padding is None else self.padding.index_select(0, rows),
            self.length,
        )


class Block(nn.Module):
    """Pre-norm attention and a feed-forward net, without biases.

    Args:
        width: of a token, a multiple of `heads`.
        heads: attention heads.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before = nn.LayerNorm(width, bias=False)
        self.joint = nn.Linear(width, 3 * width, bias=False)
        self.joined = nn.Linear(width, width, bias=False)
        self.between = nn.LayerNorm(width, bias=False)
        self.hidden = nn.Linear(width, 4 * width, bias=False)
        self.back = nn.Linear(4 * width, width, bias=False)

    def project(self, x: torch.Tensor) -> torch.Tensor:
        """Queries, keys and values [n, 3, heads, w, d] of x [n, w, width]."""
        joint = functional.linear(normed(x, self.before), self.joint.weight)
        return joint.unflatten(-1, (3, self.heads, -1)).permute(0, 2, 3, 1, 4)

    def finish(self, x: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        """Tokens [n, w, width] after the layer, `seen` [n, heads, w, d] being what they saw."""
        shape = x.shape
        rows = seen.transpose(1, 2).reshape(-1, shape[-1])
        x = torch.addmm(x.view(rows.shape), rows, self.joined.weight.t())
        inner = functional.linear(normed(x, self.between), self.hidden.weight)
        inner = functional.relu(inner, inplace=True)
        return torch.addmm(x, inner, self.back.weight.t()).view(shape)


def normed(x: torch.Tensor, norm: nn.LayerNorm) -> torch.Tensor:
    """What the module makes of x. For rows as short as here, calling a module takes as long as its
    work: this and the layers above are called as functions."""
    return torch.layer_norm(x, norm.normalized_shape, norm.weight, None, norm.eps)


class TinyTransformer(nn.Module):
    """Causal transformer over characters with a preallocated key-value cache.

    Positions are learned and count from the first token that is not padding: on short formulas a
    model with learned positions reaches an accuracy in half the steps of one with a rotary code.

    Args:
        tokens: number of token ids that it reads.
        outputs: token ids that it may write: the first `outputs` of them.
        layers, width, heads: size; about 140 000 parameters by default.
        context: tokens of a prompt and its reply together, at most.

    Raises:
        ValueError: a size is not positive, or the width is no multiple of `heads`.
    """

    def __init__(
        self,
        tokens: int,
        outputs: int,
        layers: int = 2,
        width: int = 64,
        heads: int = 4,
        context: int = 512,
    ) -> None:
        super().__init__()
        if min(layers, width, heads, context) < 1 or width % heads:
            raise ValueError(
                "a transformer needs sizes of at least 1 and a width that is a multiple of heads, "
                f"got layers={layers}, width={width}, heads={heads}, context={context}"
            )
        self.heads, self.width, self.outputs, self.context = heads, width, outputs, context
        self.embedding = nn.Embedding(tokens, width)
        self.positions = nn.Parameter(torch.zeros(context, width))
        self.blocks: Any = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width, bias=False)
        self.head = nn.Linear(width, outputs, bias=False)
        for name, parameter in self.named_parameters():
            if name.endswith(".weight") and parameter.ndim == 2:
                # What is added to the residual stream is smaller, the more is added (GPT-2).
                deep = name.endswith(("joined.weight", "back.weight"))
                scale = (2 * layers) ** -0.5 if deep else 1.0
                nn.init.normal_(parameter, std=scale * width**-0.5)

    def check_length(self, length: int) -> None:
        """ValueError where that many tokens are more than the model can read."""
        if length > self.context:
            raise ValueError(
                f"prompt and reply may have {self.context} tokens together (context), got {length}"
            )

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Hidden states [n, w, width] of ids [n, w], each of all tokens up to its own.

        Raises:
            ValueError: w is more than `context`.
        """
        self.check_length(ids.shape[1])
        x = functional.embedding(ids, self.embedding.weight) + self.positions[: ids.shape[1]]
        for block in self.blocks:
            queries, keys, values = block.project(x).unbind(1)
            seen = functional.scaled_dot_product_attention(queries, keys, values, is_causal=True)
            x = block.finish(x, seen)
        return normed(x, self.norm)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits [..., outputs] of the token after each hidden state [..., width]."""
        return functional.linear(hidden, self.head.weight)

    def read(
        self, ids: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, list[torch.Tensor], torch.Tensor | None]:
        """Read prompts that are padded on the left.

        Args:
            ids, mask: [b, p], at least one token each.

        Returns:
            Hidden states [b, width] of the last tokens; keys and values [b, 2, heads, p, d] of each
            layer; the padding of each row, int [b], or None where there is none.
        """
        b, p = ids.shape
        x, allowed, padding = self.embedding(ids), None, None
        if mask.all():
            x = x + self.positions[:p]
        else:
            padding = p - mask.sum(dim=1)
            places = torch.arange(p, device=ids.device) - padding[:, None]
            x = x + self.positions[places.clamp(min=0)]
            # Padding looks at itself: a softmax over nothing would be NaN, and NaN * 0 is NaN.
            causal = torch.ones(p, p, dtype=torch.bool, device=ids.device).tril()
            itself = torch.eye(p, dtype=torch.bool, device=ids.device)
            allowed = (causal & mask[:, None, None]) | itself
        layers = []
        for block in self.blocks:
            queries, kept = block.project(x).split([1, 2], dim=1)
            layers.append(kept)
            keys, values = kept.unbind(1)
            seen = functional.scaled_dot_product_attention(
                queries[:, 0], keys, values, allowed, is_causal=allowed is None
            )
            x = block.finish(x, seen)
        return normed(x[:, -1], self.norm), layers, padding

    def continued(
        self, ids: torch.Tensor, mask: torch.Tensor, owner: torch.Tensor, tokens: torch.Tensor
    ) -> torch.Tensor:
        """Hidden states [n, 1 + w, width] of the last token of a prompt and of w tokens after it.

        Prompts are read once, however many replies they have; gradients flow into that reading.

        Args:
            ids, mask: [b, p] prompts, left-padded, at least one token each.
            owner: int [n], the prompt of each reply.
            tokens: [n, w], right-padded.

        Raises:
            ValueError: p + w is more than `context`.
        """
        w, p = tokens.shape[1], ids.shape[1]
        self.check_length(p + w)
        last, layers, padding = self.read(ids, mask)
        first = last.index_select(0, owner)[:, None]
        if w == 0:
            return first
        own = torch.ones(w, w, dtype=torch.bool, device=ids.device).tril()
        allowed = functional.pad(own, (p, 0), value=True)
        if padding is None:
            places = self.positions[p : p + w]
        else:
            start = (p - padding).index_select(0, owner)[:, None]
            places = self.positions[start + torch.arange(w, device=ids.device)]
            seen_of = mask.index_select(0, owner)[:, None, None]
            allowed = allowed & functional.pad(seen_of, (0, w), value=True)
        x = self.embedding(tokens) + places
        for block, before in zip(self.blocks, layers, strict=True):
            queries, own_kept = block.project(x).split([1, 2], dim=1)
            joint = torch.cat([before.index_select(0, owner), own_kept], dim=3)
            keys, values = joint.unbind(1)
            seen = functional.scaled_dot_product_attention(queries[:, 0], keys, values, allowed)
            x = block.finish(x, seen)
        return torch.cat([first, normed(x, self.norm)], dim=1)

    def start(
        self, ids: torch.Tensor, mask: torch.Tensor, repeats: int, budget: int
    ) -> tuple[torch.Tensor, Cache]:
        """Read prompts, each once, and reserve a cache for several replies to each.

        Args:
            ids, mask: [b, p], left-padded, at least one token each.
            repeats: replies per prompt; the rows of one prompt are neighbours.
            budget: tokens of a reply, at most.

        Returns:
            Hidden states [b * repeats, width] of the last tokens, and the cache.

        Raises:
            ValueError: the longest prompt and a reply of `budget` are more than `context`.
        """
        b, p = ids.shape
        self.check_length(p + budget)
        last, layers, padding = self.read(ids, mask)
        reserved = []
        for entry in layers:
            place = entry.new_empty(b * repeats, 2, self.heads, p + budget, entry.shape[4])
            place.unflatten(0, (b, repeats))[..., :p, :] = entry[:, None]
            reserved.append(place)
        bias = None
        if padding is not None:
            bias = last.new_zeros(b, 1, 1, p + budget)
            bias[..., :p].masked_fill_(~mask[:, None, None], -torch.inf)
            bias = bias.repeat_interleave(repeats, dim=0)
            padding = padding.repeat_interleave(repeats)
        return last.repeat_interleave(repeats, dim=0), Cache(reserved, bias, padding, p)

    def step(self, ids: torch.Tensor, cache: Cache) -> torch.Tensor:
        """Hidden states [n, width] of the next tokens ids [n]; the cache grows by them."""
        at = cache.length
        cache.length = end = at + 1
        place = self.positions[at if cache.padding is None else at - cache.padding]
        x = (self.embedding(ids) + place)[:, None]
        bias = None if cache.bias is None else cache.bias[..., :end]
        for block, kept in zip(self.blocks, cache.layers, strict=True):
            parts = block.project(x)
            kept[..., at:end, :] = parts[:, 1:]
            keys, values = kept[..., :end, :].unbind(1)
            seen = functional.scaled_dot_product_attention(parts[:, 0], keys, values, bias)
            x = block.finish(x, seen)
        return normed(x[:, 0], self.norm)
