"""Set functions: worked numbers, monotone and submodular, alike for one set and for many."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from palaestra.envs.coverage.kernels import kernel_matrix
from palaestra.envs.coverage.set_functions import Coverage, InformationGain, ItemQuota

KINDS = ("coverage", "quota", "squared_exponential", "matern")
quick = settings(max_examples=25, deadline=None)


def make(kind, seed, elements=9):
    rng = np.random.default_rng(seed)
    if kind == "coverage":
        views = [np.flatnonzero(rng.random(7) < 0.4) for _ in range(elements)]
        return Coverage(views, rng.uniform(0, 2, 7) * (rng.random(7) < 0.8))
    if kind == "quota":
        groups = [rng.choice(elements, rng.integers(1, 6), replace=False) for _ in range(4)]
        return ItemQuota(groups, rng.integers(0, 4, 4) + 0.5 * (rng.random(4) < 0.3), elements)
    places = rng.integers(0, 4, (elements, 2))  # some of them the same
    return InformationGain(places, kind, rng.uniform(0.3, 2), rng.uniform(0.05, 1))


def random_sets(rng, rows, elements):
    return rng.random((rows, elements)) < rng.random((rows, 1))


def sets(*chosen, elements):
    found = np.zeros((len(chosen), elements), dtype=bool)
    for row, members in enumerate(chosen):
        found[row, list(members)] = True
    return found


# -- numbers ---------------------------------------------------------------------------------------


def test_items_up_to_their_quotas():
    function = ItemQuota([[2, 5, 7], [7, 8]], (2, 3), elements=9)
    visited = sets([2, 5, 7], [2], [], elements=9)
    assert function.value(visited).tolist() == [3, 1, 0]
    assert function.gain(visited, np.array([8, 7, 7])).tolist() == [1, 2, 2]
    assert function.gain(visited, np.array([5, 2, 0])).tolist() == [0, 0, 0]


def test_information_of_two_measurements():
    function = InformationGain([[0, 0], [1, 0]], length=1.0, sigma2=0.1)
    assert function.value(np.ones((1, 2), bool))[0] == pytest.approx(2.216669, abs=1e-6)
    assert function.singles() == pytest.approx([0.5 * np.log(11)] * 2)


@pytest.mark.parametrize("kernel", ["squared_exponential", "matern"])
def test_information_is_the_log_determinant(kernel):
    rng = np.random.default_rng(0)
    places = rng.random((12, 3))
    function = InformationGain(places, kernel, 0.7, 0.2)
    covariance = kernel_matrix(places, kernel, 0.7)
    visited = random_sets(rng, 20, 12)
    for row, found in zip(visited, function.value(visited), strict=True):
        inside = covariance[np.ix_(row, row)]
        sign, expected = np.linalg.slogdet(np.eye(row.sum()) + inside / 0.2)
        assert sign == 1
        assert found == pytest.approx(0.5 * expected, abs=1e-10)


def test_matern_and_squared_exponential_by_hand():
    places = [[0.0], [2.0]]
    z = np.sqrt(5) * 2 / 1.5
    by_hand = (1 + z + z * z / 3) * np.exp(-z)
    assert kernel_matrix(places, "matern", 1.5)[0, 1] == pytest.approx(by_hand)
    assert kernel_matrix(places, "squared_exponential", 1.5)[0, 1] == pytest.approx(np.exp(-8 / 9))


def test_coverage_counts_every_target_once():
    function = Coverage([[0, 1], [1, 2], []], [1.0, 2.0, 4.0])
    visited = sets([], [0], [0, 1], [2], elements=3)
    assert function.value(visited).tolist() == [0, 3, 7, 0]
    assert function.gains(visited).tolist() == [[3, 6, 0], [0, 4, 0], [0, 0, 0], [3, 6, 0]]
    assert function.covered(visited).tolist()[1] == [True, True, False]


def test_a_target_in_no_footprint_is_never_covered():
    function = Coverage([[1], [1]], [5.0, 1.0])
    assert function.value(np.ones((1, 2), bool)).tolist() == [1.0]
    assert function.covered(np.ones((1, 2), bool)).tolist() == [[False, True]]


def test_a_negative_weight_makes_coverage_not_monotone():
    function = Coverage([[0], [1]], [1.0, -2.0])
    assert not function.monotone
    assert function.gain(sets([0], elements=2), np.array([1])).tolist() == [-2.0]


# -- properties ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@quick
@given(seed=st.integers(0, 10**6))
def test_gains_are_not_negative_and_shrink_as_the_set_grows(kind, seed):
    function, rng = make(kind, seed), np.random.default_rng(seed)
    small = random_sets(rng, 20, function.elements)
    large = small | random_sets(rng, 20, function.elements)
    assert function.monotone
    of_small, of_large = function.gains(small), function.gains(large)
    assert (of_large >= 0).all()
    assert (of_small >= of_large - 1e-9).all()
    assert (function.value(large) >= function.value(small) - 1e-9).all()


@pytest.mark.parametrize("kind", KINDS)
@quick
@given(seed=st.integers(0, 10**6))
def test_a_gain_is_the_difference_of_values_and_zero_for_members(kind, seed):
    function, rng = make(kind, seed), np.random.default_rng(seed)
    visited = random_sets(rng, 12, function.elements)
    element = rng.integers(function.elements, size=12)
    more = visited.copy()
    more[np.arange(12), element] = True
    gain = function.gain(visited, element)
    assert gain == pytest.approx(function.value(more) - function.value(visited), abs=1e-9)
    assert (function.gains(visited)[visited] == 0).all()
    assert (gain[visited[np.arange(12), element]] == 0).all()
    assert (function.value(np.zeros_like(visited)) == 0).all()


@pytest.mark.parametrize("kind", KINDS)
@quick
@given(seed=st.integers(0, 10**6))
def test_a_row_is_the_same_to_the_last_bit_alone_and_among_others(kind, seed):
    function, rng = make(kind, seed), np.random.default_rng(seed)
    visited = random_sets(rng, 33, function.elements)
    element = rng.integers(function.elements, size=33)
    values, gain = function.value(visited), function.gain(visited, element)
    gains = function.gains(visited)
    np.testing.assert_array_equal(gains[np.arange(33), element], gain)
    for row in range(33):
        one = slice(row, row + 1)
        np.testing.assert_array_equal(function.value(visited[one]), values[one])
        np.testing.assert_array_equal(function.gain(visited[one], element[one]), gain[one])
        np.testing.assert_array_equal(function.gains(visited[one]), gains[one])


@pytest.mark.parametrize("kind", KINDS)
def test_tensors_give_the_same_numbers(kind):
    function, rng = make(kind, 3), np.random.default_rng(3)
    twin = function.torch(dtype=torch.float64)
    visited = random_sets(rng, 9, function.elements)
    element = rng.integers(function.elements, size=9)
    sets_, elements = torch.as_tensor(visited), torch.as_tensor(element)
    assert twin.value(sets_).numpy() == pytest.approx(function.value(visited), abs=1e-12)
    found = twin.gain(sets_, elements)
    assert found.dtype == torch.float64
    assert found.numpy() == pytest.approx(function.gain(visited, element), abs=1e-12)
    assert twin.gains(sets_).numpy() == pytest.approx(function.gains(visited), abs=1e-12)


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: Coverage([[0, 3]], [1.0, 1.0]),
            r"footprints\[0\] names 3, the targets are 0 .. 1",
        ),
        (lambda: Coverage([[0, 0]], [1.0]), r"footprints\[0\] names one of the targets twice"),
        (lambda: Coverage([[0]], [np.nan]), "weights must be finite"),
        (lambda: Coverage([[0.5]], [1.0]), r"footprints\[0\] holds float64"),
        (lambda: Coverage([], [1.0]), "footprints is empty"),
        (lambda: ItemQuota([[0]], (1, 2), 3), r"quotas has shape \(2,\), allowed for 1 groups"),
        (lambda: ItemQuota([[0]], (-1,), 3), r"quotas=\[-1.0\] must be finite and at least 0"),
        (lambda: ItemQuota([[3]], (1,), 3), r"groups\[0\] names 3"),
        (lambda: InformationGain([[0.0]], sigma2=0.0), "sigma2=0.0 must be a finite number above"),
        (lambda: InformationGain([[0.0]], length=-1.0), "length=-1.0 must be a finite number"),
        (lambda: InformationGain([[0.0]], kernel="linear"), "kernel='linear', allowed are"),
        (lambda: InformationGain([0.0, 1.0]), r"coordinates must be finite .* got shape \(2,\)"),
    ],
)
def test_bad_arguments_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
