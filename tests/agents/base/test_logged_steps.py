"""Tables of logged decisions: what becomes of their rows, and what they are refused for."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium import spaces

from palaestra.agents.base.logged_steps import read_logs

COLUMNS = {"observations": ["x", "y"], "actions": ["power"], "reward": "paid", "episode": "day"}
LOG = """day,hour,x,y,power,paid,over
mon,1,0.0,1.0,0.5,10,0
mon,2,0.1,1.1,0.25,11,0
tue,1,5.0,6.0,1.0,20,0
tue,2,5.1,6.1,0.0,21,1
wed,1,9.0,9.0,0.75,30,0
"""


@pytest.fixture
def log(tmp_path):
    def write(text=LOG):
        path = tmp_path / "log.csv"
        path.write_text(text)
        return path

    return write


def test_steps_get_the_observation_that_followed(log):
    data = read_logs(log(), **COLUMNS, terminated="over")
    # The second step of mon and the only one of wed have no successor in the table.
    assert data.rewards.tolist() == [10, 20, 21]
    assert data.observations.tolist() == pytest.approx(np.array([[0, 1], [5, 6], [5.1, 6.1]]))
    assert data.next_observations[0].tolist() == pytest.approx([0.1, 1.1])
    assert data.next_observations[1].tolist() == pytest.approx([5.1, 6.1])
    assert data.terminations.tolist() == [False, False, True]
    assert data.truncations.tolist() == [True, False, False]
    assert data.actions[:, 0].tolist() == [0.5, 1.0, 0.0]


def test_without_ends_of_tasks_all_episodes_are_cut(log):
    data = read_logs(log(), **COLUMNS)
    assert data.rewards.tolist() == [10, 20]
    assert data.truncations.tolist() == [True, True] and not data.terminations.any()


def test_rows_are_put_in_the_order_of_their_steps(log):
    head, *rows = LOG.splitlines()
    shuffled = "\n".join([head, *(rows[i] for i in (3, 0, 4, 2, 1))])
    data = read_logs(log(shuffled), **COLUMNS, step="hour", terminated="over")
    # Episodes come in the order of their first row.
    assert data.rewards.tolist() == [20, 21, 10]
    assert data.next_observations[-1].tolist() == pytest.approx([0.1, 1.1])


def test_actions_have_the_bounds_of_the_table_or_those_that_are_given(log):
    assert read_logs(log(), **COLUMNS).action_space == spaces.Box(0.0, 1.0, (1,), np.float32)
    wide = read_logs(log(), **COLUMNS, bounds=(-1, [2.0])).action_space
    assert (wide.low.tolist(), wide.high.tolist()) == ([-1], [2])


def test_labels_become_numbers(log):
    choice = {**COLUMNS, "actions": ["offer"], "discrete": True}
    text = LOG.replace("power", "offer").replace("0.5,10", "none,10").replace("1.0,20", "gift,20")
    data = read_logs(log(text), **choice)
    assert data.action_space == spaces.Discrete(5) and data.actions.tolist() == [0, 2]
    assert data.metadata["actions"][:3] == ["none", "0.25", "gift"]


def test_a_mapping_of_columns_will_do():
    table = {"day": [1, 1], "x": [0, 1], "y": [0, 1], "power": [0, 1], "paid": [2, 3]}
    assert read_logs(table, **COLUMNS).rewards.tolist() == [2]


@pytest.mark.parametrize(
    ("text", "changes", "message"),
    [
        (LOG, {"reward": "gain"}, r"log\.csv: no column 'gain'"),
        (LOG.replace("5.1", "?"), {}, r"line 5: column 'x' is '\?', allowed: finite numbers"),
        (LOG.replace("21,1", "21,x"), {"terminated": "over"}, "line 5: column 'over' is 'x'"),
        (LOG.replace("10,0", "10,1"), {"terminated": "over"}, "line 2: over is 1, but .* goes on"),
        (LOG.replace("mon,2", "mon,1"), {"step": "hour"}, "line 3: a second row of this day"),
        (LOG, {"bounds": (0.0, 0.7)}, "line 4: column 'power' is 1, allowed: 0 to 0.7"),
        (LOG, {"bounds": (1.0, 1.0)}, "each low one must be below the high one"),
        (LOG, {"actions": []}, r"actions=\[\] must name columns"),
        (LOG, {"actions": ["x", "y"], "discrete": True}, "a discrete action is in one column"),
        (LOG, {"episode": "paid"}, "no step has one that follows it"),
    ],
)
def test_what_a_table_is_refused_for(log, text, changes, message):
    with pytest.raises(ValueError, match=message):
        read_logs(log(text), **{**COLUMNS, **changes})


def test_an_environment_gives_the_spaces(log):
    text = "day,x,y,power,paid\n1,0,0,0,1\n1,0,0,0,1\n"
    with pytest.raises(ValueError, match="observations have shape"):
        read_logs(log(text), **COLUMNS, env="LineWorld-v0")
