"""`PhysicsShift`: other physics than an environment was made with, and the original one again."""

from __future__ import annotations

import copy
import pickle
from functools import partial

import gymnasium as gym
import numpy as np
import pytest

from palaestra.wrappers.physics_shift import PhysicsShift

PENDULUM = "TorquePendulum-v0"


def episode(env, steps=30, seed=0, actions=None, **reset):
    """Observations of an episode under actions drawn from `seed`."""
    env.action_space.seed(seed)
    seen = [env.reset(seed=seed, **reset)[0]]
    for step in range(steps):
        action = env.action_space.sample() if actions is None else actions[step]
        seen.append(env.step(action)[0])
    return np.array(seen)


def mujoco_env(name="Hopper-v5", **arguments):
    pytest.importorskip("mujoco")
    return gym.make(name, **arguments)


def arrays_of(model):
    """All numbers of a MuJoCo model."""
    found = {
        name: getattr(model, name).copy()
        for name in dir(model)
        if not name.startswith("_") and isinstance(getattr(model, name), np.ndarray)
    }
    return {**found, "opt.gravity": model.opt.gravity.copy()}


def assert_same_arrays(left, right, but=()):
    for name in left.keys() - set(but):
        np.testing.assert_array_equal(left[name], right[name], err_msg=name)


# -- MuJoCo ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Hopper-v5", "InvertedPendulum-v5", "Ant-v5", "Reacher-v5"])
def test_ones_change_nothing(name):
    env = PhysicsShift(mujoco_env(name), gravity=1.0, mass=1.0)
    expected = episode(mujoco_env(name))
    np.testing.assert_array_equal(episode(env), expected)


def test_each_factor_goes_to_its_arrays_and_compounds_with_nothing():
    env = PhysicsShift(mujoco_env("Ant-v5"))
    model = env.unwrapped.model
    before = arrays_of(model)
    for _ in range(2):
        env.set_params(gravity=2.0, friction=0.3, mass=1.5, damping=0.5, wind=-3.0)
        after = arrays_of(model)
        np.testing.assert_array_equal(after["opt.gravity"], [-3.0, 0.0, -19.62])
        np.testing.assert_array_equal(after["geom_friction"], 0.3 * before["geom_friction"])
        np.testing.assert_array_equal(after["body_mass"], 1.5 * before["body_mass"])
        np.testing.assert_array_equal(after["body_inertia"], 1.5 * before["body_inertia"])
        np.testing.assert_array_equal(after["dof_damping"], 0.5 * before["dof_damping"])
        np.testing.assert_allclose(
            after["body_subtreemass"], 1.5 * before["body_subtreemass"], rtol=1e-12
        )
    derived = ("body_subtreemass", "body_invweight0", "dof_invweight0", "dof_M0", "actuator_acc0")
    set_ones = ("opt.gravity", "geom_friction", "body_mass", "body_inertia", "dof_damping")
    assert_same_arrays(before, arrays_of(model), but=(*derived, *set_ones))
    env.set_params(gravity=1.0, friction=1.0, mass=1.0, damping=1.0, wind=0.0)
    assert_same_arrays(before, arrays_of(model))


def test_a_shifted_mass_is_that_of_a_model_compiled_with_it():
    mujoco = pytest.importorskip("mujoco")
    xml = """<mujoco><option timestep="0.01"/><worldbody>
      <geom type="plane" size="5 5 1"/>
      <body pos="0 0 1"><joint type="slide" axis="0 0 1" armature="0.1"/>
        <joint type="hinge" axis="0 1 0" damping="0.1"/>
        <geom type="capsule" fromto="0 0 0 0.6 0 -0.2" size="0.1" density="{density}"/></body>
      </worldbody></mujoco>"""

    class Falling(gym.Env):
        observation_space = gym.spaces.Box(-np.inf, np.inf, (4,))
        action_space = gym.spaces.Box(-1, 1, (1,))

        def __init__(self, density):
            self.model = mujoco.MjModel.from_xml_string(xml.format(density=density))
            self.data = mujoco.MjData(self.model)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            mujoco.mj_resetData(self.model, self.data)
            return np.concatenate([self.data.qpos, self.data.qvel]), {}

        def step(self, action):
            mujoco.mj_step(self.model, self.data)
            return np.concatenate([self.data.qpos, self.data.qvel]), 0.0, False, False, {}

    shifted = episode(PhysicsShift(Falling(1000.0), mass=2.5), 200)
    np.testing.assert_allclose(shifted, episode(Falling(2500.0), 200), rtol=1e-7, atol=1e-9)
    assert np.abs(shifted - episode(Falling(1000.0), 200)).max() > 1e-2


