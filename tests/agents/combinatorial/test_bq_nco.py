"""BQ-NCO: losses and subproblems against numbers, and solving instances of any size."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch

from palaestra.agents.base.routing.decoding import follow, from_both_ends
from palaestra.agents.base.routing.problems import PROBLEMS, keep_nearest, read_observation
from palaestra.agents.base.routing.solved import SolvedInstances
from palaestra.agents.base.routing.symmetries import random_symmetry, reflect, turn
from palaestra.agents.combinatorial.bq_nco import (
    BQNCO,
    draw_items,
    items_loss,
    next_node_loss,
    subproblems,
    suffix,
)
from palaestra.envs.base import take
from palaestra.envs.routing.tsp import TSP

INF = torch.inf
SMALL = {
    **{"instances": 24, "batch_size": 8, "epoch": 5, "validation_instances": 8, "seed": 0},
    "policy_kwargs": {"dim": 16, "layers": 2, "heads": 2, "feedforward": 32},
}
TASKS = {
    "tsp": ("TSP-v0", {"nodes": 8}),
    "atsp": ("ATSP-v0", {"nodes": 7}),
    "cvrp": ("CVRP-v0", {"nodes": 9, "capacity": 15}),
    "orienteering": ("Orienteering-v0", {"nodes": 12, "budget": 2.0}),
    "knapsack": ("Knapsack-v0", {"items": 10, "capacity": 2_000}),
}
POLICIES = {"bq": "AttentionPolicy", "direct": "DirectPolicy"}
every_kind = pytest.mark.parametrize("kind", TASKS)
every_mdp = pytest.mark.parametrize("mdp", POLICIES)


def make(kind, mdp="bq", **changes):
    name, arguments = TASKS[kind]
    return gym.make(name, mdp=mdp, **{**arguments, **changes})


def played(core, rows, seed=3):
    """Instances, and the feasible solutions that random play finds: arrays for SolvedInstances."""
    tape = core.tapes(rows, seed)
    state, generator, actions = core.initial(tape), np.random.default_rng(seed), []
    arrays = {name: tape[name] for name in tape}
    while not (ended := core.terminal(state)).all():
        masks = core.action_masks(state)
        chosen = (generator.random(masks.shape) * masks).argmax(axis=1)
        after = core.transition(state, chosen, tape)
        state = {
            name: np.where(ended.reshape(-1, *[1] * (value.ndim - 1)), state[name], value)
            for name, value in after.items()
        }
        actions.append(np.where(ended, -1, chosen))
    steps = np.stack(actions, axis=1)
    if core.kind == "knapsack":
        taken = np.zeros((rows, core.size), dtype=bool)
        for row, column in np.argwhere(steps >= 0):
            taken[row, steps[row, column]] = True
        return {**arrays, "taken": taken}
    if core.kind == "cvrp":
        via = steps % 2 == 1
        return {**arrays, "tour": steps // 2, "via": via}
    tour = np.full((rows, core.size), -1)
    tour[:, 0], tour[:, 1 : steps.shape[1] + 1] = 0, steps
    return {**arrays, "tour": tour}


@pytest.fixture(scope="module")
def agents():
    """An agent for each problem and process that has learned a little from random play."""
    found = {}
    for kind in TASKS:
        for mdp, policy in POLICIES.items():
            env = make(kind, mdp)
            data = played(env.unwrapped.core, 24)
            found[kind, mdp] = BQNCO(policy, env, demonstrations=data, **SMALL).learn(10)
    return found


# -- what the paper computes -----------------------------------------------------------------------


def test_worked_example_cross_entropy_of_the_next_node():
    scores = torch.tensor([[-INF, 1.0, 0.5, -1.0, -INF]], dtype=torch.float64)
    assert float(next_node_loss(scores, torch.tensor([1]))) == pytest.approx(0.554957, abs=1e-6)


def test_worked_example_cross_entropy_of_the_items():
    scores = torch.tensor([[1.0, 0.0, 2.0, -INF]], dtype=torch.float64)
    solution = torch.tensor([[True, False, True, False]])
    assert float(items_loss(scores, solution)) == pytest.approx(0.907606, abs=1e-6)


def test_infeasible_scores_have_no_gradient():
    scores = torch.randn(3, 5, requires_grad=True)
    masked = scores.masked_fill(torch.arange(5) == 4, -INF)
    solution = torch.tensor([[True, True, False, False, False]]).expand(3, -1)
    (next_node_loss(masked, torch.tensor([0, 1, 2])) + items_loss(masked, solution)).backward()
    assert scores.grad.isfinite().all()
    assert (scores.grad[:, 4] == 0).all()


def test_worked_example_state_after_a_prefix_and_its_value():
    points = [[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [0.5, 1.5]]
    situation = suffix(torch.tensor([points]), torch.tensor([2]))
    assert situation.origin.tolist() == [2]
    assert situation.destination.tolist() == [0]
    assert situation.remaining.tolist() == [[False, False, False, True, True]]
    walk = torch.tensor([points])[0, [2, 4, 3, 0]]
    value = -float((walk[1:] - walk[:-1]).norm(dim=1).sum())
    assert value == pytest.approx(-2.414214, abs=1e-6)


def test_worked_example_feasible_actions_of_a_cvrp_state():
    demands, capacity = torch.tensor([0.0, 4.0, 3.0, 5.0, 2.0]), 8.0
    data = torch.rand(1, 5, 4)
    data[0, :, 2], data[0, :, 3] = demands / capacity, 3.0 / capacity
    at_four = suffix(data, torch.tensor([4]))._replace(
        remaining=torch.tensor([[False, True, True, True, False]])
    )
    feasible = PROBLEMS["cvrp"].feasible(at_four)[0]
    assert [tuple(pair) for pair in feasible.nonzero().tolist()] == [(1, 1), (2, 0), (2, 1), (3, 1)]


def test_drawn_items_belong_to_the_solution_and_are_as_many_as_asked():
    generator = torch.Generator().manual_seed(0)
    taken = torch.rand(200, 9, generator=generator) < 0.5
    number = (torch.rand(200, generator=generator) * taken.sum(dim=1)).long()
    drawn = draw_items(taken, number, torch.rand(200, 9, generator=generator))
    assert (drawn.sum(dim=1) == number).all()
    assert not (drawn & ~taken).any()


def test_the_part_of_the_steps_made_is_uniform_from_the_start_to_three_nodes_left():
    batch = {"nodes": torch.rand(1, 6, 2)}
    left = []
    for share in np.linspace(0, 0.999, 400):
        situation, expert = subproblems(batch, PROBLEMS["tsp"], share, torch.rand(1, 6))
        assert int(expert) == int(situation.origin) + 1
        left.append(int(situation.remaining.sum()) + 1)
    sizes, counts = np.unique(left, return_counts=True)
    assert sizes.tolist() == [3, 4, 5, 6]
    assert (abs(counts - 100) <= 2).all()


# -- symmetries ------------------------------------------------------------------------------------


def test_the_eight_symmetries_keep_distances_and_stay_in_the_square():
    points = torch.rand(8, 5, 2)
    points[:] = points[0]
    seen = reflect(points, torch.arange(8))
    assert ((seen >= 0) & (seen <= 1)).all()
    torch.testing.assert_close(torch.cdist(seen, seen), torch.cdist(points, points))
    assert len({tuple(row.flatten().tolist()) for row in seen}) == 8


def test_turning_a_tour_keeps_its_neighbours():
    order = turn(5, torch.tensor([0, 2, 3]), torch.tensor([False, False, True]))
    assert order.tolist() == [[0, 1, 2, 3, 4], [2, 3, 4, 0, 1], [3, 2, 1, 0, 4]]


@every_kind
def test_symmetric_instances_have_solutions_of_the_same_length(kind):
    core = make(kind).unwrapped.core
    batch = SolvedInstances(kind, played(core, 12)).tensors("cpu")
    seen = random_symmetry(batch, PROBLEMS[kind], np.random.default_rng(0))
    if kind == "knapsack":
        assert seen["nodes"] is batch["nodes"]
        return

    def lengths(nodes):
        if kind == "atsp":
            n = nodes.shape[1]
            return nodes[:, torch.arange(n), (torch.arange(n) + 1) % n].sum(dim=1)
        return (nodes[..., :2].roll(-1, dims=1) - nodes[..., :2]).norm(dim=2).sum(dim=1)

    torch.testing.assert_close(lengths(seen["nodes"]), lengths(batch["nodes"]))
    assert not torch.equal(seen["nodes"], batch["nodes"])


# -- demonstrations are what the environment shows -------------------------------------------------


@every_kind
@every_mdp
def test_a_subproblem_is_what_the_environment_shows_after_the_same_steps(kind, mdp, agents):
    """Scores, feasible actions and the expert's action agree, for every number of steps made."""
    core, policy = make(kind, mdp).unwrapped.core, agents[kind, mdp].policy
    policy.set_training_mode(False)
    solved = SolvedInstances(kind, data := played(core, 10, seed=9))
    batch, problem = solved.tensors("cpu"), PROBLEMS[kind]
    tape = core.tapes(10, 9)
    for share in (0.0, 0.3, 0.6, 0.95):
        keys = torch.rand(10, core.size, generator=torch.Generator().manual_seed(1))
        situation, expert = subproblems(batch, problem, share, keys)
        for row in range(10):
            one = {name: value[row : row + 1] for name, value in tape.items()}
            state, order, steps = core.initial(one), *path(kind, data, batch, share, keys, row)
            for action in steps:
                assert core.action_masks(state)[0, action]
                state = core.transition(state, np.array([action]), one)
            if not core.action_masks(state)[0].any():
                continue
            seen = policy.read(torch.as_tensor(core.observation(state)))
            own = take_one(situation, row)
            if kind == "atsp":  # nodes are told apart by their number, so reorder before
                seen = seen._replace(
                    data=seen.data[:, order][:, :, order],
                    remaining=seen.remaining[:, order],
                    origin=own.origin,
                    destination=own.destination,
                )
                order = torch.arange(core.size)
            with torch.no_grad():
                theirs = policy.scores(seen)[0].view(core.size, -1)[order]
                ours = policy.scores(own)[0].view(core.size, -1)
            masks = torch.as_tensor(core.action_masks(state))[0].view(core.size, -1)
            assert int(theirs.isfinite().sum()) == int(masks.sum())
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
            target = (
                expert[row] if kind == "knapsack" else torch.arange(ours.numel()) == expert[row]
            )
            assert ours.flatten()[target.flatten()].isfinite().all()


