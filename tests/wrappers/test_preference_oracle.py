"""`PreferenceOracle`: which of two episodes was better, and nothing else of what was paid."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import expit

from palaestra.wrappers.preference_oracle import PreferenceOracle
from palaestra.wrappers.sb3 import make_sb3

STEPS = 4
RIVER = {"states": 3, "horizon": STEPS, "large": 0.75, "forward": 0.6}


def oracle(num_envs: int, seed: int = 0) -> PreferenceOracle:
    env = PreferenceOracle(make_sb3("RiverSwim-v0", num_envs=num_envs, **RIVER))
    env.seed(seed)
    env.reset()
    return env


def play(env: PreferenceOracle, action: int, episodes: int = 1):
    """Rewards shown [n, T], and the returns that the monitor below tells of the last episode."""
    shown, returns = [], None
    for _ in range(episodes * STEPS):
        _, rewards, dones, infos = env.step(np.full(env.num_envs, action))
        shown.append(rewards)
        if dones.all():
            returns = np.array([info["episode"]["r"] for info in infos])
    return np.array(shown), returns


def test_rewards_are_hidden_and_stay_measurable_below() -> None:
    env = oracle(2)
    shown, returns = play(env, 0)
    assert (shown == 0).all() and shown.dtype == np.float32
    assert_allclose(returns, 0.05 * STEPS, atol=1e-6)


def test_answers_have_the_probability_of_the_model() -> None:
    env = oracle(2_000)
    _, earlier = play(env, 1)
    _, later = play(env, 0)
    answers = env.prefers_earlier(np.arange(2_000))
    assert env.asked == 2_000
    for gap in np.unique(earlier - later):
        those = earlier - later == gap
        error = np.sqrt(0.25 / those.sum())
        assert answers[those].mean() == pytest.approx(expit(gap), abs=4 * error)
    assert len(np.unique(earlier - later)) > 2


def test_worked_example_of_an_answer() -> None:
    # Both episodes earn 0.2, so the later one's uniform decides alone: preferred below 1/2.
    env = oracle(64)
    play(env, 0, episodes=2)
    arrays, _ = env.get_state()
    assert_allclose(arrays["finished"], 0.2, atol=1e-6)
    assert_array_equal(env.prefers_earlier(np.arange(64)), arrays["uniforms"] < 0.5)


def test_an_answer_depends_neither_on_earlier_questions_nor_on_other_rows() -> None:
    env, silent = oracle(5, seed=3), oracle(5, seed=3)
    singles = [oracle(1, seed=3 + row) for row in range(5)]
    for each in (env, silent, *singles):
        play(each, 1)
    for round_ in range(6):
        for each in (env, silent, *singles):
            play(each, round_ % 2)
        answers = env.prefers_earlier(np.arange(5))
        assert_array_equal(env.prefers_earlier(np.array([4, 1])), answers[[4, 1]])
        assert [int(each.prefers_earlier(np.array([0]))[0]) for each in singles] == answers.tolist()
    assert_array_equal(silent.prefers_earlier(np.arange(5)), answers)
    assert silent.asked == 5 and env.asked == 6 * 7


def test_nothing_can_be_asked_before_two_episodes_or_across_a_reset() -> None:
    env = oracle(2)
    play(env, 0)
    with pytest.raises(ValueError, match="sub-environment 1 has not finished two episodes"):
        env.prefers_earlier(np.array([1]))
    play(env, 0)
    assert len(env.prefers_earlier(np.array([0, 1]))) == 2
    env.reset()
    play(env, 0)
    with pytest.raises(ValueError, match="sub-environment 0 has not finished two episodes"):
        env.prefers_earlier(np.array([0]))
    assert len(env.prefers_earlier(np.array([], dtype=np.int64))) == 0


def test_it_goes_on_from_its_state() -> None:
    env, other = oracle(3, seed=1), oracle(3, seed=9)
    play(env, 0)
    env.step(np.ones(3, dtype=np.int64))
    other.set_state(*env.get_state())
    assert other.asked == env.asked
    for name, value in env.get_state()[0].items():
        assert_array_equal(other.get_state()[0][name], value)
    # The same generators: the next uniforms are the same, whatever is played.
    for each in (env, other):
        each.reset()
        play(each, 0, episodes=2)
    assert_array_equal(other.get_state()[0]["uniforms"], env.get_state()[0]["uniforms"])
