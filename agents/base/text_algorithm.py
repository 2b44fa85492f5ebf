"""Base of the agents that are language models: the policy, its warm start, and its tasks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn

from ...envs.text.base import TextEnv
from .algorithm import Algorithm
from .resumable import prefixed
from .text.policy import TextPolicy

# Wrappers that change neither prompts nor rewards.
SEEN_THROUGH = (Monitor, OrderEnforcing, PassiveEnvChecker, TimeLimit)
DEMONSTRATIONS = 2_000  # that an untrained model imitates
WARM_START_STEPS = 1_000  # at most
HELD_OUT, HELD_OUT_FROM = 128, 10_000  # test tasks on which a warm start is judged


class TextAlgorithm(Algorithm):
    """A language model that learns in a text environment (`palaestra.envs.text`).

    Before the first update the embedded model, which can write nothing yet, imitates demonstrations
    of the environment until it solves a part of its held-out tasks.

    Args:
        policy: "TextPolicy".
        env: a text environment, alone or in a `DummyVecEnv`. Its tasks are drawn by the agent.
        weight_decay: of AdamW.
        max_grad_norm: gradients are scaled down to this norm.
        temperature: of the replies that are learned from; that of `predict` is the policy's.
        demonstrations: how many to imitate before the first update; None: 2,000 for the embedded
            model, none for a pretrained one.
        imitate_until: share of held-out tasks that are solved greedily when imitation ends; it
            ends after 1,000 steps of 64 demonstrations at the latest.
        learning_rate, seed, device, verbose, tensorboard_log: as in `Algorithm`.
        policy_kwargs: of `TextPolicy`, such as `model`; alphabet and stop are the environment's.

    Raises:
        ValueError: an argument is out of range, or the environment is none of texts.
    """

    policy_aliases: ClassVar[dict[str, Any]] = {"TextPolicy": TextPolicy}
    learns_in_env = False  # tasks come from the agent's generator, not from the state of the env
    policy: TextPolicy

    def __init__(
        self,
        policy: Any,
        env: GymEnv | str | None,
        *,
        learning_rate: float | Schedule = 3e-4,
        weight_decay: float = 0.0,
        max_grad_norm: float = 1.0,
        temperature: float = 1.0,
        demonstrations: int | None = None,
        imitate_until: float = 0.35,
        **common: Any,
    ) -> None:
        if not (temperature > 0 and max_grad_norm > 0 and weight_decay >= 0):
            raise ValueError(
                "temperature and max_grad_norm are above 0 and weight_decay is at least 0, got "
                f"temperature={temperature}, max_grad_norm={max_grad_norm}, "
                f"weight_decay={weight_decay}"
            )
        if (demonstrations or 0) < 0 or not 0 <= imitate_until <= 1:
            raise ValueError(
                "demonstrations is at least 0 and imitate_until from 0 to 1, got "
                f"demonstrations={demonstrations}, imitate_until={imitate_until}"
            )
        self.weight_decay, self.max_grad_norm = weight_decay, max_grad_norm
        self.temperature = temperature
        self.demonstrations, self.imitate_until = demonstrations, imitate_until
        self._policy_arguments: dict[str, Any] | None = None
        super().__init__(policy, env, learning_rate=learning_rate, **common)

    # -- the environment ---------------------------------------------------------------------------

    @property
    def tasks(self) -> TextEnv:
        """The text environment, out of its wrappers.

        Raises:
            ValueError: it is none of texts, or a wrapper changes what it says.
        """
        if not isinstance(self.env, DummyVecEnv):
            raise ValueError(
                f"{type(self).__name__} needs one text environment, got {self.env}: it draws the "
                "tasks of a batch by itself"
            )
        env: Any = self.env.envs[0]
        while isinstance(env, SEEN_THROUGH):
            env = env.env
        if not isinstance(env, TextEnv):
            raise ValueError(
                f"{type(self).__name__} needs a TextEnv, got {env}. Wrappers would not be heard: "
                "write other rewards as a subclass of the environment (`score`)"
            )
        return env

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """As SB3's; the environment must be one of texts."""
        super().set_env(env, force_reset)
        self.tasks  # noqa: B018  raises where it is none

    # -- set-up ------------------------------------------------------------------------------------

    def _setup_model(self) -> None:
        self._setup_lr_schedule()
        self.set_random_seed(self.seed)
        self.generator = np.random.default_rng(self.seed)
        arguments = self._policy_arguments
        if arguments is None:
            arguments = self.language()
        policy_class: Any = self.policy_class
        self.policy = policy_class(
            self.observation_space,
            self.action_space,
            **{**arguments, **self.fixed_policy_arguments(), **self.policy_kwargs},
        ).to(self.device)
        self.policy.optimizer = self.policy.make_optimizer(self.lr_schedule(1), self.weight_decay)
        self.started = False
        self.reference: TextPolicy | None = None
        self._notes: dict[str, list[torch.Tensor]] = defaultdict(list)

    def language(self) -> dict[str, str]:
        """Alphabet and stop of the embedded model: those of the environment."""
        return {"alphabet": self.tasks.alphabet, "stop": self.tasks.stop}

    def fixed_policy_arguments(self) -> dict[str, Any]:
        """Arguments of the policy that the algorithm needs, such as a value head."""
        return {}

    # -- warm start --------------------------------------------------------------------------------

    def begin(self) -> None:
        """Imitate demonstrations before the first update of all."""
        if not self.started:
            self.warm_start()
            self.started = True

    def warm_start(self) -> list[float]:
        """Imitate demonstrations; the loss of each gradient step.

        Whether it is enough is looked at every 50 steps.
        """
        wanted = self.demonstrations
        if wanted is None:
            wanted = DEMONSTRATIONS if self.policy.arguments["model"] == "tiny" else 0
        if wanted == 0:
            return []
        return self.policy.warm_start(
            self.lessons(wanted),
            WARM_START_STEPS,
            seed=int(self.generator.integers(2**31)),
            until=lambda _: self.imitates_enough(),
        )

    def lessons(self, n: int) -> list[tuple[str, str]]:
        """Pairs (prompt, reply) to imitate: n demonstrations of the environment."""
        records = self.tasks.demonstrations(n, int(self.generator.integers(2**31)))
        return [(record.prompt, record.reply) for record in records]

    def imitates_enough(self) -> bool:
        """Whether greedy accuracy on held-out tasks is at least `imitate_until`."""
        return self.accuracy(held_out(self.tasks)) >= self.imitate_until

    def accuracy(self, ids: Sequence[int], split: str = "test") -> float:
        """Share of tasks that are solved greedily (the mean of `correct`).

        Args:
            ids: tasks of a split.
            split: "train" or "test".
        """
        tasks = [self.tasks.choose({"task": index, "split": split}) for index in ids]
        replies = self.policy.generate([task.prompt for task in tasks], temperature=0.0).texts
        verdicts = map(self.tasks.verify, tasks, replies)
        return float(np.mean([verdict["correct"] for verdict in verdicts]))

    # -- learning ----------------------------------------------------------------------------------

    def step(self, loss: torch.Tensor) -> torch.Tensor:
        """One step of the optimizer down the gradient of a loss; the gradient's norm before it was
        scaled down."""
        optimizer = self.policy.optimizer
        self._update_learning_rate(optimizer)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], self.max_grad_norm)
        optimizer.step()
        return norm

    def keep_reference(self) -> None:
        """Freeze a copy of the policy as `reference`, unless there is one."""
        if self.reference is None:
            self.reference = self.policy.frozen_copy()

    def tensor(self, values: Sequence[float]) -> torch.Tensor:
        """Numbers as float32 on the agent's device."""
        return torch.tensor(values, dtype=torch.float32, device=self.device)

    def note(self, **values: torch.Tensor | float) -> None:
        """Scalars to be logged as `train/NAME`, the mean over the minibatches of an update."""
        for name, value in values.items():
            self._notes[name].append(torch.as_tensor(value).detach().cpu().float())

    def noted(self) -> dict[str, float]:
        """What was noted since `_notes` was cleared, ready for the log."""
        return {f"train/{name}": float(torch.stack(e).mean()) for name, e in self._notes.items()}

    # -- checkpoints -------------------------------------------------------------------------------

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "policy.optimizer"], []

    def extra_state(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """What the policy was built with, whether learning has started, and the reference."""
        tensors: dict[str, torch.Tensor] = {}
        if self.reference is not None:
            own = self.reference.state_dict()
            tensors = {f"reference.{name}": value for name, value in own.items()}
        return {"policy": self.policy.arguments, "started": self.started}, tensors

    def restore_extra_state(self, values: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        """Inverse of `extra_state`."""
        self.started = values["started"]
        if own := prefixed(tensors, "reference"):
            self.reference = self.policy.frozen_copy()
            self.reference.load_state_dict(own)

    def _prepare(self, extra: dict[str, Any]) -> None:
        self._policy_arguments = extra["policy"]

    def learning_state(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """The generators of tasks and of replies."""
        replies = self.policy.generator.get_state()
        return {"generator": self.generator.bit_generator.state}, {"replies": replies}

    def restore_learning_state(
        self, values: dict[str, Any], tensors: dict[str, torch.Tensor]
    ) -> None:
        """Inverse of `learning_state`."""
        self.generator.bit_generator.state = values["generator"]
        self.policy.generator.set_state(tensors["replies"].cpu())


def held_out(env: TextEnv) -> list[int]:
    """Ids of the test tasks on which a warm start is judged: 10,000 .. 10,127 where there are as
    many, else the last ones."""
    size = env.number_of_tasks("test")
    first = max(min(HELD_OUT_FROM, size - HELD_OUT), 0)
    return list(range(first, min(first + HELD_OUT, size)))
