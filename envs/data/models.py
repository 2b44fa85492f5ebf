"""The models that are trained on what was collected: ridge and logistic regression.

A model is trained on the first n rows of a sample, anew for every n, and scored on other rows. A
constant column among the features, with the penalty 0, is an intercept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.special import expit

Array = NDArray[np.float64]

LEAST_R2 = 0.01  # a model that explains nothing counts as one that explains this much
STEPS, TOLERANCE = 100, 1e-8


class Model(Protocol):
    """How a group's model is trained, and what its performance is."""

    def path(self, features: Array, targets: Array, sizes: Sequence[int]) -> Array:
        """Coefficients [m, d] of the models that learn from the first `sizes` [m] rows.

        Args:
            features: [N, d].
            targets: [N].
            sizes: in ascending order, from 1 to N.
        """

    def performance(self, coefficients: Array, features: Array, targets: Array) -> Array:
        """Performance [m] of models [m, d] on other rows."""


class Ridge:
    """Least squares with a penalty; its performance is R^2, floored at 0.01.

    Args:
        penalties: of each squared coefficient, [d].
        centred: R^2 compares with the mean of the targets; otherwise with 0.
    """

    def __init__(self, penalties: Array, centred: bool) -> None:
        self.penalties, self.centred = penalties, centred

    def path(self, features: Array, targets: Array, sizes: Sequence[int]) -> Array:
        """As `Model.path`; sums over rows are carried on from size to size.

        With fewer rows than coefficients the system has the size of the rows instead.
        """
        gram = np.diag(self.penalties)
        moments, found = np.zeros(len(gram)), np.zeros((len(sizes), len(gram)))
        done, last, dual = 0, 0, bool((self.penalties > 0).all())
        for place, size in enumerate(sizes):
            if size == last:
                found[place] = found[place - 1]
                continue
            last = size
            if dual and size < len(gram):
                scaled = features[:size] / self.penalties
                kernel = scaled @ features[:size].T + np.eye(size)
                found[place] = scaled.T @ cho_solve(cho_factor(kernel), targets[:size])
                continue
            rows = features[done:size]
            gram = gram + rows.T @ rows
            moments = moments + rows.T @ targets[done:size]
            found[place] = cho_solve(cho_factor(gram), moments)
            done = size
        return found

    def performance(self, coefficients: Array, features: Array, targets: Array) -> Array:
        """1 - MSE / mean square of the targets, about their mean if `centred`; at least 0.01."""
        errors = targets[:, None] - features @ coefficients.T
        spread = targets - targets.mean() if self.centred else targets
        # A handful of rows may all have the same target.
        variance = max(float(np.mean(spread**2)), float(np.finfo(float).tiny))
        with np.errstate(over="ignore"):
            found = 1 - np.mean(errors**2, axis=0) / variance
        return np.asarray(np.maximum(found, LEAST_R2))


class Logistic:
    """Logistic regression with a penalty, for targets 0 and 1; its performance is accuracy.

    Args:
        penalties: of each squared coefficient (half of it), [d].
    """

    def __init__(self, penalties: Array) -> None:
        self.penalties = penalties

    def path(self, features: Array, targets: Array, sizes: Sequence[int]) -> Array:
        """As `Model.path`."""
        fits: dict[int, Array] = {}
        for size in sizes:
            if size not in fits:
                fits[size] = self._fit(features[:size], targets[:size])
        return np.stack([fits[size] for size in sizes])

    def performance(self, coefficients: Array, features: Array, targets: Array) -> Array:
        """Share of rows on whose class the model bets; a tie counts for class 0."""
        return np.asarray(
            np.mean((features @ coefficients.T > 0) == (targets[:, None] > 0), axis=0)
        )

    def _loss(self, features: Array, targets: Array, coefficients: Array) -> float:
        logits = features @ coefficients
        fit = np.logaddexp(0.0, logits) - targets * logits
        return float(fit.sum() + 0.5 * self.penalties @ coefficients**2)

    def _fit(self, features: Array, targets: Array) -> Array:
        """Newton's method; a step that does not lower the loss is halved until it does."""
        found = np.zeros(features.shape[1])
        loss = self._loss(features, targets, found)
        for _ in range(STEPS):
            chance = expit(features @ found)
            slope = features.T @ (chance - targets) + self.penalties * found
            # Where all rows are of one class the intercept grows without end: what it still gains
            # decides nothing, and the bound on the slope ends it.
            if np.abs(slope).max() <= TOLERANCE * len(features):
                break
            curvature = (features * (chance * (1 - chance))[:, None]).T @ features
            step = cho_solve(cho_factor(curvature + np.diag(self.penalties)), slope)
            length = 1.0
            while (after := self._loss(features, targets, found - length * step)) > loss:
                length /= 2
                if length < 1e-10:  # rounding errors are all that is left
                    return found
            found, loss = found - length * step, after
        return found
