"""`ItemPacking-v0`: pack items by commands, some of which get stuck on the way."""

from __future__ import annotations

from itertools import product
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from ..base import Arrays
from ..checks import check_integer, check_share
from .finite_mdp import FiniteMDP, FiniteMDPEnv, FiniteMDPVectorEnv, at_least_one

TODO, STUCK_LEFT, STUCK_RIGHT, DONE = range(4)
STUCK = (STUCK_LEFT, STUCK_RIGHT)
CONDITIONS = ("todo", "stuck left", "stuck right", "done")


class ItemPacking(FiniteMDP):
    """Items to be packed by commands; a pick may get stuck, and then the right nudge is needed.

    ## Description
    A robot's high level in miniature. It says which item to pick; often that works at once, and
    demonstrations that never went wrong show nothing else. Where an item is stuck, only one command
    helps, and any other may lose it.

    ## Observation
    By `observation`:

    - "features" (default): for each item the unit vector of its condition (todo, stuck left, stuck
      right, done), then a constant 1; `Box(0, 1, (4 items + 1,))`, float32. When an item is lost,
      only the constant is left.
    - "index": the state, `Discrete(S)`; "onehot": its unit vector.

    ## Action
    `Discrete(items + 2)`: pick item 0, 1, ...; then nudge left, nudge right. `commands` has their
    names.

    ## Dynamics
    Those of `FiniteMDP`. At most one item is stuck at a time.

        nothing stuck, pick an item to do   done with probability `pick`, otherwise stuck left or
                                            right, equally likely
        nothing stuck, any other command    nothing changes
        stuck left and nudge right,         done with probability `nudge`, else nothing changes
        or stuck right and nudge left
        stuck, any other command            lost with probability `lose`, else nothing changes

    `conditions` [S, items] lists the conditions of every state, by their numbers; the last state,
    in which an item is lost, has -1.

    ## Reward
    1 when the last item is packed, otherwise 0: the return is success.

    ## Episode end
    Terminated when all items are packed, when one is lost, and after `horizon` commands.

    ## Arguments
    - `items`: from 1 to 6.
    - `pick`, `nudge`, `lose`: probabilities.
    - `horizon`: integer >= 1.
    - `observation`: "features", "index" or "onehot".
    - `reset(options={"state": s})` starts from s; the tape is drawn all the same.

    With the defaults success of the best policy is 0.999999, of one that only picks, without a
    nudge, 0.216.

    ## Data files
    None.

    ## Sources
    L. X. Shi, Z. Hu, T. Z. Zhao et al., Yell At Your Robot: Improving On-the-Fly from Language
    Corrections, RSS 2024, arXiv 2403.12910 (bag packing with commands and corrections, of which
    this is a miniature).

    ## Version
    v0.
    """

    def __init__(
        self,
        items: int = 3,
        *,
        pick: float = 0.6,
        nudge: float = 0.8,
        lose: float = 0.4,
        horizon: int = 14,
        observation: str = "features",
    ) -> None:
        self.items = check_integer("items", items, 1, 6)
        chances = {"pick": pick, "nudge": nudge, "lose": lose}
        self.pick, self.nudge, self.lose = (check_share(*given) for given in chances.items())
        if at_least_one("horizon", horizon) is None:
            raise ValueError("horizon=None must be an integer of at least 1")
        self.commands = (*(f"pick {i}" for i in range(self.items)), "nudge left", "nudge right")
        packed = [
            state
            for state in product(range(4), repeat=self.items)
            if sum(condition in STUCK for condition in state) <= 1
        ]
        self.conditions = np.array([*packed, (-1,) * self.items])
        all_done, lost = len(packed) - 1, len(packed)
        super().__init__(
            self._transitions(packed),
            low=np.eye(len(self.conditions))[all_done],
            horizon=horizon,
            terminal=[all_done, lost],
            observation=observation,
            gamma=1.0,
        )

    def _transitions(self, packed: list[tuple[int, ...]]) -> NDArray[np.float64]:
        """P [S, A, S]; the states are `packed`, then the one in which an item is lost."""
        number = {state: index for index, state in enumerate(packed)}
        lost, actions = len(packed), len(self.commands)
        P = np.zeros((lost + 1, actions, lost + 1))
        P[lost, :, lost] = 1.0

        def with_item(state: tuple[int, ...], item: int, condition: int) -> int:
            return number[(*state[:item], condition, *state[item + 1 :])]

        for state, here in number.items():
            stuck = next((i for i, condition in enumerate(state) if condition in STUCK), None)
            for action in range(actions):
                chances = {here: 1.0}
                if stuck is not None:
                    freed_by = self.items + (state[stuck] == STUCK_LEFT)
                    end, chance = (
                        (with_item(state, stuck, DONE), self.nudge)
                        if action == freed_by
                        else (lost, self.lose)
                    )
                    chances = {here: 1 - chance, end: chance}
                elif action < self.items and state[action] == TODO:
                    chances = {with_item(state, action, DONE): self.pick}
                    for side in STUCK:
                        chances[with_item(state, action, side)] = (1 - self.pick) / 2
                for target, chance in chances.items():
                    P[here, action, target] = chance
        return P

    def _observe_as(self, observation: str) -> tuple[gym.Space[Any], NDArray[Any]]:
        if observation != "features":
            return super()._observe_as(observation)
        units = np.eye(4, dtype=np.float32)[self.conditions]
        units[-1] = 0.0
        table = np.column_stack([units.reshape(self.states, -1), np.ones(self.states, np.float32)])
        return gym.spaces.Box(0.0, 1.0, table.shape[1:], np.float32), table

    def render_frame(self, state: Arrays, index: int) -> np.ndarray:
        """The table, the bag, and each item where it is."""
        from .render_packing import draw_packing

        step = int(state["steps"][index])
        return draw_packing(self.conditions[state["s"][index]], f"command {step} of {self.horizon}")


class ItemPackingEnv(FiniteMDPEnv):
    """Face 1 of `ItemPacking`: `gymnasium.make("ItemPacking-v0")`."""

    core_class = ItemPacking


class ItemPackingVectorEnv(FiniteMDPVectorEnv):
    """Face 2 of `ItemPacking`: `gymnasium.make_vec("ItemPacking-v0", num_envs=1024)`."""

    core_class = ItemPacking
