"""`SwitchingCostBandit`: losses, switches, requests, and regret against the best fixed arm."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.vec_env import DummyVecEnv

from palaestra.envs.bandits.loss_sequences import adversarial_losses
from palaestra.envs.bandits.switching_cost import SwitchingCostBandit, SwitchingCostBanditEnv

LOSSES = [[0.1, 0.9], [0.2, 0.0], [0.5, 0.1], [0.3, 0.4]]


def play(env, actions, seed=0):
    """Results of the steps of an episode."""
    env.reset(seed=seed)
    return [env.step(action) for action in actions]


@pytest.mark.parametrize(("actions", "regret"), [((0, 0, 1, 1), 0.7), ((1, 0, 1, 0), 3.4)])
def test_worked_example_regret_with_switches(actions, regret):
    steps = play(gym.make("SwitchingCostBandit-v0", losses=LOSSES), actions)
    infos = [info for *_, info in steps]
    assert infos[-1]["cumulative_regret"] == pytest.approx(regret, abs=1e-12)
    assert sum(info["regret"] for info in infos) == pytest.approx(regret, abs=1e-12)
    switches = [0, *(a != b for a, b in zip(actions, actions[1:], strict=False))]
    assert [info["cost"] for info in infos] == switches
    assert infos[-1]["cumulative_cost"] == sum(switches)
    rewards = [reward for _, reward, *_ in steps]
    losses = [LOSSES[t][action] for t, action in enumerate(actions)]
    assert rewards == pytest.approx([-(a + b) for a, b in zip(losses, switches, strict=True)])
    assert [step[0] for step in steps] == list(actions)
    assert [step[2] for step in steps] == [False, False, False, True]


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_regret_is_that_against_the_best_fixed_arm(data):
    T, K = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 4))
    losses = np.random.default_rng(data.draw(st.integers(0, 999))).random((T, K))
    actions = data.draw(st.lists(st.integers(0, K - 1), min_size=T, max_size=T))
    *_, info = play(SwitchingCostBanditEnv(losses=losses), actions)[-1]
    total = losses[np.arange(T), actions].sum() + np.count_nonzero(np.diff(actions))
    fixed = min(sum(losses[t, k] for t in range(T)) for k in range(K))
    assert info["cumulative_regret"] == pytest.approx(total - fixed, abs=1e-9)


def test_stochastic_losses_are_the_stated_draws():
    core = SwitchingCostBandit(K=3, T=5_000, mean=0.6, gap=0.2)
    tape = core.draw_tape(np.random.default_rng(7), {})
    rng = np.random.default_rng(7)
    good = rng.integers(3)
    means = np.where(np.arange(3) == good, 0.4, 0.6)
    np.testing.assert_array_equal(tape["losses"], rng.random((5_000, 3)) < means)
    assert tape["best"] == good
    assert tape["losses"].mean(axis=0) == pytest.approx(means, abs=0.03)


def test_adversarial_losses_are_a_walk_on_many_scales():
    T, K = 500, 3
    rng = np.random.default_rng(3)
    good, steps = rng.integers(K), rng.standard_normal(T)
    scale = 1 / (9 * np.log2(T))
    walk = [0.0]
    for t in range(1, T + 1):
        walk.append(walk[t - (t & -t)] + scale * steps[t - 1])
    losses = adversarial_losses(np.random.default_rng(3), T, K)
    expected = np.clip(0.5 + np.array(walk)[1:], 0, 1)
    assert losses[:, (good + 1) % K] == pytest.approx(expected)
    gap = losses[:, (good + 1) % K] - losses[:, good]
    assert gap == pytest.approx(np.full(T, (K / T) ** (1 / 3) * scale))
    core = SwitchingCostBandit(K, T, losses="adversarial")
    assert core.draw_tape(np.random.default_rng(3), {})["best"] == good
    assert adversarial_losses(np.random.default_rng(0), 1, 1).shape == (1, 1)


def test_losses_are_shown_on_request_only_and_count():
    env = SwitchingCostBanditEnv(losses=LOSSES, budget=5)
    env.reset(seed=0)
    *_, info = env.step(0)
    assert info["observed"].tolist() == [-1, -1]
    env.observe(1)
    env.observe([1])  # once more is no further loss
    *_, info = env.step(0)
    assert info["observed"].tolist() == [-1, 0.0]
    assert info["observations"] == 1
    env.observe()
    *_, info = env.step(1)
    assert info["observed"].tolist() == [0.5, 0.1]
    assert info["observations"] == 3
    env.observe(0)
    env.observe(1)
    *_, terminated, _, info = env.step(1)
    assert terminated and info["observed"].tolist() == [0.3, 0.4]
    assert info["observations"] == 5
    with pytest.raises(ValueError, match="the episode has ended"):
        env.observe(0)


def test_a_budget_is_kept():
    env = SwitchingCostBanditEnv(losses=LOSSES, budget=2)
    env.reset(seed=0)
    env.observe(0)
    with pytest.raises(ValueError, match="makes 3 observations, the budget is 2") as error:
        env.step(0)
        env.observe()
    assert "sub-environment 0" in str(error.value)
    *_, info = env.step(0)  # the refused request is forgotten
    assert info["observed"].tolist() == [-1, -1]
    env.reset()
    env.observe()  # a new episode has its own budget
    with pytest.raises(ValueError, match="arms=2 must be an integer from 0 to 1"):
        env.observe([0, 2])


def test_bandit_feedback_shows_the_arm_that_is_played():
    env = SwitchingCostBanditEnv(losses=LOSSES, mode="bandit", budget=2)
    env.reset(seed=0)
    env.observe()
    *_, info = env.step(1)
    assert info["observed"].tolist() == [-1, 0.9]
    assert info["observations"] == 1
    with pytest.raises(ValueError, match=r"mode='bandit'.*observe\(\)"):
        env.observe(1)
    env.observe()
    assert env.step(0)[-1]["observations"] == 2
    with pytest.raises(ValueError, match="the budget is 2"):
        env.observe()


def test_single_feedback_shows_one_arm_a_round():
    env = SwitchingCostBanditEnv(losses=LOSSES, mode="single")
    env.reset(seed=0)
    env.observe(0)
    for arms in (1, [0, 1], None):
        with pytest.raises(ValueError, match="one arm a round"):
            env.observe(arms)
    assert env.step(1)[-1]["observed"].tolist() == [0.1, -1]


def test_extra_observations_come_on_top_of_the_arm_played():
    env = SwitchingCostBanditEnv(losses=LOSSES, mode="extra", budget=2)
    env.reset(seed=0)
    *_, info = env.step(1)
    assert info["observed"].tolist() == [-1, 0.9]
    assert info["observations"] == 0
    env.observe()
    *_, info = env.step(0)
    assert info["observed"].tolist() == [0.2, 0.0]
    assert info["observations"] == 1
    env.observe(0)
    assert env.step(0)[-1]["observations"] == 1  # the arm played is free
    env.observe(1)
    assert env.step(0)[-1]["observations"] == 2


def test_requests_of_a_vector_are_those_of_its_rows():
    vector = gym.make_vec("SwitchingCostBandit-v0", num_envs=3, K=3, T=4, budget=6)
    singles = [SwitchingCostBanditEnv(K=3, T=4, budget=6) for _ in range(3)]
    vector.reset(seed=5)
    for row, single in enumerate(singles):
        single.reset(seed=5 + row)
    rng = np.random.default_rng(0)
    for _ in range(3):
        asked, actions = rng.random((3, 3)) < 0.4, rng.integers(3, size=3)
        vector.unwrapped.observe(asked)
        for row, single in enumerate(singles):
            single.observe(np.flatnonzero(asked[row]).tolist())
        infos = vector.step(actions)[-1]
        for row, single in enumerate(singles):
            *_, info = single.step(actions[row])
            np.testing.assert_array_equal(infos["observed"][row], info["observed"])
            assert infos["observations"][row] == info["observations"]
    with pytest.raises(ValueError, match="boolean array of shape"):
        vector.unwrapped.observe(np.ones((3, 3)))
    vector.step([0, 0, 0])
    vector.unwrapped.observe()  # ended rows ask for nothing, whatever they have spent
    assert (vector.step([0, 0, 0])[-1]["observations"] == 0).all()


def test_requests_reach_the_environment_through_sb3():
    env = DummyVecEnv([lambda: gym.make("SwitchingCostBandit-v0", losses=LOSSES)])
    env.seed(0)
    env.reset()
    for t in range(4):
        env.env_method("observe", [0])
        _, _, dones, infos = env.step(np.array([1]))
        assert infos[0]["observed"].tolist() == [LOSSES[t][0], -1]
    assert dones[0] and infos[0]["cumulative_regret"] == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"K": 0}, "K=0"),
        ({"T": 0}, "T=0"),
        ({"losses": "kind"}, "losses='kind', allowed are"),
        ({"losses": [0.1, 0.2]}, r"losses has shape \[2\]"),
        ({"losses": LOSSES, "T": 5}, r"T=5, but losses has shape \[4, 2\]"),
        ({"losses": LOSSES, "K": 3}, "K=3, but losses"),
        ({"losses": [[0.2, 1.5]]}, r"losses\[0, 1\] = 1.5 is outside \[0, 1\]"),
        ({"gap": 0.6}, "gap=0.6"),
        ({"mean": 1.1}, "mean=1.1"),
        ({"mode": "all"}, "mode='all'"),
        ({"budget": -1}, "budget=-1"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        SwitchingCostBandit(**arguments)


def test_picture():
    env = gym.make("SwitchingCostBandit-v0", K=30, T=3, budget=4, render_mode="rgb_array")
    env.reset(seed=0)
    env.step(2)
    assert env.render().shape == (380, 860, 3)
