"""EXPO: Expressive Policy Optimization.

Perry Dong, Qiyang Li, Dorsa Sadigh, Chelsea Finn: EXPO: Stable Reinforcement Learning with
Expressive Policies (ICLR 2026, arXiv 2507.07986).

A policy by diffusion can hold several ways to act, but a value's gradient through its denoising
steps makes learning unstable. EXPO never takes that gradient. The base policy only imitates what is
in the minibatches; a small Gaussian edit actor, which sees (s, a), moves an action by at most beta
along each axis to where the critics say more; and the policy that plays is built on the fly:

    a_1 .. a_N ~ pi_base(.|s),   e_i ~ pi_e(.|s, a_i),   C = {a_i} and {a_i + beta e_i, i <= M}
    a*(s)  = argmax_{a in C} min_{k in subset} Qbar_k(s, a)            the first of equal ones
    y      = r + gamma (1 - done) min_{k in subset'} Qbar_k(s', a*(s'))              no entropy
    L_base = mean_b |eps_theta(s, sqrt(ahat_t) a + sqrt(1 - ahat_t) eps, t) - eps|^2
    L_edit = mean(alpha (log pi_e(e|s, a) - d log beta) - mean_k Q_k(s, a + beta e))
    L_temp = alpha (H - target),   H = -mean(log pi_e - d log beta),   target = -d / 2

with a, in L_base and L_edit, the action of the minibatch. What plays uses a slow copy of the base
policy, the targets use the base policy itself; each minimum is over a subset of its own.

The class extends RLPD, whose actor it replaces: since log pi_e - d log beta is the density of
beta e, RLPD's losses of actor and temperature are L_edit and L_temp. Edited actions outside the box
are clipped before they are judged and played; the authors' code judges them as they are. There the
learning rate of the actors decays over 3 million steps; here a schedule given as `learning_rate`
holds for all networks.
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any, ClassVar, Self

import torch
from stable_baselines3.common.type_aliases import GymEnv, ReplayBufferSamples
from stable_baselines3.common.utils import polyak_update

from ...envs.checks import check_integer, check_number, check_share
from ..base.declare import Claim, Exact, Example, NotInferior, Outcome, Paper, Superior
from ..base.offline_data import OfflineDataset
from ..base.rlpd import RLPD, random_steps
from ..base.sac import SampledActions
from ..base.stages import gradient_step
from .expo_networks import (
    OWN,
    BasePolicyNetwork,
    EditActor,
    EditCnnPolicy,
    EditMultiInputPolicy,
    EditPolicy,
    edited,
)
from .expo_trials import BANDITS, BASE, EDITS, TUNING, around_the_block, demonstrations, on_bandits


class EXPO(RLPD):
    """RLPD whose policy is the best of a diffusion policy's samples and of small edits of them.

    `predict(..., deterministic=True)` chooses, too, with noise that is the same at every call. The
    log has the loss of the base policy as "train/base_loss"; those of the edit actor are
    "train/actor_loss" and "train/ent_coef_loss".

    Args:
        policy: "MlpPolicy", "CnnPolicy" or "MultiInputPolicy". Its `net_arch` of the actor gives
            the layers of the edit actor; as wide as the last of them is the base policy.
        env: an `OfflineDataset` whose `env` is the one to learn in; or only that one.
        n_base: N, samples of the base policy, at least 1.
        n_edits: M, how many of them are edited, too; None: all. With 0 edits this is the best of
            the base policy's samples; with a single one, the base policy.
        edit_scale: beta, from above 0 to 2.
        denoising_steps: T, at least 1.
        base_blocks: residual blocks of the base policy, at least 1.
        base_tau: rate at which the slow copy follows the base policy, in [0, 1].
        common: further arguments of `RLPD`; its actor's are the edit actor's. As a
            `target_entropy`, -d / 2 ("auto") is more than an edit can have, d log(2 beta), where
            beta < exp(-1/2) / 2: then the temperature rises for ever, and -d / 2 + d log beta is
            the better aim.

    Attributes:
        base, slow_base: the base policy and its slow copy.

    Raises:
        ValueError: an argument is out of range, or, in learning, a value is not a number.
    """

    paper = Paper(
        slug="expo",
        title="EXPO: Stable Reinforcement Learning with Expressive Policies",
        authors="Perry Dong, Qiyang Li, Dorsa Sadigh, Chelsea Finn",
        year=2025,
        arxiv="2507.07986",
        code="https://github.com/pd-perry/EXPO",
    )
    example = Example(
        "PointMaze-v0",
        {"layout": "two_routes", "horizon": 10},
        kwargs={
            "n_critics": 3,
            "n_base": 3,
            "n_edits": 2,
            "denoising_steps": 3,
            "gradient_steps": 2,
            "learning_starts": 20,
            "batch_size": 16,
            "buffer_size": 1_000,
            "policy_kwargs": {"net_arch": [16]},
        },
        steps=80,
        data=random_steps,
    )
    policy_aliases: ClassVar[dict[str, Any]] = {
        "MlpPolicy": EditPolicy,
        "CnnPolicy": EditCnnPolicy,
        "MultiInputPolicy": EditMultiInputPolicy,
    }
    policy: EditPolicy
    actor: EditActor  # type: ignore[assignment]
    base: BasePolicyNetwork
    slow_base: BasePolicyNetwork

    def __init__(
        self,
        policy: Any,
        env: OfflineDataset | GymEnv | str | None,
        *,
        n_base: int = 32,
        n_edits: int | None = None,
        edit_scale: float = 0.15,
        denoising_steps: int = 10,
        base_blocks: int = 3,
        base_tau: float = 0.001,
        entropy_backup: bool = False,
        **common: Any,
    ) -> None:
        self.n_base = check_integer("n_base", n_base, 1)
        self.n_edits = n_base if n_edits is None else check_integer("n_edits", n_edits, 0, n_base)
        self.edit_scale = check_number("edit_scale", edit_scale, 0.0, 2.0)
        if edit_scale == 0:
            raise ValueError(
                "edit_scale=0 must be above 0, it has no logarithm; n_edits=0 edits nothing"
            )
        self.denoising_steps = check_integer("denoising_steps", denoising_steps, 1)
        self.base_blocks = check_integer("base_blocks", base_blocks, 1)
        self.base_tau = check_share("base_tau", base_tau)
        if entropy_backup:
            raise ValueError(
                "entropy_backup=True must be False: a*(s) has no density to take it of"
            )
        super().__init__(policy, env, entropy_backup=False, **common)

    def _setup_model(self) -> None:
        own = {name: getattr(self, name) for name in OWN}
        self.policy_kwargs = {**self.policy_kwargs, **own}
        super()._setup_model()

    def _create_aliases(self) -> None:
        super()._create_aliases()
        self.base, self.slow_base = self.policy.base, self.policy.slow_base

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """As the base's, with that of the base policy."""
        return [*super().optimizers(), self.base.optimizer]

    def clone(self, steps: int) -> Self:
        """Let the base policy imitate the recorded steps, before `learn`; its slow copy becomes
        equal to it.

        Args:
            steps: of the gradient, each on `batch_size` recorded steps.

        Raises:
            ValueError: there are no recorded steps.
        """
        if self.prior is None:
            raise ValueError("there is nothing to clone: env must be an OfflineDataset")
        self.metrics = defaultdict(list)
        for _ in range(check_integer("steps", steps, 0)):
            self.update_base(self.prior.sample(self.batch_size, env=self._vec_normalize_env))
        self.slow_base.load_state_dict(self.base.state_dict())
        return self

    def next_actions(self, batch: ReplayBufferSamples) -> SampledActions:
        """a* at the next observations; it has no density, and the targets ask for none."""
        actions = self.policy.on_the_fly(batch.next_observations, self.base)
        return SampledActions(actions, torch.zeros_like(actions[:, :1]))

    def policy_actions(self, batch: ReplayBufferSamples) -> SampledActions:
        """Edits of the minibatch's actions, with the densities of beta e."""
        edits, log_prob = self.actor.sample(batch.observations, batch.actions)
        actions = edited(batch.actions, edits, self.edit_scale)
        log_prob = log_prob - edits.shape[1] * math.log(self.edit_scale)
        return SampledActions(actions, log_prob[:, None])

    def update_policy(self, batch: ReplayBufferSamples) -> None:
        """One step each on the base policy, the temperature and the edit actor."""
        self.update_base(batch)
        if self.n_edits:
            super().update_policy(batch)

    def update_base(self, batch: ReplayBufferSamples) -> None:
        """A step of imitation, which the slow copy follows."""
        loss = self.base.loss(batch.observations, batch.actions)
        self.note(base_loss=loss)
        gradient_step(self.base.optimizer, loss)
        polyak_update(self.base.parameters(), self.slow_base.parameters(), self.base_tau)

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        names, variables = super()._get_torch_save_params()
        return [*names, "base.optimizer"], variables


