"""IWOCS with SAC: Incremental Worst-Case Search where models are simulators with other physics.

The paper is that of `iwocs.py`, which holds the search in finite worlds and the rules that both
share. Here every solved model T_j leaves behind what SAC learned in it:

    pi_j      the actor
    Q_j       a second pair of critics, without the entropy term of those that train the actor:
              targets r + gamma min_k Qbar_jk(s', a'),  a' ~ pi_j
    That_j    a network for the next state (L1 loss), and rho_j, the 99th percentile of its errors

In state s the model that fears most, argmin_j Q_j(s, pi_j(s)), decides, among those that are
possible after the step before: |That_j(s_before, a_before) - s|_1 <= rho_j. The first agent learns
with another physics in every episode and plays where no model is possible. The next model is the
one of a grid in which the whole does worst, by the mean return of a few episodes (the paper's
IWOCS*; the paper also searches with CMA-ES).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback, ConvertCallback
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback
from stable_baselines3.common.utils import polyak_update
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.sac.policies import Actor
from torch.nn import functional as F

from ...envs.checks import check_integer, check_number, check_share
from ...wrappers.physics_family import PhysicsFamily
from ...wrappers.physics_shift import NOISE
from ..base.algorithm import ProgressBar
from ..base.declare import Example
from ..base.off_policy import SAC
from ..base.physics import RowPhysics, play
from .iwocs import IWOCS, settled
from .iwocs_networks import IWOCSPolicy, value_targets

Params = dict[str, float]

FITTED_ON = 10_000  # steps whose errors decide what a model's network gets right
# Arguments of `gymnasium.make_vec`, which are no arguments of a single environment.
OF_THE_VECTOR = (
    *("num_envs", "vectorization_mode", "vector_kwargs", "autoreset_mode", "wrappers"),
    "render_mode",
)
# What goes on with the search.
SEARCH = (
    *("models_", "worst_returns", "agent_steps", "search_timesteps", "saddle_point", "missed"),
)


class IWOCSSAC(SAC):
    """Incremental worst-case search with SAC, over the physics of a simulator.

    The first agent learns with physics drawn from the box for every episode. When an agent has had
    its `steps_per_model`, a grid over the box is searched for the physics in which the whole does
    worst, and the next agent learns there from nothing. The episodes of a search are counted in
    `num_timesteps`, and in `search_timesteps`. After the last agent, or where the search ends
    before, the agent that learned last goes on; with a box of a single point this is SAC.

    `predict` keeps the step before in `state`: hand it back, as SB3's `evaluate_policy` does.

    Args:
        policy: "MlpPolicy".
        env: registered, with physics that `PhysicsShift` can change, actions and observations in a
            `Box`; its id and arguments make the environments in which a search plays.
        param_box: (low, high) of each parameter that is uncertain, as factors (`PhysicsFamily`);
            None: mass from 0.5 to 2.
        n_models: agents at most, the first included.
        steps_per_model: for which every agent learns.
        points: of the grid along every parameter.
        rollouts: episodes in every point, with the same starts everywhere.
        tolerance: epsilon of the stopping test, at least 0, on discounted values.
        coverage: share of the errors of a model's network up to which a step is possible in it.
        common: arguments of SB3's SAC.

    Attributes:
        models_: parameters of the models solved, or being solved, after the first agent.
        worst_returns: mean return in the worst point, of every search.
        saddle_point: whether the search ended because the stopping test holds, or there is nothing
            to search.
        missed: whether it ended because the worst model had been solved already.

    Raises:
        ValueError: an argument is out of range, or the environment is none of these.
    """

    paper = IWOCS.paper
    example = Example(
        "TorquePendulum-v0",
        {"max_steps": 10},
        kwargs={
            "n_models": 3,
            "steps_per_model": 60,
            "points": 2,
            "rollouts": 1,
            "learning_starts": 20,
            "batch_size": 16,
            "buffer_size": 1_000,
            "policy_kwargs": {"net_arch": [16]},
        },
        steps=200,
    )
    policy_aliases: ClassVar[dict[str, Any]] = {"MlpPolicy": IWOCSPolicy}
    policy: IWOCSPolicy  # type: ignore[assignment]

    def __init__(
        self,
        policy: Any,
        env: GymEnv | str | None,
        *,
        param_box: Mapping[str, tuple[float, float]] | None = None,
        n_models: int = 3,
        steps_per_model: int = 8_000,
        points: int = 5,
        rollouts: int = 3,
        tolerance: float = 0.0,
        coverage: float = 0.99,
        **common: Any,
    ) -> None:
        self.param_box = {"mass": (0.5, 2.0)} if param_box is None else dict(param_box)
        if NOISE in self.param_box:
            raise ValueError(f"param_box names {NOISE!r}, which is no part of a model's physics")
        self.n_models = check_integer("n_models", n_models, 1)
        self.steps_per_model = check_integer("steps_per_model", steps_per_model, 1)
        self.points = check_integer("points", points, 2)
        self.rollouts = check_integer("rollouts", rollouts, 1)
        self.tolerance = check_number("tolerance", tolerance, 0)
        self.coverage = check_share("coverage", coverage)
        self._exploring = False
        super().__init__(policy, env, **common)  # type: ignore[arg-type]

    def _setup_model(self) -> None:
        if self.n_steps != 1:
            raise ValueError(f"n_steps={self.n_steps}: the networks predict one step, it must be 1")
        self.policy_kwargs = {**self.policy_kwargs, "n_models": self.n_models}
        super()._setup_model()
        self.generator = np.random.default_rng(self.seed)
        self.models_: list[Params] = []
        self.worst_returns: list[float] = []
        self.agent_steps = self.search_timesteps = 0
        self.saddle_point = self.missed = False
        self._rows: list[Params] = []
        self._connect()

    def _connect(self) -> None:
        """Find the physics of the environment, and the family that it belongs to."""
        if self.env is None:
            return
        if self._vec_normalize_env is not None:
            raise ValueError("observations in a VecNormalize are not those of a search's episodes")
        self.physics = RowPhysics(self.env)
        spec = self.physics.spec
        if spec is None:
            raise ValueError(f"{self.env} has no spec: make it with gymnasium.make")
        arguments = {
            name: value for name, value in spec.kwargs.items() if name not in OF_THE_VECTOR
        }
        self.family = PhysicsFamily(spec.id, self.param_box, **arguments)
        if self.family.observation_space != self.observation_space:
            raise ValueError(
                f"{spec.id} alone has observations {self.family.observation_space}, the "
                f"environment {self.observation_space}: wrappers must not change them"
            )
        self._rows = []

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """As SB3's."""
        super().set_env(env, force_reset)
        self._connect()

    # -- SB3's stages ------------------------------------------------------------------------------

    @property
    def actor(self) -> Actor:  # type: ignore[override]
        """Of the agent that is learning."""
        return self.policy.agent.actor

    @property
    def critic(self) -> ContinuousCritic:  # type: ignore[override]
        """With the entropy term, of the agent that is learning."""
        return self.policy.agent.critic

    @property
    def critic_target(self) -> ContinuousCritic:  # type: ignore[override]
        """Of the agent that is learning."""
        return self.policy.agent.critic_target

    def _create_aliases(self) -> None:
        """The networks are those of the agent that is learning."""

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        names, variables = super()._get_torch_save_params()
        every = [
            f"policy.agents.{number}.{part}optimizer"
            for number in range(self.n_models)
            for part in ("", "actor.", "critic.")
        ]
        kept = [name for name in names if name not in ("actor.optimizer", "critic.optimizer")]
        return kept + every, variables

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[np.float32], Any]:
        """The action of the most fearful possible agent, and the step for the next call."""
        if self._exploring:
            return self.policy.agent.predict(observation, None, None, deterministic)
        return self.policy.predict(observation, state, episode_start, deterministic)

    def _sample_action(self, *args: Any, **kwargs: Any) -> tuple[NDArray[Any], NDArray[Any]]:
        """As SB3's, by the agent that is learning alone."""
        self._exploring = True
        try:
            return super()._sample_action(*args, **kwargs)
        finally:
            self._exploring = False

    def _init_callback(self, callback: MaybeCallback, progress_bar: bool = False) -> BaseCallback:
        """As SB3's, with a bar that also counts the steps of searches."""
        if progress_bar:
            given = callback if isinstance(callback, list) else [callback]
            callback = [
                each if isinstance(each, BaseCallback) else ConvertCallback(each)
                for each in given
                if each is not None
            ]
            callback = [*callback, ProgressBar()]
        return super()._init_callback(callback)

    def _setup_learn(self, *args: Any, **kwargs: Any) -> Any:
        result = super()._setup_learn(*args, **kwargs)
        assert self.env is not None
        if len(self._rows) != self.env.num_envs:
            self._rows = [self._draw() for _ in range(self.env.num_envs)]
        self.physics.put(self._rows)
        return result

    def collect_rollouts(self, env: VecEnv, callback: Any, *args: Any, **kwargs: Any) -> Any:
        """As SB3's; begins with the next agent where the last one has had its steps."""
        if self._complete and not self._over:
            self._next_agent()
        before = self.num_timesteps
        kwargs["learning_starts"] = before - self.agent_steps + self.learning_starts
        found = super().collect_rollouts(env, callback, *args, **kwargs)
        self.agent_steps += self.num_timesteps - before
        if self._complete and self.policy.bounds[self.policy.present] < 0:
            self.policy.bounds[self.policy.present] = self._error_bound()
        return found

    def _store_transition(
        self,
        replay_buffer: Any,
        buffer_action: Any,
        new_obs: Any,
        reward: Any,
        dones: NDArray[np.bool_],
        infos: list[dict[str, Any]],
    ) -> None:
        """As SB3's; a new episode of the first agent has a physics of its own."""
        super()._store_transition(replay_buffer, buffer_action, new_obs, reward, dones, infos)
        if not self.models_ and dones.any():
            for row in np.flatnonzero(dones):
                self._rows[row] = self._draw()
            self.physics.put(self._rows)

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """As SB3's; then the critics without entropy and the network for the next state learn."""
        if self.agent_steps <= self.learning_starts:
            return
        super().train(gradient_steps, batch_size)
        agent = self.policy.agent
        self._update_learning_rate(agent.optimizer)
        for _ in range(gradient_steps):
            data = self.replay_buffer.sample(batch_size)
            with torch.no_grad():
                drawn, _ = agent.actor.action_log_prob(data.next_observations)
                following = torch.cat(agent.values_target(data.next_observations, drawn), dim=1)
                targets = value_targets(data.rewards, data.dones, following, self.gamma)
            found = agent.values(data.observations, data.actions)
            value_loss = sum(F.mse_loss(each, targets) for each in found)
            predicted = agent.following(data.observations, data.actions)
            model_loss = F.l1_loss(predicted, data.next_observations)
            agent.optimizer.zero_grad()
            (value_loss + model_loss).backward()  # no parameter is in both
            agent.optimizer.step()
            polyak_update(agent.values.parameters(), agent.values_target.parameters(), self.tau)
        self.logger.record("train/model_loss", model_loss.item())

    # -- the search --------------------------------------------------------------------------------

    @property
    def _complete(self) -> bool:
        """Whether the agent that is learning has had its steps."""
        return self.agent_steps >= self.steps_per_model

    @property
    def _over(self) -> bool:
        """Whether there is no other model to solve."""
        return self.saddle_point or self.missed or len(self.models_) + 1 == self.n_models

    def _draw(self) -> Params:
        """The physics of a new episode."""
        return self.models_[-1] if self.models_ else self.family.sample(self.generator)

    def _error_bound(self) -> float:
        """rho: the error of the network for the next state that few steps exceed."""
        size = min(self.replay_buffer.size() * self.n_envs, FITTED_ON)
        data = self.replay_buffer.sample(size)
        with torch.no_grad():
            predicted = self.policy.agent.following(data.observations, data.actions)
        errors = (predicted - data.next_observations).abs().sum(dim=1)
        return float(np.quantile(errors.cpu().numpy(), self.coverage))

    def search(self) -> tuple[Params, bool]:
        """The physics of the grid in which the whole does worst, and whether it expects that."""
        members = self.family.grid(self.points)
        if len(members) == 1:
            return members[0], True
        seeds = self.generator.integers(2**31, size=self.rollouts).tolist()
        found = play(self, self.family, members, seeds, self.gamma)
        self.num_timesteps += found.steps
        self.search_timesteps += found.steps
        means = found.returns.mean(axis=1)
        worst = int(means.argmin())
        self.worst_returns.append(float(means[worst]))
        self.logger.record("search/worst_return", self.worst_returns[-1])
        self.logger.record("search/timesteps", self.search_timesteps)
        expected = self.policy.expected(found.starts[worst])
        end = expected is not None and settled(
            float(found.discounted[worst].mean()), float(expected.mean()), self.tolerance
        )
        return members[worst], end

    def _next_agent(self) -> None:
        """Search, and begin to learn in the worst model; or note that the search is over."""
        assert self.env is not None
        worst, self.saddle_point = self.search()
        self.missed = not self.saddle_point and worst in self.models_
        if self._over:
            return
        self.models_.append(worst)
        self.policy.present += 1
        self.agent_steps = 0
        self.replay_buffer.reset()
        if self.ent_coef_optimizer is not None and self.log_ent_coef is not None:
            initial = str(self.ent_coef).partition("_")[2]
            self.log_ent_coef.data.fill_(np.log(float(initial or 1.0)))
            self.ent_coef_optimizer.state.clear()
        self._rows = [worst] * self.env.num_envs
        self.physics.put(self._rows)
        self._last_obs = self.env.reset()  # type: ignore[assignment]

    # -- checkpoints -------------------------------------------------------------------------------

    def extra_state(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """As the base's, with where the search is."""
        values, tensors = super().extra_state()
        return values | {name: getattr(self, name) for name in SEARCH}, tensors

    def restore_extra_state(self, values: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        """Inverse of `extra_state`."""
        super().restore_extra_state(values, tensors)
        for name in SEARCH:
            setattr(self, name, values[name])

    def learning_state(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """As the base's, with the physics in force and the generator of physics and seeds."""
        values, tensors = super().learning_state()
        own = {"rows": self._rows, "generator": self.generator.bit_generator.state}
        return values | own, tensors

    def restore_learning_state(
        self, values: dict[str, Any], tensors: dict[str, torch.Tensor]
    ) -> None:
        """Inverse of `learning_state`."""
        super().restore_learning_state(values, tensors)
        self._rows = values["rows"]
        self.generator.bit_generator.state = values["generator"]
        self.physics.put(self._rows)
