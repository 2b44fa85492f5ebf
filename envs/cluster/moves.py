"""Moves of virtual machines in a batch of clusters: which are legal, what they do and what they
gain.

A move is (VM, entry). The entry is the machine, or with `choices=2` machine * 2 + 1 to ask for the
other NUMA node first. A cluster is a dictionary of arrays (NumPy or torch), batch first: `owner`,
`node`, `cores`, `memory`, `split` [n, V], `free_cores`, `free_memory` [n, P, 2], `conflicts`
[n, K, 2] and `legal` [n, V, P * choices]; `legal` holds after every function of this module.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from array_api_compat import array_namespace, device

from ..base import Arrays
from .rules import FRAGMENT, SPLIT, conflict_column, conflict_matrix, legal_moves, on_nodes

CHANGED = ("owner", "node", "free_cores", "free_memory", "legal")


def all_legal(cluster: Arrays, choices: int) -> Any:
    """Legal moves, bool [n, V, P * choices]."""
    xp = array_namespace(cluster["owner"])
    machines = cluster["free_cores"].shape[1]
    every = xp.arange(machines, device=device(cluster["owner"]))[None, :]
    blocked = conflict_matrix(cluster["owner"], cluster["conflicts"], machines)
    cores, memory = cluster["free_cores"], cluster["free_memory"]
    legal = legal_moves(cluster, cores, memory, every, blocked, choices == 2)
    return xp.reshape(legal, (*cluster["owner"].shape, -1))


def staying(cluster: Arrays, choices: int) -> Any:
    """The moves that leave a VM where it is, bool [n, V, P * choices]."""
    xp = array_namespace(cluster["owner"])
    entries = cluster["free_cores"].shape[1] * choices
    index = xp.arange(entries, device=device(cluster["owner"]))
    return (cluster["owner"] * choices)[..., None] == index[None, None, :]


def renew_legal(cluster: Arrays, machine: Any, choices: int) -> None:
    """Find anew, in place, which moves to one machine per cluster, int [n], are legal."""
    xp, on = array_namespace(cluster["owner"]), device(cluster["owner"])
    rows = xp.arange(len(machine), device=on)
    blocked = conflict_column(cluster["owner"], cluster["conflicts"], machine)[..., None]
    cores, memory = (
        cluster[name][rows, machine][:, None] for name in ("free_cores", "free_memory")
    )
    column = legal_moves(cluster, cores, memory, machine[:, None], blocked, choices == 2)
    vms = xp.arange(cluster["owner"].shape[1], device=on)[None, :]
    for choice in range(choices):
        place = (machine * choices + choice)[:, None]
        cluster["legal"][rows[:, None], vms, place] = column[..., 0, choice]


def move(cluster: Arrays, vm: Any, entry: Any, choices: int) -> tuple[Arrays, Any]:
    """The clusters after one move each; a move that is not legal changes nothing.

    Args:
        cluster: as above; other entries are passed on.
        vm, entry: the moves, int [n].
        choices: entries per machine, 1 or 2.

    Returns:
        The clusters, and VM, source and target of what has moved, int [n, 3], -1 where nothing has.
    """
    xp = array_namespace(cluster["owner"])
    rows = xp.arange(len(vm), device=device(cluster["owner"]))
    target, across = entry // choices, entry % choices
    source, node = cluster["owner"][rows, vm], cluster["node"][rows, vm]
    size = {name: cluster[name][rows, vm] for name in ("cores", "memory")}
    split = cluster["split"][rows, vm]
    moves = cluster["legal"][rows, vm, entry] & ((source != target) | (across == 1))
    # The node that is asked for if the VM fits there, else the other.
    asked = xp.where(moves & ~split, (node + across) % 2, 0 * node)
    fits = (cluster["free_cores"][rows, target, asked] >= size["cores"]) & (
        cluster["free_memory"][rows, target, asked] >= size["memory"]
    )
    goes = xp.where(split, 0 * node + SPLIT, xp.where(fits, asked, 1 - asked))
    goes = xp.where(moves, goes, node)

    after = {**cluster}
    for name in CHANGED:
        after[name] = xp.asarray(cluster[name], copy=True)
    weight = xp.astype(moves, xp.int64)[:, None]
    start = xp.where(moves, source, target)  # a machine also where there is no VM
    for name in size:
        free = after[f"free_{name}"]
        free[rows, start] += weight * on_nodes(size[name], node)
        free[rows, target] -= weight * on_nodes(size[name], goes)
    after["owner"][rows, vm] = xp.where(moves, target, source)
    after["node"][rows, vm] = goes
    renew_legal(after, start, choices)
    renew_legal(after, target, choices)
    moved = xp.stack([vm, source, target], axis=-1)
    return after, xp.where(moves[:, None], moved, 0 * moved - 1)


def gains(cluster: Arrays, choices: int, cost: Any = None) -> Any:
    """By how much each legal move decreases the fragments, int [n, V, P * choices]; 0 for a move
    that is not legal, or moves nothing.

    Args:
        cluster, choices: as above.
        cost: of 0 .. 15 cores left over on a node, int [16]; None: their number.
    """
    xp = array_namespace(cluster["owner"])

    def paid(free_cores: Any) -> Any:
        return free_cores % FRAGMENT if cost is None else cost[free_cores % FRAGMENT]

    rows = xp.arange(len(cluster["owner"]), device=device(cluster["owner"]))[:, None]
    owner, node = cluster["owner"], cluster["node"]
    split = cluster["split"][..., None]
    host = xp.where(owner >= 0, owner, 0 * owner)
    free, size = cluster["free_cores"], cluster["cores"]
    here = free[rows, host]  # [n, V, 2]
    left = (paid(here) - paid(here + on_nodes(size, node))).sum(axis=-1)
    # What the VM costs, or gains, on either node of every machine.
    change = [
        paid(free[:, None, :, side]) - paid(free[:, None, :, side] - size[..., None])
        for side in (0, 1)
    ]
    fits = [
        (free[:, None, :, side] >= size[..., None])
        & (cluster["free_memory"][:, None, :, side] >= cluster["memory"][..., None])
        for side in (0, 1)
    ]
    both = change[0] + change[1]
    found = []
    for choice in range(choices):
        first = ((node + choice) % 2 == 0)[..., None]
        on_first = xp.where(first, fits[0], ~fits[1])  # whether it goes to node 0
        single = xp.where(on_first, change[0], change[1])
        found.append(left[..., None] + xp.where(split, both, single))
    total = xp.reshape(xp.stack(found, axis=-1), cluster["legal"].shape)
    return xp.where(cluster["legal"] & ~staying(cluster, choices), total, 0 * total)


def why_illegal(cluster: Arrays, row: int, vm: int, entry: int, choices: int) -> str:
    """What speaks against a move that is not legal, in one sentence."""
    machine, split = entry // choices, bool(cluster["split"][row, vm])
    if cluster["owner"][row, vm] < 0:
        return f"row {vm} holds no VM"
    own, pairs = (np.asarray(cluster[name])[[row]] for name in ("owner", "conflicts"))
    if conflict_column(own, pairs, np.array([machine]))[0, vm]:
        return f"machine {machine} hosts a VM in conflict with VM {vm}"
    if split and entry % choices:
        return f"VM {vm} lies on both NUMA nodes, it has no other one"
    return (
        f"VM {vm} takes {cluster['cores'][row, vm]} cores and {cluster['memory'][row, vm]} memory "
        f"on {'each' if split else 'a'} NUMA node, machine {machine} has "
        f"{cluster['free_cores'][row, machine].tolist()} cores and "
        f"{cluster['free_memory'][row, machine].tolist()} memory free"
    )
