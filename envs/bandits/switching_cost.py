"""`SwitchingCostBandit-v0`: an adversary's losses, a price on changing the arm, and a budget of
observations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from array_api_compat import array_namespace
from numpy.typing import ArrayLike, NDArray

from ..base import ArrayCore, Arrays
from ..checks import check_choice, check_integer, check_number
from ..faces import ArrayEnv, ArrayVectorEnv
from .loss_sequences import LAWS, adversarial_losses, own_losses, stochastic_losses
from .rounds import RoundsCore

MODES = ("full", "extra", "single", "bandit")
HIDDEN = -1.0  # in place of a loss that is not shown


class SwitchingCostBandit(RoundsCore):
    """Losses fixed in advance; changing the arm costs 1, and seeing a loss uses up a budget.

    ## Description
    How much a learner sees, and of which arms, decides how well it can do when it may not change
    its mind often. Losses are seen on request only: `observe` asks for them before a round, and the
    info of the round shows them.

    ## Observation
    `Discrete(K + 1)`: the arm played last, K before the first round.

    ## Action
    `Discrete(K)`: the arm.

    ## Dynamics
    The losses l [T, K] are the tape; nothing that is played changes them.

    - "stochastic": `good = rng.integers(K)`, then l = 1 where `rng.random((T, K))` < `mean` (of the
      good arm `mean - gap`), else 0.
    - "adversarial": a random walk on many scales shared by all arms, minus a little for the arm
      `rng.integers(K)` (`adversarial_losses` in this folder).

    A request belongs to the coming round and is shown by the info of that round. What may be
    requested depends on `mode`, and every loss shown counts against `budget`:

    - "full": any arms.
    - "single": one arm a round, any.
    - "bandit": the arm that will be played: `observe()` without arms.
    - "extra": any arms; that of the arm played is shown in every round and does not count.

    ## Reward
    -(l_t(a_t) + [a_t is not a_{t-1}]), the first round free of the second term. It is the score: a
    learner that keeps to a budget learns from `info["observed"]` alone.

    - `info["observed"]` [K]: losses shown of the last round, -1 of others.
    - `info["observations"]`: losses counted so far.
    - `info["cost"]`, `info["cumulative_cost"]`: of switching, part of the reward.
    - `info["regret"]`: l_t(a_t) + cost - l_t(k*), k* the arm with the least losses in all T rounds
      (the lowest of equal ones); `info["cumulative_regret"]`: after T rounds the regret of the
      paper. Both are for scoring.

    ## Episode end
    Terminated after T rounds.

    ## Arguments
    - `K`: arms, integer >= 1, by default 4; `T`: rounds, integer >= 1, by default 200; those of
      an array of losses follow from it.
    - `losses`: "stochastic", "adversarial" or an array [T, K] in [0, 1].
    - `mean`, `gap`: of "stochastic", 0 <= gap <= mean <= 1.
    - `mode`: "full", "extra", "single" or "bandit".
    - `budget`: integer >= 0; None: no bound.

    `env.observe(arms)` takes an arm, several, or None for all that may be shown;
    `vector.observe(asked)` a bool array [num_envs, K], or None. ValueError where the mode does not
    allow it or the budget does not suffice ("extra": for the arms asked for, at most K - 1).

    ## Data files
    None.

    ## Sources
    D. Cheng, X. Zhou, B. Ji, Understanding the Role of Feedback in Online Learning with Switching
    Costs, ICML 2023, arXiv 2306.09588. Losses "adversarial": O. Dekel, J. Ding, T. Koren, Y. Peres,
    Bandits with Switching Costs: T^(2/3) Regret, STOC 2014, arXiv 1310.2997.

    ## Version
    v0.
    """

    kept = ("regret", "cost")
    action_space: gym.spaces.Discrete

    def __init__(
        self,
        K: int | None = None,
        T: int | None = None,
        *,
        losses: str | ArrayLike = "stochastic",
        mean: float = 0.5,
        gap: float = 0.1,
        mode: str = "full",
        budget: int | None = None,
    ) -> None:
        self.losses: str | NDArray[np.float64]
        if isinstance(losses, str):
            self.losses = check_choice("losses", losses, LAWS)
            rounds, arms = (200 if T is None else T), (4 if K is None else K)
        else:
            self.losses = own_losses(losses, T, K)
            rounds, arms = self.losses.shape
        super().__init__(rounds)
        self.K = check_integer("K", arms, 1)
        self.mean = check_number("mean", mean, 0.0, 1.0)
        self.gap = check_number("gap", gap, 0.0, self.mean)
        self.mode = check_choice("mode", mode, MODES)
        self.budget = None if budget is None else check_integer("budget", budget, 0)
        self.observation_space = gym.spaces.Discrete(self.K + 1)
        self.action_space = gym.spaces.Discrete(self.K)

    # -- dynamics ----------------------------------------------------------------------------------

    def draw_tape(self, rng: np.random.Generator, options: Mapping[str, Any]) -> Arrays:
        """The losses, and the arm that has the least of them."""
        if not isinstance(self.losses, str):
            losses = self.losses
        elif self.losses == "stochastic":
            losses = stochastic_losses(rng, self.T, self.K, self.mean, self.gap)
        else:
            losses = adversarial_losses(rng, self.T, self.K)
        return {"losses": losses, "best": np.int64(losses.sum(axis=0).argmin())}

    def initial(self, tape: Arrays) -> Arrays:
        """No arm was played (K), nothing asked for, nothing observed."""
        first = tape["losses"][:, 0]
        xp, arm = array_namespace(first), tape["best"] * 0
        return {
            "arm": arm + self.K,
            "loss": 0 * first[:, 0],
            "asked": xp.zeros(first.shape, dtype=xp.bool, device=first.device),
            "observed": xp.full_like(first, HIDDEN),
            "observations": arm,
            **self.open_books(first),
            **self.open_arms(first, self.K),
        }

    def request(self, state: Arrays, asked: Any) -> Arrays:
        """State in which the losses `asked` bool [n, K] will be shown after the coming round, with
        those asked for before."""
        return {**state, "asked": state["asked"] | asked}

    def charge(self, asked: Any) -> Any:
        """What requests bool [n, K] count against the budget at most, int64 [n]."""
        xp = array_namespace(asked)
        number = xp.sum(xp.astype(asked, xp.int64), axis=-1)
        if self.mode == "bandit":
            return xp.where(number > 0, number * 0 + 1, number)
        return xp.where(number == self.K, number - 1, number) if self.mode == "extra" else number

    def check_request(self, state: Arrays, asked: NDArray[np.bool_]) -> None:
        """ValueError unless requests bool [n, K] keep to the mode and the budget. NumPy only."""
        together = state["asked"] | asked
        if self.mode == "single" and (together.sum(axis=-1) > 1).any():
            raise ValueError("mode='single' shows one arm a round, more were asked for")
        after = state["observations"] + self.charge(together)
        if self.budget is not None and (after > self.budget).any():
            row = int((after > self.budget).argmax())
            raise ValueError(
                f"the request of sub-environment {row} makes {after[row]} observations, "
                f"the budget is {self.budget}"
            )

    def transition(self, state: Arrays, action: Any, tape: Arrays) -> Arrays:
        """One round; `action` int64 [n]."""
        losses, t = tape["losses"], state["t"]
        xp = array_namespace(losses)
        rows = xp.arange(len(t))
        losses = losses[rows, t]
        loss = losses[rows, action]
        cost = xp.astype((t > 0) & (action != state["arm"]), losses.dtype)
        regret = loss + cost - losses[rows, tape["best"]]
        played = xp.zeros_like(state["asked"])
        played[rows, action] = True
        counted = shown = state["asked"]
        if self.mode == "bandit":
            counted = shown = shown & played
        elif self.mode == "extra":
            counted, shown = shown & ~played, shown | played
        spent = xp.sum(xp.astype(counted, xp.int64), axis=-1)
        return {
            "arm": action + 0,
            "loss": loss,
            "asked": xp.zeros_like(state["asked"]),
            "observed": xp.where(shown, losses, xp.full_like(losses, HIDDEN)),
            "observations": state["observations"] + spent,
            **self.close_round(state, regret=regret, cost=cost),
            **self.pull(state, action, loss),
        }

    def reward(self, state: Arrays, action: Any, next_state: Arrays) -> Any:
        """-(loss + cost of switching), [n]."""
        return -(next_state["loss"] + next_state["last_cost"])

    def observation(self, state: Arrays) -> Any:
        """The arm played last, int64 [n]."""
        return state["arm"] + 0

    def info(self, state: Arrays) -> Arrays:
        """`t`, `regret`, `cost`, their sums `cumulative_...` [n], `observed` [n, K] and
        `observations` [n]."""
        return {
            **super().info(state),
            "observed": state["observed"] + 0,
            "observations": state["observations"] + 0,
        }

    # -- picture -----------------------------------------------------------------------------------

    def render_frame(self, state: Arrays, index: int) -> np.ndarray:
        """Mean losses of the arms where they were played, and regret with the cost of switching."""
        from .render import Bars, draw_rounds

        t, arm = int(state["t"][index]), int(state["arm"][index])
        bars = Bars(
            title="mean loss when played",
            names=[f"arm {k}" for k in range(self.K)],
            sums=state["paid"][index],
            counts=state["pulls"][index],
            chosen=arm if arm < self.K else None,
        )
        seen = int(state["observations"][index])
        note = f"{seen} observations" + ("" if self.budget is None else f" of {self.budget}")
        return draw_rounds(bars, self.curves(state, index), t, self.T, note)


class SwitchingCostBanditEnv(ArrayEnv):
    """Face 1 of `SwitchingCostBandit`: `gymnasium.make("SwitchingCostBandit-v0", T=32_000)`."""

    core: SwitchingCostBandit
    core_class: ClassVar[type[ArrayCore]] = SwitchingCostBandit

    def observe(self, arms: int | Sequence[int] | None = None) -> None:
        """Ask for losses of the coming round; its info shows them as `observed`.

        Args:
            arms: one or more; None: all that the mode allows.

        Raises:
            ValueError: an arm that does not exist, a request against the mode or beyond the budget,
                or an episode that has ended.
        """
        if self._ended:
            raise ValueError("the episode has ended, or none has begun: nothing can be observed")
        core = self.core
        if arms is not None and core.mode == "bandit":
            raise ValueError("mode='bandit' shows the arm that is played: call observe()")
        asked = np.zeros((1, core.K), dtype=bool)
        asked[0, list(range(core.K)) if arms is None else check_arms(arms, core.K)] = True
        core.check_request(self.state, asked)
        self.state = core.request(self.state, asked)


class SwitchingCostBanditVectorEnv(ArrayVectorEnv):
    """Face 2 of `SwitchingCostBandit`: `gymnasium.make_vec("SwitchingCostBandit-v0",
    num_envs=1024)`."""

    core: SwitchingCostBandit
    core_class: ClassVar[type[ArrayCore]] = SwitchingCostBandit

    def observe(self, asked: NDArray[np.bool_] | None = None) -> None:
        """As `observe` of a single environment; rows whose episode has ended ask for nothing.

        Args:
            asked: which arms, bool [num_envs, K]; None: all that the mode allows.
        """
        core, shape = self.core, (self.num_envs, self.core.K)
        if asked is not None and core.mode == "bandit":
            raise ValueError("mode='bandit' shows the arm that is played: call observe()")
        asked = np.ones(shape, dtype=bool) if asked is None else np.asarray(asked)
        if asked.shape != shape or asked.dtype != bool:
            raise ValueError(
                f"asked must be a boolean array of shape {shape}, got {asked.dtype} of shape "
                f"{asked.shape}"
            )
        asked = asked & ~self._ended[:, None]
        core.check_request(self.state, asked)
        self.state = core.request(self.state, asked)


def check_arms(arms: int | Sequence[int], number: int) -> list[int]:
    """One or more arms as a list; ValueError unless all are integers in 0 .. number - 1."""
    given = [arms] if isinstance(arms, int | np.integer) else list(arms)
    return [check_integer("arms", arm, 0, number - 1) for arm in given]
