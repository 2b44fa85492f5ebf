"""Greedy and lazy greedy: the same set, the guarantee, and the agents that walk."""

from __future__ import annotations

from itertools import combinations, product

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.evaluation import evaluate_policy

import palaestra
from palaestra.agents.heuristics.coverage import (
    greedy_set,
    lazy_greedy_set,
    members,
    path_upper_bound,
    tour_targets,
)
from palaestra.envs.coverage.set_functions import Coverage, InformationGain, ItemQuota
from palaestra.envs.coverage.submodular_coverage import SubmodularCoverage
from palaestra.wrappers.sb3 import make_sb3

AGENTS = ("GreedyCoverage", "GreedyTour")


def worth(function, chosen):
    return float(function.value(members(np.array(chosen, dtype=np.int64), function.elements))[0])


def make(kind, seed):
    rng = np.random.default_rng(seed)
    if kind == "coverage":
        views = [np.flatnonzero(rng.random(6) < 0.4) for _ in range(7)]
        return Coverage(views, rng.integers(0, 4, 6))
    if kind == "quota":
        groups = [rng.choice(7, rng.integers(1, 5), replace=False) for _ in range(3)]
        return ItemQuota(groups, rng.integers(0, 4, 3), 7)
    return InformationGain(rng.integers(0, 3, (7, 2)), length=rng.uniform(0.5, 2))


# -- sets ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("greedy", [greedy_set, lazy_greedy_set])
def test_worked_example(greedy):
    function = SubmodularCoverage(rows=3, cols=3, horizon=4).set_function
    chosen = greedy(function, 2)
    assert chosen.tolist() == [0, 4]
    assert worth(function, chosen) == 7
    assert max(worth(function, pair) for pair in combinations(range(9), 2)) == 7


@pytest.mark.parametrize("kind", ["coverage", "quota", "information"])
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), k=st.integers(1, 4))
def test_greedy_is_lazy_greedy_and_within_its_guarantee(kind, seed, k):
    function = make(kind, seed)
    chosen = greedy_set(function, k)
    assert lazy_greedy_set(function, k).tolist() == chosen.tolist()
    best = max(worth(function, some) for some in combinations(range(7), k))
    assert worth(function, chosen) >= (1 - (1 - 1 / k) ** k) * best - 1e-9
    assert 1 - (1 - 1 / k) ** k > 1 - 1 / np.e


@pytest.mark.parametrize("greedy", [greedy_set, lazy_greedy_set])
def test_ties_end_and_limits(greedy):
    function = Coverage([[0], [1], [0, 1], []], [1.0, 1.0])
    assert greedy(function, 10).tolist() == [2, 0, 1, 3]  # exhausted; ties to the smaller index
    assert greedy(function, 0).tolist() == []
    among = np.array([False, True, False, True])
    assert greedy(function, 3, among).tolist() == [1, 3]
    nothing = Coverage([[0], [0]], [0.0])
    assert greedy(nothing, 2).tolist() == [0, 1]
    with pytest.raises(ValueError, match="k=-1 must be an integer of at least 0"):
        greedy(function, -1)
    with pytest.raises(ValueError, match=r"among must be bool \[4\], got bool of shape \(3,\)"):
        greedy(function, 1, among[:3])


def test_lazy_greedy_looks_at_few_elements():
    class Counting(Coverage):
        looked = 0

        def gain(self, visited, element):
            type(self).looked += len(element)
            return super().gain(visited, element)

    rng = np.random.default_rng(0)
    views = [rng.choice(300, 20, replace=False) for _ in range(400)]
    function = Counting(views, rng.random(300))
    chosen = lazy_greedy_set(function, 15)
    assert chosen.tolist() == greedy_set(function, 15).tolist()
    assert Counting.looked < 400 * 15 / 4


@pytest.mark.parametrize("weights", ["constant", "sparse"])
def test_no_walk_exceeds_the_upper_bound(weights):
    for seed in range(3):
        core = SubmodularCoverage(3, 3, 5, weights=weights, instance=seed)
        actions = np.array(list(product(range(5), repeat=5)))
        tape = core.tapes(1, 0)
        state = core.initial({"start": np.repeat(tape["start"], len(actions))})
        for step in range(5):
            state = core.transition(state, actions[:, step], {})
        best = state["value"].max()
        bound = path_upper_bound(core.set_function, core.reachable(), 5)
        assert best <= bound + 1e-9
        assert bound <= worth(core.set_function, range(9)) + 1e-9
    with pytest.raises(ValueError, match="not monotone"):
        path_upper_bound(Coverage([[0]], [-1.0]), np.ones(1, bool), 3)


# -- agents ----------------------------------------------------------------------------------------


def episode(name, env, seed=0):
    """Elements visited and F of one episode."""
    agent = getattr(palaestra.agents, name)("HeuristicPolicy", env, seed=0)
    face = env.unwrapped
    observation, info = env.reset(seed=seed)
    ended = False
    while not ended:
        action, state = agent.predict(observation, deterministic=True)
        assert state is None and env.action_space.contains(action)
        observation, _, terminated, truncated, info = env.step(action)
        ended = terminated or truncated
    return face.state["path"][0].tolist(), float(info["set_value"])


