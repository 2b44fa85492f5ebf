"""One tensor for all columns: the same numbers as in the arrays, drawn by one gather."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback

from palaestra.agents.base.offline_data import OfflineDataset
from palaestra.agents.base.offline_tensors import (
    OfflineTensors,
    TensorOfflineAlgorithm,
    episode_ends,
    episode_returns,
    returns_to_go,
)

NAMES = ("observations", "actions", "rewards", "next_observations", "terminations", "truncations")


def recorded(steps=12, action_space=None, **changes):
    """Steps whose numbers tell their row; episodes of 5, 4 and 3 steps, the last one is cut."""
    rows = np.arange(steps)
    space = action_space or spaces.Box(-100, 100, (2,))
    if isinstance(space, spaces.Box):
        actions = np.stack([rows, -rows], axis=1).astype(np.float32)
    else:
        actions = rows % 3
    columns = {
        "observations": np.stack([rows, rows / 4, rows**2], axis=1),
        "actions": actions,
        "rewards": rows.astype(np.float32),
        "next_observations": np.stack([rows + 1, rows / 4, rows**2], axis=1),
        "terminations": np.isin(rows, [4, 8]),
        "truncations": rows == steps - 1,
        "observation_space": spaces.Box(-np.inf, np.inf, (3,)),
        "action_space": space,
    }
    return OfflineDataset(**{**columns, **changes})


def test_a_minibatch_holds_whole_recorded_steps():
    data = recorded()
    tensors = OfflineTensors(data)
    assert tensors.rows.shape == (12, 3 + 2 + 1 + 3 + 1 + 1) and tensors.rows.is_contiguous()
    batch = tensors.sample(200, np.random.default_rng(0))
    rows = batch["rewards"].long().numpy()
    assert set(rows) == set(range(12))
    for name in NAMES:
        array = getattr(data, name)
        assert batch[name].shape == (200, *array.shape[1:]) and batch[name].dtype == torch.float32
        np.testing.assert_array_equal(batch[name], array[rows])


def test_steps_are_drawn_uniformly_and_by_seed():
    tensors = OfflineTensors(recorded())
    first, again = (tensors.sample(6_000, np.random.default_rng(7)) for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    counts = np.bincount(first["rewards"].long().numpy(), minlength=12)
    assert (np.abs(counts - 500) < 5 * np.sqrt(500)).all()
    other = tensors.sample(6_000, np.random.default_rng(8))
    assert not torch.equal(first["rewards"], other["rewards"])


def test_whole_numbers_come_back_as_integers_and_matrices_in_their_form():
    observations = np.arange(12 * 6, dtype=np.float32).reshape(12, 2, 3)
    data = recorded(
        action_space=spaces.Discrete(3),
        observations=observations,
        next_observations=None,
        observation_space=spaces.Box(-np.inf, np.inf, (2, 3)),
    )
    batch = OfflineTensors(data).batch(torch.tensor([3, 3, 0]))
    assert batch["actions"].dtype == torch.int64 and batch["actions"].tolist() == [0, 0, 0]
    np.testing.assert_array_equal(batch["observations"], observations[[3, 3, 0]])
    assert "next_observations" not in batch


def test_extra_columns_are_drawn_with_the_others():
    data = recorded()
    tensors = OfflineTensors(data, extra={"returns_to_go": returns_to_go(data)})
    batch = tensors.batch(torch.tensor([0, 4, 11]))
    assert batch["returns_to_go"].tolist() == [10.0, 4.0, 11.0]
    with pytest.raises(ValueError, match="has rewards already"):
        OfflineTensors(data, extra={"rewards": np.zeros(12)})
    with pytest.raises(ValueError, match=r"weights has shape \(3,\), there are 12"):
        OfflineTensors(data, extra={"weights": np.zeros(3)})


def test_what_is_written_into_a_column_is_sampled():
    tensors = OfflineTensors(recorded())
    tensors.column("rewards").mul_(10)
    assert tensors.batch(torch.tensor([3]))["rewards"].item() == 30
    with pytest.raises(ValueError, match="the data have no 'costs'; there are observations"):
        tensors.column("costs")


def test_observations_are_standardized_by_the_scale_of_the_data():
    tensors = OfflineTensors(recorded())
    before = tensors.column("observations").clone()
    mean, deviation = tensors.observation_scale(least=0.0)
    np.testing.assert_allclose(deviation, before.numpy().std(0), rtol=1e-5)
    tensors.standardize(mean, deviation)
    np.testing.assert_allclose(tensors.column("observations").mean(0), 0, atol=1e-6)
    following = (torch.tensor([1.0, 0.0, 0.0]) - mean) / deviation
    np.testing.assert_allclose(tensors.column("next_observations")[0], following, atol=1e-6)


def test_windows_stay_in_their_episode():
    tensors = OfflineTensors(recorded())
    found = tensors.sample_windows(300, 4, np.random.default_rng(0))
    rows, mask = found["rewards"].numpy(), found["mask"].numpy()
    assert rows.shape == (300, 4) and found["observations"].shape == (300, 4, 3)
    episode = np.searchsorted([5, 9, 12], rows, side="right")
    assert (episode == episode[:, :1]).all()
    begins = np.array([0, 5, 9])[episode]
    np.testing.assert_array_equal(found["timesteps"], rows - begins)
    ends = np.array([5, 9, 12])[episode[:, 0]]
    np.testing.assert_array_equal(mask.sum(1), np.minimum(4, ends - rows[:, 0]))
    assert (np.diff(rows, axis=1)[mask[:, 1:]] == 1).all()
    assert (np.diff(rows, axis=1)[~mask[:, 1:]] == 0).all()
    assert set(rows[:, 0]) == set(range(12))


def test_worked_example_of_returns_to_go():
    data = recorded(steps=6, rewards=np.array([1.0, 2, 3, 4, 5, 6]), terminations=np.eye(6)[2] > 0)
    assert episode_ends(data).tolist() == [3, 6]
    assert returns_to_go(data).tolist() == [6, 5, 3, 15, 11, 6]
    # 1 + (2 + 3 / 2) / 2 = 2.75, and 4 + (5 + 6 / 2) / 2 = 8
    assert returns_to_go(data, discount=0.5).tolist() == [2.75, 3.5, 3, 8, 8, 6]
    assert episode_returns(data).tolist() == [6, 15]


def test_what_makes_no_sense_is_refused():
    data = recorded()
    tensors = OfflineTensors(data)
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        tensors.sample(0, rng)
    with pytest.raises(ValueError, match="batch_size=2 and length=0 must be at least 1"):
        tensors.sample_windows(2, 0, rng)
    with pytest.raises(ValueError, match=r"discount=1.5 lies outside \[0, 1\]"):
        returns_to_go(data, 1.5)
    nothing = recorded(terminations=None, truncations=None, rewards=None)
    with pytest.raises(ValueError, match="no terminations and no truncations"):
        episode_ends(nothing)
    with pytest.raises(ValueError, match="have no rewards"):
        returns_to_go(nothing)
    with pytest.raises(ValueError, match="have no rewards"):
        episode_returns(nothing)
    images = recorded(
        observations=np.zeros((12, 4, 4, 3), np.uint8),
        next_observations=None,
        observation_space=spaces.Box(0, 255, (4, 4, 3), np.uint8),
    )
    with pytest.raises(ValueError, match="images of bytes"):
        OfflineTensors(images)
    large = recorded(actions=np.arange(12) + 2**24, action_space=spaces.Discrete(2**25))
    with pytest.raises(ValueError, match="actions holds integers beyond 16777216"):
        OfflineTensors(large)


# -- the base of agents ---------------------------------------------------------------------------


class Regression(TensorOfflineAlgorithm):
    """Fits the mean of its policy to the recorded actions."""

    def learn_from(self, batch):
        assert batch["observations"].device == self.policy.device
        _, log_probs, _ = self.policy.evaluate_actions(batch["observations"], batch["actions"])
        loss = -log_probs.mean()
        self.policy.optimizer.zero_grad()
        loss.backward()
        self.policy.optimizer.step()
        return {"train/loss": float(loss.detach())}

    def _get_torch_save_params(self):
        return ["policy", "policy.optimizer"], []


def learner(data=None):
    data = data or OfflineDataset.record(gym.make("TorquePendulum-v0", max_steps=10), 60)
    kwargs = {"policy_kwargs": {"net_arch": [8]}, "seed": 0, "device": "cpu", "batch_size": 16}
    return Regression("MlpPolicy", data, **kwargs)


class Stop(BaseCallback):
    def _on_step(self):
        if self.n_calls == 17:
            raise KeyboardInterrupt
        return True


def test_an_agent_learns_from_the_tensor_and_resumes_exactly(tmp_path):
    whole = learner().learn(30)
    assert len(whole.tensors) == 60 and whole.num_timesteps == 30
    with pytest.raises(KeyboardInterrupt):
        learner().learn(30, callback=Stop(), checkpoint=tmp_path, checkpoint_seconds=0)
    resumed = learner().learn(30, checkpoint=tmp_path, resume=True)
    for ours, theirs in zip(whole.policy.parameters(), resumed.policy.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_an_agent_takes_other_data():
    agent = learner().learn(2)
    first = agent.tensors
    agent.learn(2)
    assert agent.tensors is first
    agent.set_env(OfflineDataset.record(gym.make("TorquePendulum-v0", max_steps=10), 40))
    agent.learn(2)
    assert len(agent.tensors) == 40
