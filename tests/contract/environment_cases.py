"""The environments that the contract tests run over, with their arguments, and how to run them."""

from __future__ import annotations

import importlib

import gymnasium as gym
import networkx as nx
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from palaestra.envs.faces import unbatch
from palaestra.envs.registry import ENTRIES
from palaestra.wrappers.infos import unpack_infos

ROWS = 3
SEED = 40

DIAMOND = nx.DiGraph()
DIAMOND.add_node("port", kind="echelon", holding=0.1, lead=2, fixed_cost=3.0)
DIAMOND.add_node("north", kind="warehouse", holding=0.2)
DIAMOND.add_node("hub", kind="warehouse", holding=0.0, holds_stock=False)
DIAMOND.add_node("a", kind="store", holding=1.0, underage=7.0)
DIAMOND.add_node("b", kind="store", holding=0.8, underage=9.0, inventory_periods=4)
DIAMOND.add_edge("port", "north", lead=1, unit_cost=0.5)
DIAMOND.add_edge("port", "hub", lead=3, fixed_cost=1.0)
DIAMOND.add_edge("north", "a", lead=2)
DIAMOND.add_edge("hub", "a", lead=1, unit_cost=0.25)
DIAMOND.add_edge("hub", "b", lead=2)

SALES = np.random.default_rng(0).poisson(4.0, (3, 2, 60)).astype(np.float64)
CALENDAR = np.stack([np.arange(60) % 4, np.linspace(-1.0, 1.0, 60)], axis=1)

# id -> name -> arguments. Short episodes, so that a few dozen steps see several of them.
ARGUMENTS: dict[str, dict[str, dict]] = {
    "InventoryNet-v0": {
        "one_store_backlogged": {"setting": "one_store_backlogged", "periods": 7, "ignore": 2},
        "one_store_in_units": {"setting": "one_store_lost", "action": "orders", "periods": 5},
        "serial": {"setting": "serial_system", "periods": 8},
        "transshipment": {"setting": "transshipment", "stores": 3, "periods": 9},
        "profit": {
            "setting": "many_warehouses_lost",
            "objective": "profit",
            "stores": 7,
            "warehouses": 3,
            "instance": 5,
            "periods": 6,
        },
        "trace": {
            "demand": SALES,
            "calendar": CALENDAR,
            "past": 4,
            "season": 13.0,
            "periods": 6,
            "ignore": 1,
        },
        "graph": {"network": DIAMOND, "periods": 7, "observe": ("inventory", "past_demands")},
    },
}

CASES = [
    pytest.param(entry, arguments, id=f"{entry.id}-{name}")
    for entry in ENTRIES
    for name, arguments in {"default": {}, **ARGUMENTS.get(entry.id, {})}.items()
]


def make_single(entry, arguments, **options):
    return gym.make(entry.id, **arguments, **options)


def make_vector(entry, arguments, mode=AutoresetMode.NEXT_STEP, rows=ROWS, **options):
    return gym.make_vec(
        entry.id,
        num_envs=rows,
        vectorization_mode="vector_entry_point",
        autoreset_mode=mode,
        **arguments,
        **options,
    )


def core_of(entry, arguments):
    module, name = entry.core.split(":")
    return getattr(importlib.import_module(module), name)(**arguments)


def steps_for_several_episodes(core):
    return 60 if core.horizon is None else min(2 * core.horizon + 7, 2500)


def draw_actions(space, infos, rows=ROWS):
    """One random action per sub-environment, among those that its mask allows."""
    if "action_mask" not in infos:
        return np.stack([space.sample() for _ in range(rows)])
    masks = np.asarray(infos["action_mask"]).astype(np.int8)
    return np.stack([space.sample(mask=mask) for mask in masks])


def assert_same(left, right, where="result"):
    """Equal bit for bit, in nested tuples, lists, dicts and arrays."""
    if isinstance(left, dict):
        assert left.keys() == right.keys(), where
        for name in left:
            assert_same(left[name], right[name], f"{where}[{name!r}]")
    elif isinstance(left, list | tuple):
        assert len(left) == len(right), where
        for index, (a, b) in enumerate(zip(left, right, strict=True)):
            assert_same(a, b, f"{where}[{index}]")
    elif isinstance(left, np.ndarray) and left.dtype == object:
        assert_same(left.tolist(), np.asarray(right).tolist(), where)
    else:
        np.testing.assert_array_equal(left, right, err_msg=where, strict=not np.isscalar(left))


def masks_of(env):
    """What an info would say of the actions that are allowed now, batched."""
    if not hasattr(env.unwrapped, "action_masks"):
        return {}
    masks = env.unwrapped.action_masks()
    return {"action_mask": masks if hasattr(env, "num_envs") else masks[None]}


def run_on(env, steps, seed):
    """The next steps of a single or vector environment under actions drawn from `seed`."""
    vector = hasattr(env, "num_envs")
    space = env.single_action_space if vector else env.action_space
    space.seed(seed)
    seen = []
    for _ in range(steps):
        actions = draw_actions(space, masks_of(env), env.num_envs if vector else 1)
        seen.append(env.step(actions if vector else actions[0]))
        if not vector and (seen[-1][2] or seen[-1][3]):
            seen.append(env.reset())
    return seen


class Singles:
    """Single environments, autoreset by hand: the definition of what a vector has to return."""

    def __init__(self, entry, arguments, mode):
        self.envs = [make_single(entry, arguments) for _ in range(ROWS)]
        self.mode, self.ended = mode, [False] * ROWS

    def reset(self, seed):
        return [env.reset(seed=seed + i) for i, env in enumerate(self.envs)]

    def reset_row(self, i):
        self.ended[i] = False
        return self.envs[i].reset()

    def step(self, actions):
        results = []
        for i, env in enumerate(self.envs):
            if self.mode is AutoresetMode.NEXT_STEP and self.ended[i]:
                observation, info = env.reset()
                result = (observation, 0.0, False, False, info)
            else:
                result = env.step(actions[i])
            self.ended[i] = result[2] or result[3]
            if self.mode is AutoresetMode.SAME_STEP and self.ended[i]:
                final = {"final_obs": result[0], "final_info": result[4]}
                observation, info = env.reset()
                result = (observation, *result[1:4], {**info, **final})
            results.append(result)
        return results


def assert_rows(vector_result, results):
    """A vector's result holds, row by row, the results of single environments."""
    infos = unpack_infos(vector_result[-1], range(ROWS))
    for i, result in enumerate(results):
        for part, value in zip(vector_result[:-1], result[:-1], strict=True):
            assert_same(unbatch(part, i), value)
        assert_same(infos[i], dict(result[-1]))
