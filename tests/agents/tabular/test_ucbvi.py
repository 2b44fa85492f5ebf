"""UCBVI: its bonus, its estimates, and that optimism finds what pays late."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from numpy.testing import assert_allclose

import palaestra
from palaestra.agents.tabular.ucbvi import confidence_bonus

# A chain: right leads on, left back to the start and pays a little; the end pays 1.
STATES, HORIZON = 5, 8


def chain() -> gym.Env:
    transitions = np.zeros((STATES, 2, STATES))
    transitions[:, 0, 0] = 1.0
    transitions[np.arange(STATES), 1, np.minimum(np.arange(STATES) + 1, STATES - 1)] = 1.0
    rewards = np.zeros((STATES, 2, 1))
    rewards[0, 0], rewards[-1, 1] = 0.05, 1.0
    return gym.make("FiniteMDP-v0", P=transitions, low=rewards, horizon=HORIZON)


def test_worked_example_of_the_bonus() -> None:
    found = confidence_bonus(np.array([0, 1, 4]), 2.0, 0.25)
    assert_allclose(found, [np.inf, 1.0, 0.5])
    assert_allclose(confidence_bonus(np.array([0, 1]), 2.0, 0.25, unseen=0.75), [0.75, 1.0])


def test_with_many_visits_it_plans_as_dynamic_programming_does() -> None:
    env = chain()
    agent = palaestra.agents.UCBVI("TimePolicy", env, seed=0)
    core = env.unwrapped.core
    agent.counts.next_states[:] = (core.P * 10**6).astype(np.int64)
    agent.counts.rewards[:] = core.R * 10**6
    assert_allclose(agent.plan(0.0), core.plan(1.0).values[0], atol=1e-9)
    assert (agent.probabilities.argmax(axis=2)[:, 1:] == core.plan(1.0).policy[:, 1:]).all()


def test_optimism_finds_the_end_of_a_chain_and_greed_does_not() -> None:
    best = 1.0 * (HORIZON - STATES + 1)
    for bonus, expected in ((0.3, best), (0.0, None)):
        agent = palaestra.agents.UCBVI("TimePolicy", chain(), bonus=bonus, seed=0).learn(4_000)
        state, total = 0, 0.0
        for step in range(HORIZON):
            action = int(agent.probabilities[step, state].argmax())
            total += 0.05 * (state == 0 and action == 0) + (state == STATES - 1 and action == 1)
            state = min(state + 1, STATES - 1) if action else 0
        if expected is not None:
            assert total == pytest.approx(expected)
        values = agent.plan(0.0)
        assert values[0] == pytest.approx(total)  # what it has seen is what it gets


def test_what_was_never_played_is_worth_the_cap_or_its_own_bonus() -> None:
    make = palaestra.agents.UCBVI
    agent = make("TimePolicy", chain(), seed=0)
    assert_allclose(agent.estimate(agent.bonuses())[0][:, 2, 1], [8, 7, 6, 5, 4, 3, 2, 1])
    agent = make("TimePolicy", chain(), seed=0, largest_reward=0.5, largest_return=2.0)
    assert_allclose(agent.estimate(agent.bonuses())[0][:, 2, 1], [2, 2, 2, 2, 2, 1.5, 1, 0.5])
    agent = make("TimePolicy", chain(), seed=0, unseen_bonus=0.25)
    assert_allclose(agent.estimate(agent.bonuses())[0], 0.25)


def test_rewards_that_are_known_are_not_learned() -> None:
    env = chain()
    rewards = np.broadcast_to(env.unwrapped.core.R, (HORIZON, STATES, 2))
    agent = palaestra.agents.UCBVI("TimePolicy", env, rewards=rewards, seed=0)
    assert_allclose(agent.estimate(0.0)[0], rewards)
    agent.counts.next_states[:] = (env.unwrapped.core.P * 10).astype(np.int64)
    assert_allclose(agent.plan(0.0), env.unwrapped.core.plan(1.0).values[0])


def test_arguments_out_of_range() -> None:
    with pytest.raises(ValueError, match="bonus is at least 0"):
        palaestra.agents.UCBVI("TimePolicy", chain(), bonus=-1.0)
    with pytest.raises(ValueError, match="largest_reward above 0"):
        palaestra.agents.UCBVI("TimePolicy", chain(), largest_reward=0.0)
    with pytest.raises(ValueError, match="unseen_bonus is at least 0"):
        palaestra.agents.UCBVI("TimePolicy", chain(), unseen_bonus=-0.5)
    with pytest.raises(ValueError, match="largest_return is above 0"):
        palaestra.agents.UCBVI("TimePolicy", chain(), largest_return=0.0)
    with pytest.raises(ValueError, match=r"rewards have shape \(5, 2\), the world's are"):
        palaestra.agents.UCBVI("TimePolicy", chain(), rewards=np.zeros((5, 2)))
