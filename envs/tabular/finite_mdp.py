"""`FiniteMDP-v0`: any finite Markov decision process given as arrays, the engine of all finite
worlds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import gymnasium as gym
import numpy as np
from array_api_compat import array_namespace
from numpy.typing import ArrayLike, NDArray

from ..base import ArrayCore, Arrays
from ..faces import ArrayEnv, ArrayVectorEnv
from .enumerate_env import enumerate_env
from .planning.discounted import (
    backup,
    modified_policy_iteration,
    policy_iteration,
    value_iteration,
)
from .planning.finite_horizon import backward_induction
from .planning.tables import check_gamma, greedy, is_sparse
from .probabilities import check_probabilities, check_sums, cumulative, pick
from .sparse_rows import sparse_rows

BLOCK = 1_000  # steps that a tape of a continuing task lasts
OBSERVATIONS = ("index", "onehot")


class Plan(NamedTuple):
    """What dynamic programming finds.

    Attributes:
        values: optimal values [S]; [horizon, S] where there is a horizon.
        policy: greedy actions of the same shape, int64; of equally good ones the lowest.
    """

    values: NDArray[np.float64]
    policy: NDArray[np.int64]


class FiniteMDP(ArrayCore):
    """A finite Markov decision process given as arrays.

    ## Description
    S states, A actions, transition probabilities and rewards in tables, which may change with the
    step when the task has a horizon. Every finite world of the suite is a function that builds
    these tables.

    Without arguments: a machine that wears. State 0 is new, 1 worn, 2 broken; action 0 runs it,
        action 1
    repairs it for 0.5, or 2 when it is broken. Running pays 1 when new, 1 with probability 0.7 when
    worn, nothing when broken; each period a new machine wears with probability 0.2 and a worn one
    breaks with 0.4. Cut after 50 steps. With gamma 0.95 it is best to run a new machine and to
    repair any other: values 15.210084, 13.949580, 12.449580.

    ## Observation
    The state s: `Discrete(S)` (`observation="index"`) or its unit vector in `Box(0, 1, (S,))`,
        float32
    (`observation="onehot"`).

    ## Action
    `Discrete(A)`.

    ## Dynamics
    For L = horizon, max_steps or 1,000 steps the tape is z = `rng.random(1 + 2 L)`, read as u0, u
    [L], v [L]. `pick(p, u)` is the smallest j with u < p[0] + ... + p[j] (if rounding leaves none,
    the last j with p[j] > 0). Without a horizon t stays 0 in the tables.

        s_0      = pick(d0, u0)
        s_{t+1}  = pick(P[t, s_t, a_t], u[t])

    A task with neither horizon nor max_steps goes on for ever; its tape comes in blocks of 1,000
    steps from the same generator.

    ## Reward
    `high[t, s, a, s']` if v[t] < `q[t, s, a, s']`, else `low[t, s, a, s']`; always `low` when
    `high` is None.

    ## Episode end
    Terminated in the states `terminal` and after `horizon` steps (the value beyond is 0); truncated
    after `max_steps` steps (the value beyond is bootstrapped). A step that does both is terminated.

    ## Arguments
    - `P`: [S, A, S], or [T, S, A, S] with T = 1 or `horizon`; rows in [0, 1] that sum to 1 within
      1e-9. Or sparse, for many states: a matrix of scipy [S * A, S] (row s * A + a), or a list of
      one [S, S] for each action.
    - `low`, `high`, `q`: rewards and the probability of `high`, broadcastable to P (to [S, A, 1]
      where that is sparse); q in [0, 1].
    - `d0`: start, a state or probabilities [S].
    - `horizon`, `max_steps`: integers >= 1 or None.
    - `terminal`: states in which the task ends; none of them may be a start.
    - `observation`: "index" or "onehot".
    - `gamma`: in [0, 1], carried for planners; no part of the dynamics.
    - `reset(options={"state": s})` starts from s; the tape is drawn all the same.

    Planners read `P` (a sparse one as [S * A, S]), `R` [T, S, A] (mean rewards), `d0` [S],
    `horizon` (None where the task has none, also when `max_steps` cuts the episode) and `gamma`;
    `plan(gamma)` solves the task.
    `FiniteMDP.from_env(env)` makes the tables of a small environment.
    `info["t"]` counts steps.

    ## Data files
    None.

    ## Sources
    M. L. Puterman, Markov Decision Processes (Wiley, 1994), chapters 4 and 6 (definitions,
    planning).

    ## Version
    v0.
    """

    arrays: ClassVar[tuple[str, ...]] = (
        *("_cumulative", "_low", "_high", "_q", "_is_terminal", "_observations"),
        "_successors",
    )

    def __init__(
        self,
        P: ArrayLike | None = None,
        low: ArrayLike = 0.0,
        high: ArrayLike | None = None,
        q: ArrayLike | None = None,
        *,
        d0: ArrayLike = 0,
        horizon: int | None = None,
        max_steps: int | None = None,
        terminal: Sequence[int] = (),
        observation: str = "index",
        gamma: float = 0.95,
    ) -> None:
        if P is None:
            P, low, high, q = wearing_machine()
            max_steps = 50 if max_steps is None and horizon is None else max_steps
        self.horizon = at_least_one("horizon", horizon)
        self.max_steps = at_least_one("max_steps", max_steps)
        self.P = self._check_transitions(P)
        if not 0 <= gamma <= 1:
            raise ValueError(f"gamma={gamma} is outside [0, 1]")
        if (high is None) != (q is None):
            raise ValueError("high and q belong together: give both or neither")
        self.gamma = float(gamma)
        self._low = self._like_transitions("low", low)
        self._high = self._low if high is None else self._like_transitions("high", high)
        self._q = self._like_transitions("q", 0.0 if q is None else q)
        check_probabilities("q", self._q)
        paid = self._low + (self._high - self._low) * self._q
        self.R = paid[..., 0] if self.sparse else (self.P * paid).sum(axis=-1)
        self.terminal_states = tuple(self._check_state("terminal", state) for state in terminal)
        self._is_terminal = np.isin(np.arange(self.states), self.terminal_states)
        self.d0 = self._check_start(np.asarray(d0))
        self._start = cumulative(self.d0)
        self._tape_steps = self.horizon or self.max_steps or BLOCK
        self.block = BLOCK if self.horizon is None and self.max_steps is None else None
        self.observation_space, self._observations = self._observe_as(observation)
        self.action_space = gym.spaces.Discrete(self.actions)
        self._picture_values: NDArray[np.float64] | None = None

    @classmethod
    def from_env(
        cls,
        env: gym.Env[Any, Any],
        *,
        max_states: int = 1000,
        resets: int = 100,
        seed: int = 0,
        **arguments: Any,
    ) -> FiniteMDP:
        """The same task as a small environment, as tables that can be planned with.

        Args:
            env, max_states, resets, seed: as in `enumerate_env`, which says where the tables come
                from and what cannot be enumerated.
            arguments: of `FiniteMDP`, in place of those found (`gamma`, `observation`, ...).

        Raises:
            ValueError: the environment cannot be enumerated.
        """
        found = enumerate_env(env, max_states=max_states, resets=resets, seed=seed)
        return FiniteMDP(**{**found, **arguments})

    def tables(self) -> dict[str, Any]:
        """The arguments that make a `FiniteMDP` with these tables, however they were built."""
        two_rewards = self._high is not self._low
        return {
            "P": self.P,
            "low": self._low,
            "high": self._high if two_rewards else None,
            "q": self._q if two_rewards else None,
            "d0": self.d0,
            "horizon": self.horizon,
            "max_steps": self.max_steps,
            "terminal": self.terminal_states,
            "gamma": self.gamma,
        }

    # -- checks ------------------------------------------------------------------------------------

    def _check_transitions(self, P: Any) -> Any:
        """The transitions; also how the next state is picked, and the shape of the rewards."""
        self._successors = np.zeros(0, dtype=np.int64)
        self.sparse = is_sparse(P) or (isinstance(P, list | tuple) and any(map(is_sparse, P)))
        if self.sparse:
            P, self._successors, self._cumulative = sparse_rows(P)
        else:
            P = self._check_dense(np.asarray(P, dtype=np.float64))
            self._cumulative = cumulative(P)
        self.layers, self.states, self.actions, _ = self._cumulative.shape
        self._rewarded = (1, self.states, self.actions, 1) if self.sparse else P.shape
        return P

    def _check_dense(self, P: NDArray[np.float64]) -> NDArray[np.float64]:
        if P.ndim not in (3, 4) or P.shape[-3] != P.shape[-1] or 0 in P.shape:
            raise ValueError(f"P has shape {P.shape}, allowed are [S, A, S] and [T, S, A, S]")
        P = P[None] if P.ndim == 3 else P
        if P.shape[0] not in (1, self.horizon):
            raise ValueError(
                f"P has tables for {P.shape[0]} steps, allowed are 1 and horizon={self.horizon}"
            )
        check_probabilities("P", P)
        check_sums("P", P)
        return P

    def _like_transitions(self, name: str, values: ArrayLike) -> NDArray[np.float64]:
        given = np.asarray(values, dtype=np.float64)
        if not np.isfinite(given).all():
            raise ValueError(f"{name} holds values that are not finite")
        try:
            return np.broadcast_to(given, self._rewarded)
        except ValueError:
            raise ValueError(
                f"{name} has shape {given.shape}, it must be broadcastable to {self._rewarded}, "
                f"{'as P is sparse' if self.sparse else 'the shape of P'}"
            ) from None

    def _check_state(self, name: str, state: Any) -> int:
        if isinstance(state, bool) or not np.issubdtype(np.asarray(state).dtype, np.integer):
            raise ValueError(f"{name}: a state is an integer, got {state!r}")
        if not 0 <= state < self.states:
            raise ValueError(f"{name}: state {state} is outside 0 .. {self.states - 1}")
        return int(state)

    def _check_start(self, d0: NDArray[Any]) -> NDArray[np.float64]:
        if d0.ndim == 0:
            start = self._check_state("d0", d0[()])
            d0 = np.zeros(self.states)
            d0[start] = 1.0
        if d0.shape != (self.states,):
            raise ValueError(f"d0 has shape {d0.shape}, it must be a state or [{self.states}]")
        check_probabilities("d0", d0)
        check_sums("d0", d0)
        if ended := np.flatnonzero(self._is_terminal & (d0 > 0)).tolist():
            raise ValueError(f"d0 starts episodes in the terminal states {ended}")
        return d0.astype(np.float64)

    def _observe_as(self, observation: str) -> tuple[gym.Space[Any], NDArray[Any]]:
        """The observation space, and the observation of each state."""
        if observation == "index":
            return gym.spaces.Discrete(self.states), np.arange(self.states)
        if observation == "onehot":
            space = gym.spaces.Box(0.0, 1.0, (self.states,), np.float32)
            return space, np.eye(self.states, dtype=np.float32)
        raise ValueError(f"observation={observation!r}, allowed are {OBSERVATIONS}")

    # -- dynamics ----------------------------------------------------------------------------------

    def draw_tape(self, rng: np.random.Generator, options: Mapping[str, Any]) -> Arrays:
        """First state, and for each of L steps the uniforms u (next state) and v (reward)."""
        z = rng.random(1 + 2 * self._tape_steps)
        if "state" in options:
            start = self._check_state("options['state']", options["state"])
            if self._is_terminal[start]:
                raise ValueError(
                    f"options['state']: an episode cannot start in {start}, where it ends"
                )
        else:
            start = int(np.sum(z[0] >= self._start))  # `pick`, without its cost per call
        split = 1 + self._tape_steps
        return {"start": np.int64(start), "u": z[1:split], "v": z[split:]}

    def initial(self, tape: Arrays) -> Arrays:
        """The drawn state; `v` is the uniform that decided the last reward."""
        xp = array_namespace(tape["start"])
        nothing = xp.zeros_like(tape["start"])
        # `t` counts the steps of the tape, `steps` those of the episode.
        return {
            "s": tape["start"] + 0,
            "t": nothing,
            "steps": nothing + 0,
            "v": 0 * tape["v"][:, 0],
        }

    def transition(self, state: Arrays, action: Any, tape: Arrays) -> Arrays:
        """One step; `action` int64 [n]."""
        xp = array_namespace(state["s"])
        rows, t = xp.arange(len(state["s"])), state["t"]
        place = (self._layer(state), state["s"], action)
        picked = pick(self._cumulative[place], tape["u"][rows, t])
        return {
            "s": self._successors[(*place, picked)] if self.sparse else picked,
            "t": t + 1,
            "steps": state["steps"] + 1,
            "v": tape["v"][rows, t],
        }

    def reward(self, state: Arrays, action: Any, next_state: Arrays) -> Any:
        """`high` with probability q, else `low`, [n]."""
        xp = array_namespace(state["s"])
        following = 0 * next_state["s"] if self.sparse else next_state["s"]
        place = (self._layer(state), state["s"], action, following)
        return xp.where(next_state["v"] < self._q[place], self._high[place], self._low[place])

    def observation(self, state: Arrays) -> Any:
        """The state as the argument `observation` has it, [n] or [n, S]."""
        return self._observations[state["s"]]

    def terminal(self, state: Arrays) -> Any:
        """The state is a terminal one, or the horizon is reached."""
        ended = self._is_terminal[state["s"]]
        return ended if self.horizon is None else ended | (state["steps"] >= self.horizon)

    def truncated(self, state: Arrays) -> Any:
        """The episode is cut after `max_steps`."""
        steps = state["steps"]
        return steps < 0 if self.max_steps is None else steps >= self.max_steps

    def info(self, state: Arrays) -> Arrays:
        """Steps taken, `t` [n]."""
        return {"t": state["steps"] + 0}

    def _layer(self, state: Arrays) -> Any:
        """Which of the T tables holds in a state, [n]."""
        return state["t"] if self.layers > 1 else 0 * state["t"]

    # -- planning ----------------------------------------------------------------------------------

    def plan(self, gamma: float) -> Plan:
        """Optimal values and the greedy policy: backward induction over the horizon, else policy
        iteration; value iteration where gamma is 1.

        Args:
            gamma: discount factor in [0, 1]; 1 without a horizon needs an end that is always
                reached.

        Raises:
            ValueError: gamma is outside [0, 1], or value iteration does not converge.
        """
        check_gamma(gamma, one=True)
        continues = ~self._is_terminal
        if self.sparse:
            return self._plan_sparse(gamma, continues)
        if self.horizon is not None:
            return Plan(
                *backward_induction(self.P, self.R, self.horizon, gamma=gamma, continues=continues)
            )
        if gamma < 1:
            found = policy_iteration(self.P[0], self.R[0], gamma, continues=continues)
        else:
            found = value_iteration(
                self.P[0], self.R[0], gamma, continues=continues, max_sweeps=100_000
            )
        return Plan(found.values, found.policy)

    def _plan_sparse(self, gamma: float, continues: NDArray[np.bool_]) -> Plan:
        """As `plan`, without solving linear systems."""
        P, R = self.P, self.R[0]
        if self.horizon is None:
            solve = modified_policy_iteration if gamma < 1 else value_iteration
            return Plan(*solve(P, R, gamma, continues=continues)[:2])
        values = np.zeros((self.horizon + 1, self.states))
        policy = np.zeros((self.horizon, self.states), dtype=np.int64)
        for step in reversed(range(self.horizon)):
            action_values = backup(P, R, values[step + 1], gamma, continues)
            values[step], policy[step] = action_values.max(axis=-1), greedy(action_values)
        return Plan(values[:-1], policy)

    # -- picture -----------------------------------------------------------------------------------

    def render_frame(self, state: Arrays, index: int) -> np.ndarray:
        """A tile per state, coloured by its optimal value, the present one framed."""
        from .render import draw_states

        title = f"step {int(state['steps'][index])}"
        return draw_states(self.values_shown(state, index), int(state["s"][index]), title)

    def values_shown(self, state: Arrays, index: int) -> NDArray[np.float64]:
        """Optimal values [S] at the present step, by which pictures are coloured."""
        values = self.picture_values()
        return values[min(int(state["steps"][index]), len(values) - 1)]

    def picture_values(self) -> NDArray[np.float64]:
        """Optimal values [1 or horizon, S] for pictures, planned once."""
        if self._picture_values is None:
            self._picture_values = np.atleast_2d(self.plan(min(self.gamma, 0.99)).values)
        return self._picture_values


def at_least_one(name: str, value: int | None) -> int | None:
    """Return a number of steps; ValueError unless it is None or an integer >= 1."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name}={value!r} must be an integer of at least 1, or None")
    return int(value)


