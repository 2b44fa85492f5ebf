"""The classical rules and the reference solvers as agents."""

from __future__ import annotations

from typing import Any, ClassVar

from stable_baselines3.common.type_aliases import GymEnv

from ...base.declare import Example
from . import heuristic_plans as plans
from .construct import InsertionRule, Nodes
from .part import Part
from .rule import RoutingRule
from .solvers import ortools_plan, pyvrp_plan

ENGINES = ("pyvrp", "ortools")
INSERTION_RULES = ("nearest", "farthest", "cheapest")


class NearestNeighbour(RoutingRule):
    """To the nearest node that can be visited (CVRP: to the nearest customer that still fits, with
    a new vehicle only where none does).

    Args:
        policy, env, seed, ...: as in `RoutingRule`; TSP, ATSP, CVRP or orienteering.
    """

    problems: ClassVar[tuple[str, ...]] = ("tsp", "atsp", "cvrp", "orienteering")
    example = Example("TSP-v0", {"nodes": 7}, policy="RulePolicy", steps=60)

    def plan(self, part: Part) -> Nodes:
        """`nearest_plan`."""
        return plans.nearest_plan(part)


class Insertion(RoutingRule):
    """Nodes are put, one after the other, where they lengthen the path least (D. J. Rosenkrantz,
    R. E. Stearns, P. M. Lewis: An Analysis of Several Heuristics for the Traveling Salesman
    Problem, SIAM Journal on Computing 6, 1977).

    Args:
        policy, env, seed, ...: as in `RoutingRule`; TSP or ATSP.
        rule: which node is next: "nearest" to the path, "farthest" from it, or the "cheapest".
    """

    problems: ClassVar[tuple[str, ...]] = ("tsp", "atsp")
    example = Example("ATSP-v0", {"nodes": 7}, policy="RulePolicy", steps=60)

    def __init__(
        self,
        policy: Any,
        env: GymEnv | str | None,
        *,
        rule: InsertionRule = "farthest",
        **common: Any,
    ) -> None:
        if rule not in INSERTION_RULES:
            raise ValueError(f"rule={rule!r}, allowed are {INSERTION_RULES}")
        self.rule = rule
        super().__init__(policy, env, **common)

    def plan(self, part: Part) -> Nodes:
        """`insertion_plan`."""
        return plans.insertion_plan(part, self.rule)


class TwoOpt(RoutingRule):
    """2-opt with first improvement, from the path of the nearest neighbour rule (G. A. Croes: A
    Method for Solving Traveling-Salesman Problems, Operations Research 6, 1958).

    Args:
        policy, env, seed, ...: as in `RoutingRule`; TSP.
        or_opt: start from farthest insertion and take turns with Or-opt, which moves stretches of
            up to three nodes.
    """

    problems: ClassVar[tuple[str, ...]] = ("tsp",)
    example = Example("TSP-v0", {"nodes": 7, "mdp": "direct"}, policy="RulePolicy", steps=60)

    def __init__(
        self, policy: Any, env: GymEnv | str | None, *, or_opt: bool = False, **common: Any
    ) -> None:
        self.or_opt = or_opt
        super().__init__(policy, env, **common)

    def plan(self, part: Part) -> Nodes:
        """`two_opt_plan` or `local_search_plan`."""
        return plans.local_search_plan(part) if self.or_opt else plans.two_opt_plan(part)


class Savings(RoutingRule):
    """The parallel savings of Clarke and Wright (Operations Research 12, 1964), with 2-opt and
    Or-opt inside the routes; routes are driven fullest first.

    Args:
        policy, env, seed, ...: as in `RoutingRule`; CVRP.
        improve: whether the routes are improved.
    """

    problems: ClassVar[tuple[str, ...]] = ("cvrp",)
    example = Example("CVRP-v0", {"nodes": 7}, policy="RulePolicy", steps=60)

    def __init__(
        self, policy: Any, env: GymEnv | str | None, *, improve: bool = True, **common: Any
    ) -> None:
        self.improve = improve
        super().__init__(policy, env, **common)

    def plan(self, part: Part) -> Nodes:
        """`savings_plan`."""
        return plans.savings_plan(part, self.improve)


