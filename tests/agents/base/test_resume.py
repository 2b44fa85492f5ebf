"""Exact resume, of SB3's own algorithms too, on native vectors and elsewhere."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecFrameStack, VecNormalize

import palaestra
from palaestra.agents.base.algorithm import ProgressBar
from palaestra.agents.base.on_policy import A2C, PPO
from palaestra.agents.base.resumable import argument_names
from palaestra.agents.base.snapshot import restore_env, snapshot_env
from palaestra.wrappers.sb3 import make_sb3

SMALL = {"n_steps": 16, "batch_size": 16, "n_epochs": 2}


class Stop(BaseCallback):
    """Raises in the middle of a rollout: the process is as good as dead."""

    def __init__(self, at):
        super().__init__()
        self.at = at

    def _on_step(self):
        if self.n_calls == self.at:
            raise KeyboardInterrupt
        return True


def inventory(envs=4, **arguments):
    return make_sb3("InventoryNet-v0", envs, setting="one_store_lost", periods=10, **arguments)


def same(left, right):
    ours, theirs = left.policy.state_dict(), right.policy.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    ours, theirs = (x.policy.optimizer.state_dict()["state"] for x in (left, right))
    assert all(torch.equal(ours[i][k], theirs[i][k]) for i in ours for k in ours[i])


MAKERS = {
    "vector": inventory,
    "normalized": lambda: VecNormalize(inventory()),
    "rewards normalized": lambda: VecNormalize(inventory(), norm_obs=False),
    "single": lambda: gym.make("InventoryNet-v0", setting="one_store_lost", periods=10),
    "continuing": lambda: make_sb3("FiniteMDP-v0", 3, P=np.full((4, 2, 4), 0.25), low=0.1),
}


LEARNERS = {
    "PPO": (PPO, {**SMALL, "learning_rate": LinearSchedule(1e-3, 1e-4, 1.0)}),
    "gSDE": (PPO, {**SMALL, "use_sde": True, "sde_sample_freq": 5}),
    "A2C": (A2C, {"n_steps": 8}),
}


@pytest.mark.parametrize(
    ("learner", "maker"),
    # State-dependent exploration is for Box actions.
    [(each, m) for each in LEARNERS for m in MAKERS if (each, m) != ("gSDE", "continuing")],
)
def test_resumed_training_on_a_native_environment_is_exact(learner, maker, tmp_path):
    (cls, arguments), make = LEARNERS[learner], MAKERS[maker]
    whole = cls("MlpPolicy", make(), seed=3, **arguments).learn(600)
    with pytest.raises(KeyboardInterrupt):
        cls("MlpPolicy", make(), seed=3, **arguments).learn(
            600, callback=Stop(40), checkpoint=tmp_path, checkpoint_seconds=0
        )
    resumed = cls("MlpPolicy", make(), seed=3, **arguments)
    resumed.learn(600, checkpoint=tmp_path, resume=True)
    assert resumed.num_timesteps == whole.num_timesteps
    assert resumed._n_updates == whole._n_updates
    same(whole, resumed)
    left, right = whole.get_vec_normalize_env(), resumed.get_vec_normalize_env()
    if left is not None:
        assert left.ret_rms.mean == right.ret_rms.mean and left.ret_rms.count == right.ret_rms.count
        np.testing.assert_array_equal(left.returns, right.returns)
        if left.norm_obs:
            np.testing.assert_array_equal(left.obs_rms.var, right.obs_rms.var)


def test_checkpoints_do_not_change_what_is_learned(tmp_path):
    plain = PPO("MlpPolicy", inventory(), seed=1, **SMALL).learn(300)
    theirs = stable_baselines3.PPO("MlpPolicy", inventory(), seed=1, **SMALL).learn(300)
    written = PPO("MlpPolicy", inventory(), seed=1, **SMALL)
    written.learn(300, checkpoint=tmp_path, checkpoint_seconds=0)
    same(plain, written)
    same(plain, theirs)


def test_resume_also_goes_on_from_an_agent_that_had_learned_before(tmp_path):
    PPO("MlpPolicy", inventory(), seed=1, **SMALL).learn(128).save(tmp_path / "first")

    def second():
        agent = PPO.load(tmp_path / "first", env=inventory())
        assert agent.num_timesteps == 128
        return agent

    whole = second().learn(256, reset_num_timesteps=False)
    arguments = {"reset_num_timesteps": False, "checkpoint": tmp_path}
    with pytest.raises(KeyboardInterrupt):
        second().learn(256, callback=Stop(20), checkpoint_seconds=0, **arguments)
    resumed = second().learn(256, resume=True, **arguments)
    assert resumed.num_timesteps == whole.num_timesteps == 384
    same(whole, resumed)


class Positions(BaseCallback):
    """Notes where the progress bar stands and how many timesteps there are."""

    def _on_training_start(self):
        callbacks = self.locals["callback"].callbacks
        self.bar = next(each for each in callbacks if isinstance(each, ProgressBar))
        self.seen = []

    def _on_step(self):
        self.seen.append((self.bar.pbar.n, self.model.num_timesteps))
        return True


@pytest.mark.parametrize("name", ["HDPO", "QLearning"])
def test_the_bar_counts_the_agents_own_timesteps(name):
    cls, positions = getattr(palaestra.agents, name), Positions()
    agent = cls(cls.example.policy, cls.example.build(), seed=0, **cls.example.kwargs)
    for _ in range(2):
        agent.learn(
            cls.example.steps, callback=positions, progress_bar=True, reset_num_timesteps=False
        )
        shown, counted = zip(*positions.seen, strict=True)
        first = 0 if counted[0] < cls.example.steps else cls.example.steps
        # The bar is moved after this callback, so it stands at the step before.
        assert [n + first for n in shown] == [first, *counted[:-1]]
    assert agent.num_timesteps == 2 * cls.example.steps


def test_a_resumed_run_adds_to_what_was_learned_before(tmp_path):
    def agent():
        return palaestra.agents.QLearning("TablePolicy", "FiniteMDP-v0", seed=2)

    whole = agent().learn(100)
    whole.learn(80, reset_num_timesteps=False)
    first = agent().learn(100)
    first.save(tmp_path / "first")
    with pytest.raises(KeyboardInterrupt):
        first.learn(
            80,
            callback=Stop(30),
            reset_num_timesteps=False,
            checkpoint=tmp_path,
            checkpoint_seconds=0,
        )
    resumed = palaestra.agents.QLearning.load(tmp_path / "first", env=gym.make("FiniteMDP-v0"))
    resumed.learn(80, reset_num_timesteps=False, checkpoint=tmp_path, resume=True)
    assert resumed.num_timesteps == whole.num_timesteps == 180
    np.testing.assert_array_equal(resumed.table, whole.table)


def test_what_is_not_native_is_said_not_to_resume_exactly(tmp_path):
    agent = palaestra.agents.QLearning("TablePolicy", "FrozenLake-v1", seed=0)
    with pytest.warns(UserWarning, match="not, as it is, an array environment"):
        agent.learn(50, checkpoint=tmp_path)
    again = palaestra.agents.QLearning("TablePolicy", "FrozenLake-v1", seed=0)
    with pytest.warns(UserWarning):
        again.learn(80, checkpoint=tmp_path, resume=True)
    assert again.num_timesteps == 80


def test_wrappers_with_a_hidden_state_are_not_taken_for_native():
    limited = gym.make("FiniteMDP-v0", max_episode_steps=7)
    stacked = gym.wrappers.FrameStackObservation(gym.make("InventoryNet-v0"), 2)
    for env in (limited, stacked):
        wrapped = PPO._wrap_env(env)
        wrapped.reset()
        assert snapshot_env(wrapped) is None
    assert snapshot_env(VecFrameStack(inventory(), 2)) is None
    assert snapshot_env(None) is None


def test_a_snapshot_puts_a_vector_back():
    envs = [inventory(seed=0), inventory(seed=50)]
    for env in envs:
        env.reset()
        for _ in range(7):
            env.step(np.zeros((4, 1), np.float32))
    restore_env(envs[1], *snapshot_env(envs[0]))
    for _ in range(25):
        left, right = (env.step(np.full((4, 1), 0.3, np.float32)) for env in envs)
        np.testing.assert_array_equal(left[0], right[0])
        np.testing.assert_array_equal(left[1], right[1])


def test_arguments_are_those_of_all_constructors():
    names = argument_names(palaestra.agents.HDPO)
    assert {"scenarios", "batch_size", "learning_rate", "policy_kwargs", "seed"} <= set(names)
    assert not {"self", "policy", "env", "device", "verbose", "common"} & set(names)


def test_policy_arguments_and_schedules_come_back(tmp_path):
    kwargs = {"net_arch": {"pi": [8], "vf": [4]}, "activation_fn": torch.nn.ELU}
    agent = PPO(
        "MlpPolicy", inventory(), policy_kwargs=kwargs, clip_range=LinearSchedule(0.3, 0.1, 1.0)
    )
    agent.save(tmp_path / "agent")
    loaded = PPO.load(tmp_path / "agent")
    assert loaded.policy_kwargs["activation_fn"] is torch.nn.ELU
    assert loaded.clip_range(0.5) == pytest.approx(0.2)
    a2c = A2C("MlpPolicy", inventory(), use_rms_prop=False, rms_prop_eps=1e-3)
    a2c.save(tmp_path / "a2c")
    assert isinstance(A2C.load(tmp_path / "a2c").policy.optimizer, torch.optim.Adam)
    A2C("MlpPolicy", inventory(), rms_prop_eps=1e-3).save(tmp_path / "a2c")
    group = A2C.load(tmp_path / "a2c").policy.optimizer.param_groups[0]
    assert group["eps"] == 1e-3
    lambdas = PPO("MlpPolicy", inventory(), learning_rate=lambda progress: 1e-3 * progress)
    with pytest.raises(ValueError, match="cannot be saved without pickle"):
        lambdas.save(tmp_path / "lambda")


def test_an_overridden_argument_replaces_the_saved_one(tmp_path):
    PPO("MlpPolicy", inventory(), gamma=0.9).save(tmp_path / "agent")
    assert PPO.load(tmp_path / "agent", gamma=0.5).gamma == 0.5
    with pytest.raises(ValueError, match="nonsense"):
        PPO.load(tmp_path / "agent", nonsense=1)


def test_a_policy_class_without_an_alias_cannot_be_saved(tmp_path):
    class Own(stable_baselines3.common.policies.ActorCriticPolicy):
        pass

    with pytest.raises(ValueError, match="Own has no alias in PPO.policy_aliases"):
        PPO(Own, inventory()).save(tmp_path / "agent")
