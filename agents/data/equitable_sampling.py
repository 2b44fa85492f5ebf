"""Adaptive sampling for equitable training sets.

William Cai, Ro Encarnacion, Bobbie Chern, Sam Corbett-Davies, Miranda Bogen, Stevie Bergman, Sharad
Goel: Adaptive Sampling Strategies to Construct Equitable Training Datasets (FAccT 2022, arXiv
2202.01327).

What a "representative" training set should be is an optimisation. With n_g samples of group g, at
c_g each and from n0_g on, and M_g(n_g) the performance of its model,

    maximise U(n) = sum_g w_g u(M_g(n_g))   subject to   sum_g c_g (n_g - n0_g) <= B,  n_g >= n0_g

where u is isoelastic: eta = 0 sums performances, larger eta favours the worse-off. With M_g(n) =
A_g - B_g n^-p_g the optimum has equal marginal utility per cost among the groups that buy,

    w_g u'(M_g) B_g p_g n_g^(-p_g - 1) / c_g = lambda

which neither equal nor proportional samples have. Collecting in batches, one need not know the
curves: they are fitted to what models of parts of the data in hand can do, and the next batch of
cost s goes to the group with the largest index

    G_g = w_g [u(M_g(n_g + s / c_g)) - u(M_g(n_g))] / s

With true curves and concave increments this greedy path reaches the best of all allocations in
multiples of s. What differs from a bandit of `BanditAlgorithm`: an arm has no mean reward, its
gains shrink with use, so the index looks ahead along a curve.
"""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from stable_baselines3.common.type_aliases import GymEnv

from ...envs.checks import check_integer
from ...envs.data.equitable_sampling import split_observation
from ...envs.data.learning_curves import effective_samples, isoelastic, power_curve
from ..base.declare import Claim, Outcome, Paper, Superior
from ..base.stepping import Mask, Transitions
from .hindsight_sampling import HindsightSampling
from .sampling import GroupPolicy, SamplingAlgorithm, first_best, spend_budget
from .sampling_rules import (
    EqualSampling,
    ProportionalSampling,
    RandomSampling,
    WorstFirstSampling,
)

Array = NDArray[np.float64]

EXPONENTS = np.arange(10, 151, 5) / 100
UNKNOWN = (np.nan, np.nan, np.nan)

# -- the paper's computation ----------------------------------------------------------------------


def fit_curve(samples: ArrayLike, performances: ArrayLike) -> tuple[float, float, float]:
    """(A, B, p) of M(k) = A - B k^-p by least squares with the weights k, p in 0.10, 0.15 .. 1.50.

    B is at least 0. Of equally good p the smallest. With fewer than 3 distinct k: all NaN.

    Args:
        samples: k > 0, [P].
        performances: M(k), [P].
    """
    k, performance = np.asarray(samples, np.float64), np.asarray(performances, np.float64)
    if len(np.unique(k)) < 3:
        return UNKNOWN
    share = k / k.sum()
    # Counted from the first one, performances that are all the same have a slope of exactly 0.
    change = performance - performance[0]
    falls = k ** -EXPONENTS[:, None]
    mean_fall, mean = falls @ share, float(change @ share)
    centred = falls - mean_fall[:, None]
    scales = np.maximum(-(centred * share) @ (change - mean) / (centred**2 @ share), 0.0)
    errors = (change - mean) + scales[:, None] * centred
    best = int((errors**2 @ share).argmin())
    asymptote = performance[0] + mean + scales[best] * mean_fall[best]
    return float(asymptote), float(scales[best]), float(EXPONENTS[best])


def index(
    n: Array,
    curves: Array,
    spend: float,
    costs: ArrayLike = 1.0,
    weights: ArrayLike = 1.0,
    eta: float = 1.0,
    transfer: Array | None = None,
) -> Array:
    """G_g, gain in utility per cost of the next batch for each group, [..., G].

    A group whose curve is not known (NaN) has the index inf: it is explored.

    Args:
        n: samples in hand, [..., G].
        curves: (A, B, p), [..., G, 3].
        spend: s, cost of a batch; s / c_g need not be a whole number.
        costs, weights: c and w, numbers or [..., G].
        eta: of the utility.
        transfer: kappa [G, G], what a sample of group j is worth to group g; the index then sums
            the gains of all groups whose curves are known. None: samples help their group only.
    """
    n = np.asarray(n, dtype=np.float64)
    kappa = np.eye(n.shape[-1]) if transfer is None else transfer
    now = effective_samples(n, kappa)[..., None, :]
    batch = np.broadcast_to(spend / np.asarray(costs, np.float64), n.shape)[..., :, None]
    each = np.broadcast_to(np.asarray(weights, np.float64), n.shape)[..., None, :]
    unknown = np.isnan(curves[..., 0])
    known = np.where(unknown[..., None], (1.0, 0.0, 1.0), curves)
    columns = np.moveaxis(known[..., None, :, :], -1, 0)
    # One row per group that may be bought for, one column per group that gains.
    later, before = (
        isoelastic(power_curve(m, *columns), eta) for m in (now + batch * kappa.T, now)
    )
    gains = np.where(unknown[..., None, :], 0.0, each * (later - before)).sum(axis=-1)
    return np.where(unknown, np.inf, gains / spend)


