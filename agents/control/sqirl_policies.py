"""Policies of SQIRL: a greedy one for each step of an episode, in tables or in networks."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import get_flattened_obs_dim, preprocess_obs
from stable_baselines3.common.type_aliases import Schedule
from torch import nn

from ...envs.checks import check_integer, check_number
from ..base.episodes import Episodes
from ..base.nets.mlp import mlp
from ..base.stages import gradient_step
from ..base.stepping import check_discrete

# -- the paper's computation ----------------------------------------------------------------------


def discounted_to_go(rewards: torch.Tensor, gamma: float) -> torch.Tensor:
    """G_t = sum over u >= t of gamma^{u - t} r_u, of rewards [T, ...] that are 0 after the end."""
    found, following = torch.empty_like(rewards), torch.zeros_like(rewards[0])
    for step in reversed(range(len(rewards))):
        following = found[step] = rewards[step] + gamma * following
    return found


def head_targets(
    to_go: torch.Tensor,
    rewards: torch.Tensor,
    done: torch.Tensor,
    next_values: torch.Tensor,
    gamma: float,
) -> torch.Tensor:
    """What the k heads regress on: returns, then one step ahead of the head before.

    Args:
        to_go: G of N transitions, [N].
        rewards, done: of the same, floats and bool, [N].
        next_values: the first k - 1 heads at the next observations, [k - 1, N, A].
        gamma: discount factor.

    Returns:
        [k, N].
    """
    following = torch.where(done, 0.0, next_values.amax(dim=-1))
    return torch.cat([to_go[None], rewards + gamma * following])


def pair_means(
    shape: tuple[int, int], states: torch.Tensor, actions: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    """Mean target of each pair of states and actions [N], [S, A]; 0 for pairs never seen."""
    sums, counts = torch.zeros(2, *shape, dtype=torch.float64, device=targets.device)
    sums.index_put_((states, actions), targets, accumulate=True)
    counts.index_put_((states, actions), torch.ones_like(targets), accumulate=True)
    return sums / counts.clamp(min=1)


def last_steps(episodes: Episodes) -> torch.Tensor:
    """Which steps are the last of their episode, bool [T, n]; also true after its end."""
    return torch.cat([~episodes.taken[1:], torch.ones_like(episodes.taken[:1])])


# -- the policies ---------------------------------------------------------------------------------


class StepPolicy(BasePolicy):
    """The greedy action of every step that is learned; at later steps any action, each as likely.

    `predict` counts the steps of an episode in `state`; hand back what it returned. With
    `deterministic` it plays the lowest action at a step that is not learned. A subclass writes
    `action_values`, `fit` and `copy_step`.

    Args:
        observation_space: as the subclass says.
        action_space: `Discrete`.
        lr_schedule: not used; SB3 hands it to every policy.
        horizon: steps of an episode.
        depth: k, at least 1; above the horizon it counts as the horizon, with a warning.

    Attributes:
        learned: how many steps, from the first, are learned; an integer tensor.
        explores_from: the step from which on an episode that is learned from explores; None where
            none is.

    Raises:
        ValueError: another action space, or no horizon.
    """

    learned: torch.Tensor
    explores_from: int | None = None

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        lr_schedule: Schedule,
        horizon: int | None = None,
        depth: int = 1,
    ) -> None:
        super().__init__(observation_space, action_space)
        check_discrete(action_space, "actions", "SQIRL")
        if horizon is None:
            raise ValueError("SQIRL learns step by step of an episode, and needs a known horizon")
        if check_integer("depth", depth, 1) > horizon:
            warnings.warn(
                f"depth={depth} looks beyond the horizon, {horizon}, which is as far as counts",
                stacklevel=2,
            )
        self.horizon, self.depth = horizon, min(depth, horizon)
        self.actions = int(action_space.n)  # type: ignore[attr-defined]
        self.register_buffer("learned", torch.zeros((), dtype=torch.int64))

    def action_values(self, step: int, observations: torch.Tensor) -> torch.Tensor:
        """The last head of a step that is learned, [n, A], at observations [n, ...]."""
        raise NotImplementedError

    def fit(self, step: int, episodes: Episodes, gamma: float, rate: float) -> float:
        """Learn a step from episodes that explore from it on, and reach it; the loss.

        Args:
            step: from 0.
            episodes: what was played.
            gamma: discount factor.
            rate: learning rate, where there is a gradient.
        """
        raise NotImplementedError

    def copy_step(self, step: int) -> None:
        """Play at a step, not the first, as at the one before."""
        raise NotImplementedError

    def act(
        self, observations: torch.Tensor, memory: torch.Tensor | None, deterministic: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Actions [n] of observations [n, ...], and the steps taken afterwards [n, 1]."""
        count = len(observations)
        if memory is None:
            memory = torch.zeros(count, 1, dtype=torch.int64, device=self.device)
        steps = memory[:, 0]
        if (steps >= self.horizon).any():
            raise ValueError(
                f"step {int(steps.max())} is beyond the horizon {self.horizon}: say with "
                "`episode_start` where an episode begins"
            )
        actions = torch.zeros_like(steps)
        if not deterministic:
            actions = torch.randint(self.actions, (count,), device=self.device)
        limit = int(self.learned) if self.explores_from is None else self.explores_from
        for step in steps.unique().tolist():
            if step < limit:
                rows = steps == step
                actions[rows] = self.action_values(step, observations[rows]).argmax(dim=-1)
        return actions, memory + 1

    def playable(self, actions: torch.Tensor) -> NDArray[np.int64]:
        """Actions [n] as the environment takes them."""
        return np.asarray(actions.cpu().numpy())

    def predict(
        self,
        observation: Any,
        state: tuple[NDArray[Any], ...] | None = None,
        episode_start: NDArray[Any] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[Any], tuple[NDArray[Any], ...] | None]:
        """As SB3's; where `episode_start` is true (bool [n]) the steps start anew.

        Raises:
            ValueError: a step beyond the horizon.
        """
        self.set_training_mode(False)
        observations, batched = self.obs_to_tensor(observation)
        assert isinstance(observations, torch.Tensor)
        memory = None if state is None else torch.as_tensor(state[0], device=self.device)
        if memory is not None and episode_start is not None:
            memory = memory.clone()
            memory[np.atleast_1d(episode_start).astype(bool)] = 0
        with torch.no_grad():
            actions, memory = self.act(observations, memory, deterministic)
        found = self.playable(actions)
        return found if batched else found[0], (memory.cpu().numpy(),)

    def _predict(self, observation: Any, deterministic: bool = False) -> torch.Tensor:
        return self.act(observation, None, deterministic)[0]


