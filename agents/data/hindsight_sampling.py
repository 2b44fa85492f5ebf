"""The best that a budget could have bought, known only when everything is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ...envs.base import take
from ...envs.data.equitable_sampling import EquitableSampling
from ...envs.data.learning_curves import isoelastic
from ..base.stepping import Mask
from ..heuristics.attached import attached_faces, check_shown, joined
from .sampling import Array, GroupPolicy, SamplingAlgorithm


class LookingPolicy(GroupPolicy):
    """A policy that cannot choose by itself: the agent looks into the environment."""

    def scores(self, observations: NDArray[Any]) -> Array:
        """ValueError: observations do not show what will be learned."""
        raise ValueError(
            "hindsight needs the test performances, which observations do not show: use the "
            "agent's predict with the environment attached"
        )


class HindsightSampling(SamplingAlgorithm):
    """The best that can be bought, by a planner who knows all test performances in advance.

    It reads them from the attached environment (`set_env`). The order of batches does not matter at
    the end; it buys for the lowest group first. Arguments are those of `SamplingAlgorithm`.
    """

    policy_aliases: ClassVar[dict[str, Any]] = {"GroupPolicy": LookingPolicy}
    oracle = True

    def act(self, observations: NDArray[Any], masks: Mask | None) -> NDArray[np.int64]:
        """The first group of which the best plan still buys, [n]."""
        core, state, tape = self._look()
        return np.array(
            [
                next_group(core, core.source.test_table(take(tape, row)), batches)
                for row, batches in enumerate(state["batches"])
            ]
        )

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
        action_masks: Any = None,
    ) -> tuple[NDArray[np.int64], Any]:
        """The next group for the current state of the attached environment.

        Raises:
            ValueError: no `EquitableSampling-v0` is attached, it has not been reset, or it is not
                in the state that `observation` shows.
        """
        given = np.asarray(observation)
        core, current, _ = self._look()
        check_shown(core, current, given if given.ndim > 1 else given[None])
        groups = self.act(np.atleast_2d(given), None)
        return (groups if given.ndim > 1 else groups[0]), state

    def _look(self) -> tuple[EquitableSampling, dict[str, Any], dict[str, Any]]:
        """Core, state and tape of the attached environments, one row each."""
        faces = attached_faces(
            self.env,
            EquitableSampling,
            f"{type(self).__name__} reads the test performances from",
            "EquitableSampling-v0",
        )
        return faces[0].core, joined(faces, "state"), joined(faces, "tape")


def next_group(core: EquitableSampling, table: Array, batches: NDArray[np.int64]) -> int:
    """The lowest group of which the best plan still buys.

    Args:
        core: the task.
        table: test performance of each group after 0 .. K batches, [G, K + 1].
        batches: bought so far, [G].
    """
    worth = core.weights[:, None] * isoelastic(table, core.eta)
    ahead = [worth[g, batches[g] : core.room[g] + 1] for g in range(core.groups)]
    return int((best_batches(ahead, core.horizon - int(batches.sum())) > 0).argmax())


def best_batches(worth: Sequence[Array], total: int) -> NDArray[np.int64]:
    """How many batches of each group add up to the most, by dynamic programming, [G].

    Args:
        worth: of each group, what 0, 1, 2 ... batches are worth, [K_g + 1]; no shape is assumed.
        total: batches that have to be bought, or all that there are if those are fewer.
    """
    total = min(total, sum(len(values) - 1 for values in worth))
    best = np.full(total + 1, -np.inf)
    best[0] = 0.0
    choices = []
    for values in worth:
        # options[j, m]: j batches of this group and m - j of those before.
        options = np.full((min(len(values) - 1, total) + 1, total + 1), -np.inf)
        for j in range(len(options)):
            options[j, j:] = best[: total + 1 - j] + values[j]
        choices.append(options.argmax(axis=0))
        best = options.max(axis=0)
    plan = np.zeros(len(worth), dtype=np.int64)
    for group in reversed(range(len(worth))):
        plan[group] = choices[group][total]
        total -= plan[group]
    return plan
