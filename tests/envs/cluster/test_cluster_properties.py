"""Properties of every cluster: nothing is lost, nothing is overfull, rewards add up."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palaestra.envs.cluster.moves import all_legal, gains, move
from palaestra.envs.cluster.rules import fragments, on_nodes
from palaestra.envs.cluster.vm_rescheduling import VMRescheduling

quick = settings(max_examples=15, deadline=None)
arguments = st.fixed_dictionaries(
    {
        "pms": st.integers(1, 6),
        "load": st.sampled_from([0.3, 0.6, 0.85, 1.0]),
        "numa": st.sampled_from([1, 2]),
        "anti_affinity": st.sampled_from([0.0, 0.1, 0.6]),
        "extended": st.booleans(),
        "penalty_mode": st.booleans(),
        "churn": st.sampled_from([0.0, 0.0, 1.5]),
    }
)
ROWS = 3


def rollout(kwargs, seed, steps=6):
    """States and rewards under random actions, in penalty mode also wrong ones."""
    core = VMRescheduling(
        **kwargs, migrations=steps, inference_seconds=1.0 if kwargs["churn"] else 0.0
    )
    rng = np.random.default_rng(seed)
    tape = core.tapes(ROWS, seed)
    state = core.initial(tape)
    yield core, state, None
    for _ in range(steps):
        if core.penalty_mode and rng.random() < 0.3:
            action = rng.integers(core.action_space.nvec, size=(ROWS, 2))
        else:
            action = np.stack(
                [rng.permutation(np.argwhere(mask))[0] for mask in core.action_masks(state)]
            )
        after = core.transition(state, core.check_action(action, state), tape)
        reward = core.reward(state, action, after)
        state = after
        yield core, state, reward


def assert_books_balance(state):
    """What is free and what the VMs take is what the machines have; conflicts are kept."""
    for row in range(ROWS):
        owner, node = state["owner"][row], state["node"][row]
        there = owner >= 0
        for name in ("cores", "memory"):
            used = np.zeros_like(state[f"free_{name}"][row])
            taken = on_nodes(state[name][row], node)
            np.add.at(used, owner[there], taken[there])
            free = state[f"free_{name}"][row]
            assert (free >= 0).all()
            np.testing.assert_array_equal(used + free, state[f"capacity_{name}"][row])
        np.testing.assert_array_equal((node == 2)[there], state["split"][row][there])
        first, second = state["conflicts"][row].T
        real = (first >= 0) & (owner[first] >= 0) & (owner[second] >= 0)
        assert (owner[first] != owner[second])[real].all()


@quick
@given(arguments, st.integers(0, 10_000))
def test_cores_and_memory_are_conserved_and_conflicts_kept(kwargs, seed):
    for core, state, _ in rollout(kwargs, seed):
        assert_books_balance(state)
        for values in core.observation(state).values():
            assert np.isfinite(values).all()
        batched = core.observation(state)
        assert all(
            core.observation_space.contains({name: value[row] for name, value in batched.items()})
            for row in range(ROWS)
        )


@quick
@given(arguments, st.integers(0, 10_000))
def test_legal_moves_kept_up_step_by_step_are_those_found_anew(kwargs, seed):
    for core, state, _ in rollout(kwargs, seed):
        np.testing.assert_array_equal(state["legal"], all_legal(state, core.choices))


@quick
@given(arguments, st.integers(0, 10_000))
def test_rewards_add_up_to_the_fragments_that_went_away(kwargs, seed):
    kwargs = {**kwargs, "churn": 0.0, "penalty_mode": False}
    total, at_start = np.zeros(ROWS), None
    for _, state, reward in rollout(kwargs, seed):
        if at_start is None:
            at_start = fragments(state["free_cores"])
        else:
            total += reward
    np.testing.assert_array_equal(total, (at_start - fragments(state["free_cores"])) / 128)


@quick
@given(arguments, st.integers(0, 10_000))
def test_every_legal_move_can_be_made_and_gains_what_was_said(kwargs, seed):
    kwargs = {**kwargs, "churn": 0.0}
    core = VMRescheduling(**kwargs)
    state = core.initial(core.tapes(1, seed))
    gain = gains(state, core.choices)[0]
    legal = np.argwhere(state["legal"][0])
    assert not gain[~state["legal"][0]].any()
    many = {name: np.repeat(value, len(legal), axis=0) for name, value in state.items()}
    after, moved = move(many, legal[:, 0], legal[:, 1], core.choices)
    assert (after["free_cores"] >= 0).all() and (after["free_memory"] >= 0).all()
    found = fragments(state["free_cores"]) - fragments(after["free_cores"])
    np.testing.assert_array_equal(found, gain[legal[:, 0], legal[:, 1]])
    stays = (legal[:, 1] // core.choices == state["owner"][0, legal[:, 0]]) & (
        legal[:, 1] % core.choices == 0
    )
    np.testing.assert_array_equal(moved[:, 0] < 0, stays)


@pytest.mark.parametrize("extended", [False, True])
def test_illegal_are_exactly_the_moves_that_would_overfill_or_break_a_conflict(extended):
    core = VMRescheduling(pms=4, anti_affinity=0.15, extended=extended)
    state = core.initial(core.tapes(1, 5))
    one = {name: value[0] for name, value in state.items()}
    pairs = {tuple(pair) for pair in one["conflicts"].tolist()}
    illegal = 0
    for vm, host in enumerate(one["owner"]):
        for entry in range(core.action_space.nvec[1]):
            pm, other = divmod(entry, core.choices)
            fits = (one["free_cores"][pm] >= one["cores"][vm]) & (
                one["free_memory"][pm] >= one["memory"][vm]
            )
            room = fits.all() if one["split"][vm] else fits.any()
            kept = all((vm, guest) not in pairs for guest in np.flatnonzero(one["owner"] == pm))
            if pm == host and other:
                room, kept = fits[1 - one["node"][vm]] if not one["split"][vm] else False, True
            expected = host >= 0 and (bool(room and kept) or (pm == host and not other))
            expected = expected and not (other and one["split"][vm])
            assert one["legal"][vm, entry] == expected, (vm, entry)
            illegal += not expected
    assert 0 < illegal < one["legal"].size
