"""PR-LSVI and PbTS: the worked example, exact planning, and when they ask."""

from __future__ import annotations

from itertools import product

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import expit
from stable_baselines3.common.env_util import make_vec_env

from palaestra.agents import PRLSVI, PbTS
from palaestra.agents.base.finite_horizon import Trajectories, backward
from palaestra.agents.base.pairwise import oracle_of, pair_features, preference_estimate
from palaestra.agents.tabular import preference_randomization as system
from palaestra.agents.tabular.preference_randomization import (
    best_actions,
    gaussian_draw,
    gaussian_width,
    hypothesis_log_weights,
    hypothesis_width,
    randomized_tables,
)
from palaestra.envs.tabular.garnet import Garnet
from palaestra.envs.tabular.planning.finite_horizon import evaluate
from palaestra.lab.statistics import judge

SHAPE = (2, 2, 2)
TAU0, TAU1, TAU2 = [(0, 1), (1, 1)], [(0, 0), (0, 1)], [(0, 1), (0, 1)]
RIVER = {"states": 3, "horizon": 4, "forward": 0.6}
TRUE = [[0.05, 0.0], [0.0, 0.0], [0.0, 1.0]]  # its rewards
FALSE = [[1.0, 0.0], [0.0, 0.0], [0.0, 0.05]]


def episode(pairs) -> Trajectories:
    """One episode of (state, action) pairs, with a last state and rewards that do not matter."""
    states, actions = np.array(pairs).T
    return Trajectories(np.append(states, 0)[None], actions[None], np.zeros((1, len(pairs))))


def difference(first, second):
    return pair_features(episode(first), episode(second), SHAPE)


def river(**changes):
    return gym.make("RiverSwim-v0", **{**RIVER, **changes})


# -- the worked example ---------------------------------------------------------------------------


def test_worked_example_width_of_a_pair() -> None:
    x, other = difference(TAU0, TAU1), difference(TAU0, TAU2)
    assert_array_equal(x, [[-1, 1, 0, 0, 0, -1, 0, 1]])
    assert_allclose(gaussian_width(x, np.eye(8), 0.5), 1.12837917, atol=1e-8)
    precision = np.eye(8) + x.T @ x + other.T @ other
    assert_allclose(gaussian_width(x, precision, 0.5), 0.48114249, atol=1e-8)


def test_worked_example_estimate_from_labels() -> None:
    x, other = difference(TAU0, TAU1), difference(TAU0, TAU2)
    found = preference_estimate(x, np.array([1]), np.zeros(8), 1.0)
    assert_allclose(found, 0.26064923 * x[0], atol=1e-8)
    found = preference_estimate(np.concatenate([x, other]), np.array([1, 0]), found, 1.0)
    expected = [-0.36550843, 0.36550843, 0, 0, 0, 0.08974109, 0, -0.08974109]
    assert_allclose(found, expected, atol=1e-8)


def test_worked_example_backward_pass() -> None:
    rewards = np.array([[[0.1, 0], [0, 0.2]], [[0.1, 0], [0, 0.9]]])
    counts = np.zeros((2, 2, 2, 2), dtype=np.int64)
    counts[0, 0] = [[2, 0], [1, 3]]
    normals = np.array([[[0.5, -1], [0.3, 0]], [[9.0, 9.0], [9.0, 9.0]]])
    tables = randomized_tables(rewards, counts, normals, ridge=1.0, scale=0.5, alpha=(0.4, 0.8))
    values = backward(*tables, np.full(2, np.inf))[0]
    assert_allclose(values[0], [[0.66082576, 0.41472136], [1.0, 1.2]], atol=1e-8)
    assert_allclose(values[1], rewards[1])  # no noise and nothing to come at the last step
    assert best_actions(*tables).tolist() == [[0, 1], [0, 1]]


