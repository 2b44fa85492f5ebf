"""Prior data: exact shares, the recorded steps as they were, and otherwise the same algorithm."""

from __future__ import annotations

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecNormalize

from palaestra.agents.base.offline_data import OfflineDataset
from palaestra.agents.base.prior_data import PriorData
from palaestra.agents.base.quantile_dqn import QRDQN
from palaestra.agents.base.sac import SoftActorCritic
from palaestra.wrappers.sb3 import make_sb3

COMMON = {
    **{"learning_starts": 10, "batch_size": 8, "buffer_size": 50, "learning_rate": 3e-3},
    **{"device": "cpu", "seed": 0},
}
STEPS = 24
MARK = 1e3  # what every recorded reward is, to know the step again


class RLPD(PriorData, SoftActorCritic):
    pass


class HybridQRDQN(PriorData, QRDQN):
    pass


def pendulum():
    return gym.make("TorquePendulum-v0", max_steps=10)


def recorded(env=None, **changes):
    """Steps of random actions, whose rewards are marked."""
    data = OfflineDataset.record(pendulum() if env is None else env, STEPS)
    return replace(data, **{"rewards": np.full(STEPS, MARK), **changes})


def agent(env=None, cls=RLPD, **arguments):
    arguments = {**COMMON, "policy_kwargs": {"net_arch": [8]}, **arguments}
    return cls("MlpPolicy", recorded() if env is None else env, **arguments)


def assert_same(left, right):
    ours, theirs = left.policy.state_dict(), right.policy.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(
    ("share", "size", "expected"),
    [(0.5, 8, 4), (0.25, 8, 2), (0.3, 8, 2), (0.0, 8, 0), (1.0, 8, 8)],
)
def test_the_share_of_every_minibatch_is_exact(share, size, expected):
    learner = agent(prior_share=share).learn(15)
    assert learner.sizes(size) == (size - expected, expected)
    for _ in range(10):
        batch = learner.sample(size)
        from_data = (batch.rewards == MARK).flatten().tolist()
        assert from_data == [False] * (size - expected) + [True] * expected
        assert batch.observations.shape == batch.next_observations.shape == (size, 3)


def test_minibatches_hold_the_recorded_steps_as_they_were_with_actions_from_minus_one_to_one():
    env = pendulum()
    data = recorded(env, terminations=np.arange(STEPS) % 3 == 0)
    learner = agent(replace(data, rewards=np.arange(STEPS, dtype=float)), prior_share=1.0)
    space = env.action_space
    assert space.high.item() != 1  # otherwise the scale would not be seen
    scaled = data.actions / space.high
    batch = learner.sample(200)
    rows = batch.rewards.flatten().long().numpy()
    assert set(rows) == set(range(STEPS))
    np.testing.assert_allclose(batch.observations, data.observations[rows])
    np.testing.assert_allclose(batch.next_observations, data.next_observations[rows])
    np.testing.assert_allclose(batch.actions, scaled[rows], rtol=1e-6)
    # An episode that is cut goes on; one that is over does not.
    assert data.truncations.any()
    np.testing.assert_array_equal(batch.dones.flatten(), data.terminations[rows])


def test_data_change_what_is_learned_and_without_them_the_algorithm_is_as_it_was():
    plain = agent(pendulum(), SoftActorCritic).learn(20)
    assert_same(plain, agent(pendulum()).learn(20))
    data = recorded()
    assert_same(plain, agent(replace(data, env=pendulum()), prior_share=0.0).learn(20))
    mixed = agent(replace(data, env=pendulum())).learn(20)
    first, second = (each.policy.parameters_to_vector() for each in (plain, mixed))
    assert np.abs(first - second).max() > 1e-3


