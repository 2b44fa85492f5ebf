"""Demonstrations: feasible in the environments, near-optimal, and the same after a round trip."""

import numpy as np
import pytest

from palaestra.agents.heuristics.routing.demonstrations import (
    demonstrations,
    load_demonstrations,
    save_demonstrations,
)
from palaestra.agents.heuristics.routing.gaps import gaps, mean_gap
from palaestra.agents.heuristics.routing.part import part_of_arrays
from palaestra.agents.heuristics.routing.solvers import pyvrp_plan
from palaestra.envs.routing.atsp import ATSP
from palaestra.envs.routing.cvrp import CVRP
from palaestra.envs.routing.knapsack import Knapsack
from palaestra.envs.routing.orienteering import Orienteering
from palaestra.envs.routing.tsp import TSP

CORES = {
    "tsp": lambda **given: TSP(**(given or {"nodes": 15})),
    "atsp": lambda **given: ATSP(**(given or {"nodes": 15})),
    "cvrp": lambda **given: CVRP(**(given or {"nodes": 15})),
    "orienteering": lambda **given: Orienteering(**(given or {"nodes": 15})),
    "knapsack": lambda **given: Knapsack(**(given or {"items": 15})),
}
ROWS = 4


def instances(kind, rows=ROWS, seed=0):
    return CORES[kind]().tapes(rows, seed)


def actions(kind, solved, row):
    if kind == "knapsack":
        return np.flatnonzero(solved["taken"][row])
    if kind == "cvrp":
        return 2 * solved["tour"][row] + solved["via"][row]
    return solved["tour"][row][1:][solved["tour"][row][1:] >= 0]


@pytest.mark.parametrize("solver", [True, False])
@pytest.mark.parametrize("kind", CORES)
def test_a_demonstration_can_be_acted_out_and_earns_its_objective(kind, solver):
    given = instances(kind)
    solved = demonstrations(kind, given, solver=solver)
    core = CORES[kind](instances=given)
    for row in range(ROWS):
        tape = core.tapes(1, 0, [{"row": row}])
        state, total = core.initial(tape), 0.0
        for action in actions(kind, solved, row):
            action = core.check_action(np.array([action]), state)
            after = core.transition(state, action, tape)
            total += float(core.reward(state, action, after)[0])
            state = after
        assert core.terminal(state)[0]
        sign = 1 if kind in ("orienteering", "knapsack") else -1
        assert sign * total == pytest.approx(solved["objective"][row])
        assert core.solution(state).objective == pytest.approx(solved["objective"][row])


@pytest.mark.parametrize("kind", CORES)
def test_a_round_trip_through_a_file(kind, tmp_path):
    solved = demonstrations(kind, instances(kind), solver=False)
    path = save_demonstrations(tmp_path / "solved", kind, solved)
    assert path == tmp_path / "solved.npz"
    assert [each.name for each in tmp_path.iterdir()] == ["solved.npz"]
    again = load_demonstrations(path, kind)
    assert again.keys() == solved.keys()
    for name, array in solved.items():
        np.testing.assert_array_equal(again[name], array)
        assert again[name].dtype == array.dtype


def test_routes_come_fullest_first_and_the_first_vehicle_starts_at_the_depot():
    solved = demonstrations("cvrp", instances("cvrp"))
    for row in range(ROWS):
        assert not solved["via"][row, 0]
        routes = np.split(solved["tour"][row], np.flatnonzero(solved["via"][row]))
        loads = [solved["demands"][row][route].sum() for route in routes]
        assert loads == sorted(loads, reverse=True)
        assert max(loads) <= solved["capacity"][row]


def test_small_tours_are_optimal_and_larger_ones_close_to_it():
    rng = np.random.default_rng(0)
    small = {"coordinates": rng.random((3, 9, 2))}
    exact = demonstrations("tsp", small)["objective"]
    search = [
        part.objective(pyvrp_plan(part, 50, restarts=2))
        for part in (part_of_arrays("tsp", small, row) for row in range(3))
    ]
    assert (exact <= np.array(search) + 1e-12).all()
    large = {"coordinates": rng.random((8, 50, 2))}
    parts = [part_of_arrays("tsp", large, row) for row in range(8)]
    reference = [part.objective(pyvrp_plan(part, 300, restarts=3)) for part in parts]
    assert mean_gap(demonstrations("tsp", large)["objective"], reference) < 1.0
    assert mean_gap(demonstrations("tsp", large, solver=False)["objective"], reference) < 4.0


def test_rows_do_not_depend_on_the_number_of_processes_or_the_other_rows():
    given = instances("cvrp")
    alone, two = (demonstrations("cvrp", given, seed=3, processes=k) for k in (1, 2))
    last = demonstrations("cvrp", {name: array[-1:] for name, array in given.items()}, seed=6)
    for name, array in alone.items():
        np.testing.assert_array_equal(two[name], array)
        np.testing.assert_array_equal(last[name][0], array[-1])


def test_one_capacity_for_all():
    given = instances("knapsack")
    solved = demonstrations("knapsack", {**given, "capacity": 700.0})
    assert solved["capacity"].tolist() == [700.0] * ROWS
    assert ((solved["weights"] * solved["taken"]).sum(axis=1) <= 700).all()


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="problem 'vrptw', allowed are"):
        demonstrations("vrptw", {})
    with pytest.raises(ValueError, match=r"\['budget', 'prizes'\] missing"):
        demonstrations("orienteering", {"coordinates": np.zeros((1, 3, 2))})
    with pytest.raises(ValueError, match="there is no instance"):
        demonstrations("tsp", {"coordinates": np.zeros((0, 3, 2))})
    with pytest.raises(ValueError, match="iterations=0, processes=1: both must be above 0"):
        demonstrations("tsp", instances("tsp"), iterations=0)


def test_a_file_that_is_no_demonstration_is_refused(tmp_path):
    path = tmp_path / "broken.npz"
    path.write_bytes(b"PK\x03\x04 something else")
    with pytest.raises(ValueError, match="broken.npz: no .npz file"):
        load_demonstrations(path, "tsp")
    solved = demonstrations("tsp", instances("tsp"), solver=False)
    for change, message in (
        ({"tour": solved["tour"][:, ::-1]}, "does not start at node 0"),
        ({"tour": np.zeros_like(solved["tour"])}, "does not visit each of the nodes"),
        ({"objective": solved["objective"][:2]}, r"objective has shape \(2,\), expected \(4,\)"),
    ):
        np.savez(path, **{**solved, **change})
        with pytest.raises(ValueError, match=f"broken.npz: .*{message}"):
            load_demonstrations(path, "tsp")
        with pytest.raises(ValueError, match=message):
            save_demonstrations(tmp_path / "new.npz", "tsp", {**solved, **change})
    assert not (tmp_path / "new.npz").exists()
    with pytest.raises(FileNotFoundError):
        load_demonstrations(tmp_path / "missing.npz", "tsp")


def test_gaps_in_percent():
    np.testing.assert_allclose(gaps([11.0, 9.0, 0.0], [10.0, 10.0, 0.0]), [10, -10, 0])
    np.testing.assert_allclose(gaps([9.0, 10.0], [10.0, 10.0], maximise=True), [10, 0])
    assert mean_gap([11.0, 10.0], [10.0, 10.0]) == pytest.approx(5)
    with pytest.raises(ValueError, match="no gap to a reference of 0"):
        gaps([1.0], [0.0])
    with pytest.raises(ValueError, match=r"shape \(2,\) and references of shape \(1,\)"):
        gaps([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="finite and at least 0"):
        gaps([1.0], [np.inf])
