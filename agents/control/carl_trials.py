"""What CaRL's claim compares by: clean drives in any number of steps, and held-out routes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

from ...envs.base import put, take
from ...envs.driving.lane_driving import LaneDriving
from ...wrappers.carl_reward import additive_reward, carl_reward, first_clocks
from ..base.declare import Outcome

ROUTES, HELD_OUT = 50, 10_000  # routes to be judged by, and the seed of the first
CARS = 32  # that learn side by side
CLEAN = 300  # steps of the longest clean drive


def native_lanes(cars: int = CARS) -> VectorEnv[Any, Any, Any]:
    """`LaneDriving-v0` as a native vector that Stable-Baselines3 can take."""
    return gym.make_vec(
        "LaneDriving-v0",
        cars,
        vectorization_mode="vector_entry_point",
        autoreset_mode=AutoresetMode.SAME_STEP,
    )


# -- held-out routes ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Drives:
    """How n drives ended.

    Attributes:
        score: driving score, [n].
        completion: covered part of the route in percent, [n].
        event: what ended them, "" at the end of the road, [n].
    """

    score: NDArray[np.float64]
    completion: NDArray[np.float64]
    event: NDArray[np.object_]


def held_out_drives(agent: BaseAlgorithm, routes: int = ROUTES, first: int = HELD_OUT) -> Drives:
    """Deterministic drives of an agent, on the routes of the resets with seeds `first` and on."""
    core = LaneDriving()
    tape = core.tapes(routes, first)
    state, going = core.initial(tape), np.arange(routes)
    found = Drives(np.zeros(routes), np.zeros(routes), np.full(routes, "", dtype=object))
    while len(going):
        now = take(state, going)
        actions, _ = agent.predict(core.observation(now), deterministic=True)
        after = core.transition(now, core.check_action(actions, now), take(tape, going))
        state, info = put(state, going, after), core.info(after)
        over = core.terminal(after) | core.truncated(after)
        ended = going[over]
        found.score[ended] = info["driving_score"][over]
        found.completion[ended] = info["rc"][over]
        found.event[ended] = info["event"][over]
        going = going[~over]
    return found


class Curve(BaseCallback):
    """Mean driving score on the held-out routes, before the first rollout after every so many
    steps.

    Args:
        every: environment steps between two points.
    """

    def __init__(self, every: int) -> None:
        super().__init__()
        self.every, self.due = every, every
        self.steps, self.scores = list[float](), list[float]()

    def measure(self) -> Drives:
        """Add a point."""
        drives = held_out_drives(self.model)
        self.steps.append(float(self.num_timesteps))
        self.scores.append(float(drives.score.mean()))
        return drives

    def _on_rollout_start(self) -> None:
        if self.num_timesteps >= self.due:
            self.measure()
            self.due += self.every

    def _on_step(self) -> bool:
        return True


# -- clean drives ---------------------------------------------------------------------------------


def clean_returns(seed: int, steps: int = CLEAN) -> tuple[NDArray[Any], NDArray[Any]]:
    """Returns of clean drives of 1, 2, ..., `steps` steps, with CaRL's and the additive reward.

    All drives are at 5 m/s below a limit of 10 m/s where 6 m/s are wanted, in the middle of the
    lane; how much of the route each step covers is random.
    """
    rng, rows = np.random.default_rng(seed), np.arange(1, steps + 1)
    covered = np.zeros((steps, steps))  # of a drive, by a step
    for row, count in enumerate(rows):
        covered[row, :count] = 100.0 * rng.dirichlet(np.ones(count))
    completion = covered.cumsum(axis=1).clip(0.0, 100.0)
    clean, faulty = np.ones(steps), np.zeros(steps, dtype=bool)
    driven: dict[str, Any] = {
        **{"v": 5.0 * clean, "limit": 10.0 * clean, "v_des": 6.0 * clean},
        **{name: 0.0 * clean for name in ("offset", "heading", "steer_change")},
        **{"in_lane": ~faulty, "ttc_violation": faulty},
    }
    clocks, simple, additive = first_clocks(0.0 * clean), 0.0 * clean, 0.0 * clean
    for step in range(steps):
        metrics = {**driven, "rc": completion[:, step]}
        reward, clocks = carl_reward(metrics, clocks, faulty)
        simple = simple + reward
        additive = additive + np.where(step < rows, additive_reward(driven, faulty, faulty), 0.0)
    return simple, additive


def exact_arm(seed: int, scale: float) -> Outcome:
    """How far the returns of clean drives are from 100, and how often the additive one does not
    grow with the number of steps."""
    simple, additive = clean_returns(seed, max(int(CLEAN * scale), 2))
    return Outcome(
        {
            "error of the return": float(np.abs(simple - 100.0).max()),
            "additive returns that do not grow": float((np.diff(additive) <= 0).sum()),
            "additive return of the longest drive": float(additive[-1]),
        }
    )
