"""`CombinationLock`: keys, latents, consolations, and the form with numbers for actions."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import hadamard as hadamard_matrix

import palaestra  # noqa: F401  (registers the environments)
from palaestra.envs.tabular.combination_lock import CombinationLock, choose, hadamard

CONTINUOUS = {"observation": "hadamard", "action": "logits"}
DISTRACTED = {
    "horizon": 6,
    "keys": 3,
    "latents": 1,
    "keep": 0.95,
    "consolation": (0, 0),
    "distractor": 0.1,
}


def uniform_value(core):
    """Expected return from the start of keys at random."""
    values = np.zeros(core.states)
    for step in reversed(range(core.horizon)):
        values = (core.R[step] + core.P[step] @ values).mean(axis=1)
    return float(core.d0 @ values)


def test_worked_example_of_four_keys():
    core = CombinationLock(horizon=4, keys=3)
    assert core.right_keys.tolist() == [[2, 1], [1, 0], [0, 0], [0, 0]]
    tape = {"u": np.array([[0.4, 0.6, 0.4, 0.4]]), "v": np.full((1, 4), 0.3)}
    state, latents, rewards = core.initial({**tape, "start": np.array([0])}), [], []
    for step in range(4):
        latents.append(int(state["s"][0]))
        key = core.right_keys[step, state["s"]]
        after = core.transition(state, key, tape)
        rewards.append(float(core.reward(state, key, after)[0]))
        state = after
    assert (latents, rewards) == ([0, 0, 1, 0], [0, 0, 0, 1])
    assert core.terminal(state).all()
    values = core.plan(1.0).values[0]
    assert values == pytest.approx([1, 1, 0.05])


def test_the_first_uniform_picks_the_first_latent():
    core = CombinationLock(horizon=4, keys=3)
    tape = core.tapes(200, 0)
    u0 = [np.random.default_rng(seed).random() for seed in range(200)]
    np.testing.assert_array_equal(tape["start"], np.array(u0) >= 0.5)


def test_worked_example_with_a_distractor():
    env = gym.make("CombinationLock-v0", **DISTRACTED).unwrapped
    core = env.core
    assert core.right_keys.ravel().tolist() == [2, 1, 1, 0, 0, 0]
    values = env.plan(1.0).values
    assert values[0, 0] == pytest.approx(0.773781, abs=1e-6)
    assert uniform_value(core) == pytest.approx(0.034395, abs=1e-6)
    action_values = core.R[0, 0] + core.P[0, 0] @ values[1]
    assert action_values[0] == pytest.approx(0.1)  # key (2 + 1) mod 3
    assert values[0, 0] - action_values[0] == pytest.approx(0.673781, abs=1e-6)


def test_keys_at_random_are_worth_little_more_than_the_consolation():
    assert uniform_value(CombinationLock()) == pytest.approx(0.05, abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 5), st.integers(1, 2), st.floats(0, 1), st.integers(0, 99))
def test_right_keys_are_worth_keep_to_the_power_of_the_steps(
    horizon, keys, latents, keep, instance
):
    core = CombinationLock(
        horizon, keys, latents=latents, keep=keep, consolation=(0.0, 0.0), instance=instance
    )
    expected = np.random.default_rng(instance).integers(keys, size=(horizon, latents))
    np.testing.assert_array_equal(core.right_keys, expected)
    assert core.plan(1.0).values[0, :latents] == pytest.approx(keep ** (horizon - 1))
    np.testing.assert_allclose(core.P.sum(axis=-1), 1)


def test_a_wrong_key_leads_to_the_bad_latent_for_good():
    core = CombinationLock(horizon=3, keys=4, keep=0.9, switch=0.25, instance=1)
    for step, latent in np.ndindex(3, 2):
        right = core.right_keys[step, latent]
        expected = np.tile([0.0, 0.0, 1.0], (4, 1))
        expected[right, [latent, 1 - latent, 2]] = 0.675, 0.225, 0.1
        np.testing.assert_allclose(core.P[step, latent], expected)
    np.testing.assert_array_equal(core.P[:, 2], np.tile([0, 0, 1.0], (3, 4, 1)))


@pytest.mark.parametrize("shaped", [False, True])
def test_the_consolation_is_paid_at_the_end_or_when_leaving(shaped):
    core = CombinationLock(horizon=3, keys=3, consolation=(0.2, 0.25), shaped=shaped, instance=2)
    expected = np.zeros((3, 3, 3))
    expected[2] = 0.05
    for step, latent in np.ndindex(3, 2):
        right = core.right_keys[step, latent]
        if shaped and step < 2:
            expected[step, latent] = 0.05
        expected[step, latent, right] = 1.0 if step == 2 else 0.0
    np.testing.assert_allclose(core.R, expected, atol=1e-15)
    env = gym.make("CombinationLock-v0", horizon=1, consolation=(0.2, 0.25))
    paid = []
    for seed in range(400):
        env.reset(seed=seed, options={"state": 2})
        paid.append(env.step(0)[1])
    assert set(paid) == {0.0, 0.2}
    assert np.mean(paid) == pytest.approx(0.05, abs=0.02)


def test_the_distractor_pays_for_certain_also_in_a_lock_of_one_step():
    core = CombinationLock(horizon=1, keys=3, distractor=0.3, instance=4)
    for latent in (0, 1):
        right = core.right_keys[0, latent]
        expected = np.full(3, 0.05)
        expected[[right, (right + 1) % 3]] = 1.0, 0.3
        np.testing.assert_allclose(core.R[0, latent], expected)
        assert core.P[0, latent, (right + 1) % 3, 2] == 1
    np.testing.assert_allclose(core.R[0, 2], 0.05)


# -- numbers for actions, noise in the observation -----------------------------------------------


@pytest.mark.parametrize(("horizon", "latents", "size"), [(10, 2, 16), (4, 2, 8), (5, 1, 8)])
def test_an_observation_is_the_hadamard_product_of_latent_step_and_noise(horizon, latents, size):
    env = gym.make(
        "CombinationLock-v0", horizon=horizon, keys=3, latents=latents, observation="hadamard"
    )
    rng = np.random.default_rng(5)
    rng.random(1 + 3 * horizon)  # the tape of a finite world, and the uniforms of the keys
    noise = np.zeros((horizon + 1, size))
    noise[:, : horizon + latents + 1] = 0.1 * rng.standard_normal(
        (horizon + 1, horizon + latents + 1)
    )
    observation, info = env.reset(seed=5)
    for step in range(horizon + 1):
        vector = noise[step].copy()
        vector[env.unwrapped.state["s"][0]] += 1
        vector[latents + 1 + step] += 1
        assert observation.shape == (size,) and observation.dtype == np.float32
        np.testing.assert_allclose(observation, hadamard_matrix(size) @ vector, atol=1e-6)
        assert info["t"] == step
        if step < horizon:
            right = env.unwrapped.core.right_keys[step, env.unwrapped.state["s"][0] % latents]
            observation, _, terminated, _, info = env.step(right)
    assert terminated


def test_the_hadamard_product_is_the_same_for_any_number_of_rows():
    vectors = np.random.default_rng(0).standard_normal((5, 32))
    np.testing.assert_allclose(hadamard(vectors), vectors @ hadamard_matrix(32), atol=1e-12)
    for row in range(5):
        np.testing.assert_array_equal(hadamard(vectors)[row], hadamard(vectors[row : row + 1])[0])
    theirs = hadamard(torch.as_tensor(vectors))
    np.testing.assert_array_equal(theirs.numpy(), hadamard(vectors))


def test_keys_are_drawn_from_the_softmax_of_the_numbers():
    logits, n = np.array([0.1, 0.2, -0.05, 0.15]), 4000
    p = np.exp(logits / 0.1) / np.exp(logits / 0.1).sum()
    w = np.random.default_rng(1).random(n)
    keys = choose(np.tile(logits, (n, 1)), w)
    np.testing.assert_array_equal(keys, np.searchsorted(np.cumsum(p), w, side="right"))
    np.testing.assert_allclose(np.bincount(keys) / n, p, atol=0.03)
    np.testing.assert_array_equal(
        choose(torch.as_tensor(np.tile(logits, (n, 1))), torch.as_tensor(w)).numpy(), keys
    )
    edge = np.nextafter(1.0, 0.0)
    assert choose(logits[None], np.array([edge])).tolist() == [3]
    corner = np.array([[-1.0, 1.0, -1.0]])
    assert choose(corner, np.array([1e-6])) == choose(corner, np.array([1 - 1e-6])) == 1


def test_an_episode_of_numbers_is_that_of_the_keys_they_pick():
    numbers = CombinationLock(horizon=6, keys=3, action="logits", instance=1)
    plain = CombinationLock(horizon=6, keys=3, instance=1)
    tape, n = numbers.tapes(300, 0), 300
    state, other = numbers.initial(tape), plain.initial(tape)
    logits = np.zeros((n, 3))
    for step in range(6):
        logits[:] = np.eye(3)[plain.right_keys[step, np.minimum(state["s"], 1)]] * 0.3
        after = numbers.transition(state, logits, tape)
        keys = choose(logits, tape["w"][:, step])
        expected = plain.transition(other, keys, tape)
        np.testing.assert_array_equal(after["s"], expected["s"])
        np.testing.assert_array_equal(
            numbers.reward(state, logits, after), plain.reward(other, keys, expected)
        )
        state, other = after, expected
    assert 0.3 < (state["s"] == 2).mean() < 0.7  # some keys were wrong: exp(3) against 2


def test_the_corners_open_the_lock_with_certainty_in_effect():
    env = gym.make("CombinationLock-v0", horizon=10, keys=10, **CONTINUOUS)
    core, opened = env.unwrapped.core, 0
    assert env.observation_space.shape == (16,) and env.action_space.shape == (10,)
    for seed in range(30):
        env.reset(seed=seed)
        for step in range(10):
            key = core.right_keys[step, env.unwrapped.state["s"][0]]
            action = np.where(np.arange(10) == key, 1.0, -1.0)
            _, reward, terminated, _, _ = env.step(action)
        assert terminated
        opened += reward == 1
    assert opened == 30


def test_the_picture_follows_the_attempt():
    core = CombinationLock(horizon=4, keys=3)

    def disc(state):
        frame = core.render_frame(state, 0)
        return np.argwhere((frame == (209, 53, 43)).all(-1)).mean(axis=0)

    tape = core.tapes(1, 0, [{"state": 0}])
    start = core.initial(tape)
    wrong = (core.right_keys[0, [0]] + 1) % 3
    after = core.transition(start, wrong, tape)
    rows, columns = disc(after) - disc(start)
    assert rows == pytest.approx(88, abs=3) and columns == pytest.approx(60, abs=3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"horizon": 0}, "horizon=0 must be an integer of at least 1"),
        ({"keys": 0}, "keys=0 must be an integer of at least 1"),
        ({"latents": 3}, "latents=3 must be an integer from 1 to 2"),
        ({"switch": 1.5}, "switch=1.5 must be a number from 0 to 1"),
        ({"keep": -0.5}, "keep=-0.5 must be a number from 0 to 1"),
        ({"consolation": 0.1}, "consolation=0.1 must be a size and a probability"),
        ({"consolation": (0.1, 2)}, r"consolation\[1\]=2 must be a number from 0 to 1"),
        ({"consolation": (np.nan, 0.5)}, r"consolation\[0\]=nan must be a finite number"),
        ({"shaped": 1}, "shaped=1 must be True or False"),
        ({"distractor": -0.1}, "distractor=-0.1 must be a finite number of at least 0"),
        ({"distractor": 0.1, "keys": 1}, "distractor=0.1 needs two keys, got keys=1"),
        ({"observation": "image"}, "observation='image', allowed are .*hadamard"),
        ({"action": "keys"}, "action='keys', allowed are"),
        ({"instance": 0.5}, "instance=0.5 must be an integer of at least 0"),
    ],
)
def test_impossible_locks_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        CombinationLock(**arguments)


def test_numbers_outside_the_box_are_refused():
    env = gym.make("CombinationLock-v0", keys=3, action="logits")
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"action 1.5 at \(1,\).*outside \[-1"):
        env.step(np.array([0.0, 1.5, 0.0]))
