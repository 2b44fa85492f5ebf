"""`PointMaze-v0`: a point that moves in the plane, between walls, to one of its goals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from array_api_compat import array_namespace, is_torch_array
from numpy.typing import ArrayLike, NDArray

from ..base import ArrayCore, Arrays
from ..checks import check_choice, check_flag, check_integer, check_number
from ..faces import ArrayEnv, ArrayVectorEnv
from .maze_layouts import COMMON, LAYOUTS, blocked, check_place, check_start, check_walls, inside

STEP = 0.1  # seconds: how far a velocity of 1 leads
TRIES = 64  # places that are drawn for a start in free space
TRAIL = 25  # last places that a picture shows
RIDGE = 0.2  # half-width of the ridge


class PointMaze(ArrayCore):
    """A point in a square with walls, steered by its velocity or by a force.

    ## Description
    Six layouts. "open" has no walls. "two_goals" and "wall_goals" have two best ways, and an
    average of the two that is bad. "two_routes" has a block that can be passed on either side.
    "umaze" is a U-turn with inertia, "rooms" four rooms with a goal that changes. Their numbers
    are in `maze_layouts.py`. This is not the MuJoCo task of the same name.

    ## Observation
    `Box`, float32: the position (x, y) in [-half, half]^2; then, with force dynamics and without
    `mask_velocity`, the velocity (unbounded where there is noise, otherwise in [-2, 2]^2); then,
    with `goal_mode="sampled"`, the goal (x, y).

    ## Action
    `Box(-1, 1, (2,))`: velocity, or force.

    ## Dynamics
    Position p in [-half, half]^2, walls are open rectangles, w_t standard normal [2].

        dynamics "velocity"   v' = a + noise w_t
        dynamics "force"      v' = 0.9 v + 0.2 (a + noise w_t)

    First x' = x + 0.1 v'_x. If (x', y) is outside the square or strictly inside a wall, x is kept
    and v'_x = 0. Then y in the same way, with the new x. `info["hit"]` says that one was kept.

    The tape is the start, `start + spread * rng.uniform(-1, 1, 2)` (with `start="free"` the first
    of `rng.uniform(-half, half, (64, 2))` that is not inside a wall), then u = `rng.random()`,
    which chooses goal floor(u G) of G, then w = `rng.standard_normal((horizon, 2))`.

    ## Reward
    Of the position after the step; d is the distance to the nearest goal, or to the one that was
    sampled.

        "sparse"     1 if d <= radius, otherwise 0
        "distance"   -d
        "bump"       exp(-sharp d^2) - ridge exp(-(x / 0.2)^2)

    With flat > 0 the "bump" takes d at a point whose |x| is raised to at least `flat`: in
    |x| < flat it has no gradient in x. `info["success"]` is d <= radius.

    ## Episode end
    "sparse" terminates at d <= radius. Truncated after `horizon` steps.

    ## Arguments
    - `layout`: "open", "two_goals", "wall_goals", "two_routes", "umaze" or "rooms"; the following
      override it.
    - `half`: of the side of the square, > 0. `walls`: rectangles (x0, x1, y0, y1).
    - `start`: (x, y) or "free"; `spread`: around it, >= 0. `goals`: points, outside walls;
      `goal_mode`: "any" or "sampled". `radius`: >= 0.
    - `reward`: "sparse", "distance" or "bump"; `sharp`, `flat` >= 0 and `ridge`: of the bump.
    - `dynamics`: "velocity" or "force"; `noise`: >= 0. `horizon`: integer >= 1.
    - `mask_velocity`: leave the velocity out of the observation.
    - `reset(options={"state": (x, y)})` starts there, at rest; the tape is drawn all the same.

    ## Data files
    None. `maze_controllers.py` has controllers, and builds data sets with them.

    ## Sources
    This library; the U-turn and the four rooms after the mazes of J. Fu et al., D4RL: Datasets for
    Deep Data-Driven Reinforcement Learning, arXiv 2004.07219.

    ## Version
    v0.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 10}
    arrays = ("walls", "goals")

    def __init__(
        self,
        layout: str = "umaze",
        *,
        half: float | None = None,
        walls: ArrayLike | None = None,
        start: str | ArrayLike | None = None,
        spread: float | None = None,
        goals: ArrayLike | None = None,
        goal_mode: str | None = None,
        radius: float | None = None,
        reward: str | None = None,
        sharp: float | None = None,
        flat: float | None = None,
        ridge: float | None = None,
        dynamics: str | None = None,
        noise: float = 0.0,
        horizon: int | None = None,
        mask_velocity: bool = False,
    ) -> None:
        chosen = {**COMMON, **LAYOUTS[check_choice("layout", layout, LAYOUTS)]}
        given = {
            **{"half": half, "walls": walls, "start": start, "spread": spread, "goals": goals},
            **{"goal_mode": goal_mode, "radius": radius, "reward": reward, "sharp": sharp},
            **{"flat": flat, "ridge": ridge, "dynamics": dynamics, "horizon": horizon},
        }
        chosen |= {name: value for name, value in given.items() if value is not None}
        self.layout = layout
        self.half = check_number("half", chosen["half"], 1e-6)
        self.walls = check_walls(chosen["walls"])
        self.spread, self.radius, self.sharp, self.flat, self.noise = (
            check_number(name, value, 0.0)
            for name, value in (
                *((name, chosen[name]) for name in ("spread", "radius", "sharp", "flat")),
                ("noise", noise),
            )
        )
        self.start = check_start(chosen["start"], self.spread, self.half, self.walls)
        self.goals = self._check_goals(chosen["goals"])
        self.ridge = check_number("ridge", chosen["ridge"])
        self.sampled = "sampled" == check_choice(
            "goal_mode", chosen["goal_mode"], ("any", "sampled")
        )
        self.kind = check_choice("reward", chosen["reward"], ("sparse", "distance", "bump"))
        self.inertia = "force" == check_choice(
            "dynamics", chosen["dynamics"], ("velocity", "force")
        )
        self.horizon: int = check_integer("horizon", chosen["horizon"], 1)
        self.shows_velocity = self.inertia and not check_flag("mask_velocity", mask_velocity)
        fastest = np.inf if self.noise > 0 else 2.0
        pairs = [self.half] + [fastest] * self.shows_velocity + [self.half] * self.sampled
        high = np.repeat(np.array(pairs, dtype=np.float32), 2)
        self.observation_space = gym.spaces.Box(-high, high, dtype=np.float32)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def _check_goals(self, goals: ArrayLike) -> NDArray[np.float64]:
        found = np.asarray(goals, dtype=np.float64)
        if found.ndim != 2 or found.shape[1] != 2 or not len(found):
            raise ValueError(f"goals have shape {found.shape}, they must be points (x, y)")
        places = [
            check_place(f"goals[{i}]", goal, self.half, self.walls) for i, goal in enumerate(found)
        ]
        return np.stack(places)

    # -- the functions of the core -----------------------------------------------------------------

    def draw_tape(self, rng: np.random.Generator, options: Mapping[str, Any]) -> Arrays:
        """Start, goal (a uniform number) and the noise of every step."""
        if self.start is None:
            places = rng.uniform(-self.half, self.half, (TRIES, 2))
            free = np.flatnonzero(~blocked(places, self.walls))
        else:
            places = (self.start + self.spread * rng.uniform(-1.0, 1.0, 2))[None]
            free = np.zeros(1, dtype=np.int64)
        tape = {"goal": np.array(rng.random()), "noise": rng.standard_normal((self.horizon, 2))}
        if "state" in options:
            place = check_place("options['state']", options["state"], self.half, self.walls)
            return {"start": place, **tape}
        if not len(free):
            raise ValueError(
                f"none of {TRIES} places in [-{self.half:g}, {self.half:g}]^2 is free; "
                "start='free' needs walls that leave more room"
            )
        return {"start": places[free[0]].copy(), **tape}

    def initial(self, tape: Arrays) -> Arrays:
        """At rest at the start."""
        place = tape["start"] + 0
        xp = array_namespace(place)
        state = {
            "t": xp.zeros_like(place[:, 0], dtype=xp.int64),
            "place": place,
            "velocity": xp.zeros_like(place),
            "hit": xp.zeros_like(place[:, 0], dtype=xp.bool),
            "trail": xp.stack([place] * TRAIL, axis=1),
        }
        if self.sampled:
            state["goal"] = xp.astype(xp.floor(tape["goal"] * len(self.goals)), xp.int64)
        return state

    def transition(self, state: Arrays, action: Any, tape: Arrays) -> Arrays:
        """One step of 0.1 s: along x, then along y."""
        t, place = state["t"], state["place"]
        xp = array_namespace(place)
        velocity = action + self.noise * tape["noise"][xp.arange(len(t)), t]
        if self.inertia:
            velocity = 0.9 * state["velocity"] + 0.2 * velocity
        x, y = place[:, 0], place[:, 1]
        x, stopped_x = self._advance(x, velocity[:, 0], lambda x: inside(x, y, self.walls))
        y, stopped_y = self._advance(y, velocity[:, 1], lambda y: inside(x, y, self.walls))
        place = xp.stack([x, y], axis=1)
        stopped = xp.stack([stopped_x, stopped_y], axis=1)
        after = {
            "t": t + 1,
            "place": place,
            "velocity": xp.where(stopped, 0.0, velocity),
            "hit": stopped_x | stopped_y,
            "trail": xp.concat([state["trail"][:, 1:], place[:, None]], axis=1),
        }
        if self.sampled:
            after["goal"] = state["goal"] + 0
        return after

    def _advance(self, value: Any, speed: Any, in_wall: Any) -> tuple[Any, Any]:
        """A coordinate [n] after a step, and whether it was kept."""
        xp = array_namespace(value)
        wish = value + STEP * speed
        kept = (xp.abs(wish) > self.half) | in_wall(wish)
        return xp.where(kept, value, wish), kept

    def observation(self, state: Arrays) -> Any:
        """Position, velocity and goal, as far as they are shown; of tensors their own type."""
        xp = array_namespace(state["place"])
        parts = [state["place"]]
        if self.shows_velocity:
            parts.append(state["velocity"])
        if self.sampled:
            parts.append(self.goals[state["goal"]])
        seen = xp.concat(parts, axis=1)
        return seen if is_torch_array(seen) else seen.astype(np.float32)

    def distance(self, state: Arrays, flat: float = 0.0) -> Any:
        """To the nearest goal, or the one sampled, [n]; |x| is first raised to at least `flat`."""
        x, y = state["place"][:, 0], state["place"][:, 1]
        xp = array_namespace(x)
        if flat > 0:
            raised = xp.where(xp.abs(x) < flat, flat + xp.zeros_like(x), xp.abs(x))
            x = xp.where(x < 0, -raised, raised)
        if self.sampled:
            goal = self.goals[state["goal"]]
            squares = (x - goal[:, 0]) ** 2 + (y - goal[:, 1]) ** 2
        else:
            across, up = x[:, None] - self.goals[:, 0], y[:, None] - self.goals[:, 1]
            squares = xp.min(across**2 + up**2, axis=1)
        # The root has no gradient at 0, and autograd would make NaN of it.
        apart = squares > 0
        root = xp.sqrt(xp.where(apart, squares, xp.ones_like(squares)))
        return xp.where(apart, root, xp.zeros_like(root))

    def reward(self, state: Arrays, action: Any, next_state: Arrays) -> Any:
        """Of the next position, [n]."""
        x = next_state["place"][:, 0]
        xp = array_namespace(x)
        if self.kind == "distance":
            return -self.distance(next_state)
        if self.kind == "sparse":
            return xp.astype(self._arrived(next_state), x.dtype)
        near = xp.exp(-self.sharp * self.distance(next_state, self.flat) ** 2)
        return near - self.ridge * xp.exp(-((x / RIDGE) ** 2))

    def _arrived(self, state: Arrays) -> Any:
        return self.distance(state) <= self.radius

    def terminal(self, state: Arrays) -> Any:
        """With the sparse reward at the goal, otherwise never."""
        return self._arrived(state) if self.kind == "sparse" else state["t"] < 0

    def truncated(self, state: Arrays) -> Any:
        """`horizon` steps were taken."""
        return state["t"] >= self.horizon

    def info(self, state: Arrays) -> Arrays:
        """`success`: within `radius` of the goal; `hit`: a wall or the border was in the way."""
        return {"success": self._arrived(state), "hit": state["hit"] | False}

    # -- picture -----------------------------------------------------------------------------------

    def render_frame(self, state: Arrays, index: int) -> NDArray[np.uint8]:
        """The map from above, with the last places of the point and its velocity."""
        from .render_maze import draw_maze

        row = {name: value[index : index + 1] for name, value in state.items()}
        steps = int(row["t"][0])
        return draw_maze(
            self,
            row,
            row["trail"][0][-min(steps + 1, TRAIL) :],
            title=f"step {steps} of {self.horizon}",
            subtitle=f"distance {float(self.distance(row)[0]):.2f}",
        )


class PointMazeEnv(ArrayEnv):
    """Face 1 of `PointMaze`: `gymnasium.make("PointMaze-v0")`."""

    core_class: ClassVar[type[PointMaze]] = PointMaze


class PointMazeVectorEnv(ArrayVectorEnv):
    """Face 2 of `PointMaze`: `gymnasium.make_vec("PointMaze-v0", num_envs=1024)`."""

    core_class: ClassVar[type[PointMaze]] = PointMaze
