"""`LaneDriving-v0`: drive 300 m on a road with slower traffic, a light and speed limits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from array_api_compat import array_namespace, is_torch_array, to_device
from numpy.typing import NDArray

from ..base import ArrayCore, Arrays
from ..checks import check_integer, check_number
from ..faces import ArrayEnv, ArrayVectorEnv
from . import traffic
from .scores import PENALTIES, route_completion
from .traffic import CENTRES, EDGE, LANES, NOSE, PER_LANE, ROAD, SECONDS, Neighbours

FASTEST = 20.0  # m/s
PULL, BRAKE = 3.0, 6.0  # m/s^2 of a full action forwards and backwards
ACC_CHANGE, STEER_CHANGE = 0.8, 0.2  # the most that the actuators follow in a step
WHEELBASE, WHEEL_ANGLE = 2.8, 0.1  # m; rad of a full steering
SEEN = 50.0  # m
STILL, PATIENCE = 0.1, 200  # m/s, steps
HORIZON = 600
DRAWS = 25
EVENTS = np.array(["", "collision", "red_light", "off_road", "blocked", "timeout"], dtype=object)
FACTORS = (1.0, PENALTIES["vehicle"], PENALTIES["red_light"], 1.0, 1.0, 1.0)
# What `options["state"]` may name, with the range of each; t counts steps.
START = {
    "s": (0.0, ROAD),
    "y": (-EDGE, EDGE),
    "v": (0.0, FASTEST),
    "heading": (-np.pi / 2, np.pi / 2),
    "t": (0, HORIZON - 1),
}
# What lasts for an episode, and what a step leaves behind for the next one and for `info`.
SCENARIO = ("lane_speeds", "stop", "phase", "limits")
MOTION = ("acc", "steer", "yaw_rate", "lat_acc", "steer_change", "lon_jerk", "jerk", "yaw_acc")


class LaneDriving(ArrayCore):
    """A car on a three-lane road: overtake slower vehicles, stop at red, keep the limits.

    ## Description
    A straight road of 300 m with lanes centred at y = -3.5, 0 and 3.5 m, 3.5 m wide each (the road
    ends at |y| = 5.25 m), 15 slower vehicles of 4.5 m x 2 m, one traffic light and a speed limit
    for each third. Ten steps are a second. The other vehicles brake for whatever is in front of
    them, so that a collision is always the agent's doing.

    ## Observation
    `Box`, 24 numbers, float32. v/20, limit/20, offset from the nearest lane centre/1.75,
    heading/0.5; the nearest lane, one-hot (3); distance to the stop line, clipped to 50 m, /50
    (negative beyond it); 1 if the light is red; for each lane, from y = -3.5 on: free distance
    ahead (at most 50 m)/50, (speed of that vehicle - v)/10, free distance behind and relative
    speed likewise (distance 1 and speed 0 where there is no vehicle); acceleration/6, steering,
    s/300. The free distance is that of the centres less 4.5 m; the stop line is that far from the
    front.

    ## Action
    `Box(-1, 1, (2,))`: acceleration a1 (forwards in units of 3 m/s^2, backwards of 6 m/s^2) and
    steering a2 (positive: towards positive y).

    ## Dynamics
    s along and y across the road in m, v in m/s, heading psi in rad, positive towards positive y.

        acc   = last realised one + clip(wanted - last, -0.8, 0.8)
        steer = last + clip(a2 - last, -0.2, 0.2)
        v'    = clip(v + 0.1 acc, 0, 20);      realised acceleration (v' - v)/0.1
        psi'  = psi + 0.1 yaw,                 yaw = v'/2.8 tan(0.1 steer)
        s'    = s + 0.1 v' cos psi',           y' = y + 0.1 v' sin psi'
        red   = (0.1 t + phase) mod 20 >= 12

    Vehicles, lane by lane from the front one: x' = max(x, min(x + 0.1 V_lane, lead' - 8,
    stop - 2.25 if the light is red and x + 2.25 <= stop, s - 8 if |y - centre| < 2 and x < s)).
    They see light and ego as they are before the step.

    The tape is z = `rng.random(25)`: lane speeds 3 + 3 z[0:3] m/s; gaps 25 + 35 z[3:18], lane by
    lane, a vehicle stands 15 m plus its gap and all before it; stop line at 100 + 100 z[18] m;
    phase 20 z[19] s; limits of the thirds 8 + 2 floor(3 z[20:23]) m/s; start lane floor(3 z[23]),
    start y its centre + 0.4 z[24] - 0.2. An episode starts at s = 0 with 5 m/s.

    ## Reward
    What the step adds to `rc`, the covered part of the road in percent, 100 max over time of
    clip(s/300, 0, 1). `palaestra.wrappers.carl_reward` has two rewards that know the rules.

    `info`: `rc`; `v`; `limit` where the ego is; `offset`; `heading`; `steer_change`; `in_lane`
    (|y| <= 5.25); `off_road_share` = clip((|y| - 4.25)/2, 0, 1); `event` (below; "" if there is
    none); `ttc_violation` (the free distance in the nearest lane is covered within 1 s at the
    closing speed); `lon_acc`, `lat_acc` = v yaw (m/s^2); `lon_jerk` and `jerk`, the change of the
    first and of both (m/s^3); `yaw_rate`, `yaw_acc` (rad/s, rad/s^2); `v_des` = 6 clip((g - 2)/10,
    0, 1), g the smaller of the free distance and, while red, that to a stop line not yet crossed;
    `driving_score` = rc, times 0.6 after a collision, times 0.7 after running the light.

    ## Episode end
    Terminated by the first event that holds: `collision` (|s - x| < 4.5 and |y - centre| < 2 of a
    vehicle), `red_light` (the front crosses the stop line in a step that begins with red),
    `off_road` (`off_road_share` > 0.95), `blocked` (v < 0.1 for 200 steps), `timeout` (600 steps).
    Truncated at the end of the road without any of them.

    ## Arguments
    - `reset(options={"state": {...}})`: any of `s`, `y`, `v`, `heading` (within +-pi/2) and `t`.
    - `reset(options={"scenario": z})`: 25 numbers in [0, 1) in place of the tape's, which are drawn
      all the same.

    ## Data files
    None.

    ## Sources
    Made for this suite, in the spirit of CARLA and nuPlan; the measures are those of Jaeger et al.,
    CaRL: Learning Scalable Planning Policies with Simple Rewards, CoRL 2025, arXiv 2504.17838.

    ## Version
    v0.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 10}
    horizon: int = HORIZON

    def __init__(self) -> None:
        lane = [(-0.1, 1.0), (-2.0, 0.6)] * 2  # free distances and relative speeds, twice
        turn = 2 * np.pi  # a start within pi/2 leaves the road long before it turns round
        bounds = [(0.0, 1.0), (0.4, 0.6), (-3.0, 3.0), (-turn, turn)]
        bounds += [(0.0, 1.0)] * 3 + [(-1.0, 1.0), (0.0, 1.0)] + lane * LANES
        bounds += [(-1.0, 1.0), (-1.0, 1.0), (-0.1, 1.1)]
        low, high = np.array(bounds, dtype=np.float32).T
        self.observation_space = gym.spaces.Box(low, high, dtype=np.float32)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)

    # -- the functions of the core -----------------------------------------------------------------

    def draw_tape(self, rng: np.random.Generator, options: Mapping[str, Any]) -> Arrays:
        """The scenario z [25] and the start (s, y, v, heading) with its step t."""
        z = rng.random(DRAWS)
        if "scenario" in options:
            z = _check_scenario(options["scenario"])
        centre = CENTRES[int(LANES * z[23])]
        start = {"s": 0.0, "y": centre + 0.4 * z[24] - 0.2, "v": 5.0, "heading": 0.0, "t": 0}
        start |= _check_start(options.get("state", {}))
        t = np.int64(start.pop("t"))
        return {"z": z, "start": np.array(list(start.values()), dtype=np.float64), "t": t}

    def initial(self, tape: Arrays) -> Arrays:
        """The road as the tape has it, before the first step."""
        z, start = tape["z"], tape["start"]
        xp = array_namespace(z)
        s, y, v, heading = (start[:, i] + 0 for i in range(4))
        zero = xp.zeros_like(s)
        lane_speeds = 3.0 + 3.0 * z[:, 0:3]
        gaps = xp.reshape(25.0 + 35.0 * z[:, 3:18], (len(z), LANES, PER_LANE))
        count = xp.zeros_like(tape["t"])
        return {
            "t": tape["t"] + 0,
            **{"s": s, "y": y, "v": v, "heading": heading},
            **{name: zero + 0 for name in MOTION},
            "rc": route_completion(s, ROAD),
            "still": count,
            "event": count + 0,
            "traffic": 15.0 + xp.cumulative_sum(gaps, axis=2),
            "traffic_speeds": lane_speeds[:, :, None] + xp.zeros_like(gaps),
            "lane_speeds": lane_speeds,
            "stop": 100.0 + 100.0 * z[:, 18],
            "phase": 20.0 * z[:, 19],
            "limits": 8.0 + 2.0 * xp.floor(3.0 * z[:, 20:23]),
        }

    def transition(self, state: Arrays, action: Any, tape: Arrays) -> Arrays:
        """One step of 0.1 s: the ego, the traffic, and what came of it."""
        xp = array_namespace(state["s"])
        last, v = state["acc"], state["v"]
        pedal, wheel = action[:, 0] + 0, action[:, 1] + 0
        wanted = xp.where(pedal >= 0, PULL * pedal, BRAKE * pedal)
        acc = last + (wanted - last).clip(-ACC_CHANGE, ACC_CHANGE)
        steer = state["steer"] + (wheel - state["steer"]).clip(-STEER_CHANGE, STEER_CHANGE)
        speed = (v + SECONDS * acc).clip(0.0, FASTEST)
        acc = (speed - v) / SECONDS
        yaw_rate = speed / WHEELBASE * xp.tan(WHEEL_ANGLE * steer)
        heading = state["heading"] + SECONDS * yaw_rate
        lat_acc = speed * yaw_rate
        lon_jerk, lat_jerk = (acc - last) / SECONDS, (lat_acc - state["lat_acc"]) / SECONDS
        s = state["s"] + SECONDS * speed * xp.cos(heading)
        y = state["y"] + SECONDS * speed * xp.sin(heading)
        red = traffic.is_red(state["t"], state["phase"])
        there = state["traffic"], state["lane_speeds"]
        positions = traffic.move(*there, state["stop"], red, state["s"], state["y"])
        after = {
            "t": state["t"] + 1,
            **{"s": s, "y": y, "v": speed, "heading": heading, "acc": acc, "steer": steer},
            **{"yaw_rate": yaw_rate, "lat_acc": lat_acc, "steer_change": steer - state["steer"]},
            **{"lon_jerk": lon_jerk, "jerk": xp.sqrt(lon_jerk**2 + lat_jerk**2)},
            "yaw_acc": (yaw_rate - state["yaw_rate"]) / SECONDS,
            "rc": xp.maximum(state["rc"], route_completion(s, ROAD)),
            "still": xp.where(speed < STILL, state["still"] + 1, 0),
            "traffic": positions,
            "traffic_speeds": (positions - state["traffic"]) / SECONDS,
            **{name: state[name] + 0 for name in SCENARIO},
        }
        crossed = to_stop(state) >= 0
        crossed &= to_stop(after) < 0
        return {**after, "event": self._event(after, crossed & red)}

    def _event(self, after: Arrays, ran_red: Any) -> Any:
        """Index of the first event that holds, int [n]; 0: none."""
        xp = array_namespace(after["s"])
        holds = (
            traffic.touches(after["traffic"], after["s"], after["y"]),
            ran_red,
            off_road_share(after["y"]) > 0.95,
            after["still"] >= PATIENCE,
            after["t"] >= HORIZON,
        )
        event = xp.zeros_like(after["t"])
        for index in range(len(holds), 0, -1):
            event = xp.where(holds[index - 1], index, event)
        return event

    def observation(self, state: Arrays) -> Any:
        """What the agent sees, [n, 24]; float32, of tensors their own type."""
        xp = array_namespace(state["s"])
        v, y = state["v"], state["y"]
        lane = traffic.nearest_lane(y)
        red = traffic.is_red(state["t"], state["phase"])
        columns = [v / 20.0, limit_at(state) / 20.0, traffic.lane_offset(y) / 1.75]
        columns += [state["heading"] / 0.5]
        columns += [xp.astype(lane == index, v.dtype) for index in range(LANES)]
        columns += [to_stop(state).clip(-SEEN, SEEN) / SEEN, xp.astype(red, v.dtype)]
        near = seen_neighbours(state)
        for index in range(LANES):
            for part in (0, 2):
                distance, speed = near[part][:, index], near[part + 1][:, index]
                columns.append(distance.clip(-SEEN, SEEN) / SEEN)
                columns.append(xp.where(distance < xp.inf, (speed - v) / 10.0, 0.0))
        columns += [state["acc"] / BRAKE, state["steer"], state["s"] / ROAD]
        seen = xp.stack(columns, axis=1)
        return seen if is_torch_array(seen) else seen.astype(np.float32)

    def reward(self, state: Arrays, action: Any, next_state: Arrays) -> Any:
        """What the step added to the covered part of the road, percent, [n]."""
        return next_state["rc"] - state["rc"]

    def terminal(self, state: Arrays) -> Any:
        """An event has ended the episode."""
        return state["event"] > 0

    def truncated(self, state: Arrays) -> Any:
        """The end of the road was reached without an event."""
        return (state["rc"] >= 100.0) & (state["event"] == 0)

    def info(self, state: Arrays) -> Arrays:
        """What rewards and reports need to know of a step."""
        xp = array_namespace(state["s"])
        y, v = state["y"], state["v"]
        lane, near = traffic.nearest_lane(y), seen_neighbours(state)
        free = traffic.of_lane(near.ahead, lane)
        closing = v - traffic.of_lane(near.ahead_speed, lane)
        line = to_stop(state)
        waits = traffic.is_red(state["t"], state["phase"]) & (line >= 0)
        gap = xp.minimum(free, xp.where(waits, line, xp.inf))
        factors = xp.asarray(FACTORS, dtype=v.dtype, device=v.device)
        return {
            **{"rc": state["rc"] + 0, "v": v + 0, "limit": limit_at(state)},
            **{"offset": traffic.lane_offset(y), "heading": state["heading"] + 0},
            "steer_change": state["steer_change"] + 0,
            "in_lane": xp.abs(y) <= EDGE,
            "off_road_share": off_road_share(y),
            "event": EVENTS[np.asarray(to_device(state["event"], "cpu"))],
            "ttc_violation": (closing > 0) & (free < closing),
            "lon_acc": state["acc"] + 0,
            **{name: state[name] + 0 for name in ("lat_acc", "lon_jerk", "jerk")},
            **{name: state[name] + 0 for name in ("yaw_rate", "yaw_acc")},
            "v_des": 6.0 * ((gap - 2.0) / 10.0).clip(0.0, 1.0),
            "driving_score": state["rc"] * factors[state["event"]],
        }

    # -- picture -----------------------------------------------------------------------------------

    def render_frame(self, state: Arrays, index: int) -> NDArray[np.uint8]:
        """The road around the ego from above, the whole route, and the numbers of the step."""
        from .render_lanes import draw_road

        row = {name: value[index : index + 1] for name, value in state.items()}
        return draw_road(row, self.info(row))


