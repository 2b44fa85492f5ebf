"""The demo: its tasks run, on data too, and its page says what the table says."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest

from palaestra.lab import demo
from palaestra.lab.demo import GRAPH, Method, Task, rows_of, run, run_demo, trace_task

SMALL = {"scenarios": 8, "batch_size": 4, "validation_scenarios": 8, "evaluate_every": 1}


def tiny_tasks() -> list[Task]:
    return [
        Task(
            title="two stores",
            environment={"setting": "one_warehouse_lost", "stores": 2, "periods": 10, "ignore": 2},
            test={"periods": 20, "ignore": 5},
            methods={
                "HDPO": Method("HDPO", 160, {**SMALL, **GRAPH}, "learned"),
                "base stock": Method("BaseStock", 160, SMALL),
                "hindsight": Method("JustInTime", 0, kind="bound", seeds=1),
            },
            episodes=4,
        ),
        Task(
            title="one store",
            environment={"setting": "one_store_backlogged", "periods": 10, "ignore": 2},
            test={"periods": 20, "ignore": 5},
            methods={"base stock": Method("BaseStock", 0, seeds=1)},
            episodes=4,
            optimum=6.278819,
        ),
    ]


def test_the_demo_runs_its_tasks_and_writes_the_page(tmp_path, capsys):
    page = run_demo(out=tmp_path, seeds=2, tasks=tiny_tasks)
    text = page.read_text(encoding="utf-8")
    printed = capsys.readouterr().out
    assert page == tmp_path / "report.html"
    for method in ("HDPO", "base stock", "hindsight"):
        assert method in text
        assert method in printed
    assert "One store" in text
    assert re.search(r"[+-]\d+\.\d\d%", printed), "the gap to the optimum is printed"


def test_a_run_is_the_same_whenever_it_is_run():
    task = tiny_tasks()[0]
    first, second = run(task, "HDPO", 3), run(task, "HDPO", 3)
    assert first.cost == second.cost
    assert first.curve == second.curve


def test_the_gap_is_relative_to_the_optimum():
    task = tiny_tasks()[1]
    (row,) = rows_of(task, [run(task, "base stock", 0)])
    assert row.gap == pytest.approx((row.mean - 6.278819) / 6.278819)


def test_ppo_is_trained_and_tested_on_the_same_scale_of_observations():
    task = tiny_tasks()[0]
    method = Method("PPO", 320, {**demo.PPO, "envs": 4, "n_steps": 20, "batch_size": 40}, "learned")
    found = run(Task(task.title, task.environment, task.test, {"PPO": method}, 4), "PPO", 0)
    assert np.isfinite(found.cost)
    assert len(found.states) == 20


def test_a_csv_of_ones_own_becomes_a_task(tmp_path, capsys):
    weeks = pd.date_range("2020-01-06", periods=120, freq="7D")
    demand = np.random.default_rng(0).poisson(9, (120, 3)).astype(float)
    demand[5, 1] = -2
    frame = pd.DataFrame(demand, columns=["north", "south", "east"])
    frame.insert(0, "date", weeks)
    path = tmp_path / "sales.csv"
    frame.to_csv(path, index=False)
    task = trace_task(path, None, None)
    assert "3 stores, 1 warehouses, 1 products, 120 weeks" in task.title
    assert "1 of 360 values were negative" in " ".join(capsys.readouterr().out.split())
    assert np.isfinite(run(task, "newsvendor, p/(p+h)", 0).cost)


def test_a_calendar_without_demand_is_refused(tmp_path):
    with pytest.raises(ValueError, match="demand"):
        run_demo(calendar=tmp_path / "weeks.csv", out=tmp_path)
