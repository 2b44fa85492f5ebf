"""PMOE: Probabilistic Mixture-of-Experts.

Jie Ren, Yewen Li, Zihan Ding, Wei Pan, Hao Dong: Probabilistic Mixture-of-Experts for Efficient
Deep Reinforcement Learning (2021, arXiv 2104.09122).

The policy is a mixture of k Gaussians, primitives, with the weights w(s) of a router. A choice
between them has no gradient. So all of them propose, the critics name the best, that one alone
learns, and the router follows how often each wins:

    a_i = tanh(mu_i(s) + sd_i(s) z_i),    log pi_i: density of primitive i at its own a_i
    j = argmax_i min(Q1, Q2)(s, a_i),     the first of equals
    L = mean[alpha log pi_j - min(Q1, Q2)(s, a_j)] + mean[(onehot(j) - w(s))^2]

The second mean is over states and primitives; its gradient does not reach the trunk that router and
primitives share. The temperature learns from log pi_j. In the target of the critics, as in the
environment, the router draws c from w(s') and primitive c acts:

    y = r + gamma (1 - done) (min(Qbar1, Qbar2)(s', a'_c) - alpha log pi_c(a'_c | s'))

The rest is SAC, and with k = 1 all of it is. Critics learn before the actor, as in
Stable-Baselines3; the winner is that of the critics before their step. The paper's variant of PPO
is not here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.type_aliases import GymEnv, PyTorchObs, ReplayBufferSamples
from stable_baselines3.common.utils import set_random_seed
from torch.nn import functional as F

from ...envs.base import Arrays
from ...envs.checks import check_flag, check_integer
from ...envs.control.point_maze import PointMaze
from ..base.declare import Claim, Exact, Example, NotInferior, Outcome, Paper, Superior
from ..base.sac import SampledActions, SoftActorCritic, smallest
from .pmoe_policy import (
    MixtureActor,
    MixtureCnnPolicy,
    MixtureMultiInputPolicy,
    MixturePolicy,
    picked,
)

# -- the paper's computation ----------------------------------------------------------------------


def winner(values: torch.Tensor) -> torch.Tensor:
    """The primitive with the highest value in every state, the first of equals, [B].

    Args:
        values: of the proposals of the k primitives, [B, k].

    Raises:
        ValueError: a value is not a number.
    """
    if torch.isnan(values).any():
        row, primitive = torch.isnan(values).nonzero()[0].tolist()
        raise ValueError(f"the value of primitive {primitive} in row {row} is NaN")
    return values.argmax(dim=1)


def router_loss(weights: torch.Tensor, won: torch.Tensor) -> torch.Tensor:
    """Mean over states and primitives of (onehot(j) - w)^2, a scalar.

    Args:
        weights: of the router, [B, k].
        won: the winners j, [B].
    """
    return F.mse_loss(weights, F.one_hot(won, weights.shape[1]).to(weights.dtype))


def repeated(observations: PyTorchObs, times: int) -> PyTorchObs:
    """Every row `times` times in succession; of a dictionary every entry."""
    if isinstance(observations, dict):
        return {name: each.repeat_interleave(times, 0) for name, each in observations.items()}
    return observations.repeat_interleave(times, 0)


# -- the agent ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Winners(SampledActions):
    """Actions of the primitives that won.

    Attributes:
        primitive: the winners, [B].
        weights: of the router, with a path for the gradient to it, [B, k].
    """

    primitive: torch.Tensor
    weights: torch.Tensor


class PMOE(SoftActorCritic):
    """SAC whose policy is a mixture: the primitive that the critics prefer learns.

    The log has the router's entropy and largest weight (means over states), and the share of states
    that each primitive won: "train/router_entropy", "train/largest_weight", "train/wins_0", ...

    Args:
        policy: "MlpPolicy", "CnnPolicy" or "MultiInputPolicy".
        env: with actions in a `Box`.
        n_primitives: k of the mixture, at least 1; with 1 it is SAC.
        greedy_router: whether `predict(..., deterministic=True)` acts as the likeliest primitive.
            With False it draws one from the router, as the paper's code does.
        common: arguments of SB3's SAC, without `use_sde`.

    Raises:
        ValueError: an argument is out of range, or, in learning, a value is not a number.
    """

    paper = Paper(
        slug="pmoe",
        title="Probabilistic Mixture-of-Experts for Efficient Deep Reinforcement Learning",
        authors="Jie Ren, Yewen Li, Zihan Ding, Wei Pan, Hao Dong",
        year=2021,
        arxiv="2104.09122",
        code="https://github.com/JieRen98/rlkit-pmoe",
    )
    example = Example(
        "PointMaze-v0",
        {"layout": "two_goals", "horizon": 10},
        kwargs={
            "learning_starts": 20,
            "batch_size": 16,
            "buffer_size": 1_000,
            "policy_kwargs": {"net_arch": [16]},
        },
        steps=120,
    )
    policy_aliases: ClassVar[dict[str, Any]] = {
        "MlpPolicy": MixturePolicy,
        "CnnPolicy": MixtureCnnPolicy,
        "MultiInputPolicy": MixtureMultiInputPolicy,
    }
    actor: MixtureActor

    def __init__(
        self,
        policy: Any,
        env: GymEnv | str | None,
        *,
        n_primitives: int = 4,
        greedy_router: bool = True,
        **common: Any,
    ) -> None:
        self.n_primitives = check_integer("n_primitives", n_primitives, 1)
        self.greedy_router = check_flag("greedy_router", greedy_router)
        super().__init__(policy, env, **common)  # type: ignore[arg-type]

    def _setup_model(self) -> None:
        own = {"n_primitives": self.n_primitives, "greedy_router": self.greedy_router}
        self.policy_kwargs = {**self.policy_kwargs, **own}
        super()._setup_model()

    def sample_actions(self, observations: PyTorchObs) -> Winners:
        """Of all primitives' actions, those to which the critics give the highest values."""
        found = self.actor.proposals(observations)
        with torch.no_grad():
            everywhere = repeated(observations, self.n_primitives)
            values = smallest(self.critic(everywhere, found.actions.flatten(0, 1)))
        won = winner(values.reshape(found.log_prob.shape))
        actions, log_prob = picked(found.actions, won), picked(found.log_prob, won)
        return Winners(actions, log_prob.reshape(-1, 1), won, found.weights)

    def next_actions(self, batch: ReplayBufferSamples) -> SampledActions:
        """Actions of primitives that the router draws, with the densities of those primitives."""
        actions, log_prob = self.actor.action_log_prob(batch.next_observations)
        return SampledActions(actions, log_prob.reshape(-1, 1))

    def actor_loss(
        self, batch: ReplayBufferSamples, sampled: SampledActions, alpha: torch.Tensor
    ) -> torch.Tensor:
        """SAC's loss of the winners, and the router's, a scalar."""
        assert isinstance(sampled, Winners)
        loss = router_loss(sampled.weights, sampled.primitive)
        weights = sampled.weights.detach()
        wins = F.one_hot(sampled.primitive, self.n_primitives).float().mean(dim=0)
        self.note(
            router_loss=loss,
            router_entropy=torch.special.entr(weights).sum(dim=1).mean(),
            largest_weight=weights.max(dim=1).values.mean(),
            **{f"wins_{number}": share for number, share in enumerate(wins)},
        )
        return super().actor_loss(batch, sampled, alpha) + loss


