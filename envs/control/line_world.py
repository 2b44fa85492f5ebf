"""`LineWorld-v0`: walk along a line to its end, where controls may be reversed on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from array_api_compat import array_namespace, is_torch_array
from numpy.typing import NDArray

from ..base import ArrayCore, Arrays
from ..checks import check_integer
from ..faces import ArrayEnv, ArrayVectorEnv

END = 10.0
TRAIL = 21  # last places that a picture shows


class LineWorld(ArrayCore):
    """A point on a line of length 10 that is paid for every bit of the way to the right.

    ## Description
    The smallest task in which the support of recorded data matters: what is best at a place may
    hardly occur in the data of that place. With reversed controls on a part of the line it becomes
    a real world and a simulator that is wrong where the controls are reversed there only.

    ## Observation
    `Box(0, 10, (1,))`, float32: the place s.

    ## Action
    `Box(-1, 1, (1,))`: a.

    ## Dynamics
    d(s) = -1 where lo <= s < hi for `reversed=(lo, hi)`, otherwise +1.

        s' = clip(s + d(s) a, 0, 10)

    The tape is s_0 = `rng.uniform(0, 10)`; the dynamics are deterministic. The best action is d(s):
    it reaches 10 within 10 steps.

    ## Reward
    s' - s.

    ## Episode end
    Truncated after `max_steps`; never terminated.

    ## Arguments
    - `reversed`: (lo, hi) with lo < hi, hi may be inf; None: nowhere.
    - `max_steps`: integer >= 1.
    - `reset(options={"state": s})` starts there, s in [0, 10]; the tape is drawn all the same.

    ## Data files
    None. `line_world_data.py` builds recorded data.

    ## Sources
    This library.

    ## Version
    v0.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 4}

    def __init__(self, reversed: Sequence[float] | None = None, *, max_steps: int = 20) -> None:
        self.reversed = None if reversed is None else _check_interval(reversed)
        self.horizon: int = check_integer("max_steps", max_steps, 1)
        self.observation_space = gym.spaces.Box(0.0, END, (1,), np.float32)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def direction(self, s: Any) -> Any:
        """d(s) of places of any shape: where the action +1 leads, and the best action."""
        xp = array_namespace(s)
        ahead = xp.ones_like(s)
        if self.reversed is None:
            return ahead
        low, high = self.reversed
        return xp.where((s >= low) & (s < high), -ahead, ahead)

    # -- the functions of the core -----------------------------------------------------------------

    def draw_tape(self, rng: np.random.Generator, options: Mapping[str, Any]) -> Arrays:
        """The start."""
        start = np.array(rng.uniform(0.0, END))
        return {"start": _check_start(options["state"]) if "state" in options else start}

    def initial(self, tape: Arrays) -> Arrays:
        """The start, before any action."""
        s = tape["start"] + 0
        xp = array_namespace(s)
        return {
            "t": xp.zeros_like(s, dtype=xp.int64),
            "s": s,
            "action": xp.zeros_like(s),
            "trail": xp.stack([s] * TRAIL, axis=1),
        }

    def transition(self, state: Arrays, action: Any, tape: Arrays) -> Arrays:
        """One step along the line."""
        s, a = state["s"], action[:, 0] + 0
        xp = array_namespace(s)
        moved = xp.clip(s + self.direction(s) * a, 0.0, END)
        trail = xp.concat([state["trail"][:, 1:], moved[:, None]], axis=1)
        return {"t": state["t"] + 1, "s": moved, "action": a, "trail": trail}

    def observation(self, state: Arrays) -> Any:
        """The place, [n, 1]; float32, of tensors their own type."""
        seen = state["s"][:, None] + 0
        return seen if is_torch_array(seen) else seen.astype(np.float32)

    def reward(self, state: Arrays, action: Any, next_state: Arrays) -> Any:
        """The way to the right, [n]."""
        return next_state["s"] - state["s"]

    def terminal(self, state: Arrays) -> Any:
        """Never."""
        return state["t"] < 0

    def truncated(self, state: Arrays) -> Any:
        """`max_steps` were taken."""
        return state["t"] >= self.horizon

    # -- picture -----------------------------------------------------------------------------------

    def render_frame(self, state: Arrays, index: int) -> NDArray[np.uint8]:
        """The line, where its controls are reversed, the last action, and the last places."""
        from .render_line import draw_line

        step = int(state["t"][index])
        trail = state["trail"][index][-min(step + 1, TRAIL) :]
        action = float(state["action"][index])
        return draw_line(trail, self.reversed, action, step, self.horizon)


class LineWorldEnv(ArrayEnv):
    """Face 1 of `LineWorld`: `gymnasium.make("LineWorld-v0")`."""

    core_class: ClassVar[type[LineWorld]] = LineWorld


class LineWorldVectorEnv(ArrayVectorEnv):
    """Face 2 of `LineWorld`: `gymnasium.make_vec("LineWorld-v0", num_envs=1024)`."""

    core_class: ClassVar[type[LineWorld]] = LineWorld


def _check_interval(given: Any) -> tuple[float, float]:
    found = np.asarray(given, dtype=np.float64)
    if found.shape != (2,) or not found[0] < found[1]:  # also true for NaN
        raise ValueError(f"reversed={given!r} must be (lo, hi) with lo < hi, or None")
    return float(found[0]), float(found[1])


def _check_start(given: Any) -> NDArray[np.float64]:
    start = np.asarray(given, dtype=np.float64)
    if start.shape not in ((), (1,)) or not (start >= 0).all() or not (start <= END).all():
        raise ValueError(f"options['state']={start.tolist()} must be a number in [0, {END:g}]")
    return start.reshape(())
