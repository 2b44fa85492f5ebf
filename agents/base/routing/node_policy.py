"""Base of the policies for `envs/routing`: observations of any number of nodes in, feasible actions
out."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.policies import BasePolicy

from .problems import PROBLEMS, Situation, read_observation


class NodePolicy(BasePolicy):
    """Scores the nodes or items of a problem; what is feasible is read from the observation.

    A subclass writes `forward`. Action `choices * node + choice` belongs to a node (CVRP has the
    choices direct and via the depot).

    Args:
        observation_space, action_space: of the environment; other sizes are accepted too.
        problem: a name in `routing.PROBLEMS`.
    """

    direct: ClassVar[bool] = False  # whether it reads states of the direct process
    looks_near: ClassVar[bool] = True  # whether it can look at the nearest nodes only

    def __init__(self, observation_space: gym.Space, action_space: gym.Space, problem: str) -> None:
        super().__init__(observation_space, action_space)
        self.problem = PROBLEMS[problem]

    def forward(
        self, situation: Situation, feasible: torch.Tensor, neighbours: int | None = None
    ) -> torch.Tensor:
        """Scores [b, n] or [b, n, choices]; what is said of infeasible actions does not count.

        Args:
            situation: b states.
            feasible: bool, of the shape of the result.
            neighbours: look at this many feasible nodes nearest to the origin only; None: at all.
        """
        raise NotImplementedError

    def scores(
        self,
        situation: Situation,
        feasible: torch.Tensor | None = None,
        neighbours: int | None = None,
    ) -> torch.Tensor:
        """Scores of all actions [b, A], -inf where infeasible.

        Args:
            situation: b states.
            feasible: bool [b, A], where it is known better than from the situation.
            neighbours: as in `forward`.
        """
        own = self.problem.feasible(situation)
        if feasible is not None:
            own = feasible.view(own.shape)
        allowed = own.flatten(1)
        if not torch.is_grad_enabled() and bool((allowed.sum(dim=1) <= 1).all()):
            found = torch.zeros_like(allowed, dtype=torch.float32)  # forced: no need to look
        else:
            found = self(situation, own, neighbours).flatten(1)
        # Where nothing is feasible (the episode has ended) any action is as good as another.
        ended = ~allowed.any(dim=1, keepdim=True)
        return found.masked_fill(~allowed, -torch.inf).masked_fill(ended, 0.0)

    def lesson(
        self, situation: Situation, feasible: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Scores [b, A] of situations that a solution leaves, nodes in its order, to learn from.

        Args:
            situation, feasible: as in `scores`.

        Returns:
            Scores, and what else there is to lower (a scalar), or None.
        """
        return self.scores(situation, feasible), None

    def read(self, observation: torch.Tensor) -> Situation:
        """The situation that flat observations [b, D] show."""
        return read_observation(observation, self.problem, self.direct)

    def _predict(self, observation: Any, deterministic: bool = False) -> torch.Tensor:
        return choose(self.scores(self.read(observation)), deterministic)

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
        action_masks: Any = None,
    ) -> tuple[np.ndarray, None]:
        """Actions for one observation [D] or a batch [b, D], of any number of nodes.

        Args:
            observation: flat, as the environments of `envs/routing` give it.
            state, episode_start: not used; SB3's signature.
            deterministic: the action of the highest score, else one drawn by the softmax.
            action_masks: bool [A] or [b, A]; not needed.

        Raises:
            ValueError: the size of the observation fits no number of nodes.
        """
        self.set_training_mode(False)
        given = np.asarray(observation, dtype=np.float32)
        if given.ndim not in (1, 2):
            raise ValueError(f"observations have shape [D] or [b, D], got {given.shape}")
        batch = torch.as_tensor(np.atleast_2d(given), device=self.device)
        masks = None
        if action_masks is not None:
            allowed = np.atleast_2d(np.asarray(action_masks, dtype=bool))
            masks = torch.as_tensor(allowed, device=self.device)
        with torch.no_grad():
            actions = choose(self.scores(self.read(batch), masks), deterministic).cpu().numpy()
        return (actions if given.ndim == 2 else actions[0]), None


def choose(scores: torch.Tensor, deterministic: bool = True) -> torch.Tensor:
    """Actions [b]: of the highest score, or drawn by the softmax of scores [b, A]."""
    if deterministic:
        return scores.argmax(dim=1)
    return torch.softmax(scores, dim=1).multinomial(1)[:, 0]
