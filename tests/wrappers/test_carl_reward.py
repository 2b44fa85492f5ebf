"""CaRL's reward and the additive one: the worked example, clocks, endings and errors."""

from __future__ import annotations

from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import palaestra  # noqa: F401  registers the environments
from palaestra.envs.driving.scores import driving_score, route_completion
from palaestra.wrappers.carl_reward import (
    COMFORT,
    AdditiveReward,
    CaRLReward,
    CaRLVectorReward,
    additive_reward,
    carl_reward,
    comfort_factor,
    first_clocks,
    speed_factor,
)
from palaestra.wrappers.driving_reward import ENDING

ID = "LaneDriving-v0"
CALM = {
    **{"rc": 0.0, "v": 8.0, "limit": 10.0, "offset": 0.0, "in_lane": True, "event": ""},
    **{"ttc_violation": False, "v_des": 6.0, "heading": 0.0, "steer_change": 0.0},
}
# The steps of the worked example: what differs from calm driving, and the reward.
STEPS = (
    ({"rc": 2.0}, 2.0),
    ({"rc": 5.0, "v": 11.115}, 1.5),
    ({"rc": 6.0, "ttc_violation": True}, 0.5),
    ({"rc": 8.0, "lon_acc": 3.0, "yaw_rate": -1.2}, 0.833333),
    ({"rc": 9.0, "offset": 0.8}, 1.0),
    ({"rc": 11.0, "offset": 0.8}, 1.0),
    ({"rc": 12.0, "in_lane": False}, 0.0),
    ({"rc": 13.0, "event": "collision"}, 0.0),
)
CLOCKS = {"ttc_ticks": 2, "comfort_ticks": 1, "centre_frames": 1}


class Told(gym.Env):
    """A drive whose infos are given; it ends only where it is told to."""

    observation_space = gym.spaces.Box(0.0, 1.0, (1,))
    action_space = gym.spaces.Discrete(1)

    def __init__(self, steps, ends=(), first=CALM):
        self.steps, self.ends, self.first = list(steps), dict(ends), dict(first)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1, np.float32), dict(self.first)

    def step(self, action):
        self.t += 1
        terminated, truncated = self.ends.get(self.t, (False, False))
        info = {**CALM, **self.steps[self.t - 1]}
        return np.zeros(1, np.float32), -7.0, terminated, truncated, info


def drive(env):
    """(rewards, terminated, truncated) of all steps that the environment is told."""
    env.reset(seed=0)
    results = [env.step(0)[1:4] for _ in env.unwrapped.steps]
    return tuple(np.array(part) for part in zip(*results, strict=True))


def batch(**metrics):
    return {name: np.atleast_1d(value) for name, value in {**CALM, **metrics}.items()}


# -- worked numbers --------------------------------------------------------------------------------


def test_worked_example_rewards():
    rewards, terminated, truncated = drive(CaRLReward(Told(s for s, _ in STEPS), **CLOCKS))
    np.testing.assert_allclose(rewards, [reward for _, reward in STEPS], atol=1e-6)
    assert terminated.tolist() == [False] * 7 + [True]
    assert not truncated.any()


def test_worked_example_pure_function_numpy_and_torch():
    for convert in (np.array, torch.tensor):
        clocks = first_clocks(convert([0.0]))
        for step, expected in STEPS:
            told = {**CALM, **dict.fromkeys(COMFORT, 0.0), **step}
            costly = convert([told.pop("event") == "collision"])
            metrics = {name: convert([value]) for name, value in told.items()}
            reward, clocks = carl_reward(metrics, clocks, costly, **CLOCKS)
            np.testing.assert_allclose(float(reward[0]), expected, atol=1e-6)


def test_worked_example_additive():
    metrics = batch(v=4.0, v_des=6.0, offset=0.2, heading=0.1, steer_change=0.05)
    no, yes = np.array([False]), np.array([True])
    np.testing.assert_allclose(additive_reward(metrics, no, no), 0.366667, atol=1e-6)
    np.testing.assert_allclose(additive_reward(metrics, yes, no), 0.366667 - 1, atol=1e-6)
    np.testing.assert_allclose(additive_reward(metrics, yes, yes), 0.366667 - 5, atol=1e-6)
    mirrored = batch(v=8.0, v_des=6.0, offset=-0.2, heading=-0.1, steer_change=-0.05)
    np.testing.assert_allclose(additive_reward(mirrored, no, no), 0.366667, atol=1e-6)


def test_worked_example_driving_score():
    assert driving_score(80.0, ["vehicle", "red_light"]) == pytest.approx(33.6)
    assert driving_score(50.0) == 50.0
    with pytest.raises(ValueError, match="'speeding', allowed are .*'pedestrian'"):
        driving_score(50.0, ["speeding"])


# -- factors and clocks ----------------------------------------------------------------------------


