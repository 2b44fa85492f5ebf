"""The environments that the contract tests run over, with their arguments, and how to run them."""

from __future__ import annotations

import importlib
from pathlib import Path

import gymnasium as gym
import networkx as nx
import numpy as np
import pytest
import scipy.sparse
from gymnasium.vector import AutoresetMode

from palaestra.envs.faces import unbatch
from palaestra.envs.registry import ENTRIES
from palaestra.envs.routing.instance import RoutingInstance
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

STREETS = nx.DiGraph([("a", "b"), ("b", "c"), ("b", "d"), ("d", "a"), ("c", "c")])
STREETS.nodes["c"]["weight"] = 2.5

BLOCKS = RoutingInstance(
    "blocks",
    "tsp",
    matrix=np.abs(np.subtract.outer(np.arange(5) ** 2, np.arange(5) ** 2)),
    edge_weight_type="EXPLICIT",
)
PARCELS = RoutingInstance(
    "parcels",
    "cvrp",
    coordinates=[[30.0, 40.0], [37.0, 52.0], [49.0, 49.0], [52.0, 64.0], [31.0, 62.0]],
    demands=[0.0, 7.0, 30.0, 16.0, 9.0],
    capacity=40.0,
    edge_weight_type="EUC_2D",
)
PLACES = np.random.default_rng(1).random((4, 6, 2))

