"""H2O: a simulator is trusted as far as its steps look like real ones.

Haoyi Niu, Shubham Sharma, Yiwen Qiu, Ming Li, Guyue Zhou, Jianming Hu, Xianyuan Zhan: When to Trust
Your Simulator: Dynamics-Aware Hybrid Offline-and-Online Reinforcement Learning (NeurIPS 2022, arXiv
2206.13464).

There are few real steps, recorded once, and a simulator of which part is wrong. SAC learns from
both. Two discriminators tell real steps (column 0) from simulated ones (column 1), one by (s, a),
l1 = D(s, a), and one by all, l2 = D(s, a, s'), each 2 tanh(net):

    p1 = softmax(l1),  p2 = softmax(l1 + l2)
    L_D   = mean(-log p1_real(real) - log p1_sim(sim)) + mean(-log p2_real(real) - log p2_sim(sim))

What both have seen cancels, and what is left is how likely the step is in reality, compared to the
simulator; how much less likely the neighbours of s' are is the gap of the dynamics at (s, a):

    rho   = p2_real p1_sim / (p2_sim p1_real) = exp(l2_real - l2_sim),         clipped to [1e-5, 1]
    u     = mean_j -log rho(s, a, s' + std e_j),  e_j ~ N(0, I), j <= n,     clipped to [1e-45, 10]
    omega = u / sum u

with std the deviations of the real observations. The critics believe simulated steps as far as rho
says; where the gap is wide their values are pushed down, and those of real steps up:

    y     = r + gamma (1 - done) min_k Qbar_k(s', a'),  a' ~ pi(.|s')
    L_Q   = sum_k mean_real (Q_k - y)^2 + mean_sim rho (Q_k - y)^2
                  + w clip(log sum_sim omega exp Q_k(s, a) - mean_real Q_k(s, a), -1000, 1000)

Actor and temperature are SAC's, on the observations of both. In one update the stages have SAC's
order, so that the actor sees critics that have just learned; the authors' code takes both steps
from the same point. Logarithms of omega are taken in double precision, in which 1e-45 is a number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.type_aliases import GymEnv, ReplayBufferSamples
from torch.nn import functional as F

from ...envs.checks import check_flag, check_integer, check_number
from ..base.declare import Claim, Example, NotInferior, Outcome, Paper, Superior
from ..base.offline_data import OfflineDataset
from ..base.prior_data import PriorData
from ..base.sac import SoftActorCritic
from ..base.stages import gradient_step
from .h2o_networks import Discriminators, step_rows
from .h2o_trials import (
    IN_SIMULATOR,
    OWN,
    WRONG_FROM,
    data_arm,
    learn_and_arrive,
    mixed_arm,
    real_steps,
    simulator_arm,
    tuning,
)

LEAST_RATIO, MOST_RATIO = 1e-5, 1.0
LEAST_GAP, MOST_GAP = 1e-45, 10.0
MOST_DIFFERENCE = 1_000.0
INPUT_NOISE = 0.1
LEAST_DEVIATION = 1e-3
REAL, SIM = 0, 1

# -- functions ------------------------------------------------------------------------------------


def discriminator_loss(
    pair_logits: torch.Tensor, step_logits: torch.Tensor, sources: torch.Tensor
) -> torch.Tensor:
    """L_D, a scalar, of as many real steps as simulated ones.

    Args:
        pair_logits, step_logits: l1 and l2, [2B, 2].
        sources: 0 for real steps, 1 for simulated ones, int [2B].
    """
    by_pair = F.cross_entropy(pair_logits, sources)
    # Means over 2B rows, of which half are of each kind.
    return 2 * (by_pair + F.cross_entropy(pair_logits + step_logits, sources))


def log_dynamics_ratio(step_logits: torch.Tensor) -> torch.Tensor:
    """log P_real(s'|s, a) / P_sim(s'|s, a), [...], of logits l2 [..., 2]."""
    return step_logits[..., REAL] - step_logits[..., SIM]


def dynamics_ratio(step_logits: torch.Tensor) -> torch.Tensor:
    """rho, [B], of logits l2 [B, 2]."""
    return log_dynamics_ratio(step_logits).exp().clamp(LEAST_RATIO, MOST_RATIO)


def dynamics_gap(step_logits: torch.Tensor) -> torch.Tensor:
    """u, float64 [B], of the logits l2 [B, n, 2] of n neighbours of every s'."""
    gaps = -log_dynamics_ratio(step_logits.double()).mean(dim=1)
    return gaps.clamp(LEAST_GAP, MOST_GAP)


