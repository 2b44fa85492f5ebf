from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from test_cli import call, fails
from test_report import nothing_is_loaded, words_of

from palaestra.lab import compare, comparisons
from palaestra.lab.compare import Comparison, Learner, Side, Watch, run_comparison
from palaestra.lab.report import render_comparison, render_report
from palaestra.lab.runner import store

PPO = Side("PPO", {"n_steps": 16, "batch_size": 16, "n_epochs": 1, "device": "cpu"})
TINY = Comparison(
    "tiny",
    "LineWorld-v0",
    {"PPO": PPO, "slower": replace(PPO, kwargs={**PPO.kwargs, "learning_rate": 1e-5})},
    steps=48,
    evaluations=3,
    episodes=2,
    seeds=2,
)


@pytest.fixture(scope="module")
def result():
    return run_comparison(TINY, workers=1, progress=False)


def test_curves_have_the_planned_points_and_the_numbers_of_a_plain_call(result):
    assert list(result["arms"]) == ["PPO", "slower"] and not result["trial"]
    for name, arm in result["arms"].items():
        for seed, curves in enumerate(arm["curves"]):
            x, y = curves["return"]
            assert x == [0.0, 16.0, 32.0, 48.0]
            plain = Learner(TINY, TINY.sides[name])(seed, 1.0)
            assert plain.curves["return"][1] == y
            assert arm["metrics"]["last"][seed] == y[-1]
            assert arm["metrics"]["mean"][seed] == pytest.approx(
                (y[0] / 2 + y[1] + y[2] + y[3] / 2) / 3
            )
            assert arm["metrics"]["steps per CPU second"][seed] > 0


def test_agents_start_from_the_same_policy_and_part_by_what_they_learn(result):
    fast, slow = (result["arms"][name]["curves"][0]["return"][1] for name in ("PPO", "slower"))
    assert fast[0] == slow[0] and fast != slow


def test_looking_at_an_agent_does_not_change_what_it_learns():
    watched = TINY.agent(PPO, 0)
    watched.learn(48, callback=Watch(TINY.environment(scored=True), 48, 3, 2))
    alone = TINY.agent(PPO, 0).learn(48)
    mine, other = (agent.policy.state_dict() for agent in (watched, alone))
    assert all(np.array_equal(mine[name], other[name]) for name in mine)


def test_what_a_comparison_refuses():
    with pytest.raises(ValueError, match="'none' names no agent"):
        Comparison("none", "LineWorld-v0", {}, 10)
    with pytest.raises(ValueError, match="episodes must be at least 1, got 0"):
        replace(TINY, episodes=0)
    with pytest.raises(ValueError, match="60 evaluations in 48 steps"):
        replace(TINY, evaluations=60)


def test_a_page_shows_the_curves_and_loads_nothing(result, tmp_path):
    text = render_comparison(tmp_path, result).read_text(encoding="utf-8")
    nothing_is_loaded(text)
    assert "slower" in words_of(text) and "LineWorld-v0" in words_of(text)
    assert text.count("<svg") == 2  # for wide and for narrow screens


def test_the_report_shows_stored_comparisons_and_says_which_are_stale(
    result, tmp_path, monkeypatch
):
    monkeypatch.setattr(compare, "FOLDER", tmp_path / "stored")
    monkeypatch.setattr(comparisons, "COMPARISONS", (TINY,))
    assert compare.stored() == []
    store(result, compare.FOLDER)
    assert compare.stored()[0]["stale"] == []
    text = render_report(tmp_path).read_text(encoding="utf-8")
    assert "Learning side by side" in text and 'id="comparison-tiny"' in text
    store({**result, "hashes": {**result["hashes"], "slower": "old"}}, compare.FOLDER)
    assert compare.stored()[0]["stale"] == ["slower"]
    (compare.FOLDER / "tiny.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"tiny\.json is not a result of a comparison"):
        compare.stored()


def test_compare_prints_a_table_and_writes_a_page(tmp_path):
    options = [f"--set={key}={value}" for key, value in PPO.kwargs.items()]
    outcome = call(
        *("compare", "LineWorld-v0", "PPO", "A2C", "--steps=32", "--seeds=2", "--episodes=1"),
        *("--evaluations=2", "--workers=1", "--no-progress", f"--out={tmp_path}"),
        *[f"--set=PPO.{option[6:]}" for option in options],
        *("--set=A2C.n_steps=8", "--set=device=cpu"),
    )
    assert outcome.exit_code == 0, outcome.output
    assert "A2C" in outcome.stdout and (tmp_path / "report.html").exists()
    written = json.loads((tmp_path / "comparison.json").read_text(encoding="utf-8"))
    assert written["agents"] == {"PPO": "PPO", "A2C": "A2C"} and written["trial"] is False


def test_what_the_commands_refuse():
    line = fails(2, "compare", "LineWorld-v0", "PPO", "PPO")
    assert "PPO is given twice" in line
    line = fails(2, "compare", "LineWorld-v0", "PPO", "--set", "SAC.gamma=0.9")
    assert "SAC is not compared" in line
    assert "no comparison is called 'chess'" in fails(2, "curves", "chess")


def test_declared_comparisons_can_be_built():
    for comparison in comparisons.COMPARISONS:
        for side in comparison.sides.values():
            assert comparison.agent(side, 0) is not None
    assert "pendulum" in call("curves", "--list").stdout
