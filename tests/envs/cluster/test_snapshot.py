"""A user's own cluster: files that are read, written and refused."""

from __future__ import annotations

import json

import gymnasium as gym
import numpy as np
import pytest

from palaestra.envs.cluster.generator import data_centre
from palaestra.envs.cluster.mapping import Mapping
from palaestra.envs.cluster.snapshot import read_snapshot, write_snapshot

GOOD = {
    "machines": [
        {"name": "host-a", "cores": [44, 44], "memory": [128, 128]},
        {"name": "host-b", "cores": 32, "memory": 64},
    ],
    "vms": [
        {"name": "web-1", "machine": "host-a", "cores": 8, "memory": 16, "node": 0},
        {"name": "db", "machine": "host-a", "cores": 32, "memory": 64, "node": "both"},
        {"name": "web-2", "machine": "host-b", "cores": 4, "memory": 8},
    ],
    "conflicts": [["web-1", "web-2"]],
}
MACHINES = "name,cores0,cores1,memory0,memory1\nhost-a,44,44,128,128\nhost-b,32,,64,\n"
VMS = (
    "name,machine,cores,memory,node\nweb-1,host-a,8,16,0\ndb,host-a,32,64,both\nweb-2,host-b,4,8,\n"
)
CONFLICTS = "vm,other\nweb-1,web-2\n"


def same(left, right):
    for name in ("capacity_cores", "capacity_memory", "cores", "memory", "owner", "node"):
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name))
    np.testing.assert_array_equal(left.conflicts, right.conflicts)
    assert left.machine_names == right.machine_names
    assert left.vm_names == right.vm_names


def json_file(tmp_path, content):
    path = tmp_path / "cluster.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def csv_folder(tmp_path, machines=MACHINES, vms=VMS, conflicts=CONFLICTS):
    folder = tmp_path / "cluster"
    folder.mkdir()
    for name, text in (("machines", machines), ("vms", vms), ("conflicts", conflicts)):
        if text is not None:
            (folder / f"{name}.csv").write_text(text)
    return folder


def test_json_and_csv_say_the_same(tmp_path):
    mapping = read_snapshot(json_file(tmp_path, GOOD))
    same(mapping, read_snapshot(csv_folder(tmp_path)))
    assert mapping.free_cores.tolist() == [[20, 28], [28, 0]]
    assert mapping.free_memory.tolist() == [[80, 96], [56, 0]]
    assert mapping.node.tolist() == [0, 2, 0]
    # (20 mod 16) + (28 mod 16) + (28 mod 16) of 76
    assert (mapping.fragments, mapping.fragment_rate) == (28, 28 / 76)


@pytest.mark.parametrize("name", ["again.json", "folder"])
def test_what_is_written_is_read_again(tmp_path, name):
    for given in (
        read_snapshot(json_file(tmp_path, GOOD)),
        data_centre(np.random.default_rng(0), pms=5, anti_affinity=0.1),
        data_centre(np.random.default_rng(1), pms=3, numa=1),
    ):
        write_snapshot(given, tmp_path / name)
        same(read_snapshot(tmp_path / name), given)


def test_an_environment_reads_a_snapshot(tmp_path):
    path = json_file(tmp_path, GOOD)
    env = gym.make("VMRescheduling-v0", mappings=str(path))
    observation, info = env.reset(seed=0)
    assert observation["owner"].tolist() == [0, 0, 1]
    assert info["action_mask"].tolist() == [[True, False], [True, False], [False, True]]
    two = gym.make("VMRescheduling-v0", mappings=[path, csv_folder(tmp_path)])
    assert len(two.unwrapped.core.mappings) == 2


def test_broken_json_is_refused_with_its_line(tmp_path):
    path = json_file(tmp_path, '{"machines": [\n],\n "vms" [] }')
    with pytest.raises(ValueError, match=r"cluster\.json, line 3: Expecting ':'"):
        read_snapshot(path)
    with pytest.raises(FileNotFoundError):
        read_snapshot(tmp_path / "missing.json")


