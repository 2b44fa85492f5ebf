"""Base of the agents that play whole episodes of a finite world with a horizon."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.type_aliases import GymEnv, Schedule

from ...envs.tabular.finite_mdp import FiniteMDP
from ...envs.tabular.planning.finite_horizon import suboptimality
from ...envs.tabular.probabilities import draw
from .stepping import SteppingAlgorithm, on_cpu
from .tabular import DiscretePolicy

Array = NDArray[np.float64]


class TimePolicy(DiscretePolicy):
    """A law of actions for each step of an episode and each state.

    `predict` counts the steps in `state`, as a recurrent policy of SB3 keeps its memory: hand back
    what it returned, and say with `episode_start` where an episode begins. Without `state` it is
    asked about first steps.

    Args:
        observation_space, action_space: `Discrete`.
        lr_schedule: not used; SB3 hands it to every policy.
        horizon: steps of an episode.
    """

    probabilities: torch.Tensor

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        lr_schedule: Schedule | None = None,
        horizon: int = 1,
    ) -> None:
        super().__init__(observation_space, action_space)
        shape = (horizon, self.states, self.actions)
        uniform = torch.full(shape, 1 / self.actions, dtype=torch.float64)
        self.register_buffer("probabilities", uniform)

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[np.int64], tuple[NDArray[np.int64], ...]]:
        """As SB3's; the likeliest action with `deterministic` (of equally likely ones the lowest).

        Raises:
            ValueError: an observation outside the table, or a step beyond the horizon.
        """
        observations, batched = self.obs_to_tensor(observation)
        horizon = len(self.probabilities)
        steps = np.zeros(len(observations), np.int64) if state is None else np.array(state[0])
        if episode_start is not None:
            steps[np.asarray(episode_start, dtype=bool)] = 0
        if (steps >= horizon).any():
            raise ValueError(
                f"step {steps.max()} is beyond the horizon {horizon}: say with `episode_start` "
                "where an episode begins"
            )
        laws = self.probabilities[torch.from_numpy(steps), observations.long()]
        chosen = laws.argmax(dim=1) if deterministic else torch.multinomial(laws, 1)[:, 0]
        actions = chosen.numpy()
        return actions if batched else actions[0], (steps + 1,)

    def _predict(self, observation: Any, deterministic: bool = False) -> torch.Tensor:
        return torch.from_numpy(
            np.atleast_1d(self.predict(observation, None, None, deterministic)[0])
        )


@dataclass(frozen=True)
class Trajectories:
    """n whole episodes of H steps.

    Attributes:
        states: int64 [n, H + 1], the last one included.
        actions: int64 [n, H].
        rewards: float64 [n, H].
    """

    states: NDArray[np.int64]
    actions: NDArray[np.int64]
    rewards: Array


class FiniteHorizonAlgorithm(SteppingAlgorithm):
    """An update is one episode in every environment. A subclass writes `choose` and `study`.

    A timestep is an environment step. Episodes end after `horizon` steps, all of them: a world
    whose episodes can end earlier needs absorbing states instead.

    Args:
        policy: "TimePolicy".
        env: with `Discrete` observations and actions.
        horizon: steps of an episode; None: as the environment says.
        policy_kwargs, seed, device, verbose, tensorboard_log: as in `Algorithm`; a table lives on
            the CPU.

    Raises:
        ValueError: there is no horizon, or an episode has another length.
    """

    policy_aliases: ClassVar[dict[str, Any]] = {"TimePolicy": TimePolicy}
    policy: TimePolicy

    def __init__(
        self,
        policy: Any,
        env: GymEnv | str | None,
        *,
        horizon: int | None = None,
        device: torch.device | str = "auto",
        **common: Any,
    ) -> None:
        if horizon is not None and horizon < 1:
            raise ValueError(f"horizon must be at least 1, got {horizon}")
        self.horizon = horizon
        super().__init__(policy, env, device=on_cpu(device), **common)

    def _setup_model(self) -> None:
        if self.horizon is None:
            self.horizon = self._horizon_of_env()
        self.policy_kwargs = {**self.policy_kwargs, "horizon": self.horizon}
        super()._setup_model()

    def _horizon_of_env(self) -> int:
        found = None
        if self.env is not None and self.env.has_attr("core"):
            found = self.env.get_attr("core")[0].horizon
        if found is None:
            raise ValueError(
                f"{type(self).__name__} needs an environment with a horizon, or horizon=..., got "
                f"{self.env}"
            )
        return int(found)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Steps, states and actions: H, S, A."""
        steps, states, actions = self.policy.probabilities.shape
        return steps, states, actions

    @property
    def probabilities(self) -> Array:
        """The policy [H, S, A]; writing here changes it."""
        table: Array = self.policy.probabilities.numpy()
        return table

    def choose(self, states: NDArray[np.int64], step: int) -> NDArray[np.int64]:
        """Actions [n] to learn with in states [n]; by default the policy's own."""
        return draw(self.probabilities[step, states], self.generator)

    def study(self, trajectories: Trajectories) -> dict[str, float]:
        """Learn from one episode of every environment; returns what to log."""
        raise NotImplementedError

    def update(self) -> dict[str, float]:
        """One episode of every environment, and what is learned from it."""
        return self.study(self.play())

    def play(self) -> Trajectories:
        """One episode of every environment."""
        assert self.env is not None and isinstance(self._last_obs, np.ndarray)
        horizon = self.shape[0]
        states, actions, rewards = [self._last_obs], [], []
        for step in range(horizon):
            actions.append(self.choose(states[-1], step))
            following, paid, dones, infos = self.env.step(actions[-1])
            assert isinstance(following, np.ndarray)
            if (dones != (step == horizon - 1)).any():
                raise ValueError(
                    f"episodes must have {horizon} steps (horizon), one "
                    f"{'ended' if dones.any() else 'went on'} after {step + 1}"
                )
            self._update_info_buffer(infos, dones)
            self._last_obs, self._last_episode_starts = following, dones
            rewards.append(paid.astype(np.float64))
            states.append(following)
        # The environment already shows the next episode; what this one ended with is in its info.
        states[-1] = np.array([info["terminal_observation"] for info in infos])
        self.num_timesteps += horizon * self.env.num_envs
        return Trajectories(*(np.stack(each, axis=1) for each in (states, actions, rewards)))


