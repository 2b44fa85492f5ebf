"""Attention over a two-level tree: hosts (physical machines) and what runs on them (virtual ones).

A block lets every token look, in this order, at its own host's group (tree attention), hosts at
hosts, guests at guests, and guests at hosts. Two further tokens belong to no group: a step token
among the hosts (the share of the episode that is over) and a critic token among the guests (the
constant -1), from which a value can be read. Nothing depends on the numbers of hosts and guests or
on their order, so one network serves clusters of any size.

Source: X. Ding et al., arXiv 2505.17359, with residual connections around layer normalization first
and no dropout.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

from .mlp import mlp


class Encoded(NamedTuple):
    """What `TreeEncoder` makes of a batch.

    Attributes:
        hosts: embeddings [n, P, width].
        guests: embeddings [n, V, width].
        critic: embedding of the critic token, [n, width].
        weights: attention of each guest on each host in the last block, mean over the heads,
            [n, V, P]; what is missing to 1 went to the step token.
    """

    hosts: torch.Tensor
    guests: torch.Tensor
    critic: torch.Tensor
    weights: torch.Tensor


def tree_mask(owner: torch.Tensor, hosts: int) -> torch.Tensor:
    """Which token may look at which: those of the same group.

    The order of the tokens is step, hosts, guests, critic. A group is a host with its guests; the
    step token, the critic token and guests without a host (padding) are alone.

    Args:
        owner: host of each guest, int [n, V]; -1 for padding.
        hosts: their number P.

    Returns:
        bool [n, P + V + 2, P + V + 2].
    """
    rows, guests = owner.shape
    alone = torch.arange(guests, device=owner.device) + hosts
    fixed = torch.arange(-1, hosts, device=owner.device).expand(rows, -1)
    last = torch.full((rows, 1), hosts + guests, device=owner.device)
    group = torch.cat([fixed, torch.where(owner < 0, alone, owner), last], dim=1)
    return group[:, :, None] == group[:, None, :]


def bias(allowed: torch.Tensor) -> torch.Tensor:
    """0 where attention is allowed and -inf elsewhere, with an axis for the heads: [n, 1, Q, K]."""
    zero = torch.zeros((), device=allowed.device)
    return zero.masked_fill(~allowed, -torch.inf)[:, None]


class Attention(nn.Module):
    """Multi-head scaled dot-product attention.

    Args:
        width: of queries, keys and outputs; a multiple of `heads`.
        heads: number of heads.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width={width} is not a multiple of heads={heads}")
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, width)

    def split(self, tokens: torch.Tensor) -> torch.Tensor:
        """[n, T, width] -> [n, heads, T, width / heads]."""
        return tokens.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(
        self, queries: torch.Tensor, keys: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """What each query finds, [n, Q, width].

        Args:
            queries: [n, Q, width].
            keys: [n, K, width].
            mask: added to the scores, [n, 1, Q or 1, K] (see `bias`); None: everything is allowed.
        """
        key, value = (self.split(part) for part in self.key_value(keys).chunk(2, dim=-1))
        query = self.split(self.query(queries))
        found = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        output: torch.Tensor = self.output(found.transpose(1, 2).flatten(2))
        return output

    def with_weights(
        self, queries: torch.Tensor, keys: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As `forward` without a mask; also the mean weight over the heads, [n, Q, K]."""
        key, value = (self.split(part) for part in self.key_value(keys).chunk(2, dim=-1))
        query = self.split(self.query(queries)) * key.shape[-1] ** -0.5
        weights = (query @ key.transpose(-1, -2)).softmax(-1)
        return self.output((weights @ value).transpose(1, 2).flatten(2)), weights.mean(1)


class TreeBlock(nn.Module):
    """One block: tree attention, hosts to hosts, guests to guests, guests to hosts, feed-forward.

    Args:
        width, heads: of every attention.
        feedforward: hidden width of the feed-forward networks, one for hosts and one for guests.
        sparse: whether there is tree attention.
    """

    def __init__(self, width: int, heads: int, feedforward: int, sparse: bool) -> None:
        super().__init__()
        self.tree = Attention(width, heads) if sparse else None
        self.between_hosts = Attention(width, heads)
        self.between_guests = Attention(width, heads)
        self.to_hosts = Attention(width, heads)
        self.host_network = mlp(width, (feedforward,), width, nn.GELU)
        self.guest_network = mlp(width, (feedforward,), width, nn.GELU)
        self.host_norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(4))
        self.guest_norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(4))

    def forward(
        self,
        hosts: torch.Tensor,
        guests: torch.Tensor,
        tree: torch.Tensor | None,
        present: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Hosts, guests, and the attention of guests on hosts.

        Args:
            hosts: [n, P + 1, width], the step token first.
            guests: [n, V + 1, width], the critic token last.
            tree: `bias` of `tree_mask`; None where the block is not sparse.
            present: `bias` of the guests that are no padding, [n, 1, 1, V + 1].
        """
        if self.tree is not None:
            both = torch.cat([self.host_norms[0](hosts), self.guest_norms[0](guests)], dim=1)
            found = self.tree(both, both, tree)
            hosts = hosts + found[:, : hosts.shape[1]]
            guests = guests + found[:, hosts.shape[1] :]
        looking = self.host_norms[1](hosts)
        hosts = hosts + self.between_hosts(looking, looking)
        looking = self.guest_norms[1](guests)
        guests = guests + self.between_guests(looking, looking, present)
        found, weights = self.to_hosts.with_weights(
            self.guest_norms[2](guests), self.host_norms[2](hosts)
        )
        guests = guests + found
        hosts = hosts + self.host_network(self.host_norms[3](hosts))
        guests = guests + self.guest_network(self.guest_norms[3](guests))
        return hosts, guests, weights


class TreeEncoder(nn.Module):
    """Embeddings of hosts and guests from their feature tables.

    Args:
        host_features, guest_features: columns of the tables.
        width, heads, feedforward: as in `TreeBlock`.
        blocks: their number, at least 1.
        sparse: whether tokens look at their own group first. Without it, each guest's row is
            extended by the features of its host, as it would not know its host otherwise.
    """

    def __init__(
        self,
        host_features: int,
        guest_features: int,
        width: int,
        heads: int,
        blocks: int,
        feedforward: int,
        sparse: bool = True,
    ) -> None:
        super().__init__()
        if blocks < 1:
            raise ValueError(f"blocks must be at least 1, got {blocks}")
        self.width, self.sparse = width, sparse
        self.step_input = nn.Linear(1, width)
        self.host_input = nn.Linear(host_features, width)
        self.guest_input = nn.Linear(guest_features + (0 if sparse else host_features), width)
        self.blocks = nn.ModuleList(
            TreeBlock(width, heads, feedforward, sparse) for _ in range(blocks)
        )

    def forward(
        self,
        hosts: torch.Tensor,
        guests: torch.Tensor,
        owner: torch.Tensor,
        progress: torch.Tensor,
    ) -> Encoded:
        """Encode a batch.

        Args:
            hosts: features [n, P, host_features].
            guests: features [n, V, guest_features].
            owner: host of each guest, int [n, V]; -1 for padding.
            progress: share of the episode that is over, [n, 1].
        """
        present = owner >= 0
        if self.sparse:
            tree = bias(tree_mask(owner, hosts.shape[1]))
        else:
            tree = None
            index = owner.clamp(min=0)[..., None].expand(-1, -1, hosts.shape[2])
            guests = torch.cat([guests, hosts.gather(1, index) * present[..., None]], dim=2)
        step = self.step_input(progress[..., None])
        critic = progress.new_full((len(progress), 1, self.width), -1.0)
        host_tokens = torch.cat([step, self.host_input(hosts)], dim=1)
        guest_tokens = torch.cat([self.guest_input(guests), critic], dim=1)
        present = bias(functional.pad(present, (0, 1), value=True)[:, None])
        for block in self.blocks:
            host_tokens, guest_tokens, weights = block(host_tokens, guest_tokens, tree, present)
        return Encoded(
            host_tokens[:, 1:], guest_tokens[:, :-1], guest_tokens[:, -1], weights[:, :-1, 1:]
        )


class HostActor(nn.Module):
    """Scores of all hosts for one chosen guest: hosts look at each other, then at the guest.

    Args:
        host_features, guest_features, width, heads, blocks, feedforward: as in `TreeEncoder`.
        choices: scores per host.
    """

    def __init__(
        self,
        host_features: int,
        guest_features: int,
        width: int,
        heads: int,
        blocks: int,
        feedforward: int,
        choices: int = 1,
    ) -> None:
        super().__init__()
        self.step_input = nn.Linear(1, width)
        self.host_input = nn.Linear(host_features + width + 1, width)
        self.guest_input = nn.Linear(guest_features + width, width)
        self.blocks = nn.ModuleList(HostBlock(width, heads, feedforward) for _ in range(blocks))
        self.output = nn.Linear(width, choices)

    def forward(
        self,
        hosts: torch.Tensor,
        encoded: Encoded,
        guest: torch.Tensor,
        chosen: torch.Tensor,
        progress: torch.Tensor,
    ) -> torch.Tensor:
        """Logits [n, P * choices]; those of a host lie beside each other.

        Args:
            hosts: features [n, P, host_features].
            encoded: what `TreeEncoder` made of the batch.
            guest: features of the chosen guest, [n, guest_features].
            chosen: its index, int [n].
            progress: share of the episode that is over, [n, 1].
        """
        rows = torch.arange(len(chosen), device=chosen.device)
        weights = encoded.weights[rows, chosen][..., None]
        tokens = self.host_input(torch.cat([hosts, encoded.hosts, weights], dim=2))
        asked = self.guest_input(torch.cat([guest, encoded.guests[rows, chosen]], dim=1))
        context = torch.stack([self.step_input(progress), asked], dim=1)
        for block in self.blocks:
            tokens = block(tokens, context)
        logits: torch.Tensor = self.output(tokens).flatten(1)
        return logits


class HostBlock(nn.Module):
    """Attention between hosts, from hosts to a context, and a feed-forward network."""

    def __init__(self, width: int, heads: int, feedforward: int) -> None:
        super().__init__()
        self.between_hosts = Attention(width, heads)
        self.to_context = Attention(width, heads)
        self.network = mlp(width, (feedforward,), width, nn.GELU)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))

    def forward(self, tokens: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """Tokens [n, P, width] that have looked at the context [n, C, width]."""
        looking = self.norms[0](tokens)
        tokens = tokens + self.between_hosts(looking, looking)
        tokens = tokens + self.to_context(self.norms[1](tokens), context)
        output: torch.Tensor = tokens + self.network(self.norms[2](tokens))
        return output
