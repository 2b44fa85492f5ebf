"""Behaviour cloning and the data sets that it learns from."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.monitor import Monitor

from palaestra.agents.base.offline_data import OfflineDataset
from palaestra.agents.offline.behaviour_cloning import BehaviourCloning, cloning_loss

BOX = gym.spaces.Box(-2.0, 2.0, (2,), np.float32)


def test_worked_example_of_the_loss():
    log_probs = torch.log(torch.tensor([0.5, 0.25]))
    entropy = torch.tensor([1.0, 3.0])
    assert float(cloning_loss(log_probs, entropy, 0.0)) == pytest.approx(1.039721)
    assert float(cloning_loss(log_probs, entropy, 0.1)) == pytest.approx(0.839721)


def test_it_does_what_the_planner_did():
    env = gym.make("FiniteMDP-v0")
    policy = env.unwrapped.plan(0.95).policy
    data = OfflineDataset.record(env, 300, act=lambda state: policy[state])
    agent = BehaviourCloning("MlpPolicy", data, seed=0, learning_rate=0.01).learn(200)
    actions, _ = agent.predict(np.arange(3), deterministic=True)
    assert actions[:2].tolist() == policy[:2].tolist()  # the planner never lets it break


def test_it_learns_probabilities_and_box_actions():
    rng = np.random.default_rng(0)
    observations = rng.uniform(-1, 1, (2000, 2)).astype(np.float32)
    actions = observations @ np.array([[0.5, 0], [0, -1]]) + 0.1 * rng.standard_normal((2000, 2))
    data = OfflineDataset(observations, actions, observation_space=BOX, action_space=BOX)
    agent = BehaviourCloning("MlpPolicy", data, seed=0, learning_rate=0.01, max_grad_norm=1.0)
    agent.learn(800)
    found, _ = agent.predict(np.float32([[0.8, 0.5], [-0.4, 0.0]]), deterministic=True)
    np.testing.assert_allclose(found, [[0.4, -0.5], [-0.2, 0.0]], atol=0.08)
    assert agent.policy.log_std.exp().tolist() == pytest.approx([0.1, 0.1], abs=0.04)

    coin = gym.spaces.Discrete(1)
    flips = (rng.random(3000) < 0.7).astype(int)
    data = OfflineDataset(
        np.zeros(3000, int), flips, observation_space=coin, action_space=gym.spaces.Discrete(2)
    )
    agent = BehaviourCloning("MlpPolicy", data, seed=0, learning_rate=0.01).learn(300)
    distribution = agent.policy.get_distribution(torch.zeros(1, dtype=torch.int64)).distribution
    assert float(distribution.probs[0, 1].detach()) == pytest.approx(0.7, abs=0.05)


def test_it_learns_without_an_environment_and_is_evaluated_in_one_given_later(tmp_path):
    env = gym.make("FiniteMDP-v0")
    recorded = OfflineDataset.record(env, 50)
    data = OfflineDataset(
        **recorded.arrays(),
        observation_space=env.observation_space,
        action_space=env.action_space,
    )
    agent = BehaviourCloning("MlpPolicy", data, seed=0).learn(5, progress_bar=True)
    assert agent.env is None and agent.num_timesteps == 5
    agent.learn(5, reset_num_timesteps=False)
    assert agent.num_timesteps == 10
    agent.save(tmp_path / "agent")
    loaded = BehaviourCloning.load(tmp_path / "agent", env=data)
    assert loaded.learn(5, reset_num_timesteps=False).num_timesteps == 15
    only_env = BehaviourCloning.load(tmp_path / "agent", env=env)
    with pytest.raises(ValueError, match="there is no data to learn from"):
        only_env.learn(1)
    only_env.set_env(recorded)
    callback = EvalCallback(Monitor(env), eval_freq=5, n_eval_episodes=1, verbose=0, warn=False)
    only_env.learn(5, callback=callback)
    assert np.isfinite(callback.best_mean_reward)


def test_resume_without_an_environment_is_exact(tmp_path):
    env = gym.make("FiniteMDP-v0")
    data = OfflineDataset(
        **OfflineDataset.record(env, 64).arrays(),
        observation_space=env.observation_space,
        action_space=env.action_space,
    )
    whole = BehaviourCloning("MlpPolicy", data, seed=4).learn(20)
    BehaviourCloning("MlpPolicy", data, seed=4).learn(8, checkpoint=tmp_path)
    resumed = BehaviourCloning("MlpPolicy", data, seed=4)
    resumed.learn(20, checkpoint=tmp_path, resume=True)
    for name, value in whole.policy.state_dict().items():
        assert torch.equal(value, resumed.policy.state_dict()[name])


def test_record_keeps_what_happened():
    env = gym.make("FiniteMDP-v0", max_steps=7)
    data = OfflineDataset.record(env, 20, seed=3)
    assert len(data) == 20
    again = gym.make("FiniteMDP-v0", max_steps=7)
    state, _ = again.reset(seed=3)
    for row in range(20):
        assert data.observations[row] == state
        state, reward, terminated, truncated, _ = again.step(data.actions[row])
        assert (data.next_observations[row], data.rewards[row]) == (state, reward)
        assert data.terminations[row] == terminated
        assert data.truncations[row] == (truncated or row == 19)
        if truncated:
            state, _ = again.reset()
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        OfflineDataset.record(env, 0)


def test_episodes_are_joined():
    episodes = [
        {"observations": [0, 1, 2], "actions": [1, 0], "rewards": [0.5, 1.0]},
        {"observations": [2, 0], "actions": [1], "rewards": [0.0]},
    ]
    data = OfflineDataset.from_episodes(episodes, env=gym.make("FiniteMDP-v0"))
    assert data.observations.tolist() == [0, 1, 2]
    assert data.next_observations.tolist() == [1, 2, 0]
    assert data.actions.tolist() == [1, 0, 1]
    assert data.rewards.tolist() == [0.5, 1.0, 0.0]
    assert data.terminations is None


@pytest.mark.parametrize(
    ("episodes", "message"),
    [
        ([], "no episodes"),
        ([{"observations": [0], "actions": [0, 1, 0]}], "1 observations and 3 actions"),
        (
            [{"observations": [0, 1], "actions": [0, 1], "rewards": [0.0]}],
            "episode 0 has 1 rewards and 2 actions",
        ),
        (
            [
                {"observations": [0], "actions": [0], "rewards": [1.0]},
                {"observations": [0], "actions": [0]},
            ],
            "rewards is given for 1 of 2 episodes",
        ),
    ],
)
def test_episodes_that_do_not_fit_are_refused(episodes, message):
    with pytest.raises(ValueError, match=message):
        OfflineDataset.from_episodes(episodes, env=gym.make("FiniteMDP-v0"))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"observations": [0, 1], "actions": [0]}, r"actions has shape \(1,\)"),
        ({"observations": [], "actions": []}, "holds no steps"),
        ({"observations": [0, 3], "actions": [0, 1]}, r"observations\[1\] = 3 lies outside"),
        ({"observations": [0, 1], "actions": [0, -1]}, r"actions\[1\] = -1 lies outside"),
        ({"observations": [0.0, 1.0], "actions": [0, 1]}, "holds integers"),
        ({"observations": [[0], [1]], "actions": [0, 1]}, r"entries of shape \(1,\)"),
        (
            {"observations": [0, 1], "actions": [0, 1], "rewards": [0.0, np.nan]},
            r"rewards\[1\] = nan is not finite",
        ),
    ],
)
def test_data_that_does_not_fit_the_spaces_is_refused(arrays, message):
    with pytest.raises(ValueError, match=message):
        OfflineDataset(**arrays, env=gym.make("FiniteMDP-v0"))


def test_data_needs_spaces_and_the_agent_its_own():
    with pytest.raises(ValueError, match="without env needs observation_space"):
        OfflineDataset([0], [0])
    box = OfflineDataset(
        np.zeros((1, 2)), np.zeros((1, 2)), observation_space=BOX, action_space=BOX
    )
    agent = BehaviourCloning("MlpPolicy", OfflineDataset.record(gym.make("FiniteMDP-v0"), 9))
    with pytest.raises(ValueError, match="spaces do not match"):
        agent.set_env(box)
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        BehaviourCloning("MlpPolicy", box, batch_size=0)
    with pytest.raises(ValueError, match="entropy_coefficient=-1"):
        BehaviourCloning("MlpPolicy", box, entropy_coefficient=-1)
