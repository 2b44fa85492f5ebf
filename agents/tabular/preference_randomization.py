"""PR-LSVI and PbTS: learning from comparisons of trajectories, made efficient by randomization.

Runzhe Wu, Wen Sun: Making RL with Preference-based Feedback Efficient via Randomization (ICLR 2024,
arXiv 2310.14554).

Rewards are never seen. An oracle says of two whole episodes which it prefers, and with phi(tau) the
one-hot features (h, s, a) of an episode and theta the rewards,

    P(tau0 preferred to tau1) = sigmoid( (phi(tau0) - phi(tau1)) . theta ) = sigmoid(x . theta)

Optimism over all rewards and transitions that the data allow is intractable here. Noise in place of
it costs one backward pass and is optimistic often enough. In every round

    theta^ = argmax sum_i log sigmoid(+-x_i . theta) - ridge / 2 |theta|^2      labelled pairs
    Sigma  = ridge I + sum_i x_i x_i^T,      r ~ N(theta^, reward_noise^2 Sigma^-1)
    Q_h = r_h + rho (P^_h max Q_{h+1} + N(0, transition_noise^2 u^2)) + (1 - rho) (H - h)
    P^ = n(s, a, s') / (ridge + n(s, a)),   u = 1 / sqrt(ridge + n(s, a)),   no noise at h = H
    rho = clip( (alpha_high - u) / (alpha_high - alpha_low), 0, 1 )

so that what is hardly known is worth the most that can remain. The greedy policy of Q plays tau0,
that of the round BEFORE plays tau1: once the policy settles, its pairs say nothing new. The label
is asked for only where two independent draws of the reward disagree about the pair by more than
epsilon on average,

    E |x . (r - r')| = 2 reward_noise / sqrt(pi) sqrt(x^T Sigma^-1 x) > epsilon.

tau0 alone is counted for the transitions. The paper keeps theta^ in a ball; here a ridge does that.

PbTS is the same exploration in a Bayesian form, here with K reward hypotheses and a Dirichlet
posterior of the transitions: the policy is optimal for a draw of both, the width is that of the
hypotheses, and both episodes are counted.

Constants per step of the reward cannot be told from comparisons; they matter only through H - h.
"""

from __future__ import annotations

from math import pi, sqrt
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import cholesky, solve_triangular
from scipy.special import log_expit, softmax
from stable_baselines3.common.type_aliases import GymEnv

from ...envs.checks import check_number
from ...envs.tabular.planning.finite_horizon import suboptimality
from ...envs.tabular.probabilities import draw
from ...envs.tabular.river_swim import RiverSwim
from ...wrappers.sb3 import make_sb3
from ..base.declare import Claim, Exact, Example, NotInferior, Outcome, Paper, Superior
from ..base.finite_horizon import Trajectories, backward
from ..base.pairwise import PairwiseExploration, pair_features, preference_estimate

Array = NDArray[np.float64]
Actions = NDArray[np.int64]

# -- the paper's computation ----------------------------------------------------------------------


def gaussian_draw(mean: Array, precision: Array, scale: float, normals: Array) -> Array:
    """A draw of N(mean, scale^2 precision^-1) from standard normals, all [d]; precision [d, d]."""
    factor = cholesky(precision, lower=True)
    return mean + scale * solve_triangular(factor, normals, lower=True, trans="T")


def gaussian_width(features: Array, precision: Array, scale: float) -> Array:
    """E |x . (r - r')| [n] of two draws of N(., scale^2 precision^-1), for x [n, d]."""
    reduced = solve_triangular(cholesky(precision, lower=True), features.T, lower=True)
    return 2 * scale / sqrt(pi) * np.sqrt((reduced**2).sum(axis=0))


