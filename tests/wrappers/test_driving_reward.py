"""Rewards for driving around vectors: what rows pay alone, snapshots, and whole drives."""

from __future__ import annotations

import copy
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import OrderEnforcing

import palaestra  # noqa: F401  registers the environments
from palaestra.envs.driving.drivers import full_throttle, scripted_driver
from palaestra.wrappers.carl_reward import (
    AdditiveReward,
    AdditiveVectorReward,
    CaRLReward,
    CaRLVectorReward,
)
from palaestra.wrappers.sb3 import SB3VecEnv

ID = "LaneDriving-v0"
PAIRS = [(CaRLReward, CaRLVectorReward), (AdditiveReward, AdditiveVectorReward)]
ROWS = 4


@pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda mode: mode.name)
@pytest.mark.parametrize("pair", PAIRS, ids=["carl", "additive"])
@pytest.mark.parametrize("kind", ["vector_entry_point", "sync"])
def test_a_vector_pays_what_its_rows_pay_alone(pair, mode, kind):
    if kind == "sync":
        vector = gym.vector.SyncVectorEnv([partial(gym.make, ID)] * ROWS, autoreset_mode=mode)
    else:
        vector = gym.make_vec(ID, ROWS, vectorization_mode=kind, autoreset_mode=mode)
    wrapped = pair[1](vector)
    singles = [pair[0](gym.make(ID)) for _ in range(ROWS)]
    state = {"s": 285.0, "v": 12.0}  # the end of the road, then a second episode
    wrapped.reset(seed=0, options={"state": state})
    for i, env in enumerate(singles):
        env.reset(seed=i, options={"state": state})
    rng = np.random.default_rng(3)
    over, ends = np.zeros(ROWS, bool), np.zeros(2, int)
    for _ in range(80 if kind == "sync" else 110):
        actions = rng.uniform(-0.2, 0.2, (ROWS, 2)).astype(np.float32)
        actions[:, 0] += 0.7
        _, rewards, terminated, truncated, _ = wrapped.step(actions)
        for i, env in enumerate(singles):
            if over[i] and mode is AutoresetMode.NEXT_STEP:
                env.reset()
                expected = (0.0, False, False)
            else:
                expected = env.step(actions[i])[1:4]
            assert (rewards[i], terminated[i], truncated[i]) == expected
            if (expected[1] or expected[2]) and mode is AutoresetMode.SAME_STEP:
                env.reset()
        over = terminated | truncated
        ends += terminated.sum(), truncated.sum()
        if over.any() and mode is AutoresetMode.DISABLED:
            wrapped.reset(options={"reset_mask": over})
            for i in np.flatnonzero(over):
                singles[i].reset()
    assert (ends >= 2).all()


@pytest.mark.parametrize("pair", PAIRS, ids=["carl", "additive"])
def test_a_snapshot_of_the_clocks_goes_on_alike(pair):
    for env in (pair[0](gym.make(ID)), pair[1](gym.make_vec(ID, 3))):
        env.reset(seed=1)
        rows = getattr(env, "num_envs", None)
        action = np.zeros(2 if rows is None else (rows, 2), np.float32)
        action[..., 0] = 1.0
        for _ in range(30):
            env.step(action)
        arrays, generators = env.get_state()
        assert generators == []
        arrays = {name: value.copy() for name, value in arrays.items()}
        assert all(value.dtype.kind in "bif" for value in arrays.values())
        other = copy.deepcopy(env)
        other.reset(seed=5)  # its clocks are others now
        other.env.unwrapped.set_state(*env.env.unwrapped.get_state())
        other.set_state(arrays, generators)
        for _ in range(60):
            ours, theirs = env.step(action), other.step(action)
            np.testing.assert_array_equal(ours[1], theirs[1])
            if rows is None and (ours[2] or ours[3]):
                break


def test_wrappers_work_below_and_above_others():
    env = OrderEnforcing(CaRLReward(gym.make(ID)))
    assert env.spec is not None
    env.reset(seed=0)
    assert env.step(np.array([0.0, 0.0], np.float32))[1] == pytest.approx(0.5 / 300 * 100)
    vector = gym.make_vec(ID, 2, vectorization_mode="sync", wrappers=[CaRLReward])
    vector.reset(seed=0)
    np.testing.assert_allclose(vector.step(np.zeros((2, 2), np.float32))[1], 0.5 / 3)
    mode = AutoresetMode.SAME_STEP
    sb3 = SB3VecEnv(CaRLVectorReward(gym.make_vec(ID, 2, autoreset_mode=mode)))
    sb3.reset()
    np.testing.assert_allclose(sb3.step(np.zeros((2, 2), np.float32))[1], 0.5 / 3, rtol=1e-6)


def test_a_careful_driver_earns_much_and_none_more_than_the_route():
    earned = {}
    for driver in (scripted_driver, full_throttle):
        bare = gym.make_vec(ID, 8, autoreset_mode=AutoresetMode.DISABLED)
        envs = CaRLVectorReward(bare, comfort_ticks=1)
        envs.reset(seed=100)
        total, covered, going = np.zeros(8), np.zeros(8), np.ones(8, bool)
        while going.any():
            actions = driver(envs.unwrapped.state).astype(np.float32)
            _, rewards, terminated, truncated, infos = envs.step(actions)
            total += np.where(going, rewards, 0.0)
            covered = np.where(going, infos["rc"], covered)
            over = terminated | truncated
            going &= ~over
            if over.any():
                envs.reset(options={"reset_mask": over})
        earned[driver] = total
        assert (total <= covered + 1e-9).all()
    assert (earned[scripted_driver] > 50.0).all() and (earned[full_throttle] < 20.0).all()
