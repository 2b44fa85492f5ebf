"""What the vector face of the routing problems adds: a table that is repainted, and solutions."""

import tracemalloc

import gymnasium as gym
import numpy as np
import pytest

import palaestra  # noqa: F401

PROBLEMS = {
    "TSP-v0": {"nodes": 7},
    "ATSP-v0": {"nodes": 6},
    "CVRP-v0": {"nodes": 7, "capacity": 12},
    "Orienteering-v0": {"nodes": 9},
    "Knapsack-v0": {"items": 8},
}


def make(name, rows=4, **arguments):
    return gym.make_vec(
        name, num_envs=rows, vectorization_mode="vector_entry_point", **arguments
    ).unwrapped


def random_actions(masks, rng):
    return (rng.random(masks.shape) * (masks + 1e-9)).argmax(axis=1)


def assert_shows_its_state(env, observations):
    np.testing.assert_array_equal(observations, env.core.observation(env.state))


@pytest.mark.parametrize("mode", ["NextStep", "SameStep", "Disabled"])
@pytest.mark.parametrize("mdp", ["bq", "direct"])
@pytest.mark.parametrize("name", PROBLEMS)
def test_the_repainted_table_is_the_one_built_anew(name, mdp, mode):
    rng = np.random.default_rng(1)
    env = make(name, mdp=mdp, autoreset_mode=mode, **PROBLEMS[name])
    observations, infos = env.reset(seed=2)
    for step in range(30):
        assert_shows_its_state(env, observations)
        observations[...] = -1.0  # what was returned is the caller's
        if step % 9 == 4:  # some rows begin anew in the middle of an episode
            env.reset(options={"reset_mask": np.array([True, False, True, False])})
        if mode == "Disabled" and env._ended.any():
            env.reset(options={"reset_mask": env._ended.copy()})
        observations, *_ = env.step(random_actions(env.action_masks(), rng))


@pytest.mark.parametrize("mdp", ["bq", "direct"])
@pytest.mark.parametrize("name", PROBLEMS)
def test_going_back_to_a_snapshot_shows_the_other_way_on(name, mdp):
    env = make(name, rows=1, mdp=mdp, **PROBLEMS[name])
    env.reset(seed=5)
    snapshot = env.get_state()
    first, second = np.flatnonzero(env.action_masks()[0])[[0, -1]]
    one, *_ = env.step(np.array([first]))
    env.set_state(*snapshot)
    other, *_ = env.step(np.array([second]))
    assert_shows_its_state(env, other)
    assert (one != other).any()


@pytest.mark.parametrize("name", ["TSP-v0", "CVRP-v0"])
def test_a_state_set_by_hand_is_shown(name):
    env = make(name, **PROBLEMS[name])
    env.reset(seed=5)
    start = env.state
    rng = np.random.default_rng(0)
    for _ in range(3):
        env.step(random_actions(env.action_masks(), rng))
    env.state = start
    observations, *_ = env.step(random_actions(env.action_masks(), rng))
    assert_shows_its_state(env, observations)


@pytest.mark.parametrize("name", PROBLEMS)
def test_rewards_sum_to_the_objective_of_the_solution(name):
    rng = np.random.default_rng(3)
    env = make(name, autoreset_mode="Disabled", **PROBLEMS[name])
    env.reset(seed=9)
    returns, done = np.zeros(4), np.zeros(4, dtype=bool)
    sign = 1.0 if name in ("Orienteering-v0", "Knapsack-v0") else -1.0
    while not done.all():
        env._ended[:] = False  # rows that have ended take no step below
        masks = env.action_masks()
        going = np.flatnonzero(~done)
        rewards, terminations, _ = env._step_rows(going, random_actions(masks, rng)[going])
        returns[going] += rewards
        done[going] = terminations
    for row in range(4):
        assert env.solution(row).objective == pytest.approx(sign * returns[row], abs=1e-9)
        assert env.solution(row).kind == name.removesuffix("-v0").lower()


@pytest.mark.parametrize("name", ["TSP-v0", "CVRP-v0"])
def test_ten_thousand_nodes_need_no_matrix(name):
    tracemalloc.start()
    env = gym.make(name, nodes=10_000, disable_env_checker=True).unwrapped
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(20):
        env.step(rng.choice(np.flatnonzero(env.action_masks())))
    assert tracemalloc.get_traced_memory()[1] < 20e6  # bytes; one matrix would be 800e6
    tracemalloc.stop()
    assert env.state["t"][0] == 20


@pytest.mark.parametrize("name", ["TSP-v0", "CVRP-v0"])
def test_a_thousand_environments_of_a_hundred_nodes(name):
    env = make(name, rows=1024, nodes=100)
    _, infos = env.reset(seed=0)
    rng = np.random.default_rng(0)
    total = np.zeros(1024)
    for _ in range(99):
        _, rewards, terminations, _, infos = env.step(random_actions(infos["action_mask"], rng))
        total += rewards
    assert terminations.all()
    # A random tour of 100 uniform points is 100 mean distances of 0.5214 long.
    if name == "TSP-v0":
        assert -total.mean() == pytest.approx(52.14, abs=0.5)
    assert env.solution(1023).objective == pytest.approx(-total[1023])
