"""Off-policy MDPO: Mirror Descent Policy Optimization on the replay buffer.

The paper is that of `mdpo.py`, which holds the algorithm on rollouts. With states of the replay
buffer, actions that the policy draws, entropy coefficient lambda and coefficient kappa = 1 / t of
the divergence,

    minimise  mean(kappa (log pi_theta - log pi_old) + lambda log pi_old - Q_1(s, a)),

where pi_old is pi_theta of up to K steps ago. The minimiser is proportional to
pi_old^(1 - lambda / kappa) exp(Q / kappa): with kappa = lambda this is SAC, and with any larger
kappa the fixed point is SAC's, exp(Q / lambda).

The class changes SAC's actor loss. The paper's code learns a value network beside the critics, as
the first SAC did; here the critics are those of the base.
"""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from stable_baselines3.common.type_aliases import PyTorchObs, ReplayBufferSamples
from stable_baselines3.sac.policies import Actor

from ...envs.checks import check_integer, check_number
from ..base.declare import Example
from ..base.sac import SampledActions, SoftActorCritic
from .mdpo import OnPolicyMDPO, tsallis_difference


def off_policy_minimiser(
    old_log_probs: torch.Tensor, values: torch.Tensor, kl_coef: float, ent_coef: float
) -> torch.Tensor:
    """Where `off_policy_loss` is least: pi_old^(1 - lambda / kappa) exp(Q / kappa), normalized.

    Args:
        old_log_probs, values: log pi_old(a|s) and Q(s, a), [..., A].
        kl_coef, ent_coef: kappa > 0 and lambda.

    Returns:
        Probabilities, [..., A].
    """
    return ((1 - ent_coef / kl_coef) * old_log_probs + values / kl_coef).softmax(-1)


def off_policy_loss(
    log_prob: torch.Tensor,
    old_log_prob: torch.Tensor,
    values: torch.Tensor,
    *,
    kl_coef: float,
    ent_coef: torch.Tensor | float,
    q: float = 1.0,
) -> torch.Tensor:
    """The actor's loss without the regularizer, a scalar.

    Args:
        log_prob, old_log_prob: of actions that pi_theta draws, under pi_theta and pi_old, [B, 1].
        values: Q_1(s, a), [B, 1].
        kl_coef, ent_coef: kappa and lambda.
        q: of the logarithms in the divergence.
    """
    divergence = tsallis_difference(log_prob, old_log_prob, q)
    return (kl_coef * divergence + ent_coef * old_log_prob - values).mean()


@dataclass(frozen=True)
class LatentActions(SampledActions):
    """Actions with what they were before the tanh.

    Attributes:
        latent: [B, d], with a path for the gradient to the actor.
    """

    latent: torch.Tensor


class OffPolicyMDPO(SoftActorCritic):
    """Mirror descent on the replay buffer: SAC that stays near the policy of a while ago.

    Args:
        policy, env: as in SB3.
        kl_coef: kappa, above 0; one below `ent_coef` pushes the policy away from the old one, and
            is warned of.
        refresh_every: K, gradient steps from one copy of the policy into the old one to the next.
        tsallis_q: q of the logarithms in the divergence; 1: KL.
        regularizer: weight of the means of mu^2 and (log sigma)^2 in the actor's loss, at least 0.
        ent_coef: lambda, a number of at least 0.
        learning_starts: as in SB3.
        arguments: further ones of SB3's SAC, without `use_sde`.

    Attributes:
        old_actor: pi_old.

    Raises:
        ValueError: an argument is out of range.
    """

    paper = OnPolicyMDPO.paper
    example = Example(
        "TorquePendulum-v0",
        {"max_steps": 10},
        kwargs={
            "refresh_every": 30,
            "learning_starts": 20,
            "batch_size": 16,
            "buffer_size": 1_000,
            "policy_kwargs": {"net_arch": [16]},
        },
        steps=120,
    )
    old_actor: Actor

    def __init__(
        self,
        policy: Any,
        env: Any,
        *,
        kl_coef: float = 1.0,
        refresh_every: int = 1_000,
        tsallis_q: float = 1.0,
        regularizer: float = 1e-3,
        ent_coef: float = 0.2,
        learning_starts: int = 10_000,
        **arguments: Any,
    ) -> None:
        self.kl_coef = check_number("kl_coef", kl_coef, 0.0)
        if kl_coef == 0:
            raise ValueError("kl_coef=0 must be above 0")
        self.refresh_every = check_integer("refresh_every", refresh_every, 1)
        self.tsallis_q = check_number("tsallis_q", tsallis_q)
        self.regularizer = check_number("regularizer", regularizer, 0.0)
        if check_number("ent_coef", ent_coef, 0.0) > kl_coef:
            warnings.warn(
                f"kl_coef={kl_coef} is below ent_coef={ent_coef}: the exponent of the old policy "
                "is negative",
                stacklevel=2,
            )
        super().__init__(
            policy, env, ent_coef=ent_coef, learning_starts=learning_starts, **arguments
        )

    def _setup_model(self) -> None:
        if self.use_sde:
            raise ValueError("use_sde must be off: MDPO needs densities of independent actions")
        super()._setup_model()
        self.old_actor = copy.deepcopy(self.actor)
        self.old_actor.requires_grad_(False)
        self.old_actor.set_training_mode(False)
        self.since_refresh = 0

    def update(self, batch: ReplayBufferSamples) -> None:
        """As the base's; every `refresh_every` times the policy becomes the old one."""
        super().update(batch)
        self.since_refresh += 1
        if self.since_refresh >= self.refresh_every:
            self.old_actor.load_state_dict(self.actor.state_dict())
            self.since_refresh = 0

    def sample_actions(self, observations: PyTorchObs) -> LatentActions:
        """As the base's, with what the actions were before the tanh."""
        found = super().sample_actions(observations)
        law: Any = self.actor.action_dist
        return LatentActions(found.actions, found.log_prob, law.gaussian_actions)

    def actor_loss(
        self, batch: ReplayBufferSamples, sampled: SampledActions, alpha: torch.Tensor
    ) -> torch.Tensor:
        """The penalised loss with the first critic, a scalar."""
        assert isinstance(sampled, LatentActions)
        values = self.critic.q1_forward(batch.observations, sampled.actions)
        loss = off_policy_loss(
            sampled.log_prob,
            self.old_log_prob(batch.observations, sampled),
            values,
            kl_coef=self.kl_coef,
            ent_coef=alpha,
            q=self.tsallis_q,
        )
        if self.regularizer > 0:
            mean, log_std, _ = self.actor.get_action_dist_params(batch.observations)
            loss = loss + self.regularizer * ((mean**2).mean() + (log_std**2).mean())
        return loss

    def old_log_prob(self, observations: PyTorchObs, sampled: LatentActions) -> torch.Tensor:
        """log pi_old of actions, [B, 1]; the gradient goes through the actions."""
        mean, log_std, _ = self.old_actor.get_action_dist_params(observations)
        law: Any = self.old_actor.action_dist
        law.proba_distribution(mean, log_std)
        found: torch.Tensor = law.log_prob(sampled.actions, sampled.latent)
        return found.reshape(-1, 1)

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        names, variables = super()._get_torch_save_params()
        return [*names, "old_actor"], variables

    def extra_state(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """As the base's, with the age of the old policy."""
        values, tensors = super().extra_state()
        return values | {"since_refresh": self.since_refresh}, tensors

    def restore_extra_state(self, values: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        """Inverse of `extra_state`."""
        super().restore_extra_state(values, tensors)
        self.since_refresh = values["since_refresh"]