def corridor(weights, start, horizon):
    return gym.make(
        "SubmodularCoverage-v0",
        rows=1,
        cols=len(weights),
        weights=[weights],
        start=start,
        horizon=horizon,
    )


def test_greedy_takes_what_is_near_and_the_tour_what_is_worth_most():
    weights = [0, 0, 0, 1, 0, 0, 0, 0, 100]
    assert episode("GreedyCoverage", corridor(weights, 4, 4)) == ([4, 3, 4, 5, 6], 1)
    path, value = episode("GreedyTour", corridor(weights, 4, 4))
    assert path[:4] == [4, 5, 6, 7] and value == 100


def test_greedy_walks_towards_what_it_cannot_reach_in_one_step():
    path, value = episode("GreedyCoverage", corridor([0, 0, 0, 0, 0, 5], 0, 4))
    assert path == [0, 1, 2, 3, 4] and value == 5


@pytest.mark.parametrize("name", AGENTS)
def test_where_there_is_nothing_to_gain_the_agent_stays(name):
    path, value = episode(name, corridor([0, 0, 0], 1, 3))
    assert path == [1, 1, 1, 1] and value == 0


def test_the_tour_takes_the_number_of_targets_that_pays():
    core = SubmodularCoverage(
        weights=[[1, 0, 0, 0, 3, 0, 0, 9]], rows=1, cols=8, start=3, horizon=4
    )
    # Greedy names cell 6 (it sees 7) first, then cell 3; nearest first would waste no step on 3.
    targets = tour_targets(core, np.int64(3))
    assert targets[6] and not targets[0]


@pytest.mark.parametrize("name", AGENTS)
@pytest.mark.parametrize(
    ("id_", "arguments"),
    [
        ("SubmodularCoverage-v0", {"rows": 8, "cols": 8, "horizon": 20, "weights": "sparse"}),
        ("SubmodularCoverage-v0", {"layout": "two_rooms", "horizon": 20, "slip": 0.1}),
        ("ItemCollection-v0", {"rows": 8, "cols": 8, "horizon": 15}),
        ("InformativePath-v0", {"rows": 6, "cols": 6, "horizon": 10}),
        ("ExperimentDesign-v0", {"rows": 5, "cols": 5, "horizon": 6}),
        ("GraphCoverage-v0", {"horizon": 10}),
        ("ContinuousCoverage-v0", {"rows": 8, "cols": 8, "horizon": 12, "noise": 0.1}),
        ("CarCoverage-v0", {"track": "oval", "horizon": 40}),
    ],
)
def test_agents_do_better_than_chance_everywhere(name, id_, arguments):
    env = gym.make(id_, **arguments)
    core = env.unwrapped.core
    _, value = episode(name, env)
    tape = core.tapes(50, 100)
    state = core.initial(tape)
    core.action_space.seed(0)
    for _ in range(core.horizon):
        actions = np.stack([core.action_space.sample() for _ in range(50)])
        state = core.transition(state, core.check_action(actions, state), tape)
    assert value > 1.15 * state["value"].mean()


def test_the_greedy_agent_on_a_design_takes_the_greedy_set():
    env = gym.make("ExperimentDesign-v0", rows=4, cols=4, horizon=3)
    path, value = episode("GreedyCoverage", env)
    function = env.unwrapped.core.set_function
    visited, chosen = members(np.array([0]), 16), [0]
    for _ in range(3):
        chosen.append(int(np.round(function.gains(visited)[0], 10).argmax()))
        visited[0, chosen[-1]] = True
    assert path == chosen
    assert value == pytest.approx(worth(function, chosen))


@pytest.mark.parametrize("name", AGENTS)
def test_agents_play_in_native_vectors(name):
    arguments = {"rows": 6, "cols": 6, "horizon": 10, "weights": "sparse"}
    agent = getattr(palaestra.agents, name)(
        "HeuristicPolicy", make_sb3("SubmodularCoverage-v0", 4, seed=0, **arguments)
    )
    agent.learn(80)
    mean, deviation = evaluate_policy(agent, agent.get_env(), n_eval_episodes=4, warn=False)
    env = gym.make("SubmodularCoverage-v0", **arguments)
    _, value = episode(name, env)
    assert mean == pytest.approx(value - env.unwrapped.core.singles[0], abs=1e-5)
    assert deviation == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", AGENTS)
def test_what_cannot_be_looked_into_is_refused(name):
    env = gym.make("SubmodularCoverage-v0", rows=3, cols=3, horizon=3)
    agent = getattr(palaestra.agents, name)("HeuristicPolicy", env)
    observation, _ = env.reset(seed=0)
    with pytest.raises(ValueError, match="is not that of the 1 attached environments"):
        agent.predict(np.roll(observation, 1))
    with pytest.raises(ValueError, match="attach a coverage environment of arrays"):
        getattr(palaestra.agents, name)("HeuristicPolicy", "CartPole-v1").learn(1)
    assert agent.paper is None and agent.claim is None and agent.oracle
