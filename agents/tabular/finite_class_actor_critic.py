"""NORA with a critic from a finite class of action values.

Kevin Tan, Wei Fan, Yuting Wei: Actor-Critics Can Achieve Optimal Sample Efficiency (ICML 2025,
arXiv 2505.03710). In `optimal_actor_critic.py` the critic has a bonus. Here it is, as in the
paper's general form, the largest value over what the data do not contradict,

    f_h(s, a) = max g_h(s, a) over the g in F_1 x ... x F_H with e_h(g) <= H^2 beta for all h,

with the excess e of `finite_class.py`, and is wrong once some e_h(f) >= 5 H^2 beta.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from stable_baselines3.common.type_aliases import GymEnv

from ..base.declare import Example
from ..base.finite_class import excesses, optimistic, worst_excesses
from .optimal_actor_critic import LOCK, NORA

Array = NDArray[np.float64]


class FiniteClassNORA(NORA):
    """NORA whose critic comes from a finite class of action values.

    What is optimistic is the class: `bonus` and `unseen_bonus` are not used.

    Args:
        policy, env, learning_rate, largest_reward, largest_return, ...: as in `NORA`.
        candidates: [K, H, S, A], at least one; F_h is what they say of step h. The best values
            should be among them.
        beta: of the confidence set, above 0; of the order of log(K H T / delta) with probability
            1 - delta.
    """

    example = Example(
        "CombinationLock-v0",
        {**LOCK, "distractor": 0.0},
        policy="TimePolicy",
        # Candidate k: key k is right at every step, and all the later ones will be found.
        kwargs={
            "candidates": np.eye(3)[:, None, None]
            * (0.95 ** np.arange(5, -1, -1.0))[:, None, None]
            * np.array([[1.0], [0.0]]),
            "beta": 0.02,
        },
        steps=600,
    )

    def __init__(
        self,
        policy: Any,
        env: GymEnv | str | None,
        *,
        candidates: ArrayLike = (),
        beta: float = 0.1,
        **common: Any,
    ) -> None:
        if not beta > 0:
            raise ValueError(f"beta must be above 0, got {beta}")
        self.candidates, self.beta = np.asarray(candidates, dtype=np.float64), beta
        super().__init__(policy, env, **common)

    @property
    def threshold(self) -> float:
        """H^2 beta."""
        return self.beta * self.shape[0] ** 2

    def excesses(self, functions: Array) -> Array:
        """Of functions [J, H, S, A] on what was seen, [H, J, J]."""
        if self.candidates.shape != (max(len(self.candidates), 1), *self.shape):
            raise ValueError(
                f"candidates have shape {self.candidates.shape}, they must be [K, "
                f"{', '.join(map(str, self.shape))}] with K >= 1"
            )
        seen = (self.counts.visits, self.mean_rewards(), self.counts.transitions())
        return excesses(functions, self.candidates, *seen)

    def outdated(self) -> bool:
        """Whether the data contradict the critic at some step."""
        return bool((self.excesses(self.critic[None]) >= 5 * self.threshold).any())

    def new_critic(self) -> Array:
        """The largest values that the data do not contradict, [H, S, A]."""
        worst = worst_excesses(self.excesses(self.candidates))
        return optimistic(self.candidates, worst, self.threshold)
