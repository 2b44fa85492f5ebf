"""What policies for `envs/routing` share: reading observations of any size, and feasibility."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch


class Situation(NamedTuple):
    """A batch of b states with n nodes or items, f data columns each.

    Attributes:
        data: [b, n, f], see `Problem.columns`; rows of nodes that are gone need not be right.
        remaining: bool [b, n], what can still be visited or packed.
        origin, destination: nodes, int [b]; None where items are packed.
    """

    data: torch.Tensor
    remaining: torch.Tensor
    origin: torch.Tensor | None
    destination: torch.Tensor | None

    def of(self, nodes: torch.Tensor | None) -> torch.Tensor:
        """Data [b, f] of one node of each state."""
        assert nodes is not None
        return self.data[torch.arange(len(nodes), device=nodes.device), nodes]


def whatever_is_left(situation: Situation) -> torch.Tensor:
    """TSP, ATSP, CVRP: nodes stay within reach until they are visited, bool [b, n]."""
    return situation.remaining


def within_budget(situation: Situation) -> torch.Tensor:
    """Orienteering: there and on to the depot within the budget, bool [b, n].

    Observations are rounded to float32, so a node at the very edge of the budget counts as out of
    reach; where no other is left, the nearest to being within is taken.
    """
    points, here = situation.data[..., :2], situation.of(situation.origin)
    home = situation.of(situation.destination)[:, None, :2]
    needed = (points - here[:, None, :2]).norm(dim=2) + (points - home).norm(dim=2)
    excess = (needed - here[:, 3:]).masked_fill(~situation.remaining, torch.inf)
    within = excess <= 5e-7
    edge = (excess <= 2e-6) & (excess == excess.amin(dim=1, keepdim=True))
    return within | (edge & ~within.any(dim=1, keepdim=True))


def light_enough(situation: Situation) -> torch.Tensor:
    """Knapsack: the weight is at most the capacity left, up to the rounding of float32, bool
    [b, n]."""
    _, weight, left = situation.data.unbind(2)
    return situation.remaining & (weight <= left + 3e-6)


@dataclass(frozen=True)
class Problem:
    """What a policy must know of one of the five problems.

    Attributes:
        columns: data columns of a node, in the units of the observation. TSP: x, y. CVRP: x, y,
            demand, capacity left. Orienteering: x, y, prize, budget left. Knapsack: value, weight,
            capacity left. ATSP: None, a row of the matrix.
        within_reach: Situation -> which of the remaining nodes can ever be reached, bool [b, n].
        choices: actions per node (CVRP: direct, via the depot).
        ends: whether there are an origin and a destination.
        euclidean: whether the first two columns are coordinates.
        closed: whether a solution is a closed tour through all nodes.
    """

    columns: int | None
    within_reach: Callable[[Situation], torch.Tensor] = whatever_is_left
    choices: int = 1
    ends: bool = True
    euclidean: bool = True
    closed: bool = False

    def feasible(self, situation: Situation) -> torch.Tensor:
        """Feasible actions, bool [b, n]; CVRP: [b, n, 2], directly where the demand is at most the
        capacity left, through the depot always."""
        if self.choices == 1:
            return situation.remaining
        fits = situation.data[..., 2] <= situation.of(situation.origin)[:, 3:]
        return torch.stack([situation.remaining & fits, situation.remaining], dim=2)

    def nodes(self, size: int) -> int:
        """Number of nodes of a flat observation.

        Raises:
            ValueError: no number of nodes gives an observation of this size.
        """
        flags = 3 if self.ends else 1
        if self.columns is None:
            n = (math.isqrt(flags * flags + 4 * size) - flags) // 2
        else:
            n = size // (self.columns + flags)
        if n < 1 or n * ((self.columns or n) + flags) != size:
            raise ValueError(
                f"an observation of {size} numbers is not one of nodes with "
                f"{self.columns or 'n'} + {flags} columns"
            )
        return n


PROBLEMS = {
    "tsp": Problem(2, closed=True),
    "atsp": Problem(None, euclidean=False, closed=True),
    "cvrp": Problem(4, choices=2),
    "orienteering": Problem(4, within_budget),
    "knapsack": Problem(3, light_enough, ends=False, euclidean=False),
}


def read_observation(observation: torch.Tensor, problem: Problem, direct: bool) -> Situation:
    """The situation that flat observations [b, n * (f + flags)] of any number of nodes show.

    Args:
        observation: of the quotiented or the direct process.
        problem: which one.
        direct: whether the flag says "visited" or "taken" (direct), or "remaining".

    Raises:
        ValueError: the size fits no number of nodes.
    """
    nodes = problem.nodes(observation.shape[1])
    columns = problem.columns or nodes
    table = observation.float().unflatten(1, (nodes, -1))
    data, flags = table[..., :columns], table[..., columns:] > 0.5
    remaining = ~flags[..., 0] if direct else flags[..., 0]
    origin = destination = None
    if problem.ends:
        remaining = remaining & ~(flags[..., 1] | flags[..., 2])
        origin, destination = flags[..., 1].int().argmax(dim=1), flags[..., 2].int().argmax(dim=1)
    elif direct:  # what is observed is the whole capacity
        load = (data[..., 1] * ~remaining).sum(dim=1, keepdim=True)
        data = torch.cat([data[..., :2], data[..., 2:] - load[..., None]], dim=2)
    situation = Situation(data, remaining, origin, destination)
    if direct:  # the quotient has already been without what is out of reach
        situation = situation._replace(remaining=problem.within_reach(situation))
    return situation


def keep_nearest(
    situation: Situation, problem: Problem, feasible: torch.Tensor, number: int
) -> torch.Tensor:
    """Which nodes stay in view: the `number` feasible ones nearest to the origin, bool [b, n].

    Args:
        situation, problem: see there.
        feasible: bool [b, n] or [b, n, choices].
        number: at least 1; where fewer are feasible, all of them.
    """
    assert situation.origin is not None
    if problem.euclidean:
        here = situation.of(situation.origin)[:, None, :2]
        distance = (situation.data[..., :2] - here).norm(dim=2)
    else:
        distance = situation.of(situation.origin)
    open_nodes = feasible.any(dim=2) if feasible.ndim == 3 else feasible
    distance = distance.masked_fill(~open_nodes, torch.inf)
    nearest = distance.topk(min(number, distance.shape[1]), dim=1, largest=False).indices
    view = torch.zeros_like(open_nodes).scatter_(1, nearest, torch.ones_like(nearest).bool())
    return view & open_nodes