def randomized_tables(
    rewards: Array,
    next_states: NDArray[np.int64],
    normals: Array,
    *,
    ridge: float,
    scale: float,
    alpha: tuple[float, float],
    largest_reward: float = 1.0,
) -> tuple[Array, Array]:
    """What `backward` makes Q of: transitions rho P^ [H, S, A, S] and all the rest [H, S, A].

    Args:
        rewards: the drawn r [H, S, A].
        next_states: counts [H, S, A, S].
        normals: standard normals [H, S, A]; those of the last step are not used.
        ridge, scale, alpha: as above: `transition_noise`, and `alpha_low` with `alpha_high`.
        largest_reward: of a step.
    """
    weights = ridge + next_states.sum(axis=-1)
    uncertainty, (low, high) = 1 / np.sqrt(weights), alpha
    rho = np.clip((high - uncertainty) / (high - low), 0.0, 1.0)
    remaining = np.arange(len(rewards))[::-1, None, None] * largest_reward
    noise = scale * uncertainty * normals * (remaining > 0)
    gains = rewards + rho * noise + (1 - rho) * remaining
    return next_states * (rho / weights)[..., None], gains


def hypothesis_width(differences: Array, weights: Array) -> Array:
    """sum_kl w_k w_l |d_k - d_l| [n], for the differences [n, K] of the returns of n pairs."""
    gaps = np.abs(differences[:, :, None] - differences[:, None, :])
    return np.asarray(np.einsum("k,l,nkl->n", weights, weights, gaps))


def hypothesis_log_weights(log_weights: Array, differences: Array, labels: Actions) -> Array:
    """log w_k + sum_i log sigmoid(+-d_ik) [K], up to a constant; differences [n, K], labels [n]."""
    found = log_weights + log_expit((2 * labels - 1)[:, None] * differences).sum(axis=0)
    return np.asarray(found - found.max())


def best_actions(transitions: Array, gains: Array) -> Actions:
    """Greedy actions [H, S] for tables [H, S, A, S] and [H, S, A]."""
    return backward(transitions, gains, np.full(len(gains), np.inf))[0].argmax(axis=-1)


# -- the agents -----------------------------------------------------------------------------------


