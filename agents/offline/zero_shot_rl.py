"""Zero-shot RL from low-quality data: forward-backward representations that are conservative.

Scott Jeen: On Zero-Shot Reinforcement Learning (PhD thesis, University of Cambridge, 2025, arXiv
2508.16496); S. Jeen, T. Bewley, J. M. Cullen: Zero-Shot Reinforcement Learning from Low Quality
Data (NeurIPS 2024, arXiv 2309.15178).

Forward-backward representations (`base_forward_backward.py`) learn a policy for every reward at
once. From data that are few or narrow they overestimate actions that the data do not show, whatever
the task. The thesis adds alpha P to their loss, for K sampled actions a_k (all of them where they
are discrete), summed over the twins of F:

    VC-FB   P = sum mean_i ( logsumexp_k F(s_i, a_k, z_i).z_i - F(s_i, a_i, z_i).z_i )
    MC-FB   P = sum mean_ij ( logsumexp_k F(s_i, a_k, z_i).B(s'_j) - F(s_i, a_i, z_i).B(s'_j) )

alpha is fixed, or exp(log alpha) with the loss -alpha (P - target) / 2, whose step comes first.
What differs from the base:

    update_representation (representation_loss (penalty, update_alpha))

The thesis' other constraints are met by FB-M (`zero_shot_rl_memory.py`), which remembers what it
saw where states are observed in part, and by PEARL (`zero_shot_rl_planner.py`), which learns a
model on the spot where there are no data.
"""

from __future__ import annotations

from typing import Any

import torch
from stable_baselines3.common.type_aliases import GymEnv

from ...envs.checks import check_integer, check_number
from ..base.declare import Claim, Example, Outcome, Paper, Superior
from ..base.offline_actor_critic import Batch
from ..base.offline_data import OfflineDataset
from .base_cql_networks import Multiplier
from .base_forward_backward import FB, random_play
from .base_forward_backward_networks import values
from .zero_shot_rl_trials import corners

LARGEST_ALPHA = 1e6

# -- functions ------------------------------------------------------------------------------------


def value_penalty(
    forward: torch.Tensor, samples: torch.Tensor, tasks: torch.Tensor
) -> torch.Tensor:
    """P of VC-FB, a scalar.

    Args:
        forward: F of the recorded actions, [2, B, d].
        samples: F of the sampled ones, [2, K, B, d].
        tasks: z, [B, d].
    """
    sampled = values(samples, tasks).logsumexp(1)
    return (sampled - values(forward, tasks)).mean(1).sum()


def measure_penalty(
    forward: torch.Tensor, samples: torch.Tensor, backward: torch.Tensor
) -> torch.Tensor:
    """P of MC-FB, a scalar; as `value_penalty`, with B(s'_j) [B, d]."""
    sampled = (samples @ backward.T).logsumexp(1)
    return (sampled - forward @ backward.T).mean((1, 2)).sum()


def alpha_loss(alpha: torch.Tensor, penalty: torch.Tensor, target: float) -> torch.Tensor:
    """Loss of a learned alpha, which rises while the penalty is above its target."""
    return -0.5 * alpha * (penalty - target)


# -- the agents ------------------------------------------------------------------------------------


