"""Sets of transition models, and the robust Bellman backup over each of them.

A set is given to the functions of `robust.py`; batches of decision processes are leading axes.
Here the adversary sees the action, and the best policy is deterministic:

    Rectangular         every (s, a) has a ball of its own: L1, TV, KL, chi-square
    FactorRectangular   transitions are mixtures of d factors, each with a ball of its own
    Family              finitely many models, chosen anew for every (s, a)

`robust_state_sets.py` holds the sets whose adversary chooses per state.

Sources: G. Iyengar, Robust dynamic programming (Mathematics of Operations Research, 2005);
W. Wiesemann, D. Kuhn, B. Rustem, Robust Markov decision processes (Mathematics of Operations
Research, 2013; rectangularity); X. Ma et al., Distributionally robust offline reinforcement
learning with linear function approximation (2022, arXiv 2209.06620; factors).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ..probabilities import check_probabilities, check_sums
from .robust_balls import Ball, Floats, WorstCase, l1_ball
from .tables import greedy

Choice = Callable[[Floats], tuple[Floats, Floats]]


class Backup(NamedTuple):
    """One robust Bellman backup.

    Attributes:
        values: values of the states [..., S].
        policy: probabilities of the actions [..., S, A].
        P: the model with which the adversary answers [..., S, A, S].
    """

    values: Floats
    policy: Floats
    P: Floats


def hard(action_values: Floats) -> tuple[Floats, Floats]:
    """Value [..., S] and one-hot policy of the best action [..., S, A]; of equals the lowest."""
    return action_values.max(axis=-1), np.eye(action_values.shape[-1])[greedy(action_values)]


def soft(action_values: Floats, reference: ArrayLike, eta: float) -> tuple[Floats, Floats]:
    """max over policies of sum_a pi Q - KL(pi || reference) / eta, and the policy that attains it.

    The value is log(sum_a reference exp(eta Q)) / eta, the policy proportional to
    reference exp(eta Q). `partial(soft, reference=..., eta=...)` is a `choose` of `robust.py`.

    Args:
        action_values: Q [..., S, A].
        reference: probabilities of a reference policy, broadcastable to Q; an action of
            probability 0 is never taken.
        eta: inverse temperature, positive and finite.

    Raises:
        ValueError: eta is out of range, or `reference` holds no distributions.
    """
    if not 0 < eta < np.inf:
        raise ValueError(f"eta={eta} must be positive and finite")
    weights = np.asarray(reference, dtype=np.float64)
    check_probabilities("reference", weights)
    check_sums("reference", weights)
    weights = np.broadcast_to(weights, action_values.shape)
    best = np.where(weights > 0, action_values, -np.inf).max(axis=-1, keepdims=True)
    exponent = np.where(weights > 0, eta * (action_values - best), 0.0)
    policy = weights * np.exp(exponent)
    excess = (weights * np.expm1(exponent)).sum(axis=-1)  # keeps its digits where eta is small
    policy /= policy.sum(axis=-1, keepdims=True)
    return best[..., 0] + np.log1p(excess) / eta, policy


class UncertaintySet(ABC):
    """Models of which an adversary chooses the worst.

    Attributes:
        shape: (..., S, A), batch axes, states and actions.
    """

    shape: tuple[int, ...]

    @abstractmethod
    def optimal(self, R: Floats, values: Floats, gamma: float, choose: Choice = hard) -> Backup:
        """The best policy against the worst model: max over policies of min over models.

        Args:
            R: rewards [..., S, A].
            values: values of the next states [..., S].
            gamma: discount factor.
            choose: the maximisation, from action values to values and a policy.
        """

    @abstractmethod
    def under(self, policy: Floats, R: Floats, values: Floats, gamma: float) -> Backup:
        """The worst model for a given policy [..., S, A]; other arguments as in `optimal`."""


class ActionRectangular(UncertaintySet):
    """A set whose adversary chooses per (s, a)."""

    @abstractmethod
    def worst_case(self, values: Floats) -> WorstCase:
        """min of P(. | s, a) . values [..., S, A] and the P [..., S, A, S] that attains it."""

    def optimal(self, R: Floats, values: Floats, gamma: float, choose: Choice = hard) -> Backup:
        """As `UncertaintySet.optimal`."""
        worst = self.worst_case(values)
        return Backup(*choose(R + gamma * worst.value), worst.distribution)

    def under(self, policy: Floats, R: Floats, values: Floats, gamma: float) -> Backup:
        """As `UncertaintySet.under`."""
        worst = self.worst_case(values)
        return Backup((policy * (R + gamma * worst.value)).sum(axis=-1), policy, worst.distribution)


class Rectangular(ActionRectangular):
    """A ball around every row of the nominal model.

    Args:
        P: nominal transitions [..., S, A, S].
        radius: radii, broadcastable to [..., S, A]; give 0 where a state must stay what it is, as
            the end of an episode.
        ball: a function of `robust_balls`; `partial(l1_ball, allowed=P > 0)` keeps to the nominal
            support.
    """

    def __init__(self, P: ArrayLike, radius: ArrayLike, ball: Ball = l1_ball) -> None:
        self.P = check_model("P", P)
        self.radius = np.asarray(radius, dtype=np.float64)
        self.ball = ball
        self.shape = np.broadcast_shapes(self.P.shape[:-1], self.radius.shape)

    def worst_case(self, values: Floats) -> WorstCase:
        """As `ActionRectangular.worst_case`."""
        return self.ball(self.P, values[..., None, None, :], self.radius)


class FactorRectangular(ActionRectangular):
    """P(. | s, a) = sum_i features_i(s, a) factor_i(.), with a ball around every factor.

    Args:
        features: weights of the factors [..., S, A, d], nonnegative, with sum 1.
        factors: nominal distributions of the next state [..., d, S].
        radius: radii, broadcastable to [..., d].
        ball: a function of `robust_balls`.
    """

    def __init__(
        self, features: ArrayLike, factors: ArrayLike, radius: ArrayLike, ball: Ball = l1_ball
    ) -> None:
        self.features = np.asarray(features, dtype=np.float64)
        self.factors = np.asarray(factors, dtype=np.float64)
        if (
            self.features.ndim < 3
            or self.factors.ndim < 2
            or (self.factors.shape[-2:] != (self.features.shape[-1], self.features.shape[-3]))
        ):
            raise ValueError(
                f"features {self.features.shape} and factors {self.factors.shape} must be "
                "[..., S, A, d] and [..., d, S]"
            )
        for name, table in (("features", self.features), ("factors", self.factors)):
            check_probabilities(name, table)
            check_sums(name, table)
        self.radius, self.ball = np.asarray(radius, dtype=np.float64), ball
        batch = np.broadcast_shapes(
            self.features.shape[:-3], self.factors.shape[:-2], self.radius.shape[:-1]
        )
        self.shape = (*batch, *self.features.shape[-3:-1])

    def worst_case(self, values: Floats) -> WorstCase:
        """As `ActionRectangular.worst_case`."""
        worst = self.ball(self.factors, values[..., None, :], self.radius)
        return WorstCase(
            (self.features @ worst.value[..., None, :, None])[..., 0],
            self.features @ worst.distribution[..., None, :, :],
        )


class Family(ActionRectangular):
    """Finitely many models, one chosen per (s, a): the rectangular closure of the family.

    Args:
        models: transitions [M, ..., S, A, S].
    """

    def __init__(self, models: ArrayLike) -> None:
        self.models = check_models(models)
        self.shape = self.models.shape[1:-1]

    def worst_case(self, values: Floats) -> WorstCase:
        """As `ActionRectangular.worst_case`; of equally bad models the first."""
        models = with_axes(self.models, values.ndim - 1)
        expected = (models @ values[..., None, :, None])[..., 0]
        worst = expected.argmin(axis=0)[None]
        chosen = np.take_along_axis(expected, worst, axis=0)[0]
        models = np.broadcast_to(models, (*expected.shape, models.shape[-1]))
        return WorstCase(chosen, np.take_along_axis(models, worst[..., None], axis=0)[0])


def check_model(name: str, P: ArrayLike) -> Floats:
    """Transitions as floats [..., S, A, S]; ValueError where they are none."""
    table = np.asarray(P, dtype=np.float64)
    if table.ndim < 3 or table.shape[-3] != table.shape[-1] or 0 in table.shape:
        raise ValueError(f"{name} has shape {table.shape}, it must be [..., S, A, S]")
    check_probabilities(name, table)
    check_sums(name, table)
    return table


def check_models(models: ArrayLike) -> Floats:
    """Transitions of a family as floats [M, ..., S, A, S]; ValueError where they are none."""
    table = check_model("models", models)
    if table.ndim < 4:
        raise ValueError(f"models has shape {table.shape}, it must be [M, ..., S, A, S]")
    return table


def with_axes(models: Floats, batch: int) -> Floats:
    """Models [M, ..., S, A, S] with at least `batch` axes between the first and the last three."""
    missing = max(batch - (models.ndim - 4), 0)
    return models.reshape(models.shape[0], *(1,) * missing, *models.shape[1:])
