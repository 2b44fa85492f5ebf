"""`LaneDriving`: worked numbers, the laws of road and traffic, and endings."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from palaestra.envs.base import to_torch
from palaestra.envs.driving import traffic
from palaestra.envs.driving.lane_driving import HORIZON, LaneDriving, seen_neighbours

ID = "LaneDriving-v0"
MIDDLE = np.full(25, 0.5)
# No vehicle in the middle lane beyond 140 m; the stop line at 170 m.
EMPTY = MIDDLE.copy()
EMPTY[8:13], EMPTY[18] = 0.0, 0.7


def begin(scenario=MIDDLE, **start):
    """(core, tape, state) of an episode."""
    core = LaneDriving()
    tape = core.tapes(1, 0, [{"scenario": scenario, "state": start}])
    return core, tape, core.initial(tape)


def step(pedal=0.0, wheel=0.0, scenario=MIDDLE, **start):
    """(state, info, reward) after a step."""
    core, tape, state = begin(scenario, **start)
    action = np.array([[pedal, wheel]])
    after = core.transition(state, action, tape)
    info = {name: value[0] for name, value in core.info(after).items()}
    return after, info, core.reward(state, action, after)[0]


# -- worked numbers --------------------------------------------------------------------------------


def test_worked_example_scenario():
    _, _, state = begin()
    np.testing.assert_allclose(state["lane_speeds"], [[4.5, 4.5, 4.5]])
    np.testing.assert_allclose(state["traffic"][0], [[57.5, 100, 142.5, 185, 227.5]] * 3)
    assert (state["stop"][0], state["phase"][0], state["y"][0]) == (150.0, 10.0, 0.0)
    assert state["limits"].tolist() == [[10.0, 10.0, 10.0]]


def test_worked_example_step():
    after, info, reward = step(1.0, 0.5)
    near = seen_neighbours(after)
    found = {name: after[name][0] for name in ("s", "v")}
    found |= {"vehicle": after["traffic"][0, 1, 0], "free": near.ahead[0, 1], "reward": reward}
    expected = {
        **{"s": 0.507997, "v": 5.08, "vehicle": 57.95, "free": 52.942003, "reward": 0.169332},
        **{"rc": 0.169332, "lon_acc": 0.8, "lat_acc": 0.184356, "lon_jerk": 8.0, "v_des": 6.0},
        **{"jerk": 8.209672, "yaw_rate": 0.036291, "yaw_acc": 0.36291, "steer_change": 0.2},
        **{"limit": 10.0, "heading": 0.0036291, "offset": 0.5080 * 0.0036291, "event": ""},
        **{"off_road_share": 0.0, "driving_score": 0.169332},
    }
    for name, value in expected.items():
        got = found[name] if name in found else info[name]
        assert got == value or got == pytest.approx(value, abs=1e-5), name
    assert info["in_lane"] and not info["ttc_violation"]


def test_worked_example_red_light():
    _, info, _ = step(s=147.0, v=10.0, t=25)
    assert info["event"] == "red_light"
    assert info["driving_score"] == pytest.approx(0.7 * info["rc"])
    assert step(s=147.0, v=10.0, t=19)[1]["event"] == ""  # (1.9 + 10) s: still green


def test_worked_example_collision():
    _, info, _ = step(s=95.0, v=12.0)
    assert info["event"] == "collision"
    assert info["driving_score"] == pytest.approx(0.6 * info["rc"])


def test_worked_example_predicted_collision():
    after, info, _ = step(s=88.0, v=12.0)
    assert seen_neighbours(after).ahead[0, 1] == pytest.approx(6.75)
    assert info["ttc_violation"]
    assert not step(s=88.0, v=11.0)[1]["ttc_violation"]  # 6.85 m at 6.5 m/s
    assert info["v_des"] == pytest.approx(6.0 * 0.475)


# -- the ego ---------------------------------------------------------------------------------------


def test_actuators_follow_slowly_and_the_brake_is_stronger():
    core, tape, state = begin(v=10.0)
    wanted = np.array([[-1.0, 1.0]])
    accelerations, steering = [], []
    for _ in range(8):
        state = core.transition(state, wanted, tape)
        accelerations.append(state["acc"][0])
        steering.append(state["steer"][0])
    expected = [-0.8, -1.6, -2.4, -3.2, -4.0, -4.8, -5.6, -6.0]
    np.testing.assert_allclose(accelerations, expected, atol=1e-9)
    np.testing.assert_allclose(steering, [0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1], atol=1e-9)
    state = core.transition(state, np.array([[0.1, 0.95]]), tape)
    np.testing.assert_allclose([state["acc"][0], state["steer"][0]], [-5.2, 0.95], atol=1e-9)


def test_realised_acceleration_is_that_of_the_speed():
    after, info, _ = step(-1.0, v=0.05)
    assert after["v"][0] == 0.0 and info["lon_acc"] == pytest.approx(-0.5)
    after, info, _ = step(1.0, v=19.96)
    assert after["v"][0] == 20.0 and info["lon_acc"] == pytest.approx(0.4)


def test_limits_hold_for_the_thirds_of_the_road():
    scenario = MIDDLE.copy()
    scenario[20:23] = 0.0, 0.4, 0.9
    for s, limit in ((0.0, 8.0), (99.0, 8.0), (100.0, 10.0), (200.0, 12.0), (299.0, 12.0)):
        assert step(scenario=scenario, s=s, v=0.0)[1]["limit"] == limit


def test_start_lane_and_place_follow_the_scenario():
    for u, centre in ((0.1, -3.5), (0.5, 0.0), (0.9, 3.5)):
        scenario = MIDDLE.copy()
        scenario[23:] = u, 0.75
        assert begin(scenario)[2]["y"][0] == pytest.approx(centre + 0.1)


def test_completion_is_the_best_so_far():
    core, tape, state = begin(s=60.0, v=5.0, heading=np.pi / 2)
    state = {**state, "rc": np.array([25.0])}
    after = core.transition(state, np.zeros((1, 2)), tape)
    assert after["rc"][0] == 25.0
    assert core.reward(state, None, after)[0] == 0.0


# -- traffic and light -----------------------------------------------------------------------------


def test_light_is_green_for_12_and_red_for_8_seconds():
    red = traffic.is_red(np.arange(400), np.zeros(400))
    assert red[:200].sum() == 80 and not red[:120].any() and red[120:200].all()
    np.testing.assert_array_equal(red[:200], red[200:])
    np.testing.assert_array_equal(traffic.is_red(np.arange(100), np.full(100, 5.0)), red[50:150])


def test_vehicles_wait_at_red_in_a_queue_and_go_on():
    core, tape, state = begin(v=0.0, t=20)
    for _ in range(79):  # red until step 100
        state = core.transition(state, np.zeros((1, 2)), tape)
    x = state["traffic"][0, 0]
    # The second would be at 135.55 m, the third waits at the line, the fourth is beyond it.
    np.testing.assert_allclose(x[:4], 79 * 0.45 + np.array([57.5, 100.0, 147.75 - 35.55, 185.0]))
    assert state["traffic_speeds"][0, 0, 2] == 0.0
    for _ in range(3):
        state = core.transition(state, np.zeros((1, 2)), tape)
    assert state["traffic_speeds"][0, 0, 2] == pytest.approx(4.5)


def test_vehicles_brake_behind_the_ego_in_their_lane_only():
    core, tape, state = begin(s=64.0, v=0.0)
    for _ in range(20):
        state = core.transition(state, np.zeros((1, 2)), tape)
    assert state["traffic"][0, 1, 0] == 57.5  # nearer than 8 m already: it stands
    assert state["traffic"][0, 0, 0] == pytest.approx(57.5 + 20 * 0.45)
    assert state["event"][0] == 0


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_nobody_hits_anybody_from_behind(seed, actions):
    """Vehicles keep their order and never drive backwards; a standing ego is not run into."""
    core = LaneDriving()
    tape = core.tapes(3, seed)
    state = core.initial(tape)
    rng = np.random.default_rng(actions)
    for _ in range(60):
        after = core.transition(state, rng.uniform(-1, 1, (3, 2)), tape)
        assert (after["traffic"] >= state["traffic"]).all()
        assert (after["traffic_speeds"] <= state["lane_speeds"][:, :, None] + 1e-9).all()
        assert (np.diff(after["traffic"], axis=2) >= 8.0 - 1e-9).all()
        state = after


def test_a_standing_ego_is_blocked_and_not_run_into():
    core, tape, state = begin(s=120.0, v=0.0)
    for count in range(1, 201):
        assert not core.terminal(state)[0]
        state = core.transition(state, np.zeros((1, 2)), tape)
        assert state["still"][0] == count
    assert core.info(state)["event"].tolist() == ["blocked"]


# -- what is observed ------------------------------------------------------------------------------


def test_observation_at_the_start_number_by_number():
    core, _, state = begin(s=103.0, y=3.0, v=8.0, heading=0.1, t=25)
    lane = [(142.5 - 103.0 - 4.5) / 50, (4.5 - 8) / 10, (103.0 - 100.0 - 4.5) / 50, (4.5 - 8) / 10]
    expected = [0.4, 0.5, -0.5 / 1.75, 0.2, 0, 0, 1, (150 - 2.25 - 103) / 50, 1]
    expected += lane * 3 + [0.0, 0.0, 103 / 300]
    np.testing.assert_allclose(core.observation(state)[0], expected, atol=1e-6)


def test_lanes_without_vehicles_look_free():
    core, _, state = begin(s=290.0, v=8.0)
    seen = core.observation(state)[0]
    np.testing.assert_allclose(seen[[9, 13, 17]], 1.0)
    np.testing.assert_allclose(seen[[10, 14, 18]], 0.0)
    np.testing.assert_allclose(seen[[11, 15, 19]], 1.0)  # 58 m behind, farther than one sees
    assert seen[7] == -1.0


def test_wanted_speed_falls_before_a_red_light():
    # 7, 2 and 17 m before the line, and beyond it.
    for s, expected in ((160.75, 3.0), (165.75, 0.0), (150.75, 6.0), (168.0, 6.0)):
        info = step(scenario=EMPTY, s=s, v=0.0, t=25)[1]
        assert info["v_des"] == pytest.approx(expected), s
    assert step(scenario=EMPTY, s=165.75, v=0.0, t=0)[1]["v_des"] == 6.0


def test_observations_stay_inside_their_space():
    core = LaneDriving()
    core.action_space.seed(0)
    tape = core.tapes(64, 5)
    state, alive = core.initial(tape), np.ones(64, bool)
    for t in range(150):
        hard = np.where(np.arange(64) % 4 == 0, 1.0, np.sin(t / 40 + np.arange(64)))
        action = np.stack([np.ones(64), hard], axis=1)
        state = core.transition(state, action, tape)
        seen = core.observation(state)[alive]
        assert ((seen >= core.observation_space.low) & (seen <= core.observation_space.high)).all()
        alive &= ~(core.terminal(state) | core.truncated(state))
    assert not alive.all()


# -- endings ---------------------------------------------------------------------------------------


def test_off_road_counts_the_share_beyond_the_edge():
    after, info, _ = step(y=5.25, v=15.0, heading=0.4)
    beyond = after["y"][0] - 4.25
    assert info["off_road_share"] == pytest.approx(beyond / 2) and info["event"] == ""
    assert not info["in_lane"]
    assert step(y=5.2, v=15.0, heading=1.5)[1]["event"] == "off_road"
    assert step(y=-5.2, v=15.0, heading=-1.5)[1]["event"] == "off_road"


def test_time_runs_out_after_600_steps():
    env = gym.make(ID)
    env.reset(seed=0, options={"state": {"t": HORIZON - 2}})
    assert env.step(env.action_space.sample())[2:4] == (False, False)
    *_, terminated, truncated, info = env.step(env.action_space.sample())
    assert terminated and not truncated and info["event"] == "timeout"


def test_the_end_of_the_road_truncates_unless_an_event_holds():
    for t, expected in ((0, (False, True)), (HORIZON - 1, (True, False))):
        env = gym.make(ID)
        state = {"s": 299.5, "v": 10.0, "t": t}
        env.reset(seed=0, options={"scenario": MIDDLE, "state": state})
        _, reward, terminated, truncated, info = env.step(np.zeros(2, np.float32))
        assert (terminated, truncated) == expected
        assert info["rc"] == 100.0 and reward == pytest.approx(0.5 / 3)


def test_a_collision_is_named_before_the_red_light():
    scenario = MIDDLE.copy()
    scenario[18] = 0.0  # the line is at 100 m, where a vehicle stands
    assert step(scenario=scenario, s=97.0, v=12.0, t=25)[1]["event"] == "collision"


# -- arguments and faces ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"state": {"x": 1.0}}, r"must map some of \('s', 'y', 'v', 'heading', 't'\)"),
        ({"state": 3.0}, "must map some of"),
        ({"state": {"v": 21.0}}, r"\['v'\]=21.0 must be a number from 0 to 20"),
        ({"state": {"y": -6.0}}, r"\['y'\]=-6.0"),
        ({"state": {"heading": np.nan}}, r"\['heading'\]=nan"),
        ({"state": {"t": 600}}, r"\['t'\]=600 must be an integer from 0 to 599"),
        ({"scenario": np.ones(25)}, r"25 numbers in \[0, 1\)"),
        ({"scenario": np.zeros(24)}, r"of shape \(24,\)"),
    ],
)
def test_bad_starts_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        gym.make(ID).reset(seed=0, options=options)


def test_options_leave_the_randomness_of_later_episodes_alone():
    given_, plain = gym.make(ID), gym.make(ID)
    given_.reset(seed=3, options={"scenario": MIDDLE, "state": {"s": 10.0}})
    plain.reset(seed=3)
    np.testing.assert_array_equal(given_.reset()[0], plain.reset()[0])


def test_gradients_of_progress_reach_the_pedal():
    core = LaneDriving().torch(dtype=torch.float64)
    tape = to_torch(LaneDriving().tapes(2, 0), dtype=torch.float64)
    state, action = core.initial(tape), torch.full((2, 2), 0.1, requires_grad=True)
    start = state
    for _ in range(3):
        state = core.transition(state, action, tape)
    core.reward(start, action, state).sum().backward()
    # 3 m/s^2 for 0.1 s three times, each over the rest of the way, in percent of 300 m.
    np.testing.assert_allclose(action.grad[:, 0], 0.03 * (3 + 2 + 1) / 3, rtol=1e-3)


def test_picture_shows_light_and_event():
    frames = {}
    for t in (0, 25):
        env = gym.make(ID, render_mode="rgb_array")
        env.reset(seed=0, options={"scenario": EMPTY, "state": {"s": 155.0, "v": 5.0, "t": t}})
        frames[t] = env.render().astype(int)
        assert frames[t].shape == (350, 1000, 3)
    reddish = {
        t: (f[..., 0] > 200) & (f[..., 1] < 90) & (f[..., 2] < 90) for t, f in frames.items()
    }
    greenish = {
        t: (f[..., 0] < 70) & (f[..., 1] > 140) & (f[..., 2] < 110) for t, f in frames.items()
    }
    assert reddish[25].sum() > 400 > reddish[0].sum()
    assert greenish[0].sum() > 400 > greenish[25].sum()
    env.step(np.array([0.0, 0.0], np.float32))
    quiet = env.render().astype(int)
    for _ in range(40):
        *_, over, _, info = env.step(np.array([1.0, 0.0], np.float32))
        if over:
            break
    assert info["event"] == "red_light"
    red_text = (abs(env.render().astype(int) - [0xB0, 0x45, 0x3A]).sum(axis=2) < 30)[:40].sum()
    assert red_text > 50 > (abs(quiet - [0xB0, 0x45, 0x3A]).sum(axis=2) < 30)[:40].sum()
