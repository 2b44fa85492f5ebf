"""Policies of the agents that learn from whole episodes: a table, a linear map, networks.

All of them map observations [T, n, ...] of n episodes to the parameters of a distribution over
actions; Stable-Baselines3's distributions do the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.distributions import (
    DiagGaussianDistribution,
    Distribution,
    make_proba_distribution,
)
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import Schedule
from torch import nn

from .nets.mlp import mlp
from .stepping import check_discrete

Memory = torch.Tensor | None


class EpisodicPolicy(BasePolicy):
    """A stochastic policy. A subclass writes `forward` and calls `build_optimizer` at the end.

    Continuous actions are Gaussian with a standard deviation of their own per dimension; what lies
    outside the action space is clipped to it before it is played, as Stable-Baselines3 does.

    Args:
        observation_space: `Box`; a policy sees it flat.
        action_space: any that Stable-Baselines3 has a distribution for.
        lr_schedule: learning rate as a function of the progress remaining.
        horizon: steps of an episode; None where nobody knows.

    Attributes:
        default_rate: learning rate where the user gives none.
    """

    default_rate: ClassVar[float] = 3e-3
    outputs: nn.Module
    log_std: nn.Parameter

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        lr_schedule: Schedule,
        horizon: int | None = None,
    ) -> None:
        super().__init__(observation_space, action_space)
        if not isinstance(observation_space, gym.spaces.Box):
            raise ValueError(
                f"{type(self).__name__} needs observations in a Box, got {observation_space}"
            )
        self.inputs = int(np.prod(observation_space.shape))
        self.actions: Distribution = make_proba_distribution(action_space)

    def build_outputs(self, width: int) -> None:
        """The last layer, from `width` features to the parameters of the distribution."""
        if isinstance(self.actions, DiagGaussianDistribution):
            self.outputs, self.log_std = self.actions.proba_distribution_net(width)
        else:
            self.outputs = self.actions.proba_distribution_net(width)  # type: ignore[assignment]

    def build_optimizer(self, lr_schedule: Schedule) -> None:
        """Adam over all parameters."""
        self.optimizer = torch.optim.Adam(self.parameters(), lr=lr_schedule(1))

    def forward(
        self, observations: torch.Tensor, memory: Memory = None
    ) -> tuple[torch.Tensor, Memory]:
        """Logits, or means of continuous actions.

        Args:
            observations: consecutive ones of n episodes, [T, n, ...].
            memory: what the policy remembers of the steps before, [n, M]; None: nothing yet.

        Returns:
            [T, n, P], and the memory afterwards; None of a policy without one.
        """
        raise NotImplementedError

    def distribution(self, outputs: torch.Tensor) -> Distribution:
        """Distribution over the actions of N observations from what `forward` says, [N, P]."""
        if isinstance(self.actions, DiagGaussianDistribution):
            return self.actions.proba_distribution(outputs, self.log_std)
        return self.actions.proba_distribution(outputs)

    def act(
        self, observations: torch.Tensor, memory: Memory, deterministic: bool = False
    ) -> tuple[torch.Tensor, Memory]:
        """Actions [n, ...] (not clipped) of observations [n, ...], and the memory afterwards."""
        outputs, memory = self.forward(observations[None], memory)
        return self.distribution(outputs[0]).get_actions(deterministic), memory

    def evaluate(
        self, observations: torch.Tensor, actions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities of the actions of whole episodes, and entropies, both [T, n].

        Args:
            observations: [T, n, ...].
            actions: [T, n, ...].
        """
        outputs, _ = self.forward(observations)
        distribution = self.distribution(outputs.flatten(0, 1))
        log_probs = distribution.log_prob(actions.flatten(0, 1))
        entropies = distribution.entropy()
        assert entropies is not None
        shape = actions.shape[:2]
        return log_probs.unflatten(0, shape), entropies.unflatten(0, shape)

    def playable(self, actions: torch.Tensor) -> NDArray[Any]:
        """Actions [n, ...] as the environment takes them."""
        found = actions.cpu().numpy().reshape(-1, *self.action_space.shape)  # type: ignore[misc]
        if isinstance(self.action_space, gym.spaces.Box):
            return np.clip(found, self.action_space.low, self.action_space.high)
        return found

    def predict(
        self,
        observation: Any,
        state: tuple[NDArray[Any], ...] | None = None,
        episode_start: NDArray[Any] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[Any], tuple[NDArray[Any], ...] | None]:
        """As SB3's. `state` is what the last call returned; where `episode_start` is true (bool
        [n]) it is forgotten."""
        self.set_training_mode(False)
        observations, batched = self.obs_to_tensor(observation)
        assert isinstance(observations, torch.Tensor)
        memory = None if state is None else torch.as_tensor(state[0], device=self.device)
        if memory is not None and episode_start is not None:
            started = torch.as_tensor(np.atleast_1d(episode_start), device=self.device)
            memory = torch.where(started.bool()[:, None], torch.zeros_like(memory), memory)
        with torch.no_grad():
            actions, memory = self.act(observations, memory, deterministic)
        found = self.playable(actions)
        kept = None if memory is None else (memory.cpu().numpy(),)
        return found if batched else found[0], kept

    def _predict(self, observation: Any, deterministic: bool = False) -> torch.Tensor:
        return self.act(observation, None, deterministic)[0]


