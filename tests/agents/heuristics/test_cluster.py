"""Rules for clusters against worked numbers, each other, and the optimum."""

from __future__ import annotations

import itertools

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palaestra.agents import (
    BeamMigration,
    FilterBestFit,
    GreedyMigration,
    MIPMigration,
    SwapMigration,
)
from palaestra.agents.heuristics.cluster import seen_cluster
from palaestra.agents.heuristics.cluster_mip import mip_plan, solve
from palaestra.agents.heuristics.cluster_plans import (
    applied,
    beam_plan,
    filter_best_fit_plan,
    fragments_after,
    greedy_plan,
    leaving_gains,
    swap_plan,
)
from palaestra.envs.cluster.generator import data_centre
from palaestra.envs.cluster.mapping import Mapping
from palaestra.envs.cluster.moves import gains
from palaestra.envs.cluster.vm_rescheduling import VMRescheduling

RULES = (GreedyMigration, FilterBestFit, SwapMigration, BeamMigration, MIPMigration)


def single_node(capacity, vms, conflicts=()):
    """Machines with one node; `vms`: (machine, cores)."""
    cores = np.array([[each, 0] for each in capacity])
    owner, size = (np.array(part) for part in zip(*vms, strict=True))
    return Mapping(cores, 9 * cores, size, size, owner, 0 * owner, np.array(conflicts))


def cluster_of(mapping, **arguments):
    core = VMRescheduling(mappings=mapping, **arguments)
    return core.initial(core.tapes(1, 0))


# Free 24 and 8 cores; no single move gains, moving both VMs of machine 0 frees two blocks of 16.
PLATEAU = single_node([32, 32], [(0, 4), (0, 4), (1, 12), (1, 12)])


def test_worked_example_greedy_stops_and_looking_ahead_does_not():
    cluster = cluster_of(PLATEAU)
    assert gains(cluster, 1)[0].max() == 0
    assert greedy_plan(cluster, 6) == filter_best_fit_plan(cluster, 6) == []
    for plan in (swap_plan(cluster, 6), beam_plan(cluster, 6), beam_plan(cluster, 6, width=None)):
        assert sorted(plan) == [(0, 1), (1, 1)]
        assert fragments_after(cluster, plan) == 0
    assert swap_plan(cluster, 1) == beam_plan(cluster, 1) == []


def test_worked_example_one_move_is_found_by_all():
    cluster = cluster_of(single_node([16, 32], [(0, 4), (1, 12)]))
    for find in (greedy_plan, filter_best_fit_plan, swap_plan, beam_plan):
        assert find(cluster, 6) == [(0, 1)]
    assert find(cluster, 0) == []


def test_ties_go_to_the_lowest_indices():
    mapping = single_node([16, 16, 32, 32], [(0, 4), (1, 4), (2, 12), (3, 12)])
    cluster = cluster_of(mapping)
    # Free 12, 12, 20, 20: the first two VMs leave a block behind, and so do 12 cores that fill 12.
    assert gains(cluster, 1)[0].tolist() == [
        [0, 16, 16, 16],
        [16, 0, 16, 16],
        [16, 16, 0, 0],
        [16, 16, 0, 0],
    ]
    assert greedy_plan(cluster, 1) == [(0, 1)]


def test_filtering_takes_the_vm_that_leaves_most_and_fits_it_tightly():
    # Free 12, 20 and 4 cores.
    mapping = single_node([16, 32, 16], [(0, 4), (1, 12), (2, 12)])
    cluster = cluster_of(mapping)
    assert leaving_gains(cluster).tolist() == [12, 4, 4]
    # On machine 1 as on machine 2 it makes 12 + 4 fragments go away; on machine 2 it fits exactly.
    assert filter_best_fit_plan(cluster, 1) == [(0, 2)]
    assert greedy_plan(cluster, 1) == [(0, 1)]


