"""DR-RPO: its worst means, bonus and soft values, exact robust plans, and what shifts cost it."""

from __future__ import annotations

from functools import partial

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import palaestra
from palaestra.agents.base.finite_horizon import Trajectories
from palaestra.agents.robust.dr_rpo import (
    coordinate_bonus,
    has_fail_state,
    planned,
    regularized,
    robust_means,
    robust_values,
    shifted_values,
)
from palaestra.envs.tabular.gamble_chain import GambleChain
from palaestra.envs.tabular.garnet import Garnet
from palaestra.envs.tabular.planning.robust import robust_backward_induction
from palaestra.envs.tabular.planning.robust_balls import tv_ball
from palaestra.envs.tabular.planning.robust_sets import FactorRectangular, soft
from palaestra.wrappers.sb3 import make_sb3

GARNET = {"states": 5, "actions": 3, "features": 4, "horizon": 3, "instance": 7}
NO_FAIL_STATE = "ignore:Garnet has no state"


def make(env="GambleChain-v0", seed=0, env_arguments=None, **arguments):
    env = gym.make(env, **(env_arguments or {}))
    return palaestra.agents.DRRPO("TimePolicy", env, seed=seed, **arguments)


def well_informed(core, env, **arguments):
    """An agent that has seen every pair a billion times, as often as is to be expected."""
    agent = make(env[0], env_arguments=env[1], bonus=0.0, **arguments)
    many = 1e9
    agent.gram += many * np.einsum("sai,saj->ij", core.phi, core.phi)
    agent.arrivals += many * np.einsum("sai,sax->xi", core.phi, core.P[0])
    return agent


# -- the paper's computation ----------------------------------------------------------------------


def test_worked_example_of_the_worst_means() -> None:
    mu, values = np.array([[0.5, 0.3, 0.2]]), np.array([0.0, 1.0, 3.0])
    for radius, expected in ((0.0, 0.9), (0.1, 0.6), (0.3, 0.2), (1.0, 0.0), (2.0, 0.0)):
        assert_allclose(robust_means(mu, values, radius, values), [expected], atol=1e-12)
    # A grid comes close from below, and the least value need not be 0.
    grid = np.linspace(0, 4, 21)
    assert_allclose(robust_means(mu, values, 0.3, grid), [0.2])
    assert_allclose(robust_means(mu, values, 0.1, grid), [0.6])
    assert_allclose(robust_means(mu, values + 1, 0.3, values + 1, lowest=1.0), [1.2])
    assert_allclose(robust_means(mu, values + 1, 1.5, values + 1, lowest=1.0), [1.0])


def test_worked_example_of_the_soft_value() -> None:
    reference = np.array([0.2, 0.3, 0.5])
    value, policy = regularized(np.array([1.0, 0.5, 0.0]), reference, 2.0)
    assert float(value) == pytest.approx(0.513611, abs=1e-6)
    assert_allclose(policy, [0.529056, 0.291944, 0.179000], atol=1e-6)


def test_worked_example_of_the_bonus() -> None:
    inverse = np.linalg.inv([[2.0, 0.5], [0.5, 1.0]])
    found = 0.4 * coordinate_bonus(np.array([0.25, 0.75]), inverse)
    assert float(found) == pytest.approx(0.396306, abs=1e-6)


@pytest.mark.parametrize(("radius", "value"), [(0.0, 1.122837), (0.2, 0.738492)])
def test_worked_example_of_the_gamble_chain(radius: float, value: float) -> None:
    world = {"safe": 0.3, "jackpot": 0.4}
    core = GambleChain(**world)
    agent = well_informed(core, ("GambleChain-v0", world), radius=radius, eta=20.0, grid=10**6)
    assert agent.plan()[0] == pytest.approx(value, abs=1e-5)
    assert_allclose(agent.probabilities, planned(core, radius, 20.0), atol=1e-4)


def test_worked_example_of_plans_for_the_nominal_world() -> None:
    core = GambleChain()
    assert shifted_values(planned(core, 0.0))["value at shift 0"] == pytest.approx(1.678, abs=5e-4)
    robust = planned(core, 0.3)
    assert shifted_values(robust)["value at shift 0"] == pytest.approx(1.481510, abs=1e-6)
    values = robust_values(core, np.array([robust, planned(core, 0.0)]))
    assert values[0] > values[1]
    # The worst factors lose more than the gamble's own shift does: the safe one may fail, too.
    assert values[0] < shifted_values(robust)["value at shift 0.3"]


