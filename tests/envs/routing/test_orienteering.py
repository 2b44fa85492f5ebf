import gymnasium as gym
import numpy as np
import pytest

from palaestra.envs.routing.orienteering import Orienteering

# The nodes of the worked example, in units of 1.5.
FIVE = np.array([(0, 0), (1, 0), (1, 1), (0, 1), (0.5, 1.5)]) / 1.5
PRIZES = np.array([0, 10, 20, 30, 40.0])


def make(budget, mdp="bq"):
    instances = {"coordinates": FIVE[None], "prizes": PRIZES[None], "budget": [budget / 1.5]}
    return gym.make(
        "Orienteering-v0", disable_env_checker=True, mdp=mdp, instances=instances
    ).unwrapped


@pytest.mark.parametrize("mdp", ["bq", "direct"])
def test_worked_example(mdp):
    env = make(3.5, mdp)
    env.reset()
    _, reward, _, _, info = env.step(1)  # at 1, with 2.5 left
    assert reward == 10.0
    assert np.flatnonzero(info["action_mask"]).tolist() == [2, 3]
    assert env.core.quotient(env.state)["remaining"][0].tolist() == [
        False,
        False,
        True,
        True,
        False,
    ]
    with pytest.raises(ValueError, match="by way of node 4.*budget left, 1.66"):
        env.step(4)
    with pytest.raises(ValueError, match="node 1 has been visited"):
        env.step(1)


def test_a_tour_that_uses_up_its_budget_exactly_is_feasible():
    env = make(4.0)
    env.reset()
    steps = [env.step(j) for j in (1, 2, 3)]
    assert [step[1] for step in steps] == [10.0, 20.0, 30.0]
    assert [step[2] for step in steps] == [False, False, True]
    solution = env.solution()
    assert (solution.objective, solution.tour.tolist()) == (60.0, [0, 1, 2, 3])


def test_nodes_out_of_reach_are_gone_from_the_instance_left():
    env = make(2.5)
    seen = env.reset()[0].reshape(5, 7)
    # Node 2 needs 2 sqrt(2) and node 4 needs 2 sqrt(2.5).
    assert seen[:, 4].tolist() == [0, 1, 0, 1, 0]
    assert not seen[[2, 4]].any()
    np.testing.assert_allclose(seen[[0, 1, 3], 3], 2.5 / 1.5, rtol=1e-6)
    np.testing.assert_allclose(seen[[0, 1, 3], 2], PRIZES[[0, 1, 3]] / 100, rtol=1e-6)
    direct = make(2.5, "direct").reset()[0].reshape(5, 7)
    np.testing.assert_allclose(direct[:, :2], FIVE, rtol=1e-6)
    np.testing.assert_allclose(direct[:, 2], PRIZES / 100, rtol=1e-6)
    assert direct[:, 4].tolist() == [1, 0, 0, 0, 0]


@pytest.mark.parametrize("mdp", ["bq", "direct"])
def test_nothing_within_reach_at_the_start_ends_with_value_zero(mdp):
    env = make(1.0, mdp)
    _, info = env.reset()
    assert np.flatnonzero(info["action_mask"]).tolist() == [0]
    with pytest.raises(ValueError, match="infeasible"):
        env.step(1)
    _, reward, terminated, truncated, _ = env.step(0)
    assert (reward, terminated, truncated) == (0.0, True, False)
    assert (env.solution().objective, env.solution().tour.tolist()) == (0.0, [0])


def test_prizes_follow_the_distance_or_are_uniform():
    tape = Orienteering(101, prizes="dist").tapes(20, 0)
    points, prizes = tape["coordinates"], tape["prizes"]
    distances = np.hypot(*(points - points[:, :1]).transpose(2, 0, 1))
    expected = 1 + np.floor(99 * distances / distances.max(axis=1, keepdims=True))
    np.testing.assert_array_equal(prizes[:, 1:], expected[:, 1:])
    assert (prizes.max(axis=1) == 100).all()
    assert set(tape["budget"]) == {4.0}
    uniform = Orienteering(101, prizes="unif").tapes(50, 0)["prizes"]
    assert not uniform[:, 0].any()
    assert (uniform[:, 1:].min(), uniform[:, 1:].max()) == (1, 99)
    assert uniform[:, 1:].mean() == pytest.approx(50, abs=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prizes": "golden"}, "prizes='golden', allowed"),
        ({"budget": -1}, "budget=-1"),
        ({"budget": np.inf}, "budget=inf"),
        (
            {"instances": {"coordinates": FIVE[None], "prizes": 1 + PRIZES[None]}},
            "depot .* prize 0",
        ),
        (
            {"budget": 2, "instances": {"coordinates": FIVE[None], "budget": [1]}},
            "has its own",
        ),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Orienteering(**arguments)
