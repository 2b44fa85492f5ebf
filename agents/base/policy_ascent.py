"""Policy gradients as theory has them: few trajectories, explicit steps, no optimizer.

R. J. Williams, Simple statistical gradient-following algorithms for connectionist reinforcement
learning (1992); J. Baxter, P. L. Bartlett, Infinite-Horizon Policy-Gradient Estimation (2001). With
the discounted rewards from a step on, Psi_h = sum_{i >= h} gamma^i r_i, one trajectory gives the
unbiased estimate

    g(tau, theta) = sum_h Psi_h grad log pi_theta(a_h | s_h)
    theta_{t+1} = theta_t + alpha_t g   or   theta_t + alpha_t g / |g|
    alpha_t = alpha_0 (2/(t+2))^decay

A subclass says in `direction` what takes the place of g, and in `scaled` how long a step is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from ...envs.checks import check_integer, check_share
from .declare import Example
from .episodes import Episodes
from .episodic import EpisodicAlgorithm, returns_to_go
from .episodic_policies import LinearPolicy

# -- the computation ------------------------------------------------------------------------------


def discounted_to_go(rewards: torch.Tensor, gamma: float) -> torch.Tensor:
    """Psi_h = sum_{i >= h} gamma^i r_i: discounted to the start of the episode, not to step h.

    Args:
        rewards: [T, n], 0 after the end of an episode.
        gamma: discount.

    Returns:
        [T, n].
    """
    steps = torch.arange(len(rewards), device=rewards.device, dtype=rewards.dtype)
    return returns_to_go(gamma ** steps[:, None] * rewards)


def policy_gradient(
    log_probs: torch.Tensor, to_go: torch.Tensor, parameters: Sequence[torch.Tensor]
) -> torch.Tensor:
    """g, the mean over trajectories of sum_h Psi_h grad log pi(a_h | s_h).

    Args:
        log_probs: of the actions taken, [T, n], as functions of the parameters.
        to_go: Psi, [T, n]; 0 after the end of an episode.
        parameters: of d entries in all.

    Returns:
        [d].

    Raises:
        ValueError: there is no step, or no gradient reaches the parameters.
    """
    check_differentiable(log_probs)
    return flat_gradient((to_go * log_probs).sum(0).mean(), parameters)


def check_differentiable(log_probs: torch.Tensor) -> None:
    """ValueError for trajectories without steps, and for policies without a gradient."""
    if not log_probs.numel():
        raise ValueError(f"log_probs has shape {tuple(log_probs.shape)}: a trajectory needs a step")
    if not log_probs.requires_grad:
        raise ValueError("log_probs do not depend on the parameters: the policy must be stochastic")


def flat_gradient(
    value: torch.Tensor, parameters: Sequence[torch.Tensor], create_graph: bool = False
) -> torch.Tensor:
    """Gradient of a scalar as one vector [d]; 0 where a parameter does not enter."""
    found = torch.autograd.grad(
        value, list(parameters), create_graph=create_graph, materialize_grads=True
    )
    return parameters_to_vector(found)


def normalized(vector: torch.Tensor) -> torch.Tensor:
    """A vector [d] scaled to length 1; 0 stays 0."""
    length = vector.norm()
    return vector / torch.where(length > 0, length, 1.0)


# -- the agents -----------------------------------------------------------------------------------


class VanillaPG(EpisodicAlgorithm):
    """Plain stochastic gradient ascent on the discounted return.

    An update plays `episodes` trajectories and makes one step. A timestep is an environment step.

    Logged: `rollout/return` (discounted), `train/gradient_norm`, `train/direction_norm`,
    `train/step_size`.

    Args:
        policy: "LinearPolicy", "MlpPolicy", or "TabularPolicy".
        env: with episodes that end; an array environment needs a horizon.
        learning_rate: alpha_0.
        decay: alpha_t = learning_rate (2 / (t + 2))^decay, in [0, 1]; 0: constant steps. t counts
            updates from 0.
        gamma: discount, in [0, 1].
        episodes: trajectories per estimate, at least 1.
        policy_kwargs, seed, device, verbose, tensorboard_log: as in `Algorithm`.

    Raises:
        ValueError: an argument is out of range; the environment has no horizon, or masks actions.
    """

    policy_aliases: ClassVar[dict[str, Any]] = {
        "LinearPolicy": LinearPolicy,
        **{
            name: policy
            for name, policy in EpisodicAlgorithm.policy_aliases.items()
            if name != "HistoryPolicy"
        },
    }
    example = Example(
        "LQR-v0", {"plant": "integrator"}, policy="LinearPolicy", kwargs={"gamma": 0.9}, steps=200
    )

    def __init__(
        self,
        policy: Any,
        env: GymEnv | str | None,
        *,
        learning_rate: float | Schedule = 1.0,
        decay: float = 1.0,
        gamma: float = 0.99,
        episodes: int = 1,
        **common: Any,
    ) -> None:
        self.decay, self.gamma = check_share("decay", decay), check_share("gamma", gamma)
        self.episodes = check_integer("episodes", episodes, 1)
        super().__init__(policy, env, learning_rate=learning_rate, **common)

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        """The parameters that are learned."""
        return [each for each in self.policy.parameters() if each.requires_grad]

    @property
    def theta(self) -> torch.Tensor:
        """The parameters as one vector [d], a copy."""
        return parameters_to_vector(self.parameters).detach().clone()

    def play_at(self, theta: torch.Tensor) -> tuple[Episodes, torch.Tensor, torch.Tensor]:
        """Trajectories of the policy with parameters theta [d], which it keeps.

        Returns:
            the trajectories, log pi(a_h | s_h) [T, n] and Psi [T, n].
        """
        vector_to_parameters(theta, self.parameters)
        episodes = self.play(self.episodes)
        self.note(episodes)
        self.policy.set_training_mode(True)
        log_probs, _ = self.policy.evaluate(episodes.observations, episodes.actions)
        to_go = discounted_to_go(episodes.rewards, self.gamma).to(log_probs.dtype)
        self._metrics["rollout/return"] = float(to_go[0].mean())
        return episodes, log_probs, to_go

    def gradient_at(self, theta: torch.Tensor) -> torch.Tensor:
        """g [d] of new trajectories of the policy with parameters theta [d]."""
        _, log_probs, to_go = self.play_at(theta)
        gradient = policy_gradient(log_probs, to_go, self.parameters)
        self._metrics["train/gradient_norm"] = float(gradient.norm())
        return gradient

    def direction(self, theta: torch.Tensor, step: int) -> torch.Tensor:
        """Where to go from theta [d] in update `step` (from 0), [d]."""
        return self.gradient_at(theta)

    def scaled(self, direction: torch.Tensor) -> torch.Tensor:
        """What the step size multiplies, [d]."""
        return direction

    def update(self) -> dict[str, float]:
        """Play, and make one step."""
        theta, step = self.theta, self._n_updates
        direction = self.direction(theta, step)
        size = self.lr_schedule(self._current_progress_remaining) * (2 / (step + 2)) ** self.decay
        vector_to_parameters(theta + size * self.scaled(direction), self.parameters)
        return self._metrics | {
            "train/direction_norm": float(direction.norm()),
            "train/step_size": size,
        }


class NormalizedPG(VanillaPG):
    """Gradient ascent whose steps are as long as the step size says: along g / |g|.

    Arguments are those of `VanillaPG`.
    """

    def scaled(self, direction: torch.Tensor) -> torch.Tensor:
        """The direction at length 1, [d]."""
        return normalized(direction)
