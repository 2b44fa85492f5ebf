"""Plans without a solver: each function takes what is left of a problem and returns a plan for it.

`part.py` says what a plan is. All of them accept every state that the environments can reach.
"""

from __future__ import annotations

import numpy as np

from .construct import (
    InsertionRule,
    Nodes,
    greedy_items,
    greedy_prizes,
    insertion,
    nearest_neighbour,
    savings,
)
from .exact import held_karp, knapsack
from .improve import improve_routes, local_search, two_opt
from .part import Part, plan_of


def nearest_plan(part: Part) -> Nodes:
    """The nearest node again and again; in a CVRP the nearest that still fits, else a new vehicle.

    In orienteering the nearest that can still be reached; there are no prizes in the rule.
    """
    if part.kind in ("tsp", "atsp"):
        return nearest_neighbour(part.distances, part.origin, part.destination, part.remaining)[
            1:-1
        ]
    left, here, plan = part.remaining.copy(), part.origin, []
    budget, capacity = part.budget, part.capacity_left
    while len(left):
        ways = part.distances[here, left]
        if part.kind == "cvrp":
            fits = part.demands[left] <= capacity
            via = not fits.any()
            if via:
                ways, capacity = part.distances[part.destination, left], part.capacity
                fits = np.ones(len(left), dtype=bool)
        else:
            via = False
            fits = ways + part.distances[left, part.destination] <= budget + 1e-6
            if not fits.any():
                break
        chosen = int(np.where(fits, ways, np.inf).argmin())
        here = int(left[chosen])
        budget -= float(ways[chosen])
        plan.append(2 * here + via if part.kind == "cvrp" else here)
        if part.kind == "cvrp":
            capacity -= float(part.demands[here])
        left = np.delete(left, chosen)
    return np.array(plan, dtype=np.int64)


def insertion_plan(part: Part, rule: InsertionRule = "farthest") -> Nodes:
    """Insertion (TSP, ATSP)."""
    path = insertion(part.distances, part.origin, part.destination, part.remaining, rule)
    return path[1:-1]


def two_opt_plan(part: Part) -> Nodes:
    """2-opt from the nearest neighbour path (TSP)."""
    return two_opt(part.distances, part.path(nearest_plan(part)))[1:-1]


def local_search_plan(part: Part) -> Nodes:
    """2-opt and Or-opt, from farthest insertion (TSP); Or-opt alone for an ATSP."""
    start = part.path(insertion_plan(part))
    return local_search(part.distances, start, symmetric=part.kind == "tsp")[1:-1]


def savings_plan(part: Part, improve: bool = True) -> Nodes:
    """Savings, then (`improve`) 2-opt and Or-opt inside the routes (CVRP)."""
    routes = savings(
        part.distances,
        part.demands,
        part.capacity,
        current=part.origin,
        capacity_left=part.capacity_left,
        remaining=part.remaining,
    )
    if improve and routes:
        routes = improve_routes(part.distances, routes, part.origin)
    return plan_of(ordered(part, routes))


def ordered(part: Part, routes: list[Nodes]) -> list[Nodes]:
    """Routes by ascending capacity that they leave; that of a vehicle on its way stays first."""
    first = routes[:1] if part.origin else []
    rest = [route for route in routes[len(first) :] if len(route)]
    return first + sorted(rest, key=lambda route: -float(part.demands[route].sum()))


def prize_plan(part: Part, power: float = 1.0) -> Nodes:
    """Greedy insertion by prize^power per added length, with 2-opt and Or-opt (orienteering)."""
    return filled_up(part, np.zeros(0, dtype=np.int64), power)


def filled_up(part: Part, plan: Nodes, power: float = 1.0) -> Nodes:
    """A plan to which nodes are added by prize^power per added length; then the path is shortened
    by 2-opt and Or-opt, which may make room for more (orienteering)."""
    worth = part.prizes**power
    path, shortened = part.path(plan), True
    while shortened:
        path = greedy_prizes(part.distances, worth, part.budget, path, part.remaining)
        shorter = local_search(part.distances, path)
        shortened = not np.array_equal(shorter, path)
        path = shorter
    return path[1:-1]


def value_plan(part: Part) -> Nodes:
    """Items by falling value per weight (knapsack)."""
    allowed = np.zeros(len(part.values), dtype=bool)
    allowed[part.remaining] = True
    taken = greedy_items(part.values, part.weights, part.capacity_left, allowed)
    return by_rate(part, np.flatnonzero(taken))


def knapsack_plan(part: Part) -> Nodes:
    """The optimum (knapsack with whole weights)."""
    rest = part.remaining
    taken = knapsack(part.values[rest], part.weights[rest], part.capacity_left)
    return by_rate(part, rest[taken])


def by_rate(part: Part, items: Nodes) -> Nodes:
    """Items by falling value per weight."""
    rate = part.values[items] / np.maximum(part.weights[items], 1e-12)
    return items[np.argsort(-rate, kind="stable")]


def held_karp_plan(part: Part) -> Nodes:
    """The optimum (TSP and ATSP of at most 12 nodes)."""
    nodes = part.path(part.remaining)
    order = held_karp(np.asarray(part.distances[nodes[:, None], nodes[None, :]])[None])[0]
    return nodes[order]
