"""The file of a checkpoint: what it holds, that nothing in it runs, and that writing is atomic."""

from __future__ import annotations

import json
import os
import stat
import zipfile

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.utils import LinearSchedule

from palaestra.agents.base import checkpoint

SPACES = [
    spaces.Box(-1.0, 1.0, (3,), np.float32),
    spaces.Box(np.array([0.0, -np.inf]), np.array([np.inf, 2.5]), dtype=np.float64),
    spaces.Box(0, 255, (3, 8, 8), np.uint8),
    spaces.Box(-np.inf, np.inf, (), np.float32),
    spaces.Discrete(7),
    spaces.Discrete(4, start=-2),
    spaces.MultiDiscrete([3, 4, 2]),
    spaces.MultiDiscrete([[3, 4], [2, 5]], start=[[1, 0], [0, -3]]),
    spaces.MultiBinary(5),
    spaces.MultiBinary([2, 3]),
    spaces.Text(12, min_length=3, charset="abc"),
    spaces.Dict({"a": spaces.Discrete(2), "b": spaces.Dict({"c": spaces.MultiBinary(2)})}),
    spaces.Tuple([spaces.Discrete(2), spaces.Box(0.0, 1.0, (2,))]),
]


def through_json(value):
    return json.loads(json.dumps(value))


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_a_space_survives(space):
    found = checkpoint.decode_space(through_json(checkpoint.encode_space(space)))
    assert found == space
    assert found.dtype == space.dtype
    if isinstance(space, spaces.Box):
        assert (found.low == space.low).all() and (found.high == space.high).all()


def test_a_space_without_a_fixed_size_is_refused():
    with pytest.raises(ValueError, match="Graph.* cannot be saved"):
        checkpoint.encode_space(spaces.Graph(spaces.Discrete(2), None))
    with pytest.raises(ValueError, match="unknown kind of space 'Secret'"):
        checkpoint.decode_space({"kind": "Secret"})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text().filter(lambda k: not k.startswith("$")), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(json_values)
def test_plain_values_survive(value):
    assert checkpoint.decode(through_json(checkpoint.encode(value))) == value


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(2, 3) / 7,
        np.float32([1e-30, 0.1, np.inf]),
        np.zeros((0, 3)),
        np.array(5),
        np.array([[True], [False]]),
    ],
)
def test_an_array_survives_with_shape_and_type(array):
    found = checkpoint.decode(through_json(checkpoint.encode({"x": [array]})))["x"][0]
    np.testing.assert_array_equal(found, array)
    assert found.dtype == array.dtype and found.shape == array.shape


def test_classes_and_schedules_survive():
    given_values = {
        "activation_fn": torch.nn.Tanh,
        "optimizer_class": torch.optim.RMSprop,
        "rollout_buffer_class": RolloutBuffer,
        "features_extractor_class": FlattenExtractor,
        "numbers": (np.float32(0.5), np.int64(3), np.bool_(True)),
    }
    found = checkpoint.decode(through_json(checkpoint.encode(given_values)))
    assert found == {**given_values, "numbers": [0.5, 3, True]}
    schedule = checkpoint.decode(through_json(checkpoint.encode(LinearSchedule(1.0, 0.1, 0.5))))
    assert [schedule(x) for x in (1.0, 0.75, 0.0)] == pytest.approx([1.0, 0.55, 0.1])


class Outsider(torch.nn.Module):
    pass


@pytest.mark.parametrize(
    "value", [lambda x: x, object(), {1: 2}, {"$array": 1}, Outsider, dict, print, 1j, {3}]
)
def test_what_needs_pickle_is_refused(value):
    with pytest.raises(ValueError, match="without pickle|keys must be strings"):
        checkpoint.encode({"given": value})


@pytest.mark.parametrize(
    "value",
    [
        {"$class": ["os", "system"]},
        {"$class": ["torch.nn", "functional"]},
        {"$class": ["torch.nn", "os"]},
        {"$class": ["torch.optim", "__loader__"]},
        {"$call": ["os.system", "true"]},
        {"$array": [[1], [1], "float64"], "$class": ["torch.nn", "Tanh"]},
    ],
)
def test_no_other_class_is_ever_named(value):
    with pytest.raises(ValueError, match="may not name the class|unknown kind of value"):
        checkpoint.decode([value])


