"""Recorded data from files: D4RL's layout in HDF5, and Minari's local data sets.

    dataset = load_dataset("hopper-medium-v2.hdf5", env="Hopper-v5")   # D4RL, in pairs
    dataset = load_dataset("D4RL/pen/human-v2")                        # Minari, stored locally
    learner = SomeOfflineAgent("MlpPolicy", dataset)

J. Fu, A. Kumar, O. Nachum, G. Tucker, S. Levine: D4RL: Datasets for Deep Data-Driven Reinforcement
Learning (2020, arXiv 2004.07219). A file has the columns `observations`, `actions`, `rewards`,
`terminals` (the task ended with this step), mostly `timeouts` (the episode was cut there),
sometimes `next_observations`, and, beside them, `infos/*` (a row per step) and `metadata/*`. The
package of that name is not needed: files are read as they are. Nothing in them is executed.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from ...extras import require
from .offline_data import OfflineDataset

SUFFIXES = (".hdf5", ".h5")
NEEDED = ("observations", "actions", "rewards", "terminals")
OPTIONAL = ("timeouts", "next_observations")
FLAGS = ("terminations", "truncations")


@dataclass(frozen=True, eq=False)
class FileDataset(OfflineDataset):
    """An `OfflineDataset` with what its file says beside the steps.

    Attributes:
        source: the file or data set that was read.
        metadata: of the whole: numbers, texts, ...
        infos: further arrays [N, ...], by name.
    """

    source: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    infos: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def select(self, rows: NDArray[np.int64], **changes: Any) -> FileDataset:
        """The steps `rows`, in their order, with other arrays in the place of some."""
        kept = {name: array for name, array in self.arrays().items() if name not in changes}
        arrays = {name: array.take(rows, axis=0) for name, array in kept.items()}
        infos = {name: array.take(rows, axis=0) for name, array in self.infos.items()}
        return replace(self, **{"infos": infos, **arrays, **changes})


def load_dataset(source: str | Path, env: Any = None) -> FileDataset:
    """Recorded steps with their next observations, to learn values or a policy from.

    Args:
        source: a file of D4RL (.hdf5, .h5), which is read in pairs (see `paired`); or the name of a
            local Minari data set, or its folder.
        env: environment to evaluate in, or its Gymnasium id; None: there is none.

    Raises:
        FileNotFoundError: there is no such file or data set.
        ValueError: it is damaged, or does not fit `env`; the message says which episode and step.
        ImportError: the extra `offline` is not installed.
    """
    if Path(source).suffix in SUFFIXES:
        return paired(read_d4rl(source, env))
    from .minari_files import read_minari

    return read_minari(source, env)


# -- D4RL ------------------------------------------------------------------------------------------


def read_d4rl(
    path: str | Path,
    env: Any = None,
    *,
    observation_space: gym.Space[Any] | None = None,
    action_space: gym.Space[Any] | None = None,
    max_episode_steps: int | None = None,
    infos: Sequence[str] = (),
) -> FileDataset:
    """Every step of a file in D4RL's layout, in its order: whole episodes.

    `terminals` become terminations, `timeouts` truncations; the last step of the file is the last
    of its episode, whether it says so or not. Next observations are those of the file, and None
    where it has none (see `paired`).

    Args:
        path: of the HDF5 file.
        env: environment to evaluate in, or its Gymnasium id; it also gives the spaces.
        observation_space, action_space: where there is no `env`; by default observations are
            unbounded and actions in [-1, 1], as those of D4RL's tasks.
        max_episode_steps: for files without `timeouts`: an episode is cut after so many steps. By
            default that of `env`.
        infos: names of arrays below `infos/` to read, too.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or cut off, lacks a column, has columns of different lengths
            or shapes, or values that are not finite, no flags, or outside the action space.
    """
    path, env = Path(path), as_environment(env)
    columns, extra, metadata = _columns(path, infos)
    _check_lengths(str(path), {**columns, **extra})
    arrays = {name: columns[name] for name in ("observations", "actions")}
    if "next_observations" in columns:
        arrays["next_observations"] = columns["next_observations"]
    arrays["rewards"] = _flat(columns["rewards"])
    arrays["terminations"] = ended = _flags(path, "terminals", columns["terminals"])
    if "timeouts" in columns:
        arrays["truncations"] = _flags(path, "timeouts", columns["timeouts"])
    else:
        arrays["truncations"] = _cuts(path, ended, _episode_steps(max_episode_steps, env))
    arrays["truncations"][-1] |= not ended[-1]
    if env is None:
        shape = arrays["observations"].shape[1:]
        observation_space = observation_space or spaces.Box(-np.inf, np.inf, shape)
        action_space = action_space or spaces.Box(-1.0, 1.0, arrays["actions"].shape[1:])
    return checked(
        str(path),
        arrays,
        env,
        observation_space,
        action_space,
        metadata=metadata,
        infos=extra,
    )


def paired(dataset: FileDataset) -> FileDataset:
    """Steps in D4RL's pairs: the next observation of a step is the observation of the row below it.

    Of a step that cuts an episode the row below belongs to another one, so it is dropped, and so is
    the last row, which has none; the step before becomes the one that is cut. Where the task ended,
    the row below belongs to another episode too, but nothing that follows counts there. This is the
    rule of D4RL's `qlearning_dataset` (with `terminate_on_end=False`), with the same rows.

    Args:
        dataset: whole episodes, as `read_d4rl` gives them; own next observations are not used.

    Raises:
        ValueError: no pair is left.
    """
    assert dataset.terminations is not None and dataset.truncations is not None
    kept = ~dataset.truncations
    kept[-1] = False
    rows = np.flatnonzero(kept)
    if not len(rows):
        raise ValueError(f"{dataset.source}: {len(dataset)} steps hold no pair of successive ones")
    # An episode goes on to the next kept row, where that is the row below; otherwise it is cut.
    cut = np.append(np.diff(rows) > 1, True) & ~dataset.terminations[rows]
    following = dataset.observations.take(rows + 1, axis=0)
    return dataset.select(rows, next_observations=following, truncations=cut)


def write_d4rl(path: str | Path, dataset: OfflineDataset) -> Path:
    """Write steps in D4RL's layout, atomically; `read_d4rl` gives them back.

    Args:
        path: of the file; it is replaced where it exists.
        dataset: with rewards and terminations, in the order in which it was played. A `FileDataset`
            also brings infos, and those metadata that HDF5 knows (numbers, texts, arrays).

    Raises:
        ValueError: rewards or terminations are missing.
        ImportError: the extra `offline` is not installed.
    """
    h5py = require("h5py", "offline")
    columns = dataset.arrays()
    if missing := [name for name in ("rewards", "terminations") if name not in columns]:
        raise ValueError(f"D4RL's files need {' and '.join(missing)}, which the data do not have")
    columns["terminals"] = columns.pop("terminations")
    columns["timeouts"] = columns.pop("truncations", np.zeros(len(dataset), dtype=bool))
    if isinstance(dataset, FileDataset):
        columns |= {f"infos/{name}": array for name, array in dataset.infos.items()}
        for name, value in dataset.metadata.items():
            if isinstance(value, str | bool | int | float | np.ndarray):
                columns[f"metadata/{name}"] = value  # type: ignore[assignment]
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with h5py.File(temporary, "x") as file:
            for name, array in columns.items():
                file.create_dataset(name, data=array)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return path


def _columns(
    path: Path, infos: Sequence[str]
) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]], dict[str, Any]]:
    """The columns of a file, those below `infos/` that are asked for, and its metadata."""
    h5py = require("h5py", "offline")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    with reading(path), h5py.File(path, "r") as file:
        if missing := [name for name in NEEDED if name not in file]:
            raise ValueError(f"lacks {', '.join(missing)}; D4RL's files have {', '.join(NEEDED)}")
        found = {name: _column(file, name) for name in NEEDED + OPTIONAL if name in file}
        known = sorted(file["infos"]) if "infos" in file else []
        if unknown := sorted(set(infos) - set(known)):
            raise ValueError(f"has no infos {unknown}; it has {known}")
        extra = {name: _column(file, f"infos/{name}") for name in infos}
        metadata = {name: _value(item) for name, item in file.get("metadata", {}).items()}
    return found, extra, {name: value for name, value in metadata.items() if value is not None}


def _column(file: Any, name: str) -> NDArray[Any]:
    if not hasattr(file[name], "dtype"):
        raise ValueError(f"{name} is a group, not an array")
    try:
        return file[name][()]
    except OSError as error:
        raise ValueError(f"{name} cannot be read: {error}") from None


def _value(item: Any) -> Any:
    """A text or a number of the metadata; None for arrays (such as the weights of a policy)."""
    if getattr(item, "shape", None) != ():
        return None
    value = item[()]
    return value.decode() if isinstance(value, bytes) else value.item()


def _episode_steps(given: int | None, env: Any) -> int | None:
    spec = getattr(env, "spec", None)
    return given if given is not None else getattr(spec, "max_episode_steps", None)


def _flat(array: NDArray[Any]) -> NDArray[Any]:
    return array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array


def _flags(path: Path, name: str, array: NDArray[Any]) -> NDArray[np.bool_]:
    array = _flat(array)
    if array.dtype == bool:
        return array.copy()
    flags = array.astype(bool)
    if (wrong := flags != array).any():
        row = int(np.argmax(wrong))
        raise ValueError(f"{path}: {name} of row {row}: {array[row]} is neither 0 nor 1")
    return flags


def _cuts(path: Path, ended: NDArray[np.bool_], steps: int | None) -> NDArray[np.bool_]:
    """Where episodes of at most so many steps are cut, whether or not the task ended there too."""
    if steps is None:
        raise ValueError(
            f"{path}: has no timeouts; give max_episode_steps, or an env that has it, to tell "
            "where episodes were cut"
        )
    rows = np.arange(len(ended))
    begins = np.maximum.accumulate(np.where(np.append(True, ended[:-1]), rows, 0))
    return (rows - begins) % steps == steps - 1


# -- what readers share ----------------------------------------------------------------------------


@contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Say of every error in the contents of a file which file it is; a cut one is a ValueError."""
    try:
        yield
    except ImportError:
        raise
    except OSError as error:
        text = " ".join(str(error).split())
        raise ValueError(f"{path}: damaged or cut off, or no HDF5 file: {text}") from None
    except (ValueError, LookupError, RuntimeError, TypeError) as error:
        text = " ".join(str(error).split())
        raise ValueError(f"{path}: {text}") from None


