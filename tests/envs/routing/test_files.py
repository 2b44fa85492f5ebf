"""Reading TSPLIB, ATSPLIB and CVRPLIB files, broken ones too."""

from pathlib import Path

import numpy as np
import pytest

from palaestra.envs.routing.files import read_cvrplib, read_lengths, read_solution, read_tsplib

DATA = Path(__file__).parents[4] / "shared" / "data" / "routing"
NEEDS_DATA = pytest.mark.skipif(not DATA.exists(), reason=f"no data in {DATA}")

TSP = """NAME : square
COMMENT : four corners: EOF is not the end
COMMENT : of the city
TYPE : TSP (made up)
DIMENSION : 4
EDGE_WEIGHT_TYPE : EUC_2D
NODE_COORD_SECTION
1 0 0
2 0.0 3.6e0
4 3.6 0
3 3.6 3.6
EOF
behind the end nothing is read
"""
CVRP = """NAME : small
TYPE : CVRP
DIMENSION : 4
EDGE_WEIGHT_TYPE : EUC_2D
CAPACITY : 10
NODE_COORD_SECTION
1 0 0
2 3 4
3 6 8
4 0 5
DEMAND_SECTION
1 4
2 5
3 0
4 6
DEPOT_SECTION
 3
 -1
EOF
"""
EXPLICIT = """NAME: matrix
TYPE: {kind}
DIMENSION: 3
EDGE_WEIGHT_TYPE: EXPLICIT
EDGE_WEIGHT_FORMAT: {format}
EDGE_WEIGHT_SECTION
{weights}
EOF
"""


