"""Sets of transition models whose adversary chooses per state, for all actions together.

    StateRectangularL1       one L1 budget per state, shared by its actions
    StateRectangularFamily   finitely many models, chosen anew for every state

The adversary answers the policy of a state, so the best policy may have to randomise.

Sources: W. Wiesemann, D. Kuhn, B. Rustem, Robust Markov decision processes (Mathematics of
Operations Research, 2013); C. Ho, M. Petrik, W. Wiesemann, Fast Bellman updates for robust MDPs
(ICML 2018; the L1 backup).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .matrix_games import solve_matrix_games
from .robust_balls import Floats, l1_ball, l1_ball_joint
from .robust_sets import Backup, Choice, UncertaintySet, check_model, check_models, hard, with_axes

ROUNDING = 1e-12  # relative to the action values: what mass must gain to be worth moving


class StateRectangular(UncertaintySet):
    """A set whose adversary chooses per state, for all actions together."""

    def _refuse_other_than_hard(self, choose: Choice) -> None:
        if choose is not hard:
            raise ValueError(
                "a state-rectangular set is optimised together with the policy: choose must be hard"
            )


class StateRectangularL1(StateRectangular):
    """sum_a |P(. | s, a) - nominal|_1 <= radius(s).

    Args:
        P: nominal transitions [..., S, A, S].
        radius: budgets, broadcastable to [..., S]; for total variation give twice its budget.
    """

    def __init__(self, P: ArrayLike, radius: ArrayLike) -> None:
        self.P = check_model("P", P)
        self.radius = np.asarray(radius, dtype=np.float64)
        if not (self.radius >= 0).all():
            raise ValueError("radius must be a number >= 0")
        states = np.broadcast_shapes(self.P.shape[:-2], self.radius.shape)
        self.shape = (*states, self.P.shape[-2])

    def optimal(self, R: Floats, values: Floats, gamma: float, choose: Choice = hard) -> Backup:
        """As `UncertaintySet.optimal`.

        The value u is the least level to which the budget suffices to press every action. What
        that takes is piecewise linear in u: a binary search over its kinks finds the piece, whose
        slopes are the policy that leaves the adversary indifferent.
        """
        self._refuse_other_than_hard(choose)
        action_values = R + gamma * (self.P @ values[..., None, :, None])[..., 0]
        order = np.argsort(-values, axis=-1, kind="stable")[..., None, None, :]
        falling = np.take_along_axis(values[..., None, None, :], order, axis=-1)
        rank = max(self.P.ndim, order.ndim)
        order, model = order[(None,) * (rank - order.ndim)], self.P[(None,) * (rank - self.P.ndim)]
        falling = falling[(None,) * (rank - falling.ndim)]
        rate = gamma * (falling - falling[..., -1:])  # what a unit of mass, moved, takes off
        size = np.abs(action_values).max(axis=-1) + rate[..., 0].max(axis=-1)
        useful = rate > ROUNDING * size[..., None, None]
        mass = np.where(useful, np.take_along_axis(model, order, axis=-1), 0.0)
        drops = np.cumsum(rate * mass, axis=-1)
        before, rate = drops - rate * mass, np.where(useful, rate, np.inf)

        def needed(level: Floats) -> Floats:
            """L1 distances [..., S, A] that press the actions to `level` [..., S] or to their
            least."""
            drop = np.maximum(action_values - level[..., None], 0.0)[..., None]
            return 2 * np.clip((drop - before) / rate, 0.0, mass).sum(axis=-1)

        top = action_values.max(axis=-1)
        least = action_values - drops[..., -1]
        bottom = least.max(axis=-1)
        kinks = (action_values[..., None] - drops).reshape(*top.shape, -1)
        kinks = np.concatenate([bottom[..., None], kinks, action_values], axis=-1)
        kinks = np.sort(np.clip(kinks, bottom[..., None], top[..., None]), axis=-1)
        budget = np.broadcast_to(self.radius, top.shape)
        low, high = np.zeros(top.shape, int), np.full(top.shape, kinks.shape[-1] - 1)
        while (low < high).any():  # the first kink for which the budget suffices
            middle = (low + high) // 2
            enough = needed(_entry(kinks, middle)).sum(axis=-1) <= budget
            low, high = np.where(enough, low, middle + 1), np.where(enough, middle, high)
        upper, lower = _entry(kinks, low), _entry(kinks, np.maximum(low - 1, 0))
        # Between two kinks all is linear, and the middle is far from their rounding.
        centre = (lower + upper) / 2
        drop = np.maximum(action_values - centre[..., None], 0.0)[..., None]
        slopes = 2 * np.where((drop > before) & (drop < drops), 1 / rate, 0.0).sum(axis=-1)
        total = slopes.sum(axis=-1)
        inner = (low > 0) & (total > 0) & (budget > 0)  # else it presses everything, or nothing
        distances = needed(np.where(inner, centre, upper))
        spare = np.where(inner, budget - distances.sum(axis=-1), 0.0)
        further = spare / np.where(inner, total, 1.0)
        level = np.where(inner, np.clip(centre - further, lower, upper), upper)
        distances = np.maximum(distances + further[..., None] * slopes, 0.0)
        spent = distances.sum(axis=-1)
        distances *= np.where(spent > budget, budget / np.where(spent > 0, spent, 1.0), 1.0)[
            ..., None
        ]
        pure = hard(np.where((budget > 0)[..., None], least, action_values))[1]
        policy = np.where(inner[..., None], slopes / np.where(inner, total, 1.0)[..., None], pure)
        worst = l1_ball(self.P, values[..., None, None, :], distances)
        return Backup(level, policy, worst.distribution)

    def under(self, policy: Floats, R: Floats, values: Floats, gamma: float) -> Backup:
        """As `UncertaintySet.under`."""
        worst = l1_ball_joint(self.P, values[..., None, :], self.radius, policy)
        return Backup((policy * R).sum(axis=-1) + gamma * worst.value, policy, worst.distribution)


class StateRectangularFamily(StateRectangular):
    """Finitely many models, one chosen per state: a matrix game in every state.

    Args:
        models: transitions [M, ..., S, A, S].
    """

    def __init__(self, models: ArrayLike) -> None:
        self.models = check_models(models)
        self.shape = self.models.shape[1:-1]

    def optimal(self, R: Floats, values: Floats, gamma: float, choose: Choice = hard) -> Backup:
        """As `UncertaintySet.optimal`; the model is the adversary's mixture of the family."""
        self._refuse_other_than_hard(choose)
        models = with_axes(self.models, values.ndim - 1)
        action_values = R + gamma * (models @ values[..., None, :, None])[..., 0]
        game = solve_matrix_games(np.moveaxis(action_values, 0, -1))
        mixture = np.moveaxis(game.column, -1, 0)[..., None, None]
        return Backup(game.value, game.row, (mixture * models).sum(axis=0))

    def under(self, policy: Floats, R: Floats, values: Floats, gamma: float) -> Backup:
        """As `UncertaintySet.under`; of equally bad models the first."""
        models = with_axes(self.models, values.ndim - 1)
        action_values = R + gamma * (models @ values[..., None, :, None])[..., 0]
        totals = (policy * action_values).sum(axis=-1)
        worst = totals.argmin(axis=0)[None]
        models = np.broadcast_to(models, (*action_values.shape, models.shape[-1]))
        chosen = np.take_along_axis(models, worst[..., None, None], axis=0)[0]
        return Backup(np.take_along_axis(totals, worst, axis=0)[0], policy, chosen)


def _entry(table: Floats, index: NDArray[np.int64]) -> Floats:
    """table[..., index] [...]."""
    return np.take_along_axis(table, index[..., None], axis=-1)[..., 0]
