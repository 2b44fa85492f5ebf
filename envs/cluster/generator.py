"""Synthetic data centres: machines that have been filled, emptied and refilled.

Arrivals are placed by best fit until the first that fits nowhere; a random quarter of the VMs
leaves, and more while the use of cores is above the load; new arrivals are placed by first fit, up
to the load, until 20 in a row are too large. What free cores that leaves is shattered as in a data
centre that has run for a while.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .mapping import Mapping
from .rules import SPLIT, best_fit, first_fit, on_nodes

SIZES = np.array([2, 4, 8, 16, 32, 64, 88])  # cores of a VM
SHARES = np.array([0.20, 0.25, 0.25, 0.1827, 0.07, 0.03, 0.0173])
SPLIT_FROM = 32  # cores from which a VM lies half on each NUMA node, where there are two
MEMORY_PER_CORE = 2  # GB
NODE_CORES = 44
NODE_MEMORY = 128  # GB
LEAVING = 0.25  # share of the VMs that leave at least
PATIENCE = 20  # arrivals in a row that are too large before the refill is given up
SPREAD = 3.0  # standard deviations between the mean number of VMs and the rows for them

State = dict[str, NDArray[Any]]


def check_arguments(pms: int, load: float, numa: int, anti_affinity: float) -> None:
    """ValueError for arguments that no data centre can have."""
    if isinstance(pms, bool) or not isinstance(pms, int | np.integer) or pms < 1:
        raise ValueError(f"pms={pms!r} must be an integer of at least 1")
    if not 0 < load <= 1:
        raise ValueError(f"load={load} is outside (0, 1]")
    if numa not in (1, 2):
        raise ValueError(f"numa={numa!r}, allowed are 1 and 2 nodes per machine")
    if not 0 <= anti_affinity <= 1:
        raise ValueError(f"anti_affinity={anti_affinity} is outside [0, 1]")


def size_law(numa: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Sizes in cores, and their probabilities; with one node only those that fit on it."""
    possible = SIZES <= NODE_CORES * numa
    return SIZES[possible], SHARES[possible] / SHARES[possible].sum()


def rows_for(pms: int, load: float, numa: int) -> int:
    """Rows that hold all VMs of nearly every data centre of these arguments."""
    sizes, shares = size_law(numa)
    mean = float(shares @ sizes)
    deviation = math.sqrt(float(shares @ sizes**2) - mean**2)
    count = pms * numa * NODE_CORES * load / mean
    return math.ceil(count + SPREAD * deviation / mean * math.sqrt(count)) + 1


def data_centre(
    rng: np.random.Generator,
    pms: int = 10,
    load: float = 0.85,
    numa: int = 2,
    anti_affinity: float = 0.0,
    vms: int | None = None,
) -> Mapping:
    """Draw one data centre.

    Args:
        rng: all randomness comes from it.
        pms: machines, each with `numa` nodes of 44 cores and 128 GB.
        load: use of cores up to which machines are refilled, in (0, 1].
        numa: nodes per machine, 1 or 2. With one node there are only VMs of up to 32 cores.
        anti_affinity: share of all pairs of VMs that are drawn as conflicts, in [0, 1]; those that
            share a machine at the start are left out.
        vms: VMs at most; by default as many as `rows_for` says.

    Raises:
        ValueError: an argument is out of range.
    """
    check_arguments(pms, load, numa, anti_affinity)
    vms = rows_for(pms, load, numa) if vms is None else vms
    capacity_cores = np.zeros((pms, 2), dtype=np.int64)
    capacity_cores[:, :numa] = NODE_CORES
    capacity_memory = capacity_cores // NODE_CORES * NODE_MEMORY
    filling = _Filling(capacity_cores, capacity_memory)
    arrivals = _arrivals(rng, numa)
    while filling.add(next(arrivals), best_fit):
        pass
    wanted = load * capacity_cores.sum()
    order = rng.permutation(len(filling.cores))
    left = filling.used - np.cumsum(np.array(filling.cores)[order])
    leaving = max(math.ceil(LEAVING * len(order)), len(order) - vms, int((left > wanted).sum()) + 1)
    leaving = min(leaving, len(order) - 1)
    filling.remove(order[:leaving])
    refused = 0
    while len(filling.cores) < vms and refused < PATIENCE:
        arrival = next(arrivals)
        small = filling.used + arrival[0] <= wanted
        refused = 0 if small and filling.add(arrival, first_fit) else refused + 1
    # Machine by machine, as inventories are, the largest VMs first.
    listed = np.lexsort(np.array([filling.node, -np.array(filling.cores), filling.owner]))
    cores, owner, node = (
        np.array(part)[listed] for part in (filling.cores, filling.owner, filling.node)
    )
    owner = owner - owner[0]  # machine 0 is never empty; the machines are all alike
    return Mapping(
        capacity_cores,
        capacity_memory,
        cores,
        cores * MEMORY_PER_CORE,
        owner,
        node,
        _conflicts(rng, owner, anti_affinity),
    )


