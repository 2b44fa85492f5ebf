"""`FiniteMDP`: sampling by uniforms, rewards, ends, planning, and what is refused."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import palaestra  # noqa: F401  (registers the environments)
from palaestra.envs.base import to_torch
from palaestra.envs.tabular.finite_mdp import FiniteMDP
from palaestra.envs.tabular.probabilities import cumulative, pick

LINE = np.zeros((4, 2, 4))  # 0 left, 1 right; state 3 is the end
LINE[range(4), 0, np.maximum(np.arange(4) - 1, 0)] = 1
LINE[range(4), 1, np.minimum(np.arange(4) + 1, 3)] = 1
ENTER_END = np.zeros((1, 1, 4))
ENTER_END[..., 3] = 1


def run(core, actions, seed=0, **options):
    """States, rewards, terminations and truncations of one episode under given actions."""
    tape = core.tapes(1, seed, [options])
    state, seen = core.initial(tape), []
    for action in actions:
        after = core.transition(state, np.array([action]), tape)
        seen.append(
            (
                int(after["s"][0]),
                float(core.reward(state, np.array([action]), after)[0]),
                bool(core.terminal(after)[0]),
                bool(core.truncated(after)[0]),
            )
        )
        state = after
    return seen


def test_pick_on_the_worked_numbers():
    table = cumulative(np.array([0.2, 0.5, 0.3]))
    picked = [int(pick(table, np.array(u))) for u in (0.1, 0.2, 0.69, 0.71, 0.999)]
    assert picked == [0, 1, 1, 2, 2]


def test_pick_takes_the_last_possible_outcome_where_rounding_leaves_none():
    table = cumulative(np.array([0.0, 0.5, 0.5 - 1e-10, 0.0]))
    assert int(pick(table, np.array(1 - 1e-12))) == 2
    assert int(pick(table, np.array(0.0))) == 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.floats(0, 1, exclude_max=True))
def test_pick_follows_its_definition(weights, u):
    if not sum(weights):
        weights[0] = 1
    p = np.array(weights) / sum(weights)
    expected = next(
        (j for j in range(len(p)) if u < np.cumsum(p)[j]), int(np.flatnonzero(p > 0)[-1])
    )
    for table, value in (
        (cumulative(p), np.array(u)),
        (torch.as_tensor(cumulative(p)), torch.tensor(u, dtype=torch.float64)),
    ):
        assert int(pick(table, value)) == expected
    assert p[expected] > 0


def test_the_tape_is_one_plus_two_uniforms_per_step():
    core = FiniteMDP(LINE, horizon=3, d0=[0.5, 0.5, 0, 0])
    z = np.random.default_rng(9).random(7)
    tape = core.draw_tape(np.random.default_rng(9), {})
    assert tape["start"] == (z[0] >= 0.5)
    np.testing.assert_array_equal(tape["u"], z[1:4])
    np.testing.assert_array_equal(tape["v"], z[4:])


def test_moves_rewards_and_the_end_of_a_line():
    core = FiniteMDP(LINE, low=ENTER_END, terminal=[3])
    assert run(core, [1, 0, 1, 1, 1]) == [
        (1, 0.0, False, False),
        (0, 0.0, False, False),
        (1, 0.0, False, False),
        (2, 0.0, False, False),
        (3, 1.0, True, False),
    ]


def test_a_reward_is_high_with_probability_q():
    core = FiniteMDP(LINE, low=-1.0, high=2.0, q=0.25, horizon=1)
    n = 4000
    tape = core.tapes(n, 0)
    before = core.initial(tape)
    after = core.transition(before, np.zeros(n, int), tape)
    rewards = core.reward(before, np.zeros(n, int), after)
    np.testing.assert_array_equal(rewards, np.where(tape["v"][:, 0] < 0.25, 2.0, -1.0))
    assert core.R[0] == pytest.approx(np.full((4, 2), -0.25))
    assert rewards.mean() == pytest.approx(-0.25, abs=0.1)


def test_horizon_terminates_max_steps_truncates_and_both_terminate():
    assert run(FiniteMDP(LINE, horizon=2), [0, 0])[-1][2:] == (True, False)
    assert run(FiniteMDP(LINE, max_steps=2), [0, 0])[-1][2:] == (False, True)
    both = gym.make("FiniteMDP-v0", P=LINE, horizon=2, max_steps=2)
    both.reset(seed=0)
    both.step(0)
    assert both.step(0)[2:4] == (True, False)


def test_a_continuing_task_goes_on_beyond_its_tape():
    """Its first 1,000 steps use one tape, the next are drawn from the same generator."""
    uniform = np.full((5, 1, 5), 0.2)
    env = gym.make("FiniteMDP-v0", P=uniform)
    observation, info = env.reset(seed=3)
    rng = np.random.default_rng(3)
    first, second = rng.random(2001), rng.random(2001)
    expected = np.floor(5 * np.concatenate([first[1:1001], second[1:1001]])).astype(int)
    assert observation == int(5 * first[0])
    for step in range(2000):
        observation, _, terminated, truncated, info = env.step(0)
        assert observation == expected[step]
        assert info["t"] == step + 1
        assert not terminated and not truncated


def test_tables_may_change_with_the_step():
    there_and_back = np.stack([LINE, LINE[:, ::-1]])
    core = FiniteMDP(there_and_back, low=np.arange(2.0)[:, None, None, None], horizon=2)
    assert run(core, [1, 1]) == [(1, 0.0, False, False), (0, 1.0, True, False)]


def test_reset_starts_from_a_given_state_and_draws_the_same_tape():
    core = FiniteMDP(LINE, d0=[0.5, 0.5, 0, 0], horizon=4)
    plain, chosen = core.tapes(1, 5), core.tapes(1, 5, [{"state": 2}])
    assert chosen["start"] == 2
    np.testing.assert_array_equal(plain["u"], chosen["u"])
    env = gym.make("FiniteMDP-v0", P=LINE, terminal=[3])
    assert env.reset(seed=0, options={"state": 2})[0] == 2
    for state, message in ((4, "outside 0 .. 3"), (-1, "outside"), (1.5, "integer"), (3, "ends")):
        with pytest.raises(ValueError, match=message):
            env.reset(options={"state": state})


def test_onehot_observations_and_the_torch_face():
    core = FiniteMDP(LINE, observation="onehot", horizon=3)
    state = core.initial(core.tapes(2, 0, [{"state": 1}, {"state": 2}]))
    np.testing.assert_array_equal(core.observation(state), np.eye(4, dtype=np.float32)[[1, 2]])
    assert core.observation(state).dtype == np.float32
    face = core.torch(dtype=torch.float64)
    tape = to_torch(core.tapes(64, 7), dtype=torch.float64)
    ours = core.transition(core.initial(core.tapes(64, 7)), np.ones(64, int), core.tapes(64, 7))
    theirs = face.transition(face.initial(tape), torch.ones(64, dtype=torch.int64), tape)
    np.testing.assert_array_equal(ours["s"], theirs["s"].numpy())


def test_the_default_machine_is_planned_as_its_documentation_says():
    env = gym.make("FiniteMDP-v0").unwrapped
    values, policy = env.plan(0.95)
    assert values == pytest.approx([15.210084, 13.949580, 12.449580], abs=1e-6)
    assert policy.tolist() == [0, 1, 1]
    assert env.gamma == 0.95 and env.horizon is None
    assert env.R[0] == pytest.approx(np.array([[1, -0.5], [0.7, -0.5], [0, -2]]))
    assert env.d0.tolist() == [1, 0, 0] and env.P.shape == (1, 3, 2, 3)
    assert env.core.max_steps == 50


@pytest.mark.parametrize("seed", range(5))
def test_plan_solves_bellmans_equation(seed):
    rng = np.random.default_rng(seed)
    P = rng.dirichlet(np.ones(6), (6, 3))
    core = FiniteMDP(P, low=rng.normal(size=(6, 3, 6)), terminal=[5], d0=0)
    values, policy = core.plan(0.9)
    action_values = core.R[0] + 0.9 * P @ values
    action_values[5] = 0
    np.testing.assert_allclose(values, action_values.max(1), atol=1e-11)
    np.testing.assert_array_equal(policy, action_values.argmax(1))


def test_plan_over_a_horizon_equals_the_best_of_all_policies():
    rng = np.random.default_rng(1)
    P = rng.dirichlet(np.ones(3), (2, 3, 2))
    core = FiniteMDP(P, low=rng.random((2, 3, 2, 3)), horizon=2)
    values, policy = core.plan(1.0)
    assert values.shape == policy.shape == (2, 3)
    best = np.full(3, -np.inf)
    for code in range(2**6):
        choice = np.array([code >> i & 1 for i in range(6)]).reshape(2, 3)
        later = core.R[1][range(3), choice[1]]
        best = np.maximum(best, core.R[0][range(3), choice[0]] + P[0][range(3), choice[0]] @ later)
    np.testing.assert_allclose(values[0], best)


def test_plan_breaks_ties_by_the_lowest_action_and_says_when_it_cannot_converge():
    assert FiniteMDP(LINE).plan(0.9).policy.tolist() == [0, 0, 0, 0]
    end = FiniteMDP(LINE, low=-1.0, terminal=[3])
    assert end.plan(1.0).values == pytest.approx([-3, -2, -1, 0])
    with pytest.raises(ValueError, match="does not converge with gamma=1"):
        FiniteMDP(LINE, low=1.0).plan(1.0)
    with pytest.raises(ValueError, match=r"gamma=1.5 is outside \[0, 1\]"):
        end.plan(1.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"P": LINE[0]}, r"P has shape \(2, 4\)"),
        ({"P": LINE[:, :, :3]}, r"P has shape \(4, 2, 3\)"),
        ({"P": LINE * 0.5}, r"P\[0, 0, 0\] sums to 0.5"),
        ({"P": LINE * 3 - 1}, r"P\[0, 0, 0, 0\] = 2.0 is outside \[0, 1\]"),
        ({"P": np.stack([LINE] * 3), "horizon": 2}, "tables for 3 steps, allowed are 1 and .*2"),
        ({"P": LINE, "low": np.zeros(3)}, r"low has shape \(3,\)"),
        ({"P": LINE, "low": np.nan}, "low holds values that are not finite"),
        ({"P": LINE, "high": 1.0}, "high and q belong together"),
        ({"P": LINE, "high": 1.0, "q": 1.5}, r"q\[.*\] = 1.5 is outside \[0, 1\]"),
        ({"P": LINE, "d0": 4}, "state 4 is outside 0 .. 3"),
        ({"P": LINE, "d0": [0.5, 0.5]}, r"d0 has shape \(2,\)"),
        ({"P": LINE, "d0": [0.5, 0.4, 0, 0]}, "d0 sums to 0.9"),
        ({"P": LINE, "d0": 3, "terminal": [3]}, r"terminal states \[3\]"),
        ({"P": LINE, "terminal": [7]}, "terminal: state 7 is outside 0 .. 3"),
        ({"P": LINE, "horizon": 0}, "horizon=0 must be an integer of at least 1"),
        ({"P": LINE, "max_steps": 2.5}, "max_steps=2.5 must be an integer"),
        ({"P": LINE, "observation": "pixels"}, "observation='pixels', allowed are"),
        ({"P": LINE, "gamma": -0.1}, "gamma=-0.1 is outside"),
    ],
)
def test_bad_tables_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        FiniteMDP(**arguments)


def test_the_picture_marks_the_present_state():
    core = FiniteMDP(LINE, low=ENTER_END, terminal=[3])
    frames = [
        core.render_frame(core.initial(core.tapes(1, 0, [{"state": s}])), 0) for s in (0, 0, 2)
    ]
    np.testing.assert_array_equal(frames[0], frames[1])
    red = [np.argwhere((frame == (209, 53, 43)).all(-1)).mean(0) for frame in frames]
    assert red[0][1] == pytest.approx(red[2][1], abs=2)  # states 0 and 2 are above each other
    assert red[2][0] > red[0][0] + 100


# -- sparse tables --------------------------------------------------------------------------------


def sparse_pair(rng, states=6, actions=3, **arguments):
    """The same task with dense and with sparse tables."""
    P = rng.dirichlet(np.full(states, 0.3), (states, actions)) * (rng.random(states) < 0.7)
    P[..., 0] += 1 - P.sum(axis=-1)
    low, high = rng.standard_normal((2, states, actions, 1))
    q = rng.random((states, actions, 1))
    rest = {"low": low, "high": high, "q": q, "d0": 1, **arguments}
    matrix = scipy.sparse.csr_array(P.reshape(states * actions, states))
    return FiniteMDP(P, **rest), FiniteMDP(matrix, **rest), P


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("limits", [{"horizon": 9}, {"max_steps": 12}, {"terminal": [2]}])
def test_sparse_tables_make_the_same_world(seed, limits):
    dense, sparse, P = sparse_pair(np.random.default_rng(seed), **limits)
    assert_allclose(sparse.R, dense.R, atol=1e-12)
    assert_allclose(sparse.P.toarray().reshape(P.shape), dense.P[0])
    for gamma in (0.5, 0.95):
        left, right = dense.plan(gamma), sparse.plan(gamma)
        assert_allclose(left.values, right.values, atol=1e-8)
        assert_array_equal(left.policy, right.policy)
    vectors = [
        gym.make_vec(
            "FiniteMDP-v0",
            num_envs=16,
            vectorization_mode="vector_entry_point",
            **core.tables(),
        )
        for core in (dense, sparse)
    ]
    assert_array_equal(vectors[0].reset(seed=seed)[0], vectors[1].reset(seed=seed)[0])
    actions = np.random.default_rng(seed).integers(3, size=(30, 16))
    for row in actions:
        for left, right in zip(*(vector.step(row)[:4] for vector in vectors), strict=True):
            assert_allclose(left, right, atol=1e-12)


def test_sparse_tables_work_on_tensors_and_leave_what_was_given_alone():
    _, sparse, P = sparse_pair(np.random.default_rng(5), max_steps=4)
    matrix = scipy.sparse.csr_array(P.reshape(18, 6))
    matrix.data[0], matrix.data[1] = 0.0, matrix.data[0] + matrix.data[1]
    entries = matrix.nnz
    FiniteMDP(matrix)
    assert matrix.nnz == entries
    tape = sparse.tapes(8, 0)
    core = sparse.torch(dtype=torch.float64)
    tensors = {name: torch.as_tensor(value) for name, value in tape.items()}
    state, other = sparse.initial(tape), core.initial(tensors)
    for _ in range(4):
        action = np.arange(8) % 3
        state, other = (
            sparse.transition(state, action, tape),
            core.transition(other, torch.as_tensor(action), tensors),
        )
        assert_array_equal(state["s"], other["s"].numpy())


def test_a_hundred_thousand_states_are_stepped_and_planned():
    states, rng = 100_000, np.random.default_rng(0)
    rows = np.repeat(np.arange(2 * states), 2)
    columns = np.stack([rng.integers(states, size=2 * states) for _ in range(2)], 1).reshape(-1)
    matrix = scipy.sparse.csr_array((np.full(len(rows), 0.5), (rows, columns)))
    core = FiniteMDP(matrix, low=rng.random((states, 2, 1)), gamma=0.9, max_steps=20)
    env = gym.make_vec(
        "FiniteMDP-v0",
        num_envs=64,
        vectorization_mode="vector_entry_point",
        **core.tables(),
    )
    env.reset(seed=0)
    for _ in range(5):
        seen = env.step(np.zeros(64, dtype=np.int64))[0]
    assert seen.shape == (64,) and len(np.unique(seen)) > 16
    values = core.plan(0.9).values
    following = np.asarray(matrix @ values).reshape(states, 2)
    assert_allclose((core.R[0] + 0.9 * following).max(axis=1), values, atol=1e-8)


def test_sparse_tables_that_do_not_fit_are_refused():
    identity = scipy.sparse.identity(4, format="csr")
    with pytest.raises(ValueError, match=r"allowed is \[S \* A, S\]"):
        FiniteMDP(scipy.sparse.csr_array((6, 4)))
    with pytest.raises(ValueError, match="sums to"):
        FiniteMDP(0.5 * identity)
    with pytest.raises(ValueError, match=r"broadcastable to \(1, 4, 1, 1\), as P is sparse"):
        FiniteMDP(identity, low=np.zeros((4, 1, 4)))
    two = FiniteMDP([identity, identity], low=1.0)
    assert two.actions == 2 and two.R.shape == (1, 4, 2)