ROSTER = {
    "where": np.repeat(["north", "south", "west"], (60, 90, 44)),
    "age": np.random.default_rng(5).normal(40.0, 9.0, 194),
    "income": np.random.default_rng(6).normal(size=194),
    "bought": np.random.default_rng(7).integers(2, size=194),
}

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
    "VMRescheduling-v0": {
        "one_node": {"pms": 4, "numa": 1, "load": 0.6, "migrations": 3},
        "conflicts_extended": {"pms": 3, "anti_affinity": 0.2, "extended": True, "migrations": 4},
        "penalty": {"pms": 3, "penalty_mode": True, "migrations": 3},
        "churn": {"pms": 3, "load": 0.7, "churn": 2.0, "inference_seconds": 1.0, "migrations": 4},
    },
    "SubmodularCoverage-v0": {
        "sparse_slipping": {
            "rows": 5,
            "cols": 4,
            "horizon": 6,
            "weights": "sparse",
            "slip": 0.3,
            "observation": "history",
        },
        "two_rooms": {"layout": "two_rooms", "horizon": 9, "start": (3, 6), "reward": "additive"},
        "gaussian_process": {"rows": 6, "cols": 7, "horizon": 5, "weights": "gaussian_process"},
    },
    "InformativePath-v0": {
        "matern_walls": {
            "layout": ["...#.", ".#...", "....."],
            "horizon": 6,
            "kernel": "matern",
            "slip": 0.2,
            "observation": "history",
        },
    },
    "ExperimentDesign-v0": {
        "own_sites": {"sites": [[0.0], [0.5], [2.0], [2.1]], "horizon": 3, "slip": 0.5},
        "additive": {"rows": 3, "cols": 3, "horizon": 5, "start": 4, "reward": "additive"},
    },
    "ItemCollection-v0": {
        "own_groups": {
            "rows": 3,
            "cols": 4,
            "horizon": 6,
            "groups": [[2, 5, 7], [7, 8]],
            "quotas": (2, 3),
            "observation": "history",
        },
        "slipping": {"rows": 4, "cols": 4, "items": (3, 4), "quotas": (2, 2), "slip": 0.3},
    },
    "GraphCoverage-v0": {
        "directed": {"graph": STREETS, "start": "b", "horizon": 5, "slip": 0.2},
        "history": {"nodes": 8, "radius": 2, "observation": "history", "instance": 3},
    },
    "ContinuousCoverage-v0": {
        "windy": {
            "rows": 4,
            "cols": 6,
            "horizon": 7,
            "noise": 0.5,
            "weights": "sparse",
            "observation": "history",
        },
    },
    "CarCoverage-v0": {
        "oval_history": {
            "horizon": 9,
            "track": "oval",
            "seconds": 0.1,
            "preview": (),
            "observation": "history",
        },
        "own_track": {
            "horizon": 12,
            "track": [(0.0, 0.0), (2.0, 0.2), (2.2, 2.0), (-0.1, 1.9)],
            "half_width": 0.15,
            "cell": 0.06,
            "radius": 0.1,
            "offset": 0.15,
            "reward": "additive",
        },
    },
    "GridWorld-v0": {
        "key_door_slipping": {
            "layout": "key_door",
            "size": 5,
            "slip": 0.2,
            "fountain": (1, 1),
            "max_steps": 9,
            "observation": "planes",
            "pad": 7,
        },
        "corridor": {
            "layout": "corridor",
            "half_width": 3,
            "length": 6,
            "slip": 0.05,
            "gust": 0.4,
            "observation": "coords",
        },
        "windy_walk": {"layout": "windy_walk", "alpha": 0.5, "max_steps": 8},
        "free_start": {
            "rows": 3,
            "cols": 4,
            "walls": [(1, 1)],
            "start": "free",
            "goals": {(0, 0): (-1.5, False), (2, 3): (2.0, True)},
            "gust": {(1, 2): [(0.3, 0), (0.2, 1)]},
            "horizon": 7,
            "observation": "onehot",
        },
    },
    "DoorChain-v0": {
        "slipping": {"depth": 5, "safe": 0.4, "slip": 0.3},
    },
    "ItemPacking-v0": {
        "two_items": {"items": 2, "pick": 0.2, "horizon": 6, "observation": "index"},
    },
    "TorquePendulum-v0": {
        "heavy": {"gravity": 5.0, "mass": 2.0, "length": 0.5, "max_steps": 9},
    },
    "FiniteMDP-v0": {
        "sparse": {
            "P": [
                scipy.sparse.eye_array(5),
                scipy.sparse.eye_array(5, k=1).tocsr()[[0, 1, 2, 3, 3]],
            ],
            "low": np.arange(10.0).reshape(5, 2, 1),
            "terminal": [4],
            "max_steps": 7,
        },
    },
    "LineWorld-v0": {
        "half_reversed": {"reversed": (0, 5), "max_steps": 7},
    },
    "LQR-v0": {
        "distractors": {"distractors": 3, "decay": 0.5, "horizon": 7},
        "integrator": {"plant": "integrator"},
        "scalar": {"plant": "scalar", "u_max": 1.0},
        "two_controls": {
            "A": [[0.9, 0.1, 0.0], [0.0, 0.8, 0.3], [0.1, 0.0, 0.7]],
            "B": [[1.0, 0.0], [0.0, 0.5], [0.2, 0.2]],
            "clip": 2.0,
            "horizon": 6,
        },
    },
    "PointMaze-v0": {
        "two_goals": {"layout": "two_goals", "noise": 0.5, "horizon": 8},
        "rooms": {"layout": "rooms", "mask_velocity": True, "noise": 1.0, "horizon": 9},
        "open": {"layout": "open", "start": "free", "radius": 0.6, "reward": "sparse"},
    },
    "Garnet-v0": {
        "layers": {"layers": 4, "states": 3, "actions": 2, "branching": 2, "rewards": "last_layer"},
        "linear_cut": {"features": 3, "states": 5, "max_steps": 7, "observation": "onehot"},
        "iid_copies": {"states": 6, "branching": 0, "duplicates": 0.5, "rewards": "normal"},
    },
    "RiverSwim-v0": {
        "horizon": {"states": 4, "forward": 0.6, "horizon": 8, "rewards": "bernoulli"},
    },
    "CombinationLock-v0": {
        "numbers": {
            "horizon": 5,
            "keys": 3,
            "observation": "hadamard",
            "action": "logits",
        },
        "one_latent": {"horizon": 4, "latents": 1, "keep": 0.9, "distractor": 0.2, "shaped": True},
        "one_latent_in_noise": {"horizon": 3, "latents": 1, "observation": "hadamard"},
    },
    "GambleChain-v0": {
        "shifted": {"shift": 0.3, "horizon": 6, "observation": "onehot"},
    },
    "IncomeGamble-v0": {
        "long": {"instance": 3, "horizon": 9},
    },
    "DynamicalLinearBandit-v0": {
        "synthetic": {"system": "synthetic", "T": 7},
        "vector": {"action": "vector", "low": (-1, 0), "T": 9},
    },
    "OneSidedFeedback-v0": {
        "changing_panel": {"panel": "changing", "k": 3, "m": 4, "T": 8, "feedback": "full"},
        "own_people": {
            "contexts": np.random.default_rng(3).normal(size=(6, 5, 3)),
            "labels": np.arange(30).reshape(6, 5) % 2,
            "auditors": (0.1, 1.5, 0.0),
        },
    },
    "PaymentRouting-v0": {
        "delayed_flat": {"K": 3, "batch": 3, "delay": 1, "T": 11, "observation": "flat"},
        "penalty": {"batch": 4, "availability": 0.2, "T": 9, "unavailable": "penalty"},
    },
    "SwitchingCostBandit-v0": {
        "adversarial": {"K": 3, "T": 13, "losses": "adversarial", "mode": "extra"},
        "own_losses": {"losses": [[0.1, 0.9], [0.2, 0.0], [0.5, 0.1], [0.3, 0.4]]},
    },
    "EquitableSampling-v0": {
        "transfer": {
            "asymptotes": (0.9, 0.8, 0.7),
            "scales": (2.0, 3.0, 0.0),
            "costs": (1.0, 2.0, 7.0),
            "transfer": [[1, 0.5, 0], [0.1, 1, 0], [0, 0, 1]],
            **{"budget": 205.0, "spend": 20.0, "start": (20, 30, 40), "eta": 2.0},
        },
        "prs": {
            **{"mode": "prs", "markers": (4, 30), "validation": 9, "test": 11},
            **{"budget": 70.0, "spend": 10.0, "start": (7, 20), "genotypes": True},
        },
        "table": {
            **{"mode": "table", "data": ROSTER, "group": "where", "target": "income"},
            **{"budget": 66.0, "spend": 6.0, "start": 10, "eta": 0.0, "weights": (1, 2, 0)},
        },
        "logistic": {
            **{"mode": "table", "data": ROSTER, "group": "where", "target": "bought"},
            **{"model": "logistic", "budget": 60.0, "spend": 7.5, "start": 12},
        },
    },
    "TSP-v0": {
        "direct": {"nodes": 6, "mdp": "direct", "law": "clustered"},
        "matrix": {"instance": BLOCKS},
        "data_set": {"instances": {"coordinates": PLACES}, "mdp": "direct"},
        "mixture": {"nodes": 7, "law": "gaussian_mixture"},
    },
    "ATSP-v0": {
        "direct": {"nodes": 5, "mdp": "direct"},
        "three_nodes": {"nodes": 3},
        "symmetric_file": {"instance": BLOCKS},
    },
    "CVRP-v0": {
        "direct": {"nodes": 7, "mdp": "direct", "capacity": 12},
        "bq": {"nodes": 6, "capacity": 9},
        "rounded": {"instance": PARCELS},
        "rounded_direct": {"instance": PARCELS, "mdp": "direct"},
    },
    "Orienteering-v0": {
        "direct": {"nodes": 8, "mdp": "direct", "prizes": "unif", "budget": 2.2},
        "bq": {"nodes": 8, "budget": 2.5, "law": "clustered"},
        "hardly_a_budget": {"nodes": 5, "budget": 0.3},
        "data_set": {"instances": {"coordinates": PLACES, "budget": [2.9, 4.0, 3.2, 6.0]}},
    },
    "Knapsack-v0": {
        "direct": {"items": 9, "mdp": "direct"},
        "nothing_fits": {"items": 4, "capacity": 120},
        "nothing_fits_direct": {"items": 4, "capacity": 120, "mdp": "direct"},
    },
}

# How environments that are no arrays are rendered, where it is not as pictures.
ORDINARY_MODE = {"text": "ansi"}

# Arguments without which an environment cannot be made: the files of a user.
NEEDED: dict[str, dict] = {
    "GSM8K-v0": {"train": Path(__file__).parent / "word_problems.jsonl"},
}

CASES = [
    pytest.param(entry, arguments, id=f"{entry.id}-{name}")
    for entry in ENTRIES
    if "vector" in entry.faces
    for name, arguments in {"default": {}, **ARGUMENTS.get(entry.id, {})}.items()
]


def make_single(entry, arguments, **options):
    return gym.make(entry.id, **arguments, **options)


def make_ordinary(entry, rendered=False, **options):
    """An environment with no more arguments than it needs, rendered as its kind is."""
    if entry.id == "ReasoningGym-v0":
        pytest.importorskip("reasoning_gym")
    if rendered:
        options["render_mode"] = ORDINARY_MODE.get(entry.domain, "rgb_array")
    return gym.make(entry.id, **NEEDED.get(entry.id, {}), **options)


def is_text(env):
    return isinstance(env.action_space, gym.spaces.Text)


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
