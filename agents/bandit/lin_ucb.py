"""LinUCB: optimism for arms that are vectors.

Y. Abbasi-Yadkori, D. Pal, C. Szepesvari: Improved Algorithms for Linear Stochastic Bandits (NeurIPS
2011, there OFUL). An arm u pays theta . u on average. After every round

    V <- V + u u',  b <- b + u y,  theta^ = V^-1 b,    V_0 = lam I,  b_0 = 0
    next arm: argmax_u theta^ . u + beta |u|_{V^-1}
    beta = |theta| sqrt(lam) + sqrt(2 log T + d log(1 + T U^2 / (d lam))),  |u| <= U

for T rounds. A convex function is largest in a corner: with the corners of a polytope as arms the
choice is that of the whole polytope.
"""

from __future__ import annotations

from itertools import product
from math import inf, log, sqrt
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from stable_baselines3.common.type_aliases import GymEnv, Schedule

from ..base.bandit import BanditAlgorithm, HeldArmPolicy, told
from ..base.declare import Example
from ..base.stepping import Mask, Transitions

Array = NDArray[np.float64]
LARGEST_BOX = 12  # dimensions of which all corners are tried


def upper_bounds(gram: Array, target: Array, arms: Array, radius: float) -> Array:
    """theta^ . u + beta |u|_{V^-1} of each arm, [K], for V [d, d], b [d], arms u [K, d], beta."""
    solved = np.linalg.solve(gram, np.column_stack([target, arms.T]))
    width = np.sqrt(np.maximum((arms * solved[:, 1:].T).sum(axis=1), 0.0))
    bounds: Array = arms @ solved[:, 0] + radius * width
    return bounds


def linear_radius(lam: float, d: int, T: int, theta_norm: float, action_norm: float) -> float:
    """beta of T rounds, with |theta| <= theta_norm and |u| <= action_norm in R^d."""
    volume = d * log(1 + T * action_norm**2 / (d * lam))
    return theta_norm * sqrt(lam) + sqrt(2 * log(T) + volume)


class LinearArmsPolicy(HeldArmPolicy):
    """Arms that are vectors, and a ridge regression of what they pay. Predicts the arm held.

    Args:
        observation_space: any; not looked at.
        action_space: `Discrete(K)`, or a `Box` that holds the arms.
        lr_schedule: not used; SB3 hands it to every policy.
        arms: [K, d].
    """

    arms: torch.Tensor
    gram: torch.Tensor
    target: torch.Tensor
    steps: torch.Tensor
    epochs: torch.Tensor
    waited: torch.Tensor

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        lr_schedule: Schedule | None = None,
        arms: ArrayLike = ((1.0,),),
    ) -> None:
        super().__init__(observation_space, action_space, lr_schedule)
        vectors = torch.as_tensor(check_arms(arms, action_space))
        d = vectors.shape[1]
        self.register_buffer("arms", vectors, persistent=False)  # an argument
        self.register_buffer("gram", torch.zeros((d, d), dtype=torch.float64))  # V - lam I
        self.register_buffer("target", torch.zeros(d, dtype=torch.float64))  # b
        # Steps in all, epochs that are complete, steps of the present one.
        for name in ("steps", "epochs", "waited"):
            self.register_buffer(name, torch.zeros((), dtype=torch.int64))

    def action(self) -> torch.Tensor:
        """The arm held: its number, or its vector where actions are vectors."""
        return self.held if isinstance(self.action_space, gym.spaces.Discrete) else self.played()

    def played(self) -> torch.Tensor:
        """The vector of the arm held, [d]."""
        return self.arms[self.held]


