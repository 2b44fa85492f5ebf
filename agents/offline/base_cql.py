"""Conservative Q-learning with continuous actions: values of actions that no data show are low.

A. Kumar, A. Zhou, G. Tucker, S. Levine: Conservative Q-Learning for Offline Reinforcement Learning
(NeurIPS 2020, arXiv 2006.04779), in the form that the paper calls CQL(H). It is SAC whose critics
minimise, beside the error of Bellman's equation, how far their values stand above those of the
recorded actions:

    L_Q = sum_k mean_b (Q_k(s, a) - y)^2 + w sum_k mean_b (log int exp Q_k(s, a') da' - Q_k(s, a))
    y   = r + gamma (1 - done) min_k Qbar_k(s', a'),   a' ~ pi(. | s')

The integral is estimated from n actions each of the uniform law on [-1, 1]^d, of pi(. | s) and of
pi(. | s'), every one weighted by the inverse of the density that drew it,

    log int exp Q  ~  log sum_j exp(Q(s, a_j) - log mu_j(a_j)),

up to the constant log 3n. The weight w is fixed; or it is learned, so that the difference above
becomes a number g ("Lagrange"): log w ascends w (difference - g).

As in the authors' code the squared errors are not halved, and the target has no entropy.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import torch
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.sac.policies import Actor

from ...envs.checks import check_flag, check_integer, check_number
from ..base.declare import Example
from ..base.offline_actor_critic import (
    Batch,
    OfflineActorCritic,
    bellman_targets,
    descend,
    summed_squared_errors,
)
from ..base.offline_data import OfflineDataset
from ..base.sac import SampledActions
from .base_cql_networks import CQLPolicy, ManyActionsCritic, Multiplier

# -- functions ------------------------------------------------------------------------------------


def conservative_gap(
    values: torch.Tensor, log_densities: torch.Tensor, data_values: torch.Tensor
) -> torch.Tensor:
    """log sum_j exp(Q(s, a_j) - log mu_j(a_j)) - Q(s, a), [K, B].

    Args:
        values: Q_k(s, a_j) of drawn actions, [K, B, M].
        log_densities: of the laws that drew them, [B, M]; or a number.
        data_values: Q_k(s, a) of recorded actions, [K, B].
    """
    return torch.logsumexp(values - log_densities, dim=-1) - data_values


# -- the agent ------------------------------------------------------------------------------------


def random_steps(env: Any) -> OfflineDataset:
    """60 steps of random actions."""
    return OfflineDataset.record(env, steps=60)


class CQL(OfflineActorCritic):
    """Conservative Q-learning for continuous actions.

    The stages of a step, from the outside to the inside:

        learn_from -> sample_actions
                   -> update_temperature (temperature_loss)
                   -> next_actions
                   -> critic_targets
                   -> update_critic (critic_loss (proposals, gaps, update_weight))
                   -> update_actor (actor_loss)
                   -> update_targets

    Args:
        policy, env, batch_size, gamma, tau: as in `OfflineActorCritic`.
        learning_rate: of the critics, a number or SB3 schedule.
        actor_share: learning rate of the actor and of its temperature, as a share of
            `learning_rate`, at least 0.
        n_critics: K, at least 1.
        conservatism: w, at least 0; w_0 where it is learned.
        target_gap: g, where w is learned; None: w is fixed.
        n_actions: n, at least 1.
        ent_coef: entropy coefficient of the actor; "auto", or "auto_0.1" with where it starts: it
            is learned.
        target_entropy: of the actor where the coefficient is learned; "auto" is -d.
        entropy_backup: whether the targets have SAC's entropy term.
        normalize_observations: as in `OfflineActorCritic`; the authors leave them as they are.
        common: further arguments of `OfflineActorCritic`.

    Raises:
        ValueError: as in `OfflineActorCritic`.
    """

    policy_aliases: ClassVar[dict[str, Any]] = {"MlpPolicy": CQLPolicy}
    example = Example(
        "TorquePendulum-v0",
        {"max_steps": 10},
        kwargs={"batch_size": 16, "n_actions": 3, "policy_kwargs": {"net_arch": [16]}},
        steps=40,
        data=random_steps,
    )
    policy: CQLPolicy
    actor: Actor  # type: ignore[assignment]
    critic: ManyActionsCritic
    critic_target: ManyActionsCritic
    temperature: Multiplier | None = None
    weight: Multiplier | None = None

    def __init__(
        self,
        policy: Any,
        env: OfflineDataset | GymEnv | str | None,
        *,
        actor_share: float = 1 / 3,
        n_critics: int = 2,
        conservatism: float = 5.0,
        target_gap: float | None = None,
        n_actions: int = 10,
        ent_coef: float | str = "auto",
        target_entropy: float | str = "auto",
        entropy_backup: bool = False,
        normalize_observations: bool = False,
        **common: Any,
    ) -> None:
        self.actor_share = check_number("actor_share", actor_share, 0)
        self.n_critics = check_integer("n_critics", n_critics, 1)
        self.conservatism = check_number("conservatism", conservatism, 0)
        if target_gap is not None:
            check_number("target_gap", target_gap)
            if not conservatism:
                raise ValueError("conservatism=0 must be above 0 where it is learned (target_gap)")
        self.target_gap = target_gap
        self.n_actions = check_integer("n_actions", n_actions, 1)
        self.first_alpha = entropy_coefficient(ent_coef)
        if target_entropy != "auto":
            check_number("target_entropy", target_entropy)
        self.ent_coef, self.target_entropy = ent_coef, target_entropy
        self.entropy_backup = check_flag("entropy_backup", entropy_backup)
        super().__init__(policy, env, normalize_observations=normalize_observations, **common)

    def _setup_model(self) -> None:
        self.policy_kwargs = {**self.policy_kwargs, "n_critics": self.n_critics}
        super()._setup_model()
        self.wanted_entropy = -float(get_action_dim(self.action_space))
        if self.target_entropy != "auto":
            self.wanted_entropy = float(self.target_entropy)
        rate = self.lr_schedule(1)
        if isinstance(self.ent_coef, str):
            self.temperature = Multiplier(self.first_alpha, rate).to(self.device)
        if self.target_gap is not None:
            self.weight = Multiplier(self.conservatism, rate).to(self.device)
        self.fixed = torch.tensor([self.first_alpha, self.conservatism], device=self.device)

    def multipliers(self) -> dict[str, Multiplier]:
        """Numbers that are learned, by their name here."""
        both = {"temperature": self.temperature, "weight": self.weight}
        return {name: each for name, each in both.items() if each is not None}

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Those that follow the schedule of the learning rate."""
        return [*super().optimizers(), *(each.optimizer for each in self.multipliers().values())]

    def _update_learning_rate(
        self, optimizers: list[torch.optim.Optimizer] | torch.optim.Optimizer
    ) -> None:
        super()._update_learning_rate(optimizers)
        slower = [self.actor.optimizer]
        if self.temperature is not None:
            slower.append(self.temperature.optimizer)
        for optimizer in slower:
            for group in optimizer.param_groups:
                group["lr"] *= self.actor_share

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        parts, variables = super()._get_torch_save_params()
        for name in self.multipliers():
            parts += [name, f"{name}.optimizer"]
        return parts, variables

    def learn_from(self, batch: Batch) -> dict[str, float]:
        """One step each of the temperature, the critics, the actor and the targets."""
        sampled = self.sample_actions(batch["observations"])
        alpha = self.update_temperature(sampled)
        with torch.no_grad():
            targets = self.critic_targets(batch, self.next_actions(batch), alpha)
        self.update_critic(batch, targets)
        self.update_actor(batch, sampled, alpha)
        self.update_targets()
        return {}

    # -- actions -----------------------------------------------------------------------------------

    def law(self, observations: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and log-deviation of the actor's Gaussian, before tanh, each [B, d]."""
        mean, log_std, _ = self.actor.get_action_dist_params(observations)
        return mean, log_std

    def draw_actions(self, mean: torch.Tensor, log_std: torch.Tensor) -> SampledActions:
        """Actions [B, d] of laws given by two [B, d], and their log-densities [B]."""
        squashed: Any = self.actor.action_dist
        return SampledActions(*squashed.log_prob_from_params(mean, log_std))

    def sample_actions(self, observations: torch.Tensor) -> SampledActions:
        """Actions of the actor [B, d], and their log-densities [B]."""
        return self.draw_actions(*self.law(observations))

    def next_actions(self, batch: Batch) -> SampledActions:
        """Actions at the next observations, for the targets; called without gradients."""
        return self.sample_actions(batch["next_observations"])

    # -- temperature -------------------------------------------------------------------------------

    def update_temperature(self, sampled: SampledActions) -> torch.Tensor:
        """A step on the entropy coefficient where it is learned; returns the one before it, []."""
        if self.temperature is None:
            return self.fixed[0]
        alpha = self.temperature.value[0]
        descend(self.temperature.optimizer, self.temperature_loss(self.temperature.log, sampled))
        self.note(ent_coef=alpha)
        return alpha

    def temperature_loss(self, log_alpha: torch.Tensor, sampled: SampledActions) -> torch.Tensor:
        """Loss of log alpha [1], which falls while the entropy is above what is wanted."""
        return -(log_alpha * (sampled.log_prob.detach() + self.wanted_entropy)).mean()

    # -- critics -----------------------------------------------------------------------------------

    def critic_targets(
        self, batch: Batch, next_actions: SampledActions, alpha: torch.Tensor
    ) -> torch.Tensor:
        """y, [B]; called without gradients."""
        values = self.critic_target.values(batch["next_observations"], next_actions.actions)
        beyond = values.amin(dim=0)
        if self.entropy_backup:
            beyond = beyond - alpha * next_actions.log_prob
        return bellman_targets(batch["rewards"], batch["terminations"], beyond, self.gamma)

    def critic_loss(self, batch: Batch, targets: torch.Tensor) -> torch.Tensor:
        """L_Q, a scalar; targets y are [B]."""
        with torch.no_grad():
            proposed = self.proposals(batch)
        # The recorded actions are asked about together with the others, in one pass.
        actions = torch.cat([batch["actions"][:, None], proposed.actions], dim=1)
        values = self.critic.values(batch["observations"], actions)
        recorded, others = values[:, :, 0], values[:, :, 1:]
        errors = summed_squared_errors(recorded, targets)
        gaps = self.gaps(others, proposed.log_prob, recorded)
        self.note(error=errors, gap=gaps.mean(), data_value=recorded.mean())
        return errors + self.update_weight(gaps) * gaps.sum()

    def proposals(self, batch: Batch) -> SampledActions:
        """Actions a_j whose values are held down, [B, 3n, d], and log mu_j(a_j), [B, 3n]."""
        recorded, count = batch["actions"], self.n_actions
        shape = (len(recorded), count, recorded.shape[1])
        uniform = torch.empty(shape, device=recorded.device).uniform_(-1, 1)
        log_uniform = uniform.new_full(shape[:2], -math.log(2.0) * shape[2])
        # The actor looks once at each observation, however many actions are drawn there.
        both = torch.cat([batch["observations"], batch["next_observations"]])
        laws = (each.repeat_interleave(count, dim=0) for each in self.law(both))
        drawn = self.draw_actions(*laws)
        current, following = drawn.actions.unflatten(0, (-1, count)).chunk(2)
        log_probs = drawn.log_prob.unflatten(0, (-1, count)).chunk(2)
        return SampledActions(
            torch.cat([uniform, current, following], dim=1),
            torch.cat([log_uniform, *log_probs], dim=1),
        )

    def gaps(
        self, values: torch.Tensor, log_densities: torch.Tensor, data_values: torch.Tensor
    ) -> torch.Tensor:
        """Mean over the batch of `conservative_gap`, whose arguments these are, [K]."""
        return conservative_gap(values, log_densities, data_values).mean(dim=1)

    def update_weight(self, gaps: torch.Tensor) -> torch.Tensor:
        """A step on w where it is learned, by gaps [K]; returns the one before it, []."""
        if self.weight is None:
            return self.fixed[1]
        before = self.weight.value[0]
        descend(self.weight.optimizer, self.weight_loss(self.weight.log, gaps.detach()))
        self.note(weight=before)
        return before

    def weight_loss(self, log_weight: torch.Tensor, gaps: torch.Tensor) -> torch.Tensor:
        """Loss of log w [1], which rises while the mean of the gaps [K] is above g."""
        assert self.target_gap is not None
        return -(log_weight.exp() * (gaps - self.target_gap)).mean()

    # -- actor -------------------------------------------------------------------------------------

    def update_actor(self, batch: Batch, sampled: SampledActions, alpha: torch.Tensor) -> None:
        """A step on the actor."""
        loss = self.actor_loss(batch, sampled, alpha)
        self.note(actor_loss=loss)
        descend(self.actor.optimizer, loss)

    def actor_loss(
        self, batch: Batch, sampled: SampledActions, alpha: torch.Tensor
    ) -> torch.Tensor:
        """Mean of alpha log pi(a|s) - min_k Q_k(s, a), a scalar."""
        values = self.critic.values(batch["observations"], sampled.actions)
        return (alpha * sampled.log_prob - values.amin(dim=0)).mean()


def entropy_coefficient(given: float | str) -> float:
    """The first entropy coefficient: a number; "auto" (1) or "auto_NUMBER" where it is learned.

    Raises:
        ValueError: it is none of them.
    """
    try:
        if not isinstance(given, str):
            return check_number("ent_coef", given, 0)
        first = 1.0 if given == "auto" else float(given.removeprefix("auto_"))
        if given.startswith("auto") and 0 < first < np.inf:
            return first
    except ValueError:
        pass
    raise ValueError(
        f"ent_coef={given!r} must be a number of at least 0, 'auto', or 'auto_' with where it "
        "starts, above 0"
    )
