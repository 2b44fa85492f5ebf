"""The rules as agents in the routing environments."""

import gymnasium as gym
import numpy as np
import pytest

import palaestra
from palaestra.envs.routing.instance import RoutingInstance
from palaestra.envs.routing.orienteering import Orienteering

IDS = {
    "tsp": "TSP-v0",
    "atsp": "ATSP-v0",
    "cvrp": "CVRP-v0",
    "orienteering": "Orienteering-v0",
    "knapsack": "Knapsack-v0",
}
RULES = {
    "NearestNeighbour": ({}, ("tsp", "atsp", "cvrp", "orienteering")),
    "Insertion": ({}, ("tsp", "atsp")),
    "TwoOpt": ({"or_opt": True}, ("tsp",)),
    "Savings": ({}, ("cvrp",)),
    "GreedyPrize": ({}, ("orienteering",)),
    "GreedyValue": ({}, ("knapsack",)),
    "HeldKarp": ({}, ("tsp", "atsp")),
    "KnapsackDP": ({}, ("knapsack",)),
    "RoutingSolver": ({"iterations": 4, "restarts": 1}, tuple(IDS)),
}
CASES = [
    (name, kind, mdp)
    for name, (_, kinds) in RULES.items()
    for kind in kinds
    for mdp in ("bq", "direct")
]


def make(kind, **arguments):
    size = {"items": 8} if kind == "knapsack" else {"nodes": 8}
    return gym.make(IDS[kind], **({} if "instances" in arguments else size), **arguments)


def agent_for(name, env):
    return getattr(palaestra.agents, name)("RulePolicy", env, seed=0, **RULES[name][0])


def play(agent, env, **reset):
    """Return of one episode, and the solution; infeasible actions raise."""
    observation, _ = env.reset(**reset)
    total, over = 0.0, False
    while not over:
        action, _ = agent.predict(observation)
        observation, reward, over, _, _ = env.step(action)
        total += reward
    return total, env.unwrapped.solution()


@pytest.mark.parametrize(("name", "kind", "mdp"), CASES)
def test_a_rule_finishes_episodes_with_feasible_actions(name, kind, mdp):
    env = make(kind, mdp=mdp)
    agent = agent_for(name, env)
    assert agent.problem == kind
    for seed in range(3):
        total, solution = play(agent, env, seed=seed)
        assert abs(total) == pytest.approx(solution.objective)


@pytest.mark.parametrize(("name", "kind"), [(n, k) for n, (_, ks) in RULES.items() for k in ks])
def test_both_views_of_a_problem_are_acted_on_alike(name, kind):
    played = []
    for mdp in ("bq", "direct"):
        env = make(kind, mdp=mdp)
        played.append([play(agent_for(name, env), env, seed=seed)[0] for seed in range(3)])
    np.testing.assert_allclose(played[0], played[1])


@pytest.mark.parametrize("mdp", ["bq", "direct"])
@pytest.mark.parametrize(("name", "kind"), [("HeldKarp", "tsp"), ("KnapsackDP", "knapsack")])
def test_an_optimal_rule_earns_the_same_step_by_step_and_at_once(name, kind, mdp):
    given = {k: v for k, v in make(kind).unwrapped.core.tapes(3, 0).items()}
    env = make(kind, mdp=mdp, instances=given)
    agent = agent_for(name, env)
    for row, solution in enumerate(agent.solve(given)):
        total, played = play(agent, env, options={"row": row})
        assert abs(total) == pytest.approx(solution.objective, rel=1e-6)
        assert played.objective == pytest.approx(solution.objective, rel=1e-6)


def test_no_rule_beats_the_optimum_and_two_opt_beats_its_start():
    given = make("tsp").unwrapped.core.tapes(20, 0)
    length = {
        name: np.array([s.objective for s in agent_for(name, make("tsp")).solve(given)])
        for name in ("NearestNeighbour", "Insertion", "TwoOpt", "HeldKarp")
    }
    for name, found in length.items():
        assert (found >= length["HeldKarp"] - 1e-9).all(), name
    assert length["TwoOpt"].mean() < length["NearestNeighbour"].mean()