@pytest.fixture
def write(tmp_path):
    def write(text, name="file.tsp"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def test_a_file_with_coordinates(write):
    found = read_tsplib(write(TSP))
    assert (found.name, found.kind, found.nodes) == ("square", "tsp", 4)
    assert found.edge_weight_type == "EUC_2D"
    assert found.comment == "four corners: EOF is not the end of the city"
    np.testing.assert_allclose(found.coordinates, [[0, 0], [0, 3.6], [3.6, 3.6], [3.6, 0]])
    assert found.matrix[0].tolist() == [0, 4, 5, 4]  # 3.6 and 5.09, rounded
    assert found.distances([0, 1, 2, 3], [1, 2, 3, 0]).sum() == 16


@pytest.mark.parametrize(
    ("format", "weights"),
    [
        ("FULL_MATRIX", "9 1 2\n1 9 3 2\n3 9"),
        ("UPPER_ROW", "1 2 3"),
        ("UPPER_DIAG_ROW", "0 1 2 0 3 0"),
        ("LOWER_ROW", "1\n2 3"),
        ("LOWER_DIAG_ROW", "0 1 0\n2 3 0"),
        ("UPPER_COL", "1 2 3"),
        ("UPPER_DIAG_COL", "0 1 0 2 3 0"),
        ("LOWER_COL", "1 2\n3"),
        ("LOWER_DIAG_COL", "0 1 2 0 3 0"),
    ],
)
def test_every_format_of_explicit_weights_gives_the_same_matrix(write, format, weights):
    found = read_tsplib(write(EXPLICIT.format(kind="TSP", format=format, weights=weights)))
    assert found.coordinates is None
    assert found.matrix.tolist() == [[0, 1, 2], [1, 0, 3], [2, 3, 0]]


def test_an_asymmetric_matrix_is_an_atsp_and_no_tsp(write):
    full = {"format": "FULL_MATRIX", "weights": "0 1 2\n5 0 3\n4 6 0"}
    found = read_tsplib(write(EXPLICIT.format(kind="ATSP", **full)))
    assert found.kind == "atsp"
    assert found.matrix.tolist() == [[0, 1, 2], [5, 0, 3], [4, 6, 0]]
    with pytest.raises(ValueError, match=r"line 6: .*between 1 and 2 are 1 and 5.*symmetric"):
        read_tsplib(write(EXPLICIT.format(kind="TSP", **full)))


def test_the_depot_becomes_node_0(write):
    found = read_cvrplib(write(CVRP))
    assert found.demands.tolist() == [0, 4, 5, 6]
    assert found.coordinates.tolist() == [[6, 8], [0, 0], [3, 4], [0, 5]]
    assert found.matrix[0].tolist() == [0, 10, 5, 7]
    assert (found.kind, found.capacity) == ("cvrp", 10)


def test_a_large_file_has_coordinates_and_no_matrix(write):
    rows = "\n".join(f"{i + 1} {i} 0" for i in range(3_001))
    head = TSP.split("1 0 0")[0].replace("DIMENSION : 4", "DIMENSION : 3001")
    found = read_tsplib(write(head + rows))
    assert found.matrix is None
    assert found.distances(0, 3_000) == 3_000


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("DIMENSION : 4", "DIMENSION : four", r"line 5: 'four' is not a number"),
        ("DIMENSION : 4", "DIMENSION : 4.5", r"line 5: DIMENSION is 4.5, .*integer"),
        ("DIMENSION : 4", "DIMENSION : 1", r"line 5: DIMENSION is 1, .*at least 2"),
        ("DIMENSION : 4", "DIMENSION : 5", r"line 11: NODE_COORD_SECTION has 4 nodes.* is 5"),
        ("DIMENSION : 4", "DIMENSION : 3", r"line 10: node 4 is above DIMENSION 3"),
        ("DIMENSION : 4\n", "", r"line 11: the file ends without DIMENSION"),
        ("EUC_2D", "EUC_3D", r"line 6: unknown EDGE_WEIGHT_TYPE 'EUC_3D', allowed are EUC_2D"),
        ("TYPE : TSP (made up)", "TYPE : HCP", r"line 4: unknown TYPE 'HCP', allowed are TSP and"),
        ("NAME : square", "NAME : a\nNAME : b", r"line 2: NAME is there twice, first in line 1"),
        ("1 0 0", "1 0", r"line 8: 2 entries in NODE_COORD_SECTION, expected 3"),
        ("1 0 0", "1 0 north", r"line 8: 'north' is not a number"),
        ("1 0 0", "1 0 inf", r"line 8: 'inf' is not a finite number"),
        ("3 3.6 3.6", "2 3.6 3.6", r"line 11: node 2 is there twice, first in line 9"),
        ("NODE_COORD_SECTION", "NODES_SECTION", r"line 7: unknown section NODES_SECTION"),
        ("NODE_COORD_SECTION", "", r"line 8: '1 0 0' is neither"),
    ],
)
def test_a_broken_file_is_refused_with_line_and_reason(write, old, new, message):
    path = write(TSP.replace(old, new))
    with pytest.raises(ValueError, match=message) as caught:
        read_tsplib(path)
    assert str(caught.value).startswith(f"{path}, line ")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("CAPACITY : 10\n", "", r"the file ends without CAPACITY"),
        ("CAPACITY : 10", "CAPACITY : 0", r"line 5: CAPACITY is 0, it must be above 0"),
        ("CAPACITY : 10", "CAPACITY : 5", r"line 15: node 4 has demand 6, outside 0 .. CAPACITY 5"),
        ("2 5\n", "2 -5\n", r"line 13: node 2 has demand -5, outside"),
        ("3 0\n", "3 1\n", r"line 14: the depot has demand 1, expected 0"),
        ("4 6\n", "", r"line 14: DEMAND_SECTION has 3 nodes, DIMENSION is 4"),
        (" 3\n -1", " 3\n 4\n -1", r"line 19: there are 2 depots, expected 1"),
        (" 3\n -1", " 7\n -1", r"line 17: depot 7 is no node 1 .. 4"),
        ("DEPOT_SECTION\n 3\n -1\n", "", r"the file ends without DEPOT_SECTION"),
        ("TYPE : CVRP", "TYPE : TSP", r"line 2: unknown TYPE 'TSP', allowed are CVRP"),
    ],
)
def test_a_broken_vehicle_file_is_refused_with_line_and_reason(write, old, new, message):
    with pytest.raises(ValueError, match=message):
        read_cvrplib(write(CVRP.replace(old, new)))


@pytest.mark.parametrize(
    ("format", "weights", "message"),
    [
        ("UPPER_ROW", "1 2", r"line 7: 2 weights, UPPER_ROW has 3 for 3 nodes"),
        ("UPPER_ROW", "1 2\n3 4", r"line 8: more than the 3 weights that UPPER_ROW has"),
        ("UPPER_ROW", "1 x 3", r"line 7: 'x' is not a number"),
        ("UPPER_ROW", "1 -2 3", r"line 6: the weight of 1 to 3 is -2, below 0"),
        ("FUNCTION", "1 2 3", r"line 5: unknown EDGE_WEIGHT_FORMAT 'FUNCTION', allowed are FULL"),
        ("UPPER_ROW", "", r"line 6: 0 weights"),
    ],
)
def test_broken_explicit_weights_are_refused(write, format, weights, message):
    with pytest.raises(ValueError, match=message):
        read_tsplib(write(EXPLICIT.format(kind="TSP", format=format, weights=weights)))


def test_what_is_no_text_and_what_is_not_there(tmp_path):
    path = tmp_path / "bytes.tsp"
    path.write_bytes(b"NAME : a\nCOMMENT : \xff\xfe\n")
    with pytest.raises(ValueError, match="line 2: this is not text"):
        read_tsplib(path)
    with pytest.raises(FileNotFoundError):
        read_tsplib(tmp_path / "missing.tsp")


