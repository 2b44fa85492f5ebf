"""The models that are trained on what was collected."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.optimize import minimize

from palaestra.envs.data.models import LEAST_R2, Logistic, Ridge


def data(rows=40, columns=6, seed=0):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(rows, columns))
    return features, features @ rng.normal(size=columns) + 0.5 * rng.normal(size=rows)


@pytest.mark.parametrize("penalties", [np.full(6, 2.5), np.array([1.0, 1.0, 1.0, 1.0, 3.0, 0.0])])
def test_ridge_solves_the_normal_equations_of_every_size(penalties):
    features, targets = data()
    sizes = [2, 2, 5, 6, 17, 40]  # fewer rows than coefficients, as many, more
    found = Ridge(penalties, centred=False).path(features, targets, sizes)
    for size, coefficients in zip(sizes, found, strict=True):
        rows = features[:size]
        gram = rows.T @ rows + np.diag(penalties)
        assert_allclose(gram @ coefficients, rows.T @ targets[:size], atol=1e-9)


def test_r2_is_about_0_or_about_the_mean_and_never_below_the_least():
    features, targets = data()
    targets = targets + 3.0
    fits = np.stack([np.zeros(6), np.linalg.lstsq(features, targets, rcond=None)[0]])
    errors = targets - features @ fits[1]
    about_0, about_mean = (
        Ridge(np.ones(6), centred).performance(fits, features, targets) for centred in (False, True)
    )
    assert_allclose(about_0, [LEAST_R2, 1 - np.mean(errors**2) / np.mean(targets**2)])
    assert_allclose(about_mean, [LEAST_R2, max(LEAST_R2, 1 - np.mean(errors**2) / targets.var())])
    constant = Ridge(np.ones(6), centred=True).performance(fits, features[:1], targets[:1])
    assert_allclose(constant, LEAST_R2)


def test_logistic_regression_finds_the_minimum_of_its_loss():
    features, targets = data(rows=80)
    classes = (targets > 0).astype(float)
    columns = np.column_stack([features, np.ones(80)])
    penalties = np.array([*(0.5 for _ in range(6)), 0.0])

    def loss(coefficients, rows):
        logits = columns[:rows] @ coefficients
        fit = np.logaddexp(0, logits) - classes[:rows] * logits
        return fit.sum() + 0.5 * penalties @ coefficients**2

    found = Logistic(penalties).path(columns, classes, [10, 80, 80])
    for rows, coefficients in zip((10, 80, 80), found, strict=True):
        best = minimize(loss, np.zeros(7), args=(rows,), options={"gtol": 1e-9})
        assert loss(coefficients, rows) <= best.fun + 1e-8
        assert_allclose(coefficients, best.x, atol=1e-4)


def test_accuracy_and_what_is_learned_from_one_class():
    features = np.column_stack([np.linspace(-1, 1, 10), np.ones(10)])
    model = Logistic(np.array([1.0, 0.0]))
    for label in (0.0, 1.0):
        fit = model.path(features, np.full(10, label), [1, 10])
        assert np.isfinite(fit).all()
        assert_allclose(model.performance(fit, features, np.full(10, label)), 1.0)
        assert_allclose(model.performance(fit, features, np.full(10, 1 - label)), 0.0)
    fits = np.array([[1.0, 0.0], [0.0, 0.0]])
    targets = (features[:, 0] > 0.5).astype(float)
    assert_allclose(model.performance(fits, features, targets), [0.8, 0.7])
