"""Dynamic programming against enumeration."""

from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palaestra.agents.heuristics.routing.construct import path_length
from palaestra.agents.heuristics.routing.exact import held_karp, knapsack


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 5), st.integers(0, 10**6))
def test_held_karp_finds_the_shortest_of_all_paths(inner, seed):
    matrix = np.random.default_rng(seed).random((3, inner + 2, inner + 2))
    for each, order in zip(matrix, held_karp(matrix), strict=True):
        assert sorted(order.tolist()) == list(range(1, inner + 1))
        every = [
            path_length(each, [0, *way, inner + 1]) for way in permutations(range(1, inner + 1))
        ]
        assert path_length(each, [0, *order, inner + 1]) == pytest.approx(min(every), abs=1e-12)


def test_held_karp_on_the_largest_size_and_above_it():
    angles = 2 * np.pi * np.arange(12) / 12
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)[
        [0, 5, 2, 9, 1, 7, 3, 11, 4, 8, 6, 10]
    ]
    closed = np.concatenate([circle, circle[:1]])
    matrix = np.linalg.norm(closed[:, None] - closed[None], axis=2)
    order = held_karp(matrix[None])[0]
    assert path_length(matrix, [0, *order, 12]) == pytest.approx(24 * np.sin(np.pi / 12))
    with pytest.raises(ValueError, match="13 nodes are too many .* allowed are 12"):
        held_karp(np.zeros((1, 14, 14)))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=7),
    st.floats(0, 40),
)
def test_knapsack_finds_the_best_of_all_choices(items, capacity):
    values, weights = np.array(items, dtype=float).T
    taken = knapsack(values, weights, capacity)
    every = [np.array(choice) for choice in product([False, True], repeat=len(items))]
    best = max(values[choice].sum() for choice in every if weights[choice].sum() <= capacity)
    assert weights[taken].sum() <= capacity
    assert values[taken].sum() == best


def test_what_a_knapsack_cannot_be():
    with pytest.raises(ValueError, match="whole numbers, got 1.5"):
        knapsack([1.0], [1.5], 3)
    with pytest.raises(ValueError, match="must not be negative"):
        knapsack([-1.0], [1], 3)
    with pytest.raises(ValueError, match="3 items and a capacity of 3000000000 need a table"):
        knapsack([1, 1, 1], [10**9] * 3, 10**12)