class CurvePolicy(GroupPolicy):
    """Buys for the group with the largest index on its fitted curve, also beyond the data in hand.

    Attributes:
        curves: (A, B, p) of each group, as last fitted in the first environment, [G, 3].
        task: eta and the cost of a batch.
        transfer: kappa, [G, G].
    """

    curves: torch.Tensor
    task: torch.Tensor
    transfer: torch.Tensor

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.register_buffer("curves", torch.full((self.groups, 3), torch.nan).double())
        self.register_buffer("task", torch.ones(2, dtype=torch.float64))
        self.register_buffer("transfer", torch.eye(self.groups, dtype=torch.float64))

    def scores(self, observations: NDArray[Any]) -> Array:
        """The index, [n, G]."""
        return self.indices(observations, self.curves.numpy())

    def indices(self, observations: NDArray[Any], curves: Array) -> Array:
        """The index [n, G] with other curves, [G, 3] or [n, G, 3]."""
        seen, (eta, spend) = split_observation(observations, self.groups), self.task.tolist()
        parts = (seen["costs"], seen["weights"], eta, self.transfer.numpy())
        return index(seen["n"], curves, spend, *parts)


class AdaptiveSampling(SamplingAlgorithm):
    """Adaptive sampling for environments with `learning_points`, `eta`, `spend` and `transfer`.

    `learn` plays: before each batch it takes the learning points of every group whose data have
    changed, fits the curve and buys for the largest index; `total_timesteps` counts batches.
    `predict` returns the group with the largest index on the curves fitted last. Parallel
    environments have curves of their own; those of the first are kept.

    Args:
        policy: "GroupPolicy".
        env: `EquitableSampling-v0`, or an environment with its observations.
        explore: every so many batches, buy for the groups in turn; None: never. With little data to
            start from, a curve may come out flat, and its group would starve.
        seed, verbose, ...: as in `Algorithm`.

    Raises:
        ValueError: `explore` is no integer of at least 1.
    """

    paper = Paper(
        slug="equitable_sampling",
        title="Adaptive Sampling Strategies to Construct Equitable Training Datasets",
        authors="William Cai, Ro Encarnacion, Bobbie Chern, Sam Corbett-Davies, Miranda Bogen, "
        "Stevie Bergman, Sharad Goel",
        year=2022,
        arxiv="2202.01327",
    )
    policy_aliases: ClassVar[dict[str, Any]] = {"GroupPolicy": CurvePolicy}
    policy: CurvePolicy

    def __init__(
        self, policy: Any, env: GymEnv | str | None, *, explore: int | None = None, **common: Any
    ) -> None:
        self.explore = None if explore is None else check_integer("explore", explore, 1)
        super().__init__(policy, env, **common)

    def begin(self) -> None:
        """Ask for the task, and know nothing of its groups."""
        self.policy.task[:] = torch.tensor([self.of_env("eta"), self.of_env("spend")])
        self.policy.transfer[:] = torch.as_tensor(self.of_env("transfer"))
        self.rounds = np.zeros(self.n_envs, dtype=np.int64)
        self._forget()

    def _forget(self) -> None:
        shape = (self.n_envs, self.policy.groups)
        self.curves = np.full((*shape, 3), np.nan)
        self._fitted = np.full(shape, np.nan)  # what each curve's data were worth, in samples

    def act(self, observations: NDArray[Any], masks: Mask | None) -> NDArray[np.int64]:
        """The group with the largest index, or the one whose turn it is, [n]."""
        n = split_observation(observations, self.policy.groups)["n"]
        worth = effective_samples(n, self.policy.transfer.numpy())
        for row, group in np.argwhere(worth != self._fitted):
            points = self.learning_points(int(row), int(group))
            self.curves[row, group] = fit_curve(points[:, 0], points[:, 1])
        self._fitted = worth
        self.policy.curves[:] = torch.as_tensor(self.curves[0])
        scores = self.policy.indices(observations, self.curves)
        if self.explore is not None:
            turns = (self.rounds + 1) // self.explore - 1
            groups = np.arange(self.policy.groups)
            waits = (groups - turns[:, None]) % self.policy.groups
            due = (self.rounds + 1) % self.explore == 0
            scores = np.where(due[:, None], -waits, scores)
        return first_best(scores, masks)

    def learn_from(self, transitions: Transitions) -> dict[str, float]:
        """Count batches; what was known of an episode that has ended is forgotten."""
        self.rounds = np.where(transitions.dones, 0, self.rounds + 1)
        self._fitted[transitions.dones] = np.nan
        return super().learn_from(transitions)

    def learning_state(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """As the base's, with the batches bought in the present episodes."""
        values, tensors = super().learning_state()
        return values, tensors | {"rounds": torch.as_tensor(self.rounds)}

    def restore_learning_state(
        self, values: dict[str, Any], tensors: dict[str, torch.Tensor]
    ) -> None:
        """Inverse of `learning_state`; curves are fitted again, to the same points."""
        super().restore_learning_state(values, tensors)
        self.rounds = tensors["rounds"].numpy().copy()
        self._forget()


# -- the claim in miniature -----------------------------------------------------------------------

POPULATION = (0.7, 0.15, 0.1, 0.05)
UNLIKE, ALIKE = (60, 15, 200, 400), (200, 200, 200, 200)  # markers: what a group is hard for
CLAIM_BUDGET, CLAIM_SPEND = 1_600.0, 50.0


def collect(
    agent_class: type[SamplingAlgorithm], markers: tuple[int, ...], seed: int, scale: float
) -> tuple[list[float], list[float]]:
    """Cost so far and utility on test, from the start of a collection to its end."""
    batches = max(round(CLAIM_BUDGET * scale / CLAIM_SPEND), 1)
    groups = {"markers": markers, "heritability": 0.6, "validation": 600, "test": 1_500}
    task: dict[str, Any] = {
        "population": POPULATION,
        "start": 100,
        "spend": CLAIM_SPEND,
        "eta": 1.0,
        **groups,
    }
    budget = batches * CLAIM_SPEND
    env = gym.make("EquitableSampling-v0", mode="prs", budget=budget, **task)
    utility = spend_budget(agent_class, env, seed)
    return [CLAIM_SPEND * batch for batch in range(batches + 1)], utility


def outcome(
    agent_class: type[SamplingAlgorithm], seed: int, scale: float, alike: bool = False
) -> Outcome:
    """Utility at the end; with `alike` also that among groups that learn equally fast."""
    cost, utility = collect(agent_class, UNLIKE, seed, scale)
    metrics = {"utility": utility[-1]}
    if alike:
        metrics["utility, groups alike"] = collect(agent_class, ALIKE, seed, scale)[1][-1]
    return Outcome(metrics, {"utility": (cost, utility)})


def adaptive_arm(seed: int, scale: float) -> Outcome:
    """Adaptive sampling."""
    return outcome(AdaptiveSampling, seed, scale, alike=True)


def equal_arm(seed: int, scale: float) -> Outcome:
    """The same number of samples for every group."""
    return outcome(EqualSampling, seed, scale, alike=True)


def proportional_arm(seed: int, scale: float) -> Outcome:
    """Samples in proportion to the population."""
    return outcome(ProportionalSampling, seed, scale)


def worst_first_arm(seed: int, scale: float) -> Outcome:
    """Always for the group whose model does worst."""
    return outcome(WorstFirstSampling, seed, scale)


def random_arm(seed: int, scale: float) -> Outcome:
    """Any group."""
    return outcome(RandomSampling, seed, scale)


def hindsight_arm(seed: int, scale: float) -> Outcome:
    """The best allocation on the same samples, known only afterwards."""
    return outcome(HindsightSampling, seed, scale)


BASELINES = {
    "equal": equal_arm,
    "proportional": proportional_arm,
    "worst first": worst_first_arm,
    "random": random_arm,
}

AdaptiveSampling.claim = Claim(
    text="For polygenic scores of four groups with 60, 15, 200 and 400 markers, 100 samples each "
    "to start from and a budget of 1,600 more, adaptive sampling ends with a higher utility (the "
    "sum of log R^2 on test samples) than equal, proportional, worst-first and random sampling. "
    "Where all groups have 200 markers equal sampling may be as good: that is reported only, as is "
    "the optimum in hindsight.",
    arms={"adaptive": adaptive_arm, **BASELINES, "hindsight": hindsight_arm},
    criteria=tuple(Superior("utility", "adaptive", baseline) for baseline in BASELINES),
    seeds=10,
    core_minutes=1.0,
)
