"""GoRL: Generative Online Reinforcement Learning.

Chubin Zhang, Zhenglin Wan, Feng Chen, Xingrui Yu, Ivor Tsang, Bo An: GoRL: An Algorithm-Agnostic
Framework for Online Reinforcement Learning with Generative Policies (2025, arXiv 2512.02581).

A policy that generates its actions can be anything, but has no likelihood that a policy gradient
could use. GoRL splits it. The encoder, a Gaussian, draws a latent; the decoder g, a flow, makes an
action of it, a = tanh(g(s, z)), and stands still while PPO trains the encoder:

    z ~ N(m(s), sd(s)^2),    sd = clip(softplus(raw) + 1e-3, 1e-3, 10)
    rho = N(z; m, sd^2) / N(z; m_old, sd_old^2)     no term for the decoder or the tanh
    L = mean of -min(rho A, clip(rho, 1 - c, 1 + c) A) + 0.25 (R - V)^2
        - c_ent entropy + c_z (mean m^2 + mean sd^2)

Stages alternate with fits of the decoder. At first g(s, z) = z, and GoRL is PPO with a Gaussian
that tanh squashes. At the end of a stage its best encoder acts without learning; flow matching
makes a new decoder that takes N(0, I) to the actions (before the tanh) that it takes,

    x_t = t e + (1 - t) a,    minimise mean of (v(s, x_t, t) - (e - a))^2,

and a new encoder starts from N(0, I), where the new policy does what the old one did.

What differs from the paper and its code: the best encoder is the one whose rollout ended episodes
with the highest mean return, so that no step is taken to evaluate; a new encoder starts with sd = 1
exactly (there 0.69); advantages are those of the values at the rollout; a truncated step takes the
value of the last observation as its bootstrap, so that values learn from it, too, where the code
leaves it out. The diffusion decoder is the identity at the start, there it is so nearly.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch

from ...envs.checks import check_integer, check_number
from ..base.declare import Claim, Exact, Example, Outcome, Paper, Superior
from ..base.resumable import prefixed
from ..base.stages import gradient_step
from .gorl_encoder import TanhGaussianPPO
from .gorl_networks import FEWEST, DiffusionPolicy, FlowPolicy, fit_decoder
from .gorl_trials import difference, outcome_of, world

# -- the agents -----------------------------------------------------------------------------------


class GoRL(TanhGaussianPPO):
    """PPO on latents, in stages, and between them fits of the decoder that makes actions of them.

    Stages follow each other within `learn`, and go on over several; the last one lasts as long as
    learning does. A stage ends with the first rollout that brings it to its number of steps; then
    come rollouts, counted like all others, that only gather what the decoder is fitted to. Log:
    "gorl/stage", and "gorl/decoder_error" after a fit. What was gathered, and the best encoder of a
    stage that goes on, are in the state that `learn(..., checkpoint=...)` writes, not in a file of
    `save`.

    Args:
        policy: "MlpPolicy"; `policy_kwargs` are those of SB3's, of encoder and critic.
        env: with actions in a bounded `Box`, and observations that are no dictionary.
        stage_steps: steps in the environment of each stage. One stage: PPO, and no decoder.
        refit_samples: to which a decoder is fitted, at least 32.
        latent_coef, clip_range, max_grad_norm: of the first stage, as in `TanhGaussianPPO`.
        later_latent_coef, later_clip_range, later_max_grad_norm: of the others.
        decoder_arch: widths of the decoder's hidden layers.
        decoder_steps: from a latent to an action.
        decoder_epochs, decoder_batch_size, decoder_rate: of a fit; a tenth of the samples
            validates.
        arguments: further ones of `TanhGaussianPPO`.

    Raises:
        ValueError: an argument is out of range, or the spaces are others.
    """

    paper = Paper(
        slug="gorl",
        title="GoRL: An Algorithm-Agnostic Framework for Online Reinforcement Learning with "
        "Generative Policies",
        authors="Chubin Zhang, Zhenglin Wan, Feng Chen, Xingrui Yu, Ivor Tsang, Bo An",
        year=2025,
        arxiv="2512.02581",
        code="https://github.com/bennidict23/GoRL",
    )
    example = Example(
        "PointMaze-v0",
        {"layout": "wall_goals", "horizon": 10},
        kwargs={
            **{"n_steps": 32, "batch_size": 16, "n_epochs": 2, "stage_steps": (64, 64)},
            **{"refit_samples": 64, "decoder_epochs": 2, "decoder_arch": (8,)},
        },
        steps=256,
    )
    policy_aliases: ClassVar[dict[str, Any]] = {"MlpPolicy": FlowPolicy}
    policy: FlowPolicy

    def __init__(
        self,
        policy: Any,
        env: Any,
        *,
        stage_steps: Sequence[int] = (20_000, 20_000, 20_000),
        refit_samples: int = 20_000,
        later_latent_coef: float = 1e-3,
        later_clip_range: float = 0.3,
        later_max_grad_norm: float = 1.0,
        decoder_arch: Sequence[int] = (64, 64),
        decoder_steps: int = 5,
        decoder_epochs: int = 30,
        decoder_batch_size: int = 256,
        decoder_rate: float = 3e-4,
        **arguments: Any,
    ) -> None:
        self.stage_steps = [check_integer("stage_steps", each, 1) for each in stage_steps]
        if not self.stage_steps:
            raise ValueError("stage_steps=() must have at least one stage")
        self.refit_samples = check_integer("refit_samples", refit_samples, FEWEST)
        self.later_latent_coef = check_number("later_latent_coef", later_latent_coef, 0.0)
        self.later_clip_range = check_number("later_clip_range", later_clip_range, 0.0)
        self.later_max_grad_norm = check_number("later_max_grad_norm", later_max_grad_norm, 0.0)
        self.decoder_arch = [check_integer("decoder_arch", each, 1) for each in decoder_arch]
        self.decoder_steps = check_integer("decoder_steps", decoder_steps, 1)
        self.decoder_epochs = check_integer("decoder_epochs", decoder_epochs, 1)
        self.decoder_batch_size = check_integer("decoder_batch_size", decoder_batch_size, 1)
        self.decoder_rate = check_number("decoder_rate", decoder_rate, 0.0)
        super().__init__(policy, env, **arguments)

    def _setup_model(self) -> None:
        own = {"decoder_arch": self.decoder_arch, "decoder_steps": self.decoder_steps}
        self.policy_kwargs = {**self.policy_kwargs, **own}
        super()._setup_model()
        self.begin_stage(0)

    # -- PPO, by the stage ----------------------------------------------------------------------

    def begin_stage(self, stage: int) -> None:
        """Count from here."""
        self.stage, self.steps_in_stage, self.gathering = stage, 0, False
        self.returns: list[float] = []  # of the episodes that ended in the present rollout
        self.best: dict[str, torch.Tensor] = {}
        self.best_return = -np.inf
        self.gathered: list[tuple[torch.Tensor, torch.Tensor]] = []

    @property
    def penalty_weight(self) -> float:
        """c_z of the stage."""
        return self.later_latent_coef if self.stage else self.latent_coef

    def run_epochs(self) -> None:
        """As the base's, with the clipping range of the stage."""
        if self.stage:
            self.clip = self.later_clip_range
        super().run_epochs()

    def gradient_step(self, loss: torch.Tensor) -> None:
        """As the base's, with the largest gradient of the stage."""
        largest = self.later_max_grad_norm if self.stage else self.max_grad_norm
        gradient_step(self.policy.optimizer, loss, largest)

    # -- the stages -----------------------------------------------------------------------------

    def collect_rollouts(self, *args: Any, **kwargs: Any) -> bool:
        """As the base's; notes the returns of the episodes that end."""
        self.returns = []
        return super().collect_rollouts(*args, **kwargs)

    def _update_info_buffer(self, infos: Any, dones: Any = None) -> None:
        super()._update_info_buffer(infos, dones)
        self.returns += [info["episode"]["r"] for info in infos if "episode" in info]

    def train(self) -> None:
        """Learn from the rollout, or keep it for the decoder, and go on to what comes next."""
        self.logger.record("gorl/stage", self.stage)
        if self.gathering:
            self.gather()
            if sum(len(actions) for _, actions in self.gathered) >= self.refit_samples:
                self.refit()
                self.begin_stage(self.stage + 1)
            return
        self.compare()
        super().train()
        self.steps_in_stage += self.n_steps * self.n_envs
        last = self.stage == len(self.stage_steps) - 1
        if not last and self.steps_in_stage >= self.stage_steps[self.stage]:
            if self.best:
                self.policy.load_state_dict(self.best)
            self.gathering = True

    def compare(self) -> None:
        """Keep the policy that has acted if its episodes have the best mean return."""
        if self.returns and np.mean(self.returns) > self.best_return:
            self.best_return = float(np.mean(self.returns))
            self.best = {name: each.clone() for name, each in self.policy.state_dict().items()}

    def gather(self) -> None:
        """Keep what was observed in the rollout, and the actions before the tanh."""
        buffer = self.rollout_buffer
        observations, latents = (
            torch.as_tensor(rows.reshape(-1, *rows.shape[2:]), device=self.device)
            for rows in (buffer.observations, buffer.actions)
        )
        with torch.no_grad():
            features = self.policy.features(observations)
            self.gathered.append((features, self.policy.decode(features, latents)))

    def refit(self) -> None:
        """Fit a new decoder to what was gathered, and put a new encoder before it."""
        features, actions = (
            torch.cat(rows)[: self.refit_samples] for rows in zip(*self.gathered, strict=True)
        )
        decoder = self.policy.new_decoder().to(self.device)
        error = fit_decoder(
            decoder,
            features,
            actions,
            rate=self.decoder_rate,
            epochs=self.decoder_epochs,
            batch_size=self.decoder_batch_size,
        )
        self.logger.record("gorl/decoder_error", error)
        if not np.isfinite(error):
            warnings.warn(
                f"the fit of a decoder ended with the error {error}: the previous one is kept",
                stacklevel=2,
            )
            decoder = self.policy.decoder
        policy = self.policy_class(
            self.observation_space, self.action_space, self.lr_schedule, **self.policy_kwargs
        )
        assert isinstance(policy, FlowPolicy)
        policy.decoder.load_state_dict(decoder.state_dict())
        self.policy = policy.to(self.device)

    # -- checkpoints ----------------------------------------------------------------------------

    def extra_state(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """Where in the stages it is."""
        values, tensors = super().extra_state()
        place = {name: getattr(self, name) for name in ("stage", "steps_in_stage", "gathering")}
        return {**values, **place}, tensors

    def restore_extra_state(self, values: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        """Inverse of `extra_state`."""
        super().restore_extra_state(values, tensors)
        self.begin_stage(values["stage"])
        self.steps_in_stage, self.gathering = values["steps_in_stage"], values["gathering"]

    def learning_state(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """The best encoder of the stage, and what was gathered for the decoder."""
        values, tensors = super().learning_state()
        tensors = {**tensors, **{f"best.{name}": each for name, each in self.best.items()}}
        for number, (features, actions) in enumerate(self.gathered):
            tensors |= {f"features.{number}": features, f"actions.{number}": actions}
        return {**values, "best_return": self.best_return}, tensors

    def restore_learning_state(
        self, values: dict[str, Any], tensors: dict[str, torch.Tensor]
    ) -> None:
        """Inverse of `learning_state`."""
        super().restore_learning_state(values, tensors)
        self.best_return = values["best_return"]
        own = {name: each.to(self.device) for name, each in tensors.items()}
        self.best = prefixed(own, "best")
        rollouts = len(prefixed(own, "actions"))
        self.gathered = [(own[f"features.{n}"], own[f"actions.{n}"]) for n in range(rollouts)]


class DiffusionGoRL(GoRL):
    """GoRL with a diffusion model as decoder: a deterministic sampler that starts from the latent.

    Arguments are those of `GoRL`.
    """

    policy_aliases: ClassVar[dict[str, Any]] = {"MlpPolicy": DiffusionPolicy}


# -- the claim in miniature -----------------------------------------------------------------------

STEPS, STAGE_STEPS, SAMPLES, ALIKE_STEPS = 100_000, 20_000, 20_000, 4_096
# With other seeds each of these was tried for both, not in all combinations: learning rates 3e-4
# and 1e-3, gamma 0.95 and 0.99, ent_coef 0, 0.01, 0.05 and 0.2, n_epochs 4 and 10, clip_range 0.15
# (the paper's) and 0.3. Here is what PPO earned the most with (39.9); GoRL did so, too (37.6), but
# for 0.02. A decoder with twice the steps and three times the rate earned it no more.
TUNING: dict[str, Any] = {
    **{"n_steps": 64, "batch_size": 256, "n_epochs": 10, "learning_rate": 1e-3},
    **{"gamma": 0.95, "ent_coef": 0.05, "clip_range": 0.3, "device": "cpu"},
}


def gorl_arm(seed: int, scale: float) -> Outcome:
    """GoRL in three stages of 20,000 steps, with two fits to 20,000 samples each."""
    agent = GoRL(
        "MlpPolicy",
        world(),
        stage_steps=[max(int(STAGE_STEPS * scale), 1)] * 3,
        refit_samples=max(int(SAMPLES * scale), FEWEST),
        seed=seed,
        **TUNING,
    )
    return outcome_of(agent, int(STEPS * scale))


def ppo_arm(seed: int, scale: float) -> Outcome:
    """PPO with the same networks, in as many steps."""
    return outcome_of(
        TanhGaussianPPO("MlpPolicy", world(), seed=seed, **TUNING), int(STEPS * scale)
    )


def single_arm(seed: int, scale: float) -> Outcome:
    """GoRL with one stage, a short one, beside PPO."""
    steps = max(int(ALIKE_STEPS * scale), 1)
    single = GoRL("MlpPolicy", world(), stage_steps=(1,), seed=seed, **TUNING).learn(steps)
    plain = TanhGaussianPPO("MlpPolicy", world(), seed=seed, **TUNING).learn(steps)
    return Outcome({"difference": difference(single, plain)})


GoRL.claim = Claim(
    text="Before a wall with a goal on either side of it, GoRL with a flow, in 3 stages of 20,000 "
    "steps and 2 times 20,000 that only gather samples, earns more at the end than PPO with a "
    "Gaussian in as many steps, and its actions at the start have two modes (less than 20% in the "
    "middle third of the range, at least 10% in each of the others) more often. With one stage it "
    "has exactly the parameters and actions of that PPO.",
    arms={"GoRL": gorl_arm, "PPO": ppo_arm, "one stage": single_arm},
    criteria=(
        Superior("return", "GoRL", "PPO"),
        Superior("two modes", "GoRL", "PPO"),
        Exact("difference", "one stage", value=0.0, tolerance=0.0),
    ),
    seeds=5,
    core_minutes=11.0,
    modules=(
        *("agents.base.nets.flow", "agents.control.gorl_encoder", "agents.control.gorl_networks"),
        *("agents.control.gorl_trials", "envs.control.point_maze"),
    ),
)