TENSORS = {
    "a": torch.arange(6.0).reshape(2, 3),
    "empty": torch.zeros(0, 4),
    "scalar": torch.tensor(2.5, dtype=torch.float64),
    "flags": torch.tensor([True, False]),
    "half": torch.ones(3, dtype=torch.bfloat16),
}


def test_tensors_survive_also_those_that_share_memory(tmp_path):
    shared = {**TENSORS, "row": TENSORS["a"][1], "turned": TENSORS["a"].T}
    checkpoint.write(tmp_path / "x", {"n": 1}, shared)
    config, found = checkpoint.read(tmp_path / "x.zip")
    assert config == {"format": 1, "n": 1}
    assert found.keys() == shared.keys()
    for name, tensor in shared.items():
        assert torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    checkpoint.write(tmp_path / "x.zip", {"n": 1}, TENSORS)
    before = (tmp_path / "x.zip").read_bytes()

    def full(*_arguments, **_named):
        raise OSError("no space left on device")

    for module, name in ((zipfile.ZipFile, "writestr"), (os, "fsync"), (os, "replace")):
        with monkeypatch.context() as patched:
            patched.setattr(module, name, full)
            with pytest.raises(OSError, match="no space left"):
                checkpoint.write(tmp_path / "x.zip", {"n": 2}, TENSORS)
        assert os.listdir(tmp_path) == ["x.zip"]
        assert (tmp_path / "x.zip").read_bytes() == before
    with pytest.raises(ValueError, match="x.zip: cannot be saved without pickle"):
        checkpoint.write(tmp_path / "x.zip", {"n": object()}, TENSORS)
    assert (tmp_path / "x.zip").read_bytes() == before


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path, monkeypatch):
    checkpoint.write(tmp_path / "x.zip", {"n": 1}, TENSORS)
    seen, replace = [], os.replace

    def look_then_replace(*arguments):
        seen.append(checkpoint.read(tmp_path / "x.zip")[0]["n"])
        replace(*arguments)

    monkeypatch.setattr(os, "replace", look_then_replace)
    checkpoint.write(tmp_path / "x.zip", {"n": 2}, TENSORS)
    assert seen == [1]
    assert checkpoint.read(tmp_path / "x.zip")[0]["n"] == 2


def test_the_file_has_the_permissions_of_any_new_file(tmp_path):
    checkpoint.write(tmp_path / "x.zip", {}, TENSORS)
    (tmp_path / "plain").touch()
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("x.zip", "plain")]
    assert modes[0] == modes[1]


def test_a_file_of_another_format_is_refused(tmp_path):
    path = checkpoint.write(tmp_path / "x.zip", {}, TENSORS)
    for text, message in (
        ('{"format": 99}', "format 99, this version reads format 1"),
        ("[1, 2]", "format 'list'"),
        ('{"format": ', "not a checkpoint, or a damaged one"),
        ("[" * 100_000, "not a checkpoint, or a damaged one"),
    ):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("config.json", text)
        with pytest.raises(ValueError, match=message):
            checkpoint.read(path)
    with pytest.raises(FileNotFoundError, match="nothing.zip: no such checkpoint"):
        checkpoint.read(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError):
        checkpoint.read_config(tmp_path)


def test_an_optimizer_goes_on_as_if_it_had_not_been_saved():
    def steps(weights, optimizer, count):
        for _ in range(count):
            optimizer.zero_grad()
            (weights**2).sum().backward()
            optimizer.step()

    ours = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = torch.optim.Adam([ours], lr=0.1)
    steps(ours, optimizer, 3)
    theirs = torch.nn.Parameter(ours.detach().clone())
    other = torch.optim.Adam([theirs], lr=0.1)
    saved = checkpoint.flatten_optimizer(optimizer, "optimizer")
    checkpoint.restore_optimizer(
        other, {name.removeprefix("optimizer."): value.clone() for name, value in saved.items()}
    )
    steps(ours, optimizer, 3)
    steps(theirs, other, 3)
    assert torch.equal(ours, theirs)