class Counts:
    """What was seen of a world: how often each step led from where to where, and what it paid.

    Attributes:
        next_states: int64 [H, S, A, S].
        rewards: float64 [H, S, A], summed.
    """

    def __init__(self, steps: int, states: int, actions: int) -> None:
        self.next_states = np.zeros((steps, states, actions, states), dtype=np.int64)
        self.rewards = np.zeros((steps, states, actions))

    def add(self, trajectories: Trajectories) -> None:
        """Count some episodes."""
        steps = np.arange(trajectories.actions.shape[1])
        place = (steps, trajectories.states[:, :-1], trajectories.actions)
        np.add.at(self.next_states, (*place, trajectories.states[:, 1:]), 1)
        np.add.at(self.rewards, place, trajectories.rewards)

    @property
    def visits(self) -> NDArray[np.int64]:
        """How often each action was played, int64 [H, S, A]."""
        found: NDArray[np.int64] = self.next_states.sum(axis=-1)
        return found

    def transitions(self) -> Array:
        """Shares of the next states [H, S, A, S]; 0 where an action was never played."""
        found: Array = self.next_states / np.maximum(self.visits, 1)[..., None]
        return found

    def mean_rewards(self) -> Array:
        """Mean rewards [H, S, A]; 0 where an action was never played."""
        found: Array = self.rewards / np.maximum(self.visits, 1)
        return found

    def state(self) -> dict[str, torch.Tensor]:
        """Copies of the tables, by name."""
        return {
            "next_states": torch.from_numpy(self.next_states.copy()),
            "rewards": torch.from_numpy(self.rewards.copy()),
        }

    def restore(self, tensors: dict[str, torch.Tensor]) -> None:
        """Inverse of `state`."""
        self.next_states = tensors["next_states"].numpy().copy()
        self.rewards = tensors["rewards"].numpy().copy()


def greedy(values: Array) -> Array:
    """The law that plays the best action (of equally good ones the lowest): 0 or 1, [..., A]."""
    found: Array = np.eye(values.shape[-1])[values.argmax(axis=-1)]
    return found


def backward(
    transitions: Array,
    gains: Array,
    caps: Array,
    value: Callable[[int, Array], Array] = lambda step, values: values.max(axis=-1),
) -> tuple[Array, Array]:
    """Q_h = min(cap_h, gain_h + P_h V_{h+1}), V_h = value(h, Q_h), V_{H+1} = 0.

    Args:
        transitions: P, [H, S, A, S]; rows may sum to less than 1.
        gains: rewards with bonuses, [H, S, A]; infinite: the cap.
        caps: the largest value possible from each step on, [H].
        value: of a step (from 0) and its action values [S, A], [S]; the largest by default.

    Returns:
        Q [H, S, A] and V [H, S].
    """
    horizon, states = gains.shape[:2]
    action_values = np.empty_like(gains)
    values = np.zeros((horizon + 1, states))
    for step in reversed(range(horizon)):
        following = transitions[step] @ values[step + 1]
        action_values[step] = np.minimum(caps[step], gains[step] + following)
        values[step] = value(step, action_values[step])
    return action_values, values[:-1]


def gap(core: FiniteMDP, laws: Array) -> float:
    """What a policy [H, S, A] loses in a finite world against the best one, from its start."""
    return float(core.d0 @ suboptimality(core.P, core.R, laws)[0])
