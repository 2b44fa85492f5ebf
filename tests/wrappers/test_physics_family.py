"""`PhysicsFamily`: a box of physics, its members, and the two sides of a game about it."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from palaestra.wrappers.physics_family import PhysicsFamily
from palaestra.wrappers.physics_shift import PhysicsShift

PENDULUM = "TorquePendulum-v0"
BOX = {"mass": (0.5, 2.0), "length": (0.5, 1.5)}


def push(observation):
    """Pushes along with the motion."""
    return np.array([2.0 if observation[2] > 0 else -2.0], np.float32)


def test_the_grid_spans_the_box_last_name_fastest():
    family = PhysicsFamily(PENDULUM, BOX)
    grid = family.grid(5)
    assert len(grid) == 25
    assert grid[0] == {"mass": 0.5, "length": 0.5} and grid[-1] == {"mass": 2.0, "length": 1.5}
    assert [point["length"] for point in grid[:5]] == [0.5, 0.75, 1.0, 1.25, 1.5]
    assert len(family.grid({"mass": 2, "length": 3})) == 6
    assert PhysicsFamily(PENDULUM, {**BOX, "mass": (1.0, 1.0)}).grid(4)[0]["mass"] == 1.0
    assert len(PhysicsFamily(PENDULUM, {**BOX, "mass": (1.0, 1.0)}).grid(4)) == 4


def test_points_and_parameters_are_each_others_inverse():
    family = PhysicsFamily(PENDULUM, {**BOX, "gravity": (1.0, 1.0)})
    assert family.from_unit([-1, 1, 0]) == {"mass": 0.5, "length": 1.5, "gravity": 1.0}
    assert family.from_unit([0.0, 0.5, 1.0]) == {"mass": 1.25, "length": 1.25, "gravity": 1.0}
    rng = np.random.default_rng(0)
    for _ in range(20):
        member = family.sample(rng)
        back = family.from_unit(family.to_unit(member))
        np.testing.assert_allclose(list(back.values()), list(member.values()), rtol=1e-6)


def test_samples_fill_the_box():
    family, rng = PhysicsFamily(PENDULUM, BOX), np.random.default_rng(0)
    masses = np.array([family.sample(rng)["mass"] for _ in range(500)])
    assert masses.min() >= 0.5 and masses.max() <= 2.0
    np.testing.assert_allclose(masses.mean(), 1.25, atol=0.06)


def test_a_member_has_its_physics_and_the_rest_as_it_was():
    family = PhysicsFamily(PENDULUM, BOX, gravity=5.0)
    env = family.make({"mass": 2.0}, max_steps=3)
    assert env.unwrapped.physics == {"gravity": 5.0, "mass": 2.0, "length": 1.0}
    assert env.unwrapped.core.horizon == 3
    assert family.observation_space == env.observation_space


def test_where_the_original_is_outside_the_box_the_nearest_end_is_nominal():
    family = PhysicsFamily(PENDULUM, {"mass": (1.5, 2.0)})
    assert family.nominal == {"mass": 1.5}
    assert family.make().params["mass"] == 1.5


@pytest.mark.parametrize("mode", list(AutoresetMode)[:2])
def test_a_native_vector_is_a_vector_of_its_members(mode):
    family = PhysicsFamily(PENDULUM, BOX, max_steps=6, gravity=9.0)
    grid = family.grid(3)
    native = family.make_vec(grid, mode)
    assert not isinstance(native.unwrapped, SyncVectorEnv)
    sync = SyncVectorEnv([lambda p=p: family.make(p) for p in grid], autoreset_mode=mode)
    np.testing.assert_array_equal(native.reset(seed=2)[0], sync.reset(seed=2)[0])
    native.action_space.seed(0)
    for _ in range(15):
        actions = native.action_space.sample()
        for ours, theirs in zip(native.step(actions)[:4], sync.step(actions)[:4], strict=True):
            np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(native.unwrapped.physics["gravity"], 9.0)


def test_noise_on_actions_makes_the_vector_one_of_wrapped_environments():
    family = PhysicsFamily(PENDULUM, {"mass": (0.5, 2.0), "action_noise": (0.0, 1.0)})
    vector = family.make_vec(family.grid(2))
    assert isinstance(vector, SyncVectorEnv) and vector.num_envs == 4
    infos = vector.reset(seed=0)[1]
    np.testing.assert_array_equal(infos["physics"]["action_noise"], [0.0, 1.0, 0.0, 1.0])


def test_a_random_member_for_every_episode():
    env = PhysicsFamily(PENDULUM, BOX).make_random()
    found = [env.reset(seed=i)[1]["physics"] for i in range(50)]
    assert len({physics["mass"] for physics in found}) == 50
    assert all(0.5 <= physics["length"] <= 1.5 for physics in found)


def test_mujoco_members():
    pytest.importorskip("mujoco")
    family = PhysicsFamily("InvertedPendulum-v5", {"mass": (0.5, 2.0), "wind": (-1.0, 1.0)})
    assert family.nominal == {"mass": 1.0, "wind": 0.0}
    vector = family.make_vec([{}, {"mass": 2.0, "wind": 0.5}])
    vector.reset(seed=0)
    models = [env.unwrapped.model for env in vector.envs]
    np.testing.assert_allclose(models[1].body_mass, 2 * models[0].body_mass)
    assert models[1].opt.gravity[0] == 0.5


def test_a_missing_mujoco_gives_one_line_that_names_the_extra(monkeypatch):
    def missing(*args, **kwargs):
        raise gym.error.DependencyNotInstalled("MuJoCo is not installed")

    def no_module(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(gym, "make", missing)
    monkeypatch.setattr("importlib.import_module", no_module)
    with pytest.raises(ImportError, match=r'pip install "palaestra\[mujoco\]"'):
        PhysicsFamily("Hopper-v5", {"mass": (0.5, 2.0)})


def test_a_function_may_make_the_members():
    def make(**arguments):
        return gym.make(PENDULUM, **arguments)

    family = PhysicsFamily(make, BOX, max_steps=4)
    assert family.make({"length": 0.5}).unwrapped.physics["length"] == 0.5
    assert isinstance(family.make_vec(family.grid(2)), SyncVectorEnv)


# -- the game --------------------------------------------------------------------------------------


def test_the_adversary_sets_the_physics_of_the_next_step_and_gets_what_is_lost():
    family = PhysicsFamily(PENDULUM, BOX)
    game, plain = family.make_adversary(push), gym.make(PENDULUM)
    seen, _ = game.reset(seed=3)
    expected, _ = plain.reset(seed=3)
    assert game.action_space == family.space and game.observation_space == plain.observation_space
    for point in ([-1, -1], [1, 0], [0.2, 1]):
        plain.unwrapped.set_params(**family.from_unit(point))
        action = push(expected)
        seen, reward, *_, info = game.step(np.array(point, np.float32))
        expected, cost, *_ = plain.step(action)
        np.testing.assert_allclose(seen, expected, atol=1e-6)
        np.testing.assert_allclose(reward, -cost, rtol=1e-6)
        np.testing.assert_allclose(info["physics"]["mass"], family.from_unit(point)["mass"])
    _, info = game.reset()
    assert info["physics"] == {**game.shifted.nominal}


def test_both_faces_play_the_same_game():
    family = PhysicsFamily(PENDULUM, BOX)

    def heavy_when_slow(observation):
        return np.array([1.0 if abs(observation[2]) < 1 else -1.0, 0.5], np.float32)

    left, right = family.make_adversary(push), family.make_against(heavy_when_slow)
    seen, _ = left.reset(seed=1)
    other, _ = right.reset(seed=1)
    for step in range(200):
        seen, reward, _, truncated, _ = left.step(heavy_when_slow(seen))
        other, other_reward, _, other_truncated, _ = right.step(push(other))
        np.testing.assert_array_equal(seen, other)
        assert reward == -other_reward and truncated == other_truncated == (step == 199)


def test_an_adversary_of_one_point_is_the_member_there():
    family = PhysicsFamily(PENDULUM, BOX)
    point = np.array([0.5, -0.25], np.float32)
    against, member = family.make_against(lambda seen: point), family.make(family.from_unit(point))
    seen, _ = against.reset(seed=0)
    expected, _ = member.reset(seed=0)
    for _ in range(20):
        np.testing.assert_array_equal(seen, expected)
        seen, expected = against.step(push(seen))[0], member.step(push(expected))[0]


class Alternating:
    """An agent with a memory: turns from side to side within an episode."""

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        assert episode_start.tolist() == [state is None] and deterministic
        side = 1.0 if state is None else -state
        return np.array([side, side], np.float32), side


def test_an_agent_with_a_memory_may_play():
    env = PhysicsFamily(PENDULUM, BOX).make_against(Alternating())
    for seed in (0, None):
        env.reset(seed=seed)
        masses = [env.step(np.zeros(1, np.float32))[4]["physics"]["mass"] for _ in range(3)]
        assert masses == [2.0, 0.5, 2.0]


def test_sb3_can_learn_to_be_the_adversary():
    from stable_baselines3 import A2C
    from stable_baselines3.common.env_checker import check_env

    family = PhysicsFamily(PENDULUM, BOX, max_steps=10)
    game = family.make_adversary(push)
    check_env(game)
    adversary = A2C("MlpPolicy", game, n_steps=8, seed=0, device="cpu").learn(16)
    env = family.make_against(adversary)
    env.reset(seed=0)
    physics = env.step(np.zeros(1, np.float32))[4]["physics"]
    assert 0.5 <= physics["mass"] <= 2.0 and isinstance(env.env, PhysicsShift)


# -- wrong input -----------------------------------------------------------------------------------


def test_wrong_families_are_refused():
    with pytest.raises(ValueError, match="ranges is empty"):
        PhysicsFamily(PENDULUM, {})
    with pytest.raises(ValueError, match="no parameter 'friction'"):
        PhysicsFamily(PENDULUM, {"friction": (0.5, 1.0)})
    with pytest.raises(ValueError, match="low <= high"):
        PhysicsFamily(PENDULUM, {"mass": (2.0, 1.0)})
    with pytest.raises(ValueError, match="mass=30.0 is outside"):
        PhysicsFamily(PENDULUM, {"mass": (1.0, 30.0)})


def test_wrong_members_are_refused():
    family = PhysicsFamily(PENDULUM, BOX)
    with pytest.raises(ValueError, match="mass=2.5 must be a number from 0.5 to 2"):
        family.make({"mass": 2.5})
    with pytest.raises(ValueError, match=r"no parameter 'gravity', its parameters are \('mass'"):
        family.make({"gravity": 1.0})
    with pytest.raises(ValueError, match="members is empty"):
        family.make_vec([])
    with pytest.raises(ValueError, match="points of mass=1 must be an integer of at least 2"):
        family.grid(1)
    with pytest.raises(ValueError, match="must name the parameters"):
        family.grid({"mass": 2})


@pytest.mark.parametrize("point", [[2.0, 0.0], [0.0], [np.nan, 0.0]])
def test_points_outside_the_space_are_refused(point):
    family = PhysicsFamily(PENDULUM, BOX)
    with pytest.raises(ValueError, match="action"):
        family.from_unit(point)
    game = family.make_adversary(push)
    game.reset(seed=0)
    with pytest.raises(ValueError, match="action"):
        game.step(np.array(point))


def test_a_player_must_be_a_policy():
    with pytest.raises(ValueError, match="3 is no policy"):
        PhysicsFamily(PENDULUM, BOX).make_adversary(3)
