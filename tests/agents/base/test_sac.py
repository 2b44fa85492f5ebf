"""SAC in stages: the parameters of Stable-Baselines3's SAC, and every stage can be overridden."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecNormalize

from palaestra.agents.base.off_policy import SAC
from palaestra.agents.base.sac import SoftActorCritic, smallest, soft_target
from palaestra.wrappers.sb3 import make_sb3

TASK = {"max_steps": 10}
COMMON = {
    **{"learning_starts": 10, "batch_size": 8, "buffer_size": 50, "learning_rate": 3e-3},
    **{"device": "cpu", "seed": 0},
}


def pendulum():
    return gym.make("TorquePendulum-v0", **TASK)


def made(cls, env=None, **arguments):
    arguments = {**COMMON, "policy_kwargs": {"net_arch": [8]}, **arguments}
    return cls("MlpPolicy", pendulum() if env is None else env, **arguments)


def trained(cls=SoftActorCritic, env=None, steps=28, **arguments):
    return made(cls, env, **arguments).learn(steps)


def assert_same(left, right):
    ours, theirs = left.get_parameters(), right.get_parameters()
    assert ours.keys() == theirs.keys()
    for name in ours:
        if "optimizer" not in name:
            assert all(torch.equal(ours[name][k], theirs[name][k]) for k in ours[name]), name
            continue
        first, second = (each[name]["state"] for each in (ours, theirs))
        assert all(torch.equal(first[i][k], second[i][k]) for i in first for k in first[i]), name
    for name in left._get_torch_save_params()[1]:
        assert torch.equal(getattr(left, name), getattr(right, name)), name
    assert left._n_updates == right._n_updates


SETTINGS = {
    "automatic temperature": {},
    "fixed temperature": {"ent_coef": 0.2},
    "temperature from a given one": {"ent_coef": "auto_0.1", "target_entropy": -0.5},
    "state-dependent exploration": {"use_sde": True, "sde_sample_freq": 4},
    "several steps at once": {"n_steps": 3},
    "late targets": {"target_update_interval": 2, "gradient_steps": 3, "tau": 0.3},
    "episodes and a schedule": {
        "train_freq": (1, "episode"),
        "gradient_steps": -1,
        "learning_rate": LinearSchedule(1e-2, 1e-4, 1.0),
    },
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_parameters_are_those_of_stable_baselines3(setting):
    ours, theirs = (
        trained(cls, **SETTINGS[setting]) for cls in (SoftActorCritic, stable_baselines3.SAC)
    )
    assert ours._n_updates >= 10
    assert_same(ours, theirs)
    logs, expected = (agent.logger.name_to_value for agent in (ours, theirs))
    assert set(logs) == set(expected)
    for name in set(logs) - {"time/fps", "time/time_elapsed"}:
        assert logs[name] == pytest.approx(expected[name], rel=1e-4, abs=1e-6), name


def test_parameters_are_the_same_on_a_normalized_vector():
    def env():
        return VecNormalize(make_sb3("TorquePendulum-v0", 3, **TASK))

    assert_same(trained(env=env(), steps=60), trained(stable_baselines3.SAC, env=env(), steps=60))


def test_it_is_the_suites_sac():
    assert_same(trained(), trained(SAC))


# -- every stage -----------------------------------------------------------------------------------


class OtherActions(SoftActorCritic):
    def sample_actions(self, observations):
        drawn = super().sample_actions(observations)
        return type(drawn)(drawn.actions / 2, drawn.log_prob)


class BestOfTwo(SoftActorCritic):
    """Backs up the better of two actions, as the systems with candidates do."""

    def next_actions(self, batch):
        first, second = (super(BestOfTwo, self).next_actions(batch) for _ in range(2))
        values = [
            smallest(self.critic_target(batch.next_observations, each.actions))
            for each in (first, second)
        ]
        better = values[0] >= values[1]
        return type(first)(
            torch.where(better, first.actions, second.actions),
            torch.where(better, first.log_prob, second.log_prob),
        )


class WithoutEntropy(SoftActorCritic):
    def target_values(self, batch, alpha):
        return super().target_values(batch, torch.zeros_like(alpha))


class ShortSighted(SoftActorCritic):
    def discounts(self, batch):
        return 0.0


class WeightedCritics(SoftActorCritic):
    def critic_loss(self, batch, targets):
        errors = [each - targets for each in self.critic(batch.observations, batch.actions)]
        return sum((batch.rewards.abs() * error**2).mean() for error in errors)


class OtherTemperature(SoftActorCritic):
    def temperature_loss(self, log_alpha, sampled):
        return 3 * log_alpha.square().sum()


class FirstCriticOnly(SoftActorCritic):
    def actor_loss(self, batch, sampled, alpha):
        values = self.critic.q1_forward(batch.observations, sampled.actions)
        return (alpha * sampled.log_prob - values).mean()


class TwoOfEach(SoftActorCritic):
    def update(self, batch):
        super().update(batch)
        super().update(batch)


class LateActor(SoftActorCritic):
    """Learns critics from every minibatch, and the actor from the last one."""

    def run_steps(self, gradient_steps, batch_size):
        for _ in range(3):
            batch = self.sample(batch_size)
            self.update_critic(batch, self.log_ent_coef.detach().exp())
            self.update_targets()
        sampled = self.sample_actions(batch.observations)
        self.update_actor(batch, sampled, self.update_temperature(sampled))


class HardTargets(SoftActorCritic):
    def update_targets(self):
        self.critic_target.load_state_dict(self.critic.state_dict())


class FirstRows(SoftActorCritic):
    def sample(self, batch_size):
        return super().sample(batch_size // 2)


class CriticOnly(SoftActorCritic):
    def update_actor(self, batch, sampled, alpha):
        pass


class FrozenCritic(SoftActorCritic):
    def update_critic(self, batch, alpha):
        pass


class FixedRate(SoftActorCritic):
    def optimizers(self):
        return super().optimizers()[1:]


STAGES = [
    OtherActions,
    BestOfTwo,
    WithoutEntropy,
    ShortSighted,
    WeightedCritics,
    OtherTemperature,
    FirstCriticOnly,
    TwoOfEach,
    LateActor,
    HardTargets,
    FirstRows,
    CriticOnly,
    FrozenCritic,
    FixedRate,
]


@pytest.mark.parametrize("cls", STAGES)
def test_a_stage_that_is_overridden_changes_what_is_learned(cls):
    arguments = {"learning_rate": LinearSchedule(1e-2, 1e-3, 1.0)}
    plain, other = (trained(each, **arguments) for each in (SoftActorCritic, cls))
    first, second = (agent.policy.parameters_to_vector() for agent in (plain, other))
    assert np.isfinite(second).all()
    assert np.abs(first - second).max() > 1e-6


def test_a_stage_may_note_what_goes_to_the_log():
    class Noting(SoftActorCritic):
        def actor_loss(self, batch, sampled, alpha):
            self.note(entropy=-sampled.log_prob.mean())
            return super().actor_loss(batch, sampled, alpha)

    agent = trained(Noting)
    assert_same(agent, trained())
    assert np.isfinite(agent.logger.name_to_value["train/entropy"])


def test_the_target_is_computed_without_gradients_and_the_temperature_is_the_one_before_its_step():
    seen = []

    class Watching(SoftActorCritic):
        def target_values(self, batch, alpha):
            seen.append((torch.is_grad_enabled(), alpha.item(), self.log_ent_coef.exp().item()))
            return super().target_values(batch, alpha)

    trained(Watching, steps=12)
    assert [each[0] for each in seen] == [False, False]
    assert seen[0][1] == 1.0 != seen[0][2]
    assert seen[1][1] == seen[0][2]


# -- functions -------------------------------------------------------------------------------------


def test_soft_target_against_numbers():
    column = torch.tensor([[1.0], [1.0]])
    found = soft_target(
        rewards=2 * column,
        dones=torch.tensor([[0.0], [1.0]]),
        discounts=0.9,
        next_values=3 * column,
        next_log_prob=-1 * column,
        alpha=torch.tensor([0.5]),
    )
    assert found.flatten().tolist() == pytest.approx([2 + 0.9 * 3.5, 2])


def test_smallest_of_the_critics():
    values = (torch.tensor([[1.0], [5.0]]), torch.tensor([[2.0], [4.0]]))
    assert smallest(values).tolist() == [[1.0], [4.0]]


# -- resume ----------------------------------------------------------------------------------------


class Stop(BaseCallback):
    """Raises in the middle of learning: the process is as good as dead."""

    def _on_step(self):
        if self.n_calls == 21:
            raise KeyboardInterrupt
        return True


@pytest.mark.parametrize("arguments", [{}, {"ent_coef": 0.2}], ids=["automatic", "fixed"])
def test_resumed_learning_is_exact_and_a_file_brings_the_agent_back(arguments, tmp_path):
    def agent():
        return made(BestOfTwo, **arguments)

    whole = agent().learn(30)
    with pytest.raises(KeyboardInterrupt):
        agent().learn(30, callback=Stop(), checkpoint=tmp_path, checkpoint_seconds=0)
    resumed = agent().learn(30, checkpoint=tmp_path, resume=True)
    assert resumed.num_timesteps == whole.num_timesteps
    assert_same(whole, resumed)
    whole.save(tmp_path / "agent")
    assert_same(whole, BestOfTwo.load(tmp_path / "agent"))
