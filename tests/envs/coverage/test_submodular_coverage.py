"""`SubmodularCoverage`: the worked example, motion, slip, weights and edge cases."""

from __future__ import annotations

import warnings

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palaestra.envs.coverage.fields import weight_field
from palaestra.envs.coverage.submodular_coverage import SubmodularCoverage


def play(core, actions, seed=0):
    """Rewards, infos and last state of one episode."""
    tape = core.tapes(1, seed)
    state, rewards = core.initial(tape), []
    infos = [core.info(state)]
    for action in actions:
        following = core.transition(state, np.array([action]), tape)
        rewards.append(float(core.reward(state, np.array([action]), following)[0]))
        state = following
        infos.append(core.info(state))
    return rewards, infos, state


def test_worked_example():
    core = SubmodularCoverage(rows=3, cols=3, horizon=4)
    rewards, infos, state = play(core, (1, 2, 0, 3))
    assert state["path"].tolist() == [[0, 1, 4, 4, 3]]
    assert rewards == [2, 2, 0, 1]
    assert np.cumsum(rewards[::-1])[::-1].tolist() == [5, 3, 1, 1]
    assert [float(info["set_value"][0]) for info in infos] == [4, 6, 8, 8, 9]
    assert core.set_function.value(state["visited"]).tolist() == [9]
    additive, _, _ = play(
        SubmodularCoverage(rows=3, cols=3, horizon=4, reward="additive"), (1, 2, 0, 3)
    )
    assert additive == [4, 4, 4, 4]
    assert np.cumsum(additive[::-1])[::-1].tolist() == [16, 12, 8, 4]
    assert [float(info["additive_reward"][0]) for info in infos[1:]] == additive


def test_footprints_end_at_the_border_and_at_walls():
    core = SubmodularCoverage(layout=["..#", "...", "..."], horizon=1)
    assert core.singles.reshape(3, 3).tolist() == [[4, 3, 1], [4, 4, 2], [2, 2, 1]]
    assert core.weights[0, 2] == 0


def test_moves_stay_right_down_left_up_and_walls_stop():
    core = SubmodularCoverage(layout=["...", ".#.", "..."], horizon=1)
    assert core.moves[0].tolist() == [0, 1, 3, 0, 0]
    assert core.moves[1].tolist() == [1, 2, 1, 0, 1]
    assert core.moves[8].tolist() == [8, 8, 8, 7, 5]
    assert core.moves[3].tolist() == [3, 3, 6, 3, 0]


def test_two_rooms_are_joined_by_one_corridor_row():
    core = SubmodularCoverage(layout="two_rooms", horizon=40)
    walls = core.grid.walls
    assert walls.shape == (7, 14)
    assert not walls[:, :4].any() and not walls[:, 10:].any() and not walls[3].any()
    assert walls[[0, 1, 2, 4, 5, 6], 4:10].all()
    assert core.reachable()[core.possible].all()
    assert core.distances(core.initial(core.tapes(1, 0)))[0, 13] == 19  # down, across, up


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), slip=st.sampled_from([0.0, 0.4]))
def test_return_is_what_the_visited_set_is_worth(seed, slip):
    core = SubmodularCoverage(5, 6, 12, weights="sparse", slip=slip, instance=seed, start=(2, 3))
    actions = np.random.default_rng(seed).integers(5, size=12)
    rewards, infos, state = play(core, actions, seed)
    worth = float(core.set_function.value(state["visited"])[0])
    assert sum(rewards) == pytest.approx(worth - core.singles[15], abs=1e-9)
    assert infos[-1]["set_value"][0] == pytest.approx(worth, abs=1e-9)
    assert set(state["path"][0]) == set(np.flatnonzero(state["visited"][0]))
    again, _, _ = play(core, actions, seed)
    assert again == rewards


def test_slip_replaces_actions_by_uniform_ones():
    core = SubmodularCoverage(30, 30, 50, slip=0.5, start=(15, 15))
    tape = core.tapes(200, 0)
    replaced = tape["replaced"]
    assert (replaced >= 0).mean() == pytest.approx(0.5, abs=0.02)
    counts = np.bincount(replaced[replaced >= 0], minlength=5) / (replaced >= 0).sum()
    assert counts == pytest.approx(np.full(5, 0.2), abs=0.02)
    state = core.initial(tape)
    after = core.transition(state, np.full(200, 1), tape)
    expected = core.moves[15 * 30 + 15][np.where(replaced[:, 0] >= 0, replaced[:, 0], 1)]
    np.testing.assert_array_equal(after["position"], expected)


def test_observation_is_position_time_and_history():
    core = SubmodularCoverage(2, 2, 4, observation="history")
    _, _, state = play(core, (1, 2))
    assert core.observation(state)[0].tolist() == [0, 0, 0, 1, 0.5, 1, 1, 0, 1]
    plain = SubmodularCoverage(2, 2, 4)
    assert plain.observation(state)[0].tolist() == [0, 0, 0, 1, 0.5]


