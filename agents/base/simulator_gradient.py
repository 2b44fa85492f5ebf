"""Learning through a differentiable simulator: a policy is unrolled on recorded randomness and its
mean reward differentiated with respect to its parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.common.vec_env import VecEnvWrapper

from ...envs.base import ArrayCore, Arrays, take, to_torch
from . import checkpoint as files
from .algorithm import Algorithm
from .snapshot import native_faces
from .unrolling import CompiledStretch, unroll

# Where the tapes of training and validation start, far from the seeds with which people reset.
TRAINING_TAPES, VALIDATION_TAPES, TAPES_PER_SEED = 1_000_000_000, 2_000_000_000, 1_000_000


class SimulatorPolicy(BasePolicy):
    """A deterministic policy that is trained inside the simulator.

    A subclass writes `forward`: observations [n, D] -> actions of `core`, differentiable. `core` is
    the (NumPy) core of the environment that the policy acts in; `outside` maps its actions to that
    of the environment's action space.

    Args:
        observation_space, action_space: of the environment.
        lr_schedule: learning rate as a function of the progress remaining.
        core: the environment's batched core.
    """

    def __init__(
        self,
        observation_space: gym.Space,
        action_space: gym.Space,
        lr_schedule: Schedule,
        core: ArrayCore,
    ) -> None:
        super().__init__(observation_space, action_space)
        self.core = core

    if TYPE_CHECKING:  # buffers and submodules, of which a type checker cannot know

        def __getattr__(self, name: str) -> Any: ...

    def build_optimizer(self, lr_schedule: Schedule) -> None:
        """Adam over all parameters; called at the end of a subclass's constructor."""
        self.optimizer = torch.optim.Adam(self.parameters(), lr=lr_schedule(1))

    def outside(self, action: torch.Tensor) -> torch.Tensor:
        """The action as the environment's action space has it."""
        return action

    def _predict(self, observation: Any, deterministic: bool = False) -> torch.Tensor:
        return self.outside(self.forward(observation.float()))


