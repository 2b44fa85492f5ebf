"""A cluster that does not stand still: VMs that arrive and leave while an agent thinks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device

from ..base import Arrays
from .mapping import Mapping
from .rules import ABSENT, best_fit, on_nodes

SPARE_SECONDS = 60.0  # of events in the tape beyond those of the steps, for `advance`


def event_slots(churn: float, seconds: float) -> int:
    """Events for which the tape has room: more than happen in `seconds` in any likely episode."""
    mean = churn * seconds
    return math.ceil(mean + 6 * math.sqrt(mean)) + 6 if churn else 0


def draw_events(
    rng: np.random.Generator, churn: float, seconds: float, mapping: Mapping, rows: int
) -> Arrays:
    """The events of one episode, E of them.

    Args:
        rng: all randomness comes from it.
        churn: events per second.
        seconds: that the tape has to last.
        mapping: the cluster at the start; an arrival has the size of one of its VMs.
        rows: of VMs; arrivals beyond them are turned away.

    Returns:
        `event_seconds` float [E], ascending; `event_vm` int [E], the row that arrives (-1: a VM
        leaves; -2: nothing happens); `event_like` int [E], the VM whose size an arrival has;
        `event_pick` float [E], in [0, 1), which VM leaves.
    """
    slots = event_slots(churn, seconds)
    moments = np.cumsum(rng.exponential(1 / churn, slots))
    arrives = rng.random(slots) < 0.5
    present = len(mapping.cores)
    like = rng.integers(present, size=slots)
    row = present - 1 + np.cumsum(arrives)
    row = np.where(arrives, np.where(row < rows, row, -2), ABSENT)
    return {
        "event_seconds": moments,
        "event_vm": row,
        "event_like": like,
        "event_pick": rng.random(slots),
    }


def apply_event(state: Arrays, tape: Arrays, due: Any) -> Arrays:
    """The state after the next event of those clusters in which one is `due`, bool [n].

    Fields `event`, `owner`, `node`, `free_cores`, `free_memory`, `arrived`, `departed` and
    `refused` change; what moves are legal has to be found anew.
    """
    xp = array_namespace(state["owner"])
    rows = xp.arange(len(due), device=device(due))
    last = tape["event_vm"].shape[1] - 1
    event = xp.where(state["event"] < last, state["event"], 0 * state["event"] + last)
    kind = tape["event_vm"][rows, event]

    here = state["owner"] >= 0
    count = here.sum(axis=1)
    # The k-th VM that is there leaves, but never the only one.
    wanted = xp.astype(xp.floor(tape["event_pick"][rows, event] * count), xp.int64)
    leaving = xp.argmax(xp.astype(here.cumsum(1) == wanted[:, None] + 1, xp.int64), axis=1)
    leaves = due & (kind == ABSENT) & (count > 1)

    arriving = xp.where(kind >= 0, kind, 0 * kind)
    size = (state["cores"][rows, arriving], state["memory"][rows, arriving])
    split = state["split"][rows, arriving]
    machine, node, possible = best_fit(state["free_cores"], state["free_memory"], *size, split)
    arrives = due & (kind >= 0) & possible

    vm = xp.where(arrives, arriving, leaving)
    old_owner, old_node = state["owner"][rows, vm], state["node"][rows, vm]
    place = xp.where(arrives, machine, old_owner)
    on = xp.where(arrives, node, old_node)
    sign = xp.astype(leaves, xp.int64) - xp.astype(arrives, xp.int64)
    after = {**state}
    for name in ("owner", "node", "free_cores", "free_memory"):
        after[name] = xp.asarray(state[name], copy=True)
    for name in ("cores", "memory"):
        taken = on_nodes(state[name][rows, vm], on)
        after[f"free_{name}"][rows, place] += sign[:, None] * taken
    gone = 0 * place + ABSENT
    after["owner"][rows, vm] = xp.where(arrives, place, xp.where(leaves, gone, old_owner))
    after["node"][rows, vm] = xp.where(arrives, on, xp.where(leaves, gone, old_node))
    refused = due & ((kind >= 0) & ~possible | (kind == -2))
    after["event"] = state["event"] + xp.astype(due, xp.int64)
    for name, happened in (("arrived", arrives), ("departed", leaves), ("refused", refused)):
        after[name] = state[name] + xp.astype(happened, xp.int64)
    return after
