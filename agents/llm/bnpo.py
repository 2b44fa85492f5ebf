"""BNPO: Beta Normalization Policy Optimization.

Changyi Xiao, Mengdi Zhang, Yixin Cao: BNPO: Beta Normalization Policy Optimization (arXiv
2506.02864).

With rewards of 0 and 1 every prompt has a success rate p, and over the prompts p is roughly
Beta(a, b), which drifts while the policy improves. BNPO divides r - p by a Beta density that is
fitted anew to the B prompts of each batch:

    m, v         mean and variance of p over the batch
    a, b         (m (1 - m) / v - 1) times m and 1 - m            (method of moments)
    alpha, beta  max(1, 1 + a / 3), max(1, 1 + b / 3)
    A            min(1 / f(p), 1e6) (r - p),   f the density of Beta(alpha, beta)

Where grad log pi is uncorrelated with A, the variance of the estimated gradient is proportional to

    E[p (1 - p) / f(p)^2] = B(alpha, beta)^2 B(a + 3 - 2 alpha, b + 3 - 2 beta) / B(a, b),

which is finite iff alpha < (a + 3) / 2 and beta < (b + 3) / 2, and least at 1 + a / 3, 1 + b / 3.
alpha = beta = 1 is REINFORCE with the mean of the group as its baseline; alpha = beta = 3/2 is GRPO
but for a constant factor. Of several rewards each has its own density, and A is the mean of theirs.

The loss is GRPO's clipped surrogate between 0.8 and 1.28 with a dual clip at 10, summed over the
tokens of a reply; there is no KL. All that changes beyond that is the advantage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ..base.declare import Claim, Exact, NotInferior, Outcome, Paper, Superior
from ..base.group import Rollouts
from ..base.text.advantages import centred, group_statistics
from ..base.text.losses import reply_sums
from ..base.text.token_batch import TokenBatch
from ..base.text.trial import trial
from .baselines import GRPO, example

MOST_WEIGHT = 1e6  # of 1 / f(p), which is infinite at the ends of [0, 1]
EQUAL_RATES = 1e-12  # a variance below this is rounding: all rates are equal

# -- what the paper computes -----------------------------------------------------------------------


def scaled(rewards: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """Rewards [n] between `low` and `high` as float64 in [0, 1].

    Raises:
        ValueError: a reward is outside.
    """
    inside = (rewards >= low) & (rewards <= high)
    if not bool(inside.all()):
        wrong = int(inside.int().argmin())
        raise ValueError(
            f"reward {float(rewards[wrong])} of reply {wrong} is outside of its bounds "
            f"[{low}, {high}]"
        )
    return (rewards.double() - low) / (high - low)


def rates_of_replies(scores: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """p of the prompt of each reply, [n]: the mean score of its group; 0 where it is alone."""
    found = group_statistics(scores, groups)
    return found.mean.masked_fill(found.size == 1, 0.0)


def success_rates(scores: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """p of each of the B prompts, [B], in the order of their numbers."""
    names, member = groups.unique(return_inverse=True)
    return scores.new_zeros(len(names)).scatter(0, member, rates_of_replies(scores, groups))


def moments(rates: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance (with B - 1) of rates [B]; 0 and 1 for a single one, so that its density is
    flat."""
    if len(rates) == 1:
        return rates.new_zeros(()), rates.new_ones(())
    return rates.mean(), rates.var()


