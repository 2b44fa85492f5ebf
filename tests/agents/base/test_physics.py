"""Physics as models: setting it row by row, and episodes in many members at once."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from numpy.testing import assert_allclose
from stable_baselines3.common.vec_env import DummyVecEnv

from palaestra.agents.base.physics import RowPhysics, play
from palaestra.wrappers.physics_family import PhysicsFamily
from palaestra.wrappers.sb3 import SB3VecEnv

PENDULUM = "TorquePendulum-v0"


class Push:
    """Pushes along with the motion."""

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return np.where(observation[:, 2:] > 0, 2.0, -2.0).astype(np.float32), state


def native(rows, **arguments):
    """A native vector, as an SB3 environment."""
    kind = {"vectorization_mode": "vector_entry_point", "autoreset_mode": AutoresetMode.SAME_STEP}
    return SB3VecEnv(gym.make_vec(PENDULUM, rows, **kind, **arguments))


def singles(rows, **arguments):
    return DummyVecEnv([lambda: gym.make(PENDULUM, **arguments)] * rows)


def synchronous(rows, **arguments):
    vector = gym.make_vec(
        PENDULUM, rows, "sync", {"autoreset_mode": AutoresetMode.SAME_STEP}, **arguments
    )
    return SB3VecEnv(vector)


@pytest.mark.parametrize("make", [native, singles, synchronous])
def test_every_row_has_its_own_physics(make) -> None:
    env = make(3, gravity=5.0)
    env.reset()
    physics = RowPhysics(env)
    rows = [{"mass": 2.0, "length": 0.5}, {"mass": 0.5, "length": 1.0}]
    for _ in range(2):  # as factors of the original: twice changes nothing
        physics.put([*rows, {"mass": 1.0, "length": 1.5}])
    if make is native:
        tasks = [env.vector.unwrapped]
    else:
        tasks = [each.unwrapped for each in (env.envs if make is singles else env.vector.envs)]
    found = {name: np.hstack([task.physics[name] for task in tasks]) for name in tasks[0].physics}
    assert_allclose(found["mass"], [2.0, 0.5, 1.0])
    assert_allclose(found["length"], [0.5, 1.0, 1.5])
    assert_allclose(found["gravity"], 5.0)
    assert physics.spec.id == PENDULUM and physics.spec.kwargs["gravity"] == 5.0


def test_episodes_of_many_members_are_those_of_each_alone() -> None:
    family = PhysicsFamily(PENDULUM, {"mass": (0.5, 2.0)}, max_steps=30)
    members, seeds = family.grid(3), [4, 9]
    found = play(Push(), family, members, seeds)
    assert found.steps == 3 * 2 * 30 and found.starts.shape == (3, 2, 3)
    for row, member in enumerate(members):
        for column, seed in enumerate(seeds):
            env, total, cut = family.make(member), 0.0, False
            seen, _ = env.reset(seed=seed)
            while not cut:
                seen, reward, _, cut, _ = env.step(Push().predict(seen[None])[0][0])
                total += reward
            assert found.returns[row, column] == pytest.approx(total)
    assert_allclose(found.discounted, found.returns)
    assert (found.starts[0] == found.starts[2]).all()


def test_physics_out_of_reach_is_refused() -> None:
    with pytest.raises(ValueError, match="no physics that could be changed"):
        RowPhysics(DummyVecEnv([lambda: gym.make("Pendulum-v1")]))
