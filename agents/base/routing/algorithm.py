"""Base of the agents that solve the problems of `envs/routing` with a `NodePolicy`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.type_aliases import GymEnv

from ....envs.base import ArrayCore, Arrays, take
from ....envs.routing.atsp import ATSP
from ....envs.routing.cvrp import CVRP
from ....envs.routing.instance import RoutingInstance, Solution
from ....envs.routing.knapsack import Knapsack
from ....envs.routing.orienteering import Orienteering
from ....envs.routing.tsp import TSP
from ..algorithm import Algorithm
from ..simulator_gradient import find_core
from .decoding import Decoded, beam_search, best_of, follow, from_both_ends, repeat_rows
from .node_policy import NodePolicy
from .problems import Situation

CORES: dict[str, Any] = {core.kind: core for core in (TSP, ATSP, CVRP, Orienteering, Knapsack)}
FROM_FILES = ("tsp", "atsp", "cvrp")  # kinds of which there are files
NODES_AT_ONCE = 200_000  # rows of observations that are decoded together


class RoutingAlgorithm(Algorithm):
    """An agent with a `NodePolicy`, which solves instances of any size and keeps the parameters
    that solve validation instances best.

    A subclass writes `update`, and calls `validate` there on tapes that it has recorded.

    Args:
        policy: alias of a `NodePolicy` that reads the states (mdp="bq" or "direct") of `env`.
        env: `TSP-v0`, `ATSP-v0`, `CVRP-v0`, `Orienteering-v0` or `Knapsack-v0`.
        arguments: of `Algorithm`.
    """

    policy: NodePolicy
    _kind: str | None = None

    @property
    def kind(self) -> str:
        """The problem: "tsp", "atsp", "cvrp", "orienteering" or "knapsack"."""
        if self._kind is None:
            self._kind = str(self.core.kind)
        return self._kind

    @property
    def core(self) -> Any:
        """The batched core of the environment.

        Raises:
            ValueError: the environment is none of routing, or its states are not the policy's.
        """
        core: Any = find_core(self.env)
        if type(core) not in CORES.values():
            raise ValueError(
                f"{type(self).__name__} needs an environment of the kinds {list(CORES)}, got "
                f"{type(core).__name__}"
            )
        policy_class: Any = self.policy_class
        mdp = "direct" if policy_class.direct else "bq"
        if core.mdp != mdp:
            raise ValueError(
                f'{policy_class.__name__} needs an environment with mdp="{mdp}", got '
                f'mdp="{core.mdp}"'
            )
        return core

    def _setup_model(self) -> None:
        self._setup_lr_schedule()
        self.set_random_seed(self.seed)
        self.generator = np.random.default_rng(self.seed)
        policy_class: Any = self.policy_class
        self.policy = policy_class(
            self.observation_space,
            self.action_space,
            self.lr_schedule,
            problem=self.kind,
            **self.policy_kwargs,
        ).to(self.device)
        self.best_validation = -np.inf
        self.best_parameters: dict[str, torch.Tensor] = {}
        self.curve: list[tuple[int, float]] = []

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """As SB3's.

        Raises:
            ValueError: the spaces or the states are not those of the agent.
        """
        kind = self.kind
        super().set_env(env, force_reset)
        if self.core.kind != kind:
            raise ValueError(f"the agent solves {kind}, the environment is {self.core.kind}")

    # -- the best parameters -----------------------------------------------------------------------

    def validate(self, core: ArrayCore, tape: Arrays) -> float:
        """Mean objective of episodes solved greedily; keeps the parameters where it is the best.

        Args:
            core, tape: as in `decode`.
        """
        objective = float(self.decode(core, tape).objective.mean())
        self.curve.append((self.num_timesteps, objective))
        if objective > self.best_validation:
            self.best_validation = objective
            self.best_parameters = {
                name: value.detach().clone() for name, value in self.policy.state_dict().items()
            }
        return objective

    # -- solving -----------------------------------------------------------------------------------

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
        action_masks: Any = None,
    ) -> tuple[np.ndarray, None]:
        """Actions for observations of any number of nodes; see `NodePolicy.predict`."""
        return self.policy.predict(
            observation, state, episode_start, deterministic, action_masks=action_masks
        )

    def decode(
        self,
        core: ArrayCore,
        tape: Arrays,
        state: Arrays | None = None,
        *,
        beam: int = 1,
        samples: int = 0,
        neighbours: int | None = None,
        both_ends: bool = False,
    ) -> Decoded:
        """Finish episodes of face 3 of a core; the best of what was decoded, by its objective.

        Args:
            core: `ArrayCore.torch(device, torch.float64)`.
            tape: of m episodes, as tensors.
            state: where they are; None: at the start.
            beam, samples, neighbours, both_ends: as in `solve`.
        """
        state = core.initial(tape) if state is None else state
        self.policy.set_training_mode(False)

        def scores(observation: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
            return self.policy.scores(self.policy.read(observation), masks, neighbours)

        def own_scores(situation: Situation) -> torch.Tensor:
            return self.policy.scores(situation, None, neighbours)

        with torch.no_grad():
            if both_ends:
                seen = self.policy.read(core.observation(state))
                return from_both_ends(core, tape, state, seen, own_scores)
            if samples:
                many = repeat_rows(tape, samples), repeat_rows(state, samples)
                return best_of(follow(core, *many, scores, deterministic=False), samples)
            if beam > 1:
                return beam_search(core, tape, state, scores, beam)
            return follow(core, tape, state, scores)

    def solve(
        self,
        instances: Any,
        *,
        beam: int = 1,
        samples: int = 0,
        neighbours: int | None = None,
        both_ends: bool = False,
    ) -> list[Solution]:
        """Solutions of instances of any size, one for each.

        Args:
            instances: a data set (the environments' argument `instances`), one instance (a
                `RoutingInstance` or the path of a file), or an environment, whose episodes are
                finished from where they are without stepping it.
            beam: prefixes that are kept; 1: greedy. The best final objective is returned.
            samples: draw this many solutions from the policy and return the best; 0: none.
            neighbours: look at the `neighbours - 1` feasible nodes nearest to the origin, and the
                destination, only; for large instances. None: at all nodes.
            both_ends: grow the tour of a TSP from whichever end of the path that is left is surer
                of its next node. It takes twice the time of a greedy solution.

        Raises:
            ValueError: an argument makes no sense, or the instances are of another problem.
        """
        if beam < 1 or samples < 0 or (beam > 1 and samples):
            raise ValueError(
                f"beam={beam}, samples={samples}: allowed are beam >= 1 and samples >= 0, "
                "and not both more than one"
            )
        if both_ends and (self.kind != "tsp" or self.policy.direct or beam > 1 or samples):
            raise ValueError(
                f"both_ends: for a TSP on the instance left, without beam={beam} and "
                f"samples={samples}; the agent solves {self.kind} with "
                f"{type(self.policy).__name__}"
            )
        if neighbours is not None and (
            neighbours < 2 or not (self.policy.problem.ends and self.policy.looks_near)
        ):
            raise ValueError(
                f"neighbours={neighbours}: at least 2, for an AttentionPolicy on a problem with "
                "distances"
            )
        core, tape, state = self._episodes(instances)
        rows, solver = len(state["t"]), core.torch(self.device, torch.float64)
        tape, state = (
            # As they are: some of them are float32, others float64.
            {name: torch.tensor(value, device=self.device) for name, value in arrays.items()}
            for arrays in (tape, state)
        )
        near = None if neighbours is None else neighbours - 1
        at_once = max(NODES_AT_ONCE // (core.size * max(beam, samples)), 1)
        found: list[Solution] = []
        for start in range(0, rows, at_once):
            part = [take(arrays, slice(start, start + at_once)) for arrays in (tape, state)]
            decoded = self.decode(
                solver,
                *part,
                beam=beam,
                samples=samples,
                neighbours=near,
                both_ends=both_ends,
            )
            ended = {name: value.cpu().numpy() for name, value in decoded.state.items()}
            found += [core.solution(ended, row) for row in range(len(ended["t"]))]
        return found

    def _episodes(self, instances: Any) -> tuple[Any, Arrays, Arrays]:
        """Core, tape and state of what `solve` is given."""
        mdp = "direct" if self.policy.direct else "bq"
        if isinstance(instances, gym.Env | gym.vector.VectorEnv):
            face: Any = instances.unwrapped
            if type(face.core) is not CORES[self.kind] or face.core.mdp != mdp:
                raise ValueError(f'the agent solves {self.kind} with mdp="{mdp}", not {instances}')
            return face.core, face.tape, face.state
        if isinstance(instances, Mapping):
            core = CORES[self.kind](mdp=mdp, instances=instances)
            rows = len(next(iter(instances.values())))
            tape = core.tapes(rows, 0, [{"row": row} for row in range(rows)])
        elif isinstance(instances, RoutingInstance | str | Path) and self.kind in FROM_FILES:
            core = CORES[self.kind](mdp=mdp, instance=instances)
            tape = core.tapes(1, 0)
        else:
            raise ValueError(
                f"a {self.kind} can be given as arrays or an environment"
                f"{', a RoutingInstance or a file' if self.kind in FROM_FILES else ''}, "
                f"got {type(instances).__name__}"
            )
        return core, tape, core.initial(tape)

    # -- checkpoints -------------------------------------------------------------------------------

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "policy.optimizer"], []

    def extra_state(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """The problem, the validation curve, and the best parameters."""
        values = {
            "kind": self.kind,
            "curve": self.curve,
            "best_validation": self.best_validation,
        }
        return values, {f"best.{name}": value for name, value in self.best_parameters.items()}

    def restore_extra_state(self, values: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        """Inverse of `extra_state`."""
        self.curve = [(int(x), float(y)) for x, y in values["curve"]]
        self.best_validation = values["best_validation"]
        self.best_parameters = {
            name.removeprefix("best."): value.to(self.device) for name, value in tensors.items()
        }

    def _prepare(self, extra: dict[str, Any]) -> None:
        if self.env is None:
            self._kind = extra["kind"]

    def learning_state(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """The generator."""
        return {"generator": self.generator.bit_generator.state}, {}

    def restore_learning_state(
        self, values: dict[str, Any], tensors: dict[str, torch.Tensor]
    ) -> None:
        """Inverse of `learning_state`."""
        self.generator.bit_generator.state = values["generator"]