class LinUCB(BanditAlgorithm):
    """LinUCB for a fixed set of arms that are vectors; contexts are not looked at.

    The first arm is uniform at random. `predict` returns the arm that is held. Parallel
    environments hold the same arm, and all of their rewards count.

    Args:
        policy: "LinearArmsPolicy".
        env: with `Discrete` actions, or a `Box` of vectors.
        arms: [K, d]; None: those of the environment (`core.arms`), or the corners of the box.
        theta_norm: bound of |theta|, at least 0.
        regularization: lam, above 0; None: log T.
        horizon: T, at least 2; None: the steps that `learn` is asked for.
        seed, ...: as in `BanditAlgorithm`.

    Raises:
        ValueError: an argument out of range, no arms, or arms that are no actions.
    """

    policy_aliases: ClassVar[dict[str, Any]] = {"LinearArmsPolicy": LinearArmsPolicy}
    example = Example("DynamicalLinearBandit-v0", policy="LinearArmsPolicy", steps=400)
    policy: LinearArmsPolicy

    def __init__(
        self,
        policy: Any,
        env: GymEnv | str | None,
        *,
        arms: ArrayLike | None = None,
        theta_norm: float = 1.0,
        regularization: float | None = None,
        horizon: int | None = None,
        **common: Any,
    ) -> None:
        check_bounds(theta_norm=theta_norm)
        if regularization is not None and not 0 < regularization < inf:
            raise ValueError(f"regularization={regularization} must be finite and above 0")
        if horizon is not None and horizon < 2:
            raise ValueError(f"horizon={horizon} must be at least 2")
        self.arms = None if arms is None else np.asarray(arms, dtype=np.float64)
        self.theta_norm, self.regularization, self.horizon = theta_norm, regularization, horizon
        super().__init__(policy, env, **common)

    def _setup_model(self) -> None:
        if self.arms is None:
            self.arms = self._arms_of_env()
        self.policy_kwargs = {**self.policy_kwargs, "arms": self.arms}
        super()._setup_model()
        self.policy.held.fill_(int(self.generator.integers(len(self.policy.arms))))

    def _arms_of_env(self) -> Array:
        if isinstance(self.action_space, gym.spaces.Box):
            return corners(self.action_space)
        if self.env is not None and self.env.has_attr("core"):
            arms = getattr(self.env.get_attr("core")[0], "arms", None)
            if arms is not None:
                return np.array(arms, dtype=np.float64)
        raise ValueError(f"{type(self).__name__} needs arms=[K, d], {self.env} has none")

    @property
    def T(self) -> int:
        """Steps that are planned for, at least 2."""
        return max(self._total_timesteps, 2) if self.horizon is None else self.horizon

    @property
    def lam(self) -> float:
        """Of the ridge regression."""
        return log(self.T) if self.regularization is None else self.regularization

    @property
    def action_norm(self) -> float:
        """Norm of the longest arm, U."""
        return float(self.policy.arms.norm(dim=1).max())

    def length(self, epoch: int) -> int:
        """Steps of an epoch, from 1."""
        return 1

    def radius(self, t: int) -> float:
        """beta after t steps."""
        d = self.policy.arms.shape[1]
        return linear_radius(self.lam, d, self.T, self.theta_norm, self.action_norm)

    def act(self, observations: NDArray[Any], masks: Mask | None) -> NDArray[Any]:
        """The arm held, for every environment; an epoch starts over where an episode starts."""
        if masks is not None:
            raise ValueError(f"{type(self).__name__} holds arms, so none may be masked")
        if np.any(self._last_episode_starts):
            self.policy.waited.zero_()
        action = self.policy.action().numpy()
        space = self.action_space
        return np.repeat(action[None], len(observations), axis=0).astype(space.dtype)

    def learn_from(self, transitions: Transitions) -> dict[str, float]:
        """Where the epoch ends: learn from its last rewards, and choose anew."""
        policy, rewards = self.policy, transitions.rewards
        policy.steps += len(rewards)
        policy.waited += 1
        if policy.waited >= self.length(int(policy.epochs) + 1):
            u = policy.played()
            policy.gram += len(rewards) * torch.outer(u, u)
            policy.target += u * float(rewards.sum())
            policy.epochs += 1
            policy.waited.zero_()
            policy.held.fill_(int(self.bounds().argmax()))
        return {
            "rollout/mean_reward": float(rewards.mean()),
            **told(transitions.infos, "regret"),
            "train/epochs": float(policy.epochs),
            "train/held_arm": float(policy.held),
        }

    def bounds(self) -> Array:
        """Upper confidence bound of each arm, [K]."""
        policy = self.policy
        gram = policy.gram.numpy() + self.lam * np.eye(len(policy.target))
        radius = self.radius(int(policy.steps))
        return upper_bounds(gram, policy.target.numpy(), policy.arms.numpy(), radius)


def check_bounds(least: float = 0.0, **bounds: float) -> None:
    """ValueError unless all are finite and at least `least`."""
    for name, bound in bounds.items():
        if not least <= bound < inf:
            raise ValueError(f"{name}={bound} must be finite and at least {least:g}")


def check_arms(arms: ArrayLike, space: gym.Space[Any]) -> Array:
    """Arms as float64 [K, d]; ValueError where they are not, or are no actions of the space."""
    found = np.array(arms, dtype=np.float64)
    if found.ndim != 2 or 0 in found.shape or not np.isfinite(found).all():
        raise ValueError(f"arms must be finite numbers [K, d], got shape {list(found.shape)}")
    if isinstance(space, gym.spaces.Discrete) and space.start == 0:
        if space.n != len(found):
            raise ValueError(f"there are {len(found)} arms, but actions in {space}")
    elif not isinstance(space, gym.spaces.Box):
        raise ValueError(f"arms need actions in Discrete(K) from 0 or a Box, got {space}")
    elif wrong := [arm for arm in found.astype(space.dtype) if not space.contains(arm)]:
        raise ValueError(f"the arm {wrong[0].tolist()} is outside {space}")
    return found


def corners(box: gym.spaces.Box) -> Array:
    """The corners of a box [d], at most 2^12; [2^d, d]."""
    if len(box.shape) != 1 or box.shape[0] > LARGEST_BOX or not box.is_bounded():
        raise ValueError(
            f"the corners of {box} cannot be tried one by one (a bounded Box of at most "
            f"{LARGEST_BOX} dimensions can): give arms=[K, d]"
        )
    return np.array(list(product(*zip(box.low, box.high, strict=True))), dtype=np.float64)
