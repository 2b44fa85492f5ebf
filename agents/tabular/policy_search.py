"""Baselines of agnostic learning: importance sampling and policy search by dynamic programming.

J. A. Bagnell, S. M. Kakade, A. Y. Ng, J. Schneider: Policy Search by Dynamic Programming (NeurIPS
2003). From the last step to the first, PSDP chooses out of a finite class

    pi_h = argmax mean( A 1[pi(s_h) = a_h] (return from h on) )

for s_h that a roll-in reaches, a_h uniform, and pi_{h+1}, ..., pi_H afterwards. It needs a roll-in
that covers what good policies visit, and a class that holds good continuations everywhere.

`UniformIS` estimates every policy of the class from episodes with uniform actions,

    V(pi) = mean( A^H 1[pi plays the episode] return ),

without assumptions and with a variance that grows as A^H (M. Kearns, Y. Mansour, A. Y. Ng:
Approximate Planning in Large POMDPs via Reusable Trajectories, NeurIPS 1999).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from stable_baselines3.common.type_aliases import GymEnv

from ...envs.tabular.probabilities import check_probabilities, check_sums, draw
from ..base.declare import Example
from ..base.finite_horizon import Trajectories
from ..base.policy_class import ClassSearch, PolicyClass, first_departures

Array = NDArray[np.float64]
Integers = NDArray[np.int64]

EXAMPLE = Example(
    "Garnet-v0",
    {"states": 2, "actions": 2, "branching": None, "layers": 3},
    policy="TimePolicy",
    kwargs={"policies": PolicyClass.singletons(3, 2).as_dict()},
    steps=300,
)


def importance_values(departures: Integers, returns: Array, actions: int, horizon: int) -> Array:
    """A^H 1[the policy plays the episode] (return), the mean over n episodes, [N].

    Args:
        departures: first step at which each policy would have played otherwise [N, n].
        returns: of the episodes, in which actions were uniform [n].
        actions, horizon: A, H.
    """
    return np.asarray((departures == horizon) @ returns * float(actions) ** horizon / len(returns))


def step_scores(policies: Integers, totals: Array, count: int) -> Array:
    """mean( A 1[pi(s) = a] (return to go) ) of policies for one step [N, S], [N].

    Args:
        policies: actions [N, S].
        totals: returns to go, summed over the episodes by state and uniform action [S, A].
        count: number of episodes.
    """
    chosen = totals[np.arange(len(totals)), policies]
    return np.asarray(totals.shape[1] * chosen.sum(axis=-1) / count)


class UniformIS(ClassSearch):
    """Importance sampling with uniform actions: any class, and a variance that grows as A^H.

    Args:
        policy, env, policies, ...: as in `ClassSearch`.
    """

    example = EXAMPLE

    def _setup_model(self) -> None:
        super()._setup_model()
        self._sums: Array = np.zeros(len(self.policies))

    def choose(self, states: Integers, step: int) -> Integers:
        """Uniform actions."""
        return self.generator.integers(self.shape[2], size=len(states))

    def study(self, trajectories: Trajectories) -> dict[str, float]:
        """Add what the episodes say about every policy."""
        departures = first_departures(self.policies.policies, trajectories)
        returns, (horizon, _, actions) = trajectories.rewards.sum(axis=1), self.shape
        self._sums += importance_values(departures, returns, actions, horizon) * len(returns)
        return {}

    def estimate(self) -> Array:
        """The means."""
        return self._sums / self.episodes

    def extra_state(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """As the base's, with the sums."""
        values, tensors = super().extra_state()
        return values, tensors | {"sums": torch.from_numpy(self._sums.copy())}

    def restore_extra_state(self, values: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        """Inverse of `extra_state`."""
        super().restore_extra_state(values, tensors)
        self._sums = tensors["sums"].numpy().copy()


class PSDP(ClassSearch):
    """Policy search by dynamic programming; the episodes of a `learn` are divided over the steps.

    What it plays is a member of the class at every step, not the same at all.

    Args:
        policy, env, policies, ...: as in `ClassSearch`.
        roll_in: laws of actions [H, S, A] whose states are searched from; None: uniform.
    """

    example = EXAMPLE

    def __init__(
        self, policy: Any, env: GymEnv | str | None, *, roll_in: ArrayLike | None = None, **c: Any
    ) -> None:
        self.roll_in = roll_in
        super().__init__(policy, env, **c)

    def _setup_model(self) -> None:
        super()._setup_model()
        laws = np.full(self.shape, 1 / self.shape[2]) if self.roll_in is None else self.roll_in
        self._laws = np.asarray(laws, dtype=np.float64)
        if self._laws.shape != self.shape:
            raise ValueError(f"roll_in has shape {self._laws.shape}, it must be {self.shape}")
        check_probabilities("roll_in", self._laws)
        check_sums("roll_in", self._laws)
        self._restart(0)

    def _restart(self, budget: int) -> None:
        self._budget, self._played, self._step, self._count = budget, 0, self.shape[0] - 1, 0
        self._totals: Array = np.zeros(self.shape[1:])

    def begin(self) -> None:
        """Start at the last step, with a budget for each."""
        self._restart(-(-(self._total_timesteps - self.num_timesteps) // self.shape[0]))

    def choose(self, states: Integers, step: int) -> Integers:
        """Roll in, then once uniformly, then by what was found."""
        laws = self._laws if step < self._step else self.probabilities
        if step == self._step:
            return self.generator.integers(self.shape[2], size=len(states))
        return draw(laws[step, states], self.generator)

    def play(self) -> Trajectories:
        """As the base's; first the step that is searched may change."""
        horizon = self.shape[0]
        step = horizon - 1 - min(self._played * horizon // self._budget, horizon - 1)
        if step != self._step:
            self.finish()
            self._step, self._count, self._totals = step, 0, np.zeros_like(self._totals)
        return super().play()

    def study(self, trajectories: Trajectories) -> dict[str, float]:
        """Add the returns to go of the step that is searched."""
        place = trajectories.states[:, self._step], trajectories.actions[:, self._step]
        np.add.at(self._totals, place, trajectories.rewards[:, self._step :].sum(axis=1))
        self._count += len(trajectories.rewards)
        self._played += len(trajectories.rewards)
        return {"train/step": float(self._step)}

    def finish(self) -> None:
        """Choose for the step that is searched."""
        if self._count:
            members = self.policies.policies[:, self._step]
            best = members[int(step_scores(members, self._totals, self._count).argmax())]
            self.probabilities[self._step] = np.eye(self.shape[2])[best]

    def learning_state(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """As the base's, with the search so far."""
        values, tensors = super().learning_state()
        values |= {
            name: getattr(self, f"_{name}") for name in ("budget", "played", "step", "count")
        }
        return values, tensors | {"totals": torch.from_numpy(self._totals.copy())}

    def restore_learning_state(
        self, values: dict[str, Any], tensors: dict[str, torch.Tensor]
    ) -> None:
        """Inverse of `learning_state`."""
        super().restore_learning_state(values, tensors)
        self._restart(values["budget"])
        self._played, self._step, self._count = (values[k] for k in ("played", "step", "count"))
        self._totals = tensors["totals"].numpy().copy()
