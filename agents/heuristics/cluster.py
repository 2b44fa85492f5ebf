"""Rules that move virtual machines: what a learner of `VMRescheduling-v0` has to beat.

The rules themselves are functions in `cluster_plans.py`. `GreedyMigration` and `FilterBestFit` look
one move ahead and read all they need from the observation. The others plan ahead; which moves will
be legal later depends on memory and conflicts that an observation does not show in full, so they
look into the attached environment.
"""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule

from ...envs.base import Arrays, take
from ...envs.cluster.features import CORES_SCALE, PM_FEATURES, VM_FEATURES
from ...envs.cluster.rules import FRAGMENT, SPLIT
from ...envs.cluster.vm_rescheduling import VMRescheduling
from ..base.algorithm import Algorithm
from ..base.declare import Example
from .attached import attached_faces, check_shown, joined
from .cluster_plans import (
    Plan,
    applied,
    beam_plan,
    check_width,
    filter_best_fit_plan,
    greedy_plan,
    swap_plan,
)

KNOWN = 10_000  # states for which a planner remembers what to do


def seen_cluster(observation: Arrays) -> Arrays:
    """The clusters that observations [n, ...] show, good for one move.

    Memory stays in units of the observation's scale: it is only compared. Conflicts are not shown,
    only what is legal now.
    """
    owner = np.asarray(observation["owner"]).astype(np.int64)
    count, vms = owner.shape
    pms = np.asarray(observation["pms"]).reshape(count, -1, PM_FEATURES)
    rows = np.asarray(observation["vms"]).reshape(count, vms, VM_FEATURES)
    cores = np.rint(rows[..., :2].astype(np.float64) * CORES_SCALE).astype(np.int64)
    node = np.where((cores > 0).all(axis=2), SPLIT, (cores[..., 1] > 0).astype(np.int64))
    return {
        "owner": owner,
        "node": np.where(owner >= 0, node, -1),
        "cores": cores.max(axis=2),
        "memory": rows[..., 2:4].max(axis=2),
        "split": node == SPLIT,
        "free_cores": np.rint(pms[..., :2].astype(np.float64) * CORES_SCALE).astype(np.int64),
        "free_memory": pms[..., 2:4],
        "legal": np.asarray(observation["legal"]).reshape(count, vms, -1) > 0,
    }


def first_move(plan: Plan, owner: NDArray[Any], choices: int) -> NDArray[np.int64]:
    """First move of a plan; where it is empty, the first VM stays where it is, int [2]."""
    if plan:
        return np.array(plan[0])
    vm = int((owner >= 0).argmax())
    return np.array([vm, int(owner[vm]) * choices])


class MigrationPolicy(BasePolicy):
    """The agent does the work. `cost` [16], of 0 .. 15 cores left over on a NUMA node, is what the
    rules that look one move ahead go by."""

    cost: torch.Tensor

    def __init__(
        self, observation_space: gym.Space, action_space: gym.Space, lr_schedule: Schedule
    ) -> None:
        super().__init__(observation_space, action_space)
        spaces = getattr(observation_space, "spaces", ())
        if not isinstance(observation_space, gym.spaces.Dict) or "legal" not in spaces:
            raise ValueError(f"a VMRescheduling environment is needed, got {observation_space}")
        self.register_buffer("cost", torch.arange(FRAGMENT))

    def _predict(self, observation: Any, deterministic: bool = False) -> torch.Tensor:
        raise ValueError("the rules for clusters are not networks: use the agent's predict")


