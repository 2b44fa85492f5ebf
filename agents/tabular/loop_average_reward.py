"""LOOP: optimism among hypotheses about a task that never ends, with few changes of mind.

Jianliang He, Han Zhong, Zhuoran Yang: Sample-efficient Learning of Infinite-horizon Average-reward
MDPs with General Function Approximation (ICLR 2024, arXiv 2404.12648).

A hypothesis f = (Q_f, J_f) says what actions are worth and what a step earns in the long run; it is
played greedily, V_f = max_a Q_f. The truth solves Q(s, a) + J = r(s, a) + E V(s'), so a step
xi = (s, a, r, s') contradicts f, beside another hypothesis g, by

    l_f(xi; g) = Q_g(s, a) + J_g - r - V_f(s')            from values, or
    l_f(xi; g) = (r_g + P_g V_f)(s, a) - r - V_f(s')      from models, and
    L(f, g)    = sum of l_f(xi; g)^2 over all steps seen

The data allow the set B = {f : E(f) <= beta} with E(f) = L(f, f) - min_g L(f, g), where g may be
any function of the class of Bellman backups. LOOP plays the hypothesis of B with the largest J_f
until its own E exceeds 4 beta, and only then chooses anew: every change costs up to the span of V.
The regret over T steps is of order sqrt(T beta) for beta = c log(T N^2 / delta) span(V*) and N
hypotheses, with of order log T changes.

Here the hypotheses are a finite list, and g is any table. Then the inner minimum is a mean: with
n(s, a) visits and y_f(s, a) the mean over them of r + V_f(s'),

    E(f) = sum over s, a of n(s, a) (Q_f(s, a) + J_f - y_f(s, a))^2

for either form of l, because a model's Q_f + J_f is r_f + P_f V_f.
"""

from __future__ import annotations

import warnings
from itertools import product
from typing import Any, ClassVar, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from stable_baselines3.common.type_aliases import GymEnv

from ...envs.tabular.planning.average_reward import relative_value_iteration
from ...envs.tabular.river_swim import RiverSwim
from ..base.declare import Claim, Example, NotInferior, Outcome, Paper, Superior
from ..base.finite_horizon import Counts, Trajectories
from ..base.resumable import prefixed
from ..base.stepping import Mask, SteppingAlgorithm, Transitions, on_cpu
from ..base.tabular import TablePolicy

Array = NDArray[np.float64]
Index = NDArray[np.int64]

# Hypotheses about the default machine of FiniteMDP-v0: as if it never wore, and the truth.
NEVER_WEARS = [[0, -1.5], [-0.3, -1.5], [-1, -3]]
WEARS = [[0, -1.25], [-1.9, -1.25], [-3.5, -2.75]]
ROUNDING = 1e-9  # discrepancy that may be due to rounding alone, so that beta may be 0


# -- the paper's computation ----------------------------------------------------------------------


class Seen(NamedTuple):
    """n steps: states, actions, rewards and next states, [n] each."""

    states: Index
    actions: Index
    rewards: Array
    next_states: Index


def value_discrepancies(seen: Seen, values: Array, action_values: Array, gain: float) -> Array:
    """l_f(xi; g) = Q_g(s, a) + J_g - r - V_f(s') of each step, [n].

    Args:
        seen: the steps.
        values: V_f [S].
        action_values, gain: Q_g [S, A] and J_g; of a model g, r_g + P_g V_f and 0.
    """
    said = action_values[seen.states, seen.actions] + gain
    return np.asarray(said - seen.rewards - values[seen.next_states])


def bellman_errors(P: Array, R: Array, action_values: Array, gains: ArrayLike) -> Array:
    """Q_f + J_f - R - P V_f, [..., S, A].

    Args:
        P, R: the world, [S, A, S] and [S, A].
        action_values, gains: Q_f [..., S, A] and J_f [...] of any number of hypotheses.
    """
    following = action_values.max(axis=-1) @ P.reshape(-1, P.shape[-1]).T
    said = action_values + np.asarray(gains)[..., None, None]
    return np.asarray(said - R - following.reshape(action_values.shape))


