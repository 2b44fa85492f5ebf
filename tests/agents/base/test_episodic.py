"""Policy gradients from whole episodes: the computation, the ways to play, the policies."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from palaestra.agents.base.episodic import (
    EpisodicPolicyGradient,
    policy_gradient_loss,
    returns_to_go,
    step_means,
)
from palaestra.agents.base.episodic_policies import HistoryPolicy, TabularPolicy

# From state 0, action 1 earns 2 and moves to 1, action 0 earns 1 and stays; in 1 nothing is earned;
# action 1 in state 1 ends the task in state 2.
P = np.zeros((3, 2, 3))
P[0, 0, 0] = P[0, 1, 1] = P[1, 0, 1] = P[1, 1, 2] = P[2, :, 2] = 1.0
R = np.zeros((3, 2, 1))
R[0, 0], R[0, 1] = 1.0, 2.0
CHAIN = {"P": P, "low": R, "observation": "onehot", "horizon": 4, "terminal": (2,)}


class Cue(gym.Env):
    """A sign is shown, then `wait` empty steps; the last action should repeat the sign."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, wait=1):
        self.wait = wait

    def _observe(self):
        shown = self.sign if self.t == 0 else 0.0
        return np.array([shown, self.t / (self.wait + 1)], np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.sign = 0, float(self.np_random.choice([-1.0, 1.0]))
        return self._observe(), {"time": 0.0}

    def step(self, action):
        assert self.action_space.contains(action)
        last = self.t == self.wait
        reward = -abs(float(action[0]) - self.sign) if last else 0.0
        self.t += 1
        return self._observe(), reward, last, False, {"time": float(self.t)}


def chain(**changes):
    return gym.make("FiniteMDP-v0", **{**CHAIN, **changes})


# -- the computation ------------------------------------------------------------------------------


def test_returns_to_go_sum_from_each_step_on():
    rewards = torch.tensor([[1.0, 0.0], [2.0, -1.0], [4.0, 0.5]])
    assert returns_to_go(rewards).tolist() == [[7.0, -0.5], [6.0, -0.5], [4.0, 0.5]]


def test_the_baseline_is_the_mean_over_the_episodes_that_go_on():
    values = torch.tensor([[1.0, 2.0, 6.0], [4.0, 8.0, 99.0], [99.0, 99.0, 99.0]])
    weights = torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    assert step_means(values, weights)[:, 0].tolist() == [3.0, 6.0, 0.0]


def test_the_loss_weighs_steps_and_passes_no_gradient_through_the_advantage():
    log_probs = torch.tensor([[-1.0, -2.0], [-0.5, -3.0]], requires_grad=True)
    advantages = torch.tensor([[2.0, 1.0], [4.0, 7.0]], requires_grad=True)
    weights = torch.tensor([[1.0, 1.0], [2.0, 0.0]])
    loss = policy_gradient_loss(log_probs, advantages, weights)
    assert float(loss.detach()) == pytest.approx((1 * 2 + 2 * 1 + 2 * 0.5 * 4) / 4)
    loss.backward()
    assert log_probs.grad.tolist() == [[-0.5, -0.25], [-2.0, 0.0]]
    assert advantages.grad is None


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 6))
def test_a_baseline_of_the_time_does_not_change_the_expected_gradient(seed, actions):
    """Over all actions of one step, weighted by their probabilities."""
    rng = np.random.default_rng(seed)
    logits = torch.as_tensor(rng.standard_normal(actions), dtype=torch.float64).requires_grad_()
    returns = torch.as_tensor(rng.standard_normal((1, actions)))
    found = []
    for baseline in (0.0, 5.0):
        log_probs = logits.log_softmax(0)
        loss = policy_gradient_loss(
            log_probs[None], returns - baseline, log_probs.detach().exp()[None]
        )
        found.append(torch.autograd.grad(loss, logits)[0])
    torch.testing.assert_close(*found)


def test_the_entropy_bonus_fades_with_the_updates():
    agents = [
        EpisodicPolicyGradient("MlpPolicy", chain(), seed=0, ent_coef=c, episodes=8)
        for c in (0.0, 0.6)
    ]
    episodes = agents[0].play(8)
    for update, share in ((0, 1.0), (3, 0.25)):
        for agent in agents:
            agent._n_updates = update
        plain, bonus = (agent.loss(episodes) for agent in agents)
        expected = -0.6 * share * plain[1]["train/entropy"]
        assert float((bonus[0] - plain[0]).detach()) == pytest.approx(expected, rel=1e-5)
        assert plain[1]["train/entropy"] == pytest.approx(np.log(2), abs=0.05)


