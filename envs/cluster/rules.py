"""Where a virtual machine fits, and what is left in fragments: the rules of a cluster on arrays.

Arrays are NumPy's or torch's, with the batch first: n clusters, P machines (PMs) with two NUMA
nodes each, V virtual machines (VMs). `cores` and `memory` of a VM are what it takes of ONE node: a
split VM takes them of both. `node` is 0 or 1, 2 for a split VM, -1 for a VM that is not there.
"""

from __future__ import annotations

from typing import Any

from array_api_compat import array_namespace, device

FRAGMENT = 16  # cores of the VM size by which free cores are counted as useful
SPLIT = 2  # `node` of a VM that lies half on each NUMA node
ABSENT = -1  # `owner` and `node` of a row without a VM
FULL = 2**62  # more cores than any left-over


def fragments(free_cores: Any) -> Any:
    """Free cores that no further VM of 16 cores could use, [n, P, 2] -> int [n]."""
    return (free_cores % FRAGMENT).sum(axis=(-2, -1))


def fragment_rate(free_cores: Any) -> Any:
    """Share of the free cores that are fragments, [n, P, 2] -> float64 [n]; 0 if none is free."""
    xp = array_namespace(free_cores)
    free = free_cores.sum(axis=(-2, -1))
    shattered = xp.astype(fragments(free_cores), xp.float64)
    return shattered / xp.astype(xp.where(free > 0, free, free * 0 + 1), xp.float64)


def on_nodes(size: Any, node: Any) -> Any:
    """What a VM of `size` takes of each node, [...] -> [..., 2]."""
    xp = array_namespace(size)
    return xp.stack([size * (node != 1), size * (node != 0)], axis=-1)


def places(free_cores: Any, free_memory: Any, cores: Any, memory: Any, split: Any) -> Any:
    """On which node of which machine one VM per cluster may lie, bool [n, P, 2].

    For a split VM the entry of node 0 says whether it fits on both, that of node 1 is False.

    Args:
        free_cores, free_memory: [n, P, 2].
        cores, memory, split: of the VM, [n].
    """
    xp = array_namespace(free_cores)
    fits = (free_cores >= cores[:, None, None]) & (free_memory >= memory[:, None, None])
    first, second, halved = fits[..., 0], fits[..., 1], split[:, None]
    return xp.stack([first & (second | ~halved), second & ~halved], axis=-1)


def best_fit(
    free_cores: Any, free_memory: Any, cores: Any, memory: Any, split: Any
) -> tuple[Any, Any, Any]:
    """The place with the fewest cores left over; of equal ones the first.

    Arguments as in `places`.

    Returns:
        Machine and node of the VM, both int [n], and whether there is a place at all, bool [n].
    """
    xp = array_namespace(free_cores)
    allowed = places(free_cores, free_memory, cores, memory, split)
    left = free_cores - cores[:, None, None]
    both = left.sum(axis=-1)[..., None] + 0 * left
    score = xp.where(allowed, xp.where(split[:, None, None], both, left), 0 * left + FULL)
    return _take(allowed, xp.argmin(xp.reshape(score, (len(split), -1)), axis=1), split)


def first_fit(
    free_cores: Any, free_memory: Any, cores: Any, memory: Any, split: Any
) -> tuple[Any, Any, Any]:
    """The first place that there is; arguments and results as in `best_fit`."""
    xp = array_namespace(free_cores)
    allowed = places(free_cores, free_memory, cores, memory, split)
    flat = xp.astype(xp.reshape(allowed, (len(split), -1)), xp.int64)
    return _take(allowed, xp.argmax(flat, axis=1), split)


def _take(allowed: Any, index: Any, split: Any) -> tuple[Any, Any, Any]:
    """Machine, node and whether it is allowed, of a flat index [n] into the places."""
    xp = array_namespace(allowed)
    rows = xp.arange(len(split), device=device(split))
    machine, node = index // 2, index % 2
    return machine, xp.where(split, 0 * node + SPLIT, node), allowed[rows, machine, node]


def legal_moves(
    cluster: dict[str, Any], cores: Any, memory: Any, machine: Any, blocked: Any, extended: bool
) -> Any:
    """Which VMs may go to which of J machines, bool [n, V, J, 1]; [n, V, J, 2] if `extended`.

    Staying is always legal for a VM that is there. Another machine is legal if the VM fits on one
    of its nodes (a split VM on both) and none of its VMs is in conflict with it. The second entry
    of `extended` asks for the other NUMA node first: legal under the same rule for a VM on one
    node, on its own machine if it fits on the other node, and never for a split VM.

    Args:
        cluster: owner, node, cores, memory, split of the VMs, [n, V].
        cores, memory: free on the nodes of the J machines, [n, J, 2].
        machine: which machines these are, int [n or 1, J].
        blocked: whether a machine hosts a VM in conflict, bool [n, V, J].
        extended: whether there is the second entry.
    """
    xp = array_namespace(cores)
    owner, node, split = cluster["owner"], cluster["node"], cluster["split"][..., None]
    fits = [
        (cores[:, None, :, side] >= cluster["cores"][..., None])
        & (memory[:, None, :, side] >= cluster["memory"][..., None])
        for side in (0, 1)
    ]
    own = owner[..., None] == machine[:, None, :]
    there = (owner >= 0)[..., None]
    # Either node of a VM on one node, both of a split one.
    elsewhere = ((fits[0] & fits[1]) | ((fits[0] | fits[1]) & ~split)) & ~blocked
    legal = (own | elsewhere) & there
    if not extended:
        return legal[..., None]
    across = xp.where((node == 0)[..., None], fits[1], fits[0])
    flipped = xp.where(own, across, elsewhere) & ~split & there
    return xp.stack([legal, flipped], axis=-1)


def conflict_matrix(owner: Any, conflicts: Any, machines: int) -> Any:
    """Which machines host a VM in conflict with which VM, bool [n, V, P].

    Args:
        owner: int [n, V].
        conflicts: pairs in both orders, int [n, K, 2], padded with -1.
        machines: P.
    """
    xp = array_namespace(owner)
    blocked = xp.zeros((*owner.shape, machines), dtype=xp.bool, device=device(owner))
    hosts = hosts_in_conflict(owner, conflicts)
    cluster, pair = xp.nonzero(hosts >= 0)
    blocked[cluster, conflicts[cluster, pair, 0], hosts[cluster, pair]] = True
    return blocked


def conflict_column(owner: Any, conflicts: Any, machine: Any) -> Any:
    """Whether one machine per cluster hosts a VM in conflict with each VM, bool [n, V].

    Args:
        owner, conflicts: as in `conflict_matrix`.
        machine: int [n].
    """
    xp = array_namespace(owner)
    blocked = xp.zeros(owner.shape, dtype=xp.bool, device=device(owner))
    cluster, pair = xp.nonzero(hosts_in_conflict(owner, conflicts) == machine[:, None])
    blocked[cluster, conflicts[cluster, pair, 0]] = True
    return blocked


def hosts_in_conflict(owner: Any, conflicts: Any) -> Any:
    """Machine of the second VM of every pair, int [n, K]; -1 where there is no pair or no VM."""
    xp = array_namespace(owner)
    clusters = xp.arange(len(owner), device=device(owner))[:, None]
    second = conflicts[..., 1]
    return xp.where(second >= 0, owner[clusters, second], 0 * second + ABSENT)
