"""`DoorChain-v0`: a sure small reward, or a chain of doors with a large one behind the last."""

from __future__ import annotations

import numpy as np

from ..base import Arrays
from ..checks import check_integer, check_number, check_share
from .finite_mdp import FiniteMDP, FiniteMDPEnv, FiniteMDPVectorEnv


class DoorChain(FiniteMDP):
    """A sure small reward, or a chain of doors with a large one behind the last.

    ## Description
    Before the first of d doors one may take a small reward and leave, or go on. Each door has to be
    opened in turn; one wrong move and all is lost. A policy that acts at random behind the first
    door makes the chain look worthless, the more so the longer it is: how many steps one has to
    look ahead from the values of the random policy is set by `depth` and `safe`.

    ## Observation
    `Discrete(d + 1)`: before which door one stands, 0 .. d - 1; d: outside, where the task has
    ended.

    ## Action
    `Discrete(2)`: 1 opens the door and goes through; 0 leaves.

    ## Dynamics
    Those of `FiniteMDP` with horizon d. With probability `slip` the other action is executed.

        state s < d - 1, executed 1    s + 1
        otherwise                      d

    ## Reward
    `safe` for an executed 0 before the first door, 1 for an executed 1 before the last, otherwise
    0. Before the last door both actions lead to state d; there v of the tape decides whether the
    action slipped.

    ## Episode end
    Terminated in state d, which is reached after d steps at the latest.

    ## Arguments
    - `depth`: d, at least 1.
    - `safe`: in [0, 1].
    - `slip`: in [0, 1].
    - `reset(options={"state": s})` starts from s; the tape is drawn all the same.

    The optimum without slip is max(safe, 1).

    ## Data files
    None.

    ## Sources
    C. Laidlaw, B. Zhu, S. Russell, A. Dragan, The Effective Horizon Explains Deep RL Performance in
    Stochastic Environments, ICLR 2024, arXiv 2312.08369 (values of the random policy, and how far
    greedy steps on them have to look ahead).

    ## Version
    v0.
    """

    def __init__(self, depth: int = 3, safe: float = 0.3, slip: float = 0.0) -> None:
        self.depth = check_integer("depth", depth, 1)
        self.safe = check_number("safe", safe, 0.0, 1.0)
        self.slip = check_share("slip", slip)
        outside = self.depth
        opens = np.array([self.slip, 1 - self.slip])  # probability by action
        P = np.zeros((self.depth + 1, 2, self.depth + 1))
        for door in range(self.depth - 1):
            P[door, :, door + 1] = opens
            P[door, :, outside] = 1 - opens
        P[-2:, :, outside] = 1.0
        low, q = np.zeros((2, *P.shape))
        low[0, :, outside] = self.safe
        q[outside - 1, :, outside] = opens
        super().__init__(
            *(P, low, np.maximum(low, q > 0), q),
            horizon=self.depth,
            terminal=[outside],
            gamma=1.0,
        )

    def render_frame(self, state: Arrays, index: int) -> np.ndarray:
        """A tile per door, coloured by its optimal value, the present one framed."""
        from .render import draw_states

        labels = [*(f"door {door + 1}" for door in range(self.depth)), "outside"]
        title = f"step {int(state['steps'][index])} of {self.depth}"
        values = self.values_shown(state, index)
        return draw_states(values, int(state["s"][index]), title, self.states, labels)


class DoorChainEnv(FiniteMDPEnv):
    """Face 1 of `DoorChain`: `gymnasium.make("DoorChain-v0", depth=4)`."""

    core_class = DoorChain


class DoorChainVectorEnv(FiniteMDPVectorEnv):
    """Face 2 of `DoorChain`: `gymnasium.make_vec("DoorChain-v0", num_envs=1024, depth=4)`."""

    core_class = DoorChain
