"""Minari's local data sets: read into arrays, and written from them.

A data set is a folder below `MINARI_DATASETS_PATH` (by default `~/.minari/datasets`), with its
episodes in HDF5. Reading goes to that file itself, object by object: it holds five arrays per
episode, and opening them is what takes the time.
"""

from __future__ import annotations

import importlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from ...extras import require
from .offline_data import OfflineDataset
from .offline_files import FLAGS, FileDataset, as_environment, checked, reading
from .offline_tensors import episode_ends

METADATA, STEPS = "metadata.json", "main_data.hdf5"
ENTRIES = ("observation_space", "action_space", "total_episodes", "total_steps", "data_format")
Leaf = tuple[str, gym.Space[Any]]


def read_minari(source: str | Path, env: Any = None) -> FileDataset:
    """The steps of a data set, episode by episode, with next observations and both flags.

    An observation that is a dictionary of arrays becomes one vector, as in Gymnasium's
    `FlattenObservation`. The last step of an episode that says neither is marked as truncated.

    Args:
        source: name of a local data set ("D4RL/pen/human-v2"), or its folder.
        env: environment to evaluate in, or its Gymnasium id; one with dictionaries is flattened.
            None: there is none (see `recorded_environment`).

    Raises:
        FileNotFoundError: there is no such data set.
        ValueError: it is damaged or cut off, or holds a number that is not finite or outside its
            space; the message says in which episode and step.
        ImportError: the extra `offline` is not installed.
    """
    folder = find_minari(source)
    with reading(folder):
        metadata = json.loads((folder / METADATA).read_text(encoding="utf-8"))
        if missing := [name for name in ENTRIES if name not in metadata]:
            # Without spaces Minari would make the environment that the file names, by any entry
            # point that the file names.
            raise ValueError(f"{METADATA} lacks {', '.join(missing)}")
        observation_space, action_space = (_space(metadata[name]) for name in ENTRIES[:2])
        observations = leaves("observations", observation_space)
        actions = leaves("actions", action_space)
        parts = _parts(folder, metadata, [*observations, *actions])
        columns = _joined(parts, observations, actions, metadata)
    return checked(
        str(folder),
        columns,
        as_environment(env),
        _flattened(observation_space),
        _flattened(action_space),
        metadata={name: x for name, x in metadata.items() if not name.endswith("_space")},
    )


def write_minari(
    name: str, dataset: OfflineDataset, metadata: Mapping[str, Any] | None = None
) -> Path:
    """Store steps as a local Minari data set; readers see all of it or nothing.

    Args:
        name: "namespace/name-v0" in Minari's form; the namespace may have several parts, or none.
        dataset: whole episodes in the order in which they were played, with rewards, next
            observations and flags. Its `env`, if it has a Gymnasium specification, is named.
        metadata: further entries (`ref_min_score`, `algorithm_name`, ...), JSON values.

    Returns:
        The folder.

    Raises:
        ValueError: the name is malformed or taken, or steps of an episode do not follow each other.
        ImportError: the extra `offline` is not installed.
    """
    final = free_folder(name)
    episodes = list(_episodes(dataset))
    minari = require("minari", "offline")
    storage_class = importlib.import_module("minari.dataset.minari_storage").MinariStorage
    namespaces = importlib.import_module("minari.namespace")
    namespace = name.rpartition("/")[0]
    if namespace and namespace not in namespaces.list_local_namespaces():
        namespaces.create_namespace(namespace)
    temporary = final.with_name(f".{final.name}.{secrets.token_hex(4)}")
    (temporary / "data").mkdir(parents=True)
    try:
        storage = storage_class.new(
            temporary / "data",
            observation_space=dataset.observation_space,
            action_space=dataset.action_space,
            env_spec=getattr(dataset.env, "spec", None),
            jpeg_encoding=False,
        )
        storage.update_episodes(
            minari.data_collector.EpisodeBuffer(**episode) for episode in episodes
        )
        own = {"dataset_id": name, "minari_version": minari.__version__}
        storage.update_metadata({**(metadata or {}), **own})
        os.replace(temporary, final)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return final