# -- the claim in miniature -----------------------------------------------------------------------

LAYOUT, STEPS, POINTS = "two_goals", 8_000, 10
EPISODES, EVALUATION_SEED, BOTH = 200, 1_000_000, 0.1
# From a temperature of 1 both arms first earn entropy for thousands of steps (seed 100).
TUNING: dict[str, Any] = {
    "ent_coef": "auto_0.1",
    "learning_rate": 1e-3,
    "learning_starts": 500,
    "buffer_size": 20_000,
    "batch_size": 128,
    "policy_kwargs": {"net_arch": [64, 64], "optimizer_kwargs": {"fused": True}},
    "device": "cpu",
}


def sampled_episodes(agent: SoftActorCritic, core: PointMaze, tape: Arrays) -> dict[str, float]:
    """Mean return of n episodes of the policy's samples, and the share that reaches each goal."""
    state, total, reached = core.initial(tape), 0.0, []
    for _ in range(core.horizon):
        actions, _ = agent.predict(core.observation(state), deterministic=False)
        following = core.transition(state, actions, tape)
        total += float(core.reward(state, actions, following).mean())
        apart = np.linalg.norm(following["place"][:, None] - core.goals, axis=2)
        reached.append(apart <= core.radius)
        state = following
    right, left = np.any(reached, axis=0).mean(axis=0).tolist()
    return {"return": total, "right": right, "left": left}


