"""IQL, implicit Q-learning: values of the better recorded actions, without asking for others.

I. Kostrikov, A. Nair, S. Levine: Offline Reinforcement Learning with Implicit Q-Learning (ICLR
2022, arXiv 2110.06169); code: https://github.com/ikostrikov/implicit_q_learning.

    value     x = min_k Q_k'(s, a) - V(s);  L_V = mean |expectile - 1[x < 0]| x^2
    actor     A = min_k Q_k'(s, a) - V(s);  L_pi = -mean min(exp(beta A), 100) log pi(a | s)
    critics   y = r + gamma (1 - terminated) V(s');  L_Q = sum_k mean (Q_k(s, a) - y)^2

in this order, actor and critics with the V that has just learned; then the targets of the critics
follow. The actor is a Gaussian whose mean is squashed by tanh and whose deviations do not depend on
s; its learning rate falls to 0 as half a cosine. Of discrete actions it gives probabilities. The
stages, from the outside to the inside:

    learn_from -> data_values
               -> update_value (value_loss)
               -> state_values
               -> update_actor (actor_loss (log_probs))
               -> update_critic (critic_loss)
               -> update_targets
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from gymnasium import spaces
from stable_baselines3.common.policies import BaseModel, BasePolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, create_mlp
from stable_baselines3.common.type_aliases import GymEnv, PyTorchObs, Schedule
from stable_baselines3.td3.policies import Actor
from torch import nn

from ...envs.checks import check_flag, check_number, check_share
from ..base.declare import Example
from ..base.offline_actor_critic import (
    Batch,
    OfflineActorCritic,
    bellman_targets,
    descend,
    is_bounded_box,
)
from ..base.offline_data import OfflineDataset
from ..base.twin_critic_policy import TwinCriticPolicy, in_place

LEAST_LOG_STD, MOST_LOG_STD = -5.0, 2.0
MOST_WEIGHT = 100.0
HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)

# -- functions ------------------------------------------------------------------------------------


def expectile_loss(differences: torch.Tensor, expectile: float) -> torch.Tensor:
    """mean |expectile - 1[x < 0]| x^2 of differences x [B], a scalar."""
    weights = (expectile - (differences.detach() < 0).to(differences.dtype)).abs()
    return (weights * differences.square()).mean()


def advantage_weights(advantages: torch.Tensor, beta: torch.Tensor | float) -> torch.Tensor:
    """min(exp(beta A), 100), [B], of advantages [B]; beta is a number or [B]."""
    return (beta * advantages).clamp_max(math.log(MOST_WEIGHT)).exp()


def weighted_likelihood_loss(log_probs: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """-mean(w log pi(a | s)), a scalar, of two [B]; there is no gradient of the weights."""
    return -torch.dot(weights.detach(), log_probs) / len(log_probs)


def gaussian_log_prob(
    actions: torch.Tensor, mean: torch.Tensor, log_std: torch.Tensor
) -> torch.Tensor:
    """Log-density [B] of actions [B, d] under independent Gaussians; mean [B, d], log_std [d]."""
    distances = (actions - mean).square() @ (-2 * log_std).exp()
    return torch.sub(-(log_std + HALF_LOG_TWO_PI).sum(), distances, alpha=0.5)


# -- networks -------------------------------------------------------------------------------------


class GaussianActor(Actor):
    """SB3's actor of TD3 as the mean of a Gaussian; arguments are those of SB3's.

    Attributes:
        log_std: [d].
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.mu.apply(in_place)
        self.log_std = nn.Parameter(torch.zeros(self.action_space.shape or (1,)).flatten())

    def clamped_log_std(self) -> torch.Tensor:
        """Logarithms of the standard deviations, [d]."""
        return self.log_std.clamp(LEAST_LOG_STD, MOST_LOG_STD)

    def log_prob(self, obs: PyTorchObs, actions: torch.Tensor) -> torch.Tensor:
        """log pi(a | s), [B], of actions [B, d] in [-1, 1]."""
        return gaussian_log_prob(actions, self(obs), self.clamped_log_std())

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> torch.Tensor:
        mean: torch.Tensor = self(observation)
        if deterministic:
            return mean
        noise = torch.randn_like(mean) * self.clamped_log_std().exp()
        return (mean + noise).clamp(-1, 1)


