"""Nearest neighbour, insertion, savings and greedy choices."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palaestra.agents.heuristics.routing.construct import (
    greedy_items,
    greedy_prizes,
    insertion,
    nearest_neighbour,
    path_length,
    savings,
)
from palaestra.envs.routing.distances import edge_lengths

HOUSE = np.array([[0, 0], [1, 0], [1, 1], [0, 1], [0.5, 1.5]])
RULES = ("nearest", "farthest", "cheapest")


def matrix_of(points):
    return edge_lengths(points[:, None], points[None])


def random_matrix(nodes, seed):
    return np.random.default_rng(seed).random((nodes, nodes))  # asymmetric


def test_nearest_neighbour_on_the_house():
    path = nearest_neighbour(matrix_of(HOUSE), 0, 0, [1, 2, 3, 4])
    assert path.tolist() == [0, 1, 2, 4, 3, 0]
    assert path_length(matrix_of(HOUSE), path) == pytest.approx(4.414214, abs=1e-6)
    # What is left after 0, 1, 2.
    rest = nearest_neighbour(matrix_of(HOUSE), 2, 0, [3, 4])
    assert path_length(matrix_of(HOUSE), rest) == pytest.approx(2.414214, abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 9), st.integers(0, 10**6))
def test_nearest_neighbour_goes_to_the_nearest_of_what_is_left(nodes, seed):
    rng = np.random.default_rng(seed)
    matrix, origin = rng.random((nodes, nodes)), int(rng.integers(nodes))
    left = {int(node) for node in np.flatnonzero(rng.random(nodes) < 0.7)} - {origin}
    path = nearest_neighbour(matrix, origin, origin, sorted(left))
    assert path[0] == path[-1] == origin
    for here, node in zip(path[:-2], path[1:-1], strict=True):
        assert matrix[here, node] == min(matrix[here, other] for other in left)
        left.remove(int(node))
    assert not left


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 9), st.integers(0, 10**6), st.sampled_from(RULES))
def test_insertion_visits_everything_between_its_ends(inner, seed, rule):
    matrix = random_matrix(inner + 2, seed)
    path = insertion(matrix, inner, inner + 1, np.arange(inner), rule)
    assert (path[0], path[-1]) == (inner, inner + 1)
    assert sorted(path[1:-1].tolist()) == list(range(inner))


@settings(max_examples=25, deadline=None)
@given(st.integers(3, 9), st.integers(0, 10**6), st.sampled_from(RULES))
def test_insertion_does_what_its_definition_says(nodes, seed, rule):
    matrix = random_matrix(nodes, seed)
    path, left = [0, 0], list(range(1, nodes))
    while left:  # the definition, with every cost computed anew

        def away(node):
            return min(min(matrix[on, node], matrix[node, on]) for on in set(path))

        def detour(node, place):
            before, behind = path[place], path[place + 1]
            return matrix[before, node] + matrix[node, behind] - matrix[before, behind]

        def cost(node):
            return min(detour(node, place) for place in range(len(path) - 1))

        keys = {"nearest": away, "farthest": lambda node: -away(node), "cheapest": cost}
        node = min(left, key=keys[rule])
        place = min(range(len(path) - 1), key=lambda place: detour(node, place))
        path.insert(place + 1, node)
        left.remove(node)
    assert insertion(matrix, 0, 0, np.arange(1, nodes), rule).tolist() == path


def test_an_unknown_insertion_rule_is_refused():
    with pytest.raises(ValueError, match="rule='random', allowed are"):
        insertion(matrix_of(HOUSE), 0, 0, [1], "random")


# -- savings ---------------------------------------------------------------------------------------

# Savings of this depot and its customers: s_12 = 10, s_23 = 8.29, s_13 = 6.84.
TOWN = matrix_of(np.array([[0, 0], [3, 4], [6, 8], [0, 5]]))
DEMANDS = np.array([0, 4, 5, 6])


def as_sets(routes):
    return {min(tuple(route), tuple(route[::-1])) for route in (r.tolist() for r in routes)}


def test_savings_by_hand():
    assert as_sets(savings(TOWN, DEMANDS, 10)) == {(1, 2), (3,)}
    assert as_sets(savings(TOWN, DEMANDS, 15)) == {(1, 2, 3)}
    assert as_sets(savings(TOWN, DEMANDS, 8)) == {(1,), (2,), (3,)}
    assert as_sets(savings(TOWN, DEMANDS, 11)) == {(1, 2), (3,)}  # 2 and 3 would fit, but later


def test_savings_go_on_with_a_vehicle_on_its_way():
    # The vehicle is at 2: 1 saves most, and where there is room for both, 3 comes behind it.
    for left, first in ((10, [1, 3]), (6, [1]), (3, [])):
        routes = savings(TOWN, DEMANDS, 10, current=2, capacity_left=left, remaining=[1, 3])
        assert routes[0].tolist() == first
        assert sorted(np.concatenate(routes).tolist()) == [1, 3]
    alone = savings(TOWN, DEMANDS, 10, current=2, capacity_left=6, remaining=[3])
    assert [route.tolist() for route in alone] == [[3]]


def test_a_demand_above_the_capacity_is_refused():
    with pytest.raises(ValueError, match="node 3 has demand 6, above the capacity 5"):
        savings(TOWN, DEMANDS, 5)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 12), st.integers(0, 10**6), st.booleans())
def test_savings_serve_everyone_within_the_capacity(nodes, seed, started):
    rng = np.random.default_rng(seed)
    matrix, capacity = matrix_of(rng.random((nodes, 2))), 20.0
    demands = np.concatenate([[0], rng.integers(1, 10, nodes - 1)]).astype(float)
    current, left = (1, float(rng.integers(0, 12))) if started else (0, None)
    rest = np.arange(2 if started else 1, nodes)
    routes = savings(matrix, demands, capacity, current=current, capacity_left=left, remaining=rest)
    assert sorted(node for route in routes for node in route.tolist()) == rest.tolist()
    assert all(demands[route].sum() <= capacity for route in routes)
    if started:
        assert demands[routes[0]].sum() <= left


# -- greedy ----------------------------------------------------------------------------------------


def test_prizes_are_collected_by_prize_per_added_length():
    line = matrix_of(np.array([[0.0, 0], [1, 0], [2, 0], [-1, 0]]))
    prizes = np.array([0.0, 10, 50, 15])
    # Rates 10/2, 50/4, 15/2: first 2, then 1 on its way costs nothing; -1 no longer fits.
    assert greedy_prizes(line, prizes, 4.0).tolist() == [0, 1, 2, 0]
    assert sorted(greedy_prizes(line, prizes, 6.0)[1:-1].tolist()) == [1, 2, 3]
    assert greedy_prizes(line, prizes, 1.9).tolist() == [0, 0]


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 12), st.integers(0, 10**6), st.floats(0, 3))
def test_prize_paths_keep_their_budget_and_leave_nothing_that_fits(nodes, seed, budget):
    rng = np.random.default_rng(seed)
    matrix, prizes = matrix_of(rng.random((nodes, 2))), rng.random(nodes)
    path = greedy_prizes(matrix, prizes, budget)
    length = path_length(matrix, path)
    assert length <= budget + 1e-5
    for node in set(range(1, nodes)) - set(path.tolist()):
        added = matrix[path[:-1], node] + matrix[node, path[1:]] - matrix[path[:-1], path[1:]]
        assert length + added.min() > budget


def test_items_are_taken_by_value_per_weight_where_they_fit():
    values, weights = [6.0, 10, 12, 1], [1.0, 2, 3, 1]
    assert greedy_items(values, weights, 5).tolist() == [True, True, False, True]
    both = greedy_items([values, values], [weights, weights], [5, 6])
    assert both.tolist() == [[True, True, False, True], [True, True, True, False]]
    only = greedy_items(values, weights, 5, [False, True, True, True])
    assert only.tolist() == [False, True, True, False]
