"""The embedded language model: a causal transformer small and lean enough for one CPU core."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from .prompted_attention import Layout, prompted_attention
from .tiny_cache import FEW, Cache, ColumnCache
from .tiny_layer import Block, Weights, normed


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
        self.blocks: Any = nn.ModuleList(Block(width) for _ in range(layers))
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

    def weights(self) -> list[Weights]:
        """The parameters of the layers."""
        return [block.weights() for block in self.blocks]

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Hidden states [n, w, width] of ids [n, w], each of all tokens up to its own.

        Raises:
            ValueError: w is more than `context`.
        """
        n, w = ids.shape
        self.check_length(w)
        layout = alone(n, bias_of(causal(w, w, ids.device)))
        x = functional.embedding(ids, self.embedding.weight) + self.positions[:w]
        x, _ = self.through(x.flatten(0, 1), layout)
        return normed(x, self.norm.weight).view(n, w, -1)

    def through(self, x: torch.Tensor, layout: Layout) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Tokens [m, width] after all layers, and their queries, keys and values [m, 3 width] in
        each."""
        joints = []
        for weights in self.weights():
            joints.append(weights.project(x))
            x = weights.finish(x, prompted_attention(joints[-1], self.heads, layout))
        return x, joints

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits [..., outputs] of the token after each hidden state [..., width]."""
        return functional.linear(hidden, self.head.weight)

    def opened(
        self, ids: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Prompts that are padded on the left, as the layers read them.

        Args:
            ids, mask: [b, p], at least one token each.

        Returns:
            Tokens [b, p, width]; what is added to scores, broadcastable to [b, heads, p, p]; the
            padding of each row, int [b], or None where there is none.
        """
        p = ids.shape[1]
        x, allowed = functional.embedding(ids, self.embedding.weight), causal(p, p, ids.device)
        if mask.all():
            return x + self.positions[:p], bias_of(allowed), None
        padding = p - mask.sum(dim=1)
        places = torch.arange(p, device=ids.device) - padding[:, None]
        # Padding looks at itself: a softmax over nothing would be NaN, and NaN * 0 is NaN.
        itself = torch.eye(p, dtype=torch.bool, device=ids.device)
        allowed = (allowed & mask[:, None, None]) | itself
        return x + self.positions[places.clamp(min=0)], bias_of(allowed), padding

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
        (b, p), (n, w) = ids.shape, tokens.shape
        self.check_length(p + w)
        prompts, prompt_bias, padding = self.opened(ids, mask)
        allowed = causal(w, p + w, ids.device)
        if padding is None:
            places = self.positions[p : p + w]
        else:
            start = (p - padding).index_select(0, owner)[:, None]
            places = self.positions[start + torch.arange(w, device=ids.device)]
            seen_of = mask.index_select(0, owner)[:, None, None]
            allowed = allowed & functional.pad(seen_of, (0, w), value=True)
        replies = functional.embedding(tokens, self.embedding.weight) + places
        regular = torch.arange(n, device=ids.device) * b // n
        even = n % b == 0 and torch.equal(owner, regular)
        layout = Layout(b, p, n, w, None if even else owner, prompt_bias, bias_of(allowed))
        x, _ = self.through(torch.cat([prompts.flatten(0, 1), replies.flatten(0, 1)]), layout)
        last, rest = x.split([b * p, n * w])
        first = last.view(b, p, -1)[:, -1].index_select(0, owner)[:, None]
        return normed(torch.cat([first, rest.view(n, w, -1)], dim=1), self.norm.weight)

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
        x, prompt_bias, padding = self.opened(ids, mask)
        x, joints = self.through(x.flatten(0, 1), alone(b, prompt_bias))
        form = ColumnCache if p + budget <= FEW else Cache
        layers = [form.reserve(joint, b, self.heads, repeats, budget) for joint in joints]
        bias = None
        if padding is not None:
            bias = x.new_zeros(b, p + budget)
            bias[:, :p].masked_fill_(~mask, -torch.inf)
            bias = bias.repeat_interleave(repeats, dim=0)
            padding = padding.repeat_interleave(repeats)
        weights = [each.for_steps(self.heads) for each in self.weights()]
        cache = form(weights, layers, bias, padding, p)
        last = normed(x.view(b, p, -1)[:, -1], self.norm.weight)
        return last.repeat_interleave(repeats, dim=0), cache

    def step(self, ids: torch.Tensor, cache: Cache) -> torch.Tensor:
        """Hidden states [n, width] of the next tokens ids [n]; the cache grows by them."""
        at = cache.length
        place = self.positions[at if cache.padding is None else at - cache.padding]
        x = functional.embedding(ids, self.embedding.weight) + place
        for layer, weights in enumerate(cache.weights):
            x = weights.finish(x, cache.see(layer, x))
        cache.length = at + 1
        return normed(x, self.norm.weight)


def causal(w: int, k: int, device: torch.device) -> torch.Tensor:
    """Which of k tokens the last w of them may look at, bool [w, k]."""
    return torch.ones(w, k, dtype=torch.bool, device=device).tril(k - w)


def bias_of(allowed: torch.Tensor) -> torch.Tensor:
    """What is added to scores: -inf where it is not allowed to look."""
    return torch.zeros(allowed.shape, device=allowed.device).masked_fill_(~allowed, -torch.inf)


def alone(texts: int, bias: torch.Tensor) -> Layout:
    """Texts of one length to which nobody replies; `bias` as in `Layout`."""
    return Layout(texts, bias.shape[-1], 0, 0, None, bias, bias)