def test_returns_of_several_steps_follow_the_recorded_episodes():
    ended = np.arange(STEPS) % 4 == 3
    rewards = np.arange(STEPS, dtype=float)
    data = recorded(rewards=rewards, terminations=ended, truncations=np.zeros(STEPS, bool))
    learner = agent(data, prior_share=1.0, n_steps=3, gamma=0.5)
    batch = learner.sample(300)
    # From steps 0 and 1 of an episode of four: three rewards; from steps 2 and 3 what is left.
    expected = {}
    for row in range(STEPS):
        last = min(row + 2, row - row % 4 + 3)
        steps = np.arange(row, last + 1)
        total = (0.5 ** (steps - row) * rewards[steps]).sum()
        expected[row] = [total, float(ended[last]), 0.5 ** len(steps)]
    observations = {tuple(o): row for row, o in enumerate(data.observations.tolist())}
    for index, observation in enumerate(batch.observations.tolist()):
        found = (batch.rewards[index], batch.dones[index], batch.discounts[index])
        row = observations[tuple(observation)]
        assert [x.item() for x in found] == pytest.approx(expected[row])


def test_recorded_observations_are_normalized_like_those_of_the_environment():
    vector = VecNormalize(make_sb3("TorquePendulum-v0", 2, max_steps=10), norm_reward=False)
    learner = agent(recorded(env=pendulum()), prior_share=1.0)
    learner = agent(replace(learner.dataset, env=vector), prior_share=1.0).learn(30)
    batch, known = learner.sample(50), learner.dataset.observations
    normalized = {tuple(x) for x in vector.normalize_obs(known).round(4).tolist()}
    assert {tuple(x) for x in batch.observations.numpy().round(4).tolist()} <= normalized


def test_discrete_actions_work_too():
    env = gym.make("IncomeGamble-v0", observation="onehot")
    data = OfflineDataset.record(env, STEPS)
    learner = agent(data, HybridQRDQN, quantiles=4, prior_share=1.0).learn(30)
    batch = learner.sample(50)
    assert set(batch.actions.flatten().tolist()) <= set(data.actions.tolist())
    assert set(batch.rewards.flatten().tolist()) <= set(data.rewards.astype(np.float32).tolist())


def test_other_data_take_the_place_of_the_first():
    learner = agent(prior_share=1.0).learn(12)
    assert (learner.sample(20).rewards == MARK).all()
    learner.set_env(recorded(rewards=np.full(STEPS, 7.0)))
    assert (learner.sample(20).rewards == 7).all()
    learner.set_env(pendulum())  # only another environment
    assert (learner.sample(20).rewards == 7).all()
    learner.learn(5, reset_num_timesteps=False)


class Stop(BaseCallback):
    """Raises in the middle of learning: the process is as good as dead."""

    def _on_step(self):
        if self.n_calls == 17:
            raise KeyboardInterrupt
        return True


def test_resumed_learning_is_exact_and_a_file_brings_the_agent_back(tmp_path):
    whole = agent().learn(30)
    with pytest.raises(KeyboardInterrupt):
        agent().learn(30, callback=Stop(), checkpoint=tmp_path, checkpoint_seconds=0)
    resumed = agent().learn(30, checkpoint=tmp_path, resume=True)
    assert resumed.num_timesteps == whole.num_timesteps
    assert_same(whole, resumed)
    whole.save(tmp_path / "agent")
    for env in (None, pendulum(), recorded()):
        loaded = RLPD.load(tmp_path / "agent", env)
        assert_same(whole, loaded)
        assert loaded.prior_share == 0.5
        assert (loaded.prior is None) == (not isinstance(env, OfflineDataset))
    loaded.learn(12, reset_num_timesteps=False)
    assert (loaded.sample(8).rewards == MARK).sum() == 4


def test_what_does_not_fit_is_refused():
    data = recorded()
    with pytest.raises(ValueError, match="prior_share=1.5 lies outside"):
        agent(data, prior_share=1.5)
    with pytest.raises(ValueError, match="lack rewards, terminations; needed are rewards, next_"):
        agent(replace(data, rewards=None, terminations=None))
    spaces = {"observation_space": data.observation_space, "action_space": data.action_space}
    with pytest.raises(ValueError, match="prior data need env, the environment to learn in"):
        agent(replace(data, env=None, **spaces))
    wider = gym.spaces.Box(-100, 100, data.observation_space.shape)
    with pytest.raises(ValueError, match="spaces do not match"):
        agent(replace(data, observation_space=wider))
    learner = agent(data)
    with pytest.raises(ValueError, match="spaces do not match"):
        learner.set_env(replace(data, observation_space=wider))
    assert learner.dataset is data
