"""NORA: the worked example, when the critic changes, its forms, edge cases."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from palaestra.agents import NORA, FiniteClassNORA, HybridNORA
from palaestra.agents.base.finite_horizon import Counts, Trajectories, backward, gap
from palaestra.agents.base.recorded_episodes import roll_out, to_dataset
from palaestra.agents.tabular.optimal_actor_critic import (
    LOCK,
    WithoutResets,
    doubled,
    multiplicative_weights,
)
from palaestra.agents.tabular.ucbvi import confidence_bonus

SHORT = {"horizon": 3, "keys": 3, "latents": 1, "keep": 0.95, "consolation": (0, 0)}


def lock(**arguments):
    return gym.make("CombinationLock-v0", **{**LOCK, **arguments})


def worked_counts():
    counts = Counts(2, 2, 2)
    counts.next_states[0] = [[[3, 1], [0, 1]], [[0, 0], [2, 0]]]
    counts.next_states[1] = [[[2, 0], [2, 0]], [[1, 0], [0, 0]]]  # leads to value 0 anyway
    counts.rewards[:] = [[[0, 0.2], [0, 1]], [[1, 0], [0.5, 0]]]
    return counts


# -- the worked example ---------------------------------------------------------------------------


def test_worked_example_of_the_critic() -> None:
    counts = worked_counts()
    gains = counts.mean_rewards() + confidence_bonus(counts.visits, 0.1 * 2, 1.0)
    critic, _ = backward(counts.transitions(), gains, np.array([2.0, 1.0]))
    assert_allclose(critic[0], [[0.831066, 1.4], [2, 1.282843]], atol=1e-6)
    assert_allclose(critic[1], [[0.641421, 0.141421], [0.7, 1]], atol=1e-6)


def test_worked_example_is_what_the_agent_computes() -> None:
    env = gym.make("FiniteMDP-v0", P=np.full((2, 2, 2), 0.5), horizon=2)
    agent = NORA("TimePolicy", env, bonus=0.1, seed=0)
    agent.counts = worked_counts()
    # In the example L is 1, and not log(T S A H).
    agent.bonus = 0.1 / np.sqrt(agent.log_term)
    assert_allclose(agent.new_critic()[0], [[0.831066, 1.4], [2, 1.282843]], atol=1e-6)


def test_worked_example_of_the_actor() -> None:
    logits, laws = multiplicative_weights(np.zeros(2), np.array([0.831066, 1.4]), 0.5)
    assert_allclose(laws, [0.429359, 0.570641], atol=1e-6)
    assert logits.max() == 0.0


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.01, 50.0), st.integers(1, 8))
def test_many_steps_of_the_actor_are_one_of_their_sum(seed, step_size, steps) -> None:
    critics = np.random.default_rng(seed).random((steps, 3, 4))
    logits = np.zeros((3, 4))
    for critic in critics:
        logits, laws = multiplicative_weights(logits, critic, step_size)
    _, at_once = multiplicative_weights(np.zeros((3, 4)), critics.sum(axis=0), step_size)
    assert_allclose(laws, at_once, atol=1e-9)
    assert_allclose(laws.sum(axis=-1), 1.0)


def test_weights_far_apart_stay_finite() -> None:
    logits = np.zeros(2)
    for _ in range(1_000):
        logits, laws = multiplicative_weights(logits, np.array([0.0, 1.0]), 1e6)
    assert laws.tolist() == [0.0, 1.0]
    assert np.isfinite(logits).all()


def test_a_critic_is_wrong_once_some_visits_have_doubled() -> None:
    before = np.array([[0, 1], [3, 8]])
    assert not doubled(before, before)
    assert not doubled(before + [[0, 0], [2, 7]], before)
    assert doubled(before + [[1, 0], [0, 0]], before)
    assert doubled(before + [[0, 0], [3, 0]], before)
    assert doubled(before + [[0, 0], [0, 8]], before)


# -- the agents -----------------------------------------------------------------------------------


def test_it_opens_the_lock_with_few_changes_of_its_critic() -> None:
    env = lock(**SHORT, distractor=0.1)
    agent = NORA("TimePolicy", env, seed=100, largest_return=1.0).learn(3 * 500)
    assert gap(env.unwrapped.core, agent.probabilities) < 0.02
    visits = agent.counts.visits
    # Each change needs visits that have doubled: at most log2(n) + 1 of each pair.
    assert 3 < agent.switches <= (np.log2(np.maximum(visits, 1)) + (visits > 0)).sum()
    actions, state = [], None
    observation = 0
    for _ in range(3):
        action, state = agent.predict(observation, state, deterministic=True)
        actions.append(int(action))
    assert actions == env.unwrapped.core.right_keys[:, 0].tolist()


def test_a_change_of_the_critic_sets_the_actor_back() -> None:
    agents = []
    for agent_class in (NORA, WithoutResets):
        agent = agent_class("TimePolicy", lock(**SHORT), seed=3, largest_return=1.0)
        agent.learn(3 * 40)
        before = agent.logits.copy()
        agent.renew()
        agents.append((agent, before))
    assert (agents[0][0].logits == 0).all()
    assert_allclose(agents[0][0].probabilities, 1 / 3)
    assert (agents[1][0].logits == agents[1][1]).all()
    assert (agents[1][1] < 0).any()


def test_the_critic_does_not_move_between_changes() -> None:
    agent = NORA("TimePolicy", lock(**SHORT), seed=0, largest_return=1.0)
    seen = []

    def watch(*_):
        seen.append((agent.switches, agent.critic))
        return True

    agent.learn(3 * 200, callback=watch)
    for (switches, critic), (following, next_critic) in zip(seen, seen[1:], strict=False):
        assert (critic is next_critic) == (switches == following)
    assert len({switches for switches, _ in seen}) < 60


def test_without_optimism_nothing_is_hoped_of_what_was_never_played() -> None:
    agent = NORA("TimePolicy", lock(), seed=0, bonus=0.0, unseen_bonus=0.0)
    assert (agent.critic == 0).all()
    assert_allclose(NORA("TimePolicy", lock(), seed=0).critic[:, 0, 0], [6, 5, 4, 3, 2, 1])


def test_recorded_episodes_of_the_best_policy_open_the_lock_at_once() -> None:
    env = lock()
    core = env.unwrapped.core
    best = np.eye(3)[core.plan(1.0).policy]
    data = to_dataset(roll_out(core, 0.8 * best + 0.2 / 3, 200, seed=1_000), env)
    agent = HybridNORA("TimePolicy", data, seed=0, largest_return=1.0)
    assert agent.counts.visits[0].sum() == 200
    agent.learn(6 * 60)
    assert gap(core, agent.probabilities) < 0.05
    assert agent.counts.visits[0].sum() == 260
    alone = HybridNORA("TimePolicy", lock(), seed=0, largest_return=1.0).learn(6 * 60)
    assert gap(core, alone.probabilities) > 0.5


def test_later_data_are_added_and_change_the_critic() -> None:
    env = lock(**SHORT)
    core = env.unwrapped.core
    agent = HybridNORA("TimePolicy", env, seed=0, largest_return=1.0)
    assert (agent.critic == 0).all()
    best = np.eye(3)[core.plan(1.0).policy]
    agent.set_env(to_dataset(roll_out(core, best, 20, seed=5), env))
    assert agent.counts.visits[0].sum() == 20
    agent.learn(3)
    assert agent.switches >= 1
    assert agent.critic[0, 0].argmax() == core.right_keys[0, 0]


def test_a_loaded_hybrid_does_not_count_its_data_twice(tmp_path) -> None:
    env = lock(**SHORT)
    laws = np.full((3, 2, 3), 1 / 3)
    data = to_dataset(roll_out(env.unwrapped.core, laws, 20, seed=5), env)
    agent = HybridNORA("TimePolicy", data, seed=0).learn(3 * 10)
    agent.save(tmp_path / "agent")
    for source in (data, env, None):
        loaded = HybridNORA.load(tmp_path / "agent", env=source)
        assert (loaded.counts.next_states == agent.counts.next_states).all()


def test_a_finite_class_that_holds_the_truth_finds_it() -> None:
    env = lock(**SHORT, distractor=0.0)
    # Candidate k: key k is right at every step, and all the later ones will be found.
    worth = 0.95 ** np.arange(2, -1, -1.0)[:, None, None] * np.array([[1.0], [0.0]])
    candidates = np.eye(3)[:, None, None] * worth
    agent = FiniteClassNORA("TimePolicy", env, candidates=candidates, beta=0.3, seed=100)
    assert_allclose(agent.critic, np.broadcast_to(worth, (3, 2, 3)))  # nothing is excluded yet
    agent.learn(3 * 400)
    core = env.unwrapped.core
    assert (agent.critic[:, 0].argmax(axis=-1) == core.right_keys[:, 0]).all()
    assert (agent.critic[:, 0] > 0).sum() < 9
    assert gap(core, agent.probabilities) < 0.01
    assert 1 <= agent.switches <= 6


def test_a_finite_class_changes_its_critic_at_five_times_the_threshold() -> None:
    env = gym.make("FiniteMDP-v0", P=np.ones((1, 2, 1)), low=0.0, horizon=1)
    candidates = np.array([[[[0.0, 0.0]]], [[[1.0, 0.5]]]])
    agent = FiniteClassNORA("TimePolicy", env, candidates=candidates, beta=0.5, seed=0)
    action = np.zeros((1, 1), dtype=np.int64)
    episode = Trajectories(np.zeros((1, 2), dtype=np.int64), action, np.zeros((1, 1)))
    switches = []
    for _ in range(4):  # each visit of action 0 adds 1 to the excess of the critic; 5 beta = 2.5
        agent.study(episode)
        switches.append(agent.switches)
    assert switches == [0, 0, 1, 1]
    assert_allclose(agent.critic, 0.0)


def test_a_class_without_the_truth_keeps_what_fits_best() -> None:
    env = gym.make("FiniteMDP-v0", P=np.ones((1, 2, 1)), low=0.0, horizon=1)
    candidates = np.array([[[[0.5, 0.5]]], [[[1.0, 0.25]]]])
    agent = FiniteClassNORA("TimePolicy", env, candidates=candidates, beta=0.01, seed=0)
    agent.learn(60)
    assert_allclose(agent.critic[0, 0], [0.5, 0.5])  # at first it was [1, 0.5]


# -- edge cases -----------------------------------------------------------------------------------


def test_arguments_out_of_range() -> None:
    for rate in (0, -1.0):
        with pytest.raises(ValueError, match=r"learning_rate \(eta\) must be above 0"):
            NORA("TimePolicy", lock(), learning_rate=rate)
    with pytest.raises(ValueError, match="needs an environment with a horizon"):
        NORA("TimePolicy", gym.make("FiniteMDP-v0"))
    with pytest.raises(ValueError, match="beta must be above 0"):
        FiniteClassNORA("TimePolicy", lock(), candidates=np.zeros((1, 6, 2, 3)), beta=0.0)
    for shape in ((6, 2, 3), (1, 6, 2, 2), (0, 6, 2, 3)):
        with pytest.raises(ValueError, match=r"must be \[K, 6, 2, 3\] with K >= 1"):
            FiniteClassNORA("TimePolicy", lock(), candidates=np.zeros(shape))
    with pytest.raises(ValueError, match=r"candidates have shape \(0,\)"):
        FiniteClassNORA("TimePolicy", lock())


def test_rewards_beyond_the_caps_are_an_error() -> None:
    one = np.ones((1, 2, 1))
    for pays, arguments, message in (
        (1.5, {}, "1.5 is outside 0 .. largest_reward=1.0"),
        (-0.5, {}, "-0.5 is outside 0 .. largest_reward=1.0"),
        (1.0, {"largest_return": 1.0}, "2.0 is outside 0 .. largest_return=1.0"),
    ):
        env = gym.make("FiniteMDP-v0", P=one, low=pays, horizon=2)
        with pytest.raises(ValueError, match=message):
            NORA("TimePolicy", env, seed=0, **arguments).learn(2)
    env = gym.make("FiniteMDP-v0", P=one, low=1.5, horizon=2)
    assert NORA("TimePolicy", env, seed=0, largest_reward=1.5).learn(2).num_timesteps == 2
    recorded = to_dataset(roll_out(env.unwrapped.core, np.full((2, 1, 2), 0.5), 1, 0), env)
    with pytest.raises(ValueError, match="1.5 is outside"):
        HybridNORA("TimePolicy", recorded)