class MigrationRule(Algorithm):
    """Base of the rules. A subclass writes `find`.

    There is nothing to learn: `learn` plays, so that callbacks and logs work as for others.

    Args:
        policy: "HeuristicPolicy".
        env: `VMRescheduling-v0`.
        seed, verbose, ...: as in `Algorithm`.
    """

    policy: Any
    policy_aliases: ClassVar[dict[str, Any]] = {"HeuristicPolicy": MigrationPolicy}
    example = Example(
        "VMRescheduling-v0",
        {"pms": 3, "load": 0.7, "migrations": 4},
        policy="HeuristicPolicy",
        steps=60,
    )

    def __init__(self, policy: Any, env: GymEnv | str | None, **common: Any) -> None:
        self.steps, self.paid, self.rates = 0, 0.0, 0.0
        super().__init__(policy, env, **common)

    def find(self, cluster: Arrays, budget: int, choices: int) -> Plan:
        """Moves for a batch of one cluster; see `cluster_plans.py`."""
        raise NotImplementedError

    def plan(self, env: gym.Env) -> Plan:
        """All moves from the present state of an environment to the end of its episode.

        The environment is not changed, and with churn the plan is made as if nothing would happen
        meanwhile. To carry it out, step through it; what has become illegal then raises, except
        with `churn` or `penalty_mode`.

        Args:
            env: a `VMRescheduling-v0` of any size, after a reset.

        Raises:
            ValueError: it is none, or was not reset.
        """
        face: Any = env.unwrapped
        if not isinstance(getattr(face, "core", None), VMRescheduling):
            raise ValueError(f"{type(self).__name__} plans for VMRescheduling, got {face}")
        if not hasattr(face, "state"):
            raise ValueError("there is no cluster yet: reset the environment")
        return self.find(face.state, left_over(face.core, face.state, 0), face.core.choices)

    # -- acting ------------------------------------------------------------------------------------

    def predict(
        self,
        observation: Any,
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        action_masks: Any = None,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """The next move for one observation or a batch; legality is part of the observation."""
        single = np.ndim(observation["owner"]) == 1
        batch = {name: np.asarray(value) for name, value in observation.items()}
        if single:
            batch = {name: value[None] for name, value in batch.items()}
        actions = self._moves(batch)
        return (actions[0] if single else actions), state

    def _moves(self, observations: Arrays) -> NDArray[np.int64]:
        """Next moves, int [n, 2], read from the observations."""
        cluster = seen_cluster(observations)
        choices = cluster["legal"].shape[2] // cluster["free_cores"].shape[1]
        found = []
        for row in range(len(cluster["owner"])):
            plan = self.find(take(cluster, [row]), 1, choices)
            found.append(first_move(plan, cluster["owner"][row], choices))
        return np.stack(found)

    # -- learning ----------------------------------------------------------------------------------

    def _setup_model(self) -> None:
        self._setup_lr_schedule()
        self.set_random_seed(self.seed)
        self.policy = self.policy_class(
            self.observation_space, self.action_space, self.lr_schedule, **self.policy_kwargs
        ).to(self.device)

    def begin(self) -> None:
        """Forget what an earlier `learn` was paid."""
        self.steps, self.paid, self.rates = 0, 0.0, 0.0

    def update(self) -> dict[str, float]:
        """One step of every environment; nothing is learned."""
        assert self.env is not None and self._last_obs is not None
        actions, _ = self.predict(self._last_obs)
        observation, rewards, dones, infos = self.env.step(actions)
        assert isinstance(observation, dict)
        self._last_obs = observation
        self._last_episode_starts = dones
        self._update_info_buffer(infos, dones)
        self.num_timesteps += self.env.num_envs
        self.steps += len(rewards)
        self.paid += float(rewards.sum())
        self.rates += float(sum(info["fragment_rate"] for info in infos))
        return {
            "rollout/mean_reward": self.paid / self.steps,
            "rollout/mean_fragment_rate": self.rates / self.steps,
        }

    def extra_state(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """What was paid so far."""
        return {"steps": self.steps, "paid": self.paid, "rates": self.rates}, {}

    def restore_extra_state(self, values: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        """Inverse of `extra_state`."""
        self.steps, self.paid, self.rates = (values[name] for name in ("steps", "paid", "rates"))


def left_over(core: VMRescheduling, state: Arrays, row: int) -> int:
    """Moves that an episode still allows."""
    return max(core.migrations - int(state["t"][row]), 0)


class GreedyMigration(MigrationRule):
    """The legal move with the largest reward, while one is positive; then nothing is moved.

    Args:
        policy, env, seed, ...: as in `MigrationRule`.
    """

    def find(self, cluster: Arrays, budget: int, choices: int) -> Plan:
        """`greedy_plan`."""
        return greedy_plan(cluster, budget, choices, self.policy.cost.cpu().numpy())


class FilterBestFit(MigrationRule):
    """The VM whose leaving helps its machine most goes to the machine where it fits most tightly.

    Args:
        policy, env, seed, ...: as in `MigrationRule`.
    """

    def find(self, cluster: Arrays, budget: int, choices: int) -> Plan:
        """`filter_best_fit_plan`."""
        return filter_best_fit_plan(cluster, budget, choices, self.policy.cost.cpu().numpy())


class MigrationPlanner(MigrationRule):
    """Base of the rules that plan to the end of the episode, and follow the plan while it holds.

    `predict` reads the cluster from the attached environment (`set_env`), which must be in the
    state that the observation shows. Arguments as in `MigrationRule`.
    """

    oracle = True

    def _setup_model(self) -> None:
        super()._setup_model()
        self._known: dict[bytes, Plan] = {}

    def update(self) -> dict[str, float]:
        """As `MigrationRule.update`; somebody else may have stepped the environment meanwhile, such
        as an evaluation."""
        core, state = self._attached()
        self._last_obs = core.observation(state)
        return super().update()

    def _attached(self) -> tuple[VMRescheduling, Arrays]:
        """Core and state of the attached environments."""
        faces = attached_faces(
            self.env,
            VMRescheduling,
            f"{type(self).__name__} plans for",
            "a VMRescheduling environment",
        )
        return faces[0].core, joined(faces, "state")

    def _moves(self, observations: Arrays) -> NDArray[np.int64]:
        core, state = self._attached()
        check_shown(core, state, observations)
        found = []
        for row in range(len(state["t"])):
            plan = self._remembered(take(state, [row]), left_over(core, state, row), core.choices)
            found.append(first_move(plan, state["owner"][row], core.choices))
        return np.stack(found)

    def _remembered(self, cluster: Arrays, budget: int, choices: int) -> Plan:
        """The rest of a plan that leads through this state, else a new one."""
        if _state_key(cluster, budget) not in self._known:
            plan = self.find(cluster, budget, choices)
            if len(self._known) > KNOWN:
                self._known = {}
            on_the_way = cluster
            for done in range(len(plan) + 1):
                self._known[_state_key(on_the_way, budget - done)] = plan[done:]
                if done < len(plan):
                    on_the_way = applied(on_the_way, plan[done], choices)
        return self._known[_state_key(cluster, budget)]


def _state_key(cluster: Arrays, budget: int) -> bytes:
    names = ("owner", "node", "cores", "memory", "free_cores", "free_memory", "conflicts")
    return b"".join([*(cluster[name].tobytes() for name in names), budget.to_bytes(8, "big")])


class SwapMigration(MigrationPlanner):
    """The pair of moves with the largest sum of rewards, again and again.

    Args:
        policy, env, seed, ...: as in `MigrationRule`.
        width: first moves of a pair that are followed up, those with the largest reward.
    """

    def __init__(
        self, policy: Any, env: GymEnv | str | None, *, width: int = 64, **common: Any
    ) -> None:
        check_width(width)
        self.width = width
        super().__init__(policy, env, **common)

    def find(self, cluster: Arrays, budget: int, choices: int) -> Plan:
        """`swap_plan`."""
        return swap_plan(cluster, budget, choices, self.width)


class BeamMigration(MigrationPlanner):
    """Beam search over the moves that are left; never worse than greedy.

    Args:
        policy, env, seed, ...: as in `MigrationRule`.
        width: states that are kept after each move; None: all, for tiny clusters.
    """

    def __init__(
        self, policy: Any, env: GymEnv | str | None, *, width: int | None = 64, **common: Any
    ) -> None:
        if width is not None:
            check_width(width)
        self.width = width
        super().__init__(policy, env, **common)

    def find(self, cluster: Arrays, budget: int, choices: int) -> Plan:
        """`beam_plan`."""
        return beam_plan(cluster, budget, choices, self.width)
