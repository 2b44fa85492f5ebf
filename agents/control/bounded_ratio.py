"""Bounded Ratio Reinforcement Learning: BPO, and GBPO for groups of replies.

Yunke Ao et al.: Bounded Ratio Reinforcement Learning (2026, arXiv 2604.18578).

Which policy has the largest expected advantage if no probability may change by more than given
factors? In every state, over rho = pi / pi_old,

    maximise sum_a pi_old rho Q    subject to  sum_a pi_old rho = 1,  1 - c_l <= rho <= 1 + c_h.

Actions above a quantile of Q, for equal bounds the median, get 1 + c_h, those below 1 - c_l, and
one may lie between. With an entropy of rho beside it, of weight lam, the step becomes a sigmoid,

    rho = 1 - c_l + (c_l + c_h) sigmoid((Q - mu) / lam),    mu such that sum_a pi_old rho = 1,

and both are never worse than pi_old. BPO takes PPO's place for its policy loss: with q = advantage
+ value of the rollout, the value V and a second head u, a smooth median of q,

    target = 1 - c + 2c sigmoid((q - u) / lam)
    loss   = mean |rho - target| |q - V|  +  1/2 mean (q - V)^2  +  1/2 L_u  -  entropy term
    L_u    = mean [softplus(q - u) - (q - u) / 2]        stationary where mean sigmoid(q - u) = 1/2

Between the bounds its gradient points where PPO's does; beyond the target it turns back, where
PPO's is zero. Advantages are not standardised. GBPO is the same for tokens: Q becomes the score of
a reply, u the median of its group, |q - V| the size of GRPO's advantage.

The exact steps are in `bounded_step.py`. The logarithm of a ratio is cut to [-20, 20]; the authors'
code for control does without.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.type_aliases import RolloutBufferSamples
from torch import nn
from torch.nn import functional as F

from ...envs.checks import check_number
from ..base.declare import Claim, Exact, Example, NotInferior, Outcome, Paper, Superior
from ..base.group import GroupAlgorithm
from ..base.piecewise_ppo import clipped_surrogate
from ..base.ppo import Evaluation, ProximalAlgorithm
from ..base.text.advantages import EPSILON, group_statistics, standardised
from ..base.text.losses import MOST_LOG_RATIO, ratios, token_mean
from ..base.text.token_batch import TokenBatch
from ..llm.baselines import example as text_example
from .bounded_ratio_trials import (
    BOUND,
    JUDGED,
    RATES,
    TabularLoss,
    exact_arm,
    in_tables,
    on_the_pendulum,
)
from .bounded_step import check_bounds, check_softness, target_ratio

# -- the losses -----------------------------------------------------------------------------------


def ratio_distance(
    ratio: torch.Tensor, target: torch.Tensor, advantages: torch.Tensor
) -> torch.Tensor:
    """|ratio - target| |advantage|, in their shape; a gradient has the ratio only."""
    return (ratio - target.detach()).abs() * advantages.detach().abs()


def median_loss(excess: torch.Tensor) -> torch.Tensor:
    """mean [softplus(x) - x / 2], a scalar, of x = q - u, [B]: an even function of x that grows as
    |x| / 2."""
    return (F.softplus(excess) - excess / 2).mean()


def group_medians(scores: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """Median of the group of each reply, [n]; between the two middle scores of an even group, and 0
    in a group of one. Scores float [n], groups int [n]."""
    _, member, sizes = groups.unique(return_inverse=True, return_counts=True)
    order = scores.argsort()
    ordered = scores[order[member[order].argsort(stable=True)]]
    first = sizes.cumsum(0) - sizes
    medians = (ordered[first + (sizes - 1) // 2] + ordered[first + sizes // 2]) / 2
    return torch.where(sizes > 1, medians, 0.0)[member]


def group_targets(
    scores: torch.Tensor,
    groups: torch.Tensor,
    low: float,
    high: float,
    temperature: float = 1.0,
) -> torch.Tensor:
    """Target ratios of replies, [n]: the excess is (score - median) / (std + 1e-6) / temperature.

    Args:
        scores, groups: float and int [n].
        low, high: as in `hard_ratio`.
        temperature: above 0.
    """
    check_softness("temperature", temperature)
    away = scores - group_medians(scores, groups)
    spread = group_statistics(scores, groups).std + EPSILON
    return target_ratio(away / spread / temperature, low, high)


# -- the agents -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class MedianEvaluation(Evaluation):
    """With `medians` of the returns, [B]; without a head for them, the values."""

    medians: torch.Tensor


class BPO(ProximalAlgorithm):
    """Bounded Policy Optimization.

    Args:
        policy, env, arguments: as in `stable_baselines3.PPO`, but `normalize_advantage`, which is
            off, and with other defaults.
        clip_range: c, in (0, 1], or a schedule of it.
        lam: softness of the target, above 0, in the unit of the returns.
        use_median: whether u is a head of its own; else it is V.
        median_coef: weight of L_u, at least 0.

    Logged also: `train/median_loss`; `train/clip_fraction` is the share of ratios out of bounds.

    Raises:
        ValueError: an argument is out of range, or advantages are to be normalized.
    """

    paper = Paper(
        slug="bounded_ratio",
        title="Bounded Ratio Reinforcement Learning",
        authors="Yunke Ao et al.",
        year=2026,
        arxiv="2604.18578",
        code="github.com/bounded-ratio-rl/bounded_ratio_rl",
    )
    example = Example(
        "TorquePendulum-v0",
        {"max_steps": 20},
        kwargs={"n_steps": 64, "batch_size": 32, "n_epochs": 2},
        steps=256,
    )

    def __init__(
        self,
        policy: Any,
        env: Any,
        *,
        clip_range: Any = 0.3,
        lam: float = 0.001,
        use_median: bool = True,
        median_coef: float = 0.5,
        normalize_advantage: bool = False,
        max_grad_norm: float = 1.0,
        **arguments: Any,
    ) -> None:
        if normalize_advantage:
            raise ValueError("normalize_advantage=True: BPO weighs by advantages as they are")
        if not callable(clip_range):
            check_bounds(clip_range, clip_range)
        self.lam, self.use_median = check_softness("lam", lam), use_median
        self.median_coef = check_number("median_coef", median_coef, 0.0)
        arguments |= {"clip_range": clip_range, "normalize_advantage": False}
        super().__init__(policy, env, max_grad_norm=max_grad_norm, **arguments)

    def _setup_model(self) -> None:
        super()._setup_model()
        if self.use_median:
            head = nn.Linear(self.policy.value_net.in_features, 1)
            if self.policy.ortho_init:
                self.policy.init_weights(head, gain=1.0)
            self.policy.median_net = head.to(self.device)
            self.policy.optimizer.add_param_group({"params": list(head.parameters())})

    def evaluate(self, batch: RolloutBufferSamples) -> MedianEvaluation:
        """As the base's, with medians from the features that the values are made of."""
        if not self.use_median:
            now = super().evaluate(batch)
            return MedianEvaluation(**vars(now), medians=now.values)
        seen: list[torch.Tensor] = []
        with self.policy.value_net.register_forward_pre_hook(lambda _, found: seen.extend(found)):
            now = super().evaluate(batch)
        medians = self.policy.get_submodule("median_net")(seen[0]).flatten()
        return MedianEvaluation(**vars(now), medians=medians)

    def loss(self, now: Evaluation, batch: RolloutBufferSamples) -> torch.Tensor:
        """The base's, and the loss of the medians."""
        assert isinstance(now, MedianEvaluation)
        loss = super().loss(now, batch)
        if not self.use_median:
            return loss
        found = median_loss(batch.returns - now.medians)
        self.note(median_loss=found)
        return loss + self.median_coef * found

    def policy_loss(self, now: Evaluation, batch: RolloutBufferSamples) -> torch.Tensor:
        """The weighted distance of ratios from their targets, a scalar."""
        assert isinstance(now, MedianEvaluation)
        target = target_ratio((batch.returns - now.medians) / self.lam, self.clip, self.clip)
        ratio = now.log_ratio.clamp(-MOST_LOG_RATIO, MOST_LOG_RATIO).exp()
        return ratio_distance(ratio, target, batch.returns - now.values).mean()


