"""Learned dynamics: an ensemble that predicts steps of an environment, and how it is fitted.

K. Chua, R. Calandra, R. McAllister, S. Levine: Deep Reinforcement Learning in a Handful of Trials
using Probabilistic Dynamics Models (PETS, NeurIPS 2018, arXiv 1805.12114). M. Janner, J. Fu,
M. Zhang, S. Levine: When to Trust Your Model: Model-Based Policy Optimization (MBPO, NeurIPS 2019,
arXiv 1906.08253), whose members each learn from a bootstrap sample until none improves on steps
held out, and whose best members are the elites.

Both are given when an episode ends as a function of the next state. Here every member also learns
it, as a logit, where episodes are seen to end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from .nets.ensemble import EnsembleLinear

HELD_OUT = 5_000  # steps at most, as in MBPO
IMPROVEMENT = 0.01  # of a loss on steps held out, relative, below which it counts as none
NARROWEST = 1e-6  # standard deviation below which a number counts as constant


@dataclass(frozen=True)
class Steps:
    """Recorded steps, a row each.

    Attributes:
        observations, next_observations: [..., D].
        actions: [..., A].
        rewards: [...].
        ends: whether the task ended with the step, 0 or 1, [...].
        context: what else a loss needs to know of each, [..., ...]; None: nothing.
    """

    observations: torch.Tensor
    actions: torch.Tensor
    next_observations: torch.Tensor
    rewards: torch.Tensor
    ends: torch.Tensor
    context: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.rewards)

    def __getitem__(self, rows: torch.Tensor) -> Steps:
        context = None if self.context is None else self.context[rows]
        return Steps(
            self.observations[rows],
            self.actions[rows],
            self.next_observations[rows],
            self.rewards[rows],
            self.ends[rows],
            context,
        )

    def with_context(self, context: torch.Tensor) -> Steps:
        """The same steps with a context, a row for each."""
        return replace(self, context=context)

    @property
    def differences(self) -> torch.Tensor:
        """Next observation minus observation, [..., D]."""
        return self.next_observations - self.observations


@dataclass(frozen=True)
class Prediction:
    """What E members expect of B steps, in the units of the data.

    Attributes:
        differences: means, next observation minus observation, [E, B, D].
        rewards: means, [E, B].
        end_logits: of the end of the task, [E, B].
        log_variances: of differences and reward in the units of the loss, [E, B, D + 1]; None:
            the members are deterministic.
    """

    differences: torch.Tensor
    rewards: torch.Tensor
    end_logits: torch.Tensor
    log_variances: torch.Tensor | None = None


def squared_error_loss(
    errors: torch.Tensor, reward_errors: torch.Tensor, weights: torch.Tensor | float = 1.0
) -> torch.Tensor:
    """Means of weight * error^2 over batch and dimensions, and of reward errors^2, added up, [...].

    Args:
        errors: predicted minus true differences, [..., B, D].
        reward_errors: [..., B].
        weights: of the squared errors, broadcast against them.
    """
    return (weights * errors.square()).mean((-2, -1)) + reward_errors.square().mean(-1)


def gaussian_loss(errors: torch.Tensor, log_variances: torch.Tensor) -> torch.Tensor:
    """Twice the negative log-likelihood of errors, up to a constant, means over the last two
    dimensions, [...]; both [..., B, D]."""
    return (errors.square() * (-log_variances).exp() + log_variances).mean((-2, -1))


class DynamicsEnsemble(nn.Module):
    """E networks that predict difference, reward and end of a step.

    Inputs are standardised with the moments of the data. So are targets, where that is asked for;
    then losses count errors in standard deviations.

    Args:
        observation_size, action_size: D and A.
        hidden: widths of the hidden layers.
        members: E.
        elites: how many of them, the best on steps held out, make predictions; at most E.
        stochastic: whether members predict variances, too.
        standardise_targets: whether targets are standardised.

    Attributes:
        elites: their numbers, best first.
        ends: whether ends have been seen; before, none is predicted.
    """

    input_mean: torch.Tensor
    input_std: torch.Tensor
    target_mean: torch.Tensor
    target_std: torch.Tensor
    elites: torch.Tensor
    ends: torch.Tensor

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        hidden: Sequence[int],
        members: int,
        elites: int,
        *,
        stochastic: bool = False,
        standardise_targets: bool = False,
    ) -> None:
        super().__init__()
        inputs, targets = observation_size + action_size, observation_size + 1
        self.members, self.targets = members, targets
        self.standardise_targets = standardise_targets
        outputs = targets + 1 + stochastic * targets
        sizes = [inputs, *hidden, outputs]
        self.layers = nn.ModuleList(
            EnsembleLinear(members, *pair) for pair in zip(sizes[:-1], sizes[1:], strict=True)
        )
        self.highest = self.lowest = None
        if stochastic:  # bounds that are learned: beyond the data a variance would be arbitrary
            self.highest = nn.Parameter(torch.full((targets,), 0.5))
            self.lowest = nn.Parameter(torch.full((targets,), -10.0))
        self.register_buffer("input_mean", torch.zeros(inputs))
        self.register_buffer("input_std", torch.ones(inputs))
        self.register_buffer("target_mean", torch.zeros(targets))
        self.register_buffer("target_std", torch.ones(targets))
        self.register_buffer("elites", torch.arange(elites))
        self.register_buffer("ends", torch.tensor(False))

    def forward(
        self,
        observations: torch.Tensor,
        actions: torch.Tensor,
        members: torch.Tensor | None = None,
    ) -> Prediction:
        """Predictions for batches of the members, [E, B, ...], or for one for all, [B, ...].

        Args:
            observations: [E, B, D] or [B, D].
            actions: [E, B, A] or [B, A].
            members: int [E], which members the batches are for; None: all, in their order.
        """
        hidden = torch.cat([observations, actions], -1)
        hidden = (hidden - self.input_mean) / self.input_std
        if hidden.dim() == 2:
            hidden = hidden.expand(self.members if members is None else len(members), -1, -1)
        for layer in self.layers[:-1]:
            hidden = F.silu(layer(hidden, members))
        sizes = [self.targets, 1, 0 if self.highest is None else self.targets]
        means, ends, rest = self.layers[-1](hidden, members).split(sizes, -1)
        log_variances = None
        if self.highest is not None and self.lowest is not None:
            log_variances = self.highest - F.softplus(self.highest - rest)
            log_variances = self.lowest + F.softplus(log_variances - self.lowest)
        means = self.target_mean + self.target_std * means
        return Prediction(means[..., :-1], means[..., -1], ends[..., 0], log_variances)

    @torch.no_grad()
    def step(
        self, observations: torch.Tensor, actions: torch.Tensor, members: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Next observations [E, B, D], rewards [E, B] and ends bool [E, B]; drawn where the members
        predict variances.

        Raises:
            ValueError: a prediction is not finite.
        """
        found = self(observations, actions, members)
        targets = torch.cat([found.differences, found.rewards[..., None]], -1)
        if found.log_variances is not None:
            spread = (found.log_variances / 2).exp() * self.target_std
            targets = targets + spread * torch.randn_like(targets)
        if not torch.isfinite(targets).all():
            raise ValueError("the model predicts numbers that are not finite")
        ends = self.ends & (found.end_logits > 0)
        return observations + targets[..., :-1], targets[..., -1], ends

    def standardise(self, data: Steps) -> None:
        """Take the moments of the data, and whether an end is among them."""
        inputs = torch.cat([data.observations, data.actions], -1)
        self._moments("input", inputs)
        if self.standardise_targets:
            self._moments("target", torch.cat([data.differences, data.rewards[:, None]], -1))
        self.ends.fill_(bool(data.ends.any()))

    def _moments(self, name: str, rows: torch.Tensor) -> None:
        std = rows.std(0, correction=0)
        getattr(self, f"{name}_mean").copy_(rows.mean(0))
        getattr(self, f"{name}_std").copy_(torch.where(std < NARROWEST, torch.ones_like(std), std))

    def scaled_errors(
        self, prediction: Prediction, steps: Steps
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Errors of differences [E, B, D] and rewards [E, B], in the units of the targets."""
        return (
            (prediction.differences - steps.differences) / self.target_std[:-1],
            (prediction.rewards - steps.rewards) / self.target_std[-1],
        )

    def width(self) -> torch.Tensor:
        """What the bounds of the log-variances cost, so that they close in on what is needed."""
        if self.highest is None or self.lowest is None:
            return torch.zeros(())
        return 0.01 * (self.highest.sum() - self.lowest.sum())

    def end_losses(self, prediction: Prediction, steps: Steps) -> torch.Tensor:
        """Cross-entropy of the ends per member, [E]; 0 as long as none was seen."""
        logits = prediction.end_logits
        if not self.ends:
            return torch.zeros_like(logits[:, 0])
        targets = steps.ends.expand_as(logits)
        return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(-1)


class Fit(NamedTuple):
    """How a fit went: epochs, and every member's loss on the steps held out, [E]."""

    epochs: int
    losses: torch.Tensor


def fit_ensemble(
    dynamics: DynamicsEnsemble,
    optimizer: torch.optim.Optimizer,
    data: Steps,
    losses: Callable[[Prediction, Steps], torch.Tensor],
    *,
    batch_size: int,
    held_out: float,
    patience: int,
    max_epochs: int,
) -> Fit:
    """Fit all members until none has improved on steps held out for `patience` epochs.

    Every member learns from a bootstrap sample of its own, goes back to the parameters with which
    it was best, and the best become the elites. What is drawn comes from torch's generator.

    Args:
        dynamics: goes on from its present parameters.
        optimizer: of its parameters.
        data: at least two steps.
        losses: per member, [E], of a prediction and the steps that it is for: [E, B] of them in
            learning, [B] for all members where they are held out.
        batch_size: of each member.
        held_out: share of the data that is held out, at least one step and at most 5,000.
        patience, max_epochs: in passes over the bootstrap samples.

    Raises:
        ValueError: there are fewer than two steps, or a loss is not a number.
    """
    if len(data) < 2:
        raise ValueError(f"a model needs at least 2 steps to learn from, got {len(data)}")
    dynamics.standardise(data)
    order = torch.randperm(len(data), device=data.rewards.device)
    held = min(max(round(held_out * len(data)), 1), HELD_OUT, len(data) - 1)
    outside, inside = data[order[:held]], order[held:]

    def judged() -> torch.Tensor:
        with torch.no_grad():
            found = losses(dynamics(outside.observations, outside.actions), outside)
        if not torch.isfinite(found).all():
            raise ValueError(f"the losses of the model on steps held out are {found.tolist()}")
        return found

    best = judged()
    members = len(best)
    kept = {name: each.detach().clone() for name, each in dynamics.layers.named_parameters()}
    drawn = torch.randint(len(inside), (members, len(inside)), device=inside.device)
    samples = inside[drawn]
    epoch = since = 0
    while since < patience and epoch < max_epochs:
        shuffled = samples.gather(1, torch.rand(samples.shape, device=samples.device).argsort(1))
        for rows in shuffled.split(batch_size, 1):
            steps = data[rows]
            optimizer.zero_grad()
            losses(dynamics(steps.observations, steps.actions), steps).mean().backward()
            optimizer.step()
        epoch += 1
        found = judged()
        improved = best - found > IMPROVEMENT * best.abs()
        since = 0 if improved.any() else since + 1
        best = torch.where(improved, found, best)
        for name, each in dynamics.layers.named_parameters():
            kept[name][improved] = each.detach()[improved]
    with torch.no_grad():
        for name, each in dynamics.layers.named_parameters():
            each.copy_(kept[name])
    dynamics.elites.copy_(best.argsort()[: len(dynamics.elites)])
    return Fit(epoch, best)
