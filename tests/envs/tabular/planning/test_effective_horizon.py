"""The effective horizon: the worked example, the pool, forms, edge cases."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from palaestra.envs.tabular.door_chain import DoorChain
from palaestra.envs.tabular.garnet import Garnet
from palaestra.envs.tabular.planning.discounted import backup
from palaestra.envs.tabular.planning.effective_horizon import (
    effective_horizon,
    gap,
    is_solved,
    looking_ahead,
    reachable,
)
from palaestra.envs.tabular.planning.finite_horizon import backward_induction
from palaestra.envs.tabular.pool import pool


def analysed(core, **arguments):
    continues = ~np.isin(np.arange(core.states), core.terminal_states)
    given_tables = (core.P, core.R, core.d0, core.horizon)
    return effective_horizon(*given_tables, continues=continues, **arguments)


def test_worked_example_chain_of_three_doors() -> None:
    core = DoorChain(depth=3, safe=0.4)
    values = looking_ahead(core.P, core.R, 3)
    assert_allclose(values[:, 0, 0], [[0.4, 0.25], [0.4, 0.5], [0.4, 1.0]])
    found = analysed(core)
    assert_array_equal(found.solvable, [False, True, True])
    assert_allclose(found.gaps, [0.15, 0.1, 0.6])
    assert_allclose(found.bounds, [np.inf, 2 + 6.643856, 3 + 1.473931], atol=1e-6)
    assert (int(found.k), float(found.horizon)) == (3, pytest.approx(4.473931, abs=1e-6))


def test_worked_example_the_pool_from_4_to_23() -> None:
    found = [analysed(task.mdp, scale=1.0) for task in pool()]
    horizons = [float(each.horizon) for each in found]
    assert all(each.solvable.any() for each in found)
    assert_allclose([min(horizons), max(horizons)], [4.029146, 23.496161], atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6))
def test_each_step_looks_one_further_until_all_is_seen(seed, horizon) -> None:
    core = Garnet(states=5, actions=3, branching=2, horizon=horizon, instance=seed)
    P, R = core.P[0], core.R[0]
    values = looking_ahead(core.P, core.R, horizon)
    best = backward_induction(core.P, core.R, horizon).values
    random = np.zeros(5)
    for step in reversed(range(horizon)):
        expected = backup(P, R, random, 1.0)
        assert_allclose(values[0, step], expected)
        random = expected.mean(axis=-1)
    for k in range(1, horizon + 1):
        # The last k steps are seen to the end, at k = H all are.
        assert_allclose(values[k - 1, horizon - k :].max(axis=-1), best[horizon - k :])
        assert (values[k - 1].max(axis=-1) <= best + 1e-12).all()
    assert analysed(core).solvable[-1]


def test_forms_and_batches_give_the_same() -> None:
    tasks = [task.mdp for task in pool()[:3]]
    P, R = (np.stack([getattr(core, name) for core in tasks]) for name in ("P", "R"))
    d0, steps = tasks[0].d0, tasks[0].horizon
    singles = [analysed(core) for core in tasks]
    by_step = (np.repeat(P, steps, axis=1), R, d0)
    for tables in ((P, R, d0), by_step, tuple(map(torch.tensor, (P, R, d0)))):
        found = effective_horizon(*tables, steps)
        assert found.gaps.shape == (3, steps) and found.horizon.shape == (3,)
        for name in ("solvable", "gaps", "bounds", "k", "horizon"):
            expected = np.stack([getattr(each, name) for each in singles])
            assert_allclose(np.asarray(getattr(found, name)), expected, rtol=1e-9)


def test_tables_of_each_step() -> None:
    core = DoorChain(depth=3, safe=0.4)
    P, R = np.repeat(core.P, 3, axis=0), np.repeat(core.R, 3, axis=0).copy()
    R[2] = 0.0  # the last door pays no longer
    found = effective_horizon(P, R, core.d0)
    assert_array_equal(found.solvable, [True, True, True])
    # From the first state one is at the third door only at the third step.
    assert_allclose(found.gaps, 0.4 / 0.4)


def test_only_what_can_be_reached_counts() -> None:
    core = DoorChain(depth=3, safe=0.4)
    where = reachable(core.P, core.d0, 3, continues=np.array([True, True, True, False]))
    assert_array_equal(where, [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]])
    behind = effective_horizon(core.P, core.R, np.eye(4)[1], 2)
    assert behind.solvable.all()
    assert_allclose(behind.bounds, [1 + np.log2(1 / 0.5**2), 2])
    values = np.array([[[1.0, 0.0], [0.0, 0.1]]])
    best = np.array([[[1.0, 0.0], [0.1, 0.0]]])
    first = np.array([[True, False]])
    assert gap(values, first) == 1.0 and gap(values, ~first) == pytest.approx(0.1)
    assert is_solved(values, best, first) and not is_solved(values, best, ~first)


def test_the_gap_is_divided_by_the_range_of_returns() -> None:
    core = DoorChain(depth=3, safe=0.4)
    large = effective_horizon(core.P, 7 * core.R, core.d0, 3)
    assert_allclose(large.gaps, analysed(core).gaps)
    assert_allclose(effective_horizon(core.P, core.R, core.d0, 3, scale=0.5).gaps, [0.3, 0.2, 1.2])
    shifted = effective_horizon(core.P, 7 * core.R - 3, core.d0, 3)
    assert_allclose(shifted.horizon, analysed(core).horizon)


def test_where_all_actions_tie_or_there_is_one_looking_once_is_enough() -> None:
    for actions in (1, 2):
        P = np.full((3, actions, 3), 1 / 3)
        found = effective_horizon(P, np.ones((3, actions)), np.eye(3)[0], 4)
        assert found.solvable.all() and np.isinf(found.gaps).all()
        assert_array_equal(found.bounds, [1, 2, 3, 4])
        assert (found.k, found.horizon) == (1, 1)


def test_a_depth_that_solves_nothing_and_one_beyond_the_horizon() -> None:
    core = DoorChain(depth=4, safe=0.3)
    found = analysed(core, depth=1)
    assert (found.k, found.horizon) == (0, np.inf)
    assert analysed(core, depth=9).bounds.shape == (4,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 0}, "depth=0"),
        ({"scale": 0.0}, "scale=0.0 must be above 0"),
        ({"horizon": 0}, "horizon"),
        ({"d0": np.array([0.5, 0.0, 0.0, 0.0])}, "d0"),
    ],
)
def test_bad_arguments_are_refused(arguments, message) -> None:
    core = DoorChain(depth=3)
    given_arguments = {"P": core.P, "R": core.R, "d0": core.d0, "horizon": 3, **arguments}
    with pytest.raises(ValueError, match=message):
        effective_horizon(**given_arguments)
