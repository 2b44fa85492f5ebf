"""CaRL: a simple reward for driving, and PPO that grows with its minibatches.

Bernhard Jaeger, Daniel Dauner, Jens Beisswenger et al.: CaRL: Learning Scalable Planning Policies
with Simple Rewards (CoRL 2025, arXiv 2504.17838).

A reward that adds up how one should drive, term by term, has local optima, and the larger the
minibatches the surer PPO stays in one. This one pays progress alone; whatever else matters ends the
episode, or makes the progress of the step worth less:

    r = (RC - best RC so far) * product of factors in [0, 1]  -  [collision or red light]

with the route completion RC in percent. A drive without faults returns 100 at any pace. The reward
is a wrapper, `palaestra.wrappers.carl_reward`; this class is the agent that belongs to it, and
takes any reward:

    CaRL("MlpPolicy", CaRLReward(gym.make("LaneDriving-v0")))

    vector = gym.make_vec("LaneDriving-v0", 32, autoreset_mode=AutoresetMode.SAME_STEP)
    CaRL("MlpPolicy", CaRLVectorReward(vector), n_steps=64, batch_size=1024)

It is PPO with the constants below and, for every action a in its range, a Beta distribution:

    a = 2u - 1,  u ~ Beta(alpha, beta),   alpha, beta = 1 + softplus(output)
    log pi(a | s) = sum over actions of log Beta(u; alpha, beta) - log 2
    deterministically a = 2 alpha / (alpha + beta) - 1

What differs from the authors' program: the learning from a rollout stops at a divergence of 1.5
times `target_kl`, as in Stable-Baselines3, and values are not clipped; actor and critic are
Stable-Baselines3's networks. There is one process: a large minibatch is not split over devices.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from gymnasium.vector import VectorEnv
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.utils import LinearSchedule

from ...wrappers.carl_reward import AdditiveVectorReward, CaRLReward, CaRLVectorReward
from ...wrappers.sb3 import SB3VecEnv
from ..base.declare import Claim, Exact, Example, NotInferior, Outcome, Paper, Superior
from ..base.ppo import ProximalAlgorithm
from .carl_policy import BetaCnnPolicy, BetaMultiInputPolicy, BetaPolicy
from .carl_trials import CARS, Curve, exact_arm, native_lanes

DECAYING = LinearSchedule(2.5e-4, 0.0, 1.0)


class CaRL(ProximalAlgorithm):
    """PPO with a Beta policy, for driving with a simple reward.

    The reward is the environment's: wrap it in `CaRLReward` or, a vector, in `CaRLVectorReward`.

    Args:
        policy: "MlpPolicy", "CnnPolicy" or "MultiInputPolicy".
        env: with actions in a bounded `Box`.
        learning_rate: decays linearly from 2.5e-4 to 0; a number stays what it is.
        n_steps: of each environment, between two updates.
        batch_size: of a minibatch; the paper goes from 256 to about 16,000.
        n_epochs, clip_range, ent_coef, target_kl: the paper's.
        arguments: of `stable_baselines3.PPO`, without `use_sde`.

    Raises:
        ValueError: an argument is out of range, or actions are not in a bounded `Box`.
    """

    paper = Paper(
        slug="carl",
        title="CaRL: Learning Scalable Planning Policies with Simple Rewards",
        authors="Bernhard Jaeger, Daniel Dauner, Jens Beisswenger et al.",
        year=2025,
        arxiv="2504.17838",
        code="https://github.com/autonomousvision/CaRL",
    )
    example = Example(
        "LaneDriving-v0",
        kwargs={"n_steps": 32, "batch_size": 16},
        steps=256,
        wrapper=CaRLReward,
    )
    policy_aliases: ClassVar[dict[str, Any]] = {
        "MlpPolicy": BetaPolicy,
        "CnnPolicy": BetaCnnPolicy,
        "MultiInputPolicy": BetaMultiInputPolicy,
    }

    def __init__(
        self,
        policy: Any,
        env: GymEnv | str | None,
        *,
        learning_rate: Any = DECAYING,
        n_steps: int = 512,
        batch_size: int = 256,
        n_epochs: int = 3,
        clip_range: Any = 0.1,
        ent_coef: float = 0.01,
        target_kl: float | None = 0.015,
        **arguments: Any,
    ) -> None:
        arguments |= {"learning_rate": learning_rate, "n_steps": n_steps, "batch_size": batch_size}
        arguments |= {"n_epochs": n_epochs, "clip_range": clip_range}
        arguments |= {"ent_coef": ent_coef, "target_kl": target_kl}
        super().__init__(policy, env, **arguments)  # type: ignore[arg-type]


# -- the claim in miniature -----------------------------------------------------------------------

STEPS, ROLLOUT, POINTS = 200_000, 2_048, 8
MINIBATCHES = 64, 1_024
CHANGE = "change of the score from 64 to 1024"
# For each reward the best of 2.5e-4, 1e-3 and 3e-3 with minibatches of 1024 (seeds 100 to 102).
RATE, ADDITIVE_RATE = 1e-3, 3e-3
TUNING: dict[str, Any] = {
    "n_steps": ROLLOUT // CARS,
    "policy_kwargs": {"optimizer_kwargs": {"fused": True, "eps": 1e-5}},
    "device": "cpu",
}


def score_of(size: int) -> str:
    """Name of the metric of minibatches of a size."""
    return f"driving score, minibatch {size}"


def learned(
    env: VectorEnv[Any, Any, Any], rate: float, size: int, seed: int, scale: float
) -> tuple[dict[str, float], tuple[list[float], list[float]]]:
    """Metrics on the held-out routes of an agent that learned with minibatches of a size, and the
    curve of its driving score."""
    falling = LinearSchedule(rate, 0.0, 1.0)
    arguments = {**TUNING, "learning_rate": falling, "batch_size": size, "seed": seed}
    agent = CaRL("MlpPolicy", SB3VecEnv(env), **arguments)
    steps = max(int(STEPS * scale), ROLLOUT)
    curve = Curve(max(steps // POINTS, 1))
    agent.learn(steps, curve)
    drives = curve.measure()
    found = {score_of(size): curve.scores[-1]}
    found[f"mean score while learning, minibatch {size}"] = float(np.mean(curve.scores))
    found[f"completion, minibatch {size}"] = float(drives.completion.mean())
    for event in ("collision", "red_light", "timeout"):
        found[f"{event}, minibatch {size}"] = float((drives.event == event).mean())
    return found, (curve.steps, curve.scores)


def arm_of(
    reward: type[CaRLVectorReward] | type[AdditiveVectorReward],
    rate: float,
    seed: int,
    scale: float,
) -> Outcome:
    """Two agents, with small and with large minibatches."""
    metrics, curves = dict[str, float](), dict[str, tuple[list[float], list[float]]]()
    for size in MINIBATCHES:
        found, curves[score_of(size)] = learned(reward(native_lanes()), rate, size, seed, scale)
        metrics |= found
    small, large = (metrics[score_of(size)] for size in MINIBATCHES)
    return Outcome({**metrics, CHANGE: large - small}, curves)


def carl_arm(seed: int, scale: float) -> Outcome:
    """CaRL's reward."""
    return arm_of(CaRLVectorReward, RATE, seed, scale)


