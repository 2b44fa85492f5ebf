"""Plain and normalised policy gradients, and the linear policy."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from palaestra.agents import NormalizedPG, VanillaPG
from palaestra.agents.base.episodic_policies import LinearPolicy, MlpPolicy
from palaestra.agents.base.policy_ascent import discounted_to_go, normalized, policy_gradient

BOX = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
CONTROL = gym.spaces.Box(-50.0, 50.0, (1,), np.float32)


def plant(**changes):
    return gym.make("LQR-v0", plant="integrator", **changes)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 8), st.floats(0, 1))
def test_rewards_to_go_are_discounted_to_the_start(seed, steps, gamma):
    rewards = np.random.default_rng(seed).standard_normal((steps, 2))
    found = discounted_to_go(torch.as_tensor(rewards), gamma)
    for step in range(steps):
        expected = sum(gamma**i * rewards[i] for i in range(step, steps))
        np.testing.assert_allclose(found[step], expected, atol=1e-12)


def test_a_normalised_vector_has_length_one_and_zero_stays_zero():
    assert normalized(torch.tensor([3.0, -4.0])).tolist() == pytest.approx([0.6, -0.8])
    assert normalized(torch.zeros(2)).tolist() == [0.0, 0.0]


def test_a_trajectory_needs_a_step_and_a_policy_a_gradient():
    weight = torch.zeros(1, requires_grad=True)
    with pytest.raises(ValueError, match="a trajectory needs a step"):
        policy_gradient(torch.zeros(0, 1), torch.zeros(0, 1), [weight])
    with pytest.raises(ValueError, match="the policy must be stochastic"):
        policy_gradient(torch.zeros(3, 1), torch.ones(3, 1), [weight])


# -- the linear policy ----------------------------------------------------------------------------


def test_a_linear_policy_is_gaussian_around_its_gains():
    policy = LinearPolicy(BOX, CONTROL, lambda _: 1.0, std=0.5)
    assert [name for name, each in policy.named_parameters() if each.requires_grad] == [
        "outputs.weight"
    ]
    policy.outputs.weight.data[:] = torch.tensor([[2.0, -1.0]])
    observations = torch.tensor([[1.0, 0.5], [0.0, 3.0]])
    torch.manual_seed(0)
    with torch.no_grad():
        many = torch.stack([policy.act(observations, None)[0] for _ in range(4000)])
    np.testing.assert_allclose(many.mean(0)[:, 0], [1.5, -3.0], atol=0.04)
    np.testing.assert_allclose(many.std(0)[:, 0], [0.5, 0.5], atol=0.03)
    actions, _ = policy.act(observations, None, deterministic=True)
    assert actions[:, 0].tolist() == [1.5, -3.0]
    log_probs, _ = policy.evaluate(observations[None], torch.tensor([[[2.0], [-3.0]]]))
    expected = -np.log(0.5 * np.sqrt(2 * np.pi)) - np.array([0.5, 0.0])
    np.testing.assert_allclose(log_probs[0].detach(), expected, atol=1e-6)


def test_a_linear_policy_without_training_is_uniform_over_discrete_actions():
    policy = LinearPolicy(BOX, gym.spaces.Discrete(4), lambda _: 1.0)
    log_probs, _ = policy.evaluate(torch.randn(3, 2, 2), torch.zeros(3, 2, dtype=torch.long))
    np.testing.assert_allclose(log_probs.detach().exp(), np.full((3, 2), 0.25), rtol=1e-6)


@pytest.mark.parametrize("std", [0.0, -1.0, np.inf, np.nan])
def test_a_standard_deviation_is_a_number_above_zero(std):
    with pytest.raises(ValueError, match="std="):
        LinearPolicy(BOX, CONTROL, lambda _: 1.0, std=std)


# -- the agents -----------------------------------------------------------------------------------


def test_steps_shrink_like_the_schedule_and_normalised_ones_are_as_long_as_it_says():
    for decay, expected in ((1.0, [0.3, 0.2, 0.15, 0.12]), (0.0, [0.3] * 4)):
        agent = NormalizedPG(
            "LinearPolicy", plant(), learning_rate=0.3, decay=decay, gamma=0.9, seed=0
        )
        thetas = [agent.theta]
        agent.learn(40, callback=lambda *_, a=agent, t=thetas: t.append(a.theta) or True)
        lengths = [
            float((after - before).norm())
            for before, after in zip(thetas[:-1], thetas[1:], strict=True)
        ]
        assert lengths == pytest.approx(expected, abs=1e-6)
        assert agent.num_timesteps == 40


def test_a_plain_step_follows_the_gradient_of_its_trajectories():
    agent = VanillaPG(
        "LinearPolicy", plant(), learning_rate=0.5, gamma=0.9, episodes=3, seed=4, device="cpu"
    )
    kept = []
    play = agent.play
    agent.play = lambda episodes: kept.append(play(episodes)) or kept[-1]
    agent.learn(1)
    (episodes,) = kept
    assert agent.num_timesteps == episodes.steps == 30
    psi = discounted_to_go(episodes.rewards, 0.9)
    # At zero gains the score of an action is the action times the observation.
    scores = episodes.actions * episodes.observations
    expected = 0.5 * (psi[..., None] * scores).sum(0).mean(0)
    np.testing.assert_allclose(agent.theta, expected, rtol=1e-5)
    assert agent._metrics["rollout/return"] == pytest.approx(float(psi[0].mean()), rel=1e-6)


@pytest.mark.parametrize("cls", [VanillaPG, NormalizedPG])
def test_they_learn_to_hold_a_plant(cls):
    agent = cls(
        *("LinearPolicy", plant()),
        **{"learning_rate": 1.0, "gamma": 0.9, "episodes": 40, "seed": 1, "device": "cpu"},
    )
    before = agent.play(400).rewards.sum(0).mean()
    agent.learn(40 * 10 * 40)
    assert agent.play(400).rewards.sum(0).mean() > before + 1.5


def test_a_network_learns_its_deviation_too():
    agent = VanillaPG("MlpPolicy", plant(), learning_rate=0.1, seed=0, device="cpu")
    assert isinstance(agent.policy, MlpPolicy)
    before = agent.theta
    agent.learn(10)
    changed = agent.theta != before
    assert changed[: agent.policy.log_std.numel()].all()
    assert changed.float().mean() > 0.9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"decay": -0.1}, "decay="), ({"gamma": 1.1}, "gamma="), ({"episodes": 0}, "episodes=0")],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        VanillaPG("LinearPolicy", plant(), **arguments)