# -- the claim in miniature -----------------------------------------------------------------------


def expo_arm(seed: int, scale: float) -> Outcome:
    """EXPO, every base sample edited; what is counted is played like what is learned from."""
    return around_the_block(EXPO, seed, scale, deterministic=False, **BASE, **EDITS)


def base_arm(seed: int, scale: float) -> Outcome:
    """The same without edits: the best of the base policy's samples."""
    return around_the_block(EXPO, seed, scale, deterministic=False, n_edits=0, **BASE)


def rlpd_arm(seed: int, scale: float) -> Outcome:
    """RLPD, without entropy in the targets, as its authors have it where rewards are sparse; what
    is counted is played with the mean of the Gaussian."""
    return around_the_block(RLPD, seed, scale, deterministic=True, entropy_backup=False)


def bandit_arm(seed: int, scale: float) -> Outcome:
    """The on-the-fly policy of new networks where all values are known."""
    agent = EXPO("MlpPolicy", demonstrations(seed), seed=seed, **TUNING, **BASE, **EDITS)
    return Outcome(on_bandits(agent.policy, seed, max(int(BANDITS * scale), 1)))


EXPO.claim = Claim(
    text="A block stands before the start; 200 noisy demonstrations pass on both sides, of which "
    "59% arrive in their 50 steps. Over 2,500 steps of learning the mean share of EXPO's episodes "
    "that arrive is above that of the best of the same base samples without edits, and at most "
    "0.05 below that of RLPD with a Gaussian actor. On bandits with known values the action is "
    "never worse than the best base sample.",
    arms={
        "EXPO": expo_arm,
        "no edits": base_arm,
        "RLPD": rlpd_arm,
        "bandits": bandit_arm,
    },
    criteria=(
        Superior("area", "EXPO", "no edits"),
        NotInferior("area", "EXPO", "RLPD", margin=0.05),
        Exact("shortfall", "bandits", value=0.0, tolerance=0.0),
    ),
    seeds=5,
    core_minutes=15.0,
    modules=(
        *("agents.control.expo_networks", "agents.control.expo_trials"),
        *("agents.base.nets.diffusion", "agents.base.nets.ensemble"),
        *("envs.control.point_maze", "envs.control.maze_controllers"),
    ),
)
