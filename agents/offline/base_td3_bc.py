"""TD3+BC: TD3 on recorded data, whose actor is also pulled towards the recorded actions.

S. Fujimoto, S. S. Gu: A Minimalist Approach to Offline Reinforcement Learning (NeurIPS 2021,
arXiv 2106.06860); code: https://github.com/sfujim/TD3_BC. Actions lie in [-1, 1].

    next action    a' = clip(pi'(s') + clip(sigma N(0, 1), -c, c), -1, 1)
    critics        y = r + gamma (1 - terminated) min_k Q_k'(s', a');  L_Q = sum_k mean (Q_k - y)^2
    actor          L_pi = -lambda mean Q_1(s, pi(s)) + mean (pi(s) - a)^2,
                   lambda = alpha / mean |Q_1(s, pi(s))|, a constant for the gradient

Every second step the actor learns, and the targets of all networks follow. Observations are
standardised. The stages, from the outside to the inside:

    learn_from -> next_actions
               -> critic_targets
               -> update_critic (critic_loss)
               -> update_actor (actor_loss (regulariser (guide)))
               -> update_targets
"""

from __future__ import annotations

from typing import Any

import torch
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.td3.policies import Actor
from torch import nn

from ...envs.checks import check_integer, check_number
from ..base.declare import Example
from ..base.offline_actor_critic import Batch, OfflineActorCritic, bellman_targets, descend
from ..base.offline_data import OfflineDataset

# -- functions ------------------------------------------------------------------------------------


def smoothed_actions(
    actions: torch.Tensor, normals: torch.Tensor, noise: float, noise_clip: float
) -> torch.Tensor:
    """clip(a + clip(noise n, -noise_clip, noise_clip), -1, 1), [B, d].

    Args:
        actions: [B, d], in [-1, 1].
        normals: [B, d], standard normal numbers.
        noise: their standard deviation, at least 0.
        noise_clip: the most that is added, at least 0.
    """
    return (actions + (noise * normals).clamp(-noise_clip, noise_clip)).clamp(-1, 1)


def regularised_loss(values: torch.Tensor, regulariser: torch.Tensor, alpha: float) -> torch.Tensor:
    """-lambda mean(Q) + regulariser with lambda = alpha / mean |Q|, a scalar.

    Args:
        values: Q_1(s, pi(s)), [B].
        regulariser: a scalar.
        alpha: weight of the values, at least 0. Where mean |Q| is below 1e-8 that is the divisor.
    """
    scale = alpha / values.detach().abs().mean().clamp_min(1e-8)
    return regulariser - scale * values.mean()


# -- the agent ------------------------------------------------------------------------------------


def random_play(env: Any) -> OfflineDataset:
    """128 steps of random actions."""
    return OfflineDataset.record(env, steps=128)


class TD3BC(OfflineActorCritic):
    """TD3 with behaviour cloning, for actions in a bounded `Box`.

    Args:
        policy, env, learning_rate, batch_size, gamma, tau, normalize_observations: as in
            `OfflineActorCritic`.
        alpha: weight of the values against the cloning, at least 0 (0: cloning alone).
        policy_delay: steps of the critics for one of the actor and the targets, at least 1.
        target_noise: standard deviation of the noise on next actions, at least 0.
        target_noise_clip: the most that the noise may be, at least 0.
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
    actor_target: Actor

    def __init__(
        self,
        policy: Any,
        env: OfflineDataset | GymEnv | str | None,
        *,
        alpha: float = 2.5,
        policy_delay: int = 2,
        target_noise: float = 0.2,
        target_noise_clip: float = 0.5,
        **common: Any,
    ) -> None:
        self.alpha = check_number("alpha", alpha, 0)
        self.policy_delay = check_integer("policy_delay", policy_delay, 1)
        self.target_noise = check_number("target_noise", target_noise, 0)
        self.target_noise_clip = check_number("target_noise_clip", target_noise_clip, 0)
        super().__init__(policy, env, **common)

    def target_pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        """Target networks, each with the one that it follows."""
        self.actor_target = self.policy.actor_target
        return [*super().target_pairs(), (self.actor_target, self.actor)]

    def learn_from(self, batch: Batch) -> dict[str, float]:
        """A step of the critics, and every `policy_delay`-th time of the actor and the targets."""
        with torch.no_grad():
            next_actions = self.next_actions(batch)
            targets = self.critic_targets(batch, next_actions)
        self.update_critic(batch, targets)
        if (self._n_updates + 1) % self.policy_delay == 0:
            self.update_actor(batch)
            self.update_targets()
        return {}

    def next_actions(self, batch: Batch) -> torch.Tensor:
        """a', [B, d]; called without gradients."""
        actions = self.actor_target(batch["next_observations"])
        normals = torch.randn_like(actions)
        return smoothed_actions(actions, normals, self.target_noise, self.target_noise_clip)

    def critic_targets(self, batch: Batch, next_actions: torch.Tensor) -> torch.Tensor:
        """y, [B]; called without gradients."""
        values = self.critic_target.values(batch["next_observations"], next_actions)
        return bellman_targets(
            batch["rewards"], batch["terminations"], values.amin(dim=0), self.gamma
        )

    def update_actor(self, batch: Batch) -> None:
        """A step of the actor."""
        loss = self.actor_loss(batch)
        self.note(actor_loss=loss)
        descend(self.actor.optimizer, loss)

    def actor_loss(self, batch: Batch) -> torch.Tensor:
        """L_pi, a scalar."""
        actions = self.actor(batch["observations"])
        values = self.critic.first(batch["observations"], actions)
        return regularised_loss(values, self.regulariser(batch, actions), self.alpha)

    def regulariser(self, batch: Batch, actions: torch.Tensor) -> torch.Tensor:
        """mean (pi(s) - guide)^2 over steps and dimensions, a scalar; actions pi(s) are [B, d]."""
        return (actions - self.guide(batch, actions)).square().mean()

    def guide(self, batch: Batch, actions: torch.Tensor) -> torch.Tensor:
        """What the actor is pulled towards, [B, d]: the recorded actions."""
        return batch["actions"]
