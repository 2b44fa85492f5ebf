"""`LQR`: worked numbers, the Riccati equation and what its gain costs, distractors, errors."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from palaestra.envs.base import to_torch
from palaestra.envs.control.lqr import LQR, PLANTS, riccati

ID = "LQR-v0"


def one_step(core, x, u, noise):
    """(next x, reward) after one step."""
    tape = {"start": np.array([x], dtype=np.float64), "noise": np.array(noise)[None, None]}
    state, action = core.initial(tape), np.array([[u]])
    after = core.transition(state, action, tape)
    return after["x"][0], core.reward(state, action, after)[0]


def costs(core, gain, tapes):
    """Cost of each episode of a tape under u = -gain x, [n]."""
    state, paid = core.initial(tapes), 0.0
    for _ in range(core.horizon):
        action = core.check_action(-(state["x"] @ gain.T), state)
        after = core.transition(state, action, tapes)
        paid = paid - core.reward(state, action, after)
        state = after
    assert core.truncated(state).all() and not core.terminal(state).any()
    return paid


@pytest.mark.parametrize(
    ("plant", "expected", "reward"),
    [
        ("double_integrator", (1.01, -0.21), -1.4),
        ("contracting", (0.86, -0.6), -1.08),
        ("integrator", (0.85, -0.65), 0.135335),
    ],
)
def test_worked_example_steps(plant, expected, reward):
    found, paid = one_step(LQR(plant), (1.0, 0.0), -2.0, (1.0, -1.0))
    np.testing.assert_allclose(found, expected, atol=1e-12)
    np.testing.assert_allclose(paid, reward, atol=1e-6)


def test_worked_example_clip():
    found, _ = one_step(LQR("integrator"), (5.0, 2.0), -2.0, (0.0, 0.0))
    np.testing.assert_allclose(found, (5.0, 1.4), atol=1e-12)


def test_worked_example_scalar():
    found, paid = one_step(LQR("scalar"), (1.0,), -0.5, (1.0,))
    np.testing.assert_allclose(found, 0.77, atol=1e-12)
    assert paid == -1.0


def test_worked_example_distractors():
    core = LQR(distractors=2)
    tape = core.tapes(1, 0)
    tape["drift"][0, :2] = [[1.0, -1.0], [1.0, 0.0]]
    state = core.initial(tape)
    np.testing.assert_array_equal(state["z"], [[5.0, -5.0]])
    after = core.transition(state, np.zeros((1, 1)), tape)
    np.testing.assert_allclose(after["z"], [[6.679449, -4.5]], atol=1e-6)
    np.testing.assert_array_equal(core.observation(after)[0, 2:], after["z"][0].astype(np.float32))


# -- the Riccati equation --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plant", "gain"),
    [
        ("double_integrator", (2.585307, 3.574717)),
        ("contracting", (1.489410, 2.520786)),
        ("scalar", (2.0,)),  # without a price of control one step leads to the origin
    ],
)
def test_worked_example_gains(plant, gain):
    _, found = LQR(plant).solution()
    np.testing.assert_allclose(found, [gain], atol=1e-6)
    if plant == "contracting":
        np.testing.assert_allclose(np.linalg.norm(found), 2.927918, atol=1e-6)


def test_worked_example_cost_matrix():
    p, _ = LQR().solution()
    np.testing.assert_allclose(p, [[13.827049, 3.868012], [3.868012, 4.961518]], atol=1e-6)
    np.testing.assert_allclose(np.trace(p), 18.79, atol=0.005)


def test_worked_example_costs_of_2000_tapes():
    core = LQR()
    _, gain = core.solution()
    tapes = core.tapes(2000, 0)
    found = costs(core, gain, tapes)
    assert abs(found.mean() - 18.9) < 0.05
    assert abs(found.std() / np.sqrt(2000) - 0.5) < 0.05
    idle = costs(core, 0 * gain, tapes)
    assert abs(idle.mean() / 3640 - 1) < 0.05


@pytest.mark.parametrize("plant", ["double_integrator", "contracting"])
def test_without_noise_the_cost_is_the_quadratic_form(plant):
    core = LQR(plant, noise=0.0, horizon=400)
    p, gain = core.solution()
    tapes = core.tapes(5, 3)
    expected = np.einsum("ni,ij,nj->n", tapes["start"], p, tapes["start"])
    np.testing.assert_allclose(costs(core, gain, tapes), expected, rtol=1e-9)
    for change in (0.9, 1.1):
        assert (costs(core, change * gain, tapes) > expected).all()


tenths = st.integers(-10, 10).map(lambda tenth: tenth / 10)


@given(
    arrays(np.float64, (3, 3), elements=tenths),
    arrays(np.float64, (3, 2), elements=tenths),
    st.floats(0.1, 5),
    st.floats(0.1, 5),
)
def test_riccati_solves_its_equation(a, b, q, r):
    a = a / max(1.0, 1.2 * np.abs(np.linalg.eigvals(a)).max())  # stable: there is a solution
    p, k = riccati(a, b, q, r)
    closed = a - b @ k
    np.testing.assert_allclose(
        p, q * np.eye(3) + r * k.T @ k + closed.T @ p @ closed, rtol=1e-6, atol=1e-8
    )
    assert np.abs(np.linalg.eigvals(closed)).max() < 1


def test_riccati_takes_matrices_of_costs():
    a, b = PLANTS["contracting"]["A"], PLANTS["contracting"]["B"]
    found = riccati(a, b, 2.0 * np.eye(2), [[0.3]])
    for ours, theirs in zip(found, riccati(a, b, 2.0, 0.3), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_what_cannot_be_stabilised_is_refused():
    with pytest.raises(ValueError, match="no stabilising gain"):
        riccati([[2.0, 0.0], [0.0, 0.5]], [[0.0], [1.0]])
    with pytest.raises(ValueError, match="reward='bump' has no Riccati solution"):
        LQR("integrator").solution()
    with pytest.raises(ValueError, match=r"A has shape \(2, 2\) and B \(3, 1\)"):
        riccati(np.eye(2), np.ones(3))


# -- tapes, distractors and arguments --------------------------------------------------------------


@pytest.mark.parametrize("plant", sorted(PLANTS))
def test_a_tape_is_start_noise_and_drift_in_this_order(plant):
    core = LQR(plant, distractors=2)
    rng, (n, steps) = np.random.default_rng(6), (core.n, core.horizon)
    start = rng.standard_normal(n) if plant in ("double_integrator", "scalar") else None
    start = rng.uniform(-1, 1, n) if start is None else start
    tape = core.draw_tape(np.random.default_rng(6), {})
    np.testing.assert_array_equal(tape["start"], start)
    np.testing.assert_array_equal(tape["noise"], rng.standard_normal((steps, n)))
    np.testing.assert_array_equal(tape["drift"], rng.standard_normal((1 + steps, 2)))


def test_distractors_change_nothing_but_what_is_observed():
    plain, core = LQR(), LQR(distractors=4, decay=0.5, spread=2.0)
    tape, other = plain.tapes(3, 0), core.tapes(3, 0)
    state, seen = plain.initial(tape), core.initial(other)
    rng = np.random.default_rng(0)
    for _ in range(100):
        action = rng.uniform(-50, 50, (3, 1))
        following, shown = (
            plain.transition(state, action, tape),
            core.transition(seen, action, other),
        )
        np.testing.assert_array_equal(following["x"], shown["x"])
        np.testing.assert_array_equal(
            plain.reward(state, action, following), core.reward(seen, action, shown)
        )
        state, seen = following, shown
    assert core.observation(seen).shape == (3, 6)


def test_distractors_have_the_moments_that_are_promised():
    core = LQR(distractors=3, horizon=60)
    tape = core.tapes(500, 0)
    state, seen = core.initial(tape), []
    for _ in range(60):
        seen.append(state["z"])
        state = core.transition(state, np.zeros((500, 1)), tape)
    z = np.stack(seen)  # [60, 500, 3]
    np.testing.assert_allclose(z.std(axis=(1, 2)), 5.0, rtol=0.1)
    assert abs(np.corrcoef(z[20].ravel(), z[23].ravel())[0, 1] - 0.9**3) < 0.06


@given(st.integers(0, 10**6), st.floats(0.1, 5))
def test_dynamics_are_linear(seed, factor):
    core, rng = LQR(noise=0.0), np.random.default_rng(seed)
    x, u = rng.normal(size=2), rng.normal()
    found, paid = one_step(core, x, u, (0.0, 0.0))
    scaled, paid_scaled = one_step(core, factor * x, factor * u, (0.0, 0.0))
    np.testing.assert_allclose(scaled, factor * found, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(paid_scaled, factor**2 * paid, rtol=1e-9)
    np.testing.assert_allclose(found, core.A @ x + core.B[:, 0] * u, rtol=1e-12, atol=1e-15)


def test_any_matrices_override_the_plant():
    a, b = np.diag([0.5, 0.6, 0.7]), np.array([1.0, 2.0, 3.0])
    core = LQR("contracting", A=a, B=b, Q=2.0, R=0.5, noise=0.0, clip=np.inf, horizon=3)
    found, paid = one_step(core, (1.0, -1.0, 2.0), 0.5, (0.0, 0.0, 0.0))
    np.testing.assert_allclose(found, (1.0, 0.4, 2.9))
    assert paid == -(2.0 * 6.0 + 0.5 * 0.25)
    bumpy, _ = one_step(LQR("integrator", clip=np.inf), (5.0, 2.0), 50.0, (0.0, 0.0))
    np.testing.assert_allclose(bumpy, (10.4, 17.0))


def test_large_batches_are_single_environments_bit_for_bit():
    core = LQR(A=np.random.default_rng(1).normal(size=(7, 7)), B=np.ones(7), horizon=3)
    tape = core.tapes(1000, 0)
    action = np.random.default_rng(0).uniform(-50, 50, (1000, 1))
    state = core.transition(core.initial(tape), action, tape)
    for i in range(0, 1000, 37):
        row = {name: value[i : i + 1] for name, value in tape.items()}
        alone = core.transition(core.initial(row), action[i : i + 1], row)
        np.testing.assert_array_equal(alone["x"][0], state["x"][i])


def test_a_chosen_start_leaves_the_following_episodes_alone():
    env, other = gym.make(ID), gym.make(ID)
    seen, _ = env.reset(seed=2, options={"state": (3.0, -2.0)})
    np.testing.assert_array_equal(seen, (3.0, -2.0))
    other.reset(seed=2)
    np.testing.assert_array_equal(env.reset()[0], other.reset()[0])


@pytest.mark.parametrize("state", [(0.0,), (np.nan, 0.0), (0.0, 5.1), (0.0, 0.0, 0.0), 1.0])
def test_an_impossible_start_is_refused(state):
    env = gym.make(ID, plant="integrator")
    with pytest.raises(ValueError, match=r"options\['state'\].* 2 finite numbers in \[-5, 5\]"):
        env.reset(options={"state": state})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"plant": "rocket"}, "plant='rocket', allowed are .*scalar"),
        ({"A": np.eye(3)}, r"A has shape \(3, 3\) and B \(2, 1\)"),
        ({"A": [[np.inf, 0], [0, 1]]}, "must be finite"),
        ({"B": np.zeros((2, 0))}, r"B \(2, 0\)"),
        ({"Q": -1.0}, "Q=-1.0"),
        ({"R": "small"}, "R='small'"),
        ({"noise": -0.1}, "noise=-0.1"),
        ({"clip": 0.0}, "clip=0.0"),
        ({"reward": "sparse"}, "reward='sparse'"),
        ({"horizon": 0}, "horizon=0"),
        ({"distractors": -1}, "distractors=-1"),
        ({"decay": 1.5}, "decay=1.5"),
        ({"spread": -1.0}, "spread=-1.0"),
        ({"u_max": 0}, "u_max=0"),
    ],
)
def test_impossible_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        LQR(**arguments)


# -- the torch face and the picture ----------------------------------------------------------------


@pytest.mark.parametrize("plant", ["double_integrator", "integrator"])
def test_torch_face_has_the_gradients_of_finite_differences(plant):
    core = LQR(plant)
    face, tape = core.torch(dtype=torch.float64), to_torch(core.tapes(2, 0), dtype=torch.float64)

    def cost(gain):
        state, paid = face.initial(tape), 0.0
        for _ in range(6):
            action = -(state["x"] @ gain)[:, None]
            after = face.transition(state, action, tape)
            paid = paid + face.reward(state, action, after)
            state = after
        return paid

    gain = torch.tensor([1.0, 0.5], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(cost, (gain,))


def test_pathwise_gradients_find_the_riccati_gain():
    core = LQR("contracting", horizon=40)
    face = core.torch(dtype=torch.float64)
    tape = to_torch({**core.tapes(2, 0), "start": np.eye(2)}, dtype=torch.float64)
    gain = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([gain], max_iter=30, line_search_fn="strong_wolfe")

    def cost():
        optimizer.zero_grad()
        state, paid = face.initial(tape), 0.0
        for _ in range(40):
            action = -(state["x"] @ gain)[:, None]
            after = face.transition(state, action, tape)
            paid = paid - face.reward(state, action, after).sum()
            state = after
        paid.backward()
        return paid

    optimizer.step(cost)
    np.testing.assert_allclose(gain.detach(), core.solution()[1][0], atol=1e-4)


@pytest.mark.parametrize("arguments", [{"plant": "scalar"}, {"distractors": 2}])
def test_the_picture_shows_the_state(arguments):
    env = gym.make(ID, render_mode="rgb_array", **arguments)
    n = env.unwrapped.core.n
    frames = []
    for x in (1.0, -1.0, 1.0):
        env.reset(seed=0, options={"state": (x,) * n})
        env.step(np.array([0.5], np.float32))
        frames.append(env.render())
    np.testing.assert_array_equal(frames[0], frames[2])
    assert (frames[0] != frames[1]).any(axis=-1).sum() > 200
