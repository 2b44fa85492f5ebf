"""PEARL: Probabilistic Emission-Abating Reinforcement Learning, a controller without prior data.

S. Jeen, A. Abate, J. M. Cullen: Low Emission Building Control with Zero-Shot Reinforcement Learning
(AAAI 2023, arXiv 2208.06385), the third constraint of the thesis On Zero-Shot Reinforcement
Learning (arXiv 2508.16496); code: https://github.com/enjeeneer/PEARL.

Nothing is known in advance: no data, no simulator. An ensemble of Gaussian networks learns
(s' - s, r) from the steps taken. For a short warm-up MPPI looks for the sequence of actions whose
predictions vary most; from then on for the one that earns most:

    warm-up    J(a_1..H) = sum_h sum_k [ Var_e mu_e,k + mean_e sigma^2_e,k ]   of s' - s and r
    afterwards J(a_1..H) = mean_e sum_h r_e
    MPPI       a^j ~ clip(N(mean, std^2), -1, 1);  of the best samples, with J scaled to [0, 1] over
               all of them, w_j = exp(temperature (J_j - 1)); mean and std become a little of what
               they were, and the rest the w-weighted moments. The first mean action is played.

k are the numbers that are predicted, in standard deviations of the data, and every member e follows
its own means. States stay within what was recorded, as those of the authors stay within bounds
that are given. They draw successors, and take the variance of predicted rewards in the warm-up:
here no noise of the model enters a plan.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, PyTorchObs, Schedule

from ...envs.checks import check_integer, check_number, check_share
from ..base.declare import Example
from ..base.dynamics import DynamicsEnsemble, Prediction, Steps, fit_ensemble, gaussian_loss
from ..base.model_based import check_box
from ..base.stepping import Mask, SteppingAlgorithm, Transitions

COLUMNS = ("observations", "actions", "next_observations", "rewards", "ends")

# -- functions ------------------------------------------------------------------------------------


def mppi(
    score: Callable[[torch.Tensor], torch.Tensor],
    noise: torch.Tensor,
    *,
    first_std: float,
    elites: int,
    temperature: float,
    momentum: float,
) -> torch.Tensor:
    """The mean sequence of actions in the end, [n, H, A], within [-1, 1].

    Args:
        score: J of sequences [n, K, H, A], [n, K].
        noise: standard normal numbers of I iterations, [I, n or 1, K, H, A].
        first_std: standard deviation of the first iteration, whose mean is 0.
        elites: best samples that count, from 1 to K.
        temperature: how much better ones count more, at least 0.
        momentum: share of mean and deviation that stays, in [0, 1].
    """
    mean = torch.zeros(())
    std = torch.full((), first_std)
    for drawn in noise:
        sequences = (mean + std * drawn).clamp(-1, 1)
        scores = score(sequences)
        best, rows = scores.topk(elites, dim=1)
        low, high = scores.amin(1, keepdim=True), scores.amax(1, keepdim=True)
        scaled = (best - low) / (high - low).clamp_min(1e-12)
        weights = (temperature * (scaled - 1)).softmax(1)[..., None, None]
        index = rows[..., None, None].expand(-1, -1, *sequences.shape[2:])
        kept = sequences.expand(len(scores), -1, -1, -1).gather(1, index)
        found = (weights * kept).sum(1, keepdim=True)
        spread = (weights * (kept - found).square()).sum(1, keepdim=True).sqrt()
        mean = momentum * mean + (1 - momentum) * found
        std = momentum * std + (1 - momentum) * spread
    return mean[:, 0]


def predictive_variance(
    means: torch.Tensor, log_variances: torch.Tensor, alive: torch.Tensor
) -> torch.Tensor:
    """Variance of what E members predict, over what they agree on and what they do not, [n].

    Args:
        means, log_variances: [E, n, D].
        alive: share of the members for which the task goes on, [n].
    """
    total = means.var(0, correction=0) + log_variances.exp().mean(0)
    return total.sum(-1) * alive


# -- the policy -----------------------------------------------------------------------------------


class PlanningPolicy(BasePolicy):
    """Plans with an ensemble.

    `predict(..., deterministic=True)` draws its samples with noise that is the same at every call.

    Args:
        observation_space, action_space: flat boxes, the second bounded.
        lr_schedule: of Adam.
        members, model_arch: of the ensemble, and the hidden layers of a member.
        horizon, samples, iterations: H, K and I.
        elite_share: share of samples that count.
        first_std, temperature, momentum: of MPPI.

    Attributes:
        low, high: the least and largest numbers of observations recorded, [D].
        fitted: bool, whether the ensemble was fitted.
    """

    low: torch.Tensor
    high: torch.Tensor
    fitted: torch.Tensor
    noise: torch.Tensor

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        lr_schedule: Schedule,
        members: int = 5,
        model_arch: Sequence[int] = (200, 200, 200),
        horizon: int = 20,
        samples: int = 100,
        iterations: int = 5,
        elite_share: float = 0.2,
        first_std: float = 0.5,
        temperature: float = 0.5,
        momentum: float = 0.1,
    ) -> None:
        super().__init__(observation_space, action_space, squash_output=True)
        size, width = observation_space.shape[0], action_space.shape[0]  # type: ignore[index]
        self.planning: dict[str, Any] = {
            "first_std": check_number("first_std", first_std, 0),
            "elites": max(round(check_share("elite_share", elite_share) * samples), 1),
            "temperature": check_number("temperature", temperature, 0),
            "momentum": check_share("momentum", momentum),
        }
        check_integer("members", members, 1)
        self.shape = tuple(
            check_integer(name, value, 1)
            for name, value in (("iterations", iterations), ("samples", samples))
        )
        self.horizon = check_integer("horizon", horizon, 1)
        arguments: dict[str, Any] = {"stochastic": True, "standardise_targets": True}
        self.dynamics = DynamicsEnsemble(size, width, model_arch, members, members, **arguments)
        self.optimizer = torch.optim.Adam(self.parameters(), lr=lr_schedule(1), fused=True)
        generator = torch.Generator().manual_seed(0)
        shape = (self.shape[0], 1, self.shape[1], self.horizon, width)
        self.register_buffer("noise", torch.randn(shape, generator=generator), persistent=False)
        self.register_buffer("low", torch.zeros(size))
        self.register_buffer("high", torch.zeros(size))
        self.register_buffer("fitted", torch.tensor(False))

    def imagine(
        self, observations: torch.Tensor, sequences: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What sequences of actions earn, and how much predictions along them vary, [n, K] each.

        Args:
            observations: [n, D].
            sequences: [n, K, H, A], or [1, K, H, A] for all.
        """
        count, samples, members = len(observations), sequences.shape[1], self.dynamics.members
        actions = sequences.expand(count, -1, -1, -1).flatten(0, 1)
        states = observations.repeat_interleave(samples, 0).expand(members, -1, -1)
        alive = states.new_ones(states.shape[:2])
        earned, varied = torch.zeros_like(alive), torch.zeros_like(alive[0])
        scale = self.dynamics.target_std
        for step in range(self.horizon):
            found = self.dynamics(states, actions[:, step].expand(members, -1, -1))
            assert found.log_variances is not None
            means = torch.cat([found.differences, found.rewards[..., None]], -1) / scale
            varied += predictive_variance(means, found.log_variances, alive.mean(0))
            earned += alive * found.rewards
            states = (states + found.differences).clamp(self.low, self.high)
            alive = alive * ~(self.dynamics.ends & (found.end_logits > 0))
        return earned.mean(0).unflatten(0, (count, -1)), varied.unflatten(0, (count, -1))

    @torch.no_grad()
    def plan(
        self, observations: torch.Tensor, noise: torch.Tensor, explore: bool = False
    ) -> torch.Tensor:
        """First actions [n, A] of plans for observations [n, D].

        Args:
            observations: [n, D].
            noise: as in `mppi`.
            explore: to be surprised, and not to earn.
        """
        which = 1 if explore else 0
        found = mppi(lambda each: self.imagine(observations, each)[which], noise, **self.planning)
        return found[:, 0]

    def fresh_noise(self, count: int) -> torch.Tensor:
        """Standard normal numbers for plans from n observations, [I, n, K, H, A]."""
        return torch.randn((len(self.noise), count, *self.noise.shape[2:]), device=self.device)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> torch.Tensor:
        assert isinstance(observation, torch.Tensor)
        noise = self.noise if deterministic else self.fresh_noise(len(observation))
        return self.plan(observation.float(), noise)


