"""Q-learning: the baseline of everything tabular.

C. J. C. H. Watkins, P. Dayan: Q-learning (Machine Learning 8, 1992). After each step from s to s'
    with reward r,

    Q(s, a) <- Q(s, a) + alpha (r + gamma max_b Q(s', b) - Q(s, a))

where the value of s' is 0 if the task has ended there, and counts if the episode was merely cut.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.type_aliases import GymEnv, Schedule

from ..base.declare import Example
from ..base.stepping import Mask, Transitions
from ..base.tabular import TabularAlgorithm, epsilon_greedy


def q_target(
    reward: float, next_values: NDArray[np.float64], terminated: bool, gamma: float
) -> float:
    """r + gamma max Q(s', .) over allowed actions, or r where the task has ended."""
    return reward if terminated else reward + gamma * float(next_values.max())


class QLearning(TabularAlgorithm):
    """Epsilon-greedy Q-learning for any environment with `Discrete` observations and actions.

    Epsilon falls linearly from its initial to its final value over the first part of learning, as
    in SB3's DQN. The steps of parallel environments are learned from one after another.

    Args:
        policy, env, gamma, learning_rate, ...: as in `TabularAlgorithm`.
        exploration_fraction: part of learning over which epsilon falls, in (0, 1].
        exploration_initial_eps, exploration_final_eps: in [0, 1].
    """

    example = Example(
        "FiniteMDP-v0",
        policy="TablePolicy",
        kwargs={"gamma": 0.95, "exploration_fraction": 0.8},
        steps=600,
    )

    def __init__(
        self,
        policy: Any,
        env: GymEnv | str | None,
        *,
        learning_rate: float | Schedule = 0.1,
        exploration_fraction: float = 0.5,
        exploration_initial_eps: float = 1.0,
        exploration_final_eps: float = 0.05,
        **common: Any,
    ) -> None:
        for name, value in {
            "exploration_fraction": exploration_fraction,
            "exploration_initial_eps": exploration_initial_eps,
            "exploration_final_eps": exploration_final_eps,
        }.items():
            if not 0 <= value <= 1:
                raise ValueError(f"{name}={value} is outside [0, 1]")
        if exploration_fraction == 0:
            raise ValueError("exploration_fraction must be above 0")
        self.exploration_fraction = exploration_fraction
        self.exploration_initial_eps = exploration_initial_eps
        self.exploration_final_eps = exploration_final_eps
        super().__init__(policy, env, learning_rate=learning_rate, **common)

    def epsilon(self) -> float:
        """Probability of exploring, at the present progress of learning."""
        done = min((1 - self._current_progress_remaining) / self.exploration_fraction, 1.0)
        start, end = self.exploration_initial_eps, self.exploration_final_eps
        return start + done * (end - start)

    def act(self, observations: NDArray[Any], masks: Mask | None) -> NDArray[np.int64]:
        """Epsilon-greedy actions [n]."""
        epsilon = self.epsilon()
        self.policy.exploration_rate.fill_(epsilon)
        return epsilon_greedy(self.table[observations], masks, epsilon, self.generator)

    def learn_from(self, transitions: Transitions) -> dict[str, float]:
        """Move the table towards the target of each step."""
        table, rate = self.table, self.lr_schedule(self._current_progress_remaining)
        error = 0.0
        for row, (state, action) in enumerate(
            zip(transitions.observations, transitions.actions, strict=True)
        ):
            next_values = table[transitions.next_observations[row]]
            if transitions.next_masks is not None:
                next_values = next_values[transitions.next_masks[row]]
            terminated = bool(transitions.terminated[row])
            target = q_target(transitions.rewards[row], next_values, terminated, self.gamma)
            difference = target - table[state, action]
            table[state, action] += rate * difference
            error += abs(difference)
        return {
            "train/td_error": error / len(transitions.actions),
            "rollout/exploration_rate": float(self.policy.exploration_rate),
        }