class LaneDrivingEnv(ArrayEnv):
    """Face 1 of `LaneDriving`: `gymnasium.make("LaneDriving-v0")`."""

    core_class: ClassVar[type[LaneDriving]] = LaneDriving


class LaneDrivingVectorEnv(ArrayVectorEnv):
    """Face 2 of `LaneDriving`: `gymnasium.make_vec("LaneDriving-v0", num_envs=1024)`."""

    core_class: ClassVar[type[LaneDriving]] = LaneDriving


def to_stop(state: Arrays) -> Any:
    """From the front of the ego to the stop line, m [n]; negative beyond it."""
    return state["stop"] - NOSE - state["s"]


def limit_at(state: Arrays) -> Any:
    """Speed limit where the ego is, m/s [n]."""
    xp = array_namespace(state["s"])
    third = xp.floor(state["s"] / (ROAD / 3)).clip(0.0, 2.0)
    return traffic.of_lane(state["limits"], third)


def off_road_share(y: Any) -> Any:
    """Part of the ego's width that is off the road, in [0, 1]."""
    xp = array_namespace(y)
    return ((xp.abs(y) + traffic.WIDTH / 2 - EDGE) / traffic.WIDTH).clip(0.0, 1.0)


def seen_neighbours(state: Arrays) -> Neighbours:
    """The next vehicles of every lane."""
    return traffic.neighbours(state["traffic"], state["traffic_speeds"], state["s"])


def _check_scenario(given: Any) -> NDArray[np.float64]:
    z = np.asarray(given, dtype=np.float64)
    if z.shape != (DRAWS,) or not ((z >= 0) & (z < 1)).all():
        raise ValueError(
            f"options['scenario']={z.tolist()} of shape {z.shape} must be {DRAWS} numbers in [0, 1)"
        )
    return z


def _check_start(given: Any) -> dict[str, float]:
    if not isinstance(given, Mapping) or not set(given) <= set(START):
        raise ValueError(f"options['state']={given!r} must map some of {tuple(START)} to numbers")
    checked: dict[str, float] = {}
    for name, value in given.items():
        low, high = START[name]
        where = f"options['state'][{name!r}]"
        if name == "t":
            checked[name] = check_integer(where, value, int(low), int(high))
        else:
            checked[name] = check_number(where, value, low, high)
    return checked
