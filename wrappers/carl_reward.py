"""Two rewards for driving: progress times factors (CaRL), and a sum of terms to compare it with.

    env = CaRLReward(gym.make("LaneDriving-v0"))
    envs = CaRLVectorReward(gym.make_vec("LaneDriving-v0", 1024))

Jaeger et al., CaRL: Learning Scalable Planning Policies with Simple Rewards, CoRL 2025,
arXiv 2504.17838. The rewards are pure functions over batches, `carl_reward` and `additive_reward`.
The wrappers take what these need from `info`, under the names that `LaneDriving` gives, so that
they fit any driving environment that says the same; `driving_reward` holds what they share.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from array_api_compat import array_namespace
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

from ..envs.checks import check_integer, check_number
from .driving_reward import Arrays, SingleReward, VectorReward

TOLERANCE = 2.23  # m/s above the limit at which nothing is paid any more
OFF_CENTRE = 0.5  # m
# What passengers bear, (low, high): m/s^2, m/s^3, rad/s and rad/s^2.
COMFORT = {
    "lon_acc": (-4.05, 2.40),
    "lat_acc": (-4.89, 4.89),
    "jerk": (-8.37, 8.37),
    "lon_jerk": (-4.13, 4.13),
    "yaw_rate": (-0.95, 0.95),
    "yaw_acc": (-1.93, 1.93),
}


# -- the rewards -----------------------------------------------------------------------------------


def speed_factor(v: Any, limit: Any) -> Any:
    """1 up to the limit, falling to 0 at 2.23 m/s above it; [n] from m/s [n]."""
    return (1.0 - (v - limit) / TOLERANCE).clip(0.0, 1.0)


def comfort_factor(metrics: Mapping[str, Any]) -> Any:
    """1 less a twelfth for each of the six bounds of `COMFORT` that is violated, [n].

    Args:
        metrics: `v` and those of `COMFORT`, arrays [n]; one that is missing, or NaN, counts as
            satisfied.
    """
    xp = array_namespace(metrics["v"])
    factor = xp.ones_like(metrics["v"])
    for name, (low, high) in COMFORT.items():
        if name not in metrics:
            continue
        violated = (metrics[name] < low) | (metrics[name] > high)
        factor = factor - 0.5 / len(COMFORT) * xp.astype(violated, factor.dtype)
    return factor


def first_clocks(completion: Any) -> Arrays:
    """What `carl_reward` remembers at the start of an episode, of the route completion [n].

    Returns:
        `rc`: the best completion so far; `ttc`, `comfort`: steps for which a factor still lasts;
        `held`: the factor for comfort that lasts; `off_centre`: steps since the centre was left.
    """
    xp = array_namespace(completion)
    count = xp.zeros_like(completion, dtype=xp.int64)
    clocks = {name: count + 0 for name in ("ttc", "comfort", "off_centre")}
    return {"rc": completion + 0, "held": xp.ones_like(completion), **clocks}


def carl_reward(
    metrics: Mapping[str, Any],
    clocks: Mapping[str, Any],
    costly: Any,
    *,
    terminal_hint: float = 1.0,
    ttc_ticks: int = 500,
    comfort_ticks: int = 500,
    centre_frames: int = 30,
) -> tuple[Any, Arrays]:
    """Progress in percent of the route times factors in [0, 1], less the hint; and new clocks.

        r = max(0, rc - best rc so far) * lane * speed * ttc * comfort * centre - hint [costly]

    lane: 0 off the route's lanes. speed: `speed_factor`. ttc: 0.5 for `ttc_ticks` steps from a
    violation on. comfort: `comfort_factor`, for `comfort_ticks` steps from a violation on; another
    one restarts the clock and keeps the smaller factor. centre: 0.5 once the offset has exceeded
    0.5 m in more than `centre_frames` steps in a row.

    Args:
        metrics: arrays [n]: `rc` in percent, `v` and `limit` in m/s, `offset` from the lane's
            centre in m, `in_lane` and `ttc_violation` (bool), and some of `COMFORT`.
        clocks: of the step before, or `first_clocks`.
        costly: whether the episode ends here by a collision or by running a red light, bool [n].
        terminal_hint: what that costs, however many such events there are.
    """
    xp = array_namespace(metrics["rc"])
    best = xp.maximum(clocks["rc"], metrics["rc"])
    ttc = _wound(clocks["ttc"], metrics["ttc_violation"], ttc_ticks)
    now = comfort_factor(metrics)
    comfort = _wound(clocks["comfort"], now < 1, comfort_ticks)
    lasting = xp.where(clocks["comfort"] > 1, clocks["held"], 1.0)
    held = xp.minimum(now, lasting)
    off_centre = xp.where(xp.abs(metrics["offset"]) > OFF_CENTRE, clocks["off_centre"] + 1, 0)
    reward = (best - clocks["rc"]) * speed_factor(metrics["v"], metrics["limit"]) * held
    reward = reward * xp.where(ttc > 0, 0.5, 1.0) * xp.where(off_centre > centre_frames, 0.5, 1.0)
    reward = xp.where(metrics["in_lane"], reward, 0.0)
    reward = reward - terminal_hint * xp.astype(costly, reward.dtype)
    after = {"rc": best, "held": held, "ttc": ttc, "comfort": comfort, "off_centre": off_centre}
    return reward, after


def _wound(left: Any, violated: Any, ticks: int) -> Any:
    """Steps that a clock still runs, this one included."""
    xp = array_namespace(left)
    return xp.where(violated, ticks, (left - 1).clip(0))


def additive_reward(metrics: Mapping[str, Any], terminal: Any, costly: Any) -> Any:
    """The usual sum of terms, [n]: how one should drive, step by step.

        r = 1 - |v - v_des|/6 - 0.5 |offset| - |heading| - 0.1 [|steer change| > 0.01]
            - [terminal] - v [costly]

    Args:
        metrics: arrays [n]: `v` and `v_des` in m/s, `offset` in m, `heading` relative to the lane
            in rad, `steer_change`.
        terminal: whether the episode ends here, bool [n]; finishing the route does not count.
        costly: by a collision or by running a red light.
    """
    v = metrics["v"]
    xp = array_namespace(v)
    turned = xp.astype(xp.abs(metrics["steer_change"]) > 0.01, v.dtype)
    reward = 1.0 - xp.abs(v - metrics["v_des"]) / 6.0
    reward = reward - 0.5 * xp.abs(metrics["offset"]) - xp.abs(metrics["heading"]) - 0.1 * turned
    return reward - xp.astype(terminal, v.dtype) - v * xp.astype(costly, v.dtype)


# -- as rules of a wrapper -------------------------------------------------------------------------


class ProgressRule:
    """`carl_reward`."""

    needed: tuple[str, ...] = ("rc", "v", "limit", "offset", "in_lane", "ttc_violation")
    optional: tuple[str, ...] = (*COMFORT, "off_road_share")

    def __init__(
        self, terminal_hint: float, ttc_ticks: int, comfort_ticks: int, centre_frames: int
    ) -> None:
        self.constants: dict[str, Any] = {
            "terminal_hint": check_number("terminal_hint", terminal_hint, 0.0),
            "ttc_ticks": check_integer("ttc_ticks", ttc_ticks, 1),
            "comfort_ticks": check_integer("comfort_ticks", comfort_ticks, 1),
            "centre_frames": check_integer("centre_frames", centre_frames, 0),
        }

    def begin(self, completion: NDArray[np.float64]) -> Arrays:
        """The clocks stand."""
        return first_clocks(completion)

    def score(
        self, metrics: Arrays, clocks: Arrays, terminated: Any, costly: Any
    ) -> tuple[Any, Arrays]:
        """`carl_reward`."""
        return carl_reward(metrics, clocks, costly, **self.constants)


class AdditiveRule:
    """`additive_reward`, which remembers nothing."""

    needed: tuple[str, ...] = ("rc", "v", "v_des", "offset", "heading", "steer_change")
    optional: tuple[str, ...] = ("off_road_share",)

    def begin(self, completion: NDArray[np.float64]) -> Arrays:
        """Nothing."""
        return {}

    def score(
        self, metrics: Arrays, clocks: Arrays, terminated: Any, costly: Any
    ) -> tuple[Any, Arrays]:
        """`additive_reward`."""
        return additive_reward(metrics, terminated, costly), {}


# -- the wrappers ----------------------------------------------------------------------------------


class CaRLReward(SingleReward):
    """Pays progress along the route, times factors for how one drives; see `carl_reward`.

    Over an episode without faults the rewards sum to the route completion, whatever the pace. The
    environment's own reward is dropped. `info` must hold `rc`, `v`, `limit`, `offset`, `in_lane`
    and `ttc_violation`; it may hold the metrics of `COMFORT` (a missing one counts as satisfied),
    `off_road_share` and `event`: a name of `driving_reward.ENDING`, several of them, or "".
    `driving_reward.endings` says how episodes end.

    Args:
        env: a single environment; `CaRLVectorReward` takes a vector.
        terminal_hint: what a collision or running a red light costs, >= 0; 0: pure progress.
        ttc_ticks: steps for which a predicted collision halves the progress, >= 1.
        comfort_ticks: steps for which discomfort lasts, >= 1.
        centre_frames: steps that the car may spend beside the centre of its lane, >= 0.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        *,
        terminal_hint: float = 1.0,
        ttc_ticks: int = 500,
        comfort_ticks: int = 500,
        centre_frames: int = 30,
    ) -> None:
        rule = ProgressRule(terminal_hint, ttc_ticks, comfort_ticks, centre_frames)
        super().__init__(env, rule, **rule.constants)


