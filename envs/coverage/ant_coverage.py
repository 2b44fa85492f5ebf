"""`AntCoverage-v0`: MuJoCo's Ant explores a square and is paid for the ground that it covers."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from ...extras import require
from ..base import check_in_space
from ..faces import check_render_mode
from .base import OBSERVATIONS, REWARDS
from .grid import Grid
from .set_functions import Coverage


class AntCoverage(gym.Env):
    """A four-legged robot that is paid for ground covered instead of for speed.

    ## Description
    The body and physics are those of Gymnasium's `Ant-v5`. The ground is a square cut into cells.
    Wherever the torso is, it covers a square patch of cells; the return is the area covered in the
    episode, so that a robot must walk on, and not just to and fro. An ordinary `gymnasium.Env`:
    `gymnasium.make_vec` runs several one by one or in processes.

    ## Observation
    `Box(-inf, inf, (30,))`, float32: x and y of the torso in metres, the 27 numbers of `Ant-v5`
    without contact forces (height, orientation, joint angles, velocities), t / H. With
    `observation="history"` then one number per cell, 1 where the torso has been.

    ## Action
    `Box(-1, 1, (8,))`, float32: torques of the eight joints, as in `Ant-v5`.

    ## Dynamics
    MuJoCo, 0.05 s per step. Cell of the torso: row floor((y + extent) / side), column floor((x +
    extent) / side), side = 2 extent / cells. S is the set of cells in which the torso was at the
    end of a step, P(s) the `patch` x `patch` cells from s on towards higher x and y, as far as they
    lie inside.

        F(S) = side^2 |union of P(s), s in S|   in square metres

    The only randomness is that of the start, drawn by `Ant-v5` from the seed of the reset.

    ## Reward
    The marginal gain F(S + s') - F(S), with `reward="additive"` F({s'}); 0 outside the square.
    `info["set_value"]` is F(S), `info["additive_reward"]` is F({s'}); the other entries of `info`
    are those of `Ant-v5`.

    ## Episode end
    Terminated after H steps, when the torso leaves the square, and, as in `Ant-v5`, when the robot
    has fallen (height outside [0.2, 1]).

    ## Arguments
    - `horizon`: H >= 1. `extent`: half the side of the square in metres, > 0. `cells`: along a side
      of the square, integer >= 1. `patch`: cells along a side of what is covered at once, integer
      >= 1.
    - `observation`: "markov" or "history"; `reward`: "gain" or "additive".
    - `fall`: whether an episode ends when the robot has fallen.

    ## Data files
    None. MuJoCo and the robot's model come with the extra: `pip install "palaestra[mujoco]"`.

    ## Sources
    M. Prajapat, M. Mutný, M. N. Zeilinger, A. Krause, Submodular Reinforcement Learning, ICLR 2024,
    arXiv 2307.13372 (task; their reward is a tenth per cell, here it is the area). J. Schulman, P.
    Moritz, S. Levine, M. Jordan, P. Abbeel, arXiv 1506.02438 (the robot).

    ## Version
    v0.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}

    def __init__(
        self,
        horizon: int = 400,
        *,
        extent: float = 20.0,
        cells: int = 100,
        patch: int = 5,
        observation: str = "markov",
        reward: str = "gain",
        fall: bool = True,
        render_mode: str | None = None,
    ) -> None:
        for name, count in (("horizon", horizon), ("cells", cells), ("patch", patch)):
            if isinstance(count, bool) or not isinstance(count, int | np.integer) or count < 1:
                raise ValueError(f"{name}={count!r} must be an integer of at least 1")
        if not 0 < extent < np.inf:
            raise ValueError(f"extent={extent} must be a finite number above 0")
        if observation not in OBSERVATIONS:
            raise ValueError(f"observation={observation!r}, allowed are {OBSERVATIONS}")
        if reward not in REWARDS:
            raise ValueError(f"reward={reward!r}, allowed are {REWARDS}")
        require("mujoco", extra="mujoco")
        self.render_mode = check_render_mode(render_mode, self.metadata)
        self.horizon, self.extent, self.cells = int(horizon), float(extent), int(cells)
        self.side = 2 * self.extent / self.cells
        self.observe_history, self.additive = observation == "history", reward == "additive"
        grid = Grid(np.zeros((self.cells, self.cells), dtype=bool))
        shape = [(down, right) for down in range(patch) for right in range(patch)]
        area = np.full(grid.cells, self.side**2)
        self.set_function = Coverage(grid.footprints(shape), area)
        self.ant = gym.make(
            "Ant-v5",
            exclude_current_positions_from_observation=False,
            include_cfrc_ext_in_observation=False,
            terminate_when_unhealthy=fall,
            max_episode_steps=-1,  # the horizon is counted here
        )
        self.action_space = self.ant.action_space
        size = 30 + grid.cells * self.observe_history
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (size,), np.float32)
        self.steps, self.ended = 0, True
        self.visited = np.zeros((1, grid.cells), dtype=bool)
        self.value, self.alone = 0.0, 0.0
        self.way: list[tuple[float, float]] = []

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """A new episode: the robot near the middle, its place already covered."""
        super().reset(seed=seed)
        body, info = self.ant.reset(seed=seed)
        self.steps, self.ended, self.way = 0, False, []
        self.visited = np.zeros_like(self.visited)
        self.value = self._visit(body)
        return self._observe(body), self._info(info)

    def step(self, action: Any) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """One step of 0.05 s.

        Raises:
            ValueError: the action is outside the action space; the episode has ended.
        """
        if self.ended:
            raise ValueError(
                "the episode has ended, or none has begun: reset the environment first"
            )
        torques = check_in_space(self.action_space, np.asarray(action)[None])[0]
        body, _, fallen, _, info = self.ant.step(torques)
        self.steps += 1
        gain = self._visit(body)
        self.value += gain
        outside = self._cell(body) is None
        self.ended = bool(fallen) or outside or self.steps >= self.horizon
        reward = self.alone if self.additive else gain
        return self._observe(body), reward, self.ended, False, self._info(info)

    def render(self) -> Any:
        """The ground from above: what is covered and the way, uint8 [height, width, 3]."""
        if self.render_mode is None:
            return None
        from .render import draw_map

        shape = (self.cells, self.cells)
        covered = self.set_function.covered(self.visited)[0].reshape(shape)
        # A map has its rows from top to bottom, the ground has y from bottom to top.
        way = (np.array(self.way) * (1, -1) + self.extent) / self.side
        return draw_map(
            np.full(shape, self.side**2),
            seen=covered[::-1],
            path=way,
            title=f"step {self.steps} of {self.horizon}",
            subtitle=f"F = {self.value:.4g} m²",
            legend="area of a cell",
        )

    def close(self) -> None:
        """Give MuJoCo's memory back."""
        self.ant.close()

    def _cell(self, body: NDArray[np.float64]) -> int | None:
        """Cell of the torso, None outside the square."""
        col, row = np.floor((body[:2] + self.extent) / self.side).astype(int).tolist()
        inside = 0 <= row < self.cells and 0 <= col < self.cells
        return row * self.cells + col if inside else None

    def _visit(self, body: NDArray[np.float64]) -> float:
        """Mark where the torso is; returns the marginal gain."""
        self.way.append((float(body[0]), float(body[1])))
        cell = self._cell(body)
        if cell is None:
            self.alone = 0.0
            return 0.0
        element = np.array([cell])
        gain = float(self.set_function.gain(self.visited, element)[0])
        self.alone = float(self.set_function.gain(np.zeros_like(self.visited), element)[0])
        self.visited[0, cell] = True
        return gain

    def _observe(self, body: NDArray[np.float64]) -> NDArray[np.float32]:
        parts: list[Any] = [body, [self.steps / self.horizon]]
        if self.observe_history:
            parts.append(self.visited[0])
        return np.concatenate(parts).astype(np.float32)

    def _info(self, info: dict[str, Any]) -> dict[str, Any]:
        return {**info, "set_value": self.value, "additive_reward": self.alone}
