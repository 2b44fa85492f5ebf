"""Self-attention over a set of nodes, with residuals that start at zero (ReZero), and an embedding
of matrices."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

STRIDE = 10.0


class ReZeroLayer(nn.Module):
    """Self-attention and a feed-forward net, each added with a learned weight that starts at 0.

    T. Bachlechner et al.: ReZero is All You Need (UAI 2021). Scores of the attention are plain
    inner products, not divided by sqrt(dim / heads); only queries have a bias, the one of the two
    factors for which it is not lost in the softmax.

    The weight is `STRIDE` times the parameter `alpha`: an optimizer such as Adam, whose steps are
    of one size for all parameters, would take a thousand of them to bring it near 1.

    Args:
        dim: width of a node, a multiple of `heads`.
        heads: attention heads.
        feedforward: width of the hidden layer.
    """

    def __init__(self, dim: int, heads: int, feedforward: int) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim={dim} must be a multiple of heads={heads}")
        self.heads = heads
        self.queries = nn.Linear(dim, dim)
        self.keys_and_values = nn.Linear(dim, 2 * dim, bias=False)
        self.joined = nn.Linear(dim, dim)
        self.hidden, self.back = nn.Linear(dim, feedforward), nn.Linear(feedforward, dim)
        self.alpha = nn.Parameter(torch.zeros(2))

    def forward(self, nodes: torch.Tensor, present: torch.Tensor | None = None) -> torch.Tensor:
        """Nodes [b, k, dim]; `present` bool [b, k] says which rows are there, None: all."""
        split = (self.heads, -1)
        query = self.queries(nodes).unflatten(2, split).transpose(1, 2)
        key, value = (
            part.unflatten(2, split).transpose(1, 2)
            for part in self.keys_and_values(nodes).chunk(2, dim=2)
        )
        mask = None if present is None else present[:, None, None, :]
        seen = functional.scaled_dot_product_attention(query, key, value, mask, scale=1.0)
        weights = STRIDE * self.alpha
        nodes = nodes + weights[0] * self.joined(seen.transpose(1, 2).flatten(2))
        return nodes + weights[1] * self.back(functional.relu(self.hidden(nodes)))


class ReZeroAttention(nn.Module):
    """`layers` times `ReZeroLayer`. There is no positional code: rows are a set.

    Args:
        dim, heads, feedforward: of `ReZeroLayer`.
        layers: number of layers.
    """

    def __init__(self, dim: int, layers: int, heads: int, feedforward: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(ReZeroLayer(dim, heads, feedforward) for _ in range(layers))

    def forward(self, nodes: torch.Tensor, present: torch.Tensor | None = None) -> torch.Tensor:
        """Nodes [b, k, dim]; `present` bool [b, k] says which rows are there, None: all."""
        for layer in self.layers:
            nodes = layer(nodes, present)
        return nodes


class NearLayer(nn.Module):
    """Self-attention and a feed-forward net, each behind a LayerNorm, with a bias by distance.

    Args:
        dim, heads, feedforward: as in `ReZeroLayer`.
    """

    def __init__(self, dim: int, heads: int, feedforward: int) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim={dim} must be a multiple of heads={heads}")
        self.heads = heads
        self.before, self.between = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.joint, self.joined = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.hidden, self.back = nn.Linear(dim, feedforward), nn.Linear(feedforward, dim)

    def forward(self, nodes: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """Nodes [b, k, dim]; `bias` [b, heads, k, k] is added to the scores of the attention."""
        query, key, value = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part in self.joint(self.before(nodes)).chunk(3, dim=2)
        )
        seen = functional.scaled_dot_product_attention(query, key, value, bias)
        nodes = nodes + self.joined(seen.transpose(1, 2).flatten(2))
        return nodes + self.back(functional.relu(self.hidden(self.between(nodes))))


class NearAttention(nn.Module):
    """`layers` times `NearLayer`: heads differ in how much less they look at what is far.

    The score of a pair at distance d has the bias -slope log(d + 0.3), with slopes 0 and 4, 2, 1,
    ... (O. Press et al., arXiv 2108.12409, have such slopes over positions in a text). Far nodes
    lose weight like a power of their distance.

    Args:
        dim, heads, feedforward: of `NearLayer`.
        layers: number of layers.
    """

    slopes: torch.Tensor

    def __init__(self, dim: int, layers: int, heads: int, feedforward: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(NearLayer(dim, heads, feedforward) for _ in range(layers))
        self.last = nn.LayerNorm(dim)
        slopes = [0.0] + [4.0 / 2**i for i in reversed(range(heads - 1))]
        self.register_buffer("slopes", torch.tensor(slopes), persistent=False)

    def forward(
        self, nodes: torch.Tensor, distances: torch.Tensor, present: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Nodes [b, k, dim].

        Args:
            nodes: [b, k, dim].
            distances: [b, k, k] between them.
            present: bool [b, k] says which rows are there, None: all.
        """
        bias = -self.slopes[:, None, None] * (distances + 0.3).log()[:, None]
        if present is not None:
            bias = bias.masked_fill(~present[:, None, None], -torch.inf)
        for layer in self.layers:
            nodes = layer(nodes, bias)
        found: torch.Tensor = self.last(nodes)
        return found


class EdgeEmbedding(nn.Module):
    """Nodes of a weighted digraph from its matrix: one gated layer of messages along the edges.

    A node starts as its features x_i and an identifier r_i, by which others can tell it from the
    rest. With e_ij = (D_ij, D_ji),

        h_i = A [x_i, r_i]
        h_i <- h_i + B sum_j softmax_j(G e_ij) * relu(C e_ij + M [x_j, r_j]),

    where the softmax is per channel, so that channels may learn to look at near or far nodes.

    Args:
        features: features of a node.
        identifiers: width of an identifier.
        dim: width of the result.
    """

    def __init__(self, features: int, identifiers: int, dim: int) -> None:
        super().__init__()
        self.identifiers = identifiers
        self.own = nn.Linear(features + identifiers, dim)
        self.sent = nn.Linear(features + identifiers, dim)
        self.edge, self.gate = nn.Linear(2, dim, bias=False), nn.Linear(2, dim, bias=False)
        self.received = nn.Linear(dim, dim)

    def forward(
        self,
        matrix: torch.Tensor,
        features: torch.Tensor,
        identifiers: torch.Tensor,
        present: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Embeddings [b, k, dim].

        Args:
            matrix: D [b, k, k].
            features, identifiers: [b, k, ...].
            present: bool [b, k], rows that are there; None: all.
        """
        nodes = torch.cat([features, identifiers], dim=2)
        edges = torch.stack([matrix, matrix.transpose(1, 2)], dim=3)
        gates = self.gate(edges)
        if present is not None:
            gates = gates.masked_fill(~present[:, None, :, None], -torch.inf)
        messages = functional.relu(self.edge(edges) + self.sent(nodes)[:, None])
        total = (torch.softmax(gates, dim=2) * messages).sum(dim=2)
        embedded: torch.Tensor = self.own(nodes) + self.received(total)
        return embedded
