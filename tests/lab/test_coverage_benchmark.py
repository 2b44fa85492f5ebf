"""SubPO's benchmark on every environment of coverage, in a quick trial."""

from __future__ import annotations

import pytest

from palaestra.envs.registry import ENTRIES
from palaestra.lab import coverage_benchmark
from palaestra.lab.coverage_benchmark import WORLDS


@pytest.fixture(scope="module")
def trial():
    said = []
    results = coverage_benchmark.coverage(True, said.append)
    assert len(said) == len(WORLDS)
    return {result.quantity: result.value for result in results}


def test_every_environment_of_coverage_is_a_world():
    walked = {entry.id for entry in ENTRIES if entry.domain == "coverage"}
    assert {world.environment for world in WORLDS} == walked - {"AntCoverage-v0"}


@pytest.mark.parametrize("name", [world.name for world in WORLDS])
def test_nobody_exceeds_the_bound_and_two_updates_do_not_beat_greedy(trial, name):
    bound = trial[f"{name}: upper bound, F"]
    greedy = max(trial[f"{name}: greedy, F"], trial[f"{name}: greedy tour, F"])
    for agent in ("SubPO", "MODPO"):
        assert 0 < trial[f"{name}: {agent}, F"] < greedy <= bound * (1 + 1e-12)
    ratio = trial[f"{name}: SubPO, F"] / trial[f"{name}: MODPO, F"]
    assert trial[f"{name}: SubPO / MODPO"] == pytest.approx(ratio)
    ratio = trial[f"{name}: SubPO, F"] / greedy
    assert trial[f"{name}: SubPO / better greedy"] == pytest.approx(ratio)


def test_the_robot_is_trained_on_both_rewards():
    pytest.importorskip("mujoco")
    gains, additive, ratio = coverage_benchmark.ant_coverage(True, lambda line: None)
    # The patch under the start is one square metre; in 5 s a robot covers a few more.
    assert 1 <= gains.value < 20 and 1 <= additive.value < 20
    assert ratio.value == pytest.approx(gains.value / additive.value)
