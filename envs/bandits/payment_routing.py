"""`PaymentRouting-v0`: choose how to route each payment; what was authorised is known later."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from array_api_compat import array_namespace
from numpy.typing import ArrayLike, NDArray

from ..base import ArrayCore, Arrays
from ..checks import check_choice, check_integer, check_share
from ..faces import ArrayEnv, ArrayVectorEnv
from ..spaces import FeasibleDiscrete
from .rounds import LARGEST, RoundsCore

UNAVAILABLE = ("error", "penalty")
OBSERVATIONS = ("dict", "flat")
WAITING = -1  # in what was released: nothing


class PaymentRouting(RoundsCore):
    """A contextual bandit with actions that come and go, and feedback in delayed batches.

    ## Description
    Each payment can be routed in several ways, of which some are available; it is authorised or
    not. Outcomes come in batches, from which the model of the next batch is learned.

    ## Observation
    `Dict`: "x", `Box(-m, m, (d,))`, float32, m the largest of its type, what is known of the
    payment; "mask", `MultiBinary(K)`, int8, which actions are available. With `observation="flat"`
    `Box(-m, m, (d + K,))`: x, then the mask.

    ## Action
    `Discrete(K)`, masked: `info["action_mask"]`, `env.action_masks()`. An action that is not
    available is an error, or, with `unavailable="penalty"`, pays -1.

    ## Dynamics
    The truth is of the task, from `default_rng(instance)`: W = `0.6 * standard_normal((K, d))`,
    b = `1.6 + 0.4 * standard_normal(K)`, and

        P(authorised) = 1 / (1 + exp(-(W_a . x + b_a)))

    The tape, for T + 1 payments (the last one is only shown): x = `rng.standard_normal((T + 1,
    d))`; available where `rng.random((T + 1, K))` < `availability`, and where no action is,
    that of `rng.integers(K, size=T + 1)`; authorised where `rng.random(T + 1)` < P. Payment t
    (from 0) is row t of the log; the outcomes of rows g batch .. (g + 1) batch - 1 are released
    after (g + 1 + delay) batch payments.

    ## Reward
    The sum of the outcomes released in this step, 0 in the others.

    - `info["released"]` int8 [batch]: the outcomes, 0 or 1 (-1: not available), in the order of the
      rows; -1 everywhere in a step without a release.
    - `info["released_from"]`: the first row that was released, -1 in a step without a release.
    - `info["regret"]`: the highest P of an available action less that of the action taken, of the
      payment just routed; `info["cumulative_regret"]`. For scoring, as is
      `core.success_probabilities(x)`.
    - `info["t"]`: payments routed, so that the one just routed is row t - 1.

    ## Episode end
    Terminated after T payments; batches that were not released by then never are.

    ## Arguments
    - `K`: actions, `d`: features, integers >= 1.
    - `batch`: rows in a batch, integer >= 1; `delay`: further batches, integer >= 0.
    - `availability`: probability in [0, 1].
    - `T`: payments of an episode, integer >= 1; None: 8 batches and the delay.
    - `unavailable`: "error" or "penalty".
    - `observation`: "dict" or "flat".
    - `instance`: integer >= 0.

    ## Data files
    None.

    ## Sources
    A. Vangara, A. Egg, Contextual Bandits in Payment Processing: Non-uniform Exploration and
    Supervised Learning at Adyen, OARS workshop at KDD 2025, arXiv 2412.00569 (setting; its data are
    not public, the truth here is drawn).

    ## Version
    v0.
    """

    action_space: FeasibleDiscrete

    def __init__(
        self,
        K: int = 6,
        d: int = 5,
        batch: int = 25,
        delay: int = 0,
        availability: float = 0.7,
        *,
        T: int | None = None,
        unavailable: str = "error",
        observation: str = "dict",
        instance: int = 0,
    ) -> None:
        self.K, self.d = check_integer("K", K, 1), check_integer("d", d, 1)
        self.batch = check_integer("batch", batch, 1)
        self.delay = check_integer("delay", delay, 0)
        super().__init__((8 + self.delay) * self.batch if T is None else T)
        self.availability = check_share("availability", availability)
        self.strict = check_choice("unavailable", unavailable, UNAVAILABLE) == "error"
        self.flat = check_choice("observation", observation, OBSERVATIONS) == "flat"
        truth = np.random.default_rng(check_integer("instance", instance, 0))
        self.weights = 0.6 * truth.standard_normal((self.K, self.d))
        self.intercepts = 1.6 + 0.4 * truth.standard_normal(self.K)
        size = self.d + self.K * self.flat
        box = gym.spaces.Box(-LARGEST, LARGEST, (size,), np.float32)
        self.observation_space = (
            box if self.flat else gym.spaces.Dict(x=box, mask=gym.spaces.MultiBinary(self.K))
        )
        self.action_space = FeasibleDiscrete(self.K)

    def success_probabilities(self, x: ArrayLike) -> NDArray[np.float64]:
        """The true P(authorised) of every action, [..., K], for x [..., d]. NumPy only."""
        logits = np.asarray(x, dtype=np.float64) @ self.weights.T + self.intercepts
        return np.asarray(1.0 / (1.0 + np.exp(-logits)))

    # -- dynamics ----------------------------------------------------------------------------------

    def draw_tape(self, rng: np.random.Generator, options: Mapping[str, Any]) -> Arrays:
        """T + 1 payments: x, what is available, the chance and the outcome of every action."""
        payments = self.T + 1
        x = rng.standard_normal((payments, self.d))
        available = rng.random((payments, self.K)) < self.availability
        only = rng.integers(self.K, size=payments)
        none = np.flatnonzero(~available.any(axis=1))
        available[none, only[none]] = True
        chance = self.success_probabilities(x)
        authorised = rng.random(payments)[:, None] < chance
        return {"x": x, "available": available, "chance": chance, "authorised": authorised}

    def initial(self, tape: Arrays) -> Arrays:
        """The first payment, and no outcome."""
        books = self.open_books(tape["x"])
        xp, t = array_namespace(tape["x"]), books["t"]
        kept = (len(t), (self.delay + 1) * self.batch)
        return {
            **self._payment(tape, t),
            **books,
            **self.open_arms(tape["x"], self.K),
            "outcomes": xp.zeros(kept, dtype=xp.int8, device=t.device),
            "arm": t - 1,
        }

    def _payment(self, tape: Arrays, t: Any) -> Arrays:
        """Payment t [n] of each episode."""
        rows = array_namespace(t).arange(len(t))
        return {name: value[rows, t] for name, value in tape.items()}

    def check_action(self, action: Any, state: Arrays) -> Any:
        """As `ArrayCore.check_action`; an action that is not available is refused too, unless it is
        paid for."""
        actions = super().check_action(action, state)
        if self.strict:
            refused = ~state["available"][np.arange(len(actions)), actions]
            if refused.any():
                row = int(refused.argmax())
                allowed = np.flatnonzero(state["available"][row]).tolist()
                raise ValueError(
                    f"action {actions[row]} of sub-environment {row} is not available, "
                    f"allowed are {allowed}"
                )
        return actions

    def transition(self, state: Arrays, action: Any, tape: Arrays) -> Arrays:
        """Route one payment; `action` int64 [n]."""
        xp, t = array_namespace(state["x"]), state["t"]
        rows = xp.arange(len(t))
        available, chance = state["available"], state["chance"]
        allowed = available[rows, action]
        authorised = xp.astype(state["authorised"][rows, action], xp.int8)
        outcome = xp.where(allowed, authorised, 0 * authorised - 1)
        outcomes = state["outcomes"] + 0
        outcomes[rows, t % outcomes.shape[1]] = outcome
        best = xp.max(xp.where(available, chance, 0 * chance), axis=-1)
        taken = chance[rows, action]
        regret = best - xp.where(allowed, taken, 0 * taken - 1)
        return {
            **self._payment(tape, t + 1),
            **self.close_round(state, regret=regret),
            **self.pull(state, action, xp.astype(outcome, chance.dtype)),
            "outcomes": outcomes,
            "arm": action + 0,
        }

    def _released(self, state: Arrays) -> tuple[Any, Any]:
        """Whether the last step released a batch, bool [n], and its outcomes, int8 [n, batch]."""
        xp, outcomes, t = array_namespace(state["t"]), state["outcomes"], state["t"]
        released = (t % self.batch == 0) & (t >= outcomes.shape[1])
        nothing = xp.full((len(t), self.batch), WAITING, dtype=xp.int8, device=t.device)
        if not xp.any(released):
            return released, nothing
        # The oldest batch that is kept; the next payments take its place.
        first = t // self.batch * self.batch % outcomes.shape[1]
        columns = first[:, None] + xp.arange(self.batch, device=t.device)
        oldest = outcomes[xp.arange(len(t))[:, None], columns]
        return released, xp.where(released[:, None], oldest, nothing)

    def reward(self, state: Arrays, action: Any, next_state: Arrays) -> Any:
        """The sum of the outcomes released, [n]."""
        chance = next_state["chance"]
        xp = array_namespace(chance)
        released, outcomes = self._released(next_state)
        total = xp.sum(xp.astype(outcomes, chance.dtype), axis=-1)
        return xp.where(released, total, 0 * total)

    def observation(self, state: Arrays) -> Any:
        """What is known of the payment, and which actions are available."""
        xp = array_namespace(state["x"])
        x = xp.astype(state["x"], xp.float32)
        if self.flat:
            return xp.concat((x, xp.astype(state["available"], xp.float32)), axis=-1)
        return {"x": x, "mask": xp.astype(state["available"], xp.int8)}

    def action_masks(self, state: Arrays) -> Any:
        """Which actions are available, bool [n, K]."""
        return state["available"] | False

    def info(self, state: Arrays) -> Arrays:
        """`t`, `regret`, `cumulative_regret`, `released_from` [n] and `released` [n, batch]."""
        xp, t = array_namespace(state["t"]), state["t"]
        released, outcomes = self._released(state)
        first = t - (self.delay + 1) * self.batch
        return {
            **super().info(state),
            "released": outcomes,
            "released_from": xp.where(released, first, 0 * t + WAITING),
        }

    # -- picture -----------------------------------------------------------------------------------

    def render_frame(self, state: Arrays, index: int) -> np.ndarray:
        """How often each action was authorised, which are available now, and the regret."""
        from .render import Bars, draw_rounds

        t, arm = int(state["t"][index]), int(state["arm"][index])
        available = state["available"][index]
        bars = Bars(
            title="authorised so far (bar), chance of the next payment (tick)",
            names=[f"route {k}" for k in range(self.K)],
            sums=state["paid"][index],
            counts=state["pulls"][index],
            marks=np.where(available, state["chance"][index], np.nan),
            chosen=arm if arm >= 0 else None,
            dimmed=~available,
        )
        waiting = t - max(0, (t // self.batch - self.delay) * self.batch)
        note = f"{waiting} outcomes not known yet"
        return draw_rounds(bars, self.curves(state, index), t, self.T, note)


class PaymentRoutingEnv(ArrayEnv):
    """Face 1 of `PaymentRouting`: `gymnasium.make("PaymentRouting-v0", batch=2_000)`."""

    core_class: ClassVar[type[ArrayCore]] = PaymentRouting


class PaymentRoutingVectorEnv(ArrayVectorEnv):
    """Face 2 of `PaymentRouting`: `gymnasium.make_vec("PaymentRouting-v0", num_envs=1024)`."""

    core_class: ClassVar[type[ArrayCore]] = PaymentRouting