@given(
    st.lists(st.floats(0.01, 1), min_size=4, max_size=4),
    st.lists(st.floats(0, 5), min_size=4, max_size=4),
    st.floats(0, 1.2),
)
def test_the_dual_is_the_least_mean_in_the_ball(weights, values, radius) -> None:
    mu, values = np.array(weights) / np.sum(weights), np.array(values)
    found = robust_means(mu, values, radius, values, lowest=values.min())
    assert_allclose(found, tv_ball(mu, values, radius).value, atol=1e-9)


def test_without_a_kl_term_the_best_allowed_action_is_taken() -> None:
    values = np.array([[1.0, 3.0, 2.0]])
    value, policy = regularized(values, np.array([0.5, 0.0, 0.5]), np.inf)
    assert value.tolist() == [2.0] and policy.tolist() == [[0.0, 0.0, 1.0]]
    value, policy = regularized(values, np.array([0.5, 0.0, 0.5]), 1e-9)
    assert_allclose(value, 1.5)
    assert_allclose(policy, [[0.5, 0.0, 0.5]], atol=1e-8)


# -- the agent ------------------------------------------------------------------------------------


@pytest.mark.filterwarnings(NO_FAIL_STATE)
@pytest.mark.parametrize("radius", [0.0, 0.25, 1.0])
def test_with_all_the_data_it_plans_as_robust_dynamic_programming_does(radius: float) -> None:
    core = Garnet(**GARNET)
    agent = well_informed(core, ("Garnet-v0", GARNET), radius=radius, eta=5.0, grid=10**5)
    uncertainty = FactorRectangular(core.phi, core.mu, radius, tv_ball)
    choose = partial(soft, reference=np.full(3, 1 / 3), eta=5.0)
    exact = robust_backward_induction(uncertainty, core.R[0], 3, choose=choose)
    assert_allclose(agent.plan(), exact.values[0], atol=1e-4)
    assert_allclose(agent.probabilities, exact.policy, atol=1e-4)


@pytest.mark.filterwarnings(NO_FAIL_STATE)
def test_estimates_are_those_of_least_squares_over_all_transitions() -> None:
    agent, rng = make("Garnet-v0", env_arguments=GARNET, ridge=0.5), np.random.default_rng(3)
    states, actions = rng.integers(5, size=(2, 6, 4)), rng.integers(3, size=(2, 6, 3))
    for each in range(2):
        agent.study(Trajectories(states[each], actions[each], np.zeros((6, 3))))
    values, alpha, step = rng.random(5), 0.6, 1
    gram, total = 0.5 * np.eye(4), np.zeros(4)
    for batch in range(2):
        for episode in range(6):
            s, a = states[batch, episode, step], actions[batch, episode, step]
            phi = agent.features[s, a]
            gram += np.outer(phi, phi)
            total += phi * min(values[states[batch, episode, step + 1]], alpha)
    assert_allclose(agent.gram[step], gram)
    factors = np.linalg.solve(agent.gram[step], agent.arrivals[step].T)
    assert_allclose(factors @ np.minimum(values, alpha), np.linalg.solve(gram, total))
    expected = np.linalg.solve(gram, total) - 0.2 * alpha
    assert_allclose(robust_means(factors, values, 0.2, np.array([alpha])), expected)


def test_without_data_only_rewards_and_bonus_count() -> None:
    agent = make(eta=3.0, bonus=0.1, ridge=0.25)  # nu = 0 and a bonus of 0.2
    action_values = agent.rewards + 0.2
    values, laws = soft(action_values, np.full(4, 0.25), 3.0)
    for step in range(3):
        assert_allclose(agent.probabilities[step], laws)
    assert_allclose(agent.plan()[:1], values[:1])
    # The jackpot pays 1: the last step's cap is 1, that of the steps before larger.
    assert_allclose(agent.preferences[-1, 1], 1.0)
    assert_allclose(agent.preferences[0, 1], 1.2)
    assert_allclose(make(bonus=100.0).preferences[:, 2, 0], [4, 3, 2, 1])


def test_actions_without_a_reference_are_never_taken() -> None:
    reference = np.tile([0.0, 0.5, 0.5, 0.0], (3, 1))
    for eta in (1.0, np.inf):
        agent = make(reference=reference, eta=eta).learn(200)
        assert (agent.probabilities[..., [0, 3]] == 0).all()
        assert_allclose(agent.probabilities.sum(axis=-1), 1)
    near = make(reference=reference, eta=1e-6).learn(40)
    assert_allclose(near.probabilities[0], reference, atol=1e-5)