class StepTable(StepPolicy):
    """Q^k of every step in a table [H, S, A]; observations are `Discrete`.

    Each backup has a table of its own step: to learn step i, Q^1 of step i + k - 1 is a mean of
    returns, and Q^j of step i + k - j a mean of rewards and the best of Q^{j-1} one step later. At
    the end of an episode there are fewer steps to look ahead.

    Args:
        observation_space, action_space, lr_schedule, horizon, depth: as in `StepPolicy`.
    """

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        lr_schedule: Schedule,
        horizon: int | None = None,
        depth: int = 1,
    ) -> None:
        super().__init__(observation_space, action_space, lr_schedule, horizon, depth)
        check_discrete(observation_space, "observations", "a table")
        states = int(observation_space.n)  # type: ignore[attr-defined]
        shape = (self.horizon, states, self.actions)
        self.values = nn.Parameter(torch.zeros(shape, dtype=torch.float64), requires_grad=False)

    def action_values(self, step: int, observations: torch.Tensor) -> torch.Tensor:
        """As `StepPolicy`'s."""
        return self.values[step, observations.long()]

    def fit(self, step: int, episodes: Episodes, gamma: float, rate: float) -> float:
        """As `StepPolicy`'s; the squared error of the last regression."""
        shape = (self.values.shape[1], self.actions)
        to_go = discounted_to_go(episodes.rewards, gamma)
        ends = last_steps(episodes)
        table: torch.Tensor | None = None
        for t in reversed(range(step, min(step + self.depth, len(episodes.taken)))):
            rows = episodes.taken[t]
            states = episodes.observations[t, rows].long()
            actions = episodes.actions[t, rows].long()
            targets = to_go[t, rows]
            if table is not None:
                ahead = table[episodes.observations[t + 1, rows].long()]
                rewards, done = episodes.rewards[t, rows], ends[t, rows]
                targets = head_targets(targets, rewards, done, ahead[None], gamma)[1]
            table = pair_means(shape, states, actions, targets)
            loss = float(((table[states, actions] - targets) ** 2).mean())
        assert table is not None
        self.values[step] = table
        return loss

    def copy_step(self, step: int) -> None:
        """As `StepPolicy`'s."""
        self.values[step] = self.values[step - 1].clone()


