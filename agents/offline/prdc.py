"""PRDC: policy regularization with dataset constraint.

Yuhang Ran, Yi-Chen Li, Fuxiang Zhang, Zongzhang Zhang, Yang Yu: Policy Regularization with Dataset
Constraint for Offline Reinforcement Learning (ICML 2023, arXiv 2306.06569); code:
https://github.com/LAMDA-RL/PRDC.

TD3+BC pulls the actor towards the action that was recorded at the same state. PRDC looks through
all recorded steps for the one that is nearest to the state and the actor's own action, and pulls
towards its action: a good one may come from a neighbour that has it.

    nearest step   j(s) = argmin_i || [beta s, pi(s)] - [beta s_i, a_i] ||,  a constant
    actor          L_pi = -lambda mean Q_1(s, pi(s)) + mean (pi(s) - a_j(s))^2

Actions lie in [-1, 1]^d, and states are standardised. For a large beta the nearest step is the
recorded one, which is TD3+BC; with beta = 0 only actions matter. With k above 1 it is the k-th
nearest step, and that one alone, as in the authors' code. PRDC overrides TD3+BC's `guide`, and
nothing else of its update.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.type_aliases import GymEnv

from ...envs.checks import check_integer, check_number
from ...envs.control.line_world_data import alternating_steps
from ...envs.control.maze_controllers import umaze_steps
from ...envs.control.point_maze import PointMaze
from ..base.declare import Claim, NotInferior, Outcome, Paper
from ..base.offline_actor_critic import Batch
from ..base.offline_data import OfflineDataset
from ..base.offline_tensors import OfflineTensors
from .base_td3_bc import TD3BC
from .line_world_trials import learned_on_the_line, line_data
from .prdc_neighbours import NearestRows

# -- the paper's computation ----------------------------------------------------------------------


def search_keys(observations: torch.Tensor, actions: torch.Tensor, beta: float) -> NDArray[Any]:
    """[beta s, a], float32 [B, n + d], of observations [B, ...] with n numbers, actions [B, d]."""
    joined = torch.cat([beta * observations.flatten(1), actions.detach()], dim=1)
    keys: NDArray[Any] = joined.cpu().numpy()
    return keys


# -- the agent ------------------------------------------------------------------------------------


class PRDC(TD3BC):
    """TD3 that is pulled towards actions of the nearest recorded steps.

    The search is exact, on the CPU, and runs on as many threads as torch may use. A million steps
    of 23 numbers take about half a GiB.

    Args:
        policy, env, common: as in `TD3BC`. The paper has alpha = 40 on HalfCheetah, 2.5 elsewhere
            on MuJoCo; on AntMaze 7.5, and rewards 10000 r - 1.
        beta: weight of the state in the distance, at least 0. On AntMaze the paper has 7.5.
        k: the how-manieth nearest step, in 1 .. N.

    Raises:
        ValueError: as in `TD3BC`; observations are no vectors in a `Box`.
    """

    paper = Paper(
        slug="prdc",
        title="Policy Regularization with Dataset Constraint for Offline Reinforcement Learning",
        authors="Yuhang Ran, Yi-Chen Li, Fuxiang Zhang, Zongzhang Zhang, Yang Yu",
        year=2023,
        arxiv="2306.06569",
        code="github.com/LAMDA-RL/PRDC",
    )
    neighbours: NearestRows

    def __init__(
        self,
        policy: Any,
        env: OfflineDataset | GymEnv | str | None,
        *,
        beta: float = 2.0,
        k: int = 1,
        **common: Any,
    ) -> None:
        self.beta, self.k = check_number("beta", beta, 0), check_integer("k", k, 1)
        super().__init__(policy, env, **common)

    def _setup_model(self) -> None:
        if not isinstance(self.observation_space, spaces.Box):
            raise ValueError(f"PRDC needs observations in a Box, got {self.observation_space}")
        if self.dataset is not None:
            self.check_rows(self.dataset)
        super()._setup_model()

    def _check_spaces(self, dataset: OfflineDataset) -> None:
        super()._check_spaces(dataset)
        self.check_rows(dataset)

    def check_rows(self, dataset: OfflineDataset) -> None:
        """ValueError where there is no k-th nearest step."""
        if self.k > len(dataset):
            raise ValueError(f"k={self.k}, but the data have {len(dataset)} steps")

    def pack(self, dataset: OfflineDataset) -> OfflineTensors:
        """As the base's; what is searched is built with it."""
        tensors = super().pack(dataset)
        observations, actions = tensors.column("observations"), tensors.column("actions")
        self.neighbours = NearestRows(search_keys(observations, actions, self.beta))
        return tensors

    def guide(self, batch: Batch, actions: torch.Tensor) -> torch.Tensor:
        """Actions of the k-th nearest steps, [B, d]; actions pi(s) are [B, d]."""
        assert self.tensors is not None
        keys = search_keys(batch["observations"], actions, self.beta)
        numbers = self.neighbours.query(keys, self.k, torch.get_num_threads())
        return self.tensors.column("actions")[torch.from_numpy(numbers).to(actions.device)]


