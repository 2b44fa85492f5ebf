"""Contextual bandits that learn from released batches: a log, and rounds.

Outcomes arrive late and in batches. Every decision is logged with what was known and the
probability with which it was taken; when a batch is released, the model of each action's success is
fitted anew to that batch alone (empirical risk minimisation with a short memory), and the next
decisions explore by its scores. Before the first release actions are drawn uniformly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.type_aliases import GymEnv

from ...envs.tabular.probabilities import draw
from ..base.bandit import BanditAlgorithm, told
from ..base.resumable import prefixed
from ..base.stepping import Mask, Transitions
from .success_model import SuccessModelPolicy, best_available, fit_logistic, uniform

Array = NDArray[np.float64]
COLUMNS = ("env", "row", "observation", "action", "probability")


# -- the log --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Batch:
    """Decisions whose outcomes were released.

    Attributes:
        observations: [N, D].
        actions: int64 [N].
        probabilities: with which they were taken, [N].
        outcomes: 0 or 1, [N].
    """

    observations: Array
    actions: NDArray[np.int64]
    probabilities: Array
    outcomes: Array

    def importance(self, cap: float) -> Array:
        """min(1 / probability, cap), scaled to mean 1, [N]; ValueError for a probability of 0."""
        weights = np.minimum(1.0 / checked(self.probabilities), cap)
        found: Array = weights / weights.mean()
        return found


def imbalance(outcomes: Array) -> float:
    """Share of the more frequent of the outcomes 0 and 1."""
    mean = float(outcomes.mean())
    return max(mean, 1 - mean)


def checked(probabilities: Array) -> Array:
    """The probabilities with which actions were logged; ValueError unless all are above 0."""
    wrong = ~(probabilities > 0)
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(f"logged row {row} has probability {probabilities[row]}, it must be > 0")
    return probabilities


class Log:
    """Decisions that wait for their outcomes, in the order in which they were taken."""

    def __init__(self) -> None:
        self.columns: dict[str, NDArray[Any]] = {}
        self.fresh: list[dict[str, NDArray[Any]]] = []

    def add(self, **columns: NDArray[Any]) -> None:
        """Decisions of one round, [n] each. A row 0 begins an episode: what that environment had
        waiting will never be released."""
        begun = columns["env"][columns["row"] == 0]
        if len(begun):
            self._merge()
            self._drop(np.isin(self.columns.get("env", np.zeros(0)), begun))
        self.fresh.append(columns)

    def take(self, env: int, first: int, outcomes: NDArray[Any]) -> Batch:
        """The rows of an environment from `first` on that have `outcomes`; they leave the log."""
        self._merge()
        last = first + len(outcomes)
        row = self.columns["row"]
        chosen = (self.columns["env"] == env) & (row >= first) & (row < last)
        found = {name: column[chosen] for name, column in self.columns.items()}
        self._drop(chosen)
        return Batch(
            found["observation"],
            found["action"],
            found["probability"],
            outcomes[found["row"] - first].astype(np.float64),
        )

    def _merge(self) -> None:
        parts = [self.columns, *self.fresh] if self.columns else self.fresh
        if self.fresh:
            self.columns = {
                name: np.concatenate([part[name] for part in parts]) for name in COLUMNS
            }
            self.fresh = []

    def _drop(self, rows: Mask) -> None:
        self.columns = {name: column[~rows] for name, column in self.columns.items()}

    def state(self) -> dict[str, torch.Tensor]:
        """Copies of the columns, by name."""
        self._merge()
        return {name: torch.from_numpy(column.copy()) for name, column in self.columns.items()}

    def restore(self, tensors: dict[str, torch.Tensor]) -> None:
        """Inverse of `state`."""
        self.columns = {name: tensor.numpy().copy() for name, tensor in tensors.items()}
        self.fresh = []


# -- the rounds -----------------------------------------------------------------------------------


class BatchBandit(BanditAlgorithm):
    """Rounds with a success model that is fitted to each released batch. A subclass writes `laws`.

    The environment shows a context with the available actions, and tells of each round `t` (rounds
    so far), `released_from` and `released`, as `PaymentRouting-v0` with `observation="flat"`. What
    parallel environments release in one step is one batch. A batch in which all outcomes are equal
    leaves the model as it is.

    Args:
        policy: "SuccessModelPolicy".
        env: as above.
        penalty: of the model, > 0.
        newton_steps: of each fit, at least 1.
        weight_cap: rows weigh min(1 / probability, weight_cap), scaled to mean 1; None: all alike.
        policy_kwargs, seed, device, verbose, tensorboard_log: as in `BanditAlgorithm`.

    Attributes:
        last_prob: with which probability the last `predict` chose what it returned, [n] or a
            number.

    Raises:
        ValueError: an argument outside its range; when it learns, an environment that does not tell
            what is released.
    """

    policy_aliases: ClassVar[dict[str, Any]] = {"SuccessModelPolicy": SuccessModelPolicy}
    policy: SuccessModelPolicy
    last_prob: Any = None

    def __init__(
        self,
        policy: Any,
        env: GymEnv | str | None,
        *,
        penalty: float = 1.0,
        newton_steps: int = 25,
        weight_cap: float | None = None,
        **common: Any,
    ) -> None:
        if not 0 < penalty < np.inf or newton_steps < 1:
            raise ValueError(
                f"penalty is finite and above 0, newton_steps at least 1, got penalty={penalty}, "
                f"newton_steps={newton_steps}"
            )
        if weight_cap is not None and not weight_cap > 0:
            raise ValueError(f"weight_cap={weight_cap} must be above 0")
        self.penalty, self.newton_steps, self.weight_cap = penalty, newton_steps, weight_cap
        super().__init__(policy, env, **common)

    def _setup_model(self) -> None:
        super()._setup_model()
        self.log = Log()

    def laws(self, scores: Array, available: Mask) -> Array:
        """Probabilities of the actions, 0 of those not available, [n, K], by scores [n, K]."""
        raise NotImplementedError

    def probabilities(self, observations: NDArray[Any], masks: Mask | None = None) -> Array:
        """Of the actions for observations [n, D], [n, K]; `masks` [n, K] may rule out more."""
        contexts, available = self.policy.split(observations)
        if masks is not None:
            available = available & masks
        if int(self.policy.generation) == 0:
            return uniform(available)
        return self.laws(self.policy.scores(contexts), available)

    def act(self, observations: NDArray[Any], masks: Mask | None) -> NDArray[np.int64]:
        """An action for each environment, and how likely it was."""
        laws = self.probabilities(observations, masks)
        actions = draw(laws, self.generator)
        self._taken = laws[np.arange(len(actions)), actions]
        return actions

    def learn_from(self, transitions: Transitions) -> dict[str, float]:
        """Log the round, and fit the model to what was released."""
        infos = transitions.infos
        if any("released" not in info for info in infos):
            raise ValueError(
                "the environment does not tell in its info what is released (a native vector does "
                "with keep_infos=True)"
            )
        self.log.add(
            env=np.arange(len(infos)),
            row=np.array([int(info["t"]) - 1 for info in infos]),
            observation=np.asarray(transitions.observations, dtype=np.float64),
            action=transitions.actions,
            probability=self._taken,
        )
        metrics = {
            "rollout/mean_reward": float(transitions.rewards.mean()),
            **told(infos, "regret"),
        }
        batches = [
            self.log.take(env, int(info["released_from"]), info["released"])
            for env, info in enumerate(infos)
            if info["released_from"] >= 0
        ]
        if batches:
            metrics |= self.fit(
                Batch(
                    np.concatenate([batch.observations for batch in batches]),
                    np.concatenate([batch.actions for batch in batches]),
                    np.concatenate([batch.probabilities for batch in batches]),
                    np.concatenate([batch.outcomes for batch in batches]),
                )
            )
        return metrics

    def fit(self, batch: Batch) -> dict[str, float]:
        """Fit the model to a batch alone; returns what to log."""
        mean = float(batch.outcomes.mean())
        if 0 < mean < 1:
            cap = self.weight_cap
            contexts, _ = self.policy.split(batch.observations)
            coefficients = fit_logistic(
                contexts,
                batch.actions,
                batch.outcomes,
                self.policy.actions,
                weights=None if cap is None else batch.importance(cap),
                penalty=self.penalty,
                steps=self.newton_steps,
            )
            self.policy.coefficients.copy_(torch.from_numpy(coefficients))
            self.policy.generation += 1
        return {
            "train/generation": float(self.policy.generation),
            "train/imbalance": imbalance(batch.outcomes),
        }

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
        action_masks: Any = None,
    ) -> tuple[NDArray[np.int64], Any]:
        """As SB3's: the best available action with `deterministic`, else one drawn as in learning;
        `last_prob` then says how likely it was.

        `action_masks` (bool, [K] or [n, K]) may rule out more than the observation does.
        """
        shown, batched = self.policy.obs_to_tensor(observation)
        assert isinstance(shown, torch.Tensor)
        observations = shown.numpy()
        masks = None if action_masks is None else np.atleast_2d(np.asarray(action_masks, bool))
        if deterministic:
            contexts, available = self.policy.split(observations)
            available = available if masks is None else available & masks
            actions = best_available(self.policy.scores(contexts), available)
            likely = np.ones(len(actions))
        else:
            laws = self.probabilities(observations, masks)
            actions = torch.multinomial(torch.from_numpy(laws), 1)[:, 0].numpy()
            likely = laws[np.arange(len(actions)), actions]
        self.last_prob = likely if batched else float(likely[0])
        return (actions if batched else actions[0]), state

    def learning_state(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """As the base's, with the log."""
        values, tensors = super().learning_state()
        return values, tensors | {f"log.{name}": x for name, x in self.log.state().items()}

    def restore_learning_state(
        self, values: dict[str, Any], tensors: dict[str, torch.Tensor]
    ) -> None:
        """Inverse of `learning_state`."""
        super().restore_learning_state(values, tensors)
        self.log.restore(prefixed(tensors, "log"))
