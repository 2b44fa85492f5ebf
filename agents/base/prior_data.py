"""Recorded steps beside the replay buffer: a share of every minibatch comes from a data set.

P. J. Ball, L. Smith, I. Kostrikov, S. Levine: Efficient Online Reinforcement Learning with Offline
Data (RLPD, ICML 2023, arXiv 2302.02948), whose symmetric sampling draws half and half.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, ReplayBufferSamples
from stable_baselines3.common.utils import check_for_correct_spaces

from .off_policy import ResumableOffPolicy
from .offline_data import OfflineDataset


class PriorData(ResumableOffPolicy):
    """Mixin of off-policy algorithms that learn from recorded steps, too:
    `class RLPD(PriorData, SoftActorCritic)`.

    It goes in front of an algorithm whose `train` draws with `sample`. The data stay as they are
    and in no checkpoint: whoever loads the agent to go on gives them again. Without data, all that
    is drawn comes from the replay buffer.

    Args:
        policy: as in the algorithm.
        env: an `OfflineDataset` whose `env` is the one to learn in; or only that one.
        prior_share: share of a minibatch that is drawn from the data, in [0, 1]; the number of
            transitions is rounded.
        arguments: of the algorithm.

    Attributes:
        dataset: the data; None: there are none.
        prior: the same in the form of a replay buffer (actions in [-1, 1]).

    Raises:
        ValueError: `prior_share` lies outside [0, 1]; the data have no `env`, other spaces than it,
            or lack rewards, next observations or terminations.
    """

    dataset: OfflineDataset | None
    prior: ReplayBuffer | None = None

    def __init__(
        self,
        policy: Any,
        env: OfflineDataset | GymEnv | str | None,
        *,
        prior_share: float = 0.5,
        _init_setup_model: bool = True,
        **arguments: Any,
    ) -> None:
        if not 0 <= prior_share <= 1:
            raise ValueError(f"prior_share={prior_share} lies outside [0, 1]")
        self.prior_share = prior_share
        self.dataset = env if isinstance(env, OfflineDataset) else None
        inner = to_learn_in(env) if isinstance(env, OfflineDataset) else env
        arguments["_init_setup_model"] = _init_setup_model
        super().__init__(policy, inner, **arguments)  # type: ignore[arg-type]

    def _setup_model(self) -> None:
        super()._setup_model()
        if self.dataset is not None:
            self._take(self.dataset)

    def set_env(self, env: Any, force_reset: bool = True) -> None:
        """Change the data and their environment, or only the environment.

        Raises:
            ValueError: the spaces are not those of the agent, or the data lack something.
        """
        if isinstance(env, OfflineDataset):
            inner = to_learn_in(env)
            self._take(env)
            env = inner
        super().set_env(env, force_reset)

    @classmethod
    def load(  # type: ignore[override]
        cls,
        path: str | Path,
        env: OfflineDataset | GymEnv | None = None,
        device: torch.device | str = "auto",
        **overrides: Any,
    ) -> Self:
        """As the algorithm's; `env` may hold the data."""
        if not isinstance(env, OfflineDataset):
            return super().load(path, env, device, **overrides)
        agent = super().load(path, to_learn_in(env), device, **overrides)
        agent._take(env)
        return agent

    def _take(self, data: OfflineDataset) -> None:
        # A data set has the two attributes that SB3's check of an environment reads.
        check_for_correct_spaces(data, self.observation_space, self.action_space)  # type: ignore[arg-type]
        assert self.replay_buffer_class is not None
        prior = self.replay_buffer_class(
            len(data),
            self.observation_space,
            self.action_space,
            device=self.device,
            **self.replay_buffer_kwargs,
        )
        fill(prior, data, self.policy)
        self.dataset, self.prior = data, prior

    def sizes(self, batch_size: int) -> tuple[int, int]:
        """How many transitions of a minibatch come from the replay buffer, and from the data."""
        prior = 0 if self.prior is None else round(self.prior_share * batch_size)
        return batch_size - prior, prior

    def sample(self, batch_size: int) -> ReplayBufferSamples:
        """Transitions of both kinds, those of the replay buffer first."""
        online, prior = self.sizes(batch_size)
        if self.prior is None or not prior:
            return super().sample(batch_size)
        drawn = self.prior.sample(prior, env=self._vec_normalize_env)
        return joined(super().sample(online), drawn) if online else drawn


def to_learn_in(data: OfflineDataset) -> Any:
    """The environment of a data set; ValueError where it has none."""
    if data.env is None:
        raise ValueError("prior data need env, the environment to learn in")
    return data.env


def fill(buffer: ReplayBuffer, data: OfflineDataset, policy: BasePolicy) -> None:
    """Put N recorded steps into a replay buffer of size N, as if they had been played.

    Args:
        buffer: for one environment.
        data: its steps follow each other within an episode (only n-step returns look at that).
        policy: brings actions into [-1, 1].

    Raises:
        ValueError: the data lack rewards, next observations or terminations.
    """
    needed = ("rewards", "next_observations", "terminations")
    if missing := [name for name in needed if getattr(data, name) is None]:
        raise ValueError(f"prior data lack {', '.join(missing)}; needed are {', '.join(needed)}")
    ended = np.asarray(data.terminations, dtype=bool)
    cut = np.zeros_like(ended) if data.truncations is None else data.truncations.astype(bool)
    actions = data.actions
    if isinstance(data.action_space, spaces.Box):
        actions = policy.scale_action(actions)
    columns = {
        "observations": data.observations,
        "next_observations": data.next_observations,
        "actions": actions,
        "rewards": data.rewards,
        "dones": ended | cut,
        "timeouts": cut & ~ended,
    }
    for name, column in columns.items():
        table = getattr(buffer, name)
        table[:] = np.reshape(column, table.shape)
    buffer.pos, buffer.full = 0, True


def joined(first: ReplayBufferSamples, second: ReplayBufferSamples) -> ReplayBufferSamples:
    """Two minibatches as one, in their order."""
    columns: list[Any] = list(first)
    for index, other in enumerate(second):
        if other is not None:
            columns[index] = torch.cat([columns[index], other])
    return ReplayBufferSamples(*columns)
