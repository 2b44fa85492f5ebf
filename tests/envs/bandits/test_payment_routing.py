"""`PaymentRouting`: availability, delayed batches, and regret against the truth."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from palaestra.envs.bandits.payment_routing import PaymentRouting, PaymentRoutingEnv


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def test_truth_and_payments_are_the_stated_draws():
    core = PaymentRouting(K=4, d=3, T=6, availability=0.3, instance=5)
    truth = np.random.default_rng(5)
    weights, intercepts = 0.6 * truth.standard_normal((4, 3)), 1.6 + 0.4 * truth.standard_normal(4)
    tape, rng = core.draw_tape(np.random.default_rng(2), {}), np.random.default_rng(2)
    x, available = rng.standard_normal((7, 3)), rng.random((7, 4)) < 0.3
    only = rng.integers(4, size=7)
    for row in range(7):
        if not available[row].any():
            available[row, only[row]] = True
    chance = sigmoid(x @ weights.T + intercepts)
    np.testing.assert_array_equal(tape["x"], x)
    np.testing.assert_array_equal(tape["available"], available)
    assert tape["chance"] == pytest.approx(chance)
    np.testing.assert_array_equal(tape["authorised"], rng.random(7)[:, None] < chance)
    assert core.success_probabilities(x[0]) == pytest.approx(chance[0])


@pytest.mark.parametrize("delay", [0, 1, 2])
def test_outcomes_are_released_in_batches_after_the_delay(delay):
    T, batch = 22, 4
    env = PaymentRoutingEnv(K=3, d=2, batch=batch, delay=delay, T=T)
    observation, info = env.reset(seed=1)
    assert info["released_from"] == -1
    tape = {name: value[0] for name, value in env.tape.items()}
    rng, outcomes, released = np.random.default_rng(0), [], []
    for t in range(T):
        np.testing.assert_array_equal(observation["mask"], info["action_mask"])
        np.testing.assert_array_equal(observation["mask"], tape["available"][t])
        np.testing.assert_allclose(observation["x"], tape["x"][t], rtol=1e-6)
        action = rng.choice(np.flatnonzero(observation["mask"]))
        outcomes.append(int(tape["authorised"][t, action]))
        observation, reward, terminated, _, info = env.step(action)
        assert info["t"] == t + 1 and terminated == (t + 1 == T)
        generation = (t + 1) // batch - 1 - delay
        if (t + 1) % batch == 0 and generation >= 0:
            first = generation * batch
            assert info["released_from"] == first
            assert info["released"].tolist() == outcomes[first : first + batch]
            assert reward == sum(outcomes[first : first + batch])
            released.append(first)
        else:
            assert info["released_from"] == -1 and reward == 0.0
            assert (info["released"] == -1).all()
    assert released == list(range(0, T // batch * batch - delay * batch, batch))


def test_regret_is_that_against_the_best_available_action():
    env = PaymentRoutingEnv(T=50)
    observation, info = env.reset(seed=4)
    rng, total = np.random.default_rng(1), 0.0
    for _ in range(50):
        allowed = np.flatnonzero(info["action_mask"])
        action = rng.choice(allowed)
        chance = env.core.success_probabilities(env.state["x"][0])
        regret = max(chance[a] for a in allowed) - chance[action]
        *_, info = env.step(action)
        total += regret
        assert info["regret"] == pytest.approx(regret, abs=1e-12)
    assert info["cumulative_regret"] == pytest.approx(total)


def test_uniform_choice_among_the_available_has_the_stated_imbalance_and_regret():
    rewards, regrets = [], []
    for instance in range(8):
        core = PaymentRouting(T=2_000, instance=instance)
        tape = core.draw_tape(np.random.default_rng(instance), {})
        share = tape["available"] / tape["available"].sum(axis=1, keepdims=True)
        uniform = (share * tape["chance"]).sum(axis=1)
        rewards.append(uniform.mean())
        best = np.where(tape["available"], tape["chance"], 0.0).max(axis=1)
        regrets.append((best - uniform).mean())
    assert np.mean(rewards) == pytest.approx(0.78, abs=0.02)
    assert np.mean(regrets) == pytest.approx(0.157, abs=0.015)


def test_how_often_actions_are_available():
    core = PaymentRouting(T=5_000)
    available = core.draw_tape(np.random.default_rng(0), {})["available"]
    # The action drawn where there is none adds 0.3^6 / 6.
    assert available.mean(axis=0) == pytest.approx(np.full(6, 0.7 + 0.3**6 / 6), abs=0.03)
    for availability, number in ((0.0, 1), (1.0, 6)):
        core = PaymentRouting(T=200, availability=availability)
        available = core.draw_tape(np.random.default_rng(0), {})["available"]
        assert (available.sum(axis=1) == number).all()
        assert available.any(axis=0).all()


def test_an_action_that_is_not_available_is_refused_and_says_what_is_allowed():
    env = gym.make("PaymentRouting-v0", availability=0.0)
    _, info = env.reset(seed=0)
    (allowed,) = np.flatnonzero(info["action_mask"])
    np.testing.assert_array_equal(env.unwrapped.action_masks(), info["action_mask"])
    refused = (allowed + 1) % 6
    with pytest.raises(
        ValueError, match=rf"action {refused} .* is not available, allowed are \[{allowed}\]"
    ):
        env.step(refused)
    assert env.step(allowed)[-1]["t"] == 1


def test_an_action_that_is_not_available_may_cost_one_instead():
    env = PaymentRoutingEnv(availability=0.0, batch=3, T=3, unavailable="penalty")
    _, info = env.reset(seed=0)
    rewards = []
    for t in range(3):
        allowed = int(info["action_mask"].argmax())
        chance = env.state["chance"][0, allowed]
        _, reward, _, _, info = env.step(allowed if t == 1 else (allowed + 1) % 6)
        assert info["regret"] == pytest.approx(0.0 if t == 1 else chance + 1)
        rewards.append(reward)
    assert info["released"][[0, 2]].tolist() == [-1, -1] and info["released"][1] in (0, 1)
    assert rewards == [0.0, 0.0, info["released"].sum()]


def test_flat_observations_hold_the_same():
    envs = [PaymentRoutingEnv(observation=observation) for observation in ("dict", "flat")]
    (parts, _), (flat, _) = (env.reset(seed=6) for env in envs)
    assert envs[1].observation_space.contains(flat)
    np.testing.assert_array_equal(flat, np.concatenate([parts["x"], parts["mask"]]))


def test_default_episode_holds_eight_batches_and_the_delay():
    assert PaymentRouting(batch=10).T == 80
    assert PaymentRouting(batch=10, delay=2).T == 100


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"K": 0}, "K=0"),
        ({"d": 0}, "d=0"),
        ({"batch": 0}, "batch=0"),
        ({"delay": -1}, "delay=-1"),
        ({"availability": 1.5}, "availability=1.5"),
        ({"T": 0}, "T=0"),
        ({"unavailable": "ignore"}, "unavailable='ignore'"),
        ({"observation": "image"}, "observation='image'"),
        ({"instance": -1}, "instance=-1"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        PaymentRouting(**arguments)


def test_picture():
    env = gym.make("PaymentRouting-v0", render_mode="rgb_array")
    _, info = env.reset(seed=0)
    before = env.render()
    env.step(int(info["action_mask"].argmax()))
    assert before.shape == (380, 860, 3) and (env.render() != before).any()