def path(kind, data, batch, share, keys, row):
    """Nodes in the order of the solution, and the actions that lead to the subproblem."""
    if kind == "knapsack":
        number = int(np.float32(share) * int(data["taken"][row].sum()))
        taken = torch.as_tensor(data["taken"][row : row + 1])
        gone = draw_items(taken, torch.tensor([number]), keys[row : row + 1])[0]
        return torch.arange(len(gone)), gone.nonzero()[:, 0].tolist()
    tour = data["tour"][row]
    if kind == "cvrp":
        steps = int(share * (len(tour) - 1))
        actions = (2 * tour + data["via"][row])[:steps].tolist()
        return torch.as_tensor(np.append(0, tour)), actions
    visited = tour[tour >= 0]
    rest = np.setdiff1d(np.arange(len(tour)), visited)
    steps = int(share * (len(visited) - (1 if kind == "orienteering" else 2)))
    return torch.as_tensor(np.concatenate([visited, rest])), visited[1 : steps + 1].tolist()


def take_one(situation, row):
    return type(situation)(*(None if part is None else part[row : row + 1] for part in situation))


# -- solving ---------------------------------------------------------------------------------------


def solve_by_stepping(agent, env, seed):
    """Return of an episode in which `predict` chooses without being given masks."""
    observation, _ = env.reset(seed=seed)
    total, ended = 0.0, False
    while not ended:
        action, _ = agent.predict(observation, deterministic=True)
        observation, reward, ended, _, _ = env.step(action)  # an infeasible action raises
        total += reward
    return total


