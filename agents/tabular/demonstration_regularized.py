"""Demonstration-regularised reinforcement learning.

Daniil Tiapkin, Denis Belomestny, Daniele Calandriello, Eric Moulines, Alexey Naumov, Pierre
Perrault, Michal Valko, Pierre Menard: Demonstration-Regularized RL (ICLR 2024, arXiv 2310.17303).

First clone the expert, by maximum likelihood with a log barrier,

    pi_BC(a | s) = (N_h(s, a) + 1) / (N_h(s) + A)

then explore and plan with a penalty for leaving the clone, lambda KL(pi_h(. | s) || pi_BC,h(. | s))
at every step. N_E demonstrations make the episodes that are needed fewer by a factor of order N_E.
It is UCBVI with a soft maximum around the clone in the place of the hard one:

    Q_h  = min( cap_h, r_h + P^_h V_{h+1} + b_h ),          b_h = c sqrt(L / n_h)
    V_h  = lambda log sum_a pi_BC(a | s) exp(Q_h(s, a) / lambda)
    pi_h = pi_BC exp(Q_h / lambda) / normaliser

An episode explores with pi; with probability H / (H + 1) one of its steps, each as likely, plays
instead the action about whose value the upper and the lower bound (the same with -b) disagree most.
With b = 0 pi is the policy that is returned. What it may still lose is at most pi G_1,

    G_h = min( cap_h, 2 b_h + P^_h ( pi G_{h+1} + 1 / (2 lambda) max_a G_{h+1}^2 ) ).

In theory lambda is of order epsilon N_E / (S A H) for an accuracy epsilon, and c of order H.

`DemoRegularizedRLHF` (`demonstration_regularized_rlhf.py`) learns the rewards from comparisons.
"""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from stable_baselines3.common.type_aliases import GymEnv

from ...envs.checks import check_number
from ...envs.tabular.planning.robust_sets import soft
from ...envs.tabular.probabilities import check_probabilities, check_sums
from ..base.declare import Claim, Example, Outcome, Paper, Superior
from ..base.finite_horizon import Trajectories, backward, gap
from ..base.offline_data import OfflineDataset
from ..base.recorded_episodes import RecordedEpisodesAlgorithm, roll_out, to_dataset
from .trajectory_cloning import WORLD, TrajectoryCloning, cloned, count_actions, random_episodes
from .ucbvi import UCBVI

Array = NDArray[np.float64]
Actions = NDArray[np.int64]

SMALLEST = float(np.finfo(np.float64).tiny)  # lambda of which 1 / lambda is still finite

# -- the paper's computation ----------------------------------------------------------------------


def checked_reference(reference: Array, shape: tuple[int, int, int]) -> Array:
    """Laws to stay close to, with a warning where they exclude an action.

    Args:
        reference: [H, S, A].
        shape: H, S, A.

    Raises:
        ValueError: another shape, or no probabilities.
    """
    if reference.shape != shape:
        raise ValueError(f"reference has shape {reference.shape}, it must be {shape}")
    check_probabilities("reference", reference)
    check_sums("reference", reference)
    if (reference == 0).any():
        step, state, action = np.argwhere(reference == 0)[0]
        warnings.warn(
            f"the reference never plays {int((reference == 0).sum())} actions, such as {action} in "
            f"state {state} at step {step}: nor will the agent",
            stacklevel=3,
        )
    return reference


def gap_bounds(
    transitions: Array, bonuses: Array, laws: Array, caps: Array, kl_coefficient: float
) -> Array:
    """G: what the soft policy may lose, [H, S, A].

    Args:
        transitions, caps: as in `backward`.
        bonuses: b [H, S, A].
        laws: pi [H, S, A].
        kl_coefficient: lambda.
    """

    def following(step: int, bounds: Array) -> Array:
        largest = bounds.max(axis=-1) ** 2 / (2 * kl_coefficient)
        return (laws[step] * bounds).sum(axis=-1) + largest

    return backward(transitions, 2 * bonuses, caps, following)[0]


