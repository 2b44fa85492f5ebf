"""Lipschitz policies from demonstrations: worked example, projections, certificates, both forms."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from palaestra.agents import LipschitzGraph, LipschitzNetwork
from palaestra.agents.base.offline_data import OfflineDataset
from palaestra.agents.control import lipschitz_policy as module
from palaestra.agents.control.lipschitz_certificates import (
    approximation_bound,
    covering_radius,
    deviation_bound,
    realised_constant,
    scalar_loop,
)
from palaestra.agents.control.lipschitz_graph import (
    dykstra_sweep,
    extension,
    steepness_limits,
    tournament,
)
from palaestra.agents.control.lipschitz_network import layer_factor

LINE = ([[0.0], [1.0], [2.0]], [[0.0], [2.0], [1.0]])


def data_of(states, controls):
    states, controls = np.asarray(states, dtype=float), np.asarray(controls, dtype=float)
    spaces = (
        gym.spaces.Box(-np.inf, np.inf, (x.shape[1],), np.float32) for x in (states, controls)
    )
    return OfflineDataset(
        states,
        controls,
        **dict(zip(("observation_space", "action_space"), spaces, strict=True)),
    )


def solved(states, controls, alpha, sweeps=200, **arguments):
    agent = LipschitzGraph(
        "GraphPolicy", data_of(states, controls), alpha=alpha, seed=0, **arguments
    )
    return agent.learn(sweeps)


# -- the worked example ---------------------------------------------------------------------------


def test_worked_example_values_and_multipliers():
    agent = solved(*LINE, alpha=1.0)
    np.testing.assert_allclose(agent.values[:, 0], [0.5, 1.5, 1.0], atol=1e-9)
    found = agent.multipliers()
    np.testing.assert_allclose(
        [found[0, 1], found[0, 2], found[1, 2]], [1 / 6, 0.0, 0.0], atol=1e-9
    )
    assert agent._metrics["train/error"] == pytest.approx(0.166667, abs=1e-6)


def test_worked_example_extension():
    agent = solved(*LINE, alpha=1.0)
    actions, _ = agent.predict(np.float32([[0.25], [1.5], [3.0]]))
    np.testing.assert_allclose(actions[:, 0], [0.75, 1.25, 1.0], atol=1e-6)


def test_worked_example_certificates():
    assert approximation_bound(0.1, 1.0, 2.0, 0.05) == pytest.approx(0.25)
    assert deviation_bound(3, 0.8, 0.5, 1.0, 0.1, 0.02) == pytest.approx(0.1464)
    assert deviation_bound(None, 0.8, 0.5, 1.0, 0.1, 0.02) == pytest.approx(0.3)
    assert deviation_bound(0, 0.8, 0.5, 1.0, 0.1, 0.02) == 0.0


def test_worked_example_scalar_loop():
    for gain, cost, worst in ((0.3, 1.576563, 0.075), (0.6, 1.138462, 0.085714)):
        found = scalar_loop(0.9, 1.0, 1.0, 0.1, gain, 0.1)
        assert found == (pytest.approx(cost, abs=1e-6), pytest.approx(worst, abs=1e-6))


# -- the projection -------------------------------------------------------------------------------


@pytest.mark.parametrize("count", range(1, 10))
def test_every_pair_meets_once_and_no_point_twice_in_a_round(count):
    order = np.random.default_rng(count).permutation(count)
    pairs = tournament(order)
    for one in pairs:
        assert len(set(one.ravel().tolist())) == one.size
    met = {frozenset(pair) for pair in pairs.reshape(-1, 2).tolist()}
    assert len(met) == len(pairs.reshape(-1, 2)) == count * (count - 1) // 2
    assert all(len(pair) == 2 for pair in met)


@settings(max_examples=12, deadline=None)
@given(
    st.integers(0, 10_000),
    st.integers(2, 9),
    st.integers(1, 3),
    st.sampled_from([None, 1, 2]),
    st.floats(0.1, 3),
)
def test_the_solution_obeys_the_bound_and_its_multipliers_prove_that_it_is_the_nearest(
    seed, count, size, neighbours, alpha
):
    rng = np.random.default_rng(seed)
    states, controls = rng.uniform(-1, 1, (count, 2)), rng.standard_normal((count, size))
    agent = solved(states, controls, alpha, 3000, neighbours=neighbours)
    gaps = np.linalg.norm(agent.values[:, None] - agent.values, axis=-1)
    slack = steepness_limits(states, alpha, neighbours) - gaps
    assert slack.min() > -1e-4
    weights = agent.multipliers()
    assert (weights >= 0).all() and np.array_equal(weights, weights.T)
    assert (weights * np.where(np.isinf(slack), 0.0, slack)).max() < 1e-3
    laplacian = np.diag(weights.sum(axis=1)) - weights
    smoothed = np.linalg.solve(np.eye(count) + count * laplacian, controls)
    np.testing.assert_allclose(smoothed, agent.values, atol=2e-3)


def test_values_are_the_labels_minus_the_corrections():
    rng = np.random.default_rng(1)
    states, labels = rng.standard_normal((6, 2)), rng.standard_normal((6, 2))
    pairs, limits = tournament(np.arange(6)), steepness_limits(states, 0.3)
    values, corrections = labels, np.zeros((*pairs.shape[:2], 2))
    for _ in range(3):
        values, corrections = dykstra_sweep(values, corrections, pairs, limits)
    total = np.zeros_like(labels)
    np.add.at(total, pairs[..., 0], corrections)
    np.add.at(total, pairs[..., 1], -corrections)
    np.testing.assert_allclose(values, labels - total, atol=1e-12)


def test_the_seed_changes_the_way_and_not_the_solution():
    rng = np.random.default_rng(2)
    data = data_of(rng.standard_normal((9, 2)), rng.standard_normal((9, 1)))
    first, second = (LipschitzGraph("GraphPolicy", data, alpha=0.4, seed=seed) for seed in (0, 1))
    for agent in (first, second):
        agent.learn(2)
    assert not np.array_equal(first.values, second.values)
    for agent in (first, second):
        agent.learn(3000, reset_num_timesteps=False)
    np.testing.assert_allclose(first.values, second.values, atol=1e-6)


# -- edge cases -----------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 4, 7])
def test_alpha_zero_plays_the_mean(count):
    rng = np.random.default_rng(3)
    controls = rng.standard_normal((count, 2))
    agent = solved(rng.standard_normal((count, 2)), controls, alpha=0.0)
    actions, _ = agent.predict(np.float32([[5.0, -5.0], [0.0, 0.0]]))
    np.testing.assert_allclose(actions, np.tile(controls.mean(axis=0), (2, 1)), atol=1e-6)
    assert (agent.multipliers() >= 0).all()


def test_an_alpha_above_the_constant_of_the_data_is_idle():
    rng = np.random.default_rng(4)
    states, controls = rng.standard_normal((8, 2)), rng.standard_normal((8, 1))
    steepest = realised_constant(states, controls)
    agent = solved(states, controls, alpha=steepest * (1 + 1e-12))
    assert np.array_equal(agent.values, controls)
    assert not agent.multipliers().any()
    tight = solved(states, controls, alpha=0.9 * steepest, sweeps=2000)
    assert realised_constant(states, tight.values) == pytest.approx(0.9 * steepest, rel=1e-6)


def test_points_that_coincide_get_their_mean():
    agent = solved([[0.0], [0.0], [5.0]], [[1.0], [3.0], [2.0]], alpha=1.0)
    np.testing.assert_allclose(agent.values[:, 0], [2.0, 2.0, 2.0], atol=1e-9)
    assert realised_constant([[0.0], [0.0]], [[1.0], [3.0]]) == np.inf


def test_a_single_demonstration_is_played_everywhere():
    agent = solved([[1.0]], [[0.7]], alpha=0.0)
    assert agent.predict(np.float32([-9.0]))[0] == pytest.approx([0.7])
    assert realised_constant([[1.0]], [[0.7]]) == 0.0


def test_components_of_a_graph_are_solved_apart():
    near = ([[0.0], [0.1], [10.0], [10.1]], [[0.0], [4.0], [50.0], [51.0]])
    agent = solved(*near, alpha=1.0, neighbours=1)
    np.testing.assert_allclose(agent.values[:, 0], [1.95, 2.05, 50.45, 50.55], atol=1e-9)
    together = solved(*near, alpha=1.0, sweeps=500)
    assert abs(together.values[2, 0] - together.values[1, 0]) <= 9.9 + 1e-9


def test_bad_arguments_are_refused():
    data = data_of(*LINE)
    for cls, policy in ((LipschitzGraph, "GraphPolicy"), (LipschitzNetwork, "MlpPolicy")):
        with pytest.raises(ValueError, match="alpha=-1.0 must be a finite number of at least 0"):
            cls(policy, data, alpha=-1.0)
        with pytest.raises(ValueError, match=r"needs (observations|actions) in a Box"):
            cls(policy, OfflineDataset.record(gym.make("CartPole-v1"), 5))
    with pytest.raises(ValueError, match="neighbours=0"):
        LipschitzGraph("GraphPolicy", data, neighbours=0)
    for rate in (1.0, -0.1):
        with pytest.raises(ValueError, match="the expert's loop must contract"):
            deviation_bound(3, rate, 0.5, 1.0, 0.1, 0.0)
    with pytest.raises(ValueError, match="it must be below 1"):
        scalar_loop(1.5, 1.0, 1.0, 0.1, 0.2, 0.1)


# -- certificates ---------------------------------------------------------------------------------


def test_the_covering_radius_is_that_of_the_farthest_point():
    assert covering_radius([[0.0, 0.0], [4.0, 0.0]], [[1.0, 0.0], [2.0, 2.0]]) == pytest.approx(
        np.sqrt(8)
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 3), st.floats(0, 4))
def test_the_extension_is_lipschitz_whatever_the_values(seed, size, alpha):
    rng = np.random.default_rng(seed)
    points, values, queries = (
        torch.as_tensor(rng.standard_normal(shape)) for shape in ((7, 2), (7, size), (12, 2))
    )
    found = extension(points, values, alpha, queries).numpy()
    for column in range(size):
        assert realised_constant(queries, found[:, [column]]) <= alpha + 1e-9
    assert realised_constant(queries, found) <= np.sqrt(size) * alpha + 1e-9


def test_a_policy_with_many_controls_stays_within_its_certificate():
    rng = np.random.default_rng(5)
    gain = rng.standard_normal((2, 2))
    states, domain = rng.uniform(-1, 1, (25, 2)), rng.uniform(-1, 1, (400, 2))
    expert = float(np.linalg.norm(gain, 2))
    for alpha in (0.3 * expert, expert):
        agent = solved(states, states @ gain, alpha, sweeps=500)
        promised = agent.certificate(domain, expert)
        assert promised["constant"] <= 1.01 * alpha
        assert promised["radius"] == covering_radius(states, domain)
        actions, _ = agent.predict(domain.astype(np.float32))
        distance = np.linalg.norm(actions - domain @ gain, axis=1).max()
        assert 0.1 * promised["bound"] < distance <= promised["bound"]


# -- the agents -----------------------------------------------------------------------------------


def test_other_data_are_a_new_problem_and_the_same_are_not():
    agent = solved(*LINE, alpha=1.0, sweeps=50)
    kept = agent.corrections
    agent.set_env(data_of(*LINE))
    agent.learn(1)
    assert agent.corrections.any() and np.allclose(agent.corrections, kept)
    agent.set_env(data_of([[0.0], [1.0]], [[0.0], [4.0]]))
    assert agent.learn(1).values[:, 0].tolist() == [1.5, 2.5]


def test_a_loaded_agent_goes_on_where_it_was(tmp_path):
    rng = np.random.default_rng(6)
    data = data_of(rng.standard_normal((8, 2)), rng.standard_normal((8, 1)))
    whole = LipschitzGraph("GraphPolicy", data, alpha=0.3, seed=2).learn(9)
    part = LipschitzGraph("GraphPolicy", data, alpha=0.3, seed=2).learn(4)
    part.save(tmp_path / "part")
    loaded = LipschitzGraph.load(tmp_path / "part", env=data)
    loaded.learn(5, reset_num_timesteps=False)
    assert loaded.num_timesteps == 9
    assert np.array_equal(loaded.values, whole.values)
    assert np.array_equal(loaded.multipliers(), whole.multipliers())


def test_an_agent_without_data_does_nothing_until_it_gets_some(tmp_path):
    env = gym.make("LQR-v0", plant="contracting")
    agent = LipschitzGraph("GraphPolicy", env)
    assert agent.predict(np.float32([1.0, 2.0]))[0].tolist() == [0.0]
    with pytest.raises(ValueError, match="there is no data to learn from"):
        agent.learn(1)
    for what in (agent.multipliers, lambda: agent.certificate([[0.0, 0.0]], 1.0)):
        with pytest.raises(ValueError, match="the agent has no data yet"):
            what()
    agent.save(tmp_path / "agent")
    loaded = LipschitzGraph.load(tmp_path / "agent", env=module.demonstrations(100, 0.0))
    assert loaded.learn(1).values.shape == (60, 1)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4), st.floats(0, 5))
def test_scaled_layers_keep_the_product_of_their_norms_within_alpha(seed, layers, alpha):
    norms = torch.as_tensor(np.random.default_rng(seed).uniform(0.1, 3, layers))
    factor = layer_factor(norms, alpha)
    assert float((factor * norms).prod()) == pytest.approx(min(alpha, float(norms.prod())))


def test_a_network_is_as_steep_as_it_may_be_and_learns_what_it_can():
    rng = np.random.default_rng(7)
    states = rng.uniform(-1, 1, (300, 2))
    gain = np.array([[1.5], [2.0]])  # of norm 2.5
    data = data_of(states, states @ gain)
    errors = {}
    for alpha in (0.0, 1.0, 4.0):
        agent = LipschitzNetwork(
            "MlpPolicy", data, alpha=alpha, seed=0, policy_kwargs={"net_arch": [32, 32]}
        ).learn(400)
        with torch.no_grad():
            found = agent.policy(torch.as_tensor(states)).double().numpy()
        assert realised_constant(states, found) <= alpha + 1e-4
        errors[alpha] = float(np.square(found - states @ gain).mean())
    assert errors[4.0] < 0.02 < errors[1.0] < errors[0.0]


# -- the claim ------------------------------------------------------------------------------------


def test_certificates_hold_without_noise():
    found = module.certificates_arm(100, 0.3).metrics
    assert found["change of labels"] == 0.0
    assert found["excess over the bound"] <= 0.0
    assert found["scalar error"] < 1e-12


def test_the_attack_costs_and_the_expert_is_best_without_it():
    expert = module.expert_arm(0, 1.0).metrics
    core = module.LQR(module.PLANT)
    worth, starts = core.solution()[0], core.tapes(module.STARTS, 0)["start"]
    expected = np.einsum("ni,ij,nj->n", starts, worth, starts).mean()
    assert expert["nominal cost"] == pytest.approx(expected, rel=1e-6)
    assert expert["deterioration"] > 0.1
    mild, wild = (module.traded(factor, 100, 0.5).metrics for factor in (0.25, 1.0))
    assert expert["nominal cost"] < wild["nominal cost"] < mild["nominal cost"]
    assert set(mild) == {"nominal cost", "deterioration", "realised constant", "training error"}
