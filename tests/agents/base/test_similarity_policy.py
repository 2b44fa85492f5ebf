"""The policy on instances up to similarity: what may change without changing its scores."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch

from palaestra.agents.base.nets.attention import NearAttention
from palaestra.agents.base.routing.problems import PROBLEMS, Situation
from palaestra.agents.base.routing.similarity_policy import (
    SimilarityPolicy,
    distances_from_ends,
    distances_in_steps,
    in_own_frame,
    link_loss,
)
from palaestra.agents.combinatorial.bq_nco import BQNCO

KINDS = ("tsp", "cvrp", "orienteering")


def policy(kind):
    torch.manual_seed(0)
    space, actions = gym.spaces.Box(0, 1, (9,)), gym.spaces.Discrete(9)
    found = SimilarityPolicy(
        *(space, actions, lambda _: 1e-3, kind), dim=16, layers=2, heads=4, feedforward=32
    )
    return found.double()


def situation(kind, rows=6, nodes=9, seed=0):
    draw = torch.Generator().manual_seed(seed)
    data = torch.rand(rows, nodes, PROBLEMS[kind].columns, generator=draw, dtype=torch.float64)
    if kind == "orienteering":
        data[..., 3] = 3.0
    remaining = torch.rand(rows, nodes, generator=draw) < 0.7
    remaining[:, :2] = False
    remaining[:, 2:5] = True
    origin, destination = torch.ones(rows, dtype=torch.int64), torch.zeros(rows, dtype=torch.int64)
    return Situation(data, remaining, origin, destination)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mirrored", [1.0, -1.0])
def test_scores_do_not_change_under_a_similarity(kind, mirrored):
    given, angle, scale = situation(kind), 0.7, 3.5
    turn = torch.tensor(
        [[np.cos(angle), np.sin(angle)], [-mirrored * np.sin(angle), mirrored * np.cos(angle)]]
    )
    data = given.data.clone()
    data[..., :2] = scale * data[..., :2] @ turn + torch.tensor([0.3, -2.0])
    if kind == "orienteering":
        data[..., 3] *= scale
    agent = policy(kind)
    with torch.no_grad():
        first, second = agent.scores(given), agent.scores(given._replace(data=data))
    torch.testing.assert_close(first, second, rtol=0, atol=1e-9)
    assert first[first.isfinite()].std() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_scores_do_not_depend_on_the_other_rows(kind):
    given, agent = situation(kind), policy(kind)
    assert len(set(given.remaining.sum(dim=1).tolist())) > 1  # so that rows are padded
    with torch.no_grad():
        together = agent.scores(given)
        for row in range(len(together)):
            alone = agent.scores(Situation(*(value[row : row + 1] for value in given)))
            torch.testing.assert_close(together[row], alone[0], rtol=0, atol=1e-9)


def test_the_frame_has_its_ends_on_the_axis_and_its_farthest_point_at_one():
    points = torch.tensor([[[1.0, 1.0], [1.0, 3.0], [2.0, 2.0], [3.0, 0.0]]])
    found, size = in_own_frame(points, None)
    expected = [[0, 0], [2, 0], [1, 1], [-1, 2]]  # the first axis was upwards; then mirrored
    assert float(size) == pytest.approx(5**0.5)
    torch.testing.assert_close(found[0] * size, torch.tensor(expected).float())
    closed, _ = in_own_frame(points[:, [0, 0, 2, 3]], None)  # a whole tour: nothing to turn to
    torch.testing.assert_close(
        closed[0] * 5**0.5, torch.tensor([[0, 0], [0, 0], [1, 1], [2, -1]]).float()
    )


def test_distances_from_the_ends_are_also_told_relative_to_the_nearest():
    points = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [0.5, 0.0], [0.0, 1.0], [9.0, 9.0]]])
    found = distances_from_ends(points, torch.tensor([[True, True, True, True, False]]))
    torch.testing.assert_close(
        found[0, 3], torch.tensor([1.0, 2**0.5, np.log(3), np.log1p(2**1.5)]).float()
    )


def test_steps_are_in_units_of_the_mean_distance_over_the_root_of_the_number():
    points = torch.rand(3, 6, 2)
    padded = torch.cat([points, torch.full((3, 2, 2), 5.0)], dim=1)
    present = torch.arange(8).expand(3, -1) < 6
    found = distances_in_steps(padded, present)[:, :6, :6]
    torch.testing.assert_close(found, distances_in_steps(points, None), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found.mean(dim=(1, 2)), torch.full((3,), 6**0.5))


def test_heads_differ_in_how_much_less_they_look_at_what_is_far():
    assert NearAttention(16, 1, 4, 8).slopes.tolist() == [0, 1, 2, 4]
    assert NearAttention(16, 1, 1, 8).slopes.tolist() == [0]
    with pytest.raises(ValueError, match="dim=10 must be a multiple of heads=4"):
        NearAttention(10, 1, 4, 8)


def test_it_is_for_problems_with_coordinates():
    with pytest.raises(ValueError, match="needs a problem with coordinates"):
        BQNCO("SimilarityPolicy", gym.make("Knapsack-v0", items=8))
    with pytest.raises(ValueError, match="needs a problem with coordinates"):
        BQNCO("SimilarityPolicy", gym.make("ATSP-v0", nodes=8))


def test_worked_example_loss_of_links():
    # The path is 0, 2, 1. Of node 0 nothing is known; 2 is sure of 0, and 1 of 2.
    leaving = torch.tensor([[[0.0, 0.0], [0.0, 1.0], [1.0, 0.0]]])
    entering = torch.tensor([[[30.0, 0.0], [0.0, 0.0], [0.0, 30.0]]]) * 2**0.5
    # Links 0-2, 2-1: log 2 from 0, 0 from 2 to 0; 30 from 2 to 1, 0 from 1 to 2.
    expected = (np.log(2) + 0.0 + 30.0 + 0.0) / 4
    assert float(link_loss(leaving, entering)) == pytest.approx(expected, abs=1e-5)


def test_a_network_that_knows_both_neighbours_cannot_do_better_than_one_half():
    path = [0, *range(2, 7), 1]
    wanted = torch.full((7, 7), -50.0)
    for left, right in zip(path, path[1:], strict=False):
        wanted[left, right] = wanted[right, left] = 0.0
    loss = link_loss(wanted[None] * 7**0.5, torch.eye(7)[None])
    # The two ends have one neighbour each, the five others two.
    assert float(loss) == pytest.approx(5 * 2 * np.log(2) / 12, abs=1e-5)


def test_links_are_learned_from_in_a_tsp_and_nowhere_else():
    for kind, links in (("tsp", True), ("cvrp", False), ("orienteering", False)):
        network = policy(kind)
        of = situation(kind)
        feasible = PROBLEMS[kind].feasible(of).flatten(1)
        scores, more = network.lesson(of, feasible)
        torch.testing.assert_close(scores, network.scores(of, feasible))
        assert (more is not None) == links
        assert hasattr(network, "leaving") == links
    parameters = [p for group in policy("tsp").optimizer.param_groups for p in group["params"]]
    assert len(parameters) == len(list(policy("tsp").parameters()))
    with pytest.raises(ValueError, match="links must be at least 0, got -1"):
        BQNCO("SimilarityPolicy", gym.make("TSP-v0", nodes=8), policy_kwargs={"links": -1.0})


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_and_solves_instances_of_other_sizes(kind, tmp_path):
    names = {"tsp": "TSP-v0", "cvrp": "CVRP-v0", "orienteering": "Orienteering-v0"}
    env = gym.make(names[kind], nodes=10)
    agent = BQNCO(
        *("SimilarityPolicy", env),
        **{"instances": 64, "batch_size": 16, "epoch": 100, "validation_instances": 32, "seed": 0},
        policy_kwargs={"dim": 16, "layers": 1, "heads": 2, "feedforward": 32},
    )
    agent.learn(1)
    agent.learn(200)
    (_, untrained), *_, (_, late) = agent.curve
    assert late > untrained
    agent.save(tmp_path / "agent")
    again = BQNCO.load(tmp_path / "agent")
    larger = gym.make(names[kind], nodes=14)
    larger.reset(seed=0)
    first, second = (each.solve(larger)[0].objective for each in (agent, again))
    assert first == second
    near = agent.solve(larger, neighbours=4)[0].objective
    assert np.isfinite(near)
