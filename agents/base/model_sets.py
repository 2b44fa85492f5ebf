"""Sets of models of one finite task, of which the first is the nominal one."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...envs.tabular.finite_mdp import FiniteMDP

Array = NDArray[np.float64]


def draw_models(P: Array, samples: int, confidence: float, generator: np.random.Generator) -> Array:
    """Models near a given one, [samples, S, A, S]: each row is drawn from Dirichlet(confidence P).

    Args:
        P: transitions [S, A, S]; what is impossible stays so.
        samples: how many, at least 1.
        confidence: observations of each pair that the model is worth, at least 1.
        generator: draws gamma variates, samples x S x A x S.
    """
    weights = generator.standard_gamma(confidence * P, (samples, *P.shape))
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))


class World(NamedTuple):
    """A set of models of one task; the nominal one is the first.

    Attributes:
        models: transitions [M, S, A, S].
        rewards: [M, S, A].
        start: probabilities of the first state [S].
        continues: False in the states in which the task has ended [S].
    """

    models: Array
    rewards: Array
    start: Array
    continues: NDArray[np.bool_]

    @classmethod
    def of(cls, core: FiniteMDP, others: Array, rewards: Array | None = None) -> World:
        """The world of `core` with other transitions [M, S, A, S] beside its own.

        Raises:
            ValueError: shapes do not fit.
        """
        nominal = core.P[0]
        if others.shape[1:] != nominal.shape:
            raise ValueError(
                f"models has shape {others.shape}, with this environment it must be "
                f"{('M', *nominal.shape)}"
            )
        models = np.concatenate([nominal[None], others])
        if rewards is None:
            tables = core.tables()
            paid = tables["low"]
            if tables["high"] is not None:
                paid = paid + (tables["high"] - paid) * tables["q"]
            rewards = (models * paid[0]).sum(axis=-1)
        elif rewards.shape not in (nominal.shape[:2], models.shape[:3]):
            raise ValueError(
                f"rewards has shape {rewards.shape}, allowed: {nominal.shape[:2]} and "
                f"{models.shape[:3]}"
            )
        shared = np.broadcast_to(rewards, models.shape[:3])
        alive = ~np.isin(np.arange(core.states), core.terminal_states)
        return cls(models, shared, core.d0, alive)