@every_kind
@every_mdp
def test_any_size_is_solved_feasibly_without_masks_and_as_by_stepping(kind, mdp, agents):
    agent = agents[kind, mdp]
    size = "items" if kind == "knapsack" else "nodes"
    for number in (2, 5, 23):
        env = make(kind, mdp, **{size: number})
        for seed in range(3):
            total = solve_by_stepping(agent, env, seed)
            env.reset(seed=seed)
            (solution,) = agent.solve(env)
            assert abs(total) == pytest.approx(solution.objective, rel=1e-9)


@every_kind
def test_wider_decoding_is_not_worse_than_the_best_prefix_that_it_keeps(kind, agents):
    """A beam wider than all prefixes finds the optimum; samples are feasible and the best wins."""
    agent = agents[kind, "bq"]
    size = "items" if kind == "knapsack" else "nodes"
    env = make(kind, **{size: 5})
    sign = 1 if kind in ("orienteering", "knapsack") else -1
    for seed in range(3):
        env.reset(seed=seed)
        greedy, everything = (agent.solve(env, beam=beam)[0].objective for beam in (1, 4_000))
        sampled = max(sign * agent.solve(env, samples=32)[0].objective for _ in range(2))
        assert sign * everything >= max(sign * greedy, sampled) - 1e-9
        assert everything == pytest.approx(best_by_trying(env, sign), rel=1e-9)