def free_folder(name: str) -> Path:
    """Where a data set of this name will be; errors as in `write_minari`."""
    require("minari", "offline")
    importlib.import_module("minari.dataset.minari_dataset").parse_dataset_id(name)
    final = minari_root() / name
    if final.exists():
        raise ValueError(f"{final} exists: choose another name or version")
    return final


def recorded_environment(metadata: Mapping[str, Any]) -> gym.Env[Any, Any]:
    """A new environment of the kind in which a data set was recorded.

    Only its id and its arguments are taken from the file: the class is the one that is registered
    here under this id.

    Raises:
        ValueError: the data set does not name an environment, or one that is not registered.
    """
    if not metadata.get("env_spec"):
        raise ValueError("the data set does not say in which environment it was recorded")
    spec = json.loads(metadata["env_spec"])
    name = str(spec.get("id"))
    if name not in gym.registry:
        raise ValueError(f"the data set was recorded in {name!r}, which is not registered here")
    return as_environment(gym.make(name, **(spec.get("kwargs") or {})))


def find_minari(source: str | Path) -> Path:
    """The folder with the metadata of a data set; errors as in `read_minari`."""
    for folder in (Path(source) / "data", Path(source), minari_root() / source / "data"):
        if (folder / METADATA).is_file():
            return folder
    known = sorted(
        str(x.parents[1].relative_to(minari_root()))
        for x in minari_root().rglob(f"data/{METADATA}")
    )
    raise FileNotFoundError(
        f"no Minari data set is called {str(source)!r} below {minari_root()}; there are {known}"
    )


def minari_root() -> Path:
    """The folder of the local data sets."""
    given = os.environ.get("MINARI_DATASETS_PATH")
    return Path(given) if given else Path.home() / ".minari" / "datasets"


# -- spaces ----------------------------------------------------------------------------------------


def _space(text: str) -> gym.Space[Any]:
    require("minari", "offline")
    return importlib.import_module("minari.serialization").deserialize_space(text)


def leaves(name: str, space: gym.Space[Any]) -> list[Leaf]:
    """The arrays below a dictionary of spaces, by the path under which they are stored.

    Raises:
        ValueError: one of them is no array, or several are not boxes.
    """
    found: list[Leaf] = []
    if isinstance(space, spaces.Dict):
        for key, inner in space.spaces.items():
            found += leaves(f"{name}/{key}", inner)
    elif isinstance(space, spaces.Tuple):
        for index, inner in enumerate(space.spaces):
            found += leaves(f"{name}/_index_{index}", inner)
    else:
        found = [(name, space)]
    for path, inner in found:
        numbers = spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary
        if not isinstance(inner, spaces.Box if len(found) > 1 else numbers):
            raise ValueError(
                f"{path} is of {inner}; data sets hold arrays, or dictionaries of boxes"
            )
    return found


def _flattened(space: gym.Space[Any]) -> gym.Space[Any]:
    nested = isinstance(space, spaces.Dict | spaces.Tuple)
    return spaces.flatten_space(space) if nested else space


# -- episodes --------------------------------------------------------------------------------------


def _parts(
    folder: Path, metadata: Mapping[str, Any], arrays: list[Leaf]
) -> Iterator[dict[str, NDArray[Any]]]:
    """The arrays of one episode after the other, by the path under which they are stored."""
    total = int(metadata["total_episodes"])
    names = [*(name for name, _ in arrays), "rewards", *FLAGS]
    compressed = metadata.get("jpeg_encoding", True) and any(
        _is_image(space) for _, space in arrays
    )
    if metadata["data_format"] != "hdf5" or compressed:
        storage = importlib.import_module("minari.dataset.minari_storage").MinariStorage.read(
            folder
        )
        for episode in storage.get_episodes(range(total)):
            yield {name: np.asarray(_entry(episode, name)) for name in names}
        return
    h5py = require("h5py", "offline")
    everything = h5py.h5s.ALL
    types: dict[str, tuple[Any, Any]] = {}  # to look at the type of every array takes a third
    with h5py.File(folder / STEPS, "r") as file:
        for index in range(total):
            found = {}
            for name in names:
                try:
                    opened = h5py.h5d.open(file.id, f"episode_{index}/{name}".encode())
                    if name not in types:
                        types[name] = opened.dtype, h5py.h5t.py_create(opened.dtype)
                    dtype, stored = types[name]
                    found[name] = np.empty(opened.shape, dtype)
                    opened.read(everything, everything, found[name], stored)
                except (KeyError, OSError, RuntimeError) as error:
                    raise ValueError(f"{name} of episode {index} cannot be read: {error}") from None
            yield found


