"""The state of a training environment and of the random generators, for exact resume."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper, VecNormalize

from ...envs.base import ArrayEnv, ArrayVectorEnv
from ...wrappers.sb3 import SB3VecEnv

# JSON values and named tensors: what a checkpoint holds.
Snapshot = tuple[Any, dict[str, torch.Tensor]]


def snapshot_env(env: VecEnv | None) -> Snapshot | None:
    """State of a native environment (through SB3's wrappers); None where it cannot be read."""
    if env is None:
        return None
    meta: dict[str, Any] = {"faces": [], "moments": []}
    tensors: dict[str, torch.Tensor] = {}
    while isinstance(env, VecEnvWrapper):
        if isinstance(env, VecNormalize):
            if isinstance(env.obs_rms, dict):
                return None
            meta["moments"].append([env.obs_rms.count if env.norm_obs else 0.0, env.ret_rms.count])
            prefix = f"normalize.{len(meta['moments']) - 1}"
            tensors |= {f"{prefix}.returns": torch.as_tensor(env.returns.copy()),
                        f"{prefix}.ret_mean": torch.as_tensor(np.asarray(env.ret_rms.mean)),
                        f"{prefix}.ret_var": torch.as_tensor(np.asarray(env.ret_rms.var))}
            if env.norm_obs:
                tensors |= {f"{prefix}.obs_mean": torch.as_tensor(env.obs_rms.mean.copy()),
                            f"{prefix}.obs_var": torch.as_tensor(env.obs_rms.var.copy())}
        env = env.venv
    for index, face in enumerate(native_faces(env)):
        if face is None:
            return None
        arrays, generators = face.get_state()
        meta["faces"].append(generators)
        tensors |= {f"face.{index}.{name}": torch.as_tensor(value.copy()) for name, value in arrays.items()}
    return meta, tensors


def restore_env(env: VecEnv, meta: Any, tensors: dict[str, torch.Tensor]) -> None:
    """Put the environment back to where `snapshot_env` found it."""
    layer = 0
    while isinstance(env, VecEnvWrapper):
        if isinstance(env, VecNormalize):
            prefix, (obs_count, ret_count) = f"normalize.{layer}", meta["moments"][layer]
            env.returns = tensors[f"{prefix}.returns"].numpy().copy()
            env.ret_rms.mean = tensors[f"{prefix}.ret_mean"].numpy().copy()
            env.ret_rms.var = tensors[f"{prefix}.ret_var"].numpy().copy()
            env.ret_rms.count = ret_count
            if env.norm_obs:
                env.obs_rms.mean = tensors[f"{prefix}.obs_mean"].numpy().copy()
                env.obs_rms.var = tensors[f"{prefix}.obs_var"].numpy().copy()
                env.obs_rms.count = obs_count
            layer += 1
        env = env.venv
    for index, face in enumerate(native_faces(env)):
        prefix = f"face.{index}."
        arrays = {name.removeprefix(prefix): value.numpy().copy() for name, value in tensors.items()
                  if name.startswith(prefix)}
        face.set_state(arrays, meta["faces"][index])


def native_faces(env: VecEnv) -> list[Any]:
    """The array environments at the bottom of a VecEnv; None for one that is not ours."""
    if isinstance(env, SB3VecEnv):
        inner: Any = env.vector.unwrapped
        return [inner if isinstance(inner, ArrayVectorEnv) else None]
    if isinstance(env, DummyVecEnv):
        found = [single.unwrapped for single in env.envs]
        return [single if isinstance(single, ArrayEnv) else None for single in found]
    return [None]


def snapshot_generators() -> Snapshot:
    """The global generators that agents draw from: torch's (all devices), NumPy's and Python's."""
    name, keys, position, has_gauss, gauss = np.random.get_state()
    tensors = {"generator.torch": torch.get_rng_state(),
               "generator.numpy": torch.as_tensor(np.asarray(keys, dtype=np.int64))}
    if torch.cuda.is_available():
        tensors["generator.cuda"] = torch.cuda.get_rng_state()
    version, internal, gauss_next = random.getstate()
    return {"numpy": [name, int(position), int(has_gauss), float(gauss)],
            "python": [version, list(internal), gauss_next]}, tensors


def restore_generators(meta: Any, tensors: dict[str, torch.Tensor]) -> None:
    """Inverse of `snapshot_generators`."""
    torch.set_rng_state(tensors["generator.torch"])
    if "generator.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["generator.cuda"])
    name, position, has_gauss, gauss = meta["numpy"]
    keys = tensors["generator.numpy"].numpy().astype(np.uint32)
    np.random.set_state((name, keys, position, has_gauss, gauss))
    version, internal, gauss_next = meta["python"]
    random.setstate((version, tuple(internal), gauss_next))
