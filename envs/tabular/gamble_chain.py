"""`GambleChain-v0`: a safe income against a gamble whose odds may get worse."""

from __future__ import annotations

import numpy as np

from ..base import Arrays
from ..checks import check_integer, check_share
from .finite_mdp import FiniteMDPEnv, FiniteMDPVectorEnv
from .linear import Featured, LinearMDP, linear_tables

NAMES = ("normal", "jackpot", "fail")
NORMAL, JACKPOT, FAIL = range(3)


class GambleChain(LinearMDP):
    """How much to put on a gamble whose odds may differ from those one has learned with.

    ## Description
    In the normal state a share of a stake is kept safe, for a small income, and the rest put on a
    gamble, which may lead to the jackpot. As learned, the gamble is the better choice; where it was
    shifted, it may lead to failure, from which there is no way back. The world is linear in four
    features, and each feature's law of the next state may shift on its own (d-rectangular).

    ## Observation
    The state: `Discrete(3)`, 0 normal, 1 jackpot, 2 fail (`observation="index"`), or its unit
    vector in `Box(0, 1, (3,))`, float32 (`observation="onehot"`).

    ## Action
    `Discrete(4)`: action a keeps the share w = a / 3 safe. It matters in the normal state only.

    ## Dynamics
    Those of `FiniteMDP` with P(s' | s, a) = sum over i of phi_i(s, a) mu_i(s'), for the features
    safe, gamble, jackpot and fail:

        phi(normal, a) = (w, 1 - w, 0, 0)   phi(jackpot, a) = (0, 0, 1, 0)
        phi(fail, a)   = (0, 0, 0, 1)
        mu_safe        = normal for certain
        mu_gamble      = jackpot with probability jackpot - shift, fail with shift, else normal
        mu_jackpot     = normal for certain
        mu_fail        = fail for certain

    The first state is normal.

    ## Reward
    phi(s, a) theta with theta = (safe, 0, 1, 0): w x `safe` in the normal state, 1 in the jackpot,
    0 after failure.

    ## Episode end
    Terminated after `horizon` steps, failed or not.

    ## Arguments
    - `safe`: income of the whole stake, in [0, 1].
    - `jackpot`: probability in [0, 1] of winning the gamble, as learned.
    - `horizon`: integer >= 1.
    - `shift`: probability that the gamble loses to failure, in [0, jackpot]; 0 is the world one
      learns in.
    - `observation`: "index" or "onehot".
    - `reset(options={"state": s})` starts from s; the tape is drawn all the same.

    Planners read what `FiniteMDP` shows them, with gamma 1, and `phi` [3, 4, 4], `mu` [4, 3] and
    `theta` [4]. The optimal return is 1.6875 with the defaults, where all is put on the gamble but
    at the last step, and 1.44 with `shift` = 0.3, where nothing is.

    ## Data files
    None.

    ## Sources
    J. Gu, Y. He, Z. Liu, P. Xu, Policy Regularized Distributionally Robust Markov Decision
    Processes with Linear Function Approximation, arXiv 2510.14246 (the class of problems).

    ## Version
    v0.
    """

    def __init__(
        self,
        safe: float = 0.36,
        jackpot: float = 0.75,
        horizon: int = 4,
        *,
        shift: float = 0.0,
        observation: str = "index",
    ) -> None:
        self.safe, self.jackpot = check_share("safe", safe), check_share("jackpot", jackpot)
        self.shift = check_share("shift", shift, self.jackpot)
        phi = np.zeros((3, 4, 4))
        phi[NORMAL, :, 0] = np.arange(4) / 3
        phi[NORMAL, :, 1] = 1 - phi[NORMAL, :, 0]
        phi[JACKPOT, :, 2] = phi[FAIL, :, 3] = 1.0
        gamble = [1 - self.jackpot, self.jackpot - self.shift, self.shift]
        mu = np.array([[1.0, 0.0, 0.0], gamble, [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
        self.phi, self.mu, self.theta = phi, mu, np.array([self.safe, 0.0, 1.0, 0.0])
        P, R = linear_tables(phi, mu, self.theta)
        super().__init__(
            P,
            R[..., None],
            horizon=check_integer("horizon", horizon, 1),
            observation=observation,
            gamma=1.0,
        )

    def render_frame(self, state: Arrays, index: int) -> np.ndarray:
        """The three states, and where the safe and the gambled share lead."""
        from .render_graph import AMBER, PURPLE, SLATE, TEAL, Arrow, draw_graph

        stay, win, lose = self.P[0, NORMAL, 0]  # where all is put on the gamble
        arrows = [
            Arrow(NORMAL, NORMAL, f"+{self.safe:g}", TEAL, 135),
            Arrow(JACKPOT, NORMAL, "+1", PURPLE, 0.16),
            Arrow(FAIL, FAIL, "", SLATE, 0),
        ]
        if stay > 0:
            arrows.append(Arrow(NORMAL, NORMAL, f"{stay:.2g}", AMBER, 225))
        if win > 0:
            arrows.append(Arrow(NORMAL, JACKPOT, f"{win:.2g}", AMBER, 0.16))
        if lose > 0:
            arrows.append(Arrow(NORMAL, FAIL, f"{lose:.2g}", AMBER, -0.1))
        return draw_graph(
            [(150, 125), (350, 65), (350, 185)],
            NAMES,
            self.values_shown(state, index),
            arrows,
            state=int(state["s"][index]),
            size=(470, 250),
            title="GambleChain",
            subtitle=f"step {int(state['steps'][index])} of {self.horizon}",
            legend=[(TEAL, "kept safe"), (AMBER, "gambled, by probability")],
        )


class GambleChainEnv(Featured, FiniteMDPEnv):
    """Face 1 of `GambleChain`: `gymnasium.make("GambleChain-v0", shift=0.3)`."""

    core: GambleChain
    core_class = GambleChain


class GambleChainVectorEnv(Featured, FiniteMDPVectorEnv):
    """Face 2 of `GambleChain`: `gymnasium.make_vec("GambleChain-v0", num_envs=1024,
    shift=0.3)`."""

    core: GambleChain
    core_class = GambleChain