def beta_fit(mean: torch.Tensor, variance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(a, b) of the Beta distribution with these moments.

    0 and 0 where the variance is 0, negative where it is above that of any distribution on [0, 1]:
    both make the density flat.
    """
    total = torch.where(variance > EQUAL_RATES, mean * (1 - mean) / variance - 1, 0.0)
    return total * mean, total * (1 - mean)


def norm_params(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(alpha, beta) of least variance for rates from Beta(a, b), at least 1 each."""
    return (1 + a / 3).clamp(min=1.0), (1 + b / 3).clamp(min=1.0)


class Density(NamedTuple):
    """What one batch says of the success rates of its prompts; scalars.

    Attributes:
        rate_mean, rate_variance: their moments.
        alpha, beta: parameters of the density that advantages are divided by.
    """

    rate_mean: torch.Tensor
    rate_variance: torch.Tensor
    alpha: torch.Tensor
    beta: torch.Tensor


def fitted(scores: torch.Tensor, groups: torch.Tensor) -> Density:
    """The density for scores float [n] in [0, 1] of replies in groups int [n]."""
    found = moments(success_rates(scores, groups))
    return Density(*found, *norm_params(*beta_fit(*found)))


def log_beta(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Logarithm of the Beta function."""
    return torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)


def beta_density(rates: torch.Tensor, alpha: torch.Tensor, beta: torch.Tensor) -> torch.Tensor:
    """p^(alpha - 1) (1 - p)^(beta - 1) / B(alpha, beta) of rates in [0, 1], the ends included."""
    powers = torch.xlogy(alpha - 1, rates) + torch.special.xlog1py(beta - 1, -rates)
    return (powers - log_beta(alpha, beta)).exp()


def normalised(
    scores: torch.Tensor, groups: torch.Tensor, alpha: torch.Tensor, beta: torch.Tensor
) -> torch.Tensor:
    """min(1 / f(p), 1e6) (s - p), [n], for a given density; exactly 0 where all scores of a group
    are equal."""
    density = beta_density(rates_of_replies(scores, groups), alpha, beta)
    return density.reciprocal().clamp(max=MOST_WEIGHT) * centred(scores, groups)


def bnpo_advantages(scores: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """Advantages [n] of scores float [n] in [0, 1], by the density that is fitted to them."""
    density = fitted(scores, groups)
    return normalised(scores, groups, density.alpha, density.beta)


def decomposed_advantages(scores: Sequence[torch.Tensor], groups: torch.Tensor) -> torch.Tensor:
    """Mean of the advantages of K kinds of scores, [n] each, every kind by its own density."""
    return torch.stack([bnpo_advantages(each, groups) for each in scores]).mean(dim=0)


def estimator_variance(
    a: torch.Tensor, b: torch.Tensor, alpha: torch.Tensor, beta: torch.Tensor
) -> torch.Tensor:
    """E[p (1 - p) / f(p)^2] for p from Beta(a, b) and f the density of Beta(alpha, beta), in the
    shape of the arguments; infinite where there is no such mean."""
    left, right = a + 3 - 2 * alpha, b + 3 - 2 * beta
    logarithm = 2 * log_beta(alpha, beta) + log_beta(left, right) - log_beta(a, b)
    return torch.where((left > 0) & (right > 0), logarithm.exp(), torch.inf)


# -- the agents ------------------------------------------------------------------------------------


class GroupMeanReinforce(GRPO):
    """REINFORCE with the mean of the group as its baseline: the paper's loss, without the density.

    Args:
        clip_low, clip_high, dual_clip, ...: of `GRPO`.
    """

    example = example()

    def __init__(
        self,
        policy: Any,
        env: Any,
        *,
        clip_low: float = 0.2,
        clip_high: float = 0.28,
        dual_clip: float | None = 10.0,
        **common: Any,
    ) -> None:
        clips: dict[str, Any] = {"clip_low": clip_low, "clip_high": clip_high}
        super().__init__(policy, env, **clips, dual_clip=dual_clip, **common)

    def advantage(self, batch: TokenBatch) -> torch.Tensor:
        """R - mean of the group."""
        assert batch.rewards is not None and batch.groups is not None
        return centred(batch.rewards, batch.groups)

    def aggregate(self, losses: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Sums over tokens, mean over replies."""
        return reply_sums(losses, mask).mean()


class BNPO(GroupMeanReinforce):
    """Beta Normalization Policy Optimization.

    Args:
        bounds: lowest and highest reward of the environment.
        components: names of numbers in the environment's verdict, with their bounds, such as
            {"correct": (0, 1), "format": (0, 1)}: each is a reward of its own, and the environment
            is not asked for its. The reward that is logged is the mean of the components, scaled to
            [0, 1].
        clip_low, clip_high, dual_clip, ...: of `GRPO`.

    Raises:
        ValueError: bounds are no interval; while learning, a reward is outside of its bounds, or a
            component is no number of the verdict.

    Logged also: `train/rate_mean`, `train/rate_variance`, `train/alpha`, `train/beta`; of
    components as `train/alpha_NAME` and so on.
    """

    paper = Paper(
        slug="bnpo",
        title="BNPO: Beta Normalization Policy Optimization",
        authors="Changyi Xiao, Mengdi Zhang, Yixin Cao",
        year=2025,
        arxiv="2506.02864",
        code="github.com/changyi7231/BNPO",
    )
    example = example(components={"correct": (0.0, 1.0), "format": (0.0, 1.0)})

    def __init__(
        self,
        policy: Any,
        env: Any,
        *,
        bounds: Sequence[float] = (0.0, 1.0),
        components: Mapping[str, Sequence[float]] | None = None,
        **common: Any,
    ) -> None:
        if components is not None and not components:
            raise ValueError("components names at least one number of the verdict, or is None")
        for name, between in [("bounds", bounds), *(components or {}).items()]:
            if len(between) != 2 or not between[0] < between[1]:
                raise ValueError(
                    f"bounds of a reward are its lowest and its highest value, got {name}={between}"
                )
        self.bounds, self.components = bounds, components
        super().__init__(policy, env, **common)

    def reward(self, rollouts: Rollouts) -> torch.Tensor:
        """The environment's; with components, their mean."""
        if self.components is None:
            return super().reward(rollouts)
        for name in self.components:
            values = self.tensor(entries(rollouts.verdicts, name))
            rollouts.batch.extra[f"verdict/{name}"] = values
        return torch.stack(list(self.scores(rollouts.batch).values())).mean(dim=0).float()

    def scores(self, batch: TokenBatch) -> dict[str, torch.Tensor]:
        """Rewards scaled to [0, 1], [N] each, by what stands behind their names in the log."""
        if self.components is None:
            assert batch.rewards is not None
            return {"": scaled(batch.rewards, *self.bounds)}
        return {
            f"_{name}": scaled(batch.extra[f"verdict/{name}"], *bounds)
            for name, bounds in self.components.items()
        }

    def advantage(self, batch: TokenBatch) -> torch.Tensor:
        """Distance from the success rate over the density there; the mean over components."""
        assert batch.groups is not None
        scores = self.scores(batch)
        for name, each in scores.items():
            density = fitted(each, batch.groups)._asdict()
            self.note(**{f"{key}{name}": value for key, value in density.items()})
        return decomposed_advantages(list(scores.values()), batch.groups).float()


def entries(verdicts: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    """An entry of each verdict.

    Raises:
        ValueError: it is missing in one, or no number.
    """
    for verdict in verdicts:
        if not isinstance(verdict.get(name), Real):
            known = sorted(key for key, value in verdict.items() if isinstance(value, Real))
            raise ValueError(
                f"a component is a number of the verdict, got {name!r}; it has {known}"
            )
    return [float(verdict[name]) for verdict in verdicts]


# -- the claim in miniature ------------------------------------------------------------------------

CLAIM_REPLIES = 150 * 128
SYNTHETIC, DRAWS, DIRECTIONS = 5_000, 16, 8  # prompts, replies to each, parameters


def variation(values: NDArray[np.float64]) -> float:
    """Standard deviation over mean; NaN entries do not count."""
    return float(np.nanstd(values) / np.nanmean(values))


def learned(cls: type[GRPO], seed: int, scale: float, **own: Any) -> Outcome:
    """Learn sums of one to three digits, whose success rates are spread over [0, 1]."""
    arguments = {"digits": (1, 2, 3)}
    run = trial(cls, seed, replies=round(scale * CLAIM_REPLIES), arguments=arguments, **own)
    norms = run.log["train/grad_norm"]
    return run.outcome(
        **{
            "gradient norm variation": variation(norms[len(norms) // 2 :]),
            "groups without signal": run.mean("rollout/no_signal"),
        }
    )


def bnpo_arm(seed: int, scale: float) -> Outcome:
    """BNPO."""
    return learned(BNPO, seed, scale)


def reinforce_arm(seed: int, scale: float) -> Outcome:
    """REINFORCE with the mean of the group."""
    return learned(GroupMeanReinforce, seed, scale)


def grpo_arm(seed: int, scale: float) -> Outcome:
    """GRPO with the clips of BNPO."""
    return learned(GRPO, seed, scale, clip_high=0.28, dual_clip=10.0)


def variance_arm(seed: int, scale: float) -> Outcome:
    """The formula of the variance: how often its optimum is beaten on a grid of (a, b), and how far
    it is from the variance of gradients that are drawn."""
    generator = torch.Generator().manual_seed(seed)
    axis = torch.arange(0.25, 8.1, 0.25).double()
    a, b = torch.cartesian_prod(axis, axis).unbind(1)
    drawn = torch.rand((2, len(a)), generator=generator).double()
    rivals = (
        (torch.ones_like(a), torch.ones_like(b)),  # REINFORCE
        (torch.full_like(a, 1.5), torch.full_like(b, 1.5)),  # GRPO
        (1 + drawn[0] * (a + 1) / 2, 1 + drawn[1] * (b + 1) / 2),  # anywhere below the bounds
    )
    least = estimator_variance(a, b, *norm_params(a, b))
    others = torch.stack([estimator_variance(a, b, *rival) for rival in rivals])
    beaten = int((least > others * (1 + 1e-9)).sum())
    # Below 3: from there on the fourth moment is infinite, and no sample comes reliably near.
    errors = [monte_carlo_error(*pair, seed) for pair in ((0.5, 0.5), (1.0, 2.0), (2.0, 1.5))]
    return Outcome({"optimum beaten": beaten, "Monte Carlo error": max(errors)})


def monte_carlo_error(a: float, b: float, seed: int) -> float:
    """Relative distance of the variance of drawn gradients from the formula, at the optimum.

    Success rates are drawn from Beta(a, b), rewards from them, and grad log pi, which the theorem
    takes to be uncorrelated with the advantage, is a random unit vector.
    """
    rng = np.random.default_rng(seed)
    rates = torch.as_tensor(rng.beta(a, b, SYNTHETIC))
    rewards = torch.as_tensor(rng.random((DRAWS, SYNTHETIC))) < rates
    directions = torch.as_tensor(rng.standard_normal((DRAWS, SYNTHETIC, DIRECTIONS)))
    directions /= directions.norm(dim=-1, keepdim=True)
    given = torch.tensor(a).double(), torch.tensor(b).double()
    chosen = norm_params(*given)
    advantages = (rewards.double() - rates) / beta_density(rates, *chosen)
    gradients = (advantages[..., None] * directions).flatten(0, 1)
    return abs(float(gradients.var(dim=0).sum() / estimator_variance(*given, *chosen)) - 1)


BNPO.claim = Claim(
    text="On sums of one to three digits the norm of BNPO's gradient varies less over the second "
    "half of learning than that of REINFORCE with the mean of the group, and its held-out accuracy "
    "is at most 4 points below GRPO's. For success rates from Beta(a, b), on a grid of both, none "
    "of the densities of REINFORCE, of GRPO and at random gives an estimator of less variance than "
    "the one with 1 + a/3 and 1 + b/3, and the formula of this variance is within 5% of that of "
    "80,000 drawn gradients.",
    arms={
        "BNPO": bnpo_arm,
        "REINFORCE": reinforce_arm,
        "GRPO": grpo_arm,
        "variance": variance_arm,
    },
    criteria=(
        Superior("gradient norm variation", "BNPO", "REINFORCE", higher_is_better=False),
        NotInferior("accuracy", "BNPO", "GRPO", margin=0.04),
        Exact("optimum beaten", "variance", value=0.0, tolerance=0.0),
        Exact("Monte Carlo error", "variance", value=0.0, tolerance=0.05),
    ),
    seeds=6,
    core_minutes=6.0,
)
