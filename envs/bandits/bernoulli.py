"""`BernoulliBandit-v0`: two arms that pay 0 or 1."""

from __future__ import annotations

import numpy as np

from ..tabular.finite_mdp import FiniteMDP, FiniteMDPEnv, FiniteMDPVectorEnv


class BernoulliBandit(FiniteMDP):
    """Two arms that pay 1 with probability 1 - p and p.

    ## Description
    The smallest problem of exploration: one decision, and nothing that changes with it.

    ## Observation
    `Discrete(1)`: the only state.

    ## Action
    `Discrete(2)`: the arm.

    ## Dynamics
    Those of `FiniteMDP` with one state and horizon 1. The tape holds three uniforms, of which the
    third, v, decides the reward.

    ## Reward
    1 if v < 1 - p (arm 0) or v < p (arm 1), else 0.

    ## Episode end
    Terminated after one step.

    ## Arguments
    - `p`: probability in [0, 1] with which arm 1 pays; arm 0 pays with 1 - p. Below 0.5 arm 0 is
      the better.

    ## Data files
    None.

    ## Sources
    M. Yang, D. Schuurmans, P. Abbeel, O. Nachum, Dichotomy of Control: Separating What You Can
    Control from What You Cannot, arXiv 2210.13435 (the task, with p = 0.1 and 0.3).

    ## Version
    v0.
    """

    def __init__(self, p: float = 0.1) -> None:
        if not 0 <= p <= 1:
            raise ValueError(f"p={p} is outside [0, 1]")
        self.p = float(p)
        q = np.array([1 - self.p, self.p])[None, :, None]
        super().__init__(np.ones((1, 2, 1)), low=0.0, high=1.0, q=q, horizon=1, gamma=1.0)


class BernoulliBanditEnv(FiniteMDPEnv):
    """Face 1 of `BernoulliBandit`: `gymnasium.make("BernoulliBandit-v0", p=0.1)`."""

    core_class = BernoulliBandit


class BernoulliBanditVectorEnv(FiniteMDPVectorEnv):
    """Face 2 of `BernoulliBandit`: `gymnasium.make_vec("BernoulliBandit-v0", num_envs=1024,
    p=0.1)`."""

    core_class = BernoulliBandit