# -- playing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("native", [True, False])
def test_episodes_of_different_lengths_are_padded(native):
    env = DummyVecEnv([chain]) if native else DummyVecEnv([chain, chain])
    agent = EpisodicPolicyGradient("MlpPolicy", env, seed=0)
    assert (agent.core is not None) == native
    type(agent).reads, before = ("t",), type(agent).reads
    try:
        episodes = agent.play(31)
    finally:
        type(agent).reads = before
    lengths = episodes.taken.sum(0)
    assert len(lengths) == (31 if native else 32)
    assert lengths.min() == 2 and lengths.max() == 4  # it takes two steps to state 2
    assert (episodes.final("t") == lengths).all()
    assert not (episodes.taken[1:] & ~episodes.taken[:-1]).any()
    assert (episodes.rewards[~episodes.taken] == 0).all()
    first = episodes.actions[0].bool()
    assert (episodes.rewards[0] == torch.where(first, 2.0, 1.0)).all()
    # In a vector, the environment that is done first waits for the other.
    assert episodes.steps == lengths.sum() if native else episodes.steps > lengths.sum()


def test_the_batch_plays_what_the_policy_would_play_alone():
    agent = EpisodicPolicyGradient("MlpPolicy", chain(), seed=3, episodes=20).learn(400)
    batch = agent.play(4, deterministic=True)
    env = chain()
    observation, _ = env.reset(seed=0)
    for step in range(int(batch.taken[:, 0].sum())):
        np.testing.assert_array_equal(batch.observations[step, 0].numpy(), observation)
        action, _ = agent.predict(observation, deterministic=True)
        assert action == batch.actions[step, 0]
        observation, reward, *_ = env.step(action)
        assert reward == batch.rewards[step, 0]


def test_wrappers_that_change_what_is_seen_are_not_passed_by():
    wrapped = VecNormalize(DummyVecEnv([lambda: Monitor(chain())]))
    assert EpisodicPolicyGradient("MlpPolicy", wrapped).core is None
    halved = gym.wrappers.TransformReward(chain(), lambda reward: reward / 2)
    agent = EpisodicPolicyGradient("MlpPolicy", halved, seed=0)
    assert agent.core is None
    assert set(agent.play(5).rewards.unique().tolist()) <= {0.0, 0.5, 1.0}
    assert EpisodicPolicyGradient("MlpPolicy", chain()).core is not None


def test_it_finds_the_optimum_of_a_small_world():
    # Without the time in the observation nothing is better than to stay, which earns 4.
    agent = EpisodicPolicyGradient("MlpPolicy", chain(), seed=0, episodes=100, learning_rate=0.02)
    agent.learn(20_000)
    assert float(agent.play(200).rewards.sum(0).mean()) > 3.8
    assert agent.ep_info_buffer[-1]["r"] > 3


@pytest.mark.parametrize("vector", [False, True])
def test_memory_and_continuous_actions_in_an_ordinary_environment(vector):
    if vector:
        env = gym.vector.SyncVectorEnv([Cue] * 8, autoreset_mode=AutoresetMode.SAME_STEP)
    else:
        env = DummyVecEnv([Cue] * 8)
    agent = EpisodicPolicyGradient("HistoryPolicy", env, seed=0, episodes=64, learning_rate=0.02)
    agent.learn(64 * 2 * 60)
    mean, _ = evaluate_policy(agent, Monitor(Cue()), n_eval_episodes=20)
    # Without memory the best is -1: the sign is a coin.
    assert mean > -0.3


def test_an_info_that_is_missing_is_named():
    class Reader(EpisodicPolicyGradient):
        reads = ("colour",)

    agent = Reader("MlpPolicy", Cue(), episodes=2)
    with pytest.raises(ValueError, match=r"lacks \['colour'\].*it has \['time'"):
        agent.learn(1)


# -- policies -------------------------------------------------------------------------------------


