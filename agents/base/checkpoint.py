"""Checkpoints that execute nothing: a zip of `config.json` and `tensors.safetensors`, written
atomically."""

from __future__ import annotations

import json
import os
import secrets
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium as gym
import numpy as np
import safetensors.torch
import torch
from gymnasium import spaces
from stable_baselines3.common import buffers, torch_layers
from stable_baselines3.common.utils import LinearSchedule

CONFIG, TENSORS = "config.json", "tensors.safetensors"
FORMAT = 1


def write(path: str | Path, config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> Path:
    """Write a checkpoint; whoever reads `path` sees the old file or the whole new one.

    Args:
        path: where; `.zip` is appended when it has no suffix.
        config: JSON values.
        tensors: name -> tensor, of any device.

    Raises:
        ValueError: `config` holds something that JSON cannot.
    """
    path = with_suffix(path)
    try:
        text = json.dumps({"format": FORMAT, **config}, allow_nan=True)
    except TypeError as error:
        raise ValueError(f"{path}: cannot be saved without pickle: {error}") from None
    data = safetensors.torch.save(
        {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with open(temporary, "xb") as file:
            with zipfile.ZipFile(file, "w") as archive:
                archive.writestr(CONFIG, text)
                archive.writestr(TENSORS, data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return path


def read(path: str | Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The configuration and the tensors of a checkpoint.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no checkpoint, or is damaged.
    """
    path = with_suffix(path)
    config = read_config(path)
    try:
        with zipfile.ZipFile(path) as archive:
            return config, safetensors.torch.load(archive.read(TENSORS))
    except Exception as error:
        raise ValueError(f"{path}: the checkpoint is damaged: {error}") from None


def read_config(path: str | Path) -> dict[str, Any]:
    """The configuration of a checkpoint; errors as in `read`."""
    path = with_suffix(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint")
    try:
        with zipfile.ZipFile(path) as archive:
            config = json.loads(archive.read(CONFIG))
    except Exception as error:  # zipfile, zlib, struct and json each raise their own
        raise ValueError(f"{path}: not a checkpoint, or a damaged one: {error}") from None
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        found = config.get("format") if isinstance(config, dict) else type(config).__name__
        raise ValueError(f"{path}: checkpoint format {found!r}, this version reads format {FORMAT}")
    return config


def with_suffix(path: str | Path) -> Path:
    """`path`, with `.zip` appended when it has no suffix (Stable-Baselines3's convention)."""
    path = Path(path)
    return path if path.suffix else path.with_name(path.name + ".zip")


# -- values that JSON does not know ----------------------------------------------------------------

# Modules whose classes an argument may name, and what such a class must be.
CLASSES: dict[str, tuple[ModuleType, type]] = {
    "torch.nn": (torch.nn, torch.nn.Module),
    "torch.optim": (torch.optim, torch.optim.Optimizer),
    "stable_baselines3.common.buffers": (buffers, buffers.BaseBuffer),
    "stable_baselines3.common.torch_layers": (torch_layers, torch_layers.BaseFeaturesExtractor),
}


def encode(value: Any) -> Any:
    """A constructor argument as JSON. What JSON does not know becomes a dictionary with one "$..."
    key.

    Raises:
        ValueError: other than a number, string, list, dictionary, array, `LinearSchedule`, or class
            of one of the modules in `CLASSES`.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        if wrong := [key for key in value if not isinstance(key, str) or key.startswith("$")]:
            raise ValueError(f"keys must be strings that do not start with '$', got {wrong}")
        return {key: encode(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [encode(entry) for entry in value]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return {"$array": [value.ravel().tolist(), list(value.shape), str(value.dtype)]}
    if isinstance(value, LinearSchedule):
        return {"$linear": [value.start, value.end, value.end_fraction]}
    if isinstance(value, type):
        name = value.__name__
        for module_name, (module, base) in CLASSES.items():
            if issubclass(value, base) and getattr(module, name, None) is value:
                return {"$class": [module_name, name]}
    raise ValueError(
        f"{value!r} of type {type(value).__name__} cannot be saved without pickle; allowed are "
        "numbers, strings, lists, dictionaries, arrays, LinearSchedule, and classes of "
        f"{', '.join(CLASSES)}"
    )


def decode(value: Any) -> Any:
    """Inverse of `encode` (tuples come back as lists).

    Raises:
        ValueError: the value names a class that is not in the modules of `CLASSES`, or an unknown
            kind.
    """
    if isinstance(value, list):
        return [decode(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    marks = [key for key in value if key.startswith("$")]
    if not marks:
        return {key: decode(entry) for key, entry in value.items()}
    if marks == ["$array"]:
        entries, shape, dtype = value["$array"]
        return np.array(entries, dtype=dtype).reshape(shape)
    if marks == ["$linear"]:
        return LinearSchedule(*value["$linear"])
    if marks == ["$class"]:
        module_name, name = value["$class"]
        module, base = CLASSES.get(module_name, (None, object))
        found = getattr(module, name, None)
        if isinstance(found, type) and issubclass(found, base):
            return found
        raise ValueError(f"a checkpoint may not name the class {module_name}.{name}")
    raise ValueError(f"unknown kind of value {marks}")


def encode_space(space: gym.Space) -> dict[str, Any]:
    """A Gymnasium space as JSON.

    Raises:
        ValueError: a space without a fixed size, or of an unknown kind.
    """
    if isinstance(space, spaces.Box):
        return {
            "kind": "Box",
            "low": bound(space.low),
            "high": bound(space.high),
            "shape": list(space.shape),
            "dtype": str(space.dtype),
        }
    if isinstance(space, spaces.Discrete):
        return {"kind": "Discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, spaces.MultiDiscrete):
        return {
            "kind": "MultiDiscrete",
            "nvec": space.nvec.tolist(),
            "start": space.start.tolist(),
            "dtype": str(space.dtype),
        }
    if isinstance(space, spaces.MultiBinary):
        return {"kind": "MultiBinary", "n": encode(space.n)}
    if isinstance(space, spaces.Text):
        return {
            "kind": "Text",
            "min_length": space.min_length,
            "max_length": space.max_length,
            "charset": "".join(sorted(space.character_set)),
        }
    if isinstance(space, spaces.Dict):
        return {"kind": "Dict", "spaces": {key: encode_space(s) for key, s in space.spaces.items()}}
    if isinstance(space, spaces.Tuple):
        return {"kind": "Tuple", "spaces": [encode_space(s) for s in space.spaces]}
    raise ValueError(f"the space {space} cannot be saved")


def decode_space(value: Mapping[str, Any]) -> gym.Space:
    """Inverse of `encode_space`."""
    kind = value["kind"]
    if kind == "Box":
        shape, dtype = tuple(value["shape"]), np.dtype(value["dtype"])
        low, high = (np.broadcast_to(np.asarray(value[k], dtype), shape) for k in ("low", "high"))
        return spaces.Box(low, high, shape, dtype.type)
    if kind == "Discrete":
        return spaces.Discrete(value["n"], start=value["start"])
    if kind == "MultiDiscrete":
        nvec, start = (np.asarray(value[k], dtype=value["dtype"]) for k in ("nvec", "start"))
        return spaces.MultiDiscrete(nvec, dtype=value["dtype"], start=start)
    if kind == "MultiBinary":
        return spaces.MultiBinary(value["n"])
    if kind == "Text":
        return spaces.Text(
            value["max_length"], min_length=value["min_length"], charset=value["charset"]
        )
    if kind == "Dict":
        return spaces.Dict({key: decode_space(s) for key, s in value["spaces"].items()})
    if kind == "Tuple":
        return spaces.Tuple([decode_space(s) for s in value["spaces"]])
    raise ValueError(f"unknown kind of space {kind!r}")


def bound(values: np.ndarray) -> Any:
    """A bound of a Box as one number where all entries are equal."""
    return (
        values.flat[0].item()
        if values.size and (values == values.flat[0]).all()
        else values.tolist()
    )


def flatten_optimizer(optimizer: torch.optim.Optimizer, prefix: str) -> dict[str, torch.Tensor]:
    """Per-parameter state of an optimizer as tensors (its settings are constructor arguments)."""
    state = optimizer.state_dict()["state"]
    return {
        f"{prefix}.{index}.{name}": torch.as_tensor(value)
        for index, entry in state.items()
        for name, value in entry.items()
    }


def restore_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]
) -> None:
    """Inverse of `flatten_optimizer`; `tensors` are named "index.name"."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
