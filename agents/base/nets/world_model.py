"""A world model in a latent space: a causal transformer over latent states and actions.

Y. Pu et al.: UniZero: Generalized and Efficient Planning with Scalable Latent World Models (2024,
arXiv 2406.10667). A sequence is z_0, a_0, z_1, a_1, ... At z_t the network says the policy and the
value, at a_t the reward and the next latent state. Latent states are groups of probabilities
(SimNorm; N. Hansen et al.: TD-MPC2, 2023, arXiv 2310.16828), which keeps them of one size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

from ..tree_search import Evaluation, States
from .mlp import mlp
from .supports import expectation

FeedForward = Callable[[int], nn.Module]


def feed_forward(dim: int) -> nn.Module:
    """The usual one: a hidden layer of 4 dim with GELU."""
    return mlp(dim, [4 * dim], dim, nn.GELU)


class CausalBlock(nn.Module):
    """Causal self-attention and a feed-forward net, each behind a LayerNorm.

    Args:
        dim: width of a token, a multiple of `heads`.
        heads: attention heads.
        feed_forward: what makes the second part, [..., dim] -> [..., dim].

    Raises:
        ValueError: `dim` is not a multiple of `heads`.
    """

    def __init__(self, dim: int, heads: int, feed_forward: FeedForward) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim={dim} must be a multiple of heads={heads}")
        self.heads = heads
        self.before, self.between = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.joint, self.joined = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.forward_net = feed_forward(dim)

    def forward(self, tokens: torch.Tensor, place: torch.Tensor | None = None) -> torch.Tensor:
        """Tokens [b, T, dim]; with `place`, int64 [b], only what becomes of that one, [b, dim]."""
        query, key, value = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part in self.joint(self.before(tokens)).chunk(3, dim=2)
        )
        if place is None:
            seen = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        else:
            rows = torch.arange(len(tokens), device=tokens.device)
            tokens, query = tokens[rows, place, None], query[rows, :, place, None]
            past = torch.arange(key.shape[2], device=tokens.device) <= place[:, None]
            seen = functional.scaled_dot_product_attention(query, key, value, past[:, None, None])
        tokens = tokens + self.joined(seen.transpose(1, 2).flatten(2))
        tokens = tokens + self.forward_net(self.between(tokens))
        return tokens if place is None else tokens[:, 0]


class Predictions(NamedTuple):
    """What the model says along b sequences of T + 1 latent states and T actions.

    Attributes:
        logits: of the actions, [b, T + 1, A].
        values: logits of the support, [b, T + 1, atoms].
        rewards: logits of the support, [b, T, atoms].
        latents: logarithms of the groups' probabilities, [b, T, dim].
    """

    logits: torch.Tensor
    values: torch.Tensor
    rewards: torch.Tensor
    latents: torch.Tensor


class WorldModel(nn.Module):
    """Encoder, transformer and heads.

    Args:
        inputs: width of an observation, flattened.
        actions: A.
        dim: width of a latent state and of a token, a multiple of `group` and of `heads`.
        layers, heads: of the transformer.
        hidden: width of the encoder's hidden layer and of the heads'.
        group: how many probabilities of a latent state sum to 1.
        window: steps of a sequence, at least 1; a longer one forgets its beginning.
        support: the last atom of rewards and values after `squash`; the first is its opposite.
        atoms: how many, at least 2.
        feed_forward: of the transformer's blocks.

    Raises:
        ValueError: `dim` is not a multiple of `group` or of `heads`.
    """

    def __init__(
        self,
        inputs: int,
        actions: int,
        *,
        dim: int = 32,
        layers: int = 1,
        heads: int = 4,
        hidden: int = 128,
        group: int = 4,
        window: int = 5,
        support: float = 10.0,
        atoms: int = 41,
        feed_forward: FeedForward = feed_forward,
    ) -> None:
        super().__init__()
        if dim % group:
            raise ValueError(f"dim={dim} must be a multiple of group={group}")
        self.group, self.window, self.support, self.atoms = group, window, support, atoms
        self.encoder = nn.Sequential(
            *(nn.Linear(inputs, hidden), nn.LayerNorm(hidden), nn.GELU()),
            *(nn.Linear(hidden, dim), nn.LayerNorm(dim)),
        )
        self.action = nn.Embedding(actions, dim)
        self.positions = nn.Parameter(0.1 * torch.randn(2 * window + 1, dim))
        self.blocks = nn.ModuleList(CausalBlock(dim, heads, feed_forward) for _ in range(layers))
        self.last = nn.LayerNorm(dim)
        self.policy_head, self.value_head, self.reward_head, self.latent_head = (
            mlp(dim, [hidden // 2], outputs, nn.GELU) for outputs in (actions, atoms, atoms, dim)
        )

    @property
    def backbone(self) -> nn.ModuleList:
        """The blocks of the transformer."""
        return self.blocks

    # -- latent states -----------------------------------------------------------------------------

    def log_groups(self, x: torch.Tensor) -> torch.Tensor:
        """Logarithms of the probabilities of every group, [..., dim]."""
        return x.unflatten(-1, (-1, self.group)).log_softmax(dim=-1).flatten(-2)

    def encode(self, observations: torch.Tensor) -> torch.Tensor:
        """Latent states [..., dim] of observations [..., inputs]."""
        return self.log_groups(self.encoder(observations)).exp()

    # -- along sequences ---------------------------------------------------------------------------

    def tokens(self, latents: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        """[b, 2 T + 1, dim] of latent states [b, T + 1, dim] and actions [b, T]."""
        chosen = self.action(actions)
        pairs = torch.stack([latents[:, :-1], chosen], dim=2).flatten(1, 2)
        return torch.cat([pairs, latents[:, -1:]], dim=1) + self.positions[: pairs.shape[1] + 1]

    def through(self, tokens: torch.Tensor, place: torch.Tensor | None = None) -> torch.Tensor:
        """The transformer's outputs at all tokens [b, T, dim], or at one of each row [b, dim]."""
        *others, last = self.blocks
        for block in others:
            tokens = block(tokens)
        found: torch.Tensor = self.last(last(tokens, place))
        return found

    def forward(self, latents: torch.Tensor, actions: torch.Tensor) -> Predictions:
        """Along sequences of latent states [b, T + 1, dim] and actions int64 [b, T]."""
        found = self.through(self.tokens(latents, actions))
        at_states, at_actions = found[:, ::2], found[:, 1::2]
        return Predictions(
            self.policy_head(at_states),
            self.value_head(at_states),
            self.reward_head(at_actions),
            self.log_groups(self.latent_head(at_actions)),
        )

    def value(self, latents: torch.Tensor) -> torch.Tensor:
        """Values [n] of latent states [n, dim] that begin a sequence."""
        outputs = self.through(latents[:, None] + self.positions[:1])[:, 0]
        return self.number(self.value_head(outputs))

    def number(self, logits: torch.Tensor) -> torch.Tensor:
        """What logits of the support stand for, [...]."""
        return expectation(logits, -self.support, self.support)

    # -- for a search ------------------------------------------------------------------------------

    def root(self, observations: torch.Tensor) -> Evaluation:
        """What the model says of observations [n, inputs]."""
        latents = self.encode(observations)
        n, dim = latents.shape
        window = latents.new_zeros(n, self.window + 1, dim)
        window[:, 0] = latents
        actions = torch.zeros(n, self.window, dtype=torch.int64, device=latents.device)
        steps = torch.zeros(n, dtype=torch.int64, device=latents.device)
        outputs = self.through(window[:, :1] + self.positions[:1])[:, 0]
        return Evaluation(
            latents.new_zeros(n),
            self.number(self.value_head(outputs)),
            self.policy_head(outputs),
            (window, actions, steps),
        )

    def follow(self, states: States, chosen: torch.Tensor) -> Evaluation:
        """What follows from actions [n] at nodes of a search.

        Args:
            states: latent states [n, window + 1, dim] and actions [n, window] since the root, or
                the last ones of these, and how many actions there are, [n].
            chosen: int64 [n].
        """
        latents, actions, steps = states
        rows = torch.arange(len(steps), device=steps.device)
        full = steps == self.window
        latents = torch.where(full[:, None, None], latents.roll(-1, dims=1), latents)
        actions = torch.where(full[:, None], actions.roll(-1, dims=1), actions)
        steps = steps - full.long()
        actions[rows, steps] = chosen
        # What lies beyond a row's own last token is never looked at.
        outputs = self.through(self.tokens(latents, actions), 2 * steps + 1)
        rewards = self.number(self.reward_head(outputs))
        steps = steps + 1
        latents[rows, steps] = self.log_groups(self.latent_head(outputs)).exp()
        outputs = self.through(self.tokens(latents, actions), 2 * steps)
        values = self.number(self.value_head(outputs))
        return Evaluation(rewards, values, self.policy_head(outputs), (latents, actions, steps))
