"""The policy of a decision transformer: it remembers the last steps, and what is still to come."""

from __future__ import annotations

from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import (
    get_action_dim,
    get_flattened_obs_dim,
    preprocess_obs,
)
from stable_baselines3.common.type_aliases import Schedule
from torch import nn

from ..base.nets.trajectory import BoxHead, DiscreteHead, TrajectoryTransformer


class History(NamedTuple):
    """The last steps of n episodes: the state that `predict` takes and gives back.

    A row's steps stand at its beginning; what follows them means nothing.

    Attributes:
        conditions: what was asked for, float64 [n, K, C].
        observations: [n, K, ...].
        actions: as the policy chose them, [n, K, ...].
        lengths: steps that are remembered, int64 [n].
        timesteps: place of the last one in its episode, from 0, int64 [n].
    """

    conditions: NDArray[np.float64]
    observations: NDArray[Any]
    actions: NDArray[Any]
    lengths: NDArray[np.int64]
    timesteps: NDArray[np.int64]


class DecisionPolicy(BasePolicy):
    """A `TrajectoryTransformer` and a head for the actions.

    Args:
        observation_space: of arrays.
        action_space: `Box` with finite bounds, or `Discrete` from 0.
        lr_schedule: of AdamW.
        context: K, steps that are looked at.
        horizon: steps of the longest episode.
        weight_decay: of AdamW.
        network: sizes of the `TrajectoryTransformer`: `width`, `layers`, `heads`, `dropout`,
            `activation`.

    Attributes:
        mean, deviation: of the observations' features, [F].
        return_scale: what returns are divided by.
        best_return: the highest of an episode of the data.
        fitted: whether the four are those of data.
    """

    conditions = 1  # width C of what is asked for
    mean: torch.Tensor
    deviation: torch.Tensor
    return_scale: torch.Tensor
    best_return: torch.Tensor
    fitted: torch.Tensor

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        lr_schedule: Schedule,
        context: int = 20,
        horizon: int = 1_000,
        weight_decay: float = 1e-4,
        **network: Any,
    ) -> None:
        bounded = isinstance(action_space, spaces.Box)
        super().__init__(observation_space, action_space, squash_output=bounded)
        self.context, self.horizon = context, horizon
        inputs, size = get_flattened_obs_dim(observation_space), get_action_dim(action_space)
        if isinstance(action_space, spaces.Discrete):
            size = int(action_space.n)
        network["horizon"] = horizon
        self.network = self.make_network(inputs, size, **network)
        width = self.network.time.embedding_dim
        self.head = BoxHead(width, size) if bounded else DiscreteHead(width, size)
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("deviation", torch.ones(inputs))
        self.register_buffer("return_scale", torch.ones(()))
        self.register_buffer("best_return", torch.zeros((), dtype=torch.float64))
        self.register_buffer("fitted", torch.zeros((), dtype=torch.bool))
        self.optimizer = torch.optim.AdamW(
            self.trained(), lr=lr_schedule(1), weight_decay=weight_decay, fused=True
        )

    def make_network(self, inputs: int, actions: int, **sizes: Any) -> TrajectoryTransformer:
        """The transformer, for features [F] and encoded actions [E]."""
        return TrajectoryTransformer(self.conditions, inputs, actions, **sizes)

    def trained(self) -> list[nn.Parameter]:
        """The parameters of `optimizer`."""
        return [*self.network.parameters(), *self.head.parameters()]

    # -- along windows -----------------------------------------------------------------------------

    def features(self, observations: torch.Tensor) -> torch.Tensor:
        """Observations [B, K, ...] as standardised features, [B, K, F]."""
        flat = preprocess_obs(
            observations.flatten(0, 1), self.observation_space, self.normalize_images
        )
        assert isinstance(flat, torch.Tensor)
        flat = (flat.float().flatten(1) - self.mean) / self.deviation
        return flat.unflatten(0, observations.shape[:2])

    def scaled(self, conditions: torch.Tensor) -> torch.Tensor:
        """What is asked for, [B, K, C], as the transformer reads it."""
        return conditions.float() / self.return_scale

    def hidden(
        self,
        conditions: torch.Tensor,
        observations: torch.Tensor,
        actions: torch.Tensor,
        timesteps: torch.Tensor,
        place: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Hidden states as in `TrajectoryTransformer`, of windows as they were recorded."""
        found: torch.Tensor = self.network(
            self.scaled(conditions),
            self.features(observations),
            self.head.encode(actions),
            timesteps,
            place,
        )
        return found

    # -- acting ------------------------------------------------------------------------------------

    def begin(self, observations: NDArray[Any]) -> History:
        """Episodes of which nothing is remembered, for observations [n, ...]."""
        n, k = len(observations), self.context
        action = np.zeros(self.action_space.shape or (), dtype=self.action_dtype)
        return History(
            np.zeros((n, k, self.conditions)),
            np.zeros((n, k, *observations.shape[1:]), observations.dtype),
            np.zeros((n, k, *action.shape), action.dtype),
            np.zeros(n, np.int64),
            np.zeros(n, np.int64),
        )

    @property
    def action_dtype(self) -> Any:
        """Of remembered actions."""
        return np.float32 if self.squash_output else np.int64

    def remember(self, history: History, started: NDArray[np.bool_]) -> History:
        """A copy with room for one more step, behind the `lengths`; some rows start anew.

        Raises:
            ValueError: an episode has more than `horizon` steps.
        """
        kept = History(*(np.array(array) for array in history))
        kept.timesteps[:] = np.where(started | (kept.lengths == 0), 0, kept.timesteps + 1)
        kept.lengths[started] = 0
        if (last := int(kept.timesteps.max(initial=0))) >= self.horizon:
            raise ValueError(
                f"an episode has {last + 1} steps, the agent was made for horizon={self.horizon}"
            )
        full = np.flatnonzero(kept.lengths == self.context)
        if len(full):
            for array in kept[:3]:
                array[full, :-1] = array[full, 1:]
            kept.lengths[full] -= 1
        return kept

    def condition(
        self,
        history: History,
        started: NDArray[np.bool_],
        *,
        rewards: Any = None,
        target_return: Any = None,
    ) -> NDArray[np.float64]:
        """What to ask for in the present step of n episodes, [n, C]: the return still to come.

        Args:
            history: the steps before, then the present observation; `lengths` count those before.
            started: rows whose episode begins, bool [n].
            rewards: what the last actions earned, [n]; None: nothing is known of it.
            target_return: to ask for where an episode begins, a number or [n]; None: the best
                return of the data.

        Raises:
            ValueError: a number is not finite, or there are not as many as rows.
        """
        n = len(started)
        target_return = float(self.best_return) if target_return is None else target_return
        asked = numbers("target_return", target_return, n)
        paid = numbers("rewards", 0.0 if rewards is None else rewards, n)
        before = history.conditions[np.arange(n), np.maximum(history.lengths - 1, 0), 0]
        return np.where(started, asked, before - paid)[:, None]

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
        **asked: Any,
    ) -> tuple[NDArray[Any], Any]:
        """As SB3's policies that remember.

        Args:
            observation: one, or n of them.
            state: what the last call gave back; None: n episodes begin.
            episode_start: bool [n], which episodes begin; None: none, if there is a state.
            deterministic: the most probable actions; continuous ones are never random.
            asked: further arguments of `condition`.

        Raises:
            ValueError: the state belongs to another number of observations, an episode is too long,
                or as in `condition`.
        """
        self.set_training_mode(False)
        observations, batched = self.obs_to_tensor(observation)
        assert isinstance(observations, torch.Tensor)
        seen = observations.cpu().numpy()
        n = len(seen)
        started = np.zeros(n, bool) if episode_start is None else np.asarray(episode_start, bool)
        started = started.reshape(-1)
        history = self.begin(seen) if state is None else History(*state)
        if len(history.lengths) != n or len(started) != n:
            raise ValueError(
                f"{n} observations, but a state of {len(history.lengths)} episodes and "
                f"{len(started)} entries of episode_start"
            )
        started = started | (history.lengths == 0)
        history = self.remember(history, started)
        rows, here = np.arange(n), history.lengths
        history.observations[rows, here] = seen
        history.actions[rows, here] = 0
        history.conditions[rows, here] = self.condition(history, started, **asked)
        chosen = self.act(history, deterministic)
        history.actions[rows, here] = chosen
        history = history._replace(lengths=here + 1)
        actions = self.unscale_action(chosen) if self.squash_output else chosen
        return (actions if batched else actions[0]), tuple(history)

    @torch.no_grad()
    def act(self, history: History, deterministic: bool) -> NDArray[Any]:
        """Actions [n, ...] for the last step of a history, whose action is not yet known."""
        until = int(history.lengths.max()) + 1  # what follows is not remembered by anyone
        places = history.timesteps[:, None] - history.lengths[:, None] + np.arange(until)
        places = np.minimum(places, history.timesteps[:, None])
        parts = (*(array[:, :until] for array in history[:3]), places)
        windows = [torch.as_tensor(part, device=self.device) for part in (*parts, history.lengths)]
        chosen = self.head.act(self.hidden(*windows), deterministic)
        shape = (-1, *(self.action_space.shape or ()))
        return chosen.cpu().numpy().astype(self.action_dtype).reshape(shape)

    def _predict(self, observation: Any, deterministic: bool = False) -> torch.Tensor:
        actions, _ = self.predict(observation.cpu().numpy(), deterministic=deterministic)
        return torch.as_tensor(actions, device=self.device)


def numbers(name: str, given: Any, n: int) -> NDArray[np.float64]:
    """A number, or n of them, as float64 [n]; ValueError where that is not what it is."""
    found = np.asarray(given, dtype=np.float64).reshape(-1)
    if len(found) not in (1, n) or not np.isfinite(found).all():
        raise ValueError(f"{name}={given!r} must be a finite number, or {n} of them")
    return np.broadcast_to(found, (n,))