class AdditiveReward(SingleReward):
    """Pays a sum of terms at every step; see `additive_reward`.

    `info` must hold `rc`, `v`, `v_des`, `offset`, `heading` and `steer_change`. Episodes end as
    with `CaRLReward`.

    Args:
        env: a single environment; `AdditiveVectorReward` takes a vector.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env, AdditiveRule())


class CaRLVectorReward(VectorReward):
    """`CaRLReward` for a vector in any autoreset mode.

    The sub-environments end their episodes themselves, as those of `LaneDriving` do: a vector
    cannot be told to. Of one that does not, wrap each sub-environment instead.

    Args:
        env: a vector environment.
        terminal_hint: as in `CaRLReward`, and so are the others.
        ttc_ticks: likewise.
        comfort_ticks: likewise.
        centre_frames: likewise.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        env: VectorEnv[Any, Any, Any],
        *,
        terminal_hint: float = 1.0,
        ttc_ticks: int = 500,
        comfort_ticks: int = 500,
        centre_frames: int = 30,
    ) -> None:
        rule = ProgressRule(terminal_hint, ttc_ticks, comfort_ticks, centre_frames)
        super().__init__(env, rule, **rule.constants)


class AdditiveVectorReward(VectorReward):
    """`AdditiveReward` for a vector in any autoreset mode; ends as `CaRLVectorReward` says.

    Args:
        env: a vector environment.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        super().__init__(env, AdditiveRule())
