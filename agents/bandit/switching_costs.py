"""Exponential weights in batches, where changing the arm costs 1 and observations are few.

Duo Cheng, Xingyu Zhou, Bo Ji: Understanding the Role of Feedback in Online Learning with Switching
Costs (ICML 2023, arXiv 2306.09588).

Losses l_t in [0, 1]^K are an adversary's; the regret counts the losses and the changes of the arm.
T rounds fall into N batches of ceil(T / N). One arm X_b is played in all of batch b; from what is
seen in one round u_b of it, drawn uniformly, an estimate l^_b in R^K is made, and

    w_{b+1}(k) = w_b(k) exp(-eta l^_b(k)),    w_1 = 1,  p_b = w_b / sum w_b

What is seen, with a budget of B observations, decides how many batches there are:

    full    all losses of round u_b:        l^ = l,                    N = B / K
    extra   those of the K - 1 other arms:  l^ = l,                    N = B / (K - 1)
    single  that of an arm U, uniform:      l^ = K l(U) [k = U],       N = B
    bandit  that of the arm played:         l^ = l(X) [k = X] / p(X),  N = min(B, K^(1/3) T^(2/3))

    eta = sqrt(2 log K / (3 N)) for full and extra, sqrt(2 log K / (N K)) for single and bandit

With bandit feedback X_b is drawn afresh from p_b. The others move as on a shrinking dartboard: the
arm is kept with probability w_b(X) / w_{b-1}(X), and else drawn from p_b. X_b then has the law p_b
all the same, but hardly ever changes. The regret is T sqrt(K log K / B) but for constants, as it
must be; bandit feedback cannot get below T^(2/3), however much of it there is. "extra" needs
B > K^(1/3) T^(2/3): fewer observations are ignored for the bandit feedback that comes with them.
"""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass
from functools import partial
from math import log, sqrt
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.type_aliases import GymEnv, Schedule

from ...envs.tabular.probabilities import draw
from ..base.bandit import BanditAlgorithm, Diary, HeldArmPolicy, summed, told
from ..base.declare import Claim, Example, Outcome, Paper, Superior
from ..base.stepping import Mask, Transitions, check_discrete

Array = NDArray[np.float64]

# -- the paper's computation -----------------------------------------------------------------------


def threshold(T: int, K: int) -> int:
    """K^(1/3) T^(2/3), rounded: observations beyond which more help only if they are free of
    switching."""
    return round(float(K) ** (1 / 3) * float(T) ** (2 / 3))


def number_of_batches(feedback: str, T: int, K: int, budget: int | None) -> int:
    """N, at most T; 0 where the budget does not suffice for one, None: there is no bound.

    Args:
        feedback: "full", "extra", "single" or "bandit".
    """
    each = {"full": K, "extra": max(K - 1, 1)}.get(feedback, 1)
    number = T if budget is None else min(budget // each, T)
    return min(number, max(threshold(T, K), 1)) if feedback == "bandit" else number


def step_size(feedback: str, N: int, K: int) -> float:
    """eta."""
    return sqrt(2 * log(K) / (N * (3 if feedback in ("full", "extra") else K)))


def weighted_estimate(K: int, arm: int, loss: float, probability: float) -> Array:
    """l(k) [k = arm] / probability, [K]: unbiased where `arm` is seen with that probability."""
    estimate = np.zeros(K)
    estimate[arm] = loss / probability
    return estimate


def law(log_weights: Array) -> Array:
    """p of log w, [K]."""
    weights = np.exp(log_weights - log_weights.max())
    found: Array = weights / weights.sum()
    return found


def dartboard(before: Array, after: Array, arm: int) -> Array:
    """Law [K] of the next arm after `arm`, from log weights before and after an estimate, [K].

    Raises:
        ValueError: a weight has grown, as after a negative estimate.
    """
    if (after > before).any():
        grown = int((after - before).argmax())
        raise ValueError(f"the weight of arm {grown} has grown: estimates must be at least 0")
    stay = float(np.exp(after[arm] - before[arm]))
    found = (1 - stay) * law(after)
    found[arm] += stay
    return found


# -- the agent -------------------------------------------------------------------------------------


class WeightsPolicy(HeldArmPolicy):
    """Exponential weights and the arm that is held, which it predicts.

    Args:
        observation_space: any; not looked at.
        action_space: `Discrete`.
        lr_schedule: not used; SB3 hands it to every policy.
    """

    log_weights: torch.Tensor
    estimate: torch.Tensor

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        lr_schedule: Schedule | None = None,
    ) -> None:
        super().__init__(observation_space, action_space, lr_schedule)
        check_discrete(action_space, "arms", "a bandit")
        arms = int(action_space.n)  # type: ignore[attr-defined]
        self.register_buffer("log_weights", torch.zeros(arms, dtype=torch.float64))
        # Of the present batch; zeros until something is seen.
        self.register_buffer("estimate", torch.zeros(arms, dtype=torch.float64))


