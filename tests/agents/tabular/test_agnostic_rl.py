"""Spanning capacity and POPLER: the worked example, exact values, and petals."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from palaestra.agents import POPLER
from palaestra.agents.base.finite_horizon import Trajectories
from palaestra.agents.base.policy_class import PolicyClass, first_departures
from palaestra.agents.tabular import agnostic_rl as system
from palaestra.agents.tabular.agnostic_rl import (
    Visits,
    policy_value,
    reach_counts,
    segment_weights,
    spanning_capacity,
    stops_at,
)
from palaestra.envs.tabular.planning.finite_horizon import evaluate
from palaestra.lab.statistics import judge
from palaestra.wrappers.sb3 import make_sb3

CORE = np.array([[[0, 0], [0, 0]], [[1, 1], [0, 0]], [[0, 0], [1, 1]]])
POLICY = np.array([[0, 0], [1, 0]])  # 1 only at step 1 in state 0
PETAL = np.array([[False, False], [True, False]])
CONSTANT = np.array([[[0, 0], [0, 0]], [[1, 1], [1, 1]]])


def episodes(*given) -> Trajectories:
    """From lists of (step, state, action, reward); what comes before a first step does not
    matter."""
    states, actions = np.zeros((len(given), 3), int), np.ones((len(given), 2), int)
    rewards = np.full((len(given), 2), 7.0)
    for row, steps in enumerate(given):
        for h, s, a, r in steps:
            states[row, h], actions[row, h], rewards[row, h] = s, a, r
    return Trajectories(states, actions, rewards)


TOP = episodes(
    [(0, 0, 0, 0), (1, 0, 0, 0.2)],
    [(0, 0, 0, 0), (1, 1, 0, 0.5)],
    [(0, 0, 1, 0), (1, 0, 0, 0.1)],
    [(0, 0, 0, 0.1), (1, 1, 1, 1)],
)
FROM_PETAL = episodes([(1, 0, 1, 1.0)], [(1, 0, 0, 0)], [(1, 0, 1, 0.8)])


def garnet(layers=3, states=2, num_envs=100, instance=0, **changes):
    return make_sb3(
        "Garnet-v0",
        **{"num_envs": num_envs, "layers": layers, "states": states, "actions": 2},
        **{"branching": None, "start": 0, "instance": instance, **changes},
    )


def exact_values(env, members):
    core = env.get_attr("core")[0]
    return evaluate(core.P, core.R, members.policies)[:, 0] @ core.d0


# -- the worked example ---------------------------------------------------------------------------


def test_worked_example_spanning_capacity() -> None:
    assert spanning_capacity(PolicyClass.singletons(2, 2)) == (3, 3)
    assert spanning_capacity(PolicyClass.all(2, 2, 2)) == (4, 4)
    assert spanning_capacity(CONSTANT) == (2, 2)


def test_worked_example_reach_counts() -> None:
    cells = PolicyClass.singletons(2, 2).policies
    assert reach_counts(cells, 0, [[0, 1], [1, 1]]).tolist() == [2, 3]


def test_worked_example_segment_weights() -> None:
    for action, weight in ((0, 1.5), (1, 0.0)):
        seen = episodes([(0, 0, action, 0), (1, 0, 0, 0)])
        departures = first_departures(np.stack([POLICY, *CORE]), seen)
        assert segment_weights(departures[0], departures[1:], np.array([1])) == [weight]


def test_worked_example_value_over_a_petal() -> None:
    top, petal = Visits(TOP, CORE), Visits(FROM_PETAL, CORE, 1)
    reward, shares = top.transfer(POLICY, PETAL)
    assert_allclose(shares, [[0, 0], [0.375, 0]], atol=1e-12)
    assert reward == pytest.approx(0.375)
    assert petal.transfer(POLICY, PETAL)[0] == pytest.approx(1.8)
    assert policy_value(POLICY, PETAL, {None: top, (1, 0): petal}) == pytest.approx(1.05)
    # Without a visit a petal is worth nothing.
    assert policy_value(POLICY, PETAL, {None: top}) == pytest.approx(0.375)


# -- the paper's computation ----------------------------------------------------------------------


def reached_by_walking(policies, start, following):
    """Pairs per step, policy by policy."""
    pairs = [set() for _ in range(policies.shape[1])]
    for policy in policies:
        state = start
        for h, row in enumerate(policy):
            pairs[h].add((state, row[state]))
            if h < len(following):
                state = following[h][state][row[state]]
    return [len(step) for step in pairs]


@settings(deadline=None, max_examples=8)
@given(st.integers(0, 10_000))
def test_capacity_is_the_most_that_any_deterministic_world_shows(seed) -> None:
    rng = np.random.default_rng(seed)
    policies = rng.integers(2, size=(int(rng.integers(1, 6)), 2, 3))
    best = 0
    for cells in product(range(3), repeat=6):
        following = np.array(cells).reshape(1, 3, 2)
        for start in range(3):
            counts = reach_counts(policies, start, following).tolist()
            assert counts == reached_by_walking(policies, start, following)
            best = max(best, *counts)
    assert spanning_capacity(policies, actions=2) == (best, best)


def test_capacity_beyond_the_limit_is_bounded() -> None:
    cells = PolicyClass.singletons(14, 3)
    assert spanning_capacity(cells) == (2, 6)  # min(2^14, 42, 6)
    assert spanning_capacity(PolicyClass.singletons(2, 2), limit=31) == (2, 4)
    assert spanning_capacity(PolicyClass.singletons(2, 2), limit=32) == (3, 3)
    # Sequences reach one pair per sequence, so their capacity is that of a tree.
    assert spanning_capacity(PolicyClass.open_loop(2, 4, 2)) == (4, 4)


def test_stops_come_after_the_first_state() -> None:
    is_petal = np.array([[True, False], [False, True], [True, False]])
    seen = Trajectories(
        np.array([[0, 1, 0, 0], [0, 0, 1, 0]]), np.zeros((2, 3), int), np.zeros((2, 3))
    )
    assert stops_at(is_petal, seen, 0).tolist() == [1, 3]
    assert stops_at(is_petal, seen, 1).tolist() == [2, 3]
    assert stops_at(is_petal, seen, 2).tolist() == [3, 3]


def test_a_segment_that_nothing_explains_is_an_error() -> None:
    seen = episodes([(0, 0, 0, 0), (1, 0, 1, 0)])
    departures = first_departures(np.stack([POLICY, *CORE[:2]]), seen)
    with pytest.raises(ValueError, match="no core policy plays what the policy plays in episode 0"):
        segment_weights(departures[0], departures[1:], np.array([2]))


# -- the agent ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "members",
    [PolicyClass.singletons(3, 2), PolicyClass.one_active(3, 2), PolicyClass.open_loop(3, 2, 2)],
    ids=["singletons", "one_active", "open_loop"],
)
def test_estimates_approach_the_exact_values(members) -> None:
    env = garnet(num_envs=500, instance=5)
    agent = POPLER("TimePolicy", env, policies=members, seed=0).learn(3 * 30_000)
    exact = exact_values(env, members)
    assert np.abs(agent.values - exact).max() < 0.06 < np.ptp(exact)
    best = members.policies[agent.values.argmax()]
    assert_array_equal(agent.probabilities.argmax(axis=2), best)
    assert exact[agent.values.argmax()] > exact.max() - 0.05


def test_half_of_the_episodes_start_at_the_top_and_the_rest_at_petals() -> None:
    agent = POPLER("TimePolicy", garnet(), policies=PolicyClass.singletons(3, 2), seed=0)
    agent.learn(3 * 4_000)
    visits = agent._visits()
    # What starts at a petal of the first step starts at the top.
    assert agent.places == [(1, 0), (1, 1), (2, 0), (2, 1)]
    assert agent.guides.tolist() == [2, 3, 4, 5]
    assert len(visits[None].episodes.actions) == 2_000
    assert agent._metrics["train/reached_petals"] == 4
    for (h, s), at in [(x, at) for x, at in visits.items() if x is not None]:
        assert at.start == h and (at.episodes.states[:, h] == s).all()
        # Before the petal the guide plays 0, from there on a core policy that is often another.
        assert (at.episodes.actions[:, :h] == 0).all()
        assert (at.core_departures == 3).any(axis=0).all()
        assert 100 < len(at.episodes.actions) < 400  # of 500 that were sent
        assert at.episodes.actions[:, h].mean() == pytest.approx(0.25, abs=0.1)


def test_a_petal_is_reached_through_another() -> None:
    # State 1 at the last step comes after action 1 at the first two, in state 0.
    P = np.zeros((2, 2, 2))
    P[0, 0, 0] = 1.0
    P[0, 1], P[1, :, 1] = [0.5, 0.5], 1.0
    world = {"P": P, "low": [[[0.0]], [[1.0]]], "d0": 0, "horizon": 4}
    env = make_sb3("FiniteMDP-v0", num_envs=100, **world)
    members = PolicyClass.one_active(4, 2, active=0)
    agent = POPLER("TimePolicy", env, policies=members, seed=0).learn(4 * 3_000)
    exact = exact_values(env, members)
    assert np.abs(agent.values - exact).max() < 0.35
    assert agent.values.argmax() in (14, 15) and exact[14] == exact.max() == 2.125
    for place, guide in zip(agent.places, agent.guides, strict=True):
        assert guide >= 0 and place in members.petals[guide]


def test_a_class_without_petals_is_weighed_from_the_top_alone() -> None:
    members = PolicyClass.open_loop(3, 2, 2)
    agent = POPLER("TimePolicy", garnet(), policies=members, seed=0).learn(3 * 400)
    assert agent.guides.shape == (0,)
    seen = agent._visits()[None].episodes
    plays = (seen.actions == members.policies[:, None, :, 0]).all(axis=2)
    assert_allclose(agent.values, 8 * plays @ seen.rewards.sum(axis=1) / 400)


def test_petals_out_of_reach_leave_their_episodes_to_others() -> None:
    # Everything leads to state 0, so that nothing can be seen of state 1 after the first step.
    P = np.zeros((2, 2, 2))
    P[..., 0] = 1.0
    world = {"P": P, "low": [[[0.0], [1.0]], [[0.0], [5.0]]], "d0": 0, "horizon": 3}
    members = PolicyClass.singletons(3, 2)
    env = make_sb3("FiniteMDP-v0", num_envs=50, **world)
    agent = POPLER("TimePolicy", env, policies=members, seed=0).learn(3 * 2_000)
    assert agent.guides.tolist() == [2, -1, 4, -1]
    assert {x: len(at.episodes.actions) for x, at in agent._visits().items()} == {
        **{None: 1_000, (1, 0): 500, (2, 0): 500}
    }
    assert_allclose(agent.values, exact_values(env, members), atol=0.3)
    assert (agent.values[[1, 3, 5]] == agent.values[1]).all()


def test_what_was_seen_before_stays_in_use() -> None:
    agent = POPLER("TimePolicy", garnet(), policies=PolicyClass.singletons(3, 2), seed=0)
    agent.learn(3 * 400)
    first = agent.values.copy()
    agent.learn(3 * 400, reset_num_timesteps=False)
    assert agent.num_timesteps == 2_400 and agent.episodes == 800
    assert len(agent._visits()[None].episodes.actions) == 400
    assert (agent.values != first).any()


def test_arguments_out_of_range() -> None:
    cells, env = PolicyClass.singletons(3, 2), garnet(num_envs=1)
    for arguments, message in (
        ({}, "POPLER needs policies=..., a class to choose from"),
        ({"policies": cells.policies}, "POPLER needs a sunflower"),
        ({"policies": PolicyClass.singletons(2, 2)}, r"policies for H, S = \(2, 2\)"),
        ({"policies": 2 * cells.policies}, "with actions up to 2"),
        ({"policies": cells, "epsilon": 0.0}, "epsilon must be above 0"),
    ):
        with pytest.raises(ValueError, match=message):
            POPLER("TimePolicy", env, **arguments)
    with pytest.raises(ValueError, match=r"a table needs observations in Discrete\(n\)"):
        POPLER("TimePolicy", garnet(observation="onehot"), policies=cells)


# -- the claim ------------------------------------------------------------------------------------


def test_arms_report_what_the_claim_judges() -> None:
    claim = POPLER.claim
    found = {name: arm(100, 0.05).metrics for name, arm in claim.arms.items()}
    values = {name: {k: [v] * 2 for k, v in x.items()} for name, x in found.items()}
    for criterion in claim.criteria:
        assert np.isfinite(judge(criterion, values).estimate)
    for metrics in found.values():
        assert metrics.keys() == {"error", "gap", "error, 8 layers", "gap, 8 layers"}
        assert all(0 <= value for value in metrics.values())
    assert system.CLAIM_EPISODES == 6_000
