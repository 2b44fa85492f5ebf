"""`BernoulliBandit`: how often the arms pay."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from palaestra.envs.bandits.bernoulli import BernoulliBandit


@pytest.mark.parametrize("p", [0.0, 0.1, 0.3, 1.0])
def test_arm_0_pays_with_one_minus_p_and_arm_1_with_p(p):
    core, n = BernoulliBandit(p=p), 3000
    assert core.R[0, 0] == pytest.approx([1 - p, p])
    tape = core.tapes(n, 0)
    state = core.initial(tape)
    for arm, mean in enumerate((1 - p, p)):
        arms = np.full(n, arm)
        after = core.transition(state, arms, tape)
        rewards = core.reward(state, arms, after)
        np.testing.assert_array_equal(rewards, tape["v"][:, 0] < mean)
        assert rewards.mean() == pytest.approx(mean, abs=0.03)
        assert core.terminal(after).all()


def test_planner_and_bad_probability():
    values, policy = gym.make("BernoulliBandit-v0", p=0.3).unwrapped.plan(1.0)
    assert values == pytest.approx(np.array([[0.7]])) and policy.tolist() == [[0]]
    with pytest.raises(ValueError, match=r"p=1.2 is outside \[0, 1\]"):
        BernoulliBandit(p=1.2)
