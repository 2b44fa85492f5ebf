import gymnasium as gym
import numpy as np
import pytest

from palaestra.envs.routing.knapsack import Knapsack

VALUES = np.array([60.0, 100, 120, 10])
WEIGHTS = np.array([10.0, 20, 30, 51])


def make(capacity=50.0, mdp="bq"):
    instances = {"values": VALUES[None], "weights": WEIGHTS[None], "capacity": [capacity]}
    return gym.make("Knapsack-v0", disable_env_checker=True, mdp=mdp, instances=instances).unwrapped


@pytest.mark.parametrize("mdp", ["bq", "direct"])
def test_items_are_taken_while_they_fit(mdp):
    env = make(mdp=mdp)
    _, info = env.reset()
    assert info["action_mask"].tolist() == [True, True, True, False]
    steps = [env.step(i) for i in (2, 1)]
    assert [step[1] for step in steps] == [120.0, 100.0]
    assert steps[0][4]["action_mask"].tolist() == [True, True, False, False]
    assert [step[2] for step in steps] == [False, True]
    assert env.solution().objective == 220.0
    assert env.solution().items.tolist() == [2, 1]


def test_observation_of_both_views():
    env, direct = make(), make(mdp="direct")
    for face in (env, direct):
        face.reset()
    seen = env.step(2)[0].reshape(4, 4)
    expected = np.zeros((4, 4))
    expected[:2] = np.column_stack([VALUES, WEIGHTS, np.full(4, 20.0), np.full(4, 1e3)])[:2] / 1e3
    np.testing.assert_allclose(seen, expected, rtol=1e-6)
    seen = direct.step(2)[0].reshape(4, 4)
    expected = np.column_stack([VALUES, WEIGHTS, np.full(4, 50.0), [0, 0, 1e3, 0]]) / 1e3
    np.testing.assert_allclose(seen, expected, rtol=1e-6)


def test_infeasible_items_are_refused():
    env = make()
    env.reset()
    with pytest.raises(ValueError, match="item 3 weighs 51, above the capacity left, 50"):
        env.step(3)
    env.step(0)
    with pytest.raises(ValueError, match="item 0 has been taken"):
        env.step(0)


@pytest.mark.parametrize("mdp", ["bq", "direct"])
def test_nothing_that_fits_at_the_start_ends_with_value_zero(mdp):
    env = make(5.0, mdp)
    _, info = env.reset()
    assert np.flatnonzero(info["action_mask"]).tolist() == [0]
    with pytest.raises(ValueError, match="item 1 weighs 20"):
        env.step(1)
    _, reward, terminated, truncated, _ = env.step(0)
    assert (reward, terminated, truncated) == (0.0, True, False)
    assert (env.solution().objective, len(env.solution().items)) == (0.0, 0)


def test_generated_items_follow_the_law():
    core = Knapsack(200)
    tape = core.tapes(30, 0)
    assert set(tape["capacity"]) == {25_000.0}
    for name in ("values", "weights"):
        assert (tape[name] == np.rint(tape[name])).all()
        assert (tape[name].min(), tape[name].max()) == (1, 998)
        assert tape[name].mean() == pytest.approx(499.5, abs=10)
    assert Knapsack(8).capacity == 1_000.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"items": 0}, "items=0, allowed are the integers from 1"),
        ({"capacity": -1}, "capacity=-1"),
        ({"instances": {"values": VALUES[None]}}, r"missing ones \['weights'\]"),
        ({"instances": {"values": VALUES[None], "weights": -WEIGHTS[None]}}, "negative"),
        ({"instances": {"values": VALUES[None], "weights": WEIGHTS[None, :3]}}, "shape"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Knapsack(**arguments)
