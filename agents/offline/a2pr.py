"""A2PR: adaptive advantage-guided policy regularization.

Tenglong Liu, Yang Li, Yixing Lan, Hao Gao, Wei Pan, Xin Xu: Adaptive Advantage-Guided Policy
Regularization for Offline Reinforcement Learning (ICML 2024, arXiv 2405.19909); code:
https://github.com/ltlhuuu/A2PR.

TD3+BC pulls the actor towards every recorded action, good or bad. A2PR pulls it towards the better
one of two, the recorded action and one that a variational autoencoder proposes, and only where that
one is better than what is usual at the state. The autoencoder learns the recorded actions that are
better than usual, so it stands for an improved behaviour policy. Actions lie in [-1, 1]^d.

    usual          V(s) -> min(y, r + gamma (1 - terminated) min_k Q_k(s', a')), squared error;
                   y is the target of the critics, a' the next action there, Q_k are the critics
    autoencoder    L = mean w 1[Q_1(s, a) > V(s)] (decoded - a)^2 + 1/2 KL,
                   KL = mean 1/2 (mean^2 + std^2 - 1 - log std^2)
    proposal       a^ = what the autoencoder makes of pi(s)
    guide          abar = a^ where Q_1(s, a^) >= Q_1(s, a), otherwise a
    where          h = 1[Q_1(s, a^) >= V(s) or Q_1(s, a) > V(s)]
    actor          L_pi = -lambda mean Q_1(s, pi(s)) + mean c h (pi(s) - abar)^2

Means are over steps and dimensions. V(s) is the value before its own step of the same update, as in
the authors' code. There a^ is also a function of pi(s) for the gradient, which goes through the
autoencoder without changing it; `detach_guide` makes a^ a constant. Beside TD3+BC's stages:

    learn_from -> value_targets
               -> update_value
               -> update_autoencoder
               -> update_actor (actor_loss (regulariser))
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from stable_baselines3.common.type_aliases import GymEnv
from torch.nn import functional as F

from ...envs.checks import check_flag, check_number
from ...envs.control.line_world_data import mostly_bad_steps
from ..base.declare import Claim, Example, NotInferior, Outcome, Paper
from ..base.offline_actor_critic import Batch, bellman_targets, descend
from ..base.offline_data import OfflineDataset
from .a2pr_networks import A2PRPolicy, ActionAutoencoder, Reconstruction
from .base_iql import StateValue
from .base_td3_bc import TD3BC
from .line_world_trials import learned_on_the_line, line_data

# -- the paper's computation ----------------------------------------------------------------------


def autoencoder_loss(
    found: Reconstruction, actions: torch.Tensor, better: torch.Tensor, weight: float
) -> torch.Tensor:
    """mean w g (decoded - a)^2 + 1/2 KL, a scalar.

    Args:
        found: what came back of the actions.
        actions: recorded ones, [B, d].
        better: g, 1 where an action is to be learned and 0 elsewhere, [B].
        weight: w.
    """
    errors = better[:, None] * (found.actions - actions).square()
    divergence = 0.5 * (found.mean.square() + (2 * found.log_std).exp() - 1 - 2 * found.log_std)
    return weight * errors.mean() + 0.5 * divergence.mean()


def advantage_guide(
    proposed: torch.Tensor,
    recorded: torch.Tensor,
    proposed_values: torch.Tensor,
    recorded_values: torch.Tensor,
    state_values: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The better one of two actions, and whether it is better than what is usual.

    Args:
        proposed, recorded: the actions, [B, d].
        proposed_values, recorded_values: Q_1 of them, [B].
        state_values: V(s), [B].

    Returns:
        abar [B, d]; h, bool [B]; and where abar is the proposed action, bool [B]: of two equally
        good ones it is that.
    """
    chosen = proposed_values >= recorded_values
    applies = (proposed_values >= state_values) | (recorded_values > state_values)
    return torch.where(chosen[:, None], proposed, recorded), applies, chosen


def guided_distance(
    actions: torch.Tensor, guide: torch.Tensor, applies: torch.Tensor
) -> torch.Tensor:
    """mean h (pi(s) - abar)^2 over steps and dimensions, a scalar.

    Args:
        actions, guide: pi(s) and abar, [B, d].
        applies: h, bool [B].
    """
    return (applies[:, None] * (actions - guide).square()).mean()


