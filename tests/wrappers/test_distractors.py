"""`Distractors`: numbers that mean nothing, appended to observations that stay what they were."""

from __future__ import annotations

import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from palaestra.wrappers.distractors import Distractors

PENDULUM = "TorquePendulum-v0"


def run(env, steps, seed=0):
    env.action_space.seed(1)
    seen, rewards = [env.reset(seed=seed)[0]], []
    for _ in range(steps):
        observation, reward, *_ = env.step(env.action_space.sample())
        seen.append(observation)
        rewards.append(reward)
    return np.array(seen), rewards


def test_the_environment_is_what_it_was():
    seen, rewards = run(Distractors(gym.make(PENDULUM), n=4), 50)
    expected, expected_rewards = run(gym.make(PENDULUM), 50)
    np.testing.assert_array_equal(seen[:, :3], expected)
    assert rewards == expected_rewards
    assert seen.shape == (51, 7) and seen.dtype == np.float32


def test_distractors_have_the_moments_that_are_promised():
    env = Distractors(gym.make(PENDULUM, max_steps=4000), n=8, decay=0.8, spread=3.0)
    z = run(env, 4000)[0][:, 3:]
    np.testing.assert_allclose(z.mean(axis=0), 0.0, atol=0.6)
    np.testing.assert_allclose(z.std(axis=0), 3.0, rtol=0.12)
    for lag, expected in ((1, 0.8), (3, 0.8**3)):
        found = (z[lag:] * z[:-lag]).mean() / (z**2).mean()
        np.testing.assert_allclose(found, expected, atol=0.05)
    between = np.corrcoef(z.T)[np.triu_indices(8, 1)]
    assert np.abs(between).max() < 0.2


def test_the_start_has_the_same_spread():
    env = Distractors(gym.make(PENDULUM), n=2000, spread=5.0)
    z = env.reset(seed=3)[0][3:]
    np.testing.assert_allclose(z.std(), 5.0, rtol=0.05)


def test_one_decay_keeps_them_and_zero_forgets_them():
    constant, _ = run(Distractors(gym.make(PENDULUM), n=3, decay=1.0), 5)
    assert (constant[:, 3:] == constant[0, 3:]).all()
    noise, _ = run(Distractors(gym.make(PENDULUM), n=3, decay=0.0, spread=0.0), 5)
    assert (noise[:, 3:] == 0).all()


def test_draws_follow_from_the_seed_and_not_from_the_length_of_episodes():
    env, other = (Distractors(gym.make(PENDULUM), n=3) for _ in range(2))
    first, _ = run(env, 20, seed=7)
    np.testing.assert_array_equal(run(other, 3, seed=7)[0], first[:4])
    np.testing.assert_array_equal(env.reset()[0], other.reset()[0])
    assert (env.reset()[0][3:] != first[0, 3:]).all()


def test_one_around_another_draws_apart():
    seen, _ = run(Distractors(Distractors(gym.make(PENDULUM), n=2), n=2), 3)
    assert (seen[:, 3:5] != seen[:, 5:7]).all()


def test_none_is_none():
    env = Distractors(gym.make(PENDULUM), n=0)
    np.testing.assert_array_equal(env.reset(seed=0)[0], gym.make(PENDULUM).reset(seed=0)[0])
    assert env.observation_space == env.env.observation_space


def test_gymnasiums_checker_accepts_it():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".*infinity|.*symmetric and normalized")
        warnings.filterwarnings("ignore", ".*different from the unwrapped version")
        check_env(Distractors(gym.make(PENDULUM), n=2), skip_render_check=True)


def test_a_vector_of_them():
    vector = gym.make_vec("Pendulum-v1", 2, "sync", wrappers=[lambda env: Distractors(env, n=2)])
    seen, _ = vector.reset(seed=4)
    for i in range(2):
        expected, _ = Distractors(gym.make("Pendulum-v1"), n=2).reset(seed=4 + i)
        np.testing.assert_array_equal(seen[i], expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": -1}, "n=-1 must be an integer of at least 0"),
        ({"n": 1.5}, "n=1.5"),
        ({"n": 2, "decay": 1.1}, "decay=1.1 must be a number from 0 to 1"),
        ({"n": 2, "spread": -1.0}, "spread=-1.0 must be"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Distractors(gym.make(PENDULUM), **arguments)


def test_only_flat_boxes_of_floats_can_be_extended():
    with pytest.raises(ValueError, match=r"flat Box, got Discrete\(16\)"):
        Distractors(gym.make("FrozenLake-v1"), n=1)
