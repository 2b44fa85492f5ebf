"""UCB1: its bounds, its regret, and rounds in parallel."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from palaestra.agents.bandit.ucb1 import UCB1, upper_bounds
from palaestra.wrappers.sb3 import make_sb3


def test_worked_example_of_the_bounds():
    payoffs, pulls = np.array([3.0, 1.0, 0.0]), np.array([4, 2, 0])
    bounds = upper_bounds(payoffs, pulls, pulls, 2.0)
    # 0.75 + sqrt(2 ln 6 / 4) and 0.5 + sqrt(2 ln 6 / 2)
    assert bounds[:2] == pytest.approx([1.696504, 1.838573], abs=1e-5)
    assert bounds[2] == np.inf
    waiting = upper_bounds(payoffs, pulls, np.array([4, 2, 1]), 2.0)
    assert waiting[2] == pytest.approx(np.sqrt(2 * np.log(7)))


def test_every_arm_is_pulled_once_first():
    agent = UCB1("ArmsPolicy", gym.make("BernoulliBandit-v0", p=0.5), seed=0).learn(2)
    assert agent.policy.pulls.tolist() == [1, 1]


def test_regret_grows_more_slowly_than_the_number_of_rounds():
    """Four times as many rounds: far less than four times the regret, and below Auer's bound."""
    gap, regrets = 0.4, []
    for rounds in (400, 1600):
        agents = [
            UCB1("ArmsPolicy", gym.make("BernoulliBandit-v0", p=0.3), seed=s).learn(rounds)
            for s in range(5)
        ]
        regrets.append(np.mean([gap * int(agent.policy.pulls[1]) for agent in agents]))
        bound = 8 * np.log(rounds) / gap + (1 + np.pi**2 / 3) * gap
        assert regrets[-1] < bound
        assert all(agent.predict(0)[0] == 0 for agent in agents)
    assert regrets[1] < 2 * regrets[0]


def test_rounds_in_parallel_try_all_arms_and_find_the_best():
    env = make_sb3("BernoulliBandit-v0", 16, p=0.7)
    agent = UCB1("ArmsPolicy", env, seed=0).learn(16)
    assert agent.policy.pulls.tolist() == [8, 8]  # none had paid yet
    agent.learn(1600, reset_num_timesteps=False)
    assert agent.policy.pulls.sum() == 1616
    assert agent.predict(np.zeros(5, int))[0].tolist() == [1] * 5
    assert agent.policy.means().tolist() == pytest.approx([0.3, 0.7], abs=0.12)


def test_contexts_are_not_looked_at_and_wrong_set_ups_are_refused():
    agent = UCB1("ArmsPolicy", "CartPole-v1", seed=0).learn(20)
    assert agent.predict(np.zeros((3, 4), np.float32))[0].shape == (3,)
    with pytest.raises(ValueError, match=r"arms in Discrete\(n\) from 0, got Box"):
        UCB1("ArmsPolicy", "Pendulum-v1")
    with pytest.raises(ValueError, match="confidence=-1"):
        UCB1("ArmsPolicy", "BernoulliBandit-v0", confidence=-1)
