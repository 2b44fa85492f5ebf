from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import pytest
import torch

import palaestra
from palaestra.lab import bq_nco_gaps

FOLDER = Path(__file__).resolve().parents[2] / "../shared/data/routing/tsplib"


def silent(line):
    pass


@pytest.mark.real_data
def test_the_twenty_euclidean_files_are_compared_with_their_optima():
    if not FOLDER.is_dir():
        pytest.skip(f"{FOLDER} is absent")
    env = gym.make("TSP-v0", nodes=8)
    nearest = palaestra.agents.NearestNeighbour("RulePolicy", env).solve
    results = bq_nco_gaps.files({"BQNCO": nearest, "other": nearest}, FOLDER, silent)
    assert len(results) == 22
    assert all(result.value > 0 for result in results)  # nobody is better than the optimum
    mean = results[-2]
    assert mean.quantity == "20 TSPLIB files: BQNCO, mean gap" and mean.target == 8.0
    assert 15 < mean.value < 35  # what the nearest neighbour is known for


def test_gaps_of_rules_have_the_right_sign_and_order():
    recipe = bq_nco_gaps.RECIPES["knapsack"]
    env = bq_nco_gaps.make(recipe, 8)
    sides = {
        "exact": palaestra.agents.KnapsackDP("RulePolicy", env).solve,
        "greedy": palaestra.agents.GreedyValue("RulePolicy", env).solve,
    }
    found = bq_nco_gaps.generated(recipe, sides, True, silent)
    exact, greedy = [result.value for result in found][:2]
    assert exact == pytest.approx(0.0, abs=1e-9)
    assert 0 <= greedy < 20


def test_what_was_solved_and_trained_is_kept_where_that_is_wanted_and_taken_from_there(
    tmp_path, monkeypatch
):
    monkeypatch.setenv(bq_nco_gaps.KEEP, str(tmp_path))
    monkeypatch.delenv(bq_nco_gaps.FILES, raising=False)
    recipe, said = bq_nco_gaps.RECIPES["tsp"], []
    agent, seconds = bq_nco_gaps.train(recipe, True, said.append)
    assert agent.num_timesteps == 20 and min(seconds.values()) > 0
    assert len(said) == 2
    again, as_measured = bq_nco_gaps.train(recipe, True, said.append)
    assert len(said) == 2  # nothing was done
    assert as_measured == seconds
    for name, tensor in agent.policy.state_dict().items():
        assert torch.equal(tensor, again.policy.state_dict()[name]), name
    (tmp_path / "bq_nco_tsp_20.zip").unlink()
    third, solved_before = bq_nco_gaps.train(recipe, True, said.append)
    assert solved_before["demonstrations"] == seconds["demonstrations"]
    for name, tensor in agent.policy.state_dict().items():
        assert torch.equal(tensor, third.policy.state_dict()[name]), name
