"""SQIRL: the worked example, both policies, what a pass leaves behind, edge cases."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from palaestra.agents import SQIRL
from palaestra.agents.base.episodes import Episodes
from palaestra.agents.control.sqirl import (
    PATIENCE,
    bound_of,
    episodes_to_solve,
    rank_correlation,
    share,
)
from palaestra.agents.control.sqirl_policies import (
    StepTable,
    discounted_to_go,
    head_targets,
    last_steps,
    pair_means,
)
from palaestra.envs.tabular.door_chain import DoorChain
from palaestra.envs.tabular.garnet import Garnet
from palaestra.envs.tabular.planning.effective_horizon import looking_ahead
from palaestra.envs.tabular.pool import pool
from palaestra.wrappers.sb3 import make_sb3


def chain(**arguments):
    return gym.make("DoorChain-v0", **{"depth": 3, "safe": 0.4, **arguments})


def floats(*rows):
    return torch.tensor(rows, dtype=torch.float64)


def actions_of(agent, steps):
    """What a trained agent plays along a chain of doors, all of which it opens."""
    state, played = None, []
    for door in range(steps):
        action, state = agent.predict(door, state, deterministic=True)
        played.append(int(action))
    return played


# -- the worked example ---------------------------------------------------------------------------


def test_worked_example_of_the_returns() -> None:
    assert_allclose(discounted_to_go(floats(0, 1, 2), 0.9), [2.52, 2.8, 2.0])


def test_worked_example_of_the_targets() -> None:
    ahead = floats([[0.2, 0.7], [1, 2]], [[0.9, 0.3], [0, 0]])
    done = torch.tensor([False, True])
    targets = head_targets(floats(1.2, 0.5), floats(1, 0.5), done, ahead, 0.99)
    assert_allclose(targets, [[1.2, 0.5], [1.693, 0.5], [1.891, 0.5]], atol=1e-12)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_worked_example_of_the_chain(depth) -> None:
    agent = SQIRL("TabularPolicy", chain(), depth=depth, episodes=4_000, seed=100)
    agent.learn(1)
    expected = {1: (0.4, 0.25), 2: (0.4, 0.5), 3: (0.4, 1.0)}[depth]
    assert_allclose(agent.policy.values[0, 0], expected, atol=0.05)
    agent.learn(10**6, reset_num_timesteps=False)
    # With k = 1 it leaves at once, and never learns what is behind the first door.
    assert actions_of(agent, 3 if depth > 1 else 1) == ([1, 1, 1] if depth > 1 else [0])


# -- tables ---------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 20))
def test_means_are_least_squares(seed, count) -> None:
    rng = np.random.default_rng(seed)
    states, actions = (torch.from_numpy(rng.integers(3, size=count)) for _ in range(2))
    targets = torch.from_numpy(rng.random(count))
    table = pair_means((3, 3), states, actions, targets)
    rows = torch.zeros(count, 9, dtype=torch.float64)
    rows[torch.arange(count), 3 * states + actions] = 1
    fitted = torch.linalg.pinv(rows) @ targets  # of least norm: 0 where nothing was seen
    assert_allclose(table.flatten(), fitted, atol=1e-9)


@pytest.mark.parametrize("depth", [1, 2, 4, 6])
def test_the_first_step_learns_k_steps_of_value_iteration(depth) -> None:
    core = Garnet(states=3, actions=2, branching=2, horizon=6, start=0, instance=3)
    env = gym.make("Garnet-v0", states=3, actions=2, branching=2, horizon=6, start=0, instance=3)
    agent = SQIRL("TabularPolicy", env, depth=depth, episodes=20_000, seed=101).learn(1)
    exact = looking_ahead(core.P, core.R, 6)[depth - 1, 0, 0]
    assert_allclose(agent.policy.values[0, 0], exact, atol=0.05)


def test_episodes_that_end_early_give_no_samples_later() -> None:
    taken = torch.tensor([[1, 1], [1, 0], [1, 0]], dtype=torch.bool)
    observations, actions = torch.zeros(3, 2, dtype=torch.int64), torch.zeros(3, 2)
    observations[:, 0] = torch.arange(3)
    observations[1:, 1] = 3
    rewards = torch.tensor([[0, 5], [0, 0], [1, 0]], dtype=torch.float64)
    episodes = Episodes(observations, actions, rewards, taken, {}, 4)
    assert last_steps(episodes).tolist() == [[False, True], [False, True], [True, True]]
    spaces = gym.spaces.Discrete(4), gym.spaces.Discrete(2)
    policy = StepTable(*spaces, lambda _: 0.0, horizon=4, depth=4)
    policy.fit(1, episodes, 1.0, 0.0)
    assert policy.values[1].tolist() == [[0, 0], [1, 0], [0, 0], [0, 0]]
    policy.fit(0, episodes, 0.5, 0.0)
    assert policy.values[0].tolist() == [[(0.25 + 5) / 2, 0], [0, 0], [0, 0], [0, 0]]


@pytest.mark.parametrize(("doors", "slip"), [(3, 0.0), (5, 0.0), (5, 0.1)])
def test_chains_of_doors_need_the_depth_that_the_theory_says(doors, slip) -> None:
    assert share(doors, slip, doors, 102, 1.0) == pytest.approx(1.0)
    if doors > 3:  # of 3 doors the two values at the first are 0.3 and 0.25
        assert share(doors, slip, 1, 102, 1.0) < 0.6


# -- networks -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("depth", "played"), [(1, [0]), (3, [1, 1, 1])])
def test_networks_learn_the_same(depth, played) -> None:
    kwargs = {"net_arch": [32], "n_epochs": 60, "batch_size": 64}
    agent = SQIRL(
        *("MlpPolicy", chain()),
        **{"depth": depth, "episodes": 300, "learning_rate": 1e-2, "policy_kwargs": kwargs},
        **{"seed": 100, "device": "cpu"},
    ).learn(10**6)
    assert actions_of(agent, len(played)) == played
    with torch.no_grad():
        values = agent.policy.action_values(0, torch.tensor([0]))[0]
    assert_allclose(values, {1: (0.4, 0.25), 3: (0.4, 1.0)}[depth], atol=0.1)


def test_networks_read_boxes_and_start_from_the_step_before() -> None:
    env = gym.make("CombinationLock-v0", horizon=3, keys=2, observation="onehot")
    kwargs = {"net_arch": [8], "batch_size": 8}
    agent = SQIRL(
        *("MlpPolicy", env),
        **{"episodes": 4, "learning_rate": 0.0, "policy_kwargs": kwargs, "seed": 0},
    )
    first = agent.policy.networks[0].state_dict()
    before = {name: value.clone() for name, value in first.items()}
    agent.learn(10**6)
    for network in agent.policy.networks:  # nothing is learned with a rate of 0
        for name, value in network.state_dict().items():
            assert torch.equal(value, before[name])
    assert agent.predict(np.eye(3, dtype=np.float32), deterministic=True)[0].shape == (3,)


# -- passes ---------------------------------------------------------------------------------------


def test_a_pass_ends_learning_and_the_next_one_has_twice_as_many_episodes() -> None:
    env = gym.make("Garnet-v0", states=4, actions=2, branching=2, horizon=5)
    agent = SQIRL("TabularPolicy", env, episodes=10, seed=0).learn(10**6)
    assert agent.num_timesteps == 5 * 10 * 5
    agent.learn(1, reset_num_timesteps=False)
    assert agent.num_timesteps == 5 * 10 * 5 + 20 * 5
    agent.learn(1, reset_num_timesteps=False)
    assert (agent.passes, agent.step) == (1, 2)
    agent.learn(1)
    assert (agent.passes, agent.step, agent.num_timesteps) == (0, 1, 50)


def test_it_explores_from_the_step_that_it_learns() -> None:
    agent = SQIRL("TabularPolicy", chain(), depth=3, episodes=50, seed=0).learn(10**6)
    agent.policy.explores_from = 1
    episodes = agent.play(500)
    assert (episodes.actions[0] == 1).all()
    assert 0.4 < episodes.actions[1].double().mean() < 0.6
    agent.policy.explores_from = None
    assert (agent.play(50).actions == 1).all()


def test_before_learning_any_action_and_the_lowest_where_that_is_asked() -> None:
    agent = SQIRL("TabularPolicy", chain(), seed=0)
    played = agent.predict(np.zeros(200, dtype=np.int64))[0]
    assert 60 < played.sum() < 140
    assert agent.predict(0, deterministic=True)[0] == 0


def test_steps_that_no_episode_reaches_are_played_as_the_one_before() -> None:
    # At the first door both actions end the episode: only the first of 13 steps is ever reached.
    core = DoorChain(depth=1)
    env = gym.make(
        "FiniteMDP-v0", **{**core.tables(), "horizon": 13, "d0": 0, "observation": "index"}
    )
    agent = SQIRL("TabularPolicy", env, episodes=5, seed=0).learn(10**6)
    assert agent.num_timesteps == (1 + PATIENCE) * 5
    assert agent.policy.learned == 13
    assert (agent.policy.values == agent.policy.values[0]).all()
    assert agent.policy.values[0, 0, 1] == 1.0


def test_an_environment_that_is_stepped_is_learned_in_too() -> None:
    world = {"desc": ["SFH", "HFF", "HHG"], "is_slippery": False, "max_episode_steps": 5}
    env = gym.make("FrozenLake-v1", **world)
    agent = SQIRL("TabularPolicy", env, depth=4, episodes=400, seed=100).learn(10**6)
    assert agent.horizon == 5
    state, played = None, []
    for place in (0, 1, 4, 5):
        action, state = agent.predict(place, state, deterministic=True)
        played.append(int(action))
    assert played == [2, 1, 2, 1]


# -- what is refused, what is warned of -----------------------------------------------------------


def test_a_step_beyond_the_horizon_is_refused() -> None:
    agent = SQIRL("TabularPolicy", chain(), seed=0)
    with pytest.raises(ValueError, match="step 3 is beyond the horizon 3"):
        agent.predict(0, (np.array([[3]]),))
    action, state = agent.predict(
        np.array([0, 0]), (np.array([[3], [1]]),), episode_start=np.array([True, False])
    )
    assert state[0].tolist() == [[1], [2]]


def test_a_depth_beyond_the_horizon_is_the_horizon() -> None:
    with pytest.warns(UserWarning, match="depth=7 looks beyond the horizon, 3"):
        agent = SQIRL("TabularPolicy", chain(), depth=7, seed=0)
    assert agent.policy.depth == 3


@pytest.mark.parametrize(
    ("env", "arguments", "message"),
    [
        ("DoorChain-v0", {"depth": 0}, "depth=0"),
        ("DoorChain-v0", {"episodes": 0}, "episodes=0"),
        ("DoorChain-v0", {"gamma": 1.5}, "gamma=1.5"),
        ("Pendulum-v1", {}, "SQIRL needs actions in Discrete"),
        ("CliffWalking-v1", {}, "needs a known horizon"),
    ],
)
def test_bad_arguments_are_refused(env, arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        SQIRL("TabularPolicy", gym.make(env), **arguments)


def test_an_environment_with_another_horizon_is_refused() -> None:
    agent = SQIRL("TabularPolicy", gym.make("RiverSwim-v0", states=4, horizon=6), seed=0)
    with pytest.raises(ValueError, match="each of 6 steps.* horizon is 8"):
        agent.set_env(gym.make("RiverSwim-v0", states=4, horizon=8))


# -- the claim ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["PPO", "DQN"])
def test_deep_learners_are_timed_on_the_pool(name) -> None:
    task = next(task for task in pool() if task.name == "DoorChain-v0(depth=3, slip=0.0)")
    assert bound_of(task) == pytest.approx(4.029146, abs=1e-6)
    assert 32 <= episodes_to_solve(name, task, 100, 1.0) < 2_000
    assert episodes_to_solve(name, task, 100, 0.01) in range(40, 48)  # all that there are


def test_episodes_that_are_ranked_as_the_bounds_correlate() -> None:
    assert rank_correlation([4.0, 7.0, 5.0], [10, 1e6, 11]) == pytest.approx(1.0)
    assert rank_correlation([4.0, 7.0, 5.0], [3, 1, 2]) == pytest.approx(-1.0)


def test_a_native_vector_gives_the_same_episodes_as_one_environment() -> None:
    world = {"states": 4, "horizon": 6}
    tables = []
    for count in (1, 3):
        env = make_sb3("RiverSwim-v0", num_envs=count, **world)
        agent = SQIRL("TabularPolicy", env, episodes=9, seed=5).learn(10**6)
        tables.append(agent.policy.values)
    assert torch.equal(*tables) and tables[0].any()
