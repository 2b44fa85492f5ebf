"""Discounted planning: against all policies, against each other, bounds, ends, sparse, torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from small_processes import best_of_all, chain, random_policies, random_process, river

from palaestra.envs.tabular.planning import linear_programming
from palaestra.envs.tabular.planning.discounted import (
    backup,
    evaluate,
    modified_policy_iteration,
    occupancy,
    policy_iteration,
    suboptimality,
    value_iteration,
)

PLANNERS = [value_iteration, modified_policy_iteration, policy_iteration]
SOME = np.array([True, False, True, True])
seeds = st.integers(0, 10_000)
gammas = st.sampled_from([0.0, 0.3, 0.9, 0.99])


@pytest.mark.parametrize("planner", PLANNERS)
@pytest.mark.parametrize("continues", [None, SOME])
@pytest.mark.parametrize("seed", range(4))
def test_planners_find_the_best_of_all_policies(planner, continues, seed):
    P, R = random_process(seed)
    best = best_of_all(P, R, 0.9, continues)
    found = planner(P, R, 0.9, continues=continues)
    np.testing.assert_allclose(found.values, best, rtol=0, atol=1e-10)
    assert found.error <= 1e-10
    attained = evaluate(P, R, found.policy, 0.9, continues=continues)
    np.testing.assert_allclose(attained, best, rtol=0, atol=1e-9)
    if continues is not None:
        assert found.values[1] == 0 and found.policy[1] == 0


@pytest.mark.parametrize("gamma", [0.5, 0.95, 0.999])
@pytest.mark.parametrize("continues", [None, SOME])
def test_planners_agree_with_both_linear_programmes(gamma, continues):
    P, R = random_process(3)
    start = np.array([0.1, 0.2, 0.3, 0.4])
    values = linear_programming.discounted_values(P, R, gamma, continues=continues)
    visits = linear_programming.discounted_occupancy(P, R, start, gamma, continues=continues)
    for planner in PLANNERS:
        found = planner(P, R, gamma, continues=continues)
        np.testing.assert_allclose(found.values, values, rtol=0, atol=1e-8)
        ours = occupancy(P, found.policy, start, gamma, continues=continues)
        np.testing.assert_allclose(ours, visits, rtol=0, atol=1e-8)


@pytest.mark.parametrize("planner", PLANNERS)
def test_a_batch_is_solved_as_its_members_are(planner):
    """Also of more processes than are worked on at once."""
    P, R = random_process(0, states=12, actions=4, batch=(500, 3))
    continues = np.random.default_rng(1).random((500, 3, 12)) < 0.9
    found = planner(P, R, 0.97, continues=continues)
    assert found.values.shape == (500, 3, 12) and found.error.shape == (500, 3)
    for place in [(0, 0), (101, 2), (499, 1)]:
        alone = planner(P[place], R[place], 0.97, continues=continues[place])
        np.testing.assert_allclose(found.values[place], alone.values, rtol=0, atol=1e-10)
        np.testing.assert_array_equal(found.policy[place], alone.policy)


@pytest.mark.parametrize("planner", PLANNERS)
@pytest.mark.parametrize("gap", [0.0, 1e-10, 1e-7, 1e-5])
@pytest.mark.parametrize("continues", [None, SOME])
def test_near_ties_are_broken_in_a_batch_as_they_are_alone(planner, gap, continues):
    """Action 1 does what action 0 does for a little more: less than `greedy` sees, or more."""
    P, R = random_process(12, actions=2, batch=(100,))
    P, R = np.repeat(P, 2, axis=-2), np.repeat(R, 2, axis=-1)
    R[..., 1::2] += gap
    found = planner(P, R, 0.95, continues=continues)
    goes_on = slice(None) if continues is None else continues
    assert (found.policy[:, goes_on] % 2 == (gap > 1e-8)).all()
    assert found.error.max() <= 1e-10
    for i in range(0, 100, 9):
        alone = planner(P[i], R[i], 0.95, continues=continues)
        np.testing.assert_array_equal(found.policy[i], alone.policy)
        np.testing.assert_allclose(found.values[i], alone.values, rtol=0, atol=1e-10)


def test_value_iteration_of_a_batch_stops_when_the_bounds_leave_one_action():
    P, R = random_process(6, states=8, batch=(50,))
    found = value_iteration(P, R, 0.99)
    for i in range(50):
        alone = value_iteration(P[i], R[i], 0.99)
        assert found.iterations[i] <= alone.iterations
        np.testing.assert_array_equal(found.policy[i], alone.policy)
        np.testing.assert_allclose(found.values[i], alone.values, rtol=0, atol=1e-9)
    assert found.iterations.mean() < 20 and found.error.max() < 1e-10


def test_batch_axes_are_broadcast():
    P, R = random_process(0, batch=(2, 1))
    _, rewards = random_process(1, batch=(3,))
    for planner in PLANNERS:
        found = planner(P, rewards, 0.9)
        assert found.values.shape == (2, 3, 4)
        one = planner(P[1, 0], rewards[2], 0.9)
        np.testing.assert_allclose(found.values[1, 2], one.values, atol=1e-10)
        shared = planner(P[1, 0], rewards, 0.9, continues=SOME)
        masked = planner(P[1, 0], rewards[2], 0.9, continues=SOME)
        np.testing.assert_allclose(shared.values[2], masked.values, atol=1e-10)


@settings(max_examples=60, deadline=None)
@given(seeds, gammas, st.booleans())
def test_the_backup_is_a_monotone_contraction(seed, gamma, ends):
    P, R = random_process(seed)
    rng = np.random.default_rng(seed)
    V, above = rng.normal(size=4), rng.normal(size=4)
    continues = SOME if ends else None
    W = V + np.abs(above)
    TV, TW = (backup(P, R, values, gamma, continues).max(-1) for values in (V, W))
    assert (TV <= TW + 1e-12).all()
    assert np.abs(TV - TW).max() <= gamma * np.abs(V - W).max() + 1e-12
    if not ends:
        shifted = backup(P, R, V + 2.5, gamma).max(-1)
        np.testing.assert_allclose(shifted, TV + 2.5 * gamma, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(seeds, st.sampled_from([0.5, 0.9, 0.99]), st.floats(1e-6, 1.0), st.booleans())
def test_the_error_is_a_bound_and_the_policy_loses_at_most_the_tolerance(
    seed, gamma, tolerance, ends
):
    P, R = random_process(seed)
    continues = SOME if ends else None
    best = best_of_all(P, R, gamma, continues)
    for planner in (value_iteration, modified_policy_iteration):
        found = planner(P, R, gamma, continues=continues, tolerance=tolerance)
        assert found.error <= tolerance / 2
        assert np.abs(found.values - best).max() <= found.error + 1e-10
        loss = suboptimality(P, R, found.policy, gamma, continues=continues)
        assert -1e-10 <= loss.min() and loss.max() <= tolerance + 1e-6


@settings(max_examples=40, deadline=None)
@given(seeds, gammas)
def test_higher_rewards_are_worth_no_less(seed, gamma):
    P, R = random_process(seed)
    more = R + np.random.default_rng(seed).random(R.shape)
    assert (policy_iteration(P, more, gamma).values >= policy_iteration(P, R, gamma).values).all()


def test_where_chains_forget_the_bounds_meet_long_before_the_sup_norm_does():
    """The next state never depends on the present one: T V - V is the same in all states soon."""
    P = np.full((5, 2, 5), 0.2)
    R = np.random.default_rng(0).random((5, 2))
    found = value_iteration(P, R, 0.999, tolerance=1e-8)
    exact = R.max(1) + 0.999 / 0.001 * R.max(1).mean()
    np.testing.assert_allclose(found.values, exact, rtol=0, atol=1e-8)
    assert found.iterations <= 5  # by the sup norm 0.999^k / 0.001 <= 1e-8: 25,000 sweeps


def test_what_rounding_allows_is_reached_and_its_error_reported():
    P, R = random_process(5)
    found = value_iteration(P, R, 0.999, tolerance=1e-15)
    assert 1e-15 < found.error < 1e-8
    exact = policy_iteration(P, R, 0.999)
    np.testing.assert_allclose(found.values, exact.values, rtol=0, atol=1e-8)
    assert exact.error < 1e-8


@pytest.mark.parametrize("planner", PLANNERS)
def test_ties_go_to_the_lowest_action(planner):
    P, R = random_process(2, actions=2)
    twice_P, twice_R = np.repeat(P, 2, axis=1), np.repeat(R, 2, axis=1)
    np.testing.assert_array_equal(
        planner(twice_P, twice_R, 0.95).policy, 2 * planner(P, R, 0.95).policy
    )
    # Both ways around a ring are equally long; 0.1 + 0.2 is not 0.3.
    ring = np.zeros((6, 2, 6))
    ring[range(6), 0, np.arange(-1, 5) % 6] = 1
    ring[range(6), 1, np.arange(1, 7) % 6] = 1
    pay = np.full((6, 2), -0.3)
    pay[:, 1] = -(0.1 + 0.2)
    found = planner(ring, pay, 0.9, continues=np.arange(6) > 0)
    assert found.policy.tolist() == [0, 0, 0, 0, 1, 1]


def test_an_end_is_a_mask_or_an_absorbing_state_that_pays_nothing():
    P, R = random_process(7)
    absorbing, unpaid = P.copy(), R.copy()
    absorbing[1], unpaid[1] = np.eye(4)[1], 0.0
    policy, mixed = random_policies(0, (4,), 3)
    start = np.array([0.5, 0.0, 0.5, 0.0])
    for gamma in (0.9, 1.0):
        masked = value_iteration(P, R, gamma, continues=SOME)
        np.testing.assert_allclose(
            masked.values, value_iteration(absorbing, unpaid, gamma).values, atol=1e-9
        )
        for actions in (policy, mixed):
            values = evaluate(P, R, actions, gamma, continues=SOME)
            others = evaluate(absorbing, unpaid, actions, gamma)
            np.testing.assert_allclose(values, others, atol=1e-12)
            visits = occupancy(P, actions, start, gamma, continues=SOME)
            assert (visits[1] == 0).all()
            assert (visits * R).sum() == pytest.approx(start @ values)
            others = occupancy(absorbing, actions, start, gamma)
            np.testing.assert_allclose(visits[SOME], others[SOME], atol=1e-12)


def test_without_discount_an_end_must_be_reached():
    line = np.zeros((4, 2, 4))
    line[range(4), 0, np.maximum(np.arange(4) - 1, 0)] = 1
    line[range(4), 1, np.minimum(np.arange(4) + 1, 3)] = 1
    cost, before_the_end = np.full((4, 2), -1.0), np.arange(4) < 3
    found = value_iteration(line, cost, 1.0, continues=before_the_end)
    assert found.values.tolist() == [-3, -2, -1, 0] and found.error == np.inf
    values = evaluate(line, cost, np.ones(4, int), 1.0, continues=before_the_end)
    np.testing.assert_allclose(values, [-3, -2, -1, 0])
    with pytest.raises(ValueError, match="policy reaches none from state 0"):
        evaluate(line, cost, np.zeros(4, int), 1.0, continues=before_the_end)
    with pytest.raises(ValueError, match="from state 0 of process 1"):
        evaluate(line, cost, np.array([[1] * 4, [0] * 4]), 1.0, continues=before_the_end)
    with pytest.raises(ValueError, match="does not converge with gamma=1.0 within 50 sweeps"):
        value_iteration(line, cost, 1.0, max_sweeps=50)


def test_news_that_travels_a_state_per_sweep_is_solved_for_once():
    P, R = river(states=200, forward=1.0, back=0.0, small=0.0, large=1.0)
    found = policy_iteration(P, R, 0.99)
    np.testing.assert_allclose(found.values, 100 * 0.99 ** np.arange(199, -1, -1))
    assert found.iterations <= 3


def test_a_policy_is_worth_what_it_earns_in_the_long_run():
    """Against sums over 2,000 steps, for a policy that is random and one that is not."""
    P, R = random_process(11)
    start = np.array([0.0, 0.5, 0.25, 0.25])
    for policy in random_policies(1, (4,), 3):
        chances = np.eye(3)[policy] if policy.ndim == 1 else policy
        law, weight, visits = start, 1.0, np.zeros((4, 3))
        for _ in range(2_000):
            visits += weight * law[:, None] * chances
            law = np.einsum("s,sa,sat->t", law, chances, P)
            weight *= 0.98
        ours = occupancy(P, policy, start, 0.98)
        np.testing.assert_allclose(ours, visits, atol=1e-12)
        assert ours.sum() == pytest.approx(50)
        assert (visits * R).sum() == pytest.approx(start @ evaluate(P, R, policy, 0.98))


def test_many_policies_are_evaluated_on_one_process():
    P, R = random_process(4)
    policies, mixed = random_policies(2, (5, 4), 3)
    values = evaluate(P, R, policies, 0.9)
    for policy, value in zip(policies, values, strict=True):
        transitions, rewards = chain(P, R, policy)
        np.testing.assert_allclose(value, rewards + 0.9 * transitions @ value)
    values = evaluate(P, R, mixed, 0.9)
    assert values.shape == (5, 4)
    np.testing.assert_allclose(values[3], evaluate(P, R, mixed[3], 0.9))
    assert (suboptimality(P, R, mixed, 0.9) > 0).all()
    best = policy_iteration(P, R, 0.9).policy
    np.testing.assert_allclose(suboptimality(P, R, best, 0.9), 0, atol=1e-12)


# -- sparse ----------------------------------------------------------------------------------------


def sparse_forms(P):
    rows = sparse.csr_array(P.reshape(-1, P.shape[-1]))
    return [rows, rows.tocoo(), [sparse.csr_matrix(P[:, a]) for a in range(P.shape[1])]]


@pytest.mark.parametrize("form", range(3))
@pytest.mark.parametrize("continues", [None, SOME])
def test_sparse_tables_give_what_dense_ones_do(form, continues):
    P, R = random_process(8)
    P[P < 0.1] = 0
    P /= P.sum(-1, keepdims=True)
    thin = sparse_forms(P)[form]
    start = np.array([0.1, 0.2, 0.3, 0.4])
    exact = policy_iteration(P, R, 0.95, continues=continues)
    for planner in (value_iteration, modified_policy_iteration):
        found = planner(thin, R, 0.95, continues=continues)
        np.testing.assert_allclose(found.values, exact.values, rtol=0, atol=1e-10)
        np.testing.assert_array_equal(found.policy, exact.policy)
        several = planner(thin, np.stack([R, -R]), 0.95, continues=continues)
        np.testing.assert_allclose(several.values[0], exact.values, rtol=0, atol=1e-10)
    np.testing.assert_allclose(
        backup(thin, R, exact.values, 0.95, continues), backup(P, R, exact.values, 0.95, continues)
    )
    for policy in random_policies(3, (2, 4), 3):
        dense = evaluate(P, R, policy, 0.95, continues=continues)
        ours = evaluate(thin, R, policy, 0.95, continues=continues)
        np.testing.assert_allclose(ours, dense, rtol=0, atol=1e-10)
        dense = occupancy(P, policy, start, 0.95, continues=continues)
        ours = occupancy(thin, policy, start, 0.95, continues=continues)
        np.testing.assert_allclose(ours, dense, rtol=0, atol=1e-9)


def test_a_hundred_thousand_sparse_states_are_solved():
    """A ring on which one moves 1 or 2 states, slips, and is paid at one state: checked by T V."""
    states, gamma = 100_000, 0.9
    here = np.arange(states)
    parts = []
    for way in (1, 2):
        to = np.stack([(here + way) % states, here], axis=1)
        weights = np.tile([0.8, 0.2], states)
        parts.append(sparse.csr_array((weights, to.reshape(-1), np.arange(0, 2 * states + 1, 2))))
    R = np.zeros((states, 2))
    R[0] = 1.0
    found = modified_policy_iteration(parts, R, gamma, tolerance=1e-8)
    assert found.error <= 5e-9
    residual = backup(parts, R, found.values, gamma).max(-1) - found.values
    assert np.abs(residual).max() <= (1 + gamma) * found.error
    # Two states before the paid one a double step pays; from the one before a single step does.
    assert found.policy[-1] == 0 and found.policy[-2] == 1


def test_what_sparse_tables_cannot_do_is_said():
    P, R = random_process(8)
    thin = sparse_forms(P)[0]
    with pytest.raises(ValueError, match="solve it by modified_policy_iteration"):
        policy_iteration(thin, R, 0.9)
    with pytest.raises(ValueError, match=r"gamma=1 is outside \[0, 1\)"):
        occupancy(thin, np.zeros(4, int), np.full(4, 0.25), 1)
    with pytest.raises(ValueError, match=r"P has shape \(12, 5\), allowed is \[S \* A, S\]"):
        value_iteration(sparse.csr_array(np.ones((12, 5))), R, 0.9)
    with pytest.raises(ValueError, match=r"parts of shapes \[\(4, 4\), \(5, 5\)\]"):
        value_iteration([sparse.eye_array(4), sparse.eye_array(5)], R, 0.9)
    with pytest.raises(ValueError, match=r"P\[5\] sums to 0.0"):
        value_iteration(sparse.csr_array(thin.toarray() * (np.arange(12) != 5)[:, None]), R, 0.9)


# -- torch -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("planner", PLANNERS)
def test_tensors_give_what_arrays_do(planner):
    P, R = random_process(9, batch=(3,))
    continues = np.stack([SOME, ~SOME, SOME])
    ours = planner(P, R, 0.9, continues=continues)
    theirs = planner(*map(torch.as_tensor, (P, R)), 0.9, continues=torch.as_tensor(continues))
    for mine, other in zip(ours, theirs, strict=True):
        assert isinstance(other, torch.Tensor)
        np.testing.assert_allclose(mine, other.numpy(), rtol=0, atol=1e-10)
    assert theirs.policy.dtype == torch.int64


def test_the_gradient_of_a_value_in_the_rewards_is_the_occupancy():
    P, R = (torch.as_tensor(table) for table in random_process(10))
    R.requires_grad_()
    start = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    for policy in map(torch.as_tensor, random_policies(4, (4,), 3)):
        (gradient,) = torch.autograd.grad((start * evaluate(P, R, policy, 0.9)).sum(), R)
        visits = occupancy(P, policy, start, 0.9)
        np.testing.assert_allclose(gradient.numpy(), visits.numpy(), atol=1e-12)


# -- errors ----------------------------------------------------------------------------------------

GOOD_P, GOOD_R = random_process(0)


@pytest.mark.parametrize(
    ("P", "R", "options", "message"),
    [
        (GOOD_P[0], GOOD_R, {}, r"P has shape \(3, 4\), allowed is \[..., S, A, S\]"),
        (GOOD_P[..., :3], GOOD_R, {}, r"P has shape \(4, 3, 3\)"),
        (GOOD_P[:, :0], GOOD_R, {}, r"P has shape \(4, 0, 4\)"),
        (GOOD_P, GOOD_R.T, {}, r"R has shape \(3, 4\), with this P it must be \[..., 4, 3\]"),
        (GOOD_P, GOOD_R * np.inf, {}, "R holds values that are not finite"),
        (GOOD_P / 2, GOOD_R, {}, r"P\[0, 0\] sums to 0\.(5|49)"),
        (GOOD_P * np.nan, GOOD_R, {}, r"P\[0, 0, 0\] = nan is outside"),
        (2 * GOOD_P - 0.25, GOOD_R, {}, r"P\[.*\] = .* is outside \[0, 1\]"),
        (GOOD_P, np.stack([GOOD_R] * 2), {"continues": np.ones((3, 4), bool)}, "batch axes do not"),
        (GOOD_P, GOOD_R, {"continues": np.ones(4)}, "continues is float64 of shape"),
        (GOOD_P, GOOD_R, {"continues": np.ones(3, bool)}, r"must be bool \[..., 4\]"),
        (GOOD_P, GOOD_R, {"gamma": 1.5}, "gamma=1.5 is outside"),
        (GOOD_P, GOOD_R, {"gamma": -0.1}, "gamma=-0.1 is outside"),
    ],
)
@pytest.mark.parametrize("planner", PLANNERS)
def test_bad_tables_are_refused(planner, P, R, options, message):
    with pytest.raises(ValueError, match=message):
        planner(P, R, **{"gamma": 0.9, **options})


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (np.zeros(3, int), r"policy is int64 of shape \(3,\), allowed are actions \[..., 4\]"),
        (np.zeros((4, 2)), r"probabilities \[..., 4, 3\]"),
        (np.full(4, 3), r"actions outside 0 .. 2"),
        (np.full(4, -1), r"actions outside 0 .. 2"),
        (np.full((4, 3), 0.5), r"policy\[0\] sums to 1.5"),
        (np.full((4, 3), -1.0), r"policy\[0, 0\] = -1.0 is outside"),
    ],
)
def test_bad_policies_are_refused(policy, message):
    with pytest.raises(ValueError, match=message):
        evaluate(GOOD_P, GOOD_R, policy, 0.9)


def test_other_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="tolerance=0 must be above 0"):
        value_iteration(GOOD_P, GOOD_R, 0.9, tolerance=0)
    with pytest.raises(ValueError, match="evaluation_sweeps=0 must be an integer of at least 1"):
        modified_policy_iteration(GOOD_P, GOOD_R, 0.9, evaluation_sweeps=0)
    for planner in (modified_policy_iteration, policy_iteration):
        with pytest.raises(ValueError, match=r"gamma=1 is outside \[0, 1\)"):
            planner(GOOD_P, GOOD_R, 1)
    for start, message in (([0.5, 0.5], "d0 has shape"), ([0.5] * 4, "d0 sums to 2.0")):
        with pytest.raises(ValueError, match=message):
            occupancy(GOOD_P, np.zeros(4, int), start, 0.9)
    with pytest.raises(ValueError, match="within 4 sweeps"):
        value_iteration(GOOD_P, GOOD_R, 0.9, max_sweeps=4)