def excess_discrepancy(
    visits: NDArray[Any], P: Array, R: Array, action_values: Array, gains: ArrayLike
) -> Array:
    """E(f) = L(f, f) - min_g L(f, g) over all tables g, [...].

    Args:
        visits: n [S, A]; pairs never visited contribute 0.
        P, R: the shares of the next states and the mean rewards that were seen there.
        action_values, gains: as in `bellman_errors`.
    """
    errors = bellman_errors(P, R, action_values, gains)
    return np.asarray((visits * errors**2).sum(axis=(-2, -1)))


def most_optimistic(discrepancies: Array, gains: Array, beta: float) -> int:
    """The hypothesis of largest J among those with E <= beta; if there are none, that of smallest
    E. Ties go to the lowest index.

    Args:
        discrepancies, gains: E and J, [N].
    """
    consistent = discrepancies <= beta + ROUNDING
    if not consistent.any():
        return int(discrepancies.argmin())
    return int(np.where(consistent, gains, -np.inf).argmax())


def solved(P: ArrayLike, R: ArrayLike, damping: float = 0.5) -> tuple[Array, Array]:
    """The hypotheses (Q [..., S, A], J [...]) that are optimal in given worlds, V(0) = 0.

    Args:
        P, R: worlds [..., S, A, S] and [..., S, A].
        damping: of relative value iteration.

    Raises:
        ValueError: the tables are none, or J depends on where one starts (multichain).
    """
    P, R = np.asarray(P, dtype=np.float64), np.asarray(R, dtype=np.float64)
    found = relative_value_iteration(P, R, damping=damping)
    following = (P @ found.bias[..., None, :, None])[..., 0]
    return R + following - found.gain[..., None, None], found.gain


def agec_estimate(errors: Array, chosen: Index, states: Index, actions: Index) -> float:
    """The smallest d with sum_t |e_t| <= sqrt(d sum_t sum_{i <= t} e_{t,i}^2), 0 without errors.

    It estimates from a run the coefficient in the paper's bounds. e_{t,i} is the Bellman error,
    where step i was, of the hypothesis played at step t; e_t = e_{t,t}. It is about 2 where one
    pair is visited all the time, and 2 K where each of K pairs, visited equally often, has a
    hypothesis of its own that is wrong about it alone.

    Args:
        errors: `bellman_errors` of the hypotheses, [N, S, A].
        chosen: the hypothesis played at each step, [T].
        states, actions: where, [T].
    """
    there = np.abs(errors[chosen, states, actions]).sum()
    before = 0.0
    for hypothesis in np.unique(chosen):
        squares = np.cumsum(errors[hypothesis, states, actions] ** 2)
        before += float(squares[chosen == hypothesis].sum())
    return float(there**2 / before) if before else 0.0


# -- the agent ------------------------------------------------------------------------------------


