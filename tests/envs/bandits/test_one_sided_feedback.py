"""`OneSidedFeedback`: what a lender learns, what the panel reports, and errors."""

from __future__ import annotations

import itertools

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.vec_env import DummyVecEnv

from palaestra.envs.bandits.auditors import AuditorPanel, called_distances, scaled_distances
from palaestra.envs.bandits.one_sided_feedback import OneSidedFeedback, OneSidedFeedbackEnv

POLICIES = np.array([[1, 1, 0], [1, 0, 0], [0, 1, 1]])
WEIGHTS = np.array([0.5, 0.3, 0.2])
ACCEPTANCE = 0.9 * WEIGHTS @ POLICIES + 0.05
CONSTANTS = [lambda x, y: 0.1, lambda x, y: 0.3, lambda x, y: 0.6]
PEOPLE = {"contexts": [[[0.2], [0.4], [0.9]]] * 2, "labels": [[1, 0, 1]] * 2}


def test_worked_example_report_of_three_auditors():
    assert ACCEPTANCE == pytest.approx([0.77, 0.68, 0.23])
    distances = called_distances(np.zeros((1, 3, 1)), CONSTANTS)
    assert distances.shape == (1, 3, 3, 3)
    for gamma, expected in ((0.6, [0, 2]), (0.7, [-1, -1])):
        pair, share = AuditorPanel(0.2, gamma).report(ACCEPTANCE[None], distances)
        assert pair.tolist() == [expected]
        assert share == pytest.approx([2 / 3])


def test_worked_example_in_the_environment():
    env = OneSidedFeedbackEnv(**PEOPLE, auditors=CONSTANTS)
    observation, info = env.reset(seed=0)
    assert observation == pytest.approx([0.2, 0.4, 0.9])
    assert info["labels"].tolist() == [-1, -1, -1] and info["pair"].tolist() == [-1, -1]
    env.audit(ACCEPTANCE)
    _, reward, _, _, info = env.step([1, 1, 0])
    assert info["labels"].tolist() == [1, 0, -1]
    assert info["pair"].tolist() == [0, 2]
    assert info["violation"] == 1 and info["cost"] == 1.0
    assert reward == pytest.approx(-(0 + 1 + 0.5) / 3)
    assert info["error"] == pytest.approx(2 / 3)
    assert info["policy_error"] == pytest.approx((0.23 + 0.68 + 0.77) / 3)
    # Without an audit the panel goes by the decisions, 1 against 0 at the pairs (0, 1), (0, 2).
    *_, terminated, _, info = env.step([1, 0, 0])
    assert info["pair"].tolist() == [0, 1] and info["share"] == 1.0
    assert info["policy_error"] == info["error"] == pytest.approx(1 / 3)
    assert terminated and info["cumulative_cost"] == 2.0
    assert info["cumulative_regret"] == pytest.approx(1.0)
    with pytest.raises(ValueError, match="the episode has ended"):
        env.audit(ACCEPTANCE)


@pytest.mark.parametrize(("alpha", "gamma", "m"), [(0.0, 0.2, 5), (0.2, 0.6, 5), (0.1, 1.0, 3)])
def test_the_panel_reports_the_pair_with_most_objections(alpha, gamma, m):
    rng = np.random.default_rng(m)
    scores, kappas = rng.random((40, 4)), rng.uniform(0.1, 2, (40, m))
    acceptance = rng.integers(0, 5, (40, 4)) / 4
    pairs, shares = AuditorPanel(alpha, gamma).report(acceptance, scaled_distances(scores, kappas))
    reported = 0
    for row in range(40):
        most, expected = 0, (-1, -1)
        for i, j in itertools.product(range(4), repeat=2):
            gap, apart = (
                acceptance[row, i] - acceptance[row, j],
                abs(scores[row, i] - scores[row, j]),
            )
            votes = sum(gap > kappa * apart + alpha for kappa in kappas[row])
            if votes > most:
                most, expected = votes, (i, j)
        assert shares[row] == pytest.approx(most / m)
        assert tuple(pairs[row]) == (expected if most / m >= gamma - 1e-9 else (-1, -1))
        reported += pairs[row, 0] >= 0
    assert 0 < reported < 40


