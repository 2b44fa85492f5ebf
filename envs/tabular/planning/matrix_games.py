"""Zero-sum matrix games, many at once."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
PIVOTS = 10_000
ZERO = 1e-12  # below it, relative to payoffs scaled to [1, 2], an entry of the tableau counts as 0


class Equilibrium(NamedTuple):
    """The solution of a game in which the row player maximises.

    Attributes:
        value: what the row player gets [...].
        row: probabilities of the rows [..., A].
        column: probabilities of the columns [..., M].
    """

    value: Floats
    row: Floats
    column: Floats


def solve_matrix_games(payoff: ArrayLike) -> Equilibrium:
    """max over x, min over y of x . payoff . y for mixed strategies x and y.

    With payoffs scaled to be positive, the column player's linear programme is max sum y subject to
    payoff y <= 1, y >= 0, which the simplex method solves from y = 0; the multipliers are the row
    player's strategy. One dense tableau per game, pivots in all of them at once, Bland's rule.

    Args:
        payoff: payments to the row player [..., A, M].

    Raises:
        ValueError: payoffs are not finite or there are none.
    """
    payoff = np.asarray(payoff, dtype=np.float64)
    if payoff.ndim < 2 or 0 in payoff.shape[-2:] or not np.isfinite(payoff).all():
        raise ValueError(f"payoff of shape {payoff.shape} must be finite and [..., A, M], A, M > 0")
    *batch, rows, columns = payoff.shape
    games = payoff.reshape(-1, rows, columns)
    least = games.min(axis=(1, 2), keepdims=True)
    span = games.max(axis=(1, 2), keepdims=True) - least
    scaled = 1 + (games - least) / np.where(span > 0, span, 1.0)
    count = len(games)
    # Rows of the tableau: the constraints, then the objective; columns: y, slacks, right-hand side.
    tableau = np.zeros((count, rows + 1, columns + rows + 1))
    tableau[:, :rows, :columns] = scaled
    tableau[:, range(rows), range(columns, columns + rows)] = 1
    tableau[:, :rows, -1] = 1
    tableau[:, rows, :columns] = -1
    basis = np.tile(np.arange(columns, columns + rows), (count, 1))
    active = np.arange(count)
    for _ in range(PIVOTS):
        improving = tableau[active, rows, :-1] < -ZERO
        active = active[improving.any(axis=1)]
        if not active.size:
            break
        enter = improving[improving.any(axis=1)].argmax(axis=1)
        each, present = np.arange(len(active)), tableau[active]
        entering = present[each, :rows, enter]
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(entering > ZERO, present[:, :rows, -1] / entering, np.inf)
        smallest = ratio <= ratio.min(axis=1, keepdims=True) + ZERO
        leave = np.where(smallest, basis[active], columns + rows).argmin(axis=1)
        pivot = present[each, leave] / entering[each, leave][:, None]
        present -= present[each, :, enter][:, :, None] * pivot[:, None, :]
        present[each, leave] = pivot
        tableau[active], basis[active, leave] = present, enter
    else:
        raise ArithmeticError(f"{active.size} of {count} games are not solved by {PIVOTS} pivots")
    solution = np.zeros((count, columns + rows))
    np.put_along_axis(solution, basis, np.maximum(tableau[:, :rows, -1], 0.0), axis=1)
    column = solution[:, :columns]
    row = np.maximum(tableau[:, rows, columns:-1], 0.0)
    column /= column.sum(axis=1, keepdims=True)
    row /= row.sum(axis=1, keepdims=True)
    value = np.einsum("na,nam->nm", row, games).min(axis=1)
    return Equilibrium(
        value.reshape(batch), row.reshape(*batch, rows), column.reshape(*batch, columns)
    )
