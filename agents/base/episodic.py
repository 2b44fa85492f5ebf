"""Policy gradients from whole episodes (REINFORCE), many of them at once.

R. J. Williams, Simple statistical gradient-following algorithms for connectionist reinforcement
learning (1992). With rewards r_j of an episode of H steps,

    grad J = E sum_i grad log pi(a_i | s_i) (G_i - b_i),    G_i = sum_{j >= i} r_j

where the baseline b_i is the batch's mean of G_i at the same step. A subclass says in
`step_rewards` what an episode pays.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.common.vec_env import VecEnv

from ...envs.base import ArrayCore
from ...wrappers.sb3 import SB3VecEnv
from .algorithm import Algorithm
from .episodes import Episodes, play_core, play_env
from .episodic_policies import EpisodicPolicy, HistoryPolicy, MlpPolicy, TabularPolicy
from .snapshot import bottom, native_faces, normalizers, readable

# -- the computation ------------------------------------------------------------------------------


def returns_to_go(rewards: torch.Tensor) -> torch.Tensor:
    """Sum of the rewards from each step on, without discount.

    Args:
        rewards: [T, n], 0 after the end of an episode.

    Returns:
        [T, n].
    """
    return rewards.flip(0).cumsum(0).flip(0)


def step_means(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Mean over the episodes at each step: the baseline.

    It depends on the time alone, but an episode is one of those that it averages. In expectation
    that shortens the gradient by the factor 1 - 1/n and does not turn it.

    Args:
        values, weights: [T, n]; a weight is 0 where an episode is over.

    Returns:
        [T, 1]; 0 where every weight is 0.
    """
    total = weights.sum(1, keepdim=True)
    return (weights * values).sum(1, keepdim=True) / torch.where(total > 0, total, 1.0)