def test_a_swap_is_found_where_no_single_move_gains():
    # Free 12 and 4 cores; the 8 and the 4 change places: 16 and 0.
    cluster = cluster_of(single_node([20, 8], [(0, 8), (1, 4)]))
    assert greedy_plan(cluster, 2) == []
    assert swap_plan(cluster, 2) == beam_plan(cluster, 2) == [(1, 0), (0, 1)]
    assert fragments_after(cluster, [(1, 0), (0, 1)]) == 0


def exhaustive(cluster, budget):
    """Fewest fragments over all sequences of moves, by brute force."""
    best = fragments_after(cluster, [])
    if budget:
        for step in np.argwhere(cluster["legal"][0]):
            after = applied(cluster, tuple(step))
            if (after["owner"] != cluster["owner"]).any():
                best = min(best, exhaustive(after, budget - 1))
    return best


def tiny(seed, machines=3, conflicts=0.1):
    """A small cluster with sizes that leave something to gain."""
    rng = np.random.default_rng(seed)
    vms = [(int(rng.integers(machines)), int(rng.choice([2, 4, 8, 12]))) for _ in range(6)]
    used = np.bincount([vm[0] for vm in vms], [vm[1] for vm in vms], minlength=machines)
    capacity = used.astype(int) + rng.integers(4, 20, machines)
    pairs = [
        pair
        for pair in itertools.combinations(range(6), 2)
        if vms[pair[0]][0] != vms[pair[1]][0] and rng.random() < conflicts
    ]
    return single_node(capacity, vms, pairs)


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10_000))
def test_all_plans_of_a_tiny_cluster_have_the_optimum_among_them(seed):
    cluster = cluster_of(tiny(seed))
    best = exhaustive(cluster, 2)
    assert fragments_after(cluster, beam_plan(cluster, 2, width=None)) == best
    assert fragments_after(cluster, swap_plan(cluster, 2)) == best


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000), st.booleans(), st.sampled_from([0.0, 0.1]))
def test_the_program_bounds_the_beam_and_the_beam_bounds_greedy(seed, extended, conflicts):
    pytest.importorskip("ortools")
    mapping = data_centre(np.random.default_rng(seed), pms=3, load=0.7, anti_affinity=conflicts)
    cluster, choices = cluster_of(mapping, extended=extended), 1 + extended
    solved = solve(cluster, 3, choices, effort=1.0)
    left = [
        fragments_after(cluster, find(cluster, 3, choices), choices)
        for find in (beam_plan, greedy_plan)
    ]
    ordered = fragments_after(cluster, mip_plan(cluster, 3, choices, effort=1.0), choices)
    assert solved.bound <= solved.fragments
    assert solved.bound <= left[0] <= left[1] <= mapping.fragments
    assert solved.bound <= ordered <= left[1]
    # What the program returns is a mapping that holds, with few changes.
    there = slice(0, len(mapping.cores))
    found = mapping.moved(solved.owner[there], solved.node[there])
    assert found.fragments == solved.fragments
    assert ((found.owner != mapping.owner) | (found.node != mapping.node)).sum() <= 3


def test_the_program_solves_the_worked_example_and_is_carried_out():
    pytest.importorskip("ortools")
    cluster = cluster_of(PLATEAU)
    solved = solve(cluster, 2)
    assert (solved.fragments, solved.bound, solved.optimal) == (0, 0, True)
    plan = mip_plan(cluster, 2)
    assert len(plan) == 2
    assert fragments_after(cluster, plan) == 0
    assert mip_plan(cluster, 0) == []
    assert solve(cluster, 1).fragments == 16
    assert solve(cluster, 0).fragments == 16
    everyone = [(0, 2), (0, 3), (1, 2), (1, 3)]
    apart = cluster_of(single_node([32, 32], [(0, 4), (0, 4), (1, 12), (1, 12)], everyone))
    assert solve(apart, 2).fragments == 16


def test_all_plans_of_a_large_cluster_are_refused():
    mapping = data_centre(np.random.default_rng(0), pms=6)
    with pytest.raises(ValueError, match="more than 50 states"):
        beam_plan(cluster_of(mapping), 4, width=None, limit=50)


