"""Cloning whole episodes: the worked example, reading once, what it needs."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from numpy.testing import assert_allclose

from palaestra.agents import TrajectoryCloning
from palaestra.agents.base.recorded_episodes import roll_out, to_dataset, to_trajectories
from palaestra.agents.tabular.trajectory_cloning import cloned, count_actions

HORIZON = 3


def data(episodes=6, seed=0, **spaces):
    env = gym.make("Garnet-v0", states=3, actions=2, branching=2, horizon=HORIZON)
    core = env.unwrapped.core
    laws = np.random.default_rng(1).dirichlet(np.ones(2), (HORIZON, 3))
    return to_dataset(roll_out(core, laws, episodes, seed), env)


def test_worked_example() -> None:
    found = cloned(np.array([[[3, 0], [0, 0]], [[1, 2], [4, 1]]]))
    assert_allclose(found[0], [[0.8, 0.2], [0.5, 0.5]])
    assert_allclose(found[1], [[0.4, 0.6], [0.714286, 0.285714]], atol=1e-6)


def test_all_episodes_are_read_once() -> None:
    recorded = data()
    agent = TrajectoryCloning("TimePolicy", recorded, seed=0)
    assert_allclose(agent.probabilities, 0.5)
    agent.learn(2 * HORIZON)
    assert agent.read.sum() == 2
    agent.learn(4 * HORIZON, reset_num_timesteps=False)
    expected = cloned(count_actions(to_trajectories(recorded, HORIZON), 3, 2))
    assert_allclose(agent.probabilities, expected)
    agent.learn(10 * HORIZON)  # once more changes nothing
    assert_allclose(agent.probabilities, expected)
    agent.set_env(data(seed=100))  # but new episodes do
    agent.learn(6 * HORIZON)
    assert agent.visits.sum() == 12 * HORIZON
    assert agent.visits[0].sum() == 12


def test_the_order_of_reading_is_drawn() -> None:
    first, second = (TrajectoryCloning("TimePolicy", data(), seed=s).learn(6) for s in (0, 2))
    assert (first.read != second.read).any()
    assert first.read.sum() == second.read.sum() == 2


def test_the_likelihood_that_is_logged_is_of_the_unread_episode() -> None:
    agent = TrajectoryCloning("TimePolicy", data(), seed=0)
    assert agent.learn(1)._metrics == {"train/log_likelihood": pytest.approx(np.log(0.5))}


def test_it_needs_data_but_no_world() -> None:
    recorded = data()
    env = recorded.env
    with pytest.raises(ValueError, match="there is no data to learn from"):
        TrajectoryCloning("TimePolicy", env).learn(1)
    spaces = {name: getattr(env, name) for name in ("observation_space", "action_space")}
    alone = type(recorded)(recorded.observations, recorded.actions, **spaces)
    with pytest.raises(ValueError, match="needs an environment with a horizon"):
        TrajectoryCloning("TimePolicy", alone)
    agent = TrajectoryCloning("TimePolicy", alone, horizon=HORIZON, seed=0).learn(18)
    assert agent.read.all()
    with pytest.raises(ValueError, match=r"must have 4 steps \(horizon\)"):
        TrajectoryCloning("TimePolicy", alone, horizon=4, seed=0).learn(1)