def additive_arm(seed: int, scale: float) -> Outcome:
    """The additive reward."""
    return arm_of(AdditiveVectorReward, ADDITIVE_RATE, seed, scale)


CaRL.claim = Claim(
    text="A clean drive returns 100 with CaRL's reward in any number of steps; with the additive "
    "reward it returns more the more steps it takes. On 50 held-out routes, after 200,000 steps "
    "with minibatches of 1024, agents with CaRL's reward have higher driving scores than agents "
    "with the additive reward; and going from minibatches of 64 to 1024 changes CaRL's score by "
    "no less than 5 points below the change of the additive reward's.",
    arms={"CaRL": carl_arm, "additive": additive_arm, "clean drives": exact_arm},
    criteria=(
        Exact("error of the return", "clean drives", value=0.0, tolerance=1e-9),
        Exact("additive returns that do not grow", "clean drives", value=0.0, tolerance=0.0),
        Superior(score_of(1_024), "CaRL", "additive"),
        NotInferior(CHANGE, "CaRL", "additive", margin=5.0),
    ),
    seeds=8,
    core_minutes=15.0,
    modules=(
        "agents.control.carl_policy",
        "agents.control.carl_trials",
        "envs.driving.lane_driving",
        "wrappers.carl_reward",
        "wrappers.driving_reward",
    ),
)
