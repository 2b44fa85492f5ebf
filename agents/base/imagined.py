"""Steps that a model starts from, and those that it has imagined."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples

from ...envs.checks import check_integer
from .dynamics import Steps


def checked_schedule(schedule: Sequence[int]) -> list[int]:
    """A schedule of rollout lengths as a list of four integers.

    Raises:
        ValueError: it is none, or steps or lengths are out of order.
    """
    if isinstance(schedule, str) or not isinstance(schedule, Sequence) or len(schedule) != 4:
        raise ValueError(f"rollout_schedule={schedule!r} must be (from step, to step, from, to)")
    first = check_integer("rollout_schedule[0]", schedule[0], 0)
    last = check_integer("rollout_schedule[1]", schedule[1], first)
    short, long = (check_integer(f"rollout_schedule[{i}]", schedule[i], 1) for i in (2, 3))
    return [first, last, short, long]


def scheduled_length(step: int, schedule: Sequence[int]) -> int:
    """Length of rollouts after `step` steps: from the third number to the fourth, linearly between
    the steps that are the first and the second, and rounded down."""
    first, last, short, long = schedule
    share = min(max((step - first) / max(last - first, 1), 0.0), 1.0)
    return math.floor(short + share * (long - short))


def recorded(buffer: ReplayBuffer) -> Steps:
    """All that a replay buffer holds, a row per step of each environment."""
    rows = buffer.size()

    def column(table: Any, *size: int) -> torch.Tensor:
        return torch.as_tensor(table[:rows], device=buffer.device).float().reshape(-1, *size)

    ends = buffer.dones * (1 - buffer.timeouts)
    return Steps(
        column(buffer.observations, buffer.observations.shape[-1]),
        column(buffer.actions, buffer.actions.shape[-1]),
        column(buffer.next_observations, buffer.observations.shape[-1]),
        column(buffer.rewards),
        column(ends),
    )


class ModelBuffer:
    """Imagined steps in blocks, of which the oldest makes room for a new one.

    Args:
        retained: blocks that are kept.

    Attributes:
        columns: observations, actions, next observations, dones and rewards, [N, ...].
        blocks: steps of each block, oldest first.
    """

    names = ("observations", "actions", "next_observations", "dones", "rewards")

    def __init__(self, retained: int) -> None:
        self.retained = retained
        self.columns: list[torch.Tensor] = []
        self.blocks: list[int] = []

    def add(self, block: Sequence[torch.Tensor]) -> None:
        """Keep one more block, in the order of `columns`."""
        self.blocks.append(len(block[0]))
        gone = sum(self.blocks[: -self.retained])
        self.blocks = self.blocks[-self.retained :]
        old = self.columns or [each[:0] for each in block]
        self.columns = [
            torch.cat([left, right])[gone:] for left, right in zip(old, block, strict=True)
        ]

    def sample(self, batch_size: int) -> ReplayBufferSamples:
        """Steps drawn with replacement, with torch's generator."""
        first = self.columns[0]
        rows = torch.randint(len(first), (batch_size,), device=first.device)
        return ReplayBufferSamples(*(column[rows] for column in self.columns))
