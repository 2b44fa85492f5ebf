"""Checkpoints without pickle, and exact resume, for any Stable-Baselines3 algorithm."""

from __future__ import annotations

import inspect
import json
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.utils import FloatSchedule, check_for_correct_spaces
from stable_baselines3.common.vec_env import VecEnv

from ...wrappers.sb3 import SB3VecEnv
from . import checkpoint as files
from .declare import Claim, Example, Paper
from .snapshot import restore_env, restore_generators, snapshot_env, snapshot_generators

Tensors = dict[str, torch.Tensor]

# Constructor arguments that belong to a session rather than to the agent.
SESSION = {
    *("self", "policy", "env", "device", "verbose", "tensorboard_log", "_init_setup_model"),
}
COUNTERS = (
    *("num_timesteps", "_n_updates", "_episode_num", "_total_timesteps"),
    *("_current_progress_remaining", "n_envs"),
)
LATEST = "latest.zip"


class Checkpoints(BaseAlgorithm):
    """Checkpoints without pickle, and exact resume, for any SB3 algorithm.

    Convention: a constructor keeps each argument under its own name, perhaps with an underscore in
    front (SB3 does), and one with `**arguments` hands all of them to its base.

    Attributes:
        paper, claim, example: what the system says about itself, see `declare.py`.
        learns_in_env: whether `learn` steps the environment that the agent has.
        oracle: whether `predict` looks into that environment, beyond what is observed.
    """

    paper: ClassVar[Paper | None] = None
    claim: ClassVar[Claim | None] = None
    example: ClassVar[Example]

    learns_in_env: ClassVar[bool] = True
    oracle: ClassVar[bool] = False
    _written = -np.inf  # when the state of learning was last written

    @staticmethod
    def _wrap_env(env: GymEnv, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        """As SB3 does; a Gymnasium `VectorEnv` goes through `SB3VecEnv` first."""
        if isinstance(env, gym.vector.VectorEnv):
            env = SB3VecEnv(env)
        return BaseAlgorithm._wrap_env(env, verbose, monitor_wrapper)

    # -- what a checkpoint holds -------------------------------------------------------------------

    def arguments(self) -> dict[str, Any]:
        """Constructor arguments with which `load` builds the agent again."""
        found: dict[str, Any] = {}
        for name in argument_names(type(self)):
            value = getattr(self, name) if hasattr(self, name) else getattr(self, f"_{name}")
            if isinstance(value, FloatSchedule):  # SB3 turns numbers into schedules when it sets up
                value = getattr(value.value_schedule, "val", value.value_schedule)
            found[name] = value
        return found

    def policy_name(self) -> str:
        """Alias of the policy class, as the constructor takes it.

        Raises:
            ValueError: the policy is a class without an alias, which a file cannot name.
        """
        for alias, policy_class in self.policy_aliases.items():
            if policy_class is self.policy_class:
                return alias
        raise ValueError(
            f"{self.policy_class.__name__} has no alias in {type(self).__name__}.policy_aliases "
            f"({sorted(self.policy_aliases)}), so a checkpoint cannot name it"
        )

    def extra_state(self) -> tuple[dict[str, Any], Tensors]:
        """What predicting needs beside the parameters: JSON values and tensors."""
        return {}, {}

    def restore_extra_state(self, values: dict[str, Any], tensors: Tensors) -> None:
        """Inverse of `extra_state`."""

    def learning_state(self) -> tuple[dict[str, Any], Tensors]:
        """What only learning needs, to go on exactly: JSON values and tensors."""
        return {}, {}

    def restore_learning_state(self, values: dict[str, Any], tensors: Tensors) -> None:
        """Inverse of `learning_state`."""

    # -- save and load -----------------------------------------------------------------------------

    def save(self, path: str | Path, exclude: Any = None, include: Any = None) -> None:  # type: ignore[override]
        """Write the agent as a zip of JSON and safetensors, atomically; loading executes nothing.

        Raises:
            ValueError: an argument of the agent cannot be written without pickle.
        """
        if exclude or include:
            raise ValueError(
                "exclude and include are for pickled files; a checkpoint holds a fixed set"
            )
        config, tensors = self._contents()
        files.write(path, config, tensors)

    def _contents(self) -> tuple[dict[str, Any], Tensors]:
        values, extra = self.extra_state()
        config = {
            "class": class_path(type(self)),
            "policy": self.policy_name(),
            "arguments": files.encode(self.arguments()),
            "observation_space": files.encode_space(self.observation_space),
            "action_space": files.encode_space(self.action_space),
            "counters": {name: getattr(self, name) for name in COUNTERS if hasattr(self, name)},
            "extra": files.encode(values),
        }
        tensors = {f"extra.{name}": tensor for name, tensor in extra.items()}
        for name, part in self._parts():
            if isinstance(part, torch.optim.Optimizer):
                tensors |= files.flatten_optimizer(part, name)
            else:
                tensors |= {f"{name}.{key}": value for key, value in part.state_dict().items()}
        return config, tensors

    def _parts(self) -> list[tuple[str, Any]]:
        """Modules and optimizers that SB3 names for saving, as (dotted name, object)."""
        return [(name, attribute(self, name)) for name in self._get_torch_save_params()[0]]

    @classmethod
    def load(  # type: ignore[override]
        cls,
        path: str | Path,
        env: GymEnv | None = None,
        device: torch.device | str = "auto",
        **overrides: Any,
    ) -> Self:
        """Read an agent. Nothing in the file is executed.

        Args:
            path: what `save` wrote.
            env: environment to go on learning in; its spaces must be those of the file.
            device: where the parameters are put.
            overrides: constructor arguments that replace the saved ones.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is damaged, belongs to another class, or does not fit `env`.
        """
        config, tensors = files.read(path)
        with reading(path, cls):
            check_class(config, cls)
            arguments = files.decode(config["arguments"])
            if unknown := sorted(set(arguments) - set(argument_names(cls))):
                raise ValueError(f"unknown arguments {unknown}")
            arguments |= overrides
            arguments |= {"device": device, "_init_setup_model": False}
            agent = cls(config["policy"], env, **arguments)
            agent._fit_spaces(config)
            agent._prepare(files.decode(config["extra"]))
            agent._setup_model()
            agent._restore(config, tensors)
        return agent

    def _fit_spaces(self, config: dict[str, Any]) -> None:
        observation_space = files.decode_space(config["observation_space"])
        action_space = files.decode_space(config["action_space"])
        if self.env is None:
            self.observation_space, self.action_space = observation_space, action_space
            self.n_envs = config["counters"].get("n_envs", 1)
        else:
            check_for_correct_spaces(self.env, observation_space, action_space)

    def _prepare(self, extra: dict[str, Any]) -> None:
        """Called between construction and `_setup_model` when an agent is loaded."""

    def _restore(self, config: dict[str, Any], tensors: Tensors) -> None:
        parts = self._parts()
        for name, part in parts:
            own = prefixed(tensors, name)
            if isinstance(part, torch.optim.Optimizer):
                files.restore_optimizer(part, own)
                continue
            # "policy.optimizer" is a part of its own, not a module of "policy".
            inner = tuple(prefixed({f"{other}.": other for other, _ in parts}, name))
            part.load_state_dict({k: v for k, v in own.items() if not k.startswith(inner)})
        for name in COUNTERS:
            if name in config["counters"] and name != "n_envs":
                setattr(self, name, config["counters"][name])
        self.restore_extra_state(files.decode(config["extra"]), prefixed(tensors, "extra"))

    # -- exact resume ------------------------------------------------------------------------------

    def save_learning(self, folder: str | Path) -> None:
        """Write what `learn` needs to go on exactly: agent, generators, native environment."""
        config, tensors = self._contents()
        generators, drawn = snapshot_generators()
        values, learning = self.learning_state()
        config |= {"generators": generators, "learning": files.encode(values)}
        tensors |= drawn | {f"learning.{name}": tensor for name, tensor in learning.items()}
        found = snapshot_env(self.env) if self.learns_in_env else None
        if found is not None and self._last_obs is not None:
            config["env"], arrays = found
            tensors |= {f"env.{name}": tensor for name, tensor in arrays.items()}
            tensors |= observations("last_obs", self._last_obs)
            tensors["last_episode_starts"] = torch.as_tensor(np.array(self._last_episode_starts))
            if self._last_original_obs is not None:
                tensors |= observations("last_original_obs", self._last_original_obs)
        elif self.env is not None and self.learns_in_env:
            warnings.warn(
                f"{self.env} is not, as it is, an array environment of palaestra: a run that is "
                "resumed starts new episodes and does not end with exactly the same parameters",
                stacklevel=2,
            )
        files.write(Path(folder) / LATEST, config, tensors)
        self._written = time.monotonic()

    def save_learning_if_due(self, folder: str | Path, seconds: float) -> None:
        """Call `save_learning` where the last one is at least `seconds` ago."""
        if time.monotonic() - self._written >= seconds:
            self.save_learning(folder)

    def resume_learning(self, folder: str | Path) -> bool:
        """Go back to the last `save_learning` in `folder`; False where there is none yet.

        Raises:
            ValueError: the file is damaged, or was written by another class or with other
                arguments.
        """
        path = Path(folder) / LATEST
        if not path.exists():
            return False
        config, tensors = files.read(path)
        with reading(path, type(self)):
            check_class(config, type(self))
            own = json.loads(json.dumps(files.encode(self.arguments())))
            saved = config["arguments"]
            if changed := sorted(k for k in own | saved if different(own.get(k), saved.get(k))):
                raise ValueError(f"it was written with other arguments: {changed}")
            self._restore(config, tensors)
            self.restore_learning_state(
                files.decode(config["learning"]), prefixed(tensors, "learning")
            )
            if "env" in config and self.env is not None:
                self.env.reset()  # wrappers such as Monitor refuse a step before it
                restore_env(self.env, config["env"], prefixed(tensors, "env"))
                self._last_obs = from_observations("last_obs", tensors)
                self._last_episode_starts = tensors["last_episode_starts"].numpy()
                if any(name.startswith("last_original_obs") for name in tensors):
                    self._last_original_obs = from_observations("last_original_obs", tensors)
            restore_generators(config["generators"], tensors)
        return True


def check_request(total_timesteps: int, checkpoint: str | Path | None, resume: bool) -> None:
    """ValueError for arguments of `learn` that make no sense."""
    if total_timesteps < 0:
        raise ValueError(f"total_timesteps must be at least 0, got {total_timesteps}")
    if resume and checkpoint is None:
        raise ValueError("resume=True needs checkpoint=FOLDER")


def argument_names(cls: type) -> list[str]:
    """Constructor arguments of an agent class, with those that `**arguments` hands on."""
    names: list[str] = []
    for base in cls.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = inspect.signature(base.__init__).parameters.values()  # type: ignore[misc]
        names += [p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return [name for name in dict.fromkeys(names) if name not in SESSION]


def class_path(cls: type) -> str:
    """Dotted path of a class."""
    return f"{cls.__module__}.{cls.__qualname__}"


def check_class(config: dict[str, Any], cls: type) -> None:
    """ValueError unless the checkpoint holds a `cls`."""
    if config.get("class") != class_path(cls):
        raise ValueError(f"it holds a {config.get('class')}, not a {class_path(cls)}")


@contextmanager
def reading(path: str | Path, cls: type) -> Iterator[None]:
    """Say of every error in the contents of a checkpoint which file it is."""
    try:
        yield
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"{path}: the checkpoint does not fit {class_path(cls)}: {text}"
        ) from error


def different(left: Any, right: Any) -> bool:
    """Whether two JSON values differ; NaN equals itself."""
    return json.dumps(left, sort_keys=True) != json.dumps(right, sort_keys=True)


def attribute(owner: Any, dotted: str) -> Any:
    """`owner.a.b` for "a.b"."""
    for name in dotted.split("."):
        owner = getattr(owner, name)
    return owner


def prefixed(entries: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Entries (tensors, mostly) whose name starts with `prefix.`, without it."""
    start = f"{prefix}."
    return {k[len(start) :]: v for k, v in entries.items() if k.startswith(start) and k != start}


def observations(name: str, value: Any) -> Tensors:
    """Observations (an array, or a dictionary of arrays) as named tensors."""
    if isinstance(value, dict):
        return {f"{name}.{key}": torch.as_tensor(np.array(entry)) for key, entry in value.items()}
    return {name: torch.as_tensor(np.array(value))}


def from_observations(name: str, tensors: Tensors) -> Any:
    """Inverse of `observations`."""
    if name in tensors:
        return tensors[name].numpy().copy()
    return {key: tensor.numpy().copy() for key, tensor in prefixed(tensors, name).items()}
