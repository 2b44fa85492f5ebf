"""PPO whose batches may be worked through in pieces, with the value loss of the first PPO codes.

What differs from Stable-Baselines3's PPO:

- The value loss is the larger of the errors with and without clipping. SB3 takes the clipped error
  alone, which has no gradient outside the range.
- An update ends after the epoch whose mean KL divergence exceeds `target_kl`; SB3 ends at the
  batch, at 1.5 times that.
- Schedules are read at the beginning of a rollout. At its end, as in SB3, a rate that is annealed
  to 0 would be 0 in the last update.
- `n_updates` counts rollouts, not epochs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.utils import explained_variance
from torch import nn

from .on_policy import PPO


def clipped_surrogate(
    log_ratio: torch.Tensor, advantages: torch.Tensor, clip: float
) -> torch.Tensor:
    """PPO's policy loss of each step, [n]: -min(r A, clip(r, 1 - clip, 1 + clip) A)."""
    ratio = log_ratio.exp()
    return -torch.min(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)


def clipped_value_loss(
    values: torch.Tensor, old_values: torch.Tensor, returns: torch.Tensor, clip: float | None
) -> torch.Tensor:
    """Half the larger of the squared errors with and without clipping, [n]; None: no clipping."""
    error = (values - returns) ** 2
    if clip is not None:
        near = old_values + (values - old_values).clamp(-clip, clip)
        error = torch.max(error, (near - returns) ** 2)
    return error / 2


class PiecewisePPO(PPO):
    """Proximal policy optimization with gradients that are summed over pieces of a batch.

    Advantages are normalized over the whole batch, so that pieces do not change the gradient.

    Args:
        policy, env, arguments: as in `stable_baselines3.PPO`.
        micro_batch_size: steps in a piece, which bounds the memory; None: batches in one piece.
    """

    def __init__(
        self,
        policy: Any,
        env: Any,
        *,
        micro_batch_size: int | None = None,
        **arguments: Any,
    ) -> None:
        if micro_batch_size is not None and micro_batch_size < 1:
            raise ValueError(f"micro_batch_size must be at least 1, got {micro_batch_size}")
        self.micro_batch_size = micro_batch_size
        super().__init__(policy, env, **arguments)

    def train(self) -> None:
        """The epochs on a rollout."""
        self.policy.set_training_mode(True)
        # Schedules are read at the beginning of the rollout, as in the paper's code: at its end
        # the annealed rate of the last update would be 0.
        share = self.n_steps * self.n_envs / max(self._total_timesteps, 1)
        self._current_progress_remaining = min(self._current_progress_remaining + share, 1.0)
        self._update_learning_rate(self.policy.optimizer)
        logs: dict[str, list[float]] = {}
        for _ in range(self.n_epochs):
            divergences = []
            for batch in self.rollout_buffer.get(self.batch_size):
                found = self._step(batch)
                divergences.append(found["approx_kl"])
                for name, value in found.items():
                    logs.setdefault(name, []).append(value)
            if self.target_kl is not None and np.mean(divergences) > self.target_kl:
                break
        self._n_updates += 1
        for name, values in logs.items():
            self.logger.record(f"train/{name}", float(np.mean(values)))
        buffer = self.rollout_buffer
        explained = explained_variance(buffer.values.flatten(), buffer.returns.flatten())
        self.logger.record("train/explained_variance", explained)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")

    def _step(self, batch: Any) -> dict[str, float]:
        """One gradient step on a batch, piece by piece; returns means over the batch."""
        clip = self.clip_range(self._current_progress_remaining)  # type: ignore[operator]
        value_clip = self.clip_range_vf
        if value_clip is not None:
            value_clip = value_clip(self._current_progress_remaining)  # type: ignore[operator]
        advantages, actions = batch.advantages, batch.actions
        if isinstance(self.action_space, spaces.Discrete):
            actions = actions.long().flatten()
        if self.normalize_advantage and len(advantages) > 1:
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        size = self.micro_batch_size or len(advantages)
        logs: dict[str, float] = {}
        self.policy.optimizer.zero_grad()
        for start in range(0, len(advantages), size):
            part = slice(start, start + size)
            observations = batch.observations
            if isinstance(observations, dict):
                observations = {name: value[part] for name, value in observations.items()}
            else:
                observations = observations[part]
            values, log_prob, entropy = self.policy.evaluate_actions(observations, actions[part])
            log_ratio = log_prob - batch.old_log_prob[part]
            terms = {
                "policy_gradient_loss": clipped_surrogate(log_ratio, advantages[part], clip),
                "entropy_loss": log_prob if entropy is None else -entropy,
                "value_loss": clipped_value_loss(
                    values.flatten(), batch.old_values[part], batch.returns[part], value_clip
                ),
            }
            weights = (1.0, self.ent_coef, self.vf_coef)
            loss = sum(
                weight * term.sum() / len(advantages)
                for weight, term in zip(weights, terms.values(), strict=True)
            )
            loss.backward()  # type: ignore[union-attr]
            with torch.no_grad():
                terms["loss"] = loss * len(advantages)  # type: ignore[assignment]
                terms["approx_kl"] = log_ratio.exp() - 1 - log_ratio
                terms["clip_fraction"] = ((log_ratio.exp() - 1).abs() > clip).float()
            for name, term in terms.items():
                logs[name] = logs.get(name, 0.0) + float(term.detach().sum()) / len(advantages)
        nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
        self.policy.optimizer.step()
        return logs
