"""The discriminators of H2O, which tell real steps from simulated ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch import nn

from ..base.nets.mlp import mlp


class Discriminators(nn.Module):
    """Logits by which real steps and simulated ones are told apart, each in [-2, 2].

    Args:
        observation_width, action_width: lengths of s and of a.
        hidden: widths of the hidden layers.
        learning_rate: of Adam, in its fused form.
    """

    def __init__(
        self,
        observation_width: int,
        action_width: int,
        hidden: Sequence[int],
        learning_rate: float,
    ) -> None:
        super().__init__()
        self.pair_width = observation_width + action_width
        self.of_pairs = mlp(self.pair_width, hidden, 2, nn.ReLU)
        self.of_steps = mlp(2 * observation_width + action_width, hidden, 2, nn.ReLU)
        self.optimizer = torch.optim.Adam(self.parameters(), lr=learning_rate, fused=True)

    def pair_logits(self, steps: torch.Tensor) -> torch.Tensor:
        """l1, [..., 2], of rows (s, a, s') [..., 2 observation_width + action_width]."""
        found: torch.Tensor = 2 * torch.tanh(self.of_pairs(steps[..., : self.pair_width]))
        return found

    def step_logits(self, steps: torch.Tensor) -> torch.Tensor:
        """l2, [..., 2], of rows (s, a, s')."""
        found: torch.Tensor = 2 * torch.tanh(self.of_steps(steps))
        return found


def step_rows(batch: ReplayBufferSamples) -> torch.Tensor:
    """(s, a, s') of a minibatch as float32 rows, [B, 2 observation_width + action_width]."""
    parts = (batch.observations, batch.actions, batch.next_observations)
    return torch.cat([part.flatten(1).float() for part in parts], dim=1)