def as_environment(env: Any) -> Any:
    """An environment whose observations are arrays; ids are made, dictionaries flattened."""
    if isinstance(env, str):
        try:
            env = gym.make(env)
        except gym.error.Error as error:
            raise ValueError(f"{env}: {error}") from error
    if isinstance(getattr(env, "observation_space", None), spaces.Dict | spaces.Tuple):
        if isinstance(env, gym.Env):
            return gym.wrappers.FlattenObservation(env)
    return env


def place(row: int, ends: NDArray[np.int64]) -> str:
    """A row in words: its episode and step."""
    episode = int(np.searchsorted(ends, row, side="right"))
    begin = int(ends[episode - 1]) if episode else 0
    return f"episode {episode}, step {row - begin} (row {row})"


def checked(
    source: str,
    arrays: Mapping[str, NDArray[Any]],
    env: Any,
    observation_space: gym.Space[Any] | None,
    action_space: gym.Space[Any] | None,
    **beside: Any,
) -> FileDataset:
    """The data set of these arrays, after a look at every number.

    Raises:
        ValueError: it names the first number that is wrong, with its episode and step.
    """
    if env is not None:
        observation_space = getattr(env, "single_observation_space", env.observation_space)
        action_space = getattr(env, "single_action_space", env.action_space)
    assert observation_space is not None and action_space is not None
    of = {name: observation_space for name in ("observations", "next_observations")}
    of["actions"] = action_space
    for name, array in arrays.items():
        shape = of[name].shape if name in of else ()
        if array.shape[1:] != shape:
            raise ValueError(
                f"{source}: entries of {name} have shape {array.shape[1:]}, needed is {shape}"
            )
    flags = [arrays[name] for name in FLAGS if name in arrays]
    ends = np.flatnonzero(np.any(flags, axis=0)) + 1
    for name, array in arrays.items():
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
            row = int(np.argwhere(~np.isfinite(array))[0][0])
            raise ValueError(f"{source}: {name} of {place(row, ends)}: {array[row]} is not finite")
        if name in of and (wrong := outside(array, of[name])) is not None:
            row = int(np.argwhere(wrong)[0][0])
            raise ValueError(
                f"{source}: {name} of {place(row, ends)}: {array[row]} lies outside {of[name]}"
            )
    given: dict[str, Any] = {**arrays, **beside}
    with reading(source):
        return FileDataset(
            **given,
            env=env,
            observation_space=observation_space,
            action_space=action_space,
            source=source,
        )


