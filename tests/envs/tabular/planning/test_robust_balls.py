"""The worst distribution of a ball: against general solvers, its dual, and what always holds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize, minimize_scalar
from scipy.special import logsumexp

from palaestra.envs.tabular.planning.robust_balls import (
    chi_square_ball,
    kl_ball,
    l1_ball,
    l1_ball_joint,
    tv_ball,
)


def kl(p, nominal):
    ratio = np.where(p > 0, p / np.where(nominal > 0, nominal, 1), 1)
    return (p * np.log(ratio)).sum(axis=-1)


def chi_square(p, nominal):
    return ((p - nominal) ** 2 / np.where(nominal > 0, nominal, 1)).sum(axis=-1)


def l1(p, nominal):
    return np.abs(p - nominal).sum(axis=-1)


BALLS = {
    "l1": (l1_ball, l1),
    "tv": (tv_ball, lambda p, nominal: l1(p, nominal) / 2),
    "kl": (kl_ball, kl),
    "chi_square": (chi_square_ball, chi_square),
}
PRECISE = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}
every_ball = pytest.mark.parametrize(("ball", "distance"), BALLS.values(), ids=BALLS.keys())


def random_rows(n, size, seed, ties=True):
    """Distributions with zeros, values with ties, radii over twelve orders of magnitude."""
    rng = np.random.default_rng(seed)
    nominal = rng.dirichlet(np.full(size, 0.4), n)
    nominal[rng.random((n, size)) < 0.2] = 0
    nominal[nominal.sum(axis=1) == 0, 0] = 1
    nominal /= nominal.sum(axis=1, keepdims=True)
    values = rng.normal(size=(n, size)) * 10 ** rng.uniform(-3, 3, (n, 1))
    if ties:
        values[::3] = np.round(values[::3])
    return nominal, values, 10 ** rng.uniform(-8, 1, n)


def linear_programme(nominal, values, radius, allowed=None):
    """min p . v over the L1 ball, in variables (p, t) with t >= |p - nominal|."""
    size = len(nominal)
    eye = np.eye(size)
    bounds = [(0, None if allowed is None or allowed[i] else 0) for i in range(size)]
    found = linprog(
        np.r_[values, np.zeros(size)],
        A_ub=np.block([[eye, -eye], [-eye, -eye], [np.zeros(size), np.ones(size)]]),
        b_ub=np.r_[nominal, -nominal, radius],
        A_eq=np.r_[np.ones(size), np.zeros(size)][None],
        b_eq=[1],
        bounds=bounds + [(0, None)] * size,
        options=PRECISE,
    )
    assert found.status == 0
    return found.fun


def test_worked_example_total_variation():
    nominal, values = [0.5, 0.3, 0.2], [0, 1, 3]
    found = [float(tv_ball(nominal, values, rho).value) for rho in (0.0, 0.1, 0.3)]
    assert found == pytest.approx([0.9, 0.6, 0.2], abs=1e-12)


def test_total_variation_is_the_dual_over_the_values():
    """max over alpha in the values of E min(V, alpha) - rho (alpha - min V)."""
    nominal, values, radius = random_rows(200, 7, 0)
    capped = np.minimum(values[:, None, :], values[:, :, None])
    least = values.min(axis=1, keepdims=True)
    dual = (nominal[:, None] * capped).sum(axis=2) - radius[:, None] * (values - least)
    scale = 1 + np.abs(values).max(axis=1)
    assert tv_ball(nominal, values, radius).value / scale == pytest.approx(
        dual.max(axis=1) / scale, abs=1e-12
    )


def test_l1_equals_a_linear_programme():
    nominal, values, radius = random_rows(40, 6, 1)
    expected = [linear_programme(*row) for row in zip(nominal, values, radius, strict=True)]
    scale = 1 + np.abs(values).max(axis=1)
    assert l1_ball(nominal, values, radius).value / scale == pytest.approx(
        np.array(expected) / scale, abs=1e-9
    )


def test_l1_with_allowed_outcomes_equals_a_linear_programme():
    nominal, values, radius = random_rows(40, 6, 2)
    allowed = (nominal > 0) | (np.random.default_rng(0).random(nominal.shape) < 0.3)
    rows = zip(nominal, values, radius, allowed, strict=True)
    expected = np.array([linear_programme(*row) for row in rows])
    found = l1_ball(nominal, values, radius, allowed)
    scale = 1 + np.abs(values).max(axis=1)
    assert found.value / scale == pytest.approx(expected / scale, abs=1e-9)
    assert not found.distribution[~allowed].any()


def test_kl_equals_its_dual():
    """max over lam of -lam log E exp(-v / lam) - lam radius, by a general scalar optimiser."""
    nominal, values, radius = random_rows(25, 6, 3)
    found = kl_ball(nominal, values, radius).value
    grid = np.linspace(-28, 14, 500)
    for p, v, rho, value in zip(nominal, values, radius, found, strict=True):
        span = np.ptp(v[p > 0]) or 1.0

        def negative_dual(log_lam, v=v[p > 0] / span, p=p[p > 0], rho=rho):
            lam = np.exp(np.asarray(log_lam))
            return lam * logsumexp(-v / lam[..., None], b=p, axis=-1) + lam * rho

        near = grid[np.argmin(negative_dual(grid))]
        bounds, options = (near - 0.1, near + 0.1), {"xatol": 1e-12}
        best = minimize_scalar(negative_dual, bounds=bounds, options=options, method="bounded")
        assert value / span == pytest.approx(-best.fun, abs=1e-8)
        assert value / span >= -best.fun - 1e-11, "weak duality"


def test_chi_square_equals_its_dual():
    """max over a of a - sqrt((1 + radius) E (a - v)+^2), by a general scalar optimiser."""
    nominal, values, radius = random_rows(60, 6, 4)
    radius = np.maximum(radius, 1e-5)
    found = chi_square_ball(nominal, values, radius).value
    for p, v, rho, value in zip(nominal, values, radius, found, strict=True):
        span = np.ptp(v[p > 0]) or 1.0
        scaled = np.where(p > 0, (v - v[p > 0].min()) / span, 1.0)

        def negative_dual(a, p=p, v=scaled, rho=rho):
            below = np.maximum(np.asarray(a)[..., None] - v, 0)
            return np.sqrt((1 + rho) * (p * below**2).sum(axis=-1)) - a

        high = 2 + 2 / np.sqrt(rho)
        grid = high * np.linspace(0, 1, 2001) ** 2
        near = np.argmin(negative_dual(grid))
        best = minimize_scalar(
            negative_dual,
            bounds=(grid[max(near - 1, 0)], grid[min(near + 1, 2000)]),
            options={"xatol": 1e-12},
            method="bounded",
        )
        assert (value - v[p > 0].min()) / span == pytest.approx(-best.fun, abs=1e-7)


@pytest.mark.parametrize("name", ["kl", "chi_square"])
def test_divergences_equal_a_general_solver(name):
    ball, distance = BALLS[name]
    rng = np.random.default_rng(5)
    for _ in range(6):
        nominal, values = rng.dirichlet(np.ones(4)), rng.normal(size=4)
        radius = rng.uniform(0.02, 0.5)
        best = minimize(
            lambda p, values=values: p @ values,
            nominal,
            method="SLSQP",
            bounds=[(1e-12, 1)] * 4,
            constraints=[
                {"type": "eq", "fun": lambda p: p.sum() - 1},
                {"type": "ineq", "fun": lambda p, d=distance, n=nominal, r=radius: r - d(p, n)},
            ],
            options={"ftol": 1e-14, "maxiter": 500},
        )
        assert float(ball(nominal, values, radius).value) == pytest.approx(best.fun, abs=1e-6)


@pytest.mark.parametrize(
    ("ball", "factor"), [(kl_ball, 2.0), (chi_square_ball, 1.0)], ids=["kl", "chi_square"]
)
def test_small_radii_cost_a_multiple_of_the_standard_deviation(ball, factor):
    nominal, values = np.array([0.5, 0.3, 0.2]), np.array([0.0, 1.0, 3.0])
    deviation = np.sqrt(nominal @ (values - 0.9) ** 2)
    for radius in (1e-14, 1e-12, 1e-10):
        loss = 0.9 - float(ball(nominal, values, radius).value)
        # The next order is about `radius`; the value itself is rounded at 1e-16.
        assert loss == pytest.approx(deviation * np.sqrt(factor * radius), abs=3 * radius + 4e-16)


@pytest.mark.parametrize("ball", [kl_ball, chi_square_ball], ids=["kl", "chi_square"])
def test_large_radii_leave_the_least_value_of_the_support(ball):
    nominal, values = [0.0, 0.1, 0.3, 0.6], [-9.0, 1.0, 1.0, 2.0]
    for radius in (-np.log(0.4) if ball is kl_ball else 1 / 0.4 - 1, 50.0, np.inf):
        worst = ball(nominal, values, radius)
        assert float(worst.value) == pytest.approx(1.0, abs=1e-9)
        assert worst.distribution == pytest.approx([0, 0.25, 0.75, 0], abs=1e-9)


def test_kl_where_the_values_differ_on_two_scales():
    """Between a plateau and the least value: the answer must split two nearly equal values."""
    nominal, values = np.array([1e-3, 0.998, 1e-3]), np.array([0.0, 1e-9, 1.0])
    worst = kl_ball(nominal, values, 1.0)
    assert float(kl(worst.distribution, nominal)) == pytest.approx(1.0, rel=1e-9)
    assert worst.distribution[2] == pytest.approx(0, abs=1e-12)
    assert 0.1 < worst.distribution[0] < 0.5


def test_joint_l1_equals_a_linear_programme():
    rng = np.random.default_rng(6)
    for _ in range(15):
        nominal, values = rng.dirichlet(np.full(5, 0.5), 3), rng.normal(size=5)
        weights, radius = rng.dirichlet(np.ones(3)), rng.uniform(0, 3)
        # Split the budget over the rows, then solve each: the split is convex.
        size = 15
        eye, zero = np.eye(size), np.zeros((size, size))
        found = linprog(
            np.r_[(weights[:, None] * values).ravel(), np.zeros(size)],
            A_ub=np.block([[eye, -eye], [-eye, -eye], [zero[:1], np.ones((1, size))]]),
            b_ub=np.r_[nominal.ravel(), -nominal.ravel(), radius],
            A_eq=np.hstack([np.kron(np.eye(3), np.ones(5)), np.zeros((3, size))]),
            b_eq=np.ones(3),
        )
        worst = l1_ball_joint(nominal, values, radius, weights)
        assert float(worst.value) == pytest.approx(found.fun, abs=1e-9)
        assert np.abs(worst.distribution - nominal).sum() <= radius + 1e-12
        assert worst.distribution.sum(axis=1) == pytest.approx(np.ones(3))


@every_ball
def test_a_batch_is_its_rows(ball, distance):
    nominal, values, radius = random_rows(30, 5, 7)
    together = ball(nominal, values, radius)
    for i in range(30):
        alone = ball(nominal[i], values[i], radius[i])
        np.testing.assert_allclose(alone.distribution, together.distribution[i], atol=1e-14)


@every_ball
def test_arguments_are_broadcast(ball, distance):
    rng = np.random.default_rng(8)
    nominal, values = rng.dirichlet(np.ones(4), (3, 2)), rng.normal(size=(5, 1, 1, 4))
    radius = np.array([0.1, 0.4])
    worst = ball(nominal, values, radius)
    assert worst.value.shape == (5, 3, 2) and worst.distribution.shape == (5, 3, 2, 4)
    one = ball(nominal[1, 0], values[3, 0, 0], 0.1)
    np.testing.assert_allclose(worst.distribution[3, 1, 0], one.distribution, atol=1e-14)
    radii = np.geomspace(0.01, 0.5, 4)[:, None, None]
    assert ball(nominal, values[0], radii).value.shape == (4, 3, 2)


@st.composite
def problems(draw):
    size = draw(st.integers(1, 6))
    weights = draw(st.lists(st.integers(0, 9), min_size=size, max_size=size).filter(any))
    values = draw(st.lists(st.integers(-5, 5) | st.floats(-5, 5), min_size=size, max_size=size))
    return np.array(weights) / sum(weights), np.array(values, dtype=float)


@every_ball
@settings(max_examples=80, deadline=None)
@given(problem=problems(), radius=st.floats(0, 4), more=st.floats(0, 2), level=st.floats(-9, 9))
def test_what_always_holds(ball, distance, problem, radius, more, level):
    nominal, values = problem
    worst = ball(nominal, values, radius)
    p = worst.distribution
    assert (p >= 0).all() and p.sum() == pytest.approx(1, abs=1e-12)
    assert distance(p, nominal) <= radius * (1 + 1e-9) + 1e-12, "inside the ball"
    assert float(worst.value) == pytest.approx(float(p @ values), abs=1e-12)
    assert worst.value <= nominal @ values + 1e-12
    assert ball(nominal, values, radius + more).value <= worst.value + 1e-9, "monotone"
    np.testing.assert_allclose(ball(nominal, values, 0.0).distribution, nominal, atol=1e-15)
    moved = ball(nominal, 2 * values + level, radius).value
    assert float(moved) == pytest.approx(2 * float(worst.value) + level, abs=1e-8)


@every_ball
def test_what_is_refused(ball, distance):
    with pytest.raises(ValueError, match="radius -0.1"):
        ball([0.5, 0.5], [0, 1], -0.1)
    with pytest.raises(ValueError, match="radius"):
        ball([0.5, 0.5], [0, 1], np.nan)
    with pytest.raises(ValueError, match="sums to"):
        ball([0.5, 0.4], [0, 1], 0.1)
    with pytest.raises(ValueError, match="finite"):
        ball([0.5, 0.5], [0, np.inf], 0.1)


def test_mass_where_none_is_allowed_is_refused():
    with pytest.raises(ValueError, match="not allowed"):
        l1_ball([0.5, 0.5], [0, 1], 0.1, [True, False])
    with pytest.raises(ValueError, match="weights"):
        l1_ball_joint([[0.5, 0.5]], [0, 1], 0.1, [-1.0])
