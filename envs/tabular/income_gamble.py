"""`IncomeGamble-v0`: an uncertain income, then a choice between a little and a gamble."""

from __future__ import annotations

import numpy as np

from ..base import Arrays
from ..checks import check_integer
from .finite_mdp import FiniteMDP, FiniteMDPEnv, FiniteMDPVectorEnv

INCOME, CHOICE = range(2)
SAFE, GAMBLE = range(2)


class IncomeGamble(FiniteMDP):
    """Gambles between uncertain incomes: what was earned decides what may be risked.

    ## Description
    Two states alternate. In the first an income comes or does not, in the second one takes 1 for
    sure or gambles. Who wants the best mean need not remember anything; who fears bad outcomes, or
    wants to reach a set point, must know how much has come in so far, which no state says.

    ## Observation
    `Discrete(2)`: 0 income, 1 choice (`observation="index"`), or the unit vector in
    `Box(0, 1, (2,))`, float32 (`observation="onehot"`).

    ## Action
    `Discrete(2)`: 0 safe, 1 gamble. It matters in state 1 only.

    ## Dynamics
    Those of `FiniteMDP`: 0 -> 1 -> 0 -> ..., starting in 0. The uniform v of the tape decides each
    reward. `default_rng(instance)` draws the amounts, as integers and in this order: `income` from
    3 to 6, `gain` from 3 to 5, `loss` from 1 to 3, `set_point` from 6 to 12.

    ## Reward
    State 0: `income` with probability 1/2, else 0. State 1: 1 for the safe action; for the gamble
    `gain` with probability 1/2, else -`loss`.

    ## Episode end
    Terminated after `horizon` steps.

    ## Arguments
    - `horizon`: integer >= 1.
    - `instance`: integer >= 0.
    - `observation`: "index" or "onehot".
    - `reset(options={"state": s})` starts from s; the tape is drawn all the same.

    The four amounts are attributes; `set_point` is a total worth staying near, and no part of the
    dynamics. gamma, which the task carries for planners, is 1.

    ## Data files
    None.

    ## Sources
    B. Ávila Pires, M. Rowland and others, Optimizing Return Distributions with Distributional
    Dynamic Programming, JMLR 2025, arXiv 2501.13028 (policies that remember their stock).

    ## Version
    v0.
    """

    def __init__(self, horizon: int = 6, *, instance: int = 0, observation: str = "index") -> None:
        rng = np.random.default_rng(check_integer("instance", instance, 0))
        self.income, self.gain = int(rng.integers(3, 7)), int(rng.integers(3, 6))
        self.loss, self.set_point = int(rng.integers(1, 4)), int(rng.integers(6, 13))
        P = np.zeros((2, 2, 2))
        P[INCOME, :, CHOICE] = P[CHOICE, :, INCOME] = 1.0
        low, high = np.zeros((2, 2, 1)), np.zeros((2, 2, 1))
        high[INCOME] = self.income
        low[CHOICE, SAFE] = high[CHOICE, SAFE] = 1.0
        low[CHOICE, GAMBLE], high[CHOICE, GAMBLE] = -self.loss, self.gain
        super().__init__(
            P,
            low,
            high,
            q=0.5,
            horizon=check_integer("horizon", horizon, 1),
            observation=observation,
            gamma=1.0,
        )

    def render_frame(self, state: Arrays, index: int) -> np.ndarray:
        """The two states, with what their moves pay."""
        from .render_graph import AMBER, SLATE, TEAL, Arrow, draw_graph

        arrows = [
            Arrow(INCOME, CHOICE, f"+{self.income} or 0", SLATE, 0.14),
            Arrow(CHOICE, INCOME, "+1", TEAL, 0.12),
            Arrow(CHOICE, INCOME, f"+{self.gain} or -{self.loss}", AMBER, 0.42),
        ]
        return draw_graph(
            [(110, 85), (350, 85)],
            ("income", "choice"),
            self.values_shown(state, index),
            arrows,
            state=int(state["s"][index]),
            size=(460, 220),
            title="IncomeGamble",
            subtitle=f"step {int(state['steps'][index])} of {self.horizon}",
            legend=[(TEAL, "safe"), (AMBER, "gamble")],
        )


class IncomeGambleEnv(FiniteMDPEnv):
    """Face 1 of `IncomeGamble`: `gymnasium.make("IncomeGamble-v0", instance=3)`."""

    core_class = IncomeGamble


class IncomeGambleVectorEnv(FiniteMDPVectorEnv):
    """Face 2 of `IncomeGamble`: `gymnasium.make_vec("IncomeGamble-v0", num_envs=1024,
    instance=3)`."""

    core_class = IncomeGamble