# -- the agent ------------------------------------------------------------------------------------


class A2PR(TD3BC):
    """TD3 that is pulled towards actions of positive advantage, recorded or proposed.

    Args:
        policy: "MlpPolicy", or an `A2PRPolicy`; `policy_kwargs` may set `autoencoder_arch`.
        env, common: as in `TD3BC`; the paper has alpha = 40 where data are dense (HalfCheetah), 2.5
            elsewhere.
        constraint_weight: c, at least 0, the paper's mask.
        autoencoder_weight: w, at least 0.
        autoencoder_rate: learning rate of the autoencoder, at least 0; no schedule.
        detach_guide: whether the proposal is a constant for the actor's gradient.

    Raises:
        ValueError: as in `TD3BC`.
    """

    paper = Paper(
        slug="a2pr",
        title="Adaptive Advantage-Guided Policy Regularization for Offline Reinforcement Learning",
        authors="Tenglong Liu, Yang Li, Yixing Lan, Hao Gao, Wei Pan, Xin Xu",
        year=2024,
        arxiv="2405.19909",
        code="github.com/ltlhuuu/A2PR",
    )
    example = Example(
        TD3BC.example.env,
        TD3BC.example.env_kwargs,
        kwargs={
            "batch_size": 16,
            "policy_kwargs": {"net_arch": [16], "autoencoder_arch": [16]},
        },
        steps=40,
        data=TD3BC.example.data,
    )
    policy_aliases: ClassVar[dict[str, Any]] = {"MlpPolicy": A2PRPolicy}
    policy: A2PRPolicy
    value: StateValue
    autoencoder: ActionAutoencoder

    def __init__(
        self,
        policy: Any,
        env: OfflineDataset | GymEnv | str | None,
        *,
        constraint_weight: float = 1.0,
        autoencoder_weight: float = 1.0,
        autoencoder_rate: float = 1e-3,
        detach_guide: bool = False,
        **common: Any,
    ) -> None:
        self.constraint_weight = check_number("constraint_weight", constraint_weight, 0)
        self.autoencoder_weight = check_number("autoencoder_weight", autoencoder_weight, 0)
        self.autoencoder_rate = check_number("autoencoder_rate", autoencoder_rate, 0)
        self.detach_guide = check_flag("detach_guide", detach_guide)
        super().__init__(policy, env, **common)

    def _setup_model(self) -> None:
        super()._setup_model()
        self.value, self.autoencoder = self.policy.value, self.policy.autoencoder
        self.autoencoder.optimizer = self.policy.optimizer_class(
            self.autoencoder.parameters(),
            lr=self.autoencoder_rate,  # type: ignore[call-arg]
            **self.policy.optimizer_kwargs,
        )

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Those that follow the schedule of the learning rate: not the autoencoder's."""
        return [*super().optimizers(), self.value.optimizer]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        parts, variables = super()._get_torch_save_params()
        return [*parts, "value.optimizer", "autoencoder.optimizer"], variables

    def learn_from(self, batch: Batch) -> dict[str, float]:
        """A step of the critics, the value and the autoencoder, and every `policy_delay`-th time of
        the actor and the targets."""
        with torch.no_grad():
            next_actions = self.next_actions(batch)
            targets = self.critic_targets(batch, next_actions)
        self.update_critic(batch, targets)
        with torch.no_grad():
            value_targets = self.value_targets(batch, next_actions, targets)
            batch["recorded_values"] = self.critic.first(batch["observations"], batch["actions"])
        batch["state_values"] = self.update_value(batch, value_targets)
        self.update_autoencoder(batch)
        if (self._n_updates + 1) % self.policy_delay == 0:
            self.update_actor(batch)
            self.update_targets()
        return {}

    def value_targets(
        self, batch: Batch, next_actions: torch.Tensor, targets: torch.Tensor
    ) -> torch.Tensor:
        """What V(s) learns, [B]; called without gradients.

        Args:
            batch: the steps.
            next_actions: a', [B, d].
            targets: y of the critics, [B].
        """
        values = self.critic.values(batch["next_observations"], next_actions).amin(dim=0)
        own = bellman_targets(batch["rewards"], batch["terminations"], values, self.gamma)
        return torch.minimum(targets, own)

    def update_value(self, batch: Batch, targets: torch.Tensor) -> torch.Tensor:
        """A step of V towards targets [B]; returns V(s) of before, [B]."""
        values: torch.Tensor = self.value(batch["observations"])
        loss = F.mse_loss(values, targets)
        self.note(value_loss=loss)
        descend(self.value.optimizer, loss)
        return values.detach()

    def update_autoencoder(self, batch: Batch) -> None:
        """A step of the autoencoder; the minibatch has `recorded_values` and `state_values`."""
        better = batch["recorded_values"] > batch["state_values"]
        found = self.reconstruct(batch, batch["actions"])
        loss = autoencoder_loss(found, batch["actions"], better, self.autoencoder_weight)
        self.note(autoencoder_loss=loss)
        descend(self.autoencoder.optimizer, loss)

    def reconstruct(self, batch: Batch, actions: torch.Tensor) -> Reconstruction:
        """What the autoencoder makes of actions [B, d], codes drawn."""
        normals = torch.randn(len(actions), self.autoencoder.code_width, device=actions.device)
        found: Reconstruction = self.autoencoder(batch["observations"], actions, normals)
        return found

    def regulariser(self, batch: Batch, actions: torch.Tensor) -> torch.Tensor:
        """c mean h (pi(s) - abar)^2, a scalar; the minibatch has `recorded_values`, Q_1(s, a), and
        `state_values`, V(s)."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.detach_guide):
            proposed = self.reconstruct(batch, actions).actions
        with torch.no_grad():
            proposed_values = self.critic.first(batch["observations"], proposed)
        guide, applies, chosen = advantage_guide(
            proposed,
            batch["actions"],
            proposed_values,
            batch["recorded_values"],
            batch["state_values"],
        )
        self.note(constrained=applies.float().mean(), proposed=chosen.float().mean())
        return self.constraint_weight * guided_distance(actions, guide, applies)


# -- the claim in miniature -----------------------------------------------------------------------

STEPS = 3_000
TUNING: dict[str, Any] = {
    **{"alpha": 1.0, "batch_size": 128, "learning_rate": 1e-3, "gamma": 0.9, "device": "cpu"},
}
NETWORKS: dict[str, Any] = {"net_arch": [64, 64]}


@torch.no_grad()
def guide_shares(agent: A2PR) -> dict[str, float]:
    """Shares of all recorded steps whose action is constrained, and whose guide is proposed."""
    assert agent.tensors is not None
    batch = agent.tensors.batch(torch.arange(len(agent.tensors)))
    batch["recorded_values"] = agent.critic.first(batch["observations"], batch["actions"])
    batch["state_values"] = agent.value(batch["observations"])
    agent.regulariser(batch, agent.actor(batch["observations"]))
    return {name: float(agent.noted[name]) for name in ("constrained", "proposed")}


def a2pr_arm(seed: int, scale: float) -> Outcome:
    """A2PR."""
    data = line_data(mostly_bad_steps(seed=seed))
    kwargs = {**NETWORKS, "autoencoder_arch": [64, 64]}
    agent = A2PR("MlpPolicy", data, seed=seed, policy_kwargs=kwargs, **TUNING)
    return learned_on_the_line(agent, int(STEPS * scale), further=lambda: guide_shares(agent))


def td3_bc_arm(seed: int, scale: float) -> Outcome:
    """TD3+BC."""
    data = line_data(mostly_bad_steps(seed=seed))
    agent = TD3BC("MlpPolicy", data, seed=seed, policy_kwargs=NETWORKS, **TUNING)
    return learned_on_the_line(agent, int(STEPS * scale))


A2PR.claim = Claim(
    text="On a line that pays for the way to the right, a fifth of 4,000 recorded steps, "
    "everywhere, goes right and the others left. After 3,000 steps with alpha = 1 the share of 50 "
    "starts from which A2PR arrives at the end is larger than TD3+BC's by more than 0.5.",
    arms={"A2PR": a2pr_arm, "TD3+BC": td3_bc_arm},
    criteria=(NotInferior("reached", "A2PR", "TD3+BC", margin=-0.5),),
    seeds=5,
    core_minutes=1.5,
    modules=(
        *("agents.offline.a2pr_networks", "agents.offline.base_iql"),
        "agents.base.twin_critic_policy",
        *("agents.offline.line_world_trials", "envs.control.line_world"),
        "envs.control.line_world_data",
    ),
)
