"""Switching costs: estimates, the shrinking dartboard, and batches within a budget."""

from __future__ import annotations

import warnings

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palaestra.agents.bandit.switching_costs import (
    BatchedExponentialWeights,
    dartboard,
    law,
    number_of_batches,
    step_size,
    threshold,
    weighted_estimate,
)
from palaestra.wrappers.sb3 import make_sb3

ID, POLICY = "SwitchingCostBandit-v0", "WeightsPolicy"


def agent_of(seed=0, horizon=None, batches=None, agent_budget=None, **arguments):
    env = gym.make(ID, **arguments)
    return BatchedExponentialWeights(
        POLICY, env, horizon=horizon, batches=batches, budget=agent_budget, seed=seed
    )


def told(agent, rounds, *names):
    """What the infos of so many rounds say."""
    rows = []

    def keep(local, _):
        rows.append([local["self"]._metrics[f"rollout/{name}"] for name in names])
        return True

    agent.learn(rounds, callback=keep)
    return np.array(rows).T


# -- the paper's computation -----------------------------------------------------------------------


def test_worked_example_of_the_dartboard():
    before = np.zeros(3)
    after = -0.4 * np.array([0.0, 1.0, 0.5])
    assert np.exp(after) == pytest.approx([1, 0.670320, 0.818731], abs=1e-6)
    moves = np.array([dartboard(before, after, arm) for arm in range(3)])
    assert moves[1] == pytest.approx([0.132452, 0.759105, 0.108443], abs=1e-6)
    assert law(before) @ moves == pytest.approx(law(after))
    assert law(before) @ (1 - np.diag(moves)) == pytest.approx(0.120846, abs=1e-6)


def test_worked_example_of_the_batches():
    T, K = 8_000, 4
    found = [number_of_batches(*each) for each in (("full", T, K, 800), ("extra", T, K, 900))]
    assert found == [200, 300]
    assert step_size("full", 200, K) == pytest.approx(0.0679778, abs=1e-7)
    assert number_of_batches("bandit", T, K, None) == threshold(T, K) == 635
    assert [-(-T // N) for N in (200, 300, 635)] == [40, 27, 13]
    assert number_of_batches("bandit", T, K, 100) == number_of_batches("single", T, K, 100) == 100
    assert step_size("bandit", 100, K) == pytest.approx(np.sqrt(2 * np.log(4) / 400))


def test_worked_example_of_an_estimate_from_one_arm():
    assert weighted_estimate(3, 1, 0.6, 1 / 3) == pytest.approx([0, 1.8, 0])


def test_worked_example_of_the_regret():
    losses = [[0.1, 0.9], [0.2, 0.0], [0.5, 0.1], [0.3, 0.4]]
    for arms, regret in (([0, 0, 1, 1], 0.7), ([1, 0, 1, 0], 3.4)):
        env = gym.make(ID, losses=losses)
        env.reset(seed=0)
        infos = [env.step(arm)[4] for arm in arms]
        assert infos[-1]["cumulative_regret"] == pytest.approx(regret)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(0, 5_000), min_size=2, max_size=6),
    st.lists(st.floats(0, 50), min_size=6, max_size=6),
)
def test_the_dartboard_keeps_the_law_of_the_weights(losses, further):
    """Also where the weights are too small for a float."""
    before = -np.array(losses)
    after = before - np.array(further[: len(losses)])
    moves = np.array([dartboard(before, after, arm) for arm in range(len(losses))])
    assert (moves >= 0).all()
    assert law(before) @ moves == pytest.approx(law(after), abs=1e-9)


def test_edges_of_the_computation():
    assert number_of_batches("full", 10, 4, 3) == 0
    assert number_of_batches("full", 10, 2, 10**6) == number_of_batches("full", 10, 2, None) == 10
    assert number_of_batches("bandit", 1, 1, None) == 1
    assert [step_size(feedback, 5, 1) for feedback in ("full", "bandit")] == [0, 0]
    with pytest.raises(ValueError, match="weight of arm 1 has grown: estimates must be at least 0"):
        dartboard(np.zeros(2), np.array([-1.0, 0.5]), 0)


