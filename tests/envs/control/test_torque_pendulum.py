"""`TorquePendulum`: Gymnasium's pendulum, worked numbers, and physics that can be set."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from palaestra.envs.base import to_torch
from palaestra.envs.control.distractors import next_distractors
from palaestra.envs.control.torque_pendulum import TorquePendulum, wrap

ID = "TorquePendulum-v0"


def one_step(angle, velocity, torque, **physics):
    """(angle, velocity, reward) after one step."""
    core = TorquePendulum(**physics)
    tape = {"start": np.array([[angle, velocity]])}
    state, action = core.initial(tape), np.array([[torque]])
    after = core.transition(state, action, tape)
    return after["angle"][0], after["velocity"][0], core.reward(state, action, after)[0]


@pytest.mark.parametrize(
    ("start", "physics", "expected"),
    [
        ((0.5, -1.0, 1.5), {}, (0.479228, -0.415431, -0.352250)),
        ((0.5, -1.0, 1.5), {"mass": 2.0, "length": 0.5}, (0.508457, 0.169138, -0.352250)),
        ((0.5, -1.0, 1.5), {"gravity": 5.0}, (0.470239, -0.595215, -0.352250)),
        ((4.0, 7.9, 2.0), {}, (4.381620, 7.632398, -11.457935)),
    ],
)
def test_worked_example_steps(start, physics, expected):
    np.testing.assert_allclose(one_step(*start, **physics), expected, atol=1e-6)


def test_worked_example_start_of_seed_0():
    env = gym.make(ID)
    env.reset(seed=0)
    state = env.unwrapped.state
    np.testing.assert_allclose(state["angle"], 0.860556, atol=1e-6)
    np.testing.assert_allclose(state["velocity"], -0.460427, atol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_is_gymnasiums_pendulum(seed):
    ours, theirs = gym.make(ID), gym.make("Pendulum-v1", disable_env_checker=True)
    seen, _ = ours.reset(seed=seed)
    expected, _ = theirs.reset(seed=seed)
    np.testing.assert_array_equal(seen, expected)
    ours.action_space.seed(seed)
    for step in range(200):
        # Pushing along with the motion swings it over the top, so that angles wrap.
        pushed = np.array([2.0 * np.sign(seen[2])], np.float32)
        action = pushed if seed % 2 else ours.action_space.sample()
        seen, reward, terminated, truncated, _ = ours.step(action)
        # Gymnasium computes in the type of the action; in float32 the two would drift apart.
        exact = action.astype(np.float64)
        expected, their_reward, *_, their_truncated, _ = theirs.step(exact)
        np.testing.assert_allclose(seen, expected, atol=1e-6)
        np.testing.assert_allclose(ours.unwrapped.state["angle"], theirs.unwrapped.state[0], 1e-9)
        np.testing.assert_allclose(reward, their_reward, rtol=1e-9)
        assert not terminated and truncated == their_truncated == (step == 199)
    assert abs(ours.unwrapped.state["angle"][0]) > np.pi or seed % 2 == 0


def test_other_gravity_is_gymnasiums_too():
    ours, theirs = gym.make(ID, gravity=3.7), gym.make("Pendulum-v1", g=3.7)
    ours.reset(seed=5)
    theirs.reset(seed=5)
    for _ in range(50):
        action = ours.action_space.sample()
        np.testing.assert_allclose(ours.step(action)[0], theirs.step(action)[0], atol=1e-5)


@given(st.floats(-50, 50), st.integers(-5, 5))
def test_wrap_is_the_same_angle_in_one_turn(angle, turns):
    found = wrap(np.array(angle))
    assert -np.pi <= found < np.pi
    np.testing.assert_allclose(np.exp(1j * found), np.exp(1j * (angle + 2 * np.pi * turns)))


def test_wrap_of_pi_is_minus_pi():
    assert wrap(np.array(np.pi)) == -np.pi


speeds = st.floats(-8, 8)
angles = st.floats(-10, 10)
sizes = st.floats(0.1, 20)


@given(angles, speeds, st.floats(-2, 2), sizes, sizes, sizes)
def test_left_and_right_are_alike(angle, velocity, torque, gravity, mass, length):
    physics = {"gravity": gravity, "mass": mass, "length": length}
    found = one_step(angle, velocity, torque, **physics)
    mirrored = one_step(-angle, -velocity, -torque, **physics)
    np.testing.assert_allclose(mirrored, np.array(found) * (-1, -1, 1), rtol=1e-9, atol=1e-9)


@given(angles, speeds, sizes, sizes, st.floats(0.1, 10))
def test_without_torque_the_mass_does_not_matter_and_only_gravity_per_length_does(
    angle, velocity, mass, gravity, length
):
    found = one_step(angle, velocity, 0.0, mass=mass, gravity=gravity, length=length)
    expected = one_step(angle, velocity, 0.0, gravity=gravity / 2, length=length / 2)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


# -- physics that is set ---------------------------------------------------------------------------


def test_set_params_holds_for_the_following_steps_and_episodes():
    env, fresh = gym.make(ID), gym.make(ID, mass=2.0, length=0.5)
    env.reset(seed=1)
    env.step(np.array([1.0], np.float32))
    env.unwrapped.set_params(mass=2.0, length=0.5)
    state = env.unwrapped.state
    fresh.reset(seed=9, options={"state": (state["angle"][0], state["velocity"][0])})
    for _ in range(2):
        for torque in (2.0, -1.0, 0.3):
            action = np.array([torque], np.float32)
            np.testing.assert_array_equal(env.step(action)[0], fresh.step(action)[0])
        for one in (env, fresh):
            one.reset(seed=3)
    assert env.unwrapped.physics == {"gravity": 10.0, "mass": 2.0, "length": 0.5}


def test_set_params_before_the_first_reset():
    env, fresh = gym.make(ID), gym.make(ID, gravity=1.0)
    env.unwrapped.set_params(gravity=1.0)
    env.reset(seed=1)
    fresh.reset(seed=1)
    np.testing.assert_array_equal(env.step(np.zeros(1))[0], fresh.step(np.zeros(1))[0])


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_rows_of_a_vector_may_have_physics_of_their_own(mode):
    rows = 17
    masses = np.linspace(0.5, 2.0, rows)
    vector = gym.make_vec(
        ID,
        num_envs=rows,
        vectorization_mode="vector_entry_point",
        autoreset_mode=gym.vector.AutoresetMode(mode),
        max_steps=5,
    )
    vector.unwrapped.set_params(mass=masses, gravity=9.81)
    singles = [gym.make(ID, mass=mass, gravity=9.81, max_steps=5) for mass in masses]
    seen, _ = vector.reset(seed=3)
    for i, env in enumerate(singles):
        np.testing.assert_array_equal(env.reset(seed=3 + i)[0], seen[i])
    vector.action_space.seed(0)
    for step in range(13):
        actions = vector.action_space.sample()
        seen, rewards, _, truncations, _ = vector.step(actions)
        for i, env in enumerate(singles):
            if mode == "NextStep" and step % 6 == 5:
                expected, reward = env.reset()[0], 0.0
            else:
                expected, reward, *_ = env.step(actions[i])
                if mode == "SameStep" and truncations[i]:
                    expected, _ = env.reset()
            np.testing.assert_array_equal(seen[i], expected)
            assert rewards[i] == reward
    np.testing.assert_array_equal(vector.unwrapped.physics["mass"], masses)
    assert vector.unwrapped.core.physics == {"gravity": 9.81, "mass": 1.0, "length": 1.0}


def test_a_masked_reset_keeps_each_rows_physics():
    vector = gym.make_vec(ID, num_envs=3, vectorization_mode="vector_entry_point")
    vector.reset(seed=0)
    vector.unwrapped.set_params(length=[0.5, 1.0, 2.0])
    vector.reset(seed=5, options={"reset_mask": np.array([False, False, True])})
    np.testing.assert_array_equal(vector.unwrapped.state["length"], [0.5, 1.0, 2.0])


def test_a_snapshot_carries_the_physics():
    env, other = gym.make(ID), gym.make(ID)
    env.reset(seed=0)
    env.unwrapped.set_params(mass=3.0)
    other.reset(seed=1)
    other.unwrapped.set_state(*env.unwrapped.get_state())
    assert other.unwrapped.physics["mass"] == 3.0
    for one in (env, other):
        one.reset()
    np.testing.assert_array_equal(env.step(np.ones(1))[0], other.step(np.ones(1))[0])


def test_large_batches_are_single_environments_bit_for_bit():
    core, n = TorquePendulum(), 1000
    tape = core.tapes(n, 0)
    action = np.random.default_rng(0).uniform(-2, 2, (n, 1))
    state = core.transition(core.initial(tape), action, tape)
    for i in range(0, n, 37):
        row = {"start": tape["start"][i : i + 1]}
        alone = core.transition(core.initial(row), action[i : i + 1], row)
        for name, value in alone.items():
            np.testing.assert_array_equal(value[0], state[name][i])


@pytest.mark.parametrize(
    ("physics", "message"),
    [
        ({"mass": 0.0}, r"mass=0.0 is outside \(0, 20\]"),
        ({"gravity": 20.5}, r"gravity=20.5 is outside \(0, 20\]"),
        ({"length": float("nan")}, "length=nan is outside"),
        ({"length": "long"}, "length='long' is no number"),
        ({"mass": [1.0, 2.0]}, r"mass has shape \(2,\), it must be one number"),
        ({"friction": 1.0}, "no parameter 'friction', allowed are .*gravity.*mass.*length"),
    ],
)
def test_impossible_physics_is_refused_and_changes_nothing(physics, message):
    env = gym.make(ID).unwrapped
    before = env.physics
    with pytest.raises(ValueError, match=message):
        env.set_params(**{"gravity": 5.0, **physics})
    assert env.physics == before
    vector = gym.make_vec(ID, num_envs=3).unwrapped
    with pytest.raises(ValueError, match=message):
        vector.set_params(**{"gravity": 5.0, **physics})
    np.testing.assert_array_equal(vector.physics["gravity"], 10.0)


@pytest.mark.parametrize("steps", [0, 2.5, True])
def test_max_steps_must_be_a_positive_integer(steps):
    with pytest.raises(ValueError, match=f"max_steps={steps}"):
        TorquePendulum(max_steps=steps)


@pytest.mark.parametrize("state", [(0.0, 8.5), (np.nan, 0.0), (1.0,), (0.0, 0.0, 0.0)])
def test_an_impossible_start_is_refused(state):
    env = gym.make(ID)
    with pytest.raises(ValueError, match=r"options\['state'\]"):
        env.reset(options={"state": state})


def test_a_chosen_start_leaves_the_following_episodes_alone():
    env, other = gym.make(ID), gym.make(ID)
    env.reset(seed=2, options={"state": (1.0, -2.0)})
    assert (env.unwrapped.state["angle"], env.unwrapped.state["velocity"]) == (1.0, -2.0)
    other.reset(seed=2)
    np.testing.assert_array_equal(env.reset()[0], other.reset()[0])


# -- the torch face --------------------------------------------------------------------------------


def cost(core, tape, actions, **physics):
    """Minus the return of torques [steps, n, 1]."""
    state = {**core.initial(tape), **physics}
    total = 0.0
    for action in actions:
        after = core.transition(state, action, tape)
        total = total - core.reward(state, action, after).sum()
        state = after
    return total


def test_torch_face_has_the_gradients_of_finite_differences():
    core = TorquePendulum()
    tape = to_torch({"start": np.array([[0.4, 0.3], [-1.0, 0.2]])}, dtype=torch.float64)
    face = core.torch(dtype=torch.float64)
    actions = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(6, 2, 1).requires_grad_()
    mass = torch.tensor([1.0, 0.8], dtype=torch.float64, requires_grad=True)
    length = torch.tensor([0.9, 1.3], dtype=torch.float64, requires_grad=True)

    def cost_of(torques, masses, lengths):
        return cost(face, tape, torques, mass=masses, length=lengths)

    assert torch.autograd.gradcheck(cost_of, (actions, mass, length))


def test_pathwise_gradients_swing_less_costly():
    face = TorquePendulum().torch(dtype=torch.float64)
    tape = to_torch({"start": np.array([[0.3, 0.0]])}, dtype=torch.float64)
    actions = torch.zeros(20, 1, 1, dtype=torch.float64, requires_grad=True)
    before = cost(face, tape, actions)
    optimizer = torch.optim.Adam([actions], lr=0.1)
    for _ in range(60):
        optimizer.zero_grad()
        cost(face, tape, actions.clamp(-2, 2)).backward()
        optimizer.step()
    assert cost(face, tape, actions.clamp(-2, 2)) < 0.3 * before


def test_worked_example_distractors():
    z = next_distractors(np.array([5.0, -5.0]), np.array([1.0, 0.0]), 0.9, 5.0)
    np.testing.assert_allclose(z, (6.679449, -4.5), atol=1e-6)


def test_the_picture_shows_the_angle():
    env = gym.make(ID, render_mode="rgb_array")
    frames = []
    for angle in (0.0, 0.5, 0.5 + 2 * np.pi):
        env.reset(seed=0, options={"state": (angle, 0.0)})
        frames.append(env.render())
    assert frames[0].shape == (520, 480, 3)
    difference = np.abs(frames[0].astype(int) - frames[1]).sum()
    assert difference > 0
    np.testing.assert_allclose(frames[1], frames[2], atol=3)
