"""Operations that all planners share."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import sparse
from small_processes import random_process

from palaestra.envs.tabular.planning.chains import reachable
from palaestra.envs.tabular.planning.tables import (
    argmax,
    blocks,
    check_tables,
    greedy,
    maximum,
    one_matrix,
)

finite = st.floats(-1e6, 1e6)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40).flatmap(lambda a: arrays(float, (3, 2, a), elements=finite)))
def test_the_maximum_and_the_lowest_of_the_best(action_values):
    np.testing.assert_array_equal(maximum(action_values), action_values.max(-1))
    chosen = greedy(action_values)
    many = np.tile(action_values, (50, 1, 1))  # in so many states it is searched otherwise
    np.testing.assert_array_equal(greedy(many), np.tile(chosen, (50, 1)))
    for values in (action_values, many):
        np.testing.assert_array_equal(argmax(values, values.max(-1)), values.argmax(-1))
    for place in np.ndindex(3, 2):
        row = action_values[place]
        nearly = np.flatnonzero(row >= row.max() - 1e-9 * (1 + abs(row.max())))
        assert chosen[place] == nearly[0]


@settings(max_examples=50, deadline=None)
@given(arrays(bool, (2, 5, 5)))
def test_what_can_be_reached_is_what_paths_reach(ways):
    found = reachable(ways.astype(float))
    for chain, reached in zip(ways, found, strict=True):
        for first in range(5):
            seen, new = {first}, {first}
            while new:
                new = {j for i in new for j in np.flatnonzero(chain[i]).tolist()} - seen
                seen |= new
            assert set(np.flatnonzero(reached[first]).tolist()) == seen


def test_blocks_hold_every_process_once():
    P, R = random_process(0, states=30, actions=4, batch=(200,))
    parts = list(blocks(check_tables(P, R)))
    assert len(parts) > 1
    np.testing.assert_array_equal(np.concatenate([part.P for part in parts]).reshape(P.shape), P)
    np.testing.assert_array_equal(np.concatenate([part.R for part in parts]), R)
    assert len(list(blocks(check_tables(P[0], R)))) == 1


def test_a_list_of_matrices_becomes_rows_of_states_and_actions():
    P, R = random_process(1)
    whole = one_matrix([sparse.coo_array(P[:, a]) for a in range(3)])
    np.testing.assert_array_equal(whole.toarray(), P.reshape(12, 4))
    with pytest.raises(ValueError, match="sparse tables cannot change with the step"):
        check_tables(whole, R, steps=True)
