"""N-PG-IGT and HARPG: the worked example, the derivatives, transport, edge cases."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from hypothesis import given, settings
from hypothesis import strategies as st

from palaestra.agents import HARPG, NHARPG, NPGIGT
from palaestra.agents.base.episodic_policies import LinearPolicy, MlpPolicy
from palaestra.agents.base.policy_ascent import (
    discounted_to_go,
    flat_gradient,
    normalized,
    policy_gradient,
)
from palaestra.agents.control import n_harpg
from palaestra.agents.control.n_harpg import (
    averaged,
    between,
    hessian_vector_product,
    look_ahead,
)

every_class = pytest.mark.parametrize("cls", [NPGIGT, HARPG, NHARPG])


def make(cls, **arguments):
    env = gym.make("LQR-v0", plant="integrator")
    chosen = {"learning_rate": 0.3, "gamma": 0.9, "seed": 0, "device": "cpu", **arguments}
    return cls("LinearPolicy", env, **chosen)


# -- the worked example ---------------------------------------------------------------------------


def softmax_example():
    """Log-probabilities [3, 1], Psi [3, 1] and parameters of the example, by (state, action)."""
    policy = LinearPolicy(Box(0, 1, (2,)), Discrete(2), lambda _: 0.0).double()
    policy.outputs.weight.data[:] = by_action([0.2, -0.1, 0.0, 0.3])
    observations = torch.eye(2)[[0, 1, 0]][:, None]
    log_probs, _ = policy.evaluate(observations, torch.tensor([[0], [1], [1]]))
    psi = discounted_to_go(torch.tensor([[1.0], [0.5], [2.0]], dtype=torch.float64), 0.9)
    return log_probs, psi, [policy.outputs.weight]


def by_action(theta):
    """(s0a0, s0a1, s1a0, s1a1) as a table [actions, states]."""
    return torch.tensor(theta, dtype=torch.float64).reshape(2, 2).T


def by_state(vector):
    """Inverse of `by_action`, of a flat table."""
    return vector.reshape(2, 2).T.flatten().tolist()


def test_worked_example_gradient():
    log_probs, psi, parameters = softmax_example()
    assert psi[:, 0].tolist() == pytest.approx([3.07, 2.07, 1.62])
    gradient = policy_gradient(log_probs, psi, parameters)
    assert by_state(gradient) == pytest.approx([0.375865, -0.375865, -0.880904, 0.880904], abs=1e-6)


def test_worked_example_hessian_vector_product():
    log_probs, psi, parameters = softmax_example()
    vector = by_action([0.1, 0.0, -0.2, 0.1]).flatten()
    found = hessian_vector_product(log_probs, psi, psi > 0, parameters, vector)
    assert by_state(found) == pytest.approx([-0.072261, 0.072261, 0.052461, -0.052461], abs=1e-6)


def test_worked_example_scalar_transport():
    theta, previous, direction = (torch.tensor([x]) for x in (1.0, 0.5, 0.2))

    def slope(at):
        return 1 - 2 * at

    ahead = look_ahead(theta, previous, 0.5)
    assert ahead.item() == pytest.approx(1.5)
    d = averaged(direction, slope(ahead), 0.5)
    assert d.item() == pytest.approx(-0.9)
    assert (theta + 0.1 * normalized(d)).item() == pytest.approx(0.9)

    mix = between(theta, previous, 0.25)
    assert mix.item() == pytest.approx(0.625)
    v = -2 * (theta - previous)
    assert v.item() == pytest.approx(-1.0)
    d = averaged(direction, slope(theta), 0.5, v)
    assert d.item() == pytest.approx(-0.9)
    assert (theta + 0.1 * normalized(d)).item() == pytest.approx(0.9)


def test_worked_example_schedules():
    assert NPGIGT.schedule(6) == pytest.approx(0.329877, abs=1e-6)
    assert NHARPG.schedule(6) == HARPG.schedule(6) == pytest.approx(0.25)
    for cls in (NPGIGT, HARPG):
        assert cls.schedule(0) == 1.0  # the first average is the first gradient
    assert NPGIGT.schedule(10**6) == 1e-3


# -- properties -----------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4))
def test_transport_is_exact_where_the_gradient_is_linear(seed, size):
    rng = np.random.default_rng(seed)
    slope = torch.as_tensor(rng.standard_normal((size, size)))
    constant = torch.as_tensor(rng.standard_normal(size))

    def gradient(theta):
        return constant + slope @ theta

    for cls in (NPGIGT, HARPG):
        previous = theta = torch.as_tensor(rng.standard_normal(size))
        d = gradient(theta)
        for step in range(1, 6):
            previous, theta = theta, theta + 0.1 * normalized(d)
            eta = cls.schedule(step)
            if cls is NPGIGT:
                d = averaged(d, gradient(look_ahead(theta, previous, eta)), eta)
            else:
                d = averaged(d, gradient(theta), eta, slope @ (theta - previous))
            torch.testing.assert_close(d, gradient(theta))


@pytest.mark.parametrize("seed", [0, 1])
def test_expected_estimates_are_derivatives_of_the_expected_return(seed):
    found = n_harpg.derivatives_arm(seed, 1.0).metrics
    assert found["gradient error"] < 1e-12
    assert found["Hessian error"] < 1e-12


def test_a_batch_of_trajectories_of_different_lengths_averages_single_ones():
    torch.manual_seed(3)
    policy = MlpPolicy(Box(-1, 1, (2,)), Box(-1, 1, (1,)), lambda _: 0.0, net_arch=(4, 3)).double()
    parameters = list(policy.parameters())
    observations, actions = torch.randn(5, 2, 2), torch.randn(5, 2, 1).double()
    taken = torch.tensor([[True, True]] * 3 + [[True, False]] * 2)
    psi = discounted_to_go(torch.randn(5, 2).double() * taken, 0.9)
    vector = torch.randn(sum(each.numel() for each in parameters)).double()

    def product(steps, rows):
        log_probs, _ = policy.double().evaluate(observations[:steps, rows], actions[:steps, rows])
        part = (slice(steps), rows)
        return hessian_vector_product(log_probs, psi[part], taken[part], parameters, vector)

    policy.forward = lambda x, memory=None: (  # the network in double precision
        policy.outputs(policy.features(x.double().flatten(2))),
        None,
    )
    together = product(5, slice(2))
    apart = (product(5, slice(1)) + product(3, slice(1, 2))) / 2
    torch.testing.assert_close(together, apart)
    # and it is the sum of the two terms that define it, of finite differences
    log_probs, _ = policy.evaluate(observations[:, :1], actions[:, :1])
    gradient = flat_gradient((psi[:, :1] * log_probs).sum(), parameters, create_graph=True)
    score = flat_gradient(log_probs.sum(), parameters, create_graph=True) @ vector
    expected = gradient * score + flat_gradient(gradient @ vector, parameters)
    torch.testing.assert_close(product(5, slice(1)), expected.detach())


# -- the agents -----------------------------------------------------------------------------------


def test_every_trajectory_counts_and_harpg_plays_two():
    counts = {NPGIGT: [10, 20, 30], HARPG: [10, 30, 50], NHARPG: [10, 30, 50]}
    for cls, expected in counts.items():
        seen = []
        make(cls).learn(expected[-1], callback=lambda a, _, s=seen: s.append(a["self"]) or True)
        agent = seen[-1]
        assert len(seen) == 3
        assert agent.num_timesteps == expected[-1]
    assert len(make(HARPG).learn(50).ep_info_buffer) == 5


def test_n_pg_igt_samples_at_the_look_ahead_and_keeps_the_iterate():
    agent, points = make(NPGIGT, eta=0.5).learn(30), []
    theta, previous, average = agent.theta, agent.previous, agent.average
    play = agent.play_at
    agent.play_at = lambda at: points.append(at.clone()) or play(at)
    agent.learn(10, reset_num_timesteps=False)
    torch.testing.assert_close(points[0], theta + (theta - previous))
    assert agent.previous.equal(theta)
    step = 0.3 * 2 / (3 + 2)
    torch.testing.assert_close(agent.theta, theta + step * normalized(agent.average))
    assert not agent.average.equal(average)


def test_a_learn_that_counts_anew_forgets_the_average():
    first, second = make(NPGIGT).learn(100), make(NPGIGT).learn(100)
    second.average *= 1e6
    for agent in (first, second):
        torch.manual_seed(0)
        agent.generator = np.random.default_rng(0)
        agent.learn(30)
    assert first.theta.equal(second.theta)


def test_two_equal_iterates_need_no_correction():
    agent = make(HARPG, learning_rate=0.0).learn(10)
    theta, first = agent.theta, agent.average
    agent.learn(20, reset_num_timesteps=False)
    assert agent.theta.equal(theta)
    kept = agent._metrics["train/gradient_norm"]
    assert agent.average.norm() <= (first.norm() + 2 * kept) / 3 + 1e-6


@every_class
@pytest.mark.parametrize("eta", [0.0, 1e-4, 1.5])
def test_weights_that_let_the_look_ahead_run_away_are_refused(cls, eta):
    with pytest.raises(ValueError, match=f"eta={eta} must be a number from 0.001 to 1"):
        make(cls, eta=eta)


@every_class
def test_they_learn_to_hold_a_plant(cls):
    agent = make(cls, episodes=20, learning_rate={NPGIGT: 1.0, HARPG: 0.3, NHARPG: 0.5}[cls])
    before = agent.play(400).rewards.sum(0).mean()
    agent.learn(20 * 10 * 60)
    assert agent.play(400).rewards.sum(0).mean() > before + 1.5


@every_class
def test_environments_that_are_no_arrays_and_tables_work_too(cls):
    agent = cls("MlpPolicy", gym.make("CartPole-v1"), learning_rate=0.01, seed=0, device="cpu")
    before = agent.theta
    agent.learn(150)
    assert agent.num_timesteps >= 150
    assert not agent.theta.equal(before)
    grid = gym.make("SubmodularCoverage-v0", rows=4, cols=4, horizon=3)
    assert cls("TabularPolicy", grid, seed=0).learn(30).theta.norm() > 0


# -- the claim ------------------------------------------------------------------------------------


def test_the_claims_arms_run_and_know_the_best_return():
    best = n_harpg.best_return()
    assert best == pytest.approx(3.92, abs=0.05)
    assert n_harpg.expected_return(np.zeros(2)) == pytest.approx(1.856, abs=0.05)
    for arm in (n_harpg.igt_arm, n_harpg.harpg_arm, n_harpg.vanilla_arm, n_harpg.normalized_arm):
        outcome = arm(100, 0.01)
        steps, gaps = outcome.curves["gap"]
        assert len(steps) == len(gaps) == 11
        assert 200 <= steps[-1] <= 210
        assert 0 <= outcome.metrics["gap"] == gaps[-1]
        assert gaps[0] == pytest.approx(best - n_harpg.expected_return(np.zeros(2)))
