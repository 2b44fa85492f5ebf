"""Rules that spend a budget over groups, and the optimum in hindsight."""

from __future__ import annotations

from itertools import product

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from palaestra.agents import (
    EqualSampling,
    HindsightSampling,
    ProportionalSampling,
    RandomSampling,
    WorstFirstSampling,
)
from palaestra.agents.data.hindsight_sampling import best_batches
from palaestra.agents.data.sampling import first_best, spend_budget

THREE = {"asymptotes": (0.9, 0.8, 0.7), "scales": (1.0, 2.0, 3.0), "noise": 0.0}
THREE |= {"start": 100, "spend": 50, "budget": 600}
GENOMES = {"mode": "prs", "markers": (5, 12, 30), "validation": 30, "test": 40}
GENOMES |= {"start": 20, "spend": 10, "budget": 70}


def bought(agent_class, **arguments):
    agent = agent_class("GroupPolicy", gym.make("EquitableSampling-v0", **arguments), seed=0)
    return agent.learn(agent.get_env().get_attr("core")[0].horizon)


def test_equal_samples_also_where_the_start_was_not():
    assert_array_equal(bought(EqualSampling, **THREE).samples, [[300, 300, 300]])
    uneven = bought(EqualSampling, **{**THREE, "start": (300, 100, 200)})
    assert_array_equal(uneven.samples, [[400, 400, 400]])
    assert uneven.policy.bought.tolist() == [2, 6, 4]


def test_samples_in_proportion_to_the_population():
    found = bought(ProportionalSampling, **THREE, population=(6, 2, 1))
    assert_array_equal(found.samples, [[600, 200, 100]])
    assert_allclose(found.policy.population, [6 / 9, 2 / 9, 1 / 9])
    assert_array_equal(bought(ProportionalSampling, **THREE).samples, [[300, 300, 300]])
    nobody = bought(ProportionalSampling, **THREE, population=(1, 0, 1))
    assert_array_equal(nobody.samples, [[400, 100, 400]])


def test_worst_first_buys_for_the_lowest_validation_performance():
    env = gym.make("EquitableSampling-v0", **{**THREE, "budget": 6_000})
    agent = WorstFirstSampling("GroupPolicy", env, seed=0)
    observation, info = env.reset(seed=0)
    for _ in range(30):
        group = int(agent.predict(observation)[0])
        assert info["performances"][group] == pytest.approx(info["performances"].min(), abs=1e-6)
        observation, _, _, _, info = env.step(group)
    assert agent.predict(observation, action_masks=[True, True, False])[0] != 2


def test_random_batches_are_uniform_over_what_is_allowed():
    env = gym.make("EquitableSampling-v0", **{**THREE, "spend": 1})
    agent = RandomSampling("GroupPolicy", env, seed=0).learn(600)
    assert_allclose(agent.policy.bought / 600, 1 / 3, atol=0.06)
    groups = agent.act(np.zeros((200, 13)), np.tile([False, True, True], (200, 1)))
    assert set(groups) == {1, 2}
    assert agent.predict(np.zeros(13), action_masks=[False, True, True])[0] == 1


def test_first_best_breaks_ties_to_the_lowest_and_never_takes_what_is_not_allowed():
    scores = np.array([[1.0, 2.0, 2.0], [np.inf, 0.0, -np.inf], [-np.inf, -np.inf, -np.inf]])
    assert_array_equal(first_best(scores, None), [1, 0, 0])
    masks = np.array([[True, False, True], [False, False, True], [False, True, True]])
    assert_array_equal(first_best(scores, masks), [2, 2, 1])


# -- hindsight -------------------------------------------------------------------------------------


@given(
    st.lists(st.lists(st.floats(-1, 1), min_size=1, max_size=4), min_size=1, max_size=3),
    st.integers(0, 8),
)
@settings(deadline=None)
def test_the_plan_is_the_best_of_all(worth, batches):
    worth = [np.array(values) for values in worth]
    spent = min(batches, sum(len(values) - 1 for values in worth))
    plan = best_batches(worth, batches)
    assert plan.sum() == spent
    best = max(
        sum(values[j] for values, j in zip(worth, counts, strict=True))
        for counts in product(*(range(len(values)) for values in worth))
        if sum(counts) == spent
    )
    value = sum(values[j] for values, j in zip(worth, plan, strict=True))
    assert value == pytest.approx(best, abs=1e-12)


def test_hindsight_ends_with_the_best_utility_and_no_rule_beats_it():
    env = gym.make("EquitableSampling-v0", **GENOMES)
    ends = []
    for counts in product(range(8), repeat=3):
        if sum(counts) == 7:
            env.reset(seed=3)
            for group in np.repeat([0, 1, 2], counts):
                info = env.step(int(group))[4]
            ends.append(info["utility"])
    best = spend_budget(HindsightSampling, env, seed=3)
    assert len(best) == 8 and best[-1] == pytest.approx(max(ends), abs=1e-9)
    for rule in (EqualSampling, ProportionalSampling, WorstFirstSampling, RandomSampling):
        assert spend_budget(rule, env, seed=3)[-1] <= best[-1] + 1e-9


def test_hindsight_goes_on_from_where_the_environment_is():
    env = gym.make("EquitableSampling-v0", **GENOMES)
    agent = HindsightSampling("GroupPolicy", env)
    vec = agent.get_env()
    vec.seed(3)
    observations = vec.reset()
    assert agent.predict(observations)[0].shape == (1,)
    with pytest.raises(ValueError, match="is not that of the 1 attached environments"):
        agent.predict(observations + 1)
    with pytest.raises(ValueError, match="hindsight needs the test performances"):
        agent.policy.predict(observations)
    rewards = [vec.step(np.array([0]))[1][0]]
    for _ in range(6):
        observations, reward, _, infos = vec.step(
            agent.predict(observations)[0] if rewards[1:] else agent.act(observations, None)
        )
        rewards.append(reward[0])
    core = env.unwrapped.core
    table = np.log(core.source.test_table({n: x[0] for n, x in core.tapes(1, 3).items()}))
    best = max(
        table[0, a] + table[1, b] + table[2, 7 - a - b]
        for a, b in product(range(1, 8), range(7))
        if a + b <= 7
    )
    assert infos[0]["utility"] == pytest.approx(best, abs=1e-9)


def test_hindsight_needs_its_environment_and_groups_that_do_not_help_each_other():
    with pytest.raises(ValueError, match="reads the test performances from the attached env"):
        HindsightSampling("GroupPolicy", gym.make("EquitableSampling-v0")).predict(np.zeros(9))
    helping = gym.make("EquitableSampling-v0", transfer=[[1, 0.5], [0.5, 1]])
    with pytest.raises(ValueError, match="groups help each other"):
        HindsightSampling("GroupPolicy", helping, seed=0).learn(1)
