"""`CarCoverage`: the track, the car, what is seen, and what it pays."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palaestra.envs.base import to_torch
from palaestra.envs.coverage.car import drive
from palaestra.envs.coverage.car_coverage import CarCoverage
from palaestra.envs.coverage.track import TRACKS, Track

ANGLES = np.linspace(0, 2 * np.pi, 72, endpoint=False)
RING = np.column_stack([np.cos(ANGLES), np.sin(ANGLES)])  # radius 1 m, leftwards from (1, 0)
REST = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


@pytest.fixture(scope="module")
def circuit():
    return CarCoverage(horizon=120)


def play(core, actions, start=None, seed=0):
    """States and rewards of one episode under given actions, until it ends."""
    tape = core.tapes(1, seed, None if start is None else [{"state": start}])
    states, rewards = [core.initial(tape)], []
    for action in actions:
        batch = core.check_action(np.asarray(action)[None], states[-1])
        states.append(core.transition(states[-1], batch, tape))
        rewards.append(float(core.reward(states[-2], batch, states[-1])[0]))
        if core.terminal(states[-1])[0]:
            break
    return states, rewards


def led(core, steps=120, seed=0):
    """States of one episode of the driver who plans."""
    tape = core.tapes(1, seed)
    states = [core.initial(tape)]
    while len(states) <= steps and not core.terminal(states[-1])[0]:
        action = core.check_action(core.toward(states[-1], np.zeros(1, dtype=int)), states[-1])
        states.append(core.transition(states[-1], action, tape))
    return states


# -- the track -------------------------------------------------------------------------------------


def test_a_ring_of_points_is_a_circle():
    track = Track(RING, 0.2)
    assert track.length == pytest.approx(2 * np.pi, abs=1e-4)
    assert track.curvatures == pytest.approx(np.ones(len(track.samples)), abs=1e-3)
    angle, radius = np.array([0.3, 1.7, 4.0, 6.1]), np.array([0.9, 1.0, 1.15, 0.85])
    s, d, heading = track.locate(radius * np.cos(angle), radius * np.sin(angle))
    assert s == pytest.approx(angle, abs=1e-3)
    assert d == pytest.approx(1 - radius, abs=1e-3)  # left is inwards
    assert heading == pytest.approx(angle + np.pi / 2, abs=0.02)


@pytest.mark.parametrize("name", TRACKS)
def test_the_nearest_part_of_a_track_is_found(name):
    track, rng = Track(name, 0.2), np.random.default_rng(0)
    x, y, heading = track.at(rng.uniform(0, track.length, 300))
    offset = rng.uniform(-0.2, 0.2, 300)
    x, y = x - offset * np.sin(heading), y + offset * np.cos(heading)
    line_x, line_y, _ = track.at(np.linspace(0, track.length, 6000))
    distances = np.hypot(x[:, None] - line_x, y[:, None] - line_y).min(axis=1)
    assert np.abs(track.locate(x, y)[1]) == pytest.approx(distances, abs=2e-3)


@pytest.mark.parametrize("name", TRACKS)
def test_places_on_a_track_are_found_again(name):
    track = Track(name, 0.2)
    s = np.linspace(0.01, track.length - 0.01, 50)
    offset = 0.12 * np.sin(np.arange(50))
    x, y, heading = track.at(s)
    found = track.locate(x - offset * np.sin(heading), y + offset * np.cos(heading))
    assert found[0] == pytest.approx(s, abs=0.02)
    assert found[1] == pytest.approx(offset, abs=3e-3)
    assert track.at(s + track.length)[0] == pytest.approx(x)
    assert track.curvature(s - track.length) == pytest.approx(track.curvature(s))
    # All the way round the heading turns once, to the left.
    assert track._turns.sum() == pytest.approx(2 * np.pi)


def test_the_lengths_of_the_tracks():
    assert Track("circuit", 0.2).length == pytest.approx(15.839, abs=1e-3)
    assert Track("oval", 0.2).length == pytest.approx(7.756, abs=1e-3)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ("moon", r"track='moon', allowed are \('circuit', 'oval'\)"),
        (RING[:3], r"at least 4 finite points \(x, y\), got an array of shape \(3, 2\)"),
        (RING * np.nan, "finite points"),
        (np.concatenate([RING, RING[:1]]), r"point 72 and the one after it are both \[1.0, 0.0\]"),
        (0.1 * RING, r"has a radius of 0\.\d+ m, which must exceed half_width=0.2"),
        (
            np.column_stack([2 * np.sin(ANGLES), np.sin(2 * ANGLES)]),  # a figure of eight
            "which must be at least 0.43 m apart",
        ),
    ],
)
def test_bad_tracks_are_refused(points, message):
    with pytest.raises(ValueError, match=message):
        CarCoverage(track=points)


# -- the car ---------------------------------------------------------------------------------------


def moved(car, throttle, angle, seconds=0.03):
    state = np.array(car, dtype=float)[:, None]
    return drive(state, np.array([float(throttle)]), np.array([float(angle)]), seconds)[:, 0]


def test_a_straight_start_by_hand():
    # m v' = 0.287 - 0.0545 v - 0.0518 - 0.00035 v^2: the square is below 2e-5 N here, so that
    # v = (0.2352 / 0.0545) (1 - exp(-0.0545 t / 0.041)).
    rate, top, time = 0.0545 / 0.041, 0.2352 / 0.0545, 0.03
    x, y, heading, speed, aside, yaw = moved(REST, 1.0, 0.0)
    assert speed == pytest.approx(top * (1 - np.exp(-rate * time)), abs=1e-5)
    assert x == pytest.approx(top * (time - (1 - np.exp(-rate * time)) / rate), abs=1e-6)
    assert (y, heading, aside, yaw) == (0, 0, 0, 0)
    assert x == pytest.approx(2.547e-3, abs=1e-6) and speed == pytest.approx(0.1687, abs=1e-4)


def test_rolling_resistance_and_brakes_stop_a_car_and_do_not_turn_it_back():
    assert moved(REST, 0.18, 0.3) == pytest.approx(REST)  # 0.0517 N against 0.0518 N
    for throttle in (0.0, -1.0):
        car = (0, 0, 0, 0.8, 0, 0)
        speeds = [0.8]
        for _ in range(30):
            car = moved(car, throttle, 0.0)
            speeds.append(car[3])
        assert (np.diff(speeds) <= 0).all() and speeds[-1] == 0
    assert moved((0, 0, 0, 2.0, 0, 0), 0.0, 0.0)[3] == pytest.approx(2.0 - 0.03 * 1.2976, abs=1e-3)


def test_a_slow_car_rolls_along_a_circle():
    car, angle = (0, 0, 0, 0.2, 0, 0), 0.2
    throttle = (0.0518 + 0.00035 * 0.04) / (0.287 - 0.0545 * 0.2)  # holds 0.2 m/s
    _, _, heading, speed, aside, yaw = moved(car, throttle, angle)
    assert speed == pytest.approx(0.2)
    assert yaw == pytest.approx(0.2 * np.tan(0.2) / 0.062)  # 0.653903
    assert yaw == pytest.approx(0.653903, abs=1e-6)
    assert aside == pytest.approx(0.033 * yaw)
    assert heading == pytest.approx(0.03 * yaw)


def test_forces_of_the_tyres_by_hand():
    # 1.5 m/s, straight, wheels at 0.1 rad: only the front tyres slip, F_f = 0.2016 sin(1.2
    # atan(2.579 * 0.1)) = 0.060131 N.
    force = 0.2016 * np.sin(1.2 * np.arctan(0.2579))
    assert force == pytest.approx(0.060131, abs=1e-6)
    short = 1e-5
    after = moved((0, 0, 0, 1.5, 0, 0), 0.5, 0.1, short)
    slope = after / short
    assert slope[5] == pytest.approx(force * np.cos(0.1) * 0.029 / 27.8e-6, rel=2e-3)
    assert slope[4] == pytest.approx(force * np.cos(0.1) / 0.041, rel=2e-3)
    drive_force = (0.287 - 0.0545 * 1.5) * 0.5 - 0.0518 - 0.00035 * 2.25
    expected = 1.5 + short * (drive_force - force * np.sin(0.1)) / 0.041
    assert after[3] == pytest.approx(expected, abs=1e-9)


def test_a_fast_car_cannot_turn_as_a_slow_one():
    """In the steady state grip limits speed times yaw rate, to (0.2016 + 0.20844) N / 0.041 kg."""
    radii = []
    for throttle in (0.2, 0.3, 0.4):
        car = REST
        for _ in range(150):
            car = moved(car, throttle, 0.2)
        assert car[3] * car[5] < 10.001
        radii.append(car[3] / car[5])
    assert radii[0] == pytest.approx(0.062 / np.tan(0.2), rel=0.03)
    assert radii[0] < radii[1] < radii[2]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_cars_keep_their_speed_in_bounds_and_mirror_images_stay_mirror_images(seed):
    rng = np.random.default_rng(seed)
    car = np.zeros((6, 20))
    car[3] = rng.uniform(0, 5, 20)
    mirror = np.array([1, -1, -1, 1, -1, -1])[:, None]
    other = mirror * car
    for _ in range(40):
        throttle, angle = rng.uniform(-1, 1, 20), rng.uniform(-0.35, 0.35, 20)
        car, other = drive(car, throttle, angle, 0.03), drive(other, throttle, -angle, 0.03)
        assert np.isfinite(car).all()
        assert (np.hypot(car[3], car[4]) < 5).all()
        np.testing.assert_allclose(other, mirror * car, atol=1e-8)


def test_long_steps_are_several_short_ones():
    car = (0, 0, 0.3, 1.2, 0.05, 1.0)
    long = moved(car, 0.4, 0.2, 0.06)
    twice = moved(moved(car, 0.4, 0.2, 0.03), 0.4, 0.2, 0.03)
    assert long == pytest.approx(twice, abs=1e-12)
    fine = car
    for _ in range(60):
        fine = moved(fine, 0.4, 0.2, 0.001)
    assert long[:4] == pytest.approx(fine[:4], abs=1e-3)
    assert long[4:] == pytest.approx(fine[4:], abs=0.02)


# -- what is seen and paid -------------------------------------------------------------------------


def test_rewards_add_up_to_the_area_seen(circuit):
    states = led(circuit)
    gains = [float(state["gain"][0]) for state in states[1:]]
    last = states[-1]
    # By hand: the cells of the track around all cells of the way.
    way = np.unique(last["path"][last["path"] >= 0])
    squares = ((circuit.centres[:, None] - circuit.centres[way]) ** 2).sum(axis=-1)
    seen = circuit.ground & (squares <= 0.25**2 + 1e-9).any(axis=1)
    area = seen.sum() * 0.01
    assert last["value"][0] == pytest.approx(area)
    assert sum(gains) == pytest.approx(area - states[0]["value"][0])
    assert area > 1.5 and min(gains) == 0  # most steps stay in a cell
    assert circuit.set_function.value(last["visited"])[0] == pytest.approx(area)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_gains_are_never_negative_and_shrink_as_the_set_grows(circuit, seed):
    rng = np.random.default_rng(seed)
    small = rng.random((1, circuit.elements)) < 0.02
    large = small | (rng.random((1, circuit.elements)) < 0.03)
    before, after = (circuit.set_function.gains(visited)[0] for visited in (small, large))
    assert (after >= 0).all() and (after <= before + 1e-12).all()
    assert before[circuit.off] == 0


def test_the_ground_is_the_track_and_a_place_sees_a_disc(circuit):
    assert circuit.ground.sum() * 0.01 == pytest.approx(2 * 0.2 * circuit.track.length, rel=0.01)
    state = circuit.initial(circuit.tapes(1, 0, [{"state": REST}]))
    cell = int(state["position"][0])
    assert np.abs(circuit.centres[cell]).max() <= 0.05  # the car is at (0, 0)
    # 21 centres lie within 0.25 m of a centre: 5 x 5 cells without the corners.
    squares = ((circuit.centres - circuit.centres[cell]) ** 2).sum(axis=1)
    around = squares <= 0.0625 + 1e-9
    assert around.sum() == 21
    assert circuit.singles[cell] == pytest.approx(0.01 * (around & circuit.ground).sum())


def test_standing_still_pays_nothing_unless_rewards_are_additive():
    for reward, paid in (("gain", 0.0), ("additive", 0.2)):
        core = CarCoverage(5, reward=reward)
        states, rewards = play(core, [(-1.0, 1.0)] * 5, REST)
        assert states[-1]["car"][0] == pytest.approx(states[0]["car"][0])
        assert rewards == pytest.approx([paid] * 5, abs=0.05)
        assert rewards[0] == pytest.approx(
            0 if paid == 0 else core.singles[states[0]["position"][0]]
        )


def test_leaving_the_track_ends_the_episode_and_pays_nothing(circuit):
    start = (0.0, 0.15, 0.6, 1.5, 0.0, 0.0)
    states, rewards = play(circuit, [(1.0, 0.0)] * 20, start)
    assert len(rewards) < 5 and rewards[-1] == 0
    assert states[-1]["road"][0, 1] > 0.2 >= states[-2]["road"][0, 1]
    assert states[-1]["position"][0] == circuit.off and circuit.terminal(states[-1])[0]
    assert circuit.info(states[-1])["additive_reward"][0] == 0
    assert states[-1]["value"] == states[-2]["value"]
    env = gym.make("CarCoverage-v0", horizon=30)
    env.reset(seed=0, options={"state": start})
    ends = [env.step(np.array([1.0, 0.0], np.float32))[2:4] for _ in rewards]
    assert ends == [(False, False)] * (len(rewards) - 1) + [(True, False)]


def test_an_episode_ends_after_the_horizon():
    states, rewards = play(CarCoverage(4), [(0.0, 0.0)] * 9)
    assert len(rewards) == 4 and states[-1]["position"][0] != CarCoverage(4).off


def test_starts_are_left_and_right_of_the_line():
    starts = CarCoverage(5, offset=0.05).tapes(400, 3)["start"]
    assert set(starts[:, 1]) == {0.05, -0.05}
    assert np.abs(starts[:, [0, 2, 3, 4, 5]]).max() == 0
    assert (starts[:, 1] > 0).mean() == pytest.approx(0.5, abs=0.08)


# -- observations ----------------------------------------------------------------------------------


def test_an_observation_by_hand():
    core = CarCoverage(8, track=RING, preview=(0.0, 1.0), offset=0.1)
    env = gym.make("CarCoverage-v0", horizon=8, track=RING, preview=(0.0, 1.0))
    start = (np.pi / 2, -0.1, 0.5, 2.0, 0.25, -4.0)
    observation, info = env.reset(seed=0, options={"state": start})
    # A quarter of the way round, half-way to the right border; bends of 1/m on a half width of 0.2.
    expected = [-0.5, -0.5, 0.5 / np.pi, 0.5, 0.25, -0.4, 0.2, 0.2, 0.0]
    assert observation == pytest.approx(np.array(expected), abs=2e-3)
    assert info["set_value"] == pytest.approx(
        core.singles[core.initial(core.tapes(1, 0, [{"state": start}]))["position"][0]]
    )
    # Beyond the scale of an entry it is limited, and stays in the space.
    observation, _ = env.reset(seed=0, options={"state": (0, 0, 0, 5.0, -3.0, 90.0)})
    assert observation[3:6].tolist() == [1, -1, 1]
    assert env.observation_space.contains(observation)


def test_the_history_shows_the_cells_of_the_way():
    core = CarCoverage(12, observation="history")
    states = led(core, steps=12)
    bits = core.observation(states[-1])[0, core.features + 1 :]
    assert set(np.flatnonzero(bits)) == set(states[-1]["path"][0])
    assert core.observation(states[-1])[0, core.features] == 1  # t / H
    assert bits.shape == (core.rows * core.cols + 1,)


# -- faces -----------------------------------------------------------------------------------------


def test_torch_equals_numpy_and_gradients_reach_the_controls(circuit):
    torch = pytest.importorskip("torch")
    face, tape = circuit.torch(dtype=torch.float64), circuit.tapes(3, 0)
    state, other = circuit.initial(tape), face.initial(to_torch(tape, dtype=torch.float64))
    rng = np.random.default_rng(0)
    controls = []
    for _ in range(25):
        action = rng.uniform((0.2, -0.5), (1, 0.5), (3, 2))
        controls.append(torch.tensor(action, requires_grad=True))
        state = circuit.transition(state, action, tape)
        other = face.transition(other, controls[-1], {})
        for name, value in state.items():
            np.testing.assert_allclose(other[name].detach().numpy(), value, atol=1e-9)
    other["car"][:, 0].sum().backward()
    gradients = torch.stack([control.grad for control in controls])
    assert torch.isfinite(gradients).all()
    assert (
        gradients[:5, :, 0] > 0
    ).all()  # more throttle early on leads further along the straight


# -- planning --------------------------------------------------------------------------------------


def test_the_driver_gets_round_the_track():
    for name, steps in (("circuit", 390), ("oval", 200)):
        core = CarCoverage(steps, track=name)
        last = led(core, steps=steps)[-1]
        assert last["t"][0] == steps
        assert last["value"][0] > 0.95 * core.ground.sum() * 0.01


def test_planning_helpers_say_where_steps_lead(circuit):
    state = led(circuit, steps=30)[-1]
    actions, cells = circuit.options(state)
    for action, cell in zip(actions, cells[0], strict=True):
        after = circuit.transition(state, circuit.check_action(action[None], state), {})
        assert after["position"][0] == cell
    distances = circuit.distances(state)[0]
    assert distances[state["position"][0]] == 0
    assert np.isinf(distances[circuit.off]) and np.isinf(distances[:-1][~circuit.ground]).all()
    s = circuit._places[0]
    ahead = circuit.ground & (s > state["road"][0, 0] + 1) & (s < state["road"][0, 0] + 1.1)
    assert distances[:-1][ahead].min() >= 1 / (2.2 * 0.03)
    assert distances[:-1][ahead].max() <= 1.1 / (2.2 * 0.03) + 1


# -- errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"horizon": 0}, "horizon=0 must be an integer of at least 1"),
        ({"half_width": 0.0}, "half_width=0.0 must be a finite number above 0"),
        ({"cell": 0.3}, "cell=0.3 must be a number from 0.01 to 0.2"),
        ({"radius": -1.0}, "radius=-1.0"),
        ({"seconds": 0.0}, "seconds=0.0 must be a number from 0.001 to 0.2"),
        ({"offset": 0.25}, "offset=0.25 must be a number from 0 to 0.2"),
        ({"preview": (0.1, -0.2)}, "preview=-0.2"),
        ({"observation": "pixels"}, "observation='pixels'"),
        ({"reward": "speed"}, "reward='speed'"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        CarCoverage(**arguments)


@pytest.mark.parametrize(
    "state", [(0, 0.3, 0, 0, 0, 0), (0, 0, 4, 0, 0, 0), (0, 0, 0, -1, 0, 0), (0, 0), (np.nan,) * 6]
)
def test_bad_starts_are_refused(state):
    env = gym.make("CarCoverage-v0", horizon=5)
    with pytest.raises(ValueError, match=r"options\['state'\]=.*\|d\| <= 0.2, \|mu\| <= pi"):
        env.reset(options={"state": state})


def test_pictures_show_the_road_the_car_and_what_was_seen():
    env = gym.make("CarCoverage-v0", horizon=60, render_mode="rgb_array")
    env.reset(seed=0)
    before = env.render().astype(int)
    for _ in range(12):
        env.step(np.array([1.0, 0.0], np.float32))
    after = env.render().astype(int)
    assert before.shape == after.shape

    def amber(frame):
        red, green, blue = np.moveaxis(frame, -1, 0)
        return ((red > 200) & (green > 150) & (green < 200) & (blue < 140)).sum()

    assert amber(before) > 500 and amber(after) > 1.5 * amber(before)
