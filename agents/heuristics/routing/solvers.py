"""Well-kept solvers behind one signature: what is left of a problem in, a plan out.

PyVRP (N. A. Wouda, L. Lan, W. Kool, PyVRP: A High-Performance VRP Solver Package, INFORMS Journal
on Computing 36, 2024) and OR-Tools (Google), both in the extra "solvers".

Both count in integers. Distances that are not whole are multiplied, so that the largest becomes
10^6, and rounded; where a budget limits the length they are rounded up, so that a plan is feasible.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....extras import require
from .construct import Nodes
from .heuristic_plans import (
    by_rate,
    filled_up,
    local_search_plan,
    ordered,
    prize_plan,
    savings_plan,
    two_opt_plan,
)
from .part import Part, plan_of, routes_of

Integers = NDArray[np.int64]
RESOLUTION = 10**6  # integer that stands for the largest distance
UNIT = 10**5  # integer that stands for a full vehicle, where demands are not whole
POWERS = (1.0, 2.0, 3.0)  # of prizes, of which the greedy plan of orienteering tries each
# Length that the largest prize is worth, as a share of the budget, in the searches that PyVRP makes
# one after the other. The first keeps lengths in sight and gets further on 50 nodes (1.6 % more
# prizes), but leaves small prizes behind, which the second adds.
PRIZE_SHARES = (0.1, 1.0)
LARGEST_WHOLE = 2**31  # distances up to here are passed on as they are


def pyvrp_plan(
    part: Part,
    iterations: int | None = None,
    seconds: float | None = None,
    seed: int = 0,
    restarts: int = 1,
) -> Nodes:
    """PyVRP's iterated local search, started from the heuristic plan.

    Args:
        part: TSP, ATSP, CVRP or orienteering.
        iterations: of one search; with them alone the result is reproducible.
        seconds: for all searches together. Of two limits the first that is reached counts.
        seed: of the first search; the others have the next ones.
        restarts: number of searches, of which the best counts. On a single tour a search may settle
            1 % above the optimum and stay there; the others therefore start from random tours
            (TSP, ATSP) or with another seed.

    Raises:
        ValueError: no limit is given, there is no search, or the problem is a knapsack.
    """
    if iterations is None and seconds is None:
        raise ValueError("give iterations or seconds, else the search has no end")
    if restarts < 1:
        raise ValueError(f"restarts={restarts}, there must be at least 1 search")
    if part.kind == "knapsack":
        raise ValueError("PyVRP has no knapsack; see knapsack_plan and ortools_plan")
    best = first = first_plan(part)
    if len(part.remaining) < 2:
        return best
    shares = PRIZE_SHARES if part.kind == "orienteering" else (0.0,)
    if iterations is not None:
        iterations = -(-iterations // len(shares))
    if seconds is not None:
        seconds /= len(shares) * restarts
    for restart in range(restarts):
        plan = first
        if restart and part.kind in ("tsp", "atsp"):
            plan = np.random.default_rng(seed + restart).permutation(part.remaining)
        for share in shares:
            task = integer_task(part, share)
            found = _pyvrp_search(task, plan, iterations, seconds, seed + restart)
            plan = better(part, plan, found)
        best = better(part, best, plan)
    return best


def _pyvrp_search(
    task: Task, start: Nodes, iterations: int | None, seconds: float | None, seed: int
) -> Nodes:
    """The plan that PyVRP finds from another one, or that one again."""
    vrp = require("pyvrp", extra="solvers")
    stops = require("pyvrp.stop", extra="solvers")
    limits = [stops.MaxIterations(iterations)] if iterations is not None else []
    limits += [stops.MaxRuntime(seconds)] if seconds is not None else []
    data = _pyvrp_data(vrp, task)
    customers = task.nodes[task.depots :]
    clients = {int(node): client for client, node in enumerate(customers)}
    best = vrp.solve(
        data,
        stops.MultipleCriteria(limits),
        seed=seed,
        collect_stats=False,
        display=False,
        initial_solution=vrp.Solution(
            data, [[clients[node] for node in route] for route in task.routes(start)]
        ),
        # The exhaustive search after each new best costs more time than it saves.
        params=vrp.SolveParams(ils=vrp.IteratedLocalSearchParams(exhaustive_on_best=False)),
    ).best
    if not best.is_feasible():
        return start
    visits = [[each.idx for each in route if each.is_client()] for route in best.routes()]
    return task.plan([customers[visited] for visited in visits])


def _pyvrp_data(vrp: Any, task: Task) -> Any:
    """The task as PyVRP's `ProblemData`: the first location is the depot where all start."""
    longest = {} if task.budget is None else {"max_distance": task.budget}
    clients = [
        vrp.Client(
            place,
            delivery=[int(task.demands[place])],
            prize=int(task.prizes[place]) * task.reward,
            required=task.budget is None,
        )
        for place in range(task.depots, len(task.nodes))
    ]
    vehicles = vrp.VehicleType(
        task.vehicles,
        capacity=[task.capacity],
        end_depot=task.depots - 1,
        **longest,
    )
    return vrp.ProblemData(
        [vrp.Location(0, 0)] * len(task.nodes),
        clients,
        [vrp.Depot(place) for place in range(task.depots)],
        [vehicles],
        [task.matrix],
        [np.zeros_like(task.matrix)],
    )