class TabularPolicy(EpisodicPolicy):
    """Logits in a table [H, S, A], at first all zero: a Markov policy that knows the time.

    It reads observations that show the place as a one-hot vector [S] and then the time as the share
    t/H of the episode that is over, as the grids of coverage do; actions are `Discrete`.

    Args:
        observation_space, action_space, lr_schedule, horizon: as in `EpisodicPolicy`.
    """

    default_rate: ClassVar[float] = 0.05

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        lr_schedule: Schedule,
        horizon: int | None = None,
    ) -> None:
        super().__init__(observation_space, action_space, lr_schedule, horizon)
        check_discrete(action_space, "actions", "a table of logits")
        if horizon is None:
            raise ValueError("a table of logits has a layer per step, and needs a known horizon")
        actions = int(action_space.n)  # type: ignore[attr-defined]
        self.logits = nn.Parameter(torch.zeros(horizon, self.inputs - 1, actions))
        self.build_optimizer(lr_schedule)

    def forward(
        self, observations: torch.Tensor, memory: Memory = None
    ) -> tuple[torch.Tensor, Memory]:
        """As `EpisodicPolicy.forward`.

        Raises:
            ValueError: an observation is not a one-hot place and a time before the end.
        """
        places, times = observations[..., :-1], observations[..., -1] * len(self.logits)
        steps = times.round().long()
        top, place = places.max(-1)
        if not ((top == 1) & (places.abs().sum(-1) == 1)).all():
            raise ValueError(
                "a table of logits reads a one-hot place and the time, and an observation shows "
                "something else: use 'MlpPolicy' or 'HistoryPolicy'"
            )
        if not ((steps >= 0) & (steps < len(self.logits))).all():
            raise ValueError(
                f"a table of logits for {len(self.logits)} steps was asked for step "
                f"{int(steps.max())}"
            )
        return self.logits[steps, place], None


class LinearPolicy(EpisodicPolicy):
    """A linear map of the flat observation, without a bias and at first zero.

    Continuous actions have a standard deviation that is not learned. The Fisher information of such
    a policy has full rank wherever the observations span their space.

    Args:
        observation_space, action_space, lr_schedule, horizon: as in `EpisodicPolicy`.
        std: standard deviation of continuous actions, above 0.

    Raises:
        ValueError: `std` is out of range.
    """

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        lr_schedule: Schedule,
        horizon: int | None = None,
        std: float = 1.0,
    ) -> None:
        super().__init__(observation_space, action_space, lr_schedule, horizon)
        if not 0 < std < np.inf:
            raise ValueError(f"std={std} must be a finite number above 0")
        self.build_outputs(self.inputs)
        self.outputs.register_parameter("bias", None)
        nn.init.zeros_(self.outputs.weight)  # type: ignore[arg-type]
        if isinstance(self.actions, DiagGaussianDistribution):
            nn.init.constant_(self.log_std.requires_grad_(False), np.log(std))
        self.build_optimizer(lr_schedule)

    def forward(
        self, observations: torch.Tensor, memory: Memory = None
    ) -> tuple[torch.Tensor, Memory]:
        """As `EpisodicPolicy.forward`."""
        flat = observations.flatten(2).to(self.outputs.weight.dtype)  # type: ignore[arg-type]
        found: torch.Tensor = self.outputs(flat)
        return found, None

    def act(
        self, observations: torch.Tensor, memory: Memory, deterministic: bool = False
    ) -> tuple[torch.Tensor, Memory]:
        """As the base's; a distribution would take longer to build than the rest of a step."""
        if deterministic or not isinstance(self.actions, DiagGaussianDistribution):
            return super().act(observations, memory, deterministic)
        means = self.forward(observations[None])[0][0]
        return means + self.log_std.exp() * torch.randn_like(means), None


class MlpPolicy(EpisodicPolicy):
    """A tanh network on the flat observation: as Markov as what it observes.

    Args:
        observation_space, action_space, lr_schedule, horizon: as in `EpisodicPolicy`.
        net_arch: hidden layers.
    """

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        lr_schedule: Schedule,
        horizon: int | None = None,
        net_arch: Sequence[int] = (64, 32),
    ) -> None:
        super().__init__(observation_space, action_space, lr_schedule, horizon)
        *hidden, last = net_arch
        self.features = mlp(self.inputs, hidden, last, nn.Tanh, activate_output=True)
        self.build_outputs(last)
        self.build_optimizer(lr_schedule)

    def forward(
        self, observations: torch.Tensor, memory: Memory = None
    ) -> tuple[torch.Tensor, Memory]:
        """As `EpisodicPolicy.forward`."""
        found: torch.Tensor = self.outputs(self.features(observations.float().flatten(2)))
        return found, None


class HistoryPolicy(EpisodicPolicy):
    """A gated recurrent unit over all observations of the episode so far.

    It is a history-dependent policy for any environment, whatever that shows of the past. `predict`
    hands its memory back through `state` and forgets it where `episode_start` is true, as recurrent
    policies do in Stable-Baselines3's world; `evaluate_policy` and `EvalCallback` pass both on.

    Args:
        observation_space, action_space, lr_schedule, horizon: as in `EpisodicPolicy`.
        width: of the memory.
    """

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        lr_schedule: Schedule,
        horizon: int | None = None,
        width: int = 64,
    ) -> None:
        super().__init__(observation_space, action_space, lr_schedule, horizon)
        self.recurrent = nn.GRU(self.inputs, width)
        self.build_outputs(width)
        self.build_optimizer(lr_schedule)

    def forward(
        self, observations: torch.Tensor, memory: Memory = None
    ) -> tuple[torch.Tensor, Memory]:
        """As `EpisodicPolicy.forward`; memory [n, width]."""
        before = None if memory is None else memory[None]
        features, after = self.recurrent(observations.float().flatten(2), before)
        return self.outputs(features), after[0]
