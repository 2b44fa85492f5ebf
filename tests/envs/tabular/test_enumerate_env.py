"""`FiniteMDP.from_env`: tables of small environments, and what has none."""

from __future__ import annotations

import threading

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit, TransformObservation, TransformReward
from scipy.optimize import linprog

import palaestra  # noqa: F401  (registers the environments)
from palaestra.envs.tabular.finite_mdp import FiniteMDP

LEFT, RIGHT = 0, 1


class Line(gym.Env):
    """Cells 0 .. 4 in a row; the right end pays 1. Subclasses change one thing each."""

    observation_space: gym.Space = spaces.Discrete(5)
    action_space: gym.Space = spaces.Discrete(2)

    def __init__(self):
        self.place = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = self.first()
        return self.seen(), {}

    def first(self):
        return 1

    def seen(self):
        return self.place

    def step(self, action):
        self.place += 1 if action == RIGHT else -(self.place > 0)
        return self.seen(), float(self.place == 4), self.place == 4, False, {}


class Drifting(Line):
    """The generator of the environment moves it."""

    def step(self, action):
        return super().step(int(self.np_random.integers(2)))


class Forgetful(Line):
    """Cells 1 and 3 look alike."""

    def seen(self):
        return {3: 1}.get(self.place, self.place)


class Leaving(Line):
    """One may leave from any cell, and stays in it."""

    def step(self, action):
        if action == LEFT:
            return self.seen(), 0.25, True, False, {}
        return super().step(action)


class Shifted(Line):
    """Spaces that do not begin at 0."""

    observation_space = spaces.Discrete(5, start=10)
    action_space = spaces.Discrete(2, start=-1)

    def seen(self):
        return 10 + self.place

    def step(self, action):
        return super().step(action + 1)


class Anywhere(Line):
    """Starts in cell 0 or 3."""

    def first(self):
        return 3 * int(self.np_random.integers(2))


class Cutting(Line):
    """Cuts its episodes itself."""

    def step(self, action):
        return (*super().step(action)[:3], True, {})


class Escaping(Line):
    """An observation outside the space."""

    def seen(self):
        return 2 * self.place + 3


class Locked(Line):
    """Holds something that cannot be copied."""

    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()


class Shown(Line):
    """Shows a model in which one step pays one of several rewards."""

    def __init__(self, rewards=(1.0, 2.0)):
        super().__init__()
        share = 1 / len(rewards)
        pays = [(share, 4, reward, True) for reward in rewards]
        self.P = {s: {0: [(1.0, s, 0.0, False)], 1: pays} for s in range(5)}


def optimal_values(P, gamma):
    """Optimal values of an environment's own model, as a linear programme."""
    states = len(P)
    rows, bounds = [], []
    for state in range(states):
        for action in range(len(P[state])):
            row, reward = np.zeros(states), 0.0
            row[state] -= 1
            for p, target, paid, ends in P[state][action]:
                row[target] += gamma * p * (not ends)
                reward += p * paid
            rows.append(row)
            bounds.append(-reward)
    result = linprog(np.ones(states), np.array(rows), np.array(bounds), bounds=(None, None))
    assert result.success
    return result.x


# -- models that environments show ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arguments", "tolerance"),
    [
        ("FrozenLake-v1", {}, 1e-9),
        ("FrozenLake-v1", {"map_name": "8x8", "is_slippery": False}, 1e-9),
        ("FrozenLake8x8-v1", {}, 1e-9),
        ("CliffWalking-v1", {}, 1e-7),
        ("CliffWalkingSlippery-v1", {}, 1e-7),
    ],
)
def test_optimal_values_are_those_of_a_linear_programme(name, arguments, tolerance):
    env = gym.make(name, **arguments)
    core = FiniteMDP.from_env(env)
    values, _ = core.plan(0.95)
    expected = optimal_values(env.unwrapped.P, 0.95)
    going = core.P[0, :, :, :].max(axis=(1, 2)) < 1  # states that one can leave
    start = np.flatnonzero(core.d0)
    assert values[start] == pytest.approx(expected[start], abs=tolerance)
    known = going & ~np.isin(np.arange(core.states), core.terminal_states)
    np.testing.assert_allclose(values[known], expected[known], atol=tolerance)
    np.testing.assert_array_equal(core.d0, env.unwrapped.initial_state_distrib)
    assert core.max_steps == env.spec.max_episode_steps


