"""A causal transformer along recorded steps: what is asked for, what is seen, what is done.

L. Chen et al.: Decision Transformer: Reinforcement Learning via Sequence Modeling (NeurIPS 2021,
arXiv 2106.01345). A sequence is g_0, s_0, a_0, g_1, s_1, a_1, ...; an action is read off at the
token of the observation before it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from .world_model import CausalBlock


class DropoutBlock(CausalBlock):
    """`CausalBlock` with dropout of both parts before they are added.

    Args:
        dim, heads: as in `CausalBlock`.
        dropout: probability, in [0, 1).
        activation: of the feed-forward net, whose hidden layer has 4 dim.
    """

    def __init__(self, dim: int, heads: int, dropout: float, activation: type[nn.Module]) -> None:
        def feed_forward(width: int) -> nn.Module:
            layers = nn.Linear(width, 4 * width), activation(), nn.Linear(4 * width, width)
            return nn.Sequential(*layers, nn.Dropout(dropout))

        super().__init__(dim, heads, feed_forward)
        self.joined: Any = nn.Sequential(self.joined, nn.Dropout(dropout))


class TrajectoryTransformer(nn.Module):
    """Hidden states at the observations of B windows of K steps.

    Each of the three tokens of a step also has an embedding of the step's place in its episode.
    Weights of attention are not dropped out.

    Args:
        conditions: width C of what is asked for.
        inputs: width F of an observation.
        actions: width E of an action.
        width: of a token, a multiple of `heads`.
        layers, heads: of the transformer.
        horizon: places in an episode that have an embedding.
        dropout: probability, in [0, 1).
        activation: of the feed-forward nets.

    Raises:
        ValueError: `width` is not a multiple of `heads`.
    """

    def __init__(
        self,
        conditions: int,
        inputs: int,
        actions: int,
        *,
        width: int = 128,
        layers: int = 3,
        heads: int = 1,
        horizon: int = 1_000,
        dropout: float = 0.1,
        activation: type[nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        self.condition = nn.Linear(conditions, width)
        self.observation = nn.Linear(inputs, width)
        self.action = nn.Linear(actions, width)
        self.time = nn.Embedding(horizon, width)
        self.first, self.last = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            DropoutBlock(width, heads, dropout, activation) for _ in range(layers)
        )
        self.apply(initialise)

    def forward(
        self,
        conditions: torch.Tensor,
        observations: torch.Tensor,
        actions: torch.Tensor,
        timesteps: torch.Tensor,
        place: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Hidden states [B, K, width]; each knows the tokens up to its own and none after it.

        Args:
            conditions, observations, actions: [B, K, C], [B, K, F], [B, K, E].
            timesteps: places in the episode, int64 [B, K], below `horizon`.
            place: int64 [B], the step of each window at which it is asked; then [B, width].
        """
        asked, seen, done = (
            layer(part)
            for layer, part in (
                (self.condition, conditions),
                (self.observation, observations),
                (self.action, actions),
            )
        )
        tokens = torch.stack([asked, seen, done], dim=2) + self.time(timesteps)[:, :, None]
        hidden = self.dropout(self.first(tokens.flatten(1, 2)))
        *before, last = self.blocks
        for block in before:
            hidden = block(hidden)
        if place is None:
            hidden = last(hidden)[:, 1::3]
        else:
            hidden = last(hidden, 3 * place + 1)
        found: torch.Tensor = self.last(hidden)
        return found


def initialise(module: nn.Module) -> None:
    """Small normal weights and no biases, as in GPT-2."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


class BoxHead(nn.Module):
    """Actions in [-1, 1]^d out of hidden states: tanh of a linear layer.

    Args:
        width: of a hidden state.
        size: d.
    """

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width, size)
        self.size = size
        initialise(self.layer)

    def encode(self, actions: torch.Tensor) -> torch.Tensor:
        """Actions [B, K, ...] as the transformer reads them, [B, K, d]."""
        return actions.flatten(2)

    def losses(self, hidden: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        """Mean squared errors [B, K] against actions [B, K, ...]."""
        return (self.act(hidden, True) - self.encode(actions)).square().mean(dim=-1)

    def act(self, hidden: torch.Tensor, deterministic: bool) -> torch.Tensor:
        """Actions [..., d] for hidden states [..., width]; they are never random."""
        found: torch.Tensor = self.layer(hidden).tanh()
        return found


class DiscreteHead(nn.Module):
    """Probabilities of A actions out of hidden states.

    Args:
        width: of a hidden state.
        size: A.
    """

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width, size)
        self.size = size
        initialise(self.layer)

    def encode(self, actions: torch.Tensor) -> torch.Tensor:
        """Actions int64 [B, K] as the transformer reads them, [B, K, A]."""
        return functional.one_hot(actions, self.size).to(self.layer.weight.dtype)

    def losses(self, hidden: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        """Cross-entropies [B, K] of actions int64 [B, K]."""
        return functional.cross_entropy(
            self.layer(hidden).transpose(1, 2), actions, reduction="none"
        )

    def act(self, hidden: torch.Tensor, deterministic: bool) -> torch.Tensor:
        """Actions int64 [n] for hidden states [n, width]: the most probable ones, or drawn."""
        logits = self.layer(hidden)
        if deterministic:
            found: torch.Tensor = logits.argmax(dim=-1)
            return found
        return torch.multinomial(logits.softmax(dim=-1), 1)[:, 0]
