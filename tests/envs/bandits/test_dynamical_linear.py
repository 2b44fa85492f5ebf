"""`DynamicalLinearBandit`: hidden dynamics, long-run rewards and regret."""

from __future__ import annotations

import itertools

import gymnasium as gym
import numpy as np
import pytest

from palaestra.envs.bandits.dynamical_linear import DynamicalLinearBandit
from palaestra.envs.bandits.rounds import product

OWN = {
    "A": [[0.5, 0.3], [-0.2, 0.6]],
    "B": [[1.0, -0.5, 0.2], [0.1, 0.4, -1.0]],
    "omega": [0.7, -0.3],
    "theta": [0.2, -0.1, 0.05],
}


def play(actions, seed=0, state=None, **arguments):
    """Rewards, infos and hidden states of an episode."""
    env = gym.make("DynamicalLinearBandit-v0", **arguments)
    env.reset(seed=seed, options={} if state is None else {"state": state})
    rewards, infos, hidden = [], [], [env.unwrapped.state["x"][0]]
    for action in actions:
        observation, reward, _, _, info = env.step(action)
        assert observation == pytest.approx([reward], rel=1e-6)
        rewards.append(reward)
        infos.append(info)
        hidden.append(env.unwrapped.state["x"][0])
    return np.array(rewards), infos, np.array(hidden)


def test_worked_example_rewards_of_a_constant_action():
    rewards, infos, hidden = play([0, 0, 0], sigma=0.0)
    assert rewards == pytest.approx([0.0, 0.1, 0.19], abs=1e-12)
    assert infos[-1]["h"] == pytest.approx([1.0, 0.7], abs=1e-12)
    np.testing.assert_allclose(hidden, [[0, 0], [1, 0], [1.9, 0], [2.71, 0]], atol=1e-12)


def test_worked_example_long_run_rewards_and_regret_of_the_arms():
    core = DynamicalLinearBandit()
    assert core.rho == pytest.approx(0.9)
    assert core.values == pytest.approx([1.0, 0.7, 1.19, 0.93, 1.11], abs=1e-12)
    _, infos, _ = play(range(5))
    gaps = [0.19, 0.49, 0.0, 0.26, 0.08]
    assert [info["regret"] for info in infos] == pytest.approx(gaps, abs=1e-12)
    assert [info["cumulative_regret"] for info in infos] == pytest.approx(np.cumsum(gaps))
    # At once, the best arm when held pays less than two others.
    assert product(core.theta[None], core.arms)[:, 0] == pytest.approx([0, 0.7, 0.49, 0.63, 0.21])


def test_worked_example_the_synthetic_system_of_the_paper():
    core = DynamicalLinearBandit(system="synthetic")
    assert core.h == pytest.approx([0.45 / 0.8, 0.5, 0.1 + 0.01 / 0.9], abs=1e-12)
    assert sorted(map(tuple, core.arms)) == sorted(itertools.permutations((0.0, 0.5, 1.0)))
    assert (core.arms.sum(axis=1) == 1.5).all()
    assert core.arms[core.values.argmax()].tolist() == [1.0, 0.5, 0.0]
    assert core.best == pytest.approx(0.8125)


def test_rewards_are_those_of_the_equations_with_the_noise_of_the_tape():
    T, sigma, rng = 40, 0.3, np.random.default_rng(5)
    arms, start = rng.uniform(-1, 1, (6, 3)), np.array([0.4, -2.0])
    actions = rng.integers(6, size=T)
    rewards, infos, hidden = play(actions, seed=11, state=start, **OWN, arms=arms, sigma=sigma, T=T)
    A, B, omega, theta = (np.array(OWN[name]) for name in ("A", "B", "omega", "theta"))
    noise = sigma * np.random.default_rng(11).standard_normal((T, 3))
    x, total = start, 0.0
    h = theta + sum((B.T @ np.linalg.matrix_power(A, s).T @ omega) for s in range(400))
    best = max(h @ u for u in arms)
    for t, action in enumerate(actions):
        u = arms[action]
        assert rewards[t] == pytest.approx(omega @ x + theta @ u + noise[t, 2], abs=1e-9)
        x = A @ x + B @ u + noise[t, :2]
        np.testing.assert_allclose(hidden[t + 1], x, atol=1e-9)
        total += best - h @ u
        assert infos[t]["cumulative_regret"] == pytest.approx(total, abs=1e-9)
    assert infos[0]["h"] == pytest.approx(h)


