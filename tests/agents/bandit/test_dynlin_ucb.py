"""DynLin-UCB and LinUCB: epochs, radii, choices, and what is held when."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch

from palaestra.agents.bandit.dynlin_ucb import (
    DynLinUCB,
    confidence_radius,
    constants,
    epoch_length,
)
from palaestra.agents.bandit.lin_ucb import LinUCB, linear_radius, upper_bounds
from palaestra.wrappers.sb3 import make_sb3

POLICY = "LinearArmsPolicy"
KNOWN = {
    "spectral_radius": 0.9,
    "transient": 1.0,
    "theta_norm": 0.7,
    "omega_norm": 0.1,
    "input_norm": 1.0,
    "sigma": 0.1,
}


def bandit(**arguments):
    return gym.make("DynamicalLinearBandit-v0", **arguments)


def test_worked_example_of_the_epochs():
    assert [epoch_length(m, 0.9) for m in (1, 2, 3, 10, 100)] == [1, 7, 11, 22, 44]
    assert [epoch_length(m, 0.2) for m in (1, 4, 5, 25, 1000)] == [1, 1, 2, 3, 5]
    assert [epoch_length(m, 0.0) for m in (1, 100)] == [1, 1]
    for power in range(1, 12):  # log m is a multiple of log(1 / rho), but for rounding
        assert epoch_length(2**power, 0.5) == epoch_length(5**power, 0.2) == 1 + power


def test_worked_example_of_the_radius():
    c = constants(**KNOWN, state_norm=10.0, action_norm=1.0)
    assert c == pytest.approx((2.0, 1.7, 0.0105263), abs=1e-7)
    radius = confidence_radius(99, 4.0, 2, np.log(1000), c, 1.0)
    assert radius == pytest.approx(9.452411, abs=1e-6)


def test_worked_example_of_a_choice():
    arms = np.array([[1.0, 0.0], [0.0, 1.0], [0.7, 0.7]])
    bounds = upper_bounds(np.diag([7.0, 4.0]), np.array([2.8, 0.4]), arms, 0.5)
    assert bounds == pytest.approx([0.588982, 0.35, 0.569374], abs=1e-6)
    assert upper_bounds(np.eye(2), np.ones(2), np.zeros((1, 2)), 3.0) == pytest.approx([0.0])


def test_worked_example_of_what_an_arm_pays_when_it_is_held():
    env = bandit(sigma=0.0)
    env.reset(seed=0)
    steps = [env.step(0) for _ in range(3)]
    assert [step[1] for step in steps] == pytest.approx([0.0, 0.1, 0.19], abs=1e-9)
    assert steps[0][4]["h"] == pytest.approx([1.0, 0.7])


def test_the_agent_plans_with_the_radius_of_the_worked_example():
    agent = DynLinUCB(
        POLICY, bandit(), **KNOWN, regularization=4.0, delta=1e-3, horizon=1000, seed=0
    )
    assert agent.action_norm == pytest.approx(1.0)
    assert agent.radius(99) == pytest.approx(9.452411, abs=1e-6)  # state_norm: 1 / (1 - 0.9) = 10
    fewer = DynLinUCB(POLICY, bandit(), **KNOWN, regularization=4.0, horizon=1000, seed=0)
    assert fewer.radius(99) == pytest.approx(9.452411, abs=1e-6)  # delta: 1 / T
    plain = LinUCB(POLICY, bandit(), theta_norm=0.7, horizon=20_000, seed=0)
    lam = np.log(20_000)
    expected = 0.7 * np.sqrt(lam)
    expected += np.sqrt(2 * np.log(20_000) + 2 * np.log((2 * lam + 20_000) / (2 * lam)))
    assert plain.lam == pytest.approx(lam)
    assert plain.radius(7) == pytest.approx(expected)
    assert linear_radius(lam, 2, 20_000, 0.7, 1.0) == pytest.approx(expected)


def test_an_arm_is_held_for_an_epoch_and_only_the_last_reward_counts():
    env = bandit(sigma=0.0, T=100)
    agent = DynLinUCB(POLICY, env, **KNOWN, seed=3)
    first = int(agent.policy.held)
    agent.learn(1)
    gram, target = agent.policy.gram.clone(), agent.policy.target.clone()
    u = agent.policy.arms[first]
    assert torch.equal(gram, torch.outer(u, u))
    second = int(agent.policy.held)
    agent.learn(6, reset_num_timesteps=False)  # all but one of the 7 steps of epoch 2
    assert (int(agent.policy.epochs), int(agent.policy.waited)) == (1, 6)
    assert torch.equal(agent.policy.gram, gram)
    agent.learn(1, reset_num_timesteps=False)
    state = env.unwrapped.state
    assert state["pulls"][0, second] >= 7
    expected = target + agent.policy.arms[second] * float(np.float32(state["y"][0]))
    assert torch.allclose(agent.policy.target, expected, atol=1e-7)
    assert int(agent.policy.epochs) == 2


def test_an_epoch_that_the_end_of_an_episode_cuts_gives_nothing_and_starts_over():
    agent = DynLinUCB(POLICY, bandit(T=5), **{**KNOWN, "spectral_radius": 0.5}, seed=0)
    # Epochs of 1, 2 and 2 steps fill the first episode; those of 3 steps fit only once in others.
    agent.learn(5)
    assert int(agent.policy.epochs) == 3
    agent.learn(10, reset_num_timesteps=False)
    assert int(agent.policy.epochs) == 5
    held = int(agent.policy.held)
    agent.learn(2)  # a new episode: the two steps before do not count
    assert (int(agent.policy.waited), int(agent.policy.held)) == (2, held)


def test_without_inertia_it_updates_every_step_as_lin_ucb_does():
    agent = DynLinUCB(POLICY, bandit(), spectral_radius=0.0, seed=0).learn(20)
    plain = LinUCB(POLICY, bandit(), seed=0).learn(20)
    assert int(agent.policy.epochs) == int(plain.policy.epochs) == 20


def test_it_finds_what_arms_pay_when_they_are_held_and_plays_the_best_ones():
    """h = (1, 0.7): [0, 1] pays most at once, [0.7, 0.7] most in the long run."""
    env = bandit(T=4_001)
    agent = DynLinUCB(POLICY, env, **{**KNOWN, "state_norm": 1.0}, seed=0).learn(4_000)
    gram = agent.policy.gram.numpy() + agent.lam * np.eye(2)
    estimate = np.linalg.solve(gram, agent.policy.target.numpy())
    assert estimate == pytest.approx([1.0, 0.7], abs=0.2)
    pulls = env.unwrapped.state["pulls"][0]
    assert pulls.argmax() == 2 and pulls[2] > 3 * pulls[1]


def test_vectors_as_actions_are_the_corners_of_the_box_or_the_arms_given():
    env = bandit(action="vector", low=[0.0, -1.0], high=[1.0, 0.5], T=1_000)
    agent = DynLinUCB(POLICY, env, **KNOWN, seed=0)
    assert agent.policy.arms.tolist() == [[0, -1], [0, 0.5], [1, -1], [1, 0.5]]
    agent.learn(200)
    action = agent.predict(np.zeros((2, 1), np.float32))[0]
    assert action.shape == (2, 2)
    assert action[0].tolist() == agent.policy.played().tolist()
    given = LinUCB(POLICY, env, arms=[[0.5, 0.5], [1.0, 0.0]], seed=0).learn(10)
    assert given.policy.played().tolist() in ([0.5, 0.5], [1.0, 0.0])


def test_parallel_environments_hold_the_same_arm_and_all_count():
    agent = DynLinUCB(POLICY, make_sb3("DynamicalLinearBandit-v0", 4), **KNOWN, seed=0)
    u = agent.policy.played().clone()
    agent.learn(4)
    assert torch.equal(agent.policy.gram, 4 * torch.outer(u, u))
    assert int(agent.policy.steps) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"spectral_radius": 1.0}, "spectral_radius=1.0 must be at least 0 and below 1"),
        ({"regularization": 0.0}, "regularization=0.0 must be finite and above 0"),
        ({"delta": 1.0}, "delta=1.0"),
        ({"horizon": 1}, "horizon=1 must be at least 2"),
        ({"transient": 0.5}, "transient=0.5 must be finite and at least 1"),
        ({"state_norm": -1.0}, "state_norm=-1.0 must be finite and at least 0"),
        ({"arms": [[1.0, 0.0]]}, r"there are 1 arms, but actions in Discrete\(5\)"),
        ({"arms": [1.0, 0.0]}, r"arms must be finite numbers \[K, d\], got shape \[2\]"),
    ],
)
def test_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        DynLinUCB(POLICY, bandit(), **arguments)


def test_environments_without_arms_and_arms_outside_the_box():
    with pytest.raises(ValueError, match=r"LinUCB needs arms=\[K, d\]"):
        LinUCB(POLICY, "CartPole-v1")
    with pytest.raises(ValueError, match=r"the arm \[2.0, 0.0\] is outside Box"):
        LinUCB(POLICY, bandit(action="vector"), arms=[[2.0, 0.0]])
    with pytest.raises(ValueError, match="cannot be tried one by one"):
        LinUCB(POLICY, gym.make("DynamicalLinearBandit-v0", **wide(13), action="vector"))


def wide(d):
    """A system with d actions."""
    return {"A": [[0.0]], "B": np.ones((1, d)), "omega": [1.0], "theta": np.ones(d)}
