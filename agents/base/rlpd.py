"""RLPD: SAC with an ensemble of critics, many updates for every step, and recorded data.

P. J. Ball, L. Smith, I. Kostrikov, S. Levine: Efficient Online Reinforcement Learning with Offline
Data (ICML 2023, arXiv 2302.02948); code: https://github.com/ikostrikov/rlpd.

What differs from SAC:

    minibatches   half recorded steps, half of the agent's own (`prior_data.py`)
    critics       K networks with layer normalization, which keeps them from guessing wildly at
                  actions that no data show;  L_Q = mean_{k,b} (Q_k(s, a) - y)^2
    targets       y = r + gamma (1 - done) (min_{k in subset} Qbar_k(s', a') - alpha log pi(a'|s')),
                  the subset drawn anew for every step; the entropy may be left out
    actor         mean(alpha log pi(a|s) - mean_k Q_k(s, a)), one step after G steps of the critics
    temperature   alpha (H - target), one step with the actor's; the target is -d / 2

As in the paper, what depends on the task is how many critics the minimum is over (2 or 1), the
entropy in the targets, and the depth of the critics.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import GymEnv, PyTorchObs, ReplayBufferSamples
from stable_baselines3.sac.policies import CnnPolicy, MultiInputPolicy, SACPolicy
from torch import nn

from ...envs.checks import check_flag, check_integer
from .declare import Example
from .nets.ensemble import EnsembleMLP
from .offline_data import OfflineDataset
from .prior_data import PriorData
from .sac import SampledActions, SoftActorCritic, soft_target

# -- functions ------------------------------------------------------------------------------------


def subset_of(critics: int, size: int, generator: torch.Generator | None = None) -> torch.Tensor:
    """Numbers of `size` different critics of `critics`, int [size]."""
    device = None if generator is None else generator.device
    return torch.randperm(critics, generator=generator, device=device)[:size]


def ensemble_loss(values: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """mean_{k,b} (Q_k - y)^2, a scalar.

    Args:
        values: [K, B].
        targets: [B].
    """
    return (values - targets).square().mean()


def mean_actor_loss(
    log_prob: torch.Tensor, values: torch.Tensor, alpha: torch.Tensor | float
) -> torch.Tensor:
    """mean_b (alpha log pi(a|s) - mean_k Q_k(s, a)), a scalar.

    Args:
        log_prob: [B].
        values: [K, B].
        alpha: the entropy coefficient.
    """
    return (alpha * log_prob - values.mean(dim=0)).mean()


def entropy_gap_loss(
    alpha: torch.Tensor, log_prob: torch.Tensor, target_entropy: float
) -> torch.Tensor:
    """alpha (H - target) with H = -mean(log pi), a scalar; log_prob of any shape."""
    return (alpha * (-log_prob.detach().mean() - target_entropy)).mean()


# -- networks -------------------------------------------------------------------------------------


class EnsembleCritic(ContinuousCritic):
    """SB3's critics, with layer normalization, as one batched network.

    Args:
        net_arch, features_dim, activation_fn, n_critics, others: as in SB3's `ContinuousCritic`.
    """

    def __init__(
        self,
        *,
        net_arch: list[int],
        features_dim: int,
        activation_fn: type[nn.Module] = nn.ReLU,
        n_critics: int = 2,
        **others: Any,
    ) -> None:
        super().__init__(net_arch=net_arch, features_dim=features_dim, n_critics=0, **others)
        self.n_critics = n_critics
        inputs = features_dim + get_action_dim(self.action_space)
        self.networks = EnsembleMLP(n_critics, inputs, net_arch, 1, activation_fn)

    def values(
        self, obs: PyTorchObs, actions: torch.Tensor, members: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Q_k(s, a), [k, B] or [k, B, N].

        Args:
            obs: B observations.
            actions: [B, d], or N for each of them, [B, N, d].
            members: numbers of the critics that are asked, int [k]; None: all K.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.share_features_extractor):
            features = self.extract_features(obs, self.features_extractor)
        if actions.ndim == 3:
            features = features[:, None].expand(-1, actions.shape[1], -1)
        rows = torch.cat([features, actions], dim=-1)
        found: torch.Tensor = self.networks(rows.flatten(0, -2), members)
        return found.reshape(len(found), *actions.shape[:-1])

    def forward(self, obs: PyTorchObs, actions: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """As SB3's: a tuple of K values, each [B, 1]."""
        return self.values(obs, actions)[..., None].unbind()

    def q1_forward(self, obs: PyTorchObs, actions: torch.Tensor) -> torch.Tensor:
        """As SB3's: of the first critic, [B, 1]."""
        return self.values(obs, actions, torch.zeros(1, dtype=torch.int64))[0, :, None]


class EnsemblePolicy(SACPolicy):
    """SB3's policy of SAC with an `EnsembleCritic`."""

    critic: EnsembleCritic
    critic_target: EnsembleCritic

    def make_critic(
        self, features_extractor: BaseFeaturesExtractor | None = None
    ) -> EnsembleCritic:
        """The critics."""
        named = self._update_features_extractor(self.critic_kwargs, features_extractor)
        return EnsembleCritic(**named).to(self.device)


class EnsembleCnnPolicy(EnsemblePolicy, CnnPolicy):
    """Of images."""


class EnsembleMultiInputPolicy(EnsemblePolicy, MultiInputPolicy):
    """Of observations in a `Dict`."""


# -- the agent ------------------------------------------------------------------------------------


def random_steps(env: Any) -> OfflineDataset:
    """60 steps of random actions."""
    return OfflineDataset.record(env, steps=60)


