"""Whole episodes of finite worlds: the policy that counts steps, what was seen, backward steps."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

import palaestra
from palaestra.agents.base.finite_horizon import (
    Counts,
    TimePolicy,
    Trajectories,
    backward,
    greedy,
)
from palaestra.envs.tabular.probabilities import draw


def policy(horizon: int = 3, states: int = 2, actions: int = 2) -> TimePolicy:
    spaces = gym.spaces.Discrete(states), gym.spaces.Discrete(actions)
    return TimePolicy(*spaces, horizon=horizon)


def test_the_policy_counts_steps_and_starts_anew_where_an_episode_begins() -> None:
    table = policy()
    laws = torch.zeros(3, 2, 2)
    laws[0, :, 0] = laws[1, :, 1] = laws[2, :, 0] = 1.0
    table.probabilities.copy_(laws)
    seen, state, starts = np.array([0, 1]), None, np.array([True, True])
    played = []
    for step in range(5):
        actions, state = table.predict(seen, state, starts)
        played.append(actions.tolist())
        starts = np.array([step == 2, step == 1])  # episodes of three and of two steps
    assert played == [[0, 0], [1, 1], [0, 0], [0, 1], [1, 0]]


def test_a_step_beyond_the_horizon_and_an_unknown_state_are_errors() -> None:
    table = policy(horizon=1)
    _, state = table.predict(np.array([0]))
    with pytest.raises(ValueError, match="step 1 is beyond the horizon 1"):
        table.predict(np.array([0]), state)
    with pytest.raises(ValueError, match=r"observation 2 is outside Discrete\(2\)"):
        table.predict(np.array([2]))


def test_actions_are_drawn_by_their_law() -> None:
    laws = np.array([[0.2, 0.0, 0.8]] * 40_000)
    shares = np.bincount(draw(laws, np.random.default_rng(0)), minlength=3) / len(laws)
    assert_allclose(shares, [0.2, 0.0, 0.8], atol=0.01)
    assert draw(np.array([[1.0, 0.0], [0.0, 1.0]]), np.random.default_rng(1)).tolist() == [0, 1]


def test_greedy_takes_the_lowest_of_equally_good_actions() -> None:
    assert greedy(np.array([[1.0, 1.0], [0.0, 2.0]])).tolist() == [[1, 0], [0, 1]]


def test_counts_hold_what_the_episodes_showed() -> None:
    counts = Counts(2, 2, 2)
    episodes = Trajectories(
        np.array([[0, 1, 1], [0, 0, 1]]),
        np.array([[1, 0], [1, 0]]),
        np.array([[0.5, 1.0], [0.25, 0.0]]),
    )
    counts.add(episodes)
    counts.add(episodes)
    assert counts.visits[0].tolist() == [[0, 4], [0, 0]]
    assert counts.visits[1].tolist() == [[2, 0], [2, 0]]
    assert_allclose(counts.transitions()[0, 0, 1], [0.5, 0.5])
    assert_allclose(counts.transitions()[0, 1], 0.0)  # never seen
    assert_allclose(counts.mean_rewards()[0, 0], [0.0, 0.375])
    other = Counts(2, 2, 2)
    other.restore(counts.state())
    assert (other.next_states == counts.next_states).all()
    assert (other.rewards == counts.rewards).all()


def test_worked_example_of_backward_steps() -> None:
    # State 1 pays 1 a step; action 1 leads there from state 0 with probability 1/2.
    transitions = np.broadcast_to([[[1, 0], [0.5, 0.5]], [[0, 1], [0, 1]]], (2, 2, 2, 2))
    gains = np.broadcast_to([[0.0, 0.0], [1.0, 1.0]], (2, 2, 2))
    action_values, values = backward(transitions, gains, np.array([2.0, 1.0]))
    assert_allclose(action_values, [[[0, 0.5], [2, 2]], [[0, 0], [1, 1]]])
    assert_allclose(values, [[0.5, 2], [0, 1]])
    _, capped = backward(transitions, gains, np.array([0.25, 1.0]))
    assert_allclose(capped[0], [0.25, 0.25])
    _, mean = backward(transitions, gains, np.array([2.0, 1.0]), lambda _, q: q.mean(axis=-1))
    assert_allclose(mean[0], [0.25, 2])


def test_episodes_of_another_length_are_an_error() -> None:
    env = gym.make("FiniteMDP-v0", horizon=6)
    with pytest.raises(ValueError, match="one went on after 4"):
        palaestra.agents.UCBVI("TimePolicy", env, horizon=4).learn(100)
    with pytest.raises(ValueError, match="one ended after 6"):
        palaestra.agents.UCBVI("TimePolicy", env, horizon=8).learn(100)
    with pytest.raises(ValueError, match="needs an environment with a horizon"):
        palaestra.agents.UCBVI("TimePolicy", gym.make("FiniteMDP-v0"))
    with pytest.raises(ValueError, match="horizon must be at least 1"):
        palaestra.agents.UCBVI("TimePolicy", env, horizon=0)


def test_parallel_environments_are_studied_together() -> None:
    from stable_baselines3.common.env_util import make_vec_env

    env = make_vec_env("FiniteMDP-v0", n_envs=3, env_kwargs={"horizon": 6}, seed=0)
    agent = palaestra.agents.UCBVI("TimePolicy", env, seed=0).learn(36)
    assert agent.num_timesteps == 36
    assert agent.counts.visits.sum() == 36
    assert agent.counts.visits.sum(axis=(1, 2)).tolist() == [6] * 6