def outcome_of(agent: SoftActorCritic, scale: float) -> Outcome:
    """Learn in the plane with two goals, and play 200 episodes at every tenth of the way."""
    core = PointMaze(LAYOUT)
    tape, budget = core.tapes(EPISODES, EVALUATION_SEED), max(int(STEPS * scale) // POINTS, 10)
    steps, curve, found = [], [], {}
    for point in range(1, POINTS + 1):
        agent.learn(point * budget - agent.num_timesteps, reset_num_timesteps=False)
        found = sampled_episodes(agent, core, tape)
        steps.append(float(agent.num_timesteps))
        curve.append(found["return"])
    rarer = min(found["right"], found["left"])
    return Outcome(
        {
            "return": curve[-1],
            "area": float(np.mean(curve)),
            "both goals": float(rarer >= BOTH),
            "rarer goal": rarer,
            "goals visited": float((found["right"] > 0) + (found["left"] > 0)),
        },
        {"return": (steps, curve)},
    )


def pmoe_arm(seed: int, scale: float) -> Outcome:
    """SAC-PMOE with four primitives."""
    env = gym.make("PointMaze-v0", layout=LAYOUT)
    return outcome_of(PMOE("MlpPolicy", env, n_primitives=4, seed=seed, **TUNING), scale)


def sac_arm(seed: int, scale: float) -> Outcome:
    """SAC."""
    env = gym.make("PointMaze-v0", layout=LAYOUT)
    return outcome_of(SoftActorCritic("MlpPolicy", env, seed=seed, **TUNING), scale)


def single_arm(seed: int, scale: float) -> Outcome:
    """PMOE with one primitive beside SAC, from the same parameters, with the same noise."""
    both: tuple[tuple[type[SoftActorCritic], dict[str, Any]], ...]
    both = (PMOE, {"n_primitives": 1}), (SoftActorCritic, {})
    agents = []
    for cls, own in both:
        env = gym.make("PointMaze-v0", layout=LAYOUT)
        agents.append(cls("MlpPolicy", env, seed=seed, **{**TUNING, "learning_starts": 100}, **own))
    mixture, plain = agents
    plain.policy.load_state_dict(mixture.policy.state_dict(), strict=False)  # without the router
    for agent in agents:
        agent.learn(100)  # of steps alone
    apart, routed = 0.0, 0.0
    for step in range(20):
        for agent in agents:
            set_random_seed(step)
            agent.train(1, 32)
        names = ("actor_loss", "critic_loss", "ent_coef_loss")
        gaps = [mixture.metrics[name][0] - plain.metrics[name][0] for name in names]
        apart = max(apart, *(float(gap.abs()) for gap in gaps))
        routed = max(routed, float(mixture.metrics["router_loss"][0]))
    return Outcome({"loss difference": apart, "router loss": routed})


PMOE.claim = Claim(
    text="From a start between two goals that are equally good, 8,000 steps of SAC-PMOE with four "
    "primitives lead to both (each in at least 10% of the policy's own episodes) in more seeds "
    "than as many steps of SAC, with a mean return at most 5% lower; with one primitive all "
    "losses are SAC's and the router's is 0.",
    arms={"SAC-PMOE": pmoe_arm, "SAC": sac_arm, "one primitive": single_arm},
    criteria=(
        Superior("both goals", "SAC-PMOE", "SAC"),
        NotInferior("return", "SAC-PMOE", "SAC", margin=0.05, relative=True),
        Exact("loss difference", "one primitive", value=0.0, tolerance=1e-6),
        Exact("router loss", "one primitive", value=0.0, tolerance=0.0),
    ),
    seeds=7,
    core_minutes=10.0,
    modules=("agents.control.pmoe_policy", "envs.control.point_maze"),
)