def test_a_history_policy_carries_its_memory_through_predict():
    agent = EpisodicPolicyGradient("HistoryPolicy", Cue(wait=3), seed=1, episodes=4).learn(100)
    rng = np.random.default_rng(0)
    observations = rng.uniform(-1, 1, (5, 3, 2)).astype(np.float32)
    with torch.no_grad():
        means, _ = agent.policy.forward(torch.as_tensor(observations))
    state = None
    for step, rows in enumerate(observations):
        actions, state = agent.predict(rows, state, np.full(3, step == 0), deterministic=True)
        np.testing.assert_allclose(actions, means[step].clamp(-1, 1).numpy(), rtol=1e-4, atol=1e-6)
    # A new episode in row 1 only.
    again, _ = agent.predict(observations[0], state, np.array([False, True, False]), True)
    np.testing.assert_allclose(again[1], means[0, 1].clamp(-1, 1).numpy(), rtol=1e-4, atol=1e-6)
    assert not np.allclose(again[0], means[0, 0].numpy(), atol=1e-4)
    alone, memory = agent.predict(observations[0, 2], deterministic=True)
    np.testing.assert_allclose(alone, means[0, 2].clamp(-1, 1).numpy(), rtol=1e-4, atol=1e-6)
    assert memory[0].shape == (1, 64)


def place_policy(horizon=5):
    space = gym.spaces.Box(0.0, 1.0, (4,), np.float32)
    return TabularPolicy(space, gym.spaces.Discrete(2), lambda _: 0.1, horizon)


def test_a_table_reads_place_and_time():
    policy = place_policy()
    with torch.no_grad():
        policy.logits[3, 1] = torch.tensor([1.0, 7.0])
    outputs, memory = policy.forward(torch.tensor([[[0.0, 1.0, 0.0, 0.6], [0.0, 1.0, 0.0, 0.8]]]))
    assert outputs.tolist() == [[[1.0, 7.0], [0.0, 0.0]]]
    assert memory is None


@pytest.mark.parametrize(
    ("observation", "message"),
    [
        ([1.0, 1.0, 0.0, 0.2], "one-hot place"),
        ([0.5, 0.0, 0.0, 0.2], "one-hot place"),
        ([1.0, 0.5, 0.0, 0.2], "one-hot place"),
        ([1.0, 0.0, 0.0, 1.0], "5 steps was asked for step 5"),
    ],
)
def test_a_table_refuses_what_it_has_no_entry_for(observation, message):
    with pytest.raises(ValueError, match=message):
        place_policy().predict(np.array(observation, np.float32))


def test_a_table_needs_discrete_actions_and_a_horizon():
    with pytest.raises(ValueError, match="needs actions in Discrete"):
        EpisodicPolicyGradient("TabularPolicy", Cue())
    with pytest.raises(ValueError, match="needs a known horizon"):
        place_policy(None)


def test_the_learning_rate_is_that_of_the_policy_unless_given():
    rates = [
        EpisodicPolicyGradient(policy, chain(), **given).policy.optimizer.param_groups[0]["lr"]
        for policy, given in (
            ("TabularPolicy", {}),
            ("MlpPolicy", {}),
            (HistoryPolicy, {"learning_rate": 0.5}),
        )
    ]
    assert rates == [0.05, 0.003, 0.5]


# -- arguments ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"episodes": 1}, "episodes=1 must be at least 2"),
        ({"ent_coef": -0.1}, "ent_coef=-0.1"),
        ({"ent_coef": float("nan")}, "ent_coef=nan"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        EpisodicPolicyGradient("MlpPolicy", chain(), **arguments)


def test_what_cannot_be_played_is_refused():
    with pytest.raises(ValueError, match="horizon of the environment is None"):
        EpisodicPolicyGradient("MlpPolicy", chain(horizon=None))
    endless = Cue()
    endless.horizon = 0
    with pytest.raises(ValueError, match="at least one step.*is 0"):
        EpisodicPolicyGradient("MlpPolicy", endless)
    masked = Cue()
    masked.action_masks = lambda: np.ones(1, bool)
    with pytest.raises(ValueError, match="masks actions"):
        EpisodicPolicyGradient("MlpPolicy", masked)
    with pytest.raises(ValueError, match=r"observations in a Box, got Discrete\(3\)"):
        EpisodicPolicyGradient("MlpPolicy", chain(observation="index"))


def test_a_table_does_not_move_to_another_horizon():
    agent = EpisodicPolicyGradient("TabularPolicy", chain(), seed=0)
    with pytest.raises(ValueError, match="4 steps, and the new environment's horizon is 6"):
        agent.set_env(chain(horizon=6))
    other = EpisodicPolicyGradient("MlpPolicy", chain(), seed=0, episodes=4)
    other.set_env(chain(horizon=6))
    assert other.play(3).taken.shape[0] <= 6
    assert other.horizon == 6
