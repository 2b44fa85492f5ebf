"""UniZero: planning in the latent space of a transformer, on one task or on several at once.

Y. Pu, Y. Niu, Z. Yang et al.: UniZero: Generalized and Efficient Planning with Scalable Latent
World Models (2024, arXiv 2406.10667). The world model (`nets/world_model.py`) is learned from what
was played; a tree search in it (`tree_search.py`) chooses actions, and is what the policy learns
to foretell. Along stretches of K steps that were played, with targets from a slow copy of the
model, it minimises

    sum over k <= K  of  - pi_k log p_k - V_k log v_k
    + sum over k < K of  - r_k log u_k - zbar_{k+1} log z_{k+1},

cross-entropies with the visits pi_k of the search, the value V_k = r_k + ... + gamma^n v(o_{k+n}),
the reward r_k and the latent state zbar_{k+1} that the copy makes of the next observation.

With several tasks (`palaestra.wrappers.tasks.TaskVecEnv`) there is one model of all, and a
minibatch has as many stretches of each. The model is not told the task: observations must tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.common.vec_env import VecEnv

from ...envs.checks import check_integer, check_number, check_share
from ...wrappers.tasks import TaskVecEnv, task_env
from .declare import Example
from .masked import MaskedPrediction
from .nets.supports import squash, two_hot
from .resumable import Checkpoints
from .sequence_replay import SequenceReplay, Stretches
from .stages import gradient_step
from .stepping import Mask, SteppingAlgorithm, Transitions
from .tree_search import Found, act_from
from .unizero_losses import unrolled_losses, value_targets
from .unizero_policy import UniZeroPolicy


class UniZero(MaskedPrediction, SteppingAlgorithm):
    """UniZero, for `Discrete` actions.

    Some episodes are played without exploration. The mean return of the last of these says how
    good the agent is in a task: `evaluations`.

    Args:
        policy: "MlpPolicy" (`UniZeroPolicy`).
        env: an environment, or a list of environments with the same spaces, each a task, or a
            `TaskVecEnv`.
        simulations: of a search, at learning and in `predict`.
        unroll_steps: K, and how far back the transformer looks.
        td_steps: n of the value targets.
        buffer_size: frames kept, of all environments together.
        batch_size: stretches of each task in a minibatch.
        learning_starts: timesteps before the first update.
        train_freq: steps of the environments between updates.
        gradient_steps: minibatches of an update.
        gamma: discount factor in [0, 1].
        tau: share of the model that its slow copy takes over after a minibatch.
        noise, noise_share: parameter of the Dirichlet law, and its weight, at the root.
        temperature: at which actions are drawn from visits.
        evaluation_share: of episodes that are played without exploration.
        evaluation_episodes: how many of these, the newest, say how good the agent is.
        max_grad_norm: of the gradient.
        learning_rate: of Adam.
        policy_kwargs: of the policy.
        seed, device, verbose, tensorboard_log: as in `Algorithm`.

    Attributes:
        collected: steps taken in every task, int64 [number of tasks].

    Raises:
        ValueError: an argument is out of range, actions are not `Discrete`, or observations are
            dictionaries.
    """

    example = Example(
        "GridWorld-v0",
        {"rows": 2, "cols": 3, "observation": "planes", "max_steps": 6},
        kwargs={
            "simulations": 4,
            "unroll_steps": 2,
            "td_steps": 2,
            "batch_size": 4,
            "learning_starts": 8,
            "train_freq": 2,
            "buffer_size": 100,
            "learning_rate": 1e-2,
            "policy_kwargs": {"dim": 8, "heads": 2, "hidden": 16},
        },
        steps=40,
    )
    policy_aliases: ClassVar[dict[str, Any]] = {"MlpPolicy": UniZeroPolicy}
    tasks: NDArray[np.int64]  # of every row of the environment
    policy: UniZeroPolicy

    def __init__(
        self,
        policy: Any,
        env: GymEnv | Sequence[gym.Env[Any, Any]] | str | None,
        *,
        simulations: int = 16,
        unroll_steps: int = 5,
        td_steps: int = 5,
        buffer_size: int = 100_000,
        batch_size: int = 32,
        learning_starts: int = 500,
        train_freq: int = 4,
        gradient_steps: int = 1,
        gamma: float = 0.97,
        tau: float = 0.05,
        noise: float = 0.3,
        noise_share: float = 0.25,
        temperature: float = 1.0,
        evaluation_share: float = 0.2,
        evaluation_episodes: int = 10,
        max_grad_norm: float = 5.0,
        learning_rate: float | Schedule = 1e-3,
        **common: Any,
    ) -> None:
        self.simulations = check_integer("simulations", simulations, 1)
        self.unroll_steps = check_integer("unroll_steps", unroll_steps, 1)
        self.td_steps = check_integer("td_steps", td_steps, 1)
        self.buffer_size = check_integer("buffer_size", buffer_size, 2)
        self.batch_size = check_integer("batch_size", batch_size, 1)
        self.learning_starts = check_integer("learning_starts", learning_starts, 0)
        self.train_freq = check_integer("train_freq", train_freq, 1)
        self.gradient_steps = check_integer("gradient_steps", gradient_steps, 1)
        self.gamma, self.tau = check_share("gamma", gamma), check_share("tau", tau)
        self.noise = check_number("noise", noise, 1e-6)
        self.noise_share = check_share("noise_share", noise_share)
        self.temperature = check_number("temperature", temperature, 1e-3)
        self.evaluation_share = check_share("evaluation_share", evaluation_share)
        self.evaluation_episodes = check_integer("evaluation_episodes", evaluation_episodes, 1)
        self.max_grad_norm = check_number("max_grad_norm", max_grad_norm, 0.0)
        given: Any = env
        super().__init__(policy, given, learning_rate=learning_rate, **common)

    @staticmethod
    def _wrap_env(
        env: GymEnv | Sequence[gym.Env[Any, Any]],
        verbose: int = 0,
        monitor_wrapper: bool = True,
    ) -> VecEnv:
        """As the base's; a list of environments becomes a `TaskVecEnv`."""
        if isinstance(env, list | tuple):
            return TaskVecEnv([lambda single=single: single for single in env])  # type: ignore[misc]
        return Checkpoints._wrap_env(env, verbose, monitor_wrapper)  # type: ignore[arg-type]

    def _setup_model(self) -> None:
        searching = {"simulations": self.simulations, "gamma": self.gamma}
        self.policy_kwargs = {**self.policy_kwargs, **searching, "window": self.unroll_steps}
        super()._setup_model()
        self.gradient_updates = 0
        self.evaluated: list[list[float]] = []
        self.collected = np.zeros(0, dtype=np.int64)

    # -- tasks -------------------------------------------------------------------------------------

    @property
    def evaluations(self) -> NDArray[np.float64]:
        """Mean return of the newest episodes without exploration, of every task; -inf where there
        were too few."""
        enough = self.evaluation_episodes
        means = [np.mean(each) if len(each) == enough else -np.inf for each in self.evaluated]
        return np.array(means, dtype=np.float64)

    def resting(self) -> Mask:
        """Tasks that are neither played nor learned any more, bool [number of tasks]."""
        return np.zeros(len(self.evaluated), dtype=np.bool_)

    def adjust(self) -> dict[str, float]:
        """Called after every step of the environments; returns what to log."""
        return {}

    def _lay_out(self) -> None:
        """Make room for what the environment's tasks will show, unless there is."""
        assert self.env is not None
        found = task_env(self.env)
        rows = np.zeros(self.env.num_envs, dtype=np.int64) if found is None else found.tasks
        count = int(rows.max()) + 1
        if len(self.evaluated) != count:
            self.forget(count)
        if not (hasattr(self, "tasks") and np.array_equal(self.tasks, rows)):
            self.tasks = rows
            frames = max(self.buffer_size // len(rows), 2)
            shown = self.observation_space
            assert shown.shape is not None and isinstance(self.action_space, spaces.Discrete)
            example = np.zeros(shown.shape, dtype=shown.dtype)
            actions = int(self.action_space.n)
            self.replays = [
                SequenceReplay(int((rows == task).sum()), frames, example, actions)
                for task in range(count)
            ]
            self.greedy = np.zeros(len(rows), dtype=np.bool_)
            self.earned = np.zeros(len(rows))
            self.since_update = 0

    def forget(self, tasks: int) -> None:
        """Begin with tasks of which nothing is known."""
        self.evaluated = [[] for _ in range(tasks)]
        self.collected = np.zeros(tasks, dtype=np.int64)

    def _let_rest(self) -> None:
        found = task_env(self.env)
        if found is not None:
            found.rest(self.resting())

    def begin(self) -> None:
        """Lay out the tasks; episodes begin anew."""
        self._lay_out()
        for replay in self.replays:
            replay.cut()
        self.greedy = self.generator.random(len(self.tasks)) < self.evaluation_share
        self.earned[:] = 0
        self._let_rest()

    def exhausted(self) -> bool:
        """Whether all tasks rest."""
        return bool(self.resting().all())

    # -- acting ------------------------------------------------------------------------------------

    def act(self, observations: NDArray[Any], masks: Mask | None) -> NDArray[np.int64]:
        """Search for the rows whose task does not rest; the others get action 0."""
        self.playing = np.flatnonzero(~self.resting()[self.tasks])
        assert isinstance(self.action_space, spaces.Discrete)
        rows, actions = self.playing, int(self.action_space.n)
        greedy = self.greedy[rows]
        noise = self.generator.dirichlet(np.full(actions, self.noise), len(rows))
        share = np.where(greedy, 0.0, self.noise_share)
        allowed = None if masks is None else masks[rows]
        shown = torch.as_tensor(observations[rows], device=self.device)
        self.searched: Found = self.policy.search(shown, allowed, noise, share)
        chosen = np.zeros(len(observations), dtype=np.int64)
        chosen[rows] = act_from(self.searched.visits, greedy, self.temperature, self.generator)
        return chosen

    def learn_from(self, transitions: Transitions) -> dict[str, float]:
        """Store what was played; learn where it is time to."""
        self.num_timesteps -= len(self.tasks) - len(self.playing)
        self._store(transitions)
        self.since_update += 1
        metrics: dict[str, float] = {}
        if self.since_update >= self.train_freq and self.num_timesteps >= self.learning_starts:
            self.since_update = 0
            metrics = self.train()
        return {**metrics, **self.adjust()}

    def _store(self, step: Transitions) -> None:
        visits = np.zeros((len(self.tasks), self.searched.visits.shape[1]), dtype=np.float32)
        visits[self.playing] = self.searched.visits / self.simulations
        resting = self.resting()
        for task in np.flatnonzero(~resting):
            rows = self.tasks == task
            self.collected[task] += rows.sum()
            self.replays[task].add(
                step.observations[rows],
                step.actions[rows],
                step.rewards[rows],
                visits[rows],
                step.next_observations[rows],
                step.terminated[rows],
                step.dones[rows],
            )
        self.earned += step.rewards
        for row in np.flatnonzero(step.dones):
            if self.greedy[row]:
                newest = self.evaluated[self.tasks[row]]
                newest.append(float(self.earned[row]))
                del newest[: -self.evaluation_episodes]
            self.earned[row] = 0
            self.greedy[row] = self.generator.random() < self.evaluation_share

    # -- learning ----------------------------------------------------------------------------------

    def sample(self) -> Stretches:
        """A minibatch: as many stretches of every task that does not rest."""
        steps = self.unroll_steps + self.td_steps
        parts = [
            self.replays[task].sample(self.batch_size, steps, self.generator)
            for task in np.flatnonzero(~self.resting())
            if self.replays[task].steps
        ]
        return Stretches(*(np.concatenate(part) for part in zip(*parts, strict=True)))

    def losses(self, batch: Stretches) -> dict[str, torch.Tensor]:
        """The terms of the loss of a minibatch, and the share of `beyond` the support."""
        unroll = self.unroll_steps
        model, target = self.policy.model, self.policy.target
        to = [torch.as_tensor(part, device=self.device) for part in batch]
        observations, actions, rewards, policies, lengths, terminated = to
        size = observations.shape[:2]
        shown = self.policy.features(observations.flatten(0, 1)).unflatten(0, size)
        with torch.no_grad():
            latents = target.encode(shown)
            bootstraps = target.value(latents.flatten(0, 1)).unflatten(0, latents.shape[:2])
            values = squash(
                value_targets(rewards, bootstraps, lengths, terminated, unroll, self.gamma)
            )
            paid = squash(rewards[:, :unroll])
            support = (-model.support, model.support, model.atoms)
        found = unrolled_losses(
            model(model.encode(shown[:, : unroll + 1]), actions[:, :unroll]),
            policies[:, : unroll + 1],
            two_hot(values, *support),
            two_hot(paid, *support),
            latents[:, 1 : unroll + 1],
            lengths,
            terminated,
        )
        return {**found, "beyond": (values.abs() > model.support).float().mean()}

    def train(self) -> dict[str, float]:
        """An update: `gradient_steps` minibatches."""
        noted: list[torch.Tensor] = []
        names: list[str] = []
        self._update_learning_rate(self.policy.optimizer)
        for _ in range(self.gradient_steps):
            terms = self.losses(self.sample())
            loss = sum(term for name, term in terms.items() if name != "beyond")
            assert isinstance(loss, torch.Tensor)
            gradient_step(self.policy.optimizer, loss, self.max_grad_norm)
            self.policy.follow_model(self.tau)
            self.gradient_updates += 1
            names = list(terms)
            noted.append(torch.stack([term.detach() for term in terms.values()]))
        means = torch.stack(noted).mean(dim=0).tolist()
        return {f"train/{name}": mean for name, mean in zip(names, means, strict=True)}

    # -- checkpoints -------------------------------------------------------------------------------

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "policy.optimizer"], []

    def extra_state(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """How often the model was updated, and what is known of the tasks."""
        values, tensors = super().extra_state()
        known = {
            "gradient_updates": self.gradient_updates,
            "evaluated": self.evaluated,
            "collected": self.collected.tolist(),
        }
        return {**values, **known}, tensors

    def restore_extra_state(self, values: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        """Inverse of `extra_state`."""
        super().restore_extra_state(values, tensors)
        self.gradient_updates = values["gradient_updates"]
        self.evaluated = [list(each) for each in values["evaluated"]]
        self.collected = np.array(values["collected"], dtype=np.int64)

    def learning_state(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """The generator, the store, and the episodes that are being played."""
        values, tensors = super().learning_state()
        for task, replay in enumerate(self.replays):
            tensors |= {f"replay.{task}.{name}": x for name, x in replay.get_state().items()}
        tensors |= {
            "greedy": torch.from_numpy(self.greedy.copy()),
            "earned": torch.from_numpy(self.earned.copy()),
        }
        return {**values, "since_update": self.since_update}, tensors

    def restore_learning_state(
        self, values: dict[str, Any], tensors: dict[str, torch.Tensor]
    ) -> None:
        """Inverse of `learning_state`."""
        super().restore_learning_state(values, tensors)
        self._lay_out()
        for task, replay in enumerate(self.replays):
            start = f"replay.{task}."
            replay.set_state(
                {name.removeprefix(start): x for name, x in tensors.items() if start in name}
            )
        self.greedy = tensors["greedy"].numpy().copy()
        self.earned = tensors["earned"].numpy().copy()
        self.since_update = values["since_update"]
        self._let_rest()