def test_frozen_lake_plays_as_often_to_the_goal_as_its_tables():
    env = gym.make("FrozenLake-v1")
    core = FiniteMDP.from_env(env)
    assert core.terminal_states == (5, 7, 11, 12, 15)
    policy = core.plan(0.99).policy
    n, wins, lengths = 400, 0, []
    for seed in range(n):
        state, _ = env.reset(seed=seed)
        over, steps = False, 0
        while not over:
            state, reward, terminated, truncated, _ = env.step(int(policy[state]))
            over, steps = terminated or truncated, steps + 1
        wins += reward
        lengths.append(steps)
    vector = gym.make_vec(
        "FiniteMDP-v0", num_envs=2000, vectorization_mode="vector_entry_point", **core.tables()
    )
    states, _ = vector.reset(seed=0)
    total, length, going = np.zeros(2000), np.zeros(2000), np.ones(2000, bool)
    for _ in range(100):
        states, rewards, terminations, truncations, _ = vector.step(policy[states])
        total += rewards * going
        length += going
        going &= ~(terminations | truncations)
    assert not going.any()
    share = total.mean()
    assert wins / n == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / n))
    assert np.mean(lengths) == pytest.approx(length.mean(), abs=4 * length.std() / np.sqrt(n))


@pytest.mark.parametrize("name", ["CliffWalking-v1", "Taxi-v4"])
def test_deterministic_environments_are_replayed_exactly(name):
    env = gym.make(name)
    tables = gym.make("FiniteMDP-v0", **FiniteMDP.from_env(env).tables())
    rng = np.random.default_rng(0)
    ends = 0
    for seed in range(5):
        state, _ = env.reset(seed=seed)
        tables.reset(options={"state": int(state)})
        policy = tables.unwrapped.plan(0.9).policy
        for _ in range(200):
            random = rng.random() < 0.3
            action = int(rng.integers(env.action_space.n)) if random else int(policy[state])
            expected = env.step(action)[:4]
            assert tables.step(action)[:4] == expected
            state = expected[0]
            if expected[2] or expected[3]:
                ends += expected[2]
                break
    assert ends > 0


def test_taxi_starts_where_taxi_starts():
    core = FiniteMDP.from_env(gym.make("Taxi-v4"))
    assert (core.d0 > 0).sum() == 300 and core.d0.max() == pytest.approx(1 / 300)
    assert len(core.terminal_states) == 4 and core.max_steps == 200
    # At best the passenger is where the taxi is and wants to go four cells down.
    assert core.plan(1.0).values[core.d0 > 0].max() == 20 - 1 - 4


def test_slippery_cliff_pays_one_of_two_rewards_where_it_does():
    """At the start both a wall and the cliff lead back to it, for -1 and for -100."""
    core = FiniteMDP.from_env(gym.make("CliffWalkingSlippery-v1"))
    start = int(core.d0.argmax())
    down = 2
    assert core.P[0, start, down, start] == pytest.approx(1.0)
    assert core.R[0, start, down] == pytest.approx((-1 - 1 - 100) / 3)
    n = 3000
    tape = core.tapes(n, 0)
    state, actions = core.initial(tape), np.full(n, down)
    rewards = core.reward(state, actions, core.transition(state, actions, tape))
    assert sorted(set(rewards.tolist())) == [-100.0, -1.0]
    assert (rewards == -100).mean() == pytest.approx(1 / 3, abs=0.03)


def test_a_finite_mdp_is_taken_as_it_is():
    env = gym.make("GridWorld-v0", layout="key_door", size=5, slip=0.1, observation="planes")
    core = FiniteMDP.from_env(TimeLimit(env, 30))
    np.testing.assert_array_equal(core.P, env.unwrapped.P)
    np.testing.assert_array_equal(core.R, env.unwrapped.R)
    assert core.max_steps == 30 and core.observation_space == spaces.Discrete(50)
    assert core.terminal_states == (24, 49) and core.gamma == 0.99
    bandit = FiniteMDP.from_env(gym.make("BernoulliBandit-v0", p=0.3), gamma=0.5)
    assert bandit.horizon == 1 and bandit.gamma == 0.5
    assert bandit.R[0, 0] == pytest.approx([0.7, 0.3])


def test_two_rewards_for_a_step_are_kept_and_three_are_refused():
    core = FiniteMDP.from_env(Shown())
    assert core.R[0, 1, 1] == pytest.approx(1.5) and core.terminal_states == (4,)
    with pytest.raises(
        ValueError, match=r"action 1 from state 1 to 4 pays one of \[1.0, 2.0, 3.0\]"
    ):
        FiniteMDP.from_env(Shown((1.0, 2.0, 3.0)))


