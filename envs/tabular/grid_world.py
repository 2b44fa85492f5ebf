"""`GridWorld-v0`: grids with walls, slipping, wind, a key and a door."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from array_api_compat import array_namespace, to_device
from numpy.typing import ArrayLike, NDArray

from ..base import Arrays
from ..checks import check_integer, check_share
from .finite_mdp import OBSERVATIONS, FiniteMDP, FiniteMDPEnv, FiniteMDPVectorEnv
from .grid_layouts import Cell, make_map, settle
from .grid_tables import (
    coordinates,
    distances,
    moves,
    planes,
    possible_states,
    starts,
    transitions,
)

# What `info["event"]` says, by the number that the state carries.
EVENTS = np.array(["", "bump", "goal", "fountain", "door", "key"], dtype=object)
BUMP, GOAL, FOUNTAIN, DOOR, KEY = range(1, 6)


class GridWorld(FiniteMDP):
    """A walk on a grid with walls, slippery ground, wind, goals, a key and a door.

    ## Description
    Cell (r, c), rows downwards, has the number r * cols + c. The state is the cell, plus the number
    of cells when the key is in hand. Plain grids, rooms, key and door, a windy corridor and a walk
    against the wind are layouts of this one world.

    | layout | what it fixes |
    |---|---|
    | "empty" | nothing; without further arguments 5 x 5 cells, start (0, 0), goal in the last cell |
    | "two_rooms", `size` n | n x n, a wall in column n // 2 except in row n // 2, start (0, 0), goal (n-1, n-1) |
    | "key_door", `size` n | the same with a door in the gap and the key at (n-1, 0); shortest way 18, 30, 32 steps for n = 7, 11, 12 |
    | "corridor", `half_width` w, `length` T, `gust` g | 2 w + 1 rows, one column, start and path in row w, horizon T; in every other row the wind blows one row outward with probability g; -1 per step that ends off the path |
    | "windy_walk", `alpha` | 5 x 7, walls in rows 1 and 3 at columns 1 .. 5, start (0, 0), goal (0, 6) worth -1, -1 per step; in columns 1 .. 5 of rows 0, 2, 4 the wind blows west with probability alpha, alpha^3, alpha^6; `max_steps` 200 |

    Goals of layouts end the task; they are worth 1 where nothing else is said. In the corridor east
    and west leave the state as it is: time tells how far one has walked.

    ## Observation
    By `observation`:

    - "index": the state, `Discrete(S)`; S = rows * cols, twice that with a key.
    - "onehot": its unit vector, `Box(0, 1, (S,))`, float32.
    - "coords": (r / (rows - 1), c / (cols - 1), key in hand), `Box(0, 1, (3,))`, float32.
    - "planes": maps of the agent, the walls, the values of the goals, the key lying there and the
      closed door, `Box(low, high, (5, pad, pad))`, float32, zero outside the grid; low and high are
      0 and 1, or the lowest and highest value of a goal where that is beyond.

    ## Action
    `Discrete(4)`: 0 north (r - 1), 1 south, 2 east (c + 1), 3 west.

    ## Dynamics
    Those of `FiniteMDP`, with its tape; slip and wind are part of the table, so one uniform decides
    a step.

        executed b   the action a with probability 1 - slip, else one of the four, uniformly
        wind         with probability x replaced by the direction d, for each (x, d) of gust(cell)
        move         off the grid, into a wall, or into the door without the key: stay
        key          taken when its cell is entered; with it the door is passable

    `info["event"]` says what the step did: "key" (taken), "door" or "fountain" (entered), "bump"
    (the cell is the same as before), "goal" (entered), or "". `info["remaining"]`, in the layout
    "key_door" only, is the length D of the shortest way left to the goal, over key and door.
    Potentials from D should be of the form c (D_0 - D) with a maximum below the goal's value: a
    potential -c D pays for standing still when gamma < 1.

    ## Reward
    The value of the cell entered, also when the move fails and it is entered again: its goal's,
    else `cell_rewards[cell]`, else `step_reward`.

    ## Episode end
    Terminated in a goal whose flag is True and after `horizon` steps; truncated after `max_steps`
    steps. With neither the task goes on until such a goal is reached.

    ## Arguments
    - `rows`, `cols`: integers >= 1, 5 by default.
    - `walls`: cells.
    - `start`: a cell, (0, 0) by default, or "free": uniform over the cells where there is no wall,
      goal, key or door. Episodes start without the key.
    - `goals`: {cell: (value, whether the task ends there)}; {}: none. By default the last cell,
      worth 1, ends the task; with `cell_rewards` there is none by default.
    - `step_reward`: 0 by default. `cell_rewards`: [rows, cols], takes its place.
    - `slip`: in [0, 1].
    - `gust`: {cell: [(probability, direction), ...]} with sums of at most 1; in the layout
      "corridor" one probability.
    - `key`, `door`, `fountain`: cells. A door needs a key.
    - `horizon`, `max_steps`: integers >= 1 or None.
    - `layout` with `size` (at least 3, default 7), `half_width` (at least 1, default 10), `length`
      (at least 1, default 20), `alpha` (in [0, 1], default 0.5). What a layout fixes must not be
      given as well, except `max_steps`.
    - `observation`; `pad`: side of the planes, at least and by default max(rows, cols).
    - `gamma`: in [0, 1], carried for planners.
    - `reset(options={"state": s})` starts from s; the tape is drawn all the same.

    Beside the tables, `grid` is the map and `remaining` D of every state (-1: no way to a goal that
    ends the task). Tables are dense: memory grows with the square of the number of states.

    ## Data files
    None.

    ## Sources
    R. S. Sutton, A. G. Barto, Reinforcement Learning (2nd edition, 2018), chapters 3 and 6 (grids
    with wind). M. Chevalier-Boisvert et al., Minigrid and Miniworld, arXiv 2306.13831 (key and
    door). A. Zouitine et al., Solving Robust MDPs as a Sequence of Static RL Problems, arXiv
    2410.06212 (the walk against the wind).

    ## Version
    v0.
    """  # noqa: E501  (rows of a table)

    arrays = (*FiniteMDP.arrays, "remaining", "_entering")

    def __init__(
        self,
        rows: int | None = None,
        cols: int | None = None,
        *,
        walls: Sequence[Cell] | None = None,
        start: Cell | str | None = None,
        goals: Mapping[Cell, tuple[float, bool]] | None = None,
        step_reward: float | None = None,
        cell_rewards: ArrayLike | None = None,
        slip: float = 0.0,
        gust: Mapping[Cell, Sequence[tuple[float, int]]] | float | None = None,
        key: Cell | None = None,
        door: Cell | None = None,
        fountain: Cell | None = None,
        horizon: int | None = None,
        max_steps: int | None = None,
        layout: str = "empty",
        size: int | None = None,
        half_width: int | None = None,
        length: int | None = None,
        alpha: float | None = None,
        observation: str = "index",
        pad: int | None = None,
        gamma: float = 0.99,
    ) -> None:
        settings = settle(
            layout,
            {
                **{"rows": rows, "cols": cols, "walls": walls, "start": start, "goals": goals},
                **{"step_reward": step_reward, "cell_rewards": cell_rewards, "gust": gust},
                **{"key": key, "door": door, "fountain": fountain},
                **{"horizon": horizon, "max_steps": max_steps},
            },
            {"size": size, "half_width": half_width, "length": length, "alpha": alpha},
        )
        self.layout = layout
        self.grid = make_map(settings)
        self.slip = check_share("slip", slip)
        self._pad = self._check_pad(pad, observation)
        self._possible = possible_states(self.grid)
        self._moves = moves(self.grid)
        states, cells = self._moves.shape[0], self.grid.walls.size
        in_layers = np.arange(0, states, cells)[:, None]
        ends = [self.grid.number(cell) for cell, (_, ends) in self.grid.goals.items() if ends]
        terminal = (in_layers + np.array(ends, dtype=np.int64)).reshape(-1)
        self.remaining = distances(self._moves, terminal)
        self._entering = self._events_of_cells(states)
        worth = np.tile(self.grid.rewards.reshape(-1), len(in_layers))
        super().__init__(
            transitions(self.grid, self.slip, self._moves),
            # Nothing is paid where nobody can be, so that values there are finite.
            low=np.where(self._possible[:, None, None], worth, 0.0),
            d0=starts(self.grid, self._possible),
            horizon=settings["horizon"],
            max_steps=settings["max_steps"],
            terminal=terminal.tolist(),
            observation=observation,
            gamma=gamma,
        )

    def _check_pad(self, pad: int | None, observation: str) -> int:
        longest = max(self.grid.walls.shape)
        if pad is None:
            return longest
        if observation != "planes":
            raise ValueError(f"pad={pad} belongs to observation='planes', not to {observation!r}")
        return check_integer("pad", pad, longest)

    def _events_of_cells(self, states: int) -> NDArray[np.int64]:
        """Number of the event of entering each state, [S]."""
        events = np.zeros(self.grid.walls.shape, dtype=np.int64)
        things = ((self.grid.fountain, FOUNTAIN), (self.grid.door, DOOR))
        for cell, event in (*((goal, GOAL) for goal in self.grid.goals), *things):
            if cell is not None:
                events[cell] = event
        return np.tile(events.reshape(-1), states // events.size)

    def _observe_as(self, observation: str) -> tuple[gym.Space[Any], NDArray[Any]]:
        if observation in OBSERVATIONS:
            return super()._observe_as(observation)
        if observation == "coords":
            table = coordinates(self.grid, self.states)
            return gym.spaces.Box(0.0, 1.0, (3,), np.float32), table
        if observation == "planes":
            table = planes(self.grid, self.states, self._pad)
            low, high = min(0.0, float(table.min())), max(1.0, float(table.max()))
            return gym.spaces.Box(low, high, table.shape[1:], np.float32), table
        raise ValueError(
            f"observation={observation!r}, allowed are {(*OBSERVATIONS, 'coords', 'planes')}"
        )

    # -- dynamics ----------------------------------------------------------------------------------

    def draw_tape(self, rng: np.random.Generator, options: Mapping[str, Any]) -> Arrays:
        """As `FiniteMDP`; a start that is given must be a state that can be."""
        if "state" in options:
            start = self._check_state("options['state']", options["state"])
            if not self._possible[start]:
                row, col = divmod(start % self.grid.walls.size, self.grid.cols)
                place = "a wall" if self.grid.walls[row, col] else "a key or a closed door"
                raise ValueError(f"options['state']: state {start}, cell {(row, col)}, is {place}")
        return super().draw_tape(rng, options)

    def initial(self, tape: Arrays) -> Arrays:
        """The drawn state, in which nothing has happened."""
        state = super().initial(tape)
        return {**state, "event": 0 * state["s"]}

    def transition(self, state: Arrays, action: Any, tape: Arrays) -> Arrays:
        """One step of `FiniteMDP`, and the number of its event."""
        xp = array_namespace(state["s"])
        after = super().transition(state, action, tape)
        cells, before, now = self.grid.walls.size, state["s"], after["s"]
        stayed = before % cells == now % cells
        event = xp.where(stayed, 0 * now + BUMP, self._entering[now])
        took_key = (before < cells) & (now >= cells)
        return {**after, "event": xp.where(took_key, 0 * now + KEY, event)}

    def info(self, state: Arrays) -> Arrays:
        """Steps taken `t` [n], `event` (strings) [n], and `remaining` [n] in "key_door"."""
        events = EVENTS[np.asarray(to_device(state["event"], "cpu"))]
        result = {**super().info(state), "event": events}
        if self.layout == "key_door":
            result["remaining"] = self.remaining[state["s"]]
        return result

    # -- picture -----------------------------------------------------------------------------------

    def render_frame(self, state: Arrays, index: int) -> np.ndarray:
        """The map, its cells coloured by their optimal value, and the agent in it."""
        from .render_grid import draw_grid

        cells, present = self.grid.walls.size, int(state["s"][index])
        values = self.values_shown(state, index)
        layer = slice(present // cells * cells, (present // cells + 1) * cells)
        return draw_grid(
            self.grid,
            values[layer].reshape(self.grid.walls.shape),
            agent=divmod(present % cells, self.grid.cols),
            has_key=present >= cells,
            title=f"step {int(state['steps'][index])}",
            event=str(EVENTS[int(state["event"][index])]),
        )


class GridWorldEnv(FiniteMDPEnv):
    """Face 1 of `GridWorld`: `gymnasium.make("GridWorld-v0", layout="key_door")`."""

    core_class = GridWorld


class GridWorldVectorEnv(FiniteMDPVectorEnv):
    """Face 2 of `GridWorld`: `gymnasium.make_vec("GridWorld-v0", num_envs=1024, slip=0.1)`."""

    core_class = GridWorld
