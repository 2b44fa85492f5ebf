"""Fair Exp2: the encoded batch, its losses, and a lender who learns to heed the panel."""

from __future__ import annotations

import itertools

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

import palaestra
from palaestra.agents.bandit.fair_one_sided import (
    FairExp2,
    encoded_batch,
    estimated_costs,
    exp2,
    policy_losses,
)
from palaestra.agents.bandit.threshold_policy import acceptance, sampled
from palaestra.agents.base.bandit import Diary
from palaestra.envs.bandits.auditors import AuditorPanel, called_distances
from palaestra.wrappers.sb3 import make_sb3

POLICIES = np.array([[1, 1, 0], [1, 0, 0], [0, 1, 1]])
WEIGHTS = np.array([0.5, 0.3, 0.2])


def lender(seed=0, **arguments):
    env = gym.make("OneSidedFeedback-v0", T=400)
    return palaestra.agents.FairExp2("ThresholdPolicy", env, seed=seed, **arguments)


def test_worked_example_of_a_round():
    pi = acceptance(POLICIES.T, WEIGHTS, 0.1)
    assert_allclose(pi, [0.77, 0.68, 0.23], atol=1e-12)
    distances = called_distances(
        np.zeros((1, 3, 1)), [lambda x, y, d=d: d for d in (0.1, 0.3, 0.6)]
    )
    pair = AuditorPanel(0.2, 0.6).report(pi[None], distances)[0][0]
    assert pair.tolist() == [0, 2]
    costs = estimated_costs(np.array([1, 0, -1]), np.array([1, 1, 0]), pi)
    people, costs = encoded_batch(costs, pair, 2)
    assert people.tolist() == [0, 1, 2, 0, 0, 2, 2]
    assert_allclose(costs, [0, 1.470588, 0, 1, 1, 0, 0], atol=1e-6)
    losses = policy_losses(POLICIES.T, people, costs)
    assert_allclose(losses, [4.970588, 4.0, 2.970588], atol=1e-6)
    assert_allclose(
        np.exp(exp2(np.log(WEIGHTS), losses, 0.5)), [0.326573, 0.318340, 0.355087], atol=1e-6
    )


def test_worked_example_without_a_report():
    pi = acceptance(POLICIES.T, WEIGHTS, 0.1)
    distances = called_distances(
        np.zeros((1, 3, 1)), [lambda x, y, d=d: d for d in (0.1, 0.3, 0.6)]
    )
    pair = AuditorPanel(0.2, 0.7).report(pi[None], distances)[0][0]
    costs = np.array([0.0, 2.0, 1.0])
    people, same = encoded_batch(costs, pair, 2)
    assert people.tolist() == [0, 1, 2]
    assert_allclose(same, costs)


@given(
    labels=st.lists(st.integers(0, 1), min_size=3, max_size=3),
    pair=st.permutations(range(3)).map(lambda p: np.array(p[:2])),
    copies=st.integers(0, 6),
)
def test_an_encoded_loss_is_half_the_lagrangian_up_to_a_constant(labels, pair, copies):
    members = np.array(list(itertools.product((0, 1), repeat=3)))
    people, costs = encoded_batch(1.0 - np.array(labels), pair, copies)
    losses = policy_losses(members.T, people, costs)
    wrong = (members != labels).sum(axis=1)
    gap = members[:, pair[0]] - members[:, pair[1]]
    assert_allclose(losses - 0.5 * wrong - 0.5 * copies * gap, 1.5 + copies - 0.5 * sum(labels))


def test_estimates_are_right_on_average_and_decisions_have_the_stated_chances():
    rng, labels = np.random.default_rng(3), np.array([0, 1, 0])
    pi, rounds = acceptance(POLICIES.T, WEIGHTS, 0.2), 40_000
    table = np.broadcast_to(POLICIES.T, (rounds, 3, 3))
    played = sampled(table, WEIGHTS, 0.2, rng.random((rounds, 3)))
    assert_allclose(played.mean(axis=0), pi, atol=0.012)
    seen = np.where(played, labels, -1)
    assert_allclose(estimated_costs(seen, played, pi).mean(axis=0), 1 - labels, atol=0.05)
    # With the coin alone all are treated alike, and without it nobody is who no policy accepts.
    alike = sampled(table[:50], WEIGHTS, 1.0, rng.random((50, 3)))
    assert set(map(tuple, alike.tolist())) == {(0, 0, 0), (1, 1, 1)}
    nobody = sampled(np.zeros((50, 3, 3), int), WEIGHTS, 0.0, rng.random((50, 3)))
    assert not nobody.any()


