"""The policy cliff: values follow rewards smoothly, optimal policies do not.

Xingcheng Xu: The Policy Cliff: A Theoretical Analysis of Reward-Policy Maps in Large Language
Models (2025, arXiv 2507.20150). Nothing is trained here; the paper looks at what a planner returns.

With Q = R + gamma P max Q, the optimal values of two rewards differ by little,

    max |Q_1 - Q_2| <= max |R_1 - R_2| / (1 - gamma)

and where the best action of a state leads by the margin m(s), no change of the rewards below
m(s) (1 - gamma) / 2 takes its lead. But where k >= 2 actions are exactly as good, which an
incomplete reward makes common (every way to the right answer ties), a change of any size is enough:
raise Q at one of them by eps and read off the rewards for which that is optimal,

    R_eps = Q_eps - gamma P max Q_eps,    max |R_eps - R| <= (1 + gamma) eps

The policy that was uniform over the ties jumps by 1 - 1/k in total variation, for any eps > 0. For
the same reason a policy that is optimal for the rewards it was trained on falls short of the true
ones as soon as an action that ties under the former has an advantage under what they leave out.

Entropy at temperature alpha mends it: with Q = R + gamma P [alpha log sum exp(Q / alpha)] and
pi = softmax(Q / alpha), in every state

    TV(pi_1, pi_2) <= max |R_1 - R_2| / (2 alpha (1 - gamma))

All of it holds for several rewards that are weighed state by state, R(s, a) = w(s) . R_k(s, a).

Values and laws are those of `base/action_values.py`. `CliffReport` says where a world's cliffs are,
`CliffPlanner` is the planner as an agent, and `CliffProbe` (`cliff_probe.py`) watches a language
model that is paid a little for a style of answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from stable_baselines3.common.type_aliases import GymEnv

from ...envs.tabular.garnet import Garnet
from ...envs.tabular.planning.chains import reachable
from ...envs.tabular.planning.discounted import backup, evaluate
from ...envs.tabular.planning.tables import check_gamma
from ...envs.tabular.probabilities import check_probabilities, check_sums
from ..base.action_values import (
    TIES,
    LawPolicy,
    greedy_law,
    law,
    margins,
    optimal_sets,
    q_soft,
    q_star,
    sweep,
    total_variation,
)
from ..base.declare import Claim, Exact, Example, NotInferior, Outcome, Paper, Superior
from ..base.tabular import TabularAlgorithm
from .cliff_probe import CliffProbe as CliffProbe

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

# -- the paper's computation ----------------------------------------------------------------------


def inverse_bellman(P: Array, action_values: Array, gamma: float) -> Array:
    """The rewards Q - gamma P max Q for which Q is optimal, [S, A]."""
    return np.asarray(action_values - gamma * P @ action_values.max(axis=-1))


def tie_break_reward(
    P: Array, action_values: Array, gamma: float, state: int, action: int, eps: float
) -> Array:
    """The rewards R_eps for which one action is worth eps more than Q, and all others are Q."""
    raised = np.array(action_values)
    raised[state, action] += eps
    return inverse_bellman(P, raised, gamma)


def effective_reward(weights: ArrayLike, rewards: ArrayLike) -> Array:
    """sum_k w_k(s) R_k(s, a), [S, A].

    Args:
        weights: w [S, K], at least 0, of sum 1 in every state.
        rewards: [K, S, A].

    Raises:
        ValueError: the weights are none, or shapes do not fit.
    """
    weights, rewards = np.asarray(weights, np.float64), np.asarray(rewards, np.float64)
    if weights.ndim != 2 or rewards.ndim != 3 or weights.shape != rewards.shape[1::-1]:
        raise ValueError(
            f"weights have shape {weights.shape} and rewards {rewards.shape}, they must be [S, K] "
            "and [K, S, A]"
        )
    check_probabilities("weights", weights)
    check_sums("weights", weights)
    return np.asarray(np.einsum("sk,ksa->sa", weights, rewards))


def soft_bound(change: float, alpha: float, gamma: float) -> float:
    """Total variation that a change of the rewards can make between soft policies at most."""
    check_gamma(gamma)
    return change / (2 * alpha * (1 - gamma))


def needed_temperature(noise: float, target: float, gamma: float) -> float:
    """The smallest alpha with which noise in the rewards moves no soft law by more than target."""
    check_gamma(gamma)
    return noise / (2 * (1 - gamma) * target)


def improvable_ties(
    P: Array, trained: Array, missing: Array, policy: Array, gamma: float, tolerance: float = TIES
) -> Mask:
    """Which actions tie under the rewards of training and have an advantage under what these leave
    out, bool [S, A].

    If a policy that is optimal for `trained` visits a state with such an action, it is strictly
    worse than another one under the true rewards, `trained` + `missing`, and as good in training.

    Args:
        P: [S, A, S].
        trained, missing: rewards [S, A].
        policy: laws [S, A].
        gamma: in [0, 1).
    """
    values = evaluate(P, missing, policy, gamma)
    advantages = backup(P, missing, values, gamma) - values[:, None]
    ties = optimal_sets(q_star(P, trained, gamma), tolerance)
    return np.asarray(ties & (advantages > tolerance))


@dataclass(frozen=True)
class CliffReport:
    """Where the optimal policy of a world hangs on little.

    Attributes:
        tied: states that optimal play can visit and in which several actions are optimal, int64.
        hidden: tied states that it cannot visit, so that they cannot change what is done.
        near_tied: states that are not tied, but whose best action noise could change.
        worst_jump: largest 1 - 1/k of the tied states, 0 without one.
        margins: lead of the best action [S].
        safe_change: no smaller change of the rewards takes a state's best action its lead, [S].
        flipping_change: any larger number is enough for some change to take it, [S].
        alpha: temperature at which the noise moves no soft law by more than the target.
    """

    tied: NDArray[np.int64]
    hidden: NDArray[np.int64]
    near_tied: NDArray[np.int64]
    worst_jump: float
    margins: Array
    safe_change: Array
    flipping_change: Array
    alpha: float

    @classmethod
    def of(
        cls,
        P: Array,
        R: Array,
        gamma: float,
        *,
        d0: ArrayLike | None = None,
        tolerance: float = TIES,
        noise: float = 1e-3,
        target: float = 0.05,
    ) -> Self:
        """Look at a world.

        Args:
            P, R: [S, A, S] and [S, A].
            gamma: in [0, 1).
            d0: probabilities of the first state [S]; None: any.
            tolerance: difference of values up to which actions tie, as floats cannot be equal.
            noise: size of the errors of the rewards.
            target: total variation that a soft policy may move by.
        """
        action_values = q_star(P, R, gamma)
        best, leads = optimal_sets(action_values, tolerance), margins(action_values)
        ways = np.any((P > 0) & best[..., None], axis=1)
        starts = np.full(len(R), True) if d0 is None else np.asarray(d0) > 0
        visited = reachable(ways[None])[0][starts].any(axis=0)
        several = np.sum(best, axis=1)
        tied = (several > 1) & visited
        # With x = m / (2 - gamma) taken from the best value and m - x added to the second they are
        # equal, and by the inverse Bellman equation no reward has changed by more than x.
        return cls(
            tied=np.flatnonzero(tied),
            hidden=np.flatnonzero((several > 1) & ~visited),
            near_tied=np.flatnonzero((several == 1) & (leads < 2 * noise / (1 - gamma))),
            worst_jump=float(1 - 1 / several[tied].max()) if tied.any() else 0.0,
            margins=leads,
            safe_change=leads * (1 - gamma) / 2,
            flipping_change=leads / (2 - gamma),
            alpha=needed_temperature(noise, target, gamma),
        )


# -- the planner as an agent ----------------------------------------------------------------------


class CliffPlanner(TabularAlgorithm):
    """Value iteration with the rewards of a finite world, known up to noise, hard or soft.

    A timestep is a sweep over the tables of the environment, which it does not step. The noise is
    drawn once, by the seed: planners that differ by nothing else show what it does to a policy.

    Args:
        policy: "LawPolicy".
        env: a `FiniteMDP` without a horizon.
        gamma: discount factor in [0, 1).
        alpha: temperature; 0: no entropy, uniform over the best actions.
        noise: rewards are wrong by up to this much, uniformly.
        tolerance: difference of values up to which actions tie.
        policy_kwargs, seed, device, verbose, tensorboard_log: as in `Algorithm`; a table lives on
            the CPU.

    Raises:
        ValueError: an argument is out of range, or the environment has no tables, or a horizon.
    """

    paper = Paper(
        slug="policy_cliff",
        title="The Policy Cliff: A Theoretical Analysis of Reward-Policy Maps in Large Language "
        "Models",
        authors="Xingcheng Xu",
        year=2025,
        arxiv="2507.20150",
        code="github.com/SafeAGI-01/PolicyCliff",
    )
    example = Example(
        "Garnet-v0",
        {"states": 6, "actions": 3, "branching": 2, "duplicates": 0.5, "max_steps": 20},
        policy="LawPolicy",
        kwargs={"alpha": 0.1, "noise": 1e-3},
        steps=100,
    )
    policy_aliases: ClassVar[dict[str, Any]] = {"LawPolicy": LawPolicy}
    learns_in_env = False

    def __init__(
        self,
        policy: Any,
        env: GymEnv | str | None,
        *,
        gamma: float = 0.9,
        alpha: float = 0.0,
        noise: float = 0.0,
        tolerance: float = TIES,
        **common: Any,
    ) -> None:
        check_gamma(gamma)
        for name, value in {"alpha": alpha, "noise": noise, "tolerance": tolerance}.items():
            if not 0 <= value < inf:
                raise ValueError(f"{name}={value} must be a finite number of at least 0")
        self.alpha, self.noise, self.tolerance = alpha, noise, tolerance
        super().__init__(policy, env, gamma=gamma, **common)

    def _setup_model(self) -> None:
        own = {"alpha": self.alpha, "tolerance": self.tolerance}
        self.policy_kwargs = {**self.policy_kwargs, **own}
        super()._setup_model()
        self.errors = self.generator.uniform(-self.noise, self.noise, self.table.shape)

    def world(self) -> tuple[Array, Array]:
        """P [S, A, S] of the environment, without what leads to an end, and R [S, A] with noise."""
        core: Any = None
        if self.env is not None and self.env.has_attr("core"):
            core = self.env.get_attr("core")[0]
        if not hasattr(core, "P") or core.horizon is not None:
            raise ValueError(f"{type(self).__name__} needs a FiniteMDP without a horizon: {core}")
        P = core.P[0].copy()
        P[..., list(core.terminal_states)] = 0
        return P, core.R[0] + self.errors

    def update(self) -> dict[str, float]:
        """One sweep."""
        before = self.table.copy()
        self.table[:] = sweep(*self.world(), before, self.gamma, self.alpha)
        self.num_timesteps += 1
        return {
            "train/change": float(np.abs(self.table - before).max()),
            "train/value": float(self.table.max(axis=1).mean()),
            "train/least_margin": float(margins(self.table).min()),
        }

    def extra_state(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """As the base's, with the errors of the rewards."""
        values, tensors = super().extra_state()
        return values, tensors | {"errors": torch.from_numpy(self.errors)}

    def restore_extra_state(self, values: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        """Inverse of `extra_state`."""
        super().restore_extra_state(values, tensors)
        self.errors = tensors["errors"].numpy().copy()


# -- the claim in miniature -----------------------------------------------------------------------

CLAIM_NOISE, CLAIM_GAMMA = 1e-3, 0.9


def perturbed(law_of: Callable[[Array], Array], seed: int, alpha: float = 0.0) -> Outcome:
    """How far noise in the rewards of the seed's world moves a law of action values.

    Args:
        law_of: the law, of action values [S, A].
        seed: of the world and of the noise.
        alpha: temperature; 0: no entropy.
    """
    core = Garnet(gamma=CLAIM_GAMMA, duplicates=0.5, instance=seed)
    P, R = core.P[0], core.R[0]
    # Of a stream of its own: that of the seed alone draws the world.
    errors = np.random.default_rng([seed, 1]).uniform(-CLAIM_NOISE, CLAIM_NOISE, R.shape)

    def values(rewards: Array) -> Array:
        if alpha > 0:
            return q_soft(P, rewards, CLAIM_GAMMA, alpha)
        return q_star(P, rewards, CLAIM_GAMMA)

    before, after = law_of(values(R)), law_of(values(R + errors))
    moved, best = total_variation(before, after), q_star(P, R, CLAIM_GAMMA)
    ties = optimal_sets(best)
    several = ties.sum(axis=1)
    tied = several > 1
    # Where noise of this size cannot lift another action to the tied ones.
    others = np.where(ties, -inf, best).max(axis=1)
    clean = tied & (best.max(axis=1) - others > 2 * CLAIM_NOISE / (1 - CLAIM_GAMMA))
    metrics = {
        "tied states": float(tied.sum()),
        "error of the jump 1 - 1/k": float(np.abs(moved - 1 + 1 / several)[clean].max()),
        "TV in tied states": float(moved[tied].mean()),
        "TV in untied states": float(moved[~tied].mean()),
        "worst TV": float(moved.max()),
        "value loss": float((best.max(axis=1) - evaluate(P, R, before, CLAIM_GAMMA)).mean()),
    }
    if alpha > 0:
        bound = soft_bound(float(np.abs(errors).max()), alpha, CLAIM_GAMMA)
        metrics["states above the bound"] = float((moved > bound).sum())
    return Outcome(metrics)


def greedy_arm(seed: int, scale: float) -> Outcome:
    """The lowest of the best actions."""
    return perturbed(greedy_law, seed)


def uniform_arm(seed: int, scale: float) -> Outcome:
    """Uniform over the best actions."""
    return perturbed(partial(law, alpha=0.0), seed)


def soft_arm(seed: int, scale: float) -> Outcome:
    """Soft, temperature 0.1."""
    return perturbed(partial(law, alpha=0.1), seed, 0.1)


def softer_arm(seed: int, scale: float) -> Outcome:
    """Soft, temperature 1."""
    return perturbed(partial(law, alpha=1.0), seed, 1.0)


def least_arm(seed: int, scale: float) -> Outcome:
    """What must be exceeded."""
    return Outcome({"TV in tied states": 0.4})


def most_arm(seed: int, scale: float) -> Outcome:
    """What must not be exceeded."""
    return Outcome({"TV in tied states": 0.65, "TV in untied states": 0.05})


CliffPlanner.claim = Claim(
    text="In Garnets of which half the states have a duplicate of the optimal action, rewards that "
    "change by at most 0.001 change a greedy policy in 40 to 65 percent of the tied states, and in "
    "less than 5 percent of the others; they move the policy that is uniform over ties by exactly "
    "0.5 wherever they cannot lift a third action, and soft policies nowhere by more than the "
    "bound. A higher temperature costs more value.",
    arms={
        "greedy": greedy_arm,
        "uniform": uniform_arm,
        "soft 0.1": soft_arm,
        "soft 1": softer_arm,
        "least": least_arm,
        "most": most_arm,
    },
    criteria=(
        Superior("TV in tied states", "greedy", "least"),
        Superior("TV in tied states", "greedy", "most", higher_is_better=False),
        Exact("error of the jump 1 - 1/k", "uniform", value=0.0, tolerance=1e-9),
        NotInferior("TV in untied states", "greedy", "most", margin=0.0, higher_is_better=False),
        NotInferior("TV in untied states", "uniform", "most", margin=0.0, higher_is_better=False),
        Superior("TV in tied states", "soft 0.1", "greedy", higher_is_better=False),
        Exact("states above the bound", "soft 0.1", value=0.0, tolerance=0.0),
        Exact("states above the bound", "soft 1", value=0.0, tolerance=0.0),
        Superior("value loss", "soft 1", "soft 0.1"),
    ),
    seeds=100,
    core_minutes=0.2,
)
