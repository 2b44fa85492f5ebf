"""Minari's local data sets: both directions, its own readers and writers, and damage."""

from __future__ import annotations

import json
from dataclasses import replace

import gymnasium as gym
import h5py
import minari
import numpy as np
import pytest
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer

from palaestra.agents.base.minari_files import read_minari, recorded_environment, write_minari
from palaestra.agents.base.normalised_scores import Reference, reference_of
from palaestra.agents.base.offline_data import OfflineDataset
from palaestra.agents.base.offline_files import load_dataset

NAME = "pendulum/random-v0"


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path / "minari"


def pendulum():
    return gym.make("TorquePendulum-v0", max_steps=10)


def recorded():
    """Two whole episodes of ten steps, and one that is cut after five."""
    return OfflineDataset.record(pendulum(), 25)


def assert_same(found, expected):
    assert set(found.arrays()) == set(expected.arrays())
    for name, array in expected.arrays().items():
        np.testing.assert_array_equal(getattr(found, name), array)
        assert getattr(found, name).dtype == array.dtype


def episodes(lengths=(3, 2), ended=(True, False), shown=3, dtype=np.float32):
    """Buffers as Minari's own recorder fills them."""
    found, start = [], 0
    for length, end in zip(lengths, ended, strict=True):
        rows = np.arange(start, start + length + 1, dtype=dtype)
        last = np.arange(length) == length - 1
        found.append(
            EpisodeBuffer(
                observations=np.stack([rows] * shown, axis=1),
                actions=rows[:-1, None] / 1000,
                rewards=list(rows[:-1]),
                terminations=list(last & end),
                truncations=list(last & ~np.array(end)),
            )
        )
        start += 100
    return found


def create(name="own/steps-v0", buffers=None, **arguments):
    given = {
        "observation_space": spaces.Box(-np.inf, np.inf, (3,)),
        "action_space": spaces.Box(-1, 1, (1,)),
        **arguments,
    }
    with pytest.warns(UserWarning):  # of an author, and so on
        minari.create_dataset_from_buffers(
            name, episodes() if buffers is None else buffers, **given
        )
    return name


def test_what_is_written_is_read_back(root):
    data = recorded()
    folder = write_minari(NAME, data, {"ref_min_score": -50.0, "ref_max_score": -1.0, "seed": 3})
    assert folder == root / NAME
    for source in (NAME, folder, folder / "data"):
        found = read_minari(source)
        assert_same(found, data)
        assert found.observation_space == data.observation_space
        assert found.action_space == data.action_space
    assert found.metadata["seed"] == 3 and found.metadata["total_episodes"] == 3
    assert reference_of(found) == Reference(-50, -1)
    assert_same(load_dataset(NAME, env="TorquePendulum-v0"), data)
    assert [x.name for x in folder.parent.iterdir() if x.is_dir()] == ["random-v0"]


def test_minari_reads_what_is_written():
    data = recorded()
    write_minari(NAME, data, {"ref_min_score": -50.0, "ref_max_score": -1.0})
    theirs = minari.load_dataset(NAME)
    assert list(minari.list_local_datasets()) == [NAME]
    assert (theirs.total_episodes, theirs.total_steps) == (3, 25)
    assert minari.get_normalized_score(theirs, np.array([-1.0])) == [1.0]
    start = 0
    for episode in theirs:
        end = start + len(episode.rewards)
        np.testing.assert_array_equal(episode.observations[:-1], data.observations[start:end])
        np.testing.assert_array_equal(episode.observations[1:], data.next_observations[start:end])
        for name in ("actions", "rewards", "terminations", "truncations"):
            np.testing.assert_array_equal(getattr(episode, name), getattr(data, name)[start:end])
        start = end


@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
def test_what_minari_writes_is_read(data_format):
    found = read_minari(create(data_format=data_format))
    assert found.rewards.tolist() == [0, 1, 2, 100, 101]
    assert found.observations[:, 0].tolist() == [0, 1, 2, 100, 101]
    assert found.next_observations[:, 2].tolist() == [1, 2, 3, 101, 102]
    assert found.terminations.tolist() == [False, False, True, False, False]
    assert found.truncations.tolist() == [False, False, False, False, True]


def test_an_episode_without_an_end_is_cut_where_it_ends():
    buffers = episodes()
    buffers[1].truncations[-1] = False
    found = read_minari(create(buffers=buffers))
    assert np.flatnonzero(found.truncations).tolist() == [4]


def test_dictionaries_become_vectors_as_in_gymnasium():
    inner = {"goal": spaces.Box(-9, 9, (1,)), "at": spaces.Box(-99, 99, (2,))}
    space = spaces.Dict(inner)
    rows = np.arange(4, dtype=np.float32)
    shown = {"at": np.stack([rows, -rows], axis=1), "goal": np.full((4, 1), 7, np.float32)}
    buffer = replace(episodes((3,), (True,))[0], observations=shown)
    found = read_minari(create(buffers=[buffer], observation_space=space))
    expected = [spaces.flatten(space, {k: v[i] for k, v in shown.items()}) for i in range(3)]
    np.testing.assert_array_equal(found.observations, expected)
    assert found.observation_space == spaces.flatten_space(space)


def test_whole_numbers_stay_whole():
    env = gym.make("IncomeGamble-v0")
    data = OfflineDataset.record(env, 12)
    write_minari("gamble/random-v0", data)
    found = read_minari("gamble/random-v0")
    assert_same(found, data)
    assert np.issubdtype(found.actions.dtype, np.integer)


