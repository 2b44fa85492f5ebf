"""What every registered environment keeps: the rules of Gymnasium and SB3, and equal faces.

The suite runs over every id of the registry, with its defaults and with the arguments that
`environment_cases.py` adds.
"""

from __future__ import annotations

import copy
import importlib
import inspect
import json
import pickle
import re
import warnings
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
from environment_cases import (
    CASES,
    NEEDED,
    ROWS,
    SEED,
    Singles,
    assert_rows,
    assert_same,
    core_of,
    draw_actions,
    is_text,
    make_ordinary,
    make_single,
    make_vector,
    masks_of,
    run_on,
    steps_for_several_episodes,
)
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from stable_baselines3.common.env_checker import check_env as check_env_as_sb3

from palaestra.envs.base import take, to_torch
from palaestra.envs.faces import ArrayEnv, ArrayVectorEnv, unbatch
from palaestra.envs.registry import ENTRIES
from palaestra.wrappers.infos import unpack_infos
from palaestra.wrappers.token_mdp import TokenMDP

SECTIONS = [
    *("Description", "Observation", "Action", "Dynamics", "Reward", "Episode end", "Arguments"),
    *("Data files", "Sources", "Version"),
]

every_case = pytest.mark.parametrize(("entry", "arguments"), CASES)
every_entry = pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.id)
# Environments of arrays have a native vector; the others are ordinary Gymnasium environments.
every_array_entry = pytest.mark.parametrize(
    "entry", [entry for entry in ENTRIES if "vector" in entry.faces], ids=lambda entry: entry.id
)
every_ordinary_entry = pytest.mark.parametrize(
    "entry", [entry for entry in ENTRIES if "vector" not in entry.faces], ids=lambda entry: entry.id
)
every_torch_case = pytest.mark.parametrize(
    ("entry", "arguments"), [case for case in CASES if "torch" in case.values[0].faces]
)
every_mode = pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda mode: mode.name)
both_faces = pytest.mark.parametrize("make", [make_single, make_vector], ids=["single", "vector"])


# -- Gymnasium's and SB3's rules -----------------------------------------------------------------


def allow_units(space):
    """Let an action be in units, such as a torque in newton metres, if its range is symmetric.

    Both checkers advise against any other range than [-1, 1].
    """
    if isinstance(space, gym.spaces.Box) and np.array_equal(space.low, -space.high):
        warnings.filterwarnings("ignore", ".*we recommend using a symmetric and normalized")
        warnings.filterwarnings("ignore", "We recommend you to use a symmetric and normalized")


def allow_unbounded():
    """Let an observation be without bounds: a plant's state, what a physics engine measures."""
    warnings.filterwarnings("ignore", ".*Box observation space m..imum value is -?infinity")


