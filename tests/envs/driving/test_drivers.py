"""Reference drivers of `LaneDriving`: what they score, and which rules they keep."""

from __future__ import annotations

import numpy as np
import pytest

from palaestra.envs.base import put
from palaestra.envs.driving.drivers import (
    constant_speed,
    full_throttle,
    scripted_driver,
    stoppable_speed,
)
from palaestra.envs.driving.lane_driving import LaneDriving

HELD_OUT = 10_000


def drive(driver, seeds=50, first=HELD_OUT):
    """Driving scores and events of whole episodes, [seeds]."""
    core = LaneDriving()
    tape = core.tapes(seeds, first)
    state = core.initial(tape)
    score, event = np.zeros(seeds), np.full(seeds, None, dtype=object)
    going = np.arange(seeds)
    while len(going):
        part = {name: value[going] for name, value in state.items()}
        action = core.check_action(driver(part), part)
        after = core.transition(part, action, {n: v[going] for n, v in tape.items()})
        state = put(state, going, after)
        over = core.terminal(after) | core.truncated(after)
        info = core.info(after)
        score[going[over]], event[going[over]] = info["driving_score"][over], info["event"][over]
        going = going[~over]
    return score, event


@pytest.mark.parametrize(
    ("driver", "expected", "events"),
    [
        (full_throttle, 16.4, {"collision"}),
        (constant_speed, 54.0, {"collision", "red_light", "timeout"}),
    ],
)
def test_worked_example_scores_of_drivers_without_eyes(driver, expected, events):
    score, event = drive(driver)
    assert score.mean() == pytest.approx(expected, abs=0.05)
    assert set(event) == events


@pytest.mark.parametrize(("overtake", "reference"), [(True, 99.2), (False, 94.2)])
def test_the_scripted_driver_is_as_good_as_the_reference(overtake, reference):
    """Its rules are this suite's own, only the score is given."""
    score, event = drive(lambda state: scripted_driver(state, overtake))
    assert score.mean() == pytest.approx(reference, abs=0.5)
    assert set(event) <= {"", "timeout"}


def test_worked_example_score_of_random_actions():
    rng = np.random.default_rng(0)
    score, _ = drive(lambda state: rng.uniform(-1, 1, (len(state["s"]), 2)))
    assert score.mean() == pytest.approx(26.1, abs=2.0)


def test_the_scripted_driver_breaks_no_rule_on_other_routes():
    _, event = drive(scripted_driver, 150, first=0)
    assert set(event) <= {"", "timeout"}
    assert (event == "").mean() > 0.85


def test_overtaking_saves_time():
    rushed, patient = (
        drive(lambda state, o=o: scripted_driver(state, o), 60, 200)[0] for o in (True, False)
    )
    assert rushed.mean() > patient.mean() + 1.0


def test_stoppable_speed_is_zero_at_the_line_and_grows():
    speeds = stoppable_speed(np.array([-3.0, 0.0, 5.0, 20.0]))
    assert speeds[0] == speeds[1] == 0.0 and (np.diff(speeds[1:]) > 0).all()
    np.testing.assert_allclose(speeds**2 / 10 + 0.6 * speeds, [0, 0, 5, 20])