def ortools_plan(part: Part, seconds: float | None = None) -> Nodes:
    """OR-Tools: its routing search with guided local search, or its knapsack solver (optimal).

    Args:
        part: any of the five problems; a knapsack needs whole weights.
        seconds: of guided local search; None: descend from the heuristic plan to the next local
            optimum. The knapsack solver needs no limit.
    """
    if part.kind == "knapsack":
        return _ortools_knapsack(part)
    start = first_plan(part)
    if len(part.remaining) < 2:
        return start
    routing = require("ortools.constraint_solver.pywrapcp", extra="solvers")
    options = require("ortools.constraint_solver.routing_enums_pb2", extra="solvers")
    task = integer_task(part)
    ends = [task.depots - 1] * task.vehicles
    manager = routing.RoutingIndexManager(len(task.nodes), task.vehicles, [0] * len(ends), ends)
    model = routing.RoutingModel(manager)
    lengths = model.RegisterTransitMatrix(task.matrix.tolist())
    model.SetArcCostEvaluatorOfAllVehicles(lengths)
    if task.capacity:
        loads = model.RegisterUnaryTransitVector(task.demands.tolist())
        model.AddDimension(loads, 0, task.capacity, True, "load")
    if task.budget is not None:
        model.AddDimension(lengths, 0, task.budget, True, "length")
        for place in range(task.depots, len(task.nodes)):
            penalty = int(task.prizes[place]) * task.reward
            model.AddDisjunction([manager.NodeToIndex(place)], penalty)
    parameters = routing.DefaultRoutingSearchParameters()
    if seconds is not None:
        parameters.local_search_metaheuristic = options.LocalSearchMetaheuristic.GUIDED_LOCAL_SEARCH
        parameters.time_limit.FromMilliseconds(max(int(seconds * 1_000), 1))
    place_of = {int(node): place for place, node in enumerate(task.nodes) if place >= task.depots}
    routes = [[place_of[node] for node in route] for route in task.routes(start)]
    routes += [[] for _ in range(task.vehicles - len(routes))]
    model.CloseModelWithParameters(parameters)
    given = model.ReadAssignmentFromRoutes(routes, True)
    found = model.SolveFromAssignmentWithParameters(given, parameters) if given else None
    if found is None:
        return start
    visits: list[Nodes] = []
    for vehicle in range(task.vehicles):
        index, places = found.Value(model.NextVar(model.Start(vehicle))), []
        while not model.IsEnd(index):
            places.append(manager.IndexToNode(index))
            index = found.Value(model.NextVar(index))
        visits.append(task.nodes[places])
    return better(part, start, task.plan([visit for visit in visits if len(visit)]))


def _ortools_knapsack(part: Part) -> Nodes:
    packing = require("ortools.algorithms.python.knapsack_solver", extra="solvers")
    rest = part.remaining
    weights = np.rint(part.weights[rest]).astype(np.int64)
    values, scale = part.values[rest], 1.0
    if (values != np.rint(values)).any():
        scale = RESOLUTION / max(float(values.max()), 1e-12)
    if (weights != part.weights[rest]).any():
        raise ValueError("a knapsack solver needs whole weights")
    kind = packing.SolverType.KNAPSACK_MULTIDIMENSION_BRANCH_AND_BOUND_SOLVER
    solver = packing.KnapsackSolver(kind, "knapsack")
    worth = np.rint(values * scale).astype(np.int64)
    solver.init(worth.tolist(), [weights.tolist()], [int(np.floor(part.capacity_left))])
    solver.solve()
    taken = [item for item in range(len(rest)) if solver.best_solution_contains(item)]
    return by_rate(part, rest[taken])


