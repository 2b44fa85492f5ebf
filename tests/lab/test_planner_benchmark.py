"""What the planners are compared with solves the same processes."""

from __future__ import annotations

import numpy as np
import pytest

from palaestra.envs.tabular.planning.discounted import modified_policy_iteration, policy_iteration
from palaestra.lab.planner_benchmark import (
    ACTIONS,
    SUCCESSORS,
    many_processes,
    plain_value_iteration,
    planning,
    random_processes,
    sparse_grid,
    sparse_process,
)


def test_processes_have_four_successors():
    P, R = random_processes(5, 20, np.random.default_rng(0))
    assert P.shape == (5, 20, ACTIONS, 20) and R.shape == (5, 20, ACTIONS)
    assert ((P > 0).sum(-1) == SUCCESSORS).all()
    np.testing.assert_allclose(P.sum(-1), 1)
    parts, R = sparse_process(30, np.random.default_rng(0))
    assert len(parts) == ACTIONS and R.shape == (30, ACTIONS)
    np.testing.assert_allclose(parts[3].sum(axis=1), 1)


def test_the_grid_is_a_way_to_the_corner():
    parts, R = sparse_grid(3)
    north = parts[0].toarray()
    assert north[4, 1] == pytest.approx(0.925) and north[4, 7] == pytest.approx(0.025)
    assert north[0, 0] == pytest.approx(0.95)  # two of the four ways are walls
    found = modified_policy_iteration(parts, R, 0.95)
    assert found.values[-1] == pytest.approx(0, abs=1e-10) and found.values.argmin() == 0
    assert set(found.policy[[0, 1, 3, 4]].tolist()) <= {1, 2}  # to the south or to the east


def test_plain_value_iteration_finds_the_same():
    P, R = random_processes(3, 20, np.random.default_rng(1))
    exact = policy_iteration(P, R, 0.95)
    for i in range(3):
        values, policy = plain_value_iteration(P[i].swapaxes(0, 1), R[i], 0.95, 1e-8)
        np.testing.assert_array_equal(policy, exact.policy[i])
        assert np.ptp(values - exact.values[i]) < 1e-7
    parts, rewards = sparse_grid(4)
    _, policy = plain_value_iteration(parts, rewards, 0.95, 1e-8)
    gain = modified_policy_iteration(parts, rewards, 0.95).values
    reached = np.array([R[a] for R, a in zip(rewards, policy, strict=True)])
    chain = np.stack([parts[a].toarray()[s] for s, a in enumerate(policy)])
    np.testing.assert_allclose(reached + 0.95 * chain @ gain, gain, atol=1e-8)


def test_a_quick_run_measures_all_sides():
    results = planning(True, lambda line: None)
    assert len(results) == 21 and all(result.value > 0 for result in results)
    small = many_processes(True, lambda line: None)
    values = {result.quantity: result.value for result in small}
    together = values["value iteration, together, processes/s"]
    alone = values["value iteration, one by one, processes/s"]
    assert values["value iteration, together / one by one"] == pytest.approx(together / alone)
