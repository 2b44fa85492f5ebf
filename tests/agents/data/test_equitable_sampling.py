"""Adaptive sampling: fitted curves, the index, allocations, and learning while buying."""

from __future__ import annotations

from itertools import product

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

from palaestra.agents import AdaptiveSampling
from palaestra.agents.data.allocation import greedy_allocation, optimal_allocation
from palaestra.agents.data.equitable_sampling import ALIKE, adaptive_arm, fit_curve, index
from palaestra.envs.data.learning_curves import power_curve, utility

CURVES = np.array([[0.9, 2.0, 0.5], [0.8, 3.0, 0.5]])
COSTS = np.array([1.0, 2.0])
WORKED = {"costs": (1, 2), "start": 20, "budget": 200, "spend": 20, "eta": 0.0, "noise": 0.0}


def make(**changes):
    return gym.make("EquitableSampling-v0", **{**WORKED, **changes})


def total(curves, n, weights=1.0, eta=0.0):
    return utility(power_curve(n, *np.asarray(curves).T), weights, eta)


# -- the paper's computation -----------------------------------------------------------------------


def test_worked_example_of_the_index():
    n = np.array([100.0, 100.0])
    assert_allclose(
        index(n, CURVES, 20, COSTS, eta=0), [0.000871290708, 0.000698061161], atol=1e-12
    )
    assert_allclose(
        index(n, CURVES, 20, COSTS, eta=1), [0.001229460618, 0.001376986150], atol=1e-12
    )


def test_worked_example_of_the_greedy_allocation():
    order, n = greedy_allocation(CURVES, (20, 20), 200, 20, COSTS, eta=0)
    assert order == [0, 1, 1, 0, 1, 1, 0, 1, 0, 1]
    assert_allclose(n, [100, 80])
    assert total(CURVES, n) == pytest.approx(1.164589803, abs=1e-9)


def test_worked_example_of_the_continuous_optimum():
    n = optimal_allocation(CURVES, (1, 1), 397, COSTS, eta=0)
    assert_allclose(n, [150.888528, 124.555736], atol=1e-5)
    assert n[0] / n[1] == pytest.approx((4 / 3) ** (2 / 3), abs=1e-7)
    assert COSTS @ (n - 1) == pytest.approx(397, abs=1e-6)
    assert total(CURVES, n) == pytest.approx(1.268375933, abs=1e-9)


def test_worked_example_of_a_fitted_curve():
    assert_allclose(fit_curve([25, 100, 400], [0.5, 0.7, 0.8]), (0.9, 2.0, 0.5), atol=1e-9)


def test_worked_example_of_learning_while_buying():
    agent = AdaptiveSampling("GroupPolicy", make(), seed=0)
    orders = []
    agent.learn(10, callback=lambda found, _: orders.append(agent.policy.bought.tolist()) or True)
    order = np.diff(np.array([[0, 0], *orders]), axis=0).argmax(axis=1)
    assert order.tolist() == [
        0,
        1,
        1,
        0,
        1,
        1,
        0,
        1,
        0,
        1,
    ]  # curves without noise are known at once
    assert_allclose(agent.policy.curves.numpy(), CURVES, atol=1e-6)
    assert_array_equal(agent.samples, [[100, 80]])


# -- fitting ---------------------------------------------------------------------------------------


def test_the_fit_is_weighted_least_squares_on_the_grid():
    rng = np.random.default_rng(0)
    k = np.repeat([30.0, 50.0, 70.0, 100.0], 6)
    performance = 0.8 - 1.5 * k**-0.4 + 0.01 * rng.normal(size=len(k))
    losses, fits = [], []
    for p in np.arange(10, 151, 5) / 100:
        columns = np.stack([np.ones(len(k)), -(k**-p)], axis=1)
        root = np.sqrt(k)[:, None]
        fit = np.linalg.lstsq(columns * root, performance * root[:, 0], rcond=None)[0]
        losses.append((k * (performance - columns @ fit) ** 2).sum())
        fits.append((*fit, p))
    assert_allclose(fit_curve(k, performance), fits[int(np.argmin(losses))], rtol=1e-6)


def test_a_curve_that_falls_or_is_flat_has_no_slope():
    assert fit_curve([10, 20, 40], [0.7, 0.6, 0.5]) == pytest.approx((39 / 70, 0.0, 0.1))
    for level in (0.1, 1 / 3, 0.7):
        assert fit_curve([10, 20, 40, 40], [level] * 4) == (level, 0.0, 0.1)


