"""The state of a training environment and of the random generators, for exact resume."""

from __future__ import annotations

import random
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import VectorWrapper
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecCheckNan,
    VecEnv,
    VecEnvWrapper,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
)

from ...envs.faces import ArrayEnv, ArrayVectorEnv
from ...wrappers.sb3 import SB3VecEnv

# JSON values and named tensors: what a checkpoint holds.
Snapshot = tuple[Any, dict[str, torch.Tensor]]

# Wrappers without a state of their own that could change an observation or a reward.
STATELESS = (Monitor, OrderEnforcing, PassiveEnvChecker)
STATELESS_VECTOR = (VecCheckNan, VecMonitor, VecTransposeImage)


def snapshot_env(env: VecEnv | None) -> Snapshot | None:
    """State of a native environment below SB3's wrappers; None where some of it is out of reach."""
    if env is None or not within_reach(env):
        return None
    tensors: dict[str, torch.Tensor] = {}
    for layer, wrapper in enumerate(normalizers(env)):
        tensors[f"normalize.{layer}.returns"] = torch.as_tensor(wrapper.returns.copy())
        for name, moments in running_moments(wrapper).items():
            for part in ("mean", "var", "count"):
                value = np.array(getattr(moments, part), dtype=np.float64)
                tensors[f"normalize.{layer}.{name}.{part}"] = torch.as_tensor(value)
    layers = []
    for layer, remembering in enumerate(remembering_layers(env)):
        arrays, states = remembering.get_state()
        layers.append(states)
        for name, value in arrays.items():
            tensors[f"layer.{layer}.{name}"] = torch.as_tensor(value.copy())
    generators = []
    for index, face in enumerate(native_faces(bottom(env))):
        arrays, states = face.get_state()
        generators.append(states)
        for name, value in arrays.items():
            tensors[f"face.{index}.{name}"] = torch.as_tensor(value.copy())
    return {"generators": generators, "layers": layers}, tensors


def restore_env(env: VecEnv, meta: Any, tensors: dict[str, torch.Tensor]) -> None:
    """Put the environment back to where `snapshot_env` found it."""
    for layer, wrapper in enumerate(normalizers(env)):
        wrapper.returns = tensors[f"normalize.{layer}.returns"].numpy().copy()
        for name, moments in running_moments(wrapper).items():
            mean, var, count = (
                tensors[f"normalize.{layer}.{name}.{part}"].numpy().copy()
                for part in ("mean", "var", "count")
            )
            moments.mean, moments.var, moments.count = mean, var, float(count)
    for layer, remembering in enumerate(remembering_layers(env)):
        prefix = f"layer.{layer}."
        arrays = {
            name.removeprefix(prefix): value.numpy().copy()
            for name, value in tensors.items()
            if name.startswith(prefix)
        }
        remembering.set_state(arrays, meta["layers"][layer])
    for index, face in enumerate(native_faces(bottom(env))):
        prefix = f"face.{index}."
        arrays = {
            name.removeprefix(prefix): value.numpy().copy()
            for name, value in tensors.items()
            if name.startswith(prefix)
        }
        face.set_state(arrays, meta["generators"][index])


def readable(env: VecEnv) -> bool:
    """Whether an environment is native, in wrappers without a state, or normalizers."""
    return within_reach(env) and not remembering_layers(env)


def within_reach(env: VecEnv) -> bool:
    """Whether all state can be read: of a native environment, and of the wrappers around it."""
    while isinstance(env, VecEnvWrapper):
        if not isinstance(env, (*STATELESS_VECTOR, VecNormalize)) and not remembers(env):
            return False
        env = env.venv
    if isinstance(env, SB3VecEnv):
        vector: Any = env.vector
        return isinstance(vector.unwrapped, ArrayVectorEnv) and all(
            remembers(each) for each in vector_wrappers(vector)
        )
    if not isinstance(env, DummyVecEnv):
        return False
    for single in env.envs:
        while isinstance(single, gym.Wrapper):
            if not isinstance(single, STATELESS) and not remembers(single):
                return False
            single = single.env
        if not isinstance(single, ArrayEnv):
            return False
    return True


def remembers(env: VecEnvWrapper | gym.Wrapper[Any, Any, Any, Any] | VectorWrapper) -> bool:
    """Whether a wrapper says its state, with the methods that array environments have, too."""
    return hasattr(type(env), "get_state") and hasattr(type(env), "set_state")


def vector_wrappers(env: Any) -> list[VectorWrapper]:
    """Gymnasium's wrappers around a vector, outermost first."""
    found = []
    while isinstance(env, VectorWrapper):
        found.append(env)
        env = env.env
    return found


def remembering_layers(env: VecEnv) -> list[Any]:
    """The layers around an environment that say their state, outermost first: SB3's, then those of
    a Gymnasium vector, or those around each single one of a `DummyVecEnv`."""
    found: list[Any] = []
    while isinstance(env, VecEnvWrapper):
        if remembers(env):
            found.append(env)
        env = env.venv
    if isinstance(env, SB3VecEnv):
        found += [each for each in vector_wrappers(env.vector) if remembers(each)]
    for single in env.envs if isinstance(env, DummyVecEnv) else ():
        while isinstance(single, gym.Wrapper):
            if remembers(single):
                found.append(single)
            single = single.env
    return found


def normalizers(env: VecEnv) -> list[VecNormalize]:
    """The `VecNormalize` layers around an environment, outermost first."""
    found = []
    while isinstance(env, VecEnvWrapper):
        if isinstance(env, VecNormalize):
            found.append(env)
        env = env.venv
    return found


def running_moments(wrapper: VecNormalize) -> dict[str, RunningMeanStd]:
    """The statistics that a `VecNormalize` keeps, by name."""
    found = {"return": wrapper.ret_rms}
    if wrapper.norm_obs:
        moments = wrapper.obs_rms
        keyed = moments if isinstance(moments, dict) else {"": moments}
        found |= {f"observation.{key}": value for key, value in keyed.items()}
    return found


def bottom(env: VecEnv) -> VecEnv:
    """The environment below SB3's wrappers."""
    while isinstance(env, VecEnvWrapper):
        env = env.venv
    return env


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
    tensors = {
        "generator.torch": torch.get_rng_state(),
        "generator.numpy": torch.as_tensor(np.asarray(keys, dtype=np.int64)),
    }
    if torch.cuda.is_available():
        tensors["generator.cuda"] = torch.cuda.get_rng_state()
    version, internal, gauss_next = random.getstate()
    return {
        "numpy": [name, int(position), int(has_gauss), float(gauss)],
        "python": [version, list(internal), gauss_next],
    }, tensors


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
