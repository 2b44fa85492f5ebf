"""The two views of each routing problem agree with each other and with a plain reading of it."""

import itertools
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palaestra.envs.base import take
from palaestra.envs.routing.atsp import ATSP
from palaestra.envs.routing.cvrp import CVRP
from palaestra.envs.routing.instance import RoutingInstance
from palaestra.envs.routing.knapsack import Knapsack
from palaestra.envs.routing.orienteering import Orienteering
from palaestra.envs.routing.tsp import TSP


def rounded_cvrp(mdp):
    places = np.random.default_rng(8).integers(0, 50, (5, 2))
    demands = np.array([0, 4, 3, 5, 2])
    return CVRP(
        mdp=mdp,
        instance=RoutingInstance(
            *("round", "cvrp", places, None, demands), capacity=8, edge_weight_type="EUC_2D"
        ),
    )


PROBLEMS = {
    "tsp": partial(TSP, 6),
    "tsp_clustered": partial(TSP, 5, law="clustered"),
    "atsp": partial(ATSP, 6),
    "cvrp": partial(CVRP, 5, capacity=13),
    "cvrp_rounded": rounded_cvrp,
    "orienteering": partial(Orienteering, 7, budget=1.6),
    "orienteering_tight": partial(Orienteering, 5, budget=0.5, prizes="unif"),
    "knapsack": partial(Knapsack, 7, capacity=1500),
    "knapsack_tight": partial(Knapsack, 4, capacity=200),
}
every_problem = pytest.mark.parametrize("name", PROBLEMS)
few_seeds = settings(max_examples=4, deadline=None)
seeds = st.integers(0, 10_000)


def levels(core, tape):
    """All partial solutions, by the number of steps: (state, prefixes), then (rows, actions,
    rewards) of the steps that lead to the next level."""
    state, prefixes = core.initial(tape), [()]
    while True:
        masks = core.action_masks(state) & ~core.terminal(state)[:, None]
        rows, actions = np.nonzero(masks)
        before = take(state, rows)
        after = core.transition(before, actions, {}) if len(rows) else None
        rewards = core.reward(before, actions, after) if len(rows) else None
        yield state, prefixes, rows, actions, rewards
        if not len(rows):
            return
        prefixes = [(*prefixes[i], int(a)) for i, a in zip(rows, actions, strict=True)]
        state = after


def values(core, tape):
    """Optimal value of every partial solution, level by level, by exhaustive search."""
    steps = list(levels(core, tape))
    found = [np.zeros(len(steps[-1][1]))]
    for state, _, rows, _, rewards in reversed(steps[:-1]):
        best = np.full(len(state["t"]), -np.inf)
        np.maximum.at(best, rows, rewards + found[0])
        best[np.isneginf(best)] = 0.0
        found.insert(0, best)
    return steps, found


def keys(core, state):
    """The quotient of every row, as bytes."""
    quotient = core.quotient(state)
    assert "tour" not in quotient
    return [
        b"".join(np.ascontiguousarray(quotient[name][i]).tobytes() for name in sorted(quotient))
        for i in range(len(state["t"]))
    ]


# -- what the problem says, of one prefix of actions, without states ------------------------------