def wearing_machine() -> tuple[NDArray[np.float64], ...]:
    """P, low, high and q of the default task; states new, worn, broken, actions run, repair."""
    run = [[0.8, 0.2, 0.0], [0.0, 0.6, 0.4], [0.0, 0.0, 1.0]]
    repair = [[1.0, 0.0, 0.0]] * 3
    P = np.stack([np.array(run), np.array(repair)], axis=1)
    low, high, q = (np.zeros((3, 2, 1)) for _ in range(3))
    low[:, 1, 0] = high[:, 1, 0] = [-0.5, -0.5, -2.0]
    high[:, 0, 0] = 1.0
    q[:, 0, 0] = [1.0, 0.7, 0.0]
    return P, low, high, q


class Planned:
    """What a face of a `FiniteMDP` shows to planners."""

    core: FiniteMDP

    @property
    def P(self) -> Any:
        """Transition probabilities [T, S, A, S], or sparse [S * A, S]."""
        return self.core.P

    @property
    def R(self) -> NDArray[np.float64]:
        """Mean rewards [T, S, A]."""
        return self.core.R

    @property
    def d0(self) -> NDArray[np.float64]:
        """Probabilities of the first state [S]."""
        return self.core.d0

    @property
    def horizon(self) -> int | None:
        """Steps after which the task has ended; None where it has no horizon."""
        return self.core.horizon

    @property
    def gamma(self) -> float:
        """The discount factor that the task carries."""
        return self.core.gamma

    def plan(self, gamma: float) -> Plan:
        """As `FiniteMDP.plan`."""
        return self.core.plan(gamma)


class FiniteMDPEnv(Planned, ArrayEnv):
    """Face 1 of `FiniteMDP`: `gymnasium.make("FiniteMDP-v0", P=..., low=...)`."""

    core: FiniteMDP
    core_class: ClassVar[type[FiniteMDP]] = FiniteMDP


class FiniteMDPVectorEnv(Planned, ArrayVectorEnv):
    """Face 2 of `FiniteMDP`: `gymnasium.make_vec("FiniteMDP-v0", num_envs=1024, P=...,
    low=...)`."""

    core: FiniteMDP
    core_class: ClassVar[type[FiniteMDP]] = FiniteMDP