@pytest.mark.parametrize("rule", [GreedyMigration, FilterBestFit])
@pytest.mark.parametrize("extended", [False, True])
def test_one_step_rules_read_from_the_observation_what_the_simulator_knows(rule, extended):
    arguments = {"pms": 5, "anti_affinity": 0.05, "extended": extended, "load": 0.7}
    env = gym.make("VMRescheduling-v0", **arguments)
    agent = rule("HeuristicPolicy", "VMRescheduling-v0", device="cpu")
    for seed in range(10):
        observation, _ = env.reset(seed=seed)
        state = env.unwrapped.state
        seen = seen_cluster({name: value[None] for name, value in observation.items()})
        for name in ("owner", "node", "free_cores", "legal"):
            np.testing.assert_array_equal(seen[name], state[name])
        for name in ("cores", "split"):  # of rows that hold a VM
            there = state["owner"] >= 0
            np.testing.assert_array_equal(seen[name][there], state[name][there])
        plan = agent.plan(env)
        action, _ = agent.predict(observation)
        if plan:
            assert tuple(action) == plan[0]
        else:
            assert env.step(action)[1] == 0


@pytest.mark.parametrize("rule", RULES)
def test_the_plan_is_what_the_episode_does(rule):
    pytest.importorskip("ortools")
    arguments = {"effort": 1.0} if rule is MIPMigration else {}
    env = gym.make("VMRescheduling-v0", pms=4, numa=1, load=0.7, migrations=4)
    agent = rule("HeuristicPolicy", env, device="cpu", **arguments)
    vector = agent.get_env()
    for seed in range(3):
        vector.seed(seed)
        observation = vector.reset()
        env.reset(seed=seed)
        plan = agent.plan(env)
        assert len(plan) <= 4
        planned = sum(float(env.step(np.array(step))[1]) for step in plan)
        assert env.unwrapped.state["skipped"][0] == 0
        # The environment of the agent is `env` itself.
        vector.seed(seed)
        observation, total = vector.reset(), 0.0
        for _ in range(4):
            observation, rewards, _, _ = vector.step(agent.predict(observation)[0])
            total += float(rewards[0])
        assert total == pytest.approx(planned)


def test_a_planner_acts_in_a_vector_and_refuses_observations_from_elsewhere():
    arguments = {"pms": 3, "load": 0.6, "migrations": 3}
    vector = gym.make_vec("VMRescheduling-v0", num_envs=3, autoreset_mode="SameStep", **arguments)
    agent = BeamMigration("HeuristicPolicy", vector, seed=0, device="cpu", width=4)
    env = agent.get_env()
    env.seed(1)
    observation = env.reset()
    actions, _ = agent.predict(observation)
    assert actions.shape == (3, 2)
    for row in range(3):
        single = gym.make("VMRescheduling-v0", **arguments)
        single.reset(seed=1 + row)
        plan = agent.plan(single)
        assert not plan or tuple(actions[row]) == plan[0]
    foreign, _ = gym.make("VMRescheduling-v0", **arguments).reset(seed=77)
    with pytest.raises(ValueError, match="not that of the 3 attached"):
        agent.predict({name: np.stack([value] * 3) for name, value in foreign.items()})


def test_wrong_arguments_are_refused():
    for rule in (SwapMigration, BeamMigration):
        with pytest.raises(ValueError, match="width=0"):
            rule("HeuristicPolicy", "VMRescheduling-v0", width=0)
    with pytest.raises(ValueError, match="effort=0"):
        MIPMigration("HeuristicPolicy", "VMRescheduling-v0", effort=0)
    with pytest.raises(ValueError, match="VMRescheduling environment is needed"):
        GreedyMigration("HeuristicPolicy", "CartPole-v1")
    agent = GreedyMigration("HeuristicPolicy", "VMRescheduling-v0")
    with pytest.raises(ValueError, match="plans for VMRescheduling"):
        agent.plan(gym.make("CartPole-v1"))
    with pytest.raises(ValueError, match="reset the environment"):
        agent.plan(gym.make("VMRescheduling-v0"))
