"""Base of the agents that spend a budget of training data over groups."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.type_aliases import Schedule

from ...envs.data.equitable_sampling import split_observation
from ...envs.faces import ArrayVectorEnv
from ..base.bandit import BanditAlgorithm, Diary
from ..base.declare import Example
from ..base.masked import MaskedPolicy, MaskedPrediction
from ..base.snapshot import bottom, native_faces
from ..base.stepping import Mask, Transitions, check_discrete

Array = NDArray[np.float64]

EXAMPLE = Example(
    "EquitableSampling-v0",
    {
        **{"mode": "prs", "markers": (5, 12), "validation": 30, "test": 40},
        **{"budget": 40.0, "spend": 5.0, "start": 20},
    },
    policy="GroupPolicy",
    steps=48,
)


class GroupPolicy(MaskedPolicy):
    """Buys for the allowed group with the highest score, which a subclass computes.

    `bought` [G] counts the batches that were bought for each group while learning.

    Args:
        observation_space: that of `EquitableSampling-v0`.
        action_space: `Discrete(G)`.
        lr_schedule: not used; SB3 hands it to every policy.
    """

    bought: torch.Tensor

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        lr_schedule: Schedule | None = None,
    ) -> None:
        super().__init__(observation_space, action_space)
        check_discrete(action_space, "groups", "sampling")
        self.groups = int(action_space.n)  # type: ignore[attr-defined]
        if observation_space.shape != (4 * self.groups + 1,):
            raise ValueError(
                f"{self.groups} groups need observations of shape ({4 * self.groups + 1},), as "
                f"EquitableSampling-v0 has, got {observation_space}"
            )
        self.register_buffer("bought", torch.zeros(self.groups, dtype=torch.int64))

    def scores(self, observations: NDArray[Any]) -> Array:
        """How much each group should be bought for, [n, G]."""
        raise NotImplementedError

    def choose(
        self, observations: torch.Tensor, deterministic: bool, masks: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Groups [n] for observations [n, 4 G + 1]; `masks` bool [n, G] says which are allowed."""
        allowed = None if masks is None else masks.numpy()
        return torch.from_numpy(first_best(self.scores(observations.numpy()), allowed))


class SamplingAlgorithm(MaskedPrediction, BanditAlgorithm):
    """Base of the agents that buy batches for groups: a round buys one. A subclass may write `act`.

    Args:
        policy: "GroupPolicy".
        env: `EquitableSampling-v0`, or an environment with its observations.
        seed, verbose, ...: as in `Algorithm`.

    Attributes:
        samples: of each group in hand after the last round (of an episode that has just ended:
            those it ended with), [n_envs, G]; None before the first.
    """

    example = EXAMPLE
    policy: GroupPolicy
    samples: Array | None = None

    def act(self, observations: NDArray[Any], masks: Mask | None) -> NDArray[np.int64]:
        """What the policy chooses, [n]."""
        return first_best(self.policy.scores(observations), masks)

    def learn_from(self, transitions: Transitions) -> dict[str, float]:
        """Count what was bought."""
        counts = np.bincount(transitions.actions, minlength=self.policy.groups)
        self.policy.bought += torch.as_tensor(counts)
        self.samples = split_observation(transitions.next_observations, self.policy.groups)["n"]
        return {"rollout/mean_reward": float(transitions.rewards.mean())}

    def of_env(self, name: str) -> Any:
        """An attribute of the task, such as `eta`, from the attached environment.

        Raises:
            ValueError: the environment does not have it.
        """
        assert self.env is not None
        if self.env.has_attr(name):
            return self.env.get_attr(name)[0]
        core = self.env.get_attr("core")[0] if self.env.has_attr("core") else None
        if not hasattr(core, name):
            raise ValueError(
                f"{type(self).__name__} needs an environment with `{name}`, as "
                "EquitableSampling-v0 has"
            )
        return getattr(core, name)

    def learning_points(self, row: int, group: int) -> Array:
        """(samples, performance) of models of parts of the data in hand, [P, 2].

        Args:
            row: environment.
            group: whose.

        Raises:
            ValueError: the environment has no `learning_points`.
        """
        assert self.env is not None
        face = native_faces(bottom(self.env))[0]
        if isinstance(face, ArrayVectorEnv) and hasattr(face, "learning_points"):
            return np.asarray(face.learning_points(group, row))
        if not self.env.has_attr("learning_points"):
            raise ValueError(
                f"{type(self).__name__} needs an environment with `learning_points(group)`, as "
                "EquitableSampling-v0 has"
            )
        return np.asarray(self.env.env_method("learning_points", group, indices=[row])[0])


def first_best(scores: Array, masks: Mask | None) -> NDArray[np.int64]:
    """The highest score of each row among what is allowed, ties to the lowest, [n].

    Args:
        scores: [n, G].
        masks: bool [n, G]; None: all.
    """
    # Below even -inf: what is not allowed must lose against every score.
    order = np.argsort(-scores, axis=1, kind="stable")
    if masks is None:
        return order[:, 0]
    place = np.take_along_axis(masks, order, axis=1).argmax(axis=1)
    return np.asarray(order[np.arange(len(order)), place])


def spend_budget(
    agent_class: type[SamplingAlgorithm], env: gym.Env[Any, Any], seed: int
) -> list[float]:
    """Utility on test samples at the start of an episode and after each batch that an agent buys.

    Args:
        agent_class: of the agent, with its defaults.
        env: a single `EquitableSampling-v0`.
        seed: of the agent and of the episode.
    """
    batches = env.get_wrapper_attr("core").horizon
    agent = agent_class("GroupPolicy", Monitor(env, info_keywords=("utility",)), seed=seed)
    diary = Diary()
    agent.learn(batches, callback=diary)
    assert agent.ep_info_buffer is not None
    final = float(agent.ep_info_buffer[-1]["utility"])
    gains = diary.column("rollout/mean_reward")
    to_come = np.append(np.cumsum(gains[::-1])[::-1], 0.0)
    return [final - gain for gain in to_come.tolist()]
