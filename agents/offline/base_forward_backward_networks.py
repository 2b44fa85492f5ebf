"""Forward and backward maps, the policies that they give, and the policy class that holds them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import get_flattened_obs_dim, preprocess_obs
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import nn
from torch.nn import functional

from ..base.nets.ensemble import EnsembleMLP
from ..base.nets.mlp import mlp
from ..base.quantile_dqn import played
from .base_td3_bc import smoothed_actions

TWINS = 2


def on_sphere(x: torch.Tensor) -> torch.Tensor:
    """sqrt(d) x / |x| of rows [..., d]; the norm counts as 1e-12 at least."""
    return x.shape[-1] ** 0.5 * functional.normalize(x, dim=-1, eps=1e-12)


def values(forward: torch.Tensor, tasks: torch.Tensor) -> torch.Tensor:
    """Q_z = F.z, [..., B], of F [..., B, d] and z [B, d]."""
    return (forward * tasks).sum(-1)


class Preprocessor(nn.Sequential):
    """What every map does with its inputs first.

    Args:
        inputs, width: of inputs and outputs.
    """

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__(
            *(nn.Linear(inputs, width), nn.LayerNorm(width), nn.Tanh()),
            *(nn.Linear(width, width), nn.ReLU()),
        )


class ForwardMap(nn.Module):
    """Twins of F: one preprocessor sees observation and action, one observation and task.

    Args:
        encoder: makes features [B, width of features] of what is observed.
        features: their width.
        action_width: of actions that are inputs; 0: none.
        dimension: d.
        preprocessed: width of either preprocessor's output.
        arch: hidden layers behind them.
        outputs: numbers of each twin.
    """

    def __init__(
        self,
        encoder: nn.Module,
        features: int,
        action_width: int,
        dimension: int,
        preprocessed: int,
        arch: Sequence[int],
        outputs: int,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.of_action = Preprocessor(features + action_width, preprocessed)
        self.of_task = Preprocessor(features + dimension, preprocessed)
        self.twins = EnsembleMLP(TWINS, 2 * preprocessed, arch, outputs, layer_norm=False)

    def forward(
        self, seen: torch.Tensor, tasks: torch.Tensor, actions: torch.Tensor | None = None
    ) -> torch.Tensor:
        """[2, B, outputs] for observations [B, ...], z [B, d] and actions [B, a]."""
        features = self.encoder(seen)
        first = features if actions is None else torch.cat([features, actions], -1)
        parts = [self.of_action(first), self.of_task(torch.cat([features, tasks], -1))]
        found: torch.Tensor = self.twins(torch.cat(parts, -1))
        return found


class BackwardMap(nn.Module):
    """B, on the sphere of radius sqrt(d).

    Args:
        encoder, features, dimension: as in `ForwardMap`.
        arch: hidden layers.
    """

    def __init__(
        self, encoder: nn.Module, features: int, dimension: int, arch: Sequence[int]
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.layers = mlp(features, arch, dimension, nn.ReLU)

    def forward(self, seen: torch.Tensor) -> torch.Tensor:
        """[B, d] for observations [B, ...]."""
        return on_sphere(self.layers(self.encoder(seen)))


class Actor(nn.Module):
    """pi(s, z) in [-1, 1]: one preprocessor sees the observation, one observation and task.

    Args:
        encoder, features, dimension, preprocessed, arch: as in `ForwardMap`.
        action_width: a.
    """

    def __init__(
        self,
        encoder: nn.Module,
        features: int,
        dimension: int,
        preprocessed: int,
        arch: Sequence[int],
        action_width: int,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.of_observation = Preprocessor(features, preprocessed)
        self.of_task = Preprocessor(features + dimension, preprocessed)
        self.layers = mlp(2 * preprocessed, arch, action_width, nn.ReLU)

    def forward(self, seen: torch.Tensor, tasks: torch.Tensor) -> torch.Tensor:
        """[B, a] for observations [B, ...] and z [B, d]."""
        features = self.encoder(seen)
        parts = [self.of_observation(features), self.of_task(torch.cat([features, tasks], -1))]
        return torch.tanh(self.layers(torch.cat(parts, -1)))


class BoxMaps(nn.Module):
    """F of continuous actions, its slow copy, and an actor.

    Args:
        forward_map: with actions as inputs.
        actor: of such actions.
    """

    def __init__(self, forward_map: ForwardMap, actor: Actor) -> None:
        super().__init__()
        self.forward_map, self.actor = forward_map, actor
        self.forward_target = copy.deepcopy(forward_map)

    def at(self, seen: torch.Tensor, actions: torch.Tensor, tasks: torch.Tensor) -> torch.Tensor:
        """F(s, a, z), [2, B, d]."""
        found: torch.Tensor = self.forward_map(seen, tasks, actions)
        return found

    def choose(self, seen: torch.Tensor, tasks: torch.Tensor) -> torch.Tensor:
        """pi(s, z), [B, a]."""
        found: torch.Tensor = self.actor(seen, tasks)
        return found

    def explore(
        self, seen: torch.Tensor, tasks: torch.Tensor, noise: float, clip: float
    ) -> torch.Tensor:
        """pi(s, z) with clipped noise, [B, a]."""
        actions = self.choose(seen, tasks)
        return smoothed_actions(actions, torch.randn_like(actions), noise, clip)

    def beyond(
        self, seen: torch.Tensor, tasks: torch.Tensor, noise: float, clip: float
    ) -> torch.Tensor:
        """F'(s, a', z) of the slow copy, [2, B, d], where the policy's a' has noise."""
        actions = self.explore(seen, tasks, noise, clip)
        found: torch.Tensor = self.forward_target(seen, tasks, actions)
        return found

    def samples(
        self,
        seen: torch.Tensor,
        following: torch.Tensor,
        tasks: torch.Tensor,
        recorded: torch.Tensor,
        count: int,
        noise: float,
        clip: float,
    ) -> torch.Tensor:
        """F of K sampled actions, [2, K, B, d].

        Half are uniform; of the rest one third each is the policy's at s, the policy's at s' (both
        evaluated where they were chosen), and `recorded`.

        Args:
            seen, following: s and s', [B, ...].
            tasks: [B, d].
            recorded: F of the recorded actions, [2, B, d].
            count: K, divisible by 6.
            noise, clip: of the policy's actions.
        """
        uniform, third = count // 2, count // 6
        with torch.no_grad():
            (wishes,) = repeated(third, tasks)
            places = (repeated(third, each)[0] for each in (seen, following))
            own = [self.explore(place, wishes, noise, clip) for place in places]
            drawn = torch.empty(uniform * len(tasks), own[0].shape[-1], device=tasks.device)
            actions = torch.cat([drawn.uniform_(-1, 1), *own])
        here, *_ = repeated(uniform + third, seen)
        there, *_ = repeated(third, following)
        (wishes,) = repeated(uniform + 2 * third, tasks)
        found = self.at(torch.cat([here, there]), actions, wishes).unflatten(1, (-1, len(tasks)))
        again = recorded[:, None].expand(-1, third, -1, -1)
        return torch.cat([found, again], dim=1)


class DiscreteMaps(nn.Module):
    """F of all of A actions, and its slow copy; the policy takes the best action.

    Args:
        forward_map: without actions as inputs, A d outputs.
        actions: A.
    """

    actor = None

    def __init__(self, forward_map: ForwardMap, actions: int) -> None:
        super().__init__()
        self.forward_map, self.actions = forward_map, actions
        self.forward_target = copy.deepcopy(forward_map)

    def all(self, seen: torch.Tensor, tasks: torch.Tensor) -> torch.Tensor:
        """F(s, ., z), [2, B, A, d]."""
        found: torch.Tensor = self.forward_map(seen, tasks)
        return found.unflatten(-1, (self.actions, -1))

    def at(self, seen: torch.Tensor, actions: torch.Tensor, tasks: torch.Tensor) -> torch.Tensor:
        """F(s, a, z), [2, B, d], of actions int [B]."""
        return of_actions(self.all(seen, tasks), actions)

    def choose(self, seen: torch.Tensor, tasks: torch.Tensor) -> torch.Tensor:
        """argmax_a min Q_z(s, a), int64 [B]."""
        return best_actions(self.all(seen, tasks), tasks)

    def beyond(
        self, seen: torch.Tensor, tasks: torch.Tensor, noise: float, clip: float
    ) -> torch.Tensor:
        """F'(s, a', z) of the slow copy, [2, B, d], with its own best action; no noise."""
        found = self.forward_target(seen, tasks).unflatten(-1, (self.actions, -1))
        return of_actions(found, best_actions(found, tasks))

    def samples(
        self, seen: torch.Tensor, following: torch.Tensor, tasks: torch.Tensor, *_: Any
    ) -> torch.Tensor:
        """F of all actions, [2, A, B, d]; what concerns samples alone has no meaning here."""
        return self.all(seen, tasks).transpose(1, 2)


def best_actions(forward: torch.Tensor, tasks: torch.Tensor) -> torch.Tensor:
    """The action whose smaller value is the largest, int64 [B], of F [2, B, A, d], z [B, d]."""
    return values(forward, tasks[:, None]).amin(0).argmax(-1)


def of_actions(forward: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
    """F [2, B, d] of actions int [B], out of [2, B, A, d]."""
    return torch.stack([played(each, actions) for each in forward])


def repeated(times: int, *tensors: torch.Tensor) -> list[torch.Tensor]:
    """Each tensor [B, ...] several times, one after the other, [times * B, ...]."""
    return [each.repeat(times, *[1] * (each.ndim - 1)) for each in tensors]


class ForwardBackwardPolicy(BasePolicy):
    """F, B, the policies pi_z that they give, and the task that is played.

    Args:
        observation_space: whose observations are flattened.
        action_space: bounded `Box`, or `Discrete` from 0.
        lr_schedule: of Adam.
        actor_learning_rate: of the actor's Adam; None: that of the schedule.
        dimension: d.
        preprocessed: width of the preprocessors.
        forward_arch, backward_arch, actor_arch: hidden layers.
        encoder: arguments of `make_encoder`.

    Attributes:
        task: z, [d].
        has_task: bool, whether there is one.
        own_task: bool, whether it was given, and not found in the rewards of the data.
    """

    task: torch.Tensor
    has_task: torch.Tensor
    own_task: torch.Tensor

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        lr_schedule: Schedule,
        actor_learning_rate: float | None = None,
        dimension: int = 50,
        preprocessed: int = 512,
        forward_arch: Sequence[int] = (1024, 1024),
        backward_arch: Sequence[int] = (256, 256, 256),
        actor_arch: Sequence[int] = (1024, 1024),
        **encoder: Any,
    ) -> None:
        bounded = isinstance(action_space, spaces.Box)
        super().__init__(observation_space, action_space, squash_output=bounded)
        self.inputs = get_flattened_obs_dim(observation_space)
        self.action_width = get_flattened_obs_dim(action_space)  # of one-hot rows where discrete
        sizes = (dimension, preprocessed, forward_arch)
        view, seen = self.make_encoder(**encoder)
        self.backward_map = BackwardMap(view, seen, dimension, backward_arch)
        self.backward_target = copy.deepcopy(self.backward_map)
        self.maps: BoxMaps | DiscreteMaps
        (view, _), width = self.make_encoder(**encoder), self.action_width
        if bounded:
            forward = ForwardMap(view, seen, width, *sizes, dimension)
            view, _ = self.make_encoder(**encoder)
            actor = Actor(view, seen, dimension, preprocessed, actor_arch, width)
            self.maps = BoxMaps(forward, actor)
        else:
            forward = ForwardMap(view, seen, 0, *sizes, width * dimension)
            self.maps = DiscreteMaps(forward, width)
        self.register_buffer("task", torch.zeros(dimension))
        self.register_buffer("has_task", torch.tensor(False))
        self.register_buffer("own_task", torch.tensor(False))
        rate = lr_schedule(1)
        learned = [*self.maps.forward_map.parameters(), *self.backward_map.parameters()]
        self.optimizer = torch.optim.Adam(learned, lr=rate, fused=True)
        self.actor_optimizer: torch.optim.Optimizer | None = None
        if self.maps.actor is not None:
            rate = rate if actor_learning_rate is None else actor_learning_rate
            self.actor_optimizer = torch.optim.Adam(
                self.maps.actor.parameters(), lr=rate, fused=True
            )

    def make_encoder(self) -> tuple[nn.Module, int]:
        """A map's own view of what is observed, and its width; here the features as they are."""
        return nn.Identity(), self.inputs

    def target_pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        """Slow copies, each with what it follows."""
        return [
            (self.maps.forward_target, self.maps.forward_map),
            (self.backward_target, self.backward_map),
        ]

    def features(self, observations: PyTorchObs) -> torch.Tensor:
        """Observations [B, ...] as rows of numbers, [B, F]."""
        found = preprocess_obs(observations, self.observation_space, self.normalize_images)
        assert isinstance(found, torch.Tensor)
        return found.float().flatten(1)

    def seen(self, observations: PyTorchObs) -> torch.Tensor:
        """What the maps take for observations [B, ...] of which nothing else is known, [B, ...]."""
        return self.features(observations)

    def set_task(self, task: torch.Tensor, own: bool) -> None:
        """Play a task z, [d]; `own`: it was given by the user."""
        self.task.copy_(task)
        self.has_task.fill_(True)
        self.own_task.fill_(own)

    def tasks(self, count: int) -> torch.Tensor:
        """The task for each of some observations, [count, d].

        Raises:
            ValueError: there is none.
        """
        if not self.has_task:
            raise ValueError("no task was set: call set_task, set_task_of or set_goal first")
        return self.task.expand(count, -1)

    def action_values(self, observations: Any) -> torch.Tensor:
        """Q_z(s, a) of the task, the smaller of the twins', [B, A]; of discrete actions.

        Raises:
            ValueError: there is no task, or actions are continuous.
        """
        if not isinstance(self.maps, DiscreteMaps):
            raise ValueError(f"actions are {self.action_space}: only Discrete ones are enumerated")
        self.set_training_mode(False)
        with torch.no_grad():
            seen = self.seen(self.obs_to_tensor(observations)[0])
            tasks = self.tasks(len(seen))
            return values(self.maps.all(seen, tasks), tasks[:, None]).amin(0)

    def set_training_mode(self, mode: bool) -> None:
        """As SB3's; going through all modules takes longer than to ask."""
        if self.training != mode:
            super().set_training_mode(mode)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> torch.Tensor:
        seen = self.seen(observation)
        found = self.maps.choose(seen, self.tasks(len(seen)))
        return found.reshape(-1, *(self.action_space.shape or ()))
