"""Conservative Q-learning with discrete actions: double DQN, or QR-DQN, with low values of actions
that no data show.

A. Kumar, A. Zhou, G. Tucker, S. Levine: Conservative Q-Learning for Offline Reinforcement Learning
(NeurIPS 2020, arXiv 2006.04779), whose regulariser is exact here:

    L = mean_b [ l(Q(s, a), y) + w (log sum_a' exp Q(s, a') - Q(s, a)) ]
    y = r + gamma (1 - done) Qbar(s', argmax_a' Q(s', a'))

with Huber's loss l. The paper plays Atari with quantiles of the return: there Q is their mean and l
the quantile loss of QR-DQN.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.dqn.policies import DQNPolicy
from torch.nn import functional

from ...envs.checks import check_integer, check_number, check_share
from ..base.declare import Example
from ..base.offline_actor_critic import Batch, Followers, bellman_targets
from ..base.offline_data import OfflineDataset
from ..base.offline_stages import OfflineStages
from ..base.quantile_dqn import QuantilePolicy, played, quantile_huber
from ..base.stages import gradient_step
from ..base.stepping import check_discrete
from .base_cql import conservative_gap

# -- functions ------------------------------------------------------------------------------------


def discrete_gap(values: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
    """log sum_a' exp Q(s, a') - Q(s, a), [B].

    Args:
        values: Q(s, .), [B, A].
        actions: recorded ones, int64 [B].
    """
    return conservative_gap(values[None], torch.zeros(()), played(values, actions)[None])[0]


# -- the agents -----------------------------------------------------------------------------------


class GreedyPolicy(DQNPolicy):
    """SB3's policy of DQN."""

    def __init__(self, *spaces: Any, **arguments: Any) -> None:
        super().__init__(*spaces, **{"optimizer_kwargs": {"fused": True}, **arguments})


class GreedyQuantilePolicy(QuantilePolicy):
    """The policy of QR-DQN."""

    def __init__(self, *spaces: Any, **arguments: Any) -> None:
        super().__init__(*spaces, **{"optimizer_kwargs": {"fused": True}, **arguments})


def random_play(env: Any) -> OfflineDataset:
    """200 steps of random actions."""
    return OfflineDataset.record(env, steps=200)