def nearest(sharpness):
    """Scores by distance from the origin; `sharpness(situation)` [b] says how sure they are."""

    def scores(situation):
        here = situation.of(situation.origin)
        far = (situation.data - here[:, None]).norm(dim=2)
        found = -far * sharpness(situation)[:, None]
        return found.masked_fill(~situation.remaining, -torch.inf)

    return scores


def test_both_ends_are_the_greedy_path_where_only_the_origin_is_sure():
    core = TSP(12).torch("cpu", torch.float64)
    tape = {name: torch.as_tensor(value) for name, value in TSP(12).tapes(5, 3).items()}
    state = core.initial(tape)
    first = read_observation(core.observation(state), PROBLEMS["tsp"], False)

    def sharp_half(situation):  # the first half of the rows asks at the origin
        rows = len(situation.origin)
        return torch.where(torch.arange(rows) < rows // 2, 50.0, 0.0)

    both = from_both_ends(core, tape, state, first, nearest(sharp_half))
    alone = follow(
        core,
        tape,
        state,
        lambda seen, masks: nearest(lambda of: torch.full((len(of.origin),), 50.0))(
            read_observation(seen, PROBLEMS["tsp"], False)
        ),
    )
    torch.testing.assert_close(both.objective, alone.objective)


def test_a_path_grows_from_both_ends_and_is_a_tour(agents):
    agent = agents["tsp", "bq"]
    for nodes in (2, 3, 9):
        env = make("tsp", nodes=nodes)
        env.reset(seed=4)
        (solution,) = agent.solve(env, both_ends=True)
        assert sorted(solution.tour) == list(range(nodes))
        points = env.unwrapped.tape["coordinates"][0]
        steps = points[list(solution.tour)] - points[np.roll(solution.tour, -1)]
        assert solution.objective == pytest.approx(np.hypot(*steps.T).sum())
    vector = gym.make_vec("TSP-v0", num_envs=3, vectorization_mode="vector_entry_point", nodes=9)
    vector.reset(seed=0)
    for solution in agent.solve(vector, both_ends=True):
        assert sorted(solution.tour) == list(range(9))


@pytest.mark.parametrize(
    ("kind", "mdp", "changes"),
    [
        ("cvrp", "bq", {}),
        ("tsp", "direct", {}),
        ("tsp", "bq", {"beam": 2}),
        ("tsp", "bq", {"samples": 2}),
    ],
)
def test_both_ends_are_for_a_tsp_and_greedy(kind, mdp, changes, agents):
    env = make(kind, mdp, nodes=6)
    env.reset(seed=0)
    with pytest.raises(ValueError, match="both_ends: for a TSP on the instance left"):
        agents[kind, mdp].solve(env, both_ends=True, **changes)


def best_by_trying(env, sign):
    """The best objective of all sequences of feasible actions."""
    core, tape = env.unwrapped.core, env.unwrapped.tape
    state = env.unwrapped.state
    totals, finished = np.zeros(1), []
    while len(totals):
        parents, actions = np.nonzero(core.action_masks(state))
        before = take(state, parents)
        after = core.transition(before, actions, take(tape, 0 * parents))
        totals = totals[parents] + core.reward(before, actions, after)
        ended = core.terminal(after)
        finished += totals[ended].tolist()
        state, totals = take(after, ~ended), totals[~ended]
    return sign * max(finished)


@every_kind
def test_a_data_set_is_solved_row_by_row(kind, agents):
    agent, core = agents[kind, "bq"], make(kind).unwrapped.core
    tape = core.tapes(5, 11)
    together = [solution.objective for solution in agent.solve(tape)]
    alone = [agent.solve(take(tape, slice(row, row + 1)))[0].objective for row in range(5)]
    assert together == pytest.approx(alone, rel=1e-9)


def test_a_batch_of_states_with_different_numbers_of_nodes_left(agents):
    """Rows that are not there do not change the scores of the others."""
    policy, core = agents["tsp", "bq"].policy, make("tsp").unwrapped.core
    tape = core.tapes(1, 0)
    states, seen = core.initial(tape), []
    for action in (3, 5, 1, 2):
        seen.append(torch.as_tensor(core.observation(states)))
        states = core.transition(states, np.array([action]), tape)
    policy.set_training_mode(False)
    with torch.no_grad():
        together = policy.scores(policy.read(torch.cat(seen)))
        alone = torch.cat([policy.scores(policy.read(one)) for one in seen])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)


