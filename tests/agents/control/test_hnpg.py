"""HNPG: the worked example, what the critic fits, when the record counts, edge cases."""

from __future__ import annotations

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from palaestra.agents import HNPG
from palaestra.agents.base.finite_horizon import Trajectories
from palaestra.agents.base.offline_data import OfflineDataset
from palaestra.agents.base.recorded_episodes import roll_out, to_dataset
from palaestra.agents.control.hnpg import (
    LONG,
    SHORT,
    OfflineOnly,
    behaviour,
    expected_return,
    fit_table,
    hybrid_critic,
    hybrid_loss,
    no_episodes,
    unlock,
)
from palaestra.envs.tabular.combination_lock import CombinationLock
from palaestra.envs.tabular.planning.finite_horizon import evaluate
from palaestra.wrappers.sb3 import make_sb3


def lock(**arguments):
    return gym.make("CombinationLock-v0", **{**SHORT, **arguments})


def samples(*rows):
    states, actions, targets = zip(*rows, strict=True)
    return np.array(states), np.array(actions), np.array(targets, dtype=np.float64)


def record(env, episodes=50, seed=10**6, spared=None):
    core = env.unwrapped.core
    return to_dataset(roll_out(core, behaviour(core, spared), episodes, seed), env)


NONE = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
ON = samples((0, 0, 1), (0, 1, 0), (1, 1, 0.5), (0, 0, 0.6))
OFF = samples((0, 0, 0.2), (1, 0, 0.9))


# -- the worked example ---------------------------------------------------------------------------


def test_worked_example_of_the_loss() -> None:
    on, off = (np.array([0.2, 0.5]), np.array([1, 0.1])), ([0.3, 0.3, 0.6], [0.4, 0, 0.9])
    assert_allclose(hybrid_loss(*on, *map(np.array, off), 1.0), 0.463333, atol=1e-6)


def test_worked_example_of_the_tabular_fit() -> None:
    assert_allclose(fit_table((2, 2), ON, OFF, 1.0), [[0.5, 0], [0.9, 0.5]], atol=1e-12)


def test_worked_example_of_the_actor() -> None:
    env = gym.make("FiniteMDP-v0", P=np.full((2, 2, 2), 0.5), horizon=1)
    agent = HNPG("TimePolicy", env, learning_rate=2.0, seed=0)
    agent.logits[:] = np.log([[[0.5, 0.5], [0.2, 0.8]]])
    # These steps of one episode each have the targets of the example as their rewards.
    (states, actions, rewards), (off_states, off_actions, off_rewards) = ON, OFF
    agent.offline = Trajectories(
        np.stack([off_states, off_states], 1), off_actions[:, None], off_rewards[:, None]
    )
    agent.study(Trajectories(np.stack([states, states], 1), actions[:, None], rewards[:, None]))
    expected = [[[0.731059, 0.268941], [0.357486, 0.642514]]]
    assert_allclose(agent.probabilities, expected, atol=1e-6)


# -- the critic -----------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 6), st.integers(0, 6), st.floats(0.0, 5.0))
def test_no_table_has_a_smaller_loss(seed, online, offline, weight) -> None:
    rng = np.random.default_rng(seed)
    on, off = (
        (rng.integers(2, size=n), rng.integers(3, size=n), rng.random(n)) for n in (online, offline)
    )

    def loss(table):
        return hybrid_loss(table[on[:2]], on[2], table[off[:2]], off[2], weight)

    fitted = fit_table((2, 3), on, off, weight)
    for _ in range(5):
        assert loss(fitted) <= loss(fitted + 0.1 * rng.standard_normal((2, 3))) + 1e-12


def test_without_own_episodes_only_the_record_counts_and_without_both_nothing_moves() -> None:
    assert_allclose(fit_table((2, 2), NONE, OFF, 3.0), [[0.2, 0], [0.9, 0]])
    assert_allclose(fit_table((2, 2), ON, NONE, 1.0), [[0.8, 0], [0, 0.5]])
    assert_allclose(fit_table((2, 2), ON, OFF, 0.0), [[0.8, 0], [0, 0.5]])
    agent = OfflineOnly("TimePolicy", lock(), seed=0)
    agent.logits[:] = np.random.default_rng(0).random(agent.shape)
    before = np.exp(agent.logits) / np.exp(agent.logits).sum(axis=-1, keepdims=True)
    agent.learn(1)
    assert_allclose(agent.probabilities, before, atol=1e-12)