class VCFB(FB):
    """FB with low values of actions that the data do not show.

    The log has the penalty as "train/penalty" and its weight as "train/alpha".

    Args:
        policy, env: as in `FB`.
        actor_learning_rate: as in `FB`, with another default.
        alpha: weight of the penalty, at least 0; the first one where it is learned.
        target_penalty: what the penalty shall come to, by an alpha that is learned; None: alpha is
            fixed.
        action_samples: K, divisible by 6, where actions are continuous: half are uniform, the rest
            in equal thirds pi(s), pi(s') and the recorded one.
        common: as in `FB`.

    Raises:
        ValueError: as in `FB`.
    """

    paper = Paper(
        slug="zero_shot_rl",
        title="On Zero-Shot Reinforcement Learning",
        authors="Scott Jeen",
        year=2025,
        arxiv="2508.16496",
        code="https://github.com/enjeeneer/zero-shot-rl",
    )
    example = Example(
        "PointMaze-v0",
        {"layout": "open", "horizon": 10},
        kwargs={**FB.example.kwargs, "action_samples": 6},
        steps=40,
        data=random_play,
    )
    multiplier: Multiplier | None = None

    def __init__(
        self,
        policy: Any,
        env: OfflineDataset | GymEnv | str | None,
        *,
        actor_learning_rate: float | None = 3e-5,
        alpha: float = 0.01,
        target_penalty: float | None = 50.0,
        action_samples: int = 12,
        **common: Any,
    ) -> None:
        self.alpha = check_number("alpha", alpha, 0, LARGEST_ALPHA)
        if target_penalty is not None:
            check_number("target_penalty", target_penalty)
            if not alpha:
                raise ValueError("alpha=0 must be above 0 where it is learned (target_penalty)")
        self.target_penalty = target_penalty
        self.action_samples = check_integer("action_samples", action_samples, 6)
        if action_samples % 6:
            raise ValueError(
                f"action_samples={action_samples} must be divisible by 6: half of them are uniform "
                "and three kinds share the rest"
            )
        super().__init__(policy, env, actor_learning_rate=actor_learning_rate, **common)

    def _setup_model(self) -> None:
        super()._setup_model()
        if self.target_penalty is not None:
            self.multiplier = Multiplier(self.alpha, self.lr_schedule(1)).to(self.device)

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Those that follow the schedule of the learning rate."""
        return [*super().optimizers(), *([self.multiplier.optimizer] if self.multiplier else [])]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        names, variables = super()._get_torch_save_params()
        learned = ["multiplier", "multiplier.optimizer"] if self.multiplier else []
        return [*names, *learned], variables

    def representation_loss(
        self, batch: Batch, tasks: torch.Tensor, forward: torch.Tensor, backward: torch.Tensor
    ) -> torch.Tensor:
        """As the base's, with alpha P."""
        samples = self.policy.maps.samples(
            *(batch["observations"], batch["next_observations"], tasks, forward),
            *(self.action_samples, self.policy_noise, self.policy_noise_clip),
        )
        penalty = self.penalty(forward, samples, tasks, backward)
        alpha = self.update_alpha(penalty.detach())
        self.note(penalty=penalty, alpha=alpha)
        return super().representation_loss(batch, tasks, forward, backward) + alpha * penalty

    def penalty(
        self,
        forward: torch.Tensor,
        samples: torch.Tensor,
        tasks: torch.Tensor,
        backward: torch.Tensor,
    ) -> torch.Tensor:
        """P, a scalar.

        Args:
            forward: F of the recorded actions, [2, B, d].
            samples: F of the sampled ones, [2, K, B, d].
            tasks: z, [B, d].
            backward: B(s'), [B, d].
        """
        return value_penalty(forward, samples, tasks)

    def update_alpha(self, penalty: torch.Tensor) -> torch.Tensor:
        """A step on alpha where it is learned; returns the one after it, []."""
        if self.multiplier is None or self.target_penalty is None:
            return torch.tensor(self.alpha, device=self.device)
        learned = self.multiplier.log.exp().clamp(max=LARGEST_ALPHA)
        self.multiplier.optimizer.zero_grad()
        alpha_loss(learned, penalty, self.target_penalty).sum().backward()
        self.multiplier.optimizer.step()
        return self.multiplier.value[0].clamp(max=LARGEST_ALPHA)


class MCFB(VCFB):
    """FB with low successor measures of actions that the data do not show.

    Args:
        policy, env, common: as in `VCFB`.

    Raises:
        ValueError: as in `VCFB`.
    """

    def penalty(
        self,
        forward: torch.Tensor,
        samples: torch.Tensor,
        tasks: torch.Tensor,
        backward: torch.Tensor,
    ) -> torch.Tensor:
        """P, a scalar; arguments as in `VCFB`."""
        return measure_penalty(forward, samples, backward)


# -- the claim in miniature -----------------------------------------------------------------------


def fb_arm(seed: int, scale: float) -> Outcome:
    """FB."""
    return corners(FB, seed, scale)


def vcfb_arm(seed: int, scale: float) -> Outcome:
    """VC-FB, with the weight of the penalty that was chosen on other seeds."""
    return corners(VCFB, seed, scale, alpha=0.5, target_penalty=None)


def weak_arm(seed: int, scale: float) -> Outcome:
    """VC-FB, a tenth of it."""
    return corners(VCFB, seed, scale, alpha=0.05, target_penalty=None)


def strong_arm(seed: int, scale: float) -> Outcome:
    """VC-FB, four times of it."""
    return corners(VCFB, seed, scale, alpha=2.0, target_penalty=None)


VCFB.claim = Claim(
    text="In a grid of 6 x 6 cells 600 recorded steps of walkers, which go to random corners on "
    "one route each, leave 46% of the pairs of state and action unseen. Of all ways from a cell to "
    "a corner, VC-FB (alpha 0.5) goes more in 15 steps than FB does, and the mean value of unseen "
    "pairs, less that of seen ones, is lower; both as means over the second half of 4,000 steps. "
    "With alpha 0.05 and 2 both are reported.",
    arms={
        "VC-FB": vcfb_arm,
        "FB": fb_arm,
        "alpha 0.05": weak_arm,
        "alpha 2": strong_arm,
    },
    criteria=(
        Superior("success", "VC-FB", "FB"),
        Superior("gap", "VC-FB", "FB", higher_is_better=False),
    ),
    seeds=5,
    core_minutes=9.0,
    modules=(
        *("agents.offline.base_forward_backward_networks", "agents.offline.base_cql_networks"),
        *("agents.offline.zero_shot_rl_trials", "agents.base.nets.ensemble"),
        *("agents.base.offline_tensors", "envs.tabular.grid_world"),
    ),
)
