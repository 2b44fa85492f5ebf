"""DR-RPO: Distributionally Robust Regularized Policy Optimization.

Jingwen Gu, Yiting He, Zhishuai Liu, Pan Xu: Policy Regularized Distributionally Robust Markov
Decision Processes with Linear Function Approximation (2025, arXiv 2510.14246).

The agent learns in a nominal world and is to do well where transitions differ from it. The world is
linear, r = phi . theta and P(. | s, a) = sum_i phi_i(s, a) mu_i with features that are
probabilities, and every mu_i may move on its own by a total variation of rho. Policies are pulled
towards a reference by a KL term, so that the best one is a softmax. With steps h = 0 .. H-1, from
the episodes so far and backwards in h:

    Lambda_h = lambda I + sum phi phi^T,    z_h(alpha) = Lambda_h^-1 sum phi min(V_{h+1}(s'), alpha)
    nu_hi = max over alpha of z_hi(alpha) - rho alpha
    Q_h = clip( phi . (theta + nu_h) + beta sum_i phi_i sqrt((Lambda_h^-1)_ii), 0, H - h )
    V_h = log( sum_a pi_ref exp(eta Q_h) ) / eta,    pi_h = pi_ref exp(eta Q_h) / normaliser

nu is the least mean of V_{h+1} in the ball around mu_i, by its dual; alpha runs over a grid. It is
right where the least value is 0, as the paper's fail state makes it. The bonus is a sum over
coordinates, because each has an alpha of its own. rho = 0 is LSVI-UCB with a softmax, eta = inf the
value-based DR-LSVI-UCB, eta -> 0 the reference policy.

States are finite here, so that W_h = Lambda_h^-1 sum phi e(s')^T estimates all mu_i at once and
z_h(alpha) = W_h min(V_{h+1}, alpha): an episode costs the same however many came before.
"""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from stable_baselines3.common.type_aliases import GymEnv

from ...envs.checks import check_integer, check_number, check_share
from ...envs.tabular.finite_mdp import FiniteMDP
from ...envs.tabular.gamble_chain import GambleChain
from ...envs.tabular.linear import LinearMDP
from ...envs.tabular.planning.finite_horizon import evaluate
from ...envs.tabular.planning.robust import robust_backward_evaluation, robust_backward_induction
from ...envs.tabular.planning.robust_balls import tv_ball
from ...envs.tabular.planning.robust_sets import FactorRectangular, soft
from ...envs.tabular.probabilities import TOLERANCE, check_probabilities, check_sums
from ...wrappers.sb3 import make_sb3
from ..base.declare import Claim, Exact, Example, NotInferior, Outcome, Paper, Superior
from ..base.finite_horizon import FiniteHorizonAlgorithm, Trajectories, greedy

Array = NDArray[np.float64]

# -- the paper's computation ----------------------------------------------------------------------


def robust_means(
    factors: Array, values: Array, radius: float, alphas: Array, lowest: float = 0.0
) -> Array:
    """max over alphas of factors . min(values, alpha) - radius (alpha - lowest), [...].

    For distributions it is the least mean of the values in a ball of total variation, where the
    alphas hold the values; for estimates of them an estimate of that.

    Args:
        factors: mu, or estimates of it that need be no distributions, [..., S].
        values: of the states [S].
        radius: rho, at least 0; from 1 on the ball holds all distributions.
        alphas: candidates [n], at least `lowest`; not used without a radius.
        lowest: the least value there is.
    """
    if radius == 0:
        return np.asarray(factors @ values)
    if radius >= 1:
        return np.full(factors.shape[:-1], lowest)
    truncated = np.minimum(values[:, None], alphas)
    return np.asarray((factors @ truncated - radius * (alphas - lowest)).max(axis=-1))


def coordinate_bonus(features: Array, inverse: Array) -> Array:
    """sum_i phi_i sqrt((Lambda^-1)_ii) of every inverse [H, d, d] and features [S, A, d]: [H, S, A]
    (or other axes in the place of H and of S, A)."""
    widths = np.sqrt(np.diagonal(inverse, axis1=-2, axis2=-1))
    return np.asarray(np.tensordot(widths, features, axes=(-1, -1)))


def regularized(action_values: Array, reference: Array, eta: float) -> tuple[Array, Array]:
    """max over pi of pi . Q - KL(pi || reference) / eta [...], and that pi [..., A].

    Args:
        action_values: Q [..., A].
        reference: laws [..., A]; an action of probability 0 is never taken.
        eta: above 0; infinite: without the KL term.
    """
    if eta < np.inf:
        return soft(action_values, reference, eta)
    possible = np.where(reference > 0, action_values, -np.inf)
    return possible.max(axis=-1), greedy(possible)


