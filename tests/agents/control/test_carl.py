"""CaRL: the Beta policy, the agent, the reward's clocks in a resumed run, and the claim's arms."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from scipy import stats
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecNormalize
from torch.distributions import Beta

from palaestra.agents import CaRL
from palaestra.agents.base.episodic import playable_core
from palaestra.agents.base.snapshot import snapshot_env
from palaestra.agents.control import carl, carl_trials
from palaestra.agents.control.carl_policy import (
    BetaDistribution,
    BetaPolicy,
    concentrations,
    log_density,
    mean_action,
)
from palaestra.wrappers.carl_reward import (
    AdditiveReward,
    AdditiveVectorReward,
    CaRLReward,
    CaRLVectorReward,
)
from palaestra.wrappers.sb3 import SB3VecEnv

SMALL = {"n_steps": 16, "batch_size": 16, "device": "cpu"}


def single(wrap=CaRLReward):
    return wrap(gym.make("LaneDriving-v0"))


def vector(wrap=CaRLVectorReward, rows=4):
    return wrap(carl_trials.native_lanes(rows))


def agent(env=None, **changes):
    return CaRL("MlpPolicy", single() if env is None else env, **{**SMALL, "seed": 3, **changes})


# -- the worked example ---------------------------------------------------------------------------


def test_worked_example_of_the_beta_policy():
    alpha, beta = concentrations(torch.tensor([[0.0, 1.0]]))
    torch.testing.assert_close(alpha, torch.tensor([[1.693147]]), rtol=0, atol=1e-6)
    torch.testing.assert_close(beta, torch.tensor([[2.313262]]), rtol=0, atol=1e-6)
    found = log_density(Beta(alpha, beta), torch.tensor([[0.2]]))
    torch.testing.assert_close(found, torch.tensor([-0.515715]), rtol=0, atol=1e-6)
    expected = 2 * 1.693147 / (1.693147 + 2.313262) - 1
    assert mean_action(Beta(alpha, beta)).item() == pytest.approx(expected, abs=1e-6)


# -- the distribution -----------------------------------------------------------------------------


def test_density_and_entropy_are_those_of_scipy():
    outputs = torch.tensor([[0.3, -2.0, 1.5, 4.0], [9.0, 0.0, -9.0, 2.0]], dtype=torch.float64)
    actions = torch.tensor([[-0.9, 0.4], [0.7, 0.0]], dtype=torch.float64)
    law = BetaDistribution(2).proba_distribution(outputs)
    alpha, beta = np.split(1 + np.log1p(np.exp(outputs.numpy())), 2, axis=1)
    theirs = stats.beta(alpha, beta, loc=-1, scale=2)
    expected = theirs.logpdf(actions.numpy()).sum(1)
    np.testing.assert_allclose(law.log_prob(actions), expected, atol=1e-10)
    np.testing.assert_allclose(law.entropy(), theirs.entropy().sum(1), atol=1e-10)
    np.testing.assert_allclose(law.mode(), theirs.mean(), atol=1e-10)


def test_samples_follow_the_density():
    torch.manual_seed(0)
    actions, log_probs = BetaDistribution(1).log_prob_from_params(
        torch.tensor([[0.0, 1.0]]).expand(20_000, 2)
    )
    assert log_probs.shape == (20_000,)
    law = stats.beta(1.693147, 2.313262, loc=-1, scale=2)
    assert stats.kstest(actions[:, 0].numpy(), law.cdf).pvalue > 0.01
    assert -log_probs.mean().item() == pytest.approx(law.entropy(), abs=0.02)


def test_actions_at_the_bounds_have_a_finite_density_and_gradient():
    outputs = torch.tensor([[60.0, -60.0]]).expand(3, 2).clone().requires_grad_()
    law = BetaDistribution(1).proba_distribution(outputs)
    found = law.log_prob(torch.tensor([[-1.0], [1.0], [0.0]]))
    (slope,) = torch.autograd.grad(found.sum() + law.entropy().sum(), outputs)
    assert found.isfinite().all() and slope.isfinite().all()


# -- the agent ------------------------------------------------------------------------------------


def test_a_new_policy_is_wide_and_acts_near_the_middle():
    learner = agent()
    seen = torch.randn(50, 24)
    law = learner.policy.get_distribution(seen)
    assert law.distribution.concentration1.shape == (50, 2)
    assert float(law.mode().detach().abs().max()) < 0.05
    assert not hasattr(learner.policy, "log_std")
    trained = {id(p) for group in learner.policy.optimizer.param_groups for p in group["params"]}
    assert trained == {id(p) for p in learner.policy.parameters()}


def test_defaults_are_those_of_the_paper():
    learner = CaRL("MlpPolicy", single())
    assert [learner.lr_schedule(left) for left in (1.0, 0.5, 0.0)] == [2.5e-4, 1.25e-4, 0.0]
    assert (learner.gamma, learner.gae_lambda, learner.n_epochs) == (0.99, 0.95, 3)
    assert (learner.ent_coef, learner.vf_coef, learner.max_grad_norm) == (0.01, 0.5, 0.5)
    assert (learner.clip_range(1.0), learner.target_kl, learner.batch_size) == (0.1, 0.015, 256)


def test_the_learning_rate_has_fallen_to_0_at_the_end():
    learner = agent(learning_rate=LinearSchedule(1e-2, 0.0, 1.0)).learn(64)
    assert learner.policy.optimizer.param_groups[0]["lr"] == pytest.approx(0.0)


class Lopsided(gym.Env):
    """Pays for the first action; their ranges are uneven."""

    observation_space = spaces.Box(-1.0, 1.0, (3,))
    action_space = spaces.Box(np.float32([0.0, -4.0]), np.float32([10.0, -2.0]))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(3, np.float32), {}

    def step(self, action):
        assert self.action_space.contains(action)
        return np.zeros(3, np.float32), float(action[0]), True, False, {}


def test_actions_are_stretched_to_their_bounds_and_the_agent_learns():
    env = Lopsided()
    learner = agent(env, n_steps=64, learning_rate=2e-2)
    before, _ = learner.predict(np.zeros(3, np.float32), deterministic=True)
    np.testing.assert_allclose(before, [5.0, -3.0], atol=0.1)
    learner.learn(640)
    after, _ = learner.predict(np.zeros(3, np.float32), deterministic=True)
    assert after[0] > 7.0 and env.action_space.contains(after)
    assert learner.rollout_buffer.actions.min() >= -1 and learner.rollout_buffer.actions.max() <= 1


@pytest.mark.parametrize("wrap", [CaRLVectorReward, AdditiveVectorReward])
def test_it_learns_in_one_environment_and_in_a_native_vector(wrap):
    learner = agent(vector(wrap)).learn(128)
    assert learner.num_timesteps == 128
    reward = learner.rollout_buffer.rewards
    assert reward.shape == (16, 4) and np.isfinite(reward).all() and reward.any()
    assert agent().learn(32).num_timesteps == 32


@pytest.mark.parametrize(
    "space", [spaces.Discrete(3), spaces.Box(-np.inf, np.inf, (2,)), spaces.MultiDiscrete([2, 2])]
)
def test_actions_without_bounds_are_refused(space):
    with pytest.raises(ValueError, match="bounded Box"):
        BetaPolicy(spaces.Box(-1.0, 1.0, (3,)), space, lambda _: 1e-3)


def test_noise_of_another_kind_is_refused():
    with pytest.raises(ValueError, match="use_sde=True"):
        agent(use_sde=True)


# -- a run that is killed and resumed -------------------------------------------------------------


class Dies(BaseCallback):
    """Raises in the middle of a rollout."""

    def _on_step(self):
        if self.num_timesteps >= 120:
            raise KeyboardInterrupt
        return True


ENVIRONMENTS = {
    "single": single,
    "single, additive": lambda: single(AdditiveReward),
    "vector": vector,
    "vector, additive": lambda: vector(AdditiveVectorReward),
    "normalized vector": lambda: VecNormalize(SB3VecEnv(vector())),
}


def resumed_and_whole(make, folder):
    whole = agent(make()).learn(192)
    with pytest.raises(KeyboardInterrupt):
        agent(make()).learn(192, Dies(), checkpoint=folder, checkpoint_seconds=0)
    resumed = agent(make()).learn(192, checkpoint=folder, resume=True)
    assert resumed.num_timesteps == whole.num_timesteps
    return resumed, whole


def parameters(learner):
    return torch.cat([each.detach().flatten() for each in learner.policy.parameters()])


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_a_run_that_was_killed_ends_as_one_that_was_not(name, tmp_path):
    resumed, whole = resumed_and_whole(ENVIRONMENTS[name], tmp_path)
    assert torch.equal(parameters(resumed), parameters(whole))
    np.testing.assert_array_equal(resumed.rollout_buffer.rewards, whole.rollout_buffer.rewards)


def test_without_the_clocks_it_would_not(tmp_path, monkeypatch):
    monkeypatch.setattr(CaRLVectorReward, "set_state", lambda *_: None)
    resumed, whole = resumed_and_whole(vector, tmp_path)
    assert not torch.equal(parameters(resumed), parameters(whole))


def test_wrappers_of_a_vector_that_do_not_say_their_state_are_out_of_reach():
    hidden = gym.wrappers.vector.NormalizeReward(vector())
    assert snapshot_env(SB3VecEnv(hidden)) is None


def test_a_reward_around_an_environment_is_not_played_without_it():
    for env in (single(), vector()):
        assert playable_core(CaRL._wrap_env(env)) is None
    assert playable_core(CaRL._wrap_env(carl_trials.native_lanes(2))) is not None


# -- the claim ------------------------------------------------------------------------------------


def test_clean_drives_return_100_and_the_additive_return_grows():
    simple, additive = carl_trials.clean_returns(5, 40)
    np.testing.assert_allclose(simple, 100.0, atol=1e-9)
    np.testing.assert_allclose(additive, np.arange(1, 41) * 5 / 6)
    assert carl.exact_arm(5, 0.1).metrics["additive returns that do not grow"] == 0


class Constant:
    """Neither pedal nor wheel."""

    def predict(self, observations, deterministic):
        assert deterministic
        return np.zeros((len(observations), 2), np.float32), None


def test_held_out_drives_are_those_of_the_environment():
    found = carl_trials.held_out_drives(Constant())
    assert found.score.mean() == pytest.approx(54.0, abs=0.05)  # the reference
    for row in (0, 7):
        env = gym.make("LaneDriving-v0")
        env.reset(seed=10_000 + row)
        over = False
        while not over:
            *_, terminated, truncated, info = env.step(np.zeros(2, np.float32))
            over = terminated or truncated
        assert found.score[row] == pytest.approx(info["driving_score"])
        assert found.completion[row] == pytest.approx(info["rc"])
        assert found.event[row] == info["event"]


def test_the_arms_tell_the_same_metrics(monkeypatch):
    drives = carl_trials.held_out_drives
    monkeypatch.setattr(carl_trials, "held_out_drives", lambda agent: drives(agent, routes=3))
    monkeypatch.setattr(carl, "MINIBATCHES", (512, 1_024))
    found = [arm(123, 0.0) for arm in (carl.carl_arm, carl.additive_arm)]
    assert found[0].metrics.keys() == found[1].metrics.keys()
    for outcome in found:
        steps, scores = outcome.curves[carl.score_of(1_024)]
        assert steps[-1] == carl.ROLLOUT and len(scores) == len(steps)
        small, large = (outcome.metrics[carl.score_of(size)] for size in (512, 1_024))
        assert outcome.metrics[carl.CHANGE] == pytest.approx(large - small)
    judged = {each.metric for each in CaRL.claim.criteria if each.arm == "CaRL"}
    assert carl.CHANGE in judged
