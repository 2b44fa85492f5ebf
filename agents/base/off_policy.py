"""Stable-Baselines3's off-policy algorithms with this suite's checkpoints and exact resume."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import stable_baselines3
import torch
from numpy.typing import NDArray
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import GymEnv, ReplayBufferSamples, TrainFreq
from stable_baselines3.common.utils import check_for_correct_spaces

from . import checkpoint as files
from .declare import Example
from .on_policy import ResumableSB3
from .resumable import Tensors, attribute, check_class, prefixed, reading


class ResumableOffPolicy(ResumableSB3, OffPolicyAlgorithm):  # type: ignore[misc]
    """Exact resume for an off-policy algorithm:
    `class SAC(ResumableOffPolicy, stable_baselines3.SAC)`.

    Beside what `ResumableSB3` keeps, the state of learning holds the part of the replay buffer that
    is filled, and the generator of the actions with which learning starts. `save` writes neither,
    as SB3's.
    """

    replay_buffer: ReplayBuffer

    def arguments(self) -> dict[str, Any]:
        """As the base's, in the form in which SB3's constructor takes them."""
        found = super().arguments()
        if isinstance(self.train_freq, TrainFreq):
            found["train_freq"] = [self.train_freq.frequency, self.train_freq.unit.value]
        if self.n_steps > 1 and self.replay_buffer_class is NStepReplayBuffer:
            found["replay_buffer_class"] = None  # SB3 chose it, and warns where it is given
        return found

    @classmethod
    def load(  # type: ignore[override]
        cls,
        path: str | Path,
        env: GymEnv | None = None,
        device: torch.device | str = "auto",
        **overrides: Any,
    ) -> Self:
        """As the base's; one line says so also where SB3's constructor would refuse the actions."""
        if env is not None:
            env, config = cls._wrap_env(env), files.read_config(path)
            with reading(path, cls):
                check_class(config, cls)
                spaces = (config["observation_space"], config["action_space"])
                check_for_correct_spaces(env, *(files.decode_space(space) for space in spaces))
        return super().load(path, env, device, **overrides)

    def _convert_train_freq(self) -> None:
        if isinstance(self.train_freq, list):  # from a checkpoint, which knows no tuples
            self.train_freq = tuple(self.train_freq)
        super()._convert_train_freq()

    def sample(self, batch_size: int) -> ReplayBufferSamples:
        """Transitions to learn from, for a `train` that asks for them here."""
        return self.replay_buffer.sample(batch_size, env=self._vec_normalize_env)

    def extra_state(self) -> tuple[dict[str, Any], Tensors]:
        """As the base's, with the tensors that SB3 names beside modules (log_ent_coef)."""
        values, tensors = super().extra_state()
        names = self._get_torch_save_params()[1]
        return values, tensors | {f"variable.{name}": attribute(self, name) for name in names}

    def restore_extra_state(self, values: dict[str, Any], tensors: Tensors) -> None:
        """Inverse of `extra_state`."""
        super().restore_extra_state(values, tensors)
        for name, tensor in prefixed(tensors, "variable").items():
            attribute(self, name).data.copy_(tensor)

    def learning_state(self) -> tuple[dict[str, Any], Tensors]:
        """The replay buffer, and the generator of the action space."""
        buffer = self.replay_buffer
        rows = buffer.buffer_size if buffer.full else min(buffer.pos + 1, buffer.buffer_size)
        values, tensors = super().learning_state()
        values |= {
            "buffer": [buffer.pos, buffer.full],
            "action_space": self.action_space.np_random.bit_generator.state,
        }
        return values, tensors | {
            f"buffer.{name}": torch.as_tensor(table[:rows].copy())
            for name, table in buffer_tables(buffer)
        }

    def restore_learning_state(self, values: dict[str, Any], tensors: Tensors) -> None:
        """Inverse of `learning_state`."""
        super().restore_learning_state(values, tensors)
        self.replay_buffer.pos, self.replay_buffer.full = values["buffer"]
        for name, table in buffer_tables(self.replay_buffer):
            kept = tensors[f"buffer.{name}"].numpy()
            table[: len(kept)] = kept
        self.action_space.np_random.bit_generator.state = values["action_space"]


def buffer_tables(buffer: ReplayBuffer) -> Iterator[tuple[str, NDArray[Any]]]:
    """The arrays of a replay buffer by name, with a row per step."""
    for name, value in vars(buffer).items():
        named = value.items() if isinstance(value, dict) else [("", value)]
        for key, table in named:
            if isinstance(table, np.ndarray) and len(table) == buffer.buffer_size:
                yield f"{name}.{key}" if key else name, table


class SAC(ResumableOffPolicy, stable_baselines3.SAC):  # type: ignore[misc]
    """Soft actor-critic, Stable-Baselines3's own, with checkpoints that hold no pickle.

    T. Haarnoja, A. Zhou, P. Abbeel, S. Levine: Soft Actor-Critic: Off-Policy Maximum Entropy Deep
    Reinforcement Learning with a Stochastic Actor (2018, arXiv 1801.01290). Arguments are those of
    `stable_baselines3.SAC`; an `action_noise`, which is an object, cannot be saved.
    """

    example = Example(
        "TorquePendulum-v0",
        {"max_steps": 10},
        kwargs={
            "learning_starts": 20,
            "batch_size": 16,
            "buffer_size": 1_000,
            "policy_kwargs": {"net_arch": [16]},
        },
        steps=120,
    )


class TD3(ResumableOffPolicy, stable_baselines3.TD3):  # type: ignore[misc]
    """Twin delayed DDPG, Stable-Baselines3's own, with checkpoints that hold no pickle.

    S. Fujimoto, H. van Hoof, D. Meger: Addressing Function Approximation Error in Actor-Critic
    Methods (2018, arXiv 1802.09477). Arguments are those of `stable_baselines3.TD3`; an
    `action_noise`, which is an object, cannot be saved.
    """

    example = Example(
        "TorquePendulum-v0",
        {"max_steps": 10},
        kwargs={
            "learning_starts": 20,
            "batch_size": 16,
            "buffer_size": 1_000,
            "policy_kwargs": {"net_arch": [16]},
        },
        steps=120,
    )