def test_one_node_left_needs_no_network(agents, monkeypatch):
    policy, core = agents["tsp", "bq"].policy, make("tsp", nodes=2).unwrapped.core
    observation = core.observation(core.initial(core.tapes(3, 0)))
    monkeypatch.setattr(policy, "forward", None)  # a call would raise
    actions, _ = policy.predict(observation, deterministic=True)
    assert actions.tolist() == [1, 1, 1]


def test_nearest_neighbours_restrict_what_is_looked_at(agents):
    points = torch.tensor([[[0.0, 0.0], [0.9, 0.0], [0.1, 0.0], [0.3, 0.0], [0.2, 0.0]]])
    situation = suffix(points, torch.tensor([0]))
    view = keep_nearest(situation, PROBLEMS["tsp"], situation.remaining, 2)
    assert view.tolist() == [[False, False, True, False, True]]
    everything = keep_nearest(situation, PROBLEMS["tsp"], situation.remaining, 50)
    assert torch.equal(everything, situation.remaining)
    agent = agents["tsp", "bq"]
    tape = make("tsp", nodes=30).unwrapped.core.tapes(2, 0)
    assert agent.solve(tape, neighbours=30)[0].objective == agent.solve(tape)[0].objective
    nearest = agent.solve(tape, neighbours=2)  # one feasible node in view: nearest neighbour
    for points, solution in zip(tape["coordinates"], nearest, strict=True):
        left, here = set(range(1, 30)), 0
        for node in solution.tour[1:]:
            assert node == min(left, key=lambda j: np.hypot(*(points[j] - points[here])))
            left.remove(node)
            here = node