def _is_image(space: gym.Space[Any]) -> bool:
    return isinstance(space, spaces.Box) and len(space.shape) > 1 and space.dtype == np.uint8


def _entry(episode: Any, path: str) -> Any:
    for key in path.split("/"):
        index = key.removeprefix("_index_")
        episode = episode[int(index) if index != key else key]
    return episode


def _joined(
    parts: Iterator[dict[str, NDArray[Any]]],
    observations: list[Leaf],
    actions: list[Leaf],
    metadata: Mapping[str, Any],
) -> dict[str, NDArray[Any]]:
    """The arrays of all episodes, one after the other.

    An episode of T steps has T + 1 observations, of which the last T are the next ones.
    """
    total = int(metadata["total_steps"])
    if not total:
        raise ValueError("holds no steps")
    columns: dict[str, NDArray[Any]] = {}
    start = 0
    for number, part in enumerate(parts):
        shown = _vector(part, observations, number)
        steps = len(shown) - 1
        found = {
            "observations": shown[:-1],
            "next_observations": shown[1:],
            "actions": _vector(part, actions, number),
            **{name: part[name] for name in ("rewards", *FLAGS)},
        }
        end = start + steps
        if end > total:
            raise ValueError(f"has {end} steps in {number + 1} episodes, its metadata {total}")
        for name, array in found.items():
            if len(array) != steps:
                raise ValueError(
                    f"episode {number} has {steps + 1} observations and {len(array)} {name}: "
                    f"needed are {steps}"
                )
            if name not in columns:
                dtype = bool if name in FLAGS else array.dtype
                columns[name] = np.empty((total, *array.shape[1:]), dtype)
            columns[name][start:end] = array
        if steps and not columns["terminations"][end - 1]:
            columns["truncations"][end - 1] = True
        start = end
    if start != total:
        raise ValueError(f"has {start} steps, its metadata {total}")
    return columns


def _vector(part: Mapping[str, NDArray[Any]], arrays: list[Leaf], number: int) -> NDArray[Any]:
    """The array of a space; of a dictionary its boxes side by side."""
    for name, space in arrays:
        if part[name].shape[1:] != space.shape:
            raise ValueError(
                f"entries of {name} of episode {number} have shape {part[name].shape[1:]}, "
                f"needed is {space.shape}"
            )
    if len(arrays) == 1 and "/" not in arrays[0][0]:
        return part[arrays[0][0]]
    flat = [part[name].reshape(len(part[name]), -1) for name, _ in arrays]
    return np.concatenate(flat, axis=1)


def _episodes(dataset: OfflineDataset) -> Iterator[dict[str, Any]]:
    """The episodes of a data set in Minari's form, with one observation more than steps."""
    needed = ("rewards", "next_observations", *FLAGS)
    if missing := [name for name in needed if getattr(dataset, name) is None]:
        raise ValueError(
            f"Minari's data sets need {', '.join(missing)}, which the data do not have"
        )
    arrays = dataset.arrays()
    start = 0
    for number, end in enumerate(episode_ends(dataset)):
        seen, following = (arrays[n][start:end] for n in ("observations", "next_observations"))
        if len(seen) > 1 and (apart := seen[1:] != following[:-1]).any():
            step = int(np.argwhere(apart)[0][0])
            raise ValueError(
                f"episode {number}: what follows step {step} is not what step {step + 1} begins "
                "with: only whole episodes in their order can be stored"
            )
        yield {
            "observations": np.concatenate([seen, following[-1:]]),
            **{name: arrays[name][start:end] for name in ("actions", "rewards", *FLAGS)},
        }
        start = end
