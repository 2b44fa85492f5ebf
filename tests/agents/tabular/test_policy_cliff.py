"""The policy cliff: ties, what flips them, how smooth soft policies are, and a planner."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import palaestra
from palaestra.agents.tabular import policy_cliff as cliff
from palaestra.agents.tabular.cliff_probe import CliffProbe, tied_reward_share
from palaestra.envs.tabular.planning.discounted import evaluate

P = np.zeros((3, 2, 3))
P[0, 0, 1] = P[0, 1, 2] = P[1, :, 0] = P[2, :, 0] = 1
R = np.array([[0, 0], [1, 0.5], [1, 0.2]])
GAMMA, EPS = 0.5, 0.01


def world(seed, states=5, actions=3):
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.ones(states), (states, actions)), rng.random((states, actions)), rng


worlds = st.integers(0, 2**32).map(world)
quickly = settings(deadline=None, max_examples=30)


# -- the worked example ----------------------------------------------------------------------------


def test_worked_example_of_the_tie():
    found = cliff.q_star(P, R, GAMMA)
    expected = [[0.666667, 0.666667], [1.333333, 0.833333], [1.333333, 0.533333]]
    assert_allclose(found, expected, atol=1e-6)
    assert_array_equal(cliff.optimal_sets(found), [[True, True], [True, False], [True, False]])
    assert_allclose(cliff.margins(found), [0, 0.5, 0.8], atol=1e-9)
    assert_allclose(cliff.law(found, 0), [[0.5, 0.5], [1, 0], [1, 0]])
    assert_allclose(cliff.greedy_law(found), [[1, 0], [1, 0], [1, 0]])


def test_worked_example_of_the_broken_tie():
    before = cliff.q_star(P, R, GAMMA)
    rewards = cliff.tie_break_reward(P, before, GAMMA, 0, 1, EPS)
    assert_allclose(rewards, [[0, 0.01], [0.995, 0.495], [0.995, 0.195]], atol=1e-9)
    after = cliff.q_star(P, rewards, GAMMA)
    assert_allclose(after - before, EPS * np.array([[0, 1], [0, 0], [0, 0]]), atol=1e-9)
    jump = cliff.total_variation(cliff.law(before, 0), cliff.law(after, 0))
    assert_allclose(jump, [0.5, 0, 0])


def test_worked_example_of_soft_policies():
    rewards = cliff.tie_break_reward(P, cliff.q_star(P, R, GAMMA), GAMMA, 0, 1, EPS)
    before, after = (cliff.law(cliff.q_soft(P, r, GAMMA, 0.2), 0.2) for r in (R, rewards))
    assert before[0, 0] == pytest.approx(0.507592, abs=1e-6)
    assert cliff.total_variation(before, after)[0] == pytest.approx(0.0124993, abs=1e-7)
    assert cliff.soft_bound(EPS, 0.2, GAMMA) == pytest.approx(0.05)
    assert cliff.needed_temperature(EPS, 0.05, GAMMA) == pytest.approx(0.2)


def test_worked_example_of_several_rewards():
    weights = [[0.5, 0.5], [1, 0], [0.25, 0.75]]
    found = cliff.effective_reward(weights, [R, R[:, ::-1]])
    assert_allclose(found, [[0, 0], [1, 0.5], [0.4, 0.8]], atol=1e-12)


def test_worked_example_of_the_report():
    report = cliff.CliffReport.of(P, R, GAMMA, noise=0.15, target=0.05)
    assert report.tied.tolist() == [0]
    assert report.hidden.tolist() == []
    assert report.near_tied.tolist() == [1]  # 0.5 < 2 * 0.15 / 0.5 < 0.8
    assert report.worst_jump == pytest.approx(0.5)
    assert_allclose(report.safe_change, [0, 0.125, 0.2], atol=1e-9)
    assert_allclose(report.flipping_change, [0, 1 / 3, 0.8 / 1.5], atol=1e-9)
    assert report.alpha == pytest.approx(3.0)


# -- what the paper proves -------------------------------------------------------------------------


@quickly
@given(worlds, st.floats(0, 0.95), st.floats(1e-3, 1))
def test_values_are_smooth_in_the_rewards_and_so_are_soft_policies(drawn, gamma, alpha):
    P, R, rng = drawn
    change = 0.1 * rng.uniform(-1, 1, R.shape)
    size = float(np.abs(change).max())
    hard = cliff.q_star(P, R + change, gamma) - cliff.q_star(P, R, gamma)
    assert np.abs(hard).max() <= size / (1 - gamma) + 1e-9
    soft = [cliff.law(cliff.q_soft(P, r, gamma, alpha), alpha) for r in (R, R + change)]
    moved = cliff.total_variation(*soft)
    assert moved.max() <= cliff.soft_bound(size, alpha, gamma) + 1e-6


@quickly
@given(worlds, st.floats(0, 0.95), st.floats(1e-6, 1))
def test_a_broken_tie_changes_rewards_little_and_values_as_wanted(drawn, gamma, eps):
    P, R, rng = drawn
    state, action = int(rng.integers(5)), int(rng.integers(3))
    values = cliff.q_star(P, R, gamma)
    rewards = cliff.tie_break_reward(P, values, gamma, state, action, eps)
    assert np.abs(rewards - R).max() <= (1 + gamma) * eps + 1e-9
    values[state, action] += eps
    assert_allclose(cliff.q_star(P, rewards, gamma), values, atol=1e-8)


@quickly
@given(worlds, st.floats(0, 0.95))
def test_changes_that_are_safe_keep_the_best_action_and_larger_ones_need_not(drawn, gamma):
    P, R, rng = drawn
    values = cliff.q_star(P, R, gamma)
    report = cliff.CliffReport.of(P, R, gamma)
    state = int(report.margins.argmin())
    best, second = np.argsort(values[state])[[-1, -2]]
    signs = np.where(rng.random(R.shape) < 0.5, -1, 1)
    kept = cliff.q_star(P, R + 0.999 * report.safe_change[state] * signs, gamma)
    assert kept[state].argmax() == best
    # The change by which the report says that the action can be flipped.
    size = report.flipping_change[state]
    other = values.copy()
    other[state, best] -= size
    other[state, second] += report.margins[state] - size + 1e-7
    rewards = cliff.inverse_bellman(P, other, gamma)
    assert np.abs(rewards - R).max() <= size + 2e-7
    assert cliff.q_star(P, rewards, gamma)[state].argmax() == second


@quickly
@given(worlds, st.floats(0, 0.95))
def test_ties_that_the_missing_reward_would_break_cost_value(drawn, gamma):
    P, trained, rng = drawn
    P[:, 1], trained[:, 1] = P[:, 0], trained[:, 0]
    trained[:, 2] -= 2 / (1 - gamma)  # actions 0 and 1 tie, 2 is far behind
    missing = 0.1 * rng.standard_normal(trained.shape)
    policy = cliff.law(cliff.q_star(P, trained, gamma), 0)
    assert_allclose(policy, np.tile([0.5, 0.5, 0], (5, 1)))
    better = cliff.improvable_ties(P, trained, missing, policy, gamma)
    assert_array_equal(better[:, :2].sum(axis=1), np.ones(5))  # one of two differs from their mean
    assert not better[:, 2].any()
    improved = better.astype(float)
    for rewards, gain in ((trained, 0.0), (trained + missing, 1e-9)):
        old, new = (evaluate(P, rewards, law, gamma) for law in (policy, improved))
        assert (new >= old + gain - 1e-12).all()
        assert gain or np.abs(new - old).max() < 1e-9


def test_without_a_missing_reward_no_tie_can_be_improved():
    policy = cliff.law(cliff.q_star(P, R, GAMMA), 0)
    assert not cliff.improvable_ties(P, R, 0 * R, policy, GAMMA).any()


@quickly
@given(worlds)
def test_the_effective_reward_changes_no_more_than_the_rewards_do(drawn):
    _, R, rng = drawn
    weights, others = rng.dirichlet(np.ones(4), 5), rng.standard_normal((4, *R.shape))
    change = rng.uniform(-0.1, 0.1, others.shape)
    moved = cliff.effective_reward(weights, others + change)
    moved = moved - cliff.effective_reward(weights, others)
    assert np.abs(moved).max() <= np.abs(change).max() + 1e-12


# -- edge cases ------------------------------------------------------------------------------------


def test_tied_states_that_cannot_be_visited_are_reported_apart():
    everywhere = cliff.CliffReport.of(P, R, GAMMA)
    from_one = cliff.CliffReport.of(P, R, GAMMA, d0=[0, 1, 0])
    assert everywhere.tied.tolist() == from_one.tied.tolist() == [0]
    loop = P.copy()
    loop[1:] = np.eye(3)[1:, None]  # states 1 and 2 are never left
    apart = cliff.CliffReport.of(loop, np.array([[0, 0], [1, 0.5], [1, 0.2]]), GAMMA, d0=[0, 1, 0])
    assert apart.tied.tolist() == [] and apart.hidden.tolist() == [0]
    assert apart.worst_jump == 0.0


def test_a_single_action_has_no_second():
    assert np.isinf(cliff.margins(np.ones((2, 1)))).all()


def test_ties_are_ties_within_the_tolerance():
    values = np.array([1.0, 1.0 - 5e-9, 1.0 - 5e-8])
    assert cliff.optimal_sets(values).tolist() == [True, True, False]
    assert cliff.optimal_sets(values, 1e-7).all()
    assert_allclose(cliff.law(values, 0, tolerance=1e-12), [1, 0, 0])


def test_soft_values_approach_hard_ones_and_may_be_asked_for_any_temperature():
    hard = cliff.q_star(P, R, GAMMA)
    assert_allclose(cliff.q_soft(P, R, GAMMA, 1e-6), hard, atol=1e-5)
    with pytest.raises(ValueError, match="alpha=0 must be above 0"):
        cliff.q_soft(P, R, GAMMA, 0)


@pytest.mark.parametrize("gamma", [1.0, -0.1, np.nan])
def test_gamma_outside_the_allowed_range_is_refused(gamma):
    for call in (
        lambda: cliff.q_star(P, R, gamma),
        lambda: cliff.q_soft(P, R, gamma, 0.1),
        lambda: cliff.soft_bound(0.1, 0.1, gamma),
        lambda: cliff.CliffReport.of(P, R, gamma),
        lambda: palaestra.agents.CliffPlanner("LawPolicy", "Garnet-v0", gamma=gamma),
    ):
        with pytest.raises(ValueError, match="outside"):
            call()


def test_weights_that_are_none_are_refused():
    with pytest.raises(ValueError, match="sums to 0.9"):
        cliff.effective_reward([[0.5, 0.4]] * 3, [R, R])
    with pytest.raises(ValueError, match=r"outside \[0, 1\]"):
        cliff.effective_reward([[1.5, -0.5]] * 3, [R, R])
    with pytest.raises(ValueError, match=r"\[S, K\]"):
        cliff.effective_reward([[1.0, 0.0]] * 2, [R, R])


# -- the planner -----------------------------------------------------------------------------------


def planner(seed=0, env=None, **arguments):
    env = gym.make("FiniteMDP-v0", P=P, low=R[..., None], max_steps=9) if env is None else env
    return cliff.CliffPlanner("LawPolicy", env, gamma=GAMMA, seed=seed, **arguments)


def test_a_planner_finds_hard_and_soft_values():
    assert_allclose(planner().learn(60).table, cliff.q_star(P, R, GAMMA), atol=1e-12)
    soft = planner(alpha=0.2).learn(60)
    assert_allclose(soft.table, cliff.q_soft(P, R, GAMMA, 0.2), atol=1e-9)
    assert soft.num_timesteps == 60


def test_noise_moves_the_hard_policy_and_not_the_soft_one():
    asked = np.zeros(2_000, dtype=np.int64)
    shares = {}
    for alpha in (0.0, 0.2):
        for noise in (0.0, 1e-3):
            agent = planner(alpha=alpha, noise=noise).learn(60)
            shares[alpha, noise] = agent.predict(asked)[0].mean()
    assert abs(shares[0.0, 0.0] - 0.5) < 0.05
    assert shares[0.0, 1e-3] in (0.0, 1.0)
    assert abs(shares[0.2, 1e-3] - (1 - 0.507592)) < 0.05


def test_the_lowest_of_tied_actions_is_the_deterministic_one_and_masks_are_kept():
    agent = planner().learn(60)
    assert agent.predict(0, deterministic=True)[0] == 0
    assert agent.predict(0, deterministic=True, action_masks=[False, True])[0] == 1
    masks = np.tile([False, True], (50, 1))
    assert (agent.predict(np.zeros(50, np.int64), action_masks=masks)[0] == 1).all()


def test_nothing_is_earned_beyond_an_end():
    ways = np.zeros((2, 1, 2))
    ways[:, 0, 1] = 1
    env = gym.make("FiniteMDP-v0", P=ways, low=[[[1.0]], [[5.0]]], terminal=(1,))
    assert planner(env=env).learn(60).table[0, 0] == pytest.approx(1.0)


def test_a_planner_keeps_its_noise_in_a_checkpoint(tmp_path):
    agent = planner(seed=None, noise=0.1).learn(5)
    agent.save(tmp_path / "agent")
    loaded = cliff.CliffPlanner.load(tmp_path / "agent", env=agent.get_env())
    assert_array_equal(loaded.errors, agent.errors)
    assert np.abs(agent.errors).max() <= 0.1
    for each in (agent, loaded):
        each.learn(60)
    assert_array_equal(loaded.table, agent.table)


def test_worlds_that_cannot_be_planned_in_are_refused():
    for env in (gym.make("FiniteMDP-v0", horizon=5), gym.make("FrozenLake-v1")):
        with pytest.raises(ValueError, match="needs a FiniteMDP without a horizon"):
            planner(env=env).learn(1)
    for name in ("alpha", "noise", "tolerance"):
        with pytest.raises(ValueError, match=f"{name}=-1"):
            planner(**{name: -1})


# -- language models -------------------------------------------------------------------------------


def test_rewards_tie_where_the_best_replies_have_several_styles():
    groups = [0, 0, 0, 1, 1, 1, 2, 2, 2]
    styles = [0, 1, 1, 0, 0, 1, 0, 1, 0]
    rewards = [1, 1, 0, 1, 1, 0, 0, 0, 0]
    assert tied_reward_share(rewards, groups, styles) == pytest.approx(0.5)
    assert tied_reward_share([0, 0], [0, 0], [0, 1]) == 0.0


def language_model(seed=0, **changes):
    cls = palaestra.agents.TextReinforce
    env = gym.make("Arithmetic-v0", digits=1, pool=12, **{"styles": 2, **changes})
    arguments = {**cls.example.kwargs, "learning_rate": 1e-2}
    return cls("TextPolicy", env, seed=seed, device="cpu", **arguments)


def test_a_probe_without_a_bonus_does_not_change_what_is_learned():
    alone, watched = language_model().learn(64), language_model()
    probe = CliffProbe(every=2, prompts=3, replies=2)
    watched.learn(64, probe)
    for ours, theirs in zip(alone.policy.parameters(), watched.policy.parameters(), strict=True):
        assert_array_equal(ours.detach().numpy(), theirs.detach().numpy())
    assert [each["timesteps"] for each in probe.found] == [0, 32, 64]
    for each in probe.found:
        assert 0 <= each["style_0"] + each["style_1"] <= 1
        assert each["entropy"] > 0
    assert "reward" not in vars(watched)


def test_a_bonus_is_paid_for_one_style_alone():
    agent = language_model()
    probe = CliffProbe(bonus=-0.25, style=1, prompts=2, replies=2)
    agent.learn(16)
    probe.init_callback(agent)
    probe.on_training_start({}, {})
    rollouts = agent.rollout(agent.select())
    styled = [verdict["style"] == 1 for verdict in rollouts.verdicts]
    plain = type(agent).reward(agent, rollouts)
    assert_allclose(agent.reward(rollouts) - plain, -0.25 * np.array(styled), atol=1e-7)
    probe.on_training_end()
    assert_allclose(agent.reward(rollouts), plain)


def test_a_large_bonus_decides_the_style():
    shares = []
    for bonus in (-1.0, 1.0):
        probe = CliffProbe(every=100, bonus=bonus, prompts=4, replies=8)
        language_model().learn(16 * 60, probe)
        shares.append(probe.found[-1]["style_0"])
    assert shares[1] > shares[0] + 0.5


def test_what_a_probe_cannot_watch_is_refused():
    with pytest.raises(ValueError, match="every=0"):
        CliffProbe(every=0)
    with pytest.raises(ValueError, match="style=2"):
        CliffProbe(style=2)
    with pytest.raises(ValueError, match="watches a GroupAlgorithm, got CliffPlanner"):
        planner().learn(1, CliffProbe())
    with pytest.raises(ValueError, match="says no 'politeness' of a reply"):
        language_model().learn(16, CliffProbe(key="politeness"))
