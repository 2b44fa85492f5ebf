"""Rewards from comparisons of episodes: the worked example, the estimate, the agent."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.special import expit

from palaestra.agents import DemoRegularizedRLHF
from palaestra.agents.base.finite_horizon import gap
from palaestra.agents.base.recorded_episodes import roll_out, to_dataset
from palaestra.agents.tabular.demonstration_regularized_rlhf import (
    preference_loss,
    preferred_rewards,
)

HORIZON = 4


def world(instance=100):
    return gym.make(
        "Garnet-v0", states=3, actions=2, branching=2, horizon=HORIZON, start=0, instance=instance
    )


def demonstrated(env, episodes, noise=0.3):
    core = env.unwrapped.core
    best = np.eye(core.actions)[core.plan(1.0).policy]
    laws = (1 - noise) * best + noise / core.actions
    return to_dataset(roll_out(core, laws, episodes, 0), env)


def episodes(number, seed):
    core = world().unwrapped.core
    return roll_out(core, np.full((HORIZON, 3, 2), 0.5), number, seed)


def test_worked_example_of_the_loss() -> None:
    theta, differences = np.array([0.5, -0.2]), np.array([[1.0, 0.0], [0.5, 1.0]])
    loss, gradient = preference_loss(theta, differences, np.array([1.0, 0.0]))
    assert loss == pytest.approx(0.596268, abs=1e-6)
    assert_allclose(gradient, [-0.060646, 0.256249], atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_the_gradient_is_that_of_the_loss(seed) -> None:
    rng = np.random.default_rng(seed)
    theta, differences = rng.standard_normal(3), rng.standard_normal((5, 3))
    wins, small = rng.random(5), 1e-6
    _, gradient = preference_loss(theta, differences, wins)
    for place in range(3):
        change = small * np.eye(3)[place]
        up, down = (preference_loss(theta + s * change, differences, wins)[0] for s in (1, -1))
        assert gradient[place] == pytest.approx((up - down) / (2 * small), abs=1e-6)


def test_many_comparisons_give_the_rewards_back() -> None:
    rng = np.random.default_rng(0)
    theta = np.array([0.0, 0.3, 1.0])
    differences = rng.standard_normal((200, 3))
    found = preferred_rewards(differences, expit(differences @ theta), 1.0)
    assert_allclose(found, theta, atol=1e-3)


def test_ties_say_nothing_and_certainty_is_bounded() -> None:
    differences = np.array([[1.0, -1.0], [2.0, 0.0]])
    assert_allclose(preferred_rewards(differences, np.array([0.5, 0.5]), 1.0), 0.0)
    # All the comparisons agree, so that the likelihood has no maximum: the bound holds it.
    assert_allclose(preferred_rewards(differences, np.ones(2), 2.0), [2.0, 0.0], atol=1e-6)


def test_comparisons_come_first_and_are_of_the_clone() -> None:
    agent = DemoRegularizedRLHF("TimePolicy", demonstrated(world(), 10), comparisons=5, seed=0)
    agent.learn(2 * HORIZON * 4)
    assert agent.reward_estimates is None
    assert len(agent.wins) == 4
    assert_allclose(agent.probabilities, agent.expert)
    agent.learn(2 * HORIZON, reset_num_timesteps=False)
    assert agent.reward_estimates is not None
    assert agent.reward_estimates.shape == (HORIZON, 3, 2)
    assert 0 <= agent.reward_estimates.min() <= agent.reward_estimates.max() <= 1
    before = agent.reward_estimates.copy()
    agent.learn(HORIZON * 10, reset_num_timesteps=False)
    assert len(agent.wins) == 5
    assert (agent.reward_estimates == before).all()
    assert agent.counts.visits[0].sum() == 2 * 5 + 10


def test_rewards_are_out_of_reach() -> None:
    agent = DemoRegularizedRLHF("TimePolicy", demonstrated(world(), 10), comparisons=3, seed=0)
    agent.learn(HORIZON * 30)
    assert (agent.counts.rewards == 0).all()


def test_it_learns_from_comparisons_alone() -> None:
    env = world()
    core = env.unwrapped.core
    agent = DemoRegularizedRLHF(
        "TimePolicy", demonstrated(env, 5), comparisons=400, bonus=0.05, seed=0
    )
    clone = gap(core, agent.expert)
    agent.learn(HORIZON * (2 * 400 + 50))
    assert gap(core, agent.probabilities) < 0.6 * clone


def test_comparisons_of_people() -> None:
    first, second = episodes(300, 1), episodes(300, 1_000)
    returns = [each.rewards.sum(axis=1) for each in (first, second)]
    wins = expit(5 * (returns[0] - returns[1]))
    agent = DemoRegularizedRLHF("TimePolicy", world(), comparisons=300, seed=0)
    agent.add_comparisons(first, second, wins)
    assert agent.reward_estimates is not None
    agent.learn(HORIZON)  # no comparison is left to make
    assert len(agent.wins) == 300
    true = np.broadcast_to(world().unwrapped.core.R, agent.shape)
    assert np.corrcoef(agent.reward_estimates.ravel(), true.ravel())[0, 1] > 0.5


def test_arguments_out_of_range() -> None:
    env = world()
    with pytest.raises(ValueError, match="comparisons"):
        DemoRegularizedRLHF("TimePolicy", env, comparisons=0)
    with pytest.raises(ValueError, match="rewards are learned from comparisons"):
        DemoRegularizedRLHF("TimePolicy", env, rewards=np.zeros((HORIZON, 3, 2)))
    agent = DemoRegularizedRLHF("TimePolicy", env)
    two, three = episodes(2, 0), episodes(3, 0)
    with pytest.raises(ValueError, match="2 and 3 episodes were compared"):
        agent.add_comparisons(two, three, np.ones(2))
    with pytest.raises(ValueError, match=r"wins lie in \[0, 1\]"):
        agent.add_comparisons(two, two, np.array([0.5, 1.5]))