class GreedyPrize(RoutingRule):
    """Nodes are inserted by falling prize^power per length that they add, and the path is shortened
    by 2-opt and Or-opt in between.

    Args:
        policy, env, seed, ...: as in `RoutingRule`; orienteering.
        power: above 1, prizes count for more than lengths; above 0.
    """

    problems: ClassVar[tuple[str, ...]] = ("orienteering",)
    example = Example("Orienteering-v0", {"nodes": 9}, policy="RulePolicy", steps=60)

    def __init__(
        self, policy: Any, env: GymEnv | str | None, *, power: float = 1.0, **common: Any
    ) -> None:
        if not 0 < power < float("inf"):
            raise ValueError(f"power={power} must be a finite number above 0")
        self.power = power
        super().__init__(policy, env, **common)

    def plan(self, part: Part) -> Nodes:
        """`prize_plan`."""
        return plans.prize_plan(part, self.power)


class GreedyValue(RoutingRule):
    """Items by falling value per weight, each that still fits.

    Args:
        policy, env, seed, ...: as in `RoutingRule`; knapsack.
    """

    problems: ClassVar[tuple[str, ...]] = ("knapsack",)
    example = Example("Knapsack-v0", {"items": 9}, policy="RulePolicy", steps=60)

    def plan(self, part: Part) -> Nodes:
        """`value_plan`."""
        return plans.value_plan(part)


class HeldKarp(RoutingRule):
    """The optimal tour, by dynamic programming over subsets; for at most 12 nodes.

    Args:
        policy, env, seed, ...: as in `RoutingRule`; TSP or ATSP.
    """

    problems: ClassVar[tuple[str, ...]] = ("tsp", "atsp")
    example = Example("TSP-v0", {"nodes": 7}, policy="RulePolicy", steps=60)

    def plan(self, part: Part) -> Nodes:
        """`held_karp_plan`; a ValueError where more than 11 nodes remain."""
        return plans.held_karp_plan(part)


class KnapsackDP(RoutingRule):
    """The most valuable items, by dynamic programming over the capacity; for whole weights.

    Args:
        policy, env, seed, ...: as in `RoutingRule`; knapsack.
    """

    problems: ClassVar[tuple[str, ...]] = ("knapsack",)
    example = Example("Knapsack-v0", {"items": 9, "mdp": "direct"}, policy="RulePolicy", steps=60)

    def plan(self, part: Part) -> Nodes:
        """`knapsack_plan`; a ValueError where a weight is not whole."""
        return plans.knapsack_plan(part)


class RoutingSolver(RoutingRule):
    """A well-kept solver (extra "solvers"): the reference that others are measured against.

    `predict` solves what is left at every step; `solve` does so once and is what references are
    made with.

    Args:
        policy, env, seed, ...: as in `RoutingRule`; any of the five problems.
        engine: "pyvrp" or "ortools". Knapsacks are always OR-Tools', and optimal.
        iterations: of one search of PyVRP; with them alone, results are reproducible. OR-Tools
            takes none.
        seconds: limit for each solution; None: none. OR-Tools then only descends to a local
            optimum.
        restarts: searches of PyVRP for each solution, of which the best counts.
    """

    problems: ClassVar[tuple[str, ...]] = ("tsp", "atsp", "cvrp", "orienteering", "knapsack")
    example = Example(
        "CVRP-v0",
        {"nodes": 6, "mdp": "direct"},
        policy="RulePolicy",
        kwargs={"iterations": 5},
        steps=40,
    )

    def __init__(
        self,
        policy: Any,
        env: GymEnv | str | None,
        *,
        engine: str = "pyvrp",
        iterations: int | None = 500,
        seconds: float | None = None,
        restarts: int = 3,
        **common: Any,
    ) -> None:
        if engine not in ENGINES:
            raise ValueError(f"engine={engine!r}, allowed are {ENGINES}")
        if iterations is not None and iterations < 1 or seconds is not None and seconds <= 0:
            raise ValueError(f"iterations={iterations}, seconds={seconds}: both must be above 0")
        if restarts < 1:
            raise ValueError(f"restarts={restarts} must be above 0")
        if engine == "pyvrp" and iterations is None and seconds is None:
            raise ValueError("PyVRP needs iterations or seconds, else its search has no end")
        self.engine, self.iterations, self.seconds = engine, iterations, seconds
        self.restarts = restarts
        super().__init__(policy, env, **common)

    def plan(self, part: Part) -> Nodes:
        """`pyvrp_plan` or `ortools_plan`."""
        if self.engine == "ortools" or part.kind == "knapsack":
            return ortools_plan(part, self.seconds)
        return pyvrp_plan(part, self.iterations, self.seconds, self.seed or 0, self.restarts)
