from __future__ import annotations

import numpy as np
import pytest

from palaestra.envs.cluster.generator import (
    SHARES,
    SIZES,
    data_centre,
    data_centres,
    rows_for,
    size_law,
)


@pytest.mark.parametrize("numa", [1, 2])
@pytest.mark.parametrize("load", [0.4, 0.7, 0.85])
def test_the_use_of_cores_comes_up_to_the_load_and_never_beyond(numa, load):
    for mapping in data_centres(10, seed=3, pms=20, load=load, numa=numa):
        use = 1 - mapping.free_cores.sum() / mapping.capacity_cores.sum()
        assert load - 0.02 < use <= load
        assert mapping.capacity_cores.tolist() == [[44, 44 * (numa == 2)]] * 20
        np.testing.assert_array_equal(mapping.memory, 2 * mapping.cores)
        assert len(mapping.cores) <= rows_for(20, load, numa)
        assert mapping.owner[0] == 0


def test_sizes_follow_the_law_and_large_vms_are_split():
    assert SHARES.sum() == pytest.approx(1.0)
    assert SHARES[SIZES <= 16].sum() == pytest.approx(0.8827)
    mapping = data_centre(np.random.default_rng(0), pms=400, load=0.85)
    np.testing.assert_array_equal(mapping.split, mapping.cores >= 32)
    shares = np.array([(mapping.cores == size).mean() for size in SIZES])
    # Large VMs fit nowhere late, so that they are somewhat rarer.
    np.testing.assert_allclose(shares, SHARES, atol=0.04)
    assert shares[-1] > 0


def test_one_node_takes_no_vm_that_would_have_to_be_split():
    sizes, shares = size_law(1)
    assert sizes.tolist() == [2, 4, 8, 16, 32]
    assert shares.sum() == pytest.approx(1.0)
    mapping = data_centre(np.random.default_rng(1), pms=30, numa=1)
    assert not mapping.split.any() and (mapping.node == 0).all()


def test_free_cores_are_shattered():
    rates = [mapping.fragment_rate for mapping in data_centres(10, seed=0, pms=60)]
    assert 0.25 < np.mean(rates) < 0.6


def test_conflicts_are_the_share_of_pairs_that_was_asked_for():
    for share in (0.02, 0.3, 1.0):
        mapping = data_centre(np.random.default_rng(2), pms=12, anti_affinity=share)
        pairs = len(mapping.cores) * (len(mapping.cores) - 1) / 2
        assert 0.85 * share * pairs < len(mapping.conflicts) <= np.ceil(share * pairs)
        assert len(np.unique(mapping.conflicts, axis=0)) == len(mapping.conflicts)
        assert (mapping.conflicts[:, 0] < mapping.conflicts[:, 1]).all()
    apart = mapping.owner[:, None] != mapping.owner[None, :]  # share 1: all that are apart
    assert len(mapping.conflicts) == np.triu(apart, 1).sum()


def test_a_data_set_is_fixed_by_its_seed_one_by_one():
    first, again = data_centres(3, seed=7, pms=4), data_centres(2, seed=8, pms=4)
    for mapping, other in zip(first[1:], again, strict=True):
        np.testing.assert_array_equal(mapping.owner, other.owner)
        np.testing.assert_array_equal(mapping.cores, other.cores)
    assert len({mapping.cores.tobytes() for mapping in first}) == 3


def test_vms_are_at_most_as_many_as_there_are_rows():
    for mapping in data_centres(5, seed=0, pms=6, vms=9):
        assert len(mapping.cores) <= 9