@every_case
def test_gymnasium_checker_has_nothing_to_say(entry, arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = make_single(entry, arguments).unwrapped
        allow_units(env.action_space)
        allow_unbounded()
        if arguments:  # a choice of the user's, such as actions in units, may go against advice
            warnings.filterwarnings("ignore", ".*we recommend using a symmetric and normalized")
        check_env(env, skip_render_check=True)


@every_array_entry
def test_gymnasium_checker_has_nothing_to_say_about_rendering(entry):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = make_single(entry, {}, render_mode="rgb_array").unwrapped
        allow_units(env.action_space)
        allow_unbounded()
        check_env(env)


@every_entry
def test_sb3_checker_has_nothing_to_say(entry):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = make_ordinary(entry, rendered=True)
        allow_units(env.action_space)
        # SB3 has no texts: it reads and writes them token by token.
        check_env_as_sb3(TokenMDP(env) if is_text(env) else env)


@every_array_entry
def test_id_is_found_through_the_package_name(entry):
    assert isinstance(gym.make(f"palaestra:{entry.id}").unwrapped, ArrayEnv)
    vector = gym.make_vec(f"palaestra:{entry.id}", num_envs=2)
    assert isinstance(vector.unwrapped, ArrayVectorEnv)


@every_entry
def test_docstring_of_the_core_has_the_sections_of_a_specification(entry):
    module, name = entry.core.split(":")
    text = inspect.getdoc(vars(importlib.import_module(module))[name])
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == SECTIONS
    for section, body in re.findall(r"^## (.+)\n+((?:(?!## ).*\n?)*)", text, re.MULTILINE):
        assert body.strip(), f"section {section} is empty"


@every_array_entry
def test_an_unknown_render_mode_is_refused(entry):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Gymnasium warns before it asks the environment
        for make in (make_single, make_vector):
            with pytest.raises(ValueError, match="render_mode='hologram'.*rgb_array"):
                make(entry, {}, render_mode="hologram")


@every_array_entry
def test_render_returns_pictures(entry):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = make_single(entry, {}, render_mode="rgb_array")
        vector = make_vector(entry, {}, rows=2, render_mode="rgb_array")
    env.reset(seed=SEED + 1)
    vector.reset(seed=SEED)
    frames = vector.render()
    assert len(frames) == 2
    for frame in (env.render(), *frames):
        assert frame.dtype == np.uint8
        assert frame.ndim == 3
        assert frame.shape[2] == 3
        assert frame.std() > 0  # something is drawn
    np.testing.assert_array_equal(frames[1], env.render())


# -- environments that are no arrays -------------------------------------------------------------


@every_ordinary_entry
def test_an_ordinary_environment_keeps_gymnasiums_rules(entry):
    env = make_ordinary(entry, rendered=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        allow_unbounded()
        check_env(env.unwrapped)
    needed = NEEDED.get(entry.id, {})
    assert isinstance(gym.make(f"palaestra:{entry.id}", **needed), gym.Env)
    assert gym.spec(entry.id).vector_entry_point is None
    observation, _ = env.reset(seed=SEED)
    frame = env.render()
    if is_text(env):
        assert observation in frame
    else:
        assert frame.dtype == np.uint8 and frame.ndim == 3 and frame.shape[2] == 3
        assert frame.std() > 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Gymnasium warns before it asks the environment
        with pytest.raises(ValueError, match="render_mode='hologram'.*(rgb_array|ansi)"):
            make_ordinary(entry, render_mode="hologram")


@every_ordinary_entry
def test_an_ordinary_environment_repeats_itself_and_refuses_wrong_actions(entry):
    env, untouched = make_ordinary(entry), make_ordinary(entry)
    env.reset(seed=SEED)
    assert_same(untouched.reset(seed=SEED), env.reset(seed=SEED))
    for bad, message in wrong_actions(env.action_space):
        with pytest.raises(ValueError, match=message):
            env.step(bad)
    assert_same(run_on(env, 60, 5), run_on(untouched, 60, 5))
    for other in (pickle.loads(pickle.dumps(env)), copy.deepcopy(env)) if is_text(env) else ():
        assert_same(run_on(other, 20, 6), run_on(copy.deepcopy(env), 20, 6))
    vector = SyncVectorEnv([partial(make_ordinary, entry)] * 2)
    vector.reset(seed=SEED)
    assert_same(unbatch(vector.reset(seed=SEED)[0], 1), env.reset(seed=SEED + 1)[0])
    assert_same(*(run_on(vector, 6, 7) for _ in range(2) if vector.reset(seed=SEED)))


@every_ordinary_entry
def test_an_ordinary_environment_refuses_a_step_beyond_the_end(entry):
    env = make_ordinary(entry)
    env.action_space.seed(3)
    env.reset(seed=SEED)
    for _ in range(env.unwrapped.horizon):
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        if terminated or truncated:
            break
    with pytest.raises(ValueError, match="ended"):
        env.step(env.action_space.sample())


# -- the faces agree -----------------------------------------------------------------------------


@every_mode
@every_case
def test_native_vector_is_sync_vector_is_single_environments(entry, arguments, mode):
    native = make_vector(entry, arguments, mode)
    sync = SyncVectorEnv([partial(make_single, entry, arguments)] * ROWS, autoreset_mode=mode)
    singles = Singles(entry, arguments, mode)
    assert native.metadata["autoreset_mode"] is mode
    assert native.observation_space == sync.observation_space
    assert native.action_space == sync.action_space
    native.single_action_space.seed(1)

    ours, theirs = native.reset(seed=SEED), sync.reset(seed=SEED)
    assert_same(ours, theirs)
    assert_rows(ours, singles.reset(SEED))
    ends = 0
    steps = steps_for_several_episodes(native.unwrapped.core)
    for step in range(steps):
        actions = draw_actions(native.single_action_space, masks_of(native))
        ours, theirs = native.step(actions), sync.step(actions)
        assert_same(ours, theirs, f"step {step}")
        assert_rows(ours, singles.step(actions))
        mask = (ours[2] | ours[3]) & (mode is AutoresetMode.DISABLED)
        mask[1] |= step == 3  # an episode may also be left in the middle; rows then end apart
        ends += (ours[2] | ours[3]).sum()
        if mask.any():
            ours = native.reset(options={"reset_mask": mask.copy()})
            assert_same(ours, sync.reset(options={"reset_mask": mask.copy()}))
            infos = unpack_infos(ours[1], range(ROWS))
            for i in np.flatnonzero(mask):
                observation, info = singles.reset_row(i)
                assert_same(unbatch(ours[0], i), observation)
                assert_same(infos[i], dict(info))
    horizon = native.unwrapped.core.horizon
    assert horizon is None or ends >= ROWS * (steps // (horizon + 1)) - 1


@every_case
def test_row_of_a_vector_is_the_single_environment_of_its_seed(entry, arguments):
    vector = make_vector(entry, arguments)
    observations, infos = vector.reset(seed=SEED)
    for i in range(ROWS):
        observation, info = make_single(entry, arguments).reset(seed=SEED + i)
        assert_same(unbatch(observations, i), observation)
        assert_same(unpack_infos(infos, [i])[0], dict(info))
    listed, _ = make_vector(entry, arguments).reset(seed=[SEED + 2, SEED, SEED + 1])
    assert_same(listed, unbatch(observations, [2, 0, 1]))


@every_case
def test_same_seed_gives_the_same_episodes(entry, arguments):
    runs = []
    for _ in range(2):
        env = make_single(entry, arguments)
        start = env.reset(seed=SEED)
        runs.append([start, *run_on(env, steps_for_several_episodes(env.unwrapped.core), 2)])
    assert_same(runs[0], runs[1])


@every_case
def test_masked_reset_leaves_the_other_rows_as_they_are(entry, arguments):
    twins = [make_vector(entry, arguments) for _ in range(2)]
    horizon = twins[0].unwrapped.core.horizon
    for twin in twins:
        twin.reset(seed=SEED)
        run_on(twin, 2 if horizon is None else min(2, horizon - 1), 3)
    before = copy.deepcopy(twins[1].unwrapped.core.observation(twins[1].unwrapped.state))
    mask = np.array([False, True, False])
    observations, _ = twins[0].reset(seed=7, options={"reset_mask": mask})
    assert_same(unbatch(observations, ~mask), unbatch(before, ~mask))
    assert_same(unbatch(observations, 1), make_single(entry, arguments).reset(seed=8)[0])
    for name, value in twins[0].unwrapped.state.items():
        np.testing.assert_array_equal(value[~mask], twins[1].unwrapped.state[name][~mask])
    for name, value in twins[0].unwrapped.tape.items():
        np.testing.assert_array_equal(value[~mask], twins[1].unwrapped.tape[name][~mask])


@every_torch_case
def test_torch_face_equals_numpy(entry, arguments):
    torch = pytest.importorskip("torch")
    core = core_of(entry, arguments)
    face = core.torch(dtype=torch.float64)
    tape = core.tapes(ROWS, SEED)
    tensors = to_torch(tape, dtype=torch.float64)
    core.action_space.seed(4)
    state, other = core.initial(tape), face.initial(tensors)
    for _ in range(min(core.horizon or core.block or 40, 60)):
        masks = core.action_masks(state)
        drawn = draw_actions(core.action_space, {} if masks is None else {"action_mask": masks})
        action = core.check_action(drawn, state)
        seen, other_seen = core.observation(state), face.observation(other)
        if isinstance(seen, dict):
            assert seen.keys() == other_seen.keys()
            pairs = [(seen[name], other_seen[name]) for name in seen]
        else:
            pairs = [(seen, other_seen)]
        mirrored = torch.as_tensor(action)
        after = core.transition(state, action, tape)
        other_after = face.transition(other, mirrored, tensors)
        pairs.append((core.reward(state, action, after), face.reward(other, mirrored, other_after)))
        pairs.append((core.terminal(after), face.terminal(other_after)))
        pairs.append((core.truncated(after), face.truncated(other_after)))
        if masks is not None:
            pairs.append((masks, face.action_masks(other)))
        state, other = after, other_after
        assert state.keys() == other.keys()
        pairs += [(state[name], other[name]) for name in state]
        info, other_info = core.info(state), face.info(other)
        pairs += [(info[name], other_info[name]) for name in info]
        for expected, tensor in pairs:
            found = np.asarray(tensor)
            if found.dtype == object:  # strings, which no tensor holds
                assert_same(found, expected)
                continue
            tolerance = 1e-6 if np.asarray(expected).dtype == np.float32 else 1e-9
            np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)
        over = core.terminal(state) | core.truncated(state)
        if over.any():
            break


# -- wrong actions -------------------------------------------------------------------------------


def wrong_actions(space):
    """(action, pattern that the message has to contain)."""
    if isinstance(space, gym.spaces.Text):
        for bad in (3, None, b"3", ["3"]):
            yield bad, f"an action is a string, got {type(bad).__name__}"
        return
    good = np.asarray(space.sample())
    yield np.stack([good, good]), re.escape(f"shape {(2, *good.shape)}")
    if isinstance(space, gym.spaces.Box):
        for value in (np.nan, np.inf, -1e6, 1e6):
            bad = good.astype(np.float64)
            bad.flat[-1] = value
            yield bad, re.escape(f"{value:g}") if not np.isfinite(value) else f"{value:.0f}"
        yield good.astype(str), "type|number"
    else:
        first = np.asarray(getattr(space, "start", 0))
        sizes = np.asarray(getattr(space, "nvec", getattr(space, "n", 2)))
        for value in (int(first.min()) - 1, int((first + sizes).max())):
            bad = good.copy()
            bad[...] = value
            yield bad, str(value)
        yield good.astype(np.float64) + 0.5, "float64"
        yield good.astype(np.float64), "float64"


@every_case
def test_a_wrong_action_is_refused_and_changes_nothing(entry, arguments):
    env, untouched = make_single(entry, arguments), make_single(entry, arguments)
    vector = make_vector(entry, arguments)
    env.reset(seed=SEED)
    untouched.reset(seed=SEED)
    vector.reset(seed=SEED)
    good = env.action_space.sample()
    for bad, message in wrong_actions(env.action_space):
        with pytest.raises(ValueError, match=message):
            env.step(bad)
        rows = [good, good, bad] if np.shape(bad) == np.shape(good) else [bad] * ROWS
        with pytest.raises(ValueError, match=message):
            vector.step(np.stack(rows))
    with pytest.raises(ValueError, match=rf"shape \(2.* for {ROWS} sub-env"):
        vector.step(np.stack([good, good]))
    assert_same(run_on(env, 3, 5), run_on(untouched, 3, 5))


@both_faces
@every_case
def test_a_step_beyond_the_end_is_refused(entry, arguments, make):
    options = {} if make is make_single else {"mode": AutoresetMode.DISABLED, "rows": 1}
    env = make(entry, arguments, **options)
    env.reset(seed=SEED)
    space = env.action_space if make is make_single else env.single_action_space
    for _ in range(env.unwrapped.core.horizon or 0):
        action = draw_actions(space, masks_of(env), 1)
        action = action[0] if make is make_single else action
        _, _, terminated, truncated, _ = env.step(action)
        if np.any(terminated) or np.any(truncated):
            with pytest.raises(ValueError, match="ended"):
                env.step(action)
            return
    assert env.unwrapped.core.horizon is None


# -- copies, snapshots and purity ----------------------------------------------------------------


@both_faces
@every_case
def test_copies_made_in_mid_episode_go_on_alike(entry, arguments, make):
    env = make(entry, arguments)
    env.reset(seed=SEED)
    run_on(env, 3, 7)
    copies = [pickle.loads(pickle.dumps(env)), copy.deepcopy(env)]
    steps = min(steps_for_several_episodes(env.unwrapped.core), 120)
    expected = run_on(env, steps, 8)
    for other in copies:
        assert_same(run_on(other, steps, 8), expected)


@both_faces
@every_case
def test_a_snapshot_goes_on_alike_in_a_new_environment(entry, arguments, make):
    env, other = make(entry, arguments), make(entry, arguments)
    env.reset(seed=SEED)
    other.reset(seed=SEED + 100)
    horizon = env.unwrapped.core.horizon or 30
    for steps in (3, horizon - 3, 4):  # in mid-episode, where an episode may end, and beyond
        run_on(env, steps, 9)
        arrays, generators = env.unwrapped.get_state()
        arrays = {name: value.copy() for name, value in arrays.items()}
        assert all(value.dtype.kind in "biuf" for value in arrays.values())
        generators = json.loads(json.dumps(generators))
        expected = run_on(copy.deepcopy(env), horizon + 5, 10)
        other.unwrapped.set_state(arrays, generators)
        assert_same(run_on(other, horizon + 5, 10), expected)


@both_faces
@every_case
def test_results_stay_as_they_were_returned(entry, arguments, make):
    env = make(entry, arguments)
    results = [env.reset(seed=SEED)]
    kept = copy.deepcopy(results)
    for step in range((env.unwrapped.core.horizon or 30) + 3):
        results += run_on(env, 1, step)
        kept += copy.deepcopy(results[len(kept) :])
        if make is make_vector and step % 3 == 0:
            results.append(env.reset(options={"reset_mask": np.arange(ROWS) == step % ROWS}))
            kept.append(copy.deepcopy(results[-1]))
    assert_same(results, kept)


@every_case
def test_functions_of_the_core_leave_their_inputs_alone(entry, arguments):
    core = core_of(entry, arguments)
    tape = core.tapes(ROWS, SEED)
    core.action_space.seed(11)
    state = core.initial(tape)
    masks = core.action_masks(state)
    drawn = draw_actions(core.action_space, {} if masks is None else {"action_mask": masks})
    action = core.check_action(drawn, state)
    after = core.transition(state, action, tape)
    given = (tape, state, drawn, action, after)
    before = copy.deepcopy(given)
    core.initial(tape)
    core.check_action(drawn, state)
    again = core.transition(state, action, tape)
    core.reward(state, action, after)
    for function in (core.observation, core.terminal, core.truncated, core.info, core.action_masks):
        function(state)
        function(after)
    assert_same(given, before)
    assert_same(again, after)
    part = core.transition(take(state, [1]), action[1:2], take(tape, [1]))
    assert_same(part, take(after, [1]))


@both_faces
@every_case
def test_writing_into_a_result_does_not_change_the_episode(entry, arguments, make):
    env, untouched = make(entry, arguments), make(entry, arguments)
    results = env.reset(seed=SEED)
    untouched.reset(seed=SEED)
    for step in range(4):
        first = results[0].values() if isinstance(results[0], dict) else [results[0]]
        for value in (*first, *results[-1].values()):
            if isinstance(value, np.ndarray) and value.dtype != object:
                value[...] = 0
        results = run_on(env, 1, step)[0]
        expected = run_on(untouched, 1, step)[0]
        assert_same(copy.deepcopy(results), expected)
