"""The claim's world: a grid, what is recorded in it, and how its learners are compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from ...envs.tabular.grid_world import GridWorld
from ...envs.tabular.planning.finite_horizon import evaluate
from ..base.declare import Outcome
from ..base.offline_data import OfflineDataset

ONLINE, RECORDED = 20_000, 2_000  # steps
TUNING: dict[str, Any] = {"gamma": 0.95, "learning_rate": 0.3, "exploration_fraction": 0.5}
EVALUATIONS, RUNS = 20, 5
KINDS = ("random", "mixed", "replay", "noisy", "expert")
LEARNERS = ("BC", "offline Q", "BCQ")


def world() -> Any:
    """A native grid of 8 x 8 cells: -1 per step, 0 at the goal in the last one, up to 60 steps."""
    return gym.make(
        "GridWorld-v0",
        rows=8,
        cols=8,
        start="free",
        goals={(7, 7): (0.0, True)},
        step_reward=-1.0,
        max_steps=60,
    )


def expected_return(core: GridWorld, law: NDArray[np.float64]) -> float:
    """Exact, of a law of actions [S, A], without discount until an episode is cut."""
    going = ~np.isin(np.arange(core.states), core.terminal_states)
    assert core.max_steps is not None
    laws = np.broadcast_to(law, (core.max_steps, *law.shape))
    return float(core.d0 @ evaluate(core.P, core.R, laws, continues=going)[0])


def rank_correlation(rows: Sequence[Mapping[str, float]], left: str, right: str) -> float:
    """Spearman's, of two columns."""
    return float(spearmanr([row[left] for row in rows], [row[right] for row in rows]).statistic)


def bounds_arm(seed: int, scale: float) -> Outcome:
    """What must be exceeded, or not reached."""
    return Outcome(
        {
            "rank correlation, TQ and BC": 0.8,
            "rank correlation, SACo and offline Q": 0.8,
            "offline Q, expert": 0.3,
            "BC, expert": 0.9,
            "BCQ, worst kind": 0.9,
        }
    )


# -- data sets of five kinds ----------------------------------------------------------------------


class LastCut(gym.Wrapper[Any, Any, Any, Any]):
    """Remembers whether the last step cut its episode."""

    cut = False

    def step(self, action: Any) -> Any:
        """As the inner one's."""
        found = self.env.step(action)
        self.cut = bool(found[3])
        return found


def record_steps(
    env: gym.Env[Any, Any], steps: int, act: Callable[[Any], Any] | None, seed: int
) -> OfflineDataset:
    """As `OfflineDataset.record`, but an episode that is not finished is not called cut."""
    watched = LastCut(env)
    found = OfflineDataset.record(watched, steps, act, seed)
    assert found.truncations is not None
    found.truncations[-1] = watched.cut
    return replace(found, env=env)


def five_datasets(
    env: gym.Env[Any, Any], expert: Callable[[Any], Any], replay: OfflineDataset, seed: int
) -> dict[str, OfflineDataset]:
    """Data sets of as many steps as an online agent's, by kind.

    Args:
        env: where to play.
        expert: observation -> action.
        replay: all steps of an online agent, N of them.
        seed: of all that is played.

    Returns:
        "random": uniform actions. "mixed": 80% of these and 20% of the expert's. "replay": as
        given. "noisy": the expert's, of which each is with probability 0.2 a uniform one. "expert".
    """
    steps, generator = len(replay), np.random.default_rng([seed, 1])
    few = steps // 5

    def noisy(observation: Any) -> Any:
        explores = generator.random() < 0.2
        return env.action_space.sample() if explores else expert(observation)

    parts = [record_steps(env, steps - few, None, seed), record_steps(env, few, expert, seed + 1)]
    for part in parts[:1]:  # the episode under way is cut where the other part begins
        assert part.truncations is not None and part.terminations is not None
        part.truncations[-1] |= not part.terminations[-1]
    columns: dict[str, Any] = {
        name: np.concatenate([part.arrays()[name] for part in parts]) for name in parts[0].arrays()
    }
    return {
        "random": record_steps(env, steps, None, seed),
        "mixed": OfflineDataset(**columns, env=env),
        "replay": replay,
        "noisy": record_steps(env, steps, noisy, seed),
        "expert": record_steps(env, steps, expert, seed),
    }
