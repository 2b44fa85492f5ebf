"""Planning over a horizon: against all policies and all paths, changing tables, torch, errors."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_processes import every_policy, random_policies, random_process, river

from palaestra.envs.tabular.planning import linear_programming
from palaestra.envs.tabular.planning.finite_horizon import (
    backward_induction,
    evaluate,
    occupancy,
    suboptimality,
)

SOME = np.array([True, False, True, True])


def over_all_paths(P, chances, start, continues):
    """Visits [H, S, A] of a policy [H, S, A], by following every path."""
    steps, states, actions = chances.shape
    visits = np.zeros(chances.shape)

    def follow(t, s, probability):
        if t == steps or not continues[s]:
            return
        for a in range(actions):
            visits[t, s, a] += probability * chances[t, s, a]
            for following in range(states):
                follow(t + 1, following, probability * chances[t, s, a] * P[t, s, a, following])

    for s in range(states):
        follow(0, s, start[s])
    return visits


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("gamma", [0.8, 1.0])
def test_backward_induction_finds_the_best_of_all_policies(seed, gamma):
    P, R = random_process(seed, states=2, actions=2, steps=(4,))
    values = []
    for policy in every_policy((4, 2), 2):
        later = np.zeros(2)
        for t in reversed(range(4)):
            chosen = (range(2), policy[t])
            later = R[t][chosen] + gamma * P[t][chosen] @ later
        values.append(later)
    plan = backward_induction(P, R, gamma=gamma)
    assert plan.values.shape == plan.policy.shape == (4, 2)
    np.testing.assert_allclose(plan.values[0], np.max(values, axis=0), atol=1e-12)
    attained = evaluate(P, R, plan.policy, gamma=gamma)
    np.testing.assert_allclose(attained, plan.values, atol=1e-12)


@pytest.mark.parametrize("continues", [None, np.array([True, True, False])])
def test_values_and_occupancies_are_those_of_all_paths(continues):
    P, R = random_process(5, states=3, actions=2, steps=(3,))
    start = np.array([0.2, 0.5, 0.3])
    mask = np.ones(3, bool) if continues is None else continues
    for policy in random_policies(0, (3, 3), 2):
        chances = np.eye(2)[policy] if policy.ndim == 2 else policy
        visits = over_all_paths(P, chances, start, mask)
        ours = evaluate(P, R, policy, continues=continues)
        assert start @ ours[0] == pytest.approx((visits * R).sum())
        np.testing.assert_allclose(
            occupancy(P, policy, start, continues=continues), visits, atol=1e-12
        )


@pytest.mark.parametrize("continues", [None, SOME])
def test_the_linear_programmes_agree(continues):
    P, R = random_process(6, steps=(5,))
    start = np.array([0.4, 0.1, 0.2, 0.3])
    plan = backward_induction(P, R, gamma=0.9, continues=continues)
    values = linear_programming.finite_horizon_values(P, R, gamma=0.9, continues=continues)
    np.testing.assert_allclose(plan.values, values, rtol=0, atol=1e-8)
    plan = backward_induction(P, R, continues=continues)
    visits = linear_programming.finite_horizon_occupancy(P, R, start, continues=continues)
    ours = occupancy(P, plan.policy, start, continues=continues)
    np.testing.assert_allclose(ours, visits, rtol=0, atol=1e-8)
    assert (ours * R).sum() == pytest.approx(start @ plan.values[0])


def test_one_table_stands_for_all_steps():
    P, R = random_process(7)
    plan = backward_induction(P, R, 6)
    assert plan.values.shape == (6, 4)
    repeated = backward_induction(np.stack([P] * 6), np.stack([R] * 6))
    np.testing.assert_array_equal(plan.values, repeated.values)
    mixed = backward_induction(P, np.stack([R] * 6))
    np.testing.assert_array_equal(plan.values, mixed.values)
    policy, _ = random_policies(0, (6, 4), 3)
    np.testing.assert_array_equal(
        evaluate(P, R, policy), evaluate(np.stack([P] * 6), R[None], policy)
    )


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.booleans(), st.booleans())
def test_a_batch_is_solved_as_its_members_are(seed, ends, changing):
    steps = (3,) if changing else (1,)
    P, R = random_process(seed, batch=(2, 2), steps=steps)
    continues = SOME if ends else None
    plan = backward_induction(P, R, 3, continues=continues)
    policy, mixed = random_policies(seed, (2, 2, 3, 4), 3)
    loss = suboptimality(P, R, mixed, continues=continues)
    assert plan.values.shape == loss.shape == (2, 2, 3, 4)
    assert loss.min() >= -1e-12
    start = np.full(4, 0.25)
    visits = occupancy(P, policy, start, continues=continues)
    for i, j in itertools.product(range(2), repeat=2):
        one = backward_induction(P[i, j], R[i, j], 3, continues=continues)
        np.testing.assert_allclose(plan.values[i, j], one.values, atol=1e-12)
        np.testing.assert_array_equal(plan.policy[i, j], one.policy)
        value = evaluate(P[i, j], R[i, j], mixed[i, j], continues=continues)
        np.testing.assert_allclose(one.values - value, loss[i, j], atol=1e-12)
        np.testing.assert_allclose(
            visits[i, j], occupancy(P[i, j], policy[i, j], start, continues=continues), atol=1e-12
        )
    sums = visits.sum((-1, -2))
    if ends:
        assert (np.diff(sums) <= 1e-12).all() and sums[0, 0, 0] == pytest.approx(0.75)
    else:
        np.testing.assert_allclose(sums, 1.0)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_one_more_step_of_rewards_above_zero_is_worth_something(seed):
    P, R = random_process(seed)
    values = backward_induction(P, np.abs(R), 5).values
    assert (np.diff(values, axis=0) <= 1e-12).all()


def test_a_river_that_pays_the_swimmer():
    """Reference: the optimal value from the left bank of a river of 4 states, 8 steps."""
    P, R = river(4, 0.6, 0.05, 0.05, 1.0, first=0.7, last=0.1)
    plan = backward_induction(P, R, 8)
    assert plan.values[0, 0] == pytest.approx(2.865666, abs=1e-6)
    assert plan.policy[0].tolist() == [1, 1, 1, 1]
    assert plan.policy[-1].tolist() == [0, 0, 0, 1]
    assert suboptimality(P, R, np.zeros((8, 4), int))[0, 0] == pytest.approx(2.865666 - 0.4)


def test_tensors_give_what_arrays_do():
    P, R = random_process(8, batch=(2,), steps=(3,))
    start = np.full(4, 0.25)
    p, r, d = map(torch.as_tensor, (P, R, start))
    mask = torch.as_tensor(SOME)
    for ours, theirs in zip(
        backward_induction(P, R, continues=SOME),
        backward_induction(p, r, continues=mask),
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-12)
    for policy in random_policies(1, (2, 3, 4), 3):
        given_policy = torch.as_tensor(policy)
        ours, theirs = evaluate(P, R, policy), evaluate(p, r, given_policy)
        np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-12)
        ours, theirs = occupancy(P, policy, start), occupancy(p, given_policy, d)
        np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"horizon": 2}, "P has tables for 3 steps, allowed are 1 and the horizon, 2"),
        ({"horizon": 0}, "horizon=0 must be an integer of at least 1"),
        ({"R": np.zeros((2, 4, 3))}, "R has tables for 2 steps"),
        ({"R": np.zeros((3, 4, 2))}, r"with this P it must be \[..., T, 4, 3\]"),
        ({"P": np.zeros((4, 3))}, r"P has shape \(4, 3\), allowed is \[..., T, S, A, S\]"),
        ({"gamma": 2.0}, r"gamma=2.0 is outside \[0, 1\]"),
    ],
)
def test_bad_tables_are_refused(arguments, message):
    P, R = random_process(0, steps=(3,))
    with pytest.raises(ValueError, match=message):
        backward_induction(**{"P": P, "R": R, **arguments})


def test_bad_policies_are_refused():
    P, R = random_process(0, steps=(3,))
    with pytest.raises(ValueError, match=r"allowed are actions \[..., H, 4\]"):
        evaluate(P, R, np.zeros(4, int))
    with pytest.raises(ValueError, match="P has tables for 3 steps"):
        evaluate(P, R, np.zeros((2, 4), int))
    with pytest.raises(ValueError, match="d0 has shape"):
        occupancy(P, np.zeros((3, 4), int), [1.0, 0.0])