def feasible_after(core, data, prefix):
    """Actions that are feasible after a prefix, by the definition of the problem."""
    if isinstance(core, Knapsack):
        free = data["capacity"] - data["weights"][list(prefix)].sum()
        fits = [i for i in range(core.size) if i not in prefix and data["weights"][i] <= free]
        return fits if fits or prefix else [0]
    nodes = [a // 2 if isinstance(core, CVRP) else a for a in prefix]
    rest = [j for j in range(1, core.size) if j not in nodes]
    D = data["D"]
    if isinstance(core, Orienteering):
        walk = [0, *nodes]
        free = data["budget"] - sum(D[i, j] for i, j in itertools.pairwise(walk))
        fits = [j for j in rest if D[walk[-1], j] + D[j, 0] - free <= 1e-6]
        return fits if fits or prefix else [0]
    if isinstance(core, CVRP):
        load = 0.0
        for node, action in zip(nodes, prefix, strict=True):
            load = data["demands"][node] + load * (action % 2 == 0)
        direct = [2 * j for j in rest if load + data["demands"][j] <= data["capacity"]]
        return sorted([*direct, *(2 * j + 1 for j in rest)])
    return rest


def objective_of(core, data, prefix):
    """Sum of the rewards of a prefix that is a complete solution."""
    if isinstance(core, Knapsack):
        taken = [i for i in prefix if data["weights"][i] <= data["capacity"]]
        return data["values"][taken].sum()
    if isinstance(core, Orienteering):
        return data["prizes"][list(prefix)].sum()
    walk = [0]
    for action in prefix:
        if isinstance(core, CVRP):
            walk += [0, action // 2] if action % 2 else [action // 2]
        else:
            walk.append(action)
    return -sum(data["D"][i, j] for i, j in itertools.pairwise([*walk, 0]))


def data_of(core, tape):
    data = {name: value[0] for name, value in tape.items()}
    if not isinstance(core, Knapsack):
        data["D"] = core.distance_matrix(core.initial(tape))
    return data


# -- the tests -------------------------------------------------------------------------------------


@every_problem
@few_seeds
@given(seed=seeds)
def test_both_views_allow_and_pay_what_the_problem_says(name, seed):
    direct, bq = PROBLEMS[name](mdp="direct"), PROBLEMS[name](mdp="bq")
    tape = bq.tapes(1, seed)
    data = data_of(bq, tape)
    returns = {(): 0.0}
    for one, other in zip(levels(direct, tape), levels(bq, tape), strict=True):
        assert one[1] == other[1]  # the same prefixes, hence the same feasible actions
        np.testing.assert_array_equal(one[4], other[4])
        _, prefixes, rows, actions, rewards = one
        allowed = [[] for _ in prefixes]
        for i, action in zip(rows, actions, strict=True):
            allowed[i].append(int(action))
        for i, prefix in enumerate(prefixes):
            if allowed[i]:
                assert allowed[i] == feasible_after(bq, data, prefix)
            else:
                expected = objective_of(bq, data, prefix)
                assert returns[prefix] == pytest.approx(expected, abs=1e-9)
        if len(rows):
            returns = {
                (*prefixes[i], int(a)): returns[prefixes[i]] + r
                for i, a, r in zip(rows, actions, rewards, strict=True)
            }


@every_problem
@few_seeds
@given(seed=seeds)
def test_equal_quotients_have_equal_optimal_values_and_successors(name, seed):
    direct, bq = PROBLEMS[name](mdp="direct"), PROBLEMS[name](mdp="bq")
    tape = bq.tapes(1, seed)
    (steps, found), (bq_steps, bq_found) = values(direct, tape), values(bq, tape)
    seen = {}
    merged = 0
    for level, (state, _, rows, actions, rewards) in enumerate(steps):
        np.testing.assert_allclose(found[level], bq_found[level], rtol=0, atol=1e-12)
        here = keys(direct, state)
        assert here == keys(bq, bq_steps[level][0])
        following = keys(direct, steps[level + 1][0]) if len(rows) else []
        # Actions, rewards and the quotients that follow, as the direct view has them.
        futures = [{} for _ in here]
        for k, (i, action) in enumerate(zip(rows, actions, strict=True)):
            futures[i][int(action)] = (round(float(rewards[k]), 9), following[k])
        for i, (key, future) in enumerate(zip(here, futures, strict=True)):
            known = seen.setdefault(key, (found[level][i], future))
            merged += known[1] is not future
            assert known[0] == pytest.approx(found[level][i], abs=1e-9)
            assert known[1] == future
    if direct.size > 4 and not isinstance(direct, Orienteering):  # there a path decides the budget
        assert merged > 0


@every_problem
@few_seeds
@given(seed=seeds)
def test_dynamics_commute_with_the_quotient(name, seed):
    direct, bq = PROBLEMS[name](mdp="direct"), PROBLEMS[name](mdp="bq")
    tape = bq.tapes(1, seed)
    for state, _, rows, actions, rewards in levels(direct, tape):
        quotient = bq.quotient(state)
        np.testing.assert_array_equal(bq.table(quotient, "bq"), direct.table(state, "bq"))
        np.testing.assert_array_equal(keys(bq, quotient), keys(direct, state))  # idempotent
        np.testing.assert_array_equal(bq.terminal(quotient), direct.terminal(state))
        np.testing.assert_array_equal(bq.action_masks(quotient), direct.action_masks(state))
        if len(rows):
            before = take(quotient, rows)
            after = bq.transition(before, actions, {})
            np.testing.assert_allclose(
                bq.reward(before, actions, after), rewards, rtol=0, atol=1e-12
            )
            expected = direct.quotient(direct.transition(take(state, rows), actions, {}))
            found = bq.quotient(after)
            for part, value in expected.items():
                np.testing.assert_array_equal(found[part], value, err_msg=part)


@every_problem
def test_optimal_value_is_the_best_of_all_solutions(name):
    core = PROBLEMS[name](mdp="bq")
    tape = core.tapes(1, 12)
    data = data_of(core, tape)
    steps, found = values(core, tape)
    complete = []
    for state, prefixes, _, _, _ in steps:
        complete += [prefixes[i] for i in np.flatnonzero(core.terminal(state))]
    assert found[0][0] == pytest.approx(max(objective_of(core, data, p) for p in complete))


def test_orders_of_the_same_visits_are_one_state_of_the_quotient():
    direct = TSP(6, mdp="direct")
    tape = direct.tapes(2, 3)
    tape = take(tape, np.array([0, 0]))
    state = direct.initial(tape)
    for actions in ([1, 3], [3, 1], [2, 2]):
        state = direct.transition(state, np.array(actions), tape)
    assert (state["tour"][0] != state["tour"][1]).any()
    one, other = keys(direct, state)
    assert one == other
    quotient = direct.quotient(state)
    assert quotient["remaining"][0].tolist() == [False, False, False, False, True, True]
    assert (quotient["origin"][0], quotient["destination"][0], quotient["t"][0]) == (2, 0, 3)
    assert not quotient["coordinates"][:, [1, 3]].any()


def test_an_unknown_mdp_is_refused():
    with pytest.raises(ValueError, match="mdp='tree', allowed are \\('bq', 'direct'\\)"):
        TSP(5, mdp="tree")