def test_fewer_than_three_sizes_tell_nothing_and_are_explored():
    curve = fit_curve([10, 10, 20, 20], [0.1, 0.2, 0.3, 0.4])
    assert np.isnan(curve).all()
    found = index(np.array([5.0, 5.0]), np.array([CURVES[0], curve]), 10.0)
    assert np.isfinite(found[0]) and found[1] == np.inf


def test_flat_curves_have_the_index_0_and_the_lowest_group_is_bought():
    flat = np.array([[0.7, 0.0, 0.1], [0.2, 0.0, 0.1]])
    for eta in (0.0, 1.0, 3.0):
        assert_array_equal(index(np.array([7.0, 9.0]), flat, 3.0, eta=eta), [0.0, 0.0])
    assert greedy_allocation(flat, 10, 30, 10)[0] == [0, 0, 0]
    assert_array_equal(optimal_allocation(flat, 10, 30), [10, 10])


def test_a_batch_below_one_sample_counts_in_parts():
    found = index(np.array([100.0, 100.0]), CURVES, 0.5, (2.0, 50.0), eta=0)
    gain = 2 * (100**-0.5 - 100.25**-0.5), 3 * (100**-0.5 - 100.01**-0.5)
    assert_allclose(found, np.array(gain) / 0.5, rtol=1e-9)


def test_samples_that_help_others_count_for_them():
    kappa = np.array([[1.0, 0.5], [0.0, 1.0]])
    n = np.array([50.0, 80.0])

    def worth(n):
        return total(CURVES, kappa @ n, (1.0, 2.0), 1.0)

    expected = [
        (worth(n + step) - worth(n)) / 10 for step in (np.array([10.0, 0]), np.array([0, 5.0]))
    ]
    found = index(n, CURVES, 10, COSTS, (1.0, 2.0), 1.0, kappa)
    assert_allclose(found, expected, rtol=1e-9)
    # A batch of rows at once is the same.
    assert_allclose(index(np.stack([n, n]), CURVES, 10, COSTS, (1.0, 2.0), 1.0, kappa)[1], found)


# -- allocations -----------------------------------------------------------------------------------

curves_of_three = st.lists(
    st.tuples(st.floats(0.6, 1.0), st.floats(0.1, 2.0), st.floats(0.3, 1.2)), min_size=3, max_size=3
)


@given(curves_of_three, st.sampled_from([0.0, 1.0, 2.5]), st.floats(0.5, 3.0))
@settings(deadline=None, max_examples=30)
def test_greedy_is_the_best_of_all_multiples_of_a_batch(curves, eta, cost):
    curves, costs, weights, start = np.array(curves), (1.0, cost, 2.0), (1.0, 2.0, 0.5), 40.0
    _, n = greedy_allocation(curves, start, 60, 10, costs, weights, eta)
    step = 10 / np.array(costs)
    best = max(
        total(curves, start + step * np.array(batches), weights, eta)
        for batches in product(range(7), repeat=3)
        if sum(batches) == 6
    )
    assert total(curves, n, weights, eta) == pytest.approx(best, abs=1e-10)


@given(curves_of_three, st.sampled_from([0.0, 1.0, 2.5]), st.floats(10, 3_000))
@settings(deadline=None, max_examples=15)
def test_the_continuous_optimum_spends_all_and_no_shift_of_budget_gains(curves, eta, budget):
    curves, costs = np.array(curves), np.array([1.0, 2.0, 0.5])
    start = np.array([40.0, 200.0, 60.0])
    n = optimal_allocation(curves, start, budget, costs, eta=eta)
    assert (n >= start).all()
    assert costs @ (n - start) == pytest.approx(budget, rel=1e-6)
    best, small = total(curves, n, 1.0, eta), 1e-3 * budget
    for giver, taker in product(range(3), repeat=2):
        moved = n.copy()
        moved[giver] -= small / costs[giver]
        moved[taker] += small / costs[taker]
        if moved[giver] >= start[giver]:
            assert total(curves, moved, 1.0, eta) <= best + 1e-9


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget": 0}, "budget=0 must be a finite number above 0"),
        ({"costs": (1, 0)}, r"costs=\(1, 0\) must be above 0"),
        ({"weights": (1, -1)}, r"weights=\(1, -1\) must be at least 0"),
        ({"eta": -1}, "eta=-1 must be a finite number of at least 0"),
    ],
)
def test_tasks_that_make_no_sense_are_refused(changes, message):
    for plan, more in ((greedy_allocation, {"spend": 10}), (optimal_allocation, {})):
        with pytest.raises(ValueError, match=message):
            plan(CURVES, 100, **{"budget": 100, **more, **changes})
    with pytest.raises(ValueError, match="spend=0 must be a finite number above 0"):
        greedy_allocation(CURVES, 100, 100, 0)


