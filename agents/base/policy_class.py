"""Finite classes of deterministic policies, and the agents that look for the best of a class."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import product
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from stable_baselines3.common.type_aliases import GymEnv

from .finite_horizon import FiniteHorizonAlgorithm, Trajectories

Array = NDArray[np.float64]
Integers = NDArray[np.int64]
Place = tuple[int, int]  # step (from 0) and state

LARGEST = 1_000_000  # policies of a class that are written down


class PolicyClass:
    """N policies, and perhaps what makes them a sunflower.

    The class is a (K, D)-sunflower if K core policies and at most D petals (h, s) for each policy
    explain all that its members do: every segment (s_h, a_h, ..., s_k, a_k) that a policy plays is
    also played by a core policy, or it contains a petal of the policy after its first state.

    Args:
        policies: actions [N, H, S].
        core: actions [K, H, S], of policies in the class or outside; None: no sunflower.
        petals: the petals (h, s) of each of the N policies; None: no policy has any.

    Raises:
        ValueError: a shape does not fit, an action is negative, a petal does not exist, or the
            class is not a sunflower with this core and these petals.
    """

    def __init__(
        self,
        policies: ArrayLike,
        core: ArrayLike | None = None,
        petals: Sequence[Iterable[Place]] | None = None,
    ) -> None:
        self.policies = as_actions("policies", policies)
        count, *shape = self.policies.shape
        self.core = None if core is None else as_actions("core", core)
        if self.core is not None and self.core.shape[1:] != tuple(shape):
            raise ValueError(
                f"core has shape {self.core.shape}, with these policies it must be [K, {shape[0]}, "
                f"{shape[1]}]"
            )
        given = [()] * count if petals is None else petals
        if len(given) != count:
            raise ValueError(f"petals are given for {len(given)} policies, there are {count}")
        self.petals = [sorted((int(h), int(s)) for h, s in places) for places in given]
        self.is_petal: NDArray[np.bool_] = np.zeros(self.policies.shape, dtype=bool)
        for number, places in enumerate(self.petals):
            for h, s in places:
                if not (0 <= h < shape[0] and 0 <= s < shape[1]):
                    raise ValueError(
                        f"petal {(h, s)} of policy {number} is outside the {shape[0]} steps and "
                        f"{shape[1]} states"
                    )
                self.is_petal[number, h, s] = True
        if self.core is not None:
            self._check_sunflower()

    def __len__(self) -> int:
        return len(self.policies)

    @property
    def shape(self) -> tuple[int, int]:
        """H, S."""
        _, horizon, states = self.policies.shape
        return horizon, states

    @cached_property
    def places(self) -> list[Place]:
        """All petals of all policies, in the order of their steps."""
        return sorted({place for places in self.petals for place in places})

    @property
    def most_petals(self) -> int:
        """D."""
        return max(len(places) for places in self.petals)

    def as_dict(self) -> dict[str, Any]:
        """The arguments that make this class again."""
        return {"policies": self.policies, "core": self.core, "petals": self.petals}

    @classmethod
    def of(cls, given: PolicyClass | Mapping[str, Any] | ArrayLike) -> PolicyClass:
        """A class from itself, from what `as_dict` returned, or from its policies [N, H, S]."""
        if isinstance(given, PolicyClass):
            return given
        return cls(**given) if isinstance(given, Mapping) else cls(given)

    # -- ready classes -----------------------------------------------------------------------------

    @classmethod
    def all(cls, horizon: int, states: int, actions: int) -> Self:
        """All A^(H S) policies.

        Raises:
            ValueError: there are more than a million.
        """
        sequences = every_sequence(actions, horizon * states)
        return cls(sequences.reshape(-1, horizon, states))

    @classmethod
    def open_loop(cls, horizon: int, states: int, actions: int) -> Self:
        """All A^H sequences of actions, whatever the states: their own core.

        Raises:
            ValueError: there are more than a million.
        """
        sequences = every_sequence(actions, horizon)[:, :, None].repeat(states, axis=2)
        return cls(sequences, sequences)

    @classmethod
    def singletons(cls, horizon: int, states: int) -> Self:
        """The H S policies that play 1 at one (h, s) and 0 elsewhere: an (H + 1, 1)-sunflower.

        The core plays 0 everywhere, or 1 in one step and 0 in the others.
        """
        cells = np.eye(horizon * states, dtype=np.int64).reshape(-1, horizon, states)
        core = np.zeros((horizon + 1, horizon, states), dtype=np.int64)
        core[np.arange(horizon) + 1, np.arange(horizon)] = 1
        return cls(cells, core, [[place] for place in np.ndindex(horizon, states)])

    @classmethod
    def one_active(cls, horizon: int, states: int, active: int = 0) -> Self:
        """The 2^H policies that may play 1 in one state of each step: an (H + 1, H)-sunflower.

        Args:
            horizon, states: H, S.
            active: the state; in the others they play 0.

        Raises:
            ValueError: there are more than a million.
        """
        choices = every_sequence(2, horizon)
        policies = np.zeros((len(choices), horizon, states), dtype=np.int64)
        policies[:, :, active] = choices
        core = policies[(choices.sum(axis=1) <= 1)]
        return cls(
            policies, core, [[(int(h), active) for h in np.flatnonzero(row)] for row in choices]
        )

    # -- the sunflower -----------------------------------------------------------------------------

    def _check_sunflower(self) -> None:
        """ValueError unless every segment is explained by the core or by a petal.

        A segment matters through the core policies that play it alone, a set written as the bits of
        a number. Sets that the segments without a later petal leave are followed step by step.
        """
        assert self.core is not None
        horizon, states = self.shape
        for number, (policy, is_petal) in enumerate(zip(self.policies, self.is_petal, strict=True)):
            same = self.core == policy
            if same.all(axis=(1, 2)).any():  # a core policy plays what it does
                continue
            packed = np.packbits(same, axis=0)
            agree = [
                [int.from_bytes(packed[:, h, s].tobytes(), "big") for s in range(states)]
                for h in range(horizon)
            ]
            left: set[int] = set()
            for h in range(horizon):
                onwards = [agree[h][s] for s in range(states) if not is_petal[h, s]]
                left = set(agree[h]) | {before & now for before in left for now in onwards}
                if 0 in left:
                    raise ValueError(
                        f"not a sunflower: what policy {number} plays up to step {h} is played by "
                        "no core policy and contains no petal after its first state"
                    )


def as_actions(name: str, given: ArrayLike) -> Integers:
    """Policies as int64 [N, H, S]; ValueError where they are none."""
    actions = np.asarray(given)
    if actions.ndim != 3 or 0 in actions.shape or actions.dtype.kind not in "iu":
        raise ValueError(
            f"{name} must be integers [N, H, S], got {actions.dtype} of shape {actions.shape}"
        )
    if actions.min() < 0:
        raise ValueError(f"{name} hold action {actions.min()}, allowed are 0 and above")
    return actions.astype(np.int64)


def every_sequence(actions: int, length: int) -> Integers:
    """All A^L sequences of actions, the last one changing fastest; ValueError beyond a million."""
    if actions**length > LARGEST:
        raise ValueError(
            f"the class has {actions}^{length} policies, at most {LARGEST} are written down"
        )
    return np.array(list(product(range(actions), repeat=length)), dtype=np.int64)


def first_departures(policies: Integers, episodes: Trajectories, start: int = 0) -> Integers:
    """The first step from `start` on whose action is not the policy's; H where there is none.

    Args:
        policies: actions [N, H, S].
        episodes: n of them.
        start: a step; earlier ones are not looked at.

    Returns:
        [N, n].
    """
    horizon = episodes.actions.shape[1]
    steps = np.arange(start, horizon)
    played = policies[:, steps, episodes.states[:, start:horizon]]
    differs = played != episodes.actions[:, start:]
    return np.where(differs.any(axis=-1), start + differs.argmax(axis=-1), horizon)


class ClassSearch(FiniteHorizonAlgorithm):
    """An agent that competes with the best policy of a finite class, and plays one of them.

    A subclass keeps what `study` sees and writes `estimate`.

    Logged: `rollout/return` of an update, `rollout/mean_return` so far.

    Args:
        policy, env, horizon, seed, ...: as in `FiniteHorizonAlgorithm`.
        policies: a `PolicyClass`, its arguments, or policies [N, H, S].

    Attributes:
        values: estimated values of the policies [N], NaN before the end of a `learn`.

    Raises:
        ValueError: the policies do not fit the environment.
    """

    def __init__(
        self,
        policy: Any,
        env: GymEnv | str | None,
        *,
        policies: PolicyClass | Mapping[str, Any] | ArrayLike | None = None,
        **common: Any,
    ) -> None:
        self._given = policies
        super().__init__(policy, env, **common)

    def _setup_model(self) -> None:
        super()._setup_model()
        horizon, states, actions = self.shape
        if self._given is None:
            raise ValueError(f"{type(self).__name__} needs policies=..., a class to choose from")
        self.policies = PolicyClass.of(self._given)
        if self.policies.shape != (horizon, states) or self.policies.policies.max() >= actions:
            raise ValueError(
                f"the class has policies for H, S = {self.policies.shape} with actions up to "
                f"{self.policies.policies.max()}, the environment has H, S, A = {self.shape}"
            )
        self.values: Array = np.full(len(self.policies), np.nan)
        self.episodes, self.total_return = 0, 0.0

    def arguments(self) -> dict[str, Any]:
        """As the base's; the class as its own arguments."""
        self_policies = self.policies.as_dict()
        return {**super().arguments(), "policies": self_policies}

    def estimate(self) -> Array:
        """Values of all policies [N], from at least one episode."""
        raise NotImplementedError

    def play(self) -> Trajectories:
        """As the base's, counted."""
        trajectories = super().play()
        self.episodes += len(trajectories.rewards)
        self.total_return += float(trajectories.rewards.sum())
        return trajectories

    def update(self) -> dict[str, float]:
        """As the base's, with the returns."""
        before = self.total_return
        found = self.study(self.play())
        assert self.env is not None
        return {
            "rollout/return": (self.total_return - before) / self.env.num_envs,
            "rollout/mean_return": self.total_return / self.episodes,
            **found,
        }

    def finish(self) -> None:
        """Play the policy with the highest estimate, of equally good ones the first."""
        if self.episodes:
            self.values = self.estimate()
            best = self.policies.policies[int(self.values.argmax())]
            self.probabilities[:] = np.eye(self.shape[2])[best]

    def extra_state(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """As the base's, with the estimates."""
        values, tensors = super().extra_state()
        values |= {"episodes": self.episodes, "total_return": self.total_return}
        return values, tensors | {"values": torch.from_numpy(self.values.copy())}

    def restore_extra_state(self, values: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        """Inverse of `extra_state`."""
        super().restore_extra_state(values, tensors)
        self.episodes, self.total_return = values["episodes"], values["total_return"]
        self.values = tensors["values"].numpy().copy()