class GBPO(GroupAlgorithm):
    """Group-relative Bounded Policy Optimization: GRPO's advantages weigh distances from targets.

    It stands beside BPO because both losses are made of the same functions.

    Args:
        clip_low, clip_high: c_l in (0, 1] and c_h above 0.
        softness: T, above 0: the greater, the nearer targets are to the middle of the bounds.
        arguments: of `GroupAlgorithm`.

    Logged also: `train/clip_fraction`, the share of tokens whose ratio is out of bounds.

    Raises:
        ValueError: an argument is out of range.
    """

    example = text_example(epochs=2, minibatch_size=8)

    def __init__(
        self,
        policy: Any,
        env: Any,
        *,
        clip_low: float = 0.2,
        clip_high: float = 0.2,
        softness: float = 1.0,
        **common: Any,
    ) -> None:
        check_bounds(clip_low, clip_high)
        self.clip_low, self.clip_high = clip_low, clip_high
        self.softness = check_softness("softness", softness)
        super().__init__(policy, env, **common)

    def advantage(self, batch: TokenBatch) -> torch.Tensor:
        """GRPO's; a reply's target needs its whole group, too, and goes to `extra`."""
        assert batch.rewards is not None and batch.groups is not None
        bounds = self.clip_low, self.clip_high, self.softness
        batch.extra["target"] = group_targets(batch.rewards, batch.groups, *bounds)
        return standardised(batch.rewards, batch.groups)

    def token_losses(self, batch: TokenBatch) -> torch.Tensor:
        """Weighted distances of the tokens' ratios from their reply's target."""
        assert batch.log_probs is not None and batch.old_log_probs is not None
        assert batch.advantages is not None
        ratio = ratios(batch.log_probs, batch.old_log_probs)
        outside = (ratio < 1 - self.clip_low) | (ratio > 1 + self.clip_high)
        self.note(clip_fraction=token_mean(outside.float(), batch.mask))
        return ratio_distance(ratio, batch.extra["target"][:, None], batch.advantages)