class PRLSVI(PairwiseExploration):
    """Preference-based randomized least-squares value iteration, in its tabular form.

    Args:
        policy, env, epsilon, query, ...: as in `PairwiseExploration`.
        ridge: lambda, above 0.
        reward_noise, transition_noise: sigma_r and sigma_P, at least 0. Without `reward_noise` all
            widths are 0 and nothing would be asked: say when with `query`.
        alpha_low, alpha_high: alpha_low < alpha_high, at least 0; with the defaults 6 visits are
            trusted and 0 are not at all.
        largest_reward: of a step, above 0.
    """

    paper = Paper(
        slug="preference_randomization",
        title="Making RL with Preference-based Feedback Efficient via Randomization",
        authors="Runzhe Wu, Wen Sun",
        year=2023,
        arxiv="2310.14554",
    )
    example = Example("RiverSwim-v0", {"states": 3, "horizon": 4}, policy="TimePolicy", steps=400)
    kept = ("newest", "estimate", "precision", "features", "labels")

    def __init__(
        self,
        policy: Any,
        env: GymEnv | str | None,
        *,
        ridge: float = 1.0,
        reward_noise: float = 0.5,
        transition_noise: float = 0.5,
        alpha_low: float = 0.4,
        alpha_high: float = 0.8,
        largest_reward: float = 1.0,
        **common: Any,
    ) -> None:
        if not (ridge > 0 and largest_reward > 0):
            raise ValueError(
                f"ridge and largest_reward must be above 0, got ridge={ridge}, "
                f"largest_reward={largest_reward}"
            )
        if not 0 <= alpha_low < alpha_high:
            raise ValueError(
                f"alpha_low is at least 0 and below alpha_high, got alpha_low={alpha_low}, "
                f"alpha_high={alpha_high}"
            )
        if reward_noise == 0 and common.get("query") is None:
            raise ValueError("with reward_noise=0 nothing would ever be asked: give query=...")
        self.ridge, self.largest_reward = ridge, largest_reward
        self.reward_noise = check_number("reward_noise", reward_noise, 0.0)
        self.transition_noise = check_number("transition_noise", transition_noise, 0.0)
        self.alpha_low, self.alpha_high = alpha_low, alpha_high
        super().__init__(policy, env, **common)

    def _setup_model(self) -> None:
        super()._setup_model()
        size = int(np.prod(self.shape))
        self.estimate, self.precision = np.zeros(size), self.ridge * np.eye(size)
        self.features, self.labels = np.zeros((0, size)), np.zeros(0, np.int64)

    def draw_policy(self) -> Actions:
        """Greedy for the perturbed estimates."""
        normals = self.generator.standard_normal((2, *self.shape))
        rewards = gaussian_draw(
            self.estimate, self.precision, self.reward_noise, normals[0].reshape(-1)
        )
        tables = randomized_tables(
            rewards.reshape(self.shape),
            self.counts.next_states,
            normals[1],
            ridge=self.ridge,
            scale=self.transition_noise,
            alpha=(self.alpha_low, self.alpha_high),
            largest_reward=self.largest_reward,
        )
        return best_actions(*tables)

    def settled_policy(self) -> Actions:
        """Greedy for theta^ and P^."""
        weights = self.ridge + self.counts.visits
        transitions = self.counts.next_states / weights[..., None]
        return best_actions(transitions, self.estimate.reshape(self.shape))

    def widths(self, first: Trajectories, second: Trajectories) -> Array:
        """Of the Gaussian around theta^."""
        features = pair_features(first, second, self.shape)
        return gaussian_width(features, self.precision, self.reward_noise)

    def take_in(
        self, first: Trajectories, second: Trajectories, rows: Actions, labels: Actions
    ) -> None:
        """Count the first episodes, and estimate the reward anew from the new labels."""
        self.counts.add(first)
        if not len(rows):
            return
        new = pair_features(first, second, self.shape)[rows]
        self.precision = self.precision + new.T @ new
        self.features = np.concatenate([self.features, new])
        self.labels = np.concatenate([self.labels, labels])
        self.estimate = preference_estimate(self.features, self.labels, self.estimate, self.ridge)


