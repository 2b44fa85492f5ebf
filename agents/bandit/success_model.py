"""How likely each action is to succeed: a logistic model for each, and its policy."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import Schedule

from ..base.stepping import Mask, check_discrete

Array = NDArray[np.float64]
FEWEST_ROWS = 5  # of an action, for a model of its own
HALVINGS = 30  # of a Newton step that leads uphill


def success_probabilities(coefficients: Array, contexts: Array) -> Array:
    """s(x, a) of every action, [n, K].

    Args:
        coefficients: weights, then the intercept, [K, d + 1].
        contexts: [n, d].
    """
    logits = contexts @ coefficients[:, :-1].T + coefficients[:, -1]
    found: Array = 1.0 / (1.0 + np.exp(-np.clip(logits, -500, 500)))
    return found


def fit_logistic(
    contexts: Array,
    actions: NDArray[np.int64],
    outcomes: Array,
    number: int,
    *,
    weights: Array | None = None,
    penalty: float = 1.0,
    steps: int = 25,
) -> Array:
    """Logistic regressions, one for each action on its own rows, by damped Newton steps.

    Minimises the weighted sum of the log-losses plus penalty / 2 times the squared distance from
    (0, logit of the batch's mean outcome): an action with few rows is like the others. One with
    fewer than five has the mean outcome whatever the context.

    Args:
        contexts: [N, d].
        actions: [N].
        outcomes: 0 or 1, both of them occur, [N].
        number: K, of actions.
        weights: of the rows, [N]; None: 1.
        penalty: > 0.
        steps: of Newton's method, at most.

    Returns:
        Weights and intercepts, [K, d + 1].
    """
    rows = np.column_stack([contexts, np.ones(len(contexts))])
    own = (actions == np.arange(number)[:, None]).astype(np.float64)
    own *= own.sum(axis=1, keepdims=True) >= FEWEST_ROWS
    if weights is not None:
        own *= weights
    mean = np.average(outcomes, weights=weights)
    centre = np.zeros((number, rows.shape[1]))
    centre[:, -1] = np.log(mean / (1 - mean))

    def objective(at: Array) -> Array:
        logits = at @ rows.T
        losses = np.logaddexp(0.0, logits) - outcomes * logits
        total: Array = (own * losses).sum(axis=1) + penalty / 2 * ((at - centre) ** 2).sum(axis=1)
        return total

    found, value = centre.copy(), objective(centre)
    for _ in range(steps):
        chance = success_probabilities(found, contexts).T
        gradient = (own * (chance - outcomes)) @ rows + penalty * (found - centre)
        curvature = np.einsum("kn,ni,nj->kij", own * chance * (1 - chance), rows, rows)
        curvature += penalty * np.eye(rows.shape[1])
        step = np.linalg.solve(curvature, gradient[..., None])[..., 0]
        for _ in range(HALVINGS):
            following = objective(found - step)
            uphill = following > value
            if not uphill.any():
                break
            step[uphill] /= 2
        step[uphill] = 0.0
        found -= step
        value = objective(found)
        if np.abs(step).max() < 1e-10:
            break
    return found


class SuccessModelPolicy(BasePolicy):
    """A logistic model of each action's success; predicts the available action with the best score
    (of equal ones the lowest).

    Args:
        observation_space: `Box(d + K,)`: a context, then which actions are available, 0 or 1.
        action_space: `Discrete(K)`.
        lr_schedule: not used; SB3 hands it to every policy.
    """

    coefficients: torch.Tensor
    generation: torch.Tensor

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        lr_schedule: Schedule | None = None,
    ) -> None:
        super().__init__(observation_space, action_space)
        check_discrete(action_space, "actions", "a bandit")
        self.actions = int(action_space.n)  # type: ignore[attr-defined]
        shape = observation_space.shape or (0,)
        if len(shape) != 1 or shape[0] < self.actions:
            raise ValueError(
                f"observations must be a context followed by the availability of {self.actions} "
                f"actions, got {observation_space}"
            )
        size = (self.actions, shape[0] - self.actions + 1)
        self.register_buffer("coefficients", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("generation", torch.zeros((), dtype=torch.int64))

    def split(self, observations: NDArray[Any]) -> tuple[Array, Mask]:
        """Contexts [n, d] and available actions [n, K] of observations [n, d + K]."""
        shown = np.asarray(observations, dtype=np.float64)
        return shown[:, : -self.actions], shown[:, -self.actions :] > 0.5

    def scores(self, contexts: Array) -> Array:
        """s(x, a) of contexts [n, d], [n, K]."""
        return success_probabilities(self.coefficients.numpy(), contexts)

    def _predict(self, observation: Any, deterministic: bool = False) -> torch.Tensor:
        contexts, available = self.split(observation.numpy())
        return torch.from_numpy(best_available(self.scores(contexts), available))


def best_available(scores: Array, available: Mask) -> NDArray[np.int64]:
    """The available action with the highest score, of equal ones the lowest, [n].

    Raises:
        ValueError: a row without an available action.
    """
    if not available.any(axis=1).all():
        row = int((~available.any(axis=1)).argmax())
        raise ValueError(f"row {row} has no available action")
    return np.asarray(np.where(available, scores, -np.inf).argmax(axis=1), dtype=np.int64)


def uniform(available: Mask) -> Array:
    """The same probability for each available action, [n, K]; ValueError where there is none."""
    best_available(np.zeros(available.shape), available)
    found: Array = available / available.sum(axis=1, keepdims=True)
    return found