def test_gravity_and_wind_move_a_falling_hopper_whatever_its_mass():
    mujoco = pytest.importorskip("mujoco")
    env = mujoco_env("Hopper-v5", terminate_when_unhealthy=False)
    model, data = env.unwrapped.model, env.unwrapped.data

    def gain(**params):
        """Acceleration of the centre of mass in the first step of a fall, (x, z)."""
        shifted = PhysicsShift(env, mass=3.0, **params)
        shifted.reset(seed=0)
        data.qpos[1] += 10.0  # high above the ground
        data.qvel[:] = 0.0
        shifted.step(np.zeros(3, np.float32))
        mujoco.mj_subtreeVel(model, data)
        return data.subtree_linvel[1][[0, 2]] / data.time

    # Armature and joint springs of the model take a share that does not depend on the two.
    rest = gain(gravity=0.0)
    np.testing.assert_allclose(gain() - rest, [0.0, -9.81], atol=0.1)
    np.testing.assert_allclose(gain(gravity=2.0) - rest, [0.0, -19.62], atol=0.2)
    np.testing.assert_allclose(gain(gravity=0.0, wind=5.0) - rest, [5.0, 0.0], atol=0.1)


def test_the_next_episode_and_close_bring_the_physics_back():
    env = PhysicsShift(mujoco_env(), friction=0.5)
    model = env.unwrapped.model
    original = env.unwrapped.original_physics["geom_friction"]
    _, info = env.reset(seed=0, options={"physics": {"mass": 2.0}})
    assert info["physics"]["mass"] == 2.0 and info["physics"]["friction"] == 0.5
    env.perturb(friction=0.1, wind=4.0)
    *_, info = env.step(env.action_space.sample())
    assert info["physics"] == {
        "gravity": 1.0,
        "friction": 0.1,
        "mass": 2.0,
        "damping": 1.0,
        "wind": 4.0,
        "action_noise": 0.0,
    }
    env.reset()
    assert env.params == {**env.nominal, "friction": 0.5}
    np.testing.assert_array_equal(model.geom_friction, 0.5 * original)
    env.close()
    np.testing.assert_array_equal(model.geom_friction, original)
    np.testing.assert_array_equal(model.opt.gravity, [0.0, 0.0, -9.81])


def test_a_second_wrapper_finds_the_original():
    env = mujoco_env()
    mass = env.unwrapped.model.body_mass.copy()
    PhysicsShift(env, mass=2.0)
    PhysicsShift(env, mass=3.0)
    np.testing.assert_array_equal(env.unwrapped.model.body_mass, 3.0 * mass)


def test_copies_of_a_mujoco_environment_keep_the_shift():
    env = PhysicsShift(mujoco_env(), gravity=2.0, action_noise=0.1)
    env.reset(seed=0)
    expected = episode(env)
    for other in (pickle.loads(pickle.dumps(env)), copy.deepcopy(env)):
        np.testing.assert_array_equal(other.unwrapped.model.opt.gravity, [0.0, 0.0, -19.62])
        np.testing.assert_array_equal(episode(other), expected)


def test_a_vector_of_shifted_environments():
    pytest.importorskip("mujoco")
    vector = gym.make_vec(
        "InvertedPendulum-v5", 2, "sync", wrappers=[partial(PhysicsShift, mass=2.0, gravity=0.5)]
    )
    seen, infos = vector.reset(seed=4)
    for i in range(2):
        env = PhysicsShift(mujoco_env("InvertedPendulum-v5"), mass=2.0, gravity=0.5)
        np.testing.assert_array_equal(env.reset(seed=4 + i)[0], seen[i])
    np.testing.assert_array_equal(infos["physics"]["mass"], [2.0, 2.0])