class PbTS(PairwiseExploration):
    """Preference-based Thompson sampling with finitely many hypotheses of the reward.

    The transitions have a Dirichlet(1, ..., 1) prior at every step, state and action.

    Args:
        policy, env, epsilon, query, ...: as in `PairwiseExploration`.
        rewards: the hypotheses [K, S, A], or [K, H, S, A] if they change with the step; they must
            be given.
        prior: their probabilities [K]; None: all alike.
    """

    paper = PRLSVI.paper
    kept = ("newest", "log_weights")
    example = Example(
        "RiverSwim-v0",
        {"states": 3, "horizon": 4},
        policy="TimePolicy",
        kwargs={"rewards": [[[0.05, 0], [0, 0], [0, 1]], [[0.4, 0], [0, 0], [0, 0.2]]]},
        steps=400,
    )

    def __init__(
        self,
        policy: Any,
        env: GymEnv | str | None,
        *,
        rewards: ArrayLike | None = None,
        prior: ArrayLike | None = None,
        **common: Any,
    ) -> None:
        self.rewards, self.prior = rewards, prior
        super().__init__(policy, env, **common)

    def _setup_model(self) -> None:
        super()._setup_model()
        given = np.asarray([] if self.rewards is None else self.rewards, dtype=np.float64)
        shapes = {len(self.shape): self.shape[1:], len(self.shape) + 1: self.shape}
        if shapes.get(given.ndim) != given.shape[1:] or not len(given):
            raise ValueError(
                f"rewards have shape {given.shape}, allowed are [K, S, A] and [K, H, S, A] with "
                f"H, S, A = {self.shape}"
            )
        if not np.isfinite(given).all():
            raise ValueError("rewards hold values that are not finite")
        every_step = given if given.ndim > len(self.shape) else given[:, None]
        self.hypotheses = np.broadcast_to(every_step, (len(given), *self.shape))
        prior = np.full(len(given), 1 / len(given)) if self.prior is None else self.prior
        weights = np.asarray(prior, dtype=np.float64)
        if weights.shape != given.shape[:1] or not (weights > 0).all():
            raise ValueError(f"prior={self.prior!r} must be {len(given)} numbers above 0")
        self.log_weights: Array = np.log(weights / weights.sum())

    @property
    def weights(self) -> Array:
        """Posterior probabilities of the hypotheses [K]."""
        return np.asarray(softmax(self.log_weights))

    def draw_policy(self) -> Actions:
        """Optimal for a reward and transitions drawn from the posteriors."""
        chosen = draw(self.weights[None], self.generator)[0]
        # Normalized gamma variables have the Dirichlet law.
        masses = self.generator.standard_gamma(1.0 + self.counts.next_states)
        return best_actions(masses / masses.sum(axis=-1, keepdims=True), self.hypotheses[chosen])

    def settled_policy(self) -> Actions:
        """Optimal for the posterior means."""
        masses = 1.0 + self.counts.next_states
        rewards = np.tensordot(self.weights, self.hypotheses, axes=1)
        return best_actions(masses / masses.sum(axis=-1, keepdims=True), rewards)

    def differences(self, first: Trajectories, second: Trajectories) -> Array:
        """d_k, returns of the first less those of the second episodes [n, K]."""
        tables = self.hypotheses.reshape(len(self.hypotheses), -1)
        return pair_features(first, second, self.shape) @ tables.T

    def widths(self, first: Trajectories, second: Trajectories) -> Array:
        """Of the hypotheses."""
        return hypothesis_width(self.differences(first, second), self.weights)

    def take_in(
        self, first: Trajectories, second: Trajectories, rows: Actions, labels: Actions
    ) -> None:
        """Count all episodes, and weigh the hypotheses by the labels."""
        self.counts.add(first)
        self.counts.add(second)
        differences = self.differences(first, second)[rows]
        self.log_weights = hypothesis_log_weights(self.log_weights, differences, labels)


# -- the claim in miniature -----------------------------------------------------------------------

CLAIM_PAIRS, CLAIM_POINTS, CLAIM_SHARE = 400, 20, 0.39
RIVER: dict[str, Any] = {
    **{"states": 4, "horizon": 8, "forward": 0.6, "back": 0.05},
    **{"forward_first": 0.7, "back_last": 0.1},
}


