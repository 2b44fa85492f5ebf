"""ROS: Robust On-policy Sampling, around PPO.

Rujie Zhong, Duohan Zhang, Lukas Schaefer, Stefano V. Albrecht, Josiah P. Hanna: Robust On-Policy
Sampling for Data-Efficient Policy Evaluation in Reinforcement Learning (NeurIPS 2022, arXiv
2111.14552).

A behaviour policy pi_phi collects the data for the policy pi_theta. Before every step it starts
again from theta and takes one gradient step on

    mean of rho = pi_phi(a | s) / pi_theta(a | s)   over all data collected so far,

so that actions of which there are too many become less likely. The data then come closer to the
frequencies of pi_theta than draws from it do. PPO's update stays as it is.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from stable_baselines3.common.policies import ActorCriticPolicy

from ...envs.checks import check_integer, check_number
from ..base.buffer_ppo import BufferPPO
from ..base.stages import gradient_step


def ratio_of(log_ratio: torch.Tensor) -> torch.Tensor:
    """rho [...] of its logarithm, which is kept within +-20: a probability of the target may
    underflow."""
    return log_ratio.clamp(-20.0, 20.0).exp()


def approximate_kl(log_ratio: torch.Tensor) -> torch.Tensor:
    """(rho - 1) - log rho of each action, [...], never negative; its mean approximates
    KL(pi_theta || pi_phi)."""
    log_ratio = log_ratio.clamp(-20.0, 20.0)
    return torch.expm1(log_ratio) - log_ratio


class ROS(BufferPPO):
    """Robust On-policy Sampling: actions that the data hold too many of become less likely.

    A behaviour policy, a copy of the policy, draws the actions of the rollouts; `predict` is the
    policy's own. Logged: `rollout/behaviour_kl`, the approximate divergence of the two on the data.

    Args:
        policy, env, batches, arguments: as in `BufferPPO`, without `use_sde`.
        behaviour_steps: m, steps in each environment between two descents; divides `n_steps`.
        behaviour_rate: step size of a descent, at least 0.

    Attributes:
        behaviour: the behaviour policy.

    Raises:
        ValueError: an argument is out of range, or `n_steps` is no multiple of `behaviour_steps`.
    """

    behaviour: ActorCriticPolicy

    def __init__(
        self,
        policy: Any,
        env: Any,
        *,
        behaviour_steps: int = 1,
        behaviour_rate: float = 1.0,
        **arguments: Any,
    ) -> None:
        self.behaviour_steps = check_integer("behaviour_steps", behaviour_steps, 1)
        self.behaviour_rate = check_number("behaviour_rate", behaviour_rate, 0.0)
        super().__init__(policy, env, **arguments)

    def _setup_model(self) -> None:
        if self.n_steps % self.behaviour_steps:
            raise ValueError(
                f"n_steps={self.n_steps} is no multiple of behaviour_steps={self.behaviour_steps}"
            )
        if self.use_sde:
            raise ValueError(f"{type(self).__name__} draws every action anew: use_sde must be off")
        super()._setup_model()
        self.behaviour = copy.deepcopy(self.policy)
        self.behaviour.set_training_mode(False)

    def collect_rollouts(self, *args: Any, **kwargs: Any) -> bool:
        """As the base's, with the actions of the behaviour policy."""
        # SB3 calls the policy itself here only; `predict` and `evaluate_actions` pass by the hook.
        with self.policy.register_forward_hook(self.act):
            return super().collect_rollouts(*args, **kwargs)

    def act(self, policy: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> tuple[Any, ...]:
        """Actions of the behaviour policy, with values and log-probabilities of the policy."""
        if self.rollout_buffer.pos % self.behaviour_steps == 0:
            self.adapt()
        (observations,), (_, values, _) = inputs, output
        actions = self.behaviour.get_distribution(observations).get_actions()
        log_probs = policy.get_distribution(observations).log_prob(actions)
        return actions.reshape(-1, *(self.action_space.shape or ())), values, log_probs

    def adapt(self) -> None:
        """Start the behaviour policy from the policy, and descend on all data that there are."""
        self.behaviour.load_state_dict(self.policy.state_dict())
        rows = self.rows()
        if len(rows["rewards"]) == 0:
            return
        observations, actions = self.pairs(rows)
        with torch.no_grad():
            log_probs = self.policy.evaluate_actions(observations, actions)[1]
        with torch.enable_grad():
            self.descend(observations, actions, log_probs)
        with torch.no_grad():
            log_ratio = self.log_ratio(observations, actions, log_probs)
        self.logger.record_mean("rollout/behaviour_kl", approximate_kl(log_ratio).mean().item())

    def log_ratio(
        self, observations: torch.Tensor, actions: torch.Tensor, log_probs: torch.Tensor
    ) -> torch.Tensor:
        """log rho of the behaviour policy of now, [N]."""
        return self.behaviour.get_distribution(observations).log_prob(actions) - log_probs

    def descend(
        self, observations: torch.Tensor, actions: torch.Tensor, log_probs: torch.Tensor
    ) -> None:
        """One gradient step on the mean of rho. `log_probs` are the policy's, [N]."""
        optimizer = torch.optim.SGD(self.behaviour.parameters(), self.behaviour_rate)
        log_ratio = self.log_ratio(observations, actions, log_probs)
        gradient_step(optimizer, ratio_of(log_ratio).mean(), self.max_grad_norm)