def test_reward_is_half_the_misclassified_share_up_to_a_constant():
    core = OneSidedFeedback(k=3, T=1)
    tape = core.tapes(8, 0)
    state = core.initial(tape)
    labels = state["labels"]
    rewards, errors = [], []
    for decisions in itertools.product((0, 1), repeat=3):
        action = np.tile(decisions, (8, 1))
        after = core.transition(state, action, tape)
        rewards.append(core.reward(state, action, after))
        errors.append((action != labels).mean(axis=1))
        np.testing.assert_array_equal(after["known"], np.where(action == 1, labels, -1))
    constant = np.array(rewards) + 0.5 * np.array(errors)
    np.testing.assert_allclose(constant, np.tile(constant[0], (8, 1)), atol=1e-12)


def test_regret_is_that_against_the_best_of_all_decisions():
    core = OneSidedFeedback(k=4, T=1)
    tape = core.tapes(20, 3)
    state = core.initial(tape)
    chance = state["chance"]
    errors, regrets = [], []
    for decisions in itertools.product((0, 1), repeat=4):
        info = core.info(core.transition(state, np.tile(decisions, (20, 1)), tape))
        expected = np.mean(
            [c if d == 0 else 1 - c for d, c in zip(decisions, chance.T, strict=True)], 0
        )
        assert info["error"] == pytest.approx(expected)
        errors.append(info["error"])
        regrets.append(info["regret"])
    np.testing.assert_allclose(regrets, np.array(errors) - np.min(errors, axis=0), atol=1e-12)


def test_people_are_the_stated_draws():
    core = OneSidedFeedback(k=3, T=4, panel="changing", m=2, slope=8.0, thresholds=(0.2, 0.7))
    tape = core.draw_tape(np.random.default_rng(9), {})
    rng = np.random.default_rng(9)
    scores, groups = rng.random((5, 3)), rng.integers(2, size=(5, 3))
    chance = 1 / (1 + np.exp(-8.0 * (scores - np.where(groups == 0, 0.2, 0.7))))
    np.testing.assert_array_equal(tape["contexts"], np.stack([scores, groups], axis=-1))
    np.testing.assert_allclose(tape["chance"], chance)
    np.testing.assert_array_equal(tape["labels"], rng.random((5, 3)) < chance)
    np.testing.assert_array_equal(tape["kappas"], rng.uniform(0.5, 2, (5, 2)))
    fixed = OneSidedFeedback(instance=4)
    np.testing.assert_array_equal(fixed.kappas, np.random.default_rng(4).uniform(0.5, 2, 5))


def test_a_changing_panel_audits_with_the_factors_of_the_round():
    core = OneSidedFeedback(k=4, T=30, panel="changing", gamma=0.2)
    tape = core.tapes(2, 1)
    state, rng = core.initial(tape), np.random.default_rng(0)
    for t in range(30):
        acceptance = rng.random((2, 4))
        distances = scaled_distances(tape["contexts"][:, t, :, 0], tape["kappas"][:, t])
        expected, _ = core.panel.report(acceptance, distances)
        state = core.transition(core.announce(state, acceptance), np.ones((2, 4), int), tape)
        np.testing.assert_array_equal(state["pair"], expected)


def test_all_labels_are_shown_to_a_learner_with_full_feedback():
    envs = [OneSidedFeedbackEnv(feedback=feedback) for feedback in ("one_sided", "full")]
    for env in envs:
        env.reset(seed=2)
    for action in ([1, 0, 0, 1], [0, 0, 0, 0]):
        labels = envs[1].unwrapped.state["labels"][0]
        shown = [env.step(action)[-1]["labels"] for env in envs]
        np.testing.assert_array_equal(shown[0], np.where(np.array(action) == 1, labels, -1))
        np.testing.assert_array_equal(shown[1], labels)