# -- the agent ------------------------------------------------------------------------------------


class PEARL(SteppingAlgorithm):
    """Planning with a model that is learned on the spot, after a short active warm-up.

    Actions are random until the first fit. The log has "train/model_loss", of the last fit.

    Args:
        policy: "MlpPolicy", see `PlanningPolicy`.
        env: with flat observations and actions, each a `Box`, the second bounded.
        learning_rate: of the model.
        warm_up: steps in which plans look for what varies most, at least 0.
        warm_up_fit_every: steps from one fit to the next until then, at least 2.
        fit_every: the same afterwards; a day, where a step takes 15 minutes.
        epochs: passes of a fit over what was recorded, at most.
        patience: of them without an improvement that end a fit.
        batch_size: of a fit.
        held_out: share of the steps by which a fit is judged, in (0, 1).
        common: `policy_kwargs`, `seed`, ..., as in `Algorithm`.

    Attributes:
        columns: what was recorded, in pieces, actions in [-1, 1]; `save` leaves it out, an agent
            that was loaded records anew.

    Raises:
        ValueError: an argument is out of range, or spaces are others.
    """

    policy_aliases: ClassVar[dict[str, Any]] = {"MlpPolicy": PlanningPolicy}
    example = Example(
        "PointMaze-v0",
        {"layout": "open", "horizon": 10},
        kwargs={
            **{"warm_up": 24, "warm_up_fit_every": 12, "fit_every": 20, "epochs": 3},
            "policy_kwargs": {
                **{"members": 2, "model_arch": [8], "horizon": 3, "samples": 8, "iterations": 2},
            },
        },
        steps=60,
    )
    policy: PlanningPolicy

    def __init__(
        self,
        policy: Any,
        env: GymEnv | str | None,
        *,
        learning_rate: float | Schedule = 3e-4,
        warm_up: int = 96,
        warm_up_fit_every: int = 12,
        fit_every: int = 96,
        epochs: int = 25,
        patience: int = 10,
        batch_size: int = 32,
        held_out: float = 0.1,
        **common: Any,
    ) -> None:
        self.warm_up = check_integer("warm_up", warm_up, 0)
        self.warm_up_fit_every = check_integer("warm_up_fit_every", warm_up_fit_every, 2)
        self.fit_every = check_integer("fit_every", fit_every, 2)
        self.epochs = check_integer("epochs", epochs, 1)
        self.patience = check_integer("patience", patience, 1)
        self.batch_size = check_integer("batch_size", batch_size, 1)
        self.held_out = check_share("held_out", held_out)
        if held_out in (0, 1):
            raise ValueError(f"held_out={held_out} must lie between 0 and 1")
        super().__init__(policy, env, learning_rate=learning_rate, **common)

    def _setup_model(self) -> None:
        name = type(self).__name__
        check_box("observations", self.observation_space, name)
        check_box("actions", self.action_space, name)
        assert isinstance(self.action_space, spaces.Box)
        if not self.action_space.is_bounded():
            raise ValueError(f"{name} needs bounded actions, got {self.action_space}")
        super()._setup_model()
        self.columns: dict[str, list[NDArray[np.float32]]] = {name: [] for name in COLUMNS}
        self.fitted_at: int | None = None

    def act(self, observations: NDArray[Any], masks: Mask | None) -> NDArray[Any]:
        """Actions of plans, [n, A]; random ones before the first fit."""
        count = len(observations)
        if not self.policy.fitted:
            scaled = self.generator.uniform(-1, 1, (count, *self.action_space.shape))  # type: ignore[misc]
        else:
            seen = torch.as_tensor(observations, dtype=torch.float32, device=self.device)
            explore = self.num_timesteps < self.warm_up
            noise = self.policy.fresh_noise(count)
            scaled = self.policy.plan(seen, noise, explore).cpu().numpy()
        return self.policy.unscale_action(scaled.astype(np.float32))

    def learn_from(self, transitions: Transitions) -> dict[str, float]:
        """Record a step of every environment, and fit the model where that is due."""
        rows = {
            "observations": transitions.observations,
            "actions": self.policy.scale_action(transitions.actions),
            "next_observations": transitions.next_observations,
            "rewards": transitions.rewards,
            "ends": transitions.terminated,
        }
        for name, row in rows.items():
            self.columns[name].append(row.astype(np.float32))
        return self.fit() if self.fit_is_due() else {}

    def fit_is_due(self) -> bool:
        """Whether steps enough were taken since the last fit, or counting began anew."""
        done, before = self.num_timesteps, self.fitted_at
        every = self.warm_up_fit_every if done <= self.warm_up else self.fit_every
        if before is None or done < before:
            return done >= every
        return done - before >= every or before < self.warm_up <= done

    def fit(self) -> dict[str, float]:
        """Fit the model to all that was recorded; returns what to log."""
        data = Steps(*(each.to(self.device) for each in self.recorded().values()))
        found = fit_ensemble(
            *(self.policy.dynamics, self.policy.optimizer, data, self.losses),
            batch_size=self.batch_size,
            held_out=self.held_out,
            patience=self.patience,
            max_epochs=self.epochs,
        )
        both = torch.cat([data.observations, data.next_observations])
        self.policy.low.copy_(both.amin(0))
        self.policy.high.copy_(both.amax(0))
        self.policy.fitted.fill_(True)
        self.fitted_at = self.num_timesteps
        return {"train/model_loss": float(found.losses.mean())}

    def recorded(self) -> dict[str, torch.Tensor]:
        """All steps that were recorded, [N, ...] by column; empty before the first."""
        filled = {name: parts for name, parts in self.columns.items() if parts}
        return {name: torch.from_numpy(np.concatenate(parts)) for name, parts in filled.items()}

    def losses(self, prediction: Prediction, steps: Steps) -> torch.Tensor:
        """Gaussian loss of every member, with that of the ends, [E]."""
        dynamics = self.policy.dynamics
        errors, reward_errors = dynamics.scaled_errors(prediction, steps)
        assert prediction.log_variances is not None
        errors = torch.cat([errors, reward_errors[..., None]], -1)
        found = gaussian_loss(errors, prediction.log_variances) + dynamics.width()
        return found + dynamics.end_losses(prediction, steps)

    # -- checkpoints -------------------------------------------------------------------------------

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "policy.optimizer"], []

    def extra_state(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """When the model was fitted."""
        return {"fitted_at": self.fitted_at}, {}

    def restore_extra_state(self, values: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        """Inverse of `extra_state`."""
        self.fitted_at = values["fitted_at"]

    def learning_state(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """As the base's, with what was recorded."""
        values, tensors = super().learning_state()
        return values, tensors | self.recorded()

    def restore_learning_state(
        self, values: dict[str, Any], tensors: dict[str, torch.Tensor]
    ) -> None:
        """Inverse of `learning_state`."""
        super().restore_learning_state(values, tensors)
        found = {name: [tensors[name].numpy().copy()] for name in COLUMNS if name in tensors}
        self.columns = {name: found.get(name, []) for name in COLUMNS}