def regret_of(seed: int, scale: float, **arguments: Any) -> Outcome:
    """Queries and exact regret of PR-LSVI in the river; both episodes of a pair are paid for."""
    env = make_sb3("RiverSwim-v0", num_envs=1, **RIVER)
    agent = PRLSVI("TimePolicy", env, seed=seed, **arguments)
    pairs = max(int(CLAIM_PAIRS * scale), CLAIM_POINTS)
    policies, queries = [agent.newest], []

    def note(_locals: Any, _globals: Any) -> bool:
        policies.append(agent.newest)
        queries.append(agent.queries)
        return True

    agent.learn(2 * RIVER["horizon"] * pairs, callback=note, log_interval=None)
    core = env.get_attr("core")[0]
    lost = suboptimality(core.P, core.R, np.stack(policies))[:, 0] @ core.d0
    regret = np.cumsum(lost[1:] + lost[:-1])
    early, points = queries[pairs // 2 - 1], range(0, pairs, pairs // CLAIM_POINTS)
    return Outcome(
        {
            "regret": float(regret[-1]),
            "queries": float(queries[-1]),
            "late share of queries": (queries[-1] - early) / max(early, 1),
            "late share of regret": float(regret[-1] / regret[pairs // 2 - 1]) - 1,
        },
        {
            name: (
                [2.0 * RIVER["horizon"] * (k + 1) for k in points],
                [float(y[k]) for k in points],
            )
            for name, y in (("regret", regret), ("queries", queries))
        },
    )


def low_epsilon_arm(seed: int, scale: float) -> Outcome:
    """PR-LSVI with epsilon 0.3."""
    return regret_of(seed, scale, epsilon=0.3)


def middle_epsilon_arm(seed: int, scale: float) -> Outcome:
    """PR-LSVI with epsilon 0.5."""
    return regret_of(seed, scale, epsilon=0.5)


def high_epsilon_arm(seed: int, scale: float) -> Outcome:
    """PR-LSVI with epsilon 0.8."""
    return regret_of(seed, scale, epsilon=0.8)


def always_arm(seed: int, scale: float) -> Outcome:
    """The same agent asking about every pair."""
    return regret_of(seed, scale, query=1.0)


def random_arm(seed: int, scale: float) -> Outcome:
    """The same agent asking at random, as often as epsilon 0.3 does."""
    return regret_of(seed, scale, query=CLAIM_SHARE)


def greedy_arm(seed: int, scale: float) -> Outcome:
    """Without noise, trusting all estimates (rho = 1), asking always."""
    without = {"reward_noise": 0.0, "transition_noise": 0.0, "alpha_low": 1.0, "alpha_high": 2.0}
    return regret_of(seed, scale, query=1.0, **without)


def exact_arm(seed: int, scale: float) -> Outcome:
    """With the true rewards, 10^9 visits everywhere and no noise it is dynamic programming."""
    core = RiverSwim(**RIVER)
    shape = (RIVER["horizon"], core.states, core.actions)
    counts = np.broadcast_to((core.P * 1e9).round().astype(np.int64), (*shape, core.states))
    rewards, nothing = np.broadcast_to(core.R, shape), np.zeros(shape)
    tables = randomized_tables(rewards, counts, nothing, ridge=1.0, scale=0.0, alpha=(0.4, 0.8))
    values = backward(*tables, np.full(RIVER["horizon"], np.inf))[1]
    return Outcome({"planning error": float(np.abs(values - core.plan(1.0).values).max())})


PRLSVI.claim = Claim(
    text="In a river of 4 states and 8 steps, over 400 pairs of episodes, PR-LSVI with epsilon 0.3 "
    "asks about less than 45 % of the pairs with less than 1.3 times the regret of asking always; "
    "it regrets less than the agent that asks as often at random; it asks in the second half less "
    "than 25 % as often as in the first; queries fall from epsilon 0.3 to 0.5 to 0.8, and regret "
    "is lower at 0.3 than at 0.8; without noise and truncation regret is over 1.8 times as high; "
    "with exact tables it plans as dynamic programming does.",
    arms={
        "epsilon 0.3": low_epsilon_arm,
        "epsilon 0.5": middle_epsilon_arm,
        "epsilon 0.8": high_epsilon_arm,
        "always": always_arm,
        "random": random_arm,
        "greedy": greedy_arm,
        "exact": exact_arm,
    },
    criteria=(
        # Less than a factor f of the baseline is "not worse by more than (f - 1) times it".
        NotInferior("queries", "epsilon 0.3", "always", 0.45 - 1, True, higher_is_better=False),
        NotInferior("regret", "epsilon 0.3", "always", 1.3 - 1, True, higher_is_better=False),
        Superior("regret", "epsilon 0.3", "random", higher_is_better=False),
        # Asking always asks as often in both halves: its share is 1.
        NotInferior(
            *("late share of queries", "epsilon 0.3", "always"),
            margin=0.25 - 1,
            relative=True,
            higher_is_better=False,
        ),
        Superior("queries", "epsilon 0.5", "epsilon 0.3", higher_is_better=False),
        Superior("queries", "epsilon 0.8", "epsilon 0.5", higher_is_better=False),
        Superior("regret", "epsilon 0.3", "epsilon 0.8", higher_is_better=False),
        NotInferior("regret", "epsilon 0.3", "greedy", 1 / 1.8 - 1, True, higher_is_better=False),
        Exact("planning error", "exact", value=0.0, tolerance=1e-6),
    ),
    seeds=40,
    core_minutes=5.0,
)