def test_the_most_accurate_policy_is_reported_often_and_a_gentle_slope_never():
    env = OneSidedFeedbackEnv(T=200)
    violations = []
    for accurate in (True, False):
        observation, _ = env.reset(seed=0)
        for _ in range(200):
            scores, groups = observation.reshape(4, 2).T
            if not accurate:
                env.audit(0.25 + 0.5 * scores)  # no steeper than the strictest auditor allows
            decisions = scores > np.where(groups == 0, 0.35, 0.65)
            observation, *_, info = env.step(decisions.astype(int))
        assert info["cumulative_regret"] == pytest.approx(0.0, abs=1e-5)
        violations.append(info["cumulative_cost"])
    assert violations[0] > 100 and violations[1] == 0


def test_one_person_makes_no_pair():
    env = OneSidedFeedbackEnv(k=1, T=3, auditors=(0.0,), alpha=0.0)
    env.reset(seed=0)
    env.audit([0.3])
    assert env.step([1])[-1]["pair"].tolist() == [-1, -1]


def test_audits_of_a_vector_and_through_sb3():
    rng = np.random.default_rng(1)
    vector = gym.make_vec("OneSidedFeedback-v0", num_envs=2, T=5, auditors=(0.5, 0.1))
    sync = DummyVecEnv([lambda: gym.make("OneSidedFeedback-v0", T=5, auditors=(0.5, 0.1))])
    vector.reset(seed=3)
    sync.seed(3)
    sync.reset()
    for _ in range(4):
        acceptance, action = rng.random((2, 4)), rng.integers(2, size=(2, 4))
        vector.unwrapped.audit(acceptance)
        sync.env_method("audit", acceptance[0])
        infos, others = vector.step(action)[-1], sync.step(action[:1])[-1]
        for name in ("pair", "labels", "policy_error", "cumulative_regret", "share"):
            np.testing.assert_array_equal(infos[name][0], others[0][name])
    with pytest.raises(ValueError, match=r"pi has shape \[4\], it must be \[2, 4\]"):
        vector.unwrapped.audit(np.zeros(4))
    with pytest.raises(ValueError, match=r"pi\[1, 0\] = 1.5 is outside \[0, 1\]"):
        vector.unwrapped.audit([[0.1] * 4, [1.5, 0.0, 0.0, 0.0]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"gamma": 0.0}, r"gamma=0.0 must be in \(0, 1\]"),
        ({"gamma": 1.5}, "gamma=1.5"),
        ({"alpha": -0.1}, "alpha=-0.1"),
        ({"k": 0}, "k=0"),
        ({"m": 0}, "m=0"),
        ({"panel": "none"}, "panel='none'"),
        ({"feedback": "none"}, "feedback='none'"),
        ({"auditors": []}, "got 0 auditors"),
        ({"auditors": (1.0, 2.0), "m": 3}, "got 2 auditors, m=3"),
        ({"auditors": (1.0, -2.0)}, "auditors=-2.0"),
        ({"auditors": (1.0,), "panel": "changing"}, "fixed panel"),
        ({"thresholds": (0.1,)}, "two numbers"),
        ({"contexts": [[[0.0]]]}, "give both or neither"),
        ({"contexts": [[0.0]], "labels": [[0]]}, r"contexts must have shape \[T, k, d\]"),
        ({"contexts": [[[np.inf]]], "labels": [[0]]}, "not finite"),
        ({"contexts": [[[0.0]]], "labels": [[2]]}, r"0 or 1, got \[2\]"),
        ({**PEOPLE, "T": 3}, r"T=3, but contexts has shape \[2, 3, 1\]"),
        ({**PEOPLE, "k": 2}, "k=2, but contexts"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        OneSidedFeedback(**arguments)


@pytest.mark.parametrize("arguments", [{}, PEOPLE])
def test_pictures(arguments):
    env = gym.make("OneSidedFeedback-v0", render_mode="rgb_array", **arguments)
    env.reset(seed=0)
    before = env.render()
    env.step(np.arange(env.action_space.n) % 2)
    after = env.render()
    assert before.shape == after.shape == (380, 860, 3)
    assert (before != after).any()
