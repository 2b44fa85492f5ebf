"""A user's own cluster from JSON or CSV, and back.

A snapshot is a JSON file

    {"machines":  [{"name": "host-a", "cores": [44, 44], "memory": [128, 128]},
                   {"name": "host-b", "cores": 32, "memory": 64}],
     "vms":       [{"name": "web-1", "machine": "host-a", "cores": 8, "memory": 16, "node": 0},
                   {"name": "db", "machine": "host-a", "cores": 32, "memory": 64, "node": "both"},
                   {"name": "web-2", "machine": "host-b", "cores": 4, "memory": 8}],
     "conflicts": [["web-1", "web-2"]]}

or a folder of CSV files with a header: `machines.csv` (name, cores0, memory0 and, for a second NUMA
node, cores1, memory1), `vms.csv` (name, machine, cores, memory and, where a machine has two nodes,
node) and, if wanted, `conflicts.csv` (vm, other).

Cores and memory of a machine are those of each NUMA node, of a VM all that it has. All are whole
numbers; memory is in any unit, the same everywhere. `node` is 0, 1 or "both" (half on each). VMs in
conflict may not share a machine.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .mapping import Mapping
from .rules import SPLIT

NODES = {"0": 0, "1": 1, "both": SPLIT}
MACHINES, VMS, CONFLICTS = "machines.csv", "vms.csv", "conflicts.csv"


class _Row(NamedTuple):
    """An entry of a snapshot, and where it stands in its file."""

    place: str
    values: dict[str, Any]


def read_snapshot(path: str | Path) -> Mapping:
    """Read a JSON file or a folder of CSV files, as described above.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: something is wrong in it; the message gives the file and the line (CSV, broken
            JSON) or the entry.
    """
    path = Path(path)
    if path.is_dir():
        machines = list(
            _rows(path / MACHINES, ("name", "cores0", "memory0"), ("cores1", "memory1"))
        )
        vms = list(_rows(path / VMS, ("name", "machine", "cores", "memory"), ("node",)))
        third = path / CONFLICTS
        pairs = list(_rows(third, ("vm", "other"), ())) if third.exists() else []
        for row in machines:
            for name in ("cores", "memory"):
                row.values[name] = [row.values.pop(f"{name}0"), row.values.pop(f"{name}1", "") or 0]
    else:
        machines, vms, pairs = _entries(path)
    return _mapping(path, machines, vms, pairs)


def write_snapshot(mapping: Mapping, path: str | Path) -> None:
    """Write what `read_snapshot` reads: a JSON file if the name ends so, else a folder of CSVs."""
    path = Path(path)
    names = np.array(mapping.vm_names, dtype=object)
    conflicts = names[mapping.conflicts].tolist()
    labels = {number: label for label, number in NODES.items()}
    machines = [
        (name, *cores, *memory)
        for name, cores, memory in zip(
            mapping.machine_names,
            mapping.capacity_cores.tolist(),
            mapping.capacity_memory.tolist(),
            strict=True,
        )
    ]
    vms = [
        (name, mapping.machine_names[owner], cores, memory, labels[node])
        for name, owner, cores, memory, node in zip(
            mapping.vm_names,
            mapping.owner.tolist(),
            mapping.cores.tolist(),
            mapping.memory.tolist(),
            mapping.node.tolist(),
            strict=True,
        )
    ]
    if path.suffix != ".json":
        path.mkdir(parents=True, exist_ok=True)
        for file, header, rows in (
            (MACHINES, ("name", "cores0", "cores1", "memory0", "memory1"), machines),
            (VMS, ("name", "machine", "cores", "memory", "node"), vms),
            (CONFLICTS, ("vm", "other"), conflicts),
        ):
            with (path / file).open("w", newline="", encoding="utf-8") as stream:
                csv.writer(stream).writerows([header, *rows])
        return
    entries = {
        "machines": [{"name": n, "cores": [a, b], "memory": [c, d]} for n, a, b, c, d in machines],
        "vms": [
            {
                "name": n,
                "machine": m,
                "cores": c,
                "memory": g,
                "node": "both" if k == "both" else int(k),
            }
            for n, m, c, g, k in vms
        ],
        "conflicts": conflicts,
    }
    lines = [
        f'"{part}": [\n' + ",\n".join(json.dumps(entry) for entry in entries[part]) + "\n]"
        for part in entries
    ]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


# -- files -----------------------------------------------------------------------------------------


def _rows(path: Path, needed: tuple[str, ...], optional: tuple[str, ...]) -> Iterator[_Row]:
    """The rows of a CSV file."""
    with path.open(newline="", encoding="utf-8-sig") as stream:
        reader = csv.reader(stream)
        header = [name.strip() for name in next(reader, [])]
        _check_keys(f"{path}, line 1", header, needed, optional)
        for values in reader:
            if not values:
                continue
            place = f"{path}, line {reader.line_num}"
            if len(values) != len(header):
                raise ValueError(f"{place}: {len(values)} fields, the header has {len(header)}")
            yield _Row(place, dict(zip(header, (value.strip() for value in values), strict=True)))


def _entries(path: Path) -> tuple[list[_Row], list[_Row], list[_Row]]:
    """The entries of a JSON file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {error.lineno}: {error.msg}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: no text in UTF-8 ({error.reason})") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path}: an object with machines and vms is needed")
    _check_keys(str(path), found, ("machines", "vms"), ("conflicts",))
    parts: dict[str, list[_Row]] = {}
    for part, needed, optional in (
        ("machines", ("name", "cores", "memory"), ()),
        ("vms", ("name", "machine", "cores", "memory"), ("node",)),
        ("conflicts", (), ()),
    ):
        listed = found.get(part, [])
        if not isinstance(listed, list):
            raise ValueError(f"{path}, {part}: a list is needed")
        parts[part] = []
        for index, entry in enumerate(listed):
            place = f"{path}, {part}[{index}]"
            if part == "conflicts":
                if not isinstance(entry, list) or len(entry) != 2:
                    raise ValueError(f"{place}: a pair of names is needed, got {entry!r}")
                entry = dict(zip(("vm", "other"), entry, strict=True))
            elif not isinstance(entry, dict):
                raise ValueError(f"{place}: an object is needed, got {entry!r}")
            else:
                _check_keys(place, entry, needed, optional)
            parts[part].append(_Row(place, dict(entry)))
    for row in parts["machines"]:
        for name in ("cores", "memory"):
            value = row.values[name]
            value = value if isinstance(value, list) else [value, 0]
            if len(value) != 2:
                raise ValueError(f"{row.place}: {name} of one or two NUMA nodes, got {value}")
            row.values[name] = value
    return parts["machines"], parts["vms"], parts["conflicts"]