def test_both_targets_estimate_the_values_of_the_policy() -> None:
    core = CombinationLock(4, 3, switch=0.0, consolation=(0.1, 1.0), shaped=True, instance=3)
    laws = np.random.default_rng(1).dirichlet(np.ones(3), (4, 3))
    values = np.concatenate([evaluate(core.P, core.R, laws), np.zeros((1, 3))])
    exact = core.R + (core.P * values[1:, None, None]).sum(axis=-1)
    recorded = roll_out(core, np.full_like(laws, 1 / 3), 300, 0)
    critic, loss = hybrid_critic(laws, no_episodes(4), recorded, 1.0)
    seen = np.zeros(laws.shape, dtype=bool)
    seen[np.arange(4), recorded.states[:, :-1], recorded.actions] = True
    # The world is deterministic: what is backed up is exact, and is fitted without a rest.
    assert seen.sum() > 20
    assert_allclose(critic[seen], exact[seen], atol=1e-12)
    assert loss < 1e-20
    played = roll_out(core, laws, 20_000, 1)
    critic, loss = hybrid_critic(laws, played, no_episodes(4), 1.0)
    often = np.zeros(laws.shape, dtype=np.int64)
    np.add.at(often, (np.arange(4), played.states[:, :-1], played.actions), 1)
    assert np.abs(critic - exact)[often > 500].max() < 0.05
    assert loss > 1e-3  # returns differ, whatever is fitted


# -- the agent ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [100, 102])
def test_a_covering_record_opens_a_lock_that_is_hopeless_without(seed) -> None:
    env = make_sb3("CombinationLock-v0", num_envs=20, horizon=10, keys=8, instance=seed)
    core = CombinationLock(10, 8, instance=seed)
    data = to_dataset(roll_out(core, behaviour(core), 100, 10**6), env)
    opened = {}
    for weight in (0.0, 1.0):
        agent = HNPG("TimePolicy", data, seed=seed, offline_weight=weight, learning_rate=20.0)
        agent.learn(20 * 20 * 10)
        opened[weight] = expected_return(core, agent.probabilities)
    assert opened[0.0] < 0.1 and opened[1.0] > 0.95


def test_own_episodes_make_up_for_a_record_that_spares_the_right_key() -> None:
    alone, _ = unlock(OfflineOnly, False, 100, 1.0)
    hybrid, (steps, curve) = unlock(HNPG, False, 100, 1.0)
    assert alone == pytest.approx(0.05, abs=1e-3) and hybrid > 0.95
    assert steps[-1] == 40 * 50 * 4 and curve[-1] == hybrid and curve[0] < 0.1


def test_weight_0_is_the_gradient_without_a_record() -> None:
    plain = HNPG("TimePolicy", lock(), seed=7).learn(400)
    weightless = HNPG("TimePolicy", record(lock()), seed=7, offline_weight=0.0).learn(400)
    assert (plain.probabilities == weightless.probabilities).all()
    assert (plain.logits == weightless.logits).all()


def test_states_that_only_the_record_visits_are_learned_too() -> None:
    world = {"P": np.stack([np.eye(3), np.eye(3)], axis=1), "horizon": 1}
    played = Trajectories(np.array([[2, 2]]), np.array([[1]]), np.array([[1.0]]))
    data = to_dataset(played, gym.make("FiniteMDP-v0", **world))
    agent = HNPG("TimePolicy", data, seed=0, learning_rate=1.0, episodes=1).learn(1)
    weight = np.exp(1.0)
    assert_allclose(agent.probabilities[0, 2], [1 / (1 + weight), weight / (1 + weight)])
    assert_allclose(agent.probabilities[0, 1], [0.5, 0.5])


def test_episodes_of_an_iteration_are_spread_over_the_environments() -> None:
    agent = HNPG("TimePolicy", make_sb3("CombinationLock-v0", num_envs=3, **SHORT), episodes=5)
    agent.learn(1)
    assert agent.num_timesteps == 6 * 4


def test_data_given_later_replace_the_record() -> None:
    env = lock()
    agent = HNPG("TimePolicy", env, seed=0, episodes=2)
    assert len(agent.offline.actions) == 0
    agent.set_env(record(env, episodes=30))
    assert agent.offline.actions.shape == (30, 4)
    agent.set_env(record(env, episodes=10))
    agent.set_env(lock())
    assert agent.offline.actions.shape == (10, 4)


def test_the_record_of_the_claim() -> None:
    core = CombinationLock(**LONG, instance=5)
    laws = behaviour(core)
    assert_allclose(laws.sum(axis=-1), 1.0)
    assert_allclose(expected_return(core, laws), 0.05 + 0.95 * 0.955**20, atol=1e-9)
    short = CombinationLock(**SHORT, instance=5)
    spared = behaviour(short, 2)
    assert (spared[2, [0, 1], short.right_keys[2]] == 0).all()
    assert_allclose(expected_return(short, spared), 0.05, atol=1e-12)


# -- what is refused ------------------------------------------------------------------------------


def test_recorded_episodes_of_another_length_are_refused() -> None:
    longer = lock(horizon=5)
    data = record(longer)
    with pytest.raises(ValueError, match="must have 4 steps"):
        HNPG("TimePolicy", replace(data, env=lock()), horizon=4)


def test_a_record_without_rewards_is_refused() -> None:
    data = record(lock())
    without = OfflineDataset(
        data.observations, data.actions, terminations=data.terminations, env=data.env
    )
    with pytest.raises(ValueError, match="HNPG needs recorded rewards"):
        HNPG("TimePolicy", without)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate .eta. must be above 0, got 0.0"),
        ({"offline_weight": -1.0}, "offline_weight=-1.0"),
        ({"episodes": 0}, "episodes=0"),
    ],
)
def test_arguments_out_of_range(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        HNPG("TimePolicy", lock(), **arguments)