class DiscreteCQL(OfflineStages):
    """Conservative double DQN.

    The stages of a step, from the outside to the inside:

        learn_from -> update_critic (critic_loss (errors (critic_targets (best_actions))))
                   -> update_targets

    Args:
        policy: "MlpPolicy".
        env: an `OfflineDataset` with `Discrete` actions, rewards, next observations and
            terminations.
        gamma: discount, in [0, 1].
        tau: by how much the target network follows in a step, in [0, 1].
        conservatism: w, at least 0.
        max_grad_norm: the gradient is scaled down to this norm; None: never.
        learning_rate, batch_size, common: as in `OfflineAlgorithm`.

    Raises:
        ValueError: an argument is out of range, other actions, or the data lack a column.
    """

    policy_aliases: ClassVar[dict[str, Any]] = {"MlpPolicy": GreedyPolicy}
    example = Example(
        "FiniteMDP-v0",
        kwargs={"batch_size": 32, "policy_kwargs": {"net_arch": [16]}},
        steps=40,
        data=random_play,
    )
    policy: Any

    def __init__(
        self,
        policy: Any,
        env: OfflineDataset | GymEnv | str | None,
        *,
        learning_rate: float | Schedule = 3e-4,
        batch_size: int = 256,
        gamma: float = 0.99,
        tau: float = 0.005,
        conservatism: float = 1.0,
        max_grad_norm: float | None = 10.0,
        **common: Any,
    ) -> None:
        self.gamma, self.tau = check_share("gamma", gamma), check_share("tau", tau)
        self.conservatism = check_number("conservatism", conservatism, 0)
        if max_grad_norm is not None:
            check_number("max_grad_norm", max_grad_norm, 0)
        self.max_grad_norm = max_grad_norm
        common |= {"learning_rate": learning_rate, "batch_size": batch_size}
        super().__init__(policy, env, **common)

    def check_actions(self, space: spaces.Space[Any]) -> None:
        """ValueError unless actions are `Discrete` and start at 0."""
        check_discrete(space, "actions", type(self).__name__)

    def _setup_model(self) -> None:
        super()._setup_model()
        self.critic, self.critic_target = self.policy.q_net, self.policy.q_net_target
        self.followers = Followers([(self.critic_target, self.critic)])

    def learn_from(self, batch: Batch) -> dict[str, float]:
        """A step of the network, and one of its slow copy."""
        self.update_critic(batch)
        self.update_targets()
        return {}

    def update_critic(self, batch: Batch) -> None:
        """A step of the network."""
        loss = self.critic_loss(batch)
        self.note(critic_loss=loss)
        gradient_step(self.policy.optimizer, loss, self.max_grad_norm)

    def critic_loss(self, batch: Batch) -> torch.Tensor:
        """L, a scalar."""
        values, errors = self.errors(batch)
        gap = discrete_gap(values, batch["actions"]).mean()
        self.note(error=errors, gap=gap, data_value=played(values, batch["actions"]).mean())
        return errors + self.conservatism * gap

    def errors(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Values Q(s, .) [B, A], and the mean of l over the batch, a scalar."""
        values = self.critic(batch["observations"])
        with torch.no_grad():
            targets = self.critic_targets(batch)
        return values, functional.smooth_l1_loss(played(values, batch["actions"]), targets)

    def critic_targets(self, batch: Batch) -> torch.Tensor:
        """y, [B]; called without gradients."""
        after = self.critic_target(batch["next_observations"])
        beyond = played(after, self.best_actions(batch))
        return bellman_targets(batch["rewards"], batch["terminations"], beyond, self.gamma)

    def best_actions(self, batch: Batch) -> torch.Tensor:
        """The network's choice at the next observations, int64 [B]."""
        return self.critic(batch["next_observations"]).argmax(dim=1)

    def update_targets(self) -> None:
        """The target network follows by `tau`."""
        self.followers.move(self.tau)


class QuantileCQL(DiscreteCQL):
    """Conservative QR-DQN.

    Args:
        policy, env, others: as in `DiscreteCQL`.
        quantiles: N >= 1.
        kappa: error beyond which the quantile loss is linear, > 0.

    Raises:
        ValueError: as in `DiscreteCQL`.
    """

    policy_aliases: ClassVar[dict[str, Any]] = {"MlpPolicy": GreedyQuantilePolicy}

    def __init__(
        self,
        policy: Any,
        env: OfflineDataset | GymEnv | str | None,
        *,
        quantiles: int = 32,
        kappa: float = 1.0,
        **others: Any,
    ) -> None:
        self.quantiles = check_integer("quantiles", quantiles, 1)
        if not 0 < kappa < np.inf:
            raise ValueError(f"kappa={kappa} must be a finite number above 0")
        self.kappa = kappa
        super().__init__(policy, env, **others)

    def _setup_model(self) -> None:
        self.policy_kwargs = {**self.policy_kwargs, "quantiles": self.quantiles}
        super()._setup_model()

    def errors(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Values Q(s, .) [B, A], and the mean of the quantile loss over the batch, a scalar."""
        seen = batch["observations"]
        theta = self.critic.theta(seen)
        with torch.no_grad():
            targets = self.critic_targets(batch)
        losses = quantile_huber(played(theta, batch["actions"]), targets, self.kappa)
        return self.critic.score(seen, theta), losses.mean()

    def critic_targets(self, batch: Batch) -> torch.Tensor:
        """Samples of y, [B, N]; called without gradients."""
        after = self.critic_target.theta(batch["next_observations"])
        beyond = played(after, self.best_actions(batch))
        rewards, ended = (batch[name][:, None] for name in ("rewards", "terminations"))
        return bellman_targets(rewards, ended, beyond, self.gamma)