class LOOP(SteppingAlgorithm):
    """LOOP over a finite list of hypotheses, for tasks that go on for ever.

    All hypotheses lie in B before the first step, so it begins with the one of largest J. An
    episode that is merely cut tells as much as any other steps; one that ends is no task for ever,
    unless `continuing` says that its end is a step back to the start.

    If no hypothesis is in B, none is likely to be true: it warns once, and plays the least wrong.

    Args:
        policy: "TablePolicy", which holds the Q_f that is played.
        env: with `Discrete` observations and actions.
        action_values: Q_f of the hypotheses, [N, S, A]; `solved` finds them for given worlds.
        gains: their J_f, [N].
        beta: discrepancy that the data allow, in squared rewards; 0 where there is no noise.
        continuing: whether the first state after an end is the next state of the last step.
        policy_kwargs, seed, device, verbose, tensorboard_log: as in `Algorithm`; a table lives on
            the CPU.

    Attributes:
        current: index of the hypothesis that is played.
        discrepancy: its E.
        changes: how often another one was chosen.

    Raises:
        ValueError: there is no hypothesis, shapes do not fit, beta is negative, or a task ends.
    """

    paper = Paper(
        slug="loop_average_reward",
        title="Sample-efficient Learning of Infinite-horizon Average-reward MDPs with General "
        "Function Approximation",
        authors="Jianliang He, Han Zhong, Zhuoran Yang",
        year=2024,
        arxiv="2404.12648",
    )
    example = Example(
        "FiniteMDP-v0",
        policy="TablePolicy",
        kwargs={"action_values": [NEVER_WEARS, WEARS], "gains": [1.0, 0.75], "beta": 2.0},
        steps=600,
    )
    environments: ClassVar[tuple[str, ...]] = ("RiverSwim-v0", "FiniteMDP-v0")
    policy_aliases: ClassVar[dict[str, Any]] = {"TablePolicy": TablePolicy}
    policy: TablePolicy
    _kept: ClassVar[tuple[str, ...]] = ("current", "discrepancy", "changes")
    _warned = False

    def __init__(
        self,
        policy: Any,
        env: GymEnv | str | None,
        *,
        action_values: ArrayLike = (),
        gains: ArrayLike = (),
        beta: float = 20.0,
        continuing: bool = False,
        device: torch.device | str = "auto",
        **common: Any,
    ) -> None:
        self.action_values = np.array(action_values, dtype=np.float64)
        self.gains = np.array(gains, dtype=np.float64)
        if not 0 <= beta < np.inf:
            raise ValueError(f"beta={beta} must be a finite number of at least 0")
        self.beta, self.continuing = beta, continuing
        super().__init__(policy, env, device=on_cpu(device), **common)

    def _setup_model(self) -> None:
        super()._setup_model()
        shape, table = self.gains.shape, tuple(self.policy.values.shape)
        if len(shape) != 1 or shape < (1,) or self.action_values.shape != shape + table:
            raise ValueError(
                f"gains has shape {shape} and action_values {self.action_values.shape}, they must "
                f"be [N] and [N, {table[0]}, {table[1]}] for N hypotheses, at least 1"
            )
        if not (np.isfinite(self.action_values).all() and np.isfinite(self.gains).all()):
            raise ValueError("action_values and gains must be finite")
        self.counts = Counts(1, *table)
        self.current, self.discrepancy = -1, 0.0
        self.changes = -1  # the first choice changes nothing
        self.plan()

    def discrepancies(self, which: Any = slice(None)) -> Array:
        """E of some of the hypotheses, by default of all, [N]."""
        visits, P, R = self.counts.visits, self.counts.transitions(), self.counts.mean_rewards()
        return excess_discrepancy(
            visits[0], P[0], R[0], self.action_values[which], self.gains[which]
        )

    def choose(self, discrepancies: Array) -> int:
        """The hypothesis to play, from E [N]."""
        if discrepancies.min() > self.beta + ROUNDING and not self._warned:
            self._warned = True
            text = f"the best hypothesis contradicts the data by {discrepancies.min():.4g}, above "
            warnings.warn(f"{text}beta={self.beta}: beta is small, or none is true", stacklevel=2)
        return most_optimistic(discrepancies, self.gains, self.beta)

    def due(self) -> bool:
        """Whether to choose anew before the next step."""
        return self.discrepancy > 4 * self.beta + ROUNDING

    def plan(self) -> None:
        """Choose a hypothesis, and play it from now on."""
        found = self.discrepancies()
        chosen = self.choose(found)
        self.changes += chosen != self.current
        self.current, self.discrepancy = chosen, float(found[chosen])
        self.policy.values.copy_(torch.from_numpy(self.action_values[chosen]))

    def act(self, observations: NDArray[Any], masks: Mask | None) -> NDArray[np.int64]:
        """Greedy actions [n]; the lowest of equally good ones."""
        if self.due():
            self.plan()
        return np.asarray(self.action_values[self.current, observations].argmax(axis=1))

    def learn_from(self, transitions: Transitions) -> dict[str, float]:
        """Count, and look how wrong the present hypothesis is."""
        following = transitions.next_observations
        if transitions.terminated.any():
            if not self.continuing:
                raise ValueError(
                    f"the task ended in state {following[transitions.terminated][0]}, so that it "
                    "has no average reward; continuing=True makes its end a step to the next start"
                )
            assert isinstance(self._last_obs, np.ndarray)
            following = np.where(transitions.terminated, self._last_obs, following)
        states = np.stack([transitions.observations, following], axis=1)
        actions, rewards = transitions.actions[:, None], transitions.rewards[:, None]
        self.counts.add(Trajectories(states, actions, rewards))
        self.discrepancy = float(self.discrepancies(self.current))
        return {
            "rollout/mean_reward": float(self.counts.rewards.sum() / self.counts.visits.sum()),
            "train/discrepancy": self.discrepancy,
            "train/gain": float(self.gains[self.current]),
            "train/changes": float(self.changes),
        }

    def extra_state(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """As the base's, with the counts and what they say of the hypotheses."""
        values, tensors = super().extra_state()
        values |= {name: getattr(self, name) for name in self._kept}
        return values, tensors | {f"counts.{name}": x for name, x in self.counts.state().items()}

    def restore_extra_state(self, values: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        """Inverse of `extra_state`."""
        super().restore_extra_state(values, tensors)
        for name in self._kept:
            setattr(self, name, values[name])
        self.counts.restore(prefixed(tensors, "counts"))


# -- the claim in miniature -----------------------------------------------------------------------

CLAIM_STEPS, CLAIM_POINTS = 5_000, 10
RIVER: dict[str, Any] = {"forward": 0.35, "back": 0.15, "large": 0.5, "rewards": "bernoulli"}


class EveryStep(LOOP):
    """LOOP that chooses anew before every step."""

    def due(self) -> bool:
        """Always."""
        return True


class LeastDiscrepancy(LOOP):
    """LOOP without optimism: any of the hypotheses that contradict the data least."""

    def choose(self, discrepancies: Array) -> int:
        """Of equal E one at random."""
        best = np.flatnonzero(discrepancies <= discrepancies.min() + ROUNDING)
        return int(self.generator.choice(best))


def rivers() -> tuple[Array, Array]:
    """P [24, S, A, S] and R [24, S, A] of the rivers that the claim thinks possible."""
    found = [
        RiverSwim(forward=forward, back=back, large=large, rewards="bernoulli")
        for forward, back, large in product((0.2, 0.35, 0.5), (0.05, 0.15), (0.0, 0.02, 0.5, 1.0))
    ]
    return np.stack([core.P[0] for core in found]), np.stack([core.R[0] for core in found])


def swim(agent_class: type[LOOP], factor: float, seed: int, scale: float) -> Outcome:
    """Regret in the river, by the mean rewards of what was done, and changes of hypothesis."""
    env = gym.make("RiverSwim-v0", **RIVER)
    core = env.unwrapped.core  # type: ignore[attr-defined]
    P, R = core.P[0], core.R[0]
    best = float(solved(P, R)[1])
    values, gains = solved(*rivers())
    agent = agent_class("TablePolicy", env, action_values=values, gains=gains, beta=20.0, seed=seed)
    steps, curve = [0.0], [0.0]
    for _ in range(CLAIM_POINTS):
        more = max(int(CLAIM_STEPS * scale) // CLAIM_POINTS, 1)
        agent.learn(more, reset_num_timesteps=False)
        steps.append(float(agent.num_timesteps))
        curve.append(float((agent.counts.visits[0] * (best - R)).sum()))
    metrics = {
        "regret": curve[-1],
        "changes": float(agent.changes),
        "weighed changes": factor * agent.changes,
    }
    return Outcome(metrics, {"regret": (steps, curve)})


def loop_arm(seed: int, scale: float) -> Outcome:
    """LOOP; its changes weigh five times."""
    return swim(LOOP, 5.0, seed, scale)


def every_step_arm(seed: int, scale: float) -> Outcome:
    """The same with a choice before every step."""
    return swim(EveryStep, 1.0, seed, scale)


def greedy_arm(seed: int, scale: float) -> Outcome:
    """The same, when it chooses, with any of the least wrong hypotheses."""
    return swim(LeastDiscrepancy, 1.0, seed, scale)


def bounds_arm(seed: int, scale: float) -> Outcome:
    """What LOOP must stay below."""
    return Outcome({"regret": 150.0, "changes": 6.0})


LOOP.claim = Claim(
    text="Among 24 rivers LOOP's regret after 5,000 steps is below 150 with fewer than 6 changes "
    "of hypothesis; a choice before every step earns as much (within 60) with over 5 times the "
    "changes; without optimism the regret is larger, because it stays at the near bank.",
    arms={
        "LOOP": loop_arm,
        "every step": every_step_arm,
        "greedy": greedy_arm,
        "bounds": bounds_arm,
    },
    criteria=(
        Superior("regret", "LOOP", "bounds", higher_is_better=False),
        NotInferior("changes", "LOOP", "bounds", margin=0.0, higher_is_better=False),
        NotInferior("regret", "LOOP", "every step", margin=60.0, higher_is_better=False),
        Superior("weighed changes", "LOOP", "every step", higher_is_better=False),
        Superior("regret", "LOOP", "greedy", higher_is_better=False),
    ),
    seeds=50,
    core_minutes=3.0,
)