def log_gap_weights(gaps: torch.Tensor) -> torch.Tensor:
    """log omega, float64 [B], of u [B] >= 0; where all are 0, that of equal weights."""
    logs = gaps.double().clamp_min(LEAST_GAP).log()
    return logs - logs.logsumexp(dim=0)


def hybrid_critic_loss(
    real_values: torch.Tensor,
    real_targets: torch.Tensor,
    sim_values: torch.Tensor,
    sim_targets: torch.Tensor,
    ratios: torch.Tensor,
    log_weights: torch.Tensor,
    conservatism: float,
) -> torch.Tensor:
    """L_Q, a scalar.

    Args:
        real_values, sim_values: Q_k of both kinds of steps, [K, R] and [K, S].
        real_targets, sim_targets: y, [R] and [S].
        ratios, log_weights: rho and log omega of simulated steps, [S].
        conservatism: w.
    """
    real = (real_values - real_targets).square().mean(dim=1)
    simulated = (ratios * (sim_values - sim_targets).square()).mean(dim=1)
    high = torch.logsumexp(sim_values + log_weights.to(sim_values.dtype), dim=1)
    difference = (high - real_values.mean(dim=1)).clamp(-MOST_DIFFERENCE, MOST_DIFFERENCE)
    return (real + simulated + conservatism * difference).sum()


# -- the agent ------------------------------------------------------------------------------------


def random_steps(env: Any) -> OfflineDataset:
    """60 steps of random actions."""
    return OfflineDataset.record(env, steps=60)


