"""`EquitableSampling-v0`: spend a budget for training data over groups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from array_api_compat import array_namespace, device
from numpy.typing import ArrayLike, NDArray

from ..base import ArrayCore, Arrays
from ..checks import check_number
from ..faces import ArrayEnv, ArrayVectorEnv
from ..spaces import FeasibleDiscrete
from .groups import per_group, pick
from .learning_curves import isoelastic, utility
from .modes import make_source

POINTS = 120  # of the curves in a picture
ROUNDING = 1e-9  # by which a quotient may miss a whole number


class EquitableSampling(ArrayCore):
    """Buy training samples for groups, batch by batch, so that their models serve all of them.

    ## Description
    Every group has a model of its own that gets better with the group's samples, at its own rate
    and its own price. A collection budget is spent in equal batches; each batch goes to one group.
    What counts is a utility of the groups' performances, in which the worse-off may weigh more.
    Neither equal nor proportional samples are best in general, and how fast a group learns has to
    be found out on the way.

    ## Observation
    `Box` of 4 G + 1 numbers, float32, in blocks: samples n_g, costs c_g, weights w_g, last
    validation performance (each [G]), and the share of the budget that is left.

    ## Action
    `Discrete(G)`: the group for which the next batch is bought. Masked where a group's samples are
    used up (`mode="table"`): `info["action_mask"]`, `env.action_masks()`.

    ## Dynamics
    After k batches of `spend` a group has n_g = `start` + floor(k spend / c_g): what is not enough
    for a whole sample is carried on. Models are trained on the first n_g samples that the tape has
    of the group.

    - `mode="curve"`: performance M_g = A_g - B_g m_g^-p_g with m_g = sum_j kappa_gj n_j; on
      validation with Gaussian noise. Tape: `noise * standard_normal((G, K + 1))`, one per number of
      batches, then the seed of learning points, `integers(2**62)`.
    - `mode="prs"`: polygenic scores. Features X are N(0, 1), or with `genotypes` standardised
      binomial(2, f) counts, f ~ U(0.05, 0.5); effects are normal, scaled to the variance h2; y = X
      effects + N(0, 1 - h2). Ridge regression with the penalty d (1 - h2) / h2; M = 1 - MSE /
      mean(y^2), floored at 0.01. Tape: a seed, `integers(2**62)`, from which for each group effects
      [d], f [d] (`genotypes`), X [pool + validation + test, d] and the noise are drawn.
    - `mode="table"`: the rows of a user's table. Each group's are split at random into rows to buy,
      validation and test. Ridge or logistic regression; M is R^2 floored at 0.01, or accuracy.
      Tape: a `permutation` of each group's rows, then the seed of learning points.

    `env.learning_points(g)` tells what can be known of a group from the data in hand: (samples,
    performance on validation), [25, 2], of models trained anew on 6 random subsets of each of 0.3,
    0.5, 0.7 and 0.85 n_g samples, and on all n_g.

    ## Reward
    U(after) - U(before) on test samples, U = sum_g w_g u(M_g), with M floored at 1e-6 and

        u(M) = M for eta = 0,   ln M for eta = 1,   (M^(1-eta) - 1) / (1 - eta) otherwise

    Info: `n`, `performances` (test), `validation`, `utilities` w_g u(M_g), [G] each, and `utility`,
    their sum.

    ## Episode end
    Terminated when less than `spend` is left, or no group has samples for another batch.

    ## Arguments
    - `mode`: "curve", "prs" or "table".
    - `budget`: above 0; `spend`: of a batch, above 0, at most the budget.
    - `start`: samples of each group at the beginning, integers >= 1; below about 50, curves that
      are fitted to learning points can come out flat.
    - `costs` of a sample, above 0; `weights`, >= 0; each a number or one per group.
    - `eta`: aversion to inequality, >= 0.
    - `population`: sizes of the groups in the population, for those who sample in proportion; by
      default equal, in a table its rows. Not part of the dynamics.
    - "curve": `asymptotes` A, `scales` B >= 0, `exponents` p > 0, a number or one per group;
      `noise` >= 0; `transfer` kappa [G, G], >= 0 with a diagonal of 1: what a sample of group j is
      worth to group g.
    - "prs": `markers` d, one per group; `heritability` h2 in (0, 1); `genotypes`; `validation` and
      `test`, samples.
    - "table": `data`, `group`, `target` (columns), `features` (columns; all others), `model`
      "ridge" or "logistic", `penalty` > 0, `validation` and `test` (shares of a group's rows).

    ## Data files
    None needed. `mode="table"` reads a CSV file with a header, a pandas data frame, a structured
    NumPy array or a mapping of columns.

    ## Sources
    W. Cai, R. Encarnacion, B. Chern, S. Corbett-Davies, M. Bogen, S. Bergman, S. Goel, Adaptive
    Sampling Strategies to Construct Equitable Training Datasets, FAccT 2022, arXiv 2202.01327 (the
    problem, and polygenic scores as its case; curves, simulator and sizes are this suite's own).

    ## Version
    v0.
    """

    arrays: ClassVar[tuple[str, ...]] = ("sizes", "room", "costs", "weights")
    action_space: FeasibleDiscrete
    horizon: int

    def __init__(
        self,
        mode: str = "curve",
        budget: float = 1_600.0,
        spend: float = 50.0,
        start: ArrayLike = 100,
        *,
        costs: ArrayLike = 1.0,
        weights: ArrayLike = 1.0,
        eta: float = 1.0,
        population: ArrayLike | None = None,
        **groups: Any,
    ) -> None:
        self.source = make_source(mode, groups)
        self.names, self.groups = self.source.names, len(self.source.names)
        self.budget, self.spend = check_number("budget", budget), check_number("spend", spend)
        if not 0 < self.spend <= self.budget:
            raise ValueError(f"budget={budget} and spend={spend}: allowed are 0 < spend <= budget")
        first = per_group("start", start, self.groups, least=1.0)
        if (first % 1).any():
            raise ValueError(f"start={start!r} must be integers of at least 1")
        self.costs = per_group("costs", costs, self.groups, above=0.0)
        self.weights = per_group("weights", weights, self.groups, least=0.0)
        self.eta = check_number("eta", eta, 0.0)
        self.population = self._population(population)
        self.horizon = int(self.budget / self.spend + ROUNDING)
        bought = np.arange(self.horizon + 1) * self.spend / self.costs[:, None]
        self.sizes = (first[:, None] + np.floor(bought + ROUNDING)).astype(np.int64)
        self.room = self.source.open(self.sizes)
        if not self.room.any():
            raise ValueError("no group has samples for a batch: less start, spend or more data")
        self.transfer = self.source.transfer
        self._points = min(self.horizon, POINTS)
        low, high = self.source.bounds
        ones, zeros = np.ones(self.groups), np.zeros(self.groups)
        top = (self.sizes[:, -1], self.costs, np.maximum(self.weights, 1.0), high * ones, [1.0])
        self.observation_space = gym.spaces.Box(
            np.concatenate([zeros, zeros, zeros, low * ones, [0.0]]).astype(np.float32),
            np.concatenate(top).astype(np.float32),
        )
        self.action_space = FeasibleDiscrete(self.groups)

    def _population(self, population: ArrayLike | None) -> NDArray[np.float64]:
        """Shares of the groups, [G]."""
        if population is None:
            shares = self.source.shares
            return np.full(self.groups, 1 / self.groups) if shares is None else shares
        sizes = per_group("population", population, self.groups, least=0.0)
        if not sizes.any():
            raise ValueError(f"population={population!r} must hold a number above 0")
        return sizes / sizes.sum()

    # -- dynamics ----------------------------------------------------------------------------------

    def draw_tape(self, rng: np.random.Generator, options: Mapping[str, Any]) -> Arrays:
        """All samples of all groups, or the noise of their curves."""
        return self.source.draw_tape(rng)

    def initial(self, tape: Arrays) -> Arrays:
        """`start` samples of each group.

        Fields: `t`, batches bought; `batches` [n, G]; `validation` and `test` performance [n, G];
        `history` [n, P + 1, G], test performance along the episode, NaN for what is to come.
        """
        xp, where = array_namespace(self.costs), {"device": device(self.costs)}
        nothing = xp.zeros((len(tape["seed"]), self.groups), dtype=xp.int64, **where)
        validation, test = self.source.scores(self.samples(nothing), nothing, tape)
        shape = (len(nothing), self._points + 1, self.groups)
        history = xp.full(shape, float("nan"), dtype=test.dtype, **where)
        history[:, 0] = test
        return {
            "t": nothing[:, 0] + 0,
            "batches": nothing,
            "validation": validation,
            "test": test,
            "history": history,
        }

    def samples(self, batches: Any) -> Any:
        """Samples of each group after so many batches, int64 [n, G]."""
        return pick(
            array_namespace(batches).broadcast_to(self.sizes, (len(batches), *self.sizes.shape)),
            batches,
        )

    def transition(self, state: Arrays, action: Any, tape: Arrays) -> Arrays:
        """Buy one batch for the groups `action` [n]."""
        xp, t = array_namespace(state["t"]), state["t"]
        rows = xp.arange(len(t), device=device(t))
        batches = xp.asarray(state["batches"], copy=True)
        batches[rows, action] += 1
        validation, test = self.source.scores(self.samples(batches), batches, tape)
        history = xp.asarray(state["history"], copy=True)
        history[rows, t * self._points // self.horizon + 1] = test
        return {
            "t": t + 1,
            "batches": batches,
            "validation": validation,
            "test": test,
            "history": history,
        }

    def reward(self, state: Arrays, action: Any, next_state: Arrays) -> Any:
        """What the batch adds to the utility on test samples, [n]."""
        return self.utility(next_state) - self.utility(state)

    def utility(self, state: Arrays) -> Any:
        """U on test samples, [n]."""
        return utility(state["test"], self.weights, self.eta)

    def terminal(self, state: Arrays) -> Any:
        """The budget does not suffice for another batch, or no group has samples for one."""
        return (state["t"] >= self.horizon) | ~self.action_masks(state).any(-1)

    def truncated(self, state: Arrays) -> Any:
        """Never."""
        return state["t"] < 0

    def action_masks(self, state: Arrays) -> Any:
        """Groups that have samples for another batch, bool [n, G]."""
        return state["batches"] < self.room

    def check_action(self, action: Any, state: Arrays) -> Any:
        """As `ArrayCore.check_action`; a group whose samples are used up is refused too."""
        groups = super().check_action(action, state)
        used_up = ~self.action_masks(state)[np.arange(len(groups)), groups]
        if used_up.any():
            row = int(used_up.argmax())
            group = int(groups[row])
            allowed = np.flatnonzero(self.action_masks(state)[row]).tolist()
            raise ValueError(
                f"action {group} of sub-environment {row}: {self.names[group]!r} has no samples "
                f"for another batch, allowed are {allowed}"
            )
        return groups

    # -- what is seen ------------------------------------------------------------------------------

    def observation(self, state: Arrays) -> Any:
        """Samples, costs, weights, validation performance and the share of the budget left."""
        xp, test = array_namespace(state["test"]), state["test"]
        left = 1 - xp.astype(state["t"], test.dtype) * (self.spend / self.budget)
        parts = (
            xp.astype(self.samples(state["batches"]), test.dtype),
            0 * test + self.costs,
            0 * test + self.weights,
            state["validation"],
            left[:, None],
        )
        return xp.astype(xp.concat(parts, axis=-1), xp.float32)

    def info(self, state: Arrays) -> Arrays:
        """`n`, `performances` (test), `validation`, `utilities`, [n, G] each, and `utility`."""
        return {
            "n": self.samples(state["batches"]),
            "performances": state["test"] + 0,
            "validation": state["validation"] + 0,
            "utilities": self.weights * isoelastic(state["test"], self.eta),
            "utility": self.utility(state),
        }

    def learning_points(self, state: Arrays, tape: Arrays, row: int, group: int) -> Any:
        """What the data in hand tell of a group: (samples, performance), [25, 2]; see the class.

        Args:
            state, tape: of a batch of episodes.
            row: the episode.
            group: the group.

        Raises:
            ValueError: there is no such group.
        """
        if not 0 <= group < self.groups:
            raise ValueError(f"group={group} is outside 0 .. {self.groups - 1}")
        own = {name: value[row] for name, value in tape.items()}
        samples = self.samples(state["batches"][row : row + 1])[0].astype(np.float64)
        return self.source.points(own, group, samples, state["batches"][row])

    # -- picture -----------------------------------------------------------------------------------

    def render_frame(self, state: Arrays, index: int) -> np.ndarray:
        """Samples of each group, and how the performances went."""
        from .render_sampling import draw_sampling

        batches = state["batches"][index : index + 1]
        return draw_sampling(
            self.names,
            self.sizes[:, 0],
            self.samples(batches)[0],
            state["history"][index],
            int(state["t"][index]),
            self.horizon,
            f"utility {float(self.utility(state)[index]):.3f}",
        )


def split_observation(observations: ArrayLike, groups: int) -> dict[str, NDArray[np.float64]]:
    """Named parts of observations [..., 4 G + 1]: `n`, `costs`, `weights`, `validation` [..., G]
    and `left` [...]."""
    values = np.asarray(observations, dtype=np.float64)
    names = ("n", "costs", "weights", "validation")
    parts = {name: values[..., g * groups : (g + 1) * groups] for g, name in enumerate(names)}
    return parts | {"left": values[..., -1]}


class EquitableSamplingEnv(ArrayEnv):
    """Face 1 of `EquitableSampling`: `gymnasium.make("EquitableSampling-v0", mode="prs")`."""

    core: EquitableSampling
    core_class: ClassVar[type[EquitableSampling]] = EquitableSampling

    def learning_points(self, group: int) -> NDArray[np.float64]:
        """What the data in hand tell of a group: (samples, performance), [25, 2].

        Raises:
            ValueError: there is no such group, or no episode.
        """
        check_begun(self)
        return self.core.learning_points(self.state, self.tape, 0, group)


class EquitableSamplingVectorEnv(ArrayVectorEnv):
    """Face 2 of `EquitableSampling`: `gymnasium.make_vec("EquitableSampling-v0", num_envs=64)`."""

    core: EquitableSampling
    core_class: ClassVar[type[EquitableSampling]] = EquitableSampling

    def learning_points(self, group: int, row: int) -> NDArray[np.float64]:
        """As the single face's, of sub-environment `row`."""
        check_begun(self)
        return self.core.learning_points(self.state, self.tape, row, group)


def check_begun(face: ArrayEnv | ArrayVectorEnv) -> None:
    """ValueError where an environment was not reset yet."""
    if not hasattr(face, "state"):
        raise ValueError("no episode has begun: reset the environment first")