def check_table(name: str, table: Array, *shapes: tuple[int, ...]) -> None:
    """ValueError unless a table has one of the shapes and its rows are probabilities."""
    if table.shape not in shapes:
        raise ValueError(f"{name} has shape {table.shape}, allowed: {shapes}")
    check_probabilities(name, table)
    check_sums(name, table)


def has_fail_state(core: FiniteMDP) -> bool:
    """Whether some state is never left and never pays."""
    states = np.arange(core.P.shape[1])
    stays = (core.P[:, states, :, states] == 1).all(axis=(1, 2))
    return bool((stays & (core.R == 0).all(axis=(0, 2))).any())


class DRRPO(FiniteHorizonAlgorithm):
    """Distributionally robust regularized policy optimization, for linear worlds with a horizon.

    Features and rewards are known, transitions are learned. Its policy is that of the last
    optimistic estimate, with which it also learns.

    Args:
        policy, env, horizon, seed, ...: as in `FiniteHorizonAlgorithm`.
        radius: rho, at least 0.
        eta: inverse temperature, above 0; infinite: greedy policies.
        bonus: beta, at least 0.
        ridge: lambda, above 0.
        grid: number of alphas, at least 2.
        reference: pi_ref, laws [S, A] or [H, S, A]; None: uniform.
        reference_weight: c in [0, 1]. Below 1 the policy is also held near that of the episode
            before (mirror descent), the reference being pi_before^(1-c) pi_ref^c / normaliser.
        features: phi [S, A, d], at least 0 and summing to 1; None: as the environment says.
        theta: reward of each feature [d]; None: as the environment says.
        fail_state: whether the least value is known to be 0. Without, the least estimated one takes
            its place. None: whether the environment has a state that is never left and never pays;
            True where that cannot be seen.

    Raises:
        ValueError: the world is not linear, features are no probabilities, rewards are outside
            [0, 1], or an argument is out of range.
    """

    paper = Paper(
        slug="dr_rpo",
        title="Policy Regularized Distributionally Robust Markov Decision Processes with Linear "
        "Function Approximation",
        authors="Jingwen Gu, Yiting He, Zhishuai Liu, Pan Xu",
        year=2025,
        arxiv="2510.14246",
    )
    example = Example("GambleChain-v0", policy="TimePolicy", kwargs={"radius": 0.2}, steps=400)

    def __init__(
        self,
        policy: Any,
        env: GymEnv | str | None,
        *,
        radius: float = 0.3,
        eta: float = 60.0,
        bonus: float = 0.5,
        ridge: float = 0.1,
        grid: int = 21,
        reference: ArrayLike | None = None,
        reference_weight: float = 1.0,
        features: ArrayLike | None = None,
        theta: ArrayLike | None = None,
        fail_state: bool | None = None,
        **common: Any,
    ) -> None:
        if not (eta > 0 and ridge > 0):
            raise ValueError(f"eta and ridge must be above 0, got eta={eta}, ridge={ridge}")
        self.radius, self.bonus = check_number("radius", radius, 0), check_number("bonus", bonus, 0)
        self.eta, self.ridge = float(eta), check_number("ridge", ridge)
        self.grid = check_integer("grid", grid, 2)
        self.reference_weight = check_share("reference_weight", reference_weight)
        self.reference, self.features, self.theta = (
            None if each is None else np.asarray(each, dtype=np.float64)
            for each in (reference, features, theta)
        )
        self.fail_state = fail_state
        super().__init__(policy, env, **common)

    def _setup_model(self) -> None:
        super()._setup_model()
        features, theta = self._linear_world()
        horizon, states, actions = self.shape
        self.reference_laws = np.full((horizon, states, actions), 1 / actions)
        if self.reference is not None:
            check_table("reference", self.reference, self.shape, self.shape[1:])
            self.reference_laws[:] = self.reference
        self.rewards = features @ theta
        low, high = self.rewards.min(), self.rewards.max()
        if low < 0 or high > 1 + TOLERANCE:  # features may miss a sum of 1 by rounding
            raise ValueError(f"rewards features . theta are {low} to {high}, allowed: 0 to 1")
        self.gram = np.tile(self.ridge * np.eye(len(theta)), (horizon, 1, 1))
        self.arrivals = np.zeros((horizon, states, len(theta)))
        self.preferences = np.zeros(self.shape)
        self.plan()

    def _linear_world(self) -> tuple[Array, Array]:
        """Features [S, A, d] and rewards [d], given or those of the environment."""
        core = None
        if self.env is not None and self.env.has_attr("core"):
            core = self.env.get_attr("core")[0]
        if isinstance(core, LinearMDP) and core.phi is not None:
            self.features = core.phi if self.features is None else self.features
            self.theta = core.theta if self.theta is None else self.theta
        features, theta = self.features, self.theta
        if features is None or theta is None:
            raise ValueError(
                f"{type(self).__name__} needs a linear environment, or features=... and theta=..., "
                f"got {self.env}"
            )
        check_table("features", features, (*self.shape[1:], theta.size))
        if self.fail_state is None:
            self.fail_state = not isinstance(core, FiniteMDP) or has_fail_state(core)
            if not self.fail_state and self.radius > 0:
                warnings.warn(
                    f"{type(core).__name__} has no state that is never left and never pays: the "
                    "least estimated value takes the place of 0, and the paper's bound is void",
                    stacklevel=2,
                )
        return features, theta

    def study(self, trajectories: Trajectories) -> dict[str, float]:
        """Take the episodes in, and plan anew."""
        assert self.features is not None
        states, steps = trajectories.states, np.arange(self.shape[0])
        seen = self.features[states[:, :-1], trajectories.actions]
        self.gram += np.einsum("nhi,nhj->hij", seen, seen)
        np.add.at(self.arrivals, (steps, states[:, 1:]), seen)
        values = self.plan()
        return {
            "rollout/return": float(trajectories.rewards.sum(axis=1).mean()),
            "train/robust_value": float(values[states[:, 0]].mean()),
        }

    def plan(self) -> Array:
        """Play what the data so far advise; the optimistic robust values [S] of the first step."""
        assert self.features is not None
        horizon, states, _ = self.shape
        inverse = np.asarray(np.linalg.inv(self.gram), dtype=np.float64)
        factors = inverse @ self.arrivals.swapaxes(1, 2)
        gains = self.rewards + self.bonus * coordinate_bonus(self.features, inverse)
        # pi_k / pi_ref is exp(eta G_k) / normaliser for G_k = (1 - c) G_{k-1} + Q_k.
        kept = (1 - self.reference_weight) * self.preferences
        kept_values = regularized(kept, self.reference_laws, self.eta)[0]
        values = np.zeros(states)
        for step in reversed(range(horizon)):
            lowest = 0.0 if self.fail_state else float(values.min())
            alphas = np.linspace(lowest, horizon - step, self.grid)
            worst = robust_means(factors[step], values, self.radius, alphas, lowest)
            action_values = np.clip(gains[step] + self.features @ worst, 0, horizon - step)
            self.preferences[step] = kept[step] + action_values
            values, self.probabilities[step] = regularized(
                self.preferences[step], self.reference_laws[step], self.eta
            )
            values = values - kept_values[step]
        return values

    def extra_state(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """As the base's, with what was seen and, for a mirrored reference, what was preferred."""
        values, tensors = super().extra_state()
        kept = {"gram": self.gram, "arrivals": self.arrivals, "preferences": self.preferences}
        return values, tensors | {name: torch.from_numpy(x.copy()) for name, x in kept.items()}

    def restore_extra_state(self, values: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        """Inverse of `extra_state`."""
        super().restore_extra_state(values, tensors)
        for name in ("gram", "arrivals", "preferences"):
            getattr(self, name)[:] = tensors[name].numpy()


# -- the claim in miniature -----------------------------------------------------------------------

RADIUS, ETA, EPISODES, BLOCK = 0.3, 60.0, 1_000, 50
SHIFTS, HORIZONS = (0.0, 0.1, 0.2, 0.3, 0.4), (4, 6, 8)


def planned(core: LinearMDP, radius: float, eta: float = ETA) -> Array:
    """The best regularized robust policy [H, S, A] of a known world, with a uniform reference."""
    assert core.phi is not None and core.mu is not None and core.horizon is not None
    choose = partial(soft, reference=np.full(core.actions, 1 / core.actions), eta=eta)
    uncertainty = FactorRectangular(core.phi, core.mu, radius, tv_ball)
    found = robust_backward_induction(uncertainty, core.R[0], core.horizon, choose=choose)
    return found.policy


def robust_values(core: LinearMDP, policies: Array) -> Array:
    """Exact values [n] of policies [n, H, S, A] against the worst transitions, from the start."""
    assert core.phi is not None and core.mu is not None
    uncertainty = FactorRectangular(core.phi, core.mu, RADIUS, tv_ball)
    rewards = np.broadcast_to(core.R[0], (len(policies), *core.R[0].shape))
    laws = policies.swapaxes(0, 1)
    return np.asarray(robust_backward_evaluation(uncertainty, rewards, laws).values[0] @ core.d0)


def shifted_values(policy: Array) -> dict[str, float]:
    """Exact values of a policy [H, S, A] in gamble chains that were shifted."""
    found = {}
    for shift in SHIFTS:
        core = GambleChain(shift=shift, horizon=len(policy))
        found[f"value at shift {shift:g}"] = float(evaluate(core.P, core.R, policy)[0] @ core.d0)
    return found


def learned(
    seed: int, scale: float, radius: float, eta: float = ETA, early: bool = False
) -> Outcome:
    """Learn in the nominal chain; robust suboptimality of the last 50 episodes, or the first."""
    core = GambleChain(horizon=HORIZONS[0])
    episodes = max(int(EPISODES * scale), 2 * BLOCK) // BLOCK * BLOCK
    env = make_sb3("GambleChain-v0", num_envs=1, horizon=HORIZONS[0])
    agent = DRRPO("TimePolicy", env, radius=radius, eta=eta, seed=seed)
    played: list[Array] = []

    def note(*_: Any) -> bool:
        played.append(agent.probabilities.copy())
        return True

    note()
    agent.learn((BLOCK if early else episodes) * HORIZONS[0], callback=note)
    best = robust_values(core, planned(core, RADIUS)[None])[0]
    # The last policy was not played any more.
    losses = (best - robust_values(core, np.array(played[:-1]))).reshape(-1, BLOCK).mean(axis=1)
    steps = [float((block + 1) * BLOCK * HORIZONS[0]) for block in range(len(losses))]
    metrics = {"robust suboptimality": float(losses[-1]), **shifted_values(agent.probabilities)}
    return Outcome(metrics, {"robust suboptimality": (steps, losses.tolist())})


def robust_arm(seed: int, scale: float) -> Outcome:
    """DR-RPO with a radius of 0.3."""
    return learned(seed, scale, RADIUS)


def early_arm(seed: int, scale: float) -> Outcome:
    """The same run up to its 50th episode."""
    return learned(seed, scale, RADIUS, early=True)


def plain_arm(seed: int, scale: float) -> Outcome:
    """The same without robustness: a radius of 0."""
    return learned(seed, scale, 0.0)


def greedy_arm(seed: int, scale: float) -> Outcome:
    """The value-based form: a radius of 0.3, without regularization."""
    return learned(seed, scale, RADIUS, np.inf)


def reference_arm(seed: int, scale: float) -> Outcome:
    """The reference policy, which plays at random."""
    core = GambleChain(horizon=HORIZONS[0])
    policy = np.full((HORIZONS[0], core.states, core.actions), 1 / core.actions)
    loss = np.subtract(*robust_values(core, np.array([planned(core, RADIUS), policy])))
    return Outcome({"robust suboptimality": float(loss), **shifted_values(policy)})


def planned_arm(seed: int, scale: float) -> Outcome:
    """Known worlds of three horizons: in how many the robust policy is the better one at shifts
    0.3 and 0.4 and the other one at 0; and where the two cross, for the first."""
    names, holds, crossings = [f"value at shift {shift:g}" for shift in SHIFTS], 0, []
    for horizon in HORIZONS:
        robust, plain = (
            shifted_values(planned(GambleChain(horizon=horizon), radius))
            for radius in (RADIUS, 0.0)
        )
        gains = [robust[name] - plain[name] for name in names]
        holds += gains[0] < 0 < min(gains[-2:])
        crossings.append(float(np.interp(0.0, gains, SHIFTS)))
    return Outcome({"horizons in order": float(holds), "crossing": crossings[0]})


DRRPO.claim = Claim(
    text="In the gamble chain, after 1,000 episodes without a shift, DR-RPO with radius 0.3 earns "
    "at least 20% more than with radius 0 where the gamble was shifted by 0.3 or 0.4, and at most "
    "15% less where it was not; its robust suboptimality is less in the last 50 episodes than in "
    "the first 50. With known worlds of 4, 6 and 8 steps the order of the two is the same.",
    arms={
        "robust": robust_arm,
        "robust, first episodes": early_arm,
        "not robust": plain_arm,
        "robust, greedy": greedy_arm,
        "reference": reference_arm,
        "planned": planned_arm,
    },
    criteria=(
        # Not worse by more than -20%: better by at least 20%.
        NotInferior("value at shift 0.3", "robust", "not robust", margin=-0.2, relative=True),
        NotInferior("value at shift 0.4", "robust", "not robust", margin=-0.2, relative=True),
        NotInferior("value at shift 0", "robust", "not robust", margin=0.15, relative=True),
        Superior(
            "robust suboptimality", "robust", "robust, first episodes", higher_is_better=False
        ),
        Exact("horizons in order", "planned", value=float(len(HORIZONS)), tolerance=0.0),
    ),
    seeds=5,
    core_minutes=1.0,
)