def _check_keys(
    place: str, given: Iterable[str], needed: tuple[str, ...], optional: tuple[str, ...]
) -> None:
    keys = list(given)
    if missing := [name for name in needed if name not in keys]:
        raise ValueError(f"{place}: {', '.join(missing)} missing")
    if unknown := [name for name in keys if name not in (*needed, *optional)]:
        allowed = ", ".join((*needed, *optional))
        raise ValueError(f"{place}: unknown {', '.join(map(str, unknown))}; allowed are {allowed}")


# -- entries ---------------------------------------------------------------------------------------


def _mapping(path: Path, machines: list[_Row], vms: list[_Row], pairs: list[_Row]) -> Mapping:
    """The mapping of checked entries."""
    if not machines or not vms:
        raise ValueError(f"{path}: {len(machines)} machines and {len(vms)} VMs, both are needed")
    capacity = {
        name: np.array(
            [[_whole(row, name, value) for value in row.values[name]] for row in machines]
        )
        for name in ("cores", "memory")
    }
    hosts, guests = _names(machines, "machine"), _names(vms, "VM")
    owner = np.array([_known(row, hosts, "machine") for row in vms])
    node = np.array(
        [_node(row, bool(capacity["cores"][host, 1])) for row, host in zip(vms, owner, strict=True)]
    )
    cores, memory = (
        np.array([_whole(row, name, row.values[name]) for row in vms])
        for name in ("cores", "memory")
    )
    conflicts = [[_known(row, guests, key) for key in ("vm", "other")] for row in pairs]
    try:
        return Mapping(
            capacity["cores"],
            capacity["memory"],
            cores,
            memory,
            owner,
            node,
            np.array(conflicts),
            tuple(hosts),
            tuple(guests),
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _names(rows: list[_Row], kind: str) -> dict[str, int]:
    """Index of every name, which may occur once only."""
    found: dict[str, int] = {}
    for index, row in enumerate(rows):
        name = str(row.values["name"])
        if not name or name in found:
            reason = f"a second {kind} with the name {name!r}" if name else f"{kind} without a name"
            raise ValueError(f"{row.place}: {reason}")
        found[name] = index
    return found


def _known(row: _Row, names: dict[str, int], key: str) -> int:
    name = str(row.values[key])
    if name not in names:
        kind = "machine" if key == "machine" else "VM"
        raise ValueError(f"{row.place}: there is no {kind} {name!r}")
    return names[name]


def _whole(row: _Row, name: str, value: Any) -> int:
    """A whole number of at least 0, also as text."""
    try:
        number = int(value) if isinstance(value, str) else value
    except ValueError:
        number = None
    if isinstance(number, float) and number.is_integer():
        number = int(number)
    if isinstance(number, bool) or not isinstance(number, int) or number < 0:
        raise ValueError(
            f"{row.place}: {name} must be a whole number of at least 0, got {value!r}; memory with "
            "fractions needs a smaller unit"
        )
    return number


def _node(row: _Row, two: bool) -> int:
    given = str(row.values.get("node", ""))
    if given == "" and not two:
        return 0
    if given not in NODES:
        why = "needed on a machine with two NUMA nodes" if given == "" else f"got {given!r}"
        raise ValueError(f"{row.place}: node is 0, 1 or both; {why}")
    return NODES[given]