# -- the agents -----------------------------------------------------------------------------------


class DemoRegularizedRL(RecordedEpisodesAlgorithm, UCBVI):
    """UCBVI with a KL penalty towards a clone of the expert, for finite worlds with a horizon.

    Args:
        policy: "TimePolicy".
        env: an `OfflineDataset` of demonstrations (whole episodes; rewards are not looked at),
            whose `env` is the world to learn in. Only a world: the clone is uniform, and the
            penalty an entropy bonus.
        kl_coefficient: lambda, above 0.
        reference: laws [H, S, A] in the place of the clone.
        deviates: whether episodes leave pi at a random step, as above.
        target: learning ends where pi G_1 is at most this, with the starts seen so far; None: it
            does not end early.
        bonus: c, whatever H.
        unseen_bonus, largest_reward, largest_return, rewards, ...: as in `UCBVI`; rewards must be
            at least 0.
    """

    paper = Paper(
        slug="demonstration_regularized",
        title="Demonstration-Regularized RL",
        authors="Daniil Tiapkin, Denis Belomestny, Daniele Calandriello, Eric Moulines, Alexey "
        "Naumov, Pierre Perrault, Michal Valko, Pierre Menard",
        year=2023,
        arxiv="2310.17303",
    )
    example = Example(
        "Garnet-v0",
        WORLD,
        policy="TimePolicy",
        kwargs={"bonus": 0.1},
        steps=480,
        data=random_episodes,
    )

    def __init__(
        self,
        policy: Any,
        env: OfflineDataset | GymEnv | str | None,
        *,
        kl_coefficient: float = 0.02,
        reference: ArrayLike | None = None,
        deviates: bool = True,
        target: float | None = None,
        **common: Any,
    ) -> None:
        check_number("kl_coefficient", kl_coefficient, SMALLEST)
        self.kl_coefficient, self.deviates = kl_coefficient, deviates
        self.target = None if target is None else check_number("target", target, 0.0)
        self.reference = None if reference is None else np.asarray(reference, dtype=np.float64)
        super().__init__(policy, env, **common)

    def _setup_model(self) -> None:
        super()._setup_model()
        self.widest: Actions = np.zeros(self.shape[:2], dtype=np.int64)
        self.expert: Array = np.full(self.shape, 1 / self.shape[2])
        if self.reference is not None:
            self.expert = checked_reference(self.reference, self.shape)
        self.imitate()

    def imitate(self) -> None:
        """Clone the demonstrations that there are, unless a reference was given, and play so."""
        recorded = self.recorded()
        if self.reference is None and recorded is not None:
            self.expert = cloned(count_actions(recorded, *self.shape[1:]))
        self.probabilities[:] = self.expert
        self.gap_bound = np.inf

    def set_env(self, env: Any, force_reset: bool = True) -> None:
        """As the base's; the demonstrations of a data set take the place of earlier ones."""
        super().set_env(env, force_reset)
        if isinstance(env, OfflineDataset):
            self.imitate()

    def begin(self) -> None:
        """Plan with what is known, before the first episode."""
        super().begin()
        self.plan(self.bonuses())

    def exhausted(self) -> bool:
        """Whether the policy is certainly good enough."""
        return self.target is not None and self.gap_bound <= self.target

    def choose(self, states: Actions, step: int) -> Actions:
        """Drawn from pi, but the widest action at the step, if any, at which an episode leaves
        it."""
        actions = super().choose(states, step)
        if not self.deviates:
            return actions
        if step == 0:
            # H stands for not leaving it at all.
            self._leaves = self.generator.integers(self.shape[0] + 1, size=len(states))
        return np.where(self._leaves == step, self.widest[step, states], actions)

    def study(self, trajectories: Trajectories) -> dict[str, float]:
        """As UCBVI's, with the bound on what may be lost where there is a target."""
        found = super().study(trajectories)
        if self.target is None:
            return found
        bounds = gap_bounds(
            self.counts.transitions(),
            self.bonuses(),
            self.probabilities,
            self.caps,
            self.kl_coefficient,
        )
        starts = self.counts.visits[0].sum(axis=-1)
        losses = (self.probabilities[0] * bounds[0]).sum(axis=-1)
        self.gap_bound = float(starts @ losses / starts.sum())
        return {**found, "train/gap_bound": self.gap_bound}

    def plan(self, bonus: Array | float) -> Array:
        """As UCBVI's; also finds the actions whose bounds disagree most."""
        values = super().plan(bonus)
        if self.deviates:
            width = self.estimate(bonus)[0] - self.lower_estimate(bonus)
            self.widest = np.where(self.expert > 0, width, -np.inf).argmax(axis=-1)
        return values

    def lower_estimate(self, bonus: Array | float) -> Array:
        """Q [H, S, A] with the bonus taken off instead of added, at least 0."""

        def value(step: int, action_values: Array) -> Array:
            return self.state_values(step, np.maximum(action_values, 0.0))

        gains = self.mean_rewards() - bonus
        return np.maximum(backward(self.counts.transitions(), gains, self.caps, value)[0], 0.0)

    def state_values(self, step: int, action_values: Array) -> Array:
        """The soft maximum around the clone."""
        return soft(action_values, self.expert[step], 1 / self.kl_coefficient)[0]

    def laws(self, action_values: Array) -> Array:
        """The soft policy around the clone."""
        return soft(action_values, self.expert, 1 / self.kl_coefficient)[1]

    def extra_state(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """As the base's, with the clone, the bound and the widest actions."""
        values, tensors = super().extra_state()
        own = {"expert": self.expert, "widest": self.widest}
        tensors |= {name: torch.from_numpy(table.copy()) for name, table in own.items()}
        return {**values, "gap_bound": self.gap_bound}, tensors

    def restore_extra_state(self, values: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        """Inverse of `extra_state`."""
        super().restore_extra_state(values, tensors)
        self.gap_bound = values["gap_bound"]
        self.expert, self.widest = (tensors[k].numpy().copy() for k in ("expert", "widest"))


# -- the claim in miniature -----------------------------------------------------------------------

EPISODES, EVERY, DEMONSTRATIONS = 120, 10, (2, 10, 40)
SETTING: dict[str, Any] = {"bonus": 0.05, "unseen_bonus": 1.0, "largest_return": 1.2}
Curve = tuple[list[float], list[float]]


def garnet(seed: int, number: int) -> OfflineDataset:
    """The world that belongs to a seed, with episodes of its best policy; more of them begin with
    the same ones."""
    env = gym.make("Garnet-v0", **WORLD, instance=seed)
    core: Any = env.unwrapped.core  # type: ignore[attr-defined]
    best = np.eye(core.actions)[core.plan(1.0).policy]
    # Far from the tapes on which the agents learn.
    played = roll_out(core, best, max(DEMONSTRATIONS), 10**6 + seed * max(DEMONSTRATIONS))
    first = (played.states[:number], played.actions[:number], played.rewards[:number])
    return to_dataset(Trajectories(*first), env)


def explored(agent: UCBVI, core: Any, scale: float) -> tuple[float, Curve]:
    """The gap after learning, and the curve on the way."""
    steps, curve = [0.0], [gap(core, agent.probabilities)]

    def watch(*_: Any) -> bool:
        if agent.num_timesteps % (EVERY * core.horizon) == 0:
            steps.append(float(agent.num_timesteps))
            curve.append(gap(core, agent.probabilities))
        return True

    agent.learn(max(int(EPISODES * scale), 1) * core.horizon, callback=watch)
    return gap(core, agent.probabilities), (steps, curve)


def regularised(kl_coefficient: float, seed: int, scale: float) -> Outcome:
    """The system with each number of demonstrations; pi itself explores, rewards are known."""
    metrics, curves = {}, {}
    for number in DEMONSTRATIONS:
        data = garnet(seed, number)
        core = data.env.unwrapped.core
        own: dict[str, Any] = {"kl_coefficient": kl_coefficient, "deviates": False}
        agent = DemoRegularizedRL("TimePolicy", data, seed=seed, rewards=core.R, **own, **SETTING)
        name = f"gap with {number}"
        metrics[name], curves[name] = explored(agent, core, scale)
    return Outcome(metrics, curves)


def times(factor: float, outcome: Outcome) -> Outcome:
    """The metrics times a factor."""
    return Outcome({name: factor * value for name, value in outcome.metrics.items()})


def regularised_arm(seed: int, scale: float) -> Outcome:
    """The system, lambda 0.02."""
    return regularised(0.02, seed, scale)


def strong_arm(seed: int, scale: float) -> Outcome:
    """The system, lambda 0.1: it depends more on the demonstrations."""
    return regularised(0.1, seed, scale)


def half_of_strong_arm(seed: int, scale: float) -> Outcome:
    """Half of what lambda 0.1 loses with 2 demonstrations, as the limit for 40 of them."""
    found = strong_arm(seed, scale).metrics["gap with 2"]
    return Outcome({"gap with 40": 0.5 * found})


def ucbvi_arm(seed: int, scale: float) -> Outcome:
    """UCBVI with the same rewards, bonus and cap; it has no use for demonstrations."""
    env = garnet(seed, 2).env
    core = env.unwrapped.core
    found, curve = explored(
        UCBVI("TimePolicy", env, seed=seed, rewards=core.R, **SETTING), core, scale
    )
    names = [f"gap with {number}" for number in DEMONSTRATIONS]
    return Outcome(dict.fromkeys(names, found), {names[0]: curve})


def part_of_ucbvi_arm(seed: int, scale: float) -> Outcome:
    """0.6 times what UCBVI loses."""
    return times(0.6, ucbvi_arm(seed, scale))


def clone_arm(seed: int, scale: float) -> Outcome:
    """Cloning alone."""
    metrics = {}
    for number in DEMONSTRATIONS:
        data = garnet(seed, number)
        agent = TrajectoryCloning("TimePolicy", data, seed=seed).learn(len(data))
        metrics[f"gap with {number}"] = gap(data.env.unwrapped.core, agent.probabilities)
    return Outcome(metrics)


def half_of_clone_arm(seed: int, scale: float) -> Outcome:
    """Half of what the clone loses."""
    return times(0.5, clone_arm(seed, scale))


DemoRegularizedRL.claim = Claim(
    text="In random worlds with known rewards, 10 or 40 demonstrations and a penalty of 0.02 leave "
    "after 120 episodes less than 0.6 of the gap of UCBVI and less than half of that of the clone; "
    "with a penalty of 0.1, 40 demonstrations leave less than half of the gap that 2 leave.",
    arms={
        "lambda 0.02": regularised_arm,
        "UCBVI": ucbvi_arm,
        "clone": clone_arm,
        "lambda 0.1": strong_arm,
        "0.6 x UCBVI": part_of_ucbvi_arm,
        "0.5 x clone": half_of_clone_arm,
        "0.5 x lambda 0.1 with 2": half_of_strong_arm,
    },
    criteria=(
        *(
            Superior(f"gap with {number}", "lambda 0.02", baseline, higher_is_better=False)
            for number in (10, 40)
            for baseline in ("0.6 x UCBVI", "0.5 x clone")
        ),
        Superior("gap with 40", "lambda 0.1", "0.5 x lambda 0.1 with 2", higher_is_better=False),
    ),
    seeds=20,
    core_minutes=2.0,
)