def policy_gradient_loss(
    log_probs: torch.Tensor, advantages: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """- weighted mean of log pi(a_i | s_i) (G_i - b_i): its gradient is minus that of J, per step.

    Args:
        log_probs: of the actions taken, [T, n].
        advantages: G_i - b_i, [T, n]; no gradient passes through them.
        weights: how much a step counts, [T, n]; 0 after the end of an episode.
    """
    return -(weights * log_probs * advantages.detach()).sum() / weights.sum()


# -- the agents -----------------------------------------------------------------------------------


class EpisodicAlgorithm(Algorithm):
    """Base of the agents that learn from whole episodes of their own. A subclass writes `update`.

    Array environments are played through their core, all episodes at once; any other environment
    through its `VecEnv`. A timestep is an environment step.

    Args:
        policy: "TabularPolicy" (logits per step and place), "MlpPolicy", or "HistoryPolicy" (which
            remembers the episode so far).
        env: with episodes that end; an array environment needs a horizon.
        learning_rate, policy_kwargs, seed, device, verbose, tensorboard_log: as in `Algorithm`.

    Raises:
        ValueError: the environment has no horizon, or masks actions.
    """

    policy_aliases: ClassVar[dict[str, Any]] = {
        "TabularPolicy": TabularPolicy,
        "MlpPolicy": MlpPolicy,
        "HistoryPolicy": HistoryPolicy,
    }
    policy: EpisodicPolicy
    reads: ClassVar[tuple[str, ...]] = ()  # entries of `info` that a subclass needs

    def __init__(self, policy: Any, env: GymEnv | str | None, **common: Any) -> None:
        self.horizon: int | None = None
        super().__init__(policy, env, **common)

    @staticmethod
    def _wrap_env(env: GymEnv, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        """As the base's; infos are read at every step."""
        if isinstance(env, VectorEnv):
            env = SB3VecEnv(env, keep_infos=True)
        return Algorithm._wrap_env(env, verbose, monitor_wrapper)

    def _setup_model(self) -> None:
        self._setup_lr_schedule()
        self.set_random_seed(self.seed)
        self.generator = np.random.default_rng(self.seed)
        if self.env is not None:
            self.core, self.horizon = self._find_task(self.env)
        policy: Any = self.policy_class(
            self.observation_space,
            self.action_space,
            self.lr_schedule,
            horizon=self.horizon,
            **self.policy_kwargs,
        )
        self.policy = policy.to(self.device)

    def _find_task(self, env: VecEnv) -> tuple[ArrayCore | None, int | None]:
        """The core to play through (None: the environment is stepped), and the horizon if known."""
        if env.has_attr("action_masks"):
            raise ValueError(f"{env} masks actions, and {type(self).__name__} plays all of them")
        core = playable_core(env)
        horizon = known_horizon(env) if core is None else core.horizon
        if core is not None and horizon is None or horizon is not None and horizon < 1:
            raise ValueError(
                f"{type(self).__name__} learns from whole episodes of at least one step, and the "
                f"horizon of the environment is {horizon}"
            )
        return core, horizon

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """As SB3's.

        Raises:
            ValueError: the policy is a table, and the new environment has another horizon.
        """
        super().set_env(env, force_reset)
        assert self.env is not None
        self.core, horizon = self._find_task(self.env)
        if isinstance(self.policy, TabularPolicy) and horizon != self.horizon:
            raise ValueError(
                f"the table has logits for {self.horizon} steps, and the new environment's horizon "
                f"is {horizon}"
            )
        self.horizon = horizon

    # -- learning ---------------------------------------------------------------------------------

    def play(self, episodes: int, deterministic: bool = False) -> Episodes:
        """Whole episodes of the agent in its environment, without learning from them."""
        if self.env is None:
            raise ValueError("there is no environment to play in: give one to load or to set_env")
        self.policy.set_training_mode(False)
        if self.core is None:
            return play_env(self.env, self.policy, episodes, self.reads, deterministic)
        return play_core(
            self.core, self.policy, episodes, self.generator, self.reads, deterministic
        )

    def note(self, episodes: Episodes) -> None:
        """Count the steps of episodes that are learned from, and log what they paid."""
        self.num_timesteps += episodes.steps
        assert self.ep_info_buffer is not None
        lengths = episodes.taken.sum(0).tolist()
        self.ep_info_buffer.extend(
            {"r": paid, "l": length}
            for paid, length in zip(episodes.rewards.sum(0).tolist(), lengths, strict=True)
        )

    # -- checkpoints ------------------------------------------------------------------------------

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy"], []

    def extra_state(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """The horizon, which a table needs."""
        return {"horizon": self.horizon}, {}

    def _prepare(self, extra: dict[str, Any]) -> None:
        self.horizon = extra["horizon"]

    def learning_state(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """The generator of the tapes."""
        return {"generator": self.generator.bit_generator.state}, {}

    def restore_learning_state(
        self, values: dict[str, Any], tensors: dict[str, torch.Tensor]
    ) -> None:
        """Inverse of `learning_state`."""
        self.generator.bit_generator.state = values["generator"]


class EpisodicPolicyGradient(EpisodicAlgorithm):
    """REINFORCE on batches of whole episodes: an update plays them and makes one step of Adam.

    The loss is the mean of -log pi(a_i | s_i) (G_i - b_i) / (2 (H + 1)) minus `ent_coef` / (t + 1)
    times the mean entropy, t counting updates from 0. Rewards are not discounted. A timestep is an
    environment step; an update makes `episodes` times H of them.

    The baseline is always the batch's mean at the same step (`step_means`). It is no argument: one
    that looked at what comes after step i would bias the gradient, and could not be told from one
    that does not.

    Args:
        policy, env: as in `EpisodicAlgorithm`.
        learning_rate: by default that of the policy, 0.05 of a table and 0.003 of a network.
        episodes: per update, at least 2.
        ent_coef: weight of the entropy in the first update.
        policy_kwargs, seed, device, verbose, tensorboard_log: as in `Algorithm`.

    Raises:
        ValueError: an argument is out of range; the environment has no horizon, or masks actions.
    """

    def __init__(
        self,
        policy: Any,
        env: GymEnv | str | None,
        *,
        learning_rate: float | Schedule | None = None,
        episodes: int = 200,
        ent_coef: float = 0.0,
        **common: Any,
    ) -> None:
        if episodes < 2:
            raise ValueError(
                f"episodes={episodes} must be at least 2: the baseline is the mean over the batch"
            )
        if not 0 <= ent_coef < np.inf:
            raise ValueError(f"ent_coef={ent_coef} must be a finite number of at least 0")
        self.episodes, self.ent_coef = episodes, ent_coef
        if learning_rate is None:
            chosen = self.policy_aliases.get(policy, policy) if isinstance(policy, str) else policy
            learning_rate = getattr(chosen, "default_rate", EpisodicPolicy.default_rate)
        super().__init__(policy, env, learning_rate=learning_rate, **common)

    def step_rewards(self, episodes: Episodes) -> torch.Tensor:
        """What each step pays, [T, n]: what the environment does, unless a subclass overrides it.

        Entries after the end of an episode do not count.
        """
        return episodes.rewards

    def loss(self, episodes: Episodes) -> tuple[torch.Tensor, dict[str, float]]:
        """What the optimizer lowers (a scalar), and what to log."""
        taken = episodes.taken.double()
        to_go = returns_to_go(self.step_rewards(episodes) * taken)
        scale = 2.0 * (len(taken) + 1)
        advantages = (to_go - step_means(to_go, taken)) / scale
        log_probs, entropies = self.policy.evaluate(episodes.observations, episodes.actions)
        entropy = (entropies * taken).sum() / taken.sum()
        loss = policy_gradient_loss(log_probs, advantages, taken)
        loss = loss - self.ent_coef / (self._n_updates + 1) * entropy
        return loss, {
            "train/loss": float(loss.detach()),
            "train/entropy": float(entropy.detach()),
            "rollout/return": float(to_go[0].mean()),
        }

    def update(self) -> dict[str, float]:
        """Play a batch of episodes and make one gradient step."""
        episodes = self.play(self.episodes)
        self.note(episodes)
        self.policy.set_training_mode(True)
        loss, metrics = self.loss(episodes)
        self.policy.optimizer.zero_grad()
        loss.backward()
        self._update_learning_rate(self.policy.optimizer)
        self.policy.optimizer.step()
        return metrics

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "policy.optimizer"], []


def playable_core(env: VecEnv) -> ArrayCore | None:
    """The core of one array environment (or native vector) below wrappers that change nothing."""
    if not readable(env) or normalizers(env):
        return None
    faces = native_faces(bottom(env))
    return faces[0].core if len(faces) == 1 else None


def known_horizon(env: VecEnv) -> int | None:
    """Steps of an episode, from the environment's attribute `horizon` or its time limit."""
    if env.has_attr("horizon"):
        return env.get_attr("horizon")[0]
    spec = env.get_attr("spec")[0] if env.has_attr("spec") else None
    return None if spec is None else spec.max_episode_steps
