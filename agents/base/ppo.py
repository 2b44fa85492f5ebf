"""PPO in stages, of which a subclass overrides the one that its paper changes.

`train` works through a rollout as Stable-Baselines3's PPO does, and with the same seed ends with
the same parameters. Its stages, from the outside to the inside:

    run_epochs -> run_epoch -> minibatches (prepare) -> evaluate
               -> loss (policy_loss, entropy_loss, value_loss) -> gradient_step

Another surrogate overrides `policy_loss`. A further term extends `loss`:

    return super().loss(now, batch) + self.coefficient * my_term(now.distribution)

A second head extends `evaluate` and the `Evaluation` that it returns.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import stable_baselines3
import torch
from gymnasium import spaces
from stable_baselines3.common.type_aliases import RolloutBufferSamples
from stable_baselines3.common.utils import explained_variance
from torch.nn import functional as F

from .on_policy import ResumableSB3
from .piecewise_ppo import clipped_surrogate
from .stages import Stages, gradient_step


@dataclass(frozen=True)
class Evaluation:
    """What the policy of now says of a minibatch of B steps.

    Attributes:
        values: of the observations, [B].
        log_prob: of the actions, [B].
        log_ratio: of the probabilities of the actions, now over at the rollout, [B].
        entropy: of the policy at the observations, [B]; None where it has no closed form.
        distribution: of actions at the observations, torch's (for `MultiDiscrete` a list of them),
            for example for `torch.distributions.kl_divergence`.
    """

    values: torch.Tensor
    log_prob: torch.Tensor
    log_ratio: torch.Tensor
    entropy: torch.Tensor | None
    distribution: Any


def standardized(advantages: torch.Tensor) -> torch.Tensor:
    """Advantages [B] with mean 0 and deviation 1; a single one stays as it is."""
    if len(advantages) < 2:
        return advantages
    return (advantages - advantages.mean()) / (advantages.std() + 1e-8)


def value_error(
    values: torch.Tensor, old_values: torch.Tensor, returns: torch.Tensor, clip: float | None
) -> torch.Tensor:
    """Mean squared error of values [B] that are kept within `clip` of the old ones; None: free."""
    if clip is not None:
        values = old_values + torch.clamp(values - old_values, -clip, clip)
    return F.mse_loss(returns, values)


class ProximalAlgorithm(Stages, ResumableSB3, stable_baselines3.PPO):
    """Proximal policy optimization with the arguments, and the results, of SB3's `PPO`.

    J. Schulman, F. Wolski, P. Dhariwal, A. Radford, O. Klimov: Proximal Policy Optimization
    Algorithms (2017, arXiv 1707.06347).

    Attributes:
        clip, value_clip: the clipping ranges of the present rollout; None: values are not clipped.
    """

    clip: float
    value_clip: float | None

    def train(self) -> None:
        """Learn from the rollout in `rollout_buffer`."""
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        progress, value_range = self._current_progress_remaining, self.clip_range_vf
        self.clip = self.clip_range(progress)  # type: ignore[operator]
        self.value_clip = value_range(progress) if callable(value_range) else None
        self.metrics = defaultdict(list)
        self.run_epochs()
        self.record()

    def run_epochs(self) -> None:
        """All epochs, or fewer where the policy moves too far."""
        for _ in range(self.n_epochs):
            going = self.run_epoch()
            self._n_updates += 1
            if not going:
                break

    def run_epoch(self) -> bool:
        """One pass through the rollout; False where the policy has moved too far to go on."""
        self.metrics.pop("approx_kl", None)  # SB3 logs the mean over the last epoch
        for batch in self.minibatches():
            now = self.evaluate(batch)
            loss = self.loss(now, batch)
            self.metrics["loss"] = [loss.detach()]  # and the loss of the last minibatch
            if self.moved_too_far(now):
                return False
            self.gradient_step(loss)
        return True

    def minibatches(self) -> Iterator[RolloutBufferSamples]:
        """The rollout in random order, in pieces of `batch_size` steps."""
        for batch in self.rollout_buffer.get(self.batch_size):
            yield self.prepare(batch)

    def prepare(self, batch: RolloutBufferSamples) -> RolloutBufferSamples:
        """A minibatch as the losses take it: actions for the policy, standardized advantages."""
        actions, advantages = batch.actions, batch.advantages
        if isinstance(self.action_space, spaces.Discrete):
            actions = actions.long().flatten()
        if self.normalize_advantage:
            advantages = standardized(advantages)
        return batch._replace(actions=actions, advantages=advantages)

    def evaluate(self, batch: RolloutBufferSamples) -> Evaluation:
        """What the policy of now says of a minibatch."""
        values, log_prob, entropy = self.policy.evaluate_actions(batch.observations, batch.actions)
        return Evaluation(
            values=values.flatten(),
            log_prob=log_prob,
            log_ratio=log_prob - batch.old_log_prob,
            entropy=entropy,
            distribution=self.policy.action_dist.distribution,
        )

    def loss(self, now: Evaluation, batch: RolloutBufferSamples) -> torch.Tensor:
        """What a gradient step makes smaller: policy, entropy and value loss, weighted."""
        policy_loss = self.policy_loss(now, batch)
        entropy_loss = self.entropy_loss(now)
        value_loss = self.value_loss(now, batch)
        self.note(
            policy_gradient_loss=policy_loss, entropy_loss=entropy_loss, value_loss=value_loss
        )
        return policy_loss + self.ent_coef * entropy_loss + self.vf_coef * value_loss

    def policy_loss(self, now: Evaluation, batch: RolloutBufferSamples) -> torch.Tensor:
        """The clipped surrogate, a scalar."""
        return clipped_surrogate(now.log_ratio, batch.advantages, self.clip).mean()

    def entropy_loss(self, now: Evaluation) -> torch.Tensor:
        """Minus the entropy, a scalar; where it has no closed form, its estimate from actions."""
        return torch.mean(now.log_prob) if now.entropy is None else -torch.mean(now.entropy)

    def value_loss(self, now: Evaluation, batch: RolloutBufferSamples) -> torch.Tensor:
        """The squared error of the values, a scalar."""
        return value_error(now.values, batch.old_values, batch.returns, self.value_clip)

    def moved_too_far(self, now: Evaluation) -> bool:
        """Whether learning from this rollout ends before a step on this minibatch: it does where
        KL(old || now), estimated as the mean of r - 1 - log r, is above 1.5 `target_kl`."""
        with torch.no_grad():
            ratio = now.log_ratio.exp()
            divergence = torch.mean((ratio - 1) - now.log_ratio)
            clipped = torch.mean((torch.abs(ratio - 1) > self.clip).float())
        self.note(approx_kl=divergence, clip_fraction=clipped)
        return self.target_kl is not None and divergence.item() > 1.5 * self.target_kl

    def gradient_step(self, loss: torch.Tensor) -> None:
        """One step of the optimizer, with a gradient of at most `max_grad_norm`."""
        gradient_step(self.policy.optimizer, loss, self.max_grad_norm)

    def record(self) -> None:
        """As the base's, with what else SB3's PPO logs."""
        super().record()
        buffer = self.rollout_buffer
        explained = explained_variance(buffer.values.flatten(), buffer.returns.flatten())
        self.logger.record("train/explained_variance", explained)
        if hasattr(self.policy, "log_std"):
            self.logger.record("train/std", torch.exp(self.policy.log_std).mean().item())
        self.logger.record("train/clip_range", self.clip)
        if self.value_clip is not None:
            self.logger.record("train/clip_range_vf", self.value_clip)
