"""`RiverSwim-v0`: swim against the current to the far bank, or stay and be content with little."""

from __future__ import annotations

import numpy as np

from ..base import Arrays
from ..checks import check_choice, check_integer, check_number, check_share
from .finite_mdp import FiniteMDP, FiniteMDPEnv, FiniteMDPVectorEnv

SPACING = 116.0  # between two states of the picture in pixels
DRAWN = 10  # states up to which the picture is a river


class RiverSwim(FiniteMDP):
    """A chain against the current: far away much is paid, here little and for sure.

    ## Description
    A swimmer in a river of S places. Downstream, to the left, the current carries it for certain;
    upstream, to the right, it gets only now and then. The left bank pays a little, the right bank
    much. An agent that explores without a plan stays at the left bank.

    ## Observation
    The place s: `Discrete(S)` (`observation="index"`) or its unit vector in `Box(0, 1, (S,))`,
    float32 (`observation="onehot"`).

    ## Action
    `Discrete(2)`: 0 left, 1 right.

    ## Dynamics
    Those of `FiniteMDP`.

        left    s -> max(s - 1, 0), for certain
        right   0     -> 1 with probability forward_first, else 0
                s     -> s + 1 with forward, s - 1 with back, else s
                S - 1 -> S - 2 with back_last, else S - 1

    ## Reward
    Of the state before the action: `small` for left in state 0, `large` for right in state S - 1,
    otherwise 0. With `rewards="bernoulli"` 1 with this probability, else 0.

    ## Episode end
    Terminated after `horizon` steps; without a horizon the task goes on for ever.

    ## Arguments
    - `states`: S, at least 2.
    - `forward`, `back`: probabilities whose sum is at most 1.
    - `forward_first`, `back_last`: probabilities at the banks; None: `forward`, `back`.
    - `small`, `large`: rewards, with `rewards="bernoulli"` in [0, 1].
    - `rewards`: "mean" or "bernoulli".
    - `horizon`: integer >= 1 or None.
    - `start`: a state.
    - `observation`: "index" or "onehot".
    - `reset(options={"state": s})` starts from s; the tape is drawn all the same.

    `gamma`, which the task carries for planners, is 1 with a horizon and 0.99 without.

    ## Data files
    None.

    ## Sources
    A. L. Strehl, M. L. Littman, An Analysis of Model-Based Interval Estimation for Markov Decision
    Processes, Journal of Computer and System Sciences 74 (2008) (the task, with six states).

    ## Version
    v0.
    """

    def __init__(
        self,
        states: int = 6,
        forward: float = 0.35,
        back: float = 0.05,
        *,
        forward_first: float | None = None,
        back_last: float | None = None,
        small: float = 0.05,
        large: float = 1.0,
        rewards: str = "mean",
        horizon: int | None = None,
        start: int = 0,
        observation: str = "index",
    ) -> None:
        states = check_integer("states", states, 2)
        forward, back = check_share("forward", forward), check_share("back", back)
        if forward + back > 1:
            raise ValueError(f"forward={forward} and back={back} sum to more than 1")
        first = forward if forward_first is None else check_share("forward_first", forward_first)
        last = back if back_last is None else check_share("back_last", back_last)
        bernoulli = check_choice("rewards", rewards, ("mean", "bernoulli")) == "bernoulli"
        P, pay = np.zeros((states, 2, states)), np.zeros((states, 2, 1))
        s = np.arange(states)
        P[s, 0, np.maximum(s - 1, 0)] = 1.0
        P[s[:-1], 1, s[1:]] = forward
        P[s[1:], 1, s[:-1]] = back
        P[0, 1, 1], P[-1, 1, -2] = first, last
        P[s, 1, s] = 1 - P[:, 1].sum(axis=1)
        bounds = (0.0, 1.0) if bernoulli else (-np.inf, np.inf)
        pay[0, 0] = check_number("small", small, *bounds)
        pay[-1, 1] = check_number("large", large, *bounds)
        self.small, self.large = float(small), float(large)
        super().__init__(
            P,
            **({"low": 0.0, "high": 1.0, "q": pay} if bernoulli else {"low": pay}),
            d0=check_integer("start", start, 0, states - 1),
            horizon=horizon,
            observation=observation,
            gamma=0.99 if horizon is None else 1.0,
        )

    def render_frame(self, state: Arrays, index: int) -> np.ndarray:
        """The river with its currents; of a long one, a tile per state."""
        from .render_graph import AMBER, TEAL, Arrow, draw_graph

        if self.states > DRAWN:
            return super().render_frame(state, index)
        P, last = self.P[0, :, 1], self.states - 1
        arrows = [Arrow(s, s - 1, colour=AMBER, bend=0.6) for s in range(1, last + 1)]
        arrows.append(Arrow(0, 0, f"+{self.small:g}", AMBER, 250))
        for s, to in np.argwhere(P > 0).tolist():
            pays = f", +{self.large:g}" if s == to == last else ""
            bend = 90.0 if s == to else 0.34 if to > s else 0.1
            arrows.append(Arrow(s, to, f"{P[s, to]:.2g}{pays}", TEAL, bend))
        return draw_graph(
            [(SPACING * (s + 0.6), 118) for s in range(self.states)],
            [str(s) for s in range(self.states)],
            self.values_shown(state, index),
            arrows,
            state=int(state["s"][index]),
            size=(SPACING * (self.states + 0.2), 230),
            title="RiverSwim",
            subtitle=f"step {int(state['steps'][index])}",
            legend=[(AMBER, "left"), (TEAL, "right, by probability")],
            ground="#e8f3f9",
        )


class RiverSwimEnv(FiniteMDPEnv):
    """Face 1 of `RiverSwim`: `gymnasium.make("RiverSwim-v0", states=6)`."""

    core_class = RiverSwim


class RiverSwimVectorEnv(FiniteMDPVectorEnv):
    """Face 2 of `RiverSwim`: `gymnasium.make_vec("RiverSwim-v0", num_envs=1024, states=6)`."""

    core_class = RiverSwim
