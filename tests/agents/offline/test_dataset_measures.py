"""TQ and SACo, the data sets of five kinds, and what tables learn from them."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from palaestra.agents import DatasetStudy
from palaestra.agents.base.offline_data import OfflineDataset
from palaestra.agents.offline.dataset_measures import analyse, completed_returns, saco, tq
from palaestra.agents.offline.dataset_measures_codes import (
    bins,
    codes,
    conditional_entropy,
    count_pairs,
    join,
)
from palaestra.agents.offline.dataset_measures_learners import (
    cloned_law,
    counts,
    learned_laws,
    often,
    q_values,
)
from palaestra.agents.offline.dataset_measures_trials import (
    expected_return,
    five_datasets,
    record_steps,
    world,
)
from palaestra.wrappers.sb3 import make_sb3

REWARDS, DONES = [1, 0, 2, -1, 1, 5], [0, 1, 0, 0, 1, 0]
STATES, ACTIONS = np.array([0, 0, 1, 1, 0, 2]), np.array([0, 1, 0, 0, 0, 1])
SHOWN_STATES, SHOWN_ACTIONS = np.array([0, 0, 1, 1, 2, 2, 3, 3]), np.array([0, 1, 0, 1, 0, 1, 0, 0])


def walk(states, actions, rewards, dones, /, **changes):
    """Steps in a world of 4 states and 2 actions."""
    arrays = {
        "observations": np.array(states),
        "actions": np.array(actions),
        "rewards": np.array(rewards, dtype=float),
        "terminations": np.array(dones, dtype=bool),
    }
    spaces = {
        "observation_space": gym.spaces.Discrete(4),
        "action_space": gym.spaces.Discrete(2),
    }
    return OfflineDataset(**{**arrays, **spaces, **changes})


# -- worked examples ------------------------------------------------------------------------------


def test_worked_example_of_tq():
    assert completed_returns(REWARDS, DONES).tolist() == [1, 2]
    assert tq(REWARDS, DONES, 0.5, 4.5) == pytest.approx(0.25)
    assert tq(REWARDS, DONES, 2.0, 1.75) == pytest.approx(2.0)  # it may leave [0, 1]


def test_worked_example_of_saco():
    assert count_pairs(STATES, ACTIONS) == 4
    assert count_pairs(SHOWN_STATES, SHOWN_ACTIONS) == 7
    assert saco(STATES, ACTIONS, SHOWN_STATES, SHOWN_ACTIONS) == pytest.approx(0.571429, abs=1e-6)


def test_worked_example_of_the_bins():
    assert bins([0, 0.5, 1, 1.2, -0.1], 0, 1, edges=5).tolist() == [1, 3, 5, 5, 0]


def test_worked_example_as_a_report():
    data = walk(STATES, ACTIONS, REWARDS, DONES)
    shown = walk(SHOWN_STATES, SHOWN_ACTIONS, np.zeros(8), np.arange(8) == 7)
    report = analyse(data, shown, lowest=0.5, highest=4.5)
    assert (report.steps, report.pairs) == (6, 4)
    assert (report.reference_steps, report.reference_pairs) == (8, 7)
    assert report.returns.tolist() == [1, 2] and report.lengths.tolist() == [2, 3]
    assert report.tq == pytest.approx(0.25) and report.saco == pytest.approx(4 / 7)
    assert report.zero_rewards == pytest.approx(1 / 6)
    # State 0 is seen three times, with actions 0, 1, 0; states 1 and 2 with one action each.
    third = -(2 / 3 * np.log(2 / 3) + 1 / 3 * np.log(1 / 3))
    assert report.action_entropy == pytest.approx(third / 2)
    alone = analyse(data)
    assert alone.tq is None and alone.saco is None and alone.pairs == 4


# -- edges ----------------------------------------------------------------------------------------


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(ValueError, match="no episode is completed in 2 steps"):
        tq([1.0, 2.0], [0, 0], 0, 1)
    with pytest.raises(ValueError, match="two different finite returns.*1.0 and 1.0"):
        tq(REWARDS, DONES, 1.0, 1.0)
    with pytest.raises(ValueError, match="two different finite returns"):
        analyse(walk(STATES, ACTIONS, REWARDS, DONES), lowest=1.0, highest=np.nan)
    with pytest.raises(ValueError, match=r"rewards\[1\] = nan is not finite"):
        tq([0.0, np.nan], [0, 1], 0, 1)
    with pytest.raises(ValueError, match="6 values and 0 of the reference"):
        saco(STATES, ACTIONS, SHOWN_STATES[:0], SHOWN_ACTIONS[:0])
    with pytest.raises(ValueError, match=r"states\[0\] = \[nan\] is not finite"):
        saco(np.full((1, 1), np.nan), [0], np.zeros((1, 1)), [0])
    with pytest.raises(ValueError, match=r"entries of shape \(2,\), the reference's \(1,\)"):
        saco(np.zeros((3, 2)), [0, 0, 0], np.zeros((3, 1)), [0, 0, 0])
    with pytest.raises(ValueError, match="no rewards"):
        analyse(walk(STATES, ACTIONS, REWARDS, DONES, rewards=None))
    with pytest.raises(ValueError, match="no episodes are known"):
        analyse(walk(STATES, ACTIONS, REWARDS, DONES, terminations=None))


def test_a_dimension_that_does_not_change_has_one_bin():
    assert bins([3.0, 2.0, 4.0], 3.0, 3.0).tolist() == [0, 0, 0]
    states = np.array([[0.0, 3.0], [1.0, 3.0]])
    assert count_pairs(states + [0.0, 5.0], [0, 0], (states, np.array([0, 0]))) == 2


def test_bins_are_those_of_the_reference():
    reference = np.array([0.0, 1.0])
    inside = np.array([0.500, 0.505, 0.9])  # the first two share a bin of a hundredth
    assert codes("states", inside, reference).tolist() == [0, 0, 1]
    assert len(set(codes("states", inside, inside))) == 3
    assert codes("states", np.array([-5.0, -7.0, 9.0]), reference).tolist() == [0, 0, 1]


def test_images_and_dictionaries_count_byte_by_byte():
    images = np.zeros((4, 2, 2, 3), dtype=np.uint8)
    images[1, 0, 0, 0] = images[3, 0, 0, 0] = 1
    assert codes("states", images, images).tolist() == [0, 1, 0, 1]
    parts = {"image": images, "speed": np.array([0.0, 0.0, 0.001, 0.0])}
    assert codes("states", parts, parts).tolist() == [0, 1, 2, 1]
    still = {**parts, "speed": np.zeros(4)}
    assert saco(parts, [0, 0, 0, 0], still, [0, 0, 0, 0]) == pytest.approx(1.5)
    with pytest.raises(ValueError, match="dictionaries with .'image', 'speed'., the reference's"):
        saco(parts, [0, 0, 0, 0], images, [0, 0, 0, 0])


def test_many_wide_columns_do_not_overflow():
    rng = np.random.default_rng(0)
    few = rng.normal(size=(300, 40))
    rows = rng.integers(300, size=5_000)
    assert count_pairs(few[rows], np.zeros(5_000)) == len(np.unique(rows))
    large = rng.integers(-(2**61), 2**61, size=200)
    assert join(large, large).max() == 199
    assert conditional_entropy(join(large, large), join(large, large)) == pytest.approx(0)


# -- recorded kinds -------------------------------------------------------------------------------


def test_an_unfinished_episode_is_not_called_cut():
    env = gym.make("GridWorld-v0", rows=3, cols=3, max_steps=10)
    short = record_steps(env, 7, lambda _: 3, seed=0)  # runs into the wall
    assert not short.truncations.any()
    exact = record_steps(env, 20, lambda _: 3, seed=0)
    assert np.flatnonzero(exact.truncations).tolist() == [9, 19]
    with pytest.raises(ValueError, match="no episode is completed in 7 steps"):
        analyse(short)


def test_a_study_keeps_every_step_and_where_episodes_end():
    env = gym.make("GridWorld-v0", rows=3, cols=3, max_steps=10)
    agent = DatasetStudy("TablePolicy", env, seed=3)
    with pytest.raises(ValueError, match="it has not learned"):
        agent.replay()
    agent.learn(55)
    data = agent.replay()
    assert len(data) == 55
    ends = np.flatnonzero(data.terminations | data.truncations)
    inner = np.setdiff1d(np.arange(54), ends)
    np.testing.assert_array_equal(data.next_observations[inner], data.observations[inner + 1])
    assert (data.observations[ends[ends < 54] + 1] == 0).all()  # every episode starts there
    assert (data.next_observations[data.terminations] == 8).all()
    agent.learn(20)
    assert len(agent.replay()) == 20  # counted from zero: earlier steps are forgotten
    agent.learn(5, reset_num_timesteps=False)
    assert len(agent.replay()) == 25


def test_parallel_environments_are_kept_one_after_the_other():
    env = make_sb3("GridWorld-v0", num_envs=3, rows=3, cols=3)
    agent = DatasetStudy("TablePolicy", env, seed=0, exploration_final_eps=1.0).learn(30)
    data = agent.replay()
    assert len(data) == 30
    assert (data.terminations | data.truncations)[[9, 19]].all()
    inner = np.setdiff1d(np.arange(29), np.flatnonzero(data.terminations | data.truncations))
    np.testing.assert_array_equal(data.next_observations[inner], data.observations[inner + 1])


def test_five_kinds_differ_as_they_should():
    env = world()
    core = env.unwrapped.core
    best = np.eye(core.actions)[core.plan(1.0).policy]
    assert expected_return(core, best) == pytest.approx(-6.111111, abs=1e-6)
    replay = DatasetStudy("TablePolicy", world(), seed=0).learn(400).replay()
    data = five_datasets(env, lambda s: int(best[s].argmax()), replay, seed=0)
    assert {len(each) for each in data.values()} == {400} and data["replay"] is replay
    lowest = analyse(data["random"]).mean_return
    found = {k: analyse(x, replay, lowest=lowest, highest=-6.111111) for k, x in data.items()}
    assert found["random"].tq == 0 and found["replay"].saco == 1
    assert found["expert"].tq == pytest.approx(1, abs=0.05)
    assert found["expert"].tq > found["noisy"].tq > found["mixed"].tq > 0
    assert found["expert"].saco < found["noisy"].saco < found["random"].saco
    mixed = data["mixed"]
    assert mixed.terminations[319] or mixed.truncations[319]
    np.testing.assert_array_equal(mixed.actions[320:], best[mixed.observations[320:]].argmax(1))


# -- learners -------------------------------------------------------------------------------------


def test_learners_on_a_chain():
    """0 -> 1 -> end by action 1; action 0 stays. The way is recorded, with one detour."""
    data = walk(
        [0, 0, 1, 0, 1],
        [0, 1, 1, 1, 1],
        [-1, -1, 0, -1, 0],
        [0, 0, 1, 0, 1],
        next_observations=np.array([0, 1, 2, 1, 2]),
    )
    visits = counts(data, 4, 2)
    assert visits.tolist() == [[1, 2], [0, 2], [0, 0], [0, 0]]
    np.testing.assert_allclose(cloned_law(visits)[[0, 3]], [[1 / 3, 2 / 3], [0.5, 0.5]])
    assert often(visits).tolist() == [[True, True], [False, True], [True, True], [True, True]]
    values = q_values(data, visits, gamma=0.5)
    np.testing.assert_allclose(values[:2], [[-1.5, -1.0], [0.0, 0.0]])
    laws = learned_laws(data, 4, 2, gamma=0.5)
    # What was never tried in state 1 looks as good as the end of the task; BCQ does not try it.
    assert laws["offline Q"][1].tolist() == [1, 0] and laws["BCQ"][1].tolist() == [0, 1]
    assert laws["offline Q"][0].tolist() == laws["BCQ"][0].tolist() == [0, 1]
