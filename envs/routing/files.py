"""Reading TSPLIB, ATSPLIB and CVRPLIB files, and lists and files of solutions.

Every line is checked first, so that a broken file is refused with the line and the reason; then
`vrplib` (extra "routing") reads specifications, coordinates and demands. Distances follow from
`distances.py` in the file's own rounding, and explicit ones are unfolded here: of their formats
`vrplib` knows two.

Sources: G. Reinelt, TSPLIB 95 (1995); http://vrp.galgos.inf.puc-rio.br (CVRPLIB).
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...extras import require
from .distances import COORDINATE_TYPES
from .file_lines import SECTIONS, Lines, scan
from .instance import RoutingInstance, Solution

LARGEST_MATRIX = 3_000  # nodes up to which a matrix is computed from coordinates (72 MB)
TYPES = {"TSP": "tsp", "ATSP": "atsp", "CVRP": "cvrp"}
WEIGHT_TYPES = (*(name for name in COORDINATE_TYPES if name is not None), "EXPLICIT")
# Shape of a format: which part of the matrix its numbers fill, row by row. What is written column
# by column is the other triangle, row by row.
FORMATS = {
    "FULL_MATRIX": "full",
    "UPPER_ROW": "upper",
    "LOWER_COL": "upper",
    "UPPER_DIAG_ROW": "upper diagonal",
    "LOWER_DIAG_COL": "upper diagonal",
    "LOWER_ROW": "lower",
    "UPPER_COL": "lower",
    "LOWER_DIAG_ROW": "lower diagonal",
    "UPPER_DIAG_COL": "lower diagonal",
}


def read_tsplib(path: str | Path) -> RoutingInstance:
    """A symmetric or asymmetric travelling salesman problem of TSPLIB.

    Args:
        path: TYPE TSP or ATSP; EDGE_WEIGHT_TYPE EUC_2D, CEIL_2D, ATT, GEO, or EXPLICIT in any of
            its matrix formats.

    Returns:
        In the file's units and rounding. Of more than 3,000 nodes with coordinates no matrix is
        computed.

    Raises:
        ValueError: "FILE, line N: reason".
        FileNotFoundError: there is no such file.
        ImportError: vrplib is not installed.
    """
    return _read(path, ("TSP", "ATSP"))


def read_cvrplib(path: str | Path) -> RoutingInstance:
    """A capacitated vehicle routing problem of CVRPLIB; the depot becomes node 0.

    Args:
        path: TYPE CVRP with one depot; EDGE_WEIGHT_TYPE as in `read_tsplib`.

    Returns:
        In the file's units and rounding, see `read_tsplib`.

    Raises:
        ValueError, FileNotFoundError, ImportError: as in `read_tsplib`.
    """
    return _read(path, ("CVRP",))


def _read(path: str | Path, types: tuple[str, ...]) -> RoutingInstance:
    lines = scan(path)
    where, given = lines.specification("TYPE")
    kind = given.split()[0] if given else ""
    if kind not in types:
        lines.fail(where, f"unknown TYPE {given!r}, allowed are {' and '.join(types)}")
    where, word = lines.specification("DIMENSION")
    n = lines.integer(where, word, "DIMENSION", 2)
    where, weights = lines.specification("EDGE_WEIGHT_TYPE")
    if weights not in WEIGHT_TYPES:
        allowed = ", ".join(WEIGHT_TYPES)
        lines.fail(where, f"unknown EDGE_WEIGHT_TYPE {weights!r}, allowed are {allowed}")
    explicit = weights == "EXPLICIT"
    if "FIXED_EDGES_SECTION" in lines.sections:
        lines.fail(lines.headings["FIXED_EDGES_SECTION"], "fixed edges are not supported")
    if not explicit:
        lines.section("NODE_COORD_SECTION")
    _check_tables(lines, n)
    if kind == "CVRP":
        _check_vehicles(lines, n)
    content = _parsed(lines)
    coordinates = content.get("node_coord", content.get("display_data"))
    matrix = _unfolded(lines, n) if explicit else None
    order = np.arange(n)
    demands = None
    if kind == "CVRP":
        depot = int(content["depot"][0])
        order = np.concatenate([[depot], np.delete(order, depot)])
        demands = np.asarray(content["demand"], dtype=np.float64)[order]
        _check_demands(lines, demands, order, float(content["capacity"]))
    if matrix is not None:
        _check_distances(lines, matrix, symmetric=kind == "TSP")
        matrix = matrix[order][:, order]
    instance = RoutingInstance(
        name=lines.specifications.get("NAME", (0, lines.path.stem))[1],
        kind=TYPES[kind],
        coordinates=None if coordinates is None else np.asarray(coordinates, np.float64)[order],
        matrix=matrix,
        demands=demands,
        capacity=float(content["capacity"]) if kind == "CVRP" else None,
        edge_weight_type=weights,
        comment=" ".join(lines.comments),
    )
    if matrix is None and n <= LARGEST_MATRIX:
        return replace(instance, matrix=instance.distance_matrix())
    return instance


def _check_tables(lines: Lines, n: int) -> None:
    """Sections with one line per node: numbers, and every node 1 .. n once."""
    for name, width in SECTIONS.items():
        if width is None or name not in lines.sections:
            continue
        seen: dict[int, int] = {}
        for line, words in lines.sections[name]:
            if len(words) != width:
                lines.fail(line, f"{len(words)} entries in {name}, expected {width}")
            node = lines.integer(line, words[0], "the node", 1)
            if node > n:
                lines.fail(line, f"node {node} is above DIMENSION {n}")
            if node in seen:
                lines.fail(line, f"node {node} is there twice, first in line {seen[node]}")
            seen[node] = line
            for word in words[1:]:
                lines.number(line, word)
        if len(seen) < n:
            lines.fail(lines.after(name), f"{name} has {len(seen)} nodes, DIMENSION is {n}")
        lines.sections[name].sort(key=lambda row: int(float(row[1][0])))


def _check_vehicles(lines: Lines, n: int) -> None:
    """Capacity, demands and one depot."""
    where, word = lines.specification("CAPACITY")
    if lines.number(where, word) <= 0:
        lines.fail(where, f"CAPACITY is {word}, it must be above 0")
    lines.section("DEMAND_SECTION")
    words = [(line, word) for line, row in lines.section("DEPOT_SECTION") for word in row]
    numbers = [lines.integer(line, word, "the depot", -1) for line, word in words]
    depots = numbers[: numbers.index(-1)] if -1 in numbers else numbers
    if len(depots) != 1:
        lines.fail(lines.after("DEPOT_SECTION"), f"there are {len(depots)} depots, expected 1")
    if not 1 <= depots[0] <= n:
        lines.fail(words[0][0], f"depot {depots[0]} is no node 1 .. {n}")


def _parsed(lines: Lines) -> dict[str, Any]:
    """What vrplib reads: all but the explicit weights, and the texts that could confuse it."""
    parse = require("vrplib.parse", extra="routing").parse_vrplib
    text = [
        f"{name} : {value}"
        for name, (_, value) in lines.specifications.items()
        if name in ("DIMENSION", "CAPACITY")
    ]
    for name, rows in lines.sections.items():
        if name != "EDGE_WEIGHT_SECTION":
            text += [name, *(" ".join(words) for _, words in rows)]
    content: dict[str, Any] = parse("\n".join(text), compute_edge_weights=False)
    return content


def _unfolded(lines: Lines, n: int) -> NDArray[np.float64]:
    """The matrix [n, n] of an EXPLICIT file, its diagonal 0."""
    where, name = lines.specification("EDGE_WEIGHT_FORMAT")
    if name not in FORMATS:
        lines.fail(where, f"unknown EDGE_WEIGHT_FORMAT {name!r}, allowed are {', '.join(FORMATS)}")
    shape = FORMATS[name]
    diagonal = 0 if "diagonal" in shape else 1
    if shape == "full":
        places = np.divmod(np.arange(n * n), n)
    elif shape.startswith("upper"):
        places = np.triu_indices(n, diagonal)
    else:
        places = np.tril_indices(n, -diagonal)
    expected, numbers = len(places[0]), []
    for line, words in lines.section("EDGE_WEIGHT_SECTION"):
        numbers += [lines.number(line, word) for word in words]
        if len(numbers) > expected:
            lines.fail(line, f"more than the {expected} weights that {name} has for {n} nodes")
    if len(numbers) < expected:
        last = lines.after("EDGE_WEIGHT_SECTION")
        lines.fail(last, f"{len(numbers)} weights, {name} has {expected} for {n} nodes")
    matrix = np.zeros((n, n))
    matrix[places] = numbers
    if shape != "full":
        matrix = matrix + matrix.T
    np.fill_diagonal(matrix, 0.0)
    return matrix


def _check_distances(lines: Lines, matrix: NDArray[np.float64], symmetric: bool) -> None:
    where = lines.headings["EDGE_WEIGHT_SECTION"]
    wrong = np.argwhere(matrix < 0)
    if len(wrong):
        i, j = (int(node) for node in wrong[0])
        lines.fail(where, f"the weight of {i + 1} to {j + 1} is {matrix[i, j]:g}, below 0")
    wrong = np.argwhere(matrix != matrix.T)
    if symmetric and len(wrong):
        i, j = (int(node) for node in wrong[0])
        lines.fail(
            where,
            f"the weights between {i + 1} and {j + 1} are {matrix[i, j]:g} and {matrix[j, i]:g}; "
            "TYPE TSP needs symmetric ones",
        )


def _check_demands(
    lines: Lines, demands: NDArray[np.float64], order: NDArray[np.int64], capacity: float
) -> None:
    """Demands in the order of the nodes, the depot first: 0 there, elsewhere 0 .. capacity."""
    at = [line for line, _ in lines.sections["DEMAND_SECTION"]]
    if demands[0] != 0:
        lines.fail(at[order[0]], f"the depot has demand {demands[0]:g}, expected 0")
    wrong = np.flatnonzero((demands < 0) | (demands > capacity))
    if len(wrong):
        node = int(order[wrong[0]])
        lines.fail(
            at[node],
            f"node {node + 1} has demand {demands[wrong[0]]:g}, outside 0 .. CAPACITY {capacity:g}",
        )


# -- solutions ------------------------------------------------------------------------------------


def read_solution(path: str | Path) -> Solution:
    """Routes and cost of a CVRPLIB solution (`.sol`).

    Args:
        path: lines "Route #1: 3 1 4" of customers, which are the nodes behind the depot, and a line
            "Cost 27591".

    Raises:
        ValueError: "FILE, line N: reason".
        FileNotFoundError: there is no such file.
        ImportError: vrplib is not installed.
    """
    lines = Lines(Path(path))
    seen: dict[int, int] = {}
    cost = False
    for number, raw in enumerate(lines.path.read_text(encoding="utf-8").splitlines(), start=1):
        lines.end, line = number, raw.strip()
        if not line or line.startswith("#"):
            continue
        if re.match(r"Route\s*#\d+\s*:", line):
            for word in line.split(":", 1)[1].split():
                customer = lines.integer(number, word, "a customer", 1)
                if customer in seen:
                    first = seen[customer]
                    lines.fail(number, f"customer {customer} is also in the route of line {first}")
                seen[customer] = number
        elif match := re.match(r"Cost[\s:]+(\S+)$", line, re.IGNORECASE):
            lines.number(number, match[1])
            cost = True
        elif not re.match(r"\w+[\s:]", line):
            lines.fail(number, f"{line[:40]!r} is neither a route nor the cost")
    if not seen:
        lines.fail(lines.end, "the file ends without a route")
    if not cost:
        lines.fail(lines.end, "the file ends without Cost")
    found = require("vrplib", extra="routing").read_solution(lines.path)
    routes = [np.array(route, dtype=np.int64) for route in found["routes"]]
    return Solution("cvrp", float(found["cost"]), routes=routes)


def read_lengths(path: str | Path) -> dict[str, float]:
    """Best known lengths of many instances: lines "name : length", as TSPLIB lists them.

    Args:
        path: of the list; what stands behind a length in brackets is a remark.

    Raises:
        ValueError: "FILE, line N: reason".
        FileNotFoundError: there is no such file.
    """
    lines = Lines(Path(path))
    found: dict[str, float] = {}
    for number, raw in enumerate(lines.path.read_text(encoding="utf-8").splitlines(), start=1):
        line = raw.strip()
        if not line:
            continue
        match = re.match(r"(\S+)\s*:\s*(\S+)\s*(\(.*\))?$", line)
        if match is None:
            lines.fail(number, f"{line[:40]!r} is not NAME : LENGTH")
        if match[1] in found:
            lines.fail(number, f"{match[1]} is there twice")
        found[match[1]] = lines.number(number, match[2])
    return found
