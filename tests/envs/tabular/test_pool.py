"""The pool of small worlds, and how far one has to look ahead in them."""

from __future__ import annotations

import numpy as np
import pytest

from palaestra.envs.tabular.door_chain import DoorChain
from palaestra.envs.tabular.pool import pool


def step_tables(core, step):
    """P and R of a step."""
    layer = step if len(core.P) > 1 else 0
    return core.P[layer], core.R[layer]


def looking_ahead(core):
    """Q [k, T, S, A]: values of the random policy, then k - 1 greedy backups of them."""
    going = ~np.isin(np.arange(core.states), core.terminal_states)[:, None]
    Q = np.zeros((core.horizon + 1, core.states, core.actions))
    for step in reversed(range(core.horizon)):
        P, R = step_tables(core, step)
        Q[step] = (R + P @ Q[step + 1].mean(axis=1)) * going
    found = [Q]
    for _ in range(core.horizon - 1):
        Q = np.zeros_like(Q)
        for step in range(core.horizon):
            P, R = step_tables(core, step)
            Q[step] = (R + P @ found[-1][step + 1].max(axis=1)) * going
        found.append(Q)
    return np.stack(found)[:, :-1]


def reachable(core):
    """States in which one may have to act, bool [T, S]."""
    going = ~np.isin(np.arange(core.states), core.terminal_states)
    now, rows = core.d0 > 0, []
    for step in range(core.horizon):
        rows.append(now & going)
        now = (step_tables(core, step)[0][rows[-1]] > 0).any(axis=(0, 1))
    return np.stack(rows)


def effective_horizons(core):
    """{k: k + log_A(1 / gap^2)} for every k with which being greedy is optimal."""
    Q, where = looking_ahead(core), reachable(core)
    greedy = Q >= Q.max(-1, keepdims=True) - 1e-9
    found = {}
    for k in range(1, core.horizon + 1):
        if (greedy[k - 1] <= greedy[-1])[where].all():
            second = np.where(greedy[k - 1], -np.inf, Q[k - 1]).max(-1)
            gap = (Q[k - 1].max(-1) - second)[where].min()
            found[k] = k + np.log(1 / gap**2) / np.log(core.actions)
    return found


def test_worked_example_chain_of_three_doors():
    core = DoorChain(depth=3, safe=0.4)
    assert looking_ahead(core)[:, 0, 0] == pytest.approx(
        np.array([[0.4, 0.25], [0.4, 0.5], [0.4, 1]])
    )
    assert effective_horizons(core) == pytest.approx({2: 2 + 6.643856, 3: 4.473931}, abs=1e-6)


def test_worked_example_the_pool_covers_a_wide_range_of_effective_horizons():
    tasks = pool()
    assert len(tasks) == 19
    horizons = []
    for task in tasks:
        solvable = effective_horizons(task.mdp)
        assert solvable, task.name
        horizons.append(min(solvable.values()))
    assert min(horizons) == pytest.approx(4.029146, abs=1e-6)
    assert max(horizons) == pytest.approx(23.496161, abs=1e-6)


def test_returns_are_divided_by_the_optimum():
    for task in pool():
        assert task.mdp.d0 @ task.mdp.plan(1.0).values[0] == pytest.approx(1.0)
    chain = next(task for task in pool() if task.name == "DoorChain-v0(depth=3, slip=0.1)")
    assert chain.optimum == pytest.approx(0.9**3 + 0.1 * 0.3)


def test_tasks_are_made_as_environments_with_the_divided_rewards():
    task = pool()[5]
    assert task.id == "RiverSwim-v0"
    env = task.make(observation="onehot")
    vector = task.make_vec(2)
    assert env.reset(seed=0)[0].shape == (3,)
    vector.reset(seed=0)
    total, totals = 0.0, np.zeros(2)
    for step in range(12):
        _, reward, terminated, _, _ = env.step(1)
        total += reward
        totals += vector.step(np.array([1, 1]))[1]
        assert terminated == (step == 11)
    assert total == totals[0] > 0
    assert env.unwrapped.horizon == 12
    assert env.unwrapped.R.max() == pytest.approx(1 / task.optimum)
