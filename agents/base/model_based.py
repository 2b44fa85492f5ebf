"""MBPO: Model-Based Policy Optimization, in stages of which a subclass overrides the one that its
paper changes.

M. Janner, J. Fu, M. Zhang, S. Levine: When to Trust Your Model: Model-Based Policy Optimization
(NeurIPS 2019, arXiv 1906.08253).

SAC that learns from steps which a model imagines. Every so many steps the ensemble is fitted to all
that was recorded, and short rollouts branch off from recorded observations, with the present
policy's actions and a random elite's predictions. They replace the oldest rollouts. Stages beside
those of `sac.py`, from the outside to the inside:

    run_steps -> fit_model (context, member_losses (model_losses))
              -> imagine
    sample (imagined steps, and a share of recorded ones)

MBPO's own loss is the Gaussian likelihood, or with deterministic members the squared error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.type_aliases import GymEnv, ReplayBufferSamples

from ...envs.checks import check_flag, check_integer, check_number, check_share
from .declare import Example
from .dynamics import (
    DynamicsEnsemble,
    Prediction,
    Steps,
    fit_ensemble,
    gaussian_loss,
    squared_error_loss,
)
from .imagined import ModelBuffer, checked_schedule, recorded, scheduled_length
from .prior_data import joined
from .sac import SoftActorCritic

Tensors = dict[str, torch.Tensor]


class MBPO(SoftActorCritic):
    """SAC on short rollouts of a learned model.

    The log has "train/model_loss" (mean of the elites on steps held out), "train/model_epochs" and
    "train/rollout_length".

    Args:
        policy: "MlpPolicy".
        env: with flat observations and actions, each a `Box`.
        members, elites: networks of the ensemble, and how many of them make rollouts.
        model_arch: widths of their hidden layers.
        stochastic: members predict Gaussians and are fitted by likelihood; with False they predict
            means and are fitted by the squared error.
        standardise_targets: differences and rewards are standardised, too, and errors count in
            standard deviations. Inputs always are.
        model_learning_rate, model_weight_decay, model_batch_size: of the fit, by Adam.
        held_out: share of the recorded steps by which a fit is judged, in (0, 1).
        patience: epochs without an improvement (of 1%) of any member that end a fit.
        max_model_epochs: of one fit.
        model_every: steps from one fit to the next.
        rollouts_per_step: rollouts for every step between two fits, all made after a fit.
        rollout_schedule: (a, b, s, l): rollouts have s steps until a steps were taken, l after b,
            and between them a number that grows linearly.
        retained: how many fits' rollouts are kept to learn from.
        real_share: share of recorded steps in a minibatch, in [0, 1].
        actor_learning_rate: a rate of the actor's own; None: `learning_rate`.
        gradient_steps: on minibatches, for every step.
        learning_starts: steps before the first fit.
        common: arguments of SB3's SAC, without `n_steps` and `optimize_memory_usage`.

    Attributes:
        dynamics: the ensemble.
        imagined: what it has imagined. `save` leaves it out, as the replay buffer; an agent that
            was loaded imagines anew.

    Raises:
        ValueError: an argument is out of range, spaces are others, or observations are normalized
            on the way; in learning, losses or predictions of the model are not finite.
    """

    example = Example(
        "TorquePendulum-v0",
        {"max_steps": 10},
        kwargs={
            "members": 3,
            "elites": 2,
            "model_arch": [8],
            "max_model_epochs": 3,
            "model_every": 20,
            "rollouts_per_step": 4,
            "rollout_schedule": [40, 80, 1, 3],
            "retained": 2,
            "gradient_steps": 2,
            "learning_starts": 20,
            "batch_size": 16,
            "buffer_size": 1_000,
            "policy_kwargs": {"net_arch": [16]},
        },
        steps=120,
    )
    dynamics: DynamicsEnsemble

    def __init__(
        self,
        policy: Any,
        env: GymEnv | str | None,
        *,
        members: int = 7,
        elites: int = 5,
        model_arch: Sequence[int] = (200, 200, 200, 200),
        stochastic: bool = True,
        standardise_targets: bool = False,
        model_learning_rate: float = 1e-3,
        model_weight_decay: float = 5e-5,
        model_batch_size: int = 256,
        held_out: float = 0.2,
        patience: int = 10,
        max_model_epochs: int = 200,
        model_every: int = 250,
        rollouts_per_step: int = 400,
        rollout_schedule: Sequence[int] = (20_000, 150_000, 1, 5),
        retained: int = 4,
        real_share: float = 0.05,
        actor_learning_rate: float | None = None,
        gradient_steps: int = 20,
        learning_starts: int = 5_000,
        **common: Any,
    ) -> None:
        self.members = check_integer("members", members, 1)
        self.elites = check_integer("elites", elites, 1, self.members)
        self.model_arch = [check_integer("model_arch", width, 1) for width in model_arch]
        self.stochastic = check_flag("stochastic", stochastic)
        self.standardise_targets = check_flag("standardise_targets", standardise_targets)
        self.model_learning_rate = check_number("model_learning_rate", model_learning_rate, 0.0)
        self.model_weight_decay = check_number("model_weight_decay", model_weight_decay, 0.0)
        self.model_batch_size = check_integer("model_batch_size", model_batch_size, 1)
        self.held_out = check_share("held_out", held_out)
        if held_out in (0, 1):
            raise ValueError(f"held_out={held_out} must lie between 0 and 1")
        self.patience = check_integer("patience", patience, 1)
        self.max_model_epochs = check_integer("max_model_epochs", max_model_epochs, 1)
        self.model_every = check_integer("model_every", model_every, 1)
        self.rollouts_per_step = check_integer("rollouts_per_step", rollouts_per_step, 1)
        self.rollout_schedule = checked_schedule(rollout_schedule)
        self.retained = check_integer("retained", retained, 1)
        self.real_share = check_share("real_share", real_share)
        if actor_learning_rate is not None:
            check_number("actor_learning_rate", actor_learning_rate, 0.0)
        self.actor_learning_rate = actor_learning_rate
        action_space = getattr(env, "single_action_space", getattr(env, "action_space", None))
        if action_space is not None:
            check_box("actions", action_space, type(self).__name__)
        super().__init__(
            policy,
            env,  # type: ignore[arg-type]
            gradient_steps=gradient_steps,
            learning_starts=learning_starts,
            **common,
        )

    def _setup_model(self) -> None:
        name = type(self).__name__
        check_box("observations", self.observation_space, name)
        if self.n_steps != 1:
            raise ValueError(f"n_steps={self.n_steps}: a model predicts one step, it must be 1")
        if self.optimize_memory_usage:
            raise ValueError("optimize_memory_usage must be off: a model learns from them all")
        self._check_unnormalized()
        super()._setup_model()
        assert isinstance(self.action_space, spaces.Box)
        self.dynamics = DynamicsEnsemble(
            self.observation_space.shape[0],  # type: ignore[index]
            self.action_space.shape[0],
            self.model_arch,
            self.members,
            self.elites,
            stochastic=self.learns_variances,
            standardise_targets=self.standardise_targets,
        ).to(self.device)
        self.dynamics_optimizer = torch.optim.Adam(
            self.dynamics.parameters(),
            lr=self.model_learning_rate,
            weight_decay=self.model_weight_decay,
            fused=True,
        )
        if self.actor_learning_rate is not None:
            for group in self.actor.optimizer.param_groups:
                group["lr"] = self.actor_learning_rate
        self.imagined = ModelBuffer(self.retained)
        self.fitted_at: int | None = None

    @property
    def learns_variances(self) -> bool:
        """Whether the members predict variances."""
        return self.stochastic

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """As SB3's."""
        super().set_env(env, force_reset)
        self._check_unnormalized()

    def _check_unnormalized(self) -> None:
        if self._vec_normalize_env is not None:
            raise ValueError(
                "the model standardises observations itself: learn without VecNormalize, whose "
                "moments move under what was imagined before"
            )

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """As the base's, without the actor's where it has a rate of its own."""
        first, *others = super().optimizers()
        return [first, *others] if self.actor_learning_rate is None else others

    # -- the model ---------------------------------------------------------------------------------

    def run_steps(self, gradient_steps: int, batch_size: int) -> None:
        """As the base's, after a fit of the model and new rollouts where they are due."""
        data, due = None, self.fit_is_due()
        if due or not self.imagined.blocks:  # nothing is imagined in an agent that was just loaded
            data = recorded(self.replay_buffer)
        if data is not None and due and len(data) > 1:
            self.fit_model(data)
            self.fitted_at = self.num_timesteps
        if self.fitted_at is None:
            return  # there is a single step yet
        if data is not None:
            self.imagined.add(self.imagine(data))
        super().run_steps(gradient_steps, batch_size)

    def fit_is_due(self) -> bool:
        """Whether `model_every` steps were taken since the last fit, or counting began anew."""
        done = self.num_timesteps
        fitted = self.fitted_at
        return fitted is None or done < fitted or done - fitted >= self.model_every

    def fit_model(self, data: Steps) -> None:
        """Fit the ensemble to all recorded steps."""
        fit = fit_ensemble(
            self.dynamics,
            self.dynamics_optimizer,
            self.context(data),
            self.member_losses,
            batch_size=self.model_batch_size,
            held_out=self.held_out,
            patience=self.patience,
            max_epochs=self.max_model_epochs,
        )
        self.note(
            model_loss=fit.losses[self.dynamics.elites].mean(),
            model_epochs=torch.tensor(float(fit.epochs)),
        )

    def context(self, data: Steps) -> Steps:
        """The recorded steps with what `model_losses` needs beside, found once per fit."""
        return data

    def member_losses(self, prediction: Prediction, steps: Steps) -> torch.Tensor:
        """Loss of every member, that of the ends included, [E]."""
        return self.model_losses(prediction, steps) + self.dynamics.end_losses(prediction, steps)

    def model_losses(self, prediction: Prediction, steps: Steps) -> torch.Tensor:
        """Loss of every member in differences and rewards, [E]: the stage of papers on models."""
        errors, reward_errors = self.dynamics.scaled_errors(prediction, steps)
        if prediction.log_variances is None:
            return squared_error_loss(errors, reward_errors)
        errors = torch.cat([errors, reward_errors[..., None]], -1)
        return gaussian_loss(errors, prediction.log_variances) + self.dynamics.width()

    @torch.no_grad()
    def imagine(self, data: Steps) -> list[torch.Tensor]:
        """Rollouts from recorded observations, as columns of `ModelBuffer`.

        The starts fall into as many groups as there are elites; at every step each group gets
        another random elite.
        """
        groups, elites = len(self.dynamics.elites), self.dynamics.elites
        size = math.ceil(self.rollouts_per_step * self.model_every / groups)
        length = scheduled_length(self.num_timesteps, self.rollout_schedule)
        rows = torch.randint(len(data), (groups, size), device=self.device)
        states, alive = data.observations[rows], torch.ones_like(rows, dtype=torch.bool)
        found = []
        for _ in range(length):
            actions = self.actor(states.flatten(0, 1)).unflatten(0, (groups, size))
            members = elites[torch.randperm(groups, device=self.device)]
            following, rewards, ends = self.dynamics.step(states, actions, members)
            columns = (states, actions, following, ends[..., None].float(), rewards[..., None])
            found.append([column[alive] for column in columns])
            states, alive = following, alive & ~ends
            if not alive.any():
                break
        self.note(rollout_length=torch.tensor(float(length)))
        return [torch.cat(column) for column in zip(*found, strict=True)]

    def sample(self, batch_size: int) -> ReplayBufferSamples:
        """Imagined steps and a share of recorded ones."""
        real = round(self.real_share * batch_size)
        if real == batch_size:
            return super().sample(batch_size)
        drawn = self.imagined.sample(batch_size - real)
        return joined(drawn, super().sample(real)) if real else drawn

    # -- checkpoints -------------------------------------------------------------------------------

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        names, variables = super()._get_torch_save_params()
        return [*names, "dynamics", "dynamics_optimizer"], variables

    def extra_state(self) -> tuple[dict[str, Any], Tensors]:
        """As the base's, with the time of the last fit."""
        values, tensors = super().extra_state()
        return values | {"fitted_at": self.fitted_at}, tensors

    def restore_extra_state(self, values: dict[str, Any], tensors: Tensors) -> None:
        """Inverse of `extra_state`."""
        super().restore_extra_state(values, tensors)
        self.fitted_at = values["fitted_at"]

    def learning_state(self) -> tuple[dict[str, Any], Tensors]:
        """As the base's, with what was imagined."""
        values, tensors = super().learning_state()
        columns = zip(ModelBuffer.names, self.imagined.columns, strict=False)  # none at the start
        tensors |= {f"imagined.{name}": column for name, column in columns}
        return values | {"imagined": self.imagined.blocks}, tensors

    def restore_learning_state(self, values: dict[str, Any], tensors: Tensors) -> None:
        """Inverse of `learning_state`."""
        super().restore_learning_state(values, tensors)
        self.imagined.blocks = values["imagined"]
        if self.imagined.blocks:
            self.imagined.columns = [
                tensors[f"imagined.{name}"].to(self.device) for name in ModelBuffer.names
            ]


def check_box(what: str, space: gym.Space[Any], agent: str) -> None:
    """ValueError unless a space is a flat `Box` of floats."""
    flat = isinstance(space, spaces.Box) and len(space.shape) == 1
    if not flat or not np.issubdtype(space.dtype, np.floating):
        raise ValueError(f"{agent} needs {what} in a flat Box of floats, got {space}")
