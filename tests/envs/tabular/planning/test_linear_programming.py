"""Linear programmes: by hand, their two sides against each other, sparse tables, errors."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse
from small_processes import best_of_all, random_process, river

from palaestra.envs.tabular.planning.finite_horizon import backward_induction
from palaestra.envs.tabular.planning.linear_programming import (
    average_gain,
    average_occupancy,
    discounted_occupancy,
    discounted_values,
    finite_horizon_occupancy,
    finite_horizon_values,
    unrolled,
)

# From state 0 one may go to 1, which pays 1 for ever, or stay for 0.6.
STAY_OR_GO = np.array([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [0.0, 1.0]]])
PAY = np.array([[0.6, 0.0], [1.0, 1.0]])


def test_by_hand():
    np.testing.assert_allclose(discounted_values(STAY_OR_GO, PAY, 0.5), [1.2, 2.0])
    np.testing.assert_allclose(discounted_values(STAY_OR_GO, PAY, 0.9), [9.0, 10.0])
    visits = discounted_occupancy(STAY_OR_GO, PAY, [1.0, 0.0], 0.9)
    assert visits[0].tolist() == [0, 1]
    assert visits[1].sum() == pytest.approx(9)
    gain, bias = average_gain(STAY_OR_GO, PAY)
    assert gain == pytest.approx(1) and bias == pytest.approx([0, 1])
    assert average_occupancy(STAY_OR_GO, PAY)[1].sum() == pytest.approx(1)
    values = finite_horizon_values(STAY_OR_GO, PAY, 3)
    np.testing.assert_allclose(values, [[2, 3], [1.2, 2], [0.6, 1]])
    visits = finite_horizon_occupancy(STAY_OR_GO, PAY, [1.0, 0.0], 3)
    np.testing.assert_allclose(visits.sum(-1), [[1, 0], [0, 1], [0, 1]])


@pytest.mark.parametrize("continues", [None, np.array([True, True, False, True])])
def test_primal_and_dual_have_the_same_optimum_that_of_all_policies(continues):
    P, R = random_process(1)
    start = np.array([0.1, 0.2, 0.3, 0.4])
    by_action = [sparse.csr_array(P[:, a]) for a in range(3)]
    for tables in (P, sparse.csr_array(P.reshape(12, 4)), by_action):
        values = discounted_values(tables, R, 0.8, continues=continues)
        np.testing.assert_allclose(values, best_of_all(P, R, 0.8, continues), atol=1e-9)
        visits = discounted_occupancy(tables, R, start, 0.8, continues=continues)
        assert (visits * R).sum() == pytest.approx(start @ values, abs=1e-9)
        assert visits.min() >= 0
        if continues is not None:
            assert (visits[2] == 0).all()


def test_a_river_has_its_gain():
    gain, bias = average_gain(*river())
    assert gain == pytest.approx(0.287496, abs=1e-6)
    shares = average_occupancy(*river())
    assert shares.sum() == pytest.approx(1) and shares[:, 0].max() == pytest.approx(0, abs=1e-12)


def test_steps_are_unrolled_into_states():
    P, R = random_process(2, states=2, actions=2, steps=(3,))
    whole, rewards, alive, steps = unrolled(P, R, None, np.array([True, False]))
    assert (whole.shape, rewards.shape, steps) == ((12, 6), (6, 2), 3)
    table = whole.toarray().reshape(3, 2, 2, 3, 2)
    np.testing.assert_array_equal(table[0, :, :, 1], P[0])
    np.testing.assert_array_equal(table[1, :, :, 2], P[1])
    assert table.sum() == pytest.approx(8) and (table[2] == 0).all()
    assert alive.tolist() == [True, False] * 3
    one = finite_horizon_values(P[:1], R[:1])
    np.testing.assert_allclose(one, backward_induction(P[:1], R[:1]).values, atol=1e-10)


def test_what_has_no_solution_or_is_no_process_is_refused():
    with pytest.raises(ArithmeticError, match="linear programme is not solved"):
        discounted_values(STAY_OR_GO, PAY, 1.0)
    with pytest.raises(ValueError, match="one process, got batch axes"):
        discounted_values(np.stack([STAY_OR_GO] * 2), PAY, 0.9)
    with pytest.raises(ValueError, match="one process, got batch axes"):
        finite_horizon_values(STAY_OR_GO[None, None], PAY)
    with pytest.raises(ValueError, match="d0 has shape"):
        discounted_occupancy(STAY_OR_GO, PAY, [1.0], 0.9)
    with pytest.raises(ValueError, match="gamma=2 is outside"):
        discounted_values(STAY_OR_GO, PAY, 2)
