"""Q-learning: its update, what it converges to, masks, and parallel environments."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.utils import LinearSchedule

from palaestra.agents.base.tabular import TablePolicy, epsilon_greedy
from palaestra.agents.tabular.q_learning import QLearning, q_target
from palaestra.wrappers.sb3 import make_sb3


def test_worked_example_of_the_target():
    assert q_target(1.0, np.array([2.0, 5.0]), False, 0.9) == pytest.approx(5.5)
    assert q_target(1.0, np.array([2.0, 5.0]), True, 0.9) == 1.0


def test_worked_example_of_two_steps():
    """Two states in turn, reward 1, alpha 0.5, gamma 0.9: Q is 0.5, then 0.5 (1 + 0.9 x 0.5)."""
    turn = np.array([[[0.0, 1.0]], [[1.0, 0.0]]])
    env = gym.make("FiniteMDP-v0", P=turn, low=1.0)
    agent = QLearning("TablePolicy", env, learning_rate=0.5, gamma=0.9, seed=0)
    agent.learn(2)
    assert agent.table[:, 0] == pytest.approx([0.5, 0.725])
    agent.learn(3)  # state 0, then 1, then 0 once more
    first = 0.5 + 0.5 * (1 + 0.9 * 0.725 - 0.5)
    second = 0.725 + 0.5 * (1 + 0.9 * first - 0.725)
    third = first + 0.5 * (1 + 0.9 * second - first)
    assert agent.table[:, 0] == pytest.approx([third, second])


@pytest.mark.parametrize(("end", "expected"), [("horizon", 1.0), ("max_steps", 10.0)])
def test_a_cut_episode_counts_the_value_beyond_and_an_ended_one_does_not(end, expected):
    env = gym.make("FiniteMDP-v0", P=np.ones((1, 1, 1)), low=1.0, **{end: 1})
    agent = QLearning("TablePolicy", env, learning_rate=0.5, gamma=0.9, seed=0).learn(400)
    assert agent.table == pytest.approx(np.array([[expected]]), rel=1e-3)


@pytest.mark.parametrize("envs", [1, 8])
def test_it_finds_the_planners_policy(envs):
    env = make_sb3("FiniteMDP-v0", envs)
    agent = QLearning(
        "TablePolicy",
        env,
        gamma=0.95,
        learning_rate=LinearSchedule(0.5, 0.005, 1.0),
        exploration_final_eps=0.5,
        seed=0,
    ).learn(12_000)
    values, policy = gym.make("FiniteMDP-v0").unwrapped.plan(0.95)
    np.testing.assert_allclose(agent.table.max(axis=1), values, rtol=0.05)
    actions, _ = agent.predict(np.arange(3), deterministic=True)
    np.testing.assert_array_equal(actions, policy)


def test_it_learns_frozen_lake():
    agent = QLearning("TablePolicy", gym.make("FrozenLake-v1", is_slippery=False), seed=1)
    agent.learn(15_000)
    mean, _ = evaluate_policy(agent, Monitor(gym.make("FrozenLake-v1", is_slippery=False)), 5)
    assert mean == 1.0


def test_epsilon_greedy_takes_the_best_breaks_ties_and_honours_masks():
    values = np.array([[1.0, 3.0, 3.0, 2.0]] * 4000)
    rng = np.random.default_rng(0)
    greedy = np.bincount(epsilon_greedy(values, None, 0.0, rng), minlength=4) / 4000
    assert greedy == pytest.approx([0, 0.5, 0.5, 0], abs=0.03)
    half = np.bincount(epsilon_greedy(values, None, 0.5, rng), minlength=4) / 4000
    assert half == pytest.approx([0.125, 0.375, 0.375, 0.125], abs=0.03)
    masks = np.array([[True, False, False, True]] * 4000)
    masked = np.bincount(epsilon_greedy(values, masks, 0.5, rng), minlength=4) / 4000
    assert masked == pytest.approx([0.25, 0, 0, 0.75], abs=0.03)


def test_epsilon_falls_linearly_and_stays():
    agent = QLearning(
        "TablePolicy", "FiniteMDP-v0", exploration_fraction=0.5, exploration_final_eps=0.2
    )
    found = []
    for remaining in (1.0, 0.75, 0.5, 0.0):
        agent._current_progress_remaining = remaining
        found.append(agent.epsilon())
    assert found == pytest.approx([1.0, 0.6, 0.2, 0.2])


class Toll(gym.Env):
    """Two states; in state 1 action 0 is forbidden and raises, as does action 2 in state 0."""

    observation_space = gym.spaces.Discrete(2)
    action_space = gym.spaces.Discrete(3)

    def action_masks(self):
        return np.array([[True, True, False], [False, True, True]])[self.state]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state, self.steps = 0, 0
        return self.state, {"action_mask": self.action_masks()}

    def step(self, action):
        if not self.action_masks()[action]:
            raise ValueError(f"action {action} in state {self.state}")
        reward = float(self.state == 1 and action == 2)
        self.state, self.steps = int(action == 1), self.steps + 1
        info = {"action_mask": self.action_masks()}
        return self.state, reward, False, self.steps >= 6, info


def test_masks_are_honoured_in_learning_and_predicting():
    agent = QLearning("TablePolicy", Toll(), seed=0, gamma=0.9).learn(3000)
    assert agent.table[0, 2] == agent.table[1, 0] == 0.0  # never tried
    # Going back and forth pays 1 every second step: 0.9 / (1 - 0.81) and 1 / (1 - 0.81).
    assert agent.table[0].max() == pytest.approx(4.737, abs=0.2)
    assert agent.table[1].max() == pytest.approx(5.263, abs=0.2)
    masks = np.array([[True, False, False], [False, True, False]])
    actions, _ = agent.predict(np.array([0, 1]), deterministic=True, action_masks=masks)
    assert actions.tolist() == [0, 1]
    action, _ = agent.predict(1, deterministic=True, action_masks=[False, True, True])
    assert action == 2


def test_predict_explores_as_learning_does_unless_it_is_deterministic():
    agent = QLearning("TablePolicy", "FiniteMDP-v0", seed=0, exploration_final_eps=0.5)
    agent.learn(400)
    observations = np.zeros(2000, dtype=int)
    sampled, _ = agent.predict(observations)
    greedy, _ = agent.predict(observations, deterministic=True)
    assert len(set(greedy)) == 1
    assert np.mean(sampled != greedy) == pytest.approx(0.25, abs=0.04)


def test_the_table_is_the_policy():
    space = gym.spaces.Discrete(4)
    policy = TablePolicy(space, gym.spaces.Discrete(2), initial=3.0)
    assert policy.values.shape == (4, 2) and (policy.values == 3).all()
    agent = QLearning("TablePolicy", "FiniteMDP-v0", policy_kwargs={"initial": 2.0})
    agent.table[1] = [0.0, 9.0]
    assert agent.predict(1, deterministic=True)[0] == 1
    assert torch.equal(agent.policy.values[1], torch.tensor([0.0, 9.0], dtype=torch.float64))


@pytest.mark.parametrize(
    ("env", "arguments", "message"),
    [
        ("CartPole-v1", {}, r"observations in Discrete\(n\) from 0, got Box"),
        ("Pendulum-v1", {}, r"observations in Discrete\(n\)"),
        ("FiniteMDP-v0", {"gamma": 1.5}, r"gamma=1.5 is outside \[0, 1\]"),
        ("FiniteMDP-v0", {"exploration_final_eps": -0.1}, "exploration_final_eps=-0.1"),
        ("FiniteMDP-v0", {"exploration_fraction": 0}, "exploration_fraction must be above 0"),
        ("FiniteMDP-v0", {"device": "cuda"}, "device='cuda': a table lives on the CPU"),
    ],
)
def test_what_does_not_fit_a_table_is_refused(env, arguments, message):
    with pytest.raises(ValueError, match=message):
        QLearning("TablePolicy", env, **arguments)


def test_an_observation_outside_the_table_is_refused():
    agent = QLearning("TablePolicy", "FiniteMDP-v0")
    for observation in (-1, 3):
        with pytest.raises(
            ValueError, match=rf"observation {observation} is outside Discrete\(3\)"
        ):
            agent.predict(observation)