class H2O(PriorData, SoftActorCritic):  # type: ignore[misc]
    """SAC on real and simulated steps, the latter trusted where the dynamics agree.

    A gap like those of the paper is made by `palaestra.wrappers.PhysicsShift`: twice the gravity,
    0.3 times the friction, or noise on the actions. The log has the mean of rho
    ("train/dynamics_ratio") and the loss of the discriminators.

    Args:
        policy: "MlpPolicy".
        env: an `OfflineDataset` of real steps, whose `env` is the simulator.
        prior_share: share of real steps in a minibatch; at least one step of each kind is needed.
        conservatism: w, at least 0.
        n_neighbours: n, at least 1.
        discriminator_arch: widths of the hidden layers of both discriminators.
        entropy_backup: whether the targets have SAC's entropy term.
        buffer_size: simulated steps that are kept; None: ten times as many as there are real ones.
        train_freq, gradient_steps, learning_starts: as in SB3: by default 1,000 steps in the
            simulator, then as many updates.
        common: further arguments of `PriorData` and of SB3's SAC, without `n_steps`.

    Attributes:
        discriminators: the networks.
        deviations: of the real observations, [observation width]; 0.001 is added.

    Raises:
        ValueError: an argument is out of range, observations are images or no vectors, the data do
            not fit, or, in learning, there are none.
    """

    paper = Paper(
        slug="h2o",
        title="When to Trust Your Simulator: Dynamics-Aware Hybrid Offline-and-Online "
        "Reinforcement Learning",
        authors="Haoyi Niu, Shubham Sharma, Yiwen Qiu, Ming Li, Guyue Zhou, Jianming Hu, "
        "Xianyuan Zhan",
        year=2022,
        arxiv="2206.13464",
        code="https://github.com/t6-thu/H2O",
    )
    example = Example(
        "TorquePendulum-v0",
        {"max_steps": 10},
        kwargs={
            **{"train_freq": 1, "learning_starts": 20, "batch_size": 16, "n_neighbours": 3},
            **{"discriminator_arch": [16], "policy_kwargs": {"net_arch": [16]}},
        },
        steps=80,
        data=random_steps,
    )
    discriminators: Discriminators
    deviations: torch.Tensor

    def __init__(
        self,
        policy: Any,
        env: OfflineDataset | GymEnv | str | None,
        *,
        conservatism: float = 0.01,
        n_neighbours: int = 10,
        discriminator_arch: Sequence[int] = (256, 256),
        entropy_backup: bool = False,
        buffer_size: int | None = None,
        train_freq: int | tuple[int, str] = 1_000,
        gradient_steps: int = -1,
        learning_starts: int = 0,
        **common: Any,
    ) -> None:
        self.conservatism = check_number("conservatism", conservatism, 0)
        self.n_neighbours = check_integer("n_neighbours", n_neighbours, 1)
        self.discriminator_arch = [
            check_integer("discriminator_arch", width, 1) for width in discriminator_arch
        ]
        self.entropy_backup = check_flag("entropy_backup", entropy_backup)
        if buffer_size is None:
            buffer_size = 10 * len(env) if isinstance(env, OfflineDataset) else 1_000_000
        common |= {"buffer_size": check_integer("buffer_size", buffer_size, 1)}
        common |= {"train_freq": train_freq, "gradient_steps": gradient_steps}
        super().__init__(policy, env, learning_starts=learning_starts, **common)

    def _setup_model(self) -> None:
        space = self.observation_space
        if not isinstance(space, spaces.Box) or is_image_space(space):
            raise ValueError(f"{type(self).__name__} needs observations that are vectors: {space}")
        if self.n_steps != 1:
            raise ValueError(f"n_steps={self.n_steps} must be 1: single steps are told apart")
        real = round(self.prior_share * self.batch_size)
        if not 0 < real < self.batch_size:
            raise ValueError(
                f"prior_share={self.prior_share} of batch_size={self.batch_size} are {real} real "
                "steps; there must be some of each kind"
            )
        super()._setup_model()
        self.discriminators = Discriminators(
            spaces.flatdim(space),
            spaces.flatdim(self.action_space),
            self.discriminator_arch,
            self.lr_schedule(1),
        ).to(self.device)

    def _setup_learn(self, *args: Any, **kwargs: Any) -> Any:
        """As SB3's.

        Raises:
            ValueError: there are no real steps, or a `VecNormalize` changes their scale.
        """
        if self.prior is None:
            raise ValueError("there are no real steps: env must be an OfflineDataset")
        if self._vec_normalize_env is not None:
            raise ValueError("VecNormalize changes the scale in which steps are told apart")
        return super()._setup_learn(*args, **kwargs)

    def _take(self, data: OfflineDataset) -> None:
        super()._take(data)
        seen = torch.as_tensor(data.observations, dtype=torch.float32).flatten(1)
        self.deviations = (seen.std(dim=0, correction=0) + LEAST_DEVIATION).to(self.device)

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """As SAC's, with that of the discriminators."""
        return [*super().optimizers(), self.discriminators.optimizer]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        parts, variables = super()._get_torch_save_params()
        return [*parts, "discriminators", "discriminators.optimizer"], variables

    def update(self, batch: ReplayBufferSamples) -> None:
        """A step of the discriminators, on steps of their own, and SAC's update."""
        self.update_discriminators()
        super().update(batch)

    # -- dynamics ----------------------------------------------------------------------------------

    def update_discriminators(self) -> None:
        """A step on `batch_size` real steps and as many simulated ones."""
        assert self.prior is not None
        both = [buffer.sample(self.batch_size) for buffer in (self.prior, self.replay_buffer)]
        steps = torch.cat([step_rows(each) for each in both])
        sources = torch.arange(2, device=steps.device).repeat_interleave(self.batch_size)
        # Noise, against learning the few real steps by heart.
        steps = steps + INPUT_NOISE * torch.randn_like(steps)
        logits = self.discriminators.pair_logits(steps), self.discriminators.step_logits(steps)
        loss = discriminator_loss(*logits, sources)
        self.note(discriminator_loss=loss)
        gradient_step(self.discriminators.optimizer, loss)

    def gaps(self, steps: torch.Tensor) -> torch.Tensor:
        """u, float64 [B], of rows (s, a, s')."""
        neighbours = steps[:, None].repeat(1, self.n_neighbours, 1)
        following = neighbours[..., -len(self.deviations) :]
        following += self.deviations * torch.randn_like(following)
        return dynamics_gap(self.discriminators.step_logits(neighbours))

    # -- critics -----------------------------------------------------------------------------------

    def target_values(self, batch: ReplayBufferSamples, alpha: torch.Tensor) -> torch.Tensor:
        """y, [B, 1]; called without gradients."""
        return super().target_values(
            batch, alpha if self.entropy_backup else torch.zeros_like(alpha)
        )

    def critic_loss(self, batch: ReplayBufferSamples, targets: torch.Tensor) -> torch.Tensor:
        """L_Q, a scalar, for targets [B, 1]; simulated steps come first in the minibatch."""
        simulated, _ = self.sizes(len(targets))
        values = torch.cat(self.critic(batch.observations, batch.actions), dim=1).T
        with torch.no_grad():
            steps = step_rows(batch)[:simulated]
            ratios = dynamics_ratio(self.discriminators.step_logits(steps))
            log_weights = log_gap_weights(self.gaps(steps))
        self.note(dynamics_ratio=ratios.mean())
        return hybrid_critic_loss(
            values[:, simulated:],
            targets[simulated:, 0],
            values[:, :simulated],
            targets[:simulated, 0],
            ratios,
            log_weights,
            self.conservatism,
        )


