"""Finite classes of action values: losses, excesses, the confidence set and its maximum."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from palaestra.agents.base.finite_class import (
    bellman_loss,
    excesses,
    optimistic,
    worst_excesses,
)
from palaestra.agents.base.finite_horizon import Counts, Trajectories


def random_case(seed, members=3, steps=3, states=2, actions=2, episodes=4):
    rng = np.random.default_rng(seed)
    seen = Trajectories(
        rng.integers(states, size=(episodes, steps + 1)),
        rng.integers(actions, size=(episodes, steps)),
        rng.random((episodes, steps)),
    )
    counts = Counts(steps, states, actions)
    counts.add(seen)
    return rng.random((members, steps, states, actions)), seen, counts


def of(counts):
    return counts.visits, counts.mean_rewards(), counts.transitions()


def loss_on_data(values, following, seen, step):
    """L_h by the definition: a sum over single transitions."""
    states, actions = seen.states[:, step], seen.actions[:, step]
    best = 0.0 if following is None else following[seen.states[:, step + 1]].max(axis=-1)
    return ((values[states, actions] - seen.rewards[:, step] - best) ** 2).sum()


def test_worked_example_of_loss_excess_and_set() -> None:
    # Data (a, r) = (0, 0), (0, 1), (1, 0.1), all into a state worth max(0.3, 0.4).
    rewards, following, weights = np.array([0.0, 1.0, 0.1]), np.array(0.4), np.array(1.0)
    own = bellman_loss(np.array([0.5, 0.5, 0.2]), rewards, following, weights)
    other = bellman_loss(np.array([0.9, 0.9, 0.5]), rewards, following, weights)
    assert_allclose([own, other, own - other], [0.91, 0.5, 0.41], atol=1e-12)
    # H 2, beta 0.11: an excess of 0.41 is inside the set, one of 0.5 is not.
    members = np.arange(4.0).reshape(2, 1, 1, 2)
    assert_allclose(optimistic(members, np.array([[0.41, 0.5]]), 4 * 0.11)[0, 0], [0.0, 1.0])


def test_worked_example_from_counts() -> None:
    members = np.array([[[[0.5, 0.2]], [[0.3, 0.4]]], [[[0.9, 0.5]], [[0.3, 0.4]]]])
    counts = Counts(2, 1, 2)
    counts.next_states[0, 0, :, 0] = [2, 1]
    counts.rewards[0, 0] = [1.0, 0.1]
    found = excesses(members, members, *of(counts))
    assert_allclose(found[0], [[0.41, 0.41], [0, 0]], atol=1e-12)
    assert_allclose(found[1], 0.0)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_excesses_are_those_of_the_single_transitions(seed) -> None:
    members, seen, counts = random_case(seed)
    found = excesses(members, members, *of(counts))
    steps = members.shape[1]
    for step, (i, j) in product(range(steps), np.ndindex(3, 3)):
        following = members[j, step + 1] if step + 1 < steps else None
        losses = [loss_on_data(g[step], following, seen, step) for g in members]
        assert found[step, i, j] == pytest.approx(losses[i] - min(losses), abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_the_set_is_that_of_all_combinations_of_members(seed) -> None:
    members, _, counts = random_case(seed)
    found = excesses(members, members, *of(counts))
    worst = worst_excesses(found)
    best = np.full(worst.shape, np.inf)
    for chosen in product(range(3), repeat=3):
        excess = max(found[h, chosen[h], chosen[(h + 1) % 3]] for h in range(3))
        for step, member in enumerate(chosen):
            best[step, member] = min(best[step, member], excess)
    assert_allclose(worst, best)
    assert_allclose(worst.min(axis=1), 0.0, atol=1e-9)  # the set is never empty
    threshold = float(np.median(worst))
    expected = [
        members[[k for k in range(3) if best[h, k] <= threshold], h].max(axis=0) for h in range(3)
    ]
    assert_allclose(optimistic(members, worst, threshold), expected)
