"""Planning for the average reward: all policies, rivers, periodic and multichain processes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_processes import (
    chain,
    every_policy,
    long_run,
    random_policies,
    random_process,
    river,
)

from palaestra.envs.tabular.planning import linear_programming
from palaestra.envs.tabular.planning.average_reward import (
    evaluate,
    policy_iteration,
    relative_value_iteration,
    span,
)

PLANNERS = [relative_value_iteration, policy_iteration]
# A ring of three states on which one walks to the right, whatever one does; one place pays.
RING = np.zeros((3, 2, 3))
RING[range(3), :, [1, 2, 0]] = 1
RING_PAY = np.array([[0.0, 0.0], [0.0, 3.0], [0.0, 0.0]])


@pytest.mark.parametrize("planner", PLANNERS)
@pytest.mark.parametrize("seed", range(4))
def test_planners_find_the_best_of_all_policies(planner, seed):
    P, R = random_process(seed)
    gains = []
    for policy in every_policy(4, 3):
        transitions, rewards = chain(P, R, policy)
        gains.append((long_run(transitions) @ rewards)[0])
    found = planner(P, R)
    assert found.gain == pytest.approx(max(gains), abs=1e-9)
    assert abs(found.gain - max(gains)) <= found.error + 1e-12
    assert found.bias[0] == 0
    residual = (R + P @ found.bias).max(1) - found.bias - found.gain
    np.testing.assert_allclose(residual, 0, atol=1e-9)
    assert evaluate(P, R, found.policy).gain == pytest.approx(max(gains), abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_the_linear_programmes_agree(seed):
    P, R = random_process(seed)
    gain, bias = linear_programming.average_gain(P, R)
    shares = linear_programming.average_occupancy(P, R)
    for planner in PLANNERS:
        found = planner(P, R)
        assert found.gain == pytest.approx(gain, abs=1e-8)
        np.testing.assert_allclose(found.bias, bias, rtol=0, atol=1e-8)
        law = evaluate(P, R, found.policy).stationary
        np.testing.assert_allclose(law, shares.sum(1), rtol=0, atol=1e-8)
    assert (shares * R).sum() == pytest.approx(gain, abs=1e-8)


@pytest.mark.parametrize("planner", PLANNERS)
def test_a_river_is_swum_up_from_everywhere(planner):
    """Reference: J* .287496 for 6 states, forward .35, back .15, paid .05 and .5."""
    P, R = river()
    found = planner(P, R)
    assert found.gain == pytest.approx(0.287496, abs=1e-6)
    assert found.policy.tolist() == [1] * 6
    assert (np.diff(found.bias) > 0).all()
    assert span(found.bias) == pytest.approx(found.bias[-1])
    assert evaluate(P, R, np.zeros(6, int)).gain == pytest.approx(0.05)


def test_worked_example_of_two_states():
    """Staying in state 1 pays 1: J = 1, Q - J = [[-.8, 0], [0, 2]] with V(0) = 0."""
    P = np.array([[[1, 0], [0.5, 0.5]], [[0.5, 0.5], [0, 1]]])
    R = np.array([[0.2, 0.0], [0.0, 1.0]])
    found = relative_value_iteration(P, R)
    assert found.gain == pytest.approx(1)
    np.testing.assert_allclose(R + P @ found.bias - found.gain, [[-0.8, 0], [0, 2]], atol=1e-9)
    assert found.policy.tolist() == [1, 1]


@pytest.mark.parametrize("planner", PLANNERS)
def test_periodic_chains_have_a_gain(planner):
    found = planner(RING, RING_PAY)
    assert found.gain == pytest.approx(1)
    np.testing.assert_allclose(found.bias, [0, 1, -1], atol=1e-9)
    assert found.policy.tolist() == [0, 1, 0]
    policy = evaluate(RING, RING_PAY, found.policy)
    np.testing.assert_allclose(policy.stationary, 1 / 3)
    np.testing.assert_allclose(policy.bias, [0, 1, -1], atol=1e-12)


@pytest.mark.parametrize("random", [False, True])
def test_bias_is_what_a_start_earns_more_in_all_time(random):
    P, R = random_process(12)
    policy = random_policies(3, (4,), 3)[random]
    chances = policy if random else np.eye(3)[policy]
    transitions = np.einsum("sa,sat->st", chances, P)
    rewards = (chances * R).sum(1)
    found = evaluate(P, R, policy)
    np.testing.assert_allclose(found.stationary, long_run(transitions)[0], atol=1e-12)
    assert found.gain == pytest.approx(found.stationary @ rewards)
    law, more = np.eye(4), np.zeros(4)
    for _ in range(3_000):
        more += law @ rewards - found.gain
        law = law @ transitions
    np.testing.assert_allclose(found.bias, more, atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.05, 0.95), st.floats(-5, 5))
def test_damping_changes_nothing_and_a_bonus_per_step_only_the_gain(seed, damping, bonus):
    P, R = random_process(seed)
    found = relative_value_iteration(P, R, damping=damping)
    exact = policy_iteration(P, R + bonus)
    assert found.gain + bonus == pytest.approx(exact.gain, abs=1e-9)
    np.testing.assert_allclose(found.bias, exact.bias, atol=1e-7)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(1e-6, 0.5))
def test_the_error_is_a_bound_and_the_policy_loses_at_most_the_tolerance(seed, tolerance):
    P, R = random_process(seed)
    best = policy_iteration(P, R).gain
    found = relative_value_iteration(P, R, tolerance=tolerance)
    assert found.error <= tolerance / 2
    assert abs(found.gain - best) <= found.error + 1e-10
    assert evaluate(P, R, found.policy).gain >= best - tolerance - 1e-8


@pytest.mark.parametrize("planner", PLANNERS)
def test_a_batch_is_solved_as_its_members_are(planner):
    P, R = random_process(0, batch=(300, 2), states=8, actions=5)
    R[0, 0] = 100 * R[0, 0]
    found = planner(P, R)
    assert found.gain.shape == (300, 2) and found.bias.shape == (300, 2, 8)
    for place in [(0, 0), (150, 1), (299, 1)]:
        alone = planner(P[place], R[place])
        assert found.gain[place] == pytest.approx(alone.gain, abs=1e-9)
        np.testing.assert_allclose(found.bias[place], alone.bias, atol=1e-8)
        np.testing.assert_array_equal(found.policy[place], alone.policy)
    policy, mixed = random_policies(0, (2, 8), 5)
    several = evaluate(P[:3], R[:3], mixed)
    one = evaluate(P[2, 1], R[2, 1], mixed[1])
    for many, single in zip(several, one, strict=True):
        np.testing.assert_allclose(many[2, 1], single, atol=1e-10)


def test_tensors_give_what_arrays_do():
    P, R = random_process(3, batch=(2,))
    p, r = map(torch.as_tensor, (P, R))
    for planner in PLANNERS:
        for ours, theirs in zip(planner(P, R), planner(p, r), strict=True):
            np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-9)
    policy, _ = random_policies(0, (2, 4), 3)
    for ours, theirs in zip(
        evaluate(P, R, policy), evaluate(p, r, torch.as_tensor(policy)), strict=True
    ):
        np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-12)


# -- multichain ------------------------------------------------------------------------------------

TWO_SHORES = np.zeros((3, 2, 3))
TWO_SHORES[0, :, 0] = TWO_SHORES[1, :, 1] = 1
TWO_SHORES[2, 0, 0] = TWO_SHORES[2, 1, 1] = 1
# In state 0 one may stay or leave for state 1 for ever.
DEPARTURE = np.array([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [0.0, 1.0]]])


def test_two_sets_that_are_never_left_are_found_before_the_first_sweep():
    message = "the gain depends on the start: whatever is done, states 0 and 1 lie in different"
    with pytest.raises(ValueError, match=message):
        relative_value_iteration(TWO_SHORES, np.zeros((3, 2)))
    P, R = np.stack([RING, TWO_SHORES]), np.zeros((2, 3, 2))
    with pytest.raises(ValueError, match="states 0 and 1 of process 1 lie in different"):
        relative_value_iteration(P, R)
    with pytest.raises(ValueError, match="under the policy, states 0 and 1 lie in different"):
        evaluate(TWO_SHORES, R[0], np.zeros(3, int))
    with pytest.raises(ValueError, match="under a policy on the way, states 0 and 1 lie"):
        policy_iteration(TWO_SHORES, R[0])


def test_a_gain_that_depends_on_staying_is_not_found():
    stay = np.array([[1.0, 0.0], [0.0, 0.0]])
    with pytest.raises(ValueError, match="still 1 apart: the gain depends on the start"):
        relative_value_iteration(DEPARTURE, stay, max_sweeps=500)
    with pytest.raises(ValueError, match="under a policy on the way"):
        policy_iteration(DEPARTURE, stay)
    leave = np.array([[-1.0, 0.0], [0.0, 0.0]])
    found = relative_value_iteration(DEPARTURE, leave)
    assert found.gain == 0 and found.policy.tolist() == [1, 0]


@pytest.mark.parametrize("options", [{"damping": 0.0}, {"damping": 1.0}, {"tolerance": 0.0}])
def test_bad_arguments_are_refused(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))}=.* must be above 0"):
        relative_value_iteration(RING, RING_PAY, **options)


def test_sparse_tables_are_refused():
    from scipy import sparse

    thin = sparse.csr_array(RING.reshape(6, 3))
    for run in (
        lambda: relative_value_iteration(thin, RING_PAY),
        lambda: policy_iteration(thin, RING_PAY),
        lambda: evaluate(thin, RING_PAY, np.zeros(3, int)),
    ):
        with pytest.raises(ValueError, match="needs dense tables"):
            run()
