"""Finite classes of policies: the ready ones, what makes a sunflower, and who plays what."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from palaestra.agents.base.finite_horizon import Trajectories
from palaestra.agents.base.policy_class import PolicyClass, first_departures


def test_ready_classes() -> None:
    every = PolicyClass.all(2, 2, 2)
    assert len(every) == 16 and every.core is None
    assert len(np.unique(every.policies.reshape(16, -1), axis=0)) == 16
    cells = PolicyClass.singletons(2, 3)
    assert_array_equal(cells.policies.reshape(6, 6), np.eye(6))
    assert_array_equal(cells.core[:, :, 0], [[0, 0], [1, 0], [0, 1]])
    assert cells.petals[4] == [(1, 1)] and cells.most_petals == 1
    assert cells.places == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    sequences = PolicyClass.open_loop(2, 3, 3)
    assert len(sequences) == len(sequences.core) == 9 and sequences.most_petals == 0
    assert_array_equal(sequences.policies[5], [[1, 1, 1], [2, 2, 2]])
    active = PolicyClass.one_active(3, 2, active=1)
    assert active.policies.shape == (8, 3, 2) and len(active.core) == 4
    assert (active.policies[:, :, 0] == 0).all()
    assert active.petals[-1] == [(0, 1), (1, 1), (2, 1)] and active.most_petals == 3


def explained(policy, core, petals, horizon, states):
    """The definition, segment by segment."""
    for begin in range(horizon):
        for length in range(1, horizon - begin + 1):
            for visited in product(range(states), repeat=length):
                cells = [(begin + i, s) for i, s in enumerate(visited)]
                followed = any(all(e[cell] == policy[cell] for cell in cells) for e in core)
                if not followed and not any(cell in petals for cell in cells[1:]):
                    return False
    return True


def test_a_sunflower_is_what_the_definition_says() -> None:
    rng, seen = np.random.default_rng(0), []
    for _ in range(60):
        policies, core = (rng.integers(2, size=(count, 3, 2)) for count in (2, 6))
        cells = list(np.ndindex(3, 2))
        petals = [[cells[i] for i in rng.choice(6, 4, replace=False)] for _ in range(2)]
        seen.append(
            all(explained(p, core, set(q), 3, 2) for p, q in zip(policies, petals, strict=True))
        )
        if seen[-1]:
            PolicyClass(policies, core, petals)
        else:
            with pytest.raises(ValueError, match="not a sunflower: what policy"):
                PolicyClass(policies, core, petals)
    assert 5 < sum(seen) < 55


def test_a_class_without_its_core_or_petals_is_no_sunflower() -> None:
    active, cells = PolicyClass.one_active(3, 2), PolicyClass.singletons(3, 2)
    # Policy 3 plays 1 in the last two steps, which a core policy does in one.
    with pytest.raises(ValueError, match="what policy 3 plays up to step 2 is played by no core"):
        PolicyClass(active.policies, active.core)
    with pytest.raises(ValueError, match="what policy 0 plays up to step 0"):
        PolicyClass(cells.policies, cells.core[:1], cells.petals)
    # An episode is in one state of a step, so that singletons are one even without petals.
    assert PolicyClass(cells.policies, cells.core).most_petals == 0


def test_a_class_survives_its_arguments() -> None:
    cells = PolicyClass.singletons(3, 2)
    again = PolicyClass.of(cells.as_dict())
    assert_array_equal(again.policies, cells.policies)
    assert_array_equal(again.is_petal, cells.is_petal)
    assert PolicyClass.of(cells) is cells
    assert PolicyClass.of(cells.policies).core is None


def test_arguments_out_of_range() -> None:
    policies = np.zeros((2, 3, 2), dtype=int)
    for arguments, message in (
        ((policies[0],), r"policies must be integers \[N, H, S\], got int64 of shape \(3, 2\)"),
        ((policies + 0.5,), "got float64"),
        ((policies - 1,), "policies hold action -1"),
        ((policies, policies[:, :2]), r"core has shape \(2, 2, 2\)"),
        ((policies, None, [[]]), "petals are given for 1 policies, there are 2"),
        ((policies, None, [[(3, 0)], []]), r"petal \(3, 0\) of policy 0 is outside the 3 steps"),
    ):
        with pytest.raises(ValueError, match=message):
            PolicyClass(*arguments)
    with pytest.raises(ValueError, match=r"the class has 2\^20 policies"):
        PolicyClass.all(5, 4, 2)


def test_first_departures() -> None:
    policies = np.array([[[0, 1], [1, 1], [0, 0]], [[1, 1], [1, 1], [0, 0]]])
    episodes = Trajectories(
        np.array([[0, 1, 0, 0], [1, 0, 1, 1]]), np.array([[0, 1, 1], [1, 1, 0]]), np.zeros((2, 3))
    )
    assert first_departures(policies, episodes).tolist() == [[2, 3], [0, 3]]
    assert first_departures(policies, episodes, 1).tolist() == [[2, 3], [2, 3]]
