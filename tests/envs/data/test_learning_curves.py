"""Learning curves and utilities of performances."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from palaestra.envs.data.learning_curves import (
    FLOOR,
    effective_samples,
    isoelastic,
    polygenic_curve,
    power_curve,
    utility,
)


def test_worked_example_of_curves_and_utilities():
    curve = power_curve(np.array([100.0, 100.0]), np.array([0.9, 0.8]), np.array([2.0, 3.0]), 0.5)
    assert_allclose(curve, [0.7, 0.5], atol=1e-12)
    assert_allclose(polygenic_curve(np.array([1000, 4000]), 0.5, 500), [0.25, 0.4], atol=1e-12)
    assert isoelastic(0.25, 2.0) == pytest.approx(-3.0, abs=1e-12)
    assert isoelastic(0.25, 0.0) == 0.25
    assert isoelastic(0.25, 1.0) == pytest.approx(np.log(0.25), abs=1e-12)
    assert utility(np.array([0.25, 0.5]), np.array([1.0, 3.0]), 2.0) == pytest.approx(-3.0 - 3.0)


@given(st.floats(0.05, 0.95), st.sampled_from([0.0, 0.3, 1.0, 2.0, 5.0]))
@settings(deadline=None)
def test_the_slope_of_the_utility_is_performance_to_the_power_of_minus_eta(performance, eta):
    small = 1e-6
    slope = (isoelastic(performance + small, eta) - isoelastic(performance - small, eta)) / 2e-6
    assert slope == pytest.approx(performance**-eta, rel=1e-5)


def test_utilities_near_eta_1_approach_the_logarithm():
    assert isoelastic(0.3, 1 + 1e-7) == pytest.approx(isoelastic(0.3, 1.0), abs=1e-6)


def test_what_is_not_above_0_is_floored_with_a_warning_where_it_matters():
    given_ = np.array([-0.5, 0.0, 0.5])
    with pytest.warns(UserWarning, match="not above 0, where a utility with eta=1"):
        assert_allclose(isoelastic(given_, 1.0), np.log([FLOOR, FLOOR, 0.5]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_allclose(isoelastic(given_, 0.0), [FLOOR, FLOOR, 0.5])
    for eta in (-0.1, np.inf, np.nan):
        with pytest.raises(ValueError, match=f"eta={eta} must be a finite number of at least 0"):
            isoelastic(0.5, eta)


def test_samples_of_other_groups_count_by_what_they_are_worth():
    kappa = np.array([[1.0, 0.5, 0.0], [0.25, 1.0, 0.1], [0.0, 0.0, 1.0]])
    n = np.array([[4.0, 8.0, 20.0], [0.0, 1.0, 2.0]])
    assert_allclose(effective_samples(n, kappa), n @ kappa.T)
    assert_allclose(effective_samples(n, np.eye(3)), n)
