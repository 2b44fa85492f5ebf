"""`AntCoverage`: the books around MuJoCo's Ant."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

import palaestra.envs.coverage.ant_coverage as module


def test_a_missing_mujoco_gives_one_line_that_names_the_extra(monkeypatch):
    def missing(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr("importlib.import_module", missing)
    with pytest.raises(ImportError, match=r'pip install "palaestra\[mujoco\]"') as caught:
        module.AntCoverage()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"horizon": 0}, "horizon=0 must be an integer of at least 1"),
        ({"cells": 1.5}, "cells=1.5"),
        ({"extent": -1.0}, "extent=-1.0 must be a finite number above 0"),
        ({"observation": "pixels"}, "observation='pixels'"),
        ({"reward": "speed"}, "reward='speed'"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        module.AntCoverage(**arguments)


def episode(seed=0, **arguments):
    pytest.importorskip("mujoco")
    env = gym.make("AntCoverage-v0", **arguments)
    env.action_space.seed(seed)
    results = [env.reset(seed=seed)]
    while len(results) == 1 or not (results[-1][2] or results[-1][3]):
        results.append(env.step(env.action_space.sample()))
    return env.unwrapped, results


def test_the_return_is_the_area_covered():
    core, results = episode(horizon=80, extent=2.0, cells=40, patch=3)
    assert results[0][1]["set_value"] == pytest.approx(9 * core.side**2)
    paid = sum(result[1] for result in results[1:])
    covered = core.set_function.covered(core.visited).sum() * core.side**2
    assert results[-1][4]["set_value"] == pytest.approx(covered)
    assert paid == pytest.approx(covered - 9 * core.side**2)
    assert paid > 0
    assert results[-1][2] and not results[-1][3]
    steps = [result[0][29] * 80 for result in results]
    assert steps == pytest.approx(range(len(results)), abs=1e-4)


def test_leaving_the_square_ends_the_episode_without_pay():
    _, results = episode(horizon=400, extent=0.3, cells=6, patch=1, fall=False)
    observation, reward, terminated, _, info = results[-1]
    assert len(results) < 400
    assert np.abs(observation[:2]).max() > 0.3
    assert terminated and reward == 0 and info["additive_reward"] == 0


def test_additive_rewards_and_history():
    core, results = episode(horizon=10, cells=20, reward="additive", observation="history")
    # A patch of 5 x 5 cells of 4 square metres; near the middle it lies inside.
    assert [result[1] for result in results[1:]] == [100.0] * (len(results) - 1)
    bitmap = results[-1][0][30:]
    assert bitmap.shape == (400,)
    np.testing.assert_array_equal(bitmap, core.visited[0])
    assert bitmap.sum() >= 1