class CategoricalActor(BasePolicy):
    """Probabilities of discrete actions; arguments are those of SB3's actor of TD3."""

    action_space: spaces.Discrete

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Discrete,
        net_arch: list[int],
        features_extractor: BaseFeaturesExtractor,
        features_dim: int,
        activation_fn: type[nn.Module] = nn.ReLU,
        normalize_images: bool = True,
    ) -> None:
        super().__init__(
            observation_space,
            action_space,
            features_extractor=features_extractor,
            normalize_images=normalize_images,
        )
        layers = create_mlp(features_dim, int(action_space.n), net_arch, activation_fn)
        self.logits = nn.Sequential(*layers).apply(in_place)

    def forward(self, obs: PyTorchObs) -> torch.Tensor:
        """log pi(. | s), [B, actions]."""
        features = self.extract_features(obs, self.features_extractor)
        return self.logits(features).log_softmax(dim=1)

    def log_prob(self, obs: PyTorchObs, actions: torch.Tensor) -> torch.Tensor:
        """log pi(a | s), [B], of actions int [B]."""
        found: torch.Tensor = self(obs).gather(1, actions[:, None])[:, 0]
        return found

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> torch.Tensor:
        log_probs = self(observation)
        if deterministic:
            return log_probs.argmax(dim=1)
        return torch.multinomial(log_probs.exp(), 1)[:, 0]


class StateValue(BaseModel):
    """V(s).

    Args:
        net_arch, features_extractor, features_dim, activation_fn, others: as in SB3's critics.
    """

    def __init__(
        self,
        *,
        net_arch: list[int],
        features_extractor: BaseFeaturesExtractor,
        features_dim: int,
        activation_fn: type[nn.Module] = nn.ReLU,
        **others: Any,
    ) -> None:
        super().__init__(features_extractor=features_extractor, **others)
        self.features_extractor: BaseFeaturesExtractor
        layers = create_mlp(features_dim, 1, net_arch, activation_fn)
        self.network = nn.Sequential(*layers).apply(in_place)

    def forward(self, obs: PyTorchObs) -> torch.Tensor:
        """Values [B]."""
        features = self.extract_features(obs, self.features_extractor)
        return self.network(features)[:, 0]


class IQLPolicy(TwinCriticPolicy):
    """Twin critics, a state value and a stochastic actor; arguments as in `TwinCriticPolicy`.

    `net_arch` is one for all networks, or names that of the actor ("pi") and those of the values
    ("qf").
    """

    actor: GaussianActor | CategoricalActor  # type: ignore[assignment]
    value: StateValue

    def make_actor(  # type: ignore[override]
        self, features_extractor: BaseFeaturesExtractor | None = None
    ) -> GaussianActor | CategoricalActor:
        """The actor."""
        named = self._update_features_extractor(self.actor_kwargs, features_extractor)
        discrete = isinstance(self.action_space, spaces.Discrete)
        return (CategoricalActor if discrete else GaussianActor)(**named).to(self.device)

    def make_value(self) -> StateValue:
        """The state value."""
        named = self._update_features_extractor(self.critic_kwargs)
        for name in ("n_critics", "share_features_extractor"):
            del named[name]
        return StateValue(**named).to(self.device)

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        del self.actor_target  # the actor has none
        self.value = self.make_value()
        self.value.optimizer = self.optimizer_class(
            self.value.parameters(),
            lr=lr_schedule(1),  # type: ignore[call-arg]
            **self.optimizer_kwargs,
        )

    def set_training_mode(self, mode: bool) -> None:
        """As SB3's, of all networks but the targets."""
        super().set_training_mode(mode)
        self.value.set_training_mode(mode)


# -- the agent ------------------------------------------------------------------------------------


def random_play(env: Any) -> OfflineDataset:
    """128 steps of random actions."""
    return OfflineDataset.record(env, steps=128)


