"""What an agent sees of a cluster: tables of machines, VMs and legal moves, scaled."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
from array_api_compat import array_namespace

from ..base import Arrays
from .rules import FRAGMENT, on_nodes

CORES_SCALE = 88.0  # cores of a machine, by which observations are scaled
PM_FEATURES, VM_FEATURES = 8, 6


def observation_space(vms: int, pms: int, choices: int, node_cores: int) -> gym.spaces.Dict:
    """The space of `tables`.

    Args:
        vms, pms: rows of the tables.
        choices: entries of an action per machine.
        node_cores: most cores of a NUMA node.
    """
    most = max(node_cores / CORES_SCALE, 1.0)
    bounds = {
        "pms": (0.0, most, pms * PM_FEATURES),
        "vms": (0.0, most, vms * VM_FEATURES),
        "owner": (-1.0, max(pms - 1.0, 0.0), vms),
        "legal": (0.0, 1.0, vms * pms * choices),
        "progress": (0.0, 1.0, 1),
    }
    return gym.spaces.Dict(
        {
            name: gym.spaces.Box(low, high, (size,), np.float32)
            for name, (low, high, size) in bounds.items()
        }
    )


def tables(state: Arrays, memory_scale: float, horizon: int) -> Arrays:
    """Observations of a batch, float32 [n, ...]; see `VMRescheduling`.

    Args:
        state: of n clusters.
        memory_scale: largest memory of a machine.
        horizon: steps at which the progress is 1.
    """
    xp = array_namespace(state["owner"])
    count = len(state["t"])
    free = xp.astype(state["free_cores"], xp.float64)
    rest = xp.astype(state["free_cores"] % FRAGMENT, xp.float64)
    share = rest / xp.where(free > 0, free, 0 * free + 1)
    shattered = xp.reshape(xp.stack([share, rest / FRAGMENT], axis=-1), (count, -1, 4))
    memory = xp.astype(state["free_memory"], xp.float64) / memory_scale
    there = state["owner"] >= 0
    cores = on_nodes(state["cores"] * there, state["node"])
    needed = on_nodes(state["memory"] * there, state["node"])
    vms = [
        xp.astype(cores, xp.float64) / CORES_SCALE,
        xp.astype(needed, xp.float64) / memory_scale,
        xp.astype(cores % FRAGMENT, xp.float64) / FRAGMENT,
    ]
    found = {
        "pms": xp.concat([free / CORES_SCALE, memory, shattered], axis=-1),
        "vms": xp.concat(vms, axis=-1),
        "owner": state["owner"],
        "legal": state["legal"],
        "progress": xp.astype(state["t"], xp.float64) / horizon,
    }
    return {
        name: xp.astype(xp.reshape(table, (count, -1)), xp.float32) for name, table in found.items()
    }
