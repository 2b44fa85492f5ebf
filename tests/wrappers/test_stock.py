"""`StockWrapper`: a number that accounts for rewards; the environment is what it was."""

from __future__ import annotations

import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_for_sb3
from stable_baselines3.common.vec_env import DummyVecEnv

from palaestra.agents.base.snapshot import restore_env, snapshot_env
from palaestra.wrappers.stock import StockWrapper, check_stocks


def gamble(**arguments):
    return gym.make("IncomeGamble-v0", **arguments)


def play(env, steps, seed=None):
    """Observations, rewards and infos under fixed actions."""
    seen = [env.reset(seed=seed)]
    rewards = []
    for step in range(steps):
        observation, reward, *_, info = env.step(step % 2)
        seen.append((observation, info))
        rewards.append(reward)
    return seen, rewards


def test_worked_example_next_stock():
    """c = -5, r = 4, gamma 0.5: -2."""
    env = StockWrapper(gym.make("FiniteMDP-v0", P=np.ones((1, 1, 1)), low=4.0), 0.5, -5.0)
    assert env.reset()[0]["stock"] == -5
    observation, *_, info = env.step(0)
    assert observation["stock"] == info["stock"] == env.stock == -2


@pytest.mark.parametrize("gamma", [1.0, 0.9, 0.3])
def test_stock_and_return_to_come_are_one_number(gamma):
    env = StockWrapper(gamble(), gamma, 2.5)
    seen, rewards = play(env, 6, seed=3)
    stocks = [info["stock"] for _, info in seen]
    whole = stocks[0] + sum(gamma**t * r for t, r in enumerate(rewards))
    for t in range(7):
        to_come = sum(gamma**k * r for k, r in enumerate(rewards[t:]))
        assert gamma**t * (stocks[t] + to_come) == pytest.approx(whole, abs=1e-9)


def test_the_environment_is_what_it_was():
    seen, rewards = play(StockWrapper(gamble(), stock=(-3.0, 3.0)), 6, seed=5)
    plain, expected = play(gamble(), 6, seed=5)
    assert rewards == expected
    assert [o["observation"] for o, _ in seen] == [o for o, _ in plain]


def test_observations_as_a_dictionary_and_in_one_vector():
    env = StockWrapper(gamble(), stock=1.5)
    assert env.observation_space["observation"] == spaces.Discrete(2)
    assert env.observation_space.contains(env.reset(seed=0)[0])
    flat = StockWrapper(gamble(observation="onehot"), stock=1.5, concatenate=True)
    assert flat.observation_space.shape == (3,)
    observation, _ = flat.reset(seed=0)
    assert observation.tolist() == [1, 0, 1.5] and observation.dtype == np.float32
    # Those of a dictionary stay as they are.
    twice = gym.wrappers.TransformObservation(
        gamble(), lambda seen: {"state": seen}, spaces.Dict({"state": spaces.Discrete(2)})
    )
    assert set(StockWrapper(twice).reset(seed=0)[0]) == {"state", "stock"}
    with pytest.raises(ValueError, match="shows a 'stock' already"):
        StockWrapper(env)


def test_start_stocks_follow_from_the_seed():
    first, second = (StockWrapper(gamble(), stock=(-4.0, 6.0)) for _ in range(2))
    drawn = [first.reset(seed=1)[1]["stock"], *(first.reset()[1]["stock"] for _ in range(200))]
    again = [second.reset(seed=1)[1]["stock"]]
    for _ in range(200):
        second.step(0)
        again.append(second.reset()[1]["stock"])
    assert drawn == again
    assert -4 <= min(drawn) < -3 and 5 < max(drawn) <= 6
    chosen = StockWrapper(gamble(), stock=lambda rng: rng.choice([-1.0, 7.0]))
    assert {chosen.reset()[1]["stock"] for _ in range(40)} == {-1, 7}


def test_a_start_that_is_asked_for_changes_no_later_one():
    first, second = (StockWrapper(gamble(), stock=(-4.0, 6.0)) for _ in range(2))
    observation, info = first.reset(seed=2, options={"stock": 11, "state": 1})
    assert observation["stock"] == info["stock"] == 11 and observation["observation"] == 1
    second.reset(seed=2)
    assert first.reset()[1]["stock"] == second.reset()[1]["stock"]


def test_its_state_can_be_taken_and_given_back():
    """Through SB3's vector, with the environment's own."""

    def make():
        return DummyVecEnv([lambda: StockWrapper(gamble(), stock=(-4.0, 6.0))] * 2)

    env, other = make(), make()
    env.seed(7)
    env.reset()
    for _ in range(8):
        env.step(np.ones(2, int))
    state = snapshot_env(env)
    other.reset()
    restore_env(other, *state)
    for _ in range(15):
        ours, theirs = (each.step(np.ones(2, int)) for each in (env, other))
        np.testing.assert_array_equal(ours[0]["stock"], theirs[0]["stock"])
        np.testing.assert_array_equal(ours[1], theirs[1])


def test_the_checkers_accept_it():
    for env in (
        StockWrapper(gamble(), stock=(-1.0, 1.0)),
        StockWrapper(gamble(observation="onehot"), concatenate=True),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", ".*infinity|.*symmetric and normalized")
            warnings.filterwarnings("ignore", ".*different from the unwrapped version")
            check_env(env, skip_render_check=True)
            check_for_sb3(env)


def test_agents_are_told_of_another_gamma():
    env = DummyVecEnv([lambda: StockWrapper(gamble(), 0.9)])
    check_stocks(env, 0.9)
    with pytest.raises(ValueError, match="the agent has gamma=1.0, its StockWrapper 0.9"):
        check_stocks(env, 1.0)
    with pytest.raises(ValueError, match="use StockWrapper"):
        check_stocks(DummyVecEnv([gamble]), 1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"gamma": 0.0}, r"gamma=0.0 is outside \(0, 1\], where the stock is defined"),
        ({"gamma": 1.5}, "gamma=1.5"),
        ({"stock": "much"}, "stock"),
        ({"stock": (2.0, 1.0)}, r"stock=\(2.0, 1.0\) must be a number, a range"),
        ({"stock": (1.0, 2.0, 3.0)}, "must be a number, a range"),
        ({"stock": np.inf}, "stock=inf"),
        ({"concatenate": True}, r"flat Box of floats, got Discrete\(2\)"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        StockWrapper(gamble(), **arguments)


def test_a_start_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match=r"options\['stock'\]='high'"):
        StockWrapper(gamble()).reset(options={"stock": "high"})
