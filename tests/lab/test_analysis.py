"""Analyses of environments: what they say, and of which they can say nothing."""

from __future__ import annotations

import pytest

from palaestra.lab.analysis import effective_horizon_of


def test_a_chain_of_doors():
    found = effective_horizon_of("DoorChain-v0", {"depth": 3, "safe": 0.4})
    assert (found["states"], found["actions"], found["horizon"], found["k"]) == (4, 2, 3, 3)
    assert found["effective_horizon"] == pytest.approx(4.473931, abs=1e-6)
    assert [row["solvable"] for row in found["steps"]] == [False, True, True]
    assert found["steps"][0]["bound"] is None
    assert found["summary"].endswith("effective horizon 4.47393, at k = 3")


def test_steps_end_where_nothing_changes_any_more():
    world = {"states": 3, "forward": 0.6, "back": 0.05, "horizon": 12}
    found = effective_horizon_of("RiverSwim-v0", world)
    assert [row["k"] for row in found["steps"]] == [1, 2]
    assert found["effective_horizon"] == pytest.approx(16.633512, abs=1e-6)


def test_a_limit_on_the_steps_is_a_horizon():
    found = effective_horizon_of("FrozenLake-v1", {"is_slippery": False}, depth=5)
    assert found["horizon"] == 100 and len(found["steps"]) <= 5
    assert effective_horizon_of("FrozenLake-v1", {}, horizon=6)["horizon"] == 6


def test_what_no_k_solves_is_said_so():
    found = effective_horizon_of("DoorChain-v0", {"depth": 5}, depth=1)
    assert found["k"] is None and found["effective_horizon"] is None
    assert "not k-QVI-solvable for any k up to 1" in found["summary"]


def test_what_has_no_tables_or_no_horizon_is_refused():
    with pytest.raises(ValueError, match="tables need Discrete"):
        effective_horizon_of("CartPole-v1", {})
    with pytest.raises(ValueError, match="CliffWalking-v1 has no horizon .* --horizon"):
        effective_horizon_of("CliffWalking-v1", {})
