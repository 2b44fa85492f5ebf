"""`OneSidedFeedback-v0`: accept or reject people, see the labels of those accepted, be audited."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from array_api_compat import array_namespace
from numpy.typing import ArrayLike

from ..base import ArrayCore, Arrays
from ..checks import check_choice, check_integer, check_number
from ..faces import ArrayEnv, ArrayVectorEnv
from .auditors import AuditorPanel, Dissimilarity, called_distances, scaled_distances
from .people import check_acceptance, check_data, expected_error, mean
from .rounds import RoundsCore

PANELS = ("fixed", "changing")
FEEDBACK = ("one_sided", "full")
STRICTNESS = (0.5, 2.0)  # range of kappa


class OneSidedFeedback(RoundsCore):
    """Accept or reject k people a round; only of those accepted does the label become known.

    ## Description
    A lender learns who pays back among those who get a loan. A panel of auditors, who may disagree,
    watches whether people who are alike are treated alike. The two groups pay back at different
    scores: the most accurate policy treats equal scores differently, and the panel objects.

    ## Observation
    `Box(low, high, (k * d,))`, float32: the people of the coming round, one after the other, with
    d = 2 numbers each: score x in [0, 1], group g in {0, 1}. Contexts of your own: their range.

    ## Action
    `MultiBinary(k)`: 1 accepts.

    ## Dynamics
    x ~ U(0, 1), g a fair coin, and with b = `thresholds`

        P(y = 1) = 1 / (1 + exp(-slope (x - b_g)))

    The tape, for T + 1 rounds (the last one is only shown): x = `rng.random((T + 1, k))`, g =
    `rng.integers(2, size=(T + 1, k))`, y = `rng.random((T + 1, k))` < P(y = 1), and with
    `panel="changing"` kappa = `rng.uniform(0.5, 2, (T + 1, m))`.

    Before a round, `env.audit(pi)` tells the panel the probability with which each person would be
    accepted; without it the panel goes by the decisions, 0 or 1. Auditor j objects to an ordered
    pair of people when

        pi(x) - pi(x') > d_j(x, x') + alpha,   d_j(x, x') = kappa_j |x - x'|

    whatever the groups. If at least a share gamma of the m auditors objects to the same pair, the
    panel reports one: that with the largest share, of equal ones the lowest indices.

    ## Reward
    Minus the mean over people of what the lender knows of its cost: 1 - y of those accepted, 1/2 of
    those rejected. It is -1/2 of the share misclassified, up to a constant that no decision
    changes. Of the last round,

    - `info["labels"]` [k]: 0 or 1, -1 of those rejected (`feedback="full"`: of nobody);
    - `info["pair"]` [2]: the people reported, -1 for none; `info["violation"]` and, as a float,
      `info["cost"]`: 1 if there is a report, else 0;
    - `info["share"]`: the largest share of auditors who object to one pair;
    - `info["error"]`: share misclassified by the decisions, `info["policy_error"]` by what was
      audited, both expected over labels;
    - `info["regret"]`: `error` less the least possible one, sum of min(P, 1 - P) / k.

    `cumulative_cost` and `cumulative_regret` are their sums. Errors and regrets are for scoring.

    ## Episode end
    Terminated after T rounds.

    ## Arguments
    - `k`: people a round, integer >= 1, by default 4; `T`: rounds, integer >= 1, by default 200.
    - `alpha`: >= 0; `gamma`: in (0, 1]; `m`: auditors, integer >= 1, by default 5.
    - `panel`: "fixed" (kappa = `default_rng(instance).uniform(0.5, 2, m)`) or "changing".
    - `auditors`: a panel of your own: m numbers kappa_j >= 0, or m functions d_j of contexts x, x'
      [..., d] that broadcast and return [...], with what the array API has.
    - `feedback`: "one_sided" or "full", of a learner that sees all labels.
    - `thresholds`: two numbers; `slope`: number >= 0.
    - `contexts` [T, k, d], `labels` [T, k] of 0 and 1: both, in place of drawn ones; the chance of
      a label is then the label itself, kappa_j |x - x'| takes x from the first column, and the last
      round is shown twice.
    - `instance`: integer >= 0.

    `vector.audit(pi)` takes [num_envs, k]. ValueError outside [0, 1].

    ## Data files
    None.

    ## Sources
    Y. Bechavod, A. Roth, Individually Fair Learning with One-Sided Feedback, ICML 2023,
    arXiv 2206.04475 (setting; it has no experiments).

    ## Version
    v0.
    """

    kept = ("regret", "cost")
    observation_space: gym.spaces.Box
    action_space: gym.spaces.MultiBinary

    def __init__(
        self,
        k: int | None = None,
        T: int | None = None,
        *,
        alpha: float = 0.2,
        gamma: float = 0.6,
        m: int | None = None,
        panel: str = "fixed",
        auditors: Sequence[float] | Sequence[Dissimilarity] | None = None,
        feedback: str = "one_sided",
        thresholds: tuple[float, float] = (0.35, 0.65),
        slope: float = 10.0,
        contexts: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        instance: int = 0,
    ) -> None:
        self.contexts, self.labels = check_data(contexts, labels)
        if self.contexts is not None:
            for name, given, found in zip("Tk", (T, k), self.contexts.shape, strict=False):
                if given is not None and given != found:
                    raise ValueError(
                        f"{name}={given}, but contexts has shape {list(self.contexts.shape)}"
                    )
            T, k = self.contexts.shape[:2]
        super().__init__(200 if T is None else T)
        self.k = check_integer("k", 4 if k is None else k, 1)
        self.panel = AuditorPanel(alpha, gamma)
        self.changing = check_choice("panel", panel, PANELS) == "changing"
        self.one_sided = check_choice("feedback", feedback, FEEDBACK) == "one_sided"
        self.instance = check_integer("instance", instance, 0)
        self._set_auditors(auditors, m)
        if len(thresholds) != 2:
            raise ValueError(f"thresholds={thresholds} must be two numbers, one for each group")
        self.thresholds = np.array([check_number("thresholds", value) for value in thresholds])
        self.slope = check_number("slope", slope, 0.0)
        low, high = np.zeros(2), np.ones(2)
        if self.contexts is not None:
            low, high = (bound(self.contexts, axis=(0, 1)) for bound in (np.min, np.max))
        self.d = len(low)
        bounds = [np.tile(bound, self.k).astype(np.float32) for bound in (low, high)]
        self.observation_space = gym.spaces.Box(bounds[0], bounds[1], dtype=np.float32)
        self.action_space = gym.spaces.MultiBinary(self.k)

    def _set_auditors(
        self, auditors: Sequence[float] | Sequence[Dissimilarity] | None, m: int | None
    ) -> None:
        """`auditors`: functions, if any; `kappas`: numbers of a fixed panel, if any."""
        self.auditors: tuple[Dissimilarity, ...] = ()
        self.kappas = np.zeros(0)
        if auditors is None:
            self.m = check_integer("m", 5 if m is None else m, 1)
            if not self.changing:
                self.kappas = np.random.default_rng(self.instance).uniform(*STRICTNESS, self.m)
            return
        given: list[Any] = list(auditors)
        if self.changing:
            raise ValueError("auditors of your own are a fixed panel, got panel='changing'")
        if not given or (m is not None and m != len(given)):
            raise ValueError(f"got {len(given)} auditors, m={m}: at least one, and m of them")
        self.m = len(given)
        if all(callable(auditor) for auditor in given):
            self.auditors = tuple(given)
        else:
            self.kappas = np.array([check_number("auditors", kappa, 0.0) for kappa in given])

    # -- dynamics ----------------------------------------------------------------------------------

    def draw_tape(self, rng: np.random.Generator, options: Mapping[str, Any]) -> Arrays:
        """People of T + 1 rounds: contexts, the chance of label 1, and labels; and kappa."""
        if self.contexts is None or self.labels is None:
            shape = (self.T + 1, self.k)
            scores, groups = rng.random(shape), rng.integers(2, size=shape)
            contexts = np.stack([scores, groups], axis=-1)
            logits = self.slope * (scores - self.thresholds[groups])
            chance = 1.0 / (1.0 + np.exp(-logits))
            labels = (rng.random(shape) < chance).astype(np.int64)
        else:
            contexts = np.concatenate([self.contexts, self.contexts[-1:]])
            labels = np.concatenate([self.labels, self.labels[-1:]])
            chance = labels.astype(np.float64)
        tape = {"contexts": contexts, "chance": chance, "labels": labels, "kappas": self.kappas}
        if self.changing:
            tape["kappas"] = rng.uniform(*STRICTNESS, (self.T + 1, self.m))
        return tape

    def _people(self, tape: Arrays, t: Any) -> Arrays:
        """The people of round t [n], and who audits."""
        rows = array_namespace(t).arange(len(t))
        names = ("contexts", "chance", "labels")
        kappas = tape["kappas"][rows, t] if self.changing else tape["kappas"] + 0
        return {**{name: tape[name][rows, t] for name in names}, "kappas": kappas}

    def initial(self, tape: Arrays) -> Arrays:
        """The first people; nothing is known of earlier ones."""
        books = self.open_books(tape["chance"])
        people = self._people(tape, books["t"])
        chance, labels = people["chance"], people["labels"]
        xp = array_namespace(chance)
        return {
            **people,
            **books,
            "acceptance": xp.full_like(chance, float("nan")),
            "judged": people["contexts"] + 0,
            "audited": xp.full_like(chance, float("nan")),
            "decisions": 0 * labels,
            "known": xp.full_like(labels, -1),
            "pair": xp.zeros((len(labels), 2), dtype=labels.dtype, device=labels.device) - 1,
            "share": 0 * chance[:, 0],
            "errors": xp.zeros((len(chance), 2), dtype=chance.dtype, device=chance.device),
            "paid": 0 * chance[:, 0],
        }

    def announce(self, state: Arrays, acceptance: Any) -> Arrays:
        """State in which the panel will audit `acceptance`, probabilities [n, k]."""
        return {**state, "acceptance": acceptance}

    def transition(self, state: Arrays, action: Any, tape: Arrays) -> Arrays:
        """One round; `action` int64 [n, k]."""
        chance, labels, announced = state["chance"], state["labels"], state["acceptance"]
        xp = array_namespace(chance)
        accepted = action == 1
        decisions = xp.astype(accepted, chance.dtype)
        acceptance = xp.where(xp.isnan(announced), decisions, announced)
        pair, share = self.panel.report(acceptance, self._distances(state))
        least = mean(xp.where(chance < 0.5, chance, 1 - chance))
        error = expected_error(decisions, chance)
        violation = xp.astype(pair[:, 0] >= 0, chance.dtype)
        label = xp.astype(labels, chance.dtype)
        cost = xp.where(accepted, 1 - label, xp.full_like(label, 0.5))
        return {
            **self._people(tape, state["t"] + 1),
            **self.close_round(state, regret=error - least, cost=violation),
            "acceptance": xp.full_like(chance, float("nan")),
            "judged": state["contexts"] + 0,
            "audited": acceptance + 0,
            "decisions": action + 0,
            "known": xp.where(accepted, labels, -1) if self.one_sided else labels + 0,
            "pair": pair,
            "share": share,
            "errors": xp.stack((error, expected_error(acceptance, chance)), axis=-1),
            "paid": -mean(cost),
        }

    def _distances(self, state: Arrays) -> Any:
        """How far apart each auditor finds the present people, [n, m, k, k]."""
        if self.auditors:
            return called_distances(state["contexts"], self.auditors)
        return scaled_distances(state["contexts"][:, :, 0], state["kappas"])

    def reward(self, state: Arrays, action: Any, next_state: Arrays) -> Any:
        """Minus the mean cost that the lender knows of, [n]."""
        return next_state["paid"] + 0

    def observation(self, state: Arrays) -> Any:
        """The people of the coming round, float32 [n, k d]."""
        people = state["contexts"]
        xp = array_namespace(people)
        return xp.astype(xp.reshape(people, (len(people), self.k * self.d)), xp.float32)

    def info(self, state: Arrays) -> Arrays:
        """What the last round came to; see the class."""
        xp = array_namespace(state["pair"])
        return {
            **super().info(state),
            "labels": state["known"] + 0,
            "pair": state["pair"] + 0,
            "violation": xp.astype(state["pair"][:, 0] >= 0, xp.int64),
            "share": state["share"] + 0,
            "error": state["errors"][:, 0] + 0,
            "policy_error": state["errors"][:, 1] + 0,
        }

    # -- picture -----------------------------------------------------------------------------------

    def render_frame(self, state: Arrays, index: int) -> np.ndarray:
        """The people of the last round, what the panel reported, and regret with violations."""
        from .render import draw_people

        people = state["judged"][index]
        return draw_people(
            people[:, 0],
            state["audited"][index],
            people[:, 1] if people.shape[1] > 1 else np.zeros(self.k),
            state["decisions"][index] == 1,
            state["pair"][index],
            self.curves(state, index),
            int(state["t"][index]),
            self.T,
        )


class OneSidedFeedbackEnv(ArrayEnv):
    """Face 1 of `OneSidedFeedback`: `gymnasium.make("OneSidedFeedback-v0", k=4)`."""

    core: OneSidedFeedback
    core_class: ClassVar[type[ArrayCore]] = OneSidedFeedback

    def audit(self, pi: ArrayLike) -> None:
        """Tell the panel with which probability each person of the coming round is accepted.

        Args:
            pi: [k], in [0, 1].

        Raises:
            ValueError: another shape or range, or an episode that has ended.
        """
        if self._ended:
            raise ValueError("the episode has ended, or none has begun: nothing can be audited")
        acceptance = check_acceptance(pi, (self.core.k,))
        self.state = self.core.announce(self.state, acceptance[None])


class OneSidedFeedbackVectorEnv(ArrayVectorEnv):
    """Face 2 of `OneSidedFeedback`: `gymnasium.make_vec("OneSidedFeedback-v0", num_envs=1024)`."""

    core: OneSidedFeedback
    core_class: ClassVar[type[ArrayCore]] = OneSidedFeedback

    def audit(self, pi: ArrayLike) -> None:
        """As `audit` of a single environment; pi [num_envs, k]."""
        acceptance = check_acceptance(pi, (self.num_envs, self.core.k))
        self.state = self.core.announce(self.state, acceptance)
