"""`palaestra measure`: the numbers, what is said where some are missing, and the page."""

from __future__ import annotations

import json
from dataclasses import replace

import gymnasium as gym
import h5py
import numpy as np
import pytest
from test_cli import call, fails

from palaestra.agents.base.minari_files import write_minari
from palaestra.agents.base.offline_data import OfflineDataset
from palaestra.agents.base.offline_files import write_d4rl
from palaestra.lab.measure import measure, read_whole

ENV = "GridWorld-v0"
RANGE = ("--min", "-1", "--expert", "1")


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path


def grid(steps, act=None):
    env = gym.make(ENV, rows=3, cols=3, max_steps=10)
    return OfflineDataset.record(env, steps, act)


@pytest.fixture
def stored():
    """What random play sees, and what one who walks east, then south, does."""
    write_minari("grid/random-v0", grid(200), {"ref_min_score": 0.0, "ref_max_score": 2.0})
    direct = grid(40, lambda state: 2 if state % 3 < 2 else 1)
    write_minari("grid/direct-v0", direct, {"ref_min_score": 0.0, "ref_max_score": 2.0})
    return "grid/direct-v0", "grid/random-v0"


def measured(*arguments):
    outcome = call("measure", *arguments, "--json")
    assert outcome.exit_code == 0, outcome.output
    return json.loads(outcome.stdout)


def test_numbers_come_from_the_data_their_reference_and_their_metadata(stored):
    (row,) = measured(stored[0], "--reference", stored[1])
    assert (row["steps"], row["episodes"], row["mean_length"]) == (40, 10, 4)
    assert row["pairs"] == 4 and row["reference_steps"] == 200
    assert row["saco"] == 4 / row["reference_pairs"] and 20 < row["reference_pairs"] <= 32
    assert row["mean_return"] == 1 and row["tq"] == 0.5 and row["zero_rewards"] == 0.75
    assert row["action_entropy"] == pytest.approx(0, abs=1e-12)
    assert row["notes"] == ["the reference has 200 steps and the data 40: SACo is made for as many"]
    (row,) = measured(stored[0], *RANGE)
    assert row["tq"] == 1 and row["saco"] is None and "no SACo: give what" in row["notes"][0]
    (row,) = measured(stored[0], "--expert", "1")  # the lowest is the data's own
    assert row["tq"] == 1


def test_what_is_not_known_is_said(root):
    write_minari("grid/plain-v0", grid(40))
    outcome = call("measure", "grid/plain-v0")
    assert outcome.exit_code == 0
    assert "no TQ: give the returns of random play (--min)" in outcome.stderr
    assert "no SACo: give what an online agent saw" in outcome.stderr


def test_a_page_shows_numbers_and_pictures(stored, root):
    outcome = call("measure", *stored, "--reference", stored[1], "--out", root / "page")
    assert outcome.exit_code == 0, outcome.output
    text = (root / "page" / "report.html").read_text()
    assert text.count("<svg") == 4 and "Trajectory quality against state-action coverage" in text
    assert "grid/direct-v0: TQ 0.5, SACo 0." in text and "random play" in text
    rows = json.loads((root / "page" / "measures.json").read_text())
    assert [row["name"] for row in rows] == list(stored)
    assert call("measure", stored[0], "--out", root / "alone").exit_code == 0
    assert (root / "alone" / "report.html").read_text().count("<svg") == 2


def test_a_d4rl_file_is_read_whole_and_its_last_episode_as_it_is(root):
    env = gym.make("TorquePendulum-v0", max_steps=20)
    space = gym.spaces.Box(-1.0, 1.0, (1,))
    data = OfflineDataset.record(env, 50)
    data = replace(
        data,
        actions=np.clip(data.actions, -1, 1),
        env=None,
        observation_space=env.observation_space,
        action_space=space,
    )
    path = root / "hopper_medium-v2.hdf5"
    unfinished = data.truncations.copy()
    unfinished[-1] = False
    write_d4rl(path, replace(data, truncations=unfinished))
    (found,) = measure([str(path)])
    assert found.report.steps == 50 and found.report.lengths.tolist() == [20, 20]
    sums = data.rewards[:40].reshape(2, 20).sum(1)
    np.testing.assert_allclose(found.report.returns, sums, rtol=1e-5)
    # The name of the file is that of a task of D4RL, whose reference returns are published.
    assert found.report.lowest == -20.272305 and found.report.highest == 3234.3
    write_d4rl(path, data)
    assert measure([str(path)])[0].report.lengths.tolist() == [20, 20, 10]
    with h5py.File(path, "a") as file:
        del file["timeouts"]
    assert not read_whole(str(path), max_episode_steps=20).truncations[-1]
    assert read_whole(str(path), max_episode_steps=25).truncations[-1]


def test_bad_requests_are_one_line(stored):
    assert "grid/direct-v0 is given twice" in fails(2, "measure", stored[0], stored[0])
    assert "no Minari data set is called" in fails(2, "measure", "grid/none-v0")
    line = fails(2, "measure", stored[0], "--min", "1", "--expert", "1")
    assert "grid/direct-v0: TQ needs two different finite returns" in line
    write_minari("grid/short-v0", grid(3))
    assert measured("grid/short-v0")[0]["episodes"] == 1  # Minari's episodes are whole