def test_worked_example_hypotheses() -> None:
    weights = np.full(3, 1 / 3)
    for differences, label in (([1, 0, -1], 1), ([0.5, 0, 2], 0)):
        found = hypothesis_log_weights(np.log(weights), np.array([differences]), np.array([label]))
        weights = np.exp(found) / np.exp(found).sum()
    assert_allclose(weights, [0.49457565, 0.44797814, 0.05744621], atol=1e-8)
    assert_allclose(
        hypothesis_width(np.array([[1.0, 0, -1], [2, 2, 2]]), weights), [0.60823345, 0], atol=1e-8
    )


# -- the paper's computation ----------------------------------------------------------------------


def test_with_exact_tables_it_plans_as_dynamic_programming_and_brute_force_do() -> None:
    core = Garnet(states=3, actions=2, branching=None, horizon=3, instance=1)
    shape = (3, 3, 2)
    counts = np.broadcast_to((core.P * 1e9).round().astype(np.int64), (*shape, 3))
    rewards = np.broadcast_to(core.R, shape)
    tables = randomized_tables(
        rewards, counts, np.zeros(shape), ridge=1.0, scale=0.0, alpha=(0.4, 0.8)
    )
    values = backward(*tables, np.full(3, np.inf))[1]
    assert_allclose(values, core.plan(1.0).values, atol=1e-7)
    policies = np.array(list(product(range(2), repeat=9))).reshape(-1, 3, 3)
    best = evaluate(core.P, core.R, policies)[:, 0].max(axis=0)
    assert_allclose(values[0], best, atol=1e-7)
    assert_array_equal(best_actions(*tables), core.plan(1.0).policy)


def test_what_was_never_seen_is_worth_all_that_can_remain() -> None:
    shape = (3, 2, 2)
    rewards = np.arange(12.0).reshape(shape)
    transitions, gains = randomized_tables(
        *(rewards, np.zeros((*shape, 2), dtype=np.int64), np.ones(shape)),
        **{"ridge": 1.0, "scale": 0.5, "alpha": (0.4, 0.8), "largest_reward": 5.0},
    )
    assert (transitions == 0).all()
    assert_allclose(gains - rewards, np.broadcast_to([[[10.0]], [[5.0]], [[0.0]]], shape))


def test_the_width_is_the_mean_disagreement_of_two_draws() -> None:
    rng = np.random.default_rng(0)
    root, x, mean = rng.normal(size=(4, 4)), rng.normal(size=4), rng.normal(size=4)
    precision = root @ root.T + np.eye(4)
    draws = [
        np.array([gaussian_draw(mean, precision, 0.7, z) for z in rng.normal(size=(3_000, 4))])
        for _ in range(2)
    ]
    found = np.abs((draws[0] - draws[1]) @ x).mean()
    assert found == pytest.approx(gaussian_width(x[None], precision, 0.7)[0], rel=0.06)
    assert_allclose(np.cov(draws[0].T), 0.49 * np.linalg.inv(precision), atol=0.04)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(st.lists(st.integers(-8, 8), min_size=3, max_size=3), st.booleans())),
    st.floats(0.01, 10),
)
def test_the_estimate_maximizes_the_penalized_likelihood(pairs, ridge) -> None:
    features = np.array([x for x, _ in pairs], dtype=float).reshape(-1, 3)
    labels = np.array([label for _, label in pairs], dtype=np.int64)
    theta = preference_estimate(features, labels, np.zeros(3), ridge)
    gradient = (labels - expit(features @ theta)) @ features - ridge * theta
    assert_allclose(gradient, 0.0, atol=1e-5)


def test_labels_that_any_reward_could_explain_keep_the_estimate_finite() -> None:
    features, labels = np.full((2_000, 1), 8.0), np.ones(2_000, dtype=np.int64)
    found = preference_estimate(features, labels, np.array([-50.0]), 1e-3)
    assert 1 < found[0] < 5
    assert 16_000 * expit(-8 * found[0]) == pytest.approx(1e-3 * found[0])


# -- the agents -----------------------------------------------------------------------------------


