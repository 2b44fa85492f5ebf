"""An integer program for a cluster: the least fragments that few changes of place can leave.

    min sum over machines p and NUMA nodes n of (c[p, n] mod 16)
    where c[p, n] = capacity - cores of the VMs there,    at most MNL VMs elsewhere than now

Cores and memory hold on every node and VMs in conflict share no machine. Solved by OR-Tools' CP-SAT
(extra `solvers`). It looks at the end only: a plan must get there move by move, each of which must
be legal, and the environment chooses the NUMA node of a VM that fits on both. So the optimum is a
bound from below on what any plan leaves. The plan that is carried out is the best order of the
program's moves that a beam search finds.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.type_aliases import GymEnv

from ...envs.base import Arrays
from ...envs.cluster.rules import FRAGMENT, SPLIT, fragments
from ...extras import require
from ..base.declare import Example
from .cluster import MigrationPlanner
from .cluster_plans import Plan, beam_plan, fragments_after, greedy_plan

ORDERS = 64  # width of the beam that orders the moves
NEEDED = (
    *("owner", "node", "cores", "memory", "split", "conflicts"),
    *("free_cores", "capacity_cores", "capacity_memory"),
)

Place = tuple[int, int]  # machine and NUMA node, `SPLIT` for both


@dataclass(frozen=True)
class Solved:
    """What the program found.

    Attributes:
        fragments: of the mapping found, in cores.
        bound: no mapping within the limit has fewer.
        owner, node: of every VM in that mapping, int [V].
    """

    fragments: int
    bound: int
    owner: NDArray[np.int64]
    node: NDArray[np.int64]

    @property
    def optimal(self) -> bool:
        """Whether it was proven that nothing is better."""
        return self.bound == self.fragments


def solve(cluster: Arrays, budget: int, choices: int = 1, effort: float = 10.0) -> Solved:
    """Solve the program for a batch of one cluster.

    Args:
        cluster: as in `envs/cluster/moves.py`, with `capacity_cores` and `capacity_memory`.
        budget: VMs that may change their place.
        choices: entries per machine; 2 lets a VM change the node of its own machine.
        effort: CP-SAT's deterministic time, roughly seconds, so that results do not depend on the
            machine.

    Raises:
        ImportError: OR-Tools is not installed.
    """
    cp_model: Any = require("ortools.sat.python.cp_model", extra="solvers")
    one = {name: np.asarray(cluster[name])[0] for name in NEEDED}
    now = {int(vm): _place(one, int(vm)) for vm in np.flatnonzero(one["owner"] >= 0)}
    model = cp_model.CpModel()
    places = {
        vm: {place: model.new_bool_var(f"x{vm}_{place}") for place in _options(one, vm, choices)}
        for vm in now
    }
    for options in places.values():
        model.add_exactly_one(options.values())
    model.add(sum(1 - places[vm][place] for vm, place in now.items()) <= budget)
    model.minimize(sum(_rests(model, one, places)))
    for first, second in one["conflicts"].tolist():
        if first in places and second in places and first < second:
            for machine in range(len(one["capacity_cores"])):
                model.add_at_most_one(
                    x
                    for vm in (first, second)
                    for (host, _), x in places[vm].items()
                    if host == machine
                )
    for vm, options in places.items():
        for place, x in options.items():
            model.add_hint(x, int(place == now[vm]))

    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = 0
    solver.parameters.max_deterministic_time = effort
    status = solver.solve(model)
    owner, node = one["owner"].copy(), one["node"].copy()
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):  # not even the hint within the effort
        return Solved(int(fragments(one["free_cores"])), 0, owner, node)
    for vm, options in places.items():
        owner[vm], node[vm] = next(place for place, x in options.items() if solver.value(x))
    least = math.ceil(solver.best_objective_bound - 1e-6)
    return Solved(round(solver.objective_value), least, owner, node)


def _place(one: Arrays, vm: int) -> Place:
    """Machine and node on which a VM lies."""
    return int(one["owner"][vm]), int(one["node"][vm])


def _options(one: Arrays, vm: int, choices: int) -> list[Place]:
    """The place of a VM, and those where an otherwise empty machine could host it."""
    fits = (one["capacity_cores"] >= one["cores"][vm]) & (
        one["capacity_memory"] >= one["memory"][vm]
    )
    if choices == 1:
        fits[one["owner"][vm]] = False
    if one["split"][vm]:
        found = {(int(machine), SPLIT) for machine in np.flatnonzero(fits.all(axis=1))}
    else:
        found = {(int(machine), int(side)) for machine, side in np.argwhere(fits)}
    return sorted(found | {_place(one, vm)})


def _rests(model: Any, one: Arrays, places: dict[int, dict[Place, Any]]) -> list[Any]:
    """Let every NUMA node hold its VMs; the cores left over on each, as variables."""
    here: dict[Place, list[tuple[int, Any]]] = defaultdict(list)
    for vm, options in places.items():
        for (machine, on), x in options.items():
            for side in (0, 1) if on == SPLIT else (on,):
                here[machine, side].append((vm, x))
    rests = []
    for machine, side in np.ndindex(one["capacity_cores"].shape):
        memory = sum(int(one["memory"][vm]) * x for vm, x in here[machine, side])
        model.add(memory <= int(one["capacity_memory"][machine, side]))
        most = int(one["capacity_cores"][machine, side])
        rest = model.new_int_var(0, FRAGMENT - 1, f"rest{machine}_{side}")
        blocks = model.new_int_var(0, most // FRAGMENT, f"blocks{machine}_{side}")
        used = sum(int(one["cores"][vm]) * x for vm, x in here[machine, side])
        model.add(most - used == FRAGMENT * blocks + rest)
        rests.append(rest)
    return rests


def mip_plan(cluster: Arrays, budget: int, choices: int = 1, effort: float = 10.0) -> Plan:
    """The moves of the program's mapping in the best order found, or greedy's plan where that
    leaves fewer fragments; arguments as in `solve`."""
    if budget < 1:
        return []
    solved = solve(cluster, budget, choices, effort)
    legal = np.asarray(cluster["legal"])[0]
    owner, node = (np.asarray(cluster[name])[0] for name in ("owner", "node"))
    among = np.zeros(legal.shape, dtype=bool)
    for vm in np.flatnonzero((solved.owner != owner) | (solved.node != node)):
        among[vm, solved.owner[vm] * choices : (solved.owner[vm] + 1) * choices] = True
    plans = [
        beam_plan(cluster, budget, choices, ORDERS, among=among),
        greedy_plan(cluster, budget, choices),
    ]
    return min(plans, key=lambda plan: (fragments_after(cluster, plan, choices), len(plan)))


class MIPMigration(MigrationPlanner):
    """The integer program above, carried out move by move.

    Args:
        policy, env, seed, ...: as in `MigrationRule`.
        effort: as in `solve`, for every plan.
    """

    example = Example(
        "VMRescheduling-v0",
        {"pms": 2, "numa": 1, "load": 0.7, "migrations": 3},
        policy="HeuristicPolicy",
        kwargs={"effort": 0.5},
        steps=30,
    )

    def __init__(
        self, policy: Any, env: GymEnv | str | None, *, effort: float = 10.0, **common: Any
    ) -> None:
        if not effort > 0:
            raise ValueError(f"effort={effort} must be above 0")
        self.effort = effort
        super().__init__(policy, env, **common)

    def find(self, cluster: Arrays, budget: int, choices: int) -> Plan:
        """`mip_plan`."""
        return mip_plan(cluster, budget, choices, self.effort)