# -- the claim in miniature -----------------------------------------------------------------------


MARGIN = 0.5  # how far from the place where the simulator becomes wrong rho is looked at


def lost_trust(agent: H2O) -> float:
    """Mean rho of the simulated steps where the simulator is right, less that where it is wrong."""
    buffer = agent.replay_buffer
    batch = buffer._get_samples(np.arange(buffer.size()))
    with torch.no_grad():
        ratios = dynamics_ratio(agent.discriminators.step_logits(step_rows(batch)))
    places = batch.observations[:, 0]
    right, wrong = places < WRONG_FROM - MARGIN, places > WRONG_FROM + MARGIN
    return float(ratios[right].mean() - ratios[wrong].mean())


def h2o_arm(seed: int, scale: float) -> Outcome:
    """H2O."""
    data = real_steps(seed)
    agent = H2O("MlpPolicy", data, seed=seed, **tuning(), **IN_SIMULATOR, **OWN)
    metrics, curves = learn_and_arrive(agent, scale)
    return Outcome({**metrics, "lost trust": lost_trust(agent)}, curves)


H2O.claim = Claim(
    text="The controls of a line are reversed on its left half, in the simulator everywhere; 500 "
    "real steps are from the right half. After 3,000 updates the share of 50 starts from which "
    "H2O's policy is at the end of the real line after 20 steps is at least 0.3 above that of SAC "
    "in the simulator and that of CQL on the real steps; and rho of simulated steps is less where "
    "the simulator is wrong.",
    arms={
        "H2O": h2o_arm,
        "simulator": simulator_arm,
        "real steps": data_arm,
        "both, unweighted": mixed_arm,
    },
    criteria=(
        NotInferior("success", "H2O", "simulator", margin=-0.3),
        NotInferior("success", "H2O", "real steps", margin=-0.3),
        Superior("lost trust", "H2O", "both, unweighted"),
    ),
    seeds=5,
    core_minutes=8.0,
    modules=(
        *(
            "agents.offline.h2o_trials",
            "agents.offline.base_cql",
            "agents.offline.base_cql_networks",
        ),
        *("agents.base.nets.mlp", "agents.base.offline_actor_critic"),
        *("envs.control.line_world", "envs.control.line_world_data"),
    ),
)