# -- the agent -------------------------------------------------------------------------------------


def test_it_predicts_on_beyond_the_data_in_hand_and_says_so_after_a_checkpoint(tmp_path):
    agent = AdaptiveSampling("GroupPolicy", make(), seed=0)
    observation = make().reset(seed=0)[0]
    assert agent.predict(observation)[0] == 0  # nothing is known: the lowest group is explored
    assert agent.predict(observation, action_masks=[False, True])[0] == 1
    agent.learn(1)
    agent.save(tmp_path / "agent")
    env = make()
    observation, _ = env.reset(seed=4)
    order = []
    for agent in [AdaptiveSampling.load(tmp_path / "agent")] * 10:
        order.append(int(agent.predict(observation, deterministic=True)[0]))
        observation = env.step(order[-1])[0]
    assert order == [0, 1, 1, 0, 1, 1, 0, 1, 0, 1]


def test_with_explore_groups_take_turns():
    flat = {"asymptotes": (0.9, 0.8, 0.7), "scales": (2.0, 0.0, 0.0), "costs": 1.0}
    counts = {}
    for explore in (None, 1, 3):
        agent = AdaptiveSampling("GroupPolicy", make(**flat), explore=explore, seed=0)
        counts[explore] = agent.learn(20).policy.bought.tolist()  # two episodes
    assert counts[None] == [20, 0, 0]
    # Every third of ten batches, in turn from group 0 on, in both episodes.
    assert counts[3] == [2 * (7 + 1), 2, 2]
    assert counts[1] == [2 * 4, 2 * 3, 2 * 3]
    for bad in (0, 2.5, True):
        with pytest.raises(ValueError, match=f"explore={bad} must be an integer of at least 1"):
            AdaptiveSampling("GroupPolicy", make(), explore=bad)


SMALL = {"mode": "prs", "markers": (5, 12), "validation": 30, "test": 40}
SMALL |= {"budget": 40.0, "spend": 10.0, "start": 20}


@pytest.mark.parametrize(
    "kind", ["native", "dummy", pytest.param("processes", marks=pytest.mark.slow)]
)
def test_parallel_environments_have_curves_of_their_own(kind):
    def one():
        return gym.make("palaestra:EquitableSampling-v0", **SMALL)

    if kind == "native":
        env = gym.make_vec("EquitableSampling-v0", num_envs=2, **SMALL, autoreset_mode="Disabled")
    else:
        env = (DummyVecEnv if kind == "dummy" else SubprocVecEnv)([one] * 2)
    agent = AdaptiveSampling("GroupPolicy", env, seed=7).learn(6)
    for row in range(2):
        alone = AdaptiveSampling("GroupPolicy", one(), seed=7 + row).learn(3)
        assert_array_equal(agent.curves[row], alone.curves[0])
        assert_array_equal(agent.samples[row], alone.samples[0])
    assert_array_equal(agent.policy.curves.numpy(), agent.curves[0])
    assert (agent.curves[0] != agent.curves[1]).any()
    agent.env.close()


class Other(gym.Env):
    """Has the observations and not the points."""

    observation_space = gym.spaces.Box(0.0, 1.0, (9,), np.float32)
    action_space = gym.spaces.Discrete(2)
    eta = spend = 1.0
    transfer = np.eye(2)

    def reset(self, *, seed=None, options=None):
        return np.ones(9, np.float32), {}


def test_an_environment_that_does_not_serve_is_refused():
    with pytest.raises(ValueError, match=r"needs an environment with `learning_points\(group\)`"):
        AdaptiveSampling("GroupPolicy", Other()).learn(1)
    cart = gym.make("CartPole-v1")
    with pytest.raises(ValueError, match=r"2 groups need observations of shape \(9,\)"):
        AdaptiveSampling("GroupPolicy", cart)
    with pytest.raises(ValueError, match=r"sampling needs groups in Discrete\(n\)"):
        AdaptiveSampling("GroupPolicy", gym.make("Pendulum-v1"))


def test_an_arm_of_the_claim_reports_the_utility_along_the_budget():
    found = adaptive_arm(seed=100, scale=2 / 32)
    cost, curve = found.curves["utility"]
    assert cost == [0, 50, 100] and len(ALIKE) == 4
    assert curve == sorted(curve) and curve[-1] == found.metrics["utility"]
    assert curve[0] < -5
    assert set(found.metrics) == {"utility", "utility, groups alike"}