@dataclass
class Phase:
    """T rounds in N batches, and where in them the learner is.

    Attributes:
        feedback: "full", "extra", "single" or "bandit".
        doublings: phases of the episode before this one.
        blind: the budget does not suffice to see anything.
        played: rounds of the phase so far.
        place, size: rounds of the batch so far, and in all.
        look: the round of the batch in which to see, u_b.
        arm: that is looked at where it is only one, U.
    """

    feedback: str
    doublings: int
    T: int
    N: int
    blind: bool
    played: int = 0
    place: int = 0
    size: int = 0
    look: int = 0
    arm: int = 0

    @property
    def looks(self) -> bool:
        """Whether the coming round is the one to see."""
        return self.place == self.look and not self.blind


class BatchedExponentialWeights(BanditAlgorithm):
    """Exponential weights in batches, for `SwitchingCostBandit-v0`, whose `mode` is the feedback.

    `predict` returns the arm that is held. A new episode is a new adversary: everything starts
    over. One environment at a time.

    Args:
        policy: "WeightsPolicy".
        env: an environment with `observe` and `info["observed"]`.
        horizon: T, at least 1; None: the environment's. Where an episode goes on after `horizon`
            rounds, the learner starts over with twice the horizon, budget and batches (the way to
            play without knowing T).
        budget: B, observations for `horizon` rounds, at least 0; None: all that the environment
            grants.
        batches: N, at least 1, in place of the paper's.
        seed, ...: as in `BanditAlgorithm`.

    Raises:
        ValueError: an argument out of range, several environments, or one without `observe`.
    """

    paper = Paper(
        slug="switching_costs",
        title="Understanding the Role of Feedback in Online Learning with Switching Costs",
        authors="Duo Cheng, Xingyu Zhou, Bo Ji",
        year=2023,
        arxiv="2306.09588",
    )
    policy_aliases: ClassVar[dict[str, Any]] = {"WeightsPolicy": WeightsPolicy}
    example = Example("SwitchingCostBandit-v0", policy="WeightsPolicy", steps=400)
    policy: WeightsPolicy
    phase: Phase | None = None

    def __init__(
        self,
        policy: Any,
        env: GymEnv | str | None,
        *,
        horizon: int | None = None,
        budget: int | None = None,
        batches: int | None = None,
        **common: Any,
    ) -> None:
        for name, value, least in (("horizon", horizon, 1), ("budget", budget, 0)):
            if value is not None and value < least:
                raise ValueError(f"{name}={value} must be at least {least}")
        if batches is not None and batches < 1:
            raise ValueError(f"batches={batches} must be at least 1")
        self.horizon, self.budget, self.batches = horizon, budget, batches
        super().__init__(policy, env, **common)

    def _setup_model(self) -> None:
        super()._setup_model()
        if self.env is not None:
            self._core()
        self._forget()

    def _core(self) -> Any:
        assert self.env is not None
        if self.env.num_envs != 1 or not self.env.has_attr("observe"):
            raise ValueError(
                f"{type(self).__name__} needs one environment with `observe`, got "
                f"{self.env.num_envs} of {self.env}"
            )
        return self.env.get_attr("core")[0]

    def _forget(self) -> None:
        self.policy.log_weights.zero_()
        self.policy.held.fill_(int(self.generator.integers(len(self.policy.log_weights))))

    def plan(self, doublings: int, seen: int) -> Phase:
        """The phase of an episode after so many others, in which so much was seen."""
        core, factor = self._core(), 2**doublings
        T = factor * (core.T if self.horizon is None else self.horizon)
        budgets = [] if self.budget is None else [factor * self.budget]
        budgets += [] if core.budget is None else [core.budget - seen]
        budget = min(budgets, default=None)
        feedback = core.mode
        if feedback == "extra" and budget is not None and budget < threshold(T, core.K):
            feedback, budget = "bandit", None
        N = number_of_batches(feedback, T, core.K, budget)
        blind = N == 0
        if blind:
            warnings.warn(
                f"budget={budget} does not suffice to see anything: one arm is played in all of "
                f"{T} rounds",
                stacklevel=2,
            )
        elif self.batches is not None:
            N = min(factor * self.batches, T)
        return Phase(feedback, doublings, T, max(N, 1), blind)

    def start(self, phase: Phase) -> None:
        """Begin a phase."""
        self.phase = phase
        self._forget()
        self.start_batch()

    def start_batch(self) -> None:
        """Begin the next batch: choose when to see, and what."""
        phase = self.phase
        assert phase is not None
        phase.place, phase.size = 0, min(-(-phase.T // phase.N), phase.T - phase.played)
        phase.look = int(self.generator.integers(phase.size))
        if phase.feedback == "single":
            phase.arm = int(self.generator.integers(len(self.policy.log_weights)))
        self.policy.estimate.zero_()

    def act(self, observations: NDArray[Any], masks: Mask | None) -> NDArray[np.int64]:
        """The arm held; before the round to see, ask for its losses."""
        if np.any(self._last_episode_starts):
            self.start(self.plan(0, 0))
        assert self.phase is not None
        if self.phase.looks:
            self.ask(self.phase)
        return self.policy.held.numpy()[None].copy()

    def ask(self, phase: Phase) -> None:
        """Ask the environment to show what belongs to the feedback."""
        assert self.env is not None
        if phase.feedback == "extra":
            others = np.arange(len(self.policy.log_weights)) != int(self.policy.held)
            self.env.env_method("observe", np.flatnonzero(others).tolist())
        elif phase.feedback == "single":
            self.env.env_method("observe", phase.arm)
        elif phase.feedback == self._core().mode:
            # Otherwise it is bandit feedback that comes with every round.
            self.env.env_method("observe")

    def learn_from(self, transitions: Transitions) -> dict[str, float]:
        """Make an estimate of what was seen; after a batch, choose the next arm."""
        phase, info = self.phase, transitions.infos[0]
        assert phase is not None
        if phase.looks:
            self.policy.estimate[:] = torch.as_tensor(self.estimate(phase, info["observed"]))
        phase.played += 1
        phase.place += 1
        if not transitions.dones[0]:
            if phase.played == phase.T:
                self.start(self.plan(phase.doublings + 1, int(info["observations"])))
            elif phase.place == phase.size:
                self.reweigh(phase)
                self.start_batch()
        return {
            "rollout/mean_reward": float(transitions.rewards[0]),
            **told(transitions.infos, "regret", "cost", "observations"),
        }

    def estimate(self, phase: Phase, observed: Array) -> Array:
        """l^ of the losses [K] that the environment showed."""
        arms = len(observed)
        if phase.feedback in ("full", "extra"):
            return observed
        if phase.feedback == "single":
            return weighted_estimate(arms, phase.arm, float(observed[phase.arm]), 1 / arms)
        arm = int(self.policy.held)
        probability = float(law(self.policy.log_weights.numpy())[arm])
        return weighted_estimate(arms, arm, float(observed[arm]), probability)

    def reweigh(self, phase: Phase) -> None:
        """Weights after a batch, and the arm of the next one."""
        policy = self.policy
        before = policy.log_weights.numpy().copy()
        after = before - step_size(phase.feedback, phase.N, len(before)) * policy.estimate.numpy()
        fresh = phase.feedback == "bandit"
        chances = law(after) if fresh else dartboard(before, after, int(policy.held))
        policy.log_weights[:] = torch.as_tensor(after)
        policy.held.fill_(int(draw(chances[None], self.generator)[0]))

    def learning_state(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """As the base's, with the phase."""
        values, tensors = super().learning_state()
        return {**values, "phase": None if self.phase is None else asdict(self.phase)}, tensors

    def restore_learning_state(
        self, values: dict[str, Any], tensors: dict[str, torch.Tensor]
    ) -> None:
        """Inverse of `learning_state`."""
        super().restore_learning_state(values, tensors)
        self.phase = None if values["phase"] is None else Phase(**values["phase"])


# -- the claim in miniature ------------------------------------------------------------------------

CLAIM_ROUNDS, CLAIM_ARMS = 32_000, 4
MOST_SWITCHES, FEWEST_SWITCHES = 12.0, 600.0
BUDGETS = (200, 800, 3_200, 32_000)
HALVED, FEW, MANY = (
    "regret against half of the others'",
    "switches against 12",
    "switches against 600",
)


def played(seed: int, scale: float, mode: str, budget: int | None, N: int | None) -> Outcome:
    """Regret with the costs of switching, and switches, against the adversary of the seed."""
    T = max(int(CLAIM_ROUNDS * scale), 1)
    env = gym.make("SwitchingCostBandit-v0", K=CLAIM_ARMS, T=T, mode=mode, budget=budget)
    agent = BatchedExponentialWeights("WeightsPolicy", env, seed=seed, batches=N)
    diary = Diary()
    agent.learn(T, callback=diary, log_interval=None)
    regrets = diary.column("rollout/regret")
    metrics = {
        "regret": float(regrets.sum()),
        "switches": float(diary.column("rollout/cost").sum()),
        "observations": float(diary.column("rollout/observations")[-1]),
    }
    return Outcome(metrics, {"regret": summed(regrets)})


def full_arm(seed: int, scale: float, budget: int) -> Outcome:
    """Full feedback with a budget."""
    found = played(seed, scale, "full", max(int(budget * scale), CLAIM_ARMS), None)
    regret, switches = found.metrics["regret"], found.metrics["switches"]
    halved = regret if budget == BUDGETS[-1] else regret / 2
    bounds = {HALVED: halved, FEW: switches, MANY: FEWEST_SWITCHES}
    return Outcome({**found.metrics, **bounds}, found.curves)


def bandit_arm(seed: int, scale: float, N: int) -> Outcome:
    """Bandit feedback in N batches, on the same tapes."""
    found = played(seed, scale, "bandit", None, max(int(N * scale), 1))
    regret, switches = found.metrics["regret"], found.metrics["switches"]
    bounds = {HALVED: regret / 2, FEW: MOST_SWITCHES, MANY: switches}
    return Outcome({**found.metrics, **bounds}, found.curves)


FULL = {f"full {budget}": partial(full_arm, budget=budget) for budget in BUDGETS}
ROOT = round(CLAIM_ROUNDS ** (2 / 3))
BANDIT = {
    "bandit T^(2/3)": partial(bandit_arm, N=ROOT),
    "bandit 2 T^(2/3)": partial(bandit_arm, N=2 * ROOT),
    "bandit T/4": partial(bandit_arm, N=CLAIM_ROUNDS // 4),
}
MOST, FEWEST = "full 32000", "bandit T^(2/3)"

BatchedExponentialWeights.claim = Claim(
    text="Over 32,000 rounds with 4 arms, where changing the arm costs 1, full feedback with "
    "32,000 observations has less than half the regret that it has with 800, and that bandit "
    "feedback has with any number of batches; beyond T^(2/3) more of them make it worse. Full "
    "feedback changes the arm at most 12 times, bandit feedback 600 times or more.",
    arms={**FULL, **BANDIT},
    criteria=(
        Superior(HALVED, MOST, "full 800", higher_is_better=False),
        *(Superior(HALVED, MOST, name, higher_is_better=False) for name in BANDIT),
        Superior("regret", FEWEST, "bandit T/4", higher_is_better=False),
        *(Superior(FEW, name, FEWEST, higher_is_better=False) for name in FULL),
        *(Superior(MANY, name, MOST) for name in BANDIT),
    ),
    seeds=20,
    core_minutes=20.0,
)
