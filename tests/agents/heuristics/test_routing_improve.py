"""2-opt and Or-opt."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palaestra.agents.heuristics.routing.construct import path_length
from palaestra.agents.heuristics.routing.improve import (
    improve_routes,
    local_search,
    or_opt,
    two_opt,
    two_opt_many,
)
from palaestra.envs.routing.distances import edge_lengths


def matrix_of(points):
    return edge_lengths(points[:, None], points[None])


def reversals(path):
    for i in range(len(path) - 2):
        for k in range(i + 2, len(path) - 1):
            yield np.concatenate([path[: i + 1], path[i + 1 : k + 1][::-1], path[k + 1 :]])


def relocations(path, longest=3):
    inner = path.tolist()
    for length in range(1, longest + 1):
        for i in range(1, len(path) - length):
            rest, stretch = inner[:i] + inner[i + length :], inner[i : i + length]
            for place in range(1, len(rest)):
                yield np.array(rest[:place] + stretch + rest[place:])


def random_path(nodes, seed):
    rng = np.random.default_rng(seed)
    points = rng.random((nodes, 2))
    if seed % 3 == 0:
        points = np.round(points * 3)  # many equal distances, and equal points
    return matrix_of(points), np.concatenate([[0], 1 + rng.permutation(nodes - 2), [nodes - 1]])


def test_two_opt_uncrosses_a_square():
    square = matrix_of(np.array([[0.0, 0], [1, 0], [1, 1], [0, 1]]))
    crossed = np.array([0, 2, 1, 3, 0])
    assert path_length(square, crossed) == pytest.approx(2 + 2 * 2**0.5)
    for found in (two_opt(square, crossed), two_opt_many(square[None], crossed[None])[0]):
        assert path_length(square, found) == 4
        assert (found[0], found[-1]) == (0, 0)


@settings(max_examples=30, deadline=None)
@given(st.integers(4, 10), st.integers(0, 10**6).filter(lambda seed: seed % 3))
def test_two_opt_takes_the_first_improvement(nodes, seed):
    matrix, path = random_path(nodes, seed)
    expected, quiet, i = path.copy(), 0, 0
    while quiet < nodes - 2:
        for k in range(i + 2, nodes - 1):
            other = expected.copy()
            other[i + 1 : k + 1] = other[i + 1 : k + 1][::-1]
            if path_length(matrix, other) < path_length(matrix, expected) - 1e-9:
                expected, quiet = other, 0
                break
        else:
            quiet, i = quiet + 1, (i + 1) % (nodes - 2)
    assert two_opt(matrix, path).tolist() == expected.tolist()


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 11), st.integers(0, 10**6))
def test_no_single_move_makes_the_result_shorter(nodes, seed):
    matrix, path = random_path(nodes, seed)
    before = path_length(matrix, path)
    for found, neighbours in (
        (two_opt(matrix, path), [reversals]),
        (two_opt_many(matrix[None], path[None])[0], [reversals]),
        (or_opt(matrix, path), [relocations]),
        (local_search(matrix, path), [reversals, relocations]),
    ):
        assert (found[0], found[-1]) == (path[0], path[-1])
        assert sorted(found.tolist()) == sorted(path.tolist())
        length = path_length(matrix, found)
        assert length <= before + 1e-9
        for moves in neighbours:
            for other in moves(found):
                assert length <= path_length(matrix, other) + 1e-7


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 10), st.integers(0, 10**6))
def test_or_opt_keeps_directions_where_distances_are_asymmetric(nodes, seed):
    matrix = np.random.default_rng(seed).random((nodes, nodes))
    path = np.append(np.arange(nodes), 0)
    found = local_search(matrix, path, symmetric=False)
    assert path_length(matrix, found) <= path_length(matrix, path) + 1e-12
    for other in relocations(found):
        assert path_length(matrix, found) <= path_length(matrix, other) + 1e-7


def test_routes_are_improved_one_by_one_from_where_they_start():
    points = np.array([[0.0, 0], [0, 3], [0, 1], [0, 2], [5, 0], [5, 5], [9, 0]])
    routes = improve_routes(matrix_of(points), [np.array([1, 2, 3]), np.array([6, 4])], current=5)
    assert routes[0].tolist() == [1, 3, 2]  # from node 5 down to the depot
    assert set(routes[1].tolist()) == {4, 6}


def test_two_opt_of_many_works_on_each_alone():
    matrices, paths = zip(*(random_path(12, seed) for seed in range(1, 9)), strict=True)
    together = two_opt_many(np.stack(matrices), np.stack(paths))
    for matrix, path, found in zip(matrices, paths, together, strict=True):
        assert two_opt_many(matrix[None], path[None])[0].tolist() == found.tolist()
