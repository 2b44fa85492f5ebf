"""A cluster at one moment: machines, virtual machines, and which of them lies where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .rules import ABSENT, SPLIT, fragment_rate, fragments, on_nodes

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Mapping:
    """Machines (PMs), virtual machines (VMs) and their places, checked.

    Cores and memory are whole numbers; memory is in any unit, the same everywhere (GiB, say, or MiB
    where there are fractions of a GiB).

    Attributes:
        capacity_cores, capacity_memory: of the two NUMA nodes of each machine, [P, 2]; 0 for a node
            that a machine does not have.
        cores, memory: of each VM in all, [V]; even for a split one.
        owner: machine of each VM, [V].
        node: NUMA node of each VM, 0 or 1; 2 for a VM that lies half on each, [V].
        conflicts: pairs of VMs that may not share a machine, [K, 2].
        machine_names, vm_names: by default pm0, pm1, ... and vm0, vm1, ...

    Raises:
        ValueError: numbers that are not whole, wrong shapes, a VM without a place, a node that is
            overfull, or a conflict that is broken; the message names the machine or the VM.
    """

    capacity_cores: Integers
    capacity_memory: Integers
    cores: Integers
    memory: Integers
    owner: Integers
    node: Integers
    conflicts: Integers = field(default_factory=lambda: np.zeros((0, 2), dtype=np.int64))
    machine_names: tuple[str, ...] = ()
    vm_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("capacity_cores", "capacity_memory", "cores", "memory", "owner", "node"):
            object.__setattr__(self, name, whole(name, getattr(self, name)))
        conflicts = whole("conflicts", np.reshape(np.asarray(self.conflicts), (-1, 2)))
        object.__setattr__(self, "conflicts", conflicts)
        machines, vms = len(self.capacity_cores), len(self.cores)
        for name, size in (("machine_names", machines), ("vm_names", vms)):
            given = tuple(map(str, getattr(self, name)))
            given = given or tuple(f"{'pm' if name[0] == 'm' else 'vm'}{i}" for i in range(size))
            object.__setattr__(self, name, given)
            if len(given) != size or len(set(given)) != size:
                raise ValueError(f"{name} holds {len(set(given))} different names for {size}")
        if machines < 1 or vms < 1:
            raise ValueError(f"a mapping of {machines} machines and {vms} VMs has nothing to move")
        for name, shape in (
            ("capacity_cores", (machines, 2)),
            ("capacity_memory", (machines, 2)),
            *((name, (vms,)) for name in ("memory", "owner", "node")),
        ):
            if getattr(self, name).shape != shape:
                found = getattr(self, name).shape
                raise ValueError(f"{name} has shape {found}, allowed here is {shape}")
        self._check_numbers()
        self._check_places()

    def _check_numbers(self) -> None:
        machines, vms = self.machine_names, self.vm_names
        for values, least, names in (
            (self.capacity_cores.min(axis=1), 0, machines),
            (self.capacity_memory.min(axis=1), 0, machines),
            (self.cores, 1, vms),
            (self.memory, 0, vms),
        ):
            if (low := values < least).any():
                worst = int(np.argmax(low))
                raise ValueError(
                    f"{names[worst]} has {values[worst]} cores or memory, at least {least} is "
                    "allowed"
                )
        for label, values, most in (
            ("machine", self.owner, len(machines) - 1),
            ("NUMA node", self.node, SPLIT),
        ):
            if (wrong := (values < 0) | (values > most)).any():
                vm = int(np.argmax(wrong))
                raise ValueError(f"{vms[vm]}: {label} {values[vm]} is outside 0 .. {most}")
        if (odd := self.split & ((self.cores % 2 == 1) | (self.memory % 2 == 1))).any():
            vm = int(np.argmax(odd))
            raise ValueError(
                f"{vms[vm]} is split over both nodes, so its {self.cores[vm]} cores and its memory "
                f"of {self.memory[vm]} must be even"
            )

    def _check_places(self) -> None:
        for name, free, capacity in (
            ("cores", self.free_cores, self.capacity_cores),
            ("memory", self.free_memory, self.capacity_memory),
        ):
            if (free < 0).any():
                machine, node = (int(i) for i in np.argwhere(free < 0)[0])
                raise ValueError(
                    f"{self.machine_names[machine]}: the VMs on NUMA node {node} use "
                    f"{(capacity - free)[machine, node]} of {capacity[machine, node]} {name}"
                )
        vms, pairs = self.vm_names, self.conflicts
        if ((pairs < 0) | (pairs >= len(vms))).any():
            raise ValueError(f"conflicts name VMs outside 0 .. {len(vms) - 1}")
        broken = self.owner[pairs[:, 0]] == self.owner[pairs[:, 1]]
        if broken.any():
            first, second = pairs[int(np.argmax(broken))]
            if first == second:
                raise ValueError(f"{vms[first]} is in conflict with itself")
            raise ValueError(
                f"{vms[first]} and {vms[second]} are in conflict, but both are on "
                f"{self.machine_names[self.owner[first]]}"
            )

    # -- what follows from it ----------------------------------------------------------------------

    @property
    def split(self) -> NDArray[np.bool_]:
        """Which VMs lie half on each NUMA node, [V]."""
        return self.node == SPLIT

    @property
    def cores_per_node(self) -> Integers:
        """Cores of a VM on one node that it uses, [V]."""
        return np.where(self.split, self.cores // 2, self.cores)

    @property
    def memory_per_node(self) -> Integers:
        """Memory of a VM on one node that it uses, [V]."""
        return np.where(self.split, self.memory // 2, self.memory)

    @property
    def free_cores(self) -> Integers:
        """Cores that no VM uses, [P, 2]."""
        return self._free(self.capacity_cores, self.cores_per_node)

    @property
    def free_memory(self) -> Integers:
        """Memory that no VM uses, [P, 2]."""
        return self._free(self.capacity_memory, self.memory_per_node)

    def _free(self, capacity: Integers, size: Integers) -> Integers:
        free = capacity.copy()
        np.subtract.at(free, self.owner, on_nodes(size, self.node))
        return free

    @property
    def fragments(self) -> int:
        """Free cores beyond multiples of 16 on their NUMA nodes."""
        return int(fragments(self.free_cores))

    @property
    def fragment_rate(self) -> float:
        """Fragments over free cores; 0 where nothing is free."""
        return float(fragment_rate(self.free_cores[None])[0])

    def moved(self, owner: ArrayLike, node: ArrayLike) -> Self:
        """The same cluster with its VMs elsewhere, checked."""
        return replace(self, owner=np.asarray(owner), node=np.asarray(node))

    def padded(self, machines: int, vms: int, pairs: int) -> dict[str, Any]:
        """The arrays of an episode, without a batch axis; rows that hold nothing are 0, their
        `owner`, `node` and `conflicts` -1.

        Args:
            machines, vms: rows.
            pairs: conflicts, each in both orders.
        """

        def pad(values: NDArray[Any], rows: int, filling: int = 0) -> NDArray[Any]:
            extra = [(0, rows - len(values))] + [(0, 0)] * (values.ndim - 1)
            return np.pad(values, extra, constant_values=filling)

        both = np.concatenate([self.conflicts, self.conflicts[:, ::-1]])
        return {
            "capacity_cores": pad(self.capacity_cores, machines),
            "capacity_memory": pad(self.capacity_memory, machines),
            "free_cores": pad(self.free_cores, machines),
            "free_memory": pad(self.free_memory, machines),
            "cores": pad(self.cores_per_node, vms),
            "memory": pad(self.memory_per_node, vms),
            "split": pad(self.split, vms),
            "owner": pad(self.owner, vms, ABSENT),
            "node": pad(self.node, vms, ABSENT),
            "conflicts": pad(both, pairs, ABSENT),
        }


def whole(name: str, values: Any) -> Integers:
    """`values` as int64.

    Raises:
        ValueError: one of them is no whole number.
    """
    given = np.asarray(values)
    if given.dtype.kind not in "iufb" or not (np.isfinite(given) & (given % 1 == 0)).all():
        wrong = given
        if given.dtype.kind == "f":
            wrong = given[~(np.isfinite(given) & (given % 1 == 0))][:1]
        raise ValueError(
            f"{name} must be whole numbers, got {wrong.tolist()}; give memory with fractions in a "
            "smaller unit"
        )
    return given.astype(np.int64)


def as_mappings(given: Any) -> tuple[Mapping, ...]:
    """Mappings from a `Mapping`, the path of a snapshot, or a sequence of these.

    Raises:
        ValueError: there is none, or a file is broken.
    """
    from .snapshot import read_snapshot

    if isinstance(given, Mapping):
        return (given,)
    if not isinstance(given, Sequence) or isinstance(given, str):
        return (read_snapshot(given),)
    if not given:
        raise ValueError("mappings is empty, it needs at least one")
    return tuple(mapping for each in given for mapping in as_mappings(each))