def test_the_newest_policy_is_paired_with_the_one_before_it() -> None:
    agent = PRLSVI("TimePolicy", river(), seed=0, epsilon=-1.0)
    played, policies = [], [agent.newest]
    play = agent.play_with
    agent.play_with = lambda policy: played.append(policy) or play(policy)

    def note(*_):
        return policies.append(agent.newest) or True

    agent.learn(5 * 2 * 4, callback=note)
    assert agent.num_timesteps == 40 and agent.queries == oracle_of(agent.env).asked == 5
    for number in range(5):
        assert_array_equal(played[2 * number], policies[number + 1])
        assert_array_equal(played[2 * number + 1], policies[number])
    assert agent.counts.visits.sum() == 5 * 4  # of the first episodes alone


def test_when_it_asks() -> None:
    never = PRLSVI("TimePolicy", river(), seed=0, epsilon=50.0).learn(400)
    assert never.queries == 0 and (never.estimate == 0).all()
    # Identical episodes say nothing: the width is 0, and that is not above 0.
    same = episode(TAU0)
    assert gaussian_width(pair_features(same, same, SHAPE), np.eye(8), 0.5)[0] == 0
    some = PRLSVI("TimePolicy", river(), seed=0, epsilon=0.0).learn(400)
    assert 0 < some.queries < 50
    assert PRLSVI("TimePolicy", river(), seed=0, epsilon=-0.1).learn(400).queries == 50
    half = PRLSVI("TimePolicy", river(), seed=0, query=0.5).learn(800)
    assert 30 < half.queries < 70
    sure = PRLSVI("TimePolicy", river(), seed=0, reward_noise=0.0, query=1.0).learn(80)
    assert sure.queries == 10 and sure._metrics["train/width"] == 0
    assert_allclose(sure.precision, np.eye(24) + sure.features.T @ sure.features)


def test_rewards_are_out_of_reach() -> None:
    # A constant at every step changes no comparison, so nothing that is learned depends on it.
    world = Garnet(states=3, actions=2, horizon=4, branching=None).tables()
    agents = [
        PRLSVI("TimePolicy", gym.make("FiniteMDP-v0", **{**world, "low": world["low"] + c}), seed=3)
        for c in (0.0, 2.0)
    ]
    for agent in agents:
        agent.learn(400)
        assert (agent.counts.rewards == 0).all()
    assert_allclose(agents[0].estimate, agents[1].estimate, atol=1e-12)
    assert_array_equal(agents[0].features, agents[1].features)


@pytest.mark.parametrize(
    ("agent_class", "arguments"), [(PRLSVI, {}), (PbTS, {"rewards": [TRUE, FALSE, FALSE]})]
)
def test_most_runs_find_the_best_policy_without_seeing_a_reward(agent_class, arguments) -> None:
    lost = []
    for seed in range(100, 105):
        env = river(forward_first=0.9)
        agent = agent_class("TimePolicy", env, seed=seed, **arguments).learn(8_000)
        assert agent.queries < 100  # of 1,000 pairs
        core = env.unwrapped.core
        values = evaluate(core.P, core.R, agent.probabilities)
        lost.append(core.plan(1.0).values[0, 0] - values[0, 0])
    assert np.median(lost) < 0.1  # of 1.303


def test_hypotheses_are_told_apart_by_labels() -> None:
    agent = PbTS("TimePolicy", river(), seed=0, rewards=[TRUE, FALSE], prior=[1, 3], epsilon=0.05)
    assert_allclose(agent.weights, [0.25, 0.75])
    agent.learn(1_600)
    assert agent.weights[0] > 0.95
    assert agent.counts.visits.sum() == 1_600  # both episodes of a pair
    # Rewards by step mean the same as rewards for all steps.
    rewards = np.broadcast_to(np.array([TRUE, FALSE])[:, None], (2, 4, 3, 2))
    other = PbTS("TimePolicy", river(), seed=0, rewards=rewards, prior=[1, 3], epsilon=0.05)
    assert_array_equal(other.learn(1_600).weights, agent.weights)