# -- the claim in miniature -----------------------------------------------------------------------

STEPS = 3_000
TUNING: dict[str, Any] = {
    **{"alpha": 2.5, "batch_size": 128, "learning_rate": 1e-3, "device": "cpu"},
    "policy_kwargs": {"net_arch": [64, 64]},
}
EPISODES, EVALUATION_SEED = 50, 1_000_000


def success_in_the_maze(agent: TD3BC) -> float:
    """Share of 50 episodes that arrive, always from the same starts."""
    core = PointMaze("umaze")
    tape = core.tapes(EPISODES, EVALUATION_SEED)
    state, arrived = core.initial(tape), np.zeros(EPISODES, dtype=bool)
    assert core.horizon is not None
    for _ in range(core.horizon):
        actions, _ = agent.predict(core.observation(state), deterministic=True)
        state = core.transition(state, core.check_action(actions, state), tape)
        arrived |= core.terminal(state)
    return float(arrived.mean())


def outcome_of(agent_class: type[TD3BC], seed: int, scale: float, **own: Any) -> Outcome:
    """On the line, and in the maze."""
    steps = int(STEPS * scale)
    data = line_data(alternating_steps(seed=seed))
    agent = agent_class("MlpPolicy", data, seed=seed, gamma=0.9, **TUNING, **own)
    found = learned_on_the_line(agent, steps)
    columns: dict[str, Any] = dict(umaze_steps(seed=seed))
    data = OfflineDataset(**columns, env=gym.make("PointMaze-v0", layout="umaze"))
    agent = agent_class("MlpPolicy", data, seed=seed, **TUNING, **own).learn(max(steps, 1))
    return Outcome({**found.metrics, "maze success": success_in_the_maze(agent)}, found.curves)


def prdc_arm(seed: int, scale: float) -> Outcome:
    """PRDC with beta = 2."""
    return outcome_of(PRDC, seed, scale, beta=2.0)


def td3_bc_arm(seed: int, scale: float) -> Outcome:
    """TD3+BC."""
    return outcome_of(TD3BC, seed, scale)


PRDC.claim = Claim(
    text="On a line that pays for the way to the right, 4,000 recorded steps go right on every "
    "second unit and left on the others. After 3,000 steps with alpha = 2.5 the share of 50 starts "
    "from which PRDC arrives at the end is larger than TD3+BC's by more than 0.5.",
    arms={"PRDC": prdc_arm, "TD3+BC": td3_bc_arm},
    criteria=(NotInferior("reached", "PRDC", "TD3+BC", margin=-0.5),),
    seeds=5,
    core_minutes=2.5,
    modules=(
        *("agents.offline.prdc_neighbours", "agents.offline.line_world_trials"),
        "agents.base.twin_critic_policy",
        *("envs.control.line_world", "envs.control.line_world_data"),
        *("envs.control.point_maze", "envs.control.maze_controllers", "envs.control.recording"),
    ),
)