# -- the agent -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "budget", "N", "observations"),
    [
        ("full", 40, 10, 40),
        ("extra", 180, 60, 180),  # ceil(240 / 60) rounds are 4: all batches are whole
        ("single", 30, 30, 30),
        ("bandit", None, 61, 60),  # ceil(240 / 61) rounds make 60 batches
        ("bandit", 20, 20, 20),
    ],
)
def test_it_sees_once_in_every_batch_and_keeps_to_the_budget(mode, budget, N, observations):
    agent = agent_of(K=4, T=240, mode=mode, budget=budget)
    seen, costs = told(agent, 240, "observations", "cost")
    assert agent.phase.N == N
    assert seen[-1] == observations
    size = -(-240 // N)
    steps = np.diff(seen, prepend=0).reshape(-1, size)
    assert ((steps > 0).sum(axis=1) == 1).all()
    assert np.flatnonzero(costs).tolist() == [i for i in np.flatnonzero(costs) if i % size == 0]


def test_few_extra_observations_are_ignored_for_the_bandit_feedback():
    agent = agent_of(K=4, T=240, mode="extra", budget=50)
    seen = told(agent, 240, "observations")[0]
    assert (agent.phase.feedback, agent.phase.N, seen[-1]) == ("bandit", 61, 0)
    assert np.abs(agent.policy.log_weights.numpy()).sum() > 0


def test_a_budget_for_nothing_plays_one_arm():
    agent = agent_of(K=4, T=50, mode="full", budget=3)
    with pytest.warns(UserWarning, match="budget=3 does not suffice to see anything"):
        costs, seen = told(agent, 50, "cost", "observations")
    assert costs.sum() == seen.sum() == 0


def test_one_arm_alone():
    for mode in ("full", "extra", "single", "bandit"):
        regrets = told(agent_of(K=1, T=20, mode=mode), 20, "regret")[0]
        assert regrets.sum() == 0


def test_the_weights_of_full_feedback_follow_the_losses_of_the_rounds_seen():
    losses = np.tile([0.25, 0.75, 0.5], (30, 1))
    agent = agent_of(losses=losses, mode="full", budget=18)
    agent.learn(30)
    eta = step_size("full", 6, 3)  # the last batch changes nothing any more
    assert agent.policy.log_weights.numpy() == pytest.approx(-5 * eta * losses[0])
    assert agent.predict(np.array([0, 3]))[0].tolist() == [int(agent.policy.held)] * 2


def test_a_new_episode_is_a_new_adversary():
    agent = agent_of(K=3, T=40, mode="full").learn(40)
    assert agent.policy.log_weights.numpy().min() < 0
    agent.learn(1, reset_num_timesteps=False)
    assert agent.phase.played == 1
    eta = step_size("full", 40, 3)
    assert agent.policy.log_weights.numpy().min() >= -eta


def test_the_last_batch_is_shorter():
    agent = agent_of(K=2, T=11, mode="full", batches=4)  # 3 + 3 + 3 + 2
    agent.learn(10)
    assert (agent.phase.size, agent.phase.place) == (2, 1)


def test_without_the_number_of_rounds_it_doubles_and_starts_over():
    agent = agent_of(K=2, T=70, mode="full", horizon=10, agent_budget=4)
    agent.learn(10)
    assert (agent.phase.T, agent.phase.N, agent.phase.played) == (20, 4, 0)
    assert agent.policy.log_weights.tolist() == [0, 0]
    agent.learn(60, reset_num_timesteps=False)
    assert agent.env.get_attr("core")[0].T == 70
    assert (agent.phase.T, agent.phase.N, agent.phase.played) == (40, 8, 40)


def test_the_first_arm_does_not_follow_the_draw_of_the_good_one():
    """Agent and environment have the same seed."""
    hits = np.zeros(2)
    for seed in range(40):
        env = gym.make(ID, K=4, T=2_000, gap=0.4)
        agent = BatchedExponentialWeights(POLICY, env, seed=seed)
        before = int(agent.policy.held)
        agent.learn(1)
        hits += np.array([before, int(agent.policy.held)]) == env.unwrapped.tape["best"][0]
    assert ((hits > 2) & (hits < 20)).all()


def test_full_feedback_finds_the_best_arm_with_few_changes_and_bandit_feedback_pays_for_many():
    results = {}
    for mode in ("full", "bandit"):
        env = gym.make(ID, K=3, T=800, gap=0.4, mode=mode)
        agent = BatchedExponentialWeights(POLICY, env, seed=1)
        regrets, costs = told(agent, 799, "regret", "cost")
        results[mode] = regrets.sum(), costs.sum()
        assert int(agent.policy.log_weights.argmax()) == int(env.unwrapped.tape["best"][0])
    assert results["full"][0] < 0.5 * results["bandit"][0]
    assert results["full"][1] < 15 < 30 < results["bandit"][1]


def test_wrong_set_ups_are_refused():
    for arguments in ({"horizon": 0}, {"agent_budget": -1}, {"batches": 0}):
        with pytest.raises(ValueError, match="must be at least"):
            agent_of(**arguments)
    with pytest.raises(ValueError, match="needs one environment with `observe`, got 1 of"):
        BatchedExponentialWeights(POLICY, "BernoulliBandit-v0")
    with pytest.raises(ValueError, match="needs one environment with `observe`, got 2 of"):
        BatchedExponentialWeights(POLICY, make_sb3(ID, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        agent_of(K=4, T=30, mode="single", budget=5).learn(30)