# -- native tasks ----------------------------------------------------------------------------------


def test_factors_on_a_native_task():
    shifted = PhysicsShift(gym.make(PENDULUM, gravity=8.0), gravity=0.5, mass=2.0)
    expected = episode(gym.make(PENDULUM, gravity=4.0, mass=2.0))
    np.testing.assert_array_equal(episode(shifted), expected)
    shifted.set_params(mass=0.5)
    shifted.set_params(mass=0.5)
    assert shifted.unwrapped.physics == {"gravity": 4.0, "mass": 0.5, "length": 1.0}
    shifted.close()
    assert shifted.unwrapped.physics == {"gravity": 8.0, "mass": 1.0, "length": 1.0}


def test_physics_that_changes_within_an_episode():
    env = PhysicsShift(gym.make(PENDULUM))
    plain = gym.make(PENDULUM)
    action = np.array([1.0], np.float32)
    seen = [env.reset(seed=0)[0]]
    for mass in (0.5, 2.0, 1.0):
        env.perturb(mass=mass)
        seen.append(env.step(action)[0])
    plain.reset(seed=0)
    for mass, expected in zip((0.5, 2.0, 1.0), seen[1:], strict=True):
        plain.unwrapped.set_params(mass=mass)
        np.testing.assert_array_equal(plain.step(action)[0], expected)


def test_copies_of_a_native_task_go_on_alike():
    env = PhysicsShift(gym.make(PENDULUM), mass=2.0, action_noise=0.5)
    env.reset(seed=1)
    env.perturb(length=0.5)
    env.step(np.zeros(1, np.float32))
    for other in (pickle.loads(pickle.dumps(env)), copy.deepcopy(env)):
        twin = copy.deepcopy(env)
        for _ in range(3):
            action = np.ones(1, np.float32)
            np.testing.assert_array_equal(other.step(action)[0], twin.step(action)[0])
        np.testing.assert_array_equal(other.reset()[0], twin.reset()[0])
        assert other.params == twin.params == {**env.nominal, "mass": 2.0, "action_noise": 0.5}


def test_randomize_draws_every_episode_anew_and_alike_for_a_seed():
    make = partial(PhysicsShift, randomize={"mass": (0.5, 2.0), "length": (1.0, 1.0)})
    env, other = make(gym.make(PENDULUM)), make(gym.make(PENDULUM))
    drawn = [env.reset(seed=0 if not i else None)[1]["physics"] for i in range(200)]
    other.reset(seed=0)
    other.step(np.zeros(1, np.float32))  # the length of an episode does not matter
    assert other.reset()[1]["physics"] == drawn[1]
    masses = [physics["mass"] for physics in drawn]
    assert 0.5 <= min(masses) < 0.55 and 1.95 < max(masses) <= 2.0
    assert {physics["length"] for physics in drawn} == {1.0}
    asked = env.reset(options={"physics": {"mass": 1.25}})[1]["physics"]
    assert asked["mass"] == 1.25


# -- noise on actions ------------------------------------------------------------------------------


class Recorder(gym.Wrapper):
    """Keeps the actions that are executed."""

    def step(self, action):
        self.actions = [*getattr(self, "actions", []), action]
        return self.env.step(action)


def test_action_noise_is_normal_and_cut_to_the_space():
    inner = Recorder(gym.make(PENDULUM, max_steps=5000))
    env = PhysicsShift(inner, action_noise=0.5)
    env.reset(seed=0)
    for _ in range(2000):
        env.step(np.array([0.25], np.float32))
    executed = np.array(inner.actions)
    assert executed.dtype == np.float32
    np.testing.assert_allclose(executed.mean(), 0.25, atol=0.04)
    np.testing.assert_allclose(executed.std(), 0.5, rtol=0.05)
    inner.actions = []
    env.set_params(action_noise=10.0)
    for _ in range(50):
        env.step(np.array([0.25], np.float32))
    assert np.abs(inner.actions).max() == 2.0