def test_speed_factor_falls_above_the_limit_only():
    speeds = np.array([0.0, 10.0, 11.115, 12.23, 15.0])
    np.testing.assert_allclose(speed_factor(speeds, np.full(5, 10.0)), [1, 1, 0.5, 0, 0])


@pytest.mark.parametrize("name", COMFORT)
def test_each_comfort_bound_costs_a_twelfth(name):
    low, high = COMFORT[name]
    metrics = {"v": np.zeros(5), name: np.array([low, high, low - 0.01, high + 0.01, np.nan])}
    np.testing.assert_allclose(comfort_factor(metrics), [1, 1, 11 / 12, 11 / 12, 1])


def test_all_comfort_bounds_halve_and_missing_ones_count_as_satisfied():
    everything = {"v": np.zeros(1), **{name: np.full(1, 99.0) for name in COMFORT}}
    np.testing.assert_allclose(comfort_factor(everything), 0.5)
    del everything["jerk"]
    np.testing.assert_allclose(comfort_factor(everything), 7 / 12)
    np.testing.assert_array_equal(comfort_factor({"v": np.zeros(2)}), 1.0)


def steady(steps, **constants):
    """Rewards of steps that each cover one percent."""
    told = [{"rc": float(t + 1), **step} for t, step in enumerate(steps)]
    return drive(CaRLReward(Told(told), **constants))[0]


def test_another_predicted_collision_restarts_the_clock():
    near, far = {"ttc_violation": True}, {}
    rewards = steady([near, far, near, far, far, far], ttc_ticks=3)
    np.testing.assert_array_equal(rewards, [0.5, 0.5, 0.5, 0.5, 0.5, 1.0])


def test_another_discomfort_restarts_the_clock_and_keeps_the_smaller_factor():
    two, one = {"lon_acc": 3.0, "yaw_rate": 1.0}, {"lon_acc": -5.0}
    rewards = steady([two, {}, one, {}, {}, {}, one, two, {}], comfort_ticks=3)
    expected = [10, 10, 10, 10, 10, 12, 11, 10, 10]
    np.testing.assert_allclose(rewards, np.array(expected) / 12)


def test_centre_clock_counts_consecutive_frames_on_either_side():
    off, on = {"offset": -0.51}, {"offset": 0.5}
    rewards = steady([off, off, on, off, off, off, off, on], centre_frames=2)
    np.testing.assert_array_equal(rewards, [1, 1, 1, 1, 1, 0.5, 0.5, 1])


def test_clocks_run_for_50_and_3_seconds_by_default():
    late = [{"rc": 0.0}] * 498 + [{"rc": 1.0}, {"rc": 2.0}, {"rc": 3.0}]
    rewards = drive(CaRLReward(Told([{"ttc_violation": True}, *late])))[0]
    np.testing.assert_array_equal(rewards[-3:], [0.5, 1.0, 1.0])
    rewards = drive(CaRLReward(Told([{"jerk": 9.0}, *late])))[0]
    np.testing.assert_allclose(rewards[-3:], [11 / 12, 1.0, 1.0])
    np.testing.assert_array_equal(steady([{"offset": 1.0}] * 32)[28:], [1, 1, 0.5, 0.5])


def test_completion_that_jumps_backwards_pays_nothing_until_it_is_passed():
    env = CaRLReward(Told([{"rc": 5.0}, {"rc": 2.0}, {"rc": 4.0}, {"rc": 6.5}]))
    np.testing.assert_array_equal(drive(env)[0], [5.0, 0.0, 0.0, 1.5])


def test_completion_at_the_start_is_not_paid():
    env = CaRLReward(Told([{"rc": 41.0}], first={**CALM, "rc": 40.0}))
    np.testing.assert_array_equal(drive(env)[0], [1.0])


@given(st.lists(st.floats(0.01, 10.0), min_size=1, max_size=60))
def test_a_clean_episode_returns_100_whatever_the_pace(pace):
    completions = np.cumsum(pace) / np.sum(pace) * 100
    completions[-1] = 100.0
    steps = [{"rc": float(min(rc, 100.0))} for rc in completions]
    rewards, terminated, truncated = drive(CaRLReward(Told(steps)))
    assert rewards.sum() == pytest.approx(100.0)
    assert truncated.tolist() == [rc["rc"] >= 100.0 for rc in steps] and not terminated.any()


def test_the_additive_return_grows_with_the_number_of_steps():
    returns = []
    for n in (5, 10, 20):
        steps = [{"rc": 100.0 * (t + 1) / n, "v": 5.0} for t in range(n)]
        returns.append(drive(AdditiveReward(Told(steps)))[0].sum())
    np.testing.assert_allclose(returns, np.array([5, 10, 20]) * (5 / 6))