def test_duplicate_coordinates_and_a_file_in_its_own_units(agents, tmp_path):
    agent = agents["tsp", "bq"]
    (solution,) = agent.solve({"coordinates": np.zeros((1, 6, 2))})
    assert sorted(solution.tour) == list(range(6))
    assert solution.objective == 0
    path = tmp_path / "five.tsp"
    points = "1 0 0\n2 100 0\n3 100 100\n4 0 100\n5 50 150\n"
    path.write_text(
        "NAME: five\nTYPE: TSP\nDIMENSION: 5\nEDGE_WEIGHT_TYPE: EUC_2D\nNODE_COORD_SECTION\n"
        f"{points}EOF\n"
    )
    (solution,) = agent.solve(path, beam=100)
    assert solution.objective == 100 + 100 + 71 + 71 + 100


# -- agents ----------------------------------------------------------------------------------------


def test_arguments_that_make_no_sense_are_refused(agents):
    for changes, message in (
        ({"epoch": 0}, "epoch must be at least 1, got 0"),
        ({"decay": 1.5}, r"decay=1.5 is outside \(0, 1\]"),
    ):
        with pytest.raises(ValueError, match=message):
            BQNCO("AttentionPolicy", make("tsp"), **changes)
    with pytest.raises(ValueError, match='needs an environment with mdp="bq"'):
        BQNCO("AttentionPolicy", make("tsp", "direct"))
    with pytest.raises(ValueError, match="needs an environment of the kinds"):
        BQNCO("AttentionPolicy", gym.make("FiniteMDP-v0"))
    with pytest.raises(ValueError, match="dim=10 must be a multiple of heads=4"):
        BQNCO("AttentionPolicy", make("tsp"), policy_kwargs={"dim": 10})
    agent, tape = agents["tsp", "bq"], make("tsp").unwrapped.core.tapes(1, 0)
    for arguments, message in (
        ({"beam": 0}, "beam=0"),
        ({"beam": 2, "samples": 3}, "not both"),
        ({"neighbours": 1}, "neighbours=1: at least 2"),
    ):
        with pytest.raises(ValueError, match=message):
            agent.solve(tape, **arguments)
    with pytest.raises(ValueError, match="neighbours=5"):
        agents["tsp", "direct"].solve(tape, neighbours=5)
    with pytest.raises(ValueError, match="a knapsack can be given as arrays or an environment"):
        agents["knapsack", "bq"].solve("items.txt")
    with pytest.raises(ValueError, match='solves tsp with mdp="bq"'):
        agent.solve(make("tsp", "direct"))
    with pytest.raises(ValueError, match="41 numbers is not one of nodes with 2 \\+ 3 columns"):
        agent.predict(np.zeros(41))


def test_demonstrations_given_as_arrays_are_not_kept_in_the_file_but_recognised(agents, tmp_path):
    agent, env = agents["tsp", "bq"], make("tsp")
    agent.save(tmp_path / "agent")
    loaded = BQNCO.load(tmp_path / "agent", env=env)
    with pytest.raises(ValueError, match=r"give it again, load\(..., demonstrations=...\)"):
        loaded.learn(1)
    data = played(env.unwrapped.core, 24)
    loaded = BQNCO.load(tmp_path / "agent", env=env, demonstrations=data)
    assert loaded.arguments() == agent.arguments()
    loaded.learn(1)
    other = BQNCO("AttentionPolicy", env, demonstrations=played(env.unwrapped.core, 24, 4), **SMALL)
    assert other.arguments() != agent.arguments()