def test_a_solution_file(write):
    found = read_solution(write("Route #1: 3 1\nRoute #2: 2\nCost 27.5\n"))
    assert [route.tolist() for route in found.routes] == [[3, 1], [2]]
    assert (found.kind, found.objective) == ("cvrp", 27.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Route #1: 3 1\n", "line 1: the file ends without Cost"),
        ("Cost 3\n", "line 1: the file ends without a route"),
        ("Route #1: 3 a\nCost 3", "line 1: 'a' is not a number"),
        ("Route #1: 3 0\nCost 3", "line 1: a customer is 0"),
        ("Route #1: 3\nRoute #2: 3\nCost 3", "line 2: customer 3 is also in the route of line 1"),
        ("Route #1: 3\nCost three", "line 2: 'three' is not a number"),
        ("Route #1: 3\n%%%\nCost 3", "line 2: '%%%' is neither a route nor the cost"),
    ],
)
def test_a_broken_solution_is_refused_with_line_and_reason(write, text, message):
    with pytest.raises(ValueError, match=message):
        read_solution(write(text))


def test_a_list_of_lengths(write):
    text = "a280 : 2579\n\ndsj1000 : 18660188 (CEIL_2D)\n"
    assert read_lengths(write(text)) == {"a280": 2579, "dsj1000": 18660188}
    with pytest.raises(ValueError, match="line 2: 'b 3' is not NAME : LENGTH"):
        read_lengths(write("a : 1\nb 3"))
    with pytest.raises(ValueError, match="line 2: a is there twice"):
        read_lengths(write("a : 1\na : 2"))


@pytest.mark.real_data
@NEEDS_DATA
def test_every_real_tsplib_file_is_read():
    lengths = read_lengths(DATA / "tsplib" / "solutions.txt")
    lengths |= read_lengths(DATA / "atsplib" / "solutions.txt")
    paths = [*DATA.glob("tsplib/*.tsp"), *DATA.glob("atsplib/*.atsp")]
    assert len(paths) == 55
    for path in paths:
        found = read_tsplib(path)
        assert found.kind == path.suffix[1:]
        assert found.matrix.shape == (found.nodes, found.nodes)
        # What every tour must pay at least: the shortest edge out of every node.
        off = np.where(np.eye(found.nodes, dtype=bool), np.inf, found.matrix)
        assert off.min(axis=1).sum() <= lengths[path.stem]


@pytest.mark.real_data
@NEEDS_DATA
def test_best_known_routes_have_their_cost_in_the_rounding_of_the_file():
    paths = sorted(DATA.glob("cvrplib/X-n[123]*.vrp"))
    assert len(paths) > 30
    for path in paths:
        instance, best = read_cvrplib(path), read_solution(path.with_suffix(".sol"))
        walks = [np.concatenate([[0], route, [0]]) for route in best.routes]
        cost = sum(instance.distances(walk[:-1], walk[1:]).sum() for walk in walks)
        assert cost == best.objective
        assert max(instance.demands[route].sum() for route in best.routes) <= instance.capacity
        visited = np.sort(np.concatenate(best.routes))
        np.testing.assert_array_equal(visited, np.arange(1, instance.nodes))


# Tours of the published optimal length: one unit of wrong rounding on any edge would show.
OPTIMAL = {
    "att48": (
        *(0, 8, 39, 14, 11, 10, 12, 24, 13, 22, 2, 21, 15, 40, 33, 28, 1, 25, 3, 34, 44, 9, 23),
        *(41, 4, 47, 38, 31, 20, 46, 19, 32, 45, 35, 29, 42, 16, 26, 18, 36, 5, 27, 6, 17, 43),
        *(30, 37, 7),
    ),
    "ulysses16": (0, 13, 12, 11, 6, 5, 14, 4, 10, 8, 9, 15, 2, 1, 3, 7),
}


@pytest.mark.real_data
@NEEDS_DATA
@pytest.mark.parametrize(("name", "kind"), [("att48", "ATT"), ("ulysses16", "GEO")])
def test_optimal_tours_have_their_published_length(name, kind):
    instance = read_tsplib(DATA / "tsplib" / f"{name}.tsp")
    assert instance.edge_weight_type == kind
    tour = np.array(OPTIMAL[name])
    np.testing.assert_array_equal(np.sort(tour), np.arange(instance.nodes))
    published = read_lengths(DATA / "tsplib" / "solutions.txt")[name]
    assert instance.distances(tour, np.roll(tour, -1)).sum() == published