def test_a_file_instance_is_solved_in_its_own_rounding():
    square = RoutingInstance(
        "square",
        "tsp",
        coordinates=[[0, 0], [3.6, 3.6], [0, 3.6], [3.6, 0]],
        edge_weight_type="EUC_2D",
    )
    (solution,) = agent_for("HeldKarp", make("tsp")).solve(square)
    assert solution.objective == 16
    assert solution.tour.tolist() in ([0, 2, 1, 3], [0, 3, 1, 2])
    with pytest.raises(ValueError, match="is of kind 'tsp', allowed: .'cvrp'"):
        agent_for("Savings", make("cvrp")).solve(square)


def test_a_large_instance_needs_no_matrix():
    points = np.random.default_rng(0).random((3_500, 2)) * 1_000
    large = RoutingInstance("large", "tsp", coordinates=points, edge_weight_type="EUC_2D")
    (solution,) = agent_for("NearestNeighbour", make("tsp")).solve(large)
    assert sorted(solution.tour.tolist()) == list(range(3_500))
    closed = np.append(solution.tour, 0)
    assert solution.objective == large.distances(closed[:-1], closed[1:]).sum()


def test_observations_of_other_sizes_are_accepted():
    agent, env = agent_for("NearestNeighbour", make("tsp")), gym.make("TSP-v0", nodes=30)
    total, solution = play(agent, env, seed=0)
    assert len(solution.tour) == 30
    (at_once,) = agent.solve(env.reset(seed=0)[0])
    assert at_once.tour.tolist() == solution.tour.tolist()
    assert at_once.objective == pytest.approx(-total, rel=1e-5)
    with pytest.raises(ValueError, match="an observation of 7 numbers"):
        agent.predict(np.zeros(7))


def test_where_nothing_can_be_reached_or_packed_action_0_ends_the_episode():
    points = np.array([[[0.0, 0], [1, 1], [1, 0]]])
    given = {"coordinates": points, "prizes": [[0, 5, 5]], "budget": [0.5]}
    for mdp in ("bq", "direct"):
        env = make("orienteering", mdp=mdp, instances=given)
        assert play(agent_for("GreedyPrize", env), env)[0] == 0
        heavy = {"values": [[5.0, 5]], "weights": [[9.0, 9]], "capacity": [3.0]}
        env = make("knapsack", mdp=mdp, instances=heavy)
        assert play(agent_for("KnapsackDP", env), env)[0] == 0


def test_a_budget_that_is_met_exactly_is_used_up():
    rng = np.random.default_rng(0)
    points = rng.random((20, 4, 2))
    tour = points[:, [0, 1, 2, 3, 0]]
    budget = np.linalg.norm(np.diff(tour, axis=1), axis=2).sum(axis=1)
    prizes = np.tile([0.0, 1, 1, 1], (20, 1))
    given = {"coordinates": points, "prizes": prizes, "budget": budget}
    assert isinstance(make("orienteering").unwrapped.core, Orienteering)
    for mdp in ("bq", "direct"):
        env = make("orienteering", mdp=mdp, instances=given)
        agent = agent_for("RoutingSolver", env)
        for row in range(20):
            assert play(agent, env, options={"row": row})[0] >= 2


def test_an_agent_for_another_problem_is_refused():
    with pytest.raises(ValueError, match="Savings is for cvrp"):
        agent_for("Savings", make("tsp"))
    with pytest.raises(ValueError, match="TwoOpt is for tsp"):
        palaestra.agents.TwoOpt("RulePolicy", gym.make("CartPole-v1"))


def test_set_env_reads_which_view_is_observed():
    agent = agent_for("HeldKarp", gym.make("TSP-v0", nodes=7, mdp="bq"))
    other = gym.make("TSP-v0", nodes=7, mdp="direct")
    agent.set_env(other)
    optimum = agent.solve(other.unwrapped.core.tapes(1, 4))[0].objective
    assert -play(agent, other, seed=4)[0] == pytest.approx(optimum)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("Insertion", {"rule": "random"}, "rule='random', allowed are"),
        ("GreedyPrize", {"power": 0}, "power=0 must be a finite number above 0"),
        ("RoutingSolver", {"engine": "lkh"}, "engine='lkh', allowed are"),
        ("RoutingSolver", {"iterations": 0}, "iterations=0, seconds=None: both"),
        ("RoutingSolver", {"iterations": None}, "PyVRP needs iterations or seconds"),
        ("RoutingSolver", {"restarts": 0}, "restarts=0 must be above 0"),
    ],
)
def test_arguments_out_of_range_are_refused(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        getattr(palaestra.agents, name)("RulePolicy", None, **arguments)