class RLPD(PriorData, SoftActorCritic):  # type: ignore[misc]
    """Off-policy learning that begins with recorded data: SAC, its critics an ensemble.

    After every step of the environments the critics take `gradient_steps` steps (the update ratio),
    each on a minibatch of its own; the actor and the temperature then take one, on the last.

    Args:
        policy: "MlpPolicy", "CnnPolicy" or "MultiInputPolicy".
        env: an `OfflineDataset` whose `env` is the one to learn in; or only that one.
        n_critics: K, at least 1.
        subset: critics over which the minimum in the targets is taken, from 1 to K.
        entropy_backup: whether the targets have the entropy term.
        gradient_steps: G, as in SB3; with -1 as many as steps were just made.
        learning_starts: as in SB3.
        target_entropy: "auto" is -d / 2.
        common: further arguments of `PriorData` and of SB3's SAC, without `use_sde`.

    Raises:
        ValueError: an argument is out of range, or the data do not fit.
    """

    example = Example(
        "TorquePendulum-v0",
        {"max_steps": 10},
        kwargs={
            "n_critics": 3,
            "gradient_steps": 2,
            "learning_starts": 20,
            "batch_size": 16,
            "buffer_size": 1_000,
            "policy_kwargs": {"net_arch": [16]},
        },
        steps=80,
        data=random_steps,
    )
    policy_aliases: ClassVar[dict[str, Any]] = {
        "MlpPolicy": EnsemblePolicy,
        "CnnPolicy": EnsembleCnnPolicy,
        "MultiInputPolicy": EnsembleMultiInputPolicy,
    }
    policy: EnsemblePolicy
    critic: EnsembleCritic
    critic_target: EnsembleCritic

    def __init__(
        self,
        policy: Any,
        env: OfflineDataset | GymEnv | str | None,
        *,
        n_critics: int = 10,
        subset: int = 2,
        entropy_backup: bool = True,
        gradient_steps: int = 20,
        learning_starts: int = 5_000,
        **common: Any,
    ) -> None:
        self.n_critics = check_integer("n_critics", n_critics, 1)
        self.subset = check_integer("subset", subset, 1, n_critics)
        self.entropy_backup = check_flag("entropy_backup", entropy_backup)
        common |= {"gradient_steps": gradient_steps, "learning_starts": learning_starts}
        super().__init__(policy, env, **common)

    def _setup_model(self) -> None:
        if self.use_sde:
            raise ValueError("use_sde=True must be False: the actor draws its noise anew each time")
        self.policy_kwargs = {**self.policy_kwargs, "n_critics": self.n_critics}
        if self.target_entropy == "auto":
            self.target_entropy = -0.5 * get_action_dim(self.action_space)
        super()._setup_model()

    def run_steps(self, gradient_steps: int, batch_size: int) -> None:
        """Steps of the critics, each on a minibatch of its own, and one of the policy."""
        alpha = self.entropy_coefficient()
        for step in range(gradient_steps):
            batch = self.sample(batch_size)
            self.update_critic(batch, alpha)
            if step % self.target_update_interval == 0:
                self.update_targets()
        self.update_policy(batch)

    def entropy_coefficient(self) -> torch.Tensor:
        """The present alpha, [1] or a scalar."""
        return (
            self.ent_coef_tensor if self.log_ent_coef is None else self.log_ent_coef.detach().exp()
        )

    def members(self) -> torch.Tensor | None:
        """Numbers of the critics that a minimum is over, drawn anew; None: all."""
        if self.subset == self.n_critics:
            return None
        return subset_of(self.n_critics, self.subset).to(self.device)

    def target_values(self, batch: ReplayBufferSamples, alpha: torch.Tensor) -> torch.Tensor:
        """What the critics are fitted to, [B, 1]."""
        following = self.next_actions(batch)
        values = self.critic_target.values(
            batch.next_observations, following.actions, self.members()
        )
        return soft_target(
            batch.rewards,
            batch.dones,
            self.discounts(batch),
            values.min(dim=0).values[:, None],
            following.log_prob,
            alpha if self.entropy_backup else torch.zeros_like(alpha),
        )

    def critic_loss(self, batch: ReplayBufferSamples, targets: torch.Tensor) -> torch.Tensor:
        """Mean squared error over critics and transitions, a scalar."""
        return ensemble_loss(self.critic.values(batch.observations, batch.actions), targets[:, 0])

    def update_policy(self, batch: ReplayBufferSamples) -> None:
        """One step each on the temperature and the actor."""
        sampled = self.policy_actions(batch)
        alpha = self.update_temperature(sampled)
        self.update_actor(batch, sampled, alpha)

    def policy_actions(self, batch: ReplayBufferSamples) -> SampledActions:
        """Actions of the actor at the observations, from which it learns."""
        return self.sample_actions(batch.observations)

    def temperature_loss(self, log_alpha: torch.Tensor, sampled: SampledActions) -> torch.Tensor:
        """Loss of log alpha [1], which falls while the entropy is above `target_entropy`."""
        return entropy_gap_loss(log_alpha.exp(), sampled.log_prob, float(self.target_entropy))

    def actor_loss(
        self, batch: ReplayBufferSamples, sampled: SampledActions, alpha: torch.Tensor
    ) -> torch.Tensor:
        """Mean of alpha log pi(a|s) - mean_k Q_k(s, a), a scalar."""
        values = self.critic.values(batch.observations, sampled.actions)
        return mean_actor_loss(sampled.log_prob[:, 0], values, alpha)
