"""SAC with checkpoints without pickle: what it adds to Stable-Baselines3's."""

from __future__ import annotations

import warnings

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3
import torch
from numpy.testing import assert_array_equal

from palaestra.agents import SAC
from palaestra.agents.base.off_policy import buffer_tables

SMALL = {"learning_starts": 8, "batch_size": 8, "buffer_size": 30, "device": "cpu"}
SMALL |= {"policy_kwargs": {"net_arch": [8]}}


def make(cls=SAC, env=None, **arguments):
    env = gym.make("TorquePendulum-v0", max_steps=5) if env is None else env
    return cls("MlpPolicy", env, seed=0, **{**SMALL, **arguments})


def test_it_learns_as_stable_baselines_does() -> None:
    ours, theirs = make().learn(30), make(stable_baselines3.SAC).learn(30)
    for left, right in zip(ours.policy.parameters(), theirs.policy.parameters(), strict=True):
        assert torch.equal(left, right)
    assert torch.equal(ours.log_ent_coef, theirs.log_ent_coef)


@pytest.mark.parametrize("ent_coef", ["auto_0.2", 0.05])
def test_the_entropy_coefficient_survives_a_checkpoint(ent_coef, tmp_path) -> None:
    agent = make(ent_coef=ent_coef, train_freq=(2, "step")).learn(20)
    agent.save(tmp_path / "agent")
    loaded = SAC.load(tmp_path / "agent", env=gym.make("TorquePendulum-v0"))
    assert loaded.train_freq == agent.train_freq and loaded.ent_coef == ent_coef
    if ent_coef == 0.05:
        assert float(loaded.ent_coef_tensor) == pytest.approx(0.05)
    else:
        assert torch.equal(loaded.log_ent_coef, agent.log_ent_coef)
        assert loaded.ent_coef_optimizer.param_groups[0]["params"][0] is loaded.log_ent_coef
    loaded.learn(20, reset_num_timesteps=False)


@pytest.mark.parametrize(
    ("observation", "arguments"),
    [("box", {}), ("box", {"n_steps": 3}), ("box", {"train_freq": (1, "episode")}), ("dict", {})],
)
def test_a_resumed_run_has_the_replay_buffer(observation, arguments, tmp_path) -> None:
    def env():
        made = gym.make("TorquePendulum-v0", max_steps=5)
        return made if observation == "box" else Named(made)

    policy = {"box": "MlpPolicy", "dict": "MultiInputPolicy"}[observation]
    agent, again = (SAC(policy, env(), seed=0, **SMALL, **arguments) for _ in range(2))
    with warnings.catch_warnings():
        # The second environment is wrapped: its episodes begin anew, which is said.
        warnings.simplefilter("error" if observation == "box" else "ignore")
        agent.learn(45, checkpoint=tmp_path)
        again.learn(45, checkpoint=tmp_path, resume=True)
    assert again.num_timesteps == agent.num_timesteps
    assert (again.replay_buffer.pos, again.replay_buffer.full) == (15, True)
    left, right = (dict(buffer_tables(each.replay_buffer)) for each in (agent, again))
    assert left.keys() == right.keys() and len(left) >= 6
    for name, table in left.items():
        assert_array_equal(table, right[name], err_msg=name)
    assert agent.action_space.sample() == again.action_space.sample()


class Named(gym.ObservationWrapper):
    """An observation in a dictionary."""

    def __init__(self, env):
        super().__init__(env)
        self.observation_space = gym.spaces.Dict({"seen": env.observation_space})

    def observation(self, observation):
        return {"seen": np.asarray(observation)}