def test_the_environment_is_made_again_by_its_registered_id(root):
    folder = write_minari(NAME, recorded())
    found = read_minari(NAME)
    env = recorded_environment(found.metadata)
    assert env.spec.id == "TorquePendulum-v0" and env.spec.kwargs == {"max_steps": 10}
    # Neither reading nor making runs what a file names as entry point.
    path = folder / "data" / "metadata.json"
    metadata = json.loads(path.read_text())
    spec = json.loads(metadata["env_spec"]) | {"entry_point": "os:abort", "kwargs": {}}
    path.write_text(json.dumps(metadata | {"env_spec": json.dumps(spec)}))
    assert recorded_environment(read_minari(NAME).metadata).spec.id == "TorquePendulum-v0"
    with pytest.raises(ValueError, match="recorded in 'Nowhere-v0', which is not registered"):
        recorded_environment({"env_spec": json.dumps({"id": "Nowhere-v0"})})
    with pytest.raises(ValueError, match="does not say in which environment"):
        recorded_environment({})


def test_only_whole_episodes_are_stored(root):
    data = recorded()
    following = data.next_observations.copy()
    following[12] += 1
    with pytest.raises(
        ValueError, match="episode 1: what follows step 2 is not what step 3 begins"
    ):
        write_minari(NAME, replace(data, next_observations=following))
    with pytest.raises(ValueError, match="need next_observations, truncations, which the data do"):
        write_minari(NAME, replace(data, next_observations=None, truncations=None))
    with pytest.raises(ValueError, match="Malformed dataset ID: no version"):
        write_minari("no version", data)
    write_minari(NAME, data)
    with pytest.raises(ValueError, match="random-v0 exists: choose another name or version"):
        write_minari(NAME, data)


def test_what_cannot_be_stored_leaves_nothing_behind(root):
    with pytest.raises(TypeError):
        write_minari(NAME, recorded(), {"what": object()})
    assert list((root / "pendulum").glob("**/*.hdf5")) == []
    write_minari(NAME, recorded())


# -- damage ---------------------------------------------------------------------------------------


def change(root, name, path, value):
    with h5py.File(root / name / "data" / "main_data.hdf5", "a") as file:
        if value is None:
            del file[path]
        else:
            file[path][...] = value


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (
            "episode_1/observations",
            np.nan,
            r"observations of episode 1, step 0 \(row 3\): .*finite",
        ),
        ("episode_1/rewards", np.inf, r"rewards of episode 1, step 0 \(row 3\): inf is not finite"),
        ("episode_0/actions", 2.0, r"actions of episode 0, step 0 \(row 0\): .* lies outside Box"),
        ("episode_1/actions", None, "actions of episode 1 cannot be read"),
        ("episode_1", None, "observations of episode 1 cannot be read"),
    ],
)
def test_damage_is_named_with_its_place(root, path, value, message):
    name = create()
    change(root, name, path, value)
    with pytest.raises(ValueError, match=message) as error:
        read_minari(name)
    assert str(error.value).startswith(str(root / name))


def test_episodes_of_other_lengths_are_refused():
    buffers = episodes()
    buffers[1].rewards.append(5.0)
    with pytest.raises(
        ValueError, match="episode 1 has 3 observations and 3 rewards: needed are 2"
    ):
        read_minari(create("own/longer-v0", buffers=buffers))
    buffers = episodes(shown=4)
    with pytest.raises(ValueError, match=r"observations of episode 0 have shape \(4,\), needed is"):
        read_minari(create("own/wider-v0", buffers=buffers))


def test_a_data_set_that_is_cut_off_is_refused(root):
    name = create()
    file = root / name / "data" / "main_data.hdf5"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="damaged or cut off"):
        read_minari(name)
    file.write_bytes(whole)
    path = root / name / "data" / "metadata.json"
    metadata = json.loads(path.read_text())
    path.write_text(json.dumps(metadata | {"total_steps": 7}))
    with pytest.raises(ValueError, match="has 5 steps, its metadata 7"):
        read_minari(name)
    path.write_text(json.dumps(metadata | {"total_steps": 4}))
    with pytest.raises(ValueError, match="has 5 steps in 2 episodes, its metadata 4"):
        read_minari(name)
    path.write_text(json.dumps(metadata | {"total_steps": 0}))
    with pytest.raises(ValueError, match="holds no steps"):
        read_minari(name)
    del metadata["action_space"]
    path.write_text(json.dumps(metadata))
    with pytest.raises(ValueError, match="metadata.json lacks action_space"):
        read_minari(name)
    path.write_text("{")
    with pytest.raises(ValueError, match=str(root / name)):
        read_minari(name)


def test_a_name_that_is_not_there_is_refused_with_those_that_are():
    write_minari(NAME, recorded())
    with pytest.raises(FileNotFoundError, match=rf"called 'own/x-v0' .* there are \['{NAME}'\]"):
        read_minari("own/x-v0")


def test_spaces_that_are_no_arrays_are_refused():
    buffer = replace(episodes((2,), (True,))[0], observations=["a", "b", "c"])
    name = create(buffers=[buffer], observation_space=spaces.Text(5))
    with pytest.raises(ValueError, match=r"observations is of Text\(.*data sets hold arrays"):
        read_minari(name)
