"""Importance sampling with uniform actions, and policy search by dynamic programming."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from palaestra.agents import PSDP, UniformIS
from palaestra.agents.base.policy_class import PolicyClass
from palaestra.agents.tabular.policy_search import importance_values, step_scores
from palaestra.envs.tabular.planning.finite_horizon import evaluate
from palaestra.wrappers.sb3 import make_sb3


def garnet(num_envs=100, **changes):
    return make_sb3(
        "Garnet-v0",
        **{"num_envs": num_envs, "layers": 3, "states": 2, "actions": 2, "branching": None},
        **{"start": 0, "instance": 5, **changes},
    )


def test_worked_example_importance_values() -> None:
    found = importance_values(np.array([[2, 2, 1]]), np.array([1.0, 0.5, 9.0]), 2, 2)
    assert_allclose(found, [2.0])


def test_worked_example_step_scores() -> None:
    totals = np.zeros((2, 2))
    np.add.at(totals, ([0, 0, 1, 1], [0, 1, 1, 0]), [1, 0.2, 0.6, 0.4])
    assert_allclose(step_scores(np.array([[0, 1], [1, 0]]), totals, 4), [0.8, 0.3])


def test_estimates_approach_the_exact_values() -> None:
    env, members = garnet(num_envs=500), PolicyClass.all(3, 2, 2)
    agent = UniformIS("TimePolicy", env, policies=members, seed=0).learn(3 * 20_000)
    core = env.get_attr("core")[0]
    exact = evaluate(core.P, core.R, members.policies)[:, 0, 0]
    assert np.abs(agent.values - exact).max() < 0.15 < np.ptp(exact)
    assert_array_equal(agent.probabilities.argmax(axis=2), members.policies[agent.values.argmax()])
    # The mean over the class is the value of uniform actions, which the returns show, too.
    assert agent._metrics["rollout/mean_return"] == pytest.approx(agent.values.mean(), abs=1e-9)


def test_psdp_finds_the_best_policy_of_a_class_that_holds_all() -> None:
    env = garnet(num_envs=250)
    agent = PSDP("TimePolicy", env, policies=PolicyClass.all(3, 2, 2), seed=0).learn(3 * 6_000)
    core = env.get_attr("core")[0]
    values = evaluate(core.P, core.R, agent.probabilities)
    assert values[0, 0] == pytest.approx(core.plan(1.0).values[0, 0], abs=1e-9)
    assert agent._played == 6_000 and agent._step == 0 and agent._count == 2_000


def test_psdp_needs_states_that_cover_what_good_policies_visit() -> None:
    # Action 1 leads from state 0 to state 1, where action 0 pays 1 and action 1 costs 1.
    P = np.zeros((2, 2, 2))
    P[0, 0, 0] = P[0, 1, 1] = P[1, :, 1] = 1.0
    low = np.array([[[0.0], [0.0]], [[1.0], [-1.0]]])
    env = gym.make("FiniteMDP-v0", P=P, low=low, d0=0, horizon=2)
    every, stay = PolicyClass.all(2, 2, 2), np.zeros((2, 2, 2))
    stay[..., 0] = 1.0
    covered = PSDP("TimePolicy", env, policies=every, seed=0).learn(400)
    assert covered.probabilities[1, 1, 0] == covered.probabilities[0, 0, 1] == 1
    # A roll-in that stays never sees state 1: there the first policy of equally good ones decides.
    policies = every.policies[::-1]
    blind = PSDP("TimePolicy", env, policies=policies, roll_in=stay, seed=0).learn(400)
    assert blind.probabilities[1, 1, 1] == blind.probabilities[0, 0, 0] == 1


def test_arguments_out_of_range() -> None:
    every, env = PolicyClass.all(2, 2, 2), gym.make("FiniteMDP-v0", horizon=2)
    with pytest.raises(ValueError, match=r"environment has H, S, A = \(2, 3, 2\)"):
        PSDP("TimePolicy", env, policies=every)
    every = PolicyClass.all(2, 3, 2)
    for roll_in, message in (
        (np.ones((2, 3)), r"roll_in has shape \(2, 3\), it must be \(2, 3, 2\)"),
        (np.ones((2, 3, 2)), "sums to 2.0"),
        (np.full((2, 3, 2), [1.5, -0.5]), "outside"),
    ):
        with pytest.raises(ValueError, match=message):
            PSDP("TimePolicy", env, policies=every, roll_in=roll_in)
    with pytest.raises(ValueError, match="UniformIS needs policies"):
        UniformIS("TimePolicy", env)