def test_an_episode_can_start_elsewhere_and_ends_at_the_horizon():
    env = gym.make("SubmodularCoverage-v0", rows=3, cols=3, horizon=2)
    observation, info = env.reset(seed=0, options={"state": 8})
    assert observation.argmax() == 8 and info["set_value"] == 1
    assert env.step(0)[2:4] == (False, False)
    assert env.step(0)[2:4] == (True, False)


def test_nothing_is_worth_anything_where_all_weights_are_zero():
    core = SubmodularCoverage(3, 3, 5, weights=np.zeros((3, 3)))
    rewards, infos, _ = play(core, (1, 1, 2, 3, 4))
    assert rewards == [0] * 5 and infos[-1]["set_value"][0] == 0


def test_negative_weights_warn_once_and_give_negative_gains():
    weights = np.ones((2, 3))
    weights[0, 2] = -5
    with pytest.warns(UserWarning, match="not monotone") as found:
        core = SubmodularCoverage(2, 3, 3, weights=weights)
    assert len(found) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rewards, _, _ = play(core, (1, 0, 0))
    assert rewards == [-4, 0, 0]


def test_weight_laws():
    assert (weight_field("constant", 2, 3, 0) == 1).all()
    bimodal = weight_field("bimodal", 5, 5, 0)
    assert bimodal[0, 0] == bimodal[4, 4] == pytest.approx(1 / (1 + np.exp(-1)))
    assert bimodal[0, 4] == pytest.approx(1 / (1 + np.exp(1)))
    assert bimodal[2].tolist() == [0.5] * 5
    sparse = weight_field("sparse", 100, 100, 7)
    assert (sparse > 0).mean() == pytest.approx(0.3, abs=0.02)
    assert 0.5 <= sparse[sparse > 0].min() and sparse.max() <= 1.5
    assert sparse[sparse > 0].mean() == pytest.approx(1, abs=0.02)
    np.testing.assert_array_equal(sparse, weight_field("sparse", 100, 100, 7))
    fields = np.stack([weight_field("gaussian_process", 12, 12, i) for i in range(200)])
    assert fields.min() >= 0
    assert fields.mean() == pytest.approx(3, abs=0.25)
    steps = np.abs(np.diff(fields, axis=1))
    assert steps.mean() < 0.2  # smooth: cells are a tenth of a length scale apart
    assert fields[:, 0, 0].std() == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"horizon": 0}, "horizon=0 must be an integer of at least 1"),
        ({"start": 9}, r"start=9 is outside 0 .. 8"),
        ({"start": (0, 3)}, r"start=\(0, 3\) is outside a grid of 3 rows and 3 columns"),
        ({"start": 1.5}, "start=1.5 must be an integer"),
        ({"layout": [".#.", "...", "..."], "start": 1}, "start=1 is inside a wall"),
        ({"layout": ["...", "..", "..."]}, "layout, line 2: '..', allowed are 3 characters"),
        ({"layout": ["###", "###", "###"]}, "no free cell"),
        ({"layout": "maze"}, "layout='maze', allowed are 'open', 'two_rooms'"),
        ({"layout": ["...."]}, "rows=3, but the layout has 1"),
        ({"rows": 0}, "rows=0 must be an integer of at least 1"),
        ({"slip": 1.2}, r"slip=1.2 is outside \[0, 1\]"),
        ({"weights": "gold"}, "weights='gold', allowed are"),
        ({"weights": np.ones((2, 2))}, r"weights must be finite numbers of shape \(3, 3\)"),
        ({"instance": -1, "weights": "sparse"}, "instance=-1 must be an integer of at least 0"),
        ({"observation": "pixels"}, "observation='pixels', allowed are"),
        ({"reward": "mean"}, "reward='mean', allowed are"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        SubmodularCoverage(**{"rows": 3, "cols": 3, **arguments})


def test_a_bad_start_of_a_reset_is_refused():
    env = gym.make("SubmodularCoverage-v0", layout=[".#", ".."], horizon=2)
    with pytest.raises(ValueError, match=r"options\['state'\]=1 is inside a wall"):
        env.reset(options={"state": 1})


def test_the_picture_shows_what_was_seen():
    env = gym.make("SubmodularCoverage-v0", rows=4, cols=4, horizon=5, render_mode="rgb_array")
    env.reset(seed=0)
    before = env.render()
    env.step(1)
    after = env.render()
    assert before.shape == after.shape
    amber = [
        ((np.abs(picture.astype(int) - (217, 142, 31))).sum(axis=2) < 12)
        for picture in (before, after)
    ]
    cell = (520 / 4) ** 2
    assert amber[0].sum() > 3 * cell  # four cells in sight, one of them behind the disc
    assert amber[1].sum() - amber[0].sum() > cell