def data_centres(count: int, seed: int, **arguments: Any) -> list[Mapping]:
    """A fixed data set: `count` data centres, the i-th drawn from `default_rng(seed + i)`.

    Args:
        count, seed: how many, and of the first one.
        arguments: as in `data_centre`.
    """
    return [data_centre(np.random.default_rng(seed + i), **arguments) for i in range(count)]


def _arrivals(rng: np.random.Generator, numa: int) -> Iterator[tuple[int, bool]]:
    """Cores of the VMs that arrive, and whether they are split."""
    sizes, shares = size_law(numa)
    while True:
        for size in rng.choice(sizes, size=64, p=shares):
            yield int(size), bool(size >= SPLIT_FROM and numa == 2)


class _Filling:
    """Machines while they are filled."""

    def __init__(
        self, capacity_cores: NDArray[np.int64], capacity_memory: NDArray[np.int64]
    ) -> None:
        self.free_cores, self.free_memory = capacity_cores.copy(), capacity_memory.copy()
        self.cores: list[int] = []
        self.owner: list[int] = []
        self.node: list[int] = []
        self.used = 0

    def add(self, arrival: tuple[int, bool], rule: Callable[..., Any]) -> bool:
        """Place a VM by a rule of `rules.py`, if it fits anywhere."""
        cores, split = arrival
        own = np.array([cores // 2 if split else cores])
        found = rule(
            self.free_cores[None], self.free_memory[None], own, own * MEMORY_PER_CORE, own < cores
        )
        owner, node, possible = (int(part[0]) for part in found)
        if possible:
            self._use(owner, node, cores)
            self.cores.append(cores)
            self.owner.append(owner)
            self.node.append(node)
        return bool(possible)

    def remove(self, leaving: NDArray[np.int64]) -> None:
        """Take VMs away."""
        for vm in leaving:
            self._use(self.owner[vm], self.node[vm], -self.cores[vm])
        gone = set(leaving.tolist())
        for name in ("cores", "owner", "node"):
            kept = [value for vm, value in enumerate(getattr(self, name)) if vm not in gone]
            setattr(self, name, kept)

    def _use(self, owner: int, node: int, cores: int) -> None:
        taken = on_nodes(np.array(cores // 2 if node == SPLIT else cores), np.array(node))
        self.free_cores[owner] -= taken
        self.free_memory[owner] -= taken * MEMORY_PER_CORE
        self.used += cores


def _conflicts(
    rng: np.random.Generator, owner: NDArray[np.int64], share: float
) -> NDArray[np.int64]:
    """Pairs [K, 2] of VMs on different machines."""
    if share == 0:
        return np.zeros((0, 2), dtype=np.int64)
    vms = len(owner)
    starts = np.concatenate([[0], np.cumsum(np.arange(vms - 1, 0, -1))])  # of the pairs (i, i + 1)
    pairs = np.sort(rng.choice(starts[-1], size=round(share * int(starts[-1])), replace=False))
    first = np.searchsorted(starts, pairs, side="right") - 1
    second = pairs - starts[first] + first + 1
    apart = owner[first] != owner[second]
    return np.stack([first[apart], second[apart]], axis=1)