@pytest.mark.parametrize(
    ("part", "index", "change", "message"),
    [
        ("machines", 0, {"cores": [44, 44, 44]}, r"machines\[0\]: cores of one or two NUMA nodes"),
        ("machines", 0, {"cores": [44.5, 44]}, r"machines\[0\]: cores must be a whole number"),
        ("machines", 1, {"memory": -1}, r"machines\[1\]: memory must be a whole number.*-1"),
        ("machines", 1, {"name": "host-a"}, r"machines\[1\]: a second machine .*'host-a'"),
        ("machines", 1, {"core": 3}, r"machines\[1\]: unknown core; allowed are name, cores"),
        ("vms", 2, {"machine": "host-c"}, r"vms\[2\]: there is no machine 'host-c'"),
        ("vms", 0, {"node": 2}, r"vms\[0\]: node is 0, 1 or both; got '2'"),
        ("vms", 0, {"node": ""}, r"vms\[0\]: node .*two NUMA nodes"),
        ("vms", 0, {"memory": 7.5}, r"vms\[0\]: memory .*7\.5.*smaller unit"),
        ("vms", 0, {"cores": True}, r"vms\[0\]: cores must be a whole number"),
        (
            "vms",
            0,
            {"cores": 30},
            r"cluster\.json: host-a: the VMs on NUMA node 0 use 46 of 44 cores",
        ),
        ("vms", 0, {"memory": 100}, r"host-a: .* node 0 use 132 of 128 memory"),
        ("vms", 1, {"cores": 31}, r"db is split over both nodes, so its 31 cores .* even"),
        ("vms", 2, {"node": 1}, r"host-b: the VMs on NUMA node 1 use 4 of 0 cores"),
        ("vms", 2, {"cores": 0}, r"web-2 has 0 cores"),
    ],
)
def test_a_wrong_entry_is_refused_with_its_place(tmp_path, part, index, change, message):
    content = json.loads(json.dumps(GOOD))
    content[part][index] |= change
    with pytest.raises(ValueError, match=message) as caught:
        read_snapshot(json_file(tmp_path, content))
    assert str(tmp_path / "cluster.json") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("conflicts", "message"),
    [
        ([["web-1"]], r"conflicts\[0\]: a pair of names"),
        ([["web-1", "web-3"]], r"conflicts\[0\]: there is no VM 'web-3'"),
        ([["web-1", "db"]], "web-1 and db are in conflict, but both are on host-a"),
        ([["db", "db"]], "db is in conflict with itself"),
        ({"web-1": "db"}, "conflicts: a list"),
    ],
)
def test_wrong_conflicts_are_refused(tmp_path, conflicts, message):
    with pytest.raises(ValueError, match=message):
        read_snapshot(json_file(tmp_path, {**GOOD, "conflicts": conflicts}))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"machines": "name,cores0\n"}, r"machines\.csv, line 1: memory0 missing"),
        ({"vms": VMS.replace("db,host-a", "db,host-x")}, r"vms\.csv, line 3: .*'host-x'"),
        ({"vms": VMS + "x,host-b,4\n"}, r"vms\.csv, line 5: 3 fields, the header has 5"),
        ({"vms": VMS.replace(",4,8", ",four,8")}, r"vms\.csv, line 4: cores .*'four'"),
        ({"vms": VMS.replace("db,", "web-1,")}, r"vms\.csv, line 3: a second VM .*'web-1'"),
        ({"conflicts": "vm,other\nweb-1,x\n"}, r"conflicts\.csv, line 2: there is no VM 'x'"),
        ({"machines": "name,cores0,memory0,colour\n"}, r"line 1: unknown colour"),
        ({"vms": ""}, r"vms\.csv, line 1: name, machine, cores, memory missing"),
        ({"vms": VMS.splitlines()[0]}, "2 machines and 0 VMs"),
    ],
)
def test_a_wrong_csv_is_refused_with_file_and_line(tmp_path, files, message):
    with pytest.raises(ValueError, match=message):
        read_snapshot(csv_folder(tmp_path, **files))


def test_conflicts_may_be_left_out_and_files_may_not(tmp_path):
    folder = csv_folder(tmp_path, conflicts=None)
    assert len(read_snapshot(folder).conflicts) == 0
    (folder / "vms.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"vms\.csv"):
        read_snapshot(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cores": [4.5]}, r"cores must be whole numbers, got \[4.5\]"),
        ({"memory": [np.nan]}, "memory must be whole numbers"),
        ({"owner": [1]}, r"vm0: machine 1 is outside 0 \.\. 0"),
        ({"owner": [-1]}, "vm0: machine -1"),
        ({"node": [3]}, r"vm0: NUMA node 3 is outside 0 \.\. 2"),
        ({"memory": [1, 2]}, r"memory has shape \(2,\), allowed here is \(1,\)"),
        ({"capacity_cores": [[4, 4, 4]]}, r"capacity_cores has shape \(1, 3\)"),
        ({"vm_names": ("a", "b")}, "vm_names holds 2 different names for 1"),
        ({"conflicts": [[0, 1]]}, "conflicts name VMs outside"),
    ],
)
def test_a_mapping_refuses_what_cannot_be(changes, message):
    good = {
        "capacity_cores": [[8, 0]],
        "capacity_memory": [[8, 0]],
        "cores": [4],
        "memory": [4],
        "owner": [0],
        "node": [0],
    }
    assert Mapping(**good).free_cores.tolist() == [[4, 0]]
    with pytest.raises(ValueError, match=message):
        Mapping(**{**good, **changes})