class SimulatorGradientAlgorithm(Algorithm):
    """Stochastic gradient descent on the mean reward of whole episodes, through the dynamics.

    `scenarios` episodes are recorded once; every update replays a minibatch of them. The parameters
    that do best on separate validation episodes are kept. A timestep is a simulated environment
    step.

    Args:
        policy, env, learning_rate, policy_kwargs, seed, device, verbose, tensorboard_log: as in
        `Algorithm`;
            `env` must be an array environment of palaestra, or any `ArrayCore` in its faces.
        scenarios: recorded training episodes (a recorded demand trace brings its own number).
        batch_size: episodes per update.
        max_grad_norm: gradients are scaled down to this norm; None: never.
        evaluate_every: epochs between two validations; 0: never, and the last parameters are kept.
        validation_scenarios: recorded validation episodes.
        patience: epochs without a better validation after which learning ends; None: never.
        compile_periods: where the loss unrolls the simulator, run this many periods at once through
            `torch.compile`, which needs a C++ compiler and takes a minute or so at the start;
            0: never. 10 is good for a small network, 1 for a graph network.
    """

    policy: SimulatorPolicy

    def __init__(
        self,
        policy: Any,
        env: GymEnv | str | None,
        *,
        learning_rate: float | Schedule = 3e-3,
        scenarios: int = 512,
        batch_size: int = 128,
        max_grad_norm: float | None = None,
        evaluate_every: int = 10,
        validation_scenarios: int = 512,
        patience: int | None = 500,
        compile_periods: int = 0,
        **common: Any,
    ) -> None:
        for name, value in {
            "scenarios": scenarios,
            "batch_size": batch_size,
            "validation_scenarios": validation_scenarios,
        }.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if compile_periods < 0:
            raise ValueError(f"compile_periods must be at least 0, got {compile_periods}")
        self.compile_periods = compile_periods
        self.compiled = CompiledStretch(compile_periods) if compile_periods else None
        self.scenarios, self.batch_size, self.max_grad_norm = scenarios, batch_size, max_grad_norm
        self.evaluate_every, self.patience = evaluate_every, patience
        self.validation_scenarios = validation_scenarios
        self._core: ArrayCore | None = None
        super().__init__(policy, env, learning_rate=learning_rate, **common)

    # -- set-up -----------------------------------------------------------------------------------

    @property
    def core(self) -> ArrayCore:
        """The batched core of the environment, or what a checkpoint tells of it."""
        if self._core is None:
            self._core = find_core(self.env)
        return self._core

    def simulator(self, core: ArrayCore) -> ArrayCore:
        """Face 3 of a core, on the agent's device."""
        return core.torch(self.device)

    def _setup_model(self) -> None:
        self._setup_lr_schedule()
        self.set_random_seed(self.seed)
        self.generator = np.random.default_rng(self.seed)
        self.policy = self._make_policy()
        self.best_validation = -np.inf
        self.best_parameters: dict[str, torch.Tensor] = {}
        self.curve: list[tuple[int, float]] = []
        self._epoch, self._best_epoch, self._position = 0, 0, 0
        self._permutation = np.zeros(0, dtype=np.int64)

    def _make_policy(self) -> SimulatorPolicy:
        policy: Any = self.policy_class(
            self.observation_space,
            self.action_space,
            self.lr_schedule,
            core=self.core,
            **self.policy_kwargs,
        )
        found: SimulatorPolicy = policy.to(self.device)
        return found

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """As SB3's; the policy keeps weights and optimizer, and now acts in the new task."""
        super().set_env(env, force_reset)
        self._core = None
        before, self.policy = self.policy, self._make_policy()
        self.policy.load_state_dict(before.state_dict())
        if "policy.optimizer" in self._get_torch_save_params()[0]:  # not where nothing is tuned
            self.policy.optimizer.load_state_dict(before.optimizer.state_dict())

    def begin(self) -> None:
        """Forget the place in the data of an earlier `learn`; best parameters and curve stay."""
        self._best_epoch, self._epoch, self._position = 0, 0, 0
        self._permutation = np.zeros(0, dtype=np.int64)

    def _record(self) -> None:
        """Record training and validation episodes; the same for every agent with the same seed."""
        first = TAPES_PER_SEED * (self.seed or 0)
        self._training = self.simulator(self.core)
        self._tape = to_torch(
            self.core.scenarios(self.scenarios, TRAINING_TAPES + first), self.device
        )
        validation = self.core.validation()
        self._validation = self.simulator(validation)
        self._validation_tape = to_torch(
            validation.scenarios(self.validation_scenarios, VALIDATION_TAPES + first), self.device
        )

    # -- learning ---------------------------------------------------------------------------------

    def learn(self, total_timesteps: int, *args: Any, **kwargs: Any) -> Any:
        """As `Algorithm.learn`; ends early when validation has stopped improving."""
        if self.core.horizon is None:
            raise ValueError(
                f"{type(self.core).__name__} has no horizon, so episodes cannot be unrolled"
            )
        self._record()
        return super().learn(total_timesteps, *args, **kwargs)

    def update(self) -> dict[str, float]:
        """One gradient step on a minibatch of recorded episodes."""
        batch = self._next_batch()
        tape = take(self._tape, batch)
        self.policy.set_training_mode(True)
        loss = self.loss(self._training, tape)
        self.policy.optimizer.zero_grad()
        loss.backward()
        if self.max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
        self._update_learning_rate(self.policy.optimizer)
        self.policy.optimizer.step()
        self.num_timesteps += len(batch) * (self.core.horizon or 0)
        metrics = {"train/loss": float(loss.detach())}
        if self._position >= len(self._permutation):
            self._epoch += 1
            if self.evaluate_every and self._epoch % self.evaluate_every == 0:
                metrics["validation/reward"] = self._validate()
        return metrics

    def loss(self, core: ArrayCore, tape: Arrays) -> torch.Tensor:
        """What the optimizer lowers: minus the mean reward per step, over all steps (a scalar)."""
        mean_reward, _ = unroll(core, self.policy, tape, core.horizon or 0, compiled=self.compiled)
        return -mean_reward.mean() / core.reward_scale

    def exhausted(self) -> bool:
        """Validation has not improved for `patience` epochs."""
        return self.patience is not None and self._epoch - self._best_epoch >= self.patience

    def finish(self) -> None:
        """A last validation, then the best parameters are put in place."""
        if self.evaluate_every:
            self._validate()
            self.policy.load_state_dict(self.best_parameters)

    def _next_batch(self) -> torch.Tensor:
        if self._position >= len(self._permutation):
            self._permutation = self.generator.permutation(len(next(iter(self._tape.values()))))
            self._position = 0
        batch = self._permutation[self._position : self._position + self.batch_size]
        self._position += len(batch)
        return torch.as_tensor(batch, device=self.device)

    def _validate(self) -> float:
        reward = float(self.evaluate_tapes(self._validation, self._validation_tape).mean())
        self.curve.append((self.num_timesteps, reward))
        if reward > self.best_validation:
            self.best_validation, self._best_epoch = reward, self._epoch
            self.best_parameters = {
                name: value.detach().clone() for name, value in self.policy.state_dict().items()
            }
        return reward

    def evaluate_tapes(self, core: ArrayCore, tape: Arrays) -> torch.Tensor:
        """Mean reward per step and unit (`reward_scale`) of each recorded episode after its
        warm-up, [n]."""
        self.policy.set_training_mode(False)
        with torch.no_grad():
            _, scored = unroll(core, self.policy, tape, core.horizon or 0, core.ignore)
        return scored / core.reward_scale

    # -- checkpoints ------------------------------------------------------------------------------

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "policy.optimizer"], []

    def extra_state(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """What the policy must know of its task, and the learning curve."""
        values = {
            "core": self.core.describe(),
            "curve": self.curve,
            "best_validation": self.best_validation,
        }
        return values, {f"best.{name}": value for name, value in self.best_parameters.items()}

    def restore_extra_state(self, values: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        """Inverse of `extra_state`."""
        self.curve = [(int(x), float(y)) for x, y in values["curve"]]
        self.best_validation = values["best_validation"]
        self.best_parameters = {
            name.removeprefix("best."): value.to(self.device) for name, value in tensors.items()
        }

    def _prepare(self, extra: dict[str, Any]) -> None:
        if self.env is None:
            self._core = described_core(extra["core"])

    def learning_state(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """The place in the data and the generator that shuffles it."""
        return {
            "generator": self.generator.bit_generator.state,
            "epoch": self._epoch,
            "best_epoch": self._best_epoch,
            "position": self._position,
        }, {"permutation": torch.as_tensor(self._permutation)}

    def restore_learning_state(
        self, values: dict[str, Any], tensors: dict[str, torch.Tensor]
    ) -> None:
        """Inverse of `learning_state`."""
        self.generator.bit_generator.state = values["generator"]
        self._epoch, self._best_epoch = values["epoch"], values["best_epoch"]
        self._position, self._permutation = values["position"], tensors["permutation"].numpy()


def find_core(env: Any) -> ArrayCore:
    """The batched core below SB3's wrappers.

    Raises:
        ValueError: the environment is not an array environment.
    """
    while isinstance(env, VecEnvWrapper):
        env = env.venv
    face = native_faces(env)[0] if env is not None else None
    if face is None:
        raise ValueError(
            f"this agent learns through the simulator and needs an array environment (ArrayEnv or "
            f"ArrayVectorEnv), got {env}"
        )
    return face.core


def described_core(description: dict[str, Any]) -> ArrayCore:
    """The core that a checkpoint describes; only cores of the registry are ever built.

    Raises:
        ValueError: the description names no registered environment.
    """
    import importlib

    from ...envs.registry import ENTRIES

    for entry in ENTRIES:
        if entry.id == description.get("id"):
            module, name = entry.core.split(":")
            return getattr(importlib.import_module(module), name).from_description(
                files.decode(description)
            )
    raise ValueError(
        f"the checkpoint is for {description.get('id')!r}, which is not registered: give env"
    )