# -- the claim in miniature -----------------------------------------------------------------------


def arm_of(
    agent_class: type[ProximalAlgorithm], loss: TabularLoss, goal: float, seed: int, scale: float
) -> Outcome:
    """Both tasks; `goal` times the share outside is what the arms are compared by."""
    metrics = in_tables(loss, seed, scale)
    metrics |= {goal_name(x): goal * metrics[f"outside, rate {x:g}"] for x in RATES}
    curve = on_the_pendulum(agent_class, seed, scale)
    metrics["mean return while learning"] = float(np.mean(curve[1]))
    return Outcome(metrics, {"return": curve})


def goal_name(rate: float) -> str:
    """The share outside that is compared: BPO's own, and half of PPO's."""
    return f"outside (half of it for PPO), rate {rate:g}"


def bpo_arm(seed: int, scale: float) -> Outcome:
    """BPO: in tables with PPO's bound, and with advantages divided by their deviation, so that a
    rate means the same; on the pendulum with its own bound, 0.3."""

    def loss(
        log_ratio: torch.Tensor, advantages: torch.Tensor, targets: torch.Tensor
    ) -> torch.Tensor:
        return ratio_distance(log_ratio.exp(), targets, advantages)

    return arm_of(BPO, loss, 1.0, seed, scale)


def ppo_arm(seed: int, scale: float) -> Outcome:
    """PPO with the bound 0.2 on both."""

    def loss(log_ratio: torch.Tensor, advantages: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        centred = advantages - advantages.mean(-1, keepdim=True)
        return clipped_surrogate(log_ratio, centred, BOUND)

    return arm_of(ProximalAlgorithm, loss, 0.5, seed, scale)


BPO.claim = Claim(
    text="The hard ratio has the value of the linear programme in random problems, and the soft "
    "one never loses to the old policy. In tables, for plain gradient steps of 0.25, 0.5 and 1, "
    "BPO leaves less than half as many samples outside of the bounds as PPO does, and ends within "
    "1.5% of PPO's value. On a pendulum its mean return while learning is within 5% of PPO's.",
    arms={"BPO": bpo_arm, "PPO": ppo_arm, "exact": exact_arm},
    criteria=(
        Exact("error of the exact step", "exact", value=0.0, tolerance=1e-7),
        Exact("soft steps that lose", "exact", value=0.0, tolerance=0.0),
        *(Superior(goal_name(x), "BPO", "PPO", higher_is_better=False) for x in JUDGED),
        *(
            NotInferior(f"value, rate {x:g}", "BPO", "PPO", margin=0.015, relative=True)
            for x in JUDGED
        ),
        NotInferior("mean return while learning", "BPO", "PPO", margin=0.05, relative=True),
    ),
    seeds=5,
    core_minutes=6.0,
    modules=("agents.control.bounded_step", "agents.control.bounded_ratio_trials"),
)
