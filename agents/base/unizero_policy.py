"""The policy of UniZero: a world model, its slow copy, and the search that acts."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.preprocessing import get_flattened_obs_dim, preprocess_obs
from stable_baselines3.common.type_aliases import Schedule

from .masked import MaskedPolicy
from .nets.world_model import WorldModel
from .stepping import check_discrete
from .tree_search import Found, search, softmax, with_noise


class UniZeroPolicy(MaskedPolicy):
    """Acts by a search in a world model.

    With `deterministic` it takes the action that the search visits most, else it draws one in
    proportion to the visits.

    Args:
        observation_space: any but dictionaries and tuples.
        action_space: `Discrete`.
        lr_schedule: of Adam.
        simulations: of a search.
        gamma: discount factor.
        model: arguments of `WorldModel` after the first two.

    Raises:
        ValueError: another space, or an argument is out of range.
    """

    optimizer: torch.optim.Optimizer

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        lr_schedule: Schedule,
        simulations: int = 16,
        gamma: float = 0.97,
        **model: Any,
    ) -> None:
        super().__init__(observation_space, action_space)
        check_discrete(action_space, "actions", "UniZero")
        if isinstance(observation_space, gym.spaces.Dict | gym.spaces.Tuple):
            raise ValueError(f"UniZero needs observations that are arrays, got {observation_space}")
        self.simulations, self.gamma = simulations, gamma
        actions = int(action_space.n)  # type: ignore[attr-defined]
        self.model = WorldModel(get_flattened_obs_dim(observation_space), actions, **model)
        self.prepare_learning(lr_schedule)

    def prepare_learning(self, lr_schedule: Schedule) -> None:
        """Copy the model, and make its optimizer."""
        self.target = copy.deepcopy(self.model).requires_grad_(False)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=lr_schedule(1))

    @torch.no_grad()
    def follow_model(self, tau: float) -> None:
        """Let the copy take over a share `tau` of the model."""
        torch._foreach_lerp_(list(self.target.parameters()), list(self.model.parameters()), tau)

    def features(self, observations: torch.Tensor) -> torch.Tensor:
        """What the encoder reads, [n, inputs], of observations [n, ...]."""
        found = preprocess_obs(observations, self.observation_space, self.normalize_images)
        assert isinstance(found, torch.Tensor)
        return found.float().flatten(1)

    @torch.no_grad()
    def search(
        self,
        observations: torch.Tensor,
        masks: NDArray[np.bool_] | None = None,
        noise: NDArray[np.float64] | None = None,
        share: NDArray[np.float64] | None = None,
    ) -> Found:
        """Search from observations [n, ...].

        Args:
            observations: of every root.
            masks: actions that are allowed, bool [n, A]; None: all.
            noise, share: what is mixed into the priors of the roots, [n, A] and [n]; None: nothing.
        """
        root = self.model.root(self.features(observations))
        priors = softmax(root.logits)
        if noise is not None and share is not None:
            priors = with_noise(priors, noise, share)
        if masks is not None:
            priors = np.where(masks, priors, 0.0)
            priors /= priors.sum(axis=1, keepdims=True)
        return search(root, self.model.follow, self.simulations, self.gamma, priors, masks)

    def choose(
        self, observations: torch.Tensor, deterministic: bool, masks: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Actions [n] for observations [n, ...]; `masks` bool [n, A] says which are allowed."""
        allowed = None if masks is None else masks.cpu().numpy()
        visits = torch.from_numpy(self.search(observations, allowed).visits)
        if deterministic:
            return visits.argmax(dim=1)
        return torch.multinomial(visits.float(), 1)[:, 0]
