"""Sparse mixtures of experts: feed-forward networks of which every token uses a few.

With the scores z = gate(x) of E experts, K the k largest of them and w = softmax(z_K),

    y = sum over e in K of w_e f_e(x)  (+ shared(x)).

With k = 1 the weight is 1 whatever the scores are: no gradient reaches the gate, and a token goes
on to where the gate's first weights sent it.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.nn import functional


def check_top(k: int, experts: int) -> int:
    """k.

    Raises:
        ValueError: k is not in 1 .. experts.
    """
    if not 1 <= k <= experts:
        raise ValueError(f"k={k} of {experts} experts, allowed are 1 .. {experts}")
    return k


def route(scores: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k experts of the highest scores, and the softmax over their scores alone.

    Args:
        scores: [n, E].
        k: in 1 .. E.

    Returns:
        Numbers of the experts, int64 [n, k], and their weights [n, k], which sum to 1.

    Raises:
        ValueError: k is not in 1 .. E.
    """
    best = scores.topk(check_top(k, scores.shape[-1]), dim=-1)
    return best.indices, best.values.softmax(dim=-1)


class SwiGLU(nn.Module):
    """f(x) = W2 (silu(W1 x) * W3 x), without biases.

    N. Shazeer: GLU Variants Improve Transformer (2020, arXiv 2002.05202).

    Args:
        dim: width of input and output.
        hidden: width between.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.gate, self.up = (nn.Linear(dim, hidden, bias=False) for _ in range(2))
        self.down = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., dim] -> [..., dim]."""
        found: torch.Tensor = self.down(functional.silu(self.gate(x)) * self.up(x))
        return found


class Mixture(nn.Module):
    """A mixture of experts of which every token uses the k that its gate scores highest.

    An expert that no token chooses is not computed.

    Args:
        gate: [..., inputs] -> scores [..., E].
        experts: E networks [..., inputs] -> [..., outputs].
        k: how many experts a token uses.
        shared: network that is added for every token; None: none.

    Raises:
        ValueError: k is not in 1 .. E.
    """

    def __init__(
        self,
        gate: nn.Module,
        experts: Iterable[nn.Module],
        k: int = 1,
        shared: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.gate, self.experts, self.shared = gate, nn.ModuleList(experts), shared
        self.k = check_top(k, len(self.experts))

    def forward(self, x: torch.Tensor, told: torch.Tensor | None = None) -> torch.Tensor:
        """Outputs [..., outputs] for tokens x [..., inputs].

        Args:
            x: tokens.
            told: what the gate reads in place of the token, [..., any]; None: the token.
        """
        tokens = x.flatten(0, -2)
        seen = tokens if told is None else told.flatten(0, -2)
        chosen, weights = route(self.gate(seen), self.k)
        found: torch.Tensor | None = None
        for number, expert in enumerate(self.experts):
            place, rank = (chosen == number).nonzero(as_tuple=True)
            if not len(place):
                continue
            part = weights[place, rank, None] * expert(tokens[place])
            if found is None:
                found = part.new_zeros(len(tokens), part.shape[-1])
            found = found.index_add(0, place, part)
        if found is None:  # no token at all: any expert knows the width
            found = self.experts[0](tokens)
        if self.shared is not None:
            found = found + self.shared(tokens)
        return found.unflatten(0, x.shape[:-1])
