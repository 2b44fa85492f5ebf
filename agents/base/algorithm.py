"""The learning loop and the checkpoints that all agents of the suite share.

`Checkpoints` is a mixin over any Stable-Baselines3 algorithm: it saves and loads without pickle and
lets `learn` resume exactly after the process was killed. `Algorithm` is the base of agents for
which SB3 has none: a subclass writes `update`, one unit of learning, and keeps SB3's contract for
the rest.
"""

from __future__ import annotations

import inspect
import time
from pathlib import Path
from typing import Any, ClassVar, Self

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import FloatSchedule, check_for_correct_spaces
from stable_baselines3.common.vec_env import VecEnv

from ...wrappers.sb3 import SB3VecEnv
from . import checkpoint as files
from .declare import Claim, Example, Paper
from .snapshot import (
    restore_env,
    restore_generators,
    snapshot_env,
    snapshot_generators,
)

# Constructor arguments that belong to a session rather than to the agent.
SESSION = {"policy", "env", "device", "verbose", "tensorboard_log", "_init_setup_model"}
COUNTERS = ("num_timesteps", "_n_updates", "_episode_num", "_total_timesteps",
            "_current_progress_remaining", "n_envs")
LATEST = "latest.zip"


class Checkpoints(BaseAlgorithm):
    """Checkpoints without pickle, and exact resume, for any SB3 algorithm.

    Convention: a constructor keeps each argument under its own name (SB3 does).
    """

    paper: ClassVar[Paper | None] = None
    claim: ClassVar[Claim | None] = None
    example: ClassVar[Example]

    @staticmethod
    def _wrap_env(env: GymEnv, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        """As SB3 does; a Gymnasium `VectorEnv` goes through `SB3VecEnv` first."""
        if isinstance(env, gym.vector.VectorEnv):
            env = SB3VecEnv(env)
        return BaseAlgorithm._wrap_env(env, verbose, monitor_wrapper)

    # -- what a checkpoint holds ------------------------------------------------------------------

    def arguments(self) -> dict[str, Any]:
        """Constructor arguments with which `load` builds the agent again."""
        found: dict[str, Any] = {}
        for name in constructor_arguments(type(self)):
            value = getattr(self, name)
            if isinstance(value, FloatSchedule):  # SB3 turns numbers into schedules when it sets up
                value = getattr(value.value_schedule, "val", value)
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

    def extra_state(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """What the agent keeps beside its parameters, needed to predict: JSON values and
        tensors."""
        return {}, {}

    def restore_extra_state(self, values: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        """Inverse of `extra_state`."""

    def learning_state(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """What only learning needs, to go on exactly: JSON values and tensors."""
        return {}, {}

    def restore_learning_state(self, values: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        """Inverse of `learning_state`."""

    # -- save and load ----------------------------------------------------------------------------

    def save(self, path: str | Path, exclude: Any = None, include: Any = None) -> None:  # type: ignore[override]
        """Write the agent as a zip of JSON and safetensors, atomically. Loading it executes
        nothing.

        Raises:
            ValueError: an argument of the agent cannot be written without pickle.
        """
        if exclude or include:
            raise ValueError("exclude and include belong to pickled files; a checkpoint holds a fixed set")
        config, tensors = self._contents()
        files.write(path, config, tensors)

    def _contents(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        values, extra = self.extra_state()
        config = {
            "class": f"{type(self).__module__}.{type(self).__qualname__}",
            "policy": self.policy_name(),
            "arguments": files.encode(self.arguments()),
            "observation_space": files.encode_space(self.observation_space),
            "action_space": files.encode_space(self.action_space),
            "counters": {name: getattr(self, name) for name in COUNTERS if hasattr(self, name)},
            "extra": files.encode(values),
        }
        tensors = {f"extra.{name}": tensor for name, tensor in extra.items()}
        for name in self._get_torch_save_params()[0]:
            part = attribute(self, name)
            if isinstance(part, torch.optim.Optimizer):
                tensors |= files.flatten_optimizer(part, name)
            else:
                tensors |= {f"{name}.{key}": value for key, value in part.state_dict().items()}
        return config, tensors

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
            ValueError: the file is damaged, belongs to another class, or does not fit `env`.
        """
        config, tensors = files.read(path)
        own = f"{cls.__module__}.{cls.__qualname__}"
        if config.get("class") != own:
            raise ValueError(f"{path} holds a {config.get('class')}, not a {own}")
        try:
            arguments = {**files.decode(config["arguments"]), **overrides}
            agent = cls(config["policy"], env, device=device, _init_setup_model=False, **arguments)
            agent._fit_spaces(config)
            agent._prepare(files.decode(config["extra"]))
            agent._setup_model()
            agent._restore(config, tensors)
        except (KeyError, TypeError, RuntimeError) as error:
            raise ValueError(f"{path}: the checkpoint does not fit {own}: {error}") from error
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

    def _restore(self, config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        for name in self._get_torch_save_params()[0]:
            part = attribute(self, name)
            if isinstance(part, torch.optim.Optimizer):
                files.restore_optimizer(part, name, tensors)
        modules = [n for n in self._get_torch_save_params()[0]
                   if not isinstance(attribute(self, n), torch.optim.Optimizer)]
        for name in modules:
            longer = [f"{other}." for other in self._get_torch_save_params()[0]
                      if other != name and other.startswith(f"{name}.")]
            state = {key.removeprefix(f"{name}."): value for key, value in tensors.items()
                     if key.startswith(f"{name}.") and not key.startswith(tuple(longer))}
            attribute(self, name).load_state_dict(state)
        for name, value in config["counters"].items():
            if name != "n_envs":
                setattr(self, name, value)
        self.restore_extra_state(files.decode(config["extra"]), prefixed(tensors, "extra"))

    # -- exact resume -----------------------------------------------------------------------------

    def save_learning(self, folder: str | Path) -> None:
        """Write all that `learn` needs to go on exactly: agent, generators and native
        environment."""
        config, tensors = self._contents()
        generators, drawn = snapshot_generators()
        values, learning = self.learning_state()
        config |= {"generators": generators, "learning": files.encode(values)}
        tensors |= drawn | {f"learning.{name}": tensor for name, tensor in learning.items()}
        if (found := snapshot_env(self.env)) is not None and self._last_obs is not None:
            config["env"], arrays = found
            tensors |= {f"env.{name}": tensor for name, tensor in arrays.items()}
            tensors |= observations("last_obs", self._last_obs)
            tensors["last_episode_starts"] = torch.as_tensor(np.asarray(self._last_episode_starts))
            if self._last_original_obs is not None:
                tensors |= observations("last_original_obs", self._last_original_obs)
        files.write(Path(folder) / LATEST, config, tensors)

    def resume_learning(self, folder: str | Path) -> bool:
        """Go back to the last `save_learning` in `folder`; False where there is none yet."""
        path = Path(folder) / LATEST
        if not path.exists():
            return False
        config, tensors = files.read(path)
        if (saved := files.decode(config["arguments"])) != (own := files.decode(files.encode(self.arguments()))):
            changed = sorted(name for name in own if own[name] != saved.get(name))
            raise ValueError(f"{path} was written with other arguments: {changed}")
        self._restore(config, tensors)
        self.restore_learning_state(files.decode(config["learning"]), prefixed(tensors, "learning"))
        if "env" in config and self.env is not None:
            restore_env(self.env, config["env"], prefixed(tensors, "env"))
            self._last_obs = from_observations("last_obs", tensors)
            self._last_episode_starts = tensors["last_episode_starts"].numpy()
            if any(name.startswith("last_original_obs") for name in tensors):
                self._last_original_obs = from_observations("last_original_obs", tensors)
        restore_generators(config["generators"], tensors)
        return True


class ResumableSB3(Checkpoints):
    """Exact resume for SB3's own on-policy algorithms: `class PPO(ResumableSB3,
    stable_baselines3.PPO)`."""

    def learn(  # type: ignore[override]
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        *args: Any,
        checkpoint: str | Path | None = None,
        resume: bool = False,
        checkpoint_seconds: float = 30.0,
        reset_num_timesteps: bool = True,
        **kwargs: Any,
    ) -> Self:
        """SB3's `learn`; with `checkpoint`, the state is written there between rollouts.

        Args:
            checkpoint: folder for the state of learning.
            resume: go on from that folder if it holds a state.
            checkpoint_seconds: least time between two writes.
        """
        if checkpoint is None:
            return super().learn(total_timesteps, callback, *args,  # type: ignore[safe-super]
                                 reset_num_timesteps=reset_num_timesteps, **kwargs)
        if resume and self.resume_learning(checkpoint):
            total_timesteps, reset_num_timesteps = total_timesteps - self.num_timesteps, False
        writer = CheckpointWriter(checkpoint, checkpoint_seconds)
        callbacks = [writer] if callback is None else [writer, *as_list(callback)]
        return super().learn(total_timesteps, callbacks, *args,  # type: ignore[safe-super]
                             reset_num_timesteps=reset_num_timesteps, **kwargs)


class CheckpointWriter(BaseCallback):
    """Writes the state of learning at the start of a rollout, when nothing is half done."""

    def __init__(self, folder: str | Path, seconds: float) -> None:
        super().__init__()
        self.folder, self.seconds, self.written = folder, seconds, -np.inf

    def _on_rollout_start(self) -> None:
        if time.monotonic() - self.written >= self.seconds:
            assert isinstance(self.model, Checkpoints)
            self.model.save_learning(self.folder)
            self.written = time.monotonic()

    def _on_step(self) -> bool:
        return True


class Algorithm(Checkpoints):
    """Base of the agents for which Stable-Baselines3 has none.

    A subclass creates its networks in `_setup_model` and writes `update`. It may extend `begin` and
    `finish`, and names what it keeps in `extra_state` and `learning_state`.

    Args:
        policy: alias in `policy_aliases`, or a policy class.
        env: Gymnasium id, environment, vector environment or SB3 `VecEnv`; None for a loaded agent.
        learning_rate: number or SB3 schedule.
        policy_kwargs: arguments of the policy.
        seed: of everything that the agent draws.
        device: "auto", "cpu", "cuda" ...
        verbose: 0 nothing, 1 progress in the log.
        tensorboard_log: folder for TensorBoard.
    """

    def __init__(
        self,
        policy: Any,
        env: GymEnv | str | None,
        *,
        learning_rate: float | Schedule = 3e-4,
        policy_kwargs: dict[str, Any] | None = None,
        seed: int | None = None,
        device: torch.device | str = "auto",
        verbose: int = 0,
        tensorboard_log: str | None = None,
        _init_setup_model: bool = True,
    ) -> None:
        super().__init__(
            policy, env, learning_rate, policy_kwargs=policy_kwargs, seed=seed, device=device,
            verbose=verbose, tensorboard_log=tensorboard_log, support_multi_env=True,
        )
        self._metrics: dict[str, float] = {}
        if _init_setup_model:
            self._setup_model()

    def update(self) -> dict[str, float]:
        """One unit of learning: advances `num_timesteps` and returns what to log."""
        raise NotImplementedError

    def begin(self) -> None:
        """Called once before the first update of a `learn` (not when it resumes)."""

    def finish(self) -> None:
        """Called once after the last update of a `learn`."""

    def exhausted(self) -> bool:
        """Whether learning has come to its own end before `total_timesteps`."""
        return False

    def learn(  # type: ignore[override]
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 10,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
        *,
        checkpoint: str | Path | None = None,
        resume: bool = False,
        checkpoint_seconds: float = 30.0,
    ) -> Self:
        """Learn for at least `total_timesteps`.

        Args:
            total_timesteps: in the unit of the agent's base (steps, rounds, gradient steps ...).
            callback: SB3 callbacks; `on_step` is called after every update.
            log_interval: updates between two dumps of the log; None: never.
            tb_log_name: name of the run, by default the class's.
            reset_num_timesteps: start counting from zero.
            progress_bar: show one (tqdm and rich).
            checkpoint: folder to which the state of learning is written.
            resume: go on from that folder if it holds a state; on CPU with native environments the
                result is that of a run that was never interrupted.
            checkpoint_seconds: least time between two writes.

        Raises:
            ValueError: `total_timesteps` is negative, or `resume` is asked without `checkpoint`.
        """
        if total_timesteps < 0:
            raise ValueError(f"total_timesteps must be at least 0, got {total_timesteps}")
        if resume and checkpoint is None:
            raise ValueError("resume=True needs checkpoint=FOLDER")
        total, callback = self._setup_learn(
            total_timesteps, callback, reset_num_timesteps, tb_log_name or type(self).__name__, progress_bar
        )
        if not (resume and checkpoint is not None and self.resume_learning(checkpoint)):
            self.begin()
        elif not reset_num_timesteps:
            total = total_timesteps
        self._total_timesteps = total
        callback.on_training_start(locals(), globals())
        written = time.monotonic()
        going = True
        while going and self.num_timesteps < total and not self.exhausted():
            callback.on_rollout_start()
            self._update_current_progress_remaining(self.num_timesteps, total)
            self._metrics = self.update()
            callback.update_locals(locals())
            going = callback.on_step()
            callback.on_rollout_end()
            self._n_updates += 1
            if log_interval is not None and self._n_updates % log_interval == 0:
                self._log()
            if checkpoint is not None and time.monotonic() - written >= checkpoint_seconds:
                self.save_learning(checkpoint)
                written = time.monotonic()
        self.finish()
        callback.on_training_end()
        return self

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        """As SB3's; also for agents that learn from data and have no environment."""
        if reset_num_timesteps:
            self._n_updates = 0
        if self.env is None:
            self._last_obs = np.zeros(1)
            self.num_timesteps = 0 if reset_num_timesteps else self.num_timesteps
            reset_num_timesteps = False
        return super()._setup_learn(
            total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
        )

    def _log(self) -> None:
        seconds = max((time.time_ns() - self.start_time) / 1e9, 1e-9)
        done = self.num_timesteps - self._num_timesteps_at_start
        self.logger.record("time/fps", int(done / seconds))
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        for name, value in self._metrics.items():
            self.logger.record(name, value)
        self.logger.dump(self.num_timesteps)


def constructor_arguments(agent_class: type) -> list[str]:
    """Names that a constructor takes, those that `**arguments` hands on to a base included."""
    names: list[str] = []
    for cls in agent_class.__mro__:
        if "__init__" not in vars(cls):
            continue
        parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
        names += [p.name for p in parameters if p.kind is not p.VAR_KEYWORD]
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return [name for name in dict.fromkeys(names) if name not in SESSION]


def attribute(owner: Any, dotted: str) -> Any:
    """`owner.a.b` for "a.b"."""
    for name in dotted.split("."):
        owner = getattr(owner, name)
    return owner


def prefixed(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """Tensors whose name starts with `prefix.`, without it."""
    return {name.removeprefix(f"{prefix}."): tensor for name, tensor in tensors.items()
            if name.startswith(f"{prefix}.")}


def observations(name: str, value: Any) -> dict[str, torch.Tensor]:
    """Observations (an array, or a dictionary of arrays) as named tensors."""
    if isinstance(value, dict):
        return {f"{name}.{key}": torch.as_tensor(entry.copy()) for key, entry in value.items()}
    return {name: torch.as_tensor(np.array(value))}


def from_observations(name: str, tensors: dict[str, torch.Tensor]) -> Any:
    """Inverse of `observations`."""
    if name in tensors:
        return tensors[name].numpy().copy()
    return {key: tensor.numpy().copy() for key, tensor in prefixed(tensors, name).items()}


def as_list(callback: Any) -> list[Any]:
    """Callbacks as a list; a plain function as SB3 takes it."""
    from stable_baselines3.common.callbacks import ConvertCallback

    found = callback if isinstance(callback, list) else [callback]
    return [entry if isinstance(entry, BaseCallback) else ConvertCallback(entry) for entry in found]
