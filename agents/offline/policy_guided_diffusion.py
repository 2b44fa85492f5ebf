"""Policy-guided diffusion: synthetic trajectories that drift towards what the policy would do.

Matthew T. Jackson, Michael T. Matthews, Cong Lu, Benjamin Ellis, Shimon Whiteson, Jakob Foerster:
Policy-Guided Diffusion (RLC 2024, arXiv 2404.06356). A diffusion model (`nets/edm.py`) learns
short trajectories of the data. While it generates, before step i of T, the actions x_a move along
the gradient of the target policy's likelihood,

    x_a <- x_a + lambda_i g,   g = d/dx_a sum_t log pi(tanh(d x_a,t + m) | s_t),
    lambda_i = c (1 - i / T + c_cos sin(pi (i + 1) / T)) for i < T - 1, and 0 in the last step,

where m and d are mean and deviation of the stored actions arctanh(a), the states s_t are constants,
and g is taken at the noisy trajectory or at its denoised one, as it is or scaled to length 1 for
each trajectory. States, rewards and dynamics stay what the data make plausible, and the actions
come closer to the policy's. A deterministic policy counts as N(pi(s), 1).

`SyntheticData`, in the module beside, makes data sets in this way. The agents are TD3+BC and IQL
with their updates unchanged: first the model is fitted; then minibatches mix synthetic steps with
recorded ones, and every `lifetime` steps the synthetic ones are made anew, guided by the actor as
it is then (the first ones are unguided).

What differs from the paper's code: a step that ends the task is a synthetic step too, there only
the rows that another one follows; windows that end with a cut episode are used; the average of the
network's weights forgets where it began sooner; the embedding of the noise has learned frequencies
and comes in after the normalization; gradients are divided by length + 1e-8, there 1e-8 is added
after the division.
"""

from __future__ import annotations

from typing import Any

import torch
from stable_baselines3.common.preprocessing import get_flattened_obs_dim
from stable_baselines3.common.type_aliases import GymEnv

from ...envs.checks import check_choice, check_flag, check_integer, check_number
from ..base.declare import Claim, Example, Outcome, Paper, Superior
from ..base.nets.edm import Churn
from ..base.offline_actor_critic import Batch, OfflineActorCritic
from ..base.offline_data import OfflineDataset
from ..base.offline_tensors import OfflineTensors
from ..base.resumable import prefixed
from .base_iql import IQL
from .base_td3_bc import TD3BC
from .policy_guided_diffusion_guidance import Guidance, unit_gaussian_log_prob
from .policy_guided_diffusion_model import (
    NETS,
    TrajectoryDiffusion,
    Windows,
    check_spaces,
    transitions,
    warm_cosine,
    windows_of,
)
from .policy_guided_diffusion_trials import MODEL, in_the_maze, on_the_plant

COLUMNS = ("observations", "actions", "rewards", "next_observations", "terminations")

# -- the agents -----------------------------------------------------------------------------------