@pytest.mark.parametrize("arm", range(5))
def test_an_arm_that_is_held_pays_its_value_in_the_long_run(arm):
    rewards, _, _ = play([arm] * 400, sigma=0.0, T=400)
    assert rewards[200:].mean() == pytest.approx(DynamicalLinearBandit().values[arm], abs=1e-6)


def test_the_best_vector_of_a_box_is_its_best_corner():
    low, high = np.array([-1.0, 0.25, -0.5]), np.array([0.5, 1.0, 2.0])
    core = DynamicalLinearBandit(**OWN, action="vector", low=low, high=high)
    corners = list(itertools.product(*zip(low, high, strict=True)))
    assert core.best == pytest.approx(max(np.dot(core.h, corner) for corner in corners))
    u = np.array([0.1, 0.3, -0.2])
    _, infos, _ = play([u], **OWN, action="vector", low=low, high=high)
    assert infos[0]["regret"] == pytest.approx(core.best - core.h @ u)
    with pytest.raises(ValueError, match=r"action 0.75 at \(0,\).* is outside \[-1.0, 0.5\]"):
        play([np.array([0.75, 0.5, 0.0])], **OWN, action="vector", low=low, high=high)


def test_rows_of_outputs_are_summed():
    rows = {"omega": [[0.7, 0.0], [0.0, -0.3]], "theta": [[0.2, 0.0, 0.0], [0.0, -0.1, 0.05]]}
    both = [DynamicalLinearBandit(**{**OWN, **given}, arms=[[1, 2, 3]]) for given in ({}, rows)]
    assert both[0].h == pytest.approx(both[1].h)
    assert both[0].omega == pytest.approx(both[1].omega)


def test_rewards_can_be_differentiated_through_the_hidden_state():
    torch = pytest.importorskip("torch")
    core = DynamicalLinearBandit(action="vector", sigma=0.0, T=60)
    face = core.torch(dtype=torch.float64)
    tape = {name: torch.as_tensor(value) for name, value in core.tapes(2, 0).items()}
    u = torch.full((2, 2), 0.5, dtype=torch.float64, requires_grad=True)
    state, total = face.initial(tape), 0.0
    for _ in range(60):
        after = face.transition(state, u, tape)
        state, total = after, total + face.reward(state, u, after)
    (gradient,) = torch.autograd.grad(total.sum(), u)
    # 0.1 (1 + 0.9 + ... + 0.9^(s-1)) summed over the s = 0 .. 59 steps before each reward.
    expected = [sum(1 - 0.9**s for s in range(60)), 0.7 * 60]
    np.testing.assert_allclose(gradient, [expected] * 2, rtol=1e-9)


def test_the_last_state_ends_the_episode():
    env = gym.make("DynamicalLinearBandit-v0", T=2, render_mode="rgb_array")
    env.reset(seed=0)
    assert env.step(1)[2:4] == (False, False)
    assert env.step(2)[2:4] == (True, False)
    assert env.render().shape == (380, 860, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"system": "x"}, "system='x', allowed are"),
        ({"A": [[1.0]]}, "belong together"),
        ({**OWN}, "needs arms"),
        ({**OWN, "A": [[1.0, 0.0], [0.0, 0.5]], "arms": [[0, 0, 1]]}, "spectral radius of A is 1"),
        ({**OWN, "A": [[0.5, 0.1]], "arms": [[0, 0, 1]]}, r"A has shape \[1, 2\]"),
        ({**OWN, "B": [[1.0]], "arms": [[1.0]]}, r"B has shape \[1, 1\], it must be \[2, any\]"),
        ({**OWN, "omega": [1.0], "arms": [[0, 0, 1]]}, r"omega has shape \[1\]"),
        ({**OWN, "theta": [np.nan, 0, 0], "arms": [[0, 0, 1]]}, "theta holds numbers"),
        ({"arms": [[1.0]]}, r"arms has shape \[1, 1\], it must be \[any, 2\]"),
        ({"sigma": -0.1}, "sigma=-0.1"),
        ({"T": 0}, "T=0"),
        ({"action": "both"}, "action='both'"),
        ({"action": "vector", "low": 2.0}, "low <= high"),
        ({"action": "vector", "low": [0, 0, 0]}, "low and high"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        DynamicalLinearBandit(**arguments)


def test_a_bad_start_is_refused():
    with pytest.raises(ValueError, match=r"options\['state'\] has shape \[1\], it must be \[2\]"):
        play([], state=[1.0])
