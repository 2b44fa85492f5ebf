"""Bandits that learn from released batches: exploration, log, model and diagnostics."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import minimize

import palaestra
from palaestra.agents.bandit.adyen_bandits import (
    BatchEpsilonGreedy,
    BatchSoftmax,
    BatchSquareCB,
    epsilon_greedy,
    inverse_gap_weighting,
    off_policy_values,
    oscillation,
    softmax,
)
from palaestra.agents.bandit.batch_learning import Batch, Log, imbalance
from palaestra.agents.bandit.success_model import (
    best_available,
    fit_logistic,
    success_probabilities,
)
from palaestra.agents.base.bandit import Diary
from palaestra.wrappers.sb3 import make_sb3

SCORES = np.array([[0.9, 0.8, 0.95, 0.5], [0.7, 0.72, 0.9, 0.1]])
AVAILABLE = np.array([[1, 1, 0, 1], [1, 1, 0, 0]], dtype=bool)


class Noting(BatchSquareCB):
    """Keeps the batches that it is fitted to."""

    def fit(self, batch):
        self.__dict__.setdefault("batches", []).append(batch)
        return super().fit(batch)


def router(cls=BatchSquareCB, seed=0, arguments=None, **world):
    env = gym.make("PaymentRouting-v0", **{"observation": "flat", "batch": 50, **world})
    return cls("SuccessModelPolicy", env, seed=seed, **(arguments or {}))


def test_worked_example_of_the_exploration_rules():
    assert_allclose(
        inverse_gap_weighting(SCORES, AVAILABLE, 20.0),
        [[0.709091, 0.2, 0, 0.090909], [0.416667, 0.583333, 0, 0]],
        atol=1e-6,
    )
    assert_allclose(
        epsilon_greedy(SCORES, AVAILABLE, 0.1),
        [[0.933333, 0.033333, 0, 0.033333], [0.05, 0.95, 0, 0]],
        atol=1e-6,
    )
    assert_allclose(
        softmax(SCORES, AVAILABLE, 0.1),
        [[0.721399, 0.265388, 0, 0.013213], [0.450166, 0.549834, 0, 0]],
        atol=1e-6,
    )


def test_worked_example_of_the_off_policy_values():
    found = off_policy_values(
        np.array([1.0, 0.0, 1.0]), np.array([0.5, 0.2, 0.1]), np.array([0.25, 0.4, 0.3])
    )
    assert_allclose(found, [1.166667, 0.636364, 2.283019], atol=1e-6)


def test_worked_example_of_imbalance_and_oscillation():
    assert imbalance(np.array([1, 1, 0, 1])) == 0.75 == imbalance(np.array([0, 0, 1, 0]))
    assert oscillation([0.1, 0.3, 0.2]) == pytest.approx(0.15)


@given(
    scores=st.lists(st.floats(-3, 3), min_size=5, max_size=5),
    available=st.lists(st.booleans(), min_size=5, max_size=5).filter(any),
    gamma=st.floats(0, 1e4),
)
def test_inverse_gap_weighting_is_a_law_that_loses_at_most_k_over_gamma(scores, available, gamma):
    s, mask = np.array([scores]), np.array([available])
    law = inverse_gap_weighting(s, mask, gamma)[0]
    best, k = best_available(s, mask)[0], mask.sum()
    assert law.sum() == pytest.approx(1.0)
    assert (law[mask[0]] > 0).all() and not law[~mask[0]].any()
    assert law[best] >= 1 / k - 1e-12 and law[best] == pytest.approx(law.max())
    assert gamma * (law @ (s[0, best] - np.where(mask[0], s[0], s[0, best]))) <= k + 1e-9
    assert_allclose(inverse_gap_weighting(s, mask, 0.0)[0], mask[0] / k)


def test_one_available_action_is_certain_and_none_is_refused():
    scores, one = np.array([[0.2, 0.9]]), np.array([[True, False]])
    for rule in (inverse_gap_weighting, epsilon_greedy, softmax):
        assert_allclose(rule(scores, one, 0.5), [[1.0, 0.0]])
        with pytest.raises(ValueError, match="row 0 has no available action"):
            rule(scores, ~one & one, 0.5)
    assert best_available(np.array([[0.5, 0.5]]), np.array([[True, True]])).tolist() == [0]


def test_a_logged_probability_of_zero_is_refused():
    logged = np.array([0.5, 0.0])
    with pytest.raises(ValueError, match="logged row 1 has probability 0"):
        off_policy_values(np.ones(2), logged, logged)
    batch = Batch(np.zeros((2, 3)), np.zeros(2, int), logged, np.array([0.0, 1.0]))
    with pytest.raises(ValueError, match="logged row 1"):
        batch.importance(10.0)
    with pytest.raises(ValueError, match="none of the logged actions"):
        off_policy_values(np.ones(1), np.ones(1), np.zeros(1))


def test_importance_is_capped_and_has_mean_one():
    probabilities = np.array([1.0, 0.5, 0.01])
    batch = Batch(np.zeros((3, 3)), np.zeros(3, int), probabilities, np.zeros(3))
    assert_allclose(batch.importance(4.0), np.array([1.0, 2.0, 4.0]) * 3 / 7)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_model_is_the_minimum_of_its_objective(weighted):
    rng = np.random.default_rng(1)
    contexts, actions = rng.standard_normal((300, 2)), rng.integers(3, size=300)
    chance = 1 / (1 + np.exp(-(2.5 + contexts @ np.array([2.0, -1.0]) * (actions - 1))))
    outcomes = (rng.random(300) < chance).astype(float)
    weights = rng.uniform(0.2, 3, 300) if weighted else None
    found = fit_logistic(contexts, actions, outcomes, 3, weights=weights, penalty=0.7)
    mean = np.average(outcomes, weights=weights)
    for action in range(3):
        own = actions == action
        x, y = np.column_stack([contexts, np.ones(300)])[own], outcomes[own]
        w = np.ones(300)[own] if weights is None else weights[own]
        centre = np.array([0.0, 0.0, np.log(mean / (1 - mean))])

        def objective(at, x=x, y=y, w=w, centre=centre):
            losses = np.logaddexp(0, x @ at) - y * (x @ at)
            return (w * losses).sum() + 0.35 * ((at - centre) ** 2).sum()

        best = minimize(objective, centre, tol=1e-12).x
        assert_allclose(found[action], best, atol=1e-5)


def test_actions_with_few_rows_have_the_mean_of_the_batch():
    rng = np.random.default_rng(0)
    actions = np.repeat([0, 1, 2], [60, 4, 0])
    outcomes = np.concatenate([np.arange(60) % 3 > 0, np.zeros(4)]).astype(float)
    coefficients = fit_logistic(rng.standard_normal((64, 2)), actions, outcomes, 4)
    scores = success_probabilities(coefficients, rng.standard_normal((10, 2)))
    assert_allclose(scores[:, 1:], outcomes.mean())
    assert np.ptp(scores[:, 0]) > 1e-3


def test_separable_and_imbalanced_rows_stay_finite():
    contexts = np.linspace(-1, 1, 200)[:, None]
    outcomes = (contexts[:, 0] > -0.98).astype(float)
    found = fit_logistic(contexts, np.zeros(200, int), outcomes, 1, penalty=1e-6, steps=200)
    assert np.isfinite(found).all()
    assert_allclose(success_probabilities(found, contexts)[:, 0], outcomes, atol=0.2)


def test_the_log_gives_each_environment_its_own_rows():
    log = Log()

    def add(rows):
        n = len(rows)
        log.add(
            env=np.arange(n),
            row=np.array(rows),
            observation=np.array(rows)[:, None] + 10.0 * np.arange(n)[:, None],
            action=np.array(rows),
            probability=np.full(n, 0.5),
        )

    for t in range(4):
        add([t, t])
    found = log.take(1, 0, np.array([1, 0, 1], np.int8))
    assert found.observations.tolist() == [[10.0], [11.0], [12.0]]
    assert found.outcomes.tolist() == [1.0, 0.0, 1.0]
    assert sorted(log.state()["env"].tolist()) == [0, 0, 0, 0, 1]
    add([0, 4])  # environment 0 begins anew: what it had waiting is gone
    left = log.state()
    assert sorted(zip(left["env"].tolist(), left["row"].tolist(), strict=True)) == [
        (0, 0),
        (1, 3),
        (1, 4),
    ]
    again = Log()
    again.restore(left)
    assert again.take(1, 3, np.array([0, 1])).actions.tolist() == [3, 4]


@pytest.mark.parametrize("delay", [0, 1])
def test_a_released_batch_is_what_happened(delay):
    """Contexts, actions and outcomes agree with the episode, batch by batch, across episodes."""
    agent = router(Noting, batch=5, delay=delay, T=20)
    core = agent.env.envs[0].unwrapped.core
    tapes = []
    for _ in range(2):  # the first step of an episode, when its tape is there, then the rest
        agent.learn(1, reset_num_timesteps=False)
        tape = agent.env.envs[0].unwrapped.tape
        tapes.append({name: values[0] for name, values in tape.items()})
        agent.learn(19, reset_num_timesteps=False)
    batches = agent.batches
    per_episode = 4 - delay
    assert len(batches) == 2 * per_episode
    for number, batch in enumerate(batches):
        tape = tapes[number // per_episode]
        rows = np.arange(5) + 5 * (number % per_episode)
        assert_array_equal(batch.observations[:, : core.d], tape["x"][rows].astype(np.float32))
        assert_array_equal(batch.outcomes, tape["authorised"][rows, batch.actions])
        assert ((batch.probabilities > 0) & (batch.probabilities <= 1)).all()
    first = batches[0]
    assert_allclose(first.probabilities, 1 / first.observations[:, core.d :].sum(axis=1))


def test_parallel_environments_fill_a_batch_together():
    env = make_sb3("PaymentRouting-v0", 6, observation="flat", batch=5, T=10, keep_infos=True)
    agent = Noting("SuccessModelPolicy", env, seed=0).learn(60)
    assert [len(batch.actions) for batch in agent.batches] == [30, 30]
    assert int(agent.policy.generation) == 2
    silent = make_sb3("PaymentRouting-v0", 2, observation="flat", batch=5)
    with pytest.raises(ValueError, match="keep_infos=True"):
        BatchSquareCB("SuccessModelPolicy", silent).learn(4)


def test_a_batch_of_one_class_leaves_the_model():
    agent = router().learn(50)
    before = agent.policy.coefficients.clone()
    batch = Batch(np.zeros((9, 11)), np.zeros(9, int), np.ones(9), np.ones(9))
    assert agent.fit(batch) == {"train/generation": 1.0, "train/imbalance": 1.0}
    assert (agent.policy.coefficients == before).all()


def test_learned_routes_lose_less_than_uniform_ones():
    regrets = {}
    for gamma in (0.0, 200.0):
        env = make_sb3("PaymentRouting-v0", 20, observation="flat", batch=20, keep_infos=True)
        diary = Diary()
        agent = BatchSquareCB("SuccessModelPolicy", env, gamma=gamma, seed=3)
        agent.learn(20 * 160, callback=diary)
        regrets[gamma] = diary.column("rollout/regret")[20:].mean()
        assert int(agent.policy.generation) == 8
        assert np.isfinite(diary.column("train/imbalance")[19::20]).all()
    assert regrets[200.0] < 0.5 * regrets[0.0]


def test_predict_reads_availability_and_says_how_likely_it_was():
    agent = router(arguments={"gamma": 30.0}).learn(100)
    rng = np.random.default_rng(0)
    shown = rng.standard_normal((40, 11)).astype(np.float32)
    available = rng.random((40, 6)) < 0.5
    available[:, 3] = True
    shown[:, 5:] = available
    best = agent.predict(shown, deterministic=True)[0]
    scores = agent.policy.scores(shown[:, :5].astype(float))
    assert_array_equal(best, np.where(available, scores, -1).argmax(axis=1))
    assert_array_equal(agent.last_prob, 1.0)
    drawn = agent.predict(shown)[0]
    laws = inverse_gap_weighting(scores, available, 30.0)
    assert_allclose(agent.last_prob, laws[np.arange(40), drawn])
    only = np.eye(6, dtype=bool)[3]
    assert agent.predict(shown[0], action_masks=only)[0] == 3
    assert agent.last_prob == 1.0
    shown[7, 5:] = 0
    for deterministic in (True, False):
        with pytest.raises(ValueError, match="row 7 has no available action"):
            agent.predict(shown, deterministic=deterministic)


def test_importance_weights_change_the_model():
    plain, weighted = (
        router(arguments={"weight_cap": cap, "gamma": 50.0}).learn(200) for cap in (None, 20.0)
    )
    assert not np.allclose(plain.policy.coefficients, weighted.policy.coefficients)


@pytest.mark.parametrize(
    ("cls", "arguments", "message"),
    [
        (BatchSquareCB, {"gamma": -1.0}, "gamma=-1"),
        (BatchEpsilonGreedy, {"epsilon": 1.5}, "epsilon=1.5"),
        (BatchSoftmax, {"temperature": 0.0}, "temperature=0"),
        (BatchSquareCB, {"penalty": 0.0}, "penalty=0"),
        (BatchSquareCB, {"newton_steps": 0}, "newton_steps=0"),
        (BatchSquareCB, {"weight_cap": 0.0}, "weight_cap=0"),
    ],
)
def test_wrong_arguments_are_refused(cls, arguments, message):
    with pytest.raises(ValueError, match=message):
        router(cls, arguments=arguments)


def test_observations_without_availability_are_refused():
    with pytest.raises(ValueError, match="followed by the availability of 2 actions"):
        palaestra.agents.BatchSquareCB("SuccessModelPolicy", "BernoulliBandit-v0")
