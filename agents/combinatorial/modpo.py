"""MODPO: modular policy optimization, the baseline of SubPO.

The same policy gradient as `sub_po.py`, as if the set function were additive (modular): a visit to
s pays F({s}), however often s has been visited before.
"""

from __future__ import annotations

from typing import ClassVar

import torch

from ..base.episodes import Episodes
from ..base.episodic import EpisodicPolicyGradient
from .sub_po import SubPO


class MODPO(EpisodicPolicyGradient):
    """REINFORCE on F({s}) of every state, for environments that say so in
    `info["additive_reward"]`.

    Arguments are those of `EpisodicPolicyGradient`.
    """

    example = SubPO.example
    # The set value is only for those who ask what the policy is worth.
    reads: ClassVar[tuple[str, ...]] = ("additive_reward", "set_value")

    def step_rewards(self, episodes: Episodes) -> torch.Tensor:
        """F({s}) of the state that each step reaches, [T, n]."""
        return episodes.info["additive_reward"][1:]