def test_predict_plays_the_estimates_or_the_newest_policy() -> None:
    agent = PRLSVI("TimePolicy", river(), seed=0).learn(200)
    agent.newest = 1 - agent.probabilities.argmax(axis=-1)
    state = newest_state = None
    for step in range(4):
        seen = np.arange(3)
        actions, state = agent.predict(seen, state, deterministic=True)
        assert_array_equal(actions, agent.probabilities[step].argmax(axis=-1))
        actions, newest_state = agent.predict(seen, newest_state, randomized=True)
        assert_array_equal(actions, agent.newest[step])


def test_parallel_environments_give_a_pair_each() -> None:
    env = make_vec_env("RiverSwim-v0", n_envs=3, env_kwargs=RIVER, seed=0)
    agent = PRLSVI("TimePolicy", env, seed=0, epsilon=-1.0).learn(48)
    assert agent.num_timesteps == 48
    assert agent.features.shape == (6, 24)
    assert_array_equal(agent.env.get_attr("horizon"), [4, 4, 4])


def test_arguments_out_of_range() -> None:
    for arguments, message in (
        ({"ridge": 0.0}, "ridge and largest_reward must be above 0"),
        ({"largest_reward": -1.0}, "largest_reward=-1.0"),
        ({"alpha_low": 0.8}, "alpha_low=0.8, alpha_high=0.8"),
        ({"reward_noise": 0.0}, "nothing would ever be asked"),
        ({"reward_noise": -0.1}, "reward_noise=-0.1"),
        ({"transition_noise": -0.1}, "transition_noise=-0.1"),
        ({"query": 1.5}, "query=1.5"),
        ({"epsilon": np.nan}, "epsilon=nan"),
    ):
        with pytest.raises(ValueError, match=message):
            PRLSVI("TimePolicy", river(), **arguments)
    for arguments, message in (
        ({"rewards": [TRUE[:2]]}, r"rewards have shape \(1, 2, 2\), allowed are"),
        ({}, r"rewards have shape \(0,\), allowed are"),
        ({"rewards": [np.full((3, 2), np.inf)]}, "not finite"),
        ({"rewards": [TRUE], "prior": [0.5, 0.5]}, "must be 1 numbers above 0"),
        ({"rewards": [TRUE], "prior": [0.0]}, "must be 1 numbers above 0"),
    ):
        with pytest.raises(ValueError, match=message):
            PbTS("TimePolicy", river(), **arguments)


def test_episodes_that_end_early_are_an_error() -> None:
    world = {
        **Garnet(states=3, actions=2, branching=None, horizon=4).tables(),
        "d0": 0,
        "terminal": (1, 2),
    }
    with pytest.raises(ValueError, match="episodes must have 4 steps"):
        PRLSVI("TimePolicy", gym.make("FiniteMDP-v0", **world), seed=0).learn(400)


# -- the claim ------------------------------------------------------------------------------------


def test_arms_report_what_the_claim_judges(monkeypatch) -> None:
    monkeypatch.setattr(system, "CLAIM_PAIRS", 20)
    claim = PRLSVI.claim
    found = {name: arm(seed, 1.0) for seed, (name, arm) in enumerate(claim.arms.items(), 100)}
    values = {name: {k: [v] * 2 for k, v in x.metrics.items()} for name, x in found.items()}
    for criterion in claim.criteria:
        assert np.isfinite(judge(criterion, values).estimate)
    assert found["always"].metrics["queries"] == 20
    assert found["always"].metrics["late share of queries"] == 1
    assert found["exact"].metrics["planning error"] < 1e-6
    x, regret = found["greedy"].curves["regret"]
    assert np.all(np.diff(x) == 16) and np.all(np.diff(regret) >= 0)
    assert regret[-1] == pytest.approx(found["greedy"].metrics["regret"])