def test_action_noise_leaves_starts_alone_and_is_paired_by_the_seed():
    shifted = PhysicsShift(gym.make(PENDULUM), action_noise=0.3)
    first, plain = episode(shifted), episode(gym.make(PENDULUM))
    np.testing.assert_array_equal(first[0], plain[0])
    assert (first[1:] != plain[1:]).any()
    np.testing.assert_array_equal(episode(shifted), first)
    # Another physics under the same seed meets the same noise.
    inner = [Recorder(gym.make(PENDULUM)) for _ in range(2)]
    for env, mass in zip(inner, (1.0, 2.0), strict=True):
        episode(PhysicsShift(env, action_noise=0.3, mass=mass))
    np.testing.assert_array_equal(inner[0].actions, inner[1].actions)


# -- wrong input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"friction": 1.0}, "no parameter 'friction', allowed are .*'gravity', 'mass', 'length'"),
        ({"mass": 0.0}, "mass=0.0 must be a finite number of at least 0.001"),
        ({"mass": 25.0}, r"factors .* impossible: mass=25.0 is outside \(0, 20\]"),
        ({"gravity": 2.5}, r"impossible: gravity=25.0 is outside \(0, 20\]"),
        ({"gravity": "high"}, "gravity='high' must be a finite number"),
        ({"action_noise": -1.0}, "action_noise=-1.0 must be"),
    ],
)
def test_impossible_parameters_are_refused_and_change_nothing(params, message):
    env = PhysicsShift(gym.make(PENDULUM))
    env.reset(seed=0)
    for change in (env.set_params, env.perturb):
        with pytest.raises(ValueError, match=message):
            change(**params)
    with pytest.raises(ValueError, match=message):
        env.reset(options={"physics": params})
    with pytest.raises(ValueError, match=message):
        PhysicsShift(gym.make(PENDULUM), **params)
    assert env.params == env.nominal
    assert env.unwrapped.physics == {"gravity": 10.0, "mass": 1.0, "length": 1.0}


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"length": 1.0}, "no parameter 'length', allowed are .*gravity.*wind.*action_noise"),
        ({"friction": -0.1}, "friction=-0.1 must be a finite number of at least 0"),
        ({"wind": np.inf}, "wind=inf must be a finite number"),
    ],
)
def test_impossible_parameters_of_mujoco_are_refused(params, message):
    with pytest.raises(ValueError, match=message):
        PhysicsShift(mujoco_env("InvertedPendulum-v5"), **params)


@pytest.mark.parametrize("bounds", [(2.0, 1.0), (1.0,), ("a", "b"), (1.0, np.nan)])
def test_ranges_must_be_ranges(bounds):
    with pytest.raises(ValueError, match="of 'mass' must be"):
        PhysicsShift(gym.make(PENDULUM), randomize={"mass": bounds})


def test_both_ends_of_a_range_must_be_possible():
    with pytest.raises(ValueError, match="mass=21.0 is outside"):
        PhysicsShift(gym.make(PENDULUM), randomize={"mass": (1.0, 21.0)})


def test_environments_without_physics_are_refused():
    with pytest.raises(ValueError, match="FrozenLake.* has no physics that could be changed"):
        PhysicsShift(gym.make("FrozenLake-v1"))


def test_noise_needs_actions_in_a_box():
    class Task(gym.Env):
        observation_space = gym.spaces.Discrete(2)
        action_space = gym.spaces.Discrete(2)
        physics = {"mass": 1.0}

        def set_params(self, **values):
            self.physics = values

    with pytest.raises(ValueError, match="action_noise needs actions in a Box"):
        PhysicsShift(Task(), action_noise=0.1)


def test_with_noise_an_action_outside_the_space_is_refused():
    env = PhysicsShift(gym.make(PENDULUM), action_noise=0.1)
    env.reset(seed=0)
    with pytest.raises(ValueError, match="action 3"):
        env.step(np.array([3.0], np.float32))


def test_episode_physics_must_be_a_mapping():
    with pytest.raises(ValueError, match=r"options\['physics'\]=2.0 must map names to values"):
        PhysicsShift(gym.make(PENDULUM)).reset(options={"physics": 2.0})


def test_the_spec_remembers_the_shift():
    env = PhysicsShift(gym.make(PENDULUM), mass=2.0)
    again = gym.make(env.spec)
    assert again.get_wrapper_attr("params")["mass"] == 2.0