# -- environments that are explored --------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arguments"), [("FrozenLake-v1", {"is_slippery": False}), ("CliffWalking-v1", {})]
)
def test_exploring_finds_the_model_that_the_environment_shows(name, arguments):
    env = gym.make(name, **arguments)
    shown = FiniteMDP.from_env(env)
    # Behind this wrapper the model says nothing of the rewards.
    explored = FiniteMDP.from_env(TransformReward(env, lambda reward: 3 * reward))
    np.testing.assert_array_equal(explored.P, shown.P)
    np.testing.assert_array_equal(explored.R, 3 * shown.R)
    np.testing.assert_array_equal(explored.d0, shown.d0)
    assert explored.terminal_states == shown.terminal_states
    assert explored.max_steps == shown.max_steps


def test_a_line_becomes_a_table():
    env = Line()
    env.reset(seed=0)
    env.step(RIGHT)
    core = FiniteMDP.from_env(TimeLimit(env, 9), observation="onehot", gamma=0.9)
    assert env.place == 2  # the environment itself was not touched
    values, policy = core.plan(0.9)
    assert values == pytest.approx([0.9**3, 0.9**2, 0.9, 1, 0])
    assert core.terminal_states == (4,) and core.d0.tolist() == [0, 1, 0, 0, 0]
    assert core.max_steps == 9 and core.observation_space.shape == (5,)


def test_exploring_goes_beyond_a_time_limit():
    core = FiniteMDP.from_env(TimeLimit(Line(), 1))
    assert core.P[0, 3, RIGHT, 4] == 1 and core.max_steps == 1


def test_spaces_need_not_begin_at_zero():
    core = FiniteMDP.from_env(Shifted())
    assert core.plan(0.5).values == pytest.approx([1 / 8, 1 / 4, 1 / 2, 1, 0])


def test_the_start_law_is_estimated_from_resets():
    core = FiniteMDP.from_env(Anywhere(), resets=400)
    assert core.d0[[0, 3]] == pytest.approx([0.5, 0.5], abs=0.1) and core.d0.sum() == 1
    exact = np.mean([np.random.default_rng(seed).integers(2) for seed in range(7, 12)])
    assert FiniteMDP.from_env(Anywhere(), resets=5, seed=7).d0[3] == pytest.approx(exact)


def test_a_state_that_ends_the_task_on_some_ways_in_only_gets_a_twin():
    core = FiniteMDP.from_env(Leaving())
    assert core.states == 5 + 3  # one may leave from 1, 2 and 3, and stays there
    assert core.terminal_states == (4, 5, 6, 7)
    assert core.P[0, 2, LEFT, 6] == 1 and core.R[0, 2, LEFT] == 0.25
    assert core.plan(0.5).values[:5] == pytest.approx([0, 0.25, 0.5, 1, 0])
    assert core.R[0, 0].tolist() == [0, 0]  # cell 0 is never reached


# -- what cannot be enumerated -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gym.make("CartPole-v1"), "the observation space is Box.*tables need Discrete"),
        (lambda: gym.make("Blackjack-v1"), "the observation space is Tuple"),
        (lambda: gym.make("InventoryNet-v0"), "space is Box"),
        (lambda: gym.make("Taxi-v4", fickle_passenger=True), "fickle passengers"),
        (Drifting, "Drifting: action . in state . leads to state . .* its steps are random"),
        (Forgetful, "depend on more than the observation"),
        (Cutting, "Cutting cuts its episodes itself"),
        (Escaping, r"observation 5 is outside Discrete\(5\)"),
        (Locked, "Locked cannot be copied"),
        (
            lambda: TransformReward(gym.make("FrozenLake-v1"), lambda reward: -reward),
            "its steps are random",
        ),
        (
            lambda: TransformReward(gym.make("GridWorld-v0", slip=0.5), lambda reward: -reward),
            "its steps are random",
        ),
        (
            lambda: TransformObservation(Line(), lambda place: [place], spaces.MultiDiscrete([5])),
            "the observation space is MultiDiscrete",
        ),
    ],
)
def test_what_cannot_be_enumerated_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        FiniteMDP.from_env(make())


def test_too_many_states_and_bad_numbers_are_refused():
    env = gym.make("Taxi-v4")
    with pytest.raises(
        ValueError, match="500 states, more than max_states=100; .* take 12 MB each"
    ):
        FiniteMDP.from_env(env, max_states=100)
    with pytest.raises(ValueError, match="resets=0 must be an integer of at least 1"):
        FiniteMDP.from_env(Line(), resets=0)
    holes = Shown()
    del holes.P[3]
    with pytest.raises(ValueError, match="P has no entry for state 3, action 0"):
        FiniteMDP.from_env(holes)
