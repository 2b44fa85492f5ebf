"""`InventoryNet-v0` as a PettingZoo parallel environment: every location is an agent.

env = InventoryParallelEnv("one_warehouse_lost", cost="local")
observations, infos = env.reset(seed=0)
actions = {agent: env.action_space(agent).sample() for agent in env.agents}
observations, rewards, terminations, truncations, infos = env.step(actions)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, cast

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from ..envs.base import Groups, check_in_space
from ..envs.inventory.inventory_net import LARGEST, InventoryNet, InventoryNetEnv, one_of
from ..extras import require

if TYPE_CHECKING:
    from pettingzoo import ParallelEnv
else:
    ParallelEnv = require("pettingzoo", extra="pettingzoo").ParallelEnv

COSTS = ("shared", "local")

Observations = dict[str, NDArray[np.float32]]
Infos = dict[str, dict[str, Any]]


class InventoryParallelEnv(ParallelEnv):
    """The parallel face of `InventoryNet-v0`: one agent per location, which orders its own supply.

    Dynamics, episode end, seeding and reset options are those of `InventoryNet`: under the same
    orders both faces go through the same states, bit for bit.

    ## Agents
    The locations, by name ("warehouse 1", "store 1", ...), in the network's order. All of them act
    in every period and leave together when the episode is truncated.

    ## Observation
    `Box(float32)` per agent, joined in this order; with `observe_all=True` every agent gets the
    whole observation of `InventoryNet` instead.

    | part | length | meaning |
    |---|---|---|
    | inventory | longest pipeline | its own: slot 0 on hand, slot l arrives in l periods; then 0 |
    | suppliers | suppliers | stock on hand at each location that it can order from |
    | past_demands | past (stores) or 0 | the store's own past demands, oldest first |
    | season, calendar | 2, C | as in `InventoryNet` |

    The last two rows appear where `observe` names them.

    ## Action
    The orders on the arcs into the location, outside supply first, then its suppliers in the
    network's order: `Box(-1, 1, (arcs,))`, or units with `action="orders"`, both as in
    `InventoryNet`. Agents that together order more than their supplier holds are scaled down in
    proportion (normalized) or are an error (units).

    ## Reward
    In both cases the rewards of all agents add up, to rounding, to the reward of `InventoryNet`.

    - `cost="shared"`: the network's reward divided by the number of agents, the same for all.
    - `cost="local"`: minus the cost of the location: what it holds, what it is short of (or less
      its sales, when profit is maximised), and the unit and fixed costs of the arcs into it.

    ## Info
    Per agent `orders`, units ordered on its arcs in the last period, and for stores `demand`.

    Args:
        setting: a preset of `InventoryNet` by name.
        cost: "shared" or "local".
        observe_all: whether every agent sees the whole network.
        render_mode: None or "rgb_array".
        arguments: the other arguments of `InventoryNet-v0`.
    """

    metadata: ClassVar[dict[str, Any]] = {
        **InventoryNet.metadata,
        "name": "inventory_net_v0",
        "is_parallelizable": True,
    }

    def __init__(
        self,
        setting: str | None = None,
        *,
        cost: str = "shared",
        observe_all: bool = False,
        render_mode: str | None = None,
        **arguments: Any,
    ) -> None:
        self.cost = one_of("cost", cost, COSTS)
        self.observe_all = observe_all
        self.render_mode = render_mode
        self.env = InventoryNetEnv(render_mode=render_mode, setting=setting, **arguments)
        self.core = cast(InventoryNet, self.env.core)
        network, whole = self.core.network, cast(gym.spaces.Box, self.core.action_space)
        self.possible_agents = list(network.names)
        self.agents: list[str] = []
        self._arcs = {
            name: np.flatnonzero(network.target == node) for node, name in enumerate(network.names)
        }
        self._suppliers = {
            name: network.source[arcs[network.source[arcs] >= 0]]
            for name, arcs in self._arcs.items()
        }
        self.action_spaces = {
            name: gym.spaces.Box(whole.low[arcs], whole.high[arcs], dtype=np.float32)
            for name, arcs in self._arcs.items()
        }
        self.state_space = self.core.observation_space
        self.observation_spaces = {
            name: gym.spaces.Box(-LARGEST, LARGEST, (self._length(name),), np.float32)
            for name in self.possible_agents
        }

    def observation_space(self, agent: str) -> gym.spaces.Box:
        """What `agent` sees."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> gym.spaces.Box:
        """What `agent` may order."""
        return self.action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observations, Infos]:
        """Start the episode that `InventoryNet-v0` starts with this seed and these options."""
        observation, _ = self.env.reset(seed=seed, options=options)
        self.agents = list(self.possible_agents)
        return self._observations(observation), self._infos()

    def step(
        self, actions: Mapping[str, Any]
    ) -> tuple[Observations, dict[str, float], dict[str, bool], dict[str, bool], Infos]:
        """One period in which all agents order at once.

        Raises:
            ValueError: an agent's action is missing, unknown or outside its action space, or the
                episode is over.
        """
        action = self._join(actions)
        before = self.env.state
        observation, reward, terminated, truncated, _ = self.env.step(action)
        agents = self.agents
        if self.cost == "local":
            costs = location_costs(self.core, before["inventory"][..., 0], self.env.state)[0]
            rewards = dict(zip(agents, (-costs).tolist(), strict=True))
        else:
            rewards = dict.fromkeys(agents, reward / len(agents))
        if terminated or truncated:
            self.agents = []
        return (
            self._observations(observation),
            rewards,
            dict.fromkeys(agents, terminated),
            dict.fromkeys(agents, truncated),
            self._infos(),
        )

    def state(self) -> NDArray[np.float32]:
        """The observation of `InventoryNet`, for training with a central critic."""
        return np.asarray(self.core.observation(self.env.state)[0])

    def render(self) -> Any:
        """Picture of the network, uint8 [height, width, 3]."""
        return self.env.render()

    def close(self) -> None:
        """Nothing is held open."""
        self.env.close()

    def _length(self, agent: str) -> int:
        if self.observe_all:
            return gym.spaces.flatdim(self.core.observation_space)
        store = self.possible_agents.index(agent) >= self.core.suppliers
        own_past = self.core.past if store else 0
        season = 2 * ("season" in self.core.observe)
        shared = season + self.core.calendar.shape[1]
        return self.core.slots + len(self._suppliers[agent]) + own_past + shared

    def _join(self, actions: Mapping[str, Any]) -> NDArray[np.float64]:
        """The action of `InventoryNet`, [A]."""
        if not self.agents:
            raise ValueError("no episode is under way: call reset before step")
        missing = [agent for agent in self.agents if agent not in actions]
        unknown = [agent for agent in actions if agent not in self._arcs]
        if missing or unknown:
            raise ValueError(
                f"actions are missing for {missing} and given for unknown agents {unknown}; "
                f"allowed: one for each of {self.agents}"
            )
        action = np.zeros(self.core.network.arcs)
        for agent in self.agents:
            try:
                action[self._arcs[agent]] = check_in_space(
                    self.action_spaces[agent], np.asarray(actions[agent])[None]
                )[0]
            except ValueError as error:
                raise ValueError(f"agent {agent!r}: {error}") from None
        return action

    def _observations(self, observation: NDArray[np.float32]) -> Observations:
        if self.observe_all:
            return {agent: observation.copy() for agent in self.possible_agents}
        parts = self.core.split_observation(observation[None])
        inventory = parts["inventory"][0]
        shared = [parts[name][0] for name in ("season", "calendar") if name in parts]
        result = {}
        for node, agent in enumerate(self.possible_agents):
            seen = [inventory[node], inventory[self._suppliers[agent], 0]]
            store = node - self.core.suppliers
            if "past_demands" in parts and store >= 0:
                seen.append(parts["past_demands"][0][:, store])
            result[agent] = np.concatenate([*seen, *shared]).astype(np.float32)
        return result

    def _infos(self) -> Infos:
        orders, demand = self.env.state["orders"][0], self.env.state["demand"][0]
        infos: Infos = {agent: {"orders": orders[arcs]} for agent, arcs in self._arcs.items()}
        for agent, units in zip(self.possible_agents[self.core.suppliers :], demand, strict=True):
            infos[agent]["demand"] = float(units)
        return infos


def location_costs(
    core: InventoryNet, on_hand: NDArray[np.float64], after: Mapping[str, Any]
) -> NDArray[np.float64]:
    """The cost of a period by location, [n, N]; its sum over locations is `core.cost`.

    Args:
        core: the network's dynamics.
        on_hand: stock at the start of the period, [n, N].
        after: the state at its end, with the period's `orders` [n, A], `demand` [n, K] and `rest`
            [n, N], on hand after shipments and demand.
    """
    orders, demand, rest = after["orders"], after["demand"], after["rest"]
    stores = slice(core.suppliers, None)
    costs = core.holding * np.maximum(rest, 0.0)
    if core.objective == "cost":
        costs[:, stores] += core.underage * np.maximum(-rest[:, stores], 0.0)
    else:
        costs[:, stores] -= core.underage * np.minimum(on_hand[:, stores], demand)
    bought = core.unit_cost * orders + core.fixed_cost * (orders > 0)
    paid: NDArray[np.float64] = Groups(core.network.target, core.network.locations).sum(bought)
    return costs + paid
