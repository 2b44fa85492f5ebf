"""What the classical rules for routing and packing share as agents."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule

from ....envs.routing.base import RoutingCore
from ....envs.routing.instance import KINDS as FROM_FILES
from ....envs.routing.instance import RoutingInstance, Solution
from ....envs.routing.sources import load_instance
from ...base.routing.problems import PROBLEMS
from ...base.snapshot import bottom, native_faces
from ...base.stepping import Mask, SteppingAlgorithm, Transitions, on_cpu
from .construct import Nodes
from .part import Part, part_of_arrays, part_of_instance, parts_of_observation

KINDS = tuple(PROBLEMS)


class RulePolicy(BasePolicy):
    """What a rule must know to read observations: it has no parameters.

    Args:
        observation_space, action_space: of the environment.
        lr_schedule: not used; SB3 hands it to every policy.
    """

    form: torch.Tensor  # int64 [2]: index of the problem in KINDS, and whether mdp is "direct"

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        lr_schedule: Schedule | None = None,
    ) -> None:
        super().__init__(observation_space, action_space)
        self.register_buffer("form", torch.zeros(2, dtype=torch.int64))

    def _predict(self, observation: Any, deterministic: bool = False) -> torch.Tensor:
        """Refused: the plan belongs to the agent."""
        raise ValueError("a rule has no policy of its own to ask: use the agent's predict")


class RoutingRule(SteppingAlgorithm):
    """A rule that plans what is left of a problem, at every step anew.

    A subclass names its `problems` and writes `plan`. `predict` returns the first action of the
    plan for the state that is observed, with mdp="bq" or "direct"; `solve` returns whole solutions.
    There is nothing to learn: `learn` acts in the environment, so that callbacks and curves work as
    for the others.

    Args:
        policy: "RulePolicy".
        env: one of `envs/routing` that the rule is for.
        seed, verbose, tensorboard_log, ...: as in `Algorithm`.
    """

    policy_aliases: ClassVar[dict[str, Any]] = {"RulePolicy": RulePolicy}
    problems: ClassVar[tuple[str, ...]]
    policy: RulePolicy

    def __init__(
        self,
        policy: Any,
        env: GymEnv | str | None,
        *,
        device: torch.device | str = "auto",
        **common: Any,
    ) -> None:
        super().__init__(policy, env, device=on_cpu(device), **common)

    def plan(self, part: Part) -> Nodes:
        """Actions that finish a problem, in their order (see `part.py`)."""
        raise NotImplementedError

    @property
    def problem(self) -> str:
        """The problem that it solves now: "tsp", "atsp", "cvrp", "orienteering" or "knapsack"."""
        return KINDS[int(self.policy.form[0])]

    # -- acting ------------------------------------------------------------------------------------

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
        action_masks: Any = None,
    ) -> tuple[Any, None]:
        """Actions for one observation [D] or a batch [b, D], of any number of nodes.

        Args:
            observation: flat, as the environments of `envs/routing` give it.
            state, episode_start, deterministic, action_masks: not used; what is feasible is read
                from the observation.

        Raises:
            ValueError: the size of the observation fits no number of nodes.
        """
        given = np.asarray(observation, dtype=np.float32)
        if given.ndim not in (1, 2):
            raise ValueError(f"observations have shape [D] or [b, D], got {given.shape}")
        parts = parts_of_observation(self.problem, given, bool(self.policy.form[1]))
        actions = np.array([self._first_action(part) for part in parts], dtype=np.int64)
        return (actions if given.ndim == 2 else actions[0]), None

    def _first_action(self, part: Part) -> int:
        if not len(part.remaining):
            return 0  # nothing fits, or is in reach: the environments take 0 then
        plan = self.plan(part)
        if not len(plan):
            return least_excess(part)
        action = int(plan[0])
        if part.kind == "cvrp" and part.demands[action // 2] > part.capacity_left:
            return action | 1
        return action

    # -- solving -----------------------------------------------------------------------------------

    def solve(self, instances: Any) -> list[Solution]:
        """Whole solutions, one for each instance, in the units of what is given.

        Args:
            instances: a data set (the environments' argument `instances`, complete), one instance
                (a `RoutingInstance` or the path of a TSPLIB or CVRPLIB file), or observations [D]
                or [b, D], of which what is left is solved.

        Raises:
            ValueError: the instances are of another problem, or broken.
        """
        return [part.solution(self.plan(part)) for part in self._given(instances)]

    def _given(self, instances: Any) -> list[Part]:
        if isinstance(instances, Mapping):
            rows = len(next(iter(instances.values())))
            return [part_of_arrays(self.problem, instances, row) for row in range(rows)]
        if isinstance(instances, RoutingInstance | str | Path):
            kinds = tuple(kind for kind in FROM_FILES if kind in self.problems)
            wanted = ("cvrp",) if self.problem == "cvrp" else kinds
            return [part_of_instance(load_instance(instances, wanted))]
        return parts_of_observation(self.problem, instances, bool(self.policy.form[1]))

    # -- the environment ---------------------------------------------------------------------------

    def _setup_model(self) -> None:
        super()._setup_model()
        self._read_form()

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """As SB3's; the observations may then be of the other MDP."""
        super().set_env(env, force_reset)
        self._read_form()

    def _read_form(self) -> None:
        """Note which problem and which MDP the observations are of."""
        if self.env is None:
            return
        face = native_faces(bottom(self.env))[0]
        core: Any = getattr(face, "core", None)
        if not isinstance(core, RoutingCore) or core.kind not in self.problems:
            raise ValueError(
                f"{type(self).__name__} is for {' and '.join(self.problems)}, got {self.env}"
            )
        form = [KINDS.index(core.kind), int(core.mdp == "direct")]
        self.policy.form.copy_(torch.tensor(form))

    # -- learning, or what there is of it ----------------------------------------------------------

    def act(self, observations: NDArray[Any], masks: Mask | None) -> NDArray[np.int64]:
        """The rule's actions, [n]."""
        return self.predict(observations)[0]

    def learn_from(self, transitions: Transitions) -> dict[str, float]:
        """Nothing but the reward is noted."""
        return {"rollout/mean_reward": float(transitions.rewards.mean())}


def least_excess(part: Part) -> int:
    """The action for a plan without any, where rounding hides that something still fits."""
    rest = part.remaining
    if part.kind == "knapsack":
        return int(rest[part.weights[rest].argmin()])
    needed = part.distances[part.origin, rest] + part.distances[rest, part.destination]
    return int(rest[np.argmin(needed)])
