"""Demonstration-regularised learning: the worked example, bounds, the agents, edge cases."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from palaestra.agents import UCBVI, DemoRegularizedRL
from palaestra.agents.base.finite_horizon import backward, gap
from palaestra.agents.base.recorded_episodes import roll_out, to_dataset
from palaestra.agents.tabular.demonstration_regularized import gap_bounds
from palaestra.agents.tabular.trajectory_cloning import cloned
from palaestra.envs.tabular.planning.finite_horizon import evaluate
from palaestra.envs.tabular.planning.robust_sets import soft

VISITS = np.array([[[3, 0], [0, 0]], [[1, 2], [4, 1]]])
P = np.array([[[1, 0], [0.2, 0.8]], [[0.5, 0.5], [0, 1]]])
R = np.array([[[0.1, 0], [0, 0.2]], [[0, 0.5], [1, 0]]])


def garnet(instance=100, **arguments):
    shape = {"states": 4, "actions": 3, "branching": 2, "horizon": 5, "start": 0}
    return gym.make("Garnet-v0", **{**shape, **arguments}, instance=instance)


def demonstrated(env, episodes, seed=0):
    core = env.unwrapped.core
    best = np.eye(core.actions)[core.plan(1.0).policy]
    return to_dataset(roll_out(core, best, episodes, seed), env)


def known(env):
    core = env.unwrapped.core
    return np.broadcast_to(core.R, (core.horizon, core.states, core.actions))


def certain(agent, core):
    """Give the agent counts from which it must find the transitions as they are."""
    agent.counts.next_states[:] = np.round(core.P * 10**6).astype(np.int64)
    agent.counts.rewards[:] = core.R * agent.counts.visits
    return agent


# -- the worked example ---------------------------------------------------------------------------


def test_worked_example_of_the_soft_value() -> None:
    values, reference = np.array([1.0, 0.5]), np.array([0.8, 0.2])
    assert soft(values, reference, 2.0)[0] == pytest.approx(0.932420, abs=1e-6)
    assert_allclose(soft(values, reference, 2.0)[1], [0.915776, 0.084224], atol=1e-6)


def test_worked_example_of_soft_planning() -> None:
    reference = cloned(VISITS)
    transitions = np.broadcast_to(P, (2, 2, 2, 2))
    action_values, values = backward(
        transitions, R, np.array([2.0, 1.0]), lambda h, q: soft(q, reference[h], 2.0)[0]
    )
    assert_allclose(values[0], [0.531340, 0.881569], atol=1e-6)
    assert_allclose(values[1], [0.354257, 0.858124], atol=1e-6)
    laws = soft(action_values, reference, 2.0)[1]
    assert_allclose(laws[0], [[0.685703, 0.314297], [0.288256, 0.711744]], atol=1e-6)
    assert_allclose(evaluate(P[None], R, laws)[0], [0.607662, 1.012139], atol=1e-6)
    assert_allclose(evaluate(P[None], R, reference)[0], [0.446286, 0.710714], atol=1e-6)


def test_worked_example_is_what_the_agent_plans() -> None:
    env = gym.make("FiniteMDP-v0", P=np.stack([P, P]), low=R[..., None], horizon=2)
    agent = DemoRegularizedRL(
        "TimePolicy", env, kl_coefficient=0.5, reference=cloned(VISITS), rewards=R, seed=0
    )
    values = certain(agent, env.unwrapped.core).plan(0.0)
    assert_allclose(values, [0.531340, 0.881569], atol=1e-6)
    found = agent.probabilities[0]
    assert_allclose(found, [[0.685703, 0.314297], [0.288256, 0.711744]], atol=1e-6)


# -- soft values ----------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.floats(1e-3, 100.0))
def test_the_soft_maximum_is_the_best_penalised_value(seed, kl_coefficient) -> None:
    rng = np.random.default_rng(seed)
    values, reference = rng.standard_normal(4), rng.dirichlet(np.ones(4))
    found, best = soft(values, reference, 1 / kl_coefficient)

    def penalised(laws):
        kl = (laws * np.log(np.maximum(laws, 1e-300) / reference)).sum()
        return laws @ values - kl_coefficient * kl

    assert penalised(best) == pytest.approx(found)
    for laws in (reference, *rng.dirichlet(np.ones(4), 20)):
        assert penalised(laws) <= found + 1e-9


def test_a_tiny_penalty_is_the_hard_maximum_and_a_huge_one_the_reference() -> None:
    values, reference = np.array([1.0, 3.0, 2.0]), np.array([0.5, 0.25, 0.25])
    for tiny in (1e-9, 1e-307):
        value, laws = soft(values, reference, 1 / tiny)
        assert value == pytest.approx(3.0)
        assert_allclose(laws, [0, 1, 0])
    value, laws = soft(values, reference, 1e-9)
    assert value == pytest.approx(reference @ values)
    assert_allclose(laws, reference)


def test_an_action_that_the_reference_excludes_counts_for_nothing() -> None:
    values, reference = np.array([5.0, 3.0, 2.0]), np.array([0.0, 0.5, 0.5])
    value, laws = soft(values, reference, 1e9)
    assert laws.tolist() == [0, 1, 0]
    assert value == pytest.approx(3.0)


# -- the bound on what may be lost ----------------------------------------------------------------


def test_worked_example_of_the_gap_bound() -> None:
    # One state: G_2 = 2 b, G_1 = 2 b + pi G_2 + max G_2^2 / (2 lambda).
    bonuses = np.array([[[0.05, 0.1]], [[0.1, 0.2]]])
    laws = np.array([[[0.5, 0.5]], [[0.75, 0.25]]])
    found = gap_bounds(np.ones((2, 1, 2, 1)), bonuses, laws, np.array([2.0, 1.0]), 0.5)
    assert_allclose(found[1, 0], [0.2, 0.4])
    following = 0.75 * 0.2 + 0.25 * 0.4 + 0.4**2 / (2 * 0.5)
    assert_allclose(found[0, 0], [0.1 + following, 0.2 + following])
    capped = gap_bounds(np.ones((2, 1, 2, 1)), bonuses + np.inf, laws, np.array([2.0, 1.0]), 0.5)
    assert_allclose(capped[:, 0], [[2, 2], [1, 1]])


def test_learning_ends_when_the_bound_is_below_the_target() -> None:
    env = garnet()
    arguments = {"kl_coefficient": 1.0, "bonus": 0.01, "seed": 0, "rewards": known(env)}
    agent = DemoRegularizedRL("TimePolicy", demonstrated(env, 20), target=1.0, **arguments)
    agent.learn(5 * 2_000)
    assert agent.gap_bound <= 1.0
    assert agent.num_timesteps < 5 * 2_000
    assert agent.exhausted()
    before = agent.num_timesteps
    assert agent.learn(5, reset_num_timesteps=False).num_timesteps == before


# -- the agent ------------------------------------------------------------------------------------


def test_it_starts_as_the_clone_and_ends_better_than_it() -> None:
    env = garnet()
    core = env.unwrapped.core
    data = demonstrated(env, 5)
    agent = DemoRegularizedRL("TimePolicy", data, bonus=0.05, rewards=known(env), seed=0)
    clone = agent.probabilities.copy()
    assert_allclose(clone, agent.expert)
    agent.learn(5 * 150)
    assert gap(core, agent.probabilities) < 0.5 * gap(core, clone)


def test_with_certain_estimates_it_plans_around_the_reference() -> None:
    env = garnet()
    core = env.unwrapped.core
    agent = certain(DemoRegularizedRL("TimePolicy", demonstrated(env, 3), seed=0), core)
    agent.kl_coefficient = 1e-6
    agent.plan(0.0)
    assert gap(core, agent.probabilities) == pytest.approx(0.0, abs=1e-4)
    agent.kl_coefficient = 1e6
    agent.plan(0.0)
    assert_allclose(agent.probabilities, agent.expert, atol=1e-4)


def test_without_demonstrations_it_is_regularised_by_entropy() -> None:
    agent = DemoRegularizedRL("TimePolicy", garnet(), seed=0)
    assert_allclose(agent.expert, 1 / 3)
    agent.learn(5 * 20)
    assert_allclose(agent.expert, 1 / 3)
    assert agent.probabilities.max() > 0.9


def test_a_vanishing_penalty_makes_it_ucbvi() -> None:
    env = garnet()
    setting = {"bonus": 0.05, "rewards": known(env), "seed": 0}
    # Ties, which UCBVI gives to the lowest action, are split: so rewards without any.
    agent = DemoRegularizedRL("TimePolicy", env, kl_coefficient=1e-9, deviates=False, **setting)
    other = UCBVI("TimePolicy", garnet(), **setting).learn(5 * 50)
    agent.counts = other.counts
    agent.plan(0.0)
    other.plan(0.0)
    states = agent.counts.visits.min(axis=-1) > 0
    assert states.any()
    assert_allclose(agent.probabilities[states], other.probabilities[states], atol=1e-6)


def test_an_episode_leaves_the_policy_at_most_once_where_the_bounds_disagree() -> None:
    agent = DemoRegularizedRL("TimePolicy", garnet(), seed=0)
    horizon, states, _ = agent.shape
    agent.probabilities[:] = np.eye(3)[0]
    agent.widest = np.full((horizon, states), 2)
    here = np.zeros(6_000, dtype=np.int64)
    played = np.stack([agent.choose(here, step) for step in range(horizon)], axis=1)
    leaves = played == 2
    assert ((played == 0) | leaves).all()
    assert leaves.sum(axis=1).max() == 1
    # Each of the H steps, and none at all, has the probability 1 / (H + 1).
    shares = [*leaves.mean(axis=0), (~leaves).all(axis=1).mean()]
    assert_allclose(shares, 1 / (horizon + 1), atol=0.02)
    agent.deviates = False
    assert (agent.choose(here, 0) == 0).all()


def test_the_widest_action_is_the_one_hardly_known() -> None:
    env = garnet()
    agent = certain(DemoRegularizedRL("TimePolicy", env, bonus=0.1, seed=0), env.unwrapped.core)
    agent.counts.next_states[2, 1, 1] = 0
    agent.counts.next_states[2, 1, 1, 0] = 1
    agent.counts.rewards[2, 1, 1] = 0.5
    agent.plan(agent.bonuses())
    assert agent.widest[2, 1] == 1
    upper, lower = agent.estimate(agent.bonuses())[0], agent.lower_estimate(agent.bonuses())
    assert (upper >= lower).all()
    assert (lower >= 0).all()


def test_new_demonstrations_take_the_place_of_old_ones() -> None:
    env = garnet()
    agent = DemoRegularizedRL("TimePolicy", demonstrated(env, 2), seed=0)
    agent.set_env(demonstrated(env, 30, seed=50))
    again = DemoRegularizedRL("TimePolicy", demonstrated(env, 30, seed=50), seed=0)
    assert_allclose(agent.expert, again.expert)


def test_a_loaded_agent_keeps_its_clone_without_the_data(tmp_path) -> None:
    env = garnet()
    agent = DemoRegularizedRL("TimePolicy", demonstrated(env, 4), seed=0).learn(5 * 10)
    agent.save(tmp_path / "agent")
    loaded = DemoRegularizedRL.load(tmp_path / "agent", env=env)
    assert_allclose(loaded.expert, agent.expert)
    loaded.learn(5, reset_num_timesteps=False)
    assert_allclose(loaded.expert, agent.expert)


# -- edge cases -----------------------------------------------------------------------------------


def test_arguments_out_of_range() -> None:
    env = garnet()
    for wrong in (0, -0.1):
        with pytest.raises(ValueError, match="kl_coefficient"):
            DemoRegularizedRL("TimePolicy", env, kl_coefficient=wrong)
    with pytest.raises(ValueError, match="target"):
        DemoRegularizedRL("TimePolicy", env, target=-1.0)
    with pytest.raises(ValueError, match=r"reference has shape \(4, 3\), it must be"):
        DemoRegularizedRL("TimePolicy", env, reference=np.full((4, 3), 1 / 3))
    with pytest.raises(ValueError, match="probabilities must sum to 1"):
        DemoRegularizedRL("TimePolicy", env, reference=np.ones((5, 4, 3)))


def test_demonstrations_of_another_horizon_are_an_error() -> None:
    data = demonstrated(garnet(horizon=4), 3)
    other = type(data)(
        data.observations, data.actions, terminations=data.terminations, env=garnet()
    )
    with pytest.raises(ValueError, match=r"5 steps \(horizon\), number 0 has 4"):
        DemoRegularizedRL("TimePolicy", other)


def test_an_action_that_a_reference_excludes_is_never_played() -> None:
    env = garnet()
    reference = np.full((5, 4, 3), [0.0, 0.5, 0.5])
    with pytest.warns(UserWarning, match="never plays 20 actions, such as 0 in state 0 at step 0"):
        agent = DemoRegularizedRL("TimePolicy", env, reference=reference, seed=0)
    agent.learn(5 * 40)
    assert agent.counts.visits[:, :, 0].sum() == 0
    assert (agent.probabilities[:, :, 0] == 0).all()


def test_a_world_without_a_horizon_is_refused() -> None:
    with pytest.raises(ValueError, match="needs an environment with a horizon"):
        DemoRegularizedRL("TimePolicy", gym.make("FiniteMDP-v0"))
