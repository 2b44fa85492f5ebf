"""What every agent keeps: SB3's contract, checkpoints that execute nothing, exact resume."""

from __future__ import annotations

import inspect
import json
import multiprocessing
import pickle
import signal
import zipfile

import gymnasium as gym
import numpy as np
import pytest
from agent_cases import (
    NAMES,
    Recorder,
    agent_class,
    assert_same_parameters,
    evaluation_env,
    learn_and_die,
    make_agent,
    predict,
    predictions,
    rows_of,
    situations,
    tensors,
    trained,
)
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.logger import configure

every_agent = pytest.mark.parametrize("name", NAMES)


# -- learn -----------------------------------------------------------------------------------------


@every_agent
def test_learn_returns_the_agent_and_counts_timesteps(name):
    agent = make_agent(name)
    assert isinstance(agent, BaseAlgorithm)
    few = max(agent.example.steps // 4, 1)
    assert agent.learn(few) is agent
    first = agent.num_timesteps
    assert first >= few
    agent.learn(1, reset_num_timesteps=False)
    assert agent.num_timesteps > first
    agent.learn(few)
    assert agent.num_timesteps == first  # counted from zero again
    assert agent.learn(0) is agent
    assert agent.num_timesteps == 0


@every_agent
def test_callbacks_are_called_in_order_and_with_the_count(name):
    agent, recorder = make_agent(name), Recorder()
    agent.learn(max(agent.example.steps // 4, 1), callback=[recorder])
    assert recorder.events[:3] == ["start", "rollout start", "step"]
    assert recorder.events[-1] == "end"
    assert recorder.events.count("start") == recorder.events.count("end") == 1
    assert recorder.timesteps == sorted(set(recorder.timesteps))
    assert recorder.timesteps[-1] == recorder.num_timesteps == agent.num_timesteps


@every_agent
def test_a_callback_that_returns_false_stops_learning(name):
    agent, recorder = make_agent(name), Recorder(stop_at=2)
    agent.learn(agent.example.steps, callback=recorder)
    assert recorder.calls == 2 < trained(name)[1]
    assert agent.num_timesteps == recorder.timesteps[-1] < trained(name)[0].num_timesteps
    assert recorder.events[-1] == "end"
    functions = []
    agent.learn(
        agent.example.steps, callback=lambda _locals, _globals: functions.append(1) or False
    )
    assert len(functions) == 1


@every_agent
def test_eval_callback_evaluates_and_keeps_the_best(name, tmp_path):
    agent = make_agent(name)
    callback = EvalCallback(
        evaluation_env(agent, name),
        eval_freq=max(trained(name)[1] // 4, 1),
        n_eval_episodes=2,
        log_path=str(tmp_path),
        best_model_save_path=str(tmp_path),
        verbose=0,
        warn=False,
    )
    agent.learn(max(agent.example.steps // 2, 1), callback=callback)
    with np.load(tmp_path / "evaluations.npz") as stored:
        assert len(stored["results"]) >= 1
        assert stored["results"].shape[1] == 2
    best = agent_class(name).load(tmp_path / "best_model.zip")
    assert best.num_timesteps in callback.evaluations_timesteps


@every_agent
def test_progress_bar_and_log(name, tmp_path):
    agent = make_agent(name)
    agent.set_logger(configure(str(tmp_path), ["csv"]))
    agent.learn(max(agent.example.steps // 4, 1), progress_bar=True, log_interval=1)
    header, *rows = (tmp_path / "progress.csv").read_text().splitlines()
    column = header.split(",").index("time/total_timesteps")
    assert int(rows[-1].split(",")[column]) == agent.num_timesteps
    assert any(field.startswith(("train/", "rollout/")) for field in header.split(","))


# -- predict ---------------------------------------------------------------------------------------


@every_agent
@pytest.mark.parametrize("deterministic", [True, False])
def test_predicted_actions_lie_in_the_action_space(name, deterministic):
    agent = trained(name)[0]
    space = agent.action_space
    for observations, masks in situations(agent, name):
        actions = predict(agent, observations, masks, deterministic)
        assert actions.shape == (len(rows_of(observations)), *space.shape)
        for row, observation in enumerate(rows_of(observations)):
            mask = None if masks is None else masks[row]
            action = predict(agent, observation, mask, deterministic)
            assert np.shape(action) == space.shape
            for each in (action, actions[row]):
                assert space.contains(each), f"{each!r} is not in {space}"
                assert mask is None or mask[tuple(np.atleast_1d(each))]


@every_agent
def test_deterministic_predictions_repeat_and_do_not_depend_on_the_batch(name):
    agent = trained(name)[0]
    for observations, masks in situations(agent, name):
        first, second = (predict(agent, observations, masks, True) for _ in range(2))
        np.testing.assert_array_equal(first, second)
        for row, observation in enumerate(rows_of(observations)):
            single = predict(agent, observation, None if masks is None else masks[row], True)
            assert_close(single, first[row])
    np.testing.assert_array_equal(predictions(agent, name), predictions(agent, name))


def assert_close(left, right):
    """Equal up to rounding; texts are equal."""
    if isinstance(left, str):
        assert left == right
    else:
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-5)


# -- seeds -----------------------------------------------------------------------------------------


@every_agent
def test_same_seed_same_parameters_other_seed_other_run(name):
    first, steps = trained(name)[0], agent_class(name).example.steps
    again = make_agent(name).learn(steps)
    assert_same_parameters(first, again)
    np.testing.assert_array_equal(predictions(first, name), predictions(again, name))
    other = make_agent(name, seed=1).learn(steps)
    ours, theirs = tensors(first.get_parameters()), tensors(other.get_parameters())
    same = all((ours[place] == theirs[place]).all() for place in ours)
    # A rule without parameters still meets other episodes.
    assert not same or first._metrics != other._metrics


# -- environments and parameters -------------------------------------------------------------------


@every_agent
def test_set_env_goes_on_in_another_environment_with_the_same_spaces(name):
    agent = make_agent(name).learn(1)
    before = agent.num_timesteps
    agent.set_env(agent.example.build())
    agent.learn(1, reset_num_timesteps=False)
    assert agent.num_timesteps > before
    with pytest.raises(ValueError, match="spaces do not match"):
        agent.set_env(gym.make("CartPole-v1"))


@every_agent
def test_parameters_can_be_read_and_set(name):
    agent, other = trained(name)[0], make_agent(name, seed=7)
    other.set_parameters(agent.get_parameters(), exact_match=True)
    assert_same_parameters(agent, other)
    np.testing.assert_array_equal(predictions(agent, name), predictions(other, name))


@every_agent
def test_wrong_arguments_are_refused(name, tmp_path):
    cls = agent_class(name)
    with pytest.raises(ValueError, match="NoSuchPolicy"):
        cls("NoSuchPolicy", cls.example.build())
    agent = make_agent(name)
    with pytest.raises(ValueError, match="total_timesteps must be at least 0, got -1"):
        agent.learn(-1)
    with pytest.raises(ValueError, match="resume=True needs checkpoint"):
        agent.learn(1, resume=True)
    agent.save(tmp_path / "agent")
    with pytest.raises(ValueError, match="environment|data"):
        cls.load(tmp_path / "agent").learn(1)


# -- save and load ---------------------------------------------------------------------------------


@every_agent
def test_a_loaded_agent_predicts_and_goes_on_like_the_saved_one(name, tmp_path):
    agent, cls = trained(name)[0], agent_class(name)
    agent.save(tmp_path / "agent")
    assert (tmp_path / "agent.zip").is_file()
    for env in (None, agent.example.build()):
        loaded = cls.load(tmp_path / "agent", env=env)
        assert type(loaded) is cls
        assert loaded.num_timesteps == agent.num_timesteps
        assert loaded.observation_space == agent.observation_space
        assert loaded.action_space == agent.action_space
        assert_same_parameters(agent, loaded)
        np.testing.assert_array_equal(predictions(agent, name), predictions(loaded, name))
    loaded.learn(1, reset_num_timesteps=False)
    assert loaded.num_timesteps > agent.num_timesteps
    with pytest.raises(ValueError, match="spaces do not match"):
        cls.load(tmp_path / "agent", env=gym.make("CartPole-v1"))


@every_agent
def test_arguments_survive_a_checkpoint(name, tmp_path):
    agent = make_agent(name, seed=11)
    agent.save(tmp_path / "agent")
    loaded = agent_class(name).load(tmp_path / "agent")
    assert loaded.seed == 11
    # Tuples come back as lists.
    assert json.dumps(loaded.arguments(), default=repr) == json.dumps(
        agent.arguments(), default=repr
    )
    assert set(agent.example.kwargs) <= set(agent.arguments())


@every_agent
def test_a_damaged_checkpoint_is_refused_in_one_line(name, tmp_path):
    agent, cls, path = trained(name)[0], agent_class(name), tmp_path / "agent.zip"
    agent.save(path)
    whole = path.read_bytes()
    for length in (0, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert_refused(cls, path)
    refused = 0
    for place in np.random.default_rng(0).integers(len(whole), size=25):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            loaded = cls.load(path)
        except ValueError as error:
            assert_one_line(error, path)
            refused += 1
        else:  # a byte that does not matter, such as that of a date
            np.testing.assert_array_equal(predictions(agent, name), predictions(loaded, name))
    assert refused > 20
    path.write_text("no zip at all")
    assert_refused(cls, path)
    with pytest.raises(FileNotFoundError, match="missing.zip: no such checkpoint"):
        cls.load(tmp_path / "missing")


@every_agent
def test_a_checkpoint_of_another_class_is_refused(name, tmp_path):
    other = next(each for each in NAMES if each != name)
    trained(other)[0].save(tmp_path / "other")
    cls = agent_class(name)
    with pytest.raises(ValueError, match=f"holds a .*{other}, not a .*{name}") as caught:
        cls.load(tmp_path / "other")
    assert_one_line(caught.value, tmp_path / "other")


def assert_refused(cls, path):
    with pytest.raises(ValueError) as caught:
        cls.load(path)
    assert_one_line(caught.value, path)


def assert_one_line(error, path):
    assert str(path) in str(error)
    assert "\n" not in str(error)


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@every_agent
def test_a_pickle_in_the_file_is_never_executed(name, tmp_path):
    agent, cls = trained(name)[0], agent_class(name)
    sprung, path = tmp_path / "sprung", tmp_path / "agent.zip"
    trap = pickle.dumps(Trap(sprung))
    pickle.loads(trap).close()
    assert sprung.exists()  # the trap works
    sprung.unlink()
    names = ("data", "policy.pth", "policy.optimizer.pth", "pytorch_variables.pth")
    with zipfile.ZipFile(path, "w") as archive:
        for member in names:
            archive.writestr(member, trap)
    assert_refused(cls, path)
    agent.save(path)
    with zipfile.ZipFile(path, "a") as archive:
        for member in names:
            archive.writestr(member, trap)
    np.testing.assert_array_equal(predictions(cls.load(path), name), predictions(agent, name))
    with zipfile.ZipFile(path) as archive:
        config = json.loads(archive.read("config.json"))
        parameters = archive.read("tensors.safetensors")
    for change in (
        {"arguments": {**config["arguments"], "seed": {"$class": ["os", "system"]}}},
        {"arguments": {**config["arguments"], "env": "os:system"}},
        {"policy": "os.system"},
        {"class": "os.system"},
    ):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("config.json", json.dumps({**config, **change}))
            archive.writestr("tensors.safetensors", parameters)
        assert_refused(cls, path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("tensors.safetensors", trap)
    assert_refused(cls, path)
    assert not sprung.exists()


# -- resume ----------------------------------------------------------------------------------------


@every_agent
def test_killed_and_resumed_equals_uninterrupted(name, tmp_path):
    uninterrupted, calls = trained(name)
    context = multiprocessing.get_context("forkserver")
    # The server has imported what is slow to import, and forks a clean process in no time.
    context.set_forkserver_preload(["pytest", "palaestra.agents.base.simulator_gradient"])
    process = context.Process(target=learn_and_die, args=(name, tmp_path, max(int(0.6 * calls), 2)))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    assert (tmp_path / "latest.zip").is_file()

    agent, recorder = make_agent(name), Recorder()
    np.random.seed(99)  # what the generators hold now must not matter
    agent.learn(agent.example.steps, callback=recorder, checkpoint=tmp_path, resume=True)
    assert 0 < recorder.calls < calls
    assert agent.num_timesteps == uninterrupted.num_timesteps
    assert_same_parameters(agent, uninterrupted)
    np.testing.assert_array_equal(predictions(agent, name), predictions(uninterrupted, name))

    # What has finished is not learned again, and ends the same.
    again, recorder = make_agent(name), Recorder()
    again.learn(again.example.steps, callback=recorder, checkpoint=tmp_path, resume=True)
    assert recorder.calls == 0
    assert_same_parameters(again, uninterrupted)


@every_agent
def test_what_does_not_belong_to_the_run_is_not_resumed(name, tmp_path):
    steps = agent_class(name).example.steps
    make_agent(name).learn(1, checkpoint=tmp_path)
    with pytest.raises(ValueError, match="other arguments: .'seed'"):
        make_agent(name, seed=5).learn(steps, checkpoint=tmp_path, resume=True)
    # A run that starts anew replaces what an earlier one left, before anything can go wrong.
    fresh = make_agent(name, seed=5)
    fresh.learn(steps, callback=Recorder(stop_at=1), checkpoint=tmp_path, checkpoint_seconds=1e9)
    make_agent(name, seed=5).learn(1, checkpoint=tmp_path, resume=True)
    (tmp_path / "latest.zip").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="latest.zip"):
        make_agent(name).learn(steps, checkpoint=tmp_path, resume=True)


@every_agent
def test_a_class_has_the_name_and_the_example_that_it_is_listed_with(name):
    cls = agent_class(name)
    assert cls.__name__ == name
    assert inspect.getdoc(cls) != inspect.getdoc(cls.__base__)
    assert cls.example.steps >= 1
