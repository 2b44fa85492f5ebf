"""The networks of `iwocs_sac.py`, and the policy that chooses between the agents of all models."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.policies import BasePolicy, ContinuousCritic
from stable_baselines3.common.torch_layers import create_mlp
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.sac.policies import SACPolicy
from torch import nn

from .iwocs import deep_select, pessimistic, valid

Memory = tuple[NDArray[Any], NDArray[Any]]


def value_targets(
    rewards: torch.Tensor, dones: torch.Tensor, next_values: torch.Tensor, gamma: float
) -> torch.Tensor:
    """r + gamma min_k Qbar_k(s', a') where the task goes on, [n, 1].

    Args:
        rewards, dones: [n, 1].
        next_values: of every critic [n, K], for actions drawn from the policy.
        gamma: discount factor.
    """
    return rewards + (1 - dones) * gamma * next_values.min(dim=1, keepdim=True).values


class ModelAgent(SACPolicy):
    """What is learned in one model: SAC's networks, critics without entropy, and the next state.

    Arguments are those of SB3's `SACPolicy`.
    """

    values: ContinuousCritic
    values_target: ContinuousCritic

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        self.values, self.values_target = self.make_critic(), self.make_critic()
        self.values_target.load_state_dict(self.values.state_dict())
        self.values_target.set_training_mode(False)
        seen, acted = self.observation_space.shape[0], self.action_space.shape[0]  # type: ignore[index]
        width: Any = self.critic_kwargs["net_arch"]
        layers = create_mlp(seen + acted, seen, width, self.activation_fn)
        self.dynamics = nn.Sequential(*layers)
        # Of the critics without entropy and the dynamics; the others have their own.
        self.optimizer = self.optimizer_class(
            [*self.values.parameters(), *self.dynamics.parameters()],
            lr=lr_schedule(1),  # type: ignore[call-arg]
            **self.optimizer_kwargs,
        )

    def following(self, observations: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        """The predicted next observations [n, D]; actions [n, A] in [-1, 1]."""
        return observations + self.dynamics(torch.cat([observations, actions], dim=1))

    def act(self, observations: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The mean actions [n, A] in [-1, 1], and Q of them [n]."""
        actions = self.actor(observations, deterministic=True)
        return actions, torch.cat(self.values(observations, actions), dim=1).min(dim=1).values


class IWOCSPolicy(BasePolicy):
    """The agents of all models, of which at every step the most fearful possible one decides.

    `predict` keeps the step before in `state`, as a recurrent policy of SB3 keeps its memory: hand
    back what it returned, and say with `episode_start` where an episode begins. Without `state`
    every model is possible.

    Args:
        observation_space, action_space: `Box`, observations [D].
        lr_schedule: learning rate.
        n_models: agents, the default one included.
        networks: other arguments of SB3's `SACPolicy`, of every agent.
    """

    present: torch.Tensor
    bounds: torch.Tensor

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        lr_schedule: Schedule,
        n_models: int = 3,
        **networks: Any,
    ) -> None:
        super().__init__(observation_space, action_space, squash_output=True)
        for what, space in {"observations": observation_space, "actions": action_space}.items():
            if not (isinstance(space, gym.spaces.Box) and len(space.shape) == 1):
                raise ValueError(f"{what} must be in a Box of one axis, got {space}")
        own: Any = {"observation_space": observation_space, "action_space": action_space}
        self.agents = nn.ModuleList(
            [ModelAgent(lr_schedule=lr_schedule, **own, **networks) for _ in range(n_models)]
        )
        self.register_buffer("present", torch.zeros((), dtype=torch.int64))
        # Largest error of a model that is possible; -1 until its agent has learned.
        self.register_buffer("bounds", torch.full((n_models,), -1.0))

    @property
    def agent(self) -> ModelAgent:
        """The agent that is learning."""
        found = self.agents[int(self.present)]
        assert isinstance(found, ModelAgent)
        return found

    def judge(
        self, observations: torch.Tensor
    ) -> tuple[list[int], torch.Tensor, torch.Tensor, torch.Tensor]:
        """What every agent of a solved model would do, the default one first.

        Returns:
            Numbers of the agents (the first is 0), their actions [m, n, A] in [-1, 1], what the
            others expect of theirs [m - 1, n], and the largest errors of the others [m - 1].
        """
        solved = (self.bounds >= 0).nonzero()[:, 0].tolist()
        numbers = [0, *(number for number in solved if number)]
        found = [self.agents[number].act(observations) for number in numbers]
        actions, values = (torch.stack(part) for part in zip(*found, strict=True))
        return numbers, actions, values[1:], self.bounds[numbers[1:]]

    def expected(self, observations: NDArray[Any]) -> NDArray[np.float32] | None:
        """min_j Q_j(s, pi_j(s)), [n], of observations [n, D]; None where no model is solved."""
        with torch.no_grad():
            values = self.judge(torch.as_tensor(observations, device=self.device).float())[2]
        return pessimistic(values.cpu().numpy()) if len(values) else None

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[np.float32], Memory]:
        """As SB3's; without `deterministic` the action is drawn from the actor that decides."""
        self.set_training_mode(False)
        observations, batched = self.obs_to_tensor(observation)
        assert isinstance(observations, torch.Tensor)
        seen = observations.float()
        with torch.no_grad():
            numbers, actions, values, bounds = self.judge(seen)
            possible = torch.ones_like(values, dtype=torch.bool)
            if state is not None and len(values):
                before, acted = (torch.as_tensor(part, device=self.device) for part in state)
                predicted = torch.stack(
                    [self.agents[number].following(before, acted) for number in numbers[1:]]  # type: ignore[operator]
                )
                possible = valid(predicted, seen, bounds[:, None])
                if episode_start is not None:
                    first = np.asarray(episode_start, dtype=bool)
                    possible = possible | torch.as_tensor(first, device=self.device)
            chosen = deep_select(values, possible) + 1  # 0 where none is possible: the default
            if not deterministic:
                actions = torch.stack([self.agents[each].actor(seen) for each in numbers])  # type: ignore[operator]
            played = actions[chosen, torch.arange(len(seen), device=self.device)].cpu().numpy()
        memory = (seen.cpu().numpy(), played)
        own = self.unscale_action(played).reshape(-1, *self.action_space.shape)  # type: ignore[misc]
        return own if batched else own[0], memory

    def _predict(self, observation: Any, deterministic: bool = False) -> torch.Tensor:
        return self.agent.actor(observation, deterministic)

    def forward(self, observation: Any, deterministic: bool = False) -> torch.Tensor:
        """Actions [n, A] in [-1, 1] of the agent that is learning."""
        return self._predict(observation, deterministic)

    def set_training_mode(self, mode: bool) -> None:
        """As SB3's, for the agent that is learning."""
        self.agent.set_training_mode(mode)
        self.training = mode