class IQL(OfflineActorCritic):
    """Implicit Q-learning, for actions in a bounded `Box`, or discrete ones.

    Args:
        policy, env, learning_rate, batch_size, gamma, tau: as in `OfflineActorCritic`.
        expectile: of the values of recorded actions that V is, in [0, 1]: 0.5 the mean, towards 1
            the best.
        beta: inverse temperature of the actor's weights, at least 0 (0: cloning).
        cosine_decay: whether the actor's learning rate falls to 0 until `learn` ends.
        normalize_observations: as in `OfflineActorCritic`; the paper leaves them as they are.
        common: further arguments of `OfflineActorCritic`.

    Raises:
        ValueError: as in `OfflineActorCritic`.
    """

    example = Example(
        "LineWorld-v0",
        {"max_steps": 10},
        kwargs={"batch_size": 16, "policy_kwargs": {"net_arch": [16]}},
        steps=40,
        data=random_play,
    )
    policy_aliases: ClassVar[dict[str, Any]] = {"MlpPolicy": IQLPolicy}
    policy: IQLPolicy
    actor: GaussianActor | CategoricalActor  # type: ignore[assignment]
    value: StateValue

    def __init__(
        self,
        policy: Any,
        env: OfflineDataset | GymEnv | str | None,
        *,
        expectile: float = 0.7,
        beta: float = 3.0,
        cosine_decay: bool = True,
        normalize_observations: bool = False,
        **common: Any,
    ) -> None:
        self.expectile = check_share("expectile", expectile)
        self.beta = check_number("beta", beta, 0)
        self.cosine_decay = check_flag("cosine_decay", cosine_decay)
        super().__init__(policy, env, normalize_observations=normalize_observations, **common)

    def _setup_model(self) -> None:
        super()._setup_model()
        self.value = self.policy.value

    def check_actions(self, space: spaces.Space[Any]) -> None:
        """ValueError unless the agent can choose actions of this space."""
        discrete = isinstance(space, spaces.Discrete) and space.start == 0
        if not (discrete or is_bounded_box(space)):
            raise ValueError(f"IQL needs actions in a bounded Box, or Discrete from 0, got {space}")

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Those that follow the schedule of the learning rate."""
        return [*super().optimizers(), self.value.optimizer]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        parts, variables = super()._get_torch_save_params()
        return [*parts, "value.optimizer"], variables

    def _update_learning_rate(
        self, optimizers: list[torch.optim.Optimizer] | torch.optim.Optimizer
    ) -> None:
        super()._update_learning_rate(optimizers)
        if self.cosine_decay:
            done = 1 - self._current_progress_remaining
            for group in self.actor.optimizer.param_groups:
                group["lr"] *= 0.5 * (1 + math.cos(math.pi * done))

    def learn_from(self, batch: Batch) -> dict[str, float]:
        """One step each of the value, the actor, the critics and their targets."""
        with torch.no_grad():
            values = self.data_values(batch)
        self.update_value(batch, values)
        with torch.no_grad():
            state_values, next_values = self.state_values(batch)
            targets = bellman_targets(
                batch["rewards"], batch["terminations"], next_values, self.gamma
            )
        self.update_actor(batch, values - state_values)
        self.update_critic(batch, targets)
        self.update_targets()
        return {}

    def data_values(self, batch: Batch) -> torch.Tensor:
        """min_k Q_k'(s, a), [B]; called without gradients."""
        values = self.critic_target.values(batch["observations"], batch["actions"])
        return values.amin(dim=0)

    def update_value(self, batch: Batch, values: torch.Tensor) -> None:
        """A step of V towards an expectile of values [B]."""
        loss = self.value_loss(batch, values)
        self.note(value_loss=loss)
        descend(self.value.optimizer, loss)

    def value_loss(self, batch: Batch, values: torch.Tensor) -> torch.Tensor:
        """L_V, a scalar, for values [B]."""
        return expectile_loss(values - self.value(batch["observations"]), self.expectile)

    def state_values(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """V(s) and V(s'), each [B], in one pass; called without gradients."""
        both = torch.cat([batch["observations"], batch["next_observations"]])
        first, second = self.value(both).chunk(2)
        return first, second

    def update_actor(self, batch: Batch, advantages: torch.Tensor) -> None:
        """A step of the actor; advantages A are [B]."""
        loss = self.actor_loss(batch, advantages)
        self.note(actor_loss=loss)
        descend(self.actor.optimizer, loss)

    def actor_loss(self, batch: Batch, advantages: torch.Tensor) -> torch.Tensor:
        """L_pi, a scalar, for advantages [B]."""
        weights = advantage_weights(advantages, self.beta)
        return weighted_likelihood_loss(self.log_probs(batch), weights)

    def log_probs(self, batch: Batch) -> torch.Tensor:
        """log pi(a | s) of the recorded actions, [B]."""
        return self.actor.log_prob(batch["observations"], batch["actions"])
