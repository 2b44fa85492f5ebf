from __future__ import annotations

import os
import sys

import numpy as np
import pytest

from palaestra.lab import routing_speed

# What the driver calls, in the place of RL4CO: episodes of three steps.
RL4CO = """
import torch

class Batch(dict):
    def set(self, name, value):
        self[name] = value

class TSPEnv:
    def __init__(self, generator_params, check_solution):
        assert generator_params == {"num_loc": 50} and check_solution is False
    def reset(self, batch_size):
        self.n, self.t = batch_size[0], 0
        return self.batch()
    def batch(self):
        mask = torch.zeros(self.n, 4, dtype=torch.bool)
        mask[:, self.t] = True
        return Batch(action_mask=mask, done=torch.full((self.n, 1), self.t == 3))
    def step(self, batch):
        assert (batch["action"] == self.t).all()
        self.t += 1
        return {"next": self.batch()}

class CVRPEnv(TSPEnv):
    pass
"""


def test_random_actions_are_uniform_among_the_feasible():
    masks = np.array([[True, False, True, False], [False, False, False, True], [True] * 4])
    generator = np.random.default_rng(0)
    drawn = np.stack([routing_speed.random_actions(masks, generator) for _ in range(4_000)])
    shares = (drawn[..., None] == np.arange(4)).mean(axis=0)
    np.testing.assert_allclose(shares, masks / masks.sum(axis=1, keepdims=True), atol=0.04)


@pytest.mark.parametrize("drawing", [True, False])
def test_rl4co_is_timed_in_turns_with_ours(tmp_path, monkeypatch, drawing):
    package = tmp_path / "rl4co"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "envs.py").write_text(RL4CO)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    monkeypatch.setenv(routing_speed.RL4CO, sys.executable)
    ours, theirs, ratio = routing_speed.compare("TSP", "tsp", 50, drawing, True, lambda line: None)
    assert ours.value > 0 and theirs.value > 0
    assert ratio.value == pytest.approx(ours.value / theirs.value)
    assert ratio.target == 2.0 and not ratio.note


def test_without_rl4co_the_ratio_is_not_measured(monkeypatch):
    monkeypatch.delenv(routing_speed.RL4CO, raising=False)
    ours, ratio = routing_speed.compare("CVRP", "cvrp", 51, False, True, lambda line: None)
    assert ours.value > 0
    assert ratio.value is None and "rl4co" in ratio.note
