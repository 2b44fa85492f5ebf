"""Agnostic policy learning: spanning capacity, POPLER, and the baselines that it is compared with.

Gene Li: Agnostic Reinforcement Learning: Foundations and Algorithms (PhD thesis, TTIC 2025, arXiv
2506.01884); its core: Zeyu Jia, Gene Li, Alexander Rakhlin, Ayush Sekhari, Nathan Srebro: When is
Agnostic Reinforcement Learning Statistically Tractable? (NeurIPS 2023, arXiv 2310.06113).

The learner competes with the best policy of a given class, which need not hold an optimal one. With
a simulator that starts anywhere, what this costs is the class's spanning capacity: how many pairs
(s, a) of one step its policies reach together in the worst deterministic world. With episodes alone
that is not enough, but it is enough for a sunflower (`PolicyClass`): a core of K policies that
plays whatever any policy plays until the next of its few petals.

POPLER rolls out core policies, drawn uniformly, from the start ("top") and from petals that it can
reach. From the episodes that visited x, a policy is evaluated until its first petal after x: a
segment tau that it plays has the weight K / #(core policies that play tau), others weigh 0, and

    P(x -> y) = mean of w(tau) 1[tau stops at the petal y]
    r(x)      = mean of w(tau) (rewards before the stop)
    V(x)      = r(x) + sum_y P(x -> y) V(y),     later petals first,     estimate V(top)

so weights are at most K and not A^H, as in importance sampling with uniform actions (`UniformIS`).
A petal counts as reachable if P(x -> petal) >= epsilon / (6 D) from the top or a petal already
reached; the policy that reaches it most often rolls in.

`PSDP` needs no importance weights but states that cover what good policies visit, and a class that
holds good continuations everywhere; POPLER needs neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from stable_baselines3.common.type_aliases import GymEnv

from ...envs.checks import check_number
from ...envs.tabular.planning.finite_horizon import evaluate
from ...wrappers.sb3 import make_sb3
from ..base.declare import Claim, NotInferior, Outcome, Paper, Superior
from ..base.finite_horizon import Trajectories
from ..base.policy_class import ClassSearch, Place, PolicyClass, first_departures
from ..base.resumable import prefixed
from .policy_search import EXAMPLE, UniformIS

Array = NDArray[np.float64]
Integers = NDArray[np.int64]

WORLDS = 10_000_000  # deterministic worlds up to which the spanning capacity is found exactly
AT_ONCE = 2**14  # of them

# -- the paper's computation ----------------------------------------------------------------------


def reach_counts(
    policies: Integers, start: ArrayLike, next_states: ArrayLike, actions: int | None = None
) -> Integers:
    """How many pairs (s, a) of each step some policy visits in deterministic worlds.

    Args:
        policies: actions [N, H, S].
        start: the first state [...].
        next_states: [..., H - 1, S, A]; or [S, A], of one world that is the same at every step.
        actions: A; None: as `next_states` has it.

    Returns:
        [..., H].
    """
    count, horizon, states = policies.shape
    following, first = np.asarray(next_states), np.asarray(start)
    actions = following.shape[-1] if actions is None else actions
    if following.ndim == 2:
        following = np.broadcast_to(following, (horizon - 1, *following.shape))
    batch = first.shape
    following = following.reshape(-1, horizon - 1, states, actions)
    where = np.repeat(first.reshape(-1, 1), count, axis=1)
    worlds, numbers = np.ogrid[: len(where), :count]
    found = np.empty((len(where), horizon), dtype=np.int64)
    for step in range(horizon):
        chosen = policies[numbers, step, where]
        visited = np.zeros((len(where), states * actions), dtype=bool)
        visited[worlds, where * actions + chosen] = True
        found[:, step] = visited.sum(axis=1)
        if step < horizon - 1:
            where = following[worlds, step, where, chosen]
    return found.reshape(*batch, horizon)


def spanning_capacity(
    policies: PolicyClass | ArrayLike, actions: int | None = None, limit: int = WORLDS
) -> tuple[int, int]:
    """Bounds of the largest entry of `reach_counts` over all worlds; equal where it was found.

    Args:
        policies: the class [N, H, S].
        actions: A; None: as many as the class uses.
        limit: deterministic worlds to look at; where there are more, the bounds are the most
            actions that the class plays in one (h, s), and min(A^H, N, S A).
    """
    table = PolicyClass.of(policies).policies
    count, horizon, states = table.shape
    actions = int(table.max()) + 1 if actions is None else actions
    upper = min(actions**horizon, count, states * actions)
    digits = (horizon - 1) * states * actions + 1
    plays = (table[..., None] == np.arange(actions)).any(axis=0)
    best = int(plays.sum(axis=-1).max())
    if states**digits > limit:
        return best, upper
    for begin in range(0, states**digits, AT_ONCE):
        numbers = np.arange(begin, min(begin + AT_ONCE, states**digits))
        world = numbers[:, None] // states ** np.arange(digits) % states
        following = world[:, 1:].reshape(-1, horizon - 1, states, actions)
        best = max(best, int(reach_counts(table, world[:, 0], following, actions).max()))
        if best == upper:
            break
    return best, best


def stops_at(is_petal: NDArray[np.bool_], episodes: Trajectories, start: int) -> Integers:
    """The first step after `start` whose state is a petal [H, S], else H, of n episodes [n]."""
    horizon = len(is_petal)
    steps = np.arange(start + 1, horizon)
    found = is_petal[steps, episodes.states[:, start + 1 : horizon]]
    ends = np.ones((len(found), 1), dtype=bool)
    return start + 1 + np.concatenate([found, ends], axis=1).argmax(axis=1)


def segment_weights(departures: Integers, core_departures: Integers, stops: Integers) -> Array:
    """K / #(core policies that play the segment) where the policy does, else 0, [n].

    Args:
        departures: first step at which the policy would have played otherwise [n].
        core_departures: the same of the core policies [K, n].
        stops: where the segments end, exclusive [n].

    Raises:
        ValueError: the policy plays a segment that no core policy plays.
    """
    own, core = departures >= stops, (core_departures >= stops).sum(axis=0)
    if (own & (core == 0)).any():
        row = int(np.flatnonzero(own & (core == 0))[0])
        raise ValueError(
            f"not a sunflower: no core policy plays what the policy plays in episode {row} up to "
            f"step {stops[row]}, and no petal comes before"
        )
    return np.where(own, len(core_departures) / np.maximum(core, 1), 0.0)


class Visits:
    """Episodes that visited x, in which a uniformly drawn core policy acts from then on.

    Args:
        episodes: n of them; what comes before the step of x is not looked at.
        core: actions [K, H, S].
        start: the step of x; 0 at the top.
    """

    def __init__(self, episodes: Trajectories, core: Integers, start: int = 0) -> None:
        self.episodes, self.start = episodes, start
        self.core_departures = first_departures(core, episodes, start)

    def transfer(self, policy: Integers, is_petal: NDArray[np.bool_]) -> tuple[float, Array]:
        """r(x), and P(x -> y) of the petals [H, S]; 0 without an episode.

        Args:
            policy: actions [H, S].
            is_petal: its petals [H, S].
        """
        episodes, count = self.episodes, max(len(self.episodes.actions), 1)
        horizon = len(policy)
        stops = stops_at(is_petal, episodes, self.start)
        departures = first_departures(policy[None], episodes, self.start)[0]
        weights = segment_weights(departures, self.core_departures, stops)
        steps = np.arange(horizon)
        before = (steps >= self.start) & (steps < stops[:, None])
        reward = float(weights @ (episodes.rewards * before).sum(axis=1)) / count
        shares, rows = np.zeros(policy.shape), np.flatnonzero(stops < horizon)
        np.add.at(shares, (stops[rows], episodes.states[rows, stops[rows]]), weights[rows] / count)
        return reward, shares


Transfers = dict[Place | None, tuple[float, Array]]  # by petal; None: the top


def chained(transfers: Transfers) -> float:
    """V(top) of r(x) and P(x -> y) [H, S], by x; what is not among the x is worth 0."""
    values = np.zeros_like(transfers[None][1])
    for place in sorted((x for x in transfers if x is not None), reverse=True):
        reward, shares = transfers[place]
        values[place] = reward + (shares * values).sum()
    reward, shares = transfers[None]
    return reward + float((shares * values).sum())


def policy_value(
    policy: Integers, is_petal: NDArray[np.bool_], visits: Mapping[Place | None, Visits]
) -> float:
    """V(top) of a policy [H, S] with petals [H, S]; a petal that was never visited is worth 0."""
    return chained(
        {x: at.transfer(policy, is_petal) for x, at in visits.items() if x is None or is_petal[x]}
    )


# -- the agents -----------------------------------------------------------------------------------


class POPLER(ClassSearch):
    """Policy optimization by learning reachable petals, for a sunflower class.

    Of the episodes of a `learn`, half start at the top; the others are divided over the petals,
    those of earlier steps first. A share of petals that cannot be reached goes to others of the
    same step, or to the top. What was seen in an earlier `learn` stays in use.

    Logged: `train/reached_petals`, so far in this `learn`, and what `ClassSearch` logs.

    Args:
        policy, env, policies, ...: as in `ClassSearch`; the class has a core.
        epsilon: the accuracy, above 0, which decides what petals count as reachable.

    Attributes:
        places: the petals (h, s) of all policies after the first step.
        guides: the number of the policy that rolls in to each of them, -1: it is out of reach.
    """

    paper = Paper(
        slug="agnostic_rl",
        title="Agnostic Reinforcement Learning: Foundations and Algorithms",
        authors="Gene Li",
        year=2025,
        arxiv="2506.01884",
    )
    example = EXAMPLE

    def __init__(
        self, policy: Any, env: GymEnv | str | None, *, epsilon: float = 0.1, **common: Any
    ) -> None:
        if not check_number("epsilon", epsilon) > 0:
            raise ValueError(f"epsilon must be above 0, got {epsilon}")
        self.epsilon = epsilon
        super().__init__(policy, env, **common)

    def _setup_model(self) -> None:
        super()._setup_model()
        if self.policies.core is None:
            raise ValueError("POPLER needs a sunflower: give the class a core (and petals)")
        self.core = self.policies.core
        # What starts at a petal of the first step starts at the top.
        self.places = [place for place in self.policies.places if place[0] > 0]
        self._seen: dict[Place | None, list[Trajectories]] = {}
        self._restart(0)

    def _restart(self, budget: int) -> None:
        """Plan a number of episodes, with no petal reached yet."""
        self._budget, self._played, self._decided = budget, 0, -1
        self.guides: Integers = np.full(len(self.places), -1)

    def begin(self) -> None:
        """Plan the episodes of this `learn`."""
        self._restart(-(-(self._total_timesteps - self.num_timesteps) // self.shape[0]))

    # -- collecting data ---------------------------------------------------------------------------

    def play(self) -> Trajectories:
        """One episode of every environment, each to its petal and from there by the core."""
        assert self.env is not None
        targets = self._targets(self.env.num_envs)
        self._places = np.array([*self.places, (-1, -1)])[targets]
        self._leaders = np.append(self.guides, 0)[targets]
        self._members = self.generator.integers(len(self.core), size=len(targets))
        self._arrived = targets < 0
        found = super().play()
        self._played += len(targets)
        for target in np.unique(targets[self._arrived]):
            place = None if target < 0 else self.places[target]
            rows = self._arrived & (targets == target)
            parts = (found.states[rows], found.actions[rows], found.rewards[rows])
            self._seen.setdefault(place, []).append(Trajectories(*parts))
        return found

    def choose(self, states: Integers, step: int) -> Integers:
        """By the guide until the petal, from there by a core policy."""
        self._arrived |= (
            self._places == np.column_stack([np.full_like(states, step), states])
        ).all(axis=1)
        followed = self.policies.policies[self._leaders, step, states]
        return np.where(self._arrived, self.core[self._members, step, states], followed)

    def study(self, trajectories: Trajectories) -> dict[str, float]:
        """It was recorded while it was played."""
        return {"train/reached_petals": float((self.guides >= 0).sum())}

    def _targets(self, count: int) -> Integers:
        """Petals that the next episodes roll in to, -1: they start at the top."""
        places = self.places
        numbers, targets = self._played + np.arange(count), np.full(count, -1)
        top = self._budget - self._budget // 2
        if not places or top == self._budget:
            return targets
        for row in np.flatnonzero(numbers >= top):
            share = (numbers[row] - top) * len(places) // (self._budget - top)
            step = places[min(share, len(places) - 1)][0]
            if step > self._decided:
                self._decide(step)
            reached = [j for j, (h, _) in enumerate(places) if h == step and self.guides[j] >= 0]
            if reached:
                targets[row] = reached[numbers[row] % len(reached)]
        return targets

    def _decide(self, step: int) -> None:
        """Find out which petals up to a step can be reached, and by which policy."""
        visits, classes = self._visits(), self.policies
        for j, place in enumerate(self.places):
            if not (self._decided < place[0] <= step and None in visits):
                continue
            often = 0.0
            for number in np.flatnonzero(classes.is_petal[(slice(None), *place)]):
                known: Transfers = {}
                largest = 0.0
                for x, at in visits.items():
                    if x is None or (x < place and classes.is_petal[(number, *x)]):
                        shares = at.transfer(classes.policies[number], classes.is_petal[number])[1]
                        share, shares[place] = float(shares[place]), 0.0
                        known[x], largest = (share, shares), max(largest, share)
                enough = largest >= self.epsilon / (6 * classes.most_petals)
                if enough and (reach := chained(known)) > often:
                    self.guides[j], often = number, reach
        self._decided = step

    def _visits(self) -> dict[Place | None, Visits]:
        """What was seen from the top and from petals."""
        return {
            place: Visits(joined(parts), self.core, 0 if place is None else place[0])
            for place, parts in self._seen.items()
        }

    def estimate(self) -> Array:
        """V(top) of every policy."""
        visits = self._visits()
        members = zip(self.policies.policies, self.policies.is_petal, strict=True)
        return np.array([policy_value(policy, is_petal, visits) for policy, is_petal in members])

    # -- checkpoints -------------------------------------------------------------------------------

    def extra_state(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """As the base's, with what was seen."""
        values, tensors = super().extra_state()
        places = [[-1, -1] if place is None else list(place) for place in self._seen]
        for number, parts in enumerate(self._seen.values()):
            for name, array in vars(joined(parts)).items():
                tensors[f"seen.{number}.{name}"] = torch.from_numpy(array.copy())
        return values | {"places": places}, tensors

    def restore_extra_state(self, values: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        """Inverse of `extra_state`."""
        super().restore_extra_state(values, tensors)
        self._seen = {}
        for number, (h, s) in enumerate(values["places"]):
            arrays = {k: x.numpy().copy() for k, x in prefixed(tensors, f"seen.{number}").items()}
            self._seen[None if h < 0 else (h, s)] = [Trajectories(**arrays)]

    def learning_state(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """As the base's, with the plan of this `learn`."""
        values, tensors = super().learning_state()
        values |= {name: getattr(self, f"_{name}") for name in ("budget", "played", "decided")}
        return values, tensors | {"guides": torch.from_numpy(self.guides.copy())}

    def restore_learning_state(
        self, values: dict[str, Any], tensors: dict[str, torch.Tensor]
    ) -> None:
        """Inverse of `learning_state`."""
        super().restore_learning_state(values, tensors)
        self._restart(values["budget"])
        self._played, self._decided = values["played"], values["decided"]
        self.guides = tensors["guides"].numpy().copy()


def joined(parts: list[Trajectories]) -> Trajectories:
    """Some episodes and others."""
    names = ("states", "actions", "rewards")
    return Trajectories(*(np.concatenate([getattr(x, name) for x in parts]) for name in names))


# -- the claim in miniature -----------------------------------------------------------------------

CLAIM_EPISODES, CLAIM_AT_ONCE = 6_000, 100
CLAIM_LAYERS = {14: "", 8: ", 8 layers"}
GARNET: dict[str, Any] = {
    **{"states": 3, "actions": 2, "branching": None, "concentration": 0.5},
    **{"rewards": "last_layer", "start": 0},
}


def errors_of(agent_class: type[ClassSearch], seed: int, scale: float) -> Outcome:
    """Error of the estimates over the class, and what the chosen policy loses within it."""
    metrics = {}
    for layers, name in CLAIM_LAYERS.items():
        world = {**GARNET, "layers": layers, "instance": seed}
        env = make_sb3("Garnet-v0", num_envs=CLAIM_AT_ONCE, **world)
        members = PolicyClass.singletons(layers, GARNET["states"])
        agent = agent_class("TimePolicy", env, seed=seed, policies=members)
        agent.learn(max(int(CLAIM_EPISODES * scale), 1) * layers, log_interval=None)
        core = env.get_attr("core")[0]
        exact = evaluate(core.P, core.R, members.policies)[:, 0] @ core.d0
        metrics[f"error{name}"] = float(np.sqrt(((agent.values - exact) ** 2).mean()))
        metrics[f"gap{name}"] = float(exact.max() - exact[int(agent.values.argmax())])
    return Outcome(metrics)


def popler_arm(seed: int, scale: float) -> Outcome:
    """POPLER."""
    return errors_of(POPLER, seed, scale)


def uniform_arm(seed: int, scale: float) -> Outcome:
    """Importance sampling with uniform actions and as many episodes."""
    return errors_of(UniformIS, seed, scale)


POPLER.claim = Claim(
    text="In random worlds of 14 layers with 3 states each and 2 actions, POPLER's estimates of "
    "the 42 policies that deviate in one place have, after 6,000 episodes, at most half the root "
    "mean squared error of importance sampling with uniform actions.",
    arms={"POPLER": popler_arm, "uniform": uniform_arm},
    criteria=(
        Superior("error", "POPLER", "uniform", higher_is_better=False),
        # At most half: not worse than the other by more than -1/2 of it.
        NotInferior("error", "POPLER", "uniform", -0.5, relative=True, higher_is_better=False),
    ),
    seeds=40,  # the errors of importance sampling have a heavy tail
    core_minutes=1.0,
)
