"""SB3VecEnv against SB3's DummyVecEnv, over one environment written in Gymnasium's three ways."""

from __future__ import annotations

import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space
from gymnasium.wrappers import TimeLimit
from gymnasium.wrappers.vector import FlattenObservation
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize

from palaestra.wrappers.infos import unpack_infos
from palaestra.wrappers.sb3 import SB3VecEnv, make_sb3

LIMIT = 5
ROWS = 4


def observation_space(nested: bool) -> spaces.Space:
    start = spaces.Box(0.0, 1.0, (1,), np.float32)
    if nested:
        return spaces.Dict({"start": start, "clock": spaces.Discrete(10)})
    return spaces.Box(np.array([0, 0], np.float32), np.array([1, 10], np.float32))


class Clock(gym.Env):
    """Counts steps. Ends after `length` steps (drawn at reset), is truncated after LIMIT."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 7}

    def __init__(self, nested=False, render_mode=None):
        self.nested, self.render_mode, self.gain = nested, render_mode, 0.1
        self.observation_space = observation_space(nested)
        self.action_space = spaces.Discrete(3)
        self.options_seen = None

    def observe(self):
        if self.nested:
            return {"start": np.array([self.start], np.float32), "clock": np.int64(self.time)}
        return np.array([self.start, self.time], np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.options_seen = options
        self.start, self.time = self.np_random.random(), 0
        self.length = int(self.np_random.integers(2, 9))
        return self.observe(), {"start": self.start}

    def step(self, action):
        self.time += 1
        reward = self.start + self.gain * int(action)
        info = {"time": self.time, "pair": np.array([self.start, self.time]), "deep": {"x": 0.5}}
        return self.observe(), reward, self.time >= self.length, self.time >= LIMIT, info

    def action_masks(self):
        return np.arange(3) <= self.time % 3

    def render(self):
        return np.full((8, 6, 3), self.time, np.uint8)


class ClockVector(VectorEnv):
    """Clock as a native vector. It writes every observation into the same arrays."""

    def __init__(self, num_envs, autoreset_mode=AutoresetMode.SAME_STEP, nested=False, gain=0.1):
        self.num_envs, self.nested, self.gain = num_envs, nested, gain
        self.metadata = {"render_modes": [], "autoreset_mode": AutoresetMode(autoreset_mode)}
        self.same_step = autoreset_mode is AutoresetMode.SAME_STEP
        self.single_observation_space = observation_space(nested)
        self.single_action_space = spaces.Discrete(3)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.start, self.time, self.length = np.zeros(num_envs), *np.zeros((2, num_envs), int)
        self.buffer = np.zeros((num_envs, 2), np.float32)
        self.options_seen = None

    def observe(self):
        self.buffer[:] = np.stack([self.start, self.time], axis=1)
        if self.nested:
            return {"start": self.buffer[:, :1], "clock": self.time}
        return self.buffer

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            self.generators = [np.random.default_rng(seed + i) for i in range(self.num_envs)]
        self.options_seen = options
        mask = np.ones(self.num_envs, bool)
        if options and "reset_mask" in options:
            mask = options["reset_mask"]
        for i in np.flatnonzero(mask):
            self.start[i], self.time[i] = self.generators[i].random(), 0
            self.length[i] = self.generators[i].integers(2, 9)
        return self.observe(), {"start": self.start.copy()}

    def step(self, actions):
        self.time += 1
        rewards = self.start + self.gain * actions
        terminated, truncated = self.time >= self.length, self.time >= LIMIT
        pair = np.stack([self.start, self.time], axis=1)
        infos = {"time": self.time.copy(), "pair": pair, "deep": {"x": 0.5}}
        done = terminated | truncated
        if self.same_step and done.any():
            final = self.observe()
            copy = {k: v.copy() for k, v in final.items()} if self.nested else final.copy()
            _, reset_infos = self.reset(options={"reset_mask": done})
            # Rows that go on have a step's info, rows that start anew a reset's: masks tell.
            masked = {f"_{key}": ~done for key in infos}
            infos = {**infos, **masked, "final_obs": copy, "final_info": infos}
            infos |= {**reset_infos, "_start": done}
        return self.observe(), rewards, terminated, truncated, infos

    def action_masks(self):
        return np.arange(3) <= self.time[:, None] % 3


SAME_STEP, DISABLED = AutoresetMode.SAME_STEP, AutoresetMode.DISABLED


def build(kind, mode, nested=False):
    if kind == "native":
        return ClockVector(ROWS, mode, nested)
    vector = {"sync": SyncVectorEnv, "async": AsyncVectorEnv}[kind]
    return vector([lambda: Clock(nested) for _ in range(ROWS)], autoreset_mode=mode)


def without_seconds(info):
    if "episode" in info:
        return info | {"episode": {k: v for k, v in info["episode"].items() if k != "t"}}
    return info


def rollout(env, steps=40):
    env.seed(3)
    yield env.reset(), list(env.reset_infos)
    generator = np.random.default_rng(0)
    for _ in range(steps):
        *arrays, infos = env.step(generator.integers(0, 3, ROWS))
        yield arrays, [without_seconds(info) for info in infos], list(env.reset_infos)


@pytest.mark.parametrize("nested", [False, True], ids=["box", "dict"])
@pytest.mark.parametrize("mode", [SAME_STEP, DISABLED])
@pytest.mark.parametrize("kind", ["sync", "async", "native"])
def test_every_output_equals_dummy_vec_env_with_monitors(kind, mode, nested):
    reference = list(rollout(DummyVecEnv([lambda: Monitor(Clock(nested)) for _ in range(ROWS)])))
    env = SB3VecEnv(build(kind, mode, nested), keep_infos=True)
    # Compared only after the whole rollout: nothing may change what an earlier step returned.
    ours = list(rollout(env))
    env.close()
    for mine, theirs in zip(ours, reference, strict=True):
        np.testing.assert_equal(mine, theirs)
    (observations, rewards, dones), _, _ = ours[-1]
    (their_observations, their_rewards, their_dones), _, _ = reference[-1]
    assert (rewards.dtype, dones.dtype) == (their_rewards.dtype, their_dones.dtype)
    for key in ("start", "clock") if nested else (slice(None),):
        assert observations[key].dtype == their_observations[key].dtype
    ends = [info for _, infos, _ in ours[1:] for info in infos if "episode" in info]
    truncated = [info["TimeLimit.truncated"] for info in ends]
    # Episodes that terminate in the very step of their time limit are among them.
    both = [e for e in ends if not e["TimeLimit.truncated"] and e["episode"]["l"] == LIMIT]
    assert any(truncated) and not all(truncated) and both


@pytest.mark.parametrize("mode", [SAME_STEP, DISABLED])
def test_without_keep_infos_only_finished_rows_carry_the_environment_info(mode):
    full = list(rollout(SB3VecEnv(build("native", mode), keep_infos=True)))
    short = list(rollout(SB3VecEnv(build("native", mode))))
    for (outputs, infos, resets), (outputs_, infos_, resets_) in zip(
        full[1:], short[1:], strict=True
    ):
        np.testing.assert_equal((outputs, resets), (outputs_, resets_))
        expected = [
            info if done else {"TimeLimit.truncated": False}
            for info, done in zip(infos, outputs[2], strict=True)
        ]
        np.testing.assert_equal(infos_, expected)


def test_changing_what_a_step_returned_changes_no_later_step():
    reference = list(rollout(SB3VecEnv(build("native", SAME_STEP))))
    env = SB3VecEnv(build("native", SAME_STEP))
    for outputs, theirs in zip(rollout(env), reference, strict=True):
        np.testing.assert_equal(outputs, theirs)
        if len(outputs) == 3:
            (observations, rewards, dones), infos, _ = outputs
            observations[:], rewards[:], dones[:] = 9, 9, True
            for info in infos:
                info["mine"] = 1


def train(env, **changes):
    torch.manual_seed(0)
    arguments = {"n_steps": 64, "batch_size": 32, "n_epochs": 2, "seed": 0, "device": "cpu"}
    model = PPO("MlpPolicy", env, policy_kwargs={"net_arch": [8]}, **(arguments | changes))
    return model.learn(512)


def test_ppo_through_sb3_vec_env_ends_with_the_parameters_of_dummy_vec_env():
    limit = 12

    def cart_pole():
        return TimeLimit(gym.make("CartPole-v1").unwrapped, limit)

    reference = train(DummyVecEnv([lambda: Monitor(cart_pole()) for _ in range(ROWS)]))
    lengths = [info["l"] for info in reference.ep_info_buffer]
    assert limit in lengths and min(lengths) < limit  # bootstrapped and terminated episodes
    for mode in (SAME_STEP, DISABLED):
        model = train(SB3VecEnv(SyncVectorEnv([cart_pole] * ROWS, autoreset_mode=mode)))
        for name, value in reference.policy.state_dict().items():
            assert torch.equal(value, model.policy.state_dict()[name]), (mode, name)
        episodes = [(info["r"], info["l"]) for info in model.ep_info_buffer]
        assert episodes == [(info["r"], info["l"]) for info in reference.ep_info_buffer]


def test_dqn_trains_on_a_native_vector():
    env = SB3VecEnv(build("native", SAME_STEP))
    model = DQN("MlpPolicy", env, learning_starts=20, buffer_size=500, seed=0, device="cpu")
    model.learn(200)
    assert model.replay_buffer.timeouts.sum() > 0
    assert (model.replay_buffer.timeouts <= model.replay_buffer.dones).all()


def test_sub_environment_i_is_reset_with_seed_plus_i_and_only_once():
    singles = [Clock().reset(seed=11 + i)[0] for i in range(ROWS)]
    for kind in ("sync", "native"):
        env = SB3VecEnv(build(kind, SAME_STEP))
        assert list(env.seed(np.int64(11))) == [11, 12, 13, 14]
        first = env.reset()
        np.testing.assert_array_equal(first, singles)
        assert not np.array_equal(env.reset(), first)


@pytest.mark.parametrize("kind", ["sync", "native"])
def test_options_reach_the_next_reset_only_and_must_be_the_same_for_all(kind):
    env = SB3VecEnv(build(kind, SAME_STEP))
    env.seed(0)
    env.set_options({"level": 2})
    env.reset()
    assert env.get_attr("options_seen") == [{"level": 2}] * ROWS
    env.reset()
    assert env.get_attr("options_seen", 0) == [None]
    with pytest.raises(ValueError, match="one set of options"):
        env.set_options([{"level": i} for i in range(ROWS)])
    with pytest.raises(ValueError, match="2 options for 4"):
        env.set_options([{}, {}])
    with pytest.raises(ValueError, match="reset_mask"):
        env.set_options({"reset_mask": np.ones(ROWS, bool)})


def test_sync_sub_environments_are_reached_one_by_one():
    env = SB3VecEnv(SyncVectorEnv([lambda: TimeLimit(Clock(), 3)] * ROWS, autoreset_mode=SAME_STEP))
    env.reset()
    env.set_attr("gain", 1.0, indices=[1, -1])
    assert env.get_attr("gain") == [0.1, 1.0, 0.1, 1.0]
    assert env.get_attr("gain", indices=3) == [1.0]
    assert len(env.env_method("action_masks", indices=[0, 2])) == 2
    assert env.has_attr("gain") and not env.has_attr("absent")
    assert env.env_is_wrapped(TimeLimit) == [True] * ROWS
    assert env.env_is_wrapped(gym.wrappers.RescaleAction, indices=0) == [False]
    with pytest.raises(AttributeError):
        env.get_attr("absent")
    with pytest.raises(IndexError):
        env.get_attr("gain", indices=ROWS)


def test_async_sub_environments_are_reached_all_together():
    env = SB3VecEnv(build("async", SAME_STEP))
    try:
        env.reset()
        assert not env.has_attr("absent")
        with pytest.raises(AttributeError, match="absent"):
            env.get_attr("absent")
        env.set_attr("gain", 2.0)  # the questions above have not ended the workers
        assert env.get_attr("gain", indices=[1]) == [2.0]
        np.testing.assert_array_equal(env.env_method("action_masks"), [[True, False, False]] * ROWS)
        with pytest.raises(ValueError, match="indices must be None"):
            env.env_method("action_masks", indices=0)
        with pytest.raises(ValueError, match="indices must be None"):
            env.set_attr("gain", 1.0, indices=[0, 1])
    finally:
        env.close()


def test_rows_of_a_native_vector_share_its_attributes():
    env = SB3VecEnv(build("native", SAME_STEP))
    assert env.get_attr("gain", indices=[0, 3]) == [0.1, 0.1]
    env.set_attr("gain", 0.7)
    assert env.vector.gain == 0.7 and env.get_attr("gain") == [0.7] * ROWS
    assert env.get_attr("observation_space", 1) == [env.vector.single_observation_space]
    with pytest.raises(ValueError, match="share their attributes"):
        env.set_attr("gain", 0.1, indices=2)
    with pytest.raises(AttributeError, match="absent"):
        env.get_attr("absent")
    with pytest.raises(AttributeError, match="rows of a batch"):
        env.env_method("close")


def test_action_masks_of_a_native_vector_are_those_of_the_single_environments():
    envs = [SB3VecEnv(build(kind, SAME_STEP)) for kind in ("sync", "native")]
    for env in envs:
        env.seed(5)
        env.reset()
        assert env.has_attr("action_masks")
    for _ in range(7):
        singles, rows = (np.stack(env.env_method("action_masks")) for env in envs)
        np.testing.assert_array_equal(rows, singles)
        np.testing.assert_array_equal(
            envs[1].env_method("action_masks", indices=[2, 0]), singles[[2, 0]]
        )
        np.testing.assert_array_equal(envs[1].get_attr("action_masks")[3](), singles[3])
        for env in envs:
            env.step(np.zeros(ROWS, int))


def test_render_tiles_the_frames_of_all_sub_environments():
    make = [lambda: Clock(render_mode="rgb_array")] * ROWS
    env = SB3VecEnv(SyncVectorEnv(make, autoreset_mode=SAME_STEP))
    env.reset()
    env.step(np.zeros(ROWS, int))
    assert [image.shape for image in env.get_images()] == [(8, 6, 3)] * ROWS
    picture = env.render()
    assert picture.shape == (16, 12, 3) and (picture == 1).all()
    assert env.metadata["render_fps"] == 7
    with pytest.warns(UserWarning, match="rgb_array"):
        assert SB3VecEnv(build("native", SAME_STEP)).get_images() == [None] * ROWS


def test_a_vector_wrapper_may_change_the_observation_space():
    env = SB3VecEnv(FlattenObservation(build("native", DISABLED, nested=True)))
    assert env.get_attr("observation_space", 0)[0].shape == (11,)  # one-hot clock, start
    assert env.env_is_wrapped(FlattenObservation) == [True] * ROWS
    assert env.get_attr("gain", 0) == [0.1]
    env.seed(0)
    assert env.reset().shape == (ROWS, 11)
    for _ in range(12):
        observations, _, _, infos = env.step(np.zeros(ROWS, int))
        clocks = observations[:, :10].argmax(axis=1)
        for clock, info in zip(clocks, infos, strict=True):
            if "episode" in info:
                assert clock == 0
                assert info["terminal_observation"][:10].argmax() == info["episode"]["l"]


def test_monitor_can_be_left_to_others():
    plain = SB3VecEnv(build("native", SAME_STEP), monitor=False)
    assert plain.env_is_wrapped(Monitor) == [False] * ROWS
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        monitored = VecMonitor(plain)
    both = [rollout(monitored), rollout(SB3VecEnv(build("native", SAME_STEP)))]
    episodes = [
        [
            (round(float(info["episode"]["r"]), 4), int(info["episode"]["l"]))
            for _, infos, _ in list(run)[1:]
            for info in infos
            if "episode" in info
        ]
        for run in both
    ]
    assert episodes[0] == episodes[1] and len(episodes[0]) > 20


def test_monitors_around_sub_environments_keep_the_last_word():
    def doubled():
        return gym.wrappers.TransformReward(Monitor(Clock()), lambda reward: 2 * reward)

    env = SB3VecEnv(SyncVectorEnv([doubled] * ROWS, autoreset_mode=SAME_STEP))
    assert env.env_is_wrapped(Monitor) == [True] * ROWS
    outputs = list(rollout(env, steps=LIMIT))
    returns = np.zeros(ROWS)
    for (_, rewards, dones), infos, _ in outputs[1:]:
        returns += rewards
        for i in np.flatnonzero(dones):
            assert infos[i]["episode"]["r"] == pytest.approx(returns[i] / 2, rel=1e-5)
            returns[i] = 0.0


def test_vec_normalize_evaluate_policy_and_eval_callback_work_on_top(tmp_path):
    env = VecNormalize(SB3VecEnv(build("native", SAME_STEP)))
    evaluation = VecNormalize(SB3VecEnv(build("native", DISABLED)), training=False)
    for each in (env, evaluation):
        each.seed(1)
    callback = EvalCallback(
        evaluation, eval_freq=32, n_eval_episodes=6, log_path=str(tmp_path), verbose=0
    )
    model = PPO("MlpPolicy", env, n_steps=32, batch_size=32, n_epochs=1, seed=0, device="cpu")
    model.learn(256, callback)
    stored = np.load(tmp_path / "evaluations.npz")
    assert stored["results"].shape == (2, 6)
    assert stored["ep_lengths"].max() <= LIMIT
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        returns, lengths = evaluate_policy(
            model, evaluation, n_eval_episodes=8, return_episode_rewards=True
        )
    # Unnormalised rewards: start + gain * action, in [0, 1.2] per step.
    assert all(0 <= r <= 1.2 * n for r, n in zip(returns, lengths, strict=True))
    terminal = [
        info["terminal_observation"]
        for _, infos, _ in list(rollout(env))[1:]
        for info in infos
        if "terminal_observation" in info
    ]
    assert np.mean([observation[1] for observation in terminal]) > 0.5  # late, in normal units


def test_next_step_autoreset_is_refused_with_a_way_out():
    for vector in (
        SyncVectorEnv([Clock] * 2),
        gym.make_vec("CartPole-v1", num_envs=4, vectorization_mode="vector_entry_point"),
    ):
        with pytest.raises(ValueError, match=r"vector_kwargs=\{\"autoreset_mode\": \"SameStep\"\}"):
            SB3VecEnv(vector)


def test_the_mode_is_that_of_the_vector_even_if_its_class_shares_metadata():
    first = SyncVectorEnv([Clock] * 2, autoreset_mode=SAME_STEP)
    SyncVectorEnv([Clock] * 2)
    SB3VecEnv(first)


def test_what_cannot_be_adapted_is_named():
    with pytest.raises(ValueError, match=r"gymnasium\.vector\.VectorEnv, got <.*Clock"):
        SB3VecEnv(Clock())
    silent = build("native", SAME_STEP)
    silent.metadata = {}
    with pytest.raises(ValueError, match="autoreset_mode"):
        SB3VecEnv(silent)
    text = build("native", SAME_STEP)
    text.single_observation_space = spaces.Dict({"words": spaces.Text(5)})
    with pytest.raises(ValueError, match="Text.* at key 'words'"):
        SB3VecEnv(text)
    with pytest.raises(RuntimeError, match="step_async"):
        SB3VecEnv(build("native", SAME_STEP)).step_wait()


def test_make_sb3_takes_the_native_vector_where_it_resets_in_the_same_step():
    gym.register("PalaestraClock-v0", entry_point=Clock, vector_entry_point=ClockVector)
    try:
        env = make_sb3("PalaestraClock-v0", ROWS, seed=11, gain=0.3, keep_infos=True)
        assert type(env.vector) is ClockVector and env.vector.gain == 0.3 and env.keep_infos
        np.testing.assert_array_equal(env.reset()[2], Clock().reset(seed=13)[0])
    finally:
        del gym.registry["PalaestraClock-v0"]
    # CartPole's native vector has no same-step mode.
    env = make_sb3("gymnasium:CartPole-v1", 3, seed=0, sutton_barto_reward=True)
    assert isinstance(env.vector, SyncVectorEnv) and env.num_envs == 3
    assert env.reset().shape == (3, 4)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        make_sb3("CartPole-v1", 0)


def test_unpack_infos_follows_masks_and_nesting():
    infos = {
        "a": np.array([1, 2, 3]),
        "_a": np.array([True, False, True]),
        "deep": {"b": np.array([[1.0], [2.0], [3.0]]), "_b": np.array([False, True, True])},
        "_deep": np.array([False, True, True]),
        "names": ["x", "y", "z"],
        "shared": "all",
        "_private": np.arange(3),
    }
    assert unpack_infos(infos, [2, 1]) == [
        {"a": 3, "deep": {"b": [3.0]}, "names": "z", "shared": "all", "_private": 2},
        {"deep": {"b": [2.0]}, "names": "y", "shared": "all", "_private": 1},
    ]


def test_a_native_vector_that_masks_nothing_has_no_action_masks():
    """Although its core, which `get_attr` also looks into, has a function of that name."""
    env = make_sb3("FiniteMDP-v0", 2)
    assert not env.has_attr("action_masks")
    assert env.get_attr("states") == [3, 3]
    with pytest.raises(AttributeError, match="action_masks"):
        env.env_method("action_masks")
