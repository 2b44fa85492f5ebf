"""Distances in the rounding of TSPLIB."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from palaestra.envs.routing.distances import COORDINATE_TYPES, edge_lengths

number = st.floats(-80, 80, allow_nan=False)
points = st.lists(st.tuples(number, number), min_size=1, max_size=6)


def test_each_type_rounds_in_its_own_way():
    start, end = np.array([[0.0, 0.0]] * 3), np.array([[1.0, 1.0], [0.5, 0.0], [3.0, 4.0]])
    np.testing.assert_allclose(edge_lengths(start, end), [2**0.5, 0.5, 5.0])
    np.testing.assert_array_equal(edge_lengths(start, end, "EUC_2D"), [1, 1, 5])
    np.testing.assert_array_equal(edge_lengths(start, end, "CEIL_2D"), [2, 1, 5])
    # sqrt(2 / 10) = 0.45, sqrt(0.25 / 10) = 0.16, sqrt(25 / 10) = 1.58
    np.testing.assert_array_equal(edge_lengths(start, end, "ATT"), [1, 1, 2])


def test_geographic_distances_cut_degrees_off_and_read_decimals_as_minutes():
    ulysses = np.array([[38.24, 20.42], [39.57, 26.15], [40.56, 25.32], [36.26, 23.12]])
    # The first row of ulysses16's matrix, whose optimum of 6859 belongs to these figures.
    np.testing.assert_array_equal(edge_lengths(ulysses[:1], ulysses[1:], "GEO"), [509, 501, 312])
    quarter = edge_lengths(np.array([0.0, 0.0]), np.array([0.0, 90.0]), "GEO")
    assert quarter == int(6378.388 * 3.141592 / 2 + 1)
    half_a_degree = edge_lengths(np.array([0.0, 0.0]), np.array([0.3, 0.0]), "GEO")  # 30 minutes
    assert half_a_degree == int(6378.388 * 3.141592 / 360 + 1)


@settings(max_examples=40, deadline=None)
@given(points, st.sampled_from(COORDINATE_TYPES))
def test_distances_are_symmetric_not_negative_and_equal_on_tensors(found, kind):
    array = np.array(found)
    matrix = edge_lengths(array[:, None], array[None], kind)
    assert (matrix >= 0).all()
    np.testing.assert_array_equal(matrix, matrix.T)
    tensor = torch.tensor(array, dtype=torch.float64)
    on_tensors = edge_lengths(tensor[:, None], tensor[None], kind).numpy()
    # Two implementations of the cosine may round a kilometre up or down.
    np.testing.assert_allclose(on_tensors, matrix, atol=1 if kind == "GEO" else 1e-12)


def test_an_unknown_type_is_refused():
    with pytest.raises(ValueError, match="'MAX_3D' is not computed from coordinates"):
        edge_lengths(np.zeros(2), np.zeros(2), "MAX_3D")