def test_without_a_coin_a_probability_of_zero_does_no_harm():
    assert estimated_costs(np.array([-1]), np.array([0]), np.array([0.0])).tolist() == [0.0]
    assert estimated_costs(np.array([0]), np.array([1]), np.array([0.0])) == pytest.approx([1e6])


def test_weights_beyond_the_smallest_number_still_add_up_to_one():
    log_weights = np.log(WEIGHTS)
    for _ in range(3):
        log_weights = exp2(log_weights, np.array([1e4, 0.0, 2e4]), 1.0)
    assert np.exp(log_weights).sum() == pytest.approx(1.0)
    assert log_weights[0] < -29_000 and np.isfinite(log_weights).all()
    back = exp2(log_weights, np.array([-3e4, 0.0, -6e4]), 1.0)
    assert_allclose(np.exp(back), WEIGHTS, atol=1e-8)


def test_thresholds_by_group():
    agent = lender(policy_kwargs={"thresholds": [0.3, 0.7]})
    assert agent.policy.thresholds.tolist() == [[0.3, 0.3], [0.3, 0.7], [0.7, 0.3], [0.7, 0.7]]
    people = np.array([[0.5, 0.0, 0.5, 1.0, 0.2, 0.0, 0.9, 1.0]], np.float32)
    decisions = agent.policy.decisions(people)[0]
    expected = [[1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]]
    assert decisions.tolist() == expected
    assert_allclose(agent.policy.acceptance(people)[0], [0.5, 0.5, 0.025, 0.975])
    assert agent.predict(people[0], deterministic=True)[0].tolist() == [0, 0, 0, 1]
    assert len(lender().policy.log_weights) == 81


def test_copies_lower_the_violations():
    shares = []
    for copies in (0, 10):
        diary = Diary()
        lender(copies=copies).learn(400, callback=diary)
        shares.append(diary.column("rollout/violation").mean())
    assert shares[1] < 0.5 * shares[0]


def test_one_person_has_no_pair_and_is_learned_about():
    env = gym.make("OneSidedFeedback-v0", k=1, T=300, thresholds=(0.5, 0.5))
    agent = FairExp2("ThresholdPolicy", env, eta=0.2, seed=0).learn(300)
    accepted = agent.predict(np.array([[0.05, 0], [0.95, 1]], np.float32), deterministic=True)[0]
    assert accepted.tolist() == [[0], [1]]


def test_parallel_environments_are_audited_each_and_learn_as_one():
    env = make_sb3("OneSidedFeedback-v0", 3, T=40, keep_infos=True)
    agent = FairExp2("ThresholdPolicy", env, seed=0).learn(60)
    audited = env.vector.state["audited"]
    assert audited.shape == (3, 4) and not np.isin(audited, (0, 1)).any()
    assert agent.policy.weights.sum() == pytest.approx(1.0)
    assert np.ptp(agent.policy.weights) > 0.001


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"copies": -1}, "copies=-1"),
        ({"copies": 1.5}, "copies=1.5"),
        ({"eta": 0}, "eta=0"),
        ({"mix": 1.1}, "mix=1.1"),
        ({"policy_kwargs": {"thresholds": []}}, "at least one"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        lender(**arguments)


def test_environments_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="MultiBinary"):
        FairExp2("ThresholdPolicy", "CartPole-v1")
    contexts, labels = np.arange(30.0).reshape(5, 2, 3), np.zeros((5, 2), int)
    with pytest.raises(ValueError, match="2 or 4 numbers"):
        FairExp2(
            "ThresholdPolicy", gym.make("OneSidedFeedback-v0", contexts=contexts, labels=labels)
        )
    with pytest.raises(ValueError, match="a group is 0 or 1"):
        lender().predict(np.full(8, 0.5, np.float32))
    with pytest.raises(ValueError, match="gamma"):
        gym.make("OneSidedFeedback-v0", gamma=0.0)
    silent = make_sb3("OneSidedFeedback-v0", 2)
    with pytest.raises(ValueError, match="keep_infos=True"):
        FairExp2("ThresholdPolicy", silent).learn(4)