def test_demonstrations_from_a_file_give_the_same_parameters_as_from_arrays(agents, tmp_path):
    env = make("cvrp")
    data = played(env.unwrapped.core, 24)
    np.savez(tmp_path / "solved.npz", **data)
    other = BQNCO("AttentionPolicy", env, demonstrations=tmp_path / "solved.npz", **SMALL).learn(10)
    ours, theirs = agents["cvrp", "bq"].policy.state_dict(), other.policy.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(
    ("kind", "name", "value", "message"),
    [
        ("tsp", "tour", [[1, 0, 2]], "solution 0 does not start at node 0"),
        ("tsp", "tour", [[0, 1, 1]], "solution 0 does not visit each of the nodes 0 .. 2 once"),
        ("tsp", "tour", [[0, 1]], r"tour has shape \(1, 2\), expected \(1, 3\)"),
        (
            "tsp",
            "coordinates",
            [[[0, np.nan]] * 3],
            "coordinates holds numbers that are not finite",
        ),
        ("cvrp", "via", [[False, False]], "solution 0 loads a vehicle with more than its capacity"),
        ("orienteering", "tour", [[0, -1, 2]], "solution 0 has -1 before its end"),
        ("orienteering", "budget", [0.5], "solution 0 is longer than its budget"),
        ("knapsack", "taken", [[True, True, True]], "solution 0 weighs more than its capacity"),
    ],
)
def test_solutions_that_are_wrong_are_refused(kind, name, value, message):
    points = [[[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]]
    good = {
        "tsp": {"coordinates": points, "tour": [[0, 2, 1]]},
        "cvrp": {
            **{"coordinates": points, "demands": [[0, 3, 3]], "capacity": 5},
            **{"tour": [[1, 2]], "via": [[False, True]]},
        },
        "orienteering": {
            **{"coordinates": points, "prizes": [[0, 3, 3]], "budget": [2.0]},
            "tour": [[0, 1, -1]],
        },
        "knapsack": {
            **{"values": [[1, 2, 3]], "weights": [[1, 2, 3]], "capacity": 4},
            "taken": [[True, False, True]],
        },
    }[kind]
    assert len(SolvedInstances(kind, good)) == 1
    with pytest.raises(ValueError, match=message):
        SolvedInstances(kind, {**good, name: value})
    with pytest.raises(ValueError, match=rf"\['{name}'\] missing"):
        SolvedInstances(kind, {key: entry for key, entry in good.items() if key != name})


def test_learning_rate_decays_by_epochs():
    env = make("tsp")
    data = played(env.unwrapped.core, 24)
    agent = BQNCO(
        *("AttentionPolicy", env),
        **{**SMALL, "epoch": 2},
        demonstrations=data,
        learning_rate=0.01,
        decay=0.5,
        decay_epochs=3,
    ).learn(13)
    assert agent.policy.optimizer.param_groups[0]["lr"] == pytest.approx(0.01 * 0.5**2)


def test_cloning_lowers_the_loss_and_shortens_the_tours():
    """From tours along a circle, the next node is the nearest one: learned within seconds."""
    angles = np.random.default_rng(0).uniform(0, 2 * np.pi, (400, 12))
    points = 0.5 + 0.5 * np.stack([np.cos(angles), np.sin(angles)], axis=2)
    order = np.argsort((angles - angles[:, :1]) % (2 * np.pi), axis=1)
    agent = BQNCO(
        *("AttentionPolicy", make("tsp", nodes=12)),
        **{**SMALL, "epoch": 50, "batch_size": 64},
        demonstrations={"coordinates": points, "tour": order},
        learning_rate=3e-3,
    )
    before = np.mean([solution.objective for solution in agent.solve({"coordinates": points})])
    agent.learn(150)
    after = np.mean([solution.objective for solution in agent.solve({"coordinates": points})])
    assert before > 5
    assert after < 4  # the circle is pi long


def test_bisimulation_partial_tours_with_the_same_instance_left_have_the_same_value():
    arm = BQNCO.claim.arms["all partial tours"]
    for seed in (3, 4):
        metrics = arm(seed, 1.0).metrics
        assert metrics["states"] == 193
        assert metrics["difference of values"] <= 1e-9


@pytest.mark.slow
def test_the_arms_of_the_claim_report_the_gaps_of_one_and_the_same_test():
    metrics = [BQNCO.claim.arms[arm](0, 0.02).metrics for arm in ("BQ", "direct")]
    assert metrics[0].keys() == metrics[1].keys()
    assert all(np.isfinite(value) for arm in metrics for value in arm.values())
    handicap = "gap at 80 nodes, times 1.5 for BQ"
    assert metrics[0][handicap] == 1.5 * metrics[0]["gap at 80 nodes"]
    assert metrics[1][handicap] == metrics[1]["gap at 80 nodes"]