def outside(array: NDArray[Any], space: gym.Space[Any]) -> NDArray[np.bool_] | None:
    """Which entries [N, ...] lie outside a space; None where all are in it, or it is no box."""
    if isinstance(space, spaces.Box):
        low, high = space.low, space.high
        below = array < low if np.isfinite(low).any() else False
        above = array > high if np.isfinite(high).any() else False
    elif isinstance(space, spaces.Discrete):
        below, above = array < space.start, array >= space.start + space.n
    else:
        return None
    wrong = np.logical_or(below, above)
    return wrong if wrong.any() else None


def _check_lengths(source: str, columns: Mapping[str, NDArray[Any]]) -> None:
    if wrong := [name for name, array in columns.items() if array.ndim == 0]:
        raise ValueError(f"{source}: {wrong[0]} is one number, not a column")
    steps = len(columns["observations"])
    if not steps:
        raise ValueError(f"{source}: holds no steps")
    flags = [_flat(columns[name]) for name in ("terminals", "timeouts") if name in columns]
    shortest = min(len(flag) for flag in flags)
    ends = np.flatnonzero(np.any([flag[:shortest] for flag in flags], axis=0)) + 1
    for name, array in columns.items():
        if len(array) != steps:
            where = place(min(len(array), steps), ends)
            raise ValueError(
                f"{source}: {name} has {len(array)} rows, observations {steps}: one of them ends "
                f"before {where}"
            )
