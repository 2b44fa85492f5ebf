"""What actor-critics share that learn from recorded transitions (s, a, r, s', terminated).

A subclass writes `learn_from` as a sequence of stages; those that most of them have are here:

    update_critic (critic_loss)   update_targets

A further optimizer is named in `optimizers`, and with its networks in SB3's
`_get_torch_save_params`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.td3.policies import Actor
from torch import nn

from ...envs.checks import check_flag, check_share
from .offline_data import OfflineDataset
from .offline_tensors import OfflineTensors, TensorOfflineAlgorithm
from .twin_critic_policy import StackedCritic, TwinCriticPolicy

NEEDED = ("rewards", "next_observations", "terminations")
Batch = dict[str, torch.Tensor]

# -- functions ------------------------------------------------------------------------------------


def bellman_targets(
    rewards: torch.Tensor,
    terminations: torch.Tensor,
    next_values: torch.Tensor,
    gamma: float,
) -> torch.Tensor:
    """y = r + gamma (1 - terminated) V(s'), [B]; all arguments are float [B]."""
    return rewards + gamma * (1 - terminations) * next_values


def summed_squared_errors(values: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """sum_k mean_b (Q_k - y)^2, a scalar, of values [K, B] and targets [B]."""
    return (values - targets).square().sum() / targets.numel()


def descend(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    """One step of an optimizer; no gradient is computed of parameters that it does not have."""
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    for each in parameters:
        each.grad = None
    loss.backward(inputs=parameters)
    optimizer.step()


class Followers:
    """Target networks, which follow others.

    Args:
        pairs: (target, what it follows), networks of the same shape.
    """

    def __init__(self, pairs: Sequence[tuple[nn.Module, nn.Module]]) -> None:
        self.targets: list[torch.Tensor] = [
            each for target, _ in pairs for each in target.parameters()
        ]
        self.sources: list[torch.Tensor] = [
            each for _, source in pairs for each in source.parameters()
        ]
        # Moments of batch normalization are copied as they are.
        self.moments = [
            both
            for target, source in pairs
            for both in zip(target.buffers(), source.buffers(), strict=True)
        ]

    @torch.no_grad()
    def move(self, share: float) -> None:
        """target <- (1 - share) target + share source."""
        torch._foreach_lerp_(self.targets, self.sources, share)
        for target, source in self.moments:
            target.copy_(source)


# -- the base --------------------------------------------------------------------------------------


class OfflineActorCritic(TensorOfflineAlgorithm):
    """An actor and twin critics with targets, in SB3's names, that learn from transitions.

    Minibatches hold what the networks take: actions in [-1, 1] where they are a `Box`, and
    observations in the policy's own scale. That is measured on the first data that the agent learns
    from, and stays.

    Args:
        policy: "MlpPolicy", or a `TwinCriticPolicy`.
        env: an `OfflineDataset` with rewards, next observations and terminations (its `env`, if
            any, is the one to evaluate in), or only an environment.
        learning_rate: of all optimizers, a number or SB3 schedule.
        batch_size: as in `OfflineAlgorithm`.
        gamma: discount, in [0, 1].
        tau: by how much targets follow in a step, in [0, 1].
        normalize_observations: whether observations, vectors in a `Box`, are brought to mean 0 and
            deviation 1 (over the data; 0.001 is added to the deviation).
        common: `policy_kwargs`, `seed`, `device`, ..., as in `Algorithm`.

    Attributes:
        noted: what stages have noted last, by name.

    Raises:
        ValueError: an argument is out of range, the actions are not those that the agent can
            choose, or the data lack something or are not finite.
    """

    policy_aliases: ClassVar[dict[str, Any]] = {"MlpPolicy": TwinCriticPolicy}
    policy: TwinCriticPolicy
    actor: Actor
    critic: StackedCritic
    critic_target: StackedCritic
    noted: dict[str, torch.Tensor]

    def __init__(
        self,
        policy: Any,
        env: OfflineDataset | GymEnv | str | None,
        *,
        learning_rate: float | Schedule = 3e-4,
        batch_size: int = 256,
        gamma: float = 0.99,
        tau: float = 0.005,
        normalize_observations: bool = True,
        **common: Any,
    ) -> None:
        self.gamma, self.tau = check_share("gamma", gamma), check_share("tau", tau)
        self.normalize_observations = check_flag("normalize_observations", normalize_observations)
        super().__init__(policy, env, learning_rate=learning_rate, batch_size=batch_size, **common)

    def _setup_model(self) -> None:
        self.check_actions(self.action_space)
        if self.normalize_observations and not isinstance(self.observation_space, spaces.Box):
            raise ValueError(
                "normalize_observations=True is for observations in a Box, got "
                f"{self.observation_space}: give normalize_observations=False"
            )
        if self.dataset is not None:
            check_columns(self.dataset)
        super()._setup_model()
        self.noted = {}
        self.actor, self.critic = self.policy.actor, self.policy.critic
        self.critic_target = self.policy.critic_target
        self.followers = Followers(self.target_pairs())

    def check_actions(self, space: spaces.Space[Any]) -> None:
        """ValueError unless the agent can choose actions of this space: a bounded `Box`."""
        if not is_bounded_box(space):
            raise ValueError(f"{type(self).__name__} needs actions in a bounded Box, got {space}")

    def target_pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        """Target networks, each with the one that it follows."""
        return [(self.critic_target, self.critic)]

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Those that follow the schedule of the learning rate."""
        return [self.actor.optimizer, self.critic.optimizer]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "actor.optimizer", "critic.optimizer"], []

    # -- data --------------------------------------------------------------------------------------

    def _check_spaces(self, dataset: OfflineDataset) -> None:
        super()._check_spaces(dataset)
        check_columns(dataset)

    def pack(self, dataset: OfflineDataset) -> OfflineTensors:
        """The data as the networks take them."""
        tensors = super().pack(dataset)
        check_finite(tensors)
        if isinstance(self.action_space, spaces.Box):
            scaled = self.policy.scale_action(dataset.actions).astype(np.float32)
            tensors.column("actions").copy_(torch.from_numpy(scaled))
        if self.normalize_observations:
            if not self.policy.scaled:
                self.policy.set_scale(*tensors.observation_scale())
            tensors.standardize(self.policy.observation_mean, self.policy.observation_deviation)
        return tensors

    def restore_learning_state(
        self, values: dict[str, Any], tensors: dict[str, torch.Tensor]
    ) -> None:
        """As the base's."""
        super().restore_learning_state(values, tensors)
        if self.dataset is not None:
            self.tensors = self.pack(self.dataset)  # in the scale that came back

    # -- learning ----------------------------------------------------------------------------------

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 1_000,
        *args: Any,
        **kwargs: Any,
    ) -> Self:
        """As `Algorithm.learn`; a step is quick, so the log is dumped after 1,000."""
        return super().learn(total_timesteps, callback, log_interval, *args, **kwargs)

    def update(self) -> dict[str, float]:
        """Draw a minibatch and learn from it."""
        assert self.tensors is not None
        if not self.policy.training:  # going through all modules takes longer than to ask
            self.policy.set_training_mode(True)
        self._update_learning_rate(self.optimizers())
        metrics = self.learn_from(self.tensors.sample(self.batch_size, self.generator))
        self.num_timesteps += 1
        return metrics

    def note(self, **scalars: torch.Tensor) -> None:
        """Keep tensors of one number for the log, as "train/NAME"; they are read when it is dumped,
        so that an accelerator need not wait."""
        for name, scalar in scalars.items():
            self.noted[name] = scalar.detach()

    def _log(self) -> None:
        self._metrics = {f"train/{name}": float(value) for name, value in self.noted.items()}
        super()._log()

    def update_critic(self, batch: Batch, targets: torch.Tensor) -> None:
        """A step of the critics towards targets [B]."""
        loss = self.critic_loss(batch, targets)
        self.note(critic_loss=loss)
        descend(self.critic.optimizer, loss)

    def critic_loss(self, batch: Batch, targets: torch.Tensor) -> torch.Tensor:
        """sum_k mean (Q_k(s, a) - y)^2, a scalar; targets y are [B]."""
        values = self.critic.values(batch["observations"], batch["actions"])
        return summed_squared_errors(values, targets)

    def update_targets(self) -> None:
        """The target networks follow by `tau`."""
        self.followers.move(self.tau)


def is_bounded_box(space: spaces.Space[Any]) -> bool:
    """Whether a space is a `Box` with finite bounds, of at least one dimension."""
    return isinstance(space, spaces.Box) and space.is_bounded() and bool(space.shape)


def check_columns(dataset: OfflineDataset, needed: Iterable[str] = NEEDED) -> None:
    """ValueError where a data set lacks an array that is needed."""
    if missing := [name for name in needed if getattr(dataset, name) is None]:
        raise ValueError(f"the data lack {', '.join(missing)}; needed are {', '.join(needed)}")


def check_finite(tensors: OfflineTensors) -> None:
    """ValueError for a number that is not finite, with its column and row."""
    if torch.isfinite(tensors.rows).all():
        return
    for name in tensors.columns:
        wrong = ~torch.isfinite(tensors.column(name)).reshape(len(tensors), -1).all(dim=1)
        if wrong.any():
            row = int(wrong.nonzero()[0, 0])
            raise ValueError(f"{name}[{row}] = {tensors.column(name)[row].tolist()} is not finite")