class PolicyGuided(OfflineActorCritic):
    """Learns from recorded and from policy-guided synthetic steps; a subclass says how it learns.

    The first `denoiser_steps` timesteps fit the model, those that follow are the learner's. New
    data, given by `set_env`, are learned from as the learner does; the model stays that of the
    first data. What is generated is in the state that `learn(..., checkpoint=...)` writes, not in a
    file of `save`: an agent that was loaded generates anew.

    Args:
        policy, env, batch_size: as in the learner.
        length, stride, denoiser, denoiser_kwargs: as in `SyntheticData`.
        denoiser_steps: of the fit, at least 1.
        denoiser_batch_size: windows in a minibatch of the fit.
        denoiser_learning_rate: the largest one of the fit.
        sampling_steps, churn: of the sampler.
        trajectories: generated at a time.
        synthetic_batch: synthetic steps in a minibatch, in 1 .. `batch_size`.
        lifetime: steps of the learner from one generation to the next.
        guidance_coefficient, guidance_cosine, normalize_guidance, denoised_guidance: as in
            `Guidance`.
        common: further arguments of the learner.

    Attributes:
        diffusion: the model.
        synthetic: generated steps by column, [N, ...]; None before the first generation.
        fitted, learned: steps of the fit and of the learner so far.

    Raises:
        ValueError: an argument is out of range, observations or actions are no vectors, actions
            have no bounds, or no episode is as long as a window.
    """

    windows: Windows

    def __init__(
        self,
        policy: Any,
        env: OfflineDataset | GymEnv | str | None,
        *,
        batch_size: int = 256,
        length: int = 32,
        stride: int = 8,
        denoiser: str = "UNet",
        denoiser_kwargs: dict[str, Any] | None = None,
        denoiser_steps: int = 100_000,
        denoiser_batch_size: int = 32,
        denoiser_learning_rate: float = 2e-3,
        sampling_steps: int = 256,
        churn: float = 80.0,
        trajectories: int = 8_192,
        synthetic_batch: int = 240,
        lifetime: int = 10_000,
        guidance_coefficient: float = 1.0,
        guidance_cosine: float = 0.3,
        normalize_guidance: bool = True,
        denoised_guidance: bool = True,
        **common: Any,
    ) -> None:
        self.length = check_integer("length", length, 2)
        self.stride = check_integer("stride", stride, 1)
        self.denoiser = check_choice("denoiser", denoiser, NETS)
        self.denoiser_kwargs = denoiser_kwargs
        self.denoiser_steps = check_integer("denoiser_steps", denoiser_steps, 1)
        self.denoiser_batch_size = check_integer("denoiser_batch_size", denoiser_batch_size, 1)
        self.denoiser_learning_rate = check_number(
            "denoiser_learning_rate", denoiser_learning_rate, 0.0
        )
        self.sampling_steps = check_integer("sampling_steps", sampling_steps, 2)
        self.churn = check_number("churn", churn, 0.0)
        self.trajectories = check_integer("trajectories", trajectories, 1)
        self.synthetic_batch = check_integer("synthetic_batch", synthetic_batch, 1, batch_size)
        self.lifetime = check_integer("lifetime", lifetime, 1)
        self.guidance_coefficient = check_number("guidance_coefficient", guidance_coefficient, 0.0)
        self.guidance_cosine = check_number("guidance_cosine", guidance_cosine, 0.0)
        self.normalize_guidance = check_flag("normalize_guidance", normalize_guidance)
        self.denoised_guidance = check_flag("denoised_guidance", denoised_guidance)
        super().__init__(policy, env, batch_size=batch_size, **common)

    def _setup_model(self) -> None:
        check_spaces(type(self).__name__, self.observation_space, self.action_space)
        super()._setup_model()
        self.diffusion = TrajectoryDiffusion(
            get_flattened_obs_dim(self.observation_space),
            get_flattened_obs_dim(self.action_space),
            self.length,
            self.denoiser,
            self.denoiser_kwargs,
        ).to(self.device)
        self.diffusion_optimizer = self.diffusion.optimizer()
        self.synthetic: Batch | None = None
        self.fitted = self.learned = self.before = 0

    def pack(self, dataset: OfflineDataset) -> OfflineTensors:
        """The data as the networks take them; windows of them for the model."""
        tensors = super().pack(dataset)
        self.windows = windows_of(tensors, self.diffusion, self.stride)
        return tensors

    # -- learning ----------------------------------------------------------------------------------

    def begin(self) -> None:
        """The learner's progress counts from the end of the fit."""
        self.before = self.denoiser_steps - self.fitted

    def _update_current_progress_remaining(self, num_timesteps: int, total_timesteps: int) -> None:
        super()._update_current_progress_remaining(
            max(num_timesteps - self.before, 0), max(total_timesteps - self.before, 1)
        )

    def update(self) -> dict[str, float]:
        """A step of the fit, or of the learner."""
        if self.fitted < self.denoiser_steps:
            self.fit()
        else:
            if self.synthetic is None or self.learned % self.lifetime == 0:
                self.imagine()
            if not self.policy.training:
                self.policy.set_training_mode(True)
            self._update_learning_rate(self.optimizers())
            self.learn_from(self.mixed())
            self.learned += 1
        self.num_timesteps += 1
        return {}

    def fit(self) -> None:
        """A step of the model."""
        rate = warm_cosine(self.fitted, self.denoiser_steps, self.denoiser_learning_rate)
        for group in self.diffusion_optimizer.param_groups:
            group["lr"] = rate
        windows = self.windows.sample(self.denoiser_batch_size, self.generator)
        loss = self.diffusion.fit_step(self.diffusion_optimizer, windows, self.fitted)
        self.note(denoiser_loss=loss)
        self.fitted += 1

    def imagine(self) -> None:
        """Generate synthetic steps, towards the actor unless it has not learned yet."""
        self.policy.set_training_mode(False)
        guide = self.guidance().along(self.diffusion, self.sampling_steps) if self.learned else None
        rows = self.diffusion.generate(
            self.trajectories, self.sampling_steps, Churn(self.churn), guide=guide
        )
        self.synthetic = transitions(rows, self.diffusion.observations, self.diffusion.actions)

    def guidance(self) -> Guidance:
        """Towards the actor as it is."""
        return Guidance(
            self.log_prob_of_actor,
            self.guidance_coefficient,
            self.guidance_cosine,
            self.normalize_guidance,
            self.denoised_guidance,
        )

    def log_prob_of_actor(self, observations: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        """log pi(a | s) up to a constant, [B, L].

        Args:
            observations: in the actor's scale, [B, L, ds].
            actions: in [-1, 1], [B, L, da].
        """
        raise NotImplementedError

    def mixed(self) -> Batch:
        """A minibatch of recorded and synthetic steps, in this order."""
        assert self.tensors is not None and self.synthetic is not None
        recorded = self.batch_size - self.synthetic_batch
        drawn = self.generator.integers(len(self.synthetic["rewards"]), size=self.synthetic_batch)
        rows = torch.from_numpy(drawn).to(self.device)
        found = {name: self.synthetic[name][rows] for name in COLUMNS}
        if not recorded:
            return found
        real = self.tensors.sample(recorded, self.generator)
        return {name: torch.cat([real[name], part]) for name, part in found.items()}

    # -- state -------------------------------------------------------------------------------------

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        parts, variables = super()._get_torch_save_params()
        return [*parts, "diffusion", "diffusion_optimizer"], variables

    def extra_state(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """How far it has come."""
        values, tensors = super().extra_state()
        return {**values, "fitted": self.fitted, "learned": self.learned}, tensors

    def restore_extra_state(self, values: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        """Inverse of `extra_state`."""
        super().restore_extra_state(values, tensors)
        self.fitted, self.learned = values["fitted"], values["learned"]

    def learning_state(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """As the learner's, with the synthetic steps."""
        values, tensors = super().learning_state()
        made = {f"synthetic.{name}": part for name, part in (self.synthetic or {}).items()}
        return {**values, "before": self.before}, tensors | made

    def restore_learning_state(
        self, values: dict[str, Any], tensors: dict[str, torch.Tensor]
    ) -> None:
        """Inverse of `learning_state`."""
        super().restore_learning_state(values, tensors)
        self.before = values["before"]
        made = prefixed(tensors, "synthetic")
        self.synthetic = {name: part.to(self.device) for name, part in made.items()} or None


def short_episodes(env: Any) -> OfflineDataset:
    """200 steps of random actions."""
    return OfflineDataset.record(env, steps=200)


EXAMPLE = Example(
    "LineWorld-v0",
    {"max_steps": 10},
    kwargs={
        "batch_size": 16,
        "synthetic_batch": 12,
        "length": 4,
        "stride": 2,
        "denoiser": "MLP",
        "denoiser_kwargs": {"hidden": [16]},
        "denoiser_steps": 12,
        "sampling_steps": 3,
        "trajectories": 8,
        "lifetime": 8,
        "policy_kwargs": {"net_arch": [16]},
    },
    steps=40,
    data=short_episodes,
)


class PGDTD3BC(PolicyGuided, TD3BC):
    """TD3+BC on recorded and policy-guided synthetic steps; its actor counts as N(pi(s), 1).

    Args:
        policy, env, length, ...: as in `PolicyGuided`.
        alpha, ...: as in `TD3BC`.

    Raises:
        ValueError: as in `PolicyGuided` and `TD3BC`.
    """

    paper = Paper(
        slug="policy_guided_diffusion",
        title="Policy-Guided Diffusion",
        authors="Matthew T. Jackson, Michael T. Matthews, Cong Lu, Benjamin Ellis, Shimon "
        "Whiteson, Jakob Foerster",
        year=2024,
        arxiv="2404.06356",
        code="https://github.com/EmptyJackson/policy-guided-diffusion",
    )
    example = EXAMPLE

    def log_prob_of_actor(self, observations: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        """log N(a; pi(s), 1) up to a constant, [B, L]."""
        with torch.no_grad():
            means = self.actor(observations.flatten(0, 1)).view_as(actions)
        return unit_gaussian_log_prob(means, actions)


class PGDIQL(PolicyGuided, IQL):
    """IQL on recorded and policy-guided synthetic steps.

    Args:
        policy, env, length, ...: as in `PolicyGuided`.
        expectile, beta, ...: as in `IQL`.

    Raises:
        ValueError: as in `PolicyGuided` and `IQL`.
    """

    paper = PGDTD3BC.paper
    example = EXAMPLE

    def log_prob_of_actor(self, observations: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        """log pi(a | s), [B, L]."""
        found = self.actor.log_prob(observations.flatten(0, 1), actions.flatten(0, 1))
        return found.view(actions.shape[:2])


# -- the claim ------------------------------------------------------------------------------------

DENOISERS = ("", ", exact denoiser")


def guided_arm(seed: int, scale: float) -> Outcome:
    """Guided and unguided trajectories of a linear plant; TD3+BC with guided ones in a maze."""
    plant = on_the_plant(seed, scale)
    maze = in_the_maze(PGDTD3BC, seed, scale, **MODEL)
    return Outcome({**plant.metrics, **maze.metrics}, maze.curves)


def unguided_arm(seed: int, scale: float) -> Outcome:
    """TD3+BC with unguided synthetic steps."""
    return in_the_maze(PGDTD3BC, seed, scale, **{**MODEL, "guidance_coefficient": 0.0})


def recorded_arm(seed: int, scale: float) -> Outcome:
    """TD3+BC with recorded steps alone."""
    return in_the_maze(TD3BC, seed, scale)


def bounds_arm(seed: int, scale: float) -> Outcome:
    """What guidance must gain at least, and what it may cost at most."""
    bounds = {"gain": 0.5, "error ratio": 2.0}
    return Outcome({name + of: bound for name, bound in bounds.items() for of in DENOISERS})


PGDTD3BC.claim = Claim(
    text="Trajectories of a linear plant that are guided towards a policy N(0, 0.3^2) have a mean "
    "log-likelihood under it that is higher by more than 0.5 than that of unguided ones, and their "
    "error of the dynamics is less than twice as large: with a fitted denoiser and with the exact "
    "one of Gaussian data.",
    arms={
        "guided": guided_arm,
        "unguided": unguided_arm,
        "recorded": recorded_arm,
        "bounds": bounds_arm,
    },
    criteria=(
        *(Superior("gain" + of, "guided", "bounds") for of in DENOISERS),
        *(
            Superior("error ratio" + of, "guided", "bounds", higher_is_better=False)
            for of in DENOISERS
        ),
    ),
    seeds=5,
    core_minutes=6.0,
    modules=(
        "agents.base.nets.edm",
        "agents.offline.policy_guided_diffusion_data",
        "agents.offline.policy_guided_diffusion_guidance",
        "agents.offline.policy_guided_diffusion_model",
        "agents.offline.policy_guided_diffusion_networks",
        "agents.offline.policy_guided_diffusion_trials",
    ),
)
