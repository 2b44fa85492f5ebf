"""`Garnet`: the draws, the reference values, and every style of random world."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import palaestra  # noqa: F401  (registers the environments)
from palaestra.envs.tabular.garnet import Garnet


def action_values(core, gamma):
    """Optimal action values [S, A] of a world without a horizon."""
    return core.R[0] + gamma * core.P[0] @ core.plan(gamma).values


def test_worked_example_of_three_states():
    core = Garnet(states=3, actions=2, branching=2)
    assert core.P[0] == pytest.approx(
        np.array(
            [
                [[0.599929, 0, 0.400071], [0.252418, 0.747582, 0]],
                [[0, 0.788555, 0.211445], [0, 0.999433, 0.000567]],
                [[0.442537, 0, 0.557463], [0, 0.829319, 0.170681]],
            ]
        ),
        abs=1e-6,
    )
    rewards = np.array([[0.124283, 0.670624], [0.647190, 0.615385], [0.383678, 0.997210]])
    assert core.R[0] == pytest.approx(rewards, abs=1e-6)


def test_worked_example_of_an_episode():
    env = gym.make("Garnet-v0", states=3, actions=2, branching=2)
    assert env.reset(seed=7)[0] == 1
    z = np.random.default_rng(7).random(2001)
    assert z[[0, 1, 2]] == pytest.approx([0.625095, 0.897214, 0.775686], abs=1e-6)
    for action, reward in ((1, 0.615385), (0, 0.647190)):
        observation, paid, terminated, truncated, _ = env.step(action)
        assert observation == 1
        assert paid == pytest.approx(reward, abs=1e-6)
        assert not terminated and not truncated


@pytest.mark.parametrize(("instance", "mean"), [(0, 16.121278), (1, 16.876827)])
def test_mean_optimal_value_of_the_default_world(instance, mean):
    env = gym.make("Garnet-v0", instance=instance).unwrapped
    assert env.plan(env.gamma).values.mean() == pytest.approx(mean, abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        (
            {
                "layers": 14,
                "states": 3,
                "actions": 2,
                "concentration": 0.5,
                "rewards": "last_layer",
            },
            0.794863,
        ),
        (
            {
                "states": 6,
                "actions": 3,
                "concentration": 0.15,
                "rewards": "two_targets",
                "horizon": 8,
            },
            0.467011,
        ),
    ],
)
def test_optimal_value_at_the_start_of_late_rewards(arguments, value):
    core = Garnet(branching=None, start=0, **arguments)
    assert core.plan(1.0).values[0, 0] == pytest.approx(value, abs=1e-6)
    assert core.d0[0] == 1


def test_all_states_are_drawn_pair_by_pair_and_rewards_after_them():
    rng = np.random.default_rng(5)
    P = np.array([[rng.dirichlet(np.full(3, 0.4)) for _ in range(2)] for _ in range(3)])
    rewards = rng.standard_normal((3, 2))
    for branching in (None, 3):
        core = Garnet(
            *(3, 2, branching), concentration=0.4, rewards="normal", instance=5, gamma=0.9
        )
        np.testing.assert_array_equal(core.P[0], P)
        np.testing.assert_allclose(core.R[0], rewards)
        assert core.gamma == 0.9


def test_layers_have_tables_of_their_own_and_share_fixed_rewards():
    core = Garnet(4, 2, 2, layers=3)
    assert core.P.shape == (3, 4, 2, 4) and core.horizon == 3
    assert len({tuple(table.ravel()) for table in core.P}) == 3
    rng = np.random.default_rng(0)
    for _ in range(3 * 4 * 2):
        rng.dirichlet(np.ones(2))
        rng.choice(4, 2, replace=False)
    np.testing.assert_allclose(core.R, np.broadcast_to(rng.random((4, 2)), (3, 4, 2)))


def test_last_layer_pays_one_with_the_drawn_probability():
    core, n = Garnet(2, 2, 2, layers=3, rewards="last_layer", start=0), 3000
    assert not core.R[:2].any() and 0 < core.R[2].min() < core.R[2].max() < 1
    tape = core.tapes(n, 0)
    state, zeros = core.initial(tape), np.zeros(n, int)
    for step in range(3):
        after = core.transition(state, zeros, tape)
        rewards = core.reward(state, zeros, after)
        chance = core.R[step][state["s"], 0]
        np.testing.assert_array_equal(rewards, tape["v"][:, step] < chance)
        state = after
    assert rewards.mean() == pytest.approx(chance.mean(), abs=0.03)


def test_two_targets_pay_in_their_state_at_their_step():
    core = Garnet(4, 2, None, rewards="two_targets", horizon=5)
    expected = np.zeros((5, 4, 2))
    expected[2, 0], expected[4, 3] = 0.2, 1.0
    np.testing.assert_allclose(core.R, expected)
    np.testing.assert_array_equal(core.P, np.broadcast_to(core.P[:1], (5, 4, 2, 4)))


def test_without_branching_the_next_state_is_uniform():
    core = Garnet(5, 4, 0, rewards="normal", horizon=1, instance=3)
    np.testing.assert_array_equal(core.P, np.full((1, 5, 4, 5), 0.2))
    np.testing.assert_allclose(core.R[0], np.random.default_rng(3).standard_normal((5, 4)))


def test_half_of_the_default_states_are_tied_by_duplicates():
    plain, core = Garnet(), Garnet(duplicates=0.5)
    values = np.sort(action_values(core, 0.95), axis=1)
    tied = values[:, -1] - values[:, -2] < 1e-12
    assert np.flatnonzero(tied).tolist() == list(range(10))
    np.testing.assert_allclose(core.plan(0.95).values, plain.plan(0.95).values)
    best = plain.plan(0.95).policy[:10]
    for state, action in enumerate(best):
        copy = (action + 1) % 4
        np.testing.assert_array_equal(core.P[0, state, copy], plain.P[0, state, action])
        assert core.R[0, state, copy] == pytest.approx(plain.R[0, state, action])
        others = [other for other in range(4) if other != copy]
        np.testing.assert_array_equal(core.P[0, state, others], plain.P[0, state, others])
    np.testing.assert_array_equal(core.P[0, 10:], plain.P[0, 10:])


def test_duplicates_of_layers_copy_the_best_action_of_each_layer():
    arguments = {"states": 4, "actions": 3, "branching": 2, "layers": 5, "rewards": "last_layer"}
    plain, core = Garnet(**arguments), Garnet(**arguments, duplicates=1.0, gamma=1.0)
    policy = plain.plan(1.0).policy
    layer, state = np.ogrid[:5, :4]
    copy = (policy + 1) % 3
    np.testing.assert_array_equal(core.P[layer, state, copy], plain.P[layer, state, policy])
    np.testing.assert_array_equal(core.R[layer, state, copy], core.R[layer, state, policy])
    np.testing.assert_allclose(core.plan(1.0).values, plain.plan(1.0).values)


@pytest.mark.parametrize("duplicates", [0.0, 0.6])
def test_a_linear_world_is_the_product_of_its_features(duplicates):
    env = gym.make("Garnet-v0", states=6, features=4, duplicates=duplicates, instance=2).unwrapped
    np.testing.assert_allclose(env.P[0], env.phi @ env.mu)
    np.testing.assert_allclose(env.R[0], env.phi @ env.theta)
    assert env.phi.shape == (6, 4, 4)
    np.testing.assert_allclose(env.phi.sum(-1), 1)
    rng = np.random.default_rng(2)
    phi, mu = rng.dirichlet(np.ones(4), (6, 4)), rng.dirichlet(np.ones(6), 4)
    np.testing.assert_array_equal(env.mu, mu)
    np.testing.assert_array_equal(env.theta, rng.random(4))
    unchanged = (env.phi == phi).all(axis=-1)
    assert unchanged[int(6 * duplicates) :].all()
    assert (~unchanged[: int(6 * duplicates)]).sum(axis=1).tolist() == [1] * int(6 * duplicates)


def test_a_world_that_is_not_linear_has_no_features():
    env = gym.make_vec("Garnet-v0", num_envs=2).unwrapped
    assert (env.phi, env.mu, env.theta) == (None, None, None)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(1, 3), st.data())
def test_every_pair_has_as_many_successors_as_it_branches(states, actions, data):
    branching = data.draw(st.integers(1, states))
    instance = data.draw(st.integers(0, 50))
    core = Garnet(states, actions, branching, instance=instance)
    assert ((core.P > 0).sum(axis=-1) == branching).all()
    np.testing.assert_allclose(core.P.sum(axis=-1), 1)
    np.testing.assert_array_equal(
        core.P, Garnet(states, actions, branching, instance=instance, max_steps=3).P
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"states": 0}, "states=0 must be an integer of at least 1"),
        ({"actions": 1.5}, "actions=1.5 must be an integer"),
        ({"states": 3}, "branching=4 must be an integer from 0 to 3"),
        ({"branching": -1}, "branching=-1 must be an integer from 0 to 20"),
        ({"concentration": 0}, "concentration=0 must be above 0"),
        ({"concentration": np.nan}, "concentration=nan must be a finite number"),
        ({"rewards": "gaussian"}, "rewards='gaussian', allowed are"),
        ({"rewards": "last_layer"}, "rewards='last_layer' come late"),
        ({"rewards": "two_targets", "max_steps": 4}, "rewards='two_targets' come late"),
        ({"layers": 3, "horizon": 4}, "horizon=4 differs from layers=3"),
        ({"layers": 0}, "layers=0 must be an integer of at least 1"),
        ({"start": 20}, "start=20 must be an integer from 0 to 19"),
        ({"start": "middle"}, r"start='middle', allowed are \('uniform',\)"),
        ({"duplicates": 1.5}, "duplicates=1.5 must be a number from 0 to 1"),
        ({"duplicates": 0.5, "actions": 1}, "duplicates=0.5 needs at least 2 actions"),
        ({"features": 0}, "features=0 must be an integer of at least 1"),
        ({"features": 3, "layers": 2}, "features=3 draws transitions and rewards itself"),
        ({"features": 3, "rewards": "normal"}, "features=3 draws"),
        ({"gamma": 1.5}, "gamma=1.5 is outside"),
        ({"instance": -1}, "instance=-1 must be an integer of at least 0"),
    ],
)
def test_impossible_worlds_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Garnet(**arguments)
