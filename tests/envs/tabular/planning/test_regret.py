"""Regret curves against plain loops, and what does not fit together."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_processes import best_of_all, chain, random_policies, random_process, river

from palaestra.envs.tabular.planning.finite_horizon import backward_induction, evaluate
from palaestra.envs.tabular.planning.regret import (
    average_reward_regret,
    cumulative_regret,
    episodic_exploitability,
    episodic_regret,
    exploitability,
    pseudo_regret,
)

START = np.array([0.1, 0.2, 0.3, 0.4])


def test_exploitability_is_what_the_best_of_all_policies_gains():
    P, R = random_process(0)
    policy, _ = random_policies(1, (4,), 3)
    transitions, rewards = chain(P, R, policy)
    value = np.linalg.solve(np.eye(4) - 0.9 * transitions, rewards)
    expected = START @ (best_of_all(P, R, 0.9) - value)
    assert exploitability(P, R, policy, START, 0.9) == pytest.approx(expected)
    assert expected > 0.1
    ends = np.array([True, True, False, True])
    found = exploitability(P, R, np.stack([policy] * 2), START, 0.9, continues=ends)
    assert found.shape == (2,) and found[0] == found[1] != pytest.approx(expected)


@pytest.mark.parametrize("random", [False, True])
def test_regret_of_episodes_is_the_sum_of_what_each_policy_loses(random):
    P, R = random_process(2, steps=(3,))
    policies = random_policies(3, (5, 3, 4), 3)[random]
    best = START @ backward_induction(P, R).values[0]
    total, curve = 0.0, []
    for policy in policies:
        loss = best - START @ evaluate(P, R, policy)[0]
        assert episodic_exploitability(P, R, policy, START) == pytest.approx(loss)
        total += loss
        curve.append(total)
    np.testing.assert_allclose(episodic_regret(P, R, policies, START), curve)
    optimal = np.stack([backward_induction(P, R).policy] * 4)
    np.testing.assert_allclose(episodic_regret(P, R, optimal, START), 0, atol=1e-12)


def test_a_batch_of_learners_has_a_curve_each():
    P, R = random_process(4, batch=(2,), steps=(3,))
    policies, _ = random_policies(5, (2, 6, 3, 4), 3)
    ends = np.array([[True] * 4, [True, False, True, True]])
    curves = episodic_regret(P, R, policies, START, continues=ends, gamma=0.9)
    assert curves.shape == (2, 6)
    for i in range(2):
        one = episodic_regret(P[i], R[i], policies[i], START, continues=ends[i], gamma=0.9)
        np.testing.assert_allclose(curves[i], one)
    shared = episodic_regret(P[0], R[0], policies, START)
    np.testing.assert_allclose(shared[0], episodic_regret(P[0], R[0], policies[0], START))


def test_regret_against_the_gain_of_a_river():
    P, R = river()
    states, actions = np.array([0, 0, 1, 5, 5, 4]), np.array([0, 1, 1, 1, 0, 1])
    curve = average_reward_regret(P, R, states, actions)
    paid = [0.05, 0, 0, 0.5, 0, 0]
    np.testing.assert_allclose(curve, np.cumsum(0.28749572 - np.array(paid)), atol=1e-7)
    both = average_reward_regret(P, R, np.stack([states] * 2), np.stack([actions, 0 * actions]))
    np.testing.assert_allclose(both[0], curve)
    np.testing.assert_allclose(both[1, -1], 6 * 0.28749572 - 0.1, atol=1e-7)
    batch = average_reward_regret(
        np.stack([P] * 2), np.stack([R, 2 * R]), np.stack([states] * 2), np.stack([actions] * 2)
    )
    np.testing.assert_allclose(batch, np.stack([curve, 2 * curve]), atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["one", "batch", "contexts", "shared"]))
def test_pseudo_regret_of_arms(seed, form):
    rng = np.random.default_rng(seed)
    arms = rng.integers(4, size=(3, 7))
    shape = {"one": (4,), "batch": (3, 4), "contexts": (3, 7, 4), "shared": (4,)}[form]
    means = rng.normal(size=shape)
    if form == "one":
        arms = arms[0]
    curve = pseudo_regret(means, arms)
    assert curve.shape == arms.shape
    assert (np.diff(curve) >= 0).all()
    for place in np.ndindex(arms.shape):
        *learner, last = place
        total = 0.0
        for t in range(last + 1):
            there = means[(*learner, t)] if form == "contexts" else means
            there = there[learner[0]] if form == "batch" else there
            total += there.max() - there[arms[(*learner, t)]]
        assert curve[place] == pytest.approx(total, abs=1e-12)


def test_regret_of_returns():
    np.testing.assert_allclose(cumulative_regret(2.0, [1.0, 3.0, 2.0]), [1, 0, 0])
    np.testing.assert_allclose(cumulative_regret([2.0, 4.0], [[1.0, 3.0]] * 2), [[1, 2]] * 2)
    np.testing.assert_allclose(cumulative_regret([[1], [2]], np.zeros((2, 2))), [[1, 2], [2, 4]])


def test_tensors_give_what_arrays_do():
    P, R = random_process(6, steps=(3,))
    policies, _ = random_policies(7, (5, 3, 4), 3)
    ours = episodic_regret(P, R, policies, START)
    theirs = episodic_regret(*map(torch.as_tensor, (P, R, policies, START)))
    np.testing.assert_allclose(ours, theirs.numpy())
    means, arms = torch.tensor([0.1, 0.9]), torch.tensor([0, 1, 0])
    np.testing.assert_allclose(pseudo_regret(means, arms).numpy(), [0.8, 0.8, 1.6], atol=1e-7)
    path = torch.tensor([0, 1]), torch.tensor([0, 1])
    curve = average_reward_regret(*map(torch.as_tensor, river()), *path)
    np.testing.assert_allclose(curve.numpy(), [0.23749572, 0.52499145], atol=1e-7)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pseudo_regret([0.1, 0.9], [0, 2]), "arms are outside 0 .. 1"),
        (lambda: pseudo_regret([0.1, 0.9], [0.0]), r"must be integers \[..., N\]"),
        (lambda: pseudo_regret([0.1, 0.9], 1), r"must be integers \[..., N\]"),
        (lambda: pseudo_regret(np.zeros((3, 2)), [0, 1]), "do not fit together"),
        (lambda: pseudo_regret(np.zeros((3, 2)), [[0, 1]]), "batch axes"),
        (lambda: cumulative_regret(np.zeros((3, 2)), [0.0, 1.0]), "broadcastable"),
        (lambda: cumulative_regret(np.zeros(3), [0.0, 1.0]), "do not fit together"),
        (lambda: average_reward_regret(*river(), [6], [0]), "states are outside 0 .. 5"),
        (lambda: average_reward_regret(*river(), [0], [2]), "actions are outside 0 .. 1"),
        (lambda: exploitability(*river(), [0] * 6, [1.0], 0.9), "d0 has shape"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
