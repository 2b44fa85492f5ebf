import gymnasium as gym
import numpy as np
import pytest

from palaestra.envs.routing.render import ROUTES, SIZE, number

PROBLEMS = {
    "TSP-v0": {"nodes": 6},
    "ATSP-v0": {"nodes": 6},
    "CVRP-v0": {"nodes": 6, "capacity": 15},
    "Orienteering-v0": {"nodes": 9, "budget": 3.0},
    "Knapsack-v0": {"items": 6},
}


def make(name, **arguments):
    env = gym.make(name, render_mode="rgb_array", disable_env_checker=True, **arguments).unwrapped
    env.reset(seed=4)
    env.action_space.seed(0)
    return env


def share_of(picture, colour):
    """Share of the pixels that are about of this colour."""
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return (np.abs(picture.astype(int) - wanted).max(axis=-1) <= 12).mean()


@pytest.mark.parametrize("mdp", ["bq", "direct"])
@pytest.mark.parametrize("name", PROBLEMS)
def test_every_step_changes_the_picture(name, mdp):
    env = make(name, mdp=mdp, **PROBLEMS[name])
    before, over = env.render(), False
    assert before.shape == (SIZE[1], SIZE[0], 3)
    while not over:
        over = env.step(env.action_space.sample())[2]
        after = env.render()
        assert (after != before).any()
        before = after


def test_both_views_give_the_same_picture():
    pictures = []
    for mdp in ("bq", "direct"):
        env = make("CVRP-v0", nodes=8, mdp=mdp)
        for action in (2, 6, 9):
            env.step(action)
        pictures.append(env.render())
    np.testing.assert_array_equal(*pictures)


def test_every_route_has_its_colour():
    env = make("CVRP-v0", nodes=8)
    shares = []
    for actions in ((2, 4), (7, 8, 11, 12)):  # nodes 3 and 5 by way of the depot
        for action in actions:
            env.step(action)
        shares.append([share_of(env.render(), colour) for colour in ROUTES[:4]])
    # The ring around where one is has the second colour, too: the first, third and fourth tell.
    assert [share > 2e-4 for share in shares[0]][::2] == [True, False]
    assert [share > 2e-4 for share in shares[1]] == [True, True, True, False]


def test_many_nodes_are_drawn_within_a_moment():
    env = make("TSP-v0", nodes=5_000)
    for j in range(1, 60):
        env.step(j)
    assert env.render().std() > 0


@pytest.mark.parametrize(
    ("value", "text"),
    [(3323.0, "3,323"), (4.414214, "4.414"), (1234.56, "1234.6"), (27603.4, "27,603"), (0, "0")],
)
def test_numbers_are_short(value, text):
    assert number(value) == text
