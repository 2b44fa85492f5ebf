"""SquareCB on batches: inverse gap weighting of a success model that each batch replaces.

Akhila Vangara, Alex Egg: Contextual Bandits in Payment Processing: Non-uniform Exploration and
Supervised Learning at Adyen (OARS workshop at KDD 2025, arXiv 2412.00569).

Of k available actions let b be the one with the best score s(x, b). Inverse gap weighting takes

    p(a | x) = 1 / (k + gamma (s(x, b) - s(x, a))),  a != b;    p(b | x) = 1 - the others' sum

so gamma = 0 is uniform, gamma -> infinity greedy, and what is lost by the model's own scores is at
most k / gamma. The scores come from a model fitted to the last released batch alone, so a better
policy narrows what its successor learns from: fewer failures (imbalance), shifted contexts. The
paper finds less lost online than by uniform exploration, and models that get worse in spite of
better logged outcomes, with an oscillation between generations.

The rounds and the log are those of `batch_learning.py`, the model that of `success_model.py` (a
logistic regression for each action; the paper uses gradient-boosted trees). This file adds what
exploration does to them: inverse gap weighting, the rules that it is compared with, and the
diagnostics. k in the place of a fixed number of actions, all sizes and the diagnostics' definitions
are choices made here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.type_aliases import GymEnv

from ...envs.bandits.payment_routing import PaymentRouting
from ...wrappers.sb3 import make_sb3
from ..base.bandit import Diary
from ..base.declare import Claim, Example, NotInferior, Outcome, Paper, Superior
from ..base.stepping import Mask
from .batch_learning import BatchBandit, checked
from .success_model import SuccessModelPolicy, best_available, uniform

Array = NDArray[np.float64]

# -- the paper's computation ----------------------------------------------------------------------


def inverse_gap_weighting(scores: Array, available: Mask, gamma: float) -> Array:
    """Probabilities of the actions, 0 of those not available, [n, K].

    Args:
        scores: s, of which only differences matter, [n, K].
        available: bool [n, K], in each row at least one.
        gamma: at least 0.
    """
    rows, best = np.arange(len(scores)), best_available(scores, available)
    gaps = np.where(available, scores[rows, best][:, None] - scores, 0.0)
    found: Array = available / (available.sum(axis=1, keepdims=True) + gamma * gaps)
    found[rows, best] = 0.0
    found[rows, best] = 1.0 - found.sum(axis=1)
    return found


def epsilon_greedy(scores: Array, available: Mask, epsilon: float) -> Array:
    """epsilon / k for each of k available actions, and 1 - epsilon more for the best, [n, K]."""
    best = best_available(scores, available)
    found = epsilon * uniform(available)
    found[np.arange(len(scores)), best] += 1.0 - epsilon
    return found


def softmax(scores: Array, available: Mask, temperature: float) -> Array:
    """exp(s / temperature) of the available actions, scaled to sum 1, [n, K]."""
    highest = scores[np.arange(len(scores)), best_available(scores, available)][:, None]
    raised = np.exp(np.where(available, (scores - highest) / temperature, -np.inf))
    found: Array = raised / raised.sum(axis=1, keepdims=True)
    return found


class OffPolicyValues(NamedTuple):
    """What a policy would earn, judged by another's log.

    Attributes:
        ips: mean of w r, with w = pi / p.
        snips: sum of w r / sum of w.
        ess: effective sample size, (sum of w)^2 / sum of w^2.
    """

    ips: float
    snips: float
    ess: float


def off_policy_values(rewards: Array, logged: Array, target: Array) -> OffPolicyValues:
    """Importance-weighted values of a policy.

    Args:
        rewards: of the logged actions, [N].
        logged: p, with which they were taken, [N].
        target: pi, with which the policy would take them, [N].

    Raises:
        ValueError: a logged probability is not above 0, or the policy takes none of the actions.
    """
    weights = target / checked(logged)
    if not weights.sum() > 0:
        raise ValueError("the policy takes none of the logged actions")
    paid = weights * rewards
    return OffPolicyValues(
        float(paid.mean()),
        float(paid.sum() / weights.sum()),
        float(weights.sum() ** 2 / (weights**2).sum()),
    )


def oscillation(values: Sequence[float]) -> float:
    """Mean absolute change from one generation to the next, of at least two."""
    return float(np.abs(np.diff(values)).mean())


# -- the agents -----------------------------------------------------------------------------------

EXAMPLE_ENV = {"batch": 10, "T": 60, "observation": "flat"}


class BatchSquareCB(BatchBandit):
    """Inverse gap weighting by the scores of the last batch's model.

    Args:
        policy, env, penalty, ...: as in `BatchBandit`.
        gamma: at least 0; 0 explores uniformly.
    """

    paper = Paper(
        slug="adyen_bandits",
        title="Contextual Bandits in Payment Processing: Non-uniform Exploration and Supervised "
        "Learning at Adyen",
        authors="Akhila Vangara, Alex Egg",
        year=2024,
        arxiv="2412.00569",
    )
    example = Example("PaymentRouting-v0", EXAMPLE_ENV, policy="SuccessModelPolicy", steps=200)

    def __init__(
        self, policy: Any, env: GymEnv | str | None, *, gamma: float = 100.0, **common: Any
    ) -> None:
        if not 0 <= gamma < np.inf:
            raise ValueError(f"gamma={gamma} must be a finite number of at least 0")
        self.gamma = gamma
        super().__init__(policy, env, **common)

    def laws(self, scores: Array, available: Mask) -> Array:
        """Inverse gap weighting."""
        return inverse_gap_weighting(scores, available, self.gamma)


class BatchEpsilonGreedy(BatchBandit):
    """Mostly the best action by the last batch's model, sometimes any.

    Args:
        policy, env, penalty, ...: as in `BatchBandit`.
        epsilon: probability of a uniform action, in [0, 1]; 0 is greedy.
    """

    example = Example("PaymentRouting-v0", EXAMPLE_ENV, policy="SuccessModelPolicy", steps=200)

    def __init__(
        self, policy: Any, env: GymEnv | str | None, *, epsilon: float = 0.1, **common: Any
    ) -> None:
        if not 0 <= epsilon <= 1:
            raise ValueError(f"epsilon={epsilon} is outside [0, 1]")
        self.epsilon = epsilon
        super().__init__(policy, env, **common)

    def laws(self, scores: Array, available: Mask) -> Array:
        """Epsilon-greedy."""
        return epsilon_greedy(scores, available, self.epsilon)


class BatchSoftmax(BatchBandit):
    """Actions in proportion to exp(score / temperature) by the last batch's model.

    Args:
        policy, env, penalty, ...: as in `BatchBandit`.
        temperature: above 0.
    """

    example = Example("PaymentRouting-v0", EXAMPLE_ENV, policy="SuccessModelPolicy", steps=200)

    def __init__(
        self, policy: Any, env: GymEnv | str | None, *, temperature: float = 0.05, **common: Any
    ) -> None:
        if not 0 < temperature < np.inf:
            raise ValueError(f"temperature={temperature} must be a finite number above 0")
        self.temperature = temperature
        super().__init__(policy, env, **common)

    def laws(self, scores: Array, available: Mask) -> Array:
        """Softmax."""
        return softmax(scores, available, self.temperature)


# -- the claim in miniature -----------------------------------------------------------------------

CLAIM_GENERATIONS, CLAIM_ROWS, CLAIM_TEST = 8, 2_000, 5_000
# The model stays as it is within a batch, so that parallel environments which fill one together
# are the same as one after another.
CLAIM_ENVS = 50


def model_regret(policy: SuccessModelPolicy, test: dict[str, Any]) -> float:
    """What the greedy policy loses on payments `x` with `available` actions whose true `chance` is
    known, on average."""
    rows = np.arange(len(test["x"]))
    chosen = best_available(policy.scores(test["x"]), test["available"])
    best = np.where(test["available"], test["chance"], 0.0).max(axis=1)
    return float((best - test["chance"][rows, chosen]).mean())


def route(agent_class: type[BatchBandit], seed: int, scale: float, **arguments: Any) -> Outcome:
    """Eight generations on the truth that belongs to the seed."""
    batch = max(int(CLAIM_ROWS * scale) // CLAIM_ENVS, 2)
    world: dict[str, Any] = {"batch": batch, "T": batch * CLAIM_GENERATIONS, "instance": seed}
    env = make_sb3("PaymentRouting-v0", CLAIM_ENVS, observation="flat", keep_infos=True, **world)
    payments = PaymentRouting(T=CLAIM_TEST, instance=seed)
    test = payments.draw_tape(np.random.default_rng([seed, CLAIM_TEST]), {})
    # Environment i has the agent's seed plus i: no two seeds of the claim share a tape.
    agent, diary = agent_class("SuccessModelPolicy", env, seed=1_000 * seed, **arguments), Diary()
    regrets = []
    for _ in range(CLAIM_GENERATIONS):
        agent.learn(batch * CLAIM_ENVS, callback=diary, reset_num_timesteps=False)
        regrets.append(model_regret(agent.policy, test))
    online = diary.column("rollout/regret").reshape(CLAIM_GENERATIONS, batch).mean(axis=1)
    told = diary.column("train/imbalance")
    balance = told[~np.isnan(told)]
    ends = (batch * CLAIM_ENVS * np.arange(1.0, CLAIM_GENERATIONS + 1)).tolist()
    return Outcome(
        {
            "online regret": float(online[1:].mean()),
            "model regret": float(np.mean(regrets[1:])),
            "oscillation": oscillation(regrets),
            "first imbalance": float(balance[0]),
            "last imbalance": float(balance[-1]),
        },
        {
            "online regret": (ends, online.tolist()),
            "model regret": (ends, regrets),
            "imbalance": (ends, balance.tolist()),
        },
    )


def uniform_arm(seed: int, scale: float) -> Outcome:
    """Uniform exploration."""
    return route(BatchSquareCB, seed, scale, gamma=0.0)


def mild_arm(seed: int, scale: float) -> Outcome:
    """Inverse gap weighting with gamma 20."""
    return route(BatchSquareCB, seed, scale, gamma=20.0)


def sharp_arm(seed: int, scale: float) -> Outcome:
    """Inverse gap weighting with gamma 100."""
    return route(BatchSquareCB, seed, scale, gamma=100.0)


def epsilon_arm(seed: int, scale: float) -> Outcome:
    """Epsilon-greedy with epsilon 0.1."""
    return route(BatchEpsilonGreedy, seed, scale, epsilon=0.1)


def softmax_arm(seed: int, scale: float) -> Outcome:
    """Softmax with temperature 0.05."""
    return route(BatchSoftmax, seed, scale, temperature=0.05)


def greedy_arm(seed: int, scale: float) -> Outcome:
    """No exploration after the first generation."""
    return route(BatchEpsilonGreedy, seed, scale, epsilon=0.0)


def bar_arm(seed: int, scale: float) -> Outcome:
    """The constant that the imbalance must exceed."""
    return Outcome({"last imbalance": 0.88})


BatchSquareCB.claim = Claim(
    text="In eight generations of 2,000 payments, inverse gap weighting with gamma 100 loses less "
    "than half of what uniform exploration loses after generation 0; but its models are worse on "
    "uniform payments than those of uniform logs, as are greedy ones, both oscillate more (gamma "
    "100 by 1.3 times), and the logged outcomes become imbalanced beyond 0.88.",
    arms={
        "uniform": uniform_arm,
        "IGW 20": mild_arm,
        "IGW 100": sharp_arm,
        "epsilon 0.1": epsilon_arm,
        "softmax 0.05": softmax_arm,
        "greedy": greedy_arm,
        "bar": bar_arm,
    },
    criteria=(
        # Better by at least half of the baseline's.
        NotInferior(
            "online regret",
            "IGW 100",
            "uniform",
            margin=-0.5,
            relative=True,
            higher_is_better=False,
        ),
        Superior("model regret", "IGW 100", "uniform"),
        Superior("model regret", "greedy", "uniform"),
        Superior("oscillation", "greedy", "uniform"),
        # Higher by at least 0.3 of the baseline's.
        NotInferior("oscillation", "IGW 100", "uniform", margin=-0.3, relative=True),
        Superior("last imbalance", "IGW 100", "bar"),
        Superior("last imbalance", "IGW 100", "uniform"),
    ),
    seeds=8,
    core_minutes=2.0,
)
