"""Recorded whole episodes: played, kept as a data set, read from one."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from numpy.testing import assert_allclose

import palaestra
from palaestra.agents.base.finite_horizon import gap
from palaestra.agents.base.offline_data import OfflineDataset
from palaestra.agents.base.recorded_episodes import roll_out, to_dataset, to_trajectories

HORIZON = 4


def world(horizon: int = HORIZON) -> gym.Env:
    return gym.make("Garnet-v0", states=3, actions=2, branching=2, horizon=horizon, start=0)


def laws(core) -> np.ndarray:
    return np.random.default_rng(0).dirichlet(np.ones(core.actions), (HORIZON, core.states))


def test_played_episodes_are_those_of_the_environment() -> None:
    env = world()
    core = env.unwrapped.core
    found = roll_out(core, laws(core), 3, seed=7)
    for row in range(3):
        states, rewards = [env.reset(seed=7 + row)[0]], []
        for action in found.actions[row]:
            state, reward, *_ = env.step(action)
            states.append(state)
            rewards.append(reward)
        assert found.states[row].tolist() == states
        assert_allclose(found.rewards[row], rewards)


def test_actions_are_drawn_by_the_laws() -> None:
    core = world().unwrapped.core
    table = laws(core)
    found = roll_out(core, table, 4_000, seed=0)
    assert (found.actions[:, 0] == 1).mean() == pytest.approx(table[0, 0, 1], abs=0.03)
    with np.errstate(invalid="ignore"):
        value = found.rewards.sum(axis=1).mean()
    assert core.plan(1.0).values[0, 0] - value == pytest.approx(gap(core, table), abs=0.05)


def test_worked_example_of_a_gap() -> None:
    # One state, two steps; action 1 pays 1, action 0 pays 0.25.
    env = gym.make("FiniteMDP-v0", P=np.ones((1, 2, 1)), low=[[[0.25], [1.0]]], horizon=2, d0=0)
    core = env.unwrapped.core
    assert gap(core, np.array([[[0.5, 0.5]], [[0.0, 1.0]]])) == pytest.approx(0.375)
    assert gap(core, np.array([[[1.0, 0.0]], [[1.0, 0.0]]])) == pytest.approx(1.5)
    assert gap(core, np.array([[[0.0, 1.0]], [[0.0, 1.0]]])) == 0.0


def test_a_data_set_holds_the_episodes_and_gives_them_back() -> None:
    env = world()
    played = roll_out(env.unwrapped.core, laws(env.unwrapped.core), 5, seed=1)
    data = to_dataset(played, env)
    assert data.env is env
    assert len(data) == 5 * HORIZON
    read = to_trajectories(data, HORIZON)
    for name in ("states", "actions", "rewards"):
        assert (getattr(read, name) == getattr(played, name)).all()


def test_recorded_play_of_other_tools_is_read_too() -> None:
    env = world()
    data = OfflineDataset.record(env, steps=3 * HORIZON)
    read = to_trajectories(data, HORIZON)
    assert (read.states[:, :-1].ravel() == data.observations).all()
    assert (read.states[:, 1:].ravel() == data.next_observations).all()
    bare = OfflineDataset(data.observations, data.actions, env=env)
    least = to_trajectories(bare, HORIZON)
    assert (least.states[:, :-1] == read.states[:, :-1]).all()
    assert (least.states[:, -1] == least.states[:, -2]).all()
    assert np.isnan(least.rewards).all()


def test_episodes_of_another_length_are_an_error() -> None:
    data = OfflineDataset.record(world(5), steps=15)
    with pytest.raises(ValueError, match=r"4 steps \(horizon\), number 0 has 5"):
        to_trajectories(data, HORIZON)
    with pytest.raises(ValueError, match="of 15 steps the last 3 make no whole one"):
        to_trajectories(OfflineDataset(data.observations, data.actions, env=world(5)), HORIZON)
    open_end = OfflineDataset(
        *(np.zeros(6, dtype=int) for _ in range(2)),
        terminations=np.array([False, False, False, True, False, False]),
        env=world(),
    )
    with pytest.raises(ValueError, match="of 6 steps the last 2 make no whole one"):
        to_trajectories(open_end, HORIZON)
    with pytest.raises(ValueError, match=r"6 steps \(horizon\), number 0 has 5"):
        palaestra.agents.HybridNORA("TimePolicy", data, horizon=6)


def test_an_agent_without_a_world_to_learn_in_says_so() -> None:
    spaces = {name: getattr(world(), name) for name in ("observation_space", "action_space")}
    data = OfflineDataset(np.zeros(4, int), np.zeros(4, int), np.zeros(4), **spaces)
    agent = palaestra.agents.HybridNORA("TimePolicy", data, horizon=HORIZON)
    with pytest.raises(ValueError, match="there is no environment to learn in"):
        agent.learn(10)
