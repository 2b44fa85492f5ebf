"""`Knapsack-v0`: the 0/1 knapsack, item by item."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..base import Arrays
from .arrays import base_of, duplicate, filled, namespace, written
from .base import RoutingCore, RoutingEnv, RoutingVectorEnv, chosen_row
from .instance import Solution
from .sources import check_data_set, one_number, size_of

FEATURES = 4
UNIT = 1000.0  # values and weights are observed in thousands
LARGEST = 998  # of the values and weights that are generated
PER_ITEM = 125.0  # capacity per item: 25,000 with 200


class Knapsack(RoutingCore):
    """The 0/1 knapsack problem: the most valuable items that fit.

    ## Description
    Items have a value and a weight. Take one after the other until nothing fits any more. With
    `mdp="bq"` the state is the instance that is left: the items that still fit, and the capacity
    left. With `mdp="direct"` it is the set of items taken.

    ## Observation
    `Box`, float32 [items * 4], a table [items, 4] row by row; row i is item i.

        mdp="bq":      value/1000, weight/1000, capacity_left/1000, remaining
        mdp="direct":  value/1000, weight/1000, capacity/1000, taken

    With "bq" the remaining items are exactly the feasible ones, and the rows of items that are
    gone or do not fit any more are zero.

    ## Action
    `Discrete(items)`: the next item, feasible (`info["action_mask"]`) where it has not been taken
    and weighs no more than the capacity left. Where nothing fits at the start, action 0 is
    feasible: it takes nothing and ends the episode.

    ## Dynamics
    The tape is the instance: values, then weights, uniform integers 1 .. 998 each
    (`rng.integers(1, 999, items)`); of `instances` one `rng.integers`, the row. From (remaining R,
    capacity c) with action j in R the next state is (the items of R other than j that weigh at most
    c - weight_j, c - weight_j).

    ## Reward
    The value of j. The rewards of an episode sum to the value of the items taken.

    ## Episode end
    Terminated when nothing fits, after `items` steps at the latest.

    ## Arguments
    - `items`: at least 1, 50 by default.
    - `mdp`: "bq" or "direct".
    - `capacity`: >= 0. Default: 125 per item, which is 25,000 with 200 items.
    - `instances`: a data set {"values": [rows, items], "weights": [rows, items]} and optionally
      "capacity" [rows] (default: the argument), of which each reset draws a row, or takes row i
      with `reset(options={"row": i})`.

    ## Data files
    None.

    ## Sources
    D. Drakulic et al., BQ-NCO, NeurIPS 2023, arXiv 2301.03313.

    ## Version
    v0.
    """

    kind = "knapsack"

    def __init__(
        self,
        items: int | None = None,
        mdp: str = "bq",
        capacity: float | None = None,
        instances: Mapping[str, Any] | None = None,
    ) -> None:
        self._data_set: dict[str, np.ndarray] = {}
        if instances is not None:
            shapes = {"values": ("n",), "weights": ("n",)}
            self._data_set = check_data_set(instances, shapes, {"capacity": ()})
            if capacity is not None and "capacity" in self._data_set:
                raise ValueError(f"capacity={capacity}, but the data set has its own")
        given = self._data_set.get("values")
        size = size_of("items", items, 50, None if given is None else given.shape[1], least=1)
        self.capacity = PER_ITEM * size if capacity is None else one_number("capacity", capacity)
        self.horizon = size
        largest = np.array(float(LARGEST))
        bounds = [
            self._data_set.get("values", largest).max() / UNIT,
            self._data_set.get("weights", largest).max() / UNIT,
            self._data_set.get("capacity", np.array(self.capacity)).max() / UNIT,
        ]
        super().__init__(mdp, size, size, FEATURES, high=(*bounds, 1.0))

    # -- dynamics ----------------------------------------------------------------------------------

    def draw_tape(self, rng: np.random.Generator, options: Mapping[str, Any]) -> Arrays:
        """Values, weights and capacity of one instance."""
        row = chosen_row(options, rng, len(self._data_set.get("values", ())))
        tape = {name: array[row] for name, array in self._data_set.items()}
        for name in ("values", "weights"):
            if name not in tape:
                tape[name] = rng.integers(1, LARGEST + 1, self.size).astype(np.float64)
        tape.setdefault("capacity", np.float64(self.capacity))
        return tape

    def initial(self, tape: Arrays) -> Arrays:
        """An empty knapsack."""
        values, capacity = tape["values"], tape["capacity"]
        shape = tuple(values.shape)
        state = {
            "t": filled(values, shape[:1], 0, "int64"),
            "values": values,
            "weights": tape["weights"],
            "capacity_left": capacity + 0.0,
            "tour": filled(values, shape, -1, "int32"),
        }
        nothing = filled(values, shape, False, "bool")
        if self.mdp == "direct":
            return {**state, "capacity": capacity, "taken": nothing}
        return {**state, "remaining": self.fits(state)}

    def fits(self, state: Arrays) -> Any:
        """Items that weigh no more than the capacity left, bool [b, n]."""
        return state["weights"] <= state["capacity_left"][:, None]

    def open(self, state: Arrays) -> Any:
        """Items that can be taken, bool [b, n]; a new array."""
        if "remaining" in state:
            return duplicate(state["remaining"])
        return ~state["taken"] & self.fits(state)

    def transition(self, state: Arrays, action: Any, tape: Arrays) -> Arrays:
        """Take item `action` int [b]; nothing, where it does not fit at the start."""
        base = base_of(action, self.size)
        place = base + action
        takes = self.open(state).reshape(-1)[place]
        after = {**state, "t": state["t"] + 1}
        after["capacity_left"] = state["capacity_left"] - (
            state["weights"].reshape(-1)[place] * takes
        )
        if "tour" in state:
            item = namespace(action).where(takes, action, -1 + 0 * action)
            after["tour"] = written(state["tour"], base + state["t"], item)
        if "remaining" in state:
            after["remaining"] = written(state["remaining"], place, False) & self.fits(after)
        else:
            taken = takes | state["taken"].reshape(-1)[place]
            after["taken"] = written(state["taken"], place, taken)
        return after

    def reward(self, state: Arrays, action: Any, next_state: Arrays) -> Any:
        """The value of the item, [b]."""
        place = base_of(action, self.size) + action
        return state["values"].reshape(-1)[place] * self.open(state).reshape(-1)[place]

    def terminal(self, state: Arrays) -> Any:
        """Nothing fits, and a step has been taken."""
        return ~namespace(state["t"]).any(self.open(state), axis=1) & (state["t"] > 0)

    def action_masks(self, state: Arrays) -> Any:
        """Items that can be taken; item 0 where nothing has ever fitted, bool [b, n]."""
        masks = self.open(state)
        stuck = ~namespace(state["t"]).any(masks, axis=1) & (state["t"] == 0)
        masks[:, 0] |= stuck
        return masks

    def why_infeasible(self, state: Arrays, row: int, action: int) -> str:
        """The item has been taken, or does not fit."""
        if action in self.taken(state, row):
            return f"item {action} has been taken"
        return (
            f"item {action} weighs {float(state['weights'][row, action]):g}, above the capacity "
            f"left, {float(state['capacity_left'][row]):g}"
        )

    # -- views -------------------------------------------------------------------------------------

    def table(self, state: Arrays, mdp: str) -> Any:
        """[b, n, 4], see Observation."""
        values, weights = state["values"], state["weights"]
        table = filled(values, (*values.shape, FEATURES), 0.0, "float32")
        if mdp == "bq":
            present = self.open(state)
            values, weights = values * present, weights * present
            table[..., 2] = state["capacity_left"][:, None] / UNIT * present
            table[..., 3] = present
        else:
            table[..., 2] = state["capacity"][:, None] / UNIT
            table[..., 3] = state["taken"]
        table[..., 0] = values / UNIT
        table[..., 1] = weights / UNIT
        return table

    def quotient(self, state: Arrays) -> Arrays:
        """The knapsack that is left: the items that still fit, and the capacity left."""
        xp = namespace(state["t"])
        present = self.open(state)
        gone = self.size - xp.sum(xp.astype(present, xp.int64), axis=1)
        return {
            # A first state in which nothing fits is told from an end by its t.
            "t": xp.where(state["t"] == 0, state["t"], gone),
            "values": state["values"] * present,
            "weights": state["weights"] * present,
            "capacity_left": state["capacity_left"],
            "remaining": present,
        }

    def taken(self, state: Arrays, row: int) -> np.ndarray:
        """Items taken so far, in this order, int64 [k]."""
        record = np.asarray(state["tour"][row])
        return record[record >= 0].astype(np.int64)

    def solution(self, state: Arrays, row: int = 0) -> Solution:
        """The items taken so far and their value."""
        items = self.taken(state, row)
        value = float(np.asarray(state["values"][row])[items].sum())
        return Solution(self.kind, value, items=items)

    def render_frame(self, state: Arrays, index: int) -> np.ndarray:
        """The items, and what has been filled of the capacity."""
        from .render import draw_knapsack

        return draw_knapsack(self, state, index)


class KnapsackEnv(RoutingEnv):
    """Face 1 of `Knapsack`: `gymnasium.make("Knapsack-v0", items=50)`."""

    core_class = Knapsack


class KnapsackVectorEnv(RoutingVectorEnv):
    """Face 2 of `Knapsack`: `gymnasium.make_vec("Knapsack-v0", num_envs=1024, items=50)`."""

    core_class = Knapsack