# -- the common form ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """A part in integers, its depots first. All vehicles start at place 0.

    A vehicle that is on its way is a customer at its position: the way there from the depot is
    free, every other way there is out of the question, and it weighs what has been loaded.

    Attributes:
        nodes: node of each place, int64 [k].
        matrix: int64 [k, k].
        depots: 1, or 2 where the walk ends (place 1) at another node than it starts.
        vehicles, capacity: how many there are, and what each can take (0: no limit).
        demands, prizes: int64 [k].
        budget: of length; None: no limit, and everyone must be visited.
        reward: length that one unit of prize is worth, 0 without prizes.
        current: node where a vehicle stands that is on its way; 0: none.
    """

    nodes: Nodes
    matrix: Integers
    depots: int
    vehicles: int
    capacity: int
    demands: Integers
    prizes: Integers
    budget: int | None
    reward: int
    current: int

    def routes(self, plan: Nodes) -> list[list[int]]:
        """Nodes of each vehicle's route, as the solvers take them, of a plan."""
        if not self.capacity:
            return [plan.tolist()] if len(plan) else []
        routes = [route.tolist() for route in routes_of(plan)]
        if not self.current:
            return routes
        if plan[0] % 2:
            return [[self.current], *routes]
        return [[self.current, *routes[0]], *routes[1:]]

    def plan(self, routes: list[Nodes]) -> Nodes:
        """The plan of routes as the solvers return them."""
        if not self.capacity:
            return routes[0] if routes else np.zeros(0, dtype=np.int64)
        if not self.current:
            return plan_of(routes)
        first = next(index for index, route in enumerate(routes) if route[0] == self.current)
        return plan_of([routes[first][1:], *routes[:first], *routes[first + 1 :]])


def integer_task(part: Part, prize_share: float = 1.0) -> Task:
    """A part of TSP, ATSP, CVRP or orienteering as a `Task`.

    Args:
        part: the part.
        prize_share: length that the largest prize is worth, as a share of the budget.
    """
    limited, loaded = part.kind == "orienteering", part.kind == "cvrp"
    current = part.origin if loaded and part.origin != part.destination else 0
    ends = [part.destination] if loaded else list(dict.fromkeys([part.origin, part.destination]))
    last = [current] if current else []
    nodes = np.concatenate([ends, part.remaining, last]).astype(np.int64)
    given = np.asarray(part.distances[nodes[:, None], nodes[None, :]], dtype=np.float64)
    given[np.arange(len(nodes)), np.arange(len(nodes))] = 0.0
    scale, largest = 1.0, float(given.max(initial=0.0))
    if (given != np.rint(given)).any() or largest > LARGEST_WHOLE:
        scale = RESOLUTION / largest
    # 1e-3 of a unit: what is whole up to rounding stays as it is.
    matrix = (np.ceil(given * scale - 1e-3) if limited else np.rint(given * scale)).astype(np.int64)
    if current:
        matrix[:, -1] = 10 * int(matrix.max())
        matrix[0, -1] = matrix[-1, -1] = 0
    budget = int(np.floor((part.budget + 1e-6) * scale)) if limited else None
    demands, capacity = np.zeros(len(nodes), dtype=np.int64), 0
    if loaded:
        demands, capacity = _whole_demands(part, nodes, current)
    prizes, reward = np.zeros(len(nodes), dtype=np.int64), 0
    if limited:
        prizes = np.rint(part.prizes[nodes] * _prize_scale(part.prizes)).astype(np.int64)
        reward = max(int(prize_share * (budget or 0) / max(int(prizes.max()), 1)), 1)
    return Task(
        nodes,
        matrix,
        depots=len(ends),
        vehicles=len(nodes) - 1 if loaded else 1,
        capacity=capacity,
        demands=demands,
        prizes=prizes,
        budget=budget,
        reward=reward,
        current=current,
    )


def _prize_scale(prizes: NDArray[np.float64]) -> float:
    """1 for whole prizes, else what makes the largest of them 1,000."""
    return 1.0 if np.allclose(prizes, np.rint(prizes), atol=1e-4) else 1_000 / prizes.max()


def _whole_demands(part: Part, nodes: Nodes, current: int) -> tuple[Integers, int]:
    """Demands [k] and the capacity in integers; demands are rounded up where they are not whole."""
    demands = part.demands[nodes]
    demands[0] = 0.0
    if current:
        demands[-1] = part.capacity - part.capacity_left
    if part.capacity == np.rint(part.capacity) and (demands == np.rint(demands)).all():
        return demands.astype(np.int64), int(part.capacity)
    # 1e-6 of a vehicle is rounding (observed demands are float32).
    shares = demands / part.capacity - 1e-6
    return np.ceil(shares.clip(0) * UNIT).astype(np.int64), UNIT


def first_plan(part: Part) -> Nodes:
    """The heuristic plan from which a search starts."""
    if part.kind == "orienteering":
        return max((prize_plan(part, power) for power in POWERS), key=part.objective)
    plans = {"cvrp": savings_plan, "tsp": two_opt_plan}
    return plans.get(part.kind, local_search_plan)(part)


def better(part: Part, first: Nodes, second: Nodes) -> Nodes:
    """Of two plans the better one, in the part's own units; routes in order.

    In orienteering, what still fits into the budget is added to the second: the search may leave
    out a small prize that is not worth its way.
    """
    if part.kind == "orienteering":
        second = filled_up(part, second)
        return second if part.objective(second) >= part.objective(first) else first
    if part.kind == "cvrp":
        on_its_way = [np.zeros(0, dtype=np.int64)] if part.origin and second[0] % 2 else []
        second = plan_of(ordered(part, on_its_way + routes_of(second)))
    return second if part.objective(second) <= part.objective(first) else first
