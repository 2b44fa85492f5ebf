"""Predicting where some actions are not allowed."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.policies import BasePolicy


class MaskedPolicy(BasePolicy):
    """A policy that chooses among the actions that are allowed. A subclass writes `choose`."""

    def choose(
        self, observations: torch.Tensor, deterministic: bool, masks: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Actions [n] for observations [n, ...]; `masks` bool [n, A] says which are allowed."""
        raise NotImplementedError

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
        action_masks: Any = None,
    ) -> tuple[NDArray[np.int64], Any]:
        """As SB3's; `action_masks` (bool, [A] or [n, A]) says which actions are allowed."""
        observations, batched = self.obs_to_tensor(observation)
        assert isinstance(observations, torch.Tensor)
        masks = None
        if action_masks is not None:
            masks = torch.from_numpy(np.atleast_2d(np.asarray(action_masks, dtype=bool)))
        actions = self.choose(observations, deterministic, masks).numpy()
        return actions if batched else actions[0], state

    def _predict(self, observation: Any, deterministic: bool = False) -> torch.Tensor:
        return self.choose(observation, deterministic)


class MaskedPrediction:
    """For agents whose policy is a `MaskedPolicy`: `predict` passes the masks on."""

    policy: Any

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
        action_masks: Any = None,
    ) -> tuple[NDArray[np.int64], Any]:
        """As SB3's; `action_masks` (bool, [A] or [n, A]) says which actions are allowed."""
        return self.policy.predict(observation, state, episode_start, deterministic, action_masks)
