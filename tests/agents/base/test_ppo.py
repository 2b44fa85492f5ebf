"""PPO in stages: the parameters of Stable-Baselines3's PPO, and every stage can be overridden."""

from __future__ import annotations

from dataclasses import dataclass, replace

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecNormalize

from palaestra.agents.base.ppo import (
    Evaluation,
    ProximalAlgorithm,
    standardized,
    value_error,
)
from palaestra.wrappers.sb3 import make_sb3

CONTINUOUS = ("InventoryNet-v0", {"setting": "one_store_backlogged", "periods": 20, "ignore": 0})
DISCRETE = ("FiniteMDP-v0", {"observation": "onehot"})
# The last minibatch of an epoch is to be smaller than the others.
pytestmark = pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")
COMMON = {
    **{"n_steps": 48, "batch_size": 20, "n_epochs": 3, "learning_rate": 3e-3, "seed": 0},
    **{"policy_kwargs": {"net_arch": [8]}, "device": "cpu"},
}


def trained(cls=ProximalAlgorithm, env=DISCRETE, steps=144, **arguments):
    """An agent after three rollouts, whose last minibatch is smaller than the others."""
    made = gym.make(env[0], **env[1]) if isinstance(env, tuple) else env
    return cls("MlpPolicy", made, **{**COMMON, **arguments}).learn(steps)


def assert_same(left, right):
    ours, theirs = left.policy.state_dict(), right.policy.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    ours, theirs = (x.policy.optimizer.state_dict()["state"] for x in (left, right))
    assert all(torch.equal(ours[i][k], theirs[i][k]) for i in ours for k in ours[i])
    assert left._n_updates == right._n_updates


SETTINGS = {
    "plain": {},
    "clipped values": {"clip_range_vf": 0.05, "ent_coef": 0.01},
    "stopped early": {"target_kl": 2e-3, "n_epochs": 8},
    "schedules": {
        "learning_rate": LinearSchedule(1e-2, 0.0, 1.0),
        "clip_range": LinearSchedule(0.3, 0.01, 1.0),
        "clip_range_vf": LinearSchedule(0.3, 0.01, 1.0),
    },
    "advantages as they are": {"normalize_advantage": False, "batch_size": 47},
}