# -- endings ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("event", ENDING)
def test_every_event_ends_the_episode_and_two_of_them_cost(event):
    for wrap in (CaRLReward, AdditiveReward):
        _, terminated, truncated = drive(wrap(Told([{"event": event}])))
        assert terminated.tolist() == [True] and truncated.tolist() == [False]
    rewards = drive(CaRLReward(Told([{"rc": 3.0, "event": event}])))[0]
    assert rewards == (2.0 if event in ("collision", "red_light") else 3.0)
    rewards = drive(AdditiveReward(Told([{"v": 6.0, "event": event}])))[0]
    assert rewards == (-6.0 if event in ("collision", "red_light") else 0.0)


@pytest.mark.parametrize("events", [["red_light", "collision"], {"red_light", "collision"}])
def test_several_events_in_a_step_cost_one_hint(events):
    rewards, terminated, _ = drive(CaRLReward(Told([{"rc": 3.0, "event": events}])))
    assert rewards == 2.0 and terminated.all()


def test_terminal_hint_is_its_size_and_0_pays_pure_progress():
    steps = [{"rc": 3.0, "event": "collision"}]
    assert drive(CaRLReward(Told(steps), terminal_hint=0.0))[0] == 3.0
    assert drive(CaRLReward(Told(steps), terminal_hint=2.5))[0] == 0.5


@pytest.mark.parametrize("ends", [(False, False), (True, False), (False, True), (True, True)])
def test_finishing_is_a_truncation_without_bonus(ends):
    rewards, terminated, truncated = drive(CaRLReward(Told([{"rc": 100.0}], {1: ends})))
    assert rewards == 100.0 and truncated.all() and not terminated.any()


def test_a_collision_on_the_finishing_step_is_terminal():
    env = Told([{"rc": 100.0, "event": "collision"}], {1: (False, True)})
    rewards, terminated, truncated = drive(CaRLReward(env))
    assert rewards == 99.0 and terminated.all() and not truncated.any()


def test_leaving_the_road_terminates_without_cost():
    steps = [{"rc": 1.0, "off_road_share": 0.95}, {"rc": 2.0, "off_road_share": 0.96}]
    rewards, terminated, _ = drive(CaRLReward(Told(steps)))
    assert rewards.tolist() == [1.0, 1.0] and terminated.tolist() == [False, True]


def test_other_endings_of_the_environment_stay_what_they_are():
    steps = [{"rc": 1.0}, {"rc": 2.0}]
    _, terminated, truncated = drive(CaRLReward(Told(steps, {1: (False, True), 2: (True, False)})))
    assert terminated.tolist() == [False, True] and truncated.tolist() == [True, False]


# -- errors ----------------------------------------------------------------------------------------


def test_a_route_without_length_is_refused():
    np.testing.assert_allclose(route_completion(np.array([-1.0, 3.0, 20.0]), 10.0), [0, 30, 100])
    assert route_completion(3.0, 10.0) == 30.0
    for length in (0.0, -1.0, np.nan):
        with pytest.raises(ValueError, match="must exceed 0"):
            route_completion(1.0, length)
    with pytest.raises(ValueError, match=r"info\['rc'\]=\[nan\] must be percentages"):
        CaRLReward(Told([], first={**CALM, "rc": np.nan})).reset()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"terminal_hint": -1.0}, "terminal_hint=-1.0 must be"),
        ({"ttc_ticks": 0}, "ttc_ticks=0 must be an integer of at least 1"),
        ({"comfort_ticks": 1.5}, "comfort_ticks=1.5"),
        ({"centre_frames": -1}, "centre_frames=-1"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    for wrap, env in ((CaRLReward, Told([])), (CaRLVectorReward, gym.make_vec(ID, 2))):
        with pytest.raises(ValueError, match=message):
            wrap(env, **arguments)


def test_infos_that_say_too_little_or_nonsense_are_refused():
    with pytest.raises(ValueError, match=r"no 'rc', which ProgressRule needs: it holds \['prob'\]"):
        CaRLReward(gym.make("FrozenLake-v1")).reset()
    with pytest.raises(ValueError, match="no 'rc'"):
        CaRLVectorReward(gym.make_vec("CartPole-v1", 2)).reset()
    for step, message in (
        ({"rc": 101.0}, r"info\['rc'\]=\[101.0\] must be percentages from 0 to 100"),
        ({"event": "aliens"}, r"info\['event'\]='aliens', allowed are '' and"),
    ):
        with pytest.raises(ValueError, match=message):
            drive(CaRLReward(Told([step])))


def test_a_vector_whose_episodes_it_would_have_to_end_is_refused():
    steps = [{"rc": 3.0, "event": "collision"}]
    vector = gym.vector.SyncVectorEnv([partial(Told, steps)] * 2)
    wrapped = CaRLVectorReward(vector)
    wrapped.reset(seed=0)
    with pytest.raises(ValueError, match=r"\[0, 1\] go on where an episode has to end.*collision"):
        wrapped.step(np.zeros(2, dtype=int))
