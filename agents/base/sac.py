"""SAC in stages, of which a subclass overrides the one that its paper changes.

`train` learns from the replay buffer as Stable-Baselines3's SAC does, and with the same seed ends
with the same parameters. Its stages, from the outside to the inside:

    run_steps -> sample
              -> update -> sample_actions
                        -> update_temperature (temperature_loss)
                        -> update_critic (target_values (next_actions), critic_loss)
                        -> update_actor (actor_loss)
              -> update_targets

How the agent acts while it learns is SB3's `_sample_action`.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import stable_baselines3
import torch
from stable_baselines3.common.type_aliases import PyTorchObs, ReplayBufferSamples
from stable_baselines3.common.utils import polyak_update
from torch.nn import functional as F

from .off_policy import ResumableOffPolicy
from .stages import Stages, gradient_step


@dataclass(frozen=True)
class SampledActions:
    """Actions that a policy draws at B observations.

    Attributes:
        actions: [B, d], each in [-1, 1], with a path for the gradient to the actor.
        log_prob: logarithms of their densities, [B, 1].
    """

    actions: torch.Tensor
    log_prob: torch.Tensor


def smallest(values: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """The smallest of the critics' values (each [B, 1]), [B, 1]."""
    return torch.cat(values, dim=1).min(dim=1, keepdim=True).values


def soft_target(
    rewards: torch.Tensor,
    dones: torch.Tensor,
    discounts: torch.Tensor | float,
    next_values: torch.Tensor,
    next_log_prob: torch.Tensor,
    alpha: torch.Tensor,
) -> torch.Tensor:
    """Target of the critics, y = r + (1 - done) gamma (Q(s', a') - alpha log pi(a'|s')), [B, 1].

    Args:
        rewards, dones, next_values, next_log_prob: [B, 1].
        discounts: gamma, or [B, 1] for several steps at once.
        alpha: the entropy coefficient, [1].
    """
    return rewards + (1 - dones) * discounts * (next_values - alpha * next_log_prob)


class SoftActorCritic(Stages, ResumableOffPolicy, stable_baselines3.SAC):  # type: ignore[misc]
    """Soft actor-critic with the arguments, and the results, of SB3's `SAC`.

    T. Haarnoja, A. Zhou, P. Abbeel, S. Levine: Soft Actor-Critic: Off-Policy Maximum Entropy Deep
    Reinforcement Learning with a Stochastic Actor (2018, arXiv 1801.01290).

    A subclass with further networks names their optimizers in `optimizers`, and both in SB3's
    `_get_torch_save_params`.
    """

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """Learn from `gradient_steps` minibatches."""
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.optimizers())
        self.metrics = defaultdict(list)
        self.run_steps(gradient_steps, batch_size)
        self._n_updates += gradient_steps
        self.record()

    def run_steps(self, gradient_steps: int, batch_size: int) -> None:
        """The gradient steps, each on a minibatch of its own."""
        for step in range(gradient_steps):
            self.update(self.sample(batch_size))
            if step % self.target_update_interval == 0:
                self.update_targets()

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Those that follow the schedule of the learning rate."""
        temperature = self.ent_coef_optimizer
        found = [self.actor.optimizer, self.critic.optimizer]
        return found if temperature is None else [*found, temperature]

    def update(self, batch: ReplayBufferSamples) -> None:
        """One gradient step each on the temperature, the critics and the actor."""
        if self.use_sde:
            self.actor.reset_noise()
        sampled = self.sample_actions(batch.observations)
        alpha = self.update_temperature(sampled)
        self.update_critic(batch, alpha)
        self.update_actor(batch, sampled, alpha)

    # -- actions -----------------------------------------------------------------------------------

    def sample_actions(self, observations: PyTorchObs) -> SampledActions:
        """Actions of the actor, for its own loss and that of the temperature."""
        actions, log_prob = self.actor.action_log_prob(observations)
        return SampledActions(actions, log_prob.reshape(-1, 1))

    def next_actions(self, batch: ReplayBufferSamples) -> SampledActions:
        """Actions at the next observations, for the target of the critics."""
        return self.sample_actions(batch.next_observations)

    # -- temperature -------------------------------------------------------------------------------

    def update_temperature(self, sampled: SampledActions) -> torch.Tensor:
        """A step on the entropy coefficient where it is learned; returns the one before it, [1]."""
        if self.ent_coef_optimizer is None or self.log_ent_coef is None:
            self.note(ent_coef=self.ent_coef_tensor)
            return self.ent_coef_tensor
        alpha = torch.exp(self.log_ent_coef.detach())
        loss = self.temperature_loss(self.log_ent_coef, sampled)
        self.note(ent_coef=alpha, ent_coef_loss=loss)
        gradient_step(self.ent_coef_optimizer, loss)
        return alpha

    def temperature_loss(self, log_alpha: torch.Tensor, sampled: SampledActions) -> torch.Tensor:
        """Loss of log alpha [1], which falls while the entropy is above `target_entropy`."""
        surplus = (sampled.log_prob + float(self.target_entropy)).detach()
        return -(log_alpha * surplus).mean()

    # -- critics -----------------------------------------------------------------------------------

    def update_critic(self, batch: ReplayBufferSamples, alpha: torch.Tensor) -> None:
        """A step on all critics."""
        with torch.no_grad():
            targets = self.target_values(batch, alpha)
        loss = self.critic_loss(batch, targets)
        self.note(critic_loss=loss)
        gradient_step(self.critic.optimizer, loss)

    def target_values(self, batch: ReplayBufferSamples, alpha: torch.Tensor) -> torch.Tensor:
        """What the critics are fitted to, [B, 1]; called without gradients."""
        following = self.next_actions(batch)
        next_values = smallest(self.critic_target(batch.next_observations, following.actions))
        return soft_target(
            batch.rewards,
            batch.dones,
            self.discounts(batch),
            next_values,
            following.log_prob,
            alpha,
        )

    def discounts(self, batch: ReplayBufferSamples) -> torch.Tensor | float:
        """Gamma, or [B, 1] where the buffer joins several steps."""
        return self.gamma if batch.discounts is None else batch.discounts

    def critic_loss(self, batch: ReplayBufferSamples, targets: torch.Tensor) -> torch.Tensor:
        """Half the mean squared errors of the critics, added up, a scalar."""
        values = self.critic(batch.observations, batch.actions)
        return 0.5 * sum(F.mse_loss(each, targets) for each in values)  # type: ignore[return-value]

    # -- actor -------------------------------------------------------------------------------------

    def update_actor(
        self, batch: ReplayBufferSamples, sampled: SampledActions, alpha: torch.Tensor
    ) -> None:
        """A step on the actor."""
        loss = self.actor_loss(batch, sampled, alpha)
        self.note(actor_loss=loss)
        gradient_step(self.actor.optimizer, loss)

    def actor_loss(
        self, batch: ReplayBufferSamples, sampled: SampledActions, alpha: torch.Tensor
    ) -> torch.Tensor:
        """Mean of alpha log pi(a|s) - min Q(s, a), a scalar."""
        values = smallest(self.critic(batch.observations, sampled.actions))
        return (alpha * sampled.log_prob - values).mean()

    def update_targets(self) -> None:
        """The target critics follow the critics by `tau`."""
        polyak_update(self.critic.parameters(), self.critic_target.parameters(), self.tau)
        # The moments of batch normalization are copied as they are.
        polyak_update(self.batch_norm_stats, self.batch_norm_stats_target, 1.0)