@pytest.mark.parametrize("env", [CONTINUOUS, DISCRETE], ids=["continuous", "discrete"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_parameters_are_those_of_stable_baselines3(env, setting):
    ours, theirs = (
        trained(cls, env, **SETTINGS[setting]) for cls in (ProximalAlgorithm, stable_baselines3.PPO)
    )
    assert_same(ours, theirs)
    if setting == "stopped early":
        assert ours._n_updates < 24
    logs, expected = (agent.logger.name_to_value for agent in (ours, theirs))
    assert set(logs) == set(expected)
    for name in set(logs) - {"time/fps", "time/time_elapsed"}:
        assert logs[name] == pytest.approx(expected[name], rel=1e-4, abs=1e-6), name


def test_parameters_are_the_same_on_a_normalized_vector_with_state_dependent_exploration():
    def env():
        return VecNormalize(make_sb3(CONTINUOUS[0], 3, **CONTINUOUS[1]))

    arguments = {"steps": 432, "use_sde": True, "ent_coef": 0.01}
    assert_same(
        trained(env=env(), **arguments), trained(stable_baselines3.PPO, env=env(), **arguments)
    )


class Choices(gym.Env):
    """Two observations by name, two choices at once; episodes of ten steps."""

    def __init__(self):
        box = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.observation_space = gym.spaces.Dict({"left": box, "right": box})
        self.action_space = gym.spaces.MultiDiscrete([3, 2])

    def observation(self):
        left, right = self.np_random.normal(size=(2, 2)).astype(np.float32)
        return {"left": left, "right": right}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.observation(), {}

    def step(self, action):
        self.steps += 1
        return self.observation(), float(action.sum()), False, self.steps == 10, {}


def test_parameters_are_the_same_with_observations_by_name_and_several_choices():
    ours, theirs = (
        cls("MultiInputPolicy", Choices(), **COMMON).learn(96)
        for cls in (ProximalAlgorithm, stable_baselines3.PPO)
    )
    assert_same(ours, theirs)
    now = ours.evaluate(next(ours.minibatches()))
    assert [choice.logits.shape[1] for choice in now.distribution] == [3, 2]


# -- every stage -----------------------------------------------------------------------------------


class OtherSurrogate(ProximalAlgorithm):
    def policy_loss(self, now, batch):
        return -(now.log_prob * batch.advantages.clamp(min=0)).mean()


class OtherEntropy(ProximalAlgorithm):
    def entropy_loss(self, now):
        return -super().entropy_loss(now)


class OtherValues(ProximalAlgorithm):
    def value_loss(self, now, batch):
        return (now.values - batch.returns).abs().mean()


class FurtherTerm(ProximalAlgorithm):
    def loss(self, now, batch):
        return super().loss(now, batch) + 0.1 * (now.distribution.logits**2).mean()


class OtherAdvantages(ProximalAlgorithm):
    def prepare(self, batch):
        batch = super().prepare(batch)
        return batch._replace(advantages=batch.advantages.sign())


class Backwards(ProximalAlgorithm):
    def minibatches(self):
        return reversed(list(super().minibatches()))


class OneEpoch(ProximalAlgorithm):
    def run_epochs(self):
        self.run_epoch()


class NeverFar(ProximalAlgorithm):
    def moved_too_far(self, now):
        return False


class TwoSteps(ProximalAlgorithm):
    def gradient_step(self, loss):
        super().gradient_step(loss)
        self.policy.optimizer.step()


STAGES = [
    OtherSurrogate,
    OtherEntropy,
    OtherValues,
    FurtherTerm,
    OtherAdvantages,
    Backwards,
    OneEpoch,
    NeverFar,
    TwoSteps,
]


@pytest.mark.parametrize("cls", STAGES)
def test_a_stage_that_is_overridden_changes_what_is_learned(cls):
    arguments = {"ent_coef": 0.05, "target_kl": 2e-3, "n_epochs": 8}
    plain, other = (trained(each, **arguments) for each in (ProximalAlgorithm, cls))
    first, second = (agent.policy.parameters_to_vector() for agent in (plain, other))
    assert np.isfinite(second).all()
    assert np.abs(first - second).max() > 1e-4


def test_an_evaluation_can_carry_more():
    """What a second head says goes from `evaluate` to the loss, and the log holds what is noted."""

    @dataclass(frozen=True)
    class WithDoubled(Evaluation):
        doubled: torch.Tensor

    class Doubling(ProximalAlgorithm):
        def evaluate(self, batch):
            now = super().evaluate(batch)
            return WithDoubled(**vars(now), doubled=2 * now.values)

        def loss(self, now, batch):
            self.note(doubled=now.doubled.mean())
            return super().loss(now, batch)

        def value_loss(self, now, batch):
            return super().value_loss(replace(now, values=now.doubled / 2), batch)

    agent = trained(Doubling)
    # Doubling and halving change no bit.
    assert_same(agent, trained())
    assert "train/doubled" in agent.logger.name_to_value


@pytest.mark.parametrize("env", [CONTINUOUS, DISCRETE], ids=["continuous", "discrete"])
def test_an_evaluation_is_of_its_own_minibatch(env):
    agent = trained(env=env)
    seen = [(batch, agent.evaluate(batch)) for batch in agent.minibatches()]
    assert [len(batch.actions) for batch, _ in seen] == [20, 20, 8]
    for batch, now in seen:
        expected = agent.policy.get_distribution(batch.observations).distribution
        log_prob = now.distribution.log_prob(batch.actions)
        torch.testing.assert_close(log_prob, expected.log_prob(batch.actions))
        torch.testing.assert_close(log_prob.reshape(len(now.values), -1).sum(1), now.log_prob)
        torch.testing.assert_close(now.log_ratio, now.log_prob - batch.old_log_prob)
        assert now.values.shape == now.log_prob.shape == batch.returns.shape


def test_an_epoch_ends_before_the_step_that_would_go_too_far():
    class Counting(ProximalAlgorithm):
        calls = ends = 0

        def gradient_step(self, loss):
            self.calls += 1
            super().gradient_step(loss)

        def moved_too_far(self, now):
            found = super().moved_too_far(now)
            self.ends += found
            return found

    # Three rollouts with three minibatches per epoch. Before the first step nothing has moved.
    agent = trained(Counting, target_kl=1e-12)
    assert (agent.calls, agent.ends, agent._n_updates) == (3, 3, 3)
    agent = trained(Counting, target_kl=None)
    assert (agent.calls, agent.ends, agent._n_updates) == (27, 0, 9)


# -- functions -------------------------------------------------------------------------------------


def test_value_error_against_numbers():
    values, old, returns = (torch.tensor(x) for x in ([0.5, 0.5], [0.0, 0.4], [1.0, 0.0]))
    assert value_error(values, old, returns, None).item() == pytest.approx(0.25)
    # 0.5 is drawn back to 0.2 for the first, and lies within 0.2 of 0.4 for the second.
    assert value_error(values, old, returns, 0.2).item() == pytest.approx((0.64 + 0.25) / 2)


def test_standardized_advantages():
    found = standardized(torch.tensor([1.0, 2.0, 3.0]))
    assert found.tolist() == pytest.approx([-1, 0, 1], abs=1e-6)
    assert standardized(torch.tensor([5.0])).tolist() == [5.0]


# -- resume ----------------------------------------------------------------------------------------


class Stop(BaseCallback):
    """Raises in the middle of a rollout: the process is as good as dead."""

    def _on_step(self):
        if self.n_calls == 70:
            raise KeyboardInterrupt
        return True


class Example(FurtherTerm):
    """A subclass as a system is one: with a constructor argument of its own."""

    def __init__(self, policy, env, *, weight=0.1, _init_setup_model=True, **arguments):
        self.weight = weight
        super().__init__(policy, env, _init_setup_model=_init_setup_model, **arguments)


def test_resumed_learning_is_exact_and_a_file_brings_the_agent_back(tmp_path):
    def agent():
        made = gym.make(DISCRETE[0], **DISCRETE[1])
        return Example("MlpPolicy", made, weight=0.2, **COMMON)

    whole = agent().learn(144)
    with pytest.raises(KeyboardInterrupt):
        agent().learn(144, callback=Stop(), checkpoint=tmp_path, checkpoint_seconds=0)
    resumed = agent().learn(144, checkpoint=tmp_path, resume=True)
    assert resumed.num_timesteps == whole.num_timesteps
    assert_same(whole, resumed)
    whole.save(tmp_path / "agent")
    loaded = Example.load(tmp_path / "agent")
    assert loaded.weight == 0.2
    assert_same(whole, loaded)