def test_a_mirrored_policy_starts_from_the_one_before() -> None:
    reference, eta, share = np.array([0.1, 0.2, 0.3, 0.4]), 1.5, 0.25
    agent = make(
        reference=np.tile(reference, (3, 1)), eta=eta, reference_weight=share, bonus=0.0, radius=0.1
    )
    agent.learn(40)
    before = agent.probabilities.copy()
    preferred = agent.preferences.copy()
    values = agent.plan()
    action_values = agent.preferences - (1 - share) * preferred
    mixed = before ** (1 - share) * reference**share
    mixed /= mixed.sum(axis=-1, keepdims=True)
    expected, laws = soft(action_values, mixed, eta)
    assert_allclose(agent.probabilities, laws)
    assert_allclose(values, expected[0])


def test_a_world_without_a_fail_state_is_noticed() -> None:
    assert has_fail_state(GambleChain()) and not has_fail_state(Garnet(**GARNET))
    with pytest.warns(UserWarning, match="Garnet has no state that is never left"):
        agent = make("Garnet-v0", env_arguments=GARNET, bonus=0.0)
    assert agent.fail_state is False
    # Without data nu is 0 whatever the least value.
    assert_allclose(agent.preferences, np.broadcast_to(agent.rewards, (3, 5, 3)))


def test_a_tabular_world_has_unit_vectors_as_features() -> None:
    rewards = np.array([[0.1, 0.5], [0.9, 0.0]])
    P = np.array([[[1.0, 0.0], [0.5, 0.5]], [[0.0, 1.0], [1.0, 0.0]]])
    env = {"P": P, "low": rewards[..., None], "horizon": 2}
    features = np.eye(4).reshape(2, 2, 4)
    arguments = {"features": features, "theta": rewards.ravel(), "radius": 0.0}
    agent = make("FiniteMDP-v0", env_arguments=env, **arguments).learn(1_000)
    assert_allclose(agent.rewards, rewards)
    assert_allclose(agent.gram.diagonal(axis1=1, axis2=2).sum(axis=1), 0.4 + 500)
    assert agent.probabilities[0, 1, 0] > 0.99 and agent.probabilities[1, 0, 1] > 0.99
    with pytest.raises(ValueError, match="DRRPO needs a linear environment, or features"):
        make("FiniteMDP-v0", env_arguments=env)


def test_robust_policies_keep_more_where_the_gamble_got_worse() -> None:
    found = {}
    for radius in (0.0, 0.3):
        env = make_sb3("GambleChain-v0", num_envs=25)
        agent = palaestra.agents.DRRPO("TimePolicy", env, radius=radius, seed=100)
        agent.learn(1_000 * 4)
        found[radius] = shifted_values(agent.probabilities)
    assert found[0.3]["value at shift 0.3"] > 1.2 * found[0.0]["value at shift 0.3"]
    assert 0.85 * found[0.0]["value at shift 0"] < found[0.3]["value at shift 0"]
    assert found[0.3]["value at shift 0"] < found[0.0]["value at shift 0"]


def test_a_loaded_agent_goes_on_from_its_data(tmp_path) -> None:
    agent = make(reference_weight=0.5).learn(80)
    agent.save(tmp_path / "agent")
    loaded = palaestra.agents.DRRPO.load(tmp_path / "agent")
    for name in ("gram", "arrivals", "preferences", "features", "theta"):
        assert_array_equal(getattr(loaded, name), getattr(agent, name))
    assert loaded.fail_state is True
    assert_array_equal(loaded.plan(), agent.plan())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"radius": -0.1}, "radius=-0.1 must be a finite number of at least 0"),
        ({"eta": 0.0}, "eta and ridge must be above 0, got eta=0.0"),
        ({"ridge": 0.0}, "eta and ridge must be above 0"),
        ({"bonus": -1.0}, "bonus=-1.0 must be"),
        ({"grid": 1}, "grid=1 must be an integer of at least 2"),
        ({"reference_weight": 1.5}, "reference_weight=1.5 must be a number from 0 to 1"),
        ({"reference": np.ones(4) / 4}, r"reference has shape \(4,\), allowed"),
        ({"reference": np.ones((3, 4))}, r"reference\[0\] sums to 4"),
        ({"features": np.full((3, 4, 4), 0.5)}, "sums to 2"),
        ({"features": np.tile([1.5, -0.5, 0, 0], (3, 4, 1))}, r"= 1.5 is outside \[0, 1\]"),
        ({"theta": np.ones(3)}, r"features has shape \(3, 4, 4\), allowed"),
        ({"theta": [0.0, 0.0, 2.0, 0.0]}, "rewards features . theta are 0.0 to 2.0"),
    ],
)
def test_arguments_out_of_range(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**arguments)
