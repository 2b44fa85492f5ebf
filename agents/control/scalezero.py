"""ScaleZero: one world model for many tasks, with experts, and with parameters that are added.

Yuan Pu, Yazhe Niu, Jia Tang et al.: One Model for All Tasks: Leveraging Efficient World Models in
Multi-Task Planning (2025, arXiv 2509.07945).

Tasks that are learned at once pull at the weights that they share. `ScaleZero` is UniZero with

- a sparse mixture of experts (`base/nets/mixture.py`) in the place of every feed-forward net of the
  transformer, so that tasks that want different things may use different weights;
- dynamic parameter scaling (DPS). A task whose evaluation has reached its target return is solved,
  and neither played nor learned any more. The transformer is frozen after a first stage of
  training, and every further stage trains low-rank adapters of its own
  (`base/nets/adapters.py`). A stage of the S ends, at iteration i, when

      solved now - solved at its beginning >= max(1, ceil(unsolved / (S - 1 - stage)))

  or it has lasted `max_stage` iterations; the first one not before `min_stage0`, the last one
  never.

An iteration is a minibatch. Encoder and heads are trained in every stage. The last adapters stay
trainable; those of earlier stages are constants (`learn_scale` trains their scales on).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ...envs.checks import check_integer, check_number
from ..base.declare import Claim, Example, NotInferior, Outcome, Paper, Superior
from ..base.unizero import UniZero
from .scalezero_networks import ScaleZeroPolicy
from .scalezero_trials import (
    COPIES,
    GRIDS,
    SOLVED,
    TUNING,
    bounds_arm,
    dense_arm,
    grids,
    input_gate_arm,
    play_grids,
    task_gate_arm,
    wide_arm,
)

# -- the paper's computation ----------------------------------------------------------------------


class Stage(NamedTuple):
    """Where the schedule is.

    Attributes:
        number: of the stage, from 0.
        solved: tasks that were solved when it began.
        since: iteration at which it began.
    """

    number: int = 0
    solved: int = 0
    since: int = 0


def next_stage(
    stage: Stage,
    iteration: int,
    solved: int,
    tasks: int,
    *,
    stages: int,
    min_stage0: int,
    max_stage: int,
) -> Stage:
    """The stage after an iteration: the next one, or the same.

    Args:
        stage: the present one.
        iteration: how many there have been.
        solved: tasks that are solved now; fewer than before where one was lost.
        tasks: how many there are.
        stages: S, at least 1.
        min_stage0: iterations of the first stage, at least.
        max_stage: iterations of a stage, at most; of the first one too, where `min_stage0` allows.
    """
    left = stages - 1 - stage.number
    if left < 1 or (stage.number == 0 and iteration < min_stage0):
        return stage
    needed = max(1, -(-(tasks - solved) // left))
    if solved - stage.solved >= needed or iteration - stage.since >= max_stage:
        return Stage(stage.number + 1, solved, iteration)
    return stage


def is_solved(
    evaluations: NDArray[np.float64], targets: float | Sequence[float | None] | None
) -> NDArray[np.bool_]:
    """Which tasks have reached their target return, bool [T].

    Args:
        evaluations: mean returns, [T].
        targets: of every task [T], or one of all; None, or NaN, is never reached.
    """
    if targets is None:
        return np.zeros(len(evaluations), dtype=np.bool_)
    return np.asarray(evaluations >= np.asarray(targets, dtype=np.float64))


def share_of_interactions(solved_at: Sequence[float | None], budget: float) -> float:
    """Interactions used with solved tasks removed, as a share of the budget of all tasks.

    Args:
        solved_at: interactions after which each task was solved; None: it was not.
        budget: of every task, above 0.
    """
    return sum(budget if at is None else min(at, budget) for at in solved_at) / (
        budget * len(solved_at)
    )


class ScaleZero(UniZero):
    """ScaleZero with dynamic parameter scaling.

    `learn` ends when all tasks are solved. What is solved stays so, until the agent gets an
    environment with another number of tasks.

    Args:
        policy: "MlpPolicy" (`ScaleZeroPolicy`).
        env: as in `UniZero`; a list of environments is a list of tasks.
        target_returns: of every task (None in the list: it has none), or of all; a task without is
            never solved.
        experts, top, shared: E experts, of which a token uses the k best, and the width of the one
            that is always on, in multiples of 4 dim; 0: none.
        stages: S; with 1 nothing is frozen, and nothing added.
        rank, alpha, learn_scale: of the adapters.
        min_stage0, max_stage: of the schedule, in iterations.
        arguments: those of `UniZero`.

    Attributes:
        stage: where the schedule is.
        solved_at: interactions after which each task was solved; None: it is not.

    Raises:
        ValueError: an argument is out of range, or there are other tasks than target returns.
    """

    paper = Paper(
        slug="scalezero",
        title="One Model for All Tasks: Leveraging Efficient World Models in Multi-Task Planning",
        authors="Yuan Pu, Yazhe Niu, Jia Tang et al.",
        year=2025,
        arxiv="2509.07945",
        code="github.com/opendilab/LightZero",
    )
    example = Example(
        UniZero.example.env,
        UniZero.example.env_kwargs,
        kwargs={
            **UniZero.example.kwargs,
            "experts": 2,
            "stages": 3,
            "rank": 2,
            "min_stage0": 4,
            "max_stage": 6,
        },
        steps=UniZero.example.steps,
    )
    policy_aliases: ClassVar[dict[str, Any]] = {"MlpPolicy": ScaleZeroPolicy}
    policy: ScaleZeroPolicy

    def __init__(
        self,
        policy: Any,
        env: Any,
        *,
        target_returns: float | Sequence[float | None] | None = None,
        experts: int = 8,
        top: int = 1,
        shared: int = 0,
        stages: int = 5,
        rank: int = 4,
        alpha: float = 4.0,
        learn_scale: bool = False,
        min_stage0: int = 10_000,
        max_stage: int = 20_000,
        **arguments: Any,
    ) -> None:
        self.target_returns = target_returns
        self.experts, self.top = check_integer("experts", experts, 1), top
        self.shared = check_integer("shared", shared, 0)
        self.stages, self.rank = check_integer("stages", stages, 1), check_integer("rank", rank, 0)
        self.alpha, self.learn_scale = check_number("alpha", alpha), bool(learn_scale)
        self.min_stage0 = check_integer("min_stage0", min_stage0, 0)
        self.max_stage = check_integer("max_stage", max_stage, 1)
        super().__init__(policy, env, **arguments)

    def _setup_model(self) -> None:
        own = ("experts", "top", "shared", "stages", "rank", "alpha", "learn_scale")
        self.policy_kwargs = {**self.policy_kwargs, **{name: getattr(self, name) for name in own}}
        super()._setup_model()
        self.stage = Stage()
        self.solved_at: list[int | None] = []

    def forget(self, tasks: int) -> None:
        """Begin with tasks of which nothing is known.

        Raises:
            ValueError: there is not a target return for each.
        """
        given = np.shape(self.target_returns)  # type: ignore[arg-type]
        if given not in ((), (tasks,)):
            raise ValueError(
                f"target_returns={self.target_returns}: with {tasks} tasks they are {tasks} "
                "numbers, or one"
            )
        super().forget(tasks)
        self.solved_at = [None] * tasks

    def resting(self) -> NDArray[np.bool_]:
        """The tasks that are solved."""
        return np.array([at is not None for at in self.solved_at], dtype=np.bool_)

    def adjust(self) -> dict[str, float]:
        """Mark solved tasks, which rest from now on, and ask the schedule for the stage."""
        before = self.resting()
        reached = is_solved(self.evaluations, self.target_returns) & ~before
        for task in np.flatnonzero(reached):
            self.solved_at[task] = int(self.collected[task])
        if reached.any():
            self._let_rest()
        solved = int((before | reached).sum())
        stage = next_stage(
            *(self.stage, self.gradient_updates, solved, len(before)),
            stages=self.stages,
            min_stage0=self.min_stage0,
            max_stage=self.max_stage,
        )
        if stage != self.stage:
            self.stage = stage
            self.policy.enter(stage.number)
        return {"train/stage": float(stage.number), "rollout/solved tasks": float(solved)}

    def extra_state(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """As the base's, with the schedule and what is solved."""
        values, tensors = super().extra_state()
        return {**values, "stage": list(self.stage), "solved_at": self.solved_at}, tensors

    def restore_extra_state(self, values: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        """Inverse of `extra_state`."""
        super().restore_extra_state(values, tensors)
        self.stage = Stage(*values["stage"])
        self.solved_at = list(values["solved_at"])


# -- the claim in miniature -----------------------------------------------------------------------

EXPERTS, STAGES, RANK, ALPHA = 4, 3, 4, 32.0
SHORTEST, LONGEST = 500, 800  # iterations of the first stage at least, of any at most


def removing_arm(seed: int, scale: float) -> Outcome:
    """ScaleZero with DPS on the six grids."""
    agent = ScaleZero(
        "MlpPolicy",
        grids(COPIES),
        seed=seed,
        experts=EXPERTS,
        target_returns=[SOLVED] * len(GRIDS),
        stages=STAGES,
        rank=RANK,
        alpha=ALPHA,
        min_stage0=int(SHORTEST * scale),
        max_stage=max(int(LONGEST * scale), 1),
        **TUNING,
    )
    return play_grids(agent, scale)


def keeping_arm(seed: int, scale: float) -> Outcome:
    """ScaleZero without DPS: all tasks are played and learned throughout, nothing is frozen."""
    agent = ScaleZero("MlpPolicy", grids(COPIES), seed=seed, experts=EXPERTS, stages=1, **TUNING)
    return play_grids(agent, scale)


ScaleZero.claim = Claim(
    text="On six regressions that conflict, networks of equal active width: mixtures have less "
    "than 0.6 of the dense network's gradient conflict, and the one whose gate reads the task "
    "less than half of its error. On six grids ScaleZero with DPS solves as many tasks (within "
    "half a task) as without, with at most 0.85 of the interactions.",
    arms={
        "dense": dense_arm,
        "input gate": input_gate_arm,
        "task gate": task_gate_arm,
        "equal total width": wide_arm,
        "DPS": removing_arm,
        "without DPS": keeping_arm,
        "bounds": bounds_arm,
    },
    criteria=(
        Superior("conflict", "input gate", "bounds", higher_is_better=False),
        Superior("conflict", "task gate", "bounds", higher_is_better=False),
        Superior("error", "task gate", "bounds", higher_is_better=False),
        Superior("interactions", "DPS", "bounds", higher_is_better=False),
        # Tasks are counted in wholes: half a one is less than one lost.
        NotInferior("solved tasks", "DPS", "without DPS", margin=0.5),
    ),
    core_minutes=14.0,
    modules=(
        "agents.control.scalezero_networks",
        "agents.control.scalezero_trials",
        "agents.base.nets.adapters",
        "agents.base.nets.mixture",
        "agents.base.nets.supports",
        "agents.base.nets.world_model",
        "agents.base.sequence_replay",
        "agents.base.tree_search",
        "agents.base.unizero_losses",
        "agents.base.unizero_policy",
        "wrappers.tasks",
    ),
)