class StepNetworks(StepPolicy):
    """A network with k heads for every step, which starts from that of the step before.

    All transitions from the step on are pooled, whatever their step: heads do not know the time,
    unless the observation shows it. Observations are flat for a network, `Discrete` ones one-hot.

    Args:
        observation_space, action_space, lr_schedule, horizon, depth: as in `StepPolicy`.
        net_arch: hidden layers.
        n_epochs: passes over the transitions of a step.
        batch_size: transitions of a minibatch.
        max_grad_norm: largest norm of a gradient.
    """

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        lr_schedule: Schedule,
        horizon: int | None = None,
        depth: int = 1,
        net_arch: Sequence[int] = (64, 64),
        n_epochs: int = 1,
        batch_size: int = 256,
        max_grad_norm: float = 10.0,
    ) -> None:
        super().__init__(observation_space, action_space, lr_schedule, horizon, depth)
        self.n_epochs = check_integer("n_epochs", n_epochs, 1)
        self.batch_size = check_integer("batch_size", batch_size, 1)
        self.max_grad_norm = check_number("max_grad_norm", max_grad_norm, 0.0)
        inputs, outputs = get_flattened_obs_dim(observation_space), self.depth * self.actions
        self.networks = nn.ModuleList(
            mlp(inputs, net_arch, outputs, nn.ReLU) for _ in range(self.horizon)
        )

    def heads(self, step: int, observations: torch.Tensor) -> torch.Tensor:
        """f_1 .. f_k of a step at observations [n, ...], [k, n, A]."""
        seen = preprocess_obs(observations, self.observation_space)
        assert isinstance(seen, torch.Tensor)
        found: torch.Tensor = self.networks[step](seen.flatten(1))
        return found.unflatten(1, (self.depth, self.actions)).transpose(0, 1)

    def action_values(self, step: int, observations: torch.Tensor) -> torch.Tensor:
        """As `StepPolicy`'s."""
        return self.heads(step, observations)[-1]

    def fit(self, step: int, episodes: Episodes, gamma: float, rate: float) -> float:
        """As `StepPolicy`'s; the loss of the last minibatch."""
        if step:
            self.copy_step(step)
        taken = episodes.taken.clone()
        taken[:step] = False
        observations, actions = episodes.observations[taken], episodes.actions[taken].long()
        # What an episode ends with is not kept; the value there is not used.
        following = episodes.observations.roll(-1, dims=0)[taken]
        done = last_steps(episodes)[taken]
        rewards = episodes.rewards[taken].float()
        to_go = discounted_to_go(episodes.rewards, gamma)[taken].float()
        optimizer = torch.optim.Adam(self.networks[step].parameters(), lr=rate)
        count = len(actions)
        orders = [torch.randperm(count, device=self.device) for _ in range(self.n_epochs)]
        self.set_training_mode(True)
        for rows in torch.cat(orders).split(self.batch_size):
            with torch.no_grad():
                ahead = self.heads(step, following[rows])[:-1]
                targets = head_targets(to_go[rows], rewards[rows], done[rows], ahead, gamma)
            values = self.heads(step, observations[rows])
            chosen = values.gather(-1, actions[rows].expand(self.depth, -1)[..., None])[..., 0]
            loss = nn.functional.mse_loss(chosen, targets)
            gradient_step(optimizer, loss, self.max_grad_norm)
        return float(loss.detach())

    def copy_step(self, step: int) -> None:
        """As `StepPolicy`'s."""
        self.networks[step].load_state_dict(self.networks[step - 1].state_dict())
