"""Matrix games: against linear programmes, and the guarantees of both strategies."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import linprog

from palaestra.envs.tabular.planning.matrix_games import solve_matrix_games


def linear_programme(payoff):
    rows, columns = payoff.shape
    found = linprog(
        np.r_[np.zeros(rows), -1],
        A_ub=np.c_[-payoff.T, np.ones(columns)],
        b_ub=np.zeros(columns),
        A_eq=np.r_[np.ones(rows), 0][None],
        b_eq=[1],
        bounds=[(0, None)] * rows + [(None, None)],
    )
    return -found.fun


def test_rock_paper_scissors_and_a_game_with_a_saddle_point():
    game = solve_matrix_games(
        [[[0, -1, 1], [1, 0, -1], [-1, 1, 0]], [[3, 5, 4], [1, 9, 2], [2, 0, 1]]]
    )
    assert game.value == pytest.approx([0, 3], abs=1e-12)
    assert game.row[0] == pytest.approx(np.full(3, 1 / 3))
    assert game.column[0] == pytest.approx(np.full(3, 1 / 3))
    assert game.row[1] == pytest.approx([1, 0, 0]) and game.column[1] == pytest.approx([1, 0, 0])


@pytest.mark.parametrize("shape", [(4, 3), (3, 25), (6, 6), (1, 5), (5, 1)])
def test_values_equal_those_of_linear_programmes(shape):
    payoffs = np.random.default_rng(0).normal(size=(20, *shape)) * 30 - 7
    expected = [linear_programme(payoff) for payoff in payoffs]
    assert solve_matrix_games(payoffs).value == pytest.approx(np.array(expected), abs=1e-7)


def test_a_batch_is_its_games():
    payoffs = np.random.default_rng(1).normal(size=(3, 4, 4, 5))
    together = solve_matrix_games(payoffs)
    assert together.row.shape == (3, 4, 4) and together.column.shape == (3, 4, 5)
    alone = solve_matrix_games(payoffs[2, 1])
    np.testing.assert_array_equal(alone.row, together.row[2, 1])
    assert float(alone.value) == together.value[2, 1]


@settings(max_examples=150, deadline=None)
@given(arrays(float, st.tuples(st.integers(1, 5), st.integers(1, 5)), elements=st.integers(-3, 3)))
def test_each_strategy_guarantees_the_value(payoff):
    """Integer payoffs: degenerate games, in which pivots tie."""
    game = solve_matrix_games(payoff)
    assert (game.row @ payoff).min() == pytest.approx(float(game.value), abs=1e-9)
    assert (payoff @ game.column).max() == pytest.approx(float(game.value), abs=1e-9)
    for strategy in (game.row, game.column):
        assert (strategy >= 0).all() and strategy.sum() == pytest.approx(1)


def test_what_is_refused():
    for payoff in (np.zeros((0, 3)), np.zeros(3), np.array([[np.nan]])):
        with pytest.raises(ValueError, match="payoff"):
            solve_matrix_games(payoff)
