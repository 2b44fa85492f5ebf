"""Pairs of episodes of a finite world, and the questions which of them is better: what agents that
never see a reward share."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import cho_solve, cholesky
from scipy.special import expit, log_expit
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_wrapper

from ...envs.checks import check_number, check_share
from ...wrappers.preference_oracle import PreferenceOracle
from .finite_horizon import Counts, FiniteHorizonAlgorithm, TimePolicy, Trajectories
from .resumable import prefixed

Array = NDArray[np.float64]
Actions = NDArray[np.int64]

NEWTON_STEPS, NEWTON_TOLERANCE = 25, 1e-8


class PairwiseExploration(FiniteHorizonAlgorithm):
    """The newest policy's episode against one of the policy before it, asking when it pays.

    An update is two episodes in every environment, and both count as timesteps. The environment is
    put into a `PreferenceOracle` unless it is in one, so that rewards are out of reach. `predict`
    plays what is best by the estimates without noise; with `randomized=True` the newest policy.

    Logged: `train/queries` so far, and the mean `train/width` of the pairs.

    Args:
        policy, env, horizon, seed, ...: as in `FiniteHorizonAlgorithm`.
        epsilon: a pair is asked about if its width is above; below 0: always.
        query: None, or a probability in [0, 1] with which any pair is asked about instead.

    Attributes:
        kept: names of the arrays that a checkpoint holds beside the counts.
        newest: the policy that plays first, actions [H, S].
        queries: how many were asked.
    """

    kept: ClassVar[tuple[str, ...]] = ("newest",)

    def __init__(
        self,
        policy: Any,
        env: GymEnv | str | None,
        *,
        epsilon: float = 0.3,
        query: float | None = None,
        **common: Any,
    ) -> None:
        self.epsilon = check_number("epsilon", epsilon)
        self.query = None if query is None else check_share("query", query)
        super().__init__(policy, env, **common)

    @staticmethod
    def _wrap_env(env: GymEnv, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        vector = FiniteHorizonAlgorithm._wrap_env(env, verbose, monitor_wrapper)
        return vector if oracle_of(vector) else PreferenceOracle(vector)

    def _setup_model(self) -> None:
        super()._setup_model()
        horizon, states, actions = self.shape
        self.counts = Counts(horizon, states, actions)
        self.newest: Actions = self.generator.integers(actions, size=(horizon, states))
        self.queries = 0

    # -- what a subclass writes --------------------------------------------------------------------

    def draw_policy(self) -> Actions:
        """The newest policy [H, S], optimal for a draw of what is not known."""
        raise NotImplementedError

    def settled_policy(self) -> Actions:
        """The best policy [H, S] by the estimates without noise."""
        raise NotImplementedError

    def widths(self, first: Trajectories, second: Trajectories) -> Array:
        """By how much two draws of the reward disagree about pairs of episodes [n], on average."""
        raise NotImplementedError

    def take_in(
        self, first: Trajectories, second: Trajectories, rows: Actions, labels: Actions
    ) -> None:
        """Learn from n pairs; those of `rows` [k] have `labels` [k], 1: the first is preferred."""
        raise NotImplementedError

    # -- learning ----------------------------------------------------------------------------------

    def choose(self, states: Actions, step: int) -> Actions:
        """Actions of the policy that plays."""
        return self._playing[step, states]

    def play_with(self, policy: Actions) -> Trajectories:
        """One episode of every environment, by a policy [H, S]."""
        self._playing = policy
        return self.play()

    def update(self) -> dict[str, float]:
        """A pair of episodes in every environment, and what is learned from it."""
        assert self.env is not None
        previous, self.newest = self.newest, self.draw_policy()
        first, second = self.play_with(self.newest), self.play_with(previous)
        widths = self.widths(first, second)
        if self.query is None:
            asks = widths > self.epsilon
        else:
            asks = self.generator.random(len(widths)) < self.query
        rows = np.flatnonzero(asks)
        oracle = oracle_of(self.env)
        assert oracle is not None
        self.take_in(first, second, rows, oracle.prefers_earlier(rows))
        self.probabilities[:] = np.eye(self.shape[2])[self.settled_policy()]
        self.queries += len(rows)
        return {"train/queries": float(self.queries), "train/width": float(widths.mean())}

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
        randomized: bool = False,
    ) -> tuple[Actions, Any]:
        """As SB3's; with `randomized` the newest policy, which explores."""
        policy = self.policy
        if randomized:
            spaces = self.observation_space, self.action_space
            policy = TimePolicy(*spaces, horizon=self.shape[0])
            policy.probabilities.copy_(torch.from_numpy(np.eye(self.shape[2])[self.newest]))
        return policy.predict(observation, state, episode_start, deterministic)

    def extra_state(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """As the base's, with the counts and what `kept` names."""
        values, tensors = super().extra_state()
        tensors |= {f"counts.{name}": x for name, x in self.counts.state().items()}
        tensors |= {name: torch.from_numpy(getattr(self, name).copy()) for name in self.kept}
        return values | {"queries": self.queries}, tensors

    def restore_extra_state(self, values: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        """Inverse of `extra_state`."""
        super().restore_extra_state(values, tensors)
        self.queries = values["queries"]
        self.counts.restore(prefixed(tensors, "counts"))
        for name in self.kept:
            setattr(self, name, tensors[name].numpy().copy())


def oracle_of(env: VecEnv) -> PreferenceOracle | None:
    """The oracle among an environment's layers; None where there is none."""
    return unwrap_vec_wrapper(env, PreferenceOracle)


def pair_features(first: Trajectories, second: Trajectories, shape: tuple[int, int, int]) -> Array:
    """x = phi(tau0) - phi(tau1) [n, H S A]; `shape` is H, S, A."""
    horizon, states, actions = shape
    found = np.zeros((len(first.actions), horizon * states * actions))
    rows, steps = np.ogrid[: len(found), :horizon]
    for episodes, sign in ((first, 1.0), (second, -1.0)):
        pairs = (steps * states + episodes.states[:, :-1]) * actions + episodes.actions
        np.add.at(found, (rows, pairs), sign)
    return found


def preference_estimate(features: Array, labels: Actions, start: Array, ridge: float) -> Array:
    """theta^ [d] by Newton's method, each step halved until it improves.

    Args:
        features: x of the labelled pairs [N, d].
        labels: 1 where the first episode was preferred, else 0 [N].
        start: first guess [d].
        ridge: above 0, so that labels which any theta could explain keep it finite.
    """
    signed = features * (2 * labels - 1)[:, None]

    def objective(theta: Array) -> float:
        return float(log_expit(signed @ theta).sum() - ridge / 2 * theta @ theta)

    theta, reached = start, objective(start)
    for _ in range(NEWTON_STEPS):
        wrong = expit(-signed @ theta)
        gradient = wrong @ signed - ridge * theta
        curvature = (signed.T * (wrong * (1 - wrong))) @ signed + ridge * np.eye(len(theta))
        step = cho_solve((cholesky(curvature, lower=True), True), gradient)
        while (found := objective(theta + step)) < reached and size_of(step) > NEWTON_TOLERANCE:
            step = step / 2
        theta, reached = theta + step, found
        if size_of(step) < NEWTON_TOLERANCE:
            break
    return theta


def size_of(step: Array) -> float:
    """The largest entry, without its sign."""
    return float(np.abs(step).max())
